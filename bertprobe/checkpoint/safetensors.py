"""The safetensors format: eight bytes of header length, a JSON header, then the data.

Source: https://github.com/huggingface/safetensors (README, "Format"). Everything the library refuses is refused, each
with a message of its own, and a repeated name too, which the library lets pass.
"""

from __future__ import annotations

import json
import math
from typing import Any

from bertprobe.checkpoint.source import Source
from bertprobe.checkpoint.tensors import DTYPES, MAX_DIMENSIONS, Index, Piece, TensorHeader
from bertprobe.errors import CorruptFile, UnsupportedFile, printable, quoted

MAX_HEADER = 100_000_000  # the library's own limit
MAX_TENSORS = 250_000  # the largest models have some 100,000; beyond that, Python objects alone would fill memory
MAX_COMMAS = 10 * MAX_TENSORS  # an entry of four dimensions has eight
MAX_NAME = 1_000  # characters; the library has no limit, but every name is searched, and shown
SHOWN = 100  # characters of a name that a message shows
HEADER_GUESS = 32 * 1024  # a 12-layer BERT's header is 20 to 25 kB
DAMAGED = "the file is damaged or was cut short: fetch it again"


def recognises(head: bytes) -> bool:
    """Whether the first bytes of a file look like a header length and the start of a JSON object."""
    return (
        len(head) > 8 and head[8:].lstrip(b" \t\r\n")[:1] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER
    )


def index(source: Source) -> Index:
    """The headers of every tensor in the file, in file order; raises `CorruptFile` or `UnsupportedFile`."""
    text, data_start = _header_text(source)
    if text.count(b"{") > MAX_TENSORS or text.count(b",") > MAX_COMMAS:
        raise UnsupportedFile(
            f"the header of {source.name} holds more than {MAX_TENSORS:,} tensors need",
            "no model has so many: is it the right file?",
        )
    entries = _parse(source, text)
    notes = entries.pop("__metadata__", None)
    headers = [_tensor(source, name, entry, data_start) for name, entry in entries.items()]
    headers.sort(key=lambda header: (header.pieces[0].start, header.pieces[0].stop))
    _check_coverage(source, headers, data_start)
    return Index(tuple(headers), metadata=notes or {})


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


def _parse(source: Source, text: bytes) -> dict[str, Any]:
    try:
        entries = json.loads(
            text.decode("utf-8"), object_pairs_hook=lambda pairs: _unique(source, pairs), parse_constant=_no_number
        )
        "".join(entries if isinstance(entries, dict) else ()).encode()  # half of a surrogate pair is no character
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
    bits = math.prod(shape) * DTYPES[dtype].bits
    if bits % 8 or bits // 8 != offsets[1] - offsets[0]:
        raise CorruptFile(
            f"{shown} has shape {shape} in {dtype}, {bits // 8:,} bytes, but a range of {offsets[1] - offsets[0]:,}",
            DAMAGED,
        )
    return TensorHeader(name, dtype, tuple(shape), (Piece(source, data_start + offsets[0], data_start + offsets[1]),))


def _is_whole(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(type(n) is int and 0 <= n < 2**63 for n in numbers)


def _check_coverage(source: Source, headers: list[TensorHeader], data_start: int) -> None:
    """The ranges must follow each other without overlap or hole, and end where the file ends."""
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
    if end > source.size:
        raise CorruptFile(f"{source.name} should have {end:,} bytes by its header, it has {source.size:,}", DAMAGED)
    if end < source.size:
        raise CorruptFile(f"{source.name} has {source.size - end:,} bytes after its last tensor", DAMAGED)
