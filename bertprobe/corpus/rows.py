"""What a file of a corpus is made of: rows, of which some cannot be used."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from bertprobe.errors import NotFound, UnsupportedFile, quoted, shortened

Label = str | None
"""What a text or word is labelled with; None where nobody labelled it."""

_HALVES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Fields:
    """Which fields of a row hold its text, its id and its label.

    With `words` the text is a list of words, and the label a list with one of each.
    """

    text: str
    id: str | None = None
    label: str | None = None
    words: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in (self.text, self.id, self.label) if name is not None)

    def setting(self, name: str) -> str:
        """What names this field, as Python has it."""
        if name == self.text:
            return "words_field" if self.words else "field"
        return "label_field" if name == self.label else "id_field"


@dataclass(frozen=True, slots=True)
class Row:
    """A row with a text: its place in the file, from 0.

    `label` is the text's. Where a row has words, `words` are they, `labels` one of each, and `text` is all of them with
    spaces between.
    """

    number: int
    id: str
    text: str
    label: Label = None
    words: tuple[str, ...] = ()
    labels: tuple[Label, ...] = ()


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used, and why."""

    number: int
    why: str


def utf8_size(text: str) -> int:
    """The bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def check_fields(file: str, fields: Fields, names: list[str]) -> None:
    """Raises where a file has not one field of each name."""
    for name in fields.names:
        if name not in names:
            raise NotFound(f"{file} {missing(name, names)}", f"name one of them: `{fields.setting(name)}=NAME`")
        if names.count(name) > 1:
            raise UnsupportedFile(
                f"{file} has {names.count(name)} fields called {quoted(name)}", "give each a name of its own"
            )


def missing(name: str, names: list[str]) -> str:
    """That there is no such field, and which there are."""
    return f"has no field {quoted(name)}, it has {shortened([quoted(known) for known in names]) or 'none'}"


def mended(text: str) -> str:
    """Halves of surrogate pairs, which JSON can spell and UTF-8 cannot carry, become U+FFFD."""
    return text if text.isascii() else _HALVES.sub("\ufffd", text)


def kind(value: Any) -> str:
    """What a value is, in words."""
    kinds = {"NoneType": "null", "bool": "true or false", "dict": "an object", "list": "a list", "str": "a text"}
    return kinds.get(type(value).__name__, "a number")


def with_label(row: Row, value: Any, fields: Fields) -> Row | BadRow:
    """A row with the label of its text, which is a text, a whole number, true or false, or null or empty for none."""
    if not _is_label(value):
        return BadRow(row.number, f"has {_told(value)} as {quoted(fields.label or '')}, no label; {_LABELS}")
    return Row(row.number, row.id, row.text, _label(value))


def of_words(number: int, id: str, words: Any, labels: Any, fields: Fields) -> Row | BadRow:
    """A row of words and their labels: two lists of the same length."""
    for name, value in ((fields.text, words), (fields.label or "", labels)):
        if not isinstance(value, list):
            return BadRow(number, f"has {kind(value)} as {quoted(name)}, not a list")
    if len(words) != len(labels):
        return BadRow(number, f"has {len(words):,} words and {len(labels):,} labels")
    for place, (word, label) in enumerate(zip(words, labels, strict=True)):
        if not isinstance(word, str) or not word.strip():
            found = "an empty text" if isinstance(word, str) else kind(word)
            return BadRow(number, f"has {found} as word {place} (the first is 0)")
        if not _is_label(label):
            return BadRow(number, f"has {_told(label)} as the label of word {place} (the first is 0); {_LABELS}")
    known = tuple(map(mended, words))
    return Row(number, id, " ".join(known), None, known, tuple(map(_label, labels)))


_LABELS = "a label is a text or a whole number"


def _is_label(value: Any) -> bool:
    return value is None or isinstance(value, str | int) or (isinstance(value, float) and value.is_integer())


def _label(value: Any) -> Label:
    if value is None or isinstance(value, str):
        return mended(value) or None if value is not None else None
    return str(value).lower() if isinstance(value, bool) else str(int(value))


def _told(value: Any) -> str:
    return f"the number {value}" if isinstance(value, float) else kind(value)
