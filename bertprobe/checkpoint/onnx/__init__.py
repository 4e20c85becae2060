"""ONNX: a graph with its weights in it, or in files beside it. The graph is read for what it tells of the weights.

A file is one protobuf message, which is walked by byte ranges that leap over the weights (`messages`). What a weight
is called in PyTorch is recovered from names, from the scope of nodes and from the flow of data (`names`). Which file of
a folder is meant is told by names alone (`naming`). Nothing of a graph is run.
Sources: onnx.proto and Operators.md of ONNX, ContribOperators.md of ONNX Runtime.
"""

from __future__ import annotations

from bertprobe.checkpoint.onnx.naming import ABOVE, choose, data_files
from bertprobe.checkpoint.reader import Reader
from bertprobe.checkpoint.source import Source
from bertprobe.checkpoint.tensors import Index

__all__ = ["READER", "index", "recognises"]

_LATEST = 64  # version of the format; 13 in 2026
_TEXTS = (0x12, 0x1A, 0x22, 0x32)  # the fields that may follow the version: who wrote it, domain, documentation
_MESSAGES = (0x3A, 0x42, 0x72, 0xA2)  # graph, operator sets, notes


def recognises(head: bytes) -> bool:
    """Whether a file begins as a model does: with the version of the format, and a field that may follow."""
    if len(head) < 6 or head[0] != 0x08 or not 0 < head[1] < _LATEST:
        return False
    if head[2] in _TEXTS:
        size = head[3]
        return size < 128 and all(32 <= byte < 127 for byte in head[4 : 4 + size])
    return head[2] in _MESSAGES or (head[2] == 0x28 and head[3] < 128)


def index(source: Source) -> Index:
    """The headers of every tensor of a model, and what its graph tells of them; raises as `reading.index` does."""
    # Imported here, as every run imports this module, also for files of another format.
    from bertprobe.checkpoint.onnx import reading

    return reading.index(source)


READER = Reader(recognises, index, choose, others=data_files, above=ABOVE)
