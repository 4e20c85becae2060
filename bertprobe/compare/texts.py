"""How far what two models put out for the same texts lies apart: sentence vectors, and each layer's activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bertprobe.compare import Side
from bertprobe.errors import NotFound, UnsupportedFile, printable, quoted
from bertprobe.run import VECTORS, AllVectors, Compute, Matrices, Runner, TextVectors, open_runner, run_batch, run_texts
from bertprobe.tokens import open_tokenizer

if TYPE_CHECKING:
    from bertprobe.tokens import Tokenizer

BATCH_TOKENS = 512  # tokens a batch: the matrices of every layer of both models are there at once


@dataclass(frozen=True, slots=True)
class VectorDistance:
    """How far an array moved: ‖b − a‖ / ‖a‖ and the cosine, each None where it is not defined."""

    change: float | None
    cosine: float | None


@dataclass(frozen=True, slots=True, eq=False)
class TextDistances:
    """One text: its tokens, by A's tokenizer, and how its three vectors moved; None where a model has no such."""

    text: str
    tokens: tuple[str, ...]
    vectors: dict[str, VectorDistance | None]


@dataclass(frozen=True, slots=True, eq=False)
class TextComparison:
    """What became of the texts, and of the activations by part label, over all tokens of all of them.

    `unlike` says why activations were not compared, empty where they were; `notes` what was decided on the way.
    """

    texts: tuple[TextDistances, ...]
    activations: dict[str, VectorDistance]
    unlike: str
    notes: tuple[str, ...]


def compare_texts(a: Side, b: Side, texts: Sequence[str]) -> TextComparison:
    """Runs the texts through both models, each with its own tokenizer; both have to be on this disk.

    Where the tokenizers give the same ids, activations are compared token by token; where they do not, only the
    vectors of whole texts are. Raises `UnsupportedFile` for models of different width, and as `open_runner` does.
    """
    widths = [of.anatomy.widths[0] for of in (a, b)]
    if widths[0] != widths[1]:
        raise UnsupportedFile(
            f"A is {widths[0]} wide, B {widths[1]}: what they put out cannot be compared", "leave the texts out"
        )
    tokenizers, notes = _tokenizers(a, b)
    compute = Compute(batch_tokens=BATCH_TOKENS)
    left, right = (
        open_runner(of.checkpoint, of.anatomy, compute, texts, tokenizer=tokenizer)
        for of, tokenizer in zip((a, b), tokenizers, strict=True)
    )
    unlike = _unlike(left, right, texts)
    one, other = AllVectors(), AllVectors()
    sums: dict[str, _Sums] = {}
    if unlike:
        run_texts(left, texts, one)
        run_texts(right, texts, other)
    else:
        for batch in left.batches(texts):  # the same tokens for both, and the matrices of one batch at a time
            matrices = [Matrices(_labels(runner)) for runner in (left, right)]
            run_batch(left, batch, one, matrices[0])
            run_batch(right, batch, other, matrices[1])
            _add_up(sums, *matrices)
    vectors = zip(texts, one.texts, other.texts, strict=True)
    moved = tuple(TextDistances(text, mine.tokens, _moves(mine, its)) for text, mine, its in vectors)
    return TextComparison(moved, {label: found.compare_texts for label, found in sums.items()}, unlike, notes)


def _add_up(sums: dict[str, _Sums], a: Matrices, b: Matrices) -> None:
    """Adds a batch's activations, of every part whose matrices are as large in both."""
    import numpy as np

    mine, its = ({site.label: np.concatenate(found) for site, found in of.kept.items()} for of in (a, b))
    for label, values in mine.items():
        if label in its and values.shape == its[label].shape:
            sums.setdefault(label, _Sums()).take(values, its[label])


def _tokenizers(a: Side, b: Side) -> tuple[tuple[Tokenizer, Tokenizer], tuple[str, ...]]:
    """Each model's own tokenizer, or the one named for it; one without takes the other's, and it is said."""
    found: list[Tokenizer | None] = []
    for of in (a, b):
        try:
            found.append(open_tokenizer(of.checkpoint, lambda of=of: _theirs(of)))  # type: ignore[misc]
        except NotFound:
            if of.checkpoint.has_foreign_tokenizer:  # the one that was asked for
                raise
            found.append(None)
    if found[0] is None and found[1] is None:
        raise NotFound(
            "neither A nor B has a tokenizer beside its weights",
            "put the model's own beside one of them, or name its folder or file: `tokenizer=`",
        )
    one, other = found[0] or found[1], found[1] or found[0]
    lacking = "A" if found[0] is None else "B" if found[1] is None else ""
    notes = [f"{lacking} has no tokenizer beside its weights: the other's is taken"] if lacking else []
    for name, of, tokenizer in zip("AB", (a, b), (one, other), strict=True):
        if of.checkpoint.has_foreign_tokenizer:
            notes.append(f"the tokens of {name} are by {tokenizer.name}")  # type: ignore[union-attr]
    return (one, other), tuple(notes)  # type: ignore[return-value]


def _theirs(of: Side) -> Tokenizer:
    from bertprobe.transformers_model import tokenizer

    return tokenizer(of.checkpoint)


def _unlike(a: Runner, b: Runner, texts: Sequence[str]) -> str:
    """Why activations cannot be compared token by token, empty where they can."""
    if not (a.engine.rows_are_tokens and b.engine.rows_are_tokens):
        return "this family has other rows than tokens"
    for text, one, other in zip(texts, a.tokenizer.encode_many(texts), b.tokenizer.encode_many(texts), strict=True):
        if one.ids.tolist() != other.ids.tolist():
            at = next((i for i, ids in enumerate(zip(one.ids, other.ids, strict=False)) if ids[0] != ids[1]), 0)
            pieces = [printable(" ".join(e.tokens[at : at + 3])) for e in (one, other)]
            return f"the tokenizers differ: of {quoted(text)} A makes … {pieces[0]} …, B … {pieces[1]} …"
    return ""


def _labels(runner: Runner) -> set[str]:
    return {part.label for part in runner.anatomy.of("intermediate", "gate")}


def _moves(a: TextVectors, b: TextVectors) -> dict[str, VectorDistance | None]:
    """How each of the three vectors moved, None where a model has no such."""
    vectors: dict[str, VectorDistance | None] = {}
    for which in VECTORS:
        one, other = getattr(a, which), getattr(b, which)
        if one is None or other is None:
            vectors[which] = None
            continue
        sums = _Sums()
        sums.take(one, other)
        vectors[which] = sums.compare_texts
    return vectors


@dataclass(slots=True)
class _Sums:
    """Running sums of two arrays, in float64."""

    aa: float = 0.0
    bb: float = 0.0
    ab: float = 0.0
    dd: float = 0.0

    def take(self, a: Any, b: Any) -> None:
        import numpy as np

        x, y = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
        d = y - x
        self.aa += float(x @ x)
        self.bb += float(y @ y)
        self.ab += float(x @ y)
        self.dd += float(d @ d)

    @property
    def compare_texts(self) -> VectorDistance:
        scale = math.sqrt(self.aa * self.bb)
        change = math.sqrt(self.dd / self.aa) if self.aa else None
        found = VectorDistance(change, self.ab / scale if scale else None)
        if any(value is not None and not math.isfinite(value) for value in (found.change, found.cosine)):
            return VectorDistance(None, None)
        return replace(found, cosine=None if found.cosine is None else max(-1.0, min(1.0, found.cosine)))
