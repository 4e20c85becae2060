"""A vector for each of any number of texts to a file, in the order of the texts, without holding them in memory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from bertprobe.errors import OutputError, printable
from bertprobe.export.files import Output, atomic_write, check_place, scratch
from bertprobe.export.tensors import safetensors_header, utf8_notes
from bertprobe.run.collect import Vectors

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from bertprobe.run.captured import Captured, Site
    from bertprobe.tokens import Packed

    Floats = npt.NDArray[np.float32]

ROWS_AT_ONCE = 4096


class VectorFile:
    """Rows that come in any order and are written in their own, in the format of the suffix: see `WRITERS`.

    They wait in a nameless file beside the place, so memory does not grow with their number; all are as wide as the
    first, `width`. A collector of the vectors `name`, used as a context; nothing is left behind if it ends in an error.
    What the vectors are is said by another collector, `made`, where they are none of a model's own.
    """

    def __init__(self, output: Output, name: str, metadata: Mapping[str, str], made: Vectors | None = None) -> None:
        self._made = made or Vectors(name)
        self.needs = self._made.needs
        self._write = writer(output.path)
        check_place(output)
        self.output, self.name, self.metadata = output, name, utf8_notes(metadata)
        self.width = 0
        self.count = 0
        self.bytes = 0
        self.is_finite = True

    def __enter__(self) -> VectorFile:
        self._open = ExitStack()
        self._rows = self._open.enter_context(scratch(self.output.path))
        return self

    def reduce(self, captured: Captured) -> Floats:
        """A vector for each text of a batch, (N, width)."""
        return self._made.reduce(captured)

    def add(self, site: Site, batch: Packed, reduced: Floats) -> None:
        """Puts the rows of a batch in the places of its texts."""
        self.put(batch.places, reduced)

    def put(self, places: Any, values: Floats) -> None:
        """Puts the rows of `values` (N, width) in their places (N,); raises `ValueError` for rows of another width."""
        import numpy as np

        self.width = self.width or values.shape[1]
        if values.shape[1] != self.width:
            raise ValueError(f"a vector of {values.shape[1]:,} numbers among vectors of {self.width:,}")
        size = 4 * self.width
        try:
            for place, row in zip(places, values, strict=True):
                os.pwrite(self._rows.fileno(), row.astype("<f4").tobytes(), int(place) * size)
        except OSError as error:
            shown = printable(str(self.output.path))
            raise OutputError(f"{shown} could not be written ({error.strerror})", "make room") from error
        self.is_finite &= bool(np.isfinite(values).all())
        self.count = max(self.count, int(max(places)) + 1)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._open:
            if kind is None:
                with atomic_write(self.output) as file:
                    self._write(file, self)
                    file.flush()
                    self.bytes = file.seek(0, os.SEEK_END)

    def blocks(self) -> Iterator[Floats]:
        """The rows in order, some thousands at a time."""
        import numpy as np

        size = 4 * self.width
        for start in range(0, self.count, ROWS_AT_ONCE):
            stop = min(start + ROWS_AT_ONCE, self.count)
            data = os.pread(self._rows.fileno(), (stop - start) * size, start * size)
            yield np.frombuffer(data, "<f4").reshape(-1, self.width)


Writer = Callable[[IO[bytes], VectorFile], None]


def writer(path: Path) -> Writer:
    """The writer of a suffix; raises `OutputError` for one that is none."""
    if path.suffix not in WRITERS:
        raise OutputError(f"{printable(str(path))} does not say a format", f"let its name end in {', '.join(WRITERS)}")
    return WRITERS[path.suffix]


def _safetensors(file: IO[bytes], vectors: VectorFile) -> None:
    shape = (vectors.count, vectors.width)
    header, _ = safetensors_header([(vectors.name, "F32", shape, 4 * vectors.count * vectors.width)], vectors.metadata)
    file.write(header)
    for block in vectors.blocks():
        file.write(block.tobytes())


def _npy(file: IO[bytes], vectors: VectorFile) -> None:
    import numpy as np

    header = {"descr": "<f4", "fortran_order": False, "shape": (vectors.count, vectors.width)}
    np.lib.format.write_array_header_1_0(file, header)
    for block in vectors.blocks():
        file.write(block.tobytes())


def _npz(file: IO[bytes], vectors: VectorFile) -> None:
    import zipfile

    import numpy as np

    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        with archive.open(f"{vectors.name}.npy", "w", force_zip64=True) as member:
            _npy(member, vectors)
        with archive.open("__metadata__.npy", "w") as member:
            np.lib.format.write_array(member, np.array(json.dumps(vectors.metadata)))


def _jsonl(file: IO[bytes], vectors: VectorFile) -> None:
    for index, row in _indexed(vectors):
        file.write(json.dumps({"index": index, vectors.name: [float(x) for x in row]}).encode() + b"\n")


def _csv(file: IO[bytes], vectors: VectorFile) -> None:
    file.write(",".join(["index", *(f"{vectors.name}_{i}" for i in range(vectors.width))]).encode() + b"\n")
    for index, row in _indexed(vectors):
        file.write(",".join([str(index), *(repr(float(x)) for x in row)]).encode() + b"\n")


def _indexed(vectors: VectorFile) -> Iterator[tuple[int, Floats]]:
    index = 0
    for block in vectors.blocks():
        for row in block:
            yield index, row
            index += 1


def _parquet(file: IO[bytes], vectors: VectorFile) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise OutputError(
            "pyarrow is not installed", "pip install 'bertprobe[parquet]', or choose another suffix"
        ) from error
    kind = pa.list_(pa.float32(), vectors.width)
    schema = pa.schema([("index", pa.int64()), (vectors.name, kind)], metadata=vectors.metadata)
    start = 0
    with pq.ParquetWriter(file, schema) as table:
        for block in vectors.blocks():
            rows = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), vectors.width)
            table.write_batch(pa.record_batch([pa.array(range(start, start + len(block))), rows], schema=schema))
            start += len(block)


WRITERS: dict[str, Writer] = {
    ".safetensors": _safetensors,
    ".npy": _npy,
    ".npz": _npz,
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".parquet": _parquet,
}
