"""The copy of a tensor in the order of neurons, (d, rows): what one neuron was over a corpus lies in one stretch.

It is a file of its own beside the shards, and holds only while these are the ones that it was made from.
Letters: d columns of a tensor.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertprobe._version import __version__
from bertprobe.checkpoint import LocalFile
from bertprobe.checkpoint.tensors import numpy_dtype
from bertprobe.errors import CorruptFile, printable
from bertprobe.export.tensors import safetensors_header
from bertprobe.extract.rows import STORED, Tensor
from bertprobe.extract.shard import WRITTEN_AS, names_of
from bertprobe.storages import storage_called

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[Any]

KEY = "by_neuron"
"""Under which the manifest has the copies, by the tensor's name."""


def file_of(name: str) -> str:
    """What the file of a tensor's copy is called: `by-neuron.intermediate.3.safetensors`."""
    return f"by-neuron.{re.sub(r'[^A-Za-z0-9_.]+', '-', name).strip('-')}.{WRITTEN_AS}"


def source_of(manifest: Mapping[str, Any]) -> str:
    """The hash of what a copy is made from: of the hashes of all shards that are done, in their order."""
    found = hashlib.sha256()
    for shard in manifest["shards"]:
        if shard["done"] is not None:
            found.update(shard["done"]["files"][names_of(shard["number"])[0]]["sha256"].encode() + b"\n")
    return found.hexdigest()


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a copy lies in its file: the `header`, at which byte (d, rows) begins, and how long the file is."""

    header: bytes
    start: int
    size: int

    @classmethod
    def of(cls, tensor: Tensor, rows: int) -> Layout:
        entry = (tensor.name, STORED[tensor.dtype], (tensor.width, rows), rows * tensor.row_bytes)
        notes = {"format": "pt", "bertprobe_version": __version__, "order": "neurons"}
        header, (start, size) = safetensors_header([entry], notes)
        return cls(header, start, size)


def noted(manifest: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """What the manifest says of a tensor's copy; None where there is none, or shards have changed since."""
    entry: Mapping[str, Any] | None = manifest.get(KEY, {}).get(name)
    return entry if entry is not None and entry["of"] == source_of(manifest) else None


def opened(folder: Path, manifest: Mapping[str, Any], tensor: Tensor, rows: int) -> Array | None:
    """A tensor's copy, (d, rows), mapped; None where the shards have to be read, as no copy of them is there.

    Raises `CorruptFile` for a file that is not as the manifest says.
    """
    entry = noted(manifest, tensor.name)
    path = folder / file_of(tensor.name)
    if entry is None or not path.is_file():
        return None
    shape = (tensor.width, rows)
    headers = storage_called(WRITTEN_AS).reader().index(LocalFile(path)).headers
    found = [(header.name, header.shape, header.dtype) for header in headers]
    if path.stat().st_size != entry["bytes"] or found != [(tensor.name, shape, STORED[tensor.dtype])]:
        raise CorruptFile(
            f"{printable(str(path))} is not as the manifest says",
            "delete it, and the shards are read; `order=neurons` writes it again",
        )
    return mapped(path, tensor, headers[0].pieces[0].start, shape)


def mapped(path: Path, tensor: Tensor, start: int, shape: tuple[int, int]) -> Array:
    """An array of a tensor's dtype in a file, from a byte on, without reading it."""
    import numpy as np

    dtype: np.dtype[Any] = numpy_dtype(STORED[tensor.dtype])
    return np.memmap(path, dtype, "r", start, shape) if all(shape) else np.zeros(shape, dtype)
