"""A tensor's message → its header: the type, the shape, and where its bytes lie, here or in a file beside the model.

Source: TensorProto in onnx.proto, ExternalData.md of ONNX.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from bertprobe.checkpoint.onnx.messages import TEXTS, Tensor
from bertprobe.checkpoint.source import LocalFile, Source
from bertprobe.checkpoint.tensors import MAX_DIMENSIONS, Array, Derived, Piece, TensorHeader, numpy_dtype
from bertprobe.checkpoint.wire import Broken, raw_fields
from bertprobe.errors import CorruptFile, NotFound, UnsupportedFile, printable, quoted

SHOWN = 100  # characters of a name that a message shows
DAMAGED = "fetch it again, or export it anew"

TYPES = {
    1: "F32",
    2: "U8",
    3: "I8",
    4: "U16",
    5: "I16",
    6: "I32",
    7: "I64",
    9: "BOOL",
    10: "F16",
    11: "F64",
    12: "U32",
    13: "U64",
    14: "C64",
    16: "BF16",
    17: "F8_E4M3",
    18: "F8_E4M3FNUZ",
    19: "F8_E5M2",
    20: "F8_E5M2FNUZ",
    24: "F8_E8M0",
}
PACKED = {21: ("UINT4", 4), 22: ("INT4", 4), 23: ("FLOAT4E2M1", 4), 25: ("UINT2", 2), 26: ("INT2", 2)}
NAMED = {8: "STRING", 15: "COMPLEX128"}
# The fields that numbers of a type lie in where they are not raw: float_data, int32_data, int64_data, …
_FIELDS = {1: 4, 14: 4, 7: 7, 11: 10, 12: 11, 13: 11}
_INT32 = 5
_VARINTS = (_INT32, 7, 11)
_NUMBERS = (4, _INT32, 7, 10, 11)


class Files:
    """The files beside a model that hold tensors' numbers, each opened when a first tensor lies in it."""

    def __init__(self, source: Source) -> None:
        self.model = source
        self._opened: dict[str, Source] = {}

    @property
    def opened(self) -> tuple[Source, ...]:
        return tuple(self._opened.values())

    def of(self, place: str, tensor: str) -> Source:
        """A file by the path that a tensor names.

        Raises `CorruptFile` for a path that leads out of the model's folder, `NotFound` where there is no such file.
        """
        words = place.split("/")
        if not place or {"", ".", ".."} & set(words) or re.search(r"[\\:\0]", place):
            raise self._astray(place, tensor, "is no path within the model's folder")
        if place not in self._opened:
            try:
                found = self.model.sibling(place)
            except NotFound as error:
                raise NotFound(
                    f"{printable(place)} is missing, which holds tensors of {self.model.address}",
                    "fetch it, and put it beside the model",
                ) from error
            if isinstance(found, LocalFile) and isinstance(self.model, LocalFile) and not _within(self.model, found):
                raise self._astray(place, tensor, "is a link that leads out of the model's folder")
            self._opened[place] = found
        return self._opened[place]

    def _astray(self, place: str, tensor: str, how: str) -> CorruptFile:
        return CorruptFile(
            f"tensor {shown(tensor)} of {self.model.address} should lie in {quoted(place)}, which {how}",
            "a model may only name files beside it: do not trust this one",
        )


def _within(model: LocalFile, file: LocalFile) -> bool:
    """Whether a file lies in the model's folder, links followed, or in the Hub's cache where that folder is of it."""
    folder, found = model.path.parent.resolve(), file.path.resolve()
    if found.is_relative_to(folder):
        return True
    cache = next((above.parent for above in folder.parents if above.name == "snapshots"), None)
    return cache is not None and found.parent == cache / "blobs"


def shown(name: str) -> str:
    """A tensor's name as a message shows it."""
    return printable(name[:SHOWN])


def header_of(tensor: Tensor, files: Files) -> TensorHeader:
    """The header of a tensor; what cannot be read of it is its refusal.

    Raises `Broken` where it contradicts itself or the file, and as `Files.of` does.
    """
    shape = _shape(tensor)
    if tensor.type in PACKED or tensor.type in NAMED or tensor.type not in TYPES:
        name = PACKED.get(tensor.type, (NAMED.get(tensor.type, f"type {tensor.type}"), 0))[0]
        header = TensorHeader(tensor.name, f"ONNX's {name}", shape)
        return replace(header, refusal=f"ONNX's {name} is no plain array")
    header = TensorHeader(tensor.name, TYPES[tensor.type], shape)
    if tensor.in_segments:
        return replace(header, refusal="it lies in segments, which no tool writes")
    ways = [tensor.is_external, tensor.raw is not None, tensor.typed is not None or tensor.is_loose]
    if sum(ways) > 1:
        raise Broken(f"tensor {shown(tensor.name)} has its numbers in two places")
    if tensor.is_external:
        return replace(header, pieces=(_external(tensor, header, files),))
    if tensor.raw is not None:
        start, stop = tensor.raw
        _check_size(tensor, header, stop - start)
        return replace(header, pieces=(Piece(files.model, start, stop),))
    if any(ways) and tensor.typed is not None and not tensor.is_loose:
        return _typed(tensor, header, files.model)
    if any(ways):
        return _loose(tensor, header, files.model)
    if header.count and tensor.small is None:
        raise Broken(f"tensor {shown(tensor.name)} has no numbers, its shape {list(shape)} needs {header.count:,}")
    return header if not header.count else replace(header, refusal="it is a constant of the graph")


def bytes_of(tensor: Tensor, header: TensorHeader, files: Files) -> TensorHeader:
    """The bytes of a tensor of a packed type, two or more numbers a byte, as a header of their own."""
    name, bits = PACKED[tensor.type]
    size = -(-header.count * bits // 8)
    plain = TensorHeader(tensor.name, "U8", (size,))
    if tensor.is_external:
        return replace(plain, pieces=(_external(tensor, plain, files),))
    if tensor.raw is None:
        return replace(plain, refusal=f"ONNX's {name} is read only where its bytes stand as they are")
    _check_size(tensor, plain, tensor.raw[1] - tensor.raw[0])
    return replace(plain, pieces=(Piece(files.model, *tensor.raw),))


def _shape(tensor: Tensor) -> tuple[int, ...]:
    if any(n < 0 for n in tensor.dims):
        raise Broken(f"tensor {shown(tensor.name)} has a negative dimension")
    if len(tensor.dims) > MAX_DIMENSIONS:
        raise UnsupportedFile(
            f"tensor {shown(tensor.name)} has {len(tensor.dims):,} dimensions",
            f"no array here can have over {MAX_DIMENSIONS}",
        )
    return tuple(tensor.dims)


def _check_size(tensor: Tensor, header: TensorHeader, size: int) -> None:
    if size != header.nbytes:
        raise Broken(
            f"the shape {list(header.shape)} of tensor {shown(tensor.name)} in {header.dtype} needs "
            f"{header.nbytes:,} bytes, it has {size:,}"
        )


def _external(tensor: Tensor, header: TensorHeader, files: Files) -> Piece:
    """Where the bytes lie that a tensor has in another file, once that file has as many."""
    place = tensor.place.get("location", "")
    file = files.of(place, tensor.name)
    start = _whole(tensor, "offset", 0)
    size = _whole(tensor, "length", header.nbytes)
    _check_size(tensor, header, size)
    if start + size > file.size:
        raise CorruptFile(
            f"tensor {shown(tensor.name)} should lie at bytes {start:,} to {start + size:,} of {printable(place)}, "
            f"which has {file.size:,}",
            "the file was cut short, or is of another model: fetch it again",
        )
    return Piece(file, start, start + size)


def _whole(tensor: Tensor, key: str, default: int) -> int:
    text = tensor.place.get(key)
    if text is None:
        return default
    if not re.fullmatch("[0-9]{1,18}", text):
        raise Broken(f"tensor {shown(tensor.name)} has the {key} {quoted(text)}")
    return int(text)


# ------------------------------------------------------------------------------------------------ typed


def _typed(tensor: Tensor, header: TensorHeader, source: Source) -> TensorHeader:
    """The header of a tensor whose numbers stand packed in a field of their type."""
    number, (start, stop) = tensor.typed or (0, (0, 0))
    _check_field(tensor, number)
    if number not in _VARINTS:
        _check_size(tensor, header, stop - start)
        return replace(header, pieces=(Piece(source, start, stop),))
    return _made(header, _bytes(tensor, source, start, stop), lambda data: _varints(data, tensor, header))


def _loose(tensor: Tensor, header: TensorHeader, source: Source) -> TensorHeader:
    """The same where each stands in a field of its own, or several packed fields follow each other."""
    return _made(header, _bytes(tensor, source, *tensor.whole), lambda data: _gathered(data, tensor, header))


def _made(header: TensorHeader, data: TensorHeader, make: Callable[..., Array]) -> TensorHeader:
    return replace(header, derived=Derived((data,), make, header.dtype))


def _bytes(tensor: Tensor, source: Source, start: int, stop: int) -> TensorHeader:
    return TensorHeader(tensor.name, "U8", (stop - start,), (Piece(source, start, stop),))


def _check_field(tensor: Tensor, number: int) -> None:
    if number == TEXTS or number != _FIELDS.get(tensor.type, _INT32):
        raise Broken(f"tensor {shown(tensor.name)} has its numbers in the field of another type")


def _varints(data: Array, tensor: Tensor, header: TensorHeader) -> Array:
    """Whole numbers that each take as many bytes as they need, the last of which is below 128."""
    import numpy as np

    ends = np.flatnonzero(data < 128)
    if ends.size != header.count or (data.size and ends[-1] != data.size - 1):
        raise _miscounted(tensor, header, ends.size)
    starts = np.concatenate([[0], ends[:-1] + 1]) if ends.size else ends
    if ends.size and int((ends - starts).max()) > 9:
        raise CorruptFile(f"tensor {shown(tensor.name)} has a number without end", DAMAGED)
    values = np.zeros(ends.size, np.uint64)
    for place in range(10):
        at = starts + place
        inside = at <= ends
        if not inside.any():
            break
        values[inside] |= (data[at[inside]].astype(np.uint64) & np.uint64(127)) << np.uint64(7 * place)
    return _as_type(values, tensor, header)


def _as_type(values: Array, tensor: Tensor, header: TensorHeader) -> Array:
    """Whole numbers as the type has them: those of 16-bit floats and of fewer bits are their bit patterns."""
    import numpy as np

    dtype = numpy_dtype(header.dtype)
    if dtype.kind in "iub":
        return values.astype(np.int64).astype(dtype).reshape(header.shape)
    return values.astype(f"u{dtype.itemsize}").view(dtype).reshape(header.shape)


def _gathered(data: Array, tensor: Tensor, header: TensorHeader) -> Array:
    """Numbers that stand one by one among the fields of their tensor."""
    import numpy as np

    fixed: list[bytes] = []
    whole: list[bytes] = []
    try:
        for number, found in raw_fields(data.tobytes()):
            if number in _NUMBERS:
                if number != _FIELDS.get(tensor.type, _INT32):
                    raise Broken("its numbers stand in the field of another type")
                (whole if number in _VARINTS else fixed).append(found)
    except Broken as error:
        raise CorruptFile(f"tensor {shown(tensor.name)} is damaged: {error}", DAMAGED) from error
    if whole:
        return _varints(np.frombuffer(b"".join(whole), np.uint8), tensor, header)
    flat = np.frombuffer(b"".join(fixed), numpy_dtype(header.dtype))
    if flat.size != header.count:
        raise _miscounted(tensor, header, flat.size)
    return flat.reshape(header.shape)


def _miscounted(tensor: Tensor, header: TensorHeader, found: int) -> CorruptFile:
    return CorruptFile(
        f"tensor {shown(tensor.name)} has {found:,} numbers, its shape {list(header.shape)} needs {header.count:,}",
        DAMAGED,
    )
