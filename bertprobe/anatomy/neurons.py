"""Neurons by name: `3.1203` is neuron 1203 of layer 3, `7:0-100` the first 101 of layer 7."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from bertprobe.anatomy import Anatomy, spans
from bertprobe.errors import BadSetting, PartMissing, quoted

_ITEM = re.compile(r"\s*(\d{1,9})(?:\.(\d{1,9})|:(\d{1,9})(?:-(\d{1,9}))?)?\s*", re.ASCII)
WRITTEN = "write neurons as 3.1203,7:0-100 (layer 3, neuron 1203; layer 7, neurons 0 to 100)"


def parse_neurons(text: str, anatomy: Anatomy) -> dict[int, tuple[int, ...]]:
    """The neurons of each layer that a list such as `3.1203,7:0-100` names, both sorted; `7` is the whole layer.

    Raises `BadSetting` for text that is no such list and `PartMissing` for a neuron that is not there.
    """
    return _parsed(text, lambda layer: width_of(anatomy, layer))


def listed_neurons(text: str) -> dict[int, tuple[int, ...]]:
    """The same of a list that `neurons_text` wrote, of whatever model; raises `BadSetting` for another."""
    return _parsed(text, lambda layer: 10**9)


def _parsed(text: str, width_of_layer: Callable[[int], int]) -> dict[int, tuple[int, ...]]:
    found: dict[int, set[int]] = {}
    for item in text.split(","):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise BadSetting(f"{quoted(text)} is not a list of neurons", WRITTEN)
        layer = int(match[1])
        one, first, last = (None if number is None else int(number) for number in match.groups()[1:])
        width = width_of_layer(layer)
        low, high = _ends(one, first, last, width)
        if low > high:
            raise BadSetting(f"the neurons {quoted(item.strip())} run backwards", "write the lower number first")
        if high >= width:
            raise PartMissing(f"layer {layer} has no neuron {high}", f"its neurons are 0 to {width - 1}")
        found.setdefault(layer, set()).update(range(low, high + 1))
    return {layer: tuple(sorted(found[layer])) for layer in sorted(found)}


def _ends(one: int | None, first: int | None, last: int | None, width: int) -> tuple[int, int]:
    """The first and last neuron of an item; of a layer alone, all of its neurons."""
    if one is not None:
        return one, one
    if first is not None:
        return first, first if last is None else last
    return 0, width - 1


def width_of(anatomy: Anatomy, layer: int) -> int:
    """How many neurons a layer has; raises `PartMissing` for one that is not there."""
    parts = {part.layer: part for part in anatomy.of("intermediate") if part.stack is None and part.index is None}
    if layer not in parts:
        there = [number for number in anatomy.layers if number in parts]
        turns = ", which run several times: a neuron is the same one in every turn" if anatomy.layout.shared else ""
        advice = f"this checkpoint has layers {spans(there)}{turns}" if there else "its layers are not numbered through"
        raise PartMissing(f"there is no layer {layer}", advice)
    weight = parts[layer].weight
    # A convolution over single tokens is a matrix, too; what else has three axes is no row a neuron.
    if weight is None or not (len(weight.shape) == 2 or (len(weight.shape) == 3 and weight.shape[2] == 1)):
        raise PartMissing(f"how many neurons layer {layer} has is not known", "its weight is not a matrix of its own")
    return weight.shape[0]


def neurons_text(neurons: Mapping[int, tuple[int, ...]]) -> str:
    """The list in its shortest form: `3.1203,7:0-100`."""
    items = []
    for layer, numbers in neurons.items():
        items += [f"{layer}{':' if '-' in run else '.'}{run}" for run in spans(numbers).split(", ")]
    return ",".join(items)
