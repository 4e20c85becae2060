"""What a rule is: a row with its name and severity, and a function that looks; and how all rows are asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

from bertprobe.shown import ReprMixin

Subject = TypeVar("Subject")

# A model of a fault in every layer or row must not be told by the gigabyte: what is counted is not all listed.
MOST_FINDINGS = 100  # of one rule; one more says how many others there are

SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Finding(ReprMixin):
    """One thing worth knowing: which rule found it, on which part (None: the whole), how bad, and what to do."""

    rule: str
    severity: str
    part: str | None
    message: str
    evidence: Mapping[str, Any]
    hint: str


@dataclass(frozen=True, slots=True)
class Observation:
    """What a rule's function gives: a finding but for the name and the severity, which stand in the rule's row.

    `severity` is for a case that is better or worse than the row says.
    """

    part: str | None
    message: str
    evidence: Mapping[str, Any]
    hint: str
    severity: str | None = None

    def under(self, rule: str, severity: str) -> Finding:
        """The finding of a rule of this name."""
        return Finding(rule, self.severity or severity, self.part, self.message, self.evidence, self.hint)


@dataclass(frozen=True, slots=True)
class Rule(Generic[Subject]):
    """A row of `RULES`: its name, how bad it is, what it says in a sentence, and the function that looks."""

    name: str
    severity: str
    meaning: str
    look: Callable[[Subject], Iterable[Observation]]

    def findings(self, subject: Subject) -> Iterator[Finding]:
        """What this rule finds; of more than a hundred the first, and one that counts the others."""
        observed = iter(self.look(subject))
        for observation in islice(observed, MOST_FINDINGS):
            yield observation.under(self.name, self.severity)
        more = sum(1 for _ in observed)
        if more:
            message = f"the same rule has found {more:,} more than the {MOST_FINDINGS} that are told"
            last = Observation(None, message, {"more": more}, "mend these first, then look again")
            yield last.under(self.name, self.severity)


def ask(rules: Sequence[Rule[Subject]], subject: Subject) -> tuple[Finding, ...]:
    """Every finding, the worst first, in the order of the rules within a severity.

    Of a rule that finds more than a hundred, the first of them and one that counts the others: time grows with the
    number of tensors, and what is told ends there.
    """
    return worst_first(finding for rule in rules for finding in rule.findings(subject))


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings by severity, otherwise as they come."""
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))
