"""The charts: each figure a list of panels, drawn by Altair from what the report's data say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bertprobe.render.html.charts.spec import Panel
from bertprobe.render.html.charts.texts import heat, pooled, similarity
from bertprobe.render.html.charts.weights import row_norms, spectrum, weights

DRAWERS: dict[str, Callable[[Mapping[str, Any]], Iterator[Panel]]] = {
    "weights": weights,
    "neurons": row_norms,
    "spectrum": spectrum,
    "tokens": heat,
    "pooled": pooled,
    "similarity": similarity,
}
