"""A text as tokens, many texts as one packed row, and what a tokenizer is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]

Text = str | tuple[str, str]  # a text, or two to be read together


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """One text or pair as tokens: `ids` (S,), `segments` (S,), and how many were truncated.

    `tokens` are the pieces as text, left out where nobody looks at them.
    """

    ids: Ints
    segments: Ints
    tokens: tuple[str, ...]
    truncated: int = 0

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """A text as tokens, and where they stand in it.

    `spans` (S, 2) are the characters of each token, from and up to, -1 of those that the tokenizer adds; `lost` (L, 2)
    those of the tokens that were truncated.
    """

    encoded: Encoded
    spans: Ints
    lost: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """N texts end to end, T tokens in all, the longest text first.

    `ids`, `positions` (from 0 within each text) and `segments` are (T,); `lengths`, `places` (where each text stood
    in the input) and `truncated` (tokens cut off it) are (N,); `tokens` are the pieces as text, a tuple for each
    text, empty where `Encoded` has none.
    """

    ids: Ints
    positions: Ints
    segments: Ints
    lengths: Ints
    tokens: tuple[tuple[str, ...], ...]
    places: Ints
    truncated: Ints

    def singly(self) -> Iterator[Packed]:
        """Each text as a batch of its own."""
        start = 0
        for i, length in enumerate(self.lengths.tolist()):
            rows, one = slice(start, start + length), slice(i, i + 1)
            yield Packed(
                self.ids[rows], self.positions[rows], self.segments[rows], self.lengths[one], self.tokens[one],
                self.places[one], self.truncated[one],
            )  # fmt: skip
            start += length


class Tokenizer(Protocol):
    """What turns text into ids; `name` says what it was made from, `notes` what had to be decided on the way."""

    @property
    def name(self) -> str: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    @property
    def vocab_size(self) -> int:
        """One more than the largest id it can give."""

    @property
    def special_tokens(self) -> frozenset[str]:
        """The tokens that have a role of their own, such as its unknown or its separating one."""

    @property
    def mask_token(self) -> str:
        """The token that stands for a word to be guessed, empty where there is none."""

    def piece(self, id: int) -> str:
        """The piece of an id as text, empty where there is none."""

    def lower_first(self) -> None:
        """Has text lower-cased before all else."""

    def encode(self, text: str, pair: str | None = None, *, longest: int | None = None) -> Encoded:
        """One text, or two as a pair, cut to `longest` tokens if that is given."""

    def encode_many(self, texts: Sequence[Text], *, longest: int | None = None) -> list[Encoded]:
        """The same for many texts or pairs at once."""
