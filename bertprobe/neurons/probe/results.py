"""What probes found, layer by layer.

Letters: I neurons of a layer, K labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bertprobe.errors import PartMissing, printable, quoted
from bertprobe.neurons.probe.solve import ranked

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Doubles = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]

NULL = 0.95
"""The share of a layer's neurons that have a lower score for the control's label than what a score is held against."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What a probe that looks at `neurons` neurons alone gets right of what is held out, as a share.

    `ranking` is the one that chooses them: `linear` or `probeless`, their first or their last; `random` is the mean of
    several drawn sets.
    """

    neurons: int
    linear: float
    linear_last: float
    probeless: float
    probeless_last: float
    random: float


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Scores of every neuron of a layer for labels, of the task or of its control.

    `counts` (K,) are the items of each label; `means` (K, I) over them, `elsewhere` over all others, NaN where there
    are none; `differences` (K, I) these apart in standard deviations of the neuron; `probeless` (K, I) by Antverg &
    Belinkov's formula; `weights` (K, I) of the linear probe, for standardised neurons.
    """

    counts: Ints
    means: Doubles
    elsewhere: Doubles
    differences: Doubles
    probeless: Doubles
    weights: Doubles


@dataclass(frozen=True, slots=True, eq=False)
class LayerProbe:
    """A layer's probe and the scores of its neurons.

    `label` is its site, `mean` and `std` (I,) are over the items that were learnt from, `label_std` (K, I) over those
    of a label. `coefficients` (K, I) and `intercepts` (K,) are the probe for activations as they are: the label of the
    largest of `coefficients @ x + intercepts`. Accuracies are shares of the held-out items, None where none is.
    """

    label: str
    layer: int
    mean: Doubles
    std: Doubles
    label_std: Doubles
    scores: Scores
    control: Scores
    coefficients: Doubles
    intercepts: Doubles
    accuracy: float | None
    control_accuracy: float | None
    recalls: tuple[float | None, ...]
    selections: tuple[Selection, ...]

    @property
    def selectivity(self) -> float | None:
        """How much more of the task is right than of its control (Hewitt & Liang 2019)."""
        if self.accuracy is None or self.control_accuracy is None:
            return None
        return self.accuracy - self.control_accuracy

    @property
    def probeless(self) -> Doubles:
        """Σ over pairs of labels of |difference of their means|, (I,): Antverg & Belinkov 2022."""
        import numpy as np

        return np.nan_to_num(self.scores.probeless).sum(0) / 2  # type: ignore[no-any-return]

    @property
    def linear(self) -> Doubles:
        """Σ over labels of |weight|, (I,); by weights of a probe rank Dalvi et al. 2019, too."""
        import numpy as np

        return np.abs(self.scores.weights).sum(0)  # type: ignore[no-any-return]

    def null(self, which: str) -> Doubles:
        """Of each label the score, `differences` or `weights`, that 95 % of neurons have less of in the control.

        NaN where the control has nothing to tell apart: it gave the label to no item, or to all.
        """
        import numpy as np

        found = np.nan_to_num(np.abs(getattr(self.control, which)))
        counts = self.control.counts
        some = (counts > 0) & (counts < counts.sum())
        return np.where(some, np.quantile(found, NULL, axis=1), np.nan)


@dataclass(frozen=True, eq=False, repr=False)
class Probes:
    """What `probe` found: the labels, and each layer's `LayerProbe` by the number of the layer.

    `facts` are those of the run as the report has them; `held_counts` (K,) are the held-out items of each label, which
    those that are learnt from have in `LayerProbe.scores`. `majority` and `control_majority` are the shares of held-out
    items that have the most frequent label of those learnt from.
    """

    labels: tuple[str, ...]
    layers: Mapping[int, LayerProbe]
    facts: Mapping[str, Any]
    held_counts: tuple[int, ...]
    majority: float | None
    control_majority: float | None

    def __getitem__(self, layer: int) -> LayerProbe:
        if layer not in self.layers:
            raise PartMissing(f"layer {layer} was not probed", f"there is {', '.join(map(str, self.layers))}")
        return self.layers[layer]

    def ranking(self, layer: int, by: str = "linear", label: str | None = None) -> Ints:
        """The neurons of a layer, the first the best, (I,): by `linear`, `probeless` or, of a label, `difference`.

        Raises:
            PartMissing: the layer was not probed, or there is no such label.
            ValueError: `by` is none of these.
        """
        import numpy as np

        found = self[layer]
        if label is None:
            overall = {"linear": found.linear, "probeless": found.probeless}
            if by not in overall:
                raise ValueError(f"by is {by!r}; it may be linear or probeless, and difference with a label")
            return ranked(overall[by])
        of = {"linear": "weights", "probeless": "probeless", "difference": "differences"}
        if by not in of:
            raise ValueError(f"by is {by!r}; it may be {', '.join(of)}")
        return ranked(np.abs(getattr(found.scores, of[by])[self.number(label)]))

    def number(self, label: str) -> int:
        """The row of a label; raises `PartMissing` where there is none."""
        if label not in self.labels:
            raise PartMissing(
                f"there is no label {quoted(label)}", f"there is {printable(', '.join(self.labels[:20]))}"
            )
        return self.labels.index(label)

    def __repr__(self) -> str:
        best = max(self.layers.values(), key=lambda layer: layer.accuracy or 0)
        told = "" if best.accuracy is None else f", at best {best.accuracy:.1%} in {best.label}"
        return f"<Probes of {len(self.labels)} labels in {len(self.layers)} layers{printable(told)}>"
