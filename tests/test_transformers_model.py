"""Through transformers: 70 families give what hooks see, and no number comes from a weight that was not stored."""

from __future__ import annotations

import json
import logging
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import zoo
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from bertprobe import transformers_model
from bertprobe.anatomy import find_parts
from bertprobe.anatomy.families import FAMILIES
from bertprobe.anatomy.layouts import LAYOUTS
from bertprobe.backends import TorchBackend
from bertprobe.checkpoint import open_checkpoint
from bertprobe.errors import BertprobeError, NotFound, PartMissing, UnsupportedFile
from bertprobe.run.engines import UNBOUNDED, TransformersEngine
from bertprobe.transformers_model import (
    SEED,
    Hidden,
    Record,
    Reference,
    load_reference,
    tokenizer,
)

LENGTH = 33  # no multiple of any window or chunk, and enough for CANINE, which takes characters by fours
POSITIONS = {"canine", "funnel", "bart"}


def opened(folder: Path, **options: Any) -> Reference:
    checkpoint = open_checkpoint(str(folder))
    return load_reference(checkpoint, find_parts(checkpoint), **options)


def ids_of(family: str) -> list[int]:
    return (10 + np.random.default_rng(0).permutation(zoo.VOCABULARY - 10)[:LENGTH]).tolist()


def recorded(loaded: Reference, ids: list[int], segments: list[int] | None = None) -> tuple[Hidden, list[Record]]:
    records: list[Record] = []
    return loaded.run(ids, segments, records.append), records


def run(model: PreTrainedModel, inputs: Mapping[str, Any]) -> Any:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(SEED)  # Reformer draws its hashes during the pass
        return model(**inputs)


def taken_in(
    model: PreTrainedModel, paths: list[str], inputs: Mapping[str, Any]
) -> tuple[Any, dict[str, list[Tensor]]]:
    """The model's output, and what each of these modules took in, call by call, as (rows, features)."""
    taken: dict[str, list[Tensor]] = {path: [] for path in paths}

    def note(path: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, given: Any) -> None:
            values = given[0].transpose(1, 2) if isinstance(module, nn.Conv1d) else given[0]
            taken[path].append(values.reshape(-1, values.shape[-1]))

        return hook

    handles = [model.get_submodule(path).register_forward_pre_hook(note(path)) for path in paths]
    try:
        return run(model, inputs), taken
    finally:
        for handle in handles:
            handle.remove()


def same(one: Tensor | None, other: Tensor | None) -> bool:
    return (one is None and other is None) or (one is not None and other is not None and torch.equal(one, other))


def hooks_on(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


def reconfigure(folder: Path, **changes: Any) -> None:
    """Settings changed in config.json; None takes one out."""
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


# ------------------------------------------------------------------------------------------------ 70 families


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_every_family_gives_what_hooks_see(family: str, tmp_path: Path) -> None:
    model = zoo.save(family, tmp_path)
    inputs = zoo.inputs(family, model)
    blocks = zoo.observe(family, model).feed_forwards
    output, taken = taken_in(model, [block.down for block in blocks], inputs)
    loaded = opened(tmp_path)
    records: list[Record] = []
    hidden = loaded.run_inputs(inputs, records.append)

    assert sorted({record.part for record in records}) == sorted(loaded.parts)
    assert sorted(loaded.parts) == sorted(part.label for part in loaded.anatomy.of("intermediate", "gate"))
    down = {block.up.part: block.down for block in loaded.blocks}
    ups = [record for record in records if record.part in down]
    assert len(ups) == sum(len(calls) for calls in taken.values())
    for record in ups:
        assert torch.equal(record.after, taken[down[record.part]][record.call])
        assert record.before.shape == record.after.shape
    check_activations(loaded, records)
    if family != "dpr":  # it keeps its hidden states back, and has a test of its own
        last = output.language_output if family == "lxmert" else output.last_hidden_state
        assert torch.equal(hidden.last_hidden_state, last)
    pooled = output.pooled_output if family == "lxmert" else getattr(output, "pooler_output", None)
    assert same(hidden.pooled, pooled)
    assert hidden.positions_not_tokens == (family in POSITIONS)


def check_activations(loaded: Reference, records: list[Record]) -> None:
    """act(before) is after; in gated families act(gate) times up is what the down-projection takes in."""
    found = {(record.part, record.call): record for record in records}
    activation = {part.label: part.activation for part in loaded.anatomy.parts}
    for block in loaded.blocks:
        calls = [record for record in records if record.part == block.up.part]
        assert [record.call for record in calls] == list(range(len(calls)))
        for up in calls:
            if block.gate is None:
                assert torch.allclose(ACT2FN[activation[up.part]](up.before), up.after, atol=1e-6)
            else:
                gate = found[block.gate.part, up.call]
                assert torch.equal(gate.after, ACT2FN[activation[gate.part]](gate.before))
                assert torch.equal(gate.after * up.before, up.after)


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_text_alone_runs_or_is_refused_by_name(family: str, tmp_path: Path) -> None:
    model = zoo.save(family, tmp_path)
    loaded = opened(tmp_path)
    ids = ids_of(family)
    if FAMILIES[family].more_than_text:
        with pytest.raises(UnsupportedFile, match=family):
            loaded.run(ids)
        return
    hidden, records = recorded(loaded, ids)
    output, taken = taken_in(model, [block.down for block in loaded.blocks], {"input_ids": torch.tensor([ids])})
    if family != "dpr":
        assert torch.equal(hidden.last_hidden_state, output.last_hidden_state[0])
    assert len(hidden.last_hidden_state) == LENGTH
    assert {record.part for record in records} == set(loaded.parts)
    down = {block.up.part: block.down for block in loaded.blocks}
    for record in records:
        assert len(record.after) == LENGTH or (hidden.positions_not_tokens and len(record.after) < LENGTH)
        if record.part in down:
            whole = taken[down[record.part]][record.call]
            rows = whole[-len(record.after) :] if family == "cpmant" else whole[: len(record.after)]
            assert torch.equal(record.after, rows)


def test_families_that_need_more_than_text_are_those_that_refuse_it() -> None:
    refusing = {family for family in zoo.FAMILIES if FAMILIES[family].more_than_text}
    assert refusing == {"bros", "lxmert", "blip_2_qformer", "instructblip_qformer"}


@pytest.mark.parametrize(
    ("family", "settings", "longest"),
    [
        ("deberta-v2", {}, 64),
        ("deberta-v2", {"relative_attention": True, "position_biased_input": False}, None),
        ("mpnet", {}, 62),  # whatever the padding id is, it counts from 2
        ("longformer", {"pad_token_id": 1}, 62),
        ("markuplm", {}, 63),
        ("ibert", {}, 63),
        ("altclip_text_model", {}, 63),
        ("clap_text_model", {}, 63),
        ("bridgetower_text_model", {}, 63),
        ("xmod", {}, 63),
        ("lilt", {}, 63),
        ("distilbert", {}, 64),
        ("nystromformer", {}, 64),
        ("xlm", {}, 64),
    ],
)
def test_the_longest_text_is_the_longest_that_runs(
    family: str, settings: dict[str, Any], longest: int | None, tmp_path: Path
) -> None:
    zoo.save(family, tmp_path, **settings)
    engine = TransformersEngine(opened(tmp_path), TorchBackend())
    assert engine.longest == (longest or UNBOUNDED)
    engine.reference.run([20] * (longest or 100), [0] * (longest or 100))
    if longest is not None and family != "longformer":  # which pads to whole windows, and fails elsewhere
        with pytest.raises((BertprobeError, IndexError, RuntimeError)):
            engine.reference.run([20] * (longest + 1), [0] * (longest + 1))


def test_every_layout_knows_its_down_projection() -> None:
    assert all(layout.down for layout in LAYOUTS)


def test_a_row_that_does_not_know_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo.save("bert", tmp_path)
    layouts = tuple(replace(layout, down=None) if layout.name == "bert" else layout for layout in LAYOUTS)
    monkeypatch.setattr("bertprobe.anatomy.naming.LAYOUTS", layouts)
    with pytest.raises(UnsupportedFile, match="of the kind 'bert'"):
        opened(tmp_path)


def test_the_same_text_gives_the_same_numbers_whatever_ran_before(tmp_path: Path) -> None:
    """BigBird turns to full attention at the first short text; Reformer draws hashes."""
    zoo.save("big_bird", tmp_path / "b", attention_type="block_sparse", block_size=2, num_random_blocks=1)
    zoo.save("reformer", tmp_path / "r")
    for folder in ("b", "r"):
        loaded = opened(tmp_path / folder)
        long = ids_of("")
        first = loaded.run(long).last_hidden_state
        loaded.run(long[:5])
        assert torch.equal(loaded.run(long).last_hidden_state, first)


# ------------------------------------------------------------------------------------------------ oddities


def test_albert_calls_one_layer_for_all_and_pools_after_tanh(tmp_path: Path) -> None:
    model = zoo.save("albert", tmp_path, num_hidden_layers=3)
    ids = ids_of("albert")
    hidden, records = recorded(opened(tmp_path), ids)
    assert [(record.part, record.call) for record in records] == [("intermediate.0", call) for call in range(3)]
    assert not torch.equal(records[0].after, records[1].after)
    bare = model.pooler(hidden.last_hidden_state[:1])[0]
    assert hidden.pooled is not None
    assert torch.allclose(hidden.pooled, torch.tanh(bare), atol=1e-6)
    assert not torch.allclose(hidden.pooled, bare, atol=1e-3)


def test_albert_groups_and_inner_layers_have_labels_of_their_own(tmp_path: Path) -> None:
    zoo.save("albert", tmp_path, num_hidden_layers=4, num_hidden_groups=2, inner_group_num=2)
    _, records = recorded(opened(tmp_path), ids_of("albert"))
    group = [("intermediate.0", 0), ("intermediate.1", 0), ("intermediate.0", 1), ("intermediate.1", 1)]
    other = [(f"group.1.{part}", call) for part, call in group]
    assert [(record.part, record.call) for record in records] == [*group, *other]


def test_big_bird_pools_after_tanh(tmp_path: Path) -> None:
    model = zoo.save("big_bird", tmp_path)
    hidden, _ = recorded(opened(tmp_path), ids_of("big_bird"))
    assert hidden.pooled is not None
    bare = model.pooler(hidden.last_hidden_state[:1])[0]
    assert torch.allclose(hidden.pooled, torch.tanh(bare), atol=1e-6)


def test_ibert_puts_out_tuples_and_records_are_tensors(tmp_path: Path) -> None:
    zoo.save("ibert", tmp_path)
    _, records = recorded(opened(tmp_path), ids_of("ibert"))
    assert {tuple(record.before.shape) for record in records} == {(LENGTH, zoo.INTERMEDIATE)}


def test_squeezebert_has_its_features_last(tmp_path: Path) -> None:
    zoo.save("squeezebert", tmp_path)
    _, records = recorded(opened(tmp_path), ids_of("squeezebert"))
    assert {tuple(values.shape) for record in records for values in (record.before, record.after)} == {
        (LENGTH, zoo.INTERMEDIATE)
    }


def test_mobilebert_has_several_blocks_a_layer_in_the_order_in_which_they_run(tmp_path: Path) -> None:
    zoo.save("mobilebert", tmp_path)
    _, records = recorded(opened(tmp_path), ids_of("mobilebert"))
    layer = [f"ffn.{number}.intermediate." for number in range(3)] + ["intermediate."]
    assert [record.part for record in records] == [f"{part}{number}" for number in range(2) for part in layer]


def test_modernbert_activates_the_first_half_of_a_fused_matrix(tmp_path: Path) -> None:
    model = zoo.save("modernbert", tmp_path)
    fused: list[Tensor] = []
    loaded = opened(tmp_path)
    handle = model.layers[0].mlp.Wi.register_forward_hook(lambda module, taken, given: fused.append(given[0]))
    _, records = recorded(loaded, ids_of("modernbert"))
    run(model, {"input_ids": torch.tensor([ids_of("modernbert")])})
    handle.remove()
    assert [record.part for record in records[:2]] == ["gate.0", "intermediate.0"]
    gate, up = fused[0].chunk(2, -1)
    assert torch.equal(records[0].before, gate)
    assert torch.equal(records[0].after, ACT2FN["gelu"](gate))
    assert torch.equal(records[1].before, up)


def test_gte_reads_its_fused_file_and_activates_the_second_half(tmp_path: Path) -> None:
    zoo.save("gte", tmp_path)
    _, records = recorded(opened(tmp_path), ids_of("gte"))
    assert [record.part for record in records] == ["gate.0", "intermediate.0", "gate.1", "intermediate.1"]


def test_files_of_gtes_first_authors_say_new(tmp_path: Path) -> None:
    zoo.save("gte", tmp_path)
    expected = opened(tmp_path).run(ids_of("gte")).last_hidden_state
    reconfigure(tmp_path, model_type="new", auto_map={"AutoModel": "modeling.NewModel"})
    assert torch.equal(opened(tmp_path).run(ids_of("gte")).last_hidden_state, expected)


@pytest.mark.parametrize("family", ["deberta", "deberta-v2"])
def test_deberta_pools_in_its_classifier_only(family: str, tmp_path: Path) -> None:
    base = zoo.save(family, tmp_path / "base")
    assert opened(tmp_path / "base").run(ids_of(family)).pooled is None
    name = type(base).__name__.replace("Model", "ForSequenceClassification")
    config = base.config
    config.pooler_hidden_act, config.pooler_dropout = "gelu", 0.0
    with torch.random.fork_rng(devices=[]):
        classifier = getattr(transformers, name)(config).eval()
    classifier.save_pretrained(tmp_path / "classifier")
    seen: list[Tensor] = []
    handle = classifier.pooler.register_forward_hook(lambda module, taken, given: seen.append(given[0]))
    run(classifier, {"input_ids": torch.tensor([ids_of(family)])})
    handle.remove()
    pooled = opened(tmp_path / "classifier").run(ids_of(family)).pooled
    assert pooled is not None
    assert torch.allclose(pooled, seen[0], atol=1e-6)


def test_esm_has_a_fixed_activation_and_renamed_norms(tmp_path: Path) -> None:
    zoo.save("esm", tmp_path)
    assert "hidden_act" not in json.loads((tmp_path / "config.json").read_text())
    assert any(name.endswith("LayerNorm.gamma") for name in open_checkpoint(str(tmp_path)).headers)
    _, records = recorded(opened(tmp_path), ids_of("esm"))
    assert torch.allclose(ACT2FN["gelu"](records[0].before), records[0].after, atol=1e-6)


def test_chunks_are_undone_and_change_nothing(tmp_path: Path) -> None:
    model = zoo.save("bert", tmp_path, chunk_size_feed_forward=3)
    ids = ids_of("bert")
    hidden, records = recorded(opened(tmp_path), ids)
    assert [(record.part, record.call) for record in records] == [("intermediate.0", 0), ("intermediate.1", 0)]
    expected = run(model, {"input_ids": torch.tensor([ids])}).last_hidden_state[0]
    assert torch.allclose(hidden.last_hidden_state, expected, atol=1e-5)


def test_settings_that_ask_for_more_output_leave_no_hooks(tmp_path: Path) -> None:
    zoo.save("bert", tmp_path)
    expected = opened(tmp_path).run(ids_of("bert")).last_hidden_state
    reconfigure(tmp_path, output_hidden_states=True, output_attentions=True, return_dict=False)
    loaded = opened(tmp_path)
    before = hooks_on(loaded.model)
    assert torch.equal(loaded.run(ids_of("bert")).last_hidden_state, expected)
    assert hooks_on(loaded.model) == before


def test_distilbert_has_no_pooler(tmp_path: Path) -> None:
    zoo.save("distilbert", tmp_path)
    hidden, records = recorded(opened(tmp_path), ids_of("distilbert"), [0] * LENGTH)
    assert hidden.pooled is None
    assert [record.part for record in records] == ["intermediate.0", "intermediate.1"]


def test_rows_of_canine_and_funnel_are_positions(tmp_path: Path) -> None:
    for family in ("canine", "funnel"):
        zoo.save(family, tmp_path / family)
        hidden, records = recorded(opened(tmp_path / family), ids_of(family))
        assert hidden.positions_not_tokens
        assert len({len(record.after) for record in records}) > 1


def test_funnel_without_a_decoder_is_the_base_model(tmp_path: Path) -> None:
    config = zoo.build("funnel").config
    with torch.random.fork_rng(devices=[]):
        model = transformers.FunnelBaseModel(config).eval()
    model.save_pretrained(tmp_path)
    ids = ids_of("funnel")
    hidden = opened(tmp_path).run(ids)
    assert torch.equal(hidden.last_hidden_state, run(model, {"input_ids": torch.tensor([ids])}).last_hidden_state[0])


@pytest.mark.parametrize("name", ["DPRQuestionEncoder", "DPRContextEncoder", "DPRReader"])
def test_dpr_shows_the_hidden_states_it_keeps_back(name: str, tmp_path: Path) -> None:
    config = zoo.build("dpr").config
    with torch.random.fork_rng(devices=[]):
        model = getattr(transformers, name)(config).eval()
    model.save_pretrained(tmp_path)
    ids = ids_of("dpr")
    hidden, records = recorded(opened(tmp_path), ids)
    output = run(model, {"input_ids": torch.tensor([ids]), "output_hidden_states": True})
    assert torch.equal(hidden.last_hidden_state, output.hidden_states[-1][0])
    assert [record.part for record in records] == ["intermediate.0", "intermediate.1"]
    if name != "DPRReader":
        assert hidden.pooled is not None
        assert torch.equal(hidden.pooled, output.pooler_output[0])


def test_of_t5_the_encoder_is_run(tmp_path: Path) -> None:
    config = zoo.build("t5", feed_forward_proj="gated-gelu").config
    config.decoder_start_token_id = 0
    with torch.random.fork_rng(devices=[]):
        model = transformers.T5ForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path)
    ids = ids_of("t5")
    hidden, records = recorded(opened(tmp_path), ids)
    expected = run(model.encoder, {"input_ids": torch.tensor([ids])}).last_hidden_state[0]
    assert torch.equal(hidden.last_hidden_state, expected)
    assert [record.part for record in records] == ["gate.0", "intermediate.0", "gate.1", "intermediate.1"]


def test_the_text_tower_of_clip_is_run(tmp_path: Path) -> None:
    text, vision = zoo.build("clip_text_model").config.to_dict(), {"hidden_size": 32, "intermediate_size": 40}
    vision |= {"num_hidden_layers": 1, "num_attention_heads": 4, "image_size": 8, "patch_size": 4}
    with torch.random.fork_rng(devices=[]):
        model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision)).eval()
    model.save_pretrained(tmp_path)
    ids = ids_of("clip_text_model")
    expected = run(model.text_model, {"input_ids": torch.tensor([ids])}).last_hidden_state[0]
    assert torch.equal(opened(tmp_path).run(ids).last_hidden_state, expected)


def test_a_decoder_runs_as_transformers_runs_it(tmp_path: Path) -> None:
    model = zoo.save("bert", tmp_path, is_decoder=True)
    ids = ids_of("bert")
    expected = run(model, {"input_ids": torch.tensor([ids])}).last_hidden_state[0]
    assert torch.equal(opened(tmp_path).run(ids).last_hidden_state, expected)


def test_segments_are_handed_on(tmp_path: Path) -> None:
    model = zoo.save("bert", tmp_path)
    ids, segments = ids_of("bert"), [0] * 10 + [1] * (LENGTH - 10)
    inputs = {"input_ids": torch.tensor([ids]), "token_type_ids": torch.tensor([segments])}
    expected = run(model, inputs).last_hidden_state[0]
    assert torch.equal(opened(tmp_path).run(ids, segments).last_hidden_state, expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_dtype_is_the_one_asked_for_not_the_configs(dtype: str, tmp_path: Path) -> None:
    zoo.save("bert", tmp_path)
    reconfigure(tmp_path, dtype="float16", torch_dtype="float16")
    hidden, records = recorded(opened(tmp_path, dtype=dtype), ids_of("bert"))
    assert {str(hidden.last_hidden_state.dtype), str(records[0].after.dtype)} == {f"torch.{dtype}"}


# ------------------------------------------------------------------------------------------------ no invented weight


@pytest.mark.parametrize(
    ("family", "stored", "named"),
    [
        ("bert", "encoder.layer.1.attention.self.query.bias", None),
        ("bert", "embeddings.token_type_embeddings.weight", None),
        ("bert", "pooler.dense.bias", None),
        ("modernbert", "layers.1.attn.Wqkv.weight", None),
        ("t5", "shared.weight", None),
        ("gte", "encoder.layer.0.attention.o_proj.bias", "layers.0.self_attn.o_proj.bias"),
        ("nomic_bert", "emb_ln.weight", "embeddings.LayerNorm.weight"),
    ],
)
def test_a_tensor_left_out_is_refused_by_name(family: str, stored: str, named: str | None, tmp_path: Path) -> None:
    zoo.save(family, tmp_path)
    rewrite(tmp_path, lambda tensors: {key: value for key, value in tensors.items() if key != stored})
    with pytest.raises(PartMissing, match=f"has no {re.escape(named or stored)}; fetch it again"):
        opened(tmp_path)


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_no_family_runs_on_a_file_with_a_hole(family: str, tmp_path: Path) -> None:
    zoo.save(family, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    left_out = sorted(tensors)[len(tensors) // 3]
    rewrite(tmp_path, lambda tensors: {key: value for key, value in tensors.items() if key != left_out})
    with pytest.raises(PartMissing):
        opened(tmp_path)


@pytest.mark.parametrize("family", ["bert", "albert", "squeezebert", "layoutlm", "canine", "clap_text_model"])
def test_without_a_pooler_nothing_is_pooled(family: str, tmp_path: Path) -> None:
    zoo.save(family, tmp_path)
    expected = opened(tmp_path).run(ids_of(family))
    rewrite(tmp_path, lambda tensors: {key: value for key, value in tensors.items() if not key.startswith("pooler.")})
    loaded = opened(tmp_path)
    hidden = loaded.run(ids_of(family))
    assert expected.pooled is not None
    assert hidden.pooled is None
    assert torch.equal(hidden.last_hidden_state, expected.last_hidden_state)
    state = loaded.model.state_dict()
    assert all(value.isnan().all() for name, value in state.items() if name.startswith("pooler."))


def test_every_single_tensor_of_a_bert_is_needed(tmp_path: Path) -> None:
    zoo.save("bert", tmp_path / "whole", num_hidden_layers=1)
    tensors = load_file(tmp_path / "whole" / "model.safetensors")
    for left_out in tensors:
        folder = tmp_path / left_out
        folder.mkdir()
        (folder / "config.json").write_text((tmp_path / "whole" / "config.json").read_text())
        save_file({name: value for name, value in tensors.items() if name != left_out}, folder / "model.safetensors")
        with pytest.raises(BertprobeError):
            opened(folder)


def test_a_weight_that_is_not_the_stored_one_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if transformers had put the halves of a fused matrix the wrong way round."""
    zoo.save("gte", tmp_path)
    build = transformers_model._build

    def spoiled(*given: Any) -> Any:
        model, missing = build(*given)
        mlp = model.layers[1].mlp
        mlp.up_proj.weight, mlp.gate_proj.weight = mlp.gate_proj.weight, mlp.up_proj.weight
        return model, missing

    monkeypatch.setattr(transformers_model, "_build", spoiled)
    with pytest.raises(UnsupportedFile, match=r"does not load gate\.1 as it is stored"):
        opened(tmp_path)


def test_layers_that_the_config_leaves_out_are_not_left_out(tmp_path: Path) -> None:
    zoo.save("mpnet", tmp_path)
    reconfigure(tmp_path, num_hidden_layers=1)
    with pytest.raises(UnsupportedFile, match=r"holds intermediate\.1, which its config\.json leaves out"):
        opened(tmp_path)


def test_a_bias_that_the_config_leaves_out_is_not_left_out(tmp_path: Path) -> None:
    zoo.save("modernbert", tmp_path)
    rewrite(tmp_path, lambda tensors: {**tensors, "layers.0.mlp.Wi.bias": torch.zeros(2 * zoo.INTERMEDIATE)})
    with pytest.raises(UnsupportedFile, match=r"holds layers\.0\.mlp\.Wi\.bias.*, which its config\.json leaves out"):
        opened(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.0])
def test_a_weight_is_loaded_whatever_number_it_is(value: float, tmp_path: Path) -> None:
    """NaN is not equal to itself; what is compared is bits."""
    zoo.save("bert", tmp_path)

    def spoil(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tensors["encoder.layer.0.intermediate.dense.weight"][1, 2] = value
        return tensors

    rewrite(tmp_path, spoil)
    loaded = opened(tmp_path)
    weight = loaded.model.state_dict()["encoder.layer.0.intermediate.dense.weight"]
    assert np.array_equal(weight[1, 2].numpy(), np.float32(value), equal_nan=True)
    assert loaded.nonfinite == (() if np.isfinite(value) else ("encoder.layer.0.intermediate.dense.weight",))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "no_such_family"}, "transformers has no model"),
        ({"intermediate_size": "40"}, "gives intermediate_size as '40', which is not a whole number"),
        ({"intermediate_size": 44}, "transformers cannot build"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized"),
        ({"max_position_embeddings": 10**8}, r"asks for a model of 3,4\d\d,\d{3},\d{3} numbers, and there"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    zoo.save("bert", tmp_path)
    reconfigure(tmp_path, **changes)
    with pytest.raises(UnsupportedFile, match=said):
        opened(tmp_path)


def test_more_layers_than_tensors_are_not_built(tmp_path: Path) -> None:
    zoo.save("bert", tmp_path / "bert")
    reconfigure(tmp_path / "bert", num_hidden_layers=1999)
    with pytest.raises(PartMissing, match=r"num_hidden_layers in .* is 1,999, and there are 39 tensors in all"):
        opened(tmp_path / "bert")
    zoo.save("albert", tmp_path / "albert", num_hidden_layers=100)  # one layer, a hundred times
    _, records = recorded(opened(tmp_path / "albert"), ids_of("albert"))
    assert len(records) == 100


def test_without_a_config_nothing_runs(tmp_path: Path) -> None:
    zoo.save("bert", tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UnsupportedFile, match=r"no config\.json"):
        opened(tmp_path)


def test_a_config_without_model_type_is_plainly_bert(tmp_path: Path) -> None:
    zoo.save("bert", tmp_path)
    expected = opened(tmp_path).run(ids_of("bert"))
    reconfigure(tmp_path, model_type=None)
    assert torch.equal(opened(tmp_path).run(ids_of("bert")).last_hidden_state, expected.last_hidden_state)


def prefixed(prefix: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {prefix + name: value for name, value in tensors.items()}


@pytest.mark.parametrize("prefix", ["bert.", "module.", "module.bert.", "0.auto_model.", "_orig_mod.bert."])
def test_a_prefix_changes_no_number(prefix: str, tmp_path: Path) -> None:
    """transformers itself loads a random model where it does not know the prefix, and says so in a log line at most."""
    zoo.save("bert", tmp_path)
    expected = opened(tmp_path).run(ids_of("bert"))
    rewrite(tmp_path, prefixed(prefix))
    found = opened(tmp_path).run(ids_of("bert"))
    assert torch.equal(found.last_hidden_state, expected.last_hidden_state)
    assert same(found.pooled, expected.pooled)


@pytest.mark.parametrize(
    ("family", "prefix"),
    [
        ("dpr", "module."),
        ("distilbert", "module.distilbert."),
        ("modernbert", "model."),
        ("nomic_bert", "nomic_bert."),
        ("gte", "new."),
        ("jina_embeddings_v3", "roberta."),
        ("ultrabert", "module.model."),
        ("esm", "esm."),
        ("squeezebert", "transformer."),
        ("albert", "0.auto_model."),
    ],
)
def test_a_prefix_changes_no_number_of_other_families(family: str, prefix: str, tmp_path: Path) -> None:
    zoo.save(family, tmp_path)
    expected = opened(tmp_path).run(ids_of(family)).last_hidden_state
    rewrite(tmp_path, prefixed(prefix))
    assert torch.equal(opened(tmp_path).run(ids_of(family)).last_hidden_state, expected)


def test_a_nested_state_dict_changes_no_number(tmp_path: Path) -> None:
    model = zoo.save("bert", tmp_path)
    expected = opened(tmp_path).run(ids_of("bert")).last_hidden_state
    (tmp_path / "model.safetensors").unlink()
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, tmp_path / "pytorch_model.bin")
    assert torch.equal(opened(tmp_path).run(ids_of("bert")).last_hidden_state, expected)


def test_gamma_and_beta_change_no_number(tmp_path: Path) -> None:
    zoo.save("bert", tmp_path)
    expected = opened(tmp_path).run(ids_of("bert")).last_hidden_state
    old = (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))

    def respelled(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name.replace(*old[0]).replace(*old[1]): value for name, value in tensors.items()}

    rewrite(tmp_path, respelled)
    assert torch.equal(opened(tmp_path).run(ids_of("bert")).last_hidden_state, expected)


def test_real_files_of_several_ages_run(shared_checkpoints: Path) -> None:
    for folder in ("camphr-bert-test", "camphr-ner_bert", "coldfire-tiny-bert"):
        hidden, records = recorded(opened(shared_checkpoints / folder), [2, 5, 6, 3])
        assert bool(hidden.last_hidden_state.isfinite().all())
        assert len(records) == len(find_parts(open_checkpoint(str(shared_checkpoints / folder))).of("intermediate"))


# ------------------------------------------------------------------------------------------------ manners


def test_hooks_are_gone_afterwards_also_when_the_tap_or_the_model_raises(tmp_path: Path) -> None:
    zoo.save("dpr", tmp_path / "dpr")
    zoo.save("modernbert", tmp_path / "modernbert")

    def tap(record: Record) -> None:
        raise ValueError(record.part)

    for family, part in (("dpr", "intermediate.0"), ("modernbert", "gate.0")):
        loaded = opened(tmp_path / family)
        before = hooks_on(loaded.model)
        recorded(loaded, ids_of(family))
        with pytest.raises(ValueError, match=part):
            loaded.run(ids_of(family), on_record=tap)
        with pytest.raises(UnsupportedFile, match="could not be run on this input"):
            loaded.run([10**6], on_record=tap)
        assert hooks_on(loaded.model) == before


@pytest.mark.parametrize("family", ["bert", "big_bird", "reformer", "clap_text_model"])
def test_nothing_borrowed_is_kept(family: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = {"attention_type": "block_sparse", "block_size": 2} if family == "big_bird" else {}
    zoo.save(family, tmp_path, **options)
    rewrite(tmp_path, lambda tensors: {**tensors, "extra.weight": torch.zeros(2)})

    def bar(*_: Any) -> None:
        raise AssertionError("a progress bar was drawn")

    library = transformers.utils.logging
    level = library.get_verbosity()
    library.set_verbosity(logging.INFO)
    said: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    library.add_handler(listener)
    capfd.readouterr()
    try:
        drawn, legacy, grad = torch.random.get_rng_state(), np.random.get_state()[1], torch.is_grad_enabled()
        hook = library.set_tqdm_hook(bar)
        loaded = opened(tmp_path)
        loaded.run(ids_of(family))
        loaded.run(ids_of(family)[:5])
        assert capfd.readouterr() == ("", "")
        assert said == []
        assert library.get_verbosity() == logging.INFO
        assert library.set_tqdm_hook(hook) is bar
        assert torch.equal(torch.random.get_rng_state(), drawn)
        assert np.array_equal(np.random.get_state()[1], legacy)
        assert torch.is_grad_enabled() == grad
    finally:
        library.remove_handler(listener)
        library.set_verbosity(level)


def test_the_network_is_never_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_checkpoints: Path) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    zoo.save("bert", tmp_path)
    reconfigure(tmp_path, auto_map={"AutoModel": "someone/else--modeling.Model"})
    opened(tmp_path).run(ids_of("bert"))
    tokenizer(open_checkpoint(str(shared_checkpoints / "coldfire-tiny-bert")))


def test_importing_the_room_loads_neither_torch_nor_transformers() -> None:
    code = "import sys, bertprobe.transformers_model; print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# ------------------------------------------------------------------------------------------------ the tokenizer


@pytest.mark.parametrize("folder", ["camphr-bert-test", "coldfire-tiny-bert"])
def test_the_tokenizer_is_transformers_own(folder: str, shared_checkpoints: Path) -> None:
    path = shared_checkpoints / folder
    ours, theirs = tokenizer(open_checkpoint(str(path))), transformers.AutoTokenizer.from_pretrained(path)
    for text, pair in (("Hello, world!", None), ("one text", "and another"), ("", None)):
        found, expected = ours.encode(text, pair), theirs(text, pair)
        assert found.ids.tolist() == expected["input_ids"]
        assert found.segments.tolist() == expected.get("token_type_ids", [0] * len(found))
        assert list(found.tokens) == theirs.convert_ids_to_tokens(expected["input_ids"])
        assert found.truncated == 0
    assert ours.vocab_size == max(theirs.get_vocab().values()) + 1
    assert type(theirs).__name__ in ours.name


def test_a_text_is_cut_to_what_is_asked_for(shared_checkpoints: Path) -> None:
    ours = tokenizer(open_checkpoint(str(shared_checkpoints / "coldfire-tiny-bert")))
    whole, cut = ours.encode("word " * 50), ours.encode("word " * 50, longest=10)
    assert (len(cut), cut.truncated) == (10, len(whole) - 10)
    assert cut.ids[:9].tolist() == whole.ids[:9].tolist()
    assert cut.ids[-1] == whole.ids[-1]
    with pytest.raises(BertprobeError, match="no room for the special tokens"):
        ours.encode("word", longest=1)
    assert [len(one) for one in ours.encode_many(["a b", ("a", "b")])] == [4, 5]


def test_a_folder_without_tokenizer_files_has_no_tokenizer(tmp_path: Path) -> None:
    zoo.save("bert", tmp_path)
    with pytest.raises(NotFound, match="has no tokenizer"):
        tokenizer(open_checkpoint(str(tmp_path)))


def test_canine_needs_no_tokenizer_files(tmp_path: Path) -> None:
    zoo.save("canine", tmp_path)
    found = tokenizer(open_checkpoint(str(tmp_path)))
    assert len(found.encode("four")) == 6
    assert found.vocab_size > 0x10FFFF
