"""A model's graph in one form, whoever wrote it: what makes a value, who takes it, what a weight passes on its way.

Operators on codes are put down as those on numbers, with the scale of each code tensor noted in `scalings`.
Source: Operators.md of ONNX, ContribOperators.md of ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bertprobe.checkpoint.onnx.messages import Model, Node, Tensor, numbers_of
from bertprobe.checkpoint.onnx.scaling import Scaling, Scalings
from bertprobe.checkpoint.wire import Broken

FAR = 64  # steps that a value is traced at most

# Operators that change no number, or only how it is written down.
_SHAPES = ("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Dropout")
SAME = frozenset((*_SHAPES, "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"))
# Operators on codes: that on numbers, and where each of its operands, its scale and its zero point stand.
_ON_CODES: Mapping[str, tuple[str, tuple[tuple[int, int, int], ...]]] = {
    "QLinearMatMul": ("MatMul", ((0, 1, 2), (3, 4, 5))),
    "QLinearAdd": ("Add", ((0, 1, 2), (3, 4, 5))),
    "QLinearMul": ("Mul", ((0, 1, 2), (3, 4, 5))),
    "QLinearSoftmax": ("Softmax", ((0, 1, 2),)),
    "QLinearSigmoid": ("Sigmoid", ((0, 1, 2),)),
    "QLinearReduceMean": ("ReduceMean", ((0, 1, 2),)),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", ((0, 1, 2),)),
    "QGemm": ("Gemm", ((0, 1, 2), (3, 4, 5))),
    "MatMulIntegerToFloat": ("MatMul", ((0, 2, 4), (1, 3, 5))),
    "DynamicQuantizeMatMul": ("MatMul", ((0, -1, -1), (1, 2, 3))),
    "QAttention": ("Attention", ((0, 3, 6), (1, 4, 7))),
}
_INTEGERS = frozenset((2, 3, 4, 5, 6, 21, 22, 25, 26))
_GATHERED = frozenset(("Gather", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Expand", "Flatten"))


@dataclass(slots=True, eq=False)
class Step:
    """A node as it is reasoned about: what it does on which values, and the value that it makes."""

    op: str
    inputs: list[str]
    out: str
    node: Node
    attributes: dict[str, Any]
    bias: str = ""


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor where the graph takes it: `stored` is its name in the file, `turned` whether its axes changed places.

    `names` are those of the values on the way, from where it is taken to the file; `rounded` says that the graph
    quantises it when it runs.
    """

    stored: str
    turned: bool
    names: tuple[str, ...]
    rounded: bool = False


@dataclass(slots=True)
class Graph:
    """Steps in the order of the file, by the value that they make and by those that they take."""

    tensors: Mapping[str, Tensor]
    inputs: frozenset[str]
    steps: list[Step] = field(default_factory=list)
    makers: dict[str, Step] = field(default_factory=dict)
    takers: dict[str, list[Step]] = field(default_factory=dict)
    scalings: Scalings = field(default_factory=Scalings)

    def ints(self, value: str) -> tuple[int, ...] | None:
        """The whole numbers of a small constant."""
        tensor = self.tensors.get(value)
        found = None if tensor is None or tensor.type not in (6, 7) else numbers_of(tensor)
        return None if found is None else tuple(map(int, found))

    def number(self, value: str) -> float | None:
        """The one number of a constant."""
        tensor = self.tensors.get(value)
        found = None if tensor is None else numbers_of(tensor)
        return found[0] if found is not None and len(found) == 1 else None

    def rank(self, weight: Weight) -> int:
        return len(self.tensors[weight.stored].dims)

    def weight(self, value: str) -> Weight | None:
        """The tensor that a value is, turned at most; None for what is computed."""
        names, turned, rounded = [], False, False
        for _ in range(FAR):
            names.append(value)
            if value in self.tensors:
                return Weight(value, turned, tuple(names), rounded)
            step = self.makers.get(value)
            if step is None or step.out != value or not step.inputs:
                return None
            if step.op in SAME and step.op != "DynamicQuantizeLinear":
                rounded = rounded or step.op == "QuantizeLinear"
                value = step.inputs[0]
            elif step.op == "Transpose":
                axes = step.attributes.get("perm", [1, 0])
                if axes not in ([0, 1], [1, 0]):
                    return None
                turned ^= axes == [1, 0]
                value = step.inputs[0]
            elif (codes := self._scaled_by_hand(step)) is not None:
                value = codes
            else:
                return None
        return None

    # ------------------------------------------------------------------------------------------------ codes

    def note_scalings(self) -> None:
        """Notes by which scale each tensor of codes becomes numbers."""
        for step in self.steps:
            if step.op == "DequantizeLinear":
                scaling = Scaling((step.node.inputs[1],) if len(step.node.inputs) > 1 else (), _input(step.node, 2))
                scaling = scaling.along(step.attributes.get("axis", 1), step.attributes.get("block_size", 0))
                self._note(step.inputs[0], scaling)
            elif step.node.op in _ON_CODES:
                self._note_operands(step)
            elif step.node.op == "MatMulInteger" and step.op and (scale := self._scale_after(step)):
                self._note(step.inputs[1], Scaling((scale,), _input(step.node, 3)).along(-1))
            elif step.op == "MatMulNBits":
                self.scalings.note(step.node.inputs[1], Scaling.of_blocks(step.node))
            elif step.op == "GatherBlockQuantized":
                self.scalings.note(step.node.inputs[0], Scaling.of_gathered(step.node))
            else:
                self._scaled_by_hand(step)

    def _note_operands(self, step: Step) -> None:
        node = step.node
        for operand, scale, zero in _ON_CODES[node.op][1]:
            if scale >= 0 and _input(node, scale):
                self._note(_input(node, operand), Scaling((_input(node, scale),), _input(node, zero)).along(-1))
        if node.op == "QGemm":
            turned = bool(step.attributes.get("transB", 0))
            self.scalings.renote(
                _input(node, 3), Scaling((_input(node, 4),), _input(node, 5)).along(0 if turned else -1)
            )
            if _input(node, 6):
                self._note(_input(node, 6), Scaling((_input(node, 1), _input(node, 4)), "").along(0))

    def _note(self, value: str, scaling: Scaling) -> None:
        """Notes the scaling of the tensor that a value is of, or some rows of."""
        whole = True
        for _ in range(FAR):
            tensor = self.tensors.get(value)
            if tensor is not None:
                if tensor.type in _INTEGERS:
                    self.scalings.note(value, scaling if whole else scaling.of_one_number())
                return
            step = self.makers.get(value)
            if step is None or step.op not in _GATHERED or not step.inputs:
                return
            whole = whole and step.op == "Identity"
            value = step.inputs[0]

    def _scale_after(self, step: Step) -> str:
        """The scale of the weights of a product of codes: multiplied with that of the activations, then with it."""
        cast = self.only_taker(step.out)
        scaled = self.only_taker(cast.out) if cast is not None and cast.op == "Cast" else None
        if cast is None or scaled is None or scaled.op != "Mul":
            return ""
        (other,) = [value for value in scaled.inputs if value != cast.out] or ("",)
        product = self.makers.get(other)
        if product is None or product.op != "Mul":
            return ""
        fixed = [value for value in product.inputs if value in self.tensors]
        return fixed[0] if len(fixed) == 1 else ""

    def _scaled_by_hand(self, step: Step) -> str | None:
        """The codes that a product of a cast tensor of codes and a scale is of, its scaling noted."""
        if step.op != "Mul" or len(step.inputs) != 2:
            return None
        for cast, scale in (step.inputs, step.inputs[::-1]):
            if scale not in self.tensors:
                continue
            inner, zero = self.makers.get(cast), ""
            if inner is not None and inner.op == "Sub" and len(inner.inputs) == 2:
                cast, zero = inner.inputs
                inner = self.makers.get(cast)
                zero_cast = self.makers.get(zero)
                zero = zero_cast.inputs[0] if zero_cast is not None and zero_cast.op == "Cast" else zero
            if inner is None or inner.op != "Cast" or (zero and zero not in self.tensors):
                continue
            codes = inner.inputs[0]
            if codes in self.tensors and self.tensors[codes].type in _INTEGERS and self.tensors[codes].dims:
                self.scalings.note(codes, Scaling((scale,), zero, spread=True))
                return codes
        return None

    def only_taker(self, value: str) -> Step | None:
        """The step that takes a value, where it is one alone; who asks its shape does not count."""
        takers = [step for step in self.takers.get(value, ()) if step.op != "Shape"]
        return takers[0] if len(takers) == 1 else None


_UNARY = ("Sqrt", "ReduceMean", "Cast", "Transpose", "Identity", "Erf", "Softmax", "Unsqueeze", "Squeeze", "Split")
_BINARY = ("Add", "Sub", "Mul", "Div", "Pow", "MatMul", "Gemm", "Gather", "Reshape", "LayerNormalization")
# Operands that an operator has at least.
_LEAST = dict.fromkeys(_UNARY, 1) | dict.fromkeys(_BINARY, 2)
_LEAST |= {"SkipLayerNormalization": 3, "EmbedLayerNormalization": 7}
_LEAST |= {"DequantizeLinear": 2, "MatMulNBits": 3, "GatherBlockQuantized": 3}


def build(model: Model, tensors: Mapping[str, Tensor]) -> Graph:
    """The graph of a model; raises `Broken` where it contradicts itself."""
    graph = Graph(tensors, frozenset(model.inputs) - tensors.keys())
    for node in model.nodes:
        if node.op == "Constant":
            continue
        step = _normal(node)
        graph.steps.append(step)
        for value in filter(None, node.outputs):
            if value in graph.makers or value in tensors:
                raise Broken("two nodes of its graph make the same value")
            graph.makers[value] = step
        for value in dict.fromkeys(filter(None, node.inputs)):
            graph.takers.setdefault(value, []).append(step)
    _check_order(graph)
    graph.note_scalings()
    return graph


def _normal(node: Node) -> Step:
    op, inputs, bias = node.op, node.inputs, ""
    if node.op in _ON_CODES:
        op, operands = _ON_CODES[node.op]
        inputs = [_input(node, place) for place, _, _ in operands]
        places = {"QGemm": 6, "MatMulIntegerToFloat": 6, "DynamicQuantizeMatMul": 4}
        bias = _input(node, places[node.op]) if node.op in places else ""
        if node.op == "QGemm":
            inputs = [*inputs, bias]
        elif node.op == "QAttention":
            inputs = [*inputs, _input(node, 2)]
    elif node.op == "MatMulInteger":
        op, inputs = "MatMul", node.inputs[:2]
    elif node.op in ("FusedMatMul", "FusedGemm", "TransposeMatMul"):
        op = "Gemm" if node.op == "FusedGemm" else "MatMul"
    if len(inputs) < _LEAST.get(op, 0):
        op = ""  # no operator of that name, so nothing is made of it
    return Step(op, inputs, node.outputs[0] if node.outputs else "", node, node.attributes, bias)


def _input(node: Node, place: int) -> str:
    return node.inputs[place] if 0 <= place < len(node.inputs) else ""


def _check_order(graph: Graph) -> None:
    """Raises `Broken` for a graph that runs in a circle."""
    missing = {id(step): _made_here(graph, step.node.inputs) for step in graph.steps}
    ready = [step for step in graph.steps if not missing[id(step)]]
    done = 0
    while ready:
        step = ready.pop()
        done += 1
        for taker in _all_takers(graph, step.node.outputs):
            missing[id(taker)] -= 1
            if not missing[id(taker)]:
                ready.append(taker)
    if done < len(graph.steps):
        raise Broken("its graph runs in a circle")


def _made_here(graph: Graph, values: Sequence[str]) -> int:
    return sum(1 for value in dict.fromkeys(filter(None, values)) if value in graph.makers)


def _all_takers(graph: Graph, values: Sequence[str]) -> Iterator[Step]:
    for value in filter(None, values):
        yield from graph.takers.get(value, ())
