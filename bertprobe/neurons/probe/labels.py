"""The labels of a corpus: which there are, which texts are held out, and the labels of the control task.

The control task (Hewitt & Liang 2019, "Designing and Interpreting Probes with Control Tasks") gives each type of word a
label by chance, as often as the corpus has it; a probe that learns these well learns by heart.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from bertprobe.corpus import Corpus, Document
from bertprobe.errors import BertprobeError, quoted, shortened

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]

MOST_LABELS = 500
UNKNOWN = -1
"""The number of a label that no item has that the probe learns from."""


def drawn(seed: int, purpose: str, what: str) -> float:
    """A number from 0 to 1 that depends on these alone, wherever and in whatever order it is drawn."""
    digest = hashlib.blake2b(f"{seed} {purpose} {what}".encode("utf-8", "backslashreplace"), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


@dataclass(frozen=True, slots=True)
class Split:
    """Which texts are held out: a share of them, by a hash of the text, so that equal texts are on the same side."""

    held_out: float
    seed: int

    def holds(self, document: Document) -> bool:
        return drawn(self.seed, "held out", document.text) < self.held_out


@dataclass(frozen=True, slots=True)
class Survey:
    """What labels a corpus has, by a reading that runs no model.

    `learnt` and `held` count items, words or texts, by label, on either side of the split; `characters` are those of
    texts with a label, learnt from and held out; `unlabelled` counts items without label, `skipped` bad rows.
    """

    learnt: Mapping[str, int]
    held: Mapping[str, int]
    characters: tuple[int, int]
    unlabelled: int
    skipped: int
    first_skipped: str


def survey(corpus: Corpus, split: Split) -> Survey:
    """Counts the labels of a corpus."""
    counts: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    characters, unlabelled = [0, 0], 0
    documents = corpus.documents()
    for document in documents:
        side = split.holds(document)
        labels = [label for label in labels_of(corpus, document) if label is not None]
        unlabelled += len(labels_of(corpus, document)) - len(labels)
        counts[side].update(labels)
        characters[side] += len(document.text) if labels else 0
    skipped = documents.skipped.total()
    return Survey(*counts, (characters[0], characters[1]), unlabelled, skipped, documents.first_skipped)


def labels_of(corpus: Corpus, document: Document) -> tuple[str | None, ...]:
    """The labels of a document's words, or its own."""
    return document.labels if corpus.fields.words else (document.label,)


@dataclass(frozen=True)
class Labelling:
    """The labels that are probed for, sorted, and how many items of each are learnt from, (K,)."""

    names: tuple[str, ...]
    counts: tuple[int, ...]
    seed: int
    _controls: dict[str, int] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, found: Survey, seed: int) -> Labelling:
        """Raises `BertprobeError` where there is nothing to tell apart, or too much."""
        names = sorted(found.learnt)
        if not names and not found.held:
            raise BertprobeError("no text has a label", "look at the files and at the field: `label_field=NAME`")
        if not names:
            raise BertprobeError(
                "no text that is learnt from has a label", "look at the field, or hold out less: `held_out=0`"
            )
        if len(names) == 1:
            raise BertprobeError(
                f"all that is learnt from has the label {quoted(names[0])}", "a probe tells labels apart: give it two"
            )
        if len(names) > MOST_LABELS:
            raise BertprobeError(
                f"there are {len(names):,} labels, such as {shortened([quoted(name) for name in names], 3)}",
                f"name a field with at most {MOST_LABELS}",
            )
        return cls(tuple(names), tuple(found.learnt[name] for name in names), seed)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def _numbers(self) -> Mapping[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    @cached_property
    def _edges(self) -> Ints:
        import numpy as np

        return np.cumsum(self.counts)

    def number(self, label: str) -> int:
        """The number of a label, UNKNOWN of one that is not learnt from."""
        return self._numbers.get(label, UNKNOWN)

    def control(self, what: str) -> int:
        """The label that the control task gives a type of word, or a text: by chance, as often as there are items."""
        if what not in self._controls:
            place = int(drawn(self.seed, "control", what) * int(self._edges[-1]))
            if len(self._controls) >= 2**20:
                self._controls.clear()
            self._controls[what] = int(self._edges.searchsorted(place, "right"))
        return self._controls[what]


def chosen(corpus: Corpus, split: Split, *, held: bool) -> Iterator[Document]:
    """The documents with labels on one side of the split."""
    documents: Iterable[Document] = corpus.documents()
    for document in documents:
        if split.holds(document) == held and any(label is not None for label in labels_of(corpus, document)):
            yield document
