"""A scan that lies in a folder: `open_scan`, and whether a model is the one that was scanned."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertprobe.checkpoint import Checkpoint
from bertprobe.errors import NotFound, PartMissing, printable
from bertprobe.export.tensors import digests
from bertprobe.inputs import Input
from bertprobe.neurons import state as states
from bertprobe.neurons.scan import Kept, SiteScan
from bertprobe.neurons.state import State
from bertprobe.run.captured import Site
from bertprobe.sharded import NAME, NEURONS, Manifest


@dataclass(frozen=True, slots=True, repr=False)
class ScanFolder:
    """A scan that is done: its manifest and what was found; `scan.layer(3).sums.means` are the means of that layer.

    `manifest` is what manifest.json says, `state.sites` what was found by site: docs/exports.md tells both.
    """

    path: Path
    manifest: Manifest
    state: State

    @property
    def documents(self) -> int:
        """How many texts were read."""
        return self.state.documents

    @property
    def tokens(self) -> int:
        """How many tokens they have."""
        return sum(shard.tokens for shard in self.state.done)

    @property
    def neurons(self) -> int:
        """How many neurons were scanned."""
        return sum(len(scan.sums.squares) for scan in self.state.sites.values())

    def inputs(self) -> tuple[Input, ...]:
        """Its files as what is being read: as long as these are held, nothing that is written takes their place."""
        return tuple(Input(path) for path in sorted(self.path.iterdir()) if path.is_file())

    def layer(self, number: int) -> SiteScan:
        """What was found of a layer's neurons; raises `PartMissing` for a layer that was not scanned."""
        sites = self.sites()
        if number not in sites:
            raise PartMissing(f"layer {number} was not scanned", f"choose among {', '.join(map(str, sites))}")
        return self.state.sites[sites[number]]

    def sites(self) -> Mapping[int, Site]:
        """The sites by layer; raises `PartMissing` for a scan that no text ran through, such as a part of few."""
        if not self.state.sites:
            raise PartMissing(
                f"no text ran through the scan in {printable(str(self.path))}, so that it tells of no neuron",
                "merge it with the other parts, or scan more texts",
            )
        return numbered(self.state.sites)

    @property
    def kept(self) -> Kept:
        """How much was kept of each neuron."""
        options: Mapping[str, Any] = self.manifest["options"]
        return Kept(options["top"], options["drawn"], tuple(options["thresholds"]))

    def __repr__(self) -> str:
        return f"<ScanFolder {printable(str(self.path))}: {self.documents:,} documents, {self.tokens:,} tokens>"


def numbered(sites: Iterable[Site]) -> dict[int, Site]:
    """Sites by the number of their layer: where layers share a module, by their turn."""
    known = list(sites)
    if any(site.call for site in known):
        return dict(enumerate(known))
    return {int(site.part.rpartition(".")[2]): site for site in known}


def open_scan(path: str | os.PathLike[str]) -> ScanFolder:
    """Reads the folder that `neurons scan` or `neurons merge` wrote; of a scan under way what is saved of it.

    Raises:
        NotFound: there is no such folder, or nothing of a scan in it.
        CorruptFile: what is there is no scan of neurons, or damaged.
    """
    path = Path(path)
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
