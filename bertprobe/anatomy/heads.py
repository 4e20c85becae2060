"""`HEADS`: what masked-language-model heads are made of, by the names of their tensors.

Read off the classes for masked language modelling in transformers 5.23. A head is a dense layer, an activation, a layer
norm and a decoder, which is mostly the word embeddings once more. A head that no row describes is told, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from bertprobe.anatomy import Anatomy, Part
from bertprobe.anatomy.naming import whole
from bertprobe.checkpoint import TensorHeader, check_readable
from bertprobe.errors import PartMissing, UnsupportedFile, printable

# The table of word embeddings, under one of these names.
_WORDS = (
    "embeddings.word_embeddings.weight",
    "embeddings.tok_embeddings.weight",
    "embed_tokens.weight",
    "embeddings.weight",
    "shared.weight",
    "word_embedding.weight",
)
WORD_EMBEDDINGS = "word embeddings"


class HeadRow(NamedTuple):
    """A row of `HEADS`: names of modules and tensors, empty where a head has none.

    `dense` names it: a checkpoint with that weight has this head. `norms` and `biases` are names of which one is there.
    `activation` is the one in force where no `setting` says it, None for the model's own. `eps` is the layer norm's, or
    the setting that says it; `when` is a setting that must have a value for the head to be the model's own.
    """

    dense: str
    norms: tuple[str, ...]
    decoder: str
    biases: tuple[str, ...]
    activation: str | None = None
    setting: str = ""
    eps: float | str = "layer_norm_eps"
    tied: bool = True
    when: tuple[str, Any] | None = None


_BIASES = ("cls.predictions.decoder.bias", "cls.predictions.bias")

HEADS: tuple[HeadRow, ...] = (
    HeadRow(
        "cls.predictions.transform.dense",
        ("cls.predictions.transform.LayerNorm", "cls.predictions.transform.layer_norm"),
        "cls.predictions.decoder.weight",
        _BIASES,
    ),
    HeadRow(  # RemBERT: its output embeddings are its own
        "cls.predictions.dense",
        ("cls.predictions.LayerNorm",),
        "cls.predictions.decoder.weight",
        _BIASES,
        tied=False,
    ),
    HeadRow(  # RoBERTa's kin have gelu whatever their layers have
        "lm_head.dense",
        ("lm_head.layer_norm", "lm_head.norm"),
        "lm_head.decoder.weight",
        ("lm_head.decoder.bias", "lm_head.bias"),
        activation="gelu",
    ),
    HeadRow(  # ELECTRA and ConvBERT: a generator's
        "generator_predictions.dense",
        ("generator_predictions.LayerNorm",),
        "generator_lm_head.weight",
        ("generator_lm_head.bias",),
        activation="gelu",
    ),
    HeadRow(  # DistilBERT
        "vocab_transform",
        ("vocab_layer_norm",),
        "vocab_projector.weight",
        ("vocab_projector.bias",),
        eps=1e-12,
    ),
    HeadRow(  # ALBERT
        "predictions.dense",
        ("predictions.LayerNorm",),
        "predictions.decoder.weight",
        ("predictions.decoder.bias", "predictions.bias"),
    ),
    HeadRow(  # ModernBERT
        "head.dense",
        ("head.norm",),
        "decoder.weight",
        ("decoder.bias",),
        setting="classifier_activation",
        activation="gelu",
        eps="norm_eps",
    ),
    HeadRow(  # DeBERTa with legacy=false; files of a discriminator may hold its generator's
        "lm_predictions.lm_head.dense",
        ("lm_predictions.lm_head.LayerNorm",),
        "",
        ("lm_predictions.lm_head.bias",),
        when=("legacy", False),
    ),
)

# The norm after the last layer of families that normalise before a layer, which their head stands behind.
_FINAL = ("encoder.ln", "encoder.emb_layer_norm_after", "encoder.LayerNorm", "LayerNorm", "final_norm", "norm")
_FINAL_EPS = {"final_norm": "norm_eps"}
# Names that begin so are a head's, known or not.
_OF_A_HEAD = re.compile(
    r"(lm_head|cls\.predictions|predictions|pred_layer|generator_lm_head|vocab_projector|lm_loss|lm_predictions)\.|"
    r"(cls|decoder)\.(weight|bias)$"
)


@dataclass(frozen=True, eq=False)
class Norm:
    """A layer norm: where it is, its tensors, `bias` None where it has none, and its eps."""

    name: str
    weight: TensorHeader
    bias: TensorHeader | None
    eps: float


@dataclass(frozen=True, eq=False)
class Head:
    """A masked-language-model head of a checkpoint: H → E by a dense layer, activation and norm, E → V by a decoder.

    `dense` is its module's name; `decoder` (V, E) is the word embeddings where it is tied. `bias` (V,) is None where
    the decoder has none.
    """

    dense: str
    weight: TensorHeader
    dense_bias: TensorHeader | None
    activation: str
    norm: Norm
    decoder_name: str
    decoder: TensorHeader
    bias: TensorHeader | None

    @property
    def steps(self) -> tuple[str, ...]:
        """Its steps by name."""
        return self.dense, self.activation, self.norm.name, self.decoder_name


def word_embeddings(anatomy: Anatomy) -> TensorHeader | None:
    """The table of word embeddings (V, E), None where it has no name that is known."""
    found = (anatomy.tensors.get(name) for name in _WORDS)
    return next((header for header in found if header is not None and len(header.shape) == 2), None)


def final_norm(anatomy: Anatomy) -> Norm | None:
    """The norm between the last layer and all that reads it, None in families that normalise after each layer."""
    name = next((name for name in _FINAL if f"{name}.weight" in anatomy.tensors), None)
    if name is None:
        return None
    norm = _norm(anatomy, name, _FINAL_EPS.get(name, "layer_norm_eps"))
    if any(one is not None and one.shape != (anatomy.widths[0],) for one in (norm.weight, norm.bias)):
        raise UnsupportedFile(f"{printable(name)} is not as wide as the hidden states", "fetch it again")
    return norm


def find_head(anatomy: Anatomy) -> Head | None:
    """The masked-language-model head of a checkpoint, None where it has none.

    Raises `UnsupportedFile` for a head that no row describes, or one whose tensors do not fit each other, and
    `PartMissing` for one of which a tensor is not there; nothing is ever filled in.
    """
    row = next((row for row in HEADS if f"{row.dense}.weight" in anatomy.tensors and _is_own(row, anatomy)), None)
    if row is None:
        odd = next((name for name in anatomy.tensors if _OF_A_HEAD.match(name)), None)
        if odd is None or any(f"{row.dense}.weight" in anatomy.tensors for row in HEADS):
            return None
        raise UnsupportedFile(
            f"its masked-language-model head has a form that is not known: {printable(odd)}",
            "please report this model",
        )
    head = _head(anatomy, row)
    _check(head, anatomy.widths[0])
    return head


def _is_own(row: HeadRow, anatomy: Anatomy) -> bool:
    return row.when is None or anatomy.settings.get(row.when[0]) == row.when[1]


def _head(anatomy: Anatomy, row: HeadRow) -> Head:
    there = anatomy.tensors
    norm = next((name for name in row.norms if f"{name}.weight" in there), None)
    if norm is None:
        raise PartMissing(f"its head has no {row.norms[0]}.weight", "fetch it again: nothing is filled in")
    if "cls.predictions.dense.weight" in there and row.dense == "cls.predictions.transform.dense":
        raise UnsupportedFile("its head is MobileBERT's, whose decoder is in two parts", "it is not read here")
    return Head(
        dense=row.dense,
        weight=there[f"{row.dense}.weight"],
        dense_bias=there.get(f"{row.dense}.bias"),
        activation=_activation(anatomy, row),
        norm=_norm(anatomy, norm, row.eps),
        decoder_name=row.decoder if row.decoder in there else WORD_EMBEDDINGS,
        decoder=_decoder(anatomy, row),
        bias=next((there[name] for name in row.biases if name in there), None),
    )


def _activation(anatomy: Anatomy, row: HeadRow) -> str:
    said = anatomy.settings.get(row.setting) if row.setting else None
    found = said or row.activation or anatomy.config_spec.activation
    if not isinstance(found, str):
        raise UnsupportedFile("no config says which activation its head uses", "put its config.json beside it")
    return found


def _decoder(anatomy: Anatomy, row: HeadRow) -> TensorHeader:
    """The decoder's own matrix where it is there, else the word embeddings, to which transformers ties it."""
    own, words = anatomy.tensors.get(row.decoder), word_embeddings(anatomy)
    untied = not row.tied or anatomy.settings.get("tie_word_embeddings") is False
    found = own if own is not None or untied else words
    if found is None:
        raise PartMissing(f"its head has no {row.decoder or _WORDS[0]}", "fetch it again: nothing is filled in")
    return found


def _norm(anatomy: Anatomy, name: str, eps: float | str) -> Norm:
    value = anatomy.settings.get(eps, anatomy.row.eps) if isinstance(eps, str) else eps
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UnsupportedFile(f"config.json gives {eps} as {printable(str(value))}", "mend it: it is a number")
    there = anatomy.tensors
    return Norm(name, there[f"{name}.weight"], there.get(f"{name}.bias"), float(value))


def _check(head: Head, hidden: int | None) -> None:
    """Raises `UnsupportedFile` where the shapes of a head's tensors do not fit each other, or the hidden states."""
    narrow, entries = head.weight.shape[:1], head.decoder.shape[:1]
    shapes = (
        (head.weight, (*narrow, hidden)),
        (head.dense_bias, narrow),
        (head.norm.weight, narrow),
        (head.norm.bias, narrow),
        (head.decoder, (*entries, *narrow)),
        (head.bias, entries),
    )
    for header, wanted in shapes:
        if header is not None and header.shape != wanted:
            raise UnsupportedFile(
                f"{printable(header.name)} has the shape {list(header.shape)}, where the head wants {list(wanted)}",
                "its tensors do not fit each other: fetch it again",
            )


# ------------------------------------------------------------------------------------------------ of one neuron


def down_projection(anatomy: Anatomy, part: Part) -> TensorHeader:
    """The matrix (H, I) that a part's activations go through next: column n is what neuron n adds.

    Raises `UnsupportedFile` where it is not known which that is, or where it has no columns of single neurons.
    """
    name = _down_name(anatomy, part)
    header = anatomy.tensors.get(name)
    width = part.weight.shape[0] if part.weight is not None and part.weight.shape else 0
    if header is None:
        raise UnsupportedFile(
            f"the output column of neurons of {part.label} is not known: there is no {name or 'down-projection'}",
            "their input row is; please report this model",
        )
    if len(header.shape) != 2 or header.shape[1] != width:
        raise UnsupportedFile(
            f"{name} has the shape {list(header.shape)}: no column of it is one of {width} neurons",
            "its layers are grouped or convolutions, whose neurons have no output column",
        )
    check_readable(header)
    return header


def _down_name(anatomy: Anatomy, part: Part) -> str:
    if anatomy.layout.down is None:
        return ""
    ending, instead = anatomy.layout.down
    path, count = re.subn(ending, instead, whole(part.weight_name)[0].removesuffix(".weight"))
    return f"{path}.weight" if count else ""


def part_of(anatomy: Anatomy, layer: int) -> Part:
    """The intermediate module of a layer of the main stack; raises `PartMissing` where there is none."""
    found: Mapping[int | None, Part] = {p.layer: p for p in anatomy.of("intermediate") if p.stack is None}
    if layer not in found:
        raise PartMissing(f"there is no layer {layer}", "bertprobe inspect --shapes lists its names")
    return found[layer]
