"""A model's messages as they stand in the file: the graph's nodes, and of each tensor where its numbers lie.

Source: onnx.proto of ONNX.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bertprobe.checkpoint.wire import BYTES, FIXED_32, NUMBER, Broken, Walk, signed, varint
from bertprobe.errors import UnsupportedFile

MAX_NODES = 100_000
MAX_TENSORS = 100_000
MAX_VALUES = 500_000  # inputs, outputs and attributes of all nodes
MAX_DEPTH = 8  # of graphs in attributes of nodes of graphs
MAX_NAME = 4_096  # bytes
MAX_RANK = 64  # dimensions that are counted
SMALL = 512  # bytes of a tensor that is read with the graph: shapes, axes and other constants
LISTED = 64  # numbers of an attribute that are kept
TEXTS = 6  # the field of a tensor of texts
EXTERNAL = 1  # where a tensor says that its numbers lie in another file

Span = tuple[int, int]
"""From where to where bytes lie in the file."""


@dataclass(slots=True)
class Tensor:
    """A tensor by name: its type's number, its shape, and where its numbers lie.

    `whole` is its message, and `raw` its bytes as they are; `typed` is a packed field of its numbers, with the number
    of that field, as some tools write them, and `is_loose` says that there are several or that they stand one by one;
    `place` is where they lie in another file, by the words of the format. `small` is what was read of a small tensor
    along with the graph.
    """

    name: str = ""
    type: int = 0
    whole: Span = (0, 0)
    dims: list[int] = field(default_factory=list)
    raw: Span | None = None
    typed: tuple[int, Span] | None = None
    is_loose: bool = False
    place: dict[str, str] = field(default_factory=dict)
    is_external: bool = False
    in_segments: bool = False
    small: bytes | None = None


@dataclass(slots=True)
class Node:
    """A node: what it does, on which values, and what it makes; empty for an input that is left out."""

    op: str = ""
    domain: str = ""
    name: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Model:
    """A model: its graph's nodes in their order, its tensors, the names of its inputs, and what else is in it.

    `constants` are tensors that nodes hold, by the value each makes; `inner` those of graphs in nodes; `sparse` are
    named alone; `functions` and `branches` are counted.
    """

    producer: str = ""
    nodes: list[Node] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    constants: list[Tensor] = field(default_factory=list)
    inner: list[Tensor] = field(default_factory=list)
    sparse: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    functions: int = 0
    branches: int = 0
    graphs: int = 0


class Messages:
    """Reads a model from a walk through its file; `Broken` is what is damaged, `UnsupportedFile` what is too much."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._model = Model()
        self._values = 0

    def model(self) -> Model:
        model = self._model
        for number, kind, start, stop in self._walk.fields(0, self._walk.source.size):
            if kind != BYTES:
                continue
            if number == 2:
                model.producer = self._text(start, stop)
            elif number == 7:
                model.graphs += 1
                self._graph(start, stop, 0)
            elif number == 14 and stop - start < MAX_NAME and len(model.notes) < LISTED:
                key, value = self._pair(start, stop)
                model.notes[key] = value
            elif number == 25:
                model.functions += 1
        return model

    # ------------------------------------------------------------------------------------------------ graph

    def _graph(self, start: int, stop: int, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise Broken(f"its graphs lie in each other over {MAX_DEPTH} deep")
        model, outer = self._model, depth == 0
        for number, kind, first, last in self._walk.fields(start, stop):
            if kind != BYTES:
                continue
            if number == 1 and outer:
                self._count(model.nodes, MAX_NODES, "nodes")
                model.nodes.append(self._node(first, last, depth))
            elif number == 1:
                self._node(first, last, depth)
            elif number == 5:
                tensors = model.tensors if outer else model.inner
                self._count(tensors, MAX_TENSORS, "tensors")
                tensors.append(self._tensor(first, last))
            elif number == 11 and outer:
                self._count(model.inputs, MAX_TENSORS, "inputs")
                model.inputs.append(self._named(first, last))
            elif number == 12 and outer:
                self._count(model.outputs, MAX_TENSORS, "outputs")
                model.outputs.append(self._named(first, last))
            elif number == 15:
                self._count(model.sparse, MAX_TENSORS, "tensors")
                model.sparse.append(self._sparse(first, last))

    def _count(self, found: list[Any], most: int, what: str) -> None:
        if len(found) >= most:
            raise UnsupportedFile(
                f"{self._walk.source.address} has over {most:,} {what}", "no encoder has as many: is it the right file?"
            )

    def _more_values(self) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            raise UnsupportedFile(
                f"the nodes of {self._walk.source.address} have over {MAX_VALUES:,} inputs, outputs and attributes",
                "no encoder has as many: is it the right file?",
            )

    def _node(self, start: int, stop: int, depth: int) -> Node:
        node = Node()
        for number, kind, first, last in self._walk.fields(start, stop):
            if kind != BYTES:
                continue
            self._more_values()
            if number == 1:
                node.inputs.append(self._text(first, last))
            elif number == 2:
                node.outputs.append(self._text(first, last))
            elif number == 3:
                node.name = self._text(first, last)
            elif number == 4:
                node.op = self._text(first, last)
            elif number == 7:
                node.domain = self._text(first, last)
            elif number == 5:
                name, value = self._attribute(first, last, depth)
                node.attributes[name] = value
        if node.op == "Constant" and depth == 0 and len(node.outputs) == 1:
            self._constant(node)
        return node

    def _constant(self, node: Node) -> None:
        """Notes the tensor of a node that makes a constant."""
        tensor = node.attributes.get("value")
        if tensor is None:
            tensor = _of_numbers(node.attributes)
        if isinstance(tensor, Tensor):
            self._count(self._model.constants, MAX_TENSORS, "constants")
            tensor.name = node.outputs[0]
            self._model.constants.append(tensor)

    def _attribute(self, start: int, stop: int, depth: int) -> tuple[str, Any]:
        """The name and the value of an attribute: a number, bytes, a few numbers or a tensor; else None."""
        name = ""
        value: Any = None
        several: list[Any] = []
        for number, kind, first, last in self._walk.fields(start, stop):
            if number == 1 and kind == BYTES:
                name = self._text(first, last)
            elif number == 2 and kind == FIXED_32:
                value = _float(first)
            elif number == 3 and kind == NUMBER:
                value = signed(first)
            elif number == 4 and kind == BYTES and last - first <= MAX_NAME:
                value = self._walk.take(first, last)
            elif number == 5 and kind == BYTES:
                value = self._tensor(first, last)
            elif number in (6, 11) and kind == BYTES:
                self._model.branches += 1
                self._graph(first, last, depth + 1)
            elif number in (7, 8):
                self._more_values()
                several += self._numbers(number, kind, first, last, LISTED - len(several))
        return name, several if value is None and several else value

    def _numbers(self, number: int, kind: int, first: int, last: int, most: int) -> list[Any]:
        """Numbers of a list, at most so many: floats of field 7, whole ones of 8; packed or one by one."""
        if kind == FIXED_32:
            return [_float(first)][:most]
        if kind == NUMBER:
            return [signed(first)][:most]
        if kind != BYTES:
            return []
        data = self._walk.take(first, min(last, first + 10 * most))
        if number == 7:
            return list(struct.unpack(f"<{len(data) // 4}f", data[: len(data) // 4 * 4]))[:most]
        return list(_varints(data, most))

    def _named(self, start: int, stop: int) -> str:
        """The name of an input or output: the first field of what describes it."""
        for number, kind, first, last in self._walk.fields(start, stop):
            if number == 1 and kind == BYTES:
                return self._text(first, last)
        return ""

    def _sparse(self, start: int, stop: int) -> str:
        for number, kind, first, last in self._walk.fields(start, stop):
            if number == 1 and kind == BYTES:
                return self._tensor(first, last).name
        return ""

    # ------------------------------------------------------------------------------------------------ tensor

    def _tensor(self, start: int, stop: int) -> Tensor:
        tensor = Tensor(whole=(start, stop))
        for number, kind, first, last in self._walk.fields(start, stop):
            if number == 1:
                tensor.dims += self._numbers(8, kind, first, last, MAX_RANK + 1 - len(tensor.dims))
            elif number == 2 and kind == NUMBER:
                tensor.type = first
            elif number == 3:
                tensor.in_segments = True
            elif number == 8 and kind == BYTES:
                tensor.name = self._text(first, last)
            elif number == 9 and kind == BYTES:
                tensor.raw = (first, last)
                tensor.small = self._walk.take(first, last) if last - first <= SMALL else None
            elif number in (4, 5, 6, 7, 10, 11):
                self._typed(tensor, number, kind, first, last)
            elif number == 13 and kind == BYTES:
                key, value = self._pair(first, last)
                if len(tensor.place) < LISTED:
                    tensor.place[key] = value
            elif number == 14 and kind == NUMBER:
                tensor.is_external = first == EXTERNAL
        if len(tensor.dims) > MAX_RANK:
            raise Broken("a tensor in it has more dimensions than it can have")
        return tensor

    def _typed(self, tensor: Tensor, number: int, kind: int, first: int, last: int) -> None:
        if kind != BYTES or tensor.typed is not None or tensor.is_loose:
            tensor.is_loose, tensor.small = True, None
            return
        tensor.typed = (number, (first, last))
        if number != TEXTS and last - first <= SMALL:
            tensor.small = self._walk.take(first, last)

    def _text(self, start: int, stop: int) -> str:
        if stop - start > MAX_NAME:
            raise Broken(f"a name in it has {stop - start:,} bytes")
        try:
            return self._walk.take(start, stop).decode("utf-8")
        except UnicodeDecodeError as error:
            raise Broken("a name in it is no text") from error

    def _pair(self, start: int, stop: int) -> tuple[str, str]:
        """A key and its value."""
        words = {1: "", 2: ""}
        for number, kind, first, last in self._walk.fields(start, stop):
            if number in words and kind == BYTES:
                words[number] = self._text(first, last)
        return words[1], words[2]


def _of_numbers(attributes: dict[str, Any]) -> Tensor | None:
    """The tensor of a constant that is given as numbers: `value_int`, `value_ints` and the like of floats."""
    for name, value in attributes.items():
        if name in ("value_int", "value_float", "value_ints", "value_floats"):
            values = value if isinstance(value, list) else [value]
            whole = "int" in name
            if not all(isinstance(found, int if whole else float) for found in values) or len(values) >= LISTED:
                return None
            data = struct.pack(f"<{len(values)}{'q' if whole else 'f'}", *values)
            dims = [len(values)] if name.endswith("s") else []
            return Tensor(type=7 if whole else 1, dims=dims, small=data)
    return None


def numbers_of(tensor: Tensor) -> tuple[float, ...] | None:
    """The numbers of a small tensor of whole numbers or floats, None where they were not read with the graph."""
    if tensor.small is None or tensor.is_external:
        return None
    if tensor.raw is None and tensor.typed and tensor.typed[0] in (5, 7):
        return tuple(_varints(tensor.small, SMALL)) if tensor.type in (6, 7) else None
    code = {1: "f", 6: "i", 7: "q", 10: "e", 11: "d"}.get(tensor.type)
    if code is None:
        return None
    size = struct.calcsize(code)
    return struct.unpack(f"<{len(tensor.small) // size}{code}", tensor.small[: len(tensor.small) // size * size])


def _varints(data: bytes, most: int) -> Iterator[int]:
    at = 0
    for _ in range(most):
        if at >= len(data):
            return
        value, at = varint(data, at)
        yield signed(value)


def _float(bits: int) -> float:
    found: float = struct.unpack("<f", bits.to_bytes(4, "little"))[0]
    return found
