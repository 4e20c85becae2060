"""The command line: each command parses, calls and renders; `main` turns errors into one line and an exit code."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

import bertprobe
from bertprobe.errors import BertprobeError, printable

app = typer.Typer(
    name="bertprobe",
    help="Shows what is in the intermediate and pooler modules of a BERT checkpoint, and exports them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 fine, 1 an error told on stderr, 2 wrong usage, 3 findings under --strict.",
)

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A folder, a weights file (.safetensors, .bin, .pt, .pth, .index.json) or a model in the local Hub cache.",
        show_default=False,
    ),
]
Layers = Annotated[
    str | None, typer.Option("--layers", metavar="LIST", help="Layers such as 0,3-5,-1; -1 is the last.")
]


class Seen(StrEnum):
    """The parts `inspect` can be held to; typer takes no list of literals."""

    intermediate = "intermediate"
    pooler = "pooler"


class Exported(StrEnum):
    """What `export` can write."""

    intermediate = "intermediate"
    pooler = "pooler"
    model = "model"


Formats = Literal["table", "json", "csv", "markdown"]
Format = Annotated[Formats, typer.Option("--format", help="How to write the result.")]
Json = Annotated[bool, typer.Option("--json", help="Short for --format json.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bertprobe {bertprobe.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    pass


@app.command()
def inspect(
    model: Model,
    part: Annotated[
        list[Seen] | None, typer.Option("--part", help="Only this part, gates included; may be repeated.")
    ] = None,
    layers: Layers = None,
    shapes: Annotated[bool, typer.Option("--shapes", help="Read headers only, no tensor data.")] = False,
    spectrum: Annotated[bool, typer.Option("--spectrum", help="Add ranks, spikes, α and condition number.")] = False,
    neurons: Annotated[int, typer.Option("--neurons", metavar="N", min=0, help="Show N neurons of each kind.")] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 on a warning or an error.")] = False,
    table: Annotated[str | None, typer.Option("--table", help="Only this table, for example in CSV.")] = None,
    format: Format = "table",
    json: Json = False,
) -> None:
    """Shows shapes, weight statistics and findings of the intermediate and pooler modules.

    No model is built and nothing in a file is executed: the tensors wanted are read from the files, and only those.
    """
    from bertprobe import render
    from bertprobe.anatomy import find_parts, select
    from bertprobe.checkpoint import open_checkpoint
    from bertprobe.render.progress import progress
    from bertprobe.report import bytes_to_measure, inspection, take_numbers
    from bertprobe.verdicts import Evidence, judge

    _check_format(format, json, table)
    if layers is not None and part == [Seen.pooler]:
        raise typer.BadParameter("--layers chooses among intermediate modules: the pooler has none")
    if shapes and (spectrum or neurons):
        raise typer.BadParameter("--shapes reads no numbers: leave it out for --spectrum or --neurons")
    checkpoint = open_checkpoint(model)
    anatomy = find_parts(checkpoint)
    parts = select(anatomy, part or (), layers)
    numbers = {}
    if not shapes:
        _one_thread_per_product()
        with progress(bytes_to_measure(parts), "reading weights") as advance:
            numbers = take_numbers(parts, spectrum=spectrum, progress=advance)
    evidence = Evidence(checkpoint, anatomy, numbers)
    report = inspection(evidence, parts, judge(evidence), neurons=neurons)
    render.show(report, "json" if json else format, table)
    if strict and report.is_alarming:
        raise typer.Exit(3)


@app.command()
def export(
    model: Model,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="Where to: .safetensors or .npz.", show_default=False)
    ],
    part: Annotated[
        list[Exported] | None,
        typer.Option("--part", help="What to write; may be repeated. The pooler unless said."),
    ] = None,
    layers: Layers = None,
    dtype: Annotated[
        Literal["keep", "float32", "float16", "bfloat16"], typer.Option("--dtype", help="Cast floating-point tensors.")
    ] = "keep",
    names: Annotated[
        Literal["canonical", "stored"], typer.Option("--names", help="transformers' names, or the file's.")
    ] = "canonical",
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE if it is there.")] = False,
    format: Format = "table",
    json: Json = False,
) -> None:
    """Writes the pooler, intermediate modules or the whole model to a file of its own."""
    from bertprobe import render
    from bertprobe.anatomy import find_parts, select
    from bertprobe.checkpoint import open_checkpoint
    from bertprobe.export import Output, require_pooler
    from bertprobe.export import export as write
    from bertprobe.report import exportation, take_numbers
    from bertprobe.verdicts import Evidence, about, judge

    _check_format(format, json, None)
    wanted = part or [Exported.pooler]
    if layers is not None and "intermediate" not in wanted:
        raise typer.BadParameter("--layers chooses among intermediate modules: add --part intermediate")
    checkpoint = open_checkpoint(model)
    anatomy = find_parts(checkpoint)
    if "pooler" in wanted and "model" not in wanted:
        require_pooler(checkpoint, anatomy)
    parts = None if "model" in wanted else select(anatomy, wanted, layers)
    written = write(checkpoint, anatomy, parts, Output(output, dtype, names, force))
    _one_thread_per_product()
    evidence = Evidence(checkpoint, anatomy, take_numbers(parts or ()))
    findings = about(judge(evidence), parts)
    render.show(exportation(checkpoint, anatomy, written, findings), "json" if json else format, whole=False)


def _check_format(format: Formats, json: bool, table: str | None) -> None:
    if json and format not in ("table", "json"):
        raise typer.BadParameter(f"--json and --format {format} cannot both be had")
    if table is not None and (json or format == "json"):
        raise typer.BadParameter("--table goes with --format table, csv or markdown: JSON holds everything")


def _one_thread_per_product() -> None:
    """Tensors are measured side by side; a BLAS that also split each product would only make them wait."""
    if "numpy" not in sys.modules:
        for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
            os.environ.setdefault(name, "1")


# What only stdout can fail with: each file that is read or written has errors of its own.
_STDOUT_FAILS = {errno.EPIPE, errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command and ends the process: 0 fine, 1 an error, 2 wrong usage, 3 findings under --strict."""
    words = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for a terminal or pipe without × and →
    try:
        try:
            app(args=words)
        finally:
            sys.stdout.flush()  # when Python ends it would be too late to say what went wrong
    except BertprobeError as error:
        _tell(f"bertprobe: {error}")
        sys.exit(1)
    except SystemExit as end:
        if end.code == 2:
            _hint(words)
        raise
    except OSError as error:
        if error.errno not in _STDOUT_FAILS:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries again when it ends
        if error.errno != errno.EPIPE:  # a reader such as `head` that has seen enough is no error
            _tell(f"bertprobe: the result cannot be written to stdout ({error.strerror}); make room or write elsewhere")
        sys.exit(1)


def _hint(words: Sequence[str]) -> None:
    """Tells how to write a text or path that starts with a dash, if one may have been taken for an option."""
    odd = [word for word in words if _starts_with_a_dash(word)]
    if odd and "--" not in words:
        _tell(f"hint: what starts with '-' is taken for an option; write: bertprobe {words[0]} -- {odd[0]}")


def _starts_with_a_dash(word: str) -> bool:
    """Whether a word looks like a name or text rather than an option: -model, or anything that exists or has blanks."""
    named = word.startswith("-") and len(word) > 2 and not (word.startswith("--") or word[1].isdigit())
    return named or (word.startswith("-") and (" " in word or os.path.lexists(word)))


def _tell(message: str) -> None:
    sys.stderr.write(printable(message) + "\n")
