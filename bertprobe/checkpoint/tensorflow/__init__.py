"""TensorFlow's checkpoints, `NAME.index` with `NAME.data-00000-of-0000N` beside it: raw tensors, found by an index.

The index is a LevelDB table (`table`) of small protobuf messages (`wire`) that say where each tensor lies (`bundle`).
Which index is meant by a folder, a prefix or the text file `checkpoint` is told by names alone (`naming`).
Sources: tensor_bundle.proto and lib/io/table of TensorFlow, LevelDB's table_format.md.
"""

from __future__ import annotations

from bertprobe.checkpoint.reader import Reader
from bertprobe.checkpoint.source import Source
from bertprobe.checkpoint.tensorflow.naming import choose, choose_named, config_name, shards_of
from bertprobe.checkpoint.tensorflow.table import recognises
from bertprobe.checkpoint.tensors import Index

__all__ = ["READER", "index", "recognises"]


def index(source: Source) -> Index:
    """The headers of every tensor of a bundle, and the data shards they lie in; raises as `bundle.index` does."""
    # Imported here, as every run imports this module, also for files of another format.
    from bertprobe.checkpoint.tensorflow import bundle

    return bundle.index(source)


READER = Reader(recognises, index, choose, choose_named, config_name, shards_of)
