"""transformers' tokenizers from a folder made for them: the ids are AutoTokenizer's, and nothing else is shown."""

from __future__ import annotations

import importlib.util
import inspect
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
import transformers
from safetensors.numpy import save_file
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

from bertprobe.anatomy.families import FAMILIES, GENERIC
from bertprobe.checkpoint import open_checkpoint
from bertprobe.checkpoint.folder import LocalFolder
from bertprobe.errors import CorruptFile, NotFound, UnsupportedFile
from bertprobe.filenames import VOCABULARIES
from bertprobe.transformers_model import tokenizer
from bertprobe.transformers_model.staging import CLASSES, class_name, staged
from bertprobe.transformers_model.token_settings import is_judged

TEXTS = [("hello he cab", None), ("Hello, he <new> [MASK]", "abc d"), ("", None), ("日本 abc\u0301 @user", None)]
WORDPIECE = "\n".join(hostile.VOCABULARY)


def folder_of(folder: Path, config: dict[str, Any], files: dict[str, Any], **settings: Any) -> Path:
    """A checkpoint with a tokenizer beside it; `settings` by the names of the small files."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"encoder.layer.0.intermediate.dense.weight": np.zeros((2, 2), np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    for name, content in settings.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def check_ids(folder: Path) -> None:
    """Ids, segments and pieces are those of transformers' AutoTokenizer on the folder itself."""
    ours = tokenizer(open_checkpoint(str(folder)))
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert ours.name == f"transformers' {type(theirs).__name__}"
    for text, pair in TEXTS:
        found, expected = ours.encode(text, pair), theirs(text, pair)
        assert found.ids.tolist() == expected["input_ids"]
        assert found.segments.tolist() == expected.get("token_type_ids", [0] * len(found))
        assert list(found.tokens) == theirs.convert_ids_to_tokens(expected["input_ids"])


SETTINGS = {
    "do_lower_case": False,
    "add_prefix_space": True,
    "model_max_length": 10**30,
    "truncation_side": "left",
    "mask_token": {"content": "<mask>", "lstrip": True, "rstrip": False, "normalized": False, "__type": "AddedToken"},
    "special_tokens_map_file": "/root/special_tokens_map.json",
    "tokenizer_file": None,
    "name_or_path": "someone/else",
}


@pytest.mark.parametrize("kind", hostile.TOKENIZERS)
@pytest.mark.parametrize("dressed", [False, True], ids=["plain", "dressed"])
def test_tokenizers_that_need_no_other_package_give_their_ids(kind: str, dressed: bool, tmp_path: Path) -> None:
    config, files = hostile.TOKENIZERS[kind]
    settings: dict[str, Any] = {"tokenizer_class": kind}
    if "Japanese" in kind:
        settings |= {"word_tokenizer_type": "basic", "never_split": ["abc"]}
    beside: dict[str, Any] = {"tokenizer_config": settings}
    if dressed and kind != "ByT5Tokenizer":
        beside = {
            "tokenizer_config": {**SETTINGS, **settings},
            "special_tokens_map": {"unk_token": "<unk>", "additional_special_tokens": ["<new>"]},
            "added_tokens": {"<new>": 40},
        }
    check_ids(folder_of(tmp_path, config, files, **beside))


@pytest.mark.parametrize(
    "model_type",
    sorted(
        {row.within or row.name for row in FAMILIES.values() if row.tokenizer == "BertTokenizer"}
        | {"mobilebert", "mpnet", "funnel", "lxmert", "esm"}
    ),
)
def test_wordpiece_of_every_family_gives_their_ids(model_type: str, tmp_path: Path) -> None:
    words = f"{WORDPIECE}\n<cls>\n<sep>\n<eos>\n<mask>\n"
    check_ids(folder_of(tmp_path, {"model_type": model_type}, {"vocab.txt": words}))


@pytest.mark.parametrize("declared", ["RobertaTokenizer", "RobertaTokenizerFast", "LongformerTokenizer"])
def test_the_class_that_a_config_names_is_taken(declared: str, tmp_path: Path) -> None:
    _, files = hostile.TOKENIZERS["RobertaTokenizer"]
    check_ids(folder_of(tmp_path, {"model_type": "camembert", "tokenizer_class": declared}, files))


def test_what_transformers_itself_has_saved_gives_the_same_ids(tmp_path: Path) -> None:
    config, files = hostile.TOKENIZERS["PhobertTokenizer"]
    first = folder_of(tmp_path / "a", config, files, tokenizer_config={"tokenizer_class": "PhobertTokenizer"})
    transformers.AutoTokenizer.from_pretrained(first).save_pretrained(tmp_path / "b")
    check_ids(folder_of(tmp_path / "b", config, {}))


def test_canine_splits_into_characters_without_a_file(tmp_path: Path) -> None:
    found = tokenizer(open_checkpoint(str(folder_of(tmp_path, {"model_type": "canine"}, {}))))
    assert found.name == "transformers' CanineTokenizer"
    assert found.encode("four").ids.tolist() == [0xE000, *map(ord, "four"), 0xE001]


@pytest.mark.parametrize(
    ("model_type", "file", "kind"),
    [
        ("albert", "spiece.model", "unigram"),
        ("camembert", "sentencepiece.bpe.model", "unigram"),
        ("xlm-roberta", "sentencepiece.bpe.model", "unigram"),
        ("mbart", "sentencepiece.bpe.model", "unigram"),
        ("t5", "spiece.model", "unigram"),
        ("xlnet", "spiece.model", "unigram"),
        ("deberta-v2", "spm.model", "unigram"),
        ("bert-generation", "spiece.model", "unigram"),
        ("reformer", "spiece.model", "bpe"),
    ],
)
def test_sentencepiece_families_give_their_ids(model_type: str, file: str, kind: str, tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter((inspect.getdoc(json) or "").splitlines() * 3),
        model_writer=model,
        vocab_size=100,
        model_type=kind,
        hard_vocab_limit=False,
        pad_id=3,
        control_symbols=["[CLS]", "[SEP]", "[MASK]", "<cls>", "<sep>", "<mask>"],
        minloglevel=5,
    )
    check_ids(folder_of(tmp_path, {"model_type": model_type}, {file: model.getvalue()}))


@pytest.mark.skipif(importlib.util.find_spec("fugashi") is not None, reason="MeCab is installed")
def test_what_mecab_needs_is_said(tmp_path: Path) -> None:
    config, files = hostile.TOKENIZERS["BertJapaneseTokenizer"]
    settings = {"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "mecab", "mecab_kwargs": None}
    folder = folder_of(tmp_path, config, files, tokenizer_config=settings)
    with pytest.raises(UnsupportedFile, match="You need to install fugashi to use MecabTokenizer"):
        tokenizer(open_checkpoint(str(folder)))


# ------------------------------------------------------------------------------------------------ what is shown


def test_only_files_on_the_list_are_shown_and_gone_afterwards(tmp_path: Path) -> None:
    names = ("config.json", "tokenizer.py", "chat_template.jinja", "tekken.json", "model.bin", "special.json")
    (tmp_path / "folder").mkdir()
    for name in (*VOCABULARIES, *names):
        (tmp_path / "folder" / name).write_text("x")
    for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        (tmp_path / "folder" / name).write_text(json.dumps({"auto_map": 1, "cls_token": "[CLS]"}))
    with staged(LocalFolder(tmp_path / "folder"), transformers.BertTokenizer) as stage:
        shown = {path.name for path in stage.iterdir()}
        assert shown == {*VOCABULARIES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}
        assert json.loads((stage / "tokenizer_config.json").read_text()) == {"cls_token": "[CLS]"}
        assert json.loads((stage / "special_tokens_map.json").read_text()) == {"cls_token": "[CLS]"}
    assert not stage.exists()


def test_a_message_names_the_folder_and_not_the_one_made_for_it(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"model_type": "roc_bert"}, {"vocab.txt": WORDPIECE})
    with pytest.raises(UnsupportedFile) as caught:
        tokenizer(open_checkpoint(str(folder)))
    assert caught.value.found.count(str(tmp_path)) >= 1
    assert "bertprobe-" not in str(caught.value)


def test_a_folder_without_room_for_copies_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, files = hostile.TOKENIZERS["PhobertTokenizer"]
    folder = folder_of(tmp_path, config, files, tokenizer_config={"tokenizer_class": "PhobertTokenizer"})
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(NotFound, match="cannot be copied"):
        tokenizer(open_checkpoint(str(folder)))


@pytest.mark.parametrize("name", ["tokenizer_config", "special_tokens_map", "added_tokens"])
@pytest.mark.parametrize("text", ["[1]", "{", "[" * 100_000, '{"a": ' * 100_000])
def test_small_files_that_are_none_are_one_line(name: str, text: str, tmp_path: Path) -> None:
    config, files = hostile.TOKENIZERS["PhobertTokenizer"]
    config = {**config, "tokenizer_class": "PhobertTokenizer"}
    folder = folder_of(tmp_path, config, {**files, f"{name}.json": text})
    with pytest.raises(CorruptFile, match=f"{name}.json is (not JSON|JSON, but not an object)"):
        tokenizer(open_checkpoint(str(folder)))


# ------------------------------------------------------------------------------------------------ the lists


def class_of(name: str) -> Any:
    """A tokenizer's class; None where it is another release's, or another package must be installed for it."""
    found = getattr(transformers, name, None)
    return None if type(found).__name__ == "DummyObject" else found


def arguments(made: Any) -> Iterator[str]:
    for base in made.__mro__:
        if base.__module__.startswith("transformers.models"):
            yield from inspect.signature(base.__init__).parameters


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_argument_of_a_tokenizer_is_judged(name: str) -> None:
    made = class_of(name)
    if made is None:
        pytest.skip(f"{name} needs another package")
    unknown = {argument for argument in arguments(made) if not is_judged(argument)}
    assert unknown <= {"self", "args", "kwargs", "sp_model_kwargs"}, "the last is refused: it may draw at random"
    assert set(made.vocab_files_names.values()) <= {*VOCABULARIES, "tokenizer_config.json"}


@pytest.mark.parametrize(
    "model_type", sorted(FAMILIES.keys() | {"align", "blip", "chinese_clip", "clap", "clip", "flava"})
)
def test_a_family_has_the_tokenizer_that_transformers_gives_it(model_type: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"model_type": model_type}, {})
    named = class_name(open_checkpoint(str(folder)))
    theirs = TOKENIZER_MAPPING_NAMES.get(model_type)
    if theirs is None and model_type in ("bert-generation", "siglip"):
        pytest.skip("needs sentencepiece")
    assert named == (GENERIC if theirs in (None, "TokenizersBackend") else theirs)


def test_sampling_is_refused(tmp_path: Path) -> None:
    """With it the same text would be other tokens every time."""
    folder = folder_of(tmp_path, {}, {}, tokenizer_config={"sp_model_kwargs": {"enable_sampling": True}})

    class Sampling:
        def __init__(self, sp_model_kwargs: Any = None) -> None: ...

    with (
        pytest.raises(UnsupportedFile, match="sets 'sp_model_kwargs', of which it is not known"),
        staged(LocalFolder(folder), Sampling),
    ):
        pass
    (folder / "tokenizer_config.json").write_text(json.dumps({"sp_model_kwargs": {}}))
    with staged(LocalFolder(folder), Sampling):
        pass
