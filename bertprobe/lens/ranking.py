"""Numbers of the vocabulary's entries as lists: the largest first, chance beside each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bertprobe.lens.null import Chance
from bertprobe.tokens import Tokenizer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Numbers = npt.NDArray[np.floating]
    Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class VocabularyEntry:
    """An entry of the vocabulary and its number in a list.

    `median` and `high` are what random directions come to at the same rank: half of them, and 95 %, lie below.
    """

    token: str
    id: int
    value: float
    median: float
    high: float


def entry_name(tokenizer: Tokenizer, id: int) -> str:
    """The piece of an id, `#id` where the tokenizer has none: tables may have more rows than it has entries."""
    return tokenizer.piece(id) or f"#{id}"


def largest(values: Numbers, most: int) -> Ints:
    """The ids of the largest values, in order; of equal ones the smaller id comes first."""
    import numpy as np

    return np.argsort(-values, kind="stable")[:most]


def entries(
    values: Numbers, chance: Chance, tokenizer: Tokenizer, most: int, sign: int = 1
) -> tuple[VocabularyEntry, ...]:
    """The entries of the largest values (V,), beside chance; a sign of -1 turns round what was turned round before."""
    ids = largest(values, most).tolist()
    rows = zip(ids, chance.median.tolist(), chance.high.tolist(), strict=False)
    return tuple(
        VocabularyEntry(entry_name(tokenizer, id), id, float(sign * values[id]), sign * median, sign * high)
        for id, median, high in rows
    )


def rank_of(values: Numbers, id: int) -> int:
    """The rank of an id among values (V,), from 1, as `largest` orders them."""
    import numpy as np

    return 1 + int(np.count_nonzero(values > values[id])) + int(np.count_nonzero(values[:id] == values[id]))


def beyond(found: Sequence[VocabularyEntry], sign: int = 1) -> int:
    """How many of a list lie beyond 95 % of random directions, each at its rank."""
    return sum(sign * (entry.value - entry.high) > 0 for entry in found)
