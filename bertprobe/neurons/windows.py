"""The tokens around many places of a corpus, each kept once: what an atlas shows of the texts."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bertprobe.errors import CorruptFile
from bertprobe.neurons.best import NOWHERE, POSITIONS, document_of, position_of
from bertprobe.neurons.embedded import Passage

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]
    Ids = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """S stretches of tokens that do not touch, as they stand in the corpus.

    `where` (S,) are their first tokens, as in `best`; `bounds` (S + 1,) where each begins in `ids` (T,) and the last
    ends; `rows` (S,) the rows of their files in which they stand.
    """

    where: Ints
    bounds: Ints
    rows: Ints
    ids: Ids

    def at(self, where: Ints) -> Ints:
        """Where tokens stand in `ids`, NOWHERE where there is none; they must lie in these stretches."""
        import numpy as np

        stretch = np.searchsorted(self.where, where, side="right") - 1
        return np.where(where == NOWHERE, NOWHERE, self.bounds[stretch] + where - self.where[stretch])

    def around(self, where: Ints, most: int) -> Windows:
        """What of these stands around tokens, as many as `most` on either side of each."""
        import numpy as np

        firsts, stops = _spans(where, most)
        stretch = np.searchsorted(self.where, firsts, side="right") - 1
        starts = self.bounds[stretch] + firsts - self.where[stretch]
        counts = np.minimum(starts + stops - firsts, self.bounds[stretch + 1]) - starts
        bounds = np.concatenate([[0], np.cumsum(counts)])
        each = np.arange(bounds[-1]) + np.repeat(starts - bounds[:-1], counts)
        return Windows(firsts, bounds, self.rows[stretch], self.ids[each])


def documents_around(where: Ints) -> Sequence[int]:
    """The documents of tokens, each once, rising."""
    import numpy as np

    found: list[int] = np.unique(document_of(where[where != NOWHERE])).tolist()
    return found


def read_windows(passages: Iterable[Passage], where: Ints, most: int) -> Windows:
    """Cuts from passages, which rise as they stand in the corpus, what stands around tokens.

    Raises `CorruptFile` where a token lies in none of them.
    """
    import numpy as np

    firsts, stops = _spans(where, most)
    ids, rows, counts = array("i"), array("q"), array("q")
    for passage, first, stop in _inside(passages, firsts, stops):
        cut = passage.cut(first, stop).ids
        ids.frombytes(cut.astype(np.intc).tobytes())
        rows.append(passage.row)
        counts.append(len(cut))
    if len(counts) < len(firsts):
        document = int(document_of(firsts[len(counts)]))
        raise CorruptFile(f"the text {document} of the scan lacks tokens that were kept of it", "scan the corpus again")
    bounds = np.concatenate([[0], np.cumsum(np.frombuffer(counts, np.int64))]).astype(np.int64)
    return Windows(firsts, bounds, np.frombuffer(rows, np.int64), np.frombuffer(ids, np.int32))


def _spans(where: Ints, most: int) -> tuple[Ints, Ints]:
    """Where the stretches around tokens begin and end, rising; those that meet are one. Ends may lie behind a text's.

    The numbers of two documents lie so far apart that their stretches never meet.
    """
    import numpy as np

    where = np.unique(where[where != NOWHERE])
    position = position_of(where)
    low = where - np.minimum(position, most)
    high = where + np.minimum(most + 1, (1 << POSITIONS) - position)
    apart = np.flatnonzero(low[1:] > high[:-1]) + 1
    return low[np.append(0, apart)[: len(low)]], high[np.append(apart, len(high))[: len(high)] - 1]


def _inside(passages: Iterable[Passage], firsts: Ints, stops: Ints) -> Iterator[tuple[Passage, int, int]]:
    """Each stretch with the passage in which it lies, and its positions; ends with the first that lies in none."""
    documents, low, high = document_of(firsts).tolist(), position_of(firsts).tolist(), (stops - firsts).tolist()
    here = 0
    for passage in passages:
        while here < len(low) and documents[here] == passage.document and passage.first <= low[here] < passage.stop:
            yield passage, low[here], low[here] + high[here]
            here += 1
