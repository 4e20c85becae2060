"""GGUF: what llama.cpp's converter makes of a model has its numbers; what it lost is said; odd files are refused."""

from __future__ import annotations

import json
import re
import struct
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf
import ggufs
import numpy as np
import pytest
import zoo
from conftest import Run
from ggufs import ARRAY, BOOL, F32, I32, STRING, U32, U64, File, bert_pairs, converted, info, of_arrays, pair
from hub import Hub
from kin import POCKET
from memory import Counting, Memory
from safetensors.numpy import load_file
from test_bad_input import refused

from bertprobe.anatomy import find_parts
from bertprobe.checkpoint import open_checkpoint, read_tensor, read_tensors
from bertprobe.checkpoint.gguf import blocks, header, index
from bertprobe.errors import BertprobeError, CorruptFile, UnsupportedFile
from bertprobe.verdicts import Evidence, judge

TEXT = "The ship left the harbour, and he was paid a shilling."


@pytest.fixture(scope="module")
def pocket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model as llama.cpp's converter makes it, in float32."""
    return converted(POCKET, tmp_path_factory.mktemp("pocket") / "pocket.gguf", pooling=1)


def vectors(run: Run, ref: Path, *options: str | Path, vector: str = "mean", text: str = TEXT) -> np.ndarray:
    with TemporaryDirectory() as folder:
        path = Path(folder, "vectors.npy")
        ran = run(["pool", text, "-m", ref, "--vector", vector, "-o", path, *options])
        assert ran.code == 0, ran.err
        found: np.ndarray = np.load(path)
    return found


def config_of(content: bytes) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(index(Memory(content)).settings["config.json"])
    return made


# ------------------------------------------------------------------------------------------------ the same numbers


def test_every_tensor_is_the_originals_bit_for_bit(pocket: Path) -> None:
    ours, original = (find_parts(open_checkpoint(str(ref))) for ref in (pocket, POCKET))
    assert (ours.family, ours.spelling, len(ours.layers)) == ("bert", "llama.cpp", 4)
    lost = {name for name in original.tensors if name not in ours.tensors}
    assert {name.partition(".")[0] for name in lost} == {"cls", "pooler"}
    read = dict(read_tensors(ours.tensors))
    for name, values in read_tensors({name: original.tensors[name] for name in ours.tensors}):
        assert np.array_equal(read[name], values.astype(np.float32)), name


@pytest.mark.parametrize("vector", ["mean", "cls"])
def test_its_vectors_are_the_originals(pocket: Path, run: Run, vector: str) -> None:
    assert np.array_equal(vectors(run, pocket, vector=vector), vectors(run, POCKET, vector=vector))


def test_a_full_size_model_comes_out_the_same(minilm: Path, tmp_path: Path, run: Run) -> None:
    path = converted(minilm, tmp_path / "minilm.gguf", pooling=1)
    text = "A naïve Ünïcode text, 中文 too."
    assert np.array_equal(vectors(run, path, text=text), vectors(run, minilm, text=text))
    assert open_checkpoint(str(path)).settings.text("vocab.txt") == (minilm / "vocab.txt").read_text()
    sentence, mean = (vectors(run, path, vector=vector, text=text) for vector in ("sentence", "mean"))
    assert np.array_equal(sentence, mean)  # of a normalisation the file does not tell
    said = "".join(run(["inspect", path, "--shapes"]).out.split())
    for words in ("made as the file says (mean tokens); whether it is then normalised", "tell the activation"):
        assert "".join(words.split()) in said


# The families that the converter calls bert or nomic-bert: what transformers needs, what it is taken for.
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "roberta, cut": ({"max_position_embeddings": 130, "pad_token_id": 1}, {"cut": 2, "tokenizer": "gpt2"}, "bert"),
    "xlm-roberta": ({"max_position_embeddings": 130, "pad_token_id": 1}, {"cut": 2, "tokenizer": "t5"}, "bert"),
    "roberta": ({"max_position_embeddings": 130, "pad_token_id": 1}, {"tokenizer": "gpt2"}, "roberta"),
    "distilbert": ({"hidden_dim": 64}, {}, "distilbert"),
    "nomic_bert": ({}, {}, "nomic_bert"),
    "bert": ({}, {"fused": True}, "bert"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_come_out_the_same(family: str, tmp_path: Path, run: Run) -> None:
    settings, how, taken_for = FAMILIES[family]
    original = tmp_path / "original"
    original.mkdir()
    zoo.save(family.partition(",")[0], original, **settings)
    text = zoo.save_tokenizer(original)
    path = converted(original, tmp_path / "model.gguf", **how)
    assert find_parts(open_checkpoint(str(path))).family == taken_for
    ours, theirs = (vectors(run, ref, "--tokenizer", original, text=text) for ref in (path, original))
    assert np.abs(ours - theirs).max() <= 1e-6
    said = " ".join(open_checkpoint(str(path)).notes)
    assert ("positions are counted from 0" in said) is ("cut" in how)


def test_a_config_that_counts_from_the_padding_is_no_config_of_a_table_that_was_cut(tmp_path: Path, run: Run) -> None:
    """The original's config.json beside the file goes before what that says, and would have every position wrong."""
    original = tmp_path / "original"
    original.mkdir()
    zoo.save("roberta", original, max_position_embeddings=130, pad_token_id=1)
    text = zoo.save_tokenizer(original)
    path = converted(original, original / "model.gguf", cut=2, tokenizer="gpt2")
    refused(run(["pool", text, "-m", path, "--vector", "mean"]), "130 positions", "has 128 rows", "not of one model")
    assert run(["inspect", path]).code == 0


def test_positions_that_nothing_tells_of_are_refused(tmp_path: Path, run: Run) -> None:
    original = tmp_path / "original"
    original.mkdir()
    zoo.save("roberta", original, max_position_embeddings=131, pad_token_id=1)
    text = zoo.save_tokenizer(original)
    path = converted(original, tmp_path / "model.gguf", tokenizer="gpt2")
    refused(run(["pool", text, "-m", path, "--vector", "mean", "--tokenizer", original]), "whether the first is")
    assert run(["inspect", path]).code == 0


# ------------------------------------------------------------------------------------------------ blocks

QUANTISED = [kind for kind in gguf.quants._type_traits if kind != gguf.GGMLQuantizationType.BF16]


def test_the_table_of_types_is_ggmls() -> None:
    ours = {kind.name: (number, kind.items, kind.bytes) for number, kind in blocks.KINDS.items()}
    for kind, sizes in gguf.GGML_QUANT_SIZES.items():
        if kind.name == "Q8_1":
            continue  # which became smaller once, and is in no file
        assert ours[kind.name] == (kind.value, *sizes)
    decoded = {kind.name for kind in blocks.KINDS.values() if kind.decoded and not kind.dtype}
    assert decoded == {kind.name for kind in QUANTISED}


def _of_blocks(kind: Any, rows: int = 6, seed: int = 0) -> tuple[bytes, np.ndarray]:
    """Random blocks of a type, their scales among them, and what the gguf package makes of them."""
    items, size = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(seed).integers(0, 256, (rows, 2 * size), np.uint8)
    with np.errstate(all="ignore"):
        wanted = gguf.quants.dequantize(raw, kind)
    file = File()
    file.add("x.weight", (rows, 2 * items), kind.value, raw.tobytes())
    return file.content, wanted


@pytest.mark.parametrize("kind", QUANTISED, ids=lambda kind: kind.name)
def test_blocks_become_what_the_gguf_package_makes_of_them(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    content, wanted = _of_blocks(kind)
    (made,) = index(Memory(content)).headers
    monkeypatch.setattr(blocks, "SLICE", 1000)
    assert made.derived is not None
    assert (made.dtype, made.stored_as, made.derived.quantised) == ("F32", kind.name, f"blocks of {kind.name}")
    turned = made.permuted((1, 0))
    for header_, values in ((made, wanted), (made.rows(2, 5), wanted[2:5]), (turned, wanted.T)):
        assert read_tensor(header_).tobytes() == np.ascontiguousarray(values).tobytes()


def test_a_quantised_model_is_near_and_says_so(tmp_path: Path, run: Run) -> None:
    path = converted(POCKET, tmp_path / "q8.gguf", "Q8_0", pooling=1)
    ours, theirs = vectors(run, path), vectors(run, POCKET)
    assert 0 < np.abs(ours - theirs).max() < 0.05 * np.abs(theirs).max()
    facts = json.loads(run(["inspect", path, "--json"]).out)["facts"]
    assert "Q8_0" in json.dumps(facts)
    assert run(["diff", POCKET, path]).code == 0
    ran = run(["export", path, "--part", "model", "-o", tmp_path / "x.safetensors", "--json"])
    types = {(tensor["dtype"], tensor["stored_dtype"]) for tensor in json.loads(ran.out)["written"]["tensors"]}
    assert types == {("F32", "F32"), ("F32", "Q8_0")}


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_halves_are_read_as_they_are(kind: str, tmp_path: Path) -> None:
    path = converted(POCKET, tmp_path / "half.gguf", kind)
    headers = open_checkpoint(str(path)).headers
    assert {h.dtype for h in headers.values()} == {"F32", kind}
    stored = load_file(POCKET / "model.safetensors")["bert.encoder.layer.0.intermediate.dense.weight"]
    if kind == "F16":
        assert np.array_equal(read_tensor(headers["blk.0.ffn_up.weight"]), stored.astype(np.float16))


def test_plain_types_are_read() -> None:
    file = File()
    wanted = {"F64": 28, "I8": 24, "I16": 25, "I32": 26, "I64": 27}
    for name, kind in wanted.items():
        file.add(
            name, (2, 3), kind, np.arange(6).astype(name.lower().replace("i", "int").replace("f", "float")).tobytes()
        )
    found = dict(read_tensors({h.name: h for h in index(Memory(file.content)).headers}))
    for name in wanted:
        assert np.array_equal(found[name], np.arange(6).reshape(2, 3)), name


@pytest.mark.parametrize(("kind", "words"), [(15, "codes of a quantisation, ggml's Q8_K"), (99, "number 99 in ggml")])
def test_types_that_are_not_read_are_listed_and_refused(kind: int, words: str) -> None:
    file = File()
    file.add("x", (1, 256), kind, bytes(292))
    file.add("y", (3,), 0, np.ones(3, np.float32).tobytes())
    x, y = index(Memory(file.content)).headers
    assert (x.shape, read_tensor(y).tolist()) == ((1, 256), [1, 1, 1])
    with pytest.raises(UnsupportedFile, match=words):
        read_tensor(x)


@pytest.mark.parametrize("what", ["missing", "too old"])
def test_without_the_gguf_package_only_blocks_are_refused(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content, _ = _of_blocks(gguf.GGMLQuantizationType.Q8_0)
    (made,) = index(Memory(content)).headers
    if what == "missing":
        monkeypatch.setitem(sys.modules, "gguf", None)
    else:
        monkeypatch.setattr(gguf, "GGMLQuantizationType", lambda number: F32 // 0 if number is None else int("x"))
    with pytest.raises(UnsupportedFile) as error:
        read_tensor(made)
    assert error.value.hint == ("pip install 'bertprobe[gguf]'" if what == "missing" else "pip install -U gguf")


# ------------------------------------------------------------------------------------------------ settings


def test_numbers_of_four_bytes_are_what_a_config_said() -> None:
    for eps in (1e-12, 1e-5, 1e-6, 1e-7, 0.1):
        assert (
            config_of(File(bert_pairs(bert__attention__layer_norm_epsilon=(F32, eps))).content)["layer_norm_eps"] == eps
        )


@pytest.mark.parametrize("missing", ["block_count", "embedding_length", "feed_forward_length", "attention__head_count"])
@pytest.mark.parametrize("instead", [(U32, None), (STRING, "12"), (ARRAY, (I32, [1, 2])), (U32, 0)])
def test_without_a_size_there_is_no_config(missing: str, instead: tuple[int, Any]) -> None:
    found = index(Memory(File(bert_pairs(**{f"bert__{missing}": instead})).content))
    assert "config.json" not in found.settings
    assert f"bert.{missing.replace('__', '.')} is missing, or no number" in " ".join(found.remarks)


@pytest.mark.parametrize("eps", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_number_that_is_none_makes_no_config(eps: float) -> None:
    found = index(Memory(File(bert_pairs(bert__attention__layer_norm_epsilon=(F32, eps))).content))
    assert "config.json" not in found.settings


def test_another_architecture_gets_one_line(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(
        of_arrays(
            {"blk.0.ffn_up.weight": np.ones((8, 4))}, bert_pairs(general__architecture=(STRING, "gemma3"))
        ).content
    )
    refused(run(["inspect", path]), "its config says 'gemma3'")
    path.write_bytes(File(bert_pairs()).content)
    refused(run(["inspect", path]), "holds no tensors")


@pytest.mark.parametrize(
    ("architecture", "names"),
    [
        ("jina-bert-v2", ["attn_q", "attn_output_norm", "layer_output_norm", "ffn_up"]),
        ("jina-bert-v3", ["attn_qkv", "attn_output_norm", "layer_output_norm", "ffn_up"]),
        ("nomic-bert-moe", ["attn_qkv", "layer_output_norm", "ffn_gate_inp", "ffn_up", "ffn_up_exps"]),
        ("modern-bert", ["attn_qkv", "attn_norm", "ffn_norm", "ffn_up"]),
        ("eurobert", ["attn_q", "attn_norm", "ffn_norm", "ffn_up", "ffn_gate"]),
    ],
)
def test_what_is_spelled_like_a_bert_and_is_none_is_not_taken_for_one(
    architecture: str, names: list[str], tmp_path: Path, run: Run
) -> None:
    """Of some the up-projection has the gate in it, and experts lie in one tensor."""
    path = tmp_path / "model.gguf"
    stored = {"token_embd.weight": np.ones((9, 4)), **{f"blk.0.{name}.weight": np.ones((4, 4)) for name in names}}
    path.write_bytes(of_arrays(stored, bert_pairs(general__architecture=(STRING, architecture))).content)
    refused(run(["inspect", path]), f"its config says '{architecture}'")


def test_a_config_beside_it_goes_before(tmp_path: Path) -> None:
    path = converted(POCKET, tmp_path / "pocket.gguf")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_act": "relu"}))
    checkpoint = open_checkpoint(str(path))
    assert (checkpoint.config or {})["hidden_act"] == "relu"
    assert "config.json" not in checkpoint.carried


@pytest.mark.parametrize(("kind", "mode"), [(1, "mean_tokens"), (2, "cls_token"), (3, "lasttoken"), (0, ""), (4, "")])
def test_the_pooling_is_sentence_transformers(kind: int, mode: str) -> None:
    found = index(Memory(File(bert_pairs(bert__pooling_type=(U32, kind))).content))
    assert ("modules.json" in found.settings) is bool(mode)
    if mode:
        settings = json.loads(found.settings["1_Pooling/config.json"])
        assert [key for key, on in settings.items() if on is True] == [f"pooling_mode_{mode}"]


def test_later_parts_of_a_file_in_several_say_nothing(tmp_path: Path) -> None:
    stored = {f"blk.0.ffn_up.{kind}": np.ones((8, 4) if kind == "weight" else 8) for kind in ("weight", "bias")}
    for number, (name, values) in enumerate(stored.items()):
        pairs = bert_pairs(split__no=(U32, number), split__count=(U32, 2), bert__block_count=(U32, 1 + number))
        (tmp_path / f"m-0000{number + 1}-of-00002.gguf").write_bytes(of_arrays({name: values}, pairs).content)
    checkpoint = open_checkpoint(str(tmp_path))
    assert {*checkpoint.headers} == {*stored}
    assert (checkpoint.config or {})["num_hidden_layers"] == 1


# ------------------------------------------------------------------------------------------------ vocabulary

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "[", "##]", "[unused1]"]


def vocabulary(
    words: list[str], types: list[int] | None = None, tokenizer: str = "bert", **others: tuple[int, Any]
) -> bytes:
    pairs = bert_pairs(
        tokenizer__ggml__model=(STRING, tokenizer), tokenizer__ggml__tokens=(ARRAY, (STRING, words)), **others
    )
    if types is not None:
        pairs.append(pair("tokenizer.ggml.token_type", ARRAY, (I32, types)))
    return File(pairs).content


def test_the_vocabulary_is_put_back() -> None:
    words, types = [ggufs.marked(word) for word in WORDS], [3] * 5 + [1] * 5
    wanted = "".join(f"{word}\n" for word in WORDS)
    found = index(Memory(vocabulary(words, types))).settings
    assert found["vocab.txt"] == wanted
    earlier = [word if word.startswith("[") and word.endswith("]") else ggufs.marked(word) for word in WORDS]
    assert index(Memory(vocabulary(earlier))).settings["vocab.txt"] == wanted
    roles = {"cls_token_id": 2, "seperator_token_id": 3, "unknown_token_id": 1}
    ids = {f"tokenizer__ggml__{key}": (U32, id) for key, id in roles.items()}
    told = json.loads(
        index(Memory(vocabulary(words, [3] * 5 + [1] * 4 + [3], **ids))).settings["tokenizer_config.json"]
    )
    assert (told["cls_token"], told["sep_token"], told["unk_token"]) == ("[CLS]", "[SEP]", "[UNK]")
    assert "[unused1]" not in told["additional_special_tokens"]  # its mark says that it is a word: "▁[unused1]"


@pytest.mark.parametrize("lower", [True, False])
def test_what_the_file_says_of_cleaning_is_followed(lower: bool) -> None:
    words = [ggufs.marked(word) for word in WORDS]
    key = "tokenizer__ggml__normalizer__{}".format
    found = index(
        Memory(vocabulary(words, **{key("lowercase"): (BOOL, lower), key("strip_accents"): (BOOL, not lower)}))
    )
    told = json.loads(found.settings["tokenizer_config.json"])
    assert (told["do_lower_case"], told["strip_accents"]) == (lower, not lower)
    assert "told by the vocabulary" not in " ".join(found.remarks)
    assert "told by the vocabulary" in " ".join(index(Memory(vocabulary(words))).remarks)


_MARKED = [ggufs.marked(word) for word in WORDS]
ODD_VOCABULARIES: dict[str, tuple[bytes, str]] = {
    "added words": (vocabulary(_MARKED, [3] * 5 + [1] * 4 + [4]), "added words"),
    "no special tokens": (vocabulary(_MARKED, tokenizer__ggml__add_bos_token=(BOOL, False)), "no special tokens"),
    "a line break": (vocabulary([*_MARKED, "\u2581a\nb"]), "line break"),
    "twice": (vocabulary([*_MARKED, "\u2581a"]), "an entry twice"),
    "no WordPiece": (vocabulary(["<s>", "\u2581\u2581a"], [3, 1]), "no WordPiece"),
    "few types": (vocabulary(_MARKED, [1]), "not as many types"),
    "no text": (vocabulary([*_MARKED, b"\xff"]), "is not text"),  # type: ignore[list-item]
    "an id beyond": (vocabulary(_MARKED, tokenizer__ggml__cls_token_id=(U32, 99)), "does not have"),
}


@pytest.mark.parametrize("name", ODD_VOCABULARIES)
def test_no_tokenizer_is_made_up(name: str) -> None:
    content, words = ODD_VOCABULARIES[name]
    found = index(Memory(content)).settings
    assert "vocab.txt" in found
    with pytest.raises(BertprobeError, match=words):
        found["vocab.txt"]


@pytest.mark.parametrize(
    ("first", "rows", "family"), [("<s>", 514, "roberta"), ("[CLS]", 514, "bert"), ("<s>", 512, "bert")]
)
def test_positions_are_counted_as_the_models_of_such_special_tokens_do(first: str, rows: int, family: str) -> None:
    """CamemBERT is converted as a BERT: its positions are not cut, its pieces written as WordPiece's."""
    pairs = bert_pairs(
        tokenizer__ggml__model=(STRING, "bert"),
        tokenizer__ggml__tokens=(ARRAY, (STRING, [first, "<pad>", "\u2581\u2581a"])),
        tokenizer__ggml__token_type=(ARRAY, (I32, [3, 3, 1])),
        tokenizer__ggml__bos_token_id=(U32, 0),
    )
    stored = {"token_types.weight": np.ones((1, 4)), "position_embd.weight": np.ones((rows, 4))}
    assert config_of(of_arrays(stored, pairs).content)["model_type"] == family


@pytest.mark.parametrize("kind", ["t5", "gpt2", "llama"])
def test_of_another_kind_of_tokenizer_it_is_said_that_there_is_none(kind: str) -> None:
    found = index(Memory(vocabulary(["a", "b"], tokenizer=kind)))
    assert "vocab.txt" not in found.settings
    assert f"of the kind '{kind}', is not rebuilt" in " ".join(found.remarks)


def test_a_tokenizer_that_cannot_be_rebuilt_stops_no_export(tmp_path: Path, run: Run) -> None:
    path = converted(POCKET, tmp_path / "pocket.gguf")
    content = path.read_bytes().replace(b"tokenizer.ggml.bos_token_id", b"tokenizer.ggml.cls_token_id")
    at = content.index(b"tokenizer.ggml.cls_token_id") + len("tokenizer.ggml.cls_token_id") + 4
    path.write_bytes(content[:at] + struct.pack("<I", 10**6) + content[at + 4 :])
    (tmp_path / "new").mkdir()
    ran = run(["export", path, "--part", "model", "-o", tmp_path / "new" / "model.safetensors"])
    assert ran.code == 0
    assert {file.name for file in (tmp_path / "new").iterdir()} == {"config.json", "model.safetensors"}
    refused(run(["pool", TEXT, "-m", path, "--vector", "mean"]), "an id that its vocabulary does not have")


# ------------------------------------------------------------------------------------------------ commands


def test_transformers_loads_what_export_writes(pocket: Path, tmp_path: Path, run: Run) -> None:
    from transformers import AutoModel, AutoTokenizer

    ran = run(["export", pocket, "--part", "model", "-o", tmp_path / "model.safetensors"])
    assert ran.code == 0, ran.err
    assert "and beside it" in ran.out
    assert "no model.safetensors" not in ran.out
    model, loading = AutoModel.from_pretrained(tmp_path, output_loading_info=True, add_pooling_layer=False)
    assert not any(loading.values())
    assert model.config.model_type == "bert"
    ids = [AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"] for folder in (tmp_path, POCKET)]
    assert ids[0] == ids[1]
    assert np.array_equal(*(vectors(run, ref, vector="sentence") for ref in (tmp_path, pocket)))


def test_what_lies_there_is_left_alone(pocket: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "vocab.txt").write_text("mine")
    written = json.loads(
        run(["export", pocket, "--part", "model", "-o", tmp_path / "model.safetensors", "--json"]).out
    )["written"]
    assert (tmp_path / "vocab.txt").read_text() == "mine"
    assert {*written["beside"]} == {"config.json", "tokenizer_config.json", "modules.json", "1_Pooling/config.json"}
    other = json.loads(run(["export", pocket, "--part", "model", "-o", tmp_path / "other.safetensors", "--json"]).out)
    assert "beside" not in other["written"]


def test_every_command_runs_on_it(pocket: Path, tmp_path: Path, run: Run) -> None:
    for words in (
        ["inspect", pocket],
        ["inspect", pocket, "--shapes"],
        ["recipe", pocket],
        ["activations", TEXT, "-m", pocket],
        ["verify", TEXT, "-m", pocket],
        ["diff", POCKET, pocket],
        ["explain", "intermediate", "-m", pocket],
        ["export", pocket, "--part", "intermediate", "-o", tmp_path / "up.safetensors"],
        ["graft", POCKET, pocket, "-o", tmp_path / "grafted"],
    ):
        ran = run(words)
        assert ran.code == 0, (words, ran.err)
    assert {"config.json", "vocab.txt", "tokenizer_config.json"} <= {f.name for f in (tmp_path / "grafted").iterdir()}
    refused(run(["pool", TEXT, "-m", pocket]), "holds no pooler")


def test_transformers_reads_no_bert_from_it(pocket: Path, run: Run) -> None:
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    assert not {"bert", "nomic-bert"} & {*GGUF_SUPPORTED_ARCHITECTURES}
    checkpoint = open_checkpoint(str(pocket))
    found = [f for f in judge(Evidence(checkpoint, find_parts(checkpoint), {})) if "GGUF" in f.message]
    assert len(found) == 1
    assert "needs a config.json" not in found[0].hint


# ------------------------------------------------------------------------------------------------ few reads


def test_it_is_read_over_the_hub_by_few_ranges(hub: Hub, minilm: Path, tmp_path: Path) -> None:
    path = converted(minilm, tmp_path / "minilm.gguf")
    hub.add("owner/gguf", {"minilm.gguf": path.read_bytes()})
    checkpoint = open_checkpoint("owner/gguf")
    anatomy = find_parts(checkpoint)
    asked = [request for request in hub.requests if request.origin == "storage"]
    assert len(asked) <= 2
    assert checkpoint.bytes_read < 1_200_000
    part = anatomy.of("intermediate")[0]
    assert part.weight is not None
    stored = load_file(minilm / "model.safetensors")["encoder.layer.0.intermediate.dense.weight"]
    assert np.array_equal(read_tensor(part.weight), stored)


def test_arrays_of_numbers_are_not_fetched() -> None:
    scores = pair("tokenizer.ggml.scores", ARRAY, (F32, [0.0] * 2_000_000))
    source = Counting(File([scores, *bert_pairs()]).content)
    assert config_of(source.data)["hidden_size"] == 4
    index(source)
    assert source.reads <= 3
    assert source.bytes_read < 2**20


# ------------------------------------------------------------------------------------------------ odd files

X = info("x", (2, 3), 0, 0)
DATA = bytes(64)


def _cut(file: File, count: int) -> bytes:
    return file.content[:-count]


ODD: dict[str, tuple[bytes, type[BertprobeError], str]] = {
    "version 1": (File(version=1).content, UnsupportedFile, "version 1"),
    "version 4": (File(version=4).content, UnsupportedFile, "version 4"),
    "version 0": (File(version=0).content, UnsupportedFile, "version 0"),
    "big endian": (File(version=3 << 24).content, UnsupportedFile, "big-endian"),
    "nothing behind": (b"GGUF", CorruptFile, "asks for 4 bytes where 0 are left"),
    "many pairs": (File(counts=(0, 2**63)).content, CorruptFile, "announces .* key-value pairs"),
    "many tensors": (File(counts=(2**64 - 1, 0)).content, CorruptFile, "announces .* tensors"),
    "more pairs than any": (
        File([pair("k", 0, 1)], counts=(0, 20_000), data=bytes(300_000)).content, UnsupportedFile, "so many",
    ),
    "a key twice": (File([pair("k", U32, 1), pair("k", U32, 2)]).content, CorruptFile, "'k' twice"),
    "a long key": (File([pair("k" * 1001, U32, 1)]).content, UnsupportedFile, "a key in .* has 1,001 bytes"),
    "a key that is no text": (File([pair(b"\xff", U32, 1)]).content, CorruptFile, "is not text"),
    "a string bomb": (File([ggufs.text("k") + struct.pack("<IQ", STRING, 2**62)]).content, CorruptFile, "are left"),
    "a long array": (
        File([ggufs.text("k") + struct.pack("<IIQ", ARRAY, U64, 2**61)]).content, CorruptFile, "has .* values",
    ),
    "a long array of strings": (
        File([ggufs.text("k") + struct.pack("<IIQ", ARRAY, STRING, 2**40)]).content, CorruptFile, "has .* values",
    ),
    "strings that lie": (
        File([pair("k", ARRAY, (STRING, ["a"] * 3))[:-1] + b"x" + struct.pack("<Q", 2**63)], counts=(0, 2)).content,
        CorruptFile, "asks for|no text|bytes",
    ),
    "an array of arrays": (File([pair("k", ARRAY, (ARRAY, []))]).content, UnsupportedFile, "array of arrays"),
    "no such type": (File([ggufs.text("k") + struct.pack("<I", 13)]).content, UnsupportedFile, "type 13"),
    "no such type in an array": (
        File([ggufs.text("k") + struct.pack("<IIQ", ARRAY, 77, 0)]).content, UnsupportedFile, "type 77",
    ),
    "alignment 0": (File([pair("general.alignment", U32, 0)]).content, CorruptFile, "no power of two"),
    "alignment 48": (File([pair("general.alignment", U32, 48)]).content, CorruptFile, "no power of two"),
    "alignment huge": (File([pair("general.alignment", U32, 2**31)]).content, CorruptFile, "no power of two"),
    "alignment as text": (File([pair("general.alignment", STRING, "32")]).content, CorruptFile, "no power of two"),
    "a tensor twice": (File(infos=[X, X], data=DATA).content, CorruptFile, "'x' twice"),
    "five dimensions": (File(infos=[info("x", (1,) * 5, 0, 0)], data=DATA).content, UnsupportedFile, "5 dimensions"),
    "2^31 dimensions": (
        File(infos=[ggufs.text("x") + struct.pack("<I", 2**31)], data=DATA).content, UnsupportedFile, "dimensions",
    ),
    "a long name": (File(infos=[info("x" * 2000, (1,), 0, 0)], data=DATA).content, UnsupportedFile, "2,000 bytes"),
    "a product beyond": (
        File(infos=[info("x", (2**32, 2**32), 0, 0)], data=DATA).content, CorruptFile, "beyond 2\\^63",
    ),
    "a product beyond, times nothing": (
        File(infos=[info("x", (0, 2**32, 2**32), 0, 0)], data=DATA).content, CorruptFile, "beyond 2\\^63",
    ),
    "misaligned": (File(infos=[info("x", (2,), 0, 4)], data=DATA).content, CorruptFile, "no multiple of 32"),
    "overlapping": (
        File(infos=[info("x", (16,), 0, 0), info("y", (2,), 0, 32)], data=DATA).content, CorruptFile, "y .*overlaps",
    ),
    "the same place": (
        File(infos=[info("x", (2,), 0, 0), info("y", (2,), 0, 0)], data=DATA).content, CorruptFile, "overlaps",
    ),
    "past the end": (File(infos=[info("x", (17,), 0, 0)], data=DATA).content, CorruptFile, "bytes by its header"),
    "far past the end": (File(infos=[info("x", (2,), 0, 2**63)], data=DATA).content, CorruptFile, "by its header"),
    "no data at all": (_cut(File(infos=[info("x", (2,), 0, 0)], data=bytes(8)), 9), CorruptFile, "bytes by its header"),
    "half a block": (File(infos=[info("x", (2, 48), 8, 0)], data=bytes(256)).content, CorruptFile, "block of Q8_0"),
    "a block of a scalar": (File(infos=[info("x", (), 8, 0)], data=bytes(64)).content, CorruptFile, "in a block"),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_odd_files_are_refused_in_one_line(name: str) -> None:
    content, error, words = ODD[name]
    with pytest.raises(error, match=words) as raised:
        index(Memory(content))
    assert raised.value.hint
    assert "\n" not in str(raised.value)


def test_what_the_format_allows_is_read() -> None:
    stored = {"x": np.arange(6.0).reshape(2, 3), "scalar": np.array(2.0), "none": np.ones((0, 3))}
    kinds = [
        (0, 1),
        (1, -1),
        (2, 1),
        (3, -1),
        (4, 1),
        (5, -1),
        (6, 0.5),
        (7, True),
        (8, "é"),
        (10, 1),
        (11, -1),
        (12, 0.1),
    ]
    pairs = [pair(f"a.{kind}", kind, what) for kind, what in kinds]
    pairs += [pair(f"b.{kind}", ARRAY, (kind, [what] * 3)) for kind, what in kinds]
    pairs += [pair("empty", ARRAY, (STRING, [])), pair("long", STRING, "x" * 100_000)]
    for alignment in (8, 32, 4096):
        aligned = [*pairs, pair("general.alignment", U32, alignment)]
        for version in (2, 3):
            content = of_arrays(stored, aligned, alignment=alignment, version=version).content
            read = header.read(Memory(content))
            assert [read.values[f"a.{kind}"] for kind, _ in kinds] == [what for _, what in kinds]
            assert [array.length for key, array in read.arrays.items() if key != "empty"] == [3] * len(kinds)
            found = dict(read_tensors({h.name: h for h in index(Memory(content)).headers}))
            assert all(np.array_equal(found[name], values) for name, values in stored.items())


def test_a_hole_between_tensors_is_no_fault() -> None:
    file = File(infos=[info("y", (2,), 0, 64), info("x", (2,), 0, 0)], data=np.arange(18, dtype=np.float32).tobytes())
    found = dict(read_tensors({h.name: h for h in index(Memory(file.content)).headers}))
    assert (found["x"].tolist(), found["y"].tolist()) == ([0, 1], [16, 17])


def test_of_a_file_that_ends_too_early_what_is_left_is_told(pocket: Path, tmp_path: Path, run: Run) -> None:
    content = pocket.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[: len(content) - 300_000])
    refused(run(["inspect", tmp_path / "cut.gguf"]), "bytes by its header", "inspect --all")
    ran = run(["inspect", tmp_path / "cut.gguf", "--all"])
    assert ran.code == 0, ran.err
    assert "are not there whole" in " ".join(ran.out.split())
    whole, left = open_checkpoint(str(pocket)), open_checkpoint(str(tmp_path / "cut.gguf"), truncated=True)
    there = {name: header for name, header in left.headers.items() if header.refusal is None}
    assert 0 < len(there) < len(whole.headers)
    read = dict(read_tensors(there))
    assert all(
        np.array_equal(values, read[name]) for name, values in read_tensors({n: whole.headers[n] for n in there})
    )


def test_a_header_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "MAX_HEADER", 200_000)
    with pytest.raises(UnsupportedFile, match="more than 200,000 bytes"):
        index(Memory(File([pair("k", ARRAY, (STRING, ["word"] * 200_000))]).content))


def test_a_fused_matrix_in_blocks_comes_apart(tmp_path: Path) -> None:
    names = ("attn_q", "attn_k", "attn_v")
    raw = [np.random.default_rng(n).integers(0, 100, (32, 34), np.uint8) for n in range(3)]
    file = File(bert_pairs())
    file.add("blk.0.attn_qkv.weight", (96, 32), 8, b"".join(part.tobytes() for part in raw))
    file.add("blk.0.attn_qkv.bias", (96,), 0, np.arange(96, dtype=np.float32).tobytes())
    found = dict(read_tensors({h.name: h for h in index(Memory(file.content)).headers}))
    for place, (name, part) in enumerate(zip(names, raw, strict=True)):
        wanted = gguf.quants.dequantize(part, gguf.GGMLQuantizationType.Q8_0)
        assert np.array_equal(found[f"blk.0.{name}.weight"], wanted)
        assert found[f"blk.0.{name}.bias"][0] == 32 * place


def test_a_name_that_is_damaged_beside_a_suffix_is_the_formats_own(tmp_path: Path, run: Run) -> None:
    (tmp_path / "model.gguf").write_bytes(b"no such thing")
    refused(run(["inspect", tmp_path / "model.gguf"]), "does not begin with GGUF")


def test_a_corpus_runs_through_a_file_that_carries_its_settings(pocket: Path, run: Run, tmp_path: Path) -> None:
    """The manifests of runs hash the small files, which have no bytes of their own here."""
    (tmp_path / "texts.txt").write_text("A ship.\nAnother one left the harbour.\n")
    words = [str(tmp_path / "texts.txt"), "-m", str(pocket)]
    for more in (["--part", "intermediate"], ["--vector", "sentence"]):
        out = tmp_path / "-".join(more)
        found = run(["extract", *words, *more, "-o", str(out), "--no-verify"])
        assert found.code == 0, found.err
        assert run(["extract", *words, *more, "-o", str(out), "--no-verify"]).code == 0
    found = run(["neurons", "scan", *words, "-o", str(tmp_path / "scan"), "--no-verify"])
    assert found.code == 0, found.err


def test_shapes_tell_what_numbers_are_made_from(run: Run, tmp_path: Path) -> None:
    file = converted(POCKET, tmp_path / "small.gguf", "Q8_0")
    part = json.loads(run(["inspect", file, "--shapes", "--json"]).out)["parts"][0]["tensors"][0]
    assert (part["dtype"], part["stored_as"]) == ("F32", "Q8_0")
    table = run(["inspect", file, "--shapes"]).out
    assert re.search(r"dtype +from +bias", table)
    assert re.search(r"0 +512×128 +F32 +Q8_0 +512", table)
    assert " from " not in run(["inspect", POCKET, "--shapes"]).out
