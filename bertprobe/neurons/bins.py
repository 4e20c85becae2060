"""Fixed bins for activations of any model: eight to a doubling, so that a decile is known to an eighth of its size.

A bin is the sign, the exponent and the first three bits behind the point of a float32: from 2⁻⁸ to 2⁶ on either side
of zero, what is smaller in one bin for each sign, what is larger in another. They depend on no data: counts add.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Doubles = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]

STEPS = 8  # bins to a doubling
SMALLEST, LARGEST = -8, 6  # powers of two between which the steps lie
SIDE = (LARGEST - SMALLEST) * STEPS + 2  # bins on either side of zero, with the two at its ends
BINS = 2 * SIDE
DROPPED = 20  # bits of a float32 behind the first three of its fraction
FIRST = (127 + SMALLEST) * STEPS - 1  # the code of what lies below the smallest step


def bins_of(values: Floats) -> npt.NDArray[np.int32]:
    """The bin of each float32, from 0, which holds the most negative; NaN counts as large."""
    import numpy as np

    bits = values.view(np.int32)
    codes = bits & 0x7FFFFFFF
    codes >>= DROPPED
    np.clip(codes, FIRST, FIRST + SIDE - 1, out=codes)
    codes -= FIRST
    codes ^= bits >> 31  # of a negative number -1 - code: the larger, the lower
    codes += SIDE
    return codes


def edges() -> Doubles:
    """Where bins begin and end, (BINS + 1,): a bin holds what is from its lower edge in size up to the next one."""
    import numpy as np

    steps = np.arange(SIDE - 1)
    positive = np.ldexp(1 + steps % STEPS / STEPS, SMALLEST + steps // STEPS)
    return np.concatenate([[-np.inf], -positive[::-1], [0], positive, [np.inf]])


def quantiles(histogram: Ints, lowest: Floats, highest: Floats, shares: Sequence[float]) -> Doubles:
    """Of each neuron the values below which these shares of its activations lie, (I, shares).

    Within its bin a value is guessed along the straight line between the edges, which are those of the bin or the
    neuron's own extremes (I,): off by an eighth of the value at most, or by 2⁻⁸ near zero.
    """
    import numpy as np

    sums = np.cumsum(histogram, axis=1)
    bounds = edges()
    found = np.empty((len(histogram), len(shares)))
    rows = np.arange(len(histogram))
    for place, share in enumerate(shares):
        wanted = share * sums[:, -1]
        bin = np.minimum((sums < wanted[:, None]).sum(1), BINS - 1)
        count = histogram[rows, bin]
        low, high = np.maximum(bounds[bin], lowest), np.minimum(bounds[bin + 1], highest)
        part = (wanted - (sums[rows, bin] - count)) / np.maximum(count, 1)
        found[:, place] = low + np.clip(part, 0, 1) * (high - low)
    return found
