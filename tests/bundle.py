"""A small writer of TensorFlow's checkpoints, for tests: TensorFlow itself need not be there.

Written from tensor_bundle.proto and LevelDB's description of its tables, apart from the reader it is to try out.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cramjam
import crc32c
import ml_dtypes
import numpy as np

Tensors = Mapping[str, Any]
Span = tuple[int, int]  # start and length of a slice along an axis; (0, -1) is all of it

TYPES = {
    "float32": 1,
    "float64": 2,
    "int32": 3,
    "uint8": 4,
    "int16": 5,
    "int8": 6,
    "complex64": 8,
    "int64": 9,
    "bool": 10,
    "bfloat16": 14,
    "uint16": 17,
    "float16": 19,
    "uint32": 22,
    "uint64": 23,
    "float8_e5m2": 24,
    "float8_e4m3fn": 25,
}
STRING = 7
MAGIC = 0xDB4775248B80FB57
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True)
class How:
    """How a bundle is written: shards, bytes a block, packing, checksums, and slices of partitioned variables."""

    shards: int = 1
    block: int = 4096
    snappy: bool = False
    checksums: bool = True
    slices: Mapping[str, Sequence[Sequence[Span]]] = field(default_factory=dict)


def save(prefix: Path, tensors: Tensors, how: How | None = None) -> Path:
    """Writes `PREFIX.index` and its data shards, tensors dealt out to them in turn; gives the prefix."""
    how = how or How()
    data = [bytearray() for _ in range(how.shards)]
    rows: dict[bytes, bytes] = {}
    number = 0
    for name, values in tensors.items():
        if isinstance(values, bytes):
            rows[name.encode()] = entry(STRING, (), 0, *put(data[0], values), None)
            continue
        values = np.asarray(values)
        spans = how.slices.get(name)
        if spans is not None:
            listed = b"".join(text(7, b"".join(text(1, extent(*span)) for span in spanned)) for spanned in spans)
            rows[name.encode()] = text(2, shape_of(values.shape)) + listed + whole(1, TYPES[values.dtype.name])
        for spanned in spans or [None]:
            piece = values if spanned is None else values[tuple(slice(a, None if n < 0 else a + n) for a, n in spanned)]
            content = piece.tobytes()
            shard = number % how.shards
            number += 1
            found = entry(
                TYPES[values.dtype.name],
                piece.shape,
                shard,
                *put(data[shard], content),
                masked(content) if how.checksums else None,
            )
            rows[name.encode() if spanned is None else slice_key(name, spanned)] = found
    write(prefix, {b"": header(how.shards), **rows}, [bytes(shard) for shard in data], how)
    return prefix


def write(prefix: Path, rows: Mapping[bytes, bytes], data: Sequence[bytes], how: How | None = None) -> None:
    """Writes an index of these rows, and these shards."""
    how = how or How()
    index_of(prefix).write_bytes(table(sorted(rows.items()), how.block, how.snappy))
    for number, content in enumerate(data):
        shard_of(prefix, number, len(data)).write_bytes(content)


def index_of(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.index")


def shard_of(prefix: Path, number: int = 0, total: int = 1) -> Path:
    return prefix.with_name(f"{prefix.name}.data-{number:05}-of-{total:05}")


def put(data: bytearray, content: bytes) -> Span:
    """Appends to a shard: where, and how many bytes."""
    data += content
    return len(data) - len(content), len(content)


# ------------------------------------------------------------------------------------------------ messages


def varint(number: int) -> bytes:
    number %= 2**64
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def whole(field: int, number: int) -> bytes:
    return varint(field << 3) + varint(number) if number else b""


def text(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def header(shards: int, endianness: int = 0) -> bytes:
    return whole(1, shards) + whole(2, endianness) + text(3, whole(1, 1))


def shape_of(shape: Iterable[int]) -> bytes:
    return b"".join(text(2, whole(1, n)) for n in shape)


def extent(start: int, length: int) -> bytes:
    return whole(1, start) + (b"" if length < 0 else varint(2 << 3) + varint(length))


def entry(
    dtype: int, shape: Iterable[int], shard: int, offset: int, size: int, checksum: int | None, more: bytes = b""
) -> bytes:
    summed = b"" if checksum is None else varint(6 << 3 | 5) + struct.pack("<I", checksum)
    plain = whole(1, dtype) + text(2, shape_of(shape)) + whole(3, shard) + whole(4, offset) + whole(5, size)
    return plain + summed + more


def masked(content: bytes) -> int:
    found = crc32c.crc32c(content)
    return ((found >> 15 | found << 17) + 0xA282EAD8) % 2**32


# ------------------------------------------------------------------------------------------------ slices


def slice_key(name: str, spans: Sequence[Span]) -> bytes:
    """The key of a slice's own entry, as TensorFlow's EncodeTensorNameSlice makes it."""
    numbers = b"".join(signed(n) for span in spans for n in span)
    return b"\0" + name.encode().replace(b"\0", b"\0\xff") + b"\0\1" + bytes([1, len(spans)]) + numbers


def signed(number: int) -> bytes:
    """A number in OrderedCode: a sign bit, a bit a byte more, and two's complement in what is left of them."""
    length = 1
    while not -(1 << 7 * length - 1) <= number < 1 << 7 * length - 1:
        length += 1
    bits = f"{number % (1 << 7 * length):0{7 * length}b}"  # the first of them is the sign
    marks = ("1" * length + "0") if number >= 0 else ("0" * length + "1")
    return int(marks + bits[1:], 2).to_bytes(length, "big")


# ------------------------------------------------------------------------------------------------ the table


def table(rows: Sequence[tuple[bytes, bytes]], block: int = 4096, snappy: bool = False) -> bytes:
    """A LevelDB table of rows in order, a new block after so many bytes."""
    out, listing = b"", []
    waiting: list[tuple[bytes, bytes]] = []
    for row in rows:
        waiting.append(row)
        if sum(len(key) + len(value) for key, value in waiting) >= block:
            out, place = placed(out, entries(waiting), snappy)
            listing.append((waiting[-1][0], place))
            waiting = []
    if waiting:
        out, place = placed(out, entries(waiting), snappy)
        listing.append((waiting[-1][0], place))
    out, meta = placed(out, entries([]), snappy)
    out, index = placed(out, entries(listing), snappy)
    return out + footer(meta, index)


def placed(out: bytes, content: bytes, snappy: bool = False) -> tuple[bytes, bytes]:
    """A file with one more block, and the handle of it."""
    packed = bytes(cramjam.snappy.compress_raw(content)) if snappy else content
    return out + sealed(packed, 1 if snappy else 0), varint(len(out)) + varint(len(packed))


def sealed(content: bytes, packing: int = 0) -> bytes:
    """A block with its packing and its checksum."""
    return content + bytes([packing]) + struct.pack("<I", masked(content + bytes([packing])))


def footer(meta: bytes, index: bytes, magic: int = MAGIC) -> bytes:
    return (meta + index).ljust(40, b"\0") + struct.pack("<Q", magic)


def entries(rows: Sequence[tuple[bytes, bytes]], every: int = 16) -> bytes:
    """A block's content: keys without what they share with the one before, but for every sixteenth."""
    out, starts, last = b"", [], b""
    for number, (key, value) in enumerate(rows):
        if number % every == 0:
            starts.append(len(out))
            last = b""
        shared = next((i for i, (a, b) in enumerate(zip(key, last, strict=False)) if a != b), min(len(key), len(last)))
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    starts = starts or [0]
    return out + struct.pack(f"<{len(starts) + 1}I", *starts, len(starts))


# ------------------------------------------------------------------------------------------------ names


def as_google(state: Tensors) -> dict[str, Any]:
    """The tensors of a transformers BertForPreTraining as Google's checkpoints name and turn them."""
    found = {}
    for name, values in state.items():
        if name in ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias"):
            continue
        new = re.sub(r"layer\.(\d+)", r"layer_\1", name)
        new = new.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        new = new.replace("_embeddings.weight", "_embeddings").replace("predictions.bias", "predictions.output_bias")
        new = new.replace("seq_relationship.weight", "seq_relationship.output_weights")
        new = new.replace("seq_relationship.bias", "seq_relationship.output_bias")
        turned = new.endswith(".weight")
        found[new.replace(".weight", ".kernel").replace(".", "/")] = np.ascontiguousarray(
            values.T if turned else values
        )
    return found


def as_object_graph(state: Tensors) -> dict[str, Any]:
    """The same as TensorFlow 2 saves transformers' TFBertForPreTraining."""
    found = {}
    for name, values in as_google(state).items():
        new = re.sub(r"/layer_(\d+)/", r"/layer/\1/", name)
        new = new.replace("/attention/self/", "/attention/self_attention/")
        new = new.replace("/attention/output/", "/attention/dense_output/")
        new = re.sub(r"(/layer/\d+)/output/", r"\1/bert_output/", new)
        new = new.replace("embeddings/word_embeddings", "embeddings/weight")
        new = new.replace("cls/predictions/output_bias", "mlm/predictions/bias").replace(
            "cls/predictions", "mlm/predictions"
        )
        if new.endswith("seq_relationship/output_weights"):  # a Dense layer there, (in, out)
            new, values = "nsp/seq_relationship/kernel", np.ascontiguousarray(values.T)
        new = new.replace("cls/seq_relationship/output_bias", "nsp/seq_relationship/bias")
        found[f"{new}/.ATTRIBUTES/VARIABLE_VALUE"] = values
    return found


def with_training(tensors: Tensors) -> dict[str, Any]:
    """The same with what an optimizer leaves beside every variable, and its counters."""
    found = dict(tensors)
    for name, values in tensors.items():
        noise = np.full_like(values, 7)
        if name.endswith("/.ATTRIBUTES/VARIABLE_VALUE"):
            variable = name.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")
            for slot in ("m", "v"):
                found[f"{variable}/.OPTIMIZER_SLOT/optimizer/{slot}/.ATTRIBUTES/VARIABLE_VALUE"] = noise
        else:
            for slot in ("adam_m", "adam_v", "Adam", "Adam_1", "lamb_m", "Momentum", "ExponentialMovingAverage"):
                found[f"{name}/{slot}"] = noise
    counters = {"global_step": np.int64(7), "beta1_power": np.float32(0.9), "loss_scale": np.float32(1)}
    if any(name.endswith("VARIABLE_VALUE") for name in tensors):
        counters = {f"{name}/.ATTRIBUTES/VARIABLE_VALUE": np.int64(7) for name in ("save_counter", "optimizer/iter")}
        found["_CHECKPOINTABLE_OBJECT_GRAPH"] = b"\n\5graph"
    return {**found, **counters}
