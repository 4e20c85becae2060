"""One shard: its texts become tokens, the tokens rows, and the rows a file with its tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from bertprobe.corpus import Corpus, Document, Documents, Shard
from bertprobe.export.files import FileInPlace
from bertprobe.export.places import RunPlace
from bertprobe.extract.rows import Keeper, Layout, Rows, Tensor
from bertprobe.extract.tables import DOCUMENTS, TOKENS, Table
from bertprobe.run import Runner, run_encoded
from bertprobe.tokens import Encoded, beginning, check_length, chunks

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]

Advance = Callable[[int, int], None]
"""Called with the texts and tokens of each batch that is done."""

WRITTEN_AS = "safetensors"  # the format of the rows, and how their files end


@dataclass(frozen=True, slots=True)
class Work:
    """What every shard is made with: the corpus, the model, what is kept, and how texts are cut.

    `longest` is to how many tokens texts are cut, or may have; `truncate` whether they are cut.
    """

    corpus: Corpus
    runner: Runner
    keeper: Keeper
    tensors: tuple[Tensor, ...]
    longest: int
    truncate: bool

    @property
    def has_token_rows(self) -> bool:
        return any(tensor.rows == "tokens" for tensor in self.tensors)

    def encoded(self, documents: Iterable[Document]) -> Iterator[tuple[list[Document], list[Encoded]]]:
        """Documents with their tokens, some hundreds at a time; raises `BertprobeError` for one that does not fit."""
        sentence = self.keeper.sentence
        for chunk in chunks(documents, lambda document: len(document.text)):
            texts = [document.text for document in chunk]
            if sentence is not None:
                texts = list(sentence.texts(texts))
            found = self.runner.tokenizer.encode_many(texts, longest=self.longest if self.truncate else None)
            for document, text in zip(chunk, found, strict=True):
                check_length(len(text), self.longest, partial(self._named, document))
            yield chunk, found

    def _named(self, document: Document) -> str:
        shown = self.corpus.files[document.file].shown
        return f"{shown}: row {document.row} (the first is 0), {beginning(document.text)},"


@dataclass(frozen=True, slots=True)
class Done:
    """What a shard came to: its texts and tokens, and the files by name."""

    documents: int
    tokens: int
    truncated: int
    skipped: int
    finite: bool
    files: Mapping[str, FileInPlace]

    @property
    def told(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        files = {name: {"bytes": file.bytes, "sha256": file.sha256} for name, file in self.files.items()}
        return {
            "documents": self.documents,
            "tokens": self.tokens,
            "truncated": self.truncated,
            "skipped": self.skipped,
            "bytes": sum(file.bytes for file in self.files.values()),
            "finite": self.finite,
            "files": files,
        }


class _Tokens:
    """The texts of a shard as tokens, five bytes each: their pieces and what they were made of are let go."""

    def __init__(self) -> None:
        self._chunks: list[tuple[Any, Any, Any, Any]] = []
        self.documents = self.tokens = self.truncated = 0

    def add(self, texts: Sequence[Encoded]) -> None:
        import numpy as np

        self._chunks.append((
            np.concatenate([text.ids for text in texts]).astype(np.int32),
            np.concatenate([text.segments for text in texts]).astype(np.uint8),
            np.array([len(text) for text in texts], np.int64),
            np.array([text.truncated for text in texts], np.int64),
        ))  # fmt: skip
        self.documents += len(texts)
        self.tokens += len(self._chunks[-1][0])
        self.truncated += int((self._chunks[-1][3] > 0).sum())

    @property
    def firsts(self) -> Ints:
        """At which token of the shard each text begins, (N,)."""
        import numpy as np

        lengths = np.concatenate([np.zeros(0, np.int64), *(chunk[2] for chunk in self._chunks)])
        starts: Ints = np.cumsum(lengths) - lengths
        return starts

    def __iter__(self) -> Iterator[Encoded]:
        import numpy as np

        for ids, segments, lengths, truncated in self._chunks:
            ends = np.cumsum(lengths)
            for start, stop, cut in zip((ends - lengths).tolist(), ends.tolist(), truncated.tolist(), strict=True):
                yield Encoded(ids[start:stop].astype(np.int64), segments[start:stop].astype(np.int64), (), cut)


def names_of(number: int) -> tuple[str, str, str]:
    """What the files of a shard are called: its rows, its documents, its tokens."""
    shard = f"shard-{number:05d}"
    return f"{shard}.{WRITTEN_AS}", f"{shard}.documents.parquet", f"{shard}.tokens.parquet"


def write_shard(
    work: Work, folder: RunPlace, shard: Shard, documents: Documents, number: int, advance: Advance
) -> Done:
    """Writes a shard's files; its first document has the `number` in the corpus."""
    rows, of_documents, of_tokens = names_of(shard.number)
    with ExitStack() as opened:
        tables = {of_documents: opened.enter_context(folder.file(of_documents))}
        if work.has_token_rows:
            tables[of_tokens] = opened.enter_context(folder.file(of_tokens))
        texts = tabled(work, documents, number, *(table.file for table in tables.values()))
        file = opened.enter_context(folder.file(rows))
        layout = Layout.of(work.tensors, shard.number, texts.documents, texts.tokens)
        file.reserve(layout.size)
        file.put(0, layout.header)
        placed = Rows(work.keeper, work.tensors, layout, file, texts.firsts, advance)
        run_encoded(work.runner, texts, placed)
    return Done(
        texts.documents,
        texts.tokens,
        texts.truncated,
        sum(documents.skipped.values()),
        placed.is_finite,
        {rows: file, **tables},
    )


def tabled(work: Work, documents: Iterable[Document], number: int, of_documents: Any, of_tokens: Any = None) -> _Tokens:
    """The texts as tokens, once their tables are written to files."""
    texts = _Tokens()
    tables = [Table(of_documents, DOCUMENTS), *([] if of_tokens is None else [Table(of_tokens, TOKENS)])]
    for chunk, encoded in work.encoded(documents):
        first = number + texts.documents
        _add_documents(tables[0], chunk, encoded, first, texts.tokens)
        if of_tokens is not None:
            _add_tokens(tables[1], encoded, first)
        texts.add(encoded)
    for table in tables:
        table.close()
    return texts


def _add_documents(table: Table, chunk: Sequence[Document], encoded: Sequence[Encoded], number: int, row: int) -> None:
    import numpy as np

    lengths = np.array([len(text) for text in encoded], np.int64)
    table.add(
        np.arange(number, number + len(chunk)),
        [document.id for document in chunk],
        [document.file for document in chunk],
        [document.row for document in chunk],
        row + np.cumsum(lengths) - lengths,
        lengths.astype(np.int32),
        [text.truncated for text in encoded],
    )


def _add_tokens(table: Table, encoded: Sequence[Encoded], number: int) -> None:
    import numpy as np

    lengths = [len(text) for text in encoded]
    table.add(
        np.repeat(np.arange(number, number + len(encoded)), lengths),
        np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
        np.concatenate([text.ids for text in encoded]).astype(np.int32),
        [piece for text in encoded for piece in text.tokens],
    )
