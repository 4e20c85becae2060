"""The report of `neurons probe`: what probes get right, layer by layer, and which neurons tell which label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bertprobe.errors import quoted, shortened
from bertprobe.neurons.probe import LayerProbe, Probes
from bertprobe.neurons.probe.job import ProbeJob
from bertprobe.report import Column, Report, View, report_of

if TYPE_CHECKING:
    from bertprobe.report import nodes

RARE = 10
"""A label of fewer items than this has a mean that says little."""
BY = ("difference", "linear")
"""What neurons are listed by: the difference of means in standard deviations, or the weight in the linear probe."""


def probe_report(found: Probes, most: int = 3, by: str = "difference", written: str | None = None) -> Report:
    """The report of probes; of each label the `most` neurons of all layers, the best first `by` one of `BY`."""
    neurons = list(_neurons(found, most, by))
    data: dict[str, Any] = {
        "model": found.facts["model"],
        "probe": _facts(found, written),
        "labels": _labels(found),
        "layers": [_layer(found, layer) for layer in found.layers.values()],
        "selections": [row for layer in found.layers.values() for row in _selections(layer)],
        "neurons": neurons,
    }
    selections = _selection_view(data["selections"])
    views = [_layer_view(data["layers"]), _label_view(data["labels"]), selections, _neuron_view(neurons, by)]
    return report_of(data, [view for view in views if view.rows])


def plan_line(job: ProbeJob) -> str:
    """What is about to be done, and the memory it takes."""
    texts = "words" if job.corpus.fields.words else "texts"
    learnt, held = (sum(counts.values()) for counts in (job.survey.learnt, job.survey.held))
    return (
        f"{learnt:,} {texts} to learn from and {held:,} held out, {len(job.labelling)} labels; "
        f"the sums of {len(job.parts)} layer{'s' * (len(job.parts) != 1)} take {job.memory / 1e6:,.0f} MB"
    )


def _facts(found: Probes, written: str | None) -> nodes.ProbeFacts:
    told = {key: value for key, value in found.facts.items() if key != "model"}
    majority = {"majority": found.majority, "control_majority": found.control_majority}
    return {**told, **majority, "notes": list(_notes(found)), "written": written}  # type: ignore[typeddict-item]


def _notes(found: Probes) -> Iterator[str]:
    """What has to be known before the numbers are believed."""
    widest = max(len(layer.mean) for layer in found.layers.values())
    items, of = found.facts["items"], found.facts["of"]
    if items < widest:
        yield f"there are fewer {of} to learn from ({items:,}) than neurons in a layer: weights follow the ridge"
    if of == "texts":
        yield "no text is seen twice, so the control cannot be learnt: selectivity is what is above chance"
    counts = next(iter(found.layers.values())).scores.counts.tolist()
    rare = [quoted(name) for name, count in zip(found.labels, counts, strict=True) if count < RARE]
    if rare:
        yield f"fewer than {RARE} {of} have the label {shortened(rare)}: their means say little"
    if unknown := found.facts["unknown"]:
        yield f"{unknown:,} {of} held out have a label that nothing learnt from has, and count as wrong"


def _labels(found: Probes) -> list[nodes.ProbedLabel]:
    best = max(found.layers.values(), key=lambda layer: layer.accuracy or 0)
    return [
        {
            "label": name,
            "items": int(best.scores.counts[number]),
            "held_out_items": found.held_counts[number],
            "control_items": int(best.control.counts[number]),
            "recall": best.recalls[number],
        }
        for number, name in enumerate(found.labels)
    ]


def _layer(found: Probes, layer: LayerProbe) -> nodes.ProbedLayer:
    return {
        "label": layer.label,
        "layer": layer.layer,
        "neurons": len(layer.mean),
        "constant": int((layer.std == 0).sum()),
        "accuracy": layer.accuracy,
        "control_accuracy": layer.control_accuracy,
        "selectivity": layer.selectivity,
        "majority": found.majority,
    }


def _selections(layer: LayerProbe) -> Iterator[nodes.ProbeSelection]:
    for one in layer.selections:
        yield {
            "label": layer.label,
            "layer": layer.layer,
            "neurons": one.neurons,
            "linear": one.linear,
            "linear_last": one.linear_last,
            "probeless": one.probeless,
            "probeless_last": one.probeless_last,
            "random": one.random,
        }


def _neurons(found: Probes, most: int, by: str) -> Iterator[nodes.ProbedNeuron]:
    """Of each label the best neurons of all layers: none has more than `most` among them."""
    nulls = {number: (layer.null("differences"), layer.null("weights")) for number, layer in found.layers.items()}
    for row, label in enumerate(found.labels):
        best = [
            _neuron(found.layers[number], neuron, row, label, [float(null[row]) for null in nulls[number]])
            for number in found.layers
            for neuron in found.ranking(number, by, label)[:most].tolist()
        ]
        # A label without a mean, or a ranking of nothing but zeros, names nobody.
        scored = [(abs((one["difference"] if by == "difference" else one["weight"]) or 0), one) for one in best]
        there = [(score, one) for score, one in scored if score > 0]
        yield from (one for _, one in sorted(there, key=lambda pair: -pair[0])[:most])


def _neuron(layer: LayerProbe, neuron: int, row: int, label: str, nulls: Sequence[float]) -> nodes.ProbedNeuron:
    scores = layer.scores
    return {
        "name": f"{layer.layer}.{neuron}",
        "layer": layer.layer,
        "neuron": neuron,
        "label": label,
        "difference": float(scores.differences[row, neuron]),
        "difference_null": nulls[0],
        "weight": float(scores.weights[row, neuron]),
        "weight_null": nulls[1],
        "mean": float(scores.means[row, neuron]),
        "elsewhere": float(scores.elsewhere[row, neuron]),
        "probeless": float(scores.probeless[row, neuron]),
    }


# ------------------------------------------------------------------------------------------------ tables


def _layer_view(layers: Sequence[nodes.ProbedLayer]) -> View:
    columns = (
        Column("layer", ("label",), "place"),
        Column("neurons", ("neurons",), "integer", 2),
        Column("constant", ("constant",), "integer", 3),
        Column("accuracy", ("accuracy",), "share"),
        Column("control", ("control_accuracy",), "share"),
        Column("selectivity", ("selectivity",), "share"),
        Column("majority", ("majority",), "share", 1),
    )
    title = "what a linear probe of each layer gets right of what is held out, beside a control task of random labels"
    return View("layers", title, columns, tuple(layers))


def _label_view(labels: Sequence[nodes.ProbedLabel]) -> View:
    columns = (
        Column("label", ("label",), "text"),
        Column("learnt from", ("items",), "integer"),
        Column("held out", ("held_out_items",), "integer"),
        Column("right", ("recall",), "share"),
        Column("in the control", ("control_items",), "integer", 1),
    )
    return View("labels", "labels, and what the best layer gets right of each", columns, tuple(labels))


def _selection_view(selections: Sequence[nodes.ProbeSelection]) -> View:
    columns = (
        Column("layer", ("label",), "place"),
        Column("neurons", ("neurons",), "integer"),
        Column("linear", ("linear",), "share"),
        Column("last", ("linear_last",), "share"),
        Column("probeless", ("probeless",), "share"),
        Column("last", ("probeless_last",), "share"),
        Column("random", ("random",), "share"),
    )
    title = "what probes get right that look at the first neurons of a ranking alone, at its last, at random ones"
    return View("selections", title, columns, tuple(selections))


def _neuron_view(neurons: Sequence[nodes.ProbedNeuron], by: str) -> View:
    columns = (
        Column("label", ("label",), "text"),
        Column("neuron", ("name",), "text"),
        Column("apart", ("difference",), "real"),
        Column("control 95 %", ("difference_null",), "real"),
        Column("weight", ("weight",), "real"),
        Column("control 95 %", ("weight_null",), "real", 1),
        Column("mean", ("mean",), "real"),
        Column("elsewhere", ("elsewhere",), "real"),
        Column("probeless", ("probeless",), "real", 2),
    )
    what = "how many standard deviations its mean lies apart" if by == "difference" else "its weight in the probe"
    return View("neurons", f"neurons of each label, by {what}", columns, tuple(neurons))
