"""Where a file begins, and what an object of it is made of: the messages in its header.

Source: HDF5 File Format Specification, II (superblock) and IV.A (object headers).
"""

from __future__ import annotations

from dataclasses import dataclass

from bertprobe.checkpoint.hdf5.pages import Fields, Pages, sealed
from bertprobe.checkpoint.hdf5.signature import SIGNATURE
from bertprobe.checkpoint.source import Source
from bertprobe.checkpoint.wire import Broken
from bertprobe.errors import CorruptFile, UnsupportedFile

# Kinds of messages.
DATASPACE, LINK_INFO, DATATYPE, OLD_FILL, FILL, LINK, EXTERNAL, LAYOUT = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08
FILTERS, ATTRIBUTE, CONTINUATION, SYMBOL_TABLE, ATTRIBUTE_INFO = 0x0B, 0x0C, 0x10, 0x11, 0x15

MAX_BLOCKS = 256  # of one header
FIRST_READ = 40  # bytes of a header that tell its length
SHARED = 2  # the flag of a message that stands elsewhere
LARGEST_USER_BLOCK = 2**30
DAMAGED = "the file is damaged or was cut short: fetch it again"


@dataclass(frozen=True, slots=True)
class Message:
    """A message of an object's header: its `body` lies at the address `at`."""

    kind: int
    flags: int
    body: bytes
    at: int


def opened(source: Source, base: int = 0, stop: int | None = None) -> tuple[Pages, int]:
    """A file's bytes by address, and the address of its root group.

    Between `base` and `stop` of the source. Raises `CorruptFile`, `Broken` and `UnsupportedFile`.
    """
    stop = source.size if stop is None else stop
    start = _signature(source, base, stop)
    pages = Pages(source, start, stop)
    # Where each read is a request: nothing can be done before this one is there.
    ((root, end),) = pages.together([lambda: _superblock(pages)])
    if end is not None and end > stop - base:
        raise CorruptFile(
            f"{source.address} should have {end:,} bytes by its beginning, it has {stop - base:,}", DAMAGED
        )
    return pages, root


def _signature(source: Source, base: int, stop: int) -> int:
    """Where the file begins: a program may have put bytes of its own before it, 512 or twice as many, and so on."""
    at = 0
    while at < LARGEST_USER_BLOCK and base + at + len(SIGNATURE) <= stop:
        if source.read(base + at, base + at + len(SIGNATURE)) == SIGNATURE:
            return base + at
        at = max(512, 2 * at)
    raise CorruptFile(f"{source.address} is no HDF5 file: its signature is not there", DAMAGED)


def _superblock(pages: Pages) -> tuple[int, int | None]:
    """The address of the root group, and where the file should end."""
    head = pages.read(0, min(128, pages.size))
    fields = Fields(pages, head, len(SIGNATURE))
    version = fields.number(1)
    if version > 3:
        raise UnsupportedFile(
            f"{pages.source.address} has a superblock of version {version}", "read are versions 0 to 3"
        )
    if version < 2:
        fields.take(4)
        _widths(pages, fields)
        fields.take(9 if version == 0 else 13)
        fields.address()  # the base, which is where the signature was found
        fields.address()
        end = fields.address()
        fields.address()
        fields.length()  # of the root group: the place of its name
        return fields.there(), end
    _widths(pages, fields)
    fields.take(1)
    fields.address()
    fields.address()
    end = fields.address()
    root = fields.there()
    sealed(head[: fields.at + 4])
    return root, end


def _widths(pages: Pages, fields: Fields) -> None:
    widths = fields.number(1), fields.number(1)
    if not set(widths) <= {4, 8}:
        raise UnsupportedFile(
            f"{pages.source.address} has addresses and lengths of {widths[0]} and {widths[1]} bytes",
            "read are those of 4 and 8",
        )
    pages.offset_size, pages.length_size = widths


def messages(pages: Pages, at: int) -> list[Message]:
    """The messages in the header of the object at an address, in their order; raises `Broken`."""
    head = pages.read(at, min(FIRST_READ, max(pages.size - at, 16)))
    new = head.startswith(b"OHDR")
    block, start, extra = (_new if new else _old)(pages, at, head)
    found: list[Message] = []
    waiting = [(block, start)]
    seen = {at}
    while waiting:
        block, start = waiting.pop(0)
        for message in _split(pages, block, start, extra if new else None):
            if message.kind != CONTINUATION:
                found.append(message)
                continue
            fields = Fields(pages, message.body)
            place, size = fields.there(), fields.length()
            if place in seen or len(seen) >= MAX_BLOCKS:
                raise Broken("the header of an object in it goes on in circles, or in too many places")
            seen.add(place)
            block = pages.read(place, size)
            if new:
                block = sealed(block)
                if not block.startswith(b"OCHK"):
                    raise Broken("the header of an object in it goes on where none does")
            waiting.append((block[4:], place + 4) if new else (block, place))
    return found


def _old(pages: Pages, at: int, head: bytes) -> tuple[bytes, int, int]:
    """The first block of a header of version 1, and where it lies."""
    fields = Fields(pages, head)
    if fields.number(1) != 1:
        raise Broken(f"there is no object at byte {at:,}")
    fields.take(7)
    size = fields.number(4)
    return pages.read(at + 16, size), at + 16, 0


def _new(pages: Pages, at: int, head: bytes) -> tuple[bytes, int, int]:
    """The first block of a header of version 2, where it lies, and how many bytes more each message has."""
    fields = Fields(pages, head)
    fields.sign(b"OHDR", (2,))
    flags = fields.number(1)
    fields.take((16 if flags & 32 else 0) + (4 if flags & 16 else 0))
    size = fields.number(1 << (flags & 3))
    block = sealed(pages.read(at, fields.at + size + 4))
    return block[fields.at :], at + fields.at, 2 if flags & 4 else 0


def _split(pages: Pages, block: bytes, at: int, extra: int | None) -> list[Message]:
    """The messages of a block at an address, of version 2 where there is `extra` to skip."""
    fields = Fields(pages, block)
    found = []
    while fields.left >= (8 if extra is None else 4 + extra):
        kind, size = fields.number(2 if extra is None else 1), fields.number(2)
        flags = fields.number(1)
        fields.take(3 if extra is None else extra)
        start = at + fields.at
        found.append(Message(kind, flags, fields.take(size), start))
        pages.step()
    return found
