"""How a data set's elements are laid into the file, and what its other messages say of them.

Source: HDF5 File Format Specification, IV.A.2.e, f (fill values), i (layout) and l (filters).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bertprobe.checkpoint.hdf5 import objects
from bertprobe.checkpoint.hdf5.objects import Message
from bertprobe.checkpoint.hdf5.pages import Fields, Pages
from bertprobe.checkpoint.tensors import MAX_DIMENSIONS
from bertprobe.checkpoint.wire import Broken

COMPACT, CONTIGUOUS, CHUNKED, VIRTUAL = range(4)
TREE, SINGLE, IMPLICIT, FIXED, EXTENSIBLE, NEW_TREE = range(6)  # how chunks are found; the first in old files
DEFLATE, SHUFFLE, FLETCHER = 1, 2, 3
FILTERS = {
    1: "gzip",
    2: "shuffle",
    3: "fletcher32",
    4: "szip",
    5: "nbit",
    6: "scale-offset",
    32000: "lzf",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32026: "blosc2",
}
MAX_FILTERS = 32  # of the format
EDGES_AS_THEY_ARE = 1  # a flag of a layout: chunks that reach over the edge are not filtered


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a data set's elements lie: `size` bytes at the address `at`, None for nowhere, or in chunks.

    `chunk` is the shape of a chunk and `index` how chunks are found; `filtered`, of a single one, are its size in the
    file and which filters were left out.
    """

    kind: int
    at: int | None
    size: int | None = None
    chunk: tuple[int, ...] = ()
    index: int = TREE
    flags: int = 0
    filtered: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Filter:
    """A step by which chunks were packed, and the numbers that it was told."""

    number: int
    name: str
    told: tuple[int, ...] = ()


def layout(pages: Pages, message: Message) -> Layout:
    """What a layout message says; raises `Broken`."""
    fields = Fields(pages, message.body)
    version = fields.number(1)
    if version in (1, 2):
        return _oldest(fields, message)
    if version not in (3, 4, 5):
        return Layout(version, None)
    kind = fields.number(1)
    if kind == COMPACT:
        size = fields.number(2)
        fields.take(size)
        return Layout(COMPACT, message.at + 4, size)
    if kind == CONTIGUOUS:
        return Layout(CONTIGUOUS, fields.address(), fields.length())
    if kind != CHUNKED:
        return Layout(kind, None)
    if version > 3:  # 5 has chunks of more than 4 GiB, and longer numbers in the lists of chunks
        return _chunked(fields)
    rank = fields.number(1)
    at = fields.address()
    return Layout(CHUNKED, at, chunk=_dimensions(fields, rank, 4))


def _oldest(fields: Fields, message: Message) -> Layout:
    rank, kind = fields.number(1), fields.number(1)
    fields.take(5)
    if kind == COMPACT:
        _dimensions(fields, rank + 1, 4)
        size = fields.number(4)
        fields.take(size)
        return Layout(COMPACT, message.at + fields.at - size, size)
    at = fields.address()
    if kind == CONTIGUOUS:
        return Layout(CONTIGUOUS, at)
    return Layout(CHUNKED, at, chunk=_dimensions(fields, rank, 4)) if kind == CHUNKED else Layout(kind, None)


def _dimensions(fields: Fields, rank: int, size: int) -> tuple[int, ...]:
    """The shape of a chunk, behind which the size of an element stands as one more dimension."""
    if not 2 <= rank + (size == 0) <= MAX_DIMENSIONS + 1 or not 1 <= size <= 8:
        raise Broken(f"a chunk of it has {rank - 1} dimensions")
    found = tuple(fields.number(size) for _ in range(rank))
    if 0 in found:
        raise Broken("a chunk of it has no length")
    return found[:-1]


def _chunked(fields: Fields) -> Layout:
    flags, rank, size = fields.number(1), fields.number(1), fields.number(1)
    chunk = _dimensions(fields, rank, size)
    index = fields.number(1)
    filtered = None
    if index == SINGLE and flags & 2:
        filtered = fields.length(), fields.number(4)
    elif index in (FIXED, EXTENSIBLE, NEW_TREE):
        fields.take({FIXED: 1, EXTENSIBLE: 5, NEW_TREE: 6}[index])  # which the index itself says again
    return Layout(CHUNKED, fields.address(), chunk=chunk, index=index, flags=flags, filtered=filtered)


def filters(pages: Pages, messages: Sequence[Message]) -> tuple[Filter, ...]:
    """The steps by which chunks were packed, in the order in which they were taken."""
    body = next((message.body for message in messages if message.kind == objects.FILTERS), None)
    if body is None:
        return ()
    fields = Fields(pages, body)
    version, count = fields.number(1), fields.number(1)
    if version not in (1, 2) or count > MAX_FILTERS:
        raise Broken(f"it lists {count} filters, in version {version}")
    fields.take(6 if version == 1 else 0)
    found = []
    for _ in range(count):
        number = fields.number(2)
        named = fields.number(2) if version == 1 or number >= 256 else 0
        fields.take(2)
        values = fields.number(2)
        fields.take(named)
        told = tuple(fields.number(4) for _ in range(values))
        fields.take(4 if version == 1 and values % 2 else 0)
        found.append(Filter(number, FILTERS.get(number, f"filter {number}"), told))
    return tuple(found)


def fill_value(pages: Pages, messages: Sequence[Message], size: int) -> bytes:
    """The bytes of an element that was never written."""
    for kind in (objects.FILL, objects.OLD_FILL):
        body = next((message.body for message in messages if message.kind == kind and not message.flags & 2), None)
        if body is not None and (value := _fill(pages, Fields(pages, body), kind)):
            if len(value) != size:
                raise Broken(f"what it is filled with has {len(value)} bytes, an element {size}")
            return value
    return bytes(size)


def _fill(pages: Pages, fields: Fields, kind: int) -> bytes:
    if kind == objects.OLD_FILL:
        return fields.take(fields.number(4))
    version = fields.number(1)
    if version in (1, 2):
        fields.take(2)
        defined = fields.number(1)
        return fields.take(fields.number(4)) if version == 1 or defined else b""
    if version != 3:
        raise Broken(f"it has a fill value of version {version}")
    return fields.take(fields.number(4)) if fields.number(1) & 32 else b""
