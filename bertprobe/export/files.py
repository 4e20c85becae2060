"""The room that writes: every file and folder of results goes through here, and is there whole or not at all.

What is written lies under a name of its own until it is complete, and takes its place in one step. Three rules hold for
every command, whatever it asks for: nothing takes the place of a file that is being read, `--force` or not; nothing
that came to the place meanwhile is lost; a safetensors file is read back by the safetensors library before it is named.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path
from typing import IO, Any

from bertprobe.checkpoint import Checkpoint
from bertprobe.errors import CorruptFile, OutputError, UnsupportedFile, copying, printable, quoted
from bertprobe.export.renaming import Unsupported, exchange, rename_to_free
from bertprobe.filenames import CONFIGS
from bertprobe.inputs import input_at, input_below

TRIES = 16  # of a name that must be new: each is drawn from 2^32


@dataclass(frozen=True, slots=True)
class Output:
    """How to write: the path, whose suffix is the format, `dtype` keep or a cast, `names` canonical or stored."""

    path: Path
    dtype: str = "keep"
    names: str = "canonical"
    force: bool = False


def check_place(output: Output) -> None:
    """Before anything is read: the folder is there, nothing would be overwritten unasked, and no input ever."""
    path = output.path
    shown = printable(str(path))
    try:
        if not path.parent.is_dir():
            raise OutputError(f"there is no folder {printable(str(path.parent))}", "make it first")
        if path.is_dir():
            raise OutputError(f"{shown} is a folder", "name a file in it")
        _check_no_input(path)
        if os.path.lexists(path) and not output.force:  # a link that leads nowhere is there, too
            raise OutputError(f"{shown} is there already", "choose another name or add `force=True`")
    except (OSError, ValueError) as error:  # a name too long, or with a NUL
        raise OutputError(f"{shown} cannot be a file ({error})", "choose another name") from error


def copies(checkpoint: Checkpoint, path: Path) -> str:
    """The commands that put config and tokenizer beside a written model, empty where a config is there already."""
    config, there = checkpoint.config_file, path.parent / "config.json"
    if config is None or there.exists() or path.suffix != ".safetensors":
        return ""
    return copying(config, [each for each in checkpoint.beside if not (there.parent / each.name).exists()], there)


def text_carried(checkpoint: Checkpoint, name: str) -> str | None:
    """A small file that a weights file carries; None of a tokenizer that cannot be put together again."""
    try:
        return checkpoint.settings.text(name)
    except (CorruptFile, UnsupportedFile):
        return None


def write_carried(checkpoint: Checkpoint, folder: Path, model_type: str) -> tuple[str, ...]:
    """Writes the small files that a weights file carries, none over one that is there; gives their names.

    A config is written by the name, and with the `model_type`, by which transformers finds it.

    Raises `OutputError` as `atomic_write` does.
    """
    written = []
    for carried in checkpoint.carried:
        name = CONFIGS[0] if carried in CONFIGS else carried
        path, text = folder / name, text_carried(checkpoint, carried)
        if text is not None and carried in CONFIGS and "model_type" not in (checkpoint.config or {}):
            text = json.dumps({"model_type": model_type, **(checkpoint.config or {})}, indent=2) + "\n"
        if text is None or os.path.lexists(path):
            continue
        with _translate_errors(path):
            path.parent.mkdir(exist_ok=True)
        with atomic_write(Output(path)) as file:
            file.write(text.encode())
        written.append(name)
    return tuple(written)


@contextmanager
def atomic_write(output: Output) -> Iterator[IO[bytes]]:
    """A file beside the place that takes its name when the block ends, and is gone if anything goes wrong.

    Raises:
        OutputError: the place is taken, is an input's, or cannot be written to.
    """
    path = output.path
    with _translate_errors(path):
        temporary, handle = _new_file(path)
        try:
            with os.fdopen(handle, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if path.suffix == ".safetensors":
                check_safetensors(temporary)
            _check_no_input(path)
            if output.force:
                temporary.replace(path)
            else:
                _take_free_name(temporary, path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def scratch(path: Path) -> Iterator[IO[bytes]]:
    """A nameless file beside a place, for what has to wait; gone at the end, also of a process that is killed."""
    import tempfile

    with _translate_errors(path), ExitStack() as opened:
        with _made_in(path.parent):
            file = opened.enter_context(tempfile.TemporaryFile(dir=path.parent))
        yield file


def check_safetensors(path: Path) -> None:
    """Raises `OutputError` for a file that the safetensors library does not read: it must not reach anybody."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            file.keys()
    except (SafetensorError, OSError, ValueError) as error:
        raise OutputError(
            f"the safetensors library does not read what was to be written ({printable(str(error)[:200])})",
            "write .npz, choose other parts, or install a newer safetensors",
        ) from error


@contextmanager
def _translate_errors(path: Path) -> Iterator[None]:
    """What the file system says, as an error of ours."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{printable(str(path))} could not be written ({error.strerror or error}), nothing was left behind",
            "make room or choose another place",
        ) from error


@contextmanager
def _made_in(folder: Path) -> Iterator[None]:
    """What keeps a new file or folder from being made, as an error of ours."""
    try:
        yield
    except OSError as error:
        shown = printable(str(folder))
        raise OutputError(f"{shown} cannot be written to ({error.strerror})", "choose another folder") from error


def _new_file(path: Path) -> tuple[Path, int]:
    """A file beside `path` that was not there before, under a hidden name, and its handle."""
    for _ in range(TRIES):
        temporary = _sibling(path)
        with _made_in(path.parent), suppress(FileExistsError):
            return temporary, os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    raise OutputError(f"{printable(str(path.parent))} has no free name for a new file", "choose another folder")


def _sibling(path: Path) -> Path:
    """A hidden name beside `path`, drawn anew each time: what a killed run left must not stand in the way."""
    return path.with_name(f".{path.name[:80]}.{os.urandom(4).hex()}.part")


def _take_free_name(temporary: Path, path: Path) -> None:
    """Names a file or folder that is complete; what came to the place since the start stays there, and is told."""
    try:
        rename_to_free(temporary, path)
        return
    except Unsupported:
        pass
    except FileExistsError as error:
        raise _taken(path) from error
    if temporary.is_dir():
        if os.path.lexists(path):
            raise _taken(path)
        temporary.rename(path)  # fails where a folder with something in it came between
        return
    try:
        os.link(temporary, path)  # unlike a plain rename, fails where somebody made the file meanwhile
    except FileExistsError as error:
        raise _taken(path) from error
    except OSError:  # a file system without links
        if os.path.lexists(path):
            raise _taken(path) from None
        temporary.replace(path)


def _taken(path: Path) -> OutputError:
    return OutputError(f"{printable(str(path))} is there already", "choose another name or add `force=True`")


def _check_no_input(path: Path) -> None:
    """Nothing that is being read is ever replaced, `--force` or not."""
    known = input_at(path)
    if known is not None:
        also = "" if known == path else f", as {quoted(str(known))}"
        raise OutputError(
            f"{quoted(str(path))} is being read{also}", "choose another name: `force=True` does not change it"
        )


def _sync(folder: Path) -> None:
    """Has the disk keep the names in a folder, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


# ------------------------------------------------------------------------------------------------ folders


class NewFolder:
    """A folder that is being filled; each file is on the disk when its block ends."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def file(self, name: str) -> Iterator[IO[bytes]]:
        """A new file of that name in it; one of tensors is read back."""
        path = self._path / name
        with open(path, "x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.suffix == ".safetensors":
            check_safetensors(path)

    @property
    def sizes(self) -> Mapping[str, int]:
        """The bytes of each file by name, sorted."""
        return {entry.name: entry.stat().st_size for entry in sorted(self._path.iterdir(), key=lambda e: e.name)}


_State = tuple[tuple[int, int], frozenset[str]]
"""What a folder is on the disk, and the names in it."""


@dataclass(frozen=True, slots=True)
class FolderPlace:
    """Where a folder is to be written, and the one that may be replaced there, as it was at the start, if any."""

    path: Path
    before: _State | None


def check_folder(path: Path, names: Collection[str], force: bool) -> FolderPlace:
    """Before anything is read: the place is free, or holds nothing but what would be written, and `force` is said."""
    shown = printable(str(path))
    try:
        if not path.parent.is_dir():
            raise OutputError(f"there is no folder {printable(str(path.parent))}", "make it first")
        if not os.path.lexists(path):
            return FolderPlace(path, None)
        if path.is_symlink() or not path.is_dir():
            raise OutputError(f"{shown} is there already, and no folder", "choose another name")
        _check_no_input_below(path)
        before = _state(path)
    except (OSError, ValueError) as error:  # a name too long, or with a NUL
        raise OutputError(f"{shown} cannot be a folder ({error})", "choose another name") from error
    there = sorted(before[1])
    others = [name for name in there if name not in names or (path / name).is_dir()]
    if there and not force:
        raise OutputError(f"{shown} is there already, with files in it", "choose another name or add `force=True`")
    if others:
        raise OutputError(f"{shown} holds other files, such as {printable(others[0])}", "choose another name")
    return FolderPlace(path, before)


@contextmanager
def atomic_folder(place: FolderPlace) -> Iterator[NewFolder]:
    """A folder beside the place that takes its name when the block ends, and is gone if anything goes wrong.

    Only the folder that `check_folder` saw there is replaced, and only with what it held then: one that came later, or
    files that came into it, stay, and `OutputError` says so.
    """
    path = place.path
    with _translate_errors(path):
        temporary = _new_folder(path)
        made = _identity(temporary)
        try:
            yield NewFolder(temporary)
            _sync(temporary)
            with _uninterrupted():
                if place.before is None:
                    _take_free_name(temporary, path)
                else:
                    _replace_folder(temporary, path, place.before)
            _sync(path.parent)
        finally:
            if _identity(temporary) == made:  # else it has its name, or the old folder has this one
                shutil.rmtree(temporary, ignore_errors=True)


def _new_folder(path: Path) -> Path:
    for _ in range(TRIES):
        temporary = _sibling(path)
        with _made_in(path.parent), suppress(FileExistsError):
            temporary.mkdir()
            return temporary
    raise OutputError(f"{printable(str(path.parent))} has no free name for a new folder", "choose another place")


def _state(path: Path) -> _State:
    status = path.lstat()
    return (status.st_dev, status.st_ino), frozenset(entry.name for entry in path.iterdir())


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Signals wait until the block ends: between two renames neither folder may have the name."""
    wait = {signal.SIGINT, signal.SIGTERM} if hasattr(signal, "pthread_sigmask") else set()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, wait) if wait else None
    try:
        yield
    finally:
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _replace_folder(new: Path, path: Path, before: _State) -> None:
    """Puts the new folder in the place of the old one, and deletes that if it still is what it was at the start."""
    _check_no_input_below(path)
    if _state(path) != before:
        raise _changed(path)
    old = _exchanged(new, path)
    if _state(old) != before:  # something came in between
        shutil.rmtree(_exchanged(old, path), ignore_errors=True)
        raise _changed(path)
    for name in before[1]:
        (old / name).unlink()
    try:
        old.rmdir()
    except OSError as error:  # the last moment at which something can have come into it
        raise OutputError(
            f"{printable(str(path))} is written, but files came into the folder before it, "
            f"which is {printable(str(old))} now",
            "look at them, then delete it",
        ) from error


def _exchanged(new: Path, path: Path) -> Path:
    """Gives the new folder the name of the old one; gives back where the old one is now."""
    try:
        exchange(new, path)
        return new
    except Unsupported:
        pass
    # Between these renames nothing has the name: a process that is killed there leaves both folders beside it.
    old = _sibling(path).with_suffix(".old")
    path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        old.rename(path)
        raise
    return old


def _changed(path: Path) -> OutputError:
    return OutputError(f"{printable(str(path))} changed while it was to be replaced", "look at it, then try again")


def _check_no_input_below(path: Path) -> None:
    known = input_below(path)
    if known is not None:
        raise OutputError(
            f"{quoted(str(path))} holds {quoted(known.name)}, which is being read", "choose another folder"
        )


# ------------------------------------------------------------------------------------------------ a folder of a run


PART = ".part"
_MARKED = re.compile(rf"\.[0-9a-f]{{32}}{re.escape(PART)}$")


class FileInPlace:
    """A file of a `RunFolder` that is being written, at any place in it, also from several threads at once."""

    def __init__(self, file: BufferedRandom) -> None:
        self.file = file
        self.bytes = 0
        self.sha256 = ""

    def reserve(self, size: int) -> None:
        """Takes the room on the disk before anything is computed; raises `OSError` where there is not so much."""
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self.file.fileno(), 0, size)
        else:
            self.file.truncate(size)

    def put(self, start: int, data: Any) -> None:
        """Puts bytes to their place."""
        view = memoryview(data).cast("B")
        while len(view):
            written = os.pwrite(self.file.fileno(), view, start)
            start, view = start + written, view[written:]

    def finish(self) -> None:
        """Has the disk keep it, and takes its size and hash."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.bytes = self.file.seek(0, os.SEEK_END)
        self.file.seek(0)
        self.sha256 = hashlib.file_digest(self.file, "sha256").hexdigest()


class RunFolder:
    """A folder that one run fills file by file, and another goes on with; one process at a time, as a context.

    What it is lies in one file, `head`, which no other folder has. A file is written under its name with .part behind
    and takes its place once the disk keeps it; what a killed run left under such names is removed. Nothing else in the
    folder is touched.

    While the run has the folder, helpers of it may write files there, too, each under `mark`: names of its own, so that
    two who write the same file do not meet.
    """

    def __init__(self, path: Path, head: str, mark: str = "") -> None:
        self.path, self.head = path, head
        self._part = mark + PART
        self._lock = -1
        shown = printable(str(path))
        try:
            if not path.absolute().parent.is_dir():
                # A path has lost one of the slashes of an address by now.
                is_address = re.match(r"\w+:/", str(path)) is not None
                here = "name a folder of this disk: only extract writes to an address"
                advice = here if is_address else "make it first"
                raise OutputError(f"there is no folder {printable(str(path.parent))}", advice)
            if os.path.lexists(path) and not path.is_dir():
                raise OutputError(f"{shown} is there already, and no folder", "choose another name")
            _check_no_input_below(path)
            names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
        except (OSError, ValueError) as error:  # a name too long, or with a NUL
            raise OutputError(f"{shown} cannot be a folder ({error})", "choose another name") from error
        others = sorted(name for name in names if name != head + PART)
        if others and head not in names:
            raise OutputError(f"{shown} holds other files, such as {printable(others[0])}", "choose another folder")

    @property
    def place(self) -> str:
        """The path, as it was given."""
        return str(self.path)

    @property
    def address(self) -> str:
        """The path, from wherever it is asked for."""
        return str(self.path.absolute())

    @property
    def free(self) -> int:
        """Bytes that the disk has left."""
        there = self.path if self.path.is_dir() else self.path.absolute().parent
        return shutil.disk_usage(there).free

    def text(self) -> str | None:
        """What `head` says, None where nothing began here yet."""
        try:
            return (self.path / self.head).read_text("utf-8")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise OutputError(
                f"{printable(str(self.path / self.head))} cannot be read ({error})", "look at it"
            ) from error

    def has(self, name: str, size: int) -> bool:
        """Whether a file of that name and size is there."""
        path = self.path / name
        return path.is_file() and path.stat().st_size == size

    def take(self, name: str, source: Path, size: int, sha256: str) -> None:
        """Gives a finished file of another folder a place here too: the same file where the disk is, else a copy.

        Raises `OutputError` where it is not of that size, or a copy not of that sha256.
        """
        if self.has(name, size):
            return
        if not source.is_file() or source.stat().st_size != size:
            raise OutputError(f"{printable(str(source))} is gone, or not as its manifest says", "run that part again")
        part = self.path / (name + PART)
        part.unlink(missing_ok=True)
        with _told_to_go_on(self.path):
            try:
                os.link(source, part)
            except OSError:  # another disk, or one without links
                with self.file(name) as file, open(source, "rb") as original:
                    shutil.copyfileobj(original, file.file, 1 << 20)
                    file.finish()
                    if file.sha256 != sha256:
                        shown = printable(str(source))
                        raise OutputError(
                            f"{shown} has not the sha256 of its manifest", "run that part again"
                        ) from None
            else:
                part.replace(self.path / name)
                _sync(self.path)

    def __enter__(self) -> RunFolder:
        with _made_in(self.path.absolute().parent):
            self.path.mkdir(exist_ok=True)
        self._lock = _locked(self.path)
        self._sweep()
        return self

    def __exit__(self, *error: object) -> None:
        self._sweep()
        if self._lock >= 0:
            os.close(self._lock)

    def _sweep(self) -> None:
        """Removes what helpers left that were killed."""
        with suppress(OSError):
            for entry in self.path.iterdir():
                if _MARKED.search(entry.name):
                    entry.unlink(missing_ok=True)

    @contextmanager
    def file(self, name: str) -> Iterator[FileInPlace]:
        """A file that gets its name when the block ends, and is gone if anything goes wrong."""
        path = self.path / name
        part = path.with_name(name + self._part)
        with _told_to_go_on(self.path):
            try:
                with _filled(part, path.suffix) as placed:
                    yield placed
                _check_no_input(path)
                part.replace(path)
                _sync(self.path)
            finally:
                part.unlink(missing_ok=True)


@contextmanager
def file_elsewhere(name: str, put: Callable[[Path], None]) -> Iterator[FileInPlace]:
    """A file that is written on this disk first, and handed to `put` under its name once it is whole."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder, _told_to_go_on(Path(folder)):
        path = Path(folder) / name
        with _filled(path, path.suffix) as placed:
            yield placed
        put(path)


@contextmanager
def _filled(path: Path, suffix: str) -> Iterator[FileInPlace]:
    """A file that the disk keeps once the block ends, and that its library reads where its suffix will be that."""
    with open(path, "w+b") as file:
        placed = FileInPlace(file)
        yield placed
        placed.finish()
    if suffix == ".safetensors":
        check_safetensors(path)


def marked() -> str:
    """A mark that nobody else has."""
    return f".{uuid.uuid4().hex}"


def _locked(folder: Path) -> int:
    """A handle that keeps other runs out of a folder until it is closed, −1 where the system knows no such locks."""
    try:
        import fcntl
    except ImportError:
        return -1
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise OutputError(
                f"another run is writing to {printable(str(folder))}", "wait for it, or choose another folder"
            ) from error
        return -1
    return handle


@contextmanager
def _told_to_go_on(folder: Path) -> Iterator[None]:
    """What the file system says, as an error of ours, where all that is finished stays."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{printable(str(folder))} could not be written to ({error.strerror or error}); what is finished stays",
            "make room, then the same command goes on from there",
        ) from error
