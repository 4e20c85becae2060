"""GGUF files: as llama.cpp's converter makes them of a folder, by the gguf package, and odd ones, byte by byte.

Of the converter (conversion/bert.py of llama.cpp) this is what matters: names by the package's own table, the pooler
and heads of pretraining left out, RoBERTa's positions cut, norms, biases and positions in float32, and words marked
where they begin.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file

Kind = gguf.GGMLQuantizationType
ARCHITECTURES = {"nomic_bert": gguf.MODEL_ARCH.NOMIC_BERT}
LEFT_OUT = ("pooler.", "cls.", "vocab_", "embeddings.position_ids")
PREFIXES = ("bert.", "roberta.", "distilbert.", "nomic_bert.")


def converted(
    folder: Path,
    path: Path,
    kind: str = "F32",
    *,
    cut: int = 0,
    tokenizer: str = "bert",
    pooling: int | None = None,
    fused: bool = False,
) -> Path:
    """A model's folder as a GGUF file: matrices as `kind`, `cut` rows off the positions, queries `fused` with keys."""
    config = json.loads((folder / "config.json").read_text())
    architecture = ARCHITECTURES.get(config["model_type"], gguf.MODEL_ARCH.BERT)
    layers = config.get("num_hidden_layers", config.get("n_layers"))
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_name(folder.name)
    writer.add_block_count(layers)
    writer.add_context_length(config["max_position_embeddings"] - cut)
    writer.add_embedding_length(config.get("hidden_size", config.get("dim")))
    writer.add_feed_forward_length(config.get("intermediate_size", config.get("hidden_dim")))
    writer.add_head_count(config.get("num_attention_heads", config.get("n_heads")))
    writer.add_layer_norm_eps(config.get("layer_norm_eps", 1e-12))
    writer.add_causal_attention(False)
    if pooling is not None:
        writer.add_pooling_type(gguf.PoolingType(pooling))
    if "rope_parameters" in config:
        writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    _add_tokenizer(writer, folder, tokenizer, config)
    for name, values in _named(folder, architecture, layers, cut, fused=fused).items():
        plain = values.ndim == 1 or name.startswith(("position_embd", "token_types")) or name.endswith("_norm.weight")
        _add(writer, name, values, Kind.F32 if plain else Kind[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _named(folder: Path, architecture: Any, layers: int, cut: int, *, fused: bool) -> dict[str, np.ndarray]:
    names = gguf.get_tensor_name_map(architecture, layers)
    found: dict[str, np.ndarray] = {}
    for stored, values in load_file(folder / "model.safetensors").items():
        bare = stored
        for prefix in PREFIXES:
            bare = bare.removeprefix(prefix)
        if not bare.startswith(LEFT_OUT):
            name = names.get_name(bare, try_suffixes=(".weight", ".bias"))
            assert name is not None, bare
            found[name] = values.astype(np.float32)[cut if name.startswith("position_embd") else 0 :]
    for layer in range(layers) if fused else ():
        for kind in ("weight", "bias"):
            parts = [found.pop(f"blk.{layer}.attn_{which}.{kind}") for which in "qkv"]
            found[f"blk.{layer}.attn_qkv.{kind}"] = np.concatenate(parts)
    return found


def _add(writer: Any, name: str, values: np.ndarray, kind: Kind) -> None:
    if kind in (Kind.F32, Kind.F16):
        writer.add_tensor(name, values.astype(np.float32 if kind == Kind.F32 else np.float16))
    else:
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)


SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_KEYS = {"pad": "[PAD]", "unk": "[UNK]", "bos": "[CLS]", "eos": "[SEP]", "mask": "[MASK]"}


def _add_tokenizer(writer: Any, folder: Path, tokenizer: str, config: Mapping[str, Any]) -> None:
    if not tokenizer:
        return
    writer.add_tokenizer_model(tokenizer)
    if tokenizer == "bert" and (folder / "vocab.txt").is_file():
        entries = (folder / "vocab.txt").read_text().splitlines()
        writer.add_token_list([marked(entry) for entry in entries])
        writer.add_token_types([3 if entry in SPECIAL else 1 for entry in entries])
        for role, token in _KEYS.items():
            getattr(writer, f"add_{role}_token_id")(entries.index(token))
    elif "pad_token_id" in config:
        writer.add_pad_token_id(config["pad_token_id"])


def marked(entry: str) -> str:
    if entry in SPECIAL:
        return entry
    return entry[2:] if entry.startswith("##") else f"\u2581{entry}"


# ------------------------------------------------------------------------------------------------ byte by byte

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_LETTERS = "BbHhIif?  Qqd"


def text(words: str | bytes) -> bytes:
    data = words if isinstance(words, bytes) else words.encode()
    return struct.pack("<Q", len(data)) + data


def value(kind: int, what: Any) -> bytes:
    """A value of a pair; of an array, its values' type and they themselves."""
    if kind == STRING:
        return text(what)
    if kind == ARRAY:
        inner, values = what
        return struct.pack("<IQ", inner, len(values)) + b"".join(value(inner, one) for one in values)
    return struct.pack(f"<{_LETTERS[kind]}", what)


def pair(key: str | bytes, kind: int, what: Any) -> bytes:
    return text(key) + struct.pack("<I", kind) + value(kind, what)


def info(name: str | bytes, shape: Sequence[int], kind: int, offset: int) -> bytes:
    """Where a tensor lies; the shape has the last axis last, which the file turns round."""
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), kind, offset)


@dataclass
class File:
    """A file in parts that can be odd each on its own: pairs and infos as bytes, and counts that may lie."""

    pairs: list[bytes] = field(default_factory=list)
    infos: list[bytes] = field(default_factory=list)
    data: bytes = b""
    version: int = 3
    magic: bytes = b"GGUF"
    alignment: int = 32
    counts: tuple[int, int] | None = None

    @property
    def content(self) -> bytes:
        tensors, pairs = (len(self.infos), len(self.pairs)) if self.counts is None else self.counts
        head = self.magic + struct.pack("<IQQ", self.version, tensors, pairs)
        head += b"".join((*self.pairs, *self.infos))
        return head + bytes(-len(head) % self.alignment) + self.data

    def add(self, name: str, shape: Sequence[int], kind: int, data: bytes) -> None:
        """A tensor behind those that are there."""
        self.data += bytes(-len(self.data) % self.alignment)
        self.infos.append(info(name, shape, kind, len(self.data)))
        self.data += data


def of_arrays(tensors: Mapping[str, np.ndarray], pairs: Iterable[bytes] = (), **odd: Any) -> File:
    """A file of float32 tensors."""
    file = File(list(pairs), **odd)
    for name, values in tensors.items():
        file.add(name, values.shape, 0, np.ascontiguousarray(values, np.float32).tobytes())
    return file


def bert_pairs(**others: tuple[int, Any]) -> list[bytes]:
    """What a BERT of a layer of 4 × 8 says of itself; `others` take the place of pairs, by the end of their key."""
    told: dict[str, tuple[int, Any]] = {
        "general.architecture": (STRING, "bert"),
        "bert.block_count": (U32, 1),
        "bert.embedding_length": (U32, 4),
        "bert.feed_forward_length": (U32, 8),
        "bert.attention.head_count": (U32, 2),
        "bert.attention.layer_norm_epsilon": (F32, 1e-12),
    }
    told |= {key.replace("__", "."): what for key, what in others.items()}
    return [pair(key, *what) for key, what in told.items() if what[1] is not None]
