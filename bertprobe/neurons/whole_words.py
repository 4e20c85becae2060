"""Which whole word a token is a part of: a tokenizer cuts words, and one looks for them whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bertprobe.neurons.best import NOWHERE
from bertprobe.neurons.windows import Windows

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]
    Flags = npt.NDArray[np.bool_]

MARKS = ("▁", "Ġ")  # before a piece that begins a word: SentencePiece's, and that of byte-level BPE
REST = "##"  # before one that goes on with a word: WordPiece's


class WholeWords:
    """Whole words by number, in the order in which they are met: `found`."""

    def __init__(self, ids: npt.NDArray[np.int32], piece: Callable[[int], str]) -> None:
        import numpy as np

        self._numbers: dict[str, int] = {}
        self._piece = piece
        used = np.unique(ids).tolist()
        is_marked = any(piece(id).startswith(MARKS) for id in used)
        self._goes_on, self._can_be_gone_on = np.zeros((2, max(used, default=0) + 1), np.bool_)
        for id in used:
            text = piece(id)
            begins = text.startswith(MARKS)  # the mark itself is a letter to Unicode
            self._goes_on[id] = text.startswith(REST) or (is_marked and not begins and text[:1].isalnum())
            self._can_be_gone_on[id] = not is_marked or text in MARKS or text[-1:].isalnum()

    @property
    def found(self) -> tuple[str, ...]:
        """The words so far."""
        return tuple(self._numbers)

    def of(self, texts: Windows, places: Ints) -> Ints:
        """The number of the word of which each token is a part, NOWHERE where there is no token."""
        import numpy as np

        firsts, lasts = self._ends(texts)
        there = places != NOWHERE
        found = np.full(places.shape, NOWHERE, np.int64)
        spans, which = np.unique(np.stack([firsts[places[there]], lasts[places[there]]]), axis=1, return_inverse=True)
        numbers = [self._number(texts.ids[first : last + 1].tolist()) for first, last in spans.T.tolist()]
        found[there] = np.array(numbers, np.int64)[which.reshape(-1)]
        return found

    def _ends(self, texts: Windows) -> tuple[Ints, Ints]:
        """Where the word of each token begins and ends."""
        import numpy as np

        ids, every = texts.ids, np.arange(len(texts.ids))
        begins = np.ones(len(ids) + 1, np.bool_)
        begins[1:-1] = ~(self._goes_on[ids[1:]] & self._can_be_gone_on[ids[:-1]])
        begins[texts.bounds] = True
        firsts = np.flatnonzero(begins[:-1])
        of_each = np.cumsum(begins[:-1]) - 1
        lasts = np.append(firsts[1:], len(ids)) - 1
        return firsts[of_each], np.maximum(lasts[of_each], every)

    def _number(self, ids: list[int]) -> int:
        word = "".join(self._piece(id).removeprefix(REST).lstrip("".join(MARKS)) for id in ids)
        return self._numbers.setdefault(word or self._piece(ids[0]), len(self._numbers))
