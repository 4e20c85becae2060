"""Shards computed by actors of Ray: the only module that knows it.

An actor opens the model once and is given a shard at a time; what it hands back is what the manifest or a state gains,
never rows. An actor that is lost, with its process or its machine, costs the shard it had: the next free actor computes
that, and another actor begins when there is room for one. Ray is asked to try nothing again by itself: a task of its
own pools waits for the actor it was given to, and with it all that stands behind it in order, also where no machine is
left for that actor.
"""

from __future__ import annotations

import heapq
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from typing import IO, Any

from bertprobe.corpus import Shard
from bertprobe.errors import BadSetting, BertprobeError, NotFound, UnsupportedFile, printable
from bertprobe.notices import say
from bertprobe.sharded.elsewhere import Actors, Task

AHEAD = 2  # shards for each actor that may be done before the one that is next in order: memory holds them
PATIENCE = 30.0  # seconds without any actor after which it is said that none begins
LISTENING = 10.0  # seconds in which the head of a cluster has to answer
LOSSES = 10  # of actors that computed one shard: then it is not the machines
PAUSE = (
    5.0  # seconds after which an actor that did not begin is tried again: a machine that is gone is not known at once
)
GIVING_UP = 180.0  # seconds in which none begins and none is at work

Item = tuple[Shard, int]
"""A shard and the number of its first text."""


class _Worker:
    """An actor: errors of ours are handed back as values, so that nobody takes them for the loss of a machine."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._compute: Callable[[Shard, int], Any] | None = None

    def open(self) -> BertprobeError | None:
        try:
            self._compute = self._task.open()
        except BertprobeError as error:
            return error
        return None

    def compute(self, item: Item) -> Any:
        if self._compute is None:
            raise RuntimeError("open comes first")
        try:
            return self._compute(*item)
        except BertprobeError as error:
            return error


def computed(
    actors: Actors, task: Task, left: Sequence[Item], threads: int, *, ordered: bool = False
) -> Generator[tuple[Shard, Any]]:
    """The shards that are left with what a task makes of each, as they are done or, `ordered`, as they stand.

    Closing the iterator ends the actors. In order, memory holds what some shards for each actor came to.

    Raises:
        UnsupportedFile: Ray is not installed.
        NotFound: there is no cluster at the address.
        BertprobeError: of an actor, as the task raises it; or actors are lost again and again.
    """
    if not left:
        return
    ray = _ray()
    with _cluster(ray, actors, threads, len(left)):
        count = actors.count or _room(ray, threads, actors.gpus)
        count = max(1, min(count, len(left)))
        cpus = threads if not actors.gpus else 1
        kind = ray.remote(_Worker).options(num_cpus=cpus, num_gpus=actors.gpus, max_restarts=0, max_task_retries=0)
        pool = _Pool(ray, lambda: kind.remote(task), left, count, AHEAD * count if ordered else len(left))
        try:
            yield from pool.in_order() if ordered else pool.as_done()
        finally:
            pool.end()


@dataclass(slots=True)
class _Given:
    """What an actor was asked: to open, or the place of an item."""

    actor: Any
    place: int | None


class _Pool:
    """Actors that take the next shard when they are free."""

    def __init__(self, ray: Any, begin: Callable[[], Any], left: Sequence[Item], count: int, ahead: int) -> None:
        self._ray, self._begin, self._left, self._ahead = ray, begin, left, ahead
        self._waiting = list(range(len(left)))  # a heap: what was lost is next
        self._given: dict[Any, _Given] = {}
        self._free: list[Any] = []
        self._losses: Counter[int] = Counter()
        self._next = 0  # in order: the first place that nobody has taken yet
        self._begun, self._answered = False, time.monotonic()
        self._due = [0.0] * count  # when an actor is to begin, of each that is not there

    def as_done(self) -> Iterator[tuple[Shard, Any]]:
        for place, found in self._found():
            yield self._left[place][0], found

    def in_order(self) -> Iterator[tuple[Shard, Any]]:
        early: dict[int, Any] = {}
        for place, found in self._found():
            early[place] = found
            while self._next in early:
                place, self._next = self._next, self._next + 1
                self._hand_out()
                yield self._left[place][0], early.pop(place)

    def end(self) -> None:
        """Ends the actors, whatever they are at."""
        for actor in (*self._free, *(given.actor for given in self._given.values())):
            self._kill(actor)

    def _found(self) -> Iterator[tuple[int, Any]]:
        done, said = 0, time.monotonic()
        while done < len(self._left):
            ready = self._answers()
            if not ready:
                if not self._begun and time.monotonic() - said >= PATIENCE:
                    say("the cluster has no room for an actor yet; waiting for one")
                    said = float("inf")
                continue
            place, found = self._taken(ready[0])
            self._hand_out()  # before the one who asks does something with it
            if place is not None:
                done += 1
                yield place, found

    def _answers(self) -> Sequence[Any]:
        """An answer of an actor, none where that takes long or an actor is to begin meanwhile."""
        now = time.monotonic()
        for due in [due for due in self._due if due <= now]:
            self._due.remove(due)
            actor = self._begin()
            self._given[actor.open.remote()] = _Given(actor, None)
        most = min([PATIENCE, *(due - now for due in self._due)])
        if not self._given:
            time.sleep(most)
            return ()
        ready: Sequence[Any] = self._ray.wait(list(self._given), num_returns=1, timeout=most)[0]
        return ready

    def _taken(self, answer: Any) -> tuple[int | None, Any]:
        """What an actor answered, None and nothing where it began or is lost."""
        errors = self._ray.exceptions
        given = self._given.pop(answer)
        try:
            found = self._ray.get(answer)
        except errors.RayTaskError:
            self._kill(given.actor)
            raise
        except errors.RayError as error:
            self._lost(given, error)
            return None, None
        self._free.append(given.actor)
        if isinstance(found, BertprobeError):
            raise found
        self._begun, self._answered = True, time.monotonic()
        return given.place, found

    def _lost(self, given: _Given, error: Exception) -> None:
        self._kill(given.actor)
        if given.place is None:
            self._not_begun(error)
            return
        self._losses[given.place] += 1
        number = self._left[given.place][0].number
        if self._losses[given.place] >= LOSSES:
            raise BertprobeError(
                f"shard {number} ended {LOSSES} actors ({_told(error)})",
                "look at the log of Ray; where memory is short, have fewer `actors=` or smaller `batch_tokens=`",
            ) from error
        say(f"an actor was lost: shard {number} is computed again")
        heapq.heappush(self._waiting, given.place)
        self._due.append(0.0)

    def _not_begun(self, error: Exception) -> None:
        """Of an error in its own beginning there is no other end; a machine that is gone gets some time to be known."""
        now, works = time.monotonic(), any(given.place is not None for given in self._given.values())
        if "creation task" in str(error) or (not works and now - self._answered > GIVING_UP):
            raise BertprobeError(
                f"an actor cannot begin ({_told(error)})",
                "have this version of bertprobe on all machines; the log of Ray has more",
            ) from error
        self._due.append(now + PAUSE)

    def _hand_out(self) -> None:
        while self._free and self._waiting and self._waiting[0] < self._next + self._ahead:
            place, actor = heapq.heappop(self._waiting), self._free.pop()
            self._given[actor.compute.remote(self._left[place])] = _Given(actor, place)

    def _kill(self, actor: Any) -> None:
        with suppress(self._ray.exceptions.RayError, ValueError):
            self._ray.kill(actor)


def _told(error: Exception) -> str:
    """What an error says: of one that was raised elsewhere the last line of its traceback, else its first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return printable(lines[-1] if "Traceback" in str(error) or "creation task" in lines[0] else lines[0])


# ------------------------------------------------------------------------------------------------ the cluster


def _ray() -> Any:
    """Ray, which comes with an extra; it reports nothing to anybody."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns that it will be so
    try:
        import ray
    except ImportError as error:
        raise UnsupportedFile("Ray is not installed", "run: pip install 'bertprobe[ray]'") from error
    return ray


@contextmanager
def _cluster(ray: Any, actors: Actors, threads: int, shards: int) -> Iterator[None]:
    """Joined, or made and ended again; one that the process has joined already is left as it is."""
    with redirect_stdout(_WithoutRay(sys.stdout)):
        if ray.is_initialized():
            yield
            return
        with _handlers_kept():
            _join(ray, actors, threads, shards)
        try:
            yield
        finally:
            ray.shutdown()


def _join(ray: Any, actors: Actors, threads: int, shards: int) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if actors.address != "local":
        try:
            _check_listening(actors.address)
            ray.init(address=actors.address, **quiet)
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise NotFound(
                f"there is no cluster of Ray at {printable(actors.address)} ({_told(error)})",
                "check the address, set RAY_AUTH_MODE=token where it asks for a token, or have one here: `ray=local`",
            ) from error
        return
    wanted = min(actors.count or 1, shards) * threads
    ray.init(address="local", num_cpus=max(wanted, os.cpu_count() or 1), include_dashboard=False, **quiet)
    if actors.gpus > ray.cluster_resources().get("GPU", 0):
        there = ray.cluster_resources().get("GPU", 0)
        ray.shutdown()
        raise BadSetting(f"`gpus_per_actor={actors.gpus:g}` is more than this machine's {there:g}", "choose fewer")


def _check_listening(address: str) -> None:
    """Raises `OSError` where nobody listens: Ray would try for two minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=LISTENING):
            pass


def _room(ray: Any, threads: int, gpus: float) -> int:
    """How many actors the cluster has room for, at least one: it may still grow."""
    there = ray.cluster_resources()
    by_cpus = there.get("CPU", 0) // (1 if gpus else threads)
    return int(min(by_cpus, there.get("GPU", 0) // gpus) if gpus else by_cpus)


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray has a signal end the process its own way; here, what is half done is cleaned up first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


class _WithoutRay:
    """stdout, but for what Ray says there of machines that are lost: we say it, and not among the results."""

    def __init__(self, below: IO[str]) -> None:
        self._below = below

    def write(self, text: str) -> int:
        if threading.current_thread().name.startswith("ray_"):
            return len(text)
        return self._below.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._below, name)
