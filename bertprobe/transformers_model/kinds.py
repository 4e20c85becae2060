"""Which class of transformers a checkpoint's text encoder is."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from bertprobe.anatomy import Anatomy
from bertprobe.errors import UnsupportedFile, quoted


def class_of(anatomy: Anatomy, config: Any) -> Any:
    """The concrete class of the text encoder."""
    from transformers import MODEL_MAPPING

    row = anatomy.row
    if row.base:  # transformers' table of base models does not lead there; of T5 it is the encoder that reads the text
        folder, file = row.folder_and_file
        return getattr(import_module(f"transformers.models.{folder}.{file.removesuffix('.py')}"), row.base)
    if row.wrapped:
        return getattr(import_module("transformers"), dict(row.wrapped)[wrapped_prefix(anatomy)])
    if type(config) not in MODEL_MAPPING:
        raise UnsupportedFile(f"transformers has no base model for {quoted(anatomy.family)}", "take another checkpoint")
    found = MODEL_MAPPING[type(config)]
    if isinstance(found, (tuple, list)):  # Funnel: with a decoder, and without
        return found[0] if any(part.stack == "decoder" for part in anatomy.parts) else found[-1]
    return found


def wrapped_prefix(anatomy: Anatomy) -> str:
    """What stands before the encoder's names in the class that it is wrapped in, empty for one that stands alone."""
    prefixes = [prefix for prefix, _ in anatomy.row.wrapped]
    prefix = anatomy.prefix[len(anatomy.unknown_prefix) :]
    return prefix if prefix in prefixes else next(iter(prefixes), "")
