"""The tokenizer that lies beside a checkpoint's weights, or where it was said to lie."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bertprobe.checkpoint import Checkpoint
from bertprobe.checkpoint.folder import Folder, LocalFolder
from bertprobe.errors import CorruptFile, NotFound, UnsupportedFile, printable, quoted, shortened
from bertprobe.filenames import TOKENIZER, VOCABULARY
from bertprobe.tokens.encoded import Packed, Tokenizer
from bertprobe.tokens.fast import FastTokenizer, is_the_librarys
from bertprobe.tokens.limits import bounded
from bertprobe.tokens.settings import Settings
from bertprobe.tokens.special import add_special_tokens, add_tokens, special_of

if TYPE_CHECKING:
    import tokenizers

# Files of which transformers makes a tokenizer where we do not, and the one family that needs none.
_OTHER_FILES = (
    "vocab.json",
    "merges.txt",
    "bpe.codes",
    "vocab.bpe",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
)
_LOOKED_FOR = (TOKENIZER, VOCABULARY, *_OTHER_FILES)
# What the library takes off the end of a line: Unicode's White_Space, which is not quite what Python takes off.
_BLANK = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
# As Google named its folders: uncased_L-12_H-768_A-12, multi_cased_L-12_H-768_A-12.
_CASED = re.compile(r"(?:^|[^A-Za-z])(?P<un>un)?cased(?:$|[^A-Za-z])", re.IGNORECASE)
_NOT_OF_ONE = (
    "they are not of one model: put the model's own tokenizer beside its weights, or name its place: `tokenizer=`"
)
_SPECIAL = re.compile(r"\[.*\]|<.*>")


def open_tokenizer(checkpoint: Checkpoint, fallback: Callable[[], Tokenizer] | None = None) -> Tokenizer:
    """The tokenizer of a checkpoint: of its tokenizer.json, its vocab.txt, else what `fallback` makes.

    Raises:
        NotFound: there are no tokenizer files; `fallback` is not asked then, as it could only make one up.
        UnsupportedFile: there is another kind of tokenizer, and no `fallback`.
        CorruptFile: a file is damaged, or lacks what the model needs.
    """
    beside = str(checkpoint.folder)  # raises where it is not on this disk
    folder = checkpoint.tokenizer
    where = printable(folder.address if checkpoint.has_foreign_tokenizer else beside)
    settings = Settings(folder, checkpoint.config or {}, foreign=checkpoint.has_foreign_tokenizer)
    if folder.is_file(TOKENIZER):
        return _from_json(settings)
    if not _has_tokenizer(folder):
        if settings.tokens_of != "characters":
            raise NotFound(
                f"{where} has no tokenizer",
                f"looked for {', '.join(_LOOKED_FOR)}: {_advice(checkpoint)}",
            )
        reason: str | None = f"model_type is {quoted(settings.model_type)}"
    else:
        reason = _not_plain(settings)
    if reason is None:
        return _from_vocabulary(settings)
    if fallback is None:
        raise UnsupportedFile(
            f"the tokenizer of {where} is not one of {TOKENIZER} or of plain WordPiece in {VOCABULARY}: {reason}",
            "have transformers write a tokenizer.json beside it (save_pretrained)",
        )
    return fallback()


def _has_tokenizer(folder: Folder) -> bool:
    return any(folder.is_file(name) for name in _LOOKED_FOR)


def _advice(checkpoint: Checkpoint) -> str:
    """Where a tokenizer may be had: one that lies a folder up is told, and taken only when it is asked for."""
    above = checkpoint.folder.resolve().parent
    for folder in (above, above / "tokenizer"):
        if not checkpoint.has_foreign_tokenizer and _has_tokenizer(LocalFolder(folder)):
            return f"there is one in {printable(str(folder))}; if it is the model's, add `tokenizer={str(folder)!r}`"
    return "put the model's beside its weights, or name its folder or file: `tokenizer=`"


def check_vocabulary(tokenizer: Tokenizer, rows: int) -> None:
    """Raises `CorruptFile` where a tokenizer has ids that an embedding matrix of so many rows has not."""
    if tokenizer.vocab_size > rows:
        raise CorruptFile(
            f"the tokenizer ({tokenizer.name}) has ids up to {tokenizer.vocab_size - 1:,}, "
            f"the embedding matrix {rows:,} rows",
            _NOT_OF_ONE,
        )


def check_rows(packed: Packed, vocabulary: int | None, segments: int | None) -> None:
    """Raises `CorruptFile` for an id or segment that the model's tables have no row for; None knows no table.

    The vocabulary was looked at before, but what a tokenizer puts around a text need not be in it.
    """
    for what, values, rows in (("token", packed.ids, vocabulary), ("segment", packed.segments, segments)):
        if rows is not None and len(values) and int(values.max()) >= rows:
            raise CorruptFile(
                f"the tokenizer gives {what} {int(values.max()):,}, the model has a table of {rows:,} rows for it",
                _NOT_OF_ONE,
            )


def _not_plain(settings: Settings) -> str | None:
    """What makes a tokenizer another one than WordPiece by BERT's rules, None where nothing does."""
    there = [name for name in _OTHER_FILES if settings.folder.is_file(name)]
    if not settings.folder.is_file(VOCABULARY):
        return f"it comes as {shortened(there)}"
    if there:
        return f"beside vocab.txt there is {shortened(there)}"
    if settings.model_type and settings.tokens_of != "[CLS]":
        return f"model_type is {quoted(settings.model_type)}"
    if not settings.like_bert:
        return f"tokenizer_class is {quoted(settings.tokenizer_class)}"
    for key, plain in (("word_tokenizer_type", "basic"), ("subword_tokenizer_type", "wordpiece")):
        if settings.tokenizer.get(key, plain) not in (None, plain):
            return f"{key} is {quoted(str(settings.tokenizer[key]))}"
    return None


def _from_json(settings: Settings) -> FastTokenizer:
    from tokenizers import Tokenizer

    text = settings.folder.text(TOKENIZER)
    try:
        backend = Tokenizer.from_str(text)
    except BaseException as error:
        if not is_the_librarys(error):
            raise
        raise CorruptFile(
            f"{settings.folder.at(TOKENIZER)} is not a tokenizer that can be read ({printable(str(error)[:200])})",
            "it may be damaged, or written by a newer version of tokenizers than the one installed",
        ) from error
    add_tokens(backend, settings)
    if backend.num_special_tokens_to_add(is_pair=False) == 0:
        add_special_tokens(backend, settings)
    return _fast(backend, settings, TOKENIZER, _disagreement(backend, settings))


def _from_vocabulary(settings: Settings) -> FastTokenizer:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    path = settings.folder.at(VOCABULARY)
    vocabulary = read_vocabulary(settings.folder.text(VOCABULARY))
    needed = [settings.content(role) for role in ("unk_token", "cls_token", "sep_token")]
    missing = [token for token in needed if token not in vocabulary]
    if missing:
        raise CorruptFile(
            f"{path} has no entry {', '.join(map(quoted, missing))}", "is it this model's vocabulary? fetch it again"
        )
    lower, note = _casing(settings, vocabulary)
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token=needed[0], max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.flag("tokenize_chinese_chars", True) is True,
        strip_accents=settings.flag("strip_accents", None),
        lowercase=lower,
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    add_tokens(backend, settings)
    add_special_tokens(backend, settings)
    return _fast(backend, settings, VOCABULARY, note)


def read_vocabulary(text: str) -> dict[str, int]:
    """The entries of a vocab.txt with their ids, a line each; of equal entries the last counts.

    As the tokenizers library reads it, which wants a path, and of that only one that is UTF-8.
    """
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return {line.rstrip(_BLANK): id for id, line in enumerate(lines)}


def _fast(backend: tokenizers.Tokenizer, settings: Settings, name: str, note: str) -> FastTokenizer:
    backend.encode_special_tokens = settings.flag("split_special_tokens", False) is True
    return FastTokenizer(
        backend,
        settings.told(name),
        bounded(backend, settings.folder.at(name)),
        notes=(note,) if note else (),
        segments=settings.segments,
        cut_left=settings.cut_left((backend.truncation or {}).get("direction", "right")),
        special=special_of(settings),
    )


def _casing(settings: Settings, vocabulary: Mapping[str, int]) -> tuple[bool, str]:
    """Whether text is lower-cased, and a note where tokenizer_config.json does not say so."""
    said = settings.flag("do_lower_case", None)
    if said is not None:
        return said, ""
    said = settings.config.get("do_lower_case")
    if isinstance(said, bool):
        by = "config.json" if settings.folder.is_file("config.json") else "the model's config"
        return said, f"do_lower_case is {str(said).lower()} by {by}, tokenizer_config.json does not say"
    if named := _CASED.search(_called(settings.folder)):
        does = "text is lower-cased" if named["un"] else "text keeps its case"
        return bool(named["un"]), f"{does}: no setting says so, but the folder is called {quoted(named.string)}"
    capitals = (entry for entry in vocabulary if entry != entry.lower() and not _SPECIAL.fullmatch(entry))
    cased = min(capitals, key=lambda entry: vocabulary[entry], default=None)  # a vocabulary has no order of its own
    if cased is None:
        return True, "text is lower-cased: no setting says so, but no entry of vocab.txt has a capital"
    return (
        False,
        f"text keeps its case: no setting says so, but vocab.txt has {quoted(cased)} (transformers lower-cases)",
    )


def _called(folder: Folder) -> str:
    """What a folder is called; one in the Hub's cache by its repository."""
    path = Path(folder.resolved)
    return path.parents[1].name.rpartition("--")[2] if path.parent.name == "snapshots" else path.name


def _disagreement(backend: tokenizers.Tokenizer, settings: Settings) -> str:
    """A note where transformers, which rebuilds BERT's tokenizer from settings, would not do as tokenizer.json says."""
    from tokenizers import normalizers, pre_tokenizers

    if not settings.like_bert:
        return ""
    norm, pre = backend.normalizer, backend.pre_tokenizer
    if not isinstance(norm, normalizers.BertNormalizer) or not isinstance(pre, pre_tokenizers.BertPreTokenizer):
        return "tokenizer.json does not clean and split text as BERT does; it is followed, transformers may not"
    has = {
        "do_lower_case": (norm.lowercase, True),
        "strip_accents": (norm.strip_accents, None),
        "tokenize_chinese_chars": (norm.handle_chinese_chars, True),
    }
    differ = [key for key, (value, default) in has.items() if settings.flag(key, default) is not value]
    if not differ:
        return ""
    return f"tokenizer.json is followed, though tokenizer_config.json has another {' and '.join(differ)}"
