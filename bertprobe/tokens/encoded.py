"""A text as tokens, many texts as one packed row, and what a tokenizer is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]

Text = str | tuple[str, str]  # a text, or two to be read together


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """One text or pair as tokens: `ids` (S,), `segments` (S,), the pieces as text, and how many tokens were cut off."""

    ids: Ints
    segments: Ints
    tokens: tuple[str, ...]
    cut: int = 0

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """N texts end to end, T tokens in all, the longest text first.

    `ids`, `positions` (from 0 within each text) and `segments` are (T,); `lengths`, `order` (where each text stood in
    the input) and `cut` (tokens cut off it) are (N,); `tokens` are the pieces as text, a tuple for each text.
    """

    ids: Ints
    positions: Ints
    segments: Ints
    lengths: Ints
    tokens: tuple[tuple[str, ...], ...]
    order: Ints
    cut: Ints


class Tokenizer(Protocol):
    """What turns text into ids; `name` says what it was made from, `notes` what had to be decided on the way."""

    @property
    def name(self) -> str: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    @property
    def vocab_size(self) -> int:
        """One more than the largest id it can give."""

    def encode(self, text: str, pair: str | None = None, *, longest: int | None = None) -> Encoded:
        """One text, or two as a pair, cut to `longest` tokens if that is given."""

    def encode_many(self, texts: Sequence[Text], *, longest: int | None = None) -> list[Encoded]:
        """The same for many texts or pairs at once."""
