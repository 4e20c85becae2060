"""The report of `explain`: the two modules as this checkpoint has them, in English or Chinese.

Facts are gathered once (`facts`), what people say is checked against them (`claims`), `frame` builds drawings, tables
and sums, and a language (`en`, `zh`) turns the same facts into sentences.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from types import ModuleType
from typing import Any

from bertprobe.anatomy import Anatomy
from bertprobe.checkpoint import Checkpoint
from bertprobe.errors import PartMissing, printable
from bertprobe.report import Report, report_of
from bertprobe.report import facts as facts_of
from bertprobe.report.explanation.claims import applicable
from bertprobe.report.explanation.facts import Facts
from bertprobe.report.sections import Block, Checked, Section, as_data

ANSWERS = {True: "right", False: "wrong", None: "open"}
ORDER = ("model", "place", "formula", "steps", "source", "comparison", "claims", "next")


def check_module(checkpoint: Checkpoint, anatomy: Anatomy, module: str) -> None:
    """Raises `PartMissing` where there is nothing to explain."""
    if module == "intermediate" and not anatomy.of("intermediate"):
        raise PartMissing(
            f"{printable(checkpoint.ref)} holds no intermediate module", "explain its pooler: bertprobe explain pooler"
        )


def explanation(checkpoint: Checkpoint, anatomy: Anatomy, found: Facts, module: str, language: str) -> Report:
    """Explains `intermediate`, `pooler` or `both` of a checkpoint by the facts that `gather` found."""
    sections = tuple(_sections(found, module, _spoken(language)))
    data = {
        "model": checkpoint.ref,
        "facts": facts_of(checkpoint, anatomy),
        "module": module,
        "language": language,
        "numbers": _plain(found),
        "claims": {claim.name: claim.holds(found) for claim in applicable(found, module)},
        "sections": as_data(sections),
    }
    return report_of(data, (), sections=sections)


def _plain(facts: Facts) -> dict[str, Any]:
    found = asdict(facts)
    del found["model"]
    return found


def _spoken(language: str) -> ModuleType:
    return import_module(f"bertprobe.report.explanation.{language}")


def _sections(facts: Facts, module: str, language: ModuleType) -> Iterator[Section]:
    for name in ORDER:
        if name == "claims":
            blocks: tuple[Block, ...] = tuple(_checked(facts, module, language))
        else:
            blocks = tuple(language.SECTIONS[name](facts, module))
        if blocks:
            yield Section(name, language.TITLES[name], blocks)


def _checked(facts: Facts, module: str, language: ModuleType) -> Iterator[Checked]:
    for claim in applicable(facts, module):
        said, shown = language.CLAIMS[claim.name](facts)
        holds = claim.holds(facts)
        word = language.WORDS[ANSWERS[holds]]
        yield Checked(claim.name, said, holds, word, shown)
