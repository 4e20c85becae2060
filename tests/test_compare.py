"""`diff`: numbers against a second way, corresponding tensors across files, findings on kin of the built-in model."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bundle
import kin
import ml_dtypes
import numpy as np
import pytest
import torch
from conftest import Run
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from bertprobe.compare.delta import MOST_RANK, Delta, delta
from bertprobe.compare.rules import RULES

NOISE = np.random.default_rng(0)


def normal(*shape: int, scale: float = 0.05) -> Any:
    return NOISE.normal(0, scale, shape).astype(np.float32)


def of(a: Any, b: Any, **settings: Any) -> Delta:
    names = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64"}
    return delta(a, b, (names[a.dtype.name], names[b.dtype.name]), **settings)


# ------------------------------------------------------------------------------------------------ numbers


@settings(max_examples=40, deadline=None)
@given(
    shape=st.sampled_from([(1,), (7,), (3, 5), (70, 40), (300, 700), (2, 3, 4)]),
    dtypes=st.tuples(*[st.sampled_from([np.float16, np.float32, np.float64, ml_dtypes.bfloat16])] * 2),
    turned=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_numbers_are_those_of_numpy(shape: tuple[int, ...], dtypes: tuple[Any, Any], turned: bool, seed: int) -> None:
    noise = np.random.default_rng(seed)
    a = noise.normal(size=shape).astype(dtypes[0])
    b = (a.astype(np.float64) + noise.normal(size=shape) * 10.0 ** noise.integers(-9, 2)).astype(dtypes[1])
    if turned:
        b = np.asfortranarray(b)
    found = of(a, b, neurons=2)
    x, y = a.astype(np.float64), b.astype(np.float64)
    d = y - x
    assert found.count == x.size
    assert found.identical == bool((x == y).all())
    assert found.changed == int((x != y).sum())
    close = {"rel": 1e-9, "abs": 1e-300}
    assert found.distance == pytest.approx(np.linalg.norm(d), **close)
    assert found.change == pytest.approx(np.linalg.norm(d) / np.linalg.norm(x), **close)
    assert found.cosine == pytest.approx((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y), rel=1e-9)
    if found.changed:
        assert found.place is not None
        assert found.largest == d[found.place]
        assert abs(found.largest or 0) == np.abs(d).max()
        if x.ndim > 1:
            rows = np.linalg.norm(d.reshape(len(d), -1), axis=1) / np.linalg.norm(x.reshape(len(x), -1), axis=1)
            assert found.neurons[0].neuron == rows.argmax()
            assert found.neurons[0].change == pytest.approx(rows.max(), rel=1e-9)


def test_identical_is_of_values_after_promotion() -> None:
    a = normal(40, 30).astype(np.float16)
    assert of(a, a.astype(np.float64)).identical
    assert of(a, np.asfortranarray(a.astype(np.float32))).identical
    assert not of(a, -a).identical
    signed = of(np.array([0.0, 1.0], np.float32), np.array([-0.0, 1.0], np.float32))
    assert (signed.identical, signed.changed, signed.change) == (False, 0, 0.0)
    numbers = np.arange(5)
    assert of(numbers, numbers.copy()).identical
    assert of(numbers, numbers + 1).exceeds(1e9)
    assert delta(numbers * 1j, numbers * 2j, ("C64", "C64")).changed == 4
    empty = np.empty((0, 3), np.float32)
    assert of(empty, empty.copy()).identical
    assert of(np.float32(1).reshape(()), np.float32(2).reshape(())).change == 1


def test_what_is_not_finite_is_counted_and_has_no_share() -> None:
    a = normal(20, 30)
    same = a.copy()
    same[3, 4] = np.nan
    assert of(same, np.asfortranarray(same)).identical
    b = a.copy()
    b[0, 0], b[1, 1] = np.nan, np.inf
    found = of(a, b)
    assert (found.nonfinite_mismatch, found.changed, found.change, found.cosine, found.largest) == (
        2,
        2,
        None,
        None,
        None,
    )
    assert found.exceeds(1e9)
    infinite = np.array([np.inf, 1.0], np.float32)
    assert of(infinite, np.array([-np.inf, 1.0], np.float32)).nonfinite_mismatch == 1
    assert of(infinite, np.array([np.inf, 2.0], np.float32)).nonfinite_mismatch == 0


def test_a_change_of_nothing_has_no_share() -> None:
    zero = np.zeros((4, 4), np.float32)
    assert of(zero, zero.copy()).change == 0
    found = of(zero, zero + 1, neurons=1)
    assert found.change is None
    assert found.exceeds(1e9)
    assert found.neurons[0].change is None


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_rounding_is_told_by_dtype_and_by_side(dtype: Any) -> None:
    a = normal(60, 50)
    narrow = a.astype(dtype)
    name = {"float16": "F16", "bfloat16": "BF16"}[narrow.dtype.name]
    for one, other, side in ((a, narrow, "b"), (a, narrow.astype(np.float32), "b"), (narrow, a, "a")):
        found = of(one, other)
        assert (found.rounding, found.rounded, found.is_same) == (name, side, True)
    nudged = a * np.float32(1 + {"F16": 2e-5, "BF16": 1e-3}[name])  # no further than half a step
    nudged = np.where(nudged.astype(dtype) == narrow, nudged, a)
    assert (of(a, nudged).rounding, of(a, nudged).rounded) == (name, "neither")
    assert not of(a, nudged).is_same
    far = a.copy()
    far[7, 7] *= 1.01
    assert of(far, narrow).rounding is None


def test_rounding_that_overflows_is_none() -> None:
    a = np.array([[1e6, 1.0], [2.0, 3.0]], np.float32)
    b = np.array([[2e6, 1.0], [2.0, 3.0]], np.float32)
    assert of(a, b).rounding is None


def test_double_precision_rounds_to_single() -> None:
    a = NOISE.normal(size=(10, 10))
    assert of(a, a.astype(np.float32)).rounding == "F32"


@pytest.mark.parametrize("rank", [1, 4, 16])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", [(256, 128), (128, 256)])
def test_a_low_rank_is_found_through_rounding(rank: int, dtype: Any, shape: tuple[int, int]) -> None:
    a = normal(*shape).astype(dtype)
    update = NOISE.normal(size=(shape[0], rank)) @ NOISE.normal(size=(rank, shape[1]))
    update *= 0.1 * np.linalg.norm(a.astype(np.float64)) / np.linalg.norm(update)
    for spectrum in (False, True):
        found = of(a, (a.astype(np.float64) + update).astype(dtype), spectrum=spectrum)
        assert (found.rank, found.full_rank) == (rank, 128)
        assert found.is_low_rank


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_noise_and_training_have_no_low_rank(dtype: Any) -> None:
    a = normal(300, 200)
    b = (a + normal(300, 200, scale=0.01)).astype(dtype)
    assert of(a.astype(dtype), b).rank is None
    found = of(a.astype(dtype), b, spectrum=True)
    sigmas = np.linalg.svd(b.astype(np.float64) - a.astype(dtype).astype(np.float64), compute_uv=False)
    shares = sigmas / sigmas.sum()
    assert found.effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-6)
    assert not found.is_low_rank
    more = NOISE.normal(size=(300, MOST_RANK + 20)) @ NOISE.normal(size=(MOST_RANK + 20, 200)) * 0.001
    assert of(a, a + more.astype(np.float32)).rank is None  # more than a sketch can tell


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_scattered_steps_of_the_last_digit_are_no_low_rank(share: float) -> None:
    """What a small learning rate does to weights in bfloat16: most round back to what they were."""
    a = normal(256, 256).astype(ml_dtypes.bfloat16)
    steps = (NOISE.random(a.shape) < share).astype(np.uint16)
    b = (a.view(np.uint16) + steps).view(ml_dtypes.bfloat16)
    for spectrum in (False, True):
        assert not of(a, b, spectrum=spectrum).is_low_rank


# ------------------------------------------------------------------------------------------------ real kin


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with kin of the built-in model, one of them really fine-tuned."""
    folder = tmp_path_factory.mktemp("kin")
    for make in (kin.tuned, kin.merged, kin.without_pooler, kin.reinitialised):
        make(folder / make.__name__)
    return folder


Diff = Callable[..., dict[str, Any]]


@pytest.fixture
def diff(run: Run) -> Diff:
    """Runs `diff --json` and gives the data."""

    def go(*argv: Any, code: int = 0) -> dict[str, Any]:
        ran = run(["diff", *map(str, argv), "--json"])
        assert ran.code == code, ran.err
        found: dict[str, Any] = json.loads(ran.out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
        return found

    return go


def rules(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {finding["rule"]: finding for finding in data["findings"]}


def test_a_fine_tuning_tells_what_was_frozen(family: Path, diff: Diff) -> None:
    data = diff("pocket", family / "tuned")
    found = rules(data)
    assert set(found) == {"layers-frozen"}
    assert found["layers-frozen"]["evidence"]["layers"] == list(range(kin.FROZEN))
    assert found["layers-frozen"]["evidence"]["embeddings"]
    results = {part["label"]: part["result"] for part in data["parts"]}
    assert results == {
        "intermediate.0": "identical", "intermediate.1": "identical", "intermediate.2": "changed",
        "intermediate.3": "changed", "pooler": "changed",
    }  # fmt: skip
    assert {row["name"] for row in data["apart"]["only_b"]} == {"classifier.weight", "classifier.bias"}


def test_its_numbers_are_those_of_torch(family: Path, diff: Diff) -> None:
    old, new = load_file(kin.POCKET / "model.safetensors"), load_file(family / "tuned" / "model.safetensors")
    data = diff("pocket", family / "tuned")
    tensors = [tensor for part in data["parts"] for tensor in part["tensors"]] + data["elsewhere"]
    assert len(tensors) == 71
    for tensor in tensors:
        a, b = old[tensor["stored_name_a"]].double(), new[tensor["stored_name_b"]].double()
        found = tensor["difference"]
        assert found["identical"] == torch.equal(a, b)
        assert found["change"] == pytest.approx(float((b - a).norm() / a.norm()), rel=1e-9)
        assert found["cosine"] == pytest.approx(float((a * b).sum() / a.norm() / b.norm()), rel=1e-9)
        assert abs(found["largest"]) == float((b - a).abs().max())
    layers = {row["place"]: row for row in data["places"]}
    names = [tensor for tensor in tensors if tensor["place"] == "layer 3"]
    moved = sum(float((new[t["stored_name_b"]].double() - old[t["stored_name_a"]].double()).norm()) ** 2 for t in names)
    size = sum(float(old[t["stored_name_a"]].double().norm()) ** 2 for t in names)
    assert layers["layer 3"]["change"] == pytest.approx((moved / size) ** 0.5, rel=1e-9)


def test_a_merged_adapter_shows(family: Path, diff: Diff) -> None:
    found = rules(diff("pocket", family / "merged"))
    assert set(found) == {"low-rank-change", "pooler-unchanged", "layers-frozen"}
    tensors = found["low-rank-change"]["evidence"]["tensors"]
    assert {tensor["rank"] for tensor in tensors} == {kin.RANK}
    assert len(tensors) == 8
    assert found["layers-frozen"]["evidence"]["layers"] == []


def test_a_lost_pooler_and_one_made_anew(family: Path, diff: Diff) -> None:
    assert set(rules(diff("pocket", family / "without_pooler"))) == {"pooler-lost", "identical"}
    found = rules(diff("pocket", family / "reinitialised"))
    assert set(found) == {"pooler-reinitialised", "layers-frozen"}
    evidence = found["pooler-reinitialised"]["evidence"]
    assert (evidence["verdict_a"], evidence["verdict_b"]) == ("trained", "untrained")
    assert abs(evidence["cosine"]) < 0.05


def test_casts_are_told(family: Path, diff: Diff, run: Run, tmp_path: Path) -> None:
    for dtype, name in (("bfloat16", "BF16"), ("float16", "F16")):
        file = tmp_path / f"{dtype}.safetensors"
        assert run(["export", str(family / "tuned"), "--part", "model", "--dtype", dtype, "-o", str(file)]).code == 0
        data = diff(family / "tuned", file)
        assert rules(data)["same-up-to-rounding"]["evidence"]["dtypes"] == [name]
        assert (
            f"the same model up to rounding: B is A rounded to {name}" in rules(data)["same-up-to-rounding"]["message"]
        )
        assert f"A is B rounded to {name}" in rules(diff(file, family / "tuned"))["same-up-to-rounding"]["message"]
    wide = tmp_path / "wide.safetensors"
    assert run(["export", "pocket", "--part", "model", "--dtype", "float32", "-o", str(wide)]).code == 0
    assert set(rules(diff("pocket", wide))) == {"identical"}


def test_two_strangers_are_told(diff: Diff, tmp_path: Path) -> None:
    config = BertConfig(vocab_size=60, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
                        max_position_embeddings=16)  # fmt: skip
    for name in ("one", "other"):
        BertModel(config).save_pretrained(tmp_path / name)
    assert "unrelated" in rules(diff(tmp_path / "one", tmp_path / "other"))


# ------------------------------------------------------------------------------------------------ files and shapes


def test_files_prefixes_and_ties_do_not_matter(family: Path, diff: Diff, tmp_path: Path) -> None:
    tensors = load_file(family / "without_pooler" / "model.safetensors")
    tensors["bert.embeddings.position_ids"] = torch.arange(128)[None]
    words = tensors["bert.embeddings.word_embeddings.weight"]
    tensors["cls.predictions.decoder.weight"] = words
    renamed = {
        f"module.{name}".replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for name, t in tensors.items()
    }
    folder = tmp_path / "pickled"
    folder.mkdir()
    torch.save({"state_dict": renamed}, folder / "pytorch_model.bin")
    shutil.copy(family / "without_pooler" / "config.json", folder)
    data = diff(family / "without_pooler", folder, "--strict")
    assert set(rules(data)) == {"identical"}
    assert data["apart"] == {"reshaped": [], "only_a": [], "only_b": []}


def test_a_tensorflow_checkpoint_compares_with_what_became_of_it(family: Path, diff: Diff, tmp_path: Path) -> None:
    stored = {name: t.float().numpy() for name, t in load_file(kin.POCKET / "model.safetensors").items()}
    (tmp_path / "tf").mkdir()
    bundle.save(tmp_path / "tf" / "bert_model.ckpt", bundle.with_training(bundle.as_google(stored)))
    shutil.copy(kin.POCKET / "config.json", tmp_path / "tf" / "bert_config.json")
    data = diff(tmp_path / "tf", "pocket", "--strict")
    assert data["a"]["facts"]["storage"] == "TensorFlow"
    assert set(rules(data)) == {"identical"}
    ours, theirs = diff("pocket", family / "tuned"), diff(tmp_path / "tf", family / "tuned")
    assert rules(theirs)["layers-frozen"]["evidence"] == rules(ours)["layers-frozen"]["evidence"]
    for one, other in zip(ours["parts"], theirs["parts"], strict=True):
        assert one["neurons"] == other["neurons"]
        for key in ("change", "cosine", "largest", "place"):
            mine, its = (part["tensors"][0]["difference"][key] for part in (one, other))
            assert mine == (its if key == "place" else pytest.approx(its, rel=1e-9))


def test_a_turned_tensor_compares_in_its_orientation(tmp_path: Path, diff: Diff, family: Path) -> None:
    """A pickle holds views of any strides: TensorFlow's kernels, once turned, are such."""
    tensors = load_file(family / "tuned" / "model.safetensors")
    turned = {name: t.T.contiguous().T if t.dim() == 2 else t for name, t in tensors.items()}
    torch.save(turned, tmp_path / "turned.bin")
    assert set(rules(diff(family / "tuned", tmp_path / "turned.bin"))) == {"identical"}


def test_what_has_other_shapes_is_told_and_the_rest_compared(tmp_path: Path, diff: Diff, run: Run) -> None:
    tensors = load_file(kin.POCKET / "model.safetensors")
    words = next(name for name in tensors if name.endswith("word_embeddings.weight"))
    tensors[words] = torch.cat([tensors[words], torch.ones(3, 128, dtype=torch.float16)])
    dropped = [name for name in tensors if ".layer.3." in name]
    pooler = next(name for name in tensors if name.endswith("pooler.dense.weight"))
    tensors[pooler] = torch.zeros(64, 128)
    for name in dropped:
        del tensors[name]
    save_file(tensors, tmp_path / "b.safetensors", {"format": "pt"})
    data = diff("pocket", tmp_path / "b.safetensors")
    finding = rules(data)["shapes-differ"]
    assert finding["evidence"]["layers"] == [4, 3]
    assert "layers 4 in A, 3 in B" in finding["message"]
    grown = next(tensor for tensor in data["elsewhere"] if tensor["name"] == "embeddings.word_embeddings.weight")
    assert grown["rows"] == grown["shape"][0] == 8192
    assert grown["difference"]["identical"]
    assert len(data["apart"]["only_a"]) == 16
    results = {part["label"]: part["result"] for part in data["parts"]}
    assert (results["intermediate.3"], results["pooler"]) == ("only in A", "other shape")
    shown = run(["diff", "pocket", str(tmp_path / "b.safetensors")]).out
    assert "encoder.layer.N.attention.self.key" in shown


def test_shapes_reads_headers_only(minilm: Path, diff: Diff) -> None:
    data = diff("pocket", minilm, "--shapes")
    assert all(data[side]["facts"]["bytes_read"] < 40_000 for side in "ab")
    assert data["summary"]["identical"] is None
    assert {part["result"] for part in data["parts"]} == {"other shape", "only in B"}
    assert not diff("pocket", "pocket", "--shapes", "--strict")["apart"]["reshaped"]


def test_part_and_layers_restrict(family: Path, diff: Diff) -> None:
    data = diff("pocket", family / "tuned", "--part", "intermediate", "--layers", "-1,0")
    assert [part["label"] for part in data["parts"]] == ["intermediate.0", "intermediate.3"]
    assert data["elsewhere"] == []
    assert data["a"]["facts"]["bytes_read"] < 600_000
    assert [part["label"] for part in diff("pocket", family / "merged", "--part", "pooler")["parts"]] == ["pooler"]


def test_nothing_in_common_is_an_error(run: Run, tmp_path: Path) -> None:
    save_file({"encoder.layer.0.intermediate.dense.weight": torch.ones(4, 2)}, tmp_path / "a.safetensors")
    save_file({"transformer.layer.0.ffn.lin1.weight": torch.ones(4, 2)}, tmp_path / "b.safetensors")
    ran = run(["diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors"])
    assert (ran.code, ran.out) == (1, "")
    assert "no tensor of A has a counterpart in B" in ran.err


def test_became_not_finite(family: Path, diff: Diff, tmp_path: Path) -> None:
    tensors = load_file(family / "tuned" / "model.safetensors")
    tensors["bert.pooler.dense.bias"][5] = float("nan")
    save_file(tensors, tmp_path / "b.safetensors", {"format": "pt"})
    data = diff(family / "tuned", tmp_path / "b.safetensors", "--tolerance", "9", "--strict", code=3)
    assert data["summary"]["beyond"] == ["pooler.dense.bias"]
    assert data["findings"][0]["rule"] == "became-not-finite"


# ------------------------------------------------------------------------------------------------ for CI


def test_strict_and_tolerance(family: Path, run: Run, diff: Diff) -> None:
    assert run(["diff", "pocket", "pocket", "--strict"]).code == 0
    assert run(["diff", "pocket", str(family / "tuned")]).code == 0
    tuned = ["diff", "pocket", str(family / "tuned"), "--part", "pooler", "--strict"]
    change = max(t["difference"]["change"] for t in diff(*tuned[1:], code=3)["parts"][0]["tensors"])
    assert run([*tuned, "--tolerance", str(change * 1.001)]).code == 0
    assert run([*tuned, "--tolerance", str(change * 0.999)]).code == 3
    # What one of them lacks is beyond any tolerance.
    assert run(["diff", "pocket", str(family / "without_pooler"), "--strict", "--tolerance", "9"]).code == 3


@pytest.mark.parametrize("words", [["--shapes", "text"], ["--part", "pooler", "--layers", "0"], ["--tolerance", "-1"],
                                   ["--json", "--format", "csv"], ["--json", "--table", "places"]])  # fmt: skip
def test_wrong_usage(words: list[str], run: Run) -> None:
    assert run(["diff", "pocket", "pocket", *words]).code == 2


# ------------------------------------------------------------------------------------------------ texts

TEXTS = ["The ship left the harbour.", "They sailed across the sea, slowly.", "He was paid a shilling."]


def test_texts_move_as_transformers_says(family: Path, diff: Diff) -> None:
    from transformers import BertTokenizerFast

    data = diff("pocket", family / "tuned", *TEXTS)
    tokens = BertTokenizerFast.from_pretrained(kin.POCKET)
    old, new = kin.load(), BertModel.from_pretrained(family / "tuned").eval()
    for text, row in zip(TEXTS, data["texts"]["texts"], strict=True):
        assert row["text"] == text
        inputs = tokens(text, return_tensors="pt")
        with torch.no_grad():
            a, b = old(**inputs), new(**inputs)
        pairs = {"pooled": (a.pooler_output, b.pooler_output), "cls": (a[0][:, 0], b[0][:, 0])}
        pairs["mean"] = (a[0].mean(1), b[0].mean(1))
        for kind, (x, y) in pairs.items():
            assert row[kind]["cosine"] == pytest.approx(float(torch.cosine_similarity(x, y)), abs=1e-5)
            assert row[kind]["change"] == pytest.approx(float((y - x).norm() / x.norm()), rel=1e-3)
    moved = [row["change"] for row in data["texts"]["activations"]]
    assert moved[: kin.FROZEN] == [0, 0]
    assert all(change > 0.01 for change in moved[kin.FROZEN :])


def test_texts_from_a_file_and_without_a_pooler(family: Path, diff: Diff, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    data = diff("pocket", family / "without_pooler", "--file", tmp_path / "texts.txt")
    assert [row["text"] for row in data["texts"]["texts"]] == TEXTS
    assert all(row["pooled"] is None and row["mean"]["change"] == 0 for row in data["texts"]["texts"])


def test_a_missing_tokenizer_is_borrowed_and_another_one_told(family: Path, diff: Diff, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(family / "tuned", bare)
    for name in ("tokenizer.json", "vocab.txt"):
        (bare / name).unlink()
    data = diff("pocket", bare, TEXTS[0])
    assert "B has no tokenizer" in data["texts"]["notes"][0]
    assert data["texts"]["activations"]
    words = (kin.POCKET / "vocab.txt").read_text().splitlines()
    (bare / "vocab.txt").write_text("\n".join([*words[:1000], *reversed(words[1000:])]))
    data = diff("pocket", bare, TEXTS[0])
    assert "the tokenizers differ" in data["texts"]["unlike"]
    assert data["texts"]["activations"] == []
    assert data["texts"]["texts"][0]["mean"]["cosine"] < 1


def test_texts_need_one_width(minilm: Path, run: Run) -> None:
    ran = run(["diff", "pocket", minilm, "text"])
    assert ran.code == 1
    assert "A is 128 wide, B 384" in ran.err


# ------------------------------------------------------------------------------------------------ what is printed

TOP = ["a", "b", "summary", "parts", "elsewhere", "places", "apart", "settings", "texts", "findings", "version"]


def test_json_keeps_the_contract(family: Path, diff: Diff) -> None:
    data = diff("pocket", family / "tuned", TEXTS[0])
    assert list(data) == TOP
    text = (Path(__file__).parents[1] / "docs" / "exports.md").read_text()
    part = data["parts"][-1]
    tensor = part["tensors"][0]
    keys = [*TOP, *data["summary"], *part, *tensor, *tensor["difference"], *part["neurons"][0], *data["places"][0]]
    keys += [*data["apart"], *data["texts"]]
    assert not [key for key in keys if f"`{key}`" not in text and f'"{key}"' not in text]


def test_formats_agree(family: Path, diff: Diff, run: Run) -> None:
    argv = ["diff", "pocket", str(family / "tuned")]
    data = diff(*argv[1:])
    rows = list(csv.DictReader(io.StringIO(run([*argv, "--format", "csv"]).out)))
    by_name = {row["name"]: row for row in rows}
    assert len(rows) == data["summary"]["tensors"]
    for part in data["parts"]:
        assert float(by_name[part["tensors"][0]["name"]]["change"]) == part["tensors"][0]["difference"]["change"]
    neurons = list(csv.DictReader(io.StringIO(run([*argv, "--format", "csv", "--table", "neurons"]).out)))
    assert len(neurons) == 3 * 3  # of three parts that changed
    markdown = run([*argv, "--format", "markdown"]).out
    assert "| pooler | " in markdown
    assert "- **compared**: 71 tensors: 37 identical, 34 differ; 9 are in one only, or in other shapes" in markdown


def test_80_columns_hold(family: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("tuned", "merged", "without_pooler", "reinitialised"):
        shown = run(["diff", "pocket", str(family / name), *TEXTS]).out
        assert max(map(len, shown.replace(str(family), "").splitlines())) <= 80


def test_names_cannot_repaint_the_terminal(run: Run, tmp_path: Path) -> None:
    odd = {"encoder.layer.0.intermediate.dense.weight": torch.ones(4, 2), "[red]\x1b[31m": torch.ones(2)}
    save_file(odd, tmp_path / "a.safetensors")
    odd["[red]\x1b[31m"] = torch.ones(3)
    save_file(odd, tmp_path / "b.safetensors")
    shown = run(["diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors"]).out
    assert "[red]\\x1b[31m" in shown
    assert "\x1b" not in shown


def test_each_rule_has_its_case() -> None:
    text = Path(__file__).read_text() + Path(__file__).with_name("test_compare_formats.py").read_text()
    assert not [rule.name for rule in RULES if f'"{rule.name}"' not in text]


def test_a_model_on_the_hub_is_read_by_byte_ranges(hub: Any, family: Path, diff: Diff) -> None:
    files = {path.name: path for path in (family / "tuned").iterdir()}
    hub.add("some/tuned", files)
    data = diff("pocket", "some/tuned", "--part", "pooler")
    assert data["parts"][0]["result"] == "changed"
    assert 0 < data["b"]["facts"]["bytes_read"] < 200_000
    hub.add("some/nest", {f"inner/{name}": path for name, path in files.items()})
    assert rules(diff(family / "tuned", "some/nest/inner")).keys() == {"identical"}


def test_a_damaged_file_is_one_line(family: Path, run: Run, tmp_path: Path) -> None:
    whole = (family / "tuned" / "model.safetensors").read_bytes()
    noise = np.random.default_rng(0)
    for _ in range(30):
        damaged = bytearray(whole)
        for at in noise.integers(0, 9000, 3):
            damaged[at] = noise.integers(256)
        file = tmp_path / "damaged.safetensors"
        file.write_bytes(damaged[: len(damaged) - int(noise.integers(2)) * 1000])
        ran = run(["diff", "pocket", file, "--part", "pooler"])
        assert ran.code in (0, 1)
        assert ran.code == 0 or ran.err.count("\n") == 1


def test_findings_on_two_models_can_be_annotations(family: Path, run: Run) -> None:
    ran = run(["diff", "pocket", str(family / "without_pooler"), "--format", "github"])
    assert ran.code == 0, ran.err
    assert ran.out.startswith("::warning title=pooler-lost (pooler)::pocket and ")


def test_a_changed_row_is_no_adapter(run: Run, tmp_path: Path) -> None:
    name = "encoder.layer.0.intermediate.dense.weight"
    tensors = {name: torch.randn(256, 64), "pooler.dense.weight": torch.randn(64, 64)}
    save_file(tensors, tmp_path / "a.safetensors")
    tensors[name] = tensors[name].clone()
    tensors[name][7] += 1
    save_file(tensors, tmp_path / "b.safetensors")
    shown = run(["diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors"]).out
    assert "low-rank-change" not in shown


def test_equal_numbers_in_other_types_are_said_to_be(run: Run, tmp_path: Path) -> None:
    name = "encoder.layer.0.intermediate.dense.weight"
    save_file({name: torch.ones(4, 2)}, tmp_path / "a.safetensors")
    save_file({name: torch.ones(4, 2).half()}, tmp_path / "b.safetensors")
    shown = " ".join(run(["diff", tmp_path / "a.safetensors", tmp_path / "b.safetensors"]).out.split())
    assert "equal in value, stored as F32 in A and F16 in B" in shown


def test_strict_says_why_it_fails(run: Run, family: Path) -> None:
    ran = run(["diff", "pocket", str(family / "tuned"), "--strict", "--table", "findings"])
    assert ran.code == 3
    assert "tensors differ by more than --tolerance 0" in ran.err
