"""Flax's files, written by the msgpack library as `flax.serialization` has it, and names in Flax's spelling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

CHUNK = 2**30  # bytes of an array beyond which flax has it lie in chunks


def packed_array(array: Any) -> bytes:
    """What is in an extension: shape, the type's name and the bytes."""
    packed: bytes = msgpack.packb((array.shape, array.dtype.name, array.tobytes("C")), use_bin_type=True)
    return packed


def _extension(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return msgpack.ExtType(1, packed_array(value))
    if isinstance(value, np.generic):
        return msgpack.ExtType(3, packed_array(np.asarray(value)))
    if isinstance(value, complex):
        return msgpack.ExtType(2, msgpack.packb((value.real, value.imag)))
    raise TypeError(type(value))


def _chunked(tree: Any, most: int) -> Any:
    """The tree with large arrays in chunks of their numbers one after the other."""
    if isinstance(tree, Mapping):
        return {key: _chunked(value, most) for key, value in tree.items()}
    if not isinstance(tree, np.ndarray) or tree.nbytes <= most:
        return tree
    flat, step = tree.reshape(-1), max(1, most // tree.dtype.itemsize)
    chunks = [flat[start : start + step] for start in range(0, flat.size, step)]
    numbered = lambda values: {str(place): value for place, value in enumerate(values)}  # noqa: E731
    return {"__msgpack_chunked_array__": True, "shape": numbered(tree.shape), "chunks": numbered(chunks)}


def to_bytes(tree: Any, chunk: int = CHUNK) -> bytes:
    """A file of a tree of maps and arrays."""
    packed: bytes = msgpack.packb(_chunked(tree, chunk), default=_extension, strict_types=True)
    return packed


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Maps in maps, of names with slashes."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *way, leaf = name.split("/")
        here = tree
        for word in way:
            here = here.setdefault(word, {})
        here[leaf] = value
    return tree


def flattened(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Names with slashes, of maps in maps."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flattened(value, f"{above}{key}/") if isinstance(value, Mapping) else {above + key: value}
    return found


def as_flax(state: Mapping[str, Any], separator: str = "/") -> dict[str, Any]:
    """A PyTorch model's tensors under the names that Flax's modules give them, kernels (in, out)."""
    found = {}
    for name, array in state.items():
        *way, leaf = name.split(".")
        if leaf == "weight" and "embeddings" in way[-1]:
            leaf = "embedding"
        elif leaf == "weight" and array.ndim == 1:
            leaf = "scale"
        elif leaf == "weight":
            leaf, array = "kernel", np.ascontiguousarray(array.T)
        found[separator.join([*way, leaf])] = array
    return found
