"""What `numpy.savez` and `numpy.save` write: a zip of `.npy` members, and single `.npy` files, one a tensor.

Sources: numpy/lib/format.py (the header of an array) and PKWARE's APPNOTE.TXT. Nothing is unpickled: an array of Python
objects is listed and refused.
"""

from __future__ import annotations

from bertprobe.checkpoint.numpy_archive.folder import choose, choose_named
from bertprobe.checkpoint.reader import Reader
from bertprobe.checkpoint.source import Source
from bertprobe.checkpoint.tensors import Index
from bertprobe.checkpoint.zipped import first_name

MAGIC = b"\x93NUMPY"


def recognises(head: bytes) -> bool:
    """Whether the first bytes of a file start a zip whose first member is an array of numpy."""
    return first_name(head).endswith(b".npy")


def recognises_array(head: bytes) -> bool:
    """Whether the first bytes of a file start one array of numpy."""
    return head.startswith(MAGIC)


def index(source: Source) -> Index:
    """The headers of every array in an archive, in its order; raises `CorruptFile` or `UnsupportedFile`."""
    # Imported here, as every run imports this module, also for files of another format.
    from bertprobe.checkpoint.numpy_archive.archive import contents

    return contents(source)


def index_array(source: Source) -> Index:
    """The header of the one array in a file, under the file's name; raises `CorruptFile` or `UnsupportedFile`."""
    from bertprobe.checkpoint.numpy_archive.archive import array_in

    return Index((array_in(source),))


ARCHIVE = Reader(recognises, index)
ARRAYS = Reader(recognises_array, index_array, choose, choose_named)
