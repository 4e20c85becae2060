"""What the shell offers after TAB: models, layers, tables. Looks at names on this disk; nothing heavy, no network."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bertprobe.builtin import POCKET
from bertprobe.cli.model import resolve_model
from bertprobe.errors import BertprobeError
from bertprobe.filenames import CONFIGS, MODULES
from bertprobe.storages import endings

# A name with other characters would have to be quoted for the shell: left to its own completion of files.
_PLAIN = re.compile(r"[\w.+@-]+", re.ASCII)
MOST_ENTRIES = 10_000  # of a folder: who waits after TAB should not wait for a listing

TABLES = ("intermediate", "pooler", "spectrum", "neurons", "tensors", "findings")


def models(incomplete: str) -> list[str]:
    """The built-in model, those in the Hub's cache, and checkpoints in this folder.

    Nothing where a path was begun: the shell then completes files by itself.
    """
    if incomplete.startswith((".", "/", "~")):
        return []
    return [name for name in (POCKET, *_cached(), *_here()) if name.startswith(incomplete)]


def _cached() -> Iterator[str]:
    """Models of the Hub's cache that have files; their folders are called models--owner--name."""
    for folder in _entries(_hub_cache()):
        kind, _, name = folder.name.partition("--")
        names = name.split("--")
        if kind == "models" and all(map(_PLAIN.fullmatch, names)) and any(_entries(folder / "snapshots")):
            yield "/".join(names)


def _hub_cache() -> Path:
    """Where huggingface_hub keeps its files; asking itself would mean to import it."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if found := os.environ.get(name):
            return Path(found).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{cache}/huggingface"
    return Path(os.path.expandvars(home)).expanduser() / "hub"


def _here() -> Iterator[str]:
    """Weights files of this folder, and folders in it with a checkpoint."""
    weights = endings()
    checkpoint = (*CONFIGS, MODULES, *weights)
    for entry in _entries(Path()):
        if not _PLAIN.fullmatch(entry.name) or entry.name.startswith((".", "-")):
            continue
        if entry.name.endswith(weights) or any(inner.name.endswith(checkpoint) for inner in _entries(entry)):
            yield entry.name


def _entries(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as found:
            for _, entry in zip(range(MOST_ENTRIES), found, strict=False):
                yield folder / entry.name
    except OSError:
        return  # not a folder, or not ours to see


def layers(ctx: Any, incomplete: str) -> list[str]:
    """The layers of the model on the line, behind what is typed of the list; none of a model elsewhere."""
    begun = re.match(r"(?:.*,)?(?:-?\d+-)?", incomplete)
    head = begun[0] if begun else ""
    try:
        numbers = _layers_of(ctx)
    except (BertprobeError, OSError):
        return []
    last = [] if head.endswith("-") or not numbers else ["-1"]
    return [f"{head}{number}" for number in (*numbers, *last) if f"{head}{number}".startswith(incomplete)]


def _layers_of(ctx: Any) -> tuple[int, ...]:
    from bertprobe.anatomy import find_parts
    from bertprobe.checkpoint import open_checkpoint

    name = resolve_model(_model_on_the_line(ctx))
    if name != POCKET and not Path(name).exists():
        return ()
    subfolder, weights, root = (str(ctx.params.get(key) or "") for key in ("subfolder", "weights", "root"))
    return find_parts(open_checkpoint(name, subfolder=subfolder, weights=weights, root=root)).layers


def _model_on_the_line(ctx: Any) -> str | None:
    """An option that still lacks its value ends the parsing before arguments have names: they lie in `args`."""
    found: str | None = ctx.params.get("model")
    is_argument = any(param.name == "model" and param.param_type_name == "argument" for param in ctx.command.params)
    return ctx.args[0] if found is None and is_argument and ctx.args else found


def tables(incomplete: str) -> list[str]:
    """The tables of `inspect`."""
    return [name for name in TABLES if name.startswith(incomplete)]
