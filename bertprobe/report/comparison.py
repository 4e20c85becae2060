"""The reports of `diff` and `graft`: what two checkpoints differ in, and what was put into which."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bertprobe.anatomy import Part, spans
from bertprobe.checkpoint import TensorHeader
from bertprobe.compare import Comparison, Pair, Side
from bertprobe.compare.rules import judge
from bertprobe.report import Column, Report, View, facts, report_of, with_tensors
from bertprobe.verdicts import verdict

if TYPE_CHECKING:
    from bertprobe.compare.delta import Delta, Neuron
    from bertprobe.compare.texts import TextComparison, TextDistances, VectorDistance
    from bertprobe.export.graft import Grafted
    from bertprobe.report import nodes

PIECES = ("attention", "intermediate", "output")


def comparison(found: Comparison, tolerance: float = 0.0, *, whole: bool = True) -> Report:
    """The report of `diff`: both models' facts, parts, other tensors, what only one has, texts, findings.

    `tolerance` is the share of its norm by which a tensor may differ; `whole` is false where only headers were read.
    """
    parts = list(_parts(found))
    in_parts = {tensor["name"] for part in parts for tensor in part["tensors"]}
    findings = judge(found)
    beyond = found.beyond(tolerance)
    places = list(_places(found)) if whole and found.labels is None and found.pairs else []
    elsewhere = [_tensor(pair) for pair in found.pairs if pair.name not in in_parts]
    texts = None if found.moved is None else _texts(found.moved)
    data = {
        "a": _side(found.a),
        "b": _side(found.b),
        "summary": {
            "tensors": len(found.pairs),
            "identical": sum(d.identical for _, d in found.compared) if whole else None,
            "apart": len({*found.reshaped, *found.only_a, *found.only_b}),
            "tolerance": tolerance,
            "further": sum(d.exceeds(tolerance) for _, d in found.compared),
            "within": not beyond if whole else found.fits,
            "beyond": list(beyond),
        },
        "parts": parts,
        "elsewhere": elsewhere,
        "places": places,
        "apart": _apart(found),
        "settings": [row._asdict() for row in found.settings],
        "texts": texts,
    }
    views = [*_part_views(parts, whole), *_place_view(places), *_apart_view(found), *_settings_view(found)]
    views += [*_text_views(texts), _tensor_view(parts, elsewhere), *_neuron_view(parts)]
    return report_of(data, views, findings, say_none=True)


def _side(of: Side) -> nodes.Side:
    return {"model": of.checkpoint.ref, "facts": facts(of.checkpoint, of.anatomy)}


def grafting(found: Grafted) -> Report:
    """The report of `graft`: what was taken from the donor, the files written, and what there is to know about it."""
    tensors = [{**asdict(tensor), "source": tensor.source} for tensor in found.tensors]
    written = [{"name": name, "bytes": size} for name, size in found.files.items()]
    data = {
        "donor": _side(found.donor),
        "recipient": _side(found.recipient),
        "written": {
            "path": found.path,
            "files": written,
            "metadata": dict(found.metadata),
            "tensors": tensors,
        },
    }
    columns = (
        Column("tensor", ("name",), "text"),
        Column("from", ("source",), "text"),
        Column("shape", ("shape",), "shape"),
        Column("dtype", ("dtype",), "text"),
        Column("was", ("stored_dtype",), "text", 1),
    )
    new = tuple(tensor for tensor in tensors if tensor["source"] == "donor")
    kept = len(tensors) - len(new)
    title = f"put into {found.path}, beside {kept:,} tensors of the recipient"
    files = (Column("file", ("name",), "text"), Column("bytes", ("bytes",), "integer"))
    views = [
        View("grafted", title, columns, new),
        View("files", "files", files, tuple(written)),
        View("tensors", "tensors", columns, tuple(tensors), machine_only=True),
    ]
    return report_of(data, views, found.findings)


# ------------------------------------------------------------------------------------------------ nodes


def _parts(found: Comparison) -> Iterator[nodes.ComparedPart]:
    """A node for each part that one of the two has."""
    pairs = {pair.name: pair for pair in found.pairs}
    sides = [{part.label: part for part in of.anatomy.parts} for of in (found.a, found.b)]
    for label in dict.fromkeys([*sides[0], *sides[1]]):
        if found.labels is not None and label not in found.labels:
            continue
        one, other = (side.get(label) for side in sides)
        part = one or other
        if part is None:
            continue
        names = dict.fromkeys([*(one.tensors if one else ()), *(other.tensors if other else ())])
        own = [pairs[name] for name in names if name in pairs]
        weight = next((pair for pair in own if pair.name == part.weight_name), None)
        words: nodes.PoolerVerdicts = {}
        if part.role == "pooler":
            words = {"verdict_a": _word(found, "a"), "verdict_b": _word(found, "b")}
        yield {
            "label": label,
            "role": part.role,
            "layer": part.layer,
            "stack": part.stack,
            "index": part.index,
            "result": _result(one, other, own),
            **words,
            "shape_a": _weight_shape(one),
            "shape_b": _weight_shape(other),
            "tensors": [_tensor(pair) for pair in own],
            "neurons": [] if weight is None or weight.delta is None else [_neuron(n) for n in weight.delta.neurons],
        }


def _neuron(found: Neuron) -> nodes.ChangedNeuron:
    return {"neuron": found.neuron, "distance": found.distance, "change": found.change}


def _weight_shape(part: Part | None) -> list[int] | None:
    return None if part is None or part.weight is None else list(part.weight.shape)


def _result(a: Part | None, b: Part | None, pairs: Sequence[Pair]) -> str:
    """What became of a part, in a word or three."""
    if a is None or b is None:
        return "only in B" if a is None else "only in A"
    if _weight_shape(a) != _weight_shape(b):
        return "other shape"
    if not pairs:
        return "other names"
    deltas = [pair.delta for pair in pairs if pair.delta is not None]
    if not deltas:
        return "same shape"
    if all(found.identical for found in deltas):
        return "identical"
    if all(found.is_same for found in deltas):
        dtypes = {found.rounding for found in deltas if not found.identical}
        return f"rounded to {' and '.join(sorted(str(dtype) for dtype in dtypes))}"
    if any(found.is_low_rank for found in deltas):
        return f"rank {max(found.rank or 0 for found in deltas if found.is_low_rank)} added"
    return "changed"


def _word(found: Comparison, which: str) -> str | None:
    evidence = found.evidence(which)
    return None if evidence.anatomy.pooler is None else verdict(evidence, evidence.anatomy.pooler)


def _tensor(pair: Pair) -> nodes.ComparedTensor:
    found = pair.delta
    return {
        "name": pair.name,
        "place": pair.place.label,
        "piece": pair.place.piece,
        "shape": [pair.rows, *pair.a.shape[1:]] if pair.rows is not None else list(pair.a.shape),
        "rows": pair.rows,
        "dtype_a": pair.a.dtype,
        "dtype_b": pair.b.dtype,
        "stored_as_a": pair.a.stored_as,
        "stored_as_b": pair.b.stored_as,
        "stored_name_a": pair.a.name,
        "stored_name_b": pair.b.name,
        "difference": None if found is None else _difference(found),
    }


def _difference(found: Delta) -> nodes.Difference:
    return {
        "identical": found.identical,
        "changed": found.changed,
        "nonfinite_mismatch": found.nonfinite_mismatch,
        "change": found.change,
        "cosine": found.cosine,
        "norm": found.norm,
        "distance": found.distance,
        "largest": found.largest,
        "place": None if found.place is None else list(found.place),
        "rounding": found.rounding,
        "rounded": found.rounded or None,
        "steps": found.steps,
        "rank": found.rank,
        "full_rank": found.full_rank,
        "explained": found.explained,
        "effective_rank": found.effective_rank,
    }


def _places(found: Comparison) -> Iterator[nodes.Place]:
    """A node for each layer and end of the model: its tensors, and how far it moved as a whole and piece by piece."""
    places: dict[str, list[Pair]] = {}
    for pair in sorted(found.pairs, key=_outline):
        places.setdefault(pair.place.label, []).append(pair)
    for label, pairs in places.items():
        pieces = {
            piece: _together(p.delta for p in pairs if p.delta is not None and p.place.piece == piece)
            for piece in PIECES
        }
        deltas = [pair.delta for pair in pairs if pair.delta is not None]
        yield {
            "place": label,
            "tensors": len(pairs),
            "identical": sum(d.identical for d in deltas),
            "change": _together(deltas),
            "attention": pieces["attention"],
            "intermediate": pieces["intermediate"],
            "output": pieces["output"],
        }


def _outline(pair: Pair) -> tuple[int, int]:
    ends = {"embeddings": 0, "pooler": 2, "heads": 3}
    return (1, pair.place.layer) if pair.place.layer is not None else (ends.get(pair.place.piece, 3), 0)


def _together(deltas: Iterable[Delta]) -> float | None:
    """‖Δ‖ / ‖A‖ over several tensors; integers have no part in it."""
    measured = [(d.norm, d.distance) for d in deltas if d.norm is not None and d.distance is not None]
    norm, distance = (sum(pair[i] ** 2 for pair in measured) ** 0.5 for i in (0, 1))
    return distance / norm if norm else (0.0 if measured and not distance else None)


def _apart(found: Comparison) -> nodes.Apart:
    def only(headers: Mapping[str, TensorHeader]) -> list[nodes.Lone]:
        return [{"name": name, "dtype": h.dtype, "shape": list(h.shape)} for name, h in headers.items()]

    reshaped: list[nodes.Reshaped] = [
        {"name": n, "a": list(a.shape), "b": list(b.shape)} for n, (a, b) in found.reshaped.items()
    ]
    return {"reshaped": reshaped, "only_a": only(found.only_a), "only_b": only(found.only_b)}


def _distance(found: VectorDistance) -> nodes.Distance:
    return {"change": found.change, "cosine": found.cosine}


def _texts(moved: TextComparison) -> nodes.MovedTexts:
    def node(text: TextDistances) -> nodes.MovedText:
        pooled, cls, mean = (
            None if (move := text.vectors[kind]) is None else _distance(move) for kind in ("pooled", "cls", "mean")
        )
        return {"text": text.text, "tokens": list(text.tokens), "pooled": pooled, "cls": cls, "mean": mean}

    return {
        "texts": [node(text) for text in moved.texts],
        "activations": [{"label": label, **_distance(move)} for label, move in moved.activations.items()],
        "unlike": moved.unlike or None,
        "notes": list(moved.notes),
    }


# ------------------------------------------------------------------------------------------------ views


def _part_views(parts: Sequence[nodes.ComparedPart], whole: bool) -> Iterator[View]:
    for name, roles in (("intermediate", ("gate", "intermediate")), ("pooler", ("pooler",))):
        rows = tuple(_part_row(part) for part in parts if part["role"] in roles)
        if rows:
            title = f"{name}: Δ = B − A of the weight" if whole else f"{name}: shapes of the weight"
            yield View(name, title, tuple(_part_columns(name, rows, whole)), rows)


def _part_row(part: nodes.ComparedPart) -> dict[str, Any]:
    """A part as a row of a table, with the neuron alone that changed most."""
    return {**with_tensors(part), "neurons": next(iter(part["neurons"]), None)}


def _part_columns(name: str, rows: Sequence[Mapping[str, Any]], whole: bool) -> Iterator[Column]:
    yield Column("layer" if name == "intermediate" else "part", ("label",), "place")
    if not whole or any(row["shape_a"] != row["shape_b"] for row in rows):
        yield Column("in A", ("shape_a",), "shape", 1)
        yield Column("in B", ("shape_b",), "shape", 1)
    of = ("weight", "difference")
    yield Column("‖Δ‖/‖A‖", (*of, "change"), "real")
    yield Column("cosine", (*of, "cosine"), "real", 1)
    yield Column("largest", (*of, "largest"), "real", 3)
    yield Column("eff. rank", (*of, "effective_rank"), "real", 2)
    yield Column("rank", (*of, "rank"), "integer", 2)
    yield Column("neuron", ("neurons", "neuron"), "integer", 4)
    yield Column("its change", ("neurons", "change"), "real", 5)
    yield Column("bias", ("bias", "difference", "change"), "real", 6)
    if name == "pooler":
        yield Column("A", ("verdict_a",), "verdict")
        yield Column("B", ("verdict_b",), "verdict")
    yield Column("result", ("result",), "text")


def _place_view(places: Sequence[nodes.Place]) -> Iterator[View]:
    if places:
        columns = [Column("", ("place",), "place"), Column("tensors", ("tensors",), "integer")]
        columns += [Column("identical", ("identical",), "integer"), Column("‖Δ‖/‖A‖", ("change",), "real")]
        columns += [Column(piece, (piece,), "real", i) for i, piece in enumerate(PIECES, 1)]
        yield View("places", "the whole model, place by place", tuple(columns), tuple(places))


def _neuron_view(parts: Sequence[nodes.ComparedPart]) -> Iterator[View]:
    rows = tuple({"label": part["label"], **neuron} for part in parts for neuron in part["neurons"])
    if rows:
        columns = (
            Column("part", ("label",), "place"),
            Column("neuron", ("neuron",), "integer"),
            Column("‖Δ‖/‖A‖", ("change",), "real"),
            Column("‖Δ‖", ("distance",), "real"),
        )
        yield View("neurons", "neurons that changed most, for the size of their row", columns, rows, machine_only=True)


def _apart_view(found: Comparison) -> Iterator[View]:
    """What one of the two lacks or has in another shape: a row a module, the same module of many layers one row."""
    entries = [(name, _shape(a), _shape(b)) for name, (a, b) in found.reshaped.items()]
    entries += [(name, _shape(header), "–") for name, header in found.only_a.items()]
    entries += [(name, "–", _shape(header)) for name, header in found.only_b.items()]
    weights = {name.removesuffix(".weight") for name, _, _ in entries if name.endswith(".weight")}
    rows: dict[tuple[str, str, str], list[int]] = {}
    for name, a, b in entries:
        module, _, kind = name.rpartition(".")
        if kind == "bias" and module in weights:
            continue
        shown = module if kind == "weight" else name
        match = re.search(r"(?<=\.)\d{1,9}(?=\.)", shown)
        key = shown if match is None else f"{shown[: match.start()]}N{shown[match.end() :]}"
        rows.setdefault((key, a, b), []).extend([] if match is None else [int(match[0])])
    if rows:
        columns = (
            Column("weight of", ("name",), "text"),
            Column("N", ("layers",), "text", 1),
            Column("in A", ("a",), "text"),
            Column("in B", ("b",), "text"),
        )
        nodes = tuple(
            {"name": name, "layers": spans(sorted(layers)) or None, "a": a, "b": b}
            for (name, a, b), layers in rows.items()
        )
        yield View("apart", "not in both, or in other shapes", columns, nodes)


def _settings_view(found: Comparison) -> Iterator[View]:
    if found.settings:
        columns = (
            Column("setting", ("setting",), "text"),
            Column("in A", ("a",), "text"),
            Column("in B", ("b",), "text"),
        )
        rows = tuple({"setting": row.setting, "a": row.a or "none", "b": row.b or "none"} for row in found.settings)
        yield View("settings", "settings beside the weights that differ", columns, rows)


def _shape(header: TensorHeader) -> str:
    return "×".join(map(str, header.shape)) or "scalar"


def _text_views(texts: nodes.MovedTexts | None) -> Iterator[View]:
    if texts is None:
        return
    columns = [Column("text", ("number",), "integer"), Column("", ("text",), "text")]
    for i, (kind, title) in enumerate((("pooled", "pooled"), ("cls", "first"), ("mean", "mean"))):
        columns.append(Column(f"{title} ‖Δ‖/‖a‖", (kind, "change"), "real", 3 + i))
        columns.append(Column(f"{title} cosine", (kind, "cosine"), "real", i))
    rows = tuple({**row, "number": i} for i, row in enumerate(texts["texts"], 1))
    yield View("texts", "how far each text's vectors moved", tuple(columns), rows)
    if texts["activations"]:
        columns = [Column("layer", ("label",), "place"), Column("‖Δ‖/‖a‖", ("change",), "real")]
        columns.append(Column("cosine", ("cosine",), "real"))
        title = "how far the activations moved, all tokens together"
        yield View("activations", title, tuple(columns), tuple(texts["activations"]))


_OF_A_TENSOR = (
    ("identical", "flag", 0),
    ("changed", "integer", 5),
    ("nonfinite_mismatch", "integer", 4),
    ("change", "real", 0),
    ("cosine", "real", 1),
    ("largest", "real", 6),
    ("rounding", "text", 8),
    ("rank", "integer", 9),
    ("effective_rank", "real", 10),
)  # name, kind and priority of a column


def _tensor_view(parts: Sequence[nodes.ComparedPart], elsewhere: Sequence[nodes.ComparedTensor]) -> View:
    rows = [*(tensor for part in parts for tensor in part["tensors"]), *elsewhere]
    columns = [
        Column("tensor", ("name",), "text"),
        Column("place", ("place",), "text", 3),
        Column("shape", ("shape",), "shape", 2),
        Column("dtype A", ("dtype_a",), "text", 7),
        Column("dtype B", ("dtype_b",), "text", 7),
        *(Column(name, ("difference", name), kind, priority) for name, kind, priority in _OF_A_TENSOR),
    ]
    return View("tensors", "tensors", tuple(columns), tuple(rows), machine_only=True)
