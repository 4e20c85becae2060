"""`report`: a page whose numbers are those of the other commands, that asks for nothing and keeps foreign text text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zoo
from browser import Browser, executable
from conftest import Run
from hub import Hub
from safetensors.numpy import load_file, save_file

from bertprobe.anatomy import find_parts
from bertprobe.checkpoint import open_checkpoint
from bertprobe.export.files import Output
from bertprobe.measurement import measure_parts
from bertprobe.noise import noise_sigmas
from bertprobe.render import html
from bertprobe.render.html import FIGURES, SUFFIXES
from bertprobe.render.html.theme import PALETTES
from bertprobe.report import Report
from bertprobe.report.page import MOST_CELLS, MOST_TEXTS, page
from bertprobe.stats.histogram import histogram
from bertprobe.stats.numbers import measure
from bertprobe.verdicts import Evidence, judge

TEXTS = ["The ship left the harbour.", "They sailed across the sea.", "He was paid a shilling."]
LIMIT = 6_000_000
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]
EVIL = "</script><script>window.hit=1</script>"


class Parsed(HTMLParser):
    """A page as elements: (tag, attributes) in order, the text of each script by its id, and all other text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.words: list[str] = []
        self._within: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._within.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._within:
            while self._within.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if self._within and self._within[-1] == "script":
            name = dict(self.elements[-1][1]).get("id") or f"code {len(self.scripts)}"
            self.scripts[name] = self.scripts.get(name, "") + data
        elif "style" not in self._within:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.scripts["data"])
        return found


def written(run: Run, *argv: Any) -> Parsed:
    """The page that a command writes."""
    ran = run(["report", *argv])
    assert ran.code == 0, ran.err
    return Parsed(Path(argv[argv.index("-o") + 1]).read_text())


def reported(model: str, texts: list[str]) -> Report:
    """A report made without the command line."""
    from bertprobe.cli.report import _run

    checkpoint = open_checkpoint(model)
    anatomy = find_parts(checkpoint)
    evidence = Evidence(checkpoint, anatomy, measure_parts(anatomy.parts, spectrum=True, bins=True))
    ran = None
    if texts:
        ran = _run(evidence, texts, False)
    return page(evidence, anatomy.parts, judge(evidence), ran)


@pytest.fixture(scope="module")
def pocket() -> Report:
    return reported("pocket", TEXTS)


@pytest.fixture(scope="module")
def pocket_page(pocket: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("pocket") / "report.html"
    html.write(pocket, Output(file))
    return file


@pytest.fixture(scope="module")
def minilm_page(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("minilm") / "report.html"
    html.write(reported(str(minilm), TEXTS), Output(file))
    return file


def tensors_of(layers: int, hidden: int, inner: int, dtype: Any = np.float32) -> dict[str, Any]:
    """The two modules of a fresh BERT, and the output modules between."""
    draw = np.random.default_rng(0)
    shapes = {"pooler.dense": (hidden, hidden)}
    for i in range(layers):
        shapes |= {f"encoder.layer.{i}.intermediate.dense": (inner, hidden)}
    found = {f"{name}.weight": (0.02 * draw.standard_normal(s, np.float32)).astype(dtype) for name, s in shapes.items()}
    return found | {f"{name}.bias": np.zeros(shape[0], dtype) for name, shape in shapes.items()}


def lay(folder: Path, tensors: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(dict(tensors), folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


# ------------------------------------------------------------------------------------------------ histograms, noise


def test_a_histogram_counts_as_numpy_does_at_every_width() -> None:
    values = np.random.default_rng(1).standard_t(3, (200, 300)).astype(np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    values[1, 0], values[1, 1] = 1e6, -2e6
    known = values[np.isfinite(values)]
    found = histogram(values, 1.0)
    assert (found.below, found.above) == (1, 1)
    for wide in (found, found.at(found.width * 2), found.at(found.width * 64)):
        edges = (np.arange(len(wide.counts) + 1) + wide.first) * wide.width
        inside = known[(known >= edges[0]) & (known < edges[-1])]
        assert (np.histogram(inside, edges)[0] == wide.counts).all()
        assert wide.counts.sum() + 2 == known.size


@pytest.mark.parametrize(("value", "rows"), [(0.0, 3), (0.5, 3), (np.nan, 2), (0.0, 0)])
def test_a_histogram_of_what_has_no_spread(value: float, rows: int) -> None:
    array = np.full((rows, 4), value)
    found = measure(array, bins=True).histogram
    assert found is not None
    assert found.counts.sum() == np.isfinite(array).sum()


@pytest.mark.parametrize("shape", [(256, 256), (768, 192), (128, 512)])
def test_noise_has_the_singular_values_that_the_law_says(shape: tuple[int, int]) -> None:
    """Within 2 % of the largest: what a matrix of this size strays from its limit."""
    sigmas = np.linalg.svd(np.random.default_rng(2).standard_normal(shape), compute_uv=False)
    assert np.abs(noise_sigmas(shape, range(min(shape))) - sigmas).max() < 0.02 * sigmas[0]


# ------------------------------------------------------------------------------------------------ the data


def test_the_numbers_are_those_of_the_other_commands(pocket_page: Path, run: Run) -> None:
    data = Parsed(pocket_page.read_text()).data
    inspected = json.loads(run(["inspect", "pocket", "--spectrum", "--json"]).out)
    pooled = json.loads(run(["pool", *TEXTS, "-m", "pocket", "--json"]).out)
    active = json.loads(run(["activations", *TEXTS, "-m", "pocket", "--tokens", "--json"]).out)
    for part, same in zip(data["parts"], inspected["parts"], strict=True):
        assert same.items() <= part.items()
    assert data["findings"] == inspected["findings"]
    assert data["similarity"] == pooled["similarity"]
    assert data["texts"] == pooled["texts"]
    assert data["activations"] == {key: active[key] for key in ("layers", "tokens", "heat")}


def test_the_tables_show_what_inspect_shows(pocket_page: Path, run: Run) -> None:
    words = Parsed(pocket_page.read_text()).words
    lines = run(["inspect", "pocket", "--table", "intermediate"]).out.splitlines()
    for line in lines[2:6]:
        assert set(line.split()[1:9]) <= set(words)


def test_pictures_are_of_the_weights_in_the_file(pocket_page: Path) -> None:
    tensors = load_file(Path(html.__file__).parents[2] / "pocket" / "model.safetensors")
    parts = Parsed(pocket_page.read_text()).data["parts"]
    for part in (parts[0], parts[-1]):
        weight = tensors[part["tensors"][0]["stored_name"]].astype(np.float64)
        found = part["histogram"]
        assert sum(found["counts"]) + found["below"] + found["above"] == weight.size
        edges = found["start"] + found["width"] * np.arange(len(found["counts"]) + 1)
        inside = weight[(weight >= edges[0]) & (weight < edges[-1])]
        assert (np.histogram(inside, edges)[0] == found["counts"]).all()
        assert np.allclose(part["spectrum"]["sigmas"], np.linalg.svd(weight, compute_uv=False), rtol=1e-6)
        assert part["spectrum"]["edge"] == pytest.approx(weight.std() * sum(np.sqrt(weight.shape)))
        norms = np.linalg.norm(weight, axis=1)
        assert sum(part["row_norms"]["counts"]) + part["row_norms"]["above"] == len(norms)
        for row in part["row_norms"]["outliers"]:
            assert row["norm"] == pytest.approx(norms[row["neuron"]])
            assert abs(row["robust_z"]) > 8


def test_outlier_neurons_are_named(minilm_page: Path) -> None:
    found = Parsed(minilm_page.read_text())
    named = {(p["label"], row["neuron"]) for p in found.data["parts"] for row in p["row_norms"]["outliers"]}
    assert ("intermediate.0", 856) in named
    described = [str(div.get("aria-label")) for div in found.all("div")]
    assert any("856 with norm 4.055" in words for words in described)


def test_the_exports_page_names_every_key(pocket: Report) -> None:
    text = (Path(__file__).parents[1] / "docs" / "exports.md").read_text().partition("## `report`")[2]
    part = pocket.data["parts"][0]
    nodes = [pocket.data, pocket.data["layer"], part, *(part[k] for k in ("histogram", "row_norms", "spectrum"))]
    ours = {key for node in nodes for key in node} - {
        "label",
        "role",
        "stack",
        "index",
        "activation",
        "verdict",
        "tensors",
    }
    assert not [key for key in ours if not re.search(rf"[`\"{{ ]{key}[`\",}}]", text)]


# ------------------------------------------------------------------------------------------------ the page


@pytest.mark.parametrize("name", ["pocket_page", "minilm_page"])
def test_a_page_is_well_made(name: str, request: pytest.FixtureRequest) -> None:
    found = Parsed(request.getfixturevalue(name).read_text())
    assert found.all("html") == [{"lang": "en"}]
    assert len(found.all("h1")) == len(found.all("main")) == len(found.all("title")) == 1
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for link in found.all("a"):
        assert str(link["href"]).removeprefix("#") in ids
    first_link = next(attributes for tag, attributes in found.elements if tag == "a")
    assert (first_link["class"], first_link["href"]) == ("skip", "#main")
    for _, attributes in found.elements:
        for name_of, value in attributes.items():
            assert name_of not in ("src", "srcset", "action")
            assert not name_of.startswith("on")
            assert name_of != "href" or str(value).startswith(("#", "data:"))
    for section in found.all("section"):
        assert section["aria-labelledby"] in ids


def test_charts_have_words_and_tables_have_heads(pocket_page: Path) -> None:
    found = Parsed(pocket_page.read_text())
    panels = json.loads(found.scripts["charts"])["panels"]
    charts = {div["id"]: div for div in found.all("div") if div.get("class") == "chart"}
    assert set(charts) == set(panels)
    assert {name.rpartition("-")[0] for name in panels} == set(FIGURES) - {"layer"}
    for name, div in charts.items():
        assert div["role"] == "img"
        assert div["aria-label"] == panels[name]["description"]
        assert len(str(div["aria-label"])) > 40
    assert [svg for svg in found.all("svg") if svg["role"] == "img" and "embeddings" in str(svg["aria-label"])]
    assert len(found.all("caption")) == len(found.all("table")) > 5
    assert {cell.get("scope") for cell in found.all("th")} == {"col", "row"}
    for div in found.all("div"):
        if div.get("class") == "scroll":
            assert (div["tabindex"], div["role"]) == ("0", "region")
            assert div["aria-label"]


def test_findings_come_first_and_in_words(minilm_page: Path) -> None:
    found = Parsed(minilm_page.read_text())
    text = " ".join(" ".join(found.words).split())
    assert text.index("by its numbers: untrained") < text.index("Facts ") < text.index("Singular values ")
    for finding in found.data["findings"]:
        if finding["part"] != "intermediate.5":  # told together with another
            assert finding["message"] in text
            assert finding["hint"] in text


def test_histograms_have_common_axes(pocket_page: Path) -> None:
    panels = json.loads(Parsed(pocket_page.read_text()).scripts["charts"])["panels"]
    for name in ("weights", "neurons", "spectrum"):
        scales = {
            json.dumps([layer["encoding"][axis]["scale"] for axis in "xy"])
            for key, spec in panels.items()
            if key.startswith(f"{name}-")
            for layer in spec["layer"]
            if {"x", "y"} <= layer["encoding"].keys()
        }
        assert len(scales) == 1


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return sum(c * w for c, w in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))

    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("palette", PALETTES)
def test_colours_can_be_read(palette: str) -> None:
    """4.5 for text, 3 for lines and marks: WCAG 2.2, 1.4.3 and 1.4.11."""
    colours = PALETTES[palette]
    for ground in ("paper", "wash", "tint", "tint-odd"):
        assert contrast(colours["ink"], colours[ground]) > 7
        assert contrast(colours["soft"], colours[ground]) > 4.5
    for mark in ("plain", "odd", "mark", "line"):
        assert contrast(colours[mark], colours["paper"]) > (3 if mark == "line" else 4.5)


# ------------------------------------------------------------------------------------------------ hostile text


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tensor names, activation and one token are pieces of HTML."""
    from transformers import BertTokenizer

    folder = tmp_path_factory.mktemp("hostile") / "<img src=x onerror=window.hit=2>"
    folder.mkdir()
    zoo.save("bert", folder)
    tokenizer = BertTokenizer(vocab={word: at for at, word in enumerate(WORDS)})
    tokenizer.add_tokens([EVIL])
    tokenizer.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({f"{EVIL}.bert.{name}": tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


def test_foreign_text_stays_text(hostile: Path, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "r.html"
    texts = [f"a {EVIL} \u202eevil", "<b>bold</b> & b"]
    found = written(run, hostile, *texts, "-o", file)
    assert found.data["texts"][0]["tokens"] == ["[CLS]", "a", EVIL, "[UNK]", "[SEP]"]
    assert len(found.all("script")) == 4
    assert not found.all("img") + found.all("b")
    text = " ".join(found.words)
    assert EVIL in text
    assert "<b>bold</b> & b" in text
    assert "\u202e" not in text
    assert "\\u202eevil" in text
    source = file.read_text()
    assert source.count("</script>") == source.count("<script") == 4
    with open_browser(tmp_path) as browser:
        browser.open(file)
        assert browser.value("typeof window.hit") == "undefined"
        assert browser.value("document.scripts.length") == 4
        assert browser.messages() == []


# ------------------------------------------------------------------------------------------------ sizes, figures


def test_pages_are_small(minilm_page: Path) -> None:
    assert minilm_page.stat().st_size < 2_000_000


def test_the_largest_page_of_a_model_of_the_shape_of_bert_base(pocket: Report, tmp_path: Path) -> None:
    """As many texts and tokens as fit, each as wide as there, from the numbers of pocket over and over."""
    data = json.loads(json.dumps(pocket.data))
    labels = [f"intermediate.{i}" for i in range(12)]
    tokens = ["harbour"] * (MOST_CELLS // 12 // MOST_TEXTS)
    text = {**data["texts"][0], "tokens": tokens}
    for kind in ("pooled", "cls", "mean"):
        text[kind]["values"] *= 6
    for part in data["parts"]:
        part["spectrum"]["sigmas"] = [sigma for sigma in part["spectrum"]["sigmas"] for _ in range(6)]
    row = data["activations"]["tokens"][1]
    rms = [data["activations"]["heat"]["rms"][0][1]] * len(tokens) * MOST_TEXTS
    data["texts"] = [text] * MOST_TEXTS
    data["similarity"] = {kind: [[0.123456789012345] * MOST_TEXTS] * MOST_TEXTS for kind in ("pooled", "cls", "mean")}
    data["activations"] = {
        "layers": [{**data["activations"]["layers"][0], "label": label} for label in labels],
        "tokens": [{**row, "label": la, "text": n + 1} for la in labels for n in range(MOST_TEXTS) for _ in tokens],
        "heat": {"layers": labels, "tokens": tokens * MOST_TEXTS, "rms": [rms] * 12},
    }
    data["parts"] = [*data["parts"] * 3][:13]
    size = html.write(Report(data, pocket.views, pocket.findings), Output(tmp_path / "r.html"))
    assert 3_000_000 < size < LIMIT


MAGIC = {".png": b"\x89PNG\r\n\x1a\n", ".svg": b"<svg", ".pdf": b"%PDF-"}


@pytest.mark.parametrize("suffix", MAGIC)
@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_in_every_format(figure: str, suffix: str, pocket: Report, tmp_path: Path) -> None:
    file = tmp_path / f"f{suffix}"
    assert html.write(pocket, Output(file), figure) == file.stat().st_size
    content = file.read_bytes()
    assert content.startswith(MAGIC[suffix])
    assert len(content) > 2000
    if suffix == ".svg":
        assert b"var(--" not in content
        assert b"NaN" not in content


# ------------------------------------------------------------------------------------------------ odd checkpoints


def broken(change: Any) -> dict[str, Any]:
    return {name: change(tensor.copy()) for name, tensor in tensors_of(2, 64, 256).items()}


def with_nan(tensor: Any) -> Any:
    tensor.flat[0] = np.nan
    return tensor


ODD = {
    "one NaN": with_nan,
    "NaN": lambda tensor: tensor * np.nan,
    "constant": lambda tensor: np.full_like(tensor, 0.5),
    "zero": np.zeros_like,
    "empty": lambda tensor: tensor[:0],
    "huge": lambda tensor: tensor.astype(np.float64) * 1e200,
    "small": lambda tensor: tensor * np.float32(1e-36),
    "integers": lambda tensor: (tensor * 1000).astype(np.int8),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_weights_give_a_page(kind: str, run: Run, tmp_path: Path) -> None:
    found = written(run, lay(tmp_path / "m", broken(ODD[kind])), "-o", tmp_path / "r.html")
    assert found.data["texts"] == []
    assert "NaN" not in found.scripts["charts"]


@pytest.mark.parametrize("family", ["distilbert", "modernbert", "albert", "mobilebert", "lxmert", "fnet"])
def test_other_families_give_a_page(family: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    zoo.save(family, tmp_path / "m")
    found = written(run, tmp_path / "m", "-o", tmp_path / "r.html")
    words = " ".join(found.words)
    assert ("no pooler here" in words) == (found.data["layer"]["pooler"] is None)
    assert ("(gate) × up" in words) == found.data["layer"]["gated"]


def test_texts_may_be_empty_or_one(run: Run, tmp_path: Path) -> None:
    found = written(run, "pocket", "", "-o", tmp_path / "r.html")
    assert found.data["texts"][0]["tokens"] == ["[CLS]", "[SEP]"]
    assert found.data["similarity"] == {}
    assert "similarity-0" not in found.scripts["charts"]


def test_a_model_without_a_pooler_runs_texts(minilm: Path, run: Run, tmp_path: Path) -> None:
    tensors = load_file(minilm / "model.safetensors")
    folder = lay(tmp_path / "m", {n: t for n, t in tensors.items() if "pooler" not in n})
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_bytes((minilm / name).read_bytes())
    found = written(run, folder, *TEXTS[:2], "-o", tmp_path / "r.html")
    assert found.data["texts"][0]["pooled"] is None
    assert found.data["similarity"]["pooled"] is None
    panels = json.loads(found.scripts["charts"])["panels"]
    assert not [name for name in panels if name.startswith("pooled")]
    assert len([name for name in panels if name.startswith("similarity")]) == 2


def test_a_model_on_the_hub(tiny_bert: Path, hub: Hub, run: Run, tmp_path: Path) -> None:
    hub.add("someone/tiny", {path.name: path for path in tiny_bert.iterdir()})
    found = written(run, "someone/tiny", "-o", tmp_path / "r.html")
    assert str(found.data["facts"]["resolved"]).startswith("hf://someone/tiny@")
    assert found.data["facts"]["bytes_read"] < found.data["facts"]["bytes_total"]


# ------------------------------------------------------------------------------------------------ the command


def test_the_command_says_where_it_wrote(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "r.html"
    ran = run(["report", "pocket", "-o", file, "--json"])
    data = json.loads(ran.out)
    assert data["written"] == {"path": str(file), "bytes": file.stat().st_size, "figure": None}
    assert data["texts"] == []
    ran = run(["report", "pocket", "-o", tmp_path / "r.png", "--figure", "spectrum"])
    assert "spectrum" in ran.out
    assert (tmp_path / "r.png").read_bytes().startswith(MAGIC[".png"])


def test_nothing_is_overwritten_unasked(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "r.html"
    file.write_text("mine")
    ran = run(["report", "pocket", "-o", file])
    assert (ran.code, file.read_text()) == (1, "mine")
    assert "--force" in ran.err
    assert run(["report", "pocket", "-o", file, "--force"]).code == 0
    assert file.read_text().startswith("<!DOCTYPE html>")
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["-o", "r.png"], 2, "layer, weights, neurons, spectrum"),
        (["-o", "r.png", "--figure", "nose"], 2, "layer, weights, neurons, spectrum"),
        (["-o", "r.html", "--figure", "layer"], 2, "--figure"),
        (["-o", "r.pdf", "--figure", "tokens"], 2, "texts"),
        (["-o", "r.docx"], 1, ".html, .png, .svg or .pdf"),
        (["-o", "nowhere/r.html"], 1, "no folder"),
        (["-o", "r.html", *(["a"] * 25)], 2, "24"),
        (["-o", "r.html", *(["a " * 120] * 24)], 1, "fewer or shorter"),
        (["-o", "r.html", "a " * 2000], 1, "--truncate"),
        (["-o", "r.png", "a", "--figure", "similarity"], 1, "two texts"),
    ],
)
def test_what_cannot_be_had_is_told_in_a_line(
    argv: list[str], code: int, words: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run(["report", "pocket", *argv])
    assert ran.code == code
    assert ran.out == ""
    assert words in re.sub(r"[│\s]+", " ", ran.err)
    assert code == 2 or len(ran.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_plotting_library_is_asked_for_by_name(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "find_spec", lambda name: None)
    ran = run(["report", "pocket", "-o", tmp_path / "r.html"])
    assert ran.code == 1
    assert "altair and vl_convert are not installed; pip install 'bertprobe[report]'" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_figure(run: Run) -> None:
    text = re.sub(r"[│\s]+", " ", run(["report", "--help"]).out)
    for name in FIGURES:
        assert name in text
    assert all(suffix in text for suffix in SUFFIXES)


# ------------------------------------------------------------------------------------------------ in a browser


def open_browser(profile: Path) -> Browser:
    program = executable()
    if program is None:
        pytest.skip("there is no Chromium to open the page in: apt-get install chromium")
    return Browser(program, profile / "profile")


@pytest.fixture(scope="module")
def shared_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture
def browser(shared_browser: Browser) -> Browser:
    shared_browser.events.clear()
    return shared_browser


PAGES = ["pocket_page", "minilm_page"]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize("name", PAGES)
def test_no_message_no_request_no_sideways_scrolling(
    name: str, width: int, dark: bool, browser: Browser, request: pytest.FixtureRequest
) -> None:
    file = request.getfixturevalue(name)
    browser.open(file, width=width, dark=dark)
    assert browser.value("document.querySelectorAll('.chart').length") > 10
    assert browser.value("[...document.querySelectorAll('.chart')].every(c => c.querySelector('svg path'))")
    assert browser.value("document.documentElement.scrollWidth") == width
    assert browser.value("document.fonts.size") == 0
    ground = browser.value("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)")
    assert browser.messages() == []
    assert browser.requests() == [file.resolve().as_uri()]


def test_the_browser_would_have_told(browser: Browser, pocket_page: Path) -> None:
    """What the tests above rest on: messages and requests are seen, and the page's policy forbids requests."""
    browser.open(pocket_page)
    browser.value("console.log('here'); fetch('http://127.0.0.1:9/x').catch(() => 0)")
    browser.value("new Promise(done => setTimeout(done, 200))")
    told = " ".join(browser.messages())
    assert "here" in told
    assert "Content Security Policy" in told


def test_charts_follow_the_scheme_without_being_drawn_anew(browser: Browser, pocket_page: Path) -> None:
    bar = "getComputedStyle(document.querySelector('#weights-0 .mark-rect path')).fill"
    browser.open(pocket_page)
    light = browser.value(bar)
    browser.prefer(True)
    dark = browser.value(bar)
    browser.prefer(True, media="print")
    assert (light, dark, browser.value(bar)) == ("rgb(0, 114, 178)", "rgb(86, 180, 233)", light)
    browser.prefer(False)


@pytest.mark.parametrize(
    ("chart", "expected"),
    [
        ("weights-0 .mark-rect", r"from.*to.*weights"),
        ("neurons-1 .mark-symbol", r"neuron.*166.*norm.*robust z"),
        ("spectrum-0 .mark-symbol", r"rank.*σ.*σ / edge"),
        ("tokens-0 .mark-rect", r"token.*\[CLS\].*layer.*0.*rms.*strongest.*\("),
        ("pooled-0 .mark-rect", r"dimension.*value"),
        ("similarity-0 .mark-rect", r"text.*1.*and text.*1.*cosine.*\+1\.00000"),
    ],
)
@pytest.mark.parametrize("width", [400, 1600])
def test_hovering_shows_the_numbers(chart: str, expected: str, width: int, browser: Browser, pocket_page: Path) -> None:
    browser.open(pocket_page, width=width)
    browser.hover(f"#{chart} path")
    browser.wait_for("!!document.querySelector('#vg-tooltip-element.visible')")
    text = browser.value("document.querySelector('#vg-tooltip-element').innerText")
    assert re.search(expected, " ".join(text.split())), text
    assert browser.value("document.documentElement.scrollWidth") == width


def test_it_can_be_used_with_keys_and_by_ear(browser: Browser, minilm_page: Path) -> None:
    browser.open(minilm_page)
    for kind in ("keyDown", "keyUp"):
        browser.send("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
    assert browser.value("document.activeElement.className") == "skip"
    assert browser.value("document.activeElement.getBoundingClientRect().left") >= 0
    nodes = browser.send("Accessibility.getFullAXTree")["nodes"]
    images = [n["name"]["value"] for n in nodes if n.get("role", {}).get("value") == "image" and not n["ignored"]]
    assert len([name for name in images if name.startswith("Singular values of")]) == 7
    assert all(images)


def test_it_prints(browser: Browser, pocket_page: Path, tmp_path: Path) -> None:
    browser.open(pocket_page, dark=True)
    browser.print(tmp_path / "r.pdf")
    assert (tmp_path / "r.pdf").read_bytes().startswith(b"%PDF")
    assert browser.value("document.querySelectorAll('details[open]').length") == 1
    assert browser.messages() == []
    browser.prefer(False)
