"""No number is ever cut: in every table of every command, at every width, in a terminal too, whatever the texts."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from kin import POCKET, tuned
from rich.cells import cell_len

from bertprobe import render
from bertprobe.render import terminal
from bertprobe.report import Column, Report

LONG = "The ship left the harbour at dawn and sailed across the sea for many days, until the crew saw land at last."
WIDE = "那艘船在黎明时分离开港口，在海上航行了许多天，直到船员们终于看到了陆地。" * 2
NAME = "x" * 300
WIDTHS = (40, 60, 80, 100, 140)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tuned(tmp_path_factory.mktemp("a-model-with-a-name-that-is-as-long-as-people-make-them"))


def commands(other: Path, out: Path) -> dict[str, list[Any]]:
    return {
        "inspect": ["inspect", POCKET, "--spectrum", "--neurons", "3"],
        "shapes": ["inspect", other, "--shapes"],
        "export": ["export", other, "--part", "model", "-o", out / "m.safetensors"],
        "pool": ["pool", LONG, WIDE, NAME, "why", "-m", POCKET],
        "vectors": ["pool", LONG, "-m", POCKET, "-o", out / "v.npy"],
        "activations": ["activations", LONG, WIDE, "-m", POCKET, "--tokens"],
        "verify": ["verify", LONG, "-m", POCKET],
        "diff": ["diff", POCKET, other, LONG, WIDE, NAME, "--neurons", "2"],
        "graft": ["graft", POCKET, other, "--replace", "-o", out / "g", "--force"],
    }


def reported(argv: Sequence[Any], run: Run, monkeypatch: pytest.MonkeyPatch) -> Report:
    shown: list[Report] = []
    real = render.show
    monkeypatch.setattr(render, "show", lambda report, *a, **k: (shown.append(report), real(report, *a, **k)))
    ran = run(argv)
    assert shown, ran.err
    return shown[0]


def is_number(column: Column) -> bool:
    return column.kind not in ("text", "heat")


@pytest.mark.parametrize("name", commands(Path(), Path()))
def test_numbers_are_whole_at_every_width(
    name: str, other: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = reported(commands(other, tmp_path)[name], run, monkeypatch)
    for view in report.views:
        cells = {id(column): terminal.texts_of(column, view.rows) for column in view.columns}
        for width in WIDTHS:
            monkeypatch.setenv("COLUMNS", str(width))
            out = io.StringIO()
            terminal.write(report, out, [view], whole=False)
            if view.name == "findings":
                continue
            lines = out.getvalue().partition("\n\nmore columns")[0].splitlines()
            assert max(map(cell_len, lines)) <= width, (view.name, width)
            shown = terminal.fitting(view.columns, cells, width)
            for row, line in enumerate(lines[-len(view.rows) :]):
                found = line.split("  ")
                for column in filter(is_number, shown):
                    assert any(cells[id(column)][row].strip() in piece for piece in found), (view.name, width, line)


def test_long_texts_leave_numbers_their_room(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for width, least in ((60, 3), (80, 4), (120, 5)):
        monkeypatch.setenv("COLUMNS", str(width))
        out = run(["pool", LONG, WIDE, "-m", POCKET]).out
        head = next(line for line in out.splitlines() if line.startswith("text ") and "tokens" in line)
        assert len(head.split()) - 1 >= least
        assert "The ship" in out


def test_in_a_terminal_too() -> None:
    master, slave = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm", "NO_COLOR": "1"}
    argv = [sys.executable, "-m", "bertprobe", "pool", LONG, "Short.", "-m", str(POCKET)]
    with subprocess.Popen(argv, stdout=slave, stderr=slave, stdin=slave, env=environment) as process:
        os.close(slave)
        data = b""
        while True:
            try:
                data += os.read(master, 65536)
            except OSError:  # Linux says so of a terminal whose other end was closed
                break
        assert process.wait() == 0
    os.close(master)
    lines = re.sub(r"\x1b\[[\d;]*m", "", data.decode()).splitlines()
    assert max(map(cell_len, lines)) <= 80
    (line,) = (line for line in lines if "The ship left" in line and "…" in line)
    assert len(line.rpartition("…")[2].split()) >= 4


def test_a_name_loses_its_middle_and_a_text_its_end() -> None:
    assert terminal.cut("encoder.layer.0.intermediate.dense.weight", 20) == "encoder.l…nse.weight"
    assert terminal.cut("one two three four", 12) == "one two thr…"
    assert terminal.cut("那艘船在黎明", 7) == "那艘船…"
    assert terminal.cut("short", 5) == "short"
    for room in range(1, 30):
        for text in (LONG, WIDE, NAME, "encoder.layer.0.intermediate.dense.weight"):
            assert cell_len(terminal.cut(text, room)) <= room
