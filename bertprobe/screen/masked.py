"""The predictions of masked tokens as what a neuron has an effect on: some tokens of each text are masked.

Letters: N texts, T tokens of a batch, M of them masked, H hidden size, V entries of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bertprobe.backends import TorchBackend
from bertprobe.errors import PartMissing, UnsupportedFile, printable
from bertprobe.lens import Vocabulary, open_vocabulary
from bertprobe.run import HIDDEN, Captured, InOrder, Runner, Site
from bertprobe.tokens import Encoded

if TYPE_CHECKING:
    import numpy.typing as npt

    from bertprobe.tokens import Packed, Tokenizer

    Doubles = npt.NDArray[np.float64]


MASKED_SHARE = 0.15  # of a text's tokens, as in BERT's training
MOST_MASKED = 8  # of one text: a prediction is as many numbers as there are entries, and all are kept


@dataclass(frozen=True, eq=False)
class MaskedOutput:
    """What the model's head predicts for the masked tokens of each text.

    The effect is the mean over masked tokens of the Kullback-Leibler divergence, in nats, of the prediction without the
    neuron from the one with it. `flowing` is the head through which gradients flow, `head` the same without them;
    `mask` is the id of the mask, and `per_text` how many tokens of a text have it on average.
    """

    head: Vocabulary
    flowing: Vocabulary
    mask: int
    per_text: float = 1.0

    name = "masked"
    unit = "nats"
    directions = 4  # a few tokens decide: one number of each ranks neurons less well (docs/tasks/screen.md)
    needs = frozenset({HIDDEN})

    def rows(self, captured: Captured) -> tuple[Tensor, Tensor]:
        """The logits (M, V) of a batch's masked tokens, and which of its texts each is of (M,)."""
        places, texts = masked_rows(captured.batch, self.mask)
        return self.flowing.logits(captured.after[places], after_last=True), torch.as_tensor(texts)

    def scalars(self, rows: tuple[Tensor, Tensor], draws: Sequence[np.random.Generator]) -> Tensor:
        """The logits less their mean, by the prediction's own probabilities p, times their roots and random signs.

        The mean square of its moves is that of the logits by p less the square of their mean, which to second order is
        twice the divergence. To draw an entry by p and take its log-probability has the same mean and heavy tails.
        Tokens of one text have signs of their own, so that their divergences add up.
        """
        logits, texts = rows
        chances = torch.softmax(logits.detach(), 1)
        signs = np.stack([draws[text].integers(0, 2, logits.shape[1]) * 2 - 1 for text in texts.tolist()])
        centred = logits - (chances * logits).sum(1, keepdim=True)
        numbers = (torch.as_tensor(signs).to(logits) * chances.sqrt() * centred).sum(1)
        return numbers.new_zeros(len(draws)).index_add(0, texts.to(numbers.device), numbers)

    def collector(self) -> Predictions:
        return Predictions(self)

    def kept(self, captured: Captured) -> list[npt.NDArray[np.float32]]:
        """The logits of the masked tokens of each text, in numpy."""
        places, texts = masked_rows(captured.batch, self.mask)
        logits = self.head.numbers(captured.after[places], after_last=True)
        return [logits[texts == text] for text in range(len(captured.batch.lengths))]

    def effect(self, untouched: Any, ablated: Any) -> float:
        return float(divergences(untouched, ablated).mean())

    def estimate(self, mean_square: Doubles) -> Doubles:
        return mean_square / (2 * self.per_text)

    def spread(self, untouched: Any) -> float:
        """The mean divergence of the predictions from their mean: what they say of one place and not of all."""
        logs = log_softmax(untouched)
        mean = np.log(np.exp(logs).mean(0))
        return float((np.exp(logs) * (logs - mean)).sum(1).mean())


class Predictions:
    """A collector of the logits of masked tokens, (M, V), text after text in the order of the input."""

    needs = frozenset({HIDDEN})

    def __init__(self, output: MaskedOutput) -> None:
        self._output = output
        self._rows: InOrder[Any] = InOrder()
        self.is_finite = True

    def reduce(self, captured: Captured) -> Any:
        return self._output.kept(captured)

    def add(self, site: Site, batch: Packed, reduced: Any) -> None:
        self.is_finite &= all(np.isfinite(rows).all() for rows in reduced)
        self._rows.put(batch, reduced)

    @property
    def array(self) -> Any:
        """The logits, None of no text."""
        return np.concatenate(list(self._rows)) if len(self._rows) else None


def log_softmax(logits: Any) -> Doubles:
    """Logarithms of probabilities, along the last axis, in float64."""
    exact = logits.astype(np.float64)
    exact -= exact.max(-1, keepdims=True)
    found: Doubles = exact - np.log(np.exp(exact).sum(-1, keepdims=True))
    return found


def divergences(logits: Any, others: Any) -> Doubles:
    """The Kullback-Leibler divergence of others' probabilities from the first's, row by row (N,), in nats."""
    one, other = log_softmax(logits), log_softmax(others)
    found: Doubles = np.maximum((np.exp(one) * (one - other)).sum(-1), 0)  # rounding may leave it below
    return found


# ------------------------------------------------------------------------------------------------ texts


def masked_output(runner: Runner) -> MaskedOutput:
    """The prediction of masked tokens of a model that is on torch.

    Raises:
        PartMissing: the checkpoint has no masked-language-model head.
        UnsupportedFile: its tokenizer has no token for a masked word, or rows of the family are no tokens.
    """
    model, backend = printable(runner.checkpoint.ref), runner.backend
    head = open_vocabulary(runner.anatomy, backend)
    if not head.is_head:
        raise PartMissing(f"{model} has no masked-language-model head", "choose another output, such as sentence")
    word = runner.tokenizer.mask_token
    if not word or not runner.engine.rows_are_tokens or not isinstance(backend, TorchBackend):
        raise UnsupportedFile(f"tokens of {model} cannot be masked one by one", "choose another output, such as mean")
    encoded = runner.tokenizer.encode(word)
    mask = int(encoded.ids[encoded.tokens.index(word)])
    return MaskedOutput(head, replace(head, backend=backend.with_gradients()), mask)


def masked(texts: Iterable[Encoded], tokenizer: Tokenizer, mask: int, seed: int) -> Iterator[Encoded]:
    """The texts with some tokens each replaced by the mask, drawn by the text's place; those that have one stay.

    `MASKED_SHARE` of its tokens are, one at the least. Special tokens are not; a text without others is left out.
    """
    for place, text in enumerate(texts):
        if mask in text.ids:
            yield text
            continue
        free = [i for i, token in enumerate(text.tokens) if token not in tokenizer.special_tokens]
        if not free:
            continue
        count = min(max(round(MASKED_SHARE * len(free)), 1), MOST_MASKED)
        ids = text.ids.copy()
        ids[np.random.default_rng([seed, place]).choice(free, count, replace=False)] = mask
        yield replace(text, ids=ids)


def masked_rows(batch: Packed, mask: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where the masked tokens stand among a batch's, (M,), and which of its texts each is of, (M,)."""
    places = np.flatnonzero(batch.ids == mask)
    return places, np.searchsorted(np.cumsum(batch.lengths), places, side="right")
