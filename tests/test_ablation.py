"""Neurons taken out: in the run as in the weights, bit for bit; what is told of it; what is refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from conftest import Run
from safetensors.numpy import load_file, save_file
from torch import nn

import bertprobe
from bertprobe.anatomy import find_parts
from bertprobe.anatomy.neurons import listed_neurons, neurons_text, parse_neurons
from bertprobe.checkpoint import open_checkpoint
from bertprobe.cli import as_options
from bertprobe.corpus import open_corpus
from bertprobe.errors import BadSetting, BertprobeError, NotFound, OutputError, PartMissing, UnsupportedFile
from bertprobe.neurons import Kept
from bertprobe.neurons.ablation import ablated_in, ablation_from, as_option
from bertprobe.neurons.apart import ShardScanning
from bertprobe.neurons.job import prepare_scan
from bertprobe.neurons.opening import Options
from bertprobe.run import (
    HIDDEN,
    POOLED,
    Ablation,
    Changes,
    Compute,
    Matrices,
    NeuronStatistics,
    Runner,
    Site,
    Untouched,
    ablated,
    ablation_of,
    beside,
    open_runner,
    run_texts,
)
from bertprobe.sharded import WHOLE, Part
from bertprobe.verify import verify

OUT = (3, *range(10, 20), 38)  # neurons apart from each other and side by side
LIST = "0.3,0:10-19,0.38"
# Plain, gated, fused, shared layers, convolutions, positions of its own, other feed-forward parts in the same layer.
NATIVE = ("bert", "roberta")
OTHERS = ("modernbert", "gte", "nomic_bert", "albert", "squeezebert", "mobilebert", "t5")


def opened(folder: Path, backend: str = "auto", **options: Any) -> Runner:
    checkpoint = open_checkpoint(str(folder))
    return open_runner(checkpoint, find_parts(checkpoint), Compute(backend, **options))


def values(runner: Runner, texts: Sequence[str], *, before: bool = False) -> dict[str, Any]:
    """What every part and the model put out for texts, end to end, by the site's label."""
    kept = Matrices({part.label for part in runner.anatomy.parts} | {HIDDEN, POOLED}, before=before)
    run_texts(runner, texts, kept, truncate=True)
    return {site.label: np.concatenate(found) for site, found in kept.kept.items()}


def down_of(family: str, model: Any) -> Any:
    """The first layer's down-projection, found by what flows through the model."""
    found = zoo.observe(family, model).feed_forwards
    of_layer = next((one for one in found if one.up.endswith("intermediate.dense")), found[0])
    return model.get_submodule(of_layer.down)


def remove(down: Any, neurons: Sequence[int]) -> None:
    """Zeroes the columns of a down-projection; a grouped convolution has them group by group."""
    weight = down.weight.data
    if not isinstance(down, nn.Conv1d):
        weight[:, list(neurons)] = 0
        return
    inside, outside = weight.shape[1], weight.shape[0] // down.groups
    for neuron in neurons:
        group = neuron // inside
        weight[group * outside : (group + 1) * outside, neuron % inside] = 0


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes a family's tiny model, the same with columns of its first down-projection zeroed, and texts for both."""

    known: dict[str, tuple[Path, Path, list[str]]] = {}

    def made(family: str) -> tuple[Path, Path, list[str]]:
        if family in known:
            return known[family]
        base = tmp_path_factory.mktemp(family)
        model = zoo.build(family)
        model.save_pretrained(base / "whole")
        remove(down_of(family, model), OUT)
        model.save_pretrained(base / "without")
        zoo.save_tokenizer(base / "without")
        text = zoo.save_tokenizer(base / "whole")
        known[family] = base / "whole", base / "without", [text, " ".join(text.split()[:7])]
        return known[family]

    return made


def the_same(run: dict[str, Any], weights: dict[str, Any], untouched: dict[str, Any], label: str) -> None:
    """In the run the neurons put out nothing; all else is as with the columns gone from the weights, to the bit."""
    others = [i for i in range(zoo.INTERMEDIATE) if i not in OUT]
    assert run.keys() == weights.keys()
    for name in run:
        if name.startswith(label):
            assert not run[name][:, OUT].any()
            assert weights[name][:, OUT].any()
            np.testing.assert_array_equal(run[name][:, others], weights[name][:, others])
        else:
            np.testing.assert_array_equal(run[name], weights[name], err_msg=name)
    assert abs(run[HIDDEN] - untouched[HIDDEN]).max() > 0.01


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("family", NATIVE)
def test_ablation_is_removal_in_the_weights_bit_for_bit(family: str, backend: str, two: Any) -> None:
    whole, without, texts = two(family)
    runner = opened(whole, backend)
    untouched = values(runner, texts)
    found = values(ablated(runner, ablation_of(LIST, runner.anatomy)), texts)
    the_same(found, values(opened(without, backend), texts), untouched, "intermediate.0")
    np.testing.assert_array_equal(values(runner, texts)[HIDDEN], untouched[HIDDEN])  # which goes on as it was


@pytest.mark.parametrize("family", OTHERS)
def test_ablation_is_removal_where_transformers_runs_the_model(family: str, two: Any) -> None:
    whole, without, texts = two(family)
    runner = opened(whole)
    assert runner.engine.name == "transformers"
    found = values(ablated(runner, ablation_of(LIST, runner.anatomy)), texts)
    the_same(found, values(opened(without), texts), values(runner, texts), "intermediate.0")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_ablation_is_removal_in_half_precision(dtype: str, two: Any) -> None:
    whole, without, texts = two("bert")
    runner = opened(whole, "torch", dtype=dtype)
    found = values(ablated(runner, ablation_of(LIST, runner.anatomy)), texts)
    the_same(found, values(opened(without, "torch", dtype=dtype), texts), values(runner, texts), "intermediate.0")


@pytest.mark.parametrize("family", ["bert", "modernbert", "albert", "squeezebert"])
def test_a_hook_of_ones_own_comes_to_the_same_bits(family: str, two: Any) -> None:
    """transformers' own model with a pre-hook on its down-projection, of which nothing here knows."""
    whole, _, texts = two(family)
    runner = opened(whole, "torch")
    ids = next(runner.batches(texts[:1])).ids
    found = values(ablated(runner, ablation_of(LIST, runner.anatomy)), texts[:1])[HIDDEN]
    model = zoo.build(family)
    down = down_of(family, model)

    def hook(module: nn.Module, taken: Any) -> Any:
        given = taken[0].clone()
        (given.transpose(1, 2) if isinstance(module, nn.Conv1d) else given)[..., list(OUT)] = 0
        return (given, *taken[1:])

    down.register_forward_pre_hook(hook)
    with torch.no_grad():
        theirs = model(torch.tensor(ids)[None]).last_hidden_state[0].numpy()
    np.testing.assert_array_equal(found, theirs)


def rewritten(folder: Path, to: Path, change: Any) -> Path:
    """A checkpoint again with its tensors changed."""
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(
        {name: np.ascontiguousarray(array) for name, array in tensors.items()},
        to / "model.safetensors",
        metadata={"format": "pt"},
    )
    return to


UP, DOWN = "encoder.layer.0.intermediate.dense", "encoder.layer.0.output.dense"


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_gelu_of_nothing_is_nothing(backend: str, two: Any, tmp_path: Path) -> None:
    """A neuron whose row and bias are zero puts out gelu(0) = 0: all is as with it taken out, to the bit."""
    whole, _, texts = two("bert")

    def change(tensors: dict[str, Any]) -> None:
        tensors[f"{UP}.weight"][list(OUT)] = 0
        tensors[f"{UP}.bias"][list(OUT)] = 0

    runner = opened(whole, backend)
    found = values(ablated(runner, ablation_of(LIST, runner.anatomy)), texts)
    there = values(opened(rewritten(whole, tmp_path / "n", change), backend), texts)
    for name in found:
        np.testing.assert_array_equal(found[name], there[name], err_msg=name)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_a_model_that_is_smaller_by_the_neurons_gives_the_same_vectors(backend: str, two: Any, tmp_path: Path) -> None:
    whole, _, texts = two("bert")
    others = [i for i in range(zoo.INTERMEDIATE) if i not in OUT]

    def change(tensors: dict[str, Any]) -> None:
        tensors[f"{UP}.weight"], tensors[f"{UP}.bias"] = tensors[f"{UP}.weight"][others], tensors[f"{UP}.bias"][others]
        tensors[f"{DOWN}.weight"] = tensors[f"{DOWN}.weight"][:, others]

    runner = opened(whole, backend)
    found = values(ablated(runner, ablation_of(LIST, runner.anatomy)), texts)
    there = values(opened(rewritten(whole, tmp_path / "n", change), backend), texts)
    assert there["intermediate.0"].shape[1] == len(others)
    for name in (HIDDEN, POOLED):
        np.testing.assert_allclose(found[name], there[name], atol=1e-5)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_a_mean_is_the_mean_times_the_column_in_the_bias(backend: str, two: Any, tmp_path: Path) -> None:
    whole, _, texts = two("bert")
    runner = opened(whole, backend)
    means = values(runner, texts)["intermediate.0"][:, OUT].mean(0, dtype=np.float64)
    found = values(ablated(runner, Ablation({0: OUT}, {0: means.tolist()}, "here")), texts)
    np.testing.assert_array_equal(
        found["intermediate.0"][:, OUT], np.tile(means.astype(np.float32), (len(found[HIDDEN]), 1))
    )

    def change(tensors: dict[str, Any]) -> None:
        tensors[f"{DOWN}.bias"] += tensors[f"{DOWN}.weight"][:, OUT] @ means.astype(np.float32)
        tensors[f"{DOWN}.weight"][:, OUT] = 0

    there = values(opened(rewritten(whole, tmp_path / "n", change), backend), texts)
    for name in (HIDDEN, POOLED, "intermediate.1"):
        np.testing.assert_allclose(found[name], there[name], atol=1e-5)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_what_stands_before_an_activation_that_does_nothing_stays(backend: str, two: Any, tmp_path: Path) -> None:
    """Where the activation gives back what it takes, only what comes after it is changed."""
    *folders, texts = two("bert")
    whole, without = (rewritten(folder, tmp_path / folder.name, lambda tensors: None) for folder in folders)
    for folder in (whole, without):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "hidden_act": "linear"}))
    runner = opened(whole, backend)
    other = ablated(runner, ablation_of(LIST, runner.anatomy))
    np.testing.assert_array_equal(
        values(other, texts, before=True)["intermediate.0"], values(runner, texts)["intermediate.0"]
    )
    the_same(values(other, texts), values(opened(without, backend), texts), values(runner, texts), "intermediate.0")


def test_first_tokens_alone_come_to_the_same(two: Any) -> None:
    """A pooled output runs the last layer for first tokens alone; its neurons are taken out there, too."""
    whole, _, texts = two("bert")
    runner = opened(whole, "numpy")
    other = ablated(runner, ablation_of("1.3,1:10-19", runner.anatomy))
    alone = Matrices({POOLED})
    run_texts(other, texts, alone)
    found = np.concatenate(alone.kept[Site(POOLED)])
    np.testing.assert_allclose(found, values(other, texts)[POOLED], atol=1e-6)
    assert abs(found - values(runner, texts)[POOLED]).max() > 1e-3


@pytest.mark.parametrize(
    ("family", "backend"), [("bert", "numpy"), ("bert", "torch"), ("albert", "auto"), ("gte", "auto")]
)
def test_both_at_once_are_each_alone(family: str, backend: str, two: Any) -> None:
    whole, _, texts = two(family)
    runner, labels = opened(whole, backend), {"intermediate.0", "intermediate.1"}
    ablation = ablation_of(LIST, runner.anatomy)
    one, other, changes = Matrices(labels), Matrices(labels), Changes(labels)
    ran = run_texts(beside(runner, ablation), texts, one, Untouched(other), changes)
    assert ran.ablation is ablation
    assert ran.settings["ablated"] == "0.3,0:10-19,0.38 (12 neurons) to zero"
    assert one.tokens == other.tokens
    alone = {name: Matrices(labels) for name in ("ablated", "untouched")}
    run_texts(ablated(runner, ablation), texts, alone["ablated"])
    run_texts(runner, texts, alone["untouched"])
    for found, expected in ((one, alone["ablated"]), (other, alone["untouched"])):
        assert found.kept.keys() == expected.kept.keys()
        for site, matrices in found.kept.items():
            for mine, theirs in zip(matrices, expected.kept[site], strict=True):
                np.testing.assert_array_equal(mine, theirs)
    for site, sums in changes.sums.items():
        a, u = (np.concatenate(found.kept[site]).astype(np.float64) for found in (one, other))
        np.testing.assert_allclose(sums.change, np.square(a - u).sum(0))
        np.testing.assert_allclose(sums.ablated, a.sum(0), atol=1e-9)
        np.testing.assert_allclose(sums.rms("untouched_squares"), np.sqrt(np.square(u).mean()))
        assert sums.tokens == len(a)


@pytest.mark.parametrize("family", ["bert", "albert"])
def test_verify_takes_them_out_of_transformers_too(family: str, two: Any) -> None:
    whole, _, texts = two(family)
    checkpoint = open_checkpoint(str(whole))
    anatomy = find_parts(checkpoint)
    found = verify(checkpoint, anatomy, texts, Ablation({0: OUT}, {0: [0.25] * len(OUT)}, "here"))
    assert all(one.holds for one in found), found
    assert {one.part for one in found} >= {"intermediate.0", HIDDEN}
    plain = {one.part: one for one in verify(checkpoint, anatomy, texts)}
    assert any(one.size != plain[one.part].size for one in found)


# ------------------------------------------------------------------------------------------------ neurons by name


def test_lists_of_neurons_are_read_and_written(two: Any) -> None:
    anatomy = opened(two("bert")[0]).anatomy
    found = parse_neurons(" 1.3 ,0:10-12,0.11,1:0", anatomy)
    assert found == {0: (10, 11, 12), 1: (0, 3)}
    assert parse_neurons(neurons_text(found), anatomy) == listed_neurons(neurons_text(found)) == found
    assert parse_neurons("1", anatomy) == {1: tuple(range(40))}


@pytest.mark.parametrize(
    ("text", "error", "word"),
    [
        ("", BadSetting, "not a list"),
        ("x", BadSetting, "not a list"),
        ("0.1;0.2", BadSetting, "not a list"),
        ("0.-1", BadSetting, "not a list"),
        ("0.٣", BadSetting, "not a list"),
        ("0:9-1", BadSetting, "backwards"),
        ("2.0", PartMissing, "no layer 2"),
        ("0.40", PartMissing, "no neuron 40"),
        ("0:30-40", PartMissing, "no neuron 40"),
    ],
)
def test_what_names_no_neuron_is_refused(text: str, error: type[BertprobeError], word: str, two: Any) -> None:
    anatomy = opened(two("bert")[0]).anatomy
    with pytest.raises(error, match=word):
        ablation_of(text, anatomy)


def test_what_fits_no_model_is_refused(two: Any) -> None:
    runner = opened(two("bert")[0])
    with pytest.raises(PartMissing, match="no neuron 40"):
        ablated(runner, Ablation({0: (40,)}))
    with pytest.raises(PartMissing, match="no neuron -1"):
        ablated(runner, Ablation({0: (-1,)}))
    for neurons, given in (({}, None), ({0: (2, 1)}, None), ({0: (1, 2)}, {0: [1.0]}), ({0: (1,)}, {0: [np.nan]})):
        with pytest.raises(BadSetting):
            Ablation(neurons, given)
    with pytest.raises(BadSetting, match="nothing up to layer 0"):
        ablation_of("1.3", runner.anatomy).check_seen(runner.anatomy, {"intermediate.0"})


def test_shared_layers_are_named_by_what_is_stored(two: Any) -> None:
    anatomy = opened(two("albert")[0]).anatomy
    with pytest.raises(PartMissing, match=r"no layer 1.*every turn"):
        ablation_of("1.3", anatomy)


# ------------------------------------------------------------------------------------------------ the commands

TEXTS = ("The ship left the harbour.", "He was paid a shilling.")
NEURONS = "1.17,2:0-40"


def data_of(run: Run, *words: Any) -> dict[str, Any]:
    ran = run([*words, "--json"])
    assert ran.code == 0, ran.err
    found: dict[str, Any] = json.loads(ran.out)
    return found


@pytest.mark.parametrize("which", ["pooled", "sentence"])
def test_pool_tells_both_and_what_changed(which: str, run: Run, tmp_path: Path) -> None:
    found = data_of(run, "pool", *TEXTS, "--ablate", NEURONS, "--vector", which)
    plain = data_of(run, "pool", *TEXTS, "--vector", which)
    assert found["ablation"] == {"neurons": NEURONS, "count": 42, "to": "zero", "means": None}
    assert found["facts"]["ablated"] == f"{NEURONS} (42 neurons) to zero"
    file = tmp_path / "v.safetensors"
    assert run(["pool", *TEXTS, "--ablate", NEURONS, "--vector", which, "-o", file]).code == 0
    stored = load_file(file)[which]
    for text, before, row in zip(found["texts"], plain["texts"], stored, strict=True):
        for kind in ("pooled", "cls", "mean", "sentence"):
            untouched = text["untouched"][kind]
            assert (untouched is None) == (before[kind] is None)
            if untouched is not None:
                np.testing.assert_allclose(untouched["values"], before[kind]["values"], atol=1e-6)
        one, other = (np.array(node[which]["values"]) for node in (text["untouched"], text))
        np.testing.assert_allclose(other, row, atol=1e-6)
        assert text["change"]["norm"] == pytest.approx(np.linalg.norm(other - one))
        assert text["change"]["relative"] == pytest.approx(np.linalg.norm(other - one) / np.linalg.norm(one))
        assert text["change"]["cosine"] == pytest.approx(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
        farthest = text["moved"][0]
        assert farthest["dimension"] == abs(other - one).argmax()
        assert farthest["change"] == pytest.approx((other - one)[farthest["dimension"]])
        assert len(text["moved"]) == 3
    shown = run(["pool", *TEXTS, "--ablate", NEURONS, "--vector", which])
    assert "what ablation changed" in shown.out


def test_files_say_what_was_taken_out(run: Run, tmp_path: Path) -> None:
    vectors, matrices = tmp_path / "v.safetensors", tmp_path / "m.safetensors"
    ran = run(["pool", *TEXTS, "--ablate", "3.3", "-o", vectors])
    assert "ablated: 3.3 (1 neuron) to zero" in ran.out
    assert run(["activations", *TEXTS, "--ablate", "3.3", "-o", matrices]).code == 0
    for file in (vectors, matrices):
        size = int.from_bytes(file.read_bytes()[:8], "little")
        notes = json.loads(file.read_bytes()[8 : 8 + size])["__metadata__"]
        assert (notes["ablated"], notes["ablated_to"]) == ("3.3", "zero")
    assert not load_file(matrices)["intermediate.3"][:, 3].any()
    assert run(["pool", *TEXTS, "-o", vectors, "--force"]).code == 0
    assert b"ablated" not in vectors.read_bytes()


@pytest.mark.parametrize("pre", [False, True])
def test_activations_tell_both_and_what_changed(pre: bool, run: Run, tmp_path: Path) -> None:
    more = ["--pre"] if pre else []
    found = data_of(run, "activations", *TEXTS, "--ablate", NEURONS, "-o", tmp_path / "a.safetensors", *more)
    plain = data_of(run, "activations", *TEXTS, "-o", tmp_path / "u.safetensors", *more)
    one, other = (load_file(tmp_path / name) for name in ("u.safetensors", "a.safetensors"))
    for layer, before in zip(found["layers"], plain["layers"], strict=True):
        for name, value in before["statistics"].items():
            assert layer["untouched"][name] == pytest.approx(value, rel=1e-4, abs=1e-6)
        u, a = (values[layer["label"]].astype(np.float64) for values in (one, other))
        change = layer["change"]
        assert change["untouched"] == pytest.approx(np.sqrt(np.square(u).mean()), rel=1e-5)
        assert change["ablated"] == pytest.approx(np.sqrt(np.square(a).mean()), rel=1e-5)
        assert change["change"] == pytest.approx(np.sqrt(np.square(a - u).mean()), rel=1e-4, abs=1e-6)
        assert change["neurons_ablated"] == {1: 1, 2: 41}.get(layer["layer"], 0)
        if layer["layer"] < 2 - (not pre):
            assert change["change"] == 0
            assert not layer["moved"]
        for row in layer["moved"]:
            assert (layer["layer"], row["neuron"]) not in {(1, 17), *((2, i) for i in range(41))}
            moved = (a - u)[:, row["neuron"]]
            assert row["change"] == pytest.approx(np.sqrt(np.square(moved).mean()), rel=1e-3)
            assert row["ablated"] - row["untouched"] == pytest.approx(moved.mean(), abs=1e-5)
    shown = run(["activations", *TEXTS, "--ablate", NEURONS, *more])
    assert "neurons that moved most" in shown.out


@pytest.fixture(scope="module")
def scans(small_scan: Path) -> Path:
    """Scans of one corpus: scan, of pocket as it is; zero and mean, of it with neurons taken out."""
    model, corpus = bertprobe.open("pocket"), open_corpus([small_scan / "texts.txt"])
    for name, means in (("zero", None), ("mean", small_scan / "scan")):
        options = Options(Kept(top=5, drawn=40), verify=name == "zero", ablation=model.ablation(NEURONS, means=means))
        prepare_scan(model.checkpoint, model.anatomy, corpus, small_scan / name, options).run()
    return small_scan


def test_a_scan_is_of_the_ablated_model(scans: Path) -> None:
    zero, mean, plain = (bertprobe.open_scan(scans / name) for name in ("zero", "mean", "scan"))
    own = plain.layer(2).sums.means[:41]
    assert not zero.layer(2).sums.means[:41].any()
    np.testing.assert_allclose(mean.layer(2).sums.means[:41], own, atol=1e-6)
    assert (mean.layer(2).sums.highest[:41] == mean.layer(2).sums.lowest[:41]).all()
    np.testing.assert_array_equal(zero.layer(0).sums.squares, plain.layer(0).sums.squares)
    texts = (scans / "texts.txt").read_text().splitlines()
    model = bertprobe.open("pocket")
    found = model.activations(texts, ablate=NEURONS)
    rows = np.concatenate(found[3]).astype(np.float64)
    np.testing.assert_allclose(zero.layer(3).sums.means, rows.mean(0), atol=1e-6)
    assert zero.manifest["verify"]["holds"]
    told = ablated_in(mean.manifest)
    assert told is not None
    assert told.told == f"{NEURONS} (42 neurons) to their means over {scans / 'scan'}"
    assert json.loads(json.dumps(as_option(told))) == mean.manifest["options"]["ablation"]
    assert told.values is not None
    assert told.values[2] == own.tolist()


def test_a_scan_goes_on_with_the_same_neurons_only(scans: Path, run: Run) -> None:
    words = ["neurons", "scan", scans / "texts.txt", "-o", scans / "zero", "--quiet", "--top", "5"]
    model, corpus = bertprobe.open("pocket"), open_corpus([scans / "texts.txt"])
    before = (scans / "zero" / "neurons.safetensors").read_bytes()
    options = Options(Kept(top=5, drawn=40), ablation=model.ablation(NEURONS))
    assert prepare_scan(model.checkpoint, model.anatomy, corpus, scans / "zero", options).left == ()
    assert (scans / "zero" / "neurons.safetensors").read_bytes() == before
    for other in ([], ["--ablate", "1.18"], ["--ablate", NEURONS, "--means", scans / "scan"]):
        ran = run([*words, *other])
        assert ran.code == 1
        assert "holds another scan" in ran.err
        assert "ablation" in ran.err
    ran = run(["neurons", "merge", scans / "scan", scans / "zero", "-o", scans / "both"])
    assert ran.code == 1
    assert "differ: options.ablation" in ran.err.replace("\n", " ")


def test_parts_and_other_processes_take_them_out_as_well(scans: Path, tmp_path: Path) -> None:
    model, corpus = bertprobe.open("pocket"), open_corpus([scans / "texts.txt"])
    ablation = model.ablation(NEURONS, means=scans / "scan")

    def job(name: str, part: Part = WHOLE) -> Any:
        options = Options(Kept(top=5, drawn=40), shard_text=1000, verify=False, part=part, ablation=ablation)
        return prepare_scan(model.checkpoint, model.anatomy, corpus, tmp_path / name, options)

    whole = job("whole")
    whole.run()
    folders = []
    for number in (1, 2):
        job(f"part{number}", Part(number, 2)).run()
        folders.append(bertprobe.open_scan(tmp_path / f"part{number}"))
    from bertprobe.neurons.merge import merge_scans

    merge_scans(folders, tmp_path / "merged")
    for site, found in bertprobe.open_scan(tmp_path / "merged").state.sites.items():
        alone = bertprobe.open_scan(tmp_path / "whole").state.sites[site]
        np.testing.assert_allclose(found.sums.by_position, alone.sums.by_position, rtol=1e-12)
        np.testing.assert_array_equal(found.strongest.where, alone.strongest.where)
    task = pickle.loads(pickle.dumps(ShardScanning.of(whole.work, whole.options, whole.manifest)))  # as actors get it
    sites, _ = task.open()(whole.shards[0], 0)
    assert len(set(np.unique(sites[Site("intermediate.1")].sums.lowest[17:18]))) == 1
    mine, _ = whole.work.scanned(
        whole.shards[0], next(corpus.walk(whole.shards[:1]))[1], {}, lambda texts, tokens: None
    )
    for site in sites:
        np.testing.assert_array_equal(sites[site].sums.by_position, mine[site].sums.by_position)


def test_two_scans_beside_each_other(scans: Path, run: Run) -> None:
    found = data_of(run, "neurons", "list", scans / "zero", "--beside", scans / "scan", "--top", "5")
    one, other = (bertprobe.open_scan(scans / name) for name in ("zero", "scan"))
    assert found["scan"]["ablation"]["neurons"] == NEURONS
    assert "ablation" not in found["beside"]
    assert len(found["moved"]) == 5
    far = []
    for layer in range(4):
        a, b = (scan.layer(layer).sums for scan in (one, other))
        with np.errstate(all="ignore"):
            by = np.maximum(abs(a.means - b.means), abs(a.deviations - b.deviations)) / b.deviations
        far += [(by[i], f"{layer}.{i}") for i in range(512) if not (layer == 2 and i < 41) and (layer, i) != (1, 17)]
    far.sort(reverse=True)
    assert [row["name"] for row in found["moved"]] == [name for _, name in far[:5]]
    row = found["moved"][0]
    sums = [scan.layer(row["layer"]).sums for scan in (one, other)]
    assert [row["mean"], row["mean_beside"]] == [found.means[row["neuron"]] for found in sums]
    assert row["mean_moved"] == pytest.approx((row["mean"] - row["mean_beside"]) / row["std_beside"])
    assert row["std_moved"] == pytest.approx((row["std"] - row["std_beside"]) / row["std_beside"])
    shown = run(["neurons", "list", scans / "zero", "--beside", scans / "scan", "--top", "5"])
    assert f"{NEURONS} (42 neurons) to zero" in shown.out
    same = data_of(run, "neurons", "list", scans / "scan", "--beside", scans / "scan")
    assert same["moved"] == []


def test_a_record_is_of_the_ablated_model(scans: Path, run: Run) -> None:
    ran = run(["neurons", "show", scans / "mean", "2.3", "--format", "neuron-record", "--top", "2"])
    mean = bertprobe.open_scan(scans / "scan").layer(2).sums.means[3]
    for record in json.loads(ran.out)["random_sample"]:
        np.testing.assert_allclose(record["activations"], mean, rtol=1e-6)
    card = run(["neurons", "show", scans / "zero", "3.5", "--beside", scans / "scan", "--top", "2"])
    assert card.code == 0
    assert "ablated" in card.out


def test_means_are_of_the_same_model_untouched_and_done(scans: Path, run: Run, two: Any, tmp_path: Path) -> None:
    whole, _, _ = two("bert")
    ran = run(["pool", "word12", "-m", whole, "--ablate", "0.3", "--means", scans / "scan"])
    assert (ran.code, "not the model that was scanned" in ran.err) == (1, True)
    ran = run(["pool", "a", "--ablate", "0.3", "--means", scans / "zero"])
    assert (ran.code, "scan of an ablated model" in ran.err) == (2, True)
    ran = run(["pool", "a", "--ablate", "0.3", "--means", scans])
    assert (ran.code, "has no manifest.json" in ran.err) == (1, True)
    ran = run(["pool", "a", "--means", scans / "scan"])
    assert (ran.code, "--means goes with --ablate" in ran.err) == (2, True)
    model, corpus = bertprobe.open("pocket"), open_corpus([scans / "texts.txt"])
    options = Options(layers="0", verify=False, compute=Compute("numpy"))
    prepare_scan(model.checkpoint, model.anatomy, corpus, tmp_path / "few", options).run()
    with pytest.raises(PartMissing, match="layer 1 was not scanned"):
        model.ablation("1.3", means=tmp_path / "few")
    with pytest.raises(BadSetting, match="nothing up to layer 0"):
        model.scan(corpus, tmp_path / "none", layers=[0], ablate="2.3")
    manifest = tmp_path / "few" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"complete": true', '"complete": false'))
    with pytest.raises(BadSetting, match="not done"):
        model.ablation("0.3", means=tmp_path / "few")


def test_means_of_shared_layers_are_refused(two: Any, tmp_path: Path) -> None:
    whole, _, texts = two("albert")
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    model = bertprobe.open(whole)
    corpus = open_corpus([tmp_path / "texts.txt"])
    prepare_scan(model.checkpoint, model.anatomy, corpus, tmp_path / "scan", Options(verify=False)).run()
    with pytest.raises(UnsupportedFile, match="mean in each of its turns") as told:
        ablation_from("0.3", model.checkpoint, model.anatomy, tmp_path / "scan")
    assert as_options(told.value.hint) == "ablate to zero: leave out --means"


def test_python_takes_a_list_or_an_ablation(scans: Path, tmp_path: Path) -> None:
    model = bertprobe.open("pocket")
    untouched = model.pool(TEXTS)
    found = model.pool(TEXTS, ablate=NEURONS)
    assert abs(found - untouched).max() > 0.01
    np.testing.assert_array_equal(found, model.pool(TEXTS, ablate=bertprobe.Ablation({1: (17,), 2: tuple(range(41))})))
    np.testing.assert_array_equal(model.pool(TEXTS), untouched)
    mean = model.ablation(NEURONS, means=scans / "scan")
    assert 0 < abs(model.pool(TEXTS, ablate=mean) - untouched).max() < abs(found - untouched).max()
    assert not np.array_equal(model.pool(TEXTS, vector="sentence", ablate=mean), model.pool(TEXTS, vector="sentence"))
    assert not model.activations(TEXTS, ablate="2.7", layers=2)[2][0][:, 7].any()
    with pytest.raises(BadSetting, match="nothing up to layer 1"):
        model.activations(TEXTS, ablate="2.7", layers=1)
    with pytest.raises(PartMissing):
        model.pool(TEXTS, ablate="9.1")
    statistics = NeuronStatistics({"intermediate.2"})
    assert model.run(TEXTS, statistics, ablate="2.7").ablation is not None
    assert statistics.sums[Site("intermediate.2")].squares[7] == 0
    corpus = open_corpus([scans / "texts.txt"])
    scan = model.scan(corpus, tmp_path / "scan", ablate=NEURONS, kept=Kept(top=5, drawn=40))
    np.testing.assert_allclose(
        scan.layer(3).sums.means, bertprobe.open_scan(scans / "zero").layer(3).sums.means, atol=1e-6
    )
    with pytest.raises(OutputError):
        model.scan(corpus, tmp_path / "scan", kept=Kept(top=5, drawn=40))
    with pytest.raises(NotFound):
        model.ablation("1.3", means=tmp_path)
