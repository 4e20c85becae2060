"""Which `.npy` files are a model's: those of a folder whose names are tensors', told by names alone."""

from __future__ import annotations

import re

from bertprobe.checkpoint.folder import Folder
from bertprobe.checkpoint.reader import Choice, usual_config
from bertprobe.errors import UnsupportedFile, printable

SUFFIX = ".npy"
MOST_FILES = 10_000
LEAST_FILES = 2  # beside a config; one alone is a table of somebody's
_TENSOR = re.compile(r"\.(?:weight|bias|gamma|beta|kernel|scale|embedding)\.npy$")


def choose(folder: Folder) -> Choice | None:
    """Every `.npy` file of a folder, one a tensor, where names or a config beside them say so; else None."""
    files = sorted(name for name in folder.names if name.endswith(SUFFIX) and name != SUFFIX)
    named = any(_TENSOR.search(name) for name in files)
    if not named and (len(files) < LEAST_FILES or usual_config(folder) is None):
        return None
    if len(files) > MOST_FILES:
        raise UnsupportedFile(
            f"{folder.address} holds {len(files):,} {SUFFIX} files", f"no model has over {MOST_FILES:,} tensors"
        )
    return Choice(tuple(files))


def choose_named(folder: Folder, name: str) -> Choice | None:
    """Nothing: raises `UnsupportedFile` for a single `.npy` file, which is one array and no model."""
    if name.endswith(SUFFIX) and folder.is_file(name):
        hint = "name its folder" if choose(folder) is not None else "a folder of them, one a tensor, is read as a model"
        raise UnsupportedFile(f"{folder.at(printable(name))} is a single array of numpy, not a model", hint)
    return None
