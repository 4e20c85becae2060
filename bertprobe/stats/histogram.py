"""How often values fall into bins, counted once and brought to any wider bins later."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bertprobe.stats.sums import Array, as_matrix, checked, operand, tiles, widened

HISTOGRAM_BINS = 2**13  # to each side of zero
BINS_A_STD = 64


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """How often values fall into bins of one width, a power of two, whose edges are its multiples.

    `counts` are (n,) int64: bin i holds what lies in [(first + i) · width, (first + i + 1) · width). `below` and
    `above` count the finite values outside. Since widths are powers of two, `at` brings histograms of different arrays
    to one width, and to the same bins, without looking at the arrays again.
    """

    width: float
    first: int
    counts: npt.NDArray[np.int64]
    below: int = 0
    above: int = 0

    def at(self, width: float) -> Histogram:
        """The same counts in wider bins; `width` is this one's times a power of two."""
        times = round(width / self.width)
        first = self.first // times
        places = (np.arange(len(self.counts)) + self.first) // times - first
        counts = np.bincount(places, self.counts).astype(np.int64)
        return Histogram(width, first, counts, self.below, self.above)


def histogram(array: Array, std: float) -> Histogram:
    """The histogram of all finite elements, `BINS_A_STD` bins or more to a standard deviation, as far as 64 of them."""
    exponent = math.frexp(std / BINS_A_STD)[1] - 1 if std else 0
    last = HISTOGRAM_BINS
    counts = np.zeros(2 * last + 2, np.int64)  # the outer two are what lies beyond
    matrix = operand(as_matrix(checked(array)))
    with np.errstate(all="ignore"):
        for tile in tiles(*matrix.shape):
            x = widened(matrix[tile])
            places = np.floor(np.ldexp(x[np.isfinite(x)], -exponent))
            counts += np.bincount((places.clip(-last - 1, last) + last + 1).astype(np.int64), minlength=len(counts))
    held = np.flatnonzero(counts[1:-1])
    lo, hi = (int(held[0]), int(held[-1]) + 1) if held.size else (0, 0)
    return Histogram(math.ldexp(1.0, exponent), lo - last, counts[1:-1][lo:hi], int(counts[0]), int(counts[-1]))
