"""A part of a plan: what one of several machines computes of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from bertprobe.errors import BadSetting, quoted

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Part:
    """The `number`-th of `of` parts, from 1: shards that follow on each other, as many as in the others or one more."""

    number: int = 1
    of: int = 1

    @classmethod
    def parsed(cls, text: str) -> Part:
        """The part that `2/8` means; raises `BadSetting` for what means none."""
        match = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text, re.ASCII)
        number, of = (int(match[1]), int(match[2])) if match is not None else (0, 0)
        if not 1 <= number <= of:
            raise BadSetting(
                f"`shard={quoted(text)}` is no part of a plan", "write 1/8 for the first of eight, 8/8 for the last"
            )
        return cls(number, of)

    @classmethod
    def of_manifest(cls, manifest: Mapping[str, Any]) -> Part:
        """The part that a manifest is of."""
        said = manifest["part"]
        return WHOLE if said is None else cls(said["number"], said["of"])

    @property
    def told(self) -> dict[str, int] | None:
        """As it stands in a manifest: null is the whole."""
        return None if self == WHOLE else {"number": self.number, "of": self.of}

    def chosen(self, shards: Sequence[T]) -> Sequence[T]:
        """The shards of a plan that are this part's, none where there are fewer than parts."""
        first, stop = (len(shards) * number // self.of for number in (self.number - 1, self.number))
        return shards[first:stop]

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


WHOLE = Part()
