"""What a run is computed with, opened, and what decides its bytes: the same here and in other processes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bertprobe.anatomy import Anatomy
from bertprobe.checkpoint import Checkpoint
from bertprobe.corpus import Corpus
from bertprobe.errors import BadSetting
from bertprobe.extract.rows import Keeper, Tensor
from bertprobe.extract.shard import Work
from bertprobe.extract.wish import Wish
from bertprobe.run import Captured, Compute, Runner, Site, open_runner, run_batch
from bertprobe.run.sentence import Sentence
from bertprobe.sharded import Part
from bertprobe.sharded import manifest as manifests
from bertprobe.storages import endings
from bertprobe.tokens import Encoded, Packed, pack


def opened(
    checkpoint: Checkpoint, anatomy: Anatomy, corpus: Corpus, keeper: Keeper, compute: Compute, truncate: bool
) -> Work:
    """The model read as far as is needed, and what is kept of a text."""
    sentence = keeper.sentence
    tokenizer = None if sentence is None else sentence.tokenizer
    runner = open_runner(checkpoint, anatomy, compute, needs=keeper.needs, tokenizer=tokenizer)
    tensors = _tensors(runner, keeper)
    longest = runner.engine.longest
    if sentence is not None:
        most, truncate = sentence.cut(longest, truncate)
        longest = longest if most is None else most
    return Work(corpus, runner, keeper, tensors, longest, truncate)


def run_of(work: Work, compute: Compute, truncate: bool, shard_text: int, part: Part) -> dict[str, Any]:
    """All that decides a run's bytes, as it stands in its manifest."""
    sentence = work.keeper.sentence
    options = {
        **_listed(work.keeper.wish),
        "truncate": truncate,
        "shard_text": shard_text,
        "recipe": None if sentence is None else _recipe(work.runner.checkpoint, sentence),
    }
    tensors = [asdict(tensor) for tensor in work.tensors]
    return manifests.deciding(work.corpus, work.runner, compute, options, part, tensors)


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
