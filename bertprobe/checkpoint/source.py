"""Where bytes come from. A source has a size and answers ranges; it never knows what format it carries."""

from __future__ import annotations

import os
import stat
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Protocol

from bertprobe.errors import CorruptFile, NotFound, UnsupportedFile
from bertprobe.inputs import Input

ALIGNED = 64  # bytes that each piece of an arena starts at a multiple of
LARGE = 4 * 2**20  # bytes from which memory is asked of numpy, which has the kernel back it by huge pages
MOST_AT_ONCE = 2**30  # bytes of one read: Linux gives at most 2 GiB less a page

Memory = Callable[[int], memoryview]
"""Gives so many bytes to be filled."""


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
    def max_parallel(self) -> int:
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
        """Exactly the bytes `start` to `stop`; `CorruptFile` if the file has fewer."""
        ...

    def load(self, start: int, stop: int, memory: Memory | None = None) -> memoryview:
        """The same for the data of tensors, however large, copied once: into `memory`, else into fresh memory."""
        ...

    def sibling(self, name: str) -> Source:
        """Another file of the same folder; `NotFound` if there is none of that name."""
        ...

    def check_unchanged(self) -> None:
        """Raises `CorruptFile` where it is not the file any more that was opened."""
        ...


class LocalFile:
    """A file on disk, opened anew for every read so that nothing has to be closed.

    What is read is a copy, and the file must be the one that was opened, of the same size and time of change, once it
    is made. A mapped file would change under whoever computes with it, and end the process if somebody truncates it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self._identity = self._look()
        self._seen = _Ranges()
        self._input = Input(path)

    @property
    def address(self) -> str:
        return str(self.path)

    @property
    def max_parallel(self) -> int:
        return 1

    @property
    def size(self) -> int:
        return self._identity[2]

    @property
    def bytes_read(self) -> int:
        return self._seen.total

    def read(self, start: int, stop: int) -> bytes:
        """Exactly the bytes `start` to `stop`: of headers and settings, as tensors are for `load`."""
        self._check_range(start, stop)
        data = b""
        try:
            with open(self.path, "rb", buffering=0) as file:
                data = os.pread(file.fileno(), stop - start, start)
        except OSError as error:
            raise self._unreadable(error) from error
        if len(data) < stop - start:  # more than one read gives, or a file that is shorter now
            return bytes(self.load(start, stop))
        self.check_unchanged()
        self._seen.add(start, stop)
        return data

    def load(self, start: int, stop: int, memory: Memory | None = None) -> memoryview:
        self._check_range(start, stop)
        buffer = (memory or fresh)(stop - start)
        self.fill([(start, buffer)])
        return buffer

    def fill(self, parts: Iterable[tuple[int, memoryview]]) -> None:
        """Reads into memory that is there, each part from where it starts; raises as `read` does."""
        done = []
        try:
            with open(self.path, "rb", buffering=0) as file:
                for start, buffer in parts:
                    self._check_range(start, start + buffer.nbytes)
                    self._fill_one(file.fileno(), start, buffer)
                    done.append((start, start + buffer.nbytes))
        except OSError as error:
            raise self._unreadable(error) from error
        self.check_unchanged()
        for start, stop in done:
            self._seen.add(start, stop)

    def sibling(self, name: str) -> LocalFile:
        return LocalFile(self.path.parent / name)

    def check_unchanged(self) -> None:
        if self._look() != self._identity:
            raise self._changed()

    def _fill_one(self, handle: int, start: int, buffer: memoryview) -> None:
        here = 0
        while here < buffer.nbytes:
            got = os.preadv(handle, [buffer[here : here + MOST_AT_ONCE]], start + here)
            if got == 0:
                raise self._changed()
            here += got

    def _check_range(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.size:
            raise CorruptFile(
                f"{self.path} has {self.size:,} bytes, bytes {start:,} to {stop:,} are asked for",
                "the file is damaged or was cut short: fetch it again",
            )

    def _changed(self) -> CorruptFile:
        return CorruptFile(f"{self.path} changed while it was being read", "wait until it is written, then try again")

    def _unreadable(self, error: OSError) -> NotFound:
        return NotFound(f"{self.path} cannot be read ({error.strerror})", "check its permissions")

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


class CarriedFile:
    """A small file that lies in another one, of which its content was taken."""

    max_parallel = 1
    bytes_read = 0  # they count as those of the file that it lies in

    def __init__(self, name: str, address: str, content: bytes) -> None:
        self.name = name
        self.address = address
        self._content = content

    @property
    def size(self) -> int:
        return len(self._content)

    def read(self, start: int, stop: int) -> bytes:
        if not 0 <= start <= stop <= self.size:
            raise CorruptFile(
                f"{self.address} has {self.size:,} bytes, bytes {start:,} to {stop:,} are asked for",
                "the file is damaged or was cut short: fetch it again",
            )
        return self._content[start:stop]

    def load(self, start: int, stop: int, memory: Memory | None = None) -> memoryview:
        return memoryview(self.read(start, stop))

    def sibling(self, name: str) -> Source:
        raise NotFound(f"nothing lies beside {self.address}", "name the weights file itself")

    def check_unchanged(self) -> None:
        """It was taken once."""


@cache
def machine_memory() -> int:
    """Bytes of this machine's memory, as far as it tells: no tensor is read that is larger."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**63


def fresh(size: int) -> memoryview:
    """So many bytes to be filled; raises `UnsupportedFile` where there are not as many."""
    try:
        if size < LARGE:
            return memoryview(bytearray(size))
        import numpy as np

        return memoryview(np.empty(size, np.uint8).data)
    except MemoryError as error:
        raise UnsupportedFile(
            f"{size:,} bytes are to be read at once, more than there is memory for",
            "bertprobe inspect --shapes reads headers only",
        ) from error


class Arena:
    """Memory that is handed out in pieces and, after `reuse`, handed out again: what was read into it is then gone.

    Fresh memory costs more than the reading: the kernel clears every page of it.
    """

    def __init__(self, size: int) -> None:
        self._buffer = fresh(size)
        self._taken = 0

    def __call__(self, size: int) -> memoryview:
        """So many bytes of what is left, or fresh ones where that is not enough."""
        start = -(-self._taken // ALIGNED) * ALIGNED
        if start + size > self._buffer.nbytes:
            return fresh(size)
        self._taken = start + size
        return self._buffer[start : self._taken]

    def reuse(self) -> None:
        """Begins anew: whoever holds a piece must have done with it."""
        self._taken = 0


class _Ranges:
    """Ranges of bytes, kept disjoint and sorted, so that what is read twice counts once."""

    def __init__(self) -> None:
        self.total = 0
        self._starts: list[int] = []
        self._stops: list[int] = []

    def add(self, start: int, stop: int) -> None:
        """Takes a range in, in time that follows the logarithm of their number, and joins those it touches."""
        first = bisect_left(self._stops, start)
        last = bisect_right(self._starts, stop)
        if first < last:
            start, stop = min(start, self._starts[first]), max(stop, self._stops[last - 1])
        replaced = zip(self._starts[first:last], self._stops[first:last], strict=True)
        self.total += stop - start - sum(b - a for a, b in replaced)
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]
