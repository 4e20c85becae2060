"""A TensorFlow checkpoint is the model it was made of: bit for bit, under every way of naming it, for every command."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import bundle
import numpy as np
import pytest
import torch
import zoo
from bundle import BFLOAT16, How, as_google, as_object_graph, index_of, save, shard_of, with_training
from conftest import Run
from equal import canonical
from hub import Hub
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from test_bad_input import lay, refused

import bertprobe
from bertprobe.anatomy import find_parts
from bertprobe.checkpoint import Checkpoint, open_checkpoint, read_tensor, read_tensors
from bertprobe.checkpoint.tensorflow import recognises, table
from bertprobe.checkpoint.tensorflow.bundle import _ordered
from bertprobe.errors import CorruptFile
from bertprobe.stats.numbers import measure

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "ship",
    "left",
    "har",
    "##bour",
    ".",
    "they",
    "sailed",
    "across",
    "sea",
    "a",
]
NAME = "bert_model.ckpt"
TEXTS = ("the ship left the harbour.", "they sailed across the sea.", "a")
CONFIG = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 24,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "initializer_range": 0.02,
}
SETTINGS = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
State = Mapping[str, Any]


@pytest.fixture(scope="session")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BertForPreTraining with no number at its initial value, as `save_pretrained` writes it, and a vocabulary."""
    from transformers import BertConfig, BertForPreTraining

    folder = tmp_path_factory.mktemp("theirs")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = BertForPreTraining(BertConfig(**CONFIG)).eval()
        for parameter in model.parameters():
            parameter.data += torch.randn_like(parameter) * 0.2
        model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    return folder


@pytest.fixture(scope="session")
def state(theirs: Path) -> State:
    return load_file(theirs / "model.safetensors")


@pytest.fixture(scope="session")
def google(state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as Google would have published it, with what training leaves."""
    folder = tmp_path_factory.mktemp("models") / "uncased_L-2_H-32_A-4"
    folder.mkdir()
    save(folder / "bert_model.ckpt", with_training(as_google(state)))
    settle(folder)
    (folder / "bert_model.ckpt.meta").write_bytes(b"\n\x0egraph")
    return folder


def settle(folder: Path, name: str = "bert_config.json") -> None:
    (folder / name).write_text(json.dumps(CONFIG))
    (folder / "vocab.txt").write_text("\n".join(WORDS))


def base_of(state: State) -> dict[str, Any]:
    return {name.removeprefix("bert."): values for name, values in state.items() if name.startswith("bert.")}


def json_of(run: Run, *argv: str | Path, code: int = 0) -> dict[str, Any]:
    ran = run([*argv, "--json"])
    assert ran.code == code, ran.err
    found: dict[str, Any] = json.loads(ran.out)
    return found


# ------------------------------------------------------------------------------------------------ a whole model

PARTS = {
    "bert/embeddings/word_embeddings": [[(0, 5), (0, -1)], [(5, 6), (0, -1)], [(11, len(WORDS) - 11), (0, -1)]],
    "bert/encoder/layer_0/intermediate/dense/kernel": [[(0, -1), (64, 32)], [(0, -1), (0, 64)]],
    "bert/encoder/layer_1/attention/self/key/bias": [[(0, 30)], [(30, 2)]],
}
HOWS = {
    "as it is": How(),
    "in three shards": How(shards=3),
    "in many small blocks": How(block=60),
    "packed by snappy": How(block=300, snappy=True),
    "without checksums": How(checksums=False),
    "partitioned": How(shards=2, slices=PARTS),
}


@pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)
def test_every_tensor_comes_back_under_its_name(how: How, state: State, tmp_path: Path) -> None:
    save(tmp_path / "bert_model.ckpt", with_training(as_google(state)), how)
    checkpoint = open_checkpoint(str(tmp_path))
    found = canonical(checkpoint)
    expected = {name.removeprefix("bert."): values for name, values in state.items() if "decoder" not in name}
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert found[name].shape == values.shape, name
        assert found[name].tobytes() == values.tobytes(), name
    assert checkpoint.storage == "TensorFlow"
    assert len(checkpoint.files) == 1 + how.shards


def test_an_object_graph_is_read_as_far_as_it_carries_the_names(state: State, tmp_path: Path, run: Run) -> None:
    save(tmp_path / "tf_model", with_training(as_object_graph(state)))
    settle(tmp_path, "config.json")
    found = canonical(open_checkpoint(str(tmp_path)))
    expected = {name.removeprefix("bert."): values for name, values in state.items() if "decoder" not in name}
    assert set(found) == set(expected)
    assert all(np.array_equal(found[name], values) for name, values in expected.items())
    pooled = json_of(run, "pool", TEXTS[0], "-m", tmp_path, "--backend", "torch")["texts"][0]["pooled"]["values"]
    assert np.array_equal(np.float32(pooled), their_pooled(state, TEXTS[:1])[0])
    assert run(["verify", "-m", tmp_path, TEXTS[0]]).code == 0


def test_other_names_of_an_object_graph_are_refused(tmp_path: Path, run: Run) -> None:
    name = "model/layer_with_weights-0/kernel/.ATTRIBUTES/VARIABLE_VALUE"
    save(tmp_path / "ckpt-1", {name: np.ones((4, 4), np.float32)})
    refused(run(["inspect", tmp_path]), "layer_with_weights-0/kernel", "expected a BERT-like encoder")


def their_pooled(state: State, texts: Sequence[str]) -> list[Any]:
    """What transformers' own model puts out, one text at a time."""
    from transformers import BertConfig, BertModel

    model = BertModel(BertConfig(**CONFIG)).eval()
    tensors = {name: torch.from_numpy(values.copy()) for name, values in base_of(state).items()}
    model.load_state_dict(tensors, strict=True)
    ids = {
        TEXTS[0]: [2, 5, 6, 7, 5, 8, 9, 10, 3],
        TEXTS[1]: [2, 11, 12, 13, 5, 14, 10, 3],
        TEXTS[2]: [2, 15, 3],
    }
    with torch.inference_mode():
        return [model(torch.tensor([ids[text]])).pooler_output[0].numpy() for text in texts]


@pytest.mark.parametrize(("backend", "tolerance"), [("torch", 0), ("numpy", 1e-5)])
def test_pool_is_transformers_and_what_the_same_weights_give_as_safetensors(
    backend: str, tolerance: float, google: Path, theirs: Path, state: State, run: Run
) -> None:
    expected = their_pooled(state, TEXTS)
    for text, reference in zip(TEXTS, expected, strict=True):
        ours, same = (
            np.float32(json_of(run, "pool", text, "-m", m, "--backend", backend)["texts"][0]["pooled"]["values"])
            for m in (google, theirs)
        )
        assert np.abs(ours - reference).max() <= tolerance
        assert np.abs(ours - same).max() <= 1e-6  # mapped where they lie in the file, weights round otherwise


@pytest.mark.parametrize(("backend", "tolerance"), [("torch", 0), ("numpy", 1e-5)])
def test_activations_are_those_of_the_same_weights(
    backend: str, tolerance: float, google: Path, theirs: Path, tmp_path: Path, run: Run
) -> None:
    for number, model in enumerate((google, theirs)):
        out = tmp_path / f"{number}.safetensors"
        assert run(["activations", *TEXTS, "-m", model, "--backend", backend, "-o", out]).code == 0
    ours, same = (load_file(tmp_path / f"{number}.safetensors") for number in (0, 1))
    assert set(ours) == set(same)
    assert all(np.abs(ours[name] - same[name]).max() <= max(tolerance, 1e-6) for name in ours)


def test_a_partitioned_model_runs(state: State, tmp_path: Path, run: Run) -> None:
    save(tmp_path / NAME, as_google(state), HOWS["partitioned"])
    settle(tmp_path)
    for backend, tolerance in (("torch", 0), ("numpy", 1e-5)):
        data = json_of(run, "pool", TEXTS[0], "-m", tmp_path, "--backend", backend)
        pooled = np.float32(data["texts"][0]["pooled"]["values"])
        assert np.abs(pooled - their_pooled(state, TEXTS[:1])[0]).max() <= tolerance


def test_verify_fills_transformers_model_from_it(google: Path, run: Run) -> None:
    data = json_of(run, "verify", *TEXTS, "-m", google)
    assert data["holds"] is True
    assert [row["torch"] for row in data["parts"]] == [0, 0, 0, 0], "bit for bit"
    assert data["facts"]["storage"] == "TensorFlow"


def test_inspect_measures_what_the_same_weights_give(google: Path, theirs: Path, run: Run) -> None:
    ours, same = (json_of(run, "inspect", model, "--spectrum", "--neurons", "2") for model in (google, theirs))
    assert [part["label"] for part in ours["parts"]] == [part["label"] for part in same["parts"]]
    for a, b in zip(ours["parts"], same["parts"], strict=True):
        for x, y in zip(a["tensors"], b["tensors"], strict=True):
            assert (x["name"], x["dtype"], x["shape"]) == (y["name"], y["dtype"], y["shape"])
            for statistic, value in y["statistics"].items():
                assert x["statistics"][statistic] == pytest.approx(value, rel=1e-5, abs=1e-9), statistic
    stored = [tensor["stored_name"] for part in ours["parts"] for tensor in part["tensors"]]
    assert stored[0] == "bert/encoder/layer_0/intermediate/dense/kernel"
    assert stored[-1] == "bert/pooler/dense/bias"
    assert (ours["facts"]["prefix"], ours["facts"]["family"], ours["facts"]["layers"]) == ("bert.", "bert", 2)
    assert ours["facts"]["parameters"] == sum(
        v.size for n, v in as_google(load_file(theirs / "model.safetensors")).items()
    )


def test_the_modules_for_torch_load_from_it(google: Path, theirs: Path) -> None:
    hidden = torch.randn(2, 3, 32)
    for make in (lambda m: bertprobe.Pooler.from_checkpoint(m), lambda m: bertprobe.Intermediate.from_checkpoint(m, 1)):
        ours, same = make(str(google)), make(str(theirs))
        assert ours.dense.weight.is_contiguous()
        assert torch.equal(ours(hidden), same(hidden))


# ------------------------------------------------------------------------------------------------ the conversion


@pytest.mark.parametrize("how", [HOWS["as it is"], HOWS["packed by snappy"], HOWS["partitioned"]])
def test_the_exported_model_loads_in_transformers_with_nothing_missing(
    how: How, state: State, tmp_path: Path, run: Run
) -> None:
    from transformers import BertForPreTraining, BertModel

    model, new = tmp_path / "google's model", tmp_path / "new"
    model.mkdir()
    new.mkdir()
    save(model / "bert_model.ckpt", with_training(as_google(state)), how)
    settle(model)
    data = json_of(run, "export", model, "-o", new / "model.safetensors", "--part", "model")
    (finding,) = data["findings"]
    assert finding["rule"] == "not-loaded-by-transformers"
    subprocess.run(finding["hint"], shell=True, check=True)  # what it says is done, and is enough
    loaded, info = BertModel.from_pretrained(new, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    for name, values in base_of(state).items():
        assert np.array_equal(loaded.state_dict()[name].numpy(), values), name
    _, info = BertForPreTraining.from_pretrained(new, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert sorted(path.name for path in new.iterdir()) == ["config.json", "model.safetensors", "vocab.txt"]
    told = run(["export", model, "-o", new / "model.safetensors", "--part", "model", "--force"])
    assert "config.json" not in told.out, "it is there now"


def test_inspect_tells_the_conversion(google: Path, theirs: Path, tmp_path: Path, run: Run) -> None:
    data = json_of(run, "inspect", google, "--strict")
    (finding,) = data["findings"]
    assert (finding["rule"], finding["severity"]) == ("not-loaded-by-transformers", "note")
    for command in finding["hint"].removeprefix("convert it: ").replace("NEW", str(tmp_path / "NEW")).split(" && "):
        words = shlex.split(command)
        ran = run(words[1:]).code if words[0] == "bertprobe" else subprocess.run(words, check=True).returncode
        assert ran == 0
    assert {path.name for path in (tmp_path / "NEW").iterdir()} == {"model.safetensors", "config.json", "vocab.txt"}
    assert "not-loaded-by-transformers" not in run(["inspect", theirs]).out


def test_what_is_suggested_names_the_folder_that_was_meant(google: Path, run: Run) -> None:
    data = json_of(run, "inspect", google.parent, "--subfolder", google.name, "--shapes")
    (finding,) = data["findings"]
    assert f"bertprobe export {google} " in finding["hint"]


def test_stored_names_keep_the_stored_orientation(google: Path, state: State, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "stored.safetensors"
    assert run(["export", google, "-o", out, "--part", "model", "--names", "stored"]).code == 0
    written, stored = load_file(out), as_google(state)
    assert set(written) == set(stored)
    assert all(np.array_equal(written[name], values) for name, values in stored.items())
    again = canonical(open_checkpoint(str(out)))
    assert all(np.array_equal(again[name], values) for name, values in base_of(state).items())
    assert "prefix-not-stripped" in run(["inspect", out]).out


def test_a_dtype_and_a_part_are_exported(google: Path, state: State, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "pooler.safetensors"
    assert run(["export", google, "-o", out, "--dtype", "float16"]).code == 0
    written = load_file(out)
    assert set(written) == {"pooler.dense.weight", "pooler.dense.bias"}
    assert np.array_equal(written["pooler.dense.weight"], state["bert.pooler.dense.weight"].astype(np.float16))
    out = tmp_path / "ffn.npz"
    assert run(["export", google, "-o", out, "--part", "intermediate", "--layers", "1"]).code == 0
    with np.load(out) as file:
        name = "encoder.layer.1.intermediate.dense.weight"
        assert np.array_equal(file[name], state[f"bert.{name}"])


# ------------------------------------------------------------------------------------------------ other spellings


def as_google_albert(state: State) -> dict[str, Any]:
    found = {}
    for name, values in state.items():
        new = name if name.startswith("albert.") else f"albert.{name}"
        new = re.sub(r"albert_layer_groups\.(\d+)\.albert_layers\.(\d+)", r"transformer.group_\1.inner_group_\2", new)
        new = new.replace("attention.LayerNorm", "LayerNorm").replace("full_layer_layer_norm", "LayerNorm_1")
        new = re.sub(r"attention\.(query|key|value)", r"attention_1.self.\1", new)
        new = new.replace("attention.dense", "attention_1.output.dense").replace(
            "ffn_output", "ffn_1.intermediate.output.dense"
        )
        new = new.replace("ffn.", "ffn_1.intermediate.dense.").replace("pooler.", "pooler.dense.")
        new = re.sub(r"^albert\.", "bert.", new)
        found |= as_google({new: values})
    return found


@pytest.mark.parametrize("family", ["albert", "electra"])
def test_googles_other_models_are_read_too(family: str, tmp_path: Path) -> None:
    zoo.save(family, tmp_path / "theirs")
    state = load_file(tmp_path / "theirs" / "model.safetensors")
    named = as_google_albert(state) if family == "albert" else as_google({f"electra.{n}": v for n, v in state.items()})
    save(tmp_path / "model.ckpt", with_training(named))
    checkpoint = open_checkpoint(str(tmp_path / "model.ckpt"))
    anatomy = find_parts(checkpoint)
    assert anatomy.family == family
    found = canonical(checkpoint)
    assert {n: v.tobytes() for n, v in found.items()} == {n: v.tobytes() for n, v in state.items()}


def test_heads_are_named_as_transformers_names_them(state: State, tmp_path: Path) -> None:
    heads = {
        "cls/squad/output_weights": "qa_outputs.weight",
        "cls/squad/output_bias": "qa_outputs.bias",
        "output_weights": "classifier.weight",
        "output_bias": "classifier.bias",
    }
    values = {name: np.arange(6, dtype=np.float32).reshape((2, 3) if "weights" in name else 6) for name in heads}
    save(tmp_path / "m", {**as_google(state), **values})
    found = canonical(open_checkpoint(str(tmp_path)))
    assert all(np.array_equal(found[new], values[old]) for old, new in heads.items())


# ------------------------------------------------------------------------------------------------ ways of naming it

ONE = {"pooler/dense/kernel": np.ones((4, 4), np.float32), "pooler/dense/bias": np.ones(4, np.float32)}


def said(checkpoint: Checkpoint) -> str:
    return "; ".join(checkpoint.notes)


@pytest.mark.parametrize(
    ("typed", "note"),
    [
        ("", ""),
        (NAME, ""),
        (f"{NAME}.index", ""),
        (f"{NAME}.data-00000-of-00001", "data-00000-of-00001 holds data alone: the checkpoint is that of"),
        (f"{NAME}.meta", "holds the graph alone"),
    ],
)
def test_every_file_of_it_leads_to_it(typed: str, note: str, google: Path, state: State) -> None:
    checkpoint = open_checkpoint(str(google / typed))
    assert np.array_equal(canonical(checkpoint)["pooler.dense.weight"], state["bert.pooler.dense.weight"])
    assert checkpoint.config == CONFIG
    assert checkpoint.folder == google
    assert said(checkpoint) == "" if not note else note in said(checkpoint)


def test_a_prefix_in_this_very_folder(google: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(google)
    assert open_checkpoint(NAME).storage == open_checkpoint(".").storage == "TensorFlow"


@pytest.mark.parametrize(
    ("path", "note"),
    [
        ("model.ckpt-20", ""),
        ("./model.ckpt-20", ""),
        (
            "/home/they/run 7/model.ckpt-20",
            "names /home/they/run 7/model.ckpt-20: model.ckpt-20.index of this folder is",
        ),
        ("C:\\\\run\\\\model.ckpt-20", "model.ckpt-20.index of this folder is read"),
    ],
)
def test_the_file_checkpoint_chooses(path: str, note: str, tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save(tmp_path / f"model.ckpt-{step}", {n: v * step for n, v in ONE.items()})
    lay(tmp_path, {"checkpoint": f'model_checkpoint_path: "{path}"\nall_model_checkpoint_paths: "model.ckpt-10"\n'})
    for ref in (tmp_path, tmp_path / "checkpoint"):
        checkpoint = open_checkpoint(str(ref))
        assert canonical(checkpoint)["pooler.dense.bias"][0] == 20
        assert note in said(checkpoint)
    if not note:
        assert "chooses model.ckpt-20.index among 3" in said(open_checkpoint(str(tmp_path)))


def test_the_file_checkpoint_may_lead_into_a_folder_below(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    save(tmp_path / "run" / "model.ckpt-5", ONE)
    lay(tmp_path, {"checkpoint": 'model_checkpoint_path: "run/model.ckpt-5"'})
    for ref in (tmp_path, tmp_path / "checkpoint"):
        assert open_checkpoint(str(ref)).folder == tmp_path / "run"


@pytest.mark.parametrize("path", ["../other/model", "/etc/passwd", "run/../../model", "", "x" * 5000])
def test_the_file_checkpoint_leads_nowhere_else(path: str, tmp_path: Path, run: Run) -> None:
    save(tmp_path / "a.ckpt", ONE)
    lay(tmp_path, {"checkpoint": f'model_checkpoint_path: "{path}"'})
    refused(run(["inspect", tmp_path / "checkpoint"]), "which is not there", "name the checkpoint itself")
    assert "which is not here: a.ckpt.index is read" in said(open_checkpoint(str(tmp_path)))


def test_another_tools_file_of_that_name_is_its_own(tmp_path: Path) -> None:
    for content in (b"\x80\2\xff not text", b"nothing of TensorFlow"):
        (tmp_path / "checkpoint").write_bytes(content)
        save(tmp_path / "a.ckpt", ONE)
        assert said(open_checkpoint(str(tmp_path))) == ""
    torch.save({"pooler.dense.weight": torch.ones(2, 2)}, tmp_path / "checkpoint")
    assert open_checkpoint(str(tmp_path / "checkpoint")).storage == "PyTorch"


def test_a_saved_model_keeps_them_apart(state: State, tmp_path: Path) -> None:
    (tmp_path / "variables").mkdir()
    lay(tmp_path, {"saved_model.pb": b"\x08\x01", "config.json": CONFIG})
    save(tmp_path / "variables" / "variables", as_google(state))
    for ref in (tmp_path, tmp_path / "variables"):
        checkpoint = open_checkpoint(str(ref))
        assert find_parts(checkpoint).of("pooler")
    checkpoint = open_checkpoint(str(tmp_path))
    assert (checkpoint.config, "SavedModel" in said(checkpoint)) == (CONFIG, True)
    assert checkpoint.config_file == tmp_path / "config.json"


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["bert_config.json"], "bert_config.json"),
        (["albert_config.json"], "albert_config.json"),
        (["bert_config_large.json", "tokenizer_config.json"], "bert_config_large.json"),
        (["a_config.json", "b_config.json"], None),
        (["tokenizer_config.json"], None),
    ],
)
def test_a_config_of_another_name_is_taken_where_it_is_the_only_one(
    names: list[str], found: str | None, tmp_path: Path
) -> None:
    save(tmp_path / "m", ONE)
    lay(tmp_path, dict.fromkeys(names, CONFIG))
    checkpoint = open_checkpoint(str(tmp_path))
    assert checkpoint.config == (None if found is None else CONFIG)
    assert (f"{found} is taken for the config" in said(checkpoint)) == (found not in (None, "bert_config.json"))


def test_other_weights_go_first(theirs: Path, google: Path, tmp_path: Path) -> None:
    for path in (*theirs.glob("*.*s*"), *google.glob(f"{NAME}*")):
        (tmp_path / path.name).symlink_to(path)
    assert open_checkpoint(str(tmp_path)).storage == "safetensors"
    assert open_checkpoint(str(tmp_path / NAME)).storage == "TensorFlow"


# ------------------------------------------------------------------------------------------------ casing


@pytest.mark.parametrize(
    ("folder", "settings", "note", "unknown"),
    [
        ("uncased_L-2", {}, "text is lower-cased: no setting says so, but the folder is called 'uncased_L-2'", False),
        ("my-uncased", {}, "text is lower-cased", False),
        ("cased_L-2", {}, "text keeps its case: no setting says so, but the folder is called 'cased_L-2'", True),
        ("multi_cased_L-2", {}, "text keeps its case", True),
        ("cased_L-2", {"do_lower_case": True}, "do_lower_case is true by the model's config", False),
        ("uncased_L-2", {"do_lower_case": False}, "do_lower_case is false by the model's config", True),
        ("encased", {}, "no entry of vocab.txt has a capital", False),
    ],
)
def test_casing_by_the_config_then_by_the_folders_name(
    folder: str, settings: dict[str, Any], note: str, unknown: bool, state: State, tmp_path: Path, run: Run
) -> None:
    model = tmp_path / folder
    model.mkdir()
    save(model / NAME, as_google(state))
    settle(model)
    (model / "bert_config.json").write_text(json.dumps({**CONFIG, **settings}))
    data = json_of(run, "pool", "The Ship", "-m", model)
    assert ("[UNK]" in data["texts"][0]["tokens"]) == unknown
    assert note in " ".join(data["facts"]["tokenizer_notes"])
    assert note[:20] in run(["pool", "The Ship", "-m", model]).out


# ------------------------------------------------------------------------------------------------ on the Hub

HUB_ID = "google/bert_uncased_L-2_H-32"


@pytest.fixture
def published(hub: Hub, state: State, tmp_path: Path) -> Hub:
    """The model on the stand-in for the Hub, in two shards, with training state that makes them large."""
    slots = {f"{name}/adam_m": np.ones(400_000, np.float32) for name in ("bert/pooler/dense/kernel",)}
    folder = tmp_path / "published"
    folder.mkdir()
    save(folder / NAME, {**as_google(state), **slots}, How(shards=2))
    settle(folder)
    hub.add(HUB_ID, {path.name: path for path in folder.iterdir()})
    return hub


@pytest.mark.parametrize("path", ["", f"/{NAME}.index", f"/{NAME}.data-00001-of-00002"])
def test_on_the_hub_it_is_read_by_byte_ranges(path: str, published: Hub, state: State, run: Run) -> None:
    checkpoint = open_checkpoint(f"hf://{HUB_ID}{path}")
    assert len(list(published.requests)) <= 5
    found = canonical(checkpoint)
    assert all(np.array_equal(found[name], values) for name, values in base_of(state).items())
    assert checkpoint.bytes_read < checkpoint.bytes_total / 4
    assert run(["inspect", HUB_ID, "--weights", NAME]).code == 0


def test_on_the_hub_an_index_alone_in_the_cache_is_not_taken(published: Hub, state: State) -> None:
    from huggingface_hub import hf_hub_download

    index = next(file.name for file in open_checkpoint(HUB_ID).files if file.name.endswith(".index"))
    hf_hub_download(HUB_ID, index)
    checkpoint = open_checkpoint(HUB_ID)
    assert checkpoint.resolved.startswith("hf://")
    assert len(list(read_tensors(checkpoint.headers))) == len(checkpoint.headers)


def test_on_the_hub_it_is_run_from_the_cache(published: Hub, state: State, run: Run) -> None:
    data = json_of(run, "pool", TEXTS[0], "-m", HUB_ID, "--backend", "torch")
    assert np.array_equal(np.float32(data["texts"][0]["pooled"]["values"]), their_pooled(state, TEXTS[:1])[0])
    assert "the folder is called 'bert_uncased_L-2_H-32'" in " ".join(data["facts"]["tokenizer_notes"])
    before = len(published.weights())
    assert run(["pool", TEXTS[0], "-m", HUB_ID]).code == 0
    assert len(published.weights()) == before


# ------------------------------------------------------------------------------------------------ the format's laws

DTYPES = st.sampled_from(
    [np.dtype(name) if name != "bfloat16" else BFLOAT16 for name in bundle.TYPES if "float8" not in name]
)
NAMES = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=12).filter(lambda n: n[0] != "\0")


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    shape = draw(st.lists(st.integers(0, 5), max_size=3))
    dtype = draw(DTYPES)
    size = int(np.prod(shape)) * dtype.itemsize
    content = draw(st.binary(min_size=size, max_size=size))
    return np.frombuffer(content, np.uint8).copy().view(dtype).reshape(shape) if size else np.zeros(shape, dtype)


@st.composite
def hows(draw: st.DrawFn, tensors: Mapping[str, Any]) -> How:
    """Any way of writing some tensors, a few of them cut into slices along any of their axes."""
    slices = {}
    for name, values in tensors.items():
        if values.size and draw(st.booleans()):
            axes = [
                draw(st.lists(st.integers(0, n), max_size=2).map(lambda cuts, n=n: cut(cuts, n))) for n in values.shape
            ]
            grid: list[list[tuple[int, int]]] = [[]]
            for spans in axes:
                grid = [[*row, span] for row in grid for span in spans]
            if values.shape:
                slices[name] = draw(st.permutations(grid))
    return How(draw(st.integers(1, 3)), draw(st.integers(1, 200)), draw(st.booleans()), draw(st.booleans()), slices)


def cut(cuts: Sequence[int], n: int) -> list[tuple[int, int]]:
    edges = sorted({0, n, *cuts})
    return [(0, -1)] if len(edges) == 2 else [(a, b - a) for a, b in pairwise(edges)]


@SETTINGS
@given(data=st.data(), tensors=st.dictionaries(NAMES, arrays(), min_size=1, max_size=8))
def test_what_is_written_is_read(data: st.DataObject, tensors: dict[str, Any], tmp_path_factory: Any) -> None:
    prefix = tmp_path_factory.mktemp("law") / "m"
    save(prefix, tensors, data.draw(hows(tensors)))
    headers = open_checkpoint(str(prefix)).headers
    assert set(headers) == set(tensors)
    found = dict(read_tensors(headers))
    for name, values in tensors.items():
        assert (found[name].dtype, found[name].shape) == (values.dtype, values.shape)
        assert found[name].tobytes() == values.tobytes()


@given(st.integers(-(2**63), 2**63 - 1))
def test_numbers_in_keys_are_as_two_people_read_the_description(number: int) -> None:
    assert _ordered(number) == bundle.signed(number)


def test_numbers_in_keys_are_those_of_the_description() -> None:
    assert _ordered(0x424242) == bytes.fromhex("f0424242")
    assert _ordered(-0x800) == bytes.fromhex("3800")


@pytest.mark.parametrize("how", [How(), How(snappy=True), How(block=30, snappy=True), How(shards=40, block=1)])
def test_an_index_is_told_by_its_first_bytes(how: How, state: State, tmp_path: Path) -> None:
    head = index_of(save(tmp_path / "m", as_google(state), how)).read_bytes()[:64]
    assert recognises(head)
    assert not recognises(b"")
    assert not recognises(b"PK\3\4" + head)


def test_an_index_is_one_read_and_opens_no_shard_in_vain(state: State, tmp_path: Path) -> None:
    tensors = as_google(state)
    save(tmp_path / "m", tensors, How(shards=2))
    checkpoint = open_checkpoint(str(tmp_path))
    assert checkpoint.bytes_read == index_of(tmp_path / "m").stat().st_size
    rows = dict(table.rows(checkpoint.files[0]))
    bundle.write(tmp_path / "n", {**rows, b"": bundle.header(5)}, [])
    for number in (0, 1):
        shard_of(tmp_path / "n", number, 5).write_bytes(shard_of(tmp_path / "m", number, 2).read_bytes())
    assert len(open_checkpoint(str(tmp_path / "n")).files) == 3, "shards 2 to 4 hold nothing and need not be there"


# ------------------------------------------------------------------------------------------------ real


@pytest.fixture(scope="session")
def real(shared_checkpoints: Path) -> Path:
    folder = shared_checkpoints / "keras-bert-tf1"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder


def test_every_checksum_of_a_real_one_holds(real: Path) -> None:
    headers = open_checkpoint(str(real)).headers
    assert len(headers) == 139
    assert all(piece.checksum is not None for header in headers.values() for piece in header.pieces)
    assert len(list(read_tensors(headers))) == 139
    flipped = [
        replace(h, pieces=tuple(replace(p, checksum=(p.checksum or 0) ^ 1) for p in h.pieces)) for h in headers.values()
    ]
    for header in flipped:
        with pytest.raises(CorruptFile, match=re.escape(f"tensor {header.name} ")):
            read_tensor(header)


def test_all_commands_work_on_a_real_one(real: Path, tmp_path: Path, run: Run) -> None:
    from transformers import BertModel

    data = json_of(run, "inspect", real, "--strict")
    assert {part["verdict"] for part in data["parts"]} == {"too small to tell"}
    assert (data["facts"]["layers"], data["facts"]["hidden_size"], data["facts"]["intermediate_size"]) == (2, 4, 16)
    assert [finding["rule"] for finding in data["findings"]] == ["not-loaded-by-transformers"]
    assert json_of(run, "verify", "all work and no play", "-m", real)["holds"] is True
    pooled = json_of(run, "pool", "all work and no play", "-m", real, "--backend", "torch")["texts"][0]
    assert pooled["tokens"] == ["[CLS]", "all", "work", "and", "no", "play", "[SEP]"]
    assert len(json_of(run, "activations", "all work", "-m", real)["layers"]) == 2
    json_of(run, "export", real, "-o", tmp_path / "model.safetensors", "--part", "model")
    (tmp_path / "config.json").write_bytes((real / "bert_config.json").read_bytes())
    model, info = BertModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    with torch.inference_mode():
        reference = model.eval()(torch.tensor([[2, 5, 6, 7, 8, 9, 3]])).pooler_output[0].numpy()
    assert np.array_equal(np.float32(pooled["pooled"]["values"]), reference)
    found = dict(read_tensors(open_checkpoint(str(real)).headers))
    kernel = found["bert/encoder/layer_0/intermediate/dense/kernel"]
    assert np.array_equal(model.state_dict()["encoder.layer.0.intermediate.dense.weight"].numpy(), kernel.T)


# ------------------------------------------------------------------------------------------------ bad files

ROWS = {
    b"": bundle.header(1),
    b"pooler/dense/bias": bundle.entry(1, [4], 0, 0, 16, bundle.masked(bytes(16))),
    b"pooler/dense/kernel": bundle.entry(1, [4, 4], 0, 16, 64, bundle.masked(bytes(64))),
}
GOOD = bundle.table(list(ROWS.items()))
META, HERE = bundle.varint(0) + bundle.varint(0), bundle.varint


def with_entry(value: bytes, name: bytes = b"pooler/dense/kernel") -> bytes:
    return bundle.table(sorted({**ROWS, name: value}.items()))


def with_header(value: bytes) -> bytes:
    return with_entry(value, b"")


def of_block(content: bytes, packing: int = 0) -> bytes:
    """An index whose one data block is this."""
    out = bundle.sealed(content, packing)
    listing = bundle.entries([(b"z", HERE(0) + HERE(len(content)))])
    return out + bundle.sealed(listing) + bundle.footer(META, HERE(len(out)) + HERE(len(listing)))


def of_handles(*handles: tuple[int, int]) -> bytes:
    """An index whose list of blocks has these places; the one block there is has 54 bytes and more."""
    block = bundle.sealed(bundle.entries(list(ROWS.items())))
    listing = bundle.entries([(bytes([97 + i]), HERE(a) + HERE(n)) for i, (a, n) in enumerate(handles)])
    return block + bundle.sealed(listing) + bundle.footer(META, HERE(len(block)) + HERE(len(listing)))


def cyclic() -> bytes:
    """An index whose list of blocks is itself a block on the list."""
    block = bundle.sealed(bundle.entries(list(ROWS.items())))
    size = len(bundle.entries([(b"a", HERE(len(block)) + HERE(30))]))
    listing = bundle.entries([(b"a", HERE(len(block)) + HERE(size))])
    return block + bundle.sealed(listing) + bundle.footer(META, HERE(len(block)) + HERE(len(listing)))


def damaged_block() -> bytes:
    return GOOD[:20] + bytes([GOOD[20] ^ 4]) + GOOD[21:]


def partitioned(*slices: tuple[int, int], stored: Sequence[tuple[int, int]] | None = None, size: int = 4) -> bytes:
    """An index with a bias of four numbers in slices, of which those `stored` are there."""
    listed = b"".join(bundle.text(7, bundle.text(1, bundle.extent(*span))) for span in slices)
    rows = {**ROWS, b"pooler/dense/bias": bundle.whole(1, 1) + bundle.text(2, bundle.shape_of([4])) + listed}
    for number, (start, n) in enumerate(stored if stored is not None else slices):
        key = bundle.slice_key("pooler/dense/bias", [(start, n)])
        rows[key] = bundle.entry(1, [n], 0, number * size, n * 4, None)
    return bundle.table(sorted(rows.items()))


BAD: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "empty": (b"", ("is empty",)),
    "a web page": (b"<html>", ("a web page",)),
    "ten bytes": (GOOD[:10], ("it has 10 bytes, fewer than the 48 of a footer", "cut short")),
    "cut in the middle": (GOOD[: len(GOOD) // 2], ("does not end in the magic number", "fetch it again")),
    "cut at the end": (GOOD[:-1], ("does not end in the magic number",)),
    "another magic": (GOOD[:-8] + bytes(8), ("does not end in the magic number",)),
    "one bit": (damaged_block(), ("its block at byte 0 has the checksum",)),
    "a list outside": (GOOD[:-48] + bundle.footer(META, HERE(10**12) + HERE(9)), ("outside of its",)),
    "a list of 2^64 bytes": (GOOD[:-48] + bundle.footer(META, HERE(0) + HERE(-1)), ("outside of its",)),
    "handles without end": (GOOD[:-48] + b"\xff" * 40 + GOOD[-8:], ("a number in it has no end",)),
    "a block outside": (of_handles((10**9, 20)), ("a block at bytes 1,000,000,000", "no block can be")),
    "a block of absurd size": (of_handles((0, 2**60)), ("where no block can be",)),
    "a block twice": (of_handles((0, 10), (0, 10)), ("its block at byte 0 has the checksum",)),
    "a list on itself": (cyclic(), ("where no block can be",)),
    "restarts beyond": (of_block(b"\0" * 8 + b"\xff\xff\xff\xff"), ("announces 4,294,967,295 places to start",)),
    "an entry beyond": (of_block(b"\0\0\x7f" + b"\0" * 4 + b"\1\0\0\0"), ("an entry reaches beyond its block",)),
    "a prefix of nothing": (of_block(b"\5\0\0" + b"\0" * 4 + b"\1\0\0\0"), ("an entry reaches beyond its block",)),
    "keys out of order": (of_block(bundle.entries([(b"b", b""), (b"a", b"")])), ("out of order",)),
    "a key twice": (of_block(bundle.entries([(b"a", b""), (b"a", b"")])), ("one stands there twice",)),
    "a key too long": (bundle.table([(b"", bundle.header(1)), (b"x" * 3000, b"")]), ("a key has 3,000 bytes",)),
    "packed otherwise": (of_block(b"\0" * 12, packing=2), ("packed in way 2", "not snappy")),
    "packed badly": (of_block(b"\x0a\xff\xff\xff", packing=1), ("cannot be unpacked by snappy",)),
    "a bomb": (of_block(HERE(2**31) + b"\0a", packing=1), ("announces 2,147,483,648, more than snappy can",)),
    "packed to nothing": (of_block(b"", packing=1), ("a number in it has no end",)),
    "no header": (bundle.table([(b"a", ROWS[b"pooler/dense/bias"])]), ("has no header",)),
    "a header of noise": (with_header(b"\xff\xff"), ("the header of", "no end")),
    "no shards": (with_header(b"\x10\0"), ("announces 0 data shards",)),
    "too many shards": (with_header(bundle.header(10**6)), ("announces 1,000,000 data shards",)),
    "the other byte order": (with_header(bundle.header(1, 1)), ("the other byte order",)),
    "no text for a name": (with_entry(b"", b"\xff\xfe"), ("a name that is not text",)),
    "an entry of noise": (with_entry(b"\x0f"), ("entry of tensor pooler/dense/kernel", "no known kind")),
    "an entry cut short": (with_entry(b"\x12\x7f\0"), ("tensor pooler/dense/kernel", "cut short")),
    "an entry without a type": (with_entry(b""), ("tensor pooler/dense/kernel", "has no type")),
    "a number for a shape": (with_entry(b"\x08\1\x10\1"), ("tensor pooler/dense/kernel", "a number for a message")),
    "text for a number": (with_entry(b"\x0a\1\1"), ("tensor pooler/dense/kernel", "text for a number")),
    "an unknown shape": (with_entry(b"\x08\1" + bundle.text(2, b"\x18\1")), ("its shape is not known",)),
    "a negative size": (with_entry(bundle.entry(1, [-1], 0, 0, 4, None)), ("negative dimension",)),
    "too many dimensions": (with_entry(bundle.entry(1, [1] * 40, 0, 0, 4, None)), ("has 40 dimensions",)),
    "an absurd shape": (with_entry(bundle.entry(1, [2**40, 2**40], 0, 0, 64, None)), ("it has 64",)),
    "too few bytes": (with_entry(bundle.entry(1, [4, 4], 0, 0, 60, None)), ("needs 64 bytes, it has 60",)),
    "beyond the shard": (
        with_entry(bundle.entry(1, [4, 4], 0, 40, 64, None)),
        ("tensor pooler/dense/kernel should lie at bytes 40 to 104 of m.data-00000-of-00001, which has 80",),
    ),
    "far beyond the shard": (with_entry(bundle.entry(1, [4, 4], 0, -1, 64, None)), ("tensor pooler/dense/kernel",)),
    "no such shard": (with_entry(bundle.entry(1, [4, 4], 3, 0, 64, None)), ("it lies in shard 3 of 1",)),
    "slices missing": (partitioned((0, 2), (2, 2), stored=[(0, 2)]), ("tensor pooler/dense/bias", "slice 1 is not in")),
    "slices with a gap": (partitioned((0, 1), (2, 2)), ("tensor pooler/dense/bias", "leave a part of it out")),
    "slices that overlap": (partitioned((0, 3), (2, 2)), ("tensor pooler/dense/bias", "overlap")),
    "slices beyond": (partitioned((0, 2), (2, 3)), ("tensor pooler/dense/bias", "reaches beyond it")),
    "slices of nothing": (partitioned((0, 4), (4, 0)), ("tensor pooler/dense/bias", "reaches beyond it")),
    "slices of one place": (partitioned((0, 2), (2, 2), size=0), ("tensor pooler/dense/bias", "share bytes")),
    "slices without end": (partitioned(*[(0, 1)] * 5000), ("tensor pooler/dense/bias lies in 5,000 slices",)),
    "slices of too many axes": (
        with_entry(bundle.whole(1, 1) + bundle.text(2, bundle.shape_of([4])) + bundle.text(7, b"")),
        ("a slice of it has 0 axes, it has 1",),
    ),
    "another tool's index": (b"IxFI" + bytes(80), ("m.index is no sound index", "magic number")),
}


@pytest.mark.parametrize(("index", "words"), BAD.values(), ids=BAD)
def test_a_bad_index_is_one_line(index: bytes, words: tuple[str, ...], tmp_path: Path, run: Run) -> None:
    (tmp_path / "m.index").write_bytes(index)
    shard_of(tmp_path / "m").write_bytes(bytes(80))
    refused(run(["inspect", tmp_path]), *words)


def test_the_good_one_is_good(tmp_path: Path, run: Run) -> None:
    (tmp_path / "m.index").write_bytes(GOOD)
    shard_of(tmp_path / "m").write_bytes(bytes(80))
    assert run(["inspect", tmp_path]).code == 0
    (tmp_path / "m.index").write_bytes(partitioned((2, 2), (0, 2), size=8))
    assert run(["inspect", tmp_path]).code == 0


def test_a_checksum_that_does_not_hold_is_told_by_tensor(state: State, google: Path, tmp_path: Path, run: Run) -> None:
    for path in google.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    header = open_checkpoint(str(tmp_path)).headers["bert/pooler/dense/kernel"]
    data = bytearray(shard_of(tmp_path / NAME).read_bytes())
    data[header.pieces[0].start + 5] ^= 1
    shard_of(tmp_path / NAME).write_bytes(data)
    words = ("tensor bert/pooler/dense/kernel in", "has the checksum", "its index says", "damaged: fetch")
    refused(run(["inspect", tmp_path]), *words)
    refused(run(["pool", "a", "-m", tmp_path]), *words)
    refused(run(["export", tmp_path, "-o", tmp_path / "x.safetensors"]), *words)
    assert run(["inspect", tmp_path, "--part", "intermediate"]).code == 0
    assert not (tmp_path / "x.safetensors").exists()


def test_a_missing_shard_is_named(state: State, tmp_path: Path, run: Run) -> None:
    save(tmp_path / "m", as_google(state), How(shards=3))
    shard_of(tmp_path / "m", 1, 3).unlink()
    refused(run(["inspect", tmp_path]), "m.data-00001-of-00003 is missing, data shard 2 of the 3 that", "fetch it")


CANNOT: dict[str, tuple[Callable[[Path], Any], str, tuple[str, ...]]] = {
    "several": (
        lambda folder: [save(folder / name, ONE) for name in ("a", "b")],
        "",
        ("several TensorFlow checkpoints (a.index, b.index)", "name the one you mean"),
    ),
    "shards without an index": (
        lambda folder: shard_of(folder / "m").write_bytes(b"x"),
        "",
        ("has data shards of m, but not m.index", "fetch the index"),
    ),
    "a shard without an index": (
        lambda folder: shard_of(folder / "m").write_bytes(b"x"),
        "m.data-00000-of-00001",
        ("has data shards of m, but not m.index",),
    ),
    "a graph alone": (
        lambda folder: (folder / "m.meta").write_bytes(b"x"),
        "",
        ("the graph of a TensorFlow checkpoint",),
    ),
    "an index of another name": (
        lambda folder: (folder / "m").write_bytes(GOOD),
        "m",
        ("its name does not end in .index", "rename it"),
    ),
    "steps alone": (
        lambda folder: save(folder / "m", {"global_step": np.int64(1)}),
        "",
        ("has tensors such as global_step",),
    ),
    "text alone": (
        lambda folder: save(folder / "m", {"_CHECKPOINTABLE_OBJECT_GRAPH": b"x"}),
        "",
        ("holds no tensors",),
    ),
    "no index of a SavedModel": (
        lambda folder: lay(folder, {"saved_model.pb": b"x", "variables": None}),
        "",
        ("variables.index cannot be read",),
    ),
}


@pytest.mark.parametrize(("make", "typed", "words"), CANNOT.values(), ids=CANNOT)
def test_what_cannot_be_read_says_why(
    make: Callable[[Path], Any], typed: str, words: tuple[str, ...], tmp_path: Path, run: Run
) -> None:
    make(tmp_path)
    refused(run(["inspect", tmp_path / typed if typed else tmp_path]), *words)


def test_types_without_an_array_are_listed_and_refused_by_name(state: State, tmp_path: Path, run: Run) -> None:
    rows = {b"": bundle.header(1), b"bert/odd/kernel": bundle.entry(11, [4], 0, 0, 4, None)}
    for name in ("kernel", "bias"):
        shape = [4, 4] if name == "kernel" else [4]
        rows[f"bert/pooler/dense/{name}".encode()] = bundle.entry(1, shape, 0, 0, 4 * int(np.prod(shape)), None)
    bundle.write(tmp_path / "m", rows, [bytes(64)])
    assert "odd.weight cannot be read: TensorFlow's type is no plain array" in run(["inspect", tmp_path]).out
    refused(
        run(["export", tmp_path, "--part", "model", "-o", tmp_path / "x.npz"]), "tensor bert/odd/kernel cannot be read"
    )


def test_a_large_matrix_stored_the_other_way_is_measured_alike() -> None:
    values = np.random.default_rng(0).standard_normal((300, 200)).astype(np.float32)
    turned = np.ascontiguousarray(values.T).T
    for name in ("mp_edge_ratio", "stable_rank", "row_norm_max"):
        assert getattr(measure(turned), name) == pytest.approx(getattr(measure(values), name), rel=1e-6)
