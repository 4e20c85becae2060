"""A zip's table of contents as every reader sees it, torch's own (miniz) too, or a refusal where two see other things.

Source: PKWARE's APPNOTE.TXT 4.3 to 4.5 and miniz_zip.c. Readers differ in where they look for the table (at the place
that the end record names, or right before that record), in how many entries they take, and in which names they hold to
be the same: miniz ignores the case of ASCII letters. The standard library's `zipfile` is not used, as it mends what
does not fit. Time and memory follow the number of entries, some 300 bytes each.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from bertprobe.checkpoint.source import Source
from bertprobe.checkpoint.zipped.hints import DAMAGED, READERS_DISAGREE
from bertprobe.errors import CorruptFile, UnsupportedFile, printable

MAX_DIRECTORY = 32 * 2**20  # a zip's table of contents has some 80 bytes a tensor
TAIL = 2**16 + 22  # a zip's end record and the longest comment after it

_END = struct.Struct("<4s4HIIH")
_END64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR64 = struct.Struct("<4sIQI")
_ENTRY = struct.Struct("<4s6HIII5HII")
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF  # instead of a number that has its place in a longer field
_FOLDER = 0x10  # the attribute of a folder, in the file system of MS-DOS


class Member(NamedTuple):
    """A file in a zip: its local header starts at `first`, and everything that is its own ends before `stop`.

    Its data do not start before `earliest`, have `size` bytes, and `whole` unpacked, whose CRC-32 is `crc`. A `folder`
    has none for torch, whatever its size says.
    """

    name: bytes
    first: int
    stop: int
    earliest: int
    size: int
    method: int
    flags: int
    folder: bool
    whole: int
    crc: int


def read_directory(source: Source, span: Callable[[int, int], bytes]) -> dict[bytes, Member]:
    """The members by their names in small letters, in file order; raises `CorruptFile` and `UnsupportedFile`.

    `span` gives the bytes between two places of the source.
    """
    start, stop, count = _place(source, span)
    if stop - start > MAX_DIRECTORY:
        raise UnsupportedFile(
            f"the table of contents of {source.name} has more than {MAX_DIRECTORY:,} bytes", "is it the right file?"
        )
    entries = sorted(_entries(source, span(start, stop), count))
    ends = [*(entry[0] for entry in entries[1:]), start]
    found: dict[bytes, Member] = {}
    for (first, name, size, method, flags, folder, whole, crc), end in zip(entries, ends, strict=False):
        member = Member(name, first, end, first + 30 + len(name), size, method, flags, folder, whole, crc)
        if member.earliest + size > member.stop:
            raise CorruptFile(f"{shown(source, name)} overlaps the one after it or the end of the file", DAMAGED)
        if found.setdefault(name.lower(), member) is not member:
            same = "the same name" if found[name.lower()].name == name else "names equal but for their case"
            raise CorruptFile(f"{source.name} has two members of {same}", READERS_DISAGREE)
    return found


def shown(source: Source, name: bytes) -> str:
    """A member as a message names it."""
    return f"member {printable(name[:100].decode('utf-8', 'backslashreplace'))} of {source.name}"


# ---- Where it lies ----


def _place(source: Source, span: Callable[[int, int], bytes]) -> tuple[int, int, int]:
    """Where the table starts and stops, and how many entries it has."""
    first = max(0, source.size - TAIL)
    tail = span(first, source.size)
    at = _end_record(source, tail)
    _, *short, _ = _END.unpack_from(tail, at)
    numbers = short
    stop = first + at
    located = tail[max(0, at - _LOCATOR64.size) : at]
    if located.startswith(b"PK\x06\x07"):
        stop -= _LOCATOR64.size + _END64.size
        numbers = _long_record(source, tail[max(0, stop - first) : at - _LOCATOR64.size], located, stop)
    full = (_FULL16,) * 4 + (_FULL32,) * 2
    if any(value not in (long, most) for value, long, most in zip(short, numbers, full, strict=True)):
        raise CorruptFile(f"{source.name} has two end records that contradict each other", READERS_DISAGREE)
    disk, other_disk, here, count, size, start = numbers
    if disk or other_disk or here != count:
        raise CorruptFile(f"{source.name} is one of several parts, or its end record contradicts itself", DAMAGED)
    if start + size != stop:
        raise CorruptFile(
            f"{source.name} has its table of contents elsewhere than its end record says: "
            "it has two of them, or something stands before the zip",
            READERS_DISAGREE,
        )
    return start, stop, count


def _end_record(source: Source, tail: bytes) -> int:
    """Where the end record starts: the only one, for a comment after it may hold another."""
    found = []
    at = tail.find(b"PK\x05\x06")
    while 0 <= at <= len(tail) - _END.size:
        found.append((at, at + _END.size + _END.unpack_from(tail, at)[-1]))
        at = tail.find(b"PK\x05\x06", at + 1)
    if not found or found[-1][1] > len(tail):
        raise CorruptFile(f"{source.name} ends before its table of contents", DAMAGED)
    if found[-1][1] < len(tail):
        raise CorruptFile(f"{source.name} goes on after its end record", READERS_DISAGREE)
    if sum(stop == len(tail) for _, stop in found) > 1:
        raise CorruptFile(f"{source.name} has a second end record in its comment", READERS_DISAGREE)
    return found[-1][0]


def _long_record(source: Source, record: bytes, located: bytes, at: int) -> list[int]:
    """The numbers of the end record again, from the one for large archives that lies before it."""
    _, disk, place, disks = _LOCATOR64.unpack(located)
    if len(record) == _END64.size and (disk, place, disks) == (0, at, 1):
        signature, length, _, _, *numbers = _END64.unpack(record)
        if (signature, length) == (b"PK\x06\x06", _END64.size - 12):
            return numbers
    raise CorruptFile(f"{source.name} has its long end record elsewhere than it says", READERS_DISAGREE)


# ---- What it lists ----

_Entry = tuple[int, bytes, int, int, int, bool, int, int]
"""Where the local header starts, name, size, method, flags, whether it is a folder, size unpacked, CRC-32."""


def _entries(source: Source, directory: bytes, count: int) -> list[_Entry]:
    """As many entries as there are; raises unless they fill the table."""
    found: list[_Entry] = []
    at = 0
    while at + _ENTRY.size <= len(directory):
        (signature, _, _, flags, method, _, _, crc, size, whole, named, extra, comment, disk, _, attributes, first) = (
            _ENTRY.unpack_from(directory, at)
        )
        name = directory[at + _ENTRY.size : at + _ENTRY.size + named]
        if signature != b"PK\x01\x02":
            break
        if _FULL32 in (size, whole, first):
            after = at + _ENTRY.size + named
            whole, size, first = _long_numbers(source, name, directory[after : after + extra], (whole, size, first))
        if disk or b"\0" in name:
            raise CorruptFile(f"{shown(source, name)} has an odd name or lies in another part", READERS_DISAGREE)
        if not method and whole != size:
            raise CorruptFile(f"{shown(source, name)} has two sizes", DAMAGED)
        folder = bool(attributes & _FOLDER) or name.endswith(b"/")
        found.append((first, name, size, method, flags, folder, whole, crc))
        at += _ENTRY.size + named + extra + comment
    if at != len(directory) or len(found) != count:
        raise CorruptFile(
            f"{source.name} says that its table of contents has {count:,} entries in {len(directory):,} bytes, "
            f"it has {len(found):,} in {at:,}",
            READERS_DISAGREE,
        )
    return found


def _long_numbers(source: Source, name: bytes, extra: bytes, short: tuple[int, int, int]) -> list[int]:
    """Size unpacked, size and place, those that have no room in their field from the one extra field for that."""
    fields: list[bytes] = []
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            fields.append(extra[at + 4 : at + 4 + size])
        at += 4 + size
    numbers = list(struct.unpack(f"<{len(fields[0]) // 8}Q", fields[0][: len(fields[0]) // 8 * 8])) if fields else []
    if len(fields) != 1 or at != len(extra) or len(numbers) < short.count(_FULL32):
        raise CorruptFile(f"{shown(source, name)} lacks the sizes that it should have, or has them twice", DAMAGED)
    return [numbers.pop(0) if value == _FULL32 else value for value in short]
