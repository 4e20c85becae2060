"""The few operations in which numpy and torch differ; everything else in `layers` is said once for both.

A row of `BACKENDS` is made for a device and a dtype. Arrays are packed: (T, H) for the T tokens of all texts, with the
length of each text beside them; nothing is ever padded.
"""

from __future__ import annotations

from collections.abc import Callable

from bertprobe.backends.activations import ACTIVATIONS
from bertprobe.backends.numpy import NumpyBackend
from bertprobe.backends.protocol import Activation, Array, Backend
from bertprobe.backends.torch import TorchBackend

__all__ = ["ACTIVATIONS", "BACKENDS", "Activation", "Array", "Backend", "NumpyBackend", "TorchBackend"]

BACKENDS: dict[str, Callable[..., Backend]] = {"numpy": NumpyBackend, "torch": TorchBackend}
