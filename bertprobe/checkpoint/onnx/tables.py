"""Which table of embeddings is which, told by the ids that choose its rows and by how many it has."""

from __future__ import annotations

from collections.abc import Iterator

from bertprobe.checkpoint.onnx.graph import FAR, SAME, Graph
from bertprobe.checkpoint.onnx.sites import Table

FEW_TYPES = 4  # rows of a table of token types at most, where nothing else tells it


def called(graph: Graph, tables: list[Table]) -> Iterator[tuple[Table, str]]:
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


def depends(graph: Graph, value: str) -> bool:
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
