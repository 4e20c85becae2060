"""Options that commands share, declared once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bertprobe import render
from bertprobe.cli import completion
from bertprobe.storages import endings

if TYPE_CHECKING:
    from bertprobe.anatomy import Anatomy
    from bertprobe.checkpoint import Checkpoint
    from bertprobe.report import Report
    from bertprobe.run import Ablation
    from bertprobe.sharded import Actors

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
    typer.Option("--root", metavar="KEY", help="The model to read if a file holds several.", show_default=False),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        metavar="PATH",
        help="Take the tokenizer from this folder or file, not from beside the weights.",
        show_default=False,
    ),
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
        help="Select layers such as 0,3-5,-1; -1 is the last.",
    ),
]
Table = Annotated[
    str | None,
    typer.Option(
        "--table", metavar="NAME", autocompletion=completion.tables, help="Show only this table, for example in CSV."
    ),
]
Prompt = Annotated[
    str | None,
    typer.Option(
        "--prompt",
        metavar="NAME|TEXT",
        help="Put the model's prompt of this name, or this text, before each text; with --vector sentence.",
    ),
]
Ablate = Annotated[
    str | None,
    typer.Option(
        "--ablate",
        metavar="NEURONS",
        help="Take neurons out: set to 0 what they put out, such as 3.1203,7:0-100 (layer 3, neuron 1203; layer 7, "
        "neurons 0 to 100).",
        show_default=False,
    ),
]
Means = Annotated[
    str | None,
    typer.Option(
        "--means",
        metavar="DIR",
        help="With --ablate: put each neuron's mean over this scan in its place, instead of 0.",
        show_default=False,
    ),
]
Truncate = Annotated[bool, typer.Option("--truncate", help="Cut texts that are too long instead of refusing them.")]
CorpusArgument = Annotated[
    list[str],
    typer.Argument(metavar="CORPUS…", help="Files of texts, or patterns such as 'texts/*.jsonl'; - is stdin."),
]
Field = Annotated[str, typer.Option("--field", metavar="NAME", help="Take texts from this field of a row.")]
IdField = Annotated[
    str | None,
    typer.Option("--id-field", metavar="NAME", help="Take a text's id from this field of a row.", show_default=False),
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Skip and count rows that cannot be read instead of stopping at them.")
]
ShardOfPlan = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Compute part I of N of the corpus only, such as 2/8, which merge puts together.",
        show_default=False,
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Have actors of Ray compute: local (a cluster on this machine), auto (the one that is there), host:port "
        "or ray://host:port.",
        show_default=False,
    ),
]
ActorsOfRay = Annotated[
    int | None,
    typer.Option(
        "--actors",
        min=1,
        metavar="N",
        help="With --ray: N actors, of --threads each, 1 by default; as many as there is room for by default.",
        show_default=False,
    ),
]
GpusPerActor = Annotated[
    float,
    typer.Option(
        "--gpus-per-actor",
        min=0,
        metavar="X",
        help="With --ray: give each actor X GPUs, such as 1 or 0.5, to compute on.",
        show_default=False,
    ),
]
NoVerify = Annotated[bool, typer.Option("--no-verify", help="Do not compare some texts with transformers first.")]
ShardText = Annotated[
    int | None,
    typer.Option(
        "--shard-text",
        min=1,
        metavar="BYTES",
        help="Cut the corpus into shards of so much text; by default 4 MiB, or less where that comes to over 1 GiB.",
        show_default=False,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no plan, no progress and no summary of the run.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite FILE if it exists.")]


class Seen(StrEnum):
    """The parts `inspect` can be held to; typer takes no list of literals."""

    intermediate = "intermediate"
    pooler = "pooler"


class Exported(StrEnum):
    """What `export` can write."""

    intermediate = "intermediate"
    pooler = "pooler"
    model = "model"


def actors_of(ray: str | None, count: int | None, gpus: float) -> Actors | None:
    """Who computes, None for this process; raises `typer.BadParameter` for options of actors where there are none."""
    from bertprobe.sharded import Actors

    if ray is None and (count is not None or gpus):
        raise typer.BadParameter("--actors and --gpus-per-actor go with --ray, such as --ray local")
    return None if ray is None else Actors(ray, count, gpus)


def ablation_in(ablate: str | None, means: str | None, checkpoint: Checkpoint, anatomy: Anatomy) -> Ablation | None:
    """The neurons to take out, None where nothing is; raises `typer.BadParameter` for means of no neurons."""
    if ablate is None and means is not None:
        raise typer.BadParameter("--means goes with --ablate, such as --ablate 3.1203")
    if ablate is None:
        return None
    from bertprobe.neurons.ablation import ablation_from

    return ablation_from(ablate, checkpoint, anatomy, means)


def _named(rows: Sequence[render.Format]) -> str:
    """The formats in a phrase: `table, json, csv, markdown or github (findings as annotations of a run)`."""
    *most, last = (f"{row.name} ({row.hint})" if row.hint else row.name for row in rows)
    return f"{', '.join(most)} or {last}"


_TABLES = [row for row in render.FORMATS.values() if not row.findings_only]
_WORDS = [row for row in render.FORMATS.values() if row.words]
if TYPE_CHECKING:
    AnyName = str
    TableName = str
    WordsName = str
else:  # typer makes the choices of a Literal, which the rows fill
    AnyName, TableName, WordsName = (
        Literal[tuple(row.name for row in rows)] for rows in (render.FORMATS.values(), _TABLES, _WORDS)
    )
Format = Annotated[
    AnyName, typer.Option("--format", metavar="FORMAT", help=f"{_named(list(render.FORMATS.values()))}.")
]
TableFormat = Annotated[TableName, typer.Option("--format", metavar="FORMAT", help=f"{_named(_TABLES)}.")]
WordsFormat = Annotated[WordsName, typer.Option("--format", metavar="FORMAT", help=f"{_named(_WORDS)}.")]
Json = Annotated[bool, typer.Option("--json", help="Short for --format json.")]


@dataclass(frozen=True, slots=True)
class Printer:
    """How a command's report is printed: what --format, --json and --table say, checked before any work is done."""

    format: str
    table: str | None = None

    @classmethod
    def of(cls, format: str, json: bool, table: str | None = None) -> Printer:
        """Raises `typer.BadParameter` for options that contradict each other."""
        if json and format not in ("table", "json"):
            raise typer.BadParameter(f"--json and --format {format} contradict each other: choose one")
        chosen = render.FORMATS["json" if json else format]
        if table is not None and chosen.no_table:
            takers = [row for row in render.FORMATS.values() if not row.no_table]
            raise typer.BadParameter(f"--table goes with --format {_named(takers)}: {chosen.no_table}")
        return cls(chosen.name, table)

    def show(self, report: Report, *, whole: bool = True) -> None:
        """Prints a report; one that is not `whole` leaves out the facts where people read."""
        render.show(report, self.format, self.table, whole=whole)
