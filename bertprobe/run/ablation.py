"""Neurons taken out of a model while it runs: what they put out is zero, or their mean, for every token.

To set a neuron's activation to zero is to remove its column of the down-projection: the same products are added up, so
the same bits come out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bertprobe.anatomy import Anatomy
from bertprobe.anatomy.neurons import neurons_text, parse_neurons
from bertprobe.backends import Array, Backend

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

ZERO, MEAN = "zero", "mean"


@dataclass(frozen=True, eq=False)
class Ablation:
    """Which neurons are taken out, and what they put out instead.

    `neurons` are numbers by layer, sorted; `values` what stands in their place, by layer in the same order, None for
    zero; `source` says where the values are from, empty for zero.
    """

    neurons: Mapping[int, tuple[int, ...]]
    values: Mapping[int, Sequence[float]] | None = None
    source: str = ""

    @property
    def name(self) -> str:
        """The neurons in their shortest form: `3.1203,7:0-100`."""
        return neurons_text(self.neurons)

    @property
    def to(self) -> str:
        """What they put out: `zero` or `mean`."""
        return ZERO if self.values is None else MEAN

    @property
    def count(self) -> int:
        """How many neurons are taken out."""
        return sum(map(len, self.neurons.values()))

    def edit(self, backend: Backend) -> Edited:
        """What an engine on this backend is to do."""
        return Edited(self, backend)


class Edited:
    """An engine's `edit`: the neurons' columns set to what they are to be, in the arrays as they arise."""

    def __init__(self, ablation: Ablation, backend: Backend) -> None:
        import numpy as np

        self.backend = backend
        self._at: dict[str, tuple[npt.NDArray[np.int64], Any]] = {}
        for layer, numbers in ablation.neurons.items():
            values = None if ablation.values is None else np.asarray(ablation.values[layer], np.float32)
            put: Any = 0.0 if values is None else backend.array(values)
            self._at[f"intermediate.{layer}"] = np.array(numbers, np.int64), put

    def __call__(self, label: str, before: Array, after: Array) -> Array:
        if label not in self._at:
            return after
        neurons, values = self._at[label]
        edited = _copied(after)
        edited[:, neurons] = values
        return edited


def _copied(values: Array) -> Array:
    """A copy of an array or tensor, so that nobody who holds the old one sees it change."""
    return values.clone() if hasattr(values, "clone") else values.copy()


def ablation_of(text: str, anatomy: Anatomy) -> Ablation:
    """The ablation to zero of the neurons that a list such as `3.1203,7:0-100` names."""
    return Ablation(parse_neurons(text, anatomy))
