"""`bertprobe extract` beside the encoder alone and what people use instead, on paragraphs of books.

    python tests/benchmarks/extract_speed.py [rate] [dense] [memory]
        [--rounds 5] [--paragraphs 20000] [--books FOLDER] [--texts 2000 200000]

`rate`, in one process and in turn: the pooled output by `run_texts`, which keeps it in memory; `extract --part pooler`
from a file to a folder on the disk, from its plan to its last fsync; sentence-transformers' `encode` in batches of 32,
which sorts by length, and `numpy.save`. All cut texts at 512 tokens. `dense` is all activations in float16: `extract
--part intermediate`, the forward pass alone that shows them and keeps none, and a plain write and fsync of as many
bytes to the same disk. Ratios are medians over the rounds. `memory` is the peak of whole processes against the number
of texts.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from text_speed import minilm, paragraphs

import bertprobe
from bertprobe.corpus import open_corpus
from bertprobe.extract import Options, Wish, prepare
from bertprobe.run import Compute, Vectors, open_runner, run_texts

Took = dict[str, list[tuple[float, float]]]
"""Of each contestant the seconds of each round, and those of all processors."""


def in_turn(contestants: dict[str, Callable[[], Any]], rounds: int) -> Took:
    """Runs all, round after round; the first is not counted."""
    took: Took = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, run in contestants.items():
            start, of_processors = time.perf_counter(), time.process_time()
            run()
            if turn:
                took[name].append((time.perf_counter() - start, time.process_time() - of_processors))
                print(f"  {name}: {took[name][-1][0]:.2f} s", file=sys.stderr, flush=True)
    return took


def ratio(took: Took, one: str, other: str, which: int = 0) -> float:
    """How many times as long one took as the other, the median of the rounds; `which` 1 counts processors' time."""
    return statistics.median(a[which] / b[which] for a, b in zip(took[one], took[other], strict=True))


def table(title: str, took: Took, against: str) -> None:
    """The processors' time stands beside, as on a busy machine the clock tells of others, too."""
    print(f"\n| {title} | seconds, median (min – max) | rate ÷ that of {against} | by processors' time |")
    print("|---|---:|---:|---:|")
    for name, rounds in took.items():
        seconds = [both[0] for both in rounds]
        spread = f"{statistics.median(seconds):.2f} ({min(seconds):.2f} – {max(seconds):.2f})"
        print(f"| {name} | {spread} | {ratio(took, against, name):.3f} | {ratio(took, against, name, 1):.3f} |")


def extracting(model: Any, corpus: Path, place: Path, wish: Wish) -> Callable[[], None]:
    def run() -> None:
        shutil.rmtree(place, ignore_errors=True)
        options = Options(Compute(backend="torch"), truncate=True, verify=False)
        job = prepare(model.checkpoint, model.anatomy, open_corpus([str(corpus)]), place, wish, options)
        job.check_room()
        job.run()

    return run


def rate(texts: list[str], folder: Path, rounds: int) -> None:
    import numpy as np
    from sentence_transformers import SentenceTransformer

    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(texts) + "\n")
    model = bertprobe.open(minilm())
    runner = open_runner(model.checkpoint, model.anatomy, Compute(backend="torch"), needs=Vectors("pooled").needs)
    theirs = SentenceTransformer(str(minilm()), device="cpu")
    theirs.max_seq_length = 512
    contestants = {
        "run_texts": lambda: run_texts(runner, texts, Vectors("pooled"), truncate=True),
        "extract": extracting(model, corpus, folder / "out", Wish(("pooler",))),
        "sentence-transformers, numpy.save": lambda: np.save(
            folder / "st.npy", theirs.encode(texts, show_progress_bar=False)
        ),
    }
    took = in_turn(contestants, rounds)
    table(f"{len(texts):,} paragraphs, pooled output", took, "run_texts")
    theirs_to_ours = [ratio(took, "sentence-transformers, numpy.save", "extract", which) for which in (0, 1)]
    print(
        "\nextract against sentence-transformers, numpy.save: {:.2f}×, by processors' time {:.2f}×".format(
            *theirs_to_ours
        )
    )


class Shown:
    """A collector that is shown values and keeps none."""

    is_finite = True

    def __init__(self, needs: frozenset[str]) -> None:
        self.needs = needs

    def reduce(self, captured: Any) -> None:
        pass

    def add(self, site: Any, batch: Any, reduced: Any) -> None:
        pass


def dense(texts: list[str], folder: Path, rounds: int) -> None:
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(texts) + "\n")
    model = bertprobe.open(minilm())
    needs = frozenset(part.label for part in model.anatomy.of("intermediate"))
    runner = open_runner(model.checkpoint, model.anatomy, Compute(backend="torch"), needs=needs)
    extract = extracting(model, corpus, folder / "out", Wish(("intermediate",), dtype="float16"))
    extract()
    size = sum(path.stat().st_size for path in (folder / "out").iterdir())

    def write() -> None:
        block = os.urandom(2**24)
        with open(folder / "plain", "wb") as file:
            for _ in range(0, size, len(block)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())

    contestants = {
        "forward pass": lambda: run_texts(runner, texts, Shown(needs), truncate=True),
        f"a plain write of {size / 1e9:.2f} GB": write,
        "extract": extract,
    }
    took = in_turn(contestants, rounds)
    table(f"{len(texts):,} paragraphs, all activations in float16", took, "forward pass")
    share = statistics.median(max(a[0], b[0]) / c[0] for a, b, c in zip(*took.values(), strict=True))
    print(f"\nextract against the slower of both: {share:.2f}")


CHILD = "from bertprobe.cli import main; main()"


def memory(books: Path, folder: Path, counts: list[int]) -> None:
    """Each number of texts in a process of its own; texts repeat where there are not so many."""
    known = paragraphs(2_000, books, 600)
    print("\n| texts | seconds | peak memory, MB |\n|---:|---:|---:|")
    for count in counts:
        corpus = folder / "many.txt"
        with open(corpus, "w") as file:
            for i in range(count):
                file.write(known[i % len(known)][:60] + "\n")
        shutil.rmtree(folder / "out", ignore_errors=True)
        words = ["extract", str(corpus), "-m", str(minilm()), "-o", str(folder / "out")]
        words += ["--truncate", "--quiet", "--no-verify"]
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-c", CHILD, *words], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"exit {os.waitstatus_to_exitcode(status)}")
        unit = 1 if sys.platform == "darwin" else 1024
        print(f"| {count:,} | {time.perf_counter() - start:.0f} | {usage.ru_maxrss * unit / 1e6:,.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["rate", "dense", "memory"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--paragraphs", type=int, default=20_000)
    parser.add_argument("--books", type=Path, default=Path("../shared/data/books"))
    parser.add_argument("--texts", type=int, nargs="*", default=[2_000, 200_000])
    options = parser.parse_args()
    print(f"load before: {os.getloadavg()}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="extract-speed.") as folder:
        if "rate" in options.what:
            rate(paragraphs(options.paragraphs, options.books), Path(folder), options.rounds)
        if "dense" in options.what:
            dense(paragraphs(min(options.paragraphs, 2_000), options.books), Path(folder), options.rounds)
        if "memory" in options.what:
            memory(options.books, Path(folder), options.texts)


if __name__ == "__main__":
    main()
