"""What PyTorch calls the tensors of a graph: by their names, the bias beside them, their node's scope, or the flow.

The last is the place in the encoder that the flow of data shows. Ways that disagree are an error: no name is guessed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from bertprobe.checkpoint.onnx.encoder import Encoder, Use
from bertprobe.checkpoint.onnx.graph import Weight
from bertprobe.checkpoint.onnx.headers import shown
from bertprobe.checkpoint.onnx.sites import Sites
from bertprobe.errors import CorruptFile

# What tools add to a name.
_ADDED = re.compile(
    r"(?:_quantized|_dequantized|_quant|_DequantizeLinear(?:_Output)?|_DQ|_q\d?|_Q\d(?:_G\d+)?|_fp16|_cast|_f|_transposed)$"
)
# A name that PyTorch gives: modules, then what the tensor is there. One of the exporter's own has other words in it.
_OF_PYTORCH = re.compile(r"[A-Za-z_][\w-]*(?:\.[\w-]+)*\.(?:weight|bias|gamma|beta)")
# onnxruntime-genai gives names of its own, which are no module's.
_OF_BUILDER = re.compile(r"\.(?:MatMul|Add)\.(?:weight|bias)$")
_SCOPE = re.compile(r"/?(?P<path>.+)/(?:MatMul|Gemm)(?:[_/].*)?")
# The part of a name that the flow of data tells.
PLACE = re.compile(
    r"(?:embeddings\.(?:(?:word|position|token_type)_embeddings|LayerNorm)"
    r"|encoder\.layer\.\d+\.(?:attention\.(?:self\.(?:query|key|value)|output\.(?:dense|LayerNorm))"
    r"|intermediate\.dense|output\.(?:dense|LayerNorm))|pooler\.dense)\.(?:weight|bias|gamma|beta)$"
)
BY_BIAS, BY_SCOPE, BY_FLOW = "the bias beside it", "its node's scope", "the flow of data"


@dataclass(slots=True)
class Names:
    """Each use of a tensor under its name in PyTorch, and by which ways how many names were found."""

    uses: list[Use] = field(default_factory=list)
    ways: Counter[str] = field(default_factory=Counter)


def name_all(sites: Sites, found: Encoder | None, address: str) -> Names:
    """The names of all tensors that modules of a graph use; raises `CorruptFile` for ways that disagree."""
    names = Names()
    uses = list(_all_uses(sites, found))
    shared = Counter(use.weight.stored for use in uses)
    told = [_Told(use, shared) for use in uses]
    if any(_OF_BUILDER.search(use.weight.stored) for use in uses):
        told = [one.by_flow_alone() for one in told]
    elif not any(one.place for one in told) and any(one.own for one in told):
        told = [one.without_flow() for one in told]  # another family's modules, which have names of their own
    prefix = _prefix(told)
    for one in told:
        one.check(address)
        name, way = one.name(prefix)
        if name:
            names.uses.append(one.renamed(name))
            names.ways[way] += 1
    _check_apart(names.uses, address)
    return names


def _all_uses(sites: Sites, found: Encoder | None) -> Iterator[Use]:
    """Uses by the encoder, and those of other modules, which have no name by the flow of data."""
    known = set()
    for use in found.uses if found else ():
        known.add((use.weight.stored, use.kind))
        yield use
    for dense in sites.denses:
        if (dense.weight.stored, "dense") not in known:
            yield Use(dense.weight, "", "dense", dense.turned, partner=dense.bias, scope=dense.scope)
        if dense.bias is not None and (dense.bias.stored, "bias") not in known:
            yield Use(dense.bias, "", "bias")
    for table in sites.tables:
        if (table.weight.stored, "table") not in known:
            yield Use(table.weight, "", "table")
    for norm in sites.norms:
        for weight in (norm.gamma, norm.beta):
            if weight is not None and (weight.stored, "norm") not in known:
                yield Use(weight, "", "norm")


class _Told:
    """What each way says of a use: `own`, `bias` and `scope` a whole name, `flow` the place in the encoder."""

    def __init__(self, use: Use, shared: Mapping[str, int]) -> None:
        self.use = use
        self.flow = use.name
        is_part = use.columns is not None
        self.own = "" if is_part else _own(use.weight, shared)
        partner = "" if use.partner is None or use.kind != "dense" else _own(use.partner, shared)
        self.bias = f"{partner.removesuffix('.bias')}.weight" if partner.endswith(".bias") else ""
        self.scope = _by_scope(use.scope) if use.kind == "dense" and not is_part else ""

    @property
    def place(self) -> str:
        return next(filter(None, map(place_of, self.whole)), "")

    @property
    def whole(self) -> tuple[str, str, str]:
        return self.own, self.bias, self.scope

    def by_flow_alone(self) -> _Told:
        self.own = self.bias = self.scope = ""
        return self

    def without_flow(self) -> _Told:
        self.flow = ""
        return self

    def check(self, address: str) -> None:
        ways = zip(("its name", BY_BIAS, BY_SCOPE), map(place_of, self.whole), strict=True)
        said = {place: way for way, place in (*ways, (BY_FLOW, self.flow)) if place}
        if len(said) > 1:
            (a, by_a), (b, by_b), *_ = said.items()
            raise CorruptFile(
                f"{shown(self.use.weight.stored)} of {address} is {a} by {by_a}, but {b} by {by_b}",
                "names and graph are of two models, or the graph is one that is not understood: "
                "open the checkpoint that it was exported from",
            )

    def name(self, prefix: str) -> tuple[str, str]:
        """The name and the way it was found by; both empty where none tells."""
        if self.own:
            return self.own, ""
        if self.bias and self.scope and not _same(self.bias, self.scope):
            inner = self.scope.startswith(f"{self.bias.removesuffix('weight')}")
            return (self.scope, BY_SCOPE) if inner else ("", "")  # a head's bias may be kept by the module around it
        if self.bias or self.scope:
            return self.bias or self.scope, BY_BIAS if self.bias else BY_SCOPE
        return (prefix + self.flow, BY_FLOW) if self.flow else ("", "")

    def renamed(self, name: str) -> Use:
        return replace(self.use, name=name)


def place_of(name: str) -> str:
    """The place in the encoder that a name tells, empty where it tells none."""
    found = PLACE.search(name)
    return "" if found is None else found[0].replace(".gamma", ".weight").replace(".beta", ".bias")


def _same(a: str, b: str) -> bool:
    return a.endswith(b) or b.endswith(a)


def plain(name: str) -> str:
    """A value's name without what quantisers and optimisers add to it."""
    for _ in range(4):
        shorter = _ADDED.sub("", name)
        if shorter == name:
            break
        name = shorter
    return name.lstrip(".")


def _own(weight: Weight, shared: Mapping[str, int]) -> str:
    """The name that a tensor has by itself; of one that several modules use, that of the value each takes."""
    *on_the_way, last = map(plain, weight.names)
    several = shared.get(weight.stored, 0) > 1 and place_of(last)  # then the file's name is that of one of them
    names = on_the_way if several else [*on_the_way, last]
    return next((found for found in names if _OF_PYTORCH.fullmatch(found)), "")


def is_named(name: str) -> bool:
    """Whether a tensor's own name is one that PyTorch gives."""
    return _OF_PYTORCH.fullmatch(plain(name)) is not None


def _by_scope(node: str) -> str:
    """The weight of the module in whose scope a node stands: /encoder/layer.0/intermediate/dense/MatMul."""
    match = _SCOPE.fullmatch(node)
    if match is None:
        return ""
    words: list[str] = []
    for word in match["path"].split("/"):
        if words and word.startswith(f"{words[-1]}."):
            words.pop()  # a list of modules, whose members have its name in theirs
        words.append(word)
    name = ".".join([*words, "weight"])
    return name if _OF_PYTORCH.fullmatch(name) else ""


def _prefix(told: Iterable[_Told]) -> str:
    """What most whole names have before their place in the encoder."""
    whole = [name for one in told for name in one.whole if name and place_of(name)]
    prefixes = Counter(name[: (PLACE.search(name) or re.match("", name)).start()] for name in whole)  # type: ignore[union-attr]
    return prefixes.most_common(1)[0][0] if prefixes else ""


def _check_apart(uses: Iterable[Use], address: str) -> None:
    """Raises `CorruptFile` where two tensors would have one name."""
    known: dict[str, tuple[str, tuple[int, int] | None]] = {}
    for use in uses:
        here = (use.weight.stored, use.columns)
        if known.setdefault(use.name, here) != here:
            raise CorruptFile(
                f"{shown(known[use.name][0])} and {shown(use.weight.stored)} of {address} "
                f"would both be {shown(use.name)}",
                "open the checkpoint that it was exported from",
            )
