"""Neurons by name: `3.1203` is neuron 1203 of layer 3, `7:0-100` the first 101 of layer 7."""

from __future__ import annotations

import re
from collections.abc import Mapping

from bertprobe.anatomy import Anatomy, spans
from bertprobe.errors import BadSetting, PartMissing, quoted

_ITEM = re.compile(r"\s*(\d{1,9})(?:\.(\d{1,9})|:(\d{1,9})(?:-(\d{1,9}))?)?\s*")
WRITTEN = "write neurons as 3.1203,7:0-100 (layer 3, neuron 1203; layer 7, neurons 0 to 100)"


def parse_neurons(text: str, anatomy: Anatomy) -> dict[int, tuple[int, ...]]:
    """The neurons of each layer that a list such as `3.1203,7:0-100` names, both sorted; `7` is the whole layer.

    Raises `BadSetting` for text that is no such list and `PartMissing` for a neuron that is not there.
    """
    found: dict[int, set[int]] = {}
    for item in text.split(","):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise BadSetting(f"{quoted(text)} is not a list of neurons", WRITTEN)
        layer = int(match[1])
        one, first, last = (None if number is None else int(number) for number in match.groups()[1:])
        width = width_of(anatomy, layer)
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
    part = next((part for part in anatomy.of("intermediate") if part.layer == layer and part.stack is None), None)
    if part is None:
        there = sorted({one.layer for one in anatomy.of("intermediate") if one.layer is not None})
        raise PartMissing(f"there is no layer {layer}", f"this checkpoint has layers {spans(there)}")
    if part.weight is None or len(part.weight.shape) != 2:
        raise PartMissing(f"how many neurons layer {layer} has is not known", "its weight is not a matrix of its own")
    return part.weight.shape[0]


def neurons_text(neurons: Mapping[int, tuple[int, ...]]) -> str:
    """The list in its shortest form: `3.1203,7:0-100`."""
    items = []
    for layer, numbers in neurons.items():
        items += [f"{layer}{':' if '-' in run else '.'}{run}" for run in spans(numbers).split(", ")]
    return ",".join(items)
