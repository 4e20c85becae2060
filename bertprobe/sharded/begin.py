"""Whether a run begins anew or goes on with one that is there, and what has to be the same for that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bertprobe.anatomy import Anatomy
from bertprobe.anatomy.native import why_not_native
from bertprobe.errors import OutputError, printable
from bertprobe.export.places import RunPlace
from bertprobe.run import Compute
from bertprobe.sharded.elsewhere import Actors, placed
from bertprobe.sharded.manifest import Kind, Manifest, differences


def read_begun(folder: RunPlace, kind: Kind) -> Manifest | None:
    """The manifest of the run that a folder holds, None where none began there.

    Raises `OutputError` where it cannot be gone on with, `CorruptFile` where it is none of that kind.
    """
    text = folder.text()
    if text is None:
        return None
    old = kind.parsed(text, f"{folder.place}/{folder.head}")
    if any(not file["sha256"] for file in old["corpus"]["files"]):
        raise OutputError(
            f"{printable(folder.place)} was made of stdin, which cannot be read again", "choose another folder"
        )
    return old


def differing(folder: RunPlace, kind: Kind, old: Manifest, run: Mapping[str, Any]) -> OutputError | None:
    """Why a run cannot go on in a folder whose run is another one; None where it is the same."""
    found = differences(old, run)
    if not found:
        return None
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return OutputError(
        f"{printable(folder.place)} holds another {kind.run}: {'; '.join(found[:3])}{more}",
        "repeat its command to go on with it, or choose another folder",
    )


def decided(compute: Compute, anatomy: Anatomy, old: Manifest | None, actors: Actors | None = None) -> Compute:
    """How to compute, with what was left open as it was when the run began: another machine must not go on otherwise.

    A corpus is worth the import of torch, whatever its first texts are. Raises `BadSetting` where `actors` cannot.
    """
    if actors is not None:
        compute = placed(compute, actors, old)
    was: Mapping[str, Any] = {} if old is None else old["compute"]
    native = why_not_native(anatomy) is None
    backend = str(was.get("backend", "torch")) if compute.backend == "auto" and native else compute.backend
    return replace(
        compute,
        backend=backend,
        device=str(was.get("device", "auto")) if compute.device == "auto" else compute.device,
        threads=was.get("threads") if compute.threads is None else compute.threads,
        batch_tokens=was.get("batch_tokens") if compute.batch_tokens is None else compute.batch_tokens,
    )
