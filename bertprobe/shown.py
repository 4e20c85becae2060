"""What a notebook or rich asks of a value: how it looks. The value does not know; `render` does, and is asked by name.

The one door that leads upward: nothing is imported before somebody wants to look.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Shown:
    """A fact that may be looked at in a notebook, and by rich."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return str(_room("notebook").html(self))

    def __rich__(self) -> Any:
        return _room("terminal").Drawn(self)


def _room(name: str) -> Any:
    return import_module(f"bertprobe.render.{name}")
