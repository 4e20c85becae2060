"""Numbers and messages as they stand in an index: varints, and protobuf's wire format as far as it is needed.

Source: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations


class Broken(ValueError):
    """Bytes that are not what they should be; whoever knows the file says which one it is."""


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The number of at most 64 bits that begins at `at`, and where the next thing begins."""
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
    """A protobuf message whose fields are asked for by number; one that is not there is 0, or empty."""

    def __init__(self, data: bytes) -> None:
        self._fields: dict[int, list[int | bytes]] = {}
        at = 0
        while at < len(data):
            key, at = varint(data, at)
            value, at = _value(data, at, key & 7)
            self._fields.setdefault(key >> 3, []).append(value)

    def number(self, field: int) -> int:
        """A number that must not be negative; the last one where there are several."""
        value = self._fields.get(field, [0])[-1]
        if isinstance(value, bytes):
            raise Broken("a message in it has text for a number")
        return value

    def count(self, field: int) -> int:
        """How many values a field has: asked before they are taken apart."""
        return len(self._fields.get(field, ()))

    def messages(self, field: int) -> list[Message]:
        """The messages in a field."""
        values = self._fields.get(field, [])
        if not all(isinstance(value, bytes) for value in values):
            raise Broken("a message in it has a number for a message")
        return [Message(value) for value in values if isinstance(value, bytes)]


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
