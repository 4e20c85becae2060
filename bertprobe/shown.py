"""What a notebook or rich asks of a value: how it looks. The value does not know; `render` does, and is asked.

The one door that leads upward: nothing is imported before somebody wants to look.
"""

from __future__ import annotations

from typing import Any


class ReprMixin:
    """A fact that may be looked at in a notebook, and by rich."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        from bertprobe.render.notebook import html

        return html(self)

    def __rich__(self) -> Any:
        from bertprobe.render.terminal import Drawn

        return Drawn(self)
