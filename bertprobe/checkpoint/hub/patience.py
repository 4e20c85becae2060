"""How long to wait for the Hub: for an answer, for each part of it, before asking again; and what is said meanwhile.

The HTTP library's time-outs are for one read of a socket, so for them a server that sends a byte now and then is never
late. What may take long therefore runs on a thread of its own, and whoever waits for it leaves when it takes too long:
a connection, headers, redirects and bodies alike, whatever they trickle. The threads are daemons: none keeps the
process from ending.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from threading import Lock, Thread
from typing import Any, TypeVar

from bertprobe import notices
from bertprobe.errors import HubError

TRIES = 6  # of one request, the first among them
SELDOM = 3  # of one whose failure seldom passes while one waits: no server hears it, or it sends next to nothing
FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0  # seconds; doubled each time
PATIENCE = 300.0  # seconds that the Hub may ask to wait, in all: its windows are of five minutes
SLOW_AFTER, SLOW = 30.0, 1024  # seconds, and bytes a second that each such time must bring
SILENCE = 3.0  # seconds; when more have passed or will pass without a word, the reason is said
FAREWELL = 2.0  # seconds for a thread to end after its connection was

T = TypeVar("T")


class Dropped(Exception):
    """A request that failed in a way that may pass.

    `after` is how long the server asked to wait, in seconds; `tries` is how often a request is made that fails in this
    way, and `hint` what to do when it was.
    """

    def __init__(
        self, reason: str, *, after: float | None = None, tries: int = TRIES, hint: str = "try again later"
    ) -> None:
        super().__init__(reason)
        self.after = after
        self.tries = tries
        self.hint = hint


class Unreachable(HubError):
    """The Hub does not answer, or only with errors of its own: what is in the local cache may still serve."""


class Patience:
    """How long one client still waits when it is asked to, all its requests together, and until when it has said so."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._left = PATIENCE
        self._spent = 0.0  # until when
        self._said = 0.0  # until when

    def spend(self, seconds: float, reason: str) -> None:
        """Takes from it what a server asks to wait; raises `HubError` when so much is not left.

        What several requests wait side by side counts once.
        """
        now = time.monotonic()
        with self._lock:
            more = max(0.0, now + seconds - max(now, self._spent))
            if more > self._left:
                raise HubError(
                    f"{reason}, and asks to wait {seconds:,.0f} seconds", "try again then, or log in: hf auth login"
                )
            self._left -= more
            self._spent = max(self._spent, now + seconds)

    def say(self, reason: str, since: float, seconds: float) -> None:
        """Logs why nothing came `since` a moment, and for how long nothing will, unless that was said or is short."""
        until = time.monotonic() + seconds
        with self._lock:
            if until - max(since, self._said) < SILENCE:
                return
            self._said = until
        again = f"in {seconds:,.0f} seconds" if seconds > 1 else "now"
        notices.say(f"{reason}; trying again {again}")


class Retries:
    """How often a request may still fail, and how long to wait before it is made again."""

    def __init__(self, what: str, patience: Patience, tries: int = TRIES) -> None:
        self._what = what
        self._patience = patience
        self._tries = tries
        self.restart()

    def restart(self) -> None:
        """After progress: the next failure is the first one again."""
        self._failed, self._wait, self._since = 0, FIRST_WAIT, time.monotonic()

    def wait(self, error: Dropped) -> None:
        """Waits as long as the server asked, else twice as long each time; raises `HubError` when that is enough."""
        if error.after is not None:
            self._patience.spend(error.after, f"{self._what}: {error}")
        self._failed += 1
        if self._failed >= min(self._tries, error.tries):
            often = f", {self._failed} times in a row" if self._failed > 1 else ""
            raise Unreachable(f"{self._what}: {error}{often}", error.hint) from error
        seconds = self._wait if error.after is None else error.after
        self._patience.say(f"{self._what}: {error}", self._since, seconds)
        time.sleep(seconds)
        self._wait = min(2 * self._wait, LONGEST_WAIT)


# ------------------------------------------------------------------------------------------------ threads


def started(call: Callable[[], T]) -> Future[T]:
    """A call on a thread of its own, and what will come of it."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # it is raised again where the result is wanted
            future.set_exception(error)

    Thread(target=work, daemon=True).start()
    return future


def is_done(future: Future[Any], seconds: float) -> bool:
    """Whether a call has ended by then."""
    return bool(wait((future,), max(0.0, seconds)).done)


class Pace:
    """Whether enough comes in: `SLOW` bytes a second in each stretch of `SLOW_AFTER` seconds, not on the average.

    On the average a megabyte at the start would make up for a quarter of an hour of next to nothing.
    """

    def __init__(self) -> None:
        self._began, self._had = time.monotonic(), 0

    def check(self, taken: int, host: str) -> None:
        """Raises `Dropped` at the end of a stretch that brought too little; `taken` are all bytes so far."""
        now = time.monotonic()
        if now - self._began < SLOW_AFTER:
            return
        if taken - self._had < SLOW * SLOW_AFTER:
            raise Dropped(f"{host} sends fewer than {SLOW:,} bytes a second", tries=SELDOM)
        self._began, self._had = now, taken


def keep_pace(reading: Future[Any], taken: Callable[[], int], host: str, within: float) -> None:
    """Waits until an answer is read; raises `Dropped` when it comes too slowly or takes more than `within` seconds."""
    pace, deadline = Pace(), time.monotonic() + within
    while not is_done(reading, min(SLOW_AFTER, deadline - time.monotonic())):
        if time.monotonic() >= deadline:
            raise Dropped(f"{host} does not end its answer within {within:g} seconds", tries=SELDOM)
        pace.check(taken(), host)


def hang_up(response: Any) -> None:
    """Ends the connection of an answer, so that the thread that reads from it wakes up and closes it.

    Not by closing it: the next connection could get its number while the thread still reads from that. And not by the
    socket's own `shutdown`, which over TLS would have the thread take what is encrypted for the answer.
    """
    stream = response.extensions.get("network_stream")
    connection = None if stream is None else stream.get_extra_info("socket")
    if isinstance(connection, socket.socket):
        with suppress(OSError):
            socket.socket.shutdown(connection, socket.SHUT_RDWR)
