"""The activations that transformers knows by name, on numpy and on torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bertprobe.backends.protocol import Activation, Array

BLOCK = 2**16  # elements of an activation done at a time, so that its intermediate results stay in cache


def blockwise(function: Activation) -> Activation:
    """An elementwise function done block by block."""

    def apply(x: Array) -> Array:
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
    x = np.clip(x, -_ERF_LIMIT, _ERF_LIMIT)
    square = x * x
    found = x * _horner(_ERF_P, square) / _horner(_ERF_Q, square)
    # A rounding beyond ±1 would make gelu change its sign far from zero, and neurons seem to fire.
    return np.clip(found, -1, 1, out=found)


def _horner(coefficients: Sequence[float], x: Array) -> Array:
    value = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value *= x
        value += x.dtype.type(coefficient)
    return value


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _tanh_gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


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
        lambda x: np.clip(0.5 * x * (1 + erf(x * math.sqrt(0.5))), -10, 10),
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
    "hardswish": (lambda x: x * np.clip(x + 3, 0, 6) / 6, _functional("hardswish")),
    "laplace": (lambda x: 0.5 * (1 + erf((x - 0.707107) / (0.282095 * math.sqrt(2.0)))), _laplace),
    "leaky_relu": (lambda x: np.where(x > 0, x, 0.01 * x), _functional("leaky_relu")),
    "linear": (lambda x: x, lambda x: x),
    "mish": (lambda x: x * np.tanh(np.logaddexp(0, x)), _functional("mish")),
    "quick_gelu": (lambda x: x * _sigmoid(1.702 * x), lambda x: x * _torch("sigmoid")(1.702 * x)),
    "relu": (lambda x: np.maximum(x, 0), _functional("relu")),
    "relu2": (lambda x: np.square(np.maximum(x, 0)), lambda x: _functional("relu")(x).square()),
    "relu6": (lambda x: np.clip(x, 0, 6), _functional("relu6")),
    "sigmoid": (_sigmoid, lambda x: _torch("sigmoid")(x)),
    "silu": (lambda x: x * _sigmoid(x), _functional("silu")),
    "sqrtsoftplus": (
        lambda x: np.sqrt(np.logaddexp(0, x)),
        lambda x: _functional("softplus")(x).sqrt(),
    ),
    "swish": (lambda x: x * _sigmoid(x), _functional("silu")),
    "tanh": (lambda x: np.tanh(x), lambda x: _torch("tanh")(x)),
}
