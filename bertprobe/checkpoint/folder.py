"""A folder with a checkpoint in it, on this disk or elsewhere: its names, its small files, its large ones as sources.

Which files of a folder belong together is decided by `choose`, by the same rules wherever the folder is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Set
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from bertprobe.checkpoint.source import CarriedFile, LocalFile, Source
from bertprobe.errors import CorruptFile, NotFound, UnsupportedFile, printable
from bertprobe.filenames import TOKENIZER

MAX_JSON = 50 * 2**20  # bytes: an index of 250,000 tensors has some 25 MB
MAX_VALUES = 1_000_000  # in it: each takes some 60 bytes of memory, be it as short as []


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

    @property
    def above(self) -> Folder | None:
        """The folder that it lies in, None where it is the outermost."""
        ...

    def text(self, name: str) -> str:
        """A small file whole; raises `NotFound` or `UnsupportedFile`."""
        ...

    def source(self, name: str) -> Source: ...

    def prepare(self, names: Iterable[str]) -> None:
        """Begins to fetch the heads of files that will be asked for, side by side, where that takes time."""
        ...


def read_json(folder: Folder, name: str) -> Mapping[str, Any]:
    """The object in a settings file; raises `CorruptFile` for what is none."""
    return parse_json(folder.text(name), folder.at(name))


def parse_json(text: str, address: str) -> Mapping[str, Any]:
    """The object in the text of a settings file; raises `CorruptFile` for none, `UnsupportedFile` for too much."""
    found = parse_any(text, address)
    if not isinstance(found, dict):
        raise CorruptFile(f"{address} is JSON, but not an object", "fetch it again, or mend it")
    return found


def parse_any(text: str, address: str) -> Any:
    """What the text of a settings file says; raises `CorruptFile` for no JSON, `UnsupportedFile` for too much.

    Python's own word on a text of commas would be gigabytes of lists.
    """
    if text.count(",") > MAX_VALUES:
        raise UnsupportedFile(f"{address} holds more than {MAX_VALUES:,} values", "is it the right file?")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "too deeply nested" if isinstance(error, RecursionError) else printable(str(error).partition(";")[0])
        raise CorruptFile(f"{address} is not JSON ({reason})", "fetch it again, or mend it") from error


def check_small(address: str, size: int) -> None:
    """Raises `UnsupportedFile` for settings that are no settings."""
    if size > MAX_JSON:
        raise UnsupportedFile(f"{address} has {size:,} bytes, too many for settings", "is it the right file?")


def small_text(source: Source) -> str:
    """A settings file whole; raises `UnsupportedFile` for one too large, `CorruptFile` for what is no text."""
    check_small(source.address, source.size)
    try:
        return source.read(0, source.size).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorruptFile(f"{source.address} is not text ({error.reason})", "is it the right file?") from error


class LocalFolder:
    """A folder on this disk. What cannot be looked at counts as absent.

    It holds on to the small files that were read in it and below, so that they count as being read as long as it lives.
    """

    def __init__(self, path: Path, read: list[LocalFile] | None = None) -> None:
        self.path = path
        self._read = [] if read is None else read

    @property
    def address(self) -> str:
        return str(self.path)

    @property
    def named(self) -> Path:
        """What leads to it again: its path, or the file that it was named by."""
        return self.path

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
        return LocalFolder(self.path / name, self._read)

    @property
    def above(self) -> LocalFolder | None:
        path = self.path.resolve()
        return None if path.parent == path else LocalFolder(path.parent, self._read)

    def text(self, name: str) -> str:
        file = LocalFile(self.path / name)
        self._read.append(file)
        return small_text(file)

    def source(self, name: str) -> LocalFile:
        return LocalFile(self.path / name)

    def prepare(self, names: Iterable[str]) -> None:
        pass


class FolderOf(LocalFolder):
    """The folder of a file that was named, which is seen there as `role`, the name that such a file has by rights.

    A tokenizer.json is hidden where another file was named: it would go before that.
    """

    def __init__(self, file: Path, role: str) -> None:
        super().__init__(file.parent)
        self._file = file.name
        self._role = role

    @property
    def named(self) -> Path:
        return self.path / self._file

    @cached_property
    def names(self) -> Set[str]:
        return {name for name in (*super().names, self._role) if self.is_file(name) or self.is_folder(name)}

    def at(self, name: str) -> str:
        return super().at(self._stored(name))

    def is_file(self, name: str) -> bool:
        return super().is_file(self._stored(name)) and (name != TOKENIZER or self._role == TOKENIZER)

    def text(self, name: str) -> str:
        return super().text(self._stored(name))

    def source(self, name: str) -> LocalFile:
        return super().source(self._stored(name))

    def _stored(self, name: str) -> str:
        return self._file if name == self._role else name


class FolderWithin:
    """A folder with the small files that a weights file in it carries; what lies beside that file goes before."""

    def __init__(self, folder: Folder, file: Source, carried: Mapping[str, str]) -> None:
        self._folder = folder
        self._file = file
        self._carried = carried

    @property
    def address(self) -> str:
        return self._folder.address

    @property
    def resolved(self) -> str:
        return self._folder.resolved

    @property
    def name(self) -> str:
        return self._folder.name

    @property
    def names(self) -> Set[str]:
        try:
            beside = self._folder.names
        except NotFound:  # a folder that is in the file alone
            beside = frozenset()
        return {*beside, *(name.partition("/")[0] for name in self._carried)}

    def at(self, name: str) -> str:
        return f"{name} in {self._file.address}" if self.carries(name) else self._folder.at(name)

    def is_file(self, name: str) -> bool:
        return name in self._carried or self._folder.is_file(name)

    def is_folder(self, name: str) -> bool:
        return self._folder.is_folder(name) or any(carried.startswith(f"{name}/") for carried in self._carried)

    def below(self, name: str) -> Folder:
        below = self._folder.below(name)
        paths = [path for path in self._carried if path.startswith(f"{name}/")]
        within = {path.removeprefix(f"{name}/"): self._carried[path] for path in paths}
        return FolderWithin(below, self._file, within) if within else below

    @property
    def above(self) -> Folder | None:
        return self._folder.above

    def text(self, name: str) -> str:
        return self._carried[name] if self.carries(name) else self._folder.text(name)

    def source(self, name: str) -> Source:
        if self.carries(name):
            return CarriedFile(name, self.at(name), self._carried[name].encode())
        return self._folder.source(name)

    def prepare(self, names: Iterable[str]) -> None:
        self._folder.prepare(name for name in names if not self.carries(name))

    @property
    def carried(self) -> tuple[str, ...]:
        """The small files that the weights file carries and none of that name lies beside."""
        return tuple(filter(self.carries, self._carried))

    def carries(self, name: str) -> bool:
        """Whether a small file is the one that the weights file carries."""
        return name in self._carried and not self._folder.is_file(name)
