"""`bertprobe neurons scan` against the bare packed forward pass, side by side in one process.

    python tests/benchmarks/neurons_speed.py [--rounds 5] [--tokens 60000] [--model FOLDER] [--backend torch]

The same batches of paragraphs run by turns: with a collector that keeps nothing of the intermediate modules, with
`NeuronScan` at its defaults as a scan begins, and as it goes on, where examples must reach what was found before. The
ratios of each turn, then their medians, by the clock and by processor seconds, which other programs on the machine
disturb less.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from text_speed import minilm, paragraphs

import bertprobe
from bertprobe.neurons import NeuronScan
from bertprobe.run import Captured, Collector, Compute, Runner, Site, open_runner
from bertprobe.run.runner import _add, _side_by_side


class Nothing:
    """Has the same sites shown, and keeps nothing."""

    is_finite = True

    def __init__(self, labels: Sequence[str]) -> None:
        self.needs = frozenset(labels)

    def reduce(self, captured: Captured) -> None:
        return None

    def add(self, site: Site, batch: Any, reduced: None) -> None:
        return None


def seconds(runner: Runner, batches: Sequence[Any], collector: Collector) -> tuple[float, float]:
    """By the clock and of the processor."""
    start, busy = time.perf_counter(), time.process_time()
    for reduced in _side_by_side(runner.engine, iter(batches), [collector]):
        _add(reduced)
    return time.perf_counter() - start, time.process_time() - busy


def taken(batches: Iterator[Any], tokens: int) -> Iterator[Any]:
    for batch in batches:
        yield batch
        tokens -= len(batch.ids)
        if tokens <= 0:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=60_000)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--books", type=Path, default=Path(__file__).parents[2].parent / "shared" / "data" / "books")
    chosen = parser.parse_args()
    model = bertprobe.open(str(chosen.model or minilm()))
    labels = [part.label for part in model.anatomy.of("intermediate")]
    texts = paragraphs(chosen.tokens // 20, chosen.books)
    runner = open_runner(model.checkpoint, model.anatomy, Compute(backend=chosen.backend), texts)
    batches = list(taken(runner.batches(texts, truncate=True), chosen.tokens))
    tokens = sum(len(batch.ids) for batch in batches)
    ratios: dict[str, list[float]] = {}
    known = NeuronScan(labels)
    seconds(runner, batches, known)
    for _ in range(chosen.rounds):
        bare = seconds(runner, batches, Nothing(labels))
        for name, scan in (("begins", NeuronScan(labels)), ("goes on", NeuronScan(labels, before=known.found))):
            took = seconds(runner, batches, scan)
            for kind, one, other in zip(("clock", "processor"), took, bare, strict=True):
                ratios.setdefault(f"{name}, {kind}", []).append(one / other)
        print(f"{tokens:,} tokens, bare {tokens / bare[0]:,.0f}/s", {k: round(v[-1], 3) for k, v in ratios.items()})
    for name, found in ratios.items():
        print(f"{name}: median {statistics.median(found):.3f} ({min(found):.3f} – {max(found):.3f})")


if __name__ == "__main__":
    main()
