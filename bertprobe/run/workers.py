"""Batches side by side: workers of one thread each, that share the weights and take the next batch when they are free.

On a processor, an operation that is split over all threads waits for the slowest of them each time: where something
else keeps one core busy, that is most of the time. A batch to each thread waits for nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import TypeVar

B = TypeVar("B")
R = TypeVar("R")

WORTH_SHARING = 4  # batches for each worker: fewer are done sooner by all threads together
AHEAD = 4  # batches for each worker that are begun or done before the first of them has been taken


def enough_for(workers: int, batches: Iterator[B]) -> tuple[bool, Iterator[B]]:
    """Whether there are so many batches that workers are worth while, and the batches, as if nobody had looked."""
    if workers < 2:
        return False, batches
    known = list(islice(batches, WORTH_SHARING * workers))
    return len(known) == WORTH_SHARING * workers, chain(known, batches)


def in_workers(work: Callable[[B], R], batches: Iterable[B], workers: int, begin: Callable[[], None]) -> Iterator[R]:
    """What `work` makes of each batch, in the order of the batches; each worker calls `begin` first."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="batch", initializer=begin)
    try:
        begun: deque[Future[R]] = deque()
        for batch in batches:
            if len(begun) == AHEAD * workers:
                yield begun.popleft().result()
            begun.append(pool.submit(work, batch))
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
