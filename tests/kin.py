"""Kin of the built-in model: what a real fine-tuning makes of it, and what casts, adapters and other classes do."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import BertForMaskedLM, BertForSequenceClassification, BertModel

import bertprobe

POCKET = Path(bertprobe.__file__).parent / "pocket"
FROZEN = 2  # layers that fine-tuning leaves alone, and the embeddings
STEPS = 60
RANK = 4


def save(model: Any, folder: Path, *, tokenizer: bool = True) -> Path:
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "vocab.txt") if tokenizer else ():
        shutil.copy(POCKET / name, folder / name)
    return folder


def load(cls: Any = BertModel, **settings: Any) -> Any:
    return cls.from_pretrained(POCKET, dtype=torch.float32, **settings).eval()


def tuned(folder: Path) -> Path:
    """A classifier trained for some seconds on whether a text begins with an even id, its lower layers frozen."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = load(BertForSequenceClassification, num_labels=2)
        lower = ("bert.embeddings.", *(f"bert.encoder.layer.{i}." for i in range(FROZEN)))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith(lower))
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=3e-4)
        for _ in range(STEPS):
            ids = torch.randint(100, 2000, (16, 12))
            model(input_ids=ids, labels=ids[:, 1] % 2).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return save(model, folder)


def merged(folder: Path) -> Path:
    """What merging a LoRA of rank 4 leaves: a product of two thin matrices added to every query and value."""
    model = load()
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in model.encoder.layer:
            for linear in (layer.attention.self.query, layer.attention.self.value):
                up, down = torch.randn(128, RANK, generator=noise), torch.randn(RANK, 128, generator=noise)
                linear.weight += 0.01 * up @ down
    return save(model, folder)


def without_pooler(folder: Path) -> Path:
    """What saving from a class without a pooler leaves."""
    return save(load(BertForMaskedLM), folder)


def reinitialised(folder: Path) -> Path:
    """What loading that into a class with a pooler, and saving again, leaves."""
    model = load()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        model.pooler.dense.weight.normal_(0, 0.02)
        model.pooler.dense.bias.zero_()
    return save(model, folder)
