"""What happens to a text before the model sees it, as the tokenizer's files have it: case, accents, special tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bertprobe.anatomy.config import model_type_of
from bertprobe.anatomy.families import FAMILIES
from bertprobe.recipe.files import Files, Said

# Tokenizers of which transformers follows no normalizer in tokenizer.json: it makes BERT's anew, from the flags of
# tokenizer_config.json (5.24, models/*/tokenization_*.py; from 4.0 on it changed the file's normalizer to them).
REBUILT = frozenset(
    f"{name}Tokenizer"
    for name in (
        "Bert",
        "ConvBert",
        "DistilBert",
        "DPRContextEncoder",
        "DPRQuestionEncoder",
        "DPRReader",
        "Electra",
        "Funnel",
        "LayoutLM",
        "MobileBert",
        "MPNet",
        "SqueezeBert",
    )
)
# And of these it makes one that never lower-cases.
NEVER_LOWER = frozenset({"RobertaTokenizer", "XLMRobertaTokenizer", "CamembertTokenizer"})
# What follows tokenizer.json, or its own class, and no flag.
WITHOUT_FLAGS = NEVER_LOWER | {"PreTrainedTokenizer", "TokenizersBackend"}
_FLAGS = (("do_lower_case", True), ("strip_accents", None), ("tokenize_chinese_chars", True))
_LOWERING = ("lowercase", "strip_accents", "handle_chinese_chars")


@dataclass(frozen=True, slots=True)
class Cleaning:
    """What a normalizer does: lower-casing, taking accents off, spaces around CJK characters; None: cannot be told."""

    lower: bool | None
    accents: bool | None
    chinese: bool | None
    steps: tuple[str, ...]


def tokenizer_class(files: Files) -> str:
    """The class that transformers makes, without `Fast`; empty where nothing says."""
    said = files.tokenizer_config.said("tokenizer_class", "text") or files.config.said("tokenizer_class", "text")
    if said is not None:
        return str(said.value).removesuffix("Fast")
    row = FAMILIES.get(model_type_of(files.config.values))
    return "" if row is None else row.tokenizer.removesuffix("Fast")


def is_rebuilt(files: Files) -> bool:
    """Whether transformers makes the normalizer anew, whatever tokenizer.json has."""
    named = tokenizer_class(files)
    there = files.tokenizer.there or "vocab.txt" in files.names
    return there and (named in REBUILT or (not named and not files.tokenizer.there))


def only_transformers(files: Files) -> bool:
    """Whether transformers makes a normalizer anew that is not BERT's, and leaves out that of tokenizer.json."""
    there = stored(files)
    return there is not None and bool(there.lower) and tokenizer_class(files) in NEVER_LOWER


def flags(files: Files) -> dict[str, bool | None]:
    """The flags of which transformers makes BERT's normalizer; its class' defaults where nothing says."""
    found = {key: files.tokenizer_config.said(key, "flag") for key, _ in _FLAGS}
    return {key: default if (said := found[key]) is None else said.value for key, default in _FLAGS}


def rebuilt(files: Files) -> Cleaning:
    """What the normalizer does that transformers makes of flags."""
    said = flags(files)
    lower, accents = said["do_lower_case"], said["strip_accents"]
    return Cleaning(lower, lower if accents is None else accents, said["tokenize_chinese_chars"], ("BertNormalizer",))


def _tells(files: Files, key: str) -> bool:
    """Whether there is a sound tokenizer.json, and what it says under a key, or that it says nothing there."""
    json = files.tokenizer
    return json.there and not any(fault.file == json.file and fault.key in ("", key) for fault in files.faults)


def stored(files: Files) -> Cleaning | None:
    """What the normalizer of tokenizer.json does, None where there is no such file."""
    if not _tells(files, "normalizer"):
        return None
    steps = list(flat(files.tokenizer.values.get("normalizer")))
    names = tuple(str(step.get("type")) for step in steps)
    bert = next((step for step in steps if step.get("type") == "BertNormalizer"), None)
    lower = "Lowercase" in names
    if bert is not None:
        lowers = bert.get("lowercase") is True
        strips = bert.get("strip_accents")
        return Cleaning(
            lower or lowers,
            strips if isinstance(strips, bool) else lowers,
            bert.get("handle_chinese_chars") is True,
            names,
        )
    opaque = "Precompiled" in names
    return Cleaning(lower, "StripAccents" in names or (None if opaque else False), False, names)


def flat(normalizer: Any, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """The steps of a normalizer, in order, those of sequences among them."""
    if not isinstance(normalizer, Mapping) or depth > 20:
        return
    inner = normalizer.get("normalizers")
    if isinstance(inner, list):
        for step in inner:
            yield from flat(step, depth + 1)
    else:
        yield normalizer


def around(files: Files) -> Said | None:
    """The special tokens around a text by tokenizer.json's post-processor; (), if it has none."""
    if not _tells(files, "post_processor"):
        return None
    tokens: list[str] = []
    for post in _processors(files.tokenizer.values.get("post_processor")):
        kind = post.get("type")
        if kind == "TemplateProcessing":
            pieces = post.get("single") if isinstance(post.get("single"), list) else []
            names = [piece.get("SpecialToken") for piece in pieces or () if isinstance(piece, Mapping)]
            tokens += [str(name.get("id")) for name in names if isinstance(name, Mapping)]
        elif kind in ("BertProcessing", "RobertaProcessing"):
            tokens += [str(pair[0]) for key in ("cls", "sep") if isinstance(pair := post.get(key), list) and pair]
    return Said(tuple(tokens), files.tokenizer.file, "post_processor")


def _processors(post: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(post, Mapping):
        inner = post.get("processors")
        yield from inner if isinstance(inner, list) and all(isinstance(p, Mapping) for p in inner) else (post,)


def named_tokens(files: Files) -> Said | None:
    """The tokens that a text begins and ends with by the roles in tokenizer_config.json, where it names them."""
    found = []
    for role in ("cls_token", "sep_token"):
        value = files.tokenizer_config.values.get(role)
        content = value.get("content") if isinstance(value, Mapping) else value
        if not isinstance(content, str):
            return None
        found.append(content)
    return Said(tuple(found), files.tokenizer_config.file, "cls_token, sep_token")
