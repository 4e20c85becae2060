"""What `explain` tells of a checkpoint: both modules measured, and a text run through them step by step.

Letters: S tokens of the text, H hidden size, I intermediate size, L layers.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bertprobe import layers
from bertprobe.anatomy import Anatomy, Part
from bertprobe.anatomy.native import why_not_native
from bertprobe.anatomy.poolers import absence, pooling_modes
from bertprobe.backends import ACTIVATIONS, NumpyBackend
from bertprobe.checkpoint import Checkpoint
from bertprobe.encoder import encode
from bertprobe.errors import BertprobeError, printable
from bertprobe.report import facts as facts_of
from bertprobe.report.explanation.facts import SHOWN, Compared, Facts, Module, Pooled, Run, Step, Worked
from bertprobe.report.explanation.source import read_library
from bertprobe.run import (
    HIDDEN,
    POOLED,
    AllVectors,
    BertEngine,
    Captured,
    Compute,
    Matrices,
    Runner,
    Site,
    TextVectors,
    cosines,
    open_runner,
    run_batch,
)
from bertprobe.verdicts import Evidence, verdict

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from bertprobe.tokens import Packed

    Floats = npt.NDArray[np.float32]

TEXT = "The ship left the harbour."
_NEXT_SENTENCE = "seq_relationship.weight"  # of the head that BERT's next-sentence prediction has on the pooler
SATURATED = 0.99
SAME = 1e-5  # of the largest value: float32 summed in another order


def gather(evidence: Evidence, text: str, *, truncate: bool = False) -> Facts:
    """Looks up, measures and runs everything there is to tell; `evidence` holds the numbers of all parts.

    A checkpoint that cannot run a text is told without one; a text that does not fit is an error.
    """
    checkpoint, anatomy = evidence.checkpoint, evidence.anatomy
    run, refusal = _tried(checkpoint, anatomy, text, truncate)
    known = facts_of(checkpoint, anatomy)
    pooler = () if anatomy.pooler is None else (anatomy.pooler,)
    saved_by = (checkpoint.config or {}).get("architectures")
    config_spec = anatomy.config_spec.layers
    return Facts(
        model=printable(checkpoint.ref),
        family=printable(anatomy.family),
        native=why_not_native(anatomy) is None,
        gated=bool(anatomy.of("gate")),
        nsp=anatomy.row.nsp,
        layers=known["layers"],
        called=config_spec if anatomy.layout.shared and type(config_spec) is int else known["layers"],
        hidden_size=known["hidden_size"],
        intermediate_size=known["intermediate_size"],
        parameters=known["parameters"],
        up_projection=_module(evidence, anatomy.of("intermediate", "gate")),
        pooler=_module(evidence, pooler),
        absence=None if pooler else absence(checkpoint, anatomy),
        saved_by=tuple(printable(str(name)) for name in saved_by) if isinstance(saved_by, list) else (),
        next_sentence_head=next((printable(n) for n in anatomy.tensors if n.endswith(_NEXT_SENTENCE)), None),
        pools_by=tuple(printable(mode) for mode in pooling_modes(checkpoint)),
        library=read_library(anatomy.row),
        run=run,
        refusal=refusal,
    )


def _tried(checkpoint: Checkpoint, anatomy: Anatomy, text: str, truncate: bool) -> tuple[Run | None, str | None]:
    """A text's run, or why this checkpoint can run none; what is wrong with the text itself is raised.

    Our own encoder runs on numpy, whatever is loaded: its digits are then the same always.
    """
    native = why_not_native(anatomy) is None
    try:
        runner = open_runner(checkpoint, anatomy, Compute("numpy" if native else "auto"))
    except BertprobeError as error:
        return None, error.found
    packed = next(iter(runner.batches([text], truncate=truncate)))
    try:
        with runner.engine.backend.inference():
            return _run(runner, packed, text), None
    except BertprobeError as error:
        return None, error.found


def _module(evidence: Evidence, parts: Sequence[Part]) -> Module | None:
    if not parts:
        return None
    shapes = {part.weight.shape for part in parts if part.weight is not None}
    outputs, inputs = next(iter(shapes)) if len(shapes) == 1 and len(next(iter(shapes))) == 2 else (None, None)
    edges = [n.mp_edge_ratio for part in parts if (n := evidence.of(part)) is not None and n.mp_edge_ratio is not None]
    return Module(
        count=sum(part.role != "gate" for part in parts),
        inputs=inputs,
        outputs=outputs,
        activation=next((part.activation for part in parts if part.activation), None),
        biased=any(part.bias is not None for part in parts),
        parameters=sum(header.count for part in parts for header in part.tensors.values()),
        verdicts=dict(Counter(word for part in parts if (word := verdict(evidence, part)) is not None)),
        edges=(min(edges), max(edges)) if edges else None,
    )


# ------------------------------------------------------------------------------------------------ a text


def _run(runner: Runner, packed: Packed, text: str) -> Run:
    first, comparison, vectors, ends = _FirstLayer(runner.anatomy), _Comparison(runner.anatomy), AllVectors(), _Ends()
    run_batch(runner, packed, first, comparison, vectors, ends)
    before, after = first.values
    states, pooled = ends.states, ends.pooled
    place = _loudest(after)
    unit = int(after[place].argmax())
    gated = bool(runner.anatomy.of("gate"))
    inner = _inside(runner.engine, packed) if isinstance(runner.engine, BertEngine) else None
    head = [Step("attended", (1, *inner.attended.shape), _few(inner.attended[place]))] if inner else []
    tail = [Step("output", (1, *inner.output.shape), _few(inner.output[place]))] if inner else []
    return Run(
        text=printable(text),
        tokens=tuple(printable(token) for token in packed.tokens[0]),
        truncated=int(packed.truncated[0]),
        backend=runner.engine.name,
        rows_are_tokens=runner.engine.rows_are_tokens and len(after) == len(packed.tokens[0]),
        token=place,
        up_projection=(
            *head,
            Step("up" if gated else "dense", (1, *before.shape), _few(before[place])),
            Step("product" if gated else "activated", (1, *after.shape), _few(after[place])),
            *tail,
        ),
        neuron=inner.worked(place, unit) if inner else Worked(unit, None, None, *_at(before, after, place, unit)),
        compared=comparison.found(),
        alone=inner.alone(place) if inner else None,
        hidden=(1, *states.shape),
        pooling=tuple(_pooling_steps(runner, states, pooled)),
        dimension=_dimension(runner, states, pooled),
        pooled=_pooled(vectors.texts[0]),
    )


class _Ends(Matrices):
    """What the model as a whole puts out for the one text."""

    def __init__(self) -> None:
        super().__init__({HIDDEN, POOLED})

    @property
    def states(self) -> Floats:
        """The last hidden states, (S, H)."""
        states: Floats = self.kept[Site(HIDDEN)][0]
        return states

    @property
    def pooled(self) -> Floats | None:
        """The pooled output (H,), None without a pooler."""
        found = self.kept.get(Site(POOLED))
        return None if found is None else found[0][0]


def _at(before: Floats, after: Floats, place: int, unit: int) -> tuple[float, float]:
    return float(before[place, unit]), float(after[place, unit])


def _few(row: Floats) -> tuple[float, ...]:
    return tuple(float(x) for x in row[:SHOWN])


def _loudest(after: Floats) -> int:
    """The row with the largest value; not the first or last, which are special tokens, where there are others."""
    inner = after[1:-1] if len(after) > 2 else after
    return int(inner.max(1).argmax()) + (1 if len(after) > 2 else 0)


class _FirstLayer:
    """Keeps the first layer's values before and after the activation, (S, I) each: those of the first call."""

    is_finite = True

    def __init__(self, anatomy: Anatomy) -> None:
        part = next((p for p in anatomy.of("intermediate") if p.stack is None), None)
        self.needs = frozenset({(part or anatomy.of("intermediate")[0]).label} if anatomy.of("intermediate") else ())
        self._kept: tuple[Floats, Floats] | None = None

    def reduce(self, captured: Captured) -> tuple[Floats, Floats]:
        return captured.numpy(before=True), captured.numpy()

    def add(self, site: Site, batch: Packed, reduced: tuple[Floats, Floats]) -> None:
        self._kept = self._kept or reduced

    @property
    def values(self) -> tuple[Floats, Floats]:
        """Raises `BertprobeError` where the layer was not passed."""
        if self._kept is None:
            raise BertprobeError("no layer was heard of while the text ran", "look at what there is with: inspect")
        return self._kept


class _Comparison:
    """Of all layers, what the activation does beside other activations on the same values."""

    is_finite = True

    def __init__(self, anatomy: Anatomy) -> None:
        parts = anatomy.of("gate") or anatomy.of("intermediate")
        self.needs = frozenset(part.label for part in parts)
        self._name = next((part.activation for part in parts if part.activation), None)
        self._gaps: dict[str, float] = {}
        self._negative, self._count, self._lowest = 0, 0, math.inf

    def reduce(self, captured: Captured) -> tuple[int, int, float, dict[str, float]]:
        z, a = captured.numpy(before=True), captured.numpy()
        gaps = {other: float(abs(NumpyBackend().activation(other)(z) - a).max()) for other in _OTHERS}
        return int((z < 0).sum()), z.size, float(a.min()), gaps

    def add(self, site: Site, batch: Packed, reduced: tuple[int, int, float, dict[str, float]]) -> None:
        negative, count, lowest, gaps = reduced
        self._negative += negative
        self._count += count
        self._lowest = min(self._lowest, lowest)
        self._gaps = {name: max(self._gaps.get(name, 0.0), gap) for name, gap in gaps.items()}

    def found(self) -> Compared:
        """The largest differences over all layers and tokens."""
        gaps = {name: self._gaps.get(name) if ACTIVATIONS.get(str(self._name)) else None for name in _OTHERS}
        share = self._negative / self._count if self._count else 0.0
        return Compared(gaps["relu"], gaps["gelu_new"], gaps["gelu"], share, self._lowest)


_OTHERS = ("relu", "gelu_new", "gelu")


@dataclass(frozen=True, slots=True, eq=False)
class _Inside:
    """The first layer in our own encoder: what goes into the up-projection, (S, H), and what the layer puts out."""

    engine: BertEngine
    layer: str
    attended: Floats
    before: Floats
    after: Floats
    output: Floats

    def worked(self, place: int, unit: int) -> Worked:
        weights, name = self.engine.encoder.layers[0], f"{self.layer}intermediate.dense"
        at = _at(self.before, self.after, place, unit)
        return Worked(unit, *_product(weights, name, unit, self.attended[place]), *at)

    def alone(self, place: int) -> bool:
        """Whether a token's row comes out the same when no other token is there."""
        encoder = self.engine.encoder
        row = self.attended[place : place + 1]
        _, found = layers.intermediate(encoder.backend, encoder.layers[0], self.layer, row, encoder.activation)
        return bool(abs(found[0] - self.after[place]).max() <= SAME * max(1.0, float(abs(self.after).max())))


def _inside(engine: BertEngine, packed: Packed) -> _Inside:
    encoder = engine.encoder
    layer = "encoder.layer.0."
    parts = (encoder.backend, encoder.layers[0], layer)
    x = encode(dataclasses.replace(encoder, depth=0), packed)
    attended = layers.attend(*parts, x, None, encoder.heads[0], [int(n) for n in packed.lengths], encoder.eps)
    before, after = layers.intermediate(*parts, attended, encoder.activation)
    return _Inside(engine, layer, attended, before, after, layers.output(*parts, after, attended, encoder.eps))


def _product(weights: Mapping[str, Any], name: str, unit: int, x: Floats) -> tuple[float, float | None]:
    """w·x and b of one output number, the product in float64."""
    product = float(weights[f"{name}.weight"][unit].astype("float64") @ x.astype("float64"))
    bias = weights.get(f"{name}.bias")
    return product, None if bias is None else float(bias[unit])


def _pooling_steps(runner: Runner, states: Floats, pooled: Floats | None) -> Iterator[Step]:
    yield Step("last_hidden_state", (1, *states.shape), _few(states[0]))
    if pooled is None:
        return
    yield Step("first", (1, len(states[0])), _few(states[0]))
    if isinstance(runner.engine, BertEngine):
        weights = runner.engine.encoder.weights
        z = runner.engine.backend.dense(states[:1], weights["pooler.dense.weight"], weights.get("pooler.dense.bias"))
        yield Step("dense", z.shape, _few(z[0]))
    yield Step("pooled", (1, len(pooled)), _few(pooled))


def _dimension(runner: Runner, states: Floats, pooled: Floats | None) -> Worked | None:
    """The pooled output's largest entry, worked out."""
    if pooled is None or not isinstance(runner.engine, BertEngine):
        return None
    unit = int(abs(pooled).argmax())
    product, bias = _product(runner.engine.encoder.weights, "pooler.dense", unit, states[0])
    return Worked(unit, product, bias, product + (bias or 0.0), float(pooled[unit]))


def _pooled(found: TextVectors) -> Pooled | None:
    pooled, first = found.pooled, found.cls
    if pooled is None:
        return None
    same = len(pooled) == len(first)
    cosine = cosines([pooled, first, found.mean]) if same else [[None] * 3] * 3
    return Pooled(
        lowest=float(pooled.min()),
        highest=float(pooled.max()),
        norm=float((pooled.astype("float64") ** 2).sum() ** 0.5),
        saturated=float((abs(pooled) > SATURATED).mean()),
        to_first=cosine[0][1],
        to_mean=cosine[0][2],
        first_to_mean=cosine[1][2],
        from_first=float(abs(pooled - first).max()) if same else math.nan,
    )
