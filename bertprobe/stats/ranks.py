"""How alike two rankings of the same things are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def spearman(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Spearman's rank correlation of two lists (n,), ties at their mean rank; NaN of fewer than two or of all alike."""
    a, b = ranks(one), ranks(other)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} values beside {len(b)}")
    a, b = a - a.mean() if len(a) else a, b - b.mean() if len(b) else b
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale else math.nan


def ranks(values: npt.ArrayLike) -> Floats:
    """The rank of each of n values from 1, the smallest first; equal ones share the mean of their ranks."""
    array: npt.NDArray[Any] = np.asarray(values)
    _, place, counts = np.unique(array, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    found: Floats = (last - (counts - 1) / 2)[place]
    return found
