"""JSON and CSV: every value, unrounded; and findings as annotations of a run on GitHub."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from bertprobe.errors import printable
from bertprobe.render.words import report_name
from bertprobe.report import Report, View


def write_json(report: Report, out: TextIO) -> None:
    """The data itself; NaN and infinity are null, and nothing but ASCII, so that a name cannot repaint a terminal."""
    json.dump(finite(report.data), out, indent=2, allow_nan=False)
    out.write("\n")


def finite(value: Any) -> Any:
    """The same data with None for NaN and infinity, which JSON has no words for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return value


def write_csv(report: Report, out: TextIO, views: Sequence[View]) -> None:
    """One view, a header line and a line a row."""
    writer = csv.writer(out, lineterminator="\n")
    for view in views:
        writer.writerow([column.name for column in view.columns])
        writer.writerows([[_for_csv(column.value(row)) for column in view.columns] for row in view.rows])


# What makes a spreadsheet compute a cell, in the wide forms of East Asia, too.
_FORMULA = re.compile(r"\s*[=+\-@＝＋－＠]")


def _for_csv(value: Any) -> str:
    """A value as `plain` has it; text that a spreadsheet would compute begins with an apostrophe, which it hides."""
    text = plain(value)
    return f"'{text}" if isinstance(value, str) and _FORMULA.match(text) else text


# The words for a severity in workflow commands, https://docs.github.com/actions/reference/workflow-commands.
_COMMANDS = {"error": "error", "warning": "warning", "note": "notice"}


def write_github(report: Report, out: TextIO) -> None:
    """A workflow command for each finding, which GitHub shows beside the run; a plain line where there is none.

    No file and line are named: what a finding is about has none.
    """
    model = printable(report_name(report.data))
    for finding in report.findings:
        where = f" ({finding.part})" if finding.part else ""
        title = _property(printable(f"{finding.rule}{where}"))
        text = f"{model}: {printable(finding.message)}\n→ {printable(finding.hint)}"
        out.write(f"::{_COMMANDS[finding.severity]} title={title}::{_data(text)}\n")
    if not report.findings:
        # Not at the start of the line: a model called ::error:: must not become a command.
        out.write(f"bertprobe: {model}: no findings\n")


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def plain(value: Any) -> str:
    """A value as text that reads back as the same value: shapes as 3072x768, nothing for null."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, list | tuple):
        return ("x" if all(isinstance(n, int) for n in value) else " ").join(str(n) for n in value)
    return printable(value) if isinstance(value, str) else repr(value)
