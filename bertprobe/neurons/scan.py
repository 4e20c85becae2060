"""What a corpus does to every neuron, in one pass: statistics that add up, and examples by reference.

A `NeuronScan` is a collector of `run_texts`. Its memory is neurons × (examples + bins), whatever the corpus.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from bertprobe.neurons.best import Best, Candidates, Drawn, document_of, keys_of, where_of
from bertprobe.neurons.device import OnDevice
from bertprobe.neurons.sums import Found, Sums, grouped
from bertprobe.run.captured import Captured, Site

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from bertprobe.tokens import Packed

    Floats = npt.NDArray[np.float32]
    Ints = npt.NDArray[np.int64]
    Keys = npt.NDArray[np.uint64]


MANY = 3  # candidates to each example that is kept: so many are sorted at a time


@dataclass(frozen=True, slots=True)
class Kept:
    """How much is kept of each neuron: the `top` strongest tokens and as many of the most negative, `drawn` tokens.

    `thresholds` are those above which activations are counted, beside zero.
    """

    top: int = 20
    drawn: int = 256
    thresholds: tuple[float, ...] = (0.1, 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class SiteScan:
    """What was found of the neurons at one site; two add to one.

    `strongest` are by activation; `negative` by the value before it, turned round in sign so that the most negative is
    first; `drawn` are random tokens, the same for all neurons, with their activations.
    """

    sums: Sums
    strongest: Best
    negative: Best
    drawn: Drawn

    def moved(self, documents: int) -> SiteScan:
        """The same where so many documents come before these."""
        return replace(
            self,
            strongest=self.strongest.moved(documents),
            negative=self.negative.moved(documents),
            drawn=self.drawn.moved(documents),
        )

    def joined(self, other: SiteScan, kept: Kept) -> SiteScan:
        """This and one of other documents."""
        return SiteScan(
            self.sums + other.sums,
            self.strongest + other.strongest,
            self.negative + other.negative,
            self.drawn.joined(other.drawn).lowest(kept.drawn),
        )


class Adding(Protocol):
    """Sums of a batch, in numpy or where they were made; two add to one."""

    def __add__(self, other: Any) -> Any: ...

    def numpy(self) -> Sums: ...


class Shown(Protocol):
    """What a batch comes to at a site: its sums, and ways to find tokens in it."""

    @property
    def sums(self) -> Adding: ...

    def ends(self, sign: int, most: int) -> Floats: ...

    def reaching(self, height: Floats, sign: int) -> Found: ...

    def values_of(self, rows: Ints) -> Floats: ...


@dataclass(frozen=True, slots=True, eq=False)
class Reduced:
    """What is kept of a batch at a site."""

    sums: Adding
    strongest: Candidates
    negative: Candidates
    drawn: Drawn


class NeuronScan:
    """Statistics and examples of every neuron of some parts: `found` by site, in the order they came.

    `salt` decides which tokens are drawn: of the same salt the same, however they come in batches. `before` is what was
    found in documents that stand before these: no token is kept that would not be among the strongest of both.
    `on_device` has a batch looked at where it was computed, by torch, and not in numpy; None does so on a GPU.
    """

    def __init__(
        self,
        labels: Collection[str],
        kept: Kept | None = None,
        salt: int = 0,
        before: Mapping[Site, SiteScan] | None = None,
        on_device: bool | None = None,
    ) -> None:
        self.needs = frozenset(labels)
        self.kept = kept or Kept()
        self._salt = salt
        self._on_device = on_device
        self._floors = {site: _Floors.of(found, self.kept) for site, found in (before or {}).items()}
        self._sites: dict[Site, _Growing] = {}
        self._ends: dict[Site, tuple[_Ends, _Ends]] = {}

    def reduce(self, captured: Captured) -> Reduced:
        import numpy as np

        kept = self.kept
        lengths = np.asarray(captured.lengths, np.int64)
        positions = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        where = where_of(np.repeat(captured.batch.places, lengths), positions)
        shown = self._shown(captured, positions)
        now = self._sites.get(captured.site)
        floors = self._floors.get(captured.site)
        best = (now.strongest, now.negative) if now is not None else (None, None)
        floor = (floors.strongest, floors.negative) if floors is not None else (None, None)
        ends = self._ends.setdefault(captured.site, (_Ends(kept.top), _Ends(kept.top)))
        strongest, negative = map(_Bar, ends, best, floor)
        last = [found.last_key for found in (now, floors) if found is not None]
        drawn = min((key for key in last if key is not None), default=None)
        return Reduced(
            shown.sums,
            reaching(shown, where, strongest, 1),
            reaching(shown, where, negative, -1),
            drawn_of(shown, where, keys_of(where, self._salt), kept.drawn, drawn),
        )

    def _shown(self, captured: Captured, positions: Ints) -> Shown:
        thresholds = self.kept.thresholds
        if self._on_device or (self._on_device is None and captured.backend.device == "cuda"):
            return OnDevice(captured.values(), captured.values(before=True), positions, thresholds)
        return grouped(captured.numpy(), captured.numpy(before=True), positions, thresholds)

    def add(self, site: Site, batch: Packed, reduced: Reduced) -> None:
        if site not in self._sites:
            self._sites[site] = _Growing(reduced.drawn.values.shape[1], self.kept)
        self._sites[site].add(reduced)

    @property
    def found(self) -> Mapping[Site, SiteScan]:
        return {site: growing.finished() for site, growing in self._sites.items()}

    @property
    def is_finite(self) -> bool:
        """Whether no activation that was seen is NaN or infinite."""
        import numpy as np

        return all(np.isfinite(growing.sums.squares).all() for growing in self._sites.values())


@dataclass(frozen=True, slots=True, eq=False)
class _Floors:
    """What a later token has to be at least to be kept: values (I,) and a key, None where any is."""

    strongest: Floats
    negative: Floats
    last_key: int | None

    @classmethod
    def of(cls, found: SiteScan, kept: Kept) -> _Floors:
        return cls(_above(found.strongest), _above(found.negative), _last_key(found.drawn, kept))


def _above(best: Best) -> Floats:
    """The least values that are above the weakest of the strongest: of two equal ones the earlier token counts."""
    import numpy as np

    return np.nextafter(best.bar[0], np.float32(np.inf))


def _last_key(drawn: Drawn | None, kept: Kept) -> int | None:
    return int(drawn.keys[-1]) if drawn is not None and len(drawn.keys) == kept.drawn else None


class _Growing:
    """A site while batches come; what it replaces it replaces whole, as other threads look at it."""

    def __init__(self, neurons: int, kept: Kept) -> None:
        self.strongest = self.negative = Best.none(neurons, kept.top)
        self.drawn: Drawn | None = None
        self._sums: Adding | None = None
        self._kept = kept
        self._waiting: dict[str, list[Candidates]] = {"strongest": [], "negative": []}

    @property
    def last_key(self) -> int | None:
        """The key that a token to be drawn has to be below, None while any will do."""
        return _last_key(self.drawn, self._kept)

    @property
    def sums(self) -> Sums:
        if self._sums is None:
            raise ValueError("no batch was added")
        return self._sums.numpy()

    def add(self, reduced: Reduced) -> None:
        self._sums = reduced.sums if self._sums is None else self._sums + reduced.sums
        drawn = reduced.drawn if self.drawn is None else self.drawn.joined(reduced.drawn)
        self.drawn = drawn.lowest(self._kept.drawn)
        for name, waiting in self._waiting.items():
            waiting.append(getattr(reduced, name))
            # What is kept already is sorted again each time: it waits until there is more to sort than that.
            if sum(map(len, waiting)) >= MANY * getattr(self, name).values.size:
                self._settle(name)

    def _settle(self, name: str) -> None:
        setattr(self, name, getattr(self, name).with_these(self._waiting[name]))
        self._waiting[name].clear()

    def finished(self) -> SiteScan:
        for name in self._waiting:
            self._settle(name)
        if self.drawn is None:
            raise ValueError("no batch was added")
        return SiteScan(self.sums, self.strongest, self.negative, self.drawn)


class _Ends:
    """How far groups of tokens went, until enough tokens are known: the `most` that went farthest, of each neuron.

    Of two threads that tell at once what one says may be lost, as if it had not looked.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._farthest: Floats | None = None

    def reached(self, ends: Floats) -> Floats:
        """What so many groups reach with these (G, I), so that as many tokens do; -inf while there are fewer."""
        import numpy as np

        known = ends if self._farthest is None else np.concatenate([self._farthest, ends])
        if len(known) > self.most:
            known = np.partition(known, -self.most, axis=0)[-self.most :]
        self._farthest = known
        return known.min(0) if len(known) == self.most else np.full(ends.shape[1], -np.inf, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class _Bar:
    """What decides which tokens are looked at: how far groups went, the strongest `now`, and a `floor` (I,)."""

    ends: _Ends
    now: Best | None = None
    floor: Floats | None = None

    def height(self, shown: Shown, sign: int, first: int) -> Floats:
        """What each neuron's values must reach, (I,), in a batch whose first document is `first`."""
        import numpy as np

        lowest = np.finfo(np.float32).min
        known = [] if self.floor is None else [self.floor]
        if self.now is not None:
            weakest, document = self.now.bar
            # Of two equal values the earlier token counts: once all that come are later ones, equal is not enough.
            known.append(np.where(document < first, np.nextafter(weakest, np.float32(np.inf)), weakest))
        if not known or np.max(known, axis=0).min() <= lowest:
            known.append(self.ends.reached(shown.ends(sign, self.ends.most)))
        return np.max(known, axis=0)  # type: ignore[no-any-return]


def reaching(shown: Shown, where: Ints, bar: _Bar, sign: int) -> Candidates:
    """The tokens of a batch that may be among the strongest of a neuron, those that reach its bar.

    With `sign` -1 strong means negative, before the activation.
    """
    found = shown.reaching(bar.height(shown, sign, int(document_of(where.min()))), sign)
    return Candidates(found.neurons, found.values, where[found.rows])


def drawn_of(shown: Shown, where: Ints, keys: Keys, most: int, last: int | None) -> Drawn:
    """The tokens of a batch that may be among the `most` of lowest key, which is not above `last`."""
    import numpy as np

    rows = np.arange(len(keys)) if last is None else np.flatnonzero(keys <= np.uint64(last))
    rows = rows[np.lexsort((where[rows], keys[rows]))[:most]]
    return Drawn(keys[rows], where[rows], shown.values_of(rows))
