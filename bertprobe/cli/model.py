"""Which model a command is about."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from bertprobe.builtin import POCKET
from bertprobe.errors import BadSetting, command, quoted
from bertprobe.filenames import CONFIGS
from bertprobe.storages import endings


def resolve_model(model: str | None) -> str:
    """The model that was named, on the command line or in the environment, else the one that ships with the package.

    An empty name on the command line is one: a script whose variable is unset should hear of it.
    """
    return model if model is not None else os.environ.get("BERTPROBE_MODEL") or POCKET


def check_no_model(model: str | None, texts: Iterable[str]) -> None:
    """Refuses a text that is a model's file or folder where no model was named: `-m` was left out."""
    for text in texts if model is None else ():
        is_folder = any(_is_file(Path(text, name)) for name in CONFIGS)
        if is_folder or (text.endswith(endings()) and _is_file(Path(text))):
            kind = "folder" if is_folder else "file"
            raise BadSetting(f"{quoted(text)} is a model's {kind}, not a text", f"name it with {command('-m', text)}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a text is longer than a name may be
        return False
