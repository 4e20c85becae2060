"""The settings that a graph tells of its encoder, as a config.json has them; what it does not tell is left out."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

from bertprobe.checkpoint.onnx.encoder import Encoder
from bertprobe.checkpoint.onnx.names import PLACE
from bertprobe.filenames import CONFIGS

_ROWS = {
    "embeddings.word_embeddings.weight": "vocab_size",
    "embeddings.position_embeddings.weight": "max_position_embeddings",
    "embeddings.token_type_embeddings.weight": "type_vocab_size",
}


def settings_of(found: Encoder | None, named: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """The text of a config.json by its name, where the graph is an encoder's; else nothing.

    `named` are the shapes of tensors by their names in PyTorch.
    """
    if found is None:
        return {}
    config: dict[str, Any] = {"num_hidden_layers": found.layers}
    shapes = {place[0]: shape for name, shape in named.items() if (place := PLACE.search(name))}
    rows = {key: shapes[name][0] for name, key in _ROWS.items() if shapes.get(name)}
    if found.counts_from_zero and len(rows) == len(_ROWS):
        config = {"model_type": "bert", **config}
    inner = shapes.get("encoder.layer.0.intermediate.dense.weight", ())
    if len(inner) == 2:
        config |= {"hidden_size": inner[1], "intermediate_size": inner[0]}
    config |= rows
    heads = _heads(found, config.get("hidden_size", 0))
    if heads:
        config["num_attention_heads"] = heads
    if len(found.acts) == 1 and "unknown" not in found.acts:
        config["hidden_act"] = next(iter(found.acts))
    eps = found.eps
    if len(eps) == 1 and (value := next(iter(eps))) is not None and 0 < value < 1:
        config["layer_norm_eps"] = _shortest(value)
    return {CONFIGS[0]: json.dumps(config)}


def _heads(found: Encoder, hidden: int) -> int:
    """The number of heads of every layer, 0 where it is not told, or they differ."""
    heads, sizes = ({n or 0 for n in numbers} for numbers in (found.heads, found.head_sizes))
    size = next(iter(sizes)) if len(sizes) == 1 else 0
    by_size = hidden // size if size and hidden % size == 0 else 0
    by_count = next(iter(heads)) if len(heads) == 1 else 0
    return 0 if by_size and by_count and by_size != by_count else by_count or by_size


def _shortest(value: float) -> float:
    """The shortest decimal number that is this one in float32: 1e-12 for 9.999999960041972e-13."""
    try:
        bits = struct.pack("<f", value)
        texts = (f"{value:.{digits}g}" for digits in range(1, 10))
        return next((float(text) for text in texts if struct.pack("<f", float(text)) == bits), value)
    except OverflowError:
        return value
