"""A shard written by another process, which is told how to open what this one has open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bertprobe.corpus import Corpus, Shard
from bertprobe.export.files import marked
from bertprobe.export.places import run_place
from bertprobe.extract.opening import opened, run_of
from bertprobe.extract.rows import Keeper
from bertprobe.extract.shard import Work, write_shard
from bertprobe.extract.wish import Wish
from bertprobe.run import Compute
from bertprobe.run.sentence import sentence_of
from bertprobe.sharded import NAME, Manifest, Part
from bertprobe.sharded.elsewhere import CorpusAgain, ModelAgain, anywhere, check_same, check_there


@dataclass(frozen=True, slots=True)
class ShardWriting:
    """All that a process has to know that writes shards of a run to the `place` of it; `run` is its manifest's head."""

    model: ModelAgain
    corpus: Corpus
    place: str
    wish: Wish
    compute: Compute
    truncate: bool
    run: Manifest

    @classmethod
    def of(cls, work: Work, place: str, compute: Compute, truncate: bool, manifest: Manifest) -> ShardWriting:
        """That of a run that is planned; raises `BadSetting` where only this process can read its corpus."""
        told = manifest["compute"]
        return cls(
            ModelAgain.of(work.runner.checkpoint),
            anywhere(work.corpus),
            place,
            work.keeper.wish,
            replace(compute, device=told["device"], threads=told["threads"]),
            truncate,
            {key: value for key, value in manifest.items() if key != "shards"},
        )

    def open(self) -> Callable[[Shard, int], Mapping[str, Any]]:
        """What writes a shard and tells what it came to; what is opened must be what the manifest says."""
        check_there(self.place)
        checkpoint, anatomy = self.model.open()
        sentence = sentence_of(checkpoint, self.wish.prompt) if "sentence" in self.wish.vectors else None
        keeper = Keeper(self.wish, self.wish.columns(checkpoint, anatomy), sentence)
        work = opened(checkpoint, anatomy, self.corpus, keeper, self.compute, self.truncate)
        part = Part.of_manifest(self.run)
        check_same(self.run, run_of(work, self.compute, self.truncate, self.run["options"]["shard_text"], part))
        corpus, folder = CorpusAgain(self.corpus), run_place(self.place, NAME, marked())

        def written(shard: Shard, first: int) -> Mapping[str, Any]:
            documents = corpus.documents(shard)
            return write_shard(work, folder, shard, documents, first, lambda texts, tokens: None).told

        return written
