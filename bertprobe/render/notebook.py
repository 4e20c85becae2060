"""Tables for notebooks: plain HTML that takes the notebook's own look, every text escaped, no script in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from bertprobe.errors import printable
from bertprobe.render.terminal import NUMERIC, fitting, texts_of
from bertprobe.render.words import fact_lines
from bertprobe.report import Column, Report, View
from bertprobe.report.display import as_report, has_facts

WIDTH = 120  # in characters
MOST_ROWS = 200  # a notebook keeps what it shows: of longer tables the beginning


def html(value: Any) -> str:
    """A report, part or finding, or several of them, as an HTML fragment."""
    return f'<div class="bertprobe">{"".join(_blocks(as_report(value)))}</div>'


def _blocks(report: Report) -> Iterator[str]:
    if has_facts(report):
        yield _facts(str(report.data["model"]), report.data["facts"])
    for view in report.views:
        if view.name == "findings":
            yield _findings(view)
        elif view.rows and not view.machine_only:
            yield _table(view)


def _facts(model: str, facts: Mapping[str, Any]) -> str:
    left = 'style="text-align:left"'
    rows = (
        f'<tr><th scope="row" {left}>{_text(label)}</th><td {left}>{_text(text)}</td></tr>'
        for label, text in fact_lines(model, facts)
    )
    return f"<table><tbody>{''.join(rows)}</tbody></table>"


def _table(view: View) -> str:
    """The columns of a view that a terminal of `WIDTH` would show; numbers to the right, nothing folded."""
    rows = view.rows[:MOST_ROWS]
    cells = {id(column): texts_of(column, rows) for column in view.columns}
    columns = fitting(view.columns, cells, WIDTH)
    head = "".join(f'<th scope="col" style="{_style(column)}">{_text(column.title)}</th>' for column in columns)
    body = "".join(
        f"<tr>{''.join(_cell(column, cells[id(column)][i]) for column in columns)}</tr>" for i in range(len(rows))
    )
    left = len(view.rows) - len(rows)
    more = f"<p>and {left:,} rows more</p>" if left else ""
    caption = f'<caption style="text-align:left;font-weight:bold">{_text(view.title)}</caption>'
    table = f"{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<table style="margin:1em 0">{table}</table>{more}'


def _cell(column: Column, text: str) -> str:
    return f'<td style="{_style(column)}">{_text(text)}</td>'


def _style(column: Column) -> str:
    if column.kind in ("bar", "heat"):
        return "text-align:left;white-space:pre;font-family:monospace"
    return f"white-space:nowrap;text-align:{'right' if column.kind in (*NUMERIC, 'shape') else 'left'}"


def _findings(view: View) -> str:
    if not view.rows:
        return "<p>no findings</p>"
    items = []
    for row in view.rows:
        where = f" {_text(str(row['part']))}" if row["part"] else ""
        words = f"<strong>{_text(str(row['severity']))}</strong> <code>{_text(str(row['rule']))}</code>{where}<br>"
        items.append(f"<li>{words}{_text(str(row['message']))}<br>→ {_text(str(row['cure']))}</li>")
    return f"<p><strong>findings</strong></p><ul>{''.join(items)}</ul>"


def _text(text: str) -> str:
    return escape(printable(text))
