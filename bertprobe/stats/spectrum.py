"""The singular values of a matrix: the largest by Lanczos, all of them on demand, and what they say."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertprobe import noise
from bertprobe.stats.summary import Summary, or_none
from bertprobe.stats.sums import Array, Floats

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


def top_sigma(matrix: Array, abs_max: float, tolerance: float, seed: int) -> float:
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
    word = np.uint64
    z = (np.arange(1, count + 1, dtype=word) + word(seed * 2**32 % 2**64)) * word(0x9E3779B97F4A7C15)
    z = (z ^ (z >> word(30))) * word(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> word(27))) * word(0x94D049BB133111EB)
    return ((z ^ (z >> word(31))) >> word(11)).astype(np.float64) * 2.0**-53 - 0.5


LONG = 2**20  # elements of a vector that are widened together


def _normalise(vector: Array) -> float:
    """The norm of a vector, which is divided by it in place."""
    blocks = (vector[start : start + LONG].astype(np.float64) for start in range(0, len(vector), LONG))
    norm = math.hypot(*(float(np.linalg.norm(block)) for block in blocks))
    if norm:
        vector /= vector.dtype.type(norm)
    return norm


def _top(diagonal: list[float], above: list[float], beta: float) -> tuple[float, float]:
    """The largest singular value of the bidiagonal matrix and the residual of its pair as one of the whole matrix."""
    left, values, _ = np.linalg.svd(np.diag(diagonal) + np.diag(above, 1))
    return float(values[0]), float(beta * abs(left[-1, 0]))


def rank_eps(dtype: np.dtype[Any]) -> float:
    return 2.0**-52 if dtype.kind in "biu" or dtype.itemsize == 8 else 2.0**-23


def spectrum_of(matrix: Array, summary: Summary, eps: float) -> Spectrum:
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
    return float(1 + slopes[best]), float(distances[best]), or_none(float(np.exp(logs[starts[best]])))
