"""`--embed-text`: a scan that carries the texts of its examples shows what it would show with the corpus beside it."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run
from hypothesis import given
from hypothesis import strategies as st
from test_neuron_folders import OPTIONS, bytes_in, prepared
from test_neuron_scan import WORDS

import bertprobe
from bertprobe.errors import BadSetting, CorruptFile, NotFound, PartMissing
from bertprobe.neurons import Best, Kept, document_of, embedded, position_of
from bertprobe.neurons.card import Card, card_of
from bertprobe.neurons.embedded import AROUND, EmbeddedTexts, Needed, Passage
from bertprobe.neurons.folder import open_scan
from bertprobe.neurons.job import ScanJob
from bertprobe.neurons.merge import merge_scans
from bertprobe.neurons.record import record_of
from bertprobe.neurons.texts import Texts, texts_of
from bertprobe.notices import told
from bertprobe.sharded import Part

EMBEDDING = replace(OPTIONS, kept=Kept(top=2, drawn=4), layers="3", shard_text=2000, embed_text=True)


def corpus_at(path: Path, count: int, seed: int) -> Path:
    """Texts of up to 120 words, so that windows are shorter than they are."""
    draw = random.Random(seed)
    path.write_text("".join(" ".join(draw.choices(WORDS, k=draw.randint(0, 120))) + "\n" for _ in range(count)))
    return path


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return corpus_at(tmp_path / "one.txt", 24, seed=1)


@pytest.fixture
def scan(tmp_path: Path, text: Path) -> Path:
    prepared(tmp_path / "scan", text, options=EMBEDDING).run()
    return tmp_path / "scan"


def shown(folder: Path, neurons: list[tuple[int, int]]) -> list[tuple[Card, dict[str, Any]]]:
    model, scan = bertprobe.open("pocket"), open_scan(folder)
    return [
        (
            card_of(scan, model.checkpoint, model.anatomy, *neuron, 5),
            record_of(scan, model.checkpoint, model.anatomy, *neuron, 3),
        )
        for neuron in neurons
    ]


def test_without_the_corpus_cards_and_records_are_the_same(text: Path, scan: Path, tmp_path: Path) -> None:
    """Also in a part of a plan, and where the corpus is another one now."""
    neurons = [(3, 17), (3, 500)]
    prepared(tmp_path / "part", text, options=replace(EMBEDDING, part=Part(2, 2), truncate=True)).run()
    there = [shown(folder, neurons) for folder in (scan, tmp_path / "part")]
    text.write_text(text.read_text() + "one more\n")
    assert [shown(folder, neurons) for folder in (scan, tmp_path / "part")] == there
    text.unlink()
    assert [shown(folder, neurons) for folder in (scan, tmp_path / "part")] == there


def test_without_texts_it_is_said_what_is_missing(text: Path, tmp_path: Path) -> None:
    prepared(tmp_path / "scan", text, options=replace(EMBEDDING, embed_text=False)).run()
    text.unlink()
    with pytest.raises(NotFound, match=r"one\.txt, which was scanned, is not there") as caught:
        shown(tmp_path / "scan", [(3, 3)])
    assert "embed_text" in str(caught.value.hint)


def test_the_corpus_is_asked_first(scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertprobe.neurons.texts.embedded_in", lambda *words: pytest.fail("read"))
    shown(scan, [(3, 3)])


@pytest.mark.parametrize("neurons", [1, 2, 512])
def test_texts_are_whole_or_windows_as_the_tokenizer_has_them(text: Path, scan: Path, neurons: int) -> None:
    """Of all neurons of the layer, or as if it had few, which are strongest in few of the texts."""
    job, folder = prepared(scan, text, options=EMBEDDING), open_scan(scan)
    ((site, every),) = folder.state.sites.items()
    strongest = Best(every.strongest.values[:neurons], every.strongest.where[:neurons])
    negative = Best(every.negative.values[: neurons * 5], every.negative.where[: neurons * 5])
    found = replace(every, strongest=strongest, negative=negative, drawn=every.drawn.lowest(min(neurons, 4)))
    passages = list(job._texts(replace(folder.state, sites={site: found})))
    encoded = [job.work.runner.tokenizer.encode(line) for line in text.read_text().splitlines()]
    covered: set[tuple[int, int]] = set()
    last = (-1, -1)
    for passage in passages:
        theirs = encoded[passage.document]
        assert (passage.row, passage.length) == (passage.document, len(theirs))
        assert passage.ids.tolist() == theirs.ids[passage.first : passage.stop].tolist()
        assert (passage.document, passage.first) > last, "in order, and none twice"
        last = (passage.document, passage.stop)
        covered |= {(passage.document, position) for position in range(passage.first, passage.stop)}
    assert (sum(not passage.is_whole for passage in passages) > 2) == (neurons < 512)
    for where in (found.strongest.where.ravel(), found.drawn.where):
        for document in document_of(where[where >= 0]).tolist():
            assert all((document, position) in covered for position in range(len(encoded[document])))
    where = found.negative.where.ravel()
    for document, position in zip(document_of(where).tolist(), position_of(where).tolist(), strict=True):
        around = range(max(position - AROUND, 0), min(position + AROUND + 1, len(encoded[document])))
        assert all((document, place) in covered for place in around)


def test_a_card_from_a_window_is_that_from_the_corpus(text: Path, scan: Path, tmp_path: Path) -> None:
    """Where a document is known in windows only, as the shortest that hold every most negative token."""
    job, folder = prepared(scan, text, options=EMBEDDING), open_scan(scan)
    ((_, found),) = folder.state.sites.items()
    tokens = [(int(document_of(w)), int(position_of(w))) for w in found.negative.where[:40].ravel()]
    wholes = texts_of(folder, job.work.runner.tokenizer, [document for document, _ in tokens])
    needed = Needed(frozenset(), {d: tuple(sorted({p for of, p in tokens if of == d})) for d, _ in tokens})
    cut = {d: list(needed.of_passages(wholes.passages[d])) for d, _ in tokens}
    windows = Texts(cut, wholes.piece)
    assert any(len(found) > 1 for found in cut.values())
    for document, position in tokens:
        one, other = (texts.around(document, position, 12) for texts in (wholes, windows))
        assert (one.first, one.ids.tolist()) == (other.first, other.ids.tolist())
        assert windows.pieces(one) == wholes.pieces(one)


def test_the_manifest_notes_the_file(text: Path, scan: Path) -> None:
    from safetensors.numpy import load_file

    file = scan / "texts.safetensors"
    carried = EmbeddedTexts(file)
    assert open_scan(scan).manifest["texts"] == {
        "file": file.name,
        "bytes": file.stat().st_size,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "around": AROUND,
        "passages": len(carried),
        "tokens": sum(len(passage.ids) for passage in carried),
    }
    theirs = load_file(file)
    assert theirs["passages"].shape == (len(carried), 5)
    assert theirs["ids"].dtype == np.uint16
    tokenizer = prepared(scan, text, options=EMBEDDING).work.runner.tokenizer
    assert all(tokenizer.piece(id) == piece for id, piece in carried.pieces.items())
    assert {id for passage in carried for id in passage.ids.tolist()} == set(carried.pieces)


@given(st.lists(st.integers(0, 199), min_size=1, max_size=12, unique=True))
def test_windows_that_meet_are_one(positions: list[int]) -> None:
    needed = Needed(frozenset(), {7: tuple(sorted(positions))})
    spans = list(needed.spans(7, 200))
    expected = {place for p in positions for place in range(max(p - AROUND, 0), min(p + AROUND + 1, 200))}
    assert [place for first, stop in spans for place in range(first, stop)] == sorted(expected)
    assert all(one[1] < other[0] for one, other in pairwise(spans))
    assert list(needed.spans(8, 200)) == []


def test_texts_may_be_asked_for_later_and_are_begun_again_where_they_were_interrupted(
    text: Path, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = tmp_path / "later"
    prepared(later, text, options=replace(EMBEDDING, embed_text=False)).run()
    real = ScanJob._texts

    def until(self: ScanJob, state: Any) -> Iterator[Passage]:
        for number, passage in enumerate(real(self, state)):
            if number == 5:
                raise KeyboardInterrupt
            yield passage

    with monkeypatch.context() as patched:
        patched.setattr(ScanJob, "_texts", until)
        with pytest.raises(KeyboardInterrupt):
            prepared(later, text, options=EMBEDDING).run()
    assert not (later / "texts.safetensors").exists()
    assert open_scan(later).manifest["complete"]
    prepared(later, text, options=EMBEDDING).run()
    assert bytes_in(later) == bytes_in(scan)
    with monkeypatch.context() as patched:
        patched.setattr(ScanJob, "_texts", lambda *words: pytest.fail("collected again"))
        prepared(later, text, options=EMBEDDING).run()
        prepared(later, text, options=replace(EMBEDDING, embed_text=False)).run()
    assert bytes_in(later) == bytes_in(scan)


@pytest.mark.parametrize("of", ["corpora", "parts"])
def test_a_merge_carries_the_texts_of_all(text: Path, tmp_path: Path, of: str) -> None:
    second = corpus_at(tmp_path / "two.txt", 20, seed=2)
    if of == "corpora":
        prepared(tmp_path / "a", text, options=EMBEDDING).run()
        prepared(tmp_path / "b", second, options=EMBEDDING).run()
    else:
        for number, name in enumerate("ab", 1):
            prepared(tmp_path / name, text, second, options=replace(EMBEDDING, part=Part(number, 2))).run()
    prepared(tmp_path / "both", text, second, options=EMBEDDING).run()
    merge_scans([open_scan(tmp_path / name) for name in "ab"], tmp_path / "merged")
    merged, both = (bytes_in(tmp_path / name) for name in ("merged", "both"))
    assert merged["texts.safetensors"] == both["texts.safetensors"]
    assert json.loads(merged["manifest.json"])["texts"] == json.loads(both["manifest.json"])["texts"]


def test_a_merge_says_which_scan_has_no_texts(text: Path, scan: Path, tmp_path: Path) -> None:
    prepared(tmp_path / "b", text, options=replace(EMBEDDING, embed_text=False)).run()
    said: list[str] = []
    with told(said.append):
        manifest = merge_scans([open_scan(scan), open_scan(tmp_path / "b")], tmp_path / "merged")
    assert said == [f"the texts are left out, as {tmp_path / 'b'} carries none"]
    assert "texts" not in manifest
    assert not (tmp_path / "merged" / "texts.safetensors").exists()


def test_segments_are_kept_where_they_are_not_zero(tmp_path: Path) -> None:
    from bertprobe.export.files import RunFolder

    ids = np.array([70_000, 1, 2])
    passages = [Passage(3, 5, 0, 3, ids, np.array([2, 0, 0])), Passage(9, 8, 4, 20, ids[:2], np.zeros(2, np.int64))]
    with RunFolder(tmp_path / "scan", "manifest.json") as folder:
        embedded.write(folder, passages, lambda id: f"piece {id}")
    again = EmbeddedTexts(tmp_path / "scan" / "texts.safetensors")
    assert again.pieces == {1: "piece 1", 2: "piece 2", 70_000: "piece 70000"}
    for one, other in zip(passages, again, strict=True):
        assert (one.document, one.row, one.first, one.length) == (other.document, other.row, other.first, other.length)
        assert one.ids.tolist() == other.ids.tolist()
        assert one.segments.tolist() == other.segments.tolist()


def test_texts_that_are_gone_or_damaged_are_not_taken_for_others(text: Path, scan: Path) -> None:
    tokenizer = prepared(scan, text, options=EMBEDDING).work.runner.tokenizer
    found, file = open_scan(scan), scan / "texts.safetensors"
    text.unlink()
    data = file.read_bytes()
    for broken in (data[:-2], b"\xff" * len(data)):
        file.write_bytes(broken)
        with pytest.raises(CorruptFile, match="texts"):
            texts_of(found, tokenizer, [0])
    file.unlink()
    with pytest.raises(CorruptFile, match="is gone or not as it was written"):
        texts_of(found, tokenizer, [0])


def test_the_commands(text: Path, tmp_path: Path, run: Run) -> None:
    place = str(tmp_path / "scan")
    words = ["neurons", "scan", str(text), "-o", place, "--no-verify", "--top", "2", "--layers", "0", "--quiet"]
    assert "texts " not in run(words).out
    done = run([*words, "--embed-text"])
    assert "a neuron, beside" in done.out
    text.unlink()
    shown = json.loads(run(["neurons", "show", place, "0.5", "--json"]).out)
    sizes = shown["scan"]["bytes_a_neuron"]
    scan = open_scan(tmp_path / "scan")
    neurons = sum(len(found.sums.squares) for found in scan.state.sites.values())
    assert sizes["texts"] == (tmp_path / "scan" / "texts.safetensors").stat().st_size / neurons
    assert 0 < sizes["examples"] <= 2000
    record = json.loads(run(["neurons", "show", place, "0.5", "--format", "neuron-record"]).out)
    assert record["most_positive_activation_records"]
    assert run(["neurons", "list", place]).code == 0


def test_texts_of_stdin_are_refused_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io
    import sys

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a ship\n")))
    with pytest.raises(BadSetting, match="stdin cannot be read again"):
        prepared(tmp_path / "scan", Path("-"), options=EMBEDDING)


def test_a_scan_from_python_is_that_of_the_command(text: Path, tmp_path: Path, run: Run) -> None:
    words = ["neurons", "scan", text, "-o", tmp_path / "command", "--layers", "0,3", "--top", "3", "--embed-text"]
    assert run([*words, "--quiet", "--truncate"]).code == 0
    model, corpus = bertprobe.open("pocket"), bertprobe.open_corpus(text)
    for _ in range(2):
        scan = model.scan(corpus, tmp_path / "ours", [0, 3], kept=Kept(top=3), truncate=True, embed_text=True)
        assert bytes_in(tmp_path / "ours") == bytes_in(tmp_path / "command")
    found = bertprobe.open_scan(str(tmp_path / "command"))
    assert (scan.documents, scan.tokens) == (found.documents, found.tokens) == (24, found.manifest["tokens"])
    assert repr(found) == f"<ScanFolder {tmp_path / 'command'}: 24 documents, {found.tokens:,} tokens>"
    assert np.array_equal(scan.layer(3).sums.means, found.layer(3).sums.means)
    with pytest.raises(PartMissing, match="layer 1 was not scanned"):
        scan.layer(1)
