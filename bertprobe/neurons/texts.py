"""The texts that examples refer to, looked up in the source, which must still be the one that was scanned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from bertprobe.corpus import Corpus, Document, open_corpus
from bertprobe.errors import NotFound, printable
from bertprobe.neurons.folder import ScanFolder
from bertprobe.sharded import Part
from bertprobe.sharded.manifest import shard_of


def look_up(folder: ScanFolder, numbers: Iterable[int]) -> dict[int, Document]:
    """Documents of the corpus by number, numbered so.

    Raises `NotFound` where a file is gone or is another one now, by its sha256.
    """
    told = folder.manifest["corpus"]
    wanted = sorted(set(numbers))
    firsts = list(accumulate((done.documents for done in folder.state.done), initial=0))
    shards = Part.of_manifest(folder.manifest).chosen(folder.manifest["shards"])
    found: dict[int, Document] = {}
    for place, (first, stop) in enumerate(pairwise(firsts)):
        inside = {number - first: number for number in wanted if first <= number < stop}
        if inside:
            shard = shard_of(shards[place])
            file = told["files"][shard.file]
            corpus = _opened(file["path"], file["sha256"], told)
            for document in corpus.documents(replace(shard, file=0)):
                if document.number in inside:
                    found[inside[document.number]] = document
                if len(found) == len(wanted) or document.number >= max(inside):
                    break
    return found


def _opened(path: str, sha256: str, told: Mapping[str, Any]) -> Corpus:
    if not sha256:
        raise NotFound("the texts came from stdin and cannot be looked up", "scan a file instead")
    if not Path(path).is_file():
        raise NotFound(
            f"{printable(path)}, which was scanned, is not there",
            "put it back, or run this from the folder in which it was scanned",
        )
    corpus = open_corpus(
        [path],
        field=told["field"],
        id_field=told["id_field"],
        skip_bad=told["skip_bad"],
    )
    if corpus.files[0].sha256 != sha256:
        raise NotFound(f"{printable(path)} is not the file that was scanned: its sha256 differs", "put that one back")
    return corpus
