"""Several scans made one: of several corpora, or the parts of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from bertprobe.errors import OutputError, printable
from bertprobe.export.files import RunFolder
from bertprobe.neurons import embedded
from bertprobe.neurons.embedded import EmbeddedTexts, Needed, embedded_in
from bertprobe.neurons.folder import ScanFolder
from bertprobe.neurons.job import save
from bertprobe.neurons.state import State
from bertprobe.notices import say
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
        manifest = dict(found[0][1])
        for _, other in found[1:]:
            manifest = _both(manifest, other)
    states = {folder.path: folder.state for folder in folders}
    state = State({})
    for place, _ in found:
        state = state.joined(states[place].sites, states[place].done, folders[0].kept)
    manifest.pop("texts", None)
    texts = _texts([(place, one, states[place].documents) for place, one in found])
    with target as opened:
        save(opened, state)
        if texts is not None:
            pieces = {id: piece for carried, _ in texts for id, piece in carried.pieces.items()}
            moved = (
                replace(passage, document=passage.document + before) for carried, before in texts for passage in carried
            )
            needed = Needed.of(state).of_passages(moved)
            manifest["texts"] = embedded.write(opened, needed, pieces.__getitem__)
        manifests.write(opened, manifest)
    return manifest


def _texts(scans: Sequence[tuple[Path, Manifest, int]]) -> list[tuple[EmbeddedTexts, int]] | None:
    """The texts of each scan, and how many documents come before its own; None, and a word, where one carries none."""
    carried = [embedded_in(path, manifest) for path, manifest, _ in scans]
    there = [texts for texts in carried if texts is not None]
    if len(there) < len(carried):
        if there:
            lacking = scans[carried.index(None)][0]
            say(f"the texts are left out, as {printable(str(lacking))} carries none")
        return None
    before = accumulate((documents for _, _, documents in scans), initial=0)
    return list(zip(there, before, strict=False))


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
