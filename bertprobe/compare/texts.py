"""How far what two models put out for the same texts lies apart: sentence vectors, and each layer's activations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bertprobe.activations import Compute, Runner, open_runner, vectors_of
from bertprobe.compare import Side
from bertprobe.errors import NotFound, UnsupportedFile, printable, quoted
from bertprobe.tokens import open_tokenizer

if TYPE_CHECKING:
    from bertprobe.tokens import Packed, Tokenizer

KINDS = ("pooled", "cls", "mean")
BUDGET = 512  # tokens a batch: the matrices of every layer of both models are there at once


@dataclass(frozen=True, slots=True)
class Move:
    """How far an array moved: ‖b − a‖ / ‖a‖ and the cosine, each None where it is not defined."""

    change: float | None
    cosine: float | None


@dataclass(frozen=True, slots=True, eq=False)
class TextMove:
    """One text: its tokens, by A's tokenizer, and how its three vectors moved; None where a model has no such."""

    text: str
    tokens: tuple[str, ...]
    vectors: dict[str, Move | None]


@dataclass(frozen=True, slots=True, eq=False)
class Moved:
    """What became of the texts, and of the activations by part label, over all tokens of all of them.

    `unlike` says why activations were not compared, empty where they were; `notes` what was decided on the way.
    """

    texts: tuple[TextMove, ...]
    activations: dict[str, Move]
    unlike: str
    notes: tuple[str, ...]


def move(a: Side, b: Side, texts: Sequence[str]) -> Moved:
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
    compute = Compute(budget=BUDGET)
    left, right = (
        open_runner(of.checkpoint, of.anatomy, compute, texts, tokenizer=tokenizer)
        for of, tokenizer in zip((a, b), tokenizers, strict=True)
    )
    unlike = _unlike(left, right, texts)
    if unlike:
        vectors = [_vectors(runner, runner.batches(texts)) for runner in (left, right)]
        found = [_text(texts[i], *(side[i] for side in vectors)) for i in range(len(texts))]
        return Moved(tuple(found), {}, unlike, notes)
    sums: dict[str, _Sums] = {}
    placed: dict[int, TextMove] = {}
    for packed in left.batches(texts):
        one, other = _states(left, packed), _states(right, packed)
        for label, values in one.matrices.items():
            if label in other.matrices and values.shape == other.matrices[label].shape:
                sums.setdefault(label, _Sums()).take(values, other.matrices[label])
        both = zip(_by_place(packed, one.vectors), _by_place(packed, other.vectors), strict=True)
        placed |= {place: _text(texts[place], mine, its) for (place, mine), (_, its) in both}
    return Moved(tuple(placed[i] for i in sorted(placed)), {label: s.move for label, s in sums.items()}, "", notes)


def _tokenizers(a: Side, b: Side) -> tuple[tuple[Tokenizer, Tokenizer], tuple[str, ...]]:
    """Each model's own tokenizer; a checkpoint saved without one takes the other's, and it is said."""
    found: list[Tokenizer | None] = []
    for of in (a, b):
        try:
            found.append(open_tokenizer(of.checkpoint, lambda of=of: _theirs(of)))  # type: ignore[misc]
        except NotFound:
            found.append(None)
    if found[0] is None and found[1] is None:
        raise NotFound("neither A nor B has a tokenizer beside its weights", "put the model's own beside one of them")
    one, other = found[0] or found[1], found[1] or found[0]
    lacking = "A" if found[0] is None else "B" if found[1] is None else ""
    note = f"{lacking} has no tokenizer beside its weights: the other's is taken"
    return (one, other), (note,) if lacking else ()  # type: ignore[return-value]


def _theirs(of: Side) -> Tokenizer:
    from bertprobe.reference import tokenizer

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


@dataclass(frozen=True, slots=True, eq=False)
class _Ran:
    """What one model put out for a batch: each text's vectors, and each part's activations (T, I)."""

    vectors: list[dict[str, Any]]
    matrices: dict[str, Any]


def _states(runner: Runner, packed: Packed) -> _Ran:
    import numpy as np

    kept: dict[str, list[Any]] = {}

    def tap(label: str, before: Any, after: Any) -> None:
        kept.setdefault(label, []).append(np.array(runner.engine.backend.numpy(after), np.float32))

    states = runner.engine.states(packed, tap)
    matrices = {label: np.concatenate(found) for label, found in kept.items()}
    return _Ran([vectors_of(hidden, pooled) for hidden, pooled in states], matrices)


def _vectors(runner: Runner, batches: Iterator[Packed]) -> dict[int, tuple[tuple[str, ...], dict[str, Any]]]:
    found: dict[int, tuple[tuple[str, ...], dict[str, Any]]] = {}
    for packed in batches:
        ran = [vectors_of(hidden, pooled) for hidden, pooled in runner.engine.states(packed)]
        found |= dict(_by_place(packed, ran))
    return found


def _by_place(
    packed: Packed, vectors: Sequence[dict[str, Any]]
) -> Iterator[tuple[int, tuple[tuple[str, ...], dict[str, Any]]]]:
    for i, found in enumerate(vectors):
        yield int(packed.order[i]), (packed.tokens[i], found)


_Ours = tuple[tuple[str, ...], dict[str, Any]]


def _text(text: str, a: _Ours, b: _Ours) -> TextMove:
    vectors: dict[str, Move | None] = {}
    for kind in KINDS:
        one, other = a[1][kind], b[1][kind]
        if one is None or other is None:
            vectors[kind] = None
            continue
        sums = _Sums()
        sums.take(one, other)
        vectors[kind] = sums.move
    return TextMove(text, a[0], vectors)


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
    def move(self) -> Move:
        scale = math.sqrt(self.aa * self.bb)
        change = math.sqrt(self.dd / self.aa) if self.aa else None
        found = Move(change, self.ab / scale if scale else None)
        if any(value is not None and not math.isfinite(value) for value in (found.change, found.cosine)):
            return Move(None, None)
        return replace(found, cosine=None if found.cosine is None else max(-1.0, min(1.0, found.cosine)))
