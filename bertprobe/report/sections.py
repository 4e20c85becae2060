"""What a report says in words: sections of blocks, which `render` draws for a terminal, in Markdown and as JSON.

In prose, names of code stand between backticks; what comes from a file or a user is made safe before it gets here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bertprobe.report import nodes


@dataclass(frozen=True, slots=True)
class Prose:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Verbatim:
    """Lines that are shown as they are: formulas, sums, commands; `language` is what to highlight them as."""

    lines: tuple[str, ...]
    language: str = "text"


@dataclass(frozen=True, slots=True)
class DiagramRow:
    """A row of a `Diagram`: a thing that data passes through or is, with its shape.

    `kind` is `data`, `work`, `open` (a frame begins, with a title), `close`, or `down` (an arrow, with what it does).
    `marked` are those that the text is about.
    """

    kind: str
    name: str = ""
    shape: str = ""
    marked: bool = False


@dataclass(frozen=True, slots=True)
class Diagram:
    """A drawing: the way of a text through the model, from top to bottom."""

    stops: tuple[DiagramRow, ...]


@dataclass(frozen=True, slots=True)
class Code:
    """A piece of somebody's source: where it stands, and its lines numbered from `line`."""

    caption: str
    code: str
    line: int


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of words; columns named in `fixed` never fold, the others share what room there is."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    fixed: tuple[int, ...] = (0,)


@dataclass(frozen=True, slots=True)
class Checked:
    """What people say, whether it holds here (None: it could not be checked), in a word and in sentences."""

    name: str
    said: str
    holds: bool | None
    word: str
    shown: str


Block = Prose | Verbatim | Diagram | Code | Grid | Checked


@dataclass(frozen=True, slots=True)
class Section:
    """A title and its blocks; `name` is the same in every language."""

    name: str
    title: str
    blocks: tuple[Block, ...]


def as_data(sections: Sequence[Section]) -> list[nodes.Section]:
    """The sections as nested data; every block says its `kind`."""
    return [
        {
            "name": section.name,
            "title": section.title,
            "blocks": [{"kind": type(block).__name__.lower(), **asdict(block)} for block in section.blocks],
        }
        for section in sections
    ]
