"""Models of several encoders: the text encoder is read, held against its own settings, and nothing false is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
from conftest import Run

TEXT: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,  # deeper than the text encoder
    "num_attention_heads": 4,
    "image_size": 8,
    "patch_size": 4,
}
CROSS = {**TEXT, "encoder_hidden_size": 32}
AUDIO: dict[str, Any] = {
    "hidden_size": 96,
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [2, 2, 2, 2],
    "patch_embeds_hidden_size": 16,
    "num_mel_bins": 64,
    "spec_size": 64,
    "num_hidden_layers": 4,
}
MULTI = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
SWIN: dict[str, Any] = {
    "embed_dim": 12,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 1, 1],
    "image_size": 32,
    "out_features": ["stage2", "stage3", "stage4"],
}


def two_berts() -> Any:
    configs = t.BertConfig(**TEXT), t.BertConfig(**{**TEXT, "num_hidden_layers": 3})
    return t.EncoderDecoderModel(config=t.EncoderDecoderConfig.from_encoder_decoder_configs(*configs))


def two_encoders() -> Any:
    configs = t.ViTConfig(**VISION), t.BertConfig(**TEXT)
    return t.VisionTextDualEncoderModel(config=t.VisionTextDualEncoderConfig.from_vision_text_configs(*configs))


def grounding_dino() -> Any:
    config = t.GroundingDinoConfig(
        text_config={"model_type": "bert", **TEXT},
        backbone_config=t.SwinConfig(**SWIN),
        d_model=64,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=5,
    )
    return t.GroundingDinoForObjectDetection(config)


def of_text_and_images(model: Any, config: Any, text: dict[str, Any], **settings: Any) -> Callable[[], Any]:
    return lambda: model(config(text_config=text, vision_config=VISION, **settings))


WIDE = {"projection_dim": 16}
MODELS: dict[str, Callable[[], Any]] = {
    "CLIP": of_text_and_images(t.CLIPModel, t.CLIPConfig, TEXT, **WIDE),
    "ChineseCLIP": of_text_and_images(t.ChineseCLIPModel, t.ChineseCLIPConfig, TEXT, **WIDE),
    "AltCLIP": of_text_and_images(t.AltCLIPModel, t.AltCLIPConfig, {**TEXT, "project_dim": 16}, **WIDE),
    "BLIP captions": of_text_and_images(t.BlipForConditionalGeneration, t.BlipConfig, CROSS),
    "BLIP retrieval": of_text_and_images(t.BlipForImageTextRetrieval, t.BlipConfig, CROSS),
    "CLAP": lambda: t.ClapModel(t.ClapConfig(text_config=TEXT, audio_config=AUDIO, **WIDE)),
    "FLAVA": lambda: t.FlavaModel(
        t.FlavaConfig(text_config=TEXT, image_config=VISION, multimodal_config=MULTI, **WIDE)
    ),
    "ViT and BERT": two_encoders,
    "BERT to BERT": two_berts,
    "Grounding DINO": grounding_dino,
}


@pytest.mark.parametrize("name", MODELS)
def test_the_text_encoder_of_several_is_read_and_nothing_false_is_said(name: str, tmp_path: Path, run: Run) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        MODELS[name]().save_pretrained(tmp_path)
    ran = run(["inspect", tmp_path, "--strict", "--json"])
    data = json.loads(ran.out)
    assert [finding for finding in data["findings"] if finding["severity"] != "note"] == []
    assert ran.code == 0
    facts = data["facts"]
    assert (facts["layers"], facts["hidden_size"], facts["intermediate_size"]) == (2, 32, 40)
    assert not any(word in facts["prefix"] for word in ("vision", "image", "audio", "multimodal"))
