"""The page: one HTML file that asks for nothing, readable without its charts, light and dark, on paper and by ear."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from bertprobe.errors import printable
from bertprobe.render.html.charts import DRAWERS
from bertprobe.render.html.charts.spec import BOTH_WAYS, CONFIG, MAP_STOPS, Panel, without_legends
from bertprobe.render.html.charts.texts import most, neurons_in_words, short
from bertprobe.render.html.drawing import draw, module_names, verdicts
from bertprobe.render.html.figures import FIGURES, Figure
from bertprobe.render.html.files import bundle
from bertprobe.render.html.theme import variables
from bertprobe.render.machine import finite
from bertprobe.render.words import NOT_GOOD, alike, fact_lines, four_digits, spans, text_of
from bertprobe.report import Column, Report, View

SHOWN = 10  # priority up to which a table of the page shows its columns: all of them stand in the data
WRAPPING = 24  # characters from which a text may break into lines
SEVERITIES = {"error": "Error", "warning": "Warning", "note": "Note"}
POLICY = "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def page(report: Report) -> str:
    """The whole page, with the data of the report in it as JSON."""
    data = finite(report.data)
    panels = {name: list(draw_panels(data)) for name, draw_panels in DRAWERS.items()}
    specs = {f"{name}-{i}": without_legends(p) for name, found in panels.items() for i, p in enumerate(found)}
    sections = [section for section in _sections(report, data, panels) if section is not None]
    model = _text(str(data["model"]))
    scripts = [bundle(), _resource("page.js")]
    body = [
        '<a class="skip" href="#main">Skip to the content</a>',
        f"<header><h1>bertprobe: {model}</h1>{_lead(data)}{_contents(sections)}</header>",
        f'<main id="main" tabindex="-1">{"".join(html for _, _, html in sections)}</main>',
        f"<footer>{_foot(data)}</footer>",
        _json("charts", {"config": CONFIG, "panels": specs}),
        _json("data", data),
        *(f"<script>{script}</script>" for script in scripts),
    ]
    return f'<!DOCTYPE html>\n<html lang="en">{_head(model, scripts)}<body>\n{"".join(body)}</body></html>\n'


def _head(model: str, scripts: Sequence[str]) -> str:
    sums = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    policy = f"default-src 'none'; script-src {sums}; {POLICY}"
    return (
        '<head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>bertprobe: {model}</title>'
        f'<link rel="icon" href="data:,"><style>{variables()}{_resource("page.css")}</style></head>'
    )


def _resource(name: str) -> str:
    return (files("bertprobe.render.html") / name).read_text(encoding="utf-8")


def _json(name: str, value: Any) -> str:
    """Data for a script: no character in it can end the element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return f'<script type="application/json" id="{name}">{text}</script>'


def _text(text: str) -> str:
    """Foreign text, safe in HTML and to read."""
    return escape(printable(text))


# ------------------------------------------------------------------------------------------------ in words


def _lead(data: Mapping[str, Any]) -> str:
    return "".join(f'<p class="lead">{_text(sentence)}</p>' for sentence in in_words(data))


def in_words(data: Mapping[str, Any]) -> Iterator[str]:
    """What there is to say in a few sentences."""
    facts = data["facts"]
    layers = f"{facts['layers']} layer{'' if facts['layers'] == 1 else 's'}"
    yield f"An encoder of the {facts['family']} family: {layers}, {facts['parameters']:,} parameters."
    yield _intermediate_in_words(data)
    yield _pooler_in_words(data)
    counts = [(kind, sum(f["severity"] == kind for f in data["findings"])) for kind in SEVERITIES]
    told = [f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in counts if count]
    yield f"Findings: {', '.join(told) if told else 'none'}."


def _intermediate_in_words(data: Mapping[str, Any]) -> str:
    facts, name = data["facts"], module_names(data)[0]
    hidden, inner = facts["hidden_size"], facts["intermediate_size"]
    if not facts["layers"]:
        return "There is no intermediate module in this file."
    wide = f"from {hidden:,} to {inner:,} numbers" if hidden and inner else "to more numbers"
    act = facts["activation"]
    does = f" and applies {act}" if act else "; no config says which activation follows"
    found = verdicts(data, "intermediate", "gate")
    by = "by its numbers" if facts["layers"] == 1 else "by their numbers"
    return f"In every layer the {name} widens each token {wide}{does}; {by}: {found or 'not measured'}."


def _pooler_in_words(data: Mapping[str, Any]) -> str:
    if data["layer"]["pooler"] is None:
        return "There is no pooler at the end."
    act, found = data["layer"]["pooler_activation"], verdicts(data, "pooler")
    return (
        f"At the end the {module_names(data)[1]} takes the first token through a dense layer and {act}; "
        f"by its numbers: {found or 'not measured'}."
    )


def _foot(data: Mapping[str, Any]) -> str:
    return (
        f"<p>Made by bertprobe {_text(data['version'])} from the files themselves. “Trained” means that there is "
        "structure which fresh weights do not have, not that the model is good. Every number of this page, unrounded, "
        "stands in it as JSON, in the element <code>data</code>. Nothing is fetched.</p>"
        "<p>Charts are drawn by Vega and Vega-Lite (BSD 3-clause licence), which this file carries.</p>"
    )


def _contents(sections: Sequence[tuple[str, str, str]]) -> str:
    items = "".join(f'<li><a href="#{name}">{escape(title)}</a></li>' for name, title, _ in sections)
    return f'<nav aria-label="Contents"><ul>{items}</ul></nav>'


# ------------------------------------------------------------------------------------------------ sections

Section = tuple[str, str, str]


def _sections(
    report: Report, data: Mapping[str, Any], panels: Mapping[str, Sequence[Panel]]
) -> Iterator[Section | None]:
    views = {view.name: view for view in report.views}
    yield _section("findings", "Findings", _findings(data["findings"]))
    yield _section("facts", "Facts", _facts(data))
    yield _layer(data)
    yield _section("statistics", "Statistics", "".join(_tables(views, ("intermediate", "pooler"))))
    for name in ("weights", "neurons", "spectrum"):
        below = {"neurons": _outlier_table(data), "spectrum": "".join(_tables(views, ("spectrum",)))}.get(name, "")
        yield _figure(FIGURES[name], data, panels[name], below)
    if not data["texts"]:
        yield _section("texts", "Texts", "<p>None was given: add texts to the command to see the modules at work.</p>")
        return
    yield _section("texts", "Texts", _texts(views))
    yield _figure(FIGURES["tokens"], data, panels["tokens"], "".join(_token_tables(data)))
    yield _section("activity", "Activity of each layer", "".join(_tables(views, ("layers", "top"))))
    yield _figure(FIGURES["pooled"], data, panels["pooled"], "".join(_tables(views, ("strongest",))))
    if data["similarity"]:
        yield _figure(FIGURES["similarity"], data, panels["similarity"], _closed(views, "similarity"))


def _section(name: str, title: str, html: str) -> Section:
    head = f'<h2 id="{name}-title">{escape(title)}</h2>'
    return name, title, f'<section id="{name}" aria-labelledby="{name}-title">{head}{html}</section>'


def _layer(data: Mapping[str, Any]) -> Section:
    row = FIGURES["layer"]
    caption = f'<p class="caption">{_text(row.caption(data))}</p>'
    drawing = f'<div class="drawing">{draw(data)}</div>'
    return _section(row.name, row.title, f'{caption}<div class="beside">{drawing}<div>{_apart(data)}</div></div>')


def _apart(data: Mapping[str, Any]) -> str:
    """What the two modules have in common and in what they differ, with this model's shapes."""
    names = module_names(data)
    hidden, inner = (f"{n:,}" if n else "?" for n in (data["facts"]["hidden_size"], data["facts"]["intermediate_size"]))
    layers, shape = f"in each of {data['facts']['layers']} layers", data["layer"]["pooler"]
    act = str(data["facts"]["activation"] or "not told by a config")
    rows = [
        ("stands", f"{data['layer']['position']}, {layers}", "once, after all layers"),
        ("reads", "every token", "the first token only"),
        ("dense layer", f"{hidden} → {inner}", f"{shape[1]:,} → {shape[0]:,}" if shape else ""),
        ("activation", act, str(data["layer"]["pooler_activation"])),
        ("is for", "features of each token, which the output module mixes back", "one vector a text, for a classifier"),
        ("by its numbers", verdicts(data, "intermediate", "gate") or "–", verdicts(data, "pooler") or "–"),
    ]
    if shape is None:
        rows = [(what, here, "–" if i else "absent here") for i, (what, here, _) in enumerate(rows)]
    columns = [Column(title, (title,), "text") for title in ("", *names)]
    table = tuple(dict(zip(("", *names), row, strict=True)) for row in rows)
    view = View("apart", "the two modules side by side", tuple(columns), table)
    return _table(view)


def _figure(row: Figure, data: Mapping[str, Any], panels: Sequence[Panel], below: str) -> Section:
    if not panels:
        return _section(row.name, row.title, f'<p class="caption">Nothing to draw: {_text(row.absent)}.</p>{below}')
    shape = {"tokens": " free", "similarity": " free", "pooled": " wide"}.get(row.name, "")
    caption = f'<p class="caption">{_text(row.caption(data))}</p>{_legend(row, data)}'
    drawn = "".join(_panel(f"{row.name}-{i}", panel) for i, panel in enumerate(panels))
    without = "<noscript><p>The charts need JavaScript; the numbers stand in the tables.</p></noscript>"
    return _section(row.name, row.title, f'{caption}{without}<div class="panels{shape}">{drawn}</div>{below}')


def _panel(name: str, panel: Panel) -> str:
    return (
        f"<figure><figcaption>{_text(panel.title)}</figcaption>"
        f'<div class="chart" id="{name}" role="img" aria-label="{_text(panel.description)}"></div></figure>'
    )


def _legend(row: Figure, data: Mapping[str, Any]) -> str:
    if not row.legend:
        return ""
    if row.legend == "both ways":
        return _bar(BOTH_WAYS, "−1", "1", "from −1 in blue over 0 in white to 1 in orange")
    top = four_digits(most(data["activations"]["heat"]))
    return _bar(MAP_STOPS, "0", top, f"from 0, dark, to {top}, light, by the square root")


def _bar(stops: Sequence[str], low: str, high: str, words: str) -> str:
    return (
        f'<div class="legend" role="img" aria-label="Colour scale {escape(words)}"><span>{low}</span>'
        f'<span class="bar" style="background:linear-gradient(90deg,{",".join(stops)})"></span>'
        f"<span>{high}</span></div>"
    )


# ------------------------------------------------------------------------------------------------ findings and facts


def _findings(findings: Sequence[Mapping[str, Any]]) -> str:
    if not findings:
        return "<p>None: nothing about this checkpoint gave cause to speak.</p>"
    return f'<ul class="findings">{"".join(map(_finding, alike(findings)))}</ul>'


def _finding(rows: Sequence[Mapping[str, Any]]) -> str:
    first = rows[0]
    where = f" in <code>{_text(str(first['part']))}</code>" if first["part"] else ""
    others = ", ".join(spans([str(row["part"]) for row in rows[1:]]))
    return (
        f'<li class="{escape(first["severity"])}"><p><span class="severity">{SEVERITIES[first["severity"]]}</span> '
        f"<code>{_text(first['rule'])}</code>{where}</p><p>{_text(str(first['message']))}</p>"
        + (f"<p>Likewise {_text(others)}.</p>" if others else "")
        + f'<p class="soft">→ {_text(str(first["cure"]))}</p></li>'
    )


def _facts(data: Mapping[str, Any]) -> str:
    lines = fact_lines(str(data["model"]), data["facts"])
    items = "".join(f"<dt>{escape(label)}</dt><dd>{escape(text)}</dd>" for label, text in lines)
    return f'<dl class="facts">{items}</dl>'


# ------------------------------------------------------------------------------------------------ tables


def _tables(views: Mapping[str, View], names: Sequence[str]) -> Iterator[str]:
    for name in names:
        if name in views and views[name].rows:
            yield _table(views[name])


def _closed(views: Mapping[str, View], name: str) -> str:
    tables = "".join(_tables(views, (name,)))
    return f"<details><summary>The numbers as a table</summary>{tables}</details>" if tables else ""


def _table(view: View) -> str:
    """A view as a table with a caption; columns of least importance are left to the data."""
    cells = {id(c): [text_of(c, c.value(row)) for row in view.rows] for c in view.columns}
    columns = [
        c
        for c in view.columns
        if c.kind not in ("bar", "heat") and c.priority <= SHOWN and any(cell != "–" for cell in cells[id(c)])
    ]
    head = [_cell("th", c, c.title or c.name, ' scope="col"') for c in columns]
    body = [
        [_cell("td" if j else "th", c, cells[id(c)][i], "" if j else ' scope="row"') for j, c in enumerate(columns)]
        for i in range(len(view.rows))
    ]
    return _markup(view.title, head, body)


def _markup(title: str, head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    rows = "".join(f"<tr>{''.join(row)}</tr>" for row in body)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{_text(title)}"><table>'
        f"<caption>{_text(title)}</caption><thead><tr>{''.join(head)}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _cell(tag: str, column: Column, text: str, scope: str) -> str:
    numeric = column.kind in ("integer", "real", "share", "shape")
    classes = ["n"] if numeric else ["wrap"] if len(text) > WRAPPING and column.kind == "text" else []
    if column.kind == "verdict" and text in NOT_GOOD:
        classes.append("odd")
    kind = f' class="{" ".join(classes)}"' if classes else ""
    return f"<{tag}{scope}{kind}>{_text(text)}</{tag}>"


def _outlier_table(data: Mapping[str, Any]) -> str:
    rows = tuple(
        {"part": part["label"], **row}
        for part in data["parts"]
        if part["row_norms"]
        for row in part["row_norms"]["outliers"]
    )
    if not rows:
        return "<p>No neuron lies that far from the others.</p>"
    columns = (
        Column("part", ("part",), "text"),
        Column("neuron", ("neuron",), "integer"),
        Column("norm", ("norm",), "real"),
        Column("robust z", ("robust_z",), "real"),
    )
    return _table(View("outliers", "neurons far from the rest, ten of each part at most", columns, rows))


def _texts(views: Mapping[str, View]) -> str:
    tables = "".join(_tables(views, ("vectors",)))
    return f"<p>{'What the model makes of each text, one vector a text.'}</p>{tables}"


def _token_tables(data: Mapping[str, Any]) -> Iterator[str]:
    """A table for each text: tokens by layers, in each cell the strongest neurons."""
    labels = [layer["label"] for layer in data["activations"]["layers"]]
    found: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for row in data["activations"]["tokens"]:
        found.setdefault((row["text"], row["label"]), []).append(row)
    heads = [Column("token", (), "text"), *(Column(short(label), (), "text") for label in labels)]
    for number in range(1, len(data["texts"]) + 1):
        rows = zip(*(found.get((number, label), []) for label in labels), strict=False)
        body = [
            [_cell("th", heads[0], same[0]["token"], ' scope="row"'), *(_strongest(row["strongest"]) for row in same)]
            for same in rows
        ]
        title = f"text {number}: the strongest neurons of each token, layer by layer"
        table = _markup(title, [_cell("th", head, head.title, ' scope="col"') for head in heads], body)
        summary = f"<summary>Strongest neurons of each token of text {number}</summary>"
        yield f"<details{' open' if number == 1 else ''}>{summary}{table}</details>"


def _strongest(neurons: Sequence[Mapping[str, Any]]) -> str:
    return f"<td>{'<br>'.join(neurons_in_words([n]) for n in neurons)}</td>"
