"""What is to be kept of a corpus, as it was asked for, and what that is of a model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bertprobe.anatomy import Anatomy, select, spans
from bertprobe.anatomy.poolers import require_pooler
from bertprobe.checkpoint import Checkpoint
from bertprobe.errors import BadSetting, PartMissing, quoted

POOLER, INTERMEDIATE = "pooler", "intermediate"
PARTS = (POOLER, INTERMEDIATE)
VECTORS = ("cls", "mean", "sentence")
TOKENS = ("all", "first", "mean", "max")
DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True, slots=True)
class Wish:
    """What to keep of each text.

    `parts` are of PARTS and `vectors` of VECTORS, the pooler by default; `layers` and `neurons` choose among
    intermediate modules, `neurons` as in `3:0-511,7:1203`. `tokens` says which rows of them: `all`, or one a text, that
    of the `first` token or the `mean` or `max` of all. With `top` only the strongest neurons of a row are kept, as
    numbers and values. `before` takes the values before the activation: what the dense layer itself puts out, also
    where another is multiplied with it afterwards, as in gated families. `dtype` is what values are rounded to.
    `prompt` goes with the vector `sentence`.
    """

    parts: tuple[str, ...] = ()
    vectors: tuple[str, ...] = ()
    layers: str | None = None
    neurons: str | None = None
    tokens: str = "all"
    top: int = 0
    dtype: str = "float32"
    prompt: str | None = None
    before: bool = False

    def checked(self) -> Wish:
        """The wish with its default filled in; raises `BadSetting` for one that cannot be meant so."""
        for what, values, known in (
            ("part", self.parts, PARTS),
            ("vector", self.vectors, VECTORS),
            ("tokens", (self.tokens,), TOKENS),
            ("dtype", (self.dtype,), DTYPES),
        ):
            if odd := [value for value in values if value not in known]:
                raise BadSetting(f"there is no `{what}={odd[0]}`", f"choose {', '.join(known)}")
        of_neurons = {
            "layers": self.layers is not None,
            "neurons": self.neurons is not None,
            "tokens": self.tokens != "all",
            "top": self.top > 0,
            "before": self.before,
        }
        asked = next((name for name, said in of_neurons.items() if said), None)
        if asked is not None and INTERMEDIATE not in self.parts:
            raise BadSetting(f"`{asked}=` is of intermediate modules", "add `part=intermediate`, or leave it out")
        if self.layers is not None and self.neurons is not None:
            raise BadSetting("`layers=` and `neurons=` both choose layers", "choose one of them")
        if "sentence" in self.vectors and (self.parts or len(self.vectors) > 1):
            raise BadSetting(
                "`vector=sentence` runs texts as its recipe has them, with a prompt and a limit of its own",
                "extract other parts and vectors by themselves",
            )
        if self.prompt is not None and "sentence" not in self.vectors:
            raise BadSetting("`prompt=` goes with `vector=sentence`", "write it into the texts for others")
        parts = tuple(part for part in PARTS if part in self.parts)
        vectors = tuple(vector for vector in VECTORS if vector in self.vectors)
        return Wish(parts if parts or vectors else (POOLER,), vectors, *self._rest)

    @property
    def _rest(self) -> tuple[Any, ...]:
        return self.layers, self.neurons, self.tokens, self.top, self.dtype, self.prompt, self.before

    def columns(self, checkpoint: Checkpoint, anatomy: Anatomy) -> Mapping[str, Columns]:
        """The neurons of each intermediate module that is to be kept, by its label.

        Raises:
            PartMissing: there is no such layer or neuron, no intermediate module, or no pooler.
            BadSetting: `neurons` cannot be read.
        """
        if POOLER in self.parts:
            require_pooler(checkpoint, anatomy, "take `vector=sentence`, `vector=mean` or `vector=cls` instead")
        if INTERMEDIATE not in self.parts:
            return {}
        if self.neurons is not None:
            return _chosen(anatomy, self.neurons)
        found = {part.label: Columns() for part in select(anatomy, [INTERMEDIATE], self.layers)}
        if not found:
            raise PartMissing(
                "there is no intermediate module", "look at what there is with: bertprobe inspect --shapes"
            )
        return found


@dataclass(frozen=True, slots=True)
class Columns:
    """Neurons of a module, ascending; None are all."""

    numbers: tuple[int, ...] | None = None

    def of(self, values: Any) -> Any:
        """Their columns of (rows, I): the matrix itself, a view of it, or a copy."""
        if self.numbers is None:
            return values
        first, last = self.numbers[0], self.numbers[-1]
        if last - first + 1 == len(self.numbers):
            return values[:, first : last + 1]
        return values[:, list(self.numbers)]

    @property
    def text(self) -> str | None:
        """The numbers with runs drawn together, None for all: `0-511, 1203`."""
        return None if self.numbers is None else spans(self.numbers)


def numbers_in(text: str) -> list[int]:
    """The numbers in what `Columns.text` gives."""
    found: list[int] = []
    for item in text.split(","):
        first, _, last = item.strip().partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


_ITEM = re.compile(r"\s*(?:(-?\d{1,6})\s*:)?\s*(\d{1,9})(?:\s*-\s*(\d{1,9}))?\s*")


def _chosen(anatomy: Anatomy, text: str) -> dict[str, Columns]:
    """Neurons by module: a range without a layer is of the layer that was named before it."""
    found: dict[str, set[int]] = {}
    labels: Sequence[str] = ()
    for item in text.split(","):
        match = _ITEM.fullmatch(item)
        if match is None or (match[1] is None and not labels):
            raise BadSetting(f"{quoted(text)} is not a list of neurons", "write it as 3:0-511,7:1203")
        first, last = int(match[2]), int(match[3] or match[2])
        if first > last:
            raise BadSetting(f"the neurons {item.strip()} run backwards", "write the lower one first")
        if match[1] is not None:
            labels = _labels(anatomy, match[1])
        for label in labels:
            _check_width(anatomy, label, last)
            found.setdefault(label, set()).update(range(first, last + 1))
    order = [part.label for part in anatomy.parts if part.label in found]
    return {label: Columns(tuple(sorted(found[label]))) for label in order}


def _labels(anatomy: Anatomy, layer: str) -> list[str]:
    return [part.label for part in select(anatomy, [INTERMEDIATE], layer)]


def _check_width(anatomy: Anatomy, label: str, last: int) -> None:
    widths = {part.label: part.weight.shape[0] for part in anatomy.parts if part.weight is not None}
    if last >= widths.get(label, last + 1):
        raise PartMissing(f"{label} has no neuron {last:,}", f"it has {widths[label]:,}, from 0")
