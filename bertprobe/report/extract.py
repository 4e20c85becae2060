"""The report of `extract`: what was planned, what was done of it, and what lies in the folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertprobe.report import Column, Report, View, facts, report_of
from bertprobe.verdicts import Finding

if TYPE_CHECKING:
    from bertprobe.extract import ActivationFolder, Job, Outcome
    from bertprobe.extract.rows import Tensor
    from bertprobe.report import nodes
    from bertprobe.sharded import Manifest

    Copies = Mapping[str, Mapping[str, Any]]

UNITS = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


_COLUMNS = (
    Column("tensor", ("name",), "text"),
    Column("rows", ("rows",), "text"),
    Column("shape", ("shape",), "shape"),
    Column("dtype", ("dtype",), "text"),
)


def extraction(job: Job, outcome: Outcome | None = None, findings: Sequence[Finding] = ()) -> Report:
    """The report of a run, or without `outcome` of its plan."""
    counts = (job.manifest["documents"], job.manifest["tokens"])
    if not counts[0] and job.expected is not None:
        counts = (job.expected.documents, job.expected.tokens)
    tensors = list(_tensors(job.work.tensors, *counts))
    title = _expected(job) if outcome is None else _title(job.manifest, job.folder.place, job.copies)
    view = View("tensors", title, _COLUMNS, tuple(tensors))
    data = {
        "model": job.checkpoint.ref,
        "facts": facts(job.checkpoint, job.anatomy),
        "planned": _planned(job),
        "written": _written(job.manifest, job.folder.place, tensors, job.copies),
        "run": None if outcome is None else _run(job, outcome),
    }
    return report_of(data, [view], findings, warn_first=True)


def merged(folder: ActivationFolder, parts: Sequence[Path]) -> Report:
    """The report of a folder that was put together of parts."""
    tensors = list(_tensors(folder.tensors.values(), folder.documents, folder.tokens))
    view = View("tensors", _title(folder.manifest, str(folder.path), {}), _COLUMNS, tuple(tensors))
    data = {"parts": [str(part) for part in parts], "written": _written(folder.manifest, str(folder.path), tensors, {})}
    return report_of(data, [view], ())


def plan_line(job: Job) -> str:
    """What is to be written, against what the disk has left; and where a run is gone on with, how far it was."""
    path, free = job.folder.place, job.folder.free
    if not job.left and not job.to_turn:
        return f"{path} is complete: nothing is left to do"
    what = _expected(job)
    if job.resumed:
        done = len(job.own) - len(job.left)
        what = f"going on after {done:,} of {_count(len(job.own), 'shard')}: {what}"
    return f"{what} to {path}" if free is None else f"{what}; the disk of {path} has {_size(free)} left"


def done_line(outcome: Outcome) -> str:
    """What a command did, in a line."""
    rate = "" if outcome.rate is None else f", {outcome.rate:,.0f} tokens/s"
    return f"{_count(outcome.documents, 'text')}, {_count(outcome.tokens, 'token')} in {_time(outcome.seconds)}{rate}"


def _expected(job: Job) -> str:
    if job.expected is None or job.needed is None:
        return "how many texts come, and how much is written, cannot be known beforehand"
    about = "" if job.expected.exact else "about "
    texts = _count(job.expected.documents, "text")
    tokens = f"{about}{_count(job.expected.tokens, 'token')}"
    where = [_count(len(job.left), "shard")] if job.left or not job.to_turn else []
    where += ["the order of neurons"] if job.to_turn else []
    return f"{texts}, {tokens}: {about}{_size(job.needed)} to write, in {' and '.join(where)}"


def _title(told: Manifest, path: str, copies: Copies) -> str:
    found = [_count(told["documents"], "text"), _count(told["tokens"], "token")]
    found += [f"{_count(told['truncated'], 'text')} truncated"] if told["truncated"] else []
    found += [f"{_count(told['skipped'], 'bad row')} skipped"] if told["skipped"] else []
    written = [f"{_size(told['bytes'])} in {_count(_done(told), 'shard')}"]
    turned = sum(copy["bytes"] for copy in copies.values())
    written += [f"{_size(turned)} in the order of neurons"] if turned else []
    return f"{', '.join(found)}: {' and '.join(written)}, {path}"


def _planned(job: Job) -> nodes.PlannedRun:
    expected = job.expected
    return {
        "documents": None if expected is None else expected.documents,
        "tokens": None if expected is None else expected.tokens,
        "bytes": job.expected_bytes,
        "exact": expected is not None and expected.exact,
        "shards": len(job.own),
        "free": job.folder.free,
    }


def _written(told: Manifest, path: str, tensors: list[nodes.WrittenRows], copies: Copies) -> nodes.WrittenRun:
    return {
        "path": path,
        "complete": told["complete"],
        "shards": _done(told),
        "documents": told["documents"],
        "tokens": told["tokens"],
        "truncated": told["truncated"],
        "skipped": told["skipped"],
        "bytes": told["bytes"],
        "tensors": tensors,
        "by_neuron": [{"name": name, "file": copy["file"], "bytes": copy["bytes"]} for name, copy in copies.items()],
    }


def _done(told: Manifest) -> int:
    return sum(shard["done"] is not None for shard in told["shards"])


def _tensors(tensors: Iterable[Tensor], documents: int, tokens: int) -> Iterator[nodes.WrittenRows]:
    for tensor in tensors:
        shape = [tensor.count(documents, tokens), tensor.width]
        yield {"name": tensor.name, "rows": tensor.rows, "shape": shape, "dtype": tensor.dtype}


def _run(job: Job, outcome: Outcome) -> nodes.RunOutcome:
    return {
        "resumed": job.resumed,
        "documents": outcome.documents,
        "tokens": outcome.tokens,
        "seconds": outcome.seconds,
        "tokens_per_second": outcome.rate,
    }


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _size(count: int) -> str:
    return next((f"{count / step:.3g} {unit}" for unit, step in UNITS if count >= step), f"{count} bytes")


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if seconds >= 60 else f"{seconds:.1f} s"
