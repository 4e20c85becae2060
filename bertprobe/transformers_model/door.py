"""The door, shut while transformers works: nothing is asked of a network, and no kernel is fetched or put in.

What transformers is given is taken from lists of what is allowed, so that nothing should ever come to the door. It is
there for what nobody thought of: a modeling file that fetches native code where it finds a GPU, a look-up that a newer
release makes on the way.

It is shut for the thread that shuts it. Other threads of the process use the network as they did, and find
huggingface_hub's settings as they were; two that work with transformers at once do not open it for each other. A thread
that transformers itself would start meanwhile finds it open: it starts none that asks for anything.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial, wraps
from importlib import import_module
from typing import Any

# What asks for a name's address, and what loads a kernel or puts one in a layer's place, wherever it is imported from.
_LOOK_UPS = ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo")
_KERNELS = {
    "transformers.integrations.hub_kernels": ("get_kernel", "get_kernel_hub", "_kernels_kernelize"),
    "kernels": ("get_kernel", "get_local_kernel", "get_locked_kernel", "load_kernel", "install_kernel", "kernelize"),
}


class Shut(ConnectionError):
    """What finds the door shut gets this, which libraries take for a network that is not there."""

    def __init__(self, wanted: str) -> None:
        super().__init__(f"bertprobe lets transformers use no {wanted}")


@contextmanager
def shut(*, models: bool = False) -> Iterator[None]:
    """No request and no kernel from this thread while it lasts; what was borrowed for that is handed back.

    `models` says that one is built or run: what loads kernels is imported first, to be found behind the door. For a
    tokenizer that would be a second spent on nothing.
    """
    _here.depth = _depth() + 1
    try:
        _door.enter(models)
        try:
            yield
        finally:
            _door.leave()
    finally:
        _here.depth -= 1


@contextmanager
def opened() -> Iterator[None]:
    """Open again for this thread while it lasts: for what belongs to the caller, who hears of records."""
    depth = _depth()
    _here.depth = 0
    try:
        yield
    finally:
        _here.depth = depth


_here = threading.local()


def _depth() -> int:
    """How many times over this thread has shut the door."""
    found: int = getattr(_here, "depth", 0)
    return found


class _Door:
    """What stands in the doorway while any thread has it shut, and how all of it is taken out again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._put_back: list[Callable[[], None]] = []
        self._kernels: set[str] = set()

    def enter(self, models: bool) -> None:
        with self._lock:
            try:
                if self._inside == 0:
                    self._hang()
                self._hang_before_kernels(models)
            except BaseException:
                if self._inside == 0:
                    self._unhang()
                raise
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._unhang()

    def _hang(self) -> None:
        from huggingface_hub import constants

        self._refuse(socket.socket, ("connect", "connect_ex", "sendto"), _refusing_addresses)
        self._refuse(socket, _LOOK_UPS, partial(_refusing, wanted="network"))
        self._swap(constants, "HF_HUB_OFFLINE", _Offline(constants.HF_HUB_OFFLINE))

    def _hang_before_kernels(self, models: bool) -> None:
        if models:
            with suppress(ImportError):  # another release of transformers may keep it elsewhere
                import_module("transformers.integrations.hub_kernels")
        for module in _KERNELS:
            if module in sys.modules and module not in self._kernels:
                self._kernels.add(module)
                self._refuse(sys.modules[module], _KERNELS[module], partial(_refusing, wanted="kernel"))

    def _refuse(self, owner: Any, names: Iterable[str], instead: Callable[[Any], Any]) -> None:
        """Puts a function that refuses in the place of each that is there; a sandbox may have taken some away."""
        for name in names:
            if hasattr(owner, name):
                self._swap(owner, name, instead(getattr(owner, name)))

    def _unhang(self) -> None:
        self._kernels.clear()
        while self._put_back:
            self._put_back.pop()()

    def _swap(self, owner: Any, name: str, new: Any) -> None:
        """Puts `new` in a name's place; it stays where somebody has put theirs over it since, and does no harm."""
        own = name in vars(owner)
        before = getattr(owner, name)

        def put_back() -> None:
            if vars(owner).get(name) is not new:
                return
            if own:
                setattr(owner, name, before)
            else:
                delattr(owner, name)

        setattr(owner, name, new)
        self._put_back.append(put_back)


_door = _Door()


class _Offline:
    """What huggingface_hub takes for its constant meanwhile: true behind the door, elsewhere what it was."""

    def __init__(self, before: Any) -> None:
        self._before = before

    def __bool__(self) -> bool:
        return _depth() > 0 or bool(self._before)

    def __repr__(self) -> str:
        return repr(bool(self))


def _refusing(original: Callable[..., Any], wanted: str) -> Callable[..., Any]:
    """The same function, refused where the door is shut."""

    @wraps(original)
    def instead(*args: Any, **options: Any) -> Any:
        if _depth() > 0:
            raise Shut(wanted)
        return original(*args, **options)

    return instead


def _refusing_addresses(original: Callable[..., Any]) -> Callable[..., Any]:
    """The same method of a socket, refused where the door is shut; sockets within this machine's files are not."""

    @wraps(original)
    def instead(self: socket.socket, *args: Any) -> Any:
        if _depth() > 0 and self.family in (socket.AF_INET, socket.AF_INET6):
            raise Shut("network")
        return original(self, *args)

    return instead
