"""Sections in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from bertprobe.errors import printable
from bertprobe.render.drawing import path_lines
from bertprobe.render.wrapping import colon, spans
from bertprobe.report.sections import Checked, Code, Grid, Path, Prose, Section, Verbatim

MARKS = {True: "✓", False: "✗", None: "?"}


def write_sections(sections: Sequence[Section], out: TextIO) -> None:
    """Each section under a heading, blocks apart by an empty line."""
    for number, section in enumerate(sections):
        out.write(f"{'' if number == 0 else chr(10)}## {escaped(section.title)}\n")
        for block in section.blocks:
            out.write("\n")
            out.writelines(f"{line}\n" for line in DRAW[type(block)](block))


def escaped(text: str) -> str:
    """Text that Markdown takes for text."""
    text = printable(text)
    for char in "\\|<`*_[]":
        text = text.replace(char, f"\\{char}" if char != "<" else "&lt;")
    return text


def _inline(text: str) -> str:
    return "".join(f"`{printable(piece)}`" if is_code else escaped(piece) for piece, is_code in spans(text))


def _fenced(lines: Sequence[str], language: str) -> Iterator[str]:
    """Lines in a fence longer than any that they hold themselves."""
    fence = "```"
    while any(fence in line for line in lines):
        fence += "`"
    yield f"{fence}{language}"
    yield from (printable(line) for line in lines)
    yield fence


def _grid(block: Grid) -> Iterator[str]:
    yield f"| {' | '.join(map(escaped, block.head))} |"
    yield f"| {' | '.join('---' for _ in block.head)} |"
    for row in block.rows:
        yield f"| {' | '.join(escaped(cell.strip()) for cell in row)} |"


def _code(block: Code) -> Iterator[str]:
    yield escaped(block.caption)
    yield ""
    yield from _fenced(block.code.split("\n"), "python")


def _checked(block: Checked) -> Iterator[str]:
    yield f"- {MARKS[block.holds]} **{_inline(block.said)}**{colon(block.word)}{_inline(block.word)}  "
    yield f"  {_inline(block.shown)}"


DRAW: Mapping[type, Callable[[Any], Iterator[str]]] = {
    Prose: lambda block: iter([_inline(block.text)]),
    Verbatim: lambda block: _fenced(block.lines, block.language),
    Path: lambda block: _fenced([line for line, _ in path_lines(block)], "text"),
    Grid: _grid,
    Code: _code,
    Checked: _checked,
}
