"""The safetensors format is read and refused as the safetensors library does it, or stricter where readers differ."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from conftest import Run
from reading import by_name
from safetensors.torch import save_file
from test_bad_input import BERT, refused, weights

from bertprobe.checkpoint import safetensors as format_
from bertprobe.checkpoint.reading import read_tensor, read_tensors
from bertprobe.checkpoint.source import LocalFile
from bertprobe.checkpoint.tensors import DTYPES, TensorHeader, check_readable, numpy_dtype
from bertprobe.errors import BertprobeError, UnsupportedFile

TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def entry(dtype: Any = "F32", shape: Any = (2,), span: Any = (0, 8), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": span, **more}


def packed(header: Any, size: int = 0) -> bytes:
    """A file of a header, text or what is to become JSON, and so many bytes of data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(size)


def long(length: int) -> bytes:
    """A file that announces a header of another length than it has."""
    return length.to_bytes(8, "little") + b'{"a": 1}'


def raw(fields: bytes) -> bytes:
    """A file with one entry of F32, written out where JSON cannot say it."""
    return packed(b'{"a":{"dtype":"F32",' + fields + b"}}", 8)


SOUND = b'"shape":[2],"data_offsets":[0,8]'


def with_field(value: bytes) -> bytes:
    """A file whose entry has a field that nobody knows."""
    return raw(SOUND + b',"x":' + value)


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def headers(path: Path, content: bytes) -> tuple[TensorHeader, ...]:
    path.write_bytes(content)
    return format_.index(LocalFile(path)).headers


A = b'{"a":' + json.dumps(entry()).encode() + b"}"
ACCEPTED = {
    "plain": packed({"a": entry()}, 8),
    "nothing in it": packed({}),
    "spaces after the header": packed(A + b"   \n\t\r", 8),
    "spaces before it": packed(b" \n" + A, 8),
    "so many spaces before it that the first bytes show no brace": packed(b" " * 100 + A, 8),
    "no name": packed({"": entry()}, 8),
    "a name of 1,000 characters": packed({"x" * 1000: entry()}, 8),
    "a name beyond ASCII": packed('{"é\u202e😀":'.encode() + json.dumps(entry()).encode() + b"}", 8),
    "a name in surrogates, escaped": packed({"😀": entry()}, 8),
    "metadata": packed({"__metadata__": {"format": "pt"}, "a": entry()}, 8),
    "no metadata": packed({"__metadata__": {}, "a": entry()}, 8),
    "null for metadata": packed({"__metadata__": None, "a": entry()}, 8),
    "a scalar": packed({"a": entry(shape=(), span=(0, 4))}, 4),
    "no elements": packed({"a": entry(shape=(0, 3), span=(0, 0))}),
    "no elements, between others": packed(
        {"z": entry(shape=[0], span=(4, 4)), "b": entry(shape=[1], span=(4, 8)), "a": entry(shape=[1], span=(0, 4))}, 8
    ),
    "no elements, at the end": packed({"z": entry(shape=[0], span=(8, 8)), "a": entry()}, 8),
    "no elements, of absurd width": packed({"a": entry(shape=(0, 2**62, 2**62), span=(0, 0))}),
    "keys nobody knows": packed({"a": entry(note=[1, {"x": None}])}, 8),
    "an order other than the file's": packed({"b": entry(span=(8, 16)), "a": entry()}, 16),
    "an escape of an escape": packed({"\\ud800": entry()}, 8),
    "elements of four bits": packed({"a": entry("F4", (4,), (0, 2))}, 2),
    "a field of all kinds of numbers": with_field(b"[-0, 1e-400, 1.5E+3, -0.0, " + b"1" * 300 + b"]"),
    "a field that is deep, but not too deep": with_field(nested(125)),
    "a field of escapes": with_field(b'"\\ud83d\\ude00\\u0000\\/\x7f"'),
    "elements of four bits, an odd number a row": packed({"a": entry("F4", (2, 3), (0, 3))}, 3),
    "a dtype that numpy's loader lacks": packed({"a": entry("F8_E4M3FNUZ", (8,))}, 8),
    "elements of six bits": packed({"a": entry("F6_E2M3", (2, 2), (0, 3))}, 3),
}

HALF = "half of a surrogate pair is no character"

# Each with a word that only its own message has.
REFUSED = {
    "a header over 100 MB": (long(100_000_001), "the format allows 100,000,000"),
    "a header of any length": (b"\xff" * 8 + b"{}", "18,446,744,073,709,551,615"),
    "a header past the file": (long(9), "announces a header of 9 bytes, the file has 16"),
    "an array for a header": (packed([]), "is not a JSON object"),
    "a number for a header": (packed(1), "is not a JSON object"),
    "no header": (packed(b""), "is not JSON"),
    "spaces for a header": (packed(b"    "), "is not JSON"),
    "half a header": (packed(b'{"a":'), "is not JSON"),
    "something after the header": (packed(A + b"\0", 8), "is not JSON (Extra data"),
    "a byte order mark": (packed(b"\xef\xbb\xbf" + A, 8), "BOM"),
    "bytes that are no text": (packed(b'{"\xff":{}}'), "can't decode byte 0xff"),
    "half a surrogate pair": (packed(b'{"\\ud800":' + A[5:], 8), HALF),
    "the second half of a pair": (packed(b'{"\\uDC00x":' + A[5:], 8), HALF),
    "a pair the wrong way round": (packed(b'{"\\udc00\\ud800":' + A[5:], 8), HALF),
    "half a pair in the metadata": (packed(b'{"__metadata__":{"x":"\\ud800"},' + A[1:], 8), HALF),
    "half a pair in its keys": (packed(b'{"__metadata__":{"\\ud800":"x"},' + A[1:], 8), HALF),
    "half a pair in a field nobody knows": (with_field(b'[{"y":"\\udbff"}]'), HALF),
    "half a pair in the name of one": (raw(SOUND + b',"\\udfff":1'), HALF),
    "a pair in bytes of UTF-16": (packed(b'{"\xed\xa0\x80":' + A[5:], 8), "can't decode byte 0xed"),
    "an overlong letter": (packed(b'{"\xc0\xaf":' + A[5:], 8), "can't decode byte 0xc0"),
    "an escape that is none": (packed(b'{"\\x":' + A[5:], 8), "Invalid \\escape"),
    "an escape cut short": (packed(b'{"\\u12":' + A[5:], 8), "escape"),
    "an escape with a sign": (packed(b'{"\\u+123":' + A[5:], 8), "escape"),
    "a line break in a name": (packed(b'{"a\nb":' + A[5:], 8), "control character"),
    "NaN": (raw(b'"shape":[2],"data_offsets":[0,8],"x":NaN'), "NaN is no JSON number"),
    "minus infinity": (raw(b'"shape":[2],"data_offsets":[0,8],"x":-Infinity'), "-Infinity is no JSON number"),
    "a number of 5000 digits": (with_field(b"1" * 5000), "of 5,000 characters is out of range"),
    "a number of 400 digits": (with_field(b"-" + b"1" * 399), "of 400 characters is out of range"),
    "a fraction out of range": (with_field(b"1e999"), "of 5 characters is out of range"),
    "minus zero in a shape": (raw(b'"shape":[2,-0],"data_offsets":[0,8]'), "a shape that is not"),
    "minus zero for an offset": (raw(b'"shape":[2],"data_offsets":[-0,8]'), "data_offsets that are not a range"),
    "an exponent in a shape": (raw(b'"shape":[2e0],"data_offsets":[0,8]'), "a shape that is not"),
    "a plus in a shape": (raw(b'"shape":[+2],"data_offsets":[0,8]'), "is not JSON"),
    "digits of another script": (raw('"shape":[٢],"data_offsets":[0,8]'.encode()), "is not JSON"),
    "a comma too many": (packed(A[:-1] + b",}", 8), "is not JSON"),
    "a space of another kind": (packed(A[:-1] + b"\f}", 8), "is not JSON"),
    "a tab in the metadata": (packed(b'{"__metadata__":{"x":"a\tb"},' + A[1:], 8), "control character"),
    "a dtype twice": (raw(b'"dtype":"F32",' + SOUND), "names 'dtype' twice"),
    "a shape twice": (raw(SOUND + b',"shape":[2]'), "names 'shape' twice"),
    "metadata twice": (packed(b'{"__metadata__":{},"__metadata__":{},' + A[1:], 8), "names '__metadata__' twice"),
    "a field as deep as lists can be": (with_field(nested(126)), "too deeply nested"),
    "objects as deep": (with_field(b'{"y":' * 126 + b"1" + b"}" * 126), "too deeply nested"),
    "a leading zero": (raw(b'"shape":[02],"data_offsets":[0,8]'), "is not JSON"),
    "an endless list": (packed(b'{"a":' + b"[" * 100_000), "too deeply nested"),
    "numbers in the metadata": (packed({"__metadata__": {"a": 1}, "a": entry()}, 8), "__metadata__"),
    "null in the metadata": (packed({"__metadata__": {"a": None}, "a": entry()}, 8), "__metadata__"),
    "a list for metadata": (packed({"__metadata__": [], "a": entry()}, 8), "__metadata__"),
    "an unknown dtype": (packed({"a": entry("F33")}, 8), "unknown dtype 'F33'"),
    "a dtype in small letters": (packed({"a": entry("f32")}, 8), "unknown dtype 'f32'"),
    "a number for a dtype": (packed({"a": entry(1)}, 8), "unknown dtype '1'"),
    "a list for a dtype": (packed({"a": entry(["F32"])}, 8), "unknown dtype"),
    "no dtype": (packed({"a": {"shape": [2], "data_offsets": [0, 8]}}, 8), "has no dtype, shape and data_offsets"),
    "no shape": (packed({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, 8), "has no dtype, shape and data_offsets"),
    "no range": (packed({"a": {"dtype": "F32", "shape": [2]}}, 8), "has no dtype, shape and data_offsets"),
    "null for an entry": (packed({"a": None}, 8), "has no dtype, shape and data_offsets"),
    "a fraction in a shape": (packed({"a": entry(shape=[2.0])}, 8), "a shape that is not"),
    "a negative shape": (packed({"a": entry(shape=[-2])}, 8), "a shape that is not"),
    "a truth value in a shape": (packed({"a": entry(shape=[True], span=(0, 4))}, 4), "a shape that is not"),
    "text for a shape": (packed({"a": entry(shape="2")}, 8), "a shape that is not"),
    "a shape of 65 bits": (packed({"a": entry(shape=(0, 2**64), span=(0, 0))}), "a shape that is not"),
    "three offsets": (packed({"a": entry(span=(0, 4, 8))}, 8), "data_offsets that are not a range"),
    "offsets that run backwards": (packed({"a": entry(span=(8, 0))}, 8), "data_offsets that are not a range"),
    "negative offsets": (packed({"a": entry(span=(-8, 0))}, 8), "data_offsets that are not a range"),
    "fractions for offsets": (packed({"a": entry(span=(0.0, 8))}, 8), "data_offsets that are not a range"),
    "offsets of 65 bits": (packed({"a": entry(span=(2**64, 2**64 + 8))}, 8), "data_offsets that are not a range"),
    "a product beyond 64 bits on the way to 0": (
        packed({"a": entry(shape=(2**32, 2**32, 0), span=(0, 0))}),
        "a shape whose product is beyond 2^64",
    ),
    "a shape of another size": (packed({"a": entry(shape=[3])}, 8), "12 bytes, but a range of 8"),
    "a shape beyond all memory": (packed({"a": entry(shape=(2**62, 4))}, 8), "a shape whose product is beyond 2^64"),
    "six bits that end within a byte": (packed({"a": entry("F6_E3M2", (2, 3), (0, 4))}, 4), "in F6_E3M2"),
    "half a byte too few": (packed({"a": entry("F4", (3,), (0, 2))}, 2), "in F4"),
    "an overlap": (packed({"a": entry(), "b": entry(span=(4, 12))}, 12), "overlaps the tensor before it"),
    "two names for one range": (packed({"a": entry(), "b": entry()}, 8), "overlaps the tensor before it"),
    "a hole": (packed({"a": entry(), "b": entry(span=(9, 17))}, 17), "leaves a hole of 1 bytes"),
    "a hole before the first": (packed({"a": entry(span=(1, 9))}, 9), "leaves a hole of 1 bytes"),
    "an end after the file's": (packed({"a": entry()}, 7), "by its header, it has"),
    "an end before the file's": (packed({"a": entry()}, 9), "has 1 bytes after its last tensor"),
    "no end at all": (packed({}, 9), "has 9 bytes after its last tensor"),
}

# What the library lets pass by accident, or what no array could hold.
STRICTER = {
    "a name twice": (packed(A[:-1] + b"," + A[1:], 8), "names 'a' twice"),
    "a key twice": (raw(b'"x":1,"x":2,"shape":[2],"data_offsets":[0,8]'), "names 'x' twice"),
    "a key twice in the metadata": (packed(b'{"__metadata__":{"x":"1","x":"2"},' + A[1:], 8), "names 'x' twice"),
    "an object for a dtype": (packed({"a": entry({"F32": None})}, 8), "unknown dtype"),
    "a list for an entry": (packed({"a": ["F32", [2], [0, 8]]}, 8), "has no dtype, shape and data_offsets"),
    "a name of 1,001 characters": (packed({"x" * 1001: entry()}, 8), "has a name of 1,001 characters"),
    "33 dimensions": (packed({"a": entry(shape=(1,) * 33, span=(0, 4))}, 4), "33 dimensions"),
    "no elements, of 2^63 rows": (packed({"a": entry(shape=(2**63, 0), span=(0, 0))}), "below 2^63"),
}


@pytest.mark.parametrize("content", ACCEPTED.values(), ids=ACCEPTED)
def test_what_the_library_accepts_is_accepted(content: bytes, tmp_path: Path) -> None:
    theirs = [
        (name, info["dtype"], tuple(info["shape"]), bytes(info["data"]))
        for name, info in safetensors.deserialize(content)
    ]
    ours = headers(tmp_path / "model.safetensors", content)
    found = [(h.name, h.dtype, h.shape, h.pieces[0].source.read(h.pieces[0].start, h.pieces[0].stop)) for h in ours]
    assert sorted(found) == sorted(theirs)


@pytest.mark.parametrize(("content", "word"), REFUSED.values(), ids=REFUSED)
def test_what_the_library_refuses_is_refused(content: bytes, word: str, tmp_path: Path, run: Run) -> None:
    with pytest.raises(safetensors.SafetensorError):
        safetensors.deserialize(content)
    (tmp_path / "model.safetensors").write_bytes(content)
    refused(run(["inspect", tmp_path]), word, "model.safetensors")


@pytest.mark.parametrize(("content", "word"), STRICTER.values(), ids=STRICTER)
def test_what_readers_disagree_on_is_refused(content: bytes, word: str, tmp_path: Path, run: Run) -> None:
    safetensors.deserialize(content)
    (tmp_path / "model.safetensors").write_bytes(content)
    refused(run(["inspect", tmp_path]), word, "model.safetensors")


def test_the_dtypes_are_the_librarys() -> None:
    with pytest.raises(safetensors.SafetensorError) as error:
        safetensors.deserialize(packed({"a": entry("F33")}, 8))
    named = str(error.value).partition("expected one of ")[2].partition(" at line")[0]
    assert {name.strip("`") for name in named.split(", ")} == set(DTYPES)


def test_every_dtype_reads_back_bit_for_bit(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    noise = {name: torch.randint(0, 256, (3, 8, 5), generator=draw, dtype=torch.uint8) for name in TORCH}
    noise["BOOL"] %= 2
    saved = {name: noise[name].view(-1).view(TORCH[name]).reshape(3, -1) for name in TORCH}
    save_file(saved, tmp_path / "model.safetensors", {"format": "pt"})
    index = format_.index(LocalFile(tmp_path / "model.safetensors"))
    assert index.metadata == {"format": "pt"}
    arrays = dict(read_tensors(by_name(index.headers)))
    assert set(arrays) == set(TORCH) == {name for name in DTYPES if DTYPES[name].numpy is not None}
    for name, array in arrays.items():
        assert array.dtype == numpy_dtype(name)
        assert array.shape == tuple(saved[name].shape)
        assert array.tobytes() == noise[name].numpy().tobytes()


def test_every_truncation_is_refused(tmp_path: Path, run: Run) -> None:
    """Cut at any byte, a file that transformers wrote is an error; the error is one line wherever the cut is."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=2,
        hidden_size=4,
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=1,
    )
    BertModel(config).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    content = path.read_bytes()
    for length in range(len(content) - 1, -1, -1):
        os.truncate(path, length)
        with pytest.raises(BertprobeError):
            format_.index(LocalFile(path))
    for length in (*range(12), len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        refused(run(["inspect", tmp_path]), "model.safetensors")


def test_headers_are_read_without_data(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    content = packed({"a": entry("U8", (2**30,), (0, 2**30))})
    path.write_bytes(content)
    os.truncate(path, len(content) + 2**30)
    source = LocalFile(path)
    (header,) = format_.index(source).headers
    assert header.count == 2**30
    assert source.bytes_read <= format_.HEADER_GUESS


def test_a_long_header_is_read_whole(tmp_path: Path) -> None:
    many = {f"layer.{i:05}": entry(shape=[1], span=(4 * i, 4 * i + 4)) for i in range(2000)}
    content = packed(many, 8000)
    assert len(content) > 2 * format_.HEADER_GUESS
    assert [header.name for header in headers(tmp_path / "model.safetensors", content)] == list(many)


def test_rows_are_the_rows_of_the_matrix(tmp_path: Path) -> None:
    matrix = torch.arange(24, dtype=torch.float32).reshape(6, 4)
    save_file({"other": torch.ones(3), "m": matrix}, tmp_path / "model.safetensors")
    header = next(h for h in format_.index(LocalFile(tmp_path / "model.safetensors")).headers if h.name == "m")
    array = read_tensor(header.rows(2, 5))
    assert np.array_equal(array, matrix[2:5].numpy())


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "F6_E3M2"])
def test_packed_elements_are_listed_and_not_read(dtype: str, tmp_path: Path, run: Run) -> None:
    size = DTYPES[dtype].nbytes(16)
    name = "encoder.layer.0.intermediate.dense.weight"
    (header,) = headers(tmp_path / "model.safetensors", packed({name: entry(dtype, (4, 4), (0, size))}, size))
    assert header.nbytes == size
    with pytest.raises(UnsupportedFile):
        check_readable(header)
    listed = run(["inspect", tmp_path, "--shapes"])
    assert (listed.code, listed.err) == (0, "")
    assert "4×4" in listed.out
    assert dtype in listed.out
    refused(run(["inspect", tmp_path]), dtype, "--shapes")
    refused(run(["export", tmp_path, "--part", "intermediate", "-o", tmp_path / "out.safetensors"]), dtype)
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("dtype", ["F32", "F16", "F8_E4M3"])
@pytest.mark.parametrize("shape", [(2**40, 0), (0, 2**60), (0, 2**62, 2**62)])
def test_no_elements_take_no_memory(shape: tuple[int, ...], dtype: str, tmp_path: Path, run: Run) -> None:
    name = "encoder.layer.0.intermediate.dense.weight"
    (tmp_path / "model.safetensors").write_bytes(packed({name: entry(dtype, shape, (0, 0))}))
    assert run(["inspect", tmp_path, "--shapes"]).code == 0
    refused(run(["inspect", tmp_path]), "has no elements")


@pytest.mark.parametrize(("most", "says"), [(4, None), (3, "more than 3 tensors need")])
def test_so_many_tensors_and_no_more(most: int, says: str | None, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(format_, "MAX_TENSORS", most)
    content = packed({str(i): entry("U8", (1,), (i, i + 1)) for i in range(3)}, 3)  # and the header's own brace
    if says is None:
        assert len(headers(tmp_path / "model.safetensors", content)) == 3
    else:
        with pytest.raises(UnsupportedFile, match=says):
            headers(tmp_path / "model.safetensors", content)


def many(count: int) -> bytes:
    """A small BERT among so many other tensors."""
    listed = {f"t{i}": entry("U8", [1], (i, i + 1)) for i in range(count)}
    listed["encoder.layer.0.intermediate.dense.weight"] = entry("U8", (1, 1), (count, count + 1))
    return packed(json.dumps(listed, separators=(",", ":")).encode(), count + 1)


HOSTILE = {
    "a million tensors": (lambda: many(1_000_000), 1),
    "200,000 tensors": (lambda: many(200_000), 0),
    "a million empty objects": (
        lambda: packed(b"{" + b",".join(b'"%x":{}' % i for i in range(1_000_000)) + b"}"),
        1,
    ),
    "a million tensors, their keys escaped": (
        lambda: packed(
            b"{" + b",".join(b'"%x":{"data\\u005foffsets":[0,0]}' % i for i in range(1_000_000)) + b"}",
        ),
        1,
    ),
    "ten million lists": (lambda: packed(b'{"a":[' + b"[]," * 10_000_000 + b"0]}"), 1),
    "five million notes": (
        lambda: packed(b'{"__metadata__":{' + b",".join(b'"%x":""' % i for i in range(5_000_000)) + b"}}"),
        1,
    ),
    "a shape of ten million": (lambda: packed(b'{"a":{"shape":[' + b"0," * 10_000_000 + b"0]}}"), 1),
    "one name of 50 MB": (lambda: packed({"x" * 50_000_000: {}}), 1),
}
MEASURED = """
import re, sys
from bertprobe.cli import main
try:
    main(["inspect", sys.argv[1]])
finally:
    print(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize(("content", "code"), HOSTILE.values(), ids=HOSTILE)
def test_a_huge_header_is_answered_in_seconds_and_a_gigabyte(content: Any, code: int, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content())
    words = [sys.executable, "-c", MEASURED, str(tmp_path)]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=40, check=False)
    assert ran.returncode == code, ran.stderr
    assert int(ran.stdout.split()[-1]) < 1_000_000  # kB
    assert "Traceback" not in ran.stderr
    assert len(ran.stderr) < 1000


def test_a_sound_file_is_no_news(tmp_path: Path, run: Run) -> None:
    (tmp_path / "model.safetensors").write_bytes(weights(BERT))
    assert run(["inspect", tmp_path]).code == 0
