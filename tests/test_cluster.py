"""The page on clusters: its job array and its pipeline, run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "tasks" / "cluster.md"
PARTS = 8


def block(title: str) -> str:
    """A block of the page, with the model that comes along and without what takes time."""
    found = re.search(rf'^```\w+ title="{re.escape(title)}"\n(.*?)^```', PAGE.read_text(), re.M | re.S)
    assert found is not None
    code = found[1].replace("all-MiniLM-L6-v2", "pocket")
    return code.replace('"--shard"', '"--no-verify", "--shard"').replace("--shard ", "--no-verify --shard ")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Ten files, each a shard at least; and the run in one piece, in `one`."""
    (tmp_path / "texts").mkdir()
    for name in "abcdefghij":
        (tmp_path / "texts" / f"{name}.txt").write_text("".join(f"the {name} ship number {n}\n" for n in range(9)))
    words = ["extract", "texts/*.txt", "-m", "pocket", "--vector", "mean", "--threads", "1", "--no-verify", "-o", "one"]
    run(tmp_path, "bertprobe", *words)
    return tmp_path


def run(place: Path, *argv: str, **more: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **more}
    done = subprocess.run(argv, cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def check_whole(place: Path) -> None:
    """What was put together has the bytes of the run in one piece."""
    names = {path.name for path in (place / "one").iterdir()} - {"manifest.json"}
    assert len(names) == 20
    for name in names:
        assert (place / "whole" / name).read_bytes() == (place / "one" / name).read_bytes(), name


def test_the_job_array(place: Path) -> None:
    script = block("parts.sbatch").replace("--threads 2", "--threads 1")
    assert f"#SBATCH --array=1-{PARTS}\n" in script
    for index in range(PARTS, 0, -1):
        run(place, "bash", "-e", "-c", script, SLURM_ARRAY_TASK_ID=str(index))
    run(place, "bash", "-e", "-c", block("and when all are done"))
    check_whole(place)


@pytest.mark.skipif(find_spec("datatrove") is None, reason="datatrove is not installed")
def test_the_pipeline(place: Path) -> None:
    (place / "parts.py").write_text(block("parts.py"))
    run(place, sys.executable, "parts.py")
    check_whole(place)
