"""What an index says: the number of data shards, and of each tensor its type, its shape and where its bytes lie.

A partitioned variable is one entry that lists its slices, each of which has an entry of its own under a name made of
the variable's name and the slice's extents. Sources: tensor_bundle.proto, tensor_slice.proto, types.proto and
lib/strings/ordered_code.cc of TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from bertprobe.checkpoint.source import Source
from bertprobe.checkpoint.tensorflow.naming import SUFFIX, shard_name
from bertprobe.checkpoint.tensorflow.table import DAMAGED, rows, unmasked
from bertprobe.checkpoint.tensors import DTYPES, MAX_DIMENSIONS, Index, Piece, TensorHeader
from bertprobe.checkpoint.wire import Broken, Message
from bertprobe.errors import CorruptFile, NotFound, UnsupportedFile, printable

MAX_SHARDS = 99_999  # their numbers have five digits
MAX_SLICES = 4_096
MAX_REPEATED = 4 * MAX_SLICES  # slices or dimensions that are counted, so as to say that there are too many
SHOWN = 100  # characters of a name that a message shows

TYPES = {
    1: "F32",
    2: "F64",
    3: "I32",
    4: "U8",
    5: "I16",
    6: "I8",
    8: "C64",
    9: "I64",
    10: "BOOL",
    14: "BF16",
    17: "U16",
    19: "F16",
    22: "U32",
    23: "U64",
    24: "F8_E5M2",
    25: "F8_E4M3",
    26: "F8_E4M3FNUZ",
    28: "F8_E5M2FNUZ",
}
# Text, handles and variants are no arrays: TensorFlow 2 keeps the graph of its objects so. They are left out.
NO_ARRAYS = (7, 20, 21)

Extent = tuple[int, int]
"""Start and length along one axis; a length of -1 is all of it, as TensorFlow has it."""


def index(source: Source) -> Index:
    """The headers of every tensor of a bundle, by name, and the data shards they lie in.

    Raises `CorruptFile`, `UnsupportedFile`, and `NotFound` for a shard that is not there.
    """
    if not source.name.endswith(SUFFIX):
        raise UnsupportedFile(
            f"{source.address} is a TensorFlow index, but its name does not end in {SUFFIX}",
            f"rename it: its data shards are found by its name, NAME{SUFFIX}",
        )
    entries = dict(rows(source))
    shards = _Shards(source, _number_of_shards(source, entries.pop(b"", None)))
    found = [_tensor(key, value, entries, shards) for key, value in entries.items() if key[:1] != b"\0"]
    return Index(tuple(header for header in found if header is not None), others=shards.opened)


def _number_of_shards(source: Source, value: bytes | None) -> int:
    if value is None:
        raise CorruptFile(f"the index {source.address} has no header", DAMAGED)
    try:
        header = Message(value)
        count, order = header.number(1), header.number(2)
    except Broken as error:
        raise CorruptFile(f"the header of {source.address} is damaged: {error}", DAMAGED) from error
    if order:
        raise UnsupportedFile(
            f"{source.address} was written by a machine of the other byte order", "save it again on a common machine"
        )
    if not 1 <= count <= MAX_SHARDS:
        raise CorruptFile(f"{source.address} announces {count:,} data shards", DAMAGED)
    return count


class _Shards:
    """The data shards of an index, each opened when a first tensor lies in it."""

    def __init__(self, source: Source, count: int) -> None:
        self.index = source
        self.count = count
        self._stem = source.name.removesuffix(SUFFIX)
        self._opened: dict[int, Source] = {}

    @property
    def opened(self) -> tuple[Source, ...]:
        return tuple(self._opened[number] for number in sorted(self._opened))

    def of(self, number: int) -> Source:
        """A shard by its number; raises `NotFound` where it is missing."""
        if number not in self._opened:
            name = shard_name(self._stem, number, self.count)
            try:
                self._opened[number] = self.index.sibling(name)
            except NotFound as error:
                raise NotFound(
                    f"{printable(name)} is missing, data shard {number + 1} of the {self.count} "
                    f"that {self.index.address} needs",
                    "fetch it, and put it beside the index",
                ) from error
        return self._opened[number]


def _tensor(key: bytes, value: bytes, entries: dict[bytes, bytes], shards: _Shards) -> TensorHeader | None:
    """The header of one entry, None for what is no array."""
    name = _name(key, shards.index)
    try:
        entry = Message(value, repeated=7, most=MAX_REPEATED)
        if entry.number(1) in NO_ARRAYS:
            return None
        dtype, shape = _dtype(entry), _shape(entry, name)
        header = TensorHeader(name, dtype, shape)
        if dtype not in DTYPES:
            return replace(header, refusal="TensorFlow's type is no plain array")
        if entry.count(7):
            return replace(header, pieces=_slices(header, entry, entries, shards))
        return replace(header, pieces=(_piece(header, entry, shards),))
    except Broken as error:
        raise CorruptFile(f"the entry of {_shown(name)} in {shards.index.name} is damaged: {error}", DAMAGED) from error


def _name(key: bytes, source: Source) -> str:
    try:
        return key.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorruptFile(f"{source.address} has a name that is not text: {key[:40]!r}", DAMAGED) from error


def _shown(name: str) -> str:
    return f"tensor {printable(name[:SHOWN])}"


def _dtype(entry: Message) -> str:
    number = entry.number(1)
    if number == 0:
        raise Broken("it has no type")
    return TYPES.get(number, f"TensorFlow's type {number}")


def _shape(entry: Message, name: str) -> tuple[int, ...]:
    shapes = entry.messages(2, repeated=2, most=MAX_REPEATED)
    if not shapes:
        return ()
    if shapes[-1].number(3):
        raise Broken("its shape is not known")
    if shapes[-1].count(2) > MAX_DIMENSIONS:
        raise UnsupportedFile(
            f"{_shown(name)} has {shapes[-1].count(2):,} dimensions", f"no array here can have over {MAX_DIMENSIONS}"
        )
    shape = tuple(shapes[-1].numbers(2))
    if any(n >= 2**63 for n in shape):
        raise Broken("it has a negative dimension")
    return shape


def _piece(header: TensorHeader, entry: Message, shards: _Shards, place: tuple[slice, ...] | None = None) -> Piece:
    """Where the bytes of an entry lie, once the type and shape of its header and the shard agree with it."""
    number, start, size, stored = (entry.number(field) for field in (3, 4, 5, 6))
    if number >= shards.count:
        raise Broken(f"it lies in shard {number:,} of {shards.count}")
    if size != header.nbytes:
        raise Broken(f"its shape {list(header.shape)} in {header.dtype} needs {header.nbytes:,} bytes, it has {size:,}")
    shard = shards.of(number)
    if start + size > shard.size:
        raise CorruptFile(
            f"{_shown(header.name)} should lie at bytes {start:,} to {start + size:,} of {shard.name}, "
            f"which has {shard.size:,}",
            "the shard is damaged, was cut short, or is of another checkpoint: fetch it again",
        )
    return Piece(shard, start, start + size, place, checksum=unmasked(stored) if entry.count(6) else None)


# ------------------------------------------------------------------------------------------------ partitioned


def _slices(header: TensorHeader, entry: Message, entries: dict[bytes, bytes], shards: _Shards) -> tuple[Piece, ...]:
    """The pieces of a partitioned variable, which must fill it exactly and share no byte."""
    if entry.count(7) > MAX_SLICES:
        raise UnsupportedFile(
            f"{_shown(header.name)} lies in {entry.count(7):,} slices", f"read are up to {MAX_SLICES:,}"
        )
    name, shape = header.name, header.shape
    pieces, places = [], []
    for number, found in enumerate(entry.messages(7, repeated=1, most=MAX_DIMENSIONS)):
        extents = _extents(found, shape)
        value = entries.get(_slice_key(name, extents))
        if value is None:
            raise Broken(f"its slice {number} is not in the index")
        part = Message(value, repeated=7, most=MAX_REPEATED)
        place = tuple((a, n if length < 0 else a + length) for (a, length), n in zip(extents, shape, strict=True))
        block = TensorHeader(name, _dtype(part), _shape(part, name))
        if block.dtype != header.dtype or block.shape != tuple(stop - start for start, stop in place):
            raise Broken(f"its slice {number} is of another type or shape")
        places.append(place)
        pieces.append(_piece(block, part, shards, tuple(slice(*span) for span in place)))
    if not _fill(places, shape):
        raise Broken(f"its {len(places)} slices overlap, or leave a part of it out")
    order = sorted(pieces, key=lambda piece: (piece.source.name, piece.start))
    if any(a.source is b.source and a.stop > b.start for a, b in pairwise(order)):
        raise Broken("two of its slices share bytes")
    return tuple(pieces)


def _extents(found: Message, shape: tuple[int, ...]) -> tuple[Extent, ...]:
    if found.count(1) != len(shape):
        raise Broken(f"a slice of it has {found.count(1)} axes, it has {len(shape)}")
    extents = tuple((extent.number(1), extent.number(2) if extent.count(2) else -1) for extent in found.messages(1))
    for (start, length), n in zip(extents, shape, strict=True):
        if (length < 0 and start) or length == 0 or start + length > n:
            raise Broken("a slice of it reaches beyond it")
    return extents


def _fill(places: Sequence[tuple[tuple[int, int], ...]], shape: tuple[int, ...]) -> bool:
    """Whether blocks fill a shape without overlap: along each axis one behind the other, in every part alike."""
    if not shape:
        return len(places) == 1
    groups: dict[tuple[int, int], list[tuple[tuple[int, int], ...]]] = {}
    for span, *rest in places:
        groups.setdefault(span, []).append(tuple(rest))
    here = 0
    for (start, stop), inner in sorted(groups.items()):
        if start != here or not _fill(inner, shape[1:]):
            return False
        here = stop
    return here == shape[0]


def _slice_key(name: str, extents: Sequence[Extent]) -> bytes:
    """The key of a slice, in OrderedCode: 0, the name, the number of axes, and each axis' start and length."""
    escaped = name.encode().replace(b"\0", b"\0\xff")  # a byte 255, which would be escaped too, is not in UTF-8
    axes = len(extents)
    count = axes.to_bytes((axes.bit_length() + 7) // 8, "big")
    numbers = b"".join(_ordered(n) for extent in extents for n in extent)
    return b"\0" + escaped + b"\0\1" + bytes([len(count)]) + count + numbers


def _ordered(number: int) -> bytes:
    """A signed number whose first bits tell its length, so that bytes sort as numbers do."""
    length = (~number if number < 0 else number).bit_length() // 7 + 1
    plain = number.to_bytes(length, "big", signed=True)
    marks = ((1 << length) - 1) << (7 * length)  # as many leading ones as there are bytes
    return (int.from_bytes(plain, "big") ^ marks).to_bytes(length, "big")
