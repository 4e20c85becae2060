"""Fingerprints: the same for a model however it is stored, another one for one flipped bit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from conftest import Run
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from kin import POCKET
from safetensors.numpy import load_file, save_file

import bertprobe
from bertprobe.anatomy.places import BUFFERS
from bertprobe.errors import UnsupportedFile
from bertprobe.stats.fingerprint import fingerprint

F16 = dict(load_file(POCKET / "model.safetensors"))
F32 = {name: values.astype(np.float32) for name, values in F16.items()}

# ------------------------------------------------------------------------------------------------ of an array


def independent(array: np.ndarray) -> str:
    """The same as docs/exports.md tells it, in other words."""
    wide = np.array(array.tolist(), dtype=np.float64).reshape(array.shape)
    if array.dtype.kind in "iub":
        values, kind = array.astype(np.int64), "<i8"
    else:
        wide[np.isnan(wide)] = np.nan
        with np.errstate(over="ignore"):
            narrow = wide.astype(np.float32)
        exact = np.array_equal(narrow.astype(np.float64), wide, equal_nan=True)
        values, kind = (narrow, "<f4") if exact else (wide, "<f8")
    shape = ",".join(map(str, array.shape))
    return hashlib.sha256(f"{kind}\n{shape}\n".encode() + np.ascontiguousarray(values).tobytes()).hexdigest()


@given(arrays.arrays(st.sampled_from([np.float16, np.float32, np.float64]), arrays.array_shapes(max_dims=3)))
def test_it_is_what_the_documentation_says(array: np.ndarray) -> None:
    assert fingerprint(array) == independent(array)


@given(arrays.arrays(st.sampled_from([np.int8, np.uint8, np.int32, np.int64, np.bool_]), arrays.array_shapes()))
def test_of_whole_numbers_too(array: np.ndarray) -> None:
    assert fingerprint(array) == independent(array)


@given(arrays.arrays(np.float16, arrays.array_shapes(max_dims=3)))
def test_a_lossless_cast_and_another_layout_change_nothing(array: np.ndarray) -> None:
    wanted = fingerprint(array)
    assert {fingerprint(array.astype(dtype)) for dtype in (np.float32, np.float64, ">f4", ">f8")} == {wanted}
    assert fingerprint(np.asfortranarray(array)) == wanted
    assert fingerprint(np.flip(np.flip(array, 0).copy(), 0)) == wanted


def test_narrow_types_are_what_they_stand_for() -> None:
    array = np.linspace(-3, 3, 999).astype(ml_dtypes.bfloat16).reshape(27, 37)
    assert fingerprint(array) == fingerprint(array.astype(np.float32)) == fingerprint(array.astype(np.float64))
    eight = np.linspace(-3, 3, 64).astype(ml_dtypes.float8_e4m3fn)
    assert fingerprint(eight) == fingerprint(eight.astype(np.float64))


def test_a_large_array_is_looked_at_whole() -> None:
    array = np.zeros((600, 700))
    before = fingerprint(array)
    for place in ((0, 0), (300, 350), (599, 699)):
        changed = array.copy()
        changed[place] = 1e-320  # which float32 does not hold
        assert fingerprint(changed) != before
        assert fingerprint(changed) == independent(changed)


@given(st.integers(0, 119), st.integers(0, 31))
def test_one_flipped_bit_changes_it(element: int, bit: int) -> None:
    array = np.random.default_rng(0).standard_normal((10, 12)).astype(np.float32)
    flipped = array.copy()
    flipped.view(np.uint32).reshape(-1)[element] ^= np.uint32(1 << bit)
    assert fingerprint(flipped) != fingerprint(array)


def test_the_sign_of_zero_counts_and_the_kind_of_nan_does_not() -> None:
    assert fingerprint(np.array([0.0])) != fingerprint(np.array([-0.0]))
    nans = np.array([0x7FC00000, 0x7FC00001, 0xFFC00000, 0x7F800001], np.uint32).view(np.float32)
    assert fingerprint(nans) == fingerprint(np.full(4, np.nan))
    assert fingerprint(np.full(4, np.nan)) != fingerprint(np.full(4, np.inf))


def test_the_shape_counts() -> None:
    array = np.arange(12.0)
    shapes = [(12,), (3, 4), (4, 3), (12, 1), (1, 12)]
    assert len({fingerprint(array.reshape(shape)) for shape in shapes}) == len(shapes)
    assert fingerprint(np.zeros((0, 3))) != fingerprint(np.zeros((3, 0)))


# ------------------------------------------------------------------------------------------------ of a model


def identity(run: Run, path: Path, *more: str) -> Mapping[str, str | None]:
    found = run(["inspect", str(path), "--all", "--json", *more])
    assert found.code == 0, found.err
    return json.loads(found.out)["facts"]["fingerprint"]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str | None]:
    from bertprobe.fingerprint import fingerprints

    model = bertprobe.open(POCKET)
    found = {name: independent(values) for name, values in F16.items()}
    canonical = {name: found[header.name] for name, header in model.anatomy.tensors.items()}
    told = fingerprints(model.anatomy, model.parts, canonical)
    return {"intermediate": told.intermediate, "pooler": told.pooler, "encoder": told.encoder, "model": told.model}


def written(folder: Path, tensors: Mapping[str, np.ndarray], config: bool = True) -> Path:
    folder.mkdir()
    save_file(dict(tensors), folder / "model.safetensors")
    if config:
        (folder / "config.json").write_bytes((POCKET / "config.json").read_bytes())
    return folder


def test_a_model_keeps_its_fingerprint(run: Run, tmp_path: Path, original: Mapping[str, str | None]) -> None:
    assert all(original.values())
    assert identity(run, POCKET) == original
    assert identity(run, written(tmp_path / "wide", F32)) == original
    assert identity(run, written(tmp_path / "no-config", F32, config=False)) == original
    assert identity(run, written(tmp_path / "double", {n: v.astype(np.float64) for n, v in F32.items()})) == original
    bare = {name.removeprefix("bert."): values for name, values in F32.items()}
    for prefix in ("", "bert.", "module.bert.", "0.auto_model."):
        named = {f"{prefix}{name}": values for name, values in bare.items()}
        assert identity(run, written(tmp_path / f"prefix-{len(prefix)}", named)) == original
    torch.save({"state_dict": {n: torch.from_numpy(v) for n, v in F32.items()}}, tmp_path / "model.pt")
    assert identity(run, tmp_path / "model.pt") == original
    folder = tmp_path / "shards"
    folder.mkdir()
    names = sorted(F32)
    for number in (1, 2):
        part = {name: F32[name] for name in names[number - 1 :: 2]}
        save_file(part, folder / f"model-0000{number}-of-00002.safetensors")
    assert identity(run, folder) == original


def test_buffers_and_ties_are_not_counted(run: Run, tmp_path: Path, original: Mapping[str, str | None]) -> None:
    words = next(name for name in F32 if name.endswith("word_embeddings.weight"))
    more = {**F32, "bert.embeddings.position_ids": np.arange(512)[None], "cls.predictions.decoder.weight": F32[words]}
    assert BUFFERS.search("embeddings.position_ids")
    assert identity(run, written(tmp_path / "tied", more)) == original
    more["cls.predictions.decoder.weight"] = F32[words] + 1
    other = identity(run, written(tmp_path / "untied", more))
    assert (other["encoder"], other["model"] == original["model"]) == (original["encoder"], False)


def test_from_python(original: Mapping[str, str | None]) -> None:
    assert bertprobe.open(POCKET).fingerprint == original["model"]


def test_one_bit_of_any_tensor_is_seen(run: Run, tmp_path: Path, original: Mapping[str, str | None]) -> None:
    for number, name in enumerate(sorted(F16)[::7]):
        changed = {other: values.copy() for other, values in F16.items()}
        changed[name].view(np.uint16).reshape(-1)[-1] ^= np.uint16(1)
        found = identity(run, written(tmp_path / str(number), changed))
        assert found["model"] != original["model"], name
        pooler, head = "pooler" in name, name.startswith("cls.")
        assert (found["pooler"] != original["pooler"]) == pooler
        assert (found["encoder"] != original["encoder"]) == (not pooler and not head)


def test_what_was_not_read_has_none(run: Run) -> None:
    facts = json.loads(run(["inspect", "--json"]).out)["facts"]["fingerprint"]
    assert facts["pooler"]
    assert facts["intermediate"]
    assert (facts["encoder"], facts["model"]) == (None, None)
    assert "fingerprint" not in json.loads(run(["inspect", "--json", "--shapes"]).out)["facts"]
    alone = json.loads(run(["inspect", "--json", "--part", "pooler"]).out)["facts"]["fingerprint"]
    assert alone == {**facts, "intermediate": None}


def test_export_writes_down_what_it_wrote(run: Run, tmp_path: Path, original: Mapping[str, str | None]) -> None:
    for suffix in ("safetensors", "npz"):
        for part in ("pooler", "intermediate", "model"):
            out = tmp_path / f"{part}.{suffix}"
            told = json.loads(run(["export", "-o", str(out), "--part", part, "--json"]).out)["written"]["metadata"]
            assert told["fingerprint"] == original[part]
    stored = tmp_path / "stored.safetensors"
    run(["export", "-o", str(stored), "--part", "model", "--names", "stored"])
    header = json.loads(stored.read_bytes()[8 : 8 + int.from_bytes(stored.read_bytes()[:8], "little")])
    assert header["__metadata__"]["fingerprint"] == original["model"]
    narrow = tmp_path / "narrow.safetensors"
    run(["export", "-o", str(narrow), "--part", "model", "--dtype", "bfloat16"])
    assert identity(run, narrow)["model"] != original["model"]
    header = json.loads(narrow.read_bytes()[8 : 8 + int.from_bytes(narrow.read_bytes()[:8], "little")])
    assert header["__metadata__"]["fingerprint"] == identity(run, narrow)["model"]


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_complex_numbers_are_exported_as_they_are_without_a_fingerprint(run: Run, tmp_path: Path, suffix: str) -> None:
    name = "encoder.layer.1.intermediate.LayerNorm.weight"
    tensors = {"encoder.layer.0.intermediate.dense.weight": np.ones((2, 3)), name: np.array([1 + 2j], np.complex64)}
    out = tmp_path / f"out.{suffix}"
    told = run(["export", written(tmp_path / "odd", tensors, False), "-o", str(out), "--part", "model", "--json"])
    assert "fingerprint" not in json.loads(told.out)["written"]["metadata"]
    if suffix == "safetensors":
        assert load_file(out)[name] == tensors[name]
    else:
        with np.load(out) as found:
            assert found[name] == tensors[name]
    with pytest.raises(UnsupportedFile, match="complex64"):
        fingerprint(tensors[name])


# ------------------------------------------------------------------------------------------------ every tensor


def test_all_lists_every_tensor(run: Run) -> None:
    found = json.loads(run(["inspect", "--all", "--json"]).out)
    tensors = {tensor["name"]: tensor for tensor in found["tensors"]}
    model = bertprobe.open(POCKET)
    assert tensors.keys() == model.anatomy.tensors.keys()
    for tensor in tensors.values():
        values = F16[tensor["stored_name"]]
        assert tensor["fingerprint"] == independent(values)
        assert tensor["shape"] == list(values.shape)
        assert tensor["statistics"]["std"] == pytest.approx(values.astype(np.float64).std(), rel=1e-12)
    assert found["facts"]["bytes_read"] == found["facts"]["bytes_total"]


def test_all_finds_what_is_broken_outside_the_modules(run: Run, tmp_path: Path) -> None:
    broken = {name: values.copy() for name, values in F32.items()}
    words = next(name for name in broken if name.endswith("word_embeddings.weight"))
    broken[words][3, 5] = np.inf
    norm = next(name for name in broken if name.endswith("0.output.LayerNorm.weight"))
    query = next(name for name in broken if name.endswith("1.attention.self.query.weight"))
    broken[norm][:], broken[query][:] = 0, 0
    bias = next(name for name in broken if name.endswith("1.attention.self.query.bias"))
    broken[bias][:] = 0  # as in many a model
    folder = written(tmp_path / "broken", broken)
    found = json.loads(run(["inspect", str(folder), "--all", "--json"]).out)["findings"]
    of = {rule: [f["evidence"]["tensor"] for f in found if f["rule"] == rule] for rule in ("not-finite", "all-zero")}
    bare = [name.removeprefix("bert.") for name in (words, norm, query)]
    assert of["not-finite"] == bare[:1]
    assert sorted(of["all-zero"]) == sorted(bare[1:])
    plain = json.loads(run(["inspect", str(folder), "--json"]).out)["findings"]
    assert not {"not-finite", "all-zero"} & {finding["rule"] for finding in plain}


def test_all_lists_headers_under_shapes(run: Run) -> None:
    found = json.loads(run(["inspect", "--all", "--shapes", "--json"]).out)
    assert {tensor["stored_name"]: tensor["shape"] for tensor in found["tensors"]} == {
        name: list(values.shape) for name, values in F16.items()
    }
    assert all(tensor["fingerprint"] is None and tensor["statistics"] == {} for tensor in found["tensors"])
    assert found["facts"]["bytes_read"] < found["facts"]["bytes_total"] / 10


def test_all_goes_with_everything_only(run: Run) -> None:
    for more in (["--part", "pooler"], ["--layers", "0"]):
        found = run(["inspect", "--all", *more])
        assert found.code == 2
        assert "--all is every tensor" in found.err


def test_all_tells_what_is_left_of_a_truncated_file(run: Run, tmp_path: Path) -> None:
    folder = written(tmp_path / "short", F32)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) * 2 // 3])
    refused = run(["inspect", str(folder)])
    assert refused.code == 1
    assert "inspect --all tells which tensors are there" in refused.err
    found = json.loads(run(["inspect", str(folder), "--all", "--json"]).out)
    (error,) = [finding for finding in found["findings"] if finding["rule"] == "file-truncated"]
    gone = [tensor for tensor in found["tensors"] if tensor["refusal"]]
    assert f": {len(gone)} of {len(F32)} tensors, from " in error["message"]
    assert error["severity"] == "error"
    for tensor in found["tensors"]:
        if tensor["refusal"] is None:
            assert tensor["fingerprint"] == independent(F32[tensor["stored_name"]])
        else:
            assert (tensor["fingerprint"], tensor["statistics"]) == (None, {})
    assert found["facts"]["fingerprint"]["model"] is None
    assert run(["inspect", str(folder), "--all", "--strict"]).code == 3
    for words in (["export", str(folder), "-o", str(tmp_path / "x.safetensors")], ["pool", "a", "-m", str(folder)]):
        assert run(words).code == 1
