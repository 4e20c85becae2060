"""What taking out a neuron does change, by running the texts once more without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bertprobe.run import Runner, run_encoded
from bertprobe.run.ablation import Ablation
from bertprobe.run.runner import ablated

if TYPE_CHECKING:
    from bertprobe.screen.outputs import Output
    from bertprobe.tokens import Encoded

Neuron = tuple[int, int]  # layer and number


@dataclass(frozen=True, slots=True)
class Rerun:
    """A neuron, the `effect` of taking it out, and whether it was `drawn` instead of being one of the strongest."""

    layer: int
    neuron: int
    effect: float
    drawn: bool


def rows_of(runner: Runner, texts: Sequence[Encoded], output: Output) -> Any:
    """The output of each text as the model is, or as it is with what the runner's engine edits."""
    kept = output.collector()
    run_encoded(runner, texts, kept)
    return kept.array


def effects(
    runner: Runner,
    texts: Sequence[Encoded],
    output: Output,
    untouched: Any,
    neurons: Sequence[tuple[Neuron, bool]],
    means: Callable[[Neuron], float] | None = None,
) -> Iterator[Rerun]:
    """The exact effect of taking out each of some neurons, one run of all texts each.

    `untouched` are the rows of the model as it is; `means` tells what a neuron is given instead, None for zero.
    """
    for (layer, neuron), drawn in neurons:
        instead = None if means is None else {layer: (means((layer, neuron)),)}
        without = ablated(runner, Ablation({layer: (neuron,)}, instead))
        yield Rerun(layer, neuron, output.effect(untouched, rows_of(without, texts, output)), drawn)
