"""The header in front of an array: its type, its order, its shape. Source: numpy/lib/format.py, versions 1.0 to 3.0."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bertprobe.checkpoint.tensors import DTYPES, MAX_DIMENSIONS
from bertprobe.errors import CorruptFile, UnsupportedFile, printable

MAGIC = b"\x93NUMPY"
MAX_HEADER = 10_000  # characters; numpy's own limit
LONGEST_START = 12  # bytes of magic, version and length
DAMAGED = "the file is damaged or was cut short: fetch it again"

_TYPES = {
    "f8": "F64",
    "f4": "F32",
    "f2": "F16",
    "c8": "C64",
    **{f"i{size}": f"I{8 * size}" for size in (1, 2, 4, 8)},
    **{f"u{size}": f"U{8 * size}" for size in (1, 2, 4, 8)},
    "b1": "BOOL",
}
# A dictionary of three words, as Python writes one; an L after a number is Python 2's.
_TOKEN = re.compile(r"\s*('[^'\\]*'|\"[^\"\\]*\"|True|False|[0-9]{1,19}L?|[{}():,\[\]])")


@dataclass(frozen=True, slots=True)
class NpyHeader:
    """What stands before an array: its numbers begin at byte `length`.

    `dtype` is a stored dtype's name, empty where it has none here: `refusal` says why. `swapped` numbers are
    big-endian; a `fortran` array has its columns one after the other.
    """

    length: int
    dtype: str
    shape: tuple[int, ...]
    fortran: bool = False
    swapped: bool = False
    refusal: str = ""
    type: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of its numbers."""
        count = 1
        for n in self.shape:
            count *= n
        return DTYPES[self.dtype].nbytes(count)


def length_of(start: bytes, where: str) -> int:
    """The bytes of a header, that begins with `start`; raises `CorruptFile`, and `UnsupportedFile` for a long one."""
    if len(start) < LONGEST_START or not start.startswith(MAGIC):
        raise CorruptFile(f"{where} does not start as an array of numpy", DAMAGED)
    version = (start[6], start[7])
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise UnsupportedFile(f"{where} is of version {version[0]}.{version[1]}", "save it again with numpy")
    wide = 2 if version == (1, 0) else 4
    length = int.from_bytes(start[8 : 8 + wide], "little")
    if length > MAX_HEADER:
        raise UnsupportedFile(f"{where} has a header of {length:,} bytes", "numpy does not read it, either")
    return 8 + wide + length


def parsed(header: bytes, where: str) -> NpyHeader:
    """What a header says, given whole; raises `CorruptFile`."""
    first = 10 if header[6] == 1 else 12
    text = header[first:].decode("utf-8" if header[6] == 3 else "latin-1", "replace")
    words = None if header[6] == 3 and "L" in text else _words(text)  # Python 2 wrote none of version 3.0
    if words is None or words.keys() != {"descr", "fortran_order", "shape"}:
        raise CorruptFile(f"{where} has a header that is none: {printable(text[:60])}", DAMAGED)
    descr, order, shape = (words[key] for key in ("descr", "fortran_order", "shape"))
    if not isinstance(shape, tuple) or order not in ("True", "False"):
        raise CorruptFile(f"{where} has a header that is none: {printable(text[:60])}", DAMAGED)
    if len(shape) > MAX_DIMENSIONS:
        raise UnsupportedFile(f"{where} has {len(shape)} dimensions", f"no array here can have over {MAX_DIMENSIONS}")
    return _typed(NpyHeader(len(header), "", shape, order == "True"), str(descr))


def _words(text: str) -> dict[str, str | tuple[int, ...]] | None:
    """The three words of a header: texts without their quotes, a shape as numbers; None for anything else."""
    tokens, end = [], 0
    while match := _TOKEN.match(text, end):
        tokens.append(match[1])
        end = match.end()
    if text[end:].strip() or tokens[:1] != ["{"] or tokens[-1:] != ["}"]:
        return None
    found: dict[str, str | tuple[int, ...]] = {}
    at = 1
    while at < len(tokens) - 1:
        key = tokens[at].strip("'\"")
        if not tokens[at].startswith(("'", '"')) or tokens[at + 1 : at + 2] != [":"] or key in found:
            return None
        value, at = _value(tokens, at + 2)
        if value is None:
            return None
        found[key] = value
        if tokens[at : at + 1] == [","]:
            at += 1
        elif at != len(tokens) - 1:
            return None
    return found


def _value(tokens: list[str], at: int) -> tuple[str | tuple[int, ...] | None, int]:
    """The value that begins at a token, and where what follows it does; a list is told by its bracket alone."""
    token = tokens[at]
    if token == "[":
        depth = 0
        for place in range(at, len(tokens)):
            depth += (tokens[place] in "[(") - (tokens[place] in "])")
            if depth == 0:
                return "[", place + 1
        return None, at
    if token != "(":
        plain = token.startswith(("'", '"')) or token in ("True", "False")
        return (token.strip("'\"") if plain else None), at + 1
    if ")" not in tokens[at:]:
        return None, at
    stop = tokens.index(")", at)
    inside = tokens[at + 1 : stop]
    numbers = [word.rstrip("L") for word in inside[::2]]
    commas = inside[1::2]
    tuple_ = not inside or len(commas) == len(numbers) or (len(numbers) > 1 and len(commas) == len(numbers) - 1)
    if not tuple_ or not all(map(str.isdecimal, numbers)) or any(comma != "," for comma in commas):
        return None, at
    return tuple(map(int, numbers)), stop + 1


def _typed(header: NpyHeader, descr: str) -> NpyHeader:
    """The header with its type; one that has no equal here is refused, by what it is."""
    from dataclasses import replace

    order, kind = descr[:1], descr[1:]
    if order in ("<", ">", "|") and kind in _TYPES and (order != "|" or kind[1:] == "1"):
        return replace(header, dtype=_TYPES[kind], swapped=order == ">" and kind[1:] != "1", type=descr)
    if descr == "[":
        why = "it holds records of several fields"
    elif kind == "O":
        why = "it holds Python objects, which are pickles: nothing here unpickles them"
    elif kind.startswith(("U", "S", "a")):
        why = "it holds text"
    elif kind == "V2":
        why = "it holds pairs of bytes without a type; bfloat16 may be meant, which numpy cannot name"
    else:
        why = f"its type is {printable(descr[:40])}, which is not read"
    return replace(header, refusal=why, type=descr)
