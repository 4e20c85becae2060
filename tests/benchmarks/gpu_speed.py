"""A corpus on a GPU: equality with the processor first, then texts a second beside what a user would use instead.

    python tests/benchmarks/gpu_speed.py [--texts N] [--rounds R]

The model has the shape of bert-base and random weights, the tokenizer is the built-in model's; texts are words of its
vocabulary, 4 to 300 a text, so that nothing has to be fetched. Compared are bertprobe, transformers in padded batches
of texts sorted by length, and sentence-transformers where it is installed; ratios are medians over rounds,
interleaved.
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
from bertprobe.run import Matrices, NeuronStatistics, Runner, Site, Vectors, open_runner, run_texts

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


def sentence_transformers_with(model: Path, dtype: str, batch: int) -> Callable[[list[str]], Any]:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    transformer = Transformer(str(model), max_seq_length=512, model_kwargs={"dtype": getattr(torch, dtype)})
    loaded = SentenceTransformer(modules=[transformer, Pooling(768, "mean")], device="cuda")
    return lambda texts: loaded.encode(texts, batch_size=batch, show_progress_bar=False)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("there is no GPU")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n", flush=True)
    with tempfile.TemporaryDirectory() as place:
        model = made(Path(place))
        equality(model)
        texts = drawn(options.texts)
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
            for round_ in range(options.rounds + 1):
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
