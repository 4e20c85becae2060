"""Reports in Markdown: tables with every value, unrounded, or sections."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from bertprobe.errors import printable
from bertprobe.render.data_formats import plain
from bertprobe.render.drawing import diagram_lines
from bertprobe.render.words import report_lines
from bertprobe.render.wrapping import colon, spans
from bertprobe.report import Column, Report, View
from bertprobe.report.sections import Checked, Code, Diagram, Grid, Prose, Section, Verbatim

MARKS = {True: "✓", False: "✗", None: "?"}


def write_markdown(report: Report, out: TextIO, views: Sequence[View]) -> None:
    """The facts as a list, then each view as a table; of a report in words its sections."""
    if report.sections:
        write_sections(report.sections, out)
        return
    for label, text in report_lines(report.data):
        out.write(f"- **{label}**: {escaped(text)}\n")
    for view in views:
        if view.rows:
            out.write(f"\n## {escaped(view.title)}\n\n")
            titles, rules = [column.title for column in view.columns], [_rule(column) for column in view.columns]
            rows = ([plain(column.value(row)) for column in view.columns] for row in view.rows)
            out.writelines(f"{line}\n" for line in table_lines(titles, rules, rows))


def table_lines(titles: Sequence[str], rules: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table: its head, the rule below, which says how columns are aligned, and a line a row."""
    yield _table_line(escaped(title, table=True) for title in titles)
    yield _table_line(rules)
    for row in rows:
        yield _table_line(escaped(cell, table=True) for cell in row)


def _table_line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(column: Column) -> str:
    return "---" if column.kind in ("text", "place", "verdict", "flag", "digest") else "---:"


def write_sections(sections: Sequence[Section], out: TextIO) -> None:
    """Each section under a heading, blocks apart by an empty line."""
    for number, section in enumerate(sections):
        out.write(f"{'' if number == 0 else chr(10)}## {escaped(section.title)}\n")
        for block in section.blocks:
            out.write("\n")
            out.writelines(f"{line}\n" for line in DRAW[type(block)](block))


# What Markdown, GitHub's among others, makes something of: emphasis, links, mentions, references, formulas.
_SPECIAL = re.compile(r"[\\`*_\[\]@$~#^]|://|\bwww\.", re.IGNORECASE)
_MARKER = re.compile(r"[-+=>]+|\d+[.)]+")  # of a list, a quotation or a heading, as the first word
_WORD = re.compile(r"(\S+?)([,.;:!?]*)(?!\S)")  # and what ends a sentence behind it


def escaped(text: str, *, table: bool = False) -> str:
    """Text that Markdown takes for text: a word with something special in it as code, which nothing is made of.

    Escaping with a backslash would not do: GitHub looks for @name in what is shown.
    """
    return _WORD.sub(lambda found: _word(found, table), printable(text))


def _word(found: re.Match[str], table: bool) -> str:
    word, ending = found.groups()
    special = _SPECIAL.search(word) or (found.start() == 0 and _MARKER.fullmatch(word + ending))
    if table:
        word = word.replace("|", "\\|")
    if not special:
        return word.replace("&", "&amp;").replace("<", "&lt;") + ending
    fence = "`" * (1 + max(map(len, re.findall("`+", word)), default=0))
    room = " " if "`" in word else ""
    return f"{fence}{room}{word}{room}{fence}{ending}"


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
    rows = ([cell.strip() for cell in row] for row in block.rows)
    return table_lines(block.head, ["---"] * len(block.head), rows)


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
    Diagram: lambda block: _fenced([line for line, _ in diagram_lines(block)], "text"),
    Grid: _grid,
    Code: _code,
    Checked: _checked,
}
