"""A WordPiece vocabulary as a GGUF file has it → a vocab.txt, and which of its entries are special tokens.

llama.cpp marks the pieces that begin a word, with U+2581, where BERT marks those that go on with one, with ##; special
tokens have no mark. Earlier converters left entries in brackets without a mark, whatever they are.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from bertprobe.checkpoint.gguf.header import DAMAGED, STRING, Array, Header, Scalar
from bertprobe.checkpoint.source import Source
from bertprobe.errors import CorruptFile, UnsupportedFile, printable
from bertprobe.filenames import VOCABULARY

SETTINGS = "tokenizer_config.json"
TOKENS = "tokenizer.ggml.tokens"
_TYPES = "tokenizer.ggml.token_type"
_INT32 = 5
_BEGINS = "\u2581"
_IN_BRACKETS = re.compile(r"\[.+\]")
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = range(1, 6)
MOST_SPECIAL = 1_000
# The keys of special tokens by their role, an older one last. The format's own name for a separator is misspelled.
_ROLES = {
    "unk_token": ("unknown_token_id",),
    "sep_token": ("seperator_token_id", "separator_token_id", "eos_token_id"),
    "pad_token": ("padding_token_id",),
    "cls_token": ("cls_token_id", "bos_token_id"),
    "mask_token": ("mask_token_id",),
}


class Vocabulary:
    """The vocabulary of a file, read when it is asked for."""

    def __init__(self, source: Source, header: Header) -> None:
        self._source, self._values = source, header.values
        self._tokens, self._types = header.arrays.get(TOKENS), header.arrays.get(_TYPES)

    @property
    def is_there(self) -> bool:
        """Whether the file has a vocabulary in llama.cpp's WordPiece."""
        return (
            self._values.get("tokenizer.ggml.model") == "bert"
            and self._tokens is not None
            and self._tokens.kind == STRING
            and self._tokens.length > 0
        )

    @property
    def tells_case(self) -> bool:
        """Whether the file says if text is lower-cased, as those of converters since 2026 do."""
        return isinstance(self._cleaning["do_lower_case"], bool)

    @property
    def _cleaning(self) -> Mapping[str, Scalar | None]:
        keys = {"do_lower_case": "lowercase", "strip_accents": "strip_accents"}
        return {name: self._values.get(f"tokenizer.ggml.normalizer.{key}") for name, key in keys.items()}

    def files(self) -> Mapping[str, str]:
        """The texts of vocab.txt and of tokenizer_config.json.

        Raises `UnsupportedFile` where a tokenizer of these would be another than the model's.
        """
        entries, kinds = self.entries, self._kinds
        reason = self._why_not(kinds, entries)
        if reason is not None:
            raise UnsupportedFile(
                f"the tokenizer in {self._source.address} cannot be rebuilt: {reason}",
                "name the folder of the model's own: `tokenizer=`",
            )
        roles = dict(self._roles(entries))
        others = [entry for entry, kind in zip(entries, kinds, strict=True) if kind == _CONTROL]
        rest = [entry for entry in others if entry not in roles.values()]
        cleaning = {key: on for key, on in self._cleaning.items() if isinstance(on, bool)}
        more = {"additional_special_tokens": rest} if rest else {}
        told = {"tokenizer_class": "BertTokenizer", **cleaning, **roles, **more}
        return {VOCABULARY: "".join(f"{entry}\n" for entry in entries), SETTINGS: json.dumps(told, ensure_ascii=False)}

    @cached_property
    def entries(self) -> Sequence[str]:
        """The entries in the order of their ids, as a vocab.txt has them."""
        return [_original(token, kind) for token, kind in zip(self._strings(), self._kinds, strict=True)]

    def special(self, role: str) -> str:
        """The special token of a role such as `cls_token`, empty where none is told."""
        return dict(self._roles(self.entries)).get(role, "")

    def _roles(self, entries: Sequence[str]) -> Iterator[tuple[str, str]]:
        for role, keys in _ROLES.items():
            found = (self._values.get(f"tokenizer.ggml.{key}") for key in keys)
            place = next((value for value in found if value is not None), None)
            if place is None:
                continue
            if type(place) is not int or not 0 <= place < len(entries):
                raise CorruptFile(
                    f"{self._source.address} gives the {role} an id that its vocabulary does not have", DAMAGED
                )
            yield role, entries[place]

    def _why_not(self, kinds: Sequence[int], entries: Sequence[str]) -> str | None:
        told: Mapping[str, Scalar] = self._values
        if told.get("tokenizer.ggml.add_bos_token") is False or told.get("tokenizer.ggml.add_eos_token") is False:
            return "it puts no special tokens around a text"
        if not {*kinds} <= {_NORMAL, _UNKNOWN, _CONTROL, _UNUSED}:
            return "it has added words, of which the file does not tell how they are found"
        if kinds.count(_CONTROL) > MOST_SPECIAL:
            return f"it has more than {MOST_SPECIAL:,} special tokens"
        if not any(entry.startswith("##") for entry in entries):
            return "no entry goes on with a word, so it is no WordPiece"
        if any("\n" in entry for entry in entries):
            return "an entry has a line break in it"
        lines = [line for entry in entries if (line := entry.rstrip())]
        if len({*lines}) < len(lines):
            return "it has an entry twice"
        return None

    @cached_property
    def _kinds(self) -> Sequence[int]:
        """The type of each entry; all are normal where the file does not tell."""
        count = 0 if self._tokens is None else self._tokens.length
        types = self._types
        if types is None:
            return (_NORMAL,) * count
        if types.kind != _INT32 or types.length != count:
            raise CorruptFile(f"{self._source.address} has not as many types of tokens as tokens", DAMAGED)
        return struct.unpack(f"<{count}i", self._source.read(types.start, types.stop))

    def _strings(self) -> Iterator[str]:
        array: Array | None = self._tokens
        if array is None:
            return
        data, at = self._source.read(array.start, array.stop), 0
        length = struct.Struct("<Q").unpack_from
        for _ in range(array.length):
            start = at + 8
            at = start + length(data, at)[0]
            try:
                yield data[start:at].decode("utf-8")
            except UnicodeDecodeError as error:
                raise CorruptFile(
                    f"an entry of the vocabulary in {self._source.address} is not text ({printable(error.reason)})",
                    DAMAGED,
                ) from error


def _original(token: str, kind: int) -> str:
    """An entry as BERT's vocab.txt has it."""
    if kind in (_UNKNOWN, _CONTROL):
        return token
    if token.startswith(_BEGINS):
        return token[1:]
    return token if _IN_BRACKETS.fullmatch(token) else f"##{token}"


class Carried(Mapping[str, str]):
    """The texts of small files by name; those of the tokenizer are made when one of them is asked for."""

    def __init__(self, texts: Mapping[str, str], vocabulary: Vocabulary | None) -> None:
        self._texts = dict(texts)
        self._vocabulary = vocabulary
        self._names = (*texts, *(() if vocabulary is None else (VOCABULARY, SETTINGS)))

    def __getitem__(self, name: str) -> str:
        if self._vocabulary is not None and name in (VOCABULARY, SETTINGS):
            self._texts.update(self._vocabulary.files())
            self._vocabulary = None
        return self._texts[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
