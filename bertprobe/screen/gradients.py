"""What taking out each neuron would change, to first order: one backward pass a text tells it of all neurons at once.

With the neuron's activation a on each token, the value c it would be given instead and the gradient g of a number s of
the output, s moves by the sum over tokens of (c - a) g. The numbers are drawn so that the mean square of their moves is
that of the output (`Output.scalars`).

Letters: N texts, T tokens of a batch, I intermediate size, S numbers drawn in all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bertprobe.errors import BertprobeError, UnsupportedFile, printable
from bertprobe.run import Captured, Runner

if TYPE_CHECKING:
    from bertprobe.screen.outputs import Output
    from bertprobe.tokens import Encoded

Doubles = npt.NDArray[np.float64]
Advance = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Sums:
    """Of a layer's neurons: sums over the numbers drawn of the squares and fourth powers of their moves, (I,) each."""

    squares: Doubles
    fourths: Doubles


@dataclass
class Estimates:
    """The moves of each layer's neurons, added up; `count` numbers were drawn over `texts` texts of `tokens` tokens."""

    layers: dict[int, Sums] = field(default_factory=dict)
    count: int = 0
    texts: int = 0
    tokens: int = 0

    def mean_squares(self, layer: int) -> Doubles:
        """The mean square of the moves of a layer's neurons, (I,)."""
        found: Doubles = self.layers[layer].squares / self.count
        return found

    def relative_errors(self, layer: int) -> Doubles:
        """The standard errors of `mean_squares` as shares of them, (I,); NaN where nothing moves."""
        squares, fourths = self.layers[layer].squares, self.layers[layer].fourths
        with np.errstate(invalid="ignore", divide="ignore"):
            variance = np.maximum(fourths / self.count - (squares / self.count) ** 2, 0)
            errors: Doubles = np.sqrt(variance / self.count) / (squares / self.count)
        return errors


def estimated(
    runner: Runner,
    texts: Iterable[Encoded],
    output: Output,
    layers: Sequence[int],
    *,
    seed: int = 0,
    directions: int = 1,
    means: Mapping[int, Sequence[float]] | None = None,
    advance: Advance = lambda texts, tokens: None,
) -> Estimates:
    """What taking out each neuron of some layers would change in an output, to first order.

    Args:
        runner: a model on torch, with the parts that `output` needs.
        texts: as tokens; each is run once, forwards and backwards.
        output: what is looked at.
        layers: whose neurons.
        seed: of the numbers that are drawn, which depend on it and on a text's place alone.
        directions: numbers drawn of each text, a backward pass each.
        means: what neurons are given instead, by layer; None for zero.
        advance: called with the texts and tokens of each batch.

    Raises:
        UnsupportedFile: gradients do not reach a layer.
        BertprobeError: a gradient is NaN or infinite.
    """
    found = Estimates()
    pass_ = _Pass(runner, output, layers, seed, directions, means, found)
    for batch in runner.packed(texts):
        pass_.run(batch)
        found.texts += len(batch.lengths)
        found.tokens += len(batch.ids)
        advance(len(batch.lengths), len(batch.ids))
    return found


class _Pass:
    """One forward and backward pass after the other, and what they add up to."""

    def __init__(
        self,
        runner: Runner,
        output: Output,
        layers: Sequence[int],
        seed: int,
        directions: int,
        means: Mapping[int, Sequence[float]] | None,
        found: Estimates,
    ) -> None:
        runner.engine.share()  # weights that are first read while nothing is kept for gradients could not be used here
        self._engine = copy(runner.engine).with_gradients()
        self._engine.edit = self._heard
        self._output, self._seed, self._directions, self._found = output, seed, directions, found
        self._layers = {f"intermediate.{layer}": layer for layer in layers}
        to = means or {}
        self._instead = {layer: runner.backend.array(np.asarray(to[layer], np.float32)) for layer in to}
        self._after: list[tuple[int, Tensor]] = []
        self._model = printable(runner.checkpoint.ref)

    def run(self, batch: Any) -> None:
        self._engine.run(batch, self._output.needs, self._tap)

    def _heard(self, label: str, before: Tensor, after: Tensor) -> Tensor:
        if label not in self._layers:
            return after
        heard = after if after.requires_grad else after.detach().requires_grad_()
        self._after.append((self._layers[label], heard))
        return heard

    def _tap(self, captured: Captured) -> None:
        heard, self._after = self._after, []
        with torch.enable_grad():
            self._backward(heard, captured)

    def _backward(self, heard: Sequence[tuple[int, Tensor]], captured: Captured) -> None:
        rows = self._output.rows(captured)
        texts = captured.batch.places.tolist()
        for direction in range(self._directions):
            draws = [np.random.default_rng([self._seed, direction, text]) for text in texts]
            numbers = self._output.scalars(rows, draws)
            if not numbers.requires_grad:  # as Reformer's, whose layers are undone and run again on the way back
                raise self._unreached(heard[0][0])
            more = direction + 1 < self._directions
            gradients = torch.autograd.grad(
                numbers.sum(), [after for _, after in heard], retain_graph=more, allow_unused=True
            )
            self._add(heard, gradients, captured)

    def _add(self, heard: Sequence[tuple[int, Tensor]], gradients: Sequence[Tensor | None], captured: Captured) -> None:
        lengths = captured.batch.lengths
        moves: dict[int, Tensor] = {}
        with torch.no_grad():
            for (layer, after), gradient in zip(heard, gradients, strict=True):
                if gradient is None:
                    raise self._unreached(layer)
                instead = self._instead.get(layer)
                products = gradient * (-after if instead is None else instead - after)
                moved = _of_texts(products, lengths)
                moves[layer] = moves[layer] + moved if layer in moves else moved  # a shared module is called again
        for layer, moved in moves.items():
            squares = moved.double().cpu().numpy() ** 2
            if not np.isfinite(squares).all():
                raise BertprobeError(
                    f"a gradient of {self._model} is NaN or infinite", "look at its weights with: bertprobe inspect"
                )
            old = self._found.layers.get(layer)
            sums = Sums(squares.sum(0), (squares**2).sum(0))
            self._found.layers[layer] = (
                sums if old is None else Sums(old.squares + sums.squares, old.fourths + sums.fourths)
            )
        self._found.count += len(lengths)

    def _unreached(self, layer: int) -> UnsupportedFile:
        return UnsupportedFile(
            f"what {self._model} puts out does not depend on layer {layer} in a way that has gradients",
            "leave the layer out with `layers=`",
        )


def _of_texts(rows: Tensor, lengths: Any) -> Tensor:
    """The sum of each text's rows, (N, I): a row a token, or one a text where only first tokens ran."""
    if len(lengths) == 1:
        return rows.sum(0, keepdim=True)
    if len(rows) == len(lengths):
        return rows
    texts = torch.arange(len(lengths)).repeat_interleave(torch.as_tensor(lengths)).to(rows.device)
    return rows.new_zeros((len(lengths), rows.shape[1])).index_add_(0, texts, rows)
