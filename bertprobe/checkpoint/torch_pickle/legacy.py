"""What `torch.save` wrote before 2020: five pickles in sequence, the fourth of them the object, then the storages.

The count before a storage is compared when a tensor in it is read: that of one whose tensors have no element may be
wrong. What comes after the last storage is not looked at, by torch either. The pickles are read in steps that double,
so that no more than twice their size is read and looked at.
"""

from __future__ import annotations

from functools import partial

from bertprobe.checkpoint.source import Source
from bertprobe.checkpoint.tensors import Guard
from bertprobe.checkpoint.torch_pickle.hints import DAMAGED, RESAVE
from bertprobe.checkpoint.torch_pickle.rebuild import Locate, Place, TypedStorage, declared_storages
from bertprobe.checkpoint.torch_pickle.stack_machine import MAX_PICKLE, Malformed, Pickle, Value, interpret
from bertprobe.checkpoint.torch_pickle.state_dict import entries
from bertprobe.errors import CorruptFile, UnsupportedFile, printable

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001


def contents(source: Source, head: bytes) -> tuple[Pickle, Locate]:
    """What was saved, and where its storages lie."""
    _check_magic(source, head)
    saved, keys, end = _pickles(source, head)
    return saved, _places(source, saved, keys, end).get


def _check_magic(source: Source, head: bytes) -> None:
    try:
        magic = interpret(head[:64]).value
    except Malformed:
        magic = None
    if magic != MAGIC:
        what = "a pickle, but not one" if head[:1] == b"\x80" else "not a file"
        raise UnsupportedFile(
            f"{source.name} is {what} that torch.save wrote", "save the tensors with torch.save or as safetensors"
        )


def _pickles(source: Source, head: bytes) -> tuple[Pickle, list[str], int]:
    """The saved object, the keys of the storages after it in their order, and where the first one starts."""
    found: list[Pickle] = []
    while len(found) < 5:
        try:
            found.append(interpret(head, found[-1].end if found else 0))
        except Malformed as error:
            head += _more(source, head, error)
        _check_preamble(source, [pickle.value for pickle in found])
    keys = found[4].value
    if type(keys) is not list or any(type(key) is not str for key in keys) or len(set(keys)) < len(keys):
        raise CorruptFile(f"the list of storages in {source.name} is not a list of different strings", DAMAGED)
    return found[3], keys, found[4].end


def _more(source: Source, head: bytes, error: Malformed) -> bytes:
    """As many bytes again, or what the pickle is known to need, if it may go on in them."""
    if error.needs is None or error.needs > source.size:
        raise CorruptFile(f"{source.name} is not a sound pickle ({error})", DAMAGED) from error
    if error.needs > MAX_PICKLE:
        raise UnsupportedFile(f"{source.name} has a pickle of more than {MAX_PICKLE:,} bytes", "is it the right file?")
    return source.read(len(head), min(max(2 * len(head), error.needs), source.size))


def _check_preamble(source: Source, values: list[Value]) -> None:
    if len(values) > 1 and values[1] != PROTOCOL:
        raise UnsupportedFile(f"{source.name} is in another protocol of torch.save than {PROTOCOL}", RESAVE)
    if len(values) > 2 and entries(source, values[2]).get("little_endian") is not True:
        raise UnsupportedFile(f"{source.name} was not saved in little-endian byte order", RESAVE)


def _places(source: Source, saved: Pickle, keys: list[str], end: int) -> dict[str, Place]:
    """Where each storage lies: one after the other, each after a count that a guard compares, up to the file's end.

    Torch enlarges a storage that a tensor reaches beyond, and finds the others further on; here bytes are left over.
    """
    declared = declared_storages(source, saved.persistent)
    places = {}
    for key in keys:
        if key not in declared:
            raise UnsupportedFile(f"storage {printable(key[:40])} in {source.name} is of an unknown type", RESAVE)
        storage = declared[key]
        check = partial(_check_count, source, storage)
        places[key] = Place(end + 8, storage.size, Guard(end, end + 8, check))
        end += 8 + storage.size
    if end != source.size:
        raise CorruptFile(
            f"{source.name} should have {end:,} bytes by its list of storages, it has {source.size:,}", DAMAGED
        )
    return places


def _check_count(source: Source, storage: TypedStorage, count: bytes) -> None:
    if int.from_bytes(count, "little", signed=True) * storage.item != storage.size:
        raise CorruptFile(
            f"storage {printable(storage.key[:40])} of {source.name} is not where the sizes before it put it", DAMAGED
        )
