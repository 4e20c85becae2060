"""How often chance alone moves the verdict on a matrix: the edge ratios of random matrices, and of real ones.

    python tests/benchmarks/false_alarms.py [--quick] [--scaled] [CHECKPOINT ...]

Prints the tables of docs/statistics.md. In full it takes about ten minutes on two cores; --scaled draws only those
matrices that are not of one scale, in a minute.
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy: the processes below share the cores

import argparse
import math
import platform
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from noise import FLAT, NOISE

from bertprobe.anatomy import Part
from bertprobe.checkpoint import TensorHeader, open_checkpoint, read_tensors
from bertprobe.stats.numbers import Numbers, measure
from bertprobe.verdicts import SMALLEST_SIDE, TRAINED_ABOVE, UNTRAINED_BELOW, Evidence, verdict

Matrix = npt.NDArray[np.float32]
Shape = tuple[int, int]
SEED = 2026
PROCESSES = 2
MOST_DRAWS, ELEMENTS = 4000, 4e8  # of one shape and initialiser: at most so many matrices and so many elements
CHUNK_ELEMENTS = 1e8


def normal(rng: np.random.Generator, shape: Shape, std: float = 0.02) -> Matrix:
    return rng.standard_normal(shape, np.float32) * np.float32(std)


def truncated_normal(rng: np.random.Generator, shape: Shape) -> Matrix:
    """Redrawn until within two standard deviations, as TensorFlow's initialiser does."""
    x = rng.standard_normal(shape, np.float32)
    while (outside := np.abs(x) > 2).any():
        x[outside] = rng.standard_normal(int(outside.sum()), np.float32)
    return x * np.float32(0.02)


def uniform(rng: np.random.Generator, shape: Shape, limit: float) -> Matrix:
    return (2 * rng.random(shape, np.float32) - 1) * np.float32(limit)


INITIALISERS: dict[str, Callable[[np.random.Generator, Shape], Matrix]] = {
    "normal(0, 0.02)": normal,
    "truncated normal, ±2σ": truncated_normal,
    "uniform, as torch's Linear": lambda rng, shape: uniform(rng, shape, 1 / math.sqrt(shape[1])),
    "Xavier uniform": lambda rng, shape: uniform(rng, shape, math.sqrt(6 / sum(shape))),
    "Xavier normal": lambda rng, shape: normal(rng, shape, math.sqrt(2 / sum(shape))),
}
# Below SMALLEST_SIDE no verdict is given; the first rows show what the ratio alone would say there.
SHAPES: tuple[Shape, ...] = (
    (8, 8),
    (16, 16),
    (16, 64),
    (32, 32),
    (32, 128),
    (48, 48),
    (48, 192),
    (64, 64),
    (64, 256),
    (128, 512),
    (256, 256),
    (384, 384),
    (1536, 384),
    (768, 768),
    (3072, 768),
    (1024, 1024),
    (4096, 1024),
    (4096, 4096),
)
STORAGES: dict[str, Any] = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3": ml_dtypes.float8_e4m3fn,
}
ROUNDED_SHAPES: tuple[Shape, ...] = ((64, 64), (768, 768))
# What the file's matrices are called in the table; embeddings are looked up, not multiplied with, and left out.
WEIGHT = re.compile(r"(dense|query|key|value|lin\d?|proj)\.weight$")


@dataclass(frozen=True)
class Draws:
    """So many random matrices of one kind, under a seed of their own."""

    shape: Shape
    initialiser: str
    storage: str
    count: int
    seed: int


Pair = tuple[float, float]  # edge ratio and kurtosis of a matrix
Drawn = tuple[Draws, list[Pair]]


@dataclass(frozen=True)
class Measured:
    """The edge ratios and kurtoses (n,) of a set of matrices."""

    label: str
    ratios: npt.NDArray[np.float64]
    kurtoses: npt.NDArray[np.float64]


def planned(quick: bool) -> list[Draws]:
    """All draws in pieces of a few seconds each, the largest matrices first so that both processes end together."""
    share = 0.02 if quick else 1.0
    plan: list[Draws] = []
    for shape in SHAPES:
        storages = STORAGES if shape in ROUNDED_SHAPES else ("float32",)
        total = max(2, round(share * min(MOST_DRAWS, ELEMENTS // math.prod(shape))))
        piece = max(1, int(CHUNK_ELEMENTS // math.prod(shape)))
        for storage in storages:
            for initialiser in INITIALISERS:
                for start in range(0, total, piece):
                    plan.append(Draws(shape, initialiser, storage, min(piece, total - start), len(plan)))
    return sorted(plan, key=lambda draws: -math.prod(draws.shape))


def drawn(draws: Draws) -> Drawn:
    """The draws with the edge ratio and kurtosis of each matrix."""
    rng = np.random.default_rng([SEED, draws.seed])
    make, dtype = INITIALISERS[draws.initialiser], STORAGES[draws.storage]
    return draws, [numbers_of(make(rng, draws.shape).astype(dtype)) for _ in range(draws.count)]


def numbers_of(matrix: npt.NDArray[Any]) -> Pair:
    numbers = measure(matrix)
    if numbers.mp_edge_ratio is None or numbers.summary.kurtosis is None:
        return math.nan, math.nan
    return numbers.mp_edge_ratio, numbers.summary.kurtosis


def grouped(label: str, pairs: Iterable[Pair]) -> Measured:
    table = np.array(list(pairs)).reshape(-1, 2)
    return Measured(label, table[:, 0], table[:, 1])


def random_rows(results: list[Drawn]) -> Iterator[Measured]:
    """By shape; by initialiser, over the shapes that get a verdict; by storage type."""
    for shape in SHAPES:
        name = f"{shape[0]} × {shape[1]}" + (" (too small)" if min(shape) < SMALLEST_SIDE else "")
        yield grouped(name, chosen(results, {shape}, set(INITIALISERS), "float32"))
    judged = {shape for shape in SHAPES if min(shape) >= SMALLEST_SIDE}
    for name in INITIALISERS:
        yield grouped(name, chosen(results, judged, {name}, "float32"))
    for shape in ROUNDED_SHAPES:
        for name in list(STORAGES)[1:]:
            label = f"{shape[0]} × {shape[1]}, stored as {name}"
            yield grouped(label, chosen(results, {shape}, set(INITIALISERS), name))


def chosen(results: list[Drawn], shapes: set[Shape], initialisers: set[str], storage: str) -> Iterator[Pair]:
    for draws, pairs in results:
        if draws.shape in shapes and draws.initialiser in initialisers and draws.storage == storage:
            yield from pairs


def checkpoint_rows(ref: str) -> Iterator[Measured]:
    """The matrices of a checkpoint, those of all layers that bear the same name in one row."""
    headers = {n: h for n, h in open_checkpoint(ref).headers.items() if len(h.shape) == 2 and WEIGHT.search(n)}
    roles: dict[str, list[Pair]] = {}
    for full, array in read_tensors(headers):
        name = re.sub(r"\.\d+\.", ".*.", full).removesuffix(".weight").removeprefix("encoder.layer.*.")
        roles.setdefault(f"{name}, {array.shape[0]} × {array.shape[1]}", []).append(numbers_of(array))
    for name, pairs in sorted(roles.items()):
        yield grouped(f"`{name}`", pairs)


HEADINGS = ("matrices", "n", "min", "1 %", "median", "99 %", "max", "kurtosis (median)")
VERDICTS = (f"< {UNTRAINED_BELOW}", f"{UNTRAINED_BELOW}–{TRAINED_ABOVE}", f"> {TRAINED_ABOVE}")


def row_of(measured: Measured) -> str:
    ratios = measured.ratios
    quantiles = np.quantile(ratios, (0, 0.01, 0.5, 0.99, 1))
    words = [
        measured.label,
        f"{len(ratios):,}",
        *(f"{q:.3f}" for q in quantiles),
        f"{np.median(measured.kurtoses).round(2) + 0.0:.2f}",
    ]
    words += [f"{n:,}" for n in verdict_counts(ratios)]
    return f"| {' | '.join(words)} |"


def verdict_counts(ratios: npt.NDArray[np.float64]) -> tuple[int, int, int]:
    """How many ratios say untrained, undecided and trained."""
    below, above = int((ratios < UNTRAINED_BELOW).sum()), int((ratios > TRAINED_ABOVE).sum())
    return below, len(ratios) - below - above, above


def summary_of(results: list[Drawn]) -> str:
    """The false alarms among the random matrices that get a verdict; 3 / n bounds a rate of which none was seen."""
    judged = {shape for shape in SHAPES if min(shape) >= SMALLEST_SIDE}
    ratios = grouped("", chosen(results, judged, set(INITIALISERS), "float32")).ratios
    below, between, above = verdict_counts(ratios)
    return (
        f"Of {len(ratios):,} random matrices with both sides at least {SMALLEST_SIDE}: {below:,} untrained, "
        f"{between:,} undecided, {above:,} trained (a rate of which none was seen is below {3 / len(ratios):.0e} "
        f"with 95 % confidence); largest ratio {ratios.max():.3f}."
    )


SCALED_SIDES, SCALED_DRAWS = (64, 128, 384, 768), 60


def scaled_rows(quick: bool) -> Iterator[str]:
    """Noise that is not of one scale, and flat spectra, with a bias of zeros: both ratios and the words on them."""
    for kind, make in {**NOISE, **FLAT}.items():
        for side in SCALED_SIDES:
            rng = np.random.default_rng(SEED)
            found = [measure(make(rng, side).astype(np.float32)) for _ in range(6 if quick else SCALED_DRAWS)]
            edges, noises = (
                sorted(getattr(n, name) or 0.0 for n in found) for name in ("mp_edge_ratio", "noise_ratio")
            )
            words = Counter(str(word_on(numbers)) for numbers in found)
            ratios = [f"{v[0]:.3f} / {v[len(v) // 2]:.3f} / {v[-1]:.3f}" for v in (edges, noises)]
            told = ", ".join(f"{count} {word}" for word, count in words.most_common())
            yield f"| {kind} | {side} | {' | '.join(ratios)} | {told} |"


def word_on(numbers: Numbers) -> str | None:
    """The verdict on a pooler of these numbers whose bias is zero."""
    header = TensorHeader("pooler.dense.weight", "F32", numbers.shape or ())
    part = Part("pooler", None, None, None, "tanh", {"pooler.dense.weight": header, "pooler.dense.bias": header})
    zeros = measure(np.zeros(4, np.float32))
    anatomy: Any = None  # which a verdict does not ask
    checkpoint: Any = None
    return verdict(Evidence(checkpoint, anatomy, {"pooler.dense.weight": numbers, "pooler.dense.bias": zeros}), part)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the draws")
    parser.add_argument("checkpoints", nargs="*", metavar="CHECKPOINT")
    parser.add_argument("--scaled", action="store_true", help="only matrices that are not of one scale")
    options = parser.parse_args(argv)
    print(
        "| noise, bias zero | side | edge ratio: min / median / max | noise ratio | verdicts |\n|---|---:|---|---|---|"
    )
    print(*scaled_rows(options.quick), sep="\n", end="\n\n", flush=True)
    if options.scaled:
        return
    with ProcessPoolExecutor(PROCESSES) as pool:
        results = list(pool.map(drawn, planned(options.quick)))
    rows = [*random_rows(results), *(row for ref in options.checkpoints for row in checkpoint_rows(ref))]
    print(f"| {' | '.join((*HEADINGS, *VERDICTS))} |")
    print("|---|" + "---:|" * (len(HEADINGS) + len(VERDICTS) - 1))
    print(*map(row_of, rows), sep="\n")
    print(f"\n{summary_of(results)}")
    print(
        f"\nSeed {SEED}; per shape and initialiser at most {MOST_DRAWS:,} matrices and {ELEMENTS:.0e} elements"
        f"{', a fiftieth of it' if options.quick else ''}; numpy {np.__version__}, "
        f"ml_dtypes {ml_dtypes.__version__}, Python {platform.python_version()}."
    )


if __name__ == "__main__":
    main(sys.argv[1:])
