"""A corpus is read as any plain reader has it, the same in shards as whole, in little memory, faults named by row."""

from __future__ import annotations

import csv
import gzip
import io
import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertprobe import inputs
from bertprobe.cli import as_options
from bertprobe.cli.text import lines_of
from bertprobe.corpus import Corpus, Document, Shard, open_corpus, plan
from bertprobe.corpus.files import COMPRESSIONS, WINDOW
from bertprobe.corpus.formats import FORMATS
from bertprobe.errors import BadSetting, BertprobeError, CorruptFile, NotFound, UnsupportedFile

TEXTS = ["a cat", "", "  ", "über 文字 🙂", 'she said "no", twice', "=1+1", "x" * 5000, "\u2028 is no line end", "NULL"]
QUOTED = ["two\nlines", "two\r\nlines", "\n", "a\ttab"]


def text_table(texts: Sequence[str], **options: Any) -> bytes:
    ids = [str(i) for i in range(len(texts))]
    file = io.BytesIO()
    pq.write_table(pa.table({"id": ids, "text": list(texts)}), file, **options)
    return file.getvalue()


def text_csv(texts: Iterable[str], delimiter: str = ",") -> bytes:
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter).writerows([["id", "text"], *enumerate(texts)])
    return file.getvalue().encode()


def text_jsonl(texts: Iterable[str]) -> bytes:
    return "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)).encode()


WRITTEN: dict[str, Callable[[Sequence[str]], bytes]] = {
    "txt": lambda texts: "".join(text + "\n" for text in texts).encode(),
    "jsonl": text_jsonl,
    "csv": text_csv,
    "tsv": lambda texts: text_csv(texts, "\t"),
    "parquet": lambda texts: text_table(texts, row_group_size=3),
}
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gz": gzip.compress,
    "zst": lambda data: pa.Codec("zstd").compress(data, asbytes=True),
}


def _delimited(path: Path, data: bytes, delimiter: str) -> list[str]:
    table = pa.csv.read_csv(
        io.BytesIO(data),
        parse_options=pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pa.csv.ConvertOptions(column_types={"text": pa.string()}),
    )
    return [str(text) for text in table["text"].to_pylist()]


# The same by other libraries than those that the package reads with, where there are others.
SECOND: dict[str, Callable[[Path, bytes], list[str]]] = {
    "txt": lambda path, data: data.decode().split("\n")[:-1],
    "jsonl": lambda path, data: [json.loads(line)["text"] for line in data.split(b"\n")[:-1]],
    "csv": lambda path, data: _delimited(path, data, ","),
    "tsv": lambda path, data: _delimited(path, data, "\t"),
    "parquet": lambda path, data: list(map(str, pq.read_table(io.BytesIO(data))["text"].to_pylist())),
}


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def texts_of(documents: Iterable[Document]) -> list[str]:
    return [document.text for document in documents]


def placed(documents: Iterable[Document]) -> list[tuple[int, int, str, str]]:
    """All of documents but their numbers, which count from each shard's start."""
    return [(document.file, document.row, document.id, document.text) for document in documents]


def check_shards(corpus: Corpus, text_bytes: int) -> tuple[Shard, ...]:
    """The laws of a plan; shards each by itself and all in a walk are the whole, bad rows included."""
    whole = corpus.documents()
    wanted = placed(whole)
    shards = plan(corpus, text_bytes=text_bytes)
    assert shards == plan(corpus, text_bytes=text_bytes)
    assert [shard.number for shard in shards] == list(range(len(shards)))
    for one, other in pairwise(shards):
        assert (one.file, one.stop, one.row + (one.rows or 0)) == (other.file, other.start, other.row) or (
            one.file < other.file and (other.start, other.row) == (0, 0)
        )
    for ways in (((shard, corpus.documents(shard)) for shard in shards), corpus.walk(shards)):
        found, skipped = [], 0
        for shard, documents in ways:
            mine = list(documents)
            assert [document.number for document in mine] == list(range(len(mine)))
            assert len(mine) + documents.skipped.total() <= (shard.rows or 0)
            assert all(shard.row <= document.row < shard.row + (shard.rows or 0) for document in mine)
            found += placed(mine)
            skipped += documents.skipped.total()
        assert (found, skipped) == (wanted, whole.skipped.total())
    assert [number for number, _ in enumerate(wanted)] == [document.number for document in corpus.documents()]
    return shards


# ------------------------------------------------------------------------------------------------ what is read


def test_these_are_all_formats() -> None:
    assert set(WRITTEN) == set(SECOND) == set(FORMATS)
    assert set(PACKED) == set(COMPRESSIONS)


@pytest.mark.parametrize("compression", PACKED)
@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_read_as_another_reader_has_it(format: str, compression: str, tmp_path: Path) -> None:
    texts = TEXTS if format in ("txt", "tsv") else TEXTS + QUOTED
    data = WRITTEN[format](texts)
    path = written(tmp_path / f"a.{format}.{compression}".rstrip("."), PACKED[compression](data))
    second = SECOND[format](path, data)
    assert second == texts
    corpus = open_corpus([path], id_field=None if format == "txt" else "id")
    documents = list(corpus.documents())
    assert texts_of(documents) == second
    assert [document.row for document in documents] == list(range(len(texts)))
    assert format == "txt" or [document.id for document in documents] == [str(i) for i in range(len(texts))]
    (file,) = corpus.files
    assert (file.format, file.compression, file.size) == (format, compression, path.stat().st_size)
    for text_bytes in (1, 7, 100, 10**6):
        check_shards(corpus, text_bytes)


@pytest.mark.parametrize("format", ["jsonl", "parquet", "csv"])
def test_a_file_in_several_compressed_pieces_is_one(format: str, tmp_path: Path) -> None:
    data = WRITTEN[format](TEXTS)
    for name, pack in PACKED.items():
        if name:
            path = written(tmp_path / f"a.{format}.{name}", pack(data[:50]) + pack(data[50:]))
            assert texts_of(open_corpus([path]).documents()) == TEXTS


def test_ends_of_lines_are_those_of_pool(tmp_path: Path) -> None:
    """A line is a text, an empty one too, whichever system ended it."""
    data = b"one\r\n\r\ntwo\rthree\n\n \nodd \xff byte\xe6\n\x00\x0b\x0c\x1c\x85 in a line\nlast"
    path = written(tmp_path / "a.txt", data)
    assert texts_of(open_corpus([path]).documents()) == list(lines_of(str(path)))
    assert texts_of(open_corpus([path]).documents())[:6] == ["one", "", "two", "three", "", " "]
    check_shards(open_corpus([path]), 1)


@pytest.mark.parametrize("format", ["txt", "jsonl", "csv"])
@pytest.mark.parametrize("compression", PACKED)
def test_a_byte_order_mark_is_no_text(format: str, compression: str, tmp_path: Path) -> None:
    data = b"\xef\xbb\xbf" + WRITTEN[format](["a", "\ufeffb"])
    path = written(tmp_path / f"a.{format}.{compression}".rstrip("."), PACKED[compression](data))
    assert texts_of(open_corpus([path]).documents()) == ["a", "\ufeffb"]
    check_shards(open_corpus([path]), 1)


def test_an_empty_file_has_no_document(tmp_path: Path) -> None:
    files = {"a.txt": b"", "a.jsonl": b"", "b.jsonl": b"\n \n", "a.csv": b"text", "b.csv": b"text\r\n\r\n"}
    files |= {"a.txt.gz": gzip.compress(b""), "a.parquet": text_table([])}
    for name, data in files.items():
        corpus = open_corpus([written(tmp_path / name, data)])
        assert not list(corpus.documents())
        assert not sum(len(list(documents)) for _, documents in corpus.walk(plan(corpus, text_bytes=10)))


def test_json_of_any_kind(tmp_path: Path) -> None:
    lines = [
        r'{"text": "half \ud83d of a pair", "id": 7}',
        r'{"id": "\u0000", "text": "\ud83d\ude42", "x": NaN}',
        '  {"text":"a","id":-1}\t',
    ]
    path = written(tmp_path / "a.jsonl", "\r\n".join(lines).encode())
    found = placed(open_corpus([path], id_field="id").documents())
    assert found == [(0, 0, "7", "half \ufffd of a pair"), (0, 1, "\0", "\U0001f642"), (0, 2, "-1", "a")]


KINDS = {
    "string": pa.string(),
    "large": pa.large_string(),
    "view": pa.string_view(),
    "binary": pa.binary(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
    "large dictionary": pa.dictionary(pa.int8(), pa.large_string()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_every_type(kind: str, tmp_path: Path) -> None:
    values = [None if i % 5 == 2 else f"text {i % 7}" for i in range(200)]
    column = pa.array(values, pa.string()).cast(pa.string())
    column = column.dictionary_encode().cast(KINDS[kind]) if "dictionary" in kind else column.cast(KINDS[kind])
    ids = pa.array(range(200), pa.uint16())
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": column, "number": ids, "list": [[1]] * 200}), path, row_group_size=30)
    corpus = open_corpus([path], id_field="number", skip_bad=True)
    documents = corpus.documents()
    assert placed(documents) == [(0, i, str(i), text) for i, text in enumerate(values) if text is not None]
    assert documents.skipped == {0: 40}
    for text_bytes in (1, 50, 400):
        check_shards(corpus, text_bytes)
    for field in ("number", "list"):
        with pytest.raises(UnsupportedFile, match="not as text"):
            list(open_corpus([path], field=field).documents())


def test_bytes_that_are_no_utf_8(tmp_path: Path) -> None:
    csv_file = written(tmp_path / "a.csv", b"text,\xff\na\xe6,1\n")
    pq.write_table(pa.table({"text": pa.array([b"a\xe6"])}), tmp_path / "a.parquet")
    jsonl = written(tmp_path / "a.jsonl", b'{"text": "a\xe6"}')
    assert texts_of(open_corpus([csv_file, tmp_path / "a.parquet", jsonl]).documents()) == ["a\ufffd"] * 3


# ------------------------------------------------------------------------------------------------ shards

PIECES = st.sampled_from(
    [b"a", b" ", "é".encode(), "文".encode(), "🙂".encode(), b"\xff", b"\xe6", b"\xef\xbb\xbf", b"\r", b"\n", b"\r\n",
     b"\n\n", b"x" * 70_000]
)  # fmt: skip


@given(st.lists(PIECES, max_size=25), st.sampled_from([1, 2, 3, 5, 13, 70_000]))
def test_lines_cut_anywhere_are_the_lines(tmp_path_factory: Any, pieces: list[bytes], text_bytes: int) -> None:
    path = written(tmp_path_factory.getbasetemp() / "cut.txt", data := b"".join(pieces))
    corpus = open_corpus([path])
    plain = io.StringIO(data.decode("utf-8-sig", "replace"), newline=None)
    assert texts_of(corpus.documents()) == [line.rstrip("\n") for line in plain]
    shards = check_shards(corpus, text_bytes)
    assert [shard.unit for shard in shards] == ["bytes"] * len(shards)
    assert b"".join(data[shard.start : shard.stop] for shard in shards) == data
    assert sum(shard.rows or 0 for shard in shards) == len(list(corpus.documents()))
    packed = open_corpus([written(path.with_name("cut.txt.gz"), gzip.compress(data))])
    assert texts_of(packed.documents()) == texts_of(corpus.documents())
    check_shards(packed, text_bytes)


@pytest.mark.parametrize("short", range(4))
def test_a_line_ends_between_two_windows(short: int, tmp_path: Path) -> None:
    data = b"x" * (WINDOW - short) + b"\r\n\r\r\n\n" + b"y" * WINDOW + b"\r"
    corpus = open_corpus([written(tmp_path / "a.txt", data)])
    assert [len(text) for text in texts_of(corpus.documents())] == [WINDOW - short, 0, 0, 0, WINDOW]
    (shard,) = plan(corpus, text_bytes=10**6)
    assert shard.rows == 5
    check_shards(corpus, 3)


JSON_LINES = st.sampled_from(
    [b'{"text": "a"}', '{"text": "é文"}'.encode(), b'{"text": null}', b"{}", b"[1]", b"", b"  ", b"{",
     b'{"text": "\xff"}', b'{"text": "' + b"[" * 5000 + b'"}', b"[" * 100_000]
)  # fmt: skip


@given(st.lists(st.tuples(JSON_LINES, st.sampled_from([b"\n", b"\r\n"]))), st.integers(1, 60), st.booleans())
def test_objects_cut_anywhere(tmp_path_factory: Any, lines: list[tuple[bytes, bytes]], size: int, packed: bool) -> None:
    data = b"".join(line + end for line, end in lines)
    path = tmp_path_factory.getbasetemp() / ("cut.jsonl.gz" if packed else "cut.jsonl")
    corpus = open_corpus([written(path, gzip.compress(data) if packed else data)], skip_bad=True)
    check_shards(corpus, size)
    documents = corpus.documents()
    good = [row for row, (line, _) in enumerate(lines) if line.startswith(b'{"text": "')]
    blank = sum(not line.strip() for line, _ in lines)
    assert [document.row for document in documents] == good
    assert documents.skipped.total() == len(lines) - len(good) - blank


FIELDS = st.text(st.sampled_from('ab é文,"\t\r\n\ufeff'), max_size=6)
TABLE_ROWS = st.lists(st.lists(FIELDS, min_size=1, max_size=3), max_size=20)


@given(TABLE_ROWS, st.integers(1, 30), st.sampled_from(["csv", "tsv"]), st.sampled_from(["\n", "\r\n"]))
def test_tables_cut_anywhere(tmp_path_factory: Any, rows: list[list[str]], size: int, format: str, end: str) -> None:
    """Rows of two fields are documents; what has more or fewer is bad, and counted where it stands."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter="," if format == "csv" else "\t", lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([["text", "id"], *rows])
    path = written(tmp_path_factory.getbasetemp() / f"cut.{format}", file.getvalue().encode())
    corpus = open_corpus([path], id_field="id", skip_bad=True)
    documents = corpus.documents()
    assert placed(documents) == [(0, i, row[1], row[0]) for i, row in enumerate(rows) if len(row) == 2]
    assert documents.skipped.total() == sum(len(row) != 2 for row in rows)
    check_shards(corpus, size)


def test_shards_hold_about_as_much_as_was_wished(tmp_path: Path) -> None:
    texts = [f"text {i:04}" for i in range(2000)]
    for format in FORMATS:
        corpus = open_corpus([written(tmp_path / f"a.{format}", WRITTEN[format](texts))])
        sizes = [
            sum(len(text) for text in texts_of(documents))
            for _, documents in corpus.walk(plan(corpus, text_bytes=3000))
        ]
        assert max(sizes) < 3200
        assert min(sizes[:-1]) > 800, "a line of .jsonl counts with all that is in it"
    with pytest.raises(BadSetting):
        plan(corpus, text_bytes=0)


def test_no_shard_is_of_two_files(tmp_path: Path) -> None:
    paths = [written(tmp_path / f"a.{format}", WRITTEN[format](["a", "b"])) for format in FORMATS]
    corpus = open_corpus(paths)
    shards = check_shards(corpus, 10**9)
    assert [shard.file for shard in shards] == [0, 1, 2, 3, 4]
    documents = list(corpus.documents())
    assert [document.number for document in documents] == list(range(10))
    assert [document.file for document in documents] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_a_walk_over_some_shards_reads_them(tmp_path: Path) -> None:
    """Whichever are wanted, in whatever order, and though one is left in its middle."""
    texts = [f"text {i}" for i in range(50)]
    for format in FORMATS:
        corpus = open_corpus([written(tmp_path / f"a.{format}", WRITTEN[format](texts))])
        shards = plan(corpus, text_bytes=30)
        for chosen in (shards[3:], shards[1::2], shards[::-1], (shards[2], shards[2])):
            for shard, documents in corpus.walk(chosen):
                assert placed(documents) == placed(corpus.documents(shard))
        for shard, documents in corpus.walk(shards):
            assert next(documents) == next(corpus.documents(shard))


def test_a_walk_unpacks_a_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    packed = COMPRESSIONS["gz"]
    monkeypatch.setitem(COMPRESSIONS, "gz", lambda file: opened.append(file) or packed(file))
    corpus = open_corpus([written(tmp_path / "a.jsonl.gz", gzip.compress(text_jsonl(TEXTS)))])
    shards = plan(corpus, text_bytes=1)
    assert len(shards) == len(TEXTS)
    opened.clear()
    assert sum(len(list(documents)) for _, documents in corpus.walk(shards)) == len(TEXTS)
    assert len(opened) == 1


# ------------------------------------------------------------------------------------------------ bad rows

BAD: dict[str, tuple[bytes, int, str]] = {
    "no json": (b'{"text": "a", "id": 1}\n\n{"text": "a"\n', 2, "is not JSON"),
    "deep json": (b"[" * 10**5 + b"\n", 0, "is not JSON"),
    "a long number": (b'{"text": "a", "n": ' + b"1" * 5000 + b"}", 0, "is not JSON"),
    "no object": (b'["text"]', 0, "is no object but a list"),
    "no field": (b'{"id": 1, "body": "a"}', 0, "has no field 'text', it has 'id', 'body'"),
    "no id": (b'{"text": "a", "id": "a"}\n{"text": "a"}', 1, "has no field 'id', it has 'text'"),
    "null": (b'{"text": null, "id": 1}', 0, "has null as 'text', not a text"),
    "a number": (b'{"text": 3.5, "id": 1}', 0, "has a number as 'text', not a text"),
    "an id that is none": (b'{"text": "a", "id": true}', 0, "has true or false as 'id'"),
}
BAD_TABLES: dict[str, tuple[bytes, int, str]] = {
    "too few": (b"id,text\n1,a\n\n2\n", 1, "has not the header's 2 fields but 1"),
    "too many": (b'id,text\n1,"a\nb"\n2,b,c\n', 1, "has not the header's 2 fields but 3"),
    "a quote inside": (b'id,text\n1,"a" b\n', 0, "is quoted wrongly"),
    "an open quote": (b'id,text\n1,a\n2,"b\n3,c\n', 1, "is quoted wrongly"),
}


@pytest.mark.parametrize("case", [*BAD, *BAD_TABLES])
def test_a_bad_row_is_named_or_left_out(case: str, tmp_path: Path) -> None:
    data, row, why = {**BAD, **BAD_TABLES}[case]
    path = written(tmp_path / ("a.jsonl" if case in BAD else "a.csv"), data)
    with pytest.raises(CorruptFile, match="skip_bad=True") as raised:
        list(open_corpus([path], id_field="id").documents())
    assert raised.value.found.startswith(f"{path}: row {row} (the first is 0) {why}")
    corpus = open_corpus([path], id_field="id", skip_bad=True)
    documents = corpus.documents()
    assert row not in [document.row for document in documents]
    assert documents.skipped == {0: 1}
    assert documents.first_skipped == raised.value.found
    check_shards(corpus, 1)


def test_the_row_is_that_of_the_file_in_a_shard_too(tmp_path: Path) -> None:
    lines = [b'{"text": "a"}'] * 50 + [b"{"] + [b'{"text": "a"}'] * 50
    for name, pack in PACKED.items():
        corpus = open_corpus([written(tmp_path / f"a.jsonl.{name}".rstrip("."), pack(b"\n".join(lines)))])
        said = set()
        for shard in plan(corpus, text_bytes=100):
            try:
                list(corpus.documents(shard))
            except CorruptFile as error:
                said.add(error.found.partition(": ")[2].partition(" is not")[0])
        assert said == {"row 50 (the first is 0)"}


def test_columns_of_nothing(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.nulls(3), "id": ["a", None, "b"]}), tmp_path / "a.parquet")
    with pytest.raises(CorruptFile, match=r"row 0 \(the first is 0\) has null as 'text'"):
        list(open_corpus([tmp_path / "a.parquet"]).documents())
    with pytest.raises(CorruptFile, match=r"row 1 \(the first is 0\) has null as 'id'"):
        list(open_corpus([tmp_path / "a.parquet"], field="id", id_field="id").documents())


# ------------------------------------------------------------------------------------------------ fields, files


@pytest.mark.parametrize("format", ["csv", "tsv", "parquet"])
def test_a_missing_field_names_those_that_are_there(format: str, tmp_path: Path) -> None:
    path = written(tmp_path / f"a.{format}", WRITTEN[format](["a"]))
    for wish, setting in (({"field": "body"}, "--field NAME"), ({"id_field": "key"}, "--id-field NAME")):
        for use in (lambda corpus: plan(corpus, text_bytes=1), lambda corpus: list(corpus.documents())):
            with pytest.raises(NotFound, match="it has 'id', 'text'; name one of them") as raised:
                use(open_corpus([path], skip_bad=True, **wish))
            assert as_options(str(raised.value)).endswith(setting)


def test_two_fields_of_one_name(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", b"text,text\na,b\n")
    with pytest.raises(UnsupportedFile, match="2 fields called 'text'"):
        list(open_corpus([path]).documents())


def test_patterns_are_sorted_and_name_a_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.txt", "a.txt", "c/d.txt", "[x].txt", "z.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        written(tmp_path / name, b"text\n")
    monkeypatch.chdir(tmp_path)

    def paths(*words: str) -> list[str]:
        return [file.path for file in open_corpus(words).files]

    assert paths("*.txt") == ["[x].txt", "a.txt", "b.txt"]
    assert paths("b.txt", "*.txt") == ["b.txt", "[x].txt", "a.txt"]
    assert paths("**/*.txt") == ["[x].txt", "a.txt", "b.txt", "c/d.txt"]
    assert paths("[x].txt") == ["[x].txt"]
    assert paths("a.txt", "z.csv") == ["a.txt", "z.csv"]
    for words, said in (
        (("*.none",), "there is no file"),
        ((), "no file is named"),
        (("gone.txt",), "there is no file"),
    ):
        with pytest.raises(NotFound, match=said):
            open_corpus(words)
    for words, said in ((("c",), "is a folder"), (("a.txt", tmp_path / "x.docx"), "by its name")):
        (tmp_path / "x.docx").touch()
        with pytest.raises(UnsupportedFile, match=said):
            open_corpus(words)


@pytest.mark.parametrize("name", ["A.TXT", "a.JSONL.GZ", "a.b.csv"])
def test_a_name_may_be_in_capitals(name: str, tmp_path: Path) -> None:
    data = b'{"text": "text"}' if "JSON" in name else b"text\ntext"
    path = written(tmp_path / name, gzip.compress(data) if name.endswith("GZ") else data)
    assert texts_of(open_corpus([path]).documents())[-1] == "text"


@pytest.mark.parametrize("name", ["gz", ".gz", "a.gz", "txt.", "a.txt.bz2", "a"])
def test_a_name_that_tells_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFile, match=re.escape("call it .txt, .jsonl, .csv, .tsv, .parquet")):
        open_corpus([written(tmp_path / name, b"")])


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(UnsupportedFile, match="no regular file"):
        open_corpus([tmp_path / "a.txt"])


def test_stdin_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "piped", b"\xef\xbb\xbfone\r\n\ntwo")
    with path.open("rb") as file:
        monkeypatch.setattr(sys, "stdin", file)
        corpus = open_corpus(["-"])
        (shard,) = plan(corpus, text_bytes=1)
        assert (shard.unit, shard.rows) == ("stream", None)
        assert texts_of(corpus.documents(shard)) == ["one", "", "two"]
        with pytest.raises(NotFound, match="stdin was read before"):
            list(corpus.documents())
    assert (corpus.files[0].path, corpus.files[0].sha256) == ("-", "")


def test_a_corpus_is_an_input(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", b"a")
    corpus = open_corpus([path])
    assert inputs.input_at(path) == path
    del corpus
    assert inputs.input_at(path) is None


def test_a_file_that_changed_is_told(tmp_path: Path) -> None:
    for name, pack in PACKED.items():
        path = written(tmp_path / f"a.txt.{name}".rstrip("."), pack(b"a\nb\n"))
        corpus = open_corpus([path])
        shards = plan(corpus, text_bytes=1)
        written(path, pack(b"a\nb\nand more\n"))
        with pytest.raises(CorruptFile, match="has changed"):
            list(corpus.documents(shards[0]))
        path.unlink()
        with pytest.raises(NotFound, match="cannot be read"):
            list(corpus.documents())


def test_pyarrow_is_needed_for_what_it_reads_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {
        f"{format}.{compression}": written(tmp_path / f"a.{format}.{compression}".rstrip("."), pack(write(["a"])))
        for format, write in WRITTEN.items()
        for compression, pack in PACKED.items()
    }
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for name, path in paths.items():
        if "parquet" in name or "zst" in name:
            with pytest.raises(UnsupportedFile, match=r"pyarrow, which reads .*; pip install 'bertprobe\[corpus\]'"):
                open_corpus([path])
        else:
            assert texts_of(open_corpus([path]).documents()) == ["a"]


# ------------------------------------------------------------------------------------------------ damage, memory


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("compression", ["gz", "zst"])
def test_damage_is_told_in_a_line(format: str, compression: str, tmp_path: Path) -> None:
    data = PACKED[compression](WRITTEN[format]([f"text {i * 7919 % 1000}" for i in range(3000)]))
    flipped = data[:2000] + bytes(byte ^ 255 for byte in data[2000:2020]) + data[2020:]
    for damaged in (
        data[:-20],
        data[: len(data) // 2],
        data[:3],
        b"no such thing",
        data + b"more",
        *[flipped] * (compression == "gz"),
    ):
        corpus = open_corpus([written(tmp_path / f"a.{format}.{compression}", damaged)], skip_bad=True)
        for use in (lambda corpus: list(corpus.documents()), lambda corpus: plan(corpus, text_bytes=100)):
            with pytest.raises(CorruptFile, match=f"is damaged, or no {format}") as raised:
                use(corpus)
            assert len(str(raised.value).splitlines()) == 1


def test_damaged_parquet(tmp_path: Path) -> None:
    data = text_table(["text"] * 3000)
    for damaged in (data[:-20], data[:300], data[:4], b"", b"PAR1" * 3, data[:-8] + b"\xff\xff\xff\x7fPAR1"):
        corpus = open_corpus([written(tmp_path / "a.parquet", damaged)])
        with pytest.raises(CorruptFile, match="is damaged, or no parquet") as raised:
            list(corpus.documents())
        assert len(str(raised.value).splitlines()) == 1


def test_a_parquet_with_checksums_is_never_read_wrongly(tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(3000)]
    data = text_table(texts, row_group_size=500, write_page_checksum=True)
    told = 0
    for at in range(0, len(data), 211):
        damaged = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        try:
            assert texts_of(open_corpus([written(tmp_path / "a.parquet", damaged)]).documents()) == texts
        except CorruptFile:
            told += 1
    assert told > 50


@given(data=st.data(), format=st.sampled_from(["txt.gz", "jsonl.zst", "csv.gz", "parquet.gz", "jsonl", "csv"]))
def test_whatever_is_there_is_read_or_refused(tmp_path_factory: Any, data: st.DataObject, format: str) -> None:
    inner, _, compression = format.partition(".")
    good = PACKED[compression](WRITTEN[inner](TEXTS[:4]))
    at = data.draw(st.integers(0, len(good)))
    bad = good[:at] + data.draw(st.binary(max_size=3)) + good[at + data.draw(st.integers(0, 3)) :]
    corpus = open_corpus([written(tmp_path_factory.getbasetemp() / f"fuzz.{format}", bad)], skip_bad=True)
    with suppress(BertprobeError):
        check_shards(corpus, 10)


class Evil:
    """What runs code where somebody unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_nothing_in_a_table_is_executed(tmp_path: Path) -> None:
    """pyarrow unpickled the types of columns once (CVE-2023-47248)."""
    evil = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Evil(tmp_path / "ran")),
    }
    schema = pa.schema([pa.field("text", pa.string(), metadata=evil), pa.field("other", pa.string(), metadata=evil)])
    pq.write_table(pa.table([["a"], ["b"]], schema), tmp_path / "a.parquet")
    try:
        found = texts_of(open_corpus([tmp_path / "a.parquet"]).documents())
    except UnsupportedFile as error:
        found = [error.found]
    assert found
    assert not (tmp_path / "ran").exists()


MEASURED = """
import sys
from pathlib import Path
import pyarrow, pyarrow.parquet, pyarrow.compute
from bertprobe.corpus import open_corpus, plan
def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
base = peak()
corpus = open_corpus(sys.argv[1:], skip_bad=True)
read = sum(1 for _, documents in corpus.walk(plan(corpus, text_bytes=2**20)) for _ in documents)
print(read, peak() - base)
"""
MEGABYTES = {"txt": 18, "jsonl": 18, "csv": 18, "tsv": 18, "parquet": 40}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is told by Linux")
@pytest.mark.parametrize("format", FORMATS)
def test_memory_does_not_grow_with_the_file(format: str, tmp_path: Path) -> None:
    """20 MB of text, a row of them long, packed and not: no more than a window is held."""
    texts = [f"{i} " + "a long enough text " * 20 for i in range(50_000)]
    texts[100] *= 2000
    data = text_table(texts, use_dictionary=False) if format == "parquet" else WRITTEN[format](texts)
    paths = [written(tmp_path / f"a.{format}.{name}".rstrip("."), pack(data)) for name, pack in PACKED.items()]
    done = subprocess.run([sys.executable, "-c", MEASURED, *paths], capture_output=True, text=True, check=True)
    read, grown = map(int, done.stdout.split())
    assert read == 3 * len(texts)
    assert grown < MEGABYTES[format] * 1024, f"{grown} kB"
