"""bertprobe: what is in a BERT checkpoint's intermediate and pooler modules, read from the files themselves.

    model = bertprobe.open("path/to/model")
    model.findings
    model.statistics["pooler.dense.weight"]["mp_edge_ratio"]
    model.pool(["some text", "another"])  # (2, H)

That is made of steps that can be taken one by one:

    checkpoint = bertprobe.open_checkpoint("path/to/model")
    anatomy = bertprobe.find_parts(checkpoint)
    parts = bertprobe.select(anatomy, ["pooler"])
    numbers = bertprobe.measure_parts(parts)
    findings = bertprobe.judge(bertprobe.Evidence(checkpoint, anatomy, numbers))

and what comes of a text:

    vectors = bertprobe.Vectors("pooled")
    runner = bertprobe.open_runner(checkpoint, anatomy, bertprobe.Compute())
    ran = bertprobe.run_texts(runner, ["some text", "another"], vectors)
    vectors.array  # (2, H)

What `bertprobe extract` wrote of a corpus is read by

    found = bertprobe.open_activations("folder")
    found["intermediate.3"][100:200]  # (100, I), from the disk

and what a corpus does to every neuron by

    scan = model.scan(bertprobe.open_corpus("texts/*.jsonl"), "folder")  # or open_scan("folder"), once it is done
    scan.layer(3).sums.means  # (I,)

Each name is imported when it is first used, so that `import bertprobe` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bertprobe._version import __version__ as __version__

_HOMES = {
    "bertprobe.model": ("Activations", "Dense", "Findings", "Model", "Parts", "open"),
    "bertprobe.run": (
        "Ablation",
        "AllVectors",
        "Captured",
        "Collector",
        "Compute",
        "Matrices",
        "NeuronStatistics",
        "NeuronSums",
        "Ran",
        "Runner",
        "Strongest",
        "TextVectors",
        "TokenNorms",
        "Vectors",
        "needs_of",
        "open_runner",
        "run_texts",
    ),
    "bertprobe.anatomy": ("Anatomy", "Part", "find_parts", "select"),
    "bertprobe.checkpoint": ("Checkpoint", "TensorHeader", "open_checkpoint", "read_tensors"),
    "bertprobe.corpus": ("Corpus", "Document", "open_corpus"),
    "bertprobe.errors": ("BertprobeError",),
    "bertprobe.export": ("Output",),
    "bertprobe.extract.reading": ("ActivationDocument", "ActivationFolder", "Rows", "open_activations"),
    "bertprobe.lens.neuron": ("Nearest", "NeuronLens", "WordLists"),
    "bertprobe.lens.ranking": ("VocabularyEntry",),
    "bertprobe.lens.text": ("Guess", "LayerLens", "PositionLens", "RankOfWord", "TextLens"),
    "bertprobe.modules": ("Intermediate", "Pooler"),
    "bertprobe.neurons.folder": ("ScanFolder", "open_scan"),
    "bertprobe.neurons.probe.job": ("ProbeOptions",),
    "bertprobe.neurons.probe.results": ("LayerProbe", "Probes", "Scores", "Selection"),
    "bertprobe.neurons.scan": ("Kept", "NeuronScan", "SiteScan"),
    "bertprobe.neurons.sums": ("Sums",),
    "bertprobe.report": ("Report",),
    "bertprobe.measurement": ("measure_parts",),
    "bertprobe.report.inspection": ("inspection",),
    "bertprobe.stats.numbers": ("Numbers", "measure", "summarize"),
    "bertprobe.stats.summary": ("Summary",),
    "bertprobe.verdicts": ("Evidence", "Finding", "judge", "verdict"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Ablation",
    "ActivationDocument",
    "ActivationFolder",
    "Activations",
    "AllVectors",
    "Anatomy",
    "BertprobeError",
    "Captured",
    "Checkpoint",
    "Collector",
    "Compute",
    "Corpus",
    "Dense",
    "Document",
    "Evidence",
    "Finding",
    "Findings",
    "Guess",
    "Intermediate",
    "Kept",
    "LayerLens",
    "LayerProbe",
    "Matrices",
    "Model",
    "Nearest",
    "NeuronLens",
    "NeuronScan",
    "NeuronStatistics",
    "NeuronSums",
    "Numbers",
    "Output",
    "Part",
    "Parts",
    "Pooler",
    "PositionLens",
    "ProbeOptions",
    "Probes",
    "Ran",
    "RankOfWord",
    "Report",
    "Rows",
    "Runner",
    "ScanFolder",
    "Scores",
    "Selection",
    "SiteScan",
    "Strongest",
    "Summary",
    "Sums",
    "TensorHeader",
    "TextLens",
    "TextVectors",
    "TokenNorms",
    "Vectors",
    "VocabularyEntry",
    "WordLists",
    "find_parts",
    "inspection",
    "judge",
    "measure",
    "measure_parts",
    "needs_of",
    "open",
    "open_activations",
    "open_checkpoint",
    "open_corpus",
    "open_runner",
    "open_scan",
    "read_tensors",
    "run_texts",
    "select",
    "summarize",
    "verdict",
]

if TYPE_CHECKING:
    from bertprobe.anatomy import Anatomy, Part, find_parts, select
    from bertprobe.checkpoint import Checkpoint, TensorHeader, open_checkpoint, read_tensors
    from bertprobe.corpus import Corpus, Document, open_corpus
    from bertprobe.errors import BertprobeError
    from bertprobe.export import Output
    from bertprobe.extract.reading import ActivationDocument, ActivationFolder, Rows, open_activations
    from bertprobe.lens.neuron import Nearest, NeuronLens, WordLists
    from bertprobe.lens.ranking import VocabularyEntry
    from bertprobe.lens.text import Guess, LayerLens, PositionLens, RankOfWord, TextLens
    from bertprobe.measurement import measure_parts
    from bertprobe.model import Activations, Dense, Findings, Model, Parts, open
    from bertprobe.modules import Intermediate, Pooler
    from bertprobe.neurons.folder import ScanFolder, open_scan
    from bertprobe.neurons.probe.job import ProbeOptions
    from bertprobe.neurons.probe.results import LayerProbe, Probes, Scores, Selection
    from bertprobe.neurons.scan import Kept, NeuronScan, SiteScan
    from bertprobe.neurons.sums import Sums
    from bertprobe.report import Report
    from bertprobe.report.inspection import inspection
    from bertprobe.run import (
        Ablation,
        AllVectors,
        Captured,
        Collector,
        Compute,
        Matrices,
        NeuronStatistics,
        NeuronSums,
        Ran,
        Runner,
        Strongest,
        TextVectors,
        TokenNorms,
        Vectors,
        needs_of,
        open_runner,
        run_texts,
    )
    from bertprobe.stats.numbers import Numbers, measure, summarize
    from bertprobe.stats.summary import Summary
    from bertprobe.verdicts import Evidence, Finding, judge, verdict


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'bertprobe' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
