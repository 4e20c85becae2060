"""What ablation changed: views and data that the reports of `pool` and `activations` get beside their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bertprobe.report import Column, Report, View
from bertprobe.report.text import layer_statistics, vector_node

if TYPE_CHECKING:
    from bertprobe.report import nodes
    from bertprobe.run.ablation import Ablation
    from bertprobe.run.beside import Changes, ChangeSums
    from bertprobe.run.captured import Site
    from bertprobe.run.collect import Floats, NeuronStatistics, TextVectors


def ablation_node(ablation: Ablation) -> nodes.Ablation:
    """Which neurons were taken out, and what they put out instead, as the JSON has it."""
    return {
        "neurons": ablation.name,
        "count": ablation.count,
        "to": ablation.to,
        "means": None if ablation.values is None else ablation.source,
    }


def with_ablation(report: Report, ablation: Ablation | None) -> Report:
    """A report of what was written of an ablated model, which says so in its data and titles; another as it is."""
    if ablation is None:
        return report
    views = tuple(replace(view, title=f"{view.title}; ablated: {ablation.told}") for view in report.views)
    return replace(with_data(report, {"ablation": ablation_node(ablation)}), views=views)


def with_data(report: Report, more: Mapping[str, Any]) -> Report:
    """A report with more data, before the findings and the version that all end with."""
    own = {key: value for key, value in report.data.items() if key not in ("findings", "version")}
    end = {key: report.data[key] for key in ("findings", "version")}
    return replace(report, data={**own, **more, **end})


def _with_views(report: Report, after: str, views: Sequence[View], titled: Sequence[str]) -> Report:
    """A report with further views behind one of its own; those in `titled` say that they are of the ablated model."""
    at = next(number for number, view in enumerate(report.views) if view.name == after) + 1
    own = [replace(v, title=f"ablated: {v.title}") if v.name in titled else v for v in report.views]
    return replace(report, views=(*own[:at], *(view for view in views if view.rows), *own[at:]))


# ------------------------------------------------------------------------------------------------ pool


def pooling_beside(
    report: Report,
    ablation: Ablation,
    vectors: Sequence[TextVectors],
    untouched: Sequence[TextVectors],
    which: str,
    most: int,
) -> Report:
    """The report of `pool` of an ablated model, with the vectors of the model as it is and what changed.

    Of the vector `which` the change is told, with the `most` dimensions that moved most.
    """
    told = [
        {**node, **_moved(found, before, which, most)}
        for node, found, before in zip(report.data["texts"], vectors, untouched, strict=True)
    ]
    views = [_change_view(told, which), _dimension_view(told)]
    report = with_data(report, {"texts": told, "ablation": ablation_node(ablation)})
    return _with_views(report, "vectors", views, ("vectors", "strongest", "similarity"))


def _moved(vectors: TextVectors, untouched: TextVectors, which: str, most: int) -> dict[str, Any]:
    import numpy as np

    kinds = ("pooled", "cls", "mean", "sentence")
    before: dict[str, Floats | None] = {kind: getattr(untouched, kind) for kind in kinds}
    one, other = (np.asarray(values, np.float64) for values in (before[which], getattr(vectors, which)))
    change = other - one
    order = np.argsort(-np.abs(change), kind="stable")[:most]
    return {
        "untouched": {kind: None if values is None else vector_node(values) for kind, values in before.items()},
        "change": vector_change(one, other),
        "moved": [
            {"dimension": int(i), "untouched": float(one[i]), "ablated": float(other[i]), "change": float(change[i])}
            for i in order
            if change[i]
        ],
    }


def vector_change(one: Any, other: Any) -> nodes.VectorChange:
    """How far a vector (H,) in float64 moved: each number None where it is not defined."""
    import numpy as np

    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return {"norm": None, "relative": None, "cosine": None}
    norm, own, theirs = (float(np.linalg.norm(values)) for values in (other - one, one, other))
    return {
        "norm": norm,
        "relative": norm / own if own else None,
        "cosine": min(1.0, max(-1.0, float(one @ other) / (own * theirs))) if own and theirs else None,
    }


def _change_view(texts: Sequence[Mapping[str, Any]], which: str) -> View:
    rows = tuple(
        {**node, "number": number, "was": node["untouched"][which]["statistics"], "is": node[which]["statistics"]}
        for number, node in enumerate(texts, 1)
    )
    columns = (
        Column("text", ("number",), "integer"),
        Column("", ("text",), "text", 2),
        Column("norm untouched", ("was", "norm"), "real"),
        Column("norm ablated", ("is", "norm"), "real", 1),
        Column("norm of change", ("change", "norm"), "real"),
        Column("relative", ("change", "relative"), "real"),
        Column("cosine", ("change", "cosine"), "real"),
    )
    names = {"pooled": "pooled output", "cls": "first token's state", "mean": "mean of the states"}
    return View("change", f"what ablation changed: the {names.get(which, 'sentence vector')}", columns, rows)


def _dimension_view(texts: Sequence[Mapping[str, Any]]) -> View:
    rows = tuple({"number": number, **row} for number, node in enumerate(texts, 1) for row in node["moved"])
    columns = (
        Column("text", ("number",), "integer"),
        Column("dimension", ("dimension",), "integer"),
        Column("untouched", ("untouched",), "real"),
        Column("ablated", ("ablated",), "real"),
        Column("change", ("change",), "real"),
    )
    return View("moved", "dimensions that moved most", columns, rows)


# ------------------------------------------------------------------------------------------------ activations


def activation_beside(
    report: Report, ablation: Ablation, untouched: NeuronStatistics, changes: Changes, most: int
) -> Report:
    """The report of `activations` of an ablated model, with the layers of the model as it is and what changed.

    Of each layer the `most` neurons that moved most are told, without those that were taken out themselves.
    """
    told = [
        {
            **node,
            "untouched": layer_statistics(untouched.sums[site]),
            "change": _layer_change(changes.sums[site], _own(ablation, site)),
            "moved": _moved_neurons(changes.sums[site], _own(ablation, site), most),
        }
        for node, site in zip(report.data["layers"], untouched.sums, strict=True)
    ]
    report = with_data(report, {"layers": told, "ablation": ablation_node(ablation)})
    return _with_views(report, "layers", [_layers_view(told), _neurons_view(told)], ("layers", "top", "heat", "tokens"))


def _own(ablation: Ablation, site: Site) -> tuple[int, ...]:
    """The neurons of a site that were taken out."""
    return next((numbers for layer, numbers in ablation.neurons.items() if site.part == f"intermediate.{layer}"), ())


def _layer_change(sums: ChangeSums, own: Sequence[int]) -> nodes.LayerChange:
    untouched, change = sums.rms("untouched_squares"), sums.rms("change")
    return {
        "untouched": untouched,
        "ablated": sums.rms("ablated_squares"),
        "change": change,
        "relative": change / untouched if untouched else None,
        "neurons_ablated": len(own),
    }


def _moved_neurons(sums: ChangeSums, own: Sequence[int], most: int) -> list[nodes.MovedNeuron]:
    import numpy as np

    others = np.setdiff1d(np.flatnonzero(sums.change), own)
    order = others[np.argsort(-sums.change[others], kind="stable")[:most]]
    return [
        {
            "neuron": int(i),
            "untouched": float(sums.untouched[i] / sums.tokens),
            "ablated": float(sums.ablated[i] / sums.tokens),
            "change": float(np.sqrt(sums.change[i] / sums.tokens)),
            "relative": float(np.sqrt(sums.change[i] / sums.untouched_squares[i]))
            if sums.untouched_squares[i]
            else None,
        }
        for i in order
    ]


def _layers_view(layers: Sequence[Mapping[str, Any]]) -> View:
    rows = tuple({**layer, "own": layer["change"]["neurons_ablated"] or None} for layer in layers)
    columns = (
        Column("layer", ("label",), "place"),
        Column("ablated", ("own",), "integer"),
        Column("rms untouched", ("change", "untouched"), "real"),
        Column("rms ablated", ("change", "ablated"), "real"),
        Column("rms of change", ("change", "change"), "real"),
        Column("relative", ("change", "relative"), "real"),
    )
    return View("change", "what ablation changed: root mean squares of each layer's activations", columns, rows)


def _neurons_view(layers: Sequence[Mapping[str, Any]]) -> View:
    rows = tuple({"label": layer["label"], **row} for layer in layers for row in layer["moved"])
    columns = (
        Column("layer", ("label",), "place"),
        Column("neuron", ("neuron",), "integer"),
        Column("mean untouched", ("untouched",), "real"),
        Column("mean ablated", ("ablated",), "real"),
        Column("rms of change", ("change",), "real"),
        Column("relative", ("relative",), "real", 1),
    )
    return View("moved", "neurons that moved most, beside those taken out", columns, rows)
