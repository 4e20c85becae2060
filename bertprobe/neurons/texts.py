"""The texts that examples refer to: from the corpus that was scanned where it still is, else those the scan carries."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from bertprobe.corpus import Corpus, Document, open_corpus
from bertprobe.errors import NotFound, printable
from bertprobe.neurons.embedded import Passage, embedded_in, whole_text
from bertprobe.neurons.folder import ScanFolder
from bertprobe.sharded import Part
from bertprobe.sharded.manifest import shard_of
from bertprobe.tokens import Encoded, Tokenizer


@dataclass(frozen=True, slots=True)
class Texts:
    """Documents as tokens, each as far as it is known, and the pieces of their ids."""

    passages: Mapping[int, Sequence[Passage]]
    piece: Callable[[int], str]

    def around(self, document: int, position: int, most: int) -> Passage:
        """The passage around a token with as many as `most` on either side of it."""
        found = next(one for one in self.passages[document] if one.first <= position < one.stop)
        return found.cut(position - most, position + most + 1)

    def pieces(self, passage: Passage) -> tuple[str, ...]:
        return tuple(map(self.piece, passage.ids.tolist()))

    def whole(self, document: int) -> Encoded:
        """A document from its first token to its last."""
        found = next(one for one in self.passages[document] if one.is_whole)
        return Encoded(found.ids, found.segments, self.pieces(found))


def texts_of(folder: ScanFolder, tokenizer: Tokenizer, numbers: Iterable[int]) -> Texts:
    """Documents of a scan by number.

    Raises `NotFound` where the corpus is gone, or another one now, and the scan carries no texts.
    """
    wanted = set(numbers)
    try:
        documents = look_up(folder, wanted)
    except NotFound:
        carried = embedded_in(folder.path, folder.manifest)
        if carried is None:
            raise
        passages: dict[int, list[Passage]] = {number: [] for number in wanted}
        for passage in carried.of(wanted):
            passages[passage.document].append(passage)
        return Texts(passages, carried.pieces.__getitem__)
    found = {number: [_whole(folder, tokenizer, number, document)] for number, document in documents.items()}
    return Texts(found, tokenizer.piece)


@dataclass(frozen=True, slots=True)
class Streamed:
    """Documents as tokens, one after the other as they stand in the corpus, and the pieces of their ids."""

    passages: Iterator[Passage]
    piece: Callable[[int], str]


def stream_texts(folder: ScanFolder, tokenizer: Tokenizer, numbers: Iterable[int]) -> Streamed:
    """The same for many documents, of which memory holds one: the scan's own texts, else those of the corpus.

    Raises `NotFound` where the scan carries none and, once it is asked for the text, the corpus is gone or another now.
    """
    carried = embedded_in(folder.path, folder.manifest)
    if carried is not None:
        return Streamed(carried.of(numbers), carried.pieces.__getitem__)
    documents = _documents(folder, numbers)
    return Streamed((_whole(folder, tokenizer, *each) for each in documents), tokenizer.piece)


def _whole(folder: ScanFolder, tokenizer: Tokenizer, number: int, document: Document) -> Passage:
    options = folder.manifest["options"]
    longest = options["longest"] if options["truncate"] else None
    return whole_text(number, document.row, tokenizer.encode(document.text, longest=longest))


def files_of(folder: ScanFolder, numbers: Iterable[int]) -> dict[int, str]:
    """The paths of the files in which documents stand."""
    firsts = list(accumulate((done.documents for done in folder.state.done), initial=0))
    shards = Part.of_manifest(folder.manifest).chosen(folder.manifest["shards"])
    files = folder.manifest["corpus"]["files"]
    return {n: str(files[shards[bisect_right(firsts, n) - 1]["file"]]["path"]) for n in numbers}


def look_up(folder: ScanFolder, numbers: Iterable[int]) -> dict[int, Document]:
    """Documents of the corpus by number, numbered so.

    Raises `NotFound` where a file is gone or is another one now, by its sha256.
    """
    return dict(_documents(folder, numbers))


def _documents(folder: ScanFolder, numbers: Iterable[int]) -> Iterator[tuple[int, Document]]:
    """Documents and their numbers, rising; a file is opened and hashed once."""
    told = folder.manifest["corpus"]
    wanted = sorted(set(numbers))
    firsts = list(accumulate((done.documents for done in folder.state.done), initial=0))
    shards = Part.of_manifest(folder.manifest).chosen(folder.manifest["shards"])
    opened: dict[int, Corpus] = {}
    for place, (first, stop) in enumerate(pairwise(firsts)):
        inside = {number - first for number in wanted[bisect_left(wanted, first) : bisect_left(wanted, stop)]}
        if not inside:
            continue
        shard = shard_of(shards[place])
        if shard.file not in opened:
            file = told["files"][shard.file]
            opened = {shard.file: _opened(file["path"], file["sha256"], told)}
        last = max(inside)
        for document in opened[shard.file].documents(replace(shard, file=0)):
            if document.number in inside:
                yield first + document.number, document
            if document.number >= last:
                break


def _opened(path: str, sha256: str, told: Mapping[str, Any]) -> Corpus:
    if not sha256:
        raise NotFound("the texts came from stdin and cannot be looked up", "scan a file instead")
    if not Path(path).is_file():
        raise NotFound(
            f"{printable(path)}, which was scanned, is not there",
            "put it back, or run this from the folder in which it was scanned; "
            "`embed_text=True` keeps the texts in a scan",
        )
    corpus = open_corpus(
        [path],
        field=told["field"],
        id_field=told["id_field"],
        skip_bad=told["skip_bad"],
    )
    if corpus.files[0].sha256 != sha256:
        raise NotFound(
            f"{printable(path)} is not the file that was scanned: its sha256 differs",
            "put that one back; `embed_text=True` keeps the texts in a scan",
        )
    return corpus
