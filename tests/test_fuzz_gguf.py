"""GGUF files, altered: there is an index or a `BertprobeError`, in bounded time and memory, and what is read is right.

The gguf package's own reader is the judge of values: where both read a file, names, shapes and bytes are the same.
"""

from __future__ import annotations

import struct
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from ggufs import ARRAY, F32, I32, STRING, U32, File, bert_pairs, info, pair
from hypothesis import given
from hypothesis import strategies as st
from memory import Memory
from test_fuzz import FORMAT, FUZZ, GIVEN_MEMORY, SPARE_MEMORY, folder, fuzzed, mutated

from bertprobe.checkpoint.gguf import index
from bertprobe.checkpoint.reading import read_tensors
from bertprobe.errors import BertprobeError

__all__ = ["folder"]  # the fixture

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "\u2581a", "b", "\u2581c"]
PAIRS = bert_pairs(
    bert__pooling_type=(U32, 1),
    tokenizer__ggml__model=(STRING, "bert"),
    tokenizer__ggml__tokens=(ARRAY, (STRING, WORDS)),
    tokenizer__ggml__token_type=(ARRAY, (I32, [3, 3, 3, 3, 1, 1, 1])),
    tokenizer__ggml__scores=(ARRAY, (F32, [0.5] * 7)),
    tokenizer__ggml__cls_token_id=(U32, 2),
)


def _model() -> bytes:
    draw = np.random.default_rng(0)
    file = File(list(PAIRS))
    for name, shape in {
        "token_embd.weight": (7, 4), "position_embd.weight": (16, 4), "token_types.weight": (2, 4),
        "blk.0.attn_qkv.weight": (12, 4), "blk.0.ffn_up.weight": (8, 4), "blk.0.ffn_up.bias": (8,),
        "blk.0.ffn_down.weight": (4, 8), "blk.0.layer_output_norm.weight": (4,),
    }.items():  # fmt: skip
        file.add(name, shape, 0, draw.normal(size=shape).astype(np.float32).tobytes())
    file.add("blk.1.ffn_up.weight", (3, 64), 8, draw.integers(0, 256, 3 * 68, np.uint8).tobytes())
    file.add("blk.2.ffn_up.weight", (2, 256), 12, draw.integers(0, 256, 2 * 144, np.uint8).tobytes())
    return file.content


MODEL = _model()


@FUZZ
@given(format=FORMAT, content=mutated(MODEL))
def test_a_damaged_file(folder: Path, format: str, content: bytes) -> None:
    fuzzed(folder, format, {"model.gguf": content})


@FUZZ
@given(format=FORMAT, rest=st.binary(max_size=300))
def test_any_bytes_behind_the_magic(folder: Path, format: str, rest: bytes) -> None:
    fuzzed(folder, format, {"model.gguf": b"GGUF\3\0\0\0" + rest})


NUMBERS = st.sampled_from([0, 1, 2, 3, 4, 31, 32, 33, 48, 64, 2**20, 2**31, 2**32 - 1, 2**32, 2**62, 2**63, 2**64 - 1])


@st.composite
def _renumbered(draw: st.DrawFn) -> bytes:
    """The file with numbers of four or eight bytes in it replaced, where they stand."""
    content = bytearray(MODEL)
    end = len(MODEL) - 2 * 288
    for _ in range(draw(st.integers(1, 3))):
        width = draw(st.sampled_from(["<I", "<Q"]))
        place = draw(st.integers(8, end))
        number = draw(NUMBERS) % 2 ** (8 * struct.calcsize(width))
        struct.pack_into(width, content, place, number)
    return bytes(content)


def looked_at(content: bytes) -> None:
    """All that an index is asked for, the tokenizer's files among it."""
    found = index(Memory(content))
    for name in found.settings:
        with suppress(BertprobeError):
            found.settings[name].encode()
    for header in found.headers:
        with suppress(BertprobeError):
            dict(read_tensors({header.name: header}))


@FUZZ
@given(content=_renumbered())
def test_counts_and_sizes_that_lie(content: bytes) -> None:
    tracemalloc.start()
    try:
        with suppress(BertprobeError):
            looked_at(content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= GIVEN_MEMORY * len(content) + SPARE_MEMORY


def _theirs(path: Path) -> dict[str, tuple[tuple[int, ...], bytes]] | None:
    """The tensors as the gguf package reads them, None where it does not."""
    try:
        read = gguf.GGUFReader(path)
        return {t.name: (tuple(t.shape.tolist()[::-1]), bytes(t.data.tobytes())) for t in read.tensors}
    except Exception:  # it has no errors of its own
        return None


@FUZZ
@given(content=_renumbered() | mutated(MODEL))
@pytest.mark.filterwarnings("ignore")
def test_what_is_read_is_what_the_gguf_package_reads(content: bytes, tmp_path: Path) -> None:
    try:
        headers = index(Memory(content)).headers
    except BertprobeError:
        return
    (tmp_path / "model.gguf").write_bytes(content)
    theirs = _theirs(tmp_path / "model.gguf")
    if theirs is None:
        return
    for header in headers:
        if header.name in theirs:  # one that was taken apart is not
            shape, data = theirs[header.name]
            assert (header.shape, _bytes(header)) == (shape, data) or header.refusal is not None
    assert {header.name for header in headers} >= {name for name in theirs if "attn_qkv" not in name}


def _bytes(header: Any) -> bytes:
    (piece,) = header.all_pieces
    return bytes(piece.source.read(piece.start, piece.stop))


def test_a_long_header_is_read_in_time_and_memory_that_follow_it() -> None:
    """Of 500,000 strings and 20,000 tensors: no object for each string, few for each tensor."""
    words = pair("tokenizer.ggml.tokens", ARRAY, (STRING, ["word"] * 500_000))
    infos = [info(f"blk.{i}.ffn_up.weight", (0,), 0, 0) for i in range(20_000)]
    content = File([words, *bert_pairs()], infos).content
    tracemalloc.start()
    try:
        found = index(Memory(content))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found.headers) == 20_000
    assert peak <= 8 * len(content)


def test_many_keys_are_as_many_as_a_file_may_have() -> None:
    content = File([pair(f"k{i}", U32, i) for i in range(9_000)]).content
    assert index(Memory(content)).headers == ()
