"""How much the tensors of a file may come to, all together: what each may is not enough where there are thousands.

Tensors may share bytes, as tied weights do, and be made of packed ones, or of none. Names that lead to one tensor,
chunks that were never written and packed zeros cost a file a few bytes each, and whoever reads them their full size.
"""

from __future__ import annotations

from dataclasses import replace

from bertprobe.checkpoint.source import Source
from bertprobe.checkpoint.tensors import MOST_RATIO, MOST_UNPACKED, Index, TensorHeader


def bounded(file: Source, index: Index) -> Index:
    """The index with those tensors refused that come after as many bytes as can be of a file of this size."""
    most = max(MOST_UNPACKED, MOST_RATIO * (file.size + sum(other.size for other in index.others)))
    headers = _bounded(index.headers, most)
    models = {name: _bounded(model, most) for name, model in index.models.items()}
    same = headers is index.headers and all(models[name] is model for name, model in index.models.items())
    return index if same else replace(index, headers=headers, models=models)


def _bounded(headers: tuple[TensorHeader, ...], most: int) -> tuple[TensorHeader, ...]:
    if sum(_counted(header, most) for header in headers) <= most:
        return headers
    found, total = [], 0
    for header in headers:
        size = _counted(header, most)
        total += size
        refusal = f"with those before it, it comes to {total:,} bytes, and the file is far too small for as many"
        found.append(replace(header, refusal=refusal) if size and total > most else header)
    return tuple(found)


def _counted(header: TensorHeader, most: int) -> int:
    """The bytes that are read of a tensor: none of one that is refused, or will be for its own size."""
    return 0 if header.refusal is not None or header.nbytes > most else header.nbytes
