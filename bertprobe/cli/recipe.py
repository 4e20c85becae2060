"""The command about settings: `recipe`."""

from __future__ import annotations

from typing import Annotated

import typer

from bertprobe.cli.model import resolve_model
from bertprobe.cli.options import Format, Json, Model, Printer, Subfolder, Table


def recipe(
    model: Model = None,
    strict: Annotated[bool, typer.Option("--strict", help="End with exit code 3 on a warning or an error.")] = False,
    table: Table = None,
    subfolder: Subfolder = "",
    format: Format = "table",
    json: Json = False,
) -> None:
    """Shows which vector of a text is the model's: tokens, case, prompts, pooling, norm, and which file says so.

    Only the small settings files are read, those of sentence-transformers among them. Files that contradict each other
    are found, and what other tools make of the folder is shown beside it.
    """
    from bertprobe.checkpoint.choose import OpenOptions
    from bertprobe.checkpoint.locate import locate
    from bertprobe.recipe import has_settings, read_recipe, recipe_carried, require_settings
    from bertprobe.recipe.rules import judge_recipe
    from bertprobe.report.recipe import recipe_report

    printer = Printer.of(format, json, table)
    ref = resolve_model(model)
    located = locate(ref, OpenOptions(subfolder, settings_only=True))
    found = read_recipe(located.folder)
    carried = None if has_settings(found) else recipe_carried(ref, subfolder)
    found = carried or found
    require_settings(found)
    report = recipe_report(located.ref or ref, located, found, judge_recipe(found), carried=carried is not None)
    printer.show(report)
    if strict and report.is_alarming:
        raise typer.Exit(3)
