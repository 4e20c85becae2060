"""A file format is a row and a module: nothing else names one, and a row that nobody foresaw is enough."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toy
from conftest import Run
from hub import Hub
from kin import POCKET
from safetensors.numpy import load_file, save_file
from test_architecture import imported, modules
from test_bad_input import refused

from bertprobe import storages
from bertprobe.anatomy import dialects, find_parts
from bertprobe.checkpoint import Checkpoint, LocalFile, open_checkpoint, read_tensor, read_tensors, tensors
from bertprobe.checkpoint.tensors import Derived, Dtype, Piece, TensorHeader
from bertprobe.cli import completion
from bertprobe.errors import CorruptFile
from bertprobe.verdicts import Evidence, judge

HERE = Path(__file__).parent

# ------------------------------------------------------------------------------------------------ one place

NAMES = re.compile(
    r"safetensors|pytorch_model|^pytorch$|torch\.save|tensorflow|flax|msgpack|\.np[yz]\b|gguf|onnx|pickle|\.(?:bin|pth?|ckpt|index|h5)\b",
    re.IGNORECASE,
)
HOMES = (
    "storages.py",
    "checkpoint/safetensors.py",
    "checkpoint/torch_pickle/",
    "checkpoint/tensorflow/",
    "checkpoint/flax/",
    "checkpoint/numpy_archive/",
    "checkpoint/zipped/",
    "checkpoint/onnx/",
    "checkpoint/hdf5/",
    "checkpoint/gguf/",
)
WRITES = "what bertprobe writes is safetensors, whatever it reads"
EXCEPTIONS = {
    "builtin.py": "the built-in model is a file of one format",
    "cli/versions.py": "the libraries whose versions matter",
    "cli/weights.py": WRITES,
    "export/files.py": WRITES,
    "extract/shard.py": WRITES,
    "neurons/embedded.py": WRITES,
    "neurons/state.py": WRITES,
    "export/graft.py": WRITES,
    "export/matrices.py": WRITES,
    "export/tensors.py": WRITES,
    "export/vectors.py": WRITES,
    "transformers_model/allowed.py": "a setting of transformers has such a name",
    "recipe/tools.py": "what files other tools need",
    "anatomy/dialects/gguf.py": "the rows of DIALECTS say whose names they are",
    "anatomy/dialects/tensorflow.py": "the rows of DIALECTS say whose names they are",
    "anatomy/dialects/flax.py": "the rows of DIALECTS say whose names they are",
    "verdicts/headers.py": "hints write safetensors; a finding has the name of its format, and wrappers are of pickles",
}


def literals(tree: ast.Module) -> list[str]:
    """The texts in a module that are not documentation."""
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in told)
    return [str(node.value) for node in nodes if isinstance(node.value, str | bytes)]


def test_formats_are_named_in_their_row_and_their_module_alone() -> None:
    naming = {path for path, tree in modules() if any(map(NAMES.search, literals(tree)))}
    assert {path for path in naming if not path.startswith(HOMES)} == set(EXCEPTIONS)


def test_no_module_but_a_row_imports_a_format() -> None:
    for path, tree in modules():
        if not path.startswith(HOMES):
            names = " ".join(imported(tree))
            assert not re.search(
                r"bertprobe\.checkpoint\.(safetensors|torch_pickle|tensorflow|flax|numpy_archive|onnx|hdf5|gguf)\b",
                names,
            ), path


# ------------------------------------------------------------------------------------------------ a row more


@pytest.fixture
def row(monkeypatch: pytest.MonkeyPatch) -> storages.Storage:
    monkeypatch.setattr(storages, "STORAGES", (*storages.STORAGES, toy.ROW))
    return toy.ROW


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    return {name: values.astype(np.float32) for name, values in load_file(POCKET / "model.safetensors").items()}


@pytest.fixture(scope="module")
def content(stored: dict[str, np.ndarray]) -> bytes:
    """The built-in model in the toy format, which carries its config and its tokenizer."""
    return toy.written(stored, {name: (POCKET / name).read_text() for name in ("config.json", "tokenizer.json")})


def same(checkpoint: Checkpoint, stored: dict[str, np.ndarray]) -> bool:
    read = dict(read_tensors(checkpoint.headers))
    return read.keys() == stored.keys() and all(np.array_equal(read[name], stored[name]) for name in stored)


@pytest.mark.usefixtures("row")
@pytest.mark.parametrize("way", ["a path", "a folder", "--weights", "a path with no suffix"])
def test_it_opens_from_a_path_and_from_a_folder(
    way: str, content: bytes, stored: dict[str, np.ndarray], tmp_path: Path
) -> None:
    name = "plain" if way == "a path with no suffix" else "some.toy"
    (tmp_path / name).write_bytes(content)
    (tmp_path / "optimizer.toy").write_bytes(b"left by training")
    ref = tmp_path / name if way.startswith("a path") else tmp_path
    checkpoint = open_checkpoint(str(ref), weights=name if way == "--weights" else "")
    assert (checkpoint.storage, [file.name for file in checkpoint.files]) == ("Toy", [name])
    assert same(checkpoint, stored)
    assert checkpoint.config == json.loads((POCKET / "config.json").read_text())
    assert find_parts(checkpoint).layers == find_parts(open_checkpoint(str(POCKET))).layers


@pytest.mark.usefixtures("row")
def test_shards_of_it_are_one_model(stored: dict[str, np.ndarray], tmp_path: Path) -> None:
    names = sorted(stored)
    for number, half in enumerate((names[::2], names[1::2]), 1):
        part = toy.written({name: stored[name] for name in half}, {})
        (tmp_path / f"model-0000{number}-of-00002.toy").write_bytes(part)
    for ref in (tmp_path, tmp_path / "model-00002-of-00002.toy"):
        assert same(open_checkpoint(str(ref)), stored)


@pytest.mark.usefixtures("row")
def test_it_opens_from_the_hub(hub: Hub, content: bytes, stored: dict[str, np.ndarray]) -> None:
    hub.add("owner/toy", {"weights.toy": content, "README.md": b"a toy"})
    for download in (False, True):
        checkpoint = open_checkpoint("owner/toy", download=download)
        assert checkpoint.storage == "Toy"
        assert same(checkpoint, stored)
        assert checkpoint.config is not None


@pytest.mark.usefixtures("row")
def test_what_it_carries_is_used_and_what_lies_beside_it_goes_before(content: bytes, tmp_path: Path, run: Run) -> None:
    tmp_path = tmp_path / "model"
    tmp_path.mkdir()
    (tmp_path / "some.toy").write_bytes(content)
    vectors = [json.loads(run(["pool", "A text.", "-m", ref, "--json"]).out) for ref in (tmp_path, POCKET)]
    assert vectors[0]["texts"] == vectors[1]["texts"]
    (tmp_path.parent / "config.json").write_text("{}")  # of something else
    assert open_checkpoint(str(tmp_path)).config_file is None
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_act": "relu"}))
    checkpoint = open_checkpoint(str(tmp_path))
    assert (checkpoint.config or {})["hidden_act"] == "relu"
    assert checkpoint.config_file == tmp_path / "config.json"


@pytest.mark.usefixtures("row")
def test_names_of_its_own_are_a_row_of_dialects(
    stored: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`bert.encoder.layer.0.intermediate.dense.weight` as `block/0/up/matrix`, (in, out)."""
    rules = ((re.compile(r"^block/(\d+)/up/"), r"bert/encoder/layer/\1/intermediate/dense/"),)
    row = dialects.Dialect(
        "Toy 1", "Toy", re.compile("/matrix$"), (), lambda _: rules, {"matrix": "weight"}, frozenset({"matrix"}),
        re.compile("^step$"),
    )  # fmt: skip
    monkeypatch.setattr(dialects, "DIALECTS", (row, *dialects.DIALECTS))
    ours = re.compile(r"bert\.encoder\.layer\.(\d+)\.intermediate\.dense\.weight")
    renamed = {ours.sub(r"block/\1/up/matrix", name): t.T if ours.match(name) else t for name, t in stored.items()}
    (tmp_path / "some.toy").write_bytes(toy.written({**renamed, "step": np.ones(1)}, {}))
    shutil.copy(POCKET / "config.json", tmp_path)
    checkpoint = open_checkpoint(str(tmp_path))
    anatomy, plain = find_parts(checkpoint), find_parts(open_checkpoint(str(POCKET)))
    assert anatomy.spelling == "Toy"
    assert {name: header.shape for name, header in anatomy.tensors.items()} == {
        name: header.shape for name, header in plain.tensors.items()
    }
    assert "prefix-not-stripped" not in {finding.rule for finding in judge(Evidence(checkpoint, anatomy, {}))}
    stranger = find_parts(replace(checkpoint, storage="PyTorch"))
    found = judge(Evidence(replace(checkpoint, storage="PyTorch"), stranger, {}))
    assert "tensor names are in Toy's spelling" in " ".join(finding.message for finding in found)


@pytest.mark.usefixtures("row")
def test_every_word_on_formats_tells_of_it(
    content: bytes, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    refused(run(["inspect", "empty"]), "or .toy file")
    (tmp_path / "odd").write_bytes(b"something else")
    refused(run(["inspect", "odd"]), "nor Toy", "or a .toy file")
    (tmp_path / "odd.ot").write_bytes(b"something else")
    refused(run(["inspect", "odd.ot"]), "only safetensors, PyTorch", "and Toy checkpoints are read")
    (tmp_path / "damaged.toy").write_bytes(b"something else")
    refused(run(["inspect", "damaged.toy"]), "does not start with TOY")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "some.toy").write_bytes(content)
    assert {"damaged.toy", "model"} <= set(completion.models(""))
    assert "odd" not in completion.models("")


def test_help_tells_of_it() -> None:
    code = (
        "from bertprobe import storages\nimport toy\nstorages.STORAGES += (toy.ROW,)\n"
        "from bertprobe.cli import main\nmain(['inspect', '--help'])"
    )
    seen = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]), "COLUMNS": "200", "NO_COLOR": "1"}
    out = subprocess.run([sys.executable, "-c", code], env=seen, capture_output=True, text=True, check=True).stdout
    assert ".toy, .index.json" in out


def test_it_is_refused_without_its_row(content: bytes, tmp_path: Path, run: Run) -> None:
    (tmp_path / "some.toy").write_bytes(content)
    refused(run(["inspect", tmp_path / "some.toy"]), "starts with b'TOY")


# ------------------------------------------------------------------------------------------------ blocks


def test_a_type_may_lie_in_blocks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """18 bytes for 32 weights are no number of bits an element."""
    block = Dtype("Q4", 32, 18, None, "float")
    monkeypatch.setitem(tensors.DTYPES, "Q4", block)
    save_file({"x": np.zeros(1000, np.float32)}, tmp_path / "x.safetensors")
    source = open_checkpoint(str(tmp_path / "x.safetensors")).files[0]
    header = TensorHeader("x", "Q4", (6, 64), (Piece(source, 100, 100 + 216),))
    assert (block.bits, header.nbytes) == (4.5, 216)
    rows = header.rows(2, 5)
    assert (rows.shape, rows.pieces[0].start, rows.pieces[0].stop) == ((3, 64), 172, 280)
    with pytest.raises(tensors.UnsupportedFile, match=r"4\.5 bits an element"):
        tensors.check_readable(header)
    with pytest.raises(tensors.UnsupportedFile, match="odd way"):
        TensorHeader("x", "Q4", (6, 16), (Piece(source, 0, 54),)).rows(1, 3)


# ------------------------------------------------------------------------------------------------ numbers that are made


def _source(tmp_path: Path, *arrays: np.ndarray) -> tuple[LocalFile, list[TensorHeader]]:
    """A file with arrays of bytes one after the other, and a header of each."""
    path = tmp_path / "bytes"
    path.write_bytes(b"".join(array.tobytes() for array in arrays))
    source, end, headers = LocalFile(path), 0, []
    for place, array in enumerate(arrays):
        piece = Piece(source, end, end + array.nbytes)
        names = {np.dtype(np.int8): "I8", np.dtype(np.float32): "F32"}
        headers.append(TensorHeader(f"part {place}", names[array.dtype], array.shape, (piece,)))
        end = piece.stop
    return source, headers


def _scaled(codes: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return codes.astype(np.float32) * scale


def test_numbers_may_be_made_of_several_tensors(tmp_path: Path) -> None:
    codes, scale = np.arange(-6, 6, dtype=np.int8).reshape(3, 4), np.array([0.5, 2, 4], np.float32)[:, None]
    _, parts = _source(tmp_path, codes, np.zeros(100_000, np.int8), scale)
    made = TensorHeader("x", "F32", (3, 4), derived=Derived((parts[0], parts[2]), _scaled, "int8", "by a scale a row"))
    wanted = codes.astype(np.float32) * scale
    found = dict(read_tensors({"x": made, "turned": made.permuted((1, 0)), "rows": made.rows(1, 3), "raw": parts[0]}))
    assert np.array_equal(found["x"], wanted)
    assert np.array_equal(found["turned"], wanted.T)
    assert np.array_equal(found["rows"], wanted[1:])
    assert np.array_equal(found["raw"], codes)
    assert (made.stored_as, made.rows(1, 3).stored_as, parts[0].stored_as) == ("int8", "int8", "I8")
    assert [piece.start for piece in made.all_pieces] == [0, 100_012]
    again = TensorHeader("y", "F32", (4,), derived=Derived((made,), lambda whole: whole.sum(0), "sums"))
    assert np.array_equal(read_tensor(again), wanted.sum(0))


def test_what_is_made_must_be_what_was_promised(tmp_path: Path) -> None:
    _, parts = _source(tmp_path, np.ones((3, 4), np.int8), np.ones(1, np.float32))
    for shape, dtype in (((4, 3), "F32"), ((3, 4), "F16")):
        with pytest.raises(CorruptFile, match="comes to"):
            read_tensor(TensorHeader("x", dtype, shape, derived=Derived(tuple(parts), _scaled, "int8")))
    huge = TensorHeader("x", "F32", (2**30,), derived=Derived(tuple(parts), _scaled, "int8"))
    with pytest.raises(tensors.UnsupportedFile, match="of which the file holds 16"):
        read_tensor(huge)
    refused_part = replace(parts[0], refusal="because")
    with pytest.raises(tensors.UnsupportedFile, match="because"):
        read_tensor(TensorHeader("x", "F32", (3, 4), derived=Derived((refused_part, parts[1]), _scaled, "int8")))
