"""The exceptions of bertprobe, and the one way in which foreign text is made safe to print.

BertprobeError          anything a user can meet and mend; `cli.main` turns it into one line and exit code 1
├── NotFound            nothing of that name, or nothing in it that could be read
├── CorruptFile         a file that contradicts itself or ends too early
├── UnsupportedFile     a sound file in a form that is not read
├── NotAnEncoder        a sound checkpoint of something that is not a BERT-like encoder
├── PartMissing         an encoder without the part or layer that was asked for
├── HubError            the Hub cannot be reached, refuses, or answers otherwise than it must
└── OutputError         a result that cannot be written where it was asked for
"""

from __future__ import annotations

import unicodedata


class BertprobeError(Exception):
    """What was found and what to do about it; every error carries both."""

    def __init__(self, found: str, cure: str) -> None:
        super().__init__(f"{found}; {cure}")
        self.found = found
        self.cure = cure


class NotFound(BertprobeError):
    """Nothing of that name, or nothing in it that could be read."""


class CorruptFile(BertprobeError):
    """A file that contradicts itself or ends too early."""


class UnsupportedFile(BertprobeError):
    """A sound file in a form that is not read."""


class NotAnEncoder(BertprobeError):
    """A sound checkpoint of something that is not a BERT-like encoder."""


class PartMissing(BertprobeError):
    """An encoder without the part or layer that was asked for."""


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


def quoted(text: str) -> str:
    """Foreign text in quotes, safe to print, and not longer than a line."""
    return f"'{printable(text if len(text) <= 100 else text[:99] + '…')}'"


def shortened(names: list[str], most: int = 6) -> str:
    """A list of names for a message: the first few, none longer than a line, then how many more there are."""
    shown = ", ".join(name if len(name) <= 100 else name[:99] + "…" for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
