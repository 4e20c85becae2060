"""ONNX: graphs in every form that exporters and optimisers give them, held against the weights they were made from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from conftest import Run
from graphs import FORMS, LAYERS, WAYS, Bert, Codes, Dynamo, Fused, anonymous, pocket, written
from kin import POCKET
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from test_bad_input import refused

import bertprobe
from bertprobe.anatomy import Anatomy, find_parts
from bertprobe.checkpoint import Checkpoint, open_checkpoint, read_tensors

TEXTS = ["A first text, of some length.", "short"]


@pytest.fixture(scope="module")
def weights() -> graphs.Weights:
    return pocket()


def opened(ref: Path, **how: Any) -> tuple[Checkpoint, Anatomy]:
    checkpoint = open_checkpoint(str(ref), **how)
    return checkpoint, find_parts(checkpoint)


def same(anatomy: Anatomy, weights: graphs.Weights) -> bool:
    """Whether all of an encoder's tensors are there, and have the same bits."""
    read = dict(read_tensors({name: anatomy.tensors[name] for name in weights}))
    return all(read[name].dtype == t.dtype and np.array_equal(read[name], t) for name, t in weights.items())


# ------------------------------------------------------------------------------------------------ every form


@pytest.mark.parametrize("prefix", ["", "bert.", "model.0.auto_model."])
@pytest.mark.parametrize("form", FORMS)
def test_weights_have_their_names_and_bits(form: str, prefix: str, weights: graphs.Weights, tmp_path: Path) -> None:
    checkpoint, anatomy = opened(written(FORMS[form](weights, prefix).model(), tmp_path / "m"))
    assert checkpoint.storage == "ONNX"
    assert same(anatomy, weights)
    assert anatomy.layers == tuple(range(LAYERS))
    assert [part.label for part in anatomy.parts][-1] == "pooler"


@pytest.mark.parametrize("form", FORMS)
def test_names_that_are_lost_are_found_in_the_graph(form: str, weights: graphs.Weights, tmp_path: Path) -> None:
    checkpoint, anatomy = opened(written(anonymous(FORMS[form](weights).model()), tmp_path / "m"))
    assert same(anatomy, weights)
    assert f"{len(weights)} by the flow of data" in " ".join(checkpoint.notes)


@pytest.mark.parametrize("form", FORMS)
def test_a_config_is_made_of_the_graph(form: str, weights: graphs.Weights, tmp_path: Path) -> None:
    checkpoint, _ = opened(written(FORMS[form](weights).model(), tmp_path / "m", config=False))
    told = graphs.CONFIG
    wanted = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act")
    wanted += ("vocab_size", "type_vocab_size", "max_position_embeddings", "layer_norm_eps", "model_type")
    assert checkpoint.config == {key: told[key] for key in wanted}
    assert checkpoint.config_file is None


@pytest.mark.parametrize("form", ["torch", "dynamo", "Gemm"])
def test_texts_come_to_what_the_graph_makes_of_them(form: str, weights: graphs.Weights, tmp_path: Path) -> None:
    """Run by onnx's reference, which knows no operators of onnxruntime."""
    folder = written(FORMS[form](weights).model(), tmp_path / "m")
    model = bertprobe.open(str(folder))
    ours = np.asarray(model.pool(TEXTS))
    session = ReferenceEvaluator(str(folder / "model.onnx"))
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text, vector in zip(TEXTS, ours, strict=True):
        ids = np.array([tokenizer.encode(text).ids])
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        theirs = session.run(["pooler_output"], feed)[0][0]
        assert np.abs(vector - theirs).max() < 2e-5


def test_a_part_and_the_whole_are_exported(weights: graphs.Weights, tmp_path: Path, run: Run) -> None:
    from transformers import BertModel

    folder = written(Fused(weights).model(), tmp_path / "m")
    out = tmp_path / "new"
    out.mkdir()
    assert run(["export", folder, "--part", "model", "-o", out / "model.safetensors"]).code == 0
    (out / "config.json").write_text((POCKET / "config.json").read_text())
    loaded, told = BertModel.from_pretrained(out, output_loading_info=True)
    assert not told["missing_keys"]
    state = loaded.state_dict()
    assert all(np.array_equal(state[name].numpy(), t) for name, t in weights.items())


def test_every_command_reads_one(weights: graphs.Weights, tmp_path: Path, run: Run) -> None:
    folder = written(Bert(weights).model(), tmp_path / "m")
    for argv in (
        ["inspect", folder],
        ["inspect", "--shapes", folder],
        ["pool", "a text", "-m", folder],
        ["activations", "a text", "-m", folder],
        ["diff", folder, POCKET],
        ["verify", "a text", "-m", folder],
        ["export", folder, "-o", tmp_path / "pooler.safetensors"],
    ):
        assert run(argv).code == 0, argv
    found = json.loads(run(["diff", folder, POCKET, "--json"]).out)
    assert "float16" in json.dumps(found) or found


# ------------------------------------------------------------------------------------------------ what a graph tells


@pytest.mark.parametrize(("act", "told"), [("relu", "relu"), ("gelu_new", "gelu_new"), ("silu", "silu")])
def test_the_activation_is_told_by_the_graph(act: str, told: str, weights: graphs.Weights, tmp_path: Path) -> None:
    model = Bert(weights, act=act).model()
    checkpoint, anatomy = opened(written(model, tmp_path / "m", config=False))
    assert (checkpoint.config or {})["hidden_act"] == told
    assert anatomy.config_spec.activation == told
    beside, _ = opened(written(model, tmp_path / "n"))
    assert f"config.json gives hidden_act as 'gelu', the weights file itself as '{told}'" in beside.notes


def test_an_approximate_gelu_is_told(weights: graphs.Weights, tmp_path: Path) -> None:
    checkpoint, _ = opened(written(Fused(weights, act="fast").model(), tmp_path / "m"))
    assert "config.json gives hidden_act as 'gelu', the weights file itself as 'gelu_new'" in checkpoint.notes


def test_a_bias_that_the_graph_does_not_add_is_zero(weights: graphs.Weights, tmp_path: Path) -> None:
    """torch's second exporter leaves out a bias of zeros."""
    model = Dynamo(weights).model()
    (gemm,) = [node for node in model.graph.node if node.op_type == "Gemm"]
    del gemm.input[2]
    (bias,) = [tensor for tensor in model.graph.initializer if tensor.name == "pooler.dense.bias"]
    model.graph.initializer.remove(bias)
    checkpoint, anatomy = opened(written(model, tmp_path / "m"))
    zeros = {**weights, "pooler.dense.bias": np.zeros_like(weights["pooler.dense.bias"])}
    assert same(anatomy, zeros)
    assert "the graph adds no bias in 1 of its dense layers" in " ".join(checkpoint.notes)


def test_a_bias_that_is_computed_is_not_told_as_zeros(weights: graphs.Weights, tmp_path: Path) -> None:
    model = Dynamo(weights).model()
    (gemm,) = [node for node in model.graph.node if node.op_type == "Gemm"]
    model.graph.node.insert(0, onnx.helper.make_node("Exp", [gemm.input[2]], ["computed"]))
    gemm.input[2] = "computed"
    _, anatomy = opened(written(anonymous(model), tmp_path / "m"))
    assert "pooler.dense.weight" in anatomy.tensors
    assert "pooler.dense.bias" not in anatomy.tensors


def test_names_and_graph_that_disagree_are_refused(weights: graphs.Weights, tmp_path: Path, run: Run) -> None:
    model = Bert(weights).model()
    names = {
        "encoder.layer.0.attention.self.query.bias": "encoder.layer.0.attention.self.key.bias",
        "encoder.layer.0.attention.self.key.bias": "encoder.layer.0.attention.self.query.bias",
    }
    for tensor in model.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    folder = written(model, tmp_path / "m")
    refused(
        run(["inspect", folder]), "attention.self.key.weight by the bias", "open the checkpoint that it was exported"
    )


def test_a_tensor_that_modules_share_has_both_names(weights: graphs.Weights, tmp_path: Path) -> None:
    """As exporters make one of equal ones: all biases of a fresh model are."""
    vector = np.zeros_like(weights["encoder.layer.0.output.dense.bias"])
    names = [f"encoder.layer.{n}.output.dense.bias" for n in range(LAYERS)]
    model = Bert({**weights, **dict.fromkeys(names, vector)}).model()
    for node in model.graph.node:
        node.input[:] = [names[0] if name in names else name for name in node.input]
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in names[1:]]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    _, anatomy = opened(written(model, tmp_path / "m"))
    assert same(anatomy, {**weights, **dict.fromkeys(names, vector)})


def test_a_graph_that_is_none_of_an_encoder_keeps_its_names(tmp_path: Path, run: Run) -> None:
    node = onnx.helper.make_node("MatMul", ["x", "some.weights"], ["y"])
    x = onnx.helper.make_tensor_value_info("x", 1, [1, 4])
    tensor = numpy_helper.from_array(np.ones((4, 4), np.float32), "some.weights")
    graph = onnx.helper.make_graph([node], "g", [x], [onnx.helper.make_tensor_value_info("y", 1, [1, 4])], [tensor])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "model.onnx")
    checkpoint = open_checkpoint(str(tmp_path / "model.onnx"))
    assert list(checkpoint.headers) == ["some.weights"]
    assert "no encoder was recognised" in " ".join(checkpoint.notes)
    refused(run(["inspect", tmp_path / "model.onnx"]), "has tensors such as some.weights")


# ------------------------------------------------------------------------------------------------ codes


@pytest.mark.parametrize("named", [True, False], ids=["named", "anonymous"])
@pytest.mark.parametrize("way", WAYS)
def test_codes_become_the_numbers_that_they_stand_for(
    way: str, named: bool, weights: graphs.Weights, tmp_path: Path, run: Run
) -> None:
    graph = Codes(weights, way)
    model = graph.model()
    folder = written(model if named else anonymous(model), tmp_path / "m")
    checkpoint, anatomy = opened(folder)
    assert same(anatomy, graph.truth)
    header = anatomy.tensors["encoder.layer.0.intermediate.dense.weight"]
    assert header.derived is not None
    assert header.derived.quantised.startswith("(code - zero point) × scale")
    assert header.stored_as in ("int8", "int4")
    assert "dequantised" in run(["inspect", folder]).out
    assert not any(told.name.endswith(("scale", "zero")) for told in checkpoint.spelled.values())


def test_codes_with_two_scales_are_refused_by_name(weights: graphs.Weights, tmp_path: Path, run: Run) -> None:
    graph = Codes(weights, "one scale")
    model = graph.model()
    (first, *_) = [
        node for node in model.graph.node if node.op_type == "DequantizeLinear" and "MatMul" in node.input[0]
    ]
    model.graph.initializer.append(numpy_helper.from_array(np.float32(3), "another"))
    model.graph.node.insert(0, onnx.helper.make_node("DequantizeLinear", [first.input[0], "another"], ["again"]))
    folder = written(model, tmp_path / "m")
    _, anatomy = opened(folder)
    header = anatomy.tensors["encoder.layer.0.attention.self.query.weight"]
    assert header.is_code
    assert "two scales for the same codes" in (header.refusal or "")


def test_a_scale_that_is_computed_is_not_known(weights: graphs.Weights, tmp_path: Path) -> None:
    model = Codes(weights, "one scale").model()
    for place, node in enumerate(model.graph.node):
        if node.op_type == "DequantizeLinear" and "MatMul" in node.input[0]:
            model.graph.node.insert(place, onnx.helper.make_node("Exp", [node.input[1]], ["computed"]))
            model.graph.node[place + 1].input[1] = "computed"
            break
    _, anatomy = opened(written(model, tmp_path / "m"))
    assert "a scale that is computed" in (anatomy.tensors["encoder.layer.0.attention.self.query.weight"].refusal or "")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [("bits", 3, "odd attributes"), ("block_size", 12, "odd attributes"), ("K", 64, "another size")],
)
def test_packed_codes_that_do_not_fit_are_refused(
    field: str, value: int, words: str, weights: graphs.Weights, tmp_path: Path
) -> None:
    model = Codes(weights, "4-bits").model()
    node = next(node for node in model.graph.node if node.op_type == "MatMulNBits")
    next(given for given in node.attribute if given.name == field).i = value
    _, anatomy = opened(written(model, tmp_path / "m"))
    header = next(h for h in anatomy.tensors.values() if h.refusal)
    assert header.is_code
    assert words in (header.refusal or "")


def test_half_precision_is_kept(weights: graphs.Weights, tmp_path: Path) -> None:
    halves = {name: t.astype(np.float16) for name, t in weights.items()}
    _, anatomy = opened(written(Fused(halves).model(), tmp_path / "m"))
    assert same(anatomy, halves)


def test_codes_that_are_scaled_after_the_product_are_refused(weights: graphs.Weights, tmp_path: Path) -> None:
    """Whole numbers that no scale is found for are not the model's."""
    model = Codes(weights, "by hand").model()
    nodes = model.graph.node
    at = next(n for n, node in enumerate(nodes) if node.op_type == "Mul" and "val_scale" in node.input[1])
    scaled, product = nodes[at], nodes[at + 1]
    assert product.op_type == "MatMul"
    product.input[1] = scaled.input[0]
    nodes.insert(at + 2, onnx.helper.make_node("Mul", [product.output[0], scaled.input[1]], ["after"]))
    nodes[at + 3].input[1] = "after"
    nodes.remove(scaled)
    _, anatomy = opened(written(model, tmp_path / "m"))
    header = anatomy.tensors["encoder.layer.0.attention.self.query.weight"]
    assert header.is_code
    assert "not found in the graph" in (header.refusal or "")


def test_a_bias_that_is_added_later_is_not_told_as_zeros(weights: graphs.Weights, tmp_path: Path) -> None:
    model = Dynamo(weights).model()
    nodes = model.graph.node
    adds = [n for n, node in enumerate(nodes) if node.op_type == "Add" and "intermediate" in node.input[1]]
    for at in reversed(adds):
        nodes.insert(at, onnx.helper.make_node("Neg", [nodes[at].input[0]], [f"neg{at}"]))
        nodes[at + 1].input[0] = f"neg{at}"
    anonymous(model)
    checkpoint = open_checkpoint(str(written(model, tmp_path / "m") / "model.onnx"))
    assert not any("no bias" in note for note in checkpoint.notes)
    assert not any(told.name.startswith("encoder") for told in checkpoint.spelled.values())


# ------------------------------------------------------------------------------------------------ torch's exporter


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["bert", "distilbert", "albert"])
def test_what_torch_exports_is_read(family: str, tmp_path: Path) -> None:
    """By its first exporter, which leaves names to biases and norms, and gives layers that share weights one copy."""
    import torch
    import transformers

    torch.manual_seed(0)
    small = {"vocab_size": 60, "max_position_embeddings": 20}
    usual = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
    if family == "bert":
        model = transformers.BertForSequenceClassification(transformers.BertConfig(**small, **usual))
    elif family == "albert":
        model = transformers.AlbertModel(transformers.AlbertConfig(**small, **usual, embedding_size=16))
    else:
        config = transformers.DistilBertConfig(**small, dim=32, n_layers=2, n_heads=4, hidden_dim=40)
        model = transformers.DistilBertModel(config)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    model.eval().save_pretrained(tmp_path / "plain")
    (tmp_path / "m").mkdir()
    shutil.copy(tmp_path / "plain" / "config.json", tmp_path / "m")
    model.config.return_dict = False
    ids = torch.randint(5, 50, (2, 7))
    inputs = (ids, torch.ones_like(ids))
    names = ["input_ids", "attention_mask"]
    torch.onnx.export(model, inputs, tmp_path / "m" / "model.onnx", input_names=names, opset_version=17, dynamo=False)
    _, ours = opened(tmp_path / "m")
    _, plain = opened(tmp_path / "plain")
    assert ours.tensors.keys() == plain.tensors.keys()
    found, wanted = dict(read_tensors(ours.tensors)), dict(read_tensors(plain.tensors))
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


class FusedCodes(Fused):
    """Attention on codes, and a table of words in packed blocks, as onnxruntime's tools write them."""

    def __init__(self, weights: graphs.Weights) -> None:
        super().__init__(weights)
        self.truth = dict(weights)

    def attention(self, x: str, name: str, mask: str) -> str:
        parts = [f"{name}.{part}" for part in ("query", "key", "value")]
        weight = np.concatenate([self.weights[f"{part}.weight"] for part in parts]).T
        scale = np.abs(weight).max(0) / np.float32(127)
        codes = np.round(weight / scale).astype(np.int8)
        numbers = (codes.astype(np.float32) * scale).T
        self.truth |= {f"{part}.weight": rows for part, rows in zip(parts, np.split(numbers, 3), strict=True)}
        bias = np.concatenate([self.weights[f"{part}.bias"] for part in parts])
        self.count += 1
        names = ("w", "b", "s", "ws", "z", "wz")
        w, b, s, ws, z, wz = (f"{name}{self.count}" for name in names)
        zero = np.zeros(scale.shape, np.int8)
        one, none = np.float32(0.1).reshape(()), np.uint8(0).reshape(())
        values = (codes, bias, one, scale, none, zero)
        for name, value in zip((w, b, s, ws, z, wz), values, strict=True):
            self.tensor(name, value)
        inputs = [x, w, b, s, ws, mask, z, wz]
        return self.node("QAttention", inputs, domain=graphs.MICROSOFT, num_heads=graphs.HEADS)

    def embeddings(self) -> str:
        return Bert.embeddings(self)

    def node(self, op: str, inputs: Any, out: str = "", scope: str = "", **given: Any) -> str:
        words = "embeddings.word_embeddings.weight"
        if op == "Gather" and inputs[0] == words:
            values = self.weights[words].reshape(-1, graphs.HIDDEN // 32, 32)
            scale = np.abs(values).max(2) / np.float32(7)
            codes = (np.round(values / scale[..., None]) + 8).astype(np.uint8)
            self.truth[words] = ((codes.astype(np.float32) - 8) * scale[..., None]).reshape(-1, graphs.HIDDEN)
            packed = codes.reshape(-1, graphs.HIDDEN)
            self.tensors = [tensor for tensor in self.tensors if tensor.name != words]
            taken = [self.tensor("words_Q4", packed[:, ::2] | packed[:, 1::2] << 4), inputs[1], self.tensor("s", scale)]
            attributes = {"bits": 4, "block_size": 32, "gather_axis": 0, "quantize_axis": 1}
            return super().node("GatherBlockQuantized", taken, out, domain=graphs.MICROSOFT, **attributes)
        return super().node(op, inputs, out, scope, **given)


@pytest.mark.parametrize("named", [True, False], ids=["named", "anonymous"])
def test_fused_attention_on_codes_and_packed_tables(named: bool, weights: graphs.Weights, tmp_path: Path) -> None:
    graph = FusedCodes(weights)
    model = graph.model()
    _, anatomy = opened(written(model if named else anonymous(model), tmp_path / "m"))
    assert same(anatomy, graph.truth)
