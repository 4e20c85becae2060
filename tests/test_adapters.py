"""An adapter is described: what it is of, and how much it adds to each matrix, as the product itself has it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run
from hub import Hub
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file
from test_bad_input import refused
from test_fuzz import FUZZ, altered, mutated

import bertprobe
from bertprobe.adapters.settings import settings_of
from bertprobe.errors import IsAdapter

CONFIG: dict[str, Any] = {
    "base_model_name_or_path": "owner/base",
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 16,
    "target_modules": ["query", "intermediate.dense"],
}
WRAPPED = "base_model.model.bert.encoder.layer"
LABEL = "bert.encoder.layer.0.attention.self.query"


def factors(rank: int = 4, layers: int = 2) -> dict[str, Any]:
    draw = np.random.default_rng(1)
    found = {}
    for layer in range(layers):
        for path, rows in (("attention.self.query", 32), ("intermediate.dense", 80)):
            name = f"{WRAPPED}.{layer}.{path}"
            found[f"{name}.lora_A.weight"] = draw.normal(size=(rank, 32)).astype(np.float32)
            found[f"{name}.lora_B.weight"] = draw.normal(size=(rows, rank)).astype(np.float32)
    return found


def lora(folder: Path, tensors: Mapping[str, Any] | None = None, config: Any = CONFIG) -> Path:
    folder.mkdir()
    save_file(dict(factors() if tensors is None else tensors), folder / "adapter_model.safetensors")
    if config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def told(run: Run, *words: str | Path, code: int = 0) -> dict[str, Any]:
    ran = run(["inspect", *words, "--json"])
    assert ran.code == code, ran.err
    found: dict[str, Any] = json.loads(ran.out)
    return found


def rules(data: Mapping[str, Any]) -> dict[str, str]:
    return {finding["rule"]: finding["severity"] for finding in data["findings"]}


# ------------------------------------------------------------------------------------------------ what it adds

SCALED = {
    "alpha / r": ({}, 4.0),
    "alpha / √r": ({"use_rslora": True}, 8.0),
    "an alpha of its own": ({"alpha_pattern": {"query": 2, "intermediate.dense": 2}}, 0.5),
    "negative": ({"lora_alpha": -4}, -1.0),
    "none": ({"lora_alpha": None}, None),
    "by an expression": ({"alpha_pattern": {"(a+)+$": 2}}, None),
}


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize(("more", "scaling"), SCALED.values(), ids=SCALED)
def test_norms_are_those_of_the_product(more: Any, scaling: float | None, kind: Any, tmp_path: Path, run: Run) -> None:
    tensors = {name: values.astype(kind) for name, values in factors().items()}
    data = told(run, lora(tmp_path / "a", tensors, CONFIG | more))
    assert len(data["targets"]) == 4
    for target in data["targets"]:
        a, b = (tensors[target[which]["name"]].astype(np.float64) for which in ("a", "b"))
        change = (1 if scaling is None else scaling) * (b @ a)
        sigma = np.linalg.svd(change, compute_uv=False)
        assert target["scaling"] == scaling
        assert target["frobenius"] == pytest.approx(np.linalg.norm(change), rel=1e-9)
        assert target["sigma_max"] == pytest.approx(sigma[0], rel=1e-7)
        assert target["stable_rank"] == pytest.approx(np.sum(sigma**2) / sigma[0] ** 2, rel=1e-7)
        assert target["a_norm"] == pytest.approx(np.linalg.norm(a), rel=1e-9)
        assert target["b_norm"] == pytest.approx(np.linalg.norm(b), rel=1e-9)
        assert (target["verdict"], target["rank"]) == ("changes", 4)
    assert rules(data) == ({"adapter-values-unknown": "note"} if scaling is None else {})


def test_facts_are_told(tmp_path: Path, run: Run) -> None:
    whole = {"base_model.model.classifier.weight": np.ones((2, 32), np.float32)}
    folder = lora(tmp_path / "a", {**factors(), **whole}, {**CONFIG, "modules_to_save": ["classifier"]})
    data = told(run, folder)
    facts = data["facts"]
    assert (facts["base_model"], facts["method"], facts["rank"], facts["ranks"]) == ("owner/base", "LORA", 4, [4])
    assert (facts["alpha"], facts["scaling"], facts["rslora"], facts["dora"]) == (16, 4, False, False)
    assert facts["target_modules"] == ["attention.self.query", "intermediate.dense"]
    assert (facts["layers"], facts["modules_to_save"]) == ([0, 1], ["classifier"])
    assert facts["parameters"] == sum(values.size for values in {**factors(), **whole}.values())
    assert [tensor["name"] for tensor in data["whole"]] == list(whole)
    ran = run(["inspect", folder])
    words = " ".join(ran.out.split())
    for part in ("base model owner/base", "LORA, rank 4, alpha 16, scaling 4.000", "layers 0-1", "classifier"):
        assert part in words
    for format in ("markdown", "csv", "github", "table"):
        assert run(["inspect", folder, "--format", format]).code == 0
    assert LABEL in run(["inspect", folder, "--format", "csv"]).out
    assert told(run, folder / "adapter_model.safetensors")["targets"] == data["targets"]


def test_headers_alone_are_read_of_shapes(tmp_path: Path, run: Run) -> None:
    data = told(run, lora(tmp_path / "a"), "--shapes")
    assert {target["frobenius"] for target in data["targets"]} == {None}
    assert data["targets"][0]["a"]["shape"] == [4, 32]


def test_a_pickle_of_one_is_read(tmp_path: Path, run: Run) -> None:
    folder = lora(tmp_path / "a")
    state = {name: torch.from_numpy(values) for name, values in factors().items()}
    expected = told(run, folder)["targets"]
    (folder / "adapter_model.safetensors").unlink()
    torch.save(state, folder / "adapter_model.bin")
    assert told(run, folder)["targets"] == expected
    assert told(run, folder / "adapter_model.bin")["facts"]["storage"] == "PyTorch"


SPELLINGS = {
    "default": ("lora_A.default.weight", "lora_B.default.weight", ""),
    "another": ("lora_A.french.weight", "lora_B.french.weight", " (french)"),
    "loralib": ("lora_A", "lora_B", ""),
    "embedding": ("lora_embedding_A", "lora_embedding_B", ""),
    "up and down": ("lora_down.weight", "lora_up.weight", ""),
}


@pytest.mark.parametrize(("a", "b", "more"), SPELLINGS.values(), ids=SPELLINGS)
def test_other_spellings_are_read(a: str, b: str, more: str, tmp_path: Path, run: Run) -> None:
    spelled = {
        name.replace("lora_A.weight", a).replace("lora_B.weight", b): values for name, values in factors().items()
    }
    data = told(run, lora(tmp_path / "a", spelled))
    assert data["targets"][0]["label"] == LABEL + more
    assert {target["verdict"] for target in data["targets"]} == {"changes"}


def test_one_under_another_name_is_told_by_its_tensors(tmp_path: Path, run: Run) -> None:
    save_file(factors(), tmp_path / "mine.safetensors")
    data = told(run, tmp_path / "mine.safetensors")
    assert len(data["targets"]) == 4
    assert rules(data) == {"adapter-values-unknown": "note", "adapter-base-unnamed": "note"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    assert not rules(told(run, tmp_path / "mine.safetensors"))


def test_on_the_hub_it_is_described(hub: Hub, run: Run) -> None:
    commit = hub.add(
        "owner/lora", {"adapter_model.safetensors": save(factors()), "adapter_config.json": json.dumps(CONFIG).encode()}
    )
    data = told(run, "owner/lora")
    assert data["facts"]["revision"] == commit
    assert len(data["targets"]) == 4


# ------------------------------------------------------------------------------------------------ what is found


def test_one_that_was_never_trained_is_told(tmp_path: Path, run: Run) -> None:
    tensors = {name: values * ("lora_A" in name) for name, values in factors().items()}
    data = told(run, lora(tmp_path / "a", tensors))
    assert rules(data) == {"adapter-untrained": "warning"}
    assert "the adapter changes nothing" in data["findings"][0]["message"]
    assert {(t["verdict"], t["frobenius"], t["sigma_max"]) for t in data["targets"]} == {("no change", 0, 0)}
    told(run, tmp_path / "a", "--strict", code=3)
    tensors[f"{WRAPPED}.0.attention.self.query.lora_B.weight"] += 1
    (finding,) = told(run, lora(tmp_path / "b", tensors))["findings"]
    assert finding["message"].startswith("3 targets change nothing")


def changed(name: str, values: Any) -> dict[str, Any]:
    found = factors()
    if values is None:
        del found[name]
    else:
        found[name] = values
    return found


A, B = (f"{WRAPPED}.0.attention.self.query.lora_{which}.weight" for which in "AB")
ODD: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, str]]] = {
    "NaN": (changed(A, np.full((4, 32), np.nan, np.float32)), {}, {"adapter-not-finite": "error"}),
    "infinite": (changed(B, np.full((32, 4), np.inf, np.float32)), {}, {"adapter-not-finite": "error"}),
    "no A": (changed(A, None), {}, {"adapter-incomplete": "error"}),
    "no B": (changed(B, None), {}, {"adapter-incomplete": "error"}),
    "no product": (changed(B, np.ones((32, 5), np.float32)), {}, {"adapter-incomplete": "error"}),
    "another rank": (factors(), {"r": 8}, {"adapter-rank": "error"}),
    "a rank of its own": (factors(), {"r": 8, "rank_pattern": {"query": 4, "intermediate.dense": 4}}, {}),
    "a target more": (factors(), {"target_modules": ["query", "pooler.dense"]}, {"adapter-target-missing": "warning"}),
    "all linear": (factors(), {"target_modules": "all-linear"}, {}),
    "DoRA": (factors(), {"use_dora": True}, {"adapter-values-unknown": "note"}),
    "DoRA by its tensors": (
        {**factors(), f"{WRAPPED}.0.attention.self.query.lora_magnitude_vector": np.ones(32, np.float32)},
        {},
        {"adapter-values-unknown": "note"},
    ),
    "PiSSA": (factors(), {"init_lora_weights": "pissa_niter_4"}, {"adapter-values-unknown": "note"}),
    "AdaLoRA": (factors(6), {"peft_type": "ADALORA"}, {"adapter-values-unknown": "note"}),
    "no base": (factors(), {"base_model_name_or_path": None}, {"adapter-base-unnamed": "note"}),
    "a path": (factors(), {"base_model_name_or_path": "/home/me/model"}, {"adapter-base-unnamed": "note"}),
    "IA3": (
        {f"{WRAPPED}.0.attention.self.key.ia3_l": np.ones((32, 1), np.float32)},
        {"peft_type": "IA3"},
        {"adapter-values-unknown": "note"},
    ),
    "a prefix": (
        {"prompt_embeddings": np.ones((4, 64), np.float32)},
        {"peft_type": "PREFIX_TUNING", "target_modules": None},
        {"adapter-values-unknown": "note"},
    ),
    "convolutions": (changed(A, np.ones((4, 3, 3, 3), np.float32)), {}, {}),
}


@pytest.mark.parametrize(("tensors", "more", "expected"), ODD.values(), ids=ODD)
def test_what_is_odd_is_found(tensors: Any, more: Any, expected: Any, tmp_path: Path, run: Run) -> None:
    folder = lora(tmp_path / "a", tensors, CONFIG | more)
    data = told(run, folder)
    assert rules(data) == expected
    assert run(["inspect", folder]).code == 0
    if more.get("peft_type"):
        assert not any(target["frobenius"] for target in data["targets"])
        assert data["facts"]["scaling"] is None


def test_settings_that_cannot_be_count_as_not_said() -> None:
    odd = {"r": "8", "lora_alpha": float("nan"), "use_rslora": 1, "peft_type": ["LORA"], "target_modules": [3], "x": {}}
    found = settings_of(odd)
    assert (found.rank, found.alpha, found.method, found.targets) == (None, None, None, None)
    assert not found.plain
    assert set(found.faults) == set(odd) - {"x"}
    assert settings_of({}) == settings_of({"r": None})


# ------------------------------------------------------------------------------------------------ everything else


@pytest.mark.parametrize(
    "words",
    [
        ["pool", "A text.", "-m", "MODEL"],
        ["export", "MODEL", "-o", "x.safetensors"],
        ["diff", "MODEL", "pocket"],
        ["verify", "A text.", "-m", "MODEL"],
        ["explain", "pooler", "-m", "MODEL"],
    ],
    ids=lambda words: words[0],
)
def test_other_commands_say_what_it_is(words: list[str], tmp_path: Path, run: Run) -> None:
    folder = lora(tmp_path / "a")
    refused(
        run([word.replace("MODEL", str(folder)) for word in words]),
        "holds an adapter of owner/base, not a model",
        "bertprobe inspect describes it; for all else name the base model",
    )


def test_what_is_asked_of_models_alone_is_wrong_usage(tmp_path: Path, run: Run) -> None:
    folder = lora(tmp_path / "a")
    for words in (["--part", "pooler"], ["--layers", "0"], ["--spectrum"], ["--neurons", "3"], ["--all"]):
        ran = run(["inspect", folder, *words])
        assert ran.code == 2
        assert "neither parts nor neurons" in ran.err


def test_python_tells_it_too(tmp_path: Path) -> None:
    with pytest.raises(IsAdapter, match="holds an adapter of owner/base"):
        bertprobe.open(lora(tmp_path / "a"))


@pytest.mark.parametrize("content", [b"", b"PK", b"x" * 100])
def test_a_damaged_one_is_refused(content: bytes, tmp_path: Path, run: Run) -> None:
    (tmp_path / "adapter_model.bin").write_bytes(content)
    refused(run(["inspect", tmp_path]))
    refused(run(["export", tmp_path, "-o", tmp_path / "x.npz"]), "of a model that adapter_config.json does not name")


SMALL = save(
    {
        f"{WRAPPED}.0.{path}.lora_{which}.weight": np.ones((2, 3) if which == "A" else (3, 2), np.float32)
        for path in ("query", "value")
        for which in "AB"
    }
)


@settings(FUZZ, max_examples=60)
@given(
    content=mutated(SMALL) | st.just(SMALL), config=altered({**CONFIG, "rank_pattern": {"query": 2}, "use_dora": False})
)
def test_damage_is_told_in_a_line(content: bytes, config: Any, tmp_path: Path, run: Run) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(content)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    ran = run(["inspect", tmp_path])
    if ran.code:
        refused(ran)


def test_a_short_file_is_refused_without_advice_that_does_not_apply(run: Run, tmp_path: Path) -> None:
    """`inspect --all` tells what is left of a model, not of an adapter."""
    file = lora(tmp_path / "short") / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    ran = run(["inspect", file.parent])
    assert ran.code == 1
    assert "bytes by its header" in ran.err
    assert "--all" not in ran.err
