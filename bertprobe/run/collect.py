"""What is kept of a run: vectors of texts, sums of neurons, matrices, norms and the strongest neurons of tokens.

Letters: N texts, S tokens of a text, H hidden size, I intermediate size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bertprobe.anatomy import Anatomy
from bertprobe.anatomy.poolers import require_pooler
from bertprobe.checkpoint import Checkpoint
from bertprobe.run.captured import FIRST, HIDDEN, POOLED, Captured, InOrder, Site

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from bertprobe.tokens import Packed

    Floats = npt.NDArray[np.float32]

VECTORS: tuple[Literal["pooled", "cls", "mean"], ...] = ("pooled", "cls", "mean")
"""What people take for a text's vector: the pooler's output, the first token's hidden state, the mean of them all."""

SENTENCE: Literal["sentence"] = "sentence"
"""The vector that the model's recipe makes, by `sentence.Sentence`; its width and norm are the recipe's."""

FIRING = 0.0
SMALL = 0.01
ENERGY = 0.9

# ------------------------------------------------------------------------------------------------ vectors of texts

_SITES = {"pooled": POOLED, "cls": FIRST, "mean": HIDDEN}


def require_vector(checkpoint: Checkpoint, anatomy: Anatomy, which: str) -> None:
    """Raises `PartMissing` where the pooled output is asked of a checkpoint without a pooler."""
    if which == "pooled":
        require_pooler(checkpoint, anatomy, "take `vector=sentence`, `vector=mean` or `vector=cls` instead")


def vectors_at(captured: Captured) -> Floats:
    """A vector for each text (N, H): the first token's or the pooled row as it is, of hidden states their mean."""
    if captured.site.part != HIDDEN:
        return captured.numpy()
    means: Floats = captured.backend.text_means(captured.after, captured.lengths)
    return means


class Vectors:
    """One vector of each text: `pooled`, `cls` or `mean`."""

    def __init__(self, which: str) -> None:
        self.needs = frozenset({_SITES[which]})
        self.is_finite = True
        self._rows: InOrder[Floats] = InOrder()

    def reduce(self, captured: Captured) -> Floats:
        return vectors_at(captured)

    def add(self, site: Site, batch: Packed, reduced: Floats) -> None:
        self.is_finite &= is_finite(reduced)
        self._rows.put(batch, reduced)

    @property
    def array(self) -> Floats | None:
        """The vectors (N, H) in the order of the input, None of no text."""
        import numpy as np

        return np.stack(list(self._rows)) if len(self._rows) else None


@dataclass(frozen=True, slots=True, eq=False)
class TextVectors:
    """One text's candidates for a vector, (H,) each, which people mistake for each other.

    `pooled` is the pooler's output, None where there is no pooler; `cls` the first token's last hidden state; `mean`
    the mean of all tokens' last hidden states; `sentence` (E,) what the model's recipe makes of the same tokens, None
    where it was not asked for. `truncated` counts the tokens that were left out.
    """

    tokens: tuple[str, ...]
    truncated: int
    pooled: Floats | None
    cls: Floats
    mean: Floats
    sentence: Floats | None = None


class AllVectors:
    """All three vectors of each text, and its tokens; with `sentence`, which makes it of hidden states, the fourth."""

    needs = frozenset({HIDDEN, POOLED})

    def __init__(self, sentence: Callable[[Captured], Floats] | None = None) -> None:
        self.is_finite = True
        self._sentence = sentence
        self._tokens: InOrder[tuple[tuple[str, ...], int]] = InOrder()
        self._found: dict[str, InOrder[Floats]] = {which: InOrder() for which in (*VECTORS, SENTENCE)}

    def reduce(self, captured: Captured) -> dict[str, Floats]:
        if captured.site.part == POOLED:
            return {"pooled": vectors_at(captured)}
        import numpy as np

        firsts = np.cumsum(captured.lengths) - captured.lengths
        made: dict[str, Floats] = {} if self._sentence is None else {SENTENCE: self._sentence(captured)}
        return {"cls": captured.backend.numpy(captured.after[firsts]), "mean": vectors_at(captured), **made}

    def add(self, site: Site, batch: Packed, reduced: dict[str, Floats]) -> None:
        for which, rows in reduced.items():
            self.is_finite &= is_finite(rows)
            self._found[which].put(batch, rows)
        if site.part == HIDDEN:
            self._tokens.put(batch, zip(batch.tokens, batch.truncated.tolist(), strict=True))

    @property
    def texts(self) -> tuple[TextVectors, ...]:
        """The vectors of each text, in the order of the input."""
        nothing: list[Floats | None] = [None] * len(self._tokens)
        pooled, sentence = (list(self._found[which]) or nothing for which in ("pooled", SENTENCE))
        rows = zip(self._tokens, pooled, self._found["cls"], self._found["mean"], sentence, strict=True)
        return tuple(TextVectors(tokens, cut, *vectors) for (tokens, cut), *vectors in rows)  # type: ignore[arg-type]


def cosines(vectors: Sequence[Floats]) -> list[list[float | None]]:
    """Cosine similarities of N vectors, (N, N), in float64; None where a vector is zero."""
    import numpy as np

    matrix = np.stack(vectors).astype(np.float64)
    norms = np.linalg.norm(matrix, axis=1)
    products = matrix @ matrix.T
    scale = np.outer(norms, norms)
    return [
        [float(p / s) if s else None for p, s in zip(row, scales, strict=True)]
        for row, scales in zip(products, scale, strict=True)
    ]


# ------------------------------------------------------------------------------------------------ neurons


@dataclass(frozen=True, slots=True, eq=False)
class NeuronSums:
    """Running sums of each neuron of a layer over tokens, (I,) each in float64; two add to one.

    `highest` and `lowest` are the extremes, `above` counts tokens on which the neuron is positive, `small` those with
    |a| < 0.01.
    """

    tokens: int
    total: Any
    squares: Any
    highest: Any
    lowest: Any
    above: Any
    small: Any

    def __add__(self, other: NeuronSums) -> NeuronSums:
        import numpy as np

        return NeuronSums(
            self.tokens + other.tokens,
            self.total + other.total,
            self.squares + other.squares,
            np.maximum(self.highest, other.highest),
            np.minimum(self.lowest, other.lowest),
            self.above + other.above,
            self.small + other.small,
        )

    @property
    def count(self) -> int:
        """Activations seen: tokens times neurons."""
        return self.tokens * len(self.total)

    @property
    def mean(self) -> float:
        return float(self.total.sum() / self.count)

    @property
    def std(self) -> float:
        variance = float(self.squares.sum() / self.count) - self.mean**2
        return math.sqrt(max(variance, 0.0))

    @property
    def neurons_for_energy(self) -> int | None:
        """How many neurons carry 90 % of the sum of squares, the strongest first; None where that is no number."""
        import numpy as np

        if not np.isfinite(self.squares).all():
            return None
        energy = np.sort(self.squares)[::-1].cumsum()
        return int(np.searchsorted(energy, ENERGY * energy[-1]) + 1) if energy[-1] else 0

    @property
    def never(self) -> int:
        """Neurons that were positive on no token."""
        return int((self.above == 0).sum())


class NeuronStatistics:
    """The sums of every neuron of some parts, over all tokens: `sums` by site."""

    def __init__(self, labels: Collection[str], *, before: bool = False) -> None:
        self.needs = frozenset(labels)
        self.before = before
        self.sums: dict[Site, NeuronSums] = {}

    def reduce(self, captured: Captured) -> NeuronSums:
        values = captured.values(before=self.before)
        return NeuronSums(int(values.shape[0]), *captured.backend.neuron_sums(values, FIRING, SMALL))

    def add(self, site: Site, batch: Packed, reduced: NeuronSums) -> None:
        self.sums[site] = self.sums[site] + reduced if site in self.sums else reduced

    @property
    def is_finite(self) -> bool:
        """Whether no activation that was seen is NaN or infinite."""
        return all(is_finite(sums.squares) for sums in self.sums.values())


class _PerText:
    """Something kept of each text at each site."""

    def __init__(self, sites: Collection[str], *, before: bool = False) -> None:
        self.needs = frozenset(sites)
        self.before = before
        self.is_finite = True
        self._kept: dict[Site, InOrder[Any]] = {}
        self._tokens: InOrder[tuple[str, ...]] = InOrder()

    def add(self, site: Site, batch: Packed, reduced: Sequence[Any]) -> None:
        self._kept.setdefault(site, InOrder()).put(batch, reduced)
        self._tokens.put(batch, batch.tokens)

    @property
    def kept(self) -> Mapping[Site, tuple[Any, ...]]:
        """By site what was kept of each text, in the order of the input."""
        return {site: tuple(found) for site, found in self._kept.items()}

    @property
    def tokens(self) -> tuple[tuple[str, ...], ...]:
        """The tokens of each text, in the order of the input."""
        return tuple(self._tokens)


class Matrices(_PerText):
    """The values themselves: a matrix (S, I) of each text at each site."""

    def reduce(self, captured: Captured) -> list[Floats]:
        return captured.texts(before=self.before)

    def add(self, site: Site, batch: Packed, reduced: Sequence[Floats]) -> None:
        self.is_finite &= all(is_finite(matrix) for matrix in reduced)
        super().add(site, batch, reduced)


class TokenNorms(_PerText):
    """The root mean square of each token's activations: (S,) float64 of each text at each site."""

    def reduce(self, captured: Captured) -> list[Any]:
        import numpy as np

        return [np.sqrt(np.square(m, dtype=np.float64).mean(1)) for m in captured.texts(before=self.before)]


class Strongest(_PerText):
    """The `most` neurons of largest magnitude of each token, strongest first, at each site."""

    def __init__(self, sites: Collection[str], most: int, *, before: bool = False) -> None:
        super().__init__(sites, before=before)
        self._most = most

    def reduce(self, captured: Captured) -> list[list[list[dict[str, Any]]]]:
        return [[strongest(row, self._most) for row in matrix] for matrix in captured.texts(before=self.before)]


def strongest(values: Floats, most: int) -> list[dict[str, Any]]:
    """The neurons of largest magnitude in a row (I,), strongest first: `{neuron, value}`."""
    import numpy as np

    order = np.argsort(-np.abs(values), kind="stable")[:most]
    return [{"neuron": int(i), "value": float(values[i])} for i in order]


def is_finite(values: Any) -> bool:
    """Whether no number of an array is NaN or infinite."""
    import numpy as np

    return bool(np.isfinite(values).all())
