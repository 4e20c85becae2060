"""What adds up of a layer's neurons: counts, sums, extremes, shares, histograms, sums by position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, NamedTuple

from bertprobe.neurons.bins import BINS, bins_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Doubles = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]

BUCKETS = 16
"""Of positions: 0, 1, 2–3, 4–7, 8–15 … and all from 16,384 on in the last."""

GROUP = 32  # tokens looked at together: what is made of them stays in cache, and their counts fit a byte
COUNTED = 512  # tokens whose bins are counted together: the table of counts is as large as they are


def buckets_of(positions: Ints) -> Ints:
    """The bucket of each position: how many binary digits it has."""
    import numpy as np

    return np.minimum(np.frexp(positions.astype(np.float64))[1], BUCKETS - 1).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Of I neurons over some tokens; two add to one.

    `by_position` (BUCKETS, I) are sums of activations, `positions` (BUCKETS,) the tokens in each bucket, `squares` (I,)
    sums of squares, in float64. `highest` and `lowest` (I,) are the extremes, `before_highest` and `before_lowest`
    those before the activation. `above` and `before_above` (I,) count tokens above zero, `over` (thresholds, I) those
    above each threshold, `histogram` (I, BINS) those in each of the fixed bins.
    """

    positions: Ints
    by_position: Doubles
    squares: Doubles
    highest: Floats
    lowest: Floats
    before_highest: Floats
    before_lowest: Floats
    above: Ints
    before_above: Ints
    over: Ints
    histogram: Ints

    def __add__(self, other: Sums) -> Sums:
        import numpy as np

        def joined(name: str) -> npt.NDArray[np.generic]:
            one, two = getattr(self, name), getattr(other, name)
            larger = {"highest": np.maximum, "lowest": np.minimum}.get(name.removeprefix("before_"))
            return larger(one, two) if larger else one + two  # type: ignore[no-any-return]

        return Sums(**{field.name: joined(field.name) for field in fields(Sums)})  # type: ignore[arg-type]

    def numpy(self) -> Sums:
        """These: they are no other array library's."""
        return self

    @property
    def tokens(self) -> int:
        return int(self.positions.sum())

    @property
    def means(self) -> Doubles:
        return self.by_position.sum(0) / self.tokens  # type: ignore[no-any-return]

    @property
    def deviations(self) -> Doubles:
        """Standard deviations over the tokens, (I,)."""
        import numpy as np

        return np.sqrt(np.maximum(self.squares / self.tokens - np.square(self.means), 0))


class Found(NamedTuple):
    """Values that reach some height: of which neuron, how large, in which row of the batch, (n,) each."""

    neurons: Ints
    values: Floats
    rows: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Grouped:
    """The sums of a batch, and of each group of its tokens which they are and how far its neurons go.

    `rows` (G, GROUP) are the rows of the batch, -1 where a group has fewer; `tops` (G, I) the largest values after the
    activation, `bottoms` the smallest before it; `after` and `before` (T, I) the values themselves.
    """

    sums: Sums
    rows: Ints
    tops: Floats
    bottoms: Floats
    after: Floats
    before: Floats

    def ends(self, sign: int, most: int) -> Floats:
        """How far groups of tokens go, (G, I); with `sign` -1 before the activation, turned round."""
        return self.tops if sign > 0 else -self.bottoms

    def reaching(self, height: Floats, sign: int) -> Found:
        """The values that reach each neuron's height (I,); only groups that go so far are looked at."""
        import numpy as np

        group, neurons = np.nonzero(self.ends(sign, len(self.rows)) >= height)
        rows = self.rows[group]
        values = self.after if sign > 0 else self.before
        chosen = values[rows, neurons[:, None]] * np.float32(sign)
        reached = (chosen >= height[neurons][:, None]) & (rows >= 0)
        return Found(np.broadcast_to(neurons[:, None], rows.shape)[reached], chosen[reached], rows[reached])

    def values_of(self, rows: Ints) -> Floats:
        """What is after the activation in some rows of the batch."""
        return self.after[rows]


def grouped(after: Floats, before: Floats, positions: Ints, thresholds: Sequence[float]) -> Grouped:
    """Sums over the tokens of a batch, after and before the activation (T, I), each at its position (T,).

    Tokens are taken bucket by bucket. Sums are of float32 over the tokens of a group, from there on of float64.
    """
    import numpy as np

    neurons = after.shape[1]
    buckets = buckets_of(positions)
    order = np.argsort(buckets, kind="stable")
    groups = [
        (bucket, order[start : min(start + GROUP, stop)])
        for bucket, stop in enumerate(np.searchsorted(buckets[order], np.arange(BUCKETS), "right").tolist())
        for start in range(int(np.searchsorted(buckets[order], bucket)), stop, GROUP)
    ]
    rows = np.full((len(groups), GROUP), -1, np.int64)
    tops, bottoms, lows, highs = (np.empty((len(groups), neurons), np.float32) for _ in range(4))
    by_position, squares = np.zeros((BUCKETS, neurons)), np.zeros(neurons)
    counts = np.zeros((2 + len(thresholds), neurons), np.int64)
    counter = _Counter(neurons)
    room, inputs_room = (np.empty((GROUP, neurons), np.float32) for _ in range(2))
    flags_room = np.empty((len(counts), GROUP, neurons), bool)
    for number, (bucket, chosen) in enumerate(groups):
        size = len(chosen)
        values, inputs, flags = room[:size], inputs_room[:size], flags_room[:, :size]
        after.take(chosen, 0, values, "clip")  # any other mode has a copy made first
        before.take(chosen, 0, inputs, "clip")
        rows[number, :size] = chosen
        by_position[bucket] += values.sum(0)
        squares += np.einsum("ij,ij->j", values, values)
        values.max(0, out=tops[number])
        values.min(0, out=lows[number])
        inputs.max(0, out=highs[number])
        inputs.min(0, out=bottoms[number])
        np.greater(values, 0, out=flags[0])
        np.greater(inputs, 0, out=flags[1])
        for flag, threshold in zip(flags[2:], thresholds, strict=True):
            np.greater(values, threshold, out=flag)
        counts += flags.view(np.uint8).sum(1, dtype=np.uint8)
        counter.count(values)
    sums = Sums(
        positions=np.bincount(buckets, minlength=BUCKETS),
        by_position=by_position,
        squares=squares,
        highest=tops.max(0),
        lowest=lows.min(0),
        before_highest=highs.max(0),
        before_lowest=bottoms.min(0),
        above=counts[0],
        before_above=counts[1],
        over=counts[2:],
        histogram=counter.finished(),
    )
    return Grouped(sums, rows, tops, bottoms, after, before)


class _Counter:
    """Counts of each neuron's bins, of many tokens at a time."""

    def __init__(self, neurons: int) -> None:
        import numpy as np

        self._first = np.arange(neurons, dtype=np.int32) * np.int32(BINS)
        self._waiting = np.empty((COUNTED, neurons), np.int64)
        self._filled = 0
        self._found = np.zeros(neurons * BINS, np.int64)

    def count(self, values: Floats) -> None:

        if self._filled + len(values) > COUNTED:
            self._flush()
        bins = bins_of(values)
        bins += self._first
        self._waiting[self._filled : self._filled + len(values)] = bins
        self._filled += len(values)

    def finished(self) -> Ints:
        self._flush()
        return self._found.reshape(-1, BINS)

    def _flush(self) -> None:
        import numpy as np

        self._found += np.bincount(self._waiting[: self._filled].ravel(), minlength=len(self._found))
        self._filled = 0
