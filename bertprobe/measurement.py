"""Weights read and measured: the numbers of many tensors, a few at a time on as many threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from bertprobe.checkpoint import DTYPES, read_tensors
from bertprobe.verdicts import Evidence, Finding, judge

if TYPE_CHECKING:
    from bertprobe.anatomy import Anatomy, Part
    from bertprobe.checkpoint import Checkpoint, TensorHeader
    from bertprobe.stats.numbers import Numbers

R = TypeVar("R")

Progress = Callable[[int], None]
"""Told how many bytes were dealt with since it was last called."""


def measure_parts(
    parts: Sequence[Part], *, spectrum: bool = False, bins: bool = False, progress: Progress | None = None
) -> dict[str, Numbers]:
    """Reads and measures every tensor of the parts, by canonical name.

    What is listed and cannot be read has no numbers; the rules `quantised` and `unreadable` say why. Memory follows the
    largest tensor, not their number.

    Args:
        parts: what to read, from `find_parts` or `select`.
        spectrum: whether all singular values of each matrix are computed, which takes far longer.
        bins: whether a histogram of each matrix is kept.
        progress: called with the bytes of each tensor that is done.

    Raises:
        CorruptFile: the bytes are not what the file's header promised.
        UnsupportedFile: a tensor's dtype is one that no array can hold.
    """
    from bertprobe.stats.fingerprint import fingerprint
    from bertprobe.stats.numbers import measure

    wanted = {name: h for part in parts for name, h in part.tensors.items() if h.refusal is None}

    def work(name: str, array: Any) -> tuple[str, Numbers]:
        try:
            numbers = measure(array, spectrum=spectrum and array.ndim > 1, bins=bins and array.ndim > 1)
            return name, replace(numbers, fingerprint=fingerprint(array))
        finally:
            if progress is not None:
                progress(wanted[name].nbytes)

    return dict(side_by_side(read_tensors(wanted), work))


def measure_others(wanted: Mapping[str, TensorHeader], *, progress: Progress | None = None) -> dict[str, Numbers]:
    """Reads the tensors that `others_of` gives and sums them up: no singular values are taken.

    Raises as `measure_parts` does.
    """
    from bertprobe.stats.fingerprint import fingerprint
    from bertprobe.stats.numbers import Numbers, summarize

    def work(name: str, array: Any) -> tuple[str, Numbers]:
        try:
            return name, Numbers(summarize(array), fingerprint=fingerprint(array))
        finally:
            if progress is not None:
                progress(wanted[name].nbytes)

    return dict(side_by_side(read_tensors(wanted), work))


def others_of(anatomy: Anatomy, parts: Sequence[Part]) -> dict[str, TensorHeader]:
    """The tensors that are none of the parts', by canonical name; of fused matrices whole, also of those in the parts.

    What is complex, or packed so that no array can hold it, is left out.
    """
    of_parts = {name for part in parts for name in part.tensors}
    return {
        name: header
        for name, header in anatomy.tensors.items()
        if name not in of_parts and header.refusal is None and is_real(header)
    }


def side_by_side(arguments: Iterable[tuple[Any, ...]], work: Callable[..., R]) -> list[R]:
    """What `work` makes of each tuple of arguments, in their order, on up to four threads.

    No more tuples are taken than there are threads to work on them, and one that is ready, so that memory does not
    follow their number: read_tensors' arrays are freed as they are done.
    """
    from concurrent.futures import ThreadPoolExecutor
    from threading import Semaphore

    threads = min(4, processors())
    free = Semaphore(threads + 1)

    def release_after(*given: Any) -> R:
        try:
            return work(*given)
        finally:
            free.release()

    with ThreadPoolExecutor(threads) as pool:
        jobs = []
        for given in arguments:
            free.acquire()
            jobs.append(pool.submit(release_after, *given))
            del given  # else it would live until the next one is read
        return [job.result() for job in jobs]


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def judge_part(checkpoint: Checkpoint, anatomy: Anatomy, label: str) -> tuple[Finding, ...]:
    """The findings on one part, which is read for it: whether what a pooler puts out means anything."""
    numbers = measure_parts([part for part in anatomy.parts if part.label == label])
    return tuple(found for found in judge(Evidence(checkpoint, anatomy, numbers)) if found.part == label)


class MeasureTee:
    """Numbers of tensors that somebody else reads, taken as they pass; what does not pass is read afterwards."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self._wanted = {name for part in parts for name in part.tensors}
        self._numbers: dict[str, Numbers] = {}

    def take(self, name: str, array: Any) -> None:
        """Measures a tensor by its canonical name, where it is one of the parts'."""
        from bertprobe.stats.numbers import measure

        if name in self._wanted:
            self._numbers[name] = measure(array)

    def numbers(self) -> dict[str, Numbers]:
        """The numbers of all tensors of the parts, by canonical name."""
        left = [
            replace(part, tensors={name: h for name, h in part.tensors.items() if name not in self._numbers})
            for part in self._parts
        ]
        return {**self._numbers, **measure_parts(left)}


def bytes_to_measure(parts: Iterable[Part]) -> int:
    """Bytes of all tensors of the parts: what a progress bar counts to."""
    return sum(header.nbytes for part in parts for header in part.tensors.values())


def is_real(header: TensorHeader) -> bool:
    """Whether an array of real numbers can hold a tensor."""
    dtype = DTYPES.get(header.dtype)
    return dtype is not None and dtype.numpy is not None and dtype.kind != "complex"
