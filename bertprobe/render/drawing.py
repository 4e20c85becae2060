"""Drawings in characters, for every format that shows text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bertprobe.render.wrapping import cells, padded
from bertprobe.report.sections import Diagram, DiagramRow

_GAP = 3


def diagram_lines(diagram: Diagram) -> list[tuple[str, bool]]:
    """A way through the model from top to bottom, a line a stop, and whether it is marked; shapes stand in a column."""
    name = max(cells(stop.name) + 2 * (stop.kind == "down") for stop in diagram.stops if stop.kind != "open") + _GAP
    inner = name + max(cells(stop.shape) for stop in diagram.stops)
    return [(_line(stop, framed, name, inner).rstrip(), stop.marked) for stop, framed in _framed(diagram.stops)]


def _framed(stops: Sequence[DiagramRow]) -> Iterator[tuple[DiagramRow, bool]]:
    """Each stop, and whether it stands inside a frame."""
    inside = False
    for stop in stops:
        yield stop, inside and stop.kind != "close"
        inside = stop.kind == "open" or (inside and stop.kind != "close")


def _line(stop: DiagramRow, framed: bool, name: int, inner: int) -> str:
    """A line; inside a frame it is as wide as the frame, and everything that is no mark stands in the same columns."""
    if stop.kind == "open":
        return f"┌─ {stop.name} {'─' * (inner + 1 - cells(stop.name))}┐"
    if stop.kind == "close":
        return f"└───┬{'─' * inner}┘"
    mark = "▶" if stop.marked else " "
    text = f"↓ {stop.name}".rstrip() if stop.kind == "down" else stop.name
    text = f"{mark} {padded(text, name)}{padded(stop.shape, inner - name)}"
    return f"│ {text} │" if framed else f"  {text}"
