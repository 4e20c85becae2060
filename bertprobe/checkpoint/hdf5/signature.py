"""How a file begins that has HDF5 in it."""

from __future__ import annotations

from bertprobe.checkpoint.zipped import START, first_name

SIGNATURE = b"\x89HDF\r\n\x1a\n"
ZIP = START
KERAS = b"metadata.json"  # the first member of a zip that Keras 3 writes


def recognises(head: bytes) -> bool:
    """Whether the first bytes of a file start HDF5, or a zip of Keras, which has HDF5 in it."""
    return head.startswith(SIGNATURE) or first_name(head) == KERAS
