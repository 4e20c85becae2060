"""A checkpoint's config.json as transformers' config of its text encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bertprobe.anatomy import Anatomy
from bertprobe.checkpoint import Checkpoint
from bertprobe.errors import UnsupportedFile, printable, quoted
from bertprobe.reference.kinds import TYPES
from bertprobe.reference.manners import borrowed, refused


def config_of(checkpoint: Checkpoint, anatomy: Anatomy) -> Any:
    """transformers' config of the text encoder, without the settings that would only get in the way of hooks."""
    from transformers import CONFIG_MAPPING

    settings = settings_of(checkpoint, anatomy.family)
    model_type = TYPES.get(anatomy.row.name, anatomy.family)
    if model_type not in CONFIG_MAPPING:
        raise UnsupportedFile(
            f"transformers has no model for {printable(checkpoint.ref)}, whose family is {quoted(model_type)}",
            "code that a checkpoint brings along is never run here; see inspect for what its tensors say",
        )
    try:
        with borrowed("cpu"):
            config = CONFIG_MAPPING[model_type].from_dict({**settings, "model_type": model_type})
    except Exception as error:
        raise refused(f"transformers refuses the config.json of {printable(checkpoint.ref)}", error) from error
    for key, value in _PLAIN.items():
        if hasattr(config, key):
            setattr(config, key, value)
    return config


# Results are the same; chunks would fire a hook several times a layer, and outputs asked for leave hooks behind.
_PLAIN = {
    "chunk_size_feed_forward": 0,
    "output_hidden_states": False,
    "output_attentions": False,
    "return_dict": True,
    "use_cache": False,
}


def settings_of(checkpoint: Checkpoint, family: str) -> dict[str, Any]:
    """The settings of the text encoder, which a model of several encoders keeps one level down."""
    config = checkpoint.config or {}
    nested = [value for value in config.values() if isinstance(value, Mapping) and value.get("model_type") == family]
    found = dict(nested[0] if nested and config.get("model_type") != family else config)
    shown = printable(checkpoint.ref)
    if not found:
        raise UnsupportedFile(f"{shown} has no config.json", "put it beside it: tensors alone do not say how they run")
    positions = str(found.get("position_embedding_type", ""))
    if positions.startswith("relative_key"):
        raise UnsupportedFile(
            f"the positions of {shown} are {quoted(positions)}, which transformers leaves out without a word",
            "its numbers would be wrong: take another checkpoint",
        )
    if found.get("quantization_config"):
        raise UnsupportedFile(f"{shown} is quantized", "name the checkpoint it was made from")
    return found
