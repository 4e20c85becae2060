"""What an array library has to do for `layers`, and how texts of equal length lie side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import groupby
from typing import Any, Protocol

# Tokens of a batch: on a processor what two layers' activations need stays in its cache, and the allocator hands the
# same pages out again (16,384 took up to 1.4 times as long on MiniLM); a GPU wants work for all its cores.
CPU_TOKENS = 2048
GPU_TOKENS = 16_384

Array = Any
Activation = Callable[[Array], Array]


class Backend(Protocol):
    """An array library on a device, at a dtype; `batch_tokens` is how many tokens it likes to see at once."""

    name: str
    device: str
    dtype: str
    batch_tokens: int

    def array(self, values: Array) -> Array:
        """A stored tensor as this library's, without a copy where dtype and device allow."""
        ...

    def numpy(self, values: Array) -> Array:
        """Values as a numpy float32 array."""
        ...

    def gather(self, table: Array, ids: Array) -> Array:
        """Rows (T, H) of a table (V, H), in the compute dtype; the table itself is not converted."""
        ...

    def dense(self, x: Array, weight: Array, bias: Array | None) -> Array:
        """x Wᵀ + b: (T, in) → (T, out), W (out, in)."""
        ...

    def layer_norm(self, x: Array, weight: Array, bias: Array, eps: float) -> Array:
        """Layer norm over the last axis."""
        ...

    def attention(self, query: Array, key: Array, value: Array, heads: int, lengths: Sequence[int]) -> Array:
        """softmax(q kᵀ / √d) v within each text; key and value (T, H), query (T, H) or (N, H) for one row a text."""
        ...

    def activation(self, name: str) -> Activation:
        """The activation of that name, `UnsupportedFile` where this library has none."""
        ...

    def tanh(self, x: Array) -> Array:
        """Hyperbolic tangent."""
        ...

    def neuron_sums(self, values: Array, firing: float, small: float) -> tuple[Array, ...]:
        """Of each column of (T, I): sum, squares, maximum, minimum, entries above `firing`, and below `small` in size.

        As numpy float64 and int64 (I,). Sums are of float32 over 128 rows at the most, from there on of float64.
        """
        ...

    def inference(self) -> AbstractContextManager[Any]:
        """Within it, nothing is kept for gradients."""
        ...

    def text_means(self, values: Array, lengths: Array) -> Array:
        """Of rows (T, H) the mean over each text's rows, as numpy float32 (N, H)."""
        ...

    @property
    def workers(self) -> int:
        """How many batches may run side by side: as many as there are threads, on a GPU two, of which one computes."""
        ...

    def sharing(self) -> AbstractContextManager[None]:
        """Within it, workers may call the operations side by side, each on one thread; then all is as it was."""
        ...

    def begin_worker(self) -> None:
        """What a worker's thread calls first."""
        ...


def runs(lengths: Sequence[int], most: int | None = None) -> Iterator[tuple[int, int, int, int]]:
    """Texts of equal length side by side: (first text, number of texts, their length, first token) of each run.

    A run has at most `most` tokens where that is given, but for a text that is longer alone.
    """
    text = token = 0
    for length, group in groupby(lengths):
        left = len(list(group))
        step = left if most is None else max(most // length, 1)
        while left:
            count = min(step, left)
            yield text, count, int(length), token
            text, left = text + count, left - count
            token += count * int(length)
