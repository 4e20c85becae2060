"""Completion, driven as the shells drive it; `--version --verbose`; findings as GitHub takes them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Run
from hypothesis import given
from hypothesis import strategies as st

from bertprobe.cli import completion, versions
from bertprobe.render.data_formats import _data, _property

BIN = Path(sys.executable).parent


@pytest.fixture
def here(tmp_path: Path, tiny_bert: Path) -> Path:
    """A folder with a checkpoint, a weights file, things that are neither, and a cache of the Hub."""
    place = tmp_path / "here"
    place.mkdir()
    shutil.copytree(tiny_bert, place / "tiny")
    shutil.copy(tiny_bert / "model.safetensors", place / "alone.safetensors")
    (place / "notes").mkdir()
    (place / "notes.txt").touch()
    shutil.copytree(tiny_bert, place / "with blank")
    for name in ("models--google-bert--bert-base-uncased", "models--gpt2", "datasets--glue--mrpc"):
        (place / ".cache" / "hub" / name / "snapshots" / "abc").mkdir(parents=True)
    (place / ".cache" / "hub" / "models--never--fetched").mkdir()
    (place / ".cache" / "hub" / "models--odd;rm -rf--name" / "snapshots" / "abc").mkdir(parents=True)
    return place


def environment(here: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "BERTPROBE_"))}
    # No Hub answers there: whoever asked it would fail loudly.
    settings = {"HF_HOME": str(here / ".cache"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    return {**kept, **settings, "PATH": f"{BIN}:{os.environ['PATH']}", **more}


def completed(here: Path, *words: str) -> list[str]:
    """What bash would be offered for the last word of `bertprobe …`."""
    line = ["bertprobe", *words]
    asked = environment(
        here, COMP_WORDS="\n".join(line), COMP_CWORD=str(len(line) - 1), _BERTPROBE_COMPLETE="complete_bash"
    )
    program = [sys.executable, "-c", "import sys; sys.argv[0] = 'bertprobe'; from bertprobe.cli import main; main([])"]
    done = subprocess.run(program, cwd=here, env=asked, capture_output=True, text=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_models(here: Path) -> None:
    found = completed(here, "inspect", "")
    assert sorted(found) == ["alone.safetensors", "google-bert/bert-base-uncased", "gpt2", "pocket", "tiny"]
    assert completed(here, "inspect", "goo") == ["google-bert/bert-base-uncased"]
    assert completed(here, "pool", "-m", "ti") == ["tiny"]
    assert completed(here, "inspect", "./") == []  # the shell's own completion of files takes over


def test_layers_are_those_of_the_model_on_the_line(here: Path) -> None:
    assert completed(here, "inspect", "tiny", "--layers", "") == ["0", "1", "-1"]
    assert completed(here, "inspect", "tiny", "--layers", "0,") == ["0,0", "0,1", "0,-1"]
    assert completed(here, "inspect", "tiny", "--layers", "0-") == ["0-0", "0-1"]
    assert completed(here, "inspect", "--layers", "") == ["0", "1", "2", "3", "-1"]  # of pocket
    assert completed(here, "pool", "tiny", "-m", "") == completed(here, "inspect", "")
    assert completed(here, "activations", "'some text'", "-m", "tiny", "--layers", "1") == ["1"]
    assert completed(here, "inspect", "google-bert/bert-base-uncased", "--layers", "") == []
    assert completed(here, "inspect", "notes", "--layers", "") == []


def test_options_and_their_words(here: Path) -> None:
    assert completed(here, "")[:2] == ["inspect", "export"]
    assert completed(here, "inspect", "--sh") == ["--shapes"]
    assert completed(here, "inspect", "--part", "") == ["intermediate", "pooler"]
    assert completed(here, "export", "--part", "m") == ["model"]
    assert completed(here, "inspect", "--format", "") == ["table", "json", "csv", "markdown", "github"]
    assert completed(here, "inspect", "--table", "s") == ["spectrum"]
    assert completed(here, "pool", "--tokenizer", "") == []  # a path: left to the shell
    assert completed(here, "pool", "--vector", "") == ["pooled", "cls", "mean", "sentence"]


def test_the_tables_offered_are_those_there_are(run: Run) -> None:
    for table in completion.TABLES:
        assert run(["inspect", "--spectrum", "--neurons", "1", "--table", table]).code == 0
    (told,) = re.findall(r"only (.*);", run(["inspect", "--spectrum", "--neurons", "1", "--table", "x"]).err)
    assert sorted(told.split(", ")) == sorted(completion.TABLES)


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_itself(here: Path) -> None:
    """The script that --install-completion writes, sourced by a real bash."""
    program = here / "bin" / "bertprobe"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nfrom bertprobe.cli import main\nmain()\n")
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    script = subprocess.run(
        ["bertprobe"],
        env=environment(here, _BERTPROBE_COMPLETE="source_bash", PATH=path),
        capture_output=True,
        text=True,
    ).stdout
    assert "complete -o default -F" in script
    typed = (
        f"{script}\nCOMP_WORDS=(bertprobe inspect pock); COMP_CWORD=2\n"
        "_bertprobe_completion bertprobe\nprintf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", typed], cwd=here, env=environment(here, PATH=path), capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("pocket\n", "")


def test_completion_loads_nothing_heavy_and_is_quick(here: Path) -> None:
    code = (
        "import sys; sys.argv[0] = 'bertprobe'\nfrom bertprobe.cli import main\n"
        "try:\n    main([])\nexcept SystemExit:\n    pass\n"
        "sys.stderr.write(' '.join(sorted({n.split('.')[0] for n in sys.modules})))"
    )
    for words in (["inspect", ""], ["inspect", "tiny", "--layers", ""]):
        line = ["bertprobe", *words]
        asked = environment(
            here, COMP_WORDS="\n".join(line), COMP_CWORD=str(len(line) - 1), _BERTPROBE_COMPLETE="complete_bash"
        )
        begun = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], cwd=here, env=asked, capture_output=True, text=True)
        assert time.perf_counter() - begun < 3  # 0.2 s on an idle machine; a busy one must not fail
        heavy = {"numpy", "torch", "transformers", "huggingface_hub", "tokenizers", "safetensors"}
        assert not set(done.stderr.split()) & heavy


# ------------------------------------------------------------------------------------------------ versions


def test_versions_for_a_bug_report(run: Run) -> None:
    import numpy
    import torch

    for argv in (["--version", "--verbose"], ["--verbose", "--version"]):
        ran = run(argv)
        assert ran.code == 0
        told = dict(line.split(maxsplit=1) for line in ran.out.splitlines())
        assert told["numpy"] == numpy.__version__
        assert told["torch"] == torch.__version__
        assert {"bertprobe", "python", "platform", "cores", "blas", *versions.PACKAGES} == told.keys()
    assert len(run(["--version"]).out.splitlines()) == 1
    assert "goes with --version" in " ".join(run(["--verbose", "inspect"]).err.split())


def test_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "PACKAGES", ("no-such-package-here",))
    assert any(re.fullmatch(r"no-such-package-here\s+not installed", line) for line in versions.lines())


# ------------------------------------------------------------------------------------------------ github

COMMAND = re.compile(r"::(error|warning|notice) title=([^:,\r\n]+)::([^\r\n]+)")


def test_every_finding_is_a_workflow_command(minilm: Path, run: Run) -> None:
    ran = run(["inspect", minilm, "--format", "github", "--strict"])
    assert ran.code == 3
    told = json.loads(run(["inspect", minilm, "--json"]).out)["findings"]
    words = {"error": "error", "warning": "warning", "note": "notice"}
    lines = ran.out.splitlines()
    assert len(lines) == len(told)
    for line, finding in zip(lines, told, strict=True):
        command = COMMAND.fullmatch(line)
        assert command is not None
        assert command[1] == words[finding["severity"]]
        assert finding["rule"] in command[2]
        assert finding["message"].replace("%", "%25") in command[3]


def test_no_findings_are_told_in_plain_words(run: Run) -> None:
    ran = run(["inspect", "--shapes", "--format", "github"])
    assert (ran.code, ran.out) == (0, "bertprobe: pocket: no findings\n")


def test_a_model_whose_name_looks_like_a_command(tmp_path: Path, tiny_bert: Path, run: Run) -> None:
    evil = tmp_path / "a%0A::error title=x,y::z"
    shutil.copytree(tiny_bert, evil)
    for line in run(["inspect", evil, "--format", "github"]).out.splitlines():
        assert COMMAND.fullmatch(line) or line.startswith("bertprobe: ")
        assert "%250A" in line or line.startswith("bertprobe: ")


@given(st.text())
def test_what_github_unescapes_is_what_was_written(text: str) -> None:
    def back(line: str, codes: dict[str, str]) -> str:
        for code, char in codes.items():
            line = line.replace(code, char)
        return line.replace("%25", "%")

    assert back(_data(text), {"%0D": "\r", "%0A": "\n"}) == text
    assert back(_property(text), {"%0D": "\r", "%0A": "\n", "%3A": ":", "%2C": ","}) == text
    assert not set(_data(text)) & set("\r\n")
    assert not set(_property(text)) & set("\r\n:,")


@pytest.mark.parametrize("argv", [["verify", "--format", "github"], ["inspect", "--format", "github", "--table", "x"]])
def test_github_where_there_is_nothing_to_annotate(argv: list[str], run: Run) -> None:
    ran = run(argv)
    assert ran.code == 2
    assert "github" in ran.err
