"""A checkpoint's config.json as transformers' config of its text encoder: what is on the list, and nothing else."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from bertprobe.anatomy import Anatomy
from bertprobe.anatomy.families import FAMILIES
from bertprobe.checkpoint import Checkpoint
from bertprobe.checkpoint.config import check_faults
from bertprobe.errors import PartMissing, UnsupportedFile, printable, quoted
from bertprobe.transformers_model.allowed import ALLOWED, COUNTS, NEEDLESS, NO_SIZES, PLAIN, WITHIN
from bertprobe.transformers_model.manners import borrowed, refused

# Bounds that no encoder comes near.
MOST_LAYERS = 2_000
LARGEST = 10**8
MOST_VALUES = 5_000
MOST_TEXT = 200
DEEPEST = 3


def config_of(checkpoint: Checkpoint, anatomy: Anatomy) -> Any:
    """transformers' config of the text encoder, without the settings that would only get in the way of hooks.

    Raises:
        UnsupportedFile: there is no config.json, the family is none of ours, a setting is not understood that may
            change numbers, or transformers refuses a value.
        PartMissing: it promises more layers than there are tensors.
    """
    check_faults(checkpoint.faults, printable(checkpoint.ref))
    settings = settings_of(checkpoint, anatomy)
    config_class = _config_class(checkpoint, anatomy)
    given = allowed_of(settings, config_class, printable(checkpoint.ref))
    _check_counts(given, anatomy, printable(checkpoint.ref))
    try:
        with borrowed("cpu"):
            config = config_class.from_dict(given)
    except Exception as error:
        raise refused(f"transformers refuses the config.json of {printable(checkpoint.ref)}", error) from error
    for key, value in PLAIN.items():
        if hasattr(config, key):
            setattr(config, key, value)
    return config


def _config_class(checkpoint: Checkpoint, anatomy: Anatomy) -> Any:
    """transformers' class for the config; only a name that is on our list leads to one."""
    model_type = anatomy.layout.family or anatomy.family
    if anatomy.family in {*FAMILIES, anatomy.layout.name} and model_type in FAMILIES:
        from transformers import CONFIG_MAPPING

        if model_type in CONFIG_MAPPING:
            return CONFIG_MAPPING[model_type]
    raise UnsupportedFile(
        f"transformers has no model that is run here for {printable(checkpoint.ref)}, "
        f"whose family is {quoted(anatomy.family)}",
        "code that a checkpoint brings along is never run; see inspect for what its tensors say",
    )


def settings_of(checkpoint: Checkpoint, anatomy: Anatomy) -> dict[str, Any]:
    """The settings of the text encoder, which a model of several encoders keeps one level down."""
    config, family = checkpoint.config or {}, anatomy.family
    levels = [anatomy.settings, config, *(value for value in config.values() if isinstance(value, Mapping))]
    found = dict(next((level for level in levels if level.get("model_type") == family), config))
    shown = printable(checkpoint.ref)
    if not found:
        raise UnsupportedFile(f"{shown} has no config.json", "put it beside it: tensors alone do not say how they run")
    positions = str(found.get("position_embedding_type", ""))
    if positions.startswith("relative_key"):
        raise UnsupportedFile(
            f"the positions of {shown} are {quoted(positions)}, which transformers leaves out without a word",
            "its numbers would be wrong: take another checkpoint",
        )
    if config.get("quantization_config") or found.get("quantization_config"):
        raise UnsupportedFile(f"{shown} is quantized", "name the checkpoint it was made from")
    return found


# ------------------------------------------------------------------------------------------------ what is let through


def allowed_of(settings: Mapping[str, Any], config_class: Any, shown: str) -> dict[str, Any]:
    """The settings that may reach a config class, each plain data of a sane size.

    What the class does not declare and no encoder reads is left out: it cannot change a number.

    Raises:
        UnsupportedFile: a setting that the class does declare is neither on a list nor at its default, or a value is
            not what a setting can be.
    """
    found = {}
    for key, value in settings.items():
        if key in ALLOWED:
            found[key] = plain(key, value, f"{key} in the config.json of {shown}")
        elif key not in NEEDLESS and key not in PLAIN and not _is_default(config_class, key, value):
            raise UnsupportedFile(
                f"the config.json of {shown} sets {quoted(key)}, of which it is not known what it does to the numbers",
                "please report this model",
            )
    return found


def _check_counts(settings: Mapping[str, Any], anatomy: Anatomy, shown: str) -> None:
    """Refuses more layers than there are tensors before any is built; ALBERT's are one layer, called as often."""
    for key in COUNTS & settings.keys():
        count, there = settings[key], len(anatomy.tensors)
        if isinstance(count, int) and count > there and not (anatomy.row.layout.shared and key == "num_hidden_layers"):
            raise PartMissing(
                f"{key} in the config.json of {shown} is {count:,}, and there are {there:,} tensors in all",
                "fetch both again: nothing is filled in",
            )


def _is_default(config_class: Any, key: str, value: Any) -> bool:
    """Whether leaving a setting out changes nothing: the class does not know it, or takes that value by itself."""
    declared = inspect.signature(config_class.__init__).parameters
    if key not in declared and key not in getattr(config_class, "attribute_map", {}):
        return True
    try:
        with borrowed("cpu"):
            default = getattr(config_class(), key, None)
    except Exception as error:
        raise refused("transformers cannot make a config of this family", error) from error
    return bool(value == (list(default) if isinstance(default, tuple) else default))


def plain(key: str, value: Any, what: str) -> Any:
    """A copy of a setting's value: numbers, truth values, null, short texts, and lists and objects of them.

    `what` names the setting in a message. Raises `UnsupportedFile` for what is something else, or too large.
    """
    values = 0
    waiting = [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        if isinstance(item, (Mapping, list, tuple)):
            values += len(item)
            if values > MOST_VALUES:
                raise _unlike(what, f"has more than {MOST_VALUES:,} values")
            if depth == DEEPEST:
                raise _unlike(what, f"is nested more than {DEEPEST} deep")
        if isinstance(item, Mapping):
            _check_names(item, WITHIN.get(key, frozenset()), what)
            waiting.extend((inner, depth + 1) for inner in item.values())
        elif isinstance(item, (list, tuple)):
            waiting.extend((inner, depth + 1) for inner in item)
        else:
            _check_scalar(item, _largest(key), what)
    return deepcopy(value)


def _check_names(item: Mapping[str, Any], within: frozenset[str], what: str) -> None:
    for name in item:
        if name not in within and not (within and re.fullmatch(r"[0-9]{1,9}", name)):
            raise _unlike(what, f"has {quoted(name)} in it")


def _largest(key: str) -> int:
    if key in COUNTS:
        return MOST_LAYERS
    return 2**63 if key in NO_SIZES else LARGEST


def _check_scalar(value: Any, largest: int, what: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise _unlike(what, f"is {value}")
    if isinstance(value, int) and abs(value) > largest:
        raise _unlike(what, f"is beyond {largest:,}")
    if isinstance(value, str) and len(value) > MOST_TEXT:
        raise _unlike(what, f"is a text of {len(value):,} characters")
    if not isinstance(value, (bool, int, float, str, type(None))):
        raise _unlike(what, f"is a {type(value).__name__}")


def _unlike(what: str, how: str) -> UnsupportedFile:
    return UnsupportedFile(f"{what} {how}", "no encoder is set like that: mend it, or fetch the file again")
