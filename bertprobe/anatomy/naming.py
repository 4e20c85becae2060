"""What stored names say: the row of `LAYOUTS` they are spelled as, and the canonical name of each.

A row recognises itself by tensor names; the config is asked only where names alone cannot tell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bertprobe.anatomy.config import model_type_of
from bertprobe.anatomy.families import FAMILIES, families_of
from bertprobe.anatomy.layouts import INNER_WRAPPING, LAYOUTS, LOOKALIKES, WRAPPING, Layout
from bertprobe.checkpoint import Checkpoint, TensorHeader
from bertprobe.errors import NotAnEncoder, printable, quoted

LEAST_POSITIONS = 128  # of a table whose size tells anything

# ------------------------------------------------------------------------------------------------ which row


def recognise(checkpoint: Checkpoint, stored: Mapping[str, TensorHeader], config: Mapping[str, Any]) -> Layout:
    model_type = model_type_of(config)
    undecided = []
    for layout in LAYOUTS:
        if not _has(layout, stored):
            continue
        if not layout.needs_config or model_type in families_of(layout):
            return layout
        undecided.append(layout)
    if not undecided and any(name.endswith("pooler.dense.weight") for name in stored) and _lookalike(stored) is None:
        # A file with the pooler alone, such as `export` writes; only BERT's spelling is so plain.
        return next(layout for layout in LAYOUTS if layout.canonical)
    raise _stranger(checkpoint, stored, config, undecided)


def _lookalike(stored: Mapping[str, TensorHeader]) -> str | None:
    """What a checkpoint that is no encoder seems to be."""
    return next((what for sign, what in LOOKALIKES if any(re.search(sign, name) for name in stored)), None)


def _has(layout: Layout, stored: Mapping[str, TensorHeader]) -> bool:
    sign = re.compile(layout.sign) if layout.sign else None
    patterns = [pattern for role, pattern in layout.patterns if role == "intermediate"]
    found = any(pattern.fullmatch(name) for name in stored if name.endswith("weight") for pattern in patterns)
    return found and (sign is None or any(sign.search(name) for name in stored))


def _stranger(
    checkpoint: Checkpoint, stored: Mapping[str, TensorHeader], config: Mapping[str, Any], undecided: Sequence[Layout]
) -> NotAnEncoder:
    kind = _lookalike(stored)
    said = f", its config says {quoted(model_type_of(config))}" if model_type_of(config) else ""
    first = printable(next((header.name for header in stored.values()), next(iter(checkpoint.headers))))
    looks = f"looks like {kind}" if kind else f"has tensors such as {first}"
    expected = "expected a BERT-like encoder, with tensors such as encoder.layer.0.intermediate.dense.weight"
    if undecided and not model_type_of(config):
        types = ", ".join(sorted({name for layout in undecided for name in families_of(layout)}))
        return NotAnEncoder(
            f"{checkpoint.resolved} {looks}, but spells its layers as {types} do too, and no config.json tells",
            "put its config.json beside it",
        )
    return NotAnEncoder(f"{checkpoint.resolved} {looks}{said}", expected)


def family_of(layout: Layout, config: Mapping[str, Any], prefix: str, tensors: Mapping[str, TensorHeader]) -> str:
    """The config's model_type, else the class that saved it, else what the prefix or the position table says."""
    if model_type_of(config):
        return model_type_of(config)
    known = _by_class(layout, config)
    for model_type, prefixes in families_of(layout).items():
        if known is None and prefix.rstrip(".") in prefixes.split():
            known = model_type
    if known is not None:
        return known
    if layout.canonical and _counts_from_padding(tensors):
        return next(name for name in families_of(layout) if FAMILIES[name].padding is not None)
    return layout.name


def _by_class(layout: Layout, config: Mapping[str, Any]) -> str | None:
    """The family whose classes are named as the config's `architectures` are: RobertaModel, RobertaFor…."""
    named = config.get("architectures")
    classes = [name.lower() for name in named if isinstance(name, str)] if isinstance(named, list) else []
    spelled = {model_type: re.sub("[-_]", "", model_type) for model_type in families_of(layout)}
    fitting = [family for family, word in spelled.items() if any(name.startswith(word) for name in classes)]
    return max(fitting, key=lambda family: len(spelled[family]), default=None)


def _counts_from_padding(tensors: Mapping[str, TensorHeader]) -> bool:
    """Whether a table of positions has the two rows more than a power of two that RoBERTa's never uses."""
    table = tensors.get("embeddings.position_embeddings.weight")
    rows = table.shape[0] - 2 if table is not None and len(table.shape) == 2 else 0
    return rows >= LEAST_POSITIONS and rows & (rows - 1) == 0


# ------------------------------------------------------------------------------------------------ names


_HALF = re.compile(r"\[(?P<start>\d+):(?P<stop>\d+)\]$")


def halved(name: str, start: int, stop: int) -> str:
    """The name of some rows of a tensor that holds two parts: `layers.0.mlp.Wi.weight[0:40]`."""
    return f"{name}[{start}:{stop}]"


def whole(name: str) -> tuple[str, slice]:
    """The name of the tensor that a part's tensor lies in, and its rows there: all, unless the name is of a half."""
    match = _HALF.search(name)
    return (name[: match.start()], slice(int(match["start"]), int(match["stop"]))) if match else (name, slice(None))


_MODULES = {"embeddings", "encoder", "pooler", "transformer", "layer", "layers", "cls", "classifier"}


def unwrapped(stored: Mapping[str, TensorHeader]) -> tuple[dict[str, TensorHeader], str]:
    """The headers without what training tools put inside their names, around single modules, and the word they put.

    What stands in front of the encoder is left: it is part of the prefix.
    """
    found: dict[str, TensorHeader] = {}
    words = ""
    for name, header in stored.items():
        if not any(word in name for word in INNER_WRAPPING):
            found[name] = header
            continue
        segments = name.split(".")
        start = next((place for place, word in enumerate(segments) if word in _MODULES), len(segments))
        inner = [word for word in segments[start:] if word not in INNER_WRAPPING]
        bare = ".".join([*segments[:start], *inner])
        if bare != name and bare not in stored and bare not in found:
            words = words or next(word for word in segments[start:] if word in INNER_WRAPPING)
            name = bare
        found[name] = header
    return found, words


# What else a model of several encoders has beside that of texts.
_OTHER_TOWERS = re.compile(r"(?:^|[._])(?:vision|visual|image|audio|speech|video|multimodal|decoder)(?:$|[._])")


class Naming:
    """How stored names turn into canonical ones: what stands in front of the main encoder, and how much of it hides."""

    def __init__(
        self, layout: Layout, model_type: str, stored: Mapping[str, TensorHeader], *, composite: bool = False
    ) -> None:
        self.layout = layout
        families = families_of(layout)
        known = families.get(model_type)
        self.natural = set((known if known is not None else " ".join(families.values())).split())
        self.strict = known is not None
        self.composite = composite
        self.prefix = self._main_prefix(stored)
        self.unknown_prefix = self._unknown_prefix(self.prefix)

    def _main_prefix(self, stored: Mapping[str, TensorHeader]) -> str:
        """The prefix of the most layers, the first in the file where two have as many; of towers a text encoder's."""
        counts: dict[str, int] = {}
        patterns = [pattern for _, pattern in self.layout.patterns]
        if self.layout.pooler_pattern is not None:
            patterns.append(self.layout.pooler_pattern)
        for name in stored:
            for pattern in patterns:
                if match := pattern.fullmatch(name):
                    counts[match["prefix"]] = counts.get(match["prefix"], 0) + 1
                    break
        main = max(counts, key=lambda prefix: (not _OTHER_TOWERS.search(prefix), counts[prefix]), default="")
        # A classifier's pooler or a second stream of layers is none: as many parts make another encoder.
        self.others = tuple(other for other in counts if other != main and counts[other] == counts[main])
        return main

    def _unknown_prefix(self, prefix: str) -> str:
        """The leading part of a prefix that transformers would not take off, empty if it would load the names."""
        if self._is_natural(prefix):
            return ""
        segments = prefix.rstrip(".").split(".")
        if self.composite:  # what stands in front names the encoder among others, but for a training tool's wrapping
            wraps = next((n for n, word in enumerate(segments) if word not in WRAPPING), len(segments))
            return "".join(f"{word}." for word in segments[:wraps])
        for n in range(1, len(segments)):
            if ".".join(segments[n:]) in self.natural:
                return ".".join(segments[:n]) + "."
        # What a composite model calls its encoder is its own affair, unless a training tool's wrapping is in it.
        return prefix if self.strict or WRAPPING & set(segments) else ""

    def _is_natural(self, prefix: str) -> bool:
        return prefix == "" or prefix.rstrip(".") in self.natural

    def canonical(self, name: str) -> str:
        """The canonical name: without wrapping and prefix, LayerNorm's gamma and beta renamed."""
        main = self.prefix and name.startswith(self.prefix)
        name = name[len(self.prefix) :] if main else self._unwrapped(name)
        if self.layout.canonical and "LayerNorm." in name:
            name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
            name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
        return name

    def _unwrapped(self, name: str) -> str:
        """A name outside the main prefix (a head, or a second copy of the encoder) as transformers would spell it."""
        if self.unknown_prefix and name.startswith(self.unknown_prefix):
            name = name[len(self.unknown_prefix) :]
        if not self.layout.canonical:
            return name
        segments = name.split(".")
        while segments and segments[0] in WRAPPING:
            segments.pop(0)
        bare = ".".join(segments) or name
        for natural in self.natural:
            if bare.startswith(natural + ".encoder.layer.") or bare.startswith(natural + ".pooler."):
                return bare[len(natural) + 1 :]
        return bare

    def canonical_names(
        self, stored: Mapping[str, TensorHeader]
    ) -> tuple[dict[str, TensorHeader], dict[str, tuple[str, ...]]]:
        """Every tensor by canonical name, and the names that two tensors claim."""
        claims: dict[str, list[str]] = {}
        for name in stored:
            claims.setdefault(self.canonical(name), []).append(name)
        for names in claims.values():
            names.sort(key=lambda name: not name.startswith(self.prefix))
        tensors = {canonical: stored[names[0]] for canonical, names in claims.items()}
        twice = {
            canonical: tuple(stored[n].name for n in names) for canonical, names in claims.items() if len(names) > 1
        }
        return tensors, twice
