"""A checkpoint ready for texts, and the one driver that runs them: what is kept, collectors say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from bertprobe.anatomy import Anatomy
from bertprobe.anatomy.native import why_not_native
from bertprobe.backends import Backend, TorchBackend
from bertprobe.checkpoint import Checkpoint
from bertprobe.encoder import load_encoder
from bertprobe.errors import UnsupportedFile, printable
from bertprobe.run.ablation import Ablation
from bertprobe.run.captured import FIRST, HIDDEN, POOLED, STATES, Captured, Collector, Site, needs_of
from bertprobe.run.compute import Compute, choose_backend, work_of
from bertprobe.run.engines import BertEngine, Engine, TransformersEngine
from bertprobe.run.nonfinite import why_not_finite
from bertprobe.run.workers import in_workers, workers_for
from bertprobe.tokens import Tokenizer, check_rows, check_vocabulary, encoded, open_tokenizer, packed
from bertprobe.verdicts import Finding

if TYPE_CHECKING:
    from bertprobe.tokens import Encoded, Packed


@dataclass(frozen=True, slots=True)
class Runner:
    """A checkpoint ready for text: what runs it, its tokenizer, and which neurons are taken out."""

    checkpoint: Checkpoint
    anatomy: Anatomy
    engine: Engine
    tokenizer: Tokenizer
    compute: Compute
    ablation: Ablation | None = None

    @property
    def backend(self) -> Backend:
        """The array library and device that compute."""
        return self.engine.backend

    def encoded(
        self, texts: Iterable[str], *, truncate: bool = False, pairs: bool = False, longest: int | None = None
    ) -> Iterator[Encoded]:
        """The texts as tokens, in their order; of each at most `longest`."""
        most = self.engine.longest if longest is None else min(longest, self.engine.longest)
        return encoded(self.tokenizer, texts, longest=most, truncate=truncate, pairs=pairs)

    def packed(self, texts: Iterable[Encoded]) -> Iterator[Packed]:
        """What is tokens already as batches, longest first within a window.

        Raises `CorruptFile` at the end where the weights have changed since they were opened, though what was computed
        is of the weights as they were: what lies under their name now is something else.
        """
        for batch in packed(texts, self.compute.batch_tokens or self.backend.batch_tokens):
            check_rows(batch, self.engine.vocabulary, self.engine.segments)
            yield batch
        for file in self.checkpoint.files:
            file.check_unchanged()

    def batches(
        self, texts: Iterable[str], *, truncate: bool = False, pairs: bool = False, longest: int | None = None
    ) -> Iterator[Packed]:
        """The texts as packed batches, longest first within a window; of each at most `longest` tokens."""
        return self.packed(self.encoded(texts, truncate=truncate, pairs=pairs, longest=longest))


@dataclass(frozen=True, slots=True)
class Ran:
    """What is to be said of a run beside what was collected.

    `settings` are its facts: backend, device, dtype, tokenizer and what was decided on the way. `rows_are_tokens` says
    whether each row that a part puts out stands for a token, `has_pooler` whether there was pooled output, `is_finite`
    whether no number that was kept is NaN or infinite. `ablation` are the neurons that were taken out.
    """

    checkpoint: Checkpoint
    anatomy: Anatomy
    settings: Mapping[str, Any]
    rows_are_tokens: bool
    has_pooler: bool
    is_finite: bool
    ablation: Ablation | None = None

    def why_not_finite(self) -> tuple[Finding, ...]:
        """Why numbers that were kept are NaN or infinite, which reads all weights; nothing where none is."""
        return () if self.is_finite else why_not_finite(self.anatomy, str(self.settings["dtype"]))


def open_runner(
    checkpoint: Checkpoint,
    anatomy: Anatomy,
    compute: Compute,
    texts: Sequence[str] = (),
    *,
    needs: frozenset[str] | None = None,
    tokenizer: Tokenizer | None = None,
    ablation: Ablation | None = None,
) -> Runner:
    """The encoder and tokenizer of a checkpoint; `auto` chooses the backend by the `texts` known beforehand.

    Only what is needed is read: of `needs`, as `needs_of` gives them, the deepest layer decides; None is everything.
    The tokenizer is the one beside its weights unless one is given. With an `ablation` its neurons are taken out.
    """
    engine: Engine
    if why_not_native(anatomy) is None:
        backend = choose_backend(compute, anatomy, work_of(anatomy, texts))
        depth, pooler = reach(anatomy, needs)
        engine = BertEngine(load_encoder(checkpoint, anatomy, backend, depth=depth, pooler=pooler))
    else:
        engine = _transformers_engine(checkpoint, anatomy, compute)
    if tokenizer is None:
        tokenizer = tokenizer_of(checkpoint)
    if engine.vocabulary is not None:
        check_vocabulary(tokenizer, engine.vocabulary)
    return ablated(Runner(checkpoint, anatomy, engine, tokenizer, compute), ablation)


def ablated(runner: Runner, ablation: Ablation | None) -> Runner:
    """The same model with neurons taken out, its weights shared; the untouched one goes on as it is.

    Raises `PartMissing` for a neuron that it does not have.
    """
    if ablation is None:
        return runner
    ablation.check(runner.anatomy)
    engine = copy(runner.engine)
    engine.edit = ablation.edit(runner.backend)
    return replace(runner, engine=engine, ablation=ablation)


class Reach(NamedTuple):
    """How much of a model has to be read: so many layers, None for all of them, and whether the pooler."""

    depth: int | None
    pooler: bool


def reach(anatomy: Anatomy, needs: frozenset[str] | None) -> Reach:
    """How far into the model the deepest of what is needed lies."""
    if needs is None or needs & {HIDDEN, FIRST, POOLED, STATES}:
        return Reach(None, needs is None or POOLED in needs)
    return Reach(max(((part.layer or 0) + 1 for part in anatomy.parts if part.label in needs), default=None), False)


def _transformers_engine(checkpoint: Checkpoint, anatomy: Anatomy, compute: Compute) -> Engine:
    from bertprobe.transformers_model import load_reference

    if compute.backend == "numpy":
        reason = why_not_native(anatomy)
        raise UnsupportedFile(f"numpy cannot run {printable(checkpoint.ref)}: {reason}", 'leave out `backend="numpy"`')
    backend = TorchBackend.on(compute.device, compute.dtype, compute.threads)
    return TransformersEngine(load_reference(checkpoint, anatomy, device=backend.device, dtype=backend.dtype), backend)


def tokenizer_of(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer beside a checkpoint's weights, transformers' own where it takes that to read it."""
    from bertprobe.transformers_model import tokenizer

    return open_tokenizer(checkpoint, lambda: tokenizer(checkpoint))


# ------------------------------------------------------------------------------------------------ the driver


def run_texts(
    runner: Runner,
    texts: Iterable[str],
    *collectors: Collector,
    truncate: bool = False,
    pairs: bool = False,
    longest: int | None = None,
) -> Ran:
    """Runs texts, however many, and shows every collector what it needs of each batch.

    What collectors keep of texts one by one is in the order of the input, whatever the batches.

    Args:
        runner: from `open_runner`, with what the collectors need.
        texts: read a window at a time, so that memory does not follow their number.
        collectors: what is to be kept.
        truncate: whether to cut texts that are longer than the model takes; they are an error otherwise.
        pairs: whether to take the texts two by two.
        longest: tokens of a text, special ones included, where that is fewer than the model takes.

    Raises:
        BertprobeError: a text is too long, comes to no tokens, or has no partner.
        CorruptFile: the weights changed while they were in use.
    """
    return run_encoded(runner, runner.encoded(texts, truncate=truncate, pairs=pairs, longest=longest), *collectors)


def run_encoded(runner: Runner, texts: Iterable[Encoded], *collectors: Collector) -> Ran:
    """The same for texts that are tokens already, such as those of a part of a corpus."""
    truncated = {"texts": 0, "tokens": 0}

    def counted() -> Iterator[Packed]:
        for batch in runner.packed(texts):
            truncated["texts"] += int((batch.truncated > 0).sum())
            truncated["tokens"] += int(batch.truncated.sum())
            yield batch

    for reduced in _side_by_side(runner.engine, counted(), collectors):
        _add(reduced)
    settings = {
        "backend": runner.engine.name,
        "device": runner.backend.device,
        "dtype": runner.backend.dtype,
        "tokenizer": runner.tokenizer.name,
        "tokenizer_notes": list(runner.tokenizer.notes),
        "truncated": truncated,
        **({} if runner.ablation is None else {"ablated": runner.ablation.told}),
    }
    engine, finite = runner.engine, all(collector.is_finite for collector in collectors)
    return Ran(
        runner.checkpoint,
        runner.anatomy,
        settings,
        engine.rows_are_tokens,
        engine.has_pooler,
        finite,
        runner.ablation,
    )


def run_batch(runner: Runner, batch: Packed, *collectors: Collector) -> None:
    """The same for one batch that the caller made, as for a second model that is to see the same tokens."""
    _add(_reduced(runner.engine, batch, collectors))


_Reduced = list[tuple[Collector, Site, "Packed", Any]]


def _reduced(engine: Engine, batch: Packed, collectors: Sequence[Collector]) -> _Reduced:
    """What the collectors keep of a batch; an engine may show it in several parts."""
    found: _Reduced = []

    def tap(captured: Captured) -> None:
        for collector in collectors:
            if captured.site.part in collector.needs:
                found.append((collector, captured.site, captured.batch, collector.reduce(captured)))

    engine.run(batch, needs_of(collectors), tap)
    return found


def _add(reduced: _Reduced) -> None:
    for collector, site, batch, found in reduced:
        collector.add(site, batch, found)


def _side_by_side(engine: Engine, batches: Iterator[Packed], collectors: Sequence[Collector]) -> Iterator[_Reduced]:
    """What is kept of each batch, in their order; many batches run in workers of one thread each."""
    work = partial(_reduced, engine, collectors=collectors)
    workers, batches = workers_for(batches, lambda: engine.workers)
    if workers == 1:
        yield from map(work, batches)
        return
    engine.share()
    with engine.backend.sharing():
        yield from in_workers(work, batches, workers, engine.backend.begin_worker)
