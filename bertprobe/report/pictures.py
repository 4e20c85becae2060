"""The pictures of weights as numbers: bins, row norms, singular values, and the curves to hold them against."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bertprobe.noise import noise_sigmas
from bertprobe.report import nodes
from bertprobe.stats.histogram import Histogram
from bertprobe.stats.numbers import Numbers
from bertprobe.stats.robust import leading, robust_z
from bertprobe.stats.summary import Summary
from bertprobe.verdicts import OUTLIER_Z

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MOST_BINS = 150  # to each side of zero
STDS_SHOWN = 8  # of the widest matrix: what lies beyond is counted, not drawn
NORMAL_POINTS = 80
NORM_BINS = 60
NORM_MEDIANS = 4  # the axis of row norms ends at so many times the largest median
NAMED = 10  # outliers of a part that are named
EXACT_RANKS = 24  # singular values that are all drawn
MORE_RANKS = 60  # and about so many of the others


@dataclass(frozen=True, slots=True, eq=False)
class Axes:
    """What all matrices share: `bins` of one `width` to each side of zero, the edges (n + 1,) of row norms."""

    width: float
    bins: int
    norms: npt.NDArray[np.float64]

    @classmethod
    def of(cls, found: Sequence[Numbers]) -> Axes:
        """The axes that these numbers fit on."""
        return cls(*_common_bins(found), _norm_edges(found))


def pictures(numbers: Numbers | None, axes: Axes) -> nodes.Pictures:
    """The histogram, the row norms and the spectrum of one matrix; None each where there is none."""
    if numbers is None:
        return {"histogram": None, "row_norms": None, "spectrum": None}
    binned = numbers.histogram
    return {
        "histogram": None if binned is None else _histogram(binned, numbers.summary, axes),
        "row_norms": None if numbers.row_norms is None else _row_norms(numbers, axes.norms),
        "spectrum": _spectrum(numbers),
    }


def _common_bins(found: Sequence[Numbers]) -> tuple[float, int]:
    """One width for all matrices, a power of two, and how many bins to each side of zero are shown."""
    stds = [n.summary.std for n in found if n.summary.std]
    if not stds:
        return 1.0, 1
    reach = min(max(n.summary.abs_max or 0.0 for n in found), STDS_SHOWN * max(stds))
    finest = max(n.histogram.width for n in found if n.histogram is not None)
    width = max(finest, 2.0 ** math.floor(math.log2(min(stds) / 4)))
    while reach / width > MOST_BINS:
        width *= 2
    return width, math.floor(reach / width) + 1


def _histogram(found: Histogram, summary: Summary, axes: Axes) -> nodes.Histogram:
    """The counts in bins from `start` on, those without values at both ends left out; beyond the axis only how many."""
    wide, most = found.at(axes.width) if axes.width > found.width else found, axes.bins
    places = range(wide.first, wide.first + len(wide.counts))
    counts = {place: int(count) for place, count in zip(places, wide.counts, strict=True)}
    shown = [place for place, count in counts.items() if count and -most <= place < most]
    first, last = (shown[0], shown[-1]) if shown else (0, -1)
    return {
        "width": wide.width,
        "start": first * wide.width,
        "counts": [counts[place] for place in range(first, last + 1)],
        "below": wide.below + sum(count for place, count in counts.items() if place < -most),
        "above": wide.above + sum(count for place, count in counts.items() if place >= most),
        "normal": _normal_curve(summary, wide.width),
    }


def _normal_curve(summary: Summary, width: float) -> nodes.NormalCurve | None:
    """What a normal distribution of the same mean and std would put into bins of this width, as shares of all.

    None where a bin is wider than such a distribution.
    """
    if not summary.std or (top := width / (summary.std * math.sqrt(2 * math.pi))) > 1:
        return None
    zs = [STDS_SHOWN * (2 * i / NORMAL_POINTS - 1) for i in range(NORMAL_POINTS + 1)]
    return {
        "x": [summary.mean + z * summary.std for z in zs],
        "share": [top * math.exp(-z * z / 2) for z in zs],
    }


def _norm_edges(found: Sequence[Numbers]) -> npt.NDArray[np.float64]:
    """The edges of the bins of row norms that all matrices share."""
    import numpy as np

    tops = [n.row_norm_max for n in found if n.row_norm_max is not None and math.isfinite(n.row_norm_max)]
    lows = [n.row_norm_min for n in found if n.row_norm_min is not None and math.isfinite(n.row_norm_min)]
    middles = [n.row_norm_median for n in found if n.row_norm_median is not None and math.isfinite(n.row_norm_median)]
    top = min(max(tops, default=1.0), NORM_MEDIANS * max(middles, default=1.0) or math.inf) or 1.0
    low = min([*lows, top])
    return np.linspace(low if low < top else 0.0, top * (1 + 1e-12), NORM_BINS + 1)


def _row_norms(numbers: Numbers, edges: npt.NDArray[np.float64]) -> nodes.RowNorms:
    """Row norms in bins, and the neurons whose norm lies far from the rest, the farthest first."""
    import numpy as np

    norms = np.asarray(numbers.row_norms)
    z = robust_z(norms)
    with np.errstate(invalid="ignore"):
        far = np.flatnonzero(np.abs(z) > OUTLIER_Z)
    named = far[leading(z[far], NAMED, key=lambda block: -abs(block))]
    known = norms[np.isfinite(norms)]
    return {
        "start": float(edges[0]),
        "width": float(edges[1] - edges[0]),
        "counts": [int(count) for count in np.histogram(known, edges)[0]],
        "above": int((known > edges[-1]).sum()),
        "undefined": len(norms) - len(known),
        "outlying": len(far),
        "outlying_beyond": OUTLIER_Z,
        "outliers": [{"neuron": int(row), "norm": float(norms[row]), "robust_z": float(z[row])} for row in named],
    }


def _spectrum(numbers: Numbers) -> nodes.Spectrum | None:
    """All singular values, and those that random numbers of this shape and std would have, at the ranks to draw."""
    if numbers.spectrum is None:
        return None
    sigmas, std, shape = numbers.spectrum.sigmas, numbers.summary.std or 0.0, numbers.spectrum.shape
    ranks = _ranks_drawn(len(sigmas))
    noise = noise_sigmas(shape, ranks) * std
    return {
        "edge": numbers.edge,
        "sigmas": [float(sigma) for sigma in sigmas],
        "noise": {"ranks": [rank + 1 for rank in ranks], "sigmas": [float(sigma) for sigma in noise]},
    }


def _ranks_drawn(count: int) -> list[int]:
    """All of the first ranks, from 0 on, then ever fewer, evenly on a logarithmic axis, and the last."""
    found = set(range(min(count, EXACT_RANKS)))
    found |= {min(round(count ** (i / MORE_RANKS)), count) - 1 for i in range(MORE_RANKS + 1)}
    return sorted(found)
