"""Ours beside transformers', on the same tokens: the proof that the other commands' numbers are the model's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bertprobe import layers
from bertprobe.activations import Compute, Native, Runner, open_runner
from bertprobe.anatomy import Anatomy
from bertprobe.backends import ACTIVATIONS, BACKENDS, Array, TorchBackend
from bertprobe.checkpoint import Checkpoint, read_tensors
from bertprobe.encoder import Encoder, why_not_native

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

    `ours` by backend; `alone` the module recomputed from its weights on transformers' own input of its activation;
    `batch` how far ours move with the batch a text is in; `theirs` transformers' float32 against its float64;
    `size` the largest value itself.
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
        """Whether every backend is within the limit; NaN is not."""
        return all(difference <= self.limit for difference in self.ours.values())


Values = dict[str, list[Any]]  # by part: one array (rows, width) a text


def verify(checkpoint: Checkpoint, anatomy: Anatomy, texts: Sequence[str]) -> tuple[Agreement, ...]:
    """Runs texts through transformers with hooks and through every backend of ours, and compares part by part.

    A checkpoint that is not of BERT's layout runs through transformers only; then what is compared is the model filled
    by us with transformers' own float64. Raises as `load_reference` does.
    """
    from bertprobe.reference import load_reference

    runner = open_runner(checkpoint, anatomy, Compute(backend="torch", device="cpu"))
    packed = [next(iter(runner.batches([text]))) for text in texts]
    reference = load_reference(checkpoint, anatomy)
    with _listening(reference) as inputs:
        theirs = _of_reference(reference, packed)
    exact = _of_reference(load_reference(checkpoint, anatomy, dtype="float64"), packed)
    ours = {name: _of_runner(engine, packed) for name, engine in _engines(runner)}
    together = _together(runner, texts)
    return tuple(
        Agreement(
            part=part,
            ours={name: _farthest(values[part], theirs[part]) for name, values in ours.items()},
            alone=_alone(anatomy, part, inputs, theirs),
            batch=_farthest(together[part], ours["torch"][part]) if "torch" in ours else 0.0,
            theirs=_farthest(theirs[part], exact[part]),
            size=max(float(abs(values).max()) for values in exact[part]),
        )
        for part in theirs
    )


def _engines(runner: Runner) -> Iterator[tuple[str, Runner]]:
    """The runner on every backend that can run it."""
    from bertprobe.encoder import load_encoder

    if why_not_native(runner.checkpoint, runner.anatomy) is not None:
        return
    rows = ACTIVATIONS.get(str(runner.anatomy.promised.activation), (None, None))
    for (name, make), activation in zip(BACKENDS.items(), rows, strict=True):
        if activation is not None:
            encoder: Encoder = load_encoder(runner.checkpoint, runner.anatomy, make())
            yield name, replace(runner, engine=Native(encoder))


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


def _together(runner: Runner, texts: Sequence[str]) -> Values:
    """The same with all texts in one batch, in the order of the input."""
    (batch,) = list(runner.batches(texts))
    places = sorted(range(len(texts)), key=lambda i: int(batch.order[i]))
    return {part: [values[i] for i in places] for part, values in _one_run(runner, batch).items()}


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


def _alone(anatomy: Anatomy, part: str, inputs: Mapping[str, list[Any]], theirs: Values) -> float | None:
    """One module recomputed from its stored weights on transformers' own input; None where it is not of BERT's kind."""
    found = next((p for p in anatomy.of("intermediate") if p.label == part), None)
    given = inputs.get(part, [])
    plain = found is not None and found.activation and found.weight is not None and len(found.weight.shape) == 2
    if not plain or found is None or len(given) != len(theirs[part]) or not all(hasattr(x, "shape") for x in given):
        return None
    backend = TorchBackend()
    weights = {_short(header.name): backend.array(values) for header, values in read_tensors(found.tensors.values())}
    activation = backend.activation(str(found.activation))
    with backend.inference():
        redone = [layers.intermediate(backend, weights, "", x, activation)[1] for x in given]
    return _farthest([backend.exact(x).reshape(-1, x.shape[-1]) for x in redone], theirs[part])


def _short(stored: str) -> str:
    return f"intermediate.dense.{stored.rpartition('.')[2]}"


def _farthest(ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    """The largest absolute difference; NaN counts as infinitely far."""
    import numpy as np

    largest = 0.0
    for a, b in zip(ours, theirs, strict=True):
        difference = np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))
        largest = max(largest, float(np.nan_to_num(difference, nan=np.inf, posinf=np.inf).max()))
    return largest
