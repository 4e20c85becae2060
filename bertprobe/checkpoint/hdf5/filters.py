"""Chunks as they were packed → elements: inflated, put together of bytes apart, and held against their checksum.

What is inflated is bounded by what a chunk holds. Source: HDF5 File Format Specification, IV.A.2.l, and libhdf5's
H5Zdeflate, H5Zshuffle and H5checksum.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from bertprobe.checkpoint.hdf5.layout import DEFLATE, FLETCHER, SHUFFLE, Filter
from bertprobe.checkpoint.wire import Broken

KNOWN = {DEFLATE, SHUFFLE, FLETCHER}


def unpacked(data: memoryview, steps: Sequence[Filter], mask: int, size: int, element: int) -> memoryview:
    """The `size` bytes of a chunk's elements, of what the file has of it; raises `Broken`."""
    sums = 4 * sum(step.number == FLETCHER for step in steps)
    for number, step in reversed(list(enumerate(steps))):
        if mask >> number & 1:
            continue
        if step.number == DEFLATE:
            data = _inflated(data, size + sums)
        elif step.number == SHUFFLE:
            data = _unshuffled(data, element)
        else:
            data = _summed(data)
    if len(data) != size:
        raise Broken(f"a chunk of it has {len(data):,} bytes, not {size:,}")
    return data


def _inflated(data: memoryview, most: int) -> memoryview:
    machine = zlib.decompressobj()
    try:
        found = machine.decompress(data, most + 1)
    except zlib.error as error:
        raise Broken("a chunk of it cannot be inflated") from error
    if len(found) > most or not machine.eof:
        raise Broken("a chunk of it has more bytes than it should, or ends early")
    return memoryview(found)


def _unshuffled(data: memoryview, element: int) -> memoryview:
    """First all first bytes of the elements, then all second ones → one element behind the other."""
    import numpy as np

    whole = len(data) // element * element
    if element == 1 or not whole:
        return data
    apart = np.frombuffer(data[:whole], np.uint8).reshape(element, -1)
    joined = np.ascontiguousarray(apart.T).reshape(-1)
    if whole < len(data):
        joined = np.concatenate([joined, np.frombuffer(data[whole:], np.uint8)])
    return memoryview(joined.data)


def _summed(data: memoryview) -> memoryview:
    """What stands before a checksum, which must be right."""
    if len(data) < 4:
        raise Broken("a chunk of it ends before its checksum")
    found = fletcher32(data[:-4])
    stored = int.from_bytes(data[-4:], "little")
    # Versions before 1.6.3 wrote the bytes of each half the other way round.
    swapped = (found & 0x00FF00FF) << 8 | found >> 8 & 0x00FF00FF
    if stored not in (found, swapped):
        raise Broken("a chunk of it has another checksum than it says")
    return data[:-4]


def fletcher32(data: memoryview) -> int:
    """Fletcher's checksum over words of 16 bits, the first byte of each the higher one."""
    import numpy as np

    words = np.frombuffer(data[: len(data) // 2 * 2], ">u2").astype(np.uint64)
    if len(data) % 2:
        words = np.append(words, np.uint64(data[-1] << 8))
    first = second = 0
    for start in range(0, len(words), 2**15):
        part = words[start : start + 2**15]
        weights = np.arange(len(part), 0, -1, dtype=np.uint64)
        second = (second + len(part) * first + int((part * weights).sum())) % 65535
        first = (first + int(part.sum())) % 65535
    # Sums are folded, not divided: one that is a multiple of 65535 stays 65535, unless all of it was zero.
    nonzero = bool(words.any())
    first, second = (65535 if nonzero and not value else value for value in (first, second))
    return second << 16 | first
