"""The charts: each figure a list of panels, drawn by Altair from what the report's data say."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bertprobe.render.html.charts.spec import Panel
from bertprobe.render.html.charts.texts import heat, pooled, similarity
from bertprobe.render.html.charts.weights import row_norms, spectrum, weights
from bertprobe.report.nodes import Page

DRAWERS: dict[str, Callable[[Page], Iterator[Panel]]] = {
    "weights": weights,
    "neurons": row_norms,
    "spectrum": spectrum,
    "tokens": heat,
    "pooled": pooled,
    "similarity": similarity,
}
