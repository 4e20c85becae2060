"""The arrays of a zip, or of one file, as tensors: stored members by byte range, packed ones as what they unpack to.

Every member's start is read for an index: the zip's local header, which must be as the table of contents says, and the
array's own. Neighbours are read together, and over a network several at a time. The CRC-32 that a zip keeps of each
member is verified when its numbers are read.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from bertprobe.checkpoint.numpy_archive.npy import LONGEST_START, NpyHeader, length_of, parsed
from bertprobe.checkpoint.prefetch import prefetch
from bertprobe.checkpoint.source import Source
from bertprobe.checkpoint.tensors import Array, Derived, Index, Piece, TensorHeader, numpy_dtype
from bertprobe.checkpoint.zipped.directory import Member, read_directory, shown
from bertprobe.checkpoint.zipped.hints import DAMAGED
from bertprobe.checkpoint.zipped.members import LOCKED, Ends, data_start
from bertprobe.errors import CorruptFile, UnsupportedFile, printable, shortened

SUFFIX = b".npy"
NOTES = "__metadata__"  # the member with the notes of a file that bertprobe wrote
MAX_TENSORS = 250_000
MAX_NAME = 1_000  # characters
MAX_NOTES = 2**20  # bytes
FIRST = 512  # bytes behind a member's name in which its header and its array's stand, mostly
NEAR = 16 * 1024  # starts of members closer than this are read as one
RUN = 2**20  # bytes of such a read at most
STORED, DEFLATED = 0, 8
UTF8 = 0x800  # the flag of a name that is UTF-8; without it Python's reader takes code page 437


def contents(source: Source) -> Index:
    """The headers of the arrays in a zip, under their members' names without suffix, and the notes in it."""
    head = source.read(0, min(FIRST, source.size))
    members = read_directory(source, Ends(source, head).span).values()
    arrays = [member for member in members if member.name.endswith(SUFFIX) and not member.folder]
    if len(arrays) > MAX_TENSORS:
        raise UnsupportedFile(f"{source.name} lists more than {MAX_TENSORS:,} arrays", "is it the right file?")
    headers = []
    notes: dict[str, str] = {}
    for member, start in _starts(source, arrays):
        header = _Packed(source, member, start).header()
        if header.name == NOTES and (found := _notes(source, member, start)) is not None:
            notes = found
        else:
            headers.append(header)
    others = [_name(source, member) for member in members if not (member.name.endswith(SUFFIX) or member.folder)]
    remark = f"{printable(shortened(others, 3))} in it is no array of numpy, and not read"
    return Index(tuple(headers), metadata=notes, remarks=(remark,) if others else ())


def array_in(source: Source) -> TensorHeader:
    """The header of the one array in a file, under the file's name without suffix."""
    where = f"the array in {source.address}"
    start = source.read(0, min(FIRST, source.size))
    length = length_of(start, where)
    if length > source.size:
        raise CorruptFile(f"{source.address} ends within its header", DAMAGED)
    found = parsed(source.read(0, length), where)
    name = source.name.removesuffix(SUFFIX.decode())
    if found.refusal:
        return TensorHeader(name, found.type, found.shape, refusal=found.refusal)
    _check_size(where, found, source.size)
    return _in_order(_plain(name, found, Piece(source, length, source.size)), found)


# ------------------------------------------------------------------------------------------------ members


class _Run(NamedTuple):
    """Members whose starts are read together."""

    source: Source
    start: int
    stop: int
    members: list[Member]


def _starts(source: Source, members: Sequence[Member]) -> Iterator[tuple[Member, bytes]]:
    """Each member with its first bytes, as many as its header and its array's mostly have."""
    runs: list[_Run] = []
    for member in members:
        stop = min(member.stop, member.earliest + FIRST)
        run = runs[-1] if runs else None
        if run is not None and member.first <= run.stop + NEAR and stop - run.start <= RUN:
            runs[-1] = run._replace(stop=max(run.stop, stop), members=[*run.members, member])
        else:
            runs.append(_Run(source, member.first, stop, [member]))
    for run, data in prefetch(runs):
        for member in run.members:
            stop = min(member.stop, member.earliest + FIRST)
            yield member, bytes(data[member.first - run.start : stop - run.start])


def _name(source: Source, member: Member) -> str:
    try:
        name = member.name.decode("utf-8" if member.flags & UTF8 else "cp437")
    except UnicodeDecodeError as error:
        raise CorruptFile(f"{shown(source, member.name)} has a name that is not UTF-8", DAMAGED) from error
    if len(name) > MAX_NAME:
        raise UnsupportedFile(f"{source.name} has a member under a name of {len(name):,} characters", "no model has")
    return name


class _Packed:
    """A member with an array in it, of which the first bytes are known."""

    def __init__(self, source: Source, member: Member, start: bytes) -> None:
        self._source = source
        self._member = member
        self._where = shown(source, member.name)
        self._known = start
        self.name = _name(source, member).removesuffix(SUFFIX.decode())

    def header(self) -> TensorHeader:
        """Its header as a tensor's; one that cannot be read has a refusal."""
        member = self._member
        if member.flags & LOCKED or member.method not in (STORED, DEFLATED):
            how = "encrypted" if member.flags & LOCKED else f"packed by method {member.method}"
            return TensorHeader(self.name, "", (), refusal=f"it is {how}")
        first = data_start(self._source, member, self._known)
        if first + member.size > member.stop:
            raise CorruptFile(f"{self._where} runs into the one after it", DAMAGED)
        start = self.first_bytes(first, LONGEST_START)
        length = length_of(start, self._where)
        header = self.first_bytes(first, length)
        if len(header) < length:
            raise CorruptFile(f"{self._where} ends within its header", DAMAGED)
        found = parsed(header, self._where)
        if found.refusal:
            return TensorHeader(self.name, found.type, found.shape, refusal=found.refusal)
        _check_size(self._where, found, member.whole)
        if member.method == DEFLATED:
            return _in_order(self._unpacked(found, first), found)
        piece = Piece(self._source, first + length, first + member.size, crc=(zlib.crc32(header), member.crc))
        return _in_order(_plain(self.name, found, piece), found)

    def first_bytes(self, first: int, count: int) -> bytes:
        """The first bytes of what is in it, unpacked, from what is known of the file, else by reading on."""
        member, known = self._member, self._known[first - self._member.first :]
        if member.method == STORED:
            stop = first + min(count, member.size)
            return known[:count] if len(known) >= stop - first else self._source.read(first, stop)
        step = FIRST
        while True:
            try:
                data = zlib.decompressobj(-15).decompress(known[: member.size], count)
            except zlib.error as error:
                raise CorruptFile(f"{self._where} is not packed soundly ({error})", DAMAGED) from error
            if len(data) >= count or len(known) >= member.size:
                return data
            step *= 2
            known = self._source.read(first, first + min(member.size, step))

    def _unpacked(self, found: NpyHeader, first: int) -> TensorHeader:
        """The tensor that comes of the bytes in the file when they are inflated."""
        member = self._member
        piece = Piece(self._source, first, first + member.size)
        packed = TensorHeader(self.name, "U8", (member.size,), (piece,))
        make = partial(_inflated, self._where, member.whole, member.crc, found)
        return TensorHeader(
            self.name, found.dtype, _stored_shape(found), derived=Derived((packed,), make, f"deflated {found.dtype}")
        )


def _check_size(where: str, found: NpyHeader, size: int) -> None:
    if any(n >= 2**63 for n in found.shape) or found.length + found.nbytes != size:
        raise CorruptFile(
            f"{where} has shape {list(found.shape)} in {found.type}, {found.nbytes:,} bytes, and holds "
            f"{size - found.length:,}",
            DAMAGED,
        )


# ------------------------------------------------------------------------------------------------ arrays


def _stored_shape(found: NpyHeader) -> tuple[int, ...]:
    return found.shape[::-1] if found.fortran else found.shape


def _plain(name: str, found: NpyHeader, piece: Piece) -> TensorHeader:
    """The tensor of numbers that lie in the file as they are, but for the order of their bytes."""
    if not found.swapped:
        return TensorHeader(name, found.dtype, _stored_shape(found), (piece,))
    raw = TensorHeader(name, "U8", (found.nbytes,), (piece,))
    made = Derived((raw,), partial(_numbers, found), f"big-endian {found.dtype}")
    return TensorHeader(name, found.dtype, _stored_shape(found), derived=made)


def _in_order(header: TensorHeader, found: NpyHeader) -> TensorHeader:
    """The tensor as its shape says, where its columns lie one after the other."""
    return header.permuted(tuple(range(len(found.shape)))[::-1]) if found.fortran else header


def _inflated(where: str, size: int, crc: int, found: NpyHeader, packed: Array) -> Array:
    """What a packed member holds behind its header."""
    inflate = zlib.decompressobj(-15)
    try:
        data = inflate.decompress(packed, size + 1)
    except zlib.error as error:
        raise CorruptFile(f"{where} is not packed soundly ({error})", DAMAGED) from error
    if len(data) != size or not inflate.eof or inflate.unused_data:
        raise CorruptFile(f"{where} does not unpack to the {size:,} bytes that it should have", DAMAGED)
    if zlib.crc32(data) != crc:
        raise CorruptFile(f"{where} has another checksum than the table of contents says", DAMAGED)
    return _numbers(found, memoryview(data)[found.length :])


def _numbers(found: NpyHeader, data: Any) -> Array:
    """The numbers of an array, in the order of bytes that is read here."""
    import numpy as np

    dtype = numpy_dtype(found.dtype)
    array = np.frombuffer(data, dtype.newbyteorder(">") if found.swapped else dtype)
    return (array.astype(dtype) if found.swapped else array).reshape(_stored_shape(found))


def _notes(source: Source, member: Member, start: bytes) -> dict[str, str] | None:
    """The notes that `export` put in as one text, None where that member is something else."""
    if member.method != STORED or member.size > MAX_NOTES:
        return None
    packed = _Packed(source, member, start)
    first = data_start(source, member, start)
    data = packed.first_bytes(first, member.size)
    length = length_of(data, "")
    found = parsed(data[:length], "")
    if not found.type.startswith("<U") or found.shape != ():
        return None
    try:
        notes = json.loads(data[length:].decode("utf-32-le").rstrip("\0"))
    except (ValueError, RecursionError):
        return None
    sound = isinstance(notes, dict) and all(isinstance(value, str) for value in notes.values())
    return notes if sound else None
