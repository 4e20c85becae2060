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


def workers_for(batches: Iterator[B], most: Callable[[], int]) -> tuple[int, Iterator[B]]:
    """How many workers so many batches are worth, and the batches, as if nobody had looked.

    `most` is asked only where there is more than one batch: of a single text nobody waits for the answer.
    """
    known = list(islice(batches, 2))
    workers = most() if len(known) > 1 else 1
    if workers > 1:
        known += islice(batches, WORTH_SHARING * workers - len(known))
    return workers if len(known) == WORTH_SHARING * workers else 1, chain(known, batches)


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
