"""The commands about neurons over a corpus: `neurons scan`, `merge`, `list`, `show`, `screen` and `atlas`."""

from __future__ import annotations

import json as json_of
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bertprobe.cli.options import (
    Ablate,
    ActorsOfRay,
    CorpusArgument,
    Field,
    Force,
    Format,
    GpusPerActor,
    Json,
    Layers,
    Means,
    NoVerify,
    Printer,
    Quiet,
    Ray,
    Root,
    ShardOfPlan,
    SkipBad,
    Subfolder,
    Table,
    Tokenizer,
    Truncate,
    Weights,
    ablation_in,
    actors_of,
)
from bertprobe.cli.probe import probe
from bertprobe.cli.screen import screen
from bertprobe.cli.text import Backend, BatchTokens, ComputeDtype, Device, ModelOption, Threads, open_here

if TYPE_CHECKING:
    from bertprobe.neurons.folder import ScanFolder

neurons = typer.Typer(
    name="neurons",
    help="Shows what a corpus does to every neuron: scan it once, then list neurons and look at single ones.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

neurons.command()(screen)

Scan = Annotated[Path, typer.Argument(metavar="DIR", help="A folder that neurons scan or neurons merge wrote.")]
NewFolder = Annotated[
    Path, typer.Option("-o", "--output", metavar="DIR", help="Write into this folder; the same command goes on there.")
]
ScannedModel = Annotated[
    str | None,
    typer.Option("-m", "--model", metavar="MODEL", help="Where the model is now; where it was scanned by default."),
]


@neurons.command()
def scan(
    corpus: CorpusArgument,
    output: NewFolder,
    model: ModelOption = None,
    subfolder: Subfolder = "",
    weights: Weights = "",
    root: Root = "",
    tokenizer: Tokenizer = None,
    field: Field = "text",
    skip_bad: SkipBad = False,
    layers: Layers = None,
    top: Annotated[
        int, typer.Option("--top", min=1, max=60, metavar="K", help="Keep the K strongest tokens of each neuron.")
    ] = 20,
    threshold: Annotated[
        list[float] | None,
        typer.Option("--threshold", metavar="X", help="Count activations above X, beside 0; repeat; 0.1 and 1."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Draw other random tokens.")] = 0,
    ablate: Ablate = None,
    means: Means = None,
    truncate: Truncate = False,
    no_verify: NoVerify = False,
    embed_text: Annotated[
        bool,
        typer.Option("--embed-text", help="Keep the texts of examples in the folder, to be shown without the corpus."),
    ] = False,
    shard: ShardOfPlan = None,
    ray: Ray = None,
    actors: ActorsOfRay = None,
    gpus_per_actor: GpusPerActor = 0.0,
    shard_text: Annotated[
        int,
        typer.Option(
            "--shard-text", min=1, metavar="BYTES", help="Cut the corpus into parts of so much text; one may be lost."
        ),
    ] = 2**20,
    quiet: Quiet = False,
    backend: Backend = "auto",
    device: Device = "auto",
    dtype: ComputeDtype = "float32",
    threads: Threads = None,
    batch_tokens: BatchTokens = None,
    format: Format = "table",
    json: Json = False,
) -> None:
    """Runs a corpus once and keeps of every neuron its statistics and the tokens it is strongest on.

    Whatever ends it, the same command goes on where it was, and ends with the same bytes. Tokens are kept by reference:
    neurons show looks them up in the corpus, which must stay, unless the folder has their texts.
    """
    from bertprobe.corpus import open_corpus
    from bertprobe.neurons import Kept
    from bertprobe.neurons.job import prepare_scan
    from bertprobe.neurons.opening import Options
    from bertprobe.render.progress import progress_of_texts
    from bertprobe.run import Compute
    from bertprobe.sharded import WHOLE, Part

    printer = Printer.of(format, json)
    texts = open_corpus(corpus, field=field, skip_bad=skip_bad)
    checkpoint, anatomy = open_here(model, subfolder, weights, root, tokenizer)
    kept = Kept(top=top, thresholds=tuple(sorted(set(threshold or Kept().thresholds))))
    compute = Compute(backend, device, dtype, threads, batch_tokens)
    part = WHOLE if shard is None else Part.parsed(shard)
    by = actors_of(ray, actors, gpus_per_actor)
    ablation = ablation_in(ablate, means, checkpoint, anatomy)
    options = Options(kept, layers, seed, truncate, shard_text, not no_verify, compute, part, embed_text, by, ablation)
    job = prepare_scan(checkpoint, anatomy, texts, output, options)
    with progress_of_texts(job.guessed_tokens, "scanning", quiet=quiet) as advance:
        job.run(advance)
    _show_scan(printer, output)


@neurons.command()
def merge(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR…", help="Folders that neurons scan wrote, in the order of their texts.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Write into this new folder.")],
    format: Format = "table",
    json: Json = False,
) -> None:
    """Makes one scan of several: of several corpora, in this order, or of all parts of one, as --shard cut it."""
    from bertprobe.neurons.folder import open_scan
    from bertprobe.neurons.merge import merge_scans

    printer = Printer.of(format, json)
    if len(folders) < 2:
        raise typer.BadParameter("name two folders or more")
    merge_scans([open_scan(folder) for folder in folders], output)
    _show_scan(printer, output)


@neurons.command("list")
def list_(
    folder: Scan,
    kind: Annotated[
        Literal["selective", "dead", "always", "all"],
        typer.Option("--kind", metavar="KIND", help="List selective, dead, always (above 0 on 95 % of tokens) or all."),
    ] = "selective",
    dead_at: Annotated[
        float,
        typer.Option("--dead-at", metavar="X", help="Call dead what never is above X; at 0, before the activation."),
    ] = 0.0,
    layers: Layers = None,
    sort: Annotated[
        str | None,
        typer.Option(
            "--sort",
            metavar="COLUMN",
            help="Sort by selectivity, mean, std, min, max, above_zero or before_above_zero, the largest first; "
            "--sort=-max has the smallest first.",
        ),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=0, metavar="N", help="List N neurons; 0 lists all.")] = 20,
    beside: Annotated[
        Path | None,
        typer.Option(
            "--beside",
            metavar="DIR",
            help="List the neurons that differ most from this scan of the same texts, as of the model as it is.",
            show_default=False,
        ),
    ] = None,
    table: Table = None,
    format: Format = "table",
    json: Json = False,
) -> None:
    """Lists neurons of a scan, most selective first, and how many of each layer are dead or always on."""
    from bertprobe.neurons.beside import moved_rows
    from bertprobe.neurons.folder import open_scan
    from bertprobe.neurons.listing import Wanted, layer_rows, layers_in, neuron_rows
    from bertprobe.report.neurons import listing, listing_beside, title_of

    printer = Printer.of(format, json, table)
    found = open_scan(folder)
    wanted = Wanted(kind, layers_in(found, layers), sort, dead_at, top)
    report = listing(found, layer_rows(found), neuron_rows(found, wanted), title_of(wanted))
    if beside is not None:
        other = open_scan(beside)
        report = listing_beside(report, other, moved_rows(found, other, wanted.layers, top))
    printer.show(report)


@neurons.command()
def show(
    folder: Scan,
    neuron: Annotated[str, typer.Argument(metavar="NEURON", help="A neuron by layer and number, such as 3.1203.")],
    model: ScannedModel = None,
    beside: Annotated[
        list[Path] | None,
        typer.Option(
            "--beside", metavar="DIR", help="Show its strongest tokens in this scan, too, and what is common."
        ),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, metavar="N", help="Show N entries of each list.")] = 10,
    table: Table = None,
    format: Annotated[
        Literal["table", "json", "csv", "markdown", "neuron-record"],
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="table, json, csv, markdown or neuron-record (tokens and activations, as explainers read them).",
        ),
    ] = "table",
    json: Json = False,
) -> None:
    """Shows one neuron: its numbers, the tokens it is strongest on, its weights in words, who fires with it.

    The corpus is asked for the texts, the model for the weights: both must be the ones that were scanned. Without the
    corpus, a scan with --embed-text has the texts itself.
    """
    from bertprobe.neurons.card import card_of
    from bertprobe.neurons.folder import check_model, open_scan
    from bertprobe.neurons.listing import parse_neuron
    from bertprobe.neurons.record import record_of
    from bertprobe.report.neurons import card_report

    is_record = format == "neuron-record"
    printer = Printer.of("json" if is_record else format, json, table)
    layer, number = parse_neuron(neuron)
    scans = [open_scan(path) for path in (folder, *(beside or ()))]
    checkpoint, anatomy = open_here(model or scans[0].manifest["model"]["ref"], "", "", "", None)
    for found in scans:
        check_model(found, checkpoint)
    if is_record:
        typer.echo(json_of.dumps(record_of(scans[0], checkpoint, anatomy, layer, number, top)))
        return
    cards = [card_of(found, checkpoint, anatomy, layer, number, top) for found in scans]
    others = list(zip(scans[1:], cards[1:], strict=True))
    printer.show(card_report(scans[0], cards[0], others))


@neurons.command()
def atlas(
    folder: Scan,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Write this page.")] = Path(
        "atlas.html"
    ),
    model: ScannedModel = None,
    top: Annotated[int, typer.Option("--top", min=1, max=40, metavar="N", help="Show N entries of each list.")] = 10,
    force: Force = False,
    quiet: Quiet = False,
    format: Format = "table",
    json: Json = False,
) -> None:
    """Writes one page with all neurons of a scan: search a word, leaf through lists, look at cards.

    An HTML file that asks for nothing, to hand on. The model must be the one that was scanned, and so must the corpus
    where the scan was without --embed-text.
    """
    from bertprobe.export.files import Output
    from bertprobe.neurons.atlas import atlas_of
    from bertprobe.neurons.folder import open_scan
    from bertprobe.render.html.atlas import check_page, write_atlas
    from bertprobe.render.progress import progress_of_neurons
    from bertprobe.report.atlas import written_atlas

    printer = Printer.of(format, json)
    place = Output(output, force=force)
    found = open_scan(folder)
    check_page(place, found)
    checkpoint, anatomy = open_here(model or found.manifest["model"]["ref"], "", "", "", None)
    with progress_of_neurons(found.neurons, "gathering neurons", quiet=quiet) as advance:
        size = write_atlas(atlas_of(found, checkpoint, anatomy, top, advance), place)
    printer.show(written_atlas(found, str(output), size))


neurons.command()(probe)


def _show_scan(printer: Printer, path: Path) -> None:
    from bertprobe.neurons.folder import open_scan
    from bertprobe.neurons.listing import layer_rows
    from bertprobe.report.neurons import scanned

    found: ScanFolder = open_scan(path)
    printer.show(scanned(found, layer_rows(found)))
