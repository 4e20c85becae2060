"""The charts: each figure a list of panels, drawn by Altair from a report's data; colours by name, two palettes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import altair as alt

from bertprobe.errors import printable
from bertprobe.noise import noise_sigmas
from bertprobe.render.words import NOT_GOOD, four_digits

WIDTH, HEIGHT = 230, 130
NAMED = 3  # outliers that are labelled in the chart; hovering tells the others
FEW = 8  # texts whose similarities are written into the cells
LONGEST = 24  # characters of a token beside a map
CURVE = 60  # points of a curve
EXACT_RANKS = 24  # singular values that are all drawn; of the others some

# Blue and orange of Okabe & Ito, which people with any colour vision tell apart, and viridis, whose lightness rises.
MAP: Literal["viridis"] = "viridis"
MAP_STOPS = ("#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#fde725")
BOTH_WAYS = ("#0b4a8f", "#6fa8d6", "#f4f2ee", "#e8a15c", "#9a4700")  # from −1 over 0 to 1


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart: its title, what it shows in a sentence for those who do not see it, and the chart."""

    title: str
    description: str
    chart: alt.Chart | alt.LayerChart


def colour(name: str) -> str:
    """A colour by its name, as CSS has it; `theme.resolved` puts a value in its place where there is no CSS."""
    return f"var(--{name})"


CONFIG: dict[str, Any] = {
    "background": None,
    "font": "system-ui, 'Liberation Sans', Arial, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": colour("ink"),
        "titleColor": colour("soft"),
        "domainColor": colour("line"),
        "tickColor": colour("line"),
        "gridColor": colour("grid"),
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "titlePadding": 4,
    },
    "legend": {"labelColor": colour("ink"), "titleColor": colour("soft"), "titleFontWeight": "normal"},
    "title": {"color": colour("ink"), "fontSize": 12, "anchor": "start", "fontWeight": 600},
    "text": {"color": colour("ink")},
}


def _data(rows: Sequence[Mapping[str, Any]]) -> alt.InlineData:
    return alt.InlineData(values=[dict(row) for row in rows])


def _tips(*pairs: tuple[str, str, str]) -> list[alt.Tooltip]:
    """Tooltips from (field with type, title, format)."""
    return [alt.Tooltip(f, title=t, format=n) if n else alt.Tooltip(f, title=t) for f, t, n in pairs]


def _tone(node: Mapping[str, Any]) -> str:
    """Orange for what is not known to be trained, blue otherwise."""
    return colour("odd" if node["verdict"] in NOT_GOOD else "plain")


def _named(node: Mapping[str, Any]) -> str:
    label = printable(str(node["label"]))
    return f"{label}: {node['verdict']}" if node["verdict"] else label


def _plain(value: float | None) -> str:
    return "not defined" if value is None else four_digits(value)


def _of_weight(node: Mapping[str, Any], name: str) -> Any:
    return node["tensors"][0]["statistics"].get(name) if node["tensors"] else None


# ------------------------------------------------------------------------------------------------ weights


def weights(data: Mapping[str, Any]) -> Iterator[Panel]:
    """A histogram of each matrix, all on the same two axes; shares by their logarithm, so that tails are seen."""
    nodes = [node for node in data["parts"] if node.get("histogram") and any(node["histogram"]["counts"])]
    totals = {id(node): _of_weight(node, "count") - _of_weight(node, "nonfinite") for node in nodes}
    if not nodes:
        return
    ends = [end for node in nodes for end in _ends(node["histogram"])]
    reach = max(map(abs, ends))
    floor = _floor(max(totals.values()))
    x = alt.Scale(domain=[-reach, reach], nice=False)
    y = alt.Scale(type="log", domain=[floor, 1])
    for node in nodes:
        rows = list(_bins(node["histogram"], totals[id(node)], floor))
        bars = (
            alt.Chart(_data(rows))
            .mark_rect(color=_tone(node), stroke=_tone(node), strokeWidth=0.3)
            .encode(
                x=alt.X("from:Q", scale=x, title="weight", axis=alt.Axis(tickCount=5, grid=False)),
                x2="to:Q",
                y=alt.Y("share:Q", scale=y, title="share of weights", axis=_log_axis(floor)),
                y2="floor:Q",
                tooltip=_tips(("from:Q", "from", ".4g"), ("to:Q", "to", ".4g"), ("count:Q", "weights", ",")),
            )
        )
        curve = (
            alt.Chart(_data(list(_normal(node, floor, reach))))
            .mark_line(color=colour("ink"), strokeDash=[3, 2], strokeWidth=1)
            .encode(x=alt.X("x:Q", scale=x), y=alt.Y("y:Q", scale=y))
        )
        yield Panel(_named(node), _weights_in_words(node), _sized(alt.layer(bars, curve)))


def _floor(count: int) -> float:
    """The power of ten below one in `count`: where a logarithmic axis of shares begins."""
    return 10.0 ** -(math.floor(math.log10(count)) + 1)


def _log_axis(floor: float) -> alt.Axis:
    """Ticks at powers of ten, every other one where there are many, as percentages."""
    decades = round(-math.log10(floor))
    return alt.Axis(values=[10.0**-k for k in range(0, decades + 1, 2 if decades > 4 else 1)], format="~%")


def _sized(chart: Any, width: float = WIDTH, height: float = HEIGHT) -> Any:
    return chart.properties(width=width, height=height)


def _ends(found: Mapping[str, Any]) -> tuple[float, float]:
    return found["start"], found["start"] + found["width"] * len(found["counts"])


def _bins(found: Mapping[str, Any], total: int, floor: float) -> Iterator[dict[str, Any]]:
    for i, count in enumerate(found["counts"]):
        if count:
            start = found["start"] + i * found["width"]
            share = count / total
            yield {"from": start, "to": start + found["width"], "count": count, "share": share, "floor": floor}


def _normal(node: Mapping[str, Any], floor: float, reach: float) -> Iterator[dict[str, float]]:
    """What a normal distribution of the same mean and std would put into each bin."""
    mean, std, width = _of_weight(node, "mean"), _of_weight(node, "std"), node["histogram"]["width"]
    if not std:
        return
    top = width / (std * math.sqrt(2 * math.pi))
    far = math.sqrt(2 * math.log(top / floor)) if top > floor else 0
    for i in range(CURVE + 1):
        z = far * (2 * i / CURVE - 1)
        x = mean + z * std
        if abs(x) <= reach and top <= 1:
            yield {"x": x, "y": max(top * math.exp(-z * z / 2), floor)}


def _weights_in_words(node: Mapping[str, Any]) -> str:
    found = node["histogram"]
    beyond = found["below"] + found["above"]
    words = (
        f"Histogram of the weights of {_named(node)}. Standard deviation {_plain(_of_weight(node, 'std'))}, "
        f"largest magnitude {_plain(_of_weight(node, 'abs_max'))}, "
        f"excess kurtosis {_plain(_of_weight(node, 'kurtosis'))}."
    )
    return f"{words} {beyond:,} weights lie beyond the axis." if beyond else words


# ------------------------------------------------------------------------------------------------ neurons


def row_norms(data: Mapping[str, Any]) -> Iterator[Panel]:
    """How the norms of the rows spread, on common axes, and which neurons lie far from the rest."""
    nodes = [node for node in data["parts"] if node.get("row_norms") and any(node["row_norms"]["counts"])]
    if not nodes:
        return
    floor = _floor(max(_neurons(node["row_norms"]) for node in nodes))
    start, end = _ends(nodes[0]["row_norms"])
    x = alt.Scale(domain=[start, end], nice=False, clamp=True)
    y = alt.Scale(type="log", domain=[floor, 1], nice=False)
    height = floor**0.75  # a quarter up a logarithmic axis
    for node in nodes:
        bars = (
            alt.Chart(_data(list(_bins(node["row_norms"], _neurons(node["row_norms"]), floor))))
            .mark_rect(color=_tone(node))
            .encode(
                x=alt.X("from:Q", scale=x, title="norm of a row", axis=alt.Axis(tickCount=5, grid=False)),
                x2="to:Q",
                y=alt.Y("share:Q", scale=y, title="share of neurons", axis=_log_axis(floor)),
                y2="floor:Q",
                tooltip=_tips(("from:Q", "from", ".4g"), ("to:Q", "to", ".4g"), ("count:Q", "neurons", ",")),
            )
        )
        chart = alt.layer(bars, *_outliers(node, x, y, height))
        yield Panel(_named(node), _norms_in_words(node), _sized(chart))


def _neurons(found: Mapping[str, Any]) -> int:
    return int(sum(found["counts"]) + found["above"])


def _outliers(node: Mapping[str, Any], x: alt.Scale, y: alt.Scale, height: float) -> Iterator[alt.Chart]:
    end = _ends(node["row_norms"])[1]
    rows = [
        {**row, "y": height, "name": f"{row['neuron']}{' →' if row['norm'] > end else ''}"}
        for row in node["row_norms"]["outliers"]
    ]
    if not rows:
        return
    tips = _tips(("neuron:Q", "neuron", ""), ("norm:Q", "norm", ".5g"), ("robust_z:Q", "robust z", "+.2f"))
    places: dict[str, Any] = {"x": alt.X("norm:Q", scale=x), "y": alt.Y("y:Q", scale=y)}
    mark: dict[str, Any] = {"shape": "diamond", "size": 50, "filled": True, "color": colour("mark"), "opacity": 1}
    yield alt.Chart(_data(rows)).mark_point(**mark).encode(**places, tooltip=tips)
    for i, row in enumerate(rows[:NAMED]):
        side: Literal["right", "left"] = "right" if row["norm"] > end * 0.8 else "left"
        yield (
            alt.Chart(_data([row]))
            .mark_text(align=side, dy=-12 - 13 * i, dx=4 if side == "right" else -4, fontSize=11, fontWeight=600)
            .encode(**places, text="name:N", tooltip=tips)
        )


def _norms_in_words(node: Mapping[str, Any]) -> str:
    found = node["row_norms"]
    median, largest = (_plain(_of_weight(node, f"row_norm_{which}")) for which in ("median", "max"))
    words = f"Histogram of the row norms of {_named(node)}. Median {median}, largest {largest}."
    if not found["outlying"]:
        return f"{words} No neuron lies far from the rest."
    named = ", ".join(f"{row['neuron']} with norm {four_digits(row['norm'])}" for row in found["outliers"][:NAMED])
    return f"{words} Neurons far from the rest: {found['outlying']:,}, first {named}."


# ------------------------------------------------------------------------------------------------ spectra


def spectrum(data: Mapping[str, Any]) -> Iterator[Panel]:
    """The singular values of each matrix over the edge of noise, beside those that noise of its shape has."""
    nodes = [node for node in data["parts"] if node.get("spectrum") and node["spectrum"]["edge"]]
    if not nodes:
        return
    most = max(node["spectrum"]["sigmas"][0] / node["spectrum"]["edge"] for node in nodes)
    ranks = max(len(node["spectrum"]["sigmas"]) for node in nodes)
    x = alt.Scale(type="log", domain=[1, max(ranks, 2)], nice=False)
    y = alt.Scale(domain=[0, max(most, 1.2) * 1.03], type="sqrt" if most > 8 else "linear", nice=False)
    for node in nodes:
        rows, noise = _sigmas(node), list(_noise(node))
        place: dict[str, Any] = {"x": alt.X("rank:Q", scale=x, title="rank", axis=alt.Axis(tickCount=4, grid=False))}
        place["y"] = alt.Y("ratio:Q", scale=y, title="σ / edge", axis=alt.Axis(tickCount=4))
        tips = _tips(("rank:Q", "rank", ","), ("sigma:Q", "σ", ".5g"), ("ratio:Q", "σ / edge", ".4f"))
        edge = alt.Chart(_data([{"edge": 1}])).mark_rule(color=colour("mark")).encode(y=alt.Y("edge:Q", scale=y))
        dashed = alt.Chart(_data(noise)).mark_line(color=colour("ink"), strokeDash=[3, 2], strokeWidth=1)
        points = alt.Chart(_data(rows)).mark_circle(color=_tone(node), size=22, opacity=1)
        chart = alt.layer(edge, dashed.encode(**place), points.encode(**place, tooltip=tips))
        yield Panel(_named(node), _spectrum_in_words(node), _sized(chart))


def _chosen_ranks(count: int) -> list[int]:
    """All of the first ranks, then ever fewer, evenly on a logarithmic axis, and the last."""
    found = set(range(min(count, EXACT_RANKS)))
    found |= {min(round(count ** (i / CURVE)), count) - 1 for i in range(CURVE + 1)}
    return sorted(found)


def _sigmas(node: Mapping[str, Any]) -> list[dict[str, float]]:
    sigmas, edge = node["spectrum"]["sigmas"], node["spectrum"]["edge"]
    return [{"rank": i + 1, "sigma": sigmas[i], "ratio": sigmas[i] / edge} for i in _chosen_ranks(len(sigmas))]


def _noise(node: Mapping[str, Any]) -> Iterator[dict[str, float]]:
    shape = node["tensors"][0]["shape"]
    rows, columns = shape[0], math.prod(shape[1:])
    ranks = _chosen_ranks(min(rows, columns))
    for rank, sigma in zip(ranks, noise_sigmas((rows, columns), ranks), strict=True):
        yield {"rank": rank + 1, "ratio": float(sigma) / (math.sqrt(rows) + math.sqrt(columns))}


def _spectrum_in_words(node: Mapping[str, Any]) -> str:
    sigmas, edge = node["spectrum"]["sigmas"], node["spectrum"]["edge"]
    above = sum(sigma > edge for sigma in sigmas)
    return (
        f"Singular values of {_named(node)}. The largest is {four_digits(sigmas[0] / edge)} times the edge of noise; "
        f"{above:,} of {len(sigmas):,} lie above the edge."
    )


# ------------------------------------------------------------------------------------------------ texts


def heat(data: Mapping[str, Any]) -> Iterator[Panel]:
    """A map a text: a row a token, a column a layer, the root mean square of the activations as colour."""
    found = data["activations"]["heat"] if data["activations"] else None
    if not found or not found["tokens"]:
        return
    strong = _strong(data["activations"]["tokens"])
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
    tips = _tips(("token:N", "token", ""), ("layer:N", "layer", ""), ("rms:Q", "rms", ".5g"))
    step = 26 if max(map(len, layers)) <= 3 else 40
    chart = (
        alt.Chart(_data(rows))
        .mark_rect(stroke=colour("paper"), strokeWidth=0.5)
        .encode(
            x=alt.X("layer:N", sort=None, title="layer", axis=alt.Axis(orient="top", labelAngle=0, ticks=False)),
            y=alt.Y("place:N", sort=None, title=None, axis=axis),
            color=alt.Color("rms:Q", scale=scale, legend=alt.Legend(title="rms", gradientLength=110)),
            tooltip=[*tips, alt.Tooltip("strongest:N", title="strongest")],
        )
    )
    return _sized(chart, len(layers) * step, tokens * 17)


def most(found: Mapping[str, Any]) -> float:
    values = [value for row in found["rms"] for value in row if value is not None]
    return max(values, default=0.0) or 1.0


def short(label: str) -> str:
    return printable(label.replace("intermediate.", "").replace("(call ", "("))


def _token(token: str) -> str:
    text = printable(token)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _strong(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], str]:
    """The strongest neurons of each token of each layer in words, by label and place among all tokens."""
    found: dict[tuple[str, int], str] = {}
    counts: dict[str, int] = {}
    for row in rows:
        place = counts.get(row["label"], 0)
        counts[row["label"]] = place + 1
        found[row["label"], place] = neurons_in_words(row["strongest"])
    return found


def neurons_in_words(strongest: Sequence[Mapping[str, Any]]) -> str:
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


def pooled(data: Mapping[str, Any]) -> Iterator[Panel]:
    """The pooled vector of each text, its dimensions in reading order, from −1 in blue to 1 in orange."""
    for number, text in enumerate(data["texts"], 1):
        if text["pooled"] is None:
            continue
        values = text["pooled"]["values"]
        across = 64 if len(values) <= 512 else 128
        rows = [{"dimension": i, "value": v} for i, v in enumerate(values)]
        folded = {"x": f"datum.dimension % {across}", "y": f"floor(datum.dimension / {across})"}
        cells = alt.Chart(_data(rows)).transform_calculate(**folded).mark_rect()
        start = alt.Axis(labelExpr=f"datum.value * {across}", ticks=False, domain=False, grid=False, labelOverlap=True)
        chart = cells.encode(
            x=alt.X("x:O", axis=None),
            y=alt.Y("y:O", title=None, axis=start),
            color=alt.Color("value:Q", scale=_both_ways(), legend=alt.Legend(title="value", gradientLength=60)),
            tooltip=_tips(("dimension:Q", "dimension", ""), ("value:Q", "value", "+.5f")),
        )
        height = 10 * math.ceil(len(values) / across)
        yield Panel(f"text {number}", _pooled_in_words(number, text), _sized(chart, 384, max(height, 20)))


def _both_ways() -> alt.Scale:
    return alt.Scale(domain=[-1, -0.5, 0, 0.5, 1], range=list(BOTH_WAYS), interpolate="rgb", clamp=True)


def _pooled_in_words(number: int, text: Mapping[str, Any]) -> str:
    found = text["pooled"]["statistics"]
    if found["norm"] is None:
        return f"Pooled vector of text {number}: some of its numbers are NaN or infinite."
    return (
        f"Pooled vector of text {number}: {len(text['pooled']['values'])} numbers, norm {_plain(found['norm'])}, "
        f"{100 * found['saturated']:.1f} % of them beyond ±0.99."
    )


SIMILARITIES = {
    "pooled": "pooled output",
    "cls": "first token",
    "mean": "mean of tokens",
}


def similarity(data: Mapping[str, Any]) -> Iterator[Panel]:
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
    base = alt.Chart(_data(rows)).encode(
        x=alt.X("a:O", title="text", axis=alt.Axis(orient="top", labelAngle=0, ticks=False, domain=False)),
        y=alt.Y("b:O", title=None, axis=alt.Axis(ticks=False, domain=False)),
        tooltip=_tips(("a:O", "text", ""), ("b:O", "and text", ""), ("cosine:Q", "cosine", "+.5f")),
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
    return _sized(alt.layer(*layers), side, side)


def _similarity_in_words(title: str, matrix: Sequence[Sequence[float | None]]) -> str:
    pairs = [(row[b], a + 1, b + 1) for a, row in enumerate(matrix) for b in range(a) if row[b] is not None]
    if not pairs:
        return f"Cosine similarities by {title}: none is defined."
    high, low = max(pairs), min(pairs)
    return (
        f"Cosine similarities by {title}. Most alike: texts {high[2]} and {high[1]}, {high[0]:.3f}; "
        f"least: texts {low[2]} and {low[1]}, {low[0]:.3f}. The table has all pairs."
    )


# ------------------------------------------------------------------------------------------------ as specifications

Drawer = Callable[[Mapping[str, Any]], Iterator[Panel]]


def without_legends(panel: Panel) -> dict[str, Any]:
    """A panel's specification for the page, which has one legend for all panels of a figure."""
    found: dict[str, Any] = panel.chart.to_dict()
    for layer in (found, *found.get("layer", ())):
        colours = layer.get("encoding", {}).get("color")
        if colours is not None and "legend" in colours:
            colours["legend"] = None
    found.pop("config", None)
    found.pop("$schema", None)
    short: dict[str, Any] = _shorter({**found, "description": panel.description})
    return short


def _shorter(value: Any) -> Any:
    """The same with six digits a number: more than a chart shows, and half the bytes."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _shorter(inner) for key, inner in value.items()}
    return [_shorter(inner) for inner in value] if isinstance(value, list) else value


def together(panels: Sequence[Panel], title: str, columns: int) -> dict[str, Any]:
    """The specification of a whole figure: its panels in `columns`, one legend, a title."""
    charts = [panel.chart.properties(title=panel.title) for panel in panels]
    figure = alt.concat(*charts, columns=columns).properties(title=alt.TitleParams(title, fontSize=15, offset=12))
    found: dict[str, Any] = figure.resolve_scale(color="shared").to_dict()
    return {**found, "config": CONFIG}


DRAWERS: dict[str, Drawer] = {
    "weights": weights,
    "neurons": row_norms,
    "spectrum": spectrum,
    "tokens": heat,
    "pooled": pooled,
    "similarity": similarity,
}
VEGALITE = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
