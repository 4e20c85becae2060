"""A corpus on a GPU: equality with the processor first, then texts a second beside what a user would use instead.

    python tests/benchmarks/gpu_speed.py [texts] [corpus] [--texts N] [--rounds R] [--device cuda]

The model has the shape of bert-base and random weights, the tokenizer is the built-in model's; texts are words of its
vocabulary, 4 to 300 a text, so that nothing has to be fetched. Compared are bertprobe, transformers in padded batches
of texts sorted by length, and sentence-transformers where it is installed; ratios are medians over rounds,
interleaved. `corpus` has the same texts in a file: what `extract --part pooler` and `neurons scan` make of it, from
their plan to the last fsync, beside the forward pass alone and sentence-transformers' `encode` and `numpy.save`, as
tokens a second and as a share of the rate of one large product of matrices on the same device. It runs on a processor,
too, to be tried there.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import bertprobe
import bertprobe.extract as extracting
import bertprobe.neurons.job as scanning
from bertprobe.corpus import open_corpus
from bertprobe.run import Captured, Matrices, NeuronStatistics, Runner, Site, Vectors, open_runner, run_texts

BUILT_IN = Path(bertprobe.__file__).parent / "pocket"


def made(folder: Path) -> Path:
    """A checkpoint of bert-base's shape."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    model = BertModel(BertConfig())
    with torch.no_grad():  # as large as trained ones, so that rounding shows
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "embeddings" not in name:
                weight.mul_(2)
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "vocab.txt"):
        shutil.copy(BUILT_IN / file, folder)
    return folder


def drawn(count: int) -> list[str]:
    """Texts of words from the vocabulary, of very different lengths."""
    draw = random.Random(1)
    words = [word for word in (BUILT_IN / "vocab.txt").read_text().split() if word.isalpha() and len(word) > 2]
    return [" ".join(draw.choices(words, k=draw.randint(4, 300))) for _ in range(count)]


def runner_on(model: Path, device: str, dtype: str) -> Runner:
    opened = bertprobe.open(model)
    backend = "torch" if device == "cuda" else "numpy"
    compute = bertprobe.Compute(backend=backend, device=device, dtype=dtype)
    return open_runner(opened.checkpoint, opened.anatomy, compute)


def equality(model: Path) -> None:
    """Largest differences to the processor's float32, over texts in one batch and one by one."""
    texts = drawn(24)
    parts = {"intermediate.0", "intermediate.11"}

    def ran(device: str, dtype: str) -> tuple[Any, Any, Any, Any]:
        kept = Vectors("pooled"), Vectors("mean"), NeuronStatistics(parts), Matrices({"intermediate.11"})
        run_texts(runner_on(model, device, dtype), texts, *kept)
        return kept

    print("| on the GPU in | pooled | mean | layer 11, largest | layer 11, of the norm | sums of squares, relative |")
    print("|---|---:|---:|---:|---:|---:|")
    pooled, mean, sums, matrices = ran("cpu", "float32")
    exact = np.concatenate(matrices.kept[Site("intermediate.11")])
    for dtype in ("float32", "bfloat16", "float16"):
        ours = ran("cuda", dtype)
        far = np.concatenate(ours[3].kept[Site("intermediate.11")]) - exact
        squares, theirs = (s.sums[Site("intermediate.11")].squares.sum() for s in (ours[2], sums))
        vectors = [abs(a.array - b.array).max() for a, b in ((ours[0], pooled), (ours[1], mean))]
        share = np.linalg.norm(far) / np.linalg.norm(exact)
        row = (*vectors, abs(far).max(), share, abs(squares / theirs - 1))
        print(f"| {dtype} | {' | '.join(f'{value:.2e}' for value in row)} |")
        alone = Vectors("pooled")
        one = runner_on(model, "cuda", dtype)
        for text in texts[:4]:
            vector = Vectors("pooled")
            run_texts(one, [text], vector)
            alone._rows._items[len(alone._rows)] = vector.array[0]  # type: ignore[index]
        print(
            f"|   a text alone or among others | {abs(alone.array - ours[0].array[:4]).max():.2e} | | | | |", flush=True
        )


def bertprobe_with(model: Path, dtype: str, statistics_too: bool = False) -> Callable[[list[str]], Any]:
    runner = runner_on(model, "cuda", dtype)

    def run(texts: list[str]) -> Any:
        vectors = Vectors("mean")
        more = [NeuronStatistics({f"intermediate.{i}" for i in range(12)})] if statistics_too else []
        run_texts(runner, texts, vectors, *more)
        return vectors.array

    return run


def transformers_with(model: Path, dtype: str, batch: int) -> Callable[[list[str]], Any]:
    from transformers import AutoModel, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(model / "tokenizer.json"), pad_token="[PAD]")
    loaded = AutoModel.from_pretrained(model, dtype=getattr(torch, dtype)).cuda().eval()

    @torch.inference_mode()
    def run(texts: list[str]) -> Any:
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        found: list[Any] = [None] * len(texts)
        for start in range(0, len(texts), batch):
            places = order[start : start + batch]
            given = tokenizer(
                [texts[i] for i in places], padding=True, truncation=True, max_length=512, return_tensors="pt"
            )
            given = {name: values.cuda() for name, values in given.items()}
            states = loaded(**given).last_hidden_state.float()
            mask = given["attention_mask"][:, :, None].float()
            rows = ((states * mask).sum(1) / mask.sum(1)).cpu().numpy()
            for place, row in zip(places, rows, strict=True):
                found[place] = row
        return np.stack(found)

    return run


def sentence_transformers_with(model: Path, dtype: str, batch: int, device: str = "cuda") -> Callable[[list[str]], Any]:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    transformer = Transformer(str(model), max_seq_length=512, model_kwargs={"dtype": getattr(torch, dtype)})
    loaded = SentenceTransformer(modules=[transformer, Pooling(768, "mean")], device=device)
    return lambda texts: loaded.encode(texts, batch_size=batch, show_progress_bar=False)


# ------------------------------------------------------------------------------------------------ a corpus


class Nothing:
    """A collector that is shown every layer, and keeps nothing."""

    needs = frozenset(f"intermediate.{i}" for i in range(12))
    is_finite = True

    def reduce(self, captured: Captured) -> None:
        return None

    def add(self, site: Site, batch: Any, reduced: None) -> None:
        return None


def matrix_rate(device: str, dtype: str) -> float:
    """Operations a second of one large product of matrices, the best of several."""
    size = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    took = []
    for _ in range(10):
        wait(device)
        start = time.perf_counter()
        a @ b
        wait(device)
        took.append(time.perf_counter() - start)
    return 2 * size**3 / min(took)


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def operations(lengths: list[int], hidden: int = 768, layers: int = 12) -> float:
    """Of bert-base's dense layers and attention for texts of so many tokens."""
    return sum(layers * (24 * hidden**2 * length + 4 * hidden * length**2) for length in lengths)


def corpus(model: Path, texts: list[str], rounds: int, device: str, dtype: str = "bfloat16") -> None:
    place = model / "corpus"
    place.mkdir()
    file = place / "texts.txt"
    file.write_text("\n".join(texts) + "\n")
    opened, compute = bertprobe.open(model), bertprobe.Compute(backend="torch", device=device, dtype=dtype)
    runner = open_runner(opened.checkpoint, opened.anatomy, compute)
    lengths = [len(text) for text in runner.encoded(texts)]

    def extract() -> None:
        shutil.rmtree(place / "extract", ignore_errors=True)
        options, found = extracting.Options(compute), open_corpus([str(file)])
        wish = extracting.Wish(("pooler",))
        extracting.prepare(opened.checkpoint, opened.anatomy, found, place / "extract", wish, options).run()

    def scan() -> None:
        shutil.rmtree(place / "scan", ignore_errors=True)
        options, found = scanning.Options(verify=False, compute=compute), open_corpus([str(file)])
        scanning.prepare_scan(opened.checkpoint, opened.anatomy, found, place / "scan", options).run()

    ways: dict[str, Callable[[], Any]] = {
        "forward pass": lambda: run_texts(runner, texts, Nothing()),
        "extract --part pooler": extract,
        "neurons scan": scan,
    }
    try:
        theirs = sentence_transformers_with(model, dtype, 64, device)
        ways["sentence-transformers, numpy.save"] = lambda: np.save(place / "st.npy", theirs(texts))
    except Exception as error:
        print(f"(no sentence-transformers: {error})")
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            wait(device)
            start = time.perf_counter()
            way()
            wait(device)
            if turn:
                times[name].append(time.perf_counter() - start)
    rate, needed = matrix_rate(device, dtype), operations(lengths)
    print(f"\n{len(texts):,} texts, {sum(lengths):,} tokens; a product of matrices runs at {rate / 1e12:.1f} TFLOP/s\n")
    print(f"| {dtype} | s | tokens/s | share of the matrix rate | time ÷ forward pass | time ÷ extract |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, taken in times.items():
        took = statistics.median(taken)
        ratios = [
            statistics.median(a / b for a, b in zip(taken, times[other], strict=True))
            for other in ("forward pass", "extract --part pooler")
        ]
        row = (
            f"{took:.2f} | {sum(lengths) / took:,.0f} | {needed / took / rate:.1%} | {ratios[0]:.2f} | {ratios[1]:.2f}"
        )
        print(f"| {name} | {row} |", flush=True)


# ------------------------------------------------------------------------------------------------ texts


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sections", nargs="*", choices=["texts", "corpus", []], default=[])
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    options = parser.parse_args()
    sections = options.sections or ["texts", "corpus"]
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no GPU")
    name = torch.cuda.get_device_name() if options.device == "cuda" else "a processor"
    print(f"{name}, torch {torch.__version__}\n", flush=True)
    with tempfile.TemporaryDirectory() as place:
        model = made(Path(place))
        texts = drawn(options.texts)
        if "texts" in sections:
            in_memory(model, texts, options.rounds)
        if "corpus" in sections:
            corpus(model, texts, options.rounds, options.device)


def in_memory(model: Path, texts: list[str], rounds: int) -> None:
    equality(model)
    tokens = sum(len(text.split()) + 2 for text in texts)
    print(f"\n{len(texts):,} texts, some {tokens:,} words and special tokens\n")
    for dtype in ("bfloat16", "float32"):
        ways: dict[str, Callable[[list[str]], Any]] = {
            "bertprobe": bertprobe_with(model, dtype),
            "bertprobe, with statistics of all neurons": bertprobe_with(model, dtype, statistics_too=True),
            "transformers, 64 a batch, sorted": transformers_with(model, dtype, 64),
        }
        try:
            ways["sentence-transformers, 64 a batch"] = sentence_transformers_with(model, dtype, 64)
        except Exception as error:
            print(f"(no sentence-transformers: {error})")
        some = texts if dtype == "bfloat16" else texts[: len(texts) // 4]
        times: dict[str, list[float]] = {name: [] for name in ways}
        found = {}
        for round_ in range(rounds + 1):
            for name, way in ways.items():
                torch.cuda.synchronize()
                start = time.perf_counter()
                found[name] = way(some[:2000] if round_ == 0 else some)
                if round_:
                    times[name].append(time.perf_counter() - start)
        print(f"\n| {dtype} | s | texts/s | bertprobe is faster | farthest from transformers |")
        print("|---|---:|---:|---:|---:|")
        ours = times["bertprobe"]
        theirs = found["transformers, 64 a batch, sorted"]
        for name, taken in times.items():
            ratio = statistics.median(b / a for a, b in zip(ours, taken, strict=True))
            far = abs(np.asarray(found[name]) - theirs).max()
            took = statistics.median(taken)
            print(f"| {name} | {took:.2f} | {len(some) / took:,.0f} | {ratio:.2f} | {far:.2e} |", flush=True)


if __name__ == "__main__":
    main()
