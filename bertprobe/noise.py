"""What random numbers would have for singular values: the null that a spectrum is held against.

Everything is for entries of standard deviation 1, so that no scale of the weights can overflow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

Shape = tuple[int, int]


def edge(shape: Shape) -> float:
    """The Marchenko–Pastur edge √m + √k: the largest singular value that independent entries tend to."""
    return math.sqrt(shape[0]) + math.sqrt(shape[1])


def noise_sigmas(shape: Shape, ranks: Sequence[float]) -> Floats:
    """The singular values at these ranks (0 the largest, fractions allowed) of noise of std 1 and this shape (m, k).

    Quantiles of the law of Marchenko & Pastur (1967): singular values s of independent entries have the density
    √((b² − s²)(s² − a²)) / (π · min(m, k) · s) between a = |√m − √k| and b = √m + √k.
    """
    import numpy as np

    high, low = edge(shape), abs(math.sqrt(shape[0]) - math.sqrt(shape[1]))
    # s² = centre + half · cos θ makes the density smooth at both ends.
    theta = np.linspace(0, math.pi, 4097)
    squares = (high**2 + low**2) / 2 + (high**2 - low**2) / 2 * np.cos(theta)
    weight = np.sin(theta) ** 2 / np.maximum(squares, 1e-12 * high**2)
    share = np.concatenate([[0.0], np.cumsum((weight[1:] + weight[:-1]) / 2)])
    place = (np.asarray(ranks, np.float64) + 0.5) / min(shape)
    return np.asarray(np.sqrt(np.interp(place, share / share[-1], squares)))


def largest_sigma(shape: Shape, rows: Floats, columns: Floats, mean: float, largest: float) -> float:
    """The σ₁ of random numbers with the same scales: the most that any of four properties would give alone.

    Args:
        rows: the variances of the rows (m,), means included, as shares of the whole matrix's.
        columns: the same of the columns (k,).
        mean: |mean| / std of all entries.
        largest: the largest magnitude of an entry / std.
    """
    m, k = shape
    spikes = (_spike(mean * math.sqrt(m * k), shape), _spike(largest, shape))
    return max(edge_of_rows(rows, k), edge_of_rows(columns, m), *spikes)


def edge_of_rows(variances: Floats, k: int) -> float:
    """The σ₁ that a matrix of independent entries tends to whose rows, of k entries, have these variances.

    The largest λ outside of the spectrum is the minimum of λ(h) = −k/h + Σ vᵢ / (1 + vᵢh) over −1/max v < h < 0
    (Silverstein & Choi 1995); where all vᵢ are v, √λ is √v · (√m + √k).
    """
    import numpy as np

    v, counts = in_groups(variances)
    most = float(v.max())
    v = v / most  # then −1 < h < 0
    low, high = -1.0, 0.0
    for _ in range(40):
        h = (low + high) / 2
        falls = k / h**2 < float((counts * np.square(v / (1 + v * h))).sum())
        low, high = (h, high) if falls else (low, h)
    h = high if high < 0 else low / 2
    return math.sqrt(most * max(-k / h + float((counts * v / (1 + v * h)).sum()), 0.0))


def in_groups(values: Floats, most: int = 256) -> tuple[Floats, Floats]:
    """Values in groups of neighbours, by their means, and how many are in each; the largest stand alone."""
    import numpy as np

    if len(values) <= 2 * most:
        return values, np.ones(len(values))
    ordered = np.sort(values)
    starts = np.linspace(0, len(values) - most, most, endpoint=False).astype(int)
    starts = np.concatenate([starts, np.arange(len(values) - most, len(values))])
    counts = np.diff(np.append(starts, len(values)))
    return np.add.reduceat(ordered, starts) / counts, counts.astype(np.float64)


def _spike(strength: float, shape: Shape) -> float:
    """The σ that a rank-one part of this norm leaves in noise; 0 where it is lost in it.

    Benaych-Georges & Nadakuditi 2012, section 3.1.
    """
    m, k = shape
    if strength > BEYOND_NOISE:
        return strength
    if strength**2 <= math.sqrt(m * k):
        return 0.0
    return math.sqrt((strength**2 + m) * (strength**2 + k)) / strength


BEYOND_NOISE = 1e50  # no matrix has so many entries that their noise would add to this
