"""Arrays in a page: of each the smallest type that holds it, deflated, as text that a script unpacks when asked."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

KINDS = {"u1": "uint8", "i1": "int8", "u2": "uint16", "i2": "int16", "u4": "uint32", "i4": "int32", "f4": "float32"}
FRACTION = 23  # bits behind the point of a float32


class Chunk(NamedTuple):
    """Packed arrays: `directory` has of each name, type and shape, `text` is base64 of the deflated bytes."""

    directory: list[tuple[str, str, list[int]]]
    text: str


def pack(arrays: Mapping[str, Array]) -> Chunk:
    """Packs arrays of integers or floats, which become float32; raises `OverflowError` for integers beyond 32 bits.

    Of types of several bytes the first bytes of all numbers lie together, then the second: deflate makes more of it.
    """
    import numpy as np

    directory, pieces = [], []
    for name, array in arrays.items():
        kind = kind_of(array)
        found = np.ascontiguousarray(array, dtype=np.dtype(KINDS[kind]).newbyteorder("<"))
        planes = found.reshape(-1).view(np.uint8).reshape(-1, found.itemsize).T
        directory.append((name, kind, list(array.shape)))
        pieces.append(planes.tobytes())
    return Chunk(directory, base64.b64encode(zlib.compress(b"".join(pieces), 9)).decode())


def unpack(chunk: Chunk) -> dict[str, Array]:
    """The arrays of a chunk."""
    import numpy as np

    data, start, found = zlib.decompress(base64.b64decode(chunk.text)), 0, {}
    for name, kind, shape in chunk.directory:
        dtype = np.dtype(KINDS[kind])
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        planes = np.frombuffer(data, np.uint8, size, start).reshape(dtype.itemsize, -1)
        found[name] = np.ascontiguousarray(planes.T).view(dtype.newbyteorder("<")).astype(dtype).reshape(shape)
        start += size
    return found


def kind_of(array: Array) -> str:
    """The smallest type that holds an array."""
    import numpy as np

    if array.dtype.kind == "f":
        return "f4"
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    for kind, dtype in KINDS.items():
        if kind != "f4" and np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return kind
    raise OverflowError(f"{low} to {high} is more than 32 bits hold")


def rounded(values: Array, bits: int) -> Array:
    """Values as float32 with so many bits behind the point, to nearest, ties to even: off by 2^-(bits + 1) at most."""
    import numpy as np

    dropped = FRACTION - bits
    raw = np.ascontiguousarray(values, np.float32).view(np.uint32)
    half = np.uint32((1 << (dropped - 1)) - 1) + ((raw >> np.uint32(dropped)) & np.uint32(1))
    kept = (raw + half) & np.uint32(~((1 << dropped) - 1) & 0xFFFFFFFF)
    # What is not finite stays; so does what would become infinite.
    return np.where(np.isfinite(kept.view(np.float32)) & np.isfinite(values), kept, raw).view(np.float32)
