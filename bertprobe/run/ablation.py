"""Neurons taken out of a model while it runs: what they put out is zero, or their mean, for every token.

To set a neuron's activation to zero is to remove its column of the down-projection: the same products are added up, so
the same bits come out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bertprobe.anatomy import Anatomy
from bertprobe.anatomy.neurons import neurons_text, parse_neurons, width_of
from bertprobe.backends import Array, Backend
from bertprobe.errors import BadSetting, PartMissing

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Put = float | npt.NDArray[np.float32]

ZERO, MEAN = "zero", "mean"
SHOWN = 60  # characters of a list of neurons in a line of facts


@dataclass(frozen=True, eq=False)
class Ablation:
    """Which neurons are taken out, and what they put out instead, on every token of every text.

    `neurons` are numbers by layer, sorted; `values` what stands in their place, by layer in the same order, None for
    zero; `source` says where the values are from, empty for zero.

    Raises `BadSetting` for no neurons, for numbers that are not sorted, and for values that do not fit them.
    """

    neurons: Mapping[int, tuple[int, ...]]
    values: Mapping[int, Sequence[float]] | None = None
    source: str = ""

    def __post_init__(self) -> None:
        import numpy as np

        if not any(self.neurons.values()):
            raise BadSetting("there is no neuron to ablate", "name one by layer and number, such as 3.1203")
        for layer, numbers in self.neurons.items():
            if list(numbers) != sorted(set(numbers)):
                raise BadSetting(f"the neurons of layer {layer} are not in order, or twice", "sort them")
            values = () if self.values is None else self.values.get(layer, ())
            if self.values is not None and not (len(values) == len(numbers) and np.isfinite(values).all()):
                raise BadSetting(
                    f"there is not one finite value for each neuron of layer {layer}", "give as many as neurons"
                )

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

    @property
    def told(self) -> str:
        """What is done, in a line: `3.1203,7:0-100 (102 neurons) to zero`."""
        name = self.name if len(self.name) <= SHOWN else f"{self.name[: self.name.rindex(',', 0, SHOWN)]},…"
        count = f"{self.count:,} neuron{'s' * (self.count != 1)}"
        means = (
            f"{'its mean' if self.count == 1 else 'their means'} over {self.source}" if self.source else "given values"
        )
        return f"{name} ({count}) to {'zero' if self.values is None else means}"

    @property
    def metadata(self) -> dict[str, str]:
        """What a file says of it that was written of a run: the neurons, what they put out and where that is from."""
        means = {} if self.values is None else {"ablated_means": self.source}
        return {"ablated": self.name, "ablated_to": self.to, **means}

    def check(self, anatomy: Anatomy) -> None:
        """Raises `PartMissing` for a neuron that a model does not have."""
        for layer, numbers in self.neurons.items():
            width = width_of(anatomy, layer)
            if odd := [number for number in numbers if not 0 <= number < width]:
                raise PartMissing(f"layer {layer} has no neuron {odd[0]}", f"its neurons are 0 to {width - 1}")

    def check_seen(self, anatomy: Anatomy, labels: Collection[str]) -> None:
        """Raises `BadSetting` where all the parts that are looked at stand before the neurons, which change nothing."""
        looked_at = {part.layer for part in anatomy.parts if part.label in labels and part.layer is not None}
        if looked_at and max(looked_at) < min(self.neurons):
            raise BadSetting(
                f"nothing up to layer {max(looked_at)} depends on {self.told.partition(' (')[0]}",
                "look at deeper layers, or ablate neurons of these",
            )

    def edit(self, backend: Backend) -> Edited:
        """What an engine on this backend is to do."""
        return Edited(self, backend)


class Edited:
    """An engine's `edit`: the neurons' columns set to what they are to be, in the arrays as they arise."""

    def __init__(self, ablation: Ablation, backend: Backend) -> None:
        import numpy as np

        self._at: dict[str, tuple[slice | npt.NDArray[np.int64], Any]] = {}
        for layer, numbers in ablation.neurons.items():
            values = None if ablation.values is None else np.array(ablation.values[layer], np.float32)
            put: Any = 0.0 if values is None else backend.array(values)
            self._at[f"intermediate.{layer}"] = _columns(numbers), put

    def __call__(self, label: str, before: Array, after: Array) -> Array:
        if label in self._at:
            columns, values = self._at[label]
            after[:, columns] = values
        return after


def _columns(numbers: Sequence[int]) -> slice | npt.NDArray[np.int64]:
    """Columns by their numbers; those side by side as a slice, which needs no index on a device."""
    import numpy as np

    if numbers[-1] - numbers[0] + 1 == len(numbers):
        return slice(numbers[0], numbers[-1] + 1)
    return np.array(numbers, np.int64)


def ablation_of(text: str, anatomy: Anatomy) -> Ablation:
    """The ablation to zero of the neurons that a list such as `3.1203,7:0-100` names; raises as `parse_neurons`."""
    return Ablation(parse_neurons(text, anatomy))
