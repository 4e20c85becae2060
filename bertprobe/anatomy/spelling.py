"""What other libraries call a tensor → what PyTorch's modules call it, with its axes as they have them.

Each spelling is a row of `DIALECTS`: that of Google's BERT, ALBERT and ELECTRA in TensorFlow 1
(`bert/encoder/layer_0/intermediate/dense/kernel`), and that of TensorFlow 2's object graphs of transformers' classes
(`bert/encoder/layer/0/…/.ATTRIBUTES/VARIABLE_VALUE`). A dialect's `turned` matrices are (in, out), so their axes change
places; no byte moves. Only names are looked at, so a file of another format that kept such names is read alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bertprobe.anatomy.layouts import OPTIMIZER
from bertprobe.checkpoint import TensorHeader

Rules = Sequence[tuple[re.Pattern[str], str]]


@dataclass(frozen=True, slots=True)
class Dialect:
    """A row of `DIALECTS`: how a library spells its tensors, and what each becomes.

    `library` is the storage whose files are spelled so by right. `sign` is found in a name that is spelled so, and one
    such name tells the dialect of all. `endings` are cut off a name, in this order; `rules`, chosen by all names,
    rewrite the path that is left; `leaves` translate its last word, and a matrix whose last word is in `turned` is
    transposed. What `skipped` finds is no weight.
    """

    name: str
    library: str
    sign: re.Pattern[str]
    endings: tuple[str, ...]
    rules: Callable[[Iterable[str]], Rules]
    leaves: Mapping[str, str]
    turned: frozenset[str]
    skipped: re.Pattern[str]


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
_SIGNS = r"kernel|gamma|beta|output_weights|output_bias|(?:word|position|token_type)_embeddings"
_SLOT = re.compile(r"\.OPTIMIZER_SLOT|/ExponentialMovingAverage$|^save_counter\b|^_CHECKPOINTABLE")
_OBJECT = "/.ATTRIBUTES/VARIABLE_VALUE"


def _of_google(names: Iterable[str]) -> Rules:
    """The rules of BERT, and of ALBERT where the names are its."""
    return (*_BERT, *(_ALBERT if any("/inner_group_" in name for name in names) else ()))


# The first whose sign is found counts. An object graph may have names of TensorFlow 1 in it, not the other way round.
DIALECTS: tuple[Dialect, ...] = (
    Dialect(
        name="TensorFlow 2",
        library="TensorFlow",
        sign=re.compile(rf"{re.escape(_OBJECT)}$"),
        endings=(":0", _OBJECT),
        rules=_of_google,
        leaves=_LEAVES,
        turned=frozenset({"kernel"}),
        skipped=_SLOT,
    ),
    Dialect(
        name="TensorFlow 1",
        library="TensorFlow",
        sign=re.compile(rf"/(?:{_SIGNS})(?::0)?$"),
        endings=(":0",),
        rules=_of_google,
        leaves=_LEAVES,
        turned=frozenset({"kernel"}),
        skipped=_SLOT,
    ),
)


def dialect_of(names: Iterable[str]) -> Dialect | None:
    """The row whose sign one of these names has, None where they are spelled as PyTorch does."""
    names = tuple(names)
    return next((row for row in DIALECTS if any(row.sign.search(name) for name in names)), None)


def to_pytorch(headers: Mapping[str, TensorHeader]) -> dict[str, TensorHeader]:
    """Headers by their PyTorch name and in that orientation, what training left aside; each keeps its stored name."""
    kept = {name: header for name, header in headers.items() if not OPTIMIZER.search(name)}
    dialect = dialect_of(kept)
    if dialect is None:
        return kept
    rules = dialect.rules(kept)
    found: dict[str, TensorHeader] = {}
    for name, header in kept.items():
        if _is_weight(name, header, headers, dialect):
            spelled, leaf = _spelled(name, dialect, rules)
            turned = leaf in dialect.turned and len(header.shape) == 2
            # Of two that would have one name, the second keeps its own.
            found[name if spelled in found else spelled] = header.permuted((1, 0)) if turned else header
    return found


def _is_weight(name: str, header: TensorHeader, headers: Mapping[str, TensorHeader], dialect: Dialect) -> bool:
    """Neither a step nor a slot: BERT has no scalar weights, and no variable has a name below another's, but slots."""
    return header.shape != () and dialect.skipped.search(name) is None and name.rpartition("/")[0] not in headers


def _spelled(name: str, dialect: Dialect, rules: Rules) -> tuple[str, str]:
    """The PyTorch name, and the last word of the name that the rules made."""
    for ending in dialect.endings:
        name = name.removesuffix(ending)
    path = name + "/"
    for pattern, instead in rules:
        path = pattern.sub(instead, path)
    *modules, leaf = path.rstrip("/").split("/")
    return ".".join([*modules, dialect.leaves.get(leaf, leaf)]), leaf
