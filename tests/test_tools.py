"""What tools make of a folder: every rule on small folders of settings, and against two of the libraries."""

from __future__ import annotations

import io
import itertools
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_nodes import faults

from bertprobe.checkpoint.folder import LocalFolder
from bertprobe.recipe import Recipe, read_recipe
from bertprobe.recipe.tools import ASPECTS, TOOLS, Made, tools_of
from bertprobe.render.terminal import write
from bertprobe.report import Report, nodes
from bertprobe.report.tools import tool_nodes, tool_notes_view, tools_view

MODELS, NEW = "sentence_transformers.models", "sentence_transformers.base.modules"
TYPES = {
    "transformer": f"{NEW}.transformer.Transformer",
    "pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "dense": f"{NEW}.dense.Dense",
    "normalize": f"{NEW}.normalize.Normalize",
    "layernorm": "sentence_transformers.sentence_transformer.modules.layer_norm.LayerNorm",
}
CONFIG = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "hidden_size": 32,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
    ],
    "pair": [],
    "special_tokens": {},
}
LOWER = {
    "type": "BertNormalizer",
    "clean_text": True,
    "handle_chinese_chars": True,
    "strip_accents": None,
    "lowercase": True,
}
KEPT = {**LOWER, "lowercase": False}
IDENTITY, TANH = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Tanh"
DENSE = {"in_features": 32, "out_features": 8, "bias": True, "activation_function": TANH}


def modules(*kinds: str, old: bool = True) -> list[dict[str, Any]]:
    """A modules.json, with the types' names of before or after sentence-transformers 5.4."""
    names = {"layernorm": "LayerNorm"}
    paths = {"transformer": "", "pooling": "1_Pooling", "dense": "2_Dense", "normalize": "9_Normalize"}
    return [
        {
            "idx": number,
            "name": str(number),
            "path": paths.get(kind, f"{number}_{names.get(kind, kind)}"),
            "type": f"{MODELS}.{names.get(kind, kind.title())}" if old else TYPES[kind],
        }
        for number, kind in enumerate(kinds)
    ]


def flags(*modes: str, **more: Any) -> dict[str, Any]:
    """A pooling's settings as they were written before sentence-transformers 5.4."""
    names = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    return {"word_embedding_dimension": 32, **{f"pooling_mode_{name}": name in modes for name in names}, **more}


def tokenizer(normalizer: Any = LOWER, post: Any = TEMPLATE) -> dict[str, Any]:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": post,
        "decoder": None,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "vocab": {"[UNK]": 0}},
    }


PLAIN: dict[str, Any] = {
    "config.json": CONFIG,
    "tokenizer.json": tokenizer(),
    "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512},
    "modules.json": modules("transformer", "pooling", "normalize"),
    "1_Pooling/config.json": flags("mean_tokens"),
    "sentence_bert_config.json": {"max_seq_length": 512, "do_lower_case": False},
    "onnx/model.onnx": {},
}


def written(folder: Path, files: Mapping[str, Any]) -> Recipe:
    for name, values in files.items():
        if values is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(json.dumps(values))
    return read_recipe(LocalFolder(folder))


def with_files(*others: Mapping[str, Any]) -> dict[str, Any]:
    """The plain folder, with files of it replaced, or left out where None stands."""
    files = dict(PLAIN)
    for other in others:
        files.update(other)
    return files


@pytest.fixture
def made(tmp_path: Path) -> Any:
    count = itertools.count()

    def make(*others: Mapping[str, Any]) -> dict[str, Made]:
        found = tools_of(written(tmp_path / str(next(count)), with_files(*others)))
        return {SHORT.get(name, name): value for name, value in found.items()}

    return make


SHORT = {
    "sentence-transformers": "ST",
    "text-embeddings-inference": "TEI",
    "fastembed": "FE",
    "llama.cpp": "llama",
    "transformers.js": "js",
    "transformers": "TF",
}
ALL = ("ST", "TEI", "FE", "vLLM", "llama", "js", "TF")


def config(**values: Any) -> dict[str, Any]:
    return {"config.json": {**CONFIG, **values}}


def sbert(**values: Any) -> dict[str, Any]:
    return {"sentence_bert_config.json": values}


def tokens(**values: Any) -> dict[str, Any]:
    return {"tokenizer_config.json": {"tokenizer_class": "BertTokenizer", **values}}


def pooling(**values: Any) -> dict[str, Any]:
    return {"1_Pooling/config.json": values}


# ------------------------------------------------------------------------------------------------ laws


def test_of_files_that_agree_all_make_the_same(made: Any) -> None:
    found = made()
    for name in ("ST", "TEI", "vLLM", "llama"):
        assert (found[name].fails, found[name].differs) == ("", ()), name
    for name in ("FE", "TF"):
        assert found[name].differs == found[name].settable == ("pooling", "norm"), name
    assert found["js"].differs == ("length", "pooling", "norm")  # of a text that is cut it cuts the end token off


def test_sentence_transformers_is_what_recipes_are_by(made: Any) -> None:
    for files in (SEVERAL, {"modules.json": None}, sbert(max_seq_length=7), DENSES, PROMPTS):
        assert made(files)["ST"].differs == ()


def test_what_can_be_set_is_among_what_differs(made: Any) -> None:
    for files in (SEVERAL, {"modules.json": None}, sbert(max_seq_length=7), DENSES, PROMPTS):
        for value in made(files).values():
            assert set(value.settable) <= set(value.differs) <= set(ASPECTS)


def test_a_tool_that_makes_nothing_says_nothing_else(made: Any) -> None:
    for value in made({"tokenizer.json": None}, config(model_type="mpnet", architectures=["MPNetModel"])).values():
        if value.fails:
            assert replace(value, fails="") == Made()


# ------------------------------------------------------------------------------------------------ length

ROBERTA = {"model_type": "roberta", "architectures": ["RobertaModel"], "max_position_embeddings": 514}
LENGTHS: dict[str, tuple[tuple[dict[str, Any], ...], tuple[Any, ...]]] = {
    "the transformer's settings": ((sbert(max_seq_length=256),), (256, 256, 512, 256, 512, 512, 512)),
    "the tokenizer's": ((sbert(), tokens(model_max_length=128)), (128, 512, 128, 512, 512, 128, 128)),
    "the tokenizer's, positions absolute": (
        (sbert(), tokens(model_max_length=128), config(position_embedding_type="absolute")),
        (128, 512, 128, 128, 512, 128, 128),
    ),
    "no modules.json": (
        ({"modules.json": None}, sbert(max_seq_length=256)),
        (512, 256, 512, 256, 512, 512, 512),
    ),
    "another file's name": (
        ({"sentence_bert_config.json": None, "sentence_roberta_config.json": {"max_seq_length": 99}},),
        (99, 99, 512, 99, 512, 512, 512),
    ),
    "no limit said": ((sbert(), tokens(model_max_length=10**30)), (512, 512, "fails", 512, 512, None, None)),
    "beyond the positions": ((sbert(max_seq_length=900),), (900, 900, 512, 900, 512, 512, 512)),
    "RoBERTa": (
        (sbert(), config(**ROBERTA, pad_token_id=1), tokens(tokenizer_class="RobertaTokenizer", model_max_length=514)),
        (514, 512, 514, 514, 512, 514, 514),
    ),
    "long positions": (
        (sbert(), config(max_position_embeddings=40_000), tokens(model_max_length=40_000)),
        (40_000, 16_384, 40_000, 40_000, 512, 40_000, 40_000),
    ),
    "few positions": (
        (sbert(max_seq_length=64), config(max_position_embeddings=64), tokens(model_max_length=64)),
        (64, 64, 64, 64, 256, 64, 64),
    ),
    "the tokenizer's second key": (
        (tokens(model_max_length=512, max_length=100),),
        (512, 512, 100, 512, 512, 512, 512),
    ),
    "config.json's model_max_length": ((sbert(), config(model_max_length=77)), (512, 512, 512, 77, 512, 512, 512)),
    "null in the transformer's": ((sbert(max_seq_length=None),), (512, 512, 512, "fails", 512, 512, 512)),
}


@pytest.mark.parametrize("name", LENGTHS)
def test_length(name: str, made: Any) -> None:
    files, expected = LENGTHS[name]
    found = made(*files)
    assert tuple("fails" if found[tool].fails else found[tool].length for tool in ALL) == expected
    for tool, length in zip(ALL, expected, strict=True):
        if length != "fails" and tool != "js":
            assert ("length" in found[tool].differs) == (length != expected[0]), tool


def test_what_becomes_of_a_text_that_is_too_long(made: Any) -> None:
    assert [made()[tool].overflow for tool in ALL] == [
        *("cut", "cut", "cut", "refused", "refused", "cut, end token too", "cut"),
    ]
    found = made(sbert(max_seq_length=900), tokens())  # the model has 512 positions, the tokenizer no limit
    assert [found[tool].overflow for tool in ("ST", "js", "TF")] == ["fails"] * 3
    assert "1.8.3 and before refuse longer texts" in found["TEI"].notes


# ------------------------------------------------------------------------------------------------ case, special tokens

GENERIC = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512, "pad_token": "[PAD]"}
CASES: dict[str, tuple[tuple[dict[str, Any], ...], str]] = {  # a letter a tool: lower-cased, kept, or ? unknown
    "all lower": ((), "lllllll"),
    "the flag keeps it": ((tokens(model_max_length=512, do_lower_case=False),), "kllkllk"),
    "the flag lowers, the file keeps": (
        ({"tokenizer.json": tokenizer(KEPT)}, tokens(model_max_length=512, do_lower_case=True)),
        "lkklkkl",
    ),
    "no flag is lower": (({"tokenizer.json": tokenizer(KEPT)}, tokens(model_max_length=512)), "lkklkkl"),
    "no normalizer": (
        ({"tokenizer.json": tokenizer(None)}, tokens(model_max_length=512, do_lower_case=False)),
        "kkkklkk",
    ),
    "another normalizer": (
        ({"tokenizer.json": tokenizer({"type": "NFC"})}, tokens(model_max_length=512, do_lower_case=False)),
        "kkkklkk",
    ),
    "a generic class": (
        ({"tokenizer.json": tokenizer(KEPT)}, {"tokenizer_config.json": {**GENERIC, "do_lower_case": True}}),
        "kkkkkkk",
    ),
    "lower-cased before": (
        (
            {"tokenizer.json": tokenizer(KEPT)},
            tokens(model_max_length=512, do_lower_case=False),
            sbert(max_seq_length=512, do_lower_case=True),
        ),
        "lkklkkk",
    ),
    "lower-cased before, no limit beside it": (
        (
            {"tokenizer.json": tokenizer(KEPT)},
            tokens(model_max_length=512, do_lower_case=False),
            sbert(do_lower_case=True),
        ),
        "lkkkkkk",
    ),
    "lower-cased before, no modules.json": (
        (
            {"tokenizer.json": tokenizer(KEPT), "modules.json": None},
            tokens(model_max_length=512, do_lower_case=False),
            sbert(max_seq_length=512, do_lower_case=True),
        ),
        "kkklkkk",
    ),
    "RoBERTa obeys no Lowercase": (
        (
            {"tokenizer.json": tokenizer({"type": "Lowercase"}, {**TEMPLATE})},
            config(**ROBERTA),
            tokens(tokenizer_class="RobertaTokenizer", model_max_length=512),
        ),
        "kllk?lk",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_case(name: str, made: Any) -> None:
    files, expected = CASES[name]
    found = made(*files)
    assert "".join({True: "l", False: "k", None: "?"}[found[tool].lower] for tool in ALL) == expected
    differ = [("case" in found[tool].differs) for tool in ALL]
    assert differ == [letter not in (expected[0], "?") for letter in expected]


def test_accents(made: Any) -> None:
    """The flag keeps accents though it lower-cases; tokenizer.json takes them off."""
    found = made(tokens(model_max_length=512, strip_accents=False))
    assert [tool for tool in ALL if "accents" in found[tool].differs] == ["TEI", "FE", "llama", "js"]
    assert not any("case" in value.differs for value in found.values())


def test_special_tokens(made: Any) -> None:
    found = made({"tokenizer.json": tokenizer(LOWER, None)})
    assert [found[tool].special for tool in ALL] == [
        *(("[CLS]", "[SEP]"), (), (), ("[CLS]", "[SEP]"), ("[CLS]", "[SEP]"), (), ("[CLS]", "[SEP]")),
    ]
    assert [tool for tool in ALL if "special tokens" in found[tool].differs] == ["TEI", "FE", "js"]


# ------------------------------------------------------------------------------------------------ pooling

SEVERAL = pooling(**flags("cls_token", "mean_tokens"))
POOLINGS: dict[str, tuple[tuple[dict[str, Any], ...], tuple[str, ...]]] = {  # of ST, TEI, vLLM and llama.cpp
    "a flag": ((), ("mean", "mean", "mean", "mean")),
    "cls": ((pooling(**flags("cls_token")),), ("cls", "cls", "cls", "cls")),
    "the last token": ((pooling(**flags("lasttoken")),), ("lasttoken",) * 4),
    "two flags": ((SEVERAL,), ("cls+mean", "cls", "mean", "mean")),
    "mean and max": ((pooling(**flags("mean_tokens", "max_tokens")),), ("max+mean", "mean", "mean", "mean")),
    "max": ((pooling(**flags("max_tokens")),), ("max", "fails", "cls", "fails")),
    "a mean by square roots": (
        (pooling(**flags("mean_sqrt_len_tokens")),),
        ("mean_sqrt_len_tokens", "fails", "mean", "fails"),
    ),
    "a weighted mean": ((pooling(**flags("weightedmean_tokens")),), ("weightedmean", "fails", "cls", "fails")),
    "no flag": ((pooling(**flags()),), ("mean", "fails", "cls", "fails")),
    "the new key": ((pooling(pooling_mode="cls"),), ("cls", "cls", "cls", "cls")),
    "the new key: max": ((pooling(pooling_mode="max"),), ("max", "fails", "cls", "fails")),
    "a list": ((pooling(pooling_mode=["cls", "mean"]),), ("cls+mean", "fails", "cls", "fails")),
    "both keys": (
        (pooling(**flags("mean_tokens", pooling_mode="cls")),),
        ("cls", "cls", "cls", "mean"),  # to vLLM the last in the file counts
    ),
    "no such mode": ((pooling(pooling_mode="median"),), ("fails", "fails", "cls", "fails")),
    "no modules.json": (({"modules.json": None, **pooling(**flags("cls_token"))},), ("mean", "cls", "cls", "")),
    "nothing": (({"modules.json": None, "1_Pooling/config.json": None},), ("mean", "cls", "cls", "")),
    "new names of types": (
        ({"modules.json": modules("transformer", "pooling", "normalize", old=False)},),
        ("mean", "mean", "mean", "mean"),
    ),
    "another folder": (
        (
            {"modules.json": [{**row, "path": row["path"].replace("1_", "7_")} for row in modules("pooling")]},
            {"7_Pooling/config.json": flags("cls_token")},
        ),
        ("cls", "mean", "cls", "cls"),
    ),
}


@pytest.mark.parametrize("name", POOLINGS)
def test_pooling(name: str, made: Any) -> None:
    files, expected = POOLINGS[name]
    found = made(*files)
    tools = [found[tool] for tool in ("ST", "TEI", "vLLM", "llama")]
    assert tuple("fails" if tool.fails else "+".join(tool.pooling or ()) for tool in tools) == expected
    if expected[0] != "fails":
        assert ["pooling" in tool.differs for tool in tools] == [
            modes not in (expected[0], "fails") for modes in expected
        ]


def test_pooling_that_the_caller_says(made: Any) -> None:
    found = made()
    assert [found[tool].pooling for tool in ("FE", "js", "TF")] == [None, (), ()]
    assert [tool for tool in ALL if "pooling" in made(SEVERAL)[tool].settable] == []  # nobody puts two end to end
    assert [tool for tool in ALL if "pooling" in found[tool].settable] == ["FE", "js", "TF"]
    largest = made(pooling(**flags("max_tokens")))
    assert [tool for tool in ALL if "pooling" in largest[tool].settable] == ["TF"]


def test_another_family_without_pooling_settings(made: Any) -> None:
    found = made(
        config(model_type="mpnet", architectures=["MPNetModel"]),
        {"modules.json": None, "1_Pooling/config.json": None},
    )
    assert found["TEI"].fails == "no 1_Pooling/config.json"
    assert found["llama"].fails == "it does not convert MPNetModel"
    assert "MPNetModel is none of its own: not verified" in found["vLLM"].notes


# ------------------------------------------------------------------------------------------------ what follows

DENSES = {"modules.json": modules("transformer", "pooling", "dense", "normalize"), "2_Dense/config.json": DENSE}
AFTER: dict[str, tuple[dict[str, Any], tuple[str, str, str]]] = {  # of ST, TEI and vLLM; none else applies any
    "tanh": (DENSE, ("applied", "applied", "applied")),
    "nothing said": (
        {key: DENSE[key] for key in ("in_features", "out_features", "bias")},
        ("applied", "otherwise", "otherwise"),
    ),
    "identity": ({**DENSE, "activation_function": IDENTITY}, ("applied", "applied", "applied")),
    "one that TEI lacks": (
        {**DENSE, "activation_function": TANH.replace("Tanh", "GELU")},
        ("applied", "fails", "applied"),
    ),
    "one that both lack": (
        {**DENSE, "activation_function": TANH.replace("Tanh", "Mish")},
        ("applied", "fails", "left out"),
    ),
    "residual": ({**DENSE, "use_residual": True}, ("applied", "otherwise", "otherwise")),
}


@pytest.mark.parametrize("name", AFTER)
def test_dense(name: str, made: Any) -> None:
    dense, expected = AFTER[name]
    found = made(DENSES, {"2_Dense/config.json": dense})
    tools = [found[tool] for tool in ("ST", "TEI", "vLLM")]
    assert tuple("fails" if tool.fails else tool.dense for tool in tools) == expected
    for tool in ("FE", "llama", "js", "TF"):
        assert found[tool].dense == "left out"
        assert "dense" in found[tool].differs
        assert "dense" not in found[tool].settable


def test_a_dense_by_its_new_name_is_none_to_tei(made: Any) -> None:
    rows = modules("transformer", "pooling", "dense", "normalize", old=False)
    found = made(DENSES, {"modules.json": rows})
    assert (found["TEI"].dense, found["vLLM"].dense) == ("left out", "applied")
    assert "whether later versions apply the Dense is not verified" in found["TEI"].notes


def test_layer_norm_is_left_out_and_tei_leaves_the_dense_out_with_it(made: Any) -> None:
    found = made(DENSES, {"modules.json": modules("transformer", "pooling", "layernorm", "dense")})
    assert [tool for tool in ALL if "layer norm" in found[tool].differs] == list(ALL[1:])
    assert (found["TEI"].dense, found["vLLM"].dense) == ("left out", "applied")


def test_norm(made: Any) -> None:
    without = made({"modules.json": modules("transformer", "pooling")})
    assert [without[tool].normalized for tool in ALL] == [False, True, None, False, True, False, None]
    assert [tool for tool in ALL if "norm" in without[tool].differs] == ["TEI", "FE", "llama", "TF"]
    assert all("norm" in value.settable for value in without.values() if "norm" in value.differs)
    assert made({"modules.json": None})["vLLM"].normalized  # where no pooling is said, either


PROMPTS = {
    "config_sentence_transformers.json": {
        "prompts": {"query": "query: ", "passage": "passage: "},
        "default_prompt_name": "query",
    }
}


def test_prompt(made: Any) -> None:
    found = made(PROMPTS)
    assert found["ST"].prompt == "query: "
    assert found["ST"].notes == ("encode_document puts no prompt: none is called document",)
    for tool in ALL[1:]:
        assert (found[tool].prompt, "prompt" in found[tool].settable) == ("", True)
    without = made(PROMPTS, pooling(**flags("mean_tokens", include_prompt=False)))
    assert [tool for tool in ALL if "prompt" in without[tool].differs] == list(ALL[1:])
    assert not any("prompt" in value.settable for value in without.values())
    assert made({"config_sentence_transformers.json": {"default_prompt_name": "x"}})["ST"].fails


def test_cut(made: Any) -> None:
    found = made({"config_sentence_transformers.json": {"truncate_dim": 8}})
    assert [tool for tool in ALL if "cut" in found[tool].differs] == list(ALL[1:])
    assert all("cut" in found[tool].settable for tool in ALL[1:])


def test_what_is_not_loaded(made: Any) -> None:
    found = made({"tokenizer.json": None})
    assert {tool: found[tool].fails for tool in ALL if found[tool].fails} == dict.fromkeys(
        ("TEI", "FE", "js"), "no tokenizer.json"
    )
    classifier = made(config(architectures=["BertForSequenceClassification"]))
    assert classifier["TEI"].fails == "it is taken for a classifier"
    assert made(config(architectures=None))["llama"].fails == "config.json names no architectures"
    rows = [{**row, "path": row["path"] or "0_Transformer"} for row in modules("transformer", "pooling")]
    moved = {f"0_Transformer/{name}": PLAIN[name] for name in ("config.json", "tokenizer.json")}
    below = made({"modules.json": rows, "config.json": None, "tokenizer.json": None, **moved})
    assert below["ST"].fails == ""
    assert {below[tool].fails for tool in ("TEI", "vLLM", "llama", "js", "TF")} == {"config.json lies in 0_Transformer"}


@pytest.mark.parametrize(
    ("files", "tool", "note"),
    [
        (sbert(), "TEI", "older versions do not start without max_seq_length"),
        (pooling(pooling_mode="mean"), "TEI", "older versions do not start without pooling_mode_*"),
        (pooling(pooling_mode="mean"), "vLLM", "0.29.0 takes cls: it does not know these settings"),
        (pooling(pooling_mode="mean"), "llama", "earlier builds do not know pooling_mode"),
        (
            {"tokenizer.json": tokenizer(KEPT), **tokens(do_lower_case=False)},
            "llama",
            "earlier builds lower-case every WordPiece text",
        ),
        ({"onnx/model.onnx": None}, "FE", "needs an ONNX file, and there is none"),
        ({"onnx/model.onnx": None}, "js", "needs an ONNX file, and there is none"),
    ],
)
def test_notes(files: dict[str, Any], tool: str, note: str, made: Any) -> None:
    assert note in made(files)[tool].notes
    assert note not in made()[tool].notes


anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 10**31),
    st.floats(),
    st.sampled_from(["", "mean", "cls", "BertModel", "bert", TANH, "Dense", "sentence_transformers.models.Dense"]),
    st.lists(st.sampled_from(["mean", "cls", "x"]), max_size=2),
    st.dictionaries(st.sampled_from(["type", "lowercase", "query"]), st.booleans(), max_size=2),
)
KEYS = {
    "config.json": ("model_type", "architectures", "max_position_embeddings", "pad_token_id", "n_positions"),
    "tokenizer_config.json": ("tokenizer_class", "do_lower_case", "model_max_length", "max_length", "cls_token"),
    "sentence_bert_config.json": ("max_seq_length", "do_lower_case"),
    "1_Pooling/config.json": ("pooling_mode", "pooling_mode_cls_token", "pooling_mode_mean_tokens", "include_prompt"),
    "2_Dense/config.json": ("activation_function", "bias", "in_features", "use_residual"),
    "config_sentence_transformers.json": ("prompts", "default_prompt_name", "truncate_dim"),
    "tokenizer.json": ("normalizer", "post_processor", "truncation"),
}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_settings_end_in_a_traceback(data: st.DataObject, tmp_path: Path) -> None:
    drawn = {}
    for name, keys in KEYS.items():
        drawn[name] = {**with_files(DENSES)[name]} if name in with_files(DENSES) else {}
        drawn[name] |= data.draw(st.dictionaries(st.sampled_from(keys), anything, max_size=2))
    rows = tool_nodes(written(tmp_path, with_files(DENSES, drawn)))
    assert [row["tool"] for row in rows] == [tool.name for tool in TOOLS]
    assert tools_view(rows).rows
    assert json.dumps(rows)


# ------------------------------------------------------------------------------------------------ the table


def test_the_table_says_what_is_the_same(tmp_path: Path) -> None:
    found = tool_nodes(written(tmp_path, with_files(PROMPTS, sbert(max_seq_length=256))))
    assert {row["tool"]: row["same"] for row in tools_view(found).rows} == {
        "sentence-transformers": "yes",
        "TEI": "set prompt",
        "fastembed": "set pooling, prompt, norm; to 256",
        "vLLM": "set prompt",
        "llama.cpp": "set prompt; to 256",
        "transformers.js": "set pooling, prompt, norm; to 256",
        "transformers": "set pooling, prompt, norm; to 256",
    }


def test_the_table_says_what_is_not(tmp_path: Path) -> None:
    found = tool_nodes(written(tmp_path, with_files(DENSES, pooling(**flags("max_tokens")))))
    rows = {row["tool"]: row for row in tools_view(found).rows}
    assert rows["TEI"]["same"] == "does not load"
    assert rows["TEI"]["pooling"] is None
    assert rows["vLLM"]["same"] == "no: pooling"
    assert rows["transformers"]["same"] == "no: dense"
    assert {"tool": "TEI", "note": "does not load: it has no pooling by max"} in tool_notes_view(found).rows


@pytest.mark.parametrize("name", ["plain", "all"])
def test_in_80_columns_nothing_is_cut(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    files = {"plain": (sbert(max_seq_length=256),), "all": (DENSES, PROMPTS, sbert(), pooling(pooling_mode="cls"))}
    found = tool_nodes(written(tmp_path, with_files(*files[name], {"onnx/model.onnx": None})))
    out = io.StringIO()
    write(Report({}, ()), out, (tools_view(found), tool_notes_view(found)), whole=False)
    assert "same vector?" in out.getvalue()
    assert "…" not in out.getvalue()
    assert max(map(len, out.getvalue().splitlines())) <= 80


def test_the_nodes_are_what_their_type_says(tmp_path: Path) -> None:
    for node in tool_nodes(written(tmp_path, with_files(DENSES, pooling(**flags("max_tokens"))))):
        assert not list(faults(node, nodes.ToolMade))


def test_the_page_has_every_tool_and_version() -> None:
    text = (ROOT / "docs" / "tools.md").read_text()
    for tool in TOOLS:
        assert f"## {tool.name}\n" in text
        assert tool.version in text
    for aspect in ASPECTS:
        assert f"**{aspect}**" in text


# ------------------------------------------------------------------------------------------------ the libraries

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "The", "ship", "é", "e")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT's weights, and the vocabulary of its tokenizer."""
    import torch
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("weights")
    sizes = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=64, **sizes)).save_pretrained(folder)
        save_file({"linear.weight": torch.randn(8, 32), "linear.bias": torch.randn(8)}, folder / "dense.safetensors")
    return folder


def usable(folder: Path, weights: Path, files: Mapping[str, Any]) -> Recipe:
    """A folder that the libraries load: settings as given, and the weights that belong to them."""
    config = {**json.loads((weights / "config.json").read_text())}
    if files.get("config.json") is not CONFIG:
        config |= {key: value for key, value in files["config.json"].items() if key not in CONFIG}
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    filled = {**files["tokenizer.json"], "model": {**MODEL, "vocab": vocabulary}}
    if filled["post_processor"]:
        special = {word: {"id": word, "ids": [vocabulary[word]], "tokens": [word]} for word in ("[CLS]", "[SEP]")}
        pair = [*TEMPLATE["single"], {"Sequence": {"id": "B", "type_id": 1}}]
        filled["post_processor"] = {**TEMPLATE, "pair": pair, "special_tokens": special}
    recipe = written(folder, {**files, "config.json": config, "tokenizer.json": filled})
    shutil.copy(weights / "model.safetensors", folder)
    for path in folder.glob("*_Dense"):
        shutil.copy(weights / "dense.safetensors", path / "model.safetensors")
    return recipe


MODEL = {
    "type": "WordPiece",
    "unk_token": "[UNK]",
    "continuing_subword_prefix": "##",
    "max_input_chars_per_word": 100,
}
FEW = tokens(model_max_length=40)
REAL: dict[str, tuple[dict[str, Any], ...]] = {
    "plain": (FEW, sbert(max_seq_length=32)),
    "no limit in the transformer's": (FEW, sbert()),
    "no limit but the positions": (tokens(), sbert()),
    "beyond the positions": (FEW, sbert(max_seq_length=100)),
    "no modules.json": (FEW, {"modules.json": None}),
    "no modules.json, cls": (FEW, {"modules.json": None}, pooling(**flags("cls_token"))),
    "cls": (FEW, pooling(**flags("cls_token"))),
    "two": (FEW, SEVERAL),
    "a list": (FEW, pooling(pooling_mode=["mean", "cls"], embedding_dimension=32)),
    "both keys": (FEW, pooling(**flags("mean_tokens", pooling_mode="cls"))),
    "no flag": (FEW, pooling(**flags())),
    "the flag keeps the case": (tokens(model_max_length=40, do_lower_case=False),),
    "the file keeps it": (tokens(model_max_length=40), {"tokenizer.json": tokenizer(KEPT)}),
    "a generic class": ({"tokenizer_config.json": {**GENERIC}}, {"tokenizer.json": tokenizer(KEPT)}),
    "a generic class, no special tokens": (
        {"tokenizer_config.json": {**GENERIC}, "tokenizer.json": tokenizer(LOWER, None)},
    ),
    "no special tokens": (FEW, {"tokenizer.json": tokenizer(LOWER, None)}),
    "lower-cased before": (
        tokens(model_max_length=40, do_lower_case=False),
        sbert(max_seq_length=32, do_lower_case=True),
    ),
    "accents kept": (tokens(model_max_length=40, strip_accents=False),),
    "prompts": (FEW, PROMPTS),
    "not normalised": (FEW, {"modules.json": modules("transformer", "pooling")}),
    "new names": (
        FEW,
        DENSES,
        {"modules.json": modules("transformer", "pooling", "dense", "normalize", old=False)},
    ),
    "cut": (FEW, DENSES, {"config_sentence_transformers.json": {"truncate_dim": 4}}),
}


def cut_at(count: Any) -> int | None:
    """Where a tokenizer cuts a text of 1,000 words, None where it does not."""
    return None if count >= 1000 else count


@pytest.mark.parametrize("name", REAL)
def test_transformers_makes_of_it_what_the_table_says(name: str, weights: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    made = tools_of(usable(tmp_path, weights, with_files(*REAL[name])))["transformers"]
    theirs = AutoTokenizer.from_pretrained(str(tmp_path))
    found = theirs.convert_ids_to_tokens(theirs("The é")["input_ids"])
    around = tuple(token for token in found if token.startswith("["))
    assert around == made.special
    assert ("The" not in found) == made.lower
    assert ("é" not in found) == made.accents
    assert cut_at(len(theirs("ship " * 1000, truncation=True)["input_ids"])) == made.length


@pytest.mark.parametrize("name", REAL)
def test_sentence_transformers_makes_of_it_what_the_table_says(name: str, weights: Path, tmp_path: Path) -> None:
    import numpy as np

    library = pytest.importorskip("sentence_transformers")
    recipe = usable(tmp_path, weights, with_files(*REAL[name]))
    made = tools_of(recipe)["sentence-transformers"]
    model = library.SentenceTransformer(str(tmp_path), device="cpu")
    assert model.max_seq_length == made.length
    assert model.tokenizer.tokenize("The é") == [
        "the" if made.lower else "The",
        "e" if made.accents else "é",
    ]
    assert cut_at(model.tokenize(["ship " * 1000])["input_ids"].shape[1]) == made.length
    (pool,) = [module for module in model if type(module).__name__ == "Pooling"]
    modes = pool.pooling_mode if isinstance(pool.pooling_mode, (list, tuple)) else [pool.pooling_mode]
    assert tuple(modes) == made.pooling
    given = model.prompts.get(model.default_prompt_name, "") if model.default_prompt_name else ""
    assert given == made.prompt
    assert any(type(module).__name__ == "Normalize" for module in model) == made.normalized
    assert (made.dense == "applied") == any(type(module).__name__ == "Dense" for module in model)
    vector = model.encode("the ship")
    assert len(vector) == recipe.width
    if made.overflow == "fails":
        with pytest.raises(RuntimeError):
            model.encode("ship " * 1000)
    else:
        assert np.isfinite(model.encode("ship " * 1000)).all()


def test_a_default_prompt_that_is_none_is_not_loaded(weights: Path, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    files = with_files(FEW, {"config_sentence_transformers.json": {"prompts": {}, "default_prompt_name": "x"}})
    assert tools_of(usable(tmp_path, weights, files))["sentence-transformers"].fails
    with pytest.raises(ValueError, match="prompt"):
        library.SentenceTransformer(str(tmp_path), device="cpu")


def test_a_pooling_that_is_none_is_not_loaded(weights: Path, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    files = with_files(FEW, pooling(pooling_mode="median", embedding_dimension=32))
    assert tools_of(usable(tmp_path, weights, files))["sentence-transformers"].fails
    with pytest.raises(ValueError, match="median"):
        library.SentenceTransformer(str(tmp_path), device="cpu")


def test_encode_document_puts_no_prompt_where_none_is_called_so(weights: Path, tmp_path: Path) -> None:
    import numpy as np

    library = pytest.importorskip("sentence_transformers")
    usable(tmp_path, weights, with_files(FEW, PROMPTS))
    model = library.SentenceTransformer(str(tmp_path), device="cpu")
    assert np.array_equal(model.encode_document("the ship"), model.encode("the ship", prompt=""))
    assert not np.array_equal(model.encode_document("the ship"), model.encode("the ship"))
