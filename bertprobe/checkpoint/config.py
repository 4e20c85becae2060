"""What a config.json says, checked once where it is read: the settings that are used here, by type and range.

A value that cannot be is taken out, so that nobody computes with it, and kept as a fault, so that nobody computes as if
nothing had been said either: `inspect` tells of it, and what runs a text refuses where the setting decides a number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from bertprobe.errors import UnsupportedFile, is_text, printable, quoted

LARGEST = 10**9  # of every count: no model has as many of anything
LONGEST_NAME = 200  # characters of an activation's, a class's or a type's name
MOST_NAMES = 100


class Kind(NamedTuple):
    """What a setting may be: in words, and as a test."""

    words: str
    holds: Callable[[Any], bool]


def _whole(least: int) -> Kind:
    return Kind(
        f"a whole number from {least:,} to {LARGEST:,}", lambda value: type(value) is int and least <= value <= LARGEST
    )


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_NAME and is_text(value)


def _or_null(kind: Kind) -> Kind:
    return Kind(f"{kind.words}, or null", lambda value: value is None or kind.holds(value))


_SMALL = Kind(
    "a number from 0 to 1",
    lambda value: type(value) in (int, float) and 0 <= value <= 1,  # which NaN is not
)
_NAME = Kind("a name", _is_name)
_FLAG = Kind("true or false", lambda value: isinstance(value, bool))
_NAMES = Kind(
    "a list of names",
    lambda value: isinstance(value, list) and len(value) <= MOST_NAMES and all(map(_is_name, value)),
)
_ACTIVATION = Kind("a name", lambda value: _is_name(value) or isinstance(value, bool))  # XLM's is true or false
_PLAIN_COUNT = _or_null(_whole(0))
# LXMERT counts the layers of each of its three stacks, in an object.
_COUNT = Kind(_PLAIN_COUNT.words, lambda value: isinstance(value, Mapping) or _PLAIN_COUNT.holds(value))

# The settings that are looked at here, under every name that a family has for one; the rest is transformers' affair.
SETTINGS: Mapping[str, Kind] = {
    **dict.fromkeys(("hidden_size", "d_model", "dim", "emb_dim", "n_embd"), _COUNT),
    **dict.fromkeys(("intermediate_size", "d_inner", "hidden_dim", "dim_ff", "feed_forward_size"), _COUNT),
    **dict.fromkeys(("encoder_ffn_dim", "d_ff", "n_inner"), _COUNT),
    **dict.fromkeys(("num_hidden_layers", "n_layers", "n_layer", "encoder_layers", "num_layers"), _COUNT),
    **dict.fromkeys(("vocab_size", "max_position_embeddings", "n_positions", "type_vocab_size"), _COUNT),
    **dict.fromkeys(("hidden_act", "hidden_activation", "activation", "activation_function"), _ACTIVATION),
    **dict.fromkeys(("gelu_activation", "ff_activation", "feed_forward_proj", "pooler_hidden_act"), _ACTIVATION),
    "pad_token_id": _or_null(_whole(-1)),  # -1 is how some say that there is none
    "num_attention_heads": _whole(1),
    "layer_norm_eps": _SMALL,
    "model_type": _or_null(_NAME),
    "position_embedding_type": _or_null(_NAME),
    "tokenizer_class": _or_null(_NAME),
    "architectures": _or_null(_NAMES),
    "do_lower_case": _or_null(_FLAG),
    "is_decoder": _or_null(_FLAG),
    "add_cross_attention": _or_null(_FLAG),
}

NESTED = ("text_config", "encoder", "question_encoder", "qformer_config")  # and whatever has a model_type of its own
_SENSES = re.compile("vision|visual|image|audio|speech|video|backbone")  # whose counts may be lists, a stage each
HARMLESS = ("architectures",)  # who saved it: no number depends on that


class Config(NamedTuple):
    """The settings of a model: `sound` are the values that can be, `faults` what is wrong with the others, by key.

    `sound` is None where there is no config.json.

    The key of a setting one level down, among those of one of several encoders, has a dot: `text_config.hidden_act`.
    """

    sound: Mapping[str, Any] | None
    faults: Mapping[str, str]


def checked(config: Mapping[str, Any] | None) -> Config:
    """The settings of a parsed config.json, those one level down included, apart from what cannot be."""
    if config is None:
        return Config(None, {})
    sound: dict[str, Any] = {}
    faults: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and (key in NESTED or ("model_type" in value and not _SENSES.search(key))):
            inner = dict(_faults(value))
            faults |= {f"{key}.{name}": fault for name, fault in inner.items()}
            value = {name: found for name, found in value.items() if name not in inner}
        sound[key] = value
    top = dict(_faults(config))
    return Config({key: value for key, value in sound.items() if key not in top}, {**top, **faults})


def _faults(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, kind in SETTINGS.items():
        if key in config and not kind.holds(config[key]):
            yield key, f"{_shown(config[key])}, which is not {kind.words}"


def _shown(value: Any) -> str:
    """A value as the file has it, or its beginning."""
    return quoted(value) if isinstance(value, str) else json.dumps(value)[:60]


_TANH = "gelu_new"
_SAME = {"gelu_python": "gelu", **dict.fromkeys(("gelu_fast", "gelu_pytorch_tanh", "gelu_python_tanh"), _TANH)}
_BY_GRAPH = ("hidden_act", "num_attention_heads", "layer_norm_eps")  # that no tensor's shape tells


def contradictions(beside: Mapping[str, Any], carried: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each setting that config.json and a weights file with settings of its own give differently."""
    for key in _BY_GRAPH:
        said, told = beside.get(key), carried.get(key)
        if said is None or told is None or _SAME.get(said, said) == _SAME.get(told, told):
            continue
        numbers = isinstance(said, float) and isinstance(told, float)
        if not numbers or abs(said - told) > 1e-3 * abs(told):
            yield f"config.json gives {key} as {_shown(said)}, the weights file itself as {_shown(told)}"


def check_faults(faults: Mapping[str, str], shown: str, needed: Iterable[str] | None = None) -> None:
    """Raises `UnsupportedFile` for a setting that is needed, on any level, and cannot be.

    `shown` is the checkpoint as a message names it; None for `needed` are all that may decide a number.
    """
    wanted = None if needed is None else set(needed)
    for key, fault in faults.items():
        name = key.rpartition(".")[2]
        if name not in HARMLESS and (wanted is None or name in wanted):
            raise UnsupportedFile(f"the config.json of {shown} gives {printable(key)} as {fault}", "mend it")
