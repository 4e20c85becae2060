"""GGUF, the file of llama.cpp: settings and tokenizer in key-value pairs, then where each tensor lies, then the data.

The file begins with what it is about (`header`). Plain numbers are read as they lie; blocks of a quantisation are made
numbers by the gguf package (`blocks`). What the pairs say of the model is put as a config.json would say it, and the
vocabulary as a vocab.txt (`settings`, `vocabulary`). Sources: docs/gguf.md of ggml; llama.cpp's gguf.cpp and converter.
"""

from __future__ import annotations

from bertprobe.checkpoint.reader import Reader
from bertprobe.checkpoint.source import Source
from bertprobe.checkpoint.tensors import Index

__all__ = ["READER", "index", "recognises"]


def recognises(head: bytes) -> bool:
    """Whether the first bytes of a file are the format's."""
    return head.startswith(b"GGUF")


def index(source: Source) -> Index:
    """The headers of every tensor in the file, and the settings that it carries; raises as `header.read` does."""
    # Imported here, as every run imports this module, also for files of another format.
    from bertprobe.checkpoint.gguf.indexing import index

    return index(source)


def what_is_left(source: Source) -> Index:
    """The same of a file that ends before its data do; what is not whole is refused."""
    from bertprobe.checkpoint.gguf.indexing import what_is_left

    return what_is_left(source)


READER = Reader(recognises, index, what_is_left=what_is_left)
