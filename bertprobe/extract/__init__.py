"""A corpus through a model, and what is kept of it shard by shard in a folder: written, gone on with, read."""

from __future__ import annotations

from bertprobe.extract.estimate import Estimate
from bertprobe.extract.job import Job, Options, Outcome, prepare
from bertprobe.extract.merge import merge_parts
from bertprobe.extract.reading import ActivationDocument, ActivationFolder, Rows, open_activations
from bertprobe.extract.wish import DTYPES, PARTS, TOKENS, VECTORS, Wish

__all__ = [
    "DTYPES",
    "PARTS",
    "TOKENS",
    "VECTORS",
    "ActivationDocument",
    "ActivationFolder",
    "Estimate",
    "Job",
    "Options",
    "Outcome",
    "Rows",
    "Wish",
    "merge_parts",
    "open_activations",
    "prepare",
]
