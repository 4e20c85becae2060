"""Checkpoints that ask for more than they may: settings that name code or a place, and values that are no settings.

Run in the process of `trapped`; each case says whether the numbers, or the ids, are those of the checkpoint without it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import trapped

Case = tuple[str, str, Callable[[], bool]]  # a name, what must come of it, and whether all is as without it
KERNEL = "some-org/some-kernel"
REPO = "some-org/some-repo"

# Left out without a word: the numbers are those of the model without them.
_KERNELS = [
    KERNEL,
    f"sdpa|{KERNEL}@main:forward",
    f"paged|{KERNEL}",
    "flash_attention_2",
    "../../evil",
    {"": KERNEL},
    7,
]
NAMING: dict[str, list[Any]] = {
    "attn_implementation": _KERNELS,
    "_attn_implementation": _KERNELS,
    "experts_implementation": _KERNELS,
    "_experts_implementation": _KERNELS[:1],
    "_attn_implementation_internal": [KERNEL],
    "_attn_implementation_autoset": [True],
    "use_kernels": [True],
    "kernel_config": [{"kernel_mapping": {"RMSNorm": f"{KERNEL}:RMSNorm"}}, KERNEL],
    "kernels": [[KERNEL], {"GeLU": KERNEL}],
    "fusion_config": [{"patch": True}],
    "distributed_config": [{"tp_plan": "auto"}],
    "transformers_weights": ["/etc/passwd", "../../evil.safetensors"],
    "auto_map": [
        {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"},
        {"AutoModel": f"{REPO}--evil.Model"},
        "evil",
    ],
    "custom_pipelines": [{"evil": {"impl": "evil.Pipeline", "pt": ["AutoModel"]}}],
    "trust_remote_code": [True],
    "backbone": [REPO, "evil"],
    "backbone_config": [{"model_type": "dpt", "backbone": REPO}],
    "use_timm_backbone": [True],
    "use_pretrained_backbone": [True],
    "_name_or_path": [REPO, "google/umt5-small", "../../evil"],
    "name_or_path": [REPO],
    "base_model_name_or_path": [REPO],
    "_commit_hash": ["0" * 40],
    "configuration_files": [["config.4.0.0.json"]],
    "gguf_file": ["evil.gguf"],
    "extra_files": [["../../evil.safetensors"]],
    "generation_config": [{"cache_implementation": "evil"}],
    "cache_implementation": ["evil"],
    "compile_config": [{"backend": "evil"}],
    "tokenizer_class": ["evil.Tokenizer", "../evil"],
    "text_encoder": [{"model_type": "dpt", "backbone": REPO}],
    "decoder": [{"model_type": "detr", "backbone": REPO}],
    "generator": [{"model_type": "detr", "backbone": REPO}],
    "vision_config": [{"model_type": "dpt", "backbone": REPO}],
    "audio_config": ["evil"],
    "dtype": ["load", "hub", "float16"],
    "torch_dtype": ["load", ["evil"], 10**400],
    "architectures": [["EvilModel"], ["LlamaForCausalLM"], "evil"],
    "id2label": [{"0": "x" * 10**6}, "evil"],
    "transformers_version": ["evil", "99.0.0", 10**400],
    "attribute_map": [{"hidden_size": "evil"}],
    "sub_configs_defaults": [{"text_config": "evil"}],
    "base_model_tp_plan": [{"layers.*": "evil"}],
    "get_text_config": ["evil"],
    "to_dict": ["evil"],
    "_auto_class": ["AutoModel"],
    "__class__": ["evil"],
    "__init__": [1],
    "no_such_setting": [{"a": [[[[[["x"]]]]]]}, "x" * 10**7, 10**400, float("nan")],
    "reference_compile": [True],
    "output_attentions": [True, "evil"],
    "gradient_checkpointing": [True],
}

# Refused in a line: without them, or with them, the numbers would be others.
REFUSED: dict[str, list[Any]] = {
    "quantization_config": [{"quant_method": "gptq"}, {"quant_method": REPO}, [1], "evil"],
    "per_layer_config": [{"0": {"attn_implementation": KERNEL}}, {"evil": {}}, {"0": {"0": {"0": {"0": 1}}}}],
    "rope_parameters": [{"rope_type": "default", "rope_theta": 1e4, "kernel": KERNEL}],
    "layer_norm_eps": [float("nan"), float("inf"), "x" * 10**7, [[[[[1]]]]], {"a": 1}],
    "initializer_range": [10**400, -(10**400)],
    "pad_token_id": [10**400, 2**62],
    "vocab_size": [10**12, [0] * 10**6],
    "num_hidden_layers": [10**6, 10**400, {"language": 10**6}],
    "type_vocab_size": [10**30],
    "hidden_size": ["1e5", None, {}],
    "layer_types": [["x"] * 10**5],
    "max_position_embeddings": [10**10],
}

FILES = {
    "evil.py": trapped.EVIL,
    "modeling_evil.py": trapped.EVIL,
    "configuration_evil.py": trapped.EVIL,
    "__init__.py": trapped.EVIL,
    "custom_generate/generate.py": trapped.EVIL,
    "generation_config.json": json.dumps({"custom_generate": REPO, "trust_remote_code": True}),
    "adapter_config.json": json.dumps(
        {"base_model_name_or_path": REPO, "peft_type": "LORA", "auto_mapping": {"a": "b"}}
    ),
    "adapter_model.safetensors": "evil",
    "chat_template.jinja": "{{ cycler.__init__.__globals__.os.system('touch evil') }}",
    "additional_chat_templates/evil.jinja": "{{ 1 }}",
    "config.4.0.0.json": json.dumps({"model_type": "dpt", "backbone": REPO}),
    "preprocessor_config.json": json.dumps({"auto_map": {"AutoProcessor": "evil.Processor"}}),
    "processor_config.json": json.dumps({"auto_map": {"AutoProcessor": "evil.Processor"}}),
    "tekken.json": "{}",
    "kernels/__init__.py": trapped.EVIL,
}

WHOLE = "bert"  # every case on this family and on a model of two encoders; a few on these
SOME = ("modernbert", "xmod", "t5", "neomme")
FEW = ("attn_implementation", "experts_implementation", "auto_map", "backbone", "quantization_config", "vocab_size")
DEEP = "[" * 1000 + "]" * 1000
STRANGERS = ("dpt", "detr", "upernet", "conditional_detr", "maskformer", "llama", "../../evil", "BERT", " bert", "new")


def _files_beside(folder: Path) -> None:
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


class Model:
    """A checkpoint whose config.json is changed again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = json.loads((folder / "config.json").read_text())
        self.expected = self._numbers()
        _files_beside(folder)

    def case(self, name: str, outcome: str, config: Any) -> Case:
        """A config.json in place, and whether every bit is as it was."""
        (self.folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
        return name, outcome, lambda: self._numbers() == self.expected

    def _numbers(self) -> bytes:
        from bertprobe.anatomy import find_parts
        from bertprobe.checkpoint import open_checkpoint
        from bertprobe.transformers_model import load_reference

        checkpoint = open_checkpoint(str(self.folder))
        found: list[Any] = []
        hidden = load_reference(checkpoint, find_parts(checkpoint)).run(list(range(10, 43)), on_record=found.append)
        values = [hidden.last_hidden_state, *(record.after for record in found)]
        return b"".join(value.detach().numpy().tobytes() for value in values)


def configs(folder: Path) -> Iterator[Case]:
    """Hostile settings in a config.json, and where a model of several encoders keeps its text encoder's."""
    import zoo

    for family in (WHOLE, *SOME):
        zoo.save(family, folder / family)
        yield from _settings(family, Model(folder / family), () if family == WHOLE else FEW)
    yield from _nested(folder / "clip")
    yield from _strangers(Model(folder / WHOLE))


def _settings(name: str, model: Model, only: Sequence[str] = (), within: str = "") -> Iterator[Case]:
    """Every setting with every value, or with the first where only some are asked for, or those within another."""
    few = bool(only or within)
    for outcome, table in (("same", NAMING), ("refused", REFUSED)):
        for key, value in ((key, value) for key, values in table.items() for value in (values[:1] if few else values)):
            if not only or key in only:
                inner = {**model.config.get(within, model.config), key: value}
                config = {**model.config, within: inner} if within else inner
                yield model.case(f"{name} {within} {key} {str(value)[:50]}", outcome, config)
    yield model.case(f"{name} deep", "refused", json.dumps(model.config)[:-1] + f', "layer_norm_eps": {DEEP}}}')
    yield model.case(f"{name} files beside", "same", model.config)


def _nested(folder: Path) -> Iterator[Case]:
    import torch
    import transformers
    import zoo

    text = zoo.build("clip_text_model").config.to_dict()
    vision = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 4}
    vision |= {"image_size": 8, "patch_size": 4}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision)
    transformers.CLIPModel(config).eval().save_pretrained(folder)
    model = Model(folder)
    yield from _settings("clip", model, within="text_config")
    yield from _settings("clip", model, ("attn_implementation", "auto_map", "backbone", "quantization_config"))


def _strangers(model: Model) -> Iterator[Case]:
    """BERT's tensors under a name that leads elsewhere."""
    hostile = {"backbone": REPO, "attn_implementation": KERNEL}
    for name in STRANGERS:
        yield model.case(f"stranger {name}", "refused", {**model.config, **hostile, "model_type": name})
    for name in ("albert", "t5", "modernbert", "bart", "clip_text_model", "esm"):  # which we know, and this is none
        config = {**model.config, **hostile, "model_type": name, "architectures": ["BertModel"]}
        yield model.case(f"another {name}", "refused", config)
    for key in ("text_config", "encoder", "question_encoder", "qformer_config"):
        inner = {**model.config, **hostile, "model_type": "dpt"}
        yield model.case(f"stranger in {key}", "refused", {"model_type": "bert", key: inner})
    for name in ("", None):  # no name at all, so that the tensors speak
        yield model.case(f"no name {name}", "same", {**model.config, **hostile, "model_type": name})
    for name in (["dpt"], {"dpt": 1}, 7):
        yield model.case(f"no name {name}", "refused", {**model.config, **hostile, "model_type": name})


# ------------------------------------------------------------------------------------------------ tokenizers

VOCABULARY = [
    "<s>",
    "<pad>",
    "</s>",
    "<unk>",
    "<mask>",
    "[CLS]",
    "[SEP]",
    "[PAD]",
    "[UNK]",
    "[MASK]",
    *"abcdehlo",
    "##b",
]
BYTES = {token: number for number, token in enumerate([*VOCABULARY, "he", "Ġ", "Ġhe"])}
TOKENIZERS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "PhobertTokenizer": ({"model_type": "roberta"}, {"vocab.txt": "he@@ 5\nllo 5\nhello 5\n", "bpe.codes": "h e 9\n"}),
    "BertweetTokenizer": ({"model_type": "roberta"}, {"vocab.txt": "he@@ 5\nhello 5\n", "bpe.codes": "h e 9\n"}),
    "RobertaTokenizer": (
        {"model_type": "roberta"},
        {"vocab.json": json.dumps(BYTES), "merges.txt": "#version: 0.2\nh e\nĠ he\n"},
    ),
    "BertJapaneseTokenizer": ({"model_type": "bert"}, {"vocab.txt": "\n".join(VOCABULARY)}),
    "ByT5Tokenizer": ({"model_type": "t5"}, {}),  # of no file
}
TOKENIZER_SETTINGS: dict[str, list[Any]] = {
    "auto_map": [
        {"AutoTokenizer": ["evil.Tokenizer", None]},
        ["evil.Tokenizer", None],
        {"AutoTokenizer": [f"{REPO}--e.T", None]},
    ],
    "trust_remote_code": [True],
    "gguf_file": ["evil.gguf", f"{REPO}/evil.gguf"],
    "tokenizer_object": ["evil"],
    "vocab_file": ["/etc/passwd", "../evil"],
    "merges_file": ["/etc/passwd"],
    "spm_file": ["/etc/passwd"],
    "tokenizer_file": ["/etc/passwd"],
    "vocab": ["/etc/passwd", {"evil": 0}],
    "merges": ["/etc/passwd", []],
    "init_inputs": [["/etc/passwd", "/etc/passwd"]],
    "fast_tokenizer_files": [["tokenizer.4.0.0.json", "tokenizer.4/../../../etc/passwd.json"]],
    "fix_mistral_regex": [True],
    "name_or_path": ["mistralai/Mistral-7B-v0.1", REPO],
    "_commit_hash": ["0" * 40],
    "chat_template": [FILES["chat_template.jinja"], [{"name": "evil", "template": "{{ 1 }}"}], 7],
    "response_template": [{"evil": 1}],
    "processor_class": ["evil.Processor"],
    "backend": ["evil"],
    "files_loaded": [["/etc/passwd"]],
    "device_map": ["auto"],
    "model_max_length": [10**400, "evil"],
    "use_auth_token": [True],
    "from_slow": [True],
    "slow_tokenizer_class": ["evil"],
    "no_such_setting": ["x" * 10**7, {"a": [[[[1]]]]}],
}
TOKENIZER_REFUSED: dict[str, list[Any]] = {
    "added_tokens_decoder": [{"evil": {"content": "x"}}, {"9" * 30: {"content": "x"}}, [1], {"1": "x" * 10**5}],
    "cls_token": ["x" * 10**6, {"content": "x" * 10**6}],
    "additional_special_tokens": [[["evil"]], [10**400]],
    "model_input_names": [[["evil"]]],
    "unk_id": [10**400],
}
JAPANESE = {
    "mecab_kwargs": [{"mecab_option": "-r /etc/passwd -d evil"}, {"mecab_dic": "/etc"}, "evil", ["mecab_option"]],
    "sudachi_kwargs": [
        {"sudachi_config_path": "evil.json"},
        {"sudachi_resource_dir": "/etc"},
        {"sudachi_dict_type": "evil"},
    ],
    "jumanpp_kwargs": [{"options": ["--config=/etc/passwd"]}],
}


def _ids(folder: Path) -> Any:
    from bertprobe.checkpoint import open_checkpoint
    from bertprobe.transformers_model import tokenizer

    found = tokenizer(open_checkpoint(str(folder)))
    encoded = found.encode("hello he cab", "abc")
    return found.name, encoded.ids.tolist(), encoded.segments.tolist(), encoded.tokens


def tokenizers(folder: Path) -> Iterator[Case]:
    """Hostile settings in tokenizer_config.json, special_tokens_map.json and config.json, of each kind of tokenizer."""
    for name, (config, files) in TOKENIZERS.items():
        yield from _in_tokenizer(name, folder / name, config, files)


def _in_tokenizer(name: str, folder: Path, config: Mapping[str, Any], files: Mapping[str, str]) -> Iterator[Case]:
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir()
    save_file({"encoder.layer.0.intermediate.dense.weight": np.zeros((2, 2), np.float32)}, folder / "model.safetensors")
    for file, text in files.items():
        (folder / file).write_text(text)
    settings = {"tokenizer_class": name, **({"word_tokenizer_type": "basic"} if "Japanese" in name else {})}

    def put(**changes: Any) -> None:
        for file, plain in (("tokenizer_config", settings), ("config", config), ("special_tokens_map", {})):
            (folder / f"{file}.json").write_text(json.dumps({**plain, **changes.get(file, {})}))

    def case(outcome: str, file: str, key: str, value: Any) -> Case:
        put(**{file: {key: value}})
        return f"{name} {file} {key} {str(value)[:50]}", outcome, lambda: bool(_ids(folder) == expected)

    put()
    expected = _ids(folder)
    _files_beside(folder)
    tables = (("same", TOKENIZER_SETTINGS), ("refused", TOKENIZER_REFUSED))
    for outcome, table in (*tables, *((("refused", JAPANESE),) if "Japanese" in name else ())):
        for key, values in table.items():
            for value in values:
                yield case(outcome, "tokenizer_config", key, value)
    for key in ("auto_map", "vocab_file", "gguf_file", "chat_template", "init_inputs"):
        yield case("same", "special_tokens_map", key, TOKENIZER_SETTINGS[key][0])
    for key in ("backbone", "auto_map", "attn_implementation", "_name_or_path", "transformers_version"):
        yield case("same", "config", key, NAMING[key][0])
    for named in ("evil.Tokenizer", "../evil", "os", "RagTokenizer", "AutoTokenizer", ["evil"]):
        yield case("refused", "tokenizer_config", "tokenizer_class", named)
    for model_type in ("dpt", "rag", "../../evil", "mistral"):
        yield case("same", "config", "model_type", model_type)
