"""Intermediate and Pooler do what transformers' classes of those names do, bit for bit, gradients too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel
from transformers.models.bert.modeling_bert import BertIntermediate, BertPooler

import bertprobe
from bertprobe.backends import ACTIVATIONS
from bertprobe.errors import PartMissing, UnsupportedFile


def twins(hidden_act: Any = "gelu") -> tuple[bertprobe.Intermediate, BertIntermediate]:
    """Ours and transformers' module with the same weights."""
    theirs = BertIntermediate(BertConfig(hidden_size=32, intermediate_size=48, hidden_act=hidden_act))
    ours = bertprobe.Intermediate(32, 48, hidden_act)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_intermediate_equals_transformers_with_every_activation(name: str) -> None:
    ours, theirs = twins(name)
    x = torch.randn(3, 7, 32)
    a, b = (x.clone().requires_grad_() for _ in range(2))
    mine, yours = ours(a), theirs(b)
    assert torch.equal(mine, yours)
    mine.square().sum().backward()
    yours.square().sum().backward()
    assert a.grad is not None
    assert b.grad is not None
    assert torch.equal(a.grad, b.grad)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        assert torch.equal(p.grad, q.grad)


def test_a_callable_is_an_activation() -> None:
    _, theirs = twins()
    ours = bertprobe.Intermediate(32, 48, torch.sin)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(5, 32)
    assert torch.equal(ours(x), torch.sin(theirs.dense(x)))


def test_pooler_equals_transformers() -> None:
    theirs = BertPooler(BertConfig(hidden_size=32))
    ours = bertprobe.Pooler(32)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 7, 32)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("exported", [False, True])
def test_modules_load_without_the_rest_of_the_model(exported: bool, minilm: Path, tmp_path: Path, run: Any) -> None:
    model = str(minilm)
    if exported:
        model = str(tmp_path / "parts.safetensors")
        run(["export", minilm, "-o", model, "--part", "pooler", "--part", "intermediate"])
    whole = BertModel.from_pretrained(minilm)
    x = torch.randn(2, 5, 384)
    with torch.no_grad():
        assert torch.equal(bertprobe.Pooler.from_checkpoint(model)(x), whole.pooler(x))
        for layer in (0, 5, -1):
            ours = bertprobe.Intermediate.from_checkpoint(model, layer)
            assert torch.equal(ours(x), whole.encoder.layer[layer].intermediate(x))
    assert all(parameter.requires_grad for parameter in ours.parameters())


def test_what_is_not_there_is_refused(tmp_path: Path, minilm: Path) -> None:
    import zoo

    zoo.save("electra", tmp_path)
    with pytest.raises(PartMissing, match="no pooler"):
        bertprobe.Pooler.from_checkpoint(str(tmp_path))
    with pytest.raises(PartMissing, match="layers 0-5"):
        bertprobe.Intermediate.from_checkpoint(str(minilm), 6)
    gated = tmp_path / "gated"
    zoo.save("modernbert", gated)
    with pytest.raises(UnsupportedFile, match="gated"):
        bertprobe.Intermediate.from_checkpoint(str(gated), 0)


def test_a_stored_dtype_is_kept(tmp_path: Path) -> None:
    import zoo

    zoo.build("bert").to(torch.bfloat16).save_pretrained(tmp_path)
    assert bertprobe.Pooler.from_checkpoint(str(tmp_path)).dense.weight.dtype == torch.bfloat16
