"""The texts that a scan carries with it, as tokens: texts.safetensors, told in docs/exports.md.

Whole are those that a record needs, in which tokens are strongest or were drawn; around a token that is kept only as
most negative there is a window. What is needed follows from the state alone, so that a merge carries the same.
"""

from __future__ import annotations

import json
import mmap
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bertprobe.errors import CorruptFile, printable
from bertprobe.export.files import RunFolder, scratch
from bertprobe.export.tensors import safetensors_header
from bertprobe.neurons.best import NOWHERE, document_of, position_of
from bertprobe.neurons.state import TYPES, State, parsed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from bertprobe.tokens import Encoded

    Ints = npt.NDArray[np.int64]
    Array = npt.NDArray[Any]

NAME = "texts.safetensors"
AROUND = 16  # tokens on either side of a token of which only a window is needed
COLUMNS = ("document", "row", "first", "length", "start")
BLOCK = 2**20


@dataclass(frozen=True, slots=True, eq=False)
class Passage:
    """Tokens of a document that follow on each other, from position `first` on: ids and segments, (n,) each.

    The document stands in `row` of its file and has `length` tokens.
    """

    document: int
    row: int
    first: int
    length: int
    ids: Ints
    segments: Ints

    @property
    def stop(self) -> int:
        return self.first + len(self.ids)

    @property
    def is_whole(self) -> bool:
        return len(self.ids) == self.length

    def cut(self, first: int, stop: int) -> Passage:
        """Its tokens from one position to before another."""
        part = slice(max(first - self.first, 0), max(stop - self.first, 0))
        return replace(self, first=max(first, self.first), ids=self.ids[part], segments=self.segments[part])


def whole_text(number: int, row: int, text: Encoded) -> Passage:
    """A document of a scan as one passage."""
    return Passage(number, row, 0, len(text), text.ids, text.segments)


@dataclass(frozen=True)
class Needed:
    """Of which documents of a scan the texts are needed: `whole`, and of others tokens `around` which a window is."""

    whole: frozenset[int]
    around: Mapping[int, tuple[int, ...]]

    @classmethod
    def of(cls, state: State) -> Needed:
        import numpy as np

        def places(*kinds: str) -> Ints:
            found = [getattr(scan, kind).where.ravel() for scan in state.sites.values() for kind in kinds]
            every = np.unique(np.concatenate([*found, np.empty(0, np.int64)]))
            return every[every != NOWHERE]  # type: ignore[no-any-return]

        whole = np.unique(document_of(places("strongest", "drawn")))
        negative = places("negative")
        negative = negative[~np.isin(document_of(negative), whole)]
        documents, firsts = np.unique(document_of(negative), return_index=True)
        positions = np.split(position_of(negative), firsts[1:])
        around = zip(documents.tolist(), positions, strict=False)
        return cls(frozenset(whole.tolist()), {document: tuple(found.tolist()) for document, found in around})

    @cached_property
    def documents(self) -> tuple[int, ...]:
        """Their numbers, rising."""
        return tuple(sorted([*self.whole, *self.around]))

    def between(self, first: int, stop: int) -> frozenset[int]:
        """Those from one document to before another."""
        every = self.documents
        return frozenset(every[bisect_left(every, first) : bisect_left(every, stop)])

    def spans(self, document: int, length: int) -> Iterator[tuple[int, int]]:
        """Which of a document's tokens are needed: from where to before where; windows that meet are one."""
        if document in self.whole:
            yield 0, length
            return
        first, stop = 0, -1
        for position in self.around.get(document, ()):
            low, high = max(position - AROUND, 0), min(position + AROUND + 1, length)
            if low <= stop:
                stop = high
                continue
            if stop >= 0:
                yield first, stop
            first, stop = low, high
        if stop >= 0:
            yield first, stop

    def of_passages(self, passages: Iterable[Passage]) -> Iterator[Passage]:
        """What is needed of passages, in their order; each span lies in one of them."""
        for passage in passages:
            for first, stop in self.spans(passage.document, passage.length):
                if passage.first <= first and stop <= passage.stop:
                    yield passage.cut(first, stop)


def write(folder: RunFolder, passages: Iterable[Passage], piece: Callable[[int], str]) -> dict[str, Any]:
    """Writes passages, which rise by document and position; gives what the manifest notes of them.

    Memory holds five numbers of each; their tokens wait in a file without a name until it is known how many there are.
    """
    import numpy as np

    index = array("q")
    used: set[int] = set()
    tokens = 0
    has_segments = False
    with scratch(folder.path / NAME) as ids, scratch(folder.path / NAME) as segments:
        for passage in passages:
            index.extend((passage.document, passage.row, passage.first, passage.length, tokens))
            tokens += len(passage.ids)
            ids.write(passage.ids.astype("<i4").tobytes())
            segments.write(passage.segments.astype("u1").tobytes())
            used.update(passage.ids.tolist())
            has_segments = has_segments or bool(passage.segments.any())
        kind = "U16" if max(used, default=0) < 2**16 else "I32"
        pieces = {id: piece(id) for id in sorted(used)}
        table = np.frombuffer(index, np.int64).reshape(-1, len(COLUMNS))
        size = np.dtype(TYPES[kind]).itemsize
        tensors = [("passages", "I64", table.shape, table.nbytes), ("ids", kind, (tokens,), size * tokens)]
        if has_segments:
            tensors.append(("segments", "U8", (tokens,), tokens))
        header, starts = safetensors_header(tensors, {"around": str(AROUND), "pieces": json.dumps(pieces)})
        with folder.file(NAME) as file:
            file.put(0, header)
            if len(table):
                file.put(starts[0], table)
            for offset, block in _blocks(ids):
                file.put(starts[1] + offset // 4 * size, np.frombuffer(block, "<i4").astype(TYPES[kind]))
            for offset, block in _blocks(segments) if has_segments else ():
                file.put(starts[2] + offset, block)
    return {
        "file": NAME,
        "bytes": file.bytes,
        "sha256": file.sha256,
        "around": AROUND,
        "passages": len(table),
        "tokens": tokens,
    }


def _blocks(spool: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    spool.seek(0)
    offset = 0
    while block := spool.read(BLOCK):
        yield offset, block
        offset += len(block)


class EmbeddedTexts:
    """What `write` wrote: passages in their order, and the pieces of their ids."""

    def __init__(self, path: Path) -> None:
        try:
            with open(path, "rb") as file:
                notes, arrays = parsed(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            self.pieces = {int(id): str(piece) for id, piece in json.loads(notes["pieces"]).items()}
            self._table: Array = arrays["passages"]
            self._ids: Array = arrays["ids"]
            self._segments: Array | None = arrays.get("segments")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptFile(
                f"{printable(str(path))} has not the texts of a scan, or is damaged", "scan the corpus again"
            ) from error

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, place: int) -> Passage:
        import numpy as np

        if place >= len(self._table):
            raise IndexError(place)
        document, row, first, length, start = self._table[place].tolist()
        stop = int(self._table[place + 1, -1]) if place + 1 < len(self._table) else len(self._ids)
        ids = self._ids[start:stop].astype(np.int64)
        segments = np.zeros_like(ids) if self._segments is None else self._segments[start:stop].astype(np.int64)
        return Passage(document, row, first, length, ids, segments)

    def of(self, numbers: Iterable[int]) -> Iterator[Passage]:
        """The passages of some documents."""
        import numpy as np

        yield from (self[int(place)] for place in np.flatnonzero(np.isin(self._table[:, 0], sorted(set(numbers)))))

    def __iter__(self) -> Iterator[Passage]:
        yield from (self[place] for place in range(len(self)))


def is_embedded(folder: RunFolder, manifest: Mapping[str, Any]) -> bool:
    """Whether a scan's texts are there already."""
    told = manifest.get("texts")
    return told is not None and folder.has(told["file"], told["bytes"])


def embedded_in(path: Path, manifest: Mapping[str, Any]) -> EmbeddedTexts | None:
    """The texts that a scan carries, None where it carries none.

    Raises `CorruptFile` where its file is gone, or has another size than when it was written.
    """
    told = manifest.get("texts")
    if told is None:
        return None
    file = path / told["file"]
    if not file.is_file() or file.stat().st_size != told["bytes"]:
        raise CorruptFile(
            f"{printable(str(file))} is gone or not as it was written",
            "repeat the scan's command with `embed_text=True`",
        )
    return EmbeddedTexts(file)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes to a neuron: its examples by reference with their values, and its share of the texts, None without them."""

    examples: float
    texts: float | None


def sizes_of(manifest: Mapping[str, Any], state: State) -> Sizes | None:
    """How much of a scan examples are, None where no neuron was scanned."""
    neurons = sum(len(scan.sums.squares) for scan in state.sites.values())
    if not neurons:
        return None
    examples = sum(
        found.values.nbytes + found.where.size * (8 + 4)
        for scan in state.sites.values()
        for found in (scan.strongest, scan.negative, scan.drawn)
    )
    examples += sum(scan.drawn.keys.nbytes for scan in state.sites.values())
    told = manifest.get("texts")
    return Sizes(examples / neurons, None if told is None else told["bytes"] / neurons)
