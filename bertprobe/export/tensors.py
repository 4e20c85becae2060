"""Tensors of a checkpoint to a file, piece by piece so that memory follows the largest tensor."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bertprobe._version import __version__
from bertprobe.anatomy import Anatomy, Part
from bertprobe.checkpoint import DTYPES, Checkpoint, LocalFile, Source, TensorHeader, check_readable, read_tensors
from bertprobe.checkpoint.tensors import numpy_dtype
from bertprobe.errors import OutputError, PartMissing, UnsupportedFile, escaped, is_text, printable, quoted
from bertprobe.export.files import Output, atomic_write, check_place, write_carried
from bertprobe.fingerprint import of_tensors
from bertprobe.storages import weights_files

MOST_HASHED = 20 * 10**9  # bytes of a weights file: some half a minute
FINGERPRINT = "fingerprint"
UNKNOWN = "0" * 64  # as long as a fingerprint, in a header that is written before the data
METADATA = "__metadata__"  # safetensors' name for the notes in a header
CASTS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@dataclass(frozen=True, slots=True)
class WrittenTensor:
    """A tensor as it stands in the written file, and what it was."""

    name: str
    stored_name: str
    dtype: str
    stored_dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Written:
    """A file that was written: where, how large, with which tensors and which metadata.

    `beside` are small files that were put beside it.
    """

    path: str
    bytes: int
    tensors: tuple[WrittenTensor, ...]
    metadata: Mapping[str, str]
    beside: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """One tensor on its way: the name and dtype it gets, and the header it comes from.

    `canonical` is the name that `anatomy` knows it by, None where it is written in another orientation than that.
    """

    name: str
    dtype: str
    header: TensorHeader
    canonical: str | None

    @property
    def nbytes(self) -> int:
        return DTYPES[self.dtype].nbytes(self.header.count)


OnTensor = Callable[[str, Any], None]
"""Called with a tensor's canonical name and its values as they were read, before they are cast."""


def export(
    checkpoint: Checkpoint,
    anatomy: Anatomy,
    parts: Sequence[Part] | None,
    output: Output,
    on_tensor: OnTensor = lambda name, array: None,
) -> Written:
    """Writes the tensors of the parts, or of the whole model where `parts` is None, to a safetensors or npz file.

    A whole model under the name that transformers looks for gets the small files beside it that its own file carries.
    `on_tensor` is shown each tensor as it is read, so that nobody has to read it a second time.

    Raises:
        PartMissing: there is nothing to write.
        UnsupportedFile: a tensor cannot be read, or the format cannot hold its dtype.
        OutputError: the file cannot be written there, or a cast would turn a number into infinity.
    """
    writer = _writer(output.path)
    check_place(output)
    items = _items(checkpoint, anatomy, parts, output)
    for item in items:
        check_readable(item.header)
        check_name(item.name, output.path.suffix)
    if output.path.suffix == ".npz":
        _check_dtypes(items)
    metadata = _metadata(checkpoint, anatomy, parts, items)
    with atomic_write(output) as file:
        writer(file, items, _with_fingerprint(item_arrays(items, on_tensor), anatomy, metadata), metadata)
        file.flush()
        size = file.tell()
    tensors = tuple(WrittenTensor(i.name, i.header.name, i.dtype, i.header.stored_as, i.header.shape) for i in items)
    beside = (
        write_carried(checkpoint, output.path.parent, anatomy.family) if parts is None and _is_loaded(output) else ()
    )
    return Written(str(output.path), size, tensors, metadata, beside)


def _is_loaded(output: Output) -> bool:
    """Whether transformers finds a model by that name, and its tensors by theirs."""
    return output.path.name == weights_files()[0] and output.names == "canonical"


def _items(checkpoint: Checkpoint, anatomy: Anatomy, parts: Sequence[Part] | None, output: Output) -> list[Item]:
    """What is to be written, a fused matrix whole, sorted as safetensors sorts: wide dtypes first, then by name.

    Under its stored name a tensor is written as it is stored, a TensorFlow kernel (in, out).
    """
    if parts is None:
        chosen = dict(anatomy.tensors)
    else:
        wanted = {header.name for part in parts for header in part.tensors.values()}
        chosen = {name: header for name, header in anatomy.tensors.items() if header.name in wanted}
    if not chosen:
        raise PartMissing("there is nothing to write", "choose another part")
    items = {}
    for name, header in chosen.items():
        stored = checkpoint.headers.get(header.name, header) if output.names == "stored" else header
        target = stored.name if output.names == "stored" else name
        items[target] = Item(target, _target(stored, output.dtype), stored, name if stored is header else None)
    return sorted(items.values(), key=lambda item: (-DTYPES[item.dtype].bits if item.dtype in DTYPES else 0, item.name))


def _target(header: TensorHeader, dtype: str) -> str:
    is_float = header.dtype in DTYPES and DTYPES[header.dtype].is_float
    return CASTS[dtype] if dtype != "keep" and is_float else header.dtype


def check_name(name: str, suffix: str) -> None:
    """Raises `UnsupportedFile` for a tensor's name that a file cannot carry, or that means something else in it."""
    if name == METADATA:
        fault = f"a tensor is called {METADATA}, which is where a file keeps its notes"
        hint = "choose other parts"
    elif not is_text(name):
        fault = f"the name {quoted(name)} of a tensor holds half of a surrogate pair, which is no character"
        hint = "choose other parts"
    elif suffix == ".npz" and any(char in name for char in "/\\\0"):  # it would lead out of the archive, or be cut
        fault = f"the tensor {quoted(name)} cannot be a member of .npz by that name"
        hint = "write .safetensors, or add `names=canonical`"
    else:
        return
    raise UnsupportedFile(fault, hint)


def _check_dtypes(items: Sequence[Item]) -> None:
    """What .npz cannot hold."""
    for item in items:
        if item.dtype == "BF16" or item.dtype.startswith("F8"):
            raise UnsupportedFile(
                f"{printable(item.name)} is {item.dtype}, which .npz cannot hold",
                "write .safetensors, or choose `dtype=float32`",
            )


# ------------------------------------------------------------------------------------------------ metadata


def _metadata(
    checkpoint: Checkpoint, anatomy: Anatomy, parts: Sequence[Part] | None, items: Sequence[Item]
) -> dict[str, str]:
    """Where the tensors come from and what is needed to use them; strings all, as safetensors has it."""
    from bertprobe.stats.sums import is_real

    hidden, inner = anatomy.widths
    acts = {part.activation for part in anatomy.of("intermediate", "gate") if part.activation}
    found = {
        "format": "pt",  # transformers refuses safetensors files without it
        "bertprobe_version": __version__,
        "source": checkpoint.ref,
        "source_files": json.dumps(provenance(checkpoint, items)),
        "source_revision": checkpoint.revision,
        "family": anatomy.family,
        "parts": " ".join(["model"] if parts is None else [part.label for part in parts]),
        "hidden_size": None if hidden is None else str(hidden),
        "intermediate_size": None if inner is None else str(inner),
        "hidden_act": next(iter(sorted(acts)), anatomy.config_spec.activation),
    }
    if all(is_real(numpy_dtype(item.dtype)) for item in items):  # others have no fingerprint
        found[FINGERPRINT] = UNKNOWN
    return utf8_notes({key: value for key, value in found.items() if value is not None})


def _with_fingerprint(arrays: Arrays, anatomy: Anatomy, metadata: dict[str, str]) -> Arrays:
    """The arrays as they are; once all have passed, the metadata has the fingerprint of what they hold.

    It is that of the tensors as they are written, by canonical name, whatever the file calls them.
    """
    from bertprobe.stats.fingerprint import fingerprint

    if FINGERPRINT not in metadata:
        yield from arrays
        return
    known = {header.name: (name, header.axes) for name, header in anatomy.tensors.items()}
    found = {}
    for item, array in arrays:
        name, axes = known[item.header.name]
        values = array.view(numpy_dtype(item.dtype)).reshape(item.header.shape)
        turned = item.canonical is None and axes is not None
        found[name] = fingerprint(values.transpose(axes) if turned else values)
        yield item, array
    metadata[FINGERPRINT] = of_tensors(found)


def utf8_notes(found: Mapping[str, str]) -> dict[str, str]:
    """Notes as a file can carry them: a path that is not UTF-8 has its odd bytes written out."""
    return {key: value if is_text(value) else escaped(value) for key, value in found.items()}


def provenance(checkpoint: Checkpoint, items: Sequence[Item]) -> dict[str, str]:
    """The sha256 of each file a tensor comes from; a Hub commit says as much without reading 440 MB.

    Of a file larger than `MOST_HASHED`, which would be read for minutes, its size: a sparse one costs nobody a disk.
    """
    used = {piece.source.name for item in items for piece in item.header.all_pieces}
    return digests(checkpoint, [file for file in checkpoint.files if file.name in used])


def digests(checkpoint: Checkpoint, files: Sequence[Source]) -> dict[str, str]:
    """The same of files of a checkpoint."""
    if checkpoint.revision is not None:
        return {file.name: f"commit {checkpoint.revision}" for file in files}
    return {file.name: _digest(file) for file in files if isinstance(file, LocalFile)}


def _digest(source: LocalFile) -> str:
    if source.size > MOST_HASHED:
        return f"{source.size} bytes, not hashed"
    try:
        with open(source.path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UnsupportedFile(f"{source.path} cannot be read ({error.strerror})", "check its permissions") from error
    source.check_unchanged()
    return f"sha256 {digest}"


# ------------------------------------------------------------------------------------------------ formats


Arrays = Iterator[tuple[Item, Any]]


def _writer(path: Path) -> Callable[[IO[bytes], Sequence[Item], Arrays, Mapping[str, str]], None]:
    writers = {".safetensors": write_safetensors, ".npz": _write_npz}
    if path.suffix not in writers:
        raise OutputError(
            f"{printable(str(path))} does not say a format", f"let its name end in {' or '.join(writers)}"
        )
    return writers[path.suffix]


def safetensors_header(
    tensors: Iterable[tuple[str, str, Sequence[int], int]], metadata: Mapping[str, str]
) -> tuple[bytes, list[int]]:
    """The eight bytes and the header of a file with tensors of a name, dtype, shape and size in bytes each.

    Their data follow in this order; gives where in the file each begins, and last where the file ends.
    """
    header: dict[str, Any] = {METADATA: dict(metadata)}
    starts = [0]
    for name, dtype, shape, size in tensors:
        starts.append(starts[-1] + size)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": starts[-2:]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, [8 + len(text) + start for start in starts]


def write_safetensors(file: IO[bytes], items: Sequence[Item], arrays: Arrays, metadata: Mapping[str, str]) -> None:
    """The format's eight bytes, header and data; each tensor goes to its place as it is read, in the source's order."""
    header, starts = safetensors_header(((i.name, i.dtype, i.header.shape, i.nbytes) for i in items), metadata)
    file.write(header)
    places = {item.name: start for item, start in zip(items, starts, strict=False)}
    for item, array in arrays:
        file.seek(places[item.name])
        file.write(memoryview(array).cast("B") if array.nbytes else b"")
    # Once more: what the metadata tell of the data is known only now; it is as long as what stood there.
    file.seek(0)
    file.write(safetensors_header(((i.name, i.dtype, i.header.shape, i.nbytes) for i in items), metadata)[0])
    file.seek(starts[-1])


def _write_npz(file: IO[bytes], items: Sequence[Item], arrays: Arrays, metadata: Mapping[str, str]) -> None:
    """One .npy member a tensor, stored uncompressed as `numpy.savez` does, and the metadata as a JSON string."""
    import zipfile

    import numpy as np

    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for item, array in arrays:
            with archive.open(f"{item.name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array.view(numpy_dtype(item.dtype)).reshape(item.header.shape))
        with archive.open(f"{METADATA}.npy", "w") as member:
            np.lib.format.write_array(member, np.array(json.dumps(dict(metadata))))
    file.seek(0, os.SEEK_END)


def item_arrays(items: Sequence[Item], on_tensor: OnTensor) -> Arrays:
    """Each item with its bytes, row after row in its target dtype, as a flat array of them."""
    import numpy as np

    by_name = {item.name: item for item in items}
    for name, array in read_tensors({item.name: item.header for item in items}):
        item = by_name[name]
        if item.canonical is not None:
            on_tensor(item.canonical, array)
        if item.dtype != item.header.dtype:
            array = _cast(item, array)
        yield item, np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _cast(item: Item, array: Any) -> Any:
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):
        narrow = array.astype(numpy_dtype(item.dtype))
    infinite = np.isinf(narrow)
    lost = int((infinite & ~np.isinf(array)).sum()) if infinite.any() else 0
    if lost:
        raise OutputError(
            f"{lost:,} entries of {printable(item.name)} do not fit into {item.dtype}: they would be infinite",
            "choose bfloat16, float32 or keep",
        )
    return narrow
