"""What a model is by its numbers, whatever file they lie in: fingerprints of its tensors, its parts and the whole.

They are taken of canonical names, shapes and values alone (`stats.fingerprint`), so that storage, prefix, shards, the
order of tensors and a lossless cast change nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bertprobe.anatomy import Anatomy, Part
from bertprobe.anatomy.places import BUFFERS, Place, places_of

# What transformers ties to another tensor: some files keep it a second time, others leave it out.
_TIED = re.compile(r"(?:^|\.)(?:decoder|lm_head|generator_lm_head|vocab_projector|output_embeddings)\.(?:weight|bias)$")


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """Of a model: `encoder` is its embeddings and layers, `model` everything; None where some of it was not read.

    `intermediate` are the feed-forward modules, gates included, and `pooler` is the pooler.
    """

    intermediate: str | None
    pooler: str | None
    encoder: str | None = None
    model: str | None = None


def fingerprints(anatomy: Anatomy, parts: Iterable[Part], found: Mapping[str, str]) -> Fingerprints:
    """The fingerprints of a model by those of its tensors, of which `found` has some, by canonical name."""
    parts = tuple(parts)
    feed_forward = [name for part in parts if part.role in ("intermediate", "gate") for name in part.tensors]
    pooler = [name for part in parts if part.role == "pooler" and part.stack is None for name in part.tensors]
    everything = learned(anatomy)
    encoder = [name for name, place in everything.items() if place.layer is not None or place.piece == "embeddings"]
    return Fingerprints(
        _of(feed_forward, found),
        _of(pooler, found),
        _of(encoder, found),
        _of(without_ties(everything, found), found),
    )


def of_tensors(found: Mapping[str, str]) -> str:
    """The fingerprint of tensors by those of each, by canonical name: of a whole model, that of the model."""
    names = [name for name in found if not BUFFERS.search(name)]
    return joined({name: found[name] for name in without_ties(names, found)})


def learned(anatomy: Anatomy) -> dict[str, Place]:
    """The tensors that training makes, by canonical name, with their places: all but counted buffers."""
    return {name: place for name, place in places_of(anatomy).items() if not BUFFERS.search(name)}


def without_ties(names: Iterable[str], found: Mapping[str, str]) -> list[str]:
    """The names without those of tensors that are tied to another one, whose numbers they have."""
    names = list(names)
    own = {found[name] for name in names if name in found and not _TIED.search(name)}
    return [name for name in names if not (_TIED.search(name) and found.get(name) in own)]


def joined(members: Mapping[str, str]) -> str:
    """The fingerprint of named tensors: SHA-256 of a line `NAME<tab>FINGERPRINT` for each, sorted by name, in UTF-8."""
    lines = "".join(f"{name}\t{members[name]}\n" for name in sorted(members))
    return hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest()


def _of(names: Iterable[str], found: Mapping[str, str]) -> str | None:
    """The fingerprint of some tensors together; None for none, and where one of them is not known."""
    members = {name: found.get(name, "") for name in names}
    return joined(members) if members and all(members.values()) else None
