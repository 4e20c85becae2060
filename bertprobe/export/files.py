"""Files that are there whole or not at all: written under a temporary name, named only when complete."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bertprobe.checkpoint import Checkpoint, LocalFile
from bertprobe.errors import OutputError, printable


@dataclass(frozen=True, slots=True)
class Output:
    """How to write: the path, whose suffix is the format, `dtype` keep or a cast, `names` canonical or stored."""

    path: Path
    dtype: str = "keep"
    names: str = "canonical"
    force: bool = False


def check_place(output: Output) -> None:
    """Before anything is read: the folder is there and nothing would be overwritten unasked."""
    path = output.path
    shown = printable(str(path))
    try:
        if not path.parent.is_dir():
            raise OutputError(f"there is no folder {printable(str(path.parent))}", "make it first")
        if path.is_dir():
            raise OutputError(f"{shown} is a folder", "name a file in it")
        if os.path.lexists(path) and not output.force:  # a link that leads nowhere is there, too
            raise OutputError(f"{shown} is there already", "choose another name or add --force")
    except (OSError, ValueError) as error:  # a name too long, or with a NUL
        raise OutputError(f"{shown} cannot be a file ({error})", "choose another name") from error


def check_source(checkpoint: Checkpoint, path: Path) -> None:
    """A checkpoint is never replaced by a part of itself, `--force` or not."""
    local = [file for file in checkpoint.files if isinstance(file, LocalFile)]
    if any(path.exists() and path.samefile(file.path) for file in local):
        raise OutputError(f"{printable(str(path))} is the checkpoint that is being read", "choose another name")


def copies(checkpoint: Checkpoint, path: Path) -> str:
    """The commands that put config and vocabulary beside a written model, empty where a config is there already."""
    config, there = checkpoint.config_file, path.parent / "config.json"
    if config is None or there.exists() or path.suffix != ".safetensors":
        return ""
    pairs = [(config, there)]
    vocabulary = config.parent / "vocab.txt"
    if vocabulary.is_file() and not (path.parent / "vocab.txt").exists():
        pairs.append((vocabulary, path.parent / "vocab.txt"))
    return " && ".join(printable(shlex.join(["cp", str(a), str(b)])) for a, b in pairs)


@contextmanager
def whole_or_not_at_all(output: Output) -> Iterator[IO[bytes]]:
    """A temporary file beside the place that takes its name at the end, and is gone if anything goes wrong."""
    path = output.path
    temporary = path.with_name(f".{path.name[:80]}.{os.getpid()}.part")
    try:
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:
        raise OutputError(f"{path.parent} cannot be written to ({error.strerror})", "choose another folder") from error
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _take_name(temporary, output)
    except OSError as error:
        raise OutputError(
            f"{printable(str(path))} could not be written ({error.strerror or error}), nothing was left behind",
            "make room or choose another place",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _take_name(temporary: Path, output: Output) -> None:
    if output.force:
        temporary.replace(output.path)
        return
    try:
        os.link(temporary, output.path)  # unlike a rename, fails if somebody made the file meanwhile
    except FileExistsError as error:
        raise OutputError(f"{output.path} is there already", "choose another name or add --force") from error
    except OSError:  # a file system without links
        temporary.replace(output.path)
