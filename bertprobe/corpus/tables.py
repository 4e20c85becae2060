"""Formats with a row of several fields, read by pyarrow: .csv, .tsv and .parquet."""

from __future__ import annotations

from collections.abc import Iterator

from bertprobe.corpus.files import Stretch
from bertprobe.corpus.rows import BadRow, Fields, Row


def csv_rows(stretch: Stretch, fields: Fields, start: int) -> Iterator[Row | BadRow]:
    raise NotImplementedError


def tsv_rows(stretch: Stretch, fields: Fields, start: int) -> Iterator[Row | BadRow]:
    raise NotImplementedError


def parquet_rows(stretch: Stretch, fields: Fields, start: int) -> Iterator[Row | BadRow]:
    raise NotImplementedError


def csv_sizes(stretch: Stretch, fields: Fields) -> Iterator[tuple[int, int]]:
    raise NotImplementedError


def tsv_sizes(stretch: Stretch, fields: Fields) -> Iterator[tuple[int, int]]:
    raise NotImplementedError


def parquet_sizes(stretch: Stretch, fields: Fields) -> Iterator[tuple[int, int]]:
    raise NotImplementedError
