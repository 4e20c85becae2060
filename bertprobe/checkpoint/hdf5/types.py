"""What the elements of a data set are, and how many there are: its datatype and its dataspace.

Source: HDF5 File Format Specification, IV.A.2.b and IV.A.2.d.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bertprobe.checkpoint.hdf5.pages import Fields, Pages
from bertprobe.checkpoint.tensors import MAX_DIMENSIONS
from bertprobe.checkpoint.wire import Broken

CLASSES = (
    "whole numbers",
    "floating point",
    "times",
    "text",
    "bits",
    "opaque bytes",
    "compound values",
    "references",
    "enumerated values",
    "values of any length",
    "arrays",
    "complex numbers",
)
WHOLE, FLOAT, TEXT, OPAQUE, ENUMERATED, ANY_LENGTH = 0, 1, 3, 5, 8, 9
# Of floats: bits, and where sign, exponent and mantissa lie, each a place and a number of bits, and the bias.
_FLOATS = {
    (64, 63, (52, 11), (0, 52), 1023): "F64",
    (32, 31, (23, 8), (0, 23), 127): "F32",
    (16, 15, (10, 5), (0, 10), 15): "F16",
    (16, 15, (7, 8), (0, 7), 127): "BF16",
}
_IMPLIED = 2  # how a mantissa begins: with a one that is not stored
MAX_MEMBERS = 2  # of an enumeration that is a boolean


@dataclass(frozen=True, slots=True)
class Type:
    """An element: its name in `DTYPES`, or in words where it has none there, `size` in bytes, its byte order.

    `kind` is its class; of text `encoding` is what Python calls it, and `padded` says that it ends at the first NUL.
    `base` is what a value of any length is made of.
    """

    name: str
    size: int
    kind: int
    big: bool = False
    known: bool = True
    encoding: str = "ascii"
    base: Type | None = None


def datatype(pages: Pages, body: bytes, depth: int = 0) -> Type:
    """The type that a datatype message describes; raises `Broken`."""
    fields = Fields(pages, body)
    first = fields.number(1)
    kind, version = first & 15, first >> 4
    bits = fields.number(3)
    size = fields.number(4)
    words = CLASSES[kind] if kind < len(CLASSES) else f"HDF5's class {kind}"
    odd = Type(words, size, kind, known=False)
    if not size or not 1 <= version <= 5:
        raise Broken("a type of it has no size, or no known version")
    if kind == WHOLE:
        return _whole(fields, size, bits, odd)
    if kind == FLOAT:
        return _float(fields, size, bits, odd)
    if kind == TEXT:
        return Type("text", size, kind, known=False, encoding="utf-8" if bits >> 4 & 15 else "ascii")
    if kind == ENUMERATED and not depth:
        return _enumerated(pages, fields, bits & 0xFFFF, odd)
    if kind == ANY_LENGTH and not depth:
        base = datatype(pages, body[8:], depth + 1)
        text = bits & 15 == 1
        name, encoding = ("text", "utf-8" if bits >> 8 & 15 else "ascii") if text else (words, "")
        return Type(name, size, kind, known=False, encoding=encoding, base=base)
    return odd


def _whole(fields: Fields, size: int, bits: int, odd: Type) -> Type:
    offset, precision = fields.number(2), fields.number(2)
    if size not in (1, 2, 4, 8) or offset or precision != 8 * size:
        return odd
    return Type(f"{'I' if bits & 8 else 'U'}{8 * size}", size, WHOLE, big=bool(bits & 1) and size > 1)


def _float(fields: Fields, size: int, bits: int, odd: Type) -> Type:
    offset, precision = fields.number(2), fields.number(2)
    exponent = fields.number(1), fields.number(1)
    mantissa = fields.number(1), fields.number(1)
    bias = fields.number(4)
    name = _FLOATS.get((8 * size, bits >> 8 & 255, exponent, mantissa, bias))
    plain = not offset and precision == 8 * size and bits >> 4 & 3 == _IMPLIED and not bits & 64
    if name is None or not plain:
        return odd
    return Type(name, size, FLOAT, big=bool(bits & 1))


def _enumerated(pages: Pages, fields: Fields, count: int, odd: Type) -> Type:
    """A boolean, which h5py writes as FALSE and TRUE of one byte, or what is not read."""
    rest = fields.data[fields.at :]
    base = datatype(pages, rest, 1)
    if count != MAX_MEMBERS or base.size != 1 or not base.known:
        return odd
    names = rest[12:]
    true = names.startswith((b"FALSE\0\0\0TRUE\0\0\0\0\0\1", b"FALSE\0TRUE\0\0\1"))
    return Type("BOOL", 1, ENUMERATED) if true else odd


@dataclass(frozen=True, slots=True)
class Space:
    """The shape of a data set, and how far each axis may grow, None for without end; `empty` has no element at all."""

    shape: tuple[int, ...]
    most: tuple[int | None, ...]
    empty: bool = False

    @property
    def count(self) -> int:
        return math.prod(self.shape)


def dataspace(pages: Pages, body: bytes) -> Space:
    """What a dataspace message says; raises `Broken`."""
    fields = Fields(pages, body)
    version, rank, flags = fields.number(1), fields.number(1), fields.number(1)
    if version not in (1, 2) or rank > MAX_DIMENSIONS:
        raise Broken(f"a shape of it has {rank} dimensions, or no known version")
    kind = fields.number(1)
    if version == 1:
        fields.take(4)
    elif kind == 2:
        return Space((), (), empty=True)
    shape = tuple(fields.length() for _ in range(rank))
    grown = tuple(fields.length() for _ in range(rank)) if flags & 1 else shape
    endless = (1 << (8 * pages.length_size)) - 1
    most = tuple(None if n == endless else n for n in grown)
    if any(limit is not None and n > limit for n, limit in zip(shape, most, strict=True)):
        raise Broken("a shape of it is larger than it may grow")
    if math.prod(n or 1 for n in shape) >= 2**63:
        raise Broken(f"a shape of it, {list(shape)}, has more elements than can be")
    return Space(shape, most)
