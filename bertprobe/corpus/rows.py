"""What a file of a corpus is made of: rows, of which some cannot be used."""

from __future__ import annotations

from dataclasses import dataclass

from bertprobe.errors import NotFound, UnsupportedFile, quoted, shortened


@dataclass(frozen=True, slots=True)
class Fields:
    """Which fields of a row hold its text and its id."""

    text: str
    id: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return (self.text,) if self.id is None else (self.text, self.id)


@dataclass(frozen=True, slots=True)
class Row:
    """A row with a text: its place in the file, from 0."""

    number: int
    id: str
    text: str


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
            setting = "field" if name == fields.text else "id_field"
            raise NotFound(f"{file} {missing(name, names)}", f"name one of them: `{setting}=NAME`")
        if names.count(name) > 1:
            raise UnsupportedFile(
                f"{file} has {names.count(name)} fields called {quoted(name)}", "give each a name of its own"
            )


def missing(name: str, names: list[str]) -> str:
    """That there is no such field, and which there are."""
    return f"has no field {quoted(name)}, it has {shortened([quoted(known) for known in names]) or 'none'}"
