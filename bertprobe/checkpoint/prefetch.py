"""Reads in order, side by side where a source can: over a network most of the time is spent waiting."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Protocol, TypeVar

from bertprobe.checkpoint.source import Memory, Source

if TYPE_CHECKING:
    from concurrent.futures import Future

IN_FLIGHT = 128 * 2**20  # bytes asked for and not yet used, so that memory does not follow the number of tensors


class Range(Protocol):
    """Bytes `start` to `stop` of a source."""

    @property
    def source(self) -> Source: ...
    @property
    def start(self) -> int: ...
    @property
    def stop(self) -> int: ...


R = TypeVar("R", bound=Range)


def prefetch(ranges: Sequence[R], memory: Memory | None = None) -> Iterator[tuple[R, memoryview]]:
    """Each range with its bytes, in the order given; as many at a time as their source serves side by side.

    What is read one at a time is read into `memory`, where some is given.
    """
    max_parallel = max((wanted.source.max_parallel for wanted in ranges), default=1)
    if max_parallel == 1:
        for wanted in ranges:
            yield wanted, wanted.source.load(wanted.start, wanted.stop, memory)
        return
    from concurrent.futures import Future

    # Not an executor: when a run fails or is interrupted, nobody should wait for what is still on its way.
    queue: SimpleQueue[tuple[Future[memoryview], R] | None] = SimpleQueue()
    workers = [Thread(target=_work, args=(queue,), daemon=True) for _ in range(min(max_parallel, len(ranges)))]
    for worker in workers:
        worker.start()
    asked: deque[tuple[R, Future[memoryview]]] = deque()
    in_flight = 0
    try:
        for wanted in ranges:
            while asked and (len(asked) >= max_parallel or in_flight + wanted.stop - wanted.start > IN_FLIGHT):
                done, future = asked.popleft()
                in_flight -= done.stop - done.start
                yield done, future.result()
            future = Future()
            queue.put((future, wanted))
            asked.append((wanted, future))
            in_flight += wanted.stop - wanted.start
        while asked:
            done, future = asked.popleft()
            yield done, future.result()
    finally:
        for _, future in asked:
            future.cancel()
        for _ in workers:
            queue.put(None)


def _work(queue: SimpleQueue[tuple[Future[memoryview], R] | None]) -> None:
    while (job := queue.get()) is not None:
        future, wanted = job
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(wanted.source.load(wanted.start, wanted.stop))
        except BaseException as error:  # it is raised again where the bytes are wanted
            future.set_exception(error)
