"""The format .parquet, read by pyarrow, a window of a row group at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import IO, Any

from bertprobe.corpus.files import WINDOW, Stretch
from bertprobe.corpus.rows import BadRow, Fields, Row, check_fields, of_words, utf8_size, with_label
from bertprobe.errors import UnsupportedFile, quoted

BATCH, BATCH_BYTES = 1024, 1 << 20
"""How many rows are read together at most, and how many bytes they have about."""
DECODED = 64  # rows whose texts are there as such at a time: a dictionary holds a text once, however often it occurs
TEXT = {"string", "large_string", "string_view", "binary", "large_binary", "binary_view", "null"}
WHOLE = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}


def rows(stretch: Stretch, fields: Fields, start: int) -> Iterator[Row | BadRow]:
    """Each row's text and id, from the row group on in which the first lies."""
    for first, part in _parts(stretch, fields, start):
        texts = part.column(fields.text).to_pylist() if fields.words else _strings(part.column(fields.text))
        ids = _strings(part.column(fields.id)) if fields.id is not None else [""] * len(texts)
        labels = part.column(fields.label).to_pylist() if fields.label is not None else [None] * len(texts)
        for number, (text, id, label) in enumerate(zip(texts, ids, labels, strict=True), first):
            if text is None or id is None:
                yield BadRow(number, f"has null as {quoted(fields.text if text is None else fields.id or '')}")
            elif fields.words:
                yield of_words(number, id, text, label, fields)
            else:
                found = Row(number, id, text)
                yield found if fields.label is None else with_label(found, label, fields)


def sizes(stretch: Stretch, fields: Fields) -> Iterator[tuple[int, int]]:
    """The number of each row and the bytes of its text."""
    import pyarrow.compute as pc

    if fields.words:
        for row in rows(stretch, fields, 0):
            yield row.number, utf8_size(row.text) if isinstance(row, Row) else 0
        return
    for first, part in _parts(stretch, fields, 0):
        lengths = pc.binary_length(_as_bytes(part.column(fields.text))).to_pylist()
        yield from enumerate((length or 0 for length in lengths), first)


def _parts(stretch: Stretch, fields: Fields, start: int) -> Iterator[tuple[int, Any]]:
    """A few rows at a time, from a number on, and the number of their first."""
    for first, batch in _batches(stretch, fields, start):
        for at in range(max(start - first, 0), batch.num_rows, DECODED):
            yield first + at, batch.slice(at, DECODED)


def _batches(stretch: Stretch, fields: Fields, start: int) -> Iterator[tuple[int, Any]]:
    from pyarrow import parquet

    with (
        stretch.open() as raw,
        _seekable(raw) as file,
        parquet.ParquetFile(file, buffer_size=WINDOW, pre_buffer=False, page_checksum_verification=True) as table,
    ):
        _check(stretch, fields, table.schema_arrow)
        first = 0
        for index, group in enumerate(map(table.metadata.row_group, range(table.num_row_groups))):
            if first + group.num_rows <= start:
                first += group.num_rows
                continue
            names = list(dict.fromkeys(fields.names))
            for batch in table.iter_batches(_size(group, names), row_groups=[index], columns=names, use_threads=False):
                yield first, batch
                first += batch.num_rows


def _size(group: Any, names: list[str]) -> int:
    """How many rows of a group have about as many bytes as are wanted together."""
    columns = [column for column in map(group.column, range(group.num_columns)) if column.path_in_schema in names]
    held: int = sum(column.total_uncompressed_size for column in columns)
    rows: int = group.num_rows
    return min(BATCH, max(1, BATCH_BYTES * rows // max(1, held)))


@contextmanager
def _seekable(raw: IO[bytes]) -> Iterator[IO[bytes]]:
    """A .parquet that was compressed as a whole, unpacked into a file without a name: it is read from its end."""
    if raw.seekable():
        yield raw
        return
    with TemporaryFile() as file:
        while piece := raw.read(WINDOW):
            file.write(piece)
        yield file


def _strings(column: Any) -> list[str | None]:
    """What is not UTF-8 becomes U+FFFD."""
    values = _as_bytes(column).to_pylist()
    return [None if value is None else value.decode("utf-8", "replace") for value in values]


def _as_bytes(column: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_integer(column.type):
        column = column.cast(pa.string())
    return column.cast(pa.large_binary())


def _check(stretch: Stretch, fields: Fields, schema: Any) -> None:
    check_fields(stretch.name, fields, schema.names)
    for name in fields.names:
        if name == fields.label or (fields.words and name == fields.text):
            continue  # a list, or a label: these are looked at row by row
        kind = schema.field(name).type
        kind = str(getattr(kind, "value_type", kind) if str(kind).startswith("dictionary") else kind)
        if kind not in TEXT and not (name == fields.id and kind in WHOLE):
            raise UnsupportedFile(f"{stretch.name} has {quoted(name)} as {kind}, not as text", "name another field")
