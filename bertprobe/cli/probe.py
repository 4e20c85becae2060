"""The command `neurons probe`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from bertprobe.cli.options import (
    CorpusArgument,
    Field,
    Force,
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
from bertprobe.cli.text import Backend, BatchTokens, ComputeDtype, Device, ModelOption, Threads, open_here

LabelField = Annotated[
    str,
    typer.Option(
        "--label-field",
        metavar="NAME",
        help="Take labels from this field: a text's, or a list of words'.",
    ),
]
WordsField = Annotated[
    str | None,
    typer.Option(
        "--words-field",
        metavar="NAME",
        help="Probe words: this field is a list of them, and the field of labels one of as many.",
        show_default=False,
    ),
]


def probe(
    corpus: CorpusArgument,
    label_field: LabelField,
    model: ModelOption = None,
    subfolder: Subfolder = "",
    weights: Weights = "",
    root: Root = "",
    tokenizer: Tokenizer = None,
    field: Field = "text",
    words_field: WordsField = None,
    skip_bad: SkipBad = False,
    layers: Layers = None,
    pieces: Annotated[
        Literal["first", "last", "mean"] | None,
        typer.Option(
            "--pieces",
            metavar="WHICH",
            help="Take of a word's pieces, or a text's tokens, the first, the last or their mean; by default the last "
            "piece of a word and the mean of a text.",
            show_default=False,
        ),
    ] = None,
    pre: Annotated[bool, typer.Option("--pre", help="Take values before the activation.")] = False,
    held_out: Annotated[
        float, typer.Option("--held-out", metavar="X", help="Hold out this share of the texts, and test on it.")
    ] = 0.2,
    ridge: Annotated[
        float, typer.Option("--ridge", metavar="X", help="Add X to the diagonal of the neurons' correlations.")
    ] = 0.1,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", help="Hold out other texts, draw other labels for the control.")
    ] = 0,
    top: Annotated[int, typer.Option("--top", min=0, metavar="K", help="List K neurons of each label.")] = 3,
    by: Annotated[
        Literal["difference", "linear"],
        typer.Option("--by", metavar="WHAT", help="List by difference (of means) or linear (weights of the probe)."),
    ] = "difference",
    truncate: Truncate = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write all scores to FILE.", show_default=False),
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
    backend: Backend = "auto",
    device: Device = "auto",
    dtype: ComputeDtype = "float32",
    threads: Threads = None,
    batch_tokens: BatchTokens = None,
    table: Table = None,
    format: Format = "table",
    json: Json = False,
) -> None:
    """Asks which neurons tell labels of texts or words: linear probes, rankings, and a control task of random labels.

    The corpus runs once, and what is kept are sums: memory follows the square of a layer's width, not the texts.

    With -o, writes all scores: .safetensors or .npz.
    """
    from bertprobe.corpus import open_corpus
    from bertprobe.export.matrices import checked
    from bertprobe.export.probes import write_probes
    from bertprobe.neurons.probe.job import ProbeOptions, prepare_probe
    from bertprobe.notices import say
    from bertprobe.render.progress import progress_of_texts
    from bertprobe.report.probe import plan_line, probe_report
    from bertprobe.run import Compute

    printer = Printer.of(format, json, table)
    texts = open_corpus(corpus, field=field, label_field=label_field, words_field=words_field, skip_bad=skip_bad)
    place = None if output is None else checked(output, force)
    checkpoint, anatomy = open_here(model, subfolder, weights, root, tokenizer)
    compute = Compute(backend, device, dtype, threads, batch_tokens)
    options = ProbeOptions(layers, pieces, pre, held_out, ridge, seed, truncate, compute)
    job = prepare_probe(checkpoint, anatomy, texts, options)
    if not quiet:
        say(plan_line(job))
    with progress_of_texts(job.guessed_tokens, "probing", quiet=quiet) as advance:
        found = job.run(advance)
    if place is not None:
        write_probes(found, place)
    printer.show(probe_report(found, top, by, None if output is None else str(output)))
