"""What transformers calls the families, and where one of them goes its own way."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from bertprobe.anatomy import Anatomy
from bertprobe.anatomy.families import FAMILIES
from bertprobe.errors import UnsupportedFile, quoted

# The model_types that are run through transformers; a config that says another one never gets there.
KNOWN = frozenset(model_type for row in FAMILIES for model_type in row.model_types)

_BERT = (r"inter(?:mediate)?(_query)?\.dense$", r"output\1.dense")

# What an up-projection's module path ends in → what that of its down-projection ends in, by row of FAMILIES.
DOWN: dict[str, tuple[str, str]] = {
    "mobilebert": _BERT,
    "lilt": _BERT,
    "canine": _BERT,
    "lxmert": _BERT,
    "q-former": _BERT,
    "squeezebert": (r"intermediate\.conv1d$", "output.conv1d"),
    "bert, encoder.layers": _BERT,
    "bert": _BERT,
    "distilbert": (r"lin1$", "lin2"),
    "albert": (r"ffn$", "ffn_output"),
    "modernbert": (r"Wi$", "Wo"),
    "gte": (r"up_gate_proj$", "down_proj"),
    "nomic-bert": (r"fc11$", "fc2"),
    "jina-embeddings-v3": (r"fc1$", "fc2"),
    "up_proj and gate_proj": (r"up_proj$", "down_proj"),
    "xlnet": (r"layer_1$", "layer_2"),
    "xlm": (r"lin1$", "lin2"),
    "funnel": (r"linear_1$", "linear_2"),
    "reformer": (r"dense\.dense$", "output.dense"),
    "cpmant": (r"w_in\.w_1$", "w_out"),
    "t5": (r"wi(?:_1)?$", "wo"),
    "clip text": (r"fc1$", "fc2"),
    "bart": (r"fc1$", "fc2"),
}

# Encoders that transformers' table of base models does not lead to; of T5 it is the encoder that reads the text.
CLASSES = {
    "align_text_model": "align.modeling_align.AlignTextModel",
    "altclip_text_model": "altclip.modeling_altclip.AltRobertaModel",
    "blip_text_model": "blip.modeling_blip_text.BlipTextModel",
    "bridgetower_text_model": "bridgetower.modeling_bridgetower.BridgeTowerTextModel",
    "chinese_clip_text_model": "chinese_clip.modeling_chinese_clip.ChineseCLIPTextModel",
    "clap_text_model": "clap.modeling_clap.ClapTextModel",
    "flava_text_model": "flava.modeling_flava.FlavaTextModel",
    "siglip_text_model": "siglip.modeling_siglip.SiglipTextModel",
    "instructblip_qformer": "instructblip.modeling_instructblip.InstructBlipQFormerModel",
    "t5": "t5.modeling_t5.T5EncoderModel",
    "mt5": "mt5.modeling_mt5.MT5EncoderModel",
    "umt5": "umt5.modeling_umt5.UMT5EncoderModel",
}
DPR = {
    "question_encoder.bert_model.": "DPRQuestionEncoder",
    "ctx_encoder.bert_model.": "DPRContextEncoder",
    "span_predictor.encoder.bert_model.": "DPRReader",
}
# Rows that one family of transformers has to itself, where files of the code's first authors give another model_type.
TYPES = {"gte": "gte", "jina-embeddings-v3": "jina_embeddings_v3"}

_MORE_THAN_TEXT = {
    "lxmert": "it reads regions of an image beside the text",
    "blip_2_qformer": "its queries look at an image",
    "instructblip_qformer": "its queries look at an image",
    "bros": "it wants the place of every token on a page",
}
# CANINE and Funnel shorten the row on the way; BART's decoder reads the text one place late.
POSITIONS = ("canine", "funnel", "bart", "mbart")
PROMPT_FIRST = ("cpmant",)  # others that run more rows than there are tokens have put padding behind them
POOLED_BY_CLASSIFIER = ("deberta", "deberta-v2")


def needs_more_than_text(family: str) -> str | None:
    """Why a family cannot be run on text alone, None where it can."""
    return _MORE_THAN_TEXT.get(family)


def class_of(anatomy: Anatomy, config: Any) -> Any:
    """The concrete class of the text encoder."""
    from transformers import MODEL_MAPPING

    module, _, name = CLASSES.get(anatomy.family, "").rpartition(".")
    if name:
        return getattr(import_module(f"transformers.models.{module}"), name)
    if anatomy.family == "dpr":
        return getattr(import_module("transformers"), DPR[dpr_prefix(anatomy)])
    if type(config) not in MODEL_MAPPING:
        raise UnsupportedFile(f"transformers has no base model for {quoted(anatomy.family)}", "take another checkpoint")
    found = MODEL_MAPPING[type(config)]
    if isinstance(found, (tuple, list)):  # Funnel: with a decoder, and without
        return found[0] if any(part.stack == "decoder" for part in anatomy.parts) else found[-1]
    return found


def dpr_prefix(anatomy: Anatomy) -> str:
    prefix = anatomy.prefix[len(anatomy.hiding) :]
    return prefix if prefix in DPR else next(iter(DPR))
