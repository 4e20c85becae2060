"""Names in the wild: prefixes, old spellings, missing configs; and what transformers makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run
from safetensors.numpy import load_file, save_file
from transformers import BertModel

from bertprobe.anatomy import Anatomy, find_parts, select
from bertprobe.checkpoint import open_checkpoint, read_tensor
from bertprobe.errors import BadSetting, NotAnEncoder, PartMissing
from bertprobe.verdicts import Evidence, Finding, judge

Rename = Callable[[str], str]


def anatomy_of(folder: Path) -> Anatomy:
    return find_parts(open_checkpoint(str(folder)))


def findings_of(folder: Path) -> dict[str, Finding]:
    """Findings from headers alone, by rule."""
    checkpoint = open_checkpoint(str(folder))
    return {finding.rule: finding for finding in judge(Evidence(checkpoint, find_parts(checkpoint)))}


@pytest.fixture
def respelled(tiny_bert: Path, tmp_path: Path) -> Callable[[Rename], Path]:
    """Makes a copy of the tiny BERT with every tensor renamed."""

    def make(rename: Rename) -> Path:
        (tmp_path / "config.json").write_bytes((tiny_bert / "config.json").read_bytes())
        tensors = {rename(name): array for name, array in load_file(tiny_bert / "model.safetensors").items()}
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        return tmp_path

    return make


def load(folder: Path, **options: Any) -> BertModel:
    model: BertModel = BertModel.from_pretrained(folder, **options)
    return model


def same(a: BertModel, b: BertModel) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in a.state_dict().items())


@pytest.mark.parametrize("number", ["01", "²", "٣", "1_0", "+1", "1" * 10, "9" * 900, ""])
def test_a_number_is_a_layers_as_pytorch_writes_it(number: str, respelled: Callable[[Rename], Path]) -> None:
    """Of any other transformers knows nothing, so it must not be shown as the layer that it looks like."""
    folder = respelled(lambda name: name.replace("layer.1.", f"layer.{number}."))
    assert anatomy_of(folder).layers == (0,)


@pytest.mark.parametrize("size", ["²", "٣", "9" * 5000, "-1", "1e3", "", " 4", "0x10"])
def test_notes_that_are_no_sizes_are_no_sizes(size: str, tiny_bert: Path, tmp_path: Path) -> None:
    notes = {"hidden_size": size, "intermediate_size": size, "format": "pt"}
    save_file(load_file(tiny_bert / "model.safetensors"), tmp_path / "model.safetensors", notes)
    config_spec = anatomy_of(tmp_path).config_spec
    assert (config_spec.hidden_size, config_spec.intermediate_size) == (None, None)


PREFIXES = ["module.", "module.bert.", "0.auto_model.", "_orig_mod.", "_orig_mod.bert.", "model.", "bert._orig_mod."]


@pytest.mark.parametrize("prefix", ["", "bert.", *PREFIXES])
def test_a_prefix_does_not_change_what_is_found(prefix: str, tiny_bert: Path, respelled: Any) -> None:
    ours, plain = anatomy_of(respelled(lambda name: prefix + name)), anatomy_of(tiny_bert)
    assert list(ours.tensors) == list(plain.tensors)
    assert [part.label for part in ours.parts] == [part.label for part in plain.parts]
    for a, b in zip(ours.parts, plain.parts, strict=True):
        assert list(a.tensors) == list(b.tensors)


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_what_transformers_takes_off_is_no_finding(prefix: str, tiny_bert: Path, respelled: Any) -> None:
    folder = respelled(lambda name: prefix + name)
    assert same(load(folder), load(tiny_bert))
    assert "prefix-not-stripped" not in findings_of(folder)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_hiding_prefix_is_found_and_its_cure_works(prefix: str, tiny_bert: Path, respelled: Any) -> None:
    folder = respelled(lambda name: prefix + name)
    assert not same(load(folder), load(tiny_bert)), "transformers would have found the weights after all"
    finding = findings_of(folder)["prefix-not-stripped"]
    mapping = finding.hint.partition("key_mapping=")[2].partition(" to from_pretrained")[0]
    assert same(load(folder, key_mapping=eval(mapping)), load(tiny_bert))


def test_a_wrapped_state_dict_is_found_and_export_cures_it(tiny_bert: Path, tmp_path: Path, run: Any) -> None:
    state = {f"bert.{name}": value for name, value in load(tiny_bert).state_dict().items()}
    (tmp_path / "config.json").write_bytes((tiny_bert / "config.json").read_bytes())
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "pytorch_model.bin")
    finding = findings_of(tmp_path)["prefix-not-stripped"]
    assert finding.evidence["wrapper"] == "state_dict"
    cured = tmp_path / "cured"
    cured.mkdir()
    assert run(["export", tmp_path, "--part", "model", "-o", cured / "model.safetensors"]).code == 0
    (cured / "config.json").write_bytes((tiny_bert / "config.json").read_bytes())
    assert same(load(cured), load(tiny_bert))


def test_gamma_and_beta_become_weight_and_bias(tiny_bert: Path, respelled: Any) -> None:
    def old(name: str) -> str:
        return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")

    assert list(anatomy_of(respelled(old)).tensors) == list(anatomy_of(tiny_bert).tensors)


def test_without_config_names_and_shapes_speak(tiny_bert: Path, respelled: Any, run: Any) -> None:
    folder = respelled(lambda name: f"roberta.{name}")
    (folder / "config.json").unlink()
    anatomy = anatomy_of(folder)
    assert anatomy.family == "xlm-roberta" or anatomy.family == "roberta"
    assert anatomy.widths == (32, 40)
    assert {part.activation for part in anatomy.of("intermediate")} == {None}
    assert "activation unknown" in run(["inspect", folder]).out
    assert json.loads(run(["inspect", folder, "--json"]).out)["facts"]["activation"] is None


def test_a_config_without_model_type_or_of_googles_name_serves(tiny_bert: Path, respelled: Any) -> None:
    folder = respelled(lambda name: name)
    settings = json.loads((folder / "config.json").read_text())
    del settings["model_type"]
    (folder / "config.json").unlink()
    (folder / "bert_config.json").write_text(json.dumps(settings))
    anatomy = anatomy_of(folder)
    assert anatomy.family == "bert"
    assert anatomy.config_spec.activation == "gelu"


def test_a_prelayernorm_keeps_its_norm_in_the_part(tmp_path: Path) -> None:
    import zoo

    zoo.save("roberta-prelayernorm", tmp_path)
    names = list(anatomy_of(tmp_path).parts[0].tensors)
    assert "encoder.layer.0.intermediate.LayerNorm.weight" in names


def test_two_encoders_are_two_stacks(tiny_bert: Path, tmp_path: Path) -> None:
    tensors = load_file(tiny_bert / "model.safetensors")
    both = {f"{side}.{name}": array for side in ("query", "document") for name, array in tensors.items()}
    save_file(both, tmp_path / "model.safetensors")
    labels = [part.label for part in anatomy_of(tmp_path).parts]
    assert len(set(labels)) == len(labels) == 6
    assert sum(label.startswith("intermediate.") for label in labels) == 2


def test_one_name_claimed_twice_is_a_finding(tiny_bert: Path, tmp_path: Path) -> None:
    tensors = load_file(tiny_bert / "model.safetensors")
    tensors |= {f"bert.{name}": array for name, array in tensors.items() if name.startswith("pooler")}
    save_file(tensors, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(str(tmp_path))
    found = [f for f in judge(Evidence(checkpoint, find_parts(checkpoint))) if f.rule == "duplicate-tensors"]
    assert {f.evidence["canonical"] for f in found} == {"pooler.dense.weight", "pooler.dense.bias"}


@pytest.mark.parametrize(
    ("layers", "expected"),
    [("0", [0]), ("-1", [11]), ("0,3-5,-1", [0, 3, 4, 5, 11]), ("-2--1", [10, 11]), (" 1 , 2 ", [1, 2]), ("5,5", [5])],
)
def test_layers_are_numbers_and_ranges(layers: str, expected: list[int], tmp_path: Path) -> None:
    save_file(twelve_layers(), tmp_path / "model.safetensors")
    parts = select(anatomy_of(tmp_path), ["intermediate"], layers)
    assert [part.layer for part in parts] == expected


@pytest.mark.parametrize(
    "layers", ["99", "12", "0-12", "-13", "5-3", "", "a", "1,,2", "1-", "0x1", "99999999999999999999"]
)
def test_layers_that_are_not_there_are_refused(layers: str, tmp_path: Path) -> None:
    save_file(twelve_layers(), tmp_path / "model.safetensors")
    with pytest.raises((PartMissing, BadSetting)):
        select(anatomy_of(tmp_path), [], layers)


def twelve_layers() -> dict[str, np.ndarray[Any, Any]]:
    return {f"encoder.layer.{i}.intermediate.dense.weight": np.full((4, 2), i, np.float32) for i in range(12)}


NO_ENCODERS = {
    "GPT-2": ["h.0.attn.c_attn.weight", "h.0.mlp.c_fc.weight", "wte.weight"],
    "Llama": ["model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight", "lm_head.weight"],
    "diffusion": ["down_blocks.0.resnets.0.conv1.weight", "mid_block.attentions.0.proj.weight"],
    "LoRA": ["base_model.model.encoder.layer.0.attention.self.query.lora_A.weight"],
    "convolutional": ["layer1.0.conv1.weight", "fc.weight"],
    "tensors such as": ["a", "b"],
}


@pytest.mark.parametrize("kind", NO_ENCODERS)
def test_what_is_no_encoder_is_named(kind: str, tmp_path: Path) -> None:
    save_file({name: np.zeros((2, 2), np.float32) for name in NO_ENCODERS[kind]}, tmp_path / "model.safetensors")
    with pytest.raises(NotAnEncoder, match=kind) as caught:
        anatomy_of(tmp_path)
    assert "encoder" in caught.value.hint or "config.json" in caught.value.hint


def test_a_decoder_with_a_config_is_refused_and_its_twin_encoder_is_not(tmp_path: Path) -> None:
    save_file(
        {f"model.layers.0.mlp.{name}.weight": np.zeros((4, 2), np.float32) for name in ("up_proj", "gate_proj")},
        tmp_path / "model.safetensors",
    )
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(NotAnEncoder, match="llama"):
        anatomy_of(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "eurobert"}')
    assert [part.label for part in anatomy_of(tmp_path).parts] == ["gate.0", "intermediate.0"]


def test_a_pooler_alone_is_enough(tiny_bert: Path, tmp_path: Path, run: Any) -> None:
    file = tmp_path / "pooler.safetensors"
    assert run(["export", tiny_bert, "-o", file]).code == 0
    (pooler,) = anatomy_of(file).parts
    stored = load_file(tiny_bert / "model.safetensors")
    assert np.array_equal(read_tensor(pooler.tensors["pooler.dense.weight"]), stored["pooler.dense.weight"])


def test_the_last_layer_is_the_one_of_highest_number_also_where_one_is_missing(tmp_path: Path) -> None:
    tensors = twelve_layers()
    del tensors["encoder.layer.3.intermediate.dense.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    anatomy = anatomy_of(tmp_path)
    assert [part.layer for part in select(anatomy, ["intermediate"], "-1")] == [11]
    with pytest.raises(PartMissing, match=r"layers 0-2, 4-11"):
        select(anatomy, [], "3")
    with pytest.raises(BadSetting, match="run backwards"):
        select(anatomy, [], "5-4")


# ------------------------------------------------------------------------------------------------ names inside names


@pytest.mark.parametrize("word", ["_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "module"])
@pytest.mark.parametrize(
    "place", ["encoder.layer.0.{}.", "encoder.layer.1.intermediate.{}.", "pooler.{}.", "encoder.{}."]
)
def test_what_a_training_tool_puts_into_names_is_taken_off(
    word: str, place: str, tmp_path: Path, tiny_bert: Path, run: Run
) -> None:
    """Compiled layer by layer, or each with its own checkpointing: torch.compile(layer) in place of the layer."""
    state = load_file(tiny_bert / "model.safetensors")
    plain = place.replace("{}.", "")
    wrapped = {f"bert.{name.replace(plain, place.format(word), 1)}": tensor for name, tensor in state.items()}
    assert f"bert.{next(name for name in state if plain in name)}" not in wrapped
    save_file(wrapped, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_bytes((tiny_bert / "config.json").read_bytes())
    evidence = Evidence(open_checkpoint(str(tmp_path)), find_parts(open_checkpoint(str(tmp_path))))
    assert [part.label for part in evidence.anatomy.parts] == ["intermediate.0", "intermediate.1", "pooler"]
    (finding,) = judge(evidence)
    assert finding.rule == "prefix-not-stripped"
    assert repr(word) in finding.message
    out = tmp_path / "out"
    out.mkdir()
    assert run(["export", tmp_path, "--part", "model", "-o", out / "model.safetensors"]).code == 0
    (out / "config.json").write_bytes((tiny_bert / "config.json").read_bytes())
    model, info = BertModel.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert all(
        np.array_equal(tensor.numpy(), state[name]) for name, tensor in model.state_dict().items() if name in state
    )


@pytest.mark.parametrize("config", [True, False])
def test_a_pooler_beside_layers_of_other_names_is_no_sound_model(
    config: bool, tmp_path: Path, tiny_bert: Path, run: Run
) -> None:
    state = load_file(tiny_bert / "model.safetensors")
    other = {name.replace("intermediate.dense", "mlp.gated_layers"): tensor for name, tensor in state.items()}
    save_file(other, tmp_path / "model.safetensors", {"format": "pt"})
    if config:
        (tmp_path / "config.json").write_bytes((tiny_bert / "config.json").read_bytes())
    ran = run(["inspect", tmp_path, "--strict", "--json"])
    assert ran.code == 3
    (finding,) = [f for f in json.loads(ran.out)["findings"] if f["severity"] == "error"]
    assert finding["rule"] == "layers-missing"
    assert "encoder.layer.0.attention" in finding["message"]
    assert json.loads(ran.out)["facts"]["activation"] == ("gelu" if config else None)
    ran = run(["pool", "a b", "-m", tmp_path])
    assert ran.code == 1
    assert "mend config.json" not in ran.err


def test_a_pooler_alone_is_what_it_is(tmp_path: Path, tiny_bert: Path, run: Run) -> None:
    assert run(["export", tiny_bert, "-o", tmp_path / "pooler.safetensors"]).code == 0
    (tmp_path / "config.json").write_bytes((tiny_bert / "config.json").read_bytes())
    found = json.loads(run(["inspect", tmp_path / "pooler.safetensors", "--json"]).out)["findings"]
    assert not [finding for finding in found if finding["severity"] == "error"]
    state = load_file(tmp_path / "pooler.safetensors")
    save_file(state, tmp_path / "pooler.safetensors", {"format": "pt"})
    found = json.loads(run(["inspect", tmp_path / "pooler.safetensors", "--json"]).out)["findings"]
    assert [finding["rule"] for finding in found if finding["severity"] == "error"] == ["layers-missing"]


# ------------------------------------------------------------------------------------------------ several models


@pytest.fixture
def teacher_and_student(tmp_path: Path, tiny_bert: Path) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    folder = tmp_path / "m"
    folder.mkdir()
    arrays = load_file(tiny_bert / "model.safetensors")
    teacher = {f"bert.{name}": torch.from_numpy(array) for name, array in arrays.items()}
    student = {name: tensor + 1 for name, tensor in teacher.items() if ".layer.1." not in name}
    torch.save({"teacher": teacher, "student": student}, folder / "pytorch_model.bin")
    (folder / "config.json").write_bytes((tiny_bert / "config.json").read_bytes())
    return folder, teacher, student


def test_of_several_models_in_a_pickle_one_is_chosen(
    teacher_and_student: tuple[Path, dict[str, Any], dict[str, Any]], run: Run, tmp_path: Path
) -> None:
    folder, teacher, student = teacher_and_student
    facts = json.loads(run(["inspect", folder, "--json"]).out)["facts"]
    assert "it holds several models: teacher is read; others to choose as root: student" in facts["notes"]
    assert facts["layers"] == 2
    for root, state in (("teacher", teacher), ("student", student)):
        data = json.loads(run(["inspect", folder, "--root", root, "--json"]).out)
        assert data["facts"]["layers"] == (2 if root == "teacher" else 1)
        assert not [note for note in data["facts"]["notes"] if "several" in note]
        out = tmp_path / f"{root}.safetensors"
        ran = run(["export", folder, "--root", root, "-o", out])
        assert ran.code == 0, ran.err
        assert np.array_equal(load_file(out)["pooler.dense.weight"], state["bert.pooler.dense.weight"].numpy())
        (hidden,) = [finding for finding in data["findings"] if finding["rule"] == "prefix-not-stripped"]
        assert f"--root {root}" in hidden["hint"]
    ran = run(["inspect", folder, "--root", "assistant"])
    assert ran.code == 1
    assert "holds no model under 'assistant'; it has teacher, student" in ran.err


def test_of_several_models_in_one_file_one_is_chosen_by_its_names(tmp_path: Path, tiny_bert: Path, run: Run) -> None:
    state = load_file(tiny_bert / "model.safetensors")
    both = {f"{root}.{name}": array + n for n, root in enumerate(("one", "two")) for name, array in state.items()}
    (tmp_path / "m").mkdir()
    save_file(both, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    for n, root in enumerate(("one", "two")):
        assert run(["export", tmp_path / "m", "--root", root, "-o", tmp_path / f"{root}.safetensors"]).code == 0
        found = load_file(tmp_path / f"{root}.safetensors")["pooler.dense.weight"]
        assert np.array_equal(found, state["pooler.dense.weight"] + n)
    assert "inspect --shapes" in run(["inspect", tmp_path / "m", "--root", "three"]).err


def test_of_a_model_among_several_in_shards_what_is_listed_must_be_there(
    tmp_path: Path, tiny_bert: Path, run: Run
) -> None:
    state = load_file(tiny_bert / "model.safetensors")
    both = {f"{root}.{name}": array for root in ("one", "two") for name, array in state.items()}
    listed = {"weight_map": dict.fromkeys([*both, "two.lost.weight"], "a.safetensors")}
    save_file(both, tmp_path / "a.safetensors", {"format": "pt"})
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(listed))
    assert run(["inspect", tmp_path, "--root", "one", "--shapes"]).code == 0
    assert "two.lost.weight" in run(["inspect", tmp_path, "--root", "two", "--shapes"]).err
