"""The encoder that the modules of a graph make up: which of them is BERT's, told by which value goes into which."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TypeVar

from bertprobe.checkpoint.onnx.activation import activation, adds_vectors
from bertprobe.checkpoint.onnx.graph import FAR, SAME, Graph, Step, Weight
from bertprobe.checkpoint.onnx.sites import Attention, Dense, Norm, Site, Sites, Table
from bertprobe.checkpoint.onnx.tables import called, depends

T = TypeVar("T")
_EMBEDDING = SAME | {"Add"}
_TOKEN = SAME | {"Gather", "Slice"}
_PARTS = ("query", "key", "value")


@dataclass(frozen=True, slots=True)
class Use:
    """A tensor as a module has it: what of it PyTorch calls by which `name`, its axes turned or not.

    `columns` are those of a fused weight, None for all. `partner` is the bias that is added to what a weight makes, and
    `scope` the name of the node that takes it; `is_bare` says that certainly none is added.
    """

    weight: Weight
    name: str
    kind: str
    turned: bool = False
    columns: tuple[int, int] | None = None
    partner: Weight | None = None
    scope: str = ""
    is_bare: bool = False


@dataclass(slots=True)
class Encoder:
    """What was recognised: its uses of tensors, and what the graph says of its settings."""

    uses: list[Use] = field(default_factory=list)
    heads: set[int | None] = field(default_factory=set)
    head_sizes: set[int | None] = field(default_factory=set)
    acts: set[str] = field(default_factory=set)
    eps: set[float | None] = field(default_factory=set)
    layers: int = 0
    has_pooler: bool = False
    counts_from_zero: bool = False


def encoders(sites: Sites) -> Iterator[Encoder]:
    """Each encoder in a graph: what begins with a norm of the sum of rows of tables."""
    flow = _Flow(sites)
    for norm in sites.norms:
        tables = _tables_of(sites, norm)
        if tables:
            found = _Walk(flow, norm, tables).walk()
            if found.layers:
                yield found


def _tables_of(sites: Sites, norm: Norm) -> list[Table]:
    if norm.step.op == "EmbedLayerNormalization":
        return [table for table in sites.tables if table.step is norm.step]
    found, steps = sites.all_sources(norm.x[0])
    if any(step.op not in _EMBEDDING for step in steps) or not all(isinstance(site, Table) for site in found):
        return []
    return [site for site in found if isinstance(site, Table)]


class _Flow:
    """Which modules take the value of each module, by its identity: looked up once, however long the graph is.

    `after` are dense layers that take it through an activation, `firsts` those that take its first token, and `sums`
    norms of the sum of two.
    """

    def __init__(self, sites: Sites) -> None:
        self.sites = sites
        self.denses: dict[int, list[Dense]] = {}
        self.out_of_heads: dict[int, list[Dense]] = {}
        self.firsts: dict[int, list[Dense]] = {}
        self.after: dict[int, list[tuple[Dense, str]]] = {}
        self.sums: dict[frozenset[int], list[Norm]] = {}
        self.attentions: dict[int, list[Attention]] = {}
        for dense in sites.denses:
            self.denses.setdefault(id(sites.source(dense.x)), []).append(dense)
            self.out_of_heads.setdefault(id(sites.into_scores(dense.x)), []).append(dense)
            self._look_between(dense)
        for norm in sites.norms:
            parts = frozenset(id(sites.source(value)) for value in sites.summands(norm))
            self.sums.setdefault(parts, []).append(norm)
        for attention in sites.attentions:
            (here, *others) = self._inputs(attention)
            if here is not None and all(other is here for other in others):
                self.attentions.setdefault(id(here), []).append(attention)

    def _look_between(self, dense: Dense) -> None:
        """Looks what lies between a dense layer and the module before it: an activation, or the choice of a token."""
        sources, steps = self.sites.all_sources(dense.x)
        if len(sources) != 1:
            return
        (before,) = sources
        graph = self.sites.graph
        if isinstance(before, Dense) and not adds_vectors(steps, graph) and (act := activation(steps, before, graph)):
            self.after.setdefault(id(before), []).append((dense, act))
        if self.sites.source(dense.x, _TOKEN) is before and any(_takes_first(step, graph) for step in steps):
            self.firsts.setdefault(id(before), []).append(dense)

    def _inputs(self, attention: Attention) -> list[Site | None]:
        """The modules whose values attention is over."""
        sites = self.sites
        graph = sites.graph
        fused = [weight for weight in (attention.weight, attention.bias) if weight is not None]
        if any(graph.tensors[weight.stored].dims[-1] % 3 for weight in fused if graph.tensors[weight.stored].dims):
            return [None]
        if attention.weight is not None:
            return [sites.source(attention.x)]
        made = [sites.into_scores(value) for value in (attention.query, attention.key, attention.value)]
        if len({id(part) for part in made}) < 3:
            return [None]
        return [sites.source(part.x) if isinstance(part, Dense) else None for part in made]


class _Walk:
    def __init__(self, flow: _Flow, norm: Norm, tables: list[Table]) -> None:
        self._flow = flow
        self._sites = flow.sites
        self._first = norm
        self._tables = tables
        self._found = Encoder()

    def walk(self) -> Encoder:
        """The encoder from its embeddings on, as far as layers follow."""
        self._embeddings()
        self._norm(self._first, "embeddings.LayerNorm")
        here: Site = self._first
        for layer in range(FAR * 4):
            after = self._layer(here, f"encoder.layer.{layer}")
            if after is None:
                break
            here, self._found.layers = after, layer + 1
        self._pooler(here)
        return self._found

    # ------------------------------------------------------------------------------------------------ embeddings

    def _embeddings(self) -> None:
        for table, name in called(self._sites.graph, self._tables):
            self._found.uses.append(Use(table.weight, f"embeddings.{name}.weight", "table", scope=table.step.node.name))
            if name == "position_embeddings":
                self._found.counts_from_zero = table.ids == "" or not depends(self._sites.graph, table.ids)

    def _norm(self, norm: Norm, name: str) -> None:
        self._found.eps.add(norm.eps)
        self._found.uses.append(Use(norm.gamma, f"{name}.weight", "norm"))
        if norm.beta is not None:
            self._found.uses.append(Use(norm.beta, f"{name}.bias", "norm"))

    def _dense(self, dense: Dense, name: str, fused_bias: tuple[Weight, int, int] | None = None) -> None:
        use = Use(dense.weight, f"{name}.weight", "dense", dense.turned, None, dense.bias, dense.scope)
        self._found.uses.append(replace(use, is_bare=dense.is_bare and fused_bias is None))
        if dense.bias is not None:
            self._found.uses.append(Use(dense.bias, f"{name}.bias", "bias"))
        elif fused_bias is not None:
            bias, start, stop = fused_bias
            self._found.uses.append(Use(bias, f"{name}.bias", "bias", columns=(start, stop)))

    # ------------------------------------------------------------------------------------------------ a layer

    def _layer(self, here: Site, name: str) -> Norm | None:
        """Takes up the layer that a value goes into; the norm at its end, None where there is no such layer."""
        flow = self._flow
        attention = _only(flow.attentions.get(id(here), []))
        if attention is None:
            return None
        out = _only(flow.out_of_heads.get(id(attention), []))
        norm = self._sum_of(out, here)
        if out is None or norm is None:
            return None
        inner = _only([dense for dense in flow.denses.get(id(norm), []) if self._after(dense)[0] is not None])
        if inner is None:
            return None
        outer, act = self._after(inner)
        last = self._sum_of(outer, norm)
        if outer is None or last is None:
            return None
        self._attention(attention, f"{name}.attention.self")
        self._dense(out, f"{name}.attention.output.dense")
        self._norm(norm, f"{name}.attention.output.LayerNorm")
        self._dense(inner, f"{name}.intermediate.dense")
        self._dense(outer, f"{name}.output.dense")
        self._norm(last, f"{name}.output.LayerNorm")
        self._found.acts.add(act)
        return last

    def _sum_of(self, dense: Dense | None, other: Site) -> Norm | None:
        """The norm of the sum of what a dense layer makes and an earlier value."""
        return None if dense is None else _only(self._flow.sums.get(frozenset((id(dense), id(other))), []))

    def _after(self, inner: Dense) -> tuple[Dense | None, str]:
        """The dense layer after a layer's intermediate, and the activation between them."""
        return _only(self._flow.after.get(id(inner), [])) or (None, "")

    def _attention(self, attention: Attention, name: str) -> None:
        self._found.heads.add(attention.heads)
        self._found.head_sizes.add(attention.head_size)
        if attention.weight is not None:
            self._fused(attention, attention.weight, name)
            return
        dims = None if attention.bias is None else self._sites.graph.tensors[attention.bias.stored].dims
        for place, part in enumerate(_PARTS):
            dense = self._sites.into_scores(getattr(attention, part))
            if isinstance(dense, Dense):
                third = dims[0] // 3 if dims else 0
                bias = None
                if attention.bias is not None and dims is not None and len(dims) == 1 and dims[0] == 3 * third:
                    bias = (attention.bias, place * third, (place + 1) * third)
                self._dense(dense, f"{name}.{part}", bias)

    def _fused(self, attention: Attention, weight: Weight, name: str) -> None:
        columns = self._sites.graph.tensors[weight.stored].dims[-1:]
        third = columns[0] // 3 if columns else 0
        for place, part in enumerate(_PARTS):
            here = (place * third, (place + 1) * third)
            use = Use(weight, f"{name}.{part}.weight", "dense", turned=True, columns=here)
            self._found.uses.append(replace(use, is_bare=attention.bias is None))
            if attention.bias is not None:
                self._found.uses.append(Use(attention.bias, f"{name}.{part}.bias", "bias", columns=here))

    # ------------------------------------------------------------------------------------------------ pooler

    def _pooler(self, last: Site) -> None:
        """The dense layer of the first token's last hidden state, with a tanh after it."""
        pooler = _only([dense for dense in self._flow.firsts.get(id(last), []) if self._ends_in_tanh(dense)])
        if pooler is not None:
            self._dense(pooler, "pooler.dense")
            self._found.has_pooler = True

    def _ends_in_tanh(self, dense: Dense) -> bool:
        taker = self._sites.graph.only_taker(_last_value(self._sites, dense))
        return dense.act == "Tanh" or (taker is not None and taker.op == "Tanh")


def _only(found: list[T]) -> T | None:
    """The one of a list; None of none or several."""
    return found[0] if len(found) == 1 else None


def _takes_first(step: Step, graph: Graph) -> bool:
    """Whether a step takes the first token of each text."""
    if step.op == "Gather" and len(step.inputs) == 2:
        return step.attributes.get("axis", 0) in (1, -2) and graph.ints(step.inputs[1]) == (0,)
    if step.op != "Slice" or len(step.inputs) < 4:
        return False
    starts, stops, axes = (graph.ints(value) for value in step.inputs[1:4])
    return (starts, stops) == ((0,), (1,)) and axes == (1,)


def _last_value(sites: Sites, dense: Dense) -> str:
    """The value of a dense layer after what changes no number."""
    value = dense.step.out
    for _ in range(FAR):
        taker = sites.graph.only_taker(value)
        if taker is None or taker.op not in SAME:
            return value
        value = taker.out
    return value
