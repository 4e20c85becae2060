"""A run in parts: each computed by itself, anywhere, and put together to what one run would have written."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run

import bertprobe
from bertprobe.corpus import Shard, open_corpus, plan
from bertprobe.errors import BadSetting, CorruptFile, OutputError
from bertprobe.export import files
from bertprobe.extract import Job, Options, Wish, merge_parts, open_activations, prepare
from bertprobe.neurons import Kept
from bertprobe.neurons.folder import open_scan
from bertprobe.neurons.job import Options as ScanOptions
from bertprobe.neurons.job import ScanJob, prepare_scan
from bertprobe.neurons.merge import merge_scans
from bertprobe.run import Compute
from bertprobe.sharded import WHOLE, Part

WORDS = ["the", "ship", "left", "harbour", "and", "he", "was", "paid", "a", "shilling", "she", "walked", "on"]
ONE = Compute(backend="torch", threads=1)
BOTH = Wish(("pooler", "intermediate"), neurons="1:3-40")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two files, of which one is cut at line ends and one read through from its beginning."""
    folder, draw = tmp_path_factory.mktemp("corpus"), random.Random(3)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(0, 40))) for _ in range(90)]
    (folder / "one.txt").write_text("\n".join(texts[:60]) + "\n")
    rows = [json.dumps({"text": text}) for text in texts[60:]]
    with gzip.open(folder / "two.jsonl.gz", "wt") as file:
        file.write("\n".join([*rows[:10], "", "no JSON", *rows[10:]]) + "\n")
    return [folder / "one.txt", folder / "two.jsonl.gz"]


def extraction(corpus: list[Path], place: Path, part: Part = WHOLE, wish: Wish = BOTH, **options: Any) -> Job:
    model = bertprobe.open("pocket")
    settings = Options(**{"compute": ONE, "shard_text": 700, "verify": False, "part": part, **options})
    return prepare(model.checkpoint, model.anatomy, open_corpus(corpus, skip_bad=True), place, wish, settings)


def scanning(corpus: list[Path], place: Path, part: Part = WHOLE) -> ScanJob:
    model = bertprobe.open("pocket")
    settings = ScanOptions(Kept(top=4, drawn=20), shard_text=700, verify=False, compute=ONE, part=part)
    return prepare_scan(model.checkpoint, model.anatomy, open_corpus(corpus, skip_bad=True), place, settings)


def parts_of(count: int) -> list[Part]:
    return [Part(number, count) for number in range(1, count + 1)]


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def whole(corpus: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("whole") / "out"
    extraction(corpus, place).run()
    return place


# ------------------------------------------------------------------------------------------------ the cut


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 40])
@pytest.mark.parametrize("shards", [0, 1, 8, 31])
def test_parts_are_all_shards_in_their_order(count: int, shards: int) -> None:
    cut = [part.chosen(range(shards)) for part in parts_of(count)]
    assert [number for part in cut for number in part] == list(range(shards))
    assert max(map(len, cut)) - min(map(len, cut)) <= 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/", "/4", "a/4", "1/0", "-1/4", "1.5/4", "¹/4", ""])
def test_what_is_no_part_is_refused(text: str, corpus: list[Path], tmp_path: Path, run: Run) -> None:
    with pytest.raises(BadSetting, match="is no part of a plan"):
        Part.parsed(text)
    ran = run(["extract", corpus[0], "-o", tmp_path / "o", f"--shard={text}"])
    assert ran.code == 2
    assert "--shard" in ran.err
    assert "write 1/8 for the first of eight" in ran.err
    assert not (tmp_path / "o").exists()


def test_a_part_as_it_is_written() -> None:
    assert Part.parsed(" 2/8 ") == Part(2, 8)
    assert str(Part(2, 8)) == "2/8"
    assert WHOLE.told is None


# ------------------------------------------------------------------------------------------------ extract


@pytest.mark.parametrize("count", [2, 3, 5, 40])
def test_parts_put_together_are_the_whole_run(count: int, corpus: list[Path], whole: Path, tmp_path: Path) -> None:
    """Byte for byte: only of what was expected each part guesses its own manifest, too."""
    for part in parts_of(count):
        extraction(corpus, tmp_path / str(part.number), part).run()
    merge_parts([open_activations(tmp_path / str(part.number)) for part in reversed(parts_of(count))], tmp_path / "m")
    found, expected = bytes_in(tmp_path / "m"), bytes_in(whole)
    one, two = (json.loads(each.pop("manifest.json")) for each in (found, expected))
    assert found == expected
    assert one["expected"].pop("bytes") >= two["expected"].pop("bytes")
    assert one == two
    assert one["skipped"] == 1
    assert not extraction(corpus, tmp_path / "m").left, "the merged folder is that of the whole command"


def test_a_part_knows_the_numbers_of_its_texts(corpus: list[Path], whole: Path, tmp_path: Path) -> None:
    extraction(corpus, tmp_path / "2", Part(2, 3)).run()
    part = open_activations(tmp_path / "2")
    assert part.manifest["complete"]
    assert part.manifest["part"] == {"number": 2, "of": 3}
    numbers = [document.number for document in part]
    rows = open_activations(whole)
    assert numbers[0] > 0
    assert len(numbers) == part.documents < rows.documents
    for number in (numbers[0], numbers[-1]):
        assert (part.document(number)["pooler"] == rows.document(number)["pooler"]).all()
        assert part.document(number).row == rows.document(number).row


def test_a_part_that_is_ended_goes_on(corpus: list[Path], tmp_path: Path) -> None:
    class Ended(BaseException):
        pass

    def end(texts: int, tokens: int) -> None:
        raise Ended

    extraction(corpus, tmp_path / "a", Part(2, 3)).run()
    with pytest.raises(Ended):
        extraction(corpus, tmp_path / "b", Part(2, 3)).run(end)
    extraction(corpus, tmp_path / "b", Part(2, 3)).run()
    assert bytes_in(tmp_path / "a") == bytes_in(tmp_path / "b")


def test_another_part_does_not_go_on_in_a_folder(corpus: list[Path], tmp_path: Path) -> None:
    extraction(corpus, tmp_path / "o", Part(1, 3)).run()
    with pytest.raises(OutputError, match=r"part\.number is 1 there, 2 now"):
        extraction(corpus, tmp_path / "o", Part(2, 3))
    with pytest.raises(OutputError, match=r"part is 2 entries there, nothing now"):
        extraction(corpus, tmp_path / "o")


def test_the_estimate_is_of_the_part(corpus: list[Path], whole: Path, tmp_path: Path) -> None:
    planned = [extraction(corpus, tmp_path / str(part.number), part) for part in parts_of(3)]
    assert sum(job.expected.documents for job in planned if job.expected) == open_activations(whole).documents
    for job in planned:
        job.run()
        assert job.expected is not None
        assert job.expected.bytes == pytest.approx(sum(map(len, bytes_in(job.folder.path).values())), rel=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("a part is missing", r"part 2/3 is not among them"),
        ("a part twice", r"are both part 1/3"),
        ("a whole run", r"is no part but a whole run"),
        ("another number of parts", r"is a part of another plan than"),
        ("another option", r"options\.dtype is float32 there, float16 now"),
        ("another corpus", r"is a part of another plan than"),
        ("not done", r"is not done"),
    ],
)
def test_what_is_not_all_parts_of_one_run_is_refused(
    change: str, message: str, corpus: list[Path], whole: Path, tmp_path: Path
) -> None:
    for part in parts_of(3):
        extraction(corpus, tmp_path / str(part.number), part).run()
    names = ["1", "2", "3"]
    if change == "a part is missing":
        names = ["1", "3"]
    elif change == "a part twice":
        names = ["1", "2", "3", "1"]
    elif change == "another number of parts":
        extraction(corpus, tmp_path / "other", Part(2, 4)).run()
        names = ["1", "other", "3"]
    elif change == "another option":
        extraction(corpus, tmp_path / "other", Part(2, 3), replace(BOTH, dtype="float16")).run()
        names = ["1", "other", "3"]
    elif change == "another corpus":
        extraction(corpus[:1], tmp_path / "other", Part(2, 3)).run()
        names = ["1", "other", "3"]
    elif change == "not done":
        manifest = json.loads((tmp_path / "2" / "manifest.json").read_text())
        manifest["complete"] = False
        (tmp_path / "2" / "manifest.json").write_text(json.dumps(manifest))
    folders = [open_activations(whole if change == "a whole run" else tmp_path / name) for name in names]
    with pytest.raises(OutputError, match=message):
        merge_parts(folders, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_files_are_linked_and_copied_where_that_is_not_possible(
    corpus: list[Path], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in parts_of(2):
        extraction(corpus, tmp_path / str(part.number), part).run()
    folders = [open_activations(tmp_path / name) for name in "12"]
    merge_parts(folders, tmp_path / "linked")
    name = "shard-00000.safetensors"
    assert (tmp_path / "linked" / name).samefile(tmp_path / "1" / name)

    def fails(*paths: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", fails)
        merge_parts(folders, tmp_path / "copied")
        assert not (tmp_path / "copied" / name).samefile(tmp_path / "1" / name)
        assert bytes_in(tmp_path / "copied") == bytes_in(tmp_path / "linked")
        damaged = tmp_path / "1" / name
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
        with pytest.raises(OutputError, match=r"has not the sha256 of its manifest"):
            merge_parts(folders, tmp_path / "damaged")


def test_a_merge_that_is_ended_anywhere_goes_on(
    corpus: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in parts_of(2):
        extraction(corpus, tmp_path / str(part.number), part).run()
    folders = [open_activations(tmp_path / name) for name in "12"]
    merge_parts(folders, tmp_path / "whole")
    expected, real = bytes_in(tmp_path / "whole"), files._sync
    steps = 0
    while True:
        steps += 1
        left = iter(range(steps))

        def ends(folder: Path, left: Any = left) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            real(folder)

        place = tmp_path / f"ended-{steps}"
        with monkeypatch.context() as patched:
            patched.setattr(files, "_sync", ends)
            try:
                merge_parts(folders, place)
            except KeyboardInterrupt:
                pass
            else:
                break
        merge_parts(folders, place)
        assert bytes_in(place) == expected
    assert steps > len(expected)


def test_a_merge_goes_into_no_other_folder(corpus: list[Path], whole: Path, tmp_path: Path) -> None:
    for part in parts_of(2):
        extraction(corpus, tmp_path / str(part.number), part, replace(BOTH, dtype="float16")).run()
    folders = [open_activations(tmp_path / name) for name in "12"]
    before = bytes_in(whole)
    with pytest.raises(OutputError, match=r"options\.dtype is float32 there"):
        merge_parts(folders, whole)
    with pytest.raises(OutputError, match=r"part\.number is 1 there|part is .* there"):
        merge_parts(folders, tmp_path / "1")
    assert bytes_in(whole) == before


def test_where_parts_were_computed_is_kept_where_it_differs(corpus: list[Path], tmp_path: Path) -> None:
    for part in parts_of(2):
        compute = replace(ONE, batch_tokens=100 * part.number)
        extraction(corpus, tmp_path / str(part.number), part, compute=compute).run()
    merge_parts([open_activations(tmp_path / name) for name in "12"], tmp_path / "m")
    manifest = open_activations(tmp_path / "m").manifest
    assert [part["compute"]["batch_tokens"] for part in manifest["parts"]] == [100, 200]


# ------------------------------------------------------------------------------------------------ what is read


def test_a_stretch_that_has_changed_is_not_read(tmp_path: Path) -> None:
    """By its hash: size and number of lines are the same."""
    file = tmp_path / "texts.txt"
    file.write_text("a ship\n" * 300)
    corpus = open_corpus([file])
    shards = plan(corpus, text_bytes=700)
    assert all(shard.sha256 for shard in shards)
    file.write_text("a ship\n" * 150 + "a shop\n" * 150)
    assert list(corpus.documents(shards[0]))
    with pytest.raises(CorruptFile, match=r"texts\.txt has changed between its bytes 1,400 and 2,100"):
        list(corpus.documents(shards[-1]))


def test_rows_that_have_changed_are_counted(corpus: list[Path], tmp_path: Path) -> None:
    job = extraction(corpus, tmp_path / "o")
    shard: Shard = job.shards[-1]
    job.manifest["shards"][shard.number]["documents"] += 1
    with pytest.raises(CorruptFile, match=r"two\.jsonl\.gz has changed: shard \d+ had \d+ texts, now \d+"):
        job.run()


def test_stdin_has_no_parts(tmp_path: Path, run: Run) -> None:
    for words in (["extract"], ["neurons", "scan"]):
        ran = run([*words, "-", "-o", tmp_path / "o", "--shard", "1/2"])
        assert ran.code == 2
        assert "stdin cannot be cut into parts; leave out --shard" in ran.err


# ------------------------------------------------------------------------------------------------ neurons


@pytest.mark.parametrize("count", [2, 5, 40])
def test_parts_of_a_scan_put_together_are_the_scan(count: int, corpus: list[Path], tmp_path: Path) -> None:
    """Examples and counts are the same; sums of float64 are added in another order, 1e-12 of their size apart."""
    scanning(corpus, tmp_path / "whole").run()
    for part in parts_of(count):
        scanning(corpus, tmp_path / str(part.number), part).run()
    merge_scans([open_scan(tmp_path / str(part.number)) for part in reversed(parts_of(count))], tmp_path / "m")
    merged, whole = open_scan(tmp_path / "m"), open_scan(tmp_path / "whole")
    assert merged.manifest == whole.manifest
    assert merged.state.done == whole.state.done
    for site, one in whole.state.sites.items():
        other = merged.state.sites[site]
        for name in ("strongest", "negative", "drawn"):
            assert (getattr(one, name).where == getattr(other, name).where).all()
            assert (getattr(one, name).values == getattr(other, name).values).all()
        for name in ("positions", "above", "before_above", "over", "histogram", "highest", "lowest"):
            assert (getattr(one.sums, name) == getattr(other.sums, name)).all()
        assert np.allclose(one.sums.by_position, other.sums.by_position, rtol=1e-12, atol=1e-12)


def test_parts_of_a_scan_are_not_mixed_with_others(corpus: list[Path], tmp_path: Path) -> None:
    for name, part in (("whole", WHOLE), ("1", Part(1, 2)), ("2", Part(2, 2))):
        scanning(corpus, tmp_path / name, part).run()
    for names, message in ((["1", "whole"], "is no part but a whole run"), (["1", "1"], "are both part 1/2")):
        with pytest.raises(OutputError, match=message):
            merge_scans([open_scan(tmp_path / name) for name in names], tmp_path / "m")


# ------------------------------------------------------------------------------------------------ commands


def test_parts_on_the_command_line(corpus: list[Path], tmp_path: Path, run: Run) -> None:
    words = ["extract", *corpus, "--skip-bad", "--shard-text", "900", "--threads", "1", "--no-verify", "--quiet"]
    assert run([*words, "-o", tmp_path / "whole"]).code == 0
    for part in parts_of(2):
        ran = run([*words, "--shard", part, "-o", tmp_path / str(part.number)])
        assert ran.code == 0, ran.err
    ran = run(["merge", tmp_path / "2", tmp_path / "1", "-o", tmp_path / "m"])
    assert ran.code == 0, ran.err
    assert ran.out.startswith("90 texts, ")
    data = json.loads(run(["merge", tmp_path / "2", tmp_path / "1", "-o", tmp_path / "m", "--json"]).out)
    assert data["parts"] == [str(tmp_path / "2"), str(tmp_path / "1")]
    assert data["written"]["complete"] is True
    shards = [path.name for path in (tmp_path / "whole").glob("shard-*")]
    assert len(shards) > 6
    assert all((tmp_path / "m" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in shards)
    ran = run(["merge", tmp_path / "2", "-o", tmp_path / "n"])
    assert ran.code == 1
    assert "part 1/2 is not among them; name the folders of all parts" in ran.err


def test_merge_of_scans_leads_to_its_command(corpus: list[Path], tmp_path: Path, run: Run) -> None:
    scanning(corpus, tmp_path / "scan", Part(1, 2)).run()
    shutil.copytree(tmp_path / "scan", tmp_path / "other")
    ran = run(["merge", tmp_path / "scan", tmp_path / "other", "-o", tmp_path / "m"])
    assert ran.code == 1
    assert "bertprobe neurons merge" in ran.err
