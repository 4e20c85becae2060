"""A scan of a corpus into a folder: planned, done shard by shard, gone on with."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertprobe.anatomy import Anatomy, select
from bertprobe.checkpoint import Checkpoint
from bertprobe.corpus import Corpus, CorpusFile, Document, Documents, Shard, plan
from bertprobe.errors import BadSetting, BertprobeError, NotFound, PartMissing, UnsupportedFile, printable
from bertprobe.export.files import RunFolder
from bertprobe.neurons import embedded
from bertprobe.neurons import state as states
from bertprobe.neurons.embedded import Needed, Passage, is_embedded, whole_text
from bertprobe.neurons.scan import Kept, NeuronScan
from bertprobe.neurons.state import Done, State
from bertprobe.run import Captured, Compute, Runner, Site, open_runner, run_encoded
from bertprobe.sharded import NAME, NEURONS, WHOLE, Manifest, Part, decided, differing, read_begun, stamp_of
from bertprobe.sharded import manifest as manifests
from bertprobe.tokens import Encoded, beginning, check_length, chunks

if TYPE_CHECKING:
    from bertprobe.tokens import Packed

SHARD_TEXT = 2**20  # bytes of text of a shard
SAVING = 0.05  # of the time may go into saving the state: a large one is not written after every shard
Advance = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Options:
    """How to scan, beside what is kept of each neuron.

    `seed` decides which random tokens are drawn, `part` which of the shards are scanned here; `embed_text` has the scan
    carry the texts of its examples.
    """

    kept: Kept = field(default_factory=Kept)
    layers: str | None = None
    seed: int = 0
    truncate: bool = False
    shard_text: int = SHARD_TEXT
    verify: bool = True
    compute: Compute = field(default_factory=Compute)
    part: Part = WHOLE
    embed_text: bool = False


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
        state, left = self.state, self.left
        saved, took = time.monotonic(), 0.0
        with self.folder as folder:
            if not self.resumed:
                manifests.write(folder, self.manifest)
            for shard, documents in self.corpus.walk(left):
                state = self._with_shard(state, shard, documents, advance)
                start = time.monotonic()
                if start - saved >= took / SAVING or shard is left[-1]:
                    save(folder, state)
                    saved = time.monotonic()
                    took = saved - start
            if not self.own:
                save(folder, state)
            for shard, done in zip(self.own, state.done, strict=True):
                manifests.finished(self.manifest, shard.number, asdict(done))
            manifests.write(folder, self.manifest)
            if self.options.embed_text and not is_embedded(folder, self.manifest):
                texts = self._texts(state)
                self.manifest["texts"] = embedded.write(folder, texts, self.runner.tokenizer.piece)
                manifests.write(folder, self.manifest)
        return self.manifest

    def _texts(self, state: State) -> Iterator[Passage]:
        """The texts that a scan's examples stand in, as far as they are needed: the corpus is read once more."""
        needed = Needed.of(state)
        firsts = accumulate((done.documents for done in state.done), initial=0)
        inside = {
            shard: (first, chosen)
            for shard, (first, stop) in zip(self.own, pairwise(firsts), strict=True)
            if (chosen := needed.between(first, stop))
        }
        for shard, documents in self.corpus.walk(inside):
            first, chosen = inside[shard]
            there = (document for document in documents if first + document.number in chosen)
            whole = (
                whole_text(first + document.number, document.row, text) for document, text in self._tokenized(there)
            )
            yield from needed.of_passages(whole)

    @property
    def own(self) -> Sequence[Shard]:
        """The shards of this part of the plan."""
        return self.options.part.chosen(self.shards)

    @property
    def left(self) -> Sequence[Shard]:
        """The shards that are still to be scanned."""
        return self.own[len(self.state.done) :]

    @property
    def guessed_tokens(self) -> int | None:
        """About how many tokens are left, four bytes each; None where the bytes of text are not known."""
        left = self.left
        return sum(shard.stop - shard.start for shard in left) // 4 if all(s.unit == "bytes" for s in left) else None

    def _with_shard(self, state: State, shard: Shard, documents: Documents, advance: Advance) -> State:
        options, file = self.options, self.corpus.files[shard.file]
        labels = labels_in(self.anatomy, options.layers)
        scan = NeuronScan(labels, options.kept, salt_of(options.seed, file, shard), state.sites)
        counted = _Counted(text for _, text in self._tokenized(documents))
        run_encoded(self.runner, counted, scan, _Told(labels[0], advance))
        if not scan.is_finite:
            raise BertprobeError(
                f"{printable(self.checkpoint.ref)} puts out NaN or infinity for a text of {file.shown}",
                "look at its weights with: bertprobe inspect",
            )
        done = Done(counted.documents, counted.tokens, counted.truncated, sum(documents.skipped.values()))
        return state.joined(scan.found, [done], options.kept)

    def _tokenized(self, documents: Iterable[Document]) -> Iterator[tuple[Document, Encoded]]:
        longest = self.runner.engine.longest
        for chunk in chunks(documents, lambda document: len(document.text)):
            texts = [document.text for document in chunk]
            found = self.runner.tokenizer.encode_many(texts, longest=longest if self.options.truncate else None)
            for document, text in zip(chunk, found, strict=True):
                check_length(len(text), longest, partial(self._named, document))
                yield document, text

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
    old = read_begun(folder, NEURONS)
    runner = open_runner(checkpoint, anatomy, decided(options.compute, anatomy, old), needs=frozenset(labels))
    if not runner.engine.rows_are_tokens:
        raise UnsupportedFile(
            f"the rows that {printable(checkpoint.ref)} computes are not tokens, and examples would refer to nothing",
            "choose a model that keeps a row for each token",
        )
    told = {**_told(options, labels), "longest": runner.engine.longest}
    run = manifests.deciding(checkpoint, anatomy, corpus, runner, told, options.part)
    if old is not None and (other := differing(folder, NEURONS, old, run)) is not None:
        raise other
    shards = plan(corpus, text_bytes=options.shard_text)
    if not shards:
        raise NotFound("there is no text", "name files with texts")
    if options.part != WHOLE and any(shard.unit == "stream" for shard in shards):
        raise BadSetting("stdin cannot be cut into parts", "leave out `shard=`, or name a file")
    if options.embed_text and any(shard.unit == "stream" for shard in shards):
        raise BadSetting(
            "stdin cannot be read again for the texts of examples", "leave out `embed_text=True`, or name a file"
        )
    if old is None:
        stamp = stamp_of(checkpoint, anatomy, corpus, runner, labels.__contains__) if options.verify else None
        anew = manifests.planned(NEURONS, run, shards, None, stamp)
        return ScanJob(checkpoint, anatomy, corpus, runner, folder, options, anew, shards, State({}), False)
    state = states.load(path / states.NAME) if (path / states.NAME).is_file() else State({})
    return ScanJob(checkpoint, anatomy, corpus, runner, folder, options, old, shards, state, True)


def labels_in(anatomy: Anatomy, layers: str | None) -> list[str]:
    """The intermediate modules of some layers, None for all, by label."""
    found = [part.label for part in select(anatomy, ["intermediate"], layers) if part.role == "intermediate"]
    if not found:
        raise PartMissing("there is no intermediate module", "look at what there is with: bertprobe inspect --shapes")
    return found


def _told(options: Options, labels: Sequence[str]) -> dict[str, Any]:
    kept = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(options.kept).items()}
    return {
        **kept,
        "parts": list(labels),
        "seed": options.seed,
        "truncate": options.truncate,
        "shard_text": options.shard_text,
    }


def save(folder: RunFolder, state: State) -> None:
    """Writes what was found so far."""
    with folder.file(states.NAME) as file:
        states.put(state, file)
