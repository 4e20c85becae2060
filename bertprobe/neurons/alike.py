"""Which neurons go together, for all neurons of a scan: what `card.firing_together` says of one, a pair of layers each.

Two neurons share some of the strongest tokens that were kept, or their activations on the tokens drawn correlate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bertprobe.neurons.best import NOWHERE
from bertprobe.neurons.card import FIRING
from bertprobe.neurons.ranking import NONE, candidates, first_of_each
from bertprobe.neurons.scan import SiteScan

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Doubles = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]

OFTEN = 16  # a token that is among the strongest of a sixteenth of a layer's neurons is counted by a matrix product
SHARED = 4  # what a shared token counts beside a correlation, which lies between -1 and 1
# By how much a correlation in float32 may be off, added to as many as 60 tokens, too. A bar is put lower by three of
# it: what makes the bar may be too high by one, what is held against it too low by one, and `FIRING` lies between.
SLACK = 1e-4
PART = 4096  # pairs at a time


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """Of I neurons those that go with each, (I, most) each: their numbers over all layers, NONE where there are fewer.

    `shared` is how many of the strongest tokens they share, `correlations` are over the tokens drawn.
    """

    neurons: Ints
    shared: Ints
    correlations: Doubles


class Layers:
    """The layers of a scan, made ready to be held against each other; neurons are numbered through all of them."""

    def __init__(self, scans: Sequence[SiteScan]) -> None:
        import numpy as np

        self._scans = scans
        self._firsts = np.cumsum([0, *(len(scan.strongest.where) for scan in scans)])
        self._centred = [_standardised(scan.drawn.values) for scan in scans]
        self._owners = [_Owners.of(scan.strongest.where) for scan in scans]

    def neighbours(self, layer: int, most: int) -> Neighbours:
        """Those of a layer's neurons: that share most tokens first, then by correlation, at least `FIRING` without.

        Which may be among the first is told by products in float32; correlations of those few are made anew in float64.
        """
        import numpy as np

        pairs = _Pairs.joined([self._between(layer, other, most) for other in range(len(self._scans))])
        count = len(self._scans[layer].strongest.where)
        pairs = pairs.chosen(pairs.near_the_first(count, most))
        exact = self._correlations(layer, pairs)
        told = np.flatnonzero((pairs.shared > 0) | (exact >= FIRING))
        pairs, exact = pairs.chosen(told), exact[told]
        order = np.lexsort((pairs.neurons, -exact, -pairs.shared, pairs.rows))
        kept, rank = first_of_each(pairs.rows[order], count, most)
        here, at = order[kept], (pairs.rows[order[kept]], rank)
        found = Neighbours(
            np.full((count, most), NONE, np.int64), np.zeros((count, most), np.int64), np.zeros((count, most))
        )
        found.neurons[at], found.shared[at], found.correlations[at] = (
            pairs.neurons[here],
            pairs.shared[here],
            exact[here],
        )
        return found

    def _between(self, layer: int, other: int, most: int) -> _Pairs:
        """Pairs of a neuron of one layer and one of another that may be among the first `most` of the one."""
        import numpy as np

        shared = self._owners[layer].shared_with(self._owners[other])
        mine, theirs = self._centred[layer], self._centred[other]
        alike = mine @ theirs.T if self._are_comparable(layer, other) else np.zeros(shared.shape, np.float32)
        scores = SHARED * shared + alike
        scores[(shared == 0) & (alike < FIRING - SLACK)] = -np.inf
        if layer == other:
            np.fill_diagonal(scores, -np.inf)
        rows, columns = candidates(scores, most, 3 * SLACK)
        neurons = columns + int(self._firsts[other])
        return _Pairs(rows, neurons, shared[rows, columns].astype(np.int64), scores[rows, columns])

    def _are_comparable(self, layer: int, other: int) -> bool:
        """Whether two layers' activations are on the same tokens drawn."""
        import numpy as np

        return np.array_equal(self._scans[layer].drawn.where, self._scans[other].drawn.where)

    def _correlations(self, layer: int, pairs: _Pairs) -> Doubles:
        """Pearson's correlation of each pair over the tokens drawn; 0 where those differ, or either is constant."""
        import numpy as np

        found = np.zeros(len(pairs.rows))
        theirs = np.searchsorted(self._firsts, pairs.neurons, side="right") - 1
        for other in range(len(self._scans)):
            those = np.flatnonzero(theirs == other)
            if not self._are_comparable(layer, other):
                continue
            for part in np.split(those, range(PART, len(those), PART)):
                a = self._scans[layer].drawn.values.T[pairs.rows[part]].astype(np.float64)
                b = self._scans[other].drawn.values.T[pairs.neurons[part] - self._firsts[other]].astype(np.float64)
                a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
                scale = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
                products = np.einsum("ij,ij->i", a, b)
                found[part] = np.divide(products, scale, out=np.zeros(len(part)), where=scale > 0)
        return found


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """Pairs of a neuron of a layer and one of any, by its number over all layers: how alike they are, (n,) each.

    A score goes by the tokens they share, then by their correlation, and is known to `SLACK`.
    """

    rows: Ints
    neurons: Ints
    shared: Ints
    scores: Floats

    @classmethod
    def joined(cls, pairs: Sequence[_Pairs]) -> _Pairs:
        import numpy as np

        return cls(*(np.concatenate([getattr(one, name) for one in pairs]) for name in cls.__slots__))

    def chosen(self, which: Ints) -> _Pairs:
        return _Pairs(self.rows[which], self.neurons[which], self.shared[which], self.scores[which])

    def near_the_first(self, count: int, most: int) -> Ints:
        """Which may be among the first `most` of their row, as far as scores tell."""
        import numpy as np

        order = np.lexsort((-self.scores, self.rows))
        kept, rank = first_of_each(self.rows[order], count, most)
        last = np.full(count, -np.inf, np.float32)
        ends = order[kept[rank == most - 1]]
        last[self.rows[ends]] = self.scores[ends]
        return np.flatnonzero(self.scores >= last[self.rows] - 3 * SLACK)


def _standardised(values: Floats) -> Floats:
    """A row a neuron of its activations (R, I), less their mean and of length 1; zero where they are constant."""
    import numpy as np

    centred = values.T - values.T.mean(1, keepdims=True, dtype=np.float64)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    found = np.divide(centred, norms, out=np.zeros_like(centred), where=norms > 0)
    return found.astype(np.float32)  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True, eq=False)
class _Owners:
    """Whose strongest tokens tokens are: (token, neuron) pairs sorted by token, and each token's stretch of them."""

    neurons: int
    tokens: Ints
    starts: Ints
    owners: Ints

    @classmethod
    def of(cls, where: Ints) -> _Owners:
        import numpy as np

        rows, places = np.nonzero(where != NOWHERE)
        found = where[rows, places]
        order = np.argsort(found, kind="stable")
        tokens, starts = np.unique(found[order], return_index=True)
        return cls(len(where), tokens, np.append(starts, len(order)), rows[order])

    def shared_with(self, other: _Owners) -> Floats:
        """How many tokens each of these neurons has in common with each of others, (I, J)."""
        import numpy as np

        _, mine, theirs = np.intersect1d(self.tokens, other.tokens, assume_unique=True, return_indices=True)
        often = np.diff(other.starts)[theirs] * OFTEN > other.neurons
        found = np.zeros((self.neurons, other.neurons), np.float32)
        if often.any():
            found += self._marks(mine[often]) @ other._marks(theirs[often]).T
        for rows, columns in self._pairs(other, mine[~often], theirs[~often]):
            found += np.bincount(rows * other.neurons + columns, minlength=found.size).reshape(found.shape)
        return found

    def _marks(self, tokens: Ints) -> Floats:
        """1 where a neuron has a token, (I, tokens)."""
        import numpy as np

        found = np.zeros((self.neurons, len(tokens)), np.float32)
        for column, token in enumerate(tokens.tolist()):
            found[self.owners[self.starts[token] : self.starts[token + 1]], column] = 1
        return found

    def _pairs(self, other: _Owners, mine: Ints, theirs: Ints) -> Iterator[tuple[Ints, Ints]]:
        """All pairs of a neuron here and one there that have the same token, some millions at a time."""
        import numpy as np

        here, there = np.diff(self.starts)[mine], np.diff(other.starts)[theirs]
        sums = np.cumsum(here * there)
        cuts = np.searchsorted(sums, np.arange(2**23, int(sums[-1]) if len(sums) else 0, 2**23))
        for part in np.split(np.arange(len(mine)), cuts):
            if len(part):
                rows = np.repeat(_stretches(self.starts[mine[part]], here[part]), np.repeat(there[part], here[part]))
                counts = np.repeat(there[part], here[part])
                columns = _stretches(np.repeat(other.starts[theirs[part]], here[part]), counts)
                yield self.owners[rows], other.owners[columns]


def _stretches(starts: Ints, counts: Ints) -> Ints:
    """The numbers from each start on, so many each, one behind the other."""
    import numpy as np

    ends = np.cumsum(counts)
    found: Ints = np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(starts - (ends - counts), counts)
    return found
