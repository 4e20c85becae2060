"""What the numbers allow one to say: each rule a function of the evidence, each finding with its numbers and a hint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bertprobe.anatomy import Part
from bertprobe.verdicts import headers, numbers
from bertprobe.verdicts.evidence import (
    OUTLIER_Z,
    SMALLEST_SIDE,
    TRAINED_ABOVE,
    UNTRAINED_BELOW,
    Evidence,
    verdict,
)
from bertprobe.verdicts.rule import SEVERITIES, Finding, Observation, Rule, ask, worst_first

__all__ = [
    "OUTLIER_Z",
    "RULES",
    "SEVERITIES",
    "SMALLEST_SIDE",
    "TRAINED_ABOVE",
    "UNTRAINED_BELOW",
    "Evidence",
    "Finding",
    "Observation",
    "Rule",
    "about",
    "ask",
    "judge",
    "verdict",
    "worst_first",
]


def judge(evidence: Evidence) -> tuple[Finding, ...]:
    """Every finding, the worst first, in the order of `RULES` within a severity.

    Of a rule that finds more than a hundred, the first of them and one that counts the others: time grows with the
    number of tensors, and what is told ends there.
    """
    return ask(RULES, evidence)


def about(findings: Sequence[Finding], parts: Sequence[Part] | None) -> tuple[Finding, ...]:
    """The findings on these parts; all of them, the absent included, where `parts` is None for the whole model."""
    labels = None if parts is None else {part.label for part in parts}
    return tuple(finding for finding in findings if labels is None or finding.part in labels)


def duplicates(evidence: Evidence) -> Iterator[Observation]:
    """One name claimed twice, and layers that are copies of each other."""
    yield from headers.duplicate_tensors(evidence)
    yield from numbers.copied_layers(evidence)


RULES: tuple[Rule[Evidence], ...] = (
    Rule("not-finite", "error", "A tensor holds NaN or infinite entries.", numbers.not_finite),
    Rule("file-truncated", "error", "A file ends before its data do.", headers.file_truncated),
    Rule("config-invalid", "error", "The config gives a value that a setting cannot have.", headers.config_invalid),
    Rule("shape-mismatch", "error", "The config promises other shapes than the tensors have.", headers.shape_mismatch),
    Rule("layers-missing", "error", "Layers, or a tensor of one, are not in the checkpoint.", headers.layers_missing),
    Rule("unreadable", "error", "A tensor of a part is stored in a way that gives no values.", headers.unreadable),
    Rule("constant-weights", "error", "All weights of a matrix are the same number.", numbers.constant_weights),
    Rule("quantised", "warning", "Weights are stored as codes, which are not the model's numbers.", headers.quantised),
    Rule("all-zero", "warning", "A tensor outside the two modules holds nothing but zeros.", numbers.all_zero),
    Rule("pooler-untrained", "warning", "The pooler shows no trace of training.", numbers.untrained("pooler")),
    Rule("intermediate-untrained", "warning", "A layer shows no trace of training.", numbers.untrained("intermediate")),
    Rule(
        "prefix-not-stripped",
        "warning",
        "transformers would not find the weights under these names.",
        headers.names_hidden,
    ),
    Rule(
        "dtype-narrowed", "warning", "The config makes transformers narrow the stored numbers.", headers.dtype_narrowed
    ),
    Rule(
        "relative-positions", "warning", "Relative positions, which transformers 5 ignores.", headers.relative_positions
    ),
    Rule("duplicate-tensors", "warning", "Two tensors claim one name, or two layers are one.", duplicates),
    Rule("zero-neurons", "warning", "Neurons whose incoming weights are all zero.", numbers.zero_neurons),
    Rule("dequantised", "note", "Weights are computed from the codes of a quantisation.", headers.dequantised),
    Rule("outlier-neurons", "note", "Neurons whose norms lie far from the others'.", numbers.outlier_neurons),
    Rule("verdict-withheld", "note", "Whether a matrix was trained cannot be told from it.", numbers.verdict_withheld),
    Rule("pooler-absent", "note", "The checkpoint holds no pooler.", headers.pooler_absent),
    Rule("pooler-unused", "note", "The model's users pool otherwise.", headers.pooler_unused),
    Rule(
        headers.UNREAD_STORAGE,
        "note",
        "transformers 5 does not read it.",
        headers.unread_storage,
    ),
)
