"""HTML out of elements: every text is escaped where it is put, so that no foreign text can become markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from bertprobe.errors import printable

EMPTY_ELEMENTS = ("br", "input", "link", "meta")


class Markup(str):
    """HTML that stands as it is."""

    __slots__ = ()


def text(value: str) -> Markup:
    """A text, safe in HTML and to read; what is markup already stays."""
    return value if isinstance(value, Markup) else Markup(escape(printable(value)))


def joined(pieces: Iterable[str]) -> Markup:
    """Texts and elements one behind the other."""
    return Markup("".join(map(text, pieces)))


def element(tag: str, *inside: str, **attributes: str | None) -> Markup:
    """An element of texts and other elements; without an attribute that is None.

    Attributes that Python has a word for end in an underscore (`class_`), and other underscores are hyphens.
    """
    given = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not None}
    listed = "".join(f' {name}="{text(value)}"' for name, value in given.items())
    opening = f"<{tag}{listed}>"
    return Markup(opening if tag in EMPTY_ELEMENTS else f"{opening}{joined(inside)}</{tag}>")


def table(
    caption: Markup, head: Sequence[Markup], rows: Iterable[Sequence[Markup]], style: str | None = None
) -> Markup:
    """A table of cells, which are elements."""
    above, below = element("thead", element("tr", *head)), (element("tr", *cells) for cells in rows)
    return element("table", caption, above, element("tbody", *below), style=style)
