"""One neuron over a corpus, read from the shards and from the copy that `extract --order neurons` writes.

    python tests/benchmarks/neuron_order.py [--rounds 15] [--paragraphs 2000] [--books FOLDER]

All neurons of one layer of all-MiniLM-L6-v2 in float16 over paragraphs of books. Each round reads another neuron from
each, both when the system holds none of the files (`cold`, which it is asked to let go) and right after, when it holds
what was read (`warm`). The copy itself is timed beside a plain write and fsync of as many bytes to the same disk.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from text_speed import minilm, paragraphs

import bertprobe
from bertprobe.corpus import open_corpus
from bertprobe.extract import ActivationFolder, Job, Options, Wish, open_activations, prepare

LAYER = 3


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def timed(place: Path, neuron: int, *, copy: bool) -> float:
    """Milliseconds in which a neuron is read, from a folder that is opened for it: what is mapped cannot be let go."""
    found = open_activations(place)
    if not copy:
        found = ActivationFolder(place, {**found.manifest, "by_neuron": {}})
    return 1e3 * seconds(lambda: found.neuron(LAYER, neuron))


def let_go(folder: Path) -> None:
    """Asks the system to forget what it holds of the files."""
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def planned(corpus: Path, place: Path) -> Job:
    model = bertprobe.open(minilm())
    wish = Wish(("intermediate",), layers=str(LAYER), dtype="float16")
    options = Options(truncate=True, verify=False, order="neurons")
    return prepare(model.checkpoint, model.anatomy, open_corpus([str(corpus)]), place, wish, options)


def plain(place: Path, size: int) -> None:
    """As many bytes, and the disk keeps them."""
    data = bytes(2**24)
    with open(place, "wb") as file:
        for _ in range(size // len(data)):
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    place.unlink()


def copying(job: Job, place: Path, rounds: int) -> None:
    took = []
    for _ in range(rounds):
        for path in place.glob("by-neuron.*"):
            path.unlink()
        size = job.needed or 0
        took.append((seconds(job.turn), seconds(partial(plain, place.parent / "plain", size))))
    ours = [both[0] for both in took]
    print(
        f"copy of {size / 1e6:,.0f} MB: {statistics.median(ours):.2f} s ({min(ours):.2f} – {max(ours):.2f}), "
        f"{statistics.median(a / b for a, b in took):.2f}× a plain write of as many bytes"
    )


def reading(place: Path, rounds: int) -> None:
    found = open_activations(place)
    rows, width = found.layer(LAYER).shape
    print(f"\none of {width:,} neurons over {rows:,} tokens in {len(found.manifest['shards'])} shard(s), in ms")
    print("\n| files | from the shards | from the copy | ratio |\n|---|---:|---:|---:|")
    del found
    took: dict[str, list[tuple[float, float]]] = {"cold": [], "warm": []}
    for neuron in np.random.default_rng(0).choice(width, rounds, replace=False).tolist():
        let_go(place)
        for both in took.values():
            both.append((timed(place, neuron, copy=False), timed(place, neuron, copy=True)))
    for state, both in took.items():
        medians = [statistics.median(one[which] for one in both) for which in (0, 1)]
        print(
            f"| {state} | {medians[0]:,.2f} | {medians[1]:,.2f} | {statistics.median(a / b for a, b in both):,.1f}× |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--paragraphs", type=int, default=2_000)
    parser.add_argument("--books", type=Path, default=Path("../shared/data/books"))
    options = parser.parse_args()
    print(f"load before: {os.getloadavg()}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="neuron-order.") as folder:
        corpus, place = Path(folder) / "corpus.txt", Path(folder) / "out"
        corpus.write_text("\n".join(paragraphs(options.paragraphs, options.books)) + "\n")
        planned(corpus, place).run()
        copying(planned(corpus, place), place, 3)
        reading(place, options.rounds)
    print(f"load after: {os.getloadavg()}", file=sys.stderr)


if __name__ == "__main__":
    main()
