"""Shards into copies in the order of neurons: read once from end to end, turned block by block, written in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bertprobe.checkpoint.tensors import numpy_dtype
from bertprobe.export.files import FileInPlace, RunFolder
from bertprobe.export.places import RunPlace
from bertprobe.extract.by_neuron import KEY, Layout, file_of, noted, source_of
from bertprobe.extract.reading import ActivationFolder, Stretch, stretches
from bertprobe.extract.rows import STORED, Tensor

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.unsignedinteger[Any]]

BLOCK = 2**27  # bytes of rows that are turned at a time, which memory holds twice
TILE = 64  # rows of it whose columns a processor's cache holds


def size_of(tensor: Tensor, documents: int, tokens: int) -> int:
    """Bytes of the copy of a tensor over so many texts."""
    return Layout.of(tensor, tensor.count(documents, tokens)).size


def missing(folder: RunPlace, manifest: Mapping[str, Any], tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The tensors that have no copy of the shards as they are now."""

    def is_there(tensor: Tensor) -> bool:
        entry = noted(manifest, tensor.name)
        return entry is not None and folder.has(file_of(tensor.name), entry["bytes"])

    return tuple(tensor for tensor in tensors if not is_there(tensor))


def turn(
    folder: RunFolder, manifest: dict[str, Any], tensor: Tensor, advance: Callable[[int], None] = lambda size: None
) -> None:
    """Writes the copy of a tensor and notes it in the manifest, which is not written; all shards have to be there.

    `advance` is called with the bytes of each block that is done.

    Raises:
        CorruptFile: a shard is gone or damaged.
        OutputError: the disk is full.
    """
    file = _write(folder, tensor, stretches(ActivationFolder(folder.path, manifest), tensor.name), advance)
    entry = {"file": file_of(tensor.name), "bytes": file.bytes, "sha256": file.sha256, "of": source_of(manifest)}
    copies = {**manifest.get(KEY, {}), tensor.name: entry}
    manifest[KEY] = {row["name"]: copies[row["name"]] for row in manifest["tensors"] if row["name"] in copies}


def _write(folder: RunFolder, tensor: Tensor, parts: Sequence[Stretch], advance: Callable[[int], None]) -> FileInPlace:
    rows = sum(part.rows for part in parts)
    layout = Layout.of(tensor, rows)
    with folder.file(file_of(tensor.name)) as file:
        file.reserve(layout.size)
        file.put(0, layout.header)
        done = 0
        for block in _blocks(tensor, parts, rows):
            _put(file, layout.start + done * block.itemsize, rows * block.itemsize, block)
            done += len(block)
            advance(block.nbytes)
    return file


def _put(file: FileInPlace, start: int, step: int, block: Array) -> None:
    """Puts each column of a block to its place, the first at a byte and the others so many bytes apart."""
    for column, values in enumerate(_turned(block)):
        file.put(start + column * step, values)


def _blocks(tensor: Tensor, parts: Sequence[Stretch], rows: int) -> Iterator[Array]:
    """The rows of all shards as bare bits, (n, d), as many at a time as a block holds; each is gone with the next."""
    import numpy as np

    bits = np.dtype(f"u{numpy_dtype(STORED[tensor.dtype]).itemsize}")
    buffer = np.empty((min(rows, max(BLOCK // tensor.row_bytes, 1)), tensor.width), bits)
    filled = 0
    for part in parts:
        taken = 0
        while taken < part.rows:
            count = min(len(buffer) - filled, part.rows - taken)
            room = buffer[filled : filled + count].data.cast("B")
            part.file.fill([(part.start + taken * tensor.row_bytes, room)])
            filled, taken = filled + count, taken + count
            if filled == len(buffer):
                yield buffer
                filled = 0
    if filled:
        yield buffer[:filled]


def _turned(block: Array) -> Array:
    """The transpose, tile by tile: numpy's own reads each line of the cache as often as it has columns."""
    import numpy as np

    turned = np.empty(block.shape[::-1], block.dtype)
    for row in range(0, len(block), TILE):
        turned[:, row : row + TILE] = block[row : row + TILE].T
    return turned
