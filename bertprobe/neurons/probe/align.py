"""Words and the pieces that a tokenizer makes of them: which tokens of a text stand for which word.

Words are put together with spaces between and become tokens as any text does; a piece belongs to the word in whose
characters it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from bertprobe.corpus import Corpus, Document
from bertprobe.errors import BertprobeError, UnsupportedFile, quoted
from bertprobe.neurons.probe.labels import Labelling, labels_of
from bertprobe.run import Runner
from bertprobe.tokens import Encoded, FastTokenizer, Placed, beginning, check_length, chunks

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]

NONE = -1


@dataclass(frozen=True, slots=True, eq=False)
class Marked:
    """The labelled items of a text, (n,) each: tokens `starts` up to `stops`, and both tasks' labels by number."""

    starts: Ints
    stops: Ints
    labels: Ints
    controls: Ints


@dataclass(slots=True)
class Counts:
    """What passed by: texts, their tokens, labelled items; texts cut, items cut off, words without a piece."""

    texts: int = 0
    tokens: int = 0
    items: int = 0
    truncated: int = 0
    cut: int = 0
    without_pieces: int = 0


class Stretch(NamedTuple):
    """The tokens of a word: the first, and behind the last."""

    start: int
    stop: int


NOTHING = Stretch(0, 0)
"""Of a word that comes to no piece, as one of zero-width characters alone."""
CUT = Stretch(NONE, NONE)
"""Of a word some pieces of which were truncated."""


def stretches(placed: Placed, words: Sequence[str], named: Callable[[], str]) -> list[Stretch]:
    """The tokens of each word of a text; raises `BertprobeError` for a piece that two words share."""
    import numpy as np

    lengths = np.array([len(word) for word in words], np.int64)
    stops = np.cumsum(lengths + 1) - 1
    starts = stops - lengths
    cut = set(_owners(placed.lost, starts, stops, words, named).tolist())
    owners = _owners(placed.spans, starts, stops, words, named).tolist()
    places = [(word, place) for place, word in enumerate(owners) if word != NONE]
    firsts, lasts = dict(reversed(places)), dict(places)
    whole = (Stretch(firsts[word], lasts[word] + 1) if word in firsts else NOTHING for word in range(len(words)))
    return [CUT if word in cut else stretch for word, stretch in enumerate(whole)]


def _owners(spans: Ints, starts: Ints, stops: Ints, words: Sequence[str], named: Callable[[], str]) -> Ints:
    """The word of each token by its characters (S,), NONE of one that stands in no word."""
    import numpy as np

    first = np.searchsorted(stops, spans[:, 0], "right")
    last = np.searchsorted(starts, spans[:, 1], "left") - 1
    real = (spans[:, 0] >= 0) & (spans[:, 0] < spans[:, 1])
    if (torn := np.flatnonzero(real & (first < last))).size:
        one, two = int(first[torn[0]]), int(last[torn[0]])
        raise BertprobeError(
            f"{named()} has a piece that stands for {quoted(words[one])} and {quoted(words[two])} together",
            "its words cannot be told apart by this tokenizer: leave the text out",
        )
    return np.where(real & (first == last), first, NONE)


@dataclass(frozen=True, slots=True)
class Reader:
    """A corpus's documents as tokens with their items marked.

    `counts` grows while they pass by.
    """

    corpus: Corpus
    runner: Runner
    labelling: Labelling
    truncate: bool
    counts: Counts

    def marked(self, documents: Iterable[Document]) -> Iterator[tuple[Encoded, Marked]]:
        """Each document that has an item in the end; raises `BertprobeError` for one that is too long."""
        longest = self.runner.engine.longest
        for chunk in chunks(documents, lambda document: len(document.text)):
            for document, placed in zip(chunk, self._placed(chunk, longest), strict=True):
                named = partial(self._named, document)
                check_length(len(placed.encoded), longest, named)
                found = (
                    self._words(document, placed, named) if self.corpus.fields.words else self._text(document, placed)
                )
                self.counts.truncated += placed.encoded.truncated > 0
                if len(found.labels):
                    self.counts.texts += 1
                    self.counts.tokens += len(placed.encoded)
                    self.counts.items += len(found.labels)
                    yield placed.encoded, found

    def _placed(self, chunk: Sequence[Document], longest: int) -> list[Placed]:
        import numpy as np

        tokenizer, most = self.runner.tokenizer, longest if self.truncate else None
        texts = [document.text for document in chunk]
        if not self.corpus.fields.words:
            nowhere = np.zeros((0, 2), np.int64)
            return [Placed(encoded, nowhere, nowhere) for encoded in tokenizer.encode_many(texts, longest=most)]
        if not isinstance(tokenizer, FastTokenizer):
            raise UnsupportedFile(
                f"{tokenizer.name} does not say where in a text its pieces stand, which words need",
                "have transformers write a tokenizer.json beside it (save_pretrained)",
            )
        return tokenizer.encode_placed(texts, longest=most)

    def _text(self, document: Document, placed: Placed) -> Marked:
        """A text is one item: all its tokens."""
        label = labels_of(self.corpus, document)[0] or ""
        item = (0, len(placed.encoded), self.labelling.number(label), self.labelling.control(document.text))
        return _marked([item])

    def _words(self, document: Document, placed: Placed, named: Callable[[], str]) -> Marked:
        items = []
        for word, label, stretch in zip(
            document.words, document.labels, stretches(placed, document.words, named), strict=True
        ):
            if label is None:
                continue
            if stretch == CUT:
                self.counts.cut += 1
            elif stretch == NOTHING:
                self.counts.without_pieces += 1
            else:
                items.append((*stretch, self.labelling.number(label), self.labelling.control(word)))
        return _marked(items)

    def _named(self, document: Document) -> str:
        shown = self.corpus.files[document.file].shown
        return f"{shown}, row {document.row} from 0 ({beginning(document.text)}),"


def _marked(items: Sequence[tuple[int, int, int, int]]) -> Marked:
    import numpy as np

    columns = np.array(items, np.int64).reshape(-1, 4)
    return Marked(*columns.T)
