"""What the user types leads to the weights that are meant, the settings beside them, and a note of what was decided."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run
from safetensors.torch import load_file, save_file
from test_bad_input import BERT, Files, lay, refused, weights

from bertprobe.anatomy import find_parts
from bertprobe.checkpoint import Checkpoint, open_checkpoint, read_tensor, read_tensors

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLDER = "fedcba9876543210fedcba9876543210fedcba98"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and a Hub cache that is as empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


@pytest.fixture(scope="session")
def sharded(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny BERT in several shards with an index, as transformers writes it."""
    from transformers import BertModel

    folder = tmp_path_factory.mktemp("sharded")
    BertModel.from_pretrained(tiny_bert).save_pretrained(folder, max_shard_size="30KB")
    return folder


def files(checkpoint: Checkpoint) -> list[str]:
    return [file.name for file in checkpoint.files]


def arrays(checkpoint: Checkpoint) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in read_tensors(checkpoint.headers)}


def expected(folder: Path) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(folder / "model.safetensors").items()}


def notes(checkpoint: Checkpoint) -> str:
    return "; ".join(checkpoint.notes)


# ------------------------------------------------------------------------------------------------ one file


def test_a_folder_and_its_file_are_one_checkpoint(tiny_bert: Path) -> None:
    folder, file = open_checkpoint(str(tiny_bert)), open_checkpoint(str(tiny_bert / "model.safetensors"))
    assert arrays(folder) == arrays(file) == expected(tiny_bert)
    assert folder.config == file.config == json.loads((tiny_bert / "config.json").read_text())
    assert (folder.storage, folder.notes, folder.revision, folder.pooling) == ("safetensors", (), None, None)
    assert folder.resolved == str(tiny_bert)
    assert folder.bytes_total == (tiny_bert / "model.safetensors").stat().st_size


def test_a_home_and_a_relative_path_are_followed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(here, {"m/model.safetensors": weights(BERT)})
    monkeypatch.setenv("HOME", str(here))
    for ref in ("m", "./m", "m/", "~/m", str(here / "m"), "m/model.safetensors", "m/../m"):
        assert open_checkpoint(ref).resolved.removesuffix("/model.safetensors") == str(here / "m")


@pytest.mark.parametrize(
    "name", ["encoder.safetensors", "model.fp16.safetensors", "weights.bin", "best.pt", "last.pth"]
)
def test_a_lone_file_of_any_name_is_taken(name: str, here: Path) -> None:
    if name.endswith("safetensors"):
        lay(here, {name: weights(BERT)})
    else:
        torch.save({name: torch.ones(4, 4) for name in BERT}, name)
    left = {"optimizer.pt": b"x", "scheduler.pt": b"x", "training_args.bin": b"x", "rng_state.pth": b"x"}
    left |= {"rng_state_0.pth": b"x", "scaler.pt": b"x", "adapter_model.bin": b"x", "sentence_embeddings.pt": b"x"}
    lay(here, {**left, "vocab.txt": "", "README.md": ""})
    assert files(open_checkpoint(".")) == [name]


def test_safetensors_goes_before_pytorch_and_says_so(here: Path) -> None:
    lay(
        here,
        {
            "model.safetensors": weights(BERT),
            "pytorch_model.bin": b"not read",
            "tf_model.h5": b"",
            "optimizer.bin": b"",
        },
    )
    checkpoint = open_checkpoint(".")
    assert files(checkpoint) == ["model.safetensors"]
    assert checkpoint.notes == ("safetensors is read, not pytorch_model.bin, tf_model.h5 beside it",)


def test_the_format_is_told_by_content_not_by_name(here: Path) -> None:
    torch.save({name: torch.ones(4, 4) for name in BERT}, "model.safetensors")
    lay(here, {"m/pytorch_model.bin": weights(BERT)})
    assert open_checkpoint(".").storage == "PyTorch"
    assert open_checkpoint("m").storage == "safetensors"


def test_a_link_into_a_blob_store_keeps_its_name(here: Path) -> None:
    lay(here, {"blobs/0a1b": weights(BERT), "m": None})
    (here / "m" / "model.safetensors").symlink_to("../blobs/0a1b")
    assert files(open_checkpoint("m")) == ["model.safetensors"]
    assert set(open_checkpoint("m/model.safetensors").headers) == set(BERT)


# ------------------------------------------------------------------------------------------------ shards


def test_shards_with_an_index_are_one_model(sharded: Path, tiny_bert: Path) -> None:
    shards = sorted(path.name for path in sharded.glob("*.safetensors"))
    assert len(shards) > 2
    for ref in (sharded, sharded / "model.safetensors.index.json", sharded / shards[1]):
        checkpoint = open_checkpoint(str(ref))
        assert files(checkpoint) == shards
        assert arrays(checkpoint) == expected(tiny_bert)
        assert checkpoint.config is not None


def test_shards_without_an_index_are_one_model(sharded: Path, tiny_bert: Path, here: Path) -> None:
    for shard in sharded.glob("*.safetensors"):
        shutil.copy(shard, here)
    lay(here, {"optimizer-00001-of-00002.bin": b"x", "optimizer.pt": b"x"})
    checkpoint = open_checkpoint(".")
    assert arrays(checkpoint) == expected(tiny_bert)
    assert len(checkpoint.files) == len(list(sharded.glob("*.safetensors")))


def test_shards_of_pytorch_are_one_model(here: Path) -> None:
    for number, half in enumerate((BERT[:5], BERT[5:]), 1):
        torch.save(
            {name: torch.full((4, 4), float(number)) for name in half}, f"pytorch_model-0000{number}-of-00002.bin"
        )
    assert set(open_checkpoint(".").headers) == set(BERT)
    lay(here, {"pytorch_model.bin.index.json": {"weight_map": {BERT[0]: "pytorch_model-00001-of-00002.bin"}}})
    assert set(open_checkpoint(".").headers) == set(BERT[:5])


def test_a_complete_set_goes_before_an_incomplete_one(here: Path) -> None:
    half = {f"old-0000{i}-of-00003.safetensors": b"x" for i in (1, 3)}
    lay(here, {**half, **{f"new-0000{i}-of-00002.safetensors": weights([f"{i}.pooler.dense.weight"]) for i in (1, 2)}})
    assert files(open_checkpoint(".")) == ["new-00001-of-00002.safetensors", "new-00002-of-00002.safetensors"]


def test_a_named_shard_brings_its_set_or_says_that_it_is_alone(here: Path) -> None:
    names = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    lay(here, {name: weights([f"encoder.layer.{i}.intermediate.dense.weight"]) for i, name in enumerate(names)})
    whole = open_checkpoint(names[1])
    assert files(whole) == names
    assert notes(whole) == f"{names[1]} is one of 3 shards: all are read"
    Path(names[2]).unlink()
    alone = open_checkpoint(names[1])
    assert files(alone) == [names[1]]
    assert "shard 2 of 3 alone" in notes(alone)


def test_an_index_says_which_copy_of_a_tensor_counts(here: Path) -> None:
    """Left over in a shard that the index does not name for it, a tensor is not read."""
    save_file({"pooler.dense.weight": torch.zeros(4, 4), "other": torch.ones(1)}, "a.safetensors")
    save_file({"pooler.dense.weight": torch.ones(4, 4)}, "b.safetensors")
    for right in "ab":
        weight_map = {"pooler.dense.weight": f"{right}.safetensors", "other": "a.safetensors"}
        lay(here, {"model.safetensors.index.json": {"weight_map": weight_map}})
        array = read_tensor(open_checkpoint(".").headers["pooler.dense.weight"])
        assert np.all(array == (right == "b"))


# ------------------------------------------------------------------------------------------------ settings beside

PLAIN = {"hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 2, "hidden_act": "relu"}


@pytest.mark.parametrize(
    ("settings", "family", "activation"),
    [
        ({}, "bert", None),
        ({"config.json": PLAIN}, "bert", "relu"),
        ({"bert_config.json": PLAIN}, "bert", "relu"),
        ({"config.json": {"model_type": "roberta"}}, "roberta", "gelu"),
        ({"config.json": {"model_type": "bert", "hidden_act": "silu"}, "bert_config.json": PLAIN}, "bert", "silu"),
    ],
)
def test_the_config_beside_the_weights_counts(
    settings: Files, family: str, activation: str | None, here: Path, run: Run
) -> None:
    lay(here, {"m/model.safetensors": weights(BERT), **{f"m/{name}": config for name, config in settings.items()}})
    for ref in ("m", "m/model.safetensors"):
        anatomy = find_parts(open_checkpoint(ref))
        assert anatomy.family == family
        assert {part.activation for part in anatomy.of("intermediate")} == {activation}
    shown = run(["inspect", "m", "--shapes"])
    assert shown.code == 0
    assert ("activation unknown" in shown.out) == (activation is None)


POOLING = {"word_embedding_dimension": 4, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}


@pytest.mark.parametrize(
    ("folder", "modules"),
    [
        ("0_Transformer", None),
        ("0_Transformer", [{"idx": 0, "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}]),
        ("0_BERT", [{"idx": 0, "path": "0_BERT", "type": "sentence_transformers.models.Transformer"}]),
        (".", [{"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"}]),
        ("0_Transformer", "not JSON"),
        ("0_Transformer", {"path": 1}),
        ("0_Transformer", [1]),
        ("0_Transformer", [{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]),
    ],
)
def test_sentence_transformers_keeps_the_weights_apart(folder: str, modules: Any, here: Path, run: Run) -> None:
    found = {"modules.json": modules} if modules is not None else {}
    lay(here, {f"m/{folder}/model.safetensors": weights(BERT), f"m/{folder}/config.json": PLAIN})
    lay(here, {"m/1_Pooling/config.json": POOLING, **{f"m/{name}": content for name, content in found.items()}})
    checkpoint = open_checkpoint("m")
    assert checkpoint.pooling == POOLING
    assert checkpoint.config == PLAIN
    assert set(checkpoint.headers) == set(BERT)
    assert (f"the weights lie in {folder}/" in notes(checkpoint)) == (folder != ".")
    assert "pooler-unused" in run(["inspect", "m"]).out


@pytest.mark.parametrize("path", ["..", "../other", "/etc", "a/b", "x" * 5000, "a\0b", "missing", 7, None])
def test_modules_cannot_lead_out_of_the_folder(path: Any, here: Path) -> None:
    modules = [{"path": path, "type": "sentence_transformers.models.Transformer"}]
    lay(here, {"other/model.safetensors": b"x", "m/model.safetensors": weights(BERT), "m/modules.json": modules})
    assert open_checkpoint("m").resolved == str(here / "m")


def test_a_folder_in_itself_has_an_end(here: Path, run: Run) -> None:
    lay(here, {"m": None})
    (here / "m" / "0_Transformer").symlink_to(".")
    refused(run(["inspect", "m"]))


# ------------------------------------------------------------------------------------------------ the Hub's cache


def cached(hub: Path, name: str, content: Mapping[str, Any], commit: str = COMMIT, ref: str | None = "main") -> Path:
    """A repository in the layout of huggingface_hub's cache: blobs, links to them, and a ref."""
    repository = hub / f"models--{name.replace('/', '--')}"
    lay(repository, {f"blobs/{commit}-{file}": inner for file, inner in content.items()})
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for file in content:
        (snapshot / file).symlink_to(Path("../../blobs") / f"{commit}-{file}")
    if ref is not None:
        lay(repository, {f"refs/{ref}": commit})
    return snapshot


@pytest.mark.parametrize("name", ["owner/model", "bert-base-uncased", "owner/model.v2_x"])
def test_a_cached_model_is_found_by_its_name(name: str, here: Path, run: Run) -> None:
    snapshot = cached(here / "hub", name, {"model.safetensors": weights(BERT), "config.json": PLAIN})
    checkpoint = open_checkpoint(name)
    assert (checkpoint.revision, checkpoint.resolved, checkpoint.config) == (COMMIT, str(snapshot), PLAIN)
    assert "from the local Hub cache" in notes(checkpoint)
    assert COMMIT[:12] in run(["inspect", name, "--shapes"]).out


def test_a_revision_is_a_branch_a_pull_request_or_a_commit(here: Path, run: Run) -> None:
    hub = here / "hub"
    cached(hub, "owner/model", {"model.safetensors": weights(BERT)})
    cached(hub, "owner/model", {"model.safetensors": weights(BERT[:4])}, OLDER, "refs/pr/1")
    lay(hub / "models--owner--model", {"refs/v1.0": OLDER})
    assert open_checkpoint("owner/model").revision == open_checkpoint("owner/model@main").revision == COMMIT
    for revision in ("refs/pr/1", "v1.0", OLDER):
        checkpoint = open_checkpoint(f"owner/model@{revision}")
        assert (checkpoint.revision, len(checkpoint.headers)) == (OLDER, 4)
    for revision in ("v2.0", OLDER[:7]):
        refused(
            run(["inspect", f"owner/model@{revision}"]), f"owner/model@{revision}", "local Hub cache", "hf download"
        )
    for revision in ("..", "../../../x", "/etc/hostname"):
        refused(run(["inspect", f"owner/model@{revision}"]), f"owner/model@{revision}")


@pytest.mark.parametrize(
    "content",
    [
        {"pytorch_model.bin": weights(BERT)},
        {"model.safetensors.index.json": {"weight_map": {BERT[0]: "a.safetensors"}}, "a.safetensors": weights(BERT)},
        {"tokenizer.json": {}, "encoder.safetensors": weights(BERT)},
    ],
)
def test_a_cached_model_needs_no_config(content: dict[str, Any], here: Path) -> None:
    cached(here / "hub", "owner/model", content)
    assert set(open_checkpoint("owner/model").headers) == set(BERT)


@pytest.mark.parametrize("name", ["owner/model", "model", "o/m/x", "hf://owner/model"])
def test_a_model_that_is_not_cached_is_an_error(name: str, here: Path, run: Run) -> None:
    refused(run(["inspect", name]), "local Hub cache, which is empty", "HF_HUB_OFFLINE", "hf download")
    cached(here / "hub", "other/one", {"model.safetensors": weights(BERT)})
    refused(run(["inspect", name]), "local Hub cache, which has other/one")


@pytest.mark.parametrize("name", ["a--b/c", "owner/model@", "owner/.hidden", "x" * 200, "a/b/../c", "a//b"])
def test_what_the_hub_cannot_have_is_not_asked_for(name: str, here: Path, run: Run) -> None:
    refused(run(["inspect", name]), f"there is no '{name}'", "a model on the Hub")


def test_a_model_cached_without_weights_is_an_error(here: Path, run: Run) -> None:
    cached(here / "hub", "owner/model", {"config.json": PLAIN, "tokenizer.json": {}})
    refused(run(["inspect", "owner/model"]), "holds no weights, only config.json, tokenizer.json")


def test_a_cached_blob_that_is_gone_is_an_error(here: Path, run: Run) -> None:
    snapshot = cached(here / "hub", "owner/model", {"config.json": PLAIN, "model.safetensors": weights(BERT)})
    (snapshot / "model.safetensors").resolve().unlink()
    refused(run(["inspect", "owner/model"]), "model.safetensors cannot be read (No such file or directory)")


def test_a_path_goes_before_a_cached_name(here: Path) -> None:
    cached(here / "hub", "owner/model", {"model.safetensors": weights(BERT)})
    lay(here, {"owner/model/model.safetensors": weights(BERT)})
    assert open_checkpoint("owner/model").revision is None


# ------------------------------------------------------------------------------------------------ real ones


def test_a_real_model_in_a_folder_of_sentence_transformers(minilm: Path) -> None:
    checkpoint = open_checkpoint(str(minilm))
    assert checkpoint.pooling is not None
    assert checkpoint.pooling["pooling_mode_mean_tokens"] is True
    assert len(checkpoint.headers) > 100
    assert checkpoint.bytes_read < 100_000


@pytest.mark.parametrize(
    ("name", "file", "pooling"),
    [
        ("camphr-bert-test", "pytorch_model.bin", False),
        ("camphr-ner_bert", "pytorch_model.bin", False),
        ("coldfire-tiny-bert", "model.safetensors", True),
    ],
)
def test_real_small_checkpoints(name: str, file: str, pooling: bool, shared_checkpoints: Path) -> None:
    checkpoint = open_checkpoint(str(shared_checkpoints / name))
    assert files(checkpoint) == [file]
    assert checkpoint.config is not None
    assert (checkpoint.pooling is not None) == pooling
    assert any(re.search(r"encoder\.layer\.0\.intermediate\.dense\.weight", name) for name in checkpoint.headers)


def test_other_formats_are_told_by_name(tmp_path: Path, run: Run) -> None:
    """A rust-bert file has no first bytes of its own."""
    (tmp_path / "model.ot").write_bytes(b"\x08\x06\x12\x07")
    ran = run(["inspect", tmp_path / "model.ot"])
    refused(ran, "model.ot is a rust-bert file", "only safetensors, PyTorch")
    (tmp_path / "model.ot").unlink()
    (tmp_path / "epoch=3.ckpt").write_bytes(b"PK\3\4")
    refused(run(["inspect", tmp_path]), "a Lightning checkpoint", "name the file itself")
