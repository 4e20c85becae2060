"""ONNX files by the byte: what onnx's own library would not write, for tests of what must not be believed."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import numpy as np

FLOAT, INT64 = 1, 7


def varint(number: int) -> bytes:
    number &= 2**64 - 1
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def text(field: int, value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(data)) + data


def tensor(name: str, dims: Iterable[int], data: bytes | None = None, type_: int = FLOAT, more: bytes = b"") -> bytes:
    """A tensor's message; `data` are its bytes as they are, `more` further fields."""
    told = b"".join(number(1, n) for n in dims) + number(2, type_) + text(8, name)
    return told + (b"" if data is None else text(9, data)) + more


def place(**words: str) -> bytes:
    """Where the numbers lie in another file."""
    return b"".join(text(13, text(1, key) + text(2, value)) for key, value in words.items()) + number(14, 1)


def node(op: str, inputs: Iterable[str], outputs: Iterable[str], more: bytes = b"") -> bytes:
    return b"".join(text(1, name) for name in inputs) + b"".join(text(2, name) for name in outputs) + text(4, op) + more


def graph(nodes: Iterable[bytes] = (), tensors: Iterable[bytes] = (), more: bytes = b"") -> bytes:
    return b"".join(text(1, one) for one in nodes) + b"".join(text(5, one) for one in tensors) + more


def model(nodes: Iterable[bytes] = (), tensors: Iterable[bytes] = (), more: bytes = b"") -> bytes:
    return number(1, 8) + text(2, "tests") + text(7, graph(nodes, tensors, more))


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def ones(count: int) -> bytes:
    return np.ones(count, np.float32).tobytes()
