"""A progress bar on stderr, for what takes long enough; rich is loaded only when the bar appears."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def progress(total: int, label: str, *, quiet: bool = False, after: float = 1.0) -> Iterator[Callable[[int], None]]:
    """A bar on stderr for what takes over a second, if stderr is a terminal; yields what to call with each step."""
    if quiet or not sys.stderr.isatty():
        yield lambda step: None
        return
    bar = _Bar(total, label, time.monotonic() + after)
    try:
        yield bar.advance
    finally:
        bar.stop()


@contextmanager
def progress_of_texts(
    tokens: int | None, label: str, *, quiet: bool = False, after: float = 1.0
) -> Iterator[Callable[[int, int], None]]:
    """The same for texts that run: yields what to call with texts and tokens; `tokens` None are nobody knows how many.

    It shows the texts that are done, tokens a second and the time left.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda texts, tokens: None
        return
    bar = _TextBar(tokens, label, time.monotonic() + after)
    try:
        yield bar.advance_by
    finally:
        bar.stop()


@contextmanager
def progress_of_neurons(
    total: int, label: str, *, quiet: bool = False, after: float = 1.0
) -> Iterator[Callable[[int], None]]:
    """The same for neurons: yields what to call with how many more are done."""
    if quiet or not sys.stderr.isatty():
        yield lambda step: None
        return
    bar = _NeuronBar(total, label, time.monotonic() + after)
    try:
        yield bar.advance
    finally:
        bar.stop()


class _Bar:
    """A rich progress bar that appears only when its time has come, and leaves nothing behind."""

    def __init__(self, total: int | None, label: str, due: float) -> None:
        self.total, self.label, self.due, self.done = total, label, due, 0
        self.bar: Any = None

    def advance(self, step: int) -> None:
        self.done += step
        if self.bar is None and time.monotonic() >= self.due:
            self.bar = self._start()
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=self.done, **self._told())

    def _told(self) -> dict[str, Any]:
        """What the columns say beside the bar."""
        return {}

    def _columns(self) -> tuple[Any, ...]:
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn

        return TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()

    def _start(self) -> Any:
        from rich.console import Console
        from rich.progress import Progress

        bar = Progress(*self._columns(), console=Console(stderr=True), transient=True)
        bar.add_task(self.label, total=self.total, **self._told())
        bar.start()
        return bar

    def stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()


class _TextBar(_Bar):
    """One that counts texts, and goes by their tokens."""

    def __init__(self, total: int | None, label: str, due: float) -> None:
        super().__init__(total, label, due)
        self.texts, self.start = 0, time.monotonic()

    def advance_by(self, texts: int, tokens: int) -> None:
        self.texts += texts
        self.advance(tokens)

    def _told(self) -> dict[str, Any]:
        rate = self.done / max(time.monotonic() - self.start, 1e-9)
        return {"texts": f"{self.texts:,} texts", "rate": f"{rate:,.0f} tokens/s"}

    def _columns(self) -> tuple[Any, ...]:
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

        told = TextColumn("{task.fields[texts]}, {task.fields[rate]}")
        return TextColumn("{task.description}"), BarColumn(), told, TimeRemainingColumn()


class _NeuronBar(_Bar):
    """One that counts neurons."""

    def _columns(self) -> tuple[Any, ...]:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

        return TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
