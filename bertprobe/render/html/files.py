"""A figure as a file of its own: PNG, SVG or PDF, in the light palette."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import vl_convert

from bertprobe.errors import printable
from bertprobe.render.data_formats import finite
from bertprobe.render.html.charts import DRAWERS
from bertprobe.render.html.charts.spec import VEGALITE, together
from bertprobe.render.html.drawing import draw
from bertprobe.render.html.figures import Figure
from bertprobe.render.html.theme import resolved
from bertprobe.report import Report
from bertprobe.report.nodes import Page

SCALE = 2  # pixels a unit in PNG


def figure(report: Report, row: Figure, suffix: str) -> bytes | None:
    """The figure as PNG, SVG or PDF; None where the report has nothing for it."""
    data: Page = safe(finite(report.data))
    svg = resolved(draw(data, alone=True)) if row.name == "layer" else _chart(data, row)
    if svg is None:
        return None
    if suffix == ".svg":
        return svg.encode()
    if suffix == ".pdf":
        return bytes(vl_convert.svg_to_pdf(svg))
    return bytes(vl_convert.svg_to_png(svg, scale=SCALE))


def safe(value: Any) -> Any:
    """The same data with nothing in its texts that reorders or hides what stands beside it."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {key: safe(inner) for key, inner in value.items()}
    return [safe(inner) for inner in value] if isinstance(value, list) else value


def _chart(data: Page, row: Figure) -> str | None:
    panels = list(DRAWERS[row.name](data))
    if not panels:
        return None
    whole: dict[str, Any] = together(panels, f"{row.title}: {data['model']}", min(row.columns, len(panels)))
    whole["background"] = "white"  # else a dark page or viewer shows dark letters on dark
    return str(vl_convert.vegalite_to_svg(resolved(json.dumps(whole)), vl_version=_version()))


def bundle() -> str:
    """The JavaScript that draws charts in a page: Vega, Vega-Lite and vega-embed, as vl-convert carries them."""
    return str(vl_convert.javascript_bundle(vl_version=_version()))  # type: ignore[call-arg]  # its stub asks for more


def _version() -> str:
    """The Vega-Lite that Altair writes for, or the newest that vl-convert carries where that lags behind."""
    carried = [str(version) for version in vl_convert.get_vegalite_versions()]
    return VEGALITE if VEGALITE in carried else carried[-1]
