"""The report of `neurons atlas`: what was written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bertprobe.neurons.folder import ScanFolder
from bertprobe.report import Column, Report, View, report_of
from bertprobe.report.neurons import beginning

if TYPE_CHECKING:
    from bertprobe.report import nodes


def written_atlas(folder: ScanFolder, path: str, size: int) -> Report:
    """The report with where the page is and how large."""
    row: nodes.WrittenAtlas = {
        "path": path,
        "bytes": size,
        "layers": len(folder.state.sites),
        "neurons": folder.neurons,
        "bytes_a_neuron": size / max(folder.neurons, 1),
    }
    columns = (
        Column("layers", ("layers",), "integer"),
        Column("neurons", ("neurons",), "integer"),
        Column("bytes", ("bytes",), "integer"),
        Column("bytes a neuron", ("bytes_a_neuron",), "real"),
    )
    data = {**beginning(folder), "written": row}
    return report_of(data, [View("written", f"written to {path}", columns, (row,))])
