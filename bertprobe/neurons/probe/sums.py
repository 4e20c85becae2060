"""What adds up of the items that a probe learns from: all that least squares, means and variances need.

Letters: n items, I neurons, K labels of the task, as many of its control.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Doubles = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]
    Flags = npt.NDArray[np.bool_]

BLOCK = 1024  # items that are multiplied at a time: the products go over the whole of a matrix (I, I)
CONSTANT = 1e-14
"""A neuron whose variance is not above so much of its squared mean is constant: float32 has no more digits."""


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """What the sums of a layer come to.

    `means`, `deviations` (I,) and `correlations` (I, I) are over all items; rows of constant neurons are zero.
    `counts` (2, K) are the items of each label of the task and of its control, `label_means` (2, K, I) their means, NaN
    where there is no item; `label_deviations` (K, I) the task's.
    """

    count: int
    means: Doubles
    deviations: Doubles
    correlations: Doubles
    counts: Ints
    label_means: Doubles
    label_deviations: Doubles

    @property
    def constant(self) -> Flags:
        found: Flags = self.deviations == 0
        return found

    @property
    def shares(self) -> Doubles:
        """Of the items, by label: (2, K)."""
        return self.counts / self.count

    def targets(self) -> Doubles:
        """Covariances of standardised neurons with labels as zeros and ones, (2, I, K)."""
        import numpy as np

        apart = np.nan_to_num(self.label_means - self.means) * self.shares[:, :, None]
        scale = np.where(self.constant, np.inf, self.deviations)
        return (apart / scale).transpose(0, 2, 1)

    def elsewhere(self) -> Doubles:
        """Means over all items that have another label, (2, K, I), NaN where there is none."""
        import numpy as np

        own = self.counts[:, :, None]
        others = np.where(own < self.count, self.count - own, np.nan)
        return (self.means * self.count - np.nan_to_num(self.label_means) * own) / others


class LayerSums:
    """Sums of one layer, in float64, of what lies between each activation and a first estimate of its mean.

    What is added waits until there are `BLOCK` items; the first of these give the estimate.
    """

    def __init__(self, neurons: int, labels: int) -> None:
        import numpy as np

        self._waiting: list[tuple[npt.NDArray[np.floating], Ints, Ints]] = []
        self._held = 0
        self._labels = labels
        self._shift = np.zeros(neurons)
        self._products = np.zeros((neurons, neurons))
        self._by_label = np.zeros((2, labels, neurons))
        self._squares = np.zeros((labels, neurons))
        self._counts = np.zeros((2, labels), np.int64)

    @property
    def count(self) -> int:
        return int(self._counts[0].sum()) + self._held

    def add(self, values: npt.NDArray[np.floating], labels: Ints, controls: Ints) -> None:
        """Takes items (n, I) and their labels in both tasks, (n,) each."""
        self._waiting.append((values, labels, controls))
        self._held += len(values)
        if self._held >= BLOCK:
            self._flush()

    def finished(self) -> Moments:
        """What the sums come to, once; they are used up by it."""
        import numpy as np

        self._flush()
        count = int(self._counts[0].sum())
        apart = self._by_label[0].sum(0) / count
        means = self._shift + apart
        covariances, self._products = self._products, np.zeros((0, 0))
        covariances /= count
        covariances -= np.outer(apart, apart)
        variances = np.maximum(np.diag(covariances), 0)
        deviations = np.where(variances > CONSTANT * np.square(means), np.sqrt(variances), 0)
        scale = np.where(deviations > 0, deviations, np.inf)
        covariances /= scale
        covariances /= scale[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            label_apart = self._by_label / self._counts[:, :, None]
            label_variances = self._squares / self._counts[0][:, None] - np.square(label_apart[0])
        return Moments(
            count=count,
            means=means,
            deviations=deviations,
            correlations=covariances,
            counts=self._counts,
            label_means=self._shift + label_apart,
            label_deviations=np.sqrt(np.maximum(label_variances, 0)),
        )

    def _flush(self) -> None:
        import numpy as np

        if not self._waiting:
            return
        first = not self._counts.any()
        values = np.concatenate([part for part, _, _ in self._waiting]).astype(np.float64)
        numbers = [np.concatenate(part) for part in list(zip(*self._waiting, strict=True))[1:]]
        self._waiting, self._held = [], 0
        if first:
            self._shift = values.mean(0)
        values -= self._shift
        self._products += values.T @ values
        flags = np.zeros((2, self._labels, len(values)))
        for task, labels in enumerate(numbers):
            flags[task, labels, np.arange(len(values))] = 1
            self._by_label[task] += flags[task] @ values
            self._counts[task] += np.bincount(labels, minlength=self._labels)
        self._squares += flags[0] @ np.square(values, out=values)
