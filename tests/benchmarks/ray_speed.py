"""Two actors of Ray with a thread each beside one process with two threads: `extract --part pooler` on MiniLM.

    python tests/benchmarks/ray_speed.py [--rounds 5] [--paragraphs 4000] [--books FOLDER]

Both in turn, on one cluster, which is there before. The first ratio is of the runs once the first actor has opened the
model, the second with all that comes before: two processes that load torch and the model. One process has both open
before it is timed. Beside the clock stands the time of processors, as on a busy machine the clock tells of others, too;
that of actors is from when they have opened the model. Ratios are medians over the rounds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from text_speed import minilm, paragraphs

import bertprobe
from bertprobe.corpus import Shard, open_corpus
from bertprobe.extract import Job, Options, Wish, prepare
from bertprobe.run import Compute
from bertprobe.sharded import Actors, on_ray
from bertprobe.sharded.elsewhere import Task


@dataclass(frozen=True)
class Timed:
    """A task that notes when a process has opened what it needs, and its processor's time after each shard."""

    task: Task
    log: Path

    def open(self) -> Callable[[Shard, int], Any]:
        compute = self.task.open()
        began, used = time.time(), time.process_time()
        note = self.log / str(os.getpid())
        note.write_text(f"{began} 0")

        def timed(shard: Shard, first: int) -> Any:
            found = compute(shard, first)
            note.write_text(f"{began} {time.process_time() - used}")
            return found

        return timed


def planned(model: Any, corpus: Path, place: Path, threads: int, actors: Actors | None) -> Job:
    shutil.rmtree(place, ignore_errors=True)
    options = Options(Compute("torch", threads=threads), True, 2**17, verify=False, actors=actors)
    return prepare(model.checkpoint, model.anatomy, open_corpus([corpus]), place, Wish(("pooler",)), options)


def by_actors(model: Any, corpus: Path, here: Path) -> tuple[float, float, float]:
    """Seconds from when the first has opened the model, from the beginning, and of processors."""
    job = planned(model, corpus, here / "actors", 1, Actors("auto", 2))
    log = Path(tempfile.mkdtemp(dir=here))
    real = on_ray.computed
    on_ray.computed = lambda actors, task, *rest, **named: real(actors, Timed(task, log), *rest, **named)
    start = time.time()
    try:
        job.run()
    finally:
        on_ray.computed = real
    end = time.time()
    notes = [path.read_text().split() for path in log.iterdir()]
    return end - min(float(began) for began, _ in notes), end - start, sum(float(used) for _, used in notes)


def by_threads(model: Any, corpus: Path, here: Path) -> tuple[float, float, float]:
    job = planned(model, corpus, here / "threads", 2, None)
    start, used = time.time(), time.process_time()
    job.run()
    took = time.time() - start
    return took, took, time.process_time() - used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--paragraphs", type=int, default=4000)
    parser.add_argument("--books", type=Path, default=Path("../shared/data/books"))
    chosen = parser.parse_args()
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    import ray
    import ray.cloudpickle

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    model = bertprobe.open(str(minilm()))
    found: dict[str, list[tuple[float, float, float]]] = {"threads": [], "actors": []}
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        corpus = here / "texts.txt"
        corpus.write_text("\n".join(paragraphs(chosen.paragraphs, chosen.books)) + "\n")
        for turn in range(chosen.rounds + 1):
            for name, run in (("threads", by_threads), ("actors", by_actors)):
                took = run(model, corpus, here)
                if turn:  # the first is not counted
                    found[name].append(took)
                print(f"  {name}: {took[0]:.2f} s, {took[1]:.2f} s, processors {took[2]:.2f} s", file=sys.stderr)
    print("| two actors of a thread ÷ a process of two threads | median of the rounds | all |")
    print("|---|---:|---|")
    rows = ("rate, once the model is open", "rate, from the beginning", "rate by processors' time")
    for which, title in enumerate(rows):
        ratios = [one[which] / two[which] for one, two in zip(found["threads"], found["actors"], strict=True)]
        print(f"| {title} | {statistics.median(ratios):.3f} | {', '.join(f'{ratio:.2f}' for ratio in ratios)} |")
    ray.shutdown()


if __name__ == "__main__":
    main()
