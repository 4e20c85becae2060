"""The charts of texts: layers by tokens, pooled vectors, and how alike the texts are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import altair as alt

from bertprobe.errors import printable
from bertprobe.render.html.charts.spec import BOTH_WAYS, MAP, Panel, colour, inline, or_undefined, sized, tooltips
from bertprobe.render.words import four_digits
from bertprobe.report.nodes import Activity, Heat, Page, TokenActivity, Vector

FEW = 8  # texts whose similarities are written into the cells
LONGEST = 24  # characters of a token beside a map


def heat(data: Page) -> Iterator[Panel]:
    """A map a text: a row a token, a column a layer, the root mean square of the activations as colour."""
    ran = data["activations"]
    found = ran["heat"] if ran else None
    if not ran or not found or not found["tokens"]:
        return
    strong = _strong(ran["tokens"])
    scale = alt.Scale(type="sqrt", domain=[0, most(found)], scheme=MAP)
    layers = [short(label) for label in found["layers"]]
    offset = 0
    for number, text in enumerate(data["texts"], 1):
        tokens = range(offset, offset + len(text["tokens"]))
        offset = tokens.stop
        rows = [
            {
                "place": f"{i:05}{_token(found['tokens'][i])}",
                "token": printable(found["tokens"][i]),
                "layer": layers[j],
                "rms": found["rms"][j][i],
                "strongest": strong.get((label, i), ""),
            }
            for i in tokens
            for j, label in enumerate(found["layers"])
        ]
        yield Panel(f"text {number}", _heat_in_words(number, rows), _heat_chart(rows, layers, scale, len(tokens)))


def _heat_chart(rows: list[dict[str, Any]], layers: list[str], scale: alt.Scale, tokens: int) -> Any:
    axis = alt.Axis(labelExpr="slice(datum.label, 5)", ticks=False, domain=False, labelLimit=170, labelOverlap=False)
    tips = tooltips(("token:N", "token", ""), ("layer:N", "layer", ""), ("rms:Q", "rms", ".5g"))
    step = 26 if max(map(len, layers)) <= 3 else 40
    chart = (
        alt.Chart(inline(rows))
        .mark_rect(stroke=colour("paper"), strokeWidth=0.5)
        .encode(
            x=alt.X("layer:N", sort=None, title="layer", axis=alt.Axis(orient="top", labelAngle=0, ticks=False)),
            y=alt.Y("place:N", sort=None, title=None, axis=axis),
            color=alt.Color("rms:Q", scale=scale, legend=alt.Legend(title="rms", gradientLength=110)),
            tooltip=[*tips, alt.Tooltip("strongest:N", title="strongest")],
        )
    )
    return sized(chart, len(layers) * step, tokens * 17)


def most(found: Heat) -> float:
    values = [value for row in found["rms"] for value in row if value is not None]
    return max(values, default=0.0) or 1.0


def short(label: str) -> str:
    return printable(label.replace("intermediate.", "").replace("(call ", "("))


def _token(token: str) -> str:
    text = printable(token)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _strong(rows: Sequence[TokenActivity]) -> dict[tuple[str, int], str]:
    """The strongest neurons of each token of each layer in words, by label and place among all tokens."""
    found: dict[tuple[str, int], str] = {}
    counts: dict[str, int] = {}
    for row in rows:
        place = counts.get(row["label"], 0)
        counts[row["label"]] = place + 1
        found[row["label"], place] = neurons_in_words(row["strongest"])
    return found


def neurons_in_words(strongest: Sequence[Activity]) -> str:
    """`856 (+2.31), 12 (-0.170)`."""
    return ", ".join(f"{n['neuron']} ({_signed(n['value'])})" for n in strongest)


def _signed(value: float | None) -> str:
    return "not finite" if value is None else f"{value:+#.3g}"


def _heat_in_words(number: int, rows: Sequence[Mapping[str, Any]]) -> str:
    known = [row for row in rows if row["rms"] is not None]
    if not known:
        return f"Map of text {number}, layers by tokens: no activation is finite."
    top = max(known, key=lambda row: row["rms"])
    return (
        f"Map of text {number}, layers by tokens: root mean square of the activations. The largest is "
        f"{four_digits(top['rms'])}, of token {top['token']} in layer {top['layer']}. The table below has the numbers."
    )


def pooled(data: Page) -> Iterator[Panel]:
    """The pooled vector of each text, its dimensions in reading order, from −1 in blue to 1 in orange."""
    for number, text in enumerate(data["texts"], 1):
        vector = text["pooled"]
        if vector is None:
            continue
        values = vector["values"]
        across = 64 if len(values) <= 512 else 128
        rows = [{"dimension": i, "value": v} for i, v in enumerate(values)]
        folded = {"x": f"datum.dimension % {across}", "y": f"floor(datum.dimension / {across})"}
        cells = alt.Chart(inline(rows)).transform_calculate(**folded).mark_rect()
        start = alt.Axis(labelExpr=f"datum.value * {across}", ticks=False, domain=False, grid=False, labelOverlap=True)
        chart = cells.encode(
            x=alt.X("x:O", axis=None),
            y=alt.Y("y:O", title=None, axis=start),
            color=alt.Color("value:Q", scale=_both_ways(), legend=alt.Legend(title="value", gradientLength=60)),
            tooltip=tooltips(("dimension:Q", "dimension", ""), ("value:Q", "value", "+.5f")),
        )
        height = 10 * math.ceil(len(values) / across)
        yield Panel(f"text {number}", _pooled_in_words(number, vector), sized(chart, 384, max(height, 20)))


def _both_ways() -> alt.Scale:
    return alt.Scale(domain=[-1, -0.5, 0, 0.5, 1], range=list(BOTH_WAYS), interpolate="rgb", clamp=True)


def _pooled_in_words(number: int, vector: Vector) -> str:
    found = vector["statistics"]
    if found["norm"] is None or found["saturated"] is None:
        return f"Pooled vector of text {number}: some of its numbers are NaN or infinite."
    return (
        f"Pooled vector of text {number}: {len(vector['values'])} numbers, norm {or_undefined(found['norm'])}, "
        f"{100 * found['saturated']:.1f} % of them beyond ±0.99."
    )


Kind = Literal["pooled", "cls", "mean"]
SIMILARITIES: dict[Kind, str] = {
    "pooled": "pooled output",
    "cls": "first token",
    "mean": "mean of tokens",
}


def similarity(data: Page) -> Iterator[Panel]:
    """Cosines of every two texts by each of the three vectors, side by side."""
    for kind, title in SIMILARITIES.items():
        matrix = data["similarity"].get(kind)
        if matrix is None:
            continue
        rows = [
            {"a": a + 1, "b": b + 1, "cosine": value, "dark": value is not None and abs(value) > 0.8}
            for a, row in enumerate(matrix)
            for b, value in enumerate(row)
        ]
        yield Panel(title, _similarity_in_words(title, matrix), _similarity_chart(rows, len(matrix)))


def _similarity_chart(rows: list[dict[str, Any]], count: int) -> Any:
    base = alt.Chart(inline(rows)).encode(
        x=alt.X("a:O", title="text", axis=alt.Axis(orient="top", labelAngle=0, ticks=False, domain=False)),
        y=alt.Y("b:O", title=None, axis=alt.Axis(ticks=False, domain=False)),
        tooltip=tooltips(("a:O", "text", ""), ("b:O", "and text", ""), ("cosine:Q", "cosine", "+.5f")),
    )
    cells = base.mark_rect(stroke=colour("paper")).encode(
        color=alt.Color("cosine:Q", scale=_both_ways(), legend=alt.Legend(title="cosine", gradientLength=110))
    )
    layers = [cells]
    if count <= FEW:
        words = base.transform_filter("isValid(datum.cosine)").mark_text(fontSize=11)
        shade = alt.condition("datum.dark", alt.value("#ffffff"), alt.value("#141414"))
        layers.append(words.encode(text=alt.Text("cosine:Q", format=".2f"), color=shade))
    side = max(min(count * 44, 260), 90)
    return sized(alt.layer(*layers), side, side)


def _similarity_in_words(title: str, matrix: Sequence[Sequence[float | None]]) -> str:
    pairs = [(row[b], a + 1, b + 1) for a, row in enumerate(matrix) for b in range(a) if row[b] is not None]
    if not pairs:
        return f"Cosine similarities by {title}: none is defined."
    high, low = max(pairs), min(pairs)
    return (
        f"Cosine similarities by {title}. Most alike: texts {high[2]} and {high[1]}, {high[0]:.3f}; "
        f"least: texts {low[2]} and {low[1]}, {low[0]:.3f}. The table has all pairs."
    )
