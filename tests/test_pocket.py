"""The model that ships with the package: trained, small, found by its name, and in every form the package takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, Run
from safetensors.torch import load_file

import bertprobe

POCKET = Path(bertprobe.__file__).parent / "pocket"
FILES = ["README.md", "config.json", "model.safetensors", "tokenizer.json", "vocab.txt"]


@pytest.fixture(autouse=True)
def no_other_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BERTPROBE_MODEL", raising=False)


def data_of(run: Run, *argv: str) -> dict[str, Any]:
    ran = run([*argv, "--json"])
    assert ran.code == 0, ran.err
    found: dict[str, Any] = json.loads(ran.out)
    return found


def test_it_holds_what_it_should_and_is_small() -> None:
    assert sorted(path.name for path in POCKET.iterdir()) == FILES
    assert sum(path.stat().st_size for path in POCKET.iterdir()) < 8e6
    found = resources.files("bertprobe").joinpath("pocket")
    assert sorted(entry.name for entry in found.iterdir()) == FILES


def test_it_is_a_bert_for_pretraining_with_nothing_missing() -> None:
    from transformers import BertForPreTraining

    model, told = BertForPreTraining.from_pretrained(POCKET, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert {p.dtype for p in model.parameters()} == {torch.float32}, "float32 in memory whatever it is stored as"


def test_inspect_finds_every_part_trained_and_warns_of_nothing(run: Run) -> None:
    data = data_of(run, "inspect")
    assert data["model"] == "pocket"
    verdicts = {part["label"]: part["verdict"] for part in data["parts"]}
    assert verdicts == {**{f"intermediate.{i}": "trained" for i in range(4)}, "pooler": "trained"}
    assert [f for f in data["findings"] if f["severity"] in ("warning", "error")] == []
    assert run(["inspect", "--strict"]).code == 0


def test_it_is_the_default_of_every_command(run: Run, tmp_path: Path) -> None:
    for argv in (["inspect"], ["pool", "some text"], ["activations", "some text"], ["verify", "some text"]):
        ran = run(argv)
        assert ran.code == 0, ran.err
        assert "pocket (the built-in model; name another for a full-size one)" in ran.out
    assert run(["export", "-o", tmp_path / "pooler.safetensors"]).code == 0
    stored = load_file(POCKET / "model.safetensors")["bert.pooler.dense.weight"]
    assert torch.equal(load_file(tmp_path / "pooler.safetensors")["pooler.dense.weight"], stored)


def test_the_modules_load_from_it_by_name() -> None:
    hidden = torch.randn(2, 5, 128)
    pooler = bertprobe.Pooler.from_checkpoint("pocket").float()
    layer = bertprobe.Intermediate.from_checkpoint("pocket", -1).float()
    assert pooler(hidden).shape == (2, 128)
    assert layer(hidden).shape == (2, 5, 512)


def test_a_folder_of_that_name_is_reached_by_its_path(
    minilm: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pocket").symlink_to(minilm)
    monkeypatch.chdir(tmp_path)
    assert data_of(run, "inspect", "--shapes", "pocket")["facts"]["layers"] == 4
    assert data_of(run, "inspect", "--shapes", "./pocket")["facts"]["layers"] == 6


def test_it_fills_in_words() -> None:
    """What it was trained for; by chance a word of 8,192 is right."""
    from tokenizers import Tokenizer
    from transformers import BertForPreTraining

    model = BertForPreTraining.from_pretrained(POCKET).eval()
    tokenizer = Tokenizer.from_file(str(POCKET / "tokenizer.json"))
    for text, word in (
        ("he looked out [MASK] the window .", "of"),
        ("i do not know [MASK] to do .", "what"),
        ("she put her hand on [MASK] shoulder .", "his"),
    ):
        ids = tokenizer.encode(text).ids
        with torch.no_grad():
            scores = model(torch.tensor([ids])).prediction_logits[0, ids.index(4)]
        assert word in [tokenizer.id_to_token(int(i)) for i in scores.topk(5).indices]


def test_texts_of_different_meaning_get_different_vectors(run: Run) -> None:
    texts = ["The ship sailed across the sea.", "The price of corn rises with wages."]
    rows = [np.array(node["pooled"]["values"]) for node in data_of(run, "pool", *texts)["texts"]]
    cosine = rows[0] @ rows[1] / np.linalg.norm(rows[0]) / np.linalg.norm(rows[1])
    assert cosine < 0.9


# ------------------------------------------------------------------------------------------------ packages


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, built as pip builds them."""
    folder = tmp_path_factory.mktemp("built")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True)
    return folder


def alone(where: Path, argv: Sequence[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """The package of `where`, and no other, from an empty folder."""
    environment = {**os.environ, "PYTHONPATH": str(where), "COLUMNS": "80"}
    command = [sys.executable, "-m", "bertprobe", *argv]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_the_wheel_holds_it_and_runs(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("bertprobe/pocket/")}
        archive.extractall(tmp_path / "installed")
    assert held == {f"bertprobe/pocket/{name}" for name in FILES}
    assert wheel.stat().st_size < 8e6
    (tmp_path / "empty").mkdir()
    done = alone(tmp_path / "installed", ["pool", "some text", "--json"], tmp_path / "empty")
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "installed") in json.loads(done.stdout)["facts"]["resolved"]


def test_from_a_zip_the_error_says_how_to_install(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    done = alone(wheel, ["pool", "some text"], tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "pip install" in done.stderr


def test_the_sdist_holds_it(built: Path) -> None:
    import tarfile

    (file,) = built.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"bertprobe/pocket/{name}" for name in FILES} <= names
    assert {"docs/pocket/train.py", "docs/pocket/evaluate.py"} <= names
