"""Text → tokens by the `tokenizers` library: nothing padded, what is cut counted."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from bertprobe.errors import BertprobeError, CorruptFile, printable
from bertprobe.tokens.encoded import Encoded, Placed, Text
from bertprobe.tokens.limits import Growth
from bertprobe.tokens.special import NO_SPECIAL, Special

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import tokenizers

# What remains of invalid UTF-8 that was read with surrogateescape; no tokenizer takes it.
_SURROGATE = re.compile("[\ud800-\udfff]")


class _Pieces(dict[int, str]):
    """Each id's piece as text, asked of the library once: what it hands out a text at a time is slow."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        super().__init__()
        self._backend = backend

    def __missing__(self, id: int) -> str:
        self[id] = piece = self._backend.id_to_token(id) or ""
        return piece


class FastTokenizer:
    """A `Tokenizer` over one of the `tokenizers` library.

    `growth` is what its normalizer makes of a text at most; `segments` False leaves every segment 0; `special` are its
    tokens that have a role.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        name: str,
        growth: Growth,
        *,
        notes: tuple[str, ...] = (),
        segments: bool = True,
        cut_left: bool = False,
        special: Special = NO_SPECIAL,
    ) -> None:
        self.name = name
        self.notes = notes
        self._backend = backend
        self._growth = growth
        self._segments = segments
        self._cut_left = cut_left
        self._roles = special.roles
        self.special_tokens = frozenset(filter(None, (*special.roles.values(), *special.others)))
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

    @property
    def mask_token(self) -> str:
        """The token that stands for a word to be guessed, empty where there is none.

        Where no file gives a token that role, it is the one that is written as BERT or RoBERTa has it.
        """
        named = self._roles.get("mask_token", "")
        usual = (token for token in ("[MASK]", "<mask>") if self._backend.token_to_id(token) is not None)
        return named if named and self._backend.token_to_id(named) is not None else next(usual, "")

    @property
    def is_wordpiece(self) -> bool:
        """Whether words are taken apart as BERT does."""
        from tokenizers import models

        return isinstance(self._backend.model, models.WordPiece)

    def clean_as_bert(self, flags: Mapping[str, bool | None], around: tuple[str, str]) -> None:
        """Has text cleaned, split and taken apart by BERT's rules and these flags, whatever the tokenizer's file says.

        So transformers does, by the names that `flags` has in tokenizer_config.json. `around` are the tokens that a
        text begins and ends with where no file gives tokens these roles.
        """
        from tokenizers import normalizers, pre_tokenizers, processors

        model: Any = self._backend.model
        model.unk_token = self._roles.get("unk_token", "[UNK]")
        model.continuing_subword_prefix, model.max_input_chars_per_word = "##", 100
        self._backend.normalizer = normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=flags["tokenize_chinese_chars"] is True,
            strip_accents=flags["strip_accents"],
            lowercase=flags["do_lower_case"] is True,
        )
        self._backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokens = [self._roles.get(role, token) for role, token in zip(("cls_token", "sep_token"), around, strict=True)]
        ids = [self._backend.token_to_id(token) for token in tokens]
        if None not in ids:
            cls, sep = zip(tokens, cast(list[int], ids), strict=True)
            self._backend.post_processor = processors.BertProcessing(sep, cls)

    def piece(self, id: int) -> str:
        """The piece of an id as text, empty where there is none."""
        return self._pieces[id]

    def lower_first(self) -> None:
        """Has text lower-cased before all else, where its normalizer has no step that does only that."""
        lower_first(self._backend)

    def encode(self, text: str, pair: str | None = None, *, longest: int | None = None) -> Encoded:
        """One text, or two as a pair, cut to `longest` tokens if that is given."""
        return self.encode_many([text if pair is None else (text, pair)], longest=longest)[0]

    def encode_many(self, texts: Sequence[Text], *, longest: int | None = None) -> list[Encoded]:
        """Many texts or pairs, each cut to `longest` tokens if that is given.

        Cut are the last tokens, of the longer text first, until two are as long; special tokens stay. Raises
        `BertprobeError` where not even they fit, and for a text that the normalizer could blow up, `CorruptFile` where
        the tokenizer cannot do its work.
        """
        encodings = self._encodings(texts, self._backend.encode_batch_fast)
        return [self._encoded(encoding, longest)[0] for encoding in encodings]

    def encode_placed(self, texts: Sequence[str], *, longest: int | None = None) -> list[Placed]:
        """The same for texts of which has to be known where in them each token stands; errors as of `encode_many`."""
        import numpy as np

        found = []
        for encoding in self._encodings(texts, self._backend.encode_batch):
            encoded, kept = self._encoded(encoding, longest)
            spans = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
            spans[[sequence is None for sequence in encoding.sequence_ids]] = -1
            found.append(Placed(encoded, spans[kept], spans[~kept]))
        return found

    def _encodings(self, texts: Sequence[Text], encode: Callable[..., list[Any]]) -> list[tokenizers.Encoding]:
        for item in texts:
            for text in item if isinstance(item, tuple) else (item,):
                self._growth.check(text)
        try:
            return encode([_clean(text) for text in texts])
        except BaseException as error:
            if not is_the_librarys(error):
                raise
            raise CorruptFile(
                f"{self.name} cannot turn text into tokens ({printable(str(error))})",
                "the tokenizer contradicts itself: fetch its files again",
            ) from error

    def _encoded(self, encoding: tokenizers.Encoding, longest: int | None) -> tuple[Encoded, npt.NDArray[np.bool_]]:
        """The tokens of a text that are kept, and which these are."""
        import numpy as np

        ids = np.array(encoding.ids, dtype=np.int64)
        segments = np.array(encoding.type_ids, dtype=np.int64) if self._segments else np.zeros_like(ids)
        cut = 0 if longest is None else max(len(ids) - longest, 0)
        kept = np.ones(len(ids), dtype=np.bool_)
        if longest is not None and cut:
            kept = _kept(encoding.sequence_ids, longest, left=self._cut_left)
            ids, segments = ids[kept], segments[kept]
        return Encoded(ids, segments, tuple(map(self._pieces.__getitem__, ids.tolist())), cut), kept


def lower_first(backend: tokenizers.Tokenizer) -> None:
    """Puts lower-casing before a tokenizer's normalizer, as sentence-transformers does by `do_lower_case`.

    Not where a step of it is that already; BERT's own step, which may lower-case too, does not count there.
    """
    from tokenizers import normalizers

    known: Any = backend.normalizer
    steps: list[Any] = [] if known is None else [known]
    if isinstance(known, normalizers.Sequence):
        steps = list(cast(Any, known))
    if not any(isinstance(step, normalizers.Lowercase) for step in steps):
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])


def is_the_librarys(error: BaseException) -> bool:
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
