"""Numbers that describe an array of weights or activations, and add up.

Everything that adds is a `Summary`: one pass, sums in float64. What does not add (row norms, singular values) is of a
matrix seen as (neurons, inputs) and lives in `Numbers` and, on demand, `Spectrum`. `STATISTICS` lists what is shown.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bertprobe import noise
from bertprobe.stats.histogram import Histogram, histogram
from bertprobe.stats.spectrum import SEED, TOLERANCE, Spectrum, rank_eps, spectrum_of, top_sigma
from bertprobe.stats.summary import Summary
from bertprobe.stats.sums import Array, Floats, as_matrix, checked, operand, sums_of

SMALLEST_STD = 1e-145  # below it a square has lost digits to underflow


@dataclass(frozen=True, slots=True, eq=False)
class Numbers:
    """Everything known about the values of one tensor.

    `shape` is that of the matrix, (I, H) = (neurons, inputs), None for vectors and scalars. `sigma` is the largest
    singular value, None also for an empty matrix or one with non-finite values. `row_norms` are (I,) float64, the L2
    norm of each row, NaN for a row with a non-finite value. `noise_sigma` is the largest singular value that random
    numbers would have with these row norms, these column norms, this mean or this largest entry, whichever is most.
    `fingerprint` is that of shape and values, empty where it was not taken.
    """

    summary: Summary
    shape: tuple[int, int] | None = None
    sigma: float | None = None
    row_norms: Floats | None = None
    spectrum: Spectrum | None = None
    histogram: Histogram | None = None
    noise_sigma: float | None = None
    fingerprint: str = ""

    @property
    def noise_ratio(self) -> float | None:
        """σ₁ / `noise_sigma`: what is left of the edge ratio when rows, columns and mean are allowed for."""
        return None if self.sigma is None or not self.noise_sigma else self.sigma / self.noise_sigma

    @property
    def edge(self) -> float | None:
        """The Marchenko–Pastur edge, std · (√m + √k); None for what is no matrix."""
        std = self.summary.std
        return None if std is None or self.shape is None else std * noise.edge(self.shape)

    @property
    def mp_edge_ratio(self) -> float | None:
        """σ₁ / (std · (√m + √k)): about 1 for noise of any scale; None where all elements are equal.

        The divisor is the Marchenko–Pastur edge: the largest singular value that independent entries of this std
        tend to (Marchenko & Pastur 1967; Geman 1980).
        """
        std = self.summary.std
        if self.sigma is None or self.shape is None or not std:
            return None
        return self.sigma / std / noise.edge(self.shape)

    @property
    def stable_rank(self) -> float | None:
        """‖W‖²_F / σ₁²: 1 for an outer product, min(m, k) for an orthogonal matrix; None for zeros."""
        if not self.sigma or self.summary.l2 is None:
            return None
        return (self.summary.l2 / self.sigma) ** 2

    @property
    def row_norm_min(self) -> float | None:
        """Smallest L2 norm of a row."""
        norms = self._defined_norms()
        return float(norms.min()) if norms.size else None

    @property
    def row_norm_median(self) -> float | None:
        """Median L2 norm of the rows."""
        norms = self._defined_norms()
        return float(np.median(norms)) if norms.size else None

    @property
    def row_norm_max(self) -> float | None:
        """Largest L2 norm of a row."""
        norms = self._defined_norms()
        return float(norms.max()) if norms.size else None

    def _defined_norms(self) -> Floats:
        norms = np.empty(0) if self.row_norms is None else self.row_norms
        missing = np.isnan(norms)
        return norms[~missing] if missing.any() else norms


def summarize(array: Array) -> Summary:
    """The summary of all elements of an array of any shape and strides."""
    return sums_of(as_matrix(checked(array)))[0]


def measure(array: Array, *, spectrum: bool = False, bins: bool = False) -> Numbers:
    """The numbers of an array; of two or more axes it is seen as a matrix (shape[0], rest), a row a neuron.

    `spectrum` adds all singular values, `bins` a histogram. Takes at most the array's size in float32 in temporary
    memory, plus a few MB; with `spectrum` twice that and more. Raises `UnsupportedFile` for what is no real number.
    """
    matrix = operand(as_matrix(checked(array)))
    summary, squares, across = sums_of(matrix, columns=array.ndim > 1 and matrix.size > 0)
    binned = histogram(matrix, summary.std or 0.0) if bins else None
    if array.ndim < 2:
        return Numbers(summary, histogram=binned)
    shape = (matrix.shape[0], matrix.shape[1])
    expected = _noise_sigma(summary, shape, squares, across)
    norms = np.sqrt(squares, out=squares)
    if summary.nonfinite or not summary.finite:
        return Numbers(summary, shape, None, norms, histogram=binned)
    found = spectrum_of(matrix, summary, rank_eps(array.dtype)) if spectrum else None
    sigma = float(found.sigmas[0]) if found else top_sigma(matrix, summary.abs_max or 0.0, TOLERANCE, SEED)
    return Numbers(summary, shape, sigma, norms, found, binned, expected)


def _noise_sigma(summary: Summary, shape: tuple[int, int], rows: Floats, columns: Floats) -> float | None:
    """`noise_sigma` by the sums of squares of rows (m,) and columns (k,).

    None where there is none: all elements are equal, or their squares are beyond what a float64 holds, or have lost
    digits there.
    """
    std, mean, largest = summary.std, summary.mean, summary.abs_max
    if not std or mean is None or largest is None or summary.nonfinite or std < SMALLEST_STD:
        return None
    m, k = shape
    with np.errstate(all="ignore"):
        variances = rows / k / std**2, columns / m / std**2
    if not all(np.isfinite(v).all() and v.any() for v in variances):
        return None
    return std * noise.largest_sigma(shape, *variances, abs(mean) / std, largest / std)
