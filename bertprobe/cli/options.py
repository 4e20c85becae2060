"""Options that commands share, declared once."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import typer

from bertprobe.cli import completion
from bertprobe.storages import endings

Model = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        autocompletion=completion.models,
        help=f"A folder, a weights file ({', '.join(endings())}), a model on the Hub "
        "(owner/name, owner/name@revision, hf:// or its page) or pocket, the built-in model; $BERTPROBE_MODEL, else "
        "pocket.",
        show_default=False,
    ),
]
Subfolder = Annotated[str, typer.Option("--subfolder", metavar="PATH", help="A folder in MODEL.", show_default=False)]
Weights = Annotated[
    str, typer.Option("--weights", metavar="NAME", help="The weights file in MODEL to read.", show_default=False)
]
Root = Annotated[
    str,
    typer.Option("--root", metavar="KEY", help="The model to read, where a file holds several.", show_default=False),
]
Download = Annotated[
    bool, typer.Option("--download", help="Fetch a model on the Hub whole, into its cache, and read it there.")
]
Layers = Annotated[
    str | None,
    typer.Option(
        "--layers",
        metavar="LIST",
        autocompletion=completion.layers,
        help="Layers such as 0,3-5,-1; -1 is the last.",
    ),
]
Table = Annotated[
    str | None,
    typer.Option(
        "--table", metavar="NAME", autocompletion=completion.tables, help="Only this table, for example in CSV."
    ),
]
Truncate = Annotated[bool, typer.Option("--truncate", help="Cut texts that are too long instead of refusing them.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite FILE if it is there.")]


class Seen(StrEnum):
    """The parts `inspect` can be held to; typer takes no list of literals."""

    intermediate = "intermediate"
    pooler = "pooler"


class Exported(StrEnum):
    """What `export` can write."""

    intermediate = "intermediate"
    pooler = "pooler"
    model = "model"


Formats = Literal["table", "json", "csv", "markdown", "github"]
Format = Annotated[
    Formats,
    typer.Option(
        "--format", metavar="FORMAT", help="table, json, csv, markdown, or github: findings as annotations of a run."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Short for --format json.")]


def check_format(format: Formats, json: bool, table: str | None) -> None:
    if json and format not in ("table", "json"):
        raise typer.BadParameter(f"--json and --format {format} contradict each other: choose one")
    if table is not None and (json or format == "json"):
        raise typer.BadParameter("--table goes with --format table, csv or markdown: JSON holds everything")
    if table is not None and format == "github":
        raise typer.BadParameter("--table goes with --format table, csv or markdown: github takes the findings")
