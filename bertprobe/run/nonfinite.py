"""Why numbers of a run are NaN or infinite: weights that are so, or a dtype that is too narrow for the model."""

from __future__ import annotations

from bertprobe.anatomy import Anatomy
from bertprobe.checkpoint import DTYPES, TensorHeader, read_tensors
from bertprobe.verdicts import Finding
from bertprobe.verdicts.numbers import not_finite_tensor


def why_not_finite(anatomy: Anatomy, dtype: str) -> tuple[Finding, ...]:
    """What makes the numbers of a run NaN or infinite: the weights that are so, which are all read, else the dtype."""
    import numpy as np

    findings = []
    labels = {header.name: part.label for part in anatomy.parts for header in part.tensors.values()}
    wanted = {name: header for name, header in anatomy.tensors.items() if _is_float(header)}
    for name, values in read_tensors(wanted):
        header = wanted[name]
        bad = header.count - int(np.isfinite(values).sum())
        if bad:
            findings.append(not_finite_tensor(name, labels.get(header.name), bad, header.count))
    return tuple(findings) or (_overflow(dtype),)


def _is_float(header: TensorHeader) -> bool:
    readable = header.refusal is None and header.dtype in DTYPES
    return readable and DTYPES[header.dtype].is_float and DTYPES[header.dtype].numpy is not None


def _overflow(dtype: str) -> Finding:
    return Finding(
        "not-finite",
        "error",
        None,
        f"what comes out is NaN or infinite in {dtype}, though no weight is",
        {"dtype": dtype},
        "the numbers overflow: compute in bfloat16 or float32" if dtype == "float16" else "look at its weights' sizes",
    )
