"""ONNX files as such: wherever a tensor's numbers lie, files beside a model, and what must not be believed."""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxfile as by_hand
import pytest
from conftest import Run
from graphs import Bert, anonymous, pocket, written
from hub import Hub
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kin import POCKET
from onnx import TensorProto
from onnxfile import floats, model, node, number, ones, place, tensor, text, varint
from test_bad_input import refused

from bertprobe.anatomy import find_parts
from bertprobe.checkpoint import open_checkpoint, read_tensor, read_tensors
from bertprobe.checkpoint.onnx import index, recognises
from bertprobe.checkpoint.source import LocalFile
from bertprobe.errors import BertprobeError, CorruptFile, NotFound, UnsupportedFile

NAME = "model.onnx"


def indexed(content: bytes, folder: Path) -> dict[str, Any]:
    """The headers in a file with some content."""
    (folder / NAME).write_bytes(content)
    return {header.name: header for header in index(LocalFile(folder / NAME)).headers}


def read(content: bytes, folder: Path, name: str = "x") -> np.ndarray:
    found: np.ndarray = read_tensor(indexed(content, folder)[name])
    return found


# ------------------------------------------------------------------------------------------------ numbers


DTYPES = {
    "FLOAT": np.float32, "DOUBLE": np.float64, "FLOAT16": np.float16, "BFLOAT16": ml_dtypes.bfloat16,
    "INT8": np.int8, "UINT8": np.uint8, "INT16": np.int16, "UINT16": np.uint16, "INT32": np.int32, "UINT32": np.uint32,
    "INT64": np.int64, "UINT64": np.uint64, "BOOL": np.bool_, "COMPLEX64": np.complex64,
    "FLOAT8E4M3FN": ml_dtypes.float8_e4m3fn, "FLOAT8E5M2": ml_dtypes.float8_e5m2,
}  # fmt: skip
FIELDS = {"FLOAT": "float_data", "COMPLEX64": "float_data", "DOUBLE": "double_data", "INT64": "int64_data"}
FIELDS |= {"UINT32": "uint64_data", "UINT64": "uint64_data"}


def drawn(dtype: Any) -> np.ndarray:
    values = np.arange(-6, 6).reshape(3, 4)
    if np.dtype(dtype).kind in "bu":
        values = values % 2 if dtype is np.bool_ else np.abs(values)
    return values.astype(dtype)


def typed(kind: str, values: np.ndarray) -> TensorProto:
    """A tensor whose numbers stand in the field of their type, as tools before 2018 and `make_tensor` have them."""
    proto = TensorProto(name="x", data_type=getattr(TensorProto, kind), dims=values.shape)
    flat = values.reshape(-1)
    if kind == "COMPLEX64":
        flat = flat.view(np.float32)
    elif kind in ("FLOAT16", "BFLOAT16"):
        flat = flat.view(np.uint16)
    elif kind.startswith("FLOAT8") or kind == "BOOL":
        flat = flat.view(np.uint8)
    getattr(proto, FIELDS.get(kind, "int32_data")).extend(flat.tolist())
    return proto


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("way", ["raw", "typed", "one by one", "in two packs"])
def test_numbers_of_every_type_are_read_wherever_they_lie(kind: str, way: str, tmp_path: Path) -> None:
    values = drawn(DTYPES[kind])
    if way == "raw":
        content = by_hand.tensor("x", values.shape, values.tobytes(), getattr(TensorProto, kind))
    elif way == "typed":
        content = typed(kind, values).SerializeToString()
    else:
        content = loose(typed(kind, values), 1 if way == "one by one" else 10)
    found = read(model(tensors=[content]), tmp_path)
    assert found.dtype == values.dtype
    assert found.tobytes() == values.tobytes()


def loose(proto: TensorProto, pack: int) -> bytes:
    """A tensor's message with so many numbers a field."""
    fields = {"float_data": (4, "<f4"), "double_data": (10, "<f8"), "int32_data": (5, ""), "int64_data": (7, "")}
    fields["uint64_data"] = (11, "")
    (name,) = [name for name in fields if len(getattr(proto, name))]
    field, dtype = fields[name]
    values = list(getattr(proto, name))
    coded = [np.array(value, dtype).tobytes() if dtype else varint(int(value)) for value in values]
    proto.ClearField(name)
    kind = {"<f4": 5, "<f8": 1, "": 0}[dtype]
    if pack == 1:
        return proto.SerializeToString() + b"".join(varint(field << 3 | kind) + one for one in coded)
    packs = [b"".join(coded[at : at + pack]) for at in range(0, len(coded), pack)]
    return proto.SerializeToString() + b"".join(text(field, one) for one in packs)


@pytest.mark.parametrize("kind", ["INT32", "FLOAT"])
@pytest.mark.parametrize("count", [11, 13])
def test_numbers_that_are_too_many_or_few_are_refused(kind: str, count: int, tmp_path: Path) -> None:
    proto = typed(kind, np.zeros(count, DTYPES[kind]))
    del proto.dims[:]
    proto.dims.extend([3, 4])
    with pytest.raises(CorruptFile, match=r"needs|numbers"):
        read(model(tensors=[proto.SerializeToString()]), tmp_path)


def test_what_is_no_plain_array_is_listed_and_refused(tmp_path: Path) -> None:
    texts = TensorProto(name="texts", data_type=TensorProto.STRING, dims=[1], string_data=[b"a"])
    parts = {
        "texts": texts.SerializeToString(),
        "complex": tensor("complex", [1], bytes(16), TensorProto.COMPLEX128),
        "int4": tensor("int4", [4], bytes(2), TensorProto.INT4),
        "odd": tensor("odd", [4], bytes(2), 77),
        "segment": tensor("segment", [2], ones(2), more=text(3, number(1, 0))),
    }
    sparse = text(15, text(1, tensor("sparse", [1], ones(1))) + number(3, 9))
    headers = indexed(model(tensors=parts.values(), more=sparse), tmp_path)
    assert headers.keys() == {*parts, "sparse"}
    for name, words in {"texts": "STRING", "complex": "COMPLEX128", "int4": "INT4", "odd": "type 77"}.items():
        with pytest.raises(UnsupportedFile, match=f"tensor {name} cannot be read: ONNX's {words}"):
            read_tensor(headers[name])
    for name in ("segment", "sparse"):
        with pytest.raises(UnsupportedFile, match=f"tensor {name} cannot be read"):
            read_tensor(headers[name])


def test_constants_in_nodes_are_tensors(tmp_path: Path) -> None:
    held = node("Constant", [], ["w"], text(5, text(1, "value") + text(5, tensor("", [2, 2], ones(4)))))
    given = node("Constant", [], ["v"], text(5, text(1, "value_floats") + text(7, floats(1, 2, 3))))
    shape = node("Constant", [], ["s"], text(5, text(1, "value_ints") + text(8, b"\x01\x02")))
    headers = indexed(model([held, given, shape]), tmp_path)
    assert headers.keys() == {"w", "v"}
    assert np.array_equal(read_tensor(headers["w"]), np.ones((2, 2)))
    assert headers["v"].refusal == "it is a constant of the graph"


def test_graphs_in_nodes_are_looked_into_and_not_followed(tmp_path: Path) -> None:
    inner = by_hand.graph(tensors=[tensor("inner", [2], ones(2))])
    branch = node("If", ["c"], ["y"], text(5, text(1, "then_branch") + text(6, inner)))
    (tmp_path / NAME).write_bytes(model([branch]) + text(25, text(1, "a function")))
    found = index(LocalFile(tmp_path / NAME))
    assert [header.name for header in found.headers] == ["inner"]
    assert "1 branches or loops" in " ".join(found.remarks)
    assert "1 functions of its own" in " ".join(found.remarks)


# ------------------------------------------------------------------------------------------------ files beside it


def beside(folder: Path, location: str, **words: str) -> bytes:
    del folder
    return model(tensors=[tensor("x", [4], more=place(location=location, **words))])


@pytest.mark.parametrize("location", ["weights.bin", "data/weights.bin"])
def test_numbers_may_lie_in_a_file_beside(location: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / location).write_bytes(bytes(8) + floats(1, 2, 3, 4) + bytes(3))
    for words in ({"offset": "8"}, {"offset": "8", "length": "16", "checksum": "x"}):
        assert read(beside(tmp_path, location, **words), tmp_path).tolist() == [1, 2, 3, 4]
    assert index(LocalFile(tmp_path / NAME)).others[0].name == "weights.bin"


@pytest.mark.parametrize(
    "location",
    [
        "../out.bin",
        "/etc/passwd",
        "a/../../out.bin",
        "",
        ".",
        "a//b",
        "https://host/x",
        "C:\\x",
        "..\\x",
        "file:x",
        "a\0b",
    ],
)
def test_a_file_elsewhere_is_not_opened(location: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out.bin").write_bytes(ones(4))
    with pytest.raises(CorruptFile, match="no path within"):
        indexed(beside(tmp_path, location), tmp_path / "in")


def test_a_link_that_leads_out_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "in" / "below").mkdir(parents=True)
    (tmp_path / "out.bin").write_bytes(ones(4))
    (tmp_path / "in" / "link.bin").symlink_to(tmp_path / "out.bin")
    with pytest.raises(CorruptFile, match="a link that leads out"):
        indexed(beside(tmp_path, "link.bin"), tmp_path / "in")
    (tmp_path / "in" / "folder").symlink_to(tmp_path)
    with pytest.raises(CorruptFile, match="a link that leads out"):
        indexed(beside(tmp_path, "folder/out.bin"), tmp_path / "in")
    (tmp_path / "in" / "below" / "w.bin").write_bytes(ones(4))
    (tmp_path / "in" / "near.bin").symlink_to(tmp_path / "in" / "below" / "w.bin")
    assert read(beside(tmp_path, "near.bin"), tmp_path / "in").tolist() == [1, 1, 1, 1]


def test_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    cache = tmp_path / "models--owner--name"
    folder = cache / "snapshots" / "abc" / "onnx"
    for path in (folder, cache / "blobs"):
        path.mkdir(parents=True)
    (cache / "blobs" / "1234").write_bytes(ones(4))
    (cache / "other").write_bytes(ones(4))
    (folder / "w.bin").symlink_to("../../../blobs/1234")
    (folder / "v.bin").symlink_to("../../../other")
    assert read(beside(folder, "w.bin"), folder).tolist() == [1, 1, 1, 1]
    with pytest.raises(CorruptFile, match="leads out"):
        indexed(beside(folder, "v.bin"), folder)


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        ({"offset": "1"}, CorruptFile, "should lie at bytes 1 to 17"),
        ({"offset": "99999999999999999"}, CorruptFile, "which has 16"),
        ({"length": "15"}, CorruptFile, "needs 16 bytes, it has 15"),
        ({"length": "17"}, CorruptFile, "needs 16 bytes, it has 17"),
        ({"offset": "-1"}, CorruptFile, "has the offset '-1'"),
        ({"offset": "9" * 30}, CorruptFile, "has the offset"),
        ({"length": "0x10"}, CorruptFile, "has the length"),
    ],
)
def test_a_place_that_lies_is_refused(words: dict[str, str], error: type, said: str, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(ones(4))
    with pytest.raises(error, match=said):
        indexed(beside(tmp_path, "w.bin", **words), tmp_path)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"w\.bin is missing, which holds tensors of"):
        indexed(beside(tmp_path, "w.bin"), tmp_path)


# ------------------------------------------------------------------------------------------------ not to be believed


def deep(levels: int) -> bytes:
    """Graphs in attributes of nodes of graphs."""
    graph = b""
    for _ in range(levels):
        graph = text(1, text(4, "If") + text(5, text(1, "b") + text(6, graph)))
    return number(1, 8) + text(7, graph)


def crowded() -> bytes:
    """Tens of thousands of modules that take the same value, and one that takes them all."""
    tensors = [tensor("t", [9, 4], ones(36)), tensor("w", [4, 4], ones(16)), tensor("v", [4], ones(4))]
    nodes = [node("Gather", ["t", "ids"], ["h"])]
    for n in range(15_000):
        nodes.append(node("MatMul", ["h", "w"], [f"a{n}"]))
        nodes.append(node("Add", [f"a{n}", "h"], [f"s{n}"]))
        nodes.append(node("LayerNormalization", ["h" if n % 2 else f"s{n}", "v", "v"], [f"n{n}"]))
        nodes.append(node("Softmax", ["h"], [f"p{n}"]))
        nodes.append(node("Where", [f"p{n}", "c", "c"], [f"q{n}"]))
    nodes.append(node("Concat", [f"n{n}" for n in range(15_000)], ["all"]))
    nodes.extend(node("MatMul", ["all", "w"], [f"b{n}"]) for n in range(15_000))
    return model(nodes, tensors)


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "a graph in a circle": (lambda: model([node("Add", ["b", "x"], ["a"]), node("Add", ["a", "x"], ["b"])]), "circle"),
    "a node of itself": (lambda: model([node("Add", ["a", "x"], ["a"])]), "circle"),
    "a name twice": (lambda: model(tensors=[tensor("x", [1], ones(1)), tensor("x", [1], ones(1))]), "in it twice"),
    "a value twice": (lambda: model([node("Relu", ["a"], ["b"]), node("Tanh", ["a"], ["b"])]), "same value"),
    "a tensor made": (lambda: model([node("Relu", ["a"], ["x"])], [tensor("x", [1], ones(1))]), "same value"),
    "a negative dimension": (lambda: model(tensors=[tensor("x", [-4], ones(4))]), "negative dimension"),
    "dimensions that overflow": (lambda: model(tensors=[tensor("x", [2**40, 2**40, 2**40], ones(4))]), "needs"),
    "too many dimensions": (lambda: model(tensors=[tensor("x", [1] * 40, ones(1))]), "40 dimensions"),
    "a million dimensions": (lambda: model(tensors=[tensor("x", [1] * 10**6, ones(1))]), "more dimensions"),
    "fewer bytes than a shape": (lambda: model(tensors=[tensor("x", [5], ones(4))]), "needs 20 bytes, it has 16"),
    "more bytes than a shape": (lambda: model(tensors=[tensor("x", [3], ones(4))]), "needs 12 bytes, it has 16"),
    "no numbers": (lambda: model(tensors=[tensor("x", [3])]), "has no numbers"),
    "numbers in two places": (lambda: model(tensors=[tensor("x", [1], ones(1), more=text(4, ones(1)))]), "two places"),
    "another type's field": (lambda: model(tensors=[tensor("x", [1], more=text(7, b"\x01"))]), "another type"),
    "graphs in graphs": (lambda: deep(30), "in each other"),
    "graphs in thousands of graphs": (lambda: deep(3_000), "in each other"),
    "a million nodes": (lambda: model([b""] * 10**6), "over 100,000 nodes"),
    "a million tensors": (lambda: model(tensors=[b""] * 10**6), "over 100,000 tensors"),
    "a million attributes": (lambda: model([text(4, "Add") + text(5, b"") * 10**6]), "over 500,000 inputs"),
    "a million inputs of a node": (lambda: model([text(1, b"") * 10**6]), "over 500,000 inputs"),
    "a number without end": (lambda: number(1, 8) + b"\x3a" + b"\xff" * 30, "no end"),
    "a length beyond the file": (lambda: number(1, 8) + b"\x3a" + varint(2**60), "cut short"),
    "a length beyond its message": (lambda: number(1, 8) + text(7, b"\x0a\x7f")[:4], "cut short"),
    "a field of no kind": (lambda: number(1, 8) + b"\x3b\x00\x00\x00", "no known kind"),
    "no graph": (lambda: number(1, 8) + text(2, "tests"), "holds no graph"),
    "two graphs": (lambda: model() + text(7, b""), "several graphs"),
    "a name of bytes": (lambda: model(tensors=[tensor("x", [1], ones(1)).replace(b"\1x", b"\1\xff")]), "no text"),
    "a name of a megabyte": (lambda: model(tensors=[tensor("x" * 2**20, [1], ones(1))]), "a name in it has 1,048,576"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_file_that_contradicts_itself_is_refused_at_once(case: str, tmp_path: Path, run: Run) -> None:
    content, words = HOSTILE[case][0](), HOSTILE[case][1]
    (tmp_path / NAME).write_bytes(content)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    refused(run(["inspect", tmp_path / NAME]), words)
    assert time.perf_counter() - start < 5
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < 150_000, "kB"


def test_operators_may_lack_any_operand(small: bytes, tmp_path: Path) -> None:
    """Nothing is made of such an operator, and nothing that is read is another number."""
    opens(small, tmp_path)
    whole = onnx.load_from_string(small)
    kinds = {node.op_type for node in whole.graph.node}
    more = ("DequantizeLinear", "MatMulNBits", "GatherBlockQuantized", "MatMulInteger", "Attention", "QGemm", "Slice")
    more += ("SkipLayerNormalization", "EmbedLayerNormalization", "MultiHeadAttention", "DynamicQuantizeLinear")
    for kind in sorted({*kinds, *more}):
        for left in range(2):
            proto = onnx.load_from_string(small)
            for number_, node_ in enumerate(proto.graph.node):
                if node_.op_type == kind or (kind in more and kind not in kinds and number_ % 3 == left):
                    node_.op_type = kind
                    del node_.input[left:]
            opens(proto.SerializeToString(), tmp_path)


@pytest.mark.parametrize("size", [0, 1, 5, 100, 2_000])
def test_a_file_that_ends_early_is_refused(size: int, tmp_path: Path) -> None:
    content = model(tensors=[tensor("x", [1000], ones(1000))])
    (tmp_path / NAME).write_bytes(content[:size])
    with pytest.raises(BertprobeError):
        open_checkpoint(str(tmp_path / NAME))


def test_a_graph_of_very_many_modules_takes_no_time_of_their_square(tmp_path: Path) -> None:
    content = crowded()
    start = time.perf_counter()
    headers = indexed(content, tmp_path)
    assert headers.keys() == {"t", "w", "v"}
    assert time.perf_counter() - start < 30


def test_a_model_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    assert recognises(model([node("Relu", ["a"], ["b"])]))
    assert recognises(number(1, 3) + text(7, bytes(100)))
    for other in (b"PK\3\4" + bytes(60), b"\x80\2" + bytes(60), bytes(64), b"\x08" * 64, b"GGUF" + bytes(60)):
        assert not recognises(other)
    (tmp_path / "unnamed").write_bytes(model(tensors=[tensor("x", [1], ones(1))]))
    assert open_checkpoint(str(tmp_path / "unnamed")).storage == "ONNX"


# ------------------------------------------------------------------------------------------------ folders


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The built-in model as torch exports it."""
    return (written(Bert(pocket()).model(), tmp_path_factory.mktemp("whole")) / NAME).read_bytes()


def laid(folder: Path, content: bytes, *names: str) -> Path:
    """A model's folder with files in `onnx/`, the config and the tokenizer above."""
    (folder / "onnx").mkdir(parents=True)
    for name in names or (NAME,):
        (folder / "onnx" / name).write_bytes(content)
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(POCKET / name, folder)
    return folder


def test_a_folder_of_transformers_js_is_a_model(content: bytes, tmp_path: Path, run: Run) -> None:
    folder = laid(tmp_path / "m", content, NAME, "model_quantized.onnx", "model_fp16.onnx")
    checkpoint = open_checkpoint(str(folder))
    assert checkpoint.files[0].name == NAME
    assert "the weights lie in onnx/" in " ".join(checkpoint.notes)
    assert "not model_fp16.onnx, model_quantized.onnx beside it" in " ".join(checkpoint.notes)
    assert checkpoint.config_file == folder / "config.json"
    for ref, how in (
        (folder, {}),
        (folder / "onnx", {}),
        (folder / "onnx" / "model_fp16.onnx", {}),
        (folder, {"weights": "onnx/model_quantized.onnx"}),
        (folder, {"subfolder": "onnx"}),
    ):
        opened = open_checkpoint(str(ref), **how)
        assert (opened.config or {})["hidden_size"] == 128
        assert opened.settings.is_file("tokenizer.json")
    assert run(["pool", "a text", "-m", folder]).code == 0


def test_a_folder_called_onnx_alone_looks_no_further_than_it_has_to(content: bytes, tmp_path: Path) -> None:
    folder = laid(tmp_path / "m", content)
    (folder / "config.json").unlink()
    (folder / "tokenizer.json").unlink()
    checkpoint = open_checkpoint(str(folder / "onnx"))
    assert checkpoint.config_file is None
    assert (checkpoint.config or {})["hidden_size"] == 128  # by the graph
    other = laid(tmp_path / "n", content)
    (other / "onnx").rename(other / "elsewhere")
    assert open_checkpoint(str(other / "elsewhere")).config_file is None


def test_other_weights_go_before(content: bytes, tmp_path: Path) -> None:
    folder = laid(tmp_path / "m", content)
    shutil.copy(POCKET / "model.safetensors", folder)
    assert open_checkpoint(str(folder)).storage == "safetensors"


def test_a_lone_bin_beside_a_model_is_its_data(content: bytes, tmp_path: Path) -> None:
    proto = onnx.load_from_string(content)
    onnx.save_model(
        proto, tmp_path / NAME, save_as_external_data=True, all_tensors_to_one_file=True, location="weights.bin",
        size_threshold=0,
    )  # fmt: skip
    checkpoint = open_checkpoint(str(tmp_path))
    assert (checkpoint.storage, [file.name for file in checkpoint.files]) == ("ONNX", [NAME, "weights.bin"])


def test_several_models_need_a_name(content: bytes, tmp_path: Path, run: Run) -> None:
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).write_bytes(content)
    refused(run(["inspect", tmp_path]), "several ONNX models (a.onnx, b.onnx)", "--weights")
    assert run(["inspect", "--shapes", tmp_path, "--weights", "b.onnx"]).code == 0


# ------------------------------------------------------------------------------------------------ the Hub


def test_on_the_hub_a_pooler_costs_little_beyond_the_header(content: bytes, hub: Hub) -> None:
    hub.add("owner/onnx", {f"onnx/{NAME}": content, **settings_files()})
    checkpoint = open_checkpoint("owner/onnx")
    anatomy = find_parts(checkpoint)
    header = [r for r in hub.weights() if r.origin == "storage"]
    assert sum(r.sent for r in header) < len(content) // 4
    (pooler,) = [part for part in anatomy.parts if part.role == "pooler"]
    found = dict(read_tensors(dict(pooler.tensors)))
    after = [r for r in hub.weights() if r.origin == "storage"][len(header) :]
    assert len(after) <= 6
    assert sum(r.sent for r in after) < 1_000_000
    assert np.array_equal(found["pooler.dense.weight"], pocket()["pooler.dense.weight"])


def settings_files() -> dict[str, bytes]:
    return {name: (POCKET / name).read_bytes() for name in ("config.json", "tokenizer.json")}


@pytest.mark.parametrize("download", [False, True])
def test_data_beside_a_model_comes_from_the_hub(content: bytes, download: bool, hub: Hub, tmp_path: Path) -> None:
    onnx.save_model(
        onnx.load_from_string(content), tmp_path / NAME, save_as_external_data=True, location="model.onnx_data"
    )
    files = {f"onnx/{name}": (tmp_path / name).read_bytes() for name in (NAME, "model.onnx_data")}
    hub.add("owner/onnx", {**files, **settings_files()})
    checkpoint = open_checkpoint("owner/onnx", download=download)
    assert (checkpoint.config or {})["hidden_size"] == 128
    assert checkpoint.settings.is_file("tokenizer.json")
    anatomy = find_parts(checkpoint)
    wanted = pocket()
    found = dict(read_tensors({name: anatomy.tensors[name] for name in wanted}))
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


class Parallel(LocalFile):
    """A file that serves several reads at a time, and counts those that were waited for alone."""

    waited = 0
    together = 0

    @property
    def max_parallel(self) -> int:
        return 8

    def read(self, start: int, stop: int) -> bytes:
        self.waited += 1
        return super().read(start, stop)

    def load(self, start: int, stop: int, memory: Any = None) -> memoryview:
        self.together += 1
        return super().load(start, stop, memory)


def test_leaps_over_layers_are_foreseen(tmp_path: Path) -> None:
    """Twelve layers of six matrices: two layers are gone through, the others are asked for side by side."""
    shapes = [(200, 200)] * 4 + [(200, 800), (800, 200)]
    names = [(f"onnx::MatMul_{900 + 6 * n + k}", shape) for n in range(12) for k, shape in enumerate(shapes)]
    content = model(tensors=[tensor(name, shape, ones(shape[0] * shape[1])) for name, shape in names])
    (tmp_path / NAME).write_bytes(content)
    source = Parallel(tmp_path / NAME)
    headers = index(source).headers
    assert [header.name for header in headers] == [name for name, _ in names]
    assert source.waited <= 16
    assert source.together <= 72
    assert np.array_equal(read_tensor(headers[-1]), np.ones((800, 200)))


# ------------------------------------------------------------------------------------------------ fuzz


@pytest.fixture(scope="module")
def small() -> bytes:
    """A graph of one layer, of few bytes."""
    whole = pocket()
    cut = {name: t for name, t in whole.items() if "layer." not in name or "layer.0." in name}
    cut["embeddings.word_embeddings.weight"] = cut["embeddings.word_embeddings.weight"][:16]
    found: bytes = Bert(cut).model(1).SerializeToString()
    return found


def opens(content: bytes, folder: Path) -> None:
    """Opens and reads what can be read of a file, and raises nothing but what is ours."""
    folder.mkdir(exist_ok=True)
    (folder / NAME).write_bytes(content)
    try:
        checkpoint = open_checkpoint(str(folder / NAME))
        headers = {name: header for name, header in checkpoint.headers.items() if header.refusal is None}
        for name, header in list(headers.items())[:200]:
            try:
                read_tensor(header)
            except BertprobeError:
                del headers[name]
        find_parts(checkpoint)
    except BertprobeError:
        return


@settings(
    max_examples=150, deadline=20_000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(data=st.data())
def test_an_altered_file_never_breaks_the_reader(data: st.DataObject, small: bytes, tmp_path: Path) -> None:
    """Bytes changed, taken out, put in and repeated, among the messages rather than the weights."""
    content = bytearray(small)
    # The graph's nodes come first; of the rest, half the places are near the names.
    for _ in range(data.draw(st.integers(1, 4))):
        near = data.draw(st.booleans())
        at = data.draw(st.integers(0, min(len(content) - 1, 14_000) if near else len(content) - 1))
        how = data.draw(st.sampled_from(("set", "cut", "put", "end", "copy")))
        if how == "set":
            content[at] = data.draw(st.integers(0, 255))
        elif how == "cut":
            del content[at : at + data.draw(st.integers(1, 40))]
        elif how == "put":
            content[at:at] = data.draw(st.binary(min_size=1, max_size=12))
        elif how == "copy":
            content[at:at] = content[at : at + data.draw(st.integers(1, 400))]
        elif at > 1:
            del content[at:]
    opens(bytes(content), tmp_path)


@settings(max_examples=150, deadline=20_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_altered_graph_never_gives_a_wrong_number(data: st.DataObject, small: bytes, tmp_path: Path) -> None:
    """Nodes left out, operators and operands exchanged: what is still named has the numbers it had."""
    proto = onnx.load_from_string(small)
    nodes = proto.graph.node
    for _ in range(data.draw(st.integers(1, 3))):
        one, other = (data.draw(st.integers(0, len(nodes) - 1)) for _ in range(2))
        how = data.draw(st.sampled_from(("out", "op", "input", "swap")))
        if how == "out":
            del nodes[one]
        elif how == "op":
            nodes[one].op_type = nodes[other].op_type
        elif how == "input" and nodes[one].input and nodes[other].output:
            nodes[one].input[data.draw(st.integers(0, len(nodes[one].input) - 1))] = nodes[other].output[0]
        elif how == "swap" and len(nodes[one].input) > 1:
            a, b = nodes[one].input[0], nodes[one].input[1]
            nodes[one].input[0], nodes[one].input[1] = b, a
    (tmp_path / NAME).write_bytes(proto.SerializeToString())
    opens(anonymous(onnx.load_from_string(proto.SerializeToString())).SerializeToString(), tmp_path / "nameless")
    wanted = {**pocket()}
    try:
        anatomy = find_parts(open_checkpoint(str(tmp_path / NAME)))
        found = dict(read_tensors({n: h for n, h in anatomy.tensors.items() if n in wanted and h.refusal is None}))
    except BertprobeError:
        return
    for name, values in found.items():
        rows = wanted[name][:16] if "word_embeddings" in name else wanted[name]
        assert np.array_equal(values, rows) or (name.endswith("bias") and not values.any()), name
