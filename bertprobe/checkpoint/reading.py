"""The one function that reads tensors, whatever the format: it sees all wishes, then reads as little as serves them."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from bertprobe.checkpoint.prefetch import prefetch
from bertprobe.checkpoint.source import Memory, Source
from bertprobe.checkpoint.tensors import (
    Array,
    Guard,
    Piece,
    TensorHeader,
    check_readable,
    checksum,
    extent,
    numpy_dtype,
)
from bertprobe.errors import CorruptFile, printable

K = TypeVar("K", bound=Hashable)
"""What a caller knows a tensor by."""

NEAR = 64 * 1024  # ranges closer than this are fetched as one
RUN_LIMIT = 16 * 2**20  # and no merged read grows past this, so that memory follows the largest tensor


def read_tensors(wanted: Mapping[K, TensorHeader], memory: Memory | None = None) -> Iterator[tuple[K, Array]]:
    """Each array under the key that its header was asked for by, in the order in which they lie in the files.

    The whole wish list is seen before the first byte is read, so that neighbours become one read, and what comes over
    a network is asked for side by side. Arrays lie in `memory`, where some is given. Raises `UnsupportedFile` for a
    header that is refused and `CorruptFile` for bytes that are not what the index promised.
    """
    wanted = dict(wanted)
    for header in wanted.values():
        check_readable(header)
    if all(header.derived is None for header in wanted.values()):
        yield from _read_plain(wanted, memory)
        return
    # What a tensor is made of is read under its own key and the place of each input, and waits for the others.
    leaves = {(key, way): leaf for key, header in wanted.items() for way, leaf in _leaves(header)}
    missing = {key: sum(1 for _ in _leaves(header)) for key, header in wanted.items()}
    for key in [key for key, count in missing.items() if not count]:
        yield key, _made(wanted[key], {})
    waiting: dict[K, dict[tuple[int, ...], Array]] = {}
    for (key, way), array in _read_plain(leaves, memory):
        arrays = waiting.setdefault(key, {})
        arrays[way] = array
        if len(arrays) == missing[key]:
            yield key, _made(wanted[key], waiting.pop(key))


def _leaves(header: TensorHeader, way: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], TensorHeader]]:
    """The headers of bytes in the file that a tensor is made of, each with the places that lead to it."""
    if header.derived is None:
        yield way, header
        return
    for place, part in enumerate(header.derived.inputs):
        yield from _leaves(part, (*way, place))


def _made(header: TensorHeader, arrays: Mapping[tuple[int, ...], Array], way: tuple[int, ...] = ()) -> Array:
    """The array of a header, of those of its leaves."""
    if header.derived is None:
        return arrays[way]
    inputs = [_made(part, arrays, (*way, place)) for place, part in enumerate(header.derived.inputs)]
    made = header.derived.make(*inputs)
    if made.shape != header.stored_shape or made.dtype != numpy_dtype(header.dtype):
        raise CorruptFile(
            f"tensor {printable(header.name)} comes to {list(made.shape)} in {made.dtype}, "
            f"not {list(header.stored_shape)} in {header.dtype}",
            "the file is damaged: fetch it again",
        )
    return made if header.axes is None else made.transpose(header.axes)


def _read_plain(wanted: Mapping[K, TensorHeader], memory: Memory | None) -> Iterator[tuple[K, Array]]:
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
    stored = header.stored_shape
    if flat.size != extent(stored, header.strides):
        raise CorruptFile(
            f"tensor {printable(header.name)} has {len(data):,} bytes, its shape {list(stored)} in {header.dtype} "
            f"needs {extent(stored, header.strides) * dtype.itemsize:,}",
            "the file is damaged: fetch it again",
        )
    if header.strides is None:
        array = flat.reshape(stored)
    else:
        strides = [step * dtype.itemsize for step in header.strides]
        array = np.ndarray(stored, dtype, data, strides=strides)  # as_strided does not know ml_dtypes' types
    return array if header.axes is None else array.transpose(header.axes)


class _Whole:
    """A tensor of several pieces while it is put together; one of no piece has no elements."""

    def __init__(self, header: TensorHeader) -> None:
        import numpy as np

        self._header = header
        self._missing = len(header.pieces)
        self._whole = np.zeros(header.stored_shape, numpy_dtype(header.dtype))

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


def _check_sum(header: TensorHeader, piece: Piece, data: memoryview) -> None:
    for found, expected in _sums(piece, data):
        if found != expected:
            raise CorruptFile(
                f"tensor {printable(header.name)} in {piece.source.name} has the checksum {found:08x}, "
                f"its index says {expected:08x}",
                "its bytes are damaged: fetch the file again",
            )


def _sums(piece: Piece, data: memoryview) -> Iterator[tuple[int, int]]:
    """The checksums of a piece's bytes, each as it is and as it should be."""
    if piece.checksum is not None:
        yield checksum(data), piece.checksum
    if piece.crc is not None:
        import zlib

        before, expected = piece.crc
        yield zlib.crc32(data, before), expected
