"""One model in fourteen files, most of them written by other people's tools: one fingerprint, and back again."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bundle
import flaxfile
import ggufs
import h5file
import numpy as np
import pytest
import torch
from conftest import Run
from kin import POCKET
from safetensors.numpy import load_file, save_file
from transformers import BertConfig, BertModel

# Flax's and TensorFlow's rewrites are made by writers of our own, all others by the format's library or exporter.
Rewrite = Callable[[Path, BertModel, dict[str, np.ndarray]], None]
SMALL = ("config.json", "tokenizer.json")


def safetensors_in_shards(folder: Path, model: BertModel, _: Any) -> None:
    model.save_pretrained(folder, max_shard_size="200KB")


def safetensors_in_double(folder: Path, _: Any, state: dict[str, np.ndarray]) -> None:
    save_file({f"bert.{name}": values.astype(np.float64) for name, values in state.items()}, folder / "x.safetensors")


def pickled(folder: Path, model: BertModel, _: Any) -> None:
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def pickled_of_old(folder: Path, model: BertModel, _: Any) -> None:
    torch.save(model.state_dict(), folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def of_training(folder: Path, model: BertModel, _: Any) -> None:
    wrapped = {f"module.bert.{name}": values for name, values in model.state_dict().items()}
    torch.save({"model": wrapped, "optimizer": {"step": 3}}, folder / "checkpoint.pt")


def tensorflow(folder: Path, _: Any, state: dict[str, np.ndarray]) -> None:
    named = bundle.as_google({f"bert.{name}": values for name, values in state.items()})
    bundle.save(folder / "bert_model.ckpt", bundle.with_training(named))


def flax(folder: Path, _: Any, state: dict[str, np.ndarray]) -> None:
    (folder / "flax_model.msgpack").write_bytes(flaxfile.to_bytes(flaxfile.nested(flaxfile.as_flax(state))))


def keras(folder: Path, _: Any, state: dict[str, np.ndarray]) -> None:
    h5file.save(folder / "tf_model.h5", h5file.tf_model({f"bert.{name}": values for name, values in state.items()}))


def keras_packed(folder: Path, _: Any, state: dict[str, np.ndarray]) -> None:
    named = h5file.tf_model({f"bert.{name}": values for name, values in state.items()})
    h5file.save(folder / "tf_model.h5", named, compression="gzip", shuffle=True, chunks=True)


def numpy_packed(folder: Path, _: Any, state: dict[str, np.ndarray]) -> None:
    np.savez_compressed(folder / "weights.npz", **state)


def numpy_files(folder: Path, _: Any, state: dict[str, np.ndarray]) -> None:
    for name, values in state.items():
        np.save(folder / f"{name}.npy", np.asfortranarray(values))


def onnx_of_torch(folder: Path, model: BertModel, _: Any) -> None:
    ids = torch.randint(5, 50, (2, 7))
    inputs, names = (
        (ids, torch.ones_like(ids), torch.zeros_like(ids)),
        ["input_ids", "attention_mask", "token_type_ids"],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Bare(model), inputs, folder / "model.onnx", input_names=names, opset_version=17, dynamo=False)


def onnx_of_numbers(folder: Path, model: BertModel, state: dict[str, np.ndarray]) -> None:
    """The same without a single name, which the flow of data alone tells."""
    import graphs
    import onnx

    onnx_of_torch(folder, model, state)
    found = onnx.load(folder / "model.onnx")
    onnx.save(graphs.anonymous(found), folder / "model.onnx")


def gguf_in_float32(folder: Path, _: Any, state: dict[str, np.ndarray]) -> None:
    save_file(state, folder / "model.safetensors")
    ggufs.converted(folder, folder / "model.gguf")
    (folder / "model.safetensors").unlink()


WITHOUT_A_POOLER = (gguf_in_float32,)
REWRITES: tuple[Rewrite, ...] = (
    safetensors_in_shards, safetensors_in_double, pickled, pickled_of_old, of_training, tensorflow, flax, keras,
    keras_packed, numpy_packed, numpy_files, onnx_of_torch, onnx_of_numbers, gguf_in_float32,
)  # fmt: skip


class Bare(torch.nn.Module):
    """A model that puts out a tuple, under whose name nothing stands before the model's."""

    def __init__(self, model: BertModel) -> None:
        super().__init__()
        self.embeddings, self.encoder, self.pooler = model.embeddings, model.encoder, model.pooler
        self.whole = [model]

    def forward(self, ids: Any, mask: Any, segments: Any) -> Any:
        found = self.whole[0](input_ids=ids, attention_mask=mask, token_type_ids=segments)
        return found.last_hidden_state, found.pooler_output


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[BertModel, Path]:
    folder = tmp_path_factory.mktemp("original")
    config = BertConfig.from_pretrained(POCKET, num_hidden_layers=2, attn_implementation="eager")
    torch.manual_seed(0)
    model = BertModel(config).eval()
    with torch.no_grad():
        for values in model.parameters():
            values.add_(torch.randn_like(values) / 50)
    model.save_pretrained(folder)
    shutil.copy(POCKET / "tokenizer.json", folder)
    return model, folder


@pytest.fixture(params=REWRITES, ids=lambda rewrite: rewrite.__name__)
def rewritten(request: pytest.FixtureRequest, original: tuple[BertModel, Path], tmp_path: Path) -> tuple[Path, bool]:
    """A folder with the model in another file, and whether its pooler is in it."""
    folder = tmp_path / "rewritten"
    folder.mkdir()
    for name in SMALL:
        shutil.copy(original[1] / name, folder)
    request.param(folder, original[0], load_file(original[1] / "model.safetensors"))
    return folder, request.param not in WITHOUT_A_POOLER


def told(run: Run, *argv: str) -> dict[str, Any]:
    found = run([*argv, "--json"])
    assert found.code == 0, found.err
    return json.loads(found.out)


def test_there_are_ten_and_more() -> None:
    assert len(REWRITES) >= 10


def test_a_rewrite_has_the_fingerprint(
    run: Run, original: tuple[BertModel, Path], rewritten: tuple[Path, bool]
) -> None:
    wanted = told(run, "inspect", str(original[1]), "--all")["facts"]["fingerprint"]
    found = told(run, "inspect", str(rewritten[0]), "--all")["facts"]["fingerprint"]
    assert all(wanted.values())
    assert found["encoder"] == wanted["encoder"]
    assert found["intermediate"] == wanted["intermediate"]
    if rewritten[1]:
        assert found == wanted
    else:
        assert (found["pooler"], found["model"]) == (None, wanted["encoder"])


def test_diff_says_the_same_model(run: Run, original: tuple[BertModel, Path], rewritten: tuple[Path, bool]) -> None:
    found = told(run, "diff", str(original[1]), str(rewritten[0]))
    (identical,) = [finding for finding in found["findings"] if finding["rule"] == "identical"]
    assert identical["message"].startswith("the same model") == rewritten[1]
    assert "settings-differ" not in {finding["rule"] for finding in found["findings"]}


def test_transformers_loads_what_is_exported_of_it(
    run: Run, original: tuple[BertModel, Path], rewritten: tuple[Path, bool], tmp_path: Path
) -> None:
    out = tmp_path / "back"
    out.mkdir()
    written = told(
        run, "export", str(rewritten[0]), "--part", "model", "--dtype", "float32", "-o", str(out / "model.safetensors")
    )
    assert written["written"]["tensors"]
    shutil.copy(original[1] / "config.json", out)
    model, report = BertModel.from_pretrained(out, output_loading_info=True)
    missing = {name for name in report["missing_keys"] if rewritten[1] or "pooler" not in name}
    assert not missing
    assert not report["unexpected_keys"]
    state = model.state_dict()
    for name, values in original[0].state_dict().items():
        if rewritten[1] or "pooler" not in name:
            assert torch.equal(state[name], values), name
