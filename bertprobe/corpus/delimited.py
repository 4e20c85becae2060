"""Formats with fields between delimiters, in lines or over several in quotes: .csv and .tsv."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import islice

from bertprobe.corpus.files import Stretch
from bertprobe.corpus.rows import BadRow, Fields, Row, check_fields, utf8_size, with_label
from bertprobe.errors import CorruptFile

LONGEST = 1 << 26  # characters of a field: more is a quote that nobody closed

_Found = tuple[int, list[str] | csv.Error]


def rows(delimiter: str, stretch: Stretch, fields: Fields, start: int) -> Iterator[Row | BadRow]:
    """Each row's text and id; lines with nothing in them are none."""
    numbered = _numbered(delimiter, stretch)
    header = _header(numbered, stretch, fields)
    text = header.index(fields.text)
    id, label = (None if name is None else header.index(name) for name in (fields.id, fields.label))
    for number, row in islice(numbered, start, None):
        if isinstance(row, csv.Error):
            yield BadRow(number, f"is quoted wrongly ({row})")
        elif len(row) != len(header):
            yield BadRow(number, f"has not the header's {len(header)} fields but {len(row)}")
        else:
            found = Row(number, "" if id is None else row[id], row[text])
            yield found if label is None else with_label(found, row[label], fields)


def sizes(delimiter: str, stretch: Stretch, fields: Fields) -> Iterator[tuple[int, int]]:
    """The number of each row and the bytes of its text."""
    numbered = _numbered(delimiter, stretch)
    header = _header(numbered, stretch, fields)
    text = header.index(fields.text)
    for number, row in numbered:
        yield number, utf8_size(row[text]) if isinstance(row, list) and len(row) == len(header) else 0


def _header(numbered: Iterator[_Found], stretch: Stretch, fields: Fields) -> list[str]:
    _, header = next(numbered, (-1, []))
    if isinstance(header, csv.Error):
        raise CorruptFile(f"{stretch.name} has a header that is quoted wrongly ({header})", "mend it")
    check_fields(stretch.name, fields, header)
    return header


def _numbered(delimiter: str, stretch: Stretch) -> Iterator[_Found]:
    """The header as -1 and the rows from 0; where quotes are wrong, what is wrong, and on with the next line."""
    number = -1
    with stretch.text(newline="") as lines:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        while (row := _next(reader)) is not None:
            if isinstance(row, csv.Error) and "limit" in str(row):
                raise CorruptFile(
                    f"{stretch.name}: row {number} (the first is 0) has a field of over {LONGEST:,} characters",
                    "close its quotes, or cut it",
                )
            if row:
                yield number, row
                number += 1


def _next(reader: Iterator[list[str]]) -> list[str] | csv.Error | None:
    """The next row, or what is wrong with it; how long a field may be is one setting for all that read .csv here."""
    before = csv.field_size_limit(LONGEST)
    try:
        return next(reader, None)
    except csv.Error as error:
        return error
    finally:
        csv.field_size_limit(before)
