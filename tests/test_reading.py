"""Reading: copies of the right bytes, each counted once, in bounded memory; settings checked where they are read."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from bertprobe import encoder as encoder_room
from bertprobe import find_parts, open_checkpoint, open_runner
from bertprobe.backends import NumpyBackend
from bertprobe.checkpoint import TensorHeader, rows, source
from bertprobe.checkpoint.config import SETTINGS, checked
from bertprobe.checkpoint.folder import MAX_VALUES, parse_json
from bertprobe.checkpoint.rows import RowTable, row_table
from bertprobe.checkpoint.source import Arena, LocalFile, _Ranges
from bertprobe.encoder import encode, load_encoder
from bertprobe.errors import BertprobeError, CorruptFile, UnsupportedFile
from bertprobe.run import Compute, Vectors
from bertprobe.run.runner import run_batch
from bertprobe.tokens import pack

# ------------------------------------------------------------------------------------------------ bytes


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 15)), max_size=40))
def test_ranges_count_each_byte_once(spans: list[tuple[int, int]]) -> None:
    seen, found = set(), _Ranges()
    for start, size in spans:
        found.add(start, start + size)
        seen |= set(range(start, start + size))
        assert found.total == len(seen)
        assert found._starts == sorted(found._starts)
        assert all(b < a for b, a in zip(found._stops, found._starts[1:], strict=False)), "disjoint, and not touching"


def test_many_ranges_take_no_time_that_goes_by_their_square() -> None:
    """As many as the tensors of the largest models; a scan of all for each would be 4e10 steps."""
    found = _Ranges()
    for start in range(0, 2_000_000, 10):
        found.add(start, start + 1)
    assert found.total == 200_000


@pytest.mark.parametrize("most", [1, 7, 2**30])
def test_what_one_read_cannot_give_is_read_in_several_into_one_buffer(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "MOST_AT_ONCE", most)
    data = bytes(range(100))
    (tmp_path / "x").write_bytes(data)
    file = LocalFile(tmp_path / "x")
    assert file.load(3, 99).tobytes() == data[3:99]
    assert file.read(3, 99) == data[3:99]
    assert file.bytes_read == 96
    with pytest.raises(CorruptFile, match="bytes 3 to 101 are asked for"):
        file.load(3, 101)


def test_a_tensor_larger_than_memory_is_refused_before_it_is_read(tmp_path: Path, run: Run) -> None:
    header = {"pooler.dense.weight": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}
    text = json.dumps(header).encode()
    with open(tmp_path / "x.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        try:
            file.truncate(8 + len(text) + 4 * 10**12)
        except OSError:
            pytest.skip("this file system has no files of 4 TB")
    for words in (["inspect", "x.safetensors"], ["export", "x.safetensors", "-o", "y.npz"]):
        ran = run([words[0], tmp_path / words[1], *([words[2], tmp_path / words[3]] if words[2:] else [])])
        assert ran.code == 1
        assert "pooler.dense.weight has 4,000,000,000,000 bytes, more than the" in ran.err
    assert run(["inspect", tmp_path / "x.safetensors", "--shapes"]).code == 0


# ------------------------------------------------------------------------------------------------ rows and layers


def header_of(folder: Path, values: np.ndarray[Any, Any]) -> TensorHeader:
    save_file({"table": values}, folder / "t.safetensors")
    return open_checkpoint(str(folder / "t.safetensors")).headers["table"]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_rows_are_those_of_the_whole_table(dtype: Any, tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((5000, 160)).astype(dtype)
    table = row_table(header_of(tmp_path, values))
    assert isinstance(table, RowTable)
    assert table.shape == values.shape
    chance = np.random.default_rng(1)
    for _ in range(20):
        ids = chance.integers(0, 5000, chance.integers(1, 300))
        assert np.array_equal(table[ids], values[ids])
    assert np.array_equal(table[np.arange(5000)], values)


def test_only_the_rows_that_are_asked_for_are_read(tmp_path: Path) -> None:
    header = header_of(tmp_path, np.zeros((40_000, 128), np.float32))
    file = header.pieces[0].source
    table, before = row_table(header), file.bytes_read
    table[np.array([700, 700, 20_000, 20_003, 39_999])]
    assert file.bytes_read - before == 128 * 4 * (1 + 4 + 1), "near ones with what lies between them"
    table[np.array([700, 20_001])]
    assert file.bytes_read - before == 128 * 4 * 6, "what was read is kept"


def test_a_small_table_or_an_odd_one_is_read_whole(tmp_path: Path) -> None:
    assert not isinstance(row_table(header_of(tmp_path, np.zeros((10, 4), np.float32))), RowTable)
    turned = header_of(tmp_path, np.zeros((4000, 160), np.float32)).permuted((1, 0))
    assert row_table(turned).shape == (160, 4000)
    assert rows.SMALL < 4000 * 160 * 4


def test_an_arena_gives_memory_again_only_after_reuse() -> None:
    arena = Arena(1000)
    one, two = arena(300), arena(300)
    one[:], two[:] = b"1" * 300, b"2" * 300
    assert one.tobytes() == b"1" * 300
    assert arena(900).nbytes == 900, "more than is left is fresh memory"
    arena.reuse()
    again = arena(300)
    again[:] = b"3" * 300
    assert one.tobytes() == b"3" * 300


def test_layers_are_the_same_in_every_pass(minilm: Path) -> None:
    """The first pass reads each into the same memory, later ones keep them: the states must not know."""
    checkpoint = open_checkpoint(str(minilm))
    encoder = load_encoder(checkpoint, find_parts(checkpoint), NumpyBackend())
    runner = open_runner(checkpoint, find_parts(checkpoint), Compute(backend="numpy"))
    packed = pack(runner.tokenizer.encode_many(["a cat sat on the mat", "why?"]))
    first, second, third = (encode(encoder, packed) for _ in range(3))
    assert np.array_equal(first, second)
    assert np.array_equal(second, third)


def test_one_pass_takes_the_memory_of_one_layer(minilm: Path) -> None:
    checkpoint = open_checkpoint(str(minilm))
    anatomy = find_parts(checkpoint)
    runner = open_runner(checkpoint, anatomy, Compute(backend="numpy"))
    packed = pack(runner.tokenizer.encode_many(["a cat sat on the mat"]))
    layer = sum(h.nbytes for name, h in anatomy.tensors.items() if name.startswith("encoder.layer.0."))
    tracemalloc.start()
    try:
        run_batch(runner, packed, Vectors("pooled"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < layer + encoder_room.SPARE + 4 * 2**20, "six layers have six times as much"


# ------------------------------------------------------------------------------------------------ settings


BAD = {
    "layer_norm_eps": [None, "x", [1], True, -1, 2, 10**400, float("nan"), float("inf")],
    "num_attention_heads": [None, "2", 2.0, 0, -2, True, 10**30],
    "hidden_act": [None, 7, ["gelu"], "\ud800", "g" * 1000],
    "pad_token_id": ["x", [1], 1.5, -2, True, 10**30],
    "hidden_size": ["8", 8.0, -8, [8], True],
    "is_decoder": ["x", 1, []],
    "model_type": [7, ["bert"], {"bert": 1}, "\ud800"],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in BAD.items() for value in values], ids=repr)
def test_a_setting_that_cannot_be_is_a_fault_on_either_level(key: str, value: Any) -> None:
    found = checked({key: value, "vocab_size": 10, "text_config": {key: value, "vocab_size": 10}})
    assert found.sound == {"vocab_size": 10, "text_config": {"vocab_size": 10}}
    assert set(found.faults) == {key, f"text_config.{key}"}
    assert len(found.faults[key]) < 250
    assert found.faults[key].isprintable()


def test_sound_settings_pass(tiny_bert: Path) -> None:
    config = json.loads((tiny_bert / "config.json").read_text())
    assert checked(config).faults == {}
    assert checked(config).sound == config
    assert checked(None).sound is None
    assert set(SETTINGS) & config.keys()


@pytest.mark.parametrize(("key", "value"), [(key, values[0]) for key, values in BAD.items()], ids=repr)
def test_a_fault_is_a_finding_and_keeps_a_text_from_being_run(
    key: str, value: Any, tiny_bert: Path, tmp_path: Path, run: Run
) -> None:
    config = json.loads((tiny_bert / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
    os.link(tiny_bert / "model.safetensors", tmp_path / "model.safetensors")
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n")
    findings = json.loads(run(["inspect", tmp_path, "--json"]).out)["findings"]
    assert [f["evidence"] for f in findings if f["rule"] == "config-invalid"] == [{"key": key}]
    ran = run(["pool", "a", "-m", tmp_path])
    if key == "hidden_size":  # the shapes of the tensors tell it
        assert ran.code == 0
        return
    assert ran.code == 1
    if key != "pad_token_id":
        assert f"gives {key} as" in ran.err
    assert len(ran.err.splitlines()) == 1


def test_settings_of_commas_do_not_fill_memory() -> None:
    text = "[" + "[]," * (MAX_VALUES + 1) + "1]"
    with pytest.raises(UnsupportedFile, match="holds more than"):
        parse_json(text, "config.json")
    assert parse_json('{"a": 1}', "config.json") == {"a": 1}
    for odd in ("[1]", "{", "", '{"a": ' + "[" * 100_000):
        with pytest.raises(BertprobeError):
            parse_json(odd, "config.json")


# ---------------------------------------------------------------------------- tensors that do not fit


@pytest.mark.parametrize("shape", [(128,), (0, 8), (16, 8, 1), (16, 0), (8, 16), (16, 9)], ids=str)
@pytest.mark.parametrize(
    "name",
    [
        "encoder.layer.0.intermediate.dense.weight",
        "encoder.layer.1.attention.self.query.weight",
        "encoder.layer.1.output.LayerNorm.weight",
        "embeddings.position_embeddings.weight",
        "embeddings.LayerNorm.bias",
        "pooler.dense.weight",
    ],
)
def test_tensors_whose_shapes_do_not_fit_are_refused_by_name(
    name: str, shape: tuple[int, ...], tmp_path: Path, run: Run
) -> None:
    from safetensors.numpy import load_file

    folder = tmp_path / "m"
    folder.mkdir()
    import zoo

    zoo.save("bert", folder)
    tensors = load_file(folder / "model.safetensors")
    stored = next(key for key in tensors if key.endswith(name))
    if tensors[stored].shape == shape:
        pytest.skip("this one fits")
    tensors[stored] = np.ones(shape, np.float32)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n")
    for words in (["pool", "a"], ["activations", "a"], ["explain", "both", "a"]):
        ran = run([*words, "-m", folder])
        assert "Traceback" not in ran.err
        assert ran.code in (0, 1)
        assert ran.code == 0 or (name in ran.err and len(ran.err.splitlines()) == 1)
    assert run(["pool", "a", "-m", folder]).code == 1
    assert run(["diff", folder, folder]).code in (0, 1)
    assert run(["inspect", folder]).code in (0, 1)
