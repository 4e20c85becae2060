"""What a billion tokens come to, for each choice of what `bertprobe extract` keeps: bytes and time, and `neurons scan`.

    python tests/benchmarks/costs.py [--model minilm|base] [--paragraphs 400] [--rounds 3] [--bytes-only]
        [--books FOLDER]

Every choice runs over the same paragraphs, cut at 512 tokens, in turn, from the first shard to the last; opening and
planning are not counted, as they are done once. Bytes are those of the finished folder over its tokens. Rates are
medians of the rounds. `--bytes-only` plans and runs nothing. The table is in Markdown, that of docs/tasks/cost.md.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from text_speed import MAKE_BASE, minilm, paragraphs

import bertprobe
from bertprobe.corpus import open_corpus
from bertprobe.extract import Options, Wish, prepare
from bertprobe.neurons.job import Options as ScanOptions
from bertprobe.neurons.job import prepare_scan
from bertprobe.run import Compute

DENSE = Wish(("intermediate",), dtype="float16")
CHOICES = {
    "`--part pooler`": Wish(("pooler",), dtype="float16"),
    "`--part intermediate --tokens mean`": replace(DENSE, tokens="mean"),
    "`--part intermediate --layers -1 --top 16`": replace(DENSE, layers="-1", top=16),
    "`--part intermediate --top 16`": replace(DENSE, top=16),
    "`--part intermediate --layers -1`": replace(DENSE, layers="-1"),
    "`--part intermediate`": DENSE,
}
BILLION = 10**9
DAY = 86_400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("minilm", "base"), default="minilm")
    parser.add_argument("--paragraphs", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--books", type=Path, default=Path(__file__).parents[3] / "shared" / "data" / "books")
    parser.add_argument("--bytes-only", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        corpus = folder / "corpus.txt"
        corpus.write_text("\n".join(paragraphs(options.paragraphs, options.books)) + "\n")
        if options.model == "base":
            words = [sys.executable, "-c", MAKE_BASE, str(minilm()), str(folder / "base")]
            subprocess.run(words, check=True, capture_output=True)
        model = bertprobe.open(minilm() if options.model == "minilm" else folder / "base")
        rounds = 1 if options.bytes_only else options.rounds
        rates: dict[str, list[float]] = {}
        sizes: dict[str, float] = {}
        for _ in range(rounds):
            for name, wish in CHOICES.items():
                size, rate = extracted(model, corpus, folder / "out", wish, options.bytes_only)
                sizes[name] = size
                rates.setdefault(name, []).append(rate)
            if not options.bytes_only:
                rates.setdefault("`neurons scan`", []).append(scanned(model, corpus, folder / "scan"))
    print(f"\n| {options.model}, `--dtype float16` | bytes a token | a billion tokens | tokens/s | days |")
    print("|---|---:|---:|---:|---:|")
    for name, found in rates.items():
        rate = statistics.median(found)
        size = f"{sizes[name]:,.1f} | {told(sizes[name] * BILLION)}" if name in sizes else "– | –"
        print(f"| {name} | {size} | {rate:,.0f} | {BILLION / rate / DAY:.1f} |" if rate else f"| {name} | {size} |")


def extracted(model: Any, corpus: Path, place: Path, wish: Wish, bytes_only: bool) -> tuple[float, float]:
    """Bytes a token, and tokens a second."""
    shutil.rmtree(place, ignore_errors=True)
    settings = Options(Compute(backend="torch"), truncate=True, verify=False)
    job = prepare(model.checkpoint, model.anatomy, open_corpus([corpus]), place, wish, settings)
    if bytes_only:
        assert job.expected is not None
        return job.expected.bytes / job.expected.tokens, 0.0
    outcome = job.run()
    return job.manifest["bytes"] / outcome.tokens, outcome.rate or 0.0


def scanned(model: Any, corpus: Path, place: Path) -> float:
    """Tokens a second."""
    shutil.rmtree(place, ignore_errors=True)
    settings = ScanOptions(truncate=True, verify=False, compute=Compute(backend="torch"))
    job = prepare_scan(model.checkpoint, model.anatomy, open_corpus([corpus]), place, settings)
    start = time.monotonic()
    manifest = job.run()
    return float(manifest["tokens"] / (time.monotonic() - start))


def told(count: float) -> str:
    return next((f"{count / step:,.3g} {unit}" for unit, step in (("TB", 10**12), ("GB", 10**9)) if count >= step), "")


if __name__ == "__main__":
    main()
