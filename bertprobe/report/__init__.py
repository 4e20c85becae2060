"""What there is to say: the JSON contract as nested data, and the tables that look into it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bertprobe._version import __version__
from bertprobe.anatomy import Anatomy, kind_of
from bertprobe.checkpoint import DTYPES, Checkpoint
from bertprobe.errors import printable, shortened
from bertprobe.shown import ReprMixin
from bertprobe.verdicts import Finding

if TYPE_CHECKING:
    from bertprobe.report.nodes import Facts
    from bertprobe.report.sections import Section


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a view: its title, the path to its value in a row, how it is written and how soon it gives way.

    `kind` is text, place, shape, integer, real, share, flag (yes or no), verdict, bar (−1 to 1) or heat (numbers as
    shades); the highest priority gives way first, 0 last.
    """

    title: str
    path: tuple[str, ...]
    kind: str
    priority: int = 0

    @property
    def name(self) -> str:
        """The column's name in machine formats: the path, without what stands between a tensor and its numbers."""
        return ".".join(step for step in self.path if step not in ("statistics", "difference")).replace("label", "part")

    def value(self, row: Mapping[str, Any]) -> Any:
        """The raw value in a row, None where the path leads nowhere."""
        here: Any = row
        for step in self.path:
            here = here.get(step) if isinstance(here, Mapping) else None
        return here


@dataclass(frozen=True, slots=True)
class View:
    """A table that looks into a report's data; `machine_only` ones repeat what others show, for CSV."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Mapping[str, Any], ...]
    machine_only: bool = False


@dataclass(frozen=True, slots=True)
class Report(ReprMixin):
    """`data` is the JSON contract; `views` are tables over it; `findings` stand in `data` too.

    A report in words has `sections`, which say all there is to say: facts and views are then not drawn.
    """

    data: Mapping[str, Any]
    views: tuple[View, ...]
    findings: tuple[Finding, ...] = ()
    sections: tuple[Section, ...] = ()

    @property
    def is_alarming(self) -> bool:
        """Whether a finding is a warning or worse."""
        return any(finding.severity in ("error", "warning") for finding in self.findings)


def with_tensors(node: Mapping[str, Any]) -> dict[str, Any]:
    """A part's node as a row of a table: its dense layer's tensors as `weight` and `bias`, None where there is none."""
    found = {kind_of(tensor["name"]): tensor for tensor in reversed(node["tensors"])}
    return {**node, "weight": found.get("weight"), "bias": found.get("bias")}


def report_of(
    data: Mapping[str, Any],
    views: Sequence[View],
    findings: Sequence[Finding] = (),
    *,
    say_none: bool = False,
    warn_first: bool = False,
    sections: tuple[Section, ...] = (),
) -> Report:
    """The report of data that end, as all do, with the findings and the version; the last table is the findings'.

    With `say_none` that table is there without findings, too: nothing was found where something was looked for. With
    `warn_first` it is the first: what it says has to be known before the numbers of the others are read.
    """
    told = [asdict(finding) for finding in findings]
    table = (finding_view(told),) if told or say_none else ()
    tables = (*table, *views) if warn_first else (*views, *table)
    return Report({**data, "findings": told, "version": __version__}, tables, tuple(findings), sections)


def facts(checkpoint: Checkpoint, anatomy: Anatomy) -> Facts:
    """What is true of the checkpoint as a whole, shapes from the tensors before anything the config says."""
    hidden, inner = anatomy.widths
    counted = {header.location: header for header in anatomy.tensors.values() if DTYPES.get(header.dtype) is not None}
    floats = [header for header in counted.values() if DTYPES[header.dtype].is_float]
    acts = {part.activation for part in anatomy.of("intermediate", "gate") if part.activation}
    unread = [f"{n} cannot be read: {h.refusal}" for n, h in anatomy.tensors.items() if h.refusal and not h.is_code]
    return {
        "resolved": checkpoint.resolved,
        "revision": checkpoint.revision,
        "storage": checkpoint.storage,
        "family": anatomy.family,
        "layout": anatomy.layout.name,
        "recognised_by": anatomy.layout.path,
        "prefix": anatomy.prefix,
        "layers": len(anatomy.layers) or len(anatomy.of("intermediate")),
        "hidden_size": hidden,
        "intermediate_size": inner,
        "activation": next(iter(sorted(acts)), anatomy.config_spec.activation),
        "parameters": sum(header.count for header in floats),
        "dtypes": dict(Counter(h.stored_as for h in anatomy.tensors.values() if h.dtype in DTYPES).most_common()),
        "files": [{"name": file.name, "bytes": file.size} for file in checkpoint.files],
        "bytes_read": checkpoint.bytes_read,
        "bytes_total": checkpoint.bytes_total,
        "notes": [
            *checkpoint.notes,
            *_doubt(checkpoint, anatomy),
            *_shared(anatomy),
            *_twins(anatomy),
            *_first_five(unread),
        ],
    }


def _first_five(lines: Sequence[str]) -> list[str]:
    return [*lines[:5], *([f"and {len(lines) - 5} more"] if len(lines) > 5 else [])]


def _twins(anatomy: Anatomy) -> list[str]:
    """A note where a file holds several encoders side by side, of which one is read."""
    if not anatomy.others:
        return []
    read, *others = (printable(prefix.rstrip(".") or "no prefix") for prefix in (anatomy.prefix, *anatomy.others))
    return [f"it holds several encoders: {read} is read; others to choose as root: {shortened(others)}"]


def _shared(anatomy: Anatomy) -> list[str]:
    """A note where a model runs more layers than it stores, as ALBERT does."""
    stored, run = len(anatomy.of("intermediate")), anatomy.config_spec.layers
    if not anatomy.layout.shared or type(run) is not int or run <= stored:
        return []
    return [f"it runs {run} layers, which share the weights of {'one' if stored == 1 else stored}"]


def _doubt(checkpoint: Checkpoint, anatomy: Anatomy) -> list[str]:
    """A note where no config names the family, and it is not the one that all are taken for."""
    if (
        (checkpoint.config or {}).get("model_type")
        or anatomy.family == anatomy.layout.name
        or checkpoint.config is None
    ):
        return []
    return [f"config.json has no model_type: taken for {anatomy.family} by the class that saved it and by its tensors"]


def finding_view(findings: Sequence[Mapping[str, Any]]) -> View:
    columns = tuple(Column(name, (name,), "text") for name in ("severity", "rule", "part", "message", "hint"))
    return View("findings", "findings", columns, tuple(findings))
