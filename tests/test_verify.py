"""`verify` compares with transformers for real: it finds equality where there is, and a fault where one is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zoo
from conftest import Run
from safetensors.numpy import load_file, save_file

from bertprobe import backends, encoder, transformers_model
from bertprobe.run import runner as runner_room


def data_of(ran: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ran.out)
    return found


def test_minilm_is_verified(minilm: Path, run: Run) -> None:
    ran = run(["verify", "-m", minilm, "--json"])
    assert ran.code == 0, ran.err
    data = data_of(ran)
    assert data["holds"] is True
    parts = {row["part"]: row for row in data["parts"]}
    assert list(parts) == [*(f"intermediate.{i}" for i in range(6)), "last hidden state", "pooler"]
    for row in data["parts"]:
        assert row["numpy"] <= row["limit"]
        assert row["torch"] <= row["limit"]
        assert row["limit"] == max(1e-5 * max(1, row["largest_value"]), 4 * row["transformers_error"])
        assert row["transformers_error"] > 0
    assert all(parts[f"intermediate.{i}"]["torch"] == 0 for i in range(6)), "bit for bit on equal shapes"
    assert all(parts[f"intermediate.{i}"]["alone"] == 0 for i in range(6)), "and so is the module by itself"
    assert all(row["batch"] <= 2e-6 * max(1, row["largest_value"]) for row in data["parts"])


def test_a_wrong_activation_is_found_out(minilm: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """gelu's tanh approximation differs by up to 4.7e-4, which is what a reimplementation gets wrong first."""
    right = backends.ACTIVATIONS["gelu"]
    monkeypatch.setitem(backends.ACTIVATIONS, "gelu", (backends.ACTIVATIONS["gelu_new"][0], right[1]))
    ran = run(["verify", "some text", "-m", minilm, "--json"])
    assert ran.code == 3
    data = data_of(ran)
    assert data["holds"] is False
    assert {row["within"] for row in data["parts"][:6]} == {"NO"}
    assert all(row["torch"] <= row["limit"] for row in data["parts"])


def test_a_number_that_is_none_is_no_agreement(minilm: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    right = backends.ACTIVATIONS["gelu"]
    monkeypatch.setitem(backends.ACTIVATIONS, "gelu", (lambda x: x * np.nan, right[1]))
    assert run(["verify", "some text", "-m", minilm]).code == 3


@pytest.mark.parametrize("family", ["roberta", "electra", "albert", "distilbert", "modernbert", "deberta", "dpr"])
def test_other_families_are_verified_too(family: str, minilm: Path, tmp_path: Path, run: Run) -> None:
    zoo.save(family, tmp_path, vocab_size=30522)
    (tmp_path / "tokenizer.json").write_bytes((minilm / "tokenizer.json").read_bytes())
    ran = run(["verify", "a cat sat", "why", "-m", tmp_path, "--json"])
    assert ran.code == 0, ran.err
    rows = data_of(ran)["parts"]
    native = family in ("roberta", "electra", "dpr")
    assert all((row["torch"] is not None) == native for row in rows)
    # Half of a fused matrix by itself is another shape of product, all else is equal bit for bit.
    fused = family == "modernbert"
    assert all(row["alone"] <= (row["limit"] if fused else 0) for row in rows if row["part"] != "last hidden state")


def test_texts_of_several_batches_are_verified(minilm: Path, run: Run) -> None:
    """2,048 tokens are a batch: these are some 3,000, the longest last."""
    texts = [f"{'a cat sat on the mat, ' * n}{n}" for n in range(3, 33)]
    ran = run(["verify", *texts, "-m", minilm, "--json"])
    assert ran.code == 0, ran.err
    data = data_of(ran)
    assert data["holds"] is True
    assert all(0 <= row["batch"] <= 2e-6 * max(1, row["largest_value"]) for row in data["parts"])


def test_a_model_is_read_once_for_each_way_of_computing(
    minilm: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a foreign family transformers' float32 and float64; of ours these, and each backend."""
    loads: list[str] = []
    for name, module in (("load_reference", transformers_model), ("load_encoder", encoder)):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, _real=real, _name=name, **k: loads.append(_name) or _real(*a, **k))
    monkeypatch.setattr(runner_room, "load_encoder", encoder.load_encoder)
    for family in ("modernbert", "bert"):
        loads.clear()
        zoo.save(family, tmp_path / family, vocab_size=30522)
        (tmp_path / family / "tokenizer.json").write_bytes((minilm / "tokenizer.json").read_bytes())
        assert run(["verify", "a cat sat", "-m", tmp_path / family]).code == 0
        ways = 0 if family == "modernbert" else 2
        assert sorted(loads) == ["load_encoder"] * ways + ["load_reference"] * 2


def test_it_fits_the_terminal(minilm: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = run(["verify", "some text", "-m", minilm]).out
    assert max(len(line) for line in out.splitlines()) <= 80
    assert "yes" in out


def test_the_texts_that_come_along_are_cut_for_a_small_model(shared_checkpoints: Path, run: Run) -> None:
    assert run(["verify", "-m", str(shared_checkpoints / "keras-bert-tf1")]).code == 0


@pytest.mark.parametrize(("family", "prefix"), [("bert", "module.bert."), ("modernbert", "")])
def test_a_model_with_nan_is_told_which_tensors_hold_it(
    family: str, prefix: str, minilm: Path, tmp_path: Path, run: Run
) -> None:
    zoo.save(family, tmp_path, vocab_size=30522)
    (tmp_path / "tokenizer.json").write_bytes((minilm / "tokenizer.json").read_bytes())
    file = tmp_path / "model.safetensors"
    tensors = {prefix + name: values for name, values in load_file(file).items()}
    spoilt = [name for name in tensors if name.endswith(("intermediate.dense.weight", "mlp.Wi.weight"))]
    for name, value in zip(spoilt, (np.nan, np.inf), strict=True):
        tensors[name][1, 2] = value
    save_file(tensors, file, {"format": "pt"})
    ran = run(["verify", "some text", "-m", tmp_path])
    assert ran.code == 1
    assert ran.err.count("\n") == 1
    assert f"holds NaN or infinity in {', '.join(spoilt)}; " in ran.err


@pytest.mark.parametrize("family", ["mra", "xlnet", "reformer"])
def test_what_transformers_cannot_repeat_in_float64_is_compared_without_it(
    family: str, tmp_path: Path, run: Run
) -> None:
    """MRA and XLNet do not run in float64; Reformer's hashes are others there, and no limit is made of that."""
    zoo.save(family, tmp_path)
    ran = run(["verify", zoo.save_tokenizer(tmp_path).rsplit(" ", 1)[0], "-m", tmp_path, "--json"])
    assert ran.code == 0, ran.err
    rows = data_of(ran)["parts"]
    assert all(row["transformers_error"] is None for row in rows)
    assert all(row["limit"] == 1e-5 * max(1, row["largest_value"]) for row in rows)
    assert [row["within"] for row in rows] == ["yes", "yes", None], "nothing else tells of the last hidden state"
