"""The forward pass over packed tokens, made of `layers`, for every family of the BERT layout.

Weights are the checkpoint's own under their canonical names; only the layers up to the deepest one asked for are read,
and of the embedding tables only the rows of the tokens at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bertprobe import layers
from bertprobe.anatomy import Anatomy
from bertprobe.anatomy.native import EMBEDDINGS, why_not_native
from bertprobe.backends import Activation, Array, Backend
from bertprobe.checkpoint import Checkpoint, TensorHeader, read_tensors
from bertprobe.checkpoint.config import check_faults
from bertprobe.checkpoint.rows import row_table
from bertprobe.checkpoint.source import Arena, Memory
from bertprobe.checkpoint.tensors import check_readable
from bertprobe.errors import PartMissing, UnsupportedFile, printable, quoted

if TYPE_CHECKING:
    from bertprobe.tokens import Packed

SPARE = 2**20  # bytes beside a layer's own that reading it may take: what lies between its tensors, and alignment

OnLayer = Callable[[int, Array, Array], Array]
"""Called in each layer with its number and BertIntermediate's values before and after the activation, (T, I) each.

What it returns goes on through the model: the values after the activation, or others in their place.
"""

OnState = Callable[[int, Array], None]
"""Called with hidden states (T, H): 0 and those that the embeddings put out, n + 1 and those of layer n."""

# Every tensor of BERT's layout with its shape. H hidden size, E width of the embeddings, A of all heads, I intermediate
# size, P of the pooled output; V entries, L positions, S segments and K tasks are the rows of tables.
_EMBEDDINGS = dict(zip(EMBEDDINGS, ("VE", "LE", "SE", "E", "E"), strict=True))
_TASKS = {"embeddings.task_type_embeddings.weight": "KE"}
_OPTIONAL = {
    "embeddings_project.weight": "HE",
    "embeddings_project.bias": "H",
}
_POOLER = {"pooler.dense.weight": "PH", "pooler.dense.bias": "P"}
_LAYER = {
    "attention.self.query.weight": "AH",
    "attention.self.query.bias": "A",
    "attention.self.key.weight": "AH",
    "attention.self.key.bias": "A",
    "attention.self.value.weight": "AH",
    "attention.self.value.bias": "A",
    "attention.output.dense.weight": "HA",
    "attention.output.dense.bias": "H",
    "attention.output.LayerNorm.weight": "H",
    "attention.output.LayerNorm.bias": "H",
    "intermediate.dense.weight": "IH",
    "intermediate.dense.bias": "I",
    "output.dense.weight": "HI",
    "output.dense.bias": "H",
    "output.LayerNorm.weight": "H",
    "output.LayerNorm.bias": "H",
}
_TABLES = ("embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight",
           "embeddings.token_type_embeddings.weight", "embeddings.task_type_embeddings.weight")  # fmt: skip
_SIZES = {"H": "the hidden size", "E": "the embeddings' width", "A": "the heads' width", "I": "the intermediate size",
          "P": "the pooled output's width", "V": "a row an entry", "L": "a row a position", "S": "a row a segment",
          "K": "a row a task"}  # fmt: skip
# The settings that decide what a text comes to.
_SETTINGS = ("model_type", "layer_norm_eps", "num_attention_heads", "pad_token_id", "position_embedding_type",
             "is_decoder", "add_cross_attention")  # fmt: skip


class LayerWeights:
    """The weights of each layer by canonical name, read when a pass comes to the layer.

    A single pass uses each layer once. So numpy reads them one after the other into the same memory, a layer's worth,
    and keeps what it reads from the second pass on; other libraries lay weights out anew, and keep them at once.
    """

    def __init__(self, backend: Backend, headers: Sequence[Mapping[str, TensorHeader]]) -> None:
        self._backend, self._headers = backend, headers
        self._kept: dict[int, Mapping[str, Array]] = {}
        self._passes = 0

    def __getitem__(self, number: int) -> Mapping[str, Array]:
        """The weights of one layer, kept from now on."""
        if number not in self._kept:
            self._kept[number] = _read(self._backend, self._headers[number])
        return self._kept[number]

    def keep(self, depth: int) -> None:
        """Reads what is not there yet of the first `depth` layers: passes side by side share them."""
        for number in range(depth):
            self[number]

    def in_turn(self, depth: int) -> Iterator[Mapping[str, Array]]:
        """The weights of the first `depth` layers for a pass over them: each holds until the next is asked for."""
        self._passes += 1
        if self._passes > 1 or self._backend.name != "numpy":
            yield from (self[number] for number in range(depth))
            return
        most = max((sum(header.nbytes for header in layer.values()) for layer in self._headers[:depth]), default=0)
        arena = Arena(most + SPARE)
        for number in range(depth):
            arena.reuse()
            yield self._kept[number] if number in self._kept else _read(self._backend, self._headers[number], arena)


@dataclass(frozen=True)
class Encoder:
    """A BERT ready to run: `depth` layers on a backend, and the few settings the formulas need.

    `weights` are those of the embeddings and the pooler, `layers` those of each layer, `heads` how many each layer has.
    """

    backend: Backend
    weights: Mapping[str, Array]
    layers: LayerWeights
    depth: int
    heads: tuple[int, ...]
    eps: float
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
    def segments(self) -> int:
        """Rows of the segment embeddings."""
        rows: int = self.weights["embeddings.token_type_embeddings.weight"].shape[0]
        return rows

    @property
    def has_pooler(self) -> bool:
        return "pooler.dense.weight" in self.weights


def load_encoder(
    checkpoint: Checkpoint, anatomy: Anatomy, backend: Backend, *, depth: int | None = None, pooler: bool = True
) -> Encoder:
    """The encoder of a checkpoint up to `depth` layers (all by default), with its pooler where asked for and there.

    Raises `UnsupportedFile` for a checkpoint that is not of this layout or whose config leaves out what the formulas
    need, and `PartMissing` for a tensor that is not there; nothing is ever filled in.
    """
    reason = why_not_native(anatomy)
    if reason is not None:
        raise UnsupportedFile(f"{printable(checkpoint.ref)} cannot be run here: {reason}", "it needs transformers")
    check_faults(checkpoint.faults, printable(checkpoint.ref), (*_SETTINGS, *anatomy.layout.activation))
    count = len(anatomy.layers)
    if not count:
        raise PartMissing(
            f"no layer of {printable(checkpoint.ref)} is under a name that is known",
            "bertprobe inspect --shapes lists its names",
        )
    depth = count if depth is None else min(depth, count)
    outer, within = _tensors(checkpoint, anatomy, depth, pooler)
    activation = anatomy.config_spec.activation
    if activation is None:
        raise UnsupportedFile(
            f"no config says which activation {printable(checkpoint.ref)} uses",
            "put its config.json (or bert_config.json) beside it",
        )
    config = anatomy.settings
    padding_idx = _padding_idx(config, anatomy.row.padding)
    _check_positions(checkpoint, config, padding_idx, outer[_TABLES[1]].shape[0])
    return Encoder(
        backend=backend,
        weights=_read(backend, outer),
        layers=LayerWeights(backend, within),
        depth=depth,
        heads=_heads(checkpoint, anatomy, within),
        eps=float(config.get("layer_norm_eps", 1e-12)),
        activation=backend.activation(activation),
        padding_idx=padding_idx,
    )


Headers = dict[str, TensorHeader]


def _tensors(checkpoint: Checkpoint, anatomy: Anatomy, depth: int, pooler: bool) -> tuple[Headers, list[Headers]]:
    """The tensors around the layers and those of each layer, once all are there and their shapes fit each other."""
    there = anatomy.tensors
    tasks = _TASKS if anatomy.settings.get("use_task_id") else {}  # else transformers leaves the table out
    maybe = {**_OPTIONAL, **tasks, **(_POOLER if pooler else {})}
    optional = {name: shape for name, shape in maybe.items() if name in there}
    shapes = {**_EMBEDDINGS, **optional}
    of_layers = [{f"encoder.layer.{i}.{name}": shape for name, shape in _LAYER.items()} for i in range(depth)]
    missing = [name for names in (shapes, *of_layers) for name in names if name not in there]
    if missing:
        raise PartMissing(f"{printable(checkpoint.ref)} has no {missing[0]}", "fetch it again: nothing is filled in")
    for name in (name for names in (shapes, *of_layers) for name in names if there[name].refusal is not None):
        check_readable(there[name])
    sizes: dict[str, int] = {}
    if "embeddings_project.weight" not in there:  # then the embeddings are as wide as what goes through the layers
        shapes = {name: shape.replace("E", "H") for name, shape in shapes.items()}
    _check_shapes(there, shapes, sizes)
    for names in of_layers:
        _check_shapes(there, names, {"H": sizes["H"]})
    return {name: there[name] for name in shapes}, [{name: there[name] for name in names} for names in of_layers]


def _check_shapes(tensors: Mapping[str, TensorHeader], shapes: Mapping[str, str], sizes: dict[str, int]) -> None:
    """Takes each size from the tensor that first has it, and raises `UnsupportedFile` for one that has another."""
    for name, letters in shapes.items():
        shape = tensors[name].shape
        fits = len(shape) == len(letters) and all(n > 0 for n in shape)
        if not fits or any(sizes.setdefault(letter, n) != n for letter, n in zip(letters, shape, strict=True)):
            wanted = " × ".join(f"{_SIZES[x]} ({sizes[x]})" if x in sizes else _SIZES[x] for x in letters)
            raise UnsupportedFile(
                f"{name} has the shape {list(shape)}, where {wanted} is wanted",
                "its tensors do not fit each other: fetch it again",
            )


def _padding_idx(config: Mapping[str, Any], default: int | None) -> int | None:
    """The id that positions are counted from, the first token's being the next; None where they are counted from 0."""
    if default is None:
        return None
    found = config.get("pad_token_id", default)
    if type(found) is not int or found < 0:
        shown = "null" if found is None else found
        raise UnsupportedFile(f"config.json gives pad_token_id as {shown}", "positions are counted from it: mend it")
    return found


def _check_positions(checkpoint: Checkpoint, config: Mapping[str, Any], padding: int | None, rows: int) -> None:
    """Refuses a table of other positions than a config has that counts them from the padding on.

    Some converters cut off the rows before the first position, and all would be read from the wrong row.
    """
    told = config.get("max_position_embeddings")
    if padding is not None and type(told) is int and told != rows:
        raise UnsupportedFile(
            f"the config.json of {printable(checkpoint.ref)} has {told:,} positions, of which {padding + 1} are before "
            f"the first token's, the table of positions has {rows:,} rows",
            "they are not of one model: take the config.json away if the weights file tells its settings by itself",
        )


def _heads(checkpoint: Checkpoint, anatomy: Anatomy, within: Sequence[Headers]) -> tuple[int, ...]:
    """How many heads each layer has: all are as wide as the config's number makes those of a layer without pruning."""
    found = anatomy.settings.get("num_attention_heads")
    shapes = [header.shape for layer in within for name, header in layer.items() if name.endswith("query.weight")]
    odd = next((hidden for _, hidden in shapes if type(found) is not int or hidden % found), None)
    if odd is not None or type(found) is not int:
        raise UnsupportedFile(
            f"{printable(checkpoint.ref)} has num_attention_heads {quoted(str(found))} for a width of {odd}",
            "mend config.json: shapes alone do not tell the number of heads",
        )
    uneven = next((width for width, hidden in shapes if width % (hidden // found)), None)
    if uneven is not None:
        raise UnsupportedFile(
            f"{printable(checkpoint.ref)} has a layer whose heads are {uneven} wide together, no multiple of the "
            f"{shapes[0][1] // found} of one head",
            "mend num_attention_heads in config.json",
        )
    return tuple(width // (hidden // found) for width, hidden in shapes)


def _read(backend: Backend, headers: Mapping[str, TensorHeader], memory: Memory | None = None) -> dict[str, Array]:
    """The tensors on the backend; of embedding tables only the rows are read that texts ask for.

    A GPU has the whole tables: to gather rows here and send them would take longer than all that it computes.
    """
    tables = _TABLES if backend.device == "cpu" else ()
    found: dict[str, Array] = {name: row_table(header) for name, header in headers.items() if name in tables}
    whole = {name: header for name, header in headers.items() if name not in found}
    for name, values in read_tensors(whole, memory):
        found[name] = backend.array(values)
    return found


def encode(
    encoder: Encoder,
    packed: Packed,
    on_layer: OnLayer | None = None,
    *,
    first_only: bool = False,
    on_state: OnState | None = None,
) -> Array:
    """The last hidden state of every token (T, H), or with `first_only` of the first token of every text (N, H).

    With `first_only` the last layer runs for first tokens only; `on_layer` and `on_state` then see these alone there.
    """
    backend, weights, eps = encoder.backend, encoder.weights, encoder.eps
    lengths = [int(length) for length in packed.lengths]
    firsts = first_tokens(packed) if first_only else None
    x = layers.embed(backend, weights, packed.ids, _positions(encoder, packed), packed.segments, eps)
    if on_state is not None:
        on_state(0, x)
    for number, weights in enumerate(encoder.layers.in_turn(encoder.depth)):
        layer = f"encoder.layer.{number}."
        rows = firsts if number == encoder.depth - 1 else None
        attended = layers.attend(backend, weights, layer, x, rows, encoder.heads[number], lengths, eps)
        before, after = layers.intermediate(backend, weights, layer, attended, encoder.activation)
        if on_layer is not None:
            after = on_layer(number, before, after)
        x = layers.output(backend, weights, layer, after, attended, eps)
        del attended, before, after  # else they would be held while the next layer makes its own
        if on_state is not None:
            on_state(number + 1, x)
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
