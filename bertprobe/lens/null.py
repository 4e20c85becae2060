"""The null beside every list: random directions of the same norm, through the same transform, rank by rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bertprobe.errors import BadSetting

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Numbers = npt.NDArray[np.floating]

HIGH = 0.95  # the share of random directions that lie below what a list is held against


@dataclass(frozen=True, slots=True)
class Null:
    """How many random directions are drawn, and the seed they are drawn by."""

    directions: int = 64
    seed: int = 0

    def rows(self, norm: float, width: int) -> Floats:
        """Random directions of one norm, (R, width): Gaussian vectors, scaled."""
        import numpy as np

        if self.directions < 1:
            raise BadSetting(f"{self.directions} random directions are none", "take 1 or more, such as 64")
        drawn = np.random.default_rng(self.seed).standard_normal((self.directions, width))
        return np.asarray(drawn * (norm / np.linalg.norm(drawn, axis=1, keepdims=True)), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Chance:
    """What random directions come to at each rank, (k,): the median of them, and the value that 95 % lie below."""

    median: Numbers
    high: Numbers


def chance(values: Numbers, most: int) -> Chance:
    """The k-th largest entry of each direction's values (R, V), for every k up to `most`: its quantiles over all R."""
    import numpy as np

    most = min(most, values.shape[1])
    largest = -np.sort(np.partition(-values, most - 1, axis=1)[:, :most], axis=1) if most else values[:, :0]
    median, high = np.quantile(largest.astype(np.float64), (0.5, HIGH), axis=0)
    return Chance(median, high)
