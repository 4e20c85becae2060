"""Which checkpoints have a pooler, why others have none, which head reads it, and what sentence-transformers takes."""

from __future__ import annotations

from bertprobe.anatomy import Anatomy, Part
from bertprobe.checkpoint import Checkpoint
from bertprobe.checkpoint.config import MOST_NAMES
from bertprobe.errors import PartMissing, printable

_HEADS = (
    ("cls.predictions.", "a masked-language-model head"),
    ("lm_head.", "a language-model head"),
    ("qa_outputs.", "a question-answering head"),
    ("classifier.", "a classification head"),
)
_HEAD_CLASSES = (
    "ForMaskedLM",
    "LMHeadModel",
    "ForCausalLM",
    "ForTokenClassification",
    "ForQuestionAnswering",
)
_POOLING_CLASSES = (
    "BertForPreTraining",
    "BertForNextSentencePrediction",
    "BertForSequenceClassification",
    "BertForMultipleChoice",
)


def never_pools(anatomy: Anatomy) -> bool:
    """Whether models of this family have no pooler at all, whoever saved them."""
    return anatomy.row.pooling != "yes" or anatomy.layout.pooler is None


def require_pooler(
    checkpoint: Checkpoint, anatomy: Anatomy, hint: str = "nothing is invented: take a checkpoint that has one"
) -> Part:
    """The model's own pooler; raises `PartMissing` with the reason and this hint where it has none."""
    if anatomy.pooler is None:
        reason, _ = why_no_pooler(checkpoint, anatomy)
        raise PartMissing(f"{printable(checkpoint.ref)} holds no pooler: {reason}", hint)
    return anatomy.pooler


def why_no_pooler(checkpoint: Checkpoint, anatomy: Anatomy) -> tuple[str, list[str]]:
    """Why a checkpoint has no pooler, in words, and the classes its config says saved it."""
    kind, what = absence(checkpoint, anatomy)
    return _ABSENCES[kind].format(what), _saved_by(checkpoint)


BY_DESIGN = {
    "by design": "{} has none by design",
    "classifiers": "{} has one only in its classifiers",
    "first token": "{} takes the first token's hidden state as it is",
    "end token": "{} takes the end token's hidden state as it is",
}
_ABSENCES = {
    **BY_DESIGN,
    "family": "the {} family has none",
    "class": "{}, which saved it, has none",
    "lost": "{}, which its config names, has one, but it is not among the tensors",
    "head": "it was saved with {}, by a class that has none",
    "other": "{} is not this encoder's",
    "unnamed": "no tensor is named pooler.dense",
}


def absence(checkpoint: Checkpoint, anatomy: Anatomy) -> tuple[str, str]:
    """Why a checkpoint has no pooler: a key of the table above, and what of that kind."""
    if anatomy.row.pooling in BY_DESIGN:
        return anatomy.row.pooling, anatomy.row.title
    if never_pools(anatomy):
        return "family", printable(anatomy.family)
    for name in _saved_by(checkpoint):
        if name.endswith(_HEAD_CLASSES):
            return "class", name
        if name in _POOLING_CLASSES:
            return "lost", name
    for start, head in _HEADS:
        if any(name.startswith(start) for name in anatomy.tensors):
            return "head", head
    others = anatomy.of("pooler")
    return ("other", printable(others[0].label)) if others else ("unnamed", "")


# Linear layers right upon the pooled output; others (`classifier.dense`) take the first token's hidden state.
_READ_POOLER = ("cls.seq_relationship.weight", "sop_classifier.classifier.weight", "classifier.weight")


def pooler_reader(checkpoint: Checkpoint, anatomy: Anatomy) -> str | None:
    """The tensor of a head that reads this checkpoint's pooler and was trained with it, None where there is none."""
    if anatomy.pooler is None:
        return None
    by_token = any(name.endswith(_HEAD_CLASSES) for name in _saved_by(checkpoint))
    readers = _READ_POOLER[:-1] if by_token else _READ_POOLER
    return next((name for name in readers if name in anatomy.tensors), None)


def _saved_by(checkpoint: Checkpoint) -> list[str]:
    named = (checkpoint.config or {}).get("architectures")
    return [printable(str(name)) for name in named[:MOST_NAMES]] if isinstance(named, list) else []


def pooling_modes(checkpoint: Checkpoint) -> list[str]:
    """How sentence-transformers pools this model, such as `mean_tokens`; empty where no settings say."""
    pooling = checkpoint.pooling or {}
    modes = [
        key.removeprefix("pooling_mode_")
        for key, on in pooling.items()
        if key.startswith("pooling_mode_") and on is True
    ]
    named = pooling.get("pooling_mode")
    return modes[:MOST_NAMES] or ([named] if isinstance(named, str) else [])
