"""The bytes that describe a file, fetched a page at a time: they lie scattered between the data, a few hundred each.

Whoever reads asks for an address and a number of bytes. From a disk they come at once. Where each read is a request,
`Missing` is raised instead, so that `together` can ask for what several readers miss side by side, and have them begin
again. What is read is bounded by the size of the file, however often structures refer to each other.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from bertprobe.checkpoint.prefetch import prefetch
from bertprobe.checkpoint.source import Source
from bertprobe.checkpoint.wire import Broken
from bertprobe.errors import UnsupportedFile

PAGE = 32 * 1024  # of a BERT as Keras writes it, one in some 300 holds a description
NEAR = 2  # pages that lie between two that are wanted, and are fetched along with them
MOST_PAGES = 4_096  # 128 MiB: bytes that describe, of any file
FREE = 2**20  # bytes, and steps, that even the smallest file may take
STEP = 8  # bytes of the smallest thing that takes a step

T = TypeVar("T")


class Missing(Exception):
    """Pages that have to be fetched first."""

    def __init__(self, pages: set[int]) -> None:
        super().__init__(len(pages))
        self.pages = pages


class _Run(NamedTuple):
    source: Source
    start: int
    stop: int


class Pages:
    """The bytes of an HDF5 file by their address in it: address 0 is byte `base` of the source, and `stop` the end."""

    def __init__(self, source: Source, base: int, stop: int) -> None:
        self.source = source
        self.base = base
        self.size = stop - base
        self.offset_size = self.length_size = 8
        self._pages: dict[int, bytes] = {}
        self._at_once = source.max_parallel == 1
        self._bytes = self._steps = 0

    def read(self, at: int, size: int) -> bytes:
        """So many bytes from an address on; raises `Broken` where the file has fewer, `Missing` as said above."""
        self.need([(at, size)])
        self._bytes += size
        if self._bytes > 4 * self.size + FREE:
            raise Broken("its structures lie over each other")
        start, stop = self.base + at, self.base + at + size
        first, last = start // PAGE, (stop - 1) // PAGE
        if first == last:
            return self._pages[first][start - first * PAGE : stop - first * PAGE]
        whole = b"".join(self._pages[number] for number in range(first, last + 1))
        return whole[start - first * PAGE : stop - first * PAGE]

    def need(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Sees to it that ranges, each an address and a number of bytes, are there, all at once where that counts."""
        missing: set[int] = set()
        for at, size in ranges:
            if size < 0 or at + size > self.size:
                raise Broken(f"something should lie at bytes {at:,} to {at + size:,} of {self.size:,}")
            start = self.base + at
            first, last = start // PAGE, (start + max(size, 1) - 1) // PAGE
            if last - first + len(missing) >= MOST_PAGES:
                raise self._too_much()
            missing.update(number for number in range(first, last + 1) if number not in self._pages)
        if not missing:
            return
        if not self._at_once:
            raise Missing(missing)
        self.fetch(missing)

    def fetch(self, missing: set[int]) -> None:
        """Fetches pages, neighbours and near ones in one read, several reads side by side."""
        if len(self._pages) + len(missing) > MOST_PAGES:
            raise self._too_much()
        stop = self.base + self.size
        runs: list[list[int]] = []
        for number in sorted(missing):
            if runs and number - runs[-1][-1] <= NEAR + 1 and not self._at_once:
                runs[-1].extend(range(runs[-1][-1] + 1, number + 1))
            elif runs and number == runs[-1][-1] + 1:
                runs[-1].append(number)
            else:
                runs.append([number])
        wanted = [_Run(self.source, run[0] * PAGE, min((run[-1] + 1) * PAGE, stop)) for run in runs]
        for run, data in prefetch(wanted):
            for start in range(run.start, run.stop, PAGE):
                page = data[start - run.start : start - run.start + PAGE]
                self._pages.setdefault(start // PAGE, bytes(page))

    def step(self, count: int = 1) -> None:
        """Counts what is taken apart; raises `Broken` where that is more than a file of this size can hold."""
        self._steps += count
        if self._steps > self.size // STEP + FREE // STEP:
            raise Broken("its structures lie over each other")

    def together(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """What each job gives, in their order: what they miss is fetched, and they are begun anew."""
        found: dict[int, T] = {}
        waiting = list(range(len(jobs)))
        while waiting:
            missing: set[int] = set()
            still = []
            for number in waiting:
                before = self._bytes, self._steps
                try:
                    found[number] = jobs[number]()
                except Missing as error:
                    self._bytes, self._steps = before  # it begins anew
                    missing |= error.pages
                    still.append(number)
            if missing:
                self.fetch(missing)
            waiting = still
        return [found[number] for number in range(len(jobs))]

    def _too_much(self) -> UnsupportedFile:
        return UnsupportedFile(
            f"{self.source.address} describes what is in it in more than {MOST_PAGES * PAGE:,} bytes",
            "no model needs so many: is it the right file?",
        )


class Fields:
    """Numbers and bytes of a block one after the other, least significant byte first; `Broken` where it ends early."""

    __slots__ = ("at", "data", "pages")

    def __init__(self, pages: Pages, data: bytes, at: int = 0) -> None:
        self.pages = pages
        self.data = data
        self.at = at

    def take(self, size: int) -> bytes:
        stop = self.at + size
        if stop > len(self.data):
            raise Broken("a block of it ends early")
        found = self.data[self.at : stop]
        self.at = stop
        return found

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def address(self) -> int | None:
        """Where something lies, None for nowhere."""
        size = self.pages.offset_size
        value = self.number(size)
        return None if value == (1 << (8 * size)) - 1 else value

    def there(self) -> int:
        """Where something lies that must be there."""
        value = self.address()
        if value is None:
            raise Broken("it points nowhere")
        return value

    def length(self) -> int:
        return self.number(self.pages.length_size)

    def sign(self, signature: bytes, versions: tuple[int, ...] = (0,)) -> int:
        """The version behind a signature, both of which must be right."""
        if self.take(len(signature)) != signature:
            raise Broken(f"there is no {signature.decode()} where one should be")
        version = self.number(1)
        if version not in versions:
            raise UnsupportedFile(
                f"{self.pages.source.address} has a {signature.decode()} of version {version}",
                "it was written by a newer library than is known here",
            )
        return version

    @property
    def left(self) -> int:
        return len(self.data) - self.at


def sealed(block: bytes) -> bytes:
    """A block without the checksum at its end, which must be right."""
    if len(block) < 4 or lookup3(block[:-4]) != int.from_bytes(block[-4:], "little"):
        raise Broken("a block of it has another checksum than it says")
    return block[:-4]


def lookup3(data: bytes) -> int:
    """Bob Jenkins' hash of 32 bits, as the format has it (hashlittle of lookup3.c)."""
    mask = 0xFFFFFFFF
    a = b = c = (0xDEADBEEF + len(data)) & mask
    padded = data + bytes(-len(data) % 12)
    words: tuple[int, ...] = struct.unpack(f"<{len(padded) // 4}I", padded)
    last = len(words) - 3
    for at in range(0, last, 3):
        a, b, c = (a + words[at]) & mask, (b + words[at + 1]) & mask, (c + words[at + 2]) & mask
        a = ((a - c) & mask) ^ ((c << 4 | c >> 28) & mask)
        c = (c + b) & mask
        b = ((b - a) & mask) ^ ((a << 6 | a >> 26) & mask)
        a = (a + c) & mask
        c = ((c - b) & mask) ^ ((b << 8 | b >> 24) & mask)
        b = (b + a) & mask
        a = ((a - c) & mask) ^ ((c << 16 | c >> 16) & mask)
        c = (c + b) & mask
        b = ((b - a) & mask) ^ ((a << 19 | a >> 13) & mask)
        a = (a + c) & mask
        c = ((c - b) & mask) ^ ((b << 4 | b >> 28) & mask)
        b = (b + a) & mask
    if not data:
        return c
    a, b, c = (a + words[last]) & mask, (b + words[last + 1]) & mask, (c + words[last + 2]) & mask
    for of, turn in ((0, 14), (1, 11), (2, 25), (0, 16), (1, 4), (2, 14), (0, 24)):
        if of == 0:
            c = ((c ^ b) - (b << turn | b >> (32 - turn))) & mask
        elif of == 1:
            a = ((a ^ c) - (c << turn | c >> (32 - turn))) & mask
        else:
            b = ((b ^ a) - (a << turn | a >> (32 - turn))) & mask
    return c
