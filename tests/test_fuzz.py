"""Whatever the files hold, there is a report or a `BertprobeError`: no other exception, no hang, no runaway memory."""

from __future__ import annotations

import json
import pickletools
import struct
import tracemalloc
import unicodedata
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from io import BytesIO, StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cramjam
import numpy as np
import pytest
import safetensors
import torch
from bundle import How, entries, footer, sealed, varint
from bundle import save as save_bundle
from flaxfile import as_flax, nested, to_bytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory import Memory
from pickles import name as imported
from pickles import number, text
from safetensors.torch import save
from test_safetensors import packed
from test_two_readers import assert_as_torch

from bertprobe import (
    BertprobeError,
    Evidence,
    Report,
    find_parts,
    inspection,
    judge,
    measure_parts,
    open_checkpoint,
    render,
    select,
)
from bertprobe.checkpoint import DTYPES
from bertprobe.checkpoint.tensorflow import table
from bertprobe.export import Output, export

FUZZ = settings(
    max_examples=150,
    deadline=20_000,  # milliseconds: a hang, not a slow machine
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
SETTINGS = settings(FUZZ, max_examples=60)
GIVEN_MEMORY = 50  # times the size of the files
SPARE_MEMORY = 10 * 2**20


@contextmanager
def bounded_memory(size: int) -> Iterator[None]:
    """No more than the files can ask for is allocated at any moment."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= GIVEN_MEMORY * size + SPARE_MEMORY


def inspected(folder: Path, format: str) -> None:
    """All that `inspect` and `export` do, in one of the formats."""
    try:
        checkpoint = open_checkpoint(str(folder))
        anatomy = find_parts(checkpoint)
        parts = select(anatomy)
        headers_only = Evidence(checkpoint, anatomy)
        drawn(inspection(headers_only, parts, judge(headers_only)), format)
        evidence = Evidence(checkpoint, anatomy, measure_parts(parts, spectrum=True))
        drawn(inspection(evidence, parts, judge(evidence), neurons=2), format)
        output = folder / "out" / ("out.npz" if format == "table" else "out.safetensors")
        written = export(checkpoint, anatomy, None, Output(output, names="stored", force=True))
        assert output.stat().st_size == written.bytes
    except BertprobeError as error:
        if not (error.found and error.hint):
            raise


def drawn(report: Report, format: str) -> None:
    out = StringIO()
    render.show(report, format, out=out)
    text = out.getvalue()
    assert {char for char in text if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")} <= {"\n"}
    if format == "json":
        json.loads(text, parse_constant=pytest.fail)


def fuzzed(folder: Path, format: str, files: dict[str, bytes]) -> None:
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with bounded_memory(sum(map(len, files.values()))):
        inspected(folder, format)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """Where files are laid anew for each example; imports come first, for their memory is not the file's."""
    for format in render.FORMATS:
        inspected(tiny_bert, format)
    made = tmp_path_factory.mktemp("fuzz")
    (made / "out").mkdir()
    (made / "1_Pooling").mkdir()
    return made


# ------------------------------------------------------------------------------------------------ real files

STATE = {
    f"{name}.{kind}": torch.linspace(-1, 1, 4 if kind == "bias" else 16).reshape((4,) if kind == "bias" else (4, 4))
    for name in ("encoder.layer.0.intermediate.dense", "encoder.layer.1.intermediate.dense", "pooler.dense")
    for kind in ("weight", "bias")
}
CONFIG = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "hidden_size": 4,
    "intermediate_size": 4,
    "num_hidden_layers": 2,
    "hidden_act": "gelu",
    "vocab_size": 9,
    "torch_dtype": "float32",
    "position_embedding_type": "absolute",
    "pooler_hidden_act": "tanh",
    "text_config": {},
}
INDEX = {"metadata": {"total_size": 480}, "weight_map": dict.fromkeys(STATE, "a.safetensors")}
MODULES = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
POOLING = {"word_embedding_dimension": 4, "pooling_mode_mean_tokens": True, "pooling_mode": "mean"}


def torch_saved(new: bool) -> bytes:
    file = BytesIO()
    torch.save({"model": STATE, "epoch": 3}, file, _use_new_zipfile_serialization=new)
    return file.getvalue()


SAFETENSORS, ZIP, PICKLE = save(STATE, {"format": "pt"}), torch_saved(True), torch_saved(False)
HEADER: dict[str, Any] = json.loads(SAFETENSORS[8 : 8 + int.from_bytes(SAFETENSORS[:8], "little")])
DATA = SAFETENSORS[8 + int.from_bytes(SAFETENSORS[:8], "little") :]


@st.composite
def mutated(draw: st.DrawFn, content: bytes) -> bytes:
    """The content after a few bytes were changed, cut out, put in or doubled."""
    for _ in range(draw(st.integers(1, 4))):
        first, last = sorted(draw(st.tuples(st.integers(0, len(content)), st.integers(0, len(content)))))
        how = draw(st.sampled_from(["flip", "byte", "cut", "insert", "double", "truncate"]))
        if how == "flip" and first < len(content):
            flipped = content[first] ^ 1 << draw(st.integers(0, 7))
            content = content[:first] + bytes([flipped]) + content[first + 1 :]
        elif how == "byte":
            content = content[:first] + draw(st.binary(min_size=1, max_size=8)) + content[first + 1 :]
        elif how == "cut":
            content = content[:first] + content[min(last, first + draw(st.integers(1, 64))) :]
        elif how == "insert":
            content = content[:first] + draw(st.binary(max_size=32)) + content[first:]
        elif how == "double":
            content = content[:last] + content[first:last] + content[last:]
        elif how == "truncate":
            content = content[:last]
    return content


TEXT = st.text(max_size=20) | st.sampled_from(["\x1b[31m", "[red]", "a/b", "..", "bert", "F32", "gelu", "0", "4"])
NUMBERS = st.integers(-(2**70), 2**70) | st.integers(-3, 70) | st.sampled_from([2**31, 2**63 - 1, 2**63, 10**6])
SCALARS = st.none() | st.booleans() | NUMBERS | st.floats() | TEXT
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8
)


@st.composite
def altered(draw: st.DrawFn, value: Any) -> Any:
    """The same JSON after a few of its values, at any depth, were replaced, dropped or renamed."""
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(1, 3))):
        inner: Any = value
        while isinstance(inner, dict | list) and inner:
            keys: Sequence[Any] = list(inner) if isinstance(inner, dict) else range(len(inner))
            key = draw(st.sampled_from(keys))
            if isinstance(inner[key], dict | list) and inner[key] and draw(st.integers(0, 3)):
                inner = inner[key]
                continue
            how = draw(st.sampled_from(["replace", "replace", "drop", "rename"]))
            if how == "replace":
                inner[key] = draw(VALUES)
            elif how == "drop":
                del inner[key]
            elif isinstance(inner, dict):
                inner[draw(TEXT)] = inner.pop(key)
            break
    return value


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


# ------------------------------------------------------------------------------------------------ laws

FORMAT = st.sampled_from(list(render.FORMATS))
STARTS = st.sampled_from(
    [
        b"",
        b"PK\3\4",
        b"PK\5\6",
        b"\x80\2",
        b"\x80\4\x95",
        b"\x80\2\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
        (40).to_bytes(8, "little") + b"{",
        b"{",
    ]
)
PLACES = pytest.mark.parametrize(
    "place", ["model.safetensors", "pytorch_model.bin", "config.json", "model.safetensors.index.json", "modules.json"]
)


@PLACES
@SETTINGS
@given(format=FORMAT, start=STARTS, rest=st.binary(max_size=300))
def test_any_bytes_at_all(place: str, folder: Path, format: str, start: bytes, rest: bytes) -> None:
    beside = (
        {"model.safetensors": SAFETENSORS}
        if place in ("config.json", "modules.json")
        else {"a.safetensors": SAFETENSORS}
    )
    fuzzed(folder, format, {**beside, place: start + rest})


def arrays_saved(save_arrays: Any) -> bytes:
    with BytesIO() as file:
        save_arrays(file, **{name: values.numpy() for name, values in STATE.items()})
        return file.getvalue()


WEIGHTS = {
    "safetensors": ("model.safetensors", SAFETENSORS),
    "zip": ("pytorch_model.bin", ZIP),
    "pickle": ("pytorch_model.bin", PICKLE),
    "Flax": ("flax_model.msgpack", to_bytes(nested(as_flax({name: t.numpy() for name, t in STATE.items()})))),
    "npz": ("model.npz", arrays_saved(np.savez)),
    "npz, deflated": ("model.npz", arrays_saved(np.savez_compressed)),
}


@pytest.mark.parametrize(("name", "content"), WEIGHTS.values(), ids=WEIGHTS)
@FUZZ
@given(format=FORMAT, data=st.data())
def test_weights_with_damage(name: str, content: bytes, folder: Path, format: str, data: st.DataObject) -> None:
    fuzzed(folder, format, {name: data.draw(mutated(content)), "config.json": as_json(CONFIG)})


# ------------------------------------------------------------------------------------------------ torch files

BASE = torch.arange(24.0)
ODD_STATE = {
    "whole": BASE,
    "turned": BASE.reshape(4, 6).T,
    "strided": BASE[1:20:3],
    "whole numbers": torch.arange(5),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "empty": torch.ones(0, 2),
    "parameter": torch.nn.Parameter(torch.ones(2, 2)),
    "inside": {"list": [torch.ones(1), (torch.zeros(2), 1)]},
}
TORCH_STATES = [ODD_STATE, {"model": STATE, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}, "epoch": 3}]
OPCODES = [bytes([opcode]) for opcode in b"N\x88\x89)]}(012tRaesudbQo.\x81\x85\x86\x87\x8f\x94"] + [
    b"h\x00", b"h\x05", b"q\x00", b"q\x01", b"K\x00", b"K\x01", b"G" + struct.pack(">d", 1.0), b"U\x01a",
    number(-1), number(2), number(24), text("a"), text("0"), text("1"), text("data"), imported("torch", "IntStorage"),
    imported("torch", "DoubleStorage"), imported("torch", "Size"), imported("torch._utils", "_rebuild_parameter"),
    imported("torch._utils", "_rebuild_tensor"), imported("torch._utils", "_rebuild_parameter_with_state"),
    imported("collections", "OrderedDict"), imported("collections", "Counter"),
]  # fmt: skip


@st.composite
def altered_pickle(draw: st.DrawFn, program: bytes) -> bytes:
    """The same pickle after a few of its instructions were changed for each other or for others, dropped or doubled."""
    starts = [at for _, _, at in pickletools.genops(program)]
    parts = [program[a:b] for a, b in zip(starts, [*starts[1:], starts[-1] + 1], strict=True)]
    like: dict[bytes, list[int]] = {}
    for at, part in enumerate(parts):
        like.setdefault(part[:1], []).append(at)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(parts) - 1))
        how = draw(st.sampled_from(["like", "like", "other", "insert", "drop", "double", "move"]))
        if how == "like":
            parts[at] = parts[draw(st.sampled_from(like.get(parts[at][:1], [at])))]
        elif how == "other":
            parts[at] = draw(st.sampled_from(OPCODES))
        elif how == "insert":
            parts[at] = draw(st.sampled_from(OPCODES)) + parts[at]
        elif how == "drop":
            parts[at] = b""
        elif how == "double":
            parts[at] = b"".join(parts[at : at + draw(st.integers(1, 60))]) + parts[at]
        else:
            other = draw(st.integers(0, len(parts) - 1))
            parts[at], parts[other] = parts[other], parts[at]
    return b"".join(parts)


@st.composite
def altered_members(draw: st.DrawFn, data: bytes) -> bytes:
    """The same zip, packed again after members were renamed, doubled, dropped, cut or put in another order."""
    with zipfile.ZipFile(BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    if draw(st.booleans()):
        members = [(name, draw(altered_pickle(data)) if name.endswith("/data.pkl") else data) for name, data in members]
    names = [name for name, _ in members]
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(members) - 1))
        called, content = members[at]
        how = draw(st.sampled_from(["name", "case", "double", "drop", "cut", "order"]))
        if how == "name":
            members[at] = (draw(st.sampled_from([*names, "archive/data/é", "archive/byteorder", "data.pkl"])), content)
        elif how == "case":
            members[at] = (called.upper(), content)
        elif how == "double":
            members.insert(at, (draw(st.sampled_from([called, called.upper(), called + "/"])), content[::-1]))
        elif how == "drop" and len(members) > 1:
            del members[at]
        elif how == "cut":
            members[at] = (called, content[: draw(st.integers(0, len(content)))])
        else:
            members = draw(st.permutations(members))
    file = BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")  # of the same name twice
        for called, content in members:
            archive.writestr(called, content)
    return file.getvalue()


@st.composite
def altered_directory(draw: st.DrawFn, data: bytes) -> bytes:
    """The same zip with other numbers in its table of contents, its end record or a local header, or a second table."""
    end = data.rindex(b"PK\5\6")
    size, start = struct.unpack("<II", data[end + 12 : end + 20])
    entries = [at for at in range(start, start + size) if data[at : at + 4] == b"PK\1\2"]
    mutant = bytearray(data)
    for _ in range(draw(st.integers(1, 2))):
        entry = draw(st.sampled_from(entries))
        (local,) = struct.unpack("<I", data[entry + 42 : entry + 46])
        places = [
            *((entry, at) for at in (8, 10, 20, 24, 28, 30, 32, 34, 38, 42, 46, 54)),
            *((local, at) for at in (0, 6, 8, 18, 22, 26, 28, 31)),
            *((end, at) for at in (4, 6, 8, 10, 12, 16, 20)),
        ]
        base, offset = draw(st.sampled_from(places))
        old = mutant[base + offset]
        mutant[base + offset] = draw(st.sampled_from([0, 1, 16, 255, old ^ 32, (old + 1) % 256, (old - 1) % 256]))
    if draw(st.integers(0, 3)) == 0:
        mutant[end:end] = draw(st.sampled_from([data[start:end], data, bytes(64)]))
    return bytes(mutant)


def old_parts(data: bytes) -> list[bytes]:
    """The five pickles of an old file, and the storages after them."""
    parts = []
    for _ in range(5):
        *_, (_, _, last) = pickletools.genops(data)
        parts.append(data[: last + 1])
        data = data[last + 1 :]
    return [*parts, data]


def saved_as(state: Any, new: bool) -> bytes:
    file = BytesIO()
    torch.save(state, file, _use_new_zipfile_serialization=new)
    return file.getvalue()


TORCH_ZIPS = [saved_as(state, True) for state in TORCH_STATES]
TORCH_OLD = [old_parts(saved_as(state, False)) for state in TORCH_STATES]
COMPARED = settings(FUZZ, max_examples=400)


@COMPARED
@given(data=st.data(), content=st.sampled_from(TORCH_ZIPS))
def test_a_zip_that_is_packed_otherwise_has_the_values_that_torch_reads(data: st.DataObject, content: bytes) -> None:
    with suppress(BertprobeError):
        assert_as_torch(data.draw(altered_members(content)), loads=None)


@COMPARED
@given(data=st.data(), content=st.sampled_from(TORCH_ZIPS))
def test_a_zip_with_another_table_has_the_values_that_torch_reads(data: st.DataObject, content: bytes) -> None:
    with suppress(BertprobeError):
        assert_as_torch(data.draw(altered_directory(content)), loads=None)


@COMPARED
@given(data=st.data(), parts=st.sampled_from(TORCH_OLD))
def test_an_old_file_with_other_pickles_has_the_values_that_torch_reads(
    data: st.DataObject, parts: list[bytes]
) -> None:
    changed = data.draw(st.sampled_from([0, 1, 2, 3, 3, 3, 3, 3, 4]))
    program = data.draw(altered_pickle(parts[changed]))
    with suppress(BertprobeError):
        assert_as_torch(b"".join([*parts[:changed], program, *parts[changed + 1 :]]), loads=None)


# ------------------------------------------------------------------------------------------------ bundles

BUNDLE_STATE = {
    f"bert/{name}".replace("layer.", "layer_").replace(".", "/").replace("weight", "kernel"): values.numpy()
    for name, values in STATE.items()
} | {"bert/pooler/dense/kernel/adam_m": STATE["pooler.dense.weight"].numpy()}
KERNEL = "bert/encoder/layer_1/intermediate/dense/kernel"
PLAIN = How(shards=2, block=200, slices={KERNEL: [[(0, 1), (0, -1)], [(1, 3), (0, -1)]]})


def bundled(how: How) -> dict[str, bytes]:
    with TemporaryDirectory() as folder:
        save_bundle(Path(folder) / "m.ckpt", BUNDLE_STATE, how)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


BUNDLES = [bundled(PLAIN), bundled(replace(PLAIN, snappy=True))]
BUNDLE_ROWS = list(table.rows(Memory(BUNDLES[0]["m.ckpt.index"])))


@pytest.mark.parametrize("files", BUNDLES, ids=["plain", "snappy"])
@FUZZ
@given(format=FORMAT, data=st.data())
def test_bundles_with_damage(files: dict[str, bytes], folder: Path, format: str, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(files)))
    altered_file = {name: data.draw(mutated(files[name]))}
    fuzzed(folder, format, {**files, **altered_file, "bert_config.json": as_json(CONFIG)})


@FUZZ
@given(format=FORMAT, data=st.data(), snappy=st.booleans())
def test_bundles_whose_damage_has_the_right_checksums(
    folder: Path, format: str, data: st.DataObject, snappy: bool
) -> None:
    """A block, an entry or the list of blocks is altered before its checksum is taken, so that the reader sees it."""
    rows = list(BUNDLE_ROWS)
    what = data.draw(st.sampled_from(["entry", "key", "block", "list"]))
    at = data.draw(st.integers(0, len(rows) - 1))
    if what == "entry":
        rows[at] = (rows[at][0], data.draw(mutated(rows[at][1])))
    elif what == "key":
        rows[at] = (data.draw(mutated(rows[at][0])), rows[at][1])
    content = entries(sorted(rows), every=data.draw(st.sampled_from([1, 16])))
    if what == "block":
        content = data.draw(mutated(content))
    packed = bytes(cramjam.snappy.compress_raw(content)) if snappy else content
    if snappy and data.draw(st.booleans()):
        packed = data.draw(mutated(packed))
    block = sealed(packed, int(snappy))
    listing = entries([(b"z", varint(0) + varint(len(packed)))])
    if what == "list":
        listing = data.draw(mutated(listing))
    end = footer(varint(0) + varint(0), varint(len(block)) + varint(len(listing)))
    fuzzed(folder, format, {**BUNDLES[0], "m.ckpt.index": block + sealed(listing) + end})


@FUZZ
@given(format=FORMAT, content=st.binary(max_size=300), named=st.text(max_size=30))
def test_a_file_called_checkpoint_of_any_content(folder: Path, format: str, content: bytes, named: str) -> None:
    quoted = f'model_checkpoint_path: "{named}"'.encode(errors="replace")
    fuzzed(folder, format, {**BUNDLES[0], "checkpoint": quoted if named else content})


@FUZZ
@given(format=FORMAT, header=altered(HEADER))
def test_a_header_with_odd_values(folder: Path, format: str, header: Any) -> None:
    fuzzed(folder, format, {"model.safetensors": packed(as_json(header)) + DATA})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", CONFIG),
        ("model.safetensors.index.json", INDEX),
        ("modules.json", MODULES),
        ("1_Pooling/config.json", POOLING),
        ("adapter_config.json", {"base_model_name_or_path": "a/b"}),
    ],
)
@SETTINGS
@given(format=FORMAT, data=st.data())
def test_settings_with_odd_values(name: str, content: Any, folder: Path, format: str, data: st.DataObject) -> None:
    stem = {"model.safetensors.index.json": "a", "adapter_config.json": "adapter_model"}.get(name, "model")
    fuzzed(folder, format, {f"{stem}.safetensors": SAFETENSORS, name: as_json(data.draw(altered(content)))})
    (folder / name).unlink()


LAYER = st.integers(0, 3) | st.sampled_from([12, 10**6, 10**9 - 1])
MODULE = st.sampled_from(
    [
        "encoder.layer.{}.intermediate.dense",
        "encoder.layer.{}.intermediate.LayerNorm",
        "encoder.layer.{}.layout_intermediate.dense",
        "encoder.layer.{}.intermediate_query.dense",
        "encoder.layer.{}.ffn.0.intermediate.dense",
        "encoder.layers.{}.mlp.fc11",
        "encoder.layers.{}.mlp.fc12",
        "encoder.layers.{}.mlp.fc1",
        "encoder.layer.{}.mlp.up_gate_proj",
        "layers.{}.mlp.Wi",
        "layers.{}.mlp.up_proj",
        "layers.{}.mlp.gate_proj",
        "encoder.albert_layer_groups.0.albert_layers.{}.ffn",
        "encoder.block.{}.layer.1.DenseReluDense.wi_0",
        "encoder.layers.{}.intermediate.conv1d",
        "transformer.layer.{}.ffn.lin1",
        "pooler.dense",
        "pooler",
        "embeddings.word_embeddings",
    ]
)
TYPE = st.none() | VALUES | st.sampled_from(["bert", "modernbert", "gte", "t5", "xlm", "eurobert", "lxmert"])
PREFIX = st.sampled_from(["", "", "", "bert.", "module.", "0.auto_model.", "\x1b[31m[red].", "a.b."])
KIND = st.sampled_from(["weight", "weight", "bias"])
SHAPE = st.lists(st.sampled_from([0, 1, 2, 3, 5, 8, 70]), max_size=3) | st.sampled_from(
    [[0, 2**62], [0, 2**59], [2**62, 0], [2**20, 0], [0, 2**62, 2**62], [2**40, 0, 3]]
)


@st.composite
def sound(draw: st.DrawFn) -> bytes:
    """A safetensors file without a fault, of odd names, dtypes, shapes and values."""
    header, end = {}, 0
    for _ in range(draw(st.integers(1, 6))):
        name = draw(PREFIX) + draw(MODULE).format(draw(LAYER)) + "." + draw(KIND)
        dtype, shape = draw(st.sampled_from([*DTYPES, *["F32"] * 20])), draw(SHAPE)
        count = 1
        for n in shape:
            count *= n
        if name not in header and count % DTYPES[dtype].items == 0 and count <= 100_000:
            header[name] = {
                "dtype": dtype,
                "shape": shape,
                "data_offsets": (end, end := end + DTYPES[dtype].nbytes(count)),
            }
    values = draw(st.binary(min_size=1, max_size=64))
    content = packed(as_json(header)) + (values * (end // len(values) + 1))[:end]
    safetensors.deserialize(content)
    return content


@FUZZ
@given(format=FORMAT, content=sound(), config=st.none() | altered(CONFIG), model_type=TYPE)
def test_sound_files_of_odd_content(folder: Path, format: str, content: bytes, config: Any, model_type: Any) -> None:
    files = {"model.safetensors": content}
    if isinstance(config, dict):
        files["config.json"] = as_json(config | ({} if model_type is None else {"model_type": model_type}))
    fuzzed(folder, format, files)
