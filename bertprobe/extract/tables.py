"""The tables beside a shard, in parquet: its documents, and its tokens where rows are tokens.

Whole numbers lie as differences and texts are packed, row group by row group of the same number of rows: so a table's
size follows from its rows, and its bytes from nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

from bertprobe.errors import UnsupportedFile

ROWS = 2**16  # of a row group
DOCUMENTS = {
    "number": "int64",
    "id": "string",
    "file": "int32",
    "row": "int64",
    "first_token": "int64",
    "tokens": "int32",
    "truncated": "int32",
}
TOKENS = {"document": "int64", "position": "int32", "id": "int32", "token": "string"}
_AS_DIFFERENCES = {"number", "file", "row", "first_token", "tokens", "truncated", "document", "position"}


def arrow() -> Any:
    """pyarrow, with its parquet; raises `UnsupportedFile` where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UnsupportedFile("pyarrow is not installed", "pip install 'bertprobe[corpus]'") from error
    return pyarrow


class Table:
    """A parquet table that is written as rows come."""

    def __init__(self, file: IO[bytes], columns: Mapping[str, str]) -> None:
        self._arrow = pa = arrow()
        self._schema = pa.schema([(name, getattr(pa, kind)()) for name, kind in columns.items()])
        self._writer = pa.parquet.ParquetWriter(
            file,
            self._schema,
            compression="zstd",
            use_dictionary=False,
            column_encoding={name: "DELTA_BINARY_PACKED" if name in _AS_DIFFERENCES else "PLAIN" for name in columns},
        )
        self._waiting: list[Any] = []
        self._rows = 0

    def add(self, *columns: Any) -> None:
        """Rows, column by column."""
        arrays = [self._arrow.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
        self._waiting.append(self._arrow.record_batch(arrays, schema=self._schema))
        self._rows += len(arrays[0])
        if self._rows >= ROWS:
            self._flush(ROWS)

    def _flush(self, least: int) -> None:
        table = self._arrow.Table.from_batches(self._waiting, self._schema)
        while table.num_rows >= least and table.num_rows:
            self._writer.write_table(table.slice(0, ROWS), row_group_size=ROWS)
            table = table.slice(ROWS)
        self._waiting, self._rows = table.to_batches(), table.num_rows

    def close(self) -> None:
        """Writes what waits, and the end of the file."""
        self._flush(1)
        self._writer.close()
