"""The exceptions of bertprobe, and the one way in which foreign text is made safe to print.

BertprobeError          anything a user can meet and mend; `cli.main` turns it into one line and exit code 1
├── NotFound            nothing of that name, or nothing in it that could be read
├── CorruptFile         a file that contradicts itself or ends too early
│   └── EndsEarly       one that ends before its data do, of which some may be there
├── UnsupportedFile     a sound file in a form that is not read
│   └── IsAdapter       an adapter, which is no model of its own
├── NotAnEncoder        a sound checkpoint of something that is not a BERT-like encoder
├── PartMissing         an encoder without the part or layer that was asked for
├── BadSetting          a setting that cannot be meant so, whatever the checkpoint; exit code 2
├── HubError            the Hub cannot be reached, refuses, or answers otherwise than it must
└── OutputError         a result that cannot be written where it was asked for
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class BertprobeError(Exception):
    """What was found and what to do about it; every error carries both.

    A setting is named as Python has it, in backticks: `truncate=True`. `cli.main` puts the command's option there.
    """

    def __init__(self, found: str, hint: str) -> None:
        super().__init__(f"{found}; {hint}")
        self.found = found
        self.hint = hint

    def __reduce__(self) -> tuple[type[BertprobeError], tuple[str, str]]:
        """So that it reaches another process."""
        return type(self), (self.found, self.hint)


class NotFound(BertprobeError):
    """Nothing of that name, or nothing in it that could be read."""


class CorruptFile(BertprobeError):
    """A file that contradicts itself or ends too early."""


class EndsEarly(CorruptFile):
    """A file that ends before its data do: which of its tensors are there can still be told."""


class UnsupportedFile(BertprobeError):
    """A sound file in a form that is not read."""


class IsAdapter(UnsupportedFile):
    """An adapter, which is no model of its own: the `file` in a `folder`, for whoever describes it."""

    def __init__(self, found: str, hint: str, folder: Any = None, file: str = "") -> None:
        super().__init__(found, hint)
        self.folder = folder
        self.file = file


class NotAnEncoder(BertprobeError):
    """A sound checkpoint of something that is not a BERT-like encoder."""


class PartMissing(BertprobeError):
    """An encoder without the part or layer that was asked for."""


class BadSetting(BertprobeError):
    """A setting that cannot be meant so, whatever the checkpoint: wrong usage."""


class HubError(BertprobeError):
    """The Hub cannot be reached, refuses, or answers otherwise than it must."""


class OutputError(BertprobeError):
    """A result that cannot be written where it was asked for."""


# Control characters, invisible format characters (bidirectional overrides among them), lone surrogates, line ends.
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def printable(text: str) -> str:
    """`text` with everything escaped that could move the cursor, recolour or reorder what a terminal shows."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char if unicodedata.category(char) not in _UNPRINTABLE else char.encode("unicode_escape").decode()
        for char in text
    )


def is_text(text: str) -> bool:
    """Whether a string is text that UTF-8 can carry: a path may hold other bytes, as halves of surrogate pairs."""
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def escaped(text: str) -> str:
    """`text` as UTF-8 can carry it: an odd byte of a path becomes \\xe9, half of a surrogate pair \\ud800."""
    return text.encode("utf-8", "surrogateescape" if _is_path(text) else "backslashreplace").decode(
        "utf-8", "backslashreplace"
    )


def _is_path(text: str) -> bool:
    """Whether all halves of surrogate pairs in it stand for bytes, as Python has them in the names of files."""
    return all("\udc80" <= char <= "\udcff" for char in text if "\ud800" <= char <= "\udfff")


def command(*words: str) -> str:
    """A command to paste: each word quoted for the shell, so that a path in it stays a path, and safe to print."""
    import shlex

    return printable(shlex.join(f"./{word}" if word.startswith("-") and "/" in word else word for word in words))


def copying(config: Path, beside: Sequence[Path], there: Path) -> str:
    """The commands that copy `config` to `there`, and to that folder what goes with it, files and folders."""
    words = [command("cp", str(config), str(there))]
    if len(beside) == 1 and beside[0].is_file():
        words.append(command("cp", str(beside[0]), str(there.parent / beside[0].name)))
    elif beside:
        words.append(command("cp", "-r", *map(str, beside), str(there.parent)))
    return " && ".join(words)


def quoted(text: str) -> str:
    """Foreign text in quotes, safe to print, and not longer than a line."""
    return f"'{printable(text if len(text) <= 100 else text[:99] + '…')}'"


def shortened(names: list[str], most: int = 6) -> str:
    """A list of names for a message: the first few, none longer than a line, then how many more there are."""
    shown = ", ".join(name if len(name) <= 100 else name[:99] + "…" for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
