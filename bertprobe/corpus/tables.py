"""Formats with a row of several fields, read by pyarrow: .csv, .tsv and .parquet."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from tempfile import TemporaryFile
from typing import IO, Any

from bertprobe.corpus.files import WINDOW, Stretch
from bertprobe.corpus.rows import BadRow, Fields, Row, missing
from bertprobe.errors import CorruptFile, NotFound, UnsupportedFile, quoted

BLOCKS = (1 << 20, 1 << 23, 1 << 26)
"""Bytes of a .csv that are looked at together: the next size where a row does not fit into one."""
BATCH, BATCH_BYTES = 1024, 1 << 21
"""Rows of a .parquet that are read together, and their bytes."""
TEXT = {"string", "large_string", "string_view", "binary", "large_binary", "binary_view", "null"}
WHOLE = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
DECODED = 64  # rows whose texts are there as such at a time: a dictionary holds a long text once


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive rows: their numbers, texts and ids as arrays of pyarrow, and the bad rows between them."""

    numbers: Sequence[int]
    texts: Any
    ids: Any
    bad: Sequence[BadRow] = ()

    @property
    def stop(self) -> int:
        """The number behind the last row."""
        return max((*self.numbers[-1:], *(row.number for row in self.bad[-1:])), default=-1) + 1

    def since(self, number: int) -> Block:
        """The rows from a number on."""
        at = bisect_left(self.numbers, number)
        ids = None if self.ids is None else self.ids.slice(at)
        return Block(self.numbers[at:], self.texts.slice(at), ids, [row for row in self.bad if row.number >= number])


Blocks = Callable[[Stretch, Fields, int], Iterator[Block]]


def rows(blocks: Blocks, stretch: Stretch, fields: Fields, start: int) -> Iterator[Row | BadRow]:
    """The rows of a table from a number on."""
    for block in blocks(stretch, fields, start):
        found = _rows(block, fields)
        yield from sorted([*found, *block.bad], key=attrgetter("number")) if block.bad else found


def sizes(blocks: Blocks, stretch: Stretch, fields: Fields) -> Iterator[tuple[int, int]]:
    """The number of each row and the bytes of its text."""
    import pyarrow.compute as pc

    for block in blocks(stretch, fields, 0):
        lengths = (length for part in _parts(block.texts) for length in pc.binary_length(part).to_pylist())
        found = zip(block.numbers, (length or 0 for length in lengths), strict=True)
        yield from sorted([*found, *((row.number, 0) for row in block.bad)]) if block.bad else found


def _rows(block: Block, fields: Fields) -> Iterator[Row | BadRow]:
    ids = _strings(block.ids) if block.ids is not None else [""] * len(block.numbers)
    for number, text, id in zip(block.numbers, _strings(block.texts), ids, strict=True):
        if text is None or id is None:
            yield BadRow(number, f"has null as {quoted(fields.text if text is None else fields.id or '')}")
        else:
            yield Row(number, id, text)


def _strings(array: Any) -> Iterator[str | None]:
    """What is not UTF-8 becomes U+FFFD."""
    for part in _parts(array):
        for value in part.to_pylist():
            yield None if value is None else value.decode("utf-8", "replace")


def _parts(array: Any) -> Iterator[Any]:
    """A column as arrays of bytes, some rows each."""
    import pyarrow as pa

    for at in range(0, len(array), DECODED):
        part = array.slice(at, DECODED)
        if pa.types.is_dictionary(part.type):
            part = part.dictionary_decode()
        if pa.types.is_integer(part.type):
            part = part.cast(pa.string())
        yield part.cast(pa.large_binary())


# ------------------------------------------------------------------------------------------------ csv


def csv_blocks(delimiter: str, stretch: Stretch, fields: Fields, start: int) -> Iterator[Block]:
    """The rows of a .csv, quoted line ends and all; lines with nothing in them are none."""
    import pyarrow as pa

    for size in BLOCKS:
        try:
            for block in _csv_in_blocks(delimiter, stretch, fields, size):
                yield block.since(start)
                start = max(start, block.stop)
            return
        except pa.ArrowInvalid as error:
            if "straddl" not in str(error):
                raise
    raise CorruptFile(
        f"{stretch.name} has a row longer than {BLOCKS[-1] >> 20} MiB: row {start} (the first is 0) or one soon after",
        "close its quotes, or cut it",
    )


def _csv_in_blocks(delimiter: str, stretch: Stretch, fields: Fields, size: int) -> Iterator[Block]:
    import pyarrow as pa
    from pyarrow import csv

    waiting: deque[BadRow] = deque()

    def note(row: Any) -> str:
        why = f"has {row.actual_columns} fields where the header has {row.expected_columns}"
        waiting.append(BadRow(row.number - 2, why))  # the header is number 1
        return "skip"

    read = csv.ReadOptions(use_threads=False, block_size=size)
    parse = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=note)
    _check_fields(stretch, fields, _header(stretch, read, delimiter))
    convert = csv.ConvertOptions(
        column_types=dict.fromkeys(fields.names, pa.binary()), include_columns=list(dict.fromkeys(fields.names))
    )
    first = 0
    with stretch.open() as raw, csv.open_csv(raw, read, parse, convert) as batches:
        for batch in batches:
            numbers, bad = _placed(first, batch.num_rows, waiting)
            first += len(numbers) + len(bad)
            yield Block(numbers, *_columns(batch, fields), bad)
    if waiting:
        yield Block((), *_columns(batches.schema.empty_table(), fields), tuple(waiting))


def _header(stretch: Stretch, read: Any, delimiter: str) -> list[str]:
    from pyarrow import csv

    parse = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=lambda row: "skip")
    with stretch.open() as raw, csv.open_csv(raw, read, parse) as batches:
        try:
            return list(batches.schema.names)
        except UnicodeDecodeError as error:
            raise CorruptFile(f"{stretch.name} has a header that is not UTF-8", "write it as UTF-8") from error


def _placed(first: int, count: int, waiting: deque[BadRow]) -> tuple[Sequence[int], list[BadRow]]:
    """The numbers of so many good rows from a number on, and the bad rows between them, which were told before."""
    if not waiting:
        return range(first, first + count), []
    numbers: list[int] = []
    bad: list[BadRow] = []
    while len(numbers) < count:
        if waiting and waiting[0].number == first:
            bad.append(waiting.popleft())
        else:
            numbers.append(first)
        first += 1
    return numbers, bad


# ------------------------------------------------------------------------------------------------ parquet


def parquet_blocks(stretch: Stretch, fields: Fields, start: int) -> Iterator[Block]:
    """The rows of a .parquet from the row group on in which the first lies."""
    from pyarrow import parquet

    with (
        stretch.open() as raw,
        _seekable(raw) as file,
        parquet.ParquetFile(file, buffer_size=WINDOW, pre_buffer=False, page_checksum_verification=True) as table,
    ):
        _check_fields(stretch, fields, table.schema_arrow.names)
        _check_types(stretch, fields, table.schema_arrow)
        first = 0
        for index in range(table.num_row_groups):
            group = table.metadata.row_group(index)
            if first + group.num_rows > start:
                yield from _of_group(table, index, fields, first, start)
            first += group.num_rows


def _of_group(table: Any, index: int, fields: Fields, first: int, start: int) -> Iterator[Block]:
    group = table.metadata.row_group(index)
    columns = list(dict.fromkeys(fields.names))
    chunks = [chunk for chunk in map(group.column, range(group.num_columns)) if chunk.path_in_schema in columns]
    held = sum(chunk.total_uncompressed_size for chunk in chunks)
    size = min(BATCH, max(1, BATCH_BYTES * group.num_rows // max(1, held)))
    for batch in table.iter_batches(size, row_groups=[index], columns=columns, use_threads=False):
        block = Block(range(first, first + batch.num_rows), *_columns(batch, fields))
        first = block.stop
        if first > start:
            yield block.since(start)


@contextmanager
def _seekable(raw: IO[bytes]) -> Iterator[IO[bytes]]:
    """A file that was compressed as a whole, unpacked into a nameless one: a .parquet is read from its end."""
    if raw.seekable():
        yield raw
        return
    with TemporaryFile() as file:
        while piece := raw.read(WINDOW):
            file.write(piece)
        yield file


# ------------------------------------------------------------------------------------------------ both


def _columns(batch: Any, fields: Fields) -> tuple[Any, Any]:
    return batch.column(fields.text), None if fields.id is None else batch.column(fields.id)


def _check_fields(stretch: Stretch, fields: Fields, names: list[str]) -> None:
    for name in fields.names:
        if name not in names:
            setting = "field" if name == fields.text else "id_field"
            raise NotFound(f"{stretch.name} {missing(name, names)}", f"name one of them: `{setting}=NAME`")
        if names.count(name) > 1:
            raise UnsupportedFile(
                f"{stretch.name} has {names.count(name)} fields called {quoted(name)}", "give each a name of its own"
            )


def _check_types(stretch: Stretch, fields: Fields, schema: Any) -> None:
    for name in fields.names:
        kind = schema.field(name).type
        kind = getattr(kind, "value_type", kind) if str(kind).startswith("dictionary") else kind
        if str(kind) not in TEXT and not (name == fields.id and str(kind) in WHOLE):
            raise UnsupportedFile(
                f"{stretch.name} has {quoted(name)} as {quoted(str(kind))}, not as text", "name another field"
            )
