"""The rules that look at numbers: training, zeros, constants, outliers, copies."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from bertprobe.anatomy import Part
from bertprobe.anatomy.places import BUFFERS
from bertprobe.anatomy.poolers import pooler_reader
from bertprobe.errors import printable
from bertprobe.verdicts.evidence import (
    MOST_NUMBERS,
    OUTLIER_Z,
    SMALLEST_SIDE,
    TRAINED_ABOVE,
    UNTRAINED_BELOW,
    Evidence,
    bias_is_zero,
    verdict,
)
from bertprobe.verdicts.rule import Finding, Observation

if TYPE_CHECKING:
    from bertprobe.stats.numbers import Numbers


def untrained(role: str) -> Callable[[Evidence], Iterator[Observation]]:
    def look(evidence: Evidence) -> Iterator[Observation]:
        roles = ("intermediate", "gate") if role == "intermediate" else (role,)
        for part in evidence.anatomy.of(*roles):
            word = verdict(evidence, part)
            numbers = evidence.of(part)
            if numbers is not None and word in ("untrained", "probably untrained"):
                zero = bias_is_zero(evidence, part) if part.bias is not None else None
                reader = pooler_reader(evidence.checkpoint, evidence.anatomy) if role == "pooler" else None
                yield _untrained_finding(role, part, word, numbers, zero, reader)

    return look


def _untrained_finding(
    role: str, part: Part, word: str, numbers: Numbers, bias_zero: bool | None, reader: str | None
) -> Observation:
    what = "the pooler" if role == "pooler" else "this layer"
    also = {True: " and its bias is all zero", False: ", though its bias is not zero", None: ""}[bias_zero]
    if reader is not None:
        hint = f"leave it: {printable(reader)} reads it as it is; judge that head by labelled texts, and pool by mean"
    elif role == "pooler":
        hint = "do not use pooler_output: take mean pooling or the first hidden state, or train the pooler on your task"
    else:
        hint = "check that the right file was saved: a layer that shows no training should not be shipped"
    return Observation(
        part.label,
        f"{what} is {word}: its spectrum is that of random numbers (edge ratio {numbers.mp_edge_ratio:.3f}){also}",
        {
            "verdict": word,
            "mp_edge_ratio": numbers.mp_edge_ratio,
            "untrained_below": UNTRAINED_BELOW,
            "trained_above": TRAINED_ABOVE,
            "kurtosis": numbers.summary.kurtosis,
            "std": numbers.summary.std,
            "bias_all_zero": bias_zero,
            "read_by": reader,
        },
        hint,
    )


def verdict_withheld(evidence: Evidence) -> Iterator[Observation]:
    """Matrices of which it cannot be told whether they were trained, though they are large enough and not noise."""
    for part in evidence.anatomy.parts:
        word, numbers = verdict(evidence, part), evidence.of(part)
        if numbers is None or word not in ("flattened", "cannot tell"):
            continue
        edge, noise = numbers.mp_edge_ratio or 0.0, numbers.noise_ratio or 0.0
        why = {
            "flattened": f"its singular values are more alike than those of random numbers (edge ratio {edge:.3f})",
            "cannot tell": f"its edge ratio of {edge:.3f} is what random numbers have whose rows, columns or mean are "
            f"scaled like its own (against those it is {noise:.3f})",
        }[word]
        yield Observation(
            part.label,
            f"there is no verdict on whether it was trained: {why}",
            {"verdict": word, "mp_edge_ratio": numbers.mp_edge_ratio, "noise_ratio": numbers.noise_ratio},
            "judge it by results on your task"
            if word == "cannot tell"
            else "judge it by results on your task: it was orthogonalised, whitened or capped, or is an identity",
        )


def not_finite(evidence: Evidence) -> Iterator[Observation]:
    for part in evidence.anatomy.parts:
        for name in part.tensors:
            numbers = evidence.numbers.get(name)
            if numbers is not None and numbers.summary.nonfinite:
                yield _not_finite(name, part.label, numbers.summary.nonfinite, numbers.summary.count)
    for name, numbers in _elsewhere(evidence):
        if numbers.summary.nonfinite:
            yield _not_finite(name, None, numbers.summary.nonfinite, numbers.summary.count)


def all_zero(evidence: Evidence) -> Iterator[Observation]:
    """Tensors that no training leaves at zero: matrices, and the weights of layer norms, which multiply."""
    for name, numbers in _elsewhere(evidence):
        header, summary = evidence.anatomy.tensors[name], numbers.summary
        matrix = len(header.shape) > 1 and not (header.shape[0] == 1 and name.endswith(_ONE_SEGMENT))
        if summary.count and summary.zeros == summary.count and (matrix or _NORM.search(name)):
            yield Observation(
                None,
                f"{printable(name)} holds {summary.count:,} zeros and nothing else",
                {"tensor": name, "count": summary.count},
                "the module was never initialised or was overwritten: load the weights again and save anew",
            )


_NORM = re.compile(r"(?:^|[._])(?:layer_?norm|norm|ln)\w*\.weight$", re.IGNORECASE)
_ONE_SEGMENT = "token_type_embeddings.weight"  # of one row, as RoBERTa's, it adds nothing in many a model


def _elsewhere(evidence: Evidence) -> Iterator[tuple[str, Numbers]]:
    """The numbers of learned tensors that are none of a part's, where all tensors were read."""
    of_parts = {name for part in evidence.anatomy.parts for name in part.tensors}
    for name, numbers in evidence.numbers.items():
        if name not in of_parts and not BUFFERS.search(name):
            yield name, numbers


def not_finite_tensor(name: str, part: str | None, bad: int, count: int) -> Finding:
    """The finding on a tensor with `bad` of `count` entries NaN or infinite, for those who come upon it in a run."""
    return _not_finite(name, part, bad, count).under("not-finite", "error")


def _not_finite(name: str, part: str | None, bad: int, count: int) -> Observation:
    return Observation(
        part,
        f"{printable(name)} has {bad:,} of {count:,} entries that are NaN or infinite",
        {"tensor": name, "nonfinite": bad, "count": count},
        "the training run diverged or the file is damaged: go back to an earlier checkpoint",
    )


def zero_neurons(evidence: Evidence) -> Iterator[Observation]:
    for part, numbers in _matrices(evidence):
        norms = numbers.row_norms
        if norms is None or numbers.summary.m2 == 0:
            continue
        zeros = (norms == 0).nonzero()[0]
        if len(zeros):
            rows = zeros[:MOST_NUMBERS].tolist()
            shown = ", ".join(map(str, rows[:5])) + (f" and {len(zeros) - 5} more" if len(zeros) > 5 else "")
            yield Observation(
                part.label,
                f"{len(zeros):,} of {len(norms):,} neurons have a row of zeros: {shown}",
                {"neurons": rows, "count": len(zeros), "of": len(norms)},
                "fine after structured pruning (then cut the rows out); otherwise these neurons ignore their input",
            )


def constant_weights(evidence: Evidence) -> Iterator[Observation]:
    for part, numbers in _matrices(evidence):
        summary = numbers.summary
        if summary.count > 1 and summary.nonfinite == 0 and summary.min == summary.max:
            yield Observation(
                part.label,
                f"every one of its {summary.count:,} weights is {summary.min:g}",
                {"value": summary.min, "count": summary.count},
                "the module was never initialised, or was overwritten: load the weights again and save them",
            )


def outlier_neurons(evidence: Evidence) -> Iterator[Observation]:
    for part, numbers in _matrices(evidence):
        norms = numbers.row_norms
        if norms is None or len(norms) < SMALLEST_SIDE or part.role == "pooler":
            continue
        from bertprobe.stats.robust import leading, robust_z  # here: headers alone need no numpy

        z = robust_z(norms)
        z[norms == 0] = math.nan  # rows of zeros have their own rule
        count = int(((z > OUTLIER_Z) | (z < -OUTLIER_Z)).sum())
        if count:
            far = leading(z, min(count, MOST_NUMBERS), key=lambda block: -abs(block))
            worst = far[0]
            yield Observation(
                part.label,
                f"{count:,} of {len(norms):,} neurons {'has a norm' if count == 1 else 'have norms'} "
                f"far from the rest, most of all neuron {worst} ({norms[worst]:.3g}, robust z {z[worst]:+.1f})",
                {"neurons": far.tolist(), "z": z[far].tolist(), "norms": norms[far].tolist(), "count": count},
                "often a neuron with a job of its own; quantise these rows apart; "
                "bertprobe inspect --neurons 5 shows them",
            )


def _matrices(evidence: Evidence) -> Iterator[tuple[Part, Numbers]]:
    for part in evidence.anatomy.parts:
        numbers = evidence.of(part)
        if numbers is not None and numbers.shape is not None and numbers.summary.count:
            yield part, numbers


def copied_layers(evidence: Evidence) -> Iterator[Observation]:
    """Layers whose matrices agree in every sum, to the last bit: copies of each other."""
    seen: dict[tuple[Any, ...], Part] = {}
    for part in evidence.anatomy.parts:
        numbers = evidence.of(part)
        if numbers is None or numbers.summary.m2 == 0:
            continue
        key = (part.role, numbers.shape, numbers.summary, numbers.sigma)
        first = seen.setdefault(key, part)
        if first is not part:
            yield Observation(
                part.label,
                f"its weights are those of {first.label}",
                {"same_as": first.label, "std": numbers.summary.std, "sigma_max": numbers.sigma},
                "if layers were meant to be shared, nothing; if not, the layer was copied and never trained on",
            )
