"""What a format's module does for its row of `STORAGES`: tell a file, choose among names, read an index."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field

from bertprobe.checkpoint.folder import Folder
from bertprobe.checkpoint.source import Source
from bertprobe.checkpoint.tensors import Index
from bertprobe.filenames import CONFIGS


@dataclass(frozen=True, slots=True)
class Choice:
    """Weights files by name, in a folder below the one that was looked at or in that, and what was decided.

    `weight_map` is that of an index of shards: which file holds which tensor.
    """

    files: tuple[str, ...]
    folder: str = ""
    weight_map: Mapping[str, str] | None = None
    notes: tuple[str, ...] = field(default=())


def usual_config(folder: Folder) -> str | None:
    """The file with the model's settings under one of its usual names."""
    return next((name for name in CONFIGS if folder.is_file(name)), None)


@dataclass(frozen=True, slots=True)
class Reader:
    """A format: `recognises` its files by their first bytes, and reads the headers of an `index`.

    The rest is for formats that have rules of their own. `choose` tells which files of a folder are meant, and `named`
    which by a name in it, also by one that no file has; both give None where there is nothing of theirs. Without them a
    folder is looked through for the row's file, its index of shards, or the one file or set of shards with its suffix.
    `what_is_left` reads the headers of a file that ends too early, which `index` refuses.
    `config` tells the file with the model's settings; `others` names the files that hold the data of a file, of all
    names beside it; `listed` tells what a shard calls a tensor, by the name that the index of shards has for it;
    `above` are what folders are called that hold weights alone: their settings lie one folder up.
    """

    recognises: Callable[[bytes], bool]
    index: Callable[[Source], Index]
    choose: Callable[[Folder], Choice | None] | None = None
    named: Callable[[Folder, str], Choice | None] | None = None
    config: Callable[[Folder], str | None] = usual_config
    others: Callable[[str, Set[str]], tuple[str, ...]] | None = None
    what_is_left: Callable[[Source], Index] | None = None
    above: Set[str] = frozenset()
    listed: Callable[[str], str] = str
