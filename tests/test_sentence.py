"""The law of sentence vectors: those that sentence-transformers 6.2 makes of the same folder, or one clear error.

Held to 1e-5 for vectors whose numbers are no larger than 1; for larger ones, as sums of hidden states are, relative to
the vector's largest number. Both compute in float32, whatever type the weights have: sentence-transformers by itself
takes the stored type, which `test_half_precision` holds to that type's own accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import sentences
from sentences import HIDDEN, NORMALIZE, change, dense, drawn, few, lay_out, layer_norm, pooling, texts, write

import bertprobe
from bertprobe.errors import BertprobeError
from bertprobe.recipe.steps import DENSE_ACTIVATIONS, FLAGS
from bertprobe.run import Compute

pytest.importorskip("sentence_transformers")

TOLERANCE = 1e-5
MEAN = pooling("mean")
ALL = pooling(*FLAGS.values())
SHORT = {"max_seq_length": 64, "do_lower_case": False}


class Bases(NamedTuple):
    """Folders of tiny models as transformers saves them."""

    bert: Path
    cased: Path
    roberta: Path
    xlm_roberta: Path
    mpnet: Path


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    folder = tmp_path_factory.mktemp("bases")
    return Bases(
        sentences.save_bert(folder / "bert"),
        sentences.save_bert(folder / "cased", lower=False),
        sentences.save_roberta(folder / "roberta"),
        sentences.save_xlm_roberta(folder / "xlm-roberta"),
        sentences.save_mpnet(folder / "mpnet"),
    )


def theirs(folder: Path, batch: Sequence[str], **options: Any) -> np.ndarray:
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    found: np.ndarray = model.encode(list(batch), show_progress_bar=False, **options)
    return found


def ours(folder: Path, batch: Sequence[str], prompt: str | None = None, compute: Compute | None = None) -> np.ndarray:
    return bertprobe.open(folder).pool(list(batch), vector="sentence", prompt=prompt, compute=compute)


def assert_equal(found: np.ndarray, wanted: np.ndarray, tolerance: float = TOLERANCE) -> None:
    """Row by row, as the docstring of this module has it; what is infinite, as a maximum of nothing, is so in both."""
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    finite = np.isfinite(wanted)
    assert np.array_equal(found[~finite], wanted[~finite])
    found, wanted = np.where(finite, found, 0), np.where(finite, wanted, 0)
    scale = np.maximum(1, np.abs(wanted).max(1))
    assert (np.abs(found - wanted).max(1) / scale).max() <= tolerance


def same(folder: Path, batch: Sequence[str], said: str | None = None, /, **options: Any) -> np.ndarray:
    """Our vectors, once they are theirs; `said` is the prompt as we are told it, `options` are for `encode`."""
    found = ours(folder, batch, said)
    assert_equal(found, theirs(folder, batch, **options))
    return found


# ------------------------------------------------------------------------------------------------ a thousand texts


def test_texts_are_what_they_are_said_to_be() -> None:
    lengths = [len(encoding.ids) + 2 for encoding in sentences.wordpiece().encode_batch(list(texts()))]
    assert len(lengths) == 1000
    for around in (128, 256, 512):
        assert all(lengths.count(around + off) >= 5 for off in (-2, -1, 0, 1, 2))
    assert max(lengths) > 600
    assert set(sentences.ODD) <= set(texts())


def test_all_poolings_at_once(bases: Bases, tmp_path: Path) -> None:
    """Each mode with 1,000 texts; as several at once are put end to end, each mode alone is a slice of it."""
    together = same(lay_out(tmp_path / "all", bases.bert, ALL), texts(), batch_size=16)
    for place, mode in enumerate(FLAGS.values()):
        alone = ours(lay_out(tmp_path / mode, bases.bert, pooling(mode)), texts())
        assert_equal(alone, together[:, place * HIDDEN : (place + 1) * HIDDEN])


def test_backends_and_batches_change_nothing(bases: Bases, tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "all", bases.bert, ALL, dense(6 * HIDDEN, 48), NORMALIZE, settings=SHORT)
    wanted = ours(folder, texts())
    for backend in ("numpy", "torch"):
        for tokens in (None, 70, 3000):
            assert_equal(ours(folder, texts(), compute=Compute(backend=backend, batch_tokens=tokens)), wanted, 2e-6)
    for batch in (texts()[:1], texts()[::-1]):
        rows = [texts().index(text) for text in batch]
        assert_equal(ours(folder, batch), wanted[rows], 2e-6)


def test_everything_in_a_row(bases: Bases, tmp_path: Path) -> None:
    """A default prompt, lower-casing on a cased tokenizer, several poolings, every kind of module behind them."""
    modules = (
        pooling("cls", "mean"),
        dense(2 * HIDDEN, 48),
        layer_norm(48),
        dense(48, 48, "torch.nn.modules.activation.GELU", use_residual=True),
        NORMALIZE,
    )
    folder = lay_out(
        tmp_path / "all",
        bases.cased,
        *modules,
        settings={"max_seq_length": 128, "do_lower_case": True},
        prompts={"prompts": {"query": "Represent THIS: "}, "default_prompt_name": "query"},
    )
    same(folder, texts())


@pytest.mark.parametrize("kind", Bases._fields)
def test_families(bases: Bases, tmp_path: Path, kind: str) -> None:
    """Each model as it is, which is without a modules.json, and with one; MPNet runs through transformers."""
    batch = list(few(100))
    plain = getattr(bases, kind)
    found = same(plain, batch)
    assert_equal(ours(lay_out(tmp_path / "with", plain, MEAN), batch), found, 0)
    lowered = lay_out(tmp_path / "lowered", plain, MEAN, settings={"max_seq_length": 128, "do_lower_case": True})
    other = same(lowered, list(few(40)))
    assert np.array_equal(other[:20], found[:20]) == (kind in ("bert", "mpnet"))


def test_minilm(minilm: Path) -> None:
    batch = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    found = same(minilm, [*batch, *few(60)])
    similarity = found[:3] @ found[:3].T
    readme = np.array([[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]])
    assert np.abs(similarity - readme).max() < 5e-5


# ------------------------------------------------------------------------------------------------ folders by themselves


def test_folders_that_it_saves(bases: Bases, tmp_path: Path) -> None:
    """The format of version 6, written by sentence-transformers itself."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling
    from torch import nn

    model = SentenceTransformer(
        modules=[
            Transformer(str(bases.cased), processor_kwargs={"model_max_length": 100}),
            Pooling(HIDDEN, ("weightedmean", "max"), include_prompt=False),
            Dense(2 * HIDDEN, 40, bias=False, activation_function=nn.SiLU(), use_residual=True),
            LayerNorm(40),
            Normalize(),
        ],
        prompts={"query": "Query: ", "passage": "Passage: "},
        default_prompt_name="passage",
        truncate_dim=24,
        device="cpu",
    )
    model.save(str(tmp_path / "saved"))
    batch = list(few(60))
    assert_equal(ours(tmp_path / "saved", batch), model.encode(batch))
    found = same(tmp_path / "saved", batch, "query", prompt_name="query")
    assert found.shape == (60, 24)


def test_the_transformer_in_a_folder_of_its_own(bases: Bases, tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "f", bases.bert, MEAN, dense(HIDDEN, 24), below="0_Transformer", settings=SHORT)
    same(folder, list(few(30)))


def tokenizer_json(**members: Any) -> Callable[[Path], object]:
    return lambda folder: change(folder / "tokenizer.json", keep=True, **members)


def tokenizer_config(**members: Any) -> Callable[[Path], object]:
    return lambda folder: change(folder / "tokenizer_config.json", **members)


def settings(**members: Any) -> Callable[[Path], object]:
    return lambda folder: write(folder / "sentence_bert_config.json", members)


def without(*names: str) -> Callable[[Path], object]:
    return lambda folder: [(folder / name).unlink() for name in names]


def also(*changes: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: [change_it(folder) for change_it in changes]


ROLES = dict.fromkeys(("unk_token", "sep_token", "cls_token", "mask_token"))
FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
LEFT = {"direction": "Left", "max_length": 30, "strategy": "LongestFirst", "stride": 5}
PADS = {
    "strategy": {"Fixed": 64},
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "[PAD]",
}
SPACED = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
LOWERS = {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}

# What is changed in a folder with mean pooling: the base it is made of, and the change.
CHANGED: dict[str, tuple[str, Callable[[Path], object]]] = {
    # case and accents: the flags of one file, the normalizer of the other
    "flag against json": ("cased", tokenizer_config(do_lower_case=True)),
    "flag against json, the other way": ("bert", tokenizer_config(do_lower_case=False)),
    "no flag": ("cased", tokenizer_config(do_lower_case=None)),
    "flag, json followed": ("cased", tokenizer_config(do_lower_case=True, **FAST)),
    "flag, json followed, the other way": ("bert", tokenizer_config(do_lower_case=False, **FAST)),
    "class missing": ("cased", tokenizer_config(tokenizer_class=None, do_lower_case=True)),
    "class not known": ("cased", tokenizer_config(tokenizer_class="OwnTokenizer", do_lower_case=True)),
    "DistilBERT's": ("cased", tokenizer_config(tokenizer_class="DistilBertTokenizer", do_lower_case=True)),
    "LXMERT's": ("cased", tokenizer_config(tokenizer_class="LxmertTokenizer", do_lower_case=True)),
    "ConvBERT's": ("cased", tokenizer_config(tokenizer_class="ConvBertTokenizer", do_lower_case=True)),
    "ConvBERT's without json": (
        "bert",
        also(tokenizer_config(tokenizer_class="ConvBertTokenizer", do_lower_case=False), without("tokenizer.json")),
    ),
    "Funnel's": ("bert", tokenizer_config(tokenizer_class="FunnelTokenizer")),
    "HerBERT's": ("cased", tokenizer_config(tokenizer_class="HerbertTokenizer")),
    "strip_accents": ("cased", tokenizer_config(strip_accents=True)),
    "accents kept": ("bert", tokenizer_config(strip_accents=False)),
    "CJK kept together": ("bert", tokenizer_config(tokenize_chinese_chars=False)),
    "no tokenizer_config.json": ("cased", without("tokenizer_config.json")),
    "no tokenizer.json": ("cased", without("tokenizer.json")),
    "vocab.txt alone": ("bert", without("tokenizer.json", "tokenizer_config.json")),
    "lower-cased before": ("cased", settings(do_lower_case=True)),
    "lower-cased before and after": ("cased", also(settings(do_lower_case=True), tokenizer_json(normalizer=LOWERS))),
    "lower-cased by json": ("cased", also(tokenizer_config(**FAST), tokenizer_json(normalizer=LOWERS))),
    "lower-cased by json alone": ("cased", tokenizer_json(normalizer=LOWERS)),
    "no normalizer": ("bert", also(tokenizer_config(**FAST), tokenizer_json(normalizer=None))),
    # the rest of the tokenizer
    "truncation in json": ("bert", also(tokenizer_json(truncation=LEFT), settings(max_seq_length=20))),
    "truncation in json, other side": (
        "bert",
        also(tokenizer_json(truncation=LEFT), tokenizer_config(truncation_side="right", model_max_length=20)),
    ),
    "truncation_side": ("bert", also(tokenizer_config(truncation_side="left"), settings(max_seq_length=20))),
    "padding in json": ("bert", also(tokenizer_json(padding=PADS), settings(max_seq_length=40))),
    "no post-processor": ("bert", tokenizer_json(post_processor=None)),
    "other special tokens": ("bert", tokenizer_config(cls_token="<s>", sep_token="</s>")),
    "special tokens, json followed": ("bert", tokenizer_config(cls_token="<s>", sep_token="</s>", **FAST)),
    "special_tokens_map.json": (
        "bert",
        also(
            tokenizer_config(cls_token=None, sep_token=None),
            lambda folder: write(folder / "special_tokens_map.json", {"cls_token": "<s>", "sep_token": "</s>"}),
        ),
    ),
    "special tokens in a text are text": ("bert", tokenizer_config(split_special_tokens=True)),
    "special tokens in a text are text, MPNet": ("mpnet", tokenizer_config(split_special_tokens=True)),
    "other unknown token": ("bert", tokenizer_config(unk_token="[MASK]")),
    "short words only": ("bert", tokenizer_json(model={"max_input_chars_per_word": 5})),
    "short words only, json followed": (
        "bert",
        also(tokenizer_config(**FAST), tokenizer_json(model={"max_input_chars_per_word": 5})),
    ),
    "other splits": ("bert", tokenizer_json(pre_tokenizer={"type": "Whitespace"})),
    "RoBERTa lower-cased by json": ("roberta", tokenizer_json(normalizer={"type": "Lowercase"})),
    "RoBERTa lower-cased by both": (
        "roberta",
        also(tokenizer_json(normalizer={"type": "Lowercase"}), settings(do_lower_case=True, max_seq_length=64)),
    ),
    "RoBERTa lower-cased, json followed": (
        "roberta",
        also(tokenizer_json(normalizer={"type": "Lowercase"}), tokenizer_config(**FAST)),
    ),
    "RoBERTa NFKC": ("roberta", tokenizer_json(normalizer={"type": "NFKC"})),
    "RoBERTa, space by flag": ("roberta", tokenizer_config(add_prefix_space=True)),
    "RoBERTa, space by json": (
        "roberta",
        tokenizer_json(pre_tokenizer=SPACED),
    ),
    "RoBERTa, no post-processor": ("roberta", tokenizer_json(post_processor=None)),
    "XLM-R, other splits": ("xlm_roberta", tokenizer_json(pre_tokenizer=METASPACE)),
    "XLM-R, no space": ("xlm_roberta", tokenizer_config(add_prefix_space=False)),
    "XLM-R as BERT": ("xlm_roberta", tokenizer_config(tokenizer_class="BertTokenizer")),
    "MPNet cased": ("mpnet", tokenizer_config(do_lower_case=False)),
    # lengths
    "max_seq_length": ("bert", settings(max_seq_length=128)),
    "model_max_length": ("bert", tokenizer_config(model_max_length=100)),
    "max_len": ("bert", tokenizer_config(model_max_length=None, max_len=100)),
    "no limit": ("bert", tokenizer_config(model_max_length=10**30)),
    "positions": ("bert", tokenizer_config(model_max_length=1000)),
    "processor_kwargs": ("bert", settings(processor_kwargs={"model_max_length": 33}, max_seq_length=64)),
    "tokenizer_args": ("bert", settings(tokenizer_args={"model_max_length": 33})),
    "processing_kwargs": ("bert", settings(processing_kwargs={"text": {"max_length": 22}}, max_seq_length=64)),
    "older name": (
        "cased",
        lambda folder: write(folder / "sentence_roberta_config.json", {"max_seq_length": 20, "do_lower_case": True}),
    ),
    "older name after an empty one": (
        "cased",
        also(
            settings(),
            lambda folder: write(folder / "sentence_roberta_config.json", {"max_seq_length": 20}),
        ),
    ),
    "settings without modules.json": (
        "cased",
        also(settings(max_seq_length=20, do_lower_case=True), without("modules.json")),
    ),
    "defaults spelled out": (
        "bert",
        settings(
            transformer_task="feature-extraction",
            modality_config={"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
            module_output_name="token_embeddings",
            model_args={"attn_implementation": "eager"},
        ),
    ),
    "chat template": ("bert", tokenizer_config(chat_template="{{ messages[0].content }}")),
}


@pytest.mark.parametrize("kind", CHANGED)
def test_settings_files(bases: Bases, tmp_path: Path, kind: str) -> None:
    base, change_it = CHANGED[kind]
    folder = lay_out(tmp_path / "f", getattr(bases, base), MEAN)
    change_it(folder)
    same(folder, list(few(34)))


def test_padding_on_the_left(bases: Bases, tmp_path: Path) -> None:
    """There sentence-transformers counts positions from the padding, and a vector depends on its batch; alone, not."""
    folder = lay_out(tmp_path / "f", bases.bert, ALL, settings=SHORT, tokenizer={"padding_side": "left"})
    same(folder, list(few(25)), batch_size=1)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 3e-3), ("bfloat16", 3e-2)])
def test_half_precision(bases: Bases, tmp_path: Path, dtype: str, tolerance: float) -> None:
    """We compute in float32; sentence-transformers in the stored type, unless told otherwise."""
    import torch
    from safetensors.torch import load_file, save_file
    from sentence_transformers import SentenceTransformer

    folder = lay_out(tmp_path / "f", bases.bert, MEAN, dense(HIDDEN, 24), NORMALIZE, settings=SHORT)
    weights = {
        name: tensor.to(getattr(torch, dtype)) for name, tensor in load_file(folder / "model.safetensors").items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    change(folder / "config.json", dtype=dtype)
    batch = list(few(30))
    found = same(folder, batch)
    as_stored = SentenceTransformer(str(folder), device="cpu").encode(batch).astype(np.float32)
    assert_equal(found, as_stored, tolerance)


# ------------------------------------------------------------------------------------------------ modules

_ACTIVATION = "torch.nn.modules.activation."
MODULES: dict[str, tuple[sentences.Module, ...]] = {
    **{
        f"Dense {name}": (
            MEAN,
            dense(HIDDEN, 24, f"torch.nn.modules.{'linear' if name == 'Identity' else 'activation'}.{name}"),
        )
        for name in DENSE_ACTIVATIONS
    },
    "Dense without bias": (MEAN, dense(HIDDEN, 24, bias=False)),
    "Dense with residual": (MEAN, dense(HIDDEN, HIDDEN, use_residual=True)),
    "Dense with residual of another width": (MEAN, dense(HIDDEN, 24, use_residual=True)),
    "Dense without activation": (MEAN, dense(HIDDEN, 24, None)),
    "Dense with an activation of one's own": (MEAN, dense(HIDDEN, 24, "own.code.Activation")),
    "Dense with a setting nobody knows": (MEAN, dense(HIDDEN, 24, scale=3)),
    "two Dense": (MEAN, dense(HIDDEN, 24), dense(24, 16), NORMALIZE),
    "Normalize before Dense": (MEAN, NORMALIZE, dense(HIDDEN, 24)),
    "Normalize before and after": (pooling("cls", "max"), NORMALIZE, dense(2 * HIDDEN, 24), NORMALIZE),
    "LayerNorm": (MEAN, layer_norm(HIDDEN)),
    "Dropout": (MEAN, ("Dropout", {"dropout": 0.5}, {})),
    "no mode": (pooling(),),
    "pooling_mode": (("Pooling", {"embedding_dimension": HIDDEN, "pooling_mode": "max"}, {}),),
    "pooling_mode of several": (
        ("Pooling", {"embedding_dimension": HIDDEN, "pooling_mode": ["lasttoken", "cls"]}, {}),
    ),
    "pooling_mode against flags": (pooling("mean", pooling_mode="weightedmean"),),
    "width of a pooling": (pooling("cls", word_embedding_dimension=99),),
}


@pytest.mark.parametrize("kind", MODULES)
def test_modules(bases: Bases, tmp_path: Path, kind: str) -> None:
    same(lay_out(tmp_path / "f", bases.bert, *MODULES[kind], settings=SHORT), list(few(24)))


def test_weights_of_modules_in_other_types(bases: Bases, tmp_path: Path) -> None:
    kind, said, tensors = dense(HIDDEN, 24)
    for dtype in ("half", "double"):
        made = (kind, said, {name: getattr(tensor, dtype)() for name, tensor in tensors.items()})
        same(lay_out(tmp_path / dtype, bases.bert, MEAN, made, settings=SHORT, safetensors=True), list(few(22)))


@pytest.mark.parametrize("cut", [10, 24, 100])
def test_truncate_dim(bases: Bases, tmp_path: Path, cut: int) -> None:
    folder = lay_out(tmp_path / "f", bases.bert, MEAN, NORMALIZE, settings=SHORT, prompts={"truncate_dim": cut})
    assert same(folder, list(few(22))).shape[1] == min(cut, HIDDEN)


# ------------------------------------------------------------------------------------------------ prompts

PROMPTS = {"query": "query: ", "doc": "Represent THIS, É: ", "none": None, "empty": ""}
LONG = "the and of to " * 30


@pytest.mark.parametrize("include", [True, False])
def test_prompts(bases: Bases, tmp_path: Path, include: bool) -> None:
    """By default, by name, as text; with `include` false the prompt's tokens are left out by every mode."""
    from sentence_transformers import SentenceTransformer

    folder = lay_out(
        tmp_path / "f",
        bases.bert,
        pooling(*FLAGS.values(), include_prompt=include),
        settings={"max_seq_length": 40},
        prompts={"prompts": PROMPTS, "default_prompt_name": "query"},
    )
    batch = list(few(28))
    model = SentenceTransformer(str(folder), device="cpu")
    assert_equal(ours(folder, batch), model.encode(batch))
    for name in (*PROMPTS, "document"):  # the last one every model has, and it is empty
        assert_equal(ours(folder, batch, name), model.encode(batch, prompt_name=name))
    for text in (
        "",
        "  ",
        "Find ÉVERYTHING 日本 ",
        "Find [SEP]",
        "Find [MASK]",
        LONG,
        LONG[: 14 * 9 + 8],
        LONG[: 14 * 9 + 4],
    ):
        assert_equal(ours(folder, batch, text), model.encode(batch, prompt=text))


@pytest.mark.parametrize("base", ["roberta", "mpnet"])
def test_prompts_of_other_families(bases: Bases, tmp_path: Path, base: str) -> None:
    said = {"settings": {"max_seq_length": 40}, "prompts": {"prompts": PROMPTS}}
    folder = lay_out(tmp_path / "f", getattr(bases, base), pooling("cls", "max", "mean", include_prompt=False), **said)
    same(folder, list(few(22)), "query", prompt_name="query")


@pytest.mark.parametrize("prompt", ["say [SEP]", "say ﷺ", "say the"])
def test_prompts_without_special_tokens_behind(bases: Bases, tmp_path: Path, prompt: str) -> None:
    """A special token that a prompt itself ends with is taken for the tokenizer's own, and stays in."""
    folder = lay_out(tmp_path / "f", bases.bert, pooling("mean", "lasttoken", include_prompt=False), settings=SHORT)
    change(folder / "tokenizer_config.json", extra_special_tokens=["the"], **FAST)
    change(folder / "tokenizer.json", keep=True, post_processor=None)
    batch = [text for text in few(25) if text.strip()]
    same(folder, batch, prompt, prompt=prompt)


def test_prompts_where_no_token_has_a_role(bases: Bases, tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "f", bases.bert, pooling("mean", "lasttoken", include_prompt=False), settings=SHORT)
    change(folder / "tokenizer_config.json", **FAST, **ROLES)
    same(folder, list(few(25)), "say it", prompt="say it")


def test_prompts_left_cut(bases: Bases, tmp_path: Path) -> None:
    folder = lay_out(
        tmp_path / "f", bases.bert, pooling("cls", "mean", include_prompt=False), settings={"max_seq_length": 20}
    )
    change(folder / "tokenizer_config.json", truncation_side="left")
    same(folder, list(few(25)), "say it ", prompt="say it ")


def test_a_default_prompt_that_is_not_there(bases: Bases, tmp_path: Path) -> None:
    """sentence-transformers does not load; we say so, unless another prompt is asked for. Unless it is one of two."""
    said = {"prompts": {"a": "b "}, "default_prompt_name": "nope"}
    folder = lay_out(tmp_path / "f", bases.bert, MEAN, settings=SHORT, prompts=said)
    with pytest.raises(BertprobeError, match="no prompt is called so"):
        ours(folder, ["text"])
    assert_equal(ours(folder, ["text"], "a"), ours(folder, ["b text"], ""))
    write(folder / "config_sentence_transformers.json", {**said, "default_prompt_name": "query"})
    same(folder, ["text"])


# ------------------------------------------------------------------------------------------------ what is refused

DENSE, SAID, TENSORS = dense(HIDDEN, 24)
WIDE = dense(HIDDEN, HIDDEN, use_residual=True)
REFUSED_MODULES: dict[str, tuple[tuple[sentences.Module, ...], str]] = {
    "CNN": ((("CNN", {"in_embedding_dimension": HIDDEN}, {}), MEAN), "is not run here"),
    "no pooling": ((), "lists no Pooling"),
    "two poolings": ((MEAN, pooling("cls")), "in this order"),
    "no settings of the pooling": ((("Pooling", {}, {}),), "1_Pooling, which has no config.json"),
    "unknown mode": ((pooling("mean", pooling_mode="attention"),), "has a mode that does not exist"),
    "no mode at all": ((pooling("mean", pooling_mode=None),), "has a mode that does not exist"),
    "flag that is none": ((pooling(pooling_mode_cls_token=1),), "not true or false"),
    "no weights": ((MEAN, (DENSE, SAID, {})), "2_Dense, which has no weights"),
    "no settings": ((MEAN, (DENSE, {}, TENSORS)), "2_Dense, which has no config.json"),
    "no widths": ((MEAN, (DENSE, {"bias": True}, TENSORS)), "in_features"),
    "other shape": ((MEAN, (DENSE, {**SAID, "out_features": 25}, TENSORS)), "is 24×32, its config.json says 25×32"),
    "other width": ((MEAN, dense(HIDDEN - 1, 24)), "is 31, what comes to it has 32 numbers"),
    "other bias": ((MEAN, (DENSE, SAID, {**TENSORS, "linear.bias": drawn(1)})), "linear.bias .* is 1,"),
    "bias lacking": ((MEAN, (DENSE, SAID, {"linear.weight": TENSORS["linear.weight"]})), "has no linear.bias"),
    "bias too many": ((MEAN, (DENSE, {**SAID, "bias": False}, TENSORS)), "knows nothing"),
    "residual lacking": ((MEAN, (DENSE, {**SAID, "use_residual": True}, TENSORS)), "has no residual.weight"),
    "residual too many": (
        (MEAN, (DENSE, WIDE[1], {**WIDE[2], "residual.weight": drawn(HIDDEN, HIDDEN)})),
        "knows nothing",
    ),
    "null activation": ((MEAN, (DENSE, {**SAID, "activation_function": None}, TENSORS)), "names no activation"),
    "function": ((MEAN, dense(HIDDEN, 24, "torch.tanh")), "is no module of torch's"),
    "other activation": ((MEAN, dense(HIDDEN, 24, f"{_ACTIVATION}PReLU")), "the activation PReLU"),
    "on tokens": ((MEAN, dense(HIDDEN, 24, module_input_name="token_embeddings")), "works on the tokens"),
    "LayerNorm's width": ((MEAN, layer_norm(HIDDEN - 1)), "is 31, what comes to it has 32 numbers"),
    "LayerNorm's weights": (
        (MEAN, ("LayerNorm", {"dimension": HIDDEN}, layer_norm(HIDDEN - 1)[2])),
        "norm.weight .* is 31,",
    ),
}


@pytest.mark.parametrize("kind", REFUSED_MODULES)
def test_modules_that_are_refused(bases: Bases, tmp_path: Path, kind: str) -> None:
    modules, words = REFUSED_MODULES[kind]
    folder = lay_out(tmp_path / "f", bases.bert, *modules, settings=SHORT)
    with pytest.raises(BertprobeError, match=words):
        ours(folder, ["some text"])


def module_rows(*rows: object) -> Callable[[Path], object]:
    return lambda folder: write(folder / "modules.json", list(rows))


_POOLING = {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
_MODEL = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
REFUSED_SETTINGS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no modules": (module_rows(), "not a list of modules"),
    "no list": (lambda folder: (folder / "modules.json").write_text("{nonsense"), "not JSON"),
    "no path": (module_rows({"name": "0", "type": _MODEL["type"]}), "not a list of modules"),
    "elsewhere": (module_rows({**_MODEL, "path": "../f"}, _POOLING), "leads elsewhere"),
    "no transformer": (module_rows(_POOLING), "lists no Transformer"),
    "own code": (module_rows(_MODEL, {**_POOLING, "type": "own.Pooling"}), "is code of its own"),
    "cross-encoder": (
        lambda folder: write(folder / "config_sentence_transformers.json", {"model_type": "CrossEncoder"}),
        "is a CrossEncoder's",
    ),
    "adapter": (lambda folder: write(folder / "adapter_config.json", {"peft_type": "LORA"}), "has an adapter"),
    "task": (settings(transformer_task="fill-mask"), "has another transformer_task"),
    "other states": (
        settings(modality_config={"text": {"method": "forward", "method_output_name": ["hidden_states", -2]}}),
        "has a modality_config",
    ),
    "config_args": (settings(config_args={"num_hidden_layers": 1}), "sets num_hidden_layers in config_args"),
    "tokenizer_args": (settings(tokenizer_args={"do_lower_case": False}), "sets do_lower_case in tokenizer_args"),
    "no special tokens": (settings(processing_kwargs={"text": {"add_special_tokens": False}}), "add_special_tokens"),
    "another tokenizer": (settings(tokenizer_name_or_path="elsewhere"), "names a tokenizer elsewhere"),
    "damaged": (lambda folder: (folder / "sentence_bert_config.json").write_text("{"), "not JSON"),
    "chat template": (
        also(without("modules.json"), tokenizer_config(chat_template="{{ messages[0].content }}")),
        "has a chat template",
    ),
}


@pytest.mark.parametrize("kind", REFUSED_SETTINGS)
def test_settings_that_are_refused(bases: Bases, tmp_path: Path, kind: str) -> None:
    change_it, words = REFUSED_SETTINGS[kind]
    folder = lay_out(tmp_path / "f", bases.bert, MEAN)
    change_it(folder)
    with pytest.raises(BertprobeError, match=words):
        ours(folder, ["some text"])


def test_texts_beyond_the_positions(bases: Bases, tmp_path: Path) -> None:
    """Where sentence-transformers ends in an error, so do we, unless we are told to cut."""
    folder = lay_out(tmp_path / "f", bases.bert, MEAN, settings={"max_seq_length": 600})
    long = [sentences.of_length(590, 0, sentences.wordpiece())]
    with pytest.raises(RuntimeError, match="512"):
        theirs(folder, long)
    with pytest.raises(BertprobeError, match="the model takes 512"):
        ours(folder, long)
    cut = bertprobe.open(folder).pool(long, vector="sentence", truncate=True)
    write(folder / "sentence_bert_config.json", {"max_seq_length": 512})
    assert_equal(cut, ours(folder, long), 0)


def test_texts_without_tokens(bases: Bases, tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "f", bases.bert, MEAN, tokenizer=FAST)
    change(folder / "tokenizer.json", keep=True, post_processor=None)
    with pytest.raises(RuntimeError):
        theirs(folder, [""])
    with pytest.raises(BertprobeError, match="comes to no tokens"):
        ours(folder, [""])


def test_no_texts(bases: Bases, tmp_path: Path) -> None:
    assert ours(lay_out(tmp_path / "f", bases.bert, ALL, settings=SHORT), []).shape == (0, 6 * HIDDEN)
    cut = lay_out(tmp_path / "cut", bases.bert, MEAN, dense(HIDDEN, 24), prompts={"truncate_dim": 8})
    assert ours(cut, []).shape == (0, 8)
    assert ours(bases.bert, []).shape == (0, HIDDEN)
