"""What there is to say while something is under way: why a download waits, for instance.

A command tells it on stderr; without one it goes to the logger `bertprobe`, which is loaded only then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_listeners: list[Callable[[str], None]] = []


@contextmanager
def told(tell: Callable[[str], None]) -> Iterator[None]:
    """Has what is said within it told by a function."""
    _listeners.append(tell)
    try:
        yield
    finally:
        _listeners.remove(tell)


def say(message: str) -> None:
    """Says a sentence to whoever listens, else to the logger `bertprobe`, as a warning."""
    for tell in _listeners:
        tell(message)
    if not _listeners:
        import logging

        logging.getLogger("bertprobe").warning("%s", message)
