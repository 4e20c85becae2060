"""HDF5 files as Keras and transformers' TensorFlow classes wrote them, read by byte ranges and without libhdf5.

libhdf5 follows links out of a file and was not made for files that nobody trusts. What weights need of the format is
little: what a file consists of (`objects`, `groups`), what lies in a data set (`types`, `layout`) and how it is packed
(`chunks`, `filters`); all else is refused by name. Keras 3 puts such a file into a zip (`archive`). Source: the HDF5
File Format Specification, version 3.0.
"""

from __future__ import annotations

from bertprobe.checkpoint.folder import Folder
from bertprobe.checkpoint.hdf5.signature import recognises
from bertprobe.checkpoint.reader import Reader
from bertprobe.checkpoint.source import Source
from bertprobe.checkpoint.tensors import Index

__all__ = ["READER", "index", "recognises"]


def index(source: Source) -> Index:
    """The headers of every data set of a file, by path; raises `CorruptFile` or `UnsupportedFile`."""
    # Imported here, as every run imports this module, also for files of another format.
    from bertprobe.checkpoint.hdf5 import contents

    return contents.index(source)


def config_name(folder: Folder) -> str | None:
    """The file with the model's settings, None where the one that has its name is Keras's own."""
    from bertprobe.checkpoint.hdf5.settings import config_beside

    return config_beside(folder)


def listed(name: str) -> str:
    """What a shard calls a tensor that transformers' index of shards calls so: it has the model's name before it."""
    return name.partition("/")[2] or name


READER = Reader(recognises, index, config=config_name, listed=listed)
