"""Which tokens are kept of each neuron, by reference: its strongest, and some drawn by a hash.

A token is where it stands: document · 2²⁰ + position in one int64, so that ties go to the earlier one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Ints = npt.NDArray[np.int64]
    Keys = npt.NDArray[np.uint64]

POSITIONS = 20  # bits of a token's position within its document
NOWHERE = -1


def where_of(documents: Ints, positions: Ints) -> Ints:
    """Tokens by document and position as single numbers, which sort as they stand in the corpus."""
    return (documents << POSITIONS) | positions


def document_of(where: Ints) -> Ints:
    return where >> POSITIONS


def position_of(where: Ints) -> Ints:
    return where & ((1 << POSITIONS) - 1)


def moved(where: Ints, documents: int) -> Ints:
    """The same tokens where so many documents come before theirs."""
    import numpy as np

    return np.where(where == NOWHERE, NOWHERE, where + (documents << POSITIONS))


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Tokens that may be among the strongest of a neuron: which neuron, the value and where, (n,) each."""

    neurons: Ints
    values: Floats
    where: Ints

    def __len__(self) -> int:
        return len(self.neurons)

    def ordered(self) -> Ints:
        """Their order by neuron, the strongest first, of equal ones the earlier token first."""
        import numpy as np

        # One number to sort by, which takes a third of the time of three: the neuron, and the float's bits, made to
        # fall as it rises. Adding zero makes the two zeros one.
        bits = (self.values + np.float32(0)).view(np.int32)
        falling = np.where(bits < 0, bits, bits ^ 0x7FFFFFFF).view(np.uint32)
        keys = (self.neurons.astype(np.uint64) << np.uint64(32)) | falling
        order = np.argsort(keys, kind="stable")
        same = np.diff(keys[order]) == 0
        tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
        order[tied] = order[tied][np.lexsort((self.where[order[tied]], keys[order[tied]]))]
        return order


@dataclass(frozen=True, eq=False)
class Best:
    """The K tokens on which each neuron is strongest, strongest first: values and where, (I, K), NOWHERE where none is.

    Ties go to the earlier token, so that the order in which tokens are seen changes nothing.
    """

    values: Floats
    where: Ints

    @classmethod
    def none(cls, neurons: int, most: int) -> Best:
        import numpy as np

        return cls(np.full((neurons, most), -np.inf, np.float32), np.full((neurons, most), NOWHERE, np.int64))

    @cached_property
    def bar(self) -> tuple[Floats, Ints]:
        """Of each neuron the value to reach, -inf where any will do, and the document it stands in, (I,) each."""
        return self.values[:, -1], document_of(self.where[:, -1])

    def candidates(self) -> Candidates:
        import numpy as np

        neurons, places = np.nonzero(self.where != NOWHERE)
        return Candidates(neurons, self.values[neurons, places], self.where[neurons, places])

    def moved(self, documents: int) -> Best:
        return replace(self, where=moved(self.where, documents))

    def __add__(self, other: Best) -> Best:
        return self.with_these([other.candidates()])

    def with_these(self, found: list[Candidates]) -> Best:
        """The best of what it has and of these."""
        import numpy as np

        neurons, most = self.values.shape
        together = _joined([self.candidates(), *found])
        order = together.ordered()
        owner = together.neurons[order]
        rank = np.arange(len(order)) - np.searchsorted(owner, np.arange(neurons))[owner]
        kept = rank < most
        best = Best.none(neurons, most)
        best.values[owner[kept], rank[kept]] = together.values[order[kept]]
        best.where[owner[kept], rank[kept]] = together.where[order[kept]]
        return best


def _joined(found: list[Candidates]) -> Candidates:
    import numpy as np

    return Candidates(*(np.concatenate([getattr(one, name) for one in found]) for name in Candidates.__slots__))


# ------------------------------------------------------------------------------------------------ drawn by a hash


def keys_of(where: Ints, salt: int) -> Keys:
    """A number for each token, as if drawn: SplitMix64 of where it stands (Steele, Lea and Flood, 2014)."""
    import numpy as np

    with np.errstate(over="ignore"):
        x = np.uint64(salt & 0xFFFFFFFFFFFFFFFF) + where.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """Tokens of lowest key, R at most, and every neuron's value on them: keys and where (R,), values (R, I)."""

    keys: Keys
    where: Ints
    values: Floats

    def moved(self, documents: int) -> Drawn:
        return replace(self, where=moved(self.where, documents))

    def lowest(self, most: int) -> Drawn:
        """Those of lowest key, in their order; the earlier token of two that share one."""
        import numpy as np

        kept = np.lexsort((self.where, self.keys))[:most]
        return Drawn(self.keys[kept], self.where[kept], self.values[kept])

    def joined(self, other: Drawn) -> Drawn:
        import numpy as np

        return Drawn(*(np.concatenate([getattr(one, name) for one in (self, other)]) for name in Drawn.__slots__))
