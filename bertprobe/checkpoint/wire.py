"""Numbers and messages as they stand in an index: varints, and protobuf's wire format as far as it is needed.

Source: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator

MAX_FIELDS = 16  # of a message, but for those that a field of it may have: TensorFlow's have up to six


class Broken(ValueError):
    """Bytes that are not what they should be; whoever knows the file says which one it is."""


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The number of at most 64 bits that begins at `at`, and where the next thing begins."""
    if at < len(data) and data[at] < 128:  # as most are
        return data[at], at + 1
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise Broken("a number in it has no end")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (2**64 - 1), at
        shift += 7


class Message:
    """A protobuf message whose fields are asked for by number; one that is not there is 0, or empty.

    There may be up to `most` of the field `repeated`, and `MAX_FIELDS` others: each takes thirty times its bytes.
    """

    def __init__(self, data: bytes, repeated: int = 0, most: int = 0) -> None:
        self._fields: dict[int, list[int | bytes]] = {}
        at, end, others = 0, len(data), 0
        while at < end:
            key, at = varint(data, at)
            value, at = _value(data, at, key & 7) if key & 7 else varint(data, at)
            values = self._fields.setdefault(key >> 3, [])
            values.append(value)
            others += key >> 3 != repeated
            if others > MAX_FIELDS or (len(values) > MAX_FIELDS and len(values) > most):
                raise Broken("a message in it has more fields than it can need")

    def number(self, field: int) -> int:
        """A number that must not be negative; the last one where there are several."""
        value = self._fields.get(field, [0])[-1]
        if isinstance(value, bytes):
            raise Broken("a message in it has text for a number")
        return value

    def count(self, field: int) -> int:
        """How many values a field has: asked before they are taken apart."""
        return len(self._fields.get(field, ()))

    def numbers(self, field: int) -> list[int]:
        """The first number of each message in a field."""
        return [_first_number(value) for value in self._texts(field)]

    def messages(self, field: int, repeated: int = 0, most: int = 0) -> list[Message]:
        """The messages in a field, which may have so many of a field themselves."""
        return [Message(value, repeated, most) for value in self._texts(field)]

    def _texts(self, field: int) -> Iterator[bytes]:
        for value in self._fields.get(field, []):
            if not isinstance(value, bytes):
                raise Broken("a message in it has a number for a message")
            yield value


def _first_number(data: bytes) -> int:
    """The field 1 of a message, at once where it has no other, as the dimensions of a shape have none."""
    if data[:1] == b"\x08":
        value, end = varint(data, 1)
        if end == len(data):
            return value
    return Message(data).number(1)


def _value(data: bytes, at: int, kind: int) -> tuple[int | bytes, int]:
    if kind == 0:
        return varint(data, at)
    if kind == 2:
        size, at = varint(data, at)
    elif kind in (1, 5):
        size = 8 if kind == 1 else 4
    else:
        raise Broken("a message in it has a field of no known kind")
    if at + size > len(data):
        raise Broken("a message in it is cut short")
    found = data[at : at + size]
    return (found if kind == 2 else int.from_bytes(found, "little")), at + size
