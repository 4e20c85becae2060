"""Every backend says the same: activations, attention, layer norm; and torch's is transformers' bit for bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.activations import ACT2FN

from bertprobe.backends import ACTIVATIONS, BACKENDS, NumpyBackend, TorchBackend, erf, runs
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


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12))
def test_runs_cover_every_text_and_token_once(lengths: list[int]) -> None:
    texts = tokens = 0
    for text, count, length, token in runs(lengths):
        assert (text, token) == (texts, tokens)
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
