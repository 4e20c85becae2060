"""The zip that Keras 3 makes of a model: its settings, and its weights, an HDF5 file that is stored as it is.

Source: keras/src/saving/saving_lib.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from bertprobe.checkpoint.source import Source
from bertprobe.checkpoint.zipped.directory import Member, read_directory, shown
from bertprobe.checkpoint.zipped.hints import DAMAGED, READERS_DISAGREE
from bertprobe.checkpoint.zipped.members import LOCKED, data_start
from bertprobe.errors import CorruptFile, UnsupportedFile

WEIGHTS = b"model.weights.h5"
CONFIG = b"config.json"
MOST_CONFIG = 50 * 2**20  # bytes


def weights_in(source: Source) -> tuple[int, int, bytes]:
    """Where the weights start and stop in a zip of Keras, and the text of its settings, empty where it has none.

    Raises `CorruptFile`, and `UnsupportedFile` for what is not stored as it is.
    """
    members = read_directory(source, source.read)
    if any(name.endswith(b"/data.pkl") for name in members):
        raise CorruptFile(f"{source.address} is a zip of Keras, and one of pickles as well", READERS_DISAGREE)
    if WEIGHTS not in members:
        raise UnsupportedFile(f"{source.address} is a zip of Keras without {WEIGHTS.decode()}", "save the model again")
    start, stop = _place(source, members, WEIGHTS)
    if CONFIG not in members or members[CONFIG].size > MOST_CONFIG:
        return start, stop, b""
    return start, stop, source.read(*_place(source, members, CONFIG))


def _place(source: Source, members: Mapping[bytes, Member], name: bytes) -> tuple[int, int]:
    member = members[name]
    if member.method or member.flags & LOCKED or member.folder:
        raise UnsupportedFile(
            f"{shown(source, name)} is packed or encrypted, which Keras never does", "unpack the file, and name the .h5"
        )
    start = data_start(source, member, source.read(member.first, member.earliest))
    if start + member.size > member.stop:
        raise CorruptFile(f"{shown(source, name)} runs into the one after it", DAMAGED)
    return start, start + member.size
