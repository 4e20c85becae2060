"""The files of a corpus: found, told apart and opened."""

from __future__ import annotations

import glob
import hashlib
import io
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bertprobe.errors import CorruptFile, NotFound, UnsupportedFile, printable

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

STDIN = "-"
WINDOW = 1 << 16  # bytes that are read at a time


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """A file of a corpus; of stdin neither size nor sha256 are known."""

    path: str
    format: str
    compression: str
    size: int
    sha256: str

    @property
    def shown(self) -> str:
        return "stdin" if self.path == STDIN else printable(self.path)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bytes, unpacked, that hold whole rows: of which file, how they are opened, and the number of their first row."""

    name: str
    open: Callable[[], IO[bytes]]
    first: int = 0

    @property
    def sha256(self) -> str:
        """That of the bytes, which are read for it."""
        with self.open() as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # a reader is enough

    def text(self, newline: str | None = None) -> io.TextIOWrapper:
        """Opened as text; what is not UTF-8 must not stop a corpus: odd bytes become U+FFFD."""
        encoding = "utf-8" if self.first else "utf-8-sig"
        return io.TextIOWrapper(self.open(), encoding, errors="replace", newline=newline)


def find(paths: Iterable[str]) -> tuple[str, ...]:
    """The files that paths and patterns lead to: in the order given, those of a pattern sorted, each once."""
    return tuple(dict.fromkeys(path for word in paths for path in _found(word)))


def _found(word: str) -> list[str]:
    if Path(word).is_dir():
        raise UnsupportedFile(f"{printable(word)} is a folder", "name its files; a pattern is like 'texts/*.jsonl'")
    if word == STDIN or os.path.lexists(word):
        return [word]
    found = sorted(path for path in glob.glob(word, recursive=True) if not Path(path).is_dir())  # noqa: PTH207
    if not found:
        raise NotFound(f"there is no file {printable(word)}", "check the path; a pattern is like 'texts/*.jsonl'")
    return found


def inspected(path: str, format: str, compression: str) -> CorpusFile:
    """A file with its size and the sha256 of its bytes, which are all read once."""
    if path == STDIN:
        return CorpusFile(path, format, compression, 0, "")
    with faults_told(path):
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnsupportedFile(
                f"{printable(path)} is no regular file", "name files; a pattern is like 'texts/*.txt', - is stdin"
            )
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    return CorpusFile(path, format, compression, status.st_size, digest)


def unpacked(file: CorpusFile) -> Stretch:
    """All of a file."""
    return Stretch(file.shown, partial(COMPRESSIONS[file.compression], file))


def between(file: CorpusFile, start: int, stop: int, first: int = 0) -> Stretch:
    """The bytes from `start` to `stop` of a file that is not compressed, which begin with row `first`."""
    return Stretch(file.shown, partial(_span, file, start, stop), first)


def _plain(file: CorpusFile) -> IO[bytes]:
    if file.path == STDIN:
        return open(sys.stdin.fileno(), "rb", closefd=False)
    if (size := Path(file.path).stat().st_size) != file.size:
        raise CorruptFile(f"{file.shown} has changed: it had {file.size:,} bytes, now {size:,}", "start anew")
    return open(file.path, "rb")


def _gzip(file: CorpusFile) -> IO[bytes]:
    import gzip

    return io.BufferedReader(_Owning(gzip.GzipFile(fileobj=(raw := _plain(file))), raw), WINDOW)


def _zstd(file: CorpusFile) -> IO[bytes]:
    pa = arrow(file.path)
    return io.BufferedReader(_Owning(pa.CompressedInputStream(raw := _plain(file), "zstd"), raw), WINDOW)


def _span(file: CorpusFile, start: int, stop: int) -> IO[bytes]:
    raw = _plain(file)
    raw.seek(start)
    return io.BufferedReader(_Owning(raw, raw, stop - start), WINDOW)


COMPRESSIONS: dict[str, Callable[[CorpusFile], IO[bytes]]] = {"": _plain, "gz": _gzip, "zst": _zstd}


class _Owning(io.RawIOBase):
    """Bytes of a reader, at most so many, and the file below, which is closed with it."""

    def __init__(self, reader: Any, below: IO[bytes], left: int = sys.maxsize) -> None:
        self._reader, self._below, self._left = reader, below, left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        wanted = min(memoryview(buffer).nbytes, self._left)
        count: int = self._reader.readinto(memoryview(buffer)[:wanted])
        self._left -= count
        return count

    def close(self) -> None:
        if not self.closed:
            self._reader.close()
            self._below.close()
        super().close()


def arrow(path: str) -> Any:
    """pyarrow, which comes with an extra, for the file that needs it."""
    try:
        import pyarrow
    except ImportError as error:
        raise UnsupportedFile(
            f"pyarrow, which reads {printable(path)}, is not installed", "pip install 'bertprobe[corpus]'"
        ) from error
    return pyarrow


@contextmanager
def faults_told(path: str, kind: str = "file") -> Iterator[None]:
    """What the file system, zlib or pyarrow say while a file is read, as one line of ours."""
    try:
        yield
    except _faults() as error:
        name = "stdin" if path == STDIN else printable(path)
        if isinstance(error, OSError) and error.errno:
            raise NotFound(f"{name} cannot be read ({error.strerror})", "check the path") from error
        said = printable((str(error).splitlines() or [type(error).__name__])[0][:200])
        raise CorruptFile(f"{name} is damaged, or no {kind} ({said})", "fetch it again") from error


def _faults() -> tuple[type[Exception], ...]:
    """What is raised where a file is at fault; pyarrow raises nothing unless it was loaded."""
    loaded = sys.modules.get("pyarrow")
    return (OSError, EOFError, zlib.error, *(() if loaded is None else (loaded.ArrowException,)))
