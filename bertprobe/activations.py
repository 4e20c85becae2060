"""Tokens → what the parts put out, a batch at a time; what is kept of many batches adds up.

Letters: N texts and T tokens of a batch, H hidden size, I intermediate size, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bertprobe.anatomy import Anatomy
from bertprobe.backends import ACTIVATIONS, Array, Backend, NumpyBackend, TorchBackend
from bertprobe.checkpoint import Checkpoint
from bertprobe.encoder import Encoder, encode, first_tokens, load_encoder, pool
from bertprobe.errors import PartMissing, UnsupportedFile, printable
from bertprobe.tokens import Text, Tokenizer, batches, check_vocabulary, open_tokenizer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from bertprobe.tokens import Packed

    Floats = npt.NDArray[np.float32]

# numpy reaches about the speed of torch here; importing torch costs over a second, in which numpy does some 1.5e11
# floating-point operations on two cores (tests/benchmarks/text_speed.py).
WORTH_IMPORTING_TORCH = 1.5e11
BUDGET = 16_384  # tokens of a batch
FIRING = 0.0
SMALL = 0.01
ENERGY = 0.9


@dataclass(frozen=True, slots=True)
class Compute:
    """How to run: `backend` auto, numpy or torch; `device` auto, cpu, cuda or mps; `dtype`; threads; tokens a batch."""

    backend: str = "auto"
    device: str = "auto"
    dtype: str = "float32"
    threads: int | None = None
    budget: int = BUDGET


@dataclass(frozen=True, slots=True)
class Runner:
    """A checkpoint ready for text: its encoder and its tokenizer."""

    checkpoint: Checkpoint
    anatomy: Anatomy
    encoder: Encoder
    tokenizer: Tokenizer
    compute: Compute

    def batches(self, texts: Iterable[str], *, truncate: bool = False, pairs: bool = False) -> Iterator[Packed]:
        """The texts as packed batches, longest first within a window."""
        return batches(
            self.tokenizer,
            texts,
            budget=self.compute.budget,
            longest=self.encoder.positions,
            truncate=truncate,
            pairs=pairs,
        )


def open_runner(
    checkpoint: Checkpoint,
    anatomy: Anatomy,
    compute: Compute,
    texts: Sequence[str] = (),
    *,
    depth: int | None = None,
    pooler: bool = True,
) -> Runner:
    """The encoder and tokenizer of a checkpoint; `auto` chooses the backend by the `texts` known beforehand."""
    tokenizer = open_tokenizer(checkpoint)
    backend = choose_backend(compute, anatomy, _work(anatomy, texts))
    encoder = load_encoder(checkpoint, anatomy, backend, depth=depth, pooler=pooler)
    check_vocabulary(tokenizer, encoder.vocabulary)
    return Runner(checkpoint, anatomy, encoder, tokenizer, compute)


def choose_backend(compute: Compute, anatomy: Anatomy, work: float) -> Backend:
    """The backend asked for; `auto` is numpy for float32 on the CPU while torch's import would cost more than it saves.

    Raises `UnsupportedFile` for what cannot go together, such as numpy on a GPU.
    """
    import sys

    here = compute.device in ("auto", "cpu") and compute.dtype == "float32"
    numpy_can = here and ACTIVATIONS.get(str(anatomy.promised.activation), (None,))[0] is not None
    if compute.backend == "numpy" and not here:
        raise UnsupportedFile(
            f"numpy computes in float32 on the CPU, not in {compute.dtype} on {compute.device}",
            "choose --backend torch",
        )
    small = "torch" not in sys.modules and work < WORTH_IMPORTING_TORCH
    if compute.backend == "numpy" or (compute.backend == "auto" and numpy_can and small):
        _set_threads_of_numpy(compute.threads)
        return NumpyBackend()
    return _torch_backend(compute)


def _torch_backend(compute: Compute) -> Backend:
    return TorchBackend.on(compute.device, compute.dtype, compute.threads)


def _set_threads_of_numpy(threads: int | None) -> None:
    if threads is not None:
        import numpy as np  # noqa: F401  # its BLAS must be loaded to be told
        from threadpoolctl import threadpool_limits

        threadpool_limits(threads, "blas")


def _work(anatomy: Anatomy, texts: Sequence[str]) -> float:
    """Floating-point operations for some texts, guessed: four characters a token, two operations a weight and token."""
    weights = sum(
        h.count for name, h in anatomy.tensors.items() if name.startswith("encoder.layer.") and len(h.shape) == 2
    )
    return sum(2 + len(text) / 4 for text in texts) * 2 * weights


# ------------------------------------------------------------------------------------------------ pooled output


@dataclass(frozen=True, slots=True, eq=False)
class TextVectors:
    """One text's three candidates for a vector, (H,) each, which people mistake for each other.

    `pooled` is the pooler's output, None where there is no pooler; `cls` the first token's last hidden state; `mean`
    the mean of all tokens' last hidden states.
    """

    place: int
    tokens: tuple[str, ...]
    cut: int
    pooled: Floats | None
    cls: Floats
    mean: Floats


def text_vectors(runner: Runner, packed: Packed) -> Iterator[TextVectors]:
    """All three vectors of every text of a batch, in the batch's order."""

    backend = runner.encoder.backend
    with backend.inference():
        hidden = encode(runner.encoder, packed)
        firsts = first_tokens(packed)
        pooled = backend.numpy(pool(runner.encoder, hidden[firsts])) if runner.encoder.has_pooler else None
        states = backend.numpy(hidden)
    means = _means(states, packed)
    for i, start in enumerate(firsts):
        vector = None if pooled is None else pooled[i]
        yield TextVectors(int(packed.order[i]), packed.tokens[i], int(packed.cut[i]), vector, states[start], means[i])


def _means(states: Floats, packed: Packed) -> Floats:
    """The mean of each text's rows of (T, H), (N, H)."""
    import numpy as np

    sums = np.add.reduceat(states, first_tokens(packed), dtype=np.float32)
    return np.asarray(sums / packed.lengths[:, None], np.float32)


def one_vector(runner: Runner, packed: Packed, which: str) -> Floats:
    """One kind of vector for every text of a batch, (N, H) in the batch's order; no more is computed than it needs."""
    import numpy as np

    backend = runner.encoder.backend
    with backend.inference():
        if which == "mean":
            states = backend.numpy(encode(runner.encoder, packed))
            return _means(states, packed)
        first = encode(runner.encoder, packed, first_only=True)
        return np.asarray(backend.numpy(pool(runner.encoder, first) if which == "pooled" else first), np.float32)


def require_vector(checkpoint: Checkpoint, anatomy: Anatomy, which: str) -> None:
    """Raises `PartMissing` where the pooled output is asked of a checkpoint without a pooler."""
    if which == "pooled" and not any(part.stack is None for part in anatomy.of("pooler")):
        from bertprobe.verdicts.headers import why_no_pooler

        reason, _ = why_no_pooler(checkpoint, anatomy)
        raise PartMissing(
            f"{printable(checkpoint.ref)} holds no pooler: {reason}", "take --vector cls or --vector mean instead"
        )


def cosines(vectors: Sequence[Floats]) -> list[list[float | None]]:
    """Cosine similarities of N vectors, (N, N), in float64; None where a vector is zero."""
    import numpy as np

    matrix = np.stack(vectors).astype(np.float64)
    norms = np.linalg.norm(matrix, axis=1)
    products = matrix @ matrix.T
    scale = np.outer(norms, norms)
    return [
        [float(p / s) if s else None for p, s in zip(row, scales, strict=True)]
        for row, scales in zip(products, scale, strict=True)
    ]


# ------------------------------------------------------------------------------------------------ intermediate output


@dataclass(frozen=True, slots=True, eq=False)
class Firing:
    """Running sums of each neuron of a layer over tokens, (I,) each in float64; two add to one.

    `highest` and `lowest` are the extremes, `above` counts tokens on which the neuron is positive, `small` those with
    |a| < 0.01.
    """

    tokens: int
    total: Any
    squares: Any
    highest: Any
    lowest: Any
    above: Any
    small: Any

    def __add__(self, other: Firing) -> Firing:
        import numpy as np

        return Firing(
            self.tokens + other.tokens,
            self.total + other.total,
            self.squares + other.squares,
            np.maximum(self.highest, other.highest),
            np.minimum(self.lowest, other.lowest),
            self.above + other.above,
            self.small + other.small,
        )

    @property
    def count(self) -> int:
        """Activations seen: tokens times neurons."""
        return self.tokens * len(self.total)

    @property
    def mean(self) -> float:
        return float(self.total.sum() / self.count)

    @property
    def std(self) -> float:
        variance = float(self.squares.sum() / self.count) - self.mean**2
        return math.sqrt(max(variance, 0.0))

    @property
    def neurons_for_energy(self) -> int:
        """How many neurons carry 90 % of the sum of squares, the strongest first."""
        import numpy as np

        energy = np.sort(self.squares)[::-1].cumsum()
        return int(np.searchsorted(energy, ENERGY * energy[-1]) + 1) if energy[-1] else 0

    @property
    def never(self) -> int:
        """Neurons that were positive on no token."""
        return int((self.above == 0).sum())


def firing(backend: Backend, values: Array) -> Firing:
    """The sums of one batch's activations (T, I)."""
    return Firing(int(values.shape[0]), *backend.neuron_sums(values, FIRING, SMALL))


@dataclass(slots=True)
class Watch:
    """What `activations` keeps of a run: sums for each layer, and for few texts the matrices themselves.

    `keep` holds the values after the activation (T, I) of every batch, `before` those before it, layer by layer.
    """

    backend: Backend
    layers: Sequence[int]
    keep: bool = False
    pre: bool = False
    sums: dict[int, Firing] = field(default_factory=dict)
    kept: dict[int, list[Floats]] = field(default_factory=dict)

    def __call__(self, layer: int, before: Array, after: Array) -> None:
        """The tap itself."""
        if layer not in self.layers:
            return
        values = before if self.pre else after
        seen = firing(self.backend, values)
        self.sums[layer] = self.sums[layer] + seen if layer in self.sums else seen
        if self.keep:
            self.kept.setdefault(layer, []).append(self.backend.numpy(values))

    def in_order(self, pieces: Sequence[Sequence[str]], order: Sequence[int]) -> Watch:
        """The same with one matrix a layer, its texts in the order of the input rather than of the batches."""
        import numpy as np

        starts = np.cumsum([0, *(len(text) for text in pieces)])
        rows = [np.arange(starts[i], starts[i + 1]) for i in sorted(range(len(order)), key=order.__getitem__)]
        index = np.concatenate(rows) if rows else None
        kept = {layer: [np.concatenate(found)[index]] for layer, found in self.kept.items()}
        return Watch(self.backend, self.layers, self.keep, self.pre, self.sums, kept)


def watch(runner: Runner, packed: Packed, taps: Callable[[int, Array, Array], None]) -> None:
    """Runs a batch for its taps alone."""
    with runner.encoder.backend.inference():
        encode(runner.encoder, packed, taps)


def strongest(values: Floats, most: int) -> list[dict[str, Any]]:
    """The neurons of largest magnitude in a row (I,), strongest first: `{neuron, value}`."""
    import numpy as np

    order = np.argsort(-np.abs(values), kind="stable")[:most]
    return [{"neuron": int(i), "value": float(values[i])} for i in order]


def texts_of(items: Sequence[Text]) -> list[str]:
    """Texts and pairs as single strings, for what is shown."""
    return [item if isinstance(item, str) else " / ".join(item) for item in items]


def settings_of(runner: Runner) -> Mapping[str, Any]:
    """The facts of a run: backend, device, dtype, tokenizer and what was decided on the way."""
    backend = runner.encoder.backend
    return {
        "backend": backend.name,
        "device": backend.device,
        "dtype": backend.dtype,
        "tokenizer": runner.tokenizer.name,
        "tokenizer_notes": list(runner.tokenizer.notes),
    }
