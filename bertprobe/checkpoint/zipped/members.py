"""Where a member of a zip has its data, by its local header, which must be as the table of contents says."""

from __future__ import annotations

import struct

from bertprobe.checkpoint.source import Source
from bertprobe.checkpoint.zipped.directory import TAIL, Member, shown
from bertprobe.checkpoint.zipped.hints import DAMAGED
from bertprobe.errors import CorruptFile

LOCAL = struct.Struct("<4s2xHH8xIIHH")
LOCKED = 0x2061  # the bits of the flags for encryption of any kind, and for data that only change another file
_FULL = 0xFFFFFFFF  # instead of a number that has its place in a longer field


class Ends:
    """The two ends of a source, where a zip has what an index needs, fetched once."""

    def __init__(self, source: Source, head: bytes) -> None:
        self._source = source
        start = max(0, source.size - TAIL)
        tail = head[start:] if len(head) == source.size else source.read(start, source.size)
        self._ends = ((0, head), (start, tail))

    def span(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop`, from memory where they are there."""
        for first, data in self._ends:
            if first <= start and stop <= first + len(data):
                return data[start - first : stop - first]
        return self._source.read(start, stop)


def data_start(source: Source, member: Member, header: bytes) -> int:
    """Where a member's data start by its local header; raises `CorruptFile` if the table of contents contradicts it."""
    signature, flags, method, size, whole, named, extra = LOCAL.unpack_from(header)
    same = (signature, method) == (b"PK\x03\x04", member.method) and not flags & LOCKED
    same &= named == len(member.name) and header[30 : 30 + named] == member.name
    # A zip written in one go has the sizes after the data; a long one has them in another field.
    same &= bool(flags & 8) or (size in (member.size, _FULL) and whole in (member.whole, _FULL))
    if not same:
        raise CorruptFile(f"{shown(source, member.name)} does not start as the table of contents says", DAMAGED)
    return int(member.first + 30 + named + extra)
