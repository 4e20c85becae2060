"""One shard: its texts through a model, and what is kept of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bertprobe.corpus import Corpus, CorpusFile, Document, Documents, Shard
from bertprobe.errors import BertprobeError, printable
from bertprobe.neurons.scan import Kept, NeuronScan, SiteScan
from bertprobe.neurons.state import Done
from bertprobe.run import Captured, Runner, Site, run_encoded
from bertprobe.tokens import Encoded, beginning, check_length, chunks

if TYPE_CHECKING:
    from bertprobe.tokens import Packed

Advance = Callable[[int, int], None]
"""Called with the texts and tokens of each batch that is done."""


@dataclass(frozen=True, slots=True)
class Work:
    """What every shard is scanned with: the corpus, the model, and what is kept of the parts with these `labels`."""

    corpus: Corpus
    runner: Runner
    labels: tuple[str, ...]
    kept: Kept
    seed: int
    truncate: bool

    def scanned(
        self, shard: Shard, documents: Documents, before: Mapping[Site, SiteScan], advance: Advance
    ) -> tuple[Mapping[Site, SiteScan], Done]:
        """What is found in a shard, whose documents count from 0, and what it came to.

        `before` is what was found in documents that stand before these: what could not be kept beside it is left out.
        Raises `BertprobeError` where an activation is NaN or infinite.
        """
        file = self.corpus.files[shard.file]
        scan = NeuronScan(self.labels, self.kept, salt_of(self.seed, file, shard), before)
        counted = _Counted(text for _, text in self.tokenized(documents))
        run_encoded(self.runner, counted, scan, Told(self.labels[0], advance))
        if not scan.is_finite:
            raise BertprobeError(
                f"{printable(self.runner.checkpoint.ref)} puts out NaN or infinity for a text of {file.shown}",
                "look at its weights with: bertprobe inspect",
            )
        done = Done(counted.documents, counted.tokens, counted.truncated, sum(documents.skipped.values()))
        return scan.found, done

    def tokenized(self, documents: Iterable[Document]) -> Iterator[tuple[Document, Encoded]]:
        """Documents with their tokens; raises `BertprobeError` for one that is too long."""
        longest = self.runner.engine.longest
        for chunk in chunks(documents, lambda document: len(document.text)):
            texts = [document.text for document in chunk]
            found = self.runner.tokenizer.encode_many(texts, longest=longest if self.truncate else None)
            for document, text in zip(chunk, found, strict=True):
                check_length(len(text), longest, partial(self._named, document))
                yield document, text

    def _named(self, document: Document) -> str:
        shown = self.corpus.files[document.file].shown
        return f"{shown}, row {document.row} from 0 ({beginning(document.text)}),"


class Told:
    """A collector that keeps nothing and tells of each batch that a part has run."""

    is_finite = True

    def __init__(self, label: str, advance: Advance) -> None:
        self.needs = frozenset({label})
        self._advance = advance

    def reduce(self, captured: Captured) -> None:
        return None

    def add(self, site: Site, batch: Packed, reduced: None) -> None:
        if site.call == 0:
            self._advance(len(batch.lengths), len(batch.ids))


class _Counted:
    """Texts as they pass by."""

    def __init__(self, texts: Iterator[Encoded]) -> None:
        self._texts = texts
        self.documents = self.tokens = self.truncated = 0

    def __iter__(self) -> Iterator[Encoded]:
        for text in self._texts:
            self.documents += 1
            self.tokens += len(text)
            self.truncated += text.truncated > 0
            yield text


def salt_of(seed: int, file: CorpusFile, shard: Shard) -> int:
    """What decides which tokens of a shard are drawn: the seed, the file by its hash, where the shard begins in it."""
    digest = hashlib.blake2b(f"{seed} {file.sha256} {shard.start}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
