"""Weights that a file does not hold as they are: as codes, which scales beside them turn into numbers, or in parts.

No value of such a tensor is read here, for without its scales, or its mask, it would be another number. Each library
leaves its own tensors beside a module's; what is known of them is a row of `SCHEMES`. Sources: bitsandbytes
(nn/modules.py), AutoGPTQ, AutoAWQ, compressed-tensors, optimum-quanto, HQQ, fbgemm's and DeepSeek's fp8,
torch.ao.nn.quantized, torch.nn.utils.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from bertprobe.checkpoint import DTYPES, TensorHeader
from bertprobe.checkpoint.tensors import CODES


class Scheme(NamedTuple):
    """How a library stores a quantised matrix: the names behind its module's path.

    `signs` are names only it has there; `codes` is where the codes lie, shaped as the matrix is unless `packed`, and
    `bias` where the bias does. What is kept `in_parts` is no code, but a weight and a mask, or a length and directions.
    """

    name: str
    signs: tuple[str, ...]
    codes: str = "weight"
    packed: bool = False
    bias: str = "bias"
    in_parts: bool = False

    @property
    def refusal(self) -> str:
        """Why what it stores is not read."""
        if self.in_parts:
            return f"its weight is kept in parts ({self.name}): undo that in torch, then save again"
        return refusal(self.name)


_OF_EIGHT_BITS = ("weight_scale", "weight_scale_inv", "scale_weight", "weight_scales")
_OF_EIGHT_BITS = ("weight_scale", "weight_scale_inv", "scale_weight", "weight_scales")
_PARAMETRISED = ("parametrizations.weight.original1", "parametrizations.weight.original")
_PACKED = "_packed_params._packed_params"
SCHEMES = (
    Scheme("bitsandbytes int8", ("SCB",)),
    Scheme("bitsandbytes 4-bit", ("weight.absmax",), packed=True),
    Scheme("GPTQ or AWQ", ("qweight", "scales"), "qweight", packed=True),
    Scheme("compressed-tensors", ("weight_packed",), "weight_packed", packed=True),
    Scheme("quanto", ("weight._scale",), "weight._data"),
    Scheme("HQQ", ("W_q",), "W_q", packed=True),
    Scheme("torch dynamic int8", (f"{_PACKED}.0",), f"{_PACKED}.0", packed=True, bias=f"{_PACKED}.1"),
    *(Scheme("8 bits with scales", (sign,)) for sign in _OF_EIGHT_BITS),
    Scheme("peft, not merged", ("base_layer.weight",), "base_layer.weight", bias="base_layer.bias", in_parts=True),
    Scheme("torch.nn.utils.prune", ("weight_orig", "weight_mask"), "weight_orig", in_parts=True),
    Scheme("torch.nn.utils.weight_norm", ("weight_v", "weight_g"), "weight_v", in_parts=True),
    *(Scheme("torch.nn.utils.parametrize", (part,), part, in_parts=True) for part in _PARAMETRISED),
)
_FEW_BITS = 8
UNKNOWN = "scales that are not in the file"


def marked(headers: Mapping[str, TensorHeader], config: Mapping[str, Any]) -> dict[str, TensorHeader]:
    """The headers, in which codes are refused under the name of the matrix that they stand for."""
    found = dict(headers)
    said = _method(config)
    for name in headers:
        for scheme in SCHEMES:
            path = _module(name, scheme, headers)
            if path is not None and path + scheme.codes in found:
                found.pop(path + scheme.codes)
                found[f"{path}weight"] = _codes(headers[path + scheme.codes], scheme)
                if (bias := found.pop(path + scheme.bias, None)) is not None:
                    found[f"{path}bias"] = bias
    for name, header in found.items():
        if header.refusal is None and _is_unscaled(name, header, said):
            found[name] = replace(header, refusal=refusal(said or UNKNOWN))
    return found


def refusal(how: str) -> str:
    """Why codes are not read."""
    return f"{CODES} ({how}), not the model's numbers"


def _module(name: str, scheme: Scheme, headers: Mapping[str, TensorHeader]) -> str | None:
    """The path of the module whose sign a name is, None for other names and where no codes lie beside it."""
    sign = scheme.signs[0]
    path = name.removesuffix(sign)
    if path == name or (path and not path.endswith(".")):
        return None
    beside = all(path + other in headers for other in scheme.signs[1:])
    codes = headers.get(path + scheme.codes)
    if not beside or codes is None:
        return None
    return path if scheme.codes != "weight" or _has_few_bits(codes) else None


def _codes(header: TensorHeader, scheme: Scheme) -> TensorHeader:
    # A packed matrix does not say how large it is.
    return replace(header, shape=() if scheme.packed else header.shape, refusal=scheme.refusal)


def _has_few_bits(header: TensorHeader) -> bool:
    return header.dtype in DTYPES and DTYPES[header.dtype].bits <= _FEW_BITS


def _is_unscaled(name: str, header: TensorHeader, said: str) -> bool:
    """Whether a matrix holds integers, which no model's weights are, or, where the config says so, floats of 8 bits."""
    if not name.endswith(".weight") or len(header.shape) != 2 or header.dtype not in DTYPES:
        return False
    kind = DTYPES[header.dtype].kind
    return kind == "int" or (bool(said) and kind == "float" and _has_few_bits(header))


def _method(config: Mapping[str, Any]) -> str:
    """What the config says of how its weights were quantised, empty where it says nothing."""
    said = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(said, Mapping):
        return ""
    method = said.get("quant_method", said.get("format", ""))
    return method if isinstance(method, str) and method.isprintable() and len(method) < 40 else ""
