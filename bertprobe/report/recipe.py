"""The report of `recipe`: each setting with the file and key it is from, what lost; and what tools make of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bertprobe.checkpoint.choose import Located
from bertprobe.recipe import Dense, LayerNorm, Normalize, Pooling, Recipe, Said, Setting, Step
from bertprobe.recipe.line import recipe_line, tokens, words_of
from bertprobe.report import Column, Report, View, report_of
from bertprobe.report.tools import tool_nodes, tool_notes_view, tools_view
from bertprobe.verdicts import Finding

if TYPE_CHECKING:
    from bertprobe.report import nodes


_CARRIED = (
    "the weights file carries these settings: the files named here are those that bertprobe export --part model "
    "writes beside the model, and no other tool reads them before"
)


def recipe_report(
    ref: str, located: Located, recipe: Recipe, findings: Sequence[Finding], *, carried: bool = False
) -> Report:
    """The report of `recipe`; of settings that the weights file itself has (`carried`), nothing of other tools."""
    settings, tools = list(_settings(recipe)), [] if carried else tool_nodes(recipe)
    others = [] if carried else [tools_view(tools), tool_notes_view(tools)]
    data = {
        "model": ref,
        "facts": {
            "resolved": located.resolved,
            "revision": located.revision,
            "notes": [*located.notes, *([_CARRIED] if carried else [])],
            "recipe": recipe_line(recipe),
        },
        "declared": recipe.declared,
        "recipe": settings,
        "steps": [_step(step) for step in recipe.steps],
        "prompts": dict(recipe.prompts.value),
        "width": recipe.width,
        "tools": tools,
    }
    return report_of(data, [_recipe_view(settings), *others], findings, say_none=True)


# ------------------------------------------------------------------------------------------------ settings


def _settings(recipe: Recipe) -> Iterator[nodes.RecipeSetting]:
    yield _setting("normalizer", recipe.normalizer)
    yield _setting("lower_case", recipe.lower)
    yield _setting("strip_accents", recipe.accents)
    yield _setting("special_tokens", recipe.special)
    yield _setting("length", recipe.length)
    yield _setting("truncation_side", recipe.truncation)
    yield _setting("default_prompt", recipe.prompt)
    for step in recipe.steps:
        yield _of_step(recipe, step)
    yield _setting("truncate_dim", recipe.cut)
    yield _setting("similarity", recipe.similarity)


def _setting(name: str, setting: Setting[Any]) -> nodes.RecipeSetting:
    return {
        "setting": name,
        "value": _plain(setting.value),
        "file": None if setting.by is None else setting.by.file,
        "key": None if setting.by is None else setting.by.key,
        "default": setting.default or None,
        "others": [_said(said) for said in setting.lost],
    }


def _said(said: Said) -> nodes.SaidElsewhere:
    return {"value": _plain(said.value), "file": said.file, "key": said.key}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _of_step(recipe: Recipe, step: Step) -> nodes.RecipeSetting:
    """A step as a setting: its words, and where its settings stand."""
    name = {Pooling: "pooling", Dense: "dense", LayerNorm: "layer_norm", Normalize: "normalize"}.get(
        type(step), "module"
    )
    value: Any = (
        list(step.modes) if isinstance(step, Pooling) else True if isinstance(step, Normalize) else words_of(step)
    )
    has_file = not isinstance(step, Normalize) and bool(step.path)
    file = f"{step.path}/config.json" if has_file else "modules.json" if recipe.declared else None
    key = step.key if isinstance(step, Pooling) and step.key else step.path if file == "modules.json" else None
    others: list[nodes.SaidElsewhere] = []
    if isinstance(step, Pooling) and step.flags is not None and file is not None:
        others.append({"value": list(step.flags), "file": file, "key": "pooling_mode_*"})
    default = None if file else "sentence-transformers"
    return {"setting": name, "value": value, "file": file, "key": key, "default": default, "others": others}


def _step(step: Step) -> nodes.RecipeStep:
    fields = {name: _plain(getattr(step, name)) for name in step.__dataclass_fields__}
    return {"kind": type(step).__name__, "path": fields.pop("path"), "settings": fields}


def _recipe_view(settings: Sequence[nodes.RecipeSetting]) -> View:
    """A row for what is in force, and one below it for each other value that a file has."""
    shown = [node for node in settings if node["others"] or node["value"] != _NOT_TOLD.get(node["setting"], ())]
    rows = [row for node in shown for row in _rows(node)]
    columns = (
        Column("setting", ("setting",), "text"),
        Column("value", ("value",), "text"),
        Column("said in", ("file",), "text"),
        Column("as", ("key",), "text"),
    )
    return View("recipe", "recipe: from a text to its vector", columns, tuple(rows))


def _rows(node: nodes.RecipeSetting) -> Iterator[dict[str, Any]]:
    name = node["setting"]
    file, key = node["file"] or "(default)", (node["key"] if node["file"] else node["default"]) or ""
    yield {"setting": _TITLES.get(name, name), "value": _told(node, node["value"]), "file": file, "key": key}
    for said in node["others"]:
        if said["value"] != node["value"]:
            other = f"not {_told(node, said['value'])}"
            yield {"setting": "", "value": other, "file": said["file"], "key": said["key"]}


# What goes without saying.
_NOT_TOLD = {"truncate_dim": None, "default_prompt": None, "truncation_side": "right"}
_TITLES = {
    "lower_case": "case",
    "strip_accents": "accents",
    "special_tokens": "around it",
    "truncation_side": "cut at",
    "default_prompt": "prompt",
    "normalize": "norm",
    "layer_norm": "layer norm",
    "truncate_dim": "cut to",
}
_FLAGS = {
    "lower_case": {True: "lower-cased", False: "kept"},
    "strip_accents": {True: "taken off", False: "kept"},
    "normalize": {True: "1", False: "as it is"},
}


def _told(node: nodes.RecipeSetting, value: Any) -> str:
    """A value in words."""
    name = node["setting"]
    if name in _FLAGS and (value is None or isinstance(value, bool)):
        return _FLAGS[name].get(value, "unknown") if value is not None else "unknown"
    if name == "length":
        return tokens(value)
    if name == "special_tokens":
        return "unknown" if value is None else " … ".join(value) or "nothing"
    if name == "truncation_side":
        return {"right": "its end", "left": "its beginning"}.get(str(value), str(value))
    if name == "truncate_dim":
        return f"{value:,} numbers"
    return " + ".join(value) if isinstance(value, list) else str(value)
