"""Texts through the lens: what the head makes of a token's hidden state after every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bertprobe.anatomy import layer_numbers
from bertprobe.backends import Array
from bertprobe.errors import BadSetting, BertprobeError, UnsupportedFile, printable, quoted, shortened
from bertprobe.lens.null import Null, chance
from bertprobe.lens.ranking import VocabularyEntry, beyond, entries, entry_name, largest, rank_of
from bertprobe.lens.vocabulary import Vocabulary, open_vocabulary
from bertprobe.run.captured import STATES, Captured, Site
from bertprobe.run.runner import Ran, Runner, run_encoded
from bertprobe.tokens import Encoded, Tokenizer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from bertprobe.tokens import Packed

    Floats = npt.NDArray[np.float32]
    Doubles = npt.NDArray[np.float64]

EMBEDDINGS = "embeddings"
"""What the embeddings put out, as a layer by name."""


@dataclass(frozen=True, slots=True)
class LensWish:
    """What to read: `layers` such as `embeddings,0,3-5,-1`, None for all; `top` entries of each list.

    `word` is one whose rank is wanted; `position` the token to look at in each text, where it is not the masked ones.
    """

    layers: str | None = None
    top: int = 5
    word: str | None = None
    position: int | None = None
    null: Null = field(default_factory=Null)


@dataclass(frozen=True, slots=True)
class Guess:
    """An entry of a list, whose value is its probability by the softmax of all logits, and its logit.

    Without a head there are no probabilities: the value is its product with the hidden state, the logit, less the mean
    of all. `untouched` is its value in the model before neurons were taken out, None where none were.
    """

    entry: VocabularyEntry
    logit: float
    untouched: float | None


@dataclass(frozen=True, slots=True)
class RankOfWord:
    """Where the wanted word stands, its rank from 1.

    `untouched` is its rank in the model before neurons were taken out and `untouched_probability` its probability
    there, None where none were.
    """

    token: str
    rank: int
    logit: float
    probability: float
    untouched: int | None
    untouched_probability: float | None


@dataclass(frozen=True, slots=True)
class LayerLens:
    """One token's hidden state after a layer, None for what the embeddings put out, read in the vocabulary.

    `norm` is the hidden state's; `entropy`, in nats, is of the probabilities of all entries, None without a head;
    `beyond` of the list's entries lie above 95 % of random directions at their rank. `first_untouched` is the first
    entry in the untouched model.
    """

    layer: int | None
    norm: float
    entropy: float | None
    guesses: tuple[Guess, ...]
    beyond: int
    word: RankOfWord | None
    first_untouched: str | None

    @property
    def name(self) -> str:
        """`embeddings`, or the layer's number."""
        return EMBEDDINGS if self.layer is None else str(self.layer)


@dataclass(frozen=True, slots=True)
class PositionLens:
    """A token of a text, by its position, after each layer."""

    position: int
    token: str
    layers: tuple[LayerLens, ...]


@dataclass(frozen=True, slots=True)
class TextLens:
    """A text, its tokens, and what was read of those that were looked at."""

    text: str
    tokens: tuple[str, ...]
    positions: tuple[PositionLens, ...]


@dataclass(frozen=True, slots=True)
class Lensed:
    """What was read of all texts: by which transform, whether that is the model's own head, and what ran them."""

    texts: tuple[TextLens, ...]
    transform: str
    is_head: bool
    ran: Ran


def lens_of_texts(runner: Runner, texts: Sequence[str], wish: LensWish, untouched: Runner | None = None) -> Lensed:
    """What the head makes of hidden states of masked tokens, or of the token at a position, after each layer.

    `runner` needs STATES. `untouched` is the same model without the ablation that the runner has, to stand beside it.

    Raises:
        UnsupportedFile: rows of the family are no tokens, or its head is of a form that is not known.
        BertprobeError: a text has no masked token, a word is not one piece, or hidden states are NaN or infinite.
        PartMissing: there is no such layer.
    """
    if not runner.engine.rows_are_tokens:
        raise UnsupportedFile(
            f"the rows of {printable(runner.anatomy.family)} do not stand for tokens one by one",
            "take a model of another family",
        )
    vocabulary = open_vocabulary(runner.anatomy, runner.backend)
    word = None if wish.word is None else id_of_word(runner.tokenizer, wish.word, vocabulary)
    lens = _Lens(runner, untouched, vocabulary, wish, word)
    found = []
    for text in texts:
        (encoded,) = runner.encoded([text])
        found.append(lens.read(text, encoded, positions_of(runner.tokenizer, encoded, wish.position)))
    if lens.ran is None:
        raise BadSetting("there is no text", "write one with a masked token in it")
    return Lensed(tuple(found), vocabulary.transform, vocabulary.is_head, lens.ran)


def positions_of(tokenizer: Tokenizer, encoded: Encoded, position: int | None) -> tuple[int, ...]:
    """The positions to look at: the one that is named, else those of all masked tokens."""
    if position is not None:
        if not 0 <= position < len(encoded):
            raise BadSetting(f"there is no token {position}", f"the text has tokens 0 to {len(encoded) - 1}")
        return (position,)
    mask = tokenizer.mask_token
    found = tuple(i for i, token in enumerate(encoded.tokens) if mask and token == mask)
    if not found:
        pieces = shortened([printable(token) for token in encoded.tokens], 12)
        what = f"the text has no {printable(mask)}" if mask else "its tokenizer has no token for a masked word"
        cure = f"put {printable(mask)} where a word is to be guessed, or name" if mask else "name"
        raise BertprobeError(f"{what} among its tokens ({pieces})", f"{cure} a token by its number: `position=3`")
    return found


def id_of_word(tokenizer: Tokenizer, word: str, vocabulary: Vocabulary) -> int:
    """The id of a word that is one piece: as it stands in a sentence, behind a blank, else as lists spell pieces.

    Raises `BertprobeError` for a word that is several pieces or none, and where there is no head to rank it.
    """
    if not vocabulary.is_head:
        raise BertprobeError(
            "the checkpoint has no masked-language-model head, so that no word has a rank", "leave out `word=`"
        )
    encoded = tokenizer.encode(f" {word.strip()}")
    pieces = [(id, t) for id, t in zip(encoded.ids.tolist(), encoded.tokens, strict=True)]
    own = [(id, token) for id, token in pieces if token not in tokenizer.special_tokens]
    # More special tokens than stand around any text: the word has some itself, as [UNK] of a sign.
    with_others = len(pieces) - len(own) > len(tokenizer.encode(""))
    if len(own) == 1 and not with_others and own[0][0] < vocabulary.size:
        return int(own[0][0])
    exact = (id for id in range(min(tokenizer.vocab_size, vocabulary.size)) if tokenizer.piece(id) == word)
    found = next(exact, None)
    if found is None:
        has = f"is {len(own)} pieces: {shortened([t for _, t in own])}" if len(own) > 1 else "is not in the vocabulary"
        raise BertprobeError(f"the word {quoted(word)} {has}", "name one that is one piece, as lists spell it")
    return found


class _States:
    """A collector of one text's hidden states, by number: the embeddings', then those after each layer."""

    needs = frozenset({STATES})
    is_finite = True

    def __init__(self) -> None:
        self.found: dict[int, Array] = {}

    def reduce(self, captured: Captured) -> Array:
        return captured.after

    def add(self, site: Site, batch: Packed, reduced: Array) -> None:
        self.found[site.call] = reduced


@dataclass
class _Lens:
    """The model, what reads its hidden states, and what is wanted; `ran` is what was said of the last run."""

    runner: Runner
    untouched: Runner | None
    vocabulary: Vocabulary
    wish: LensWish
    word: int | None
    ran: Ran | None = None

    def read(self, text: str, encoded: Encoded, positions: Sequence[int]) -> TextLens:
        before = None if self.untouched is None else self._states(self.untouched, encoded)
        states = self._states(self.runner, encoded)  # after the other: what is said of a run is said of this one
        numbers = self._numbers(len(states) - 1)
        kept: dict[int, list[LayerLens]] = {place: [] for place in positions}
        for number in numbers:
            logits = self._logits(states, number, positions)
            beside = [None] * len(positions) if before is None else self._logits(before, number, positions)
            vectors = self.runner.backend.numpy(states[number][list(positions)])
            for place, vector, row, other in zip(positions, vectors, logits, beside, strict=True):
                kept[place].append(self._layer(number, vector, row, other, last=number == len(states) - 1))
        found = (PositionLens(place, encoded.tokens[place], tuple(layers)) for place, layers in kept.items())
        return TextLens(text, encoded.tokens, tuple(found))

    def _states(self, runner: Runner, encoded: Encoded) -> Mapping[int, Array]:
        """Hidden states of one text, which runs alone: its numbers are those of no batch."""
        kept = _States()
        self.ran = run_encoded(runner, [encoded], kept)
        if any(len(values) != len(encoded) for values in kept.found.values()) or len(kept.found) < 2:
            raise UnsupportedFile(
                f"transformers does not give the hidden states of {printable(runner.anatomy.family)} token by token",
                "take a model of another family",
            )
        return kept.found

    def _numbers(self, layers: int) -> list[int]:
        """Which hidden states are wanted, of the embeddings and so many layers."""
        if self.wish.layers is None:
            return list(range(layers + 1))
        items = [item.strip() for item in self.wish.layers.split(",")]
        numbered = ",".join(item for item in items if item != EMBEDDINGS)
        first = {0} if EMBEDDINGS in items else set()
        if first and not numbered:
            return [0]
        return sorted(first | {number + 1 for number in layer_numbers(numbered, range(layers))})

    def _logits(self, states: Mapping[int, Array], number: int, positions: Sequence[int]) -> Floats:
        """The logits (n, V) at some positions; the last layer goes through the head whole, as the model itself does it.

        A product of some rows may round otherwise than that of all.
        """
        import numpy as np

        backend, last = self.runner.backend, number == len(states) - 1
        rows = states[number] if last else states[number][list(positions)]
        found = self.vocabulary.logits(rows, after_last=last)
        logits: Floats = np.asarray(backend.numpy(found[list(positions)] if last else found), np.float32)
        if not np.isfinite(logits).all():
            raise self._not_finite(number)
        return logits

    def _not_finite(self, number: int) -> BertprobeError:
        from bertprobe.run.nonfinite import why_not_finite

        where = "the embeddings" if number == 0 else f"layer {number - 1}"
        finding = why_not_finite(self.runner.anatomy, self.runner.backend.dtype)[0]
        return BertprobeError(f"what comes of {where} is NaN or infinite: {finding.message}", finding.hint)

    def _layer(self, number: int, vector: Any, row: Floats, other: Floats | None, *, last: bool) -> LayerLens:
        import numpy as np

        norm = float(np.linalg.norm(vector.astype(np.float64)))
        is_head = self.vocabulary.is_head
        drawn = self.vocabulary.numbers(self.wish.null.rows(norm, len(vector)), after_last=last)
        values, beside = scores(row, is_head), None if other is None else scores(other, is_head)
        listed = entries(values, chance(scores(drawn, is_head), self.wish.top), self.runner.tokenizer, self.wish.top)
        guesses = tuple(
            Guess(entry, float(row[entry.id]), None if beside is None else float(beside[entry.id])) for entry in listed
        )
        first = None if other is None else entry_name(self.runner.tokenizer, int(largest(scores(other, is_head), 1)[0]))
        return LayerLens(
            None if number == 0 else number - 1,
            norm,
            _entropy(values) if is_head else None,
            guesses,
            beyond(listed),
            None if self.word is None else self._word(self.word, row, values, other),
            first,
        )

    def _word(self, id: int, row: Floats, values: Doubles, other: Floats | None) -> RankOfWord:
        token = entry_name(self.runner.tokenizer, id)
        untouched = None if other is None else rank_of(other, id)
        before = None if other is None else float(scores(other, self.vocabulary.is_head)[id])
        return RankOfWord(token, rank_of(row, id), float(row[id]), float(values[id]), untouched, before)


def scores(logits: Floats, is_head: bool) -> Doubles:
    """What logits (…, V) come to, in float64: probabilities by their softmax, without a head what is above their mean.

    Neither knows of a number that is added to all of them, which says nothing of any entry.
    """
    import numpy as np

    exact = logits.astype(np.float64)
    if not is_head:
        return np.asarray(exact - exact.mean(-1, keepdims=True))
    scaled = np.exp(exact - exact.max(-1, keepdims=True))
    return np.asarray(scaled / scaled.sum(-1, keepdims=True))


def _entropy(shares: Doubles) -> float:
    """The entropy of probabilities, in nats."""
    import numpy as np

    there = shares[shares > 0]
    return float(-(there * np.log(there)).sum())
