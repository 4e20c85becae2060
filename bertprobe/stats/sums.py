"""The sums of an array in one pass, block by block: its `Summary`, and the squares of its rows and columns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bertprobe.errors import UnsupportedFile
from bertprobe.stats.summary import EMPTY, Summary

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

# Elements that are looked at together, in two float64 buffers: small enough for the cache, large enough that two
# threads do not wait for each other between numpy calls. 24 matrices of 3072 x 768 on one thread and on two, in ms:
# 32k 82, 84; 64k 73, 78; 128k 72, 45; 256k 67, 41, with twice the memory.
BLOCK = 131_072


def is_real(dtype: np.dtype[Any]) -> bool:
    """Whether elements of this type are real numbers: all but complex ones, texts and objects."""
    return dtype.kind in "biuf" or (dtype.type.__module__ == "ml_dtypes" and "complex" not in dtype.name)


def checked(array: Array) -> Array:
    """The array, or `UnsupportedFile` for elements that are not real numbers."""
    if is_real(array.dtype):
        return array
    name = array.dtype.name
    raise UnsupportedFile(f"elements of type {name} have no mean or norm here", "only real numbers are measured")


def as_matrix(array: Array) -> Array:
    """The same elements as a matrix: vectors and scalars as one row, more axes as (shape[0], rest)."""
    if array.ndim < 2:
        return array.reshape(1, array.size)
    return array.reshape(array.shape[0], math.prod(array.shape[1:]))


def widened(array: Array) -> Array:
    """The same values as native float32 or float64, whichever holds them; no copy where they are that already."""
    if array.dtype in (np.dtype(np.float32), np.dtype(np.float64)):
        return array
    if array.dtype.name.startswith("float8"):
        # A look-up: ml_dtypes' own conversion takes ten times as long (19 against 1.7 ms for 3072 x 768).
        table = np.arange(256, dtype=np.uint8).view(array.dtype).astype(np.float32)
        return table.take(array.view(np.uint8))
    exact_in_32 = array.dtype.kind == "V" or array.dtype.itemsize <= (4 if array.dtype.kind == "f" else 2)
    return array.astype(np.float32 if exact_in_32 else np.float64)


def operand(matrix: Array) -> Array:
    """The matrix as one that both passes take; wide integers stay, as float64 they would take twice the memory."""
    wide_integers = matrix.dtype.kind in "iu" and matrix.itemsize > 2
    return matrix if wide_integers else widened(matrix)


def sums_of(matrix: Array, *, columns: bool = False) -> tuple[Summary, Floats, Floats]:
    """The summary of a matrix (m, k) and the sums of squares of its rows (m,), in blocks that stay in cache.

    With `columns` those of its columns (k,) too; else the third is empty.
    """
    m, k = matrix.shape
    squares, across = np.zeros(m), np.zeros(k if columns else 0)
    work = _Buffers.of(min(BLOCK, matrix.size))
    turned = abs(matrix.strides[0]) < abs(matrix.strides[1]) and m > 1
    walked = matrix.T if turned else matrix
    total = EMPTY
    with np.errstate(all="ignore"):
        for tile in tiles(*walked.shape):
            summary, sums, others = work.block(widened(walked[tile]), axis=0 if turned else 1, both=columns)
            squares[tile[1] if turned else tile[0]] += sums
            if columns:
                across[tile[0] if turned else tile[1]] += others
            total += summary
    return total, squares, across


def tiles(rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Pieces of at most `BLOCK` elements: whole rows where a row fits, else parts of one."""
    if not rows * columns:
        return
    width = min(columns, BLOCK)
    height = max(1, BLOCK // width)
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            yield slice(top, top + height), slice(left, left + width)


@dataclass(frozen=True, slots=True)
class _Buffers:
    """The buffers of one pass: a block in float64, its squares, and ones to sum with by matrix product."""

    values: Floats
    squares: Floats
    ones: Floats

    @classmethod
    def of(cls, size: int) -> _Buffers:
        return cls(np.empty(size), np.empty(size), np.ones(size))

    def block(self, x: Array, axis: int, both: bool) -> tuple[Summary, Floats, Floats | float]:
        """The summary of a block and its sums of squares along an axis, NaN where that meets a non-finite value.

        With `both` the sums along the other axis, too.
        """
        low, high = float(x.min()), float(x.max())
        if math.isfinite(low) and math.isfinite(high):
            return self._finite_block(x, axis, both, low, high)
        finite = np.isfinite(x)
        sums = np.where(finite.all(axis), np.square(x, dtype=np.float64).sum(axis), np.nan)
        kept = x[finite][np.newaxis]
        lost = replace(EMPTY, count=x.size - kept.size, nonfinite=x.size - kept.size)
        if not kept.size:
            return lost, sums, math.nan
        summary, _, _ = self._finite_block(kept, 1, False, float(kept.min()), float(kept.max()))
        return summary + lost, sums, math.nan

    def _finite_block(
        self, x: Array, axis: int, both: bool, low: float, high: float
    ) -> tuple[Summary, Floats, Floats | float]:
        n = x.size
        values, squares, ones = self.values[:n], self.squares[:n], self.ones[:n]
        np.copyto(values.reshape(x.shape), x)
        np.multiply(values, values, out=squares)
        table = squares.reshape(x.shape)
        along, down = ones[: x.shape[1]], ones[: x.shape[0]]
        sums = np.dot(table, along) if axis else np.dot(down, table)
        others = (np.dot(down, table) if axis else np.dot(table, along)) if both else math.nan
        # Comparing first is four times as fast on floats, and leaves other threads the interpreter.
        zeros = int(np.count_nonzero(x == 0)) if low <= 0 <= high else 0
        return Summary(n, 0, zeros, *self._moments(n, float(sums.sum()), low, high), low, high), sums, others

    def _moments(self, n: int, s2: float, low: float, high: float) -> tuple[float, float, float, float]:
        """Mean and central power sums of the first n values, whose squares are there and sum to s2."""
        if low == high:  # exactly: a mean off by one rounding would give a constant a variance
            return low, 0.0, 0.0, 0.0
        values, squares, ones = self.values[:n], self.squares[:n], self.ones[:n]
        shift, mean = 0.0, float(np.dot(values, ones)) / n
        # Sums about 0 lose no more than one bit to cancellation unless the mean outweighs the spread.
        if 2 * mean * mean > s2 / n:
            shift = mean
            np.subtract(values, shift, out=values)
            np.multiply(values, values, out=squares)
            mean, s2 = float(np.dot(values, ones)) / n, float(np.dot(squares, ones))
        s3, s4 = float(np.dot(values, squares)), float(np.dot(squares, squares))
        m2 = s2 - n * mean * mean
        m3 = s3 - 3 * mean * s2 + 2 * n * mean * mean * mean
        m4 = s4 - 4 * mean * s3 + 6 * mean * mean * s2 - 3 * n * mean * mean * mean * mean
        return shift + mean, max(m2, 0.0), m3, max(m4, 0.0)
