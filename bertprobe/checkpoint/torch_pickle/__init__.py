"""What `torch.save` writes, as byte ranges: a zip of a pickle and raw storages, or, before 2020, pickles in sequence.

Source: torch/serialization.py (`_save`, `_legacy_save`), torch/_utils.py (the `_rebuild_*` functions) and PKWARE's
APPNOTE.TXT for the zip. Torch is not needed and nothing in a file is ever called: `machine` writes down what the pickle
asks for, and only calls of the few functions that `rebuild` lists are understood.

A file that readers would read differently is refused: the values shown are those that `torch.load` gives, or none. What
torch refuses and no value depends on may pass: a fault in what no tensor needs, instructions and names that torch does
not allow (they stay inert notes), calls that lack arguments for gradients, and one tensor that cannot be read among
others that can.
"""

from __future__ import annotations

from bertprobe.checkpoint.reader import Reader
from bertprobe.checkpoint.source import Source
from bertprobe.checkpoint.tensors import Index
from bertprobe.checkpoint.torch_pickle.hints import RESAVE
from bertprobe.checkpoint.zipped import EMPTY, START, first_name
from bertprobe.errors import UnsupportedFile

HEAD = 64 * 1024  # a 12-layer BERT's pickle has 15 to 30 kB
ZIP_STARTS = (START, EMPTY)
NOT_TORCH = b"metadata.json"  # the first member of a zip of Keras
TAR_STARTS = (b"sys_info\0", b"pickle\0", b"storages\0", b"tensors\0")  # PyTorch 0.1.9 and older
PICKLE_STARTS = (b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5")


def recognises(head: bytes) -> bool:
    """Whether the first bytes of a file start a zip, a pickle of protocol 2 to 5, or PyTorch's first tar format.

    A zip that begins with an array of numpy, or as Keras begins it, is left to the format of those.
    """
    others = first_name(head).endswith((b".npy", NOT_TORCH))
    return head.startswith(ZIP_STARTS + TAR_STARTS + PICKLE_STARTS) and not others


def index(source: Source) -> Index:
    """The headers of every tensor in the file, in its order; raises `CorruptFile` or `UnsupportedFile`."""
    head = source.read(0, min(HEAD, source.size))
    # Imported here, as every run imports this module, also for files of another format.
    if head.startswith(ZIP_STARTS):
        from bertprobe.checkpoint.torch_pickle.archive import contents
    elif _is_tar(head):
        raise UnsupportedFile(f"{source.name} is in the tar format of PyTorch 0.1", RESAVE)
    else:
        from bertprobe.checkpoint.torch_pickle.legacy import contents
    from bertprobe.checkpoint.torch_pickle.state_dict import tensors

    return tensors(source, *contents(source, head))


def _is_tar(head: bytes) -> bool:
    """Whether torch would take a file for a tar: by the checksum of its first block, whatever that starts with."""
    checksum = head[148:156]
    digits = not checksum.partition(b"\0")[0].strip(b"01234567 +-_oO\t\n\v\f\r")
    if not digits and checksum[:1] not in (b"\x80", b"\xff"):  # the start of a number in bytes
        return False
    import tarfile

    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


READER = Reader(recognises, index)
