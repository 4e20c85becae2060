"""A data set → the header of a tensor: where its bytes lie, or how its numbers are made of what is packed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bertprobe.checkpoint.hdf5 import layout as layouts
from bertprobe.checkpoint.hdf5 import objects
from bertprobe.checkpoint.hdf5.attributes import texts
from bertprobe.checkpoint.hdf5.chunks import Chunk, chunks
from bertprobe.checkpoint.hdf5.layout import EDGES_AS_THEY_ARE, Filter, Layout, fill_value, filters, layout
from bertprobe.checkpoint.hdf5.objects import SHARED, Message
from bertprobe.checkpoint.hdf5.pages import Fields, Pages
from bertprobe.checkpoint.hdf5.types import OPAQUE, Space, Type, dataspace, datatype
from bertprobe.checkpoint.tensors import MOST_RATIO, MOST_UNPACKED, Array, Derived, Piece, TensorHeader, numpy_dtype
from bertprobe.checkpoint.wire import Broken
from bertprobe.errors import CorruptFile

if TYPE_CHECKING:
    import numpy as np

KNOWN = {layouts.DEFLATE, layouts.SHUFFLE, layouts.FLETCHER}
INDEXES = range(layouts.NEW_TREE + 1)


def dataset(pages: Pages, messages: Sequence[Message], name: str) -> TensorHeader | None:
    """The header of a data set, None for an object that is none; raises `Broken` and `UnsupportedFile`."""
    by_kind = {message.kind: message for message in reversed(messages)}
    if objects.LAYOUT not in by_kind:
        return None
    if objects.DATASPACE not in by_kind or objects.DATATYPE not in by_kind:
        raise Broken("it has no type or no shape")
    kind = _type(pages, by_kind[objects.DATATYPE], messages)
    space = by_kind[objects.DATASPACE]
    if space.flags & SHARED:
        return TensorHeader(name, kind.name, (), refusal="its shape is kept apart from it")
    shape = dataspace(pages, space.body)
    header = TensorHeader(name, kind.name, shape.shape)
    if not kind.known:
        return replace(header, refusal=f"it holds {kind.name}, not numbers of a plain type")
    if shape.empty:
        return replace(header, refusal="it is empty, and has no shape")
    if objects.EXTERNAL in by_kind:
        return replace(header, refusal="its data lie in other files (external storage), which are not opened")
    return _laid_out(pages, header, kind, shape, messages, by_kind[objects.LAYOUT])


def _type(pages: Pages, message: Message, messages: Sequence[Message]) -> Type:
    body = message.body
    if message.flags & SHARED:  # a type of its own name, which several data sets have
        fields = Fields(pages, body)
        version, kind = fields.number(1), fields.number(1)
        fields.take(6 if version == 1 else 0)
        if version not in (1, 2, 3) or (version == 3 and kind != 2):
            return Type("a type that is kept apart", 1, -1, known=False)
        there = objects.messages(pages, fields.there())
        found = (other for other in there if other.kind == objects.DATATYPE and not other.flags & SHARED)
        other = next(found, None)
        if other is None:
            raise Broken("its type is not where it says")
        body = other.body
    kind_of = datatype(pages, body)
    if kind_of.kind == OPAQUE and kind_of.size == 2 and texts(pages, messages, {"dtype"}) == {"dtype": "bfloat16"}:
        return Type("BF16", 2, OPAQUE)  # as Keras 3 notes it
    return kind_of


def _laid_out(
    pages: Pages, header: TensorHeader, kind: Type, space: Space, messages: Sequence[Message], message: Message
) -> TensorHeader:
    place = layout(pages, message)
    if place.kind == layouts.VIRTUAL:
        return replace(
            header, refusal="it is put together of others (a virtual data set), which may lie in other files"
        )
    if place.kind > layouts.VIRTUAL or place.index not in INDEXES:
        return replace(header, refusal="it is laid out in a way that is newer than what is known here")
    if not header.count:
        return header
    if place.kind == layouts.CHUNKED:
        return _chunked(pages, header, kind, space, messages, place)
    if place.size is not None and place.size != header.nbytes and place.at is not None:
        raise Broken(f"it should have {header.nbytes:,} bytes by its shape, it has {place.size:,}")
    if objects.FILTERS in {other.kind for other in messages} and filters(pages, messages):
        raise Broken("it is packed, but not in chunks")
    if place.at is None:
        return replace(header, derived=_never_written(header, kind, fill_value(pages, messages, kind.size)))
    if place.at + header.nbytes > pages.size:
        raise Broken(
            f"it should lie at bytes {place.at:,} to {place.at + header.nbytes:,}, the file has {pages.size:,}"
        )
    start = pages.base + place.at
    piece = Piece(pages.source, start, start + header.nbytes)
    if not kind.big:
        return replace(header, pieces=(piece,))
    raw = TensorHeader(header.name, "U8", (header.nbytes,), (piece,))
    return replace(header, derived=Derived((raw,), lambda data: _turned(data, header, True), _stored(header, kind)))


def _never_written(header: TensorHeader, kind: Type, fill: bytes) -> Derived:
    def made() -> Array:
        return _numbers(_filled(header.shape, kind, fill), header)

    return Derived((), made, f"{header.dtype} that was never written")


def _chunked(
    pages: Pages, header: TensorHeader, kind: Type, space: Space, messages: Sequence[Message], place: Layout
) -> TensorHeader:
    steps = filters(pages, messages)
    unknown = [step.name for step in steps if step.number not in KNOWN]
    if unknown:
        return replace(header, refusal=f"it is packed by {', '.join(unknown)}, which is not read")
    if any(step.number == layouts.SHUFFLE and step.told != (kind.size,) for step in steps):
        raise Broken("bytes of its chunks are shuffled by another size than an element has")
    found = sorted(chunks(pages, place, space, kind.size, bool(steps)))
    size = math.prod(place.chunk) * kind.size
    held = sum(chunk.size for chunk in found)
    for chunk in found:
        if chunk.at + chunk.size > pages.size or not chunk.size:
            raise Broken(f"a chunk of it should lie at bytes {chunk.at:,} to {chunk.at + chunk.size:,}")
    if size * len(found) > max(MOST_UNPACKED, MOST_RATIO * held):
        return replace(header, refusal=f"its chunks have {size * len(found):,} bytes, of which the file holds {held:,}")
    pieces, end = [], 0
    for chunk in found:
        start = pages.base + chunk.at
        pieces.append(Piece(pages.source, start, start + chunk.size, (slice(end, end + chunk.size),)))
        end += chunk.size
    raw = TensorHeader(header.name, "U8", (held,), tuple(pieces))
    fill = fill_value(pages, messages, kind.size)
    make = _Chunks(header, kind, place, steps, found, fill).array
    return replace(header, derived=Derived((raw,), make, _stored(header, kind, steps)))


def _stored(header: TensorHeader, kind: Type, steps: Sequence[Filter] | None = None) -> str:
    """What the format calls the type that the file has."""
    words = [header.dtype + (" big endian" if kind.big else "")]
    if steps is not None:
        words += [step.name for step in steps] or ["chunked"]
    return ", ".join(words)


class _Chunks:
    """A data set while it is put together of its chunks."""

    def __init__(
        self,
        header: TensorHeader,
        kind: Type,
        place: Layout,
        steps: Sequence[Filter],
        found: Sequence[Chunk],
        fill: bytes,
    ) -> None:
        self._header, self._kind, self._place = header, kind, place
        self._steps, self._found, self._fill = steps, found, fill

    def array(self, data: Array) -> Array:
        """The numbers, of the chunks as the file has them, one behind the other."""
        import numpy as np

        from bertprobe.checkpoint.hdf5.filters import unpacked

        header, chunk_shape, element = self._header, self._place.chunk, self._kind.size
        whole = _filled(header.shape, self._kind, self._fill)
        size = math.prod(chunk_shape) * element
        at = 0
        for chunk in self._found:
            ends = tuple(min(a + n, most) for a, n, most in zip(chunk.origin, chunk_shape, header.shape, strict=True))
            shape = tuple(stop - start for start, stop in zip(chunk.origin, ends, strict=True))
            mask = -1 if self._place.flags & EDGES_AS_THEY_ARE and shape != chunk_shape else chunk.mask
            try:
                block = unpacked(memoryview(data)[at : at + chunk.size], self._steps, mask, size, element)
            except Broken as error:
                raise CorruptFile(f"tensor {header.name!r} is damaged: {error}", objects.DAMAGED) from error
            at += chunk.size
            numbers = np.frombuffer(block, whole.dtype).reshape(chunk_shape)
            place = tuple(slice(start, stop) for start, stop in zip(chunk.origin, ends, strict=True))
            whole[place] = numbers[tuple(slice(n) for n in shape)]
        return _numbers(whole, header)


def _raw(kind: Type) -> np.dtype[np.generic]:
    """Numpy's whole number of as many bytes, in the byte order of the file: a float, too, is but bytes until read."""
    import numpy as np

    return np.dtype(f"{'>' if kind.big else '<'}u{kind.size}")


def _filled(shape: tuple[int, ...], kind: Type, fill: bytes) -> Array:
    import numpy as np

    (value,) = np.frombuffer(fill, _raw(kind))
    return np.full(shape, value, _raw(kind))


def _numbers(raw: Array, header: TensorHeader) -> Array:
    """Raw elements in this machine's order, as the numbers that they are."""
    return raw.astype(raw.dtype.newbyteorder("<"), copy=False).view(numpy_dtype(header.dtype))


def _turned(data: Array, header: TensorHeader, big: bool) -> Array:
    import numpy as np

    size = header.nbytes // header.count
    return _numbers(np.frombuffer(data, f"{'>' if big else '<'}u{size}").reshape(header.shape), header)
