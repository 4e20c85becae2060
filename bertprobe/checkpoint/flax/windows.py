"""The few bytes of a large file that say what is in it, read in windows; over a network several at a time."""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from bertprobe.checkpoint.prefetch import prefetch
from bertprobe.checkpoint.source import Source
from bertprobe.errors import CorruptFile

NEARBY = 4 * 1024  # bytes of a window on a disk
FAR = 16 * 1024  # over a network, where a request more costs more than the biases between two matrices
MARGIN = 64  # bytes before the place where a window is expected to be wanted
MOST_EXPECTED = 4_096  # windows that are fetched before anybody asks
DAMAGED = "the file is damaged or was cut short: fetch it again"


class Windows:
    """Bytes of a source, from windows that were read; `starts` has where each began, in order of reading."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.starts: list[int] = []
        self._step = FAR if source.max_parallel > 1 else NEARBY
        self._window = (0, b"")
        self._ready: list[tuple[int, bytes]] = []

    def take(self, start: int, count: int) -> bytes:
        """So many bytes from `start`; raises `CorruptFile` where the file ends before them."""
        first, data = self._window
        if not first <= start <= start + count <= first + len(data):
            self._move(start, count)
            first, data = self._window
        return data[start - first : start - first + count]

    def _move(self, start: int, count: int) -> None:
        if start + count > self.source.size:
            raise CorruptFile(f"{self.source.address} ends within a value, at byte {self.source.size:,}", DAMAGED)
        place = bisect_right(self._ready, start, key=lambda window: window[0]) - 1
        if place >= 0 and start + count <= self._ready[place][0] + len(self._ready[place][1]):
            self._window = self._ready[place]
            return
        stop = min(self.source.size, start + max(count, self._step))
        self._window = (start, self.source.read(start, stop))
        self.starts.append(start)

    def expect(self, starts: list[int], shift: int, times: int) -> None:
        """Fetches windows that lie as those of `starts` do, once, twice, … up to `times` times `shift` further on.

        Whoever guessed wrong has read in vain, and nothing else.
        """
        if self.source.max_parallel == 1 or not starts:
            return
        times = min(times, MOST_EXPECTED // len(starts))
        places = {max(0, start + turn * shift - MARGIN) for turn in range(1, times + 1) for start in starts}
        ranges = [_Range(self.source, start, start + self._step) for start in sorted(places)]
        found = prefetch([one for one in ranges if one.stop <= self.source.size])
        self._ready = sorted([*self._ready, *((one.start, bytes(data)) for one, data in found)])


class _Range(NamedTuple):
    source: Source
    start: int
    stop: int
