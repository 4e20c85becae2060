"""What a neuron may have an effect on: a vector of each text, differentiable in torch, and how its change is measured.

Letters: N texts, T tokens of a batch, H hidden size, E numbers of a vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from bertprobe.backends import ACTIVATIONS
from bertprobe.errors import UnsupportedFile
from bertprobe.run import FIRST, POOLED, Captured, Collector, Vectors
from bertprobe.run.sentence import LAYER_NORM_EPS, LEAST_NORM, Applied, DenseStep, NormStep, Sentence, SentenceVectors

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Doubles = npt.NDArray[np.float64]


class Kept(Collector, Protocol):
    """A collector that ends with a row for each text, in their order."""

    @property
    def array(self) -> Any: ...


class Output(Protocol):
    """What is looked at: `name` as it was asked for, `unit` of an effect, `needs` as collectors have them.

    `directions` are the numbers that are drawn of a text, each a backward pass, where there are texts enough.
    """

    name: str
    unit: str
    directions: int
    needs: frozenset[str]

    def rows(self, captured: Captured) -> Any:
        """What a batch puts out, such as a row for each text, (N, E), through which gradients flow."""
        ...

    def scalars(self, rows: Any, draws: Sequence[np.random.Generator]) -> Tensor:
        """A number for each text (N,) whose squared change is that of the output on average over what is drawn."""
        ...

    def collector(self) -> Kept:
        """What keeps the rows of texts that run without gradients."""
        ...

    def effect(self, untouched: Any, ablated: Any) -> float:
        """How far the output moved over all texts, of rows that `collector` kept."""
        ...

    def estimate(self, mean_square: Doubles) -> Doubles:
        """The same by the mean over texts of the squared change of `scalars`."""
        ...

    def spread(self, untouched: Any) -> float:
        """What an effect is held against: how far outputs of texts lie from each other, in the same unit."""
        ...


class VectorOutput:
    """A vector of each text: `pooled`, `cls`, `mean` or, with a recipe, `sentence`.

    The effect is the root mean square over texts of the distance between the vector with the neuron and without.
    """

    unit = "distance"
    directions = 1

    def __init__(self, name: str, sentence: Sentence | None = None) -> None:
        self.name, self._sentence = name, sentence
        self.needs = self.collector().needs

    def rows(self, captured: Captured) -> Tensor:
        if self._sentence is not None:
            return sentence_rows(self._sentence, captured)
        values: Tensor = captured.after
        return values if captured.site.part in (FIRST, POOLED) else pooled_rows(values, captured.lengths, "mean")

    def scalars(self, rows: Tensor, draws: Sequence[np.random.Generator]) -> Tensor:
        """The product with random signs v: the mean of (v·Δ)² over v is |Δ|² (Hutchinson, 1989)."""
        import numpy as np

        signs = np.stack([draw.integers(0, 2, rows.shape[1]) * 2 - 1 for draw in draws])
        return (rows * torch.as_tensor(signs).to(rows)).sum(1)

    def collector(self) -> Kept:
        return Vectors(self.name) if self._sentence is None else SentenceVectors(self._sentence)

    def effect(self, untouched: Any, ablated: Any) -> float:
        return _root_mean_square(ablated.astype("f8") - untouched)

    def estimate(self, mean_square: Doubles) -> Doubles:
        return mean_square**0.5

    def spread(self, untouched: Any) -> float:
        """The root mean square of the texts' distances from their mean."""
        return _root_mean_square(untouched.astype("f8") - untouched.mean(0, dtype="f8"))


def _root_mean_square(rows: Any) -> float:
    return math.sqrt(float((rows**2).sum(1).mean())) if len(rows) else math.nan


# ------------------------------------------------------------------------------------------------ pooling and after


def sentence_rows(sentence: Sentence, captured: Captured) -> Tensor:
    """The recipe's vector of each text, (N, E): what `Sentence.vectors` gives, with gradients."""
    values: Tensor = captured.after
    if captured.site.part == FIRST:
        made = values
    else:
        pooled = [pooled_rows(values, captured.lengths, mode, sentence.left_out) for mode in sentence.pooling.modes]
        made = torch.cat(pooled, 1)
    for step in sentence.applied:
        made = applied(step, made)
    return made[:, : sentence.recipe.cut.value]


def pooled_rows(hidden: Tensor, lengths: Iterable[int], mode: str, left_out: int = 0) -> Tensor:
    """One vector of each text's states, (T, H) → (N, H), by a pooling mode of sentence-transformers."""
    pool = _POOLINGS.get(mode)
    if pool is None:
        raise UnsupportedFile(f"the pooling {mode!r} has no gradient here", "choose another output: mean or cls")
    texts = torch.split(hidden, [int(length) for length in lengths])
    if any(len(text) <= left_out for text in texts):
        raise UnsupportedFile("a text has no token behind its prompt", "leave it out")
    return torch.stack([pool(text, left_out) for text in texts])


def _weighted(text: Tensor, left_out: int) -> Tensor:
    weights = torch.arange(left_out + 1, len(text) + 1, dtype=text.dtype, device=text.device)
    return weights @ text[left_out:] / weights.sum()


_POOLINGS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "mean": lambda text, left_out: text[left_out:].mean(0),
    "cls": lambda text, left_out: text[left_out],
    "max": lambda text, left_out: text[left_out:].amax(0),
    "lasttoken": lambda text, left_out: text[-1],
    "mean_sqrt_len_tokens": lambda text, left_out: text[left_out:].sum(0) / (len(text) - left_out) ** 0.5,
    "weightedmean": _weighted,
}


def applied(step: Applied, rows: Tensor) -> Tensor:
    """A step behind the pooling, with gradients."""
    functional = torch.nn.functional
    if isinstance(step, DenseStep):
        weight, bias, matrix = (None if x is None else torch.tensor(x).to(rows) for x in _arrays(step))
        out: Tensor = ACTIVATIONS[step.activation][1](functional.linear(rows, weight, bias))  # type: ignore[arg-type]
        if step.residual:
            out = out + (rows if matrix is None else functional.linear(rows, matrix))
        return out
    if isinstance(step, NormStep):
        weight, bias = torch.tensor(step.weight).to(rows), torch.tensor(step.bias).to(rows)
        return functional.layer_norm(rows, weight.shape, weight, bias, LAYER_NORM_EPS)
    return functional.normalize(rows, dim=1, eps=LEAST_NORM)


def _arrays(step: DenseStep) -> tuple[Any, Any, Any]:
    return step.weight, step.bias, step.matrix
