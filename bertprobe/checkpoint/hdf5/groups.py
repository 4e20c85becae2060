"""The members of a group: a name each, and where it leads, which may be out of the file and is then not followed.

Old groups have a tree of names with their text in a heap, new ones a message for each link, or many in a heap of their
own. Source: HDF5 File Format Specification, III.B, III.C, IV.A.2.c, IV.A.2.g and IV.A.2.r.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bertprobe.checkpoint.hdf5 import objects
from bertprobe.checkpoint.hdf5.heaps import FractalHeap, local_heap, named
from bertprobe.checkpoint.hdf5.objects import Message
from bertprobe.checkpoint.hdf5.pages import Fields, Pages
from bertprobe.checkpoint.hdf5.trees import new_tree, old_tree
from bertprobe.checkpoint.wire import Broken
from bertprobe.errors import CorruptFile, printable

BY_NAME = 5  # the kind of a tree of links
_SOFT = 1  # how an entry of an old group says that it is a soft link: by its cache type 2
_EXTERNAL = 64


class Link(NamedTuple):
    """A member of a group: the `address` of an object, or, of a soft link, the `path` that it stands for.

    What leads out of the file has neither.
    """

    name: str
    address: int | None = None
    path: str | None = None


def is_group(messages: Sequence[Message]) -> bool:
    """Whether the messages of an object are a group's."""
    return any(message.kind in (objects.SYMBOL_TABLE, objects.LINK_INFO, objects.LINK) for message in messages)


def links(pages: Pages, messages: Sequence[Message]) -> list[Link]:
    """The links of a group, no two of one name; raises `Broken` and `CorruptFile`."""
    found = [link for message in messages for link in _of_message(pages, message)]
    seen: set[str] = set()
    for link in found:
        pages.step()
        if link.name in seen:
            raise CorruptFile(
                f"a group of {pages.source.address} has two links of the name {printable(link.name[:100])}",
                "readers disagree on which one counts: have it written again",
            )
        seen.add(link.name)
    return found


def _of_message(pages: Pages, message: Message) -> Iterator[Link]:
    fields = Fields(pages, message.body)
    if message.kind == objects.SYMBOL_TABLE:
        yield from _old(pages, fields.there(), fields.there())
    elif message.kind == objects.LINK:
        yield _link(pages, message.body)
    elif message.kind == objects.LINK_INFO:
        fields.take(1)
        flags = fields.number(1)
        fields.take(8 if flags & 1 else 0)
        heap, tree = fields.address(), fields.address()
        if heap is not None and tree is not None:
            yield from _dense(pages, heap, tree)


def _dense(pages: Pages, at: int, tree: int) -> Iterator[Link]:
    heap = FractalHeap(pages, at)
    for record in new_tree(pages, tree, BY_NAME):
        if len(record) < 4 + heap.id_size:
            raise Broken("a tree of links in it has records that are too short")
        yield _link(pages, heap.object(record[4 : 4 + heap.id_size]))


def _link(pages: Pages, body: bytes) -> Link:
    fields = Fields(pages, body)
    version, flags = fields.number(1), fields.number(1)
    if version != 1:
        raise Broken("a link in it is of no known version")
    kind = fields.number(1) if flags & 8 else 0
    fields.take(8 if flags & 4 else 0)
    fields.take(1 if flags & 16 else 0)
    name = _name(pages, fields.take(fields.number(1 << (flags & 3))))
    if kind == 0:
        return Link(name, fields.there())
    if kind == _SOFT:
        return Link(name, path=_text(pages, fields.take(fields.number(2))))
    return Link(name)  # into another file, or of a kind that a program made for itself


def _old(pages: Pages, tree: int, at: int) -> Iterator[Link]:
    heap = local_heap(pages, at)
    o, n = pages.offset_size, pages.length_size
    nodes = [address for _, address in old_tree(pages, tree, 0, n)]
    if len(set(nodes)) < len(nodes):
        raise Broken("a group in it has the same members twice")
    pages.need((node, 8) for node in nodes)
    entry = 2 * o + 24
    sizes = []
    for node in nodes:
        fields = Fields(pages, pages.read(node, 8))
        fields.sign(b"SNOD", (1,))
        fields.take(1)
        sizes.append(fields.number(2))
    pages.need((node + 8, entry * size) for node, size in zip(nodes, sizes, strict=True))
    for node, size in zip(nodes, sizes, strict=True):
        fields = Fields(pages, pages.read(node + 8, entry * size))
        for _ in range(size):
            pages.step()
            name = _name(pages, named(heap, fields.number(o)))
            address, cache = fields.address(), fields.number(4)
            fields.take(4)
            scratch = fields.take(16)
            if cache == 2:
                yield Link(name, path=_text(pages, named(heap, int.from_bytes(scratch[:4], "little"))))
            elif address is None:
                raise Broken(f"the link {printable(name[:100])} in it leads nowhere")
            else:
                yield Link(name, address)


def _name(pages: Pages, name: bytes) -> str:
    """A link's name: one that no path could lead to is refused."""
    text = _text(pages, name)
    if text in ("", ".") or "/" in text or "\0" in text:
        raise CorruptFile(
            f"a link in {pages.source.address} has the name '{printable(text[:100])}'",
            "nothing can be found under such a name: have it written again",
        )
    return text


def _text(pages: Pages, text: bytes) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorruptFile(f"a name in {pages.source.address} is not text: {text[:40]!r}", objects.DAMAGED) from error
