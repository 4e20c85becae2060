"""The scores of probes to a file: arrays of every layer, by label and neuron."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from bertprobe.export.files import Output
from bertprobe.export.matrices import write_arrays
from bertprobe.neurons.probe import LayerProbe, Probes


def write_probes(found: Probes, output: Output) -> None:
    """Writes what `LayerProbe` has, in float64, under names such as `intermediate.3.weights`, (K, I).

    The labels, which are the rows, stand in the metadata under `labels` as a JSON list, the run's facts under `probe`.
    """
    arrays = {f"{layer.label}.{name}": value for layer in found.layers.values() for name, value in _arrays(layer)}
    write_arrays(arrays, _notes(found), output)


def _notes(found: Probes) -> dict[str, str]:
    return {
        "source": str(found.facts["model"]),
        "labels": json.dumps(found.labels),
        "probe": json.dumps(dict(found.facts)),
    }


def _arrays(layer: LayerProbe) -> Iterator[tuple[str, Any]]:
    import numpy as np

    for name in ("mean", "std", "label_std", "linear", "probeless", "coefficients", "intercepts"):
        yield name, np.ascontiguousarray(getattr(layer, name))
    for task, scores in (("", layer.scores), ("control.", layer.control)):
        for name in ("counts", "means", "elsewhere", "differences", "weights"):
            yield f"{task}{name}", np.ascontiguousarray(getattr(scores, name))
        yield f"{task}probeless_by_label", np.ascontiguousarray(scores.probeless)
