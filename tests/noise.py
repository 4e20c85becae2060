"""Random matrices that are not of one scale, and flat ones: what verdicts are tried on besides plain initialisers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def normal(rng: np.random.Generator, n: int) -> Any:
    return rng.standard_normal((n, n)) * 0.02


def pruned(rng: np.random.Generator, n: int) -> Any:
    weight = normal(rng, n)
    weight[rng.permutation(n)[: n // 2]] = 0
    return weight


# Random numbers that are not of one scale: what folded scales, weight norm, pruning and odd initialisers leave.
NOISE: dict[str, Callable[[np.random.Generator, int], Any]] = {
    "rows scaled by lognormal 0.25": lambda rng, n: normal(rng, n) * np.exp(0.25 * rng.standard_normal((n, 1))),
    "rows scaled by lognormal 0.5": lambda rng, n: normal(rng, n) * np.exp(0.5 * rng.standard_normal((n, 1))),
    "columns scaled by lognormal 0.5": lambda rng, n: normal(rng, n) * np.exp(0.5 * rng.standard_normal((1, n))),
    "half of the rows zero": pruned,
    "mean 0.002": lambda rng, n: normal(rng, n) + 0.002,
    "uniform from 0 to 0.04": lambda rng, n: rng.random((n, n)) * 0.04,
    "Student t, 3 degrees": lambda rng, n: rng.standard_t(3, (n, n)) * 0.02,
    "Student t, 5 degrees": lambda rng, n: rng.standard_t(5, (n, n)) * 0.02,
    "99 % pruned": lambda rng, n: normal(rng, n) * (rng.random((n, n)) > 0.99),
}
FLAT: dict[str, Callable[[np.random.Generator, int], Any]] = {
    "orthogonal": lambda rng, n: np.linalg.qr(normal(rng, n))[0],
    "identity": lambda rng, n: np.eye(n),
    "identity and noise": lambda rng, n: np.eye(n) + normal(rng, n),
}
