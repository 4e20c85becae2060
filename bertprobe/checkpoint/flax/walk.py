"""A msgpack file walked without reading its arrays: what lies where, under which names.

Bounds: a count is held against the bytes that are left before anything is made of it; a file has at most `MAX_VALUES`
values, in maps at most `MAX_DEPTH` deep, and names of together `CHARACTERS_A_BYTE` characters for each of its bytes
(and `SPARE_CHARACTERS`). A name that stands twice in a map is refused, as readers take the last or none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bertprobe.checkpoint.flax.windows import DAMAGED, Windows
from bertprobe.checkpoint.tensors import DTYPES, MAX_DIMENSIONS, Derived, Piece, TensorHeader
from bertprobe.errors import CorruptFile, UnsupportedFile, printable

if TYPE_CHECKING:
    from bertprobe.checkpoint.source import Source

MAX_VALUES = 1_000_000  # a training state of a large model has some 10,000
MAX_DEPTH = 64
MAX_NAME = 1_000  # characters
CHARACTERS_A_BYTE = 8
SPARE_CHARACTERS = 1_000_000
MAX_KEY = 1_000  # bytes
LEAST_LAYER = 64 * 1024  # bytes of a numbered module from which on others are expected to lie as it does
SHOWN = 100  # characters of a name that a message shows
CHUNKED = "__msgpack_chunked_array__"  # flax's mark in a map that stands for an array of over 2^30 bytes
TWICE = "readers disagree on which one counts: have it written again"

ARRAY, SCALAR = 1, 3  # flax's types of extensions: an array, and a number of numpy
DTYPE_NAMES = {dtype.numpy: name for name, dtype in DTYPES.items() if dtype.numpy is not None}

# Bytes behind the first of values of a fixed size, and of the size of those that tell it.
_FIXED = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
_FIXED |= {0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_SIZED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_MAPS, _LISTS, _EXTENSIONS = {0xDE: 2, 0xDF: 4}, {0xDC: 2, 0xDD: 4}, {0xC7: 1, 0xC8: 2, 0xC9: 4}
_UNSIGNED = (0xCC, 0xCD, 0xCE, 0xCF)


class Value(NamedTuple):
    """The head of a value: what `kind` it is, its length or count, and where what belongs to it begins.

    Kinds are map, list, ext, text (also bytes), number and other; the length of a `number` is its value.
    """

    kind: str
    size: int
    start: int
    type: int = 0


class Walk:
    """A file walked from its first byte to its last, for `headers` in file order under names joined by "/"."""

    def __init__(self, source: Source) -> None:
        self.headers: list[TensorHeader] = []
        self._source = source
        self._windows = Windows(source)
        self._values = 0
        self._characters = CHARACTERS_A_BYTE * source.size + SPARE_CHARACTERS
        self._sizes: dict[str, int] = {}  # of the axes of arrays in chunks, by name
        root = self._head(0)
        if root.kind != "map":
            raise UnsupportedFile(
                f"{source.address} is no Flax file: it does not begin with a map", "is it the right file?"
            )
        end = self._map("", root, 0)
        if end != source.size:
            raise CorruptFile(f"{source.address} goes on for {source.size - end:,} bytes after its map", DAMAGED)

    # ------------------------------------------------------------------------------------------------ values

    def _head(self, at: int) -> Value:
        byte = self._windows.take(at, 1)[0]
        if byte < 0x80 or byte >= 0xE0:
            return Value("number", byte if byte < 0x80 else -1, at + 1)
        if byte < 0xC0:
            kind, low = ("map", 15) if byte < 0x90 else ("list", 15) if byte < 0xA0 else ("text", 31)
            return self._counted(Value(kind, byte & low, at + 1))
        if byte in _FIXED:
            known = self._number(at + 1, _FIXED[byte]) if byte in _UNSIGNED else -1
            kind = "number" if byte in _UNSIGNED else "other"
            return Value(kind, known, self._within(at + 1 + _FIXED[byte]))
        if 0xD4 <= byte <= 0xD8:
            return self._counted(Value("ext", 1 << (byte - 0xD4), at + 2, self._number(at + 1, 1)))
        for kind, widths in (("map", _MAPS), ("list", _LISTS), ("text", _SIZED), ("ext", _EXTENSIONS)):
            if byte in widths:
                size, start = self._number(at + 1, widths[byte]), at + 1 + widths[byte]
                if kind != "ext":
                    return self._counted(Value(kind, size, start))
                return self._counted(Value(kind, size, start + 1, self._number(start, 1)))
        raise CorruptFile(f"{self._source.address} has the byte {byte:#x} where a value begins, at {at:,}", DAMAGED)

    def _number(self, at: int, size: int) -> int:
        return int.from_bytes(self._windows.take(at, size), "big")

    def _within(self, end: int) -> int:
        if end > self._source.size:
            raise CorruptFile(f"{self._source.address} has a value that goes on beyond its end", DAMAGED)
        return end

    def _counted(self, value: Value) -> Value:
        """A value whose count the bytes that are left can hold."""
        self._within(value.start + value.size * (2 if value.kind == "map" else 1))
        return value

    def _value(self, name: str, at: int, depth: int) -> int:
        """Takes a value in, and tells where it ends."""
        self._values += 1
        if self._values > MAX_VALUES:
            raise UnsupportedFile(
                f"{self._source.address} holds more than {MAX_VALUES:,} values", "is it the right file?"
            )
        value = self._head(at)
        if value.kind in ("map", "list"):
            if depth == MAX_DEPTH:
                raise UnsupportedFile(
                    f"{self._source.address} has maps more than {MAX_DEPTH} deep", "is it the right file?"
                )
            return self._map(name, value, depth + 1) if value.kind == "map" else self._list(name, value, depth + 1)
        if value.kind == "number":
            if name.rpartition("/")[0].endswith("/shape"):
                self._sizes[name] = value.size
            return value.start
        if value.kind == "ext" and value.type in (ARRAY, SCALAR):
            self._array(name, value)
        return value.start + value.size if value.kind in ("text", "ext") else value.start

    def _map(self, name: str, head: Value, depth: int) -> int:
        at, keys = head.start, set[str]()
        first = len(self.headers)
        guessed = False
        for left in range(head.size - 1, -1, -1):
            begun, read = at, len(self._windows.starts)
            key, at = self._key(name, at)
            if key in keys:
                raise CorruptFile(f"{self._source.address} has the name {self._shown(name, key)} twice", TWICE)
            keys.add(key)
            at = self._value(self._joined(name, key), at, depth)
            if key.isdecimal() and not guessed and at - begun >= LEAST_LAYER and left > 1:
                # Layers are alike: where one has its arrays, the others will have theirs.
                seen = [begun, *(start for start in self._windows.starts[read:] if start < at)]
                self._windows.expect(seen, at - begun, left)
                guessed = True
        if CHUNKED in keys:
            self.headers[first:] = [self._whole(name, self.headers[first:])]
        return at

    def _list(self, name: str, head: Value, depth: int) -> int:
        at = head.start
        for place in range(head.size):
            at = self._value(self._joined(name, str(place)), at, depth)
        return at

    # ------------------------------------------------------------------------------------------------ names

    def _key(self, name: str, at: int) -> tuple[str, int]:
        head = self._head(at)
        if head.kind != "text" or self._windows.take(at, 1)[0] in (0xC4, 0xC5, 0xC6):
            raise UnsupportedFile(
                f"{self._source.address} has a name that is no text in {self._shown(name, '')}",
                "Flax writes none: is it the right file?",
            )
        if head.size > MAX_KEY:
            raise UnsupportedFile(
                f"{self._source.address} has a name of {head.size:,} bytes", "no model has: is it the right file?"
            )
        try:
            return self._windows.take(head.start, head.size).decode("utf-8"), head.start + head.size
        except UnicodeDecodeError as error:
            raise CorruptFile(f"{self._source.address} has a name that is not UTF-8", DAMAGED) from error

    def _joined(self, name: str, key: str) -> str:
        joined = f"{name}/{key}" if name else key
        self._characters -= len(joined)
        if len(joined) > MAX_NAME or self._characters < 0:
            raise UnsupportedFile(
                f"{self._source.address} has longer names than any model: {printable(joined[:SHOWN])}",
                "is it the right file?",
            )
        return joined

    def _shown(self, name: str, key: str) -> str:
        return printable("/".join(filter(None, (name, key)))[:SHOWN]) or "its first map"

    # ------------------------------------------------------------------------------------------------ arrays

    def _array(self, name: str, ext: Value) -> None:
        """The array in an extension: a list of its shape, the name of its type, and its bytes, which fill it."""
        where = f"array {self._shown(name, '')} in {self._source.address}"
        stop = ext.start + ext.size
        head = self._head(ext.start)
        if (head.kind, head.size) != ("list", 3):
            raise CorruptFile(f"{where} is not a shape, a type and bytes", DAMAGED)
        shape, at = self._shape(where, self._head(head.start))
        type_ = self._head(at)
        if type_.kind != "text" or type_.size > SHOWN:
            raise CorruptFile(f"{where} has no type", DAMAGED)
        dtype = self._windows.take(type_.start, type_.size).decode("utf-8", "backslashreplace")
        data = self._head(type_.start + type_.size)
        if data.kind != "text" or data.start + data.size != stop:
            raise CorruptFile(f"{where} does not end where its bytes do", DAMAGED)
        self.headers.append(self._header(where, name, dtype, shape, Piece(self._source, data.start, stop)))

    def _shape(self, where: str, head: Value) -> tuple[tuple[int, ...], int]:
        if head.kind != "list":
            raise CorruptFile(f"{where} has no shape", DAMAGED)
        if head.size > MAX_DIMENSIONS:
            raise UnsupportedFile(
                f"{where} has {head.size:,} dimensions", f"no array here can have over {MAX_DIMENSIONS}"
            )
        shape, at = [], head.start
        for _ in range(head.size):
            length = self._head(at)
            if length.kind != "number" or not 0 <= length.size < 2**63:
                raise CorruptFile(f"{where} has a shape that is not of whole numbers", DAMAGED)
            shape.append(length.size)
            at = length.start
        return tuple(shape), at

    def _header(self, where: str, name: str, dtype: str, shape: tuple[int, ...], piece: Piece) -> TensorHeader:
        known = DTYPE_NAMES.get(dtype)
        if known is None:
            return TensorHeader(name, dtype, shape, refusal=f"its type is {printable(dtype)}, which is not read")
        header = TensorHeader(name, known, shape, (piece,))
        if header.nbytes != piece.stop - piece.start:
            raise CorruptFile(
                f"{where} has shape {list(shape)} in {dtype}, {header.nbytes:,} bytes, and holds "
                f"{piece.stop - piece.start:,}",
                DAMAGED,
            )
        return header

    def _whole(self, name: str, chunks: Sequence[TensorHeader]) -> TensorHeader:
        """An array of over 2^30 bytes, which lies in chunks, numbered, of its numbers one after the other."""
        where = f"array {self._shown(name, '')} in {self._source.address}"
        shape = self._numbered(
            where, {key: size for key, size in self._sizes.items() if key.startswith(f"{name}/shape/")}
        )
        parts = self._numbered(where, {chunk.name: chunk for chunk in chunks})
        whole = TensorHeader(name, parts[0].dtype if parts else "", shape)
        if any(part.refusal for part in parts):
            return TensorHeader(name, whole.dtype, shape, refusal=next(part.refusal for part in parts if part.refusal))
        alike = all(len(part.shape) == 1 and part.dtype == whole.dtype for part in parts)
        if not parts or not alike or sum(part.count for part in parts) != math.prod(shape):
            raise CorruptFile(f"{where} lies in chunks that are not its shape {list(shape)}", DAMAGED)
        made = Derived(parts, lambda *arrays: _together(arrays, shape), whole.dtype)
        return TensorHeader(name, whole.dtype, shape, derived=made)

    def _numbered(self, where: str, found: dict[str, Any]) -> tuple[Any, ...]:
        by_number = {name.rpartition("/")[2]: value for name, value in found.items()}
        numbers = [str(number) for number in range(len(found))]
        if by_number.keys() != set(numbers) or len(found) > MAX_VALUES:
            raise CorruptFile(f"{where} lies in chunks that are not numbered from 0 on", DAMAGED)
        return tuple(by_number[number] for number in numbers)


def _together(arrays: Sequence[Any], shape: tuple[int, ...]) -> Any:
    import numpy as np

    return np.concatenate(arrays).reshape(shape)
