"""A .npz, or a folder of .npy files, is the model whose arrays are in it, bit for bit and as numpy reads them."""

from __future__ import annotations

import io
import json
import shutil
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from bundle import as_google
from conftest import Run
from equal import canonical, same
from flaxfile import as_flax
from hub import Hub
from hypothesis import given
from hypothesis import strategies as st
from kin import POCKET
from memory import Memory
from safetensors.numpy import load_file
from test_bad_input import refused
from test_fuzz import FUZZ, mutated

from bertprobe.anatomy import find_parts
from bertprobe.checkpoint import open_checkpoint, read_tensor, read_tensors
from bertprobe.checkpoint.numpy_archive import archive
from bertprobe.checkpoint.numpy_archive.npy import length_of, parsed
from bertprobe.errors import BertprobeError, CorruptFile, UnsupportedFile

State = dict[str, Any]
NAME = "model.npz"


@pytest.fixture(scope="module")
def state() -> State:
    return {name: values.astype(np.float32) for name, values in load_file(POCKET / "model.safetensors").items()}


def saved(state: Mapping[str, Any], save: Any = np.savez) -> bytes:
    file = io.BytesIO()
    save(file, **state)
    return file.getvalue()


def lay(folder: Path, content: bytes | Mapping[str, Any]) -> Path:
    """A folder with an archive, or with a file an array, and the small files of the model."""
    folder.mkdir(exist_ok=True)
    if isinstance(content, bytes):
        (folder / NAME).write_bytes(content)
    else:
        for name, array in content.items():
            np.save(folder / f"{name}.npy", array)
    for beside in ("config.json", "tokenizer.json"):
        shutil.copy(POCKET / beside, folder)
    return folder


def fortran(state: State) -> State:
    return {name: np.asfortranarray(values) for name, values in state.items()}


def swapped(state: State) -> State:
    return {name: values.astype(values.dtype.newbyteorder(">")) for name, values in state.items()}


# ------------------------------------------------------------------------------------------------ a whole model


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "deflated"])
@pytest.mark.parametrize(
    "lie", [dict, fortran, swapped, lambda s: fortran(swapped(s))], ids=["C", "F", "big", "F, big"]
)
def test_every_tensor_comes_back(lie: Any, save: Any, state: State, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(lay(tmp_path, saved(lie(state), save))))
    assert checkpoint.storage == "NumPy"
    same(canonical(checkpoint), state)
    # Fused or cut tensors are rows of one, as they stand.
    header = find_parts(checkpoint).tensors["encoder.layer.0.intermediate.dense.weight"]
    if lie is dict:
        rows = read_tensor(header.rows(3, 9))
        assert np.array_equal(rows, state["bert.encoder.layer.0.intermediate.dense.weight"][3:9])


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_types_are_kept(dtype: Any, state: State, tmp_path: Path) -> None:
    cast = {name: values.astype(dtype) for name, values in state.items()}
    same(canonical(open_checkpoint(str(lay(tmp_path, saved(cast))))), state, dtype)


@pytest.mark.parametrize("lie", [dict, fortran, swapped], ids=["C", "F", "big"])
def test_a_folder_of_files_is_a_model(lie: Any, state: State, tmp_path: Path, run: Run) -> None:
    folder = lay(tmp_path / "m", lie(state))
    same(canonical(open_checkpoint(str(folder))), state)
    (folder / "config.json").unlink()
    same(canonical(open_checkpoint(str(folder))), state)
    found = run(["inspect", folder / "bert.pooler.dense.weight.npy"])
    refused(found, "is a single array of numpy, not a model; name its folder")
    np.save(tmp_path / "vectors.npy", np.ones(3))
    refused(run(["inspect", tmp_path / "vectors.npy"]), "a folder of them, one a tensor, is read as a model")
    refused(run(["inspect", tmp_path, "--weights", "vectors.npy"]), "is a single array of numpy")
    (tmp_path / "alone").mkdir()
    np.save(tmp_path / "alone" / "vectors.npy", np.ones(3))
    refused(run(["inspect", tmp_path / "alone"]), "holds no weights, only vectors.npy")


@pytest.mark.parametrize("names", [as_google, as_flax], ids=["TensorFlow", "Flax"])
def test_names_of_other_libraries(names: Any, state: State, tmp_path: Path) -> None:
    found = canonical(open_checkpoint(str(lay(tmp_path, saved(names(state))))))
    expected = {name.removeprefix("bert."): values for name, values in state.items()}
    assert found
    assert all(np.array_equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("part", ["model", "pooler"])
def test_what_export_wrote_opens_again(part: str, tmp_path: Path, run: Run) -> None:
    first, second = tmp_path / "a.npz", tmp_path / "b.npz"
    assert run(["export", POCKET, "--part", part, "-o", first]).code == 0
    checkpoint = open_checkpoint(str(first))
    assert checkpoint.metadata["source"] == str(POCKET)
    ours, theirs = canonical(checkpoint), canonical(open_checkpoint(str(POCKET)))
    assert all(ours[name].tobytes() == theirs[name].tobytes() for name in ours)
    assert part == "pooler" or ours.keys() == theirs.keys()
    assert run(["export", first, "--part", part, "-o", second]).code == 0
    with np.load(first) as a, np.load(second) as b:
        assert {*a} == {*b}
        assert all(a[name].tobytes() == b[name].tobytes() for name in a if name != "__metadata__")


def test_every_command_works_on_it(state: State, tmp_path: Path, run: Run) -> None:
    folder = lay(tmp_path / "m", saved(state, np.savez_compressed))
    ours, same_ = (json.loads(run(["pool", "The ship left.", "-m", ref, "--json"]).out) for ref in (folder, POCKET))
    a, b = (np.array(found["texts"][0]["pooled"]["values"]) for found in (ours, same_))
    assert np.abs(a - b).max() <= 1e-6
    assert json.loads(run(["verify", "A ship.", "-m", folder, "--json"]).out)["holds"] is True
    assert run(["diff", folder, POCKET]).code == 0


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_the_exported_model_loads_in_transformers_with_nothing_missing(
    kind: str, state: State, tmp_path: Path, run: Run
) -> None:
    from transformers import BertModel

    new = tmp_path / "new"
    new.mkdir()
    folder = lay(tmp_path / "m", saved(state) if kind == "npz" else state)
    assert run(["export", folder, "--part", "model", "-o", new / "model.safetensors"]).code == 0
    shutil.copy(POCKET / "config.json", new)
    model, info = BertModel.from_pretrained(new, output_loading_info=True)
    assert not info["missing_keys"]
    for name, values in model.state_dict().items():
        assert np.array_equal(values.float().numpy(), state[f"bert.{name}"]), name


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "deflated"])
def test_on_the_hub_it_is_read_by_ranges(save: Any, hub: Hub, state: State) -> None:
    content = saved(state, save)
    hub.add("owner/arrays", {NAME: content, "config.json": (POCKET / "config.json").read_bytes()})
    checkpoint = open_checkpoint("owner/arrays")
    assert checkpoint.bytes_read < len(content) // 3
    asked = sum(r.origin == "storage" for r in hub.requests) + sum(r.file == NAME for r in hub.requests)
    assert asked < len(checkpoint.headers)
    same(canonical(checkpoint), state)


def test_safetensors_and_pytorch_go_before(state: State, tmp_path: Path) -> None:
    lay(tmp_path, saved(state))
    shutil.copy(POCKET / "model.safetensors", tmp_path)
    assert open_checkpoint(str(tmp_path)).storage == "safetensors"
    assert open_checkpoint(str(tmp_path), weights=NAME).storage == "NumPy"


# ------------------------------------------------------------------------------------------------ what is refused


def read(content: bytes) -> State:
    return {h.name: h for h in archive.contents(Memory(content)).headers}


ODD: dict[str, tuple[Any, str]] = {
    "objects": (np.array([{}, 1], object), "Python objects, which are pickles"),
    "records": (np.zeros(3, [("a", "f4"), ("b", "i2", (2,))]), "records of several fields"),
    "bfloat16": (np.ones(3, ml_dtypes.bfloat16), "bfloat16 may be meant"),
    "text": (np.array(["a", "bc"]), "it holds text"),
    "bytes": (np.array([b"a", b"bc"]), "it holds text"),
    "complex128": (np.ones(3, np.complex128), "<c16, which is not read"),
    "longdouble": (np.ones(3, np.longdouble), "which is not read"),
    "datetime": (np.array(["2020-01-01"], "M8[D]"), "which is not read"),
}


@pytest.mark.parametrize(("array", "words"), ODD.values(), ids=ODD)
def test_what_is_no_plain_array_is_refused_by_name(
    array: Any, words: str, state: State, tmp_path: Path, run: Run
) -> None:
    found = read(saved({"a": array, "b": np.ones(2)}))
    assert words in (found["a"].refusal or "")
    assert np.array_equal(read_tensor(found["b"]), np.ones(2))
    with pytest.raises(UnsupportedFile, match="tensor a cannot be read"):
        read_tensor(found["a"])
    folder = lay(tmp_path, saved({**state, "bert.pooler.dense.weight": array}))
    assert words in " ".join(run(["inspect", folder]).out.split())


def npz(header: str, data: bytes = b"\0" * 24, version: bytes = b"\1\0", method: int = zipfile.ZIP_STORED) -> bytes:
    """An archive of one array with a header of any text."""
    text = header.encode("latin-1") + b"\n"
    length = struct.pack("<H" if version == b"\1\0" else "<I", len(text))
    return zipped([("a.npy", b"\x93NUMPY" + version + length + text + data)], method)


def zipped(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        for name, content in members:
            made.writestr(name, content)
    return file.getvalue()


PLAIN = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"
NONE = "has a header that is none"
SPELLINGS = {
    "as numpy does": PLAIN,
    "without the last comma": "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}",
    "in another order": "{'shape': (2,3), 'descr': '<f4', 'fortran_order': False}",
    "by Python 2": "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L), }",
    "with other quotes": '{"descr": "<f4", "fortran_order": False, "shape": (2, 3, )}',
    "with spaces": "{ 'descr' : '<f4' , 'fortran_order' : False , 'shape' : ( 2 , 3 ) , }      ",
}


@pytest.mark.parametrize("version", [b"\1\0", b"\2\0", b"\3\0"])
@pytest.mark.parametrize("text", SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.filterwarnings("ignore:Reading `.npy`")
def test_headers_are_read_as_numpy_does(text: str, version: bytes) -> None:
    if "2L" in text and version == b"\3\0":
        with pytest.raises(CorruptFile, match=NONE):
            read(npz(text, version=version))
        return
    content = npz(text, np.arange(6, dtype=np.float32).tobytes(), version)
    with np.load(io.BytesIO(content)) as theirs:
        assert np.array_equal(read_tensor(read(content)["a"]), theirs["a"])


HOSTILE: dict[str, tuple[bytes, str]] = {
    "a call": (npz("{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': (2,)}"), NONE),
    "no shape": (npz("{'descr': '<f4', 'fortran_order': False}"), NONE),
    "a fourth word": (npz(PLAIN.replace(", }", ", 'x': 'y'}")), NONE),
    "a word twice": (npz(PLAIN.replace(", }", ", 'descr': '<f8'}")), NONE),
    "a negative length": (npz(PLAIN.replace("2, 3", "-2, -3")), NONE),
    "a number for a shape": (npz(PLAIN.replace("(2, 3)", "(6)")), NONE),
    "a shape of text": (npz(PLAIN.replace("2, 3", "'2', 3")), NONE),
    "an order that is none": (npz(PLAIN.replace("False", "'yes'")), NONE),
    "brackets without end": (npz("{'descr': " + "[" * 5000 + ", 'shape': (2, 3)}"), NONE),
    "a list": (npz("['descr']"), NONE),
    "nothing": (npz(""), NONE),
    "40 axes": (npz(PLAIN.replace("2, 3", "1, " * 40)), "40 dimensions"),
    "a huge shape": (npz(PLAIN.replace("2, 3", f"{2**62}, 4")), "and holds 24"),
    "too much behind it": (npz(PLAIN, b"\0" * 25), "24 bytes, and holds 25"),
    "too little": (npz(PLAIN, b"\0" * 23), "24 bytes, and holds 23"),
    "a version that is none": (npz(PLAIN, version=b"\4\0"), "version 4.0"),
    "a long header": (npz(PLAIN + " " * 20_000), "a header of 20,060 bytes"),
    "a header that is cut": (
        zipped([("a.npy", b"\x93NUMPY\1\0\xff\0{")]),
        "ends within its header|does not start as",
    ),
    "another file": (zipped([("a.npy", b"\x80\4\x95" + b"." * 20)]), "does not start as an array"),
    "an empty member": (zipped([("a.npy", b"")]), "does not start as an array"),
}


@pytest.mark.parametrize(("content", "words"), HOSTILE.values(), ids=HOSTILE)
def test_a_header_that_is_none_is_refused(content: bytes, words: str) -> None:
    with pytest.raises((CorruptFile, UnsupportedFile), match=words):
        read(content)


def test_a_member_twice_is_refused() -> None:
    array = npz(PLAIN)[30 + 5 :][: 10 + 60 + 24]
    with pytest.warns(UserWarning, match="Duplicate"):
        content = zipped([("a.npy", array), ("a.npy", array)])
    with pytest.raises(CorruptFile, match="two members of the same name"):
        read(content)


def test_names_that_lead_elsewhere_lead_nowhere(tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name in ("../../a", "/etc/b", "c\\d", "é", "e"):
            part = io.BytesIO()
            np.save(part, np.ones(2))
            made.writestr(f"{name}.npy", part.getvalue())
        made.writestr("notes.txt", b"hello")
    index = archive.contents(Memory(file.getvalue()))
    with np.load(io.BytesIO(file.getvalue())) as theirs:
        assert {h.name for h in index.headers} == {*theirs} - {"notes.txt"}
    assert "notes.txt in it is no array" in index.remarks[0]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_packings_are_refused_by_name(method: int) -> None:
    header = read(npz(PLAIN, method=method))["a"]
    assert "packed by method" in (header.refusal or "")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "deflated"])
def test_a_number_that_changed_is_told(save: Any, state: State) -> None:
    content = bytearray(saved({"a": np.linspace(0, 1, 5_000, dtype=np.float32)}, save))
    content[len(content) // 2] ^= 1
    with pytest.raises(CorruptFile, match=r"checksum|packed soundly|unpack"):
        read_tensor(read(bytes(content))["a"])


def test_zeros_that_unpack_to_more_than_any_weights_are_refused() -> None:
    content = saved({"a": np.zeros(30_000_000, np.float32)}, np.savez_compressed)
    tracemalloc.start()
    with pytest.raises(UnsupportedFile, match="no weights can be packed so far"):
        read_tensor(read(content)["a"])
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_what_a_member_unpacks_to_is_bounded_by_what_it_says() -> None:
    """The table of contents and the header say 24 bytes; what is packed has a hundred million."""
    import zlib

    plain = npz(PLAIN)[35:][: 10 + 60 + 24]
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(plain) + packer.compress(b"\0" * 100_000_000) + packer.flush()
    sizes = struct.pack("<III", zlib.crc32(plain), len(packed), len(plain))
    local = b"PK\3\4\x14\0\0\0\x08\0\0\0\0\0" + sizes + struct.pack("<HH", 5, 0) + b"a.npy"
    entry = b"PK\1\2\x14\0\x14\0\0\0\x08\0\0\0\0\0" + sizes + struct.pack("<HHHHHII", 5, 0, 0, 0, 0, 0, 0) + b"a.npy"
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(entry), len(local) + len(packed), 0)
    content = local + packed + entry + end
    header = read(content)["a"]
    tracemalloc.start()
    with pytest.raises(CorruptFile, match="does not unpack to the 94 bytes"):
        read_tensor(header)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


# ------------------------------------------------------------------------------------------------ by chance

SMALL = {
    "encoder.layer.0.intermediate.dense.weight": np.arange(16, dtype=np.float32).reshape(4, 4),
    "encoder.layer.0.intermediate.dense.bias": np.ones(4, np.float32),
    "pooler.dense.weight": np.asfortranarray(np.arange(16, dtype=">f4").reshape(4, 4)),
    "pooler.dense.bias": np.ones(4, np.float16),
}
ARCHIVES = [saved(SMALL), saved(SMALL, np.savez_compressed)]


@pytest.mark.parametrize("content", ARCHIVES, ids=["stored", "deflated"])
@FUZZ
@given(data=st.data())
def test_damage_is_an_error_of_ours_or_what_numpy_reads(content: bytes, data: st.DataObject) -> None:
    damaged = data.draw(mutated(content))
    with suppress(BertprobeError):
        ours = dict(read_tensors(read(damaged)))
        with np.load(io.BytesIO(damaged)) as theirs:
            for name, array in ours.items():
                assert np.array_equal(array, theirs[name], equal_nan=True), name


ATOMS = [
    "{", "}", "(", ")", "[", "]", ",", ":", "'descr'", "'fortran_order'", "'shape'", "'<f4'", "'|O'", "True", "False",
    "2", "3", "6", "-1", "2L", "1e3", " ", "'", "\\", "None", "0x2", "2 3", "()", "(6,)", "'<f8'", "'>f4'", "'|V4'",
]  # fmt: skip


@st.composite
def headers(draw: st.DrawFn) -> str:
    """A sound header with some of its words changed."""
    words = [
        "{",
        "'descr'",
        ":",
        "'<f4'",
        ",",
        "'fortran_order'",
        ":",
        "False",
        ",",
        "'shape'",
        ":",
        "(2, 3)",
        ",",
        "}",
    ]
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(words) - 1))
        words[place : place + draw(st.integers(0, 2))] = draw(st.lists(st.sampled_from(ATOMS), max_size=2))
    return "".join(words)


@FUZZ
@given(text=headers())
@pytest.mark.filterwarnings("ignore")
def test_a_header_of_odd_words_is_refused_or_what_numpy_reads(text: str) -> None:
    content = npz(text)
    try:
        header = read(content)["a"]
    except BertprobeError:
        return
    if header.refusal is None:
        with np.load(io.BytesIO(content)) as theirs:
            array = read_tensor(header)
            assert (array.shape, array.dtype) == (theirs["a"].shape, theirs["a"].dtype.newbyteorder("<"))
            assert np.array_equal(array, theirs["a"], equal_nan=True)


def test_a_header_is_looked_at_in_time_that_follows_its_length() -> None:
    for text in ("(" * 9_000, "'" * 9_000, "{'descr':" * 900, "[(" * 4_000, " " * 9_999, "1," * 4_000):
        start = b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode()
        assert length_of(start, "it") == len(start)
        with pytest.raises(CorruptFile, match=NONE):
            parsed(start, "it")


def test_an_index_takes_time_that_follows_the_arrays() -> None:
    content = zipped([(f"{number}.npy", npz(PLAIN)[35:][: 10 + 60 + 24]) for number in range(6_000)])
    begun = time.monotonic()
    assert len(read(content)) == 6_000
    assert time.monotonic() - begun < 5
