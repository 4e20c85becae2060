"""`open_activations`: what `extract` wrote, read where it lies: by tensor, document, token and neuron, or in blocks.

Letters: N documents, T tokens, I neurons, S tokens of a document, n rows of a block, d columns of a tensor.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertprobe.backends import TorchBackend
from bertprobe.checkpoint import LocalFile
from bertprobe.checkpoint.tensors import numpy_dtype
from bertprobe.errors import CorruptFile, NotFound, PartMissing, printable
from bertprobe.extract.by_neuron import mapped, opened
from bertprobe.extract.rows import STORED, Tensor
from bertprobe.extract.shard import WRITTEN_AS, names_of
from bertprobe.extract.tables import arrow
from bertprobe.extract.wish import numbers_in
from bertprobe.sharded import ACTIVATIONS, NAME, Manifest
from bertprobe.storages import storage_called

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[Any]

RUN = 128  # rows that lie side by side and are read at once where rows are shuffled
POOL = 16  # blocks of rows that are mixed with each other


def open_activations(path: str | os.PathLike[str]) -> ActivationFolder:
    """Opens a folder that `bertprobe extract` wrote; what is asked for is read when it is asked for.

    A run that was interrupted can be read as far as it is there, in whole shards.

    Raises:
        NotFound: there is no such folder.
        CorruptFile: it holds no activations, or a file of it is gone or damaged.
    """
    folder = Path(path)
    try:
        text = (folder / NAME).read_text("utf-8")
    except OSError as error:
        raise NotFound(
            f"{printable(str(folder))} has no {NAME}", "name the folder that bertprobe extract wrote"
        ) from error
    except ValueError as error:
        raise CorruptFile(f"{printable(str(folder / NAME))} is not text", "name another folder") from error
    return ActivationFolder(folder, ACTIVATIONS.parsed(text, str(folder / NAME)))


class ActivationFolder:
    """What `extract` wrote: `found["intermediate.3"]` is a tensor over all shards, `found.document(7)` one text.

    `manifest` is what manifest.json says: docs/exports.md tells its keys.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        self.tensors: Mapping[str, Tensor] = {row["name"]: Tensor(**row) for row in manifest["tensors"]}
        self._done = [(shard["number"], shard["done"]) for shard in manifest["shards"] if shard["done"] is not None]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tensors: `pooler`, `mean`, `intermediate.3`."""
        return tuple(self.tensors)

    @property
    def documents(self) -> int:
        """How many texts there are."""
        return int(self.manifest["documents"])

    @property
    def tokens(self) -> int:
        """How many tokens they have."""
        return int(self.manifest["tokens"])

    def __len__(self) -> int:
        return self.documents

    def __repr__(self) -> str:
        return (
            f"<ActivationFolder {printable(str(self.path))}: {self.documents:,} documents, {self.tokens:,} tokens, "
            f"{printable(', '.join(self.names))}>"
        )

    def __getitem__(self, name: str) -> Rows:
        """A tensor by its name; raises `PartMissing` for one that was not kept."""
        if name not in self.tensors:
            raise PartMissing(f"{printable(name)} was not kept", f"there is {printable(', '.join(self.names))}")
        tensor, count = self.tensors[name], self.tensors[name].count(self.documents, self.tokens)
        by_neuron = partial(opened, self.path, self.manifest, tensor, count)
        return Rows(tensor, [shard.array(name) for shard in self._shards], by_neuron)

    def layer(self, number: int) -> Rows:
        """The tensor of a layer's intermediate module; -1 is the last that was kept."""
        there = sorted(int(name.rpartition(".")[2]) for name in self.names if _is_layer(name))
        if number < 0 and there:
            number = there[-1] + 1 + number
        return self[f"intermediate.{number}"]

    def neuron(self, layer: int, number: int) -> Array:
        """One neuron's activations over all rows, (T,) or (N,), by its number in the model.

        Where there is a copy in the order of neurons, it is one stretch of a file, else a number of each row.
        """
        return self.layer(layer).neuron(number)

    def document(self, number: int) -> ActivationDocument:
        """A text by its number in the corpus, from 0; raises `PartMissing` for one that is not there."""
        place = bisect_right(self._numbers, number, key=lambda numbers: numbers.start) - 1
        if place < 0 or number not in self._numbers[place]:
            raise PartMissing(f"there is no document {number:,}", f"there are {self._told}")
        return self._shards[place].document(number, self._numbers[place].start)

    def __iter__(self) -> Iterator[ActivationDocument]:
        """The texts in the order of the corpus."""
        return (self.document(number) for numbers in self._numbers for number in numbers)

    def blocks(
        self,
        names: str | Sequence[str] | None = None,
        *,
        rows: int = 4096,
        seed: int | None = 0,
        library: str = "numpy",
    ) -> Iterator[dict[str, Any]]:
        """All rows in blocks, of several tensors at once the same rows: `{name: (n, d)}`, the last block the rest.

        Args:
            names: the tensors, all by default; they have to be of the same rows, of tokens or of documents.
            rows: n, of a block.
            seed: what the order of the rows is drawn by: the same seed gives the same blocks. None keeps the order of
                the corpus. Rows are drawn in runs of 128 and mixed over 16 blocks, so that a disk is read in pieces
                that suit it.
            library: `numpy` or `torch`.

        Raises:
            PartMissing: a tensor was not kept.
            ValueError: rows of tokens and of documents are asked for together, or `library` is neither.
        """
        wanted = [names] if isinstance(names, str) else list(self.names if names is None else names)
        tensors = {name: self[name] for name in wanted}
        if len({tensor.tensor.rows for tensor in tensors.values()}) > 1:
            raise ValueError("some of these have a row a token, others a row a document: ask for them in turn")
        if library not in ("numpy", "torch"):
            raise ValueError(f"library is {library!r}; it may be numpy or torch")
        count = len(next(iter(tensors.values()))) if tensors else 0
        return self._blocks(tensors, _order(count, rows, seed), library)

    def _blocks(self, tensors: Mapping[str, Rows], order: Iterator[Any], library: str) -> Iterator[dict[str, Any]]:
        for numbers in order:
            block = {name: tensor.take(numbers) for name, tensor in tensors.items()}
            yield block if library == "numpy" else {name: _as_torch(values) for name, values in block.items()}

    def dataset(self, names: str | Sequence[str] | None = None) -> Any:
        """A `datasets.IterableDataset` with a row for each of the tensors' rows, in the order of the corpus.

        Its columns are the tensors, as lists of float32, `document`, and `position`, `id` and `token` where rows are
        tokens. Raises `NotFound` where `datasets` is not installed.
        """
        try:
            import datasets
        except ImportError as error:
            raise NotFound("datasets is not installed", "pip install datasets") from error
        wanted = [names] if isinstance(names, str) else list(self.names if names is None else names)
        return datasets.IterableDataset.from_generator(
            _dataset_rows, gen_kwargs={"path": str(self.path), "names": wanted}
        )

    @cached_property
    def _numbers(self) -> list[range]:
        """The numbers of each shard's documents, of those that are done."""
        rows = self.manifest["shards"]
        counts = [
            row["documents"] if "documents" in row else (row["done"] or {"documents": 0})["documents"] for row in rows
        ]
        starts = [0, *accumulate(counts)]
        return [range(starts[number], starts[number] + done["documents"]) for number, done in self._done]

    @property
    def _told(self) -> str:
        there = [numbers for numbers in self._numbers if numbers]
        return f"{self.documents:,}, from {there[0].start:,} to {there[-1][-1]:,}" if there else "none"

    @cached_property
    def _shards(self) -> list[_Shard]:
        return [_Shard(self.path, number, done, self.tensors) for number, done in self._done]


@dataclass(frozen=True, slots=True)
class Stretch:
    """The rows of a tensor in a shard's file, side by side from a byte on."""

    file: LocalFile
    start: int
    rows: int


def stretches(folder: ActivationFolder, name: str) -> list[Stretch]:
    """Where the rows of a tensor lie, shard by shard."""
    return [shard.stretch(name) for shard in folder._shards]


def _is_layer(name: str) -> bool:
    role, _, number = name.rpartition(".")
    return role == "intermediate" and number.isdigit()


def _dataset_rows(path: str, names: list[str]) -> Iterator[dict[str, Any]]:
    import numpy as np

    found = open_activations(path)
    of_tokens = found[names[0]].tensor.rows == "tokens"
    for document in found:
        values = {name: np.asarray(document[name], np.float32) for name in names}
        for row in range(len(document) if of_tokens else 1):
            told: dict[str, Any] = {"document": document.number}
            if of_tokens:
                told |= {"position": row, "id": document.ids[row], "token": document.tokens[row]}
            yield {**told, **{name: rows[row] if of_tokens else rows for name, rows in values.items()}}


def _order(count: int, rows: int, seed: int | None) -> Iterator[Any]:
    """The numbers of the rows of each block."""
    import numpy as np

    if seed is None:
        yield from (np.arange(start, min(start + rows, count)) for start in range(0, count, rows))
        return
    draw = np.random.default_rng(seed)
    runs = draw.permutation(-(-count // RUN))
    at_once = max(1, POOL * rows // RUN)
    rest = np.zeros(0, np.int64)
    for start in range(0, len(runs), at_once):
        chosen = runs[start : start + at_once]
        pool = (chosen[:, None] * RUN + np.arange(RUN)).reshape(-1)
        pool = np.concatenate([rest, draw.permutation(pool[pool < count])])
        whole = len(pool) - len(pool) % rows
        yield from np.split(pool[:whole], range(rows, whole, rows)) if whole else ()
        rest = pool[whole:]
    if len(rest):
        yield rest


def _as_torch(values: Array) -> Any:
    return TorchBackend().stored(values)


# ------------------------------------------------------------------------------------------------ a tensor


class Rows:
    """A tensor over all shards, (rows, d), which lies on the disk: `rows[7]`, `rows[100:200]`, `rows[[3, 1]]`.

    What is read is of the dtype it was written in; of `bfloat16` it is that of ml_dtypes, which torch takes by
    `blocks(library="torch")` and numpy by `.astype("float32")`. Whole columns, `rows[:, 3]`, and `rows.neuron(3)` are
    read from the copy in the order of neurons, where there is one.
    """

    def __init__(self, tensor: Tensor, arrays: Sequence[Array], by_neuron: Callable[[], Array | None]) -> None:
        self.tensor = tensor
        self._arrays, self._open_by_neuron = arrays, by_neuron
        self._starts = [0, *accumulate(map(len, arrays))]

    @property
    def shape(self) -> tuple[int, int]:
        return self._starts[-1], self.tensor.width

    @property
    def dtype(self) -> np.dtype[Any]:
        return numpy_dtype(STORED[self.tensor.dtype])

    @cached_property
    def neurons(self) -> tuple[int, ...]:
        """The neuron that each column is."""
        return tuple(range(self.tensor.width) if self.tensor.neurons is None else numbers_in(self.tensor.neurons))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Array:
        """One row (d,), a stretch of rows or any rows (n, d), and of them columns: `rows[100:200, 3]`.

        Raises `IndexError` for one that is not there.
        """
        import numpy as np

        if isinstance(rows, tuple):
            chosen, columns = rows
            if isinstance(chosen, slice) and isinstance(columns, int | np.integer | slice):
                return self._columns(chosen, columns)
            return self[chosen][..., columns]
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step == 1:
                return self._stretch(start, max(start, stop))
            return self.take(np.arange(start, stop, step))
        if isinstance(rows, int | np.integer):
            return self.take(np.array([rows]))[0]  # type: ignore[no-any-return]
        return self.take(np.asarray(rows, np.int64))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        import numpy as np

        return np.asarray(self[:], dtype)

    def neuron(self, number: int) -> Array:
        """One neuron over all rows, by its number in the model; raises `PartMissing` for one that was not kept."""
        import numpy as np

        if number not in self.neurons:
            raise PartMissing(f"{printable(self.tensor.name)} has no neuron {number}", "look at its `neurons`")
        return np.array(self._columns(slice(None), self.neurons.index(number)))

    def take(self, rows: Any) -> Array:
        """A copy of any rows, in the order that is asked for, (n, d)."""
        import numpy as np

        rows = np.where(rows < 0, rows + len(self), rows)
        if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= len(self)):
            raise IndexError(f"there are {len(self):,} rows")
        out = np.empty((len(rows), self.tensor.width), self.dtype)
        order = np.argsort(rows, kind="stable")
        ends = np.searchsorted(rows[order], self._starts)
        for array, first, start, stop in zip(self._arrays, self._starts, ends, ends[1:], strict=False):
            here = order[start:stop]
            out[here] = array[rows[here] - first]
        return out

    @cached_property
    def _by_neuron(self) -> Array | None:
        """The copy in the order of neurons, (d, rows)."""
        return self._open_by_neuron()

    def _columns(self, chosen: slice, columns: Any) -> Array:
        """Some columns of a stretch of rows, from where fewer pieces have to be read."""
        start, stop, step = chosen.indices(len(self))
        width = len(range(self.tensor.width)[columns]) if isinstance(columns, slice) else 1
        if len(range(start, stop, step)) > width and self._by_neuron is not None:
            found: Array = self._by_neuron[columns][..., chosen]
            return found.T
        if step == 1:
            return self._stretch(start, max(start, stop), columns)
        return self[chosen][..., columns]

    def _stretch(self, start: int, stop: int, columns: Any = slice(None)) -> Array:
        """Consecutive rows, or columns of them; of one shard they are not copied."""
        import numpy as np

        parts = [
            array[max(start - first, 0) : max(stop - first, 0), columns]
            for array, first in zip(self._arrays, self._starts, strict=False)
            if first < stop and first + len(array) > start
        ]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([np.zeros((0, self.tensor.width), self.dtype)[:, columns], *parts])

    def __repr__(self) -> str:
        rows, width = self.shape
        return f"<{printable(self.tensor.name)}: {rows:,} {self.tensor.rows} × {width:,}, {self.tensor.dtype}>"


# ------------------------------------------------------------------------------------------------ a document


@dataclass(frozen=True, slots=True, eq=False)
class ActivationDocument:
    """A text of the corpus: where it stands there, and `document["intermediate.3"]`, its rows (S, d), or (d,) of one.

    `id` is that of the corpus, `file` the index of its file in the manifest and `row` its row there, from 0;
    `truncated` counts tokens that were cut off.
    """

    number: int
    id: str
    file: int
    row: int
    truncated: int
    length: int
    first_token: int
    _shard: _Shard
    _place: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, name: str) -> Array:
        """Its rows of a tensor; raises `PartMissing` for one that was not kept."""
        values = self._shard.array(name)
        if self._shard.tensors[name].rows == "documents":
            return values[self._place]  # type: ignore[no-any-return]
        return values[self.first_token : self.first_token + self.length]

    @property
    def ids(self) -> list[int]:
        """Its tokens as the model's numbers; raises `PartMissing` where no rows of tokens were kept."""
        return self._tokens("id")

    @property
    def tokens(self) -> list[str]:
        """Its tokens as text; raises `PartMissing` where no rows of tokens were kept."""
        return self._tokens("token")

    def _tokens(self, column: str) -> list[Any]:
        table = self._shard.tokens
        found: list[Any] = table.column(column).slice(self.first_token, self.length).to_pylist()
        return found


class _Shard:
    """A shard's files, each opened when it is asked for."""

    def __init__(self, folder: Path, number: int, done: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self._folder, self._done = folder, done
        self._rows, self._of_documents, self._of_tokens = names_of(number)
        self.tensors = tensors
        self._arrays: dict[str, Array] = {}

    def array(self, name: str) -> Array:
        """A tensor of the shard, mapped."""
        if name not in self.tensors:
            raise PartMissing(f"{printable(name)} was not kept", f"there is {printable(', '.join(self.tensors))}")
        if name not in self._arrays:
            tensor, start = self.tensors[name], self._starts[name]
            self._arrays[name] = mapped(self._path(self._rows), tensor, start, self._shape(tensor))
        return self._arrays[name]

    def stretch(self, name: str) -> Stretch:
        """Where a tensor of the shard lies."""
        return Stretch(LocalFile(self._path(self._rows)), self._starts[name], self._shape(self.tensors[name])[0])

    def _shape(self, tensor: Tensor) -> tuple[int, int]:
        return tensor.count(self._done["documents"], self._done["tokens"]), tensor.width

    @cached_property
    def _starts(self) -> Mapping[str, int]:
        """Where each tensor begins in the file, once that is as the manifest says."""
        index = storage_called(WRITTEN_AS).reader().index
        headers = {header.name: header for header in index(LocalFile(self._path(self._rows))).headers}
        for tensor in self.tensors.values():
            found = headers.get(tensor.name)
            if found is None or (found.shape, found.dtype) != (self._shape(tensor), STORED[tensor.dtype]):
                raise CorruptFile(f"{printable(str(self._folder / self._rows))} is not as {NAME} says", _AGAIN)
        return {name: header.pieces[0].start for name, header in headers.items()}

    @cached_property
    def tokens(self) -> Any:
        """The table of the shard's tokens."""
        if self._of_tokens not in self._done["files"]:
            raise PartMissing("no tokens were kept: there is a row a document", "extract with `tokens=all`")
        return self._table(self._of_tokens)

    @cached_property
    def _documents(self) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = self._table(self._of_documents).to_pydict()
        return columns

    def document(self, number: int, first: int) -> ActivationDocument:
        place = number - first
        row = {name: column[place] for name, column in self._documents.items()}
        return ActivationDocument(
            number,
            row["id"],
            row["file"],
            row["row"],
            row["truncated"],
            row["tokens"],
            row["first_token"],
            self,
            place,
        )

    def _table(self, name: str) -> Any:
        return arrow().parquet.read_table(self._path(name), memory_map=True)

    def _path(self, name: str) -> Path:
        path, size = self._folder / name, self._done["files"][name]["bytes"]
        if not path.is_file() or path.stat().st_size != size:
            raise CorruptFile(f"{printable(str(path))} is gone, or not as {NAME} says", _AGAIN)
        return path


_AGAIN = "repeat the command that wrote it, or fetch it again"
