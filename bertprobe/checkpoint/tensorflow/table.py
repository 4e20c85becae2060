"""A LevelDB table as TensorFlow writes it: keys in order, each with a value, in blocks that carry checksums.

An index is small (10 kB for a BERT), so it is read whole, in one read. Nothing in it is believed: blocks lie one
behind the other before the index of blocks, and what snappy announces is bounded before it unpacks anything, so time
and memory grow with the size of the file, and end where all of it unpacked is `MAX_INDEX`. Keys share their beginnings
in the file and not in memory, and are bounded apart. Source: LevelDB, doc/table_format.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from bertprobe.checkpoint.source import Source
from bertprobe.checkpoint.tensors import checksum
from bertprobe.checkpoint.wire import Broken, varint
from bertprobe.errors import CorruptFile, UnsupportedFile

MAGIC = 0xDB4775248B80FB57
FOOTER = 48  # two block handles, filled up to 40 bytes, and the magic number
TRAILER = 5  # behind each block: how it is packed, and the checksum
MAX_INDEX = 32 * 2**20  # unpacked or not: of 250,000 tensors it has some 25 MB
MAX_ENTRIES = 250_000  # optimizer state and slices among them
MAX_KEY = 2_000  # bytes; every key is kept, and shown
MAX_KEYS = 32 * 2**20  # bytes of all keys: prefixes are shared in the file and not in memory
SNAPPY_MOST = 22  # times its size is the most that a packed block can become: three bytes copy 64
MASK = 0xA282EAD8
DAMAGED = "the file is damaged or was cut short: fetch it again"


def recognises(head: bytes) -> bool:
    """Whether a file begins as an index does: an empty key, whose value is the bundle's header, plain or packed."""
    if head[:2] != b"\0\0":  # packed: first the unpacked size, then how long what follows is left as it is
        size = next((i + 1 for i, byte in enumerate(head[:6]) if byte < 128), 6)
        long = head[size : size + 1] >= b"\xf0"
        head = head[size + 1 + long :]
    # The header is a few bytes long and begins with its number of shards, its byte order or its version.
    return len(head) > 4 and head[:2] == b"\0\0" and head[2] < 64 and head[3] in (0x08, 0x10, 0x1A)


def rows(source: Source) -> Iterator[tuple[bytes, bytes]]:
    """Every key with its value, in the order of keys.

    Raises `CorruptFile` for what contradicts itself, and `UnsupportedFile` for a packing that is not read.
    """
    if source.size > MAX_INDEX:
        raise UnsupportedFile(
            f"{source.address} has {source.size:,} bytes, too many for the index of a checkpoint",
            "is it the right file? a TensorFlow index is some 10 kB",
        )
    data = source.read(0, source.size)
    try:
        yield from _ordered(source, data)
    except Broken as error:
        raise CorruptFile(f"{source.address} is no sound index: {error}", DAMAGED) from error


def unmasked(stored: int) -> int:
    """The checksum as it is computed; stored ones are turned, so that a checksum of checksums says something."""
    turned = (stored - MASK) % 2**32
    return (turned >> 17 | turned << 15) % 2**32


def _ordered(source: Source, data: bytes) -> Iterator[tuple[bytes, bytes]]:
    last: bytes | None = None
    size = count = 0
    for block in _blocks(source, data):
        for key, value in _entries(block):
            if last is not None and key <= last:
                raise Broken("its keys are out of order, or one stands there twice")
            size += len(key)
            count += 1
            if size > MAX_KEYS or count > MAX_ENTRIES:
                raise UnsupportedFile(
                    f"{source.address} lists more than {MAX_ENTRIES:,} tensors, or {MAX_KEYS:,} bytes of names",
                    "no model has so many: is it the right file?",
                )
            yield key, value
            last = key


def _blocks(source: Source, data: bytes) -> Iterator[bytes]:
    """The data blocks, by the block that lists them."""
    end = len(data) - FOOTER
    if end < 0:
        raise Broken(f"it has {len(data)} bytes, fewer than the {FOOTER} of a footer")
    if data[-8:] != struct.pack("<Q", MAGIC):
        raise Broken("it does not end in the magic number of a table")
    _, at = _handle(data, end)  # of filters and the like, which no bundle has
    (start, stop), _ = _handle(data, at)
    listing = _block(source, data, start, stop, end, MAX_INDEX)
    here, room = 0, MAX_INDEX
    for _, value in _entries(listing):
        (first, last), _ = _handle(value, 0)
        if first < here or last + TRAILER > start:
            raise Broken(f"it names a block at bytes {first:,} to {last:,}, where no block can be")
        here = last + TRAILER
        block = _block(source, data, first, last, start, room)
        room -= len(block)
        yield block


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Where a block begins and ends, and what comes behind its handle."""
    start, at = varint(data, at)
    size, at = varint(data, at)
    return (start, start + size), at


def _block(source: Source, data: bytes, start: int, stop: int, end: int, room: int) -> bytes:
    """The content of a block that must end before `end`, its checksum seen to and its packing taken off.

    More than `room` bytes are not unpacked.
    """
    if stop + TRAILER > end:
        raise Broken(f"it names a block at bytes {start:,} to {stop:,}, outside of its {len(data):,}")
    packing, stored = data[stop], int.from_bytes(data[stop + 1 : stop + TRAILER], "little")
    found = checksum(data[start : stop + 1])
    if found != unmasked(stored):
        raise Broken(f"its block at byte {start:,} has the checksum {found:08x}, not {unmasked(stored):08x}")
    if packing == 0:
        return data[start:stop]
    if packing != 1:
        raise UnsupportedFile(
            f"the index {source.address} is packed in way {packing}, which is not snappy",
            "have TensorFlow save the checkpoint again",
        )
    return _unpacked(source, data[start:stop], room)


def _unpacked(source: Source, packed: bytes, room: int) -> bytes:
    import cramjam

    size, _ = varint(packed, 0)
    if size > SNAPPY_MOST * len(packed):
        raise Broken(f"a block of {len(packed):,} bytes announces {size:,}, more than snappy can pack into it")
    if size > room:
        raise UnsupportedFile(
            f"{source.address} has more than {MAX_INDEX:,} bytes unpacked, too many for the index of a checkpoint",
            "is it the right file? a TensorFlow index is some 10 kB",
        )
    content = bytearray(size)
    try:
        written = cramjam.snappy.decompress_raw_into(packed, content)
    except cramjam.DecompressionError as error:
        raise Broken("a block cannot be unpacked by snappy") from error
    if written != size:
        raise Broken(f"a block announces {size:,} bytes and holds {written:,}")
    return bytes(content)


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block; a key begins with as much of the one before as its entry says."""
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (restarts + 1)
    if end < 0:
        raise Broken(f"a block of {len(block):,} bytes announces {restarts:,} places to start from")
    key, at = b"", 0
    while at < end:
        shared, at = varint(block, at)
        fresh, at = varint(block, at)
        length, at = varint(block, at)
        if shared > len(key) or at + fresh + length > end:
            raise Broken("an entry reaches beyond its block")
        if shared + fresh > MAX_KEY:
            raise Broken(f"a key has {shared + fresh:,} bytes, no name is so long")
        key = key[:shared] + block[at : at + fresh]
        at += fresh
        yield key, block[at : at + length]
        at += length
