"""The zip that `torch.save` writes: one folder with `data.pkl`, and a member under `data/` for every storage.

A storage is placed by the zip's table of contents alone: reading every local header would cost a request each. Where
that is a guess, a guard compares it with the local header when the tensor is read.
"""

from __future__ import annotations

import struct
import zipfile
from dataclasses import dataclass
from functools import cache, partial
from io import BytesIO

from bertprobe.checkpoint.source import Source
from bertprobe.checkpoint.tensors import Guard
from bertprobe.checkpoint.torch_pickle import DAMAGED, RESAVE
from bertprobe.checkpoint.torch_pickle.machine import MAX_PICKLE, Malformed, Value, interpret
from bertprobe.checkpoint.torch_pickle.rebuild import Locate, Place
from bertprobe.errors import CorruptFile, UnsupportedFile, printable, shortened

MAX_DIRECTORY = 32 * 2**20  # a zip's table of contents has some 80 bytes a tensor
TAIL = 2**16 + 22  # a zip's end record and the longest comment after it
ALIGNMENT = 64  # of every member torch writes


def contents(source: Source, head: bytes) -> tuple[Value, Locate]:
    """What was saved, and where its storages lie."""
    archive = _Archive(_Window(source, head))
    return archive.pickle(), cache(archive.place)


class _Window:
    """A source as `zipfile` reads it; the two ends, where a zip has what an index needs, are fetched once."""

    def __init__(self, source: Source, head: bytes) -> None:
        self.source = source
        self._at = 0
        start = max(0, source.size - TAIL)
        tail = head[start:] if len(head) == source.size else source.read(start, source.size)
        self._ends = ((0, head), (start, tail))

    def span(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop`, from memory where they are there."""
        for first, data in self._ends:
            if first <= start and stop <= first + len(data):
                return data[start - first : stop - first]
        return self.source.read(start, stop)

    def seek(self, offset: int, whence: int = 0) -> int:
        at = offset + (self.source.size if whence == 2 else 0)
        if at < 0:
            raise OSError("before the start of the file")
        self._at = at
        return at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        start = min(self._at, self.source.size)
        stop = self.source.size if size < 0 else min(start + size, self.source.size)
        if stop - start > MAX_DIRECTORY:
            raise UnsupportedFile(
                f"the table of contents of {self.source.name} has more than {MAX_DIRECTORY:,} bytes",
                "is it the right file?",
            )
        self._at = stop
        return self.span(start, stop)


@dataclass(frozen=True, slots=True)
class _Member:
    """A file in a zip: its local header starts at `first`, and everything that is its own ends before `stop`."""

    name: str
    first: int
    stop: int
    earliest: int
    size: int
    method: int
    flags: int

    def aligned_start(self) -> int | None:
        """Where the data start if torch wrote the file, as far as the table of contents can tell.

        The data end where the next member begins, or before the descriptor that bit 3 of the flags announces, and
        torch starts them at a multiple of 64 by filling up the local header.
        """
        starts = [self.stop - self.size - after for after in ((16, 24) if self.flags & 8 else (0,))]
        fitting = [start for start in starts if start % ALIGNMENT == 0 and start >= self.earliest]
        return fitting[0] if len(fitting) == 1 else None


class _Archive:
    """The members of the zip, under the names that torch gives them in their one folder."""

    def __init__(self, window: _Window) -> None:
        self._window = window
        self._source = window.source
        self._members = _members(window)
        self._folder = _folder(window.source, list(self._members))
        storages = [self._members[name] for name in self._members if name.startswith(f"{self._folder}/data/")]
        # One program wrote them all: if one member is not where torch would have put it, no guess is trusted.
        self._by_torch = all(member.aligned_start() is not None for member in storages if not member.name.endswith("/"))

    def pickle(self) -> Value:
        """What `data.pkl` holds."""
        order = self._members.get(f"{self._folder}/byteorder")
        if order is not None and self._content(order, 64) != b"little":
            raise UnsupportedFile(f"{self._source.name} was not saved in little-endian byte order", RESAVE)
        data = self._content(self._members[f"{self._folder}/data.pkl"], MAX_PICKLE)
        try:
            return interpret(BytesIO(data)).value
        except Malformed as error:
            raise CorruptFile(f"data.pkl in {self._source.name} is not a pickle ({error})", DAMAGED) from error

    def place(self, key: str) -> Place | None:
        """Where a storage lies, or None if the file has none of that key."""
        member = self._members.get(f"{self._folder}/data/{key}")
        if member is None:
            return None
        _check_stored(self._source, member)
        start = member.aligned_start()
        if start is None or not self._by_torch:
            return Place(self._start(member, self._window.span(member.first, member.first + 30)), member.size)
        check = partial(_check_local_header, self._source, member, start)
        return Place(start, member.size, Guard(member.first, member.first + 30, check))

    def _content(self, member: _Member, most: int) -> bytes:
        _check_stored(self._source, member)
        if member.size > most:
            raise UnsupportedFile(
                f"{_shown(self._source, member)} has {member.size:,} bytes, more than {most:,}",
                "is it the right file?",
            )
        # The local header's two variable fields are not known yet: one read takes them along at their longest.
        data = self._window.span(member.first, min(member.stop, member.first + 30 + 2 * 65535 + member.size))
        start = self._start(member, data) - member.first
        return data[start : start + member.size]

    def _start(self, member: _Member, header: bytes) -> int:
        start = _data_start(self._source, member, header)
        if start + member.size > member.stop:
            raise CorruptFile(f"{_shown(self._source, member)} runs into the one after it", DAMAGED)
        return start


def _folder(source: Source, names: list[str]) -> str:
    """The one folder with a `data.pkl`."""
    if any((name.count("/") == 1 and name.endswith("/constants.pkl")) or "/code/" in name for name in names):
        raise UnsupportedFile(
            f"{source.name} is a TorchScript program",
            "load it with torch.jit.load and torch.save its state_dict()",
        )
    folders = [name.partition("/")[0] for name in names if name.partition("/")[2] == "data.pkl"]
    if len(folders) == 1:
        return folders[0]
    raise UnsupportedFile(
        f"{source.name} is a zip, but not one that torch.save wrote: it holds "
        + (shortened([printable(name[:60]) for name in names]) or "nothing"),
        "if a checkpoint is packed in it, unpack it first",
    )


def _members(window: _Window) -> dict[str, _Member]:
    """The members by name; raises `CorruptFile` if two of them share a name or a byte."""
    source = window.source
    try:
        archive = zipfile.ZipFile(window)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, struct.error) as error:
        reason = printable(str(error)[:100])
        raise CorruptFile(
            f"{source.name} ends before its table of contents or has a broken one ({reason})", DAMAGED
        ) from error
    entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    stops = [*(entry.header_offset for entry in entries[1:]), archive.start_dir]
    members = [_member(source, entry, stop) for entry, stop in zip(entries, stops, strict=False)]
    found = {member.name: member for member in members}
    if len(found) < len(members):
        raise CorruptFile(f"{source.name} has two members of the same name", "readers disagree on which one counts")
    return found


def _member(source: Source, entry: zipfile.ZipInfo, stop: int) -> _Member:
    name = entry.orig_filename.encode("utf-8" if entry.flag_bits & 0x800 else "cp437")
    first = entry.header_offset
    member = _Member(
        entry.filename, first, stop, first + 30 + len(name), entry.compress_size, entry.compress_type, entry.flag_bits
    )
    if first < 0 or member.earliest + member.size > stop or stop > source.size:
        raise CorruptFile(f"{_shown(source, member)} overlaps the one after it or the end of the file", DAMAGED)
    if not member.method and entry.file_size != entry.compress_size:
        raise CorruptFile(f"{_shown(source, member)} has two sizes", DAMAGED)
    return member


def _check_stored(source: Source, member: _Member) -> None:
    if member.method or member.flags & 1:
        how = "encrypted" if member.flags & 1 else "compressed"
        raise UnsupportedFile(
            f"{_shown(source, member)} is {how}", f"zip members written by torch itself never are: {RESAVE}"
        )


def _data_start(source: Source, member: _Member, header: bytes) -> int:
    """Where a member's data start by its local header; raises `CorruptFile` if that is not a header of plain data."""
    signature, flags, method, name, extra = struct.unpack("<4s2xHH16xHH", header[:30])
    if signature != b"PK\x03\x04" or flags & 1 or method != member.method:
        raise CorruptFile(f"{_shown(source, member)} does not start as the table of contents says", DAMAGED)
    return int(member.first + 30 + name + extra)


def _check_local_header(source: Source, member: _Member, start: int, header: bytes) -> None:
    if _data_start(source, member, header) != start:
        raise CorruptFile(f"{_shown(source, member)} is not where the table of contents puts it", RESAVE)


def _shown(source: Source, member: _Member) -> str:
    return f"member {printable(member.name[:100])} of {source.name}"
