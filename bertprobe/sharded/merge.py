"""Parts of one plan, put in their order: what has to be true of them before they are made one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bertprobe.errors import OutputError, printable
from bertprobe.sharded.manifest import Manifest, differences, sums_in
from bertprobe.sharded.part import WHOLE, Part

Found = tuple[Path, Manifest]


def check_alike(folders: Sequence[Found]) -> None:
    """Raises `OutputError` where runs are of other models or options; where they were computed may differ."""
    (first, one), *others = folders
    for path, other in others:
        if found := differences(_comparable(one), _comparable(other)):
            raise OutputError(
                f"{printable(str(path))} and {printable(str(first))} differ: {'; '.join(found[:3])}",
                "run both with one model and the same options",
            )


def check_done(folders: Sequence[Found]) -> None:
    """Raises `OutputError` where a run is not at its end."""
    for path, manifest in folders:
        if not manifest["complete"]:
            raise OutputError(f"{printable(str(path))} is not done", "repeat its command to go on with it")


def in_order(folders: Sequence[Found]) -> list[Found]:
    """All the parts of one plan in their order.

    Raises `OutputError` where one is no part, not done, of another plan, there twice or missing.
    """
    check_alike(folders)
    by_part: dict[Part, Found] = {}
    plans = [_plan(manifest) for _, manifest in folders]
    for (path, manifest), plan in zip(folders, plans, strict=True):
        part = Part.of_manifest(manifest)
        if part == WHOLE:
            raise OutputError(f"{printable(str(path))} is no part but a whole run", "leave it as it is")
        if plan != plans[0] or part.of != Part.of_manifest(folders[0][1]).of:
            raise OutputError(
                f"{printable(str(path))} is a part of another plan than {printable(str(folders[0][0]))}",
                "run all parts with one corpus, in one order of its files, and with one number of parts",
            )
        if part in by_part:
            raise OutputError(
                f"{printable(str(path))} and {printable(str(by_part[part][0]))} are both part {part}",
                "name one of them",
            )
        by_part[part] = (path, manifest)
    parts = [Part(number + 1, next(iter(by_part)).of) for number in range(next(iter(by_part)).of)]
    if missing := [str(part) for part in parts if part not in by_part]:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise OutputError(f"part {', '.join(missing[:3])}{more} is not among them", "name the folders of all parts")
    found = [by_part[part] for part in parts]
    check_done(found)
    return found


def joined(manifests: Sequence[Manifest]) -> Manifest:
    """The manifest of the whole run whose parts these are, in their order."""
    first = manifests[0]
    shards = [
        next((part["shards"][number] for part in manifests if part["shards"][number]["done"] is not None), shard)
        for number, shard in enumerate(first["shards"])
    ]
    whole = {**first, "part": None, "verify": worst_of(manifests), "complete": True, "shards": shards}
    whole |= {key: sum(manifest[key] for manifest in manifests) for key in sums_in(first)}
    origins = [{key: manifest[key] for key in ("compute", "made_by")} for manifest in manifests]
    # Which machine computed a part is worth keeping where they were not alike: last digits are theirs.
    return whole if all(origin == origins[0] for origin in origins) else {**whole, "parts": origins}


def worst_of(manifests: Sequence[Manifest]) -> dict[str, Any] | None:
    """The stamp of several runs: the texts of all, the largest difference."""
    stamps = [manifest["verify"] for manifest in manifests if manifest["verify"] is not None]
    worst = max(stamps, key=lambda stamp: (not stamp["holds"], stamp["largest_difference"]), default=None)
    return None if worst is None else {**worst, "texts": sum(stamp["texts"] for stamp in stamps)}


def _comparable(manifest: Manifest) -> Manifest:
    compute = {"dtype": manifest["compute"]["dtype"]}
    return {**manifest, "corpus": None, "compute": compute, "made_by": None, "part": None}


def _plan(manifest: Manifest) -> Any:
    """What a corpus is cut into; where its files lie does not count."""
    files = [{**file, "path": ""} for file in manifest["corpus"]["files"]]
    return {**manifest["corpus"], "files": files}, [{**shard, "done": None} for shard in manifest["shards"]]
