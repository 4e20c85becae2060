"""The commands about texts: `pool`, `activations` and `verify`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bertprobe.cli import completion
from bertprobe.cli.model import check_no_model, resolve_model
from bertprobe.cli.options import (
    Ablate,
    Force,
    Format,
    Json,
    Layers,
    Means,
    Printer,
    Prompt,
    Root,
    Subfolder,
    TableFormat,
    Tokenizer,
    Truncate,
    Weights,
    ablation_in,
)
from bertprobe.errors import NotFound, PartMissing, printable
from bertprobe.inputs import Input

if TYPE_CHECKING:
    from bertprobe.anatomy import Anatomy
    from bertprobe.checkpoint import Checkpoint
    from bertprobe.report import Report
    from bertprobe.run import Ablation, AllVectors, Collector, Ran, Runner
    from bertprobe.run.sentence import Sentence, SentenceVectors
    from bertprobe.tokens import Tokenizer as TextTokenizer
    from bertprobe.verdicts import Finding

Texts = Annotated[list[str] | None, typer.Argument(metavar="TEXT…", help="Texts to run.", show_default=False)]
VerifyTexts = Annotated[
    list[str] | None,
    typer.Argument(metavar="TEXT…", help="Texts to run; a few built-in ones by default.", show_default=False),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "-m",
        "--model",
        metavar="MODEL",
        autocompletion=completion.models,
        help="The checkpoint; $BERTPROBE_MODEL or pocket by default.",
    ),
]
File = Annotated[
    str | None, typer.Option("--file", metavar="FILE", help="Read texts from FILE, one a line; - is stdin.")
]
Pair = Annotated[bool, typer.Option("--pair", help="Read the texts as sentence pairs, two by two.")]
Backend = Annotated[
    Literal["auto", "numpy", "torch"],
    typer.Option("--backend", metavar="NAME", help="Compute with auto, numpy or torch."),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    typer.Option("--device", metavar="DEVICE", help="Compute on auto, cpu, cuda or mps."),
]
ComputeDtype = Annotated[
    Literal["float32", "bfloat16", "float16"],
    typer.Option("--dtype", metavar="DTYPE", help="Compute in float32, bfloat16 or float16."),
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, metavar="N", help="Use N processor threads; all by default.")
]
BatchTokens = Annotated[
    int | None,
    typer.Option(
        "--batch-tokens",
        min=1,
        metavar="N",
        help="Put up to N tokens in a batch, which bounds memory; by default what suits the device.",
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
    tokenizer: Tokenizer = None,
    file: File = None,
    pair: Pair = False,
    vector: Annotated[
        Literal["pooled", "cls", "mean", "sentence"],
        typer.Option(
            "--vector",
            metavar="VECTOR",
            help="Show, or write with -o, this vector: pooled, cls, mean, or sentence, which the model's recipe makes.",
        ),
    ] = "pooled",
    prompt: Prompt = None,
    top: Annotated[int, typer.Option("--top", min=0, metavar="K", help="Show the K strongest dimensions.")] = 3,
    ablate: Ablate = None,
    means: Means = None,
    truncate: Truncate = False,
    output: FileOut = None,
    force: Force = False,
    backend: Backend = "auto",
    device: Device = "auto",
    dtype: ComputeDtype = "float32",
    threads: Threads = None,
    batch_tokens: BatchTokens = None,
    format: Format = "table",
    json: Json = False,
) -> None:
    """Shows what the pooler puts out for texts, and how alike they are by each kind of vector.

    With -o, writes one vector a text: .safetensors, .npy, .npz, .jsonl, .csv or .parquet.
    """
    from bertprobe.export import Output
    from bertprobe.export.vectors import VectorFile
    from bertprobe.report.ablation import with_ablation
    from bertprobe.report.text import vectors_written
    from bertprobe.run import AllVectors, Compute, ablated, needs_of, open_runner, require_vector

    printer = Printer.of(format, json)
    _check_sentence(vector, prompt, pair)
    checkpoint, anatomy = open_here(model, subfolder, weights, root, tokenizer)
    require_vector(checkpoint, anatomy, vector)
    way = _Way.of(checkpoint, vector, prompt)
    ablation = ablation_in(ablate, means, checkpoint, anatomy)
    check_no_model(model, texts or [])
    known, lines = _texts(texts, file, pair)
    kept: AllVectors | VectorFile = AllVectors(None if way.sentence is None else way.sentence.vectors)
    if output is not None:
        notes = way.metadata(checkpoint) | ({} if ablation is None else ablation.metadata)
        kept = VectorFile(Output(output, force=force), vector, notes, way.made)
    compute = Compute(backend, device, dtype, threads, batch_tokens)
    runner = open_runner(checkpoint, anatomy, compute, known, needs=needs_of([kept]), tokenizer=way.tokenizer)
    if isinstance(kept, VectorFile):
        with kept:
            ran = way.run(ablated(runner, ablation), chain(known, lines), kept, truncate=truncate, pairs=pair)
        report = with_ablation(vectors_written(ran, kept, way.findings(ran), way.recipe), ablation)
    else:
        known = _few([*known, *islice(lines, SHOWN + 1 - len(known))])
        report = way.shown(runner, ablation, known, kept, top, truncate=truncate, pairs=pair)
    printer.show(report, whole=output is None)


@dataclass(frozen=True)
class _Way:
    """How texts become the vector that was asked for: through the model alone, or as its recipe has it."""

    vector: str
    sentence: Sentence | None = None
    recipe: str = ""

    @classmethod
    def of(cls, checkpoint: Checkpoint, vector: str, prompt: str | None) -> _Way:
        if vector != "sentence":
            return cls(vector)
        from bertprobe.recipe import recipe_of
        from bertprobe.recipe.line import recipe_line
        from bertprobe.run.sentence import open_sentence, tokenizer_for

        recipe = recipe_of(checkpoint)
        sentence = open_sentence(checkpoint, recipe, tokenizer_for(checkpoint, recipe), prompt)
        return cls(vector, sentence, recipe_line(recipe, prompt))

    @property
    def made(self) -> SentenceVectors | None:
        from bertprobe.run.sentence import SentenceVectors

        return None if self.sentence is None else SentenceVectors(self.sentence)

    @property
    def tokenizer(self) -> TextTokenizer | None:
        return None if self.sentence is None else self.sentence.tokenizer

    def metadata(self, checkpoint: Checkpoint) -> dict[str, str]:
        recipe = {"recipe": self.recipe} if self.recipe else {}
        return {"format": "pt", "source": checkpoint.ref, "vector": self.vector, **recipe}

    def run(self, runner: Runner, texts: Iterable[str], *kept: Collector, truncate: bool, pairs: bool) -> Ran:
        from bertprobe.run import run_texts

        if self.sentence is None:
            return run_texts(runner, texts, *kept, truncate=truncate, pairs=pairs)
        from bertprobe.run.sentence import run_sentences

        return run_sentences(runner, self.sentence, texts, *kept, truncate=truncate)

    def shown(
        self,
        runner: Runner,
        ablation: Ablation | None,
        texts: list[str],
        kept: AllVectors,
        top: int,
        *,
        truncate: bool,
        pairs: bool,
    ) -> Report:
        """The report of texts that are run, with neurons taken out beside the model as it is."""
        from bertprobe.report.ablation import pooling_beside
        from bertprobe.report.text import pooling
        from bertprobe.run import AllVectors, Untouched, beside

        untouched = AllVectors(None if self.sentence is None else self.sentence.vectors)
        more = () if ablation is None else (Untouched(untouched),)
        both = runner if ablation is None else beside(runner, ablation)
        ran = self.run(both, texts, kept, *more, truncate=truncate, pairs=pairs)
        told = _shown(texts, pairs)
        report = pooling(ran, told, kept.texts, self.findings(ran), top, self.vector, self.recipe)
        if ablation is None:
            return report
        return pooling_beside(report, ablation, kept.texts, untouched.texts, self.vector, top)

    def findings(self, ran: Ran) -> tuple[Finding, ...]:
        """What has to be known of the vector: of the pooler, or of the recipe."""
        from bertprobe.measurement import judge_part

        if self.sentence is not None:
            from bertprobe.recipe.rules import judge_recipe

            return (*ran.why_not_finite(), *judge_recipe(self.sentence.recipe))
        return (*ran.why_not_finite(), *judge_part(ran.checkpoint, ran.anatomy, "pooler"))


def activations(
    texts: Texts = None,
    model: ModelOption = None,
    subfolder: Subfolder = "",
    weights: Weights = "",
    root: Root = "",
    tokenizer: Tokenizer = None,
    file: File = None,
    pair: Pair = False,
    layers: Layers = None,
    top: Annotated[
        int, typer.Option("--top", min=0, metavar="K", help="Show the K strongest neurons of each layer and token.")
    ] = 3,
    tokens: Annotated[bool, typer.Option("--tokens", help="Show each token's strongest neurons.")] = False,
    pre: Annotated[bool, typer.Option("--pre", help="Show values before the activation.")] = False,
    ablate: Ablate = None,
    means: Means = None,
    truncate: Truncate = False,
    output: FileOut = None,
    force: Force = False,
    backend: Backend = "auto",
    device: Device = "auto",
    dtype: ComputeDtype = "float32",
    threads: Threads = None,
    batch_tokens: BatchTokens = None,
    format: Format = "table",
    json: Json = False,
) -> None:
    """Shows what each layer's intermediate module puts out for texts: statistics, top neurons, a map of the tokens.

    With -o, writes the whole matrices, (tokens, neurons) a layer, with the tokens: .safetensors or .npz.
    """
    from bertprobe.anatomy import select
    from bertprobe.export.matrices import write_matrices
    from bertprobe.report.ablation import activation_beside
    from bertprobe.report.text import PerToken, activation
    from bertprobe.run import (
        Changes,
        Compute,
        Matrices,
        NeuronStatistics,
        Strongest,
        TokenNorms,
        Untouched,
        beside,
        needs_of,
        open_runner,
        run_texts,
    )
    from bertprobe.run.beside import BATCH_TOKENS

    printer = Printer.of(format, json)
    checkpoint, anatomy = open_here(model, subfolder, weights, root, tokenizer)
    labels = {part.label for part in select(anatomy, ["intermediate"], layers)}
    if not labels:
        raise PartMissing("there is no intermediate module", "look at what there is with: bertprobe inspect --shapes")
    ablation = ablation_in(ablate, means, checkpoint, anatomy)
    if ablation is not None:
        ablation.check_seen(anatomy, labels)
    check_no_model(model, texts or [])
    known, lines = _texts(texts, file, pair)
    few = (bool(texts) and file is None) or (len(known) < SHOWN and sum(map(len, known)) <= KEPT)  # no more to come
    if tokens and not few:
        raise typer.BadParameter("--tokens is for few texts: of so many, write the whole matrices with -o")
    statistics = NeuronStatistics(labels, before=pre)
    each = PerToken(TokenNorms(labels, before=pre), Strongest(labels, top, before=pre) if tokens else None)
    matrices = Matrices(labels, before=pre)
    kept = [statistics, *(each.collectors if few else ()), *([matrices] if output is not None else ())]
    at_once = batch_tokens if ablation is None else batch_tokens or BATCH_TOKENS
    compute = Compute(backend, device, dtype, threads, at_once)
    runner = open_runner(checkpoint, anatomy, compute, known, needs=needs_of(kept))
    untouched, changes = NeuronStatistics(labels, before=pre), Changes(labels, before=pre)
    if ablation is not None:
        runner, kept = beside(runner, ablation), [*kept, Untouched(untouched), changes]
    ran = run_texts(runner, chain(known, lines), *kept, truncate=truncate, pairs=pair)
    if output is not None:
        write_matrices(ran, matrices, output, force)
    report = activation(ran, statistics, each if few else None, ran.why_not_finite(), top)
    if ablation is not None:
        report = activation_beside(report, ablation, untouched, changes, top)
    printer.show(report)


def verify(
    texts: VerifyTexts = None,
    model: ModelOption = None,
    subfolder: Subfolder = "",
    weights: Weights = "",
    root: Root = "",
    tokenizer: Tokenizer = None,
    format: TableFormat = "table",
    json: Json = False,
) -> None:
    """Proves that these are the model's numbers: the same tokens through transformers, compared part by part.

    Exit code 3 when a difference exceeds max(1e-5 · max(1, max|x|), 4 × transformers' own float32 error).
    """
    from bertprobe.report.text import verification
    from bertprobe.verify import TEXTS
    from bertprobe.verify import verify as compare

    printer = Printer.of(format, json)
    checkpoint, anatomy = open_here(model, subfolder, weights, root, tokenizer)
    chosen = list(texts or TEXTS)
    report = verification(checkpoint, anatomy, compare(checkpoint, anatomy, chosen), chosen)
    printer.show(report)
    if not report.data["holds"]:
        raise typer.Exit(3)


def _check_sentence(vector: str, prompt: str | None, pair: bool) -> None:
    if prompt is not None and vector != "sentence":
        raise typer.BadParameter("--prompt goes with --vector sentence: write it into the texts for another vector")
    if pair and vector == "sentence":
        raise typer.BadParameter("--pair does not go with --vector sentence, which is of one text")


def open_here(
    model: str | None, subfolder: str, weights: str, root: str, tokenizer: str | None
) -> tuple[Checkpoint, Anatomy]:
    """The checkpoint on this disk: a forward pass needs nearly all of it, and the tokenizer too."""
    from bertprobe.anatomy import find_parts
    from bertprobe.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(
        resolve_model(model), subfolder=subfolder, weights=weights, root=root, download=True, tokenizer=tokenizer
    )
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


def texts_of(texts: list[str] | None, file: str | None) -> list[str]:
    """All texts of a command that shows each: typed, of a file, else of stdin."""
    known, lines = _texts(texts, file, False)
    return _few([*known, *islice(lines, SHOWN + 1 - len(known))])


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


def _few(known: list[str]) -> list[str]:
    if len(known) > SHOWN:
        raise typer.BadParameter(f"there are more than {SHOWN:,} texts: write their vectors to a file with -o")
    return known


def _shown(known: Sequence[str], pair: bool) -> list[str]:
    return [" / ".join(known[i : i + 2]) for i in range(0, len(known), 2)] if pair else list(known)
