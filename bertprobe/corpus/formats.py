"""The formats of a corpus, a row each: how its files are called and how their rows are read.             FORMATS"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from bertprobe.corpus import delimited, lines, parquet
from bertprobe.corpus.files import COMPRESSIONS, STDIN, Stretch
from bertprobe.corpus.rows import BadRow, Fields, Row
from bertprobe.errors import UnsupportedFile, printable

Rows = Callable[[Stretch, Fields, int], Iterator[Row | BadRow]]
"""The rows of a stretch from the given number on."""
Sizes = Callable[[Stretch, Fields], Iterator[tuple[int, int]]]
"""The number of each row and the bytes of its text, or of its line."""


@dataclass(frozen=True, slots=True)
class Format:
    """How rows lie in a file."""

    name: str
    rows: Rows
    sizes: Sizes
    lines: bool = False
    """A row is a line: an uncompressed file can be cut at line ends."""
    arrow: bool = False
    """pyarrow reads it."""
    labels: bool = True
    """A row has fields, one of which may be a label."""
    lists: bool = False
    """A field may be a list, such as of words."""


FORMATS = {
    row.name: row
    for row in (
        Format("txt", lines.txt_rows, lines.sizes, lines=True, labels=False),
        Format("jsonl", lines.jsonl_rows, lines.sizes, lines=True, lists=True),
        Format("csv", partial(delimited.rows, ","), partial(delimited.sizes, ",")),
        Format("tsv", partial(delimited.rows, "\t"), partial(delimited.sizes, "\t")),
        Format("parquet", parquet.rows, parquet.sizes, arrow=True, lists=True),
    )
}


def told_by_name(path: str) -> tuple[Format, str]:
    """The format and the compression that a file's name tells."""
    if path == STDIN:
        return FORMATS["txt"], ""
    *rest, last = path.lower().split(".")
    compression = last if last in COMPRESSIONS else ""
    suffix = rest[-1] if compression and rest else last
    if suffix not in FORMATS:
        known = ", ".join(f".{name}" for name in FORMATS)
        raise UnsupportedFile(
            f"{printable(path)} is no corpus by its name",
            f"call it {known}, with .gz or .zst behind if it is compressed",
        )
    return FORMATS[suffix], compression
