"""Torch files written by hand: opcodes, and the zip or the sequence of pickles around them."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import torch
from memory import Memory

from bertprobe.checkpoint import torch_pickle
from bertprobe.checkpoint.tensors import Index
from bertprobe.checkpoint.torch_pickle.legacy import MAGIC, PROTOCOL


def indexed(data: bytes) -> Index:
    return torch_pickle.index(Memory(data))


def saved(content: Any, new: bool = True) -> bytes:
    file = BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=new)
    return file.getvalue()


# ---- Opcodes ----


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def numbers(values: Sequence[int]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def put(at: int) -> bytes:
    return b"r" + struct.pack("<I", at)


def get(at: int) -> bytes:
    return b"j" + struct.pack("<I", at)


def storage(key: str, count: int, kind: str = "FloatStorage", view: bytes = b"") -> bytes:
    """A storage of so many elements; in an old file followed by None, or by the view of it that is meant."""
    return b"(" + text("storage") + name("torch", kind) + text(key) + text("cpu") + number(count) + view + b"tQ"


def tensor(
    key: str = "0",
    count: int = 1,
    shape: Sequence[int] = (1,),
    *,
    kind: str = "FloatStorage",
    offset: int = 0,
    view: bytes = b"",
    size: bytes | None = None,
) -> bytes:
    """The call that makes a tensor, its rows one after the other; `size` is a shape in other opcodes."""
    strides = [1]
    for n in reversed(shape[1:]):
        strides.insert(0, strides[0] * n)
    place = storage(key, count, kind, view) + number(offset) + (size or numbers(shape)) + numbers(strides)
    hooks = name("collections", "OrderedDict") + b")R"
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + place + b"\x89" + hooks + b"tR"


def mapping(*pairs: bytes) -> bytes:
    """A whole pickle of a dictionary: keys and values in turn."""
    return b"\x80\x02}(" + b"".join(pairs) + b"u."


# ---- What stands around them ----


def zipped(program: bytes, members: dict[str, bytes] | None = None, **kwargs: Any) -> bytes:
    """A zip as torch has it, around a pickle; unaligned, as the standard library writes it."""
    file = BytesIO()
    with zipfile.ZipFile(file, "w", **kwargs) as archive:
        for member, content in {"data.pkl": program, "version": b"3\n", **(members or {})}.items():
            archive.writestr(f"archive/{member}", content)
    return file.getvalue()


def old(program: bytes, keys: list[Any] | None = None, info: Any = None, storages: bytes = b"") -> bytes:
    head = [MAGIC, PROTOCOL, info or {"little_endian": True}]
    return b"".join(pickle.dumps(part, 2) for part in head) + program + pickle.dumps(keys or [], 2) + storages
