"""Which file of a folder is meant, told by names alone: `model.onnx`, or that of the folder `onnx/` below."""

from __future__ import annotations

import re
from collections.abc import Set

from bertprobe.checkpoint.folder import Folder
from bertprobe.checkpoint.reader import Choice
from bertprobe.errors import NotFound, printable, shortened

SUFFIX = ".onnx"
USUAL = "model.onnx"
FOLDER = "onnx"  # where transformers.js and sentence-transformers keep their files
ABOVE = frozenset({FOLDER})

_DATA = re.compile(r"[._-]data(?:[_.-]?\d+)?")


def choose(folder: Folder) -> Choice | None:
    """The model of a folder, or of `onnx/` in it; None where there is none.

    Raises `NotFound` for several models of which none has the usual name.
    """
    found = _models(folder)
    if found:
        return Choice((_one_of(folder, found),), notes=_beside(found))
    if not folder.is_folder(FOLDER):
        return None
    inner = folder.below(FOLDER)
    found = _models(inner)
    if not found:
        return None
    name = _one_of(inner, found)
    return Choice((name,), FOLDER, notes=(f"the weights lie in {FOLDER}/, as transformers.js has it", *_beside(found)))


def data_files(name: str, names: Set[str]) -> tuple[str, ...]:
    """The files among some names that hold a model's data, as the usual tools call them: `model.onnx_data`."""
    stem = name.removesuffix(SUFFIX)
    ends = [(other, other[len(start) :]) for start in (name, stem) for other in names if other.startswith(start)]
    return tuple(sorted({other for other, end in ends if _DATA.fullmatch(end)}))


def _models(folder: Folder) -> list[str]:
    return sorted(name for name in folder.names if name.endswith(SUFFIX) and folder.is_file(name))


def _one_of(folder: Folder, found: list[str]) -> str:
    if len(found) > 1 and USUAL not in found:
        raise NotFound(
            f"{folder.address} holds several ONNX models ({printable(shortened(found))})",
            "name the one you mean: `weights=`",
        )
    return USUAL if USUAL in found else found[0]


def _beside(found: list[str]) -> tuple[str, ...]:
    """A note on the others where there are several."""
    others = [name for name in found if name != USUAL]
    return (f"{USUAL} is read, not {printable(shortened(others))} beside it",) if len(found) > 1 else ()
