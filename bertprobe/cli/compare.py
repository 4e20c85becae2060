"""The commands about two checkpoints: `diff` and `graft`."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bertprobe.cli.options import Download, Format, Json, Layers, Printer, Seen
from bertprobe.cli.text import File, lines_of
from bertprobe.cli.weights import limit_blas_threads
from bertprobe.errors import OutputError

if TYPE_CHECKING:
    from bertprobe.compare import Comparison, Side

MOST_TEXTS = 4096  # of which each has a row
WHERE = "as for inspect; owner/name/folder or FOLDER/sub chooses a folder, a path to a file a weights file"


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help=f"The checkpoint that B is compared with: {WHERE}.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other checkpoint, often A after training.")],
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT…", help="Texts to run through both.", show_default=False)
    ] = None,
    file: File = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer",
            metavar="PATH",
            help="Take the tokenizer of both from this folder or file, not from beside the weights.",
            show_default=False,
        ),
    ] = None,
    part: Annotated[
        list[Seen] | None, typer.Option("--part", help="Compare only this part, gates included; may be repeated.")
    ] = None,
    layers: Layers = None,
    shapes: Annotated[bool, typer.Option("--shapes", help="Compare headers only; read no tensor data.")] = False,
    neurons: Annotated[
        int, typer.Option("--neurons", metavar="N", min=0, help="Name the N neurons of each part that changed most.")
    ] = 3,
    tolerance: Annotated[
        float,
        typer.Option(
            "--tolerance", metavar="SHARE", min=0, help="Accept a change of ‖Δ‖/‖A‖ up to this in each tensor."
        ),
    ] = 0.0,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 3 if a tensor differs beyond --tolerance, or only one has it.")
    ] = False,
    table: Annotated[str | None, typer.Option("--table", help="Show only this table, for example in CSV.")] = None,
    download: Download = False,
    format: Format = "table",
    json: Json = False,
) -> None:
    """Shows in what two checkpoints differ: part by part, tensor by tensor, and what that does to texts.

    Storages, dtypes, prefixes and spellings do not matter: a TensorFlow checkpoint compares with a safetensors file.
    """
    from bertprobe.anatomy import select
    from bertprobe.compare import pair_up, require_common
    from bertprobe.report.comparison import comparison

    printer = Printer.of(format, json, table)
    if layers is not None and part == [Seen.pooler]:
        raise typer.BadParameter("--layers chooses among intermediate modules: the pooler has none")
    if shapes and (texts or file):
        raise typer.BadParameter("--shapes reads no numbers: leave it out to run texts")
    if tokenizer is not None and not (texts or file):
        raise typer.BadParameter("--tokenizer is for texts: add one behind B, or a file of them with --file")
    lines = [*(texts or ()), *([] if file is None else islice(lines_of(file), MOST_TEXTS + 1))]
    if len(lines) > MOST_TEXTS:
        raise OutputError(f"there are more than {MOST_TEXTS:,} texts", "take some of them")
    if not lines:
        limit_blas_threads()
    one, other = (_side(ref, download or bool(lines), tokenizer) for ref in (a, b))
    parts = select(one.anatomy, part or (), layers) if part or layers is not None else None
    found = pair_up(one, other, parts)
    require_common(found)
    if not shapes:
        found = _measured(found, lines, neurons)
    report = comparison(found, tolerance, whole=not shapes)
    printer.show(report)
    if strict and not report.data["summary"]["within"]:
        beyond = len(report.data["summary"]["beyond"])
        typer.echo(
            f"bertprobe: {beyond:,} tensors differ by more than --tolerance {tolerance:g}, or are in one only", err=True
        )
        raise typer.Exit(3)


def _side(ref: str, download: bool, tokenizer: str | None = None) -> Side:
    from bertprobe.anatomy import find_parts
    from bertprobe.checkpoint import open_checkpoint
    from bertprobe.compare import side

    checkpoint = open_checkpoint(ref, download=download, tokenizer=tokenizer)
    return side(checkpoint, find_parts(checkpoint))


def _measured(found: Comparison, texts: list[str], neurons: int) -> Comparison:
    from bertprobe.compare import bytes_to_compare, compare
    from bertprobe.render.progress import progress

    moved = None
    if texts:
        from bertprobe.compare.texts import compare_texts

        moved = compare_texts(found.a, found.b, texts)
    with progress(bytes_to_compare(found.pairs), "reading weights") as advance:
        return compare(found, neurons=neurons, progress=advance, moved=moved)


def graft(
    donor: Annotated[
        str, typer.Argument(metavar="DONOR", help="The checkpoint that has the part; only that part is read.")
    ],
    recipient: Annotated[str, typer.Argument(metavar="RECIPIENT", help="The checkpoint that gets the part.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="The folder to write.", show_default=False)
    ],
    part: Annotated[Literal["pooler", "intermediate"], typer.Option("--part", help="Which part to graft.")] = "pooler",
    layers: Layers = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the recipient's own pooler.")] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Overwrite the files in DIR, if it holds no others; graft a pooler of no use, too.",
        ),
    ] = False,
    format: Format = "table",
    json: Json = False,
) -> None:
    """Puts the original pooler back into a checkpoint that lost it, and writes a folder that transformers loads.

    Weights, config and tokenizer are the recipient's; only the part is the donor's, in the recipient's dtype.
    """
    from bertprobe.export.graft import Graft
    from bertprobe.export.graft import graft as write
    from bertprobe.report.comparison import grafting

    printer = Printer.of(format, json)
    if layers is not None and part == "pooler":
        raise typer.BadParameter("--layers chooses among intermediate modules: add --part intermediate")
    limit_blas_threads()
    done = write(_side(donor, False), _side(recipient, True), Graft(output, part, layers, replace, force))
    printer.show(grafting(done))
