"""How a report looks: one function a format, and the only place that prints."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from bertprobe.errors import NotFound, quoted

if TYPE_CHECKING:
    from bertprobe.report import Report, View


def _table(report: Report, out: TextIO, table: str | None, whole: bool) -> None:
    from bertprobe.render import terminal

    terminal.write(report, out, chosen(report, table), whole=whole and table is None)


def _json(report: Report, out: TextIO, table: str | None, whole: bool) -> None:
    from bertprobe.render import data_formats

    data_formats.write_json(report, out)


def _csv(report: Report, out: TextIO, table: str | None, whole: bool) -> None:
    from bertprobe.render import data_formats

    main = next(view.name for view in sorted(report.views, key=lambda v: (not v.machine_only, v.name == "findings")))
    data_formats.write_csv(report, out, chosen(report, table or main))


def _markdown(report: Report, out: TextIO, table: str | None, whole: bool) -> None:
    from bertprobe.render import markdown

    markdown.write_markdown(report, out, chosen(report, table))


def _github(report: Report, out: TextIO, table: str | None, whole: bool) -> None:
    from bertprobe.render import data_formats

    data_formats.write_github(report, out)


@dataclass(frozen=True, slots=True)
class Format:
    """A row of `FORMATS`: its name, the function that writes, and what it is good for.

    `hint` stands behind the name in the help of --format; `words` says whether it can write a report that is prose.
    `no_table` says why it takes no --table, empty where it takes one.
    """

    name: str
    write: Callable[[Report, TextIO, str | None, bool], None]
    hint: str = ""
    words: bool = False
    findings_only: bool = False
    no_table: str = ""


FORMATS: dict[str, Format] = {
    row.name: row
    for row in (
        Format("table", _table, words=True),
        Format("json", _json, words=True, no_table="JSON holds everything"),
        Format("csv", _csv),
        Format("markdown", _markdown, words=True),
        Format(
            "github",
            _github,
            hint="findings as annotations of a run",
            findings_only=True,
            no_table="github takes the findings",
        ),
    )
}


def show(
    report: Report, format: str = "table", table: str | None = None, *, whole: bool = True, out: TextIO | None = None
) -> None:
    """Writes a report to stdout, or `out`, in one of `FORMATS`.

    `table` names a single view, JSON and github take none; a report that is not `whole` leaves out the facts where
    people read.
    """
    FORMATS[format].write(report, out or sys.stdout, table, whole)


def chosen(report: Report, table: str | None) -> tuple[View, ...]:
    """The views to draw: all that people read, or the one that is named; raises `NotFound`."""
    if table is None:
        return tuple(view for view in report.views if not view.machine_only)
    found = tuple(view for view in report.views if view.name == table)
    if not found:
        there = ", ".join(view.name for view in report.views)
        raise NotFound(
            f"there is no table {quoted(table)} here, only {there}",
            "spectrum and neurons appear where they were asked for",
        )
    return found
