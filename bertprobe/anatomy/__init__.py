"""Which tensors are which part, under one name and in one orientation whatever the file calls them.

Names of other libraries are put into PyTorch's spelling first (`dialects`); from there on nobody knows the difference.
A model is judged by the names and shapes of its tensors (`naming`); its config is asked for the activation, for what
names alone cannot tell, and to compare what it promises with what is there (`config`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bertprobe.anatomy.config import ConfigSpec, config_spec_of, model_type_of, text_config, towers_of
from bertprobe.anatomy.dialects import dialect_of, to_pytorch
from bertprobe.anatomy.families import FAMILIES, Family
from bertprobe.anatomy.layouts import Layout
from bertprobe.anatomy.naming import Naming, family_of, halved, recognise, unwrapped, whole
from bertprobe.checkpoint import Checkpoint, TensorHeader
from bertprobe.errors import BadSetting, NotAnEncoder, PartMissing, quoted
from bertprobe.shown import ReprMixin

MOST_PARTS = 10_000  # an encoder has a few hundred at most; beyond that a table helps nobody


@dataclass(frozen=True)
class Part(ReprMixin):
    """One module of the model: its role, its place, and its tensors by canonical name, weight, bias, then norms.

    `role` is `intermediate`, `gate` or `pooler`; `layer` is None for the pooler; `stack` and `index` tell apart what
    shares a layer number. `activation` is None where the config does not say, and for the product half of a gated pair.
    """

    role: str
    layer: int | None
    stack: str | None
    index: int | None
    activation: str | None
    tensors: Mapping[str, TensorHeader]

    @property
    def label(self) -> str:
        """`intermediate.3`, `pooler`, `ffn.1.intermediate.3`."""
        stack = self.stack or ("group" if self.index is not None else None)
        return ".".join(str(word) for word in (stack, self.index, self.role, self.layer) if word is not None)

    @property
    def weight_name(self) -> str:
        """The canonical name of its matrix."""
        return next((name for name in self.tensors if kind_of(name) == "weight"), "")

    @property
    def bias_name(self) -> str:
        """The canonical name of its bias, empty where it has none."""
        return next((name for name in self.tensors if kind_of(name) == "bias"), "")

    @property
    def weight(self) -> TensorHeader | None:
        return self.tensors.get(self.weight_name)

    @property
    def bias(self) -> TensorHeader | None:
        return self.tensors.get(self.bias_name)


def kind_of(name: str) -> str:
    """`weight` or `bias` for the dense layer's own tensors, `norm` for a layer norm kept in the same module."""
    if ".LayerNorm." in name:
        return "norm"
    return whole(name)[0].rpartition(".")[2]


@dataclass(frozen=True)
class Anatomy:
    """What a checkpoint is made of.

    `tensors` holds every tensor by canonical name, optimizer state aside; `prefix` is what stood before the canonical
    names of the encoder (dotted, also where the file has slashes) and `hiding` the leading part of it that transformers
    would not take off; `settings` are the encoder's own, which a config of several encoders has one level down;
    `duplicates` are canonical names with the stored names that claim them, the one in use first;
    `others` are the prefixes of encoders as deep as this one, where no config names each;
    `spelling` is the library whose spelling the file has, empty for PyTorch's; `wrapping` is a word that a training
    tool put into the middle of names, empty where there is none.
    """

    family: str
    layout: Layout
    prefix: str
    unknown_prefix: str
    config_spec: ConfigSpec
    parts: tuple[Part, ...]
    tensors: Mapping[str, TensorHeader]
    settings: Mapping[str, Any]
    duplicates: Mapping[str, tuple[str, ...]]
    others: tuple[str, ...] = ()
    spelling: str = ""
    wrapping: str = ""

    @property
    def layers(self) -> tuple[int, ...]:
        """The numbers of the main stack's layers."""
        return tuple(
            sorted({p.layer for p in self.parts if p.layer is not None and p.stack is None and p.index is None})
        )

    @property
    def widths(self) -> tuple[int | None, int | None]:
        """Hidden and intermediate size by the shapes of the first layer, else of the pooler, else by the config.

        Where layers are narrower than the hidden states, the pooler and then the config say how wide these are.
        """
        hidden, inner = (
            n if type(n) is int else None for n in (self.config_spec.hidden_size, self.config_spec.intermediate_size)
        )
        up, pooler = self._shape("intermediate"), self._shape("pooler")
        wide = pooler if self.layout.narrow else up or pooler
        return wide[1] if wide else hidden, up[0] if up else inner

    def _shape(self, role: str) -> tuple[int, ...] | None:
        """The shape of the first matrix of a role."""
        shapes = (part.weight.shape for part in self.of(role) if part.weight is not None)
        return next((shape for shape in shapes if len(shape) == 2), None)

    @property
    def row(self) -> Family:
        """What is known of its family; little of one that no row is for."""
        return FAMILIES.get(self.family) or Family(self.family, self.layout)

    @property
    def pooler(self) -> Part | None:
        """The model's own pooler; one of another encoder beside it, or of a classifier, is among the parts only."""
        return next((part for part in self.of("pooler") if part.stack is None), None)

    def of(self, *roles: str) -> tuple[Part, ...]:
        """The parts with one of these roles, in order."""
        return tuple(part for part in self.parts if part.role in roles)


def find_parts(checkpoint: Checkpoint) -> Anatomy:
    """The parts of a checkpoint, from tensor names and shapes; raises `NotAnEncoder` for what is none."""
    config = text_config(checkpoint.config or {})
    stored, wrapping = unwrapped(_marked(to_pytorch(checkpoint.headers, checkpoint.spelled), checkpoint.config or {}))
    layout = recognise(checkpoint, stored, config)
    towers = towers_of(checkpoint.config or {})
    naming = Naming(layout, model_type_of(config), stored, composite=bool(towers))
    config = next((towers[word] for word in re.split("[._]", naming.prefix) if word in towers), config)
    tensors, duplicates = naming.canonical_names(stored)
    config_spec = config_spec_of(layout, config, checkpoint)
    dialect = dialect_of(checkpoint.headers)
    return Anatomy(
        family=family_of(layout, config, naming.prefix, tensors),
        layout=layout,
        prefix=naming.prefix,
        unknown_prefix=naming.unknown_prefix,
        config_spec=config_spec,
        parts=tuple(_parts(layout, tensors, config_spec.activation, config)),
        tensors=tensors,
        settings=config,
        duplicates=duplicates,
        others=() if towers or not layout.canonical else naming.others,
        spelling=dialect.library if dialect else "",
        wrapping=wrapping,
    )


def _marked(stored: dict[str, TensorHeader], config: Mapping[str, Any]) -> Mapping[str, TensorHeader]:
    """The headers with what holds codes refused; of a model of plain numbers nothing is loaded that knows of codes."""
    plain = ("F64", "F32", "F16", "BF16", "I64")
    odd = (h.refusal is not None or (h.dtype not in plain and len(h.shape) == 2) for h in stored.values())
    parts = (
        name.endswith(("weight_orig", "weight_v", "original1", "weight.original", "base_layer.weight"))
        for name in stored
    )
    if not any(odd) and not any(parts):
        return stored
    from bertprobe.anatomy.quantised import marked

    return marked(stored, config)


def select(
    anatomy: Anatomy, roles: Sequence[str] = (), layers: str | None = None, *, default: Sequence[str] = ()
) -> tuple[Part, ...]:
    """The parts asked for by role and layer; raises `PartMissing` for a layer that is not there.

    Args:
        roles: `intermediate` (gates included) or `pooler`; `default` stands in when empty.
        layers: numbers and ranges such as `0,3-5,-1`, -1 being the last; None for all. They do not restrict the pooler.
    """
    wanted = set(roles or default or ("intermediate", "pooler"))
    if "intermediate" in wanted:
        wanted.add("gate")
    there = sorted({part.layer for part in anatomy.parts if part.layer is not None})
    numbers = None if layers is None else layer_numbers(layers, there)
    return tuple(
        part
        for part in anatomy.parts
        if part.role in wanted and (numbers is None or part.layer is None or part.layer in numbers)
    )


def layer_numbers(text: str, there: Sequence[int]) -> set[int]:
    """The layers that a list such as `0,3-5,-1` names among those that are there, sorted; -1 is the last."""
    found: set[int] = set()
    for item in text.split(","):
        match = re.fullmatch(r"\s*(-?\d{1,9})(?:\s*-\s*(-?\d{1,9}))?\s*", item)
        if match is None:
            raise BadSetting(f"{quoted(text)} is not a list of layers", "write it as 0,3-5,-1")
        ends = (int(end) for end in (match[1], match[2] or match[1]))
        first, last = (end if end >= 0 or not there else there[-1] + 1 + end for end in ends)
        if first > last:
            raise BadSetting(f"the layers {item.strip()} run backwards", "write the lower layer first")
        if first not in there or last not in there:
            has = f"layers {spans(there)}" if there else "no layers"
            raise PartMissing(f"there is no layer {item.strip()}", f"this checkpoint has {has}")
        found.update(layer for layer in there if first <= layer <= last)
    return found


def spans(numbers: Sequence[int]) -> str:
    """Sorted numbers with runs drawn together: `0, 3-5, 9`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


# ------------------------------------------------------------------------------------------------ parts


def _parts(
    layout: Layout, tensors: Mapping[str, TensorHeader], activation: str | None, config: Mapping[str, Any]
) -> Iterator[Part]:
    found: dict[tuple[str, str | None, int | None, int | None], dict[str, TensorHeader]] = {}
    for name, header in tensors.items():
        for role, pattern in layout.patterns:
            if match := pattern.fullmatch(name):
                place = _place(match)
                for half, half_name, half_header in _halves(layout, role, name, header):
                    found.setdefault((half, *place), {})[half_name] = half_header
                if match["kind"] == "weight":
                    found[(role, *place)].update(_norms(match["prefix"] + match["path"], tensors))
                break
    if len(found) > MOST_PARTS:
        raise NotAnEncoder(
            f"it has {len(found):,} feed-forward modules", "no encoder has so many: is it the right file?"
        )
    gated = any(role == "gate" for role, *_ in found)
    for (role, stack, index, layer), members in sorted(found.items(), key=_order):
        acts = activation if role == "gate" or not gated else None
        yield Part(role, layer, stack, index, acts, _weight_first(members))
    yield from _poolers(layout, tensors, config)


def _weight_first(members: Mapping[str, TensorHeader]) -> dict[str, TensorHeader]:
    ranks = {"weight": 0, "bias": 1, "norm": 2}
    return dict(sorted(members.items(), key=lambda item: ranks[kind_of(item[0])]))


def _place(match: re.Match[str]) -> tuple[str | None, int | None, int]:
    groups = match.groupdict()
    words = [match["prefix"].rstrip("."), groups.get("stack"), groups.get("side")]
    stack = ".".join(word for word in words if word) or None
    index = groups.get("index")
    return stack, int(index) if index is not None else None, int(match["layer"])


def _order(item: tuple[tuple[str, str | None, int | None, int | None], Any]) -> tuple[Any, ...]:
    role, stack, index, layer = item[0]
    return stack or "", -1 if index is None else index, -1 if layer is None else layer, role


def _halves(layout: Layout, role: str, name: str, header: TensorHeader) -> Iterable[tuple[str, str, TensorHeader]]:
    """A tensor in canonical orientation; a fused one as its two halves, each with its rows in its name."""
    if layout.fused is None or not header.shape:
        grouped = layout.canonical and len(header.shape) == 3  # ConvBERT's GroupedLinear is (groups, in, out)
        return [(role, name, header.permuted((0, 2, 1)) if grouped else header)]
    rows = header.shape[0] if header.shape else 0
    half = rows // 2
    first, second = ("gate", "intermediate") if layout.fused.startswith("first") else ("intermediate", "gate")
    return [
        (first, halved(name, 0, half), header.rows(0, half)),
        (second, halved(name, half, rows), header.rows(half, rows)),
    ]


def _norms(path: str, tensors: Mapping[str, TensorHeader]) -> dict[str, TensorHeader]:
    """The layer norm that RoBERTa-PreLayerNorm keeps inside its Intermediate."""
    module = path.rpartition(".")[0]
    names = (f"{module}.LayerNorm.{kind}" for kind in ("weight", "bias"))
    return {name: tensors[name] for name in names if name in tensors}


def _poolers(layout: Layout, tensors: Mapping[str, TensorHeader], config: Mapping[str, Any]) -> Iterator[Part]:
    if layout.pooler_pattern is None:
        return
    found: dict[str | None, dict[str, TensorHeader]] = {}
    for name, header in tensors.items():
        if match := layout.pooler_pattern.fullmatch(name):
            found.setdefault(match["prefix"].rstrip(".") or None, {})[name] = header
    for stack, members in sorted(found.items(), key=lambda item: item[0] or ""):
        # DeBERTa's classifier keeps a pooler of its own, with an activation of its own.
        yield Part("pooler", None, stack, None, str(config.get("pooler_hidden_act", "tanh")), _weight_first(members))
