"""The activation that the steps between two dense layers make up, by its name in a config."""

from __future__ import annotations

from collections.abc import Iterator

from bertprobe.checkpoint.onnx.graph import SAME, Graph, Step
from bertprobe.checkpoint.onnx.sites import Dense


def adds_vectors(steps: list[Step], graph: Graph) -> bool:
    """Whether a step between two dense layers calculates with more than a number: then it is no activation."""
    own = [step for step in steps if step.op in ("Add", "Sub", "Mul", "Div", "Sum")]
    weights = [graph.weight(value) for step in own for value in step.inputs]
    return any(weight is not None and any(n > 1 for n in graph.tensors[weight.stored].dims) for weight in weights)


_ONE_STEP = {
    "Relu": "relu",
    "BiasGelu": "gelu",
    "FastGelu": "gelu_new",
    "QuickGelu": "quick_gelu",
    "Elu": "elu",
    "Mish": "mish",
}


def activation(steps: list[Step], dense: Dense, graph: Graph) -> str:
    """The activation that some steps make up, by its name in a config; "unknown" for another, empty for none."""
    ops = {step.op for step in steps}
    if dense.act:
        return {"Relu": "relu", "Tanh": "tanh", "Sigmoid": "sigmoid"}.get(dense.act, "unknown")
    for op, name in _ONE_STEP.items():
        if op in ops:
            return name
    if "Gelu" in ops:
        found = [step.attributes.get("approximate", b"none") for step in steps if step.op == "Gelu"]
        given = found[0] if len(found) == 1 else b""
        return {b"none": "gelu", b"tanh": "gelu_new"}.get(given, "unknown")
    numbers = list(_constants_of(steps, graph))
    if "Erf" in ops:
        is_gelu = not numbers or any(abs(number - 2**power) < 1e-3 for number in numbers for power in (0.5, -0.5))
        return "gelu" if is_gelu else "unknown"
    if "Tanh" in ops:
        is_gelu = any(abs(number - 0.044715) < 1e-4 for number in numbers)
        return "gelu_new" if is_gelu else ("unknown" if ops - SAME - {"Tanh"} else "tanh")
    if "Sigmoid" in ops and "Mul" in ops:
        return "quick_gelu" if any(abs(number - 1.702) < 1e-3 for number in numbers) else "silu"
    return "unknown" if ops - SAME else ""


def _constants_of(steps: list[Step], graph: Graph) -> Iterator[float]:
    """The numbers that steps calculate with."""
    for step in steps:
        for value in step.inputs:
            number = graph.number(value)
            if number is not None:
                yield number
