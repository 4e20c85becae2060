"""What a rule looks at, and the one word on a matrix that the thresholds allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bertprobe.anatomy import Anatomy, Part
from bertprobe.checkpoint import Checkpoint

if TYPE_CHECKING:
    from bertprobe.stats.numbers import Numbers

# Thresholds of the edge ratio; docs/statistics.md has the false-alarm rates they were chosen by.
FLATTENED_BELOW = 0.85  # no random matrix with sides of 64 and more was below 0.89
UNTRAINED_BELOW = 1.05
TRAINED_ABOVE = 1.2
SMALLEST_SIDE = 64
SIDE_FOR_RATIO_ALONE = 128  # below it, one in five pieces of a trained matrix looks like noise
OUTLIER_Z = 8.0

# What is counted is not all listed, as `rule.MOST_FINDINGS` are not.
MOST_NAMES = 100  # of tensors in a finding's evidence
MOST_NUMBERS = 1_000  # of layers or neurons in it


@dataclass(frozen=True, slots=True)
class Evidence:
    """All a rule may look at; `numbers` by canonical tensor name, empty when only headers were read."""

    checkpoint: Checkpoint
    anatomy: Anatomy
    numbers: Mapping[str, Numbers] = field(default_factory=dict)

    def of(self, part: Part) -> Numbers | None:
        """The numbers of a part's matrix, if they were taken."""
        return self.numbers.get(part.weight_name)


def verdict(evidence: Evidence, part: Part) -> str | None:
    """`trained`, `untrained` or `probably untrained`, else why that is not told; None without numbers.

    `undecided` between the two, `cannot tell` where scaled or shifted random numbers would look the same, `flattened`
    where there is less structure than in random numbers, and `too small to tell`. *Trained* means only that there is
    structure that initialisation does not have. It says nothing about quality.
    """
    numbers = evidence.of(part)
    if numbers is None or numbers.shape is None or numbers.mp_edge_ratio is None:
        return None
    if min(numbers.shape) < SMALLEST_SIDE:
        return "too small to tell"
    if numbers.mp_edge_ratio < FLATTENED_BELOW:
        return "flattened"
    if numbers.mp_edge_ratio >= UNTRAINED_BELOW:
        left = min(numbers.mp_edge_ratio, numbers.noise_ratio or numbers.mp_edge_ratio)
        if left > TRAINED_ABOVE:
            return "trained"
        return "undecided" if left >= UNTRAINED_BELOW else "cannot tell"
    if bias_is_zero(evidence, part):
        return "untrained"
    return "probably untrained" if min(numbers.shape) >= SIDE_FOR_RATIO_ALONE else "undecided"


def bias_is_zero(evidence: Evidence, part: Part) -> bool:
    bias = evidence.numbers.get(part.bias_name)
    return bias is not None and bias.summary.count > 0 and bias.summary.zeros == bias.summary.count
