"""Files with a table of tensors in front, altered: safetensors as its library reads it, TensorFlow's index in one line.

Of safetensors the library is the judge: what it refuses is refused, and what both read has the same names, types,
shapes and bits. What is refused here alone is listed in `test_safetensors`, and known by its words.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import bundle
import pytest
import safetensors
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_fuzz import DATA, HEADER, SAFETENSORS, altered, as_json, mutated
from test_safetensors import TORCH, packed

from bertprobe.checkpoint import open_checkpoint
from bertprobe.checkpoint import safetensors as format_
from bertprobe.checkpoint.reading import read_tensor, read_tensors
from bertprobe.checkpoint.source import LocalFile
from bertprobe.checkpoint.wire import Broken, Message
from bertprobe.errors import BertprobeError

FUZZ = settings(
    max_examples=300,
    deadline=20_000,  # milliseconds: a hang, not a slow machine
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# What the library lets pass and we do not; nothing else may be refused here alone.
STRICTER = re.compile(
    r"names '.*' twice|has no dtype, shape and data_offsets|unknown dtype|below 2\^63|characters|dimensions"
)


def compared(folder: Path, content: bytes) -> None:
    """Reads a file as the library does and as we do."""
    path = folder / "model.safetensors"
    path.write_bytes(content)
    try:
        theirs = dict(safetensors.deserialize(content))
    except safetensors.SafetensorError:
        with pytest.raises(BertprobeError):
            format_.index(LocalFile(path))
        return
    try:
        headers = format_.index(LocalFile(path)).headers
    except BertprobeError as error:
        if not STRICTER.search(error.found):
            raise
        return
    assert [(h.name, h.dtype, list(h.shape)) for h in sorted(headers, key=lambda h: h.name)] == [
        (name, theirs[name]["dtype"], theirs[name]["shape"]) for name in sorted(theirs)
    ]
    for header in headers:
        (piece,) = header.pieces
        assert piece.source.read(piece.start, piece.stop) == bytes(theirs[header.name]["data"])
    read = [header for header in headers if header.dtype in TORCH and max(header.shape, default=0) < 10_000]
    if len(read) == len(headers):
        for header, array in ((header, read_tensor(header)) for header in read):
            with safetensors.safe_open(path, framework="pt") as file:
                tensor = file.get_tensor(header.name)
            assert (tensor.dtype, tuple(tensor.shape)) == (TORCH[header.dtype], array.shape)
            assert tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() == array.tobytes()


@FUZZ
@given(content=mutated(SAFETENSORS))
def test_damaged_files_are_read_as_the_library_does(content: bytes, tmp_path: Path) -> None:
    compared(tmp_path, content)


@FUZZ
@given(header=altered(HEADER))
def test_odd_headers_are_read_as_the_library_does(header: Any, tmp_path: Path) -> None:
    compared(tmp_path, packed(as_json(header)) + DATA)


NOTES = {"format": "pt", "a": "é\u2028"}
TEXT = as_json({"__metadata__": NOTES, **{name: value for name, value in HEADER.items() if name != "__metadata__"}})
ATOMS = re.findall(rb'"(?:[^"\\]|\\.)*"|[0-9]+|[\[\]{}:,]|\s+', TEXT)
assert b"".join(ATOMS) == TEXT
ODD_ATOMS = [
    b"-0",
    b"0",
    b"00",
    b"1e0",
    b"4.0",
    b"-1",
    b"1E400",
    b"9" * 310,
    b"18446744073709551615",
    b"18446744073709551616",
    b"NaN",
    b"null",
    b"true",
    b'"\\ud800"',
    b'"\\udc00\\ud83d"',
    b'"\\ud83d\\ude00"',
    b'"\\u0000"',
    b'"\\v"',
    b'"\x00"',
    b'"\xed\xa0\x80"',
    b'"__metadata__"',
    b'"dtype"',
    b'"shape"',
    b'"F32"',
    b'"F4"',
    b'"F8_E4M3FNUZ"',
    b'"BOOL"',
    b'{"x":[' * 60 + b"]}" * 60,
    b"[" * 123 + b"]" * 123,
    b"[" * 127 + b"]" * 127,
    b'"dtype":"F32",',
    b'"x":1,',
    b'"x":"\\ud800",',
    b'"x":-0,',
    b"\xef\xbb\xbf",
    b"\xc2\xa0",
    b"\f",
    b"\t",
    b",",
    b"}",
    b"[]",
]


@st.composite
def respelled(draw: st.DrawFn) -> bytes:
    """A sound header whose strings, numbers and marks are put elsewhere, dropped, or changed for odd ones."""
    atoms = list(ATOMS)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(atoms) - 1))
        odd = draw(st.sampled_from(ODD_ATOMS) | st.sampled_from(ATOMS))
        how = draw(st.sampled_from(["replace", "replace", "insert", "drop", "double"]))
        atoms[at : at + 1] = {"replace": [odd], "insert": [odd, atoms[at]], "drop": [], "double": [atoms[at]] * 2}[how]
    return b"".join(atoms)


@settings(FUZZ, max_examples=1_000)
@given(header=respelled())
@example(header=TEXT)
def test_headers_spelled_oddly_are_read_as_the_library_does(header: bytes, tmp_path: Path) -> None:
    compared(tmp_path, packed(header) + DATA)


@st.composite
def sized(draw: st.DrawFn) -> bytes:
    """Tensors of any type and shape whose ranges fit, or nearly."""
    header, end = {}, 0
    for number in range(draw(st.integers(1, 3))):
        dtype = draw(st.sampled_from(sorted(format_.DTYPES)))
        shape = draw(st.lists(st.sampled_from([0, 1, 2, 3, 4, 7, 8, 2**31, 2**32, 2**62, 2**63]), max_size=4))
        count = 1
        for n in shape:
            count *= n
        size = format_.DTYPES[dtype].nbytes(count) if count < 10_000 else draw(st.integers(0, 16))
        header[f"t{number}"] = {"dtype": dtype, "shape": shape, "data_offsets": (end, end := end + size)}
    return packed(as_json(header)) + bytes(i % 2 for i in range(end))


@FUZZ
@given(content=sized())
def test_types_and_shapes_are_read_as_the_library_does(content: bytes, tmp_path: Path) -> None:
    compared(tmp_path, content)


# ------------------------------------------------------------------------------------------------ TensorFlow's index


@FUZZ
@given(data=st.binary(max_size=60), repeated=st.integers(0, 9))
def test_a_message_of_any_bytes_is_read_or_broken(data: bytes, repeated: int) -> None:
    with suppress(Broken):
        message = Message(data, repeated, 20)
        for field in range(9):
            for look in (message.count, message.number, message.numbers, message.messages):
                with suppress(Broken):
                    look(field)


FIELDS = st.tuples(
    st.integers(0, 9), st.sampled_from([0, 0, 0, 1, 2, 2, 2, 3, 5, 7]), st.integers(0, 2**65), st.binary(max_size=12)
)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """An entry's fields in any number and order, each of any kind."""
    sound = [
        bundle.whole(1, draw(st.integers(0, 30))),
        bundle.text(2, bundle.shape_of(draw(st.lists(st.integers(-1, 9), max_size=3)))),
        bundle.whole(3, draw(st.integers(-1, 2))),
        bundle.whole(4, draw(st.sampled_from([0, 8, 64, 2**63, 2**64 - 1]))),
        bundle.whole(5, draw(st.sampled_from([0, 4, 64, 2**63]))),
        bundle.text(7, bundle.text(1, bundle.extent(draw(st.integers(-1, 4)), draw(st.integers(-1, 4))))),
    ]
    fields = [
        bundle.varint(number << 3 | kind) + (bundle.varint(value) if kind == 0 else bundle.text(number, content)[1:])
        for number, kind, value, content in draw(st.lists(FIELDS, max_size=4))
    ]
    kept = [field for field in sound if draw(st.integers(0, 4))]
    return b"".join(draw(st.permutations(kept + fields)))


@FUZZ
@given(found=st.dictionaries(st.binary(max_size=8), messages(), min_size=1, max_size=3), snappy=st.booleans())
def test_an_index_of_odd_entries_is_read_or_refused(found: dict[bytes, bytes], snappy: bool, tmp_path: Path) -> None:
    """Blocks, packing and checksums are right, so that the entries are looked at."""
    bundle.write(tmp_path / "m", {b"": bundle.header(2), **found}, [bytes(64)] * 2, bundle.How(snappy=snappy))
    try:
        checkpoint = open_checkpoint(str(tmp_path))
        readable = {name: header for name, header in checkpoint.headers.items() if header.refusal is None}
        for name, array in read_tensors(readable):
            assert array.shape == readable[name].shape
    except BertprobeError as error:
        if not (error.found and error.hint):
            raise
