"""A torch file that two readers would read differently is refused, and whatever is read has the values torch reads."""

from __future__ import annotations

import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from pickles import get, indexed, mapping, name, number, numbers, old, put, saved, storage, tensor, text, zipped
from reading import by_name
from test_torch_pickle import DTYPES, bits, tarred

from bertprobe.checkpoint.reading import read_tensor, read_tensors
from bertprobe.errors import BertprobeError, CorruptFile, UnsupportedFile

FOUR = np.arange(1, 5, dtype="<f4").tobytes()
OTHER = np.arange(101, 105, dtype="<f4").tobytes()
ONE = tensor("0", 4, (4,))
PART = tensor("0", 4, (2,), offset=2)


def flat(value: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of what torch loaded, under the keys that lead to it."""
    if isinstance(value, torch.Tensor):
        yield prefix.removesuffix(".") or "tensor", value
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, member in members:
        if type(key) in (str, int) and depth < 20:
            yield from flat(member, f"{prefix}{key}.", depth + 1)


def loaded(data: bytes) -> dict[str, torch.Tensor] | None:
    """What torch loads without running anything, None where it refuses; of two tensors of one name, the first."""
    try:
        value = torch.load(BytesIO(data), weights_only=True)
    except Exception:
        return None
    return dict(reversed(list(flat(value))))


def assert_as_torch(data: bytes, loads: bool | None = True) -> dict[str, np.ndarray[Any, Any]]:
    """What is read is what torch reads, where torch `loads` the file: the same dtypes, shapes and bits."""
    index = indexed(data)
    found: dict[str, np.ndarray[Any, Any]] = {}
    for header in index.headers:
        with suppress(BertprobeError):
            found[header.name] = read_tensor(header)
    theirs = loaded(data)
    assert loads is None or loads == (theirs is not None)
    if theirs is not None:
        for header in index.headers:
            if header.name in found:
                other = theirs[f"{index.wrapper}.{header.name}" if index.wrapper else header.name]
                assert (header.dtype, header.shape) == (DTYPES[other.dtype], tuple(other.shape))
                assert np.ascontiguousarray(found[header.name]).tobytes() == bits(other)
    return found


def refused(data: bytes, words: str) -> None:
    """A refusal in one line, for this reason, when the file is opened or its tensors are read."""
    with pytest.raises(BertprobeError, match=words) as caught:
        list(read_tensors(by_name(indexed(data).headers)))
    assert "\n" not in str(caught.value)


# ---- Zips, written field by field ----


@dataclass(frozen=True)
class Entry:
    """A member, and what its two headers say of it where that is not the truth."""

    name: bytes
    data: bytes = b""
    local_name: bytes | None = None
    local_size: int | None = None
    attributes: int = 0
    disk: int = 0
    extra: bytes = b""
    listed_size: int | None = None

    @property
    def checksum(self) -> int:
        return zlib.crc32(self.data)

    def local(self) -> bytes:
        name = self.name if self.local_name is None else self.local_name
        size = len(self.data) if self.local_size is None else self.local_size
        header = (b"PK\3\4", 20, 0, 0, 0, 0, self.checksum, size, size, len(name), 0)
        return struct.pack("<4s5HIIIHH", *header) + name + self.data

    def central(self, at: int) -> bytes:
        size = len(self.data) if self.listed_size is None else self.listed_size
        sizes = (b"PK\1\2", 20, 20, 0, 0, 0, 0, self.checksum, size, size, len(self.name), len(self.extra))
        more = struct.pack("<HHHII", 0, self.disk, 0, self.attributes, at)
        return struct.pack("<4s6HIIIHH", *sizes) + more + self.name + self.extra


def files(entries: list[Entry], start: int = 0) -> tuple[bytes, bytes]:
    """The members one after the other, and the table of contents of them at a place in the file."""
    content, directory = b"", b""
    for entry in entries:
        directory += entry.central(start + len(content))
        content += entry.local()
    return content, directory


def end(count: int, size: int, start: int, comment: bytes = b"", here: int | None = None, disk: int = 0) -> bytes:
    here = count if here is None else here
    return struct.pack("<4s4HIIH", b"PK\5\6", disk, 0, here, count, size, start, len(comment)) + comment


def archive(entries: list[Entry], **odd: Any) -> bytes:
    content, directory = files(entries)
    return content + directory + end(len(entries), len(directory), len(content), **odd)


def entries_of(values: bytes) -> list[Entry]:
    program = mapping(text("a"), tensor("k", 4, (4,)))
    return [Entry(b"archive/data.pkl", program), Entry(b"archive/data/k", values), Entry(b"archive/version", b"3\n")]


SOUND = entries_of(FOUR)


def with_storage(**odd: Any) -> bytes:
    return archive([SOUND[0], replace(SOUND[1], **odd), SOUND[2]])


def twice_listed() -> bytes:
    """The end record names the first table of contents, the second lies right before the end record.

    What moves the second by as many bytes moves the members that it lists, too.
    """
    content, directory = files(SOUND)
    other, second = files(entries_of(OTHER))
    return content + directory + other + second + end(len(SOUND), len(second), len(content))


def ended_twice() -> bytes:
    """A comment that ends in a table of contents of its own."""
    content, directory = files(SOUND)
    _, hidden = files(entries_of(OTHER))
    whole = content + directory
    inner = hidden + end(len(SOUND), len(hidden), len(whole) + 22)
    return whole + end(len(SOUND), len(directory), len(content), comment=inner)


def long_end(**odd: int) -> bytes:
    """With the end records of a large archive, as torch writes them for every file."""
    content, directory = files(SOUND)
    place = len(content) + len(directory)
    fields = {"place": place, "start": len(content), "count": 3, "length": 44, "disks": 1, **odd}
    record = struct.pack(
        "<4sQHHIIQQQQ", b"PK\6\6", fields["length"], 45, 45, 0, 0, fields["count"], fields["count"], len(directory),
        fields["start"],
    )  # fmt: skip
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, fields["place"], fields["disks"])
    return content + directory + record + locator + end(3, len(directory), len(content))


CASED = [SOUND[0], Entry(b"archive/data/K", OTHER), *SOUND[1:]]
LONG = struct.pack("<HHQQ", 1, 16, 16, 16)
ZIPS: dict[str, tuple[bytes, str]] = {
    "two tables of contents": (twice_listed(), "table of contents elsewhere"),
    "one file after another": (saved({"a": torch.ones(4)}) + saved({"a": torch.zeros(4)}), "elsewhere"),
    "bytes before the zip": (b"PK\3\4" + archive(SOUND), "elsewhere"),
    "an end record in the comment": (ended_twice(), "second end record in its comment"),
    "bytes after the end record": (archive(SOUND) + b"more", "goes on after its end record"),
    "fewer entries than there are": (
        (made := files(SOUND))[0] + made[1] + end(1, len(made[1]), len(made[0])),
        "says that its table of contents has 1 entries",
    ),
    "counts that differ": (archive(SOUND, here=1), "contradicts itself"),
    "one of several disks": (archive(SOUND, disk=1), "one of several parts"),
    "a member of another disk": (with_storage(disk=1), "lies in another part"),
    "a long end record elsewhere": (long_end(place=0), "long end record elsewhere"),
    "a long end record of another length": (long_end(length=45), "long end record elsewhere"),
    "a long end record of another place": (long_end(start=0), "two end records that contradict"),
    "a long end record of another count": (long_end(count=1), "two end records that contradict"),
    "the same name twice": (archive([*SOUND, Entry(b"archive/data/k", OTHER)]), "two members of the same name"),
    "names equal but for case": (archive(CASED), "names equal but for their case"),
    "a folder equal but for case": (archive([*SOUND, Entry(b"ARCHIVE/data/k", OTHER)]), "equal but for their case"),
    "a byte order under a name in capitals": (archive([*SOUND, Entry(b"archive/ByteOrder", b"big")]), "little-endian"),
    "a name that a NUL ends": (archive([*SOUND, Entry(b"archive/data/k\0x", OTHER)]), "odd name"),
    "another name before the data": (with_storage(local_name=b"archive/data/j"), "does not start as"),
    "a longer name before the data": (with_storage(local_name=b"archive/data/kk"), "does not start as"),
    "another size before the data": (with_storage(local_size=8), "does not start as"),
    "a storage that is a folder": (with_storage(attributes=0x10), "marked as a folder"),
    "a pickle that is a folder": (archive([replace(SOUND[0], attributes=0x10), *SOUND[1:]]), "marked as a folder"),
    "two long sizes": (with_storage(listed_size=0xFFFFFFFF, extra=LONG + LONG), "has them twice"),
    "no long size": (with_storage(listed_size=0xFFFFFFFF), "lacks the sizes"),
}


@pytest.mark.parametrize(("data", "words"), ZIPS.values(), ids=ZIPS)
def test_a_zip_of_two_meanings_is_refused(data: bytes, words: str) -> None:
    refused(data, words)


@pytest.mark.parametrize(
    "data",
    [
        archive(SOUND),
        archive(SOUND, comment=b"a comment"),
        long_end(),
        with_storage(listed_size=0xFFFFFFFF, extra=LONG),
        with_storage(local_size=0xFFFFFFFF),
        archive([*reversed(SOUND)]),
        with_storage(name=b"archive/data/K"),
        archive([*SOUND, Entry(b"archive/data/", attributes=0x10)]),
    ],
)
def test_the_same_zips_without_a_fault_are_read(data: bytes) -> None:
    assert assert_as_torch(data)["a"].tobytes() == FOUR


def test_a_name_that_is_not_ascii_is_compared_by_its_bytes() -> None:
    program = Entry(b"archive/data.pkl", mapping(text("a"), tensor("é", 4, (4,))))
    assert assert_as_torch(archive([program, Entry("archive/data/é".encode(), FOUR), SOUND[2]]))["a"].tobytes() == FOUR
    for other in ("archive/data/É".encode(), "archive/data/é".encode("cp437"), "archive\\data\\é".encode()):
        assert assert_as_torch(archive([program, Entry(other, FOUR), SOUND[2]]), loads=False) == {}


def test_zipfile_and_torch_do_read_two_tables_differently() -> None:
    """What the refusal is for: a scanner shows other weights than those that are loaded."""
    data = twice_listed()
    theirs = loaded(data)
    assert theirs is not None
    assert theirs["a"].numpy().tobytes() == FOUR
    assert zipfile.ZipFile(BytesIO(data)).read("archive/data/k") == OTHER


# ---- Pickles ----


def both(program: bytes) -> list[bytes]:
    """A pickle as a zip and as an old file, with a storage "0" of four numbers."""
    stored = struct.pack("<q", 4) + FOUR
    older = program.replace(number(4) + b"tQ", number(4) + b"NtQ")  # the place of a view
    return [zipped(program, {"data/0": FOUR}), old(older, ["0"], storages=stored)]


def wrapped(function: str, *args: bytes) -> bytes:
    module, _, attribute = function.rpartition(".")
    return name(module, attribute) + b"(" + b"".join(args) + b"tR"


EMPTY = name("collections", "OrderedDict") + b")R"
NOTES = b"}(" + text("data") + PART + b"u"
REAL = b"}(" + text("real") + b"G" + struct.pack(">d", 9) + b"u"  # sets every value
PARAMETER = "torch._utils._rebuild_parameter_with_state"
TYPED = "torch._tensor._rebuild_from_type_v2"
CHANGES = "changes values of a tensor"
MADE = name("torch._utils", "_rebuild_parameter_with_state")
TENSOR = name("torch", "Tensor")
PLAIN = name("torch._utils", "_rebuild_tensor_v2")
ARGS = b"(" + storage("0", 4) + number(0) + numbers([4]) + numbers([1]) + b"\x89" + EMPTY + b"t"
FILES: dict[str, tuple[bytes, str]] = {
    "a storage of two types": (
        mapping(text("a"), ONE, text("b"), tensor("0", 4, (4,), kind="IntStorage")),
        "gives storage '0' two types, sizes or places",
    ),
    "a storage of two sizes": (mapping(text("a"), ONE, text("b"), tensor("0", 2, (2,))), "two types, sizes or places"),
    "a storage of another type that nothing uses": (
        mapping(text("a"), storage("0", 4, "IntStorage") + b"0" + ONE), "two types, sizes or places"
    ),
    "keys 1 and True": (mapping(number(1), ONE, b"\x88", PART), "the key 1 and a number of another type"),
    "keys True and 1": (mapping(b"\x88", PART, number(1), ONE), "the key 1 and a number of another type"),
    "keys 0 and False": (mapping(number(0), ONE, b"\x89", PART), "the key 0 and a number of another type"),
    "keys 1 and 1.0": (mapping(number(1), ONE, b"G" + struct.pack(">d", 1), PART), "a number of another type"),
    "keys 1 and 1+0j": (
        mapping(number(1), ONE, wrapped("builtins.complex", *[b"G" + struct.pack(">d", n) for n in (1, 0)]), PART),
        "a number of another type",
    ),
    "keys 1 and '1'": (mapping(number(1), ONE, text("1"), PART), "two tensors under the name '1'"),
    "a.b and b in a": (
        mapping(text("a.b"), ONE, text("a"), b"}(" + text("b") + PART + b"u"), r"two tensors under the name 'a\.b'"
    ),
    "keys 1 and '1' of what holds tensors": (
        mapping(text("w"), ONE, number(1), b"}(" + text("b") + ONE + b"u", text("1"), b"}(" + text("b") + PART + b"u"),
        r"two tensors under the name '1\.b'",
    ),
    "a value that is set in a tensor": (
        mapping(text("a"), ONE, text("b"), PART + number(0) + b"G" + struct.pack(">d", 9) + b"s"),
        CHANGES,
    ),
    "a value that is set in a tensor nobody keeps": (
        mapping(text("a"), ONE + PART + number(0) + b"G" + struct.pack(">d", 9) + b"s0"), CHANGES
    ),
    "values that are an attribute of a parameter": (
        mapping(text("a"), wrapped(PARAMETER, ONE, b"\x88", EMPTY, NOTES)), CHANGES
    ),
    "values that are an attribute of a tensor": (
        mapping(text("a"), wrapped(TYPED, PLAIN, TENSOR, ARGS, NOTES)), CHANGES
    ),
    "values that are the second of two attributes": (
        mapping(text("a"), wrapped(TYPED, PLAIN, TENSOR, ARGS, b"}" + NOTES + b"\x86")), CHANGES
    ),
    "values that are an attribute of a parameter beside": (
        mapping(text("a"), ONE, b"N", wrapped(PARAMETER, ONE, b"\x89", EMPTY, REAL)), CHANGES
    ),
    "values that are an attribute of what a call makes in a call": (
        mapping(text("a"), wrapped(TYPED, MADE, TENSOR, b"(" + ONE + b"\x89" + EMPTY + NOTES + b"t", b"N")),
        CHANGES,
    ),
    "a type that is an attribute of a storage": (
        mapping(text("a"), ONE.replace(b"tQ", b"tQ}(" + text("dtype") + name("torch", "int32") + b"ub", 1)),
        "sets attributes of something that has none",
    ),
    "a size that is True at first": (
        mapping(text("a"), ONE.replace(number(4) + b"tQ", b"\x88" + b"tQ", 1), text("b"), ONE),
        "two types, sizes or places",
    ),
    "other values given after it is made": (
        mapping(text("a"), ONE + b"(" + storage("0", 4) + number(2) + numbers([2]) + numbers([1]) + b"tb"),
        "its values are replaced after it is made",
    ),
    "a shape that grows after the call": (
        mapping(text("a"), tensor("0", 4, (2,), size=b"](" + number(2) + b"e" + put(9)) + get(9) + b"](K\x02e0" + b"0"),
        "whole numbers",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("program", "words"), FILES.values(), ids=FILES)
def test_a_pickle_of_two_meanings_is_refused(program: bytes, words: str) -> None:
    for data in both(program):
        refused(data, words)


EQUAL = {
    "the same string twice": (mapping(text("a"), ONE, text("b"), ONE, text("a"), PART), ["a", "b"]),
    "the same number twice": (mapping(number(7), ONE, text("b"), ONE, number(7), PART), ["7", "b"]),
    "a string of Python 2 and one of Python 3": (mapping(b"U\x01a", ONE, text("b"), ONE, text("a"), PART), ["a", "b"]),
    "a string of Python 2 in UTF-8": (mapping(b"U\x02\xc3\xa9", ONE, text("é"), PART), ["é"]),
    "pairs of an OrderedDict": (
        b"\x80\x02" + name("collections", "OrderedDict") + b"(](" + text("a") + ONE + b"\x86" + text("a") + PART
        + b"\x86etR.", ["a"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("program", "names"), EQUAL.values(), ids=EQUAL)
def test_of_equal_keys_the_last_counts_as_for_torch(program: bytes, names: list[str]) -> None:
    for data in both(program):
        found = assert_as_torch(data)
        assert list(found) == names
        assert found[names[0]].tolist() == [3.0, 4.0]


def test_numbers_of_other_types_beside_those_that_are_not_equal_to_them_do_not_matter() -> None:
    program = mapping(number(2), ONE, b"\x88", PART, b"G" + struct.pack(">d", 2.5), PART, text("1"), PART)
    for data in both(program):
        assert list(assert_as_torch(data)) == ["2", "1"]


def test_attributes_that_are_no_values_are_left_out() -> None:
    notes = b"}(" + text("note") + PART + b"u"
    for state in (notes, b"N" + notes + b"\x86", b"N"):
        for data in both(mapping(text("a"), wrapped(PARAMETER, ONE, b"\x88", EMPTY, state))):
            assert assert_as_torch(data)["a"].tobytes() == FOUR


# ---- Old files ----


def view(key: str, offset: int, size: int) -> bytes:
    return b"(" + text(key) + number(offset) + number(size) + b"t"


def test_views_of_one_key_lie_in_one_place() -> None:
    numbers = struct.pack("<q", 4) + FOUR
    first, second = (tensor("0", 4, (2,), view=view("v", offset, 2)) for offset in (0, 2))
    found = assert_as_torch(old(mapping(text("a"), first, text("b"), first), ["0"], storages=numbers))
    assert found["b"].tolist() == [1.0, 2.0]
    refused(old(mapping(text("a"), first, text("b"), second), ["0"], storages=numbers), "'v' two types, sizes or")
    beyond = tensor("0", 4, (2,), view=view("v", 2, 9))
    refused(old(mapping(text("a"), beyond, text("b"), first), ["0"], storages=numbers), "two types, sizes or places")
    same = tensor("0", 4, (2,), view=view("0", 2, 2))
    refused(old(mapping(text("a"), same), ["0"], storages=numbers), "'0' two types, sizes or places")


def test_an_old_file_that_is_a_tar_as_well_is_refused() -> None:
    """Torch tries its first format before the others, and tells a tar by the checksum of the first 512 bytes."""
    data = bytearray(old(mapping(text("filling" * 100), ONE), ["0"], storages=struct.pack("<q", 4) + FOUR))
    assert data.index(b"filling") < 100  # the name of what is in the tar
    data[100:512] = tarred("x")[100:512]
    others = sum(data[:148]) + 8 * ord(" ") + sum(data[156:512])
    data[148:156] = f"{others:06o}\0 ".encode()
    with tarfile.open(fileobj=BytesIO(data), mode="r:") as tar:
        assert tar.firstmember is not None
    with pytest.raises(UnsupportedFile, match="tar format"):
        indexed(bytes(data))


def test_names_to_import_are_taken_as_they_stand() -> None:
    """Only a lexer that is not the one of unpickling undoes escapes in them."""
    program = mapping(text("a"), ONE.replace(b"torch._utils", b"\\x74orch._utils"), text("b"), ONE)
    for data in both(program):
        index = indexed(data)
        assert [header.name for header in index.headers if header.refusal is None] == ["b"]


@pytest.mark.parametrize("made", [twice_listed, ended_twice])
def test_a_refusal_says_what_to_do(made: Callable[[], bytes]) -> None:
    with pytest.raises(CorruptFile, match=r"readers disagree .*: ask for a file that torch\.save wrote"):
        indexed(made())


def test_a_storage_that_torch_enlarges_moves_those_after_it() -> None:
    """A tensor of five numbers in a storage of one: torch makes room for them, and reads what follows further on."""
    longs = tensor("0", 1, (5,), kind="LongStorage", view=b"N")
    program = mapping(text("a"), longs, text("b"), tensor("1", 1, view=b"N"))
    counted = struct.pack("<q5q", 5, 0, 1, 2, 3, 4) + struct.pack("<qf", 1, 7.0)
    data = old(program, ["0", "1"], storages=counted)
    theirs = loaded(data)
    assert theirs is not None
    assert theirs["b"].tolist() == [7.0]
    with pytest.raises(CorruptFile, match="by its list of storages, it has"):
        indexed(data)
