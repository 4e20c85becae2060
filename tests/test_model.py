"""`bertprobe.open` is equal to its steps and to transformers; what notebooks and rich show of it is tame."""

from __future__ import annotations

import dataclasses
import io
import re
import subprocess
import sys
import zipfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from hub import Hub
from rich.console import Console
from safetensors.numpy import save_file
from safetensors.torch import load_file

import bertprobe
from bertprobe.model import Findings, Model, Parts
from bertprobe.render import notebook
from bertprobe.report.display import as_report

TEXTS = ["The ship left the harbour.", "They sailed.", "He was paid a shilling, and was not glad of it at all."]


@pytest.fixture(scope="module")
def model(minilm: Path) -> Model:
    return bertprobe.open(minilm)


@pytest.fixture(scope="module")
def theirs(minilm: Path) -> Any:
    from transformers import AutoModel

    return AutoModel.from_pretrained(minilm).eval()


def encoded(minilm: Path, text: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(minilm)(text, return_tensors="pt")


# ------------------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize("vector", ["pooled", "cls", "mean"])
def test_pool_is_what_transformers_puts_out(vector: str, model: Model, theirs: Any, minilm: Path) -> None:
    """Within 1e-5, the order of summation in float32 (docs/guide.md, verify)."""
    ours = model.pool(TEXTS, vector=vector)
    assert (ours.shape, ours.dtype) == ((3, 384), np.float32)
    for text, row in zip(TEXTS, ours, strict=True):
        with torch.no_grad():
            out = theirs(**encoded(minilm, text))
        states = out.last_hidden_state[0]
        expected = {"pooled": out.pooler_output[0], "cls": states[0], "mean": states.mean(0)}[vector]
        np.testing.assert_allclose(row, expected.numpy(), atol=1e-5)


def test_activations_are_what_the_modules_put_out(model: Model, theirs: Any, minilm: Path) -> None:
    found = model.activations(TEXTS, layers=[0, -1])
    assert list(found.values) == ["intermediate.0", "intermediate.5"]
    for number, text in enumerate(TEXTS):
        seen: list[Any] = []
        hook = theirs.encoder.layer[5].intermediate.register_forward_hook(
            lambda module, given, out, seen=seen: seen.append(out[0])
        )
        try:
            with torch.no_grad():
                theirs(**encoded(minilm, text))
        finally:
            hook.remove()
        assert found[5][number].shape == (len(found.tokens[number]), 1536)
        np.testing.assert_allclose(found[5][number], seen[0].numpy(), atol=1e-5)
    with pytest.raises(bertprobe.BertprobeError, match=r"layer 3 was not recorded; there is intermediate\.0"):
        found[3]


def test_activations_before_and_after(model: Model) -> None:
    before, after = (model.activations(TEXTS[0], 1, before=when)[1][0] for when in (True, False))
    expected = torch.nn.functional.gelu(torch.from_numpy(np.array(before, np.float32)))
    np.testing.assert_allclose(after, expected.numpy(), atol=1e-5)


def test_weights_are_the_stored_ones(model: Model, minilm: Path) -> None:
    stored = load_file(minilm / "model.safetensors")
    assert np.array_equal(model.pooler.weight, stored["pooler.dense.weight"].numpy())
    assert np.array_equal(model.pooler.bias, stored["pooler.dense.bias"].numpy())
    weight, bias = model.intermediate(-1)
    assert np.array_equal(weight, stored["encoder.layer.5.intermediate.dense.weight"].numpy())
    assert np.array_equal(bias, stored["encoder.layer.5.intermediate.dense.bias"].numpy())


def test_statistics_and_findings_are_those_of_the_report(model: Model) -> None:
    data = model.report(neurons=2).data
    told = {tensor["name"]: tensor["statistics"] for part in data["parts"] for tensor in part["tensors"]}
    assert told == model.statistics
    assert [f["rule"] for f in data["findings"]] == [f.rule for f in model.findings]
    assert model.findings.is_alarming
    assert data["parts"][0]["neurons"]["largest"][0]["neuron"] == 856
    assert "effective_rank" in model.report(spectrum=True).data["parts"][0]["tensors"][0]["statistics"]


def test_what_is_measured_is_read_once(minilm: Path) -> None:
    model = bertprobe.open(minilm)
    headers = model.checkpoint.bytes_read
    assert model.findings is model.findings
    read = model.checkpoint.bytes_read
    assert read > headers
    assert model.statistics
    assert model.report().data["facts"]["bytes_read"] == read


def test_the_same_texts_in_any_company(model: Model) -> None:
    together = model.pool(TEXTS)
    alone = np.concatenate([model.pool(text) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert model.pool([]).shape == (0, 384)
    assert model.pool(iter(TEXTS[:2])).shape == (2, 384)
    assert model.pool(TEXTS[:2], pairs=True).shape == (1, 384)
    assert model.activations([]).values == {}


def test_what_is_not_there(tmp_path: Path, model: Model) -> None:
    import zoo

    zoo.save("distilbert", tmp_path)
    other = bertprobe.open(tmp_path)
    with pytest.raises(bertprobe.BertprobeError, match="no pooler"):
        _ = other.pooler
    with pytest.raises(bertprobe.BertprobeError, match="no pooler"):
        other.pool("x")
    with pytest.raises(bertprobe.BertprobeError, match="has no gate"):
        model.gate(0)
    with pytest.raises(bertprobe.BertprobeError, match="no layer 17"):
        model.intermediate(17)
    with pytest.raises(ValueError, match="pooled, cls, mean"):
        model.pool("x", vector="first")


def test_a_gated_model(tmp_path: Path) -> None:
    import zoo

    zoo.save("modernbert", tmp_path)
    model = bertprobe.open(tmp_path)
    assert model.gate(0).weight.shape == model.intermediate(0).weight.shape
    assert not np.array_equal(model.gate(0).weight, model.intermediate(0).weight)


def test_a_model_on_the_hub_is_fetched_when_texts_are_run(minilm: Path, hub: Hub) -> None:
    files = {str(path.relative_to(minilm)): path for path in minilm.rglob("*") if path.is_file()}
    hub.add("owner/small", files)
    model = bertprobe.open("owner/small")
    assert model.checkpoint.bytes_read < 1e6
    np.testing.assert_array_equal(model.pool(TEXTS), bertprobe.open(minilm).pool(TEXTS))
    assert model._here.revision == model.checkpoint.revision


# ------------------------------------------------------------------------------------------------ manners


def test_it_is_frozen_and_small() -> None:
    model = bertprobe.open()
    assert repr(model) == "<Model pocket: bert, 4 layers, hidden 128, intermediate 512, with a pooler>"
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.anatomy = None  # type: ignore[misc, assignment]
    assert isinstance(model.parts, Parts)
    assert isinstance(model.findings, Findings)


def test_opening_and_a_short_text_load_nothing_heavy() -> None:
    code = (
        "import sys, bertprobe; m = bertprobe.open(); repr(m); m.parts; a = set(sys.modules)\n"
        "m.findings; m.pool('some text'); m.activations('some text', 0)\n"
        "print(*(n for n in ('numpy', 'torch', 'transformers', 'huggingface_hub', 'rich') if n in a), '|',"
        " *(n for n in ('torch', 'transformers', 'rich') if n in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "|"


def test_the_wheel_says_that_it_is_typed(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=ROOT, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert "bertprobe/py.typed" in zipfile.ZipFile(wheel).namelist()


# ------------------------------------------------------------------------------------------------ looks


class Tags(HTMLParser):
    """Every tag with its attributes, and that all are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, Any]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.append((tag, attrs))
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


TAME = {"div", "table", "caption", "thead", "tbody", "tr", "th", "td", "p", "strong", "code", "ul", "li", "br"}


def tame(text: str) -> None:
    for tag, attributes in Tags(text).seen:
        assert tag in TAME
        assert {name for name, _ in attributes} <= {"style", "scope", "class"}


def shown(value: Any, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(value)
    return out.getvalue()


def test_every_value_can_be_looked_at(minilm: Path) -> None:
    model = bertprobe.open(minilm)
    unread = model.checkpoint.bytes_read
    assert "stored as" in model._repr_html_()
    assert model.checkpoint.bytes_read == unread, "looking at a model must not read its weights"
    values: list[Any] = [model.parts, model.parts[0], model.findings, model.findings[0], model.report(), model]
    for value in values:
        tame(value._repr_html_())
        for width in (50, 80, 140):
            lines = shown(value, width).splitlines()
            assert len(lines) > 2
            assert max(map(len, lines)) <= width
    assert "pooler-untrained" in model._repr_html_()
    assert "likewise intermediate.5" in shown(model.findings, 80)


def test_a_report_of_texts_can_be_looked_at(minilm: Path) -> None:
    from bertprobe.report.text import PerToken, activation, pooling
    from bertprobe.run import AllVectors, NeuronStatistics, Strongest, TokenNorms

    model = bertprobe.open(minilm)
    vectors = AllVectors()
    ran = model.run(TEXTS, vectors)
    report = pooling(ran, ["<b>one</b>", *TEXTS[1:]], vectors.texts, model.findings, 3)
    tame(report._repr_html_())
    assert "&lt;b&gt;one&lt;/b&gt;" in report._repr_html_()
    labels = ["intermediate.0"]
    statistics, tokens = NeuronStatistics(labels), PerToken(TokenNorms(labels), Strongest(labels, 2))
    ran = model.run("<script>alert(1)</script>", statistics, *tokens.collectors)
    tame(activation(ran, statistics, tokens, (), 2)._repr_html_())


def test_names_from_a_file_stay_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\x1b[31m"
    names = ("intermediate.dense.weight", "intermediate.dense.bias", "output.dense.weight", "output.dense.bias")
    arrays = {f"{evil}.encoder.layer.0.{name}": np.ones((4, 4), np.float32) for name in names}
    save_file(
        {name: value[0] if "bias" in name else value for name, value in arrays.items()}, tmp_path / "a.safetensors"
    )
    model = bertprobe.open(tmp_path)
    for value in (model, model.parts, model.parts[0], model.findings, model.report()):
        text = value._repr_html_()
        tame(text)
        assert "\x1b" not in text
        assert "\x1b" not in shown(value, 120)
    assert "&lt;script&gt;" in model.parts._repr_html_()


def test_long_tables_are_cut_and_say_so() -> None:
    part = bertprobe.open().parts[0]
    text = Parts([part] * 300)._repr_html_()
    assert "and 100 rows more" in text
    assert len(re.findall("<tr>", text)) == notebook.MOST_ROWS + 1


def test_only_what_is_known_is_shown() -> None:
    assert Parts([])._repr_html_()
    assert Findings([])._repr_html_() == '<div class="bertprobe"><p>no findings</p></div>'
    with pytest.raises(TypeError):
        as_report([1, 2])
