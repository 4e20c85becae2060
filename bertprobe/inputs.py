"""Which files are being read, so that nothing that is written ever takes the place of one of them.

A file counts as an input as long as somebody holds the object that reads it, and during a command until the command
ends: `held` sees to that. A file is told by what it is on the disk, not by its path, so that links, hard links and
other spellings lead to the same one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from weakref import WeakSet

Identity = tuple[int, int]
"""Device and inode."""


class Input:
    """A file that is being read, or will be; it counts as long as this object lives."""

    __slots__ = ("__weakref__", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        with _lock:
            _inputs.add(self)
            for kept in _commands:
                kept.append(self)


_lock = Lock()  # files are opened on several threads, and a set that grows cannot be looked through
_inputs: WeakSet[Input] = WeakSet()
_commands: list[list[Input]] = []


@contextmanager
def held() -> Iterator[None]:
    """Keeps every file that is opened within it an input until its end, though nobody holds it any more."""
    kept: list[Input] = []
    with _lock:
        _commands.append(kept)
    try:
        yield
    finally:
        with _lock:
            # By identity: of two commands that have opened nothing yet, the lists are equal.
            _commands[:] = [other for other in _commands if other is not kept]


def input_at(path: Path) -> Path | None:
    """The input that a path leads to, under the name it was opened by; None where it leads to none."""
    return next((known for known in _paths() if _same(known, path)), None)


def input_below(folder: Path) -> Path | None:
    """An input that lies in a folder, at any depth; None where none does."""
    wanted = _identity(folder)
    if wanted is None:
        return None
    for known in _paths():
        # Both the link that was named and what it leads to are inside the folder that holds them.
        if any(_identity(above) == wanted for path in (known.absolute(), known.resolve()) for above in path.parents):
            return known
    return None


def _paths() -> set[Path]:
    with _lock:
        return {known.path for known in _inputs}


def _same(one: Path, other: Path) -> bool:
    identity = _identity(one)
    return identity is not None and identity == _identity(other)


def _identity(path: Path) -> Identity | None:
    try:
        status = path.stat()
    except (OSError, ValueError):  # it is gone, or no path at all
        return None
    return status.st_dev, status.st_ino
