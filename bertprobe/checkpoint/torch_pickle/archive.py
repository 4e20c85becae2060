"""The zip that `torch.save` writes: one folder with `data.pkl`, and a member under `data/` for every storage.

A storage is placed by the zip's table of contents alone: reading every local header would cost a request each. Where
that is a guess, a guard compares it with the local header when the tensor is read.

Not looked at, as no value depends on it: members that no tensor needs (`version`, an optimizer's storages), damaged,
missing or outside the folder, gaps between members, checksums (torch leaves them out, too), times, comments.
"""

from __future__ import annotations

from functools import cache, partial

from bertprobe.checkpoint.source import Source
from bertprobe.checkpoint.tensors import Guard
from bertprobe.checkpoint.torch_pickle.hints import DAMAGED, RESAVE
from bertprobe.checkpoint.torch_pickle.rebuild import Locate, Place, declared_storages
from bertprobe.checkpoint.torch_pickle.stack_machine import MAX_PICKLE, Malformed, Pickle, interpret
from bertprobe.checkpoint.zipped.directory import Member, read_directory, shown
from bertprobe.checkpoint.zipped.members import LOCKED, Ends, data_start
from bertprobe.errors import CorruptFile, UnsupportedFile, printable, shortened

ALIGNMENT = 64  # of every member torch writes


def contents(source: Source, head: bytes) -> tuple[Pickle, Locate]:
    """What was saved, and where its storages lie."""
    archive = _Archive(source, head)
    saved = archive.pickle()
    declared_storages(source, saved.persistent)
    return saved, cache(archive.place)


def _aligned_start(member: Member) -> int | None:
    """Where a member's data start if torch wrote the file, as far as the table of contents can tell.

    The data end where the next member begins, or before the descriptor that bit 3 of the flags announces, and torch
    starts them at a multiple of 64 by filling up the local header.
    """
    starts = [member.stop - member.size - after for after in ((16, 24) if member.flags & 8 else (0,))]
    fitting = [start for start in starts if start % ALIGNMENT == 0 and start >= member.earliest]
    return fitting[0] if len(fitting) == 1 else None


class _Archive:
    """The members of the zip, under the names that torch gives them in their one folder."""

    def __init__(self, source: Source, head: bytes) -> None:
        self._source = source
        self._span = Ends(source, head).span
        self._members = read_directory(source, self._span)
        self._folder = _folder(source, self._members)
        storages = [self._members[name] for name in self._members if name.startswith(self._folder + b"/data/")]
        # One program wrote them all: if one member is not where torch would have put it, no guess is trusted.
        self._by_torch = all(_aligned_start(member) is not None for member in storages if not member.folder)

    def pickle(self) -> Pickle:
        """What `data.pkl` holds."""
        order = self._member("byteorder")
        if order is not None and self._content(order, 64) != b"little":
            raise UnsupportedFile(f"{self._source.name} was not saved in little-endian byte order", RESAVE)
        data = self._content(self._members[self._folder + b"/data.pkl"], MAX_PICKLE)
        try:
            return interpret(data)
        except Malformed as error:
            raise CorruptFile(f"data.pkl in {self._source.name} is not a sound pickle ({error})", DAMAGED) from error

    def place(self, key: str) -> Place | None:
        """Where a storage lies, or None if the file has none of that key."""
        member = self._member(f"data/{key}")
        if member is None:
            return None
        _check_stored(self._source, member)
        start = _aligned_start(member)
        if start is None or not self._by_torch:
            return Place(self._start(member, self._span(member.first, member.earliest)), member.size)
        check = partial(_check_local_header, self._source, member, start)
        return Place(start, member.size, Guard(member.first, member.earliest, check))

    def _member(self, name: str) -> Member | None:
        """The member that torch finds under a name in the folder, whatever the case of its letters."""
        return self._members.get(self._folder + b"/" + name.encode("utf-8", "surrogatepass").lower())

    def _content(self, member: Member, most: int) -> bytes:
        _check_stored(self._source, member)
        if member.size > most:
            raise UnsupportedFile(
                f"{shown(self._source, member.name)} has {member.size:,} bytes, more than {most:,}",
                "is it the right file?",
            )
        # The local header's two variable fields are not known yet: one read takes them along at their longest.
        data = self._span(member.first, min(member.stop, member.first + 30 + 2 * 65535 + member.size))
        start = self._start(member, data) - member.first
        return data[start : start + member.size]

    def _start(self, member: Member, header: bytes) -> int:
        start = data_start(self._source, member, header)
        if start + member.size > member.stop:
            raise CorruptFile(f"{shown(self._source, member.name)} runs into the one after it", DAMAGED)
        return start


def _folder(source: Source, members: dict[bytes, Member]) -> bytes:
    """The one folder with a `data.pkl`, in small letters."""
    if any((name.count(b"/") == 1 and name.endswith(b"/constants.pkl")) or b"/code/" in name for name in members):
        raise UnsupportedFile(
            f"{source.name} is a TorchScript program",
            "load it with torch.jit.load and torch.save its state_dict()",
        )
    folders = [name.partition(b"/")[0] for name in members if name.partition(b"/")[2] == b"data.pkl"]
    if len(folders) == 1:
        return folders[0]
    names = [printable(member.name[:60].decode("utf-8", "backslashreplace")) for member in members.values()]
    raise UnsupportedFile(
        f"{source.name} is a zip, but not one that torch.save wrote: it holds {shortened(names) or 'nothing'}",
        "if a checkpoint is packed in it, unpack it first",
    )


def _check_stored(source: Source, member: Member) -> None:
    """Raises `UnsupportedFile` unless a member's bytes are its data, for torch as well."""
    if member.folder:
        raise UnsupportedFile(
            f"{shown(source, member.name)} is marked as a folder", f"torch does not read its bytes: {RESAVE}"
        )
    if member.method or member.flags & LOCKED:
        how = "encrypted" if member.flags & LOCKED else "compressed"
        raise UnsupportedFile(
            f"{shown(source, member.name)} is {how}", f"zip members written by torch itself never are: {RESAVE}"
        )


def _check_local_header(source: Source, member: Member, start: int, header: bytes) -> None:
    if data_start(source, member, header) != start:
        raise CorruptFile(f"{shown(source, member.name)} is not where the table of contents puts it", RESAVE)
