"""Docs are tested like code: examples run, tables are complete, the map names every room."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cached_property
from importlib import import_module
from pathlib import Path

import kin
import numpy as np
import pytest
from bundle import as_google, save, with_training
from conftest import ROOT, Run
from hub import Hub
from safetensors.numpy import load_file

import bertprobe
from bertprobe.adapters.rules import ADAPTER_RULES
from bertprobe.cli import app
from bertprobe.compare import rules
from bertprobe.recipe.rules import RULES as RULES_OF_RECIPES
from bertprobe.stats.table import STATISTICS, Statistic
from bertprobe.verdicts import RULES, SMALLEST_SIDE, TRAINED_ABOVE, UNTRAINED_BELOW

PAGES = [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
SINGLE = {info.name or info.callback.__name__: info for info in app.registered_commands if info.callback}
GROUPS = {group.name or "": group.typer_instance for group in app.registered_groups if group.typer_instance}
GROUPED = {
    f"{name} {info.name or info.callback.__name__}": info
    for name, group in GROUPS.items()
    for info in group.registered_commands
    if info.callback
}
COMMANDS = {**SINGLE, **GROUPED}
CONSOLE = re.compile(r"^```console\n(.*?)^```", re.M | re.S)
FOLDERS = (
    *("checkpoint", "checkpoint/tensorflow", "compare", "verdicts", "tokens", "export", "extract"),
    *("report", "report/explanation", "render", "render/html", "render/html/charts", "stats", "cli"),
)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.M | re.S)


@pytest.fixture(scope="module")
def hub(minilm: Path) -> Iterator[Hub]:
    """A stand-in for the Hub that has the model of the examples."""
    with Hub() as running:
        files = {str(path.relative_to(minilm)): path for path in minilm.rglob("*") if path.is_file()}
        running.add("sentence-transformers/all-MiniLM-L6-v2", files)
        yield running


@pytest.fixture(scope="module")
def workplace(minilm: Path, hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the examples can be typed: the model lies in it under its name, and a Hub is at hand."""
    base = tmp_path_factory.getbasetemp()
    # Not in the folder of one of several processes: tables are wrapped by the length of the path.
    here = (base.parent if base.name.startswith("popen-") else base) / "workplace0"
    here.mkdir()
    (here / ".hub").write_text(hub.endpoint)
    model = here / "all-MiniLM-L6-v2"
    model.mkdir()
    for entry in minilm.iterdir():
        (model / entry.name).symlink_to(entry)
    kin.without_pooler(here / "lost")
    as_of_2018(here / "uncased_L-4_H-128_A-2")
    return here


def as_of_2018(folder: Path) -> None:
    """The built-in model as Google would have published it in 2018."""
    pocket = Path(bertprobe.__file__).parent / "pocket"
    config = json.loads((pocket / "config.json").read_text())
    folder.mkdir()
    stored = {name: values.astype(np.float32) for name, values in load_file(pocket / "model.safetensors").items()}
    save(folder / "bert_model.ckpt", with_training(as_google(stored)))
    kept = ("_size", "_layers", "_heads", "_act", "_embeddings", "initializer_range")
    (folder / "bert_config.json").write_text(json.dumps({k: v for k, v in config.items() if k.endswith(kept)}))
    (folder / "vocab.txt").write_bytes((pocket / "vocab.txt").read_bytes())


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def typed(command: str, workplace: Path) -> str:
    """What a terminal of 80 columns shows for a command, without the path of this machine."""
    endpoint = (workplace / ".hub").read_text()
    environment = {**os.environ, "COLUMNS": "80", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(workplace / ".cache"), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        command, shell=True, cwd=workplace, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    out = done.stdout.replace(f" ({endpoint})", "")
    out = re.sub(r"(?m)^(model +)(\S+) →.*\n(?: +.*\n)*", r"\1\2 → /home/you/\2\n", out)
    out = re.sub(r"(?m)^(- \*\*model\*\*: )(\S+) → .*$", r"\1\2 → /home/you/\2", out)
    return "".join(f"{line.rstrip()}\n" for line in out.replace(str(workplace), "/home/you").splitlines())


def run_block(block: str, workplace: Path) -> Iterator[str]:
    for line in block.splitlines():
        if line.startswith("$ "):
            yield f"{line}\n"
            yield typed(line[2:], workplace)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_examples_print_what_the_page_says(page: Path, workplace: Path, request: pytest.FixtureRequest) -> None:
    text = page.read_text()
    blocks = CONSOLE.findall(text)
    if blocks:
        fresh = CONSOLE.sub(lambda match: f"```console\n{''.join(run_block(match[1], workplace))}```", text)
        if request.config.getoption("--update-goldens"):
            page.write_text(fresh)
        assert fresh == page.read_text()


@pytest.mark.parametrize("page", [page for page in PAGES if PYTHON.search(page.read_text())], ids=name)
def test_python_examples_run(page: Path, workplace: Path) -> None:
    options = "-o parts.safetensors --part pooler --part intermediate --layers 3 --force"
    assert "written to parts.safetensors" in typed(f"bertprobe export all-MiniLM-L6-v2 {options}", workplace)
    for code in PYTHON.findall(page.read_text()):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code], cwd=workplace, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{code}\n{done.stderr}"


# ------------------------------------------------------------------------------------------------ the API page

API = """# The Python API

Each name is had from `bertprobe` itself and imported when it is first used. This page is made from the docstrings
(`pytest tests/test_docs.py --update-goldens`). Letters: T tokens of all texts end to end, N or B texts, S tokens of a
text, H hidden size, I intermediate size.
"""


def prose(text: str | None) -> str:
    """A docstring as Markdown: its sections as lists, its examples as code."""
    lines = inspect.cleandoc(text or "").splitlines()
    found: list[str] = []
    listing = False
    for line in lines:
        if re.fullmatch(r"(Args|Raises|Returns):", line):
            listing = True
            found += [f"**{line[:-1]}**", ""]
        elif listing and (item := re.match(r" {4}(\w+): (.*)", line)):
            found.append(f"- `{item[1]}`: {item[2]}")
        elif listing and line.startswith("     "):
            found.append(f"  {line.strip()}")
        else:
            listing = listing and not line.strip()
            found.append(line)
    return "\n".join(found)


def called(name: str, value: object) -> str:
    """A signature with its annotations as they are written."""
    parts = []
    keyword = False
    for parameter in inspect.signature(value).parameters.values():  # type: ignore[arg-type]
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword:
            parts.append("*")
            keyword = True
        default = ""
        if parameter.name == "self":
            continue
        if parameter.default is not parameter.empty:
            shown = repr(parameter.default)
            default = f" = {'…' if shown.startswith('<') else shown}"
        annotation = getattr(parameter.annotation, "__forward_arg__", parameter.annotation)
        parts.append(f"{parameter.name}{'' if annotation is parameter.empty else f': {annotation}'}{default}")
    returned = inspect.signature(value).return_annotation  # type: ignore[arg-type]
    gives = "" if isinstance(value, type) or returned is inspect.Signature.empty else f" -> {returned}"
    return f"{name}({', '.join(parts)}){gives}"


def signature(text: str) -> str:
    """A block of its own, so that headings stay short; a long one has a line a parameter."""
    if len(text) > 90:
        head, _, rest = text.partition("(")
        inside, _, gives = rest.rpartition(")")
        depth, lines = 0, [""]
        for char in inside:
            depth += (char in "[({") - (char in "])}")
            lines[-1] += char
            if char == "," and depth == 0:
                lines.append("")
        text = "\n".join([f"{head}(", *(f"    {line.strip()}" for line in lines), f"){gives}"])
    return f"```text\n{text}\n```\n\n"


def members(value: type) -> Iterator[str]:
    for name, member in vars(value).items():
        is_attribute = isinstance(member, property | cached_property)
        function = getattr(member, "fget", None) or getattr(member, "func", None) or getattr(member, "__func__", member)
        if name.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
            continue
        head = "" if is_attribute else signature(called(name, getattr(value, name)))
        yield f"#### `.{name}`\n\n{head}{prose(function.__doc__)}\n"


def api_page() -> str:
    found = [API]
    for home, names in bertprobe._HOMES.items():
        found.append(f"## {home.removeprefix('bertprobe.')}\n\n{prose(import_module(home).__doc__)}\n")
        for name in names:
            value = getattr(bertprobe, name)
            is_sequence = isinstance(value, type) and issubclass(value, tuple) and not hasattr(value, "_fields")
            head = "" if is_sequence else signature(called(name, value))
            found.append(f"### `{name}`\n\n{head}{prose(value.__doc__)}\n")
            found += members(value) if isinstance(value, type) else ()
    return "\n".join(found)


def test_the_api_page_is_made_from_the_docstrings(request: pytest.FixtureRequest) -> None:
    page = ROOT / "docs" / "api.md"
    if request.config.getoption("--update-goldens"):
        page.write_text(api_page())
    assert page.read_text() == api_page(), "look at the docstrings, then run pytest --update-goldens"
    assert not [name for name in bertprobe.__all__ if not getattr(bertprobe, name).__doc__]


def test_readme_begins_with_the_two_commands() -> None:
    first, second = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)[:2]
    assert first.startswith("pip install . &&")
    assert "bertprobe pool" in first
    assert second == "pip install '.[test]' && python -m pytest\n"


def test_the_findings_page_has_a_section_a_rule() -> None:
    text = (ROOT / "docs" / "findings.md").read_text()
    sections = dict(re.findall(r"^## `([\w-]+)`\n\n\*\*(\w+)\.\*\*", text, re.M))
    assert sections == {rule.name: rule.severity for rule in (*RULES, *rules.RULES, *RULES_OF_RECIPES, *ADAPTER_RULES)}


OF = {"summary": "any tensor", "matrix": "matrices", "spectrum": "matrices, `--spectrum`"}


def statistic(row: Statistic) -> str:
    """A row of the table of docs/statistics.md."""
    cells = (f"`{row.name}`", row.title, OF[row.of], row.formula, row.meaning)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def test_the_statistics_page_has_every_statistic_and_threshold(request: pytest.FixtureRequest) -> None:
    page = ROOT / "docs" / "statistics.md"
    text = page.read_text()
    found = "".join(re.findall(r"^\| `\w+` \|.*\n", text, re.M))
    fresh = "".join(map(statistic, STATISTICS))
    if request.config.getoption("--update-goldens"):
        page.write_text(text.replace(found, fresh))
        found = fresh
    assert found == fresh, "look at the rows of STATISTICS, then run pytest --update-goldens"
    for threshold in (UNTRAINED_BELOW, TRAINED_ABOVE, SMALLEST_SIDE):
        assert str(threshold) in text


def test_the_exports_page_names_every_key(tiny_bert: Path, run: Run) -> None:
    text = (ROOT / "docs" / "exports.md").read_text()
    data = json.loads(run(["inspect", tiny_bert, "--json", "--neurons", "1"]).out)
    keys = [*data, *data["facts"], *data["parts"][0], *data["parts"][0]["tensors"][0], *data["parts"][0]["neurons"]]
    assert not [key for key in keys if f"`{key}`" not in text and f'"{key}"' not in text]


# ------------------------------------------------------------------------------------------------ the commands

CLI = """# Commands

What `--help` says, made by `pytest tests/test_docs.py --update-goldens`. Exit codes and formats are told on the page
[Output formats](exports.md).
"""


def helped(*words: str) -> str:
    """The help of a command as a terminal of 80 columns shows it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("BERTPROBE_", "FORCE_COLOR", "GITHUB_"))}
    environment |= {"COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1"}
    code = "import sys; sys.argv[0] = 'bertprobe'; from bertprobe.cli import main; main()"
    argv = [sys.executable, "-c", code, *words, "--help"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    return "\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines()).strip("\n")


def test_the_commands_page_is_made_from_help(request: pytest.FixtureRequest) -> None:
    words = ["", *SINGLE, *(name for group in GROUPS for name in (group, *(c for c in GROUPED if c.startswith(group))))]
    sections = [(f"bertprobe {command}".strip(), helped(*command.split())) for command in words]
    fresh = "\n".join([CLI, *(f"## `{title}`\n\n```text\n{text}\n```\n" for title, text in sections)])
    page = ROOT / "docs" / "cli.md"
    if request.config.getoption("--update-goldens"):
        page.write_text(fresh)
    assert page.read_text() == fresh, "look at the help, then run pytest --update-goldens"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_has_help(command: str) -> None:
    info = COMMANDS[command]
    assert info.callback is not None
    assert info.callback.__doc__
    # The page made from --help has every option: it proves nothing.
    guide = "".join(page.read_text() for page in PAGES if page.name != "cli.md")
    for option in re.findall(r"--[a-z]+", helped(*command.split())):
        assert option in guide or option == "--help", f"{option} is nowhere in the docs"


def test_the_map_names_every_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    package = Path(bertprobe.__file__).parent
    rooms = {path.name for path in package.iterdir() if not path.name.startswith("__")}
    rooms |= {path.name for folder in FOLDERS for path in (package / folder).glob("[a-z]*.py")}
    assert not [name for name in rooms if name not in text]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
