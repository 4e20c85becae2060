"""What lies far from the rest, and what lies farthest."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from bertprobe.stats.sums import BLOCK, Floats


def leading(values: Floats, most: int, key: Callable[[Floats], Floats]) -> npt.NDArray[np.intp]:
    """The places (≤ most,) of the values (n,) whose keys are smallest, those first; of equal ones the first come first.

    A value whose key is NaN has no place. `key` is asked block by block, so that memory is that of a block.
    """
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
    np.subtract(x, middle, out=out)
    return np.abs(out, out=out)
