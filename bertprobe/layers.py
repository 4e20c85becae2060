"""BERT's pieces as pure functions of arrays, the same lines for numpy and torch.

Letters: T tokens of all texts end to end, N texts, H hidden size, I intermediate size. Weights come as a mapping from
canonical names, behind a prefix such as `encoder.layer.0.`. Source: Devlin et al., 2019, and Vaswani et al., 2017.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bertprobe.backends import Activation, Array, Backend

Weights = Mapping[str, Any]


def embed(backend: Backend, weights: Weights, ids: Array, positions: Array, segments: Array, eps: float) -> Array:
    """Word, segment and position embeddings added and normalised, (T,) each → (T, H).

    ERNIE adds its task embedding for task 0; ELECTRA's narrower embeddings are projected to H. Tables are gathered, not
    loaded: only the rows of the tokens at hand are touched.
    """
    x = backend.gather(weights["embeddings.word_embeddings.weight"], ids)
    x += backend.gather(weights["embeddings.token_type_embeddings.weight"], segments)
    x += backend.gather(weights["embeddings.position_embeddings.weight"], positions)
    if "embeddings.task_type_embeddings.weight" in weights:
        x += backend.gather(weights["embeddings.task_type_embeddings.weight"], segments * 0)
    x = _normalised(backend, weights, "embeddings.LayerNorm", x, eps)
    return _dense(backend, weights, "embeddings_project", x) if "embeddings_project.weight" in weights else x


def attend(
    backend: Backend,
    weights: Weights,
    layer: str,
    x: Array,
    rows: Array | None,
    heads: int,
    lengths: Sequence[int],
    eps: float,
) -> Array:
    """Self-attention within each text, its output projection, residual and norm: (T, H) → (T, H).

    With `rows` (N,), the index of one token of each text, only these are asked about and put out: (N, H).
    """
    asked = x if rows is None else x[rows]
    query = _dense(backend, weights, f"{layer}attention.self.query", asked)
    key = _dense(backend, weights, f"{layer}attention.self.key", x)
    value = _dense(backend, weights, f"{layer}attention.self.value", x)
    mixed = backend.attention(query, key, value, heads, lengths)
    projected = _dense(backend, weights, f"{layer}attention.output.dense", mixed)
    projected += asked
    return _normalised(backend, weights, f"{layer}attention.output.LayerNorm", projected, eps)


def intermediate(
    backend: Backend, weights: Weights, layer: str, x: Array, activation: Activation
) -> tuple[Array, Array]:
    """BertIntermediate, act(x Wᵀ + b): (T, H) → before and after the activation, (T, I) each."""
    before = _dense(backend, weights, f"{layer}intermediate.dense", x)
    return before, activation(before)


def output(backend: Backend, weights: Weights, layer: str, x: Array, residual: Array, eps: float) -> Array:
    """BertOutput, norm(x Wᵀ + b + residual): (T, I) and (T, H) → (T, H)."""
    narrowed = _dense(backend, weights, f"{layer}output.dense", x)
    narrowed += residual
    return _normalised(backend, weights, f"{layer}output.LayerNorm", narrowed, eps)


def pool(backend: Backend, weights: Weights, first: Array) -> Array:
    """BertPooler, tanh(x Wᵀ + b) of the first token of each text: (N, H) → (N, H)."""
    return backend.tanh(_dense(backend, weights, "pooler.dense", first))


def _dense(backend: Backend, weights: Weights, name: str, x: Array) -> Array:
    return backend.dense(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def _normalised(backend: Backend, weights: Weights, name: str, x: Array, eps: float) -> Array:
    return backend.layer_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"], eps)
