"""A scan of a corpus into a folder: planned, done shard by shard, gone on with; and two scans made one."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertprobe.anatomy import Anatomy, select
from bertprobe.anatomy.native import why_not_native
from bertprobe.checkpoint import Checkpoint
from bertprobe.corpus import Corpus, CorpusFile, Document, Documents, Shard, plan
from bertprobe.errors import BertprobeError, CorruptFile, NotFound, OutputError, PartMissing, UnsupportedFile, printable
from bertprobe.export.files import RunFolder
from bertprobe.export.tensors import digests
from bertprobe.extract import manifest as manifests
from bertprobe.neurons import state as states
from bertprobe.neurons.scan import Kept, NeuronScan
from bertprobe.neurons.state import Done, State
from bertprobe.run import Captured, Compute, Runner, Site, open_runner, run_encoded
from bertprobe.tokens import Encoded, beginning, check_length, chunks

if TYPE_CHECKING:
    from bertprobe.tokens import Packed
    from bertprobe.verify import Agreement

NAME = "manifest.json"
FORMAT = "bertprobe neurons"
LAYOUT = 1
SHARD_TEXT = 2**20  # bytes of text of a shard
SAVING = 0.05  # of the time may go into saving the state: a large one is not written after every shard
SAMPLE, SAMPLE_CHARACTERS = 8, 400  # texts that are held against transformers, and how long they may be
Manifest = dict[str, Any]
Advance = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Options:
    """How to scan, beside what is kept of each neuron: `seed` decides which random tokens are drawn."""

    kept: Kept = field(default_factory=Kept)
    layers: str | None = None
    seed: int = 0
    truncate: bool = False
    shard_text: int = SHARD_TEXT
    verify: bool = True
    compute: Compute = field(default_factory=Compute)


@dataclass(frozen=True, slots=True)
class ScanJob:
    """A scan that is planned, with what is done of it already."""

    checkpoint: Checkpoint
    anatomy: Anatomy
    corpus: Corpus
    runner: Runner
    folder: RunFolder
    options: Options
    manifest: Manifest
    shards: tuple[Shard, ...]
    state: State
    resumed: bool

    def run(self, advance: Advance = lambda texts, tokens: None) -> Manifest:
        """Scans the shards that are left; the state is saved after each, or less often where that would take long.

        `advance` is called with the texts and tokens of each batch. Raises `BertprobeError` where an activation is NaN
        or infinite.
        """
        state, left = self.state, self.shards[len(self.state.done) :]
        saved, took = time.monotonic(), 0.0
        with self.folder as folder:
            if not self.resumed:
                _write(folder, self.manifest)
            for shard, documents in self.corpus.walk(left):
                state = self._with_shard(state, shard, documents, advance)
                start = time.monotonic()
                if start - saved >= took / SAVING or shard is left[-1]:
                    _save(folder, state)
                    saved = time.monotonic()
                    took = saved - start
            found = finished(self.manifest, state)
            _write(folder, found)
        return found

    @property
    def guessed_tokens(self) -> int | None:
        """About how many tokens are left, four bytes each; None where the bytes of text are not known."""
        left = self.shards[len(self.state.done) :]
        return sum(shard.stop - shard.start for shard in left) // 4 if all(s.unit == "bytes" for s in left) else None

    def _with_shard(self, state: State, shard: Shard, documents: Documents, advance: Advance) -> State:
        options, file = self.options, self.corpus.files[shard.file]
        labels = labels_in(self.anatomy, options.layers)
        scan = NeuronScan(labels, options.kept, salt_of(options.seed, file, shard), state.sites)
        counted = _Counted(self._encoded(documents))
        run_encoded(self.runner, counted, scan, _Told(labels[0], advance))
        if not scan.is_finite:
            raise BertprobeError(
                f"{printable(self.checkpoint.ref)} puts out NaN or infinity for a text of {file.shown}",
                "look at its weights with: bertprobe inspect",
            )
        done = Done(counted.documents, counted.tokens, counted.truncated, sum(documents.skipped.values()))
        return state.joined(scan.found, [done], options.kept)

    def _encoded(self, documents: Iterable[Document]) -> Iterator[Encoded]:
        longest = self.runner.engine.longest
        for chunk in chunks(documents, lambda document: len(document.text)):
            texts = [document.text for document in chunk]
            found = self.runner.tokenizer.encode_many(texts, longest=longest if self.options.truncate else None)
            for document, text in zip(chunk, found, strict=True):
                check_length(len(text), longest, partial(self._named, document))
                yield text

    def _named(self, document: Document) -> str:
        shown = self.corpus.files[document.file].shown
        return f"{shown}, row {document.row} from 0 ({beginning(document.text)}),"


class _Told:
    """A collector that keeps nothing and tells of each batch."""

    is_finite = True

    def __init__(self, label: str, advance: Advance) -> None:
        self.needs = frozenset({label})
        self._advance = advance

    def reduce(self, captured: Captured) -> None:
        return None

    def add(self, site: Site, batch: Packed, reduced: None) -> None:
        if site.call == 0:
            self._advance(len(batch.lengths), len(batch.ids))


class _Counted:
    """Texts as they pass by."""

    def __init__(self, texts: Iterator[Encoded]) -> None:
        self._texts = texts
        self.documents = self.tokens = self.truncated = 0

    def __iter__(self) -> Iterator[Encoded]:
        for text in self._texts:
            self.documents += 1
            self.tokens += len(text)
            self.truncated += text.truncated > 0
            yield text


def salt_of(seed: int, file: CorpusFile, shard: Shard) -> int:
    """What decides which tokens of a shard are drawn: the seed, the file by its hash, where the shard begins in it."""
    digest = hashlib.blake2b(f"{seed} {file.sha256} {shard.start}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


# ------------------------------------------------------------------------------------------------ planning


def prepare_scan(
    checkpoint: Checkpoint, anatomy: Anatomy, corpus: Corpus, path: Path, options: Options = Options()
) -> ScanJob:
    """Plans a scan into a folder, or goes on with the one that is there.

    Raises:
        OutputError: the folder holds something else, or a scan that differs.
        PartMissing: there is no such layer.
        BertprobeError: as `open_runner` does.
    """
    labels = labels_in(anatomy, options.layers)
    folder = RunFolder(path, NAME)
    text = folder.text()
    old = None if text is None else parsed(text, str(path / NAME))
    if old is not None and any(not file["sha256"] for file in old["corpus"]["files"]):
        raise OutputError(
            f"{printable(str(path))} was made of stdin, which cannot be read again", "choose another folder"
        )
    runner = open_runner(checkpoint, anatomy, _decided(options.compute, anatomy), needs=frozenset(labels))
    if not runner.engine.rows_are_tokens:
        raise UnsupportedFile(
            f"the rows that {printable(checkpoint.ref)} computes are not tokens, and examples would refer to nothing",
            "choose a model that keeps a row for each token",
        )
    run = {
        **manifests.deciding(
            checkpoint,
            anatomy,
            corpus,
            runner.tokenizer.name,
            (),
            options={**_told(options, labels), "longest": runner.engine.longest},
            compute=manifests.computed(runner),
        ),
        "format": FORMAT,
        "layout": LAYOUT,
    }
    if old is not None and (found := manifests.differences(old, run)):
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise OutputError(
            f"{printable(str(path))} holds another scan: {'; '.join(found[:3])}{more}",
            "repeat its command to go on with it, or choose another folder",
        )
    shards = plan(corpus, text_bytes=options.shard_text)
    if not shards:
        raise NotFound("there is no text", "name files with texts")
    if old is None:
        stamp = stamped(checkpoint, anatomy, corpus, runner, labels) if options.verify else None
        old = {**run, "verify": stamp, "complete": False, "shards": [asdict(shard) for shard in shards]}
        return ScanJob(checkpoint, anatomy, corpus, runner, folder, options, old, shards, State({}), False)
    state = states.load(path / states.NAME) if (path / states.NAME).is_file() else State({})
    return ScanJob(checkpoint, anatomy, corpus, runner, folder, options, old, shards, state, True)


def labels_in(anatomy: Anatomy, layers: str | None) -> list[str]:
    """The intermediate modules of some layers, None for all, by label."""
    found = [part.label for part in select(anatomy, ["intermediate"], layers) if part.role == "intermediate"]
    if not found:
        raise PartMissing("there is no intermediate module", "look at what there is with: bertprobe inspect --shapes")
    return found


def _decided(compute: Compute, anatomy: Anatomy) -> Compute:
    """A corpus is worth the import of torch, whatever its first texts are."""
    is_open = compute.backend == "auto" and why_not_native(anatomy) is None
    return replace(compute, backend="torch") if is_open else compute


def _told(options: Options, labels: Sequence[str]) -> dict[str, Any]:
    kept = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(options.kept).items()}
    return {
        **kept,
        "parts": list(labels),
        "seed": options.seed,
        "truncate": options.truncate,
        "shard_text": options.shard_text,
    }


def finished(manifest: Manifest, state: State) -> Manifest:
    """The manifest of a scan that is done, with what it came to."""
    done = [asdict(shard) for shard in state.done]
    sums = {key: sum(shard[key] for shard in done) for key in ("documents", "tokens", "truncated", "skipped")}
    shards = [{**shard, "done": counts} for shard, counts in zip(manifest["shards"], done, strict=True)]
    return {**manifest, **sums, "complete": True, "shards": shards}


def _save(folder: RunFolder, state: State) -> None:
    with folder.file(states.NAME) as file:
        states.put(state, file)


def _write(folder: RunFolder, manifest: Manifest) -> None:
    with folder.file(NAME) as file:
        file.put(0, manifests.dumped(manifest))


def parsed(text: str, where: str) -> Manifest:
    """A manifest that was written; raises `CorruptFile` for what is none."""
    try:
        found: Manifest = json.loads(text)
        ours = found["format"] == FORMAT and found["layout"] == LAYOUT
    except (ValueError, TypeError, KeyError, RecursionError):
        ours = False
    if not ours:
        raise CorruptFile(f"{printable(where)} is not the manifest of a scan of neurons", "choose another folder")
    return found


# ------------------------------------------------------------------------------------------------ the stamp


def stamped(
    checkpoint: Checkpoint, anatomy: Anatomy, corpus: Corpus, runner: Runner, labels: Sequence[str]
) -> dict[str, Any] | None:
    """How far the activations of some texts of the corpus are from transformers', and the activation in force.

    None where the corpus cannot be read twice, or has no short text.
    """
    from bertprobe.verify import verify

    texts = _sample(corpus, runner)
    if not texts:
        return None
    found = [one for one in verify(checkpoint, anatomy, texts) if one.part.partition(" ")[0] in labels]
    activations = sorted({part.activation for part in anatomy.of("intermediate", "gate") if part.activation})
    return {
        "texts": len(texts),
        "activation": activations[0] if activations else anatomy.config_spec.activation,
        "largest_difference": max((_largest(one) for one in found), default=0.0),
        "limit": min((one.limit for one in found), default=0.0),
        "holds": all(one.holds for one in found),
    }


def _largest(found: Agreement) -> float:
    return max(found.ours.values(), default=found.theirs or 0.0)


def _sample(corpus: Corpus, runner: Runner) -> list[str]:
    """The first short texts of the corpus that have more than blanks."""
    if any(not file.sha256 for file in corpus.files):
        return []
    found: list[str] = []
    for number, document in enumerate(corpus.documents()):
        if len(found) == SAMPLE or number == 1000:
            break
        short = document.text.strip() and len(document.text) <= SAMPLE_CHARACTERS
        if short and len(runner.tokenizer.encode(document.text)) <= runner.engine.longest:
            found.append(document.text)
    return found


# ------------------------------------------------------------------------------------------------ reading


@dataclass(frozen=True, slots=True)
class ScanFolder:
    """A scan that is done: its manifest and what was found."""

    path: Path
    manifest: Manifest
    state: State

    @property
    def kept(self) -> Kept:
        options: Mapping[str, Any] = self.manifest["options"]
        return Kept(options["top"], options["drawn"], tuple(options["thresholds"]))


def open_scan(path: Path) -> ScanFolder:
    """Reads the folder that `neurons scan` or `neurons merge` wrote; of a scan under way what is saved of it."""
    try:
        text = (path / NAME).read_text("utf-8")
    except (OSError, ValueError) as error:
        raise NotFound(
            f"{printable(str(path))} has no {NAME}", "name the folder that bertprobe neurons scan wrote"
        ) from error
    return ScanFolder(path, parsed(text, str(path / NAME)), states.load(path / states.NAME))


def check_model(folder: ScanFolder, checkpoint: Checkpoint) -> None:
    """Raises `NotFound` where a checkpoint is not the one that was scanned, by the hashes of its files."""
    if digests(checkpoint, checkpoint.files) != folder.manifest["model"]["files"]:
        raise NotFound(
            f"{printable(checkpoint.ref)} is not the model that was scanned: the sha256 of its weights differs",
            "name that one",
        )


def merge_scans(folders: Sequence[ScanFolder], path: Path) -> Manifest:
    """Writes the scan of several corpora, in their order, to a new folder; gives its manifest.

    Raises `OutputError` where they are of different models or options, or one is not done.
    """
    first, *others = folders
    for other in others:
        found = manifests.differences(_comparable(first.manifest), _comparable(other.manifest))
        if found:
            raise OutputError(
                f"{printable(str(other.path))} and {printable(str(first.path))} differ: {'; '.join(found[:3])}",
                "scan both with one model and the same options",
            )
    for folder in folders:
        if not folder.manifest["complete"]:
            raise OutputError(f"{printable(str(folder.path))} is not done", "repeat its command to go on with it")
    target = RunFolder(path, NAME)
    if target.text() is not None:
        raise OutputError(f"{printable(str(path))} is there already", "choose another folder")
    manifest, state = first.manifest, first.state
    for other in others:
        manifest = _both(manifest, other.manifest)
        state = state.joined(other.state.sites, other.state.done, first.kept)
    manifest = finished(manifest, state)
    with target as opened:
        _save(opened, state)
        _write(opened, manifest)
    return manifest


def _comparable(manifest: Manifest) -> Manifest:
    """What must be the same of two scans that are to be one; where they ran need not be."""
    return {**manifest, "corpus": None, "compute": None, "made_by": None}


def _both(one: Manifest, two: Manifest) -> Manifest:
    """The manifest of the scan of both corpora."""
    files, shards = len(one["corpus"]["files"]), len(one["shards"])
    moved = [{**s, "number": s["number"] + shards, "file": s["file"] + files} for s in two["shards"]]
    stamps = [stamp for stamp in (one["verify"], two["verify"]) if stamp is not None]
    worst = max(stamps, key=lambda stamp: (not stamp["holds"], stamp["largest_difference"]), default=None)
    return {
        **one,
        "corpus": {**one["corpus"], "files": [*one["corpus"]["files"], *two["corpus"]["files"]]},
        "verify": None if worst is None else {**worst, "texts": sum(stamp["texts"] for stamp in stamps)},
        "shards": [*one["shards"], *moved],
    }
