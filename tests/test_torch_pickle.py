"""What `torch.save` writes is read back bit for bit, nothing in a file is run, and a broken file is only refused."""

from __future__ import annotations

import argparse
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory import Counting
from pickles import indexed, old, saved, text, zipped
from reading import by_name

from bertprobe.checkpoint import torch_pickle
from bertprobe.checkpoint.reading import read_tensor, read_tensors
from bertprobe.checkpoint.source import LocalFile
from bertprobe.checkpoint.tensors import Index
from bertprobe.checkpoint.torch_pickle.state_dict import WRAPPERS
from bertprobe.errors import BertprobeError, CorruptFile, UnsupportedFile

CHECKPOINTS = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "checkpoints"
FORMATS = pytest.mark.parametrize("new", [True, False], ids=["zip", "old"])
SETTINGS = settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
}


class Makes:
    """Pickled as a call of `function`, so that loading the file would make that call."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def bits(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().clone(memory_format=torch.contiguous_format).reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def assert_same(index: Index, expected: dict[str, torch.Tensor]) -> None:
    assert [header.name for header in index.headers] == list(expected)
    for header, array in ((header, read_tensor(header)) for header in index.headers):
        tensor = expected[header.name]
        assert header.refusal is None
        assert header.dtype == DTYPES[tensor.dtype]
        assert header.shape == array.shape == tuple(tensor.shape), header.name
        assert np.ascontiguousarray(array).tobytes() == bits(tensor), header.name


def refusals(index: Index) -> dict[str, str]:
    return {header.name: header.refusal for header in index.headers if header.refusal is not None}


def exercised(data: bytes) -> None:
    """Index a file and read what it offers: arrays or a `BertprobeError`, nothing else."""
    try:
        index = indexed(data)
    except BertprobeError:
        return
    for header in index.headers:
        if header.refusal is None:
            try:
                array = read_tensor(header)
            except BertprobeError:
                continue
            assert array.shape == header.shape
            assert array.nbytes <= len(data)


def random(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    raw = torch.randint(0, 100, shape, generator=generator)
    return raw > 50 if dtype == torch.bool else raw.to(dtype)


# ---- Round trips ----


def check_round_trip(content: dict[str, torch.Tensor], path: Path, new: bool) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=new)
    untyped = {torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2}
    broken = not new and any(tensor.dtype in untyped for tensor in content.values())
    # torch writes these dtypes in the old format, then fails to load them (UntypedStorage has no dtype).
    expected = content if broken else torch.load(path, weights_only=True)
    assert list(expected) == list(content)
    assert_same(torch_pickle.index(LocalFile(path)), expected)


@FORMATS
@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPES.values())
def test_every_dtype_is_read_bit_for_bit(dtype: torch.dtype, new: bool, tmp_path: Path) -> None:
    base = random(dtype, 6, 8)
    content = {
        "whole": base,
        "scalar": random(dtype, 1).reshape(()),
        "empty": random(dtype, 0, 3),
        "empty slice": base[6:],
        "rows": base[2:4],
        "element": base[5, 7],
        "one row, any stride": base[3:4].T[:1],
    }
    check_round_trip(content, tmp_path / "pytorch_model.bin", new)


@FORMATS
@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPES.values())
def test_every_dtype_is_read_bit_for_bit_in_strides(dtype: torch.dtype, new: bool, tmp_path: Path) -> None:
    base = random(dtype, 6, 8)
    content = {
        "transposed": base.T,
        "columns": base[:, 3:5],
        "every other": base[::2, ::3],
        "one column": base[3:4].T,
        "three axes": random(dtype, 2, 3, 4).permute(2, 0, 1),
    }
    check_round_trip(content, tmp_path / "pytorch_model.bin", new)


@FORMATS
@SETTINGS
@given(data=st.data())
def test_any_view_is_read_as_torch_reads_it(new: bool, data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    tensor = torch.arange(int(np.prod(shape)), dtype=torch.int32).reshape(shape)
    tensor = tensor.permute(data.draw(st.permutations(range(len(shape)))))
    for axis in range(len(shape)):
        start = data.draw(st.integers(0, tensor.shape[axis]))
        tensor = tensor[(slice(None),) * axis + (slice(start, None, data.draw(st.integers(1, 3))),)]
    assert_same(indexed(saved({"view": tensor}, new)), {"view": tensor})


@FORMATS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_binary_pickle_protocol(new: bool, protocol: int) -> None:
    content = {"é": torch.ones(2), "p": torch.nn.Parameter(torch.zeros(3, 2)), "u": torch.ones(2, dtype=torch.uint16)}
    file = BytesIO()
    torch.save(content, file, pickle_protocol=protocol, _use_new_zipfile_serialization=new)
    assert torch_pickle.recognises(file.getvalue()[:64])
    assert_same(indexed(file.getvalue()), content)


@FORMATS
def test_a_model_with_shared_weights_parameters_and_metadata(new: bool) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 4))
    model[2].weight = model[0].weight
    state = model.state_dict(keep_vars=True)
    assert isinstance(state, OrderedDict)
    assert "_metadata" in vars(state)
    index = indexed(saved(state, new))
    assert_same(index, state)
    places = {header.name: header.location for header in index.headers}
    assert places["0.weight"] == places["2.weight"] != places["0.bias"]


def test_parameters_and_tensors_with_attributes() -> None:
    content = {
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "tensor": torch.ones(2),
        "buffer": torch.nn.Buffer(torch.zeros(2)),
    }
    for tensor in content.values():
        vars(tensor)["note"] = "kept"
    assert_same(indexed(saved(content)), content)


@FORMATS
def test_many_storages_and_a_pickle_longer_than_the_first_read(new: bool) -> None:
    content = {f"{'long' * 20}.{n}": torch.full((3,), n) for n in range(700)}
    data = saved(content, new)
    assert_same(indexed(data), content)
    assert len(zipfile.ZipFile(BytesIO(data)).read("archive/data.pkl")) > torch_pickle.HEAD if new else True


@pytest.mark.parametrize("folder", ["camphr-bert-test", "camphr-ner_bert"])
def test_real_files_from_2020(folder: str) -> None:
    path = CHECKPOINTS / folder / "pytorch_model.bin"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    assert_same(torch_pickle.index(LocalFile(path)), torch.load(path, weights_only=True))


# ---- Which tensors ----


def training_checkpoint() -> tuple[torch.nn.Module, dict[str, Any]]:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    args = argparse.Namespace(lr=0.1, betas=(0.9, 0.99), where=Path("out"))
    return model, {"epoch": 3, "optimizer": optimizer.state_dict(), "args": args, "best_loss": torch.tensor(0.5)}


@FORMATS
@pytest.mark.parametrize("key", [*WRAPPERS, "my_own_key"])
def test_weights_are_found_among_an_optimizer_and_other_baggage(key: str, new: bool) -> None:
    model, content = training_checkpoint()
    if key == "my_own_key":
        del content["best_loss"]
    index = indexed(saved({**content, key: model.state_dict()}, new))
    assert index.wrapper == key
    assert_same(index, model.state_dict())


@FORMATS
def test_wrappers_inside_wrappers(new: bool) -> None:
    weights = {"w": torch.ones(2)}
    index = indexed(saved({"checkpoint": {"state_dict": {"model": weights}}, "epoch": 1}, new))
    assert index.wrapper == "checkpoint.state_dict.model"
    assert_same(index, weights)


def several(**states: Any) -> dict[str, Any]:
    return {"epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.zeros(9)}}, "param_groups": []}, **states}


@FORMATS
def test_several_models_are_all_listed(new: bool) -> None:
    one, two = ({f"layer.{i}": torch.full((2,), float(i + n)) for i in range(8)} for n in (0, 100))
    for names in (("teacher", "student"), ("model", "ema"), ("query", "document")):
        content = several(**{names[0]: one, names[1]: {"state_dict": two}, "losses": {"a": torch.zeros(1)}})
        index = indexed(saved(content, new))
        assert index.wrapper == names[0]
        assert_same(index, one)
        assert list(index.models) == [f"{names[1]}.state_dict"]
        assert_same(Index(index.models[f"{names[1]}.state_dict"]), two)
    assert indexed(saved(several(model=one), new)).models == {}


def test_a_model_that_is_not_sound_does_not_hide_the_other() -> None:
    odd = {f"a{i}": torch.ones(1) for i in range(5)} | {"a": {"b": torch.ones(1)}, "a.b": torch.ones(1)}
    index = indexed(saved({"model": {f"b{i}": torch.ones(1) for i in range(9)}, "ema": odd}))
    assert index.wrapper == "model"
    assert index.models == {}


def test_what_lies_below_is_flattened() -> None:
    a, b, c, d = (torch.full((2,), n) for n in range(4))
    content = {"a": a, "nested": {"b": b, 5: [c, {"d": d}]}, ("skipped",): a, "text": "x", "none": None}
    assert_same(indexed(saved(content)), {"a": a, "nested.b": b, "nested.5.0": c, "nested.5.1.d": d})


def test_bare_tensors_and_lists() -> None:
    assert_same(indexed(saved(torch.ones(2))), {"tensor": torch.ones(2)})
    assert_same(indexed(saved([torch.ones(2), (torch.zeros(1),)])), {"0": torch.ones(2), "1.0": torch.zeros(1)})


@pytest.mark.parametrize("content", [{}, [], {"epoch": 3}, "text", None, {"deep": [{"er": ()}]}])
@FORMATS
def test_no_tensors_is_an_empty_index(content: Any, new: bool) -> None:
    assert indexed(saved(content, new)) == Index(())


@FORMATS
def test_a_whole_model_is_refused_by_its_class(new: bool) -> None:
    for content in (torch.nn.Linear(2, 2), {"model": torch.nn.Linear(2, 2), "epoch": 1}, [torch.nn.Linear(2, 2)]):
        with pytest.raises(UnsupportedFile, match=r"torch.nn.modules.linear.Linear.*save model.state_dict\(\) instead"):
            indexed(saved(content, new))


def test_torchscript_is_refused() -> None:
    file = BytesIO()
    names = ("m/data.pkl", "m/constants.pkl", "m/code/__torch__.py")
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"\x80\x02N.")
    with pytest.raises(UnsupportedFile, match="TorchScript"):
        indexed(file.getvalue())


# ---- Tensors that cannot be read do not hide the others ----


@FORMATS
def test_expanded_views_keep_dtype_and_shape(new: bool) -> None:
    few = torch.arange(3, dtype=torch.float16)
    windows = torch.arange(6).as_strided((3, 4), (1, 1))
    content = {"wide": few.expand(4, 3), "windows": windows, "sound": few, "one": torch.ones(1).expand(1)}
    index = indexed(saved(content, new))
    assert set(refusals(index)) == {"wide", "windows"}
    wide = index.headers[0]
    assert (wide.dtype, wide.shape) == ("F16", (4, 3))
    assert "expanded view of fewer values" in refusals(index)["wide"]
    assert_same(Index(index.headers[2:]), {"sound": few, "one": torch.ones(1)})


def test_an_expanded_view_of_enough_values_is_read() -> None:
    view = torch.arange(12).as_strided((2, 3), (0, 2))
    assert_same(indexed(saved({"view": view})), {"view": view})


def test_other_kinds_of_tensors_are_refused_for_what_they_are() -> None:
    dense = torch.eye(3)
    content = {
        "sparse": dense.to_sparse(),
        "meta": torch.ones(2, device="meta"),
        "conjugated": torch.ones(2, dtype=torch.complex64).conj(),
        "negated": torch.ones(2, dtype=torch.complex64).conj().imag,
        "doubly complex": torch.ones(2, dtype=torch.complex128),
        "dense": dense,
    }
    index = indexed(saved(content))
    found = refusals(index)
    words = {"sparse": "sparse", "meta": "meta", "conjugated": "conj", "negated": "neg", "doubly complex": "complex128"}
    assert list(found) == list(words)
    assert all(word in found[name] for name, word in words.items())
    assert_same(Index(index.headers[-1:]), {"dense": dense})
    with pytest.raises(UnsupportedFile, match="sparse"):
        list(read_tensors(by_name(index.headers)))


def storage_of(tensor: torch.Tensor) -> Any:
    return tensor._typed_storage()  # type: ignore[no-untyped-call]


def call(storage: Any, offset: Any = 0, size: Any = (2,), stride: Any = (1,), *more: Any) -> Makes:
    return Makes(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict(), *more)


@FORMATS
@pytest.mark.parametrize(
    ("offset", "size", "stride", "reason"),
    [
        (1, (2,), (1,), "beyond its storage"),
        (0, (2,), (2,), "beyond its storage"),
        (0, (2**62, 2**62), (0, 0), "expanded view"),
        (2**62, (1,), (1,), "beyond its storage"),
        (2**63, (1,), (1,), "whole numbers"),
        (0, (2**900,), (1,), "whole numbers"),
        (-1, (1,), (1,), "whole numbers"),
        (0, (-2,), (1,), "whole numbers"),
        (1, (2,), (-1,), "whole numbers"),
        (0, (2.0,), (1,), "whole numbers"),
        (0, (True,), (1,), "whole numbers"),
        (0, "2", (1,), "whole numbers"),
        (0, (1,), (1, 1), "fit each other"),
        (0, (1,) * 65, (1,) * 65, "more than 32 dimensions"),
        (0, [2], (1,), "whole numbers"),
    ],
)
def test_views_that_make_no_sense(offset: Any, size: Any, stride: Any, reason: str, new: bool) -> None:
    sound = torch.ones(2)
    index = indexed(saved({"sound": sound, "bad": call(storage_of(torch.ones(2)), offset, size, stride)}, new))
    assert reason in refusals(index)["bad"]
    assert_same(Index(index.headers[:1]), {"sound": sound})


# ---- Nothing is ever run ----


@FORMATS
def test_nothing_named_in_a_file_is_called(new: bool, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    evil = Makes(os.system, f"touch {marker}")
    sound = torch.ones(2)
    content = {
        "sound": sound,
        "made by it": evil,
        "storage": call(evil),
        "offset": call(storage_of(sound), evil),
        "size": call(storage_of(sound), 0, evil),
        "number": call(storage_of(sound), 0, (evil,)),
        "bits": call(storage_of(sound), 0, (2,), (1,), evil),
        "wrapped": Makes(torch._utils._rebuild_parameter, evil, True, OrderedDict()),
        "wraps": Makes(os.path.join, sound),
        "baggage": argparse.Namespace(evil=evil),
        "list": [evil],
    }
    data = saved(content, new)
    index = indexed(data)
    assert_same(Index(index.headers[:1]), {"sound": sound})
    found = refusals(index)
    suspects = ["made by it", "storage", "offset", "size", "number", "bits", "wrapped", "wraps"]
    assert list(found) == suspects
    for name in suspects:
        path = "posixpath.join" if name == "wraps" else "posix.system"
        assert found[name] == f"it is made by {path}, which is not on the list of harmless names"
    assert not marker.exists()
    with pytest.raises(Exception):  # noqa: B017, PT011 - any failure will do: the point is that this loader does run it
        torch.load(BytesIO(data), weights_only=False)
    assert marker.exists()


@FORMATS
def test_a_checkpoint_that_is_itself_a_call_is_refused(new: bool, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    with pytest.raises(UnsupportedFile, match=r"posix\.system"):
        indexed(saved(Makes(os.system, f"touch {marker}"), new))
    assert not marker.exists()


def test_an_escape_sequence_in_a_name_is_not_printed() -> None:
    with pytest.raises(UnsupportedFile) as caught:
        indexed(zipped(b"\x80\x02c\\x1b[31mos\nsystem\n)R."))
    assert r"\x1b[31mos.system" in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_index_imports_neither_numpy_nor_torch(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    torch.save({"w": torch.ones(2)}, path)
    program = (
        "import sys; from pathlib import Path; from bertprobe.checkpoint import torch_pickle\n"
        "from bertprobe.checkpoint.source import LocalFile\n"
        f"assert len(torch_pickle.index(LocalFile(Path({str(path)!r}))).headers) == 1\n"
        "sys.exit(str({'numpy', 'torch'} & sys.modules.keys()) if {'numpy', 'torch'} & sys.modules.keys() else 0)"
    )
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---- Pickles written by hand ----


ONE = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    + b"K\x01tQK\x00K\x01\x85K\x01\x85\x89}tR"
)  # fmt: skip
VALUE = {"data/0": struct.pack("<f", 1.5)}
DEEP = 50_000
PROGRAMS = {
    "no opcode at all": b"",
    "only a protocol": b"\x80\x02",
    "empty stack": b"\x80\x02.",
    "unknown opcode": b"\x80\x02\xff.",
    "mark without end": b"\x80\x02(((.",
    "pops too much": b"\x80\x020000.",
    "memo never stored": b"\x80\x02h\x05.",
    "negative memo": b"g-1\n.",
    "huge BINUNICODE8": b"\x80\x04\x8d" + b"\xff" * 8 + b"a.",
    "large BINUNICODE8": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"a.",
    "large BYTEARRAY8": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"a.",
    "negative LONG4": b"\x80\x02\x8b\xff\xff\xff\xff.",
    "invalid UTF-8": b"\x80\x02X\x02\x00\x00\x00\xff\xff.",
    "number of 100,000 digits": b"I" + b"9" * 100_000 + b"\n.",
    "odd string escape": b"S'\\q'\n0" + b"c\\q\nx\n.",
    "unquoted string": b"Sabc\n.",
    "out-of-band buffer": b"\x80\x05\x97.",
    "odd dictionary": b"\x80\x02(Kd.",
    "items of a number": b"\x80\x02K\x01(K\x01K\x02u.",
    "append to a tuple": b"\x80\x02)K\x01a.",
    "name that is a number": b"\x80\x04K\x01K\x02\x93.",
    "OBJ of nothing": b"(o.",
    "bad float": b"Fx\n.",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_broken_pickles_are_refused(program: bytes) -> None:
    for data in (zipped(program, VALUE), old(program)):
        try:
            index = indexed(data)
        except BertprobeError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert index.headers == ()


HARMLESS = {
    "huge memo index": b"\x80\x02}" + text("a") + ONE + b"r\xff\xff\xff\xffs.",
    "text memo index": b"}" + text("a") + ONE + b"p" + b"9" * 4000 + b"\ns.",
    "extension": b"\x80\x02}(" + text("a") + ONE + text("b") + b"\x82\x01" + text("c") + b"\x84\xff\xff\xff\x7fu.",
    "instance": b"}(" + text("a") + ONE + text("b") + b"(icollections\nCounter\nu.",
    "list in a dictionary that is in it": b"\x80\x02}q\x00(" + text("b") + b"]h\x00a" + text("a") + ONE + b"u.",
    "itself under a wrapper's key": b"\x80\x02}q\x00(" + text("model") + b"h\x00" + text("x")
    + b"}" + text("a") + ONE + b"su.",
    "deeply nested list": b"\x80\x02}(" + text("deep") + b"]" * DEEP + b"a" * (DEEP - 1) + text("a") + ONE + b"u.",
    "deeply nested tuple": b"\x80\x02}(" + text("deep") + b")" + b"\x85" * DEEP + text("a") + ONE + b"u.",
    "deeply nested call": b"\x80\x02}(" + text("a") + ONE + text("b") + b"cos\nx\n" * 1 + b")R" * DEEP + b"u.",
    "billion laughs as a key": b"\x80\x02}(" + b")" + b"2\x86" * 500 + b"K\x01" + text("a") + ONE + b"u.",
    "billion laughs as a value": b"\x80\x02}(" + text("b") + b")" + b"2\x86" * 500 + text("a") + ONE + b"u.",
    "wide number as a key": b"\x80\x02}(\x8b" + struct.pack("<i", 4000) + b"\x7f" * 4000 + ONE
    + text("a") + ONE + b"u.",
    "twice the same key": b"\x80\x02}(" + text("a") + b"K\x01" + text("a") + ONE + b"u.",
    "OrderedDict of pairs": b"\x80\x02ccollections\nOrderedDict\n](]" + text("a") + b"a" + ONE + b"ae\x85R.",
}  # fmt: skip


@pytest.mark.parametrize("program", HARMLESS.values(), ids=HARMLESS)
def test_odd_pickles_neither_hang_nor_hide_the_tensor(program: bytes) -> None:
    storage = struct.pack("<q", 1) + VALUE["data/0"]
    for data in (zipped(program, VALUE), old(program, ["0"], storages=storage)):
        index = indexed(data)
        sound = [header for header in index.headers if header.refusal is None]
        assert [header.name for header in sound] == ["a"]
        array = read_tensor(sound[0])
        assert array.tolist() == [1.5]


def doubled(times: int) -> bytes:
    """A tensor in a list that is twice in a list that is twice in a list..."""
    steps = (b"](h" + bytes([n]) + b"h" + bytes([n]) + b"eq" + bytes([n + 1]) for n in range(times))
    return b"\x80\x02" + ONE + b"q\x00" + b"".join(steps) + b"."


def test_tensors_at_the_bottom_of_deep_structures() -> None:
    with pytest.raises(UnsupportedFile, match="a name of over"):
        indexed(zipped(b"\x80\x02" + b"]" * DEEP + ONE + b"a" * DEEP + b".", VALUE))
    nested = b"\x80\x02" + (b"}" + text("k")) * DEEP + b"}" + text("w") + ONE + b"s" * (DEEP + 1) + b"."
    index = indexed(zipped(nested, VALUE))
    assert index.wrapper == ".".join("k" * DEEP)
    assert [header.name for header in index.headers] == ["w"]


def test_a_list_that_doubles_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(indexed(zipped(doubled(10), VALUE)).headers) == 2**10
    monkeypatch.setattr("bertprobe.checkpoint.torch_pickle.state_dict.MAX_TENSORS", 2000)
    with pytest.raises(UnsupportedFile, match="more than 2,000 tensors"):
        indexed(zipped(doubled(60), VALUE))


def test_a_list_that_contains_itself_is_walked_once() -> None:
    program = b"\x80\x02]" + b"]q\x00" + b"]" + ONE + b"ah\x00aaa."
    assert [header.name for header in indexed(zipped(program, VALUE)).headers] == ["0.0.0"]


def test_a_pickle_that_copies_itself_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertprobe.checkpoint.torch_pickle.stack_machine.MAX_STEPS", 100_000)
    pairs = b"](" + b"NN\x86" * 1000 + b"e\x85q\x00ccollections\nOrderedDict\nq\x01"
    with pytest.raises(CorruptFile, match="steps"):
        indexed(zipped(b"\x80\x02" + pairs + b"h\x01h\x00R" * 1000 + b"."))


def test_pickles_that_are_too_large_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("archive", "legacy"):
        monkeypatch.setattr(f"bertprobe.checkpoint.torch_pickle.{module}.MAX_PICKLE", 2**17)
    program = b"\x80\x02" + text("x" * 2**18) + b"."
    for data in (zipped(program), old(program)):
        with pytest.raises(UnsupportedFile, match="more than 131,072"):
            indexed(data)


@pytest.mark.parametrize("content", [{"a": np.ones(3)}, [1, 2], "text", torch.Size([1]), os.getcwd, "x" * 100_000])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_torch_did_not_write(content: Any, protocol: int) -> None:
    with pytest.raises(UnsupportedFile, match=r"a pickle, but not one that torch\.save wrote"):
        indexed(pickle.dumps(content, protocol))


# ---- Old files ----


def test_a_view_of_a_storage_in_an_old_file() -> None:
    program = ONE.replace(b"K\x01tQ", b"K\x05(" + text("view") + b"K\x02K\x01ttQ")
    numbers = struct.pack("<q5f", 5, 0, 1, 2, 3, 4)
    index = indexed(old(b"\x80\x02}" + text("a") + program + b"s.", ["0"], storages=numbers))
    array = read_tensor(*index.headers)
    assert array.tolist() == [2.0]


def test_an_old_file_that_contradicts_itself() -> None:
    program = b"\x80\x02}" + text("a") + ONE + b"s."
    storage = struct.pack("<qf", 1, 1.5)
    with pytest.raises(CorruptFile, match="should have"):
        indexed(old(program, ["0"], storages=storage[:-1]))
    with pytest.raises(CorruptFile, match="different strings"):
        indexed(old(program, ["0", "0"], storages=storage * 2))
    with pytest.raises(CorruptFile, match="different strings"):
        indexed(old(program, [0], storages=storage))
    with pytest.raises(UnsupportedFile, match="unknown type"):
        indexed(old(program, ["1"], storages=storage))
    with pytest.raises(UnsupportedFile, match="little-endian"):
        indexed(old(program, ["0"], {"little_endian": False}, storage))
    assert "not in the file" in refusals(indexed(old(program, [], storages=b"")))["a"]
    index = indexed(old(program, ["0"], storages=struct.pack("<qf", 2, 1.5)))
    with pytest.raises(CorruptFile, match="not where the sizes before it put it"):
        list(read_tensors(by_name(index.headers)))


def tarred(name: str) -> bytes:
    file = BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return file.getvalue()


def test_the_first_tar_format_is_refused() -> None:
    data = tarred("storages")
    assert torch_pickle.recognises(data[:64])
    with pytest.raises(UnsupportedFile, match="tar format"):
        indexed(data)


# ---- Zip files ----

WEIGHTS = {"w": torch.arange(40, dtype=torch.float32), "b": torch.ones(3), "e": torch.ones(0)}


def rezipped(data: bytes, **kwargs: Any) -> bytes:
    with zipfile.ZipFile(BytesIO(data)) as archive:
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    return zipped(members.pop("data.pkl"), members, **kwargs)


def streamed(data: bytes, zip64: bool) -> bytes:
    """The same members, written by a program that cannot seek, so that sizes follow the data."""

    class Pipe(BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *args: Any) -> int:
            raise OSError

    file = Pipe()
    with zipfile.ZipFile(BytesIO(data)) as archive, zipfile.ZipFile(file, "w") as copy:
        for name in archive.namelist():
            with copy.open(name, "w", force_zip64=zip64) as member:
                member.write(archive.read(name))
    return file.getvalue()


def with_zip64_end(data: bytes) -> bytes:
    """The same file with the end records of one of over 65,535 members."""
    count, size, offset = struct.unpack("<HII", data[-22:][10:20])
    end = data[:-22]
    record = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, offset)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, len(end), 1)
    last = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return end + record + locator + last


REWRITTEN: dict[str, Callable[[bytes], bytes]] = {
    "by the standard library": rezipped,
    "streamed": lambda data: streamed(data, False),
    "streamed zip64": lambda data: streamed(data, True),
    "zip64 end": lambda data: with_zip64_end(rezipped(data)),
    "comment": lambda data: data[:-2] + struct.pack("<H", 1000) + b"c" * 1000,
}


@pytest.mark.parametrize("rewrite", REWRITTEN.values(), ids=REWRITTEN)
def test_a_zip_that_another_program_wrote_again(rewrite: Callable[[bytes], bytes]) -> None:
    for length in range(64):
        content = {"w" * (length + 1): torch.arange(length + 1, dtype=torch.uint8), **WEIGHTS}
        data = rewrite(saved(content))
        assert_same(indexed(data), content)


@pytest.mark.parametrize("alignment", [64, 4096])
@pytest.mark.parametrize("name", ["archive", "a.much-longer.name_than-that"])
def test_files_with_another_alignment_or_folder(alignment: int, name: str, tmp_path: Path) -> None:
    from torch.utils.serialization import config

    with config.patch("save.storage_alignment", alignment):  # type: ignore[attr-defined]
        torch.save(WEIGHTS, tmp_path / f"{name}.bin")
    assert_same(torch_pickle.index(LocalFile(tmp_path / f"{name}.bin")), WEIGHTS)


def test_files_of_torch_are_indexed_in_few_small_reads(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    torch.save({f"layer.{n}.weight": torch.zeros(160, 160) for n in range(200)}, path)
    source = Counting(path.read_bytes())
    index = torch_pickle.index(source)
    assert len(index.headers) == 200
    assert source.size > 20_000_000
    assert source.bytes_read < 300_000
    assert source.reads <= 4


def test_compressed_and_encrypted_members_are_refused() -> None:
    with pytest.raises(UnsupportedFile, match="compressed"):
        indexed(rezipped(saved(WEIGHTS), compression=zipfile.ZIP_DEFLATED))
    data = saved(WEIGHTS)
    with zipfile.ZipFile(BytesIO(data)) as archive:
        directory = data[archive.start_dir :]
    flagged = directory.replace(b"\x08\x08\x00\x00", b"\x09\x08\x00\x00")
    assert flagged != directory
    with pytest.raises(UnsupportedFile, match="encrypted"):
        indexed(data[: -len(directory)] + flagged)


def test_other_zips_and_big_endian_ones_are_refused() -> None:
    with zipfile.ZipFile(BytesIO(saved(WEIGHTS))) as archive:
        program = archive.read("archive/data.pkl")
    with pytest.raises(UnsupportedFile, match="little-endian"):
        indexed(zipped(program, {"byteorder": b"big"}))
    file = BytesIO()
    np.savez(file, weights=np.ones(2))
    with pytest.raises(UnsupportedFile, match=r"a zip, but not one that torch.save wrote: it holds weights.npy"):
        indexed(file.getvalue())
    empty = BytesIO()
    zipfile.ZipFile(empty, "w").close()
    assert torch_pickle.recognises(empty.getvalue())
    with pytest.raises(UnsupportedFile, match="it holds nothing"):
        indexed(empty.getvalue())


@pytest.mark.parametrize("byte", [0, 6, 8, 26, 28], ids=["signature", "flags", "method", "name", "extra"])
def test_a_local_header_that_was_tampered_with_is_noticed(byte: int) -> None:
    data = bytearray(saved(WEIGHTS))
    with zipfile.ZipFile(BytesIO(data)) as archive:
        first = archive.getinfo("archive/data/0").header_offset
    data[first + byte] ^= 1
    index = indexed(bytes(data))
    with pytest.raises(CorruptFile, match="table of contents"):
        list(read_tensors({header.name: header for header in index.headers if header.name == "w"}))


def test_a_storage_that_is_missing_or_of_another_size_is_refused_by_name() -> None:
    with zipfile.ZipFile(BytesIO(saved(WEIGHTS))) as archive:
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    program = members.pop("data.pkl")
    del members["data/1"]
    members["data/0"] += b"more"
    found = refusals(indexed(zipped(program, members)))
    assert set(found) == {"w", "b"}
    assert "160 bytes, the file has 164" in found["w"]
    assert "not in the file" in found["b"]


def test_members_that_overlap_are_refused() -> None:
    data = bytearray(saved(WEIGHTS))
    with zipfile.ZipFile(BytesIO(data)) as archive:
        entry = data.rindex(b"archive/data/1") - 46
        struct.pack_into("<I", data, entry + 42, archive.getinfo("archive/data/0").header_offset)
    with pytest.raises(CorruptFile, match="overlaps"):
        indexed(bytes(data))


# ---- Any bytes at all ----


SMALL = {new: saved({"a": torch.ones(3), "b": torch.nn.Parameter(torch.ones(2, 2).T)}, new) for new in (True, False)}


@FORMATS
def test_a_file_cut_at_any_byte_is_refused(new: bool) -> None:
    data = SMALL[new]
    for length in range(len(data)):
        with pytest.raises(BertprobeError):
            indexed(data[:length])
    exercised(data)
    with pytest.raises(CorruptFile, match="ends before its table of contents" if new else "should have"):
        indexed(data[:-3])


@SETTINGS
@given(
    st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", SMALL[False][:137], SMALL[True][:64]]), st.binary(max_size=300)
)
def test_arbitrary_bytes(start: bytes, rest: bytes) -> None:
    torch_pickle.recognises(rest[:64])
    exercised(start + rest)


@SETTINGS
@given(st.binary(max_size=200))
def test_arbitrary_pickles(program: bytes) -> None:
    exercised(zipped(program, VALUE))
    exercised(old(program))


@FORMATS
@SETTINGS
@given(data=st.data())
def test_files_with_a_few_bytes_changed(new: bool, data: st.DataObject) -> None:
    mutant = bytearray(SMALL[new])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutant) - 1))
        match data.draw(st.sampled_from(["change", "insert", "delete", "copy"])):
            case "change":
                mutant[at] = data.draw(st.integers(0, 255))
            case "insert":
                mutant[at:at] = data.draw(st.binary(min_size=1, max_size=9))
            case "delete":
                del mutant[at : at + data.draw(st.integers(1, 9))]
            case "copy":
                other = data.draw(st.integers(0, len(mutant) - 1))
                mutant[at : at + 8] = mutant[other : other + 8]
    exercised(bytes(mutant))


@SETTINGS
@given(data=st.data())
def test_pickles_with_a_few_bytes_changed_inside_a_sound_zip(data: st.DataObject) -> None:
    program = bytearray(b"\x80\x02}(" + text("a") + ONE + text("b") + ONE + b"u.")
    for _ in range(data.draw(st.integers(1, 3))):
        program[data.draw(st.integers(0, len(program) - 1))] = data.draw(st.integers(0, 255))
    exercised(zipped(bytes(program), VALUE))
