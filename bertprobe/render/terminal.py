"""Tables for people: what fits the width is shown, text gives way before numbers do, no number is ever cut."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

from bertprobe.errors import printable
from bertprobe.render.words import SHADES, alike, report_lines, spans, text_of
from bertprobe.report import Column, Report, View
from bertprobe.report.display import as_report, has_facts

NARROW = 100  # below this, a table shows at most six columns of numbers
NARROW_NUMBERS = 6
PADDING = 2
NATURAL = 10_000
LONGEST = 200  # characters of a text in a table
FLOOR, LAST_FLOOR = 0.4, 12  # what text gives way to before columns leave, of the width; and before any column leaves
MOST_ROWS = 2_000  # of a table: rich takes a third of a millisecond for each, and nobody reads on
NUMERIC = ("integer", "real", "share")
SHADE_STYLES = dict(zip(SHADES, ("", "color(60)", "color(31)", "color(79)", "color(227)"), strict=True))

VERDICT_STYLES = {"trained": "green", "untrained": "bold red", "probably untrained": "red", "undecided": "yellow",
                  "cannot tell": "yellow", "flattened": "yellow"}  # fmt: skip
SEVERITY_STYLES = {"error": "bold red", "warning": "bold yellow", "note": "cyan"}


def write(report: Report, out: TextIO, views: Sequence[View], *, whole: bool = True) -> None:
    """Facts (of a `whole` report), tables, findings; a pipe gets every column at its natural width."""
    width = _width(out)
    # soft_wrap: rich must not fold what we have measured, and a pipe has no width
    console = Console(file=out, width=width, highlight=False, soft_wrap=True)
    if report.sections:
        from bertprobe.render.prose import write_sections

        write_sections(console, report.sections, width)
        return
    if _draw(console, report, views, width, whole):
        console.print()
        for line in _wrapped(console, "more columns in a wider terminal, all of them in JSON", width):
            console.print(Text(line, style="dim"))


def _draw(console: Console, report: Report, views: Sequence[View], width: int, whole: bool) -> int:
    """Draws a report and says how many columns found no place."""
    if whole:
        _write_facts(console, report, width)
    hidden = 0
    for number, view in enumerate(view for view in views if view.rows or view.name == "findings"):
        if number or whole:
            console.print()
        if view.name == "findings":
            _write_findings(console, view, width)
            continue
        more = len(view.rows) - MOST_ROWS
        hidden += _write_view(console, view if more <= 0 else replace(view, rows=view.rows[:MOST_ROWS]), width)
        if more > 0:
            for line in _wrapped(console, f"{more:,} more rows, all of them in JSON", width):
                console.print(Text(line, style="dim"))
    return hidden


class Drawn:
    """A value for rich's own console, at the width it has there."""

    def __init__(self, value: Any) -> None:
        self.report = as_report(value)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        width = max(40, options.max_width)
        inner = Console(
            file=io.StringIO(), width=width, highlight=False, soft_wrap=True, force_terminal=True, color_system="256"
        )
        views = [view for view in self.report.views if not view.machine_only]
        with inner.capture() as drawn:
            _draw(inner, self.report, views, width, has_facts(self.report))
        yield Text.from_ansi(drawn.get(), no_wrap=True)


def _width(out: TextIO) -> int:
    if os.environ.get("COLUMNS", "").isdigit():
        return max(40, int(os.environ["COLUMNS"]))
    if not out.isatty():
        return NATURAL
    return max(40, os.get_terminal_size(out.fileno()).columns)


# ------------------------------------------------------------------------------------------------ facts


def _write_facts(console: Console, report: Report, width: int) -> None:
    lines = report_lines(report.data)
    margin = max(len(label) for label, _ in lines) + PADDING
    for label, text in lines:
        body = _wrapped(console, text, width - margin)
        for first, line in zip([label, *[""] * len(body)], body, strict=False):
            console.print(Text(f"{first:<{margin}}", style="bold") + Text(line))


def _wrapped(console: Console, text: str, width: int) -> list[str]:
    if width >= cell_len(text):
        return [text]
    return [line.plain.rstrip() for line in Text(text).wrap(console, max(width, 20))]


# ------------------------------------------------------------------------------------------------ tables


def _write_view(console: Console, view: View, width: int) -> int:
    """Draws a view and says how many of its columns found no place."""
    cells = {id(column): texts_of(column, view.rows) for column in view.columns}
    shown = fitting(view.columns, cells, width)
    widths = _widths(shown, cells, width)
    table = Table(box=None, show_header=True, header_style="bold", padding=(0, PADDING, 0, 0), pad_edge=False)
    for column in shown:
        numeric = column.kind in (*NUMERIC, "shape")
        table.add_column(Text(column.title), justify="right" if numeric else "left", no_wrap=True, overflow="ellipsis")
    for index in range(len(view.rows)):
        table.add_row(*(_styled(column, cells[id(column)][index], widths[id(column)]) for column in shown))
    for line in _wrapped(console, printable(view.title), width):
        console.print(Text(line, style="bold underline"))
    if width < NATURAL:
        console.print(table, soft_wrap=False)
    else:
        console.print(table, soft_wrap=False, width=_natural(shown, cells))
    return sum(column not in shown for column in view.columns if any(cell != "–" for cell in cells[id(column)]))


def texts_of(column: Column, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A column's cells; those of a heat map share one scale, from zero to its largest value.

    It goes by the square root: one neuron of an early layer often towers so high that all else would be one shade.
    """
    values = [column.value(row) for row in rows]
    if column.kind == "heat":
        largest = max((cell for row in values for cell in row if math.isfinite(cell)), default=0) or 1
        values = [[math.sqrt(cell / largest) for cell in row] for row in values]
    texts = [text_of(column, value) for value in values]
    if column.kind != "text":
        return texts
    return [text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…" for text in texts]


def _natural(columns: Sequence[Column], cells: Mapping[int, list[str]]) -> int:
    return sum(_column_width(column, cells) + PADDING for column in columns)


def _column_width(column: Column, cells: Mapping[int, list[str]]) -> int:
    return max(cell_len(column.title), *(cell_len(cell) for cell in cells[id(column)]), 1)


def fitting(columns: Sequence[Column], cells: Mapping[int, list[str]], width: int) -> list[Column]:
    """The columns that fit once text has given way, those of least importance left out first, empty ones always.

    Text gives way to a floor before columns leave, and further before those leave that a table is about, priority 0.
    Only the first column stays whatever the width.
    """
    shown = [column for column in columns if any(cell != "–" for cell in cells[id(column)]) or column.kind == "place"]
    while len(shown) > 1:
        numbers = sum(column.kind in NUMERIC for column in shown)
        too_many = width < NARROW and numbers > NARROW_NUMBERS
        spare = [column for column in shown[1:] if column.priority > 0 and (column.kind in NUMERIC or not too_many)]
        floor = int(FLOOR * width) if spare else LAST_FLOOR
        if _least(shown, cells, floor) <= width and not (too_many and spare):
            return shown
        # Of what a table is about, the last column leaves first.
        shown.remove(max(spare or reversed(shown[1:]), key=lambda column: column.priority))
    return shown


def _least(columns: Sequence[Column], cells: Mapping[int, list[str]], floor: int) -> int:
    """The width of columns side by side when text has given way to a floor."""
    widths = ((column.kind, _column_width(column, cells)) for column in columns)
    return sum((min(wide, floor) if kind == "text" else wide) + PADDING for kind, wide in widths) - PADDING


def _widths(columns: Sequence[Column], cells: Mapping[int, list[str]], width: int) -> dict[int, int]:
    """The width of each column: text has what the others leave, the shortest texts first."""
    widths = {id(column): _column_width(column, cells) for column in columns}
    texts = sorted((column for column in columns if column.kind == "text"), key=lambda column: widths[id(column)])
    room = width - _least(columns, cells, 0)
    for left, column in zip(range(len(texts), 0, -1), texts, strict=True):
        widths[id(column)] = min(widths[id(column)], max(room // left, cell_len(column.title), 1))
        room -= widths[id(column)]
    return widths


def cut(text: str, room: int) -> str:
    """A text in so many cells: a name loses its middle, where names are alike; what has words loses its end."""
    if cell_len(text) <= room:
        return text
    if room < LAST_FLOOR or " " in text:
        return f"{set_cell_size(text, max(room - 1, 0)).rstrip()}…"
    tail = set_cell_size(text[::-1], room // 2)[::-1]
    return f"{set_cell_size(text, room - 1 - room // 2).rstrip()}…{tail.lstrip()}"


def _styled(column: Column, text: str, room: int) -> Text:
    if column.kind == "heat":
        return Text.assemble(*((shade, SHADE_STYLES.get(shade, "bold red")) for shade in text))
    style = VERDICT_STYLES.get(text, "") if column.kind == "verdict" else ""
    return Text(
        cut(text, room) if column.kind == "text" else text, style=style or ("bold" if column.kind == "place" else "")
    )


# ------------------------------------------------------------------------------------------------ findings


def _write_findings(console: Console, view: View, width: int) -> None:
    if not view.rows:
        console.print(Text("no findings", style="bold green"))
        return
    console.print(Text("findings", style="bold underline"))
    for rows in alike(view.rows):
        first = rows[0]
        where = f" {printable(str(first['part']))}" if first["part"] else ""
        others = [printable(str(row["part"])) for row in rows[1:]]
        head = Text(f"{first['severity']:<8}", style=SEVERITY_STYLES[first["severity"]])
        console.print(head + Text(f"{first['rule']}", style="bold") + Text(where))
        texts = [printable(str(first["message"]))]
        if others:
            texts.append(f"likewise {', '.join(spans(others))}")
        texts.append(f"→ {printable(str(first['hint']))}")
        for text in texts:
            for line in _wrapped(console, text, min(width, 120) - 8):
                console.print(Text(" " * 8 + line))
