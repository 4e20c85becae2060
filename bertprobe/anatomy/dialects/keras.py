"""Keras' spelling: of transformers' TensorFlow classes in an HDF5 file, of keras-bert, and of keras-hub's BertBackbone.

Keras 2 puts the layer's and the model's name in front of a variable's own. Keras 3 keeps no names but those of classes,
numbered: what a layer is for is told only where all of a model is there as its class makes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from bertprobe.anatomy.dialects.dialect import Dialect, Join, Rules, rules
from bertprobe.anatomy.dialects.tensorflow import LEAVES, SLOT, of_google

# `bert/tf_bert_model/bert/encoder/layer_._0/…`: the layer, the model, the variable, whose words are joined by `_._`;
# `mlm___cls` is `cls`. So transformers reads them, too (modeling_tf_pytorch_utils.py).
_CLASSES = rules(
    (r"^model_weights/", ""),
    (r"^(?:.*/)?tf[a-z0-9_]+/", ""),
    (r"(^|/)[^/]*___([^/]*)(?=/)", r"\1\2"),
    (r"_\._", "/"),
    (r"/embeddings/$", "/weight/"),
)
_ENCODERS = "bert|roberta|distilbert|albert|electra"
# A head that shares the embeddings keeps a copy of them under its own name.
_SHARED = rf"^(?:model_weights/)?(?!(?:{_ENCODERS})/)[^/]+/tf[^/]+/(?:{_ENCODERS})/embeddings/"


def _of_classes(names: Iterable[str]) -> Rules:
    return (*_CLASSES, *of_google(names))


# ------------------------------------------------------------------------------------------------ keras-bert


def _layer(match: re.Match[str]) -> str:
    return f"bert/encoder/layer/{int(match['number']) - 1}/"  # counted from 1


_KERAS_BERT: Rules = (
    # `Encoder-1-FeedForward/Encoder-1-FeedForward_W1`: the layer, once or twice, and its variable with its name again.
    (re.compile(r"^(?:.*/)?(?=(?:Encoder-\d+|Embedding|MLM|NSP)-?[\w-]*/[^/]+/$)"), ""),
    (re.compile(r"^Encoder-(?P<number>[1-9]\d*)-(?=[\w-]+/)"), _layer),
    *rules(
        (r"/MultiHeadSelfAttention-Norm/", "/attention/output/LayerNorm/"),
        (r"/MultiHeadSelfAttention/[^/]*_Wq/$", "/attention/self/query/kernel/"),
        (r"/MultiHeadSelfAttention/[^/]*_bq/$", "/attention/self/query/bias/"),
        (r"/MultiHeadSelfAttention/[^/]*_Wk/$", "/attention/self/key/kernel/"),
        (r"/MultiHeadSelfAttention/[^/]*_bk/$", "/attention/self/key/bias/"),
        (r"/MultiHeadSelfAttention/[^/]*_Wv/$", "/attention/self/value/kernel/"),
        (r"/MultiHeadSelfAttention/[^/]*_bv/$", "/attention/self/value/bias/"),
        (r"/MultiHeadSelfAttention/[^/]*_Wo/$", "/attention/output/dense/kernel/"),
        (r"/MultiHeadSelfAttention/[^/]*_bo/$", "/attention/output/dense/bias/"),
        (r"/FeedForward-Norm/", "/output/LayerNorm/"),
        (r"/FeedForward/[^/]*_W1/$", "/intermediate/dense/kernel/"),
        (r"/FeedForward/[^/]*_b1/$", "/intermediate/dense/bias/"),
        (r"/FeedForward/[^/]*_W2/$", "/output/dense/kernel/"),
        (r"/FeedForward/[^/]*_b2/$", "/output/dense/bias/"),
        (r"^Embedding-Token/embeddings/$", "bert/embeddings/word_embeddings/weight/"),
        (r"^Embedding-Position/embeddings/$", "bert/embeddings/position_embeddings/weight/"),
        (r"^Embedding-Segment/embeddings/$", "bert/embeddings/token_type_embeddings/weight/"),
        (r"^Embedding-Norm/", "bert/embeddings/LayerNorm/"),
        (r"^NSP-Dense/", "bert/pooler/dense/"),
        (r"^NSP/", "cls/seq_relationship/"),
        (r"^MLM-Dense/", "cls/predictions/transform/dense/"),
        (r"^MLM-Norm/", "cls/predictions/transform/LayerNorm/"),
        (r"^MLM-Sim/bias/$", "cls/predictions/bias/"),
    ),
)


def _of_keras_bert(names: Iterable[str]) -> Rules:
    """No rules where something stands between its layers that BERT does not have."""
    return () if any("-Adapter" in name for name in names) else _KERAS_BERT


# ------------------------------------------------------------------------------------------------ keras-hub

_HUB = r"layers/transformer_encoder(?:_\d+)?/_feedforward_intermediate_dense/vars/0$"
_BACKBONE = ("reversible_embedding", "position_embedding", "embedding", "layer_normalization", "transformer_encoder")
_JOINS = (
    Join(re.compile(r"/attention/self/(?:query|key|value)/kernel/$"), 3, 1),
    Join(re.compile(r"/attention/self/(?:query|key|value)/bias/$"), 2, 0),
    Join(re.compile(r"/attention/output/dense/kernel/$"), 3, 0),
)


def _of_hub(names: Iterable[str]) -> Rules:
    """The rules of the one backbone that is there, none where its layers are not those of a BertBackbone."""
    names = tuple(names)
    found: dict[str, set[str]] = {}
    for name in names:
        above, between, rest = name.rpartition("layers/")
        if between and (not above or above.endswith("/")):
            found.setdefault(above, set()).add(rest.partition("/")[0])
    fitting = [above for above, layers in found.items() if layers.issuperset(_BACKBONE) and _is_bert(layers)]
    if len(fitting) != 1:
        return ()
    layers = re.escape(fitting[0]) + "layers/"
    return (
        *rules(
            (rf"^{layers}reversible_embedding/vars/0/$", "bert/embeddings/word_embeddings/weight/"),
            (rf"^{layers}position_embedding/vars/0/$", "bert/embeddings/position_embeddings/weight/"),
            (rf"^{layers}embedding/vars/0/$", "bert/embeddings/token_type_embeddings/weight/"),
            (rf"^{layers}layer_normalization/", "bert/embeddings/LayerNorm/"),
            (rf"^{layers}dense/", "bert/pooler/dense/"),
            (rf"^{layers}transformer_encoder/", "bert/encoder/layer/0/"),
            (rf"^{layers}transformer_encoder_(\d+)/", r"bert/encoder/layer/\1/"),
        ),
        *_OF_LAYERS,
    )


def _is_bert(layers: set[str]) -> bool:
    """Whether each class is there as often as in a BertBackbone: ELECTRA's has a second dense layer, a projection."""
    return not any(
        re.fullmatch(r"(?:reversible_|position_)?embedding_\d+|(?:layer_norm.*|dense)_\d+", n) for n in layers
    )


_OF_LAYERS = rules(
    (r"^(bert/encoder/layer/\d+)/_self_attention_layer/(query|key|value)_dense/", r"\1/attention/self/\2/"),
    (r"^(bert/encoder/layer/\d+)/_self_attention_layer/output_dense/", r"\1/attention/output/dense/"),
    (r"^(bert/encoder/layer/\d+)/_self_attention_layer_norm/", r"\1/attention/output/LayerNorm/"),
    (r"^(bert/encoder/layer/\d+)/_feedforward_intermediate_dense/", r"\1/intermediate/dense/"),
    (r"^(bert/encoder/layer/\d+)/_feedforward_output_dense/", r"\1/output/dense/"),
    (r"^(bert/encoder/layer/\d+)/_feedforward_layer_norm/", r"\1/output/LayerNorm/"),
    (r"^(bert/.*LayerNorm)/vars/0/$", r"\1/gamma/"),
    (r"^(bert/.*LayerNorm)/vars/1/$", r"\1/beta/"),
    (r"^(bert/.*)/vars/0/$", r"\1/kernel/"),
    (r"^(bert/.*)/vars/1/$", r"\1/bias/"),
)

KERAS: tuple[Dialect, ...] = (
    Dialect(
        name="keras-hub",
        library="Keras",
        sign=re.compile(rf"(?:^|/){_HUB}"),
        endings=(),
        rules=_of_hub,
        leaves=LEAVES,
        turned=frozenset({"kernel"}),
        skipped=re.compile(r"^optimizer/|(?:^|/)seed_generator(?:_\d+)?/"),
        joins=_JOINS,
    ),
    Dialect(
        name="keras-bert",
        library="Keras",
        sign=re.compile(r"(?:^|/)Encoder-\d+-MultiHeadSelfAttention/"),
        endings=(":0",),
        rules=_of_keras_bert,
        leaves=LEAVES,
        turned=frozenset({"kernel"}),
        skipped=SLOT,
    ),
    Dialect(
        name="Keras 2",
        library="Keras",
        sign=re.compile(r"(?:^|/)tf[a-z0-9_]+/(?:[^/]+/)+(?:kernel|gamma|beta):0$"),
        endings=(":0",),
        rules=_of_classes,
        leaves=LEAVES,
        turned=frozenset({"kernel"}),
        skipped=re.compile(rf"{SLOT.pattern}|{_SHARED}"),
    ),
)
