"""Tensors as byte ranges: the header of one, and the one function that reads them, whatever the format."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from bertprobe.checkpoint.prefetch import prefetch
from bertprobe.checkpoint.source import Memory, Source, machine_memory
from bertprobe.errors import CorruptFile, UnsupportedFile, printable

if TYPE_CHECKING:
    import numpy as np

K = TypeVar("K", bound=Hashable)
"""What a caller knows a tensor by."""

Array = Any
"""A numpy array; its dtype may be one of ml_dtypes', which numpy's own types cannot name."""

MAX_DIMENSIONS = 32  # of numpy 1; numpy 2 has 64
MAX_EMPTY = 50_000  # rows of a tensor without elements: they take memory, though no file has to hold them
MAX_ELEMENTS = 2**60  # of one without elements if its axes of length 0 had length 1: numpy's limit for float64
CODES = "it holds codes of a quantisation"
NEAR = 64 * 1024  # ranges closer than this are fetched as one
RUN_LIMIT = 16 * 2**20  # and no merged read grows past this, so that memory follows the largest tensor


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

    `checksum` is the CRC-32C of those bytes where the format keeps one.
    """

    source: Source
    start: int
    stop: int
    place: tuple[slice, ...] | None = None
    guard: Guard | None = None
    checksum: int | None = None


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """A named array that has not been read: type, shape and where its bytes lie.

    `strides` are in elements, None where rows follow each other; `axes` is the permutation that turns what is stored
    into `shape`, None where nothing is turned. A header with a `refusal` is listed, and refused when it is read.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...] = ()
    strides: tuple[int, ...] | None = None
    axes: tuple[int, ...] | None = None
    refusal: str | None = None

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
    def location(self) -> tuple[tuple[str, int, int], ...]:
        """The byte ranges, comparable: two names for the same bytes have the same location."""
        return tuple((piece.source.name, piece.start, piece.stop) for piece in self.pieces)

    def permuted(self, axes: tuple[int, ...]) -> TensorHeader:
        """The same bytes seen with their axes in another order, as `numpy.transpose` has it."""
        stored = self.axes or tuple(range(len(self.shape)))
        return replace(self, shape=tuple(self.shape[a] for a in axes), axes=tuple(stored[a] for a in axes))

    def rows(self, start: int, stop: int) -> TensorHeader:
        """The rows `start` to `stop` of a matrix in one piece, as a header over fewer bytes."""
        if self.refusal is not None:
            return self
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
        last = first + dtype.nbytes(_extent(shape, self.strides))
        return replace(self, shape=shape, pieces=(replace(piece, start=first, stop=last, checksum=None),))


@dataclass(frozen=True, slots=True)
class Index:
    """What a storage finds in one file: the tensors, the file's own notes, and the dictionary key they lay under.

    `models` are other models in the file, by the dotted keys they lay under; `others` are the files that hold the data,
    where they are not in the one with the index. `settings` are the texts of small files that the file carries, each
    under the name it has where it lies beside the weights: config.json, tokenizer.json, vocab.txt.
    """

    headers: tuple[TensorHeader, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)
    wrapper: str = ""
    models: Mapping[str, tuple[TensorHeader, ...]] = field(default_factory=dict)
    others: tuple[Source, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)


def _extent(shape: tuple[int, ...], strides: tuple[int, ...] | None) -> int:
    """How many elements of storage a view of this shape spans."""
    if 0 in shape:
        return 0
    if strides is None:
        return math.prod(shape)
    return 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))


def read_tensors(wanted: Mapping[K, TensorHeader], memory: Memory | None = None) -> Iterator[tuple[K, Array]]:
    """Each array under the key that its header was asked for by, in the order in which they lie in the files.

    The whole wish list is seen before the first byte is read, so that neighbours become one read, and what comes over
    a network is asked for side by side. Arrays lie in `memory`, where some is given. Raises `UnsupportedFile` for a
    header that is refused and `CorruptFile` for bytes that are not what the index promised.
    """
    wanted = dict(wanted)
    for header in wanted.values():
        check_readable(header)
    begun: dict[K, _Whole] = {}
    for run, data in prefetch(_plan(wanted), memory):
        for key, piece, block in run.blocks(data):
            header = wanted[key]
            if len(header.pieces) == 1:
                yield key, _array(header, block)
            elif begun.setdefault(key, _Whole(header)).take(piece, block):
                yield key, begun.pop(key).array
    for key, header in wanted.items():
        if not header.pieces:
            yield key, _Whole(header).array


def read_tensor(header: TensorHeader) -> Array:
    """The array of one header; raises as `read_tensors` does."""
    ((_, array),) = read_tensors({header.name: header})
    return array


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
    largest = math.prod(n or 1 for n in header.shape)
    if header.count == 0 and (header.shape[0] > MAX_EMPTY or largest >= MAX_ELEMENTS):
        raise UnsupportedFile(
            f"tensor {name} has no elements, but the shape {list(header.shape)}",
            "bertprobe inspect --shapes tells its shape",
        )


@dataclass(slots=True)
class _Run(Generic[K]):
    """One read: neighbouring ranges of one source, and the pieces and guards it serves."""

    source: Source
    start: int
    stop: int
    pieces: list[tuple[K, TensorHeader, Piece]]
    guards: list[Guard]

    def blocks(self, data: memoryview) -> Iterator[tuple[K, Piece, memoryview]]:
        """Each piece with its bytes, once everything that can be checked of them is."""
        for guard in self.guards:
            guard.check(bytes(data[guard.start - self.start : guard.stop - self.start]))
        for key, header, piece in self.pieces:
            block = data[piece.start - self.start : piece.stop - self.start]
            _check_sum(header, piece, block)
            yield key, piece, block


def _plan(wanted: Mapping[K, TensorHeader]) -> list[_Run[K]]:
    """The reads that serve every piece of every header, guards among them, in file order."""
    ranges: list[_Range[K]] = []
    files: dict[int, int] = {}  # sources by identity, numbered as they are met: a source has no name to sort by
    guarded: set[int] = set()
    for key, header in wanted.items():
        for piece in header.pieces:
            file = files.setdefault(id(piece.source), len(files))
            ranges.append(_Range(file, piece.start, piece.stop, piece, (key, header)))
            # Pieces may share a guard, as those of one member of a zip do: it is read and checked once.
            if piece.guard is not None and id(piece.guard) not in guarded:
                guarded.add(id(piece.guard))
                ranges.append(_Range(file, piece.guard.start, piece.guard.stop, piece, None))
    runs: list[_Run[K]] = []
    # In file order a range can join only the run before it: where it is near enough, and the run stays in bounds.
    for wish in sorted(ranges, key=lambda wish: (wish.file, wish.start, wish.stop)):
        run = runs[-1] if runs else None
        source = wish.piece.source
        if run is None or run.source is not source or wish.start > run.stop + NEAR or not _fits(run, wish):
            run = _Run(source, wish.start, wish.stop, [], [])
            runs.append(run)
        run.stop = max(run.stop, wish.stop)
        if wish.serves is not None:
            run.pieces.append((*wish.serves, wish.piece))
        elif wish.piece.guard is not None:
            run.guards.append(wish.piece.guard)
    return runs


class _Range(NamedTuple, Generic[K]):
    """Bytes of one file that somebody needs: those of a piece, or, where it `serves` nobody, those of its guard."""

    file: int
    start: int
    stop: int
    piece: Piece
    serves: tuple[K, TensorHeader] | None


def _fits(run: _Run[K], wish: _Range[K]) -> bool:
    """Whether a range may join a run: always when it adds little or overlaps, else up to the limit."""
    overlaps, small = wish.start < run.stop, wish.stop - wish.start <= NEAR
    return overlaps or small or max(run.stop, wish.stop) - run.start <= RUN_LIMIT


def _array(header: TensorHeader, data: memoryview) -> Array:
    import numpy as np

    dtype = numpy_dtype(header.dtype)
    flat = np.frombuffer(data, dtype)
    stored = _stored_shape(header)
    if flat.size != _extent(stored, header.strides):
        raise CorruptFile(
            f"tensor {printable(header.name)} has {len(data):,} bytes, its shape {list(stored)} in {header.dtype} "
            f"needs {_extent(stored, header.strides) * dtype.itemsize:,}",
            "the file is damaged: fetch it again",
        )
    if header.strides is None:
        array = flat.reshape(stored)
    else:
        strides = [step * dtype.itemsize for step in header.strides]
        array = np.ndarray(stored, dtype, data, strides=strides)  # as_strided does not know ml_dtypes' types
    return array if header.axes is None else array.transpose(header.axes)


def _stored_shape(header: TensorHeader) -> tuple[int, ...]:
    if header.axes is None:
        return header.shape
    stored = [0] * len(header.shape)
    for axis, n in zip(header.axes, header.shape, strict=True):
        stored[axis] = n
    return tuple(stored)


class _Whole:
    """A tensor of several pieces while it is put together; one of no piece has no elements."""

    def __init__(self, header: TensorHeader) -> None:
        import numpy as np

        self._header = header
        self._missing = len(header.pieces)
        self._whole = np.zeros(_stored_shape(header), numpy_dtype(header.dtype))

    def take(self, piece: Piece, data: memoryview) -> bool:
        """Puts a block in its place; whether it was the last one."""
        import numpy as np

        block = self._whole[piece.place or ()]
        flat = np.frombuffer(data, self._whole.dtype)
        if flat.size != block.size:
            raise CorruptFile(
                f"a block of tensor {printable(self._header.name)} has {len(data):,} bytes, not {block.nbytes:,}",
                "the file is damaged: fetch it again",
            )
        block[...] = flat.reshape(block.shape)
        self._missing -= 1
        return self._missing == 0

    @property
    def array(self) -> Array:
        return self._whole if self._header.axes is None else self._whole.transpose(self._header.axes)


def checksum(data: bytes | memoryview) -> int:
    """The CRC-32C of some bytes (Castagnoli's polynomial, as TensorFlow takes it)."""
    import crc32c

    return crc32c.crc32c(data)


def _check_sum(header: TensorHeader, piece: Piece, data: memoryview) -> None:
    if piece.checksum is None:
        return
    found = checksum(data)
    if found != piece.checksum:
        raise CorruptFile(
            f"tensor {printable(header.name)} in {piece.source.name} has the checksum {found:08x}, "
            f"its index says {piece.checksum:08x}",
            "its bytes are damaged: fetch the file again",
        )
