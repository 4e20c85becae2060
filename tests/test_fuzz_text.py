"""Whatever the settings beside the weights hold, a text is run or refused by a `BertprobeError`: nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_fuzz import FUZZ, altered, as_json, bounded_memory
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from bertprobe import BertprobeError, find_parts, open_checkpoint
from bertprobe.run import AllVectors, Compute, open_runner, run_texts
from bertprobe.tokens import open_tokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcd", "##a", "=", "1"]
TEXTS = ["a b c", "", "=1 \x1b[31m \u202e d"]


def tokenizer_json() -> Any:
    tokenizer = Tokenizer(models.WordPiece({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return json.loads(tokenizer.to_str())


SETTINGS: dict[str, Any] = {
    "tokenizer.json": tokenizer_json(),
    "tokenizer_config.json": {
        "do_lower_case": True,
        "tokenizer_class": "BertTokenizer",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "model_max_length": 512,
        "truncation_side": "right",
        "added_tokens_decoder": {"4": {"content": "[MASK]", "special": True, "lstrip": False}},
    },
    "special_tokens_map.json": {"cls_token": "[CLS]", "mask_token": {"content": "[MASK]", "lstrip": True}},
    "added_tokens.json": {"zz": 12},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """A model that a text was run through once, so that imports do not count as the settings' memory."""
    made = tmp_path_factory.mktemp("fuzz-text")
    for name in ("model.safetensors", "config.json"):
        (made / name).write_bytes((tiny_bert / name).read_bytes())
    (made / "vocab.txt").write_text("\n".join(WORDS))
    assert len(list(ran(made))) == len(TEXTS)
    return made


def ran(folder: Path) -> Iterator[Any]:
    """The pooled vectors of a few texts, by our own pass; those of transformers have tests of their own."""
    checkpoint = open_checkpoint(str(folder))
    tokenizer = open_tokenizer(checkpoint)
    compute = Compute(backend="numpy")
    runner = open_runner(checkpoint, find_parts(checkpoint), compute, TEXTS, tokenizer=tokenizer)
    vectors = AllVectors()
    run_texts(runner, TEXTS, vectors, truncate=True)
    yield from vectors.texts


@pytest.mark.parametrize("kind", ["config.json", *SETTINGS])
@FUZZ
@given(data=st.data())
def test_settings_with_odd_values_run_a_text_or_are_refused(kind: str, folder: Path, data: st.DataObject) -> None:
    config = json.loads((folder / "config.json").read_text())
    plain = {"config.json": config, **SETTINGS}
    beside = data.draw(st.sets(st.sampled_from(list(SETTINGS))))
    files = {name: as_json(plain[name]) for name in beside} | {kind: as_json(data.draw(altered(plain[kind])))}
    try:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        with bounded_memory(sum(path.stat().st_size for path in folder.iterdir())):
            found = list(ran(folder))
        assert [vectors.pooled.shape for vectors in found] == [found[0].pooled.shape] * len(TEXTS)
    except BertprobeError as error:
        if not (error.found and error.hint):
            raise
    finally:
        for name in SETTINGS:
            (folder / name).unlink(missing_ok=True)
        (folder / "config.json").write_text(json.dumps(config))
