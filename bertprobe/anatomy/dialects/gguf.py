"""llama.cpp's spelling, which is the same for all architectures: `blk.0.ffn_up.weight`, `token_embd.weight`.

What a name stands for is told by those beside it: Nomic's BERT has its queries, keys and values in one matrix and a
gate, DistilBERT has no segments. Source: tensor_mapping.py of llama.cpp's gguf-py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from bertprobe.anatomy.dialects.dialect import Dialect, Rules, rules

_EMBEDDINGS = rules(
    (r"^token_embd/", "embeddings/word_embeddings/"),
    (r"^position_embd/", "embeddings/position_embeddings/"),
    (r"^token_types/", "embeddings/token_type_embeddings/"),
)
_BERT = rules(
    (r"^token_embd_norm/", "embeddings/LayerNorm/"),
    (r"^blk/(\d+)/attn_q/", r"encoder/layer/\1/attention/self/query/"),
    (r"^blk/(\d+)/attn_k/", r"encoder/layer/\1/attention/self/key/"),
    (r"^blk/(\d+)/attn_v/", r"encoder/layer/\1/attention/self/value/"),
    (r"^blk/(\d+)/attn_output/", r"encoder/layer/\1/attention/output/dense/"),
    (r"^blk/(\d+)/attn_output_norm/", r"encoder/layer/\1/attention/output/LayerNorm/"),
    (r"^blk/(\d+)/ffn_up/", r"encoder/layer/\1/intermediate/dense/"),
    (r"^blk/(\d+)/ffn_down/", r"encoder/layer/\1/output/dense/"),
    (r"^blk/(\d+)/layer_output_norm/", r"encoder/layer/\1/output/LayerNorm/"),
)
_DISTILBERT = rules(
    (r"^token_embd_norm/", "embeddings/LayerNorm/"),
    (r"^blk/(\d+)/attn_q/", r"transformer/layer/\1/attention/q_lin/"),
    (r"^blk/(\d+)/attn_k/", r"transformer/layer/\1/attention/k_lin/"),
    (r"^blk/(\d+)/attn_v/", r"transformer/layer/\1/attention/v_lin/"),
    (r"^blk/(\d+)/attn_output/", r"transformer/layer/\1/attention/out_lin/"),
    (r"^blk/(\d+)/attn_output_norm/", r"transformer/layer/\1/sa_layer_norm/"),
    (r"^blk/(\d+)/ffn_up/", r"transformer/layer/\1/ffn/lin1/"),
    (r"^blk/(\d+)/ffn_down/", r"transformer/layer/\1/ffn/lin2/"),
    (r"^blk/(\d+)/layer_output_norm/", r"transformer/layer/\1/output_layer_norm/"),
    (r"^cls/", "pre_classifier/"),
)
_NOMIC = rules(
    (r"^token_embd_norm/", "emb_ln/"),
    (r"^blk/(\d+)/attn_qkv/", r"encoder/layers/\1/attn/Wqkv/"),
    (r"^blk/(\d+)/attn_output/", r"encoder/layers/\1/attn/out_proj/"),
    (r"^blk/(\d+)/attn_output_norm/", r"encoder/layers/\1/norm1/"),
    (r"^blk/(\d+)/ffn_up/", r"encoder/layers/\1/mlp/fc11/"),
    (r"^blk/(\d+)/ffn_gate/", r"encoder/layers/\1/mlp/fc12/"),
    (r"^blk/(\d+)/ffn_down/", r"encoder/layers/\1/mlp/fc2/"),
    (r"^blk/(\d+)/layer_output_norm/", r"encoder/layers/\1/norm2/"),
)
# A head of two layers, or of one, which either of the names may have.
_HEAD_OF_TWO = rules((r"^cls/output/", "classifier/out_proj/"), (r"^cls/", "classifier/dense/"))
_HEAD = rules((r"^cls/(?:output/)?", "classifier/"))
_SIGN = re.compile(r"^blk\.\d+\.(?:attn|ffn)_\w+\.(?:weight|bias)$")
_POST_NORM = re.compile(r"^blk\.\d+\.layer_output_norm\.weight$")


def _of_bert(names: Iterable[str]) -> Rules:
    """The rules of the encoder that the names are of; of others, as those whose norms come first, none."""
    there = {*names}
    if not any(_POST_NORM.search(name) for name in there):
        return ()
    heads = _HEAD_OF_TWO if {"cls.weight", "cls.output.weight"} <= there else _HEAD
    if "blk.0.ffn_gate.weight" in there:
        return (*_EMBEDDINGS, *_NOMIC) if "blk.0.attn_qkv.weight" in there else ()
    if "token_embd.weight" in there and "position_embd.weight" not in there:
        return ()  # positions are told otherwise, as by Jina's, whose up-projection has the gate in it
    if any(".ffn_gate_inp." in name or ".attn_q_norm." in name for name in there):
        return ()
    layers = _BERT if "token_types.weight" in there or "token_embd.weight" not in there else _DISTILBERT
    return (*_EMBEDDINGS, *layers, *heads)


GGUF: tuple[Dialect, ...] = (
    Dialect(
        name="GGUF",
        library="llama.cpp",
        sign=_SIGN,
        endings=(),
        rules=_of_bert,
        leaves={},
        turned=frozenset(),
        skipped=re.compile(r"^rope_freqs\."),
        separator=".",
    ),
)
