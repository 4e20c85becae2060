"""Tensors as byte ranges: element types, and the header of a tensor that has not been read. `reading` reads them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from bertprobe.checkpoint.source import Source, machine_memory
from bertprobe.errors import UnsupportedFile, printable

if TYPE_CHECKING:
    import numpy as np

Array = Any
"""A numpy array; its dtype may be one of ml_dtypes', which numpy's own types cannot name."""

MAX_DIMENSIONS = 32  # of numpy 1; numpy 2 has 64
MAX_EMPTY = 50_000  # rows of a tensor without elements: they take memory, though no file has to hold them
MAX_ELEMENTS = 2**60  # of one without elements if its axes of length 0 had length 1: numpy's limit for float64
CODES = "it holds codes of a quantisation"
MOST_UNPACKED = 64 * 2**20  # bytes of a tensor that may come of any number of bytes in a file
MOST_RATIO = 24  # beyond that, how many times the bytes in the file: of known packings one has 20.5


@dataclass(frozen=True, slots=True)
class Dtype:
    """An element type, under the safetensors format's name where that has it: so many `items` lie in so many `bytes`.

    `numpy` is the type of an array of it, None where there is none.
    """

    name: str
    items: int
    bytes: int
    numpy: str | None
    kind: str

    @property
    def bits(self) -> float:
        """Bits of an element, on average over a block."""
        return 8 * self.bytes / self.items

    def nbytes(self, count: int) -> int:
        """Bytes of so many elements in whole blocks."""
        return -(-count // self.items) * self.bytes

    @property
    def is_float(self) -> bool:
        return self.kind == "float"


DTYPES: dict[str, Dtype] = {
    dtype.name: dtype
    for dtype in (
        Dtype("F64", 1, 8, "float64", "float"),
        Dtype("F32", 1, 4, "float32", "float"),
        Dtype("F16", 1, 2, "float16", "float"),
        Dtype("BF16", 1, 2, "bfloat16", "float"),
        Dtype("F8_E4M3", 1, 1, "float8_e4m3fn", "float"),
        Dtype("F8_E5M2", 1, 1, "float8_e5m2", "float"),
        Dtype("F8_E8M0", 1, 1, "float8_e8m0fnu", "float"),
        Dtype("F8_E4M3FNUZ", 1, 1, "float8_e4m3fnuz", "float"),
        Dtype("F8_E5M2FNUZ", 1, 1, "float8_e5m2fnuz", "float"),
        Dtype("F6_E2M3", 4, 3, None, "float"),
        Dtype("F6_E3M2", 4, 3, None, "float"),
        Dtype("F4", 2, 1, None, "float"),
        Dtype("C64", 1, 8, "complex64", "complex"),
        Dtype("I64", 1, 8, "int64", "int"),
        Dtype("I32", 1, 4, "int32", "int"),
        Dtype("I16", 1, 2, "int16", "int"),
        Dtype("I8", 1, 1, "int8", "int"),
        Dtype("U64", 1, 8, "uint64", "int"),
        Dtype("U32", 1, 4, "uint32", "int"),
        Dtype("U16", 1, 2, "uint16", "int"),
        Dtype("U8", 1, 1, "uint8", "int"),
        Dtype("BOOL", 1, 1, "bool", "bool"),
    )
}


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype of a stored dtype; ml_dtypes is imported only for the types that need it."""
    import numpy as np

    dtype = DTYPES[name]
    if dtype.numpy is None:
        raise UnsupportedFile(
            f"dtype {name} packs {dtype.bits:g} bits an element",
            "numpy cannot hold it; bertprobe inspect --shapes tells its shape",
        )
    if name == "BF16" or name.startswith("F8"):
        import ml_dtypes

        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, dtype.numpy))
        return found
    return np.dtype(dtype.numpy).newbyteorder("<")


@dataclass(frozen=True, slots=True)
class Guard:
    """A short range whose content proves that a piece starts where the index says.

    A zip's local header is the case: reading all of them to build an index would cost a request each, so they are read
    with the tensors that are wanted. `check` raises `CorruptFile`.
    """

    start: int
    stop: int
    check: Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Piece:
    """Where a tensor, or a block of it, lies: bytes `start` to `stop` of `source`; `place` is None for all of it.

    `checksum` is the CRC-32C of those bytes where the format keeps one; `crc` a zip's CRC-32, first of what lies before
    them in the same member, then of that and them.
    """

    source: Source
    start: int
    stop: int
    place: tuple[slice, ...] | None = None
    guard: Guard | None = None
    checksum: int | None = None
    crc: tuple[int, int] | None = None

    @property
    def is_checked(self) -> bool:
        """Whether its bytes are held against a checksum, so that all of them must be read."""
        return self.checksum is not None or self.crc is not None


class Grid(NamedTuple):
    """What a quantisation rounds to: `bits` a number, and one scale for each `block` of so many rows and columns.

    They are those of the matrix as it is stored; 0 stands for all rows, or all columns. Of `nested` blocks the scales
    are rounded as well, several together, so that a block beside a far larger one can lose its numbers.
    """

    bits: int
    block: tuple[int, int]
    nested: bool = False


@dataclass(frozen=True, slots=True)
class Derived:
    """How a tensor's numbers are made of what the file holds: unpacked, put together, or dequantised.

    `make` is given the arrays of `inputs`, which it does not change, and gives that of the tensor, of its dtype and
    in the shape that is stored; it raises `CorruptFile` for what cannot be. `stored_as` is what the format calls the
    type that the file has them in. `quantised` says in words how numbers near the original ones are made, empty where
    they are the original ones, and `grid` how far they may lie from them, None where that is not known.
    """

    inputs: tuple[TensorHeader, ...]
    make: Callable[..., Array]
    stored_as: str
    quantised: str = ""
    grid: Grid | None = None


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """A named array that has not been read: type, shape and where its bytes lie.

    `strides` are in elements, None where rows follow each other; `axes` is the permutation that turns what is stored
    into `shape`, None where nothing is turned. Where the file does not hold the numbers as they are, `derived` says how
    they are made, and `pieces` are those of its inputs. A header with a `refusal` is listed, and refused when it is
    read.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...] = ()
    strides: tuple[int, ...] | None = None
    axes: tuple[int, ...] | None = None
    refusal: str | None = None
    derived: Derived | None = None

    @property
    def is_code(self) -> bool:
        """Whether it is refused because what it holds are codes of a quantisation, not the model's numbers."""
        return self.refusal is not None and self.refusal.startswith(CODES)

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, row after row."""
        return DTYPES[self.dtype].nbytes(self.count) if self.dtype in DTYPES else 0

    @property
    def stored_as(self) -> str:
        """The type that the file holds: `dtype`, or that of a packing or a quantisation."""
        return self.dtype if self.derived is None else self.derived.stored_as

    @property
    def all_pieces(self) -> tuple[Piece, ...]:
        """The pieces, also those of what it is made of."""
        inputs = () if self.derived is None else self.derived.inputs
        return (*self.pieces, *(piece for header in inputs for piece in header.all_pieces))

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape before the axes change places."""
        if self.axes is None:
            return self.shape
        stored = [0] * len(self.shape)
        for axis, n in zip(self.axes, self.shape, strict=True):
            stored[axis] = n
        return tuple(stored)

    @property
    def location(self) -> tuple[tuple[str, int, int], ...]:
        """The byte ranges, comparable: two names for the same bytes have the same location."""
        return tuple((piece.source.name, piece.start, piece.stop) for piece in self.all_pieces)

    def permuted(self, axes: tuple[int, ...]) -> TensorHeader:
        """The same bytes seen with their axes in another order, as `numpy.transpose` has it."""
        stored = self.axes or tuple(range(len(self.shape)))
        return replace(self, shape=tuple(self.shape[a] for a in axes), axes=tuple(stored[a] for a in axes))

    def reshaped(self, shape: tuple[int, ...]) -> TensorHeader:
        """The same elements in the same order, under a shape that has as many."""
        plain = self.derived is None and self.axes is None and self.strides is None and len(self.pieces) == 1
        if plain or self.refusal is not None:
            return replace(self, shape=shape)
        quantised = "" if self.derived is None else self.derived.quantised
        made = Derived((self,), lambda whole: whole.reshape(shape), self.stored_as, quantised)
        return TensorHeader(self.name, self.dtype, shape, derived=made)

    def rows(self, start: int, stop: int) -> TensorHeader:
        """The rows `start` to `stop` of a matrix in one piece, as a header over fewer bytes."""
        if self.refusal is not None:
            return self
        if self.derived is not None and self.shape and 0 <= start <= stop <= self.shape[0]:
            shape = (stop - start, *self.shape[1:])
            made = Derived((self,), lambda whole: whole[start:stop], self.stored_as, self.derived.quantised)
            return TensorHeader(self.name, self.dtype, shape, derived=made)
        plain = self.axes is None and len(self.pieces) == 1 and self.shape
        dtype = DTYPES[self.dtype]
        step = self.strides[0] if self.strides else math.prod(self.shape[1:])
        if not plain or not 0 <= start <= stop <= self.shape[0] or start * step % dtype.items:  # amid a block
            raise UnsupportedFile(
                f"{self.name} is fused and stored in an odd way", "save the model again with save_pretrained"
            )
        (piece,) = self.pieces
        shape = (stop - start, *self.shape[1:])
        first = piece.start + dtype.nbytes(start * step)
        last = first + dtype.nbytes(extent(shape, self.strides))
        return replace(self, shape=shape, pieces=(replace(piece, start=first, stop=last, checksum=None, crc=None),))


class Spelled(NamedTuple):
    """What PyTorch's modules call a tensor, empty for what is no weight, and the axes that turn it as they have it."""

    name: str
    axes: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Index:
    """What a storage finds in one file: the tensors, the file's own notes, and the dictionary key they lay under.

    `models` are other models in the file, by the dotted keys they lay under; `others` are the files that hold the data,
    where they are not in the one with the index. `settings` are the texts of small files that the file carries, each
    under the name it has where it lies beside the weights: config.json, tokenizer.json, vocab.txt. `spelled` has, by
    stored name, what a tensor is by a graph in the file, where its name does not tell; a name that is not there speaks
    for itself. `remarks` are sentences on what was found that whoever reads a number should know. `truncated` is one on
    a file that ends before its data do, of which the headers that are not whole are refused; empty for a whole file.
    """

    headers: tuple[TensorHeader, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)
    wrapper: str = ""
    models: Mapping[str, tuple[TensorHeader, ...]] = field(default_factory=dict)
    others: tuple[Source, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    spelled: Mapping[str, Spelled] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    truncated: str = ""


def extent(shape: tuple[int, ...], strides: tuple[int, ...] | None) -> int:
    """How many elements of storage a view of this shape spans."""
    if 0 in shape:
        return 0
    if strides is None:
        return math.prod(shape)
    return 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))


def check_readable(header: TensorHeader) -> None:
    """Raises `UnsupportedFile`, by name, for a tensor whose values cannot be had."""
    name = printable(header.name)
    if header.refusal is not None:
        raise UnsupportedFile(f"tensor {name} cannot be read: {header.refusal}", "only its name is known")
    if DTYPES[header.dtype].numpy is None:
        raise UnsupportedFile(
            f"tensor {name} has dtype {header.dtype}, {DTYPES[header.dtype].bits:g} bits an element",
            "no array library here can hold that; bertprobe inspect --shapes lists it",
        )
    if header.nbytes > machine_memory():
        raise UnsupportedFile(
            f"tensor {name} has {header.nbytes:,} bytes, more than the {machine_memory():,} of this machine's memory",
            "bertprobe inspect --shapes tells its shape",
        )
    if header.derived is not None:
        _check_derived(header, header.derived)
    largest = math.prod(n or 1 for n in header.shape)
    if header.count == 0 and (header.shape[0] > MAX_EMPTY or largest >= MAX_ELEMENTS):
        raise UnsupportedFile(
            f"tensor {name} has no elements, but the shape {list(header.shape)}",
            "bertprobe inspect --shapes tells its shape",
        )


def _check_derived(header: TensorHeader, derived: Derived) -> None:
    """What a few bytes unpack to must not fill the memory; no packing of weights comes near this."""
    for part in derived.inputs:
        check_readable(part)
    held = sum(piece.stop - piece.start for piece in header.all_pieces)
    if header.nbytes > max(MOST_UNPACKED, MOST_RATIO * held):
        raise UnsupportedFile(
            f"tensor {printable(header.name)} has {header.nbytes:,} bytes, of which the file holds {held:,}",
            "no weights can be packed so far: is it the right file?",
        )


def checksum(data: bytes | memoryview) -> int:
    """The CRC-32C of some bytes (Castagnoli's polynomial, as TensorFlow takes it)."""
    import crc32c

    return crc32c.crc32c(data)
