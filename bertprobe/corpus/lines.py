"""Formats with a row a line: .txt and .jsonl, which can be cut at line ends."""

from __future__ import annotations

import hashlib
import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from itertools import islice
from typing import Any

from bertprobe.corpus.files import WINDOW, CorpusFile, Stretch, between, unpacked
from bertprobe.corpus.rows import BadRow, Fields, Row, missing, utf8_size
from bertprobe.errors import printable, quoted

_HALVES = re.compile("[\ud800-\udfff]")


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
        return BadRow(number, f"is no object but {_kind(value)}")
    for name in fields.names:
        if name not in value:
            return BadRow(number, missing(name, list(value)))
    text = value[fields.text]
    if not isinstance(text, str):
        return BadRow(number, f"has {_kind(text)} as {quoted(fields.text)}, not a text")
    id = "" if fields.id is None else value[fields.id]
    if isinstance(id, bool) or not isinstance(id, (str, int)):
        return BadRow(number, f"has {_kind(id)} as {quoted(fields.id or '')}, not a text or whole number")
    return Row(number, _whole(str(id)), _whole(text))


def _whole(text: str) -> str:
    """Halves of surrogate pairs, which JSON can spell and UTF-8 cannot carry, become U+FFFD."""
    return text if text.isascii() else _HALVES.sub("\ufffd", text)


def _kind(value: Any) -> str:
    kinds = {"NoneType": "null", "bool": "true or false", "dict": "an object", "list": "a list", "str": "a text"}
    return kinds.get(type(value).__name__, "a number")
