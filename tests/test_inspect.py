"""What `inspect` prints: the JSON contract, every format beside the others, goldens at 80 and 140 columns."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zoo
from rich.cells import cell_len
from safetensors.numpy import load_file, save_file

from bertprobe.report import Column, with_tensors
from bertprobe.stats.table import STATISTICS


def data_of(run: Any, *argv: Any) -> dict[str, Any]:
    ran = run(["inspect", *argv, "--json"])
    assert ran.code == 0, ran.err
    found: dict[str, Any] = json.loads(ran.out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    return found


# ------------------------------------------------------------------------------------------------ the contract

TOP = ["model", "facts", "parts", "findings", "version"]
FACTS = [
    "resolved", "revision", "storage", "family", "layout", "recognised_by", "prefix", "layers", "hidden_size",
    "intermediate_size", "activation", "parameters", "dtypes", "files", "bytes_read", "bytes_total", "notes",
    "recipe",
    "fingerprint",
]  # fmt: skip
PART = ["label", "role", "layer", "stack", "index", "activation", "verdict", "tensors"]
TENSOR = ["name", "stored_name", "dtype", "stored_as", "shape", "statistics", "fingerprint"]
FINDING = ["rule", "severity", "part", "message", "evidence", "hint"]


def test_json_keeps_the_contract(minilm: Path, run: Any) -> None:
    data = data_of(run, minilm)
    assert list(data) == TOP
    assert list(data["facts"]) == FACTS
    assert all(list(part) == PART for part in data["parts"])
    assert all(list(tensor) == TENSOR for part in data["parts"] for tensor in part["tensors"])
    assert all(list(finding) == FINDING for finding in data["findings"])
    assert [(part["role"], part["layer"]) for part in data["parts"]] == [
        *(("intermediate", i) for i in range(6)),
        ("pooler", None),
    ]


def test_facts_are_the_files(minilm: Path, run: Any) -> None:
    facts = data_of(run, minilm)["facts"]
    tensors = load_file(minilm / "model.safetensors")
    assert facts["parameters"] == sum(array.size for array in tensors.values() if array.dtype.kind == "f")
    assert facts["dtypes"] == {"F32": 103, "I64": 1}
    assert facts["files"] == [{"name": "model.safetensors", "bytes": (minilm / "model.safetensors").stat().st_size}]
    wanted = sum(tensors[name].nbytes for name in tensors if "intermediate" in name or "pooler" in name)
    assert wanted <= facts["bytes_read"] <= wanted + 64 * 1024
    assert (facts["layers"], facts["hidden_size"], facts["intermediate_size"]) == (6, 384, 1536)
    assert (facts["family"], facts["activation"]) == ("bert", "gelu")


def test_statistics_are_those_of_the_stored_numbers(minilm: Path, run: Any) -> None:
    """numpy in float64 is the second way; 1e-9 covers the order of summation, 1e-4 is promised for σ₁."""
    tensors = load_file(minilm / "model.safetensors")
    for part in data_of(run, minilm)["parts"]:
        for tensor in part["tensors"]:
            array, found = tensors[tensor["stored_name"]].astype(np.float64), tensor["statistics"]
            assert tensor["shape"] == list(array.shape)
            expected = {
                "count": array.size, "zeros": int((array == 0).sum()), "mean": array.mean(), "std": array.std(),
                "min": array.min(), "max": array.max(), "abs_max": np.abs(array).max(), "l2": np.linalg.norm(array),
            }  # fmt: skip
            for name, value in expected.items():
                assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-12), (tensor["name"], name)
            if array.ndim == 2:
                assert found["sigma_max"] == pytest.approx(np.linalg.svd(array, compute_uv=False)[0], rel=1e-4)


def test_spectrum_and_default_do_not_contradict_each_other(minilm: Path, run: Any) -> None:
    plain, more = data_of(run, minilm, "--part", "pooler"), data_of(run, minilm, "--part", "pooler", "--spectrum")
    few, many = (data["parts"][0]["tensors"][0]["statistics"] for data in (plain, more))
    assert set(many) - set(few) == {row.name for row in STATISTICS if row.of == "spectrum"}
    for name, value in few.items():
        assert many[name] == pytest.approx(value, rel=1e-4), name


def test_a_norm_is_not_shown_as_the_bias() -> None:
    names = ["intermediate.LayerNorm.bias", "intermediate.LayerNorm.weight", "intermediate.dense.weight[0:4]"]
    row = with_tensors({"tensors": [{"name": name} for name in names]})
    assert row["weight"] == {"name": "intermediate.dense.weight[0:4]"}
    assert row["bias"] is None
    assert Column("bias", ("bias", "statistics", "std"), "real").value(row) is None


def test_shapes_read_no_tensor(minilm: Path, run: Any) -> None:
    data = data_of(run, minilm, "--shapes")
    assert data["facts"]["bytes_read"] <= 33 * 1024
    assert all(tensor["statistics"] == {} for part in data["parts"] for tensor in part["tensors"])
    assert {finding["rule"] for finding in data["findings"]} == {"pooler-unused"}


def test_neurons_are_the_rows_of_extreme_norm(minilm: Path, run: Any) -> None:
    tensors = load_file(minilm / "model.safetensors")
    for part in data_of(run, minilm, "--neurons", "3")["parts"]:
        norms = np.linalg.norm(tensors[part["tensors"][0]["stored_name"]].astype(np.float64), axis=1)
        order = np.argsort(norms)
        assert [row["neuron"] for row in part["neurons"]["largest"]] == list(order[::-1][:3])
        assert [row["neuron"] for row in part["neurons"]["smallest"]] == list(order[:3])
        spread = np.median(np.abs(norms - np.median(norms)))
        z = (norms - np.median(norms)) / (1.4826 * spread)
        assert part["neurons"]["outlying"][0]["robust_z"] == pytest.approx(z[np.argmax(np.abs(z))], rel=1e-6)


def test_a_statistic_that_is_not_finite_is_null(tmp_path: Path, run: Any) -> None:
    weight = np.full((4, 2), np.nan, np.float32)
    save_file({"encoder.layer.0.intermediate.dense.weight": weight}, tmp_path / "model.safetensors")
    data = data_of(run, tmp_path)
    found = data["parts"][0]["tensors"][0]["statistics"]
    assert (found["count"], found["nonfinite"]) == (8, 8)
    assert all(value is None for name, value in found.items() if name not in ("count", "nonfinite", "zeros"))
    assert data["findings"][0]["rule"] == "not-finite"


# ------------------------------------------------------------------------------------------------ options


def test_parts_and_layers_choose(minilm: Path, run: Any) -> None:
    def labels(*argv: str) -> list[str]:
        return [part["label"] for part in data_of(run, minilm, *argv)["parts"]]

    assert labels("--part", "pooler") == ["pooler"]
    assert labels("--part", "intermediate", "--layers", "0,-1") == ["intermediate.0", "intermediate.5"]
    assert labels("--part", "pooler", "--part", "intermediate", "--layers", "2-3") == [
        "intermediate.2",
        "intermediate.3",
        "pooler",
    ]


def test_only_what_is_asked_for_is_read(minilm: Path, run: Any) -> None:
    read = data_of(run, minilm, "--part", "pooler")["facts"]["bytes_read"]
    assert 591_360 <= read <= 591_360 + 64 * 1024


def test_strict_ends_with_3_on_a_warning_only(minilm: Path, tiny_bert: Path, run: Any) -> None:
    assert run(["inspect", minilm, "--strict"]).code == 3
    assert run(["inspect", minilm, "--strict", "--part", "intermediate"]).code == 0, "notes are no alarm"
    assert run(["inspect", tiny_bert, "--strict"]).code == 0


@pytest.mark.parametrize(
    "argv", [["--shapes", "--spectrum"], ["--format", "xml"], ["--neurons", "-1"], ["--part", "head"]]
)
def test_wrong_usage_ends_with_2(argv: list[str], tiny_bert: Path, run: Any) -> None:
    ran = run(["inspect", tiny_bert, *argv])
    assert ran.code == 2
    assert ran.out == ""


# ------------------------------------------------------------------------------------------------ formats


def test_csv_reads_back_as_the_json(minilm: Path, run: Any) -> None:
    rows = list(csv.DictReader(io.StringIO(run(["inspect", minilm, "--format", "csv"]).out)))
    tensors = [tensor for part in data_of(run, minilm)["parts"] for tensor in part["tensors"]]
    assert len(rows) == len(tensors)
    for row, tensor in zip(rows, tensors, strict=True):
        assert (row["name"], row["dtype"]) == (tensor["name"], tensor["dtype"])
        assert row["shape"] == "x".join(map(str, tensor["shape"]))
        for name, value in tensor["statistics"].items():
            assert (float(row[name]) if row[name] else None) == value


def test_csv_of_a_named_table(minilm: Path, run: Any) -> None:
    rows = list(csv.DictReader(io.StringIO(run(["inspect", minilm, "--format", "csv", "--table", "findings"]).out)))
    assert [row["rule"] for row in rows] == [finding["rule"] for finding in data_of(run, minilm)["findings"]]
    refused = run(["inspect", minilm, "--format", "csv", "--table", "nonsense"])
    assert refused.code == 1
    assert "only intermediate, pooler" in refused.err


def test_markdown_holds_the_same_numbers(minilm: Path, run: Any) -> None:
    text = run(["inspect", minilm, "--format", "markdown"]).out
    for part in data_of(run, minilm)["parts"]:
        assert repr(part["tensors"][0]["statistics"]["std"]) in text
    heads = [line for line in text.splitlines() if line.startswith("| ") and "σ₁/MP" in line]
    assert len(heads) == 2  # the intermediate and the pooler table


def test_the_table_shows_what_the_json_holds(minilm: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = run(["inspect", minilm]).out
    rows = [line.split() for line in out.splitlines() if re.match(r"^\d +1536×384", line)]
    for row, part in zip(rows, data_of(run, minilm)["parts"], strict=False):
        found = part["tensors"][0]["statistics"]
        shown = [float(word) for word in row[2:7]]
        expected = [found[name] for name in ("std", "abs_max", "mp_edge_ratio", "kurtosis", "stable_rank")]
        assert shown == pytest.approx(expected, rel=1e-3, abs=5e-5)


# ------------------------------------------------------------------------------------------------ looks


@pytest.mark.parametrize("columns", [80, 140])
@pytest.mark.parametrize(
    ("name", "argv"),
    [("plain", []), ("shapes", ["--shapes"]), ("full", ["--spectrum", "--neurons", "2", "--layers", "0,-1"])],
)
def test_goldens(
    name: str, argv: list[str], columns: int, minilm: Path, run: Any, golden: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.chdir(minilm.parent)
    out = run(["inspect", "model", *argv]).out
    text = re.sub(r"(?m)^model .*\n(?: +.*\n)*", "model       model\n", out, count=1)
    golden(f"inspect-{name}-{columns}.txt", text)
    assert max(cell_len(line) for line in out.splitlines()) <= columns


@pytest.mark.parametrize("family", ["mobilebert", "lxmert", "modernbert", "albert", "funnel", "t5"])
@pytest.mark.parametrize("columns", [60, 80, 140])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_cut(
    family: str, columns: int, tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    zoo.save(family, tmp_path)
    out = run(["inspect", tmp_path, "--spectrum", "--neurons", "1"]).out
    assert max(cell_len(line) for line in out.splitlines()) <= columns
    assert not re.search(r"\d…", out)


def test_at_most_six_columns_of_numbers_at_80(minilm: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for line in run(["inspect", minilm]).out.splitlines():
        if re.match(r"^\d +1536×384", line):
            assert sum(bool(re.fullmatch(r"-?[\d.e+-]+", word)) for word in line.split()[2:]) <= 6


def test_a_pipe_gets_every_column(minilm: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    out = run(["inspect", minilm]).out
    header = next(line for line in out.splitlines() if line.startswith("layer "))
    for row in STATISTICS:
        if row.of != "spectrum" and row.name != "count":
            assert row.title in header, row.name
    assert "more columns" not in out


def test_foreign_names_stay_text(tmp_path: Path, run: Any) -> None:
    name = "\x1b[31m[red]\u202ebert.encoder.layer.0.intermediate.dense.weight"
    save_file({name: np.eye(4, 2, dtype=np.float32)}, tmp_path / "model.safetensors")
    for argv in ([], ["--shapes"], ["--format", "markdown"], ["--format", "csv"], ["--json"]):
        ran = run(["inspect", tmp_path, *argv])
        assert ran.code == 0
        assert "\x1b" not in ran.out
        assert "\u202e" not in ran.out
    assert "[red]" in run(["inspect", tmp_path, "--shapes"]).out


def test_a_terminal_gets_colour_and_a_pipe_none(minilm: Path) -> None:
    command = [sys.executable, "-m", "bertprobe", "inspect", str(minilm)]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"}
    environment.pop("NO_COLOR", None)
    main, side = pty.openpty()
    with subprocess.Popen(command, stdout=side, stderr=side, env=environment) as process:
        os.close(side)
        shown = b""
        while True:
            try:
                part = os.read(main, 65536)
            except OSError:
                break
            if not part:
                break
            shown += part
    os.close(main)
    assert process.returncode == 0
    assert b"\x1b[" in shown
    piped = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert b"\x1b" not in piped.stdout
    assert piped.stderr == b""


def test_json_survives_a_round_of_json_tool(minilm: Path) -> None:
    first = subprocess.run(
        [sys.executable, "-m", "bertprobe", "inspect", str(minilm), "--json"], capture_output=True, check=True
    )
    subprocess.run([sys.executable, "-m", "json.tool"], input=first.stdout, capture_output=True, check=True)
    assert not any(isinstance(x, float) and not math.isfinite(x) for x in json.loads(first.stdout)["facts"].values())
