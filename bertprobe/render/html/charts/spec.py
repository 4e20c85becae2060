"""What every chart is made of: panels, their colours and sizes, and their specification in Vega-Lite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import altair as alt

from bertprobe.render.words import four_digits

WIDTH, HEIGHT = 230, 130
VEGALITE = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])

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


def inline(rows: Sequence[Mapping[str, Any]]) -> alt.InlineData:
    return alt.InlineData(values=[dict(row) for row in rows])


def tooltips(*pairs: tuple[str, str, str]) -> list[alt.Tooltip]:
    """Tooltips from (field with type, title, format)."""
    return [alt.Tooltip(f, title=t, format=n) if n else alt.Tooltip(f, title=t) for f, t, n in pairs]


def sized(chart: Any, width: float = WIDTH, height: float = HEIGHT) -> Any:
    return chart.properties(width=width, height=height)


def or_undefined(value: float | None) -> str:
    return "not defined" if value is None else four_digits(value)


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
