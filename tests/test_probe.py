"""Probes from streamed sums are those of numpy on all activations in memory; labels fall on the right pieces."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Run

import bertprobe
from bertprobe.corpus import Corpus, Document, open_corpus, plan
from bertprobe.errors import BadSetting, BertprobeError, CorruptFile, NotFound, UnsupportedFile
from bertprobe.neurons.probe import LayerProbe, Probes
from bertprobe.neurons.probe.align import NOTHING, Stretch, stretches
from bertprobe.neurons.probe.job import ProbeOptions, prepare_probe
from bertprobe.neurons.probe.labels import Labelling, Split, Survey, drawn, survey
from bertprobe.neurons.probe.solve import differences, predictor, probeless_by_label, ridge
from bertprobe.neurons.probe.sums import LayerSums
from bertprobe.run import Compute
from bertprobe.tokens import FastTokenizer
from bertprobe.tokens.limits import Growth

WORDS = [
    "the",
    "ship",
    "left",
    "harbour",
    "and",
    "he",
    "was",
    "paid",
    "a",
    "shilling",
    "unhappiness",
    "don't",
    "1859",
    ",",
]
PLACES = {"ship", "harbour", "left"}
TOLERANCE = 1e-6
"""Absolute and relative, of everything that is compared with the computation in memory."""


def sentences(count: int, seed: int = 0) -> list[list[str]]:
    draw = random.Random(seed)
    return [draw.choices(WORDS, k=draw.randint(3, 14)) for _ in range(count)]


def kind_of(word: str) -> str:
    return "place" if word in PLACES else "mark" if not word[0].isalpha() else "word"


def word_rows(count: int) -> list[dict[str, Any]]:
    return [{"tokens": words, "pos": [kind_of(word) for word in words]} for words in sentences(count)]


def text_rows(count: int) -> list[dict[str, Any]]:
    return [{"text": " ".join(words), "label": "sea" if "ship" in words else "land"} for words in sentences(count)]


def written(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def words(tmp_path: Path) -> Corpus:
    return open_corpus(written(tmp_path / "words.jsonl", word_rows(60)), words_field="tokens", label_field="pos")


@pytest.fixture
def texts(tmp_path: Path) -> Corpus:
    return open_corpus(written(tmp_path / "texts.jsonl", text_rows(120)), label_field="label")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BertModel of two layers (hidden 32, intermediate 48), never trained, with the built-in model's tokenizer."""
    import torch
    from transformers import BertConfig, BertModel

    pocket = Path(bertprobe.__file__).parent / "pocket"
    vocabulary = json.loads((pocket / "config.json").read_text())["vocab_size"]
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    folder = tmp_path_factory.mktemp("small")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).eval().save_pretrained(folder)
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / name).write_bytes((pocket / name).read_bytes())
    return folder


def probed(corpus: Corpus, model: str | Path, **options: Any) -> Probes:
    found = bertprobe.open(model)
    return prepare_probe(found.checkpoint, found.anatomy, corpus, ProbeOptions(**options)).run()


def activations(model: Path, texts: Sequence[str], *, before: bool = False) -> dict[int, list[np.ndarray]]:
    """All activations of some texts, (S, I) each, by layer."""
    found = bertprobe.open(model).activations(texts, before=before, compute=Compute(backend="torch"))
    return {number: list(found[number]) for number in (0, 1)}


def close(one: Any, other: Any) -> None:
    np.testing.assert_allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE)


# ------------------------------------------------------------------------------------------------ in memory


def in_memory(values: np.ndarray, labels: Sequence[str], names: Sequence[str], penalty: float) -> dict[str, Any]:
    """What probes are, by plain numpy on a matrix (n, I): standardised, least squares with added rows for the ridge."""
    x, numbers = values.astype(np.float64), np.array([names.index(label) for label in labels])
    scale = x.std(0)
    scale[scale <= 1e-7 * np.abs(x.mean(0))] = np.inf
    z = (x - x.mean(0)) / scale
    y = (numbers[:, None] == np.arange(len(names))).astype(np.float64)
    above = np.sqrt(penalty * len(x)) * np.eye(x.shape[1])
    weights = np.linalg.lstsq(
        np.vstack([z, above]), np.vstack([y - y.mean(0), np.zeros((x.shape[1], len(names)))]), rcond=1e-5
    )[0]
    means = np.stack([x[numbers == k].mean(0) for k in range(len(names))])
    rest = np.stack([x[numbers != k].mean(0) for k in range(len(names))])
    pairs = sum(np.abs(means[a] - means[b]) for a in range(len(names)) for b in range(a))
    return {
        "weights": weights.T,
        "means": means,
        "elsewhere": rest,
        "differences": (means - rest) / scale,
        "probeless": pairs,
        "label_std": np.stack([x[numbers == k].std(0) for k in range(len(names))]),
        "answers": lambda new: (((new - x.mean(0)) / scale) @ weights + y.mean(0)).argmax(1),
    }


def same(found: LayerProbe, expected: dict[str, Any]) -> None:
    for name in ("weights", "means", "elsewhere", "differences"):
        close(getattr(found.scores, name), expected[name])
    close(found.probeless, expected["probeless"])
    close(found.label_std, expected["label_std"])


def owners_of(model: Path, rows: Sequence[dict[str, Any]]) -> list[list[list[int]]]:
    """Of each row's words the places of their pieces, by transformers' own tokenizer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    found = []
    for row in rows:
        owners = tokenizer(row["tokens"], is_split_into_words=True).word_ids()
        found.append([[at for at, owner in enumerate(owners) if owner == word] for word in range(len(row["tokens"]))])
    return found


TAKE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "first": lambda part: part[0],
    "last": lambda part: part[-1],
    "mean": lambda part: part.mean(0, dtype=np.float64),
}


def of_words(matrices: Sequence[np.ndarray], owners: Sequence[Sequence[Sequence[int]]], pieces: str) -> np.ndarray:
    """A row for each word of all texts."""
    pairs = zip(matrices, owners, strict=True)
    return np.stack([TAKE[pieces](matrix[places]) for matrix, words in pairs for places in words])


@pytest.mark.parametrize("pieces", ["first", "last", "mean"])
def test_word_probes_are_those_of_numpy_on_all_activations(pieces: Any, words: Corpus, small: Path) -> None:
    found = probed(words, small, pieces=pieces, held_out=0)
    rows = word_rows(60)
    owners, labels = owners_of(small, rows), [label for row in rows for label in row["pos"]]
    assert any(len(places) > 1 for text in owners for places in text)
    assert found.facts["items"] == len(labels)
    assert found.labels == ("mark", "place", "word")
    for number, matrices in activations(small, [" ".join(row["tokens"]) for row in rows]).items():
        same(found[number], in_memory(of_words(matrices, owners, pieces), labels, found.labels, 0.1))


def test_word_probes_are_of_what_transformers_computes(words: Corpus, small: Path) -> None:
    """Nothing of ours but the corpus: its tokenizer, its model, hooks; float32 differs in its last digits."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    rows = word_rows(60)
    owners, labels = owners_of(small, rows), [label for row in rows for label in row["pos"]]
    tokenizer, model = AutoTokenizer.from_pretrained(small), AutoModel.from_pretrained(small).eval()
    seen: dict[int, list[np.ndarray]] = {0: [], 1: []}
    for number, layer in enumerate(model.encoder.layer):
        layer.intermediate.register_forward_hook(
            lambda module, given, out, number=number: seen[number].append(out[0].numpy())
        )
    with torch.inference_mode():
        for row in rows:
            model(**tokenizer(row["tokens"], is_split_into_words=True, return_tensors="pt"))
    found = probed(words, small, held_out=0)
    for number, matrices in seen.items():
        expected = in_memory(of_words(matrices, owners, "last"), labels, found.labels, 0.1)
        for name in ("weights", "means", "differences"):
            one, other = getattr(found[number].scores, name), expected[name]
            assert np.abs(one - other).max() <= 1e-4 * np.abs(other).max(), (number, name)


@pytest.mark.parametrize("penalty", [0.1, 1e-3, 0.0])
@pytest.mark.parametrize("before", [False, True])
def test_text_probes_are_those_of_numpy_on_all_activations(
    before: bool, penalty: float, texts: Corpus, small: Path
) -> None:
    found = probed(texts, small, before=before, penalty=penalty, held_out=0)
    rows = text_rows(120)
    labels = [row["label"] for row in rows]
    for number, matrices in activations(small, [row["text"] for row in rows], before=before).items():
        matrix = np.stack([text.mean(0, dtype=np.float64) for text in matrices])
        expected = in_memory(matrix, labels, found.labels, penalty)
        same(found[number], expected)
        scores = matrix @ found[number].coefficients.T + found[number].intercepts
        assert (scores.argmax(1) == expected["answers"](matrix)).all()


def test_without_a_ridge_the_shortest_weights_are_taken(small: Path, tmp_path: Path) -> None:
    """Of fewer texts than neurons each has its label exactly, as numpy's pseudo-inverse has it."""
    path = written(tmp_path / "few.jsonl", text_rows(20))
    found = probed(open_corpus(path, label_field="label"), small, penalty=0.0, held_out=0)
    rows = text_rows(20)
    labels = [found.labels.index(row["label"]) for row in rows]
    for number, matrices in activations(small, [row["text"] for row in rows]).items():
        matrix = np.stack([text.mean(0, dtype=np.float64) for text in matrices])
        scores = matrix @ found[number].coefficients.T + found[number].intercepts
        np.testing.assert_allclose(scores, np.eye(2)[labels], atol=1e-4)


def test_held_out_texts_are_answered_as_numpy_does(texts: Corpus, small: Path) -> None:
    found = probed(texts, small, held_out=0.3, seed=4)
    rows = list(texts.documents())
    held = np.array([Split(0.3, 4).holds(row) for row in rows])
    assert 0 < held.sum() == found.facts["held_out_texts"] < 120
    labels = np.array([row.label for row in rows])
    majority = max(found.labels, key=lambda name: (labels[~held] == name).sum())
    assert found.majority == (labels[held] == majority).mean()
    for number, matrices in activations(small, [row.text for row in rows]).items():
        matrix = np.stack([text.mean(0, dtype=np.float64) for text in matrices])
        expected = in_memory(matrix[~held], list(labels[~held]), found.labels, 0.1)
        same(found[number], expected)
        answers = np.array(found.labels)[expected["answers"](matrix[held])]
        assert found[number].accuracy == (answers == labels[held]).mean()
        recall = [(answers == labels[held])[labels[held] == name].mean() for name in found.labels]
        close(found[number].recalls, recall)
        for by in ("linear", "probeless"):
            for name, best in ((by, found.ranking(number, by)[:10]), (f"{by}_last", found.ranking(number, by)[-10:])):
                few = in_memory(matrix[~held][:, best], list(labels[~held]), found.labels, 0.1)
                answers = np.array(found.labels)[few["answers"](matrix[held][:, best])]
                assert getattr(found[number].selections[0], name) == (answers == labels[held]).mean()


def test_the_control_is_the_same_probe_of_labels_by_chance(words: Corpus, small: Path) -> None:
    found = probed(words, small, held_out=0.25)
    split = Split(0.25, 0)
    labelling = Labelling.of(survey(words, split), 0)
    documents = list(words.documents())
    held = np.array([split.holds(document) for document in documents for _ in document.words])
    control = [f"{labelling.control(word)}" for document in documents for word in document.words]
    names = [str(number) for number in range(len(found.labels))]
    assert set(control) == set(names)
    owners = owners_of(small, word_rows(60))
    for number, matrices in activations(small, [document.text for document in documents]).items():
        matrix = of_words(matrices, owners, "last")
        learnt = [label for label, flag in zip(control, held, strict=True) if not flag]
        expected = in_memory(matrix[~held], learnt, names, 0.1)
        for name in ("weights", "means", "differences"):
            close(getattr(found[number].control, name), expected[name])
        right = expected["answers"](matrix[held]) == np.array(control, int)[held]
        assert found[number].control_accuracy == right.mean()
        assert found[number].selectivity == found[number].accuracy - right.mean()  # type: ignore[operator]


# ------------------------------------------------------------------------------------------------ what must hold


def labelled(path: Path, texts: Sequence[str], labels: Sequence[str]) -> Corpus:
    rows = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    return open_corpus(written(path, rows), label_field="label")


def test_a_neuron_that_decides_the_label_is_found_first(small: Path, tmp_path: Path) -> None:
    texts = [row["text"] for row in text_rows(300)]
    of_neuron = np.array([text.mean(0)[17] for text in activations(small, texts)[1]])
    labels = np.where(of_neuron > np.median(of_neuron), "high", "low")
    found = probed(labelled(tmp_path / "a.jsonl", texts, labels.tolist()), small, penalty=1e-3)
    assert found.ranking(1, "difference", "high")[0] == 17
    assert found.ranking(1, "linear", "high")[0] == 17
    assert found.ranking(1, "linear")[0] == 17
    assert found[1].scores.differences[0, 17] > 5 * found[1].null("differences")[0]


def test_a_control_that_tells_nothing_apart_has_no_null(small: Path, tmp_path: Path) -> None:
    """One word alone: the control gives all of it one label, and the rest has no mean."""
    rows = [{"tokens": ["a"] * 6, "pos": ["x", "y"] * 3}] * 4
    corpus = open_corpus(written(tmp_path / "a.jsonl", rows), words_field="tokens", label_field="pos")
    found = probed(corpus, small, held_out=0)
    for layer in found.layers.values():
        assert sorted(layer.control.counts.tolist()) == [0, 24]
        assert np.isnan(layer.control.elsewhere[layer.control.counts == 24]).all()
        assert not np.isinf(layer.control.differences).any()
        for which in ("differences", "weights"):
            assert np.isnan(layer.null(which)).all()


def test_labels_by_chance_are_not_learnt(small: Path, tmp_path: Path) -> None:
    texts = [f"{row['text']} {number}" for number, row in enumerate(text_rows(600))]
    draw = random.Random(1)
    labels = [draw.choice(("a", "b", "c")) for _ in texts]
    found = probed(labelled(tmp_path / "a.jsonl", texts, labels), small, held_out=0.5)
    items = found.facts["held_out_items"]
    for layer in found.layers.values():
        spread = 4 * (2 / 9 / items) ** 0.5
        assert abs((layer.accuracy or 0) - 1 / 3) < spread
        assert abs(layer.selectivity or 0) < 2 * spread
        above = np.abs(layer.scores.differences) > layer.null("differences")[:, None]
        assert above.mean() < 0.4  # by chance about one in twenty, of neurons that go together


@pytest.mark.parametrize("options", [{"batch_tokens": 64}, {"batch_tokens": 700}, {"threads": 1}, {"backend": "numpy"}])
def test_batches_threads_and_backends_change_nothing(options: dict[str, Any], words: Corpus, small: Path) -> None:
    one, other = probed(words, small), probed(words, small, compute=Compute(**options))
    for number in one.layers:
        close(one[number].scores.weights, other[number].scores.weights)
        close(one[number].scores.differences, other[number].scores.differences)
        close(one[number].control.weights, other[number].control.weights)
        assert one[number].accuracy == other[number].accuracy
        assert one[number].selections == other[number].selections


def test_the_same_command_has_the_same_bytes(words: Corpus, small: Path) -> None:
    one, other = probed(words, small), probed(words, small)
    for number in one.layers:
        assert np.array_equal(one[number].scores.weights, other[number].scores.weights)
        assert np.array_equal(one[number].control.differences, other[number].control.differences)


def moments_of(values: np.ndarray, labels: np.ndarray, controls: np.ndarray, step: int) -> Any:
    sums = LayerSums(values.shape[1], 3)
    for start in range(0, len(values), step):
        sums.add(*(part[start : start + step] for part in (values, labels, controls)))
    return sums.finished()


@pytest.mark.parametrize("step", [1, 13, 5000])
def test_sums_keep_their_digits_far_from_zero(step: int) -> None:
    """Neurons whose mean is a thousand deviations away, one that is constant, and one that is never on."""
    draw = np.random.default_rng(0)
    values = draw.standard_normal((3000, 6)).astype(np.float32)
    values[:, 1] += 1000
    values[:, 2] = 24.49
    values[:, 3] = 0
    labels, controls = draw.integers(0, 3, 3000), draw.integers(0, 3, 3000)
    values[:, 4] += 3 * labels
    found = moments_of(values, labels, controls, step)
    expected = in_memory(values, [str(label) for label in labels], ["0", "1", "2"], 0.1)
    weights = ridge(found.correlations, found.targets()[0], 0.1)
    np.testing.assert_allclose(weights.T, expected["weights"], atol=1e-9)
    np.testing.assert_allclose(differences(found)[0], expected["differences"], atol=1e-7)
    np.testing.assert_allclose(found.label_means[0], expected["means"], rtol=1e-10)
    assert found.constant.tolist() == [False, False, True, True, False, False]
    assert (weights[2:4] == 0).all()
    assert np.isfinite(weights).all()
    assert np.abs(weights).sum(1).argmax() == 4


def test_probeless_is_the_sum_over_pairs() -> None:
    means = np.array([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.5], [np.nan, np.nan]])
    found = probeless_by_label(means)
    assert found[:3].tolist() == [[3.0, 0.5], [2.0, 0.5], [3.0, 1.0]]
    assert np.isnan(found[3]).all()


def test_a_probe_of_few_neurons_looks_at_these_alone() -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, 900)
    values = draw.standard_normal((900, 8)) + labels[:, None] * np.eye(8)[5] * 9
    found = moments_of(values, labels, labels, 100)
    columns = np.array([5, 2])
    few = predictor(
        found, ridge(found.correlations[np.ix_(columns, columns)], found.targets()[0][columns], 0.1), columns=columns
    )
    other = values.copy()
    other[:, [0, 1, 3, 4, 6, 7]] = 1e9
    assert np.array_equal(few.answers(values), few.answers(other))
    assert (few.answers(values) == labels).mean() > 0.6


def test_equal_texts_are_on_the_same_side_and_shares_are_kept() -> None:
    inside = [drawn(7, "held out", f"text {number}") for number in range(4000)]
    assert abs(np.mean(np.array(inside) < 0.2) - 0.2) < 0.03
    assert drawn(7, "held out", "a") == drawn(7, "held out", "a") != drawn(8, "held out", "a")


def test_the_control_draws_labels_as_often_as_there_are_items() -> None:
    found = Labelling.of(Survey({"a": 700, "b": 200, "c": 100}, {}, (0, 0), 0, 0, ""), 3)
    counts = np.bincount([found.control(f"word {number}") for number in range(8000)], minlength=3) / 8000
    assert np.abs(counts - [0.7, 0.2, 0.1]).max() < 0.02
    assert found.control("ship") == Labelling.of(
        Survey({"a": 700, "b": 200, "c": 100}, {}, (0, 0), 0, 0, ""), 3
    ).control("ship")


# ------------------------------------------------------------------------------------------------ words and pieces

ODD = [
    ["It", "isn't", "£5", "."],
    ["Zürich", "naïve", "日本語", "🙂", "e\u0301te\u0301"],
    ["New York", "U.S.A.", "don't", "--", "'tis"],
    ["harbourmaster's", "un-happiness", "3.14159", "a"],
    ["x" * 120, "the"],
    ["\ufb01ne", "\u2460", "ｆｕｌｌ", "\xa0ship\xa0"],
]


@pytest.mark.parametrize("words", ODD, ids=lambda words: words[0][:12])
def test_pieces_are_those_of_transformers(words: list[str], small: Path, minilm: Path) -> None:
    from transformers import AutoTokenizer

    for model in (small, minilm):
        tokenizer = bertprobe.open_runner(
            bertprobe.open_checkpoint(str(model)), bertprobe.open(model).anatomy, Compute(), needs=frozenset()
        ).tokenizer
        theirs = AutoTokenizer.from_pretrained(model)(words, is_split_into_words=True)
        placed = tokenizer.encode_placed([" ".join(words)])[0]  # type: ignore[attr-defined]
        assert placed.encoded.ids.tolist() == theirs["input_ids"]
        owners = theirs.word_ids()
        expected = []
        for word in range(len(words)):
            mine = [place for place, owner in enumerate(owners) if owner == word]
            expected.append(Stretch(mine[0], mine[-1] + 1) if mine else NOTHING)
        assert stretches(placed, words, lambda: "it") == expected


def trained(kind: str) -> FastTokenizer:
    """A small tokenizer of another kind than BERT's."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made: dict[str, tuple[Any, Any, Any]] = {
        "bytes": (
            models.BPE(),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()),
        ),
        "metaspace": (
            models.Unigram(),
            pre_tokenizers.Metaspace(),
            trainers.UnigramTrainer(vocab_size=60, unk_token="?", special_tokens=["?"]),
        ),
    }
    model, splitter, trainer = made[kind]
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = splitter
    tokenizer.train_from_iterator([" ".join(words) for words in sentences(200)], trainer)
    return FastTokenizer(tokenizer, kind, Growth(1, 0))


@pytest.mark.parametrize("kind", ["bytes", "metaspace"])
def test_pieces_with_their_space_belong_to_the_word_behind_it(kind: str) -> None:
    tokenizer = trained(kind)
    for words in sentences(40, seed=3):
        placed = tokenizer.encode_placed([" ".join(words)])[0]
        for word, stretch in zip(words, stretches(placed, words, lambda: "it"), strict=True):
            pieces = "".join(placed.encoded.tokens[stretch.start : stretch.stop])
            assert pieces.replace("Ġ", "").replace("▁", "") == word


def test_a_piece_of_two_words_is_told_with_both() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"?": 0, "the ship": 1}, "?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("|", "removed")
    placed = FastTokenizer(tokenizer, "odd", Growth(1, 0)).encode_placed(["the ship"])[0]
    with pytest.raises(BertprobeError, match=r"row 3 has a piece that stands for 'the' and 'ship' together"):
        stretches(placed, ["the", "ship"], lambda: "row 3")


def test_words_that_are_cut_are_left_out_and_counted(small: Path, tmp_path: Path) -> None:
    long = ["unhappiness"] * 60
    rows = [*word_rows(10), {"tokens": long, "pos": ["word"] * 60}]
    corpus = open_corpus(written(tmp_path / "a.jsonl", rows), words_field="tokens", label_field="pos")
    with pytest.raises(BertprobeError, match=r"a\.jsonl, row 10 from 0 .* tokens, the model takes 64; shorten it, or"):
        probed(corpus, small, held_out=0)
    found = probed(corpus, small, held_out=0, truncate=True)
    size = len(owners_of(small, [{"tokens": ["unhappiness"]}])[0][0])
    assert size > 1
    whole = 62 // size
    assert found.facts["truncated"] == 1
    assert found.facts["cut"] == 60 - whole
    assert found.facts["items"] == sum(len(row["pos"]) for row in rows) - found.facts["cut"]


def test_words_without_a_piece_are_left_out_and_counted(small: Path, tmp_path: Path) -> None:
    rows = [*word_rows(10), {"tokens": ["the", "\u200d", "ship"], "pos": ["word", "mark", "place"]}]
    corpus = open_corpus(written(tmp_path / "a.jsonl", rows), words_field="tokens", label_field="pos")
    found = probed(corpus, small, held_out=0)
    assert found.facts["without_pieces"] == 1
    assert found.facts["items"] == sum(len(row["pos"]) for row in rows) - 1


# ------------------------------------------------------------------------------------------------ labels as they come


def test_labels_may_be_numbers_or_missing(small: Path, tmp_path: Path) -> None:
    labels: list[Any] = [1, 2, "1", True, None, "", 2.0, 1, 2] * 6
    rows = [{"text": f"the ship {number}", "label": label} for number, label in enumerate(labels)]
    found = probed(open_corpus(written(tmp_path / "a.jsonl", rows), label_field="label"), small, held_out=0)
    assert found.labels == ("1", "2", "true")
    assert found[0].scores.counts.tolist() == [18, 18, 6]
    assert found.facts["unlabelled"] == 12


def test_a_label_that_occurs_once_has_a_mean(small: Path, tmp_path: Path) -> None:
    rows = [*text_rows(40), {"text": "a shilling", "label": "alone"}]
    found = probed(open_corpus(written(tmp_path / "a.jsonl", rows), label_field="label"), small, held_out=0)
    row = found.number("alone")
    assert found[1].scores.counts[row] == 1
    close(found[1].scores.means[row], activations(small, ["a shilling"])[1][0].mean(0))
    assert np.isfinite(found[1].scores.weights).all()
    assert (found[1].label_std[row] <= 1e-6).all()


def test_a_label_that_is_held_out_alone_counts_as_wrong(small: Path, tmp_path: Path) -> None:
    texts = [text for number in range(80) if Split(0.3, 0).holds(Document(0, "", text := f"the ship {number}", 0, 0))]
    rows = [*text_rows(60), {"text": texts[0], "label": "never learnt"}]
    found = probed(open_corpus(written(tmp_path / "a.jsonl", rows), label_field="label"), small, held_out=0.3)
    assert found.labels == ("land", "sea")
    assert found.facts["unknown"] == 1
    assert sum(found.held_counts) == found.facts["held_out_items"] - 1
    right = sum(round((recall or 0) * n) for recall, n in zip(found[0].recalls, found.held_counts, strict=True))
    assert found[0].accuracy == right / found.facts["held_out_items"]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"tokens": ["a", "b"], "pos": ["x"]}], r"row 0 \(the first is 0\) has 2 words and 1 labels"),
        ([{"tokens": ["a", ""], "pos": ["x", "y"]}], r"row 0 .* has an empty text as word 1"),
        ([{"tokens": ["a", 3], "pos": ["x", "y"]}], r"row 0 .* has a number as word 1"),
        ([{"tokens": "a b", "pos": ["x", "y"]}], r"row 0 .* has a text as 'tokens', not a list"),
        ([{"tokens": ["a"], "pos": "x"}], r"row 0 .* has a text as 'pos', not a list"),
        ([{"tokens": ["a"], "pos": [["x"]]}], r"row 0 .* has a list as the label of word 0"),
        ([{"tokens": ["a"], "pos": [0.5]}], r"the number 0.5 as the label of word 0 .*text or a whole number"),
        ([{"tokens": ["a"]}], r"row 0 .* has no field 'pos'"),
    ],
)
def test_bad_rows_of_words_are_told_by_number(rows: list[dict[str, Any]], told: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", rows)
    with pytest.raises(CorruptFile, match=told):
        list(open_corpus(path, words_field="tokens", label_field="pos").documents())
    skipping = open_corpus(path, words_field="tokens", label_field="pos", skip_bad=True).documents()
    assert (list(skipping), skipping.skipped.total()) == ([], 1)


def test_a_text_with_a_label_that_is_none_is_told(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [{"text": "a", "label": 0.5}])
    with pytest.raises(CorruptFile, match=r"row 0 .* has the number 0.5 as 'label', no label; a label is a text or"):
        list(open_corpus(path, label_field="label").documents())


def test_every_format_has_the_same_labels(tmp_path: Path) -> None:
    rows = text_rows(20)
    written(tmp_path / "a.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    pq.write_table(
        pa.Table.from_pylist(rows).set_column(1, "label", pa.array([r["label"] for r in rows]).dictionary_encode()),
        tmp_path / "b.parquet",
    )
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows(
                [["label", "text"], *((r["label"], r["text"]) for r in rows)]
            )
    for name in ("a.jsonl", "a.parquet", "b.parquet", "a.csv", "a.tsv"):
        found = list(open_corpus(tmp_path / name, label_field="label").documents())
        assert [(one.text, one.label) for one in found] == [(row["text"], row["label"]) for row in rows], name


def test_lists_in_parquet_are_words(tmp_path: Path) -> None:
    rows = word_rows(20)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    corpus = open_corpus(tmp_path / "a.parquet", words_field="tokens", label_field="pos")
    found = list(corpus.documents())
    assert [(list(one.words), list(one.labels)) for one in found] == [(row["tokens"], row["pos"]) for row in rows]
    assert [one.text for one in found] == [" ".join(row["tokens"]) for row in rows]
    halves = [document for shard in plan(corpus, text_bytes=200) for document in corpus.documents(shard)]
    assert [one.words for one in halves] == [one.words for one in found]


def test_what_has_no_labels_says_so(tmp_path: Path, small: Path) -> None:
    (tmp_path / "a.txt").write_text("a\n")
    (tmp_path / "a.csv").write_text("text,label\na,b\n")
    with pytest.raises(UnsupportedFile, match=r"has no labels: a \.txt holds texts alone"):
        open_corpus(tmp_path / "a.txt", label_field="label")
    with pytest.raises(
        UnsupportedFile, match=r"has no lists of words: a \.csv holds texts; write \.jsonl or \.parquet"
    ):
        open_corpus(tmp_path / "a.csv", label_field="label", words_field="words")
    with pytest.raises(BadSetting, match="words are named without their labels"):
        open_corpus(tmp_path / "a.csv", words_field="words")
    with pytest.raises(
        NotFound, match="has no field 'class', it has 'text', 'label'; name one of them: `label_field=NAME`"
    ):
        list(open_corpus(tmp_path / "a.csv", label_field="class").documents())
    with pytest.raises(BadSetting, match="opened without labels"):
        probed(open_corpus(tmp_path / "a.csv"), small)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (["a"] * 30, "all that is learnt from has the label 'a'; a probe tells labels apart: give it two"),
        ([None] * 30, "no text has a label"),
        ([f"l{number}" for number in range(900)], r"there are \d+ labels, such as 'l0'.*name a field with at most 500"),
    ],
)
def test_labels_that_cannot_be_told_apart_are_refused(
    labels: list[Any], told: str, small: Path, tmp_path: Path
) -> None:
    rows = [{"text": f"the ship {number}", "label": label} for number, label in enumerate(labels)]
    with pytest.raises(BertprobeError, match=told):
        probed(open_corpus(written(tmp_path / "a.jsonl", rows), label_field="label"), small)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"held_out": 1.0}, "a share of 1 cannot be held out"),
        ({"held_out": float("nan")}, "a share of nan cannot be held out"),
        ({"penalty": -1.0}, "a penalty of -1 cannot be meant"),
        ({"penalty": float("nan")}, "a penalty of nan cannot be meant"),
        ({"pieces": "all"}, "all are no pieces; choose first, last, mean"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(
    options: dict[str, Any], told: str, texts: Corpus, small: Path
) -> None:
    with pytest.raises(BadSetting, match=told):
        probed(texts, small, **options)


def test_sums_that_have_no_room_are_refused(texts: Corpus, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertprobe.neurons.probe.job.machine_memory", lambda: 100_000)
    with pytest.raises(UnsupportedFile, match=r"the sums of 2 layers take 0.000\d+ GB, .*probe a few layers"):
        probed(texts, small)


@pytest.mark.parametrize("held", [False, True])
def test_what_is_not_finite_is_told_on_either_side(held: bool, small: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file
    from transformers import AutoTokenizer

    broken = tmp_path / "broken"
    broken.mkdir()
    for file in small.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = load_file(small / "model.safetensors")
    (token,) = AutoTokenizer.from_pretrained(small)("shilling", add_special_tokens=False)["input_ids"]
    weights["embeddings.word_embeddings.weight"][token] = np.nan
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    rows = [{"text": f"the ship {number}", "label": "ab"[number % 2]} for number in range(60)]
    split = Split(0.2, 0)
    names = (f"a shilling {number}" for number in range(99))
    rows.append(
        {"text": next(name for name in names if split.holds(Document(0, "", name, 0, 0)) == held), "label": "a"}
    )
    with pytest.raises(BertprobeError, match="puts out NaN or infinity for a text of the corpus"):
        probed(open_corpus(written(tmp_path / "a.jsonl", rows), label_field="label"), broken)


# ------------------------------------------------------------------------------------------------ the command


def test_the_command_shows_what_python_finds(small: Path, tmp_path: Path, run: Run) -> None:
    path = written(tmp_path / "words.jsonl", word_rows(60))
    words = ["neurons", "probe", path, "-m", small, "--words-field", "tokens", "--label-field", "pos", "--seed", "3"]
    done = run([*words, "--json"])
    assert done.code == 0, done.err
    assert "3 labels; the sums of 2 layers take" in done.err
    data = json.loads(done.out)
    found = probed(open_corpus(path, words_field="tokens", label_field="pos"), small, seed=3)
    assert [row["accuracy"] for row in data["layers"]] == [layer.accuracy for layer in found.layers.values()]
    assert [row["items"] for row in data["labels"]] == found[0].scores.counts.tolist()
    assert len(data["neurons"]) == 9
    for one in data["neurons"]:
        layer, row = found[one["layer"]], found.number(one["label"])
        assert one["difference"] == layer.scores.differences[row, one["neuron"]]
        assert one["weight"] == layer.scores.weights[row, one["neuron"]]
        assert one["difference_null"] == layer.null("differences")[row]
    best = data["neurons"][0]
    assert abs(best["difference"]) == max(abs(layer.scores.differences[0]).max() for layer in found.layers.values())
    table = run([*words, "--quiet"])
    assert table.err == ""
    assert "what a linear probe of each layer gets right" in table.out
    for layer in found.layers.values():
        assert f"{100 * (layer.accuracy or 0):.1f} %" in table.out
    assert run([*words, "--quiet", "--table", "selections", "--format", "csv"]).out.count("\n") == 3


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_all_scores_go_to_a_file(suffix: str, small: Path, tmp_path: Path, run: Run) -> None:
    from safetensors import safe_open
    from safetensors.numpy import load_file

    path, out = written(tmp_path / "texts.jsonl", text_rows(60)), tmp_path / f"scores{suffix}"
    words = ["neurons", "probe", path, "-m", small, "--label-field", "label", "-o", out, "--quiet", "--held-out", "0"]
    assert run(words).code == 0
    arrays: Any = np.load(out) if suffix == ".npz" else load_file(out)
    found = probed(open_corpus(path, label_field="label"), small, held_out=0)
    for number, layer in found.layers.items():
        assert np.array_equal(arrays[f"intermediate.{number}.weights"], layer.scores.weights)
        assert np.array_equal(arrays[f"intermediate.{number}.control.differences"], layer.control.differences)
        assert np.array_equal(arrays[f"intermediate.{number}.probeless"], layer.probeless)
    if suffix == ".safetensors":
        with safe_open(out, "np") as file:
            assert json.loads(file.metadata()["labels"]) == ["land", "sea"]
    again = run(words)
    assert (again.code, "is there already" in again.err) == (1, True)
    assert run([*words, "--force"]).code == 0


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--label-field", "class"], 1, "has no field 'class', it has 'text', 'label'; mend it, or"),
        (["--label-field", "label", "--words-field", "text"], 1, "row 0 (the first is 0) has a text as 'text'"),
        (["--label-field", "label", "--held-out", "1"], 2, "a share of 1 cannot be held out"),
        (["--label-field", "label", "-o", "a.txt"], 1, "does not say a format"),
        (["--label-field", "label", "--layers", "9"], 1, "layer 9"),
        ([], 2, "Missing option '--label-field'"),
    ],
)
def test_wrong_words_are_told_in_a_line(words: list[str], code: int, told: str, tmp_path: Path, run: Run) -> None:
    path = written(tmp_path / "texts.jsonl", text_rows(30))
    done = run(["neurons", "probe", path, *words])
    assert done.code == code
    assert told in done.err
    assert "Traceback" not in done.err


def test_stdin_is_refused(run: Run) -> None:
    done = run(["neurons", "probe", "-", "--label-field", "label"])
    assert (done.code, "stdin has no labels" in done.err) == (1, True)


def test_foreign_labels_are_safe_to_print(small: Path, tmp_path: Path, run: Run) -> None:
    rows = [{"text": row["text"], "label": f"\x1b[31m{row['label']}\u202e"} for row in text_rows(40)]
    done = run(["neurons", "probe", written(tmp_path / "a.jsonl", rows), "--label-field", "label", "-m", small])
    assert done.code == 0, done.err
    assert "\x1b" not in done.out + done.err
    assert "\u202e" not in done.out
