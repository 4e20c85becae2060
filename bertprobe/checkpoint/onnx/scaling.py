"""How codes become numbers: (code - zero point) × scale in float32, as ONNX Runtime does, with one scale or several.

Sources: DequantizeLinear in Operators.md of ONNX, MatMulNBits and GatherBlockQuantized in ContribOperators.md of ONNX
Runtime.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from bertprobe.checkpoint.onnx.headers import PACKED, Files, bytes_of, header_of
from bertprobe.checkpoint.onnx.messages import Node, Tensor
from bertprobe.checkpoint.tensors import CODES, Array, Derived, Grid, TensorHeader, numpy_dtype

_BITS = (2, 4, 8)  # that MatMulNBits packs
_FLOATS = ("F32", "F16", "BF16", "F64")
_WORDS = "(code - zero point) × scale"
# Of whole numbers that were rounded to; biases in I32 have far more steps than their largest value asks for.
_GRID_BITS = {"U8": 8, "I8": 8, "UINT4": 4, "INT4": 4, "UINT2": 2, "INT2": 2, "I32": 10}


@dataclass(frozen=True, slots=True)
class Scaling:
    """The scale of a tensor of codes, by the names of tensors; several are multiplied. `zero` is its zero point.

    Scales go along `axis`, one for each `block` of codes there if that is not 0; or they `spread` over the codes as
    numpy has it. `bits` is that of a packing of several codes a byte, whose codes are of so many `rows` and `columns`.
    `unknown` says why the codes cannot be read.
    """

    scales: tuple[str, ...] = ()
    zero: str = ""
    axis: int = 0
    block: int = 0
    spread: bool = False
    bits: int = 0
    rows: int = 0
    columns: int = 0
    gathered: bool = False
    unknown: str = ""

    def along(self, axis: int, block: int = 0) -> Scaling:
        return replace(self, axis=axis, block=block)

    def of_one_number(self) -> Scaling:
        """The same where codes were moved before they are scaled: only one scale for all is then known."""
        return replace(self, axis=10**6)

    @classmethod
    def of_blocks(cls, node: Node) -> Scaling:
        """The scaling of MatMulNBits: blocks along rows of an (out, in) matrix, the first code in the lowest bits."""
        given = node.attributes
        numbers = [given.get(key, default) for key, default in (("K", 0), ("N", 0), ("bits", 4), ("block_size", 0))]
        columns, rows, bits, block = (n if isinstance(n, int) and 0 < n < 2**40 else 0 for n in numbers)
        if not columns * rows * block or bits not in _BITS or block % 8 or len(node.inputs) < 3:
            return cls(unknown="MatMulNBits with odd attributes")
        if len(node.inputs) > 4 and node.inputs[4]:
            return cls(unknown="MatMulNBits with groups in another order")
        zero = node.inputs[3] if len(node.inputs) > 3 else ""
        return cls((node.inputs[2],), zero, block=block, bits=bits, rows=rows, columns=columns)

    @classmethod
    def of_gathered(cls, node: Node) -> Scaling:
        """The scaling of GatherBlockQuantized: blocks along the rows of a table."""
        given = node.attributes
        bits, block = given.get("bits", 4), given.get("block_size", 128)
        if given.get("gather_axis", 0) != 0 or given.get("quantize_axis", 1) not in (1, -1) or len(node.inputs) < 3:
            return cls(unknown="GatherBlockQuantized along another axis")
        if bits not in (4, 8) or not isinstance(block, int) or block < 16 or block % 8:
            return cls(unknown="GatherBlockQuantized with odd attributes")
        zero = node.inputs[3] if len(node.inputs) > 3 else ""
        return cls((node.inputs[2],), zero, block=block, bits=bits, gathered=True)


@dataclass(slots=True)
class Scalings:
    """The scaling of each tensor of codes, by its name; one that has two is read by neither."""

    found: dict[str, Scaling] = field(default_factory=dict)

    def note(self, codes: str, scaling: Scaling) -> None:
        known = self.found.setdefault(codes, scaling)
        if known != scaling and not known.unknown:
            self.found[codes] = Scaling(unknown="two scales for the same codes")

    def renote(self, codes: str, scaling: Scaling) -> None:
        """The scaling of codes whose operator says more of them than was noted."""
        if codes in self.found:
            self.found[codes] = scaling

    @property
    def helpers(self) -> set[str]:
        """The names of scales and zero points."""
        return {name for s in self.found.values() for name in (*s.scales, s.zero) if name}


def scaled(codes: Tensor, scaling: Scaling, tensors: Mapping[str, Tensor], files: Files) -> TensorHeader:
    """The header of the numbers that codes stand for; refused where how they become numbers is not known."""
    if scaling.unknown:
        return refused(codes, scaling.unknown)
    parts = [tensors.get(name) for name in (*scaling.scales, *filter(None, [scaling.zero]))]
    if None in parts:
        return refused(codes, "a scale that is computed")
    known = [part for part in parts if part is not None]
    if scaling.bits and not (scaling.gathered and codes.type in PACKED):
        return _of_blocks(codes, scaling, known, files)
    return _plain(codes, scaling, known, files)


def refused(codes: Tensor, how: str) -> TensorHeader:
    return TensorHeader(codes.name, "I8", tuple(codes.dims), refusal=f"{CODES} ({how}), not the model's numbers")


def _read(tensor: Tensor, files: Files) -> tuple[TensorHeader, Callable[[Array], Array], str]:
    """A tensor's header, what makes numbers of its array, and the name of its type; also of packed types."""
    if tensor.type not in PACKED:
        header = header_of(tensor, files)
        return header, lambda array: array, header.dtype
    name, bits = PACKED[tensor.type]
    shape = tuple(tensor.dims)
    count, signed = math.prod(shape), name.startswith("INT")
    header = bytes_of(tensor, TensorHeader(tensor.name, "U8", shape), files)
    return header, lambda array: _unpacked(array, bits, signed)[:count].reshape(shape), name


def _plain(codes: Tensor, scaling: Scaling, parts: list[Tensor], files: Files) -> TensorHeader:
    """The header where codes, scales and zero points each are a tensor of a shape that tells how they go together."""
    stored, unpack, kind = _read(codes, files)
    shape = tuple(codes.dims)
    others = [_read(part, files) for part in parts]
    fitted = [_fitted(tuple(part.dims), shape, scaling) for part in parts]
    scale = others[0][0]
    known = kind in ("U8", "I8", "U16", "I16", "I32", "UINT4", "INT4", "UINT2", "INT2")
    if not known or scale.dtype not in _FLOATS:
        return refused(codes, f"{kind} by a scale in {scale.dtype}")
    if any(way is None for way in fitted):
        return refused(codes, "scales of another shape")
    if scaling.zero and others[-1][2] != kind:
        return refused(codes, "zero points of another type")
    ways, opens = [way for way in fitted if way is not None], [way for _, way, _ in others]
    has_zero = bool(scaling.zero)

    def make(array: Array, *rest: Array) -> Array:
        import numpy as np

        values = [fit(way(part)) for fit, way, part in zip(ways, opens, rest, strict=True)]
        numbers = unpack(array).astype(np.int64)
        if has_zero:
            numbers = numbers - values.pop().astype(np.int64)
        scale_of = values[0] if len(values) == 1 else values[0].astype(np.float32) * values[1].astype(np.float32)
        return _product(numbers, scale_of, scale.dtype)

    inputs = (stored, *(header for header, _, _ in others))
    made = Derived(inputs, make, _word(kind), _words(kind, parts[0], scaling), _grid(kind, parts[0], shape, scaling))
    return TensorHeader(codes.name, scale.dtype, shape, derived=made)


def _fitted(dims: tuple[int, ...], shape: tuple[int, ...], scaling: Scaling) -> Callable[[Array], Array] | None:
    """What brings scales or zero points of some shape into one that goes with the codes; None where none does."""
    if math.prod(dims) == 1:
        return lambda array: array.reshape(())
    if scaling.spread:
        fits = len(dims) <= len(shape) and all(n in (1, m) for n, m in zip(dims[::-1], shape[::-1], strict=False))
        return (lambda array: array) if fits else None
    axis = scaling.axis + len(shape) if scaling.axis < 0 else scaling.axis
    if not 0 <= axis < len(shape):
        return None
    if scaling.block:
        n, size = -(-shape[axis] // scaling.block), shape[axis]
        if dims != (*shape[:axis], n, *shape[axis + 1 :]):
            return None
        return lambda array: array.repeat(scaling.block, axis=axis).take(range(size), axis=axis)
    if dims != (shape[axis],):
        return None
    return lambda array: array.reshape([-1 if place == axis else 1 for place in range(len(shape))])


def _grid(kind: str, scale: Tensor, shape: tuple[int, ...], scaling: Scaling) -> Grid | None:
    """What the numbers of a matrix, or of a vector as one row, were rounded to; None where that is not told."""
    bits = _GRID_BITS.get(kind)
    if bits is None or len(shape) > 2 or len(scaling.scales) > 1:
        return None
    if math.prod(scale.dims) == 1 or len(shape) < 2:
        return Grid(bits, (0, 0))
    if scaling.axis + 2 * (scaling.axis < 0) not in (0, 1):
        return None
    along = scaling.axis % 2 if not scaling.spread else int(scale.dims[-1] != 1)  # the axis that scales differ along
    if scaling.block:
        return Grid(bits, (1, scaling.block) if along else (scaling.block, 1))
    return Grid(bits, (0, 1) if along else (1, 0))


def _product(numbers: Array, scale: Array, dtype: str) -> Array:
    """Whole numbers times their scale, in float32 and in the scale's type."""
    import numpy as np

    kind = np.float64 if dtype == "F64" else np.float32
    return (numbers.astype(kind) * scale.astype(kind)).astype(numpy_dtype(dtype))


def _word(kind: str) -> str:
    return {"U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "I32": "int32"}.get(kind, kind.lower())


def _words(kind: str, scale: Tensor, scaling: Scaling) -> str:
    """In words how numbers are made of codes."""
    many = math.prod(scale.dims) > 1
    parts = f"a block of {scaling.block}" if scaling.block else "a row or column" if many else "a tensor"
    return f"{_WORDS}, {_word(kind)} with one scale for {parts}"


# ------------------------------------------------------------------------------------------------ blocks


def _of_blocks(codes: Tensor, scaling: Scaling, parts: list[Tensor], files: Files) -> TensorHeader:
    """The header of a matrix of packed codes, so many rows of whole blocks, each with its scale and zero point."""
    rows, columns = scaling.rows, scaling.columns
    if scaling.gathered:
        if len(codes.dims) != 2 or codes.type != 2:
            return refused(codes, "GatherBlockQuantized of another type or shape")
        rows, columns = codes.dims[0], codes.dims[1] * 8 // scaling.bits
    blocks = -(-columns // scaling.block)
    packed, scale = header_of(codes, files), header_of(parts[0], files)
    zero = header_of(parts[1], files) if scaling.zero else None
    row_bytes = columns * scaling.bits // 8 if scaling.gathered else blocks * scaling.block * scaling.bits // 8
    zero_bytes = -(-blocks * scaling.bits // 8)
    if packed.dtype != "U8" or packed.count != rows * row_bytes or scale.count != rows * blocks:
        return refused(codes, "packed codes of another size than their matrix")
    if scale.dtype not in _FLOATS[:3]:
        return refused(codes, f"packed codes by a scale in {scale.dtype}")
    floating = zero is not None and zero.dtype == scale.dtype and zero.count == rows * blocks
    if zero is not None and not floating and (zero.dtype != "U8" or zero.count != rows * zero_bytes):
        return refused(codes, "zero points of another size")
    bits, block = scaling.bits, scaling.block
    middle = 1 << (bits - 1)

    def make(array: Array, scales: Array, *zeros: Array) -> Array:
        import numpy as np

        numbers = _unpacked(array.reshape(rows, -1), bits, False).astype(np.float32)
        zero_of: Array = np.float32(middle)
        if zeros and floating:
            zero_of = zeros[0].reshape(rows, blocks).astype(np.float32).repeat(block, 1)[:, :columns]
        elif zeros:
            points = _unpacked(zeros[0].reshape(rows, -1), bits, False)[:, :blocks]
            zero_of = points.astype(np.float32).repeat(block, 1)[:, :columns]
        scale_of = scales.reshape(rows, blocks).astype(np.float32).repeat(block, 1)[:, :columns]
        return ((numbers[:, :columns] - zero_of) * scale_of).astype(numpy_dtype(scale.dtype))

    inputs = (packed, scale) if zero is None else (packed, scale, zero)
    words = f"{_WORDS}, {bits} bits with one scale for a block of {block}"
    made = Derived(inputs, make, f"int{bits}", words, Grid(bits, (1, block)))
    return TensorHeader(codes.name, scale.dtype, (rows, columns), derived=made)


def _unpacked(array: Array, bits: int, signed: bool) -> Array:
    """Codes of fewer than 8 bits, the first in the lowest bits of a byte, along the last axis."""
    import numpy as np

    if bits == 8:
        return array
    places = np.arange(0, 8, bits, dtype=np.uint8)
    codes = ((array[..., None] >> places) & np.uint8((1 << bits) - 1)).reshape(*array.shape[:-1], -1)
    if not signed:
        return codes
    low = codes.astype(np.int8)
    return np.where(low >= 1 << (bits - 1), low - np.int8(1 << bits), low)
