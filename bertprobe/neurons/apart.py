"""A shard scanned by another process, which is told how to open what this one has open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from bertprobe.corpus import Corpus, Shard
from bertprobe.neurons.opening import Options, opened, run_of
from bertprobe.neurons.scan import SiteScan
from bertprobe.neurons.shard import Work
from bertprobe.neurons.state import Done, State
from bertprobe.run import Compute, Site
from bertprobe.sharded import Manifest
from bertprobe.sharded.elsewhere import CorpusAgain, ModelAgain, anywhere, check_same

Scanned = tuple[Mapping[Site, SiteScan], Done]
"""What was found in a shard, whose documents count from 0, and what it came to."""


@dataclass(frozen=True, slots=True)
class ShardScanning:
    """All that a process has to know that scans shards of a scan whose manifest begins with `run`."""

    model: ModelAgain
    corpus: Corpus
    compute: Compute
    options: Options
    run: Manifest

    @classmethod
    def of(cls, work: Work, options: Options, manifest: Manifest) -> ShardScanning:
        """That of a scan that is planned, whose options say how it is computed."""
        told = manifest["compute"]
        return cls(
            ModelAgain.of(work.runner.checkpoint),
            anywhere(work.corpus),
            replace(options.compute, device=told["device"], threads=told["threads"]),
            options,
            {key: value for key, value in manifest.items() if key != "shards"},
        )

    def open(self) -> Callable[[Shard, int], Scanned]:
        """What scans a shard; what is opened must be what the manifest says."""
        checkpoint, anatomy = self.model.open()
        work = opened(checkpoint, anatomy, self.corpus, self.options, self.compute)
        check_same(self.run, run_of(work, self.options, self.compute))
        corpus, seen = CorpusAgain(self.corpus), _Seen()

        def scanned(shard: Shard, first: int) -> Scanned:
            sites, done = work.scanned(shard, corpus.documents(shard), seen.before(shard), lambda texts, tokens: None)
            seen.add(shard, sites, done, work)
            return sites, done

        return scanned


class _Seen:
    """What a process found in shards so far: those that stand before another spare it candidates."""

    def __init__(self) -> None:
        self._state, self._last = State({}), -1

    def before(self, shard: Shard) -> Mapping[Site, SiteScan]:
        return self._state.sites if self._last < shard.number else {}

    def add(self, shard: Shard, sites: Mapping[Site, SiteScan], done: Done, work: Work) -> None:
        if self._last < shard.number:
            self._state, self._last = self._state.joined(sites, [done], work.kept), shard.number
