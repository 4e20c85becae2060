"""The forward pass over packed tokens, made of `layers`, for every family of the BERT layout.

Weights are views of the checkpoint's bytes under their canonical names; only the layers up to the deepest one asked for
are touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bertprobe import layers
from bertprobe.anatomy import Anatomy
from bertprobe.backends import Activation, Array, Backend
from bertprobe.checkpoint import Checkpoint, TensorHeader, map_tensors
from bertprobe.errors import PartMissing, UnsupportedFile, printable, quoted

if TYPE_CHECKING:
    from bertprobe.tokens import Packed

NATIVE = ("bert", "roberta", "xlm-roberta", "camembert", "data2vec-text", "electra", "ernie", "dpr")
# These count positions from the padding token's id on: the first real token stands at padding_idx + 1.
COUNTS_FROM_PADDING = ("roberta", "xlm-roberta", "camembert", "data2vec-text")

Tap = Callable[[int, Array, Array], None]
"""Called in each layer with its number and BertIntermediate's values before and after the activation, (T, I) each."""

_EMBEDDINGS = tuple(
    f"embeddings.{name}"
    for name in (
        "word_embeddings.weight",
        "position_embeddings.weight",
        "token_type_embeddings.weight",
        "LayerNorm.weight",
        "LayerNorm.bias",
    )
)
_OPTIONAL = ("embeddings.task_type_embeddings.weight", "embeddings_project.weight", "embeddings_project.bias")
_LAYER = tuple(
    f"{name}.{kind}"
    for name in (
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "attention.output.LayerNorm",
        "intermediate.dense",
        "output.dense",
        "output.LayerNorm",
    )
    for kind in ("weight", "bias")
)
_TABLES = ("embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight",
           "embeddings.token_type_embeddings.weight", "embeddings.task_type_embeddings.weight")  # fmt: skip


@dataclass(frozen=True)
class Encoder:
    """A BERT ready to run: `depth` layers of weights on a backend, and the few settings the formulas need."""

    backend: Backend
    weights: Mapping[str, Array]
    depth: int
    heads: int
    eps: float
    activation_name: str
    activation: Activation
    padding_idx: int | None

    @property
    def positions(self) -> int:
        """The most tokens a text may have."""
        rows: int = self.weights["embeddings.position_embeddings.weight"].shape[0]
        return rows if self.padding_idx is None else rows - self.padding_idx - 1

    @property
    def vocabulary(self) -> int:
        """Rows of the word embeddings."""
        rows: int = self.weights["embeddings.word_embeddings.weight"].shape[0]
        return rows

    @property
    def has_pooler(self) -> bool:
        return "pooler.dense.weight" in self.weights


def why_not_native(checkpoint: Checkpoint, anatomy: Anatomy) -> str | None:
    """Why a checkpoint cannot go through this encoder, None where it can."""
    config = checkpoint.config or {}
    if not anatomy.row.canonical or anatomy.family not in NATIVE:
        return f"the family {anatomy.family} is not of BERT's layout"
    if config.get("is_decoder") or config.get("add_cross_attention"):
        return "its config makes it a decoder"
    if config.get("position_embedding_type", "absolute") != "absolute":
        return f"its positions are {printable(str(config['position_embedding_type']))}"
    missing = [name for name in _EMBEDDINGS if name not in anatomy.tensors]
    return f"it has no {missing[0]}" if missing else None


def load_encoder(
    checkpoint: Checkpoint, anatomy: Anatomy, backend: Backend, *, depth: int | None = None, pooler: bool = True
) -> Encoder:
    """The encoder of a checkpoint up to `depth` layers (all by default), with its pooler where asked for and there.

    Raises `UnsupportedFile` for a checkpoint that is not of this layout or whose config leaves out what the formulas
    need, and `PartMissing` for a tensor that is not there; nothing is ever filled in.
    """
    reason = why_not_native(checkpoint, anatomy)
    if reason is not None:
        raise UnsupportedFile(f"{printable(checkpoint.ref)} cannot be run here: {reason}", "it needs transformers")
    count = len(anatomy.layers)
    depth = count if depth is None else min(depth, count)
    names = [*_EMBEDDINGS, *(f"encoder.layer.{i}.{name}" for i in range(depth) for name in _LAYER)]
    missing = [name for name in names if name not in anatomy.tensors]
    if missing:
        raise PartMissing(f"{printable(checkpoint.ref)} has no {missing[0]}", "fetch it again: nothing is filled in")
    names += [name for name in _OPTIONAL if name in anatomy.tensors]
    if pooler:
        names += [name for name in ("pooler.dense.weight", "pooler.dense.bias") if name in anatomy.tensors]
    config = checkpoint.config or {}
    activation = anatomy.promised.activation
    if activation is None:
        raise UnsupportedFile(
            f"no config says which activation {printable(checkpoint.ref)} uses",
            "put its config.json (or bert_config.json) beside it",
        )
    return Encoder(
        backend=backend,
        weights=_weights(backend, {name: anatomy.tensors[name] for name in names}),
        depth=depth,
        heads=_heads(checkpoint, anatomy),
        eps=float(config.get("layer_norm_eps", 1e-12)),
        activation_name=activation,
        activation=backend.activation(activation),
        padding_idx=int(config.get("pad_token_id") or 0) if anatomy.family in COUNTS_FROM_PADDING else None,
    )


def _heads(checkpoint: Checkpoint, anatomy: Anatomy) -> int:
    found = (checkpoint.config or {}).get("num_attention_heads")
    width = anatomy.tensors["encoder.layer.0.attention.self.query.weight"].shape[0] if anatomy.layers else 1
    if type(found) is not int or found < 1 or width % found:
        raise UnsupportedFile(
            f"{printable(checkpoint.ref)} has num_attention_heads {quoted(str(found))} for a width of {width}",
            "mend config.json: shapes alone do not tell the number of heads",
        )
    return found


def _weights(backend: Backend, headers: Mapping[str, TensorHeader]) -> dict[str, Array]:
    """Views of the tensors on the backend; embedding tables stay as they are stored, and are gathered from."""
    tables = [name for name in headers if name in _TABLES]
    rest = [name for name in headers if name not in _TABLES]
    found = dict(_mapped(headers, tables, counted=False))
    for name, values in _mapped(headers, rest):
        found[name] = backend.matrix(values) if values.ndim == 2 else backend.array(values)
    return found


def _mapped(
    headers: Mapping[str, TensorHeader], names: Sequence[str], *, counted: bool = True
) -> Iterator[tuple[str, Array]]:
    """Names with their tensors, in the order in which these come: what is read and not mapped comes last."""
    by_header = {id(headers[name]): name for name in names}
    for header, values in map_tensors((headers[name] for name in names), counted=counted):
        yield by_header[id(header)], values


def encode(encoder: Encoder, packed: Packed, tap: Tap | None = None, *, first_only: bool = False) -> Array:
    """The last hidden state of every token (T, H), or with `first_only` of the first token of every text (N, H).

    With `first_only` the last layer runs for first tokens only; `tap` then sees these alone in that layer.
    """
    backend, weights, eps = encoder.backend, encoder.weights, encoder.eps
    lengths = [int(length) for length in packed.lengths]
    firsts = first_tokens(packed) if first_only else None
    x = layers.embed(backend, weights, packed.ids, _positions(encoder, packed), packed.segments, eps)
    for number in range(encoder.depth):
        layer = f"encoder.layer.{number}."
        rows = firsts if number == encoder.depth - 1 else None
        attended = layers.attend(backend, weights, layer, x, rows, encoder.heads, lengths, eps)
        before, after = layers.intermediate(backend, weights, layer, attended, encoder.activation)
        if tap is not None:
            tap(number, before, after)
        x = layers.output(backend, weights, layer, after, attended, eps)
    return x


def pool(encoder: Encoder, first: Array) -> Array:
    """The pooled output of first tokens' hidden states: (N, H) → (N, H)."""
    return layers.pool(encoder.backend, encoder.weights, first)


def first_tokens(packed: Packed) -> Array:
    """Where each text begins in the packed row, (N,)."""
    import numpy as np

    ends = np.cumsum(packed.lengths)
    return ends - np.asarray(packed.lengths)


def _positions(encoder: Encoder, packed: Packed) -> Array:
    """The row of the position table for each token, (T,).

    RoBERTa and its kin count real tokens only, so that a padding token written in the text keeps the padding position.
    """
    import numpy as np

    if encoder.padding_idx is None:
        return packed.positions
    real = (np.asarray(packed.ids) != encoder.padding_idx).astype(np.int64)
    counted = np.cumsum(real)
    before = np.repeat(counted[first_tokens(packed)] - real[first_tokens(packed)], packed.lengths)
    return (counted - before) * real + encoder.padding_idx
