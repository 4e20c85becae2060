"""The file formats that checkpoints come in, a row each: how their files are called, and what reads them.

What is said of formats, in help, on completion and in errors, is made of these rows. The command line does so before
anything is opened, so nothing is imported here until a row's reader is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from bertprobe.checkpoint.reader import Reader


class Storage(NamedTuple):
    """A row of `STORAGES`: a file format. Where a folder has several, the row that stands first is read.

    `suffixes` are what names of its files end in, the usual one first; `file` is the name that a model's file has in
    its folder, and `shard_index` what is added to that name for a JSON index of its shards, both empty where there is
    no such thing. A file whose name is `exclusive` to the format is of it, though damaged. `called` is how a message
    asks for a file, {} standing for the suffixes; what ends as `instead_of` says is noted as not read where this was.
    `unread` says that transformers does not load it, where that is so.
    """

    name: str
    suffixes: tuple[str, ...]
    reader: Callable[[], Reader]
    file: str = ""
    shard_index: str = ""
    exclusive: bool = True
    called: str = "a {} file"
    instead_of: tuple[str, ...] = ()
    unread: str = ""


def _safetensors() -> Reader:
    from bertprobe.checkpoint.safetensors import READER

    return READER


def _torch_pickle() -> Reader:
    from bertprobe.checkpoint.torch_pickle import READER

    return READER


def _tensorflow() -> Reader:
    from bertprobe.checkpoint.tensorflow import READER

    return READER


def _gguf() -> Reader:
    from bertprobe.checkpoint.gguf import READER

    return READER


def _flax() -> Reader:
    from bertprobe.checkpoint.flax import READER

    return READER


def _hdf5() -> Reader:
    from bertprobe.checkpoint.hdf5 import READER

    return READER


def _onnx() -> Reader:
    from bertprobe.checkpoint.onnx import READER

    return READER


def _numpy_archive() -> Reader:
    from bertprobe.checkpoint.numpy_archive import ARCHIVE

    return ARCHIVE


def _numpy_arrays() -> Reader:
    from bertprobe.checkpoint.numpy_archive import ARRAYS

    return ARRAYS


STORAGES: tuple[Storage, ...] = (
    Storage(
        name="safetensors",
        suffixes=(".safetensors",),
        reader=_safetensors,
        file="model.safetensors",
        shard_index=".index.json",
        instead_of=(".bin", ".h5", ".msgpack", ".onnx", ".gguf"),
    ),
    Storage(
        name="PyTorch",
        suffixes=(".bin", ".pt", ".pth"),
        reader=_torch_pickle,
        file="pytorch_model.bin",
        shard_index=".index.json",
        exclusive=False,
        called="a {} that torch.save wrote",
    ),
    Storage(
        name="TensorFlow",
        suffixes=(".index",),
        reader=_tensorflow,
        file="bert_model.ckpt.index",
        called="a TensorFlow {}",
        unread="transformers 5 reads no TensorFlow checkpoints, and says that there is no model.safetensors",
    ),
    Storage(
        name="Flax",
        suffixes=(".msgpack", ".mpk"),
        reader=_flax,
        file="flax_model.msgpack",
        shard_index=".index.json",
        called="a Flax {}",
        unread="transformers 5 reads no Flax files, and says that there is no model.safetensors",
    ),
    Storage(
        name="HDF5",
        suffixes=(".h5", ".hdf5", ".keras"),
        reader=_hdf5,
        file="tf_model.h5",
        shard_index=".index.json",
        called="a {} file of Keras",
        unread="transformers 5 reads no HDF5 files any more, and says that there is no model.safetensors",
    ),
    Storage(
        name="ONNX",
        suffixes=(".onnx",),
        reader=_onnx,
        file="model.onnx",
        called="an {} model",
        unread="transformers 5 reads no ONNX models, and says that there is no model.safetensors",
    ),
    Storage(
        name="GGUF",
        suffixes=(".gguf",),
        reader=_gguf,
        unread="transformers 5 reads no BERT from a GGUF file, and says that there is no model.safetensors",
    ),
    Storage(
        name="NumPy",
        suffixes=(".npz",),
        reader=_numpy_archive,
        called="a numpy {}",
        unread="transformers reads no .npz, and says that there is no model.safetensors",
    ),
    Storage(
        name="NumPy folder",
        suffixes=(),
        reader=_numpy_arrays,
        called="a folder of .npy files",
        unread="transformers reads no .npy, and says that there is no model.safetensors",
    ),
)


class Unread(NamedTuple):
    """A format that is known and not read: what to call it, and what to do instead, empty for what is read."""

    what: str
    hint: str = ""


# By the ending of its files; a row of `STORAGES` goes before.
UNREAD_BY_SUFFIX = {
    ".ckpt": Unread(
        "a Lightning checkpoint, or one of TensorFlow before 1.0", "name the file itself, if torch wrote it"
    ),
    ".meta": Unread("the graph of a TensorFlow checkpoint alone"),
    ".ot": Unread("a rust-bert file"),
    ".mlmodel": Unread("a Core ML file"),
    ".tflite": Unread("a TensorFlow Lite file"),
}
# By its first bytes, under whatever name.
UNREAD_BY_START = {
    b"version https://git-lfs": Unread("a Git LFS pointer, not the file itself", "run: git lfs pull"),
    b"\x1f\x8b": Unread("a gzip archive", "unpack it first"),
    b"<": Unread("a web page or XML file", "it may be an error page saved under the file's name: fetch it again"),
    b"{": Unread("a JSON file", "name the folder or the weights file"),
}


def storage_called(name: str) -> Storage:
    """The row of a name."""
    return next(row for row in STORAGES if row.name == name)


def storage_of(file: str) -> Storage | None:
    """The row whose files are named so."""
    return next((row for row in STORAGES if file.endswith(row.suffixes)), None)


def shard_indexes() -> tuple[str, ...]:
    """What the names of indexes of shards end in."""
    return tuple(dict.fromkeys(row.shard_index for row in STORAGES if row.shard_index))


def endings() -> tuple[str, ...]:
    """What the names of all files end in that a checkpoint can be opened by."""
    return (*(suffix for row in STORAGES for suffix in row.suffixes), *shard_indexes())


def weights_files() -> tuple[str, ...]:
    """The names that weights in one file have where transformers reads them, the first that is there going before."""
    return tuple(row.file for row in STORAGES if row.file and not row.unread)


def usual_files() -> tuple[str, ...]:
    """The names that weights, or the index of their shards, usually have in a model's folder."""
    named = [row for row in STORAGES if row.file]
    return (*(row.file for row in named), *(row.file + row.shard_index for row in named if row.shard_index))


def asked_for() -> str:
    """The files that a message asks for: a .safetensors file, …"""
    return listed([row.called.format(listed(row.suffixes, "or")) for row in STORAGES], "or", ", ")


def only_these() -> str:
    """What to do about a file of another format."""
    return f"only {listed([row.name for row in STORAGES], 'and')} checkpoints are read"


def listed(words: Sequence[str], last: str, comma: str = " ") -> str:
    """Words as a sentence lists them; `comma` is what stands before the `last` word."""
    return f"{comma}{last} ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))
