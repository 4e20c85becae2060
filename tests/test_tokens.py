"""Ids, segments and pieces are transformers'; batches hold every token once, whatever the budget."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, processors

from bertprobe.checkpoint import Checkpoint, open_checkpoint
from bertprobe.checkpoint.folder import LocalFolder
from bertprobe.errors import BertprobeError, CorruptFile, NotFound, UnsupportedFile
from bertprobe.tokens import (
    Encoded,
    Packed,
    Tokenizer,
    batches,
    check_vocabulary,
    open_tokenizer,
    pack,
)

TEXTS = [
    "",
    " ",
    "a",
    "Hello, World! It's 1,000.50 € — isn't it?",
    "unaffable Ångström café naïve ÉCOLE Straße İstanbul ǅ",
    "e\u0301 o\u0308 \u1e9b\u0323 a\u0300\u0301\u0302\u0303",  # combining marks
    "👩‍👩‍👧‍👦 😀👍🏽 🇩🇪 emoji",
    "שלום עולם مرحبا بالعالم \u202eright to left\u202c",
    "中文字符和 English 混合，日本語テキスト 한국어 𠀀",
    "a\x00b\x01c\x7fd\x85e\u200bf\ufefft\ufffdu\u2028v",  # NUL, controls, invisible
    "tabs\tand\r\nlines\n\n  spaces\u00a0wide\u3000",
    "[CLS] the [MASK] and [SEP][PAD] [UNK] [cls] [Mask]",
    "<s> the <mask> and </s><pad> <unk>",
    "##ing ## ##s #",
    "x" * 99 + " " + "y" * 100 + " " + "z" * 101,
    "word " * 200,
]


def checkpoint_at(folder: Path, config: dict[str, Any] | None = None) -> Checkpoint:
    """What `open_tokenizer` asks of a checkpoint, for a folder without weights."""
    file = SimpleNamespace(path=folder / "model.safetensors")
    if config is None and (folder / "config.json").is_file():
        config = json.loads((folder / "config.json").read_text())
    tokenizer, foreign = LocalFolder(folder), False
    return cast(
        Checkpoint,
        SimpleNamespace(
            files=(file,), config=config, folder=folder, tokenizer=tokenizer, has_foreign_tokenizer=foreign
        ),
    )


def auto(folder: Path, **options: Any) -> Any:
    """Transformers' tokenizer of a folder."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, **options)


def theirs(reference: Any, text: str, pair: str | None = None, longest: int | None = None) -> dict[str, list[int]]:
    """What transformers makes of a text or pair, as a batch of one: called with an empty pair alone, it drops it."""
    texts = [text] if pair is None else [(text, pair)]
    batch = reference(texts, padding=False, truncation=longest is not None, max_length=longest)
    return {key: values[0] for key, values in batch.items()}


def assert_same(ours: Encoded, theirs: dict[str, list[int]], reference: Any) -> None:
    assert ours.ids.tolist() == theirs["input_ids"]
    assert ours.segments.tolist() == theirs.get("token_type_ids", [0] * len(ours))
    assert list(ours.tokens) == reference.convert_ids_to_tokens(theirs["input_ids"])


def assert_equal_to(tokenizer: Tokenizer, reference: Any, texts: Sequence[str] = TEXTS) -> None:
    """Texts, pairs and cut texts, one at a time and many at once."""
    pairs: list[tuple[str, str | None]] = list(zip(texts, [*texts[3:], *texts[:3]], strict=True))
    items = [*((text, None) for text in texts), *pairs]
    many = [*tokenizer.encode_many(texts), *tokenizer.encode_many(cast(Any, pairs))]
    for (text, pair), whole in zip(items, many, strict=True):
        assert_same(whole, theirs(reference, text, pair), reference)
        assert tokenizer.encode(text, pair).tokens == whole.tokens
        for longest in (4, 5, 12, 13, 64):
            cut = tokenizer.encode(text, pair, longest=longest)
            assert_same(cut, theirs(reference, text, pair, longest), reference)
            assert cut.truncated == len(whole) - len(cut)


# ------------------------------------------------------------------------------------------------ folders


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = (
    "the and word hello world un ##aff ##able a b c d e é e\u0301 cafe café 中 文 字 ##文 , . ! ' # ## x y ##s ##ing"
)
CASED = "Hello World ÉCOLE Ang ##ström E"


def wordpiece(folder: Path, model_type: str = "bert", *, cased: bool = True, **options: Any) -> Path:
    """A folder with vocab.txt, and with tokenizer_config.json where there are options for it."""
    folder.mkdir(exist_ok=True)
    words = [*SPECIAL, *WORDS.split(), *(CASED.split() if cased else [])]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    if options:
        (folder / "tokenizer_config.json").write_text(json.dumps(options))
    return folder


def roberta(folder: Path, *, framed: bool = True, **options: Any) -> Path:
    """A byte-level BPE tokenizer.json as RoBERTa's, `framed` by its special tokens or left to the class."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("Ġ", "w"), ("o", "r"), ("Ġw", "or")]
    vocab = {piece: i for i, piece in enumerate([*special, *letters, *map("".join, merges)])}
    backend = tokenizers.Tokenizer(models.BPE(vocab, merges, **options))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.ByteLevel()
    if framed:
        backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, False)
    backend.add_special_tokens(special)
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": "roberta", "type_vocab_size": 2}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer"}))
    return folder


@cache
def of_minilm(folder: Path) -> tuple[Tokenizer, Any]:
    return open_tokenizer(checkpoint_at(folder)), auto(folder)


# ------------------------------------------------------------------------------------------------ equality


def test_minilm_gives_transformers_ids_and_its_padding_is_ignored(minilm: Path) -> None:
    baked = json.loads((minilm / "tokenizer.json").read_text())
    assert baked["padding"]
    assert baked["truncation"]
    tokenizer, reference = of_minilm(minilm)
    assert (tokenizer.name, tokenizer.notes, tokenizer.vocab_size) == ("tokenizer.json", (), 30522)
    assert_equal_to(tokenizer, reference)
    assert len(tokenizer.encode("word " * 3000)) == 3002


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(), st.text(), st.integers(3, 12))
def test_any_text_and_pair_gives_transformers_ids(minilm: Path, text: str, pair: str, longest: int) -> None:
    tokenizer, reference = of_minilm(minilm)
    assert_same(tokenizer.encode(text), theirs(reference, text), reference)
    assert_same(tokenizer.encode(text, pair, longest=longest), theirs(reference, text, pair, longest), reference)


def test_minilm_from_its_vocabulary_alone(minilm: Path, tmp_path: Path) -> None:
    for name in ("vocab.txt", "config.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(minilm / name, tmp_path)
    tokenizer = open_tokenizer(checkpoint_at(tmp_path))
    assert (tokenizer.name, tokenizer.notes) == ("vocab.txt", ())
    assert_equal_to(tokenizer, auto(tmp_path))


@pytest.mark.parametrize("name", ["camphr-bert-test", "camphr-ner_bert"])
def test_real_folders_with_a_vocabulary(shared_checkpoints: Path, name: str) -> None:
    tokenizer = open_tokenizer(open_checkpoint(str(shared_checkpoints / name)))
    assert tokenizer.name == "vocab.txt"
    assert_equal_to(tokenizer, auto(shared_checkpoints / name))


def test_a_vocabulary_beside_a_config_that_transformers_does_not_take(shared_checkpoints: Path) -> None:
    from transformers import BertTokenizer

    folder = shared_checkpoints / "keras-bert-tf1"
    tokenizer = open_tokenizer(checkpoint_at(folder, json.loads((folder / "bert_config.json").read_text())))
    reference = BertTokenizer.from_pretrained(folder)
    assert_equal_to(tokenizer, reference, [*TEXTS, "All work and no play"])


def test_a_tokenizer_json_unlike_berts_is_followed_and_said(shared_checkpoints: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    folder = shared_checkpoints / "coldfire-tiny-bert"
    tokenizer = open_tokenizer(open_checkpoint(str(folder)))
    assert "does not clean and split text as BERT does" in tokenizer.notes[0]
    # The class its settings name would split "!!" in two, which the file does not.
    inputs = ["input_ids", "token_type_ids"]
    assert_equal_to(tokenizer, PreTrainedTokenizerFast.from_pretrained(folder, model_input_names=inputs))


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("accents", [True, False, None])
@pytest.mark.parametrize("chinese", [True, False])
def test_settings_of_a_vocabulary_are_honoured(
    tmp_path: Path, lower: bool, accents: bool | None, chinese: bool
) -> None:
    options = {"do_lower_case": lower, "strip_accents": accents, "tokenize_chinese_chars": chinese}
    folder = wordpiece(tmp_path, **options)
    assert_equal_to(open_tokenizer(checkpoint_at(folder)), auto(folder))
    auto(folder).save_pretrained(folder)  # now with a tokenizer.json
    tokenizer = open_tokenizer(checkpoint_at(folder))
    assert (tokenizer.name, tokenizer.notes) == ("tokenizer.json", ())
    assert_equal_to(tokenizer, auto(folder))


@pytest.mark.parametrize(
    ("model_type", "named"),
    [
        ("bert", "BertTokenizerFast"),
        ("electra", "ElectraTokenizer"),
        ("electra", None),
        ("dpr", None),
        ("dpr", "DPRContextEncoderTokenizer"),
        ("ernie", None),
    ],
)
def test_families_with_berts_tokenizer(tmp_path: Path, model_type: str, named: str | None) -> None:
    options = {"tokenizer_class": named} if named else {}
    folder = wordpiece(tmp_path, model_type, do_lower_case=True, **options)
    assert_equal_to(open_tokenizer(checkpoint_at(folder)), auto(folder))


def test_special_tokens_by_other_names_and_added_ones(tmp_path: Path) -> None:
    names = {"cls_token": "<start>", "sep_token": "<end>", "unk_token": "<?>", "mask_token": "<gap>"}
    folder = wordpiece(tmp_path, do_lower_case=False, additional_special_tokens=["[E1]", "the"], **names)
    words = [*names.values(), "[PAD]", *WORDS.split()]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    tokenizer, reference = open_tokenizer(checkpoint_at(folder)), auto(folder)
    texts = [*TEXTS, "<start> the<gap>word [E1]here [e1] <end>"]
    assert_equal_to(tokenizer, reference, texts)
    assert tokenizer.encode("[E1]").ids[1] == len(words)


def test_added_tokens_beside_a_vocabulary(tmp_path: Path) -> None:
    folder = wordpiece(tmp_path, do_lower_case=True)
    size = len((folder / "vocab.txt").read_text().split("\n")) - 1
    (folder / "added_tokens.json").write_text(json.dumps({"Beta": size + 1, "alpha": size}))
    mask = {"content": "[MASK]", "lstrip": True, "rstrip": False, "normalized": False, "single_word": False}
    (folder / "special_tokens_map.json").write_text(json.dumps({"mask_token": mask}))
    tokenizer = open_tokenizer(checkpoint_at(folder))
    assert_equal_to(tokenizer, auto(folder), [*TEXTS, "alphabet ALPHA Beta beta", "a   [MASK] b"])
    assert tokenizer.vocab_size == size + 2


@pytest.mark.parametrize("framed", [True, False])
def test_byte_pairs_of_a_roberta(tmp_path: Path, framed: bool) -> None:
    folder = roberta(tmp_path, framed=framed)
    tokenizer = open_tokenizer(checkpoint_at(folder))
    assert_equal_to(tokenizer, auto(folder))
    encoded = tokenizer.encode("hell world", "hell")
    assert encoded.tokens[:3] == ("<s>", "hell", "Ġwor")
    assert encoded.tokens.count("</s>") == 3
    assert not encoded.segments.any()


def test_segments_follow_the_model(tmp_path: Path) -> None:
    folder = wordpiece(tmp_path, do_lower_case=True)
    for config, has in (({"model_type": "bert"}, True), ({"model_type": "bert", "type_vocab_size": 1}, False)):
        assert open_tokenizer(checkpoint_at(folder, config)).encode("a", "b").segments.any() == has
    wordpiece(tmp_path, do_lower_case=True, model_input_names=["input_ids", "attention_mask"])
    tokenizer, reference = open_tokenizer(checkpoint_at(folder)), auto(folder)
    assert not tokenizer.encode("a", "b").segments.any()
    assert_equal_to(tokenizer, reference)


def test_texts_are_cut_on_the_left_where_settings_say_so(tmp_path: Path) -> None:
    folder = wordpiece(tmp_path, do_lower_case=True, truncation_side="left")
    tokenizer = open_tokenizer(checkpoint_at(folder))
    assert_equal_to(tokenizer, auto(folder))
    assert tokenizer.encode("a b c d", longest=4).tokens == ("[CLS]", "c", "d", "[SEP]")


def test_a_tokenizer_json_without_special_tokens_gets_its_familys(tmp_path: Path) -> None:
    folder = wordpiece(tmp_path, do_lower_case=True)
    auto(folder).save_pretrained(folder)
    baked = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**baked, "post_processor": None, "added_tokens": []}))
    assert_equal_to(open_tokenizer(checkpoint_at(folder)), auto(folder))


def test_dropout_of_training_is_off(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(checkpoint_at(roberta(tmp_path, dropout=0.5)))
    assert len({tokenizer.encode("hell wor hell wor").tokens for _ in range(20)}) == 1


def test_invalid_utf_8_becomes_the_replacement_character(minilm: Path, tmp_path: Path) -> None:
    broken = b"caf\xe9 \xff\xfe word".decode(errors="surrogateescape")
    for tokenizer in (of_minilm(minilm)[0], open_tokenizer(checkpoint_at(roberta(tmp_path)))):
        mended = tokenizer.encode(
            broken.replace("\udce9", "\ufffd").replace("\udcff", "\ufffd").replace("\udcfe", "\ufffd")
        )
        assert tokenizer.encode(broken).tokens == mended.tokens
        assert len(tokenizer.encode(broken, "\ud800")) > 3


# ------------------------------------------------------------------------------------------------ casing


@pytest.mark.parametrize("cased", [True, False])
def test_casing_is_read_off_the_vocabulary_where_nothing_says_it(tmp_path: Path, cased: bool) -> None:
    folder = wordpiece(tmp_path, cased=cased)
    tokenizer = open_tokenizer(checkpoint_at(folder))
    assert ("keeps its case" if cased else "is lower-cased") in tokenizer.notes[0]
    assert_equal_to(tokenizer, auto(folder, do_lower_case=not cased))


def test_casing_by_the_models_config(tmp_path: Path) -> None:
    folder = wordpiece(tmp_path, cased=True)
    tokenizer = open_tokenizer(checkpoint_at(folder, {"model_type": "bert", "do_lower_case": True}))
    assert "by config.json" in tokenizer.notes[0]
    assert_equal_to(tokenizer, auto(folder, do_lower_case=True))


def test_a_tokenizer_json_is_followed_against_other_settings(tmp_path: Path) -> None:
    folder = wordpiece(tmp_path, do_lower_case=False)
    auto(folder).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    tokenizer = open_tokenizer(checkpoint_at(folder))
    assert "another do_lower_case" in tokenizer.notes[0]
    assert "Hello" in tokenizer.encode("Hello").tokens


# ------------------------------------------------------------------------------------------------ refusals


class Shouting:
    """A tokenizer that is not ours."""

    name, notes, vocab_size = "transformers", (), 1

    def encode(self, text: str, pair: str | None = None, *, longest: int | None = None) -> Encoded:
        return encoded(1)

    def encode_many(self, texts: Sequence[Any], *, longest: int | None = None) -> list[Encoded]:
        return [encoded(1) for _ in texts]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "phobert"}, "model_type is 'phobert'"),
        ({"tokenizer_class": "BertJapaneseTokenizer"}, "'BertJapaneseTokenizer'"),
        ({"word_tokenizer_type": "mecab"}, "word_tokenizer_type is 'mecab'"),
        ({"subword_tokenizer_type": "character"}, "subword_tokenizer_type is 'character'"),
        ({"file": "bpe.codes"}, "bpe.codes"),
        ({"file": "merges.txt"}, "merges.txt"),
    ],
)
def test_another_tokenizer_is_refused_by_name_or_left_to_the_fallback(
    tmp_path: Path, change: dict[str, str], said: str
) -> None:
    folder = wordpiece(tmp_path, **{"model_type": "bert", **change})
    if "file" in change:
        (folder / change["file"]).write_text("")
    with pytest.raises(UnsupportedFile, match=said):
        open_tokenizer(checkpoint_at(folder))
    assert open_tokenizer(checkpoint_at(folder), Shouting).name == "transformers"


def test_no_tokenizer_files_are_refused_even_with_a_fallback(tiny_bert: Path, tmp_path: Path) -> None:
    for path in tiny_bert.iterdir():
        if not path.name.startswith(("tokenizer", "vocab")):
            shutil.copy(path, tmp_path)
    with pytest.raises(NotFound, match=r"looked for tokenizer\.json, vocab\.txt"):
        open_tokenizer(open_checkpoint(str(tmp_path)), Shouting)
    (tmp_path / "spiece.model").write_bytes(b"")
    assert open_tokenizer(checkpoint_at(tmp_path), Shouting).name == "transformers"
    (tmp_path / "spiece.model").unlink()
    assert open_tokenizer(checkpoint_at(tmp_path, {"model_type": "canine"}), Shouting).name == "transformers"


@pytest.mark.parametrize("text", ["", "{}", "[]", "{", '{"version": "9.0", "model": {"type": "Nonesuch"}}', "\x00"])
def test_a_damaged_tokenizer_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(CorruptFile, match=r"tokenizer\.json is not a tokenizer"):
        open_tokenizer(checkpoint_at(tmp_path), Shouting)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(60))
def test_a_tokenizer_json_with_a_bite_taken_out_works_or_is_refused(tmp_path: Path, seed: int) -> None:
    text = (roberta(tmp_path) / "tokenizer.json").read_text()
    at, length = np.random.default_rng(seed).integers(1, [len(text), 200])
    (tmp_path / "tokenizer.json").write_text(text[:at] + text[at + length :])
    with contextlib.suppress(BertprobeError):
        open_tokenizer(checkpoint_at(tmp_path)).encode("hell world \x00 é 😀", "<mask>")


def test_a_tokenizer_over_which_the_library_panics_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = wordpiece(tmp_path, do_lower_case=True)
    auto(folder).save_pretrained(folder)
    baked = json.loads((folder / "tokenizer.json").read_text())
    del baked["post_processor"]["special_tokens"]["[SEP]"]
    (folder / "tokenizer.json").write_text(json.dumps(baked))
    with pytest.raises(CorruptFile, match="tokens"):
        open_tokenizer(checkpoint_at(folder)).encode("a")
    capfd.readouterr()  # what it says as it panics


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("tokenizer_config.json", "{", "not JSON"),
        ("tokenizer_config.json", "[" * 100_000, "not JSON"),
        ("tokenizer_config.json", "[]", "not an object"),
        ("tokenizer_config.json", '{"do_lower_case": "no"}', "do_lower_case 'no'"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": 1}}', "not a list of tokens"),
        ("added_tokens.json", '{"x": "y"}', "not a list of tokens"),
        ("special_tokens_map.json", "\ufffe", "not JSON"),
        ("vocab.txt", "the\nand\n", r"no entry '\[UNK\]', '\[CLS\]', '\[SEP\]'"),
    ],
)
def test_damaged_settings_are_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    folder = wordpiece(tmp_path)
    (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(CorruptFile, match=said):
        open_tokenizer(checkpoint_at(folder))


def test_a_vocabulary_that_is_no_text_or_far_too_large_is_refused(tmp_path: Path) -> None:
    folder = wordpiece(tmp_path)
    (folder / "vocab.txt").write_bytes(b"\xff\xfe\n")
    with pytest.raises(CorruptFile, match="is not text"):
        open_tokenizer(checkpoint_at(folder))
    for name in ("vocab.txt", "tokenizer.json"):
        with (folder / name).open("wb") as file:
            file.truncate(51 * 2**20)
        with pytest.raises(UnsupportedFile, match="too many for settings"):
            open_tokenizer(checkpoint_at(folder))


def test_a_vocabulary_must_fit_the_embedding_matrix(minilm: Path) -> None:
    tokenizer = of_minilm(minilm)[0]
    check_vocabulary(tokenizer, 30522)
    check_vocabulary(tokenizer, 30528)
    with pytest.raises(CorruptFile, match=r"ids up to 30,521, the embedding matrix 30,521 rows"):
        check_vocabulary(tokenizer, 30521)


def test_ids_beyond_the_number_of_entries_count(tmp_path: Path) -> None:
    folder = roberta(tmp_path)
    baked = json.loads((folder / "tokenizer.json").read_text())
    baked["model"]["vocab"]["far"] = 5000
    (folder / "tokenizer.json").write_text(json.dumps(baked))
    with pytest.raises(CorruptFile, match="ids up to 5,000"):
        check_vocabulary(open_tokenizer(checkpoint_at(folder)), 1000)


# ------------------------------------------------------------------------------------------------ batches


def encoded(length: int, first: int = 0) -> Encoded:
    ids = np.arange(first, first + length, dtype=np.int64)
    return Encoded(ids, ids % 2, tuple(map(str, ids)))


def test_packing_puts_the_longest_first_and_remembers_the_order() -> None:
    packed = pack([encoded(2), encoded(3, 10), encoded(2, 20)])
    assert packed.ids.tolist() == [10, 11, 12, 0, 1, 20, 21]
    assert packed.positions.tolist() == [0, 1, 2, 0, 1, 0, 1]
    assert packed.segments.tolist() == [0, 1, 0, 0, 1, 0, 1]
    assert packed.lengths.tolist() == [3, 2, 2]
    assert packed.places.tolist() == [1, 0, 2]
    assert packed.tokens == (("10", "11", "12"), ("0", "1"), ("20", "21"))
    assert pack([encoded(1), encoded(2)], [7, 9]).places.tolist() == [9, 7]
    assert {field.dtype for field in arrays(packed)} == {field.dtype for field in arrays(pack([]))} == {np.dtype("i8")}


def arrays(packed: Packed) -> list[Any]:
    return [packed.ids, packed.positions, packed.segments, packed.lengths, packed.places, packed.truncated]


class Counting:
    """A tokenizer with as many tokens as a text has characters, each with an id of its own."""

    name, notes, vocab_size = "counting", (), 2**40

    def encode(self, text: str, pair: str | None = None, *, longest: int | None = None) -> Encoded:
        return self.encode_many([text if pair is None else (text, pair)], longest=longest)[0]

    def encode_many(self, texts: Sequence[Any], *, longest: int | None = None) -> list[Encoded]:
        found = []
        for text in texts:
            ids = np.array([ord(char) for char in "".join(text)], dtype=np.int64)
            kept = ids[:longest]
            found.append(Encoded(kept, kept * 0, tuple(map(chr, kept)), len(ids) - len(kept)))
        return found


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 60), max_size=80), st.integers(1, 100), st.integers(1, 60), st.booleans())
def test_every_token_comes_once_within_the_budget(lengths: list[int], budget: int, longest: int, pairs: bool) -> None:
    lengths = lengths[: len(lengths) // 2 * 2] if pairs else lengths
    texts = ["".join(chr(1000 * i + j + 32) for j in range(n)) for i, n in enumerate(lengths)]
    whole = ["".join(two) for two in zip(texts[::2], texts[1::2], strict=True)] if pairs else texts
    found = list(batches(Counting(), iter(texts), budget=budget, longest=longest, truncate=True, pairs=pairs))
    seen = {}
    for packed in found:
        assert packed.lengths.sum() == len(packed.ids) == len(packed.positions) == len(packed.segments)
        assert packed.lengths.sum() <= budget or len(packed.lengths) == 1
        assert (np.diff(packed.lengths) <= 0).all()
        ends = np.cumsum(packed.lengths)
        for place, end, length, cut, tokens in zip(
            packed.places, ends, packed.lengths, packed.truncated, packed.tokens, strict=True
        ):
            assert [chr(id) for id in packed.ids[end - length : end]] == list(tokens)
            assert packed.positions[end - length : end].tolist() == list(range(length))
            assert length + cut == len(whole[place])
            seen[int(place)] = "".join(tokens)
    assert sorted(seen) == list(range(len(whole)))
    assert [seen[i] for i in range(len(whole))] == [text[:longest] for text in whole]


def test_the_first_batch_of_a_window_is_the_worst_one() -> None:
    texts = ["x" * (1 + n * 7 % 50) for n in range(200)]
    lengths = np.concatenate([packed.lengths for packed in batches(Counting(), texts, budget=500, longest=50)])
    assert (np.diff(lengths) <= 0).all()


def test_batching_changes_no_ids(minilm: Path) -> None:
    tokenizer = of_minilm(minilm)[0]
    texts = [text for text in TEXTS if len(text) < 500] * 3
    for budget in (1, 7, 64, 10_000):
        for packed in batches(tokenizer, texts, budget=budget, longest=512):
            starts = np.cumsum(packed.lengths) - packed.lengths
            for place, start, length in zip(packed.places, starts, packed.lengths, strict=True):
                alone = tokenizer.encode(texts[place])
                assert alone.ids.tolist() == packed.ids[start : start + length].tolist()
                assert alone.segments.tolist() == packed.segments[start : start + length].tolist()


def test_a_text_too_long_is_an_error_or_cut(minilm: Path) -> None:
    tokenizer = of_minilm(minilm)[0]
    texts = ["word", "word " * 510, "Long\x1b[31m " + "word " * 510]
    assert [p.lengths.tolist() for p in batches(tokenizer, texts[:2], budget=600, longest=512)] == [[512, 3]]
    with pytest.raises(BertprobeError, match=r"text 3 \('Long\\x1b.*…'\) has 51\d tokens.* takes 512; .*truncate=True"):
        list(batches(tokenizer, texts, budget=600, longest=512))
    (packed,) = batches(tokenizer, texts, budget=2000, longest=512, truncate=True)
    assert packed.lengths.tolist() == [512, 512, 3]
    assert packed.truncated.tolist() == [0, len(tokenizer.encode(texts[2])) - 512, 0]
    assert packed.tokens[1][-1] == "[SEP]"
    with pytest.raises(BertprobeError, match="2 special tokens"):
        list(batches(tokenizer, ["word"], budget=10, longest=1, truncate=True))


def test_pairs_are_taken_two_by_two(minilm: Path) -> None:
    tokenizer = of_minilm(minilm)[0]
    (packed,) = batches(tokenizer, ["a", "b", "c d", "e"], budget=99, longest=512, pairs=True)
    assert packed.tokens == (("[CLS]", "c", "d", "[SEP]", "e", "[SEP]"), ("[CLS]", "a", "[SEP]", "b", "[SEP]"))
    assert packed.segments.tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1]
    assert packed.places.tolist() == [1, 0]
    with pytest.raises(BertprobeError, match=r"text 3 \('c'\) has no partner"):
        list(batches(tokenizer, ["a", "b", "c"], budget=99, longest=512, pairs=True))
    with pytest.raises(BertprobeError, match=r"pair 1 \('a'\) has 5 tokens"):
        list(batches(tokenizer, ["a", "b"], budget=99, longest=4, pairs=True))


def test_a_text_of_no_tokens_is_an_error() -> None:
    with pytest.raises(BertprobeError, match=r"text 2 \(''\) comes to no tokens"):
        list(batches(Counting(), ["a", ""], budget=9, longest=9))
    assert list(batches(Counting(), [], budget=9, longest=9)) == []


def test_memory_is_bounded_by_the_window(minilm: Path) -> None:
    tokenizer = of_minilm(minilm)[0]
    total = 0

    def endless() -> Iterator[str]:
        for number in range(100_000):
            yield f"text {number} of a corpus"

    tracemalloc.start()
    try:
        for packed in batches(tokenizer, endless(), budget=2048, longest=512):
            total += len(packed.lengths)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == 100_000
    assert peak < 16 * 2**20  # the corpus as tokens would be some 80 MB


def test_importing_the_module_loads_neither_tokenizers_nor_numpy() -> None:
    code = "import sys, bertprobe.tokens; print({'numpy', 'tokenizers', 'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
