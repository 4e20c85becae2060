"""Ours beside transformers', on the same tokens: the proof that the other commands' numbers are the model's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bertprobe.anatomy import Anatomy, Part
from bertprobe.anatomy.native import why_not_native
from bertprobe.backends import ACTIVATIONS, BACKENDS, Array, TorchBackend
from bertprobe.checkpoint import Checkpoint, read_tensors
from bertprobe.errors import BertprobeError, UnsupportedFile, printable, shortened
from bertprobe.run import (
    HIDDEN,
    POOLED,
    Ablation,
    BertEngine,
    Compute,
    InOrder,
    Matrices,
    Runner,
    Site,
    TransformersEngine,
    ablated,
    open_runner,
    run_texts,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from bertprobe.tokens import Packed
    from bertprobe.transformers_model import Record, Reference

    Floats = npt.NDArray[np.float64]

TEXTS = (
    "A cat sat on the mat.",
    "Why?",
    "The pooler reads the first token only; whatever it has to say about a text, that token must have gathered.",
)
TOLERANCE = 1e-5
OF_THEIR_ERROR = 4.0
ROUNDING = 1e-2  # of the largest value: what differs by more is not of one computation


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far one part's numbers are from transformers', as largest absolute differences over all texts.

    `ours` by backend; `alone` the module recomputed from its stored weights on what goes into transformers' own, None
    where it is not made of plain dense layers; `batch` how far ours move with the batch a text is in; `theirs`
    transformers' float32 against its float64, None where it cannot compute this in float64; `size` the largest value
    itself.
    """

    part: str
    ours: Mapping[str, float]
    alone: float | None
    batch: float
    theirs: float | None
    size: float

    @property
    def limit(self) -> float:
        """max(1e-5 · max(1, max|x|), 4 × transformers' own error)."""
        return max(TOLERANCE * max(1.0, self.size), OF_THEIR_ERROR * (self.theirs or 0.0))

    @property
    def holds(self) -> bool:
        """Whether every backend, and the module alone, is within the limit; NaN is not."""
        alone = [] if self.alone is None else [self.alone]
        return all(difference <= self.limit for difference in (*self.ours.values(), *alone))


Values = Mapping[Site, Sequence[Any]]  # by site: one array (rows, width) a text


def verify(
    checkpoint: Checkpoint, anatomy: Anatomy, texts: Sequence[str], ablation: Ablation | None = None
) -> tuple[Agreement, ...]:
    """Runs texts through transformers with hooks and through every backend of ours, and compares part by part.

    With an `ablation` its neurons are taken out of all of them, of transformers' model by its hooks.
    A checkpoint that is not of BERT's layout runs through transformers only; then what is compared is the model filled
    by us with transformers' own float64. Raises as `load_reference` does, and `BertprobeError` where a tensor holds NaN
    or infinity.
    """
    from bertprobe.transformers_model import load_reference

    runner = open_runner(checkpoint, anatomy, Compute(backend="torch", device="cpu"), ablation=ablation)
    cut = tuple(texts) == TEXTS  # our own may be longer than a small model takes; a user's are refused, not cut
    packed = _packed(runner, texts, cut)
    engine = runner.engine
    reference = engine.reference if isinstance(engine, TransformersEngine) else load_reference(checkpoint, anatomy)
    _check_finite(reference)
    with _listening(reference) as inputs:
        theirs = _of_reference(reference, packed, ablation)
    exact = _in_float64(load_reference(checkpoint, anatomy, dtype="float64"), packed, theirs, ablation)
    ours = {name: _of_runner(_one_by_one(engine), texts, cut) for name, engine in _engines(runner)}
    together = _of_runner(runner, texts, cut) if "torch" in ours else {}
    known = {*reference.parts, POOLED}
    # What DPR's class calls its pooled output is its first hidden state, and there is no pooler to compare with it.
    compared = [site for site in theirs if site.part != POOLED or engine.has_pooler or not ours]
    return tuple(
        Agreement(
            part=site.label,
            ours={name: _farthest(values[site], theirs[site]) for name, values in ours.items()},
            alone=_alone(reference, site, inputs, theirs, ablation) if site.part in known else None,
            batch=_farthest(together[site], ours["torch"][site]) if together else 0.0,
            theirs=None if exact is None else _farthest(theirs[site], exact[site]),
            size=_largest((exact or theirs)[site]),
        )
        for site in compared
    )


def _packed(runner: Runner, texts: Sequence[str], cut: bool) -> list[Packed]:
    """Each text as a batch of its own, in their order."""
    found: InOrder[Packed] = InOrder()
    for batch in runner.batches(texts, truncate=cut):
        found.put(batch, batch.singly())
    return list(found)


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

    if why_not_native(runner.anatomy) is not None:
        return
    in_numpy, in_torch = ACTIVATIONS.get(str(runner.anatomy.config_spec.activation), (None, None))
    for name, make in BACKENDS.items():
        if (in_numpy if name == "numpy" else in_torch) is not None:
            loaded = name == runner.engine.name
            encoder = None if loaded else load_encoder(runner.checkpoint, runner.anatomy, make())
            yield name, runner if encoder is None else _on(runner, BertEngine(encoder))


def _on(runner: Runner, engine: BertEngine) -> Runner:
    """The same on another engine, with the same neurons taken out."""
    return ablated(replace(runner, engine=engine, ablation=None), runner.ablation)


def _one_by_one(runner: Runner) -> Runner:
    """The same with every text in a batch of its own."""
    return replace(runner, compute=replace(runner.compute, batch_tokens=1))


def _of_runner(runner: Runner, texts: Sequence[str], cut: bool) -> Values:
    """Every part's values for each text, in the batches that the runner makes."""
    matrices = Matrices({part.label for part in runner.anatomy.parts} | {HIDDEN, POOLED})
    run_texts(runner, texts, matrices, truncate=cut)
    return matrices.kept


def _of_reference(reference: Reference, packed: Sequence[Packed], ablation: Ablation | None) -> Values:
    """What transformers puts out: every part's values after the activation, for each text."""
    backend = TorchBackend()
    # Values to put in come as float32 and go to the model's own precision when they are put in.
    edit = None if ablation is None else ablation.edit(backend)
    found: dict[Site, list[Any]] = {}

    def on_record(record: Record) -> None:
        found.setdefault(Site(record.part, record.call), []).append(backend.exact(record.after))

    for batch in packed:
        hidden = reference.run(batch.ids.tolist(), batch.segments.tolist(), on_record, edit)
        found.setdefault(Site(HIDDEN), []).append(backend.exact(hidden.last_hidden_state))
        if hidden.pooled is not None:
            found.setdefault(Site(POOLED), []).append(backend.exact(hidden.pooled[None]))
    return found


def _in_float64(
    reference: Reference, packed: Sequence[Packed], single: Values, ablation: Ablation | None
) -> Values | None:
    """What transformers puts out in float64, None where it cannot run so or computes something else.

    MRA and XLNet make float32 tensors on the way. Reformer draws the planes of its hashes anew for each precision; how
    far it then is from its float32 is no error, and no limit is to be made of it.
    """
    try:
        exact = _of_reference(reference, packed, ablation)
    except UnsupportedFile:  # it ran in float32 just now
        return None
    far = any(_farthest(single[site], exact[site]) > ROUNDING * max(1.0, _largest(exact[site])) for site in exact)
    return None if far else exact


def _largest(values: Sequence[Any]) -> float:
    return max(float(abs(text).max()) for text in values)


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


def _alone(
    reference: Reference, site: Site, inputs: Mapping[str, list[Any]], theirs: Values, ablation: Ablation | None
) -> float | None:
    """One module recomputed from its stored weights on transformers' own input; None where it is not dense layers."""
    label = site.part
    parts = {found.label: found for found in reference.anatomy.parts}
    if label == POOLED:
        given = [TorchBackend().array(hidden[:1].astype("float32")) for hidden in theirs[Site(HIDDEN)]]
        redo = _redoing(parts.get("pooler"))
    else:
        block = next(b for b in reference.blocks if label in (b.up.part, b.gate and b.gate.part))
        calls = sum(other.part == label for other in theirs)
        given = inputs.get(block.up.part, [])[site.call :: calls]
        redo = _redoing(parts[block.up.part], None if block.gate is None else parts[block.gate.part], label)
    if redo is None or not all(hasattr(x, "shape") for x in given):
        return None
    backend = TorchBackend()
    with backend.inference():
        found = [redo(x) for x in given]
        found = [values.reshape(-1, values.shape[-1]).clone() for values in found]
        if ablation is not None:
            edit = ablation.edit(backend)
            found = [edit(label, values, values) for values in found]
        redone = [backend.exact(values) for values in found]
    expected = [values.reshape(-1, values.shape[-1]) for values in theirs[site]]
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
