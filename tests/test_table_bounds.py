"""What a header may cost: twice as many tensors take twice the work, and what is said of them ends somewhere.

Work is counted in calls and in bytes held, which are the same at every run, and in processor time for four times as
many, where linear is 4, quadratic 16, and 9 is the bound.
"""

from __future__ import annotations

import json
import sys
import time
import tracemalloc
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import bundle
import numpy as np
import pytest
from conftest import Run
from test_bad_input import refused
from test_safetensors import entry, packed

from bertprobe import Evidence, Report, find_parts, inspection, judge, measure_parts, open_checkpoint, render, select
from bertprobe.checkpoint.source import LocalFile
from bertprobe.checkpoint.tensorflow import table
from bertprobe.errors import BertprobeError
from bertprobe.stats.numbers import measure
from bertprobe.verdicts.evidence import MOST_NAMES, MOST_NUMBERS
from bertprobe.verdicts.rule import MOST_FINDINGS

UP = "encoder.layer.{}.intermediate.dense.weight"


def saved(folder: Path, shapes: dict[str, tuple[int, ...]], dtype: str = "F32") -> Path:
    """A safetensors file of zeros."""
    folder.mkdir(exist_ok=True)
    end, header = 0, {}
    for name, shape in shapes.items():
        size = int(np.prod(shape)) * (4 if dtype == "F32" else 1)
        header[name] = entry(dtype, shape, (end, end := end + size))
    (folder / "model.safetensors").write_bytes(packed(header, end))
    return folder


def report_of(folder: Path, numbers: bool = False, neurons: int = 0) -> Report:
    checkpoint = open_checkpoint(str(folder))
    anatomy = find_parts(checkpoint)
    parts = select(anatomy)
    evidence = Evidence(checkpoint, anatomy, measure_parts(parts) if numbers else {})
    return inspection(evidence, parts, judge(evidence), neurons=neurons)


def drawn(report: Report, format: str) -> str:
    out = StringIO()
    render.show(report, format, out=out)
    return out.getvalue()


def calls(work: Callable[[], Any]) -> int:
    """How many functions are called, Python's own among them."""
    count = 0

    def step(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(step)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def peak(work: Callable[[], Any]) -> int:
    """The most bytes that were held at a time."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def seconds(work: Callable[[], Any]) -> float:
    """Processor time, the least of three."""

    def once() -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    return min(once() for _ in range(3))


# ------------------------------------------------------------------------------------------------ four times as many


def with_names_of_their_own(n: int, folder: Path) -> Callable[[], Any]:
    """Each layer has ten tensors that no other has."""
    shapes: dict[str, tuple[int, ...]] = {UP.format(i): (1, 1) for i in range(n)}
    shapes |= {f"encoder.layer.{i}.odd{i}_{j}": (0,) for i in range(n) for j in range(10)}
    saved(folder, shapes)
    return lambda: drawn(report_of(folder), "json")


def with_deep_names(n: int, folder: Path) -> Callable[[], Any]:
    """Names of 450 segments."""
    saved(folder, {UP.format(0): (1, 1)} | {f"{'a.' * 450}{i}.weight": (1,) for i in range(n)})
    return lambda: report_of(folder)


def with_gaps(n: int, folder: Path) -> Callable[[], Any]:
    """Every other layer is missing, and what is there lacks its weight."""
    shapes: dict[str, tuple[int, ...]] = {UP.format(2 * i).replace("weight", "bias"): (1,) for i in range(n)}
    saved(folder, {**shapes, UP.format(0): (1, 1)})
    return lambda: drawn(report_of(folder), "json")


def with_one_name(n: int, folder: Path) -> Callable[[], Any]:
    """Two tensors of one name for each of many, and many of one name."""
    shapes: dict[str, tuple[int, ...]] = {UP.format(0): (1, 1)}
    shapes |= {f"{wrapping}other{i}.weight": (1,) for i in range(n) for wrapping in ("", "module.")}
    shapes |= {f"{'module.' * (i % 90)}{'_orig_mod.' * (i // 90)}bias": (1,) for i in range(n)}
    saved(folder, shapes)
    return lambda: drawn(report_of(folder), "json")


def with_layers_alike(n: int, folder: Path) -> Callable[[], Any]:
    """Every layer is a copy of the first."""
    saved(folder, {UP.format(i): (2, 1) for i in range(n)})
    return lambda: drawn(report_of(folder, numbers=True), "json")


def in_tensorflow(n: int, folder: Path) -> Callable[[], Any]:
    """Entries of 32 dimensions, packed, whose names begin alike."""
    folder.mkdir(exist_ok=True)
    found = bundle.entry(1, (1,) * 32, 0, 0, 4, None)
    rows = {f"bert/encoder/layer_0/intermediate/dense/odd{i:06}".encode(): found for i in range(n)}
    bundle.write(folder / "m", {b"": bundle.header(1), **rows}, [bytes(4)], bundle.How(snappy=True))
    return lambda: open_checkpoint(str(folder))


def in_a_state_file(n: int, folder: Path) -> Callable[[], Any]:
    """The text file `checkpoint` has line ends only, or begins its one line again and again."""
    folder.mkdir(exist_ok=True)
    bundle.save(folder / "m", {"a": np.zeros(1, np.float32)})
    (folder / "checkpoint").write_text("\n" * 50 * n + 'model_checkpoint_path: "a\n' * n)
    return lambda: open_checkpoint(str(folder))


CASES = [
    (with_names_of_their_own, 100),
    (with_deep_names, 300),
    (with_gaps, 300),
    (with_one_name, 300),
    (with_layers_alike, 150),
    (in_tensorflow, 300),
    (in_a_state_file, 1000),
]


@pytest.mark.parametrize(("case", "n"), CASES, ids=[case.__name__ for case, _ in CASES])
def test_four_times_as_many_take_four_times_the_work(
    case: Callable[[int, Path], Callable[[], Any]], n: int, tmp_path: Path
) -> None:
    few, many = case(n, tmp_path / "few"), case(4 * n, tmp_path / "many")
    few(), many()  # imports and caches
    assert calls(many) < 5 * calls(few) + 10_000
    assert peak(many) < 5 * peak(few) + 2**20
    assert seconds(many) < 9 * seconds(few) + 0.2


# ------------------------------------------------------------------------------------------------ where it ends


def test_findings_end_after_the_first_hundred_of_a_rule(tmp_path: Path) -> None:
    shapes: dict[str, tuple[int, ...]] = {UP.format(i): (1, 1) for i in range(300)}
    shapes |= {f"encoder.layer.{i}.odd{i}": (0,) for i in range(300)}
    report = report_of(saved(tmp_path, shapes))
    found = [finding for finding in report.findings if finding.rule == "layers-missing"]
    assert len(found) == MOST_FINDINGS + 1
    assert found[-1].evidence == {"more": 300 - MOST_FINDINGS}
    assert found[-1].severity == "error"
    assert "200 more than the 100 that are told" in found[-1].message
    first = found[0]
    assert first.message.endswith("other layers have: odd1, odd10, odd100 and 296 more")
    assert (len(first.evidence["missing"]), first.evidence["count"]) == (MOST_NAMES, 299)


def test_lists_of_layers_and_names_end(tmp_path: Path) -> None:
    shapes: dict[str, tuple[int, ...]] = {UP.format(2 * i): (1, 1) for i in range(1200)}
    shapes |= {f"{'module.' * (i % 90)}{'_orig_mod.' * (i // 90)}bias": (1,) for i in range(150)}
    found = {finding.rule: finding for finding in report_of(saved(tmp_path, shapes)).findings}
    gaps = found["layers-missing"]
    assert gaps.message.startswith("1199 of 2399 layers have no intermediate: 1, 3, 5, ")
    assert gaps.message.endswith("1999 and more")
    assert (len(gaps.evidence["missing"]), gaps.evidence["count"]) == (MOST_NUMBERS, 1199)
    twice = found["duplicate-tensors"]
    assert twice.message == ("150 tensors claim to be bias: bias, module.bias, module.module.bias and 147 more")
    assert (len(twice.evidence["stored"]), twice.evidence["count"]) == (MOST_NAMES, 150)


def test_lists_of_neurons_end_with_the_farthest(tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).normal(0, 1, (20_000, 64)).astype(np.float32)
    matrix[:1500] = 0
    matrix[5_000:7_000] *= np.linspace(100, 300, 2_000, dtype=np.float32)[:, None]
    content = packed({UP.format(0): entry("F32", matrix.shape, (0, matrix.nbytes))}) + matrix.tobytes()
    (tmp_path / "model.safetensors").write_bytes(content)
    found = {finding.rule: finding for finding in report_of(tmp_path, numbers=True).findings}
    zeros, far = found["zero-neurons"], found["outlier-neurons"]
    assert zeros.message == "1,500 of 20,000 neurons have a row of zeros: 0, 1, 2, 3, 4 and 1495 more"
    assert zeros.evidence == {"neurons": list(range(MOST_NUMBERS)), "count": 1500, "of": 20_000}
    assert (len(far.evidence["neurons"]), far.evidence["count"]) == (MOST_NUMBERS, 2_000)
    norms = np.linalg.norm(matrix.astype(np.float64), axis=1)
    assert far.evidence["neurons"] == np.argsort(-norms)[:MOST_NUMBERS].tolist()
    assert far.evidence["norms"] == pytest.approx(norms[far.evidence["neurons"]].tolist())
    json.dumps(far.evidence)


@pytest.mark.parametrize("neurons", [0, 3])
def test_a_matrix_of_many_rows_takes_a_few_numbers_a_row(neurons: int, tmp_path: Path) -> None:
    """Norms and distances, in float64, and the matrix itself; a list of Python's would take 60 bytes a row."""
    rows = 1_000_000
    folder = saved(tmp_path, {UP.format(0): (rows, 1)}, "I8")
    assert peak(lambda: report_of(folder, numbers=True, neurons=neurons)) < 26 * rows + 20 * 2**20


def test_measuring_takes_no_second_copy_of_the_norms() -> None:
    column = np.ones((2_000_000, 1), np.float32)
    column[::2] = 2
    assert peak(lambda: measure(column)) < 20 * len(column) + 10 * 2**20


def test_a_long_table_ends_with_how_many_rows_there_are(tmp_path: Path) -> None:
    report = report_of(saved(tmp_path, {UP.format(i): (1, 1) for i in range(2_345)}))
    lines = drawn(report, "table").splitlines()
    assert "345 more rows, all of them in JSON" in lines
    assert any(line.startswith("1999 ") for line in lines)
    assert not any(line.startswith("2000 ") for line in lines)
    assert len(json.loads(drawn(report, "json"))["parts"]) == 2_345
    assert len(drawn(report, "csv").splitlines()) == 1 + 2_345


# ------------------------------------------------------------------------------------------------ objects of a header


def test_a_header_has_no_more_objects_than_its_tensors_need(tmp_path: Path, run: Run) -> None:
    for value in (b"[[],[]]", b"[" + b"[]," * 300_000 + b"[]]", b"[" + b"1," * 300_000 + b"1]"):
        content = packed(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":' + value + b"}}", 8)
        (tmp_path / "model.safetensors").write_bytes(content)
        if len(value) > 100:
            refused(run(["inspect", tmp_path]), "holds more than 250,000 tensors need")


def test_settings_of_a_training_tool_are_no_tensors(tmp_path: Path) -> None:
    notes = {"settings": json.dumps({f"key {i}": i for i in range(50_000)})}
    (tmp_path / "a.safetensors").write_bytes(packed({"__metadata__": notes, UP.format(0): entry(shape=(2, 1))}, 8))
    assert open_checkpoint(str(tmp_path)).metadata == notes


# ------------------------------------------------------------------------------------------------ TensorFlow's index


def indexed(folder: Path, rows: dict[bytes, bytes], snappy: bool = True) -> Path:
    bundle.write(folder / "m", {b"": bundle.header(1), **rows}, [bytes(64)], bundle.How(snappy=snappy))
    return folder


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"\x08\x01" * 22_000_000, "has more than 33,554,432 bytes unpacked"),
        (b"\x08\x01" * 2_000_000, "has more fields than it can need"),
        (b"\x3a\x00" * 2_000_000, "has more fields than it can need"),
        (bundle.whole(1, 1) + bundle.text(2, b"\x12\x00" * 1_000_000), "has more fields than it can need"),
        (bundle.whole(1, 1) + bundle.text(2, b"\x12\x00" * 10_000), "has 10,000 dimensions"),
        (bundle.whole(1, 1) + b"\x3a\x00" * 10_000, "lies in 10,000 slices"),
    ],
    ids=["unpacked", "numbers", "slices", "dimensions", "some dimensions", "some slices"],
)
def test_a_message_has_no_more_fields_than_it_needs(value: bytes, words: str, tmp_path: Path, run: Run) -> None:
    indexed(tmp_path, {b"a": value})
    refused(run(["inspect", tmp_path]), words)

    def reading() -> None:
        with pytest.raises(BertprobeError):
            open_checkpoint(str(tmp_path))

    assert peak(reading) < 3 * min(len(value), table.MAX_INDEX) + 5 * 2**20  # the block, and the value in it


def test_beginnings_that_keys_share_are_counted(tmp_path: Path) -> None:
    """In the file a few bytes each, in memory two thousand."""
    indexed(tmp_path, {b"a" * 1_990 + b"%06d" % i: b"" for i in range(17_000)})
    assert bundle.index_of(tmp_path / "m").stat().st_size < 1_000_000
    source = LocalFile(bundle.index_of(tmp_path / "m"))
    with pytest.raises(BertprobeError, match="bytes of names"):
        dict(table.rows(source))


def test_the_same_block_is_not_listed_twice(tmp_path: Path) -> None:
    content, place = bundle.placed(b"", bundle.entries([(b"", bundle.header(1))]))
    content, meta = bundle.placed(content, bundle.entries([]))
    content, listing = bundle.placed(content, bundle.entries([(b"a", place), (b"b", place)]))
    (tmp_path / "m.index").write_bytes(content + bundle.footer(meta, listing))
    with pytest.raises(BertprobeError, match="where no block can be"):
        dict(table.rows(LocalFile(tmp_path / "m.index")))
