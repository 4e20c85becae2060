"""The lens: the last layer is transformers' own head bit for bit, planted words come first, chance is counted again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
import zoo
from bundle import as_google, save
from conftest import Run
from safetensors.torch import load_file, save_file
from tokenizers import models, pre_tokenizers
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as CLASSES

import bertprobe
from bertprobe.anatomy import find_parts
from bertprobe.anatomy.heads import HEADS, find_head
from bertprobe.backends import NumpyBackend
from bertprobe.checkpoint import open_checkpoint
from bertprobe.errors import BertprobeError, CorruptFile, UnsupportedFile
from bertprobe.lens import LensWish, Null, lens_of_texts, open_vocabulary
from bertprobe.lens.null import chance
from bertprobe.lens.ranking import largest, rank_of
from bertprobe.lens.text import scores
from bertprobe.run import STATES, Captured, Compute, Site, open_runner, run_encoded
from bertprobe.tokens import Encoded, Packed

NATIVE = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "ernie", "data2vec-text")
THEIRS = (
    *("albert", "distilbert", "mpnet", "deberta", "deberta-v2", "megatron-bert", "convbert", "rembert"),
    *("roberta-prelayernorm", "modernbert", "nomic_bert", "roformer", "gte", "xlm-roberta-xl"),
    *("esmc", "jina_embeddings_v3"),
)
IDS = [5, 6, 7, 8, 9, 11]
POCKET = Path(bertprobe.__file__).parent / "pocket"
SHIP = "The ship sailed across the [MASK]."


def masked(family: str, folder: Path, **overrides: Any) -> Any:
    """A tiny model for masked language modelling, saved with a tokenizer of whole words and a mask."""
    model_class = getattr(transformers, CLASSES[family])
    with torch.random.fork_rng():
        torch.manual_seed(zoo.SEED)
        model = model_class(zoo._config(family, model_class.config_class, overrides)).eval()
        zoo._spread(model)
        model.tie_weights()
    model.save_pretrained(folder)
    words = [f"word{i}" for i in range(zoo.VOCABULARY - 2)]
    entries = {word: i for i, word in enumerate([*words, "?", "[MASK]"])}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(entries, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[MASK]"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return model


class States:
    """What every layer puts out for one text."""

    needs = frozenset({STATES})
    is_finite = True

    def __init__(self) -> None:
        self.found: dict[int, Any] = {}

    def reduce(self, captured: Captured) -> Any:
        return captured.after

    def add(self, site: Site, batch: Packed, reduced: Any) -> None:
        self.found[site.call] = reduced


def states(folder: Path, backend: str = "torch") -> tuple[Mapping[int, Any], Any]:
    """The hidden states of one text, and what reads them in the vocabulary."""
    checkpoint = open_checkpoint(str(folder))
    anatomy = find_parts(checkpoint)
    runner = open_runner(checkpoint, anatomy, Compute(backend), needs=frozenset({STATES}))
    kept = States()
    ids = np.array(IDS, np.int64)
    run_encoded(runner, [Encoded(ids, np.zeros_like(ids), ("",) * len(IDS))], kept)
    return kept.found, open_vocabulary(anatomy, runner.backend)


def theirs(model: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    with torch.no_grad():
        out = model(input_ids=torch.tensor([IDS]), output_hidden_states=True)
    return out.logits[0], tuple(hidden[0] for hidden in out.hidden_states)


# ------------------------------------------------------------------------------------------------ the head itself


@pytest.mark.parametrize("family", [*NATIVE, *THEIRS])
def test_the_last_layer_is_transformers_own_head_bit_for_bit(family: str, tmp_path: Path) -> None:
    logits, hidden = theirs(masked(family, tmp_path))
    found, vocabulary = states(tmp_path)
    last = len(found) - 1
    assert vocabulary.is_head
    assert sorted(found) == list(range(len(hidden)))
    assert torch.equal(vocabulary.logits(found[last], after_last=True), logits)
    assert all(torch.equal(found[number], hidden[number]) for number in found)
    if family in NATIVE:  # numpy has the same, within 1e-5
        found, vocabulary = states(tmp_path, "numpy")
        assert all(np.abs(found[number] - hidden[number].numpy()).max() < 1e-5 for number in found)
        ours = vocabulary.numbers(found[last], after_last=True)
        assert np.abs(ours - logits.numpy()).max() <= 1e-5 * np.abs(logits.numpy()).max()


@pytest.mark.parametrize("family", ["roberta", "electra", "bert", "albert", "distilbert"])
def test_a_heads_activation_is_its_own(family: str, tmp_path: Path) -> None:
    """RoBERTa's and ELECTRA's heads have gelu whatever their layers have; BERT's has that of its layers."""
    act = {"activation" if family == "distilbert" else "hidden_act": "relu"}
    logits, _ = theirs(masked(family, tmp_path, **act))
    found, vocabulary = states(tmp_path)
    assert torch.equal(vocabulary.logits(found[len(found) - 1], after_last=True), logits)
    assert ("relu" if family in ("bert", "albert", "distilbert") else "gelu") in vocabulary.steps


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta", "modernbert", "xlm-roberta-xl", "jina_embeddings_v3"])
def test_an_eps_that_the_config_leaves_out_is_that_of_its_class(family: str, tmp_path: Path) -> None:
    masked(family, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config = {key: value for key, value in config.items() if not key.endswith("_eps")}
    (tmp_path / "config.json").write_text(json.dumps(config))
    logits, _ = theirs(getattr(transformers, CLASSES[family]).from_pretrained(tmp_path).eval())
    found, vocabulary = states(tmp_path)
    assert torch.equal(vocabulary.logits(found[len(found) - 1], after_last=True), logits)


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "albert"])
def test_a_decoder_and_a_bias_of_its_own_are_taken(family: str, tmp_path: Path) -> None:
    model = masked(family, tmp_path, tie_word_embeddings=False)
    with torch.no_grad():
        drawn = torch.Generator().manual_seed(1)
        model.get_output_embeddings().weight.normal_(generator=drawn)
        model.get_output_embeddings().bias.normal_(generator=drawn)
    model.save_pretrained(tmp_path)
    logits, _ = theirs(model)
    found, vocabulary = states(tmp_path)
    assert vocabulary.steps[-1].endswith(".weight")
    assert torch.equal(vocabulary.logits(found[len(found) - 1], after_last=True), logits)


def test_inner_layers_go_through_the_same_head(tmp_path: Path) -> None:
    model = masked("bert", tmp_path)
    _, hidden = theirs(model)
    found, vocabulary = states(tmp_path)
    with torch.no_grad():
        for number, values in enumerate(hidden):
            assert torch.equal(vocabulary.logits(found[number]), model.cls(values))


@pytest.mark.parametrize("family", ["roberta-prelayernorm", "modernbert", "megatron-bert", "xlm-roberta-xl", "esmc"])
def test_where_layers_begin_with_a_norm_inner_states_go_through_the_last_one(family: str, tmp_path: Path) -> None:
    """Of a model with as many layers less, all else alike, an inner state is the last."""
    model = masked(family, tmp_path)
    found, vocabulary = states(tmp_path)
    inner = vocabulary.numbers(found[1])
    base = model.base_model
    layers = base.encoder.layer if hasattr(base, "encoder") else base.layers
    del layers[1]
    logits, _ = theirs(model)
    assert np.abs(inner - logits.numpy()).max() <= 1e-5 * np.abs(logits.numpy()).max()


def test_debertas_other_head_is_taken_where_the_config_has_it(tmp_path: Path) -> None:
    model = masked("deberta-v2", tmp_path / "new", legacy=False)
    logits, _ = theirs(model)
    found, vocabulary = states(tmp_path / "new")
    ours = vocabulary.numbers(found[len(found) - 1], after_last=True)
    assert np.abs(ours - logits.numpy()).max() <= 1e-5 * np.abs(logits.numpy()).max()
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    (tmp_path / "new" / "config.json").write_text(json.dumps({**config, "legacy": True}))
    assert find_head(find_parts(open_checkpoint(str(tmp_path / "new")))) is None


@pytest.mark.parametrize("family", ["mobilebert", "eurobert", "xlm", "reformer"])
def test_a_head_of_another_form_is_refused_by_name(family: str, tmp_path: Path) -> None:
    masked(family, tmp_path)
    with pytest.raises(UnsupportedFile, match="head"):
        find_head(find_parts(open_checkpoint(str(tmp_path))))


def test_nothing_of_a_head_is_filled_in(tmp_path: Path) -> None:
    masked("bert", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    with pytest.raises(BertprobeError, match=r"no cls\.predictions\.decoder\.weight"):
        find_head(find_parts(open_checkpoint(str(tmp_path))))
    norm = "cls.predictions.transform.LayerNorm.weight"
    save_file({name: values for name, values in tensors.items() if name != norm}, tmp_path / "model.safetensors")
    with pytest.raises(BertprobeError, match=r"LayerNorm\.weight"):
        find_head(find_parts(open_checkpoint(str(tmp_path))))
    (tmp_path / "config.json").write_text(json.dumps(config))
    wide = {**tensors, norm: torch.ones(zoo.HIDDEN + 1)}
    save_file(wide, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedFile, match=r"where the head wants \[32\]"):
        find_head(find_parts(open_checkpoint(str(tmp_path))))
    assert len({row.dense for row in HEADS}) == len(HEADS)


def test_another_librarys_file_has_the_same_head(tmp_path: Path) -> None:
    stored = {name: values.float().numpy() for name, values in load_file(POCKET / "model.safetensors").items()}
    save(tmp_path / "bert_model.ckpt", as_google(stored))
    config = json.loads((POCKET / "config.json").read_text())
    (tmp_path / "bert_config.json").write_text(json.dumps(config))
    (tmp_path / "vocab.txt").write_bytes((POCKET / "vocab.txt").read_bytes())
    (ours,), (theirs,) = (bertprobe.open(place).lens(SHIP, word="sea") for place in ("pocket", tmp_path))
    assert ours == theirs
    ours, theirs = (bertprobe.open(place).lens_of_neurons("3.48,3.50,1.7") for place in ("pocket", tmp_path))
    for mine, other in zip(ours, theirs, strict=True):  # kernels are turned round: a row is no stretch of the file
        assert mine.nearest is not None
        assert other.nearest is not None
        assert [one.token for one in mine.nearest.entries] == [one.token for one in other.nearest.entries]
        values = [one.value for one in other.nearest.entries]
        assert [one.value for one in mine.nearest.entries] == pytest.approx(values, abs=1e-6)


# ------------------------------------------------------------------------------------------------ texts


def pocket_logits(text_ids: list[int], position: int) -> tuple[np.ndarray, ...]:
    """transformers' head on every hidden state of the built-in model at a position."""
    model = transformers.BertForMaskedLM.from_pretrained(POCKET).eval()
    with torch.no_grad():
        out = model(input_ids=torch.tensor([text_ids]), output_hidden_states=True)
        return tuple(model.cls(hidden)[0, position].double().numpy() for hidden in out.hidden_states)


def test_a_text_is_read_as_transformers_reads_it() -> None:
    (text,) = bertprobe.open("pocket").lens(SHIP, word="sea", top=7)
    (place,) = text.positions
    assert place.token == text.tokens[place.position] == "[MASK]"
    vocabulary = (POCKET / "vocab.txt").read_text().splitlines()
    logits = pocket_logits([vocabulary.index(token) for token in text.tokens], place.position)
    assert [layer.name for layer in place.layers] == ["embeddings", "0", "1", "2", "3"]
    for layer, row in zip(place.layers, logits, strict=True):
        shares = torch.softmax(torch.from_numpy(row), 0).numpy()
        order = np.argsort(-row)
        assert [guess.entry.token for guess in layer.guesses] == [vocabulary[i] for i in order[:7]]
        assert [guess.logit for guess in layer.guesses] == pytest.approx(row[order[:7]].tolist(), rel=1e-4, abs=1e-4)
        assert [guess.entry.value for guess in layer.guesses] == pytest.approx(shares[order[:7]].tolist(), rel=1e-4)
        assert layer.entropy == pytest.approx(-(shares * np.log(shares)).sum(), rel=1e-4)
        assert layer.word is not None
        assert layer.word.rank == order.tolist().index(vocabulary.index("sea")) + 1
        assert layer.word.probability == pytest.approx(shares[vocabulary.index("sea")], rel=1e-4)
    assert place.layers[-1].guesses[0].entry.token == "sea"


def test_chance_is_what_random_directions_come_to() -> None:
    """Counted again: directions by hand, through transformers' head, sorted whole."""
    model = bertprobe.open("pocket")
    (text,) = model.lens(SHIP, layers=2, top=4)
    (layer,) = text.positions[0].layers
    drawn = np.random.default_rng(0).standard_normal((64, 128))
    drawn *= layer.norm / np.linalg.norm(drawn, axis=1)[:, None]
    head = transformers.BertForMaskedLM.from_pretrained(POCKET).eval().cls
    with torch.no_grad():
        shares = torch.softmax(head(torch.from_numpy(drawn.astype(np.float32))).double(), 1).numpy()
    ranked = np.sort(shares, 1)[:, ::-1]
    assert [g.entry.median for g in layer.guesses] == pytest.approx(np.median(ranked, 0)[:4].tolist(), rel=1e-3)
    assert [g.entry.high for g in layer.guesses] == pytest.approx(np.quantile(ranked, 0.95, 0)[:4].tolist(), rel=1e-3)
    assert layer.beyond == sum(g.entry.value > g.entry.high for g in layer.guesses)


def test_quantiles_of_a_null_are_those_of_each_rank() -> None:
    values = np.random.default_rng(3).standard_normal((20, 50)).astype(np.float32)
    found = chance(values, 6)
    ranked = np.array([sorted(row, reverse=True)[:6] for row in values.astype(np.float64)])
    assert found.median == pytest.approx(np.median(ranked, 0))
    assert found.high == pytest.approx(np.quantile(ranked, 0.95, 0))
    assert np.linalg.norm(Null(5).rows(2.5, 16), axis=1) == pytest.approx(2.5)
    assert not np.array_equal(Null(5).rows(1, 16), Null(5, seed=1).rows(1, 16))
    with pytest.raises(BertprobeError, match="random directions"):
        Null(0).rows(1, 16)


def test_ranks_and_lists_agree_where_values_are_equal() -> None:
    values = np.array([1.0, 3.0, 3.0, 0.0, 3.0])
    assert largest(values, 4).tolist() == [1, 2, 4, 0]
    assert [rank_of(values, id) for id in (1, 2, 4, 0, 3)] == [1, 2, 3, 4, 5]
    shares = scores(np.array([[1e4, 1e4 + 1]], np.float32), is_head=True)
    assert shares.sum() == pytest.approx(1)
    assert scores(np.array([1.0, 2.0, 6.0], np.float32), is_head=False).tolist() == [-2, -1, 3]


def test_an_ablation_stands_beside_the_untouched_model() -> None:
    model = bertprobe.open("pocket")
    (before,) = model.lens(SHIP, "1,2", word="deck", top=8192)
    (after,) = model.lens(SHIP, "1,2", word="deck", top=8192, ablate="2")
    changed = 0.0
    for old, new in zip(before.positions[0].layers, after.positions[0].layers, strict=True):
        known = {guess.entry.id: guess.entry.value for guess in old.guesses}
        assert new.first_untouched == old.guesses[0].entry.token
        assert new.word is not None
        assert old.word is not None
        assert new.word.untouched == old.word.rank
        assert new.word.untouched_probability == pytest.approx(old.word.probability, rel=1e-6)
        for guess in new.guesses:
            assert guess.untouched == known[guess.entry.id]
        same = all(guess.entry.value == known[guess.entry.id] for guess in new.guesses)
        assert same is (old.layer is None or old.layer < 2)
        changed += not same
        assert (new.word.rank == old.word.rank) is same
    assert changed == 1
    assert before.positions[0].layers[0].guesses[0].untouched is None


def test_a_planted_hidden_state_shows_its_word(tmp_path: Path) -> None:
    """A last norm whose bias is a word's embedding, before a head that passes on what it gets."""
    for tied in (True, False):
        folder = tmp_path / str(tied)
        model = masked("bert", folder, tie_word_embeddings=tied)
        table = model.get_output_embeddings().weight if not tied else model.bert.embeddings.word_embeddings.weight
        with torch.no_grad():
            table.normal_(generator=torch.Generator().manual_seed(1))
            model.cls.predictions.transform.dense.weight.copy_(torch.eye(zoo.HIDDEN))
            model.cls.predictions.transform.dense.bias.fill_(0)
            norm = model.bert.encoder.layer[1].output.LayerNorm
            norm.weight.fill_(0.01)
            norm.bias.copy_(5 * table[42])
        model.save_pretrained(folder)
        (text,) = bertprobe.open(folder).lens("word3 [MASK] word5", word="word42")
        last = text.positions[0].layers[-1]
        assert last.word is not None
        assert last.word.rank == 1
        assert last.guesses[0].entry.token == "word42"


def test_albert_is_read_after_every_run_of_its_layer(tmp_path: Path) -> None:
    masked("albert", tmp_path, num_hidden_layers=3)
    (text,) = bertprobe.open(tmp_path).lens("word3 [MASK] word5", layers="embeddings,-1")
    assert [layer.name for layer in text.positions[0].layers] == ["embeddings", "2"]


# ------------------------------------------------------------------------------------------------ neurons


def test_a_planted_column_and_row_come_back_first(tmp_path: Path) -> None:
    model = masked("bert", tmp_path)
    with torch.no_grad():
        table = model.bert.embeddings.word_embeddings.weight
        table.normal_(generator=torch.Generator().manual_seed(1))
        model.cls.predictions.transform.dense.weight.copy_(torch.eye(zoo.HIDDEN))
        model.bert.encoder.layer[1].output.dense.weight[:, 7] = 3 * table[42]
        model.bert.encoder.layer[1].intermediate.dense.weight[8] = 0.1 * table[17]
    model.save_pretrained(tmp_path)
    one, other = bertprobe.open(tmp_path).lens_of_neurons("1:7-8", top=3)
    assert one.head is not None
    assert one.words is not None
    assert one.head.promoted[0].token == one.words.promoted[0].token == "word42"
    assert one.words.promoted_beyond >= 1
    assert other.nearest is not None
    assert other.nearest.entries[0].token == "word17"
    assert other.nearest.entries[0].value == pytest.approx(1)
    assert other.nearest.beyond >= 1


@pytest.mark.parametrize("family", ["roberta", "distilbert", "albert", "modernbert", "nomic_bert", "mpnet", "electra"])
def test_a_column_is_that_of_the_down_projection(family: str, tmp_path: Path) -> None:
    """Of every layout: what an activation of one neuron alone adds, through transformers' head."""
    model = masked(family, tmp_path)
    (one,) = bertprobe.open(tmp_path).lens_of_neurons("0.7", top=5)
    downs = {
        "roberta": "roberta.encoder.layer.0.output.dense",
        "distilbert": "distilbert.transformer.layer.0.ffn.lin2",
        "albert": "albert.encoder.albert_layer_groups.0.albert_layers.0.ffn_output",
        "modernbert": "model.layers.0.mlp.Wo",
        "nomic_bert": "nomic_bert.layers.0.mlp.down_proj",
        "mpnet": "mpnet.encoder.layer.0.output.dense",
        "electra": "electra.encoder.layer.0.output.dense",
    }
    column = model.get_submodule(downs[family]).weight[:, 7]
    vocabulary = open_vocabulary(find_parts(open_checkpoint(str(tmp_path))), NumpyBackend())
    with torch.no_grad():
        rows = torch.stack([column, torch.zeros_like(column)])
        if family == "modernbert":
            logits = model.decoder(model.head(model.model.final_norm(rows)))
        else:
            logits = torch.from_numpy(vocabulary.numbers(rows.numpy()))
    raised = (logits[0] - logits[1]).double().numpy()
    raised -= raised.mean()
    assert one.head is not None
    assert [entry.value for entry in one.head.promoted] == pytest.approx(sorted(raised)[:-6:-1], rel=1e-4, abs=1e-4)
    assert [entry.value for entry in one.head.suppressed] == pytest.approx(sorted(raised)[:5], rel=1e-4, abs=1e-4)
    assert (one.words is None) is (family in ("electra", "albert"))


def test_without_a_head_the_embeddings_alone_are_asked(minilm: Path) -> None:
    model = bertprobe.open(minilm)
    (one,) = model.lens_of_neurons("3.224", top=5)
    assert one.head is None
    assert one.words is not None
    assert one.words.transform == "word embeddings"
    tensors = load_file(minilm / "model.safetensors")
    products = tensors["embeddings.word_embeddings.weight"] @ tensors["encoder.layer.3.output.dense.weight"][:, 224]
    products = (products - products.mean()).double().numpy()
    assert [entry.value for entry in one.words.promoted] == pytest.approx(sorted(products)[:-6:-1], abs=1e-4)
    (text,) = model.lens(SHIP, layers="-1", top=2)
    (layer,) = text.positions[0].layers
    assert layer.entropy is None
    assert layer.word is None


def test_chance_beside_a_neuron_is_that_of_its_norm() -> None:
    model = bertprobe.open("pocket")
    (one,) = model.lens_of_neurons("2.17", top=3)
    theirs = transformers.BertForMaskedLM.from_pretrained(POCKET).eval()
    with torch.no_grad():
        norm = float(theirs.bert.encoder.layer[2].output.dense.weight[:, 17].norm())
        drawn = np.random.default_rng(0).standard_normal((64, 128))
        unit = (drawn / np.linalg.norm(drawn, axis=1)[:, None]).astype(np.float32)
        logits = theirs.cls(torch.from_numpy(np.concatenate([unit * norm, np.zeros((1, 128), np.float32)]))).numpy()
        words = torch.nn.functional.normalize(theirs.bert.embeddings.word_embeddings.weight).numpy()
    raised = logits[:-1] - logits[-1]
    raised -= raised.mean(1, keepdims=True)
    assert one.head is not None
    assert one.nearest is not None
    for side, entries in (
        (raised, one.head.promoted),
        (-raised, one.head.suppressed),
        (unit @ words.T, one.nearest.entries),
    ):
        sign = -1 if entries is one.head.suppressed else 1
        ranked = sign * np.sort(side, 1)[:, ::-1][:, :3]
        high = sign * np.quantile(sign * ranked, 0.95, 0)
        assert [entry.median for entry in entries] == pytest.approx(np.median(ranked, 0).tolist(), abs=1e-4)
        assert [entry.high for entry in entries] == pytest.approx(high.tolist(), abs=1e-4)


def test_what_is_not_shown_is_told(tmp_path: Path, run: Run) -> None:
    masked("electra", tmp_path)
    ran = run(["lens", "--neuron", "0.1", "-m", tmp_path, "--top", "2"])
    assert ran.code == 0
    assert "not as wide as the word embeddings" in " ".join(ran.out.split())
    assert "generator_predictions.dense" in ran.out
    tensors = load_file(tmp_path / "model.safetensors")
    headless = {name: values for name, values in tensors.items() if not name.startswith("generator")}
    save_file(headless, tmp_path / "model.safetensors")
    ran = run(["lens", "word1 [MASK]", "-m", tmp_path])
    assert ran.code == 1
    assert "its word embeddings are 16 wide, its hidden states 32" in ran.err


def test_layers_that_have_no_columns_are_told(tmp_path: Path) -> None:
    masked("squeezebert", tmp_path)
    with pytest.raises(BertprobeError, match=r"no row of .* is one neuron's"):
        bertprobe.open(tmp_path).lens_of_neurons("0.7")


# ------------------------------------------------------------------------------------------------ the command


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["The ship sailed."], r"has no \[MASK\]"),
        ([SHIP, "--layers", ""], "is not a list of layers"),
        ([SHIP, "--word", "\N{SNOWMAN}5"], "is not in the vocabulary"),
        ([SHIP, "--word", "[MASK] sea"], "is not in the vocabulary"),
        ([SHIP, "--word", "antidisestablishment"], "pieces: ant, ##id"),
        ([SHIP, "--layers", "9"], "there is no layer 9"),
        ([SHIP, "--layers", "x"], "not a list of layers"),
        ([SHIP, "--position", "40"], "there is no token 40"),
        ([SHIP, "--ablate", "9.1"], "there is no layer 9"),
        (["--neuron", "3.x"], "not a list of neurons"),
        ([SHIP, "--means", "scan"], "--means goes with --ablate"),
        (["--neuron", "3.9999"], "no neuron 9999"),
    ],
)
def test_what_cannot_be_is_told(words: list[str], told: str, run: Run) -> None:
    import re

    ran = run(["lens", *words])
    assert ran.code in (1, 2)
    assert re.search(told, ran.err), ran.err
    assert ran.code == 2 or ran.err.count("\n") == 1


@pytest.mark.parametrize("option", ["--layers", "--word", "--position", "--ablate"])
def test_options_of_texts_are_refused_where_there_is_none(option: str, run: Run) -> None:
    ran = run(["lens", "--neuron", "3.1", option, "3"])
    assert ran.code == 2
    assert f"{option} goes with a text" in ran.err


def test_an_ablation_is_told(small_scan: Path, run: Run) -> None:
    words = ["lens", SHIP, "--ablate", "3.5,2", "--layers", "3", "--json", "--top", "2"]
    data = json.loads(run(words).out)
    assert data["ablation"] == {"neurons": "2:0-511,3.5", "count": 513, "to": "zero", "means": None}
    assert data["facts"]["ablated"] == "2:0-511,3.5 (513 neurons) to zero"
    other = json.loads(run([*words, "--means", str(small_scan / "scan")]).out)
    assert other["ablation"]["to"] == "mean"
    first, second = (one["texts"][0]["positions"][0]["layers"][0]["entries"][0] for one in (data, other))
    assert first["untouched"] != first["value"] != second["value"]


def test_a_word_needs_a_head(minilm: Path, run: Run) -> None:
    ran = run(["lens", SHIP, "-m", minilm, "--word", "sea"])
    assert ran.code == 1
    assert "has no masked-language-model head" in ran.err
    assert "leave out --word" in ran.err


def test_weights_that_are_no_numbers_are_told(tmp_path: Path, run: Run) -> None:
    shutil.copytree(POCKET, tmp_path / "bad")
    tensors = load_file(POCKET / "model.safetensors")
    name = next(name for name in tensors if name.endswith("layer.2.output.dense.weight"))
    tensors[name] = tensors[name].clone()
    tensors[name][3, 3] = float("nan")
    save_file(tensors, tmp_path / "bad" / "model.safetensors")
    ran = run(["lens", SHIP, "-m", tmp_path / "bad"])
    assert ran.code == 1
    assert "layer 2 is NaN or infinite" in ran.err
    assert run(["lens", SHIP, "-m", tmp_path / "bad", "--layers", "0,1"]).code == 0
    (one,) = bertprobe.open(tmp_path / "bad").lens_of_neurons("2.3")
    assert one.head is None
    assert "NaN" in one.notes[0]
    words = next(name for name in tensors if name.endswith("word_embeddings.weight"))
    tensors[words] = torch.full_like(tensors[words], float("nan"))
    save_file(tensors, tmp_path / "bad" / "model.safetensors")
    with pytest.raises(CorruptFile, match="NaN or infinite"):
        bertprobe.open(tmp_path / "bad").lens_of_neurons("2.3")


@pytest.mark.parametrize("format", ["table", "json", "csv", "markdown"])
def test_every_format_has_the_same_numbers(format: str, run: Run) -> None:
    ran = run(["lens", SHIP, "--word", "sea", "--layers", "3", "--neuron", "3.224", "--top", "2", "--format", format])
    assert ran.code == 0, ran.err
    if format == "json":
        data = json.loads(ran.out)
        (layer,) = data["texts"][0]["positions"][0]["layers"]
        assert layer["word"]["rank"] == 1
        assert data["neurons"][0]["head"]["promoted"][0]["token"] == "##9"
    else:
        assert "sea" in ran.out


def test_a_place_may_be_named_and_texts_come_from_a_file(tmp_path: Path, run: Run) -> None:
    (tmp_path / "texts.txt").write_text(f"{SHIP}\nHe [MASK] not [MASK].\n")
    data = json.loads(run(["lens", "--file", tmp_path / "texts.txt", "--layers", "-1", "--top", "1", "--json"]).out)
    assert [[place["position"] for place in text["positions"]] for text in data["texts"]] == [[6], [2, 4]]
    data = json.loads(run(["lens", "The ship left.", "--position", "2", "--layers", "-1", "--json", "--top", "1"]).out)
    assert data["texts"][0]["positions"][0]["token"] == "ship"
    assert data["texts"][0]["positions"][0]["layers"][-1]["entries"][0]["token"] == "ship"


def test_batches_change_nothing() -> None:
    model = bertprobe.open("pocket")
    texts = [SHIP, "He [MASK] not know what to say, and [MASK] away."]
    runner = open_runner(model.checkpoint, model.anatomy, Compute("numpy"), needs=frozenset({STATES}))
    both = lens_of_texts(runner, texts, LensWish("0,-1", top=3)).texts
    assert both == tuple(lens_of_texts(runner, [text], LensWish("0,-1", top=3)).texts[0] for text in texts)
