"""What a message tells to do is done, word for word, and does it."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run
from ggufs import File, bert_pairs, converted, of_arrays
from kin import POCKET
from safetensors.numpy import load_file
from test_bad_input import refused
from test_hdf5 import preset

from bertprobe.checkpoint import LocalFile, open_checkpoint
from bertprobe.checkpoint.folder import FolderWithin, LocalFolder
from bertprobe.errors import copying

STATE = {name: values.astype(np.float32) for name, values in load_file(POCKET / "model.safetensors").items()}


def json_of(run: Run, *argv: str | Path) -> dict[str, Any]:
    ran = run([*argv, "--json"])
    assert ran.code == 0, ran.err
    found: dict[str, Any] = json.loads(ran.out)
    return found


def done(hint: str, there: Path, run: Run) -> None:
    """Does what the finding says, with `there` in the place of NEW."""
    for each in hint.removeprefix("convert it: ").replace("NEW", str(there)).split(" && "):
        words = shlex.split(each)
        ran = run(words[1:]).code if words[0] == "bertprobe" else subprocess.run(words, check=True).returncode
        assert ran == 0, each


def hint_of(run: Run, model: Path) -> str:
    findings = json_of(run, "inspect", model, "--shapes")["findings"]
    return next(str(each["hint"]) for each in findings if each["rule"] == "not-loaded-by-transformers")


@pytest.fixture
def cased(tmp_path: Path) -> Path:
    """A sentence model in a numpy archive, whose tokenizer's settings say that it is cased."""
    folder = tmp_path / "a model"
    shutil.copytree(POCKET, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.py", "*.md"))
    file = io.BytesIO()
    np.savez(file, **STATE)
    (folder / "model.npz").write_bytes(file.getvalue())
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": false}')
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
                for i, (path, kind) in enumerate([("", "Transformer"), ("1_Pooling", "Pooling")])
            ]
        )
    )
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(
        json.dumps({"word_embedding_dimension": 128, "pooling_mode_cls_token": True})
    )
    return folder


def test_a_converted_model_keeps_its_tokenizer_and_its_sentence_vector(cased: Path, tmp_path: Path, run: Run) -> None:
    new = tmp_path / "new"
    done(hint_of(run, cased), new, run)
    before, after = (json_of(run, "recipe", folder) for folder in (cased, new))
    assert before["recipe"] == after["recipe"]
    assert before["steps"] == after["steps"]
    assert after["declared"]
    vectors = [json_of(run, "pool", "A Text.", "-m", each, "--vector", "sentence") for each in (cased, new)]
    assert vectors[0]["texts"] == vectors[1]["texts"]


def test_what_export_tells_keeps_what_is_there(cased: Path, tmp_path: Path, run: Run) -> None:
    new = tmp_path / "new"
    new.mkdir()
    (new / "tokenizer.json").write_text("mine")
    data = json_of(run, "export", cased, "-o", new / "model.safetensors", "--part", "model")
    hint = next(each["hint"] for each in data["findings"] if each["rule"] == "not-loaded-by-transformers")
    done(hint, new, run)
    assert (new / "tokenizer.json").read_text() == "mine"
    assert (new / "1_Pooling/config.json").is_file()


def test_a_preset_of_keras_is_written_as_transformers_finds_it(tmp_path: Path, run: Run) -> None:
    from transformers import AutoModel

    (tmp_path / "preset").mkdir()
    preset(tmp_path / "preset")
    done(hint_of(run, tmp_path / "preset"), tmp_path / "new", run)
    assert "bert_config.json" not in {path.name for path in (tmp_path / "new").iterdir()}
    loaded, told = AutoModel.from_pretrained(tmp_path / "new", output_loading_info=True)
    assert not told["missing_keys"]
    assert loaded.config.hidden_act == open_checkpoint(str(tmp_path / "preset")).config["hidden_act"]  # type: ignore[index]


def test_commands_that_copy(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("")
    config, words = tmp_path / "bert_config.json", tmp_path / "vocab.txt"
    assert copying(config, [], Path("NEW/config.json")) == f"cp {config} NEW/config.json"
    assert copying(config, [words], Path("NEW/config.json")).endswith(f" && cp {words} NEW/vocab.txt")
    assert copying(config, [words, words], Path("NEW/config.json")).endswith(f" && cp -r {words} {words} NEW")


# ------------------------------------------------------------------------------------------------ GGUF


def test_a_vocabulary_alone_is_not_told_as_damaged(tmp_path: Path, run: Run) -> None:
    content = File(bert_pairs()).content
    for more in (b"", b"\0" * 64):
        (tmp_path / "model.gguf").write_bytes(content.rstrip(b"\0") + more)
        for asked in ([], ["--all"]):
            refused(run(["inspect", tmp_path / "model.gguf", *asked]), "holds no tensors")


def test_a_corpus_runs_with_what_the_weights_file_carries(tmp_path: Path, run: Run) -> None:
    """Config, tokenizer and pooling are in the file alone: what decides on a run is hashed there, too."""
    model, corpus = converted(POCKET, tmp_path / "model.gguf", pooling=1), tmp_path / "corpus.txt"
    corpus.write_text("The ship left the harbour.\nThey sailed across the sea.\n")
    for vector in ("mean", "sentence"):
        out = tmp_path / vector
        for _ in range(2):  # the second finds the first as it would be made
            assert run(["extract", corpus, "-m", model, "-o", out, "--vector", vector]).code == 0
        assert json_of(run, "extract", corpus, "-m", POCKET, "-o", tmp_path / f"{vector} of pocket", "--vector", "mean")
        files = (next(folder.glob("*.safetensors")) for folder in (out, tmp_path / f"{vector} of pocket"))
        ours, theirs = (load_file(file) for file in files)
        assert np.array_equal(ours[vector], theirs["mean"])
    manifest = json.loads((tmp_path / "sentence/manifest.json").read_text())
    assert "1_Pooling/config.json" in json.dumps(manifest)
    assert run(["neurons", "scan", corpus, "-m", model, "-o", tmp_path / "scan"]).code == 0


def test_a_folder_that_is_carried_has_what_is_carried(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"")
    files = {"1_Pooling/config.json": "{}", "vocab.txt": "a"}
    folder = FolderWithin(LocalFolder(tmp_path), LocalFile(tmp_path / "model.gguf"), files)
    below = folder.below("1_Pooling")
    assert below.names == {"config.json"}
    assert below.text("config.json") == "{}"
    assert not below.is_file("vocab.txt")
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling/config.json").write_text('{"mine": 1}')
    (tmp_path / "1_Pooling/more.json").write_text("{}")
    assert folder.below("1_Pooling").names == {"config.json", "more.json"}
    assert folder.below("1_Pooling").text("config.json") == '{"mine": 1}'


def test_of_settings_in_the_weights_file_no_tool_is_told(tmp_path: Path, run: Run) -> None:
    """sentence-transformers does not read them, llama.cpp does: what holds of files beside weights, holds of none."""
    path = tmp_path / "model.gguf"
    path.write_bytes(of_arrays({"token_embd.weight": np.ones((4, 8), np.float32)}, bert_pairs()).content)
    data = json_of(run, "recipe", path)
    assert data["tools"] == []
    assert any("carries these settings" in note for note in data["facts"]["notes"])


# ------------------------------------------------------------------------------------------------ a model as a text


@pytest.mark.parametrize("words", [["explain", "pooler"], ["pool"], ["activations"]])
def test_a_model_where_a_text_stands_is_refused(
    words: list[str], tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.gguf").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    for name in ("model.gguf", "folder"):
        ran = run([*words, name])
        assert ran.code == 2
        assert f"-m {name}" in " ".join(ran.err.replace("│", " ").split())
    for text in ("other.gguf", "x" * 5_000, "model.gguf is a file"):
        assert run([*words, text, "--truncate"]).code == 0
    assert run([*words, "model.gguf", "-m", "pocket"]).code == 0


def test_without_a_pooler_the_sentence_vector_is_named(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "model.gguf"
    rest = {name: values for name, values in STATE.items() if "pooler" not in name}
    np.savez(tmp_path / "model.npz", **rest)  # type: ignore[arg-type]
    for beside in ("config.json", "tokenizer.json"):
        shutil.copy(POCKET / beside, tmp_path)
    assert not path.exists()
    refused(run(["pool", "A text.", "-m", tmp_path]), "--vector sentence")
    assert run(["pool", "A text.", "-m", tmp_path, "--vector", "sentence"]).code == 0
