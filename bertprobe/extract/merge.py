"""The parts of a run that was computed in several folders, made one folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bertprobe.errors import OutputError, printable
from bertprobe.export.files import RunFolder
from bertprobe.extract.estimate import Estimate
from bertprobe.extract.reading import ActivationFolder
from bertprobe.sharded import ACTIVATIONS, NAME, Manifest, differing, in_order, joined
from bertprobe.sharded import manifest as manifests


def merge_parts(folders: Sequence[ActivationFolder], path: Path) -> ActivationFolder:
    """Puts the shards of all parts of a run into one folder, where no file is copied that the disk can link.

    What is there in the end is what the run would have written in one piece. An interrupted merge is gone on with.

    Raises `OutputError` where they are not all parts of one run, or the folder holds something else.
    """
    found = in_order([(folder.path, folder.manifest) for folder in folders])
    whole = _with_estimate(joined([manifest for _, manifest in found]), [manifest for _, manifest in found])
    target = RunFolder(path, NAME)
    text = target.text()
    if text is not None:
        other = differing(target, ACTIVATIONS, ACTIVATIONS.parsed(text, str(path / NAME)), whole)
        if other is not None:
            raise other
    needed = sum(
        file["bytes"]
        for shard in whole["shards"]
        for name, file in shard["done"]["files"].items()
        if not target.has(name, file["bytes"])
    )
    if needed > target.free and any(folder.stat().st_dev != _disk(path) for folder, _ in found):
        raise OutputError(
            f"{printable(str(path))} needs {needed:,} more bytes, its disk has {target.free:,} left",
            "choose the disk on which the parts are, where nothing is copied",
        )
    with target as opened:
        begun = {**whole, "complete": False, "shards": [{**shard, "done": None} for shard in whole["shards"]]}
        if text is None:
            manifests.write(opened, begun)
        for part, manifest in found:
            for shard in manifest["shards"]:
                for name, file in ({} if shard["done"] is None else shard["done"]["files"]).items():
                    opened.take(name, part / name, file["bytes"], file["sha256"])
        manifests.write(opened, whole)
    return ActivationFolder(path, whole)


def _with_estimate(whole: Manifest, parts: Sequence[Manifest]) -> Manifest:
    """What was expected of the parts, added up."""
    expected = [Estimate(**part["expected"]) for part in parts]
    return {**whole, "expected": asdict(sum(expected[1:], expected[0]))}


def _disk(path: Path) -> int:
    return (path if path.is_dir() else path.absolute().parent).stat().st_dev
