"""Text in cells and lines: Chinese characters are two cells wide, break anywhere, but not before their punctuation."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

CODE = "`"
GLUE = "\u00a0"  # a blank that no line is broken at
_NEVER_FIRST = set("，。；：、？！）》”’…％,.;:?!)]}%")
_NEVER_LAST = set("（《“‘([{")


def cells(text: str) -> int:
    """How many cells of a terminal a text takes."""
    return sum(_cells(char) for char in text)


def _cells(char: str) -> int:
    if char.isascii():
        return 1
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def padded(text: str, width: int) -> str:
    return text + " " * (width - cells(text))


def colon(text: str) -> str:
    """The colon that belongs before a text: Chinese has one of its own."""
    return ": " if text.isascii() else "："


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most so many cells; a word longer than that is cut."""
    lines: list[str] = []
    line = ""
    for piece in _pieces(text):
        if cells(line) + cells(piece.rstrip(" ")) <= width:
            line += piece
            continue
        if line:
            lines.append(line.rstrip(" "))
        line = piece
        while cells(line.rstrip(" ")) > width:
            head = _fitting(line, width)
            lines.append(line[:head])
            line = line[head:]
    return [*lines, line.rstrip(" ")]


def _fitting(text: str, width: int) -> int:
    """How many characters fit, at least one."""
    taken = 0
    for count, char in enumerate(text):
        taken += _cells(char)
        if taken > width:
            return max(count, 1)
    return len(text)


def _pieces(text: str) -> Iterator[str]:
    """A text in pieces between which a line may be broken, each with the blanks behind it."""
    piece = ""
    for char in text:
        if piece and _may_break(piece[-1], char):
            yield piece
            piece = ""
        piece += char
    if piece:
        yield piece


def _may_break(last: str, char: str) -> bool:
    if char == " " or char in _NEVER_FIRST or last in _NEVER_LAST:
        return False
    return last == " " or _cells(last) == 2 or _cells(char) == 2


def spans(text: str) -> list[tuple[str, bool]]:
    """Prose as pieces that are code or not, the backticks taken off."""
    return [(piece, bool(number % 2)) for number, piece in enumerate(text.split(CODE)) if piece]
