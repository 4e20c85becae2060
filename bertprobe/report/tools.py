"""What tools make of a folder, in the report of `recipe`: a row a tool, and what there is to know of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

from bertprobe.recipe import Recipe
from bertprobe.recipe.tools import TOOLS, tools_of
from bertprobe.report import Column, View

if TYPE_CHECKING:
    from bertprobe.report import nodes

_LABELS = {"text-embeddings-inference": "TEI"}


def tool_nodes(recipe: Recipe) -> list[nodes.ToolMade]:
    """What each tool makes of a folder, in the order of `TOOLS`."""
    made = tools_of(recipe)
    return [_node(tool.name, tool.version, asdict(made[tool.name])) for tool in TOOLS]


def _node(name: str, version: str, made: dict[str, Any]) -> nodes.ToolMade:
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in made.items()}
    steps = {key: made[key] or None for key in ("dense", "layer_norm", "modules")}
    unknown = dict.fromkeys(("overflow", "pooling", "prompt")) if made["fails"] else {}
    return cast("nodes.ToolMade", {"tool": name, "version": version or None, **plain, **steps, **unknown})


def tools_view(found: Sequence[nodes.ToolMade]) -> View:
    """A row a tool: what it makes of the folder, and whether that is the recipe's vector."""
    columns = (
        Column("tool", ("tool",), "text"),
        Column("tokens", ("length",), "integer"),
        Column("longer", ("overflow",), "text", 4),
        Column("lower", ("lower",), "flag"),
        Column("pooling", ("pooling",), "text"),
        Column("dense", ("dense",), "text", 2),
        Column("norm", ("normalized",), "flag"),
        Column("prompt", ("prompt",), "text", 3),
        Column("same vector?", ("same",), "text"),
    )
    rows = tuple(_row(node, found[0]["length"]) for node in found)
    return View("tools", "what each tool makes of these files", columns, rows)


def _row(node: nodes.ToolMade, length: int | None) -> dict[str, Any]:
    pooling = node["pooling"]
    pooled = None if pooling is None else " + ".join(pooling) or "none"
    shown = {"tool": _LABELS.get(node["tool"], node["tool"]), "pooling": pooled, "prompt": node["prompt"] or None}
    return {**node, **shown, "same": _same(node, length)}


def _same(node: nodes.ToolMade, length: int | None) -> str:
    """Whether a tool's vector is the recipe's: else what differs, or what to set, and up to which length."""
    if node["fails"]:
        return "does not load"
    to_set = node["settable"]
    others = [aspect for aspect in node["differs"] if aspect not in (*to_set, "length")]
    if others:
        return f"no: {', '.join(aspect for aspect in others if aspect != 'accents' or 'case' not in others)}"
    words = [f"set {', '.join(to_set)}"] if to_set else []
    limits = [limit for limit in (length, node["length"]) if limit is not None]
    words += [f"to {min(limits):,}"] if "length" in node["differs"] and limits else []
    return "; ".join(words) or "yes"


def tool_notes_view(found: Sequence[nodes.ToolMade]) -> View:
    """Why a tool makes nothing, and what else there is to know, a line each."""
    rows = [
        {"tool": _LABELS.get(node["tool"], node["tool"]), "note": note}
        for node in found
        for note in ([f"does not load: {node['fails']}"] if node["fails"] else node["notes"])
    ]
    columns = (Column("tool", ("tool",), "text"), Column("note", ("note",), "text"))
    return View("tool_notes", "to know of them", columns, tuple(rows))
