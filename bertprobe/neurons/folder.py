"""A scan that lies in a folder: `open_scan`, and whether a model is the one that was scanned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertprobe.checkpoint import Checkpoint
from bertprobe.errors import NotFound, printable
from bertprobe.export.tensors import digests
from bertprobe.neurons import state as states
from bertprobe.neurons.scan import Kept
from bertprobe.neurons.state import State
from bertprobe.sharded import NAME, NEURONS, Manifest


@dataclass(frozen=True, slots=True)
class ScanFolder:
    """A scan that is done: its manifest and what was found."""

    path: Path
    manifest: Manifest
    state: State

    @property
    def kept(self) -> Kept:
        options: Mapping[str, Any] = self.manifest["options"]
        return Kept(options["top"], options["drawn"], tuple(options["thresholds"]))


def open_scan(path: Path) -> ScanFolder:
    """Reads the folder that `neurons scan` or `neurons merge` wrote; of a scan under way what is saved of it."""
    try:
        text = (path / NAME).read_text("utf-8")
    except (OSError, ValueError) as error:
        raise NotFound(
            f"{printable(str(path))} has no {NAME}", "name the folder that bertprobe neurons scan wrote"
        ) from error
    return ScanFolder(path, NEURONS.parsed(text, str(path / NAME)), states.load(path / states.NAME))


def check_model(folder: ScanFolder, checkpoint: Checkpoint) -> None:
    """Raises `NotFound` where a checkpoint is not the one that was scanned, by the hashes of its files."""
    if digests(checkpoint, checkpoint.files) != folder.manifest["model"]["files"]:
        raise NotFound(
            f"{printable(checkpoint.ref)} is not the model that was scanned: the sha256 of its weights differs",
            "name that one",
        )
