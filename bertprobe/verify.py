"""Ours beside transformers', on the same tokens: the proof that the other commands' numbers are the model's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bertprobe.activations import Compute, Foreign, Native, Runner, open_runner
from bertprobe.anatomy import Anatomy, Part
from bertprobe.backends import ACTIVATIONS, BACKENDS, Array, OneDNNBackend, TorchBackend
from bertprobe.checkpoint import Checkpoint, read_tensors
from bertprobe.encoder import why_not_native
from bertprobe.errors import BertprobeError, printable, shortened

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from bertprobe.reference import Reference
    from bertprobe.tokens import Packed

    Floats = npt.NDArray[np.float64]

TEXTS = (
    "A cat sat on the mat.",
    "Why?",
    "The pooler reads the first token only; whatever it has to say about a text, that token must have gathered.",
)
TOLERANCE = 1e-5
OF_THEIR_ERROR = 4.0


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far one part's numbers are from transformers', as largest absolute differences over all texts.

    `ours` by backend; `alone` the module recomputed from its stored weights on what goes into transformers' own, None
    where it is not made of plain dense layers; `batch` how far ours move with the batch a text is in; `theirs`
    transformers' float32 against its float64; `size` the largest value itself.
    """

    part: str
    ours: Mapping[str, float]
    alone: float | None
    batch: float
    theirs: float
    size: float

    @property
    def limit(self) -> float:
        """max(1e-5 · max(1, max|x|), 4 × transformers' own error)."""
        return max(TOLERANCE * max(1.0, self.size), OF_THEIR_ERROR * self.theirs)

    @property
    def holds(self) -> bool:
        """Whether every backend, and the module alone, is within the limit; NaN is not."""
        alone = [] if self.alone is None else [self.alone]
        return all(difference <= self.limit for difference in (*self.ours.values(), *alone))


Values = dict[str, list[Any]]  # by part: one array (rows, width) a text


def verify(checkpoint: Checkpoint, anatomy: Anatomy, texts: Sequence[str]) -> tuple[Agreement, ...]:
    """Runs texts through transformers with hooks and through every backend of ours, and compares part by part.

    A checkpoint that is not of BERT's layout runs through transformers only; then what is compared is the model filled
    by us with transformers' own float64. Raises as `load_reference` does, and `BertprobeError` where a tensor holds NaN
    or infinity.
    """
    from bertprobe.reference import load_reference

    runner = open_runner(checkpoint, anatomy, Compute(backend="torch", device="cpu"))
    cut = tuple(texts) == TEXTS  # our own may be longer than a small model takes; a user's are refused, not cut
    packed = [next(iter(runner.batches([text], truncate=cut))) for text in texts]
    engine = runner.engine
    reference = engine.reference if isinstance(engine, Foreign) else load_reference(checkpoint, anatomy)
    _check_finite(reference)
    with _listening(reference) as inputs:
        theirs = _of_reference(reference, packed)
    exact = _of_reference(load_reference(checkpoint, anatomy, dtype="float64"), packed)
    ours = {name: _of_runner(engine, packed) for name, engine in _engines(runner)}
    together = _together(runner, texts, cut) if "torch" in ours else {}
    known = {*reference.parts, "pooler"}
    return tuple(
        Agreement(
            part=part,
            ours={name: _farthest(values[part], theirs[part]) for name, values in ours.items()},
            alone=_alone(reference, part, inputs, theirs) if part.partition(" ")[0] in known else None,
            batch=_farthest(together[part], ours["torch"][part]) if together else 0.0,
            theirs=_farthest(theirs[part], exact[part]),
            size=max(float(abs(values).max()) for values in exact[part]),
        )
        for part in theirs
    )


def _check_finite(reference: Reference) -> None:
    names = [printable(name) for name in reference.nonfinite]
    if names:
        raise BertprobeError(
            f"{printable(reference.checkpoint.ref)} holds NaN or infinity in {shortened(names)}",
            "what comes of that cannot be compared; inspect tells how much of it there is",
        )


def _engines(runner: Runner) -> Iterator[tuple[str, Runner]]:
    """The runner on every backend that can run it."""
    from bertprobe.encoder import load_encoder

    if why_not_native(runner.checkpoint, runner.anatomy) is not None:
        return
    in_numpy, in_torch = ACTIVATIONS.get(str(runner.anatomy.promised.activation), (None, None))
    for name, make in BACKENDS.items():
        if (in_numpy if name == "numpy" else in_torch) is not None and (name != "onednn" or OneDNNBackend.is_there()):
            loaded = name == runner.engine.name
            encoder = None if loaded else load_encoder(runner.checkpoint, runner.anatomy, make())
            yield name, runner if encoder is None else replace(runner, engine=Native(encoder))


def _of_runner(runner: Runner, packed: Sequence[Packed]) -> Values:
    """Every part's values for each text, run by itself."""
    found: Values = {}
    for batch in packed:
        for part, values in _one_run(runner, batch).items():
            found.setdefault(part, []).extend(values)
    return found


def _one_run(runner: Runner, batch: Packed) -> Values:
    import numpy as np

    backend = runner.engine.backend
    found: Values = {}

    def tap(label: str, before: Array, after: Array) -> None:
        found[label] = np.split(backend.numpy(after), np.cumsum(batch.lengths)[:-1])

    states = runner.engine.states(batch, tap)
    found["last hidden state"] = [hidden for hidden, _ in states]
    if states and states[0][1] is not None:
        found["pooler"] = [pooled for _, pooled in states]
    return found


def _together(runner: Runner, texts: Sequence[str], cut: bool) -> Values:
    """The same with many texts to a batch, in the order of the input."""
    found: Values = {}
    order: list[int] = []
    for batch in runner.batches(texts, truncate=cut):
        order += batch.order.tolist()
        for part, values in _one_run(runner, batch).items():
            found.setdefault(part, []).extend(values)
    places = sorted(range(len(order)), key=order.__getitem__)
    return {part: [values[i] for i in places] for part, values in found.items()}


def _of_reference(reference: Reference, packed: Sequence[Packed]) -> Values:
    """What transformers puts out: every part's values after the activation, for each text."""
    backend = TorchBackend()
    found: Values = {}

    def tap(record: Any) -> None:
        label = record.part if record.call == 0 else f"{record.part} (call {record.call})"
        found.setdefault(label, []).append(backend.exact(record.after))

    for batch in packed:
        hidden = reference.run(batch.ids.tolist(), batch.segments.tolist(), tap)
        found.setdefault("last hidden state", []).append(backend.exact(hidden.last_hidden_state))
        if hidden.pooled is not None:
            found.setdefault("pooler", []).append(backend.exact(hidden.pooled))
    return found


@contextmanager
def _listening(reference: Reference) -> Iterator[dict[str, list[Any]]]:
    """While it lasts, keeps what goes into each up-projection of transformers' model, by part."""
    inputs: dict[str, list[Any]] = {}
    handles = []

    def keep(label: str) -> Callable[[Any, Any], None]:
        return lambda module, given: inputs.setdefault(label, []).append(given[0])

    try:
        for block in reference.blocks:
            module = reference.model.get_submodule(block.up.path)
            handles.append(module.register_forward_pre_hook(keep(block.up.part)))
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


def _alone(reference: Reference, part: str, inputs: Mapping[str, list[Any]], theirs: Values) -> float | None:
    """One module recomputed from its stored weights on transformers' own input; None where it is not dense layers."""
    label, _, call = part.partition(" ")
    parts = {found.label: found for found in reference.anatomy.parts}
    if label == "pooler":
        given = [TorchBackend().array(hidden[:1].astype("float32")) for hidden in theirs["last hidden state"]]
        redo = _redoing(parts.get("pooler"))
    else:
        block = next(b for b in reference.blocks if label in (b.up.part, b.gate and b.gate.part))
        calls = sum(name.partition(" ")[0] == label for name in theirs)
        given = inputs.get(block.up.part, [])[int(call[len("(call ") : -1] or 0) :: calls]
        redo = _redoing(parts[block.up.part], None if block.gate is None else parts[block.gate.part], label)
    if redo is None or not all(hasattr(x, "shape") for x in given):
        return None
    backend = TorchBackend()
    with backend.inference():
        redone = [backend.exact(redo(x)) for x in given]
    redone = [values.reshape(-1, values.shape[-1]) for values in redone]
    expected = [values.reshape(-1, values.shape[-1]) for values in theirs[part]]
    if [x.shape for x in redone] != [x.shape for x in expected]:  # padding or a prompt of the model's own
        return None
    return _farthest(redone, expected)


def _redoing(main: Part | None, gate: Part | None = None, label: str = "") -> Callable[[Array], Array] | None:
    """act(x Wᵀ + b) of one part; of a gated pair, as `label` says, act(gate) or act(gate) · up."""
    activation = main.activation if main is not None and gate is None else gate and gate.activation
    dense = [part for part in (main, gate) if part is not None]
    if not activation or ACTIVATIONS.get(activation) is None:
        return None
    if not all(part.weight is not None and len(part.weight.shape) == 2 for part in dense):
        return None
    backend = TorchBackend()
    act = backend.activation(activation)
    weights = [_weight_and_bias(backend, part) for part in dense]

    def redo(x: Array) -> Array:
        up, *rest = (backend.dense(x, *pair) for pair in weights)
        if not rest:
            return act(up)
        return act(rest[0]) if gate is not None and label == gate.label else act(rest[0]) * up

    return redo


def _weight_and_bias(backend: TorchBackend, part: Part) -> tuple[Array, Array | None]:
    wanted = {key: header for key, header in (("weight", part.weight), ("bias", part.bias)) if header is not None}
    read = {key: backend.array(values) for key, values in read_tensors(wanted)}
    return read["weight"], read.get("bias")


def _farthest(ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    """The largest absolute difference; NaN counts as infinitely far."""
    import numpy as np

    largest = 0.0
    for a, b in zip(ours, theirs, strict=True):
        difference = np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))
        largest = max(largest, float(np.nan_to_num(difference, nan=np.inf, posinf=np.inf).max()))
    return largest
