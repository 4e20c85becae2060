"""What a row of `DIALECTS` is: how a library spells its tensors, and how that turns into PyTorch's names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

Rules = Sequence[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]]


class Join(NamedTuple):
    """Of a tensor of so many `axes` whose path the pattern finds, the `first` and the one after it become one axis.

    So a kernel (hidden, heads, head size) becomes a matrix.
    """

    path: re.Pattern[str]
    axes: int
    first: int


@dataclass(frozen=True, slots=True)
class Dialect:
    """A row of `DIALECTS`: how a library spells its tensors, and what each becomes.

    `library` is whose spelling it is. `sign` is found in a name that is spelled so, and one such name tells the dialect
    of all. `endings` are cut off a name, in this order; `rules`, chosen by all names, rewrite the path that is left,
    whose words `separator` parts, as if "/" did; `leaves` translate its last word, and a matrix whose last word is in
    `turned` is transposed, once its axes are as `joins` say. What `skipped` finds is no weight.
    """

    name: str
    library: str
    sign: re.Pattern[str]
    endings: tuple[str, ...]
    rules: Callable[[Iterable[str]], Rules]
    leaves: Mapping[str, str]
    turned: frozenset[str]
    skipped: re.Pattern[str]
    separator: str = "/"
    joins: tuple[Join, ...] = ()


def rules(*pairs: tuple[str, str]) -> Rules:
    """Patterns, and what stands instead. A path ends in "/" where a rule looks; `^|/` is where a word begins."""
    return tuple((re.compile(pattern), instead) for pattern, instead in pairs)
