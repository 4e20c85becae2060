"""Two renames that Python does not have: into a place that must be free, and of two things for each other.

Linux has both as one step, renameat2 (man 2 rename); where a file system or system has not, the steps around them
are the caller's.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

_HERE = -100  # AT_FDCWD: paths begin in the working directory
_NOREPLACE, _EXCHANGE = 1, 2
_NOT_THERE = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}


class Unsupported(Exception):
    """The system or the file system does not know this rename."""


def rename_to_free(old: Path, new: Path) -> None:
    """Renames a file or folder to a name that nothing has; raises `FileExistsError` otherwise, and `Unsupported`."""
    _renameat2(old, new, _NOREPLACE)


def exchange(one: Path, other: Path) -> None:
    """Gives each of two files or folders the other's name, in one step; raises `OSError`, and `Unsupported`."""
    _renameat2(one, other, _EXCHANGE)


def _renameat2(old: Path, new: Path, flags: int) -> None:
    function = _function()
    if function is None:
        raise Unsupported
    if function(_HERE, os.fsencode(old), _HERE, os.fsencode(new), flags) == 0:
        return
    code = ctypes.get_errno()
    if code in _NOT_THERE:
        raise Unsupported
    raise OSError(code, os.strerror(code), str(old), None, str(new))


@cache
def _function() -> Any:
    """The C library's function, None where it has none."""
    if sys.platform != "linux":
        return None
    found = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # glibc 2.28, musl 1.2.4
    if found is not None:
        found.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return found
