"""Whether the numbers that a quantisation left are those of another tensor, rounded as that quantisation rounds.

A quantisation gives each block of numbers a grid of 2^bits values, some 2 · |max| / (2^bits − 1) apart. What it rounds
moves by up to half a step, √(step² / 12) on average, and by somewhat more where a library searches for a better scale,
rounds the scale itself, or clips the largest number. A model that was trained since moves further, or is hidden in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bertprobe.stats.sums import widened

if TYPE_CHECKING:
    from bertprobe.checkpoint import TensorHeader
    from bertprobe.compare.delta import Delta

MOST_STEPS = 2.0  # that a number may move; clipped ones of Q4_0 move by one, those of K blocks by up to 1.7
MOST_BEYOND = 1e-3  # of the numbers of nested blocks that may move further; all-MiniLM-L6-v2 has up to 0.0004 in Q2_K
MOST_EXPECTED = 1.5  # of the root mean square that rounding leaves: K blocks come to 1.2
ROWS_AT_ONCE = 2**20  # elements
LOOKED_AT = 64  # blocks whose numbers tell the step, and of each so many numbers
MOST_LOOKED_AT = 4096


def rounded_by_quantisation(found: Delta, a: Any, b: Any, headers: tuple[TensorHeader, TensorHeader]) -> Delta:
    """The difference with `rounding` and `steps`, where one of two arrays is the other quantised; else as it is.

    Both have the same shape, in which the headers have turned them.
    """
    grids = [header.derived.grid if header.derived is not None else None for header in headers]
    explained = found.identical or found.nonfinite_mismatch or found.rounding is not None
    which = 0 if grids[0] is not None else 1
    made, original, header, grid = (a, b)[which], (b, a)[which], headers[which], grids[which]
    if explained or grid is None or grids[1 - which] is not None:
        return found
    largest, beyond, expected = _in_steps(_stored(made, header), _stored(original, header), grid.bits, grid.block)
    if beyond > (MOST_BEYOND if grid.nested else 0) or expected > MOST_EXPECTED:
        return replace(found, steps=largest)
    return replace(found, rounding=header.stored_as, rounded="ab"[which], steps=largest)


def _stored(array: Any, header: TensorHeader) -> Any:
    """The array as a matrix in the orientation that is stored, along whose rows the blocks lie."""
    if header.axes is not None:
        array = array.transpose(np.argsort(header.axes))
    return array.reshape(-1, array.shape[-1]) if array.ndim > 1 else array.reshape(1, -1)


def _in_steps(made: Any, original: Any, bits: int, block: tuple[int, int]) -> tuple[float, float, float]:
    """The largest difference in steps of its block, the share of numbers that move by more than `MOST_STEPS`, and the
    root mean square against that of rounding."""
    rows, columns = made.shape
    tall, wide = (n or whole for n, whole in zip(block, made.shape, strict=True))
    starts = np.arange(0, columns, wide)
    widths = np.diff([*starts.tolist(), columns])
    largest = dd = expected = 0.0
    beyond = 0
    peaks = np.zeros((-(-rows // tall), len(starts)))
    for band, x, _ in _bands(made, original):
        peak = np.maximum.reduceat(np.abs(x), starts, axis=1)
        np.maximum.at(peaks, np.arange(band.start, band.stop) // tall, peak)
    steps = 2 * peaks / (2**bits - 1) * _finer(made, bits, (tall, wide))
    for band, x, y in _bands(made, original):
        step = np.repeat(steps[np.arange(band.start, band.stop) // tall], widths, axis=1)
        d = np.abs(y - x)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(d > 0, d / step, 0)
        largest = max(largest, float(share.max(initial=0)))
        beyond += int(np.count_nonzero(share > MOST_STEPS))
        dd += float(np.vdot(d, d))
        expected += float(np.vdot(step, step)) / 12
    return largest, beyond / made.size, math.sqrt(dd / expected) if expected else math.inf


def _finer(made: Any, bits: int, block: tuple[int, int]) -> float:
    """The step of blocks by their numbers over that by their bits: 2 where a library leaves one of the bits unused.

    1 where so many numbers share no scale that two of them would lie next to each other.
    """
    tall, wide = block
    if tall * wide < 2 ** (bits // 2 + 1):
        return 1.0
    finest = math.inf
    for number in range(LOOKED_AT):
        row, column = divmod(number, -(-made.shape[1] // wide))
        part = made[row * tall : (row + 1) * tall, column * wide : (column + 1) * wide].reshape(-1)[:MOST_LOOKED_AT]
        values = np.unique(widened(part).astype(np.float64))
        peak = float(np.abs(values).max(initial=0))
        gaps = np.diff(values)
        gaps = gaps[gaps > peak * 2.0**-bits / 8]
        if gaps.size:
            finest = min(finest, float(gaps.min()) * (2**bits - 1) / (2 * peak))
    return min(max(finest, 0.5), 4.0) if math.isfinite(finest) else 1.0


def _bands(made: Any, original: Any) -> Iterator[tuple[slice, Any, Any]]:
    """Some rows of both at a time, as float64."""
    rows, columns = made.shape
    height = max(1, ROWS_AT_ONCE // max(columns, 1))
    for top in range(0, rows, height):
        band = slice(top, min(top + height, rows))
        yield band, widened(made[band]).astype(np.float64), widened(original[band]).astype(np.float64)
