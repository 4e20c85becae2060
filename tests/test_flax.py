"""A Flax file is the model it was made of, bit for bit; of its bytes only the heads of arrays are read for an index."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import ml_dtypes
import msgpack
import numpy as np
import pytest
from conftest import Run
from equal import canonical, same
from flaxfile import as_flax, flattened, nested, packed_array, to_bytes
from hub import Hub
from hypothesis import given, settings
from hypothesis import strategies as st
from kin import POCKET
from memory import Memory
from safetensors.numpy import load_file, save_file
from test_bad_input import refused
from test_fuzz import FUZZ, mutated

from bertprobe.anatomy import find_parts
from bertprobe.checkpoint import open_checkpoint, read_tensors
from bertprobe.checkpoint.flax import recognises, walk
from bertprobe.checkpoint.flax.model import contents
from bertprobe.errors import BertprobeError, CorruptFile, UnsupportedFile

State = dict[str, Any]
NAME = "flax_model.msgpack"
KERNEL = "encoder/layer/0/intermediate/dense/kernel"


@pytest.fixture(scope="module")
def state() -> State:
    return {name: values.astype(np.float32) for name, values in load_file(POCKET / "model.safetensors").items()}


@pytest.fixture(scope="module")
def plain(state: State) -> bytes:
    return to_bytes(nested(as_flax(state)))


def lay(folder: Path, content: bytes, name: str = NAME) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    for beside in ("config.json", "tokenizer.json"):
        shutil.copy(POCKET / beside, folder)
    return folder


# ------------------------------------------------------------------------------------------------ a whole model


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
def test_every_tensor_comes_back(dtype: Any, state: State, tmp_path: Path) -> None:
    cast = {name: values.astype(dtype) for name, values in state.items()}
    checkpoint = open_checkpoint(str(lay(tmp_path, to_bytes(nested(as_flax(cast))))))
    assert (checkpoint.storage, find_parts(checkpoint).spelling) == ("Flax", "Flax")
    same(canonical(checkpoint), state, dtype)


def test_large_arrays_lie_in_chunks(state: State, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(lay(tmp_path, to_bytes(nested(as_flax(state)), chunk=50_000))))
    assert sum(header.derived is not None for header in checkpoint.headers.values()) > 10
    same(canonical(checkpoint), state)
    assert {header.stored_as for header in checkpoint.headers.values()} == {"F32"}


def test_shards_are_one_model(state: State, tmp_path: Path) -> None:
    flat = as_flax(state)
    shards = {f"flax_model-0000{n + 1}-of-00002.msgpack": dict(list(flat.items())[n::2]) for n in range(2)}
    for name, part in shards.items():
        lay(tmp_path, to_bytes(nested(part)), name)
    same(canonical(open_checkpoint(str(tmp_path))), state)
    index = {"metadata": {}, "weight_map": {name: shard for shard, part in shards.items() for name in part}}
    (tmp_path / f"{NAME}.index.json").write_text(json.dumps(index))
    for ref in (tmp_path, tmp_path / f"{NAME}.index.json", tmp_path / next(iter(shards))):
        same(canonical(open_checkpoint(str(ref))), state)
    (tmp_path / next(iter(shards))).unlink()
    with pytest.raises(BertprobeError, match="1 of them missing"):
        open_checkpoint(str(tmp_path))


@pytest.mark.parametrize("name", ["a.mpk", "other.msgpack", "no suffix"])
def test_it_is_told_by_its_bytes(name: str, plain: bytes, state: State, tmp_path: Path) -> None:
    same(canonical(open_checkpoint(str(lay(tmp_path, plain, name) / name))), state)


def test_safetensors_beside_it_goes_before(plain: bytes, tmp_path: Path) -> None:
    lay(tmp_path, plain)
    shutil.copy(POCKET / "model.safetensors", tmp_path)
    checkpoint = open_checkpoint(str(tmp_path))
    assert checkpoint.storage == "safetensors"
    assert f"not {NAME} beside it" in " ".join(checkpoint.notes)


STATES = {
    "variables": (lambda tree: {"params": tree, "batch_stats": {}}, "params"),
    "a training state": (
        lambda tree: {
            "opt_state": {"0": {"count": np.int32(3), "mu": tree, "nu": tree}, "1": {}},
            "params": tree,
            "step": 7,
        },
        "params",
    ),
    "variables in a state": (
        lambda tree: {"params": {"params": tree}, "step": np.int64(7), "rng": None},
        "params.params",
    ),
    "the optimizer of old flax": (
        lambda tree: {"optimizer": {"state": {"param_states": tree, "step": 1}, "target": tree}},
        "optimizer.target",
    ),
}


@pytest.mark.parametrize(("wrap", "wrapper"), STATES.values(), ids=STATES)
def test_the_model_is_found_among_what_training_keeps(wrap: Any, wrapper: str, state: State, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(lay(tmp_path, to_bytes(wrap(nested(as_flax(state)))))))
    assert checkpoint.wrapper == wrapper
    same(canonical(checkpoint), state)
    assert not [note for note in checkpoint.notes if "several" in note]


def test_another_model_beside_it_is_told_and_chosen(state: State, tmp_path: Path) -> None:
    mean = {name: values / 2 for name, values in state.items()}
    content = to_bytes({"ema_params": nested(as_flax(mean)), "params": nested(as_flax(state))})
    folder = lay(tmp_path, content)
    checkpoint = open_checkpoint(str(folder))
    assert "params is read; others to choose as root: ema_params" in " ".join(checkpoint.notes)
    same(canonical(checkpoint), state)
    same(canonical(open_checkpoint(str(folder), root="ema_params")), mean)


def test_names_with_dots_are_flaxs_in_safetensors(state: State, tmp_path: Path, run: Run) -> None:
    """As transformers 4 saved Flax models to safetensors."""
    save_file(as_flax(state, "."), tmp_path / "model.safetensors", metadata={"format": "flax"})
    shutil.copy(POCKET / "config.json", tmp_path)
    same(canonical(open_checkpoint(str(tmp_path))), state)
    assert "tensor names are in Flax's spelling" in " ".join(run(["inspect", tmp_path]).out.split())


def test_names_without_maps_are_read_alike(state: State, tmp_path: Path) -> None:
    same(canonical(open_checkpoint(str(lay(tmp_path, to_bytes(as_flax(state)))))), state)
    same(canonical(open_checkpoint(str(lay(tmp_path, to_bytes(state))))), state)


@pytest.mark.parametrize("family", ["roberta", "distilbert", "electra", "albert", "big_bird", "xlm-roberta"])
def test_other_families_keep_their_names(family: str, tmp_path: Path) -> None:
    import zoo

    zoo.save(family, tmp_path / "theirs")
    theirs = open_checkpoint(str(tmp_path / "theirs"))
    stored = load_file(tmp_path / "theirs" / "model.safetensors")
    ours = tmp_path / "ours"
    ours.mkdir()
    (ours / NAME).write_bytes(to_bytes(nested(as_flax(stored))))
    shutil.copy(tmp_path / "theirs" / "config.json", ours)
    found, expected = canonical(open_checkpoint(str(ours))), canonical(theirs)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


# ------------------------------------------------------------------------------------------------ commands


def test_every_command_works_on_it(plain: bytes, tmp_path: Path, run: Run) -> None:
    folder = lay(tmp_path / "m", plain)
    ours, same_ = (json.loads(run(["pool", "The ship left.", "-m", ref, "--json"]).out) for ref in (folder, POCKET))
    a, b = (np.array(found["texts"][0]["pooled"]["values"]) for found in (ours, same_))
    assert np.abs(a - b).max() <= 1e-6
    assert json.loads(run(["verify", "A ship.", "-m", folder, "--json"]).out)["holds"] is True
    told = run(["diff", folder, POCKET])
    assert told.code == 0
    found = json.loads(run(["inspect", folder, "--json"]).out)
    assert found["facts"]["storage"] == "Flax"
    assert "transformers 5 reads no Flax files" in " ".join(f["message"] for f in found["findings"])


def test_the_exported_model_loads_in_transformers_with_nothing_missing(
    plain: bytes, state: State, tmp_path: Path, run: Run
) -> None:
    from transformers import BertModel

    new = tmp_path / "new"
    new.mkdir()
    folder = lay(tmp_path / "m", plain)
    assert run(["export", folder, "--part", "model", "-o", new / "model.safetensors"]).code == 0
    shutil.copy(POCKET / "config.json", new)
    model, info = BertModel.from_pretrained(new, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    for name, values in model.state_dict().items():
        assert np.array_equal(values.float().numpy(), state[f"bert.{name}"]), name


# ------------------------------------------------------------------------------------------------ few bytes


@pytest.fixture(scope="module")
def wide() -> bytes:
    """A model of twelve layers whose matrices are larger than a window."""
    draw = np.random.default_rng(0)
    tree = {}
    for layer in range(12):
        for path, shape in (
            ("attention/self/query", (128, 128)),
            ("attention/self/key", (128, 128)),
            ("attention/self/value", (128, 128)),
            ("attention/output/dense", (128, 128)),
            ("intermediate/dense", (128, 512)),
            ("output/dense", (512, 128)),
        ):
            tree[f"encoder/layer/{layer}/{path}/bias"] = draw.normal(size=shape[1]).astype(np.float32)
            tree[f"encoder/layer/{layer}/{path}/kernel"] = draw.normal(size=shape).astype(np.float32)
        tree[f"encoder/layer/{layer}/output/LayerNorm/scale"] = np.ones(128, np.float32)
    tree["embeddings/word_embeddings/embedding"] = draw.normal(size=(2000, 128)).astype(np.float32)
    tree["pooler/dense/kernel"] = draw.normal(size=(128, 128)).astype(np.float32)
    return to_bytes(nested(tree))


def test_on_the_hub_few_bytes_are_read_and_layers_side_by_side(wide: bytes, hub: Hub) -> None:
    hub.add("owner/flax", {NAME: wide, "config.json": (POCKET / "config.json").read_bytes()})
    checkpoint = open_checkpoint("owner/flax")
    asked = [r for r in hub.requests if r.origin == "storage"]
    # A window a matrix; without looking ahead each would be waited for.
    assert len(asked) <= 12 * 7 + 12
    assert checkpoint.bytes_read < len(wide) // 5
    found = dict(read_tensors({name: checkpoint.headers[name] for name in checkpoint.headers if KERNEL in name}))
    assert np.array_equal(found[KERNEL], flattened(_unpacked(wide))[KERNEL])


def test_windows_that_were_expected_are_not_asked_for_again(wide: bytes) -> None:
    """What reads one after the other is the first layer, and little else."""
    source = Parallel(wide)
    headers = contents(source).headers
    assert len(headers) == 12 * 13 + 2
    assert source.waited <= 20
    assert contents(Memory(wide)).headers[5].shape == headers[5].shape


class Parallel(Memory):
    """A file that serves several reads at a time, and counts those that were waited for alone."""

    max_parallel = 8
    waited = 0

    def read(self, start: int, stop: int) -> bytes:
        self.waited += 1
        return super().read(start, stop)

    def load(self, start: int, stop: int, memory: Any = None) -> memoryview:
        return memoryview(self.data[start:stop])


def _unpacked(content: bytes) -> Any:
    """The tree as the msgpack library reads it."""

    def extension(code: int, data: bytes) -> Any:
        shape, dtype, values = msgpack.unpackb(data, raw=True)
        return np.frombuffer(values, dtype.decode()).reshape(shape)

    return msgpack.unpackb(content, ext_hook=extension)


def test_an_index_reads_no_arrays(wide: bytes) -> None:
    source = Memory(wide)
    contents(source)
    assert source.bytes_read < len(wide) // 10


# ------------------------------------------------------------------------------------------------ what may be wrong

ARRAY = msgpack.ExtType(1, packed_array(np.ones((2, 3), np.float32)))


def packed(value: Any) -> bytes:
    content: bytes = msgpack.packb(value)
    return content


def array_of(shape: Any, dtype: Any, data: Any) -> bytes:
    return packed({"a": {"kernel": msgpack.ExtType(1, packed((shape, dtype, data)))}})


CHUNKS = {"__msgpack_chunked_array__": True, "shape": {"0": 12}, "chunks": {"0": ARRAY, "1": ARRAY}}
FLAT = msgpack.ExtType(1, packed_array(np.ones(6, np.float32)))
KEY = b"\xa1a"
HOSTILE: dict[str, tuple[bytes, str]] = {
    "a map that promises too much": (b"\xdf\xff\xff\xff\xff" + KEY, "goes on beyond its end"),
    "a map of one too few": (b"\x82" + KEY + b"\x80", "goes on beyond its end|ends within"),
    "a list that promises too much": (b"\x81" + KEY + b"\xdd\xff\xff\xff\xff", "goes on beyond its end"),
    "an array beyond the end": (b"\x81" + KEY + b"\xc9\xff\xff\xff\xff\1abc", "goes on beyond its end"),
    "an array that is cut": (to_bytes({"a": np.ones(9, np.float32)})[:-1], "goes on beyond its end"),
    "something behind it": (to_bytes({"a": np.ones(9, np.float32)}) + b"\0", "goes on for 1 bytes"),
    "a name twice": (b"\x82" + KEY + b"\x80" + KEY + b"\x80", "has the name a twice"),
    "one name of two ways": (packed({"a": {"b": ARRAY}, "a/b": ARRAY}), "two arrays under the name"),
    "a name that is a number": (b"\x82" + KEY + b"\x80\x01\x80", "no text"),
    "a name that is bytes": (b"\x82" + KEY + b"\x80\xc4\x01a\x80", "no text"),
    "a name that is no UTF-8": (b"\x82" + KEY + b"\x80\xa1\xff\x80", "not UTF-8"),
    "a name that is too long": (packed({"a": {}, "b" * 2000: ARRAY}), "name of 2,000 bytes"),
    "names that are too long together": (
        packed({"a" * 60: nested({"b" * 900 + "/" + "c" * 200: ARRAY})}),
        "longer names",
    ),
    "no value": (b"\x82" + KEY + b"\x80\xa1b\xc1", "byte 0xc1"),
    "maps without end": (b"\x81" + KEY + (b"\x81" + KEY) * 100 + b"\x80", "64 deep"),
    "lists without end": (b"\x81" + KEY + b"\x91" * 100 + b"\x80", "64 deep"),
    "a shape that is not its bytes": (array_of((2, 4), "float32", b"0" * 24), "32 bytes, and holds 24"),
    "a shape that is negative": (array_of((-2, -3), "float32", b"0" * 24), "not of whole numbers"),
    "a shape of text": (array_of("ab", "float32", b"0" * 24), "has no shape"),
    "a shape of fractions": (array_of((2.0,), "float32", b"0" * 8), "not of whole numbers"),
    "a shape of many axes": (array_of((1,) * 40, "float32", b"0" * 4), "40 dimensions"),
    "a type that is none": (array_of((2,), 3, b"0" * 8), "has no type"),
    "an array that is no list": (packed({"a": msgpack.ExtType(1, packed({}))}), "not a shape, a type and bytes"),
    "an array of four": (packed({"a": msgpack.ExtType(1, packed([(2,), "float32", b"0" * 8, 1]))}), "not a shape"),
    "an array with more behind": (
        packed({"a": msgpack.ExtType(1, packed(((2,), "float32", b"0" * 8)) + b"\0")}),
        "does not end where",
    ),
    "chunks that are matrices": (packed({"a": CHUNKS}), "chunks that are not its shape"),
    "chunks of another shape": (
        packed({"a": {**CHUNKS, "shape": {"0": 13}, "chunks": {"0": FLAT, "1": FLAT}}}),
        "not its shape",
    ),
    "chunks with a gap": (packed({"a": {**CHUNKS, "chunks": {"0": FLAT, "2": FLAT}}}), "not numbered from 0"),
    "chunks without shape": (packed({"a": {**CHUNKS, "shape": {}, "chunks": {"0": FLAT, "1": FLAT}}}), "not its shape"),
    "no chunks": (packed({"a": {**CHUNKS, "chunks": {}}}), "not its shape"),
    "a list": (packed([ARRAY]), "does not begin with a map"),
}


@pytest.mark.parametrize(("content", "words"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_damaged_is_refused_by_name(content: bytes, words: str, tmp_path: Path, run: Run) -> None:
    with pytest.raises((CorruptFile, UnsupportedFile), match=words):
        contents(Memory(content))
    (tmp_path / NAME).write_bytes(content)
    refused(run(["inspect", tmp_path / NAME]))


def test_values_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "MAX_VALUES", 1_000)
    with pytest.raises(UnsupportedFile, match="more than 1,000 values"):
        contents(Memory(packed({"a": [None] * 1_001})))
    assert not contents(Memory(packed({"a": [None] * 900, "b": 1.5, "c": "text", "d": 2**64 - 1, "e": -3}))).headers


def test_names_that_grow_cost_no_more_than_the_file() -> None:
    """A long name in front of many short ones would be written out for each."""
    many = {f"{n:04}": np.float32(1) for n in range(9_999)}
    content = to_bytes({"a" * 900: many})
    tracemalloc.start()
    with pytest.raises(UnsupportedFile, match="longer names"):
        contents(Memory(content))
    assert tracemalloc.get_traced_memory()[1] < 50 * len(content)
    tracemalloc.stop()


def test_a_type_that_is_not_known_is_listed_and_refused(state: State, tmp_path: Path, run: Run) -> None:
    flat = as_flax(state)
    flat["bert/pooler/dense/kernel"] = flat["bert/pooler/dense/kernel"].astype(np.complex128)
    folder = lay(tmp_path, to_bytes(nested(flat)))
    found = run(["inspect", folder])
    assert "its type is complex128, which is not read" in " ".join(found.out.split())
    refused(run(["export", folder, "-o", tmp_path / "x.safetensors"]), "complex128")


def test_scalars_and_arrays_without_elements() -> None:
    values = {
        "a": np.float32(2),
        "b": np.zeros((0, 3), np.float16),
        "c": np.array(True),
        "d": np.arange(3, dtype=np.uint8),
    }
    found = dict(read_tensors({h.name: h for h in contents(Memory(to_bytes(values))).headers}))
    assert all(np.array_equal(found[name], values[name]) and found[name].dtype == values[name].dtype for name in values)


@pytest.mark.parametrize(
    "head",
    [
        b"\x80",
        b"\x80\x02}q",
        b"\x80\x04\x95",
        b"\x89HDF\r\n\x1a\n",
        b"\x89PNG\r\n",
        b"GGUF",
        b"PK\3\4",
        b"{",
        b"",
        b"\x81",
    ],
)
def test_other_files_are_not_taken_for_it(head: bytes) -> None:
    assert not recognises(head)


# ------------------------------------------------------------------------------------------------ by chance

SMALL = to_bytes(
    {
        "params": nested(
            {
                "encoder/layer/0/intermediate/dense/kernel": np.arange(16, dtype=np.float32).reshape(4, 4),
                "encoder/layer/0/intermediate/dense/bias": np.ones(4, np.float32),
                "encoder/layer/1/intermediate/dense/kernel": np.ones((4, 4), ml_dtypes.bfloat16),
                "embeddings/LayerNorm/scale": np.ones(4, np.float32),
                "pooler/dense/kernel": np.ones((4, 4), np.float32),
            }
        ),
        "step": 7,
    },
    chunk=40,
)


@FUZZ
@given(content=mutated(SMALL))
def test_damage_is_an_error_of_ours_or_what_the_library_reads(content: bytes) -> None:
    read_and_compared(content)


LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=5)
ARRAYS = st.sampled_from(
    [ARRAY, FLAT, msgpack.ExtType(1, b"\x93"), msgpack.ExtType(2, b"12"), msgpack.ExtType(3, FLAT.data)]
)
KEYS = st.sampled_from(["a", "b", "0", "1", "shape", "chunks", "params", "a/b", "", "__msgpack_chunked_array__"])
TREES = st.recursive(
    LEAVES | ARRAYS, lambda inner: st.dictionaries(KEYS, inner, max_size=4) | st.lists(inner, max_size=3), max_leaves=12
)


@settings(FUZZ, max_examples=200)
@given(tree=st.dictionaries(KEYS, TREES, min_size=1, max_size=4))
def test_odd_trees_are_read_or_refused(tree: Any) -> None:
    read_and_compared(packed(tree))


def read_and_compared(content: bytes) -> None:
    """What is read has the numbers that the msgpack library gives."""
    try:
        found = dict(read_tensors({h.name: h for h in walk.Walk(Memory(content)).headers}))
    except BertprobeError:
        return
    theirs = {}

    def extension(code: int, data: bytes) -> Any:
        if code not in (1, 3):
            return None
        shape, dtype, values = msgpack.unpackb(data, raw=True)
        kind = ml_dtypes.bfloat16 if dtype == b"bfloat16" else dtype.decode()
        return np.frombuffer(values, kind).reshape(shape)

    theirs = _leaves(msgpack.unpackb(content, ext_hook=extension), "")
    for name, array in theirs.items():
        if name in found:
            assert found[name].tobytes() == array.tobytes()
    assert found.keys() >= {name for name in theirs if "chunk" not in name}


def _leaves(tree: Any, name: str) -> dict[str, Any]:
    if isinstance(tree, np.ndarray):
        return {name: tree}
    members = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    if isinstance(tree, dict) and "__msgpack_chunked_array__" in tree:
        return {}
    return {n: a for key, value in members for n, a in _leaves(value, f"{name}/{key}" if name else str(key)).items()}
