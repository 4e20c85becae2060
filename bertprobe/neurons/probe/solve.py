"""Rankings of neurons and linear probes of what adds up, by the formulas of those who proposed them.

Letters: I neurons, K labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bertprobe.neurons.probe.sums import Moments

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Doubles = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]


NOISE = 1e-10
"""Directions with less than this of the largest variance are rounding of float32: without a penalty they are left
out. Before the activation there are many, as neurons are then made of fewer numbers than there are of them."""


def ridge(correlations: Doubles, targets: Doubles, penalty: float) -> Doubles:
    """Weights (I, K) of the least squares of standardised neurons: (R + λ)⁻¹ B; without a penalty the shortest."""
    import numpy as np

    if penalty > 0:
        raised = correlations.copy()
        raised.flat[:: len(raised) + 1] += penalty
        return np.asarray(np.linalg.solve(raised, targets), np.float64)
    values, vectors = np.linalg.eigh(correlations)
    kept = values > values.max(initial=0) * NOISE
    vectors = vectors[:, kept]
    return vectors @ ((vectors.T @ targets) / values[kept, None])  # type: ignore[no-any-return]


def probeless_by_label(means: Doubles) -> Doubles:
    """Σ over the other labels of |mean − their mean|, (K, I), of label means (K, I).

    Antverg & Belinkov 2022, "On the Pitfalls of Analyzing Individual Neurons in Language Models", section 3.1; a label
    without items, of mean NaN, adds nothing.
    """
    import numpy as np

    found = np.zeros_like(means)
    for mean in means:
        found += np.nan_to_num(np.abs(means - mean))
    return np.where(np.isfinite(means), found, np.nan)


def differences(moments: Moments) -> Doubles:
    """(mean of the label − mean elsewhere) / standard deviation, (2, K, I); of a constant neuron zero."""
    import numpy as np

    scale = np.where(moments.constant, np.inf, moments.deviations)
    return (moments.label_means - moments.elsewhere()) / scale


@dataclass(frozen=True, slots=True, eq=False)
class Predictor:
    """A linear probe: the label of the largest of `x[columns] @ weights + offsets`.

    `columns` (k,) are the neurons it looks at, None for all; `weights` (k, K) are for activations as they are.
    """

    columns: Ints | None
    weights: Doubles
    offsets: Doubles
    is_control: bool

    def answers(self, values: Doubles) -> Ints:
        """The number of the label that each item (n, I) is taken for, (n,)."""
        chosen = values if self.columns is None else values[:, self.columns]
        return (chosen @ self.weights + self.offsets).argmax(1)  # type: ignore[no-any-return]


def predictor(
    moments: Moments, weights: Doubles, *, columns: Ints | None = None, is_control: bool = False
) -> Predictor:
    """The probe of weights (k, K) for standardised neurons."""
    import numpy as np

    which = slice(None) if columns is None else columns
    scale = np.where(moments.constant, np.inf, moments.deviations)[which]
    raw = weights / scale[:, None]
    return Predictor(columns, raw, moments.shares[int(is_control)] - moments.means[which] @ raw, is_control)


def ranked(scores: Doubles) -> Ints:
    """Neurons by a score (I,), the largest first, of equal ones that of the lower number."""
    import numpy as np

    return np.argsort(-np.nan_to_num(scores), kind="stable")
