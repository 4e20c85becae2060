"""The two kinds of B-trees by which a file finds the members of a group and the chunks of a data set.

Nodes of a level are asked for at once. Source: HDF5 File Format Specification, III.A.1 and III.A.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TypeVar

from bertprobe.checkpoint.hdf5.pages import Fields, Pages, sealed
from bertprobe.checkpoint.wire import Broken
from bertprobe.errors import UnsupportedFile

MAX_LEVELS = 32

T = TypeVar("T")
Place = tuple[int, ...]
"""Where among the others what a key or a record stands for belongs."""
Limits = tuple[Place | None, Place | None]
"""The places between which all below a node must lie, None where there is no limit."""


def old_tree(
    pages: Pages, at: int, kind: int, key_size: int, place: Callable[[bytes], Place] | None = None
) -> Iterator[tuple[bytes, int]]:
    """The entries of a tree of version 1: the key before each, and the address that it leads to; raises `Broken`.

    `kind` is 0 for a group and 1 for chunks. Where `place` tells it of a key, keys must be in order: libhdf5 looks for
    an entry by its place, and takes what it does not come by for never written.
    """
    level: list[int] = [at]
    limits: list[Limits] = [(None, None)]
    depth: int | None = None
    seen: set[int] = set()
    while level:
        seen.update(level)
        found: list[tuple[bytes, int]] = []
        below: list[Limits] = []
        for here, entries, limit in zip(level, _old_nodes(pages, level, kind, key_size), limits, strict=True):
            height, pairs, last = entries
            if depth is None:
                depth = height
            if height != depth or height >= MAX_LEVELS:
                raise Broken(f"the node at byte {here:,} of a tree in it is not of the level that it should be")
            found += pairs
            places = [] if place is None or not pairs else [place(key) for key in (*(key for key, _ in pairs), last)]
            if places:
                _check_order((limit[0], *places[:-1], limit[1]))
                _check_order(places)
            below += pairwise(places) if places else [limit] * len(pairs)
        if depth == 0:
            yield from found
            return
        limits = below
        level = [address for _, address in found]
        if len(set(level)) < len(level) or seen & set(level):
            raise Broken("a tree in it leads to one node twice")
        depth = (depth or 0) - 1


def _check_order(places: Sequence[Place | None]) -> None:
    """Raises `Broken` where one is not before the next; the first may be where the second is."""
    known = [place for place in places if place is not None]
    for number, (one, other) in enumerate(pairwise(known)):
        if one > other or (one == other and (number or places[0] is None)):
            raise Broken("a tree in it is out of order")


def _old_nodes(
    pages: Pages, level: list[int], kind: int, key_size: int
) -> Iterator[tuple[int, list[tuple[bytes, int]], bytes]]:
    """Of each node its level, its entries and the key behind them."""
    o = pages.offset_size
    head = 8 + 2 * o
    pages.need((at, head) for at in level)
    used = []
    for at in level:
        fields = Fields(pages, pages.read(at, head))
        if fields.take(4) != b"TREE" or fields.number(1) != kind:
            raise Broken(f"there is no node of a tree at byte {at:,}, where one should be")
        height, count = fields.number(1), fields.number(2)
        used.append((at + head, height, count, count * (key_size + o) + key_size))
    pages.need((at, size) for at, _, _, size in used)
    for at, height, count, size in used:
        pages.step(count)
        fields = Fields(pages, pages.read(at, size))
        yield height, [(fields.take(key_size), fields.there()) for _ in range(count)], fields.take(key_size)


def new_tree(pages: Pages, at: int, kind: int, place: Callable[[bytes], Place] | None = None) -> Iterator[bytes]:
    """The records of a tree of version 2; raises `Broken`. `kind` is what the records are of, `place` as above."""
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
    limits: list[Limits] = [(None, None)]
    seen = {root}
    while True:
        pages.need((at, node) for at, _ in level)
        below: list[tuple[int, int]] = []
        between: list[Limits] = []
        for (at, count), limit in zip(level, limits, strict=True):
            pages.step(count + 1)
            records, children = shape.node(pages, at, count, depth)
            yield from records
            below += children
            ordered = [] if place is None else [place(record) for record in records]
            _check_order((None, *(one for one in (limit[0], *ordered, limit[1]) if one is not None)))
            between += pairwise((limit[0], *ordered, limit[1])) if place is not None else [limit] * len(children)
        if not depth:
            return
        limits = between
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
