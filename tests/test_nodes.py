"""The types of the JSON: commands write just these keys, of these types, and docs/exports.md tells them all."""

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from test_adapters import lora

from bertprobe.report import nodes

TEXTS = ("The ship left.", "A bill was paid.")
COMMANDS: dict[str, tuple[type, tuple[str, ...]]] = {
    "inspect": (nodes.Inspection, ("inspect", "MODEL", "--spectrum", "--neurons", "2")),
    "inspect --shapes": (nodes.Inspection, ("inspect", "MODEL", "--shapes")),
    "inspect of an adapter": (nodes.AdapterReport, ("inspect", "ADAPTER")),
    "inspect --shapes of an adapter": (nodes.AdapterReport, ("inspect", "ADAPTER", "--shapes")),
    "export": (nodes.Exportation, ("export", "MODEL", "-o", "OUT.safetensors")),
    "pool": (nodes.Pooling, ("pool", *TEXTS, "-m", "MODEL")),
    "pool one text": (nodes.Pooling, ("pool", TEXTS[0], "-m", "MODEL")),
    "activations": (nodes.Activation, ("activations", *TEXTS, "-m", "MODEL", "--tokens")),
    "extract": (nodes.Extraction, ("extract", "CORPUS", "-o", "OUT", "-m", "MODEL")),
    "extract --dry-run": (
        nodes.Extraction,
        ("extract", "CORPUS", "-o", "OUT", "--top", "3", "--part", "intermediate", "--dry-run"),
    ),
    "report": (nodes.Page, ("report", "MODEL", *TEXTS, "-o", "OUT.html")),
    "report without texts": (nodes.Page, ("report", "MODEL", "-o", "OUT.html")),
    "diff": (nodes.Comparison, ("diff", "MODEL", "MODEL", *TEXTS)),
    "diff --shapes": (nodes.Comparison, ("diff", "MODEL", "OTHER", "--shapes")),
    "graft": (nodes.Grafting, ("graft", "MODEL", "MODEL", "-o", "OUT", "--replace", "--force")),
    "explain": (nodes.Explanation, ("explain", "both", TEXTS[0], "-m", "MODEL")),
    "explain without a tokenizer": (nodes.Explanation, ("explain", "both", "-m", "OTHER")),
    "recipe": (nodes.RecipeReport, ("recipe", "MODEL")),
    "recipe without settings": (nodes.RecipeReport, ("recipe", "OTHER")),
    "pool sentence": (nodes.Pooling, ("pool", *TEXTS, "-m", "MODEL", "--vector", "sentence")),
    "neurons scan": (nodes.NeuronScanned, ("neurons", "scan", "CORPUS", "-o", "OUT", "-m", "MODEL")),
    "neurons merge": (nodes.NeuronScanned, ("neurons", "merge", "SCAN", "SCAN", "-o", "OUT")),
    "neurons list": (nodes.NeuronListing, ("neurons", "list", "SCAN", "--top", "3")),
    "neurons show": (nodes.NeuronCard, ("neurons", "show", "SCAN", "3.17", "--top", "2", "--beside", "SCAN")),
    "neurons screen": (nodes.NeuronScreening, ("neurons", "screen", "CORPUS", "-m", "MODEL", "--drawn", "2")),
    "lens": (
        nodes.LensReport,
        ("lens", "The ship left the [MASK].", "-m", "pocket", "--word", "sea", "--ablate", "3.5", "--neuron", "3.48"),
    ),
    "lens of neurons": (nodes.LensReport, ("lens", "--neuron", "3.48,0.1", "-m", "MODEL", "--top", "2")),
    "pool --ablate": (nodes.Pooling, ("pool", *TEXTS, "-m", "MODEL", "--ablate", "1.3,2:0-9")),
    "activations --ablate": (nodes.Activation, ("activations", *TEXTS, "-m", "MODEL", "--ablate", "1.3")),
    "neurons scan --ablate": (
        nodes.NeuronScanned,
        ("neurons", "scan", "CORPUS", "-o", "OUT", "-m", "MODEL", "--ablate", "1.3", "--means", "SCAN"),
    ),
    "neurons list --beside": (nodes.NeuronListing, ("neurons", "list", "SCAN", "--beside", "SCAN")),
    "neurons probe": (nodes.NeuronProbing, ("neurons", "probe", "LABELS", "--label-field", "label", "-m", "MODEL")),
    "neurons probe without a test": (
        nodes.NeuronProbing,
        ("neurons", "probe", "LABELS", "--label-field", "label", "--held-out", "0"),
    ),
    "verify": (nodes.Verification, ("verify", TEXTS[0], "-m", "MODEL")),
}


def faults(value: Any, of: Any, path: str = "") -> Iterator[str]:
    """Where a value is not of a type: keys that lack or are not told, and values of another type."""
    origin, inside = typing.get_origin(of), typing.get_args(of)
    if typing.is_typeddict(of):
        if not isinstance(value, dict):
            yield f"{path}: {value!r} is no {of.__name__}"
            return
        hints = typing.get_type_hints(of)
        yield from (f"{path}.{key} is not told" for key in value.keys() - hints.keys())
        yield from (f"{path}.{key} is missing" for key in of.__required_keys__ - value.keys())
        for key in value.keys() & hints.keys():
            yield from faults(value[key], hints[key], f"{path}.{key}")
    elif origin in (typing.Union, types.UnionType):
        if all(any(True for _ in faults(value, kind, path)) for kind in inside):
            yield from faults(value, max(inside, key=typing.is_typeddict), path)
    elif origin is list:
        if not isinstance(value, list):
            yield f"{path}: {value!r} is no list"
            return
        for i, item in enumerate(value):
            yield from faults(item, inside[0], f"{path}[{i}]")
    elif origin is dict:
        for key, item in value.items():
            yield from faults(item, inside[1], f"{path}.{key}")
    elif of is not Any and not isinstance(value, (int, float) if of is float else of):
        yield f"{path}: {value!r} is no {of}"


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_write_what_their_type_says(
    name: str, run: Run, tiny_bert: Path, small_scan: Path, tmp_path: Path
) -> None:
    of, argv = COMMANDS[name]
    places = {"MODEL": "pocket", "OTHER": tiny_bert, "OUT": tmp_path / "out", "SCAN": small_scan / "scan"}
    places["CORPUS"] = small_scan / "texts.txt"
    places["LABELS"] = tmp_path / "labels.jsonl"
    rows = ({"text": f"the ship {number}", "label": "odd" if number % 2 else "even"} for number in range(40))
    places["LABELS"].write_text("".join(json.dumps(row) + "\n" for row in rows))
    places["ADAPTER"] = lora(tmp_path / "adapter")
    words = list(argv)
    for word, place in places.items():
        words = [w.replace(word, str(place)) for w in words]
    ran = run([*words, "--json"])
    assert ran.code in (0, 3), ran.err
    assert not list(faults(json.loads(ran.out), of))


def test_a_fault_is_seen() -> None:
    assert list(faults({"name": "x", "bytes": None}, nodes.FileSize)) == [".bytes: None is no <class 'int'>"]
    assert list(faults({"name": "x", "more": 1}, nodes.FileSize)) == [".more is not told", ".bytes is missing"]


def keys(of: Any) -> Iterator[str]:
    """The keys of a type and of all that lie in it."""
    if typing.is_typeddict(of):
        for key, inner in typing.get_type_hints(of).items():
            yield key
            yield from keys(inner)
    for inner in typing.get_args(of):
        yield from keys(inner)


@pytest.mark.parametrize("of", dict.fromkeys(of for of, _ in COMMANDS.values()), ids=lambda of: of.__name__)
def test_the_exports_page_names_every_key(of: type) -> None:
    text = (Path(__file__).parents[1] / "docs" / "exports.md").read_text()
    assert not [key for key in set(keys(of)) if not re.search(rf"[`\"{{ ]{key}[`\",}}]", text)]
