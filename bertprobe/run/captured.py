"""What a run shows: the values at one place in the model, and which texts and tokens their rows are.

Letters: N texts and T tokens of a batch, H hidden size, I intermediate size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from bertprobe.backends import Array, Backend

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from bertprobe.tokens import Packed

    Floats = npt.NDArray[np.float32]
    Ints = npt.NDArray[np.int64]

T = TypeVar("T")

HIDDEN = "last hidden state"  # of every token, (T, H)
FIRST = "first token"  # its last hidden state, (N, H)
POOLED = "pooler"  # what the pooler makes of it, (N, H)
STATES = "hidden states"  # of every token, (T, H): call 0 is what the embeddings put out, call n + 1 what layer n does


@dataclass(frozen=True, slots=True)
class Site:
    """Where values arise: a part by its label, or HIDDEN, FIRST, POOLED or STATES, which are of the model as a whole.

    `call` counts the calls of a module that several layers share, as in ALBERT, and STATES, and is 0 elsewhere.
    """

    part: str
    call: int = 0

    @property
    def label(self) -> str:
        """The site in words: `intermediate.3`, or `intermediate.0 (call 2)`."""
        return self.part if self.call == 0 else f"{self.part} (call {self.call})"


@dataclass(frozen=True, slots=True, eq=False)
class Captured:
    """The values at a site for a batch, on the backend that made them, a row a token.

    `before` is the dense layer's output and `after` what came of it, (rows, I) each; `before` is None where a site has
    none. `lengths` (N,) are the rows of each of the batch's texts: its tokens, unless the family has rows of its own.
    """

    site: Site
    batch: Packed
    lengths: Ints
    after: Array
    before: Array | None
    backend: Backend

    def values(self, *, before: bool = False) -> Array:
        """The values after the activation or before it, on the backend."""
        return self.before if before and self.before is not None else self.after

    def numpy(self, *, before: bool = False) -> Floats:
        """The same in numpy, float32."""
        import numpy as np

        return np.asarray(self.backend.numpy(self.values(before=before)), np.float32)

    def texts(self, *, before: bool = False) -> list[Floats]:
        """A matrix (rows, I) for each text of the batch."""
        import numpy as np

        return np.split(self.numpy(before=before), np.cumsum(self.lengths)[:-1])


Tap = Callable[[Captured], None]
"""Called with the values at each site that was asked for, as they arise."""


class Collector(Protocol):
    """What is kept of a run: see `run_texts`, which calls it.

    `reduce` is called where the values arise, while the model runs, and perhaps in several threads at once: it makes of
    a batch's values what is kept of them. `add` is given that afterwards, batch by batch in their order, in one thread.
    """

    @property
    def needs(self) -> frozenset[str]:
        """The parts whose values it has to be shown, by label, and which of HIDDEN, FIRST, POOLED and STATES."""

    @property
    def is_finite(self) -> bool:
        """Whether no number that was kept is NaN or infinite."""

    def reduce(self, captured: Captured) -> Any:
        """What to keep of a batch's values at a site."""

    def add(self, site: Site, batch: Packed, reduced: Any) -> None:
        """Takes what `reduce` made of a batch."""


class InOrder(Generic[T]):
    """What was kept of each text: put in batch by batch, read in the order of the input."""

    def __init__(self) -> None:
        self._items: dict[int, T] = {}

    def put(self, batch: Packed, items: Iterable[T]) -> None:
        """An item for each text of a batch."""
        self._items.update(zip(batch.places.tolist(), items, strict=True))

    def __iter__(self) -> Iterator[T]:
        return (self._items[place] for place in sorted(self._items))

    def __len__(self) -> int:
        return len(self._items)


def needs_of(collectors: Iterable[Collector]) -> frozenset[str]:
    """All that several collectors need together."""
    return frozenset().union(*(collector.needs for collector in collectors))
