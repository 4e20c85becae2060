"""A folder with a checkpoint in it, on this disk or elsewhere: its names, its small files, its large ones as sources.

Which files of a folder belong together is decided by `locate`, by the same rules wherever the folder is.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping, Set
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from bertprobe.checkpoint.source import LocalFile, Source
from bertprobe.errors import CorruptFile, NotFound, UnsupportedFile, printable

MAX_JSON = 50 * 2**20


class Folder(Protocol):
    """Where a checkpoint lies. A name is a file's in it, or leads into a folder below: `1_Pooling/config.json`."""

    @property
    def address(self) -> str:
        """The folder as it is shown to the user."""
        ...

    @property
    def resolved(self) -> str:
        """The folder under a name that leads there from anywhere."""
        ...

    @property
    def name(self) -> str:
        """Its own name: what a model was called by whoever put it there."""
        ...

    @property
    def names(self) -> Set[str]:
        """The names of the files and folders in it."""
        ...

    def at(self, name: str) -> str:
        """A file of it, as it is shown to the user."""
        ...

    def is_file(self, name: str) -> bool: ...

    def is_folder(self, name: str) -> bool: ...

    def below(self, name: str) -> Folder:
        """A folder in it."""
        ...

    def text(self, name: str) -> str:
        """A small file whole; raises `NotFound` or `UnsupportedFile`."""
        ...

    def source(self, name: str) -> Source: ...


def read_json(folder: Folder, name: str) -> Mapping[str, Any]:
    """The object in a settings file; raises `CorruptFile` for what is none."""
    try:
        found = json.loads(folder.text(name))
    except (ValueError, RecursionError) as error:
        reason = "too deeply nested" if isinstance(error, RecursionError) else printable(str(error).partition(";")[0])
        raise CorruptFile(f"{folder.at(name)} is not JSON ({reason})", "fetch it again, or mend it") from error
    if not isinstance(found, dict):
        raise CorruptFile(f"{folder.at(name)} is JSON, but not an object", "fetch it again, or mend it")
    return found


def check_small(address: str, size: int) -> None:
    """Raises `UnsupportedFile` for settings that are no settings."""
    if size > MAX_JSON:
        raise UnsupportedFile(f"{address} has {size:,} bytes, too many for settings", "is it the right file?")


class LocalFolder:
    """A folder on this disk. What cannot be looked at counts as absent."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def address(self) -> str:
        return str(self.path)

    @property
    def resolved(self) -> str:
        return str(self.path.resolve())

    @property
    def name(self) -> str:
        return self.path.name or self.path.resolve().name

    @cached_property
    def names(self) -> Set[str]:
        try:
            return {entry.name for entry in self.path.iterdir()}
        except OSError as error:
            raise NotFound(f"{self.path} cannot be read ({error.strerror})", "check its permissions") from error

    def at(self, name: str) -> str:
        return str(self.path / name)

    def is_file(self, name: str) -> bool:
        try:
            return (self.path / name).is_file()
        except (OSError, ValueError):  # also a name too long, or with a NUL
            return False

    def is_folder(self, name: str) -> bool:
        try:
            return (self.path / name).is_dir()
        except (OSError, ValueError):
            return False

    def below(self, name: str) -> LocalFolder:
        return LocalFolder(self.path / name)

    def text(self, name: str) -> str:
        path = self.path / name
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise UnsupportedFile(f"{path} is not a regular file", "name a folder or a weights file")
            check_small(str(path), status.st_size)
            return path.read_text(encoding="utf-8")
        except OSError as error:
            raise NotFound(f"{path} cannot be read ({error.strerror})", "check its permissions") from error

    def source(self, name: str) -> LocalFile:
        return LocalFile(self.path / name)
