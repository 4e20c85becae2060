"""The whole activations of a few texts to a file: a matrix (tokens, neurons) a layer, and the tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bertprobe._version import __version__
from bertprobe.errors import OutputError, printable
from bertprobe.export.files import Output, atomic_write, check_place
from bertprobe.export.tensors import check_name, safetensors_header, utf8_notes

_DTYPES = {"float32": "F32", "float64": "F64", "int64": "I64"}

if TYPE_CHECKING:
    from bertprobe.run.collect import Matrices
    from bertprobe.run.runner import Ran


def write_matrices(ran: Ran, matrices: Matrices, path: Path, force: bool) -> None:
    """Writes what was kept, texts in the order of the input: a matrix (rows, I) a part, and `lengths` (N,).

    The tokens stand in the metadata, under `tokens`, as a JSON list for each text. Where a part has other rows than
    tokens, its own lengths stand beside it, as `LABEL.lengths`.
    """
    notes = {
        "source": ran.checkpoint.ref,
        "values": "before the activation" if matrices.before else "after the activation",
        "tokens": json.dumps(matrices.tokens),
        **({} if ran.ablation is None else ran.ablation.metadata),
    }
    write_arrays(_arrays(matrices), notes, checked(path, force))


def checked(path: Path, force: bool) -> Output:
    """A file of arrays to be written; raises `OutputError` where its name says no format, or there is no place."""
    if path.suffix not in _WRITERS:
        raise OutputError(f"{printable(str(path))} does not say a format", "let its name end in .safetensors or .npz")
    output = Output(path, force=force)
    check_place(output)
    return output


def write_arrays(arrays: Mapping[str, Any], notes: Mapping[str, str], output: Output) -> None:
    """Writes arrays by name, and notes as the file's metadata."""
    suffix = output.path.suffix
    for name in arrays:
        check_name(name, suffix)
    metadata = utf8_notes({"format": "pt", "bertprobe_version": __version__, **notes})
    with atomic_write(output) as file:
        _WRITERS[suffix](file, arrays, metadata)


def _npz(file: IO[bytes], arrays: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    import numpy as np

    np.savez(file, **arrays, __metadata__=np.array(json.dumps(metadata)))


def _safetensors(file: IO[bytes], arrays: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    """Wide numbers first, as the format has it, so that every matrix is aligned."""
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    rows = [(name, _DTYPES[arrays[name].dtype.name], arrays[name].shape, arrays[name].nbytes) for name in names]
    file.write(safetensors_header(rows, metadata)[0])
    for name in names:
        file.write(memoryview(arrays[name]).cast("B") if arrays[name].nbytes else b"")


_WRITERS = {".safetensors": _safetensors, ".npz": _npz}


def _arrays(matrices: Matrices) -> dict[str, Any]:
    import numpy as np

    lengths = [len(text) for text in matrices.tokens]
    found: dict[str, Any] = {"lengths": np.array(lengths)}
    for site, texts in matrices.kept.items():
        found[site.label] = np.ascontiguousarray(np.concatenate(texts))
        rows = [len(text) for text in texts]
        if rows != lengths:
            found[f"{site.label}.lengths"] = np.array(rows)
    return found
