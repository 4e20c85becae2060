"""The index of a GGUF file: headers over the byte ranges that its own header tells, once they are held against it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from bertprobe.checkpoint.gguf.blocks import KINDS, Kind, maker
from bertprobe.checkpoint.gguf.header import DAMAGED, Header, TensorInfo, read
from bertprobe.checkpoint.gguf.settings import carried
from bertprobe.checkpoint.source import Source
from bertprobe.checkpoint.tensors import Derived, Index, Piece, TensorHeader
from bertprobe.errors import CorruptFile, EndsEarly, printable

SHOWN = 100  # characters of a name that a message shows
CUT_OFF = "the file ends before it does"
_FUSED = "attn_qkv"
_THIRDS = ("attn_q", "attn_k", "attn_v")


def index(source: Source) -> Index:
    """The headers of every tensor, in file order; raises `CorruptFile` or `UnsupportedFile`."""
    found, end = _indexed(source)
    if end > source.size and found.headers:  # a vocabulary alone is not filled up to where data would begin
        raise EndsEarly(_ends_early(source, end), DAMAGED)
    return found


def what_is_left(source: Source) -> Index:
    """The same of a file that ends before its data do: what does not lie in it whole is listed, and refused."""
    found, end = _indexed(source)
    beyond = [header.name for header in found.headers if _is_cut(source, header)]
    if not beyond:
        return found
    headers = (replace(each, refusal=CUT_OFF) if _is_cut(source, each) else each for each in found.headers)
    told = (
        f"{_ends_early(source, end)}: {len(beyond):,} of {len(found.headers):,} tensors, "
        f"from {printable(beyond[0][:SHOWN])} on, are not there whole"
    )
    return replace(found, headers=tuple(headers), truncated=told)


def _is_cut(source: Source, header: TensorHeader) -> bool:
    return any(piece.stop > source.size for piece in header.all_pieces)


def _ends_early(source: Source, end: int) -> str:
    return f"{source.name} should have {end:,} bytes by its header, it has {source.size:,}"


def _indexed(source: Source) -> tuple[Index, int]:
    """The index, and where the last tensor ends by it."""
    header = read(source)
    ends = [_extent(source, header, info) for info in header.tensors]
    end = header.data_start + _check_places(source, header, ends)
    found = carried(source, header)
    headers = [
        part
        for info, stop in zip(header.tensors, ends, strict=True)
        for part in _parted(source, header, info, stop, apart=found.parted)
    ]
    headers = [replace(each, refusal=found.refused.get(each.name, each.refusal)) for each in headers]
    return Index(tuple(headers), metadata=found.notes, settings=found.settings, remarks=found.remarks), end


def _shown(source: Source, info: TensorInfo) -> str:
    return f"tensor {printable(info.name[:SHOWN])} in {source.name}"


def _extent(source: Source, header: Header, info: TensorInfo) -> int:
    """Where the bytes of a tensor end, from where data begin; where they start, for a type that is not known."""
    shown = _shown(source, info)
    if math.prod(n or 1 for n in info.dimensions) >= 2**63:
        raise CorruptFile(f"{shown} has a shape whose product is beyond 2^63", DAMAGED)
    if info.offset % header.alignment:
        raise CorruptFile(f"{shown} begins at {info.offset:,}, no multiple of {header.alignment}", DAMAGED)
    kind = KINDS.get(info.kind)
    if kind is None:
        return info.offset
    columns = info.dimensions[0] if info.dimensions else 1
    if columns % kind.items:
        raise CorruptFile(
            f"{shown} has rows of {columns:,} weights, no multiple of the {kind.items} in a block of {kind.name}",
            DAMAGED,
        )
    return info.offset + math.prod(info.dimensions) // kind.items * kind.bytes


def _check_places(source: Source, header: Header, ends: Sequence[int]) -> int:
    """Where the last tensor ends, from where data begin, once none lies over another."""
    end = 0
    for start, stop, info in sorted(
        ((info.offset, stop, info) for info, stop in zip(header.tensors, ends, strict=True)), key=lambda row: row[:2]
    ):
        if start < end:
            raise CorruptFile(f"{_shown(source, info)} overlaps the tensor before it", DAMAGED)
        end = stop
    return end


def _parted(source: Source, header: Header, info: TensorInfo, stop: int, *, apart: bool) -> Iterator[TensorHeader]:
    """The header of a tensor; of queries, keys and values in one, as some converters put them, one of each."""
    start = header.data_start
    whole = _tensor(source, info, start + info.offset, start + stop)
    rows = info.dimensions[-1] if info.dimensions else 0
    block, _, rest = info.name.partition(_FUSED)
    if not (apart and block and rest in (".weight", ".bias") and rows % 3 == 0 and info.kind in KINDS):
        yield whole
        return
    third, size = rows // 3, (stop - info.offset) // 3
    if whole.refusal is None and len(info.dimensions) == 1 and KINDS[info.kind].items > 1:
        yield whole  # amid a block
        return
    for place, name in enumerate(_THIRDS):
        first = start + info.offset + place * size
        part = info._replace(name=f"{block}{name}{rest}", dimensions=(*info.dimensions[:-1], third))
        yield _tensor(source, part, first, first + size)


def _tensor(source: Source, info: TensorInfo, start: int, stop: int) -> TensorHeader:
    """The header of a tensor by the range of its bytes; the shape has the last axis last, as numpy has it."""
    shape = info.dimensions[::-1]
    kind = KINDS.get(info.kind)
    if kind is None:
        return TensorHeader(
            info.name, "?", shape, refusal=f"its type has the number {info.kind} in ggml, which is not known here"
        )
    if kind.refusal is not None:
        return TensorHeader(info.name, "?", shape, refusal=kind.refusal)
    piece = Piece(source, start, stop)
    if kind.dtype:
        return TensorHeader(info.name, kind.dtype, shape, (piece,))
    return _of_blocks(info, shape, kind, piece)


def _of_blocks(info: TensorInfo, shape: tuple[int, ...], kind: Kind, piece: Piece) -> TensorHeader:
    row = (shape[-1] if shape else 1) // kind.items * kind.bytes
    blocks = TensorHeader(info.name, "U8", (*shape[:-1], row), (piece,))
    made = Derived((blocks,), maker(info.kind, info.name), kind.name, f"blocks of {kind.name}", kind.grid)
    return TensorHeader(info.name, "F32", shape, derived=made)
