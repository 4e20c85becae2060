"""The reports of `pool` and `activations`: what the modules put out for a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bertprobe.anatomy import Anatomy, Part
from bertprobe.checkpoint import Checkpoint
from bertprobe.report import Column, Report, View, facts, report_of
from bertprobe.run.collect import (
    SENTENCE,
    VECTORS,
    NeuronStatistics,
    NeuronSums,
    Strongest,
    TextVectors,
    TokenNorms,
    cosines,
    strongest,
)
from bertprobe.stats.numbers import summarize
from bertprobe.verdicts import Finding

if TYPE_CHECKING:
    from bertprobe.export.vectors import VectorFile
    from bertprobe.report import nodes
    from bertprobe.run.captured import Site
    from bertprobe.run.collect import Floats
    from bertprobe.run.runner import Ran
    from bertprobe.verify import Agreement

SATURATED = 0.99


def _beginning(ran: Ran, recipe: str = "") -> dict[str, Any]:
    """What every report of a run begins with: the model, and its facts with those of the run."""
    line = {"recipe": recipe} if recipe else {}
    return {"model": ran.checkpoint.ref, "facts": {**facts(ran.checkpoint, ran.anatomy), **line, **ran.settings}}


def pooling(
    ran: Ran,
    texts: Sequence[str],
    vectors: Sequence[TextVectors],
    findings: Sequence[Finding],
    most: int,
    which: str = "pooled",
    recipe: str = "",
) -> Report:
    """The report of `pool`: each text's tokens and vectors with their statistics, and cosines between the texts.

    `which` of the vectors is told in tables, with its `most` strongest dimensions; the data hold all of them. Of
    sentence vectors the `recipe` is told in a line.
    """
    told = [_text(text, found, most, which) for text, found in zip(texts, vectors, strict=True)]
    similarity: nodes.Similarity = _similarity(vectors) if len(vectors) > 1 else {}
    views = [_vector_view(told, which), _strongest_view(told, which)]
    if similarity:
        views.append(_similarity_view(similarity))
    data = {**_beginning(ran, recipe), "texts": told, "similarity": similarity}
    return report_of(data, views, findings, warn_first=True)


def _text(text: str, vectors: TextVectors, most: int, which: str) -> nodes.Text:
    rows = strongest(getattr(vectors, which), most)
    return {
        "text": text,
        "tokens": list(vectors.tokens),
        "truncated": vectors.truncated,
        "pooled": None if vectors.pooled is None else vector_node(vectors.pooled),
        "cls": vector_node(vectors.cls),
        "mean": vector_node(vectors.mean),
        "sentence": None if vectors.sentence is None else vector_node(vectors.sentence),
        "strongest": [{"dimension": row["neuron"], "value": row["value"]} for row in rows],
    }


def vector_node(values: Floats) -> nodes.Vector:
    """A vector (H,) with its statistics."""
    return {"values": [float(x) for x in values], "statistics": _statistics(values)}


def _statistics(values: Floats) -> nodes.VectorStatistics:
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


def _similarity(vectors: Sequence[TextVectors]) -> nodes.Similarity:
    pooled = [found.pooled for found in vectors if found.pooled is not None]
    sentence = [found.sentence for found in vectors if found.sentence is not None]
    return {
        "pooled": cosines(pooled) if pooled else None,
        "cls": cosines([found.cls for found in vectors]),
        "mean": cosines([found.mean for found in vectors]),
        "sentence": cosines(sentence) if sentence else None,
    }


def _vector_view(texts: Sequence[nodes.Text], kind: str) -> View:
    titles = {
        "pooled": "pooled output of each text",
        "cls": "first token's last hidden state of each text",
        "mean": "mean of the tokens' last hidden states of each text",
        "sentence": "sentence vector of each text, as its recipe makes it",
    }
    columns = [
        Column("text", ("number",), "integer"),
        Column("", ("text",), "text"),
        Column("tokens", ("count",), "integer", 1),
        Column("truncated", ("truncated",), "integer", 1),
    ]
    for priority, name in enumerate(("norm", "mean", "std", "min", "max", "saturated")):
        kind_of = "share" if name == "saturated" else "real"
        columns.append(Column(name, (kind, "statistics", name), kind_of, priority))
    rows = tuple(
        {**node, "number": i, "count": len(node["tokens"]), "truncated": node["truncated"] or None}
        for i, node in enumerate(texts, 1)
    )
    return View("vectors", titles[kind], tuple(columns), rows)


def _strongest_view(texts: Sequence[nodes.Text], kind: str) -> View:
    """Bars go to ±1, where tanh ends; those of other vectors to the largest value."""
    told = [(i, row["dimension"], row["value"]) for i, text in enumerate(texts, 1) for row in text["strongest"]]
    largest = max((abs(value) for _, _, value in told if value is not None), default=0) or 1
    end = 1 if kind == "pooled" else largest
    rows = tuple(
        {"number": i, "dimension": dimension, "value": value, "bar": None if value is None else value / end}
        for i, dimension, value in told
    )
    columns = (
        Column("text", ("number",), "integer"),
        Column("dimension", ("dimension",), "integer"),
        Column("value", ("value",), "real"),
        Column("−1      0      1" if kind == "pooled" else "−       0      +", ("bar",), "bar"),
    )
    return View("strongest", "strongest dimensions", columns, rows)


def _similarity_view(similarity: nodes.Similarity) -> View:
    """A row for each pair of texts, the choices side by side."""
    found = {kind: cosines for kind in (*VECTORS, SENTENCE) if (cosines := similarity[kind]) is not None}
    count = len(similarity["cls"])
    rows = tuple(
        {"a": a + 1, "b": b + 1, **{kind: cosines[a][b] for kind, cosines in found.items()}}
        for a in range(count)
        for b in range(a + 1, count)
    )
    titles = {"pooled": "pooled", "cls": "first token", "mean": "mean of tokens", "sentence": "sentence"}
    columns = [Column("text", ("a",), "integer"), Column("text", ("b",), "integer")]
    columns += [Column(titles[kind], (kind,), "real") for kind in found]
    return View("similarity", "cosine similarity, which depends on the vector you choose", tuple(columns), rows)


def vectors_written(ran: Ran, vectors: VectorFile, findings: Sequence[Finding], recipe: str = "") -> Report:
    """The report of `pool -o`: what was written."""
    path = str(vectors.output.path)
    written = {"path": path, "bytes": vectors.bytes, "name": vectors.name, "shape": [vectors.count, vectors.width]}
    columns = (
        Column("vector", ("name",), "text"),
        Column("shape", ("shape",), "shape"),
        Column("bytes", ("bytes",), "integer"),
    )
    view = View("written", f"written to {path}", columns, (written,))
    return report_of({**_beginning(ran, recipe), "written": written}, [view], findings, warn_first=True)


# ------------------------------------------------------------------------------------------------ activations


@dataclass(frozen=True, slots=True)
class PerToken:
    """What is told of few texts, token by token: the norms for a map, and where asked for the strongest neurons."""

    norms: TokenNorms
    strongest: Strongest | None = None

    @property
    def collectors(self) -> tuple[TokenNorms | Strongest, ...]:
        """What has to listen while the texts run."""
        return (self.norms,) if self.strongest is None else (self.norms, self.strongest)


def activation(
    ran: Ran, statistics: NeuronStatistics, tokens: PerToken | None, findings: Sequence[Finding], most: int
) -> Report:
    """The report of `activations`: what every layer's intermediate put out, and of few texts what for every token."""
    layers = [_layer(ran.anatomy, site, sums, most, statistics.before) for site, sums in statistics.sums.items()]
    rows = list(_token_rows(ran, tokens.strongest)) if tokens is not None and tokens.strongest is not None else []
    heat = _heat(tokens.norms) if tokens is not None and ran.rows_are_tokens else None
    views = [_layer_view(layers, statistics.before), _top_view(layers)]
    if heat is not None:
        views.append(_heat_view(heat, [site.part for site in statistics.sums]))
    if rows:
        views.append(_token_view(rows))
    data = {**_beginning(ran), "layers": layers, "tokens": rows, "heat": heat}
    return report_of(data, views, findings, warn_first=True)


def _layer(anatomy: Anatomy, site: Site, sums: NeuronSums, most: int, before: bool) -> nodes.Layer:
    part = next(p for p in anatomy.parts if p.label == site.part)
    return {
        "label": site.label,
        "layer": part.layer,
        "shapes": _shapes(anatomy, part, sums, before),
        "statistics": layer_statistics(sums),
        "top": _top(sums, most),
    }


def layer_statistics(sums: NeuronSums) -> nodes.LayerStatistics:
    """Statistics of all activations of a layer."""
    return {
        "count": sums.count,
        "mean": sums.mean,
        "std": sums.std,
        "min": float(sums.lowest.min()),
        "max": float(sums.highest.max()),
        "above_zero": float(sums.above.sum() / sums.count),
        "near_zero": float(sums.small.sum() / sums.count),
        "energy_neurons": sums.neurons_for_energy,
        "never_above_zero": sums.never,
    }


def _shapes(anatomy: Anatomy, part: Part, sums: NeuronSums, before: bool) -> str:
    """The shape at every step: `(9, 384) → dense → (9, 1536) → gelu → (9, 1536)`."""
    inner = f"({sums.tokens}, {len(sums.total)})"
    width = part.weight.shape[1] if part.weight is not None and len(part.weight.shape) == 2 else "H"
    steps = [f"({sums.tokens}, {width})", "dense", inner]
    gated = anatomy.of("gate")
    act = part.activation or (f"× {gated[0].activation}(gate)" if gated else "activation")
    return " → ".join(steps if before else [*steps, act, inner])


def _top(sums: NeuronSums, most: int) -> list[nodes.TopNeuron]:
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


def _token_rows(ran: Ran, found: Strongest) -> Iterator[nodes.TokenActivity]:
    """A row for each token of each part; for rows that are not tokens, their position."""
    for site, texts in found.kept.items():
        for number, (rows, names) in enumerate(zip(texts, found.tokens, strict=True), 1):
            for place, neurons in enumerate(rows):
                token = names[place] if ran.rows_are_tokens else f"position {place}"
                yield {"label": site.label, "text": number, "token": token, "strongest": neurons}


def _heat(found: TokenNorms) -> nodes.Heat:
    """Root mean square of each token's activations in each layer, for a map of layers × tokens."""
    return {
        "layers": [site.label for site in found.kept],
        "tokens": [token for text in found.tokens for token in text],
        "rms": [[float(x) for text in texts for x in text] for texts in found.kept.values()],
    }


def _layer_view(layers: Sequence[nodes.Layer], pre: bool) -> View:
    columns = [Column("layer", ("label",), "place")]
    names = (("mean", "mean", "real"), ("std", "std", "real"), ("max", "max", "real"), ("above_zero", "> 0", "share"),
             ("near_zero", "|a| < 0.01", "share"), ("energy_neurons", "90 % energy", "integer"), ("min", "min", "real"),
             ("never_above_zero", "never > 0", "integer"))  # fmt: skip
    columns += [Column(title, ("statistics", name), kind, i) for i, (name, title, kind) in enumerate(names)]
    shape = layers[0]["shapes"] if layers else ""
    return View(
        "layers", f"intermediate{' before the activation' if pre else ''}: {shape}", tuple(columns), tuple(layers)
    )


def _top_view(layers: Sequence[nodes.Layer]) -> View:
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


def _heat_view(heat: nodes.Heat, parts: Sequence[str]) -> View:
    """One row a token, one shade a layer: readable without colour."""
    rows = tuple({"token": token, "cells": [row[i] for row in heat["rms"]]} for i, token in enumerate(heat["tokens"]))
    columns = (Column("token", ("token",), "text"), Column(_layer_numbers(parts), ("cells",), "heat"))
    return View(
        "heat",
        "root mean square of each token's activations, layer by layer; shades go by its square root",
        columns,
        rows,
    )


def _layer_numbers(parts: Sequence[str]) -> str:
    """The layers' numbers over their shades, each of which is two places wide."""
    numbers = [part.rpartition(".")[2] for part in parts]
    step = max(map(len, numbers))  # of two digits only every second has room
    return "".join(f"{number:<{2 * step}}" for number in numbers[::step]).rstrip()


def _token_view(rows: Sequence[nodes.TokenActivity]) -> View:
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


def _within(found: Agreement) -> str | None:
    """Whether a part's numbers agree, None where nothing was there to compare them with."""
    if found.theirs is None and found.alone is None and not found.ours:
        return None
    return "yes" if found.holds else "NO"


def verification(
    checkpoint: Checkpoint, anatomy: Anatomy, agreements: Sequence[Agreement], texts: Sequence[str]
) -> Report:
    """The report of `verify`: for every part how far ours are from transformers', and the limit."""
    rows: list[nodes.Agreement] = [
        {
            "part": found.part,
            "numpy": found.ours.get("numpy"),
            "torch": found.ours.get("torch"),
            "alone": found.alone,
            "batch": found.batch,
            "transformers_error": found.theirs,
            "largest_value": found.size,
            "limit": found.limit,
            "within": _within(found),
        }
        for found in agreements
    ]
    data = {
        "model": checkpoint.ref,
        "facts": facts(checkpoint, anatomy),
        "texts": list(texts),
        "parts": rows,
        "holds": all(found.holds for found in agreements),
    }
    columns = (
        Column("part", ("part",), "place"),
        Column("numpy", ("numpy",), "real", 1),
        Column("torch", ("torch",), "real", 1),
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
    if any(found.theirs is None for found in agreements):
        title = "transformers cannot repeat this in float64: its own float32 error is not known"
    return report_of(data, [View("parts", title, columns, tuple(rows))])
