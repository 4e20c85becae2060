"""The site: it builds strictly, asks nothing of other hosts, and every page and link is in its place."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from conftest import ROOT, Run

LOADING = {
    "script": "src",
    "link": "href",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
}
WITHOUT_MKDOCS = "mkdocs-material is not installed: pip install '.[docs]'"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("material") is None:
        pytest.skip(WITHOUT_MKDOCS)
    folder = tmp_path_factory.mktemp("site")
    argv = [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


class Page(HTMLParser):
    """What a page loads, where its links lead, and the places in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        given = {name: value or "" for name, value in attributes}
        if tag in LOADING and LOADING[tag] in given:
            self.loads.append(given[LOADING[tag]])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if "id" in given:
            self.places.add(given["id"])


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text()) for path in sorted(site.rglob("*.html"))}


def test_nothing_is_loaded_from_another_host(site: Path, pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        foreign = [address for address in page.loads if urlsplit(address).netloc]
        assert not foreign, f"{path.name} loads {foreign}"
        assert "fonts.g" not in path.read_text()
    for path in site.rglob("*.css"):
        found = re.findall(r"(?:url\(|@import)\s*['\"]?((?:https?:)?//[^'\")\s]+)", path.read_text())
        assert not found, f"{path.name} loads {found}"


def test_the_theme_has_no_reason_to_load_more(pages: dict[Path, Page]) -> None:
    """Its script fetches a library for diagrams, and a repository's stars, from elsewhere where a page asks for it."""
    for path, page in pages.items():
        text = path.read_text()
        assert 'class="mermaid"' not in text
        assert "md-source__repository" not in text
        assert 'data-md-component="analytics"' not in text
        assert page.places


def test_every_page_is_in_the_navigation(site: Path, pages: dict[Path, Page]) -> None:
    start = pages[site / "index.html"]
    reached = {(site / unquote(urlsplit(link).path)).resolve() for link in start.links if not urlsplit(link).netloc}
    there = {path.resolve() for path in pages if path.name != "404.html"}
    assert there <= reached, {path.name for path in there - reached}
    written = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert {path.relative_to(site) for path in pages} == written | {Path("card.html"), Path("404.html")}


def inner_links(pages: dict[Path, Page]) -> Iterator[tuple[Path, str, Path, str]]:
    for path, page in pages.items():
        if path.name == "404.html":
            continue  # of which every link begins at the root of the server
        for link in page.links:
            parts = urlsplit(link)
            if not parts.netloc and parts.scheme in ("", "file"):
                target = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
                yield path, link, target / "index.html" if target.is_dir() else target, unquote(parts.fragment)


def test_every_inner_link_leads_to_a_place(pages: dict[Path, Page]) -> None:
    by_path = {path.resolve(): page for path, page in pages.items()}
    seen = 0
    for path, link, target, place in inner_links(pages):
        assert target.exists(), f"{path.name}: {link}"
        if place and target in by_path:
            assert place in by_path[target].places, f"{path.name}: {link}"
        seen += 1
    assert seen > 500


def test_the_parts_that_are_generated_are_there(site: Path) -> None:
    from bertprobe.cli import app

    commands = (site / "cli.html").read_text()
    for info in app.registered_commands:
        assert info.callback is not None
        assert f"bertprobe {info.name or info.callback.__name__}" in commands
    assert "Measured on the held-out books" in (site / "card.html").read_text()


def test_the_tour_is_there_in_chinese_too() -> None:
    """Every command of the tour is in the Chinese one; a new one must be told there as well."""
    from bertprobe.cli import app

    for english, chinese in (("docs/guide.md", "docs/zh/index.md"), ("README.md", "README.zh-CN.md")):
        there, here = ((ROOT / page).read_text() for page in (english, chinese))
        assert re.search(r"[\u4e00-\u9fff]", here)
        for info in app.registered_commands:
            assert info.callback is not None
            command = f"bertprobe {info.name or info.callback.__name__} "
            assert command not in there or command in here, f"{chinese} says nothing of {command}"


class Quiet(SimpleHTTPRequestHandler):
    """Files of a folder, without a line on stderr for each."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_in_a_browser_nothing_is_asked_of_others_and_nothing_overflows(
    site: Path, pages: dict[Path, Page], tmp_path: Path
) -> None:
    browser = pytest.importorskip("browser", reason="tests/browser.py, which drives a browser, is not there")
    pytest.importorskip("websocket", reason="websocket-client is not installed")
    if browser.executable() is None:
        pytest.skip("there is no Chromium")
    serve = partial(Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}/"
        with browser.Browser(browser.executable(), tmp_path) as tab:
            for width in (400, 1600):
                tab.resize(width)
                for path in pages:
                    tab.send("Page.navigate", url=base + path.relative_to(site).as_posix())
                    tab.wait_for(f"location.pathname.endsWith({path.name!r}) && document.readyState === 'complete'")
                    page = "document.documentElement"
                    assert tab.value(f"{page}.scrollWidth <= {page}.clientWidth"), f"{path.name} overflows at {width}"
            assert {u for u in tab.requests() if not u.startswith((base, f"blob:{base}", "about:"))} == set()
            assert tab.messages() == []
        server.shutdown()


# ------------------------------------------------------------------------------------------------ in CI


def blocks(page: str) -> list[Any]:
    return [
        yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)
    ]


@pytest.fixture
def encoder(minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of a repository with a checkpoint in models/encoder, as the page has it."""
    folder = tmp_path / "models" / "encoder"
    folder.parent.mkdir()
    folder.symlink_to(minilm)
    monkeypatch.chdir(tmp_path)
    return folder


def test_the_workflow_can_be_read_and_its_step_runs(encoder: Path, run: Run) -> None:
    workflow = blocks("docs/tasks/ci.md")[0]
    assert workflow[True] == ["push", "pull_request"]  # YAML takes `on` for true, GitHub does not
    assert workflow["permissions"] == {"contents": "read"}
    steps = workflow["jobs"]["sound"]["steps"]
    (command,) = [step["run"] for step in steps if step.get("run", "").startswith("bertprobe ")]
    ran = run(command.split()[1:])
    assert ran.code == 3
    assert ran.out.startswith("::warning title=pooler-untrained (pooler)::models/encoder: ")


def test_the_hook_is_what_the_page_says(encoder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    (used,) = blocks("docs/tasks/ci.md")[1]["repos"][0]["hooks"]
    assert hook["id"] == used["id"]
    assert hook["pass_filenames"] is False
    words = hook["entry"].split()
    assert words[0] == "bertprobe"
    assert run([*words[1:], *used["args"]]).code == 3
    monkeypatch.chdir(encoder)
    assert run([*words[1:], *hook["args"]]).code == 3  # the folder itself, unless said
    monkeypatch.chdir("/")
    assert run([*words[1:], *hook["args"]]).code == 1  # never a silent pass where there is no checkpoint
    touched = re.compile(hook["files"])
    for name in (
        "model.safetensors",
        "a/pytorch_model.bin",
        "a/config.json",
        "config.json",
        "m/model.safetensors.index.json",
    ):
        assert touched.search(name)
    for name in ("README.md", "src/main.py", "a/tokenizer_config.json"):
        assert not touched.search(name)


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_the_door_builds_the_site() -> None:
    assert "mkdocs build --strict" in (ROOT / ".ci" / "run").read_text()
