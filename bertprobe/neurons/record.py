"""A neuron's examples as public explainers and viewers read them: texts as tokens, and the activation on each.

Source: openai/automated-interpretability, `NeuronRecord` (tokens and activations of each example).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bertprobe.anatomy import Anatomy
from bertprobe.checkpoint import Checkpoint
from bertprobe.neurons.ablation import ablated_in
from bertprobe.neurons.best import NOWHERE, document_of
from bertprobe.neurons.folder import ScanFolder
from bertprobe.neurons.listing import site_of
from bertprobe.neurons.texts import texts_of
from bertprobe.run import Compute, Matrices, open_runner, run_encoded


def record_of(
    folder: ScanFolder, checkpoint: Checkpoint, anatomy: Anatomy, layer: int, neuron: int, most: int
) -> dict[str, Any]:
    """The record of a neuron: its strongest texts, and texts drawn at random, run again for all their tokens.

    Neurons that were taken out of the model that was scanned are taken out here, too.
    """
    import numpy as np

    site, scan = site_of(folder, layer, neuron)
    strongest = _documents(scan.strongest.where[neuron], most)
    random = _documents(scan.drawn.where, most)
    matrices = Matrices({site.part})
    runner = open_runner(
        checkpoint, anatomy, Compute(device="cpu"), needs=matrices.needs, ablation=ablated_in(folder.manifest)
    )
    numbers = sorted({*strongest, *random})
    texts = texts_of(folder, runner.tokenizer, numbers)
    run_encoded(runner, map(texts.whole, numbers), matrices)
    activations = [matrix[:, neuron] for matrix in matrices.kept[site]]
    records = {
        number: {"tokens": list(tokens), "activations": [float(value) for value in values]}
        for number, tokens, values in zip(numbers, matrices.tokens, activations, strict=True)
    }
    sums = scan.sums
    return {
        "neuron_id": {"layer_index": layer, "neuron_index": neuron},
        "random_sample": [records[number] for number in random],
        "most_positive_activation_records": [records[number] for number in strongest],
        "mean": float(sums.means[neuron]),
        "variance": float(np.square(sums.deviations[neuron])),
    }


def _documents(where: Any, most: int) -> Sequence[int]:
    """The documents of tokens, each once, in their order."""
    return list(dict.fromkeys(document_of(where[where != NOWHERE]).tolist()))[:most]
