"""The tokenizer that lies beside a checkpoint's weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bertprobe.checkpoint import Checkpoint
from bertprobe.errors import CorruptFile, NotFound, UnsupportedFile, printable, quoted, shortened
from bertprobe.tokens.encoded import Tokenizer
from bertprobe.tokens.fast import FastTokenizer, is_the_librarys
from bertprobe.tokens.settings import BERT_TYPES, Settings, check_size, is_file
from bertprobe.tokens.special import add_tokens, frame

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
_WITHOUT_FILES = ("canine",)
# As Google named its folders: uncased_L-12_H-768_A-12, multi_cased_L-12_H-768_A-12.
_CASED = re.compile(r"(?:^|[^A-Za-z])(?P<un>un)?cased(?:$|[^A-Za-z])", re.IGNORECASE)
_SPECIAL = re.compile(r"\[.*\]|<.*>")


def open_tokenizer(checkpoint: Checkpoint, fallback: Callable[[], Tokenizer] | None = None) -> Tokenizer:
    """The tokenizer beside a checkpoint's weights: of its tokenizer.json, its vocab.txt, else what `fallback` makes.

    Raises:
        NotFound: there are no tokenizer files; `fallback` is not asked then, as it could only make one up.
        UnsupportedFile: there is another kind of tokenizer, and no `fallback`.
        CorruptFile: a file is damaged, or lacks what the model needs.
    """
    folder = checkpoint.folder
    settings = Settings(folder, checkpoint.config or {})
    if is_file(folder / "tokenizer.json"):
        return _from_json(settings)
    if not any(is_file(folder / name) for name in ("vocab.txt", *_OTHER_FILES)):
        if settings.model_type not in _WITHOUT_FILES:
            raise NotFound(
                f"{folder} has no tokenizer",
                f"looked for tokenizer.json, vocab.txt, {', '.join(_OTHER_FILES)}: put the model's beside its weights",
            )
        reason: str | None = f"model_type is {quoted(settings.model_type)}"
    else:
        reason = _not_plain(settings)
    if reason is None:
        return _from_vocabulary(settings)
    if fallback is None:
        raise UnsupportedFile(
            f"the tokenizer of {folder} is not one of tokenizer.json or of plain WordPiece in vocab.txt: {reason}",
            "have transformers write a tokenizer.json beside it (save_pretrained)",
        )
    return fallback()


def check_vocabulary(tokenizer: Tokenizer, rows: int) -> None:
    """Raises `CorruptFile` where a tokenizer has ids that an embedding matrix of so many rows has not."""
    if tokenizer.vocab_size > rows:
        raise CorruptFile(
            f"the tokenizer ({tokenizer.name}) has ids up to {tokenizer.vocab_size - 1:,}, "
            f"the embedding matrix {rows:,} rows",
            "they are not of one model: put the model's own tokenizer files beside its weights",
        )


def _not_plain(settings: Settings) -> str | None:
    """What makes a tokenizer another one than WordPiece by BERT's rules, None where nothing does."""
    there = [name for name in _OTHER_FILES if is_file(settings.folder / name)]
    if not is_file(settings.folder / "vocab.txt"):
        return f"it comes as {shortened(there)}"
    if there:
        return f"beside vocab.txt there is {shortened(there)}"
    if settings.model_type not in ("", *BERT_TYPES):
        return f"model_type is {quoted(settings.model_type)}"
    if not settings.like_bert:
        return f"tokenizer_class is {quoted(settings.tokenizer_class)}"
    for key, plain in (("word_tokenizer_type", "basic"), ("subword_tokenizer_type", "wordpiece")):
        if settings.tokenizer.get(key, plain) not in (None, plain):
            return f"{key} is {quoted(str(settings.tokenizer[key]))}"
    return None


def _from_json(settings: Settings) -> FastTokenizer:
    from tokenizers import Tokenizer

    path = settings.folder / "tokenizer.json"
    check_size(path)
    try:
        backend = Tokenizer.from_file(str(path))
    except BaseException as error:
        if not is_the_librarys(error):
            raise
        raise CorruptFile(
            f"{path} is not a tokenizer that can be read ({printable(str(error))})",
            "it may be damaged, or written by a newer version of tokenizers than the one installed",
        ) from error
    add_tokens(backend, settings)
    if backend.num_special_tokens_to_add(is_pair=False) == 0:
        frame(backend, settings)
    return _fast(backend, settings, "tokenizer.json", _disagreement(backend, settings))


def _from_vocabulary(settings: Settings) -> FastTokenizer:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    path = settings.folder / "vocab.txt"
    check_size(path)
    try:
        vocabulary = models.WordPiece.read_file(str(path))
    except BaseException as error:
        if not is_the_librarys(error):
            raise
        raise CorruptFile(f"{path} cannot be read ({printable(str(error))})", "fetch it again") from error
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
    frame(backend, settings)
    return _fast(backend, settings, "vocab.txt", note)


def _fast(backend: tokenizers.Tokenizer, settings: Settings, name: str, note: str) -> FastTokenizer:
    return FastTokenizer(
        backend,
        name,
        notes=(note,) if note else (),
        segments=settings.segments,
        cut_left=settings.cut_left,
    )


def _casing(settings: Settings, vocabulary: Mapping[str, int]) -> tuple[bool, str]:
    """Whether text is lower-cased, and a note where tokenizer_config.json does not say so."""
    said = settings.flag("do_lower_case", None)
    if said is not None:
        return said, ""
    said = settings.config.get("do_lower_case")
    if isinstance(said, bool):
        by = "config.json" if is_file(settings.folder / "config.json") else "the model's config"
        return said, f"do_lower_case is {str(said).lower()} by {by}, tokenizer_config.json does not say"
    if named := _CASED.search(_called(settings.folder)):
        does = "text is lower-cased" if named["un"] else "text keeps its case"
        return bool(named["un"]), f"{does}: no setting says so, but the folder is called {quoted(named.string)}"
    cased = next((entry for entry in vocabulary if entry != entry.lower() and not _SPECIAL.fullmatch(entry)), None)
    if cased is None:
        return True, "text is lower-cased: no setting says so, but no entry of vocab.txt has a capital"
    return (
        False,
        f"text keeps its case: no setting says so, but vocab.txt has {quoted(cased)} (transformers lower-cases)",
    )


def _called(folder: Path) -> str:
    """What a folder is called; one in the Hub's cache by its repository."""
    path = folder.resolve()
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
