"""What TensorFlow calls a tensor → what PyTorch's modules call it, with its axes as they have them.

Two spellings are known: that of Google's BERT, ALBERT and ELECTRA (`bert/encoder/layer_0/intermediate/dense/kernel`),
and that of TensorFlow 2's object graphs of transformers' classes (`bert/encoder/layer/0/…/.ATTRIBUTES/VARIABLE_VALUE`).
In both a kernel is (in, out), so it is turned; no byte moves. Only names are looked at, so a file of another format
that kept such names is read alike.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from bertprobe.checkpoint import TensorHeader
from bertprobe.families import OPTIMIZER

_OBJECT = "/.ATTRIBUTES/VARIABLE_VALUE"
_LEAF = r"kernel|gamma|beta|output_weights|output_bias|(?:word|position|token_type)_embeddings"
_SIGN = re.compile(rf"/(?:{_LEAF})(?::0)?$|{re.escape(_OBJECT)}$")
_SLOT = re.compile(r"\.OPTIMIZER_SLOT|/ExponentialMovingAverage$|^save_counter\b|^_CHECKPOINTABLE")

Rules = Sequence[tuple[re.Pattern[str], str]]


def _rules(*pairs: tuple[str, str]) -> Rules:
    return tuple((re.compile(pattern), instead) for pattern, instead in pairs)


# A path ends in "/" where a rule looks, so that whole words match; `^|/` is where one begins.
_BERT = _rules(
    (r"(^|/)layer_(?:\._)?(\d+)/", r"\1layer/\2/"),
    (r"/attention/self_attention/", "/attention/self/"),
    (r"/attention/dense_output/", "/attention/output/"),
    (r"/bert_output/", "/output/"),
    (r"(^|/)embeddings/weight/$", r"\1embeddings/word_embeddings/weight/"),
    (r"_embeddings/embeddings/$", "_embeddings/weight/"),
    (r"((?:word|position|token_type|task_type)_embeddings)/$", r"\1/weight/"),
    (r"(^|/)(?:mlm|mlm___cls)/predictions/", r"\1cls/predictions/"),
    (r"(^|/)(?:nsp|nsp___cls)/seq_relationship/", r"\1cls/seq_relationship/"),
    (r"(^|/)cls/squad/output_", r"\1qa_outputs/output_"),
    (r"^output_(weights|bias)/$", r"classifier/output_\1/"),
    (r"(^|/)generator_predictions/output_bias/$", r"\1generator_lm_head/bias/"),
    (r"(^|/)discriminator_predictions/dense_1/", r"\1discriminator_predictions/dense_prediction/"),
)
_ALBERT = _rules(
    (r"(^|/)bert/", r"\1albert/"),
    (r"/encoder/transformer/", "/encoder/"),
    (r"/group_(\d+)/inner_group_(\d+)/", r"/albert_layer_groups/\1/albert_layers/\2/"),
    (r"/ffn_1/intermediate/output/dense/", "/ffn_output/"),
    (r"/ffn_1/intermediate/dense/", "/ffn/"),
    (r"(/albert_layers/\d+)/LayerNorm_1/", r"\1/full_layer_layer_norm/"),
    (r"(/albert_layers/\d+)/LayerNorm/", r"\1/attention/LayerNorm/"),
    (r"/attention_1/self/", "/attention/"),
    (r"/attention_1/output/dense/", "/attention/dense/"),
    (r"/pooler/dense/", "/pooler/"),
    (r"(^|/)cls/predictions/transform/", r"\1predictions/"),
    (r"(^|/)cls/predictions/", r"\1predictions/"),
    (r"(^|/)cls/seq_relationship/", r"\1sop_classifier/classifier/"),
)
_LEAVES = {"kernel": "weight", "gamma": "weight", "beta": "bias", "output_weights": "weight", "output_bias": "bias"}


def respelled(headers: Mapping[str, TensorHeader]) -> dict[str, TensorHeader]:
    """Headers by their PyTorch name and in that orientation, what training left aside; each keeps its stored name."""
    kept = {name: header for name, header in headers.items() if not OPTIMIZER.search(name)}
    if not is_tensorflow(kept):
        return kept
    rules = (*_BERT, *(_ALBERT if any("/inner_group_" in name for name in kept) else ()))
    found: dict[str, TensorHeader] = {}
    for name, header in kept.items():
        if _is_weight(name, header, headers):
            spelled, turned = _spelled(name, rules)
            matrix = turned and len(header.shape) == 2
            # Of two that would have one name, the second keeps its own.
            found[name if spelled in found else spelled] = header.permuted((1, 0)) if matrix else header
    return found


def is_tensorflow(names: Mapping[str, TensorHeader]) -> bool:
    """Whether these names are spelled as TensorFlow does."""
    return any(_SIGN.search(name) for name in names)


def _is_weight(name: str, header: TensorHeader, headers: Mapping[str, TensorHeader]) -> bool:
    """Neither a step nor a slot: BERT has no scalar weights, and no variable has a name below another's, but slots."""
    return header.shape != () and _SLOT.search(name) is None and name.rpartition("/")[0] not in headers


def _spelled(name: str, rules: Rules) -> tuple[str, bool]:
    """The PyTorch name, and whether the tensor is to be turned."""
    path = name.removesuffix(":0").removesuffix(_OBJECT) + "/"
    for pattern, instead in rules:
        path = pattern.sub(instead, path)
    *modules, leaf = path.rstrip("/").split("/")
    return ".".join([*modules, _LEAVES.get(leaf, leaf)]), leaf == "kernel"
