"""A run: planned, told, and done shard by shard; begun anew or gone on with."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bertprobe.anatomy import Anatomy
from bertprobe.anatomy.native import why_not_native
from bertprobe.checkpoint import Checkpoint
from bertprobe.corpus import Corpus, Shard, plan
from bertprobe.errors import BadSetting, OutputError, printable
from bertprobe.export.files import RunFolder
from bertprobe.extract import manifest as manifests
from bertprobe.extract.estimate import Estimate, estimate
from bertprobe.extract.manifest import Manifest
from bertprobe.extract.rows import Keeper, Tensor
from bertprobe.extract.shard import Advance, Work, write_shard
from bertprobe.extract.stamp import stamped
from bertprobe.extract.wish import Wish
from bertprobe.run import Captured, Compute, Runner, Site, open_runner, run_batch
from bertprobe.run.nonfinite import why_not_finite
from bertprobe.run.sentence import Sentence
from bertprobe.storages import endings
from bertprobe.tokens import Encoded, Packed, pack
from bertprobe.verdicts import Finding

MOST_TEXT = 2**22  # bytes of text in a shard
LEAST_TEXT = 2**16
MOST_ROWS = 2**30  # bytes that the rows of a shard shall come to
BYTES_A_TOKEN = 4  # of text, about


@dataclass(frozen=True, slots=True)
class Options:
    """How to run beside what to keep.

    `truncate` cuts texts, `shard_text` is the bytes of text of a shard, `verify` has a few texts run through
    transformers, too, when a run begins.
    """

    compute: Compute = field(default_factory=Compute)
    truncate: bool = False
    shard_text: int | None = None
    verify: bool = False


@dataclass(frozen=True)
class Job:
    """A run that is planned: what of it is done, and what is left to do. Made by `prepare`."""

    checkpoint: Checkpoint
    anatomy: Anatomy
    folder: RunFolder
    manifest: Manifest
    shards: tuple[Shard, ...]
    expected: Estimate | None
    work: Work
    resumed: bool

    @property
    def left(self) -> tuple[Shard, ...]:
        """The shards that are still to be written."""
        return tuple(shard for shard in self.shards if self.manifest["shards"][shard.number]["done"] is None)

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that are kept."""
        return tuple(tensor.name for tensor in self.work.tensors)

    @property
    def needed(self) -> int | None:
        """Bytes that are still to be written, None where nobody knows."""
        return None if self.expected is None else max(self.expected.bytes - self.manifest["bytes"], 0)

    def check_room(self) -> None:
        """Raises `OutputError` where the disk has not the room for what is left."""
        if self.left and self.needed is not None and self.needed > self.folder.free:
            raise OutputError(
                f"{printable(str(self.folder.path))} needs {self.needed:,} more bytes, its disk has "
                f"{self.folder.free:,} left",
                "make room, choose another disk, or keep less: `dtype=float16`, fewer `layers=`, `top=`",
            )

    def run(self, advance: Advance = lambda texts, tokens: None) -> Outcome:
        """Writes the shards that are left, and after each the manifest; `advance` is called with each batch."""
        start = time.monotonic()
        before = (self.manifest["documents"], self.manifest["tokens"])
        with self.folder as folder:
            if not self.resumed:
                self._write_manifest(folder)
            for shard, documents in self.work.corpus.walk(self.left):
                number = sum(
                    other["done"]["documents"] for other in self.manifest["shards"][: shard.number] if other["done"]
                )
                done = write_shard(self.work, folder, shard, documents, number, advance)
                manifests.finished(self.manifest, shard.number, done)
                self._write_manifest(folder)
        return Outcome(
            self.manifest["documents"] - before[0],
            self.manifest["tokens"] - before[1],
            time.monotonic() - start,
        )

    def why_not_finite(self) -> tuple[Finding, ...]:
        """Why numbers that were written are NaN or infinite, which reads all weights; nothing where none is."""
        done = [shard["done"] for shard in self.manifest["shards"] if shard["done"] is not None]
        if all(shard["finite"] for shard in done):
            return ()
        return why_not_finite(self.anatomy, self.work.runner.backend.dtype)

    def _write_manifest(self, folder: RunFolder) -> None:
        with folder.file(manifests.NAME) as file:
            file.put(0, manifests.dumped(self.manifest))


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
    path: Path,
    wish: Wish,
    options: Options = Options(),
    sentence: Sentence | None = None,
) -> Job:
    """Plans a run into a folder, or goes on with the one that is there; writes nothing.

    Args:
        checkpoint: the model, on this disk.
        anatomy: what it is made of.
        corpus: the texts.
        path: a folder that is new, empty, or of this same run.
        wish: what to keep.
        options: how to run.
        sentence: the model's recipe, ready to run, where `wish` has its vector.

    Raises:
        OutputError: the folder holds something else, or a run that differs.
        BadSetting, PartMissing: as `Wish` does.
        BertprobeError: as `open_runner` does, or a text that was looked at does not fit.
    """
    wish = wish.checked()
    folder = RunFolder(path, manifests.NAME)
    text = folder.text()
    old = None if text is None else manifests.parsed(text, str(path / manifests.NAME))
    if old is not None and any(not file["sha256"] for file in old["corpus"]["files"]):
        raise OutputError(
            f"{printable(str(path))} was made of stdin, which cannot be read again", "choose another folder"
        )
    keeper = Keeper(wish, wish.columns(checkpoint, anatomy), sentence)
    compute = _decided(anatomy, options.compute, old)
    tokenizer = None if sentence is None else sentence.tokenizer
    runner = open_runner(checkpoint, anatomy, compute, needs=keeper.needs, tokenizer=tokenizer)
    tensors = _tensors(runner, keeper)
    longest, truncate = runner.engine.longest, options.truncate
    if sentence is not None:
        most, truncate = sentence.cut(longest, truncate)
        longest = longest if most is None else most
    work = Work(corpus, runner, keeper, tensors, longest, truncate)
    size = options.shard_text or (old["options"]["shard_text"] if old else _text_of_a_shard(tensors))
    run = manifests.deciding(
        checkpoint,
        anatomy,
        corpus,
        runner.tokenizer.name,
        tensors,
        options={
            **_listed(wish),
            "truncate": options.truncate,
            "shard_text": size,
            "recipe": None if sentence is None else _recipe(checkpoint, sentence),
        },
        compute=manifests.computed(runner),
    )
    if old is not None and (found := manifests.differences(old, run)):
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise OutputError(
            f"{printable(str(path))} holds another run: {'; '.join(found[:3])}{more}",
            "repeat its command to go on with it, or choose another folder",
        )
    shards = plan(corpus, text_bytes=size)
    if old is not None:
        expected = None if old["expected"] is None else Estimate(**old["expected"])
        _forget_what_is_gone(old, folder)
        return Job(checkpoint, anatomy, folder, old, shards, expected, work, True)
    anew = manifests.planned(run, shards)
    streams = any(shard.unit == "stream" for shard in shards)
    bare = len(manifests.dumped(anew))
    expected = None if streams else estimate(work, shards, bare)
    if options.verify and streams:
        raise BadSetting("stdin cannot be read twice", "leave out `verify=True`, or name a file")
    anew["expected"] = None if expected is None else asdict(expected)
    anew["verified"] = stamped(checkpoint, anatomy, work) if options.verify else None
    return Job(checkpoint, anatomy, folder, anew, shards, expected, work, False)


def _decided(anatomy: Anatomy, compute: Compute, old: Manifest | None) -> Compute:
    """What was left open, as it was decided when the run began: another machine must not go on otherwise."""
    was: Mapping[str, Any] = {} if old is None else old["compute"]
    native = why_not_native(anatomy) is None
    backend = str(was.get("backend", "torch")) if compute.backend == "auto" and native else compute.backend
    return replace(
        compute,
        backend=backend,
        device=str(was.get("device", "auto")) if compute.device == "auto" else compute.device,
        threads=was.get("threads") if compute.threads is None else compute.threads,
        batch_tokens=was.get("batch_tokens") if compute.batch_tokens is None else compute.batch_tokens,
    )


def _listed(wish: Wish) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(wish).items()}


def _recipe(checkpoint: Checkpoint, sentence: Sentence) -> dict[str, str]:
    """The prompt, and the hashes of all settings files and of the modules' weights."""
    home = checkpoint.home
    found = manifests.hashes(home, sorted(name for name in home.names if name.endswith(".json")))
    for step in sentence.recipe.steps:
        below = home.below(step.path) if getattr(step, "path", "") and home.is_folder(step.path) else None
        if below is not None:
            files = sorted(name for name in below.names if name.endswith((".json", *endings())))
            found |= {f"{step.path}/{name}": text for name, text in manifests.hashes(below, files).items()}
    return {"prompt": sentence.prompt, **found}


class _Probe:
    """A collector that keeps what it is shown."""

    is_finite = True

    def __init__(self, needs: frozenset[str]) -> None:
        self.needs = needs
        self.seen: list[Captured] = []

    def reduce(self, captured: Captured) -> Captured:
        return captured

    def add(self, site: Site, batch: Packed, reduced: Captured) -> None:
        self.seen.append(reduced)


def _tensors(runner: Runner, keeper: Keeper) -> tuple[Tensor, ...]:
    """What every shard has, by what a short text becomes."""
    import numpy as np

    text = runner.tokenizer.encode("a")
    if not len(text):
        text = Encoded(np.zeros(4, np.int64), np.zeros(4, np.int64), ())
    probe = _Probe(keeper.needs)
    run_batch(runner, pack([text]), probe)
    found = keeper.tensors(probe.seen)
    if not found:
        raise BadSetting("nothing would be kept", "choose a `part=` or `vector=` that this model has")
    return found


def _text_of_a_shard(tensors: Sequence[Tensor]) -> int:
    """Bytes of text that fill a shard: few where a token comes to many bytes, so that a killed run loses little."""
    a_token = sum(tensor.row_bytes for tensor in tensors if tensor.rows == "tokens")
    return min(MOST_TEXT, max(LEAST_TEXT, MOST_ROWS * BYTES_A_TOKEN // max(a_token, 1)))


def _forget_what_is_gone(manifest: Manifest, folder: RunFolder) -> None:
    """Shards whose files are no longer there are written again."""
    for shard in manifest["shards"]:
        files = {} if shard["done"] is None else shard["done"]["files"]
        if not all(folder.has(name, file["bytes"]) for name, file in files.items()):
            shard["done"] = None
    manifests.sum_up(manifest)
