"""Tiny models of 70 text encoder families, and what hooks see in them: the truth that tensor names are judged by.

Nothing here reads names. A feed-forward block is found by the numbers that flow through it: what one dense layer puts
out, sent through an activation, is what a later dense layer of the same stack takes in.
"""

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.models.convbert.modeling_convbert import GroupedLinearLayer
from transformers.models.ibert.quant_modules import QuantLinear

SEED = 0
HIDDEN, INTERMEDIATE, VOCABULARY = 32, 40, 99
BATCH, TOKENS = 2, 32  # MRA takes multiples of 32 tokens only

# What every family gets, as far as its config has these keys. An intermediate size that is no multiple of the hidden
# size cannot be taken for a fused query, key and value.
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
    "mask_token_id": 3,
}

XLM: dict[str, Any] = {"emb_dim": HIDDEN, "n_layers": 2, "n_heads": 4}

# family: (class, what its config needs beyond COMMON)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertModel", {}),
    "roberta": ("RobertaModel", {}),
    "xlm-roberta": ("XLMRobertaModel", {}),
    "camembert": ("CamembertModel", {}),
    "electra": ("ElectraModel", {"embedding_size": 16}),
    "mpnet": ("MPNetModel", {}),
    "megatron-bert": ("MegatronBertModel", {}),
    "deberta": ("DebertaModel", {}),
    "deberta-v2": ("DebertaV2Model", {}),
    "layoutlm": ("LayoutLMModel", {}),
    "ernie": ("ErnieModel", {}),
    "convbert": ("ConvBertModel", {"embedding_size": 16}),
    "mobilebert": ("MobileBertModel", {"embedding_size": 16, "intra_bottleneck_size": 16}),
    "rembert": ("RemBertModel", {"input_embedding_size": 16, "output_embedding_size": 16}),
    # Block-sparse attention gives way to this one for short texts anyway, with a warning.
    "big_bird": ("BigBirdModel", {"attention_type": "original_full"}),
    "roformer": ("RoFormerModel", {"embedding_size": 16}),
    "esm": ("EsmModel", {}),
    "data2vec-text": ("Data2VecTextModel", {}),
    "luke": ("LukeModel", {"entity_vocab_size": 10, "entity_emb_size": 8}),
    "canine": ("CanineModel", {"num_hash_buckets": 64}),
    "ibert": ("IBertModel", {}),
    "nystromformer": ("NystromformerModel", {}),
    "splinter": ("SplinterModel", {"question_token_id": 3}),
    "squeezebert": ("SqueezeBertModel", {"embedding_size": HIDDEN}),
    "tapas": ("TapasModel", {}),
    # Its sinusoids want an even hidden size / 32.
    "bros": ("BrosModel", {"hidden_size": 64, "intermediate_size": 80}),
    "xmod": ("XmodModel", {"default_language": "en_XX"}),
    "xlm-roberta-xl": ("XLMRobertaXLModel", {}),
    "roberta-prelayernorm": ("RobertaPreLayerNormModel", {}),
    "dpr": ("DPRQuestionEncoder", {}),
    "bert-generation": ("BertGenerationEncoder", {}),
    "roc_bert": ("RoCBertModel", {"pronunciation_vocab_size": 10, "shape_vocab_size": 10}),
    # It divides the hidden size by six for its boxes and by four for its second stream.
    "lilt": ("LiltModel", {"hidden_size": 48, "intermediate_size": 60}),
    "markuplm": ("MarkupLMModel", {"max_depth": 4}),
    "mra": ("MraModel", {}),
    "yoso": ("YosoModel", {}),
    "fnet": ("FNetModel", {}),
    "longformer": ("LongformerModel", {"attention_window": 4}),
    "jina_embeddings_v3": ("JinaEmbeddingsV3Model", {}),
    "nomic_bert": ("NomicBertModel", {}),
    "gte": ("GteModel", {}),
    "layoutlmv3": ("LayoutLMv3Model", {"coordinate_size": 4, "shape_size": 8, "input_size": 32}),
    "distilbert": ("DistilBertModel", {"hidden_dim": INTERMEDIATE}),
    "albert": ("AlbertModel", {"embedding_size": 16}),
    "modernbert": ("ModernBertModel", {}),
    "funnel": (
        "FunnelModel",
        {"block_sizes": [1, 1], "num_decoder_layers": 1, "n_head": 4, "d_head": 8, "d_inner": INTERMEDIATE},
    ),
    "xlm": ("XLMModel", XLM),
    "flaubert": ("FlaubertModel", XLM),
    "eurobert": ("EuroBertModel", {}),
    # It rotates a quarter of each head, in fours.
    "neomme": ("NeoMMEModel", {"embedding_rank": 16, "head_dim": 16}),
    "esmc": ("EsmcModel", {}),
    "ultrabert": ("UltrabertModel", {}),
    "xlnet": ("XLNetModel", {"d_head": 8, "d_inner": INTERMEDIATE}),
    "reformer": (
        "ReformerModel",
        {
            "attn_layers": ["local", "lsh"],
            "attention_head_size": 8,
            "feed_forward_size": INTERMEDIATE,
            "axial_pos_shape": [8, 8],
            "axial_pos_embds_dim": [16, 16],
            "local_attn_chunk_length": 8,
            "lsh_attn_chunk_length": 8,
            "num_buckets": 4,
        },
    ),
    "cpmant": ("CpmAntModel", {"dim_head": 8, "dim_ff": INTERMEDIATE}),
    "align_text_model": ("AlignTextModel", {}),
    "altclip_text_model": ("altclip.AltRobertaModel", {}),
    "blip_text_model": ("BlipTextModel", {"encoder_hidden_size": 16}),
    "chinese_clip_text_model": ("ChineseCLIPTextModel", {}),
    "clap_text_model": ("ClapTextModel", {}),
    "bridgetower_text_model": ("bridgetower.BridgeTowerTextModel", {}),
    "flava_text_model": ("FlavaTextModel", {}),
    "visual_bert": ("VisualBertModel", {"visual_embedding_dim": 16}),
    "lxmert": ("LxmertModel", {"l_layers": 2, "x_layers": 1, "r_layers": 1, "visual_feat_dim": 16}),
    # The text half of a Q-Former layer only exists where its config says that text goes in.
    "blip_2_qformer": ("Blip2QFormerModel", {"encoder_hidden_size": 16, "use_qformer_text_input": True}),
    "instructblip_qformer": ("InstructBlipQFormerModel", {"encoder_hidden_size": 16}),
    "t5": ("T5EncoderModel", {"d_ff": INTERMEDIATE, "d_kv": 8}),
    "bart": (
        "BartModel",
        {
            "decoder_layers": 1,
            "encoder_ffn_dim": INTERMEDIATE,
            "decoder_ffn_dim": INTERMEDIATE,
            "decoder_attention_heads": 4,
            "decoder_start_token_id": 2,
            "forced_eos_token_id": 2,
        },
    ),
    "clip_text_model": ("CLIPTextModel", {}),
    "siglip_text_model": ("SiglipTextModel", {"projection_size": HIDDEN}),
}

FAMILIES: tuple[str, ...] = tuple(MODELS)

LINEAR_LIKE = (nn.Linear, nn.Conv1d, QuantLinear, GroupedLinearLayer)

# One name for each function that ACT2FN has several of, so that equal numbers have one answer.
ACTIVATIONS = ("gelu", "gelu_new", "quick_gelu", "silu", "relu", "relu2", "tanh", "sigmoid", "mish")


@dataclass(frozen=True)
class FeedForward:
    """One feed-forward block as hooks saw it; weights are (I, H), or as stored where the layer is a convolution."""

    up: str
    gate: str | None
    down: str
    activation: str
    up_weight: np.ndarray
    up_bias: np.ndarray | None
    gate_weight: np.ndarray | None
    gate_bias: np.ndarray | None


@dataclass(frozen=True)
class Pooler:
    """The dense layer whose activation is the model's pooled output; weight (H, H)."""

    dense: str
    activation: str
    weight: np.ndarray
    bias: np.ndarray | None


@dataclass(frozen=True)
class Observed:
    """All that one forward pass showed, feed-forward blocks in the order in which the model registers them."""

    feed_forwards: tuple[FeedForward, ...]
    pooler: Pooler | None


class Call(NamedTuple):
    """One call of one dense layer, with features last whatever the layer's own order is."""

    path: str
    taken: Tensor
    given: Tensor


class Match(NamedTuple):
    """Which layers explain a down-projection's input; for a fused matrix, which rows are which."""

    up: str
    gate: str | None
    down: str
    activation: str
    up_rows: slice = slice(None)
    gate_rows: slice = slice(None)


def build(family: str, **overrides: Any) -> PreTrainedModel:
    """A tiny seeded model of the family in eval mode, weights wide enough to tell one GELU from another."""
    model_class = _model_class(family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = model_class(_config(family, model_class.config_class, overrides))
        _spread(model)
    model.train(False)
    return model


def inputs(family: str, model: PreTrainedModel) -> dict[str, Tensor | int]:
    """What the family's forward needs, which for some is more than token ids."""
    draw = torch.Generator().manual_seed(SEED)
    ids = torch.randint(10, VOCABULARY, (BATCH, TOKENS), generator=draw)  # the first few mean something special
    config = model.config
    if family == "blip_2_qformer":
        # It takes queries and embedded text, if any, in one row, and is told where the queries end.
        row = torch.randn(BATCH, 4 + TOKENS * config.use_qformer_text_input, config.hidden_size, generator=draw)
        return {"query_embeds": row, "query_length": 4, "encoder_hidden_states": _image(config, draw)}
    if family == "instructblip_qformer":
        queries = torch.randn(BATCH, 4, config.hidden_size, generator=draw)
        return {"input_ids": ids, "query_embeds": queries, "encoder_hidden_states": _image(config, draw)}
    if family == "lxmert":
        objects = torch.randn(BATCH, 4, config.visual_feat_dim, generator=draw)
        return {"input_ids": ids, "visual_feats": objects, "visual_pos": torch.rand(BATCH, 4, 4, generator=draw)}
    if family == "bros":
        return {"input_ids": ids, "bbox": torch.rand(BATCH, TOKENS, 4, generator=draw)}
    return {"input_ids": ids}


def observe(family: str, model: PreTrainedModel) -> Observed:
    """Run the model once and find its feed-forward blocks and its pooler by what flowed through its dense layers."""
    calls, output = _record(model, inputs(family, model))
    found = {match.up: match for layer in _layers(calls).values() for match in _matches(layer)}
    modules = dict(model.named_modules())
    blocks = tuple(_feed_forward(found[path], modules) for path in modules if path in found)
    return Observed(blocks, _pooler(calls, output, modules))


def save(family: str, folder: Path, **overrides: Any) -> PreTrainedModel:
    """Build the family's model and save it as transformers does: model.safetensors and config.json."""
    model = build(family, **overrides)
    model.save_pretrained(folder)
    return model


def save_tokenizer(folder: Path) -> str:
    """A tokenizer of whole words beside a family's model; gives a text of words that it knows."""
    words = [f"word{i}" for i in range(VOCABULARY - 1)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*words, "?"])}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return " ".join(words[10:43])


def _model_class(family: str) -> type[PreTrainedModel]:
    package, _, name = MODELS[family][0].rpartition(".")
    # Two text towers are not exported by transformers itself.
    home = importlib.import_module(f"transformers.models.{package}.modeling_{package}") if package else transformers
    model_class: type[PreTrainedModel] = getattr(home, name)
    return model_class


def _config(family: str, config_class: Any, overrides: dict[str, Any]) -> PretrainedConfig:
    """The family's config at tiny size; keys it does not know are left out, for they would land in config.json."""
    known = {field.name for field in fields(config_class)}
    common = {key: value for key, value in COMMON.items() if config_class.attribute_map.get(key, key) in known}
    config: PretrainedConfig = config_class(**{**common, **MODELS[family][1], **overrides})
    return config


def _spread(model: nn.Module) -> None:
    """Redraw dense weights to unit gain and biases to plain sight, where initialisation makes them small or zero."""
    for module in model.modules():
        if isinstance(module, LINEAR_LIKE):
            nn.init.normal_(module.weight, std=module.weight.shape[1] ** -0.5)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.3)


def _image(config: PretrainedConfig, draw: torch.Generator) -> Tensor:
    return torch.randn(BATCH, 6, config.encoder_hidden_size, generator=draw)


def _record(model: PreTrainedModel, arguments: dict[str, Tensor | int]) -> tuple[list[Call], Any]:
    """Every call of a dense layer during one forward pass, in order, and what the model returned."""
    calls: list[Call] = []

    def note(path: str, module: nn.Module, taken: tuple[Any, ...], given: Any) -> None:
        # I-BERT's layers return (values, scale); a convolution has its features in the middle.
        values = given[0] if isinstance(given, tuple) else given
        pair = (taken[0], values)
        if isinstance(module, nn.Conv1d):
            pair = tuple(tensor.transpose(1, 2) for tensor in pair)
        calls.append(Call(path, *(tensor.clone() for tensor in pair)))

    handles = [
        module.register_forward_hook(lambda module, taken, given, path=path: note(path, module, taken, given))
        for path, module in model.named_modules()
        if isinstance(module, LINEAR_LIKE)
    ]
    try:
        # Reformer draws its hashes during the pass.
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(SEED)
            return calls, model(**arguments)
    finally:
        for handle in handles:
            handle.remove()


def _layers(calls: list[Call]) -> dict[str, list[Call]]:
    """Calls by the layer they belong to: the path up to its first list index. What is in no list is in no layer."""
    layers: dict[str, list[Call]] = {}
    for call in calls:
        if layer := re.match(r".*?\.?\d+\.", call.path):
            layers.setdefault(layer.group(), []).append(call)
    return layers


def _matches(layer: list[Call]) -> Iterator[Match]:
    """Feed-forward blocks among one layer's calls: a layer that widens, an activation, one that narrows back."""
    for position, down in enumerate(layer):
        wide, narrow = down.taken.shape[-1], down.given.shape[-1]
        if wide <= narrow:
            continue
        earlier = [call for call in layer[:position] if call.taken.shape[-1] == narrow]
        match = _plain(earlier, down) or _gated(earlier, down) or _fused(earlier, down)
        if match:
            yield match


def _plain(earlier: list[Call], down: Call) -> Match | None:
    for call in earlier:
        if activation := _activation(call.given, None, down.taken):
            return Match(call.path, None, down.path, activation)
    return None


def _gated(earlier: list[Call], down: Call) -> Match | None:
    for gate, up in permutations(earlier, 2):
        if activation := _activation(gate.given, up.given, down.taken):
            return Match(up.path, gate.path, down.path, activation)
    return None


def _fused(earlier: list[Call], down: Call) -> Match | None:
    wide = down.taken.shape[-1]
    rows = (slice(0, wide), slice(wide, 2 * wide))
    for call in earlier:
        if call.given.shape[-1] != 2 * wide:
            continue
        for gate, up in permutations(rows):
            if activation := _activation(call.given[..., gate], call.given[..., up], down.taken):
                return Match(call.path, call.path, down.path, activation, up, gate)
    return None


def _activation(before: Tensor, factor: Tensor | None, after: Tensor) -> str | None:
    """The activation for which act(before) [* factor] equals after, if there is one."""
    if before.shape != after.shape or (factor is not None and factor.shape != after.shape):
        return None
    for name in ACTIVATIONS:
        value = ACT2FN[name](before)
        value = value if factor is None else value * factor
        # The two GELUs differ by up to 5e-4, rounding by less than 1e-5.
        if torch.allclose(value, after, rtol=1e-5, atol=1e-5):
            return name
    return None


def _feed_forward(match: Match, modules: dict[str, nn.Module]) -> FeedForward:
    up_weight, up_bias = _parameters(modules[match.up], match.up_rows)
    gate_weight, gate_bias = _parameters(modules[match.gate], match.gate_rows) if match.gate else (None, None)
    return FeedForward(match.up, match.gate, match.down, match.activation, up_weight, up_bias, gate_weight, gate_bias)


def _parameters(module: Any, rows: slice) -> tuple[np.ndarray, np.ndarray | None]:
    weight, bias = module.weight.detach()[rows], module.bias
    return weight.numpy().copy(), None if bias is None else bias.detach()[rows].numpy().copy()


def _pooler(calls: list[Call], output: Any, modules: dict[str, nn.Module]) -> Pooler | None:
    """The dense layer that, through an activation, gives the pooled output; LXMERT calls it by another name."""
    pooled = getattr(output, "pooler_output", None)
    pooled = getattr(output, "pooled_output", None) if pooled is None else pooled
    if pooled is None:
        return None
    for call in calls:
        if activation := _activation(call.given, None, pooled):
            return Pooler(call.path, activation, *_parameters(modules[call.path], slice(None)))
    return None
