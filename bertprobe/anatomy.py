"""Which tensors are which part, under one name and in one orientation whatever the file calls them.

Names of other libraries are put into PyTorch's spelling first (`spelling`); from there on nobody knows the difference.

A model is judged by its tensors: a row recognises itself by tensor names, and the
config is asked only where names alone cannot tell (an encoder that spells its layers as decoders do), for the
activation, and to compare what it promises with what is there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bertprobe.checkpoint import Checkpoint, TensorHeader
from bertprobe.errors import NotAnEncoder, PartMissing, printable, quoted
from bertprobe.families import ALIASES, FAMILIES, INNER_WRAPPING, LOOKALIKES, OTHER_DEFAULTS, WRAPPING, Family
from bertprobe.shown import Shown
from bertprobe.spelling import dialect_of, respelled

LEAST_POSITIONS = 128  # of a table whose size tells anything
MOST_PARTS = 10_000  # an encoder has a few hundred at most; beyond that a table helps nobody


@dataclass(frozen=True)
class Part(Shown):
    """One module of the model: its role, its place, and its tensors by canonical name.

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
        return next((name for name in self.tensors if _kind(name) == "weight"), "")

    @property
    def bias_name(self) -> str:
        """The canonical name of its bias, empty where it has none."""
        return next((name for name in self.tensors if _kind(name) == "bias"), "")

    @property
    def weight(self) -> TensorHeader | None:
        return self.tensors.get(self.weight_name)

    @property
    def bias(self) -> TensorHeader | None:
        return self.tensors.get(self.bias_name)


def _kind(name: str) -> str:
    """`weight` or `bias` for the dense layer's own tensors, `norm` for a layer norm kept in the same module."""
    if ".LayerNorm." in name:
        return "norm"
    return name.partition("[")[0].rpartition(".")[2]


@dataclass(frozen=True)
class Promised:
    """What the config promises, each None where it does not say; a number in quotes stays text."""

    layers: Any
    hidden_size: Any
    intermediate_size: Any
    vocab_size: Any
    activation: str | None


@dataclass(frozen=True)
class Anatomy:
    """What a checkpoint is made of.

    `tensors` holds every tensor by canonical name, optimizer state aside; `prefix` is what stood before the canonical
    names of the encoder (dotted, also where the file has slashes) and `hiding` the leading part of it that transformers
    would not take off; `duplicates` are canonical names with the stored names that claim them, the one in use first;
    `spelling` is the library whose spelling the file has, empty for PyTorch's; `wrapping` is a word that a training
    tool put into the middle of names, empty where there is none.
    """

    family: str
    row: Family
    prefix: str
    hiding: str
    promised: Promised
    parts: tuple[Part, ...]
    tensors: Mapping[str, TensorHeader]
    duplicates: Mapping[str, tuple[str, ...]]
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
            n if type(n) is int else None for n in (self.promised.hidden_size, self.promised.intermediate_size)
        )
        up, pooler = self._shape("intermediate"), self._shape("pooler")
        wide = pooler if self.row.narrow else up or pooler
        return wide[1] if wide else hidden, up[0] if up else inner

    def _shape(self, role: str) -> tuple[int, ...] | None:
        """The shape of the first matrix of a role."""
        shapes = (part.weight.shape for part in self.of(role) if part.weight is not None)
        return next((shape for shape in shapes if len(shape) == 2), None)

    def of(self, *roles: str) -> tuple[Part, ...]:
        """The parts with one of these roles, in order."""
        return tuple(part for part in self.parts if part.role in roles)


def find_parts(checkpoint: Checkpoint) -> Anatomy:
    """The parts of a checkpoint, from tensor names and shapes; raises `NotAnEncoder` for what is none."""
    config = _text_config(checkpoint.config or {})
    stored, wrapping = _unwrapped(_marked(respelled(checkpoint.headers), checkpoint.config or {}))
    row = _recognise(checkpoint, stored, config)
    towers = _towers(checkpoint.config or {})
    naming = _Naming(row, _model_type(config), stored, composite=bool(towers))
    config = next((towers[word] for word in re.split("[._]", naming.prefix) if word in towers), config)
    tensors, duplicates = naming.canonical_names(stored)
    promised = _promised(row, config, checkpoint)
    dialect = dialect_of(checkpoint.headers)
    return Anatomy(
        family=_family(row, config, naming.prefix, tensors),
        row=row,
        prefix=naming.prefix,
        hiding=naming.hiding,
        promised=promised,
        parts=tuple(_parts(row, tensors, promised.activation, config)),
        tensors=tensors,
        duplicates=duplicates,
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
    from bertprobe.quantised import marked

    return marked(stored, config)


_MODULES = {"embeddings", "encoder", "pooler", "transformer", "layer", "layers", "cls", "classifier"}


def _unwrapped(stored: Mapping[str, TensorHeader]) -> tuple[dict[str, TensorHeader], str]:
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
    numbers = None if layers is None else _layer_numbers(layers, anatomy)
    return tuple(
        part
        for part in anatomy.parts
        if part.role in wanted and (numbers is None or part.layer is None or part.layer in numbers)
    )


def _layer_numbers(text: str, anatomy: Anatomy) -> set[int]:
    there = sorted({part.layer for part in anatomy.parts if part.layer is not None})
    found: set[int] = set()
    for item in text.split(","):
        match = re.fullmatch(r"\s*(-?\d{1,9})(?:\s*-\s*(-?\d{1,9}))?\s*", item)
        if match is None:
            raise PartMissing(f"--layers {quoted(text)} is not a list of layers", "write it as 0,3-5,-1")
        ends = (int(end) for end in (match[1], match[2] or match[1]))
        first, last = (end if end >= 0 or not there else there[-1] + 1 + end for end in ends)
        if first > last:
            raise PartMissing(f"--layers {item.strip()} runs backwards", "write the lower layer first")
        if first not in there or last not in there:
            has = f"layers {spans(there)}" if there else "no layers"
            raise PartMissing(
                f"--layers {item.strip()} asks for a layer that is not there", f"this checkpoint has {has}"
            )
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


# ------------------------------------------------------------------------------------------------ which row


def _recognise(checkpoint: Checkpoint, stored: Mapping[str, TensorHeader], config: Mapping[str, Any]) -> Family:
    model_type = _model_type(config)
    undecided = []
    for row in FAMILIES:
        if not _has(row, stored):
            continue
        if not row.needs_config or model_type in row.model_types:
            return row
        undecided.append(row)
    if not undecided and any(name.endswith("pooler.dense.weight") for name in stored) and _lookalike(stored) is None:
        # A file with the pooler alone, such as `export` writes; only BERT's spelling is so plain.
        return next(row for row in FAMILIES if row.canonical)
    raise _stranger(checkpoint, stored, config, undecided)


def _lookalike(stored: Mapping[str, TensorHeader]) -> str | None:
    """What a checkpoint that is no encoder seems to be."""
    return next((what for sign, what in LOOKALIKES if any(re.search(sign, name) for name in stored)), None)


def _has(row: Family, stored: Mapping[str, TensorHeader]) -> bool:
    sign = re.compile(row.sign) if row.sign else None
    patterns = [pattern for role, pattern in row.patterns if role == "intermediate"]
    found = any(pattern.fullmatch(name) for name in stored if name.endswith("weight") for pattern in patterns)
    return found and (sign is None or any(sign.search(name) for name in stored))


def _stranger(
    checkpoint: Checkpoint, stored: Mapping[str, TensorHeader], config: Mapping[str, Any], undecided: Sequence[Family]
) -> NotAnEncoder:
    kind = _lookalike(stored)
    said = f", its config says {quoted(_model_type(config))}" if _model_type(config) else ""
    first = printable(next((header.name for header in stored.values()), next(iter(checkpoint.headers))))
    looks = f"looks like {kind}" if kind else f"has tensors such as {first}"
    expected = "expected a BERT-like encoder, with tensors such as encoder.layer.0.intermediate.dense.weight"
    if undecided and not _model_type(config):
        types = ", ".join(sorted({t for row in undecided for t in row.model_types}))
        return NotAnEncoder(
            f"{checkpoint.resolved} {looks}, but spells its layers as {types} do too, and no config.json tells",
            "put its config.json beside it",
        )
    return NotAnEncoder(f"{checkpoint.resolved} {looks}{said}", expected)


def _family(row: Family, config: Mapping[str, Any], prefix: str, tensors: Mapping[str, TensorHeader]) -> str:
    """The config's model_type, else the class that saved it, else what the prefix or the position table says."""
    if _model_type(config):
        return _model_type(config)
    known = _by_class(row, config)
    for model_type, prefixes in row.model_types.items():
        if known is None and prefix.rstrip(".") in prefixes.split():
            known = model_type
    if known is not None:
        return known
    return "roberta" if row.canonical and _counts_from_padding(tensors) else row.name


def _by_class(row: Family, config: Mapping[str, Any]) -> str | None:
    """The family of the row whose classes are named as the config's `architectures` are: RobertaModel, RobertaFor…."""
    named = config.get("architectures")
    classes = [name.lower() for name in named if isinstance(name, str)] if isinstance(named, list) else []
    spelled = {model_type: re.sub("[-_]", "", model_type) for model_type in row.model_types}
    fitting = [family for family, word in spelled.items() if any(name.startswith(word) for name in classes)]
    return max(fitting, key=lambda family: len(spelled[family]), default=None)


def _counts_from_padding(tensors: Mapping[str, TensorHeader]) -> bool:
    """Whether a table of positions has the two rows more than a power of two that RoBERTa's never uses."""
    table = tensors.get("embeddings.position_embeddings.weight")
    rows = table.shape[0] - 2 if table is not None and len(table.shape) == 2 else 0
    return rows >= LEAST_POSITIONS and rows & (rows - 1) == 0


# ------------------------------------------------------------------------------------------------ names


# What else a model of several encoders has beside that of texts.
_OTHER_TOWERS = re.compile(r"(?:^|[._])(?:vision|visual|image|audio|speech|video|multimodal|decoder)(?:$|[._])")


class _Naming:
    """How stored names turn into canonical ones: what stands in front of the main encoder, and how much of it hides."""

    def __init__(
        self, row: Family, model_type: str, stored: Mapping[str, TensorHeader], *, composite: bool = False
    ) -> None:
        self.row = row
        known = row.model_types.get(model_type)
        self.natural = set((known if known is not None else " ".join(row.model_types.values())).split())
        self.strict = known is not None
        self.composite = composite
        self.prefix = self._main_prefix(stored)
        self.hiding = self._hiding(self.prefix)

    def _main_prefix(self, stored: Mapping[str, TensorHeader]) -> str:
        """The prefix of the most layers, the first in the file where two have as many; of towers a text encoder's."""
        counts: dict[str, int] = {}
        patterns = [pattern for _, pattern in self.row.patterns]
        if self.row.pooler_pattern is not None:
            patterns.append(self.row.pooler_pattern)
        for name in stored:
            for pattern in patterns:
                if match := pattern.fullmatch(name):
                    counts[match["prefix"]] = counts.get(match["prefix"], 0) + 1
                    break
        return max(counts, key=lambda prefix: (not _OTHER_TOWERS.search(prefix), counts[prefix]), default="")

    def _hiding(self, prefix: str) -> str:
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
        if self.row.canonical and "LayerNorm." in name:
            name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
            name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
        return name

    def _unwrapped(self, name: str) -> str:
        """A name outside the main prefix (a head, or a second copy of the encoder) as transformers would spell it."""
        if self.hiding and name.startswith(self.hiding):
            name = name[len(self.hiding) :]
        if not self.row.canonical:
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


# ------------------------------------------------------------------------------------------------ parts


def _parts(
    row: Family, tensors: Mapping[str, TensorHeader], activation: str | None, config: Mapping[str, Any]
) -> Iterator[Part]:
    found: dict[tuple[str, str | None, int | None, int | None], dict[str, TensorHeader]] = {}
    for name, header in tensors.items():
        for role, pattern in row.patterns:
            if match := pattern.fullmatch(name):
                place = _place(match)
                for half, half_name, half_header in _halves(row, role, name, header):
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
        yield Part(role, layer, stack, index, acts, members)
    yield from _poolers(row, tensors, config)


def _place(match: re.Match[str]) -> tuple[str | None, int | None, int]:
    groups = match.groupdict()
    words = [match["prefix"].rstrip("."), groups.get("stack"), groups.get("side")]
    stack = ".".join(word for word in words if word) or None
    index = groups.get("index")
    return stack, int(index) if index is not None else None, int(match["layer"])


def _order(item: tuple[tuple[str, str | None, int | None, int | None], Any]) -> tuple[Any, ...]:
    role, stack, index, layer = item[0]
    return stack or "", -1 if index is None else index, -1 if layer is None else layer, role


def _halves(row: Family, role: str, name: str, header: TensorHeader) -> Iterable[tuple[str, str, TensorHeader]]:
    """A tensor in canonical orientation; a fused one as its two halves, each with its rows in its name."""
    if row.fused is None or not header.shape:
        grouped = row.canonical and len(header.shape) == 3  # ConvBERT's GroupedLinear is (groups, in, out)
        return [(role, name, header.permuted((0, 2, 1)) if grouped else header)]
    rows = header.shape[0] if header.shape else 0
    half = rows // 2
    first, second = ("gate", "intermediate") if row.fused.startswith("first") else ("intermediate", "gate")
    return [
        (first, f"{name}[0:{half}]", header.rows(0, half)),
        (second, f"{name}[{half}:{rows}]", header.rows(half, rows)),
    ]


def _norms(path: str, tensors: Mapping[str, TensorHeader]) -> dict[str, TensorHeader]:
    """The layer norm that RoBERTa-PreLayerNorm keeps inside its Intermediate."""
    module = path.rpartition(".")[0]
    names = (f"{module}.LayerNorm.{kind}" for kind in ("weight", "bias"))
    return {name: tensors[name] for name in names if name in tensors}


def _poolers(row: Family, tensors: Mapping[str, TensorHeader], config: Mapping[str, Any]) -> Iterator[Part]:
    if row.pooler_pattern is None:
        return
    found: dict[str | None, dict[str, TensorHeader]] = {}
    for name, header in tensors.items():
        if match := row.pooler_pattern.fullmatch(name):
            found.setdefault(match["prefix"].rstrip(".") or None, {})[name] = header
    for stack, members in sorted(found.items(), key=lambda item: item[0] or ""):
        # DeBERTa's classifier keeps a pooler of its own, with an activation of its own.
        yield Part("pooler", None, stack, None, str(config.get("pooler_hidden_act", "tanh")), members)


# ------------------------------------------------------------------------------------------------ the config

_HIDDEN = ("hidden_size", "d_model", "dim", "emb_dim", "n_embd")
_INTERMEDIATE = (
    "intermediate_size",
    "d_inner",
    "hidden_dim",
    "dim_ff",
    "feed_forward_size",
    "encoder_ffn_dim",
    "d_ff",
    "n_inner",
)
_LAYERS = ("num_hidden_layers", "n_layers", "n_layer", "encoder_layers", "num_layers")


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of the text encoder, which a model of several encoders keeps one level down."""
    if not any(key in config for key in _HIDDEN):
        for key in ("text_config", "encoder", "question_encoder", "qformer_config"):
            if isinstance(config.get(key), Mapping):
                return config[key]  # type: ignore[no-any-return]
    return config


def _towers(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The settings of each encoder of several by the word that its tensors' names have: text, vision, decoder."""
    return {
        key.removesuffix("_config"): value
        for key, value in config.items()
        if isinstance(value, Mapping) and any(name in value for name in _HIDDEN)
    }


def _model_type(config: Mapping[str, Any]) -> str:
    """The config's model_type, empty where it has none or no text."""
    found = config.get("model_type")
    return found if isinstance(found, str) else ""


def _first(config: Mapping[str, Any], keys: Iterable[str]) -> Any:
    return next((config[key] for key in keys if config.get(key) is not None), None)


def _promised(row: Family, config: Mapping[str, Any], checkpoint: Checkpoint) -> Promised:
    notes = checkpoint.metadata  # of a file that `export` wrote
    hidden, inner = (
        int(notes[key]) if re.fullmatch("[0-9]{1,9}", notes.get(key, "")) else None
        for key in ("hidden_size", "intermediate_size")
    )
    return Promised(
        layers=_first(config, _LAYERS),
        hidden_size=_first(config, _HIDDEN) if config else hidden,
        intermediate_size=_first(config, _INTERMEDIATE) if config else inner,
        vocab_size=config.get("vocab_size"),
        activation=_activation(row, config, checkpoint),
    )


def _activation(row: Family, config: Mapping[str, Any], checkpoint: Checkpoint) -> str | None:
    """The activation in force: the config's, else transformers' default for that family, else unknown."""
    if not checkpoint.config:
        return checkpoint.metadata.get("hidden_act")
    value = _first(config, row.activation)
    if isinstance(value, bool):  # XLM says gelu_activation: true
        return "gelu" if value else "relu"
    if isinstance(value, str):
        return ALIASES.get(value, value)
    return OTHER_DEFAULTS.get(_model_type(config), row.default)
