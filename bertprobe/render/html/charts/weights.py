"""The charts of weights: a panel each for the histogram, the row norms and the spectrum of every matrix."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import altair as alt

from bertprobe.errors import printable
from bertprobe.render.html.charts.spec import Panel, colour, inline, or_undefined, sized, tooltips
from bertprobe.render.words import NOT_GOOD, four_digits
from bertprobe.report.nodes import Histogram, Page, PicturedPart, RowNorms, Spectrum

NAMED = 3  # outliers that are labelled in the chart; hovering tells the others


def _tone(node: PicturedPart) -> str:
    """Orange for what is not known to be trained, blue otherwise."""
    return colour("odd" if node["verdict"] in NOT_GOOD else "plain")


def _named(node: PicturedPart) -> str:
    label = printable(str(node["label"]))
    return f"{label}: {node['verdict']}" if node["verdict"] else label


def _of_weight(node: PicturedPart, name: str) -> Any:
    return node["tensors"][0]["statistics"].get(name) if node["tensors"] else None


# ------------------------------------------------------------------------------------------------ weights


def weights(data: Page) -> Iterator[Panel]:
    """A histogram of each matrix, all on the same two axes; shares by their logarithm, so that tails are seen."""
    nodes = [(node, found) for node in data["parts"] if (found := node["histogram"]) and any(found["counts"])]
    if not nodes:
        return
    reach = max(abs(end) for _, found in nodes for end in _ends(found))
    floor = _floor(max(_elements(found) for _, found in nodes))
    x = alt.Scale(domain=[-reach, reach], nice=False)
    y = alt.Scale(type="log", domain=[floor, 1])
    for node, found in nodes:
        rows = list(_bins(found, _elements(found), floor))
        bars = (
            alt.Chart(inline(rows))
            .mark_rect(color=_tone(node), stroke=_tone(node), strokeWidth=0.3)
            .encode(
                x=alt.X("from:Q", scale=x, title="weight", axis=alt.Axis(tickCount=5, grid=False)),
                x2="to:Q",
                y=alt.Y("share:Q", scale=y, title="share of weights", axis=_log_axis(floor)),
                y2="floor:Q",
                tooltip=tooltips(("from:Q", "from", ".4g"), ("to:Q", "to", ".4g"), ("count:Q", "weights", ",")),
            )
        )
        curve = (
            alt.Chart(inline(_normal(found)))
            .mark_line(color=colour("ink"), strokeDash=[3, 2], strokeWidth=1, clip=True)
            .encode(x=alt.X("x:Q", scale=x), y=alt.Y("y:Q", scale=y))
        )
        yield Panel(_named(node), _weights_in_words(node, found), sized(alt.layer(bars, curve)))


def _elements(found: Histogram) -> int:
    """How many weights there are, beyond the axis too."""
    return sum(found["counts"]) + found["below"] + found["above"]


def _floor(count: int) -> float:
    """The power of ten below one in `count`: where a logarithmic axis of shares begins."""
    return 10.0 ** -(math.floor(math.log10(count)) + 1)


def _log_axis(floor: float) -> alt.Axis:
    """Ticks at powers of ten, every other one where there are many, as percentages."""
    decades = round(-math.log10(floor))
    return alt.Axis(values=[10.0**-k for k in range(0, decades + 1, 2 if decades > 4 else 1)], format="~%")


def _ends(found: Histogram | RowNorms) -> tuple[float, float]:
    return found["start"], found["start"] + found["width"] * len(found["counts"])


def _bins(found: Histogram | RowNorms, total: int, floor: float) -> Iterator[dict[str, Any]]:
    for i, count in enumerate(found["counts"]):
        if count:
            start = found["start"] + i * found["width"]
            share = count / total
            yield {"from": start, "to": start + found["width"], "count": count, "share": share, "floor": floor}


def _normal(found: Histogram) -> list[dict[str, Any]]:
    curve = found["normal"]
    return [] if curve is None else [{"x": x, "y": y} for x, y in zip(curve["x"], curve["share"], strict=True)]


def _weights_in_words(node: PicturedPart, found: Histogram) -> str:
    beyond = found["below"] + found["above"]
    words = (
        f"Histogram of the weights of {_named(node)}. Standard deviation {or_undefined(_of_weight(node, 'std'))}, "
        f"largest magnitude {or_undefined(_of_weight(node, 'abs_max'))}, "
        f"excess kurtosis {or_undefined(_of_weight(node, 'kurtosis'))}."
    )
    return f"{words} {beyond:,} weights lie beyond the axis." if beyond else words


# ------------------------------------------------------------------------------------------------ neurons


def row_norms(data: Page) -> Iterator[Panel]:
    """How the norms of the rows spread, on common axes, and which neurons lie far from the rest."""
    nodes = [(node, found) for node in data["parts"] if (found := node["row_norms"]) and any(found["counts"])]
    if not nodes:
        return
    floor = _floor(max(_neurons(found) for _, found in nodes))
    start, end = _ends(nodes[0][1])
    x = alt.Scale(domain=[start, end], nice=False, clamp=True)
    y = alt.Scale(type="log", domain=[floor, 1], nice=False)
    height = floor**0.75  # a quarter up a logarithmic axis
    for node, found in nodes:
        bars = (
            alt.Chart(inline(list(_bins(found, _neurons(found), floor))))
            .mark_rect(color=_tone(node))
            .encode(
                x=alt.X("from:Q", scale=x, title="norm of a row", axis=alt.Axis(tickCount=5, grid=False)),
                x2="to:Q",
                y=alt.Y("share:Q", scale=y, title="share of neurons", axis=_log_axis(floor)),
                y2="floor:Q",
                tooltip=tooltips(("from:Q", "from", ".4g"), ("to:Q", "to", ".4g"), ("count:Q", "neurons", ",")),
            )
        )
        chart = alt.layer(bars, *_outliers(found, x, y, height))
        yield Panel(_named(node), _norms_in_words(node, found), sized(chart))


def _neurons(found: RowNorms) -> int:
    return int(sum(found["counts"]) + found["above"])


def _outliers(found: RowNorms, x: alt.Scale, y: alt.Scale, height: float) -> Iterator[alt.Chart]:
    end = _ends(found)[1]
    rows: list[dict[str, Any]] = [
        {**row, "y": height, "name": f"{row['neuron']}{' →' if row['norm'] > end else ''}"} for row in found["outliers"]
    ]
    if not rows:
        return
    tips = tooltips(("neuron:Q", "neuron", ""), ("norm:Q", "norm", ".5g"), ("robust_z:Q", "robust z", "+.2f"))
    places: dict[str, Any] = {"x": alt.X("norm:Q", scale=x), "y": alt.Y("y:Q", scale=y)}
    mark: dict[str, Any] = {"shape": "diamond", "size": 50, "filled": True, "color": colour("mark"), "opacity": 1}
    yield alt.Chart(inline(rows)).mark_point(**mark).encode(**places, tooltip=tips)
    for i, row in enumerate(rows[:NAMED]):
        side: Literal["right", "left"] = "right" if row["norm"] > end * 0.8 else "left"
        yield (
            alt.Chart(inline([row]))
            .mark_text(align=side, dy=-12 - 13 * i, dx=4 if side == "right" else -4, fontSize=11, fontWeight=600)
            .encode(**places, text="name:N", tooltip=tips)
        )


def _norms_in_words(node: PicturedPart, found: RowNorms) -> str:
    median, largest = (or_undefined(_of_weight(node, f"row_norm_{which}")) for which in ("median", "max"))
    words = f"Histogram of the row norms of {_named(node)}. Median {median}, largest {largest}."
    if not found["outlying"]:
        return f"{words} No neuron lies far from the rest."
    named = ", ".join(f"{row['neuron']} with norm {four_digits(row['norm'])}" for row in found["outliers"][:NAMED])
    return f"{words} Neurons far from the rest: {found['outlying']:,}, first {named}."


# ------------------------------------------------------------------------------------------------ spectra


def spectrum(data: Page) -> Iterator[Panel]:
    """The singular values of each matrix over the edge of noise, beside those that noise of its shape has."""
    nodes = [(n, found, edge) for n in data["parts"] if (found := n["spectrum"]) and (edge := found["edge"])]
    if not nodes:
        return
    most = max(found["sigmas"][0] / edge for _, found, edge in nodes)
    ranks = max(len(found["sigmas"]) for _, found, _ in nodes)
    x = alt.Scale(type="log", domain=[1, max(ranks, 2)], nice=False)
    y = alt.Scale(domain=[0, max(most, 1.2) * 1.03], type="sqrt" if most > 8 else "linear", nice=False)
    for node, found, edge in nodes:
        rows, noise = _sigmas(found, edge), _noise(found, edge)
        place: dict[str, Any] = {"x": alt.X("rank:Q", scale=x, title="rank", axis=alt.Axis(tickCount=4, grid=False))}
        place["y"] = alt.Y("ratio:Q", scale=y, title="σ / edge", axis=alt.Axis(tickCount=4))
        tips = tooltips(("rank:Q", "rank", ","), ("sigma:Q", "σ", ".5g"), ("ratio:Q", "σ / edge", ".4f"))
        line = alt.Chart(inline([{"edge": 1}])).mark_rule(color=colour("mark")).encode(y=alt.Y("edge:Q", scale=y))
        dashed = alt.Chart(inline(noise)).mark_line(color=colour("ink"), strokeDash=[3, 2], strokeWidth=1)
        points = alt.Chart(inline(rows)).mark_circle(color=_tone(node), size=22, opacity=1)
        chart = alt.layer(line, dashed.encode(**place), points.encode(**place, tooltip=tips))
        yield Panel(_named(node), _spectrum_in_words(node, found["sigmas"], edge), sized(chart))


def _sigmas(found: Spectrum, edge: float) -> list[dict[str, float]]:
    """The singular values at the ranks that are drawn."""
    sigmas = found["sigmas"]
    return [{"rank": n, "sigma": sigmas[n - 1], "ratio": sigmas[n - 1] / edge} for n in found["noise"]["ranks"]]


def _noise(found: Spectrum, edge: float) -> list[dict[str, float]]:
    noise = found["noise"]
    pairs = zip(noise["ranks"], noise["sigmas"], strict=True)
    return [{"rank": rank, "ratio": sigma / edge} for rank, sigma in pairs]


def _spectrum_in_words(node: PicturedPart, sigmas: list[float], edge: float) -> str:
    above = sum(sigma > edge for sigma in sigmas)
    return (
        f"Singular values of {_named(node)}. The largest is {four_digits(sigmas[0] / edge)} times the edge of noise; "
        f"{above:,} of {len(sigmas):,} lie above the edge."
    )
