"""All neurons of a scan side by side, and the layers: who never fires, who always, who is choosy.

GELU and its kin have no exact zeros: "dead" is said of a threshold, and of zero before the activation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bertprobe.anatomy import layer_numbers
from bertprobe.errors import BadSetting, PartMissing, printable
from bertprobe.neurons.folder import ScanFolder, numbered
from bertprobe.neurons.scan import SiteScan
from bertprobe.run.captured import Site

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Doubles = npt.NDArray[np.float64]
    Flags = npt.NDArray[np.bool_]

ALWAYS = 0.95
"""Of the tokens: a neuron that is above zero on so many is almost always on."""


@dataclass(frozen=True, slots=True)
class NeuronRow:
    """One neuron's numbers; shares are of all tokens, `over` those above each of the scan's thresholds.

    `selectivity` is how many standard deviations the mean of its strongest tokens lies above its mean.
    """

    layer: int
    neuron: int
    mean: float
    std: float
    min: float
    max: float
    above_zero: float
    before_above_zero: float
    over: tuple[float, ...]
    selectivity: float

    @property
    def name(self) -> str:
        return f"{self.layer}.{self.neuron}"


@dataclass(frozen=True, slots=True)
class LayerRow:
    """A layer's neurons in counts: those that never are above each of `thresholds`, and those almost always on."""

    label: str
    layer: int
    neurons: int
    never: tuple[int, ...]
    always: int
    mean: float
    max: float


def layer_rows(folder: ScanFolder) -> list[LayerRow]:
    """A row a layer; the first threshold is zero before the activation, then those of the scan."""
    found = []
    for number, site in numbered(folder.state.sites).items():
        scan = folder.state.sites[site]
        sums = scan.sums
        never = (
            int((sums.before_highest <= 0).sum()),
            *(int((sums.highest <= t).sum()) for t in folder.kept.thresholds),
        )
        found.append(
            LayerRow(
                label=site.label,
                layer=number,
                neurons=len(sums.squares),
                never=never,
                always=int((sums.above >= ALWAYS * sums.tokens).sum()),
                mean=float(sums.means.mean()),
                max=float(sums.highest.max()),
            )
        )
    return found


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which neurons to list: `kind` all, dead, always or selective; `layers` None for all; how sorted and how many.

    `dead_at` is the threshold that a dead neuron's activation never is above. `most` 0 is all.
    """

    kind: str = "selective"
    layers: tuple[int, ...] | None = None
    sort: str | None = None
    dead_at: float = 0.0
    most: int = 20


SORTS = ("selectivity", "mean", "std", "min", "max", "above_zero", "before_above_zero")
_ORDERS = {"selective": "selectivity", "dead": "-max", "always": "above_zero", "all": ""}


def neuron_rows(folder: ScanFolder, wanted: Wanted = Wanted()) -> list[NeuronRow]:
    """The neurons asked for, the first by what they are sorted by; a minus before it turns that round."""
    import numpy as np

    sites = numbered(folder.state.sites)
    chosen = tuple(sites) if wanted.layers is None else wanted.layers
    if missing := [layer for layer in chosen if layer not in sites]:
        raise PartMissing(f"layer {missing[0]} was not scanned", f"choose among {', '.join(map(str, sites))}")
    order = _ORDERS[wanted.kind] if wanted.sort is None else wanted.sort
    if order.lstrip("-") not in (*SORTS, ""):
        raise BadSetting(f"neurons are not sorted by {printable(order)}", f"choose {', '.join(SORTS)}")
    found = []
    for layer in chosen:
        scan = folder.state.sites[sites[layer]]
        columns = columns_of(scan)
        found += [row_of(layer, neuron, columns, scan) for neuron in np.flatnonzero(_of_kind(scan, wanted)).tolist()]
    if order:
        found.sort(key=lambda row: getattr(row, order.lstrip("-")), reverse=not order.startswith("-"))
    return found[: wanted.most or None]


def _of_kind(scan: SiteScan, wanted: Wanted) -> Flags:
    sums = scan.sums
    dead: Flags = (sums.before_highest <= 0) if wanted.dead_at == 0 else (sums.highest <= wanted.dead_at)
    if wanted.kind == "dead":
        return dead
    always: Flags = sums.above >= ALWAYS * sums.tokens
    return always if wanted.kind == "always" else ~dead if wanted.kind == "selective" else dead | ~dead


def columns_of(scan: SiteScan) -> dict[str, Doubles]:
    """Means, deviations and selectivity of all neurons of a site, (I,) each."""
    import numpy as np

    means, deviations = scan.sums.means, scan.sums.deviations
    there = scan.strongest.where >= 0
    top = np.where(there, scan.strongest.values, 0).sum(1, dtype=np.float64) / np.maximum(there.sum(1), 1)
    selectivity = (top - means) / np.where(deviations > 0, deviations, np.inf)
    return {"mean": means, "std": deviations, "selectivity": selectivity}


def row_of(layer: int, neuron: int, columns: dict[str, Doubles], scan: SiteScan) -> NeuronRow:
    sums = scan.sums
    tokens = sums.tokens
    return NeuronRow(
        layer=layer,
        neuron=neuron,
        mean=float(columns["mean"][neuron]),
        std=float(columns["std"][neuron]),
        min=float(sums.lowest[neuron]),
        max=float(sums.highest[neuron]),
        above_zero=float(sums.above[neuron] / tokens),
        before_above_zero=float(sums.before_above[neuron] / tokens),
        over=tuple(float(count / tokens) for count in sums.over[:, neuron]),
        selectivity=float(columns["selectivity"][neuron]),
    )


def parse_neuron(text: str) -> tuple[int, int]:
    """The layer and neuron of a name such as 3.1203."""
    layer, _, neuron = text.partition(".")
    if not (layer.isdecimal() and neuron.isdecimal()):
        raise BadSetting(f"{printable(text)} is no neuron", "name one by layer and number, such as 3.1203")
    return int(layer), int(neuron)


def site_of(folder: ScanFolder, layer: int, neuron: int) -> tuple[Site, SiteScan]:
    """The site of a layer; raises `PartMissing` where it or the neuron was not scanned."""
    scan = folder.layer(layer)
    if neuron >= len(scan.sums.squares):
        raise PartMissing(f"layer {layer} has no neuron {neuron}", f"its neurons are 0 to {len(scan.sums.squares) - 1}")
    return numbered(folder.state.sites)[layer], scan


def layers_in(folder: ScanFolder, text: str | None) -> tuple[int, ...] | None:
    """The layers that a list such as 0,3-5,-1 names among those scanned; None for all."""
    if text is None:
        return None
    return tuple(sorted(layer_numbers(text, sorted(numbered(folder.state.sites)))))
