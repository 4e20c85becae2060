"""What Keras notes of a model → the config.json that says the same, where that is without doubt.

Its settings have the name of config.json, too, and say other things under it. Only keras-hub's BertBackbone tells all:
its sizes are settings, and the rest is the same in each (keras_hub/src/models/bert/bert_backbone.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bertprobe.checkpoint.folder import Folder, parse_json
from bertprobe.errors import BertprobeError
from bertprobe.filenames import CONFIGS

SIZES = {
    "vocabulary_size": "vocab_size",
    "hidden_dim": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_dim": "intermediate_size",
    "max_sequence_length": "max_position_embeddings",
    "num_segments": "type_vocab_size",
}
SAME = {"model_type": "bert", "architectures": ["BertModel"], "hidden_act": "gelu_new", "layer_norm_eps": 1e-12}
_LIBRARIES = ("keras_hub.", "keras_nlp.")


def config_beside(folder: Folder) -> str | None:
    """The file with the settings of the model, None where what has its name is Keras's."""
    found = (name for name in CONFIGS if folder.is_file(name))
    return next((name for name in found if not is_of_keras(folder.text(name))), None)


def is_of_keras(text: str) -> bool:
    """Whether a config.json is one that Keras wrote."""
    said = _parsed(text)
    return {"class_name", "config"} <= said.keys() and "model_type" not in said


def as_config(text: str) -> str | None:
    """The text of a config.json of transformers, None where Keras's settings do not tell all that it says."""
    said = _parsed(text)
    sizes = said.get("config")
    if isinstance(sizes, dict) and isinstance(inner := sizes.get("backbone"), dict):  # of a class with a head
        said, sizes = inner, inner.get("config")
    module = said.get("module")
    if said.get("class_name") != "BertBackbone" or not isinstance(module, str) or not module.startswith(_LIBRARIES):
        return None
    if not isinstance(sizes, dict) or any(type(sizes.get(name)) is not int for name in SIZES):
        return None
    return json.dumps({**SAME, **{ours: sizes[name] for name, ours in SIZES.items()}})


def _parsed(text: str) -> Mapping[str, Any]:
    try:
        return parse_json(text, CONFIGS[0])
    except BertprobeError:  # whoever needs the file will say so
        return {}
