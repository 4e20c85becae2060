"""The commands about weights: `inspect` and `export`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bertprobe.cli.model import resolve_model
from bertprobe.cli.options import (
    Download,
    Exported,
    Force,
    Format,
    Json,
    Layers,
    Model,
    Printer,
    Root,
    Seen,
    Subfolder,
    Table,
    Weights,
)
from bertprobe.errors import IsAdapter, NotAnEncoder

if TYPE_CHECKING:
    from bertprobe.adapters import Adapter
    from bertprobe.checkpoint import Checkpoint
    from bertprobe.report import Report
    from bertprobe.verdicts import Finding


def inspect(
    model: Model = None,
    part: Annotated[
        list[Seen] | None,
        typer.Option(
            "--part", metavar="PART", help="Show only intermediate (gates included) or pooler; may be repeated."
        ),
    ] = None,
    layers: Layers = None,
    shapes: Annotated[bool, typer.Option("--shapes", help="Read headers only; read no tensor data.")] = False,
    spectrum: Annotated[
        bool, typer.Option("--spectrum", help="Compute all singular values: ranks, spikes, α, condition.")
    ] = False,
    neurons: Annotated[
        int,
        typer.Option(
            "--neurons",
            metavar="N",
            min=0,
            help="Show the N neurons with the largest, smallest and most outlying norms.",
        ),
    ] = 0,
    everything: Annotated[
        bool, typer.Option("--all", help="Read and list every tensor; give the whole model's fingerprint.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="End with exit code 3 on a warning or an error.")] = False,
    table: Table = None,
    subfolder: Subfolder = "",
    weights: Weights = "",
    root: Root = "",
    download: Download = False,
    format: Format = "table",
    json: Json = False,
) -> None:
    """Shows shapes, weight statistics and findings of the intermediate and pooler modules.

    No model is built and nothing in a file is executed: the tensors wanted are read from the files, and only those.
    """
    from bertprobe.anatomy import find_parts, select
    from bertprobe.checkpoint import open_checkpoint
    from bertprobe.measurement import bytes_to_measure, measure_others, measure_parts, others_of
    from bertprobe.render.progress import progress
    from bertprobe.report.inspection import inspection
    from bertprobe.verdicts import Evidence, judge, worst_first

    printer = Printer.of(format, json, table)
    if layers is not None and part == [Seen.pooler]:
        raise typer.BadParameter("--layers chooses among intermediate modules: the pooler has none")
    if shapes and (spectrum or neurons):
        raise typer.BadParameter("--shapes reads no numbers: leave it out for --spectrum or --neurons")
    if everything and (part or layers is not None):
        raise typer.BadParameter("--all is every tensor: leave it out for --part or --layers")
    ref = resolve_model(model)
    checkpoint = None
    try:
        checkpoint = open_checkpoint(
            ref, subfolder=subfolder, weights=weights, root=root, download=download, truncated=everything
        )
        anatomy = find_parts(checkpoint)
    except (IsAdapter, NotAnEncoder) as error:
        adapter = _adapter(ref, checkpoint, error)
        if part or layers is not None or spectrum or neurons or everything:
            raise typer.BadParameter(
                "an adapter has neither parts nor neurons: leave out --part, --layers, --spectrum, --neurons and --all"
            ) from error
        report = _adapter_report(adapter, shapes)
        printer.show(report)
        if strict and report.is_alarming:
            raise typer.Exit(3) from None
        return
    parts = select(anatomy, part or (), layers)
    numbers = {}
    if not shapes:
        from bertprobe.recipe.files import prepare

        prepare(checkpoint.home)
        limit_blas_threads()
        others = others_of(anatomy, parts) if everything else {}
        total = bytes_to_measure(parts) + sum(header.nbytes for header in others.values())
        with progress(total, "reading weights") as advance:
            numbers = measure_parts(parts, spectrum=spectrum, progress=advance)
            numbers |= measure_others(others, progress=advance)
    evidence = Evidence(checkpoint, anatomy, numbers)
    line, beside = ("", ()) if shapes else _recipe(checkpoint)
    findings = worst_first([*judge(evidence), *beside])
    report = inspection(evidence, parts, findings, neurons=neurons, recipe=line, everything=everything)
    printer.show(report)
    if strict and report.is_alarming:
        raise typer.Exit(3)


def _adapter(ref: str, checkpoint: Checkpoint | None, error: IsAdapter | NotAnEncoder) -> Adapter:
    """The adapter that lies where a model was looked for; raises the error where there is none."""
    from bertprobe.adapters.opening import adapter_at, adapter_in

    if isinstance(error, IsAdapter):
        return adapter_at(ref, error)
    found = None if checkpoint is None else adapter_in(checkpoint)
    if found is None:
        raise error
    return found


def _adapter_report(adapter: Adapter, shapes: bool) -> Report:
    """What `inspect` tells of an adapter."""
    from bertprobe.adapters.rules import AdapterEvidence, judge_adapter
    from bertprobe.report.adapter import adapter_report

    evidence = AdapterEvidence(adapter)
    if not shapes:
        limit_blas_threads()
        from bertprobe.adapters.numbers import measure_targets

        evidence = AdapterEvidence(adapter, measure_targets(adapter))
    return adapter_report(evidence, judge_adapter(evidence))


def _recipe(checkpoint: Checkpoint) -> tuple[str, tuple[Finding, ...]]:
    """What the settings beside the weights make of a text, in a line, and what was found of it."""
    from bertprobe.recipe import recipe_of
    from bertprobe.recipe.line import recipe_line
    from bertprobe.recipe.rules import beside_weights

    recipe = recipe_of(checkpoint)
    return recipe_line(recipe), beside_weights(recipe)


def export(
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="FILE", help="The file to write: .safetensors or .npz.", show_default=False
        ),
    ],
    model: Model = None,
    part: Annotated[
        list[Exported] | None,
        typer.Option(
            "--part",
            metavar="PART",
            help="Export pooler, intermediate or model; may be repeated. The pooler by default.",
        ),
    ] = None,
    layers: Layers = None,
    dtype: Annotated[
        Literal["keep", "float32", "float16", "bfloat16"],
        typer.Option(
            "--dtype", metavar="DTYPE", help="Cast floating-point tensors to float32, float16 or bfloat16, or keep."
        ),
    ] = "keep",
    names: Annotated[
        Literal["canonical", "stored"],
        typer.Option(
            "--names",
            metavar="NAMES",
            help="Name tensors as transformers does (canonical) or as the file does (stored).",
        ),
    ] = "canonical",
    force: Force = False,
    subfolder: Subfolder = "",
    weights: Weights = "",
    root: Root = "",
    download: Download = False,
    format: Format = "table",
    json: Json = False,
) -> None:
    """Writes the pooler, intermediate modules or the whole model to a file of its own."""
    from bertprobe.anatomy import find_parts, select
    from bertprobe.anatomy.poolers import require_pooler
    from bertprobe.checkpoint import open_checkpoint
    from bertprobe.export import Output
    from bertprobe.export import export as write
    from bertprobe.measurement import MeasureTee
    from bertprobe.report.inspection import exportation
    from bertprobe.verdicts import Evidence, about, judge

    printer = Printer.of(format, json)
    wanted = part or [Exported.pooler]
    if layers is not None and "intermediate" not in wanted:
        raise typer.BadParameter("--layers chooses among intermediate modules: add --part intermediate")
    checkpoint = open_checkpoint(
        resolve_model(model), subfolder=subfolder, weights=weights, root=root, download=download
    )
    anatomy = find_parts(checkpoint)
    if "pooler" in wanted and "model" not in wanted:
        require_pooler(checkpoint, anatomy, "take a checkpoint that has one, or export --part intermediate")
    parts = None if "model" in wanted else select(anatomy, wanted, layers)
    limit_blas_threads()
    measured = MeasureTee(parts or ())
    written = write(checkpoint, anatomy, parts, Output(output, dtype, names, force), measured.take)
    evidence = Evidence(checkpoint, anatomy, measured.numbers())
    findings = about(judge(evidence), parts)
    report = exportation(checkpoint, anatomy, written, findings)
    printer.show(report, whole=checkpoint.revision is not None)


def limit_blas_threads() -> None:
    """Tensors are measured side by side; a BLAS that also split each product would only make them wait."""
    if "numpy" not in sys.modules:
        for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
            os.environ.setdefault(name, "1")
