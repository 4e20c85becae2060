"""numpy on the CPU, in float32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np

from bertprobe.backends.activations import ACTIVATIONS, blockwise
from bertprobe.backends.protocol import CPU_TOKENS, Activation, Array, runs
from bertprobe.errors import UnsupportedFile

ROWS = 128  # rows summed at a time, for the same reason; their counts fit a byte


class NumpyBackend:
    """numpy on the CPU, float32: what answers one text before torch would have been imported."""

    name = "numpy"
    device = "cpu"
    dtype = "float32"
    batch_tokens = CPU_TOKENS

    def array(self, values: Array) -> Array:
        # An old pickle's data begin anywhere: products of what is not aligned are slow, and round differently.
        return np.require(values, np.float32, "A")

    def numpy(self, values: Array) -> Array:
        return values

    def gather(self, table: Array, ids: Array) -> Array:
        return np.asarray(table[ids], np.float32)

    def dense(self, x: Array, weight: Array, bias: Array | None) -> Array:
        out = x @ weight.T
        if bias is not None:
            out += bias
        return out

    def layer_norm(self, x: Array, weight: Array, bias: Array, eps: float) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        variance = np.einsum("ij,ij->i", centred, centred)[:, None] / x.shape[-1]
        centred *= 1 / np.sqrt(variance + np.float32(eps))
        centred *= weight
        centred += bias
        return centred

    def attention(self, query: Array, key: Array, value: Array, heads: int, lengths: Sequence[int]) -> Array:
        out = np.empty_like(query)
        one = len(query) == len(lengths) != len(key)
        size = query.shape[-1] // heads
        scale = np.float32(size**-0.5)
        for text, count, length, token in runs(lengths):
            rows = slice(text, text + count) if one else slice(token, token + count * length)
            tokens = slice(token, token + count * length)
            q = query[rows].reshape(count, -1, heads, size).transpose(0, 2, 1, 3) * scale
            k = key[tokens].reshape(count, length, heads, size).transpose(0, 2, 3, 1)
            v = value[tokens].reshape(count, length, heads, size).transpose(0, 2, 1, 3)
            scores = q @ k
            scores -= scores.max(-1, keepdims=True)
            np.exp(scores, out=scores)
            scores /= scores.sum(-1, keepdims=True)
            out[rows] = (scores @ v).transpose(0, 2, 1, 3).reshape(-1, heads * size)
        return out

    def activation(self, name: str) -> Activation:
        function = ACTIVATIONS.get(name, (None, None))[0]
        if function is None:
            raise UnsupportedFile(f"numpy has no activation {name!r} here", 'choose `backend="torch"`')
        return blockwise(function)

    def tanh(self, x: Array) -> Array:
        return np.tanh(x)

    def neuron_sums(self, values: Array, firing: float, small: float) -> tuple[Array, ...]:
        return sums_of_columns((values[start : start + ROWS] for start in range(0, len(values), ROWS)), firing, small)

    def inference(self) -> AbstractContextManager[Any]:
        return np.errstate(all="ignore")  # weights may be NaN or infinite: whoever shows the numbers says so

    def text_means(self, values: Array, lengths: Array) -> Array:
        starts = np.cumsum(lengths) - lengths
        return np.asarray(np.add.reduceat(values, starts, dtype=np.float32) / lengths[:, None], np.float32)

    @property
    def workers(self) -> int:
        from threadpoolctl import threadpool_info

        return max((found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas"), default=1)

    @contextmanager
    def sharing(self) -> Iterator[None]:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1, "blas"):
            yield

    def begin_worker(self) -> None:
        """A BLAS is told for all threads at once, by `sharing`."""


def sums_of_columns(blocks: Iterator[Array], firing: float, small: float) -> tuple[Array, ...]:
    """`neuron_sums` of values that come some rows at a time, at most 255, as numpy float32."""
    found: tuple[Array, ...] = ()
    for rows in blocks:
        block = (
            rows.sum(0),
            np.einsum("ij,ij->j", rows, rows),
            rows.max(0),
            rows.min(0),
            (rows > firing).view(np.uint8).sum(0, dtype=np.uint8),
            (np.abs(rows) < small).view(np.uint8).sum(0, dtype=np.uint8),
        )
        if not found:
            found = tuple(
                np.array(part, dtype) for part, dtype in zip(block, [np.float64] * 4 + [np.int64] * 2, strict=True)
            )
            continue
        for function, sofar, part in zip(
            (np.add, np.add, np.maximum, np.minimum, np.add, np.add), found, block, strict=True
        ):
            function(sofar, part, out=sofar)
    return found
