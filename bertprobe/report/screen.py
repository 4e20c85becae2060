"""The report of `neurons screen`: what taking out each neuron would change, and how far that was checked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bertprobe.report import Column, Report, View, facts, report_of
from bertprobe.screen import ScreenJob

if TYPE_CHECKING:
    from bertprobe.report import nodes
    from bertprobe.screen import Screen
    from bertprobe.screen.exact import Rerun

OF = {
    "pooled": "the pooled output",
    "cls": "the first token's last hidden state",
    "mean": "the mean of the last hidden states",
    "sentence": "the sentence vector",
    "masked": "the prediction of a masked token",
}


def screening(job: ScreenJob, screen: Screen, most: int) -> Report:
    """The report of a screen: its layers, and its `most` strongest neurons with those that were drawn."""
    layers = [_layer(screen, layer) for layer in screen.effects]
    neurons = list(_neurons(screen, most))
    backend = job.runner.backend
    data = {
        "model": job.runner.checkpoint.ref,
        "facts": {
            **facts(job.runner.checkpoint, job.runner.anatomy),
            "backend": job.runner.engine.name,
            "device": backend.device,
            "dtype": backend.dtype,
            "tokenizer": job.runner.tokenizer.name,
            "tokenizer_notes": list(job.runner.tokenizer.notes),
        },
        "screen": _counts(job, screen),
        "layers": layers,
        "neurons": neurons,
    }
    views = [
        _layer_view(screen, layers),
        _neuron_view("neurons", _title(screen), [n for n in neurons if not n["drawn"]]),
    ]
    if any(neuron["drawn"] for neuron in neurons):
        drawn = [neuron for neuron in neurons if neuron["drawn"]]
        views.append(_neuron_view("drawn", "neurons drawn from the rest, taken out one by one", drawn))
    return report_of(data, views)


def _counts(job: ScreenJob, screen: Screen) -> nodes.ScreenCounts:
    seconds, again = screen.seconds
    return {
        "output": screen.output,
        "unit": screen.unit,
        "instead": "zero" if job.options.means is None else "mean",
        "texts": screen.texts,
        "tokens": screen.tokens,
        "neurons": screen.neurons,
        "directions": screen.directions,
        "spread": _finite(screen.spread),
        "seconds": seconds,
        "seconds_of_one": _finite(again),
        "times_faster": _finite(screen.times_faster),
        "reruns": len(screen.reruns),
        "correlation": _finite(screen.correlation()),
        "correlation_of_strongest": _finite(screen.correlation(drawn=False)),
        "correlation_of_drawn": _finite(screen.correlation(drawn=True)),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _layer(screen: Screen, layer: int) -> nodes.ScreenedLayer:
    import numpy as np

    effects = screen.effects[layer]
    whole = sum(float((found**2).sum()) for found in screen.effects.values())
    return {
        "layer": layer,
        "neurons": len(effects),
        "share": float((effects**2).sum()) / whole if whole else None,
        "median": float(np.median(effects)),
        "largest": float(effects.max()),
        "strongest": f"{layer}.{int(effects.argmax())}",
        "effects": [float(effect) for effect in effects],
    }


def _neurons(screen: Screen, most: int) -> list[nodes.ScreenedNeuron]:
    """The strongest, re-run or not, then those that were drawn, each with its place in the ranking."""
    ranked = screen.strongest(screen.neurons)
    places = {neuron: place for place, neuron in enumerate(ranked, 1)}
    again = {(one.layer, one.neuron): one for one in screen.reruns}
    drawn = [(one.layer, one.neuron) for one in screen.reruns if one.drawn]
    shown = [neuron for neuron in ranked[:most] if neuron not in set(drawn)]
    return [_neuron(screen, neuron, places[neuron], again.get(neuron)) for neuron in (*shown, *drawn)]


def _neuron(screen: Screen, neuron: tuple[int, int], rank: int, again: Rerun | None) -> nodes.ScreenedNeuron:
    layer, number = neuron
    return {
        "name": f"{layer}.{number}",
        "layer": layer,
        "neuron": number,
        "rank": rank,
        "estimate": float(screen.effects[layer][number]),
        "error": _finite(float(screen.errors[layer][number])),
        "exact": None if again is None else again.effect,
        "of_spread": None if again is None or not screen.spread else again.effect / screen.spread,
        "drawn": again is not None and again.drawn,
    }


def _title(screen: Screen) -> str:
    return f"neurons whose removal changes {OF[screen.output]} most, {_unit(screen)}"


def _unit(screen: Screen) -> str:
    if screen.unit == "nats":
        return "in nats of divergence over the texts"
    return "by the root mean square of its move over the texts"


def _layer_view(screen: Screen, layers: list[nodes.ScreenedLayer]) -> View:
    columns = (
        Column("layer", ("layer",), "integer"),
        Column("neurons", ("neurons",), "integer", 1),
        Column("share", ("share",), "share"),
        Column("median", ("median",), "real"),
        Column("largest", ("largest",), "real"),
        Column("strongest", ("strongest",), "text"),
    )
    title = f"effect of a neuron on {OF[screen.output]}, to first order; share of all squared effects"
    return View("layers", title, columns, tuple(layers))


def _neuron_view(name: str, title: str, neurons: list[nodes.ScreenedNeuron]) -> View:
    columns = (
        Column("rank", ("rank",), "integer", 1),
        Column("neuron", ("name",), "text"),
        Column("estimate", ("estimate",), "real"),
        Column("±", ("error",), "real", 2),
        Column("exact", ("exact",), "real"),
        Column("of spread", ("of_spread",), "share"),
    )
    return View(name, title, columns, tuple(neurons))
