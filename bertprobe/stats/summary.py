"""The sums that describe a set of numbers, and add."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

# Below this a sum of fourth powers has lost digits to underflow (only float64 data gets there).
SMALLEST_M4 = 1e-280


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
        return or_none(math.sqrt(self.m2 / self.finite)) if self.finite else None

    @property
    def l2(self) -> float | None:
        """Euclidean (Frobenius) norm."""
        return or_none(math.sqrt(self.m2 + self.finite * self.mean * self.mean)) if self.finite else None

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


def or_none(value: float) -> float | None:
    """The value, None for NaN and infinity."""
    return value if math.isfinite(value) else None
