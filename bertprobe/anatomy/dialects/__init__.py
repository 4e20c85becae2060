"""What other libraries call a tensor → what PyTorch's modules call it, with its axes as they have them.

Each spelling is a row of `DIALECTS`: `bert/encoder/layer_0/intermediate/dense/kernel` is Google's. A dialect's `turned`
matrices are (in, out), so their axes change places; no byte moves. Only names are looked at, so a file of another
format that kept such names is read alike. What a graph in the file tells of a tensor goes before (`Spelled`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bertprobe.anatomy.dialects.dialect import Dialect, Rules
from bertprobe.anatomy.dialects.flax import FLAX
from bertprobe.anatomy.dialects.gguf import GGUF
from bertprobe.anatomy.dialects.keras import KERAS
from bertprobe.anatomy.dialects.tensorflow import TENSORFLOW
from bertprobe.anatomy.layouts import OPTIMIZER
from bertprobe.checkpoint import Spelled, TensorHeader

__all__ = ["DIALECTS", "Dialect", "dialect_of", "to_pytorch"]

# The first whose sign is found counts.
DIALECTS: tuple[Dialect, ...] = (*FLAX, *KERAS, *TENSORFLOW, *GGUF)


def dialect_of(names: Iterable[str]) -> Dialect | None:
    """The row whose sign one of these names has, None where they are spelled as PyTorch does."""
    names = tuple(names)
    return next((row for row in DIALECTS if any(row.sign.search(name) for name in names)), None)


def to_pytorch(headers: Mapping[str, TensorHeader], spelled: Mapping[str, Spelled]) -> dict[str, TensorHeader]:
    """Headers by their PyTorch name and in that orientation, what training left aside; each keeps its stored name.

    `spelled` are the names that a graph in the file tells.
    """
    told = {known.name: _turned(headers[stored], known) for stored, known in spelled.items() if known.name}
    kept = {name: h for name, h in headers.items() if name not in spelled and not OPTIMIZER.search(name)}
    dialect = dialect_of(kept)
    if dialect is None:
        return {**told, **{name: header for name, header in kept.items() if name not in told}}
    rules = dialect.rules(kept)
    found = told
    for name, header in kept.items():
        if _is_weight(name, header, headers, dialect):
            path = _path(name, dialect, rules)
            *modules, leaf = path.rstrip("/").split("/")
            pytorch = ".".join([*modules, dialect.leaves.get(leaf, leaf)])
            header = _joined(header, path, dialect)
            turned = leaf in dialect.turned and len(header.shape) == 2
            # Of two that would have one name, the second keeps its own.
            found[name if pytorch in found else pytorch] = header.permuted((1, 0)) if turned else header
    return found


def _turned(header: TensorHeader, spelled: Spelled) -> TensorHeader:
    return header if spelled.axes is None else header.permuted(spelled.axes)


def _is_weight(name: str, header: TensorHeader, headers: Mapping[str, TensorHeader], dialect: Dialect) -> bool:
    """Neither a step nor a slot: BERT has no scalar weights, and no variable has a name below another's, but slots."""
    return (
        header.shape != ()
        and dialect.skipped.search(name) is None
        and name.rpartition(dialect.separator)[0] not in headers
    )


def _path(name: str, dialect: Dialect, rules: Rules) -> str:
    """The path that the rules make of a name, which ends in "/"."""
    for ending in dialect.endings:
        name = name.removesuffix(ending)
    path = name.replace(dialect.separator, "/") + "/"
    for pattern, instead in rules:
        path = pattern.sub(instead, path)
    return path


def _joined(header: TensorHeader, path: str, dialect: Dialect) -> TensorHeader:
    for join in dialect.joins:
        if len(header.shape) == join.axes and join.path.search(path):
            first, shape = join.first, header.shape
            header = header.reshaped((*shape[:first], shape[first] * shape[first + 1], *shape[first + 2 :]))
    return header
