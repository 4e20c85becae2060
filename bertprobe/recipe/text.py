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
# ConvBERT's has no constructor of its own: it follows a tokenizer.json, and is BERT's where there is none.
REBUILT = frozenset(
    f"{name}Tokenizer"
    for name in (
        "Bert",
        "DistilBert",
        "DPRContextEncoder",
        "DPRQuestionEncoder",
        "DPRReader",
        "Electra",
        "LayoutLM",
        "Lxmert",
        "MobileBert",
        "MPNet",
        "SqueezeBert",
    )
)
# And of these it makes one that never lower-cases.
NEVER_LOWER = frozenset({"RobertaTokenizer", "XLMRobertaTokenizer", "CamembertTokenizer"})
# What follows tokenizer.json as it stands.
GENERIC = frozenset({"", "PreTrainedTokenizer", "TokenizersBackend"})
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
    row = FAMILIES.get(model_type_of(files.config.values))
    said = files.tokenizer_config.said("tokenizer_class", "text") or files.config.said("tokenizer_class", "text")
    by_type = "" if row is None else row.tokenizer.removesuffix("Fast")
    return by_type if said is None or by_type in GENERIC - {""} else str(said.value).removesuffix("Fast")


def is_rebuilt(files: Files) -> bool:
    """Whether transformers makes the normalizer anew, whatever tokenizer.json has."""
    named = tokenizer_class(files)
    if files.tokenizer.there:
        return named in REBUILT
    return "vocab.txt" in files.names and named in REBUILT | {"", "ConvBertTokenizer"}


def never_lowers(files: Files) -> bool:
    """Whether transformers makes a tokenizer that keeps the case, though tokenizer.json would have it lowered."""
    there = stored(files)
    return there is not None and bool(there.lower) and tokenizer_class(files) in NEVER_LOWER


def only_transformers(files: Files) -> bool:
    """Whether transformers makes a tokenizer in its own way that is not BERT's, nor known to be tokenizer.json's."""
    named = tokenizer_class(files)
    if not files.tokenizer.there or named in GENERIC or named in REBUILT:
        return False
    return named not in NEVER_LOWER or not _as_its_class(files, named)


def _as_its_class(files: Files, named: str) -> bool:
    """Whether tokenizer.json has the steps before and behind its model that the class makes by itself."""
    settings, bytes_ = files.tokenizer.values, named == "RobertaTokenizer"
    tokens, flag = around(files), files.tokenizer_config.said("add_prefix_space", "flag")
    wanted = (named_tokens(files) or Said(("<s>", "</s>"), "", "")).value
    if tokens is None or tokens.value not in ((), wanted):
        return False
    space = not bytes_ if flag is None else bool(flag.value)
    steps = [step.get("type") for step in flat(settings.get("normalizer"))]
    splits = list(flat(settings.get("pre_tokenizer"), inside="pretokenizers"))
    kinds = [step.get("type") for step in splits]
    if bytes_:
        return not steps and kinds == ["ByteLevel"] and _space(splits[0]) is space and splits[0].get("use_regex", True)
    plain = kinds == ["WhitespaceSplit", "Metaspace"] and splits[1].get("replacement") == "▁"
    return plain and steps in ([], ["Precompiled"]) and _space(splits[1]) is space


def _space(step: Mapping[str, Any]) -> bool:
    """Whether a step puts a space before a text that begins with none."""
    scheme = step.get("prepend_scheme")
    return step.get("add_prefix_space", True) is True if scheme is None else scheme == "always"


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


def flat(component: Any, depth: int = 0, *, inside: str = "normalizers") -> Iterator[Mapping[str, Any]]:
    """The steps of a component, one after the other, however its sequences are nested."""
    if not isinstance(component, Mapping) or depth > 20:
        return
    inner = component.get(inside)
    if isinstance(inner, list):
        for step in inner:
            yield from flat(step, depth + 1, inside=inside)
    else:
        yield component


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
