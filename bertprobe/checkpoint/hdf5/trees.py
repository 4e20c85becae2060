"""The two kinds of B-trees by which a file finds the members of a group and the chunks of a data set.

Nodes of a level are asked for at once. Source: HDF5 File Format Specification, III.A.1 and III.A.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from bertprobe.checkpoint.hdf5.pages import Fields, Pages, sealed
from bertprobe.checkpoint.wire import Broken
from bertprobe.errors import UnsupportedFile

MAX_LEVELS = 32

T = TypeVar("T")


def old_tree(pages: Pages, at: int, kind: int, key_size: int) -> Iterator[tuple[bytes, int]]:
    """The entries of a tree of version 1: the key before each, and the address that it leads to; raises `Broken`.

    `kind` is 0 for a group and 1 for chunks.
    """
    level: list[int] = [at]
    depth: int | None = None
    seen: set[int] = set()
    while level:
        seen.update(level)
        found: list[tuple[bytes, int]] = []
        for here, entries in zip(level, _old_nodes(pages, level, kind, key_size), strict=True):
            height, pairs = entries
            if depth is None:
                depth = height
            if height != depth or height >= MAX_LEVELS:
                raise Broken(f"the node at byte {here:,} of a tree in it is not of the level that it should be")
            found += pairs
        if depth == 0:
            yield from found
            return
        level = [address for _, address in found]
        if len(set(level)) < len(level) or seen & set(level):
            raise Broken("a tree in it leads to one node twice")
        depth = (depth or 0) - 1


def _old_nodes(
    pages: Pages, level: list[int], kind: int, key_size: int
) -> Iterator[tuple[int, list[tuple[bytes, int]]]]:
    o = pages.offset_size
    head = 8 + 2 * o
    pages.need((at, head) for at in level)
    used = []
    for at in level:
        fields = Fields(pages, pages.read(at, head))
        if fields.take(4) != b"TREE" or fields.number(1) != kind:
            raise Broken(f"there is no node of a tree at byte {at:,}, where one should be")
        height, count = fields.number(1), fields.number(2)
        used.append((at + head, height, count, count * (key_size + o)))
    pages.need((at, size) for at, _, _, size in used)
    for at, height, count, size in used:
        pages.step(count)
        fields = Fields(pages, pages.read(at, size))
        yield height, [(fields.take(key_size), fields.there()) for _ in range(count)]


def new_tree(pages: Pages, at: int, kind: int) -> Iterator[bytes]:
    """The records of a tree of version 2; raises `Broken`. `kind` is what the records are of."""
    o, n = pages.offset_size, pages.length_size
    fields = Fields(pages, sealed(pages.read(at, 22 + o + n)))
    fields.sign(b"BTHD")
    if fields.number(1) != kind:
        raise Broken("a tree in it is of another kind than it should be")
    node, record, depth = fields.number(4), fields.number(2), fields.number(2)
    fields.take(2)
    root, count = fields.address(), fields.number(2)
    if root is None:
        return
    if not record or depth >= MAX_LEVELS or node < 64:
        raise Broken("a tree in it has impossible sizes")
    shape = _Shape(o, node, record, depth)
    level = [(root, count)]
    seen = {root}
    while True:
        pages.need((at, node) for at, _ in level)
        below: list[tuple[int, int]] = []
        for at, count in level:
            pages.step(count + 1)
            records, children = shape.node(pages, at, count, depth)
            yield from records
            below += children
        if not depth:
            return
        places = [at for at, _ in below]
        if len(set(places)) < len(places) or seen & set(places):
            raise Broken("a tree in it leads to one node twice")
        seen.update(places)
        level, depth = below, depth - 1


class _Shape:
    """How many records a node of each level may have, which tells how long the numbers in it are."""

    def __init__(self, o: int, node: int, record: int, depth: int) -> None:
        self._o, self._node, self._record = o, node, record
        most = (node - 10) // record
        self._count = encoded(most)
        self._totals = [0]  # bytes of the number of all records below a node of each level
        total = most
        for _ in range(depth):
            pointer = o + self._count + self._totals[-1]
            most = (node - 10 - pointer) // (record + pointer)
            total = (most + 1) * total + most
            self._totals.append(encoded(max(total, 0)))

    def node(self, pages: Pages, at: int, count: int, depth: int) -> tuple[list[bytes], list[tuple[int, int]]]:
        """The records of a node, and its children: where they are and how many records they have."""
        pointer = self._o + self._count + (self._totals[depth - 1] if depth > 1 else 0)
        used = 6 + count * self._record + (pointer * (count + 1) if depth else 0) + 4
        if used > self._node:
            raise Broken("a node of a tree in it has more records than it has room for")
        fields = Fields(pages, sealed(pages.read(at, used)))
        fields.sign(b"BTIN" if depth else b"BTLF")
        fields.take(1)
        records = [fields.take(self._record) for _ in range(count)]
        children = []
        for _ in range(count + 1 if depth else 0):
            children.append((fields.there(), fields.number(self._count)))
            fields.take(pointer - self._o - self._count)
        return records, children


def encoded(limit: int) -> int:
    """How many bytes a number of up to `limit` takes."""
    return max(limit.bit_length() - 1, 0) // 8 + 1


def collected(pages: Pages, entries: Iterator[T], most: int, what: str) -> list[T]:
    """All of them, which must not be more than `most`."""
    found = []
    for entry in entries:
        found.append(entry)
        if len(found) > most:
            raise UnsupportedFile(
                f"{pages.source.address} has more than {most:,} {what}", "no model has so many: is it the right file?"
            )
    return found
