"""`neurons atlas`: a page says of every neuron what its card says, in a real browser, whatever stands in the texts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser, executable
from conftest import Run
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from kin import POCKET
from safetensors.numpy import load_file, save_file

import bertprobe
from bertprobe.corpus import open_corpus
from bertprobe.errors import BadSetting, CorruptFile, NotFound, PartMissing, printable
from bertprobe.export.files import Output
from bertprobe.neurons import where_of
from bertprobe.neurons.alike import Layers
from bertprobe.neurons.atlas import Atlas, Examples, LayerAtlas, atlas_of
from bertprobe.neurons.best import NOWHERE, Best, Drawn
from bertprobe.neurons.card import AROUND, Card, Example, card_of, firing_together
from bertprobe.neurons.embedded import Passage
from bertprobe.neurons.entries import Entries, WeightsInWords
from bertprobe.neurons.folder import ScanFolder, open_scan
from bertprobe.neurons.job import Options, prepare_scan
from bertprobe.neurons.ranking import largest
from bertprobe.neurons.scan import SiteScan
from bertprobe.neurons.whole_words import WholeWords
from bertprobe.neurons.windows import read_windows
from bertprobe.render.html.atlas import BITS, atlas_page, write_atlas
from bertprobe.render.html.packing import pack, rounded, unpack
from bertprobe.render.words import four_digits
from bertprobe.report.neurons import spoken
from bertprobe.run.captured import Site

MOST = 4
NEURONS = [(0, 0), (1, 300), (2, 17), (3, 224), (3, 511)]
EVIL = "</script><img src=x onerror=window.hit=1>"


@pytest.fixture(scope="module")
def folder(small_scan: Path) -> ScanFolder:
    return open_scan(small_scan / "scan")


@pytest.fixture(scope="module")
def atlas(folder: ScanFolder) -> Atlas:
    model = bertprobe.open("pocket")
    return atlas_of(folder, model.checkpoint, model.anatomy, MOST)


def cards(folder: ScanFolder) -> Iterator[tuple[int, int, Card]]:
    model = bertprobe.open("pocket")
    for layer, neuron in NEURONS:
        yield layer, neuron, card_of(folder, model.checkpoint, model.anatomy, layer, neuron, MOST)


# ------------------------------------------------------------------------------------------------ what is in it


Shown = tuple[tuple[str, ...], int, float, int, str]


def shown(atlas: Atlas, layer: LayerAtlas, places: np.ndarray, values: np.ndarray) -> list[Shown | None]:
    """Examples as tokens around, place, value, row and file."""
    texts = layer.texts
    found: list[Shown | None] = []
    for place, value in zip(places.tolist(), values.tolist(), strict=True):
        if place == NOWHERE:
            found.append(None)
            continue
        stretch = int(np.searchsorted(texts.bounds, place, side="right")) - 1
        first = max(place - AROUND, int(texts.bounds[stretch]))
        ids = texts.ids[first : min(place + AROUND + 1, int(texts.bounds[stretch + 1]))]
        tokens = tuple(atlas.pieces[id] for id in ids.tolist())
        found.append((tokens, place - first, value, int(texts.rows[stretch]), atlas.files[int(layer.files[stretch])]))
    return found


def told(examples: Any) -> list[Shown | None]:
    return [
        None if one is None else (one.tokens, one.place, one.value, one.row, Path(one.file).name) for one in examples
    ]


def test_every_example_is_that_of_the_card(folder: ScanFolder, atlas: Atlas) -> None:
    for number, neuron, card in cards(folder):
        layer = atlas.layers[number]
        strongest = shown(atlas, layer, layer.strongest.at[neuron], layer.strongest.values[neuron])
        assert strongest == told(card.strongest)
        negative = shown(atlas, layer, layer.negative.at[neuron], layer.negative.values[neuron])
        assert negative == told(card.negative[: MOST // 2])
        assert shown(atlas, layer, layer.random.at, layer.random.values[neuron]) == told(card.random)
        tenths = shown(atlas, layer, layer.of_deciles.at[neuron], layer.of_deciles.values[neuron])
        assert tenths == told(card.of_deciles)
        assert any(one is not None for one in tenths)


def test_every_number_is_that_of_the_card(folder: ScanFolder, atlas: Atlas) -> None:
    for number, neuron, card in cards(folder):
        layer, row = atlas.layers[number], card.row
        for name in ("mean", "std", "min", "max", "above_zero", "before_above_zero", "selectivity"):
            assert layer.numbers[name][neuron] == getattr(row, name)
        assert layer.over[:, neuron].tolist() == list(row.over)
        assert layer.deciles[neuron].tolist() == list(card.deciles)
        assert layer.means[:, neuron].tolist() == [one.mean for one in card.stretches]
        assert [n for n in layer.tokens_by_position.tolist() if n] == [one.tokens for one in card.stretches]


def test_every_word_and_neighbour_is_that_of_the_card(folder: ScanFolder, atlas: Atlas) -> None:
    for number, neuron, card in cards(folder):
        layer = atlas.layers[number]
        head, nearest = card.lens.head, card.lens.nearest
        assert head is not None
        assert nearest is not None
        assert layer.moved is not None
        assert atlas.vocabulary is not None
        assert atlas.vocabulary.transform == head.transform
        for mine, theirs in (
            (layer.nearest, nearest.entries),
            (layer.moved.promoted, head.promoted),
            (layer.moved.suppressed, head.suppressed),
        ):
            assert mine is not None
            assert [atlas.pieces[id] for id in mine.ids[neuron].tolist()] == [word.token for word in theirs]
            assert mine.values[neuron].tolist() == pytest.approx([word.value for word in theirs], abs=1e-5)
        mine = layer.neighbours
        names = [f"{index // 512}.{index % 512}" for index in mine.neurons[neuron].tolist() if index >= 0]
        assert names == [one.name for one in card.together]
        assert mine.shared[neuron].tolist()[: len(names)] == [one.shared for one in card.together]
        correlations = [one.correlation for one in card.together]
        assert mine.correlations[neuron].tolist()[: len(names)] == pytest.approx(correlations, abs=1e-9)


def test_a_scan_that_carries_its_texts_needs_no_corpus(small_scan: Path, atlas: Atlas, tmp_path: Path) -> None:
    model = bertprobe.open("pocket")
    text = tmp_path / "texts.txt"
    shutil.copy(small_scan / "texts.txt", text)
    for name in ("scan", "bare"):
        options = Options(bertprobe.Kept(top=5, drawn=40), verify=False, embed_text=name == "scan")
        prepare_scan(model.checkpoint, model.anatomy, open_corpus([text]), tmp_path / name, options).run()
    text.unlink()
    scan, bare = open_scan(tmp_path / "scan"), open_scan(tmp_path / "bare")
    found = atlas_of(scan, model.checkpoint, model.anatomy, MOST)
    assert found.words == atlas.words
    assert found.pieces == atlas.pieces
    for mine, theirs in zip(found.layers, atlas.layers, strict=True):
        assert mine.texts.ids.tolist() == theirs.texts.ids.tolist()
        assert mine.strongest.at.tolist() == theirs.strongest.at.tolist()
    with pytest.raises(NotFound, match="which was scanned, is not there"):
        atlas_of(bare, model.checkpoint, model.anatomy, MOST)


def test_another_tokenizer_is_told(folder: ScanFolder, atlas: Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
    from bertprobe.neurons import atlas as module

    model = bertprobe.open("pocket")
    streamed = module.stream_texts

    def other(*words: Any) -> Any:
        return replace(streamed(*words), piece=lambda id: "other")

    monkeypatch.setattr(module, "stream_texts", other)
    with pytest.raises(NotFound, match="tokenizer is not the one that was scanned: entry"):
        atlas_of(folder, model.checkpoint, model.anatomy, MOST)


@pytest.mark.parametrize("most", [0, 41])
def test_a_list_without_end_is_refused(most: int, folder: ScanFolder) -> None:
    model = bertprobe.open("pocket")
    with pytest.raises(BadSetting, match=f"{most} entries"):
        atlas_of(folder, model.checkpoint, model.anatomy, most)


def test_another_model_is_refused(small_scan: Path, tiny_bert: Path, tmp_path: Path, run: Run) -> None:
    ran = run(["neurons", "atlas", small_scan / "scan", "-o", tmp_path / "a.html", "-m", tiny_bert])
    assert ran.code == 1
    assert "is not the model that was scanned" in ran.err


# ------------------------------------------------------------------------------------------------ what it is made of


@given(
    arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 300)), elements=st.sampled_from([-2.0, 0.0, 1, 3])),
    st.integers(1, 6),
)
def test_the_largest_are_those_of_a_stable_sort(values: np.ndarray, most: int) -> None:
    columns, best = largest(values, most)
    expected = np.argsort(-values, axis=1, kind="stable")[:, :most]
    width = expected.shape[1]
    assert np.array_equal(columns[:, :width], expected)
    assert np.array_equal(best[:, :width], np.take_along_axis(values, expected, 1))
    assert (columns[:, width:] == -1).all()


def random_scan(draw: np.random.Generator, neurons: int, tokens: int, drawn: np.ndarray) -> SiteScan:
    where = np.array([draw.choice(tokens, 6, replace=False) for _ in range(neurons)], np.int64)
    where[draw.random(where.shape) < 0.1] = NOWHERE
    best = Best(np.zeros(where.shape, np.float32), where)
    values = draw.standard_normal((len(drawn), neurons)).astype(np.float32)
    values[:, 3] = 1
    values[:, 5] = values[:, 4] * 2
    return SiteScan(None, best, best, Drawn(drawn.astype(np.uint64), drawn, values))  # type: ignore[arg-type]


@pytest.mark.parametrize("tokens", [8, 60, 5000])
def test_neighbours_are_those_found_one_by_one(tokens: int) -> None:
    """Tokens that nearly all neurons share, some, or none; a layer over other tokens drawn; constant activations."""
    draw = np.random.default_rng(tokens)
    drawn = [np.arange(12), np.arange(12), np.arange(12) + 1]
    scans = [random_scan(draw, 80, tokens, each) for each in drawn]
    sites = {Site(f"intermediate.{i}", 0): scan for i, scan in enumerate(scans)}
    layers = Layers(scans)
    for number, site in enumerate(sites):
        found = layers.neighbours(number, 5)
        for neuron in range(80):
            expected = list(firing_together(sites, site, neuron, 5))
            mine = found.neurons[neuron]
            pairs = zip(mine.tolist(), found.shared[neuron].tolist(), strict=True)
            assert [(f"{i // 80}.{i % 80}", shared) for i, shared in pairs if i >= 0] == [
                (one.name, one.shared) for one in expected
            ]
            assert found.correlations[neuron][mine >= 0] == pytest.approx([one.correlation for one in expected])


numbers = st.one_of(
    arrays(np.int64, st.integers(0, 9), elements=st.integers(-(2**31), 2**31 - 1)),
    arrays(np.int64, st.integers(0, 9), elements=st.integers(0, 2**32 - 1)),
    arrays(np.int64, st.tuples(st.integers(0, 3), st.integers(1, 3)), elements=st.integers(-1, 300)),
    arrays(np.float32, st.tuples(st.integers(0, 3), st.integers(1, 3)), elements=st.floats(width=32)),
)


@given(st.lists(numbers, max_size=4))
@settings(max_examples=50)
def test_what_is_packed_comes_out(packed: list[np.ndarray]) -> None:
    named = {str(i): array for i, array in enumerate(packed)}
    found = unpack(pack(named))
    assert list(found) == list(named)
    for name, array in named.items():
        assert found[name].shape == array.shape
        assert np.array_equal(found[name], array, equal_nan=True)


def test_too_large_an_integer_is_not_cut() -> None:
    with pytest.raises(OverflowError):
        pack({"one": np.array([2**32])})


@given(arrays(np.float32, 4, elements=st.floats(width=32)))
def test_rounding_is_off_by_half_a_step_at_most(values: np.ndarray) -> None:
    found = rounded(values, BITS)
    assert np.array_equal(np.isfinite(found), np.isfinite(values))
    finite = np.isfinite(values) & (np.abs(values) > 1e-37) & (np.abs(values) < 3e38)
    wide, near = values[finite].astype(np.float64), found[finite].astype(np.float64)
    assert np.all(np.abs(near - wide) <= np.abs(wide) * 2.0 ** -(BITS + 1))
    assert np.all(found[finite].view(np.uint32) % 2 ** (23 - BITS) == 0)


def passages(lengths: list[int]) -> list[Passage]:
    return [
        Passage(number, number + 100, 0, length, np.arange(length) + 1000 * number, np.zeros(length, np.int64))
        for number, length in enumerate(lengths)
    ]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.data())
def test_windows_hold_what_stands_around(lengths: list[int], data: st.DataObject) -> None:
    every = [(d, p) for d, length in enumerate(lengths) for p in range(length)]
    chosen = data.draw(st.lists(st.sampled_from(every), min_size=1, max_size=12))
    where = where_of(*(np.array(column, np.int64) for column in zip(*chosen, strict=True)))
    windows = read_windows(passages(lengths), where, 5)
    few = where[: len(where) // 2 + 1]
    for found, wanted in ((windows, where), (windows.around(few, 3), few)):
        most = 5 if found is windows else 3
        for place, (document, position) in zip(found.at(wanted).tolist(), chosen, strict=False):
            stretch = int(np.searchsorted(found.bounds, place, side="right")) - 1
            first = max(place - most, int(found.bounds[stretch]))
            ids = found.ids[first : min(place + most + 1, int(found.bounds[stretch + 1]))].tolist()
            whole = list(range(1000 * document, 1000 * document + lengths[document]))
            assert ids == whole[max(position - most, 0) : position + most + 1]
            assert found.rows[stretch] == document + 100


def test_a_text_that_is_not_there_is_told() -> None:
    with pytest.raises(CorruptFile, match="text 1 of the scan lacks"):
        read_windows(passages([3]), np.array([1, (1 << 20) + 2]), 5)


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["[CLS]", "ad", "##air", "##s", ",", "he", "[SEP]"], ["[CLS]", *["adairs"] * 3, ",", "he", "[SEP]"]),
        (["▁he", "▁saw", "s", ",", "▁it", "</s>"], ["he", "saws", "saws", ",", "it", "</s>"]),
        (["ĠNew", "ĠYork", "ers", ".", "Ġ", "x"], ["New", "Yorkers", "Yorkers", ".", "x", "x"]),
    ],
)
def test_words_are_whole(pieces: list[str], expected: list[str]) -> None:
    text = Passage(0, 0, 0, len(pieces), np.arange(len(pieces)), np.zeros(len(pieces), np.int64))
    places = np.arange(len(pieces))
    windows = read_windows([text], places, 20)
    words = WholeWords(windows.ids, pieces.__getitem__)
    numbers = words.of(windows, np.append(places, NOWHERE)).tolist()
    assert [words.found[number] for number in numbers[:-1]] == expected
    assert numbers[-1] == NOWHERE


# ------------------------------------------------------------------------------------------------ the file


def test_a_page_is_written_and_never_over_anything(small_scan: Path, tmp_path: Path, run: Run) -> None:
    file, scan = tmp_path / "a.html", tmp_path / "scan"
    shutil.copytree(small_scan / "scan", scan)
    words = ["neurons", "atlas", scan, "--top", "3"]
    ran = run([*words, "-o", file, "--json"])
    assert ran.code == 0, ran.err
    told = json.loads(ran.out)["written"]
    assert told["bytes"] == file.stat().st_size
    assert (told["layers"], told["neurons"]) == (4, 2048)
    before = file.read_bytes()
    again = run([*words, "-o", file])
    assert again.code == 1
    assert "is there already" in again.err
    assert run([*words, "-o", file, "--force"]).code == 0
    assert file.read_bytes() == before  # the same scan, the same page
    for name in ("neurons.safetensors", "a.txt"):
        ran = run([*words, "-o", scan / name, "--force"])
        assert ran.code == 1
        assert "let it end in .html" in ran.err
    (scan / "link.html").symlink_to(scan / "manifest.json")
    (tmp_path / "other.html").hardlink_to(scan / "neurons.safetensors")
    for path in (scan / "link.html", tmp_path / "other.html"):
        ran = run([*words, "-o", path, "--force"])
        assert ran.code == 1
        assert "is being read" in ran.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "other.html", "scan"]


# ------------------------------------------------------------------------------------------------ in a browser


@pytest.fixture(scope="module")
def shared_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = executable()
    if program is None:
        pytest.skip("there is no Chromium to open the page in: apt-get install chromium")
    with Browser(program, tmp_path_factory.mktemp("browser") / "profile") as running:
        yield running


@pytest.fixture
def browser(shared_browser: Browser) -> Browser:
    shared_browser.events.clear()
    return shared_browser


@pytest.fixture(scope="module")
def page(atlas: Atlas, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("atlas") / "atlas.html"
    write_atlas(atlas, Output(file))
    return file


def at(browser: Browser, address: str) -> None:
    browser.wait_for(f"document.documentElement.dataset.shown === {json.dumps(address)}")


def go(browser: Browser, address: str) -> None:
    browser.value(f"location.hash = {json.dumps(address)}")
    at(browser, address)


def press(browser: Browser, key: str, *, text: str = "") -> None:
    codes = {"Enter": 13, "Escape": 27, "ArrowDown": 40, "ArrowUp": 38, "ArrowLeft": 37, "ArrowRight": 39}
    typed = {"text": text or ("\r" if key == "Enter" else key if len(key) == 1 else "")}
    for kind in ("keyDown", "keyUp"):
        more = typed if kind == "keyDown" and typed["text"] else {}
        code = codes.get(key, ord(key[0].upper()))
        browser.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **more)


def texts(browser: Browser, selector: str) -> list[str]:
    found: list[str] = browser.value(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.textContent)")
    return found


def section(browser: Browser, title: str) -> list[list[str]]:
    """The rows of a card's section: of each its parts."""
    return browser.value(  # type: ignore[no-any-return]
        "[...document.querySelectorAll('.block')].find(b => b.querySelector('h2').textContent === "
        f"{json.dumps(title)}) ? [...[...document.querySelectorAll('.block')].find(b => "
        f"b.querySelector('h2').textContent === {json.dumps(title)}).querySelectorAll('li')].map(li => "
        "[...li.children].map(e => e.textContent).filter(Boolean)) : null"
    )


def as_shown(one: Example) -> list[str]:
    text = spoken(one.tokens, one.place, AROUND)
    piece = one.tokens[one.place].removeprefix("##")
    return [four_digits(one.value), text.replace(f"[{piece}]", piece, 1) if f"[{piece}]" in text else text]


@pytest.mark.parametrize("number", range(len(NEURONS)))
def test_a_card_in_the_page_is_the_card(number: int, browser: Browser, page: Path, folder: ScanFolder) -> None:
    layer, neuron, card = list(cards(folder))[number]
    browser.open(page)
    go(browser, f"#{layer}.{neuron}")
    assert texts(browser, ".title") == [f"Neuron {layer}.{neuron}"]
    numbers = dict(zip(texts(browser, ".numbers dt"), texts(browser, ".numbers dd"), strict=True))
    assert numbers["selective"] == four_digits(card.row.selectivity)
    assert numbers["max"] == four_digits(card.row.max)
    assert numbers["> 1"] == f"{100 * card.row.over[1]:.1f} %"
    assert section(browser, "Strongest tokens") == [as_shown(one) for one in card.strongest]
    assert section(browser, "Most negative before the activation") == [as_shown(one) for one in card.negative[:2]]
    assert [row[1] for row in section(browser, "Tokens drawn at random")] == [as_shown(one)[1] for one in card.random]
    tenths = section(browser, "A tenth of its activations each")
    assert [row[-1] for row in tenths] == ["none was drawn" if e is None else as_shown(e)[1] for e in card.of_deciles]
    assert [row[0] for row in tenths][:-1] == [f"up to {four_digits(d)}" for d in rounded(card.deciles, BITS)[1:-1]]
    head, nearest = card.lens.head, card.lens.nearest
    assert head is not None
    assert nearest is not None
    promoted = section(browser, "Its output column promotes")
    assert [row[0] for row in promoted] == [word.token for word in head.promoted]
    assert [float(row[1]) for row in promoted] == pytest.approx([w.value for w in head.promoted], rel=1e-3)
    assert [row[0] for row in section(browser, "Nearest words to its input row")] == [w.token for w in nearest.entries]
    assert "through the model's own head; any direction promotes some words" in texts(browser, ".block p")
    together = [row[0] for row in section(browser, "Neurons that go with it")]
    assert together == [one.name for one in card.together]
    assert len(section(browser, "Its mean by position")) == len(card.stretches)
    assert browser.messages() == []


def test_a_word_finds_the_neurons_that_are_strongest_on_it(browser: Browser, page: Path, atlas: Atlas) -> None:
    expected = {}
    for layer in atlas.layers:
        for neuron in range(512):
            words = [atlas.words[i] for i in layer.words[neuron].tolist() if i >= 0]
            if count := words.count("harbour"):
                value = max(v for w, v in zip(words, layer.strongest.values[neuron], strict=False) if w == "harbour")
                expected[f"{layer.row.layer}.{neuron}"] = (count, float(value))
    browser.open(page)
    press(browser, "/")
    assert browser.value("document.activeElement.id") == "search-box"
    browser.send("Input.insertText", text="Harbour")
    at(browser, "#search/Harbour")
    found = browser.value(
        "(({order, count, value}) => order.map(i => [atlas.name(i), count[i], value[i]]))"
        "(atlas.search('Harbour').strongest)"
    )
    assert {name: (count, pytest.approx(value)) for name, count, value in found} == expected
    counts = [(count, value) for _, count, value in found]
    assert counts == sorted(counts, reverse=True)
    assert len(expected) > 10
    promoted = browser.value("atlas.search('harbour').promoted.order.map(atlas.name)")
    pieces = [[atlas.pieces[i] for i in row] for la in atlas.layers for row in la.moved.promoted.ids.tolist()]  # type: ignore[union-attr]
    assert sorted(promoted) == sorted(f"{i // 512}.{i % 512}" for i, row in enumerate(pieces) if "harbour" in row)
    assert f"{len(expected)} neurons strongest on it" in texts(browser, "#status")[0]
    assert browser.value("atlas.search('harb').words")[0][0] == "harbour"
    assert browser.value("atlas.search('arbou').strongest.order.length") == len(expected)
    assert browser.value("atlas.search('fair').words.map(w => w[0])") == ["fairfax"]
    assert browser.value("atlas.search('no such word').strongest.order.length") == 0


def test_keys_alone_lead_everywhere_and_back(browser: Browser, page: Path) -> None:
    browser.open(page)
    press(browser, "j")
    first = browser.value("document.activeElement.getAttribute('href')")
    assert first == "#layer/0"
    press(browser, "Enter")
    at(browser, "#layer/0")
    assert browser.value("document.activeElement.className") == "title"
    for key in ("j", "ArrowDown", "k"):
        press(browser, key)
    here = browser.value("document.activeElement.getAttribute('href')")
    assert here == browser.value("document.querySelector('#view tbody a').getAttribute('href')")
    outline = browser.value("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    press(browser, "Enter")
    at(browser, here)
    press(browser, "ArrowRight")
    index = browser.value(f"atlas.indexOf({json.dumps(here[1:])})")
    at(browser, "#" + browser.value(f"atlas.name({index + 1})"))
    for address in (here, "#layer/0"):
        press(browser, "Escape")
        at(browser, address)
    assert browser.value("document.activeElement.getAttribute('href')") == here  # where one was
    press(browser, "/")
    browser.send("Input.insertText", text="ship")
    at(browser, "#search/ship")
    assert browser.value("document.getElementById('search-box').getAttribute('aria-expanded')") == "true"
    press(browser, "ArrowDown")
    press(browser, "ArrowDown")
    press(browser, "ArrowUp")
    chosen = browser.value("document.querySelector('[aria-selected=true]').getAttribute('href')")
    assert chosen == browser.value("document.querySelector('[role=option]').getAttribute('href')")
    assert browser.value("document.getElementById('search-box').getAttribute('aria-activedescendant')") == (
        browser.value("document.querySelector('[aria-selected=true]').id")
    )
    press(browser, "Enter")
    at(browser, chosen)
    press(browser, "Escape")
    at(browser, "#search/ship")
    assert browser.value("document.getElementById('search-box').value") == "ship"
    press(browser, "Escape")
    at(browser, "#layer/0")
    press(browser, "Escape")
    at(browser, "")
    assert browser.messages() == []


def test_a_neuron_is_found_by_its_name_and_its_address(browser: Browser, page: Path) -> None:
    browser.open(page)
    press(browser, "/")
    browser.send("Input.insertText", text="3.224")
    at(browser, "#search/3.224")
    press(browser, "Enter")
    at(browser, "#3.224")
    browser.value("history.back()")
    at(browser, "#search/3.224")
    browser.value("history.forward()")
    at(browser, "#3.224")
    browser.send("Page.navigate", url=page.resolve().as_uri() + "#2.17")
    at(browser, "#2.17")
    go(browser, "#9.1")
    assert texts(browser, "#status") == ["There is no 9.1 here"]
    go(browser, "#search/3.9999")
    assert "There is no neuron 3.9999: layers are 0, 1, 2, 3" in texts(browser, "#status")
    go(browser, "#%E0%A4%A")  # not even an address
    assert browser.messages() == []


@pytest.mark.parametrize("sort", ["selectivity", "max", "-max", "-above_zero"])
def test_lists_are_sorted(sort: str, browser: Browser, page: Path, atlas: Atlas) -> None:
    browser.open(page)
    go(browser, f"#layer/2/{sort}")
    values = atlas.layers[2].numbers[sort.removeprefix("-")].astype(np.float32)
    order = np.argsort(values if sort.startswith("-") else -values, kind="stable")
    names = texts(browser, "#view tbody th")
    assert names == [f"2.{i}" for i in order[:100].tolist()]
    browser.value("document.querySelector('.more').click()")
    assert len(texts(browser, "#view tbody th")) == 200
    assert texts(browser, "#view th[aria-sort]")[0].strip("↑↓ ") == {"-above_zero": "> 0"}.get(
        sort, {"selectivity": "selective"}.get(sort, "max")
    )


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_no_message_no_request_no_sideways_scrolling(width: int, dark: bool, browser: Browser, page: Path) -> None:
    browser.open(page, width=width, dark=dark)
    for address in ("#all", "#layer/1/std", "#search/a", "#3.224", "#0.1"):
        go(browser, address)
        assert browser.value("document.documentElement.scrollWidth") == width
    ground = browser.value("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)")
    assert browser.messages() == []
    assert browser.requests() == [page.resolve().as_uri()]


def test_what_a_reader_of_the_screen_is_told(browser: Browser, page: Path) -> None:
    browser.open(page)
    go(browser, "#search/ship")
    nodes = browser.send("Accessibility.getFullAXTree")["nodes"]
    roles = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if "role" in node]
    assert ("combobox", "Search a word, a piece of one, or a neuron") in roles
    assert sum(role == "option" for role, _ in roles) > 5
    assert any(role == "listbox" for role, _ in roles)
    assert any(role == "status" for role, _ in roles)
    assert all(name for role, name in roles if role in ("link", "option", "button"))


HOSTILE = [
    EVIL,
    "<!--<script>",
    "\u202eright to left",
    "nul\x00nul",
    "\ud800lone",
    "line\nend\r\u2028",
    "x" * 5000,
    "שלום",
    "&amp;&lt;",
    "constructor",
    "__proto__",
    "",
]


@pytest.fixture(scope="module")
def hostile(atlas: Atlas) -> Atlas:
    """The same neurons, whose pieces, words, files and model are anything but words."""
    pieces = {id: HOSTILE[i % len(HOSTILE)] for i, id in enumerate(atlas.pieces)}
    words = tuple(HOSTILE[i % len(HOSTILE)] for i in range(len(atlas.words)))
    manifest = {**atlas.folder.manifest, "model": {**atlas.folder.manifest["model"], "ref": EVIL + "\u202e\ud800"}}
    folder = replace(atlas.folder, manifest=manifest, path=Path(f"/{EVIL}"))
    return replace(atlas, pieces=pieces, words=words, files=(f"{EVIL}\u202e.txt",), folder=folder)


def test_foreign_text_stays_text(hostile: Atlas, browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "hostile.html"
    write_atlas(hostile, Output(file))
    source = file.read_text()
    assert source.count("<script") == source.count("</script>")
    assert "\u202e" not in source
    assert EVIL not in source
    browser.open(file, width=360)
    expected = sorted({printable(one) for one in HOSTILE})
    assert browser.value("atlas.strings().then(s => [...new Set(s.pieces)].sort())") == sorted(expected)
    scripts = browser.value("document.scripts.length")
    for address in (
        "#all",
        "#0.0",
        "#3.224",
        "#search/script",
        "#search/%3Cimg",
        "#search/constructor",
        "#search/%D7%A9%D7%9C%D7%95%D7%9D",
    ):
        go(browser, address)
        assert browser.value("document.documentElement.scrollWidth") == 360
        assert browser.value("document.scripts.length") == scripts
        assert browser.value("document.querySelectorAll('img').length") == 0
    assert browser.value("atlas.search('</script>').strongest.order.length") > 0
    assert browser.value("typeof window.hit") == "undefined"
    assert browser.messages() == []
    assert browser.requests() == [file.resolve().as_uri()]


def test_what_a_layer_lacks_is_left_out(atlas: Atlas, browser: Browser, tmp_path: Path) -> None:
    """No head, no embeddings as wide as rows, no neighbours, and a neuron of which no token was kept."""
    layer = atlas.layers[1]
    none = Examples(np.full_like(layer.strongest.at, NOWHERE), np.full_like(layer.strongest.values, -np.inf))
    alone = replace(layer.neighbours, neurons=np.full_like(layer.neighbours.neurons, -1))
    words = np.full_like(layer.words, NOWHERE)
    bare = replace(layer, nearest=None, moved=None, strongest=none, words=words, neighbours=alone)
    file = tmp_path / "bare.html"
    write_atlas(replace(atlas, layers=(atlas.layers[0], bare), vocabulary=None), Output(file))
    browser.open(file)
    go(browser, "#1.3")
    assert section(browser, "Strongest tokens") == []
    assert section(browser, "Its output column promotes") is None
    assert section(browser, "Nearest words to its input row") is None
    assert texts(browser, ".aside .block p")[-1] == "None."
    go(browser, "#0.3")
    assert len(section(browser, "Its output column promotes")) == MOST
    assert browser.messages() == []


def test_entries_beyond_a_small_vocabulary_are_left_out() -> None:
    ids, values = largest(np.array([[1.0, 3.0]], np.float32), 4)
    assert Entries(ids, values).ids.tolist() == [[1, 0, -1, -1]]


def test_what_was_taken_out_is_told(atlas: Atlas) -> None:
    told = {"neurons": "3.5", "means": None}
    options = {**atlas.folder.manifest["options"], "ablation": told}
    folder = replace(atlas.folder, manifest={**atlas.folder.manifest, "options": options})
    assert ", while neurons were taken out: " in "".join(atlas_page(replace(atlas, folder=folder)))
    assert "taken out" not in "".join(atlas_page(atlas)).split("<script")[0]


def test_the_page_comes_in_pieces(atlas: Atlas) -> None:
    """What is seen first stands first: the layers' data are behind the scripts."""
    pieces = list(atlas_page(atlas))
    scripts = next(i for i, piece in enumerate(pieces) if "DecompressionStream" in piece)
    layers = [i for i, piece in enumerate(pieces) if 'id="layer-' in piece]
    assert layers
    assert min(layers) > scripts


@pytest.mark.parametrize("name", ["embeddings.word_embeddings.weight", "encoder.layer.3.output.dense.weight"])
def test_words_of_what_is_no_number_are_left_out(name: str, tmp_path: Path) -> None:
    """An entry that no text has: a scan is none the worse for it, but means over all entries are NaN."""
    shutil.copytree(POCKET, tmp_path / "bad")
    tensors = load_file(POCKET / "model.safetensors")
    stored = next(key for key in tensors if key.endswith(name))
    tensors[stored][-1, -1] = np.nan
    save_file(tensors, tmp_path / "bad" / "model.safetensors")
    weights = WeightsInWords(bertprobe.open(tmp_path / "bad").anatomy)
    assert weights.moved(Site("intermediate.3", 0), 4) is None
    assert (weights.nearest(Site("intermediate.3", 0), 4) is None) == name.startswith("embeddings")


def test_a_scan_that_no_text_ran_through_is_refused(folder: ScanFolder) -> None:
    """A part of a few texts (`--shard`) may have none."""
    model = bertprobe.open("pocket")
    empty = replace(folder, state=replace(folder.state, sites={}))
    with pytest.raises(PartMissing, match="no text ran through"):
        atlas_of(empty, model.checkpoint, model.anatomy, MOST)
    with pytest.raises(PartMissing, match="no text ran through"):
        empty.layer(3)
