"""Where in a model a tensor stands: the layer or the end of the model, and which piece of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bertprobe.anatomy import Anatomy
from bertprobe.anatomy.naming import whole
from bertprobe.checkpoint import TensorHeader

BUFFERS = re.compile(r"(?:^|\.)(?:position_ids|token_type_ids)$")  # counted, not learned
_LAYER = re.compile(r"(?:^|\.)(?:\w*layers?\w*|h|blocks?)\.(\d{1,9})\.")


@dataclass(frozen=True, slots=True)
class Place:
    """`layer` is None outside the layers; `piece` is embeddings, attention, intermediate, output, pooler or heads."""

    layer: int | None
    piece: str

    @property
    def label(self) -> str:
        """`layer 3`, `embeddings`, `pooler`, `heads`."""
        return self.piece if self.layer is None else f"layer {self.layer}"


@dataclass(frozen=True)
class Tensors:
    """All tensors of a checkpoint by canonical name, halves of fused matrices as the parts have them; and their places.

    Buffers that are counted and not learned are left out, and of two names for the same bytes the second.
    """

    headers: Mapping[str, TensorHeader]
    places: Mapping[str, Place]

    def __contains__(self, name: str) -> bool:
        return name in self.headers


def tensors_of(anatomy: Anatomy) -> Tensors:
    """Every tensor of a checkpoint that can be compared, with its place."""
    of_parts = {name: (part, header) for part in anatomy.parts for name, header in part.tensors.items()}
    halves: dict[str, dict[str, TensorHeader]] = {}
    for name, (_, header) in of_parts.items():
        halves.setdefault(whole(name)[0], {})[name] = header
    headers: dict[str, TensorHeader] = {}
    for name, header in anatomy.tensors.items():
        if name in halves:
            headers |= halves[name]
        elif not BUFFERS.search(name):
            headers[name] = header
    kept = dict(_named_once(headers))
    places = {}
    for name in kept:
        role = of_parts[name][0].role if name in of_parts else None
        places[name] = place_of(name, "intermediate" if role == "gate" else role)
    return Tensors(kept, places)


def places_of(anatomy: Anatomy) -> dict[str, Place]:
    """The place of every tensor by canonical name, fused matrices whole."""
    roles = {whole(name)[0]: part.role for part in anatomy.parts for name in part.tensors}
    return {
        name: place_of(name, "intermediate" if roles.get(name) == "gate" else roles.get(name))
        for name in anatomy.tensors
    }


def _named_once(headers: Mapping[str, TensorHeader]) -> Iterator[tuple[str, TensorHeader]]:
    """Headers without the second names of tied tensors, which some files keep and others leave out."""
    seen: set[tuple[object, ...]] = set()
    for name, header in headers.items():
        where = (header.location, header.shape)
        if header.location and where in seen:
            continue
        seen.add(where)
        yield name, header


def place_of(name: str, role: str | None) -> Place:
    """The place of a tensor by its canonical name, and the role of its part where it is one's."""
    match = _LAYER.search(name)
    if role == "pooler":
        return Place(None, "pooler")
    if match is not None:
        rest = name[match.end() :]
        return Place(int(match[1]), role or ("attention" if "att" in rest.lower() else "output"))
    return Place(None, "embeddings" if "embed" in name else "heads")
