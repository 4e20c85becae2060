"""Sections for a terminal: prose in lines, drawings, tables of words, source with colours where there are any."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from rich.console import Console
from rich.text import Text

from bertprobe.errors import printable
from bertprobe.render.drawing import diagram_lines
from bertprobe.render.wrapping import GLUE, cells, colon, padded, spans, wrap
from bertprobe.report.sections import Checked, Code, Diagram, Grid, Prose, Section, Verbatim

WIDEST = 100  # cells of a line of prose; longer ones are hard to read
CODE_STYLE = "cyan"
SHAPE = re.compile(r"\(\w+(?:, \w+)*,?\)")
MARKS = {True: ("✓", "green"), False: ("✗", "bold red"), None: ("?", "yellow")}
_INDENT = 2
_GAP = 2


def write_sections(console: Console, sections: Sequence[Section], width: int) -> None:
    """Each section under its title, blocks apart by a line."""
    width = min(width, WIDEST)
    for number, section in enumerate(sections):
        if number:
            console.print()
        for line in wrap(printable(section.title), width):
            console.print(Text(line, style="bold underline"))
        for place, block in enumerate(section.blocks):
            if place:
                console.print()
            for line in DRAW[type(block)](console, block, width):
                console.print(line)


def _prose(console: Console, block: Prose, width: int) -> Iterator[Text]:
    yield from _lines(block.text, width)


def _lines(text: str, width: int) -> Iterator[Text]:
    """Prose in lines; code is never broken, and has its colour instead of backticks."""
    plain, codes = "", []
    for piece, is_code in spans(text):
        codes += [is_code] * len(piece)
        plain += piece.replace(" ", GLUE) if is_code else _glued(piece)
    start = 0
    for line in wrap(plain, width):
        start = plain.index(line, start)
        yield _coloured(line.replace(GLUE, " "), codes[start : start + len(line)])
        start += len(line)


def _coloured(line: str, codes: Sequence[bool]) -> Text:
    text = Text()
    for is_code, run in groupby(zip(line, codes, strict=True), key=itemgetter(1)):
        text.append("".join(char for char, _ in run), CODE_STYLE if is_code else "")
    return text


def _verbatim(console: Console, block: Verbatim, width: int) -> Iterator[Text]:
    for line in block.lines:
        first, *rest = wrap(_glued(printable(line)).replace("  ", f"{GLUE} "), width - _INDENT)
        yield Text(" " * _INDENT + first.replace(GLUE, " "))
        for more in rest:
            yield from (Text(" " * (_INDENT + 4) + part.replace(GLUE, " ")) for part in wrap(more, width - _INDENT - 4))


def _glued(text: str) -> str:
    """A text whose shapes, such as (1, 8, 128), no line is broken in."""
    return SHAPE.sub(lambda match: match[0].replace(" ", GLUE), text)


def _path(console: Console, block: Diagram, width: int) -> Iterator[Text]:
    for line, marked in diagram_lines(block):
        yield Text(line, style="bold" if marked else "")


def _grid(console: Console, block: Grid, width: int) -> Iterator[Text]:
    rows = [tuple(map(_glued, row)) for row in (block.head, *block.rows)]
    natural = [max(cells(row[i]) for row in rows) for i in range(len(block.head))]
    widths = _shared(natural, set(block.fixed), width - _GAP * (len(natural) - 1))
    for number, row in enumerate(rows):
        folded = [wrap(cell, room) for cell, room in zip(row, widths, strict=True)]
        for line in range(max(map(len, folded))):
            parts = [padded(cell[line] if line < len(cell) else "", w) for cell, w in zip(folded, widths, strict=True)]
            yield Text((" " * _GAP).join(parts).rstrip().replace(GLUE, " "), style="bold" if number == 0 else "")


def _shared(natural: Sequence[int], fixed: set[int], room: int) -> list[int]:
    """Widths of columns: the fixed ones what they need, the others equal parts of the rest."""
    widths = list(natural)
    left = room - sum(natural[i] for i in fixed)
    free = sorted((i for i in range(len(natural)) if i not in fixed), key=lambda i: natural[i])
    for count, i in enumerate(free):
        widths[i] = max(min(natural[i], left // (len(free) - count)), 1)
        left -= widths[i]
    return widths


def _code(console: Console, block: Code, width: int) -> Iterator[Any]:
    yield from (Text(line, style="dim") for line in wrap(printable(block.caption), width))
    last = block.line + block.code.count("\n")
    digits = len(str(last))
    for number, line in enumerate(_highlighted(console, block.code), block.line):
        line.rstrip()
        yield Text.assemble((f"{number:>{digits}}{'  ' if line else ''}", "dim"), line)


def _highlighted(console: Console, code: str) -> list[Text]:
    """The lines of a source; without colours there is nothing to load a lexer for."""
    if console.color_system is None:
        return [Text(printable(line)) for line in code.split("\n")]
    from rich.syntax import Syntax

    text = Syntax("", "python", theme="ansi_dark", background_color="default").highlight(code)
    text.rstrip()
    return list(text.split("\n", allow_blank=True))


def _checked(console: Console, block: Checked, width: int) -> Iterator[Text]:
    """The claim with its mark and word, and below it what was found."""
    mark, style = MARKS[block.holds]
    for number, line in enumerate(_lines(f"{block.said}{colon(block.word)}{block.word}", width - _INDENT)):
        line.stylize("bold")
        yield Text.assemble((f"{mark} " if number == 0 else "  ", style), line)
    for line in _lines(block.shown, width - _INDENT):
        yield Text(" " * _INDENT) + line


DRAW: Mapping[type, Callable[[Console, Any, int], Iterator[Any]]] = {
    Prose: _prose,
    Verbatim: _verbatim,
    Diagram: _path,
    Grid: _grid,
    Code: _code,
    Checked: _checked,
}
