"""Tables for notebooks: plain HTML that takes the notebook's own look, every text escaped, no script in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from bertprobe.errors import printable
from bertprobe.render.looks import has_facts, look
from bertprobe.render.terminal import NUMERIC, text_of
from bertprobe.render.words import fact_lines
from bertprobe.report import Column, Report, View

MOST_ROWS = 200  # a notebook keeps what it shows: of longer tables the beginning


def html(value: Any) -> str:
    """A report, part or finding, or several of them, as an HTML fragment."""
    return f'<div class="bertprobe">{"".join(_blocks(look(value)))}</div>'


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
    """A view with every column that says something; numbers to the right."""
    shown = view.rows[:MOST_ROWS]
    columns = [column for column in view.columns if any(column.value(row) is not None for row in shown)]
    head = "".join(f'<th scope="col" style="{_align(column)}">{_text(column.title)}</th>' for column in columns)
    body = "".join(f"<tr>{''.join(_cell(column, row) for column in columns)}</tr>" for row in shown)
    left = len(view.rows) - len(shown)
    more = f"<p>and {left:,} rows more</p>" if left else ""
    caption = f'<caption style="text-align:left;font-weight:bold">{_text(view.title)}</caption>'
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _cell(column: Column, row: Mapping[str, Any]) -> str:
    value = column.value(row)
    if column.kind == "heat":
        return f'<td style="{_align(column)}">{" ".join(text_of(_REAL, cell) for cell in value)}</td>'
    return f'<td style="{_align(column)}">{_text(text_of(column, value))}</td>'


_REAL = Column("", (), "real")


def _align(column: Column) -> str:
    if column.kind == "bar":
        return "text-align:left;white-space:pre;font-family:monospace"
    return f"text-align:{'right' if column.kind in (*NUMERIC, 'shape') else 'left'}"


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
