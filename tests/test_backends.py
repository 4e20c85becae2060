"""Every backend says the same: activations, attention, layer norm; and torch's is transformers' bit for bit."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.activations import ACT2FN

from bertprobe.backends import ACTIVATIONS, BACKENDS, NumpyBackend, TorchBackend
from bertprobe.backends import torch as on_torch
from bertprobe.backends.activations import erf
from bertprobe.backends.protocol import runs
from bertprobe.errors import UnsupportedFile

LEARNED = {"prelu", "xielu"}
GRID = np.concatenate([np.linspace(-12, 12, 40_001), [0.0, -0.0, 1e-30, -1e-30, 88.0, -88.0]]).astype(np.float32)


def test_every_activation_without_a_learned_parameter_is_known() -> None:
    assert set(ACTIVATIONS) == set(ACT2FN) - LEARNED


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_torch_activations_are_transformers_bit_for_bit(name: str) -> None:
    x = torch.from_numpy(GRID)
    assert torch.equal(TorchBackend().activation(name)(x), ACT2FN[name](x))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_numpy_activations_are_transformers_to_rounding(name: str) -> None:
    """1e-6 relative to max(1, |x|): a few units in the last place of float32."""
    ours = NumpyBackend().activation(name)(GRID)
    theirs = ACT2FN[name](torch.from_numpy(GRID).double()).numpy()
    assert ours.dtype == np.float32
    assert np.max(np.abs(ours - theirs) / np.maximum(1, np.abs(GRID))) < 1e-6


def test_erf_is_erf_to_float32() -> None:
    """Within 4e-7 of the true value, and of its size: three units in the last place."""
    x = np.linspace(-6, 6, 100_001).astype(np.float32)
    true = np.array([math.erf(value) for value in x.astype(np.float64)])
    assert np.max(np.abs(erf(x) - true)) < 4e-7
    assert np.abs(erf(x)).max() <= 1
    assert (NumpyBackend().activation("gelu")(x[x < 0]) <= 0).all(), "no neuron fires on a negative input"
    small = (np.abs(x) > 0) & (np.abs(x) < 1)
    assert np.max(np.abs(erf(x[small]) / true[small] - 1)) < 4e-7


@pytest.mark.parametrize("backend", [NumpyBackend(), TorchBackend()])
def test_an_unknown_activation_is_named(backend: NumpyBackend | TorchBackend) -> None:
    with pytest.raises(UnsupportedFile, match="nonsense"):
        backend.activation("nonsense")


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.none() | st.integers(1, 30))
def test_runs_cover_every_text_and_token_once(lengths: list[int], most: int | None) -> None:
    texts = tokens = 0
    for text, count, length, token in runs(lengths, most):
        assert (text, token) == (texts, tokens)
        assert most is None or count == 1 or count * length <= most
        assert lengths[text : text + count] == [length] * count
        texts += count
        tokens += count * length
    assert (texts, tokens) == (len(lengths), sum(lengths))


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("lengths", [[5], [4, 4, 4], [7, 3, 3, 1]])
@pytest.mark.parametrize("one", [False, True])
def test_attention_stays_within_each_text(name: str, lengths: list[int], one: bool) -> None:
    """Against the formula in float64, one text at a time; 1e-6 is float32's rounding at this size."""
    backend = BACKENDS[name]()
    rng = np.random.default_rng(0)
    heads, width, tokens = 2, 8, sum(lengths)
    key, value = (rng.standard_normal((tokens, width)).astype(np.float32) for _ in range(2))
    query = rng.standard_normal((len(lengths) if one else tokens, width)).astype(np.float32)
    out = backend.numpy(backend.attention(*(backend.array(x) for x in (query, key, value)), heads, lengths))
    start = 0
    for text, length in enumerate(lengths):
        rows = slice(text, text + 1) if one else slice(start, start + length)
        for head in range(heads):
            columns = slice(head * 4, head * 4 + 4)
            q, k, v = (
                x.astype(np.float64)
                for x in (
                    query[rows, columns],
                    key[start : start + length, columns],
                    value[start : start + length, columns],
                )
            )
            scores = np.exp(q @ k.T / 2)
            expected = scores / scores.sum(1, keepdims=True) @ v
            assert np.abs(out[rows, columns] - expected).max() < 1e-6
        start += length


@pytest.mark.parametrize("name", BACKENDS)
def test_layer_norm_is_torchs(name: str) -> None:
    backend = BACKENDS[name]()
    rng = np.random.default_rng(1)
    x, weight, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((6, 32), (32,), (32,)))
    ours = backend.numpy(backend.layer_norm(*(backend.array(v) for v in (x, weight, bias)), 1e-12))
    theirs = torch.nn.functional.layer_norm(
        *(torch.from_numpy(x), (32,)), torch.from_numpy(weight), torch.from_numpy(bias), 1e-12
    )
    assert np.abs(ours - theirs.numpy()).max() < 2e-6


@contextmanager
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def layer(backend: TorchBackend, lengths: list[int], one: bool) -> list[torch.Tensor]:
    """What each operation makes of random numbers, rows of 48 numbers in six heads."""
    x, query = torch.randn(sum(lengths), 48).to(backend._dtype), torch.randn(len(lengths), 48).to(backend._dtype)
    weight, bias = torch.randn(192, 48).to(backend._dtype), torch.randn(192).to(backend._dtype)
    dense = backend.dense(x, weight, bias)
    return [
        dense,
        backend.dense(x, weight, None),
        *(backend.activation(name)(dense) for name in ("gelu", "gelu_new", "relu", "linear")),
        backend.layer_norm(x, bias[:48], bias[48:96], 1e-12),
        backend.attention(query if one else x, x, x, 6, lengths),
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("one", [False, True])
def test_one_thread_makes_the_same_in_pieces(dtype: str, one: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit: a batch is the same in a worker and by torch's own calls."""
    backend, lengths = TorchBackend("cpu", dtype), [31] * 9 + [17, 17, 5, 1]
    monkeypatch.setattr(on_torch, "PIECE", 48 * 64)
    with one_thread():
        with torch.inference_mode():
            torch.manual_seed(0)
            whole = layer(backend, lengths, one)
        with backend.inference():
            torch.manual_seed(0)
            pieces = layer(backend, lengths, one)
    assert all(torch.equal(a, b) for a, b in zip(whole, pieces, strict=True))


def test_what_one_thread_makes_lies_in_memory_that_is_handed_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy tells tracemalloc of its memory, torch does not; it begins where torch's would."""
    backend, lengths = TorchBackend(), [64] * 32
    monkeypatch.setattr(on_torch, "PIECE", 2**12)
    with one_thread(), backend.inference():
        layer(backend, lengths, False)
        tracemalloc.start()
        try:
            made = layer(backend, lengths, False)
            held = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
    assert held >= sum(values.nbytes for values in made)
    assert all(values.data_ptr() % 64 == 0 for values in made)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("rows", [1, 127, 128, 129, 600])
def test_sums_of_neurons_are_those_of_the_whole_matrix(name: str, rows: int) -> None:
    """1e-6 of the sum of sizes: float32 within a block of 128 rows, float64 between blocks. Counts are exact."""
    backend = BACKENDS[name]()
    x = np.random.default_rng(rows).standard_normal((rows, 9)).astype(np.float32)
    total, squares, highest, lowest, above, small = backend.neuron_sums(backend.array(x), 0.0, 0.1)
    wide = x.astype(np.float64)
    assert np.abs(total - wide.sum(0)).max() <= 1e-6 * np.abs(wide).sum(0).max()
    assert np.allclose(squares, np.square(wide).sum(0), rtol=1e-6, atol=0)
    assert np.array_equal(highest, x.max(0))
    assert np.array_equal(lowest, x.min(0))
    assert np.array_equal(above, (x > 0).sum(0))
    assert np.array_equal(small, (np.abs(x) < np.float32(0.1)).sum(0))
    assert {v.dtype.kind for v in (total, squares, highest, lowest)} == {"f"}
    assert (above.dtype, small.dtype) == (np.int64, np.int64)


@pytest.mark.parametrize("name", BACKENDS)
def test_dense_is_the_product(name: str) -> None:
    """1e-6 of |x| |w| summed: another order of float32 sums."""
    backend = BACKENDS[name]()
    rng = np.random.default_rng(2)
    x, weight, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((5, 48), (7, 48), (7,)))
    for added in (bias, None):
        given = None if added is None else backend.array(added)
        ours = backend.numpy(backend.dense(backend.array(x), backend.array(weight), given))
        true = x.astype(np.float64) @ weight.T.astype(np.float64) + (0 if added is None else added)
        assert np.abs(ours - true).max() < 1e-6 * (np.abs(x) @ np.abs(weight.T)).max()


@pytest.mark.parametrize("name", BACKENDS)
def test_weights_that_lie_anywhere_give_the_same_numbers(name: str) -> None:
    """An old pickle's data begin at any byte."""
    backend = BACKENDS[name]()
    rng = np.random.default_rng(3)
    weight, x = rng.standard_normal((16, 32)).astype(np.float32), rng.standard_normal((4, 32)).astype(np.float32)
    odd = np.frombuffer(b"\0" + weight.tobytes(), np.uint8)[1:].view(np.float32).reshape(16, 32)
    assert not odd.flags.aligned
    one, other = (backend.numpy(backend.dense(backend.array(x), backend.array(w), None)) for w in (weight, odd))
    assert np.array_equal(one, other)


@pytest.mark.parametrize("lengths", [[5], [4, 4, 4], [7, 3, 3, 1]])
@pytest.mark.parametrize("one", [False, True])
def test_ragged_attention_is_asked_for_the_same(lengths: list[int], one: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU's kernel is told, told to one that does as torch documents it, a text at a time."""
    asked = []

    def varlen(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *where: object, scale: float) -> torch.Tensor:
        of_queries, of_keys, longest_query, longest_key = where
        asked.append((longest_query, longest_key))
        assert isinstance(of_queries, torch.Tensor)
        assert isinstance(of_keys, torch.Tensor)
        assert of_queries.dtype == of_keys.dtype == torch.int32
        texts = zip(of_queries[:-1], of_queries[1:], of_keys[:-1], of_keys[1:], strict=True)
        found = [
            torch.nn.functional.scaled_dot_product_attention(
                q[a:b].transpose(0, 1), k[c:d].transpose(0, 1), v[c:d].transpose(0, 1), scale=scale
            ).transpose(0, 1)
            for a, b, c, d in texts
        ]
        return torch.cat(found)

    rng = np.random.default_rng(4)
    tokens = sum(lengths)
    query, key, value = (
        torch.from_numpy(rng.standard_normal((rows, 16)).astype(np.float32))
        for rows in (len(lengths) if one else tokens, tokens, tokens)
    )
    plain = TorchBackend().attention(query, key, value, 2, lengths)
    monkeypatch.setattr(on_torch, "_ragged_attention", lambda device, dtype, size: varlen)
    ragged = TorchBackend().attention(query, key, value, 2, lengths)
    assert torch.allclose(plain, ragged, atol=1e-6, rtol=0)
    assert asked == [(1 if one and len(lengths) != tokens else max(lengths), max(lengths))]


def test_ragged_attention_is_for_half_precision_on_a_gpu_alone() -> None:
    assert on_torch._ragged_attention("cpu", "bfloat16", 64) is None
    assert on_torch._ragged_attention("cuda", "float32", 64) is None
    assert on_torch._ragged_attention("cuda", "bfloat16", 20) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_attention_on_a_gpu_in_half_precision() -> None:
    """Of inputs that bfloat16 holds: what comes out is rounded once, and the weights of the mixture before."""
    rng = np.random.default_rng(5)
    gpu, cpu = TorchBackend("cuda", "bfloat16"), TorchBackend()
    x = [gpu.array(rng.standard_normal((20, 128)).astype(np.float32)) for _ in range(3)]
    lengths = [9, 6, 4, 1]
    assert on_torch._ragged_attention("cuda", "bfloat16", 64) is not None
    ours, theirs = gpu.attention(*x, 2, lengths), cpu.attention(*(v.float().cpu() for v in x), 2, lengths)
    assert np.abs(gpu.numpy(ours) - cpu.numpy(theirs)).max() < 2**-7 * float(x[2].abs().max())


@pytest.mark.parametrize("one", [False, True])
@pytest.mark.parametrize("lengths", [[9, 6, 4, 1], [3, 2, 1], [7, 5, 5, 4, 4, 3]])
def test_padded_attention_is_that_of_texts_one_by_one(lengths: list[int], one: bool) -> None:
    rng = np.random.default_rng(6)
    tokens = sum(lengths)
    query, key, value = (
        torch.from_numpy(rng.standard_normal((len(lengths) if one and x == 0 else tokens, 48)).astype(np.float32))
        for x in range(3)
    )
    plain = TorchBackend().attention(query, key, value, 3, lengths)
    padded = on_torch._padded_attention(query, key, value, 3, tuple(lengths), one)
    assert torch.allclose(plain, padded, atol=1e-6, rtol=0)
    assert not on_torch._padding_is_little([5, 5, 5, 4])
    assert on_torch._padding_is_little([9, 8, 7, 7, 6])
    assert not on_torch._padding_is_little([500, *[4] * 3, 3, 2])
