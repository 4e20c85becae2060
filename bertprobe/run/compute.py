"""Where and in which precision to compute, and the backend that suits it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bertprobe.anatomy import Anatomy
from bertprobe.backends import ACTIVATIONS, Backend, NumpyBackend, TorchBackend
from bertprobe.errors import UnsupportedFile

# Floating-point operations from which torch's speed makes up for the second or more that its import takes: on two cores
# numpy and torch needed as long, whole processes, for some 300 paragraphs by MiniLM (docs/speed.md).
WORTH_IMPORTING_TORCH = 5e11


@dataclass(frozen=True, slots=True)
class Compute:
    """How to run: `backend` auto or a row of BACKENDS, `device` auto, cpu, cuda or mps, `dtype`, threads, batches.

    `threads` None are all there are; `batch_tokens` None is what suits the device.
    """

    backend: str = "auto"
    device: str = "auto"
    dtype: str = "float32"
    threads: int | None = None
    batch_tokens: int | None = None


def choose_backend(compute: Compute, anatomy: Anatomy, work: float) -> Backend:
    """The backend asked for; `auto` is numpy for float32 on the CPU while torch's import would cost more than it saves.

    Raises `UnsupportedFile` for what cannot go together, such as numpy on a GPU.
    """
    import sys

    here = compute.device in ("auto", "cpu") and compute.dtype == "float32"
    numpy_can = here and ACTIVATIONS.get(str(anatomy.config_spec.activation), (None,))[0] is not None
    if compute.backend == "numpy" and not here:
        raise UnsupportedFile(
            f"numpy computes in float32 on the CPU, not in {compute.dtype} on {compute.device}",
            'choose `backend="torch"`',
        )
    small = work < WORTH_IMPORTING_TORCH
    if compute.backend == "numpy" or (compute.backend == "auto" and numpy_can and small and "torch" not in sys.modules):
        _set_threads_of_numpy(compute.threads)
        return NumpyBackend()
    return TorchBackend.on(compute.device, compute.dtype, compute.threads)


def _set_threads_of_numpy(threads: int | None) -> None:
    if threads is not None:
        import numpy as np  # noqa: F401  # its BLAS must be loaded to be told
        from threadpoolctl import threadpool_limits

        threadpool_limits(threads, "blas")


def work_of(anatomy: Anatomy, texts: Sequence[str]) -> float:
    """Floating-point operations for some texts, guessed: four characters a token, two operations a weight and token."""
    weights = sum(
        h.count for name, h in anatomy.tensors.items() if name.startswith("encoder.layer.") and len(h.shape) == 2
    )
    return sum(2 + len(text) / 4 for text in texts) * 2 * weights
