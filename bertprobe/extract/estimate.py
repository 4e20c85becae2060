"""What a run comes to, before it runs: texts, tokens and bytes.

Texts and characters are counted, which takes one reading; tokens of a small corpus, too. Of a large one a sample
spread over it is tokenized, and has its tables written to memory: how many tokens a character comes to, and bytes of a
table a row, hardly differs between samples.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from bertprobe.corpus import Document, Shard
from bertprobe.errors import NotFound
from bertprobe.extract.rows import Layout
from bertprobe.extract.shard import Work, tabled
from bertprobe.sharded import Part

SAMPLE = 2**18  # characters from which a sample does, and at most twice as many are taken
PER_FILE = 130  # bytes that the manifest gains for each file that is written


@dataclass(frozen=True, slots=True)
class Estimate:
    """Texts, tokens and bytes of a run; `exact` where all texts were tokenized."""

    documents: int
    tokens: int
    bytes: int
    exact: bool

    def __add__(self, other: Estimate) -> Estimate:
        sums = self.documents + other.documents, self.tokens + other.tokens, self.bytes + other.bytes
        return Estimate(*sums, self.exact and other.exact)


def estimate(work: Work, shards: Sequence[Shard], part: Part, manifest: int) -> tuple[Estimate, list[int]]:
    """What a part of the shards will come to, beside a manifest of so many bytes, and the texts of each of all shards.

    Raises `NotFound` where there is no text.
    """
    chosen = part.chosen(shards)
    counted = _Counted(work, [shard.number for shard in chosen])
    sampled = counted.read(shards)
    counts = [counted.by_shard[shard.number] for shard in shards]
    if not any(counts):
        raise NotFound("there is no text", "look at the corpus, and at which field is read")
    return _estimate(work, chosen, counted, sampled, counts, manifest), counts


def _estimate(
    work: Work,
    shards: Sequence[Shard],
    counted: _Counted,
    sampled: Sequence[tuple[int, Document]],
    counts: Sequence[int],
    manifest: int,
) -> Estimate:
    if counted.stride == 1:
        first = sum(counts[: shards[0].number]) if shards else 0
        return _exact(work, sampled, shards, first, manifest)
    documents, tokens_bytes, tokens = _sizes(work, [document for _, document in sampled])
    nothing = sum(_sizes(work, [])[:2])
    share = counted.documents / len(sampled)
    scale = counted.characters / counted.sampled
    total = round(tokens * scale)
    tables = (documents - _sizes(work, [])[0]) * share + (tokens_bytes - _sizes(work, [])[1]) * scale
    header = len(Layout.of(work.tensors, 0, counted.documents // len(shards), total // len(shards)).header)
    rows = sum(tensor.count(counted.documents, total) * tensor.row_bytes for tensor in work.tensors)
    return Estimate(
        counted.documents,
        total,
        rows + round(tables) + len(shards) * (header + nothing) + _manifest(work, manifest, len(shards)),
        False,
    )


class _Counted:
    """Texts of all shards; of the chosen ones their characters, and a sample: every so many-th, so that all is seen."""

    def __init__(self, work: Work, chosen: Collection[int]) -> None:
        self._work, self._chosen = work, frozenset(chosen)
        self.by_shard: Counter[int] = Counter()
        self._most = 6 * work.longest if work.truncate else None  # characters of a text that come to tokens
        self.documents = self.characters = self.sampled = 0
        self.stride = 1

    def read(self, shards: Sequence[Shard]) -> list[tuple[int, Document]]:
        """The sample, each text with the number of its shard."""
        sample: list[tuple[int, Document]] = []
        for shard, documents in self._work.corpus.walk(shards):
            for document in documents:
                self.by_shard[shard.number] += 1
                if shard.number not in self._chosen:
                    continue
                size = self._size(document)
                self.characters += size
                if self.documents % self.stride == 0:
                    sample.append((shard.number, document))
                    self.sampled += size
                    if self.sampled > 2 * SAMPLE and len(sample) > 1:
                        sample = sample[::2]
                        self.sampled = sum(self._size(document) for _, document in sample)
                        self.stride *= 2
                self.documents += 1
        return sample

    def _size(self, document: Document) -> int:
        size = len(document.text) + 8  # of the special tokens around it
        return size if self._most is None else min(size, self._most)


def _exact(
    work: Work, texts: Sequence[tuple[int, Document]], shards: Sequence[Shard], first: int, manifest: int
) -> Estimate:
    total = documents = tokens = 0
    for number, shard in _by_shard(texts, shards):
        of_documents, of_tokens, count = _sizes(work, shard, first + documents)
        layout = Layout.of(work.tensors, number, len(shard), count)
        total += of_documents + of_tokens + layout.size
        documents, tokens = documents + len(shard), tokens + count
    return Estimate(documents, tokens, total + _manifest(work, manifest, len(shards)), True)


def _by_shard(texts: Sequence[tuple[int, Document]], shards: Sequence[Shard]) -> Iterator[tuple[int, list[Document]]]:
    for shard in shards:
        yield shard.number, [document for number, document in texts if number == shard.number]


def _sizes(work: Work, documents: Sequence[Document], number: int = 0) -> tuple[int, int, int]:
    """Bytes of the tables of documents and of tokens, and the number of tokens."""
    of_documents, of_tokens = io.BytesIO(), io.BytesIO() if work.has_token_rows else None
    texts = tabled(work, documents, number, of_documents, of_tokens)
    return of_documents.tell(), 0 if of_tokens is None else of_tokens.tell(), texts.tokens


def _manifest(work: Work, size: int, shards: int) -> int:
    files = 3 if work.has_token_rows else 2
    return size + shards * (files * PER_FILE + 60)
