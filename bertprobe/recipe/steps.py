"""What makes one vector of a text's hidden states: the modules behind the transformer, in order, as settings have them.

The rules are those of sentence-transformers 6.2, its modules `Pooling`, `Dense`, `LayerNorm` and `Normalize`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bertprobe.recipe.files import Fault, Files, Module

MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
# The flags of earlier versions, in the order in which several are put side by side.
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# torch's classes by the name that the activation has here.
DENSE_ACTIVATIONS = {
    "Identity": "linear",
    "Tanh": "tanh",
    "ReLU": "relu",
    "ReLU6": "relu6",
    "GELU": "gelu",
    "SiLU": "silu",
    "Sigmoid": "sigmoid",
    "LeakyReLU": "leaky_relu",
    "Mish": "mish",
    "Hardswish": "hardswish",
}
EMBEDDING = "sentence_embedding"


@dataclass(frozen=True, slots=True)
class Pooling:
    """Tokens to one vector: by one mode, or by several whose vectors are put end to end.

    Where not `include_prompt`, the tokens of a prompt are left out of it. `width` is what its settings expect of a
    token's state, None where they do not say; `flags` are the modes by the older settings where both are there.
    """

    path: str
    modes: tuple[str, ...]
    include_prompt: bool
    width: int | None
    flags: tuple[str, ...] | None = None
    key: str = ""
    width_key: str = ""


@dataclass(frozen=True, slots=True)
class Dense:
    """W x + b through an activation, (out_features,).

    With `residual` x is added, through a matrix of its own where the widths differ. `activation` is a name of
    `backends.ACTIVATIONS`, and `said` the class that the settings name. A class that is none of torch's is not loaded:
    sentence-transformers takes tanh in its place.
    """

    path: str
    in_features: int | None
    out_features: int | None
    bias: bool
    activation: str
    said: str
    residual: bool


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """Layer norm over the vector, eps 1e-5."""

    path: str
    dimension: int | None


@dataclass(frozen=True, slots=True)
class Normalize:
    """The vector over its Euclidean norm."""

    path: str


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A module that is not run here, and why."""

    path: str
    type: str
    reason: str


Step = Pooling | Dense | LayerNorm | Normalize | Unsupported


def steps_of(files: Files) -> tuple[Step, ...]:
    """The modules behind the transformer; mean pooling where no modules.json lists any."""
    modules, behind = files.modules, tuple(_transformer(files))
    if modules is None:
        return (*behind, Pooling("", ("lasttoken" if _is_decoder(files) else "mean",), True, None))
    return (*behind, *(step for module in modules for step in _step(module)))


# What a Transformer is told that changes no number here, by the setting that holds it.
_ALWAYS = {"cache_dir", "force_download", "local_files_only", "revision", "token", "trust_remote_code", "subfolder"}
_IDLE: Mapping[str, set[str]] = {
    "model_args": {"add_pooling_layer", "attn_implementation", "dtype", "torch_dtype", "low_cpu_mem_usage"},
    "config_args": {"attn_implementation", "dtype", "torch_dtype"},
    "tokenizer_args": {"model_max_length", "use_fast"},
    "processing_kwargs": {"text", "audio", "image", "video", "chat_template"},
    "processing_kwargs.text": {"max_length", "padding"},
}
_RENAMED = {"model_kwargs": "model_args", "config_kwargs": "config_args", "processor_kwargs": "tokenizer_args"}
_STATES = "last_hidden_state"


def _transformer(files: Files) -> Iterator[Unsupported]:
    """The model itself, where sentence-transformers makes more of it than the last hidden states of a text."""
    module = next((module for module in files.modules or () if module.kind == "Transformer"), None)
    reason = next(_beyond_states(files), None)
    if reason is not None:
        yield Unsupported(
            "" if module is None else module.path, "Transformer" if module is None else module.type, reason
        )


def _beyond_states(files: Files) -> Iterator[str]:
    kind = files.prompts.values.get("model_type")
    if files.modules is not None and kind not in (None, "SentenceTransformer"):
        yield f"is a {kind}'s, of which sentence-transformers takes the plain mean"
    if "adapter_config.json" in files.names:
        yield "has an adapter, which is not run here"
    if files.modules is None:
        if "chat_template" in files.tokenizer_config.values or "chat_template.jinja" in files.names:
            yield "has a chat template, through which sentence-transformers puts texts"
        return
    values = files.transformer.values
    for key, plain in (("transformer_task", "feature-extraction"), ("module_output_name", "token_embeddings")):
        if values.get(key, plain) != plain:
            yield f"has another {key}"
    if values.get("tokenizer_name_or_path") is not None:
        yield "names a tokenizer elsewhere"
    if not _gives_states(values.get("modality_config")):
        yield "has a modality_config for more than the last hidden states of a text"
    for key in (*_IDLE, *_RENAMED):
        more = set(_within(values, key)) - _ALWAYS - _IDLE[_RENAMED.get(key, key)]
        if more:
            yield f"sets {', '.join(sorted(more))} in {key}, which is not followed here"


def _gives_states(modalities: Any) -> bool:
    if modalities is None:
        return True
    text = modalities.get("text") if isinstance(modalities, Mapping) else None
    if not isinstance(text, Mapping) or "message" in modalities:
        return False
    return text.get("method") == "forward" and text.get("method_output_name") in (_STATES, [_STATES])


def _within(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found: Any = values
    for step in key.split("."):
        found = found.get(step) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _is_decoder(files: Files) -> bool:
    """Whether a model was saved as one that writes on: sentence-transformers takes the last token of those."""
    saved_by = files.config.values.get("architectures")
    first = saved_by[0] if isinstance(saved_by, list) and saved_by else ""
    return str(first).endswith("ForCausalLM") and files.config.values.get("is_causal") is not False


def _step(module: Module) -> Iterator[Step]:
    kind = module.kind
    if kind == "Transformer" or kind == "Dropout":  # dropout does nothing outside training
        return
    if kind == "Pooling":
        yield _pooling(module)
    elif kind == "Dense":
        yield _dense(module)
    elif kind == "LayerNorm":
        yield LayerNorm(module.path, _whole(module, "dimension"))
    elif kind == "Normalize":
        yield Normalize(module.path) if _on_vectors(module) else _unsupported(module, "works on the tokens")
    else:
        yield _unsupported(module, "is not run here" if kind else "is code of its own")


def _on_vectors(module: Module) -> bool:
    """Whether a module takes the vectors of texts and puts others in their place."""
    said = (module.settings.said(key, "text") for key in ("module_input_name", "module_output_name"))
    return {name.value for name in said if name is not None} <= {EMBEDDING}


def _unsupported(module: Module, reason: str) -> Unsupported:
    return Unsupported(module.path, module.type, reason)


def _whole(module: Module, key: str) -> int | None:
    said = module.settings.said(key, "whole")
    return None if said is None else int(said.value)


def width_key(pooling: Mapping[str, Any]) -> str:
    """The setting that says which width a pooling expects; what was called otherwise before version 6 gives way."""
    new, old = "embedding_dimension", "word_embedding_dimension"
    return old if new not in pooling and (old in pooling or any(flag in pooling for flag in FLAGS)) else new


def _pooling(module: Module) -> Step:
    values, settings = module.settings.values, module.settings
    active = {flag: settings.said(flag, "flag") for flag in FLAGS if flag in values}
    flags = tuple(FLAGS[flag] for flag, said in active.items() if said is not None and said.value)
    flags = tuple(sorted(flags, key=MODES.index))
    named = values.get("pooling_mode")
    modes = flags or ("mean",)
    if "pooling_mode" in values:
        several: list[Any] = named if isinstance(named, list) else [named]
        if not several or not all(isinstance(mode, str) and mode in MODES for mode in several):
            settings.faults.append(Fault(settings.file, "pooling_mode", f"{named!r:.60}, none of {', '.join(MODES)}"))
            return _unsupported(module, "has a mode that does not exist")
        modes = tuple(several)
    prompt = settings.said("include_prompt", "flag")
    width = _whole(module, width_key(values))
    key = "pooling_mode" if named is not None else next((flag for flag in active if FLAGS[flag] in flags), "")
    both = flags if named is not None and active and flags != modes else None
    return Pooling(module.path, modes, prompt is None or prompt.value, width, both, key, width_key(values))


def _dense(module: Module) -> Step:
    values, settings = module.settings.values, module.settings
    if not _on_vectors(module):
        return _unsupported(module, "works on the tokens")
    if values.get("activation_function", "") is None:
        return _unsupported(module, "names no activation")
    said = settings.said("activation_function", "text")
    name = "torch.nn.modules.activation.Tanh" if said is None else str(said.value)
    if name.startswith("torch.nn."):
        activation = DENSE_ACTIVATIONS.get(name.rpartition(".")[2])
        if activation is None:
            return _unsupported(module, f"has the activation {name.rpartition('.')[2]}, which is not run here")
    elif name.startswith("torch."):
        return _unsupported(module, "has an activation that is no module of torch's")
    else:
        activation = "tanh"
    bias, residual = settings.said("bias", "flag"), settings.said("use_residual", "flag")
    return Dense(
        path=module.path,
        in_features=_whole(module, "in_features"),
        out_features=_whole(module, "out_features"),
        bias=bias is None or bias.value,
        activation=activation,
        said=name,
        residual=residual is not None and residual.value,
    )


def width_of(steps: Sequence[Step], hidden: int | None, cut: int | None) -> int | None:
    """Numbers in the vector, None where it cannot be known; `hidden` is the width of the model's states."""
    width: int | None = None
    for step in steps:
        if isinstance(step, Pooling):
            each = step.width or hidden
            width = None if each is None else each * len(step.modes)
        elif isinstance(step, Dense):
            width = step.out_features
        elif isinstance(step, Unsupported):
            return None
    return width if width is None or cut is None else min(width, cut)
