"""TensorFlow's spelling: of Google's BERT, ALBERT and ELECTRA, and of the object graphs of transformers' classes."""

from __future__ import annotations

import re
from collections.abc import Iterable

from bertprobe.anatomy.dialects.dialect import Dialect, Rules, rules

_BERT = rules(
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
_ALBERT = rules(
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
LEAVES = {"kernel": "weight", "gamma": "weight", "beta": "bias", "output_weights": "weight", "output_bias": "bias"}
_SIGNS = r"kernel|gamma|beta|output_weights|output_bias|(?:word|position|token_type)_embeddings"
SLOT = re.compile(r"\.OPTIMIZERSLOT|/ExponentialMovingAverage$|^save_counter\b|^_CHECKPOINTABLE")
_OBJECT = "/.ATTRIBUTES/VARIABLE_VALUE"


def of_google(names: Iterable[str]) -> Rules:
    """The rules of BERT, and of ALBERT where the names are its."""
    return (*_BERT, *(_ALBERT if any("/inner_group_" in name for name in names) else ()))


# An object graph may have names of TensorFlow 1 in it, not the other way round: it is asked first.
TENSORFLOW: tuple[Dialect, ...] = (
    Dialect(
        name="TensorFlow 2",
        library="TensorFlow",
        sign=re.compile(rf"{re.escape(_OBJECT)}$"),
        endings=(":0", _OBJECT),
        rules=of_google,
        leaves=LEAVES,
        turned=frozenset({"kernel"}),
        skipped=SLOT,
    ),
    Dialect(
        name="TensorFlow 1",
        library="TensorFlow",
        sign=re.compile(rf"/(?:{_SIGNS})(?::0)?$"),
        endings=(":0",),
        rules=of_google,
        leaves=LEAVES,
        turned=frozenset({"kernel"}),
        skipped=SLOT,
    ),
)
