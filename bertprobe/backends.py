"""The few operations in which numpy and torch differ; everything else in `layers` is said once for both.

A row of `BACKENDS` is made for a device and a dtype. Arrays are packed: (T, H) for the T tokens of all texts, with the
length of each text beside them; nothing is ever padded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache, lru_cache, partial
from itertools import accumulate, groupby
from typing import Any, Protocol

from bertprobe.errors import UnsupportedFile

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


def runs(lengths: Sequence[int]) -> Iterator[tuple[int, int, int, int]]:
    """Texts of equal length side by side: (first text, number of texts, their length, first token) of each run."""
    text = token = 0
    for length, group in groupby(lengths):
        count = len(list(group))
        yield text, count, int(length), token
        text += count
        token += count * int(length)


# ------------------------------------------------------------------------------------------------ numpy

BLOCK = 2**16  # elements of an activation done at a time, so that its intermediate results stay in cache
ROWS = 128  # rows summed at a time, for the same reason; their counts fit a byte
# Tokens of a batch: on a processor what two layers' activations need stays in its cache, and the allocator hands the
# same pages out again (16,384 took up to 1.4 times as long on MiniLM); a GPU wants work for all its cores.
CPU_TOKENS = 2048
GPU_TOKENS = 16_384
MANY_LENGTHS = 2  # a call of attention for each on a GPU; more of them are padded to one length and done in one call
MOST_PADDING = 1.5  # rows to tokens


class NumpyBackend:
    """numpy on the CPU, float32: what answers one text before torch would have been imported."""

    name = "numpy"
    device = "cpu"
    dtype = "float32"
    batch_tokens = CPU_TOKENS

    def array(self, values: Array) -> Array:
        import numpy as np

        # An old pickle's data begin anywhere: products of what is not aligned are slow, and round differently.
        return np.require(values, np.float32, "A")

    def numpy(self, values: Array) -> Array:
        return values

    def gather(self, table: Array, ids: Array) -> Array:
        import numpy as np

        return np.asarray(table[ids], np.float32)

    def dense(self, x: Array, weight: Array, bias: Array | None) -> Array:
        out = x @ weight.T
        if bias is not None:
            out += bias
        return out

    def layer_norm(self, x: Array, weight: Array, bias: Array, eps: float) -> Array:
        import numpy as np

        centred = x - x.mean(-1, keepdims=True)
        variance = np.einsum("ij,ij->i", centred, centred)[:, None] / x.shape[-1]
        centred *= 1 / np.sqrt(variance + np.float32(eps))
        centred *= weight
        centred += bias
        return centred

    def attention(self, query: Array, key: Array, value: Array, heads: int, lengths: Sequence[int]) -> Array:
        import numpy as np

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
        import numpy as np

        return np.tanh(x)

    def neuron_sums(self, values: Array, firing: float, small: float) -> tuple[Array, ...]:
        return _neuron_sums((values[start : start + ROWS] for start in range(0, len(values), ROWS)), firing, small)

    def inference(self) -> AbstractContextManager[Any]:
        import numpy as np

        return np.errstate(all="ignore")  # weights may be NaN or infinite: whoever shows the numbers says so

    def text_means(self, values: Array, lengths: Array) -> Array:
        import numpy as np

        starts = np.cumsum(lengths) - lengths
        return np.asarray(np.add.reduceat(values, starts, dtype=np.float32) / lengths[:, None], np.float32)

    @property
    def workers(self) -> int:
        import numpy as np  # noqa: F401  # its BLAS must be loaded to be asked
        from threadpoolctl import threadpool_info

        return max((found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas"), default=1)

    @contextmanager
    def sharing(self) -> Iterator[None]:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1, "blas"):
            yield

    def begin_worker(self) -> None:
        """A BLAS is told for all threads at once, by `sharing`."""


def _neuron_sums(blocks: Iterator[Array], firing: float, small: float) -> tuple[Array, ...]:
    """`neuron_sums` of values that come some rows at a time, at most 255, as numpy float32."""
    import numpy as np

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


def blockwise(function: Activation) -> Activation:
    """An elementwise function done block by block."""

    def apply(x: Array) -> Array:
        import numpy as np

        out = np.empty(x.shape, x.dtype)
        flat, filled = np.ascontiguousarray(x).reshape(-1), out.reshape(-1)
        for start in range(0, flat.size, BLOCK):
            filled[start : start + BLOCK] = function(flat[start : start + BLOCK])
        return out

    return apply


# erf(x) ≈ x P(x²) / Q(x²) for |x| ≤ 3.92, beyond which float32's erf is ±1: least maximal relative error, 2e-9 before
# rounding; evaluated in float32 it stays within 4e-7 of erf (test_backends measures it).
_ERF_LIMIT = 3.92
_ERF_P = (
    -1.2800719890439183e-08,
    4.609419749688653e-06,
    3.767652691210979e-04,
    3.8386164981611104e-03,
    5.4244057683457574e-02,
    1.8513465378699448e-01,
    1.1283791691601883,
)
_ERF_Q = (
    6.240092528124118e-05,
    1.3015320172786277e-03,
    1.5430058861531263e-02,
    1.13873637849454e-01,
    4.974047214643793e-01,
    1.0,
)


def erf(x: Array) -> Array:
    """The error function of a float32 array, elementwise, to float32's accuracy."""
    import numpy as np

    x = np.clip(x, -_ERF_LIMIT, _ERF_LIMIT)
    square = x * x
    found = x * _horner(_ERF_P, square) / _horner(_ERF_Q, square)
    # A rounding beyond ±1 would make gelu change its sign far from zero, and neurons seem to fire.
    return np.clip(found, -1, 1, out=found)


def _horner(coefficients: Sequence[float], x: Array) -> Array:
    import numpy as np

    value = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value *= x
        value += x.dtype.type(coefficient)
    return value


def _np(name: str) -> Any:
    import numpy as np

    return getattr(np, name)


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1 + _np("tanh")(0.5 * x))


def _tanh_gelu(x: Array) -> Array:
    return 0.5 * x * (1 + _np("tanh")(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


# ------------------------------------------------------------------------------------------------ torch


class TorchBackend:
    """torch on any of its devices, in float32, bfloat16 or float16."""

    name = "torch"

    def __init__(self, device: str = "cpu", dtype: str = "float32") -> None:
        import torch

        self.device, self.dtype = device, dtype
        self.batch_tokens = CPU_TOKENS if device == "cpu" else GPU_TOKENS
        self._device, self._dtype = torch.device(device), getattr(torch, dtype)

    def array(self, values: Array) -> Array:
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
        from torch.nn.functional import linear

        return linear(x, weight, bias)

    def layer_norm(self, x: Array, weight: Array, bias: Array, eps: float) -> Array:
        from torch.nn.functional import layer_norm

        return layer_norm(x, weight.shape, weight, bias, eps)

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
        out = query.new_empty(query.shape)
        for text, count, length, token in runs(lengths):
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
        return function

    def tanh(self, x: Array) -> Array:
        import torch

        return torch.tanh(x)

    def neuron_sums(self, values: Array, firing: float, small: float) -> tuple[Array, ...]:
        import torch

        if self.device == "cpu":  # torch's own reductions over rows take five times as long
            starts = range(0, len(values), ROWS)
            return _neuron_sums((self.numpy(values[start : start + ROWS]) for start in starts), firing, small)
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

    def inference(self) -> AbstractContextManager[Any]:
        import torch

        return torch.inference_mode()

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


def _torch(name: str) -> Any:
    import torch

    return getattr(torch, name)


def _functional(name: str, **options: Any) -> Activation:
    def apply(x: Array) -> Array:
        import torch

        return getattr(torch.nn.functional, name)(x, **options)

    return apply


def _cubed(x: Array) -> Array:
    return _torch("tanh")(math.sqrt(2.0 / math.pi) * (x + 0.044715 * _torch("pow")(x, 3.0)))


# The order of factors is transformers': it decides how values and gradients round.
def _gelu_new(x: Array) -> Array:
    return 0.5 * x * (1.0 + _cubed(x))


def _gelu_python_tanh(x: Array) -> Array:
    return x * 0.5 * (1.0 + _cubed(x))


def _laplace(x: Array) -> Array:
    return 0.5 * (1.0 + _torch("erf")((x - 0.707107).div(0.282095 * math.sqrt(2.0))))


ACTIVATIONS: dict[str, tuple[Activation | None, Activation]] = {
    "gelu": (lambda x: 0.5 * x * (1 + erf(x * math.sqrt(0.5))), _functional("gelu")),
    "gelu_10": (
        lambda x: _np("clip")(0.5 * x * (1 + erf(x * math.sqrt(0.5))), -10, 10),
        lambda x: _torch("clip")(_functional("gelu")(x), -10, 10),
    ),
    "gelu_fast": (
        _tanh_gelu,
        lambda x: 0.5 * x * (1.0 + _torch("tanh")(x * 0.7978845608 * (1.0 + 0.044715 * x * x))),
    ),
    "gelu_new": (_tanh_gelu, _gelu_new),
    "gelu_python": (
        lambda x: 0.5 * x * (1 + erf(x * math.sqrt(0.5))),
        lambda x: x * 0.5 * (1.0 + _torch("erf")(x / math.sqrt(2.0))),
    ),
    "gelu_pytorch_tanh": (_tanh_gelu, _functional("gelu", approximate="tanh")),
    "gelu_python_tanh": (_tanh_gelu, _gelu_python_tanh),
    "gelu_accurate": (_tanh_gelu, _gelu_new),
    "hardswish": (lambda x: x * _np("clip")(x + 3, 0, 6) / 6, _functional("hardswish")),
    "laplace": (lambda x: 0.5 * (1 + erf((x - 0.707107) / (0.282095 * math.sqrt(2.0)))), _laplace),
    "leaky_relu": (lambda x: _np("where")(x > 0, x, 0.01 * x), _functional("leaky_relu")),
    "linear": (lambda x: x, lambda x: x),
    "mish": (lambda x: x * _np("tanh")(_np("logaddexp")(0, x)), _functional("mish")),
    "quick_gelu": (lambda x: x * _sigmoid(1.702 * x), lambda x: x * _torch("sigmoid")(1.702 * x)),
    "relu": (lambda x: _np("maximum")(x, 0), _functional("relu")),
    "relu2": (lambda x: _np("square")(_np("maximum")(x, 0)), lambda x: _functional("relu")(x).square()),
    "relu6": (lambda x: _np("clip")(x, 0, 6), _functional("relu6")),
    "sigmoid": (_sigmoid, lambda x: _torch("sigmoid")(x)),
    "silu": (lambda x: x * _sigmoid(x), _functional("silu")),
    "sqrtsoftplus": (
        lambda x: _np("sqrt")(_np("logaddexp")(0, x)),
        lambda x: _functional("softplus")(x).sqrt(),
    ),
    "swish": (lambda x: x * _sigmoid(x), _functional("silu")),
    "tanh": (lambda x: _np("tanh")(x), lambda x: _torch("tanh")(x)),
}

BACKENDS: dict[str, Callable[..., Backend]] = {"numpy": NumpyBackend, "torch": TorchBackend}
