"""Texts and folders on which a recipe's vectors are held against sentence-transformers': deterministic, no network."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import tokenizers
from conftest import SHARED
from tokenizers import models, normalizers, pre_tokenizers

from bertprobe.recipe.steps import FLAGS

POCKET = Path(__file__).parents[1] / "bertprobe" / "pocket" / "vocab.txt"
HIDDEN = 32
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "<pad>", "</s>", "<mask>")
LETTERS = "ÀÉÎÕÜàéîõüßçñøåæœİıŞşğΩωΣσςЖжяёЁáấ日本語中文字한국어،ا\u0301\u0327\u0308😀–—…“”«»@#%^_+<>|~`\\/¿¡ǅﬁ"
ODD = (
    "",
    " ",
    "   \t\n ",
    "\u00a0\u2003",
    "İstanbul'da ÇOK güzel ışık",
    "e\u0301 a\u0308\u0323 Å ﬁ ǅ ǆ",
    "Straße STRASSE ẞ ß",
    "日本語の文章です。中文字 한국어",
    "Émile Zola à l'Élysée, déjà vu; NAÏVE façade",
    "ALL UPPER CASE WORDS IN A SENTENCE",
    "😀 👩‍👩‍👧 emoji 🏳️‍🌈!",
    "a\x00b\x01c\u200bd\ufffde\u00ad \x7f tab\there",
    "[CLS] inside [SEP] [MASK] [PAD] [UNK] <s> </s> <mask>",
    " leading space and trailing space ",
    "ΣΊΣΥΦΟΣ Ωραία Ёлка ЖУК",
    "mixedCASEInOneWord iPhone",
    "ا\u064eلعربية ﷺ",
    "x" * 150,
    "don't can't 3.14 1,000,000 e-mail@example.com",
    "\u202eright to left\u202c \ud7ff \ue000",
    "new\nlines\r\nand\u2028separators",
    "query: what is this?",
)


@cache
def words() -> tuple[str, ...]:
    """Whole words that the vocabulary knows, the frequent ones first."""
    known = POCKET.read_text(encoding="utf-8").split("\n")[5:2500]
    return tuple(word for word in known if word.isalpha() and word.isascii() and len(word) > 1)


@cache
def vocabulary() -> dict[str, int]:
    """WordPiece entries with lower and upper case and accents, so that it shows how text was cleaned."""
    known = [*SPECIAL, *POCKET.read_text(encoding="utf-8").split("\n")[5:2500]]
    known += [word.capitalize() for word in words()[:600]]
    single = [*map(chr, range(33, 127)), *LETTERS]
    known += [piece for letter in single for piece in (letter, f"##{letter}")]
    return {entry: number for number, entry in enumerate(dict.fromkeys(filter(None, known)))}


def wordpiece(*, lower: bool = True) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.WordPiece(vocabulary(), unk_token="[UNK]", max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lower)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return backend


@cache
def prose() -> str:
    """Real text where the books lie beside the project, else words drawn from the vocabulary."""
    books = sorted((SHARED / "books").glob("*.txt")) if (SHARED / "books").is_dir() else []
    draw = random.Random(7)
    if books:
        return "\n".join(book.read_text(encoding="utf-8", errors="replace")[20_000:120_000] for book in books)
    made = (draw.choice(words()) for _ in range(200_000))
    return " ".join(word.capitalize() if draw.random() < 0.1 else word for word in made)


def of_length(tokens: int, start: int, backend: tokenizers.Tokenizer) -> str:
    """A text of so many tokens, special ones not counted, from a place in the prose."""
    piece = prose()[start : start + 12 * tokens + 200]
    offsets = backend.encode(piece, add_special_tokens=False).offsets
    return piece[: offsets[min(tokens, len(offsets)) - 1][1]]


@cache
def texts(count: int = 1000) -> tuple[str, ...]:
    """Texts of all lengths, many of them around 128, 256 and 512 tokens, in no order; the odd ones among them."""
    draw, backend = random.Random(count), wordpiece()
    lengths = [around + off for around in (128, 256, 512) for off in range(-4, 3)] + [600, 1100]
    exact = [lengths[number % len(lengths)] for number in range(count // 5)]
    short = [draw.randrange(1, 60) for _ in range(count - len(exact) - count // 10 - len(ODD))]
    made = [of_length(length, draw.randrange(len(prose()) - 20_000), backend) for length in (*exact, *short)]
    made += [
        f"{draw.choice(ODD)} {of_length(draw.randrange(1, 20), draw.randrange(10_000), backend)}"
        for _ in range(count // 10)
    ]
    made += ODD
    draw.shuffle(made)
    return tuple(made)


# ------------------------------------------------------------------------------------------------ folders


def write(file: Path, values: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values, indent=2), encoding="utf-8")


def change(file: Path, *, keep: bool = False, **values: Any) -> None:
    """Sets keys of a JSON file, of an object in it those that are given; None takes a key out, or is kept as null."""
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for key, value in values.items():
        whole = not (key == "model" and isinstance(value, dict))
        known[key] = value if whole else {**known[key], **value}
    write(file, {key: value for key, value in known.items() if keep or key not in values or value is not None})


def save_bert(folder: Path, *, lower: bool = True, **config: Any) -> Path:
    """A BertModel of two layers, its vocab.txt, tokenizer.json and tokenizer_config.json."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    made = BertConfig(
        vocab_size=len(vocabulary()),
        hidden_size=HIDDEN,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        **config,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        BertModel(made).eval().save_pretrained(folder)
    BertTokenizer(vocab=dict(vocabulary()), do_lower_case=lower, model_max_length=512).save_pretrained(folder)
    (folder / "vocab.txt").write_text("".join(f"{entry}\n" for entry in vocabulary()), encoding="utf-8")
    return folder


def save_roberta(folder: Path) -> Path:
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaConfig, RobertaModel, RobertaTokenizer

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        [prose()[:200_000]],
        vocab_size=1000,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        show_progress=False,
    )
    state = json.loads(trained._tokenizer.to_str())["model"]
    made = RobertaConfig(
        vocab_size=trained.get_vocab_size(),
        hidden_size=HIDDEN,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=514,
        initializer_range=0.2,
        type_vocab_size=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(2)
        RobertaModel(made).eval().save_pretrained(folder)
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in state["merges"]]
    RobertaTokenizer(vocab=state["vocab"], merges=merges, model_max_length=512).save_pretrained(folder)
    return folder


def save_xlm_roberta(folder: Path) -> Path:
    import torch
    from tokenizers import SentencePieceUnigramTokenizer
    from transformers import XLMRobertaConfig, XLMRobertaModel, XLMRobertaTokenizer

    trained = SentencePieceUnigramTokenizer()
    trained.train_from_iterator(
        [prose()[start : start + 500] for start in range(0, 100_000, 500)],
        vocab_size=800,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        unk_token="<unk>",
        show_progress=False,
    )
    pieces = [tuple(piece) for piece in json.loads(trained._tokenizer.to_str())["model"]["vocab"]]
    made = XLMRobertaConfig(
        vocab_size=len(pieces),
        hidden_size=HIDDEN,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=514,
        initializer_range=0.2,
        type_vocab_size=1,
        pad_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(4)
        XLMRobertaModel(made).eval().save_pretrained(folder)
    XLMRobertaTokenizer(vocab=pieces, model_max_length=512).save_pretrained(folder)
    return folder


def save_mpnet(folder: Path) -> Path:
    import torch
    from transformers import MPNetConfig, MPNetModel, MPNetTokenizer

    made = MPNetConfig(
        vocab_size=len(vocabulary()),
        hidden_size=HIDDEN,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=514,
        initializer_range=0.2,
        pad_token_id=vocabulary()["<pad>"],
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        MPNetModel(made).eval().save_pretrained(folder)
    MPNetTokenizer(vocab=dict(vocabulary()), model_max_length=512).save_pretrained(folder)
    return folder


Module = tuple[str, Mapping[str, Any], Mapping[str, Any]]


def pooling(*modes: str, **settings: Any) -> Module:
    """A Pooling as sentence-transformers wrote it for years: a flag a mode."""
    flags = {flag: mode in modes for flag, mode in FLAGS.items()}
    return "Pooling", {"word_embedding_dimension": HIDDEN, **flags, **settings}, {}


def drawn(*shape: int, seed: int = 5) -> Any:
    import torch

    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) / shape[-1] ** 0.5


def dense(
    inner: int, outer: int, activation: str | None = "torch.nn.modules.activation.Tanh", **settings: Any
) -> Module:
    """A Dense, with bias unless `bias=False`; a `use_residual` of another width has a matrix."""
    said = {"in_features": inner, "out_features": outer, "bias": True, **settings}
    if activation is not None:
        said["activation_function"] = activation
    tensors = {"linear.weight": drawn(outer, inner)}
    if said["bias"]:
        tensors["linear.bias"] = drawn(outer, seed=6)
    if said.get("use_residual") and inner != outer:
        tensors["residual.weight"] = drawn(outer, inner, seed=7)
    return "Dense", said, tensors


def layer_norm(width: int) -> Module:
    return "LayerNorm", {"dimension": width}, {"norm.weight": drawn(width) + 1, "norm.bias": drawn(width, seed=6)}


NORMALIZE: Module = ("Normalize", {}, {})


def lay_out(
    folder: Path,
    base: Path,
    *modules: Module,
    below: str = "",
    safetensors: bool = False,
    settings: Mapping[str, Any] | None = None,
    prompts: Mapping[str, Any] | None = None,
    tokenizer: Mapping[str, Any] | None = None,
) -> Path:
    """A folder as sentence-transformers wrote them before version 5: the model at its top, or `below`."""
    import torch
    from safetensors.torch import save_file

    shutil.copytree(base, folder / below, dirs_exist_ok=True)
    rows = [{"idx": 0, "name": "0", "path": below, "type": "sentence_transformers.models.Transformer"}]
    for number, (kind, said, tensors) in enumerate(modules, 1):
        path = f"{number}_{kind}"
        rows.append({"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"})
        (folder / path).mkdir(parents=True, exist_ok=True)
        if said:
            write(folder / path / "config.json", said)
        if tensors and safetensors:
            save_file(dict(tensors), folder / path / "model.safetensors")
        elif tensors:
            torch.save(dict(tensors), folder / path / "pytorch_model.bin")
    write(folder / "modules.json", rows)
    if settings is not None:
        write(folder / below / "sentence_bert_config.json", settings)
    if prompts is not None:
        write(folder / "config_sentence_transformers.json", prompts)
    if tokenizer is not None:
        change(folder / below / "tokenizer_config.json", **tokenizer)
    return folder


def few(number: int) -> Iterator[str]:
    """The odd texts and some of the others, as many as asked for."""
    yield from ODD
    yield from texts()[: max(0, number - len(ODD))]
