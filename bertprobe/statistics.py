"""Numbers that describe an array of weights or activations, and add up.

Everything that adds is a `Summary`: one pass, sums in float64. What does not add (row norms, singular values) is of a
matrix seen as (neurons, inputs) and lives in `Numbers` and, on demand, `Spectrum`. `STATISTICS` lists what is shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from bertprobe import noise
from bertprobe.errors import UnsupportedFile

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Floats = npt.NDArray[np.float64]

# Elements that are looked at together, in two float64 buffers: small enough for the cache, large enough that two
# threads do not wait for each other between numpy calls. 24 matrices of 3072 x 768 on one thread and on two, in ms:
# 32k 82, 84; 64k 73, 78; 128k 72, 45; 256k 67, 41, with twice the memory.
BLOCK = 131_072

# Below this a sum of fourth powers has lost digits to underflow (only float64 data gets there).
SMALLEST_M4 = 1e-280
SMALLEST_STD = 1e-145  # and a square likewise


@dataclass(frozen=True, slots=True)
class Summary:
    """The sums of a set of numbers; `+` gives the summary of both sets together.

    `m2`, `m3`, `m4` are sums of powers of the distance to the mean, over the finite elements, in float64. For elements
    beyond 1e154 (squares) and 1e77 (fourth powers) they are infinite, and what rests on them is None; below 1e-154
    squares vanish. Only float64 data gets there. Numbers with a mean far from 0 keep their std to about
    2e-16 · |mean| / std of itself, however the set was split.
    """

    count: int
    nonfinite: int
    zeros: int
    mean: float
    m2: float
    m3: float
    m4: float
    min: float
    max: float

    def __add__(self, other: Summary) -> Summary:
        """Both sets as one; Pébay, SAND2008-6212 (2008), equations 1.1 to 1.3 and 2.1."""
        if not (self.finite and other.finite):
            return replace(
                self if self.finite else other,
                count=self.count + other.count,
                nonfinite=self.nonfinite + other.nonfinite,
                zeros=self.zeros + other.zeros,
            )
        a, b, n = float(self.finite), float(other.finite), float(self.finite + other.finite)
        delta = other.mean - self.mean
        square = delta * delta
        return Summary(
            count=self.count + other.count,
            nonfinite=self.nonfinite + other.nonfinite,
            zeros=self.zeros + other.zeros,
            mean=self.mean + delta * b / n,
            m2=self.m2 + other.m2 + square * a * b / n,
            m3=self.m3
            + other.m3
            + square * delta * (a * b / n) * ((a - b) / n)
            + 3 * delta * (a * other.m2 - b * self.m2) / n,
            m4=self.m4
            + other.m4
            + square * square * (a * b / n) * ((a / n) * (a / n) - (a / n) * (b / n) + (b / n) * (b / n))
            + 6 * square * ((a / n) * (a / n) * other.m2 + (b / n) * (b / n) * self.m2)
            + 4 * delta * (a * other.m3 - b * self.m3) / n,
            min=min(self.min, other.min),
            max=max(self.max, other.max),
        )

    @property
    def finite(self) -> int:
        """Number of finite elements."""
        return self.count - self.nonfinite

    @property
    def std(self) -> float | None:
        """Standard deviation of the population (no ddof)."""
        return _finite(math.sqrt(self.m2 / self.finite)) if self.finite else None

    @property
    def l2(self) -> float | None:
        """Euclidean (Frobenius) norm."""
        return _finite(math.sqrt(self.m2 + self.finite * self.mean * self.mean)) if self.finite else None

    @property
    def abs_max(self) -> float | None:
        """Largest magnitude."""
        return max(abs(self.min), abs(self.max)) if self.finite else None

    @property
    def skewness(self) -> float | None:
        """Third standardised moment, of the population; None without variance."""
        if not self._has_shape:
            return None
        return math.sqrt(self.finite) * self.m3 / (self.m2 * math.sqrt(self.m2))

    @property
    def kurtosis(self) -> float | None:
        """Excess kurtosis, of the population: 0 for a normal distribution; None without variance."""
        return self.finite * (self.m4 / self.m2) / self.m2 - 3 if self._has_shape else None

    @property
    def _has_shape(self) -> bool:
        return 0 < self.m2 < math.inf and SMALLEST_M4 < self.m4 < math.inf


EMPTY = Summary(0, 0, 0, 0.0, 0.0, 0.0, 0.0, math.nan, math.nan)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """All singular values of a matrix and what they say.

    `sigmas` are (min(m, k),) float64, descending; `shape` is (m, k). The other fields are None where undefined.

    * `effective_rank`: exp of the entropy of σᵢ / Σσ; Roy & Vetterli, EUSIPCO 2007.
    * `numerical_rank`: σᵢ above max(m, k) · eps · σ₁, with float64's eps for float64 and integers and float32's for
      everything else. That is the rank of the values as stored: with bfloat16's own eps, 2⁻⁷, the bar would lie
      above σ₁ itself from 128 rows on.
    * `spikes`: σᵢ above the Marchenko–Pastur edge, std · (√m + √k). Pure noise has one by chance about one time in six.
    * `alpha`, `ks_distance`, `xmin`: power law of the eigenvalues σᵢ² from `xmin` on.
    * `condition_number`: σ₁ over the smallest; None where that is below rounding (infinite).
    """

    sigmas: Floats
    shape: tuple[int, int]
    effective_rank: float | None
    numerical_rank: int
    spikes: int | None
    alpha: float | None
    ks_distance: float | None
    xmin: float | None
    condition_number: float | None


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
        import numpy as np

        times = round(width / self.width)
        first = self.first // times
        places = (np.arange(len(self.counts)) + self.first) // times - first
        counts = np.bincount(places, self.counts).astype(np.int64)
        return Histogram(width, first, counts, self.below, self.above)


def histogram(array: Array, std: float) -> Histogram:
    """The histogram of all finite elements, `BINS_A_STD` bins or more to a standard deviation, as far as 64 of them."""
    import numpy as np

    exponent = math.frexp(std / BINS_A_STD)[1] - 1 if std else 0
    last = HISTOGRAM_BINS
    counts = np.zeros(2 * last + 2, np.int64)  # the outer two are what lies beyond
    matrix = _operand(_as_matrix(_checked(array)))
    with np.errstate(all="ignore"):
        for tile in _tiles(*matrix.shape):
            x = widened(matrix[tile])
            places = np.floor(np.ldexp(x[np.isfinite(x)], -exponent))
            counts += np.bincount((places.clip(-last - 1, last) + last + 1).astype(np.int64), minlength=len(counts))
    held = np.flatnonzero(counts[1:-1])
    lo, hi = (int(held[0]), int(held[-1]) + 1) if held.size else (0, 0)
    return Histogram(math.ldexp(1.0, exponent), lo - last, counts[1:-1][lo:hi], int(counts[0]), int(counts[-1]))


@dataclass(frozen=True, slots=True, eq=False)
class Numbers:
    """Everything known about the values of one tensor.

    `shape` is that of the matrix, (I, H) = (neurons, inputs), None for vectors and scalars. `sigma` is the largest
    singular value, None also for an empty matrix or one with non-finite values. `row_norms` are (I,) float64, the L2
    norm of each row, NaN for a row with a non-finite value. `noise_sigma` is the largest singular value that random
    numbers would have with these row norms, these column norms, this mean or this largest entry, whichever is most.
    """

    summary: Summary
    shape: tuple[int, int] | None = None
    sigma: float | None = None
    row_norms: Floats | None = None
    spectrum: Spectrum | None = None
    histogram: Histogram | None = None
    noise_sigma: float | None = None

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
    def edge_ratio(self) -> float | None:
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
        import numpy as np

        norms = self._defined_norms()
        return float(np.median(norms)) if norms.size else None

    @property
    def row_norm_max(self) -> float | None:
        """Largest L2 norm of a row."""
        norms = self._defined_norms()
        return float(norms.max()) if norms.size else None

    def _defined_norms(self) -> Floats:
        import numpy as np

        norms = np.empty(0) if self.row_norms is None else self.row_norms
        missing = np.isnan(norms)
        return norms[~missing] if missing.any() else norms


def summarize(array: Array) -> Summary:
    """The summary of all elements of an array of any shape and strides."""
    return _sums(_as_matrix(_checked(array)))[0]


def _noise_sigma(summary: Summary, shape: tuple[int, int], rows: Floats, columns: Floats) -> float | None:
    """`noise_sigma` by the sums of squares of rows (m,) and columns (k,).

    None where there is none: all elements are equal, or their squares are beyond what a float64 holds, or have lost
    digits there.
    """
    import numpy as np

    std, mean, largest = summary.std, summary.mean, summary.abs_max
    if not std or mean is None or largest is None or summary.nonfinite or std < SMALLEST_STD:
        return None
    m, k = shape
    with np.errstate(all="ignore"):
        variances = rows / k / std**2, columns / m / std**2
    if not all(np.isfinite(v).all() and v.any() for v in variances):
        return None
    return std * noise.largest_sigma(shape, *variances, abs(mean) / std, largest / std)


def measure(array: Array, *, spectrum: bool = False, bins: bool = False) -> Numbers:
    """The numbers of an array; of two or more axes it is seen as a matrix (shape[0], rest), a row a neuron.

    `spectrum` adds all singular values, `bins` a histogram. Takes at most the array's size in float32 in temporary
    memory, plus a few MB; with `spectrum` twice that and more. Raises `UnsupportedFile` for what is no real number.
    """
    matrix = _operand(_as_matrix(_checked(array)))
    summary, squares, across = _sums(matrix, columns=array.ndim > 1 and matrix.size > 0)
    binned = histogram(matrix, summary.std or 0.0) if bins else None
    if array.ndim < 2:
        return Numbers(summary, histogram=binned)
    import numpy as np

    shape = (matrix.shape[0], matrix.shape[1])
    expected = _noise_sigma(summary, shape, squares, across)
    norms = np.sqrt(squares, out=squares)
    if summary.nonfinite or not summary.finite:
        return Numbers(summary, shape, None, norms, histogram=binned)
    found = _spectrum(matrix, summary, _rank_eps(array.dtype)) if spectrum else None
    sigma = float(found.sigmas[0]) if found else _sigma(matrix, summary.abs_max or 0.0, TOLERANCE, SEED)
    return Numbers(summary, shape, sigma, norms, found, binned, expected)


def _checked(array: Array) -> Array:
    """The array, or `UnsupportedFile` for elements that are not real numbers."""
    dtype = array.dtype
    foreign = dtype.type.__module__ == "ml_dtypes" and "complex" not in dtype.name
    if dtype.kind in "biuf" or foreign:
        return array
    raise UnsupportedFile(f"elements of type {dtype.name} have no mean or norm here", "only real numbers are measured")


def _as_matrix(array: Array) -> Array:
    """The same elements as a matrix: vectors and scalars as one row, more axes as (shape[0], rest)."""
    if array.ndim < 2:
        return array.reshape(1, array.size)
    return array.reshape(array.shape[0], math.prod(array.shape[1:]))


def widened(array: Array) -> Array:
    """The same values as native float32 or float64, whichever holds them; no copy where they are that already."""
    import numpy as np

    if array.dtype in (np.dtype(np.float32), np.dtype(np.float64)):
        return array
    if array.dtype.name.startswith("float8"):
        # A look-up: ml_dtypes' own conversion takes ten times as long (19 against 1.7 ms for 3072 x 768).
        table = np.arange(256, dtype=np.uint8).view(array.dtype).astype(np.float32)
        return table.take(array.view(np.uint8))
    exact_in_32 = array.dtype.kind == "V" or array.dtype.itemsize <= (4 if array.dtype.kind == "f" else 2)
    return array.astype(np.float32 if exact_in_32 else np.float64)


def _operand(matrix: Array) -> Array:
    """The matrix as one that both passes take; wide integers stay, as float64 they would take twice the memory."""
    wide_integers = matrix.dtype.kind in "iu" and matrix.itemsize > 2
    return matrix if wide_integers else widened(matrix)


def _sums(matrix: Array, *, columns: bool = False) -> tuple[Summary, Floats, Floats]:
    """The summary of a matrix (m, k) and the sums of squares of its rows (m,), in blocks that stay in cache.

    With `columns` those of its columns (k,) too; else the third is empty.
    """
    import numpy as np

    m, k = matrix.shape
    squares, across = np.zeros(m), np.zeros(k if columns else 0)
    work = _Work.of(min(BLOCK, matrix.size))
    turned = abs(matrix.strides[0]) < abs(matrix.strides[1]) and m > 1
    walked = matrix.T if turned else matrix
    total = EMPTY
    with np.errstate(all="ignore"):
        for tile in _tiles(*walked.shape):
            summary, sums, others = work.block(widened(walked[tile]), axis=0 if turned else 1, both=columns)
            squares[tile[1] if turned else tile[0]] += sums
            if columns:
                across[tile[0] if turned else tile[1]] += others
            total += summary
    return total, squares, across


def _tiles(rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Pieces of at most `BLOCK` elements: whole rows where a row fits, else parts of one."""
    if not rows * columns:
        return
    width = min(columns, BLOCK)
    height = max(1, BLOCK // width)
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            yield slice(top, top + height), slice(left, left + width)


@dataclass(frozen=True, slots=True)
class _Work:
    """The buffers of one pass: a block in float64, its squares, and ones to sum with by matrix product."""

    values: Floats
    squares: Floats
    ones: Floats

    @classmethod
    def of(cls, size: int) -> _Work:
        import numpy as np

        return cls(np.empty(size), np.empty(size), np.ones(size))

    def block(self, x: Array, axis: int, both: bool) -> tuple[Summary, Floats, Floats | float]:
        """The summary of a block and its sums of squares along an axis, NaN where that meets a non-finite value.

        With `both` the sums along the other axis, too.
        """
        import numpy as np

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
        import numpy as np

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
        import numpy as np

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


SEED = 0

# A small residual says that some singular value is near, not that it is the largest: where the start vector hardly
# contains the right one, noise converges to the second first. Measured on 4,945 Gaussian matrices with sides of 20 to
# 512, how many were off by more than 1e-4 and the worst error: at 1e-3 19 and 1.8e-2, at 1e-4 none and 8e-5, at 1e-5
# none and 5e-8. Steps at 1e-5: 7 to 26 for the trained matrices of all-MiniLM-L6-v2 (18 in the middle) and 36 for its
# pooler, which is noise; about 42 for noise of side 1024, 76 of 4096.
TOLERANCE = 1e-5

# In the worst of all spectra Lanczos misses a relative error ε of σ² after j steps for a share of at most about
# √k · exp(−(2j − 1)√ε) of start vectors (Kuczyński & Woźniakowski, SIAM J. Matrix Anal. Appl. 13(4), 1992): after 512
# steps 3e-5 for 1e-4 of σ and k = 4096.
MOST_STEPS = 512


def largest_singular_value(matrix: Array, *, tolerance: float = TOLERANCE, seed: int = SEED) -> float:
    """The largest singular value of a matrix (m, k), within 1e-4 of itself; NaN where not all elements are finite.

    `tolerance` bounds the residual of the singular pair relative to its value; see `TOLERANCE`.
    """
    wide = _operand(_as_matrix(_checked(matrix)))
    if not wide.size:
        return 0.0
    largest = max(abs(float(wide.min())), abs(float(wide.max())))
    return _sigma(wide, largest, tolerance, seed) if math.isfinite(largest) else math.nan


def _sigma(matrix: Array, abs_max: float, tolerance: float, seed: int) -> float:
    import numpy as np

    if abs_max == 0:
        return 0.0
    tall = _for_blas(matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T)
    exponent = _exponent(abs_max, tall.dtype)
    with np.errstate(all="ignore"):
        found = _lanczos(np.ldexp(tall, -exponent) if exponent else tall, tolerance, seed)
        return float(np.ldexp(found, exponent))


def _exponent(abs_max: float, dtype: np.dtype[Any]) -> int:
    """The power of two to divide by so that products neither overflow nor underflow; 0 where they would not."""
    limit = 1e20 if dtype.itemsize == 4 else 1e140
    return 0 if 1 / limit < abs_max < limit else math.frexp(abs_max)[1]


def _for_blas(matrix: Array) -> Array:
    """The matrix as BLAS takes it, float32 or float64 with one axis contiguous; copied only where it is not."""
    import numpy as np

    if matrix.dtype.kind != "f":
        return matrix.astype(np.float32)  # wide integers: rounding moves σ₁ by less than 1e-7 of it
    item, (down, right), (m, k) = matrix.itemsize, matrix.strides, matrix.shape
    fits = (right == item and down >= k * item) or (down == item and right >= m * item)
    return matrix if fits and matrix.flags.aligned else np.ascontiguousarray(matrix)


def _lanczos(a: Array, tolerance: float, seed: int) -> float:
    """σ₁ of a (m, k), m ≥ k, by Golub–Kahan–Lanczos bidiagonalisation (Golub & Van Loan, 4th ed., section 10.4.1).

    The right vectors are kept and orthogonalised against fully, twice; the left ones then need no storage (Simon &
    Zha, SIAM J. Sci. Comput. 21(6), 2000).
    """
    import numpy as np

    k = a.shape[1]
    basis = np.empty((min(k, MOST_STEPS), k), a.dtype)
    start = _scattered(k, seed)
    basis[0] = start / np.linalg.norm(start)
    diagonal: list[float] = []
    above: list[float] = []
    left, beta, check, value = np.zeros(a.shape[0], a.dtype), 0.0, 1, 0.0
    for step in range(1, len(basis) + 1):
        left *= -beta  # in place: a matrix may be as narrow as it is long
        left += a @ basis[step - 1]
        alpha = _normalise(left)
        diagonal.append(alpha)
        right = left @ a
        for _ in range(2):
            right -= (basis[:step] @ right) @ basis[:step]
        beta = _normalise(right)
        exhausted = beta <= 1e-6 * max(diagonal) or step == len(basis)
        if step >= check or exhausted:
            value, residual = _top(diagonal, above, beta)
            if residual <= tolerance * value or exhausted:
                break
            check = step + 2 + step // 8
        above.append(beta)
        basis[step] = right
    return value


def _scattered(count: int, seed: int) -> Array:
    """Numbers between -1/2 and 1/2 that no matrix was made for: splitmix64 of their places (Steele et al., 2014).

    numpy's own generators take 10 ms to import, as long as all the steps of a 3072 × 768 matrix.
    """
    import numpy as np

    word = np.uint64
    z = (np.arange(1, count + 1, dtype=word) + word(seed * 2**32 % 2**64)) * word(0x9E3779B97F4A7C15)
    z = (z ^ (z >> word(30))) * word(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> word(27))) * word(0x94D049BB133111EB)
    return ((z ^ (z >> word(31))) >> word(11)).astype(np.float64) * 2.0**-53 - 0.5


LONG = 2**20  # elements of a vector that are widened together


def _normalise(vector: Array) -> float:
    """The norm of a vector, which is divided by it in place."""
    import numpy as np

    blocks = (vector[start : start + LONG].astype(np.float64) for start in range(0, len(vector), LONG))
    norm = math.hypot(*(float(np.linalg.norm(block)) for block in blocks))
    if norm:
        vector /= vector.dtype.type(norm)
    return norm


def _top(diagonal: list[float], above: list[float], beta: float) -> tuple[float, float]:
    """The largest singular value of the bidiagonal matrix and the residual of its pair as one of the whole matrix."""
    import numpy as np

    left, values, _ = np.linalg.svd(np.diag(diagonal) + np.diag(above, 1))
    return float(values[0]), float(beta * abs(left[-1, 0]))


def _rank_eps(dtype: np.dtype[Any]) -> float:
    return 2.0**-52 if dtype.kind in "biu" or dtype.itemsize == 8 else 2.0**-23


def _spectrum(matrix: Array, summary: Summary, eps: float) -> Spectrum:
    import numpy as np

    shape = (matrix.shape[0], matrix.shape[1])
    with np.errstate(all="ignore"):
        sigmas = _singular_values(matrix, summary.abs_max or 0.0)
        rank = int(np.count_nonzero(sigmas > max(shape) * eps * sigmas[0]))
        alpha, distance, xmin = _power_law(sigmas[:rank])
    below_rounding = sigmas[-1] <= max(shape) * 2.0**-52 * sigmas[0]
    return Spectrum(
        sigmas,
        shape,
        effective_rank=effective_rank(sigmas),
        numerical_rank=rank,
        spikes=int(np.count_nonzero(sigmas > summary.std * noise.edge(shape))) if summary.std else None,
        alpha=alpha,
        ks_distance=distance,
        xmin=xmin,
        condition_number=None if below_rounding else float(sigmas[0] / sigmas[-1]),
    )


def _singular_values(matrix: Array, abs_max: float) -> Floats:
    """All singular values, descending, each within 1e-7 of itself or of rounding."""
    import numpy as np

    tall = (matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T).astype(np.float64)
    exponent = _exponent(abs_max, tall.dtype) if abs_max else 0
    if exponent:
        tall = np.ldexp(tall, -exponent)
    # The Gram matrix takes a quarter of the time but squares the condition: an error of about eps · (σ₁ / σ)² in σ.
    sigmas = np.sqrt(np.maximum(np.linalg.eigvalsh(tall.T @ tall)[::-1], 0))
    if sigmas[-1] < 1e-4 * sigmas[0]:
        sigmas = np.linalg.svd(tall, compute_uv=False)
    return np.asarray(np.ldexp(sigmas, exponent), np.float64)


def effective_rank(sigmas: Floats) -> float | None:
    """exp(−Σ pᵢ ln pᵢ) with pᵢ = σᵢ / Σσ; Roy & Vetterli, EUSIPCO 2007, equations 2 to 4."""
    import numpy as np

    if not sigmas[0]:
        return None
    shares = sigmas[sigmas > 0] / sigmas.sum()
    return float(np.exp(-(shares @ np.log(shares))))


def _power_law(sigmas: Floats) -> tuple[float | None, float | None, float | None]:
    """Exponent, Kolmogorov–Smirnov distance and lower end of the power law that fits the tail of σᵢ² best; σ (n,).

    Clauset, Shalizi & Newman, SIAM Review 51(4), 2009: equation 3.1 for the exponent, section 3.3 for the lower end,
    which is any value but the largest. The same as the `powerlaw` package, which by default refuses exponents above
    3; here there is no bound. None with fewer than three distinct values.
    """
    import numpy as np

    logs = 2 * np.log(np.sort(sigmas))
    starts = np.flatnonzero(np.diff(logs, prepend=-np.inf) > 0)[:-1]
    if len(starts) < 2:
        return None, None, None
    slopes, distances = np.empty(len(starts)), np.empty(len(starts))
    for i, start in enumerate(starts.tolist()):
        tail = logs[start:] - logs[start]
        n = len(tail)
        slopes[i] = n / tail.sum()
        distances[i] = np.abs(-np.expm1(-slopes[i] * tail) - np.arange(n) / n).max()
    best = int(distances.argmin())
    return float(1 + slopes[best]), float(distances[best]), _finite(float(np.exp(logs[starts[best]])))


def leading(values: Floats, most: int, key: Callable[[Floats], Floats]) -> npt.NDArray[np.intp]:
    """The places (≤ most,) of the values (n,) whose keys are smallest, those first; of equal ones the first come first.

    A value whose key is NaN has no place. `key` is asked block by block, so that memory is that of a block.
    """
    import numpy as np

    found, keys = np.empty(0, np.intp), np.empty(0)
    for start in range(0, len(values) if most else 0, BLOCK):
        block = key(values[start : start + BLOCK])
        last = np.partition(block, min(most, len(block)) - 1)[min(most, len(block)) - 1]
        near = np.flatnonzero(block <= (math.inf if math.isnan(last) else last))
        keys = np.concatenate([keys, block[near]])
        order = np.argsort(keys, kind="stable")[:most]
        found, keys = np.concatenate([found, near + start])[order], keys[order]
    return found


def robust_z(values: npt.ArrayLike) -> Floats:
    """How far each value (n,) lies from the median, in robust standard deviations: (x − median) / (1.4826 · MAD).

    Where more than half of the values are equal the MAD is 0; then the mean absolute deviation times 1.2533 takes its
    place (Iglewicz & Hoaglin, How to Detect and Handle Outliers, 1993), so that a lone outlier still gets a finite
    score, and equal values get 0. Non-finite values are left out and score NaN.
    """
    import numpy as np

    x = np.asarray(values, np.float64)
    there = np.isfinite(x)
    if not there.all():
        z = np.full(x.shape, np.nan)
        if there.any():
            z[there] = robust_z(x[there])
        return z
    # One array besides the values, whatever their number: distances are taken again rather than kept.
    z = np.array(x)
    if not z.size:
        return z
    middle = np.median(z, overwrite_input=True)
    scale = 1.4826 * float(np.median(_distances(x, middle, z), overwrite_input=True))
    scale = scale or 1.2533 * float(np.mean(_distances(x, middle, z))) or 1.0
    np.subtract(x, middle, out=z)
    with np.errstate(over="ignore"):  # a scale of nearly nothing makes the rest infinitely far
        z /= scale
    return z


def _distances(x: Floats, middle: float, out: Floats) -> Floats:
    import numpy as np

    np.subtract(x, middle, out=out)
    return np.abs(out, out=out)


@dataclass(frozen=True, slots=True)
class Statistic:
    """A row of `STATISTICS`: a number that can be shown of a tensor, what it is of, and what it means.

    `title` heads a column, 9 characters at most; `meaning` is one sentence.
    """

    name: str
    of: Literal["summary", "matrix", "spectrum"]
    function: Callable[[Numbers], float | int | None]
    title: str
    meaning: str
    kind: Literal["integer", "real", "share"] = "real"


def _of_spectrum(name: str) -> Callable[[Numbers], float | int | None]:
    def function(numbers: Numbers) -> float | int | None:
        value: float | int | None = getattr(numbers.spectrum, name)
        return value

    return function


STATISTICS: tuple[Statistic, ...] = (
    Statistic("count", "summary", lambda n: n.summary.count, "count", "Number of elements.", "integer"),
    Statistic(
        "nonfinite",
        "summary",
        lambda n: n.summary.nonfinite,
        "nonfinite",
        "Elements that are NaN or infinite; every other statistic leaves them out.",
        "integer",
    ),
    Statistic("zeros", "summary", lambda n: n.summary.zeros, "zeros", "Elements that are exactly zero.", "integer"),
    Statistic(
        "mean", "summary", lambda n: n.summary.mean if n.summary.finite else None, "mean", "Mean of the elements."
    ),
    Statistic("std", "summary", lambda n: n.summary.std, "std", "Standard deviation of the elements (population)."),
    Statistic("min", "summary", lambda n: n.summary.min, "min", "Smallest element."),
    Statistic("max", "summary", lambda n: n.summary.max, "max", "Largest element."),
    Statistic("abs_max", "summary", lambda n: n.summary.abs_max, "|max|", "Largest magnitude of an element."),
    Statistic("l2", "summary", lambda n: n.summary.l2, "L2", "Euclidean norm; of a matrix, its Frobenius norm."),
    Statistic(
        "skewness", "summary", lambda n: n.summary.skewness, "skew", "Third standardised moment: 0 where symmetric."
    ),
    Statistic(
        "kurtosis",
        "summary",
        lambda n: n.summary.kurtosis,
        "kurtosis",
        "Excess kurtosis: 0 for a normal distribution, −1.2 for a uniform one, large with outliers.",
    ),
    Statistic("row_norm_min", "matrix", lambda n: n.row_norm_min, "row min", "Smallest L2 norm of a row (neuron)."),
    Statistic(
        "row_norm_median", "matrix", lambda n: n.row_norm_median, "row med", "Median L2 norm of the rows (neurons)."
    ),
    Statistic("row_norm_max", "matrix", lambda n: n.row_norm_max, "row max", "Largest L2 norm of a row (neuron)."),
    Statistic(
        "sigma_max", "matrix", lambda n: n.sigma, "σ₁", "Largest singular value: the most it can stretch an input."
    ),
    Statistic(
        "edge_ratio",
        "matrix",
        lambda n: n.edge_ratio,
        "edge",
        "Largest singular value against that of random noise of the same size and std: about 1 means no structure.",
    ),
    Statistic(
        "stable_rank",
        "matrix",
        lambda n: n.stable_rank,
        "st. rank",
        "Squared Frobenius norm over squared largest singular value: how many directions share the weight.",
    ),
    Statistic(
        "effective_rank",
        "spectrum",
        _of_spectrum("effective_rank"),
        "eff. rank",
        "Exponential of the entropy of the singular values: how many there would be if they were equal.",
    ),
    Statistic(
        "numerical_rank",
        "spectrum",
        _of_spectrum("numerical_rank"),
        "rank",
        "Singular values above rounding: the rank of the matrix as stored.",
        "integer",
    ),
    Statistic(
        "spikes",
        "spectrum",
        _of_spectrum("spikes"),
        "spikes",
        "Singular values above the edge of random noise of the same size and std; noise has 0, rarely 1.",
        "integer",
    ),
    Statistic(
        "alpha",
        "spectrum",
        _of_spectrum("alpha"),
        "α",
        "Exponent of the power law that fits the tail of the squared singular values.",
    ),
    Statistic(
        "alpha_ks",
        "spectrum",
        _of_spectrum("ks_distance"),
        "α KS",
        "Kolmogorov–Smirnov distance of that fit: how far from a power law the tail is, 0 to 1.",
    ),
    Statistic(
        "condition_number",
        "spectrum",
        _of_spectrum("condition_number"),
        "cond.",
        "Largest over smallest singular value; none where the smallest is zero to rounding.",
    ),
)


def statistics(numbers: Numbers) -> dict[str, float | int | None]:
    """Every row of `STATISTICS` that applies, by name, not rounded; None where undefined or not finite."""
    present = {"summary": True, "matrix": numbers.shape is not None, "spectrum": numbers.spectrum is not None}
    values = {row.name: row.function(numbers) for row in STATISTICS if present[row.of]}
    return {name: None if value is None or not math.isfinite(value) else value for name, value in values.items()}
