"""What a checkpoint's config promises: sizes, and the activation in force."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bertprobe.anatomy.families import FAMILIES
from bertprobe.anatomy.layouts import ALIASES, Layout
from bertprobe.checkpoint import Checkpoint

HIDDEN = ("hidden_size", "d_model", "dim", "emb_dim", "n_embd")
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


@dataclass(frozen=True)
class ConfigSpec:
    """What the config promises, each None where it does not say; a number in quotes stays text."""

    layers: Any
    hidden_size: Any
    intermediate_size: Any
    vocab_size: Any
    activation: str | None


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of the text encoder, which a model of several encoders keeps one level down."""
    if not any(key in config for key in HIDDEN):
        for key in ("text_config", "encoder", "question_encoder", "qformer_config"):
            if isinstance(config.get(key), Mapping):
                return config[key]  # type: ignore[no-any-return]
    return config


def towers_of(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The settings of each encoder of several by the word that its tensors' names have: text, vision, decoder."""
    return {
        key.removesuffix("_config"): value
        for key, value in config.items()
        if isinstance(value, Mapping) and any(name in value for name in HIDDEN)
    }


def model_type_of(config: Mapping[str, Any]) -> str:
    """The config's model_type, empty where it has none or no text."""
    found = config.get("model_type")
    return found if isinstance(found, str) else ""


def _first(config: Mapping[str, Any], keys: Iterable[str]) -> Any:
    return next((config[key] for key in keys if config.get(key) is not None), None)


def config_spec_of(layout: Layout, config: Mapping[str, Any], checkpoint: Checkpoint) -> ConfigSpec:
    notes = checkpoint.metadata  # of a file that `export` wrote
    hidden, inner = (
        int(notes[key]) if re.fullmatch("[0-9]{1,9}", notes.get(key, "")) else None
        for key in ("hidden_size", "intermediate_size")
    )
    return ConfigSpec(
        layers=_first(config, _LAYERS),
        hidden_size=_first(config, HIDDEN) if config else hidden,
        intermediate_size=_first(config, _INTERMEDIATE) if config else inner,
        vocab_size=config.get("vocab_size"),
        activation=_activation(layout, config, checkpoint),
    )


def _activation(layout: Layout, config: Mapping[str, Any], checkpoint: Checkpoint) -> str | None:
    """The activation in force: the config's, else transformers' default for that family, else unknown."""
    if not checkpoint.config:
        return checkpoint.metadata.get("hidden_act")
    value = _first(config, layout.activation)
    if isinstance(value, bool):  # XLM says gelu_activation: true
        return "gelu" if value else "relu"
    if isinstance(value, str):
        return ALIASES.get(value, value)
    row = FAMILIES.get(model_type_of(config))
    return layout.default if row is None or row.activation is None else row.activation
