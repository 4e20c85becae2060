"""Zips by byte ranges: the table of contents at the end, and the local header in front of each member.

Source: PKWARE's APPNOTE.TXT. What two formats need that come in zips stands here; which members count is theirs to say.
"""

from __future__ import annotations

START = b"PK\x03\x04"
EMPTY = b"PK\x05\x06"  # the end record, which is all there is of an empty one


def first_name(head: bytes) -> bytes:
    """The name of the member that the first bytes of a zip begin, as far as it is in them."""
    size = int.from_bytes(head[26:28], "little")
    return head[30 : 30 + size] if head.startswith(START) else b""
