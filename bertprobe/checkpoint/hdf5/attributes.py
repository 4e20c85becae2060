"""What is noted of an object as text: a name and a value each, in its header or in a heap of their own.

Source: HDF5 File Format Specification, IV.A.2.m and IV.A.2.v.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from bertprobe.checkpoint.hdf5 import objects
from bertprobe.checkpoint.hdf5.heaps import FractalHeap, global_object
from bertprobe.checkpoint.hdf5.objects import SHARED, Message
from bertprobe.checkpoint.hdf5.pages import Fields, Pages
from bertprobe.checkpoint.hdf5.trees import new_tree
from bertprobe.checkpoint.hdf5.types import ANY_LENGTH, TEXT, Type, dataspace, datatype
from bertprobe.checkpoint.wire import Broken

BY_NAME = 8  # the kind of a tree of attributes
MOST_TEXT = 16 * 2**20  # bytes of one: Keras writes the settings of a whole model so


def texts(pages: Pages, messages: Sequence[Message], wanted: Collection[str]) -> dict[str, str]:
    """The attributes of these names that are one text; what they hold otherwise is left out. Raises `Broken`."""
    found: dict[str, str] = {}
    for body in _bodies(pages, messages):
        name, text = _text(pages, body, wanted)
        if text is not None:
            found[name] = text
    return found


def _bodies(pages: Pages, messages: Sequence[Message]) -> Iterator[bytes]:
    for message in messages:
        if message.kind == objects.ATTRIBUTE and not message.flags & SHARED:
            yield message.body
        elif message.kind == objects.ATTRIBUTE_INFO:
            fields = Fields(pages, message.body)
            fields.take(1)
            fields.take(2 if fields.number(1) & 1 else 0)
            heap, tree = fields.address(), fields.address()
            if heap is not None and tree is not None:
                yield from _dense(pages, heap, tree)


def _dense(pages: Pages, at: int, tree: int) -> Iterator[bytes]:
    heap = FractalHeap(pages, at)
    for record in new_tree(pages, tree, BY_NAME):
        if len(record) <= heap.id_size:
            raise Broken("a tree of attributes in it has records that are too short")
        if not record[heap.id_size] & SHARED:
            yield heap.object(record[: heap.id_size])


def _text(pages: Pages, body: bytes, wanted: Collection[str]) -> tuple[str, str | None]:
    """An attribute's name, and its text where it is wanted and is one."""
    fields = Fields(pages, body)
    version, shared = fields.number(1), fields.number(1)
    sizes = [fields.number(2) for _ in range(3)]
    fields.take(1 if version == 3 else 0)
    if version not in (1, 2, 3):
        raise Broken(f"an attribute of it is of version {version}")
    parts = []
    for size in sizes:
        parts.append(fields.take(size))
        fields.take(-size % 8 if version == 1 else 0)
    name = parts[0].partition(b"\0")[0].decode("utf-8", "replace")
    if name not in wanted or (version > 1 and shared & 3):
        return name, None
    kind, space = datatype(pages, parts[1]), dataspace(pages, parts[2])
    if space.empty or space.count != 1 or kind.kind not in (TEXT, ANY_LENGTH):
        return name, None
    return name, _value(pages, kind, fields)


def _value(pages: Pages, kind: Type, fields: Fields) -> str | None:
    if kind.kind == TEXT:
        data = fields.take(kind.size)
    else:
        length, at, number = fields.number(4), fields.there(), fields.number(4)
        if kind.name != "text" or length > MOST_TEXT:
            return None
        data = global_object(pages, at, number)[:length]
    try:
        return data.partition(b"\0")[0].decode("utf-8")
    except UnicodeDecodeError:
        return None
