"""The types that ggml stores numbers in, and how blocks of a quantisation become numbers again.

A block is so many weights of a row with what they have in common, a scale or two. The gguf package knows how each kind
is put together; it is llama.cpp's own, and only this module imports it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from bertprobe.checkpoint.tensors import CODES, Array, Grid
from bertprobe.errors import CorruptFile, UnsupportedFile, printable


class Kind(NamedTuple):
    """A type of ggml: so many weights lie in so many bytes. `dtype` is that of plain numbers, empty for blocks.

    Of blocks that the gguf package does not decode only the shape is known.
    """

    name: str
    items: int
    bytes: int
    dtype: str = ""
    decoded: bool = True

    @property
    def refusal(self) -> str | None:
        """Why nothing of that type is read, None where it is."""
        return None if self.decoded else f"{CODES}, ggml's {self.name}, which the gguf package does not decode"

    @property
    def grid(self) -> Grid | None:
        """What a row's numbers are rounded to, None where that is no grid of even steps, or only nearly one."""
        bits = re.match(r"I?Q(\d)_(?:[01]|K|NL|XS)$", self.name)
        if bits is None or int(bits[1]) < 2 or self.name == "IQ2_XS":
            return None
        return Grid(int(bits[1]), (1, _SUB_BLOCKS.get(self.name, 32)), nested=self.items > 32)


_SUB_BLOCKS = {"Q2_K": 16, "Q3_K": 16, "Q6_K": 16}  # weights that share a scale; of other kinds 32

# By their number in ggml.h; those that are missing are gone, or newer than this.
KINDS: dict[int, Kind] = {
    0: Kind("F32", 1, 4, "F32"),
    1: Kind("F16", 1, 2, "F16"),
    2: Kind("Q4_0", 32, 18),
    3: Kind("Q4_1", 32, 20),
    6: Kind("Q5_0", 32, 22),
    7: Kind("Q5_1", 32, 24),
    8: Kind("Q8_0", 32, 34),
    9: Kind("Q8_1", 32, 36, decoded=False),
    10: Kind("Q2_K", 256, 84),
    11: Kind("Q3_K", 256, 110),
    12: Kind("Q4_K", 256, 144),
    13: Kind("Q5_K", 256, 176),
    14: Kind("Q6_K", 256, 210),
    15: Kind("Q8_K", 256, 292, decoded=False),
    16: Kind("IQ2_XXS", 256, 66),
    17: Kind("IQ2_XS", 256, 74),
    18: Kind("IQ3_XXS", 256, 98),
    19: Kind("IQ1_S", 256, 50),
    20: Kind("IQ4_NL", 32, 18),
    21: Kind("IQ3_S", 256, 110),
    22: Kind("IQ2_S", 256, 82),
    23: Kind("IQ4_XS", 256, 136),
    24: Kind("I8", 1, 1, "I8"),
    25: Kind("I16", 1, 2, "I16"),
    26: Kind("I32", 1, 4, "I32"),
    27: Kind("I64", 1, 8, "I64"),
    28: Kind("F64", 1, 8, "F64"),
    29: Kind("IQ1_M", 256, 56),
    30: Kind("BF16", 1, 2, "BF16"),
    34: Kind("TQ1_0", 256, 54),
    35: Kind("TQ2_0", 256, 66),
    39: Kind("MXFP4", 32, 17),
    40: Kind("NVFP4", 64, 36),
    41: Kind("Q1_0", 128, 18, decoded=False),
    42: Kind("Q2_0", 64, 18, decoded=False),
}
SLICE = 2**20  # weights that are made at once: what it takes on the way is several times as much


def maker(number: int, tensor: str) -> Callable[[Array], Array]:
    """What makes float32 of the bytes of a tensor's blocks, (…, bytes of a row) → (…, columns).

    Raises `UnsupportedFile` where the gguf package is not there, or too old for the type.
    """
    kind = KINDS[number]

    def make(blocks: Array) -> Array:
        import numpy as np

        dequantize = _dequantizer(number, kind.name)
        columns = blocks.shape[-1] // kind.bytes * kind.items
        made = np.empty((*blocks.shape[:-1], columns), np.float32)
        if not made.size:  # numpy has no rows of nothing
            return made
        rows, into = blocks.reshape(-1, blocks.shape[-1]), made.reshape(-1, columns)
        step = max(1, SLICE // max(columns, 1))
        with np.errstate(all="ignore"):  # a scale that is infinite or no number at all is what the file holds
            for start in range(0, len(rows), step):
                try:
                    into[start : start + step] = dequantize(rows[start : start + step])
                except (ValueError, IndexError) as error:
                    raise CorruptFile(
                        f"the {kind.name} blocks of tensor {printable(tensor)} cannot be decoded "
                        f"({printable(str(error)[:100])})",
                        "the file is damaged: fetch it again",
                    ) from error
        return made

    return make


def _dequantizer(number: int, name: str) -> Callable[[Array], Array]:
    try:
        from gguf import GGMLQuantizationType, quants
    except ImportError as error:
        raise UnsupportedFile(
            f"weights in blocks of {name} are made numbers by the gguf package, which is not installed",
            "pip install 'bertprobe[gguf]'",
        ) from error
    try:
        kind = GGMLQuantizationType(number)
    except ValueError as error:
        raise UnsupportedFile(
            f"the gguf package that is installed does not know blocks of {name}", "pip install -U gguf"
        ) from error
    return lambda rows: quants.dequantize(rows, kind)
