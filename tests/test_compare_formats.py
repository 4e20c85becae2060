"""What `diff` says of one model in two files: the same, the same up to a quantisation, or what else differs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run
from hypothesis import given
from hypothesis import strategies as st
from kin import POCKET

from bertprobe.checkpoint.tensors import Derived, Grid, TensorHeader
from bertprobe.compare.delta import Delta, delta
from bertprobe.compare.rounding import rounded_by_quantisation

Diff = Callable[..., dict[str, Any]]


@pytest.fixture
def diff(run: Run) -> Diff:
    def go(a: Any, b: Any, *more: str) -> dict[str, Any]:
        found = run(["diff", str(a), str(b), "--json", *more])
        assert found.code == 0, found.err
        return json.loads(found.out)

    return go


def rules(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {finding["rule"]: finding for finding in data["findings"]}


# ------------------------------------------------------------------------------------------------ grids


def symmetric(values: np.ndarray, bits: int, tall: int, wide: int) -> np.ndarray:
    """Values rounded to a symmetric grid of their block, as GGUF's Q8_0 and ONNX's int8 do."""
    made = np.empty_like(values)
    top = 2 ** (bits - 1) - 1
    for row in range(0, values.shape[0], tall):
        for column in range(0, values.shape[1], wide):
            block = values[row : row + tall, column : column + wide]
            scale = np.abs(block).max() / top or 1
            made[row : row + tall, column : column + wide] = np.round(block / scale) * scale
    return made


def asymmetric(values: np.ndarray, bits: int) -> np.ndarray:
    """Values rounded to a grid from the least to the most of the whole tensor."""
    low, high = values.min(), values.max()
    scale = (high - low) / (2**bits - 1)
    return (np.round((values - low) / scale) * scale + low).astype(values.dtype)


def headers(shape: tuple[int, ...], grid: Grid | None, axes: tuple[int, ...] | None = None) -> TensorHeader:
    derived = None if grid is None else Derived((), lambda: None, "Q", "in blocks", grid)
    return TensorHeader("x", "F32", shape, derived=derived, axes=axes)


def told(a: np.ndarray, b: np.ndarray, grid: Grid, *, of: str = "b", axes: tuple[int, ...] | None = None) -> Delta:
    plain, made = headers(a.shape, None), headers(a.shape, grid, axes)
    both = (plain, made) if of == "b" else (made, plain)
    return rounded_by_quantisation(delta(a, b, ("F32", "F32")), a, b, both)


@given(
    st.sampled_from([4, 5, 6, 8]),
    st.sampled_from([(1, 32), (1, 0), (0, 1), (0, 0), (1, 40)]),
    st.integers(0, 1000),
    st.booleans(),
)
def test_a_quantised_tensor_is_told(bits: int, block: tuple[int, int], seed: int, turned: bool) -> None:
    values = np.random.default_rng(seed).standard_normal((24, 96)).astype(np.float32) ** 3
    tall, wide = block[0] or 24, block[1] or 96
    made = symmetric(values, bits, tall, wide)
    grid = Grid(bits, block)
    found = told(values.T, made.T, grid, axes=(1, 0)) if turned else told(values, made, grid)
    assert (found.rounding, found.rounded) == ("Q", "b")
    assert found.steps == pytest.approx(0.5, abs=0.06)
    assert told(made, values, grid, of="a").rounded == "a"


def test_a_grid_from_least_to_most_is_told() -> None:
    values = np.random.default_rng(0).random((30, 50)).astype(np.float32)
    assert told(values, asymmetric(values, 8), Grid(8, (0, 0))).rounding == "Q"


@pytest.mark.parametrize(("bits", "share"), [(8, 0.02), (4, 0.3)])
def test_training_beyond_the_grid_is_not_called_rounding(bits: int, share: float) -> None:
    random = np.random.default_rng(0)
    values = random.standard_normal((64, 256)).astype(np.float32)
    trained = values + share * random.standard_normal(values.shape).astype(np.float32)
    found = told(values, symmetric(trained, bits, 1, 32), Grid(bits, (1, 32)))
    assert found.rounding is None
    assert found.steps is not None


def test_one_number_that_is_far_off_is_enough() -> None:
    values = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
    made = symmetric(values, 8, 1, 32)
    made[5, 7] += 0.2
    assert told(values, made, Grid(8, (1, 32))).rounding is None


def test_without_a_grid_nothing_is_said() -> None:
    values = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    made = symmetric(values, 8, 1, 32)
    both = headers(values.shape, None), headers(values.shape, None)
    assert rounded_by_quantisation(delta(values, made, ("F32", "F32")), values, made, both).rounding is None
    two = headers(values.shape, Grid(8, (1, 32))), headers(values.shape, Grid(4, (1, 32)))
    assert rounded_by_quantisation(delta(values, made, ("F32", "F32")), values, made, two).rounding is None


# ------------------------------------------------------------------------------------------------ settings


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two copies of the built-in model as sentence-transformers folders."""
    for name in ("a", "b"):
        shutil.copytree(POCKET, tmp_path / name)
        (tmp_path / name / "1_Pooling").mkdir()
        pooling = {"word_embedding_dimension": 128, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
        (tmp_path / name / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
        modules = [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ]
        (tmp_path / name / "modules.json").write_text(json.dumps(modules))
        tokenizer = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
        (tmp_path / name / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return tmp_path / "a", tmp_path / "b"


def changed(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def test_the_same_model_is_called_so(pair: tuple[Path, Path], diff: Diff) -> None:
    found = rules(diff(*pair))
    assert set(found) == {"identical"}
    assert found["identical"]["message"].startswith("the same model: all ")


@pytest.mark.parametrize(
    ("file", "settings", "row"),
    [
        ("tokenizer_config.json", {"do_lower_case": False}, "case"),
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "step 1"),
        ("config.json", {"layer_norm_eps": 1e-5}, "layer_norm_eps"),
        ("config.json", {"hidden_act": "relu"}, "hidden_act"),
    ],
)
def test_a_setting_that_changed_is_told(
    pair: tuple[Path, Path], diff: Diff, file: str, settings: dict[str, Any], row: str
) -> None:
    changed(pair[1] / file, **settings)
    data = diff(*pair)
    assert "identical" in rules(data)
    assert data["settings"][0]["setting"] == row  # accents follow the case
    assert row in rules(data)["settings-differ"]["message"]


def test_a_dense_and_modules_that_got_lost_are_told(pair: tuple[Path, Path], diff: Diff) -> None:
    a, b = pair
    modules = json.loads((a / "modules.json").read_text())
    dense = {"in_features": 128, "out_features": 32, "activation_function": "torch.nn.modules.activation.Tanh"}
    (a / "2_Dense").mkdir()
    (a / "2_Dense" / "config.json").write_text(json.dumps(dense))
    modules.append({"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (a / "modules.json").write_text(json.dumps(modules))
    lost = {node["setting"]: (node["a"], node["b"]) for node in diff(a, b)["settings"]}
    assert lost == {"step 2": ("dense 128→32, tanh", None)}
    (b / "modules.json").unlink()
    (row,) = diff(a, b)["settings"]
    assert (row["setting"], row["b"]) == ("modules", None)
    assert "mean, dense 128→32, tanh" in row["a"]


def test_another_vocabulary_is_told(pair: tuple[Path, Path], diff: Diff) -> None:
    tokenizer = json.loads((pair[1] / "tokenizer.json").read_text())
    words = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    tokenizer["model"]["vocab"] |= {words[-1]: len(words) - 2, words[-2]: len(words) - 1}
    (pair[1] / "tokenizer.json").write_text(json.dumps(tokenizer))
    (row,) = diff(*pair)["settings"]
    assert row["setting"] == "vocabulary"
    assert "(4 stand in one only)" in row["b"]


def test_a_lone_file_has_no_settings_to_differ(pair: tuple[Path, Path], diff: Diff, tmp_path: Path) -> None:
    alone = tmp_path / "alone.safetensors"
    shutil.copy(pair[0] / "model.safetensors", alone)
    assert diff(pair[0], alone)["settings"] == []
    assert diff(alone, pair[0])["settings"] == []


@pytest.mark.parametrize("vocabulary", [{"a": [1], "b": {}}, {"a": "0"}, [[["a"], 0.5]], [3], 7, None, "text"])
def test_an_odd_vocabulary_is_no_traceback(pair: tuple[Path, Path], diff: Diff, vocabulary: Any) -> None:
    tokenizer = json.loads((pair[1] / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = vocabulary
    (pair[1] / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "vocabulary" not in {row["setting"] for row in diff(*pair)["settings"]}
