"""BERT as an ONNX graph, in the forms that exporters and optimisers give it; written with onnx's own helpers.

`Bert` puts a graph together from weights by their canonical names; what differs between forms are its methods. `save`
writes one, `anonymous` takes all names away, `quantised` puts codes in place of weights.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from kin import POCKET
from onnx import helper as h
from onnx import numpy_helper
from safetensors.numpy import load_file

Weights = dict[str, np.ndarray]
CONFIG = json.loads((POCKET / "config.json").read_text())
LAYERS, HIDDEN, HEADS = CONFIG["num_hidden_layers"], CONFIG["hidden_size"], CONFIG["num_attention_heads"]
EPS = CONFIG["layer_norm_eps"]
MICROSOFT = "com.microsoft"


def pocket() -> Weights:
    """The built-in encoder's weights in float32, by their canonical names."""
    stored = load_file(POCKET / "model.safetensors")
    names = {name: name.removeprefix("bert.") for name in stored}
    return {
        names[name]: t.astype(np.float32)
        for name, t in stored.items()
        if names[name].startswith(("embeddings", "encoder", "pooler"))
    }


class Bert:
    """A graph as torch.onnx writes it: operators one by one, dense weights (in, out) without their names.

    `prefix` stands before names; `weights` may have fewer layers. What `pooled` is for a graph without a pooler.
    """

    opset = 17
    heads_fixed = True

    def __init__(self, weights: Mapping[str, np.ndarray], prefix: str = "", act: str = "gelu") -> None:
        self.weights = weights
        self.prefix = prefix
        self.act_name = act
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self.count = 300

    # ------------------------------------------------------------------------------------------------ pieces

    def node(self, op: str, inputs: Sequence[str], out: str = "", scope: str = "", **given: Any) -> str:
        self.count += 1
        out = out or f"v{self.count}"
        name = f"/{scope}/{op}" if scope else f"n{self.count}"
        self.nodes.append(h.make_node(op, list(inputs), [out], name=name, **given))
        return out

    def tensor(self, name: str, values: np.ndarray) -> str:
        if all(tensor.name != name for tensor in self.tensors):
            self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        self.count += 1
        array = numpy_helper.from_array(np.asarray(values, dtype), f"c{self.count}")
        self.nodes.append(h.make_node("Constant", [], [f"c{self.count}"], value=array))
        return f"c{self.count}"

    def weight(self, name: str) -> str:
        return self.tensor(self.prefix + name, self.weights[name])

    def scope(self, name: str) -> str:
        return (self.prefix + name).replace(".", "/").replace("layer/", "layer.")

    # ------------------------------------------------------------------------------------------------ modules

    def dense_weight(self, name: str) -> str:
        self.count += 1
        return self.tensor(f"onnx::MatMul_{self.count}", self.weights[f"{name}.weight"].T)

    def dense(self, x: str, name: str) -> str:
        product = self.node("MatMul", [x, self.dense_weight(name)], scope=self.scope(name))
        return self.node("Add", [self.weight(f"{name}.bias"), product], scope=self.scope(name))

    def norm(self, x: str, name: str) -> str:
        mean = self.node("ReduceMean", [x], axes=[-1])
        centred = self.node("Sub", [x, mean])
        variance = self.node("ReduceMean", [self.node("Pow", [centred, self.constant(2.0, np.float32)])], axes=[-1])
        root = self.node("Sqrt", [self.node("Add", [variance, self.constant(EPS, np.float32)])])
        scaled = self.node("Mul", [self.node("Div", [centred, root]), self.weight(f"{name}.weight")])
        return self.node("Add", [scaled, self.weight(f"{name}.bias")])

    def act(self, x: str) -> str:
        if self.act_name == "relu":
            return self.node("Relu", [x])
        if self.act_name == "gelu_new":
            cubed = self.node("Mul", [self.node("Pow", [x, self.number(3.0)]), self.number(0.044715)])
            inner = self.node("Mul", [self.node("Add", [x, cubed]), self.number(0.7978845608)])
            tanh = self.node("Add", [self.node("Tanh", [inner]), self.number(1.0)])
            return self.node("Mul", [self.node("Mul", [x, self.number(0.5)]), tanh])
        if self.act_name == "silu":
            return self.node("Mul", [x, self.node("Sigmoid", [x])])
        erf = self.node("Erf", [self.node("Div", [x, self.number(2**0.5)])])
        scaled = self.node("Mul", [x, self.node("Add", [erf, self.number(1.0)])])
        return self.node("Mul", [scaled, self.number(0.5)])

    def number(self, value: float) -> str:
        return self.constant(value, np.float32)

    def embeddings(self) -> str:
        ids = self.position_ids()
        words = self.node("Gather", [self.weight("embeddings.word_embeddings.weight"), "input_ids"])
        types = self.node("Gather", [self.weight("embeddings.token_type_embeddings.weight"), "token_type_ids"])
        places = self.node("Gather", [self.weight("embeddings.position_embeddings.weight"), ids])
        summed = self.node("Add", [self.node("Add", [words, types]), places])
        return self.norm(summed, "embeddings.LayerNorm")

    def position_ids(self) -> str:
        shape = self.node("Shape", ["input_ids"])
        length = self.node("Unsqueeze", [self.node("Gather", [shape, self.constant(1)]), self.constant([0])])
        ids = self.constant(np.arange(CONFIG["max_position_embeddings"])[None])
        return self.node("Slice", [ids, self.constant([0]), length, self.constant([1]), self.constant([1])])

    def mask(self) -> str:
        inner = self.node("Unsqueeze", ["attention_mask", self.constant([1, 2])])
        gone = self.node("Sub", [self.number(1.0), self.node("Cast", [inner], to=1)])
        return self.node("Mul", [gone, self.number(-1e9)])

    def in_heads(self, x: str, perm: Sequence[int]) -> str:
        shape = self.node("Shape", [x])
        parts = [
            self.node("Unsqueeze", [self.node("Gather", [shape, self.constant(n)]), self.constant([0])]) for n in (0, 1)
        ]
        sizes = (HEADS, HIDDEN // HEADS) if self.heads_fixed else (-1, HIDDEN // HEADS)
        whole = self.node("Concat", [*parts, *(self.constant([n]) for n in sizes)], axis=0)
        return self.node("Transpose", [self.node("Reshape", [x, whole])], perm=list(perm))

    def attention(self, x: str, name: str, mask: str) -> str:
        query, key, value = (self.dense(x, f"{name}.{part}") for part in ("query", "key", "value"))
        product = self.node("MatMul", [self.in_heads(query, (0, 2, 1, 3)), self.in_heads(key, (0, 2, 3, 1))])
        scores = self.node("Div", [product, self.number((HIDDEN // HEADS) ** 0.5)])
        chances = self.node("Softmax", [self.node("Add", [scores, mask])], axis=-1)
        made = self.node("MatMul", [chances, self.in_heads(value, (0, 2, 1, 3))])
        turned = self.node("Transpose", [made], perm=[0, 2, 1, 3])
        return self.node("Reshape", [turned, self.constant([0, 0, HIDDEN])])

    def layer(self, x: str, name: str, mask: str) -> str:
        context = self.attention(x, f"{name}.attention.self", mask)
        out = self.dense(context, f"{name}.attention.output.dense")
        x = self.norm(self.node("Add", [out, x]), f"{name}.attention.output.LayerNorm")
        inner = self.act(self.dense(x, f"{name}.intermediate.dense"))
        outer = self.dense(inner, f"{name}.output.dense")
        return self.norm(self.node("Add", [outer, x]), f"{name}.output.LayerNorm")

    def pooler(self, x: str) -> str:
        first = self.node("Gather", [x, self.constant(0)], axis=1)
        weight, bias = self.weight("pooler.dense.weight"), self.weight("pooler.dense.bias")
        dense = self.node("Gemm", [first, weight, bias], scope=self.scope("pooler.dense"), transB=1)
        return self.node("Tanh", [dense])

    # ------------------------------------------------------------------------------------------------ whole

    def model(self, layers: int = LAYERS, *, pooled: bool = True) -> Any:
        x, mask = self.embeddings(), self.mask()
        for layer in range(layers):
            x = self.layer(x, f"encoder.layer.{layer}", mask)
        outputs = [("last_hidden_state", x)]
        if pooled:
            outputs.append(("pooler_output", self.pooler(x)))
        for name, value in outputs:
            self.nodes.append(h.make_node("Identity", [value], [name]))
        inputs = [
            h.make_tensor_value_info(name, onnx.TensorProto.INT64, ["batch", "tokens"])
            for name in ("input_ids", "attention_mask", "token_type_ids")
        ]
        told = [h.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name, _ in outputs]
        graph = h.make_graph(self.nodes, "main", inputs, told, self.tensors)
        opsets = [h.make_opsetid("", self.opset), h.make_opsetid(MICROSOFT, 1)]
        return h.make_model(graph, opset_imports=opsets, producer_name="pytorch", ir_version=8)


class Dynamo(Bert):
    """As torch's second exporter has it: one operator for a norm and for GELU, values by number."""

    opset = 20
    heads_fixed = False

    def node(self, op: str, inputs: Sequence[str], out: str = "", scope: str = "", **given: Any) -> str:
        return super().node(op, inputs, out, "", **given)

    def dense_weight(self, name: str) -> str:
        self.count += 1
        return self.tensor(f"val_{self.count}", self.weights[f"{name}.weight"].T)

    def dense(self, x: str, name: str) -> str:
        return self.node("Add", [self.node("MatMul", [x, self.dense_weight(name)]), self.weight(f"{name}.bias")])

    def norm(self, x: str, name: str) -> str:
        return self.node(
            "LayerNormalization", [x, self.weight(f"{name}.weight"), self.weight(f"{name}.bias")], epsilon=EPS, axis=-1
        )

    def act(self, x: str) -> str:
        return self.node("Gelu", [x], approximate="none")


class Gemms(Bert):
    """As rewritten for small machines: tokens in rows, dense layers as Gemm, no scopes."""

    def node(self, op: str, inputs: Sequence[str], out: str = "", scope: str = "", **given: Any) -> str:
        return super().node(op, inputs, out, "", **given)

    def dense(self, x: str, name: str) -> str:
        size = self.weights[f"{name}.weight"].shape[0]
        rows = self.node("Reshape", [x, self.constant([-1, self.weights[f"{name}.weight"].shape[1]])])
        made = self.node("Gemm", [rows, self.dense_weight(name), self.weight(f"{name}.bias")])
        shape = self.node("Slice", [self.node("Shape", [x]), self.constant([0]), self.constant([2])])
        return self.node("Reshape", [made, self.node("Concat", [shape, self.constant([size])], axis=0)])


class Fused(Bert):
    """As onnxruntime's optimiser has it: its own operators for attention, norms of sums, biases and embeddings."""

    def embeddings(self) -> str:
        tables = (f"embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type"))
        weights = [*tables, "embeddings.LayerNorm.weight", "embeddings.LayerNorm.bias"]
        inputs = ["input_ids", "token_type_ids", *map(self.weight, weights), "attention_mask"]
        return self.node("EmbedLayerNormalization", inputs, domain=MICROSOFT, epsilon=EPS)

    def mask(self) -> str:
        return "attention_mask"

    def attention(self, x: str, name: str, mask: str) -> str:
        parts = [f"{name}.{part}" for part in ("query", "key", "value")]
        weight = np.concatenate([self.weights[f"{part}.weight"] for part in parts]).T
        bias = np.concatenate([self.weights[f"{part}.bias"] for part in parts])
        self.count += 1
        inputs = [x, self.tensor(f"A{self.count}_qkv_weight", weight), self.tensor(f"A{self.count}_qkv_bias", bias)]
        return self.node("Attention", [*inputs, mask], domain=MICROSOFT, num_heads=HEADS)

    def product(self, x: str, name: str) -> str:
        return self.node("MatMul", [x, self.dense_weight(name)], scope=self.scope(name))

    def skip(self, x: str, dense: str, skip: str, name: str) -> str:
        vectors = (f"{name}.weight", f"{name}.bias", f"{dense}.bias")
        return self.node("SkipLayerNormalization", [x, skip, *map(self.weight, vectors)], domain=MICROSOFT, epsilon=EPS)

    def layer(self, x: str, name: str, mask: str) -> str:
        context = self.attention(x, f"{name}.attention.self", mask)
        out = self.product(context, f"{name}.attention.output.dense")
        x = self.skip(out, f"{name}.attention.output.dense", x, f"{name}.attention.output.LayerNorm")
        inner = self.product(x, f"{name}.intermediate.dense")
        act = "BiasGelu" if self.act_name == "gelu" else "FastGelu"
        inner = self.node(act, [inner, self.weight(f"{name}.intermediate.dense.bias")], domain=MICROSOFT)
        outer = self.product(inner, f"{name}.output.dense")
        return self.skip(outer, f"{name}.output.dense", x, f"{name}.output.LayerNorm")


class Builder(Dynamo):
    """As onnxruntime-genai's builder has it: names of its own, attention of several heads as one operator."""

    def weight(self, name: str) -> str:
        return self.tensor(_builders_name(name), self.weights[name])

    def dense_weight(self, name: str) -> str:
        return self.tensor(_builders_name(f"{name}.weight"), self.weights[f"{name}.weight"].T)

    def attention(self, x: str, name: str, mask: str) -> str:
        parts = [self.dense(x, f"{name}.{part}") for part in ("query", "key", "value")]
        return self.node("MultiHeadAttention", [*parts, "", "", mask], domain=MICROSOFT, num_heads=HEADS)


def _builders_name(name: str) -> str:
    module, _, leaf = name.rpartition(".")
    if "embeddings" in module and "LayerNorm" not in module:
        return f".model.{name}"
    words = {
        "embeddings.LayerNorm": "-1.embeddings_norm_layernorm",
        "attention.self.query": "attn.q_proj",
        "attention.self.key": "attn.k_proj",
        "attention.self.value": "attn.v_proj",
        "attention.output.dense": "attn.o_proj",
        "attention.output.LayerNorm": "attention_output_norm_layernorm",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
        "output.LayerNorm": "mlp_output_norm_layernorm",
    }
    for known, theirs in words.items():
        if module.endswith(known):
            layer = module.split(".")[2] + "." if module.startswith("encoder") else ""
            kind = "" if "norm" in theirs else ".MatMul" if leaf == "weight" else ".Add"
            return f"model.layers.{layer}{theirs}{kind}.{leaf}"
    return f"model.{module}.{'MatMul' if leaf == 'weight' else 'Add'}.{leaf}"


# ------------------------------------------------------------------------------------------------ codes


class Codes(Bert):
    """A graph whose dense weights and tables are codes; `truth` has the numbers that they stand for.

    `way` is one of `WAYS`.
    """

    opset = 21

    def __init__(self, weights: Mapping[str, np.ndarray], way: str) -> None:
        super().__init__(weights)
        self.way = way
        self.truth: Weights = dict(weights)

    def named(self, stem: str, values: np.ndarray, type_: int | None = None) -> str:
        self.count += 1
        name = f"{stem}_{self.count}"
        if type_ is None:
            return self.tensor(name, values)
        self.tensors.append(packed_tensor(name, values, type_))
        return name

    def weight(self, name: str) -> str:
        if "_embeddings.weight" not in name or self.way not in ("dynamic", "one scale", "by hand"):
            return super().weight(name)
        values = self.weights[name]
        if self.way == "by hand":
            scale = np.abs(values).max(1, keepdims=True) / np.float32(127)
            codes = np.round(values / scale).astype(np.int8)
            self.truth[name] = codes.astype(np.float32) * scale
            cast = self.node("Cast", [self.tensor(f"{name}_q", codes)], to=1)
            return self.node("Mul", [cast, self.tensor(f"{name}_scale", scale)], out=name)
        scale, zero = np.float32(np.ptp(values) / 255), np.uint8(120)
        codes = np.clip(np.round(values / scale) + zero, 0, 255).astype(np.uint8)
        self.truth[name] = (codes.astype(np.float32) - np.float32(zero)) * scale
        parts = [self.tensor(f"{name}_{word}", np.asarray(v)) for word, v in (("scale", scale), ("zero_point", zero))]
        if self.way == "dynamic":
            self.after = parts
            return self.tensor(f"{name}_quantized", codes)
        return self.node("DequantizeLinear", [self.tensor(f"{name}_quantized", codes), *parts])

    def node(self, op: str, inputs: Sequence[str], out: str = "", scope: str = "", **given: Any) -> str:
        made = super().node(op, inputs, out, scope, **given)
        if op == "Gather" and inputs[0].endswith("_quantized"):  # rows of codes, which are scaled after they are taken
            return super().node("DequantizeLinear", [made, *self.after])
        return made

    def dense(self, x: str, name: str) -> str:
        made = getattr(self, f"_{self.way.replace(' ', '_').replace('-', '_')}")(
            x, name, self.weights[f"{name}.weight"].T
        )
        return self.node("Add", [self.weight(f"{name}.bias"), made], scope=self.scope(name))

    def _matmul(self, x: str, name: str, weight: str) -> str:
        return self.node("MatMul", [x, weight], scope=self.scope(name))

    def _one_scale(self, x: str, name: str, values: np.ndarray) -> str:
        scale = np.float32(np.abs(values).max() / 127)
        codes = np.round(values / scale).astype(np.int8)
        self.truth[f"{name}.weight"] = (codes.astype(np.float32) * scale).T
        inputs = [self.named("onnx::MatMul_quantized", codes), self.named("scale", np.asarray(scale))]
        return self._matmul(x, name, self.node("DequantizeLinear", inputs))

    def _a_column(self, x: str, name: str, values: np.ndarray) -> str:
        scale = np.abs(values).max(0) / np.float32(100)
        zero = np.arange(values.shape[1]) % 7 - 3
        codes = (np.round(values / scale) + zero).astype(np.int8)
        self.truth[f"{name}.weight"] = ((codes.astype(np.float32) - zero.astype(np.float32)) * scale).T
        inputs = [self.named("codes", codes), self.named("scale", scale), self.named("zero", zero.astype(np.int8))]
        return self._matmul(x, name, self.node("DequantizeLinear", inputs, axis=1))

    def _blocks(self, x: str, name: str, values: np.ndarray) -> str:
        """int4, a scale for 32 rows of a column."""
        split = values.reshape(-1, 32, values.shape[1])
        scale = np.abs(split).max(1) / np.float32(7)
        codes = np.round(split / scale[:, None]).astype(np.int8)
        self.truth[f"{name}.weight"] = (codes.astype(np.float32) * scale[:, None]).reshape(values.shape).T
        inputs = [self.named("codes", codes.reshape(values.shape), onnx.TensorProto.INT4), self.named("scale", scale)]
        return self._matmul(x, name, self.node("DequantizeLinear", inputs, axis=0, block_size=32))

    def _by_hand(self, x: str, name: str, values: np.ndarray) -> str:
        scale = np.abs(values).max(0, keepdims=True) / np.float32(127)
        codes = np.round(values / scale).astype(np.int8)
        self.truth[f"{name}.weight"] = (codes.astype(np.float32) * scale).T
        cast = self.node("Cast", [self.named("val_q", codes)], to=1)
        return self._matmul(x, name, self.node("Mul", [cast, self.named("val_scale", scale)]))

    def _coded(self, name: str, values: np.ndarray) -> list[str]:
        """Codes, their scale a column, and their zero points."""
        scale = np.abs(values).max(0) / np.float32(120)
        zero = (np.arange(values.shape[1]) % 5).astype(np.int8)
        codes = np.clip(np.round(values / scale) + zero, -128, 127).astype(np.int8)
        self.truth[f"{name}.weight"] = ((codes.astype(np.float32) - zero.astype(np.float32)) * scale).T
        return [self.named("W_quantized", codes), self.named("W_scale", scale), self.named("W_zero_point", zero)]

    def _quantised(self, x: str) -> list[str]:
        self.count += 1
        made = [f"{x}_{word}{self.count}" for word in ("quantized", "scale", "zero")]
        self.nodes.append(h.make_node("DynamicQuantizeLinear", [x], made))
        return made

    def _dynamic(self, x: str, name: str, values: np.ndarray) -> str:
        codes, scale, zero = self._coded(name, values)
        x_codes, x_scale, x_zero = self._quantised(x)
        product = self.node("MatMulInteger", [x_codes, codes, x_zero, zero], scope=self.scope(name))
        both = self.node("Mul", [x_scale, scale])
        return self.node("Mul", [self.node("Cast", [product], to=1), both])

    def _to_float(self, x: str, name: str, values: np.ndarray) -> str:
        codes, scale, zero = self._coded(name, values)
        x_codes, x_scale, x_zero = self._quantised(x)
        inputs = [x_codes, codes, x_scale, scale, x_zero, zero]
        return self.node("MatMulIntegerToFloat", inputs, domain=MICROSOFT)

    def _quantising(self, x: str, name: str, values: np.ndarray) -> str:
        return self.node("DynamicQuantizeMatMul", [x, *self._coded(name, values)], domain=MICROSOFT)

    def _linear(self, x: str, name: str, values: np.ndarray) -> str:
        x_scale, x_zero = self.named("s", np.float32(0.1)[()].reshape(())), self.named("z", np.uint8(3).reshape(()))
        inputs = [self.node("QuantizeLinear", [x, x_scale, x_zero]), x_scale, x_zero, *self._coded(name, values)]
        made = self.node("QLinearMatMul", [*inputs, x_scale, x_zero], scope=self.scope(name))
        return self.node("DequantizeLinear", [made, x_scale, x_zero])

    def _nbits(self, x: str, name: str, values: np.ndarray, bits: int, zeros: bool) -> str:
        """(out, in) in blocks of 16 along the rows, the first of a byte in its lowest bits."""
        rows, block = values.T, 16
        out, width = rows.shape
        split = rows.reshape(out, -1, block)
        scale = (np.ptp(split, axis=2) / np.float32((1 << bits) - 1)).astype(np.float32)
        middle = 1 << (bits - 1)
        zero = np.clip(np.round(-split.min(2) / scale), 0, (1 << bits) - 1) if zeros else np.full(scale.shape, middle)
        codes = np.clip(np.round(split / scale[..., None]) + zero[..., None], 0, (1 << bits) - 1).astype(np.uint8)
        numbers = (codes.astype(np.float32) - zero[..., None].astype(np.float32)) * scale[..., None]
        self.truth[f"{name}.weight"] = numbers.reshape(out, width)
        inputs = [x, self.named("Q", _lowest_first(codes, bits)), self.named("scales", scale)]
        if zeros:
            inputs.append(self.named("zeros", _lowest_first(zero.astype(np.uint8), bits)))
        return self.node(
            "MatMulNBits", inputs, scope=self.scope(name), domain=MICROSOFT, K=width, N=out, bits=bits, block_size=block
        )

    def _4_bits(self, x: str, name: str, values: np.ndarray) -> str:
        return self._nbits(x, name, values, 4, zeros=False)

    def _4_bits_with_zeros(self, x: str, name: str, values: np.ndarray) -> str:
        return self._nbits(x, name, values, 4, zeros=True)

    def _8_bits(self, x: str, name: str, values: np.ndarray) -> str:
        return self._nbits(x, name, values, 8, zeros=True)


WAYS = ("one scale", "a column", "blocks", "by hand", "dynamic", "to float", "quantising", "linear")
WAYS += ("4-bits", "4-bits with zeros", "8-bits")


def _lowest_first(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes of the last axis in bytes."""
    if bits == 8:
        return codes
    if codes.shape[-1] % 2:
        codes = np.concatenate([codes, np.zeros_like(codes[..., :1])], -1)
    return codes[..., ::2] | codes[..., 1::2] << 4


def packed_tensor(name: str, values: np.ndarray, type_: int) -> Any:
    """A tensor of 4 bits an element, the first in the lowest bits."""
    flat = (values.reshape(-1).astype(np.int8) & 15).astype(np.uint8)
    tensor = onnx.TensorProto(name=name, data_type=type_, dims=values.shape)
    tensor.raw_data = _lowest_first(flat, 4).tobytes()
    return tensor


FORMS = {"torch": Bert, "dynamo": Dynamo, "Gemm": Gemms, "fused": Fused, "builder": Builder}


def anonymous(model: Any) -> Any:
    """The same graph without a name that tells anything."""
    kept = {value.name for value in (*model.graph.input, *model.graph.output)}
    names: dict[str, str] = {}

    def renamed(name: str) -> str:
        return name if not name or name in kept else names.setdefault(name, f"t{len(names)}")

    for tensor in model.graph.initializer:
        tensor.name = renamed(tensor.name)
    for node in model.graph.node:
        node.name = ""
        node.input[:] = [renamed(name) for name in node.input]
        node.output[:] = [renamed(name) for name in node.output]
    return model


def written(model: Any, folder: Path, name: str = "model.onnx", *, config: bool = True) -> Path:
    """A folder with a model in it, the tokenizer, and the config unless it is not wanted."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / name)
    for other in ("tokenizer.json", "vocab.txt", *(("config.json",) if config else ())):
        shutil.copy(POCKET / other, folder / other)
    return folder
