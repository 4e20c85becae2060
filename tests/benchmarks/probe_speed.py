"""What probes of words take beside a bare pass and beside least squares on all activations in memory.

    python tests/benchmarks/probe_speed.py [--model MODEL] [--layers 0,5] [--texts 200] [--book BOOK.txt]

Each way runs in a process of its own, which tells seconds of the work and its peak memory above that of the open model.
Words are labelled by whether they begin with a capital.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BOOK = Path(__file__).resolve().parents[3] / "shared" / "data" / "books" / "emma.txt"
WAYS = ("bare", "streamed", "in memory")


def rows_of(book: Path, count: int) -> list[dict[str, list[str]]]:
    """Paragraphs of a book as words and labels."""
    paragraphs = [line for line in book.read_text().splitlines() if 100 < len(line) < 600][:count]
    words = [re.findall(r"\w+|[^\w\s]", paragraph) for paragraph in paragraphs]
    return [{"tokens": row, "label": ["capital" if word[0].isupper() else "other" for word in row]} for row in words]


def peak() -> float:
    """The most memory this process had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(way: str, model: str, layers: str | None, path: Path) -> dict[str, float]:
    import numpy as np

    import bertprobe
    from bertprobe.corpus import open_corpus
    from bertprobe.neurons.probe.align import Counts, Reader
    from bertprobe.neurons.probe.job import ProbeOptions, prepare_probe
    from bertprobe.run import run_encoded

    opened = bertprobe.open(model)
    corpus = open_corpus(path, words_field="tokens", label_field="label")
    job = prepare_probe(opened.checkpoint, opened.anatomy, corpus, ProbeOptions(layers, held_out=0.0, truncate=True))
    reader = Reader(corpus, job.runner, job.labelling, True, Counts())
    marked = list(reader.marked(corpus.documents()))
    run_encoded(job.runner, [text for text, _ in marked[:8]], Nothing(job.parts))  # what is loaded at the first run
    before, start = peak(), time.perf_counter()
    if way == "streamed":
        job.run()
    elif way == "bare":
        run_encoded(job.runner, [text for text, _ in marked], Nothing(job.parts))
    else:
        from bertprobe.run import Matrices

        matrices = Matrices(job.parts)
        run_encoded(job.runner, [text for text, _ in marked], matrices)
        labels = np.concatenate([item.labels for _, item in marked])
        targets = np.eye(len(job.labelling))[labels]
        for texts in matrices.kept.values():
            pairs = zip(texts, marked, strict=True)
            values = np.concatenate([matrix[item.stops - 1] for matrix, (_, item) in pairs]).astype(np.float64)
            values = (values - values.mean(0)) / values.std(0)
            np.linalg.lstsq(values, targets - targets.mean(0))
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "tokens": sum(len(text) for text, _ in marked),
        "words": sum(len(item.labels) for _, item in marked),
        "memory": peak() - before,
    }


class Nothing:
    """A collector that keeps nothing."""

    is_finite = True

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.needs = frozenset(labels)

    def reduce(self, captured: object) -> None:
        return None

    def add(self, site: object, batch: object, reduced: None) -> None:
        return None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--layers")
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--book", type=Path, default=BOOK)
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--corpus", type=Path)
    given = parser.parse_args()
    if given.way:
        print(json.dumps(measured(given.way, given.model, given.layers, given.corpus)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "words.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows_of(given.book, given.texts)))
        for way in WAYS:
            words = ["--way", way, "--corpus", str(path), "--model", given.model]
            words += ["--layers", given.layers] if given.layers else []
            done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
            found = json.loads(done.stdout)
            rate = found["tokens"] / found["seconds"]
            print(
                f"{way:<10} {found['seconds']:7.1f} s  {rate:8,.0f} tokens/s  {found['memory']:8,.0f} MB more  "
                f"({found['words']:,.0f} words)"
            )


if __name__ == "__main__":
    main()
