"""The command that explains: `explain`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from bertprobe.cli.model import check_no_model, resolve_model
from bertprobe.cli.options import Json, Printer, Root, Subfolder, Tokenizer, Truncate, Weights, WordsFormat
from bertprobe.cli.text import ModelOption
from bertprobe.cli.weights import limit_blas_threads

Explained = Literal["intermediate", "pooler", "both"]


def explain(
    module: Annotated[Explained, typer.Argument(help="Which module to explain.")],
    text: Annotated[
        str | None, typer.Argument(metavar="[TEXT]", help="The text to run through it.", show_default=False)
    ] = None,
    model: ModelOption = None,
    lang: Annotated[Literal["en", "zh"], typer.Option("--lang", help="English or Chinese.")] = "en",
    subfolder: Subfolder = "",
    weights: Weights = "",
    root: Root = "",
    tokenizer: Tokenizer = None,
    truncate: Truncate = False,
    format: WordsFormat = "table",
    json: Json = False,
) -> None:
    """Explains BertIntermediate, BertPooler or both, with this checkpoint's own shapes and numbers.

    Where the module stands, its formula, a text step by step, its source in the installed transformers, how the two
    differ, and what people get wrong about them, each checked against this checkpoint.
    """
    from bertprobe.anatomy import find_parts
    from bertprobe.checkpoint import open_checkpoint
    from bertprobe.explain import TEXT, gather
    from bertprobe.measurement import measure_parts
    from bertprobe.report.explanation import check_module, explanation
    from bertprobe.verdicts import Evidence

    printer = Printer.of(format, json)
    check_no_model(model, [text] if text else [])
    checkpoint = open_checkpoint(
        resolve_model(model), subfolder=subfolder, weights=weights, root=root, download=True, tokenizer=tokenizer
    )
    anatomy = find_parts(checkpoint)
    check_module(checkpoint, anatomy, module)
    limit_blas_threads()
    measured = Evidence(checkpoint, anatomy, measure_parts(anatomy.parts))
    found = gather(measured, TEXT if text is None else text, truncate=truncate)
    report = explanation(checkpoint, anatomy, found, module, lang)
    printer.show(report)
