"""The commands about texts: `pool`, `activations` and `verify`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bertprobe.cli import completion
from bertprobe.cli.model import resolve_model
from bertprobe.cli.options import Force, Format, Json, Layers, Root, Subfolder, Truncate, Weights, check_format
from bertprobe.errors import NotFound, OutputError, PartMissing, printable
from bertprobe.inputs import Input

if TYPE_CHECKING:
    from bertprobe.activations import Runner
    from bertprobe.anatomy import Anatomy
    from bertprobe.checkpoint import Checkpoint
    from bertprobe.report import Report
    from bertprobe.verdicts import Finding

Texts = Annotated[list[str] | None, typer.Argument(metavar="TEXT…", help="Texts to run.", show_default=False)]
VerifyTexts = Annotated[
    list[str] | None,
    typer.Argument(metavar="TEXT…", help="Texts to run; unless said, a few that come along.", show_default=False),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "-m",
        "--model",
        metavar="MODEL",
        autocompletion=completion.models,
        help="The checkpoint; $BERTPROBE_MODEL, else pocket.",
    ),
]
File = Annotated[str | None, typer.Option("--file", metavar="FILE", help="Texts, a line each; - is stdin.")]
Pair = Annotated[bool, typer.Option("--pair", help="Take the texts two by two, as sentence pairs.")]
Backend = Annotated[
    Literal["auto", "numpy", "torch", "onednn"],
    typer.Option("--backend", metavar="NAME", help="What computes: auto, numpy, torch or onednn."),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    typer.Option("--device", metavar="DEVICE", help="Where: auto, cpu, cuda or mps."),
]
ComputeDtype = Annotated[
    Literal["float32", "bfloat16", "float16"],
    typer.Option("--dtype", metavar="DTYPE", help="In which precision: float32, bfloat16 or float16."),
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, metavar="N", help="Processor threads; all there are unless said.")
]
Budget = Annotated[
    int | None,
    typer.Option(
        "--budget",
        min=1,
        metavar="N",
        help="Tokens in a batch, which bounds memory; unless said, what suits the device.",
    ),
]
FileOut = Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write the result to a file.")]

SHOWN = 4096  # texts whose numbers are shown; for more, -o writes them to a file
AHEAD = 2**20  # characters read before anything runs: what is to do decides on the array library
KEPT = 2**13  # characters of texts whose every token is shown; more of them are summed up as they stream


def pool(
    texts: Texts = None,
    model: ModelOption = None,
    subfolder: Subfolder = "",
    weights: Weights = "",
    root: Root = "",
    file: File = None,
    pair: Pair = False,
    vector: Annotated[
        Literal["pooled", "cls", "mean"],
        typer.Option(
            "--vector", metavar="VECTOR", help="Which vector is shown, or written by -o: pooled, cls or mean."
        ),
    ] = "pooled",
    top: Annotated[
        int, typer.Option("--top", min=0, metavar="K", help="How many of the strongest dimensions to show.")
    ] = 3,
    truncate: Truncate = False,
    output: FileOut = None,
    force: Force = False,
    backend: Backend = "auto",
    device: Device = "auto",
    dtype: ComputeDtype = "float32",
    threads: Threads = None,
    budget: Budget = None,
    format: Format = "table",
    json: Json = False,
) -> None:
    """Shows what the pooler puts out for texts, and how alike they are by three kinds of vector.

    With -o, writes one vector a text: .safetensors, .npy, .npz, .jsonl, .csv or .parquet.
    """
    from bertprobe import render
    from bertprobe.activations import Compute, open_runner, require_vector, text_vectors, why_not_finite
    from bertprobe.report.text import pooling

    check_format(format, json, None)
    checkpoint, anatomy = _open(model, subfolder, weights, root)
    require_vector(checkpoint, anatomy, vector)
    known, lines = _texts(texts, file, pair)
    runner = open_runner(checkpoint, anatomy, Compute(backend, device, dtype, threads, budget), known)
    findings = _about_the_pooler(checkpoint, anatomy)
    if output is not None:
        report = _write_vectors(runner, chain(known, lines), vector, output, force, truncate, pair, findings)
        render.show(report, "json" if json else format, whole=False)
        return
    known = [*known, *islice(lines, SHOWN + 1 - len(known))]
    if len(known) > SHOWN:
        raise OutputError(f"there are more than {SHOWN:,} texts", "write their vectors to a file with -o")
    found = [v for packed in runner.batches(known, truncate=truncate, pairs=pair) for v in text_vectors(runner, packed)]
    if not all(v.is_finite for v in found):
        findings = (*why_not_finite(runner), *findings)
    report = pooling(runner, _shown(known, pair), found, findings, top, vector)
    render.show(report, "json" if json else format)


def activations(
    texts: Texts = None,
    model: ModelOption = None,
    subfolder: Subfolder = "",
    weights: Weights = "",
    root: Root = "",
    file: File = None,
    pair: Pair = False,
    layers: Layers = None,
    top: Annotated[
        int, typer.Option("--top", min=0, metavar="K", help="How many neurons to show for each layer and token.")
    ] = 3,
    tokens: Annotated[bool, typer.Option("--tokens", help="Show each token's strongest neurons.")] = False,
    pre: Annotated[bool, typer.Option("--pre", help="Show values before the activation.")] = False,
    truncate: Truncate = False,
    output: FileOut = None,
    force: Force = False,
    backend: Backend = "auto",
    device: Device = "auto",
    dtype: ComputeDtype = "float32",
    threads: Threads = None,
    budget: Budget = None,
    format: Format = "table",
    json: Json = False,
) -> None:
    """Shows what each layer's intermediate module puts out for texts: statistics, top neurons, a map of the tokens.

    With -o, writes the whole matrices, (tokens, neurons) a layer, with the tokens: .safetensors or .npz.
    """
    from bertprobe import render
    from bertprobe.activations import Compute, Watch, open_runner, why_not_finite
    from bertprobe.anatomy import select
    from bertprobe.export.matrices import write_matrices
    from bertprobe.report.text import activation

    check_format(format, json, None)
    checkpoint, anatomy = _open(model, subfolder, weights, root)
    parts = select(anatomy, ["intermediate"], layers)
    if not parts:
        raise PartMissing("there is no intermediate module", "look at what there is with: bertprobe inspect --shapes")
    depth = max((part.layer or 0) + 1 for part in parts)
    known, lines = _texts(texts, file, pair)
    typed = bool(texts) and file is None
    few = typed or (len(known) < SHOWN and sum(map(len, known)) <= KEPT)  # then there are no more to come, either
    if tokens and not few:
        raise typer.BadParameter("--tokens is for few texts: of so many, write the whole matrices with -o")
    compute = Compute(backend, device, dtype, threads, budget)
    runner = open_runner(checkpoint, anatomy, compute, known, depth=depth, pooler=False)
    keep = few or output is not None
    seen = Watch(runner.engine.backend, {part.label for part in parts}, keep, pre)
    pieces: list[tuple[str, ...]] = []
    order: list[int] = []
    for packed in runner.batches(chain(known, lines), truncate=truncate, pairs=pair):
        runner.engine.states(packed, seen)
        if keep:
            pieces += packed.tokens
            order += packed.order.tolist()
    seen = seen.in_order([len(text) for text in pieces], order)
    pieces = [pieces[i] for i in sorted(range(len(order)), key=order.__getitem__)]
    if output is not None:
        write_matrices(runner, seen, pieces, output, force)
    findings = () if seen.is_finite else why_not_finite(runner)
    render.show(activation(runner, seen, pieces, findings, top, each=tokens), "json" if json else format)


def verify(
    texts: VerifyTexts = None,
    model: ModelOption = None,
    subfolder: Subfolder = "",
    weights: Weights = "",
    root: Root = "",
    format: Format = "table",
    json: Json = False,
) -> None:
    """Proves that these are the model's numbers: the same tokens through transformers, compared part by part.

    Exit code 3 when a difference exceeds max(1e-5 · max(1, max|x|), 4 × transformers' own float32 error).
    """
    from bertprobe import render
    from bertprobe.report.text import verification
    from bertprobe.verify import TEXTS
    from bertprobe.verify import verify as compare

    check_format(format, json, None)
    if format == "github":
        raise typer.BadParameter("--format github writes findings, and verify has none: its exit code tells")
    checkpoint, anatomy = _open(model, subfolder, weights, root)
    chosen = list(texts or TEXTS)
    report = verification(checkpoint, anatomy, compare(checkpoint, anatomy, chosen), chosen)
    render.show(report, "json" if json else format)
    if not report.data["holds"]:
        raise typer.Exit(3)


def _open(model: str | None, subfolder: str, weights: str, root: str) -> tuple[Checkpoint, Anatomy]:
    """The checkpoint on this disk: a forward pass needs nearly all of it, and the tokenizer too."""
    from bertprobe.anatomy import find_parts
    from bertprobe.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(resolve_model(model), subfolder=subfolder, weights=weights, root=root, download=True)
    return checkpoint, find_parts(checkpoint)


def _texts(texts: list[str] | None, file: str | None, pair: bool) -> tuple[list[str], Iterator[str]]:
    """The texts that are known, typed or read ahead, and those still to come; stdin when nothing is named."""
    known = list(texts or ())
    if file is None and not known and not sys.stdin.isatty():
        file = "-"
    lines = iter(()) if file is None else lines_of(file)
    characters = sum(map(len, known))
    while len(known) < SHOWN and characters < AHEAD and (line := next(lines, None)) is not None:
        known.append(line)
        characters += len(line)
    if not known:
        raise NotFound("there is no text", "write one, or name a file of texts with --file")
    if pair and file is None and len(known) % 2:
        raise typer.BadParameter(f"--pair takes texts two by two, there are {len(known)}")
    return known, lines


def lines_of(file: str) -> Iterator[str]:
    """The lines of a file of texts, which nothing may be written over from now on."""
    Input(Path("/dev/stdin" if file == "-" else file))
    return _lines(file)


def _lines(file: str) -> Iterator[str]:
    try:
        # What is not UTF-8 must not stop a corpus: the odd bytes become U+FFFD.
        with open(
            sys.stdin.fileno() if file == "-" else file, encoding="utf-8", errors="replace", closefd=file != "-"
        ) as lines:
            for line in lines:
                yield line.rstrip("\r\n")
    except OSError as error:
        raise NotFound(f"{printable(file)} cannot be read ({error.strerror})", "check the path") from error


def _shown(known: Sequence[str], pair: bool) -> list[str]:
    return [" / ".join(known[i : i + 2]) for i in range(0, len(known), 2)] if pair else list(known)


def _about_the_pooler(checkpoint: Checkpoint, anatomy: Anatomy) -> tuple[Finding, ...]:
    """Findings on the pooler, which decide whether its numbers mean anything."""
    from bertprobe.anatomy import select
    from bertprobe.measurement import measure_parts
    from bertprobe.verdicts import Evidence, judge

    numbers = measure_parts(select(anatomy, ["pooler"]))
    return tuple(f for f in judge(Evidence(checkpoint, anatomy, numbers)) if f.part == "pooler")


def _write_vectors(
    runner: Runner,
    texts: Iterator[str],
    vector: str,
    output: Path,
    force: bool,
    truncate: bool,
    pair: bool,
    findings: Sequence[Finding],
) -> Report:
    from bertprobe.activations import why_not_finite
    from bertprobe.export import Output
    from bertprobe.export.vectors import VectorFile
    from bertprobe.report.text import vectors_written

    metadata = {"format": "pt", "source": runner.checkpoint.ref, "vector": vector}
    with VectorFile(Output(output, force=force), vector, metadata) as vectors:
        for packed in runner.batches(texts, truncate=truncate, pairs=pair):
            vectors.add(packed.order, runner.engine.vectors(packed, vector))
    if not vectors.is_finite:
        findings = (*why_not_finite(runner), *findings)
    return vectors_written(runner, vectors, findings)
