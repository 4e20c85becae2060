"""The report that shows a value in a notebook or in rich: a report, a part, a finding, or several of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from bertprobe.anatomy import Part
from bertprobe.report import Column, Report, View, finding_view
from bertprobe.verdicts import Finding


def as_report(value: Any) -> Report:
    """The report that shows a value: itself, or tables of parts or findings; raises `TypeError` for anything else."""
    if isinstance(value, Report):
        return value
    if hasattr(value, "as_report"):
        found = value.as_report()
        if isinstance(found, Report):
            return found
    if isinstance(value, Part):
        return Report({}, (_tensor_view(value),))
    items: list[Any] = [value] if isinstance(value, Finding) else list(value)
    if all(isinstance(item, Part) for item in items) and items:
        return Report({}, (_part_view(items),))
    if all(isinstance(item, Finding) for item in items):
        return Report({}, (finding_view([asdict(item) for item in items]),), tuple(items))
    raise TypeError(f"{type(value).__name__} is nothing that can be shown")


def has_facts(report: Report) -> bool:
    """Whether a report has the facts of one checkpoint to begin with."""
    facts = report.data.get("facts")
    return "model" in report.data and isinstance(facts, Mapping) and "recognised_by" in facts


def _part_view(parts: Iterable[Part]) -> View:
    rows = tuple(
        {
            "label": part.label,
            "activation": part.activation,
            "shape": None if part.weight is None else part.weight.shape,
            "bias": None if part.bias is None else part.bias.shape,
            "dtype": None if part.weight is None else part.weight.dtype,
            "stored": None if part.weight is None else part.weight.name,
        }
        for part in parts
    )
    columns = (
        Column("part", ("label",), "text"),
        Column("shape", ("shape",), "shape"),
        Column("bias", ("bias",), "shape", 2),
        Column("dtype", ("dtype",), "text", 1),
        Column("activation", ("activation",), "text", 1),
        Column("stored as", ("stored",), "text", 3),
    )
    return View("parts", "parts", columns, rows)


def _tensor_view(part: Part) -> View:
    rows = tuple(
        {"name": name, "stored": header.name, "shape": header.shape, "dtype": header.dtype}
        for name, header in part.tensors.items()
    )
    columns = (
        Column("tensor", ("name",), "text"),
        Column("shape", ("shape",), "shape"),
        Column("dtype", ("dtype",), "text", 1),
        Column("stored as", ("stored",), "text", 2),
    )
    act = f", {part.activation}" if part.activation else ""
    return View("tensors", f"{part.label}{act}", columns, rows)
