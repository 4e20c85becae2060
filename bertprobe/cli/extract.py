"""The command `extract`: a corpus to a folder of activations."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bertprobe.cli.options import (
    ActorsOfRay,
    CorpusArgument,
    Field,
    Format,
    GpusPerActor,
    IdField,
    Json,
    Layers,
    NoVerify,
    Printer,
    Prompt,
    Quiet,
    Ray,
    Root,
    ShardOfPlan,
    ShardText,
    SkipBad,
    Subfolder,
    Tokenizer,
    Truncate,
    Weights,
    actors_of,
)
from bertprobe.cli.text import Backend, BatchTokens, Device, ModelOption, Threads, open_here

if TYPE_CHECKING:
    from bertprobe.extract import Job
    from bertprobe.verdicts import Finding


class KeptPart(StrEnum):
    """The parts whose values can be kept; typer takes no list of literals."""

    pooler = "pooler"
    intermediate = "intermediate"


class KeptVector(StrEnum):
    """The vectors of a text that can be kept."""

    cls = "cls"
    mean = "mean"
    sentence = "sentence"


def extract(
    corpus: CorpusArgument,
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            metavar="DIR",
            help="The folder to write: new, empty, or that of the same command, which is then gone on with; or an "
            "address that fsspec knows, such as s3://bucket/folder.",
            show_default=False,
        ),
    ],
    model: ModelOption = None,
    subfolder: Subfolder = "",
    weights: Weights = "",
    root: Root = "",
    tokenizer: Tokenizer = None,
    field: Field = "text",
    id_field: IdField = None,
    skip_bad: SkipBad = False,
    part: Annotated[
        list[KeptPart] | None,
        typer.Option(
            "--part",
            metavar="PART",
            help="Keep what pooler or intermediate puts out; may be repeated. The pooler by default.",
        ),
    ] = None,
    vector: Annotated[
        list[KeptVector] | None,
        typer.Option(
            "--vector",
            metavar="VECTOR",
            help="Keep this vector of each text: cls, mean, or sentence, which the model's recipe makes; "
            "may be repeated.",
        ),
    ] = None,
    prompt: Prompt = None,
    layers: Layers = None,
    neurons: Annotated[
        str | None,
        typer.Option(
            "--neurons", metavar="LIST", help="Keep these neurons only, layer by layer, such as 3:0-511,7:1203."
        ),
    ] = None,
    tokens: Annotated[
        Literal["all", "first", "mean", "max"],
        typer.Option(
            "--tokens",
            metavar="ROWS",
            help="Keep intermediate values of all tokens, or a row a text: first, mean or max.",
        ),
    ] = "all",
    top: Annotated[
        int,
        typer.Option("--top", min=0, metavar="K", help="Keep the K strongest neurons of a row only; 0 keeps all."),
    ] = 0,
    pre: Annotated[bool, typer.Option("--pre", help="Keep intermediate values before the activation.")] = False,
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"],
        typer.Option("--dtype", metavar="DTYPE", help="Write float32, float16 or bfloat16."),
    ] = "float32",
    order: Annotated[
        Literal["corpus", "neurons"],
        typer.Option(
            "--order",
            metavar="ORDER",
            help="Write in the order of the corpus, or with neurons a copy beside it as well, neuron by neuron.",
        ),
    ] = "corpus",
    truncate: Truncate = False,
    shard_text: ShardText = None,
    no_verify: NoVerify = False,
    shard: ShardOfPlan = None,
    ray: Ray = None,
    actors: ActorsOfRay = None,
    gpus_per_actor: GpusPerActor = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")] = False,
    quiet: Quiet = False,
    backend: Backend = "auto",
    device: Device = "auto",
    compute_dtype: Annotated[
        Literal["float32", "bfloat16", "float16"],
        typer.Option("--compute-dtype", metavar="DTYPE", help="Compute in float32, bfloat16 or float16."),
    ] = "float32",
    threads: Threads = None,
    batch_tokens: BatchTokens = None,
    format: Format = "table",
    json: Json = False,
) -> None:
    """Writes what the modules put out for a corpus to a folder of shards, which an interrupted run goes on with.

    CORPUS are files: .txt (a text a line), .jsonl, .csv, .tsv or .parquet, also .gz and .zst; - is stdin.
    """
    from bertprobe.corpus import open_corpus
    from bertprobe.extract import Options, Wish, prepare
    from bertprobe.notices import say
    from bertprobe.render.progress import progress, progress_of_texts
    from bertprobe.report.extract import done_line, extraction, plan_line
    from bertprobe.run import Compute
    from bertprobe.run.sentence import sentence_of
    from bertprobe.sharded import WHOLE, Part

    printer = Printer.of(format, json)
    wish = Wish(tuple(part or ()), tuple(vector or ()), layers, neurons, tokens, top, dtype, prompt, pre).checked()
    checkpoint, anatomy = open_here(model, subfolder, weights, root, tokenizer)
    texts = open_corpus(corpus, field=field, id_field=id_field, skip_bad=skip_bad)
    compute = Compute(backend, device, compute_dtype, threads, batch_tokens)
    part_of_plan = WHOLE if shard is None else Part.parsed(shard)
    by = actors_of(ray, actors, gpus_per_actor)
    options = Options(compute, truncate, shard_text, not no_verify, part_of_plan, order, by)
    sentence = sentence_of(checkpoint, prompt) if "sentence" in wish.vectors else None
    job = prepare(checkpoint, anatomy, texts, output, wish, options, sentence)
    if dry_run:
        printer.show(extraction(job), whole=False)
        return
    if not quiet:
        say(plan_line(job))
    job.check_room()
    expected = None if job.expected is None else max(job.expected.tokens - job.manifest["tokens"], 1)
    with progress_of_texts(expected, "extracting", quiet=quiet) as advance:
        outcome = job.run(advance)
    with progress(job.needed or 0, "turning", quiet=quiet) as turned:
        job.turn(turned)
    if outcome.documents and not quiet:
        say(done_line(outcome))
    printer.show(extraction(job, outcome, _findings(job)), whole=False)


def merge(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR…", help="The folders of all parts, in any order.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Write into this new folder.", show_default=False)
    ],
    format: Format = "table",
    json: Json = False,
) -> None:
    """Puts the parts of a run together, which extract --shard wrote, as if it had been one run.

    Files are linked where all lie on one disk, else copied. Scans of neurons are put together by neurons merge.
    """
    from bertprobe.extract import merge_parts, open_activations
    from bertprobe.report.extract import merged

    printer = Printer.of(format, json)
    whole = merge_parts([open_activations(folder) for folder in folders], output)
    printer.show(merged(whole, folders), whole=False)


def _findings(job: Job) -> tuple[Finding, ...]:
    """What has to be known of the numbers: why some are none, and whether what the pooler puts out means anything."""
    from bertprobe.measurement import judge_part

    pooler = judge_part(job.checkpoint, job.anatomy, "pooler") if "pooler" in job.names else ()
    return (*job.why_not_finite(), *pooler)
