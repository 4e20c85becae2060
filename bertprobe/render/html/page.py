"""The page: one HTML file that asks for nothing, readable without its charts, light and dark, on paper and by ear."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from bertprobe.render.data_formats import finite
from bertprobe.render.html.charts import DRAWERS
from bertprobe.render.html.charts.spec import BOTH_WAYS, CONFIG, MAP_STOPS, Panel, without_legends
from bertprobe.render.html.charts.texts import most, neurons_in_words, short
from bertprobe.render.html.document import data_script, document, head, resource
from bertprobe.render.html.drawing import draw, module_names, verdicts
from bertprobe.render.html.figures import FIGURES, Figure
from bertprobe.render.html.files import bundle
from bertprobe.render.markup import Markup, element, joined, table
from bertprobe.render.words import NOT_GOOD, alike, fact_lines, four_digits, spans, text_of
from bertprobe.report import Column, Report, View
from bertprobe.report.nodes import Activity, Finding, Page, TokenActivity

SHOWN = 10  # priority up to which a table of the page shows its columns: all of them stand in the data
WRAPPING = 24  # characters from which a text may break into lines
SEVERITIES = {"error": "Error", "warning": "Warning", "note": "Note"}


def page(report: Report) -> str:
    """The whole page, with the data of the report in it as JSON."""
    data: Page = finite(report.data)
    panels = {name: list(draw_panels(data)) for name, draw_panels in DRAWERS.items()}
    specs = {f"{name}-{i}": without_legends(p) for name, found in panels.items() for i, p in enumerate(found)}
    sections = [section for section in _sections(report, data, panels) if section is not None]
    title = f"bertprobe: {data['model']}"
    scripts = [bundle(), resource("page.js")]
    body = element(
        "body",
        Markup("\n"),
        element("a", "Skip to the content", class_="skip", href="#main"),
        element("header", element("h1", title), _lead(data), _contents(sections)),
        element("main", *(html for _, _, html in sections), id="main", tabindex="-1"),
        element("footer", _foot(data)),
        data_script("charts", {"config": CONFIG, "panels": specs}),
        data_script("data", data),
        *(element("script", Markup(script)) for script in scripts),
    )
    return document(head(title, scripts, resource("page.css")), body)


# ------------------------------------------------------------------------------------------------ in words


def _lead(data: Page) -> Markup:
    return joined(element("p", sentence, class_="lead") for sentence in in_words(data))


def in_words(data: Page) -> Iterator[str]:
    """What there is to say in a few sentences."""
    facts = data["facts"]
    layers = f"{facts['layers']} layer{'' if facts['layers'] == 1 else 's'}"
    yield f"An encoder of the {facts['family']} family: {layers}, {facts['parameters']:,} parameters."
    yield _intermediate_in_words(data)
    yield _pooler_in_words(data)
    counts = [(kind, sum(f["severity"] == kind for f in data["findings"])) for kind in SEVERITIES]
    told = [f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in counts if count]
    yield f"Findings: {', '.join(told) if told else 'none'}."


def _intermediate_in_words(data: Page) -> str:
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


def _pooler_in_words(data: Page) -> str:
    if data["layer"]["pooler"] is None:
        return "There is no pooler at the end."
    act, found = data["layer"]["pooler_activation"], verdicts(data, "pooler")
    return (
        f"At the end the {module_names(data)[1]} takes the first token through a dense layer and {act}; "
        f"by its numbers: {found or 'not measured'}."
    )


def _foot(data: Page) -> Markup:
    made = element(
        "p",
        f"Made by bertprobe {data['version']} from the files themselves. “Trained” means that there is "
        "structure which fresh weights do not have, not that the model is good. Every number of this page, unrounded, "
        "stands in it as JSON, in the element ",
        element("code", "data"),
        ". Nothing is fetched.",
    )
    drawn = "Charts are drawn by Vega and Vega-Lite (BSD 3-clause licence), which this file carries."
    return joined([made, element("p", drawn)])


def _contents(sections: Sequence[Section]) -> Markup:
    items = (element("li", element("a", title, href=f"#{name}")) for name, title, _ in sections)
    return element("nav", element("ul", *items), aria_label="Contents")


# ------------------------------------------------------------------------------------------------ sections

Section = tuple[str, str, Markup]  # its name, its title, and what stands in it


def _sections(report: Report, data: Page, panels: Mapping[str, Sequence[Panel]]) -> Iterator[Section | None]:
    views = {view.name: view for view in report.views}
    yield _section("findings", "Findings", _findings(data["findings"]))
    yield _section("facts", "Facts", _facts(data))
    yield _layer(data)
    yield _section("statistics", "Statistics", joined(_tables(views, ("intermediate", "pooler"))))
    for name in ("weights", "neurons", "spectrum"):
        below = {"neurons": [_outlier_table(data)], "spectrum": _tables(views, ("spectrum",))}.get(name, ())
        yield _figure(FIGURES[name], data, panels[name], below)
    if not data["texts"]:
        none = element("p", "None was given: add texts to the command to see the modules at work.")
        yield _section("texts", "Texts", none)
        return
    yield _section("texts", "Texts", _texts(views))
    yield _figure(FIGURES["tokens"], data, panels["tokens"], _token_tables(data))
    yield _section("activity", "Activity of each layer", joined(_tables(views, ("layers", "top"))))
    yield _figure(FIGURES["pooled"], data, panels["pooled"], _tables(views, ("strongest",)))
    if data["similarity"]:
        yield _figure(FIGURES["similarity"], data, panels["similarity"], _closed(views, "similarity"))


def _section(name: str, title: str, html: Markup) -> Section:
    head = element("h2", title, id=f"{name}-title")
    return name, title, element("section", head, html, id=name, aria_labelledby=f"{name}-title")


def _layer(data: Page) -> Section:
    row = FIGURES["layer"]
    caption = element("p", row.caption(data), class_="caption")
    drawing = element("div", Markup(draw(data)), class_="drawing")
    beside = element("div", drawing, element("div", _apart(data)), class_="beside")
    return _section(row.name, row.title, joined([caption, beside]))


def _apart(data: Page) -> Markup:
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


def _figure(row: Figure, data: Page, panels: Sequence[Panel], below: Iterable[Markup]) -> Section:
    if not panels:
        nothing = element("p", f"Nothing to draw: {row.absent}.", class_="caption")
        return _section(row.name, row.title, joined([nothing, *below]))
    shape = {"tokens": " free", "similarity": " free", "pooled": " wide"}.get(row.name, "")
    without = element("noscript", element("p", "The charts need JavaScript; the numbers stand in the tables."))
    drawn = element("div", *(_panel(f"{row.name}-{i}", p) for i, p in enumerate(panels)), class_=f"panels{shape}")
    caption = element("p", row.caption(data), class_="caption")
    return _section(row.name, row.title, joined([caption, *_legend(row, data), without, drawn, *below]))


def _panel(name: str, panel: Panel) -> Markup:
    chart = element("div", class_="chart", id=name, role="img", aria_label=panel.description)
    return element("figure", element("figcaption", panel.title), chart)


def _legend(row: Figure, data: Page) -> Iterator[Markup]:
    if row.legend == "both ways":
        yield _bar(BOTH_WAYS, "−1", "1", "from −1 in blue over 0 in white to 1 in orange")
    elif row.legend and (ran := data["activations"]) and ran["heat"]:
        top = four_digits(most(ran["heat"]))
        yield _bar(MAP_STOPS, "0", top, f"from 0, dark, to {top}, light, by the square root")


def _bar(stops: Sequence[str], low: str, high: str, words: str) -> Markup:
    bar = element("span", class_="bar", style=f"background:linear-gradient(90deg,{','.join(stops)})")
    ends = (element("span", low), bar, element("span", high))
    return element("div", *ends, class_="legend", role="img", aria_label=f"Colour scale {words}")


# ------------------------------------------------------------------------------------------------ findings and facts


def _findings(findings: Sequence[Finding]) -> Markup:
    if not findings:
        return element("p", "None: nothing about this checkpoint gave cause to speak.")
    return element("ul", *map(_finding, alike(findings)), class_="findings")


def _finding(rows: Sequence[Finding]) -> Markup:
    first = rows[0]
    severity = element("span", SEVERITIES[first["severity"]], class_="severity")
    where = (" in ", element("code", str(first["part"]))) if first["part"] else ()
    others = ", ".join(spans([str(row["part"]) for row in rows[1:]]))
    return element(
        "li",
        element("p", severity, " ", element("code", first["rule"]), *where),
        element("p", str(first["message"])),
        *([element("p", f"Likewise {others}.")] if others else []),
        element("p", f"→ {first['hint']}", class_="soft"),
        class_=first["severity"],
    )


def _facts(data: Page) -> Markup:
    lines = fact_lines(str(data["model"]), data["facts"])
    items = (item for label, words in lines for item in (element("dt", label), element("dd", words)))
    return element("dl", *items, class_="facts")


# ------------------------------------------------------------------------------------------------ tables


def _tables(views: Mapping[str, View], names: Sequence[str]) -> Iterator[Markup]:
    for name in names:
        if name in views and views[name].rows:
            yield _table(views[name])


def _closed(views: Mapping[str, View], name: str) -> Iterator[Markup]:
    tables = list(_tables(views, (name,)))
    if tables:
        yield element("details", element("summary", "The numbers as a table"), *tables)


def _table(view: View) -> Markup:
    """A view as a table with a caption; columns of least importance are left to the data."""
    cells = {id(c): [text_of(c, c.value(row)) for row in view.rows] for c in view.columns}
    columns = [
        c
        for c in view.columns
        if c.kind not in ("bar", "heat") and c.priority <= SHOWN and any(cell != "–" for cell in cells[id(c)])
    ]
    head = [_cell("th", c, c.title or c.name, "col") for c in columns]
    body = [
        [_cell("td" if j else "th", c, cells[id(c)][i], None if j else "row") for j, c in enumerate(columns)]
        for i in range(len(view.rows))
    ]
    return _scrolling(view.title, head, body)


def _scrolling(title: str, head: Sequence[Markup], body: Sequence[Sequence[Markup]]) -> Markup:
    inside = table(element("caption", title), head, body)
    return element("div", inside, class_="scroll", role="region", tabindex="0", aria_label=title)


def _cell(tag: str, column: Column, words: str, scope: str | None) -> Markup:
    numeric = column.kind in ("integer", "real", "share", "shape")
    classes = ["n"] if numeric else ["wrap"] if len(words) > WRAPPING and column.kind == "text" else []
    if column.kind == "verdict" and words in NOT_GOOD:
        classes.append("odd")
    return element(tag, words, scope=scope, class_=" ".join(classes) or None)


def _outlier_table(data: Page) -> Markup:
    rows = tuple(
        {"part": part["label"], **row}
        for part in data["parts"]
        if part["row_norms"]
        for row in part["row_norms"]["outliers"]
    )
    if not rows:
        return element("p", "No neuron lies that far from the others.")
    columns = (
        Column("part", ("part",), "text"),
        Column("neuron", ("neuron",), "integer"),
        Column("norm", ("norm",), "real"),
        Column("robust z", ("robust_z",), "real"),
    )
    return _table(View("outliers", "neurons far from the rest, ten of each part at most", columns, rows))


def _texts(views: Mapping[str, View]) -> Markup:
    return joined(
        [element("p", "What the model makes of each text, one vector a text."), *_tables(views, ("vectors",))]
    )


def _token_tables(data: Page) -> Iterator[Markup]:
    """A table for each text: tokens by layers, in each cell the strongest neurons."""
    ran = data["activations"]
    if ran is None:
        return
    labels = [layer["label"] for layer in ran["layers"]]
    found: dict[tuple[int, str], list[TokenActivity]] = {}
    for row in ran["tokens"]:
        found.setdefault((row["text"], row["label"]), []).append(row)
    heads = [Column("token", (), "text"), *(Column(short(label), (), "text") for label in labels)]
    for number in range(1, len(data["texts"]) + 1):
        rows = zip(*(found.get((number, label), []) for label in labels), strict=False)
        body = [
            [_cell("th", heads[0], same[0]["token"], "row"), *(_strongest(row["strongest"]) for row in same)]
            for same in rows
        ]
        title = f"text {number}: the strongest neurons of each token, layer by layer"
        tokens = _scrolling(title, [_cell("th", head, head.title, "col") for head in heads], body)
        summary = element("summary", f"Strongest neurons of each token of text {number}")
        yield element("details", summary, tokens, open="" if number == 1 else None)


def _strongest(neurons: Sequence[Activity]) -> Markup:
    lines = [piece for n in neurons for piece in (element("br"), neurons_in_words([n]))]
    return element("td", *lines[1:])
