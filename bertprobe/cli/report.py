"""The command to look at rather than read: `report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bertprobe.cli.model import resolve_model
from bertprobe.cli.options import (
    Download,
    Force,
    Format,
    Json,
    Model,
    Printer,
    Root,
    Subfolder,
    Tokenizer,
    Truncate,
    Weights,
)
from bertprobe.cli.weights import limit_blas_threads
from bertprobe.errors import OutputError, printable

if TYPE_CHECKING:
    from bertprobe.checkpoint import Checkpoint
    from bertprobe.report.page import TextReports
    from bertprobe.verdicts import Evidence


def report(
    model: Model = None,
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT]…", help="Texts to run, 24 at most.", show_default=False)
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="The page: .html; one figure: .png, .svg or .pdf.")
    ] = Path("report.html"),
    figure: Annotated[
        str | None,
        typer.Option(
            "--figure",
            metavar="NAME",
            help="Which figure: layer, weights, neurons, spectrum, tokens, pooled or similarity.",
        ),
    ] = None,
    truncate: Truncate = False,
    force: Force = False,
    subfolder: Subfolder = "",
    weights: Weights = "",
    root: Root = "",
    tokenizer: Tokenizer = None,
    download: Download = False,
    format: Format = "table",
    json: Json = False,
) -> None:
    """Writes a page to look at: findings in words, the two modules drawn, charts of their weights and of texts.

    One HTML file that asks for nothing, for people who will never install this. --figure writes a single picture.
    """
    from bertprobe.checkpoint import open_checkpoint
    from bertprobe.export.files import Output, check_place
    from bertprobe.render import html
    from bertprobe.report.page import page, written
    from bertprobe.verdicts import judge

    printer = Printer.of(format, json)
    _check_figure(output, figure, texts or ())
    if tokenizer is not None and not texts:
        raise typer.BadParameter("--tokenizer is for texts: add one behind MODEL")
    place = Output(output, force=force)
    html.require_libraries()
    check_place(place)
    checkpoint = open_checkpoint(
        resolve_model(model),
        subfolder=subfolder,
        weights=weights,
        root=root,
        download=download or bool(texts),
        tokenizer=tokenizer,
    )
    evidence = _measured(checkpoint)
    ran = _run(evidence, texts, truncate) if texts else None
    found = page(evidence, evidence.anatomy.parts, judge(evidence), ran)
    size = html.write(found, place, figure)
    printer.show(written(found, str(output), size, figure), whole=False)


def _check_figure(output: Path, figure: str | None, texts: Sequence[str]) -> None:
    """What is asked for can be had: a suffix that says a format, and a figure of that name where it takes one."""
    from bertprobe.render.html import FIGURES, SUFFIXES

    suffix, names = output.suffix, ", ".join(FIGURES)
    if suffix not in SUFFIXES:
        raise OutputError(
            f"{printable(str(output))} does not say a format", "let its name end in .html, .png, .svg or .pdf"
        )
    if figure is not None and figure not in FIGURES:
        raise typer.BadParameter(f"there is no figure {printable(figure)}: choose from {names}")
    if suffix == ".html" and figure is not None:
        raise typer.BadParameter("--figure is for .png, .svg and .pdf: the page has all figures")
    if suffix != ".html" and figure is None:
        raise typer.BadParameter(f"{suffix} takes one figure: add --figure and one of {names}")
    if figure is not None and FIGURES[figure].needs_texts and not texts:
        raise typer.BadParameter(f"--figure {figure} shows texts: add one behind MODEL")


def _measured(checkpoint: Checkpoint) -> Evidence:
    from bertprobe.anatomy import find_parts
    from bertprobe.measurement import bytes_to_measure, measure_parts
    from bertprobe.render.progress import progress
    from bertprobe.verdicts import Evidence

    anatomy = find_parts(checkpoint)
    limit_blas_threads()
    with progress(bytes_to_measure(anatomy.parts), "reading weights") as advance:
        numbers = measure_parts(anatomy.parts, spectrum=True, bins=True, progress=advance)
    return Evidence(checkpoint, anatomy, numbers)


def _run(evidence: Evidence, texts: Sequence[str], truncate: bool) -> TextReports:
    from bertprobe.anatomy import select
    from bertprobe.report.page import STRONGEST, check_count, text_reports
    from bertprobe.report.text import PerToken
    from bertprobe.run import AllVectors, Compute, NeuronStatistics, Strongest, TokenNorms, open_runner, run_texts

    check_count(texts)
    labels = {part.label for part in select(evidence.anatomy, ["intermediate"])}
    vectors, statistics = AllVectors(), NeuronStatistics(labels)
    tokens = PerToken(TokenNorms(labels), Strongest(labels, STRONGEST))
    runner = open_runner(evidence.checkpoint, evidence.anatomy, Compute(), texts)
    ran = run_texts(runner, texts, vectors, statistics, *tokens.collectors, truncate=truncate)
    return text_reports(ran, texts, vectors, statistics, tokens)
