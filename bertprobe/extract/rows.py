"""What is kept of a batch as rows of tensors, and their place in a shard's file.

Letters: N texts, T tokens, H hidden size, I intermediate size, K strongest neurons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bertprobe._version import __version__
from bertprobe.checkpoint.tensors import numpy_dtype
from bertprobe.errors import OutputError, UnsupportedFile, printable
from bertprobe.export.files import FileInPlace
from bertprobe.export.tensors import CASTS, safetensors_header
from bertprobe.extract.wish import POOLER, Columns, Wish
from bertprobe.run import FIRST, HIDDEN, POOLED, Captured, Site, vectors_at

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from bertprobe.run.sentence import Sentence
    from bertprobe.tokens import Packed

    Floats = npt.NDArray[np.float32]
    Ints = npt.NDArray[np.int64]

STORED = {**CASTS, "int32": "I32"}
"""What safetensors calls a dtype."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor that every shard has: a row a token or a row a document.

    `neurons` says which neurons its columns are, as `Columns.text`, None where they are all, or no neurons.
    """

    name: str
    rows: str
    width: int
    dtype: str
    neurons: str | None = None

    @property
    def row_bytes(self) -> int:
        return self.width * numpy_dtype(STORED[self.dtype]).itemsize

    def count(self, documents: int, tokens: int) -> int:
        """How many rows it has of so many texts."""
        return tokens if self.rows == "tokens" else documents


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """Rows made of a batch, before they are rounded: (N, width) or (T, width)."""

    name: str
    rows: str
    values: Any
    columns: Columns = field(default_factory=Columns)


@dataclass(frozen=True, slots=True)
class Keeper:
    """What a wish keeps of the values of a batch; `columns` by the label of the module."""

    wish: Wish
    columns: Mapping[str, Columns]
    sentence: Sentence | None = None

    @property
    def needs(self) -> frozenset[str]:
        if self.sentence is not None:
            return self.sentence.needs
        sites = {"cls": FIRST, "mean": HIDDEN}
        pooled = {POOLED} if POOLER in self.wish.parts else set()
        return frozenset(self.columns) | pooled | {sites[vector] for vector in self.wish.vectors}

    def made(self, captured: Captured) -> Iterator[Made]:
        """The rows of each tensor that a site's values become."""
        part = captured.site.part
        if part == POOLED:
            yield Made(POOLER, "documents", captured.numpy())
        elif self.sentence is not None:
            yield Made("sentence", "documents", self.sentence.vectors(captured))
        elif part in (FIRST, HIDDEN):
            yield Made("cls" if part == FIRST else "mean", "documents", vectors_at(captured))
        else:
            yield from self._of_neurons(captured)

    def _of_neurons(self, captured: Captured) -> Iterator[Made]:
        name, columns = captured.site.label, self.columns[captured.site.part]
        rows = "tokens" if self.wish.tokens == "all" else "documents"
        if rows == "tokens" and list(captured.lengths) != list(captured.batch.lengths):
            raise UnsupportedFile(
                f"the rows of {printable(name)} do not stand for tokens", 'take one a text: `tokens="mean"`'
            )
        before = self.wish.before
        if before and captured.before is None:
            raise UnsupportedFile(f"{printable(name)} has no values before an activation", "leave out `before=True`")
        values = columns.of(_ROWS[self.wish.tokens](captured, before=before))
        if not self.wish.top:
            yield Made(name, rows, values, columns)
            return
        neurons, strongest = strongest_of(values, min(self.wish.top, values.shape[1]))
        yield Made(f"{name}.values", rows, strongest)
        yield Made(f"{name}.neurons", rows, neurons if columns.numbers is None else _numbers(columns)[neurons])

    def tensors(self, captured: Sequence[Captured]) -> tuple[Tensor, ...]:
        """The tensors of every shard, told by what a first batch became."""
        return tuple(
            Tensor(
                made.name,
                made.rows,
                made.values.shape[1],
                self.wish.dtype if made.values.dtype.kind == "f" else "int32",
                made.columns.text,
            )
            for one in captured
            for made in self.made(one)
        )


def _firsts(captured: Captured) -> Ints:
    import numpy as np

    starts: Ints = np.cumsum(captured.lengths) - captured.lengths
    return starts


def _max(captured: Captured, *, before: bool) -> Floats:
    import numpy as np

    found: Floats = np.maximum.reduceat(captured.numpy(before=before), _firsts(captured))
    return found


def _first(captured: Captured, *, before: bool) -> Floats:
    import numpy as np

    firsts = captured.values(before=before)[_firsts(captured)]
    return np.asarray(captured.backend.numpy(firsts), np.float32)


def _mean(captured: Captured, *, before: bool) -> Floats:
    means: Floats = captured.backend.text_means(captured.values(before=before), captured.lengths)
    return means


_ROWS: dict[str, Callable[..., Any]] = {"all": Captured.numpy, "first": _first, "mean": _mean, "max": _max}


def _numbers(columns: Columns) -> Any:
    import numpy as np

    return np.array(columns.numbers, np.int32)


def strongest_of(values: Floats, most: int) -> tuple[Any, Floats]:
    """Of each row the columns of largest magnitude, (rows, K) int32, strongest first, and their values.

    Of equal ones the lower column goes first, and in.
    """
    import numpy as np

    size = -np.abs(values)
    if most < values.shape[1]:
        chosen = np.argpartition(size, most - 1, axis=1)[:, :most]
        least = np.take_along_axis(size, chosen, 1).max(1, keepdims=True)
        tied = np.flatnonzero((size <= least).sum(1) != most)  # or NaN, which is less than nothing
        chosen[tied] = np.argsort(size[tied], axis=1, kind="stable")[:, :most]
        chosen.sort(1)
    else:
        chosen = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    order = np.argsort(np.take_along_axis(size, chosen, 1), axis=1, kind="stable")
    chosen = np.take_along_axis(chosen, order, 1)
    return chosen.astype(np.int32), np.take_along_axis(values, chosen, 1)


# ------------------------------------------------------------------------------------------------ in a file


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tensors of a shard lie in its file: the `header`, where each starts, and how long the file is."""

    header: bytes
    starts: Mapping[str, int]
    size: int

    @classmethod
    def of(cls, tensors: Sequence[Tensor], number: int, documents: int, tokens: int) -> Layout:
        """The layout of a shard of so many texts; wide numbers first, as the format has it, so that all are aligned."""
        order = sorted(tensors, key=lambda tensor: -numpy_dtype(STORED[tensor.dtype]).itemsize)
        counts = [tensor.count(documents, tokens) for tensor in order]
        entries = [
            (tensor.name, STORED[tensor.dtype], (count, tensor.width), count * tensor.row_bytes)
            for tensor, count in zip(order, counts, strict=True)
        ]
        notes = {"format": "pt", "bertprobe_version": __version__, "shard": str(number)}
        header, starts = safetensors_header(entries, notes)
        return cls(header, {tensor.name: start for tensor, start in zip(order, starts, strict=False)}, starts[-1])


class Rows:
    """A collector that puts what a `Keeper` makes of a batch in its place in a shard's file, where it arises.

    `firsts` (N,) says at which token each text of the shard begins; `advance` is called with the texts and tokens of
    each batch.
    """

    def __init__(
        self,
        keeper: Keeper,
        tensors: Sequence[Tensor],
        layout: Layout,
        file: FileInPlace,
        firsts: Ints,
        advance: Callable[[int, int], None],
    ) -> None:
        self.needs = keeper.needs
        self.is_finite = True
        self._keeper, self._layout, self._file, self._firsts = keeper, layout, file, firsts
        self._tensors = {tensor.name: tensor for tensor in tensors}
        self._advance = advance
        self._counted: Site | None = None

    def reduce(self, captured: Captured) -> bool:
        """Writes the rows; gives whether all are finite."""
        finite = [self._put(made, captured.batch) for made in self._keeper.made(captured)]
        return all(finite)

    def add(self, site: Site, batch: Packed, reduced: bool) -> None:
        self.is_finite &= reduced
        self._counted = self._counted or site
        if site == self._counted:
            self._advance(len(batch.lengths), int(batch.lengths.sum()))

    def _put(self, made: Made, batch: Packed) -> bool:
        import numpy as np

        tensor, start = self._tensors[made.name], self._layout.starts[made.name]
        values, finite = rounded(made.values, tensor.dtype, made.name)
        places = batch.places
        rows = self._firsts[places] if tensor.rows == "tokens" else places
        lengths = batch.lengths if tensor.rows == "tokens" else np.ones_like(places)
        stored = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        begin = 0
        for row, length in zip(rows.tolist(), lengths.tolist(), strict=True):
            size = length * tensor.row_bytes
            self._file.put(start + row * tensor.row_bytes, stored[begin : begin + size])
            begin += size
        return finite


def rounded(values: Any, dtype: str, name: str) -> tuple[Any, bool]:
    """Values in the dtype that they are stored in, to nearest even, and whether all are finite.

    Raises `OutputError` where a number would become infinite.
    """
    import numpy as np

    if values.dtype.kind != "f":
        return values, True
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = np.asarray(values, np.float32).astype(numpy_dtype(STORED[dtype]), copy=False)
    if _all_finite(narrow):
        return narrow, True
    if lost := int((np.isinf(narrow) & ~np.isinf(values)).sum()):
        raise OutputError(
            f"{lost:,} values of {printable(name)} do not fit into {dtype}: they would be infinite",
            "start anew in another folder with `dtype=bfloat16` or `dtype=float32`",
        )
    return narrow, False


def _all_finite(values: Any) -> bool:
    """By the exponent's bits, as numpy's own tests of half precision take longer than a layer."""
    import numpy as np

    if values.dtype.itemsize != 2:
        return bool(np.isfinite(values).all())
    exponent = 0x7C00 if values.dtype == np.float16 else 0x7F80
    bits = np.ascontiguousarray(values).view(np.uint16) & np.uint16(exponent)
    return bits.size == 0 or int(bits.max()) < exponent
