"""A corpus cut into shards, each of one file: what is computed, and computed again, by itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from bertprobe.corpus.files import STDIN, CorpusFile, faults_told, unpacked
from bertprobe.corpus.formats import FORMATS
from bertprobe.corpus.lines import counted, cuts
from bertprobe.corpus.rows import Fields
from bertprobe.errors import BadSetting

if TYPE_CHECKING:
    from bertprobe.corpus import Corpus


@dataclass(frozen=True, slots=True)
class Shard:
    """Consecutive rows of one file.

    `unit` says what start and stop count: "bytes" of an uncompressed file of lines, "rows", or nothing of a "stream",
    which cannot be read twice. `row` is the number of the first row; `rows` how many there are, None of a stream:
    as many texts, but for bad rows and the blank lines of a .jsonl. `sha256` is that of a shard's bytes, where they are
    its unit: whoever computes it elsewhere knows that it is the same.
    """

    number: int
    file: int
    unit: str
    start: int
    stop: int
    row: int
    rows: int | None
    sha256: str | None = None


def plan(corpus: Corpus, *, text_bytes: int) -> tuple[Shard, ...]:
    """Shards of about so many bytes of text: they depend on the files and on `text_bytes` alone.

    Every file is read once. Lines count with all that is in them, rows of a table with their text.
    """
    if text_bytes < 1:
        raise BadSetting(f"shards of {text_bytes} bytes cannot be made", "choose a number above 0")
    shards: list[Shard] = []
    for index, file in enumerate(corpus.files):
        with faults_told(file.path, file.format):
            for span in _spans(file, corpus.fields, text_bytes):
                shards.append(Shard(len(shards), index, *span))
    return tuple(shards)


def whole(index: int, file: CorpusFile) -> Shard:
    """All rows of a file."""
    if by_bytes(file):
        return Shard(0, index, "bytes", 0, file.size, 0, None)
    return Shard(0, index, "stream" if file.path == STDIN else "rows", 0, sys.maxsize, 0, None)


def by_bytes(file: CorpusFile) -> bool:
    """Whether a file is cut at line ends."""
    return FORMATS[file.format].lines and not file.compression and file.path != STDIN


_Span = tuple[str, int, int, int, int | None, str | None]


def _spans(file: CorpusFile, fields: Fields, size: int) -> Iterator[_Span]:
    if file.path == STDIN:
        yield "stream", 0, 0, 0, None, None
    elif by_bytes(file):
        yield from _of_bytes(file, size)
    else:
        yield from _of_rows(file, fields, size)


def _of_bytes(file: CorpusFile, size: int) -> Iterator[_Span]:
    row = 0
    for start, stop in pairwise([0, *cuts(file, size), file.size]):
        if start < stop:
            rows, digest = counted(file, start, stop)
            yield "bytes", start, stop, row, rows, digest
            row += rows


def _of_rows(file: CorpusFile, fields: Fields, size: int) -> Iterator[_Span]:
    start = stop = held = 0
    for number, text in FORMATS[file.format].sizes(unpacked(file), fields):
        stop, held = number + 1, held + text
        if held >= size:
            yield "rows", start, stop, start, stop - start, None
            start, held = stop, 0
    if start < stop:
        yield "rows", start, stop, start, stop - start, None
