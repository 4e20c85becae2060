"""Which model a command is about."""

from __future__ import annotations

import os

from bertprobe.builtin import POCKET


def resolve_model(model: str | None) -> str:
    """The model that was named, on the command line or in the environment, else the one that ships with the package.

    An empty name on the command line is one: a script whose variable is unset should hear of it.
    """
    return model if model is not None else os.environ.get("BERTPROBE_MODEL") or POCKET
