"""Attention in a graph, whose parts are several operators or one: what its queries, keys and values are made of."""

from __future__ import annotations

from bertprobe.checkpoint.onnx.graph import FAR, SAME, Graph, Step
from bertprobe.checkpoint.onnx.sites import SCALED, Attention, Sites

_SCORES = SAME | {"Add", "Sub", "Mul", "Div", "Where", "Max", "Expand"}
_PROBABILITIES = SAME | {"Where", "IsNaN", "Mul", "Div"}


def walk(graph: Graph) -> Sites:
    """The modules of a graph, attention included."""
    sites = Sites(graph)
    sites.find()
    for step in graph.steps:
        if step.op == "Softmax":
            _find_attention(sites, step)
        elif step.op in ("Attention", "MultiHeadAttention"):
            _find_fused_attention(sites, step)
    return sites


def _find_attention(sites: Sites, softmax: Step) -> None:
    scores = _scores_of(sites, softmax)
    if scores is None:
        return
    context = _context_of(sites, softmax)
    if context is None:
        return
    query, key, value = scores.inputs[0], scores.inputs[1], context.inputs[1]
    attention = Attention(context, query, key, value)
    _count_heads(sites, attention)
    sites.attentions.append(attention)
    sites.at[id(context)] = attention


def _scores_of(sites: Sites, softmax: Step) -> Step | None:
    """The product of queries and keys that goes into a softmax, scaled and masked on its way."""
    (value, *_) = softmax.inputs or [""]
    if softmax.attributes.get("axis", -1) not in (-1, 2, 3):
        return None  # it is not keys that it goes over
    for _ in range(FAR):
        step = sites.graph.makers.get(value)
        if step is None:
            return None
        live = sites.lives(step)
        if step.op == "MatMul" and len(step.inputs) >= 2 and step.inputs[:2] == live[:2]:
            return step
        if step.op not in _SCORES or len(live) != 1:
            return None
        (value,) = live
    return None


def _context_of(sites: Sites, softmax: Step) -> Step | None:
    """The product of probabilities and values."""
    waiting, seen = [softmax.out], {softmax.out}
    for _ in range(FAR):
        if not waiting:
            return None
        value = waiting.pop()
        for step in sites.graph.takers.get(value, [])[:FAR]:
            if step.op == "MatMul" and step.inputs[:1] == [value] and step.inputs[1] in sites.live:
                return step
            if step.op in _PROBABILITIES and step.out not in seen:
                seen.add(step.out)
                waiting.append(step.out)
    return None


def _count_heads(sites: Sites, attention: Attention) -> None:
    """Finds the number of heads, or their size, by the shape of queries: (batch, tokens, heads, size)."""
    value = attention.query
    for _ in range(FAR):
        step = sites.graph.makers.get(value)
        if step is None or id(step) in sites.at:
            return
        if step.op == "Reshape" and len(step.inputs) == 2:
            heads, size = _last_two(sites, step.inputs[1])
            attention.heads = heads if heads and heads > 0 else None
            attention.head_size = size if size and size > 0 else None
            return
        live = sites.lives(step)
        if step.op not in SCALED or len(live) != 1:
            return
        (value,) = live


def _last_two(sites: Sites, shape: str) -> tuple[int | None, int | None]:
    """The last two of four dimensions of a shape, each None where it is not fixed."""
    fixed = sites.graph.ints(shape)
    if fixed is not None:
        return (fixed[2], fixed[3]) if len(fixed) == 4 else (None, None)
    step = sites.graph.makers.get(shape)
    if step is None or step.op != "Concat" or len(step.inputs) != 4:
        return None, None
    heads, size = (sites.graph.ints(value) for value in step.inputs[2:])
    return heads[0] if heads and len(heads) == 1 else None, size[0] if size and len(size) == 1 else None


def _find_fused_attention(sites: Sites, step: Step) -> None:
    heads = step.attributes.get("num_heads", step.attributes.get("q_num_heads"))
    attention = Attention(step, heads=heads if isinstance(heads, int) and heads > 0 else None)
    live = step.inputs[:3]
    if step.op == "Attention" and step.inputs[1:2] and step.inputs[1] not in sites.live:
        attention.x = step.inputs[0]
        attention.weight = sites.graph.weight(step.inputs[1])
        attention.bias = sites.graph.weight(step.inputs[2]) if len(step.inputs) > 2 and step.inputs[2] else None
        sizes = step.attributes.get("qkv_hidden_sizes")
        plain = attention.weight is not None and not attention.weight.turned and sizes is None
        plain = plain and (attention.bias is not None or not any(step.inputs[2:3]))
        if not plain or step.attributes.get("unidirectional", 0):
            return
    elif len(live) == 3 and all(value in sites.live for value in live):
        attention.query, attention.key, attention.value = live
        if step.op == "MultiHeadAttention" and len(step.inputs) > 3 and step.inputs[3]:
            attention.bias = sites.graph.weight(step.inputs[3])
            if attention.bias is None:
                return
    else:
        return
    sites.attentions.append(attention)
    sites.at[id(step)] = attention
