"""How much a LoRA changes each matrix: norms of ΔW = s·B·A, from products of r × r, so that ΔW is never made.

‖B·A‖²_F is the trace of BᵀB·AAᵀ, and σ₁² of B·A the largest eigenvalue of that product, which is that of the symmetric
√(AAᵀ)·BᵀB·√(AAᵀ). In float64, so that both are right to about 1e-8 of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bertprobe.adapters import Adapter, Target
from bertprobe.checkpoint import TensorHeader, check_readable, read_tensors

MOST_RANK = 2_048  # of r × r numbers; no adapter is near it


@dataclass(frozen=True, slots=True)
class Change:
    """What a target adds: norms of ΔW, of B·A alone where the scaling is not known, and of its factors.

    `scaling` is None where it is not known. `verdict` is `changes`, `no change` where a factor is all zero, or `not
    finite`; norms that are not finite are None.
    """

    verdict: str
    scaling: float | None
    frobenius: float | None = None
    sigma_max: float | None = None
    stable_rank: float | None = None
    a_norm: float | None = None
    b_norm: float | None = None


def is_measurable(adapter: Adapter, target: Target) -> bool:
    """Whether what a target adds is a product of its two matrices, and nothing else."""
    rank = target.rank
    if not adapter.is_lora or rank is None or target.a is None or target.b is None:
        return False
    sound = target.a.refusal is None and target.b.refusal is None
    return sound and 0 < rank <= min(MOST_RANK, target.a.shape[1], target.b.shape[0])


def measure_targets(adapter: Adapter) -> dict[str, Change]:
    """What each target adds, by its label; nothing of one that is not measurable. Raises as `read_tensors` does."""
    targets = {target.label: target for target in adapter.targets if is_measurable(adapter, target)}
    wanted: dict[tuple[str, str], TensorHeader] = {}
    for label, target in targets.items():
        for which, header in (("a", target.a), ("b", target.b)):
            if header is not None:
                check_readable(header)
                wanted[label, which] = header
    grams: dict[str, dict[str, Any]] = {}
    found: dict[str, Change] = {}
    for (label, which), array in read_tensors(wanted):
        one = grams.setdefault(label, {})
        one[which] = _gram(array if which == "a" else array.T)
        if len(one) == 2:
            del grams[label]
            found[label] = _change(one["a"], one["b"], adapter.scaling(targets[label]))
    return {label: found[label] for label in targets}


def _gram(array: Any) -> Any:
    """The products of the rows of (r, n) with each other, (r, r)."""
    rows = np.asarray(array, np.float64)
    with np.errstate(all="ignore"):
        return rows @ rows.T


def _change(a: Any, b: Any, scaling: float | None) -> Change:
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return Change("not finite", scaling)
    by = 1.0 if scaling is None else abs(scaling)
    a_norm, b_norm = (float(np.sqrt(np.trace(gram))) for gram in (a, b))
    values, vectors = np.linalg.eigh(a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    with np.errstate(all="ignore"):
        square = float(np.sum(a * b))  # both are symmetric
        largest = float(np.linalg.eigvalsh(root @ b @ root)[-1]) if np.isfinite(square) else np.inf
    frobenius, sigma = (by * float(np.sqrt(max(value, 0.0))) for value in (square, largest))
    stable = square / largest if 0 < largest < np.inf else None
    verdict = "changes" if a_norm and b_norm and by else "no change"
    return Change(verdict, scaling, _known(frobenius), _known(sigma), stable, a_norm, b_norm)


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None
