"""The encoder that the modules of a graph make up: which of them is BERT's, told by which value goes into which."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from bertprobe.checkpoint.onnx.graph import FAR, SAME, Graph, Step, Weight
from bertprobe.checkpoint.onnx.sites import Attention, Dense, Norm, Site, Sites, Table, constants_of

_EMBEDDING = SAME | {"Add"}
_TOKEN = SAME | {"Gather", "Slice"}
FEW_TYPES = 4  # rows of a table of token types at most, where nothing else tells it
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
    for norm in sites.norms:
        tables = _tables_of(sites, norm)
        if tables:
            found = _Walk(sites, norm, tables).walk()
            if found.layers:
                yield found


def _tables_of(sites: Sites, norm: Norm) -> list[Table]:
    if norm.step.op == "EmbedLayerNormalization":
        return [table for table in sites.tables if table.step is norm.step]
    found, steps = sites.all_sources(norm.x[0])
    if any(step.op not in _EMBEDDING for step in steps) or not all(isinstance(site, Table) for site in found):
        return []
    return [site for site in found if isinstance(site, Table)]


class _Walk:
    def __init__(self, sites: Sites, norm: Norm, tables: list[Table]) -> None:
        self._sites = sites
        self._first = norm
        self._tables = tables
        self._found = Encoder()
        self._sources: dict[int, tuple[list[Site], list[Step]]] = {}

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
        for table, name in _called(self._sites.graph, self._tables):
            self._found.uses.append(Use(table.weight, f"embeddings.{name}.weight", "table", scope=table.step.node.name))
            if name == "position_embeddings":
                self._found.counts_from_zero = table.ids == "" or not _depends(self._sites.graph, table.ids)

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
        sites = self._sites
        attention = self._attention_of(here)
        if attention is None:
            return None
        out = self._only([dense for dense in sites.denses if self._comes_of(dense.x, attention)])
        norm = self._sum_of(out, here)
        if out is None or norm is None:
            return None
        inner = self._only([dense for dense in sites.denses if sites.source(dense.x) is norm and self._widens(dense)])
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

    def _only(self, denses: list[Dense]) -> Dense | None:
        return denses[0] if len(denses) == 1 else None

    def _comes_of(self, value: str, site: Site) -> bool:
        return self._sites.into_scores(value) is site

    def _sum_of(self, dense: Dense | None, other: Site) -> Norm | None:
        """The norm of the sum of what a dense layer makes and an earlier value."""
        if dense is None:
            return None
        found = []
        for norm in self._sites.norms:
            parts = [self._sites.source(value) for value in self._sites.summands(norm)]
            if len(parts) == 2 and {id(part) for part in parts} == {id(dense), id(other)}:
                found.append(norm)
        return found[0] if len(found) == 1 else None

    def _widens(self, dense: Dense) -> bool:
        """Whether it is a layer's intermediate: another dense layer takes what it makes, with an activation between."""
        return self._after(dense)[0] is not None

    def _after(self, inner: Dense) -> tuple[Dense | None, str]:
        """The dense layer after a layer's intermediate, and the activation between them."""
        found = []
        for dense in self._sites.denses:
            if id(dense) not in self._sources:
                self._sources[id(dense)] = self._sites.all_sources(dense.x)
            sources, steps = self._sources[id(dense)]
            graph = self._sites.graph
            if sources == [inner] and not _adds_vectors(steps, graph) and (act := activation(steps, inner, graph)):
                found.append((dense, act))
        return found[0] if len(found) == 1 else (None, "")

    def _attention_of(self, here: Site) -> Attention | None:
        found = [one for one in self._sites.attentions if all(part is here for part in self._inputs(one))]
        return found[0] if len(found) == 1 else None

    def _inputs(self, attention: Attention) -> list[Site | None]:
        sites = self._sites
        if attention.weight is not None:
            return [sites.source(attention.x)]
        made = [sites.into_scores(value) for value in (attention.query, attention.key, attention.value)]
        if len({id(part) for part in made}) < 3:
            return [None]
        return [sites.source(part.x) if isinstance(part, Dense) else None for part in made]

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
        found = []
        for dense in self._sites.denses:
            site, steps = self._sites.source(dense.x, _TOKEN), _steps_back(self._sites, dense.x)
            if site is last and any(map(self._takes_first, steps)) and self._ends_in_tanh(dense):
                found.append(dense)
        if len(found) == 1:
            self._dense(found[0], "pooler.dense")
            self._found.has_pooler = True

    def _takes_first(self, step: Step) -> bool:
        graph = self._sites.graph
        if step.op == "Gather":
            return step.attributes.get("axis", 0) in (1, -2) and graph.ints(step.inputs[1]) == (0,)
        if step.op != "Slice" or len(step.inputs) < 4:
            return False
        starts, stops, axes = (graph.ints(value) for value in step.inputs[1:4])
        return (starts, stops) == ((0,), (1,)) and axes == (1,)

    def _ends_in_tanh(self, dense: Dense) -> bool:
        taker = self._sites.graph.only_taker(_last_value(self._sites, dense))
        return dense.act == "Tanh" or (taker is not None and taker.op == "Tanh")


def _steps_back(sites: Sites, value: str) -> list[Step]:
    return sites.all_sources(value)[1]


def _last_value(sites: Sites, dense: Dense) -> str:
    """The value of a dense layer after what changes no number."""
    value = dense.step.out
    for _ in range(FAR):
        taker = sites.graph.only_taker(value)
        if taker is None or taker.op not in SAME:
            return value
        value = taker.out
    return value


def _called(graph: Graph, tables: list[Table]) -> Iterator[tuple[Table, str]]:
    """Each table with its name in BERT, as far as its ids and its size tell: words, token types, positions."""
    if any(table.step.op == "EmbedLayerNormalization" for table in tables):
        names = ("word_embeddings", "position_embeddings", "token_type_embeddings")
        yield from zip(tables, names, strict=False)
        return
    rest = []
    for table in tables:
        given = _input_of(graph, table.ids)
        rows = graph.tensors[table.weight.stored].dims[0]
        if given is None:
            rest.append((table, rows))
        elif "token_type" in given or "segment" in given:
            yield table, "token_type_embeddings"
        elif "position" in given:
            yield table, "position_embeddings"
        elif rows > FEW_TYPES:
            yield table, "word_embeddings"
        else:
            yield table, "token_type_embeddings"
    # Ids that are no input are positions, or zeros for token types, of which there are a few.
    few = [table for table, rows in rest if rows <= FEW_TYPES]
    many = [table for table, rows in rest if rows > FEW_TYPES]
    if len(few) <= 1 and len(many) <= 1:
        yield from ((table, "token_type_embeddings") for table in few)
        yield from ((table, "position_embeddings") for table in many)


def _input_of(graph: Graph, value: str) -> str | None:
    """The input of the graph that ids are, as they are; None where they are computed."""
    for _ in range(FAR):
        if value in graph.inputs:
            return value
        step = graph.makers.get(value)
        if step is None or step.op not in SAME or not step.inputs:
            return None
        value = step.inputs[0]
    return None


def _depends(graph: Graph, value: str) -> bool:
    """Whether numbers of an input go into a value, and not its shape alone."""
    seen, waiting = {value}, [value]
    while waiting:
        here = waiting.pop()
        if here in graph.inputs:
            return True
        step = graph.makers.get(here)
        if step is not None and step.op not in ("Shape", "Size"):
            more = [found for found in step.inputs if found and found not in seen]
            seen.update(more)
            waiting += more
    return False


def _adds_vectors(steps: list[Step], graph: Graph) -> bool:
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
    numbers = list(constants_of(steps, graph))
    if "Erf" in ops:
        is_gelu = not numbers or any(abs(number - 2**power) < 1e-3 for number in numbers for power in (0.5, -0.5))
        return "gelu" if is_gelu else "unknown"
    if "Tanh" in ops:
        is_gelu = any(abs(number - 0.044715) < 1e-4 for number in numbers)
        return "gelu_new" if is_gelu else ("unknown" if ops - SAME - {"Tanh"} else "tanh")
    if "Sigmoid" in ops and "Mul" in ops:
        return "quick_gelu" if any(abs(number - 1.702) < 1e-3 for number in numbers) else "silu"
    return "unknown" if ops - SAME else ""
