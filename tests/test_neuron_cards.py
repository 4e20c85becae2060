"""`neurons list` and `show`: what is said of neurons is what the activations, the weights and the texts are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Run

import bertprobe
from bertprobe.checkpoint import read_tensor
from bertprobe.errors import BadSetting, PartMissing
from bertprobe.neurons.card import Card, card_of
from bertprobe.neurons.folder import open_scan
from bertprobe.neurons.listing import Wanted, layer_rows, layers_in, neuron_rows, parse_neuron
from bertprobe.neurons.record import record_of
from bertprobe.report.neurons import spoken

LAYER, NEURON = 2, 17


@pytest.fixture(scope="module")
def card(small_scan: Path) -> Card:
    model = bertprobe.open("pocket")
    return card_of(open_scan(small_scan / "scan"), model.checkpoint, model.anatomy, LAYER, NEURON, 5)


Column = tuple[list[tuple[str, ...]], list[np.ndarray]]


@pytest.fixture(scope="module")
def column(small_scan: Path) -> Column:
    """The tokens of each text and the neuron's activations on them."""
    found = bertprobe.open("pocket").activations((small_scan / "texts.txt").read_text().splitlines(), layers=LAYER)
    return list(found.tokens), [values[:, NEURON] for values in found[LAYER]]


def test_examples_are_the_tokens_they_refer_to(card: Card, column: Column) -> None:
    tokens, values = column
    flat = sorted(np.concatenate(values).tolist(), reverse=True)
    assert np.allclose([one.value for one in card.strongest], flat[:5], atol=1e-5)
    for one in (*card.strongest, *card.random, *filter(None, card.of_deciles)):
        assert one.value == pytest.approx(float(values[one.document][one.position]), abs=1e-5)
        assert one.tokens[one.place] == tokens[one.document][one.position]
        assert one.row == one.document
    deciles = np.array(card.deciles)
    assert np.all(np.diff(deciles) >= 0)
    for low, high, one in zip(deciles[:-1], deciles[1:], card.of_deciles, strict=True):
        assert one is None or low <= one.value <= high
    assert sum(one is not None for one in card.of_deciles) >= 8


def test_numbers_of_a_row_are_those_of_the_activations(card: Card, column: Column) -> None:
    values = np.concatenate(column[1]).astype(np.float64)
    row = card.row
    assert row.mean == pytest.approx(values.mean(), abs=1e-5)
    assert row.std == pytest.approx(values.std(), abs=1e-5)
    assert row.above_zero == pytest.approx((values > 0).mean())
    assert row.over == pytest.approx([(values > t).mean() for t in card.thresholds])
    top = np.sort(values)[-5:].mean()
    assert row.selectivity == pytest.approx((top - values.mean()) / values.std(), rel=1e-4)
    firsts = np.array([column[1][i][0] for i in range(80)])
    assert card.stretches[0].tokens == 80
    assert card.stretches[0].mean == pytest.approx(firsts.mean(), abs=1e-5)


def test_nearest_words_have_the_largest_cosines(card: Card) -> None:
    model = bertprobe.open("pocket")
    words = read_tensor(model.anatomy.tensors["embeddings.word_embeddings.weight"]).astype(np.float64)
    row = np.asarray(model.intermediate(LAYER).weight[NEURON], np.float64)
    cosines = words @ row / np.linalg.norm(words, axis=1) / np.linalg.norm(row)
    assert card.lens.nearest is not None
    nearest = card.lens.nearest.entries
    assert [one.value for one in nearest] == pytest.approx(sorted(cosines)[:-6:-1], abs=1e-5)
    vocabulary = (Path(bertprobe.__file__).parent / "pocket" / "vocab.txt").read_text().splitlines()
    assert [one.token for one in nearest] == [vocabulary[i] for i in np.argsort(-cosines)[:5]]


def test_promoted_words_are_those_of_transformers_own_head(card: Card) -> None:
    from transformers import BertForMaskedLM

    folder = Path(bertprobe.__file__).parent / "pocket"
    theirs = BertForMaskedLM.from_pretrained(folder).eval()
    with torch.no_grad():
        column = theirs.bert.encoder.layer[LAYER].output.dense.weight[:, NEURON]
        logits = theirs.cls(torch.stack([column, torch.zeros_like(column)]))
    raised = (logits[0] - logits[1]).double().numpy()
    raised -= raised.mean()
    head = card.lens.head
    assert head is not None
    assert [one.value for one in head.promoted] == pytest.approx(sorted(raised)[:-6:-1], abs=1e-4)
    assert [one.value for one in head.suppressed] == pytest.approx(sorted(raised)[:5], abs=1e-4)
    assert head.transform.startswith("cls.predictions.transform.dense, gelu, ")


def test_neurons_that_fire_together_share_tokens_or_correlate(small_scan: Path, card: Card) -> None:
    scan = open_scan(small_scan / "scan")
    sites = list(scan.state.sites.values())
    mine = sites[LAYER]
    assert card.together
    for one in card.together:
        layer, neuron = parse_neuron(one.name)
        other = sites[layer]
        assert one.shared == len(np.intersect1d(other.strongest.where[neuron], mine.strongest.where[NEURON]))
        expected = np.corrcoef(other.drawn.values[:, neuron], mine.drawn.values[:, NEURON])[0, 1]
        assert one.correlation == pytest.approx(expected, abs=1e-6)
        assert one.name != f"{LAYER}.{NEURON}"


def test_lists_hold_the_kinds_they_say(small_scan: Path) -> None:
    scan = open_scan(small_scan / "scan")
    layers = layer_rows(scan)
    for row in layers:
        dead = neuron_rows(scan, Wanted("dead", (row.layer,), most=0))
        assert len(dead) == row.never[0]
        assert all(one.before_above_zero == 0 for one in dead)
        high = neuron_rows(scan, Wanted("dead", (row.layer,), dead_at=1.0, most=0))
        assert len(high) == row.never[2]
        assert all(one.max <= 1 for one in high)
        always = neuron_rows(scan, Wanted("always", (row.layer,), most=0))
        assert len(always) == row.always
        assert all(one.above_zero >= 0.95 for one in always)
        assert len(neuron_rows(scan, Wanted("all", (row.layer,), most=0))) == row.neurons
    found = neuron_rows(scan, Wanted(most=7))
    assert [one.selectivity for one in found] == sorted((one.selectivity for one in found), reverse=True)
    lowest = neuron_rows(scan, Wanted("all", sort="-max", most=3))
    assert lowest[0].max <= lowest[1].max <= lowest[2].max
    assert layers_in(scan, "0,-1") == (0, 3)
    with pytest.raises(BadSetting, match="not sorted by size"):
        neuron_rows(scan, Wanted(sort="size"))
    with pytest.raises(PartMissing, match="no layer 9"):
        layers_in(scan, "9")


def test_a_record_has_the_activation_on_every_token(small_scan: Path, column: Column) -> None:
    model = bertprobe.open("pocket")
    scan = open_scan(small_scan / "scan")
    record = record_of(scan, model.checkpoint, model.anatomy, LAYER, NEURON, 3)
    assert record["neuron_id"] == {"layer_index": LAYER, "neuron_index": NEURON}
    assert len(record["most_positive_activation_records"]) == len(record["random_sample"]) == 3
    for one in (*record["most_positive_activation_records"], *record["random_sample"]):
        place = next(
            i
            for i, values in enumerate(column[1])
            if len(values) == len(one["activations"]) and np.allclose(values, one["activations"], atol=1e-5)
        )
        assert tuple(one["tokens"]) == column[0][place]


def test_a_source_that_changed_is_told(small_scan: Path, tmp_path: Path, run: Run) -> None:
    shutil.copytree(small_scan, tmp_path / "copy")
    manifest = tmp_path / "copy" / "scan" / "manifest.json"
    text = tmp_path / "copy" / "texts.txt"
    manifest.write_text(manifest.read_text().replace(str(small_scan / "texts.txt"), str(text)))
    show = ["neurons", "show", tmp_path / "copy" / "scan", "0.1"]
    assert run(show).code == 0
    text.write_text(text.read_text().replace("ship", "boat"))
    assert "is not the file that was scanned: its sha256 differs" in run(show).err
    text.unlink()
    assert "which was scanned, is not there" in run(show).err


def test_another_model_is_told(small_scan: Path, tiny_bert: Path, run: Run) -> None:
    ran = run(["neurons", "show", small_scan / "scan", "0.1", "-m", tiny_bert])
    assert ran.code == 1
    assert "is not the model that was scanned" in ran.err


@pytest.mark.parametrize("words", ["3", "a.b", "3.x", "-1.2", "9.0", "0.99999"])
def test_what_is_no_neuron_is_told(words: str, small_scan: Path, run: Run) -> None:
    ran = run(["neurons", "show", small_scan / "scan", "--", words])
    assert ran.code in (1, 2)
    assert "neuron" in ran.err or "was not scanned" in ran.err


@pytest.mark.parametrize("format", ["table", "json", "csv", "markdown", "neuron-record"])
def test_a_card_is_shown_in_every_format(format: str, small_scan: Path, run: Run) -> None:
    ran = run(["neurons", "show", small_scan / "scan", "2.17", "--format", format, "--top", "2"])
    assert ran.code == 0, ran.err
    if format in ("json", "neuron-record"):
        json.loads(ran.out)
    elif format == "csv":
        assert ran.out.startswith("name,selectivity,mean,")
        strongest = run(["neurons", "show", small_scan / "scan", "2.17", "--format", "csv", "--table", "strongest"])
        assert strongest.out.startswith("value,bar,text\n")
    else:
        assert "[" in ran.out


def test_a_scan_beside_another_names_what_is_common(small_scan: Path, run: Run) -> None:
    scan = small_scan / "scan"
    data = json.loads(run(["neurons", "show", scan, "2.17", "--beside", scan, "--json"]).out)
    (other,) = data["beside"]
    assert other["strongest"] == data["strongest"]
    assert other["share"] == 1
    assert other["pieces"] == sorted({one["tokens"][one["place"]] for one in data["strongest"]})


def test_the_command_goes_on_where_it_was(small_scan: Path, tmp_path: Path, run: Run) -> None:
    words = ["neurons", "scan", small_scan / "texts.txt", "-o", tmp_path / "scan", "--no-verify", "--layers", "0"]
    first = run(words)
    assert first.code == 0, first.err
    assert run(words).out == first.out
    other = run([*words, "--seed", "4"])
    assert other.code == 1
    assert "holds another scan: options.seed is 0 there, 4 now" in other.err
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": 1}\n')
    assert "--skip-bad" in run(["neurons", "scan", bad, "-o", tmp_path / "new", "--no-verify"]).err


def test_pieces_are_read_as_words() -> None:
    assert spoken(("he", "was", "ad", "##air", "##s", "."), 3) == "he was ad[air]s ."
    assert spoken(("he", "was", "ad", "##air", "##s", "."), 1, around=1) == "he [was] ad"
    assert spoken(("a", "##b", "c"), 2, around=1) == "ab [c]"
    assert spoken(("▁he", "▁saw", "s", "▁it"), 1) == "he [saw] s it"
