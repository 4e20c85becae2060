"""What is exported is what was stored: bit for bit, under its name, whole or not at all, and ready for transformers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import zoo
from safetensors import safe_open
from safetensors.numpy import save_file
from safetensors.torch import load_file
from transformers import BertConfig, BertModel
from transformers.models.bert.modeling_bert import BertIntermediate, BertPooler


def metadata(file: Path) -> dict[str, str]:
    with safe_open(file, "np") as opened:
        found: dict[str, str] = opened.metadata()
        return found


def test_the_pooler_is_the_sources_bit_for_bit(minilm: Path, tmp_path: Path, run: Any) -> None:
    file = tmp_path / "pooler.safetensors"
    assert run(["export", minilm, "-o", file]).code == 0
    source, ours = load_file(minilm / "model.safetensors"), load_file(file)
    assert set(ours) == {"pooler.dense.weight", "pooler.dense.bias"}
    for name, tensor in ours.items():
        assert tensor.dtype == source[name].dtype
        assert torch.equal(tensor, source[name])


def test_it_loads_straight_into_transformers_pooler_and_intermediate(minilm: Path, tmp_path: Path, run: Any) -> None:
    """As docs/exports.md shows; outputs equal the whole model's modules bit for bit."""
    file = tmp_path / "parts.safetensors"
    assert run(["export", minilm, "-o", file, "--part", "pooler", "--part", "intermediate", "--layers", "3"]).code == 0
    notes = metadata(file)
    config = BertConfig(
        hidden_size=int(notes["hidden_size"]),
        intermediate_size=int(notes["intermediate_size"]),
        hidden_act=notes["hidden_act"],
    )
    tensors = load_file(file)
    pooler, intermediate = BertPooler(config), BertIntermediate(config)
    pooler.load_state_dict({k.removeprefix("pooler."): v for k, v in tensors.items() if k.startswith("pooler.")})
    start = "encoder.layer.3.intermediate."
    intermediate.load_state_dict({k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)})

    model = BertModel.from_pretrained(minilm)
    hidden = torch.randn(2, 7, config.hidden_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(pooler(hidden), model.pooler(hidden))
        assert torch.equal(intermediate(hidden), model.encoder.layer[3].intermediate(hidden))


def test_the_whole_model_loads_with_nothing_missing(minilm: Path, tmp_path: Path, run: Any) -> None:
    assert run(["export", minilm, "-o", tmp_path / "model.safetensors", "--part", "model"]).code == 0
    (tmp_path / "config.json").write_bytes((minilm / "config.json").read_bytes())
    ours, report = BertModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    theirs = BertModel.from_pretrained(minilm).state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.state_dict().items())


def test_metadata_says_where_it_comes_from(minilm: Path, tmp_path: Path, run: Any) -> None:
    file = tmp_path / "pooler.safetensors"
    run(["export", minilm, "-o", file])
    notes = metadata(file)
    digest = hashlib.sha256((minilm / "model.safetensors").read_bytes()).hexdigest()
    assert json.loads(notes["source_files"]) == {"model.safetensors": f"sha256 {digest}"}
    assert notes["source"] == str(minilm)
    assert (notes["hidden_size"], notes["intermediate_size"], notes["hidden_act"]) == ("384", "1536", "gelu")
    assert notes["format"] == "pt"
    assert notes["parts"] == "pooler"
    assert notes["bertprobe_version"]


@pytest.mark.parametrize("family", ["bert", "modernbert", "gte", "convbert", "albert", "esm"])
@pytest.mark.parametrize("names", ["canonical", "stored"])
def test_every_intermediate_of_a_family_is_stored_as_it_was(family: str, names: str, tmp_path: Path, run: Any) -> None:
    zoo.save(family, tmp_path, **({"num_groups": 2} if family == "convbert" else {}))
    file = tmp_path / "out.safetensors"
    options = ["--part", "intermediate", "--names", names]
    assert run(["export", tmp_path / "model.safetensors", "-o", file, *options]).code == 0
    source, ours = load_file(tmp_path / "model.safetensors"), load_file(file)
    assert ours
    for name, tensor in ours.items():
        assert torch.equal(tensor, source[name])


def test_canonical_and_stored_names(small_bert: Path, tmp_path: Path, run: Any) -> None:
    for names, start in (("canonical", ""), ("stored", "bert.")):
        file = tmp_path / f"{names}.safetensors"
        assert run(["export", small_bert, "-o", file, "--names", names]).code == 0
        assert set(load_file(file)) == {f"{start}pooler.dense.weight", f"{start}pooler.dense.bias"}


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_pickled_checkpoints_export_the_same_bytes(layout: str, tiny_bert: Path, tmp_path: Path, run: Any) -> None:
    state = load_file(tiny_bert / "model.safetensors")
    state["encoder.layer.0.intermediate.dense.weight"] = (
        state["encoder.layer.0.intermediate.dense.weight"].T.contiguous().T
    )
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=layout == "zip")
    file = tmp_path / "all.safetensors"
    assert run(["export", tmp_path / "pytorch_model.bin", "-o", file, "--part", "model"]).code == 0
    ours = load_file(file)
    assert ours.keys() == state.keys()
    assert all(torch.equal(ours[name], state[name]) for name in state)


def test_optimizer_state_is_no_part_of_the_model(tmp_path: Path, run: Any) -> None:
    tensors = {
        "encoder.layer.0.intermediate.dense.weight": np.ones((4, 2), np.float32),
        "encoder.layer.0.intermediate.dense.weight.exp_avg": np.ones((4, 2), np.float32),
        "optimizer.state.0.exp_avg_sq": np.ones((4, 2), np.float32),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    assert run(["export", tmp_path, "-o", tmp_path / "out.safetensors", "--part", "model"]).code == 0
    assert set(load_file(tmp_path / "out.safetensors")) == {"encoder.layer.0.intermediate.dense.weight"}


CASTS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@pytest.mark.parametrize("dtype", CASTS)
def test_casts_equal_torchs(dtype: str, minilm: Path, tmp_path: Path, run: Any) -> None:
    """Both round to nearest even, so equality is exact."""
    file = tmp_path / "out.safetensors"
    assert run(["export", minilm, "-o", file, "--part", "intermediate", "--layers", "0", "--dtype", dtype]).code == 0
    source = load_file(minilm / "model.safetensors")
    for name, tensor in load_file(file).items():
        assert tensor.dtype == CASTS[dtype]
        assert torch.equal(tensor, source[name].to(CASTS[dtype]))


def test_integers_are_not_cast(minilm: Path, tmp_path: Path, run: Any) -> None:
    file = tmp_path / "out.safetensors"
    assert run(["export", minilm, "-o", file, "--part", "model", "--dtype", "bfloat16"]).code == 0
    assert load_file(file)["embeddings.position_ids"].dtype == torch.int64


def one_weight(folder: Path, array: np.ndarray[Any, Any]) -> Path:
    save_file({"encoder.layer.0.intermediate.dense.weight": array}, folder / "model.safetensors")
    return folder


def test_a_cast_that_overflows_is_an_error_and_leaves_nothing(tmp_path: Path, run: Any) -> None:
    one_weight(tmp_path, np.full((4, 2), 1e6, np.float32))
    ran = run(["export", tmp_path, "-o", tmp_path / "out.safetensors", "--part", "intermediate", "--dtype", "float16"])
    assert ran.code == 1
    assert "infinite" in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_infinity_that_was_there_may_stay(tmp_path: Path, run: Any) -> None:
    one_weight(tmp_path, np.full((4, 2), np.inf, np.float32))
    file = tmp_path / "out.safetensors"
    assert run(["export", tmp_path, "-o", file, "--part", "intermediate", "--dtype", "float16"]).code == 0
    assert torch.isinf(load_file(file)["encoder.layer.0.intermediate.dense.weight"]).all()


def test_npz_reads_back_with_numpy(minilm: Path, tmp_path: Path, run: Any) -> None:
    file = tmp_path / "pooler.npz"
    assert run(["export", minilm, "-o", file]).code == 0
    source = load_file(minilm / "model.safetensors")
    with np.load(file, allow_pickle=False) as archive:
        assert set(archive.files) == {"pooler.dense.weight", "pooler.dense.bias", "__metadata__"}
        assert np.array_equal(archive["pooler.dense.weight"], source["pooler.dense.weight"].numpy())
        assert json.loads(str(archive["__metadata__"]))["hidden_act"] == "gelu"


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2])
def test_npz_refuses_what_numpy_cannot_name(dtype: Any, tmp_path: Path, run: Any) -> None:
    tensor = torch.from_numpy(np.ones((4, 2), dtype).view(f"u{np.dtype(dtype).itemsize}")).view(
        {"bfloat16": torch.bfloat16, "float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}[
            np.dtype(dtype).name
        ]
    )
    from safetensors.torch import save_file as save_torch

    save_torch({"encoder.layer.0.intermediate.dense.weight": tensor}, tmp_path / "model.safetensors")
    refused = run(["export", tmp_path, "-o", tmp_path / "out.npz", "--part", "intermediate"])
    assert refused.code == 1
    assert ".npz cannot hold" in refused.err
    options = ["--part", "intermediate", "--dtype", "float32"]
    assert run(["export", tmp_path, "-o", tmp_path / "out.npz", *options]).code == 0
    assert run(["export", tmp_path, "-o", tmp_path / "out.safetensors", "--part", "intermediate"]).code == 0
    kept = load_file(tmp_path / "out.safetensors")["encoder.layer.0.intermediate.dense.weight"]
    assert kept.dtype == tensor.dtype
    assert torch.equal(kept.view(torch.uint8), tensor.view(torch.uint8))


def test_a_checkpoint_is_never_replaced_by_a_part_of_itself(tiny_bert: Path, tmp_path: Path, run: Any) -> None:
    model = tmp_path / "model.safetensors"
    model.write_bytes((tiny_bert / "model.safetensors").read_bytes())
    (tmp_path / "link.safetensors").symlink_to(model)
    for name in ("model.safetensors", "link.safetensors"):
        ran = run(["export", tmp_path / "model.safetensors", "-o", tmp_path / name, "--force"])
        assert ran.code == 1
        assert "being read" in ran.err
    assert model.read_bytes() == (tiny_bert / "model.safetensors").read_bytes()


def test_an_untrained_pooler_is_not_exported_without_a_word(minilm: Path, tmp_path: Path, run: Any) -> None:
    ran = run(["export", minilm, "-o", tmp_path / "pooler.safetensors", "--json"])
    assert {finding["rule"] for finding in json.loads(ran.out)["findings"]} == {"pooler-untrained", "pooler-unused"}
    ran = run(
        ["export", minilm, "-o", tmp_path / "ffn.safetensors", "--part", "intermediate", "--layers", "1", "--json"]
    )
    assert json.loads(ran.out)["findings"] == []


def test_an_unknown_suffix_is_refused(tiny_bert: Path, tmp_path: Path, run: Any) -> None:
    ran = run(["export", tiny_bert, "-o", tmp_path / "pooler.bin"])
    assert ran.code == 1
    assert ".safetensors or .npz" in ran.err


def test_layers_without_intermediate_are_wrong_usage(tiny_bert: Path, tmp_path: Path, run: Any) -> None:
    assert run(["export", tiny_bert, "-o", tmp_path / "p.safetensors", "--layers", "0"]).code == 2


def test_json_tells_what_was_written(tiny_bert: Path, tmp_path: Path, run: Any) -> None:
    file = tmp_path / "pooler.safetensors"
    told = json.loads(run(["export", tiny_bert, "-o", file, "--json"]).out)
    assert set(told) == {"model", "facts", "written", "findings", "version"}
    assert told["written"]["path"] == str(file)
    assert told["written"]["bytes"] == file.stat().st_size
    assert {tensor["name"] for tensor in told["written"]["tensors"]} == {"pooler.dense.weight", "pooler.dense.bias"}
    assert told["written"]["metadata"] == metadata(file)


def test_export_reads_itself_back(minilm: Path, tmp_path: Path, run: Any) -> None:
    file = tmp_path / "again.safetensors"
    run(["export", minilm, "-o", file, "--part", "intermediate", "--part", "pooler"])
    first = json.loads(run(["inspect", minilm, "--json"]).out)
    second = json.loads(run(["inspect", file, "--json"]).out)
    assert second["facts"]["activation"] == "gelu", "the metadata carries it"
    assert [part["tensors"] for part in first["parts"]] == [part["tensors"] for part in second["parts"]]
