"""The lists of what reaches transformers, held against the transformers that is installed, and what becomes of values.

A newer transformers that declares or reads a setting which the lists have not judged makes these fail.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import zoo
from hypothesis import given
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING, PretrainedConfig

from bertprobe.anatomy import find_parts
from bertprobe.anatomy.families import FAMILIES
from bertprobe.checkpoint import open_checkpoint
from bertprobe.errors import UnsupportedFile
from bertprobe.transformers_model import load_reference
from bertprobe.transformers_model.allowed import ALLOWED, COUNTS, NEEDLESS, NO_SIZES, PLAIN, WITHIN
from bertprobe.transformers_model.settings import DEEPEST, LARGEST, MOST_LAYERS, allowed_of, plain

MODEL_TYPES = sorted(FAMILIES.keys() - {"new"})  # which is GTE's name in files of its first authors
# Read by what all models share, or by the classes around the encoder, and no setting of a text encoder.
OF_OTHERS = {
    "attention_chunk_size": "of caches, which are not used here",
    "kv_sharing_modes": "of caches",
    "gradient_checkpointing": "of training",
    "output_cross_attentions": "more output, the same numbers",
    "logit_scale_init_value": "how a head begins",
    "temperature_init_value": "how a head begins",
    "vision_config": "of the other encoder",
    "vision_aspect_ratio": "of the other encoder",
    "vision_feature_layer": "of the other encoder",
    "vision_feature_select_strategy": "of the other encoder",
}


def test_every_family_of_the_zoo_is_known() -> None:
    assert set(zoo.FAMILIES) <= FAMILIES.keys()


def test_nothing_is_on_two_lists() -> None:
    assert not ALLOWED & NEEDLESS
    assert not (ALLOWED | NEEDLESS) & set(PLAIN)
    assert COUNTS | NO_SIZES | set(WITHIN) <= ALLOWED


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_setting_that_a_config_declares_is_judged(model_type: str) -> None:
    config_class = CONFIG_MAPPING[model_type]
    declared = set(inspect.signature(config_class.__init__).parameters) - {"self", "kwargs"}
    assert len(declared) > 10, "its settings are declared where they are looked for"
    assert declared | set(config_class.attribute_map) <= ALLOWED | NEEDLESS | set(PLAIN)


def taken_up(config_class: Any) -> Iterator[str]:
    """Settings that a class takes up without declaring them: `kwargs.pop("name")`, `"name" in kwargs`."""
    for base in config_class.__mro__:
        if base.__module__.startswith("transformers.models."):
            source = textwrap.dedent(inspect.getsource(base))
            yield from re.findall(r"""kwargs(?:\.\w+\(|\[)["'](\w+)["']""", source)
            yield from re.findall(r"""["'](\w+)["'] (?:not )?in kwargs""", source)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_setting_that_a_config_takes_up_is_judged(model_type: str) -> None:
    of_heads_and_training = {"pooler_hidden_size", "num_labels", "reference_compile"}
    assert set(taken_up(CONFIG_MAPPING[model_type])) <= ALLOWED | NEEDLESS | set(PLAIN) | of_heads_and_training


def test_no_allowed_setting_names_code_or_a_place() -> None:
    naming = {
        "implementation",
        "kernels",
        "auto",
        "map",
        "backbone",
        "quantization",
        "name",
        "path",
        "file",
        "repo",
        "hub",
    }
    assert not {name for name in ALLOWED if naming & set(name.split("_"))}


# ------------------------------------------------------------------------------------------------ what is read


def read_by(family: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """What a family's encoder reads from its config: when it is built and run, and on branches that it did not take."""
    seen: set[str] = set()
    real = PretrainedConfig.__getattribute__

    def spy(self: Any, key: str) -> Any:
        file = sys._getframe(1).f_code.co_filename
        if "transformers" in file and "configuration_" not in Path(file).name:
            seen.add(key)
        return real(self, key)

    with monkeypatch.context() as patched:
        patched.setattr(PretrainedConfig, "__getattribute__", spy)
        model = zoo.build(family)
        inputs = zoo.inputs(family, model)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            model(**inputs)
    classes = {base for module in model.modules() for base in type(module).__mro__}
    for found in classes:
        if found.__module__.startswith("transformers.models."):
            seen |= set(read_in(inspect.getsource(found)))
    return {name for name in seen if not name.startswith("_") and not hasattr(type(model.config), name)} | {
        name for name in seen if name in inspect.signature(type(model.config).__init__).parameters
    }


def read_in(source: str) -> Iterator[str]:
    """Names that a class takes from a config: `config.name`, `getattr(self.config, "name", …)`."""
    for node in ast.walk(ast.parse(textwrap.dedent(source))):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            if ast.unparse(node.value).rpartition(".")[2] == "config":
                yield node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr"):
            name = node.args[1]
            if ast.unparse(node.args[0]).endswith("config") and isinstance(name, ast.Constant):
                yield str(name.value)


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_what_an_encoder_reads_is_allowed_and_what_is_needless_is_not_read(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = read_by(family, monkeypatch)
    assert len(read) > 8
    assert read <= ALLOWED | set(PLAIN) | set(OF_OTHERS)
    assert not read & NEEDLESS


@pytest.mark.parametrize("family", ["bert", "t5", "modernbert", "lxmert", "deberta-v2", "reformer", "neomme"])
def test_the_config_that_transformers_gets_is_the_one_it_would_have_made(family: str, tmp_path: Path) -> None:
    zoo.save(family, tmp_path)
    checkpoint = open_checkpoint(str(tmp_path))
    found = load_reference(checkpoint, find_parts(checkpoint)).model.config.to_dict()
    expected = transformers.AutoConfig.from_pretrained(tmp_path).to_dict()
    assert {name: found.get(name) for name in ALLOWED} == {name: expected.get(name) for name in ALLOWED}


# ------------------------------------------------------------------------------------------------ what is let through


class NewerConfig(transformers.BertConfig):
    """As a release to come might declare it."""

    new_knob: int = 1
    new_list: list | None = None


def test_what_is_not_judged_is_an_error_unless_it_changes_nothing() -> None:
    assert allowed_of({"hidden_size": 8, "new_knob": 1, "new_list": None}, NewerConfig, "X") == {"hidden_size": 8}
    for changed in ({"new_knob": 2}, {"new_list": [1]}, {"new_knob": "1"}):
        with pytest.raises(
            UnsupportedFile, match=rf"config\.json of X sets '{next(iter(changed))}', of which it is not"
        ):
            allowed_of(changed, NewerConfig, "X")
    assert allowed_of({"new_knob": 2}, transformers.BertConfig, "X") == {}, "nobody reads it there"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("hidden_size", 10**400, "is beyond 100,000,000"),
        ("hidden_size", -LARGEST - 1, "is beyond"),
        ("num_hidden_layers", MOST_LAYERS + 1, "is beyond 2,000"),
        ("layer_norm_eps", float("nan"), "is nan"),
        ("layer_norm_eps", float("-inf"), "is -inf"),
        ("hidden_act", "x" * 201, "is a text of 201 characters"),
        ("attention_window", [1] * 5001, "has more than 5,000 values"),
        ("attention_window", [[[[1]]]], "is nested more than 3 deep"),
        ("attention_window", [[1] * 3000] * 2000, "has more than 5,000 values"),
        ("hidden_size", {"a": 1}, "has 'a' in it"),
        ("rope_parameters", {"full_attention": {"path": "x"}}, "has 'path' in it"),
        ("rope_parameters", {"\u202e": 1}, r"has '\\u202e' in it"),
        ("hidden_size", torch.float32, "is a dtype"),
    ],
)
def test_a_value_that_no_setting_has_is_refused(key: str, value: Any, said: str) -> None:
    with pytest.raises(UnsupportedFile, match=f"^{key} in X {said}"):
        plain(key, value, f"{key} in X")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-LARGEST, LARGEST) | st.floats(-1e9, 1e9) | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4),
        max_leaves=8,
    )
)
def test_plain_data_is_copied_as_it_is_unless_it_is_deep(value: Any) -> None:
    if depth(value) > DEEPEST:
        with pytest.raises(UnsupportedFile, match="nested"):
            plain("attention_window", value, "it")
    else:
        found = plain("attention_window", value, "it")
        assert json.dumps(found) == json.dumps(value)
        assert found is not value or not isinstance(value, list)


def depth(value: Any) -> int:
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@pytest.mark.parametrize("value", [10**400, 2**64])
def test_of_a_base_of_rotations_a_large_number_is_no_size(value: int) -> None:
    assert plain("rope_theta", 10**9, "it") == 10**9
    with pytest.raises(UnsupportedFile, match="is beyond"):
        plain("rope_theta", value, "it")


def test_an_old_files_own_settings_are_no_error(tmp_path: Path) -> None:
    """What Google's first configs and the libraries since have written, and nobody reads."""
    zoo.save("bert", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    old = {"directionality": "bidi", "pooler_fc_size": 768, "pooler_type": "first_token_transform", "pruned_heads": {}}
    new = {"_attn_implementation_autoset": True, "gradient_checkpointing": False, "finetuning_task": None}
    (tmp_path / "config.json").write_text(json.dumps({**config, **old, **new, "torch_dtype": "float16"}))
    checkpoint = open_checkpoint(str(tmp_path))
    model = load_reference(checkpoint, find_parts(checkpoint)).model
    assert not set(model.config.to_dict()) & {*old, *new}
