"""A file format that nobody uses, as a storage is added: a module with a reader, and a row. Tests give it to bertprobe.

`TOY`, a line of JSON with the tensors' types, shapes and places and with settings, then the data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from bertprobe import storages
from bertprobe.checkpoint.reader import Reader
from bertprobe.checkpoint.source import Source
from bertprobe.checkpoint.tensors import Index, Piece, TensorHeader
from bertprobe.errors import CorruptFile

START = b"TOY\n"


def recognises(head: bytes) -> bool:
    return head.startswith(START)


def index(source: Source) -> Index:
    head, _, rest = source.read(0, source.size).partition(b"\n")
    line = rest.partition(b"\n")[0]
    if head + b"\n" != START:
        raise CorruptFile(f"{source.address} does not start with TOY", "fetch it again")
    said = json.loads(line)
    first = len(START) + len(line) + 1
    headers = (
        TensorHeader(name, dtype, tuple(shape), (Piece(source, first + start, first + stop),))
        for name, (dtype, shape, start, stop) in said["tensors"].items()
    )
    return Index(tuple(headers), settings=said["settings"])


READER = Reader(recognises, index)
ROW = storages.Storage("Toy", (".toy",), lambda: READER, unread="transformers reads no toys")


def written(tensors: Mapping[str, np.ndarray], settings: Mapping[str, str]) -> bytes:
    """A file of float32 tensors and settings."""
    places, data = {}, b""
    for name, values in tensors.items():
        block = np.ascontiguousarray(values, np.float32).tobytes()
        places[name] = ("F32", values.shape, len(data), len(data) + len(block))
        data += block
    return START + json.dumps({"tensors": places, "settings": settings}).encode() + b"\n" + data
