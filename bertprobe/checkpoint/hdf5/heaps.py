"""Where a file keeps what has no fixed length: names of links, text of attributes, links and attributes themselves.

Source: HDF5 File Format Specification, III.D (local heap), III.E (global heap) and III.G (fractal heap).
"""

from __future__ import annotations

from bertprobe.checkpoint.hdf5.pages import Fields, Pages, sealed
from bertprobe.checkpoint.wire import Broken
from bertprobe.errors import UnsupportedFile

MAX_ROWS = 64  # of a fractal heap's doubling table
MAX_DEPTH = 8  # of blocks that lie in blocks


def local_heap(pages: Pages, at: int) -> bytes:
    """The text of a group's heap."""
    fields = Fields(pages, pages.read(at, 8 + 2 * pages.length_size + pages.offset_size))
    fields.sign(b"HEAP")
    fields.take(3)
    size = fields.length()
    fields.length()
    return pages.read(fields.there(), size)


def named(heap: bytes, at: int) -> bytes:
    """The name that begins at a place in a heap and ends before a NUL."""
    stop = heap.find(b"\0", at)
    if not 0 <= at < len(heap) or stop < 0:
        raise Broken("a name in it lies outside its heap")
    return heap[at:stop]


def global_object(pages: Pages, at: int, number: int) -> bytes:
    """An object of the collection at an address."""
    fields = Fields(pages, pages.read(at, 8 + pages.length_size))
    fields.sign(b"GCOL", (1,))
    fields.take(3)
    fields = Fields(pages, pages.read(at, fields.length()), 8 + pages.length_size)
    while fields.left >= 8 + pages.length_size:
        pages.step()
        found = fields.number(2)
        fields.take(6)
        size = fields.length()
        if found == 0:
            break
        data = fields.take(size)
        fields.take(min(-size % 8, fields.left))
        if found == number:
            return data
    raise Broken("a value in it lies outside its heap")


class FractalHeap:
    """A heap of objects by an id, in blocks whose sizes double from row to row."""

    def __init__(self, pages: Pages, at: int) -> None:
        self._pages = pages
        o, n = pages.offset_size, pages.length_size
        block = pages.read(at, 26 + 3 * o + 12 * n)
        fields = Fields(pages, block)
        fields.sign(b"FRHP")
        self.id_size = fields.number(2)
        if fields.number(2):
            raise UnsupportedFile(
                f"{pages.source.address} keeps what describes it in packed form", "write it anew with h5repack"
            )
        sealed(block)
        self._flags = fields.number(1)
        self._largest = fields.number(4)
        fields.take(n + o + n + o + 8 * n)
        self._width = fields.number(2)
        self._start, self._most = fields.length(), fields.length()
        self._bits = fields.number(2)
        fields.take(2)
        self._root = fields.address()
        self._rows = fields.number(2)
        powers = (self._width, self._start, self._most)
        if any(not value or value & (value - 1) for value in powers) or self._start > self._most:
            raise Broken("a heap of it has blocks of impossible sizes")
        if self._rows > MAX_ROWS or self._bits > 64:
            raise Broken("a heap of it has more blocks than can be")
        self._offset = -(-self._bits // 8)
        self._checked: dict[int, bytes] = {}  # blocks with other blocks in them, by address

    def object(self, id: bytes) -> bytes:
        """What an id stands for: a few bytes in it, or a place in the heap."""
        kind = id[0] >> 4 & 3
        if kind == 2:  # the object itself, in the id
            wide = self.id_size > 18
            size = ((id[0] & 15) << 8 | id[1]) + 1 if wide else (id[0] & 15) + 1
            return id[1 + wide : 1 + wide + size]
        if kind:
            raise UnsupportedFile(
                f"{self._pages.source.address} keeps what describes it in a place of its own for each",
                "write it anew with h5repack",
            )
        fields = Fields(self._pages, id, 1)
        offset = fields.number(self._offset)
        limit = min(self._most, self._largest)
        size = fields.number(-(-limit.bit_length() // 8))
        if self._root is None:
            raise Broken("a heap of it is empty, and something should lie in it")
        if not self._rows:
            return self._within(self._root, 0, self._start, offset, size)
        return self._below(self._root, self._rows, 0, offset, size)

    def _below(self, at: int, rows: int, first: int, offset: int, size: int, depth: int = 0) -> bytes:
        """The object at an offset of the heap, in the indirect block at an address, which begins at offset `first`."""
        pages, o = self._pages, self._pages.offset_size
        if depth > MAX_DEPTH:
            raise Broken("a heap of it has blocks in blocks without end")
        direct = self._direct_rows(rows)
        length = 5 + o + self._offset + rows * self._width * o + 4
        if at not in self._checked:
            self._checked[at] = sealed(pages.read(at, length))
        fields = Fields(pages, self._checked[at])
        pages.step()
        fields.sign(b"FHIB")
        fields.take(o + self._offset)
        start = first
        for row in range(rows):
            block = self._block_size(row)
            if offset < start + block * self._width:
                column = (offset - start) // block
                fields.take((row * self._width + column) * o)
                child, begin = fields.there(), start + column * block
                if row < direct:
                    return self._within(child, begin, block, offset, size)
                inner = self._rows_of(block)
                return self._below(child, inner, begin, offset, size, depth + 1)
            start += block * self._width
        raise Broken("something lies outside its heap")

    def _within(self, at: int, first: int, block: int, offset: int, size: int) -> bytes:
        begin = offset - first
        header = 5 + self._pages.offset_size + self._offset + (4 if self._flags & 2 else 0)
        if begin < header or begin + size > block:
            raise Broken("something lies outside its heap")
        if self._pages.read(at, 4) != b"FHDB":
            raise Broken("a heap of it has no block where one should be")
        return self._pages.read(at + begin, size)

    def _block_size(self, row: int) -> int:
        return self._start if row < 2 else self._start << (row - 1)

    def _direct_rows(self, rows: int) -> int:
        """How many rows have blocks that hold objects; those below have blocks with blocks in them."""
        most = (self._most // self._start).bit_length() + 1
        return min(rows, most)

    def _rows_of(self, size: int) -> int:
        """How many rows an indirect block of so many bytes of the heap has."""
        return (size // (self._start * self._width)).bit_length()
