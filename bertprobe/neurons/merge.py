"""Several scans made one: of several corpora, or the parts of one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bertprobe.errors import OutputError, printable
from bertprobe.export.files import RunFolder
from bertprobe.neurons.folder import ScanFolder
from bertprobe.neurons.job import save
from bertprobe.neurons.state import State
from bertprobe.sharded import NAME, WHOLE, Manifest, Part, check_alike, check_done, in_order, joined, worst_of
from bertprobe.sharded import manifest as manifests


def merge_scans(folders: Sequence[ScanFolder], path: Path) -> Manifest:
    """Writes one scan of several to a new folder, and gives its manifest.

    Scans of several corpora are put in the order they are named; parts of one plan in its own, as if nobody had cut it.

    Raises `OutputError` where they are of different models or options, one is not done, or a part is missing.
    """
    target = RunFolder(path, NAME)
    if target.text() is not None:
        raise OutputError(f"{printable(str(path))} is there already", "choose another folder")
    found = [(folder.path, folder.manifest) for folder in folders]
    if any(Part.of_manifest(manifest) != WHOLE for _, manifest in found):
        found = in_order(found)
        manifest = joined([manifest for _, manifest in found])
    else:
        check_alike(found)
        check_done(found)
        manifest = found[0][1]
        for _, other in found[1:]:
            manifest = _both(manifest, other)
    states = {folder.path: folder.state for folder in folders}
    state = State({})
    for place, _ in found:
        state = state.joined(states[place].sites, states[place].done, folders[0].kept)
    with target as opened:
        save(opened, state)
        manifests.write(opened, manifest)
    return manifest


def _both(one: Manifest, two: Manifest) -> Manifest:
    """The manifest of the scan of both corpora."""
    files, shards = len(one["corpus"]["files"]), len(one["shards"])
    moved = [{**s, "number": s["number"] + shards, "file": s["file"] + files} for s in two["shards"]]
    return {
        **one,
        "corpus": {**one["corpus"], "files": [*one["corpus"]["files"], *two["corpus"]["files"]]},
        "verify": worst_of([one, two]),
        **{key: one[key] + two[key] for key in manifests.sums_in(one)},
        "shards": [*one["shards"], *moved],
    }
