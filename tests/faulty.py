"""Folders of settings files, sound as real models have them, and the same with planted faults.

    python tests/faulty.py FOLDER [SEEDS]

writes one folder a seed and prints what was planted in it and what is found of it. `LAYOUTS` are sound folders with the
findings that are true of them, `FAULTS` what may be planted, with the findings each must be named by. A finding is told
here by its rule and its subject: `settings-invalid tokenizer_config.json:do_lower_case`.
"""

from __future__ import annotations

import copy
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertprobe.checkpoint.folder import LocalFolder
from bertprobe.recipe import read_recipe
from bertprobe.recipe.rules import judge_recipe
from bertprobe.verdicts import Finding

Named = tuple[str, str]
"""A rule and its subject."""

MODULES, PROMPTS, CONFIG = "modules.json", "config_sentence_transformers.json", "config.json"
TRANSFORMER, TOKENIZER_CONFIG, TOKENIZER = "sentence_bert_config.json", "tokenizer_config.json", "tokenizer.json"
POOLING = "1_Pooling/config.json"
WEIGHTS = b"\x02\x00\x00\x00\x00\x00\x00\x00{}"


@dataclass
class Folder:
    """Files by name: JSON values, or bytes as they are. `inner` goes before the transformer's and tokenizer's."""

    files: dict[str, Any]
    inner: str = ""

    def __getitem__(self, name: str) -> Any:
        return self.files[self.at(name)]

    def __contains__(self, name: str) -> bool:
        return self.at(name) in self.files

    def __setitem__(self, name: str, value: Any) -> None:
        self.files[self.at(name)] = value

    def pop(self, name: str) -> Any:
        return self.files.pop(self.at(name))

    def at(self, name: str) -> str:
        """Where a file lies that belongs to the transformer or is the folder's own."""
        own = name in (MODULES, PROMPTS) or (name[:1].isdigit() and "/" in name)
        return name if own else self.inner + name

    def write(self, root: Path) -> Path:
        for name, value in self.files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(value if isinstance(value, bytes) else json.dumps(value, indent=1).encode())
        return root


# ------------------------------------------------------------------------------------------------ sound folders

OLDER = "sentence_transformers.models."
NEWER = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
    "LayerNorm": "sentence_transformers.sentence_transformer.modules.layer_norm.LayerNorm",
}
FLAGS = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")


def modules(*kinds: str, newer: bool = False, first: str = "") -> list[dict[str, Any]]:
    rows = [("Transformer", first), *((kind, f"{at}_{kind}") for at, kind in enumerate(kinds, 1))]
    return [
        {"idx": at, "name": str(at), "path": path, "type": NEWER[kind] if newer else OLDER + kind}
        for at, (kind, path) in enumerate(rows)
    ]


def pooling(width: int, *modes: str, **more: Any) -> dict[str, Any]:
    """A pooling's settings as versions before 6 wrote them."""
    flags = {f"pooling_mode_{flag}": flag.removesuffix("_tokens").removesuffix("_token") in modes for flag in FLAGS}
    return {"word_embedding_dimension": width, **flags, **more}


def dense(width: int, out: int, activation: str = "activation.Tanh", bias: bool = True) -> dict[str, Any]:
    named = f"torch.nn.modules.{activation}"
    return {"in_features": width, "out_features": out, "bias": bias, "activation_function": named}


def tokenizer(
    normalizer: Any, tokens: tuple[str, str] | tuple[()] = ("[CLS]", "[SEP]"), cut: int | None = None
) -> dict[str, Any]:
    """What a tokenizer.json says before its vocabulary."""
    single = [{"Sequence": {"id": "A", "type_id": 0}}]
    if tokens:
        first, last = ({"SpecialToken": {"id": token, "type_id": 0}} for token in tokens)
        single = [first, *single, last]
    truncation = {"direction": "Right", "max_length": cut, "strategy": "LongestFirst", "stride": 0}
    return {
        "version": "1.0",
        "truncation": None if cut is None else truncation,
        "padding": None,
        "added_tokens": [{"id": at, "content": token, "special": True} for at, token in enumerate(tokens)],
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": {}},
        "decoder": {"type": "WordPiece"},
        "model": {"type": "WordPiece", "vocab": {"[UNK]": 0, "a": 1}},
    }


def bert_normalizer(lower: bool, accents: bool | None = None) -> dict[str, Any]:
    settings = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": accents, "lowercase": lower}
    return {"type": "BertNormalizer", **settings}


PRECOMPILED = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
S = ("<s>", "</s>")


def config(kind: str = "bert", width: int = 384, positions: int | None = 512, **more: Any) -> dict[str, Any]:
    said = {"model_type": kind, "hidden_size": width, "max_position_embeddings": positions, "num_hidden_layers": 6}
    return {key: value for key, value in {**said, **more}.items() if value is not None}


def of_tokenizer(kind: str, length: Any = 512, tokens: tuple[str, str] = ("[CLS]", "[SEP]"), **more: Any) -> Any:
    roles = {"cls_token": tokens[0], "sep_token": tokens[1]}
    return {"tokenizer_class": kind, "model_max_length": length, **roles, **more}


VERSIONS = {"__version__": {"sentence_transformers": "2.2.2", "transformers": "4.28.1", "pytorch": "2.0.1"}}


def prompts(similarity: str | None = "cosine", default: str | None = None, **named: str) -> dict[str, Any]:
    return {**VERSIONS, "prompts": named, "default_prompt_name": default, "similarity_fn_name": similarity}


def of_transformer(length: int | None, lower: bool = False) -> dict[str, Any]:
    return {"max_seq_length": length, "do_lower_case": lower}


def uncased(width: int = 384, length: int = 512, mode: str = "mean", *then: str, cut: int | None = None) -> Folder:
    """A BERT that lower-cases, as most are saved."""
    return Folder(
        {
            MODULES: modules("Pooling", *then),
            CONFIG: config(width=width),
            TRANSFORMER: of_transformer(length),
            TOKENIZER_CONFIG: of_tokenizer("BertTokenizer", do_lower_case=True, strip_accents=None),
            TOKENIZER: tokenizer(bert_normalizer(True), cut=cut),
            PROMPTS: VERSIONS,
            POOLING: pooling(width, mode),
        }
    )


def older() -> Folder:
    folder = uncased(384, 256)
    folder[TOKENIZER_CONFIG]["model_max_length"] = 256
    return folder


def saved_by_6() -> Folder:
    """What sentence-transformers 6.2 writes."""
    folder = uncased(384, 256)
    folder[MODULES] = modules("Pooling", "Normalize", newer=True)
    folder[POOLING] = {"embedding_dimension": 384, "pooling_mode": "mean", "include_prompt": True}
    folder[TRANSFORMER] = {
        "transformer_task": "feature-extraction",
        "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
        "module_output_name": "token_embeddings",
    }
    folder[TOKENIZER_CONFIG]["model_max_length"] = 256
    folder[PROMPTS] = prompts(query="", document="")
    return folder


def roberta(
    kind: str = "roberta", named: str = "RobertaTokenizer", length: int = 512, normalizer: Any = None
) -> Folder:
    folder = uncased(768, length)
    folder[CONFIG] = config(kind, 768, length + 2, pad_token_id=1)
    folder[TOKENIZER_CONFIG] = of_tokenizer(named, length, S)
    folder[TOKENIZER] = tokenizer(normalizer, S)
    return folder


def mpnet(length: int = 512) -> Folder:
    folder = uncased(768, length)
    folder[CONFIG] = config("mpnet", 768, 514)
    folder[TOKENIZER_CONFIG] = of_tokenizer("MPNetTokenizer", 512, S, do_lower_case=True)
    folder[TOKENIZER] = tokenizer(bert_normalizer(True), S)
    return folder


def cased() -> Folder:
    folder = uncased(768)
    folder[TOKENIZER_CONFIG]["do_lower_case"] = False
    folder[TOKENIZER] = tokenizer(bert_normalizer(False))
    return folder


def with_prompts() -> Folder:
    folder = uncased(384)
    folder[PROMPTS] = prompts(query="query: ", passage="passage: ")
    return folder


def nested() -> Folder:
    folder = older()
    inner = {f"0_Transformer/{name}": folder.pop(name) for name in (CONFIG, TRANSFORMER, TOKENIZER_CONFIG, TOKENIZER)}
    folder[MODULES] = modules("Pooling", first="0_Transformer")
    return Folder(folder.files | inner, "0_Transformer/")


def with_dense() -> Folder:
    folder = uncased(768, 512, "mean", "Dense")
    folder["2_Dense/config.json"] = dense(768, 512)
    folder["2_Dense/model.safetensors"] = WEIGHTS
    return folder


def with_layer_norm() -> Folder:
    folder = uncased(768, 512, "mean", "LayerNorm")
    folder["2_LayerNorm/config.json"] = {"dimension": 768}
    folder["2_LayerNorm/pytorch_model.bin"] = WEIGHTS
    return folder


def only_vocabulary() -> Folder:
    folder = older()
    folder.pop(TOKENIZER)
    folder["vocab.txt"] = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n"
    return folder


def generic() -> Folder:
    folder = uncased(384)
    folder[TOKENIZER_CONFIG] = of_tokenizer("PreTrainedTokenizerFast")
    return folder


def modernbert() -> Folder:
    folder = uncased(768, 8192)
    folder[CONFIG] = config("modernbert", 768, 8192)
    folder[TOKENIZER_CONFIG] = of_tokenizer("PreTrainedTokenizerFast", 8192)
    folder[TOKENIZER] = tokenizer({"type": "NFC"})
    return folder


def normalized() -> Folder:
    return uncased(384, 512, "cls", "Normalize")


# ------------------------------------------------------------------------------------------------ as real models are


def minilm() -> Folder:
    """all-MiniLM-L6-v2: its tokenizer.json cuts at 128."""
    return uncased(384, 256, "mean", "Normalize", cut=128)


def all_mpnet() -> Folder:
    folder = mpnet(384)
    folder[MODULES] = modules("Pooling", "Normalize")
    folder[TOKENIZER]["truncation"] = {"direction": "Right", "max_length": 128}
    return folder


def bge_small() -> Folder:
    folder = uncased(384, 512, "cls", "Normalize")
    folder[TRANSFORMER] = of_transformer(512, lower=True)
    return folder


def bge_m3() -> Folder:
    folder = roberta("xlm-roberta", "XLMRobertaTokenizer", 8192, PRECOMPILED)
    folder[MODULES] = modules("Pooling", "Normalize")
    folder[POOLING] = pooling(768, "cls")
    return folder


def multilingual_minilm() -> Folder:
    """paraphrase-multilingual-MiniLM-L12-v2: a BERT with XLM-R's tokenizer, and a flag that it does not read."""
    folder = uncased(384, 128)
    folder[TOKENIZER_CONFIG] = of_tokenizer("PreTrainedTokenizerFast", 512, S, do_lower_case=True)
    folder[TOKENIZER] = tokenizer(PRECOMPILED, S, cut=128)
    return folder


def multilingual_e5() -> Folder:
    folder = uncased(384, 512, "mean", "Normalize")
    folder[CONFIG]["tokenizer_class"] = "XLMRobertaTokenizer"
    folder[TOKENIZER_CONFIG] = of_tokenizer("XLMRobertaTokenizer", 512, S)
    folder[TOKENIZER] = tokenizer(PRECOMPILED, S)
    return folder


def labse() -> Folder:
    folder = uncased(768, 256, "cls", "Dense", "Normalize")
    folder[TOKENIZER_CONFIG]["do_lower_case"] = False
    folder[TOKENIZER] = tokenizer(bert_normalizer(False))
    folder["2_Dense/config.json"] = dense(768, 768)
    folder["2_Dense/model.safetensors"] = WEIGHTS
    return folder


def distiluse() -> Folder:
    folder = with_dense()
    folder[CONFIG] = {"model_type": "distilbert", "dim": 768, "max_position_embeddings": 512, "n_layers": 6}
    folder[TRANSFORMER] = of_transformer(128)
    folder[TOKENIZER_CONFIG] = of_tokenizer("DistilBertTokenizer", 512, do_lower_case=False)
    folder[TOKENIZER] = tokenizer(bert_normalizer(False))
    return folder


def nomic() -> Folder:
    folder = uncased(768, 8192)
    folder[CONFIG] = {"model_type": "nomic_bert", "n_embd": 768, "n_positions": 8192, "auto_map": {"AutoModel": "a.B"}}
    folder[TOKENIZER_CONFIG]["model_max_length"] = 8192
    return folder


def arctic() -> Folder:
    folder = uncased(768, 512, "cls", "Normalize")
    folder[PROMPTS] = prompts(query="Represent this sentence for searching relevant passages: ")
    return folder


def mxbai() -> Folder:
    folder = uncased(1024, 512, "cls")
    folder[PROMPTS] = prompts(query="Represent this sentence for searching relevant passages: ", passage="")
    return folder


def jina_v2() -> Folder:
    """ALiBi: no table of positions ends, and 2^31 is no limit."""
    folder = uncased(768, 8192)
    more = {"position_embedding_type": "alibi", "auto_map": {"AutoModel": "a.B"}, "architectures": ["JinaBertModel"]}
    folder[CONFIG] = config(width=768, positions=8192, **more)
    folder[TOKENIZER_CONFIG]["model_max_length"] = 2147483648
    return folder


def jina_v3() -> Folder:
    folder = roberta("xlm-roberta", "XLMRobertaTokenizer", 8192, PRECOMPILED)
    folder[MODULES] = modules("Pooling", "Normalize")
    folder[MODULES][0]["type"] = "custom_st.Transformer"
    return folder


def instructor() -> Folder:
    folder = sentence_t5()
    folder[TRANSFORMER] = of_transformer(512)
    folder[POOLING]["include_prompt"] = False
    return folder


def sentence_t5() -> Folder:
    folder = uncased(768, 256, "mean", "Dense", "Normalize")
    folder[CONFIG] = {"model_type": "t5", "d_model": 768, "n_positions": 512, "architectures": ["T5EncoderModel"]}
    folder[TOKENIZER_CONFIG] = {"tokenizer_class": "T5Tokenizer", "model_max_length": 512, "eos_token": "</s>"}
    folder[TOKENIZER] = tokenizer(PRECOMPILED, ())
    folder["2_Dense/config.json"] = dense(768, 768, "linear.Identity", bias=False)
    folder["2_Dense/pytorch_model.bin"] = WEIGHTS
    return folder


def static() -> Folder:
    rows = [{"idx": 0, "name": "0", "path": "", "type": OLDER + "StaticEmbedding"}]
    return Folder({MODULES: rows, PROMPTS: prompts(), TOKENIZER: tokenizer(bert_normalizer(True), ())})


def stella() -> Folder:
    """Dense layers of many widths, of which modules.json lists one."""
    folder = uncased(1024, 512, "mean", "Dense")
    folder[PROMPTS] = prompts(s2p_query="Instruct: …\nQuery: ", s2s_query="Instruct: …\nQuery: ")
    for name, out in (("2_Dense", 1024), ("2_Dense_256", 256), ("2_Dense_8192", 8192)):
        folder[f"{name}/config.json"] = dense(1024, out, "linear.Identity")
        folder[f"{name}/model.safetensors"] = WEIGHTS
    return folder


def ance() -> Folder:
    """msmarco-roberta-base-ance-firstp: text is lower-cased for a tokenizer that knows case."""
    folder = roberta()
    folder[MODULES] = modules("Pooling", "Dense", "LayerNorm")
    folder[TRANSFORMER] = of_transformer(512, lower=True)
    folder[POOLING] = pooling(768, "cls")
    folder["2_Dense/config.json"] = dense(768, 768, "linear.Identity")
    folder["2_Dense/pytorch_model.bin"] = WEIGHTS
    folder["3_LayerNorm/config.json"] = {"dimension": 768}
    folder["3_LayerNorm/pytorch_model.bin"] = WEIGHTS
    return folder


def qwen() -> Folder:
    folder = uncased(1024, 512, "lasttoken", "Normalize")
    folder[CONFIG] = config("qwen3", 1024, 32768, architectures=["Qwen3ForCausalLM"])
    folder.pop(TRANSFORMER)
    folder[TOKENIZER_CONFIG] = {"tokenizer_class": "Qwen2Tokenizer", "model_max_length": 131072}
    folder[TOKENIZER] = tokenizer({"type": "NFC"}, ())
    folder[PROMPTS] = prompts(query="Instruct: …\nQuery:", document="")
    return folder


def gemma() -> Folder:
    folder = uncased(768, 2048, "mean", "Dense", "Dense", "Normalize")
    folder[CONFIG] = config("gemma3_text", 768, 2048)
    folder[TRANSFORMER] = of_transformer(2048)
    folder[TOKENIZER_CONFIG] = {"tokenizer_class": "GemmaTokenizer", "model_max_length": 2048}
    folder[TOKENIZER] = tokenizer({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, ("<bos>", "<eos>"))
    folder[TOKENIZER]["added_tokens"] = [{"id": at, "content": f"<unused{at}>", "special": True} for at in range(1200)]
    folder[PROMPTS] = prompts(query="task: search result | query: ", document="title: none | text: ")
    for name, width, out in (("2_Dense", 768, 3072), ("3_Dense", 3072, 768)):
        folder[f"{name}/config.json"] = dense(width, out, "linear.Identity", bias=False)
        folder[f"{name}/model.safetensors"] = WEIGHTS
    return folder


def plain_bert() -> Folder:
    """bert-base-uncased: nobody says how a vector is made."""
    folder = uncased(768)
    for name in (MODULES, POOLING, TRANSFORMER, PROMPTS):
        folder.pop(name)
    return folder


def biobert() -> Folder:
    """A cased vocabulary without tokenizer_config.json: transformers lower-cases."""
    folder = cased()
    folder.pop(TOKENIZER_CONFIG)
    return folder


def multi_qa() -> Folder:
    folder = mpnet(512)
    folder[POOLING] = pooling(768, "cls")
    folder[PROMPTS] = prompts("dot")
    return folder


def cut(value: int, **others: int) -> Named:
    files = {"config": TOKENIZER_CONFIG, "json": TOKENIZER, "bert": TRANSFORMER}
    return "length-contradiction", ", ".join([str(value), *sorted(f"{files[at]} {n}" for at, n in others.items())])


IDLE = ("case-contradiction", f"case kept, {TOKENIZER_CONFIG}")
LOWERED = ("case-contradiction", f"case lost, {TOKENIZER}")
BY_PROMPT = ("prompt-expected", "None")
DENSE = ("dense-ignored", "2_Dense")

LAYOUTS: Mapping[str, tuple[Callable[[], Folder], tuple[Named, ...]]] = {
    "older": (older, ()),
    "saved by 6.2": (saved_by_6, ()),
    "RoBERTa": (roberta, ()),
    "XLM-RoBERTa": (lambda: roberta("xlm-roberta", "XLMRobertaTokenizer", 512, PRECOMPILED), ()),
    "MPNet": (mpnet, ()),
    "cased": (cased, ()),
    "with prompts": (with_prompts, (BY_PROMPT,)),
    "nested": (nested, ()),
    "with Dense": (with_dense, (DENSE,)),
    "with LayerNorm": (with_layer_norm, ()),
    "normalized": (normalized, ()),
    "only vocab.txt": (only_vocabulary, ()),
    "generic tokenizer": (generic, ()),
    "ModernBERT": (modernbert, ()),
    "all-MiniLM-L6-v2": (minilm, (cut(256, config=512, json=128),)),
    "all-mpnet-base-v2": (all_mpnet, (cut(384, config=512, json=128),)),
    "multi-qa-mpnet-base-dot-v1": (multi_qa, ()),
    "bge-small-en-v1.5": (bge_small, ()),
    "bge-m3": (bge_m3, ()),
    "paraphrase-multilingual-MiniLM-L12-v2": (multilingual_minilm, (cut(128, config=512), IDLE)),
    "multilingual-e5-small": (multilingual_e5, ()),
    "LaBSE": (labse, (cut(256, config=512), DENSE)),
    "distiluse-base-multilingual-cased-v2": (distiluse, (cut(128, config=512), DENSE)),
    "nomic-embed-text-v1.5": (nomic, ()),
    "snowflake-arctic-embed-m": (arctic, (BY_PROMPT,)),
    "mxbai-embed-large-v1": (mxbai, (BY_PROMPT,)),
    "jina-embeddings-v2-base-en": (jina_v2, ()),
    "jina-embeddings-v3": (jina_v3, (("module-unsupported", "custom_st.Transformer"),)),
    "instructor-base": (instructor, (DENSE,)),
    "sentence-t5-base": (sentence_t5, (cut(256, config=512), DENSE)),
    "static-similarity-mrl": (static, (("module-unsupported", OLDER + "StaticEmbedding"),)),
    "stella_en_400M_v5": (stella, (BY_PROMPT, DENSE, ("module-ignored", "2_Dense_256, 2_Dense_8192"))),
    "msmarco-roberta-base-ance-firstp": (ance, (DENSE, LOWERED)),
    "Qwen3-Embedding-0.6B": (qwen, (BY_PROMPT, cut(32768, config=131072))),
    "embeddinggemma-300m": (gemma, (BY_PROMPT, ("dense-ignored", "2_Dense, 3_Dense"))),
    "bert-base-uncased": (plain_bert, (("pooling-undeclared", ""),)),
    "biobert": (biobert, (LOWERED,)),
}


# ------------------------------------------------------------------------------------------------ what is found


def named(finding: Finding) -> Named:
    """A finding as this module tells it."""
    return finding.rule, SUBJECTS[finding.rule](finding.evidence)


def found_in(root: Path) -> list[Finding]:
    return list(judge_recipe(read_recipe(LocalFolder(root))))


def _of_case(evidence: Mapping[str, Any]) -> str:
    state = "lost" if evidence["value"] else "kept"
    return ", ".join([f"{evidence['about']} {state}", *sorted({_file(said) for said in evidence["others"]})])


def _of_length(evidence: Mapping[str, Any]) -> str:
    others = sorted(f"{_file(said)} {value}" for said, value in evidence["others"].items())
    return ", ".join([str(evidence["value"]), *others])


def _file(said: str) -> str:
    return said.partition(":")[0].rpartition("/")[2]


SUBJECTS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "settings-invalid": lambda evidence: f"{evidence['file']}:{evidence['key']}",
    "settings-missing": lambda evidence: ": ".join([evidence["missing"], *evidence.get("lacks", [])]),
    "width-contradiction": lambda evidence: f"{evidence['path']} {evidence['expects']} of {evidence['width']}",
    "modules-order": lambda evidence: ", ".join(evidence["modules"]),
    "prompt-missing": lambda evidence: str(evidence["prompt"]),
    "length-beyond-positions": lambda evidence: f"{evidence['length']} of {evidence['positions']}",
    "module-unsupported": lambda evidence: evidence["path"] or evidence["type"],
    "case-contradiction": _of_case,
    "special-tokens-contradiction": lambda evidence: " ".join(evidence["value"]),
    "dense-activation": lambda evidence: f"{evidence['path']} {evidence['activation']}",
    "pooling-contradiction": lambda evidence: f"{' '.join(evidence['modes'])} / {' '.join(evidence['flags'])}",
    "prompt-expected": lambda evidence: str(evidence["default"]),
    "module-ignored": lambda evidence: evidence.get("folder") or ", ".join(evidence["folders"]),
    "dense-ignored": lambda evidence: evidence.get("folder") or ", ".join(evidence["folders"]),
    "length-contradiction": _of_length,
    "pooling-several": lambda evidence: " ".join(evidence["modes"]),
    "pooling-undeclared": lambda evidence: "",
    "cut-not-normalised": lambda evidence: str(evidence["truncate_dim"]),
    "similarity-unknown": lambda evidence: str(evidence["similarity"]),
}
# What two faults may not both touch, and what a fault may not touch of which something is true already.
AREAS = {
    "settings-missing": "modules",
    "width-contradiction": "width",
    "modules-order": "modules",
    "prompt-missing": "prompts",
    "prompt-expected": "prompts",
    "length-beyond-positions": "length",
    "length-contradiction": "length",
    "module-unsupported": "modules",
    "case-contradiction": "case",
    "special-tokens-contradiction": "special",
    "dense-activation": "dense",
    "dense-ignored": "dense",
    "module-ignored": "unlisted",
    "pooling-contradiction": "pooling",
    "pooling-several": "pooling",
    "pooling-undeclared": "modules",
    "cut-not-normalised": "cut",
    "similarity-unknown": "similarity",
}


# ------------------------------------------------------------------------------------------------ faults

Plant = Callable[[Folder, random.Random], list[Named]]


@dataclass(frozen=True)
class Fault:
    """A kind of fault: what it does to a folder and is named by, where it can be planted, and what it may not meet.

    It touches `areas`, which no second fault of the folder may, and the files that it `uses`; one that `damages` a file
    meets no other fault there. `drops` are areas whose truths are gone with it.
    """

    name: str
    plant: Plant
    areas: frozenset[str]
    applies: Callable[[Folder], bool]
    uses: frozenset[str]
    damages: frozenset[str]
    drops: frozenset[str]

    def meets(self, other: Fault) -> bool:
        return bool(
            self.areas & other.areas
            or self.damages & (other.uses | other.damages)
            or other.damages & (self.uses | self.damages)
        )

    def fits(self, folder: Folder, truths: tuple[Named, ...]) -> bool:
        touched = {AREAS[rule] for rule, _ in truths} - self.drops
        here = all(name in folder for name in self.uses)
        return here and not touched & self.areas and self.applies(folder)


FAULTS: list[Fault] = []


def fault(
    areas: str,
    *,
    uses: str = "",
    damages: str = "",
    drops: str = "",
    applies: Callable[[Folder], bool] = lambda folder: True,
    name: str = "",
) -> Callable[[Plant], Plant]:
    def add(plant: Plant) -> Plant:
        words = (frozenset(text.split()) for text in (uses, damages, drops))
        title = name or plant.__name__.strip("_").replace("_", " ")
        FAULTS.append(Fault(title, plant, frozenset(areas.split()) | frozenset(drops.split()), applies, *words))
        return plant

    return add


def sound(layout: str) -> tuple[Folder, tuple[Named, ...]]:
    """A folder as it is before anything is planted in it, and what is true of it."""
    make, truths = LAYOUTS[layout]
    return copy.deepcopy(make()), truths


def draw(seed: int) -> tuple[str, Folder, list[Fault], Counter[Named]]:
    """A folder of a seed: its layout, its files, the faults planted in it, and all that must be found, no more."""
    luck = random.Random(seed)
    layout = luck.choice(sorted(LAYOUTS))
    folder, truths = sound(layout)
    planted: list[Fault] = []
    fitting = [one for one in FAULTS if one.fits(folder, truths)]
    wanted = luck.randint(1, 4)
    for one in luck.sample(fitting, len(fitting)):
        if len(planted) < wanted and not any(one.meets(other) for other in planted):
            planted.append(one)
    expected: Counter[Named] = Counter()
    for one in planted:
        expected.update(one.plant(folder, luck))
    dropped = frozenset[str]().union(*(one.drops for one in planted))
    expected.update(truth for truth in truths if AREAS[truth[0]] not in dropped)
    return layout, folder, planted, expected


def has(name: str, key: str = "") -> Callable[[Folder], bool]:
    return lambda folder: name in folder and (not key or key in folder[name])


def is_bert(folder: Folder) -> bool:
    """Whether transformers makes BERT's tokenizer of flags, and these, and the file, have text lower-cased."""
    return flags_of(folder) == (True, True)


def is_cased(folder: Folder) -> bool:
    return flags_of(folder) == (False, False)


def flags_of(folder: Folder) -> tuple[Any, Any] | None:
    """Lower-casing by tokenizer_config.json and by tokenizer.json, where BERT's tokenizer is made of flags."""
    if TOKENIZER_CONFIG not in folder or TOKENIZER not in folder:
        return None
    if folder[TOKENIZER_CONFIG].get("tokenizer_class") not in ("BertTokenizer", "MPNetTokenizer"):
        return None
    return folder[TOKENIZER_CONFIG].get("do_lower_case"), folder[TOKENIZER]["normalizer"]["lowercase"]


def has_limits(folder: Folder) -> bool:
    """Whether max_seq_length and model_max_length are one, and a table of positions ends behind it."""
    if not all(name in folder for name in (TRANSFORMER, TOKENIZER_CONFIG, TOKENIZER, CONFIG)):
        return False
    length = folder[TRANSFORMER].get("max_seq_length")
    ends = folder[CONFIG]["model_type"] in ("bert", "roberta", "xlm-roberta", "mpnet")
    own = "auto_map" in folder[CONFIG] or folder[TOKENIZER]["truncation"] is not None
    return ends and not own and length is not None and length == folder[TOKENIZER_CONFIG].get("model_max_length")


def length_of(folder: Folder) -> int:
    return int(folder[TRANSFORMER]["max_seq_length"])


def positions_of(folder: Folder) -> int:
    lost = 0 if folder[CONFIG]["model_type"] == "bert" else 2
    return int(folder[CONFIG]["max_position_embeddings"]) - lost


def kinds_of(folder: Folder) -> list[str]:
    if MODULES not in folder:
        return []
    own = [row["type"] for row in folder[MODULES] if row["type"].startswith("sentence_transformers.")]
    return [kind.rpartition(".")[2] for kind in own]


def is_plain(folder: Folder) -> bool:
    """Whether nothing stands behind the pooling that a width must fit."""
    return (
        POOLING in folder and not {"Dense", "LayerNorm"} & {*kinds_of(folder)} and kinds_of(folder)[0] == "Transformer"
    )


def width_in(folder: Folder) -> int:
    said = folder[POOLING]
    return int(said.get("embedding_dimension") or said["word_embedding_dimension"])


def invalid(folder: Folder, name: str, key: str = "") -> Named:
    return "settings-invalid", f"{folder.at(name)}:{key}"


# Damage of a file as a whole; that of modules.json hides what is said in the folders that it lists.

BELOW = " ".join([POOLING, *(f"{at}_{kind}/config.json" for at in (2, 3) for kind in ("Dense", "LayerNorm"))])

DAMAGE: Mapping[str, Callable[[bytes], bytes]] = {
    "cut off": lambda raw: raw[: len(raw) * 2 // 3].rstrip(b"}\n "),
    "empty": lambda raw: b"",
    "with a BOM": lambda raw: b"\xef\xbb\xbf" + raw,
    "UTF-16": lambda raw: raw.decode().encode("utf-16"),
    "an array": lambda raw: b"[1, 2]",
    "null": lambda raw: b"null",
    "text": lambda raw: b'"settings"',
    "too deep": lambda raw: b"[" * 100_000 + b"]" * 100_000,
    "a comma too many": lambda raw: raw.rstrip()[:-1] + b",}",
    "HTML": lambda raw: b"<html>\x1b[31m404</html>",
    "a pointer of LFS": lambda raw: b"version https://git-lfs.github.com/spec/v1\noid sha256:e86d\nsize 409\n",
}


def damaging(
    file: str,
    areas: str,
    drops: str = "",
    damages: str = "",
    applies: Callable[[Folder], bool] = lambda folder: True,
) -> None:
    for title, damage in DAMAGE.items():
        if (file, title) == (TOKENIZER, "a comma too many"):
            continue  # of that file no more is read than stands before the vocabulary, and its last bytes

        def plant(folder: Folder, luck: random.Random, damage: Callable[[bytes], bytes] = damage) -> list[Named]:
            folder[file] = damage(json.dumps(folder[file]).encode())
            return [invalid(folder, file)]

        fault(areas, uses=file, damages=damages or file, drops=drops, applies=applies, name=f"{file} {title}")(plant)


damaging(TOKENIZER_CONFIG, "case length special", applies=is_bert)
damaging(TOKENIZER, "case length special")
damaging(TRANSFORMER, "length case")
damaging(CONFIG, "length width config", applies=lambda folder: TOKENIZER_CONFIG in folder)
damaging(PROMPTS, "", drops="prompts similarity cut")
damaging(POOLING, "pooling", applies=lambda folder: bool(kinds_of(folder)))
damaging(
    MODULES,
    "pooling width unlisted inner",
    damages=f"{MODULES} {BELOW}",
    drops="dense modules unlisted",
    applies=lambda folder: not folder.inner,
)
damaging("2_Dense/config.json", "width", drops="", applies=has("2_Dense/config.json"))


@fault(
    "pooling width inner",
    uses=MODULES,
    damages=f"{MODULES} {BELOW}",
    drops="dense modules unlisted",
    applies=lambda folder: not folder.inner,
)
def modules_are_no_list_of_rows(folder: Folder, luck: random.Random) -> list[Named]:
    rows = folder[MODULES]
    broken: list[Any] = [[], {}, [1], [[]], [*rows, {}], [{**row, "type": 5} for row in rows], {"modules": rows}]
    broken += [[{key: row[key] for key in row if key != left} for row in rows] for left in ("type", "path", "name")]
    folder[MODULES] = luck.choice(broken)
    return [invalid(folder, MODULES)]


# Values of a type that their key cannot have.

NUMBERS = ("256", -1, 0, True, 1.5, [256], {"a": 1}, float("nan"), float("inf"), "")
FLAGS_WRONG = ("true", 1, 0, [], {}, 1.0, "")
TEXTS_WRONG = (5, True, [], {}, 1.5, ["a"])
OBJECTS_WRONG = (5, "x", [], [{}], True)


def wrong(
    file: str, key: str, values: tuple[Any, ...], areas: str = "", applies: Callable[[Folder], bool] | None = None
) -> None:
    def plant(folder: Folder, luck: random.Random) -> list[Named]:
        within, (*outer, last) = folder[file], key.split(".")
        for step in outer:
            within = within.setdefault(step, {})
        within[last] = luck.choice(values)
        return [invalid(folder, file, key)]

    fault(f"{areas} {file}:{key}", uses=file, applies=applies or has(file), name=f"{key} in {file} of a wrong type")(
        plant
    )


wrong(TRANSFORMER, "max_seq_length", NUMBERS, "length")
wrong(TRANSFORMER, "do_lower_case", FLAGS_WRONG, "case")
wrong(TRANSFORMER, "processor_kwargs.model_max_length", NUMBERS, "length")
wrong(TOKENIZER_CONFIG, "model_max_length", NUMBERS, "length")
wrong(TOKENIZER_CONFIG, "do_lower_case", FLAGS_WRONG, "case", is_bert)
wrong(TOKENIZER_CONFIG, "strip_accents", FLAGS_WRONG, "case", is_bert)
wrong(TOKENIZER_CONFIG, "truncation_side", TEXTS_WRONG)
wrong(CONFIG, "hidden_size", (*NUMBERS, 10**12, 10**4000), "width", lambda folder: "hidden_size" in folder[CONFIG])
wrong(CONFIG, "max_position_embeddings", (*NUMBERS, 10**12), "length")
wrong(CONFIG, "pad_token_id", ("1", -1, [1], True), "length", lambda folder: "pad_token_id" in folder[CONFIG])
wrong(POOLING, "word_embedding_dimension", NUMBERS, "width pooling", has(POOLING, "word_embedding_dimension"))
wrong(POOLING, "embedding_dimension", NUMBERS, "width pooling", has(POOLING, "embedding_dimension"))
wrong(POOLING, "include_prompt", FLAGS_WRONG, "", lambda folder: bool(kinds_of(folder)))
wrong(POOLING, "pooling_mode_max_tokens", FLAGS_WRONG, "pooling", has(POOLING, "pooling_mode_max_tokens"))
wrong("2_Dense/config.json", "in_features", NUMBERS, "width")
wrong("2_Dense/config.json", "out_features", NUMBERS, "width")
wrong("2_Dense/config.json", "bias", FLAGS_WRONG)
wrong("2_Dense/config.json", "use_residual", FLAGS_WRONG)
wrong("2_Dense/config.json", "activation_function", TEXTS_WRONG)
wrong("2_Dense/config.json", "module_input_name", TEXTS_WRONG)
wrong("2_LayerNorm/config.json", "dimension", NUMBERS, "width")
wrong(
    PROMPTS,
    "prompts",
    (*OBJECTS_WRONG, None),
    "prompts",
    lambda folder: bool(folder[MODULES]) if MODULES in folder else False,
)
wrong(PROMPTS, "default_prompt_name", TEXTS_WRONG, "prompts")
wrong(PROMPTS, "similarity_fn_name", TEXTS_WRONG, "similarity")
wrong(PROMPTS, "truncate_dim", NUMBERS, "cut")
wrong(TOKENIZER, "truncation", OBJECTS_WRONG, "length")
wrong(TOKENIZER, "normalizer", OBJECTS_WRONG, "case")
wrong(TOKENIZER, "post_processor", OBJECTS_WRONG, "special")


@fault("length", uses=TOKENIZER, name="truncation.max_length in tokenizer.json of a wrong type")
def _truncation(folder: Folder, luck: random.Random) -> list[Named]:
    folder[TOKENIZER]["truncation"] = {"direction": "Right", "max_length": luck.choice(NUMBERS)}
    return [invalid(folder, TOKENIZER, "truncation.max_length")]


@fault("prompts", uses=f"{PROMPTS} {MODULES}")
def a_prompt_that_is_no_text(folder: Folder, luck: random.Random) -> list[Named]:
    folder[PROMPTS]["prompts"] = {"query": luck.choice(TEXTS_WRONG), "": ""}
    return [invalid(folder, PROMPTS, "prompts.query")]


@fault("pooling width modules", uses=POOLING, damages=POOLING, applies=is_plain)
def a_mode_that_does_not_exist(folder: Folder, luck: random.Random) -> list[Named]:
    folder[POOLING]["pooling_mode"] = luck.choice(["mean_tokens", "\x1b[31m", [], ["cls", 5], {"a": "cls"}, 5, "CLS"])
    return [invalid(folder, POOLING, "pooling_mode"), ("module-unsupported", "1_Pooling")]


# Files that are not there.


@fault(
    "",
    uses=f"{MODULES} {POOLING} {TOKENIZER} {TOKENIZER_CONFIG}",
    damages=f"{MODULES} {PROMPTS} {TRANSFORMER} {BELOW}",
    drops="prompts dense modules unlisted pooling width length case cut similarity",
    applies=lambda folder: is_bert(folder) and folder[TOKENIZER]["truncation"] is None,
)
def modules_json_missing(folder: Folder, luck: random.Random) -> list[Named]:
    folder.pop(MODULES)
    return [("settings-missing", MODULES)]


@fault("pooling width", uses=POOLING, damages=POOLING, applies=lambda folder: bool(kinds_of(folder)))
def pooling_settings_missing(folder: Folder, luck: random.Random) -> list[Named]:
    folder.pop(POOLING)
    return [("settings-missing", "1_Pooling: config.json")]


@fault("width", uses=POOLING, damages=POOLING, applies=lambda folder: bool(kinds_of(folder)))
def pooling_settings_without_a_width(folder: Folder, luck: random.Random) -> list[Named]:
    key = "embedding_dimension" if "embedding_dimension" in folder[POOLING] else "word_embedding_dimension"
    folder[POOLING].pop(key)
    return [("settings-missing", f"1_Pooling: {key} in config.json")]


@fault("width pooling", uses=POOLING, damages=POOLING, applies=lambda folder: bool(kinds_of(folder)))
def pooling_settings_an_empty_object(folder: Folder, luck: random.Random) -> list[Named]:
    folder[POOLING] = {}
    return [("settings-missing", "1_Pooling: embedding_dimension in config.json")]


def missing_of(path: str, name: str, told: str) -> None:
    def plant(folder: Folder, luck: random.Random) -> list[Named]:
        folder.pop(f"{path}/{name}")
        return [("settings-missing", f"{path}: {told}")]

    fault(f"width {path}", uses=f"{path}/{name}", damages=f"{path}/{name}", name=f"{path}/{name} missing")(plant)


for _path, _weights in (
    *(("2_Dense", "model.safetensors"), ("2_Dense", "pytorch_model.bin"), ("2_LayerNorm", "pytorch_model.bin")),
    *(("3_Dense", "model.safetensors"), ("3_LayerNorm", "pytorch_model.bin")),
):
    missing_of(_path, _weights, "weights (model.safetensors or pytorch_model.bin)")
for _path in ("2_Dense", "2_LayerNorm", "3_Dense", "3_LayerNorm"):
    missing_of(_path, "config.json", "config.json")


@fault(
    "width",
    uses="2_Dense/config.json",
    damages="2_Dense/config.json",
    applies=lambda folder: kinds_of(folder)[-1] != "LayerNorm",
)
def dense_settings_without_widths(folder: Folder, luck: random.Random) -> list[Named]:
    folder["2_Dense/config.json"] = {
        key: value for key, value in folder["2_Dense/config.json"].items() if key == "bias"
    }
    return [("settings-missing", "2_Dense: in_features in config.json: out_features in config.json")]


@fault(
    "length width config",
    uses=f"{CONFIG} {TOKENIZER_CONFIG}",
    damages=CONFIG,
    applies=lambda folder: "Transformer" in kinds_of(folder),
)
def config_json_missing(folder: Folder, luck: random.Random) -> list[Named]:
    folder.pop(CONFIG)
    return [("settings-missing", f"{folder.inner.rstrip('/') or 'Transformer'}: config.json")]


# Widths.


@fault(
    "width", uses=f"{CONFIG} {POOLING}", applies=lambda folder: has(CONFIG, "hidden_size")(folder) and is_listed(folder)
)
def hidden_size_of_another_model(folder: Folder, luck: random.Random) -> list[Named]:
    hidden = folder[CONFIG]["hidden_size"] = width_in(folder) + luck.choice((-128, 1, 384))
    return [("width-contradiction", f"1_Pooling {width_in(folder)} of {hidden}")]


def is_listed(folder: Folder) -> bool:
    return POOLING in folder and kinds_of(folder)[:1] == ["Transformer"]


@fault("width", uses=f"{POOLING} {CONFIG}", applies=lambda folder: is_plain(folder) and "hidden_size" in folder[CONFIG])
def pooling_of_another_model(folder: Folder, luck: random.Random) -> list[Named]:
    width = width_in(folder)
    key = "embedding_dimension" if "embedding_dimension" in folder[POOLING] else "word_embedding_dimension"
    folder[POOLING][key] = width + 256
    return [("width-contradiction", f"1_Pooling {width + 256} of {width}")]


@fault("width", uses=f"2_Dense/config.json {POOLING}", applies=is_listed)
def dense_of_another_model(folder: Folder, luck: random.Random) -> list[Named]:
    folder["2_Dense/config.json"]["in_features"] = 100
    return [("width-contradiction", f"2_Dense 100 of {width_in(folder)}")]


@fault("width", uses=f"2_LayerNorm/config.json {POOLING}", applies=is_listed)
def layer_norm_of_another_model(folder: Folder, luck: random.Random) -> list[Named]:
    folder["2_LayerNorm/config.json"]["dimension"] = 100.0
    return [("width-contradiction", f"2_LayerNorm 100 of {width_in(folder)}")]


@fault("width", uses="2_Dense/config.json 3_LayerNorm/config.json")
def two_steps_of_other_models(folder: Folder, luck: random.Random) -> list[Named]:
    folder["2_Dense/config.json"] |= {"in_features": 50, "out_features": 60}
    return [("width-contradiction", "2_Dense 50 of 768"), ("width-contradiction", "3_LayerNorm 768 of 60")]


# Lengths.


@fault("length", uses=f"{TOKENIZER_CONFIG} {TRANSFORMER}", applies=has_limits)
def model_max_length_another(folder: Folder, luck: random.Random) -> list[Named]:
    other = folder[TOKENIZER_CONFIG]["model_max_length"] = luck.choice((77, length_of(folder) * 2))
    return [cut(length_of(folder), config=other)]


@fault("length", uses=f"{TOKENIZER_CONFIG} {TRANSFORMER}", applies=has_limits)
def max_len_of_old_beside_it(folder: Folder, luck: random.Random) -> list[Named]:
    folder[TOKENIZER_CONFIG].pop("model_max_length")
    folder[TOKENIZER_CONFIG]["max_len"] = 99
    return [cut(length_of(folder), config=99)]


@fault("length", uses=f"{TOKENIZER} {TRANSFORMER}", applies=has_limits)
def truncation_in_tokenizer_json(folder: Folder, luck: random.Random) -> list[Named]:
    folder[TOKENIZER]["truncation"] = {"max_length": 64}
    return [cut(length_of(folder), json=64)]


@fault("length", uses=f"{TOKENIZER} {TOKENIZER_CONFIG} {TRANSFORMER}", applies=has_limits)
def three_lengths(folder: Folder, luck: random.Random) -> list[Named]:
    folder[TOKENIZER]["truncation"] = {"max_length": 64}
    folder[TOKENIZER_CONFIG]["model_max_length"] = 65
    return [cut(length_of(folder), json=64, config=65)]


@fault("length", uses=f"{TRANSFORMER} {TOKENIZER} {TOKENIZER_CONFIG}", applies=has_limits)
def truncation_against_model_max_length(folder: Folder, luck: random.Random) -> list[Named]:
    length = length_of(folder)
    folder[TRANSFORMER].pop("max_seq_length")
    folder[TOKENIZER]["truncation"] = {"max_length": 64}
    return [cut(length, json=64)]


@fault("length", uses=f"{TRANSFORMER} {TOKENIZER_CONFIG}", applies=has_limits)
def model_max_length_in_two_places(folder: Folder, luck: random.Random) -> list[Named]:
    length = length_of(folder)
    folder[TRANSFORMER][luck.choice(("processor_kwargs", "tokenizer_args"))] = {"model_max_length": 31}
    return [("length-contradiction", f"31, {TRANSFORMER} {length}, {TOKENIZER_CONFIG} {length}")]


@fault(
    "length",
    uses=f"{TRANSFORMER} {TOKENIZER_CONFIG} {CONFIG}",
    applies=lambda folder: has_limits(folder) and is_bert(folder),
)
def positions_against_model_max_length(folder: Folder, luck: random.Random) -> list[Named]:
    table = folder[CONFIG]["max_position_embeddings"]
    folder[TRANSFORMER]["max_seq_length"] = None
    folder[TOKENIZER_CONFIG]["model_max_length"] = 4 * table
    beyond = [("length-beyond-positions", f"{table} of {positions_of(folder)}")] if positions_of(folder) < table else []
    return [cut(table, config=4 * table), *beyond]


@fault("length", uses=f"{TRANSFORMER} {TOKENIZER_CONFIG} {CONFIG}", applies=has_limits)
def lengths_beyond_positions(folder: Folder, luck: random.Random) -> list[Named]:
    length = folder[TRANSFORMER]["max_seq_length"] = positions_of(folder) + luck.choice((1, 2, 1000))
    folder[TOKENIZER_CONFIG]["model_max_length"] = length
    return [("length-beyond-positions", f"{length} of {positions_of(folder)}")]


@fault("length", uses=f"{TRANSFORMER} {TOKENIZER_CONFIG} {CONFIG}", applies=has_limits)
def no_length_at_all(folder: Folder, luck: random.Random) -> list[Named]:
    """RoBERTa's kin have two positions fewer than rows of the table, which is then the limit."""
    folder[TRANSFORMER].pop("max_seq_length")
    folder[TOKENIZER_CONFIG]["model_max_length"] = luck.choice((10**30, 1e30, 1000000000000000019884624838656))
    table = folder[CONFIG]["max_position_embeddings"]
    return [("length-beyond-positions", f"{table} of {table - 2}")] if positions_of(folder) < table else []


@fault("length", uses=TOKENIZER_CONFIG, applies=has_limits)
def model_max_length_for_no_limit(folder: Folder, luck: random.Random) -> list[Named]:
    folder[TOKENIZER_CONFIG]["model_max_length"] = luck.choice((10**30, 1e30, 2**31, float(length_of(folder))))
    return []


# Case and accents.


@fault("case", uses=f"{TOKENIZER} {TOKENIZER_CONFIG}", applies=is_bert)
def tokenizer_json_keeps_case(folder: Folder, luck: random.Random) -> list[Named]:
    folder[TOKENIZER]["normalizer"]["lowercase"] = False
    others = f"{TOKENIZER}"
    return [("case-contradiction", f"case lost, {others}")]


@fault(
    "case",
    uses=f"{TOKENIZER} {TOKENIZER_CONFIG} {TRANSFORMER}",
    applies=lambda folder: is_bert(folder) and not folder[TRANSFORMER].get("do_lower_case"),
)
def flag_keeps_case(folder: Folder, luck: random.Random) -> list[Named]:
    folder[TOKENIZER_CONFIG]["do_lower_case"] = False
    return [("case-contradiction", f"case kept, {TOKENIZER}")]


@fault("case", uses=f"{TOKENIZER} {TOKENIZER_CONFIG}", applies=is_cased)
def flag_lowers_a_cased_model(folder: Folder, luck: random.Random) -> list[Named]:
    if luck.random() < 0.5:
        folder[TOKENIZER_CONFIG]["do_lower_case"] = True
    else:
        folder[TOKENIZER_CONFIG].pop("do_lower_case")
    return [("case-contradiction", f"case lost, {TOKENIZER}")]


@fault("case", uses=f"{TOKENIZER} {TOKENIZER_CONFIG} {TRANSFORMER}", applies=is_cased)
def sentence_transformers_lowers_first(folder: Folder, luck: random.Random) -> list[Named]:
    folder[TRANSFORMER]["do_lower_case"] = True
    return [("case-contradiction", f"case lost, {TOKENIZER}, {TOKENIZER_CONFIG}")]


@fault("case", uses=f"{TOKENIZER} {TOKENIZER_CONFIG}", applies=is_bert)
def flag_keeps_accents(folder: Folder, luck: random.Random) -> list[Named]:
    folder[TOKENIZER_CONFIG]["strip_accents"] = False
    return [("case-contradiction", f"accents kept, {TOKENIZER}")]


@fault("case", uses=f"{TOKENIZER} {TOKENIZER_CONFIG}", applies=is_bert)
def tokenizer_json_keeps_accents(folder: Folder, luck: random.Random) -> list[Named]:
    folder[TOKENIZER]["normalizer"]["strip_accents"] = False
    return [("case-contradiction", f"accents lost, {TOKENIZER}")]


def is_class(*names: str) -> Callable[[Folder], bool]:
    return lambda folder: folder[TOKENIZER_CONFIG].get("tokenizer_class") in names


@fault("case", uses=f"{TOKENIZER} {TOKENIZER_CONFIG}", applies=is_class("RobertaTokenizer", "XLMRobertaTokenizer"))
def normalizer_that_a_class_leaves_out(folder: Folder, luck: random.Random) -> list[Named]:
    inner = [{"type": "NFC"}, {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}]
    folder[TOKENIZER]["normalizer"] = {"type": "Sequence", "normalizers": inner}
    return [("case-contradiction", f"case kept, {TOKENIZER}")]


@fault(
    "case",
    uses=f"{TOKENIZER} {TOKENIZER_CONFIG} {TRANSFORMER}",
    applies=is_class("XLMRobertaTokenizer", "RobertaTokenizer"),
)
def idle_flag(folder: Folder, luck: random.Random) -> list[Named]:
    folder[TOKENIZER_CONFIG]["do_lower_case"] = True
    return [IDLE]


# Special tokens.


@fault("special", uses=f"{TOKENIZER} {TOKENIZER_CONFIG}", applies=is_bert)
def one_special_token_in_tokenizer_json(folder: Folder, luck: random.Random) -> list[Named]:
    single = folder[TOKENIZER]["post_processor"]["single"]
    single.pop(luck.choice((0, -1)))
    return [special(folder)]


def special(folder: Folder) -> Named:
    """By the flags of BERT's tokenizer, by tokenizer.json of all others, MPNet's among them."""
    config = folder[TOKENIZER_CONFIG]
    if config["tokenizer_class"] == "BertTokenizer":
        return "special-tokens-contradiction", f"{_content(config['cls_token'])} {_content(config['sep_token'])}"
    pieces = (folder[TOKENIZER]["post_processor"] or {}).get("single", [])
    return "special-tokens-contradiction", " ".join(
        piece["SpecialToken"]["id"] for piece in pieces if "SpecialToken" in piece
    )


def _content(token: Any) -> Any:
    return token["content"] if isinstance(token, dict) else token


@fault(
    "special",
    uses=f"{TOKENIZER} {TOKENIZER_CONFIG}",
    applies=is_class("BertTokenizer", "PreTrainedTokenizerFast", "RobertaTokenizer"),
)
def no_special_tokens_in_tokenizer_json(folder: Folder, luck: random.Random) -> list[Named]:
    folder[TOKENIZER]["post_processor"] = None
    return [special(folder)]


@fault(
    "special",
    uses=f"{TOKENIZER} {TOKENIZER_CONFIG}",
    applies=is_class("BertTokenizer", "PreTrainedTokenizerFast", "MPNetTokenizer"),
)
def other_special_tokens_in_tokenizer_config(folder: Folder, luck: random.Random) -> list[Named]:
    token = luck.choice(("<first>", "\x1b[31mred", "\u202egnp", "x" * 5000, "\udc80"))
    folder[TOKENIZER_CONFIG]["cls_token"] = luck.choice((token, {"content": token, "special": True}))
    return [special(folder)]


@fault("special", uses=f"{TOKENIZER} {TOKENIZER_CONFIG}", applies=is_class("BertTokenizer"))
def the_same_tokens_written_otherwise(folder: Folder, luck: random.Random) -> list[Named]:
    token = folder[TOKENIZER_CONFIG]["cls_token"]
    folder[TOKENIZER_CONFIG]["cls_token"] = {"content": token, "lstrip": False}
    folder[TOKENIZER]["post_processor"] = {"type": "BertProcessing", "cls": [token, 1], "sep": ["[SEP]", 2]}
    return []


# Modules: Dense, poolings, order, names.


@fault("unlisted", uses=MODULES)
def dense_unlisted(folder: Folder, luck: random.Random) -> list[Named]:
    folder["9_Dense/config.json"] = dense(10, 10)
    return [("dense-ignored", "9_Dense")]


@fault("unlisted", uses=MODULES)
def module_unlisted(folder: Folder, luck: random.Random) -> list[Named]:
    name = luck.choice(("5_LayerNorm", "6_Pooling", "7_\x1b[2J", "8_Weighted_Dense"))
    folder.files[f"{name}/config.json"] = {}
    return [("module-ignored", name)]


@fault("unlisted", uses=f"{MODULES} 2_Dense/config.json")
def dense_of_other_widths(folder: Folder, luck: random.Random) -> list[Named]:
    for width in (256, 64):
        folder[f"2_Dense_{width}/config.json"] = dense(768, width)
    return [("module-ignored", "2_Dense_256, 2_Dense_64")]


def append(folder: Folder, kind: str, path: str, name: str | None = None) -> None:
    rows = folder[MODULES]
    rows.append({"idx": len(rows), "name": str(len(rows)) if name is None else name, "path": path, "type": kind})


@fault("dense modules width", uses=f"{MODULES} {POOLING}", applies=lambda folder: is_plain(folder))
def dense_listed(folder: Folder, luck: random.Random) -> list[Named]:
    append(folder, OLDER + "Dense", "8_Dense")
    folder["8_Dense/config.json"] = dense(width_in(folder), 64)
    folder["8_Dense/model.safetensors"] = WEIGHTS
    return [("dense-ignored", "8_Dense")]


@fault("2_Dense/config.json:activation_function", uses="2_Dense/config.json", applies=is_listed)
def activation_not_loaded(folder: Folder, luck: random.Random) -> list[Named]:
    name = luck.choice(("mycode.Swish", "os.system", "", "\x07"))
    folder["2_Dense/config.json"]["activation_function"] = name
    return [("dense-activation", f"2_Dense {name}")]


@fault("modules width", uses="2_Dense/config.json", damages="2_Dense/config.json", drops="dense", applies=is_listed)
def dense_not_run_here(folder: Folder, luck: random.Random) -> list[Named]:
    change = luck.choice(
        ({"activation_function": "torch.nn.modules.activation.Softmax"}, {"activation_function": None})
    )
    folder["2_Dense/config.json"] |= luck.choice((change, {"module_input_name": "token_embeddings"}))
    left = [f"{at}_Dense" for at, kind in enumerate(kinds_of(folder)) if kind == "Dense" and at > 2]
    return [("module-unsupported", "2_Dense"), *([("dense-ignored", ", ".join(left))] if left else [])]


@fault("pooling", uses=POOLING, applies=lambda folder: is_plain(folder) and "pooling_mode_cls_token" in folder[POOLING])
def pooling_said_twice(folder: Folder, luck: random.Random) -> list[Named]:
    older = next(mode for mode in ("cls", "mean", "lasttoken") if mode in _modes(folder))
    newer = "mean" if older == "cls" else "cls"
    folder[POOLING]["pooling_mode"] = luck.choice((newer, [newer]))
    return [("pooling-contradiction", f"{newer} / {older}")]


def _modes(folder: Folder) -> list[str]:
    said = folder[POOLING]
    return [flag.partition("_")[0] for flag in FLAGS if said.get(f"pooling_mode_{flag}")]


@fault("pooling width", uses=POOLING, applies=is_plain)
def poolings_put_end_to_end(folder: Folder, luck: random.Random) -> list[Named]:
    said = folder[POOLING]
    if "pooling_mode" in said or luck.random() < 0.5:
        for flag in FLAGS:
            said.pop(f"pooling_mode_{flag}", None)
        said["pooling_mode"] = ["max", "cls"]
        return [("pooling-several", "max cls")]
    said["pooling_mode_max_tokens"] = True
    return [("pooling-several", " ".join(sorted([*_modes(folder)], key=("cls", "max", "mean", "lasttoken").index)))]


@fault("pooling", uses=POOLING, applies=lambda folder: bool(kinds_of(folder)))
def no_mode_at_all(folder: Folder, luck: random.Random) -> list[Named]:
    for flag in FLAGS:
        folder[POOLING].pop(f"pooling_mode_{flag}", None)
    folder[POOLING].pop("pooling_mode", None)
    return []


@fault("modules dense width", uses=MODULES, applies=is_plain)
def module_of_another_library(folder: Folder, luck: random.Random) -> list[Named]:
    kind = luck.choice(
        (
            "mymodel.Head",
            "sentence_transformers.models.WordWeights",
            "x",
            "",
            "\x1b]0;t\x07",
            "pylate.models.Dense.Dense",
        )
    )
    append(folder, kind, luck.choice(("8_Head", "")))
    return [("module-unsupported", folder[MODULES][-1]["path"] or kind)]


@fault("modules inner cut", uses=MODULES, applies=is_plain)
def path_that_leads_elsewhere(folder: Folder, luck: random.Random) -> list[Named]:
    path = luck.choice(("../x", "/etc", "a/../b", "..\\x", "C:\\x", "./3_Normalize", "..", "a//b", "\x00", "C:x"))
    append(folder, OLDER + "Normalize", path)
    return [invalid(folder, MODULES, "path")]


@fault("modules pooling width unlisted", uses=MODULES, damages=POOLING, applies=is_plain)
def pooling_elsewhere(folder: Folder, luck: random.Random) -> list[Named]:
    folder[MODULES][1]["path"] = luck.choice(("../1_Pooling", "", "/1_Pooling"))
    return [invalid(folder, MODULES, "path"), ("module-ignored", "1_Pooling")]


@fault("modules", uses=MODULES)
def a_slash_behind_a_path(folder: Folder, luck: random.Random) -> list[Named]:
    for row in folder[MODULES]:
        row["path"] += "/" if row["path"] else ""
    return []


@fault("modules", uses=MODULES, applies=lambda folder: len(folder[MODULES]) > 1)
def a_name_twice(folder: Folder, luck: random.Random) -> list[Named]:
    folder[MODULES][1]["name"] = folder[MODULES][0]["name"]
    return [invalid(folder, MODULES, "name")]


@fault("modules cut", uses=MODULES, applies=is_plain)
def a_folder_twice(folder: Folder, luck: random.Random) -> list[Named]:
    append(folder, OLDER + "Normalize", "8_Normalize")
    append(folder, OLDER + "Normalize", "8_Normalize")
    return [invalid(folder, MODULES, "path")]


@fault("modules unlisted pooling width", uses=MODULES, damages=POOLING, applies=is_plain)
def no_pooling_listed(folder: Folder, luck: random.Random) -> list[Named]:
    del folder[MODULES][1]
    return [("settings-missing", "Pooling"), ("module-ignored", "1_Pooling")]


@fault(
    "modules pooling width length case special config",
    uses=MODULES,
    applies=lambda folder: is_plain(folder) and not folder.inner,
)
def no_transformer_listed(folder: Folder, luck: random.Random) -> list[Named]:
    del folder[MODULES][0]
    return [("settings-missing", "Transformer")]


@fault(
    "modules pooling width dense",
    uses=MODULES,
    applies=lambda folder: kinds_of(folder)[:2] == ["Transformer", "Pooling"] and len(folder[MODULES]) > 2,
)
def pooling_after_the_others(folder: Folder, luck: random.Random) -> list[Named]:
    rows = folder[MODULES]
    rows.append(rows.pop(1))
    return [("modules-order", ", ".join(kinds_of(folder)))]


@fault("modules pooling width", uses=MODULES, applies=is_plain)
def two_poolings(folder: Folder, luck: random.Random) -> list[Named]:
    append(folder, OLDER + "Pooling", "8_Pooling")
    folder["8_Pooling/config.json"] = pooling(width_in(folder), "cls")
    return [("modules-order", ", ".join(kinds_of(folder)))]


# Prompts, similarity, cut.


@fault("prompts", uses=f"{PROMPTS} {MODULES}")
def default_prompt_missing(folder: Folder, luck: random.Random) -> list[Named]:
    name = folder[PROMPTS]["default_prompt_name"] = luck.choice(("passage", "", "\x1b[31m", "Query", "x" * 3000))
    return [("prompt-missing", name)]


@fault("prompts", uses=f"{PROMPTS} {MODULES}")
def default_prompt(folder: Folder, luck: random.Random) -> list[Named]:
    name = luck.choice(("query", "\u202eetis", "document"))
    folder[PROMPTS] |= {"prompts": {name: "about: \x1b[0m"}, "default_prompt_name": name}
    return [("prompt-expected", name)]


@fault("prompts", uses=f"{PROMPTS} {MODULES}")
def prompts_and_no_default(folder: Folder, luck: random.Random) -> list[Named]:
    names = luck.sample(["query", "passage", "\x1b[31m", "\u2028", "a" * 3000, "STS"], 3)
    folder[PROMPTS]["prompts"] = {name: f"{name}: " for name in names}
    return [("prompt-expected", "None")]


@fault("prompts", uses=f"{PROMPTS} {MODULES}")
def default_prompt_that_is_always_there(folder: Folder, luck: random.Random) -> list[Named]:
    folder[PROMPTS] |= {"prompts": {}, "default_prompt_name": luck.choice(("query", "document"))}
    return []


@fault("similarity", uses=f"{PROMPTS} {MODULES}")
def similarity_that_is_none(folder: Folder, luck: random.Random) -> list[Named]:
    name = folder[PROMPTS]["similarity_fn_name"] = luck.choice(("dot_score", "maxsim", "", "\x1b[31m", "Cosine"))
    return [("similarity-unknown", name)]


@fault("cut width", uses=f"{PROMPTS} {POOLING} {MODULES}", applies=is_plain)
def cut_vectors(folder: Folder, luck: random.Random) -> list[Named]:
    whole = width_in(folder)
    cut_at = folder[PROMPTS]["truncate_dim"] = luck.choice((64, 64.0, whole, whole * 2))
    return [("cut-not-normalised", str(int(cut_at)))] if cut_at < whole and "Normalize" in kinds_of(folder) else []


# ------------------------------------------------------------------------------------------------ by hand


def main(target: str, seeds: int = 100) -> None:
    for seed in range(seeds):
        layout, folder, planted, expected = draw(seed)
        findings = found_in(folder.write(Path(target) / f"{seed:03}"))
        found = Counter(map(named, findings))
        verdict = "as planted" if found == expected else f"NOT FOUND {expected - found}, FALSE {found - expected}"
        print(f"{seed:03}  {layout}: {'; '.join(one.name for one in planted)}  →  {verdict}")
        for finding in findings:
            print(f"     {finding.severity:8}{finding.rule:30}{finding.message}")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
