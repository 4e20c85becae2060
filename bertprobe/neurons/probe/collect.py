"""Collectors that look at labelled items: what adds up of those learnt from, what held-out ones are taken for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from bertprobe.neurons.probe.align import Marked
from bertprobe.neurons.probe.labels import UNKNOWN
from bertprobe.neurons.probe.solve import Predictor
from bertprobe.neurons.probe.sums import LayerSums
from bertprobe.run import Captured, Site

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from bertprobe.tokens import Encoded, Packed

    Values = npt.NDArray[np.floating]
    Ints = npt.NDArray[np.int64]

Pieces = Literal["first", "last", "mean"]
PIECES: tuple[Pieces, ...] = ("first", "last", "mean")


class Taken(NamedTuple):
    """The items of a batch: their values at a site (n, I), and their labels in both tasks, (n,) each."""

    values: Values
    labels: Ints
    controls: Ints


class Items:
    """Where the items of texts stand that are on their way through the model: `passing` notes them, batches forget."""

    def __init__(self, pieces: Pieces, *, before: bool) -> None:
        self._pieces, self._before = pieces, before
        self._marked: dict[int, Marked] = {}
        self._last: Packed | None = None

    def passing(self, texts: Iterable[tuple[Encoded, Marked]]) -> Iterator[Encoded]:
        """The tokens of each text, whose items are noted."""
        for place, (encoded, marked) in enumerate(texts):
            self._marked[place] = marked
            yield encoded

    def taken(self, captured: Captured) -> Taken:
        """The items of the batch that is shown: a row for each, of its first or last token, or the mean of all."""
        import numpy as np

        texts = [self._marked[place] for place in captured.batch.places.tolist()]
        offsets = np.repeat(np.cumsum(captured.lengths) - captured.lengths, [len(text.labels) for text in texts])
        starts, stops = (
            np.concatenate([getattr(text, end) for text in texts]) + offsets for end in ("starts", "stops")
        )
        labels, controls = (np.concatenate([getattr(text, task) for text in texts]) for task in ("labels", "controls"))
        return Taken(self._rows(captured, starts, stops), labels, controls)

    def done(self, batch: Packed) -> None:
        """Forgets the batch before, once the next is added: all sites of a batch are added before the next."""
        if self._last is not None and self._last is not batch:
            for place in self._last.places.tolist():
                self._marked.pop(place, None)
        self._last = batch

    def _rows(self, captured: Captured, starts: Ints, stops: Ints) -> Values:
        import numpy as np

        if self._pieces != "mean":
            places = starts if self._pieces == "first" else stops - 1
            shown = captured.values(before=self._before)
            return np.asarray(captured.backend.numpy(shown[places]), np.float32)
        values = captured.numpy(before=self._before)
        rows = values[starts].astype(np.float64)
        for item in np.flatnonzero(stops - starts > 1).tolist():
            rows[item] = values[starts[item] : stops[item]].mean(0, dtype=np.float64)
        return rows


class ProbeSums:
    """A collector: the sums of every layer over the items of both tasks."""

    def __init__(self, labels: Collection[str], items: Items, count: int) -> None:
        self.needs = frozenset(labels)
        self.is_finite = True
        self.found: dict[Site, LayerSums] = {}
        self._items, self._count = items, count

    def reduce(self, captured: Captured) -> Taken:
        return self._items.taken(captured)

    def add(self, site: Site, batch: Packed, reduced: Taken) -> None:
        import numpy as np

        self.is_finite &= bool(np.isfinite(reduced.values).all())
        if site not in self.found:
            self.found[site] = LayerSums(reduced.values.shape[1], self._count)
        self.found[site].add(*reduced)
        self._items.done(batch)


@dataclass(frozen=True, slots=True, eq=False)
class Right:
    """How many items were taken for what they are: `of` each predictor (P,), by label of the task `by_label` (K,).

    `counts` (2, K) are the items by label in both tasks, `unknown` those with a label that was not learnt. What is not
    finite is taken for anything.
    """

    of: Ints
    by_label: Ints
    counts: Ints
    unknown: int
    is_finite: bool

    def __add__(self, other: Right) -> Right:
        return Right(
            self.of + other.of,
            self.by_label + other.by_label,
            self.counts + other.counts,
            self.unknown + other.unknown,
            self.is_finite and other.is_finite,
        )

    @property
    def items(self) -> int:
        return int(self.counts[0].sum()) + self.unknown


class ProbeAnswers:
    """A collector: what predictors take held-out items for. The first of a site is the probe of the task itself."""

    def __init__(self, predictors: Mapping[Site, Sequence[Predictor]], items: Items, count: int) -> None:
        self.needs = frozenset(site.part for site in predictors)
        self.found: dict[Site, Right] = {}
        self._predictors, self._items, self._count = predictors, items, count

    def reduce(self, captured: Captured) -> Right:
        import numpy as np

        taken = self._items.taken(captured)
        values = taken.values.astype(np.float64)
        truths = {False: taken.labels, True: taken.controls}
        right = [
            predictor.answers(values) == truths[predictor.is_control] for predictor in self._predictors[captured.site]
        ]
        known = taken.labels != UNKNOWN
        return Right(
            np.array([flags.sum() for flags in right], np.int64),
            np.bincount(taken.labels[right[0]], minlength=self._count),
            np.stack([np.bincount(part, minlength=self._count) for part in (taken.labels[known], taken.controls)]),
            int((~known).sum()),
            bool(np.isfinite(values).all()),
        )

    @property
    def is_finite(self) -> bool:
        return all(right.is_finite for right in self.found.values())

    def add(self, site: Site, batch: Packed, reduced: Right) -> None:
        self.found[site] = self.found[site] + reduced if site in self.found else reduced
        self._items.done(batch)
