"""`neurons scan` into folders: gone on with after any end to the same bytes, refused where it differs, and merged."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import kills
import numpy as np
import pytest
import zoo
from test_neuron_scan import WORDS, same

import bertprobe
from bertprobe.corpus import open_corpus
from bertprobe.errors import BertprobeError, CorruptFile, NotFound, OutputError, UnsupportedFile
from bertprobe.neurons import Kept, document_of, job
from bertprobe.neurons.folder import open_scan
from bertprobe.neurons.job import Options, ScanJob, prepare_scan
from bertprobe.neurons.merge import merge_scans
from bertprobe.run import Compute, Matrices

OPTIONS = Options(
    kept=Kept(top=3, drawn=8), layers="0,3", shard_text=700, verify=False, compute=Compute(backend="numpy", threads=1)
)


def corpus_at(path: Path, count: int, seed: int) -> Path:
    draw = random.Random(seed)
    path.write_text("".join(" ".join(draw.choices(WORDS, k=draw.randint(0, 30))) + "\n" for _ in range(count)))
    return path


def prepared(folder: Path, *files: Path, options: Options = OPTIONS) -> ScanJob:
    model = bertprobe.open("pocket")
    return prepare_scan(model.checkpoint, model.anatomy, open_corpus([str(f) for f in files]), folder, options)


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return corpus_at(tmp_path / "one.txt", 60, seed=1)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("saving", [1e9, 1e-9])
def test_a_scan_that_is_ended_anywhere_goes_on_to_the_same_bytes(
    text: Path, tmp_path: Path, saving: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "SAVING", saving)
    whole = tmp_path / "whole"
    prepared(whole, text).run()
    shards = len(prepared(whole, text).shards)
    assert shards > 4
    real = ScanJob._with_shard
    for end in range(shards):
        folder = tmp_path / f"ended-{end}"

        def until(*words: Any, end: int = end) -> Any:
            if len(words[1].done) == end:
                raise Killed
            return real(*words)

        with monkeypatch.context() as patched:
            patched.setattr(ScanJob, "_with_shard", until)
            with pytest.raises(Killed):
                prepared(folder, text).run()
        again = prepared(folder, text)
        assert again.resumed
        assert len(again.state.done) == (end if saving > 1 else min(end, 1))
        again.run()
        assert bytes_in(folder) == bytes_in(whole)
    prepared(whole, text).run()
    assert bytes_in(tmp_path / "ended-0") == bytes_in(whole), "a scan that is done may be repeated"


def test_killed_at_random_moments_it_goes_on_and_ends_with_the_same_bytes(text: Path, tmp_path: Path) -> None:
    place = tmp_path / "scan"
    words = ["neurons", "scan", str(text), "-o", str(place), "--shard-text", "700", "--no-verify", "--threads", "1"]
    assert kills.continued(words, place, 4, random.Random(2)) == []


def test_what_is_saved_is_what_was_found(text: Path, tmp_path: Path) -> None:
    """One shard's scan at a time, added by hand."""
    folder = tmp_path / "scan"
    manifest = prepared(folder, text).run()
    found = open_scan(folder)
    again = prepared(tmp_path / "other", text)
    state = again.state
    for shard, documents in again.work.corpus.walk(again.shards):
        state = again._with_shard(state, shard, documents, lambda texts, tokens: None)
    assert list(found.state.sites) == list(state.sites)
    for site, one in found.state.sites.items():
        same(one, state.sites[site])
    assert manifest["documents"] == 60
    assert manifest["complete"]
    assert manifest["tokens"] == sum(shard["done"]["tokens"] for shard in manifest["shards"])
    assert json.loads((folder / "manifest.json").read_text()) == manifest
    assert found.kept == OPTIONS.kept


def test_the_shards_decide_no_number(text: Path, tmp_path: Path) -> None:
    """But for which tokens are drawn, and rounding where a batch is of another width."""
    prepared(tmp_path / "many", text).run()
    prepared(tmp_path / "one", text, options=replace(OPTIONS, shard_text=10**6)).run()
    many, one = (open_scan(tmp_path / name).state for name in ("many", "one"))
    for site, found in one.sites.items():
        other = many.sites[site]
        assert np.allclose(found.sums.means, other.sums.means, atol=1e-5)
        assert np.allclose(found.strongest.values, other.strongest.values, atol=1e-4)
        assert (found.strongest.where == other.strongest.where).mean() > 0.95


def test_two_merged_are_the_scan_of_both(text: Path, tmp_path: Path) -> None:
    second = corpus_at(tmp_path / "two.txt", 45, seed=2)
    prepared(tmp_path / "a", text).run()
    prepared(tmp_path / "b", second).run()
    prepared(tmp_path / "both", text, second).run()
    merge_scans([open_scan(tmp_path / name) for name in "ab"], tmp_path / "merged")
    merged, both = (open_scan(tmp_path / name) for name in ("merged", "both"))
    assert merged.manifest == both.manifest
    for site, found in both.state.sites.items():
        other = merged.state.sites[site]
        same(found, other)
        for name in ("by_position", "squares"):
            assert np.allclose(getattr(found.sums, name), getattr(other.sums, name), rtol=1e-12, atol=1e-12)
        assert document_of(found.strongest.where).max() >= 60


def test_a_merge_of_unlike_scans_is_refused(text: Path, tmp_path: Path) -> None:
    prepared(tmp_path / "a", text).run()
    prepared(tmp_path / "b", text, options=replace(OPTIONS, layers="0")).run()
    folders = [open_scan(tmp_path / name) for name in "ab"]
    with pytest.raises(OutputError, match=r"options\.parts"):
        merge_scans(folders, tmp_path / "merged")
    with pytest.raises(OutputError, match="is there already"):
        merge_scans([folders[0], folders[0]], tmp_path / "a")


def test_another_scan_in_the_folder_is_refused(text: Path, tmp_path: Path) -> None:
    prepared(tmp_path / "scan", text).run()
    with pytest.raises(OutputError, match=r"holds another scan: options\.seed is 0 there, 1 now"):
        prepared(tmp_path / "scan", text, options=replace(OPTIONS, seed=1))
    with pytest.raises(OutputError, match=r"corpus\.files\.0"):
        prepared(tmp_path / "scan", corpus_at(tmp_path / "other.txt", 60, seed=3))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(OutputError, match="holds other files"):
        prepared(tmp_path / "full", text)


def test_a_text_that_is_too_long_is_named(tmp_path: Path) -> None:
    text = tmp_path / "long.txt"
    text.write_text("short\n" + "ship " * 300 + "\n")
    with pytest.raises(BertprobeError, match=r"long\.txt, row 1 from 0 .* has 302 tokens, the model takes 128"):
        prepared(tmp_path / "scan", text).run()
    manifest = prepared(tmp_path / "cut", text, options=replace(OPTIONS, truncate=True)).run()
    assert manifest["truncated"] == 1


def test_a_folder_that_is_no_scan_is_told(text: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"has no manifest\.json"):
        open_scan(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(CorruptFile, match="not the manifest"):
        open_scan(tmp_path)
    folder = tmp_path / "scan"
    prepared(folder, text).run()
    (folder / "neurons.safetensors").write_bytes((folder / "neurons.safetensors").read_bytes()[:-100])
    with pytest.raises(CorruptFile, match="no scan of neurons, or damaged"):
        open_scan(folder)


def test_the_stamp_says_how_far_from_transformers(text: Path, tmp_path: Path) -> None:
    manifest = prepared(tmp_path / "scan", text, options=replace(OPTIONS, verify=True)).run()
    stamp = manifest["verify"]
    assert stamp["holds"]
    assert 0 < stamp["largest_difference"] <= stamp["limit"]
    assert stamp["activation"] == bertprobe.open("pocket").anatomy.config_spec.activation
    assert stamp["texts"] == 8


@pytest.mark.parametrize(("family", "sites"), [("albert", "intermediate.0 (call 1)"), ("modernbert", "intermediate.1")])
def test_other_families_are_scanned(family: str, sites: str, tmp_path: Path) -> None:
    """A module that layers share is a site for each of them; of a gated pair the product is what counts."""
    folder = tmp_path / family
    folder.mkdir()
    zoo.save(family, folder)
    text = tmp_path / "text.txt"
    text.write_text(f"{zoo.save_tokenizer(folder)}\n" * 3)
    model, options = bertprobe.open(str(folder)), Options(Kept(top=2, drawn=5))
    job = prepare_scan(model.checkpoint, model.anatomy, open_corpus([text]), tmp_path / "scan", options)
    assert job.run()["verify"]["holds"]
    found = open_scan(tmp_path / "scan").state.sites
    assert [site.label for site in found] == ["intermediate.0", sites]
    matrices = Matrices({site.part for site in found})
    model.run(text.read_text().splitlines(), matrices)
    for site, scan in found.items():
        values = np.concatenate(matrices.kept[site])
        assert scan.sums.tokens == len(values)
        assert np.allclose(scan.sums.highest, values.max(0), atol=1e-5)
        assert np.allclose(scan.sums.means, values.mean(0, dtype=np.float64), atol=1e-5)


def test_rows_that_are_not_tokens_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "funnel"
    folder.mkdir()
    zoo.save("funnel", folder)
    text = tmp_path / "text.txt"
    text.write_text(zoo.save_tokenizer(folder))
    model = bertprobe.open(str(folder))
    with pytest.raises(UnsupportedFile, match="are not tokens"):
        prepare_scan(model.checkpoint, model.anatomy, open_corpus([text]), tmp_path / "scan")
