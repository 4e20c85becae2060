"""A run whose shards are computed by other processes: where these are, and what they have to be told."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from bertprobe.anatomy import Anatomy, find_parts
from bertprobe.checkpoint import Checkpoint, open_checkpoint
from bertprobe.checkpoint.folder import LocalFolder
from bertprobe.corpus import Corpus, Documents, Shard
from bertprobe.corpus.files import inspected
from bertprobe.errors import BadSetting, CorruptFile, OutputError, printable
from bertprobe.export.places import RunPlace, is_address
from bertprobe.run import Compute
from bertprobe.sharded.manifest import Manifest, differences

ARRIVING = 30.0  # seconds in which a file has to be seen: network drives remember for a while what was not there
_ADDRESS = re.compile(r"local|auto|(ray://)?[^\s/:]+:\d{1,5}|(ray://)?\[[0-9a-fA-F:.]+\]:\d{1,5}")


@dataclass(frozen=True, slots=True)
class Actors:
    """The actors of Ray that compute a run.

    `address` is local, a cluster on this machine; auto, the one that is there; or where it is: host:port, or
    ray://host:port. `count` None are as many actors as it has room for; `gpus` is what each has, which may be a part of
    one. An actor has the threads that the run computes with, one unless said.

    Raises `BadSetting` for what cannot be meant so.
    """

    address: str = "local"
    count: int | None = None
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if not _ADDRESS.fullmatch(self.address):
            raise BadSetting(
                f"`ray={self.address}` is no address of a cluster", "write local, auto, host:port or ray://host:port"
            )
        if self.count is not None and self.count < 1:
            raise BadSetting(f"`actors={self.count}` is too few", "choose a number above 0")
        if self.gpus < 0 or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise BadSetting(
                f"`gpus_per_actor={self.gpus:g}` cannot be had",
                "choose 0, a part of one such as 0.5, or a whole number",
            )


def placed(compute: Compute, actors: Actors, old: Manifest | None) -> Compute:
    """How actors compute, with what was left open as it is where they are.

    Raises `BadSetting` where GPUs and the device do not go together.
    """
    if compute.threads is None and old is None and not actors.gpus:
        compute = replace(compute, threads=1)
    if compute.device == "auto":
        there = None if old is None else old["compute"]["device"]
        compute = replace(compute, device=there or ("cuda" if actors.gpus else "cpu"))
    if (compute.device == "cuda") != (actors.gpus > 0):
        advice = "give each actor one: `gpus_per_actor=1`" if not actors.gpus else "leave out `gpus_per_actor=`"
        raise BadSetting(f"the run computes on {compute.device}, its actors have {actors.gpus:g} GPUs", advice)
    return compute


def planning(compute: Compute, actors: Actors | None) -> Compute:
    """How this process looks at the model for a plan: without the GPUs that actors have."""
    return compute if actors is None or not actors.gpus else replace(compute, device="cpu", dtype="float32")


class Task(Protocol):
    """What a process is told that is to compute shards: it can be pickled, and opened there."""

    def open(self) -> Callable[[Shard, int], Any]:
        """What computes a shard, given with the number of its first text; raises `BertprobeError` where it cannot."""
        ...


@dataclass(frozen=True, slots=True)
class ModelAgain:
    """What leads to a checkpoint again from another folder, or another machine with the same disks."""

    ref: str
    root: str
    tokenizer: str | None

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> ModelAgain:
        path = Path(checkpoint.ref).expanduser()
        tokenizer, named = checkpoint.tokenizer, checkpoint.has_foreign_tokenizer
        return cls(
            str(path.absolute()) if checkpoint.revision is None and path.exists() else checkpoint.ref,
            checkpoint.root,
            str(tokenizer.named.absolute()) if named and isinstance(tokenizer, LocalFolder) else None,
        )

    def open(self) -> tuple[Checkpoint, Anatomy]:
        checkpoint = open_checkpoint(self.ref, root=self.root, download=True, tokenizer=self.tokenizer)
        return checkpoint, find_parts(checkpoint)


class CorpusAgain:
    """A corpus that another process counted and hashed: shards are asked for one by one.

    Shards that follow on each other cost one reading of their file, where it has to be read from its beginning; such a
    file is hashed before it is read.
    """

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._asked: list[Shard] = []
        self._walk = corpus.walk(self._shards())
        self._known: set[int] = set()

    def documents(self, shard: Shard) -> Documents:
        """The documents of a shard; raises `CorruptFile` where its file is another one now."""
        file = self._corpus.files[shard.file]
        if shard.sha256 is None and shard.file not in self._known:
            if inspected(file.path, file.format, file.compression).sha256 != file.sha256:
                raise CorruptFile(f"{file.shown} has changed", "start anew in another folder")
            self._known.add(shard.file)
        self._asked.append(shard)
        return next(self._walk)[1]

    def _shards(self) -> Iterator[Shard]:
        while self._asked:
            yield self._asked.pop()


def check_shared(corpus: Corpus) -> None:
    """Raises `BadSetting` for stdin, which this process alone has."""
    if any(not file.sha256 for file in corpus.files):
        raise BadSetting("stdin cannot be read by actors", "leave out `ray=`, or name a file")


def anywhere(corpus: Corpus) -> Corpus:
    """A corpus that can be read from any folder."""
    files = tuple(replace(file, path=str(Path(file.path).absolute())) for file in corpus.files)
    return Corpus(files, corpus.fields, corpus.skip_bad)


def check_same(run: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raises `OutputError` where a process would compute another run than its manifest tells."""
    if found := differences(dict(run), here):
        raise OutputError(
            f"on {printable(platform.node())} another run would be computed: {'; '.join(found[:3])}",
            "have the same model, corpus and versions there",
        )


def check_there(place: str) -> None:
    """Raises `OutputError` where a process does not see the folder of the run."""
    if not is_address(place) and not Path(place).is_dir():
        raise OutputError(
            f"{printable(place)} is not there on {printable(platform.node())}",
            "write to a folder that all machines see under one name",
        )


def check_seen(folder: RunPlace, files: Mapping[str, int]) -> None:
    """Raises `OutputError` where files that another process wrote, by their bytes, do not arrive here."""
    until = time.monotonic() + ARRIVING
    for name, size in files.items():
        while not folder.has(name, size):
            if time.monotonic() > until:
                raise OutputError(
                    f"{printable(folder.place)}/{printable(name)} was written by an actor, but is not seen here",
                    "write to a folder that all machines see under one name",
                )
            time.sleep(0.1)
