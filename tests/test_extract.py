"""A corpus to a folder: the model's numbers in the corpus's order, the same bytes however often it was ended."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kills
import ml_dtypes
import numpy as np
import pytest
import torch
import zoo
from conftest import Run
from safetensors import safe_open
from safetensors.torch import load_file

import bertprobe
from bertprobe.corpus import open_corpus
from bertprobe.errors import BadSetting, BertprobeError, CorruptFile, NotFound, OutputError, PartMissing
from bertprobe.export import files
from bertprobe.extract import Job, Options, Wish, open_activations, prepare
from bertprobe.extract.rows import strongest_of
from bertprobe.extract.wish import numbers_in
from bertprobe.run import Compute, Matrices, Vectors

WORDS = ["the", "ship", "left", "harbour", "and", "he", "was", "paid", "a", "shilling", "she", "walked", "on"]
ONE = Compute(backend="torch", threads=1)


def texts_of(count: int, seed: int = 7) -> list[str]:
    draw = random.Random(seed)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(1, 40))) for _ in range(count)]
    return ["", "ship", *texts[2:]]


@pytest.fixture(scope="module", autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return texts_of(120)


@pytest.fixture(scope="module")
def corpus_file(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("corpus") / "texts.txt"
    file.write_text("\n".join(texts) + "\n")
    return file


def job(corpus: Path | list[Path], place: Path, wish: Wish = Wish(), model: str = "pocket", **options: Any) -> Job:  # noqa: B008
    opened = bertprobe.open(model)
    files = [str(path) for path in (corpus if isinstance(corpus, list) else [corpus])]
    settings = Options(**{"compute": ONE, "shard_text": 3000, "verify": False, **options})
    return prepare(opened.checkpoint, opened.anatomy, open_corpus(files), place, wish, settings)


def written(corpus: Path | list[Path], place: Path, wish: Wish = Wish(), **options: Any) -> Any:  # noqa: B008
    job(corpus, place, wish, **options).run()
    return open_activations(place)


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


# ------------------------------------------------------------------------------------------------ the numbers


def test_vectors_are_those_of_pool_in_the_order_of_the_corpus(
    texts: list[str], corpus_file: Path, tmp_path: Path
) -> None:
    found = written(corpus_file, tmp_path / "o", Wish(("pooler",), ("cls", "mean")))
    model = bertprobe.open("pocket")
    assert (len(found), found.names) == (120, ("mean", "cls", "pooler"))
    assert len(found.manifest["shards"]) > 3
    for name, vector in (("pooler", "pooled"), ("cls", "cls"), ("mean", "mean")):
        wanted = model.pool(texts, vector=vector, compute=ONE)
        assert np.abs(found[name][:] - wanted).max() < 1e-5
        assert found[name].shape == wanted.shape


def test_where_batches_are_equal_so_are_the_bits(texts: list[str], corpus_file: Path, tmp_path: Path) -> None:
    """One shard is one run of `run_texts`."""
    found = written(corpus_file, tmp_path / "o", Wish(("pooler", "intermediate")), shard_text=10**6)
    vectors, matrices = Vectors("pooled"), Matrices({f"intermediate.{i}" for i in range(4)})
    bertprobe.open("pocket").run(texts, vectors, matrices, compute=ONE)
    assert np.array_equal(found["pooler"][:], vectors.array)
    for site, kept in matrices.kept.items():
        assert np.array_equal(found[site.label][:], np.concatenate(kept))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_safetensors_library_reads_what_torch_would_round(
    dtype: str, texts: list[str], corpus_file: Path, tmp_path: Path
) -> None:
    exact = written(corpus_file, tmp_path / "exact", Wish(("intermediate",), layers="1"))
    found = written(corpus_file, tmp_path / "o", Wish(("intermediate",), layers="1", dtype=dtype))
    shards = sorted((tmp_path / "o").glob("*.safetensors"))
    read = torch.cat([load_file(shard)["intermediate.1"] for shard in shards])
    wanted = torch.from_numpy(exact["intermediate.1"][:].copy()).to(getattr(torch, dtype))
    assert read.dtype == wanted.dtype
    assert torch.equal(read, wanted)
    assert found["intermediate.1"].dtype == (ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    assert np.array_equal(found["intermediate.1"][:].astype(np.float32), wanted.float().numpy())
    with safe_open(shards[0], "pt") as file:
        assert file.metadata()["format"] == "pt"


def test_layers_neurons_tokens_and_top(texts: list[str], corpus_file: Path, tmp_path: Path) -> None:
    whole = written(corpus_file, tmp_path / "all", Wish(("intermediate",)))
    lengths = [len(document) for document in whole]
    starts = np.cumsum(lengths) - lengths
    some = written(corpus_file, tmp_path / "n", Wish(("intermediate",), neurons="0:3-5,9, -1:7"))
    assert some.names == ("intermediate.0", "intermediate.3")
    assert some["intermediate.0"].neurons == (3, 4, 5, 9)
    assert np.array_equal(some["intermediate.0"][:], whole["intermediate.0"][:][:, [3, 4, 5, 9]])
    assert np.array_equal(some.neuron(-1, 7), whole["intermediate.3"][:][:, 7])
    layers = written(corpus_file, tmp_path / "l", Wish(("intermediate",), layers="1,3", tokens="first"))
    assert layers.names == ("intermediate.1", "intermediate.3")
    assert np.array_equal(layers["intermediate.3"][:], whole["intermediate.3"][:][starts])
    largest = written(corpus_file, tmp_path / "m", Wish(("intermediate",), layers="2", tokens="max"))
    assert np.array_equal(largest["intermediate.2"][:], np.maximum.reduceat(whole["intermediate.2"][:], starts))
    means = written(corpus_file, tmp_path / "mean", Wish(("intermediate",), neurons="2:0-9", tokens="mean"))
    wanted = np.add.reduceat(whole["intermediate.2"][:, :10], starts, dtype=np.float64) / np.array(lengths)[:, None]
    assert np.abs(means["intermediate.2"][:] - wanted).max() < 1e-5
    top = written(corpus_file, tmp_path / "t", Wish(("intermediate",), neurons="1:100-299", top=5))
    values, neurons = top["intermediate.1.values"][:], top["intermediate.1.neurons"][:]
    block = whole["intermediate.1"][:][:, 100:300]
    order = np.argsort(-np.abs(block), axis=1, kind="stable")[:, :5]
    assert np.array_equal(neurons, order + 100)
    assert np.array_equal(values, np.take_along_axis(block, order, 1))
    assert neurons.dtype == np.int32


def test_the_strongest_are_the_same_whatever_ties() -> None:
    draw = np.random.default_rng(0)
    values = draw.integers(-3, 4, (200, 40)).astype(np.float32)
    values[5] = 0
    values[6, 3] = np.nan
    for most in (1, 7, 39, 40):
        neurons, strongest = strongest_of(values, most)
        wanted = np.argsort(-np.abs(values), axis=1, kind="stable")[:, :most]
        assert np.array_equal(neurons, wanted)
        assert np.array_equal(strongest, np.take_along_axis(values, wanted, 1), equal_nan=True)


def test_a_shard_of_one_token_and_a_last_partial_batch(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("ship\n\n" + "left harbour\n" * 3)
    found = written(tmp_path / "c.txt", tmp_path / "o", Wish(("intermediate",), layers="0"), shard_text=1)
    assert len(found.manifest["shards"]) == found.documents == 5
    assert [len(document) for document in found][:2] == [3, 2]
    assert found.document(1).tokens == ["[CLS]", "[SEP]"]


@pytest.mark.parametrize("family", ["albert", "modernbert", "distilbert"])
def test_other_families_are_extracted_through_transformers(family: str, minilm: Path, tmp_path: Path) -> None:
    zoo.save(family, tmp_path / "m", vocab_size=30522)
    (tmp_path / "m" / "tokenizer.json").write_bytes((minilm / "tokenizer.json").read_bytes())
    texts = ["a cat", "a cat sat on the mat", "why?"]
    (tmp_path / "c.txt").write_text("\n".join(texts))
    found = written(tmp_path / "c.txt", tmp_path / "o", Wish(("intermediate",), ("mean",)), model=str(tmp_path / "m"))
    matrices, vectors = (
        Matrices({p.label for p in bertprobe.open(tmp_path / "m").anatomy.of("intermediate", "gate")}),
        Vectors("mean"),
    )
    bertprobe.open(tmp_path / "m").run(texts, matrices, vectors)
    assert set(found.names) == {site.label for site in matrices.kept} | {"mean"}
    for site, kept in matrices.kept.items():
        assert np.abs(found[site.label][:] - np.concatenate(kept)).max() < 1e-5
    assert np.abs(found["mean"][:] - vectors.array).max() < 1e-5  # type: ignore[operator]


# ------------------------------------------------------------------------------------------------ reading


def test_documents_know_where_they_stood(tmp_path: Path) -> None:
    texts = texts_of(30)
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"text": t, "key": f"k{i}"}) + "\n" for i, t in enumerate(texts))
    )
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "ship " * 300, "key": 7}) + "\n")
    opened = bertprobe.open("pocket")
    corpus = open_corpus([str(tmp_path / "*.jsonl")], id_field="key")
    settings = Options(ONE, truncate=True, shard_text=900, verify=False)
    prepare(
        opened.checkpoint, opened.anatomy, corpus, tmp_path / "o", Wish(("intermediate",), layers="0"), settings
    ).run()
    found = open_activations(tmp_path / "o")
    assert (len(found), found.manifest["truncated"]) == (31, 1)
    for number, document in enumerate(found):
        assert (document.number, document.file, document.row) == (number, number // 30, number % 30)
        assert document.id == ("7" if number == 30 else f"k{number}")
        assert len(document.tokens) == len(document.ids) == len(document) == len(document["intermediate.0"])
    assert document.truncated > 0
    ids = opened.run  # the tokens are the model's own
    assert ids
    assert found.document(3).tokens[0] == "[CLS]"
    with pytest.raises(PartMissing, match="no document 31"):
        found.document(31)
    with pytest.raises(PartMissing, match="was not kept"):
        found["pooler"]
    assert "31 documents" in repr(found)


def test_rows_are_read_across_shards(corpus_file: Path, tmp_path: Path) -> None:
    found = written(corpus_file, tmp_path / "o", Wish(("intermediate",), layers="2"))
    rows = found.layer(2)
    whole = np.concatenate([document["intermediate.2"] for document in found])
    assert rows.shape == whole.shape == (found.tokens, 512)
    assert np.array_equal(rows[:], whole)
    assert np.array_equal(rows[500:1700], whole[500:1700])
    assert np.array_equal(rows[-1], whole[-1])
    assert np.array_equal(rows[[1500, 3, 3, -2]], whole[[1500, 3, 3, -2]])
    assert np.array_equal(rows[::-7], whole[::-7])
    assert np.array_equal(np.asarray(rows, np.float16), whole.astype(np.float16))
    assert rows[5:5].shape == (0, 512)
    assert np.array_equal(rows[40:50, [3, 1]], whole[40:50, [3, 1]])
    assert rows[7, 3] == whole[7, 3]
    assert isinstance(rows[0:10].base, np.memmap), "within a shard nothing is copied"
    with pytest.raises(IndexError):
        rows[[len(rows)]]


def test_blocks_have_each_row_once_and_of_all_tensors_the_same(corpus_file: Path, tmp_path: Path) -> None:
    found = written(corpus_file, tmp_path / "o", Wish(("pooler", "intermediate"), layers="1-2", dtype="bfloat16"))
    names = ("intermediate.1", "intermediate.2")
    whole = {name: found[name][:] for name in names}
    in_order = list(found.blocks(names, rows=300, seed=None))
    assert [len(b["intermediate.1"]) for b in in_order[:-1]] == [300] * (len(in_order) - 1)
    assert np.array_equal(np.concatenate([b["intermediate.1"] for b in in_order]), whole["intermediate.1"])
    blocks, again, other = (list(found.blocks(names, rows=100, seed=seed)) for seed in (3, 3, 4))
    first = np.concatenate([b["intermediate.1"] for b in blocks])
    assert {len(b["intermediate.1"]) for b in blocks[:-1]} == {100}
    assert np.array_equal(first, np.concatenate([b["intermediate.1"] for b in again]))
    assert not np.array_equal(first, np.concatenate([b["intermediate.1"] for b in other]))
    both = [
        np.concatenate([np.concatenate([b[name] for b in part]) for name in names], 1) for part in (blocks, in_order)
    ]
    ordered = [rows[np.lexsort(rows.T.astype(np.float32))] for rows in both]
    assert np.array_equal(*ordered)
    tensors = next(found.blocks("intermediate.1", rows=64, library="torch"))["intermediate.1"]
    assert (tensors.dtype, tuple(tensors.shape)) == (torch.bfloat16, (64, 512))
    with pytest.raises(ValueError, match="in turn"):
        found.blocks()
    with pytest.raises(ValueError, match="library"):
        found.blocks("pooler", library="jax")


def test_a_dataset_of_huggingface(corpus_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    found = written(corpus_file, tmp_path / "o", Wish(("pooler", "intermediate"), neurons="1:3-5"))
    rows = list(found.dataset("intermediate.1"))
    assert len(rows) == found.tokens
    assert [row["token"] for row in rows[: len(found.document(0))]] == found.document(0).tokens
    assert np.array_equal(np.array([row["intermediate.1"] for row in rows], np.float32), found["intermediate.1"][:])
    assert [row["document"] for row in found.dataset("pooler")] == list(range(len(found)))


def test_a_folder_that_is_none_or_damaged_is_told(corpus_file: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no manifest\.json"):
        open_activations(tmp_path)
    found = written(corpus_file, tmp_path / "o")
    (tmp_path / "o" / "shard-00001.safetensors").write_bytes(b"short")
    with pytest.raises(CorruptFile, match=r"shard-00001\.safetensors is gone"):
        found["pooler"]
    (tmp_path / "o" / "manifest.json").write_text("[]")
    with pytest.raises(CorruptFile, match="not the manifest"):
        open_activations(tmp_path / "o")
    (tmp_path / "o" / "manifest.json").write_text('{"format": "bertprobe activations", "layout": 9}')
    with pytest.raises(OutputError, match="layout 9"):
        open_activations(tmp_path / "o")


# ------------------------------------------------------------------------------------------------ the plan


WISHES = {
    "pooler": Wish(("pooler",)),
    "cls and mean": Wish((), ("cls", "mean")),
    "all tokens": Wish(("intermediate",), layers="0"),
    "first": Wish(("intermediate",), tokens="first"),
    "mean": Wish(("intermediate",), neurons="0:0-99", tokens="mean"),
    "top": Wish(("intermediate",), top=3),
    "both": Wish(("pooler", "intermediate"), neurons="1:3-40"),
}


def of_a_dtype(wish: Wish, dtype: str) -> Wish:
    return Wish(wish.parts, wish.vectors, wish.layers, wish.neurons, wish.tokens, wish.top, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", WISHES)
def test_the_estimate_is_within_two_percent(name: str, dtype: str, corpus_file: Path, tmp_path: Path) -> None:
    planned = job(corpus_file, tmp_path / "o", of_a_dtype(WISHES[name], dtype))
    planned.run()
    size = sum(path.stat().st_size for path in (tmp_path / "o").iterdir())
    assert planned.expected is not None
    assert planned.expected.exact
    assert (planned.expected.documents, planned.expected.tokens) == (120, planned.manifest["tokens"])
    assert abs(planned.expected.bytes / size - 1) < 0.02


@pytest.mark.parametrize("name", WISHES)
def test_so_is_one_from_a_sample(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertprobe.extract.estimate.SAMPLE", 2**15)
    (tmp_path / "c.txt").write_text("\n".join(texts_of(1500)))
    planned = job(tmp_path / "c.txt", tmp_path / "o", of_a_dtype(WISHES[name], "float16"), shard_text=50_000)
    planned.run()
    size = sum(path.stat().st_size for path in (tmp_path / "o").iterdir())
    assert planned.expected is not None
    assert not planned.expected.exact
    assert planned.expected.documents == 1500
    assert abs(planned.expected.tokens / planned.manifest["tokens"] - 1) < 0.02
    assert abs(planned.expected.bytes / size - 1) < 0.02


def test_what_cannot_fit_is_refused(corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = job(corpus_file, tmp_path / "o")
    planned.check_room()
    monkeypatch.setattr(
        "bertprobe.export.files.shutil.disk_usage", lambda path: os.terminal_size((0, 0)) and _Usage(10)
    )
    with pytest.raises(OutputError, match=r"needs \d+,\d+ more bytes, its disk has 10 left"):
        planned.check_room()
    assert not (tmp_path / "o").exists()


class _Usage:
    def __init__(self, free: int) -> None:
        self.free = free


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        (Wish(("pooler",), layers="0"), "`layers=` is of intermediate modules"),
        (Wish(("intermediate",), layers="0", neurons="0:1"), "both choose layers"),
        (Wish(("pooler",), ("sentence",)), "by themselves"),
        (Wish(prompt="query: "), "`prompt=` goes with"),
        (Wish(("gate",)), "there is no `part=gate`"),
        (Wish(("intermediate",), neurons="1-5"), "not a list of neurons"),
        (Wish(("intermediate",), neurons="1:5-2"), "run backwards"),
        (Wish(("intermediate",), neurons="1:512"), "has no neuron 512"),
        (Wish(("intermediate",), layers="4"), "no layer 4"),
    ],
)
def test_wishes_that_cannot_be(wish: Wish, told: str, corpus_file: Path, tmp_path: Path) -> None:
    with pytest.raises(BertprobeError, match=told) as error:
        job(corpus_file, tmp_path / "o", wish)
    assert isinstance(error.value, (BadSetting, PartMissing))
    assert not (tmp_path / "o").exists()


def test_neurons_are_written_as_runs() -> None:
    assert numbers_in("0-3, 7, 9-10") == [0, 1, 2, 3, 7, 9, 10]


def test_a_text_that_does_not_fit_is_named_by_file_and_row(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("a ship\n" * 3 + "ship " * 300 + "\n")
    with pytest.raises(BertprobeError, match=r"c\.txt: row 3 \(the first is 0\), 'ship .*, has 302 tokens"):
        job(tmp_path / "c.txt", tmp_path / "o")
    (tmp_path / "c.txt").write_text("")
    with pytest.raises(NotFound, match="there is no text"):
        job(tmp_path / "c.txt", tmp_path / "o")


# ------------------------------------------------------------------------------------------------ gone on with


class Ended(Exception):
    pass


def ended_after(batches: int) -> Any:
    count = 0

    def advance(texts: int, tokens: int) -> None:
        nonlocal count
        count += 1
        if count == batches:
            raise Ended

    return advance


TWO = Wish(("pooler", "intermediate"), neurons="1:3-40", dtype="float16")


def test_two_runs_and_an_interrupted_one_have_the_same_bytes(corpus_file: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        job(corpus_file, tmp_path / name, TWO).run()
    wanted = hashes(tmp_path / "a")
    assert hashes(tmp_path / "b") == wanted
    place = tmp_path / "c"
    for batches in (1, 2, 3):
        with pytest.raises(Ended):
            job(corpus_file, place, TWO).run(ended_after(batches))
        assert not [path for path in place.iterdir() if path.suffix == ".part"]
    assert 0 < open_activations(place).documents < 120, "what is there can be read"
    last = job(corpus_file, place, TWO)
    assert last.resumed
    assert last.left
    last.run()
    assert hashes(place) == wanted
    again = job(corpus_file, place, TWO)
    assert not again.left
    assert again.run().documents == 0
    assert hashes(place) == wanted


def test_what_was_left_open_stays_as_it_was_decided(corpus_file: Path, tmp_path: Path) -> None:
    first = job(corpus_file, tmp_path / "o", compute=Compute(backend="numpy", threads=1), shard_text=3000)
    with pytest.raises(Ended):
        first.run(ended_after(2))
    second = job(corpus_file, tmp_path / "o", compute=Compute(), shard_text=None)
    assert second.manifest["compute"]["backend"] == "numpy"
    second.run()


def test_another_run_is_refused_with_what_differs(corpus_file: Path, tmp_path: Path) -> None:
    place = tmp_path / "o"
    job(corpus_file, place, TWO).run()
    before = hashes(place)
    with pytest.raises(OutputError, match=r"holds another run: options\.dtype is float16 there, float32 now"):
        job(corpus_file, place, of_a_dtype(TWO, "float32"))
    with pytest.raises(OutputError, match=r"options\.truncate is False there, True now"):
        job(corpus_file, place, TWO, truncate=True)
    other = tmp_path / "other.txt"
    other.write_text(corpus_file.read_text() + "one more\n")
    with pytest.raises(OutputError, match=r"corpus\.files\.0\.size is [\d]+ there"):
        job(other, place, TWO)
    other.write_text(corpus_file.read_text())
    assert not job(other, place, TWO).left, "the same bytes under another name are the same corpus"
    with pytest.raises(OutputError, match=r"compute\.batch_tokens is 2048 there, 64 now"):
        job(corpus_file, place, TWO, compute=Compute(backend="torch", threads=1, batch_tokens=64))
    assert hashes(place) == before


def test_a_shard_that_is_gone_is_written_again(corpus_file: Path, tmp_path: Path) -> None:
    place = tmp_path / "o"
    job(corpus_file, place, TWO).run()
    before = hashes(place)
    (place / "shard-00001.safetensors").unlink()
    (place / "shard-00002.documents.parquet").write_bytes(b"")
    again = job(corpus_file, place, TWO)
    assert [shard.number for shard in again.left] == [1, 2]
    again.run()
    assert hashes(place) == before


def test_a_folder_with_something_else_is_refused(corpus_file: Path, tmp_path: Path) -> None:
    place = tmp_path / "o"
    place.mkdir()
    (place / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError, match=r"holds other files, such as thesis\.tex"):
        job(corpus_file, place)
    (place / "manifest.json").write_text('{"mine": true}')
    with pytest.raises(CorruptFile, match="not the manifest of activations"):
        job(corpus_file, place)
    with pytest.raises(OutputError, match="no folder"):
        job(corpus_file, corpus_file)
    with pytest.raises(OutputError, match="there is no folder"):
        job(corpus_file, tmp_path / "x" / "y")
    with pytest.raises(OutputError, match="which is being read"):
        job(corpus_file, corpus_file.parent)
    assert (place / "thesis.tex").read_text() == "mine"


def test_a_corpus_that_extract_wrote_is_not_written_over(corpus_file: Path, tmp_path: Path) -> None:
    job(corpus_file, tmp_path / "o").run()
    with pytest.raises(OutputError, match="which is being read"):
        job(tmp_path / "o" / "shard-00000.documents.parquet", tmp_path / "o")


def test_two_runs_at_a_time_do_not_share_a_folder(corpus_file: Path, tmp_path: Path) -> None:
    planned = job(corpus_file, tmp_path / "o")
    with files.RunFolder(tmp_path / "o", "manifest.json"), pytest.raises(OutputError, match="another run is writing"):
        planned.run()
    planned.run()


@pytest.mark.parametrize(("step", "free"), [("posix_fallocate", 2), ("pwrite", 100), ("fsync", 8)])
def test_a_full_disk_is_told_and_gone_on_from(
    step: str, free: int, corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job(corpus_file, tmp_path / "whole").run()
    planned = job(corpus_file, tmp_path / "o")
    real, calls = getattr(os, step), 0

    def full(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > free:
            raise OSError(28, "No space left on device")
        return real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(os, step, full)
        with pytest.raises(OutputError, match=r"No space left on device.*what is finished stays; make room"):
            planned.run()
    assert not [path for path in (tmp_path / "o").iterdir() if path.suffix == ".part"]
    job(corpus_file, tmp_path / "o").run()
    assert hashes(tmp_path / "o") == hashes(tmp_path / "whole")


def test_numbers_that_do_not_fit_are_refused(corpus_file: Path, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    model = bertprobe.open("pocket")
    arrays = {name: np.asarray(array, np.float32) for name, array in bertprobe.read_tensors(model.checkpoint.headers)}
    name = next(n for n in arrays if n.endswith("layer.1.intermediate.dense.bias"))
    folder = tmp_path / "m"
    folder.mkdir()
    for file in ("config.json", "tokenizer.json"):
        (folder / file).write_bytes((Path(bertprobe.__file__).parent / "pocket" / file).read_bytes())
    arrays[name][3] = 1e5
    save_file(arrays, folder / "model.safetensors")
    wish = Wish(("intermediate",), layers="1", dtype="float16")
    with pytest.raises(OutputError, match=r"do not fit into float16: they would be infinite"):
        job(corpus_file, tmp_path / "o", wish, model=str(folder)).run()
    arrays[name][3] = np.nan
    save_file(arrays, folder / "model.safetensors")
    planned = job(corpus_file, tmp_path / "n", wish, model=str(folder))
    planned.run()
    assert [finding.rule for finding in planned.why_not_finite()] == ["not-finite"]


def test_killed_at_random_moments_it_goes_on_and_ends_with_the_same_bytes(corpus_file: Path, tmp_path: Path) -> None:
    """`python tests/kills.py --kills 50 extract` does more of them."""
    place = tmp_path / "o"
    assert kills.continued(kills.extract_words(corpus_file, place), place, 6, random.Random(1)) == []


def test_killed_before_each_step_it_goes_on_and_ends_with_the_same_bytes(corpus_file: Path, tmp_path: Path) -> None:
    """Each run finds what those killed before it have left, and comes a step further."""
    words = kills.extract_words(corpus_file, tmp_path / "o")
    seen: list[int] = []
    steps = kills.stepwise(words, tmp_path / "o", seen.append, kills.PRELOADED)
    assert steps > 10
    with kills.Again(kills.extract_words(corpus_file, tmp_path / "whole")) as command:
        assert command.run()[0] == 0
    assert hashes(tmp_path / "o") == hashes(tmp_path / "whole")


# ------------------------------------------------------------------------------------------------ the command


def test_the_command_tells_plan_and_outcome(corpus_file: Path, tmp_path: Path, run: Run) -> None:
    words = ["extract", corpus_file, "-o", tmp_path / "o", "--shard-text", "6000", "--threads", "1", "--no-verify"]
    planned = run([*words, "--dry-run"])
    assert planned.code == 0
    assert planned.out.startswith("120 texts, 2,727 tokens: ")
    assert not (tmp_path / "o").exists()
    ran = run(words)
    assert ran.code == 0
    assert "bertprobe: 120 texts, 2,727 tokens: 68." in ran.err
    assert f"the disk of {tmp_path}/o has" in ran.err
    assert "tokens/s" in ran.err
    assert ran.out.startswith("120 texts, 2,727 tokens: ")
    assert f"in 2 shards, {tmp_path}/o" in ran.out
    again = run([*words, "--json"])
    assert "is complete: nothing is left to do" in again.err
    data = json.loads(again.out)
    assert (data["run"]["resumed"], data["run"]["documents"], data["written"]["complete"]) == (True, 0, True)
    assert data["written"]["tensors"] == [
        {"name": "pooler", "rows": "documents", "shape": [120, 128], "dtype": "float32"}
    ]
    differs = run([*words, "--dtype", "float16"])
    assert differs.code == 1
    assert "options.dtype is float32 there, float16 now" in differs.err


def test_quiet_says_nothing_but_the_result(corpus_file: Path, tmp_path: Path, run: Run) -> None:
    ran = run(["extract", corpus_file, "-o", tmp_path / "o", "--quiet", "--vector", "mean", "--vector", "cls"])
    assert (ran.code, ran.err) == (0, "")
    assert [line.split()[0] for line in ran.out.splitlines()[1:]] == ["tensor", "mean", "cls"]


def test_wrong_usage_names_options(corpus_file: Path, tmp_path: Path, run: Run) -> None:
    for words, told in (
        (["--top", "3"], "--top is of intermediate modules; add --part intermediate"),
        (["--vector", "sentence", "--part", "pooler"], "--vector sentence runs texts as its recipe has them"),
        (["--prompt", "x"], "--prompt goes with --vector sentence"),
    ):
        ran = run(["extract", corpus_file, "-o", tmp_path / "o", "--no-verify", *words])
        assert ran.code == 2
        assert told in ran.err
    assert run(["extract", corpus_file]).code == 2


def test_sentence_vectors_are_those_of_pool(minilm: Path, tmp_path: Path, run: Run) -> None:
    texts = ["a cat", "a cat sat on the mat", "why?", "ship " * 400]
    (tmp_path / "c.txt").write_text("\n".join(texts))
    words = ["-m", minilm, "--vector", "sentence", "--prompt", "query: "]
    ran = run(["extract", tmp_path / "c.txt", "-o", tmp_path / "o", *words])
    assert ran.code == 0, ran.err
    assert "1 text truncated" in ran.out, "the recipe cuts, as pool has it"
    found = open_activations(tmp_path / "o")
    wanted = bertprobe.open(minilm).pool(texts, vector="sentence", prompt="query: ")
    assert np.abs(found["sentence"][:] - wanted).max() < 1e-5
    other = run(["extract", tmp_path / "c.txt", "-o", tmp_path / "o", *words[:-1], "passage: "])
    assert "options.prompt is query:  there, passage:  now" in other.err


def test_a_corpus_from_stdin_and_from_tables(corpus_file: Path, texts: list[str], tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = written(corpus_file, tmp_path / "txt")["pooler"][:]
    pq.write_table(pa.table({"body": texts, "n": list(range(120))}), tmp_path / "c.parquet")
    words = [sys.executable, "-m", "bertprobe", "extract", "--threads", "1", "--quiet"]
    by_table = [*words, tmp_path / "c.parquet", "--field", "body", "--id-field", "n", "-o", tmp_path / "parquet"]
    subprocess.run(by_table, check=True, capture_output=True)
    with open(corpus_file) as stdin:
        subprocess.run([*words, "-", "-o", tmp_path / "stdin"], check=True, capture_output=True, stdin=stdin)
    for name in ("parquet", "stdin"):
        assert np.abs(open_activations(tmp_path / name)["pooler"][:] - wanted).max() < 1e-5
    assert open_activations(tmp_path / "parquet").document(7).id == "7"
    with open(corpus_file) as stdin:
        ran = subprocess.run([*words, "-", "-o", tmp_path / "stdin"], capture_output=True, text=True, stdin=stdin)
    assert "was made of stdin, which cannot be read again" in ran.stderr


def test_bad_rows_stop_the_run_or_are_counted(tmp_path: Path, run: Run) -> None:
    (tmp_path / "c.jsonl").write_text('{"text": "a ship"}\n{"txt": 1}\n{"text": "left"}\n')
    words = ["extract", tmp_path / "c.jsonl", "-o", tmp_path / "o"]
    ran = run(words)
    assert ran.code == 1
    assert "c.jsonl: row 1" in ran.err
    assert "--skip-bad" in ran.err
    ran = run([*words, "--skip-bad"])
    assert ran.out.startswith("2 texts, 7 tokens, 1 bad row skipped")
    assert [document.row for document in open_activations(tmp_path / "o")] == [0, 2]


def test_the_manifest_carries_a_stamp_of_transformers(corpus_file: Path, tmp_path: Path) -> None:
    planned = job(corpus_file, tmp_path / "o", verify=True)
    planned.run()
    manifest = open_activations(tmp_path / "o").manifest
    stamp = manifest["verify"]
    assert stamp["texts"] == 8
    assert 0 < stamp["largest_difference"] <= stamp["limit"]
    assert stamp["activation"] == manifest["model"]["activation"] == "gelu"
    assert stamp["holds"]
    assert not job(corpus_file, tmp_path / "o").left, "going on needs no second stamp"


def test_numbers_that_are_not_transformers_are_not_written(
    corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bertprobe.verify import Agreement

    wrong = Agreement("intermediate.2", {"torch": 0.03}, None, 0.0, 0.0, 1.0)
    monkeypatch.setattr("bertprobe.sharded.stamp.verify", lambda *words: (wrong,))
    with pytest.raises(BertprobeError, match=r"intermediate\.2 differs from transformers' by 0\.03"):
        job(corpus_file, tmp_path / "o", verify=True)
    assert not (tmp_path / "o").exists()
