"""What a GGUF file begins with: key-value pairs, and the name, shape, type and place of each tensor.

Counts and lengths are held against the size of the file before anything is made of them. Of arrays only the place is
kept: a vocabulary is read by whoever needs it, and arrays of numbers are not even fetched. What llama.cpp's own reader
refuses is refused: arrays in arrays, keys and tensors named twice, more than four dimensions.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from bertprobe.checkpoint.source import Source
from bertprobe.errors import CorruptFile, UnsupportedFile, quoted

DAMAGED = "the file is damaged or was cut short: fetch it again"
RIGHT_FILE = "no model has: is it the right file?"
FIRST = 32 * 1024  # bytes of the first read, which is at hand where the file lies on the Hub
NEXT = 2**20  # of the second: a vocabulary of 30,000 entries has some 700 kB; then twice as many each time
MOST_AT_ONCE = 16 * 2**20
MAX_HEADER = 2**27  # bytes that are fetched; 260,000 entries with their merges have some 15 MB
MAX_KEYS = 10_000  # a model has some 30
MAX_TENSORS = 250_000
MAX_NAME = 1_000  # bytes; of tensors' names ggml allows 63
MAX_TEXT = 64 * 1024  # bytes of a value that is kept; what is longer is a template for chats
MAX_DIMENSIONS = 4
ALIGNMENT = 32  # of the data, unless a key says otherwise
MAX_ALIGNMENT = 2**20
STRING, ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_FIXED = {kind: struct.Struct("<" + letter) for kind, letter in _SCALARS.items()}
_U32, _U64, _END = struct.Struct("<I"), struct.Struct("<Q"), struct.Struct("<IQ")
_LEAST_PAIR = 8 + 4 + 1  # bytes of a key, a type and a value
_LEAST_TENSOR = 8 + 4 + 4 + 8

Scalar = int | float | bool | str


class Array(NamedTuple):
    """An array of a pair: the type of its values, how many, and where in the file they lie."""

    kind: int
    length: int
    start: int
    stop: int


class TensorInfo(NamedTuple):
    """A tensor by name, with its shape as the file has it, last axis first; `offset` is from where data begin."""

    name: str
    dimensions: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the data, which begin at `data_start`; every offset in them is a multiple of `alignment`."""

    version: int
    values: Mapping[str, Scalar]
    arrays: Mapping[str, Array]
    tensors: tuple[TensorInfo, ...]
    alignment: int
    data_start: int


def read(source: Source) -> Header:
    """The header of a file; raises `CorruptFile` for one that contradicts itself, `UnsupportedFile` for odd ones."""
    reading = Reading(source)
    version = _version(reading)
    tensors, pairs = reading.u64(), reading.u64()
    _check_count(reading, pairs, MAX_KEYS, _LEAST_PAIR, "key-value pairs")
    _check_count(reading, tensors, MAX_TENSORS, _LEAST_TENSOR, "tensors")
    values, arrays = _pairs(reading, pairs)
    alignment = _alignment(source, values)
    infos = _tensors(reading, tensors)
    start = -(-reading.place // alignment) * alignment
    return Header(version, values, arrays, infos, alignment, start)


class Reading:
    """The bytes of a header one after the other, by few reads, each larger than the last."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._data, self._base, self._at = b"", 0, 0
        self._step, self._fetched = FIRST, 0

    @property
    def place(self) -> int:
        """Where in the file the next byte is."""
        return self._base + self._at

    @property
    def left(self) -> int:
        """Bytes of the file that follow."""
        return self.source.size - self.place

    def u32(self) -> int:
        return int.from_bytes(self.bytes(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.bytes(8), "little")

    def bytes(self, count: int) -> bytes:
        self.need(count)
        self._at += count
        return self._data[self._at - count : self._at]

    def skip(self, count: int) -> None:
        """Goes on behind so many bytes, which are not fetched."""
        self.check(count)
        self._at += count
        if self._at > len(self._data):
            self._base, self._data, self._at = self.place, b"", 0

    def check(self, count: int) -> None:
        if count > self.left:
            raise CorruptFile(
                f"the header of {self.source.name} asks for {count:,} bytes where {self.left:,} are left", DAMAGED
            )

    def need(self, count: int) -> None:
        """Sees to it that so many bytes are at hand."""
        if self._at + count <= len(self._data):
            return
        self.check(count)
        rest, start = self._data[self._at :], self.place
        stop = min(self.source.size, start + max(count, self._step))
        self._fetched += stop - start - len(rest)
        if self._fetched > MAX_HEADER:
            raise UnsupportedFile(
                f"the header of {self.source.name} has more than {MAX_HEADER:,} bytes", f"such a long one {RIGHT_FILE}"
            )
        self._data, self._base, self._at = rest + self.source.read(start + len(rest), stop), start, 0
        self._step = min(max(2 * self._step, NEXT), MOST_AT_ONCE)

    def text(self, most: int, what: str) -> str:
        """A string that must be short and UTF-8."""
        length = self.u64()
        self.check(length)
        if length > most:
            raise UnsupportedFile(f"{what} in {self.source.name} has {length:,} bytes", f"such a long one {RIGHT_FILE}")
        try:
            return self.bytes(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise CorruptFile(f"{what} in {self.source.name} is not text ({error.reason})", DAMAGED) from error

    def skip_strings(self, count: int) -> None:
        """Goes on behind so many strings."""
        length = _U64.unpack_from
        done = 0
        while done < count:
            self.need(8)
            data, at, last = self._data, self._at, len(self._data) - 8
            while done < count and at <= last:
                at += 8 + length(data, at)[0]
                done += 1
            self.skip(at - self._at)


def _version(reading: Reading) -> int:
    name = reading.source.name
    if reading.bytes(4) != b"GGUF":
        raise CorruptFile(f"{name} does not begin with GGUF", "it is no GGUF file, or a damaged one")
    version = reading.u32()
    if version and version & 0xFFFF == 0:
        raise UnsupportedFile(f"{name} is a GGUF file of a big-endian machine", "convert it with gguf-convert-endian")
    if version not in (2, 3):
        raise UnsupportedFile(
            f"{name} is of GGUF's version {version}, read are 2 and 3", "convert the model with a llama.cpp of today"
        )
    return version


def _check_count(reading: Reading, count: int, most: int, least: int, what: str) -> None:
    if count * least > reading.left:
        raise CorruptFile(
            f"{reading.source.name} announces {count:,} {what}, its {reading.source.size:,} bytes are too few for that",
            DAMAGED,
        )
    if count > most:
        raise UnsupportedFile(f"{reading.source.name} announces {count:,} {what}", f"so many {RIGHT_FILE}")


def _pairs(reading: Reading, count: int) -> tuple[dict[str, Scalar], dict[str, Array]]:
    values: dict[str, Scalar] = {}
    arrays: dict[str, Array] = {}
    keys: set[str] = set()
    for _ in range(count):
        key = reading.text(MAX_NAME, "a key")
        if key in keys:
            raise CorruptFile(f"{reading.source.name} has the key {quoted(key)} twice", DAMAGED)
        keys.add(key)
        kind = reading.u32()
        if kind == ARRAY:
            arrays[key] = _array(reading, key)
        elif kind == STRING:
            text = _long_text(reading)
            if text is not None:
                values[key] = text
        elif kind in _FIXED:
            (values[key],) = _FIXED[kind].unpack(reading.bytes(_FIXED[kind].size))
        else:
            raise _unknown(reading, key, kind)
    return values, arrays


def _long_text(reading: Reading) -> str | None:
    """The string that follows; None for one that is too long to be of use."""
    length = reading.u64()
    if length > MAX_TEXT:
        reading.skip(length)
        return None
    return reading.bytes(length).decode("utf-8", "replace")


def _array(reading: Reading, key: str) -> Array:
    kind, count = reading.u32(), reading.u64()
    size = 8 if kind == STRING else _FIXED[kind].size if kind in _FIXED else 0
    if not size:
        raise _unknown(reading, key, kind)
    if count * size > reading.left:
        raise CorruptFile(
            f"{quoted(key)} in {reading.source.name} has {count:,} values, "
            f"for which the {reading.left:,} bytes that follow are too few",
            DAMAGED,
        )
    start = reading.place
    if kind == STRING:
        reading.skip_strings(count)
    else:
        reading.skip(count * size)
    return Array(kind, count, start, reading.place)


def _unknown(reading: Reading, key: str, kind: int) -> UnsupportedFile:
    what = "an array of arrays" if kind == ARRAY else f"of the type {kind}, which the format does not have"
    return UnsupportedFile(
        f"{quoted(key)} in {reading.source.name} is {what}", "llama.cpp refuses it, too: have the file written again"
    )


def _alignment(source: Source, values: Mapping[str, Scalar]) -> int:
    found = values.get("general.alignment", ALIGNMENT)
    if type(found) is not int or not 0 < found <= MAX_ALIGNMENT or found & (found - 1):
        raise CorruptFile(
            f"{source.name} gives general.alignment as {quoted(str(found))}, which is no power of two", DAMAGED
        )
    return found


def _tensors(reading: Reading, count: int) -> tuple[TensorInfo, ...]:
    found: dict[str, TensorInfo] = {}
    for _ in range(count):
        name = reading.text(MAX_NAME, "a tensor's name")
        if name in found:
            raise CorruptFile(
                f"{reading.source.name} names the tensor {quoted(name)} twice",
                "readers disagree on which one counts: have it written again",
            )
        number = reading.u32()
        if number > MAX_DIMENSIONS:
            raise UnsupportedFile(
                f"tensor {quoted(name)} in {reading.source.name} has {number:,} dimensions",
                f"the format has {MAX_DIMENSIONS} at most: is it the right file?",
            )
        dimensions = struct.unpack(f"<{number}Q", reading.bytes(8 * number))
        found[name] = TensorInfo(name, dimensions, *_END.unpack(reading.bytes(_END.size)))
    return tuple(found.values())
