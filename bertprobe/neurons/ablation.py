"""Neurons to take out, with their means from a scan where these are to stand in their place."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bertprobe.anatomy import Anatomy
from bertprobe.anatomy.neurons import listed_neurons
from bertprobe.checkpoint import Checkpoint
from bertprobe.errors import BadSetting, UnsupportedFile, printable
from bertprobe.neurons.folder import ScanFolder, check_model, open_scan
from bertprobe.run.ablation import Ablation, ablation_of

if TYPE_CHECKING:
    from bertprobe.sharded import Manifest


def ablation_from(
    text: str, checkpoint: Checkpoint, anatomy: Anatomy, means: str | os.PathLike[str] | None = None
) -> Ablation:
    """The ablation of the neurons that a list such as `3.1203,7:0-100` names: to zero, or to their means over a scan.

    Args:
        text: the list of neurons.
        checkpoint: the model they are of.
        anatomy: its parts.
        means: the folder of a scan of this model.

    Raises:
        BadSetting: the text is no list of neurons, or the scan is not done or of an ablated model.
        PartMissing: a neuron is not there, or its layer was not scanned.
        NotFound: there is no such scan, or it is of another model.
        UnsupportedFile: layers share their weights, so that a neuron has several means.
    """
    ablation = ablation_of(text, anatomy)
    return ablation if means is None else _to_means(ablation, checkpoint, open_scan(means))


def _to_means(ablation: Ablation, checkpoint: Checkpoint, scan: ScanFolder) -> Ablation:
    """The same neurons to their means over all tokens of a scan."""
    check_model(scan, checkpoint)
    shown = printable(str(scan.path))
    if ablated_in(scan.manifest) is not None:
        raise BadSetting(f"{shown} is a scan of an ablated model", "take the means of the model as it is")
    if not scan.manifest["complete"]:
        raise BadSetting(f"the scan in {shown} is not done", "repeat its command to go on with it")
    if any(site.call for site in scan.state.sites):
        raise UnsupportedFile(
            "layers of this model share their weights, and a neuron has a mean in each of its turns",
            "ablate to zero: leave out `means=`",
        )
    values = {
        layer: tuple(float(mean) for mean in scan.layer(layer).sums.means[list(numbers)])
        for layer, numbers in ablation.neurons.items()
    }
    return Ablation(ablation.neurons, values, str(scan.path))


def means_of(
    layers: Iterable[int], checkpoint: Checkpoint, anatomy: Anatomy, means: str | os.PathLike[str]
) -> Mapping[int, Sequence[float]]:
    """The mean of every neuron of some layers over a scan, by layer; raises as `ablation_from` does."""
    found = ablation_from(",".join(map(str, layers)), checkpoint, anatomy, means)
    return {} if found.values is None else found.values


def as_option(ablation: Ablation) -> dict[str, Any]:
    """An ablation as it stands among the options in a scan's manifest, which is enough to repeat it."""
    means = None
    if ablation.values is not None:
        values = {str(layer): [float(value) for value in row] for layer, row in ablation.values.items()}
        means = {"path": ablation.source, "values": values}
    return {"neurons": ablation.name, "count": ablation.count, "to": ablation.to, "means": means}


def ablated_in(manifest: Manifest) -> Ablation | None:
    """What was ablated in a scan, by its manifest; None for a scan of a model as it is."""
    told = manifest["options"].get("ablation")
    if told is None:
        return None
    neurons, means = listed_neurons(told["neurons"]), told["means"]
    if means is None:
        return Ablation(neurons)
    return Ablation(neurons, {int(layer): row for layer, row in means["values"].items()}, means["path"])
