"""Where a run writes: a folder of this disk, or one that fsspec reaches, such as a bucket."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path, PurePosixPath
from typing import Protocol

from bertprobe.errors import BertprobeError, OutputError, printable
from bertprobe.export.files import PART, FileInPlace, RunFolder, file_elsewhere


class RunPlace(Protocol):
    """A place that one run fills file by file, and another goes on with; one process at a time, as a context.

    `address` leads to it, `place` is the same as it may be shown, `head` the file that says what it is.
    """

    @property
    def address(self) -> str: ...

    @property
    def place(self) -> str: ...

    @property
    def head(self) -> str: ...

    @property
    def free(self) -> int | None:
        """Bytes that there is room for, None where nobody knows."""
        ...

    def text(self) -> str | None:
        """What `head` says, None where nothing began here yet."""
        ...

    def has(self, name: str, size: int) -> bool:
        """Whether a file of that name and size is there."""
        ...

    def file(self, name: str) -> AbstractContextManager[FileInPlace]:
        """A file that is there whole once the block ends, and not if anything goes wrong."""
        ...

    def __enter__(self) -> RunPlace: ...

    def __exit__(self, *error: object) -> None: ...


def is_address(place: str | Path) -> bool:
    """Whether a place is named as fsspec has it, `s3://bucket/folder`, and not by a path."""
    return isinstance(place, str) and "://" in place


def run_place(place: str | Path, head: str, mark: str = "") -> RunPlace:
    """The place for a run whose head is called so; helpers of a run give a `mark` of their own.

    Raises `OutputError` where it cannot be written to, or holds something else.
    """
    if is_address(place):
        return RemoteRunFolder(str(place), head)
    return RunFolder(Path(place), head, mark)


class RemoteRunFolder:
    """A folder that fsspec reaches. A file is written to this disk, then put there under its name.

    A store of objects has each whole or not at all; elsewhere one that was half put there does not count, as the head
    does not tell of it. Nothing keeps two runs out of one folder at once.
    """

    def __init__(self, address: str, head: str) -> None:
        self.address, self.head = address, head
        self.place = re.sub("//[^/@]*@", "//", address)  # neither user nor password
        with self._told("cannot be reached"):
            from fsspec.core import url_to_fs

            self._files, self._root = url_to_fs(address)
            self._files.invalidate_cache()  # of listings, which are kept for the whole process
            there = self._files.ls(self._root, detail=True) if self._files.exists(self._root) else []
        self._sizes = {PurePosixPath(str(entry["name"])).name: entry["size"] for entry in there}
        names = self._sizes.keys() - {head + PART}
        if names and head not in names:
            other = printable(min(names))
            raise OutputError(f"{self._shown} holds other files, such as {other}", "choose another place")

    @property
    def free(self) -> None:
        return None

    def text(self) -> str | None:
        with self._told("cannot be read"):
            try:
                found = bytes(self._files.cat_file(self._path(self.head)))
            except FileNotFoundError:
                return None
        try:
            return found.decode()
        except ValueError as error:
            raise OutputError(f"{self._shown}/{self.head} is not text", "choose another place") from error

    def has(self, name: str, size: int) -> bool:
        if self._sizes.get(name) == size:  # as it was listed: a request for each file of a large run would take long
            return True
        with self._told("cannot be read"):
            self._files.invalidate_cache()  # of listings: other machines write here, too
            try:
                return int(self._files.info(self._path(name))["size"] or 0) == size
            except FileNotFoundError:
                return False

    def file(self, name: str) -> AbstractContextManager[FileInPlace]:
        return file_elsewhere(name, self._put)

    def _put(self, file: Path) -> None:
        # The head says what counts, so it must never be there by half; of others the head tells afterwards.
        is_head = file.name == self.head
        there = self._path(file.name + PART * is_head)
        with self._told("could not be written to"):
            self._files.makedirs(self._root, exist_ok=True)
            self._files.put_file(str(file), there)
            if is_head:
                self._files.mv(there, self._path(file.name))

    def __enter__(self) -> RemoteRunFolder:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    @property
    def _shown(self) -> str:
        return printable(self.place)

    def _path(self, name: str) -> str:
        return f"{str(self._root).rstrip('/')}/{name}"

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Whatever a store says, in a line: each has errors of its own."""
        try:
            yield
        except BertprobeError:
            raise
        except Exception as error:
            said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            advice = "check the address, what it asks for, and your rights there"
            raise OutputError(f"{self._shown} {what} ({printable(said[:200])})", advice) from error
