"""The reports of `pool` and `activations`: what the modules put out for a text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bertprobe._version import __version__
from bertprobe.activations import Firing, Runner, TextVectors, Watch, cosines, settings_of, strongest
from bertprobe.anatomy import Anatomy, Part
from bertprobe.checkpoint import Checkpoint
from bertprobe.report import Column, Report, View, facts, finding_view
from bertprobe.stats.numbers import summarize
from bertprobe.verdicts import Finding

if TYPE_CHECKING:
    from bertprobe.export.vectors import VectorFile
    from bertprobe.verify import Agreement

SATURATED = 0.99
KINDS = ("pooled", "cls", "mean")


def base(runner: Runner, findings: Sequence[Finding]) -> dict[str, Any]:
    """What every report of a run carries: model, facts with those of the run, findings, version."""
    return {
        "model": runner.checkpoint.ref,
        "facts": {**facts(runner.checkpoint, runner.anatomy), **settings_of(runner)},
        "findings": [asdict(finding) for finding in findings],
        "version": __version__,
    }


def pooling(
    runner: Runner,
    texts: Sequence[str],
    vectors: Sequence[TextVectors],
    findings: Sequence[Finding],
    most: int,
    which: str = "pooled",
) -> Report:
    """The report of `pool`: each text's tokens and vectors with their statistics, and cosines between the texts.

    `which` of the three vectors is told in tables, with its `most` strongest dimensions; the data hold all of them.
    """
    nodes = [_text(texts[v.place], v, most, which) for v in sorted(vectors, key=lambda v: v.place)]
    common = base(runner, findings)
    ordered = sorted(vectors, key=lambda v: v.place)
    data = {
        "model": common["model"],
        "facts": common["facts"],
        "texts": nodes,
        "similarity": _similarity(ordered) if len(ordered) > 1 else {},
        "findings": common["findings"],
        "version": common["version"],
    }
    views = [finding_view(data["findings"])] if findings else []
    views += [_vector_view(nodes, which), _strongest_view(nodes, which)]
    if data["similarity"]:
        views.append(_similarity_view(data["similarity"]))
    return Report(data, tuple(views), tuple(findings))


def _text(text: str, vectors: TextVectors, most: int, which: str) -> dict[str, Any]:
    node: dict[str, Any] = {"text": text, "tokens": list(vectors.tokens), "cut": vectors.cut}
    for kind in KINDS:
        values = getattr(vectors, kind)
        node[kind] = (
            None if values is None else {"values": [float(x) for x in values], "statistics": _statistics(values)}
        )
    rows = strongest(getattr(vectors, which), most)
    node["strongest"] = [{"dimension": row["neuron"], "value": row["value"]} for row in rows]
    return node


def _statistics(values: Any) -> dict[str, float | None]:
    """Statistics of one vector, all None where an entry is NaN or infinite: those of the rest would not be its own."""
    summary = summarize(values)
    whole = summary.nonfinite == 0
    return {
        "norm": summary.l2 if whole else None,
        "mean": summary.mean if whole else None,
        "std": summary.std if whole else None,
        "min": summary.min if whole else None,
        "max": summary.max if whole else None,
        "saturated": float((abs(values) > SATURATED).mean()) if whole else None,
    }


def _similarity(vectors: Sequence[TextVectors]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in KINDS:
        rows = [getattr(v, kind) for v in vectors]
        found[kind] = None if rows[0] is None else cosines(rows)
    return found


def _vector_view(nodes: Sequence[Mapping[str, Any]], kind: str) -> View:
    titles = {
        "pooled": "pooled output of each text",
        "cls": "first token's last hidden state of each text",
        "mean": "mean of the tokens' last hidden states of each text",
    }
    columns = [
        Column("text", ("number",), "integer"),
        Column("", ("text",), "text"),
        Column("tokens", ("count",), "integer", 1),
        Column("cut off", ("left_out",), "integer", 1),
    ]
    for priority, name in enumerate(("norm", "mean", "std", "min", "max", "saturated")):
        kind_of = "share" if name == "saturated" else "real"
        columns.append(Column(name, (kind, "statistics", name), kind_of, priority))
    rows = tuple(
        {**node, "number": i, "count": len(node["tokens"]), "left_out": node["cut"] or None}
        for i, node in enumerate(nodes, 1)
    )
    return View("vectors", titles[kind], tuple(columns), rows)


def _strongest_view(nodes: Sequence[Mapping[str, Any]], kind: str) -> View:
    """Bars go to ±1, where tanh ends; those of other vectors to the largest value."""
    largest = max((abs(row["value"]) for node in nodes for row in node["strongest"]), default=0) or 1
    end = 1 if kind == "pooled" else largest
    rows = tuple(
        {"number": i, **row, "bar": row["value"] / end} for i, node in enumerate(nodes, 1) for row in node["strongest"]
    )
    columns = (
        Column("text", ("number",), "integer"),
        Column("dimension", ("dimension",), "integer"),
        Column("value", ("value",), "real"),
        Column("−1      0      1" if kind == "pooled" else "−       0      +", ("bar",), "bar"),
    )
    return View("strongest", "strongest dimensions", columns, rows)


def _similarity_view(similarity: Mapping[str, Any]) -> View:
    """A row for each pair of texts, the three choices side by side."""
    kinds = [kind for kind in KINDS if similarity[kind] is not None]
    count = len(similarity["cls"])
    rows = tuple(
        {"a": a + 1, "b": b + 1, **{kind: similarity[kind][a][b] for kind in kinds}}
        for a in range(count)
        for b in range(a + 1, count)
    )
    titles = {"pooled": "pooled", "cls": "first token", "mean": "mean of tokens"}
    columns = [Column("text", ("a",), "integer"), Column("text", ("b",), "integer")]
    columns += [Column(titles[kind], (kind,), "real") for kind in kinds]
    return View("similarity", "cosine similarity, which depends on the vector you choose", tuple(columns), rows)


def vectors_written(runner: Runner, vectors: VectorFile, findings: Sequence[Finding]) -> Report:
    """The report of `pool -o`: what was written."""
    common = base(runner, findings)
    path = str(vectors.output.path)
    written = {"path": path, "bytes": vectors.bytes, "name": vectors.name, "shape": [vectors.count, vectors.width]}
    data = {
        "model": common["model"],
        "facts": common["facts"],
        "written": written,
        "findings": common["findings"],
        "version": common["version"],
    }
    columns = (
        Column("vector", ("name",), "text"),
        Column("shape", ("shape",), "shape"),
        Column("bytes", ("bytes",), "integer"),
    )
    views = [finding_view(data["findings"])] if findings else []
    views.append(View("written", f"written to {path}", columns, (written,)))
    return Report(data, tuple(views), tuple(findings))


# ------------------------------------------------------------------------------------------------ activations


def activation(
    runner: Runner, seen: Watch, tokens: Sequence[Sequence[str]], findings: Sequence[Finding], most: int, *, each: bool
) -> Report:
    """The report of `activations`: what every layer's intermediate put out, and with `each` what for every token.

    `tokens` are those of the texts whose matrices were kept, in the order of the input; empty where only sums were.
    """
    common = base(runner, findings)
    layers = [_layer(runner, label, sums, most, seen.pre) for label, sums in seen.sums.items()]
    rows = list(_token_rows(runner, seen, tokens, most)) if each else []
    heat = _heat(seen, tokens) if tokens and runner.engine.rows_are_tokens else None
    data = {
        "model": common["model"],
        "facts": common["facts"],
        "layers": layers,
        "tokens": rows,
        "heat": heat,
        "findings": common["findings"],
        "version": common["version"],
    }
    views = [finding_view(data["findings"])] if findings else []
    views += [_layer_view(layers, seen.pre), _top_view(layers)]
    if heat is not None:
        views.append(_heat_view(heat))
    if rows:
        views.append(_token_view(rows))
    return Report(data, tuple(views), tuple(findings))


def _layer(runner: Runner, label: str, sums: Firing, most: int, pre: bool) -> dict[str, Any]:
    part = next(p for p in runner.anatomy.parts if p.label == label.partition(" ")[0])
    return {
        "label": label,
        "layer": part.layer,
        "shapes": _shapes(runner, part, sums, pre),
        "statistics": {
            "count": sums.count,
            "mean": sums.mean,
            "std": sums.std,
            "min": float(sums.lowest.min()),
            "max": float(sums.highest.max()),
            "above_zero": float(sums.above.sum() / sums.count),
            "near_zero": float(sums.small.sum() / sums.count),
            "energy_neurons": sums.neurons_for_energy,
            "never_above_zero": sums.never,
        },
        "top": _top(sums, most),
    }


def _shapes(runner: Runner, part: Part, sums: Firing, pre: bool) -> str:
    """The shape at every step: `(9, 384) → dense → (9, 1536) → gelu → (9, 1536)`."""
    inner = f"({sums.tokens}, {len(sums.total)})"
    width = part.weight.shape[1] if part.weight is not None and len(part.weight.shape) == 2 else "H"
    steps = [f"({sums.tokens}, {width})", "dense", inner]
    gated = runner.anatomy.of("gate")
    act = part.activation or (f"× {gated[0].activation}(gate)" if gated else "activation")
    return " → ".join(steps if pre else [*steps, act, inner])


def _top(sums: Firing, most: int) -> list[dict[str, Any]]:
    """The neurons of most energy over the text: mean, largest value, share of tokens above zero."""
    import numpy as np

    order = np.argsort(-sums.squares, kind="stable")[:most]
    return [
        {
            "neuron": int(i),
            "rms": float(np.sqrt(sums.squares[i] / sums.tokens)),
            "mean": float(sums.total[i] / sums.tokens),
            "max": float(sums.highest[i]),
            "above_zero": float(sums.above[i] / sums.tokens),
        }
        for i in order
    ]


def _token_rows(runner: Runner, seen: Watch, tokens: Sequence[Sequence[str]], most: int) -> Iterator[dict[str, Any]]:
    """A row for each token of each part; for rows that are not tokens, their position."""
    for label, texts in seen.kept.items():
        for number, (matrix, names) in enumerate(zip(texts, tokens, strict=True), 1):
            for place, row in enumerate(matrix):
                token = names[place] if runner.engine.rows_are_tokens else f"position {place}"
                yield {"label": label, "text": number, "token": token, "strongest": strongest(row, most)}


def _heat(seen: Watch, tokens: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Root mean square of each token's activations in each layer, for a map of layers × tokens."""
    import numpy as np

    kept = {label: np.concatenate(texts) for label, texts in seen.kept.items()}
    return {
        "layers": list(kept),
        "tokens": [token for text in tokens for token in text],
        "rms": [[float(x) for x in np.sqrt(np.square(m, dtype=np.float64).mean(1))] for m in kept.values()],
    }


def _layer_view(layers: Sequence[Mapping[str, Any]], pre: bool) -> View:
    columns = [Column("layer", ("label",), "place")]
    names = (("mean", "mean", "real"), ("std", "std", "real"), ("max", "max", "real"), ("above_zero", "> 0", "share"),
             ("near_zero", "|a| < 0.01", "share"), ("energy_neurons", "90 % energy", "integer"), ("min", "min", "real"),
             ("never_above_zero", "never > 0", "integer"))  # fmt: skip
    columns += [Column(title, ("statistics", name), kind, i) for i, (name, title, kind) in enumerate(names)]
    shape = layers[0]["shapes"] if layers else ""
    return View(
        "layers", f"intermediate{' before the activation' if pre else ''}: {shape}", tuple(columns), tuple(layers)
    )


def _top_view(layers: Sequence[Mapping[str, Any]]) -> View:
    rows = tuple({"label": layer["label"], **row} for layer in layers for row in layer["top"])
    columns = (
        Column("layer", ("label",), "place"),
        Column("neuron", ("neuron",), "integer"),
        Column("rms", ("rms",), "real"),
        Column("mean", ("mean",), "real", 1),
        Column("max", ("max",), "real"),
        Column("> 0", ("above_zero",), "share", 2),
    )
    return View("top", "neurons of most energy over the text", columns, rows)


def _heat_view(heat: Mapping[str, Any]) -> View:
    """One row a token, one shade a layer: readable without colour."""
    rows = tuple({"token": token, "cells": [row[i] for row in heat["rms"]]} for i, token in enumerate(heat["tokens"]))
    columns = (Column("token", ("token",), "text"), Column(_layer_numbers(heat["layers"]), ("cells",), "heat"))
    return View(
        "heat",
        "root mean square of each token's activations, layer by layer; shades go by its square root",
        columns,
        rows,
    )


def _layer_numbers(labels: Sequence[str]) -> str:
    """The layers' numbers over their shades, each of which is two places wide."""
    numbers = [label.partition(" ")[0].rpartition(".")[2] for label in labels]
    step = max(map(len, numbers))  # of two digits only every second has room
    return "".join(f"{number:<{2 * step}}" for number in numbers[::step]).rstrip()


def _token_view(rows: Sequence[Mapping[str, Any]]) -> View:
    flat = tuple(
        {**row, "neurons": ", ".join(f"{item['neuron']} ({item['value']:+.2f})" for item in row["strongest"])}
        for row in rows
    )
    columns = (
        Column("layer", ("label",), "place"),
        Column("text", ("text",), "integer", 1),
        Column("token", ("token",), "text"),
        Column("strongest neurons", ("neurons",), "text"),
    )
    return View("tokens", "strongest neurons of each token", columns, flat)


# ------------------------------------------------------------------------------------------------ verify


def verification(
    checkpoint: Checkpoint, anatomy: Anatomy, agreements: Sequence[Agreement], texts: Sequence[str]
) -> Report:
    """The report of `verify`: for every part how far ours are from transformers', and the limit."""
    rows = [
        {
            "part": found.part,
            "numpy": found.ours.get("numpy"),
            "torch": found.ours.get("torch"),
            "onednn": found.ours.get("onednn"),
            "alone": found.alone,
            "batch": found.batch,
            "transformers_error": found.theirs,
            "largest_value": found.size,
            "limit": found.limit,
            "within": "yes" if found.holds else "NO",
        }
        for found in agreements
    ]
    data = {
        "model": checkpoint.ref,
        "facts": facts(checkpoint, anatomy),
        "texts": list(texts),
        "parts": rows,
        "holds": all(found.holds for found in agreements),
        "findings": [],
        "version": __version__,
    }
    columns = (
        Column("part", ("part",), "place"),
        Column("numpy", ("numpy",), "real", 1),
        Column("torch", ("torch",), "real", 1),
        Column("onednn", ("onednn",), "real", 1),
        Column("alone", ("alone",), "real", 3),
        Column("batch", ("batch",), "real", 2),
        Column("theirs", ("transformers_error",), "real", 1),
        Column("limit", ("limit",), "real", 1),
        Column("max |x|", ("largest_value",), "real", 4),
        Column("within", ("within",), "text"),
    )
    title = "largest difference to transformers' float32, and theirs to float64"
    if not any(found.ours for found in agreements):
        title = "this family runs through transformers itself: its own float32 error against float64"
    return Report(data, (View("parts", title, columns, tuple(rows)),))
