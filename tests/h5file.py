"""HDF5 files for tests: models as Keras and its users lay them out, and files that no library would write.

The first are written by h5py; `Book` puts bytes down as the specification has them, so that any of them can be a lie.
"""

from __future__ import annotations

import json
import re
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Tensors = Mapping[str, np.ndarray]
NOWHERE = 2**64 - 1

# ------------------------------------------------------------------------------------------------ models


def as_keras(name: str) -> str:
    """The path of a tensor's variable in TensorFlow 2, by the name that transformers' PyTorch class has for it."""
    module, _, kind = name.rpartition(".")
    module = re.sub(r"/(layer|albert_layer_groups|albert_layers)/(\d+)", r"/\1_._\2", module.replace(".", "/"))
    if module.endswith("word_embeddings"):
        leaf = "weight"
    elif module.endswith("_embeddings"):
        leaf = "embeddings"
    elif re.search("layer_?norm$", module, re.IGNORECASE):
        leaf = {"weight": "gamma", "bias": "beta"}[kind]
    else:
        leaf = {"weight": "kernel", "bias": "bias"}[kind]
    return f"{module}/{leaf}:0"


def kernels(tensors: Tensors) -> Iterator[tuple[str, np.ndarray]]:
    """TensorFlow 2's variables of a state dict of PyTorch: its kernels are (in, out)."""
    for name, values in tensors.items():
        path = as_keras(name)
        yield path, values.T if path.endswith("/kernel:0") else values


def tf_model(state: Tensors, model: str = "tf_bert_model", root: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Paths as `TFBertModel.save_pretrained` has them: the layer, the model, the variable."""
    for path, values in kernels(state):
        yield f"{root}{path.partition('/')[0]}/{model}/{path}", values


_KERAS_BERT = {
    "embeddings.word_embeddings.weight": ("Embedding-Token", "embeddings"),
    "embeddings.position_embeddings.weight": ("Embedding-Position", "embeddings"),
    "embeddings.token_type_embeddings.weight": ("Embedding-Segment", "embeddings"),
    "embeddings.LayerNorm.weight": ("Embedding-Norm", "gamma"),
    "embeddings.LayerNorm.bias": ("Embedding-Norm", "beta"),
    "pooler.dense.weight": ("NSP-Dense", "kernel"),
    "pooler.dense.bias": ("NSP-Dense", "bias"),
}
_KERAS_BERT_LAYER = {
    "attention.self.query": ("MultiHeadSelfAttention", "q"),
    "attention.self.key": ("MultiHeadSelfAttention", "k"),
    "attention.self.value": ("MultiHeadSelfAttention", "v"),
    "attention.output.dense": ("MultiHeadSelfAttention", "o"),
    "attention.output.LayerNorm": ("MultiHeadSelfAttention-Norm", ""),
    "intermediate.dense": ("FeedForward", "1"),
    "output.dense": ("FeedForward", "2"),
    "output.LayerNorm": ("FeedForward-Norm", ""),
}


def keras_bert(base: Tensors, root: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """The variables of keras-bert's model, of a BertModel's state."""
    for name, values in base.items():
        match = re.fullmatch(r"encoder\.layer\.(\d+)\.(.*)\.(weight|bias)", name)
        if match is None:
            layer, leaf = _KERAS_BERT[name]
        else:
            word, letter = _KERAS_BERT_LAYER[match[2]]
            layer = f"Encoder-{int(match[1]) + 1}-{word}"
            norm = {"weight": "gamma", "bias": "beta"}[match[3]]
            leaf = f"{layer}_{'W' if match[3] == 'weight' else 'b'}{letter}" if letter else norm
        turned = values.ndim == 2 and leaf != "embeddings"
        yield f"{root}{layer}/{layer}/{leaf}:0", values.T if turned else values


_HUB_LAYER = {
    "attention.self.query": "_self_attention_layer/query_dense",
    "attention.self.key": "_self_attention_layer/key_dense",
    "attention.self.value": "_self_attention_layer/value_dense",
    "attention.output.dense": "_self_attention_layer/output_dense",
    "attention.output.LayerNorm": "_self_attention_layer_norm",
    "intermediate.dense": "_feedforward_intermediate_dense",
    "output.dense": "_feedforward_output_dense",
    "output.LayerNorm": "_feedforward_layer_norm",
}
_HUB = {
    "embeddings.word_embeddings": "reversible_embedding",
    "embeddings.position_embeddings": "position_embedding",
    "embeddings.token_type_embeddings": "embedding",
    "embeddings.LayerNorm": "layer_normalization",
    "pooler.dense": "dense",
}


def keras_hub(base: Tensors, heads: int, root: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """The variables of keras-hub's BertBackbone, of a BertModel's state: attention has an axis for its heads."""
    for name, values in base.items():
        module, _, kind = name.rpartition(".")
        match = re.fullmatch(r"encoder\.layer\.(\d+)\.(.*)", module)
        if match is None:
            path = _HUB[module]
        else:
            number = f"_{match[1]}" if match[1] != "0" else ""
            path = f"transformer_encoder{number}/{_HUB_LAYER[match[2]]}"
        if values.ndim == 2 and "embedding" not in path:
            values = values.T
        if re.search("(query|key|value)_dense$", path):
            values = values.reshape(*values.shape[:-1], heads, -1)
        elif path.endswith("_self_attention_layer/output_dense") and kind == "weight":
            values = values.reshape(heads, -1, values.shape[-1])
        yield f"{root}layers/{path}/vars/{int(kind == 'bias')}", values


def hub_settings(heads: int, base: Tensors) -> dict[str, Any]:
    """What a BertBackbone notes of itself."""
    words, hidden = base["embeddings.word_embeddings.weight"].shape
    sizes = {
        "name": "bert_backbone",
        "vocabulary_size": words,
        "num_layers": sum(name.endswith("intermediate.dense.bias") for name in base),
        "num_heads": heads,
        "hidden_dim": hidden,
        "intermediate_dim": base["encoder.layer.0.intermediate.dense.bias"].size,
        "dropout": 0.1,
        "max_sequence_length": len(base["embeddings.position_embeddings.weight"]),
        "num_segments": len(base["embeddings.token_type_embeddings.weight"]),
    }
    return {"module": "keras_hub.src.models.bert.bert_backbone", "class_name": "BertBackbone", "config": sizes}


def save(path: Path | BytesIO, tensors: Iterator[tuple[str, np.ndarray]], *, big: bool = False, **how: Any) -> None:
    """A file of data sets; `how` is what h5py is told of the file and, of those with axes, of each of them."""
    file_only = {key: how.pop(key) for key in ("libver", "userblock_size", "track_order") if key in how}
    with h5py.File(path, "w", **file_only) as file:
        file.attrs["backend"], file.attrs["keras_version"] = b"tensorflow", b"2.16.0"
        for name, values in tensors:
            dtype = values.dtype.newbyteorder(">") if big else values.dtype
            file.create_dataset(name, data=values.astype(dtype), **(how if values.ndim else {}))


def zipped(weights: bytes, settings: Mapping[str, Any], **members: bytes) -> bytes:
    """The zip that Keras 3 makes."""
    out = BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        file.writestr("config.json", json.dumps(settings))
        file.writestr("model.weights.h5", weights)
        for name, content in members.items():
            file.writestr(name, content)
    return out.getvalue()


# ------------------------------------------------------------------------------------------------ byte by byte


class Book:
    """A file while it is written: addresses are handed out before what lies there is known."""

    def __init__(self) -> None:
        self._content = bytearray(96)

    @property
    def here(self) -> int:
        """Where the next thing will lie."""
        return len(self._content)

    def put(self, data: bytes) -> int:
        """Writes it down; where it lies."""
        at = self.here
        self._content += data + bytes(-len(data) % 8)
        return at

    def patch(self, at: int, data: bytes) -> None:
        self._content[at : at + len(data)] = data

    def object(self, *messages: bytes) -> int:
        return self.put(header(*messages))

    def closed(self, root: int) -> bytes:
        """The file, with this root group."""
        begin = b"\x89HDF\r\n\x1a\n" + bytes([0, 0, 0, 0, 0, 8, 8, 0]) + struct.pack("<HHI", 4, 16, 0)
        begin += struct.pack("<QQQQ", 0, NOWHERE, self.here, NOWHERE) + struct.pack("<QQII16x", 0, root, 0, 0)
        self._content[:96] = begin
        return bytes(self._content)


def header(*messages: bytes) -> bytes:
    """An object's header of version 1."""
    body = b"".join(messages)
    return struct.pack("<BxHII4x", 1, len(messages), 1, len(body)) + body


def message(kind: int, body: bytes, flags: int = 0) -> bytes:
    body += bytes(-len(body) % 8)
    return struct.pack("<HHB3x", kind, len(body), flags) + body


def link(name: bytes, address: int) -> bytes:
    return message(6, bytes([1, 0, len(name)]) + name + struct.pack("<Q", address))


F32 = message(3, bytes([0x11, 0x20, 31, 0]) + struct.pack("<IHHBBBBI", 4, 0, 32, 23, 8, 0, 23, 127))


def space(*shape: int) -> bytes:
    return message(1, struct.pack("<BBB5x", 1, len(shape), 0) + b"".join(struct.pack("<Q", n) for n in shape))


def contiguous(at: int, size: int) -> bytes:
    return message(8, struct.pack("<BBQQ", 3, 1, at, size))


def chunked(at: int, *chunk: int) -> bytes:
    """Chunks of 4-byte elements by a tree of version 1."""
    sizes = b"".join(struct.pack("<I", n) for n in (*chunk, 4))
    return message(8, struct.pack("<BBBQ", 3, 2, len(chunk) + 1, at) + sizes)


def text(name: bytes, heap: int, length: int, number: int = 1) -> bytes:
    """An attribute that is a text of any length, in a heap."""
    kind = bytes([0x19, 1, 0, 0]) + struct.pack("<I", 16) + bytes([0x13, 0, 0, 0]) + struct.pack("<I", 1)
    shape = struct.pack("<BBB5x", 1, 0, 0)
    named = name + b"\0"
    parts = b"".join(part + bytes(-len(part) % 8) for part in (named, kind, shape))
    sizes = struct.pack("<BxHHH", 1, len(named), len(kind), len(shape))
    return message(0x0C, sizes + parts + struct.pack("<IQI", length, heap, number))


def node(level: int, entries: list[tuple[bytes, int]], kind: int = 1, key_size: int = 24) -> bytes:
    """A node of a tree of version 1: keys and where they lead."""
    last = b"\xff" * key_size if kind else bytes(key_size)
    body = b"".join(key + struct.pack("<Q", child) for key, child in entries) + last
    return b"TREE" + struct.pack("<BBHQQ", kind, level, len(entries), NOWHERE, NOWHERE) + body


def key(size: int, mask: int, *origin: int) -> bytes:
    return struct.pack("<II", size, mask) + b"".join(struct.pack("<Q", n) for n in (*origin, 0))


GROUP = message(2, bytes(2) + struct.pack("<QQ", NOWHERE, NOWHERE)), message(0x0A, bytes(2))  # its links follow


def one(make: Callable[[Book], list[bytes]]) -> bytes:
    """A file whose root group has these links."""
    book = Book()
    return book.closed(book.object(*GROUP, *make(book)))
