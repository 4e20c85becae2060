"""A model in HDF5 is the model it was made of, bit for bit; and nothing in a file leads out of it or astray."""

from __future__ import annotations

import json
import shutil
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import h5file
import h5py
import numpy as np
import pytest
from conftest import Run
from equal import canonical
from h5file import F32, Book, chunked, contiguous, header, key, link, message, node, one, space
from hub import Hub
from hypothesis import given
from hypothesis import strategies as st
from kin import POCKET
from safetensors.numpy import load_file
from test_bad_input import refused
from test_fuzz import FUZZ, bounded_memory, mutated

from bertprobe.anatomy import find_parts, select
from bertprobe.checkpoint import Checkpoint, open_checkpoint, read_tensor, read_tensors
from bertprobe.checkpoint.hdf5 import chunks, heaps, objects, pages, trees
from bertprobe.checkpoint.source import LocalFile
from bertprobe.errors import BertprobeError, CorruptFile, NotAnEncoder, UnsupportedFile

HEADS = json.loads((POCKET / "config.json").read_text())["num_attention_heads"]
Saved = Callable[[Path], None]


def state() -> dict[str, np.ndarray]:
    """The built-in model without its heads."""
    found = load_file(POCKET / "model.safetensors")
    return {name: values for name, values in found.items() if name.startswith("bert.")}


STATE = state()
BASE = {name.removeprefix("bert."): values for name, values in STATE.items()}


def hub_weights(**how: Any) -> bytes:
    out = BytesIO()
    h5file.save(out, h5file.keras_hub(BASE, HEADS), **how)
    return out.getvalue()


def settled(folder: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(POCKET / name, folder)


def keras_2(folder: Path, **how: Any) -> None:
    h5file.save(folder / "tf_model.h5", h5file.tf_model(STATE), **how)
    settled(folder)


def sharded(folder: Path) -> None:
    """As `save_pretrained` cuts a large one: a shard's names lack the model's, the index has it."""
    paths = dict(h5file.kernels(STATE))
    names = sorted(paths)
    files = {name: f"tf_model-0000{1 + place % 2}-of-00002.h5" for place, name in enumerate(names)}
    for file in set(files.values()):
        h5file.save(folder / file, ((name, paths[name]) for name in names if files[name] == file))
    index = {"metadata": {}, "weight_map": {f"tf_bert_model_1/{name}": file for name, file in files.items()}}
    (folder / "tf_model.h5.index.json").write_text(json.dumps(index))
    settled(folder)


def keras_bert(folder: Path, root: str = "") -> None:
    h5file.save(folder / "model.h5", h5file.keras_bert(BASE, root))
    settled(folder)


def keras_hub(folder: Path) -> None:
    (folder / "model.weights.h5").write_bytes(hub_weights())
    settled(folder)


def in_a_task(folder: Path) -> None:
    """A backbone inside a classifier, whose own dense layer has the name of its pooler."""
    head = ("layers/dense/vars/0", np.ones((len(BASE["pooler.dense.bias"]), 2), np.float32))
    tensors = [*h5file.keras_hub(BASE, HEADS, "layers/bert_backbone/"), head]
    h5file.save(folder / "model.weights.h5", iter(tensors))
    settled(folder)


def keras_zip(folder: Path) -> None:
    """It needs no config beside it, and has its own activation: GELU by tanh."""
    content = h5file.zipped(hub_weights(), h5file.hub_settings(HEADS, BASE))
    (folder / "model.keras").write_bytes(content)
    shutil.copy(POCKET / "tokenizer.json", folder)


def preset(folder: Path) -> None:
    """As `save_to_preset` has it: the settings of Keras lie beside, under the name of transformers'."""
    (folder / "model.weights.h5").write_bytes(hub_weights())
    (folder / "config.json").write_text(json.dumps(h5file.hub_settings(HEADS, BASE)))
    shutil.copy(POCKET / "tokenizer.json", folder)


MODELS: dict[str, Saved] = {
    "tf_model.h5": keras_2,
    "the newest form": lambda folder: keras_2(folder, libver="latest"),
    "links in order": lambda folder: keras_2(folder, track_order=True),
    "behind a program's own bytes": lambda folder: keras_2(folder, userblock_size=2048),
    "gzip": lambda folder: keras_2(folder, compression="gzip", shuffle=True, fletcher32=True),
    "gzip, the newest form": lambda folder: keras_2(folder, compression="gzip", libver="latest"),
    "big endian": lambda folder: keras_2(folder, big=True),
    "in shards": sharded,
    "a whole model of Keras 2": lambda folder: h5file.save(
        folder / "model.h5", h5file.tf_model(STATE, root="model_weights/")
    ),
    "keras-bert": keras_bert,
    "a whole model of keras-bert": lambda folder: keras_bert(folder, "model_weights/"),
    "keras-hub": keras_hub,
    "keras-hub, in a classifier": in_a_task,
    "a zip of Keras 3": keras_zip,
    "a preset of keras-hub": preset,
}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    MODELS[request.param](folder)
    return folder


def equal(found: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    return all(
        found[name].shape == values.shape and found[name].tobytes() == values.tobytes()
        for name, values in expected.items()
    )


def json_of(run: Run, *argv: str | Path) -> dict[str, Any]:
    ran = run([*argv, "--json"])
    assert ran.code == 0, ran.err
    found: dict[str, Any] = json.loads(ran.out)
    return found


# ------------------------------------------------------------------------------------------------ whole models


def test_every_tensor_comes_back_under_its_name(model: Path) -> None:
    checkpoint = open_checkpoint(str(model))
    found = canonical(checkpoint)
    assert set(found) - {"layers.dense.vars.0"} == set(BASE)
    assert equal(found, BASE)
    anatomy = find_parts(checkpoint)
    assert (checkpoint.storage, anatomy.unknown_prefix) == ("HDF5", "")
    assert checkpoint.notes == ()
    assert checkpoint.bytes_read <= checkpoint.bytes_total


def test_a_part_is_exported_bit_for_bit(model: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "pooler.safetensors"
    assert run(["export", model, "-o", out]).code == 0
    assert equal(load_file(out), {name: BASE[name] for name in ("pooler.dense.weight", "pooler.dense.bias")})


@pytest.fixture(scope="module")
def keras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keras")
    keras_2(folder)
    return folder


def test_what_it_is_beside_the_same_weights_as_safetensors(keras: Path, run: Run) -> None:
    ours, same = (json_of(run, "inspect", ref) for ref in (keras, POCKET))
    for a, b in zip(ours["parts"], same["parts"], strict=True):
        for x, y in zip(a["tensors"], b["tensors"], strict=True):
            assert (x["name"], x["dtype"], x["shape"]) == (y["name"], y["dtype"], y["shape"])
            for statistic, value in y["statistics"].items():
                assert x["statistics"][statistic] == pytest.approx(value, rel=1e-5, abs=1e-9), statistic
    assert (
        "every one of them is identical" in run(["diff", keras, POCKET]).out
        or "0 differ" in run(["diff", keras, POCKET]).out
    )


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_texts_run_as_on_the_same_weights(backend: str, keras: Path, tmp_path: Path, run: Run) -> None:
    pooled = [
        json_of(run, "pool", "A text.", "-m", ref, "--backend", backend)["texts"][0]["pooled"]["values"]
        for ref in (keras, POCKET)
    ]
    assert np.abs(np.subtract(*pooled)).max() <= 1e-6
    for number, ref in enumerate((keras, POCKET)):
        out = tmp_path / f"{number}.safetensors"
        assert run(["activations", "A text.", "-m", ref, "--backend", backend, "-o", out]).code == 0
    ours, same = (load_file(tmp_path / f"{number}.safetensors") for number in (0, 1))
    assert ours.keys() == same.keys()
    assert all(np.abs(ours[name] - same[name]).max() <= 1e-5 for name in ours)


def test_verify_fills_transformers_model_from_it(keras: Path, run: Run) -> None:
    assert json_of(run, "verify", "A text.", "-m", keras)["holds"] is True


def test_settings_of_keras_say_what_its_class_computes(tmp_path: Path, run: Run) -> None:
    """A zip, and a preset, run as the same weights with a config that says so."""
    said = json.loads((POCKET / "config.json").read_text()) | {"hidden_act": "gelu_new"}
    folders = {name: tmp_path / name for name in ("zip", "preset", "plain")}
    for folder in folders.values():
        folder.mkdir()
    keras_zip(folders["zip"])
    preset(folders["preset"])
    keras_2(folders["plain"])
    (folders["plain"] / "config.json").write_text(json.dumps(said))
    vectors = [json_of(run, "pool", "A text.", "-m", folder)["texts"] for folder in folders.values()]
    assert vectors[0] == vectors[1]
    assert vectors[0][0]["pooled"]["values"] == pytest.approx(vectors[2][0]["pooled"]["values"], abs=1e-6)
    in_a_class = {"class_name": "BertTextClassifier", "config": {"backbone": h5file.hub_settings(HEADS, BASE)}}
    (tmp_path / "m.keras").write_bytes(h5file.zipped(hub_weights(), in_a_class))
    config = open_checkpoint(str(folders["preset"])).config or {}
    assert open_checkpoint(str(tmp_path / "m.keras")).config == config
    assert (config["hidden_act"], config["num_attention_heads"]) == ("gelu_new", HEADS)
    assert open_checkpoint(str(folders["zip"])).config == config


@pytest.mark.parametrize(
    "settings",
    [
        {"module": "my_models", "class_name": "BertBackbone", "config": {}},
        {"module": "keras_hub.src.models", "class_name": "RobertaBackbone", "config": {}},
        {"module": "keras_hub.src.models", "class_name": "BertBackbone", "config": {"num_layers": "2"}},
        [],
    ],
)
def test_settings_that_do_not_tell_all_are_none(settings: Any, tmp_path: Path, run: Run) -> None:
    preset(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(settings))
    if settings:
        assert open_checkpoint(str(tmp_path)).config is None
        refused(run(["pool", "A text.", "-m", tmp_path]), "config")
    (tmp_path / "config.json").unlink()
    (tmp_path / "model.weights.h5").unlink()
    (tmp_path / "model.keras").write_bytes(h5file.zipped(hub_weights(), settings))
    assert open_checkpoint(str(tmp_path)).config is None


def test_the_exported_model_loads_in_transformers_with_nothing_missing(tmp_path: Path, run: Run) -> None:
    import torch
    from transformers import BertConfig, BertForPreTraining, BertModel

    with torch.random.fork_rng():
        torch.manual_seed(5)
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        theirs = BertForPreTraining(BertConfig(vocab_size=50, max_position_embeddings=16, **sizes))
    theirs.save_pretrained(tmp_path / "theirs")
    saved = load_file(tmp_path / "theirs" / "model.safetensors")
    (tmp_path / "new").mkdir()
    h5file.save(tmp_path / "tf_model.h5", for_pretraining(saved))
    shutil.copy(tmp_path / "theirs" / "config.json", tmp_path / "new")
    out = tmp_path / "new" / "model.safetensors"
    assert run(["export", tmp_path / "tf_model.h5", "-o", out, "--part", "model"]).code == 0
    for kind in (BertForPreTraining, BertModel):
        loaded, info = kind.from_pretrained(tmp_path / "new", output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["mismatched_keys"]
    _, info = BertForPreTraining.from_pretrained(tmp_path / "new", output_loading_info=True)
    assert not info["unexpected_keys"]
    for name, values in loaded.state_dict().items():
        assert np.array_equal(values.numpy(), saved[f"bert.{name}"]), name


def for_pretraining(saved: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """As TFBertForPreTraining has it: heads under names of their own, and the embeddings once more beside one."""
    model = "tf_bert_for_pre_training"
    for path, values in h5file.kernels(saved):
        if path.startswith("bert/"):
            yield f"bert/{model}/{path}", values
            if path.startswith("bert/embeddings/"):
                yield f"mlm___cls/{model}/{path}", values
        elif "decoder" not in path:
            word = "nsp___cls" if "seq_relationship" in path else "mlm___cls"
            yield f"{word}/{model}/{word}/{path.removeprefix('cls/')}", values


@pytest.mark.parametrize("family", ["roberta", "distilbert", "albert", "electra"])
def test_other_families_are_read_under_their_names(family: str, tmp_path: Path) -> None:
    import torch
    import transformers as t

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    narrow = {**sizes, "embedding_size": 16}
    made: dict[str, Callable[[], Any]] = {
        "roberta": lambda: t.RobertaModel(t.RobertaConfig(vocab_size=50, **sizes)),
        "distilbert": lambda: t.DistilBertModel(t.DistilBertConfig(vocab_size=50, dim=32, n_layers=2, n_heads=4)),
        "albert": lambda: t.AlbertModel(t.AlbertConfig(vocab_size=50, **narrow)),
        "electra": lambda: t.ElectraModel(t.ElectraConfig(vocab_size=50, **narrow)),
    }
    with torch.random.fork_rng():
        torch.manual_seed(5)
        theirs = made[family]()
    theirs.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    named = {f"{family}.{name}": values for name, values in saved.items()}
    h5file.save(tmp_path / "tf_model.h5", h5file.tf_model(named, f"tf_{family}_model"))
    checkpoint = open_checkpoint(str(tmp_path))
    anatomy = find_parts(checkpoint)
    assert (anatomy.family, anatomy.unknown_prefix) == (family, "")
    assert set(anatomy.tensors) == set(saved)
    assert equal(dict(read_tensors(anatomy.tensors)), saved)


# ------------------------------------------------------------------------------------------ names that do not tell
# ------------------------------------------------------------------------------------------ names that do not tell


def test_layers_of_another_backbone_are_refused(tmp_path: Path) -> None:
    """With a second dense layer it is an ELECTRA, whose first one is no pooler; without segments no BERT either."""
    tensors = dict(h5file.keras_hub(BASE, HEADS))
    second = {**tensors, "layers/dense_1/vars/0": np.ones((4, 4), np.float32)}
    without = {name: values for name, values in tensors.items() if "layers/embedding/" not in name}
    for number, other in enumerate((second, without)):
        h5file.save(tmp_path / f"{number}.h5", iter(other.items()))
        with pytest.raises(NotAnEncoder, match="layers"):
            find_parts(open_checkpoint(str(tmp_path / f"{number}.h5")))


def test_adapters_of_keras_bert_are_refused(tmp_path: Path) -> None:
    extra = ("Encoder-1-FeedForward-Adapter/Encoder-1-FeedForward-Adapter/Adapter_W:0", np.ones((4, 4), np.float32))
    h5file.save(tmp_path / "m.h5", iter([*h5file.keras_bert(BASE), extra]))
    with pytest.raises(NotAnEncoder):
        find_parts(open_checkpoint(str(tmp_path / "m.h5")))


def test_other_models_are_no_encoders(tmp_path: Path, run: Run) -> None:
    h5file.save(tmp_path / "m.h5", iter([("conv1/conv1/kernel:0", np.ones((3, 3, 1, 8), np.float32))]))
    refused(run(["inspect", tmp_path / "m.h5"]), "conv1/conv1/kernel:0", "expected a BERT-like encoder")


def test_what_training_leaves_is_left_aside(tmp_path: Path) -> None:
    weights = [*h5file.tf_model(STATE, root="model_weights/")]
    slots = [(f"optimizer_weights/Adam/m/{name}", values) for name, values in weights[:5]]
    h5file.save(tmp_path / "m.h5", iter([*weights, *slots, ("optimizer_weights/Adam/iteration:0", np.int64(4))]))
    assert set(canonical(open_checkpoint(str(tmp_path / "m.h5")))) == set(BASE)


# ------------------------------------------------------------------------------------------------ all that h5py writes

CHUNKED: dict[str, dict[str, Any]] = {
    "chunks": {"chunks": (7, 5)},
    "gzip": {"chunks": (7, 5), "compression": "gzip"},
    "all filters": {"chunks": (7, 5), "compression": "gzip", "shuffle": True, "fletcher32": True},
    "checksums": {"chunks": (7, 5), "fletcher32": True},
    "one chunk": {"chunks": (50, 37)},
    "one packed chunk": {"chunks": (50, 37), "compression": "gzip"},
    "a chunk larger than it": {"chunks": (64, 64), "maxshape": (None, None)},
    "may grow": {"chunks": (7, 5), "maxshape": (80, 90)},
    "may grow, packed": {"chunks": (7, 5), "maxshape": (80, 90), "compression": "gzip"},
    "one axis without end": {"chunks": (7, 5), "maxshape": (None, 37)},
    "the other axis without end": {"chunks": (7, 5), "maxshape": (50, None), "compression": "gzip"},
    "both axes without end": {"chunks": (7, 5), "maxshape": (None, None)},
    "both axes without end, packed": {"chunks": (7, 5), "maxshape": (None, None), "compression": "gzip"},
}
UNREAD = {"lzf", "text", "empty", "compound", "enumeration"}


def everything(path: Path, **how: Any) -> None:
    """Every way to lay out numbers that h5py has, and what is no plain number."""
    values = np.random.default_rng(0).normal(size=(50, 37)).astype(np.float32)
    with h5py.File(path, "w", **how) as file:
        for name, layout in CHUNKED.items():
            file.create_dataset(name, data=values, **layout)
            file.create_dataset(f"big endian/{name}", data=values.astype(">f2"), **layout)
        for word in ("f2", "<f4", ">f4", "<f8", ">f8", "i1", "<i2", ">i4", "<i8", "u1", ">u2", "<u4", ">u8"):
            file.create_dataset(f"types/{word}", data=(values * 50).clip(0, 100).astype(word))
        file["types/bool"] = np.array([True, False, True])
        file["scalar"] = np.float32(3)
        file["no rows"] = np.zeros((0, 5), np.float32)
        for name, most in (("holes", (100, 100)), ("growing holes", (None, 100))):
            kind = {"shape": (100, 100), "chunks": (10, 10), "maxshape": most, "dtype": ">f4", "fillvalue": 3.5}
            data = file.create_dataset(name, **kind)
            data[20:30, 40:55], data[95:] = 1, 2
        file.create_dataset("never written", shape=(10, 10), dtype=np.float32, fillvalue=2)
        for name, most in (("long", (None,)), ("a long one", (9_000,))):
            file.create_dataset(name, data=np.arange(9_000, dtype=np.int32), chunks=(3,), maxshape=most)
        file.create_dataset("wide", data=values, chunks=(1, 1), maxshape=(None, None))
        for number in range(120):
            file[f"many/{number} of them"] = np.full(3, number, np.float32)
        file["kind"] = np.dtype("<f4")
        file.create_dataset("of a kind", data=values, dtype=file["kind"])
        _with(file, b"compact", values[:3], lambda made: made.set_layout(h5py.h5d.COMPACT))
        _with(file, b"early", values, _early)
        file["lzf"] = file.create_dataset("packed otherwise", data=values, compression="lzf")
        del file["packed otherwise"]
        file["text"] = ["a", "b"]
        file["empty"] = h5py.Empty("f4")
        file["compound"] = np.zeros(3, np.dtype([("a", "f4"), ("b", "i4")]))
        file.create_dataset("enumeration", data=[0, 1], dtype=h5py.enum_dtype({"RED": 0, "BLUE": 1}, "i4"))
        file.attrs["keras_version"], file.attrs["backend"] = "2.16.0", np.bytes_(b"jax")
        file.attrs["a long text"] = "x" * 70_000
        for number in range(30):
            file.attrs[f"{number} more"] = np.arange(number)


def _early(made: Any) -> None:
    made.set_chunk((7, 5))
    made.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)


def _with(file: h5py.File, name: bytes, values: np.ndarray, how: Callable[[Any], None]) -> None:
    """A data set made with settings that only h5py's inner layer has."""
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    how(made)
    shape = h5py.h5s.create_simple(values.shape)
    h5py.h5d.create(file.id, name, h5py.h5t.IEEE_F32LE, shape, made).write(h5py.h5s.ALL, h5py.h5s.ALL, values)


VERSIONS: dict[str, dict[str, Any]] = {
    "earliest": {},
    "1.8": {"libver": ("earliest", "v108")},
    "1.10": {"libver": ("v110", "v110")},
    "latest": {"libver": "latest"},
    "in order": {"track_order": True},
    "user block": {"userblock_size": 512, "libver": "latest"},
}


@pytest.mark.parametrize("how", VERSIONS.values(), ids=VERSIONS)
def test_all_that_h5py_writes_is_read_as_it_reads_it_or_refused_by_name(how: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    everything(path, **how)
    checkpoint = open_checkpoint(str(path))
    with h5py.File(path) as file:
        names: list[str] = []
        file.visititems(lambda name, found: names.append(name) if isinstance(found, h5py.Dataset) else None)
        assert set(checkpoint.headers) == set(names)
        refused_ = {name for name, header in checkpoint.headers.items() if header.refusal is not None}
        assert refused_ == UNREAD
        for name in refused_:
            with pytest.raises(UnsupportedFile, match=name):
                read_tensor(checkpoint.headers[name])
        readable = {name: header for name, header in checkpoint.headers.items() if name not in UNREAD}
        for name, found in read_tensors(readable):
            expected = file[name][()]
            assert found.shape == expected.shape, name
            assert found.tobytes() == expected.astype(expected.dtype.newbyteorder("<")).tobytes(), name
    assert checkpoint.headers["big endian/gzip"].stored_as == "F16 big endian, gzip"
    assert checkpoint.headers["compact"].stored_as == "F32"
    assert checkpoint.metadata == {"keras_version": "2.16.0", "backend": "jax"}
    assert checkpoint.notes == ("never written, so that every element is what the file fills them with: never written",)


@pytest.mark.parametrize("how", [{}, {"libver": "latest"}], ids=["earliest", "latest"])
def test_reads_that_are_requests_give_the_same(how: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    everything(path, **how)

    class Far(LocalFile):
        max_parallel = 8

    from bertprobe.checkpoint import hdf5

    near, far = (hdf5.index(kind(path)) for kind in (LocalFile, Far))
    assert [(h.name, h.shape, h.location) for h in near.headers] == [(h.name, h.shape, h.location) for h in far.headers]


def test_bfloat16_as_keras_3_notes_it(tmp_path: Path) -> None:
    import ml_dtypes

    values = np.arange(12, dtype=np.float32).reshape(3, 4).astype(ml_dtypes.bfloat16)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.create_dataset("noted", data=values.view("V2")).attrs["dtype"] = "bfloat16"
        file.create_dataset("not noted", data=values.view("V2"))
    headers = open_checkpoint(str(tmp_path / "m.h5")).headers
    assert read_tensor(headers["noted"]).tobytes() == values.tobytes()
    assert headers["noted"].dtype == "BF16"
    assert headers["not noted"].refusal is not None


# ------------------------------------------------------------------------------------------------ the Hub


def test_over_the_hub_few_ranges_are_asked_for(hub: Hub, tmp_path: Path) -> None:
    """Of a file with 199 data sets of which the matrices lie apart, as in a model of full size."""
    rng = np.random.default_rng(0)
    hidden, inner = 256, 1_024
    state: dict[str, np.ndarray] = {"embeddings.word_embeddings.weight": rng.normal(size=(3_000, hidden))}
    shapes = {"attention.self.query": hidden, "attention.output.dense": hidden, "intermediate.dense": inner}
    for layer in range(12):
        for module, out in shapes.items():
            state[f"encoder.layer.{layer}.{module}.weight"] = rng.normal(size=(out, hidden))
            state[f"encoder.layer.{layer}.{module}.bias"] = rng.normal(size=out)
    state |= {"pooler.dense.weight": rng.normal(size=(hidden, hidden)), "pooler.dense.bias": np.zeros(hidden)}
    named = {f"bert.{name}": values.astype(np.float32) for name, values in state.items()}
    h5file.save(tmp_path / "tf_model.h5", h5file.tf_model(named))
    content = (tmp_path / "tf_model.h5").read_bytes()
    hub.add("owner/h5", {"tf_model.h5": content, "config.json": (POCKET / "config.json").read_bytes()})
    checkpoint = open_checkpoint("owner/h5")
    anatomy = find_parts(checkpoint)
    opened = [request for request in hub.requests if request.file == "tf_model.h5" and request.status == 206]
    assert len(opened) <= 45, "one for each matrix that lies between two descriptions, and few more"
    assert sum(request.sent for request in opened) <= 0.15 * len(content)
    before = len(hub.requests)
    pooler = {name: header for part in select(anatomy, ["pooler"]) for name, header in part.tensors.items()}
    assert np.array_equal(dict(read_tensors(pooler))["pooler.dense.weight"], named["bert.pooler.dense.weight"])
    assert len(hub.requests) - before <= 2
    whole = open_checkpoint("owner/h5", download=True)
    assert {name: h.shape for name, h in whole.headers.items()} == {
        name: h.shape for name, h in checkpoint.headers.items()
    }


# ------------------------------------------------------------------------------------------------ what leads away


def opened(tmp_path: Path, content: bytes) -> Checkpoint:
    (tmp_path / "m.h5").write_bytes(content)
    return open_checkpoint(str(tmp_path / "m.h5"))


ONES = np.ones((2, 3), np.float32)


def test_links_to_other_files_are_not_followed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = ONES
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["kept"] = ONES
        file["led away"] = h5py.ExternalLink("other.h5", "/x")
    with h5py.File(tmp_path / "m.h5") as file:
        assert "led away" in file, "h5py follows it"
    checkpoint = open_checkpoint(str(tmp_path / "m.h5"))
    assert set(checkpoint.headers) == {"kept"}
    assert checkpoint.notes == ("links that lead to other files are not followed: led away",)


def test_data_in_other_files_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"abcd" * 100)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.create_dataset("x", (4,), np.float32, external=[(str(tmp_path / "secret"), 0, 16)])
        file["kept"] = ONES
    checkpoint = open_checkpoint(str(tmp_path / "m.h5"))
    with pytest.raises(UnsupportedFile, match="tensor x cannot be read: its data lie in other files"):
        read_tensor(checkpoint.headers["x"])


def test_virtual_data_sets_are_refused_by_name(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = ONES
    with h5py.File(tmp_path / "m.h5", "w", libver="latest") as file:
        layout = h5py.VirtualLayout(shape=(2, 3), dtype=np.float32)
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", shape=(2, 3))
        file.create_virtual_dataset("x", layout)
    with pytest.raises(UnsupportedFile, match="virtual data set"):
        read_tensor(open_checkpoint(str(tmp_path / "m.h5")).headers["x"])


def test_soft_links_are_followed_inside_the_file_and_in_no_circle(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["a/x"] = ONES
        file["near"] = h5py.SoftLink("a/x")
        file["a/again"] = h5py.SoftLink("/near")
        for name, there in (("one", "two"), ("two", "/one"), ("itself", "itself"), ("astray", "/b/c"), ("group", "a")):
            file[name] = h5py.SoftLink(there)
    checkpoint = open_checkpoint(str(tmp_path / "m.h5"))
    assert set(checkpoint.headers) == {"a/x", "near", "a/again"}
    assert len({header.location for header in checkpoint.headers.values()}) == 1
    (note,) = checkpoint.notes
    assert note == "soft links that lead to no data set are not followed: astray, group, itself and 2 more"


def test_circles_of_groups_are_walked_once(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["a/b/x"] = ONES
        file["a/b/up"] = file["a"]
        file["a/root"] = file["/"]
        file["a/itself"] = file["a"]
    checkpoint = open_checkpoint(str(tmp_path / "m.h5"))
    assert set(checkpoint.headers) == {"a/b/x"}
    assert checkpoint.notes == ("links to groups that are listed elsewhere are not followed: a/b/up, a/itself, a/root",)


def test_a_data_set_has_all_its_names(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["a/x"] = ONES
        file["y"] = file["a/x"]
    headers = open_checkpoint(str(tmp_path / "m.h5")).headers
    assert set(headers) == {"a/x", "y"}
    assert headers["y"].location == headers["a/x"].location
    assert np.array_equal(read_tensor(headers["y"]), ONES)


# ------------------------------------------------------------------------------------------------ what lies


def good(book: Book) -> int:
    """A sound data set of six numbers."""
    data = book.put(ONES.tobytes())
    return book.object(space(2, 3), F32, contiguous(data, 24))


def test_a_file_written_byte_by_byte_is_read(tmp_path: Path) -> None:
    content = one(lambda book: [link(b"x", good(book))])
    assert np.array_equal(read_tensor(opened(tmp_path, content).headers["x"]), ONES)
    with h5py.File(tmp_path / "m.h5") as file:
        assert np.array_equal(file["x"][()], ONES), "by h5py, too"


def _continued(book: Book) -> list[bytes]:
    at = book.here
    loop = message(0x10, struct.pack("<QQ", at + 16 + 24, 24))
    book.put(header(message(0, bytes(16)), loop))
    return [link(b"x", at)]


def _far_continued(book: Book) -> list[bytes]:
    return [link(b"x", book.object(message(0x10, struct.pack("<QQ", 2**50, 2**40))))]


def _lying_tree(level: int, to_itself: bool) -> Callable[[Book], list[bytes]]:
    def make(book: Book) -> list[bytes]:
        at = book.here
        book.put(node(level, [(key(24, 0, 0, 0), at if to_itself else 10)], key_size=32))
        return [link(b"x", book.object(space(2, 3), F32, chunked(at, 2, 3)))]

    return make


def _chunk(stored: int, *origins: tuple[int, int], at: int | None = None) -> Callable[[Book], list[bytes]]:
    def make(book: Book) -> list[bytes]:
        data = book.put(bytes(96))
        entries = [(key(stored, 0, *origin), data if at is None else at) for origin in origins]
        tree = book.put(node(0, entries, key_size=32))
        return [link(b"x", book.object(space(4, 3), F32, chunked(tree, 2, 3)))]

    return make


def _over_each_other(book: Book) -> list[bytes]:
    data = book.put(bytes(48))
    places = (data, data + 8)
    return [link(b"%d" % at, book.object(space(2, 3), F32, contiguous(at, 24))) for at in places]


def _named(*names: bytes) -> Callable[[Book], list[bytes]]:
    return lambda book: [link(name, good(book)) for name in names]


def _text(heap: Callable[[Book], int]) -> Callable[[Book], list[bytes]]:
    return lambda book: [link(b"x", good(book)), h5file.text(b"backend", heap(book), 4)]


def _set(*messages: bytes) -> Callable[[Book], list[bytes]]:
    return lambda book: [link(b"x", book.object(*messages))]


HUGE = 2**62
LIES: dict[str, tuple[Callable[[Book], list[bytes]], str]] = {
    "a header that goes on in itself": (_continued, "in circles|another"),
    "a header that goes on outside": (_far_continued, "something should lie at"),
    "a tree that leads to itself": (_lying_tree(1, True), "to one node twice|not of the level"),
    "a tree whose leaf is a header": (_lying_tree(1, False), "no node of a tree"),
    "a tree of too many levels": (_lying_tree(200, True), "not of the level"),
    "a chunk outside the file": (_chunk(24, (0, 0), at=2**40), "should lie at"),
    "a chunk amid another": (_chunk(24, (1, 0)), "amid another"),
    "two chunks of one place": (_chunk(24, (0, 0), (0, 0)), "out of order"),
    "chunks out of order": (_chunk(24, (2, 0), (0, 0)), "out of order"),
    "two chunks in one place": (_chunk(24, (0, 0), (2, 0)), "twice|over each other"),
    "a chunk of another size": (_chunk(20, (0, 0)), "another size"),
    "data outside the file": (_set(space(2, 3), F32, contiguous(2**40, 24)), "should lie at"),
    "data of another size": (_set(space(2, 3), F32, contiguous(96, 20)), "should have 24 bytes"),
    "a huge shape": (_set(space(HUGE, HUGE), F32, contiguous(96, 24)), "more elements than can be"),
    "a large shape": (_set(space(2**40), F32, contiguous(96, 2**42)), "should lie at"),
    "too many dimensions": (_set(space(*[1] * 40), F32, contiguous(96, 4)), "40 dimensions"),
    "no shape": (_set(F32, contiguous(96, 4)), "no type or no shape"),
    "a type without size": (
        _set(space(1), message(3, bytes([0x10, 0, 0, 0, 0, 0, 0, 0])), contiguous(96, 4)),
        "no size",
    ),
    "a group and a data set": (
        lambda book: [link(b"x", book.object(space(1), F32, contiguous(96, 4), link(b"y", good(book))))],
        "a group and a data set",
    ),
    "data over each other": (_over_each_other, "lie over each other"),
    "a name with a slash": (_named(b"a/b"), "has the name 'a/b'"),
    "a name that is a dot": (_named(b"."), r"has the name '\.'"),
    "no name": (_named(b""), "has the name ''"),
    "a name with a NUL": (_named(b"a\0b"), "has the name 'a.x00b'"),
    "a name that is not text": (_named(b"\xff"), "is not text"),
    "one name twice": (_named(b"x", b"x"), "two links of the name x"),
    "a link to nothing": (lambda book: [link(b"x", 2**40)], "something should lie at"),
    "a link into data": (lambda book: [link(b"x", book.put(b"\7" * 64))], "no object"),
    "a text outside the file": (_text(lambda book: 2**40), "something should lie at"),
    "a text that is no heap's": (
        _text(lambda book: book.put(b"GCOL\1\0\0\0" + struct.pack("<Q", 64) + bytes(48))),
        "heap",
    ),
    "a text in a header": (_text(lambda book: 96), "GCOL"),
}


@pytest.mark.parametrize(("make", "said"), LIES.values(), ids=LIES)
def test_a_lie_is_found(make: Callable[[Book], list[bytes]], said: str, tmp_path: Path) -> None:
    with bounded_memory(4_096), pytest.raises(CorruptFile, match=said):
        read_tensors_of(opened(tmp_path, one(make)))


def read_tensors_of(checkpoint: Checkpoint) -> None:
    for header_ in checkpoint.headers.values():
        if header_.refusal is None:
            read_tensor(header_)


def test_a_name_with_dots_is_a_name(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, one(_named(b"a.b", b"..", b"c:0")))
    assert set(checkpoint.headers) == {"a.b", "..", "c:0"}


def test_a_short_file_is_told(tmp_path: Path, run: Run) -> None:
    content = one(lambda book: [link(b"x", good(book))])
    (tmp_path / "m.h5").write_bytes(content[:-8])
    refused(run(["inspect", tmp_path / "m.h5"]), f"should have {len(content):,} bytes")
    for stop in range(0, len(content) - 8, 5):
        with pytest.raises(BertprobeError):
            opened(tmp_path, content[:stop])


def _never(shape: tuple[int, ...]) -> Callable[[Book], list[bytes]]:
    return _set(space(*shape), F32, contiguous(h5file.NOWHERE, 0))


def test_what_was_never_written_is_said_and_takes_no_memory(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, one(_never((2, 3))))
    assert not read_tensor(checkpoint.headers["x"]).any()
    assert "never written" in checkpoint.notes[0]
    with bounded_memory(1_000), pytest.raises(UnsupportedFile, match="of which the file holds 0"):
        read_tensor(opened(tmp_path, one(_never((2**30,)))).headers["x"])


# ------------------------------------------------------------------------------------------------ bombs and damage


def _packed(path: Path, shape: tuple[int, ...], chunk: tuple[int, ...], data: bytes) -> None:
    with h5py.File(path, "w") as file:
        made = file.create_dataset(
            "x", shape, np.float32, chunks=chunk, compression="gzip", maxshape=(None,) * len(shape)
        )
        made.id.write_direct_chunk((0,) * len(shape), data)


BOMB = zlib.compress(bytes(2**27))


@pytest.mark.parametrize(
    ("shape", "chunk", "kind"),
    [((16,), (16,), CorruptFile), ((2**30,), (2**25,), UnsupportedFile), ((10, 1), (1, 2**25), UnsupportedFile)],
)
def test_a_chunk_gives_what_it_should_or_nothing(
    shape: tuple[int, ...], chunk: tuple[int, ...], kind: type[BertprobeError], tmp_path: Path
) -> None:
    _packed(tmp_path / "m.h5", shape, chunk, BOMB)
    tracemalloc.start()
    try:
        with pytest.raises(kind):
            read_tensor(open_checkpoint(str(tmp_path / "m.h5")).headers["x"])
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("data", [zlib.compress(bytes(60)), zlib.compress(bytes(64))[:-4], b"no zlib at all"])
def test_a_chunk_that_holds_less_or_nothing_sensible_is_told(data: bytes, tmp_path: Path) -> None:
    _packed(tmp_path / "m.h5", (16,), (16,), data)
    with pytest.raises(CorruptFile, match="tensor 'x' is damaged: a chunk"):
        read_tensor(open_checkpoint(str(tmp_path / "m.h5")).headers["x"])


def test_checksums_are_verified(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=1_000).astype(np.float32)
    with h5py.File(tmp_path / "m.h5", "w", libver="latest") as file:
        file.create_dataset("x", data=values, chunks=(500,), fletcher32=True)
    content = (tmp_path / "m.h5").read_bytes()
    at = content.find(values[300:310].tobytes())
    with pytest.raises(CorruptFile, match="another checksum"):
        read_tensor(opened(tmp_path, content[:at] + b"\1" + content[at + 1 :]).headers["x"])
    for sign, further in ((b"\x89HDF", 45), (b"OHDR", 20), (b"FAHD", 9)):
        at = content.find(sign) + further
        damaged = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        with pytest.raises(CorruptFile):
            read_tensor(opened(tmp_path, damaged).headers["x"])


def _resealed(content: bytes, sign: bytes, length: int, further: int, value: int) -> bytes:
    """The file with a number of one byte changed in a block of so many bytes, and its checksum with it."""
    at = content.find(sign)
    block = bytearray(content[at : at + length])
    block[further] = value
    return content[:at] + block + struct.pack("<I", pages.lookup3(bytes(block))) + content[at + length + 4 :]


def test_what_a_growing_list_says_was_never_set_was_never_set(tmp_path: Path) -> None:
    """libhdf5 asks the list for the first that was not, whatever lies where it would: so do we."""
    with h5py.File(tmp_path / "m.h5", "w", libver="latest") as file:
        file.create_dataset("x", data=np.arange(1, 41, dtype=np.float32), chunks=(2,), maxshape=(None,))
    content = _resealed((tmp_path / "m.h5").read_bytes(), b"EAHD", 12 + 48 + 8, 12 + 32, 10)
    found = read_tensor(opened(tmp_path, content).headers["x"])
    with h5py.File(tmp_path / "m.h5") as file:
        assert np.array_equal(found, file["x"][()])
    assert not found[20:].any()


def test_a_tree_out_of_order_is_refused(tmp_path: Path) -> None:
    """libhdf5 looks for a chunk by its place: what it does not come by it takes for never written."""
    with h5py.File(tmp_path / "m.h5", "w", libver="latest") as file:
        file.create_dataset("x", data=np.ones((20, 30)), chunks=(2, 3), maxshape=(None, None))
    content = (tmp_path / "m.h5").read_bytes()
    at = content.find(b"BTLF")
    second = 6 + 24 + 16  # the second record's column of chunks
    lengths = (n for n in range(6 + 24, 4_000) if content[at + n : at + n + 4] == _seal(content[at : at + n]))
    with pytest.raises(CorruptFile, match="out of order"):
        opened(tmp_path, _resealed(content, b"BTLF", next(lengths), second, 200))


def _seal(block: bytes) -> bytes:
    return struct.pack("<I", pages.lookup3(block))


def test_a_shuffle_by_another_size_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.create_dataset("x", data=np.arange(16, dtype=np.float32), chunks=(16,), shuffle=True)
    content = (tmp_path / "m.h5").read_bytes()
    at = content.find(b"shuffle\0") + 8
    with pytest.raises(CorruptFile, match="shuffled by another size"):
        opened(tmp_path, content[:at] + b"\2" + content[at + 1 :])


def test_a_thousand_tensors_that_cost_nothing_are_not_read(tmp_path: Path, run: Run) -> None:
    """Each is as large as one alone may be: chunks that were never written, and names of the same bytes."""
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["d"] = np.ones((256, 1024), np.float32)
        for layer in range(200):
            file[f"encoder.layer.{layer}.output.dense.weight"] = file["d"]
            name = f"encoder.layer.{layer}.intermediate.dense.weight"
            file.create_dataset(name, shape=(4_000, 4_000), dtype="f4", chunks=(1_000, 1_000))
    begun = time.monotonic()
    assert run(["inspect", tmp_path / "m.h5"]).code == 0
    assert time.monotonic() - begun < 15
    checkpoint = open_checkpoint(str(tmp_path / "m.h5"))
    size = (tmp_path / "m.h5").stat().st_size
    readable = [header for header in checkpoint.headers.values() if header.refusal is None]
    assert len(readable) > 1
    assert sum(header.nbytes for header in readable) <= max(64 * 2**20, 24 * size)
    with pytest.raises(UnsupportedFile, match="far too small for as many"):
        read_tensor(checkpoint.headers["encoder.layer.199.output.dense.weight"])


def test_lookup3_is_jenkins(tmp_path: Path) -> None:
    """By the examples in lookup3.c, and of every length by a file of h5py's, whose headers carry it."""
    assert pages.lookup3(b"") == 0xDEADBEEF
    assert pages.lookup3(b"Four score and seven years ago") == 0x17770551
    with h5py.File(tmp_path / "m.h5", "w", libver="latest") as file:
        for length in range(40):
            file["x" * (length + 1)] = np.ones(1)
    assert len(open_checkpoint(str(tmp_path / "m.h5")).headers) == 40


def test_structures_that_refer_to_each_other_take_no_time(tmp_path: Path) -> None:
    """Every group of 400 has a link to every data set and to every group; a header of each begins at each byte."""
    book = Book()
    sound = good(book)
    places = [book.here + 8 * number for number in range(400)]
    links = b"".join(link(b"%d" % number, place) for number, place in enumerate(places))
    for _ in places:
        book.put(struct.pack("<BxHI", 1, 400, 1))
    book.put(links)
    with pytest.raises(BertprobeError), bounded_memory(book.here):
        opened(tmp_path, book.closed(book.object(links, link(b"x", sound))))


@pytest.mark.parametrize("how", [{}, {"libver": "latest"}], ids=["earliest", "latest"])
def test_many_small_things_are_no_fault(how: dict[str, Any], tmp_path: Path) -> None:
    """What bounds the reading of structures that lie over each other leaves room for thousands of sound ones."""
    with h5py.File(tmp_path / "m.h5", "w", **how) as file:
        for number in range(3_000):
            file.create_dataset(f"all/{number}", data=np.zeros(1, np.int8))
    size = (tmp_path / "m.h5").stat().st_size
    with bounded_memory(size):
        assert len(open_checkpoint(str(tmp_path / "m.h5")).headers) == 3_000


# ------------------------------------------------------------------------------------------------ zips


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (h5file.zipped(b"", {}), "signature is not there"),
        (h5file.zipped(hub_weights(), {}, **{"a/data.pkl": b"x"}), "and one of pickles"),
        (h5file.zipped(hub_weights(), {})[:-30], "ends before its table of contents"),
    ],
    ids=["no weights in it", "a pickle in it", "cut short"],
)
def test_odd_zips_are_refused(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "m.keras").write_bytes(content)
    with pytest.raises(CorruptFile, match=said):
        open_checkpoint(str(tmp_path / "m.keras"))


def test_a_zip_that_is_packed_or_without_weights_is_refused(tmp_path: Path) -> None:
    import zipfile

    for name, kind, said in (("model.weights.h5", 8, "packed or encrypted"), ("other", 0, "without model.weights.h5")):
        with zipfile.ZipFile(tmp_path / "m.keras", "w", kind) as file:
            file.writestr("metadata.json", "{}")
            file.writestr(name, hub_weights())
        with pytest.raises(UnsupportedFile, match=said):
            open_checkpoint(str(tmp_path / "m.keras"))


# ------------------------------------------------------------------------------------------------ anything at all


def _small(**how: Any) -> bytes:
    """A file of little data and all kinds of structures."""
    out = BytesIO()
    layouts = (
        {},
        {"chunks": (2, 2), "compression": "gzip", "fletcher32": True},
        {"chunks": (2, 2), "maxshape": (None, 4)},
        {"chunks": (2, 2), "maxshape": (None, None), "shuffle": True},
        {"chunks": (2, 2), "maxshape": (8, 8)},
    )
    with h5py.File(out, "w", **how) as file:
        file.attrs["backend"] = "tensorflow"
        for number, layout in enumerate(layouts):
            file.create_dataset(f"bert/{number}", data=np.arange(16, dtype=np.float32).reshape(4, 4), **layout)
        for number in range(10 if how else 1):
            file[f"many/{number}"] = np.float32(number)
        file["soft"] = h5py.SoftLink("/bert/0")
        file["encoder/layer_0/intermediate/dense/kernel"] = np.ones((4, 8), ">f4")
    return out.getvalue()


FILES = {
    "earliest": _small(),
    "latest": _small(libver="latest"),
    "in order": _small(track_order=True),
    "by hand": one(lambda book: [link(b"x", good(book)), h5file.text(b"backend", 2**40, 4)]),
    "a zip": h5file.zipped(_small(libver="latest"), {"class_name": "BertBackbone", "config": {}}),
}


def looked_at(path: Path) -> None:
    """All that is read of a file, tensor by tensor, so that one that is damaged hides no other."""
    with said():
        checkpoint = open_checkpoint(str(path))
        for header_ in checkpoint.headers.values():
            if header_.refusal is None:
                with said():
                    assert read_tensor(header_).shape == header_.shape
        find_parts(checkpoint)


@contextmanager
def said() -> Iterator[None]:
    """An error of ours may end it, which says what was found and what to do."""
    try:
        yield
    except BertprobeError as error:
        if not (error.found and error.hint):
            raise


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "m.keras"


@pytest.mark.parametrize("believed", [False, True], ids=["as they are", "as if checksums were right"])
@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
@FUZZ
@given(data=st.data())
def test_damage_is_read_or_refused(content: bytes, believed: bool, place: Path, data: st.DataObject) -> None:
    changed = data.draw(mutated(content))
    place.write_bytes(changed)
    with pytest.MonkeyPatch.context() as patch:
        if believed:
            for module in (objects, heaps, trees, chunks):
                patch.setattr(module, "sealed", lambda block: block[:-4])
        with bounded_memory(len(changed)):
            looked_at(place)


NUMBERS = st.sampled_from([0, 1, 2, 8, 24, 96, 255, 2**16 - 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1])


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
@FUZZ
@given(data=st.data())
def test_numbers_that_are_others_are_read_or_refused(content: bytes, place: Path, data: st.DataObject) -> None:
    """Addresses, sizes and counts of the file, put where others are."""
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        size = data.draw(st.sampled_from([1, 2, 4, 8]))
        at = data.draw(st.integers(0, len(content) - 8))
        other = data.draw(st.integers(0, len(content) - 8))
        number = data.draw(NUMBERS | st.integers(0, len(content)))
        taken = content[other : other + size] if data.draw(st.booleans()) else number.to_bytes(8, "little")[:size]
        changed[at : at + size] = taken
    place.write_bytes(bytes(changed))
    with pytest.MonkeyPatch.context() as patch:
        for module in (objects, heaps, trees, chunks):
            patch.setattr(module, "sealed", lambda block: block[:-4])
        with bounded_memory(len(changed)):
            looked_at(place)
