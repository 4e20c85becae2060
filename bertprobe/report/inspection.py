"""The reports of `inspect` and `export`: parts, their statistics, and what was written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bertprobe.anatomy import Anatomy, Part
from bertprobe.anatomy.places import Place, places_of
from bertprobe.checkpoint import Checkpoint, TensorHeader
from bertprobe.filenames import CONFIGS
from bertprobe.fingerprint import fingerprints
from bertprobe.report import Column, Report, View, facts, report_of, with_tensors
from bertprobe.stats.table import STATISTICS, Statistic, columns_of, statistics
from bertprobe.storages import listed
from bertprobe.verdicts import Evidence, Finding, verdict
from bertprobe.verdicts.headers import UNREAD_STORAGE

if TYPE_CHECKING:
    from bertprobe.export import Written
    from bertprobe.report import nodes
    from bertprobe.stats.sums import Floats

KINDS: tuple[Literal["largest", "smallest", "outlying"], ...] = ("largest", "smallest", "outlying")
LAST_RANK = 12  # of the columns in a table of all tensors: what is ranked behind leaves together


def inspection(
    evidence: Evidence,
    parts: Sequence[Part],
    findings: Sequence[Finding],
    *,
    neurons: int = 0,
    recipe: str = "",
    everything: bool = False,
) -> Report:
    """The report of `inspect`: facts, parts with their statistics, findings, and `neurons` rows a part of each kind.

    A `recipe` in a line is one of the facts. With `everything` it has all tensors of the checkpoint as well.
    """
    line = {"recipe": recipe} if recipe else {}
    found = [_part(evidence, part, neurons) for part in parts]
    places = places_of(evidence.anatomy) if everything else {}
    tensors = [_any_tensor(evidence, name, place) for name, place in places.items()]
    told: dict[str, Any] = {**facts(evidence.checkpoint, evidence.anatomy), **line, **_fingerprints(evidence, parts)}
    data = {
        "model": evidence.checkpoint.ref,
        "facts": told,
        "parts": found,
        **({"tensors": tensors} if everything else {}),
    }
    views = [*_part_views(evidence, parts, found), *_spectrum_view(found), *_neuron_view(found)]
    views += [_everything_view(tensors)] if everything else []
    return report_of(data, (*views, _tensor_view(found)), findings, say_none=True)


def exportation(checkpoint: Checkpoint, anatomy: Anatomy, written: Written, findings: Sequence[Finding]) -> Report:
    """The report of `export`: what was written where, with the metadata, and what there is to know about it."""
    findings = tuple(_after_export(checkpoint, written, findings))
    tensors = [asdict(tensor) for tensor in written.tensors]
    data = {
        "model": checkpoint.ref,
        "facts": facts(checkpoint, anatomy),
        "written": {
            "path": written.path,
            "bytes": written.bytes,
            "metadata": dict(written.metadata),
            "tensors": tensors,
            **({"beside": list(written.beside)} if written.beside else {}),
        },
    }
    beside = f", and beside it {listed(written.beside, 'and')}" if written.beside else ""
    columns = (
        Column("tensor", ("name",), "text"),
        Column("stored as", ("stored_name",), "text", 2),
        Column("shape", ("shape",), "shape"),
        Column("dtype", ("dtype",), "text"),
        Column("was", ("stored_dtype",), "text", 1),
    )
    return report_of(data, [View("tensors", f"written to {written.path}{beside}", columns, tuple(tensors))], findings)


def _after_export(checkpoint: Checkpoint, written: Written, findings: Sequence[Finding]) -> Iterator[Finding]:
    """The findings, but that a checkpoint that has just been converted needs only its small files."""
    from bertprobe.export.files import copies  # here, as `inspect` has no use for the rooms that write files

    canonical = not any("/" in tensor.name for tensor in written.tensors)
    for finding in findings:
        if finding.rule == UNREAD_STORAGE and canonical and {*CONFIGS} & {*written.beside}:
            continue  # it is converted
        if finding.rule == UNREAD_STORAGE and canonical:
            commands = copies(checkpoint, Path(written.path))
            if commands:
                message = f"BertModel.from_pretrained looks for config.json beside {Path(written.path).name}"
                if not (checkpoint.config or {}).get("model_type"):
                    message += ', and AutoModel for "model_type": "bert" in it'
                yield replace(finding, message=message, hint=commands)
        else:
            yield finding


# ------------------------------------------------------------------------------------------------ nodes


def _part(evidence: Evidence, part: Part, neurons: int) -> nodes.Part:
    node: nodes.Part = {
        "label": part.label,
        "role": part.role,
        "layer": part.layer,
        "stack": part.stack,
        "index": part.index,
        "activation": part.activation,
        "verdict": verdict(evidence, part),
        "tensors": [_tensor(evidence, name, header) for name, header in part.tensors.items()],
    }
    numbers = evidence.of(part)
    if neurons and numbers is not None and numbers.row_norms is not None:
        node["neurons"] = _neurons(numbers.row_norms, neurons)
    return node


def _tensor(evidence: Evidence, name: str, header: TensorHeader) -> nodes.Tensor:
    numbers = evidence.numbers.get(name)
    return {
        "name": name,
        "stored_name": header.name,
        "dtype": header.dtype,
        "stored_as": header.stored_as,
        "shape": list(header.shape),
        "statistics": {} if numbers is None else statistics(numbers),
        "fingerprint": None if numbers is None else numbers.fingerprint or None,
    }


def _any_tensor(evidence: Evidence, name: str, place: Place) -> nodes.AnyTensor:
    header = evidence.anatomy.tensors[name]
    return {**_tensor(evidence, name, header), "place": place.label, "refusal": header.refusal}


def _fingerprints(evidence: Evidence, parts: Sequence[Part]) -> dict[str, Any]:
    """The fingerprints of what was read, nothing where only headers were."""
    known = {name: numbers.fingerprint for name, numbers in evidence.numbers.items() if numbers.fingerprint}
    found = fingerprints(evidence.anatomy, parts, known)
    return {"fingerprint": asdict(found)} if known else {}


def _neurons(norms: Floats, most: int) -> nodes.ExtremeNeurons:
    """The rows of largest, smallest and most outlying norm, with their robust z."""
    from bertprobe.stats.robust import leading, robust_z

    z = robust_z(norms)

    def told(places: Any) -> list[nodes.NeuronNorm]:
        return [{"neuron": int(row), "norm": float(norms[row]), "robust_z": float(z[row])} for row in places]

    return {
        "largest": told(len(norms) - 1 - leading(norms[::-1], most, key=lambda block: -block)),
        "smallest": told(leading(norms, most, key=lambda block: block)),
        "outlying": told(leading(z, most, key=lambda block: -abs(block))),
    }


# ------------------------------------------------------------------------------------------------ views


def _part_views(evidence: Evidence, parts: Sequence[Part], found: Sequence[nodes.Part]) -> Iterator[View]:
    for name, roles in (("intermediate", ("gate", "intermediate")), ("pooler", ("pooler",))):
        rows = tuple(with_tensors(node) for node in found if node["role"] in roles)
        if rows:
            first = next(part for part in parts if part.role in roles)
            yield View(name, f"{name}: {formula(evidence.anatomy, first)}", tuple(_columns(name, rows)), rows)


def formula(anatomy: Anatomy, part: Part) -> str:
    """What a module computes and where it stands: `dense 384→1536, gelu; between attention and output`."""
    weight = part.weight
    shape = f" {weight.shape[1]}→{weight.shape[0]}" if weight is not None and len(weight.shape) == 2 else ""
    if part.role == "pooler":
        return f"dense{shape}, {part.activation}; on the first token, after the last layer"
    gate = next((p for p in anatomy.of("gate")), None)
    act = (gate or part).activation or "activation unknown"
    if gate is not None:
        return f"{act}(gate) × up, each dense{shape}; {anatomy.layout.position}"
    return f"dense{shape}, {act}; {anatomy.layout.position}"


def _columns(name: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[Column]:
    yield Column("layer" if name == "intermediate" else "part", ("label",), "place")
    yield Column("shape", ("weight", "shape"), "shape")
    if not any(tensor["statistics"] for row in rows for tensor in row["tensors"]):
        yield Column("dtype", ("weight", "dtype"), "text")
        weights = [row["weight"] for row in rows if row["weight"] is not None]
        if any(weight["stored_as"] != weight["dtype"] for weight in weights):  # of what is packed, or quantised
            yield Column("from", ("weight", "stored_as"), "text")
        yield Column("bias", ("bias", "shape"), "shape")
        yield Column("stored as", ("weight", "stored_name"), "text", 1)
        return
    for row in columns_of("summary", "matrix"):
        yield Column(row.title, ("weight", "statistics", row.name), row.kind, row.priority)
        if row.name == "stable_rank":
            yield Column("bias |max|", ("bias", "statistics", "abs_max"), "real", 5)
    yield Column("bias std", ("bias", "statistics", "std"), "real", 17)
    yield Column("bias mean", ("bias", "statistics", "mean"), "real", 17)
    yield Column("verdict", ("verdict",), "verdict")


def _spectrum_view(found: Sequence[nodes.Part]) -> Iterator[View]:
    all_rows = [with_tensors(node) for node in found]
    rows = tuple(r for r in all_rows if r["weight"] and r["weight"]["statistics"].get("effective_rank") is not None)
    if rows:
        columns = [Column("part", ("label",), "place"), Column("shape", ("weight", "shape"), "shape")]
        columns += [
            Column(row.title, ("weight", "statistics", row.name), row.kind, row.priority)
            for row in columns_of("spectrum")
        ]
        yield View("spectrum", "spectrum: of the singular values of each weight", tuple(columns), rows)


def _neuron_view(found: Sequence[nodes.Part]) -> Iterator[View]:
    rows = tuple(
        {"part": node["label"], "which": which, **row}
        for node in found
        if "neurons" in node
        for which in KINDS
        for row in node["neurons"][which]
    )
    if rows:
        columns = (
            Column("part", ("part",), "place"),
            Column("which", ("which",), "text"),
            Column("neuron", ("neuron",), "integer"),
            Column("norm", ("norm",), "real"),
            Column("robust z", ("robust_z",), "real"),
        )
        yield View("neurons", "neurons: rows of each weight by their norm", columns, rows)


def _tensor_view(found: Sequence[nodes.Part]) -> View:
    """Every tensor with every statistic: what CSV writes unless another table is named."""
    rows = tuple({"part": node["label"], "verdict": node["verdict"], **t} for node in found for t in node["tensors"])
    columns = [Column("part", ("part",), "text")]
    columns += [Column("name", ("name",), "text"), Column("stored as", ("stored_name",), "text", 99)]
    columns += [Column("dtype", ("dtype",), "text"), Column("shape", ("shape",), "shape")]
    columns += [Column(row.title, ("statistics", row.name), row.kind, _priority(row)) for row in STATISTICS]
    return View("tensors", "tensors", tuple(columns), rows, machine_only=True)


def _everything_view(tensors: Sequence[nodes.AnyTensor]) -> View:
    """Every tensor of a checkpoint in the order of its places."""
    columns = (
        Column("tensor", ("name",), "text"),
        Column("shape", ("shape",), "shape"),
        Column("type", ("stored_as",), "text", 2),
        Column("std", ("statistics", "std"), "real", 1),
        Column("|max|", ("statistics", "abs_max"), "real", 3),
        Column("zeros", ("statistics", "zeros"), "integer", 4),
        Column("not finite", ("statistics", "nonfinite"), "integer", 4),
        Column("stored name", ("stored_name",), "text", 9),
        Column("fingerprint", ("fingerprint",), "digest"),
    )
    return View("all", f"all {len(tensors):,} tensors", columns, tuple(tensors))


def _priority(row: Statistic) -> int:
    """How soon a column leaves the table of all tensors: by its rank there, those of spectra with the last."""
    return min(row.rank, LAST_RANK) if row.rank is not None and row.of != "spectrum" else LAST_RANK
