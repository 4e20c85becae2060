"""Models of several encoders: the text encoder is read, held against its own settings, and nothing false is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
import zoo
from conftest import Run
from tokenizers import Tokenizer

TEXT: dict[str, Any] = {
    "vocab_size": zoo.VOCABULARY,
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


@pytest.mark.parametrize(
    ("name", "within"),
    [("ViT and BERT", "text_model"), ("BERT to BERT", "encoder"), ("Grounding DINO", "model.text_backbone")],
)
def test_the_text_encoder_of_several_runs_by_its_own_settings(name: str, within: str, tmp_path: Path, run: Run) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MODELS[name]().eval()
    model.save_pretrained(tmp_path)
    # What stands one level up is another module's: to read it there would change every number.
    config = json.loads((tmp_path / "config.json").read_text())
    config.pop("position_embedding_type", None)
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_attention_heads": 2, "layer_norm_eps": 0.5}))
    text = zoo.save_tokenizer(tmp_path).split()[:4]
    ran = run(["pool", "-m", tmp_path, "--vector", "mean", "--json", " ".join(text)])
    assert ran.code == 0, ran.err
    ids = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(" ".join(text)).ids
    with torch.no_grad():
        hidden = model.get_submodule(within)(input_ids=torch.tensor([ids])).last_hidden_state
    mean = json.loads(ran.out)["texts"][0]["mean"]["values"]
    assert mean == pytest.approx(hidden[0].mean(0).tolist(), abs=1e-5)


def test_of_two_encoders_side_by_side_the_other_is_named(tmp_path: Path, run: Run) -> None:
    config = t.BertConfig(**TEXT)
    state = t.BertModel(config).state_dict()
    both = {f"{tower}.{name}": values for tower in ("query", "passage") for name, values in state.items()}
    torch.save(both, tmp_path / "pytorch_model.bin")
    config.save_pretrained(tmp_path)
    data = json.loads(run(["inspect", tmp_path, "--json"]).out)
    assert "it holds several encoders: query is read; others to choose as root: passage" in data["facts"]["notes"]
    (hidden,) = (finding for finding in data["findings"] if finding["rule"] == "prefix-not-stripped")
    assert hidden["message"].startswith("every name of the encoder that is read begins with 'query.'")
    chosen = json.loads(run(["inspect", tmp_path, "--root", "passage", "--json"]).out)
    assert not any("several encoders" in note for note in chosen["facts"]["notes"])
