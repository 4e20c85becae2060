"""A large matrix of which some rows are wanted: an embedding table, of which a text touches a few hundred rows."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bertprobe.checkpoint.reading import read_tensor
from bertprobe.checkpoint.source import LocalFile
from bertprobe.checkpoint.tensors import Array, TensorHeader, check_readable, numpy_dtype

if TYPE_CHECKING:
    import numpy.typing as npt

SMALL = 2**20  # bytes of a table that is read whole: asking for its rows would take as long
NEAR = 8  # rows that lie between two that are wanted and are read along with them


class RowTable:
    """Rows (V, H) that are read from the file when they are first asked for, and kept from then on.

    Memory follows the rows that were read: the rest of the table is memory that was reserved and never touched.
    """

    def __init__(self, header: TensorHeader, source: LocalFile) -> None:
        import numpy as np

        (piece,) = header.pieces
        if piece.guard is not None:
            piece.guard.check(source.read(piece.guard.start, piece.guard.stop))
        self.shape = header.shape
        self.dtype = numpy_dtype(header.dtype)
        self._source, self._start = source, piece.start
        # Not by numpy, which would have the kernel take 2 MiB for each row of a few hundred bytes.
        self._memory = memoryview(mmap.mmap(-1, header.nbytes))
        self._rows = np.frombuffer(self._memory, self.dtype).reshape(self.shape)
        self._there = np.zeros(self.shape[0], bool)

    def __getitem__(self, ids: npt.NDArray[Any]) -> Array:
        """The rows of some ids (T,): (T, H), in the dtype that is stored."""
        wanted = ids[~self._there[ids]]
        if wanted.size:
            self._read(wanted)
        return self._rows[ids]

    def _read(self, wanted: npt.NDArray[Any]) -> None:
        row = self.shape[1] * self.dtype.itemsize
        spans = list(_spans(wanted))
        self._source.fill((self._start + a * row, self._memory[a * row : b * row]) for a, b in spans)
        for a, b in spans:
            self._there[a:b] = True


def row_table(header: TensorHeader) -> RowTable | Array:
    """A table whose rows are read when they are asked for, or all of it where that is not worth while or not possible.

    What has a checksum is read as a whole, whoever wants some rows of it. Raises as `read_tensors` does.
    """
    check_readable(header)
    if len(header.pieces) == 1 and len(header.shape) == 2 and header.nbytes > SMALL:
        (piece,) = header.pieces
        plain = header.strides is None and header.axes is None and not piece.is_checked
        if plain and isinstance(piece.source, LocalFile):
            return RowTable(header, piece.source)
    return read_tensor(header)


def _spans(ids: npt.NDArray[Any]) -> Iterator[tuple[int, int]]:
    """Runs of rows, first and last + 1, that hold every id; neighbours and near ones in one run."""
    first, *others = sorted(set(ids.tolist()))
    last = first
    for id in others:
        if id - last > NEAR:
            yield first, last + 1
            first = id
        last = id
    yield first, last + 1
