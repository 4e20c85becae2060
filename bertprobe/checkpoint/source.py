"""Where bytes come from. A source has a size and answers ranges; it never knows what format it carries."""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path
from typing import Protocol

from bertprobe.errors import CorruptFile, NotFound, UnsupportedFile


class Source(Protocol):
    """A file that can be asked for byte ranges."""

    @property
    def name(self) -> str:
        """The file's name without its folder, as shown to the user."""
        ...

    @property
    def address(self) -> str:
        """Where it is, as shown to the user: a path, or a repository, commit and path."""
        ...

    @property
    def at_once(self) -> int:
        """How many reads it serves side by side, 1 for a disk."""
        ...

    @property
    def size(self) -> int:
        """Bytes there."""
        ...

    @property
    def bytes_read(self) -> int:
        """Bytes read so far, each counted once."""
        ...

    def read(self, start: int, stop: int) -> bytes:
        """Exactly the bytes `start` to `stop`, as a copy; `CorruptFile` if the file has fewer."""
        ...

    def view(self, start: int, stop: int, *, counted: bool = True) -> memoryview:
        """The same bytes without a copy, where the source can."""
        ...

    def beside(self, name: str) -> Source:
        """Another file of the same folder; `NotFound` if there is none of that name."""
        ...


class LocalFile:
    """A file on disk, opened anew for every read so that nothing has to be closed.

    What is read is a copy: a mapped file counts as memory, and kills the process if somebody truncates it meanwhile.
    Only what runs over the same weights again and again asks for a `view`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self._identity = self._look()
        self._seen: list[tuple[int, int]] = []
        self._map: mmap.mmap | None = None

    @property
    def address(self) -> str:
        return str(self.path)

    @property
    def at_once(self) -> int:
        return 1

    @property
    def size(self) -> int:
        return self._identity[2]

    @property
    def bytes_read(self) -> int:
        return sum(stop - start for start, stop in self._seen)

    def read(self, start: int, stop: int) -> bytes:
        if not 0 <= start <= stop <= self.size:
            raise CorruptFile(
                f"{self.path} has {self.size:,} bytes, bytes {start:,} to {stop:,} are asked for",
                "the file is damaged or was cut short: fetch it again",
            )
        parts, here = [], start
        try:
            with open(self.path, "rb", buffering=0) as file:
                while here < stop and (part := os.pread(file.fileno(), stop - here, here)):
                    parts.append(part)
                    here += len(part)
        except OSError as error:
            raise NotFound(f"{self.path} cannot be read ({error.strerror})", "check its permissions") from error
        if here < stop or self._look() != self._identity:
            raise CorruptFile(
                f"{self.path} changed while it was being read", "wait until it is written, then try again"
            )
        self._note(start, stop)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def view(self, start: int, stop: int, *, counted: bool = True) -> memoryview:
        """The bytes where they lie, mapped; not `counted` as read where only some of them will be looked at."""
        if not 0 <= start <= stop <= self.size or self._look() != self._identity:
            raise CorruptFile(
                f"{self.path} changed while it was being read", "wait until it is written, then try again"
            )
        if self._map is None:
            try:
                with open(self.path, "rb") as file:
                    # A private map may be written to, which numpy and torch expect of memory; the file stays as it is.
                    self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            except (OSError, ValueError) as error:
                raise NotFound(f"{self.path} cannot be read ({error})", "check its permissions") from error
        if counted:
            self._note(start, stop)
        return memoryview(self._map)[start:stop]

    def beside(self, name: str) -> LocalFile:
        return LocalFile(self.path.parent / name)

    def _note(self, start: int, stop: int) -> None:
        """Keeps the ranges read so far disjoint: what is read twice counts once."""
        apart = [(a, b) for a, b in self._seen if b < start or a > stop]
        touched = [(a, b) for a, b in self._seen if b >= start and a <= stop]
        self._seen = [*apart, (min([start, *(a for a, _ in touched)]), max([stop, *(b for _, b in touched)]))]

    def _look(self) -> tuple[int, int, int, int]:
        try:
            status = self.path.stat()
        except OSError as error:
            raise NotFound(
                f"{self.path} cannot be read ({error.strerror})", "check the path and its permissions"
            ) from error
        if not stat.S_ISREG(status.st_mode):
            raise UnsupportedFile(f"{self.path} is not a regular file", "name a folder or a weights file")
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
