"""Texts through a model: one driver, and collectors that say what they need and keep something of it."""

from bertprobe.run.ablation import Ablation, ablation_of
from bertprobe.run.beside import Changes, ChangeSums, Untouched, beside
from bertprobe.run.captured import FIRST, HIDDEN, POOLED, STATES, Captured, Collector, InOrder, Site, needs_of
from bertprobe.run.collect import (
    SENTENCE,
    VECTORS,
    AllVectors,
    Matrices,
    NeuronStatistics,
    NeuronSums,
    Strongest,
    TextVectors,
    TokenNorms,
    Vectors,
    cosines,
    require_vector,
    strongest,
    vectors_at,
)
from bertprobe.run.compute import Compute
from bertprobe.run.engines import BertEngine, Engine, TransformersEngine
from bertprobe.run.runner import Ran, Runner, ablated, open_runner, run_batch, run_encoded, run_texts

__all__ = [
    "FIRST",
    "HIDDEN",
    "POOLED",
    "SENTENCE",
    "STATES",
    "VECTORS",
    "Ablation",
    "AllVectors",
    "BertEngine",
    "Captured",
    "ChangeSums",
    "Changes",
    "Collector",
    "Compute",
    "Engine",
    "InOrder",
    "Matrices",
    "NeuronStatistics",
    "NeuronSums",
    "Ran",
    "Runner",
    "Site",
    "Strongest",
    "TextVectors",
    "TokenNorms",
    "TransformersEngine",
    "Untouched",
    "Vectors",
    "ablated",
    "ablation_of",
    "beside",
    "cosines",
    "needs_of",
    "open_runner",
    "require_vector",
    "run_batch",
    "run_encoded",
    "run_texts",
    "strongest",
    "vectors_at",
]
