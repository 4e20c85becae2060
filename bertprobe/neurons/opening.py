"""What a scan is computed with, opened, and what decides its bytes: the same here and in other processes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from bertprobe.anatomy import Anatomy, select
from bertprobe.checkpoint import Checkpoint
from bertprobe.corpus import Corpus
from bertprobe.errors import PartMissing, UnsupportedFile, printable
from bertprobe.neurons.ablation import as_option
from bertprobe.neurons.scan import Kept
from bertprobe.neurons.shard import Work
from bertprobe.run import Ablation, Compute, open_runner
from bertprobe.sharded import WHOLE, Actors, Part
from bertprobe.sharded import manifest as manifests

SHARD_TEXT = 2**20  # bytes of text of a shard


@dataclass(frozen=True, slots=True)
class Options:
    """How to scan, beside what is kept of each neuron.

    `seed` decides which random tokens are drawn, `part` which of the shards are scanned here; `embed_text` has the scan
    carry the texts of its examples. `actors` scan the shards, this process where there are none. With an `ablation` its
    neurons are taken out.
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
    actors: Actors | None = None
    ablation: Ablation | None = None


def opened(checkpoint: Checkpoint, anatomy: Anatomy, corpus: Corpus, options: Options, compute: Compute) -> Work:
    """The model read as far as is needed; raises `UnsupportedFile` where its rows are not tokens."""
    labels = labels_in(anatomy, options.layers)
    if options.ablation is not None:
        options.ablation.check_seen(anatomy, labels)
    runner = open_runner(checkpoint, anatomy, compute, needs=frozenset(labels), ablation=options.ablation)
    if not runner.engine.rows_are_tokens:
        raise UnsupportedFile(
            f"the rows that {printable(checkpoint.ref)} computes are not tokens, and examples would refer to nothing",
            "choose a model that keeps a row for each token",
        )
    return Work(corpus, runner, tuple(labels), options.kept, options.seed, options.truncate)


def run_of(work: Work, options: Options, compute: Compute) -> dict[str, Any]:
    """All that decides a scan's bytes, as it stands in its manifest."""
    return manifests.deciding(work.corpus, work.runner, compute, _told(options, work), options.part)


def labels_in(anatomy: Anatomy, layers: str | None) -> list[str]:
    """The intermediate modules of some layers, None for all, by label."""
    found = [part.label for part in select(anatomy, ["intermediate"], layers) if part.role == "intermediate"]
    if not found:
        raise PartMissing("there is no intermediate module", "look at what there is with: bertprobe inspect --shapes")
    return found


def _told(options: Options, work: Work) -> dict[str, Any]:
    kept = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(options.kept).items()}
    return {
        **kept,
        "parts": list(work.labels),
        "seed": options.seed,
        "truncate": options.truncate,
        "shard_text": options.shard_text,
        "longest": work.runner.engine.longest,
        **({} if options.ablation is None else {"ablation": as_option(options.ablation)}),
    }
