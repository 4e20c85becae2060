"""What there is to know of an adapter: each rule a function of it and of what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bertprobe.adapters import Adapter
from bertprobe.adapters.settings import own
from bertprobe.errors import printable, quoted, shortened
from bertprobe.filenames import ADAPTER_CONFIG
from bertprobe.verdicts.rule import Finding, Observation, Rule, ask

if TYPE_CHECKING:
    from bertprobe.adapters.numbers import Change

MOST_NAMES = 100


@dataclass(frozen=True, slots=True)
class AdapterEvidence:
    """An adapter, and by target what it adds; nothing where only headers were read."""

    adapter: Adapter
    changes: Mapping[str, Change] = field(default_factory=dict)

    def labels(self, verdict: str) -> list[str]:
        return [label for label, change in self.changes.items() if change.verdict == verdict]


def judge_adapter(evidence: AdapterEvidence) -> tuple[Finding, ...]:
    """Every finding on an adapter, the worst first."""
    return ask(ADAPTER_RULES, evidence)


def not_finite(evidence: AdapterEvidence) -> Iterator[Observation]:
    if labels := evidence.labels("not finite"):
        yield Observation(
            None,
            f"{len(labels)} targets have factors that are NaN, infinite or beyond float64: "
            f"{printable(shortened(labels, 3))}",
            {"targets": labels[:MOST_NAMES], "count": len(labels)},
            "do not use it: training diverged, or the file is damaged",
        )


def incomplete(evidence: AdapterEvidence) -> Iterator[Observation]:
    for target in evidence.adapter.targets:
        if target.a is None or target.b is None:
            lacks = "A" if target.a is None else "B"
            yield Observation(
                target.label,
                f"the factor {lacks} is missing",
                {"lacks": lacks},
                "fetch the adapter again: peft would leave that factor at its initial values",
            )
        elif len(target.a.shape) == len(target.b.shape) == 2 and target.rank is None:
            a, b = target.a.shape, target.b.shape
            yield Observation(
                target.label,
                f"A is {a[0]}×{a[1]} and B {b[0]}×{b[1]}: there is no product of them",
                {"a": list(a), "b": list(b)},
                "the file is damaged or was put together wrongly: fetch it again",
            )


def rank_contradiction(evidence: AdapterEvidence) -> Iterator[Observation]:
    settings = evidence.adapter.settings
    odd: dict[tuple[int, int], list[str]] = {}
    for target in evidence.adapter.targets if settings.plain and evidence.adapter.is_lora else ():
        said = own(settings.ranks, target.module, settings.rank)
        if said is not None and target.rank is not None and said != target.rank:
            odd.setdefault((said, target.rank), []).append(target.label)
    for (said, rank), labels in odd.items():
        yield Observation(
            None,
            f"{ADAPTER_CONFIG} says rank {said}, {len(labels)} targets have {rank}: {printable(shortened(labels, 3))}",
            {"config": said, "rank": rank, "targets": labels[:MOST_NAMES], "count": len(labels)},
            "peft does not load it so, and the scaling may be another: ask for the config it was saved with",
        )


def untrained(evidence: AdapterEvidence) -> Iterator[Observation]:
    labels = evidence.labels("no change")
    if labels:
        every = len(labels) == len(evidence.adapter.targets)
        what = "the adapter changes nothing" if every else f"{len(labels)} targets change nothing"
        yield Observation(
            None,
            f"{what}: a factor of {'each' if every else 'them'} is all zero, as B is before training"
            + ("" if every else f" ({printable(shortened(labels, 3))})"),
            {"targets": labels[:MOST_NAMES], "count": len(labels), "of": len(evidence.adapter.targets)},
            "if it should have been trained, these weights were not: ask for the file that was saved at the end",
        )


def target_missing(evidence: AdapterEvidence) -> Iterator[Observation]:
    modules = [target.module for target in evidence.adapter.targets]
    if not evidence.adapter.is_lora:
        return
    named = [name for name in evidence.adapter.settings.targets or () if name != "all-linear"]
    missing = [n for n in named if not any(m == n or m.endswith(f".{n}") for m in modules)]
    if missing:
        yield Observation(
            None,
            f"{ADAPTER_CONFIG} names the targets {printable(shortened(missing))}, of which the file has no factors",
            {"missing": missing[:MOST_NAMES], "count": len(missing)},
            "a part of the file may be missing, or the base model has no such module",
        )


def values_unknown(evidence: AdapterEvidence) -> Iterator[Observation]:
    adapter = evidence.adapter
    settings = adapter.settings
    method = printable(adapter.method[:40])
    if not adapter.is_lora:
        why, hint = (
            f"it is of the method {method}, of which names and shapes are told, no norms",
            "ask peft for its values",
        )
    elif settings.dora or any("magnitude" in header.name for t in adapter.targets for header in t.others):
        why = "it is a DoRA: what is told is the product s·B·A, which a magnitude then scales with the base's weights"
        hint = "merge it in peft, and compare with the base model: bertprobe diff"
    elif settings.start.lower().startswith(("pissa", "olora", "corda", "loftq")):
        why = (
            f"its factors began as parts of the base's weights ({settings.start[:40]}): what is told is the product "
            "s·B·A, which is added to what was left of them"
        )
        hint = "merge it in peft, and compare with the base model: bertprobe diff"
    elif adapter.targets and any(adapter.scaling(target) is None for target in adapter.targets if target.rank):
        why, hint = "its scaling is not known: norms are those of B·A alone", f"put its {ADAPTER_CONFIG} beside it"
    else:
        return
    yield Observation(None, why, {"method": adapter.method}, hint)


def base_unnamed(evidence: AdapterEvidence) -> Iterator[Observation]:
    base = evidence.adapter.settings.base
    if base is None:
        yield Observation(
            None,
            "nothing says which model it is an adapter of",
            {"base": None},
            "ask its author: added to another model it gives other numbers, and no error where the shapes fit",
        )
    elif base.startswith(("/", "~", "./", "../")) or "\\" in base:
        yield Observation(
            None,
            f"the base model is named by a path on its author's machine, {quoted(base)}",
            {"base": base},
            "ask its author which model that was",
        )


ADAPTER_RULES: tuple[Rule[AdapterEvidence], ...] = (
    Rule("adapter-not-finite", "error", "A factor holds NaN or infinite entries.", not_finite),
    Rule("adapter-incomplete", "error", "A factor is missing, or two do not fit each other.", incomplete),
    Rule("adapter-rank", "error", "The config gives another rank than the factors have.", rank_contradiction),
    Rule("adapter-untrained", "warning", "A factor is all zero, so that nothing is added.", untrained),
    Rule("adapter-target-missing", "warning", "A target of the config has no factors.", target_missing),
    Rule("adapter-values-unknown", "note", "What it adds is not, or not only, the product told.", values_unknown),
    Rule("adapter-base-unnamed", "note", "The base model is not named, or by a path.", base_unnamed),
)
