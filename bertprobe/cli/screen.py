"""The command `neurons screen`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from bertprobe.cli.options import (
    CorpusArgument,
    Field,
    Format,
    Json,
    Layers,
    Printer,
    Quiet,
    Root,
    SkipBad,
    Subfolder,
    Table,
    Tokenizer,
    Truncate,
    Weights,
)
from bertprobe.cli.text import ComputeDtype, Device, ModelOption, Threads, open_here


def screen(
    corpus: CorpusArgument,
    model: ModelOption = None,
    subfolder: Subfolder = "",
    weights: Weights = "",
    root: Root = "",
    tokenizer: Tokenizer = None,
    on: Annotated[
        Literal["pooled", "cls", "mean", "sentence", "masked"] | None,
        typer.Option(
            "--on",
            metavar="OUTPUT",
            help="Look at the effect on pooled, cls, mean or sentence (a vector of each text) or on masked (what the "
            "model's head predicts for a masked token); by default sentence where the model has a recipe of its own, "
            "else pooled.",
            show_default=False,
        ),
    ] = None,
    layers: Layers = None,
    texts: Annotated[
        int, typer.Option("--texts", min=1, metavar="N", help="Draw N texts of the corpus; more give a better ranking.")
    ] = 256,
    exact: Annotated[
        int,
        typer.Option("--exact", min=0, metavar="N", help="Take out the N strongest neurons one by one, a run each."),
    ] = 16,
    drawn: Annotated[
        int, typer.Option("--drawn", min=0, metavar="N", help="Take out N neurons drawn from the rest, too.")
    ] = 16,
    means: Annotated[
        str | None,
        typer.Option(
            "--means",
            metavar="DIR",
            help="Put each neuron's mean over this scan in its place, instead of 0.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Draw other texts and directions.")] = 0,
    top: Annotated[int, typer.Option("--top", min=1, metavar="N", help="Show the N strongest neurons.")] = 16,
    field: Field = "text",
    skip_bad: SkipBad = False,
    truncate: Truncate = False,
    quiet: Quiet = False,
    device: Device = "auto",
    dtype: ComputeDtype = "float32",
    threads: Threads = None,
    table: Table = None,
    format: Format = "table",
    json: Json = False,
) -> None:
    """Ranks every neuron by what taking it out would change in the model's output.

    One backward pass a text tells it of all neurons to first order. The strongest, and some drawn from the rest, are
    then taken out one by one, and how the two rankings agree is told.
    """
    from bertprobe.corpus import open_corpus
    from bertprobe.neurons.ablation import means_of
    from bertprobe.render.progress import progress_of_texts
    from bertprobe.report.screen import screening
    from bertprobe.run import Compute
    from bertprobe.screen import Options, layers_of, output_by_default, prepare_screen
    from bertprobe.screen.texts import drawn as drawn_of

    printer = Printer.of(format, json, table)
    found = open_corpus(corpus, field=field, skip_bad=skip_bad)
    checkpoint, anatomy = open_here(model, subfolder, weights, root, tokenizer)
    known = [document.text for document in drawn_of(found, texts, seed)]
    options = Options(
        output=on or output_by_default(checkpoint, anatomy),
        layers=layers,
        exact=exact,
        drawn=drawn,
        seed=seed,
        truncate=truncate,
        means=None if means is None else means_of(layers_of(anatomy, layers), checkpoint, anatomy, means),
        compute=Compute("torch", device, dtype, threads),
    )
    job = prepare_screen(checkpoint, anatomy, known, options)
    with progress_of_texts(job.tokens * (1 + job.reruns), "screening", quiet=quiet) as advance:
        screened = job.run(advance)
    printer.show(screening(job, screened, top))
