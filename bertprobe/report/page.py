"""The report of `report`: all that the page and its figures show, binned and counted here, never raw weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bertprobe.anatomy import Part
from bertprobe.anatomy.native import why_not_native
from bertprobe.errors import BadSetting, OutputError
from bertprobe.report import Column, Report, View, finding_view
from bertprobe.report.inspection import inspection
from bertprobe.report.pictures import Axes, pictures
from bertprobe.report.text import PerToken, activation, pooling
from bertprobe.verdicts import Evidence, Finding

if TYPE_CHECKING:
    from bertprobe.run.collect import AllVectors, NeuronStatistics
    from bertprobe.run.runner import Ran

MOST_TEXTS = 24
MOST_CELLS = 6_000  # tokens × layers: more would make a page of more than 6 MB
STRONGEST = 3  # neurons told of each token, dimensions of each text


@dataclass(frozen=True, slots=True)
class TextReports:
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


def check_count(texts: Sequence[str]) -> None:
    """Raises `BadSetting` for more texts than a page can show."""
    if len(texts) > MOST_TEXTS:
        raise BadSetting(f"{len(texts)} texts are more than a page can show", f"give {MOST_TEXTS} or fewer")


def text_reports(
    ran: Ran, texts: Sequence[str], vectors: AllVectors, statistics: NeuronStatistics, tokens: PerToken
) -> TextReports:
    """What a page tells of a run; raises `OutputError` for more tokens than it has room for."""
    _check_room(sum(map(len, tokens.norms.tokens)), len(statistics.sums))
    which = "pooled" if ran.has_pooler else "mean"
    return TextReports(
        pooling(ran, texts, vectors.texts, (), STRONGEST, which), activation(ran, statistics, tokens, (), STRONGEST)
    )


def _check_room(tokens: int, layers: int) -> None:
    if tokens * layers > MOST_CELLS:
        raise OutputError(
            f"the texts have {tokens:,} tokens, a page has room for {MOST_CELLS // layers:,} in {layers} layers",
            "give fewer or shorter texts",
        )


def page(
    evidence: Evidence, parts: Sequence[Part], findings: Sequence[Finding], ran: TextReports | None = None
) -> Report:
    """The report of `report`: that of `inspect`, with histograms, row norms and spectra, and what came of texts."""
    report = inspection(evidence, parts, findings)
    axes = Axes.of([n for part in parts if (n := evidence.of(part)) is not None])
    nodes = [
        {**node, **pictures(evidence.of(part), axes)} for node, part in zip(report.data["parts"], parts, strict=True)
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
    pooler = anatomy.pooler
    weight = pooler.weight if pooler is not None else None
    return {
        "position": anatomy.layout.position,
        "gated": bool(anatomy.of("gate")),
        "as_bert": why_not_native(anatomy) is None,
        "vocabulary": words.shape[0] if words is not None and len(words.shape) == 2 else None,
        "pooler": list(weight.shape) if weight is not None and len(weight.shape) == 2 else None,
        "pooler_activation": pooler.activation if pooler is not None else None,
    }
