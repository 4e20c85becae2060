"""A progress bar on stderr, for what takes long enough; rich is loaded only when the bar appears."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def progress(total: int, label: str, *, after: float = 1.0) -> Iterator[Callable[[int], None]]:
    """A bar on stderr for what takes over a second, if stderr is a terminal; yields what to call with each step."""
    if not sys.stderr.isatty():
        yield lambda step: None
        return
    bar = _Bar(total, label, time.monotonic() + after)
    try:
        yield bar.advance
    finally:
        bar.stop()


class _Bar:
    """A rich progress bar that appears only when its time has come, and leaves nothing behind."""

    def __init__(self, total: int, label: str, due: float) -> None:
        self.total, self.label, self.due, self.done = total, label, due, 0
        self.bar: Any = None

    def advance(self, step: int) -> None:
        self.done += step
        if self.bar is None and time.monotonic() >= self.due:
            self.bar = self._start()
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=self.done)

    def _start(self) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        bar = Progress(*columns, console=Console(stderr=True), transient=True)
        bar.add_task(self.label, total=self.total)
        bar.start()
        return bar

    def stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
