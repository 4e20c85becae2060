"""Where the chunks of a data set lie, by any of the ways in which a file finds them.

An entry of an array is the address of a chunk, and of packed ones its size and which filters were left out of it.
Source: HDF5 File Format Specification, III.A.1, VI and VII (appendix C), and libhdf5's H5EA for where super blocks are.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

from bertprobe.checkpoint.hdf5 import layout as layouts
from bertprobe.checkpoint.hdf5.layout import Layout
from bertprobe.checkpoint.hdf5.pages import Fields, Pages, sealed
from bertprobe.checkpoint.hdf5.trees import collected, new_tree, old_tree
from bertprobe.checkpoint.hdf5.types import Space
from bertprobe.checkpoint.wire import Broken

MAX_CHUNKS = 250_000  # of a data set

Entry = tuple[int | None, int, int]
"""The address of a chunk, None where it was never written, its size in the file, and a bit for each filter left out."""


class Chunk(NamedTuple):
    """A block of elements whose first one is at `origin`: `size` bytes at an address; `mask` are filters left out."""

    at: int
    size: int
    mask: int
    origin: tuple[int, ...]


def chunks(pages: Pages, layout: Layout, space: Space, element: int, packed: bool) -> list[Chunk]:
    """The chunks that were written, in no order; raises `Broken` and `UnsupportedFile`."""
    if len(layout.chunk) != len(space.shape):
        raise Broken(f"its chunks have {len(layout.chunk)} dimensions, it has {len(space.shape)}")
    size = math.prod(layout.chunk) * element
    found = collected(pages, _found(pages, layout, space, size, packed), MAX_CHUNKS, "chunks in a data set")
    if not packed and any(chunk.size != size for chunk in found):
        raise Broken("a chunk of it has another size than the others")
    origins = {chunk.origin for chunk in found}
    if len(origins) < len(found):
        raise Broken("it has two chunks for the same elements")
    return [c for c in found if all(a < n for a, n in zip(c.origin, space.shape, strict=True))]


def _found(pages: Pages, layout: Layout, space: Space, size: int, packed: bool) -> Iterator[Chunk]:
    if layout.at is None:
        return
    if layout.index in (layouts.TREE, layouts.NEW_TREE):
        yield from (_of_tree if layout.index == layouts.TREE else _of_new_tree)(pages, layout, layout.at, size, packed)
        return
    grid = [-(-n // step) for n, step in zip(space.shape, layout.chunk, strict=True)]
    if math.prod(grid) > MAX_CHUNKS:
        raise Broken(f"it has {math.prod(grid):,} chunks")
    at, index = layout.at, layout.index
    if index == layouts.SINGLE:
        stored, mask = layout.filtered or (size, 0)
        look: Callable[[int], Entry] = lambda number: (at, stored, mask)  # noqa: E731
    elif index == layouts.IMPLICIT:
        look = lambda number: (at + number * size, size, 0)  # noqa: E731
    elif index == layouts.FIXED:
        look = _fixed(pages, at, size)
    elif index == layouts.EXTENSIBLE:
        look = _extensible(pages, at, size)
    else:
        raise Broken(f"its chunks are found in a way, {index}, that is not known")
    steps = _steps(layout, space)
    for place in product(*map(range, grid)):
        pages.step()
        address, stored, mask = look(sum(n * step for n, step in zip(place, steps, strict=True)))
        if address is not None:
            origin = tuple(n * step for n, step in zip(place, layout.chunk, strict=True))
            yield Chunk(address, stored, mask, origin)


def _steps(layout: Layout, space: Space) -> list[int]:
    """How far along each axis chunks are numbered apart: as if it had grown as far as it may.

    The axis that may grow without end goes before the others.
    """
    limits = [None if n is None else -(-n // step) for n, step in zip(space.most, layout.chunk, strict=True)]
    if layout.index == layouts.SINGLE:
        return [0] * len(limits)
    endless = [axis for axis, limit in enumerate(limits) if limit is None]
    if len(endless) != (layout.index == layouts.EXTENSIBLE):
        raise Broken("its chunks are found in a way that does not fit the axes that may grow")
    order = [*endless, *(axis for axis in range(len(limits)) if axis not in endless)]
    steps, step = [0] * len(limits), 1
    for axis in reversed(order):
        steps[axis] = step
        step *= limits[axis] or 1
    return steps


def _of_tree(pages: Pages, layout: Layout, at: int, size: int, packed: bool) -> Iterator[Chunk]:
    rank = len(layout.chunk)
    for key, address in old_tree(pages, at, 1, 8 + 8 * (rank + 1), lambda key: _numbers(key[8:])):
        fields = Fields(pages, key)
        stored, mask = fields.number(4), fields.number(4)
        origin = tuple(fields.number(8) for _ in range(rank))
        if fields.number(8) or any(a % step for a, step in zip(origin, layout.chunk, strict=True)):
            raise Broken("a chunk of it begins amid another")
        yield Chunk(address, stored, mask, origin)


def _numbers(data: bytes) -> tuple[int, ...]:
    """Numbers of eight bytes each, one behind the other."""
    return struct.unpack(f"<{len(data) // 8}Q", data[: len(data) // 8 * 8])


def _of_new_tree(pages: Pages, layout: Layout, at: int, size: int, packed: bool) -> Iterator[Chunk]:
    rank = len(layout.chunk)
    for record in new_tree(pages, at, 11 if packed else 10, lambda record: _numbers(record[-8 * rank :])):
        fields = Fields(pages, record)
        address = fields.there()
        length = len(record) - pages.offset_size - 4 - 8 * rank
        stored, mask = (fields.number(length), fields.number(4)) if packed and length > 0 else (size, 0)
        scaled = [fields.number(8) for _ in range(rank)]
        yield Chunk(address, stored, mask, tuple(n * step for n, step in zip(scaled, layout.chunk, strict=True)))


def _entry(fields: Fields, width: int, size: int) -> Entry:
    """An entry of an array that takes so many bytes."""
    address = fields.address()
    rest = width - fields.pages.offset_size
    return (address, size, 0) if not rest else (address, fields.number(rest - 4), fields.number(4))


def _width(fields: Fields) -> int:
    """How many bytes an entry takes, by the kind of array and what it says."""
    packed, width = fields.number(1), fields.number(1)
    plain = fields.pages.offset_size
    if packed > 1 or (width != plain if not packed else not plain + 5 <= width <= plain + 12):
        raise Broken("a list of its chunks has entries of an impossible size")
    return width


def _fixed(pages: Pages, at: int, size: int) -> Callable[[int], Entry]:
    """Entries by number, in an array as long as it can be."""
    o = pages.offset_size
    fields = Fields(pages, sealed(pages.read(at, 12 + pages.length_size + o)))
    fields.sign(b"FAHD")
    width = _width(fields)
    bits, most = fields.number(1), fields.length()
    block = fields.address()
    if block is None:
        return lambda number: (None, 0, 0)
    prefix = 6 + o
    paged = most > 1 << bits
    each = 1 << bits if paged else most
    count = -(-most // each) if each else 0
    marks = -(-count // 8) if paged else 0
    fields = Fields(pages, pages.read(block, prefix + marks))
    fields.sign(b"FADB")
    written = fields.data[prefix:]
    start = block + prefix + marks + 4 * paged

    def look(number: int) -> Entry:
        page, place = divmod(number, each) if each else (0, 0)
        if number >= most:
            raise Broken("a list of its chunks is too short")
        if paged and not _marked(written, page):
            return None, 0, 0
        begin = start + page * (each * width + 4)
        return _entry(Fields(pages, pages.read(begin + place * width, width)), width, size)

    return look


def _marked(marks: bytes, number: int) -> bool:
    return bool(marks[number // 8] & 128 >> number % 8)


def _extensible(pages: Pages, at: int, size: int) -> Callable[[int], Entry]:
    """Entries by number, in an array that grows: in its index block, or in data blocks, of super blocks further on."""
    o, n = pages.offset_size, pages.length_size
    fields = Fields(pages, sealed(pages.read(at, 16 + 6 * n + o)))
    fields.sign(b"EAHD")
    width = _width(fields)
    bits, first, least, pointers, page_bits = (fields.number(1) for _ in range(5))
    fields.take(4 * n)
    beyond = fields.length()  # the number of the first entry that was never set, whatever lies where it would
    fields.take(n)
    block = fields.address()
    if block is None:
        return lambda number: (None, 0, 0)
    if not least or least & (least - 1) or pointers < 2 or pointers & (pointers - 1) or not 0 < bits <= 64:
        raise Broken("a list of its chunks has blocks of impossible sizes")
    direct = 2 * (pointers.bit_length() - 1)  # super blocks whose data blocks the index block knows itself
    supers = max(1 + bits - (least.bit_length() - 1) - direct, 0)
    known = 2 * (pointers - 1)
    body = sealed(pages.read(block, 6 + o + first * width + (known + supers) * o + 4))
    fields = Fields(pages, body)
    fields.sign(b"EAIB")
    fields.take(1 + o)
    entries = [_entry(fields, width, size) for _ in range(first)]
    blocks = [fields.address() for _ in range(known)]
    above = [fields.address() for _ in range(supers)]
    head = 6 + o + -(-bits // 8)
    each = 1 << page_bits
    written: dict[int, bytes] = {}  # by super block, a bit for each page of its data blocks

    def look(number: int) -> Entry:
        if number >= beyond:
            return None, 0, 0
        if number < first:
            return entries[number]
        number -= first
        level = (number // least + 1).bit_length() - 1
        number -= least * ((1 << level) - 1)
        held = least << (level + 1) // 2
        which, place = divmod(number, held)
        if level < direct:
            before = sum(1 << above // 2 for above in range(level))
            here = blocks[before + which] if before + which < known else None
            if held > each:
                raise Broken("a list of its chunks has blocks of impossible sizes")
            return _entry_at(here and here + head, place)
        top = above[level - direct] if level - direct < supers else None
        return (None, 0, 0) if top is None else in_super(top, level, held, which, place)

    def in_super(top: int, level: int, held: int, which: int, place: int) -> Entry:
        count = 1 << level // 2
        sheets = held // each if held > each else 0
        marks = count * -(-sheets // 8)
        here = Fields(pages, pages.read(top + head + marks + which * o, o)).address()
        if here is None or not sheets:
            return _entry_at(here and here + head, place)
        sheet, place = divmod(place, each)
        if top not in written:
            written[top] = pages.read(top + head, marks)
        if not _marked(written[top], which * sheets + sheet):
            return None, 0, 0
        return _entry_at(here + head + 4 + sheet * (each * width + 4), place)

    def _entry_at(start: int | None, place: int) -> Entry:
        if start is None:
            return None, 0, 0
        return _entry(Fields(pages, pages.read(start + place * width, width)), width, size)

    return look
