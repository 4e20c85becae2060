"""All 70 encoder families: the parts found from headers alone are those where hooks fire."""

from __future__ import annotations

import ast
import json
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zoo
from safetensors.numpy import load_file, save_file
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import bertprobe
from bertprobe.anatomy import Anatomy, Part, find_parts
from bertprobe.anatomy.families import FAMILIES, GENERIC, Family, families_of
from bertprobe.anatomy.layouts import LAYOUTS
from bertprobe.anatomy.poolers import BY_DESIGN
from bertprobe.checkpoint import open_checkpoint, read_tensor
from bertprobe.report import facts
from bertprobe.report.explanation.source import read_library
from bertprobe.transformers_model import staging
from bertprobe.verdicts import Evidence, judge

ALIASES = {"gelu_pytorch_tanh": "gelu_new"}


def values(part: Part, kind: str) -> bytes | None:
    """The bytes of a part's weight or bias, neurons first."""
    header = part.weight if kind == "weight" else part.bias
    return None if header is None else read_tensor(header).tobytes()


def neurons_first(anatomy: Anatomy, weight: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """ConvBERT's grouped linear is stored (groups, in, out); the anatomy turns it."""
    return weight.transpose(0, 2, 1) if weight.ndim == 3 and anatomy.layout.canonical else weight


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_parts_are_where_hooks_fire(family: str, tmp_path: Path) -> None:
    model = zoo.save(family, tmp_path)
    seen = zoo.observe(family, model)
    checkpoint = open_checkpoint(str(tmp_path))
    anatomy = find_parts(checkpoint)
    ups, gates = anatomy.of("intermediate"), anatomy.of("gate")

    found = {(values(part, "weight"), values(part, "bias")) for part in ups}
    expected = {
        (neurons_first(anatomy, ff.up_weight).tobytes(), None if ff.up_bias is None else ff.up_bias.tobytes())
        for ff in seen.feed_forwards
    }
    assert len(ups) == len(seen.feed_forwards)
    assert found == expected
    assert {values(part, "weight") for part in gates} == {
        ff.gate_weight.tobytes() for ff in seen.feed_forwards if ff.gate_weight is not None
    }
    activations = {ALIASES.get(str(part.activation), part.activation) for part in gates or ups}
    assert activations == {ff.activation for ff in seen.feed_forwards}
    poolers = anatomy.of("pooler")
    assert [values(part, "weight") for part in poolers] == ([seen.pooler.weight.tobytes()] if seen.pooler else [])
    assert anatomy.unknown_prefix == ""
    assert anatomy.duplicates == {}
    assert anatomy.family == family
    assert len({part.label for part in anatomy.parts}) == len(anatomy.parts)
    assert {finding.rule for finding in judge(Evidence(checkpoint, anatomy))} <= {"pooler-absent"}


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_headers_alone_were_read(family: str, tmp_path: Path) -> None:
    """Finding parts reads no tensor: the file can lose its data and the answer stays."""
    zoo.save(family, tmp_path)
    parts = find_parts(open_checkpoint(str(tmp_path))).parts
    (file,) = tmp_path.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    content[start:] = bytes(len(content) - start)
    file.write_bytes(content)
    assert [part.label for part in find_parts(open_checkpoint(str(tmp_path))).parts] == [part.label for part in parts]


RESPELLED = {
    "nomic_bert": [("encoder.layers.", "layers."), ("fc11", "up_proj"), ("fc12", "gate_proj"), ("fc2", "down_proj")],
    "jina_embeddings_v3": [
        ("encoder.layers.", "layers."),
        ("norm1", "post_attention_layernorm"),
        ("norm2", "post_mlp_layernorm"),
    ],
    "ultrabert": [("layers.", "ultrabert.layers.")],
    "gte": [("encoder.layer.", "new.encoder.layer.")],
    "clip_text_model": [("encoder.layers.", "text_model.encoder.layers.")],
}


@pytest.mark.parametrize("family", RESPELLED)
def test_the_other_spelling_gives_the_same_parts(family: str, tmp_path: Path) -> None:
    zoo.save(family, tmp_path)
    expected = [part.label for part in find_parts(open_checkpoint(str(tmp_path))).parts]
    file = tmp_path / "model.safetensors"
    tensors = {}
    for name, array in load_file(file).items():
        for old, new in RESPELLED[family]:
            name = name.replace(old, new)
        tensors[name] = array
    save_file(tensors, file)
    anatomy = find_parts(open_checkpoint(str(tmp_path)))
    assert [part.label for part in anatomy.parts] == expected
    assert anatomy.unknown_prefix == ""


def test_gte_as_transformers_spells_its_modules_has_gate_and_up_apart(tmp_path: Path) -> None:
    model = zoo.save("gte", tmp_path)
    save_file({name: value.numpy() for name, value in model.state_dict().items()}, tmp_path / "model.safetensors")
    anatomy = find_parts(open_checkpoint(str(tmp_path)))
    assert [part.label for part in anatomy.parts] == ["gate.0", "intermediate.0", "gate.1", "intermediate.1"]


def test_every_row_says_how_its_path_reads() -> None:
    for layout in LAYOUTS:
        assert not set("\\()?") & set(layout.path), layout.path


def test_a_gated_t5_shows_gate_and_up(tmp_path: Path) -> None:
    zoo.save("t5", tmp_path, feed_forward_proj="gated-gelu")
    anatomy = find_parts(open_checkpoint(str(tmp_path)))
    assert [(part.label, part.activation) for part in anatomy.parts[:2]] == [
        ("gate.0", "gelu_new"),
        ("intermediate.0", None),
    ]


def test_grouped_convbert_has_a_neuron_a_row(tmp_path: Path) -> None:
    model = zoo.save("convbert", tmp_path, num_groups=2)
    part = find_parts(open_checkpoint(str(tmp_path))).parts[0]
    assert part.weight is not None
    stored = model.encoder.layer[0].intermediate.dense.weight.detach().numpy()
    read = read_tensor(part.weight)
    assert np.array_equal(read, stored.transpose(0, 2, 1))
    assert part.bias is not None
    assert read.shape[0] * read.shape[1] == part.bias.count


def test_albert_says_how_often_it_runs_its_layer(tmp_path: Path) -> None:
    zoo.save("albert", tmp_path, num_hidden_layers=5)
    checkpoint = open_checkpoint(str(tmp_path))
    found = facts(checkpoint, find_parts(checkpoint))
    assert found["layers"] == 1
    assert "it runs 5 layers, which share the weights of one" in found["notes"]


# ------------------------------------------------------------------------------------------------ the table

PACKAGE = Path(bertprobe.__file__).parent
NAMING_FAMILIES = {
    "anatomy/families.py": "the table",
    "anatomy/layouts.py": "layouts have names of their own, some of them those of the family that has them alone",
    "recipe/tools.py": "what other tools do by a family's name",
    "checkpoint/gguf/settings.py": "a config.json that is made of what the file says has a model_type",
    "checkpoint/gguf/vocabulary.py": "a tokenizer's kind has such a name",
    "checkpoint/hdf5/settings.py": "a config.json that is made of what the file says has a model_type",
    "checkpoint/onnx/settings.py": "a config.json that is made of what the file says has a model_type",
}


def literals(path: Path) -> set[str]:
    """The texts that stand alone in a module's code, docstrings and pieces of longer texts aside."""
    return {
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_no_other_module_asks_for_a_family_by_name() -> None:
    naming = {str(path.relative_to(PACKAGE)): literals(path) & FAMILIES.keys() for path in PACKAGE.rglob("*.py")}
    assert {path: names for path, names in naming.items() if names and path not in NAMING_FAMILIES} == {}
    assert all(naming[path] for path in NAMING_FAMILIES), "an exception that is none any more"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_row_is_complete(name: str) -> None:
    row = FAMILIES[name]
    assert row.name == name
    assert row.prefixes
    assert all(prefixes for _, prefixes in row.also)
    assert {layout for layout, _ in ((row.layout, ""), *row.also)} <= set(LAYOUTS)
    assert row.pooling in {"yes", "never", *BY_DESIGN}
    assert bool(row.title) == (row.pooling in BY_DESIGN), "the sentence that says so has its name in it"
    assert row.tokens in ("", "[CLS]", "<s>", "characters")
    assert row.tokenizer in {"", GENERIC, *staging.CLASSES}
    if row.native:
        assert row.layout.canonical
        assert row.rows_are_tokens
        assert row.more_than_text is None
    library = read_library(row)
    if library.version is not None:
        place = Path(str(find_spec("transformers").origin)).parent / "models"  # type: ignore[union-attr]
        assert place.joinpath(*row.folder_and_file).is_file()
        classes = classes_in(place.joinpath(*row.folder_and_file))
        assert {row.base, row.up_projection or "", row.pooler or ""} - {""} <= classes


def classes_in(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)}


def test_every_layout_is_some_familys_and_knows_its_down_projection() -> None:
    for layout in LAYOUTS:
        assert families_of(layout), layout.name
        assert layout.down is not None, layout.name
        assert layout.family in {"", *families_of(layout)}


def test_a_family_without_a_row_has_no_facts(tmp_path: Path) -> None:
    zoo.save("bert", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "of-tomorrow"}))
    anatomy = find_parts(open_checkpoint(str(tmp_path)))
    assert (anatomy.family, anatomy.layout.name) == ("of-tomorrow", "bert")
    assert anatomy.row == Family("of-tomorrow", anatomy.layout)
    assert not anatomy.row.native


@pytest.mark.parametrize("name", FAMILIES)
def test_the_eps_of_a_row_is_its_class_s_own(name: str) -> None:
    """What a head's norm takes where a config.json does not say."""
    if name not in CONFIG_MAPPING:
        pytest.skip(f"the installed transformers has no {name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = CONFIG_MAPPING[name]()
    found = [getattr(config, key, None) for key in ("layer_norm_eps", "norm_eps", "layer_norm_epsilon")]
    assert {value for value in found if value is not None} <= {FAMILIES[name].eps}
