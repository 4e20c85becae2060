"""What `flax.serialization` writes: maps of strings in msgpack, whose arrays are extensions of type 1.

The file is walked value by value and the bytes of arrays are stepped over (`walk`), so that an index costs some hundred
bytes of each array, by ranges. Sources: https://github.com/msgpack/msgpack/blob/master/spec.md and
flax/serialization.py (`_ndarray_to_bytes`, `_chunk`).
"""

from __future__ import annotations

from bertprobe.checkpoint.reader import Reader
from bertprobe.checkpoint.source import Source
from bertprobe.checkpoint.tensors import Index

LONGEST_KEY = 200  # bytes of the first name in a file
_SHORT_MAPS, _SHORT_TEXTS = range(0x81, 0x90), range(0xA1, 0xC0)
_MAPS = {0xDE: 3, 0xDF: 5}  # where the first name of a longer one begins
_TEXTS = {0xD9: 1, 0xDA: 2}  # bytes of the length of a longer text
# What a first name may have behind it: a map, a list, nothing, a flag, an extension or a number, but no text.
_BEHIND = {*range(0x80, 0xA0), *range(0xC7, 0xD9), 0xC0, 0xC2, 0xC3, *range(0xDC, 0xE0), *range(0x80)}


def recognises(head: bytes) -> bool:
    """Whether the first bytes of a file start a map that is not empty, with a name that is text, and a value behind."""
    head = head.ljust(8, b"\0")
    at = 1 if head[0] in _SHORT_MAPS else _MAPS.get(head[0], 0)
    if not at:
        return False
    wide = _TEXTS.get(head[at], 0)
    start = at + 1 + wide
    size = head[at] & 31 if head[at] in _SHORT_TEXTS else int.from_bytes(head[at + 1 : start], "big")
    if not (head[at] in _SHORT_TEXTS or wide) or not 0 < size <= LONGEST_KEY:
        return False
    name = head[start : start + size].decode("utf-8", "ignore")
    return bool(name) and name.isprintable() and (start + size >= len(head) or head[start + size] in _BEHIND)


def index(source: Source) -> Index:
    """The headers of every array in the file, in its order; raises `CorruptFile` or `UnsupportedFile`."""
    # Imported here, as every run imports this module, also for files of another format.
    from bertprobe.checkpoint.flax.model import contents

    return contents(source)


READER = Reader(recognises, index)
