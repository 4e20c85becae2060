"""Text → packed tokens: the tokenizer found beside the weights, and batches without padding.

The tokenizer runs on the `tokenizers` library alone. A `tokenizer.json` is taken as it stands, but for padding and
truncation; a `vocab.txt` where BERT's own rules (WordPiece after BERT's cleaning and splitting) are all there is to it.
Any other is `transformers`' affair, and handed in by whoever has it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from bertprobe.checkpoint import Checkpoint
from bertprobe.checkpoint.locate import MAX_JSON
from bertprobe.errors import BertprobeError, CorruptFile, NotFound, UnsupportedFile, printable, quoted, shortened

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import tokenizers

    Ints = npt.NDArray[np.int64]

Text = str | tuple[str, str]  # a text, or two to be read together

# A window is what is sorted by length before it is cut into batches; a chunk is what is tokenized at once. Both bound
# memory: the library holds some 100 bytes for every character it works on.
WINDOW_TOKENS = 2**19
WINDOW_TEXTS = 4096
CHUNK_TEXTS = 256
CHUNK_CHARACTERS = 2**18

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

_BERT_TYPES = ("bert", "electra", "dpr", "ernie")
_BERT_CLASSES = (
    "BertTokenizer",
    "ElectraTokenizer",
    "DPRQuestionEncoderTokenizer",
    "DPRContextEncoderTokenizer",
    "DPRReaderTokenizer",
)
_ROBERTA_TYPES = ("roberta", "xlm-roberta", "camembert", "data2vec-text")
_ROBERTA_CLASSES = ("RobertaTokenizer", "XLMRobertaTokenizer", "CamembertTokenizer")

_NAMED = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token", "bos_token", "eos_token")
_BERT_NAMES = dict(zip(_NAMED, ("[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"), strict=False))
_ROBERTA_NAMES = dict(zip(_NAMED, ("<unk>", "</s>", "<pad>", "<s>", "<mask>"), strict=False))

# What remains of invalid UTF-8 that was read with surrogateescape; no tokenizer takes it.
_SURROGATE = re.compile("[\ud800-\udfff]")
_SPECIAL = re.compile(r"\[.*\]|<.*>")


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """One text or pair as tokens: `ids` (S,), `segments` (S,), the pieces as text, and how many tokens were cut off."""

    ids: Ints
    segments: Ints
    tokens: tuple[str, ...]
    cut: int = 0

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """N texts end to end, T tokens in all, the longest text first.

    `ids`, `positions` (from 0 within each text) and `segments` are (T,); `lengths`, `order` (where each text stood in
    the input) and `cut` (tokens cut off it) are (N,); `tokens` are the pieces as text, a tuple for each text.
    """

    ids: Ints
    positions: Ints
    segments: Ints
    lengths: Ints
    tokens: tuple[tuple[str, ...], ...]
    order: Ints
    cut: Ints


class Tokenizer(Protocol):
    """What turns text into ids; `name` says what it was made from, `notes` what had to be decided on the way."""

    @property
    def name(self) -> str: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    @property
    def vocab_size(self) -> int:
        """One more than the largest id it can give."""

    def encode(self, text: str, pair: str | None = None, *, longest: int | None = None) -> Encoded:
        """One text, or two as a pair, cut to `longest` tokens if that is given."""

    def encode_many(self, texts: Sequence[Text], *, longest: int | None = None) -> list[Encoded]:
        """The same for many texts or pairs at once."""


# ------------------------------------------------------------------------------------------------ the tokenizer


class _Pieces(dict[int, str]):
    """Each id's piece as text, asked of the library once: what it hands out a text at a time is slow."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        super().__init__()
        self._backend = backend

    def __missing__(self, id: int) -> str:
        self[id] = piece = self._backend.id_to_token(id) or ""
        return piece


class FastTokenizer:
    """A `Tokenizer` over one of the `tokenizers` library; `segments` False leaves every segment 0."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        name: str,
        *,
        notes: tuple[str, ...] = (),
        segments: bool = True,
        cut_left: bool = False,
    ) -> None:
        self.name = name
        self.notes = notes
        self._backend = backend
        self._segments = segments
        self._cut_left = cut_left
        self._pieces = _Pieces(backend)
        # Files carry these for their author's use: here nothing is padded, and what is cut is counted.
        backend.no_padding()
        backend.no_truncation()
        if getattr(backend.model, "dropout", None):
            cast(Any, backend.model).dropout = None  # of BPE in training: it would make every run another one

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id; not the number of entries, as ids may be left out."""
        return max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def encode(self, text: str, pair: str | None = None, *, longest: int | None = None) -> Encoded:
        """One text, or two as a pair, cut to `longest` tokens if that is given."""
        return self.encode_many([text if pair is None else (text, pair)], longest=longest)[0]

    def encode_many(self, texts: Sequence[Text], *, longest: int | None = None) -> list[Encoded]:
        """Many texts or pairs, each cut to `longest` tokens if that is given.

        Cut are the last tokens, of the longer text first, until two are as long; special tokens stay. Raises
        `BertprobeError` where not even they fit, `CorruptFile` where the tokenizer cannot do its work.
        """
        try:
            encodings = self._backend.encode_batch_fast([_clean(text) for text in texts])
        except BaseException as error:
            if not _is_the_librarys(error):
                raise
            raise CorruptFile(
                f"{self.name} cannot turn text into tokens ({printable(str(error))})",
                "the tokenizer contradicts itself: fetch its files again",
            ) from error
        return [self._encoded(encoding, longest) for encoding in encodings]

    def _encoded(self, encoding: tokenizers.Encoding, longest: int | None) -> Encoded:
        import numpy as np

        ids = np.array(encoding.ids, dtype=np.int64)
        segments = np.array(encoding.type_ids, dtype=np.int64) if self._segments else np.zeros_like(ids)
        cut = 0 if longest is None else max(len(ids) - longest, 0)
        if longest is not None and cut:
            kept = _kept(encoding.sequence_ids, longest, left=self._cut_left)
            ids, segments = ids[kept], segments[kept]
        return Encoded(ids, segments, tuple(map(self._pieces.__getitem__, ids.tolist())), cut)


def _is_the_librarys(error: BaseException) -> bool:
    """Whether `tokenizers` raised it: it has no class of its own, and where its Rust panics, not even an Exception."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _clean(text: Text) -> Text:
    if isinstance(text, tuple):
        return _mended(text[0]), _mended(text[1])
    return _mended(text)


def _mended(text: str) -> str:
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _kept(sequences: Sequence[int | None], longest: int, *, left: bool) -> npt.NDArray[np.bool_]:
    """Which tokens stay when a text or pair is cut: (S,), from which text each is, None for special tokens."""
    import numpy as np

    owner = np.array([-1 if sequence is None else sequence for sequence in sequences])
    first, second = int((owner == 0).sum()), int((owner == 1).sum())
    room = longest - int((owner < 0).sum())
    if room < 0:
        raise BertprobeError(
            f"{longest} tokens have no room for the {longest - room} special tokens of a text", "allow for more tokens"
        )
    kept = owner < 0
    for number, size, share in zip((0, 1), (first, second), _shares(first, second, room), strict=True):
        places = np.flatnonzero(owner == number)
        kept[places[size - share :] if left else places[:share]] = True
    return kept


def _shares(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of two texts fit into `room`, taken off the longer one first, as the library counts them."""
    short, long = sorted((first, second))
    long = min(long, max(short, room - short))
    if short + long > room:
        short, long = room // 2, room - room // 2
    return (short, long) if first <= second else (long, short)


# ------------------------------------------------------------------------------------------------ from files


def open_tokenizer(checkpoint: Checkpoint, fallback: Callable[[], Tokenizer] | None = None) -> Tokenizer:
    """The tokenizer beside a checkpoint's weights: of its tokenizer.json, its vocab.txt, else what `fallback` makes.

    Raises:
        NotFound: there are no tokenizer files; `fallback` is not asked then, as it could only make one up.
        UnsupportedFile: there is another kind of tokenizer, and no `fallback`.
        CorruptFile: a file is damaged, or lacks what the model needs.
    """
    folder = checkpoint.files[0].path.parent
    settings = _Settings(folder, checkpoint.config or {})
    if _is_file(folder / "tokenizer.json"):
        return _from_json(settings)
    if not any(_is_file(folder / name) for name in ("vocab.txt", *_OTHER_FILES)):
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


class _Settings:
    """What the small files beside a tokenizer say, `config` being the model's."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.folder = folder
        self.config = config
        self.tokenizer = _json(folder / "tokenizer_config.json")
        self.model_type = str(config.get("model_type") or "")
        named = self.tokenizer.get("tokenizer_class") or config.get("tokenizer_class") or ""
        self.tokenizer_class = str(named)
        self._class = self.tokenizer_class.removesuffix("Fast")

    @property
    def like_bert(self) -> bool:
        return self._class in _BERT_CLASSES or (not self._class and self.model_type in ("", *_BERT_TYPES))

    @property
    def like_roberta(self) -> bool:
        return self._class in _ROBERTA_CLASSES or (not self._class and self.model_type in _ROBERTA_TYPES)

    @property
    def segments(self) -> bool:
        """Whether the model tells a pair's texts apart."""
        inputs = self.tokenizer.get("model_input_names")
        kinds = self.config.get("type_vocab_size")
        roberta = self.like_roberta or self.model_type in _ROBERTA_TYPES
        said = isinstance(inputs, list) and "token_type_ids" not in inputs
        return not (roberta or said or (isinstance(kinds, int) and kinds < 2))

    @property
    def cut_left(self) -> bool:
        return self.tokenizer.get("truncation_side") == "left"

    def flag(self, key: str, default: bool | None) -> bool | None:
        """A setting that is true, false or absent."""
        value = self.tokenizer.get(key)
        if value is not None and not isinstance(value, bool):
            raise CorruptFile(
                f"{self.folder / 'tokenizer_config.json'} has {key} {quoted(str(value))}", "make it true or false"
            )
        return default if value is None else value

    @cached_property
    def special_files(self) -> tuple[Mapping[str, Any], ...]:
        """What names special tokens, the last word last; where one file lists all added tokens, it alone counts."""
        if "added_tokens_decoder" in self.tokenizer:
            return (self.tokenizer,)
        return (self.tokenizer, _json(self.folder / "special_tokens_map.json"))

    @cached_property
    def named(self) -> dict[str, Any]:
        """The special tokens by role, each as text or as its settings."""
        found = {**(_BERT_NAMES if self.like_bert else _ROBERTA_NAMES if self.like_roberta else {})}
        for file in self.special_files:
            found |= {role: file[role] for role in _NAMED if isinstance(file.get(role), (str, dict))}
        return found

    def content(self, role: str) -> str:
        """The special token of a role such as `cls_token`, empty where there is none."""
        value = self.named.get(role, "")
        return str(value.get("content", "")) if isinstance(value, dict) else value


def _not_plain(settings: _Settings) -> str | None:
    """What makes a tokenizer another one than WordPiece by BERT's rules, None where nothing does."""
    there = [name for name in _OTHER_FILES if _is_file(settings.folder / name)]
    if not _is_file(settings.folder / "vocab.txt"):
        return f"it comes as {shortened(there)}"
    if there:
        return f"beside vocab.txt there is {shortened(there)}"
    if settings.model_type not in ("", *_BERT_TYPES):
        return f"model_type is {quoted(settings.model_type)}"
    if not settings.like_bert:
        return f"tokenizer_class is {quoted(settings.tokenizer_class)}"
    for key, plain in (("word_tokenizer_type", "basic"), ("subword_tokenizer_type", "wordpiece")):
        if settings.tokenizer.get(key, plain) not in (None, plain):
            return f"{key} is {quoted(str(settings.tokenizer[key]))}"
    return None


def _from_json(settings: _Settings) -> FastTokenizer:
    from tokenizers import Tokenizer

    path = settings.folder / "tokenizer.json"
    _check_size(path)
    try:
        backend = Tokenizer.from_file(str(path))
    except BaseException as error:
        if not _is_the_librarys(error):
            raise
        raise CorruptFile(
            f"{path} is not a tokenizer that can be read ({printable(str(error))})",
            "it may be damaged, or written by a newer version of tokenizers than the one installed",
        ) from error
    _add_tokens(backend, settings)
    if backend.num_special_tokens_to_add(is_pair=False) == 0:
        _frame(backend, settings)
    return _fast(backend, settings, "tokenizer.json", _disagreement(backend, settings))


def _from_vocabulary(settings: _Settings) -> FastTokenizer:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    path = settings.folder / "vocab.txt"
    _check_size(path)
    try:
        vocabulary = models.WordPiece.read_file(str(path))
    except BaseException as error:
        if not _is_the_librarys(error):
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
    _add_tokens(backend, settings)
    _frame(backend, settings)
    return _fast(backend, settings, "vocab.txt", note)


def _fast(backend: tokenizers.Tokenizer, settings: _Settings, name: str, note: str) -> FastTokenizer:
    return FastTokenizer(
        backend,
        name,
        notes=(note,) if note else (),
        segments=settings.segments,
        cut_left=settings.cut_left,
    )


def _casing(settings: _Settings, vocabulary: Mapping[str, int]) -> tuple[bool, str]:
    """Whether text is lower-cased, and a note where tokenizer_config.json does not say so."""
    said = settings.flag("do_lower_case", None)
    if said is not None:
        return said, ""
    said = settings.config.get("do_lower_case")
    if isinstance(said, bool):
        return said, f"do_lower_case is {str(said).lower()} by config.json, tokenizer_config.json does not say"
    cased = next((entry for entry in vocabulary if entry != entry.lower() and not _SPECIAL.fullmatch(entry)), None)
    if cased is None:
        return True, "text is lower-cased: no setting says so, but no entry of vocab.txt has a capital"
    return (
        False,
        f"text keeps its case: no setting says so, but vocab.txt has {quoted(cased)} (transformers lower-cases)",
    )


def _disagreement(backend: tokenizers.Tokenizer, settings: _Settings) -> str:
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


# ------------------------------------------------------------------------------------------------ special tokens


def _add_tokens(backend: tokenizers.Tokenizer, settings: _Settings) -> None:
    """Makes added tokens whole words of the tokenizer, also where a text spells them out.

    What settings list is added; of the tokens they only name by role, those that the vocabulary has.
    """
    there = {token.content for token in backend.get_added_tokens_decoder().values()}
    wanted = {token.content: token for token in _listed(settings)}
    for role, value in settings.named.items():
        content = settings.content(role)
        if content not in wanted and backend.token_to_id(content) is not None:
            wanted[content] = _added(
                {"content": content, **(value if isinstance(value, dict) else {}), "special": True}
            )
    backend.add_tokens([token for content, token in wanted.items() if content and content not in there])


def _listed(settings: _Settings) -> Iterator[tokenizers.AddedToken]:
    """The added tokens that settings spell out, in the order of their ids."""
    decoder = settings.tokenizer.get("added_tokens_decoder")
    specials = {settings.content(role) for role in settings.named}
    path = settings.folder / "added_tokens.json"
    try:
        if isinstance(decoder, dict):
            for _, value in sorted(decoder.items(), key=lambda item: int(item[0])):
                yield _added(value)
        else:
            for content, _ in sorted(_json(path).items(), key=lambda item: int(item[1])):
                special = content in specials
                yield _added({"content": content, "normalized": not special, "special": special})
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CorruptFile(
            f"the added tokens in {settings.folder} are not a list of tokens with ids ({printable(str(error))})",
            f"mend {'tokenizer_config.json' if decoder else 'added_tokens.json'}, or fetch it again",
        ) from error
    for file in settings.special_files:
        for key in ("extra_special_tokens", "additional_special_tokens"):
            values = file.get(key)
            if isinstance(values, list):
                yield from (_added(value if isinstance(value, dict) else {"content": str(value)}) for value in values)


def _added(value: Mapping[str, Any]) -> tokenizers.AddedToken:
    from tokenizers import AddedToken

    special = bool(value.get("special", True))
    return AddedToken(
        str(value["content"]),
        single_word=bool(value.get("single_word", False)),
        lstrip=bool(value.get("lstrip", False)),
        rstrip=bool(value.get("rstrip", False)),
        normalized=bool(value.get("normalized", not special)),
        special=special,
    )


def _frame(backend: tokenizers.Tokenizer, settings: _Settings) -> None:
    """Has a text begin and end with the special tokens its family wants, where the vocabulary has them."""
    from tokenizers import processors

    tokens = [settings.content(role) for role in ("sep_token", "cls_token")]
    ids = [backend.token_to_id(token) for token in tokens]
    if None in ids or not (settings.like_bert or settings.like_roberta):
        return
    sep, cls = zip(tokens, cast(list[int], ids), strict=True)
    backend.post_processor = (processors.BertProcessing if settings.like_bert else processors.RobertaProcessing)(
        sep, cls
    )


# ------------------------------------------------------------------------------------------------ reading


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _check_size(path: Path) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise NotFound(f"{path} cannot be read ({error.strerror})", "check its permissions") from error
    if size > MAX_JSON:
        raise UnsupportedFile(f"{path} has {size:,} bytes, too many for a tokenizer", "is it the right file?")


def _json(path: Path) -> Mapping[str, Any]:
    """The object in a settings file, empty where there is no such file."""
    if not _is_file(path):
        return {}
    _check_size(path)
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise NotFound(f"{path} cannot be read ({error.strerror})", "check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{path} is not JSON ({printable(str(error))})", "fetch it again, or mend it") from error
    if not isinstance(found, dict):
        raise CorruptFile(f"{path} is JSON, but not an object", "fetch it again, or mend it")
    return found


# ------------------------------------------------------------------------------------------------ batches


def pack(encoded: Sequence[Encoded], order: Sequence[int] | None = None) -> Packed:
    """Texts end to end, the longest first; `order` says where each stood in the input, by default as given."""
    import numpy as np

    places = range(len(encoded)) if order is None else order
    texts = sorted(zip(places, encoded, strict=True), key=lambda text: -len(text[1]))
    nothing = np.zeros(0, dtype=np.int64)
    lengths = np.array([len(text) for _, text in texts], dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    return Packed(
        ids=np.concatenate([nothing, *(text.ids for _, text in texts)]),
        positions=np.arange(lengths.sum(), dtype=np.int64) - np.repeat(starts, lengths),
        segments=np.concatenate([nothing, *(text.segments for _, text in texts)]),
        lengths=lengths,
        tokens=tuple(text.tokens for _, text in texts),
        order=np.array([place for place, _ in texts], dtype=np.int64),
        cut=np.array([text.cut for _, text in texts], dtype=np.int64),
    )


def batches(
    tokenizer: Tokenizer,
    texts: Iterable[str],
    *,
    budget: int,
    longest: int,
    truncate: bool = False,
    pairs: bool = False,
) -> Iterator[Packed]:
    """Texts, however many, as batches of at most `budget` tokens; a text that is longer alone is a batch by itself.

    Texts are read a window at a time and sorted within it, so memory is bounded by the window and its first batch is
    the worst.

    Args:
        budget: tokens in a batch.
        longest: tokens that the model takes of one text, special tokens included.
        truncate: cut texts that are longer; they are an error otherwise.
        pairs: take the texts two by two; places in `order` then count pairs.

    Raises:
        BertprobeError: a text is too long, comes to no tokens, or has no partner.
    """
    items = _paired(texts) if pairs else texts
    for window in _windows(tokenizer, items, budget, longest, truncate):
        yield from _batches_of(window, budget)


def _windows(
    tokenizer: Tokenizer, items: Iterable[Text], budget: int, longest: int, truncate: bool
) -> Iterator[list[tuple[int, Encoded]]]:
    """Texts with their places in the input, some thousands at a time."""
    window: list[tuple[int, Encoded]] = []
    tokens = place = 0
    for chunk in _chunks(items):
        for item, text in zip(chunk, tokenizer.encode_many(chunk, longest=longest if truncate else None), strict=True):
            _check_length(item, place, len(text), longest)
            window.append((place, text))
            tokens += len(text)
            place += 1
        if tokens >= max(WINDOW_TOKENS, budget) or len(window) >= WINDOW_TEXTS:
            yield window
            window, tokens = [], 0
    if window:
        yield window


def _batches_of(window: list[tuple[int, Encoded]], budget: int) -> Iterator[Packed]:
    """A window as batches, the longest text of all first."""
    batch: list[tuple[int, Encoded]] = []
    tokens = 0
    for place, text in sorted(window, key=lambda text: -len(text[1])):
        if batch and tokens + len(text) > budget:
            yield _packed(batch)
            batch, tokens = [], 0
        batch.append((place, text))
        tokens += len(text)
    yield _packed(batch)


def _packed(batch: list[tuple[int, Encoded]]) -> Packed:
    return pack([text for _, text in batch], [place for place, _ in batch])


def _chunks(items: Iterable[Text]) -> Iterator[list[Text]]:
    """Texts as many at a time as are tokenized at once."""
    chunk: list[Text] = []
    characters = 0
    for item in items:
        chunk.append(item)
        characters += sum(map(len, item)) if isinstance(item, tuple) else len(item)
        if len(chunk) >= CHUNK_TEXTS or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _paired(texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    source = iter(texts)
    for place, first in enumerate(source):
        second = next(source, None)
        if second is None:
            raise BertprobeError(
                f"text {2 * place + 1:,} ({_beginning(first)}) has no partner", "--pair takes the texts two by two"
            )
        yield first, second


def _check_length(item: Text, place: int, tokens: int, longest: int) -> None:
    if 0 < tokens <= longest:
        return
    kind, text = ("pair", item[0]) if isinstance(item, tuple) else ("text", item)
    what = f"{kind} {place + 1:,} ({_beginning(text)})"
    if tokens == 0:
        raise BertprobeError(f"{what} comes to no tokens", "leave it out: this tokenizer adds no special tokens")
    raise BertprobeError(
        f"{what} has {tokens:,} tokens, the model takes {longest:,}", "shorten it, or have it cut with --truncate"
    )


def _beginning(text: str, most: int = 30) -> str:
    return quoted(text if len(text) <= most else text[: most - 1] + "…")
