"""The model that ships with the package: its name, and where it lies."""

from __future__ import annotations

from pathlib import Path

POCKET = "pocket"  # a folder of that name is ./pocket
FOLDER = Path(__file__).parent / POCKET
WEIGHTS = "model.safetensors"
