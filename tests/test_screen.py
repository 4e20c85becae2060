"""The causal screen: gradients against transformers' own, estimates against taking neurons out, whatever the output."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import zoo
from conftest import Run
from hypothesis import given
from hypothesis import strategies as st
from kin import POCKET, load
from safetensors.numpy import load_file, save_file
from transformers import BertForMaskedLM

from bertprobe.anatomy import find_parts
from bertprobe.checkpoint import open_checkpoint
from bertprobe.corpus import open_corpus
from bertprobe.errors import BertprobeError, NotFound, PartMissing, UnsupportedFile
from bertprobe.neurons.folder import open_scan
from bertprobe.run import HIDDEN, Captured, Compute, Matrices, Site, open_runner, run_texts
from bertprobe.run.sentence import DenseStep, Normalized, NormStep, pooled
from bertprobe.screen import Options, Screen, ScreenJob, prepare_screen
from bertprobe.screen.exact import rows_of
from bertprobe.screen.gradients import estimated
from bertprobe.screen.masked import divergences
from bertprobe.screen.outputs import applied, pooled_rows
from bertprobe.screen.texts import drawn
from bertprobe.stats.ranks import ranks, spearman

TEXTS = (
    "The ship left the harbour in the morning.",
    "He was paid a shilling for the horse, and gave it to the boy.",
    "She had no answer.",
    "It rained on Sunday; nobody went to church, and the road was empty.",
    "A very small dog.",
    "Of what use is a letter that nobody reads?",
)
ONE = Compute("torch", threads=1)


def job(model: str | Path = "pocket", texts: Sequence[str] = TEXTS, **options: object) -> ScreenJob:
    checkpoint = open_checkpoint(str(model))
    made = Options(**{"compute": ONE, "exact": 0, "drawn": 0, **options})  # type: ignore[arg-type]
    return prepare_screen(checkpoint, find_parts(checkpoint), texts, made)


def screened(model: str | Path = "pocket", texts: Sequence[str] = TEXTS, **options: object) -> Screen:
    return job(model, texts, **options).run()


# ------------------------------------------------------------------------------------------------ gradients


def test_the_moves_are_those_of_transformers_own_gradients() -> None:
    """A text at a time through transformers in float64, with hooks of its own: relative 1e-3 of the largest move.

    Ours are sums of float32 products through four layers, of which the smallest lose digits to the largest.
    """
    ready = job(texts=TEXTS[:3])
    found = estimated(ready.runner, ready.texts, ready.output, ready.layers, seed=5)
    model = load().double().eval()
    theirs = np.zeros((4, 512))
    for place, text in enumerate(ready.texts):
        seen: list[torch.Tensor] = []

        def keep(module: object, taken: object, given: torch.Tensor, seen: list[torch.Tensor] = seen) -> None:
            given.retain_grad()
            seen.append(given)

        hooks = [layer.intermediate.register_forward_hook(keep) for layer in model.encoder.layer]
        pooler = model(input_ids=torch.tensor(text.ids)[None]).pooler_output[0]
        signs = np.random.default_rng([5, 0, place]).integers(0, 2, 128) * 2 - 1
        (pooler * torch.tensor(signs)).sum().backward()
        for layer, after in enumerate(seen):
            assert after.grad is not None
            theirs[layer] += ((-after * after.grad)[0].sum(0).detach().numpy()) ** 2
        for hook in hooks:
            hook.remove()
    assert found.count == found.texts == 3
    for layer in range(4):
        ours = found.layers[layer].squares
        assert np.abs(ours - theirs[layer]).max() < 1e-3 * theirs[layer].max()


def test_batches_and_threads_change_nothing_but_roundings() -> None:
    one, other = (
        screened(compute=Compute("torch", threads=threads, batch_tokens=n)) for threads, n in ((1, 8), (2, 400))
    )
    for layer in one.effects:
        np.testing.assert_allclose(one.effects[layer], other.effects[layer], rtol=1e-3, atol=1e-6)


def test_a_layers_neurons_are_the_same_with_others_or_alone() -> None:
    whole, alone = screened(), screened(layers="1,3")
    assert list(alone.effects) == [1, 3]
    np.testing.assert_allclose(whole.effects[3], alone.effects[3], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("on", ["pooled", "cls", "mean", "sentence"])
def test_estimates_rank_neurons_as_taking_them_out_does(on: str) -> None:
    found = screened(texts=TEXTS * 4, output=on, exact=20, drawn=20)
    assert found.correlation() > 0.9
    assert found.reruns[0].effect == pytest.approx(
        found.effects[found.reruns[0].layer][found.reruns[0].neuron], rel=0.5
    )


def test_exact_effects_are_those_of_weights_with_the_column_removed(tmp_path: Path) -> None:
    ready = job(exact=1)
    found = ready.run()
    (one,) = found.reruns
    tensors = {name: values.astype(np.float32) for name, values in load_file(POCKET / "model.safetensors").items()}
    for name in tensors:
        if name.endswith(f"encoder.layer.{one.layer}.output.dense.weight"):
            tensors[name] = tensors[name].copy()
            tensors[name][:, one.neuron] = 0
    for file in ("config.json", "tokenizer.json"):
        (tmp_path / file).write_bytes((POCKET / file).read_bytes())
    save_file(tensors, tmp_path / "model.safetensors")
    ours, theirs = (load_pooled(model) for model in ("pocket", tmp_path))
    moved = (ours.astype("f8") - theirs) ** 2
    assert one.effect == pytest.approx(float(np.sqrt(moved.sum(1).mean())), rel=1e-6)


def load_pooled(model: str | Path) -> np.ndarray:
    import bertprobe

    return bertprobe.open(model).pool(list(TEXTS), compute=ONE)


def test_means_of_a_scan_are_put_in_the_place_of_neurons() -> None:
    checkpoint = open_checkpoint("pocket")
    anatomy = find_parts(checkpoint)
    kept = Matrices({"intermediate.2"})
    run_texts(open_runner(checkpoint, anatomy, ONE), TEXTS, kept)
    rows = np.concatenate(kept.kept[Site("intermediate.2")])
    to_zero = screened(layers="2", exact=6, drawn=20)
    to_mean = screened(layers="2", exact=6, drawn=20, means={2: rows.mean(0).tolist()})
    assert to_mean.correlation() > 0.9
    assert not np.allclose(to_zero.effects[2], to_mean.effects[2])
    constant = screened(layers="2", means={2: np.where(np.arange(512) == 7, 0, rows.mean(0)).tolist()})
    assert constant.effects[2][7] == pytest.approx(to_zero.effects[2][7], rel=1e-4)


def test_a_neuron_that_writes_nothing_has_no_effect_and_one_that_writes_most_is_first(tmp_path: Path) -> None:
    tensors = {name: values.astype(np.float32) for name, values in load_file(POCKET / "model.safetensors").items()}
    name = next(name for name in tensors if name.endswith("encoder.layer.1.output.dense.weight"))
    tensors[name] = tensors[name].copy()
    tensors[name][:, 5] = 0
    tensors[name][:, 9] *= 100
    for file in ("config.json", "tokenizer.json"):
        (tmp_path / file).write_bytes((POCKET / file).read_bytes())
    save_file(tensors, tmp_path / "model.safetensors")
    found = screened(tmp_path, exact=1)
    assert found.effects[1][5] == 0
    assert found.strongest(1) == [(1, 9)]
    assert found.reruns[0].effect > found.effects[0].max() or found.effects[1][9] > found.effects[0].max()


@pytest.mark.parametrize("family", ["albert", "modernbert", "distilbert", "squeezebert", "roberta"])
def test_other_families_have_gradients(family: str, tmp_path: Path) -> None:
    """Shared layers, gated ones, convolutions: estimates and exact effects of all neurons of a tiny model agree."""
    zoo.save(family, tmp_path)
    zoo.save_tokenizer(tmp_path)
    found = screened(tmp_path, texts=("a b c", "hello he cab", "b a"), output="mean", exact=10**6)
    assert len(found.reruns) == found.neurons
    assert found.correlation() > 0.9


# ------------------------------------------------------------------------------------------------ outputs


def captured(rows: np.ndarray, lengths: Sequence[int]) -> Captured:
    from bertprobe.backends import TorchBackend

    return Captured(Site(HIDDEN), None, np.array(lengths), torch.tensor(rows), None, TorchBackend())  # type: ignore[arg-type]


def test_without_a_pooler_other_outputs_are_named(tmp_path: Path) -> None:
    zoo.save("distilbert", tmp_path)
    zoo.save_tokenizer(tmp_path)
    with pytest.raises(PartMissing, match="pooler") as told:
        screened(tmp_path, output="pooled")
    assert told.value.hint == "choose another output: sentence, mean or cls"  # the command has no --vector


@pytest.mark.parametrize(("family", "told"), [("reformer", "in a way that has gradients"), ("funnel", "not numbered")])
def test_families_that_have_no_gradients_or_numbers_are_refused(family: str, told: str, tmp_path: Path) -> None:
    zoo.save(family, tmp_path)
    text = zoo.save_tokenizer(tmp_path)
    with pytest.raises(BertprobeError, match=told):
        screened(tmp_path, [text], output="mean")


@pytest.mark.parametrize("left_out", [0, 1])
@pytest.mark.parametrize("mode", ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
def test_pooling_is_the_one_without_gradients(mode: str, left_out: int) -> None:
    hidden = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    ours = pooled_rows(torch.tensor(hidden), [4, 2, 3], mode, left_out)
    np.testing.assert_allclose(ours, pooled(hidden, np.array([4, 2, 3]), mode, left_out), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("width", [5, 3])
def test_steps_are_those_without_gradients(residual: bool, width: int) -> None:
    draw = np.random.default_rng(1)
    rows = draw.normal(size=(4, 5)).astype(np.float32)
    weight, bias = draw.normal(size=(width, 5)).astype(np.float32), draw.normal(size=width).astype(np.float32)
    matrix = draw.normal(size=(width, 5)).astype(np.float32) if residual and width != 5 else None
    steps = (
        DenseStep(weight, bias, matrix, residual, "tanh"),
        DenseStep(weight, None, matrix, residual, "linear"),
        NormStep(draw.normal(size=5).astype(np.float32), draw.normal(size=5).astype(np.float32)),
        Normalized(),
    )
    for step in steps:
        np.testing.assert_allclose(applied(step, torch.tensor(rows)), step(rows), rtol=1e-5, atol=1e-6)


def test_a_text_without_a_token_behind_its_prompt_is_refused() -> None:
    with pytest.raises(UnsupportedFile, match="behind its prompt"):
        pooled_rows(torch.zeros(3, 2), [1, 2], "mean", 1)


def test_a_masked_tokens_prediction_is_that_of_transformers() -> None:
    """Untouched logits and the divergence without a neuron, by BertForMaskedLM with a hook of its own."""
    ready = job(output="masked", exact=2)
    counts = [int((text.ids == ready.output.mask).sum()) for text in ready.texts]  # type: ignore[attr-defined]
    assert counts == [min(max(round(0.15 * (len(text.ids) - 2)), 1), 8) for text in ready.texts]
    found = ready.run()
    untouched = rows_of(ready.runner, ready.texts, ready.output)
    model = load(BertForMaskedLM).eval()
    theirs = predictions(model, ready)
    np.testing.assert_allclose(untouched, theirs, rtol=1e-4, atol=1e-4)
    for one in found.reruns:

        def without(module: object, taken: object, given: torch.Tensor, neuron: int = one.neuron) -> torch.Tensor:
            given = given.clone()
            given[..., neuron] = 0
            return given

        hook = model.bert.encoder.layer[one.layer].intermediate.register_forward_hook(without)
        logs, others = (torch.log_softmax(torch.tensor(x).double(), 1) for x in (theirs, predictions(model, ready)))
        hook.remove()
        divergence = torch.nn.functional.kl_div(others, logs, log_target=True, reduction="batchmean")
        assert one.effect == pytest.approx(float(divergence), rel=1e-3)


def predictions(model: torch.nn.Module, ready: ScreenJob) -> np.ndarray:
    rows = []
    with torch.no_grad():
        for text in ready.texts:
            logits = model(input_ids=torch.tensor(text.ids)[None]).logits[0]
            rows.append(logits[text.ids == ready.output.mask].numpy())  # type: ignore[attr-defined]
    return np.concatenate(rows)


def test_what_is_drawn_of_a_prediction_has_its_divergence_as_mean_square() -> None:
    """Of a small shift of the logits, over 4,000 draws: half the mean square is the divergence to 10 %."""
    draw = np.random.default_rng(3)
    logits = draw.normal(size=(1, 12)) * 2
    shift = draw.normal(size=(1, 12)) * 1e-3
    ready = job(output="masked")
    rows = torch.tensor(logits.repeat(4000, 0), requires_grad=True)
    numbers = ready.output.scalars((rows, torch.arange(4000)), [np.random.default_rng(i) for i in range(4000)])
    (gradients,) = torch.autograd.grad(numbers.sum(), rows)
    moves = gradients.numpy() @ shift[0]
    assert (moves**2).mean() / 2 == pytest.approx(divergences(logits, logits + shift)[0], rel=0.1)


@pytest.mark.parametrize("family", ["bert", "roberta", "albert"])
def test_predictions_of_other_families_rank_neurons(family: str, tmp_path: Path) -> None:
    shutil.copy(POCKET / "tokenizer.json", tmp_path)
    config = zoo.build(family, vocab_size=8192, max_position_embeddings=40).config
    with torch.random.fork_rng():
        torch.manual_seed(0)
        getattr(transformers, type(config).__name__.removesuffix("Config") + "ForMaskedLM")(config).save_pretrained(
            tmp_path
        )
    found = screened(tmp_path, texts=TEXTS * 4, output="masked", exact=10**6)
    assert found.unit == "nats"
    assert found.correlation() > 0.9


def test_masks_are_drawn_by_place_and_leave_special_tokens() -> None:
    ready, again = (job(output="masked", texts=TEXTS) for _ in range(2))
    assert all((a.ids == b.ids).all() for a, b in zip(ready.texts, again.texts, strict=True))
    mask = ready.output.mask  # type: ignore[attr-defined]
    for text in ready.texts:
        assert (text.ids[[0, -1]] != mask).all()
        assert (text.ids == mask).any()
    own = job(output="masked", texts=["The ship left the [MASK]."]).texts[0]
    assert own.tokens[int(np.argmax(own.ids == mask))] == "[MASK]"
    with pytest.raises(NotFound, match="to be masked"):
        job(output="masked", texts=["[SEP]"])


# ------------------------------------------------------------------------------------------------ texts and ranks


def test_texts_are_drawn_from_all_of_a_corpus(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"line {i}\n\n" for i in range(400)))
    corpus = open_corpus([str(path)])
    few, more = drawn(corpus, 20, 0), drawn(corpus, 60, 0)
    assert [d.row for d in few] == sorted(d.row for d in few)
    assert {d.row for d in few} < {d.row for d in more}
    assert {d.row for d in drawn(corpus, 20, 1)} != {d.row for d in few}
    assert 300 < np.mean([d.row for d in drawn(corpus, 200, 0)]) < 500  # of 800 lines, each second one empty
    assert len(drawn(corpus, 10**6, 0)) == 400


@given(st.lists(st.tuples(st.integers(-3, 3), st.floats(-5, 5)), min_size=2, max_size=30))
def test_ranks_are_counts_of_what_is_smaller(pairs: list[tuple[int, float]]) -> None:
    one, other = ([pair[i] for pair in pairs] for i in (0, 1))
    for values in (one, other):
        counted = [sum(x < y for x in values) + (sum(x == y for x in values) + 1) / 2 for y in values]
        assert ranks(values).tolist() == counted
    if len(set(one)) > 1 and len(set(other)) > 1:
        assert spearman(one, other) == pytest.approx(np.corrcoef(ranks(one), ranks(other))[0, 1], abs=1e-9)
    else:
        assert np.isnan(spearman(one, other))


def test_lists_of_other_lengths_have_no_correlation() -> None:
    with pytest.raises(ValueError, match="2 values beside 1"):
        spearman([1, 2], [1])
    assert np.isnan(spearman([], []))


# ------------------------------------------------------------------------------------------------ the command


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS))
    return path


def test_the_command_tells_what_the_room_finds(run: Run, corpus: Path) -> None:
    argv = ["neurons", "screen", str(corpus), "--threads", "1", "--top", "3", "--exact", "4", "--drawn", "2"]
    told = json.loads(run([*argv, "--json"]).out)
    found = screened(exact=4, drawn=2)
    names = [f"{layer}.{neuron}" for layer, neuron in found.strongest(3)]
    assert [neuron["name"] for neuron in told["neurons"] if not neuron["drawn"]] == names
    assert told["screen"]["neurons"] == 2048
    assert told["screen"]["reruns"] == 6
    np.testing.assert_allclose(told["layers"][2]["effects"], found.effects[2], rtol=1e-3, atol=1e-7)
    shown = run(argv).out
    assert "Spearman's" in shown
    assert names[0] in shown


def test_means_come_from_a_scan_of_the_same_model(run: Run, corpus: Path, small_scan: Path, tmp_path: Path) -> None:
    argv = ["neurons", "screen", str(corpus), "--threads", "1", "--exact", "2", "--drawn", "0", "--layers", "2"]
    told = json.loads(run([*argv, "--means", str(small_scan / "scan"), "--json"]).out)
    means = open_scan(small_scan / "scan").layer(2).sums.means.tolist()
    assert told["screen"]["instead"] == "mean"
    found = screened(layers="2", means={2: means})
    np.testing.assert_allclose(told["layers"][0]["effects"], found.effects[2], rtol=1e-3, atol=1e-7)
    other = tiny_bert_with_tokenizer(tmp_path / "tiny")
    refused = run([*argv, "--means", str(small_scan / "scan"), "-m", str(other), "--layers", "1", "--on", "mean"])
    assert refused.code == 1


def tiny_bert_with_tokenizer(folder: Path) -> Path:
    zoo.save("bert", folder)
    zoo.save_tokenizer(folder)
    return folder


def test_from_python() -> None:
    import bertprobe

    found = bertprobe.open("pocket").screen(list(TEXTS), layers=[0, -1], exact=2, drawn=0, compute=ONE)
    assert list(found.effects) == [0, 3]
    assert [(one.layer, one.neuron) for one in found.reruns] == found.strongest(2)
    with pytest.raises(BertprobeError, match="output is"):
        bertprobe.open("pocket").screen("a", "nothing")


def test_what_cannot_be_screened_is_refused(run: Run, tmp_path: Path, corpus: Path, tiny_bert: Path) -> None:
    with pytest.raises(UnsupportedFile, match="numpy"):
        screened(compute=Compute("numpy"))
    with pytest.raises(NotFound, match="no text"):
        screened(texts=())
    with pytest.raises(PartMissing, match="no masked-language-model head"):
        screened(tiny_bert_with_tokenizer(tmp_path / "tiny"), texts=("a b",), output="masked")
    with pytest.raises(PartMissing, match="no layer 7"):
        screened(layers="7")
    tensors = {name: values.astype(np.float32) for name, values in load_file(POCKET / "model.safetensors").items()}
    without = {name: values for name, values in tensors.items() if "pooler" not in name}
    for folder, held in {"bare": without, "broken": tensors}.items():
        (tmp_path / folder).mkdir()
        for file in ("config.json", "tokenizer.json"):
            (tmp_path / folder / file).write_bytes((POCKET / file).read_bytes())
        if folder == "broken":
            held = {name: np.full_like(v, np.nan) if "pooler" in name else v for name, v in held.items()}
        save_file(held, tmp_path / folder / "model.safetensors")
    with pytest.raises(PartMissing, match="pooler"):
        screened(tmp_path / "bare", output="pooled")
    with pytest.raises(BertprobeError, match="NaN or infinite"):
        screened(tmp_path / "broken", output="pooled")
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n")
    refused = run(["neurons", "screen", str(empty)])
    assert refused.code == 1
    assert "no text" in refused.err
