"""The safetensors format: eight bytes of header length, a JSON header, then the data.

Source: https://github.com/huggingface/safetensors (README, "Format"). Every header that the library refuses is refused,
down to its limits on numbers and nesting, each with a message of its own. So are a name or key that stands twice and an
entry in brackets, which the library lets pass and other readers do not, names over 1,000 characters, more than 32
dimensions, and one of 2^63. What a header may hold is the library's to say, what is loaded torch's or numpy's: of types
that neither has arrays for, and of F4, whose odd last axes torch refuses, the shape is listed and no value read.

Time and memory grow with the header's length, and the number of objects in it with the number of tensors.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from itertools import accumulate
from operator import mul
from typing import Any

from bertprobe.checkpoint.reader import Reader
from bertprobe.checkpoint.source import Source
from bertprobe.checkpoint.tensors import DTYPES, MAX_DIMENSIONS, Index, Piece, TensorHeader
from bertprobe.errors import CorruptFile, EndsEarly, UnsupportedFile, is_text, printable, quoted

MAX_HEADER = 100_000_000  # the library's own limit
MAX_TENSORS = 250_000  # the largest models have some 100,000; beyond that, Python objects alone would fill memory
MAX_COMMAS = 10  # in an entry: one of four dimensions has eight
MAX_NOTES = 250_000  # commas besides: training tools put whole settings into the metadata
MAX_DEPTH = 127  # of objects and lists in each other, the library's own limit
MAX_DIGITS = 300  # of a number: any more could be beyond float64, where the library stops
MAX_NAME = 1_000  # characters; the library has no limit, but every name is searched, and shown
SHOWN = 100  # characters of a name that a message shows
HEADER_GUESS = 32 * 1024  # a 12-layer BERT's header is 20 to 25 kB
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
CUT_OFF = "the file ends before it does"
DAMAGED = "the file is damaged or was cut short: fetch it again"


def recognises(head: bytes) -> bool:
    """Whether the first bytes of a file look like a header length and the start of a JSON object."""
    return (
        len(head) > 8 and head[8:].lstrip(b" \t\r\n")[:1] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER
    )


def index(source: Source) -> Index:
    """The headers of every tensor in the file, in file order; raises `CorruptFile` or `UnsupportedFile`."""
    found, end = _indexed(source)
    if end > source.size:
        raise EndsEarly(_ends_early(source, end), DAMAGED)
    return found


def what_is_left(source: Source) -> Index:
    """The same of a file that ends before its data do: what does not lie in it whole is listed, and refused."""
    found, end = _indexed(source)
    beyond = [header for header in found.headers if header.pieces[0].stop > source.size]
    if not beyond:
        return found
    first, count = printable(beyond[0].name[:SHOWN]), f"{len(beyond):,} of {len(found.headers):,} tensors"
    headers = (
        replace(header, refusal=CUT_OFF) if header.pieces[0].stop > source.size else header for header in found.headers
    )
    told = f"{_ends_early(source, end)}: {count}, from {first} on, are not there whole"
    return replace(found, headers=tuple(headers), truncated=told)


def _ends_early(source: Source, end: int) -> str:
    return f"{source.name} should have {end:,} bytes by its header, it has {source.size:,}"


def _indexed(source: Source) -> tuple[Index, int]:
    """The index, and where the last tensor ends by it."""
    text, data_start = _header_text(source)
    _check_number_of_objects(source, text)
    entries = _parse(source, text)
    notes = entries.pop("__metadata__", None)
    headers = [_tensor(source, name, entry, data_start) for name, entry in entries.items()]
    headers.sort(key=lambda header: (header.pieces[0].start, header.pieces[0].stop))
    end = _check_coverage(source, headers, data_start)
    return Index(tuple(headers), metadata=notes or {}), end


def _header_text(source: Source) -> tuple[bytes, int]:
    head = source.read(0, min(HEADER_GUESS, source.size))
    if len(head) < 8:
        raise CorruptFile(f"{source.name} has {len(head)} bytes, fewer than the 8 of a header length", DAMAGED)
    length = int.from_bytes(head[:8], "little")
    if length > MAX_HEADER:
        raise CorruptFile(
            f"{source.name} announces a header of {length:,} bytes, the format allows {MAX_HEADER:,}",
            "it is no safetensors file, or a damaged one",
        )
    if 8 + length > source.size:
        raise CorruptFile(
            f"{source.name} announces a header of {length:,} bytes, the file has {source.size:,}", DAMAGED
        )
    if 8 + length > len(head):
        head += source.read(len(head), 8 + length)
    return head[8 : 8 + length], 8 + length


def _check_number_of_objects(source: Source, text: bytes) -> None:
    """No more objects, lists and values than tensors need: each takes memory, be it as short as []."""
    objects = text.count(b"{")
    lists, commas = text.count(b"["), text.count(b",")
    if objects > MAX_TENSORS or max(lists, commas) > MAX_COMMAS * objects + MAX_NOTES:
        raise UnsupportedFile(
            f"the header of {source.name} holds more than {MAX_TENSORS:,} tensors need",
            "no model has so many: is it the right file?",
        )


def _parse(source: Source, text: bytes) -> dict[str, Any]:
    try:
        entries = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=lambda pairs: _unique(source, pairs),
            parse_constant=_no_number,
            parse_int=_integer,
            parse_float=_fraction,
        )
        if _ESCAPED_SURROGATE.search(text) and not is_text(json.dumps(entries, ensure_ascii=False)):
            raise ValueError("half of a surrogate pair is no character")
    except (ValueError, RecursionError) as error:
        reason = "too deeply nested" if isinstance(error, RecursionError) else printable(str(error).partition(";")[0])
        raise CorruptFile(f"the header of {source.name} is not JSON ({reason})", DAMAGED) from error
    if not isinstance(entries, dict):
        raise CorruptFile(f"the header of {source.name} is not a JSON object", DAMAGED)
    notes = entries.get("__metadata__")
    if notes is not None and not (isinstance(notes, dict) and all(isinstance(v, str) for v in notes.values())):
        raise CorruptFile(f"the __metadata__ of {source.name} is not a map from strings to strings", DAMAGED)
    return entries


def _no_number(text: str) -> None:
    """Python reads NaN and Infinity, which JSON does not have."""
    raise ValueError(f"{text} is no JSON number")


def _integer(text: str) -> int | float:
    """A whole number; to the library -0 is none."""
    if text == "-0":
        return -0.0
    return int(text) if len(text) <= MAX_DIGITS else int(_fraction(text))


def _fraction(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"a number of {len(text):,} characters is out of range")
    return number


def _unique(source: Source, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        last = {name: position for position, (name, _) in enumerate(pairs)}
        twice = next(name for position, (name, _) in enumerate(pairs) if last[name] != position)
        raise CorruptFile(
            f"the header of {source.name} names {quoted(twice)} twice",
            "readers disagree on which one counts: have it written again",
        )
    return found


def _tensor(source: Source, name: str, entry: Any, data_start: int) -> TensorHeader:
    shown = f"tensor {printable(name[:SHOWN])} in {source.name}"
    if len(name) > MAX_NAME:
        raise UnsupportedFile(f"{shown} has a name of {len(name):,} characters", "no model has: is it the right file?")
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise CorruptFile(f"{shown} has no dtype, shape and data_offsets", DAMAGED)
    if len(entry) > 3:
        _check_depth(shown, entry)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise UnsupportedFile(
            f"{shown} has the unknown dtype '{printable(str(dtype)[:40])}'", f"known are {', '.join(DTYPES)}"
        )
    if not _is_whole(shape):
        raise CorruptFile(f"{shown} has a shape that is not a list of whole numbers below 2^63", DAMAGED)
    if len(shape) > MAX_DIMENSIONS:
        raise UnsupportedFile(f"{shown} has {len(shape):,} dimensions", f"no array here can have over {MAX_DIMENSIONS}")
    if not _is_whole(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CorruptFile(f"{shown} has data_offsets that are not a range", DAMAGED)
    if _largest_product(shape) >= 2**64:  # it may be 0 in the end; the library multiplies in 64 bits
        raise CorruptFile(f"{shown} has a shape whose product is beyond 2^64", DAMAGED)
    count, nbytes = math.prod(shape), DTYPES[dtype].nbytes(math.prod(shape))
    if count % DTYPES[dtype].items or nbytes != offsets[1] - offsets[0]:
        raise CorruptFile(
            f"{shown} has shape {shape} in {dtype}, {nbytes:,} bytes, but a range of {offsets[1] - offsets[0]:,}",
            DAMAGED,
        )
    return TensorHeader(name, dtype, tuple(shape), (Piece(source, data_start + offsets[0], data_start + offsets[1]),))


def _check_depth(shown: str, entry: dict[str, Any]) -> None:
    """What an entry has besides is not looked at, but the library reads it, and stops where it is too deep."""
    level: list[Any] = [entry]
    for _ in range(1, MAX_DEPTH):  # the header itself is one
        level = [
            inner
            for value in level
            for inner in (value.values() if isinstance(value, dict) else value)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise CorruptFile(f"{shown} has an entry that is too deeply nested", DAMAGED)


def _largest_product(shape: list[int]) -> int:
    """The largest number met while the axes are multiplied one after the other."""
    return max(accumulate(shape, mul), default=1)


def _is_whole(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(type(n) is int and 0 <= n < 2**63 for n in numbers)


def _check_coverage(source: Source, headers: list[TensorHeader], data_start: int) -> int:
    """The ranges must follow each other without overlap or hole, and not end before the file does; where they end."""
    end = data_start
    for header in headers:
        (piece,) = header.pieces
        if piece.start != end:
            fault = (
                "overlaps the tensor before it"
                if piece.start < end
                else f"leaves a hole of {piece.start - end:,} bytes"
            )
            raise CorruptFile(f"tensor {printable(header.name[:SHOWN])} in {source.name} {fault}", DAMAGED)
        end = piece.stop
    if end < source.size:
        raise CorruptFile(f"{source.name} has {source.size - end:,} bytes after its last tensor", DAMAGED)
    return end


READER = Reader(recognises, index, what_is_left=what_is_left)
