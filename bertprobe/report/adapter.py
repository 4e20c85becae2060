"""The report of `inspect` on an adapter: what it is of, what it adds to which matrix, and what there is to know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from bertprobe.adapters import Adapter, Target
from bertprobe.adapters.opening import bare
from bertprobe.adapters.rules import AdapterEvidence
from bertprobe.checkpoint import DTYPES, TensorHeader
from bertprobe.report import Column, Report, View, report_of
from bertprobe.verdicts import Finding

if TYPE_CHECKING:
    from bertprobe.adapters.numbers import Change
    from bertprobe.report import nodes

MOST_NAMES = 100


def adapter_report(evidence: AdapterEvidence, findings: Sequence[Finding]) -> Report:
    """The report of an adapter."""
    adapter = evidence.adapter
    targets = [_target(adapter, target, evidence.changes.get(target.label)) for target in adapter.targets]
    whole = [_factor(header) for header in adapter.whole]
    data = {"model": adapter.ref, "facts": _facts(adapter), "targets": targets, "whole": whole}
    return report_of(data, [_target_view(targets, bool(evidence.changes)), _whole_view(whole)], findings, say_none=True)


def _facts(adapter: Adapter) -> nodes.AdapterFacts:
    settings = adapter.settings
    headers = [header for header in adapter.headers if header.dtype in DTYPES]
    scalings = {adapter.scaling(target) for target in adapter.targets if target.rank}
    endings = {_within_layer(target.module): None for target in adapter.targets}
    return {
        "resolved": adapter.resolved,
        "revision": adapter.revision,
        "storage": adapter.storage,
        "base_model": settings.base,
        "method": adapter.method,
        "rank": settings.rank,
        "ranks": sorted({target.rank for target in adapter.targets if target.rank is not None}),
        "alpha": settings.alpha,
        "scaling": next(iter(scalings)) if len(scalings) == 1 else None,
        "rslora": settings.rslora,
        "dora": settings.dora,
        "target_modules": list(endings or settings.targets or ())[:MOST_NAMES],
        "layers": sorted({target.layer for target in adapter.targets if target.layer is not None}),
        "modules_to_save": list(settings.saved or (_modules(adapter.whole) if adapter.is_lora else ()))[:MOST_NAMES],
        "parameters": sum(header.count for header in headers if DTYPES[header.dtype].is_float),
        "dtypes": dict(Counter(header.stored_as for header in headers).most_common()),
        "files": [{"name": file.name, "bytes": file.size} for file in adapter.files],
        "bytes_read": sum(file.bytes_read for file in adapter.files),
        "bytes_total": sum(file.size for file in adapter.files),
        "notes": list(adapter.notes),
    }


def _within_layer(module: str) -> str:
    """A module's path behind the number of its layer."""
    words = module.split(".")
    place = next((n for n, word in enumerate(words) if word.isdecimal()), -1)
    return ".".join(words[place + 1 :])


def _modules(headers: Sequence[TensorHeader]) -> list[str]:
    """The modules of tensors that are saved whole."""
    return list({bare(header.name).rpartition(".")[0]: None for header in headers if "." in header.name})


def _factor(header: TensorHeader) -> nodes.Factor:
    return {"name": header.name, "dtype": header.dtype, "shape": list(header.shape)}


def _target(adapter: Adapter, target: Target, change: Change | None) -> nodes.AdapterTarget:
    numbers = {} if change is None else asdict(change)
    return {
        "label": target.label,
        "module": target.module,
        "adapter": target.adapter,
        "layer": target.layer,
        "rank": target.rank,
        "scaling": adapter.scaling(target),
        "a": None if target.a is None else _factor(target.a),
        "b": None if target.b is None else _factor(target.b),
        "others": [_factor(header) for header in target.others],
        "verdict": numbers.get("verdict"),
        "frobenius": numbers.get("frobenius"),
        "sigma_max": numbers.get("sigma_max"),
        "stable_rank": numbers.get("stable_rank"),
        "a_norm": numbers.get("a_norm"),
        "b_norm": numbers.get("b_norm"),
    }


def _target_view(targets: Sequence[nodes.AdapterTarget], measured: bool) -> View:
    columns = [
        Column("target", ("label",), "text"),
        Column("A", ("a", "shape"), "shape"),
        Column("B", ("b", "shape"), "shape"),
    ]
    if measured:
        columns += [
            Column("scaling", ("scaling",), "real", 2),
            Column("‖ΔW‖", ("frobenius",), "real"),
            Column("σ₁", ("sigma_max",), "real"),
            Column("stable rank", ("stable_rank",), "real", 1),
            Column("‖A‖", ("a_norm",), "real", 3),
            Column("‖B‖", ("b_norm",), "real", 3),
            Column("verdict", ("verdict",), "text"),
        ]
    else:
        columns += [Column("dtype", ("a", "dtype"), "text"), Column("rank", ("rank",), "integer")]
    return View("targets", "targets: what is added to each matrix, ΔW = scaling·B·A", tuple(columns), tuple(targets))


def _whole_view(whole: Sequence[nodes.Factor]) -> View:
    columns = (
        Column("tensor", ("name",), "text"),
        Column("shape", ("shape",), "shape"),
        Column("dtype", ("dtype",), "text"),
    )
    return View("whole", "whole: tensors that are no factors", columns, tuple(whole))
