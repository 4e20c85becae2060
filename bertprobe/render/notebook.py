"""Tables for notebooks: plain HTML that takes the notebook's own look, every text escaped, no script in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bertprobe.render.markup import Markup, element, joined, table
from bertprobe.render.terminal import NUMERIC, fitting, texts_of
from bertprobe.render.words import fact_lines
from bertprobe.report import Column, Report, View
from bertprobe.report.display import as_report, has_facts

if TYPE_CHECKING:
    from bertprobe.report.nodes import Facts

WIDTH = 120  # in characters
MOST_ROWS = 200  # a notebook keeps what it shows: of longer tables the beginning


def html(value: Any) -> str:
    """A report, part or finding, or several of them, as an HTML fragment."""
    return element("div", *_blocks(as_report(value)), class_="bertprobe")


def _blocks(report: Report) -> Iterator[Markup]:
    if has_facts(report):
        yield _facts(str(report.data["model"]), report.data["facts"])
    for view in report.views:
        if view.name == "findings":
            yield _findings(view)
        elif view.rows and not view.machine_only:
            yield _table(view)


def _facts(model: str, facts: Facts) -> Markup:
    left = "text-align:left"
    rows = (
        element("tr", element("th", label, scope="row", style=left), element("td", words, style=left))
        for label, words in fact_lines(model, facts)
    )
    return element("table", element("tbody", *rows))


def _table(view: View) -> Markup:
    """The columns of a view that a terminal of `WIDTH` would show; numbers to the right, nothing folded."""
    rows = view.rows[:MOST_ROWS]
    cells = {id(column): texts_of(column, rows) for column in view.columns}
    columns = fitting(view.columns, cells, WIDTH)
    head = [element("th", column.title, scope="col", style=_style(column)) for column in columns]
    body = [[element("td", cells[id(column)][i], style=_style(column)) for column in columns] for i in range(len(rows))]
    left = len(view.rows) - len(rows)
    more = [element("p", f"and {left:,} rows more")] if left else []
    caption = element("caption", view.title, style="text-align:left;font-weight:bold")
    return joined([table(caption, head, body, style="margin:1em 0"), *more])


def _style(column: Column) -> str:
    if column.kind in ("bar", "heat"):
        return "text-align:left;white-space:pre;font-family:monospace"
    return f"white-space:nowrap;text-align:{'right' if column.kind in (*NUMERIC, 'shape') else 'left'}"


def _findings(view: View) -> Markup:
    if not view.rows:
        return element("p", "no findings")
    title = element("p", element("strong", "findings"))
    return joined([title, element("ul", *(element("li", *_finding(row)) for row in view.rows))])


def _finding(row: Mapping[str, Any]) -> Iterator[str]:
    yield from (element("strong", str(row["severity"])), " ", element("code", str(row["rule"])))
    if row["part"]:
        yield f" {row['part']}"
    yield from (element("br"), str(row["message"]), element("br"), f"→ {row['hint']}")
