"""A model on the Hub is read where it lies: the same numbers, few requests, and one clear line for what goes wrong."""

from __future__ import annotations

import io
import json
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run
from hub import Hub
from safetensors.torch import load_file, save
from test_bad_input import BERT, lay, refused, weights

import bertprobe
from bertprobe.anatomy import find_parts
from bertprobe.checkpoint import Checkpoint, LocalFile, open_checkpoint, read_tensor, read_tensors
from bertprobe.checkpoint.hub import patience
from bertprobe.checkpoint.hub.address import Address, parse
from bertprobe.checkpoint.prefetch import prefetch
from bertprobe.errors import BertprobeError, HubError

ID = "owner/model"
WEIGHTS = "model.safetensors"
STATE = {
    f"encoder.layer.{layer}.intermediate.dense.{kind}": torch.full((64, 32) if kind == "weight" else (64,), layer + 0.5)
    for layer in range(12)
    for kind in ("weight", "bias")
} | {"pooler.dense.weight": torch.arange(1024.0).reshape(32, 32), "pooler.dense.bias": torch.zeros(32)}
CONFIG = json.dumps({"model_type": "bert", "hidden_act": "relu", "num_hidden_layers": 12}).encode()


def torch_saved(state: dict[str, torch.Tensor], new: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream, _use_new_zipfile_serialization=new)
    return stream.getvalue()


def safe(state: dict[str, torch.Tensor], gap: int = 0) -> bytes:
    """A safetensors file; with a `gap`, tensors between the wanted ones, so that they are not merged into one read."""
    apart = {f"encoder.layer.{i}.z": torch.zeros(gap // 4) for i in range(12)} if gap else {}
    return save({**state, **apart})


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(patience, "SILENCE", 60.0)  # on a slow machine, too, there is one line


def arrays(checkpoint: Checkpoint) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in read_tensors(checkpoint.headers)}


EXPECTED = {name: tensor.numpy().tobytes() for name, tensor in STATE.items()}


def ranges(hub: Hub, name: str = WEIGHTS) -> list[str]:
    """The ranges that the storage was asked for."""
    return [r.headers.get("range", "") for r in hub.requests if r.origin == "storage" and name in r.file.split(", ")[0]]


# ------------------------------------------------------------------------------------------------ names

HOSTS = ("huggingface.co", "hf.co")


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        ("owner/name", ("owner/name", "", "")),
        ("bert-base-uncased", ("bert-base-uncased", "", "")),
        ("owner/name@main", ("owner/name", "main", "")),
        ("bert-base-uncased@v1.0", ("bert-base-uncased", "v1.0", "")),
        ("owner/name@refs/pr/1", ("owner/name", "refs/pr/1", "")),
        ("owner/name@feature%2Fx", ("owner/name", "feature/x", "")),
        ("owner/name/sub/folder", ("owner/name", "", "sub/folder")),
        ("owner/name/sub@main", ("owner/name", "main", "sub")),
        ("owner/name@main/sub", ("owner/name", "main", "sub")),
        ("owner/name@refs/pr/2/sub/x.bin", ("owner/name", "refs/pr/2", "sub/x.bin")),
        ("hf://owner/name", ("owner/name", "", "")),
        ("hf://bert-base-uncased", ("bert-base-uncased", "", "")),
        ("hf://models/owner/name/", ("owner/name", "", "")),
        ("hf://owner/name@v1/sub/model.safetensors", ("owner/name", "v1", "sub/model.safetensors")),
        ("https://huggingface.co/owner/name", ("owner/name", "", "")),
        ("https://hf.co/bert-base-uncased/", ("bert-base-uncased", "", "")),
        ("https://huggingface.co/owner/name/tree/main", ("owner/name", "main", "")),
        ("https://huggingface.co/owner/name/tree/refs%2Fpr%2F1/a%20b", ("owner/name", "refs/pr/1", "a b")),
        ("https://huggingface.co/bert/blob/v1/a.bin?download=true#L1", ("bert", "v1", "a.bin")),
        (
            "https://huggingface.co/owner/name/resolve/main/s/model.safetensors",
            ("owner/name", "main", "s/model.safetensors"),
        ),
        ("https://huggingface.co/owner/name/commit/0123abc", ("owner/name", "0123abc", "")),
    ],
)
def test_what_may_be_typed(ref: str, expected: tuple[str, str, str]) -> None:
    assert parse(ref, HOSTS) == Address(*expected, explicit="://" in ref)


@pytest.mark.parametrize(
    "ref", ["", ".", "./m", "/m", "~/m", "a//b", "a/b/../c", "a--b/c", "owner/name@", "x" * 97, "a b"]
)
def test_what_is_no_name_on_the_hub(ref: str) -> None:
    assert parse(ref, HOSTS) is None


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        ("https://example.org/owner/name", "is not on the Hub"),
        ("http://huggingface.co.example.org/owner/name", "is not on the Hub"),
        ("hf://datasets/owner/name", "is not a model but one of the Hub's datasets"),
        ("https://huggingface.co/spaces/owner/name", "is not a model but one of the Hub's spaces"),
        ("hf://owner/../name", "does not name a model"),
        ("hf://", "does not name a model"),
        ("https://[", "is not a URL"),
    ],
)
def test_another_address_is_refused_and_not_asked(ref: str, words: str, run: Run, hub: Hub) -> None:
    refused(run(["inspect", ref]), words)
    assert not hub.requests


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_every_way_to_name_a_model(hub: Hub, here: Path) -> None:
    first = hub.add(ID, {"sub/dir/model.safetensors": save(STATE), "sub/dir/config.json": CONFIG})
    hub.add(ID, {"sub/dir/model.safetensors": save(STATE)}, branch="refs/pr/1")
    hub.add("lonely", {WEIGHTS: save(STATE)})
    page = hub.endpoint
    for ref, subfolder in (
        ("lonely", ""),
        ("hf://lonely", ""),
        (f"{ID}/sub/dir", ""),
        (f"{ID}/sub", "dir"),
        (ID, "sub/dir"),
        (f"{ID}@main/sub/dir", ""),
        (f"{ID}@{first}", "sub/dir/"),
        (f"{ID}@refs/pr/1", "sub/dir"),
        (f"hf://{ID}@main/sub/dir/model.safetensors", ""),
        (f"{ID}/sub/dir/model.safetensors", ""),
        (f"{page}/{ID}/tree/main/sub/dir", ""),
        (f"https://huggingface.co/{ID}/blob/main/sub/dir/model.safetensors", ""),
    ):
        checkpoint = open_checkpoint(ref, subfolder=subfolder)
        assert arrays(checkpoint) == EXPECTED, ref
        assert checkpoint.revision is not None
        assert checkpoint.resolved.startswith("hf://")
    assert not hub.leaks()


def test_a_path_on_this_disk_wins_and_says_so(hub: Hub, here: Path) -> None:
    hub.add(ID, {WEIGHTS: save(STATE)})
    lay(here, {f"{ID}/model.safetensors": weights(BERT)})
    checkpoint = open_checkpoint(ID)
    assert checkpoint.revision is None
    assert f"taken from this disk; hf://{ID} would be on the Hub" in checkpoint.notes
    assert not hub.requests
    assert arrays(open_checkpoint(f"hf://{ID}")) == EXPECTED


def test_a_path_into_a_folder_that_is_here_stays_here(hub: Hub, here: Path, run: Run) -> None:
    lay(here, {"runs/one/config.json": {}})
    refused(run(["inspect", "runs/two/best"]), "there is no 'runs/two/best'")
    assert not hub.requests


def test_a_repository_that_was_renamed(hub: Hub, here: Path) -> None:
    hub.add("google-bert/bert-base-uncased", {WEIGHTS: save(STATE)})
    hub.rename("bert-base-uncased", "google-bert/bert-base-uncased")
    checkpoint = open_checkpoint("bert-base-uncased")
    assert arrays(checkpoint) == EXPECTED
    assert "on the Hub it is google-bert/bert-base-uncased now" in checkpoint.notes


# ------------------------------------------------------------------------------------------------ what is read

HALF = len(STATE) // 2
SHARDS = {
    f"model-0000{n}-of-00002.safetensors": save(dict(part))
    for n, part in enumerate((list(STATE.items())[:HALF], list(STATE.items())[HALF:]), 1)
}
WEIGHT_MAP = {name: f"model-0000{1 + (i >= HALF)}-of-00002.safetensors" for i, name in enumerate(STATE)}


@pytest.mark.parametrize(
    "files",
    [
        {WEIGHTS: save(STATE)},
        {"pytorch_model.bin": torch_saved(STATE)},
        {"pytorch_model.bin": torch_saved(STATE, new=False)},
        {"best.pt": torch_saved({"model": STATE})},  # type: ignore[dict-item]
        SHARDS,
        {**SHARDS, "model.safetensors.index.json": json.dumps({"weight_map": WEIGHT_MAP}).encode()},
        {"0_Transformer/model.safetensors": save(STATE), "modules.json": b"[]"},
    ],
    ids=["safetensors", "zip", "pickle", "wrapped", "shards", "index", "sentence-transformers"],
)
@pytest.mark.parametrize("odd", [{}, {"relative_redirect": True}, {"threshold": 0}, {"no_sizes": True}], ids=str)
def test_the_numbers_are_those_of_the_file(files: dict[str, bytes], odd: dict[str, Any], hub: Hub, here: Path) -> None:
    if odd.pop("no_sizes", False):
        hub.misbehave("no_sizes")
    for key, value in odd.items():
        setattr(hub, key, value)
    commit = hub.add(ID, files)
    checkpoint = open_checkpoint(ID)
    assert arrays(checkpoint) == EXPECTED
    assert checkpoint.revision == commit
    assert not hub.leaks()
    odd.clear()


def test_settings_are_read_too(hub: Hub, here: Path) -> None:
    hub.add(
        ID, {WEIGHTS: save(STATE), "config.json": CONFIG, "1_Pooling/config.json": b'{"pooling_mode_cls_token": true}'}
    )
    checkpoint = open_checkpoint(ID)
    assert checkpoint.config == json.loads(CONFIG)
    assert checkpoint.pooling == {"pooling_mode_cls_token": True}
    assert {part.activation for part in find_parts(checkpoint).of("intermediate")} == {"relu"}


def test_safetensors_goes_before_pytorch_and_weights_names_another(hub: Hub, here: Path) -> None:
    other = {name: tensor + 1 for name, tensor in STATE.items()}
    hub.add(ID, {WEIGHTS: save(STATE), "pytorch_model.bin": torch_saved(other), "onnx/model.safetensors": save(other)})
    checkpoint = open_checkpoint(ID)
    assert "safetensors is read, not pytorch_model.bin beside it" in checkpoint.notes
    assert [file.name for file in checkpoint.files] == [WEIGHTS]
    for name in ("pytorch_model.bin", "onnx/model.safetensors"):
        found = arrays(open_checkpoint(ID, weights=name))
        assert found == {key: tensor.numpy().tobytes() for key, tensor in other.items()}


def test_a_long_header_is_topped_up_and_a_short_one_is_not(hub: Hub, here: Path) -> None:
    many = {f"encoder.layer.{i}.intermediate.dense.weight": torch.zeros(2, 2) for i in range(800)}
    for state, expected in ((STATE, 1), (many, 2)):
        hub.add(ID, {WEIGHTS: save(state)})
        hub.requests.clear()
        open_checkpoint(ID)
        assert len(ranges(hub)) == expected
        assert ranges(hub)[0] == "bytes=0-32767"
    assert ranges(hub)[1].startswith("bytes=32768-")


def test_one_resolve_serves_all_ranges(hub: Hub, here: Path) -> None:
    hub.add(ID, {WEIGHTS: safe(STATE, 2**17)})
    parts = find_parts(open_checkpoint(ID)).of("intermediate")
    assert len(list(read_tensors({part.label: part.tensors[part.weight_name] for part in parts}))) == 12
    assert len([r for r in hub.weights() if r.origin == "hub"]) == 1
    assert len(ranges(hub)) > 10


def test_eight_are_asked_for_at_a_time() -> None:
    class Slow:
        """A source whose reads end only when eight are under way."""

        max_parallel = 8
        barrier = Barrier(8, timeout=10)

        def load(self, start: int, stop: int) -> memoryview:
            self.barrier.wait()
            return memoryview(bytes([start]))

    class Range:
        def __init__(self, source: Slow, start: int) -> None:
            self.source, self.start, self.stop = source, start, start + 1

    source = Slow()
    wanted = [Range(source, i) for i in range(16)]
    assert [data[0] for _, data in prefetch(wanted)] == list(range(16))  # type: ignore[type-var]


def test_nothing_read_by_ranges_is_left_in_the_cache(hub: Hub, here: Path, run: Run) -> None:
    hub.add(ID, {WEIGHTS: save(STATE), "config.json": CONFIG})
    assert run(["inspect", ID]).code == 0
    assert not (Path(hub.environment["HF_HOME"]) / "hub").exists()
    assert not list(here.iterdir())


def test_a_report_says_the_commit_and_what_was_read(hub: Hub, here: Path, run: Run) -> None:
    commit = hub.add(ID, {WEIGHTS: safe(STATE, 2**18), "config.json": CONFIG})
    shown = run(["inspect", ID])
    assert f"hf://{ID} at commit {commit[:12]}" in " ".join(shown.out.split())
    assert "by byte ranges" in " ".join(shown.out.split())
    facts = json.loads(run(["inspect", ID, "--json"]).out)["facts"]
    assert facts["revision"] == commit
    assert facts["bytes_total"] == len(safe(STATE, 2**18))
    sent = sum(r.sent for r in hub.requests if r.origin == "storage") // 2
    assert facts["bytes_read"] == sent < facts["bytes_total"] / 4


def test_an_export_says_the_commit(hub: Hub, here: Path, run: Run) -> None:
    commit = hub.add(ID, {WEIGHTS: save(STATE), "config.json": CONFIG})
    shown = run(["export", ID, "-o", "out.safetensors"])
    assert shown.code == 0, shown.err
    assert f"at commit {commit[:12]}" in " ".join(shown.out.split())
    from safetensors import safe_open

    with safe_open("out.safetensors", "pt") as out:
        notes = out.metadata()
        assert torch.equal(out.get_tensor("pooler.dense.weight"), STATE["pooler.dense.weight"])
    assert notes["source_revision"] == commit
    assert json.loads(notes["source_files"]) == {WEIGHTS: f"commit {commit}"}


def test_the_user_agent_is_the_hubs_with_our_name(hub: Hub, here: Path) -> None:
    hub.add(ID, {WEIGHTS: save(STATE)})
    open_checkpoint(ID)
    agents = {r.headers["user-agent"] for r in hub.requests if r.headers["user-agent"].startswith("bertprobe/")}
    assert agents
    assert all("hf_hub/" in agent for agent in agents)
    assert {r.headers["accept-encoding"] for r in hub.weights()} == {"identity"}


# ------------------------------------------------------------------------------------------------ how much

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture
def minilm_hub(minilm: Path, hub: Hub) -> Hub:
    """all-MiniLM-L6-v2 on the stand-in."""
    hub.add(MINILM, {str(path.relative_to(minilm)): path for path in minilm.rglob("*") if path.is_file()})
    return hub


@pytest.mark.parametrize(
    ("argv", "requests", "most"),
    [
        (["inspect", MINILM, "--shapes"], 2, 33 * 1024),
        (["export", MINILM, "-o", "pooler.safetensors"], 3, 650_000),
        (["inspect", MINILM], 10, 15_000_000),
    ],
    ids=["shapes", "export", "inspect"],
)
def test_what_a_command_asks_for(
    argv: list[str], requests: int, most: int, minilm_hub: Hub, here: Path, run: Run
) -> None:
    """Of weights, not of settings: redirects counted as requests and their bodies as bytes."""
    assert run(argv).code == 0
    asked = [request for request in minilm_hub.weights() if request.file == WEIGHTS]
    assert len(asked) <= requests
    assert sum(request.sent for request in asked) <= most


def test_what_a_zip_asks_for(minilm: Path, hub: Hub, here: Path, run: Run) -> None:
    state = load_file(minilm / WEIGHTS)
    hub.add(MINILM, {"pytorch_model.bin": torch_saved(state), "config.json": (minilm / "config.json").read_bytes()})
    shown = run(["export", MINILM, "-o", "pooler.safetensors"])
    assert shown.code == 0, shown.err
    assert sum(request.sent for request in hub.weights()) <= 800_000
    assert len(hub.weights()) <= 5
    assert torch.equal(load_file("pooler.safetensors")["pooler.dense.weight"], state["pooler.dense.weight"])


def test_inspect_is_the_same_from_the_hub_and_from_disk(minilm: Path, minilm_hub: Hub, here: Path, run: Run) -> None:
    there = json.loads(run(["inspect", MINILM, "--json"]).out)
    local = json.loads(run(["inspect", str(minilm), "--json"]).out)
    assert there["parts"] == local["parts"]
    assert there["findings"] == local["findings"]


POCKET = {path.name: path for path in (Path(bertprobe.__file__).parent / "pocket").iterdir() if path.is_file()}


# ------------------------------------------------------------------------------------------------ recipes


def test_a_recipe_is_a_few_small_requests(minilm: Path, minilm_hub: Hub, here: Path, run: Run) -> None:
    """No weights, no vocabulary; the same as from disk."""
    there = json.loads(run(["recipe", MINILM, "--json"]).out)
    assert not [request for request in minilm_hub.requests if request.file == WEIGHTS]
    assert len([request for request in minilm_hub.requests if request.file]) <= 9  # tokenizer.json counts twice
    assert sum(request.sent for request in minilm_hub.requests) < 60_000
    local = json.loads(run(["recipe", str(minilm), "--json"]).out)
    for key in ("recipe", "steps", "prompts", "width", "tools", "findings"):
        assert there[key] == local[key], key


def dense_model(folder: Path, weights_in: str = "") -> Path:
    """pocket with a dense layer behind it, and its weights in a folder of their own if one is named."""
    inner = folder / weights_in
    inner.mkdir(parents=True)
    for name, path in POCKET.items():
        (inner / name).write_bytes(path.read_bytes())
    types = "sentence_transformers.models."
    rows = [("Transformer", weights_in), ("Pooling", "1_Pooling"), ("Dense", "2_Dense"), ("Normalize", "3_Normalize")]
    modules = [{"idx": i, "name": str(i), "path": path, "type": types + kind} for i, (kind, path) in enumerate(rows)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"query": "query: "}}))
    (inner / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 64}))
    for name, settings in (
        ("1_Pooling", {"word_embedding_dimension": 128, "pooling_mode_mean_tokens": True}),
        (
            "2_Dense",
            {"in_features": 128, "out_features": 16, "activation_function": "torch.nn.modules.activation.Tanh"},
        ),
    ):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(settings))
    torch.manual_seed(0)
    state = {"linear.weight": torch.randn(16, 128), "linear.bias": torch.randn(16)}
    (folder / "2_Dense" / WEIGHTS).write_bytes(save(state))
    return folder


@pytest.mark.parametrize("weights_in", ["", "0_Transformer"])
def test_a_sentence_vector_of_a_model_on_the_hub(weights_in: str, hub: Hub, tmp_path: Path, here: Path) -> None:
    """Its modules are fetched, too, wherever the encoder lies."""
    folder = dense_model(tmp_path / "model", weights_in)
    hub.add(ID, {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()})
    texts = ["The ship left the harbour.", "A bill was paid."]
    there = bertprobe.open(ID).pool(texts, vector="sentence", prompt="query")
    local = bertprobe.open(str(folder)).pool(texts, vector="sentence", prompt="query")
    assert there.shape == (2, 16)
    assert np.array_equal(there, local)


# ------------------------------------------------------------------------------------------------ the cache


def download(*ids: str) -> None:
    from huggingface_hub import snapshot_download

    for id in ids:
        snapshot_download(id)


def test_what_is_cached_is_read_there(hub: Hub, here: Path) -> None:
    commit = hub.add(ID, {WEIGHTS: save(STATE), "config.json": CONFIG})
    download(ID)
    hub.requests.clear()
    checkpoint = open_checkpoint(ID)
    assert arrays(checkpoint) == EXPECTED
    assert isinstance(checkpoint.files[0], LocalFile)
    assert (checkpoint.revision, Path(checkpoint.resolved).name) == (commit, commit)
    assert "from the local Hub cache" in checkpoint.notes[0]
    assert len(hub.requests) == 1, "only the commit is asked for"
    hub.requests.clear()
    assert arrays(open_checkpoint(f"{ID}@{commit}")) == EXPECTED
    assert not hub.requests, "a commit that is cached leaves nothing to ask"


def test_a_cache_of_an_older_commit_is_not_taken_for_the_new_one(hub: Hub, here: Path) -> None:
    old = hub.add(ID, {WEIGHTS: save({name: tensor + 1 for name, tensor in STATE.items()})})
    download(ID)
    new = hub.add(ID, {WEIGHTS: save(STATE)})
    assert (open_checkpoint(ID).revision, open_checkpoint(f"{ID}@{old}").revision) == (new, old)
    assert arrays(open_checkpoint(ID)) == EXPECTED


def test_offline_the_cache_serves_and_says_what_it_has(hub: Hub, here: Path, run: Run, monkeypatch: Any) -> None:
    commit = hub.add(ID, {WEIGHTS: save(STATE)})
    download(ID)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.requests.clear()
    checkpoint = open_checkpoint(ID)
    assert (checkpoint.revision, arrays(checkpoint)) == (commit, EXPECTED)
    refused(run(["inspect", "owner/other"]), "not in the local Hub cache, which has owner/model", "HF_HUB_OFFLINE")
    refused(run(["inspect", f"{ID}@v2"]), f"cache, which has it at {commit[:12]}", "HF_HUB_OFFLINE")
    assert not hub.requests


def test_without_a_connection_the_cache_serves(hub: Hub, here: Path, run: Run) -> None:
    hub.add(ID, {WEIGHTS: save(STATE)})
    download(ID)
    hub.stop()
    checkpoint = open_checkpoint(ID)
    assert arrays(checkpoint) == EXPECTED
    assert "from the local Hub cache, as" in checkpoint.notes[0]
    refused(run(["inspect", "owner/other"]), "owner/other: the connection to 127.0.0.1", "3 times in a row")


def test_without_a_connection_a_part_of_a_model_is_no_model(hub: Hub, here: Path, run: Run) -> None:
    from huggingface_hub import hf_hub_download

    hub.add(ID, {WEIGHTS: save(STATE), "config.json": CONFIG})
    hf_hub_download(ID, "config.json")
    hub.stop()
    refused(run(["inspect", ID]), "the connection to 127.0.0.1", "holds no weights, only config.json")


def test_download_puts_whole_files_into_the_cache_that_transformers_has(
    tiny_bert: Path, hub: Hub, here: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import BertModel

    hub.add(ID, {path.name: path for path in tiny_bert.iterdir()} | {"tf_model.h5": b"x" * 20_000, "README.md": b"#"})
    shown = run(["inspect", ID, "--download"])
    assert shown.code == 0, shown.err
    assert "from the local Hub cache" in " ".join(shown.out.split())
    assert not any("tf_model" in r.file for r in hub.requests if r.origin == "storage")
    hub.requests.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = BertModel.from_pretrained(ID)
    stored = load_file(tiny_bert / WEIGHTS)
    assert torch.equal(model.pooler.dense.weight, stored["pooler.dense.weight"])
    assert not hub.requests


def test_the_text_commands_download_once(hub: Hub, here: Path, run: Run) -> None:
    hub.add(ID, POCKET)
    local = json.loads(run(["pool", "-m", "pocket", "a text", "--json"]).out)
    there = json.loads(run(["pool", "-m", ID, "a text", "--json"]).out)
    assert there["texts"] == local["texts"]
    hub.requests.clear()
    for argv in (["activations", "-m", ID, "a text"], ["verify", "-m", ID, "a text"]):
        assert run(argv).code == 0
    assert not hub.weights()


@pytest.mark.parametrize(
    ("how", "settings", "words"),
    [
        ("status", {"code": 404, "message": "gone"}, ("404",)),
        ("expire", {"forever": True}, ("403",)),
        ("short", {}, ("could not be downloaded",)),
        ("html", {}, ("could not be downloaded",)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_download_that_fails_is_told(
    how: str, settings: dict[str, Any], words: tuple[str, ...], hub: Hub, here: Path, run: Run, monkeypatch: Any
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.add(ID, {WEIGHTS: safe(STATE, 2**18), "config.json": CONFIG})
    open_checkpoint(ID)
    hub.misbehave(how, origin="storage", **settings)
    ran = run(["inspect", ID, "--download"])
    assert (ran.code, ran.out) == (1, "")
    last = ran.err.splitlines()[-1]
    assert last.startswith("bertprobe: ")
    for word in ("owner/model", *words):
        assert word in last, ran.err


def test_a_download_of_what_is_gated_is_told(hub: Hub, here: Path, run: Run) -> None:
    hub.add(ID, {WEIGHTS: save(STATE)}, gated=True)
    refused(run(["pool", "-m", ID, "a text"]), "is gated", f"{hub.endpoint}/owner/model")


def test_a_tokenizer_is_asked_for_on_this_disk(hub: Hub, here: Path) -> None:
    from bertprobe.tokens import open_tokenizer

    hub.add(ID, POCKET)
    checkpoint = open_checkpoint(ID)
    with pytest.raises(BertprobeError, match="download=True"):
        open_tokenizer(checkpoint)
    assert open_tokenizer(open_checkpoint(ID, download=True)).vocab_size


# ------------------------------------------------------------------------------------------------ access


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda value: monkeypatch.setenv("HF_TOKEN", value)


def test_the_token_opens_and_does_not_leave_the_hub(hub: Hub, here: Path, token: Callable[[str], None]) -> None:
    hub.add(ID, {WEIGHTS: save(STATE), "config.json": CONFIG}, private=True)
    token(hub.token)
    assert arrays(open_checkpoint(ID)) == EXPECTED
    assert [r for r in hub.requests if r.origin == "storage"]
    assert not hub.leaks()
    assert all(
        "authorization" in r.headers for r in hub.requests if r.origin == "hub" and r.path != "/api/agent-harnesses"
    )


@pytest.mark.parametrize(
    ("given", "about", "words"),
    [
        ("", {"private": True}, ("there is no model owner/model on the Hub, or it is private", "hf auth login")),
        ("stranger", {"private": True}, ("there is no model owner/model on the Hub, or your account may not see it",)),
        ("", None, ("there is no model owner/model on the Hub, or it is private", "no path 'owner/model'")),
        ("right", None, ("there is no model owner/model on the Hub, or your account may not see it",)),
        (
            "",
            {"gated": True},
            ("is gated: nobody has access without logging in", "{endpoint}/owner/model", "hf auth login"),
        ),
        ("stranger", {"gated": True}, ("is gated: your account has not been given access", "{endpoint}/owner/model")),
        ("", {"disabled": True}, ("owner/model", "disabled")),
        ("hf_bad", {}, ("the Hub does not accept your token", "HF_TOKEN")),
    ],
    ids=[
        "private",
        "not mine",
        "missing",
        "missing with a token",
        "gated",
        "gated with a token",
        "disabled",
        "bad token",
    ],
)
def test_no_access_is_told_as_far_as_the_hub_tells_it(
    given: str, about: dict[str, bool] | None, words: tuple[str, ...], hub: Hub, here: Path, run: Run, token: Any
) -> None:
    if about is not None:
        hub.add(ID, {WEIGHTS: save(STATE)}, **about)
    if given:
        token({"right": hub.token, "stranger": hub.stranger}.get(given, given))
    refused(run(["inspect", ID]), *(word.format(endpoint=hub.endpoint) for word in words))


@pytest.mark.parametrize(
    ("ref", "files", "words"),
    [
        (
            f"{ID}@v9",
            {WEIGHTS: b""},
            ("owner/model@v9: there is no such revision", "a branch, a tag or a whole commit"),
        ),
        (
            ID,
            {"README.md": b"#", "vocab.txt": b"x"},
            ("owner/model holds no weights, only README.md, vocab.txt", "looked for"),
        ),
        (ID, {"rust_model.ot": b"x"}, ("owner/model has rust_model.ot, a rust-bert file",)),
        (ID, {}, ("owner/model is empty",)),
        (f"{ID}/nowhere", {"sub/model.safetensors": b"x"}, ("owner/model has no folder 'nowhere'", "it has sub")),
        (ID, {WEIGHTS: b""}, ("model.safetensors is empty",)),
        (ID, {WEIGHTS: b"x" * 100_000}, ("announces a header of", "is no safetensors file")),
        (ID, {WEIGHTS: save(STATE)[:-1]}, ("should have",)),
        (ID, {WEIGHTS: save(STATE), "config.json": b"{"}, ("owner/model/config.json is not JSON",)),
        (ID, {WEIGHTS: save(STATE), "config.json": b"\xff\xfe"}, ("owner/model/config.json is not",)),
        (ID, {"model.safetensors.index.json": b'{"weight_map": {"a": "../b"}}'}, ("names the shard '../b'",)),
    ],
    ids=[
        "revision",
        "no weights",
        "another format",
        "empty",
        "folder",
        "empty file",
        "noise",
        "cut",
        "config",
        "binary",
        "index",
    ],
)
def test_what_is_not_there_is_told(
    ref: str, files: dict[str, bytes], words: tuple[str, ...], hub: Hub, here: Path, run: Run
) -> None:
    hub.add(ID, files)
    refused(run(["inspect", ref]), *words)


def test_weights_that_are_not_there_are_told_with_what_is(hub: Hub, here: Path, run: Run) -> None:
    hub.add(ID, {WEIGHTS: save(STATE), "config.json": CONFIG})
    refused(
        run(["inspect", ID, "--weights", "x.bin"]), "owner/model has no file 'x.bin'", "config.json, model.safetensors"
    )
    refused(run(["inspect", ID, "--subfolder", "../x"]), "has no folder '..'")


# ------------------------------------------------------------------------------------------------ a bad connection

BIG = safe(STATE, 2**18)


@pytest.mark.parametrize(
    ("how", "settings"),
    [
        ("cut", {"after": 1000, "times": 2, "skip": 1}),
        ("cut", {"after": 0, "times": 3}),
        ("reset", {"times": 3}),
        ("reset", {"times": 2, "orderly": True, "skip": 2}),
        ("status", {"code": 500, "times": 2}),
        ("status", {"code": 503, "times": 5}),
        ("status", {"code": 408, "times": 1, "skip": 3}),
        ("status", {"code": 429, "times": 2, "retry_after": 0}),
        ("status", {"code": 429, "times": 1, "retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"}),
        ("hang", {"times": 1, "seconds": 3.0}),
        ("expire", {}),
        ("wrong_total", {"total": "*"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("origin", ["hub", "storage"])
def test_what_passes_is_waited_for(
    how: str, settings: dict[str, Any], origin: Any, hub: Hub, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 1)
    hub.add(ID, {WEIGHTS: BIG, "config.json": CONFIG})
    if how == "expire":
        checkpoint = open_checkpoint(ID)
        hub.misbehave(how, origin=origin, **settings)
    else:
        hub.misbehave(how, origin=origin, **settings)
        checkpoint = open_checkpoint(ID)
    found = {name: a.tobytes() for name, a in read_tensors(checkpoint.headers)}
    assert {name: found[name] for name in EXPECTED} == EXPECTED
    assert not hub.leaks()


def test_a_range_is_resumed_where_it_broke_off(hub: Hub, here: Path) -> None:
    hub.add(ID, {WEIGHTS: BIG})
    checkpoint = open_checkpoint(ID)
    header = checkpoint.headers["encoder.layer.0.z"]
    (piece,) = header.pieces
    hub.requests.clear()
    hub.misbehave("cut", after=100_000, times=2, origin="storage")
    array = read_tensor(header)
    assert not array.any()
    asked = [tuple(map(int, r.removeprefix("bytes=").split("-"))) for r in ranges(hub)]
    assert [stop for _, stop in asked] == [piece.stop - 1] * 3
    assert [start for start, _ in asked] == sorted({start for start, _ in asked})
    assert asked[-1][0] - piece.start >= 100_000, "what had come is not asked for again"


def test_the_server_says_how_long_to_wait(hub: Hub, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(patience.time, "sleep", waited.append)
    hub.add(ID, {WEIGHTS: save(STATE)})
    hub.misbehave("status", code=429, retry_after=7, times=1, origin="storage")
    hub.misbehave("status", code=429, headers={"RateLimit": '"api";r=0;t=55'}, times=1, origin="hub")
    open_checkpoint(ID)
    assert sorted(waited) == [7, 56]


@pytest.mark.parametrize(
    ("how", "settings", "words"),
    [
        (
            "ignore_range",
            {},
            ("ignores the Range header", f"all {len(BIG):,} bytes would have to be downloaded", "--download"),
        ),
        ("long", {}, ("answers with 32,769 bytes", "32,768")),
        ("short", {}, ("answers with 32,767 bytes",)),
        ("wrong_range", {"shift": 10}, ("10 to 32,778", "when asked for 0 to 32,768")),
        ("no_content_range", {}, ("no Content-Range",)),
        ("wrong_total", {}, (f"has {len(BIG) + 1:,} bytes", "changed")),
        ("gzip", {}, ("Content-Encoding gzip",)),
        ("multipart", {}, ("no Content-Range of one range",)),
        ("html", {}, ("a web page instead of the file",)),
        ("etag", {"skip": 1}, ("another ETag", "start again")),
        ("commit", {}, ("answers for commit cccccccccccc",)),
        ("redirect_loop", {}, ("redirects more than 10 times",)),
        ("expire", {"forever": True}, ("the address that the Hub just gave is refused", "403")),
        ("status", {"code": 503}, ("503", "6 times in a row", "try again later")),
        ("status", {"code": 429, "retry_after": 9999}, ("429", "9,999 seconds")),
        ("status", {"code": 404, "message": "gone"}, ("404",)),
        ("status", {"code": 418}, ("418",)),
        ("reset", {}, ("the connection to 127.0.0.1", "6 times in a row")),
        ("hang", {"seconds": 30.0}, ("does not answer within 0.", "6 times in a row")),
        ("trickle", {"pause": 0.02}, ("fewer than 1,024 bytes a second",)),
        ("foreign_redirect", {"location": "file:///etc/passwd"}, ("redirects to file:///etc/passwd",)),
        ("cut", {"after": 0}, ("6 times in a row",)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_server_that_misbehaves_is_told(
    how: str,
    settings: dict[str, Any],
    words: tuple[str, ...],
    hub: Hub,
    here: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    monkeypatch.setattr(patience, "SLOW_AFTER", 0.1)
    hub.add(ID, {WEIGHTS: BIG})
    hub.misbehave(
        how,
        match=WEIGHTS,
        origin="hub" if how in ("commit", "redirect_loop", "foreign_redirect") else "storage",
        **settings,
    )
    refused(run(["export", ID, "-o", "out.safetensors"]), ID, *words)
    assert not list(here.iterdir()), "nothing half written is left"
    assert not hub.leaks()


@pytest.mark.parametrize(
    ("how", "settings", "words"),
    [
        ("html", {}, ("does not answer in JSON",)),
        ("status", {"code": 500}, ("answers 500", "6 times in a row")),
        ("status", {"code": 200, "message": "nothing"}, ("answers otherwise than the Hub",)),
        ("reset", {}, ("the connection to",)),
        ("hang", {"seconds": 30.0}, ("does not answer within 0.",)),
        ("redirect_loop", {}, ("redirects more than 10 times",)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_hub_that_does_not_know_itself_is_told(
    how: str,
    settings: dict[str, Any],
    words: tuple[str, ...],
    hub: Hub,
    here: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    hub.add(ID, {WEIGHTS: BIG})
    hub.misbehave(how, match="/api/models", **settings)
    refused(run(["inspect", ID]), ID, *words)


def test_a_commit_that_moves_meanwhile_changes_nothing(hub: Hub, here: Path) -> None:
    commit = hub.add(ID, {WEIGHTS: BIG})
    checkpoint = open_checkpoint(ID)
    hub.add(ID, {WEIGHTS: safe({name: tensor + 1 for name, tensor in STATE.items()}, 2**18)})
    hub.misbehave("expire")
    found = arrays(checkpoint)
    assert {name: found[name] for name in EXPECTED} == EXPECTED
    assert checkpoint.revision == commit
    assert all(f"/resolve/{commit}/" in r.path for r in hub.weights() if r.origin == "hub")


def test_a_slow_connection_that_moves_is_not_given_up(hub: Hub, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "SLOW_AFTER", 0.05)
    hub.add(ID, {WEIGHTS: save(STATE)})
    hub.misbehave("trickle", chunk=4096, pause=0.02, origin="storage")
    assert arrays(open_checkpoint(ID)) == EXPECTED


def test_an_error_in_a_thread_reaches_the_reader(hub: Hub, here: Path) -> None:
    hub.add(ID, {WEIGHTS: BIG})
    checkpoint = open_checkpoint(ID)
    hub.misbehave("etag", skip=4, origin="storage")
    with pytest.raises(HubError, match="another ETag"):
        list(read_tensors({name: h for name, h in checkpoint.headers.items() if name.endswith("weight")}))


# ------------------------------------------------------------------------------------------------ TLS

# Made for this test and trusted by nobody: openssl req -x509 -newkey ec -subj /CN=nobody -days 36500
CERTIFICATE = """-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg7xGF4QbcZOwNwikS
AN+uJwxCdI42Rp25yGsIBzA3uCOhRANCAAQFzeydP6rLw1oFrJTECaWqyBwEqpug
vRiQEOZY/u0bAiyUuDC9DabrqokZSeJgxkpW74LMPFuM0Fc/gPLMK3dZ
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBeTCCAR+gAwIBAgIUO+Z6uGemER9TQ3vKpGZHCRIVn+8wCgYIKoZIzj0EAwIw
ETEPMA0GA1UEAwwGbm9ib2R5MCAXDTI2MTEyNDE5NTE1NloYDzIxMjYxMDMxMTk1
MTU2WjARMQ8wDQYDVQQDDAZub2JvZHkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AAQFzeydP6rLw1oFrJTECaWqyBwEqpugvRiQEOZY/u0bAiyUuDC9DabrqokZSeJg
xkpW74LMPFuM0Fc/gPLMK3dZo1MwUTAdBgNVHQ4EFgQUHOH89gWhGRIWEfNzNPbm
3t5HmeUwHwYDVR0jBBgwFoAUHOH89gWhGRIWEfNzNPbm3t5HmeUwDwYDVR0TAQH/
BAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiAIBytanU+ba7fy37p5GMWwcrJZ5NcW
MqeRZWMb6OQWRwIhAIt0NqJql+kotws91hFKLxdIrbcC+jAxr0kD8uIdcDRH
-----END CERTIFICATE-----
"""


@contextmanager
def over_tls(hub: Hub, tmp_path: Path) -> Iterator[int]:
    """A port that speaks TLS, with a certificate that nobody signed."""
    from socket import create_server
    from threading import Thread

    pem = tmp_path / "nobody.pem"
    pem.write_text(CERTIFICATE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                try:
                    context.wrap_socket(connection, server_side=True).close()
                except OSError:
                    connection.close()

        thread = Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(2)
    thread.join(5)


def test_a_certificate_that_nobody_signed(hub: Hub, here: Path, run: Run, tmp_path: Path, monkeypatch: Any) -> None:
    with over_tls(hub, tmp_path) as port:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"https://127.0.0.1:{port}")
        refused(run(["inspect", ID]), f"the certificate of 127.0.0.1:{port} cannot be verified", "SSL_CERT_FILE")


# ------------------------------------------------------------------------------------------------ as a user


def test_a_whole_run_in_a_process_of_its_own(hub: Hub, here: Path) -> None:
    hub.add(ID, {WEIGHTS: save(STATE), "config.json": CONFIG}, private=True)
    environment = {**hub.environment, "HF_TOKEN": hub.token}
    ran = subprocess.run(
        [sys.executable, "-m", "bertprobe", "inspect", ID, "--json"],
        env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
    assert json.loads(ran.stdout)["facts"]["layers"] == 12
    assert not hub.leaks()


def test_interrupted_it_ends_at_once(hub: Hub, here: Path) -> None:
    import signal
    import time

    hub.add(ID, {WEIGHTS: BIG})
    hub.misbehave("hang", seconds=60.0, origin="storage", skip=1)
    process = subprocess.Popen(
        [sys.executable, "-m", "bertprobe", "export", ID, "-o", "out.safetensors"],
        env=hub.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while len([r for r in hub.requests if r.origin == "storage"]) < 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    process.communicate(timeout=30)
    assert time.monotonic() - began < 5
    assert not list(here.iterdir())


def test_what_is_loaded_is_what_is_read(hub: Hub, here: Path) -> None:
    hub.add(ID, {WEIGHTS: save(STATE)})
    source = open_checkpoint(ID).files[0]
    assert np.frombuffer(source.load(8, 16), np.uint8).tobytes() == source.read(8, 16)
    with pytest.raises(BertprobeError, match="are asked for"):
        source.read(0, source.size + 1)
    assert open_checkpoint(ID).files[0].sibling(WEIGHTS).size == source.size
