"""A scan of a corpus into a folder: planned, done shard by shard, gone on with."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path

from bertprobe.anatomy import Anatomy
from bertprobe.checkpoint import Checkpoint
from bertprobe.corpus import Corpus, Documents, Shard, plan
from bertprobe.errors import BadSetting, NotFound
from bertprobe.export.files import RunFolder
from bertprobe.neurons import embedded
from bertprobe.neurons import state as states
from bertprobe.neurons.apart import ShardScanning
from bertprobe.neurons.embedded import Needed, Passage, is_embedded, whole_text
from bertprobe.neurons.opening import Options, opened, run_of
from bertprobe.neurons.shard import Advance, Work
from bertprobe.neurons.state import State
from bertprobe.sharded import NAME, NEURONS, WHOLE, Actors, Manifest, decided, differing, read_begun, stamp_of
from bertprobe.sharded import manifest as manifests
from bertprobe.sharded.elsewhere import check_shared, planning

SAVING = 0.05  # of the time may go into saving the state: a large one is not written after every shard


@dataclass(frozen=True, slots=True)
class ScanJob:
    """A scan that is planned, with what is done of it already."""

    work: Work
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
            actors = self.options.actors
            growing = self._states(advance) if actors is None else self._states_by(actors, advance)
            with closing(growing):
                for number, state in enumerate(growing, 1):
                    start = time.monotonic()
                    if start - saved >= took / SAVING or number == len(left):
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
                self.manifest["texts"] = embedded.write(folder, texts, self.work.runner.tokenizer.piece)
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
        for shard, documents in self.work.corpus.walk(inside):
            first, chosen = inside[shard]
            there = (document for document in documents if first + document.number in chosen)
            whole = (
                whole_text(first + document.number, document.row, text) for document, text in self.work.tokenized(there)
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

    def _states(self, advance: Advance) -> Generator[State]:
        """What is found once each shard is scanned, when it is asked for."""
        state = self.state
        for shard, documents in self.work.corpus.walk(self.left):
            state = self._with_shard(state, shard, documents, advance)
            yield state

    def _states_by(self, actors: Actors, advance: Advance) -> Generator[State]:
        """The same, where actors scan shards and this process adds them up in their order."""
        from bertprobe.sharded.on_ray import computed

        task, state = ShardScanning.of(self.work, self.options, self.manifest), self.state
        left = [(shard, 0) for shard in self.left]
        with closing(computed(actors, task, left, task.compute.threads or 1, ordered=True)) as found:
            for _, (sites, done) in found:
                advance(done.documents, done.tokens)
                state = state.joined(sites, [done], self.options.kept)
                yield state

    def _with_shard(self, state: State, shard: Shard, documents: Documents, advance: Advance) -> State:
        sites, done = self.work.scanned(shard, documents, state.sites, advance)
        return state.joined(sites, [done], self.options.kept)


# ------------------------------------------------------------------------------------------------ planning


def prepare_scan(
    checkpoint: Checkpoint, anatomy: Anatomy, corpus: Corpus, path: Path, options: Options | None = None
) -> ScanJob:
    """Plans a scan into a folder, or goes on with the one that is there.

    Raises:
        OutputError: the folder holds something else, or a scan that differs.
        PartMissing: there is no such layer.
        BertprobeError: as `open_runner` does.
    """
    options = options or Options()
    folder = RunFolder(path, NAME)
    old = read_begun(folder, NEURONS)
    if options.actors is not None:
        check_shared(corpus)
    compute = decided(options.compute, anatomy, old, options.actors)
    options = replace(options, compute=compute)
    work = opened(checkpoint, anatomy, corpus, options, planning(compute, options.actors))
    run = run_of(work, options, compute)
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
        concerns = work.labels.__contains__
        stamp = stamp_of(checkpoint, anatomy, corpus, work.runner, concerns) if options.verify else None
        anew = manifests.planned(NEURONS, run, shards, None, stamp)
        return ScanJob(work, folder, options, anew, shards, State({}), False)
    state = states.load(path / states.NAME) if (path / states.NAME).is_file() else State({})
    return ScanJob(work, folder, options, old, shards, state, True)


def save(folder: RunFolder, state: State) -> None:
    """Writes what was found so far."""
    with folder.file(states.NAME) as file:
        states.put(state, file)
