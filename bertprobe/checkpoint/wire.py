"""Numbers and messages as they stand in an index: varints, and protobuf's wire format as far as it is needed.

Source: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from bertprobe.checkpoint.prefetch import prefetch
from bertprobe.checkpoint.source import Source

MAX_FIELDS = 16  # of a message, but for those that a field of it may have: TensorFlow's have up to six


class Broken(ValueError):
    """Bytes that are not what they should be; whoever knows the file says which one it is."""


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The number of at most 64 bits that begins at `at`, and where the next thing begins."""
    if at < len(data) and data[at] < 128:  # as most are
        return data[at], at + 1
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise Broken("a number in it has no end")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (2**64 - 1), at
        shift += 7


class Message:
    """A protobuf message whose fields are asked for by number; one that is not there is 0, or empty.

    There may be up to `most` of the field `repeated`, and `MAX_FIELDS` others: each takes thirty times its bytes.
    """

    def __init__(self, data: bytes, repeated: int = 0, most: int = 0) -> None:
        self._fields: dict[int, list[int | bytes]] = {}
        at, end, others = 0, len(data), 0
        while at < end:
            key, at = varint(data, at)
            value, at = _value(data, at, key & 7) if key & 7 else varint(data, at)
            values = self._fields.setdefault(key >> 3, [])
            values.append(value)
            others += key >> 3 != repeated
            if others > MAX_FIELDS or (len(values) > MAX_FIELDS and len(values) > most):
                raise Broken("a message in it has more fields than it can need")

    def number(self, field: int) -> int:
        """A number that must not be negative; the last one where there are several."""
        value = self._fields.get(field, [0])[-1]
        if isinstance(value, bytes):
            raise Broken("a message in it has text for a number")
        return value

    def count(self, field: int) -> int:
        """How many values a field has: asked before they are taken apart."""
        return len(self._fields.get(field, ()))

    def numbers(self, field: int) -> list[int]:
        """The first number of each message in a field."""
        return [_first_number(value) for value in self._texts(field)]

    def messages(self, field: int, repeated: int = 0, most: int = 0) -> list[Message]:
        """The messages in a field, which may have so many of a field themselves."""
        return [Message(value, repeated, most) for value in self._texts(field)]

    def _texts(self, field: int) -> Iterator[bytes]:
        for value in self._fields.get(field, []):
            if not isinstance(value, bytes):
                raise Broken("a message in it has a number for a message")
            yield value


Field = tuple[int, int, int, int]
"""A field of a message in a file: its number, its kind, and from where to where its bytes lie; a number's own value
stands in place of the first, and 0 of the second."""

NUMBER, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5
NEARBY = 4 * 1024  # bytes of the window after a leap, on a disk
FAR = 8 * 1024  # over a network
LARGEST = 128 * 1024  # to which windows grow that follow each other
LEAP = 64 * 1024  # bytes that are left out, from which on they are one
MARGIN = 256  # bytes before the place where a window is expected to be wanted
LONGEST_TURN, SHORTEST_TURN = 24, 4  # leaps after which they may come again in the same order: those of a layer
MOST_EXPECTED = 256  # windows that are fetched before anybody asks
_HEAD = 20  # bytes of a key and a number at most


class Walk:
    """A file of messages that is gone through from its start, a window at a time: what is leapt over is not read.

    Fields are asked for by the bytes of their message, and those of a message in it while that one is gone through.
    Where leaps come again in turns, as those over the weights of layers do, a source that serves several reads at a
    time is asked for the windows after the next ones together; whoever guessed wrong has read in vain, nothing else.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self._base = 0
        self._data = b""
        self._first = FAR if source.max_parallel > 1 else NEARBY
        self._window = self._first
        self._leaps: list[int] = []
        self._ready: list[tuple[int, bytes]] = []

    def fields(self, start: int, stop: int) -> Iterator[Field]:
        """The fields of the message in some bytes of the file; raises `Broken` where they do not fill them."""
        at = start
        while at < stop:
            self._reach(at, min(at + _HEAD, stop))
            data, base = self._data, self._base
            key, here = varint(data, at - base)
            kind = key & 7
            if kind == NUMBER:
                value, here = varint(data, here)
                first, last, at = value, 0, base + here
            elif kind == BYTES:
                size, here = varint(data, here)
                first = base + here
                last = at = first + size
            elif kind in (FIXED_32, FIXED_64):
                size = 8 if kind == FIXED_64 else 4
                first, last, at = int.from_bytes(data[here : here + size], "little"), 0, base + here + size
            else:
                raise Broken("a message in it has a field of no known kind")
            if at > stop:
                raise Broken("a message in it is cut short")
            yield key >> 3, kind, first, last

    def take(self, start: int, stop: int) -> bytes:
        """Some bytes of the file, near those that were asked for last."""
        self._reach(start, stop)
        return self._data[start - self._base : stop - self._base]

    def _reach(self, start: int, stop: int) -> None:
        """Has the window hold some bytes."""
        end = self._base + len(self._data)
        if self._base <= start and stop <= end:
            return
        size = self.source.size
        if stop > size:
            raise Broken("it ends amid a message")
        kept, here = b"", start
        if self._base <= start < end + LEAP and self._data:
            self._window = min(2 * self._window, LARGEST)
            if start < end:
                kept, here = self._data[start - self._base :], end
        elif self._is_ready(start, stop):
            return
        else:
            self._window = self._first
            self._expect(start)
        self._data = kept + self.source.read(here, min(max(here + self._window, stop), size))
        self._base = start

    def _is_ready(self, start: int, stop: int) -> bool:
        """Whether a window that was expected holds some bytes; then it is the one."""
        place = bisect_right(self._ready, start, key=lambda window: window[0]) - 1
        if place < 0:
            return False
        base, data = self._ready[place]
        if stop > base + len(data):
            return False
        self._base, self._data = base, data
        return True

    def _expect(self, start: int) -> None:
        """Fetches the windows that will be wanted if leaps go on as they came."""
        if self.source.max_parallel == 1:
            return
        self._leaps.append(start)
        turn = self._turn()
        if not turn:
            return
        starts, shift = self._leaps[-turn:], self._leaps[-1] - self._leaps[-1 - turn]
        times = min(-(-(self.source.size - start) // shift), MOST_EXPECTED // turn)
        places = sorted({one + shift * n - MARGIN for n in range(1, times + 1) for one in starts})
        ranges = [_Range(self.source, at, at + self._first + MARGIN) for at in places]
        found = prefetch([one for one in ranges if one.stop <= self.source.size])
        self._ready = [(one.start, bytes(data)) for one, data in found]
        self._leaps = []

    def _turn(self) -> int:
        """After how many leaps they came again in the same order, each about as far; 0 where they did not."""
        far = [b - a for a, b in pairwise(self._leaps)]
        for turn in range(SHORTEST_TURN, min(LONGEST_TURN, len(far) // 2) + 1):
            if all(abs(a - b) < MARGIN // 8 for a, b in zip(far[-turn:], far[-2 * turn : -turn], strict=True)):
                return turn
        return 0


class _Range(NamedTuple):
    source: Source
    start: int
    stop: int


def raw_fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a message by number, each as the bytes of its value."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        start = at
        value, at = _value(data, at, key & 7)
        yield key >> 3, value if isinstance(value, bytes) else data[start:at]


def signed(value: int) -> int:
    """A number of 64 bits as one that may be negative."""
    return value - 2**64 if value >= 2**63 else value


def _first_number(data: bytes) -> int:
    """The field 1 of a message, at once where it has no other, as the dimensions of a shape have none."""
    if data[:1] == b"\x08":
        value, end = varint(data, 1)
        if end == len(data):
            return value
    return Message(data).number(1)


def _value(data: bytes, at: int, kind: int) -> tuple[int | bytes, int]:
    if kind == 0:
        return varint(data, at)
    if kind == 2:
        size, at = varint(data, at)
    elif kind in (1, 5):
        size = 8 if kind == 1 else 4
    else:
        raise Broken("a message in it has a field of no known kind")
    if at + size > len(data):
        raise Broken("a message in it is cut short")
    found = data[at : at + size]
    return (found if kind == 2 else int.from_bytes(found, "little")), at + size
