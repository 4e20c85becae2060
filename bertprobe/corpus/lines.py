"""Formats with a row a line: .txt and .jsonl, which can be cut at line ends."""

from __future__ import annotations

import hashlib
import json
from codecs import BOM_UTF8
from collections.abc import Iterator
from itertools import islice

from bertprobe.corpus.files import WINDOW, CorpusFile, Stretch, between, unpacked
from bertprobe.corpus.rows import BadRow, Fields, Row, kind, mended, missing, of_words, utf8_size, with_label
from bertprobe.errors import printable, quoted


def txt_rows(stretch: Stretch, fields: Fields, start: int) -> Iterator[Row | BadRow]:
    """Each line as a text, the empty ones too."""
    for number, line in _numbered(stretch, start):
        yield Row(number, "", line)


def jsonl_rows(stretch: Stretch, fields: Fields, start: int) -> Iterator[Row | BadRow]:
    """Each line's object; lines of white space are none."""
    for number, line in _numbered(stretch, start):
        if line and not line.isspace():
            yield _parsed(number, line, fields)


def sizes(stretch: Stretch, fields: Fields) -> Iterator[tuple[int, int]]:
    """The number of each line and its bytes in UTF-8."""
    for number, line in _numbered(stretch, 0):
        yield number, utf8_size(line)


def cuts(file: CorpusFile, size: int) -> Iterator[int]:
    """Where an uncompressed file can be cut: each part but the last has `size` bytes, and more to the end of a line."""
    start = 0
    with unpacked(file).open() as opened:
        while start + size < file.size:
            opened.seek(start + size - 1)
            while (piece := opened.readline(WINDOW)) and not piece.endswith(b"\n"):
                continue
            start = opened.tell()
            if start < file.size:
                yield start


def counted(file: CorpusFile, start: int, stop: int) -> tuple[int, str]:
    """How many lines there are between two cuts, and the sha256 of the bytes there."""
    lines, last, mark = 0, b"\n", b"" if start else BOM_UTF8
    digest = hashlib.sha256()
    with between(file, start, stop).open() as opened:
        while piece := opened.read(WINDOW):
            digest.update(piece)
            piece, mark = piece.removeprefix(mark), b""
            lines += piece.count(b"\n")
            if b"\r" in piece or last == b"\r":
                lines += piece.count(b"\r") - piece.count(b"\r\n") - (last + piece[:1] == b"\r\n")
            last = piece[-1:] or last
    return lines + (last not in (b"\n", b"\r")), digest.hexdigest()


def _numbered(stretch: Stretch, start: int) -> Iterator[tuple[int, str]]:
    """Lines without their ends, numbered."""
    with stretch.text() as lines:
        for number, line in islice(enumerate(lines, stretch.first), max(start - stretch.first, 0), None):
            yield number, line.rstrip("\n")


def _parsed(number: int, line: str, fields: Fields) -> Row | BadRow:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return BadRow(number, f"is not JSON ({printable(str(error)[:100])})")
    if not isinstance(value, dict):
        return BadRow(number, f"is no object but {kind(value)}")
    for name in fields.names:
        if name not in value:
            return BadRow(number, missing(name, list(value)))
    text = value[fields.text]
    if not isinstance(text, str) and not fields.words:
        return BadRow(number, f"has {kind(text)} as {quoted(fields.text)}, not a text")
    id = "" if fields.id is None else value[fields.id]
    if isinstance(id, bool) or not isinstance(id, (str, int)):
        return BadRow(number, f"has {kind(id)} as {quoted(fields.id or '')}, not a text or whole number")
    if fields.words:
        return of_words(number, mended(str(id)), text, value[fields.label], fields)
    row = Row(number, mended(str(id)), mended(text))
    return row if fields.label is None else with_label(row, value[fields.label], fields)
