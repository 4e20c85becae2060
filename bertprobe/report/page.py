"""The report of `report`: all that the page and its figures show, binned and counted here, never raw weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bertprobe.activations import Runner, TextVectors, Watch, vectors_of
from bertprobe.anatomy import Part
from bertprobe.encoder import why_not_native
from bertprobe.errors import OutputError
from bertprobe.report import Column, Report, View, finding_view
from bertprobe.report.inspection import inspection
from bertprobe.report.text import activation, pooling
from bertprobe.statistics import Histogram, Numbers, leading, robust_z
from bertprobe.verdicts import OUTLIER_Z, Evidence, Finding

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MOST_TEXTS = 24
MOST_CELLS = 6_000  # tokens × layers: more would make a page of more than 6 MB
MOST_BINS = 150  # to each side of zero
STDS_SHOWN = 8  # of the widest matrix: what lies beyond is counted, not drawn
NORM_BINS = 60
NORM_MEDIANS = 4  # the axis of row norms ends at so many times the largest median
NAMED = 10  # outliers of a part that are named
STRONGEST = 3  # neurons told of each token, dimensions of each text


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of texts: the data and views of `pool` and of `activations`."""

    pooling: Report
    activation: Report

    @property
    def facts(self) -> Mapping[str, Any]:
        """The facts of the run."""
        found: Mapping[str, Any] = self.pooling.data["facts"]
        return found

    @property
    def views(self) -> tuple[View, ...]:
        """The tables of both, findings aside."""
        return tuple(view for view in (*self.pooling.views, *self.activation.views) if view.name != "findings")


def run_texts(runner: Runner, parts: Sequence[Part], texts: Sequence[str], *, truncate: bool = False) -> Ran:
    """Runs texts once, for their vectors and for what each part puts out; raises `OutputError` for too many."""
    if len(texts) > MOST_TEXTS:
        raise OutputError(f"{len(texts)} texts are more than a page can show", f"give {MOST_TEXTS} or fewer")
    seen = Watch(runner.engine.backend, {part.label for part in parts}, keep=True)
    vectors: list[TextVectors] = []
    for packed in runner.batches(texts, truncate=truncate):
        for i, (states, pooled) in enumerate(runner.engine.states(packed, seen)):
            place, cut = int(packed.order[i]), int(packed.cut[i])
            vectors.append(TextVectors(place, packed.tokens[i], cut, **vectors_of(states, pooled)))
    seen = seen.in_order([len(vector.tokens) for vector in vectors], [vector.place for vector in vectors])
    vectors.sort(key=lambda vector: vector.place)
    tokens = [vector.tokens for vector in vectors]
    _check_room(sum(map(len, tokens)), len(seen.sums))
    which = "pooled" if runner.engine.has_pooler else "mean"
    return Ran(
        pooling(runner, texts, vectors, (), STRONGEST, which),
        activation(runner, seen, tokens, (), STRONGEST, each=True),
    )


def _check_room(tokens: int, layers: int) -> None:
    if tokens * layers > MOST_CELLS:
        raise OutputError(
            f"the texts have {tokens:,} tokens, a page has room for {MOST_CELLS // layers:,} in {layers} layers",
            "give fewer or shorter texts",
        )


def page(evidence: Evidence, parts: Sequence[Part], findings: Sequence[Finding], ran: Ran | None = None) -> Report:
    """The report of `report`: that of `inspect`, with histograms, row norms and spectra, and what came of texts."""
    report = inspection(evidence, parts, findings)
    width, most = _common_bins([n for part in parts if (n := evidence.of(part)) is not None])
    norms = _norm_edges([n for part in parts if (n := evidence.of(part)) is not None])
    nodes = [
        {**node, **_pictures(evidence.of(part), width, most, norms)}
        for node, part in zip(report.data["parts"], parts, strict=True)
    ]
    data = {
        "model": report.data["model"],
        "facts": {**report.data["facts"], **(ran.facts if ran else {})},
        "layer": _layer(evidence),
        "parts": nodes,
        "texts": ran.pooling.data["texts"] if ran else [],
        "similarity": ran.pooling.data["similarity"] if ran else {},
        "activations": {key: ran.activation.data[key] for key in ("layers", "tokens", "heat")} if ran else None,
        "findings": report.data["findings"],
        "version": report.data["version"],
    }
    views = tuple(view for view in report.views if view.name != "findings")
    return Report(data, (*views, *(ran.views if ran else ()), finding_view(data["findings"])), report.findings)


def written(report: Report, path: str, size: int, figure: str | None = None) -> Report:
    """The report with where it was written; tables show that and the findings only."""
    row = {"path": path, "bytes": size, "figure": figure}
    columns = (Column("path", ("path",), "text"), Column("figure", ("figure",), "text"))
    view = View("written", f"written to {path}", columns, ({**row, "figure": figure or "all, in one page"},))
    data = {**report.data, "written": row}
    return Report(data, (view, finding_view(report.data["findings"])), report.findings)


def _layer(evidence: Evidence) -> dict[str, Any]:
    """What the drawing of a layer needs besides the facts."""
    anatomy = evidence.anatomy
    words = anatomy.tensors.get("embeddings.word_embeddings.weight")
    pooler = next((part for part in anatomy.of("pooler") if part.stack is None), None)
    weight = pooler.weight if pooler is not None else None
    return {
        "position": anatomy.row.position,
        "gated": bool(anatomy.of("gate")),
        "as_bert": why_not_native(evidence.checkpoint, anatomy) is None,
        "vocabulary": words.shape[0] if words is not None and len(words.shape) == 2 else None,
        "pooler": list(weight.shape) if weight is not None and len(weight.shape) == 2 else None,
        "pooler_activation": pooler.activation if pooler is not None else None,
    }


# ------------------------------------------------------------------------------------------------ pictures of weights


def _pictures(numbers: Numbers | None, width: float, most: int, norms: npt.NDArray[np.float64]) -> dict[str, Any]:
    if numbers is None:
        return {"histogram": None, "row_norms": None, "spectrum": None}
    return {
        "histogram": _histogram(numbers.histogram, width, most) if numbers.histogram is not None else None,
        "row_norms": _row_norms(numbers, norms) if numbers.row_norms is not None else None,
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


def _histogram(found: Histogram, width: float, most: int) -> dict[str, Any]:
    """The counts in bins from `start` on, those without values at both ends left out; beyond the axis only how many."""
    wide = found.at(width) if width > found.width else found
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


def _row_norms(numbers: Numbers, edges: npt.NDArray[np.float64]) -> dict[str, Any]:
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
        "outliers": [{"neuron": int(row), "norm": float(norms[row]), "robust_z": float(z[row])} for row in named],
    }


def _spectrum(numbers: Numbers) -> dict[str, Any] | None:
    if numbers.spectrum is None:
        return None
    return {"edge": numbers.edge, "sigmas": [float(sigma) for sigma in numbers.spectrum.sigmas]}
