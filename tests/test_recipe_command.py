"""`bertprobe recipe`, the recipe in `inspect`, and `pool --vector sentence`, as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Run
from safetensors import safe_open

import bertprobe

TEXTS = ("The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.")
MATRIX = [[1, 0.6660, 0.1046], [0.6660, 1, 0.1411], [0.1046, 0.1411, 1]]  # of sentence-transformers' README


@pytest.mark.parametrize("columns", [80, 140])
def test_golden(
    columns: int,
    minilm: Path,
    tmp_path: Path,
    run: Run,
    golden: Callable[[str, str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.chdir(tmp_path)
    Path("minilm").symlink_to(minilm)
    shown = run(["recipe", "minilm"])
    assert shown.code == 0
    golden(f"recipe-{columns}.txt", shown.out[shown.out.index("\nrecipe ") + 1 :])  # before it stands where it lies


def test_nothing_heavy_is_loaded_and_no_weights_are_needed(minilm: Path, tmp_path: Path) -> None:
    for path in minilm.rglob("*.json"):
        target = tmp_path / path.relative_to(minilm)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    code = (
        "import sys\nfrom bertprobe.cli import main\n"
        "try:\n    main(['recipe', sys.argv[1], '--json'])\nfinally:\n"
        "    heavy = {'numpy', 'torch', 'transformers', 'tokenizers', 'rich'}\n"
        "    print(*sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")
    found = {node["setting"]: node for node in json.loads(done.stdout)["recipe"]}
    assert (found["length"]["value"], found["length"]["file"]) == (256, "sentence_bert_config.json")
    assert {(other["value"], other["file"]) for other in found["length"]["others"]} == {
        (512, "tokenizer_config.json"),
        (128, "tokenizer.json"),
    }


def test_a_weights_file_leads_to_its_folder(minilm: Path, run: Run) -> None:
    of_file, of_folder = (
        json.loads(run(["recipe", str(path), "--json"]).out)["recipe"]
        for path in (minilm / "model.safetensors", minilm)
    )
    assert of_file == of_folder


def test_strict(minilm: Path, tmp_path: Path, run: Run) -> None:
    """A note alarms nobody, a warning does."""
    assert run(["recipe", str(minilm), "--strict"]).code == 0
    for name in ("tokenizer.json", "config.json", "modules.json"):
        (tmp_path / name).write_bytes((minilm / name).read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert run(["recipe", str(tmp_path), "--strict"]).code == 3


def test_a_folder_with_nothing_in_it(tmp_path: Path, run: Run) -> None:
    shown = run(["recipe", str(tmp_path)])
    assert shown.code == 1
    assert "modules.json" in shown.err
    assert len(shown.err.splitlines()) == 1


def test_inspect_shows_it_as_one_line_with_its_findings(minilm: Path, run: Run) -> None:
    data = json.loads(run(["inspect", str(minilm), "--json"]).out)
    assert data["facts"]["recipe"] == "256 tokens, lower-cased, mean, norm 1, 384 numbers"
    assert "length-contradiction" in {finding["rule"] for finding in data["findings"]}
    assert {finding.rule for finding in bertprobe.open(str(minilm)).findings} == {f["rule"] for f in data["findings"]}


def test_headers_alone_show_none(minilm: Path, run: Run) -> None:
    data = json.loads(run(["inspect", str(minilm), "--shapes", "--json"]).out)
    assert "recipe" not in data["facts"]


def test_the_matrix_of_their_readme(minilm: Path, run: Run) -> None:
    data = json.loads(run(["pool", *TEXTS, "-m", str(minilm), "--vector", "sentence", "--json"]).out)
    assert np.abs(np.array(data["similarity"]["sentence"]) - MATRIX).max() < 5e-5
    assert all(abs(text["sentence"]["statistics"]["norm"] - 1) < 1e-6 for text in data["texts"])
    assert data["facts"]["recipe"] == "256 tokens, lower-cased, mean, norm 1, 384 numbers"


def test_to_a_file(minilm: Path, tmp_path: Path, run: Run) -> None:
    """A row a text, cut where the recipe says without being asked, and the recipe in the notes."""
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join([*TEXTS, "word " * 400]))
    file = tmp_path / "vectors.safetensors"
    argv = ["pool", "--file", str(texts), "-m", str(minilm), "--vector", "sentence", "-o", str(file), "--json"]
    written = json.loads(run(argv).out)
    assert (written["written"]["shape"], written["facts"]["truncated"]["texts"]) == ([4, 384], 1)
    with safe_open(file, "np") as found:
        rows, notes = found.get_tensor("sentence"), found.metadata()
    expected = bertprobe.open(str(minilm)).pool([*TEXTS, "word " * 400], vector="sentence")
    assert np.abs(rows - expected).max() < 1e-6
    assert notes["recipe"] == "256 tokens, lower-cased, mean, norm 1, 384 numbers"


def test_a_prompt_by_name_and_by_text(minilm: Path, tmp_path: Path, run: Run) -> None:
    for path in minilm.rglob("*"):
        if path.is_file():
            target = tmp_path / path.relative_to(minilm)
            target.parent.mkdir(exist_ok=True)
            target.symlink_to(path)
    settings = tmp_path / "config_sentence_transformers.json"
    settings.unlink()
    settings.write_text(json.dumps({"prompts": {"query": "query: "}, "default_prompt_name": "query"}))

    def vector(*options: str) -> list[float]:
        argv = ["pool", "a text", "-m", str(tmp_path), "--vector", "sentence", *options, "--json"]
        values: list[float] = json.loads(run(argv).out)["texts"][0]["sentence"]["values"]
        return values

    def said(prompt: str) -> str:
        return run(["pool", "a text", "-m", str(tmp_path), "--vector", "sentence", "--prompt", prompt, "--json"]).err

    assert said("query") == said("query: ") == said("") == ""
    assert "'qeury' is put before each text as it is: the model's prompts are called query" in said("qeury")
    by_default, by_name, by_text = vector(), vector("--prompt", "query"), vector("--prompt", "query: ")
    assert by_default == by_name == by_text
    assert vector("--prompt", "") != by_default
    written = bertprobe.open(str(minilm)).pool("query: a text", vector="sentence")[0]
    assert np.abs(np.array(by_default) - written).max() < 1e-6


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["pool", "a", "b", "--vector", "sentence", "--pair"], "--pair does not go with --vector sentence"),
        (["pool", "a", "--prompt", "query: "], "--prompt goes with --vector sentence"),
    ],
)
def test_what_does_not_go_together(argv: list[str], words: str, run: Run) -> None:
    shown = run(argv)
    assert shown.code == 2
    assert words in " ".join(shown.err.replace("│", " ").split())
