"""Two scans of one model and corpus beside each other, as of a model as it is and with neurons taken out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bertprobe.errors import BadSetting, printable
from bertprobe.neurons.ablation import ablated_in
from bertprobe.neurons.folder import ScanFolder, numbered
from bertprobe.neurons.scan import SiteScan


@dataclass(frozen=True, slots=True)
class MovedRow:
    """A neuron in two scans: its means and standard deviations over the corpus, `beside` those of the other scan.

    `mean_moved` and `std_moved` are by how many of the other scan's deviations they lie elsewhere, above it or below;
    infinite where that scan has it at one value on every token.
    """

    layer: int
    neuron: int
    mean: float
    mean_beside: float
    std: float
    std_beside: float
    mean_moved: float
    std_moved: float

    @property
    def name(self) -> str:
        return f"{self.layer}.{self.neuron}"


def moved_rows(
    folder: ScanFolder, other: ScanFolder, layers: tuple[int, ...] | None = None, most: int = 20
) -> list[MovedRow]:
    """The neurons that differ between two scans, those first whose mean or deviation moved most; `most` 0 is all.

    How far they moved is counted in the other scan's deviations. Neurons that were taken out in one of them are left
    out. `layers` None are all that both have.

    Raises `BadSetting` for scans of two models or of two corpora.
    """
    check_comparable(folder, other)
    ours, theirs = (numbered(found.state.sites) for found in (folder, other))
    chosen = [layer for layer in ours if layer in theirs and (layers is None or layer in layers)]
    found: list[tuple[float, MovedRow]] = []
    for layer in chosen:
        own = {number for scan in (folder, other) for number in _taken_out(scan, layer)}
        rows = _rows(layer, folder.state.sites[ours[layer]], other.state.sites[theirs[layer]])
        found += [(by, row) for by, row in rows if row.neuron not in own]
    found.sort(key=lambda pair: -pair[0])
    return [row for _, row in found[: most or None]]


def _rows(layer: int, one: SiteScan, other: SiteScan) -> list[tuple[float, MovedRow]]:
    """The neurons of a layer that are not the same in both scans, each with how far it differs."""
    import numpy as np

    mean, std = one.sums.means, one.sums.deviations
    mean_beside, std_beside = other.sums.means, other.sums.deviations
    with np.errstate(divide="ignore", invalid="ignore"):
        moved, spread = (mean - mean_beside) / std_beside, (std - std_beside) / std_beside
    columns = (mean, mean_beside, std, std_beside, moved, spread)
    differing = np.flatnonzero((mean != mean_beside) | (std != std_beside)).tolist()
    return [
        (float(max(abs(moved[i]), abs(spread[i]))), MovedRow(layer, i, *(float(column[i]) for column in columns)))
        for i in differing
    ]


def _taken_out(folder: ScanFolder, layer: int) -> tuple[int, ...]:
    """The neurons of a module that a scan's model did without; layers that share a module are turns of it."""
    ablation = ablated_in(folder.manifest)
    part = numbered(folder.state.sites)[layer].part
    return () if ablation is None else tuple(ablation.neurons.get(int(part.rpartition(".")[2]), ()))


def check_comparable(folder: ScanFolder, other: ScanFolder) -> None:
    """Raises `BadSetting` where two scans are of two models, or not of the same texts."""
    places = " and ".join(printable(str(found.path)) for found in (folder, other))
    if folder.manifest["model"]["files"] != other.manifest["model"]["files"]:
        raise BadSetting(f"{places} are scans of two models", "name scans of one model")
    if _texts(folder.manifest) != _texts(other.manifest) or folder.tokens != other.tokens:
        raise BadSetting(f"{places} are not of the same texts", "scan one corpus with the same options")


def _texts(manifest: Mapping[str, Any]) -> Any:
    """What decides which tokens a scan saw; where the files of the corpus lie does not count."""
    corpus = manifest["corpus"]
    files = [file["sha256"] for file in corpus["files"]]
    return files, corpus["field"], corpus["skip_bad"], manifest["options"]["truncate"], manifest["part"]
