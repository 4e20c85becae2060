"""Tokens → what the parts put out, a batch at a time; what is kept of many batches adds up.

Letters: N texts and T tokens of a batch, H hidden size, I intermediate size, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from bertprobe.anatomy import Anatomy
from bertprobe.anatomy.poolers import require_pooler
from bertprobe.backends import ACTIVATIONS, Array, Backend, NumpyBackend, OneDNNBackend, TorchBackend
from bertprobe.checkpoint import DTYPES, Checkpoint, TensorHeader, read_tensors
from bertprobe.encoder import Encoder, encode, first_tokens, load_encoder, pool, why_not_native
from bertprobe.errors import UnsupportedFile, printable
from bertprobe.tokens import Tokenizer, batches, check_rows, check_vocabulary, open_tokenizer
from bertprobe.verdicts import Finding
from bertprobe.verdicts.numbers import not_finite_tensor

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from bertprobe.reference import Reference
    from bertprobe.tokens import Packed

    Floats = npt.NDArray[np.float32]

# Floating-point operations from which torch's speed makes up for the second or more that its import takes: on two cores
# numpy and torch needed as long, whole processes, for some 300 paragraphs by MiniLM (docs/speed.md).
WORTH_IMPORTING_TORCH = 5e11
FIRING = 0.0
SMALL = 0.01
ENERGY = 0.9


@dataclass(frozen=True, slots=True)
class Compute:
    """How to run: `backend` auto or a row of BACKENDS, `device` auto, cpu, cuda or mps, `dtype`, threads, batches.

    `threads` None are all there are; `budget` is tokens a batch, None what suits the device.
    """

    backend: str = "auto"
    device: str = "auto"
    dtype: str = "float32"
    threads: int | None = None
    budget: int | None = None


Tap = Callable[[str, Array, Array], None]
"""Called with a part's label and its values before and after the activation, (rows, I) each, as they arise."""


class Engine(Protocol):
    """What runs packed texts: the native encoder, or transformers."""

    backend: Backend
    name: str
    longest: int
    vocabulary: int | None
    segments: int | None
    has_pooler: bool
    rows_are_tokens: bool

    def states(self, packed: Packed, tap: Tap | None = None) -> list[tuple[Floats, Floats | None]]:
        """Of each text its last hidden states (S, H) and its pooled output (H,), None without a pooler."""
        ...

    def vectors(self, packed: Packed, which: str) -> Floats:
        """Of each text one vector, pooled, cls or mean: (N, H)."""
        ...


class Native:
    """Our own encoder, of BERT's layout."""

    rows_are_tokens = True

    def __init__(self, encoder: Encoder) -> None:
        self.encoder, self.backend, self.name = encoder, encoder.backend, encoder.backend.name
        self.longest = encoder.positions
        self.vocabulary: int | None = encoder.vocabulary
        self.segments: int | None = encoder.segments
        self.has_pooler = encoder.has_pooler

    def states(self, packed: Packed, tap: Tap | None = None) -> list[tuple[Floats, Floats | None]]:
        with self.backend.inference():
            hidden = encode(self.encoder, packed, None if tap is None else _by_label(tap))
            firsts = first_tokens(packed)
            pooled = self.backend.numpy(pool(self.encoder, hidden[firsts])) if self.has_pooler else None
            states = self.backend.numpy(hidden)
        return [
            (states[start : start + length], None if pooled is None else pooled[i])
            for i, (start, length) in enumerate(zip(firsts, packed.lengths, strict=True))
        ]

    def vectors(self, packed: Packed, which: str) -> Floats:
        """No more is computed than the vector needs: but for the mean, the last layer runs for first tokens only."""
        import numpy as np

        with self.backend.inference():
            if which == "mean":
                states = self.backend.numpy(encode(self.encoder, packed))
                sums = np.add.reduceat(states, first_tokens(packed), dtype=np.float32)
                return np.asarray(sums / packed.lengths[:, None], np.float32)
            first = encode(self.encoder, packed, first_only=True)
            found = pool(self.encoder, first) if which == "pooled" else first
            return np.asarray(self.backend.numpy(found), np.float32)


def _by_label(tap: Tap) -> Callable[[int, Array, Array], None]:
    return lambda layer, before, after: tap(f"intermediate.{layer}", before, after)


class Foreign:
    """A model of transformers, one text at a time."""

    name = "transformers"

    def __init__(self, reference: Reference, backend: Backend) -> None:
        self.reference, self.backend = reference, backend
        words = reference.anatomy.tensors.get("embeddings.word_embeddings.weight")
        self.vocabulary = words.shape[0] if words is not None else None
        kinds = reference.anatomy.tensors.get("embeddings.token_type_embeddings.weight")
        self.segments = kinds.shape[0] if kinds is not None else None
        self.longest = _longest(reference.model)
        self.has_pooler = reference.anatomy.pooler is not None
        self.rows_are_tokens = reference.rows_are_tokens

    def states(self, packed: Packed, tap: Tap | None = None) -> list[tuple[Floats, Floats | None]]:
        found = []
        start = 0
        for length in packed.lengths:
            rows = slice(start, start + int(length))
            start += int(length)
            hidden = self.reference.run(packed.ids[rows].tolist(), packed.segments[rows].tolist(), _of_records(tap))
            pooled = None if hidden.pooled is None else self.backend.numpy(hidden.pooled)
            found.append((self.backend.numpy(hidden.last_hidden_state), pooled))
        return found

    def vectors(self, packed: Packed, which: str) -> Floats:
        import numpy as np

        rows = [vectors_of(states, pooled)[which] for states, pooled in self.states(packed)]
        return np.stack([row for row in rows if row is not None])


def _of_records(tap: Tap | None) -> Callable[[Any], None] | None:
    """A module that several layers share gives each of its calls a name."""
    if tap is None:
        return None
    return lambda r: tap(r.part if r.call == 0 else f"{r.part} (call {r.call})", r.before, r.after)


UNBOUNDED = 1_000_000
"""The most tokens of a text to a model whose positions are relative and have no end."""


def _longest(model: Any) -> int:
    """The most tokens a text may have, by a model's own config, defaults of its class included.

    A table of positions that knows a padding id, as RoBERTa's does, is used from the row after it.
    """
    keys = ("max_position_embeddings", "n_positions")
    found = next((n for key in keys if type(n := getattr(model.config, key, None)) is int), 0)
    embeddings = getattr(model, "embeddings", None)
    table = getattr(embeddings, "position_embeddings", None)
    if found <= 0 or (table is None and hasattr(embeddings, "position_embeddings")):  # DeBERTa's may be relative alone
        return UNBOUNDED
    padding = getattr(table, "padding_idx", None)
    return found if padding is None else found - padding - 1


@dataclass(slots=True)
class Trimmed:
    """How many texts were cut to what the model takes, and how many tokens that left out."""

    texts: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Runner:
    """A checkpoint ready for text: what runs it and its tokenizer; `trimmed` counts what it had to cut."""

    checkpoint: Checkpoint
    anatomy: Anatomy
    engine: Engine
    tokenizer: Tokenizer
    compute: Compute
    trimmed: Trimmed = field(default_factory=Trimmed)

    def batches(self, texts: Iterable[str], *, truncate: bool = False, pairs: bool = False) -> Iterator[Packed]:
        """The texts as packed batches, longest first within a window.

        Raises `CorruptFile` at the end where the weights have changed since they were opened, though what was computed
        is of the weights as they were: what lies under their name now is something else.
        """
        for packed in batches(
            self.tokenizer,
            texts,
            budget=self.compute.budget or self.engine.backend.batch_tokens,
            longest=self.engine.longest,
            truncate=truncate,
            pairs=pairs,
        ):
            check_rows(packed, self.engine.vocabulary, self.engine.segments)
            self.trimmed.texts += int((packed.cut > 0).sum())
            self.trimmed.tokens += int(packed.cut.sum())
            yield packed
        for file in self.checkpoint.files:
            file.check_unchanged()


def open_runner(
    checkpoint: Checkpoint,
    anatomy: Anatomy,
    compute: Compute,
    texts: Sequence[str] = (),
    *,
    depth: int | None = None,
    pooler: bool = True,
    tokenizer: Tokenizer | None = None,
) -> Runner:
    """The encoder and tokenizer of a checkpoint; `auto` chooses the backend by the `texts` known beforehand.

    The tokenizer is the one beside its weights unless one is given.
    """
    engine: Engine
    if why_not_native(checkpoint, anatomy) is None:
        backend = choose_backend(compute, anatomy, _work(anatomy, texts))
        engine = Native(load_encoder(checkpoint, anatomy, backend, depth=depth, pooler=pooler))
    else:
        engine = _foreign(checkpoint, anatomy, compute)
    if tokenizer is None:
        tokenizer = open_tokenizer(checkpoint, lambda: _their_tokenizer(checkpoint))
    if engine.vocabulary is not None:
        check_vocabulary(tokenizer, engine.vocabulary)
    return Runner(checkpoint, anatomy, engine, tokenizer, compute)


def _foreign(checkpoint: Checkpoint, anatomy: Anatomy, compute: Compute) -> Engine:
    from bertprobe.reference import load_reference

    if compute.backend == "numpy":
        reason = why_not_native(checkpoint, anatomy)
        raise UnsupportedFile(f"numpy cannot run {printable(checkpoint.ref)}: {reason}", "leave out --backend numpy")
    backend = TorchBackend.on(compute.device, compute.dtype, compute.threads)
    return Foreign(load_reference(checkpoint, anatomy, device=backend.device, dtype=backend.dtype), backend)


def _their_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    from bertprobe.reference import tokenizer

    return tokenizer(checkpoint)


def choose_backend(compute: Compute, anatomy: Anatomy, work: float) -> Backend:
    """The backend asked for; `auto` is numpy for float32 on the CPU while torch's import would cost more than it saves.

    From there on `auto` is oneDNN on the CPU where torch has it; torch itself is for small work where it is loaded
    anyway, and for GPUs. Raises `UnsupportedFile` for what cannot go together, such as numpy on a GPU.
    """
    import sys

    here = compute.device in ("auto", "cpu") and compute.dtype == "float32"
    numpy_can = here and ACTIVATIONS.get(str(anatomy.promised.activation), (None,))[0] is not None
    if compute.backend == "numpy" and not here:
        raise UnsupportedFile(
            f"numpy computes in float32 on the CPU, not in {compute.dtype} on {compute.device}",
            "choose --backend torch",
        )
    small = work < WORTH_IMPORTING_TORCH
    if compute.backend == "numpy" or (compute.backend == "auto" and numpy_can and small and "torch" not in sys.modules):
        _set_threads_of_numpy(compute.threads)
        return NumpyBackend()
    if compute.backend == "onednn":
        return OneDNNBackend.on(compute.device, compute.dtype, compute.threads)
    found = TorchBackend.on(compute.device, compute.dtype, compute.threads)
    large = compute.backend == "auto" and not small and compute.dtype != "float16"
    if large and found.device == "cpu" and OneDNNBackend.is_there():
        return OneDNNBackend.on("cpu", compute.dtype, compute.threads)
    return found


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

    @property
    def is_finite(self) -> bool:
        """Whether no number of them is NaN or infinite."""
        import numpy as np

        return all(
            bool(np.isfinite(values).all()) for values in (self.pooled, self.cls, self.mean) if values is not None
        )


def text_vectors(runner: Runner, packed: Packed) -> Iterator[TextVectors]:
    """All three vectors of every text of a batch, in the batch's order."""
    for i, (states, pooled) in enumerate(runner.engine.states(packed)):
        yield TextVectors(int(packed.order[i]), packed.tokens[i], int(packed.cut[i]), **vectors_of(states, pooled))


def vectors_of(states: Floats, pooled: Floats | None) -> dict[str, Any]:
    """The three candidates of one text, from its hidden states (S, H) and pooled output (H,)."""
    return {"pooled": pooled, "cls": states[0], "mean": states.mean(0)}


def require_vector(checkpoint: Checkpoint, anatomy: Anatomy, which: str) -> None:
    """Raises `PartMissing` where the pooled output is asked of a checkpoint without a pooler."""
    if which == "pooled":
        require_pooler(checkpoint, anatomy, "take --vector cls or --vector mean instead")


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
    def neurons_for_energy(self) -> int | None:
        """How many neurons carry 90 % of the sum of squares, the strongest first; None where that is no number."""
        import numpy as np

        if not np.isfinite(self.squares).all():
            return None
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
    """What `activations` keeps of a run, by label: sums, and for few texts the matrices themselves.

    `kept` holds the values (rows, I) of every batch or text as they came: after the activation, or before it if `pre`.
    """

    backend: Backend
    labels: Collection[str]
    keep: bool = False
    pre: bool = False
    sums: dict[str, Firing] = field(default_factory=dict)
    kept: dict[str, list[Floats]] = field(default_factory=dict)

    def __call__(self, label: str, before: Array, after: Array) -> None:
        """The tap itself."""
        if label.partition(" ")[0] not in self.labels:
            return
        values = before if self.pre else after
        seen = firing(self.backend, values)
        self.sums[label] = self.sums[label] + seen if label in self.sums else seen
        if self.keep:
            self.kept.setdefault(label, []).append(self.backend.numpy(values))

    @property
    def is_finite(self) -> bool:
        """Whether no activation that was seen is NaN or infinite."""
        import numpy as np

        return all(bool(np.isfinite(sums.squares).all()) for sums in self.sums.values())

    def in_order(self, lengths: Sequence[int], order: Sequence[int]) -> Watch:
        """The same with a matrix for each text, in the order of the input rather than of the batches.

        `lengths` are the rows of each text as they came; where a text came by itself its matrix tells.
        """
        import numpy as np

        places = sorted(range(len(order)), key=order.__getitem__)
        kept = {}
        for label, found in self.kept.items():
            texts = found if len(found) == len(order) else np.split(np.concatenate(found), np.cumsum(lengths)[:-1])
            kept[label] = [texts[i] for i in places]
        return Watch(self.backend, self.labels, self.keep, self.pre, self.sums, kept)


def strongest(values: Floats, most: int) -> list[dict[str, Any]]:
    """The neurons of largest magnitude in a row (I,), strongest first: `{neuron, value}`."""
    import numpy as np

    order = np.argsort(-np.abs(values), kind="stable")[:most]
    return [{"neuron": int(i), "value": float(values[i])} for i in order]


def settings_of(runner: Runner) -> Mapping[str, Any]:
    """The facts of a run: backend, device, dtype, tokenizer and what was decided on the way."""
    return {
        "backend": runner.engine.name,
        "device": runner.engine.backend.device,
        "dtype": runner.engine.backend.dtype,
        "tokenizer": runner.tokenizer.name,
        "tokenizer_notes": list(runner.tokenizer.notes),
        "cut": {"texts": runner.trimmed.texts, "tokens": runner.trimmed.tokens},
    }


# ------------------------------------------------------------------------------------------------ numbers that are none


def why_not_finite(runner: Runner) -> tuple[Finding, ...]:
    """What makes the numbers of a run NaN or infinite: the weights that are so, which are all read, else the dtype."""
    import numpy as np

    findings = []
    labels = {header.name: part.label for part in runner.anatomy.parts for header in part.tensors.values()}
    wanted = {name: header for name, header in runner.anatomy.tensors.items() if _is_float(header)}
    for name, values in read_tensors(wanted):
        header = wanted[name]
        bad = header.count - int(np.isfinite(values).sum())
        if bad:
            findings.append(not_finite_tensor(name, labels.get(header.name), bad, header.count))
    return tuple(findings) or (_overflow(runner),)


def _is_float(header: TensorHeader) -> bool:
    readable = header.refusal is None and header.dtype in DTYPES
    return readable and DTYPES[header.dtype].is_float and DTYPES[header.dtype].numpy is not None


def _overflow(runner: Runner) -> Finding:
    dtype = runner.engine.backend.dtype
    return Finding(
        "not-finite",
        "error",
        None,
        f"what comes out is NaN or infinite in {dtype}, though no weight is",
        {"dtype": dtype},
        "the numbers overflow: compute in bfloat16 or float32" if dtype == "float16" else "look at its weights' sizes",
    )
