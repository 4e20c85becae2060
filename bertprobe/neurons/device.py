"""What a batch comes to where it was computed: on a GPU no more is copied from it than is kept.

The same counts, extremes and tokens as `sums.grouped` finds; sums are of float64 throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bertprobe.backends import Array
from bertprobe.neurons.bins import BINS, DROPPED, FIRST, SIDE
from bertprobe.neurons.sums import BUCKETS, GROUP, Found, Sums, buckets_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Ints = npt.NDArray[np.int64]

ROWS = 4096  # tokens whose bins are counted together: each is eight bytes of the device's memory then


@dataclass(frozen=True, slots=True, eq=False)
class DeviceSums:
    """`Sums` as torch has them: what is added stands together, and each kind of extreme.

    `added` (BUCKETS + 1, I) in float64 are sums by position and of squares; `counted` (2 + thresholds + BINS, I) in
    int64 tokens above zero, after and before, above each threshold, in each bin; `highest` and `lowest` (2, I) after
    and before.
    """

    positions: Ints
    added: Array
    counted: Array
    highest: Array
    lowest: Array

    def __add__(self, other: DeviceSums) -> DeviceSums:
        return DeviceSums(
            self.positions + other.positions,
            self.added + other.added,
            self.counted + other.counted,
            self.highest.maximum(other.highest),
            self.lowest.minimum(other.lowest),
        )

    def numpy(self) -> Sums:
        added, counted, highest, lowest = (
            tensor.cpu().numpy() for tensor in (self.added, self.counted, self.highest, self.lowest)
        )
        return Sums(
            positions=self.positions,
            by_position=added[:BUCKETS],
            squares=added[BUCKETS],
            highest=highest[0],
            lowest=lowest[0],
            before_highest=highest[1],
            before_lowest=lowest[1],
            above=counted[0],
            before_above=counted[1],
            over=counted[2:-BINS],
            histogram=counted[-BINS:].T.copy(),
        )


class OnDevice:
    """The tokens of a batch by the bucket of their position, after the activation and before it, in float32."""

    def __init__(self, after: Array, before: Array, positions: Ints, thresholds: Sequence[float]) -> None:
        import numpy as np
        import torch

        buckets = buckets_of(positions)
        self._order = np.argsort(buckets, kind="stable")
        self._shown = after
        order = torch.from_numpy(self._order).to(after.device)
        values, inputs = (given.index_select(0, order).float() for given in (after, before))
        self.sums = _sums(values, inputs, np.bincount(buckets, minlength=BUCKETS), thresholds)
        self._values = {1: values, -1: inputs.neg_()}

    def ends(self, sign: int, most: int) -> Floats:
        """How far groups of tokens go, the farthest, (most, I) or fewer; with `sign` -1 before it, turned round."""
        values = self._values[sign]
        groups = values[: len(values) // GROUP * GROUP].view(-1, GROUP, values.shape[1])
        if not len(groups):
            return values.new_empty((0, values.shape[1])).cpu().numpy()  # type: ignore[no-any-return]
        return groups.amax(1).topk(min(most, len(groups)), dim=0).values.cpu().numpy()  # type: ignore[no-any-return]

    def reaching(self, height: Floats, sign: int) -> Found:
        """The tokens that reach each neuron's height (I,)."""
        import torch

        values = self._values[sign]
        rows, neurons = (values >= torch.from_numpy(height).to(values.device)).nonzero(as_tuple=True)
        chosen = values[rows, neurons]
        return Found(neurons.cpu().numpy(), chosen.cpu().numpy(), self._order[rows.cpu().numpy()])

    def values_of(self, rows: Ints) -> Floats:
        """What is after the activation in some rows of the batch."""
        import numpy as np
        import torch

        if not len(rows):  # which is most often so, and spares a wait for the device
            return np.empty((0, self._shown.shape[1]), np.float32)
        chosen = self._shown[torch.from_numpy(rows).to(self._shown.device)]
        return chosen.float().cpu().numpy()  # type: ignore[no-any-return]


def _sums(values: Array, inputs: Array, positions: Ints, thresholds: Sequence[float]) -> DeviceSums:
    """Of tokens bucket by bucket, `positions` (BUCKETS,) of each."""
    import numpy as np
    import torch

    neurons = values.shape[1]
    added = torch.zeros((BUCKETS + 1, neurons), dtype=torch.float64, device=values.device)
    for bucket, part in enumerate(values.split(positions.tolist())):
        added[bucket] = part.sum(0, dtype=torch.float64)
    added[BUCKETS] = values.square().sum(0, dtype=torch.float64)
    counted = torch.zeros((2 + len(thresholds) + BINS, neurons), dtype=torch.int64, device=values.device)
    counted[0], counted[1] = (values > 0).sum(0), (inputs > 0).sum(0)
    for row, threshold in enumerate(thresholds, 2):
        counted[row] = (values > float(np.float32(threshold))).sum(0)
    histogram = counted[2 + len(thresholds) :].view(-1)
    one, columns = counted.new_ones(1), torch.arange(neurons, device=values.device)
    for part in values.split(ROWS):
        places = (bins_of(part).long() * neurons).add_(columns).view(-1)
        histogram.scatter_add_(0, places, one.expand(len(places)))
    ends = [part.aminmax(dim=0) for part in (values, inputs)]
    highest, lowest = (torch.stack([getattr(end, name) for end in ends]) for name in ("max", "min"))
    return DeviceSums(positions, added, counted, highest, lowest)


def bins_of(values: Array) -> Array:
    """The bin of each float32, as `bins.bins_of` has it."""
    import torch

    bits = values.view(torch.int32)
    codes = bits & 0x7FFFFFFF
    codes >>= DROPPED
    codes.clamp_(FIRST, FIRST + SIDE - 1)
    codes -= FIRST
    codes ^= bits >> 31
    codes += SIDE
    return codes
