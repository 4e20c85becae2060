"""A run: planned, told, and done shard by shard; begun anew or gone on with."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bertprobe.anatomy import Anatomy
from bertprobe.checkpoint import Checkpoint
from bertprobe.corpus import Corpus, Shard, plan
from bertprobe.errors import BadSetting, CorruptFile, OutputError, printable
from bertprobe.export.files import RunFolder
from bertprobe.export.places import RunPlace, is_address, run_place
from bertprobe.extract.apart import ShardWriting
from bertprobe.extract.by_neuron import noted
from bertprobe.extract.estimate import Estimate, estimate
from bertprobe.extract.opening import opened, run_of
from bertprobe.extract.rows import Keeper, Tensor
from bertprobe.extract.shard import Advance, Work, write_shard
from bertprobe.extract.turn import missing, size_of, turn
from bertprobe.extract.wish import Wish
from bertprobe.run import Compute
from bertprobe.run.nonfinite import why_not_finite
from bertprobe.run.sentence import Sentence
from bertprobe.sharded import ACTIVATIONS, NAME, WHOLE, Actors, Manifest, Part, decided, differing, read_begun, stamp_of
from bertprobe.sharded import manifest as manifests
from bertprobe.sharded.elsewhere import check_seen, check_shared, planning
from bertprobe.verdicts import Finding

MOST_TEXT = 2**22  # bytes of text in a shard
LEAST_TEXT = 2**16
MOST_ROWS = 2**30  # bytes that the rows of a shard shall come to
BYTES_A_TOKEN = 4  # of text, about
ORDERS = ("corpus", "neurons")

Told = Mapping[str, Any]
"""What a shard came to, as it stands in the manifest."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to run beside what to keep.

    `truncate` cuts texts, `shard_text` is the bytes of text of a shard, `verify` has a few texts run through
    transformers, too, when a run begins, and `part` is what of the shards is computed here. `order` is of ORDERS: with
    `neurons` each tensor is to be had neuron by neuron as well, in a copy that `Job.turn` writes. `actors` compute the
    shards, this process where there are none.
    """

    compute: Compute = field(default_factory=Compute)
    truncate: bool = False
    shard_text: int | None = None
    verify: bool = True
    part: Part = WHOLE
    order: str = "corpus"
    actors: Actors | None = None


@dataclass(frozen=True)
class Job:
    """A run that is planned: what of it is done, and what is left to do. Made by `prepare`."""

    checkpoint: Checkpoint
    anatomy: Anatomy
    folder: RunPlace
    manifest: Manifest
    shards: tuple[Shard, ...]
    expected: Estimate | None
    work: Work
    resumed: bool
    options: Options

    @property
    def own(self) -> Sequence[Shard]:
        """The shards of this part of the plan."""
        return Part.of_manifest(self.manifest).chosen(self.shards)

    @property
    def left(self) -> tuple[Shard, ...]:
        """The shards that are still to be written."""
        return tuple(shard for shard in self.own if self.manifest["shards"][shard.number]["done"] is None)

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that are kept."""
        return tuple(tensor.name for tensor in self.work.tensors)

    @property
    def to_turn(self) -> tuple[Tensor, ...]:
        """The tensors of which a copy in the order of neurons is still to be written."""
        return missing(self.folder, self.manifest, self.work.tensors) if self.options.order == "neurons" else ()

    @property
    def copies(self) -> Mapping[str, Mapping[str, Any]]:
        """What the manifest says of the copies in the order of neurons that hold for the shards, by tensor."""
        return {name: copy for name in self.names if (copy := noted(self.manifest, name)) is not None}

    @property
    def needed(self) -> int | None:
        """Bytes that are still to be written, None where nobody knows."""
        if self.expected is None:
            return None
        rest = max(self.expected.bytes - self.manifest["bytes"], 0) if self.left else 0
        return rest + self._turned(self.to_turn)

    @property
    def expected_bytes(self) -> int | None:
        """Bytes of the whole run, None where nobody knows."""
        if self.expected is None:
            return None
        return self.expected.bytes + (self._turned(self.work.tensors) if self.options.order == "neurons" else 0)

    def _turned(self, tensors: Sequence[Tensor]) -> int:
        """Bytes of copies of tensors, by what is there once all shards are."""
        if self.left and self.expected is not None:
            documents, tokens = self.expected.documents, self.expected.tokens
        else:
            documents, tokens = self.manifest["documents"], self.manifest["tokens"]
        return sum(size_of(tensor, documents, tokens) for tensor in tensors)

    def check_room(self) -> None:
        """Raises `OutputError` where the disk has not the room for what is left."""
        needed, free = self.needed, self.folder.free
        if needed is not None and free is not None and needed > free:
            raise OutputError(
                f"{printable(self.folder.place)} needs {needed:,} more bytes, its disk has {free:,} left",
                "make room, choose another disk, or keep less: `dtype=float16`, fewer `layers=`, `top=`",
            )

    def run(self, advance: Advance = lambda texts, tokens: None) -> Outcome:
        """Writes the shards that are left, and after each the manifest; `advance` is called with each batch."""
        start = time.monotonic()
        before = (self.manifest["documents"], self.manifest["tokens"])
        with self.folder as folder:
            if not self.resumed:
                manifests.write(folder, self.manifest)
            actors = self.options.actors
            written = self._written(folder, advance) if actors is None else self._written_by(actors, folder, advance)
            with closing(written):
                for shard, done in written:
                    self._note(folder, shard, done)
        return Outcome(
            self.manifest["documents"] - before[0],
            self.manifest["tokens"] - before[1],
            time.monotonic() - start,
        )

    def turn(self, advance: Callable[[int], None] = lambda size: None) -> None:
        """Writes the copies in the order of neurons that are still to be written, once all shards are there.

        `advance` is called with the bytes of each block that is done. Raises `CorruptFile` where a shard is damaged.
        """
        if not isinstance(self.folder, RunFolder):
            return
        with self.folder as folder:
            for tensor in self.to_turn:
                turn(folder, self.manifest, tensor, advance)
                manifests.write(folder, self.manifest)

    def why_not_finite(self) -> tuple[Finding, ...]:
        """Why numbers that were written are NaN or infinite, which reads all weights; nothing where none is."""
        done = [shard["done"] for shard in self.manifest["shards"] if shard["done"] is not None]
        if all(shard["finite"] for shard in done):
            return ()
        return why_not_finite(self.anatomy, self.manifest["compute"]["dtype"])

    def first_document(self, shard: Shard) -> int:
        """The number of a shard's first text in the corpus; where nobody counted, of what was written before it."""
        before = self.manifest["shards"][: shard.number]
        return sum(row["documents"] if "documents" in row else row["done"]["documents"] for row in before)

    def _written(self, folder: RunPlace, advance: Advance) -> Generator[tuple[Shard, Told]]:
        """The shards that are left, each written when it is asked for."""
        for shard, documents in self.work.corpus.walk(self.left):
            yield shard, write_shard(self.work, folder, shard, documents, self.first_document(shard), advance).told

    def _written_by(self, actors: Actors, folder: RunPlace, advance: Advance) -> Generator[tuple[Shard, Told]]:
        """The shards that are left, as actors have written them, in any order."""
        from bertprobe.sharded.on_ray import computed

        options = self.options
        task = ShardWriting.of(self.work, folder.address, options.compute, options.truncate, self.manifest)
        left = [(shard, self.first_document(shard)) for shard in self.left]
        with closing(computed(actors, task, left, task.compute.threads or 1)) as found:
            for shard, done in found:
                check_seen(folder, {name: file["bytes"] for name, file in done["files"].items()})
                advance(done["documents"], done["tokens"])
                yield shard, done

    def _note(self, folder: RunPlace, shard: Shard, done: Told) -> None:
        """Puts what a shard came to into the manifest."""
        counted = self.manifest["shards"][shard.number].get("documents")
        if counted not in (None, done["documents"]):
            raise CorruptFile(
                f"{self.work.corpus.files[shard.file].shown} has changed: shard {shard.number} had {counted:,} texts, "
                f"now {done['documents']:,}",
                "start anew in another folder",
            )
        manifests.finished(self.manifest, shard.number, done)
        manifests.write(folder, self.manifest)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command did of a run: texts, tokens and seconds."""

    documents: int
    tokens: int
    seconds: float

    @property
    def rate(self) -> float | None:
        """Tokens a second."""
        return self.tokens / self.seconds if self.tokens and self.seconds else None


def prepare(
    checkpoint: Checkpoint,
    anatomy: Anatomy,
    corpus: Corpus,
    place: Path | str,
    wish: Wish,
    options: Options = Options(),
    sentence: Sentence | None = None,
) -> Job:
    """Plans a run into a folder, or goes on with the one that is there; writes nothing.

    Args:
        checkpoint: the model, on this disk.
        anatomy: what it is made of.
        corpus: the texts.
        place: a folder that is new, empty, or of this same run; or its address, as fsspec has it: `s3://bucket/folder`.
        wish: what to keep.
        options: how to run.
        sentence: the model's recipe, ready to run, where `wish` has its vector.

    Raises:
        OutputError: the folder holds something else, or a run that differs.
        BadSetting, PartMissing: as `Wish` does.
        BertprobeError: as `open_runner` does, or a text that was looked at does not fit.
    """
    wish = wish.checked()
    _check_order(wish, options, place)
    folder = run_place(place, NAME)
    old = read_begun(folder, ACTIVATIONS)
    keeper = Keeper(wish, wish.columns(checkpoint, anatomy), sentence)
    if options.actors is not None:
        check_shared(corpus)
    compute = decided(options.compute, anatomy, old, options.actors)
    options = replace(options, compute=compute)
    work = opened(checkpoint, anatomy, corpus, keeper, planning(compute, options.actors), options.truncate)
    size = options.shard_text or (old["options"]["shard_text"] if old else _text_of_a_shard(work.tensors))
    run = run_of(work, compute, options.truncate, size, options.part)
    if old is not None and (other := differing(folder, ACTIVATIONS, old, run)) is not None:
        raise other
    shards = plan(corpus, text_bytes=size)
    if old is not None:
        expected = None if old["expected"] is None else Estimate(**old["expected"])
        _forget_what_is_gone(old, folder)
        return Job(checkpoint, anatomy, folder, old, shards, expected, work, True, options)
    counts = None
    if not any(shard.unit == "stream" for shard in shards):
        bare = len(manifests.dumped(manifests.planned(ACTIVATIONS, run, shards, None, None)))
        expected, counts = estimate(work, shards, options.part, bare)
    elif options.part != WHOLE:
        raise BadSetting("stdin cannot be cut into parts", "leave out `shard=`, or name a file")
    else:
        expected = None
    stamp = stamp_of(checkpoint, anatomy, corpus, work.runner) if options.verify else None
    run["expected"] = None if expected is None else asdict(expected)
    anew = manifests.planned(ACTIVATIONS, run, shards, counts, stamp)
    return Job(checkpoint, anatomy, folder, anew, shards, expected, work, False, options)


def _check_order(wish: Wish, options: Options, place: Path | str) -> None:
    """Raises `BadSetting` for an order that there is not, or not of this."""
    if options.order not in ORDERS:
        raise BadSetting(f"there is no `order={options.order}`", f"choose {', '.join(ORDERS)}")
    if options.order == "neurons" and wish.top:
        raise BadSetting(
            "`top=` keeps other neurons of each row, which have no order", "leave out `order=`, or choose `neurons=`"
        )
    if options.order == "neurons" and is_address(place):
        raise BadSetting(
            f"`order=neurons` goes over the files of {printable(str(place))}, which are not on this disk",
            "leave out `order=`",
        )
    if options.order == "neurons" and options.part != WHOLE:
        raise BadSetting(
            "`order=neurons` goes over all shards, `shard=` has some",
            "put the parts together, then repeat the command of the whole with it",
        )


def _text_of_a_shard(tensors: Sequence[Tensor]) -> int:
    """Bytes of text that fill a shard: few where a token comes to many bytes, so that a killed run loses little."""
    a_token = sum(tensor.row_bytes for tensor in tensors if tensor.rows == "tokens")
    return min(MOST_TEXT, max(LEAST_TEXT, MOST_ROWS * BYTES_A_TOKEN // max(a_token, 1)))


def _forget_what_is_gone(manifest: Manifest, folder: RunPlace) -> None:
    """Shards whose files are no longer there are written again."""
    for shard in manifest["shards"]:
        files = {} if shard["done"] is None else shard["done"]["files"]
        if not all(folder.has(name, file["bytes"]) for name, file in files.items()):
            manifests.finished(manifest, shard["number"], None)
