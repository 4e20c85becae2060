"""torch on any of its devices, in float32, bfloat16 or float16."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, lru_cache, partial
from itertools import accumulate
from math import prod
from typing import Any

from bertprobe.backends.activations import ACTIVATIONS
from bertprobe.backends.numpy import ROWS, NumpyBackend, sums_of_columns
from bertprobe.backends.protocol import CPU_TOKENS, GPU_TOKENS, Activation, Array, runs
from bertprobe.errors import UnsupportedFile

MANY_LENGTHS = 2  # a call of attention for each on a GPU; more of them are padded to one length and done in one call
MOST_PADDING = 1.5  # rows to tokens
ALIGNED = 64  # bytes
PIECE = 2**16  # elements that one thread has torch make at a time in memory of torch's own

_ALONE: ContextVar[bool] = ContextVar("alone", default=False)
"""Whether one thread of a processor computes a pass, as in a worker: what it makes lies in memory of numpy's then.

torch asks for memory at multiples of 64 bytes, for which glibc often does not take what was given back, but more (its
bug 14581): batch by batch gaps come to hundreds of megabytes. Threads that compute together take few batches, and would
wait for each other at every piece.
"""


class TorchBackend:
    """torch on any of its devices, in float32, bfloat16 or float16."""

    name = "torch"

    def __init__(self, device: str = "cpu", dtype: str = "float32") -> None:
        import torch

        self.device, self.dtype = device, dtype
        self.batch_tokens = CPU_TOKENS if device == "cpu" else GPU_TOKENS
        self._device, self._dtype = torch.device(device), getattr(torch, dtype)

    def array(self, values: Array) -> Array:
        import torch

        # A weight may be read for the first time within `inference`, and be wanted by gradients later.
        with torch.inference_mode(False):
            # A matrix that is stored the other way round is laid out anew: its products would round otherwise.
            return _as_torch(values).to(self._device, self._dtype).contiguous()

    def stored(self, values: Array) -> Array:
        """A copy of a stored tensor in the dtype it is stored in."""
        return _as_torch(values).contiguous().clone()

    def exact(self, values: Array) -> Array:
        """Values as numpy float64, for comparing."""
        return values.detach().double().cpu().numpy()

    def numpy(self, values: Array) -> Array:
        return values.detach().float().cpu().numpy()

    def gather(self, table: Array, ids: Array) -> Array:
        import torch

        if isinstance(table, torch.Tensor):
            return table[torch.as_tensor(ids).to(table.device)].to(self._device, self._dtype)
        return _as_torch(table[ids]).to(self._device, self._dtype)

    def dense(self, x: Array, weight: Array, bias: Array | None) -> Array:
        import torch

        if not _ALONE.get() or x.ndim != 2:
            return torch.nn.functional.linear(x, weight, bias)
        out = _empty((len(x), len(weight)), x.dtype)
        return torch.mm(x, weight.t(), out=out) if bias is None else torch.addmm(bias, x, weight.t(), out=out)

    def layer_norm(self, x: Array, weight: Array, bias: Array, eps: float) -> Array:
        from torch.nn.functional import layer_norm

        return _by_rows(lambda rows: layer_norm(rows, weight.shape, weight, bias, eps), x)

    def attention(self, query: Array, key: Array, value: Array, heads: int, lengths: Sequence[int]) -> Array:
        from torch.nn.functional import scaled_dot_product_attention

        size = query.shape[-1] // heads
        one = len(query) == len(lengths) != len(key)
        ragged = _ragged_attention(self.device, self.dtype, size)
        if ragged is not None:
            ends = _boundaries((1,) * len(lengths) if one else tuple(lengths), self._device)
            q, k, v = (x.view(-1, heads, size) for x in (query, key, value))
            longest = max(lengths, default=0)
            of_keys = _boundaries(tuple(lengths), self._device)
            mixed = ragged(q, k, v, ends, of_keys, 1 if one else longest, longest, scale=size**-0.5)
            return mixed.reshape(query.shape)
        if self.device != "cpu" and _padding_is_little(lengths):
            return _padded_attention(query, key, value, heads, tuple(lengths), one)
        alone = _ALONE.get()
        out = _empty(query.shape, query.dtype) if alone else query.new_empty(query.shape)
        for text, count, length, token in runs(lengths, PIECE // query.shape[-1] if alone else None):
            rows = slice(text, text + count) if one else slice(token, token + count * length)
            tokens = slice(token, token + count * length)
            q, k, v = (
                x.view(count, -1, heads, size).transpose(1, 2) for x in (query[rows], key[tokens], value[tokens])
            )
            mixed = scaled_dot_product_attention(q, k, v, scale=size**-0.5)
            out[rows] = mixed.transpose(1, 2).reshape(-1, heads * size)
        return out

    def activation(self, name: str) -> Activation:
        function = ACTIVATIONS.get(name, (None, None))[1]
        if function is None:
            raise UnsupportedFile(f"the activation {name!r} is not known", f"known are {', '.join(ACTIVATIONS)}")
        return partial(_by_rows, function)

    def tanh(self, x: Array) -> Array:
        import torch

        return torch.tanh(x)

    def neuron_sums(self, values: Array, firing: float, small: float) -> tuple[Array, ...]:
        import torch

        if self.device == "cpu":  # torch's own reductions over rows take five times as long
            starts = range(0, len(values), ROWS)
            return sums_of_columns((self.numpy(values[start : start + ROWS]) for start in starts), firing, small)
        wide = torch.float32 if self.device == "mps" else torch.float64
        found = (
            values.sum(0, dtype=wide),
            values.square().sum(0, dtype=wide),
            values.amax(0).to(wide),
            values.amin(0).to(wide),
            (values > firing).sum(0).to(wide),  # a count of rows, which these hold exactly
            (values.abs() < small).sum(0).to(wide),
        )
        rows = torch.stack(found).cpu().double().numpy()  # one wait for the device instead of six
        return (*rows[:4], *rows[4:].astype("int64"))

    @contextmanager
    def inference(self) -> Iterator[None]:
        import torch

        token = _ALONE.set(self.device == "cpu" and torch.get_num_threads() == 1)
        try:
            with torch.inference_mode():
                yield
        finally:
            _ALONE.reset(token)

    def with_gradients(self) -> TorchBackend:
        """The same, keeping within `inference` what gradients need."""
        return _Gradients(self.device, self.dtype)

    def text_means(self, values: Array, lengths: Array) -> Array:
        import torch

        if self.device == "cpu":
            return NumpyBackend().text_means(self.numpy(values), lengths)
        texts = torch.arange(len(lengths)).repeat_interleave(torch.as_tensor(lengths)).to(values.device)
        wide = torch.float32 if self.device == "mps" else torch.float64  # in which the order of summing is nothing
        sums = values.new_zeros((len(lengths), values.shape[-1]), dtype=wide).index_add_(0, texts, values.to(wide))
        return self.numpy(sums / torch.as_tensor(lengths).to(values.device, wide)[:, None])

    @property
    def workers(self) -> int:
        import torch

        return torch.get_num_threads() if self.device == "cpu" else 2

    @contextmanager
    def sharing(self) -> Iterator[None]:
        import torch

        threads = torch.get_num_threads()
        try:
            yield
        finally:
            torch.set_num_threads(threads)  # some of its libraries count threads for the process, not for a thread

    def begin_worker(self) -> None:
        import torch

        torch.set_num_threads(1)

    @classmethod
    def on(cls, device: str, dtype: str, threads: int | None = None) -> TorchBackend:
        """The backend on a device, `auto` the best there is; raises `UnsupportedFile` for one that is not there."""
        import torch

        there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if device == "auto":
            device = next(name for name in ("cuda", "mps", "cpu") if there[name])
        if not there.get(device, False):
            found = ", ".join(name for name in there if there[name])
            raise UnsupportedFile(f"torch has no device {device!r} here", f"choose {found}")
        if threads is not None:
            torch.set_num_threads(threads)
        return cls(device, dtype)


class _Gradients(TorchBackend):
    """A backend under whose `inference` gradients flow; one thread makes no memory of its own then."""

    @contextmanager
    def inference(self) -> Iterator[None]:
        import torch

        with torch.enable_grad():
            yield


def _empty(shape: Sequence[int], dtype: Any) -> Array:
    """A tensor in memory of numpy's; it begins at a multiple of 64 bytes, by which products may round."""
    import numpy as np
    import torch

    size = prod(shape) * dtype.itemsize
    memory = torch.from_numpy(np.empty(size + ALIGNED, np.uint8))
    start = -memory.data_ptr() % ALIGNED
    return memory[start : start + size].view(dtype).view(*shape)


def _by_rows(function: Activation, x: Array) -> Array:
    """A function of rows, or of elements; where one thread computes, of some rows at a time."""
    if not _ALONE.get() or x.ndim != 2 or x.numel() <= PIECE:
        return function(x)
    out, rows = _empty(x.shape, x.dtype), max(PIECE // x.shape[-1], 1)
    for given, filled in zip(x.split(rows), out.split(rows), strict=True):
        filled.copy_(function(given))
    return out


@cache
def _ragged_attention(device: str, dtype: str, size: int) -> Callable[..., Array] | None:
    """torch's attention over texts of any lengths in one call, None where it has none for this.

    It is flash attention: for half precision on GPUs of compute capability 8.0 and more, heads of at most 256 in steps
    of 8. Split keys would make a text's numbers depend on its neighbours, so they are off where that can be said.
    """
    if device != "cuda" or dtype == "float32" or size % 8 or size > 256:
        return None
    import inspect

    import torch

    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # before torch 2.10
        return None
    parameters = inspect.signature(varlen_attn).parameters
    if torch.cuda.get_device_capability()[0] < 8 or "scale" not in parameters:
        return None
    return partial(varlen_attn, num_splits=1) if "num_splits" in parameters else varlen_attn


def _padding_is_little(lengths: Sequence[int]) -> bool:
    """Whether texts of several lengths come to hardly more rows when each is made as long as the longest."""
    return len(set(lengths)) > MANY_LENGTHS and len(lengths) * max(lengths) <= MOST_PADDING * sum(lengths)


def _padded_attention(query: Array, key: Array, value: Array, heads: int, lengths: tuple[int, ...], one: bool) -> Array:
    """`attention` in one call for all texts: they are put into rows of the longest's length, and the rest is masked."""
    from torch.nn.functional import scaled_dot_product_attention

    size, count, longest = query.shape[-1] // heads, len(lengths), max(lengths)
    place, mask = _padding(lengths, query.device)

    def spread(x: Array) -> Array:
        rows = x.new_zeros((count * longest, x.shape[-1]))
        rows[place] = x
        return rows.view(count, longest, heads, size).transpose(1, 2)

    asking = query.view(count, 1, heads, size).transpose(1, 2) if one else spread(query)
    mixed = scaled_dot_product_attention(asking, spread(key), spread(value), attn_mask=mask, scale=size**-0.5)
    rows = mixed.transpose(1, 2).reshape(-1, heads * size)
    return rows if one else rows[place]


@lru_cache(maxsize=8)
def _padding(lengths: tuple[int, ...], device: Any) -> tuple[Array, Array]:
    """Where each token stands when texts are padded to the longest (T,), and which places are tokens (N, 1, 1, S)."""
    import torch

    count, longest = torch.tensor(lengths), max(lengths)
    mask = torch.arange(longest)[None] < count[:, None]
    return mask.flatten().nonzero().flatten().to(device), mask[:, None, None, :].to(device)


@lru_cache(maxsize=8)
def _boundaries(lengths: tuple[int, ...], device: Any) -> Array:
    """Where each text begins and the last one ends, (N + 1,), kept on the device from layer to layer."""
    import torch

    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


def _as_torch(values: Array) -> Array:
    """A numpy array as a tensor over the same memory; ml_dtypes' types by way of their bits."""
    import torch

    if isinstance(values, torch.Tensor):
        return values
    if not values.flags.aligned:
        values = values.copy()
    if values.dtype.kind in "fiub":
        return torch.from_numpy(values if values.flags.writeable else values.copy())
    bits = values.view(f"u{values.dtype.itemsize}")
    return torch.from_numpy(bits if bits.flags.writeable else bits.copy()).view(getattr(torch, values.dtype.name))
