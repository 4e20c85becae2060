"""Every rule: a checkpoint that has it, and one that does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run
from noise import FLAT, NOISE
from safetensors.numpy import load_file, save_file
from test_bad_input import BERT, lay, weights

import bertprobe
from bertprobe.anatomy import find_parts
from bertprobe.anatomy.poolers import never_pools
from bertprobe.checkpoint import open_checkpoint
from bertprobe.measurement import measure_parts
from bertprobe.verdicts import RULES, SEVERITIES, Evidence, Finding, Observation, Rule, ask, judge, verdict

Tensors = dict[str, np.ndarray[Any, Any]]
Change = Callable[[Tensors, dict[str, Any]], None]
UP = "bert.encoder.layer.{}.intermediate.dense.{}"
POOLER = "bert.pooler.dense.{}"


def evidence_of(folder: Path) -> Evidence:
    checkpoint = open_checkpoint(str(folder))
    anatomy = find_parts(checkpoint)
    return Evidence(checkpoint, anatomy, measure_parts(anatomy.parts))


@pytest.fixture
def changed(small_bert: Path, tmp_path: Path) -> Callable[[Change], Path]:
    """A copy of the small BERT whose matrices carry structure, then changed by a function of tensors and config."""

    def make(change: Change) -> Path:
        tensors = load_file(small_bert / "model.safetensors")
        config = json.loads((small_bert / "config.json").read_text())
        for name in [name for name in tensors if name.endswith(("intermediate.dense.weight", "pooler.dense.weight"))]:
            tensors[name] = structured(tensors[name])
        change(tensors, config)
        save_file(tensors, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    return make


def structured(noise: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Noise and a direction that stands out of it, as training leaves it; no row of outlying norm."""
    left, right = np.sign(noise[:, :1]), np.sign(noise[:1])
    return (noise + 0.01 * left * right).astype(np.float32)


def nothing(tensors: Tensors, config: dict[str, Any]) -> None:
    pass


def untrained_pooler(tensors: Tensors, config: dict[str, Any]) -> None:
    tensors[POOLER.format("weight")] = np.random.default_rng(0).normal(0, 0.02, (64, 64)).astype(np.float32)


def untrained_layer(tensors: Tensors, config: dict[str, Any]) -> None:
    tensors[UP.format(1, "weight")] = np.random.default_rng(0).normal(0, 0.02, (256, 64)).astype(np.float32)


def no_pooler(tensors: Tensors, config: dict[str, Any]) -> None:
    del tensors[POOLER.format("weight")], tensors[POOLER.format("bias")]
    config["architectures"] = ["BertForMaskedLM"]


def not_finite(tensors: Tensors, config: dict[str, Any]) -> None:
    tensors[UP.format(0, "weight")][3, 4] = np.nan
    tensors[UP.format(0, "weight")][5, 6] = np.inf


def zero_rows(tensors: Tensors, config: dict[str, Any]) -> None:
    tensors[UP.format(0, "weight")][[7, 9]] = 0


def constant(tensors: Tensors, config: dict[str, Any]) -> None:
    tensors[UP.format(0, "weight")][:] = 0.5


def outlier(tensors: Tensors, config: dict[str, Any]) -> None:
    tensors[UP.format(0, "weight")][11] *= 2


def wrong_config(tensors: Tensors, config: dict[str, Any]) -> None:
    config["intermediate_size"] = 300


def quoted_config(tensors: Tensors, config: dict[str, Any]) -> None:
    config["intermediate_size"] = "256"


def wrong_vocabulary(tensors: Tensors, config: dict[str, Any]) -> None:
    config["vocab_size"] = 51


def too_few_layers_promised(tensors: Tensors, config: dict[str, Any]) -> None:
    config["num_hidden_layers"] = 1


def lost_layer(tensors: Tensors, config: dict[str, Any]) -> None:
    for kind in ("weight", "bias"):
        del tensors[UP.format(1, kind)]


def lost_pooler_bias(tensors: Tensors, config: dict[str, Any]) -> None:
    del tensors[POOLER.format("bias")]


def lost_attention(tensors: Tensors, config: dict[str, Any]) -> None:
    for name in [name for name in tensors if ".layer.1.attention." in name]:
        del tensors[name]


def unequal_bias(tensors: Tensors, config: dict[str, Any]) -> None:
    tensors[UP.format(1, "bias")] = np.ones(77, np.float32)


def lost_bias(tensors: Tensors, config: dict[str, Any]) -> None:
    del tensors[UP.format(1, "bias")]


def wrapped_names(tensors: Tensors, config: dict[str, Any]) -> None:
    for name in list(tensors):
        tensors[f"module.{name}"] = tensors.pop(name)


def narrowed(tensors: Tensors, config: dict[str, Any]) -> None:
    config["dtype"] = "float16"


def relative(tensors: Tensors, config: dict[str, Any]) -> None:
    config["position_embedding_type"] = "relative_key"


def twice(tensors: Tensors, config: dict[str, Any]) -> None:
    tensors["pooler.dense.weight"] = tensors[POOLER.format("weight")].copy()


def copied(tensors: Tensors, config: dict[str, Any]) -> None:
    tensors[UP.format(1, "weight")] = tensors[UP.format(0, "weight")].copy()


def flattened(tensors: Tensors, config: dict[str, Any]) -> None:
    u, _, v = np.linalg.svd(tensors[UP.format(1, "weight")], full_matrices=False)
    tensors[UP.format(1, "weight")] = (u @ v).astype(np.float32)


def codes(tensors: Tensors, config: dict[str, Any]) -> None:
    name = UP.format(1, "weight")
    tensors[name.replace("weight", "SCB")] = np.ones(len(tensors[name]), np.float32)
    tensors[name] = (tensors[name] * 500).astype(np.int8)


CASES: list[tuple[Change, str, str | None]] = [
    (untrained_pooler, "pooler-untrained", "pooler"),
    (untrained_layer, "intermediate-untrained", "intermediate.1"),
    (no_pooler, "pooler-absent", "pooler"),
    (not_finite, "not-finite", "intermediate.0"),
    (zero_rows, "zero-neurons", "intermediate.0"),
    (constant, "constant-weights", "intermediate.0"),
    (outlier, "outlier-neurons", "intermediate.0"),
    (wrong_config, "shape-mismatch", "intermediate.0"),
    (quoted_config, "config-invalid", None),
    (wrong_vocabulary, "shape-mismatch", None),
    (too_few_layers_promised, "shape-mismatch", None),
    (lost_layer, "layers-missing", None),
    (lost_bias, "layers-missing", "intermediate.1"),
    (lost_pooler_bias, "layers-missing", "pooler"),
    (lost_attention, "layers-missing", "intermediate.1"),
    (unequal_bias, "shape-mismatch", "intermediate.1"),
    (wrapped_names, "prefix-not-stripped", None),
    (narrowed, "dtype-narrowed", None),
    (relative, "relative-positions", None),
    (twice, "duplicate-tensors", None),
    (copied, "duplicate-tensors", "intermediate.1"),
    (codes, "quantised", None),
    (flattened, "verdict-withheld", "intermediate.1"),
]


def test_a_sound_checkpoint_has_no_findings(changed: Callable[[Change], Path]) -> None:
    evidence = evidence_of(changed(nothing))
    assert judge(evidence) == ()
    assert {verdict(evidence, part) for part in evidence.anatomy.parts} == {"trained"}


@pytest.mark.parametrize(("change", "rule", "part"), CASES, ids=[case[0].__name__ for case in CASES])
def test_a_fault_is_found_and_no_other(
    change: Change, rule: str, part: str | None, changed: Callable[[Change], Path]
) -> None:
    found = judge(evidence_of(changed(change)))
    assert {finding.rule for finding in found} == {rule}
    assert part in {finding.part for finding in found}
    severity = {row.name: row.severity for row in RULES}[rule]
    for finding in found:
        assert finding.severity == severity
        assert finding.evidence
        assert finding.hint
        json.dumps(dict(finding.evidence))


def test_a_finding_is_named_by_its_row_and_a_case_may_be_worse() -> None:
    def look(count: int) -> list[Observation]:
        return [Observation(None, "bad", {}, "mend"), *[Observation("pooler", "worse", {}, "mend", "error")] * count]

    found = ask([Rule("one", "note", "", look), Rule("other", "warning", "", look)], 1)
    assert [(f.rule, f.severity) for f in found] == [
        ("one", "error"), ("other", "error"), ("other", "warning"), ("one", "note"),
    ]  # fmt: skip
    assert len(ask([Rule("one", "note", "", look)], 500)) == 101


def test_every_rule_has_a_case() -> None:
    # In test_tensorflow, test_quantised, test_fingerprint, and the tests of formats that are quantised.
    elsewhere = {
        "pooler-unused",
        "not-loaded-by-transformers",
        "unreadable",
        "all-zero",
        "dequantised",
        "file-truncated",
    }
    assert {rule for _, rule, _ in CASES} | elsewhere == {row.name for row in RULES}
    assert {row.severity for row in RULES} == set(SEVERITIES)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean tokens"),
        ({"pooling_mode_cls_token": True}, "cls token"),
        ({"pooling_mode": "lasttoken"}, "lasttoken"),
    ],
)
def test_pooler_unused_where_sentence_transformers_pools_otherwise(
    settings: dict[str, Any], words: str, changed: Callable[[Change], Path]
) -> None:
    folder = changed(nothing)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    (finding,) = judge(evidence_of(folder))
    assert (finding.rule, finding.severity) == ("pooler-unused", "note")
    assert words in finding.message


def test_all_minilm_ships_an_untrained_pooler_and_trained_layers(minilm: Path) -> None:
    evidence = evidence_of(minilm)
    words = {part.label: verdict(evidence, part) for part in evidence.anatomy.parts}
    assert words == {**{f"intermediate.{i}": "trained" for i in range(6)}, "pooler": "untrained"}
    found = {finding.rule: finding for finding in judge(evidence)}
    assert {"pooler-untrained", "pooler-unused"} <= set(found)
    assert found["pooler-untrained"].severity == "warning"
    assert found["pooler-untrained"].evidence["bias_all_zero"] is True
    assert not {finding.rule for finding in judge(evidence) if finding.severity == "error"}


@pytest.mark.parametrize(("side", "word"), [(64, "undecided"), (128, "probably untrained")])
def test_a_bias_that_is_not_zero_makes_it_probable_only(side: int, word: str, tmp_path: Path) -> None:
    """Below a side of 128 the ratio alone accuses too many trained matrices."""
    weight = np.random.default_rng(0).normal(0, 0.02, (side, side)).astype(np.float32)
    bias = np.full(side, 0.1, np.float32)
    save_file({"pooler.dense.weight": weight, "pooler.dense.bias": bias}, tmp_path / "pooler.safetensors")
    evidence = evidence_of(tmp_path)
    (part,) = evidence.anatomy.parts
    assert verdict(evidence, part) == word
    assert {finding.rule for finding in judge(evidence)} == ({"pooler-untrained"} if side == 128 else set())


def word_on(weight: Any, folder: Path) -> tuple[str | None, set[str]]:
    """The verdict on a pooler with a bias of zeros, and the rules that speak."""
    tensors = {"pooler.dense.weight": weight.astype(np.float32), "pooler.dense.bias": np.zeros(len(weight), np.float32)}
    save_file(tensors, folder / "pooler.safetensors")
    evidence = evidence_of(folder)
    return verdict(evidence, evidence.anatomy.parts[0]), {finding.rule for finding in judge(evidence)}


@pytest.mark.parametrize("side", [64, 128, 384])
@pytest.mark.parametrize("kind", NOISE)
def test_noise_of_several_scales_is_never_called_trained(kind: str, side: int, tmp_path: Path) -> None:
    for seed in range(6):
        word, rules = word_on(NOISE[kind](np.random.default_rng(seed), side), tmp_path)
        assert word in ("untrained", "cannot tell"), (seed, word)
        assert rules - {"zero-neurons"} == {"pooler-untrained" if word == "untrained" else "verdict-withheld"}


@pytest.mark.parametrize("side", [64, 128, 384])
@pytest.mark.parametrize("kind", FLAT)
def test_a_flat_spectrum_is_not_that_of_random_numbers(kind: str, side: int, tmp_path: Path) -> None:
    word, rules = word_on(FLAT[kind](np.random.default_rng(0), side), tmp_path)
    assert (word, rules) == ("flattened", {"verdict-withheld"})


@pytest.mark.parametrize("how", ["int4", "rows scaled", "90 % pruned", "rows normalised", "signs"])
def test_what_was_trained_stays_so_whatever_is_done_to_it(how: str, tmp_path: Path) -> None:
    weight = bertprobe.open().pooler.weight.astype(np.float64)
    step = np.abs(weight).max() / 7
    changed = {
        "int4": np.round(weight / step) * step,
        "rows scaled": weight * np.exp(0.5 * np.random.default_rng(0).standard_normal((len(weight), 1))),
        "90 % pruned": weight * (np.abs(weight) > np.quantile(np.abs(weight), 0.9)),
        "rows normalised": weight / np.linalg.norm(weight, axis=1, keepdims=True),
        "signs": np.sign(weight),
    }[how]
    assert word_on(changed, tmp_path)[0] == "trained"


def test_small_matrices_get_no_verdict(tiny_bert: Path) -> None:
    evidence = evidence_of(tiny_bert)
    assert {verdict(evidence, part) for part in evidence.anatomy.parts} == {"too small to tell"}
    assert judge(evidence) == ()


REASONS = {
    "BertForMaskedLM": "BertForMaskedLM, which saved it",
    "BertForTokenClassification": "BertForTokenClassification, which saved it",
    "BertForQuestionAnswering": "BertForQuestionAnswering, which saved it",
    "BertLMHeadModel": "BertLMHeadModel, which saved it",
}


@pytest.mark.parametrize("name", REASONS)
def test_an_absent_pooler_says_why(name: str, tmp_path: Path, run: Any) -> None:
    """Each class that saves no pooler, saved by transformers itself."""
    import transformers

    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, is_decoder=False
    )
    getattr(transformers, name)(config).save_pretrained(tmp_path)
    (finding,) = [f for f in judge(evidence_of(tmp_path)) if f.rule == "pooler-absent"]
    assert REASONS[name] in finding.message
    refused = run(["export", tmp_path, "-o", tmp_path / "pooler.safetensors"])
    assert refused.code == 1
    assert REASONS[name] in refused.err
    assert not (tmp_path / "pooler.safetensors").exists()


def test_the_families_without_a_pooler_are_those_whose_class_has_none(tmp_path: Path) -> None:
    import zoo

    for family in zoo.FAMILIES:
        model = zoo.save(family, tmp_path / family)
        has = any("pool" in name.lower() for name, _ in model.named_modules())
        evidence = evidence_of(tmp_path / family)
        assert never_pools(evidence.anatomy) == (not has), family
        found = [f for f in judge(evidence) if f.rule == "pooler-absent"]
        assert bool(found) == (not has), family
        assert all("no tensor is named" not in f.message and "invent" not in f.hint for f in found), family


def test_a_family_that_never_pools_says_so(tmp_path: Path) -> None:
    import zoo

    zoo.save("distilbert", tmp_path)
    (finding,) = judge(evidence_of(tmp_path))
    assert "by design" in finding.message


def test_heads_tell_where_no_config_does(tmp_path: Path) -> None:
    save_file(
        {
            "bert.encoder.layer.0.intermediate.dense.weight": np.ones((4, 2), np.float32),
            "cls.predictions.bias": np.ones(3, np.float32),
        },
        tmp_path / "model.safetensors",
    )
    found = {finding.rule: finding for finding in judge(evidence_of(tmp_path))}
    assert "masked-language-model head" in found["pooler-absent"].message


def test_findings_are_sorted_by_severity(changed: Callable[[Change], Path]) -> None:
    def change(tensors: Tensors, config: dict[str, Any]) -> None:
        outlier(tensors, config)
        untrained_pooler(tensors, config)
        wrong_vocabulary(tensors, config)

    found: tuple[Finding, ...] = judge(evidence_of(changed(change)))
    assert [finding.severity for finding in found] == ["error", "warning", "note"]


def test_a_class_with_a_pooler_is_not_said_to_have_none(run: Run, tmp_path: Path) -> None:
    names = [name for name in BERT if not name.startswith("pooler")] + ["cls.predictions.bias"]
    lay(tmp_path, {"model.safetensors": weights(names), "config.json": {"architectures": ["BertForPreTraining"]}})
    shown = " ".join(run(["inspect", tmp_path, "--shapes"]).out.split())
    assert "BertForPreTraining, which its config names, has one, but it is not among the tensors" in shown
