"""The command `lens`: hidden states and neurons in the vocabulary."""

from __future__ import annotations

from typing import Annotated

import typer

from bertprobe.cli.model import check_no_model
from bertprobe.cli.options import (
    Ablate,
    Format,
    Json,
    Means,
    Printer,
    Root,
    Subfolder,
    Table,
    Tokenizer,
    Weights,
    ablation_in,
)
from bertprobe.cli.text import Backend, ComputeDtype, Device, File, ModelOption, Threads, open_here, texts_of

Texts = Annotated[
    list[str] | None,
    typer.Argument(metavar="TEXT…", help="Texts with a masked token, such as [MASK] or <mask>.", show_default=False),
]


def lens(
    texts: Texts = None,
    model: ModelOption = None,
    subfolder: Subfolder = "",
    weights: Weights = "",
    root: Root = "",
    tokenizer: Tokenizer = None,
    file: File = None,
    layers: Annotated[
        str | None,
        typer.Option(
            "--layers",
            metavar="LIST",
            help="Read after these layers only, such as embeddings,0,3-5,-1; -1 is the last.",
            show_default=False,
        ),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, metavar="K", help="Show K entries of each list.")] = 5,
    word: Annotated[
        str | None,
        typer.Option("--word", metavar="WORD", help="Show the rank of WORD after each layer.", show_default=False),
    ] = None,
    position: Annotated[
        int | None,
        typer.Option(
            "--position",
            min=0,
            metavar="N",
            help="Look at token N of each text, from 0, instead of its masked ones.",
            show_default=False,
        ),
    ] = None,
    neuron: Annotated[
        str | None,
        typer.Option(
            "--neuron",
            metavar="NEURONS",
            help="Show these neurons in the vocabulary, such as 3.224,3.48 or 7:0-3; no text is needed.",
            show_default=False,
        ),
    ] = None,
    ablate: Ablate = None,
    means: Means = None,
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Draw other random directions.")] = 0,
    backend: Backend = "auto",
    device: Device = "auto",
    dtype: ComputeDtype = "float32",
    threads: Threads = None,
    table: Table = None,
    format: Format = "table",
    json: Json = False,
) -> None:
    """Shows what the masked-language-model head makes of a masked token after every layer, and of neurons.

    The head is made for the last layer: what it says of others is a reading. Beside every list stands what random
    directions of the same norm come to at that rank.
    """
    from bertprobe.anatomy.neurons import parse_neurons
    from bertprobe.lens import LensWish, Null, lens_of_neurons, lens_of_texts
    from bertprobe.report.lens import lens_report
    from bertprobe.run import STATES, Compute, ablated, open_runner
    from bertprobe.run.runner import tokenizer_of

    printer = Printer.of(format, json, table)
    has_text = bool(texts) or file is not None or neuron is None
    of_texts = {"--layers": layers, "--word": word, "--position": position, "--ablate": ablate, "--means": means}
    for option in (option for option, value in of_texts.items() if value is not None and not has_text):
        raise typer.BadParameter(f"{option} goes with a text: --neuron alone reads weights")
    checkpoint, anatomy = open_here(model, subfolder, weights, root, tokenizer)
    check_no_model(model, texts or [])
    null = Null(seed=seed)
    ablation = ablation_in(ablate, means, checkpoint, anatomy)
    lensed = None
    wanted = {} if neuron is None else parse_neurons(neuron, anatomy)
    found = lens_of_neurons(anatomy, tokenizer_of(checkpoint), wanted, top, null) if wanted else ()
    if has_text:
        known = texts_of(texts, file)
        compute = Compute(backend, device, dtype, threads)
        untouched = open_runner(checkpoint, anatomy, compute, known, needs=frozenset({STATES}))
        runner = ablated(untouched, ablation)
        wish = LensWish(layers, top, word, position, null)
        lensed = lens_of_texts(runner, known, wish, None if ablation is None else untouched)
    printer.show(lens_report(checkpoint, anatomy, lensed, found, null, ablation))
