"""The statistics that are shown of a tensor: a row each, with what it is of, how it is computed and what it means."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from bertprobe.stats.numbers import Numbers


LAST = 99


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistic:
    """A row of `STATISTICS`: a number that can be shown of a tensor, what it is of, how it is made and what it means.

    `title` heads a column, 9 characters at most; `formula` is Markdown, for docs/statistics.md, as `meaning` is, one
    sentence. `rank` is the column's place in the table of weights, or of spectra, 1 the first, None for a number that
    only CSV and JSON have; `priority` how soon it gives way to a narrow screen, the highest first, 0 last.
    """

    name: str
    of: Literal["summary", "matrix", "spectrum"]
    function: Callable[[Numbers], float | int | None]
    title: str
    formula: str
    meaning: str
    kind: Literal["integer", "real"] = "real"
    rank: int | None = LAST
    priority: int = LAST


def _of_spectrum(name: str) -> Callable[[Numbers], float | int | None]:
    def function(numbers: Numbers) -> float | int | None:
        value: float | int | None = getattr(numbers.spectrum, name)
        return value

    return function


STATISTICS: tuple[Statistic, ...] = (
    Statistic(
        name="count",
        of="summary",
        function=lambda n: n.summary.count,
        title="count",
        formula="`n`",
        meaning="Number of elements.",
        kind="integer",
        rank=None,
    ),
    Statistic(
        name="nonfinite",
        of="summary",
        function=lambda n: n.summary.nonfinite,
        title="nonfinite",
        formula="–",
        meaning="Elements that are NaN or infinite; every other statistic leaves them out.",
        kind="integer",
        rank=12,
        priority=12,
    ),
    Statistic(
        name="zeros",
        of="summary",
        function=lambda n: n.summary.zeros,
        title="zeros",
        formula="–",
        meaning="Elements that are exactly zero.",
        kind="integer",
        rank=13,
        priority=13,
    ),
    Statistic(
        name="mean",
        of="summary",
        function=lambda n: n.summary.mean if n.summary.finite else None,
        title="mean",
        formula="`Σx / n`",
        meaning="Mean of the elements.",
        rank=6,
        priority=6,
    ),
    Statistic(
        name="std",
        of="summary",
        function=lambda n: n.summary.std,
        title="std",
        formula="`√(Σ(x − mean)² / n)`",
        meaning="Standard deviation of the elements (population).",
        rank=1,
        priority=1,
    ),
    Statistic(
        name="min",
        of="summary",
        function=lambda n: n.summary.min,
        title="min",
        formula="–",
        meaning="Smallest element.",
        rank=14,
        priority=14,
    ),
    Statistic(
        name="max",
        of="summary",
        function=lambda n: n.summary.max,
        title="max",
        formula="–",
        meaning="Largest element.",
        rank=15,
        priority=15,
    ),
    Statistic(
        name="abs_max",
        of="summary",
        function=lambda n: n.summary.abs_max,
        title="|max|",
        formula="`max(−min, max)`",
        meaning="Largest magnitude of an element.",
        rank=2,
        priority=2,
    ),
    Statistic(
        name="l2",
        of="summary",
        function=lambda n: n.summary.l2,
        title="L2",
        formula="`√Σx²`",
        meaning="Euclidean norm; of a matrix, its Frobenius norm.",
        rank=16,
        priority=16,
    ),
    Statistic(
        name="skewness",
        of="summary",
        function=lambda n: n.summary.skewness,
        title="skew",
        formula="`m₃ / m₂^1.5`",
        meaning="Third standardised moment: 0 where symmetric.",
        rank=11,
        priority=11,
    ),
    Statistic(
        name="kurtosis",
        of="summary",
        function=lambda n: n.summary.kurtosis,
        title="kurtosis",
        formula="`m₄ / m₂² − 3`",
        meaning="Excess kurtosis: 0 for a normal distribution, −1.2 for a uniform one, large with outliers.",
        rank=4,
        priority=4,
    ),
    Statistic(
        name="row_norm_min",
        of="matrix",
        function=lambda n: n.row_norm_min,
        title="row min",
        formula="`√Σⱼ wᵢⱼ²`",
        meaning="Smallest L2 norm of a row (neuron).",
        rank=7,
        priority=7,
    ),
    Statistic(
        name="row_norm_median",
        of="matrix",
        function=lambda n: n.row_norm_median,
        title="row med",
        formula="as above",
        meaning="Median L2 norm of the rows (neurons).",
        rank=8,
        priority=8,
    ),
    Statistic(
        name="row_norm_max",
        of="matrix",
        function=lambda n: n.row_norm_max,
        title="row max",
        formula="as above",
        meaning="Largest L2 norm of a row (neuron).",
        rank=9,
        priority=9,
    ),
    Statistic(
        name="sigma_max",
        of="matrix",
        function=lambda n: n.sigma,
        title="σ₁",
        formula="σ₁",
        meaning="Largest singular value: the most it can stretch an input.",
        rank=10,
        priority=10,
    ),
    Statistic(
        name="mp_edge_ratio",
        of="matrix",
        function=lambda n: n.mp_edge_ratio,
        title="σ₁/MP",
        formula="`σ₁ / (std · (√m + √k))`",
        meaning="Largest singular value against that of random noise of the same size and std: "
        "about 1 means no structure.",
        rank=3,
        priority=0,
    ),
    Statistic(
        name="stable_rank",
        of="matrix",
        function=lambda n: n.stable_rank,
        title="st. rank",
        formula="`‖W‖²_F / σ₁²`",
        meaning="Squared Frobenius norm over squared largest singular value: how many directions share the weight.",
        rank=5,
        priority=5,
    ),
    Statistic(
        name="effective_rank",
        of="spectrum",
        function=_of_spectrum("effective_rank"),
        title="eff. rank",
        formula="`exp(−Σ pᵢ ln pᵢ)`, `pᵢ = σᵢ / Σσ`",
        meaning="Exponential of the entropy of the singular values: how many there would be if they were equal.",
        rank=1,
        priority=0,
    ),
    Statistic(
        name="numerical_rank",
        of="spectrum",
        function=_of_spectrum("numerical_rank"),
        title="rank",
        formula="`#{σᵢ > max(m, k) · eps · σ₁}`",
        meaning="Singular values above rounding: the rank of the matrix as stored.",
        kind="integer",
        rank=2,
        priority=4,
    ),
    Statistic(
        name="spikes",
        of="spectrum",
        function=_of_spectrum("spikes"),
        title="spikes",
        formula="`#{σᵢ > std · (√m + √k)}`",
        meaning="Singular values above the edge of random noise of the same size and std; noise has 0, rarely 1.",
        kind="integer",
        rank=3,
        priority=1,
    ),
    Statistic(
        name="alpha",
        of="spectrum",
        function=_of_spectrum("alpha"),
        title="α",
        formula="`1 + n / Σ ln(λᵢ / λ_min)`, `λ = σ²`",
        meaning="Exponent of the power law that fits the tail of the squared singular values.",
        rank=4,
        priority=2,
    ),
    Statistic(
        name="alpha_ks",
        of="spectrum",
        function=_of_spectrum("ks_distance"),
        title="α KS",
        formula="`max |F(λ) − fit(λ)|` at the values of the tail, `F` counting those below",
        meaning="Kolmogorov–Smirnov distance of that fit: how far from a power law the tail is, 0 to 1.",
        rank=5,
        priority=5,
    ),
    Statistic(
        name="condition_number",
        of="spectrum",
        function=_of_spectrum("condition_number"),
        title="cond.",
        formula="`σ₁ / σ_min`",
        meaning="Largest over smallest singular value; none where the smallest is zero to rounding.",
        rank=6,
        priority=3,
    ),
)


def columns_of(*of: str) -> list[Statistic]:
    """The rows that are columns of a table, in the order of their ranks."""
    rows = [(row.rank, row) for row in STATISTICS if row.rank is not None and row.of in of]
    return [row for _, row in sorted(rows, key=lambda ranked: ranked[0])]


def statistics(numbers: Numbers) -> dict[str, float | int | None]:
    """Every row of `STATISTICS` that applies, by name, not rounded; None where undefined or not finite."""
    present = {"summary": True, "matrix": numbers.shape is not None, "spectrum": numbers.spectrum is not None}
    values = {row.name: row.function(numbers) for row in STATISTICS if present[row.of]}
    return {name: None if value is None or not math.isfinite(value) else value for name, value in values.items()}
