"""What a torch file costs follows its size: twice the pickle takes twice the steps and the memory, whatever is in it.

Steps are lines of the package that run, which is the same on every machine, and memory is what Python allocates.
"""

from __future__ import annotations

import struct
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from types import FrameType
from typing import Any

import pytest
import torch
from memory import Counting
from pickles import get, indexed, mapping, name, number, old, put, saved, tensor, text, zipped

from bertprobe.checkpoint import torch_pickle
from bertprobe.checkpoint.torch_pickle.stack_machine import BYTES_AN_OBJECT, _Machine
from bertprobe.errors import BertprobeError, CorruptFile, UnsupportedFile

STEPS_A_BYTE = 30
MEMORY_A_BYTE = 100
SPARE_STEPS, SPARE_MEMORY = 2_000, 2**17

ONE = tensor("0", 1, (1,))
VALUE = {"data/0": struct.pack("<f", 1.5)}
SHARED = ONE + put(0) + b"0"


def whole(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


def listed(count: int, value: bytes) -> bytes:
    """Members of a dictionary: numbers up to a count, and one value."""
    return b"".join(number(n) + value for n in range(count))


def filled(count: int) -> bytes:
    """A dictionary with a tensor and so many numbers, stored under 1."""
    return b"}(" + text("t") + ONE + listed(count, b"N") + b"u" + put(1)


def nested_twice(levels: int) -> bytes:
    """A tensor in a dictionary that is twice in a dictionary that is twice in a dictionary…"""
    level = (
        b"}(" + text("t") + get(0) + text("a") + get(n) + text("b") + get(n) + b"u" + put(n + 1) + b"0"
        for n in range(levels)
    )
    return whole(SHARED, *level, get(levels))


def long_text(length: int) -> bytes:
    return b"X" + struct.pack("<I", length) + b"x" * length + put(1)


# Each makes a pickle of about so many bytes.
PROGRAMS: dict[str, Callable[[int], bytes]] = {
    "a state dict": lambda size: mapping(*(text(f"layer.{n}.weight") + ONE for n in range(size // 250))),
    "constants": lambda size: whole(b"N" * size),
    "empty sets": lambda size: whole(b"\x8f" * size),
    "empty lists": lambda size: whole(b"]" * size),
    "empty dictionaries": lambda size: whole(b"}" * size),
    "marks": lambda size: whole(b"(" * size, b"N"),
    "tuples in tuples": lambda size: whole(b")", b"\x85" * size),
    "calls of calls": lambda size: whole(b"N", b")R" * (size // 2)),
    "identifiers of identifiers": lambda size: whole(b"N", b"Q" * size),
    "as many sets as are allowed": lambda size: whole(long_text(size * 3 // 4), b"\x8f" * (size // 4)),
    "as many dictionaries as are allowed": lambda size: whole(long_text(size * 3 // 4), b"}" * (size // 4)),
    "as many marks as are allowed": lambda size: whole(long_text(size * 3 // 4), b"(" * (size // 4), b"N"),
    "as deep tuples as are allowed": lambda size: whole(long_text(size * 3 // 4), b"\x85" * (size // 4)),
    "as deep calls as are allowed": lambda size: whole(long_text(size // 2), b")R" * (size // 4)),
    "as many identifiers as are allowed": lambda size: whole(long_text(size * 3 // 4), b"Q" * (size // 4)),
    "as many tuples as are allowed": lambda size: whole(long_text(size // 2), b"(", b"N\x85" * (size // 4), b"t"),
    "lists of one": lambda size: whole(b"]Na" * (size // 3)),
    "dictionaries of one": lambda size: whole(b"}NNs" * (size // 4)),
    "names to import": lambda size: whole(b"ca\nb\n" * (size // 5)),
    "a memo": lambda size: whole(b"N", b"\x94" * size),
    "a memo with gaps": lambda size: whole(b"N", b"".join(put(2 * n + 1) for n in range(size // 5))),
    "short strings": lambda size: whole(b"\x8c\x02ab" * (size // 4)),
    "one long string": lambda size: whole(long_text(size)),
    "one long number": lambda size: whole(b"\x8b", struct.pack("<i", size), b"\x7f" * size),
    "numbers in digits": lambda size: whole((b"I" + b"7" * 4000 + b"\n") * (size // 4002)),
    "pairs": lambda size: mapping(b"NN" * (size // 2)),
    "one tensor under many keys": lambda size: whole(SHARED, b"}(", listed(size // 10, get(0)), b"u"),
    "a long key before many": lambda size: whole(
        SHARED, b"}(", text("t"), get(0), text("p" * 900), b"}(", listed(size // 10, get(0)), b"uu"
    ),
    "many keys to one dictionary": lambda size: whole(
        b"}(", text("a"), filled(size // 30), listed(size // 30, get(1)), b"u"
    ),
    "dictionaries in dictionaries": lambda size: whole(
        (b"}" + text("k")) * (size // 8), b"}", text("w"), ONE, b"s" * (size // 8 + 1)
    ),
    "a wide one in each of many": lambda size: whole(
        filled(size // 30), b"0", (b"}(" + text("w") + get(1) + text("k")) * (size // 40), get(1), b"u" * (size // 40)
    ),
    "a long number as many keys": lambda size: whole(
        b"\x8b", struct.pack("<i", size // 2), b"\x7f" * (size // 2), put(1), b"0}(", text("t"), ONE,
        (get(1) + b"N") * (size // 12), b"u",
    ),
    "a long string as many keys": lambda size: whole(
        long_text(size // 2), b"0}(", text("t"), ONE, (get(1) + b"N") * (size // 12), b"u"
    ),
    "a long string that leads down": lambda size: whole(
        long_text(size // 2), b"0", (b"}" + get(1)) * (size // 14), b"}", text("w"), ONE, b"s" * (size // 14 + 1)
    ),
    "a long name that is called": lambda size: whole(
        name("m" * (size // 2), "f"), put(1), b"0}(", text("t"), ONE, listed(size // 24, get(1) + b")R"), b"u"
    ),
    "a name of odd letters that is called": lambda size: whole(
        name("\u202e" * 300, "f"), put(1), b"0}(", text("t"), ONE, listed(size // 12, get(1) + b")R"), b"u"
    ),
    "parameters in parameters": lambda size: whole(
        name("torch._utils", "_rebuild_parameter"), put(1), b"0", ONE, put(2), b"0}(",
        listed(size // 25, get(1) + get(2) + b"\x88N\x87R" + put(2)), b"u",
    ),
    "attributes that many share": lambda size: whole(
        b"}(", *(text(f"{n}") + b"N" for n in range(size // 20)), b"u", put(1), b"0", SHARED, b"}(",
        listed(size // 80, name("torch._utils", "_rebuild_parameter_with_state") + b"(" + get(0) + b"\x88N"
        + get(1) + b"tR"), b"u",
    ),
    "a shape of many axes that many share": lambda size: whole(
        b"(", b"K\x01" * (size // 4), b"t", put(1), b"0}(",
        *(number(n) + tensor("0", 1, (1,), size=get(1)) for n in range(size // 400)), b"u",
    ),
}  # fmt: skip


def opened(data: bytes) -> None:
    with suppress(BertprobeError):
        indexed(data)


def steps(data: bytes) -> int:
    """How many lines of the package run to open a file."""
    count = 0

    def line(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        count += event == "line"
        return line

    def call(frame: FrameType, event: str, arg: Any) -> Any:
        return line if "bertprobe" in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        opened(data)
    finally:
        sys.settrace(before)
    return count


def peak(data: bytes) -> int:
    """Bytes that are held at most while a file is opened."""
    tracemalloc.start()
    try:
        opened(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture(autouse=True)
def few_to_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is allowed to a file of any size is small beside what it is allowed for its size."""
    for module, setting in (("stack_machine", "SPARE_OBJECTS"), ("state_dict", "SPARE_NAMES")):
        monkeypatch.setattr(f"bertprobe.checkpoint.torch_pickle.{module}.{setting}", 500)
    monkeypatch.setattr("bertprobe.checkpoint.torch_pickle.state_dict.SPARE_CHARACTERS", 10_000)


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_steps_and_memory_follow_the_size(program: Callable[[int], bytes]) -> None:
    for make in (lambda program: zipped(program, VALUE), old):
        small, large = (make(program(size)) for size in (10_000, 20_000))
        opened(small)
        grown = len(large) - len(small)
        assert grown > 4_000
        assert steps(large) - steps(small) <= STEPS_A_BYTE * grown + SPARE_STEPS
        assert peak(large) - peak(small) <= MEMORY_A_BYTE * grown + SPARE_MEMORY


# ---- What is refused ----


@pytest.mark.parametrize("opcode", [b"\x8f", b"]", b"}", b"("])
def test_more_objects_than_bytes_allow_are_refused(opcode: bytes) -> None:
    with pytest.raises(CorruptFile, match=r"not a sound pickle \(it makes [0-9,]+ objects of [0-9,]+ bytes\)"):
        indexed(zipped(whole(opcode * 2_000)))


def test_real_files_have_half_of_the_objects_that_are_allowed() -> None:
    layer = {f"{n}.weight": torch.nn.Parameter(torch.ones(1)) for n in range(500)}
    data = saved({"model": layer, "optimizer": {"state": {n: {"step": torch.ones(1)} for n in range(500)}}})
    with zipfile.ZipFile(BytesIO(data)) as archive:
        program = archive.read("archive/data.pkl")
    machine = _Machine(program, 0)
    machine.run()
    assert 2 * machine.objects <= len(program) / BYTES_AN_OBJECT


def test_a_tree_that_repeats_itself_is_refused() -> None:
    with pytest.raises(UnsupportedFile, match="repeats its own contents too often"):
        indexed(zipped(nested_twice(40), VALUE))


def test_long_names_to_import_are_refused() -> None:
    with pytest.raises(CorruptFile, match="a name to import has more than 1,000 characters"):
        indexed(zipped(mapping(text("a"), name("m" * 1_001, "f")), VALUE))


@pytest.mark.parametrize("opcode", [b"\x8d", b"\x8e", b"\x96"])
@pytest.mark.parametrize("length", [2**20, 2**40, 2**63])
def test_a_length_beyond_the_end_of_an_old_file_is_not_read_for(opcode: bytes, length: int) -> None:
    source = Counting(old(b"\x80\x04" + opcode + struct.pack("<Q", length)) + bytes(2**18))
    with pytest.raises(CorruptFile, match="ends before it is complete"):
        torch_pickle.index(source)
    assert source.bytes_read <= torch_pickle.HEAD


def test_a_frame_of_any_length_costs_nothing() -> None:
    frame = b"\x80\x04\x95" + b"\xff" * 8
    for data in (zipped(frame + mapping(text("a"), ONE), VALUE), old(frame + b"N.")):
        opened(data)
        assert peak(data) < 2**20


def test_a_long_old_pickle_is_read_in_steps_that_double() -> None:
    source = Counting(old(whole(text("x" * 2**20), b"0", b"N")))
    opened(source.data)
    assert torch_pickle.index(source).headers == ()
    assert source.bytes_read <= 2 * source.size
    assert source.reads <= 6


# ---- Zips of many members ----


def crowded(count: int) -> bytes:
    return zipped(mapping(text("a"), ONE), {**VALUE, **{f"data/x{n}": b"" for n in range(count)}})


def test_members_cost_a_few_steps_and_hundreds_of_bytes_each() -> None:
    small, large = crowded(500), crowded(1_000)
    opened(small)
    assert steps(large) - steps(small) <= 60 * 500
    assert peak(large) - peak(small) <= 640 * 500  # two sizes and a checksum are numbers of their own
