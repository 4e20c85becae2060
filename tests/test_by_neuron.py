"""The copy in the order of neurons: the transpose of the shards, whatever their number, and read in their stead."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import kills
import ml_dtypes
import numpy as np
import pytest
import torch
from conftest import Run
from safetensors import safe_open
from safetensors.torch import load_file
from test_extract import ONE, Ended, ended_after, hashes, texts_of

import bertprobe
from bertprobe.corpus import open_corpus
from bertprobe.errors import BadSetting, CorruptFile, OutputError
from bertprobe.extract import (
    ActivationFolder,
    Job,
    Options,
    Wish,
    by_neuron,
    merge_parts,
    open_activations,
    prepare,
    turn,
)
from bertprobe.sharded import WHOLE, Part

LAYERS = Wish(("intermediate",), layers="1-2")


@pytest.fixture(scope="module")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("corpus") / "texts.txt"
    file.write_text("\n".join(texts_of(60)) + "\n")
    return file


def job(corpus: Path, place: Path, wish: Wish = LAYERS, order: str = "neurons", part: Part = WHOLE) -> Job:
    opened = bertprobe.open("pocket")
    options = Options(ONE, shard_text=1500, verify=False, part=part, order=order)
    return prepare(opened.checkpoint, opened.anatomy, open_corpus([str(corpus)]), place, wish, options)


def written(corpus: Path, place: Path, wish: Wish = LAYERS, **options: Any) -> ActivationFolder:
    planned = job(corpus, place, wish, **options)
    planned.run()
    planned.turn()
    return open_activations(place)


def copies(place: Path) -> list[str]:
    return sorted(path.name for path in place.glob("by-neuron.*.safetensors"))


# ------------------------------------------------------------------------------------------------ the numbers


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("kept", ["tokens", "some neurons", "documents"])
def test_it_is_the_transpose_of_the_shards(
    kept: str, dtype: str, corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn, "BLOCK", 50_000)  # some tens of rows, which no shard is a multiple of
    wishes = {
        "tokens": Wish(("intermediate",), layers="1-2", dtype=dtype),
        "some neurons": Wish(("intermediate",), neurons="0:3-5,9,3:7", dtype=dtype),
        "documents": Wish(("pooler", "intermediate"), ("mean",), tokens="max", dtype=dtype),
    }
    found = written(corpus_file, tmp_path / "o", wishes[kept])
    assert len(found.manifest["shards"]) > 3
    assert set(found.manifest["by_neuron"]) == set(found.names)
    shards = [load_file(path) for path in sorted((tmp_path / "o").glob("shard-*.safetensors"))]
    for name, noted in found.manifest["by_neuron"].items():
        file = tmp_path / "o" / noted["file"]
        theirs = load_file(file)
        wanted = torch.cat([shard[name] for shard in shards]).T
        assert list(theirs) == [name]
        assert theirs[name].dtype == wanted.dtype == getattr(torch, dtype)
        assert torch.equal(theirs[name], wanted)
        assert (noted["bytes"], noted["sha256"]) == (
            file.stat().st_size,
            hashlib.sha256(file.read_bytes()).hexdigest(),
        )
        with safe_open(file, "pt") as read:
            assert read.metadata()["order"] == "neurons"
    assert len(copies(tmp_path / "o")) == len(found.names)


def test_a_tensor_is_turned_in_pieces_of_any_size(
    corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(corpus_file, tmp_path / "o")
    wanted = hashes(tmp_path / "o")
    for block in (1, 2048 * 65, 2048 * 600, 2**40):
        for name in copies(tmp_path / "o"):
            (tmp_path / "o" / name).unlink()
        monkeypatch.setattr(turn, "BLOCK", block)
        written(corpus_file, tmp_path / "o")
        assert hashes(tmp_path / "o") == wanted


def test_memory_holds_two_blocks_and_no_tensor(
    corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = job(corpus_file, tmp_path / "o", Wish(("intermediate",), layers="1"))
    planned.run()
    rows = open_activations(tmp_path / "o").layer(1)
    monkeypatch.setattr(turn, "BLOCK", 2**18)
    assert rows.shape[0] * rows.shape[1] * 4 > 9 * 2**18
    tracemalloc.start()
    try:
        planned.turn()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * 2**18 + 2**20 // 4


def test_columns_are_read_from_it_and_are_those_of_the_shards(
    corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = Wish(("pooler", "intermediate"), neurons="1:3-40,77", dtype="bfloat16")
    plain, found = (written(corpus_file, tmp_path / order, wish, order=order) for order in ("corpus", "neurons"))
    whole = plain["intermediate.1"][:]
    rows, pooled = found["intermediate.1"], found["pooler"]
    assert np.array_equal(pooled.neuron(9), plain["pooler"][:][:, 9])
    picked = [
        *(
            (slice(*stretch), column)
            for stretch in ((None,), (5, 900), (900, 5), (None, None, -3))
            for column in (3, -1)
        ),
        *((slice(*stretch), slice(2, 9, 3)) for stretch in ((None,), (100, 101), (40, 2000), (7, None, 11))),
        (slice(None), [3, 1]),
        (slice(3, 9), np.array([38, 0])),
        ([4, 4, 1], 3),
        (7, 3),
        (slice(0, 0), 3),
    ]
    for chosen in picked:
        for read in (rows[chosen], plain["intermediate.1"][chosen]):
            assert read.dtype == ml_dtypes.bfloat16
            assert np.array_equal(read, whole[chosen], equal_nan=True), chosen
    for number in (3, 40, 77):
        for one in (found, plain):
            column = one.neuron(1, number)
            assert type(column) is np.ndarray
            assert np.array_equal(column, whole[:, rows.neurons.index(number)])
    with pytest.raises(IndexError):
        rows[:, 39]
    # And no shard is read for it: with a copy of other numbers, those are what comes.
    changed = tmp_path / "neurons" / found.manifest["by_neuron"]["intermediate.1"]["file"]
    data = bytearray(changed.read_bytes())
    data[-2 * len(whole) :] = bytes(2 * len(whole))
    changed.write_bytes(data)
    again = open_activations(tmp_path / "neurons")
    assert not again.neuron(1, 77).any()
    assert not again["intermediate.1"][:, -1].any()
    assert whole[:, -1].any()


def test_a_column_of_many_shards_is_read_without_the_rest(corpus_file: Path, tmp_path: Path) -> None:
    rows = written(corpus_file, tmp_path / "o", order="corpus")["intermediate.1"]
    seen = []

    class Watched(np.ndarray):  # type: ignore[type-arg]
        def __getitem__(self, key: Any) -> Any:
            part = super().__getitem__(key)
            seen.append(part.size)
            return part

    rows._arrays = [array.view(Watched) for array in rows._arrays]
    assert rows[10:900, 3].shape == (890,)
    assert sum(seen) == 890


# ------------------------------------------------------------------------------------------------ gone on with


def test_two_runs_an_interrupted_one_and_a_later_copy_have_the_same_bytes(corpus_file: Path, tmp_path: Path) -> None:
    written(corpus_file, tmp_path / "a")
    wanted = hashes(tmp_path / "a")
    written(corpus_file, tmp_path / "b")
    assert hashes(tmp_path / "b") == wanted
    place = tmp_path / "c"
    with pytest.raises(Ended):
        job(corpus_file, place).run(ended_after(2))
    job(corpus_file, place).run()
    assert not copies(place)
    first = job(corpus_file, place)
    assert (first.left, len(first.to_turn)) == ((), 2)

    def end(size: int) -> None:
        if copies(place):
            raise Ended

    with pytest.raises(Ended):
        first.turn(end)
    assert copies(place) == ["by-neuron.intermediate.1.safetensors"]
    assert not list(place.glob("*.part"))
    second = job(corpus_file, place)
    assert [tensor.name for tensor in second.to_turn] == ["intermediate.2"]
    kept = (place / "by-neuron.intermediate.1.safetensors").stat()
    second.turn()
    assert (place / "by-neuron.intermediate.1.safetensors").stat() == kept, "what is done is not done again"
    assert hashes(place) == wanted
    plain = tmp_path / "d"
    written(corpus_file, plain, order="corpus")
    assert not copies(plain)
    written(corpus_file, plain)
    assert hashes(plain) == wanted
    assert not job(corpus_file, plain).to_turn


def test_of_a_copy_that_is_gone_or_short_only_that_one_is_written_again(corpus_file: Path, tmp_path: Path) -> None:
    written(corpus_file, tmp_path / "o")
    wanted = hashes(tmp_path / "o")
    first, second = copies(tmp_path / "o")
    (tmp_path / "o" / second).unlink()
    assert [tensor.name for tensor in job(corpus_file, tmp_path / "o").to_turn] == ["intermediate.2"]
    (tmp_path / "o" / second).write_bytes(b"short")
    written(corpus_file, tmp_path / "o")
    assert hashes(tmp_path / "o") == wanted
    (tmp_path / "o" / "shard-00001.safetensors").unlink()
    again = job(corpus_file, tmp_path / "o")
    again.run()
    assert not again.to_turn, "the shard is the same again, and so is the copy"
    assert hashes(tmp_path / "o") == wanted
    assert first == "by-neuron.intermediate.1.safetensors"


def test_killed_before_each_step_it_ends_with_the_same_bytes(corpus_file: Path, tmp_path: Path) -> None:
    words = [*kills.extract_words(corpus_file, tmp_path / "o"), "--order", "neurons"]
    seen: list[int] = []
    assert kills.stepwise(words, tmp_path / "o", seen.append, kills.PRELOADED) > 10
    words[words.index("-o") + 1] = str(tmp_path / "whole")
    with kills.Again(words) as command:
        assert command.run()[0] == 0
    assert len(copies(tmp_path / "whole")) == 2
    assert hashes(tmp_path / "o") == hashes(tmp_path / "whole")


def test_killed_at_random_moments_too(corpus_file: Path, tmp_path: Path) -> None:
    words = [*kills.extract_words(corpus_file, tmp_path / "o"), "--order", "neurons"]
    assert kills.continued(words, tmp_path / "o", 4, random.Random(2)) == []


# ------------------------------------------------------------------------------------------------ not there, not right


def test_without_it_or_with_an_older_one_the_shards_are_read(corpus_file: Path, tmp_path: Path) -> None:
    found = written(corpus_file, tmp_path / "o")
    wanted = found["intermediate.1"][:][:, 5]
    manifest = json.loads((tmp_path / "o" / "manifest.json").read_text())

    def column(**changed: Any) -> Any:
        (tmp_path / "o" / "manifest.json").write_text(json.dumps({**manifest, **changed}))
        return open_activations(tmp_path / "o").neuron(1, 5)

    file = tmp_path / "o" / "by-neuron.intermediate.1.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:8000] + bytes(len(data) - 8000))
    assert not np.array_equal(column(), wanted), "what is noted is read"
    none = {name: value for name, value in manifest.items() if name != "by_neuron"}
    (tmp_path / "o" / "manifest.json").write_text(json.dumps(none))
    assert np.array_equal(open_activations(tmp_path / "o").neuron(1, 5), wanted)
    older = {name: {**copy, "of": "0" * 64} for name, copy in manifest["by_neuron"].items()}
    assert np.array_equal(column(by_neuron=older), wanted), "made from other shards than are there now"
    assert [tensor.name for tensor in job(corpus_file, tmp_path / "o").to_turn] == ["intermediate.1", "intermediate.2"]
    fewer = [*manifest["shards"][:-1], {**manifest["shards"][-1], "done": None}]
    sums = {key: sum(shard["done"][key] for shard in fewer[:-1]) for key in ("documents", "tokens")}
    assert np.array_equal(column(shards=fewer, **sums), wanted[: sums["tokens"]])
    file.unlink()
    assert np.array_equal(column(), wanted)


def test_a_damaged_one_is_told_and_hinders_nothing_else(corpus_file: Path, tmp_path: Path) -> None:
    whole = written(corpus_file, tmp_path / "o")["intermediate.1"][:].copy()
    file = tmp_path / "o" / "by-neuron.intermediate.1.safetensors"
    for data in (file.read_bytes()[:-4], b"x" * file.stat().st_size, b""):
        file.write_bytes(data)
        found = open_activations(tmp_path / "o")
        with pytest.raises(CorruptFile, match=r"by-neuron\.intermediate\.1\.safetensors"):
            found.neuron(1, 5)
        assert np.array_equal(found["intermediate.1"][:], whole)
        assert np.array_equal(found.neuron(2, 5), found["intermediate.2"][:][:, 5])
    shutil.copy(tmp_path / "o" / "by-neuron.intermediate.2.safetensors", file)
    with pytest.raises(CorruptFile, match=r"is not as the manifest says; delete it, and the shards are read"):
        open_activations(tmp_path / "o").neuron(1, 5)


def test_where_there_is_no_order_of_neurons_it_is_refused(corpus_file: Path, tmp_path: Path, run: Run) -> None:
    with pytest.raises(BadSetting, match="keeps other neurons of each row, which have no order"):
        job(corpus_file, tmp_path / "o", Wish(("pooler", "intermediate"), top=3))
    with pytest.raises(BadSetting, match="there is no `order=rows`"):
        job(corpus_file, tmp_path / "o", order="rows")
    words = ["extract", corpus_file, "-o", tmp_path / "o", "--part", "intermediate", "--top", "3", "--order", "neurons"]
    ran = run(words)
    assert (ran.code, ran.out) == (2, "")
    assert (
        "--top keeps other neurons of each row, which have no order; leave out --order, or choose --neurons" in ran.err
    )
    assert not (tmp_path / "o").exists()


def test_parts_are_put_together_first(corpus_file: Path, tmp_path: Path) -> None:
    written(corpus_file, tmp_path / "whole")
    for number in (1, 2):
        place, part = tmp_path / str(number), Part(number, 2)
        with pytest.raises(BadSetting, match="`order=neurons` goes over all shards, `shard=` has some; put the parts"):
            job(corpus_file, place, part=part)
        job(corpus_file, place, order="corpus", part=part).run()
    merge_parts([open_activations(tmp_path / name) for name in "12"], tmp_path / "o")
    again = job(corpus_file, tmp_path / "o")
    assert not again.left
    again.turn()
    for name in copies(tmp_path / "o"):
        assert hashes(tmp_path / "o")[name] == hashes(tmp_path / "whole")[name]
    assert (
        open_activations(tmp_path / "o").manifest["by_neuron"]
        == open_activations(tmp_path / "whole").manifest["by_neuron"]
    )


def test_calls_of_a_shared_module_have_files_of_their_own() -> None:
    names = ["intermediate.0", "intermediate.0 (call 2)", "intermediate.0 (call 12)", "ffn.1.intermediate.0", "pooler"]
    files = [by_neuron.file_of(name) for name in names]
    assert files[1] == "by-neuron.intermediate.0-call-2.safetensors"
    assert len(set(files)) == len(names)


# ------------------------------------------------------------------------------------------------ the plan


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_estimate_counts_it(dtype: str, corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wish = Wish(("pooler", "intermediate"), neurons="1:3-40", dtype=dtype)
    planned = job(corpus_file, tmp_path / "o", wish)
    assert planned.needed == planned.expected_bytes
    half = job(corpus_file, tmp_path / "o", wish, order="corpus").needed
    planned.run()
    rest = planned.needed
    planned.turn()
    size = {path.name: path.stat().st_size for path in (tmp_path / "o").iterdir()}
    assert planned.expected_bytes is not None
    assert abs(planned.expected_bytes / sum(size.values()) - 1) < 0.02
    assert rest == sum(size[name] for name in copies(tmp_path / "o"))
    assert half == planned.expected_bytes - rest
    assert planned.needed == 0
    monkeypatch.setattr(type(planned.folder), "free", 10)
    planned.check_room()
    for name in copies(tmp_path / "o"):
        (tmp_path / "o" / name).unlink()
    with pytest.raises(OutputError, match=rf"needs {rest:,} more bytes, its disk has 10 left"):
        planned.check_room()


def test_the_command_tells_it(corpus_file: Path, tmp_path: Path, run: Run) -> None:
    words = ["extract", corpus_file, "-o", tmp_path / "o", "--threads", "1", "--no-verify", "--order", "neurons"]
    assert "to write, in 1 shard and the order of neurons" in run([*words, "--dry-run"]).out
    ran = run(words)
    assert ran.code == 0, ran.err
    assert "in 1 shard and 30.9 kB in the order of neurons, " in ran.out
    again = run([*words, "--json"])
    assert "is complete: nothing is left to do" in again.err
    copy = {"name": "pooler", "file": "by-neuron.pooler.safetensors"}
    size = (tmp_path / "o" / copy["file"]).stat().st_size
    assert json.loads(again.out)["written"]["by_neuron"] == [{**copy, "bytes": size}]
    (tmp_path / "o" / copy["file"]).unlink()
    assert (
        "going on after 1 of 1 shard: 60 texts, 1,278 tokens: 30.9 kB to write, in the order of neurons"
        in run(words).err
    )
    assert run(words[:-2]).code == 0, "and without the option the folder is the same run"
    assert copies(tmp_path / "o") == [copy["file"]]
