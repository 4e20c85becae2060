"""A corpus: texts in files, read as a stream of documents, whole or shard by shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from dataclasses import field as made
from pathlib import Path

from bertprobe.corpus.files import STDIN, CorpusFile, arrow, between, faults_told, find, inspected, unpacked
from bertprobe.corpus.formats import FORMATS, Format, told_by_name
from bertprobe.corpus.plan import Shard, plan, whole
from bertprobe.corpus.rows import BadRow, Fields, Label, Row
from bertprobe.errors import BadSetting, CorruptFile, NotFound, UnsupportedFile, printable
from bertprobe.inputs import Input

__all__ = ["Corpus", "CorpusFile", "Document", "Documents", "Shard", "open_corpus", "plan"]


@dataclass(frozen=True, slots=True)
class Document:
    """A text: its number from 0 in what was read, the index of its file, and its row in it, from 0.

    `label` is its own. Of a corpus of words, `words` and `labels` are those of the text, one of each.
    """

    number: int
    id: str
    text: str
    file: int
    row: int
    label: Label = None
    words: tuple[str, ...] = ()
    labels: tuple[Label, ...] = ()


@dataclass(frozen=True)
class Corpus:
    """Files with texts; what is read of them lies in no memory but a window."""

    files: tuple[CorpusFile, ...]
    fields: Fields
    skip_bad: bool = False
    _inputs: tuple[Input, ...] = made(default=(), repr=False, compare=False)
    _drained: set[str] = made(default_factory=set, repr=False, compare=False)

    @property
    def field(self) -> str:
        return self.fields.text

    @property
    def id_field(self) -> str | None:
        return self.fields.id

    def documents(self, shard: Shard | None = None) -> Documents:
        """The documents of a shard, numbered from 0 in it, or of all files."""
        parts = [whole(index, file) for index, file in enumerate(self.files)] if shard is None else [shard]
        return Documents(self, (found for part in parts for found in _Cursor(self, part).rows(part)))

    def walk(self, shards: Iterable[Shard]) -> Iterator[tuple[Shard, Documents]]:
        """Each shard with its documents, to be read before the next: what follows on the last is read on from there.

        A shard counted in rows is reached through all that lies before it in the file; so many shards in their order
        cost one reading, not one each.
        """
        cursor: _Cursor | None = None
        for shard in shards:
            if cursor is None or not cursor.leads_to(shard):
                cursor = _Cursor(self, shard)
            yield shard, Documents(self, cursor.rows(shard))


class Documents:
    """An iterator of documents, and what it left out so far: bad rows by the index of their file, and the first."""

    def __init__(self, corpus: Corpus, rows: Iterator[tuple[int, Row | BadRow]]) -> None:
        self._corpus, self._rows, self._count = corpus, rows, 0
        self.skipped: Counter[int] = Counter()
        self.first_skipped = ""

    def __iter__(self) -> Documents:
        return self

    def __next__(self) -> Document:
        for file, row in self._rows:
            if isinstance(row, Row):
                self._count += 1
                return Document(self._count - 1, row.id, row.text, file, row.number, row.label, row.words, row.labels)
            told = f"{self._corpus.files[file].shown}: row {row.number} (the first is 0) {row.why}"
            if not self._corpus.skip_bad:
                raise CorruptFile(told, "mend it, or leave such rows out with `skip_bad=True`")
            self.skipped[file] += 1
            self.first_skipped = self.first_skipped or told
        raise StopIteration


class _Cursor:
    """A place in a file, from which rows are read on."""

    def __init__(self, corpus: Corpus, shard: Shard) -> None:
        self._file, self._index, self._next = corpus.files[shard.file], shard.file, shard.row
        self._waiting: Row | BadRow | None = None
        self._rows = _rows(corpus, shard)
        self._by_rows = shard.unit == "rows"

    def leads_to(self, shard: Shard) -> bool:
        return self._by_rows and shard.unit == "rows" and shard.file == self._index and shard.start >= self._next

    def rows(self, shard: Shard) -> Iterator[tuple[int, Row | BadRow]]:
        """The rows of a shard that lies at or behind this place, with the index of the file."""
        while (row := self._waiting or next(self._rows, None)) is not None:
            self._waiting, self._next = None, row.number
            if self._by_rows and row.number >= shard.stop:
                self._waiting = row
                return
            self._next += 1
            if row.number >= shard.row:
                yield self._index, row


def _rows(corpus: Corpus, shard: Shard) -> Iterator[Row | BadRow]:
    """The rows from a shard's first on, to its end where it is of bytes, numbered as in the file."""
    file = corpus.files[shard.file]
    if file.path == STDIN:
        if STDIN in corpus._drained:
            raise NotFound("stdin was read before, and can be read once only", "write it to a file, and name that")
        corpus._drained.add(STDIN)
    by_bytes = shard.unit == "bytes"
    stretch = between(file, shard.start, shard.stop, shard.row) if by_bytes else unpacked(file)
    if shard.sha256 is not None and stretch.sha256 != shard.sha256:
        raise CorruptFile(
            f"{file.shown} has changed between its bytes {shard.start:,} and {shard.stop:,}",
            "start anew in another folder",
        )
    with faults_told(file.path, file.format):
        yield from FORMATS[file.format].rows(stretch, corpus.fields, shard.row)


def open_corpus(
    paths: str | Path | Sequence[str | Path],
    *,
    field: str = "text",
    id_field: str | None = None,
    label_field: str | None = None,
    words_field: str | None = None,
    skip_bad: bool = False,
) -> Corpus:
    """A corpus of files, patterns of files, or - for stdin, a text a line; every file is read once, for its sha256.

    `field` and `id_field` name the fields with a row's text and id, in all formats but .txt. A bad row raises
    `CorruptFile`, which names file and row, or is left out with `skip_bad=True`. `label_field` names the field with a
    text's label; with `words_field` a text is a list of words, in .jsonl and .parquet, and that field a list of labels.
    """
    if words_field is not None and label_field is None:
        raise BadSetting("words are named without their labels", "name the list of labels beside: `label_field=NAME`")
    found = find([str(paths)] if isinstance(paths, str | Path) else map(str, paths))
    if not found:
        raise NotFound("no file is named", "name files, a pattern of files, or - for stdin")
    files = []
    inputs = []
    for path in found:
        format, compression = told_by_name(path)
        if format.arrow or compression == "zst":
            arrow(path)
        _check_labels(path, format, label_field, words_field)
        inputs.append(Input(Path("/dev/stdin" if path == STDIN else path)))
        files.append(inspected(path, format.name, compression))
    fields = Fields(words_field or field, id_field, label_field, words_field is not None)
    return Corpus(tuple(files), fields, skip_bad, tuple(inputs))


def _check_labels(path: str, format: Format, label_field: str | None, words_field: str | None) -> None:
    """Raises `UnsupportedFile` where rows of this format have no labels, or no lists of words."""
    name = "stdin" if path == STDIN else printable(path)
    if words_field is not None and not format.lists:
        takers = " or ".join(f".{row.name}" for row in FORMATS.values() if row.lists)
        raise UnsupportedFile(f"{name} has no lists of words: a .{format.name} holds texts", f"write {takers}")
    if label_field is not None and not format.labels:
        takers = ", ".join(f".{row.name}" for row in FORMATS.values() if row.labels)
        raise UnsupportedFile(f"{name} has no labels: a .{format.name} holds texts alone", f"write {takers}")
