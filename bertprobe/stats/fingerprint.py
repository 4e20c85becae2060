"""The fingerprint of an array: the SHA-256 of its shape and its values, whatever type they are stored in.

Two arrays have the same fingerprint where they have the same shape and, as float64, the same bits; every NaN counts as
one and the same. So a lossless cast changes nothing, and one flipped bit of a number changes everything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from bertprobe.stats.sums import Array, as_matrix, checked, tiles, widened

NARROW, WIDE, WHOLE, UNSIGNED = (np.dtype(name) for name in ("<f4", "<f8", "<i8", "<u8"))


def fingerprint(array: Array) -> str:
    """64 hexadecimal digits: SHA-256 of the type, a newline, the shape, a newline and the values, row after row.

    The type is `<f4` where float32 holds every value, which the values then are, else `<f8`; of whole numbers and
    truth values it is `<i8`, of those beyond it `<u8`. The shape is in decimal with commas: `384,1536`.
    Raises `UnsupportedFile` for elements that are not real numbers.
    """
    matrix = as_matrix(checked(array))
    dtype = _narrowest(matrix)
    digest = hashlib.sha256(f"{dtype.str}\n{','.join(map(str, array.shape))}\n".encode())
    for block in _blocks(matrix):
        values = np.ascontiguousarray(block, dtype)
        with np.errstate(invalid="ignore"):
            broken = dtype.kind == "f" and np.isnan(values.min())
        if broken:
            values = np.where(np.isnan(values), dtype.type(np.nan), values)
        digest.update(values.data.cast("B"))
    return digest.hexdigest()


def _blocks(matrix: Array) -> Iterator[Any]:
    """The elements in rows, a few at a time, numbers that are no integers as float32 or float64."""
    whole = matrix.dtype.kind in "iub"
    for tile in tiles(*matrix.shape):
        yield matrix[tile] if whole else widened(matrix[tile])


def _narrowest(matrix: Array) -> np.dtype[Any]:
    """The narrowest of the four types that holds every value."""
    if matrix.dtype.kind in "iub":
        large = matrix.dtype.kind == "u" and matrix.dtype.itemsize == 8 and matrix.size and matrix.max() >= 2**63
        return UNSIGNED if large else WHOLE
    for block in _blocks(matrix):
        if block.dtype.itemsize == 4:
            return NARROW  # as all blocks are: the stored type is one that float32 holds
        with np.errstate(over="ignore", invalid="ignore"):
            exact = block.astype(np.float32) == block
        if not exact.all() and not np.isnan(block[~exact]).all():
            return WIDE
    return NARROW
