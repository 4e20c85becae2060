"""A run into a folder that fsspec reaches: the same files as in a folder of this disk, gone on with in the same way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from conftest import Run

import bertprobe
from bertprobe.corpus import open_corpus
from bertprobe.errors import BadSetting, OutputError
from bertprobe.export.files import RunFolder
from bertprobe.export.places import RemoteRunFolder, is_address, run_place
from bertprobe.extract import Job, Options, Wish, merge_parts, open_activations, prepare
from bertprobe.run import Compute
from bertprobe.sharded import Part

ADDRESS = "memory://bucket/run"
BOTH = Wish(("pooler", "intermediate"), neurons="1:3-40")


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    """The store in memory is one for the process."""
    yield
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    file = tmp_path / "texts.txt"
    file.write_text("".join(f"the ship number {n} left the harbour\n" for n in range(60)))
    return file


def job(corpus: Path, place: str | Path, **options: Any) -> Job:
    model = bertprobe.open("pocket")
    settings = Options(**{"compute": Compute("torch", threads=1), "shard_text": 700, "verify": False, **options})
    return prepare(model.checkpoint, model.anatomy, open_corpus(corpus), place, BOTH, settings)


def stored(address: str) -> dict[str, bytes]:
    files, root = fsspec.core.url_to_fs(address)
    return {Path(name).name: files.cat_file(name) for name in sorted(files.ls(root, detail=False))}


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_which_kind_a_place_is(tmp_path: Path) -> None:
    assert isinstance(run_place(ADDRESS, "head"), RemoteRunFolder)
    assert isinstance(run_place(tmp_path / "new", "head"), RunFolder)
    assert isinstance(run_place(str(tmp_path / "new"), "head"), RunFolder)
    assert not is_address("s3:/bucket")


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_the_same_bytes_as_on_this_disk(scheme: str, corpus: Path, tmp_path: Path) -> None:
    address = ADDRESS if scheme == "memory" else f"file://{tmp_path}/far/run"
    found = job(corpus, address)
    assert found.folder.free is None
    found.check_room()
    found.run()
    job(corpus, tmp_path / "here").run()
    assert stored(address) == bytes_in(tmp_path / "here")
    assert not job(corpus, address).left


def test_a_run_that_is_ended_goes_on(corpus: Path, tmp_path: Path) -> None:
    class Ended(BaseException):
        pass

    job(corpus, tmp_path / "here").run()
    count = 0

    def end(texts: int, tokens: int) -> None:
        nonlocal count
        count += 1
        if count > 1:
            raise Ended

    with pytest.raises(Ended):
        job(corpus, ADDRESS).run(end)
    left = job(corpus, ADDRESS)
    assert 0 < len(left.left) < len(left.shards)
    left.run()
    assert stored(ADDRESS) == bytes_in(tmp_path / "here")


def test_a_file_that_is_gone_or_of_another_size_is_written_again(corpus: Path, tmp_path: Path) -> None:
    job(corpus, ADDRESS).run()
    whole = stored(ADDRESS)
    files, root = fsspec.core.url_to_fs(ADDRESS)
    files.rm_file(f"{root}/shard-00001.safetensors")
    files.pipe_file(f"{root}/shard-00002.documents.parquet", b"half")
    again = job(corpus, ADDRESS)
    assert [shard.number for shard in again.left] == [1, 2]
    again.run()
    assert stored(ADDRESS) == whole


def test_another_run_and_other_files_are_refused(corpus: Path) -> None:
    job(corpus, ADDRESS).run()
    with pytest.raises(OutputError, match=r"bucket/run holds another run: part is nothing there, 2 entries now"):
        job(corpus, ADDRESS, part=Part(1, 2))
    fsspec.filesystem("memory").pipe_file("/other/notes.txt", b"mine")
    with pytest.raises(OutputError, match=r"memory://other holds other files, such as notes\.txt"):
        job(corpus, "memory://other")
    with pytest.raises(BadSetting, match=r"order=neurons.* goes over the files of memory://bucket/run"):
        job(corpus, ADDRESS, order="neurons")


def test_parts_in_a_store_are_merged_once_they_are_fetched(corpus: Path, tmp_path: Path) -> None:
    job(corpus, tmp_path / "here").run()
    for number in (1, 2):
        job(corpus, f"memory://bucket/{number}", part=Part(number, 2)).run()
        files, root = fsspec.core.url_to_fs(f"memory://bucket/{number}")
        files.get(root, str(tmp_path / str(number)), recursive=True)
    merge_parts([open_activations(tmp_path / name) for name in "12"], tmp_path / "whole")
    one, two = (bytes_in(tmp_path / name) for name in ("here", "whole"))
    assert {name: data for name, data in one.items() if name != "manifest.json"}.items() <= two.items()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (
            "nosuch://bucket/run",
            "nosuch://bucket/run cannot be reached (Protocol not known: nosuch); check",
        ),
        ("s3://bucket/run", "s3://bucket/run cannot be reached"),
    ],
)
def test_a_place_that_cannot_be_reached_is_one_line(
    address: str, said: str, corpus: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    ran = run(["extract", corpus, "-o", address, "--no-verify", "--quiet"])
    assert ran.code == 1
    assert said in ran.err
    assert ran.err.count("\n") == 1


def test_neither_user_nor_password_is_shown(corpus: Path, run: Run) -> None:
    ran = run(["extract", corpus, "-o", "nosuch://me:secret@bucket/run", "--no-verify"])
    assert ran.code == 1
    assert "secret" not in ran.err
    assert "nosuch://bucket/run cannot be reached" in ran.err


def test_what_writes_to_folders_only_says_so(corpus: Path, run: Run) -> None:
    ran = run(["neurons", "scan", corpus, "-o", "s3://bucket/scan", "--no-verify"])
    assert ran.code == 1
    assert "name a folder of this disk: only extract writes to an address" in ran.err


def test_on_the_command_line(corpus: Path, run: Run) -> None:
    ran = run(["extract", corpus, "-o", ADDRESS, "--no-verify", "--vector", "mean", "--json"])
    assert ran.code == 0, ran.err
    assert "to write, in 1 shard to memory://bucket/run" in ran.err
    data = json.loads(ran.out)
    assert data["planned"]["free"] is None
    assert data["written"]["path"] == ADDRESS
    assert sorted(stored(ADDRESS)) == ["manifest.json", "shard-00000.documents.parquet", "shard-00000.safetensors"]


def test_a_store_that_fails_while_it_is_written_to_is_one_line(
    corpus: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    def full(*words: Any, **more: Any) -> None:
        raise RuntimeError("the bucket is full\nmore")

    monkeypatch.setattr(MemoryFileSystem, "put_file", full)
    ran = run(["extract", corpus, "-o", ADDRESS, "--no-verify", "--quiet"])
    assert ran.code == 1
    assert "memory://bucket/run could not be written to (the bucket is full); check" in ran.err
