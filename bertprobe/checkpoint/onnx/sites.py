"""The modules that a graph shows, whatever its values are called: dense layers, layer norms, tables and attention.

A module may be one operator or a chain of them. Only what weights and values go into which is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bertprobe.checkpoint.onnx.graph import FAR, SAME, Graph, Step, Weight

_PRODUCTS = frozenset(("MatMul", "Gemm", "MatMulNBits"))
_BIAS_GELU = frozenset(("BiasGelu", "FastGelu", "BiasSplitGelu"))
_NORMS = frozenset(("LayerNormalization", "SkipLayerNormalization", "EmbedLayerNormalization"))
SCALED = SAME | {"Transpose", "Mul", "Div"}  # on the way from a dense layer into the scores of attention


@dataclass(slots=True, eq=False)
class Site:
    """A module in the graph: the step that makes its value."""

    step: Step


@dataclass(slots=True, eq=False)
class Dense(Site):
    """A dense layer of `x`; its weight lies (in, out) where `turned`. `act` is an activation that is part of it.

    `scope` is the name of the node that takes the weight; `is_bare` says that the graph certainly adds no bias.
    """

    x: str
    weight: Weight
    turned: bool
    scope: str = ""
    bias: Weight | None = None
    act: str = ""
    is_bare: bool = False


@dataclass(slots=True, eq=False)
class Norm(Site):
    """A layer norm of `x`, or of the sum of two values."""

    x: tuple[str, ...]
    gamma: Weight
    beta: Weight | None
    eps: float | None


@dataclass(slots=True, eq=False)
class Table(Site):
    """Rows of a table by `ids`."""

    weight: Weight
    ids: str


@dataclass(slots=True, eq=False)
class Attention(Site):
    """Attention over what query, key and value make, each a dense layer; or, `fused`, one weight of all three."""

    query: str = ""
    key: str = ""
    value: str = ""
    x: str = ""
    weight: Weight | None = None
    bias: Weight | None = None
    heads: int | None = None
    head_size: int | None = None


@dataclass(slots=True)
class Sites:
    """All modules of a graph, and the steps that belong to each."""

    graph: Graph
    denses: list[Dense] = field(default_factory=list)
    norms: list[Norm] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    attentions: list[Attention] = field(default_factory=list)
    at: dict[int, Site] = field(default_factory=dict)
    live: set[str] = field(default_factory=set)

    def find(self) -> None:
        self._find_tables()
        self._find_live()
        for step in self.graph.steps:
            if step.op in _PRODUCTS:
                self._find_dense(step)
        for step in self.graph.steps:
            if step.op in _NORMS:
                self._find_norm(step)
            elif step.op == "Add":
                self._find_norm_in_steps(step)

    # ------------------------------------------------------------------------------------------------ tables

    def _find_tables(self) -> None:
        for step in self.graph.steps:
            if (step.op == "Gather" and len(step.inputs) == 2 and step.attributes.get("axis", 0) == 0) or (
                step.op == "GatherBlockQuantized" and len(step.inputs) >= 3
            ):
                self._add_table(step, step.inputs[0], step.inputs[1])

    def _add_table(self, step: Step, value: str, ids: str) -> None:
        weight = self.graph.weight(value)
        if weight is None or weight.turned or self.graph.rank(weight) != 2:
            return
        tensor = self.graph.tensors[weight.stored]
        if tensor.type in (1, 10, 11, 16) or weight.stored in self.graph.scalings.found:
            table = Table(step, weight, ids)
            self.tables.append(table)
            self.at[id(step)] = table

    def _find_live(self) -> None:
        """The values that depend on a row of a table: what texts are made into, and not masks or shapes."""
        waiting = [table.step for table in self.tables]
        waiting += [step for step in self.graph.steps if step.op == "EmbedLayerNormalization"]
        while waiting:
            step = waiting.pop()
            for value in self._live_outputs(step):
                if value not in self.live:
                    self.live.add(value)
                    waiting += self.graph.takers.get(value, ())

    def _live_outputs(self, step: Step) -> list[str]:
        if step.op in ("Shape", "Size"):
            return []
        if step.op in ("DynamicQuantizeLinear", "EmbedLayerNormalization", "Attention"):
            return [step.out]  # the others are scales, masks and what was before
        return [value for value in step.node.outputs if value]

    def lives(self, step: Step) -> list[str]:
        """The live values among the inputs of a step; no operator that is looked for has many."""
        return [value for value in step.inputs[:FAR] if value in self.live]

    # ------------------------------------------------------------------------------------------------ dense

    def _find_dense(self, step: Step) -> None:
        if len(step.inputs) < 2 or self.lives(step)[:1] != step.inputs[:1] or step.inputs[1] in self.live:
            return
        weight = self.graph.weight(step.inputs[1])
        if weight is None or not self._is_plain(step):
            return
        by_blocks = step.op == "MatMulNBits"
        if not by_blocks and self.graph.rank(weight) != 2:
            return
        swapped = bool(step.attributes.get("transB", 0)) or by_blocks
        dense = Dense(step, step.inputs[0], weight, turned=not (swapped ^ weight.turned), scope=step.node.name)
        named = step.inputs[2] if step.op == "Gemm" and len(step.inputs) > 2 else step.bias
        if by_blocks and len(step.node.inputs) > 5:
            named = step.node.inputs[5]
        dense.bias = self.graph.weight(named) if named else None
        act = step.attributes.get("activation", b"")
        dense.act = act.decode("latin-1") if isinstance(act, bytes) else ""
        self.at[id(step)] = dense
        self.denses.append(dense)
        last = step.out if dense.act else self._follow(dense)
        dense.is_bare = dense.bias is None and not named and not self._is_added_to(last)

    def _is_plain(self, step: Step) -> bool:
        """Whether a product is of its two operands as they are, but for the weight's two axes."""
        given = step.attributes
        odd = given.get("transA", 0) or given.get("transBatchA", 0) or given.get("transBatchB", 0)
        return not odd and given.get("alpha", 1.0) == 1.0 and given.get("beta", 1.0) == 1.0

    def _is_added_to(self, value: str) -> bool:
        """Whether a step adds to a value what may be a bias."""
        takers = self.graph.takers.get(value, ())
        plain = [step for step in takers if step.op in ("Add", "Sub", "Sum") or step.op in _BIAS_GELU]
        skips = [step for step in takers if step.op == "SkipLayerNormalization" and any(step.inputs[4:5])]
        return bool(skips) or any(len(self.lives(step)) < len(step.inputs) > 1 for step in plain)

    def _follow(self, dense: Dense) -> str:
        """Finds the bias that is added next; what stands between belongs to the layer. Gives the layer's value."""
        own: list[Step] = []  # steps that are the layer's for certain: of codes, and up to the bias
        between: list[Step] = []
        value, after_codes = dense.step.out, dense.step.node.op == "MatMulInteger"
        for _ in range(FAR):
            step = None if dense.bias is not None else self.graph.only_taker(value)
            if step is None:
                break
            if step.op in SAME or (after_codes and step.op == "Mul" and len(self.lives(step)) == 1):
                between.append(step)
                value = step.out
                if step.op == "Mul":
                    own, after_codes = list(between), False
                continue
            dense.bias = self._bias_in(step, value)
            if dense.bias is not None:
                own = [*between, step] if step.op == "Add" else between
            break
        for step in own:
            self.at[id(step)] = dense
        dense.step = own[-1] if own else dense.step
        return value

    def _bias_in(self, step: Step, value: str) -> Weight | None:
        """The bias that a step adds to a value, None where it adds none."""
        others = [found for found in step.inputs if found != value]
        if step.op == "SkipLayerNormalization" and len(step.inputs) > 4 and value == step.inputs[0]:
            others = step.inputs[4:5]
        elif step.op != "Add" and step.op not in _BIAS_GELU:
            return None
        if len(others) != 1 or others[0] in self.live:
            return None
        bias = self.graph.weight(others[0])
        return bias if bias is not None and self.is_vector(bias) else None

    def is_vector(self, weight: Weight) -> bool:
        return self.graph.rank(weight) == 1

    # ------------------------------------------------------------------------------------------------ norms

    def _find_norm(self, step: Step) -> None:
        places = {"LayerNormalization": (1, 2), "SkipLayerNormalization": (2, 3), "EmbedLayerNormalization": (5, 6)}
        first, second = places[step.op]
        found = [self.graph.weight(value) for value in step.inputs[first : second + 1] if value]
        if not found or found[0] is None or not self.is_vector(found[0]):
            return
        x = tuple(step.inputs[:2]) if step.op == "SkipLayerNormalization" else (step.inputs[0],)
        eps = step.attributes.get("epsilon", 1e-5 if step.op == "LayerNormalization" else 1e-12)
        self._add_norm(Norm(step, x, found[0], found[1] if len(found) > 1 else None, eps))
        if step.op == "EmbedLayerNormalization":
            for ids, place in ((step.inputs[0], 2), ("", 3), (step.inputs[1], 4)):
                weight = self.graph.weight(step.inputs[place]) if place < len(step.inputs) else None
                if weight is not None:
                    self.tables.append(Table(step, weight, ids))

    def _add_norm(self, norm: Norm) -> None:
        self.norms.append(norm)
        self.at[id(norm.step)] = norm

    def _find_norm_in_steps(self, step: Step) -> None:
        """A norm that is written out: (x - mean) / sqrt(variance + ε), times a vector, plus a vector."""
        scaled, beta = self._with_vector(step)
        if scaled is None or beta is None or scaled.op != "Mul":
            return
        divided, gamma = self._with_vector(scaled)
        if divided is None or gamma is None or divided.op != "Div" or len(divided.inputs) != 2:
            return
        centred, root = (self._back(value) for value in divided.inputs)
        if centred is None or root is None or centred.op != "Sub" or root.op != "Sqrt":
            return
        mean = self._back(centred.inputs[1])
        shifted = self._back(root.inputs[0])
        if mean is None or mean.op != "ReduceMean" or shifted is None or shifted.op != "Add":
            return
        if self._origin(mean.inputs[0]) != self._origin(centred.inputs[0]):
            return
        eps = [self._constant(value) for value in shifted.inputs if value not in self.live]
        self._add_norm(Norm(step, (centred.inputs[0],), gamma, beta, eps[0] if len(eps) == 1 else None))

    def _constant(self, value: str) -> float | None:
        """A number of the graph, None where it was quantised: what became of it is not the model's."""
        return self.graph.number(value)

    def _with_vector(self, step: Step) -> tuple[Step | None, Weight | None]:
        """The step that makes the live operand of a sum or product, and the vector that is the other."""
        if len(step.inputs) != 2 or len(self.lives(step)) != 1:
            return None, None
        (value,) = self.lives(step)
        (other,) = (found for found in step.inputs if found != value)
        vector = self.graph.weight(other)
        return self._back(value), vector if vector is not None and self.is_vector(vector) else None

    def _back(self, value: str) -> Step | None:
        """The step that a value is made by, those left out that change no number."""
        return self.graph.makers.get(self._origin(value))

    def _origin(self, value: str) -> str:
        for _ in range(FAR):
            step = self.graph.makers.get(value)
            if step is None or step.op not in SAME or len(self.lives(step)) != 1 or id(step) in self.at:
                return value
            (value,) = self.lives(step)
        return value

    # ------------------------------------------------------------------------------------------------ ways back

    def source(self, value: str, passing: frozenset[str] = SAME) -> Site | None:
        """The module whose value this is, on a way through operators that change no number, or those that are named."""
        for _ in range(FAR):
            step = self.graph.makers.get(value)
            if step is None:
                return None
            if id(step) in self.at:
                return self.at[id(step)]
            live = self.lives(step)
            if step.op not in passing or len(live) != 1:
                return None
            (value,) = live
        return None

    def into_scores(self, value: str) -> Site | None:
        """The module that makes queries, keys or values, which are brought into heads and may be scaled."""
        return self.source(value, SCALED)

    def all_sources(self, value: str) -> tuple[list[Site], list[Step]]:
        """All modules that a value comes of, and the steps between."""
        sites: list[Site] = []
        steps: list[Step] = []
        seen, waiting = set(), [value]
        while waiting and len(steps) < FAR:
            step = self.graph.makers.get(waiting.pop())
            if step is None or id(step) in seen:
                continue
            seen.add(id(step))
            if id(step) in self.at:
                if self.at[id(step)] not in sites:
                    sites.append(self.at[id(step)])
                continue
            steps.append(step)
            waiting += self.lives(step)
        return sites, steps

    def summands(self, norm: Norm) -> tuple[str, ...]:
        """The two values whose sum a norm is of; the one value where it is none."""
        if len(norm.x) == 2:
            return norm.x
        step = self._back(norm.x[0])
        live = () if step is None or step.op != "Add" or id(step) in self.at else tuple(self.lives(step))
        return live if len(live) == 2 else norm.x
