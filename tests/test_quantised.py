"""Weights stored as codes: what they are is said, and no value, verdict, export or vector is made of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Run
from kin import POCKET
from safetensors.torch import load_file, save_file
from torch import Tensor

State = dict[str, Tensor]


def is_matrix(name: str, tensor: Tensor) -> bool:
    return tensor.ndim == 2 and name.endswith(".weight") and "embeddings" not in name and "decoder" not in name


def int8(state: State, name: str, weight: Tensor) -> None:
    """As bitsandbytes writes it: a row's largest number becomes 127."""
    scale = weight.abs().amax(1)
    state[name] = (weight / scale[:, None] * 127).round().to(torch.int8)
    state[name.replace(".weight", ".SCB")] = scale


def nf4(state: State, name: str, weight: Tensor) -> None:
    state[name] = torch.randint(0, 255, (weight.numel() // 2, 1), dtype=torch.uint8)
    state[f"{name}.absmax"] = torch.ones(weight.numel() // 64)
    state[f"{name}.quant_map"] = torch.linspace(-1, 1, 16)
    state[f"{name}.quant_state.bitsandbytes__nf4"] = torch.zeros(80, dtype=torch.uint8)


def fp8(state: State, name: str, weight: Tensor) -> None:
    scale = weight.abs().max() / 448
    state[name] = (weight / scale).to(torch.float8_e4m3fn)
    state[f"{name}_scale"] = scale.reshape(1)


def gptq(state: State, name: str, weight: Tensor) -> None:
    path, (rows, columns) = name.removesuffix("weight"), weight.shape
    del state[name]
    state[f"{path}qweight"] = torch.zeros(columns // 8, rows, dtype=torch.int32)
    state[f"{path}qzeros"] = torch.zeros(1, rows // 8, dtype=torch.int32)
    state[f"{path}scales"] = torch.ones(1, rows, dtype=torch.float16)
    state[f"{path}g_idx"] = torch.zeros(columns, dtype=torch.int32)


def packed(state: State, name: str, weight: Tensor) -> None:
    del state[name]
    state[f"{name}_packed"] = torch.zeros(weight.shape[0], weight.shape[1] // 8, dtype=torch.int32)
    state[f"{name}_scale"] = torch.ones(weight.shape[0], 1)
    state[f"{name}_shape"] = torch.tensor(weight.shape)


def quanto(state: State, name: str, weight: Tensor) -> None:
    del state[name]
    state[f"{name}._data"] = weight.mul(50).to(torch.int8)
    state[f"{name}._scale"] = torch.ones(weight.shape[0], 1)


def bare(state: State, name: str, weight: Tensor) -> None:
    state[name] = weight.mul(50).to(torch.int8)


KINDS: dict[str, tuple[Callable[[State, str, Tensor], None], str]] = {
    "bitsandbytes int8": (int8, "bitsandbytes int8"),
    "bitsandbytes nf4": (nf4, "bitsandbytes 4-bit"),
    "fp8": (fp8, "8 bits with scales"),
    "GPTQ": (gptq, "GPTQ or AWQ"),
    "compressed-tensors": (packed, "compressed-tensors"),
    "quanto": (quanto, "quanto"),
    "integers alone": (bare, "scales that are not in the file"),
}


@pytest.fixture(params=[*KINDS, "torch dynamic int8"])
def quantised(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """The built-in model as one of them stores it, and what it is to be called."""
    folder = tmp_path / "m"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "vocab.txt"):
        shutil.copy(POCKET / name, folder / name)
    if request.param == "torch dynamic int8":
        from transformers import BertModel

        model = BertModel.from_pretrained(POCKET, dtype=torch.float32)
        made = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
        torch.save(made.state_dict(), folder / "pytorch_model.bin")
        return folder, request.param
    make, called = KINDS[request.param]
    state = {name: tensor.float() for name, tensor in load_file(POCKET / "model.safetensors").items()}
    for name, tensor in list(state.items()):
        if is_matrix(name, tensor):
            make(state, name, tensor)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return folder, called


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_codes_are_never_numbers(quantised: tuple[Path, str], tmp_path: Path, run: Run) -> None:
    folder, called = quantised
    shown = run(["inspect", folder, "--json"])
    assert shown.code == 0, shown.err
    data = json.loads(shown.out)
    (finding,) = [finding for finding in data["findings"] if finding["rule"] == "quantised"]
    assert f"codes of a quantisation ({called})" in finding["message"]
    assert finding["evidence"]["count"] >= 25
    assert not [f for f in data["findings"] if f["severity"] == "error"], data["findings"]
    assert [part["verdict"] for part in data["parts"]] == [None] * 5
    assert data["facts"]["hidden_size"] == 128
    assert data["facts"]["intermediate_size"] == 512
    assert run(["inspect", folder, "--strict"]).code == 3
    assert run(["inspect", folder, "--shapes"]).code == 0
    said = f"codes of a quantisation ({called})"
    for argv in (
        ["pool", "a b", "-m", folder],
        ["activations", "a b", "-m", folder],
        ["export", folder, "-o", tmp_path / "p.safetensors"],
        ["export", folder, "-o", tmp_path / "w.safetensors", "--part", "model"],
        ["diff", POCKET, folder],
        ["verify", "a b", "-m", folder],
        ["graft", folder, POCKET, "--replace", "-o", tmp_path / "g"],
    ):
        ran = run(argv)
        assert ran.code == 1, argv
        assert said in ran.err, (argv, ran.err)
        assert ran.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]


def test_eight_bits_without_scales_are_numbers_unless_the_config_says_otherwise(tmp_path: Path, run: Run) -> None:
    state = {}
    for name, tensor in load_file(POCKET / "model.safetensors").items():
        state[name] = tensor.to(torch.float8_e4m3fn) if is_matrix(name, tensor) else tensor
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    config = json.loads((POCKET / "config.json").read_text())
    for settings, readable in (({}, True), ({"quantization_config": {"quant_method": "fp8"}}, False)):
        (tmp_path / "config.json").write_text(json.dumps({**config, **settings}))
        data = json.loads(run(["inspect", tmp_path, "--json"]).out)
        assert all((part["verdict"] is not None) == readable for part in data["parts"])
        assert any("(fp8)" in finding["message"] for finding in data["findings"]) != readable


@pytest.mark.parametrize("how", ["prune", "weight_norm", "parametrised weight_norm", "spectral_norm"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weights_in_parts_are_not_read_as_if_they_were_whole(how: str, tmp_path: Path, run: Run) -> None:
    from torch.nn.utils import parametrizations, prune, weight_norm
    from transformers import BertModel

    model = BertModel.from_pretrained(POCKET, dtype=torch.float32)
    for dense in (*(layer.intermediate.dense for layer in model.encoder.layer), model.pooler.dense):
        if how == "prune":
            prune.l1_unstructured(dense, "weight", 0.3)
        else:
            norms = {"weight_norm": weight_norm, "spectral_norm": parametrizations.spectral_norm}
            norms.get(how, parametrizations.weight_norm)(dense)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(POCKET / name, tmp_path / name)
    data = json.loads(run(["inspect", tmp_path, "--json"]).out)
    errors = [finding for finding in data["findings"] if finding["severity"] == "error"]
    assert {finding["rule"] for finding in errors} == {"unreadable"}
    assert len(errors) == 5
    assert all("kept in parts (torch.nn.utils." in finding["message"] for finding in errors)
    assert [part["verdict"] for part in data["parts"]] == [None] * 5
    for argv in (["pool", "a b", "-m", tmp_path], ["export", tmp_path, "-o", tmp_path / "p.safetensors"]):
        ran = run(argv)
        assert ran.code == 1
        assert "kept in parts" in ran.err


@pytest.mark.parametrize("where", ["attention.self.query", "intermediate.dense"])
def test_an_adapter_that_was_not_merged_is_told(where: str, tmp_path: Path, run: Run) -> None:
    """As peft names them in the state of a whole model: the weight of before, and the two thin matrices beside it."""
    state = {}
    for name, tensor in load_file(POCKET / "model.safetensors").items():
        path, _, kind = name.rpartition(".")
        adapted = path.endswith(where)
        state[f"base_model.model.{path}.base_layer.{kind}" if adapted else f"base_model.model.{name}"] = tensor.float()
        if adapted and kind == "weight":
            state[f"base_model.model.{path}.lora_A.default.weight"] = torch.ones(2, tensor.shape[1])
            state[f"base_model.model.{path}.lora_B.default.weight"] = torch.ones(tensor.shape[0], 2)
    torch.save(state, tmp_path / "pytorch_model.bin")
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(POCKET / name, tmp_path / name)
    data = json.loads(run(["inspect", tmp_path, "--json"]).out)
    errors = [finding["rule"] for finding in data["findings"] if finding["severity"] == "error"]
    assert errors == (["unreadable"] * 4 if where == "intermediate.dense" else [])
    assert data["facts"]["layers"] == 4
    ran = run(["pool", "a b", "-m", tmp_path])
    assert ran.code == 1
    assert "kept in parts (peft, not merged)" in ran.err


def test_a_tensor_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path, run: Run) -> None:
    state = {name: tensor.float() for name, tensor in load_file(POCKET / "model.safetensors").items()}
    name = next(name for name in state if name.endswith("layer.0.intermediate.dense.bias"))
    state[name] = torch.ones(1).expand(512)
    torch.save(state, tmp_path / "pytorch_model.bin")
    shutil.copy(POCKET / "config.json", tmp_path / "config.json")
    data = json.loads(run(["inspect", tmp_path, "--json"]).out)
    (finding,) = [finding for finding in data["findings"] if finding["severity"] == "error"]
    assert (finding["rule"], finding["part"]) == ("unreadable", "intermediate.0")
    assert "expanded view" in finding["message"]
    assert [part["verdict"] for part in data["parts"]] == ["trained"] * 5
