"""A file → its index: tensors as headers, what each is called in PyTorch, and what the graph says of the settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from bertprobe.checkpoint.onnx.attention import walk
from bertprobe.checkpoint.onnx.encoder import Encoder, Use, encoders
from bertprobe.checkpoint.onnx.graph import build
from bertprobe.checkpoint.onnx.headers import DAMAGED, PACKED, Files, header_of, shown
from bertprobe.checkpoint.onnx.messages import Messages, Model, Tensor
from bertprobe.checkpoint.onnx.names import Names, is_named, name_all, place_of
from bertprobe.checkpoint.onnx.scaling import scaled
from bertprobe.checkpoint.onnx.settings import settings_of
from bertprobe.checkpoint.source import Source
from bertprobe.checkpoint.tensors import (
    CODES,
    DTYPES,
    Array,
    Derived,
    Index,
    Spelled,
    TensorHeader,
    extent,
    numpy_dtype,
)
from bertprobe.checkpoint.wire import Broken, Walk
from bertprobe.errors import CorruptFile

_NO_WEIGHTS = ("I64", "BOOL")  # what shapes, axes and masks are of


def index(source: Source) -> Index:
    """The headers of a model's tensors, by name; raises `CorruptFile`, `UnsupportedFile` and `NotFound`."""
    try:
        model = Messages(Walk(source)).model()
        if model.graphs != 1:
            raise Broken("it holds no graph" if not model.graphs else "it holds several graphs")
        return _Reading(source, model).index()
    except Broken as error:
        raise CorruptFile(f"{source.address} is damaged, or no ONNX model: {error}", DAMAGED) from error


class _Reading:
    """The tensors of a model, and the way from there to an index."""

    def __init__(self, source: Source, model: Model) -> None:
        self._source = source
        self._model = model
        self._files = Files(source)
        self._tensors = _by_name(model)
        self._graph = build(model, self._tensors)

    def index(self) -> Index:
        sites = walk(self._graph)
        found = _only(list(encoders(sites)))
        names = name_all(sites, found, self._source.address)
        used = {use.weight.stored for use in names.uses}
        headers = {header.name: _unscaled(header) if header.name in used else header for header in self._headers()}
        more, spelled = self._spelled(headers, names)
        zeros = list(_zeros(names, found, headers))
        listed = (*headers.values(), *more, *zeros)
        return Index(
            listed,
            metadata={"producer": self._model.producer} if self._model.producer else {},
            others=self._files.opened,
            settings=settings_of(found, _shapes(listed, spelled)),
            spelled=spelled,
            remarks=tuple(self._remarks(names, found, len(zeros))),
        )

    def _headers(self) -> Iterator[TensorHeader]:
        """Every tensor that may be a weight; codes as the numbers that they stand for."""
        held = {tensor.name for tensor in self._model.constants}
        scalings = self._graph.scalings.found
        for name, tensor in self._tensors.items():
            if name in scalings:
                yield scaled(tensor, scalings[name], self._tensors, self._files)
            elif name not in held or _may_be_weight(tensor):
                yield header_of(tensor, self._files)
        for name in self._model.sparse:
            if name and name not in self._tensors:
                yield TensorHeader(name, "ONNX's sparse tensor", (), refusal="it is stored sparsely")
        for tensor in self._model.inner:
            if tensor.name and tensor.name not in self._tensors:
                yield header_of(tensor, self._files)

    def _spelled(
        self, headers: Mapping[str, TensorHeader], names: Names
    ) -> tuple[list[TensorHeader], dict[str, Spelled]]:
        """What each stored tensor is called; parts of one, and its second names, as headers of their own."""
        more: list[TensorHeader] = []
        spelled: dict[str, Spelled] = {}
        parts = {use.weight.stored for use in names.uses if use.columns is not None}
        for use in names.uses:
            header = headers[use.weight.stored]
            if use.columns is not None:
                part = _columns(header, use)
                more.append(part)
                spelled[part.name] = Spelled(use.name, _axes(use, part))
            elif use.weight.stored in spelled or use.weight.stored in parts:
                if spelled.get(use.weight.stored, ("",))[0] != use.name and use.name not in headers:
                    more.append(replace(header, name=use.name))
                    spelled[use.name] = Spelled(use.name, _axes(use, header))
            else:
                spelled[use.weight.stored] = Spelled(use.name, _axes(use, header))
        helpers = self._graph.scalings.helpers
        for name, header in headers.items():
            aside = name in helpers or name in parts or _is_no_weight(header)
            if name not in spelled and aside and not (is_named(name) and name not in helpers and name not in parts):
                spelled[name] = Spelled("")
        return more, spelled

    def _remarks(self, names: Names, found: Encoder | None, zeros: int) -> Iterator[str]:
        ways = Counter({way: count for way, count in names.ways.items() if way})
        if ways:
            told = ", ".join(f"{count} by {_plural(way)}" for way, count in ways.items())
            yield f"names of tensors were found in the graph: {told}"
        if found is None and not names.uses:
            yield "no encoder was recognised in its graph: tensors have the names that the file gives them"
        if zeros:
            yield f"the graph adds no bias in {zeros} of its dense layers: there it is told as zeros"
        if self._model.functions:
            yield f"its graph calls {self._model.functions} functions of its own, which are not looked into"
        if self._model.branches:
            yield f"{self._model.branches} branches or loops of its graph are not followed"
        rounded = {use.weight.stored for use in names.uses if use.weight.rounded}
        if rounded:
            yield (
                f"{len(rounded)} weights are rounded by QuantizeLinear when the graph runs: "
                "what is told of them is before that"
            )


def _zeros(names: Names, found: Encoder | None, headers: Mapping[str, TensorHeader]) -> Iterator[TensorHeader]:
    """The biases of the encoder that its graph does not add, as exporters leave them out that are all zero."""
    if found is None:
        return
    known = {use.name for use in names.uses} | headers.keys()
    placed = {use.name for use in found.uses if use.kind == "dense"}
    for use in names.uses:
        name = use.name.removesuffix("weight") + "bias"
        header = headers[use.weight.stored]
        if use.is_bare and place_of(use.name) in placed and name not in known and len(header.shape) == 2:
            size = header.shape[1] if use.turned else header.shape[0]
            size = size if use.columns is None else use.columns[1] - use.columns[0]
            yield _zero(name, header.dtype, size)


def _zero(name: str, dtype: str, size: int) -> TensorHeader:
    def make() -> Array:
        import numpy as np

        return np.zeros(size, numpy_dtype(dtype))

    return TensorHeader(name, dtype, (size,), derived=Derived((), make, "none"))


def _plural(way: str) -> str:
    return {"the bias beside it": "the bias beside them", "its node's scope": "the scope of their nodes"}.get(way, way)


def _by_name(model: Model) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for tensor in (*model.tensors, *model.constants):
        if tensor.name in tensors:
            raise Broken(f"tensor {shown(tensor.name)} is in it twice")
        tensors[tensor.name] = tensor
    return tensors


def _only(found: list[Encoder]) -> Encoder | None:
    """The one encoder of a graph, also where it is run twice; None where there are several."""
    uses = {frozenset((use.weight.stored, use.name, use.columns) for use in one.uses) for one in found}
    return found[0] if len(uses) == 1 else None


def _may_be_weight(tensor: Tensor) -> bool:
    """Whether a constant in a node is more than a number, a shape or axes."""
    return tensor.type in (1, 2, 3, 10, 11, 16, *PACKED) and any(n > 1 for n in tensor.dims)


def _is_no_weight(header: TensorHeader) -> bool:
    return header.dtype in _NO_WEIGHTS or header.shape == () or header.count == 1


def _unscaled(header: TensorHeader) -> TensorHeader:
    """A weight's header; refused where it holds whole numbers that no scale was found for."""
    known = DTYPES.get(header.dtype)
    if header.refusal is not None or header.derived is not None or known is None or known.is_float:
        return header
    return replace(header, refusal=f"{CODES} (by a scale that is not found in the graph), not the model's numbers")


def _shapes(headers: Iterable[TensorHeader], spelled: Mapping[str, Spelled]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor that has a name in PyTorch, as it is there."""
    found = {}
    for header in headers:
        told = spelled.get(header.name)
        if told is not None and told.name:
            found[told.name] = header.shape if told.axes is None else header.permuted(told.axes).shape
    return found


def _axes(use: Use, header: TensorHeader) -> tuple[int, int] | None:
    return (1, 0) if use.turned and len(header.shape) == 2 else None


def _columns(header: TensorHeader, use: Use) -> TensorHeader:
    """The columns of a fused tensor that are one of its parts, as a header of their own."""
    start, stop = use.columns or (0, 0)
    name = f"{header.name}[{start}:{stop}]"
    if header.refusal is not None or not header.shape or stop > header.shape[-1]:
        return replace(header, name=name, refusal=header.refusal or "its parts are not of one size")
    if len(header.shape) == 1:
        return replace(header.rows(start, stop), name=name)
    shape = (header.shape[0], stop - start)
    if header.derived is not None:
        made = replace(header.derived, inputs=(header,), make=lambda whole: whole[:, start:stop])
        return TensorHeader(name, header.dtype, shape, derived=made)
    (piece,) = header.pieces
    strides, dtype = (header.shape[1], 1), DTYPES[header.dtype]
    first = piece.start + dtype.nbytes(start)
    piece = replace(piece, start=first, stop=first + dtype.nbytes(extent(shape, strides)))
    return replace(header, name=name, shape=shape, strides=strides, pieces=(piece,))
