"""manifest.json: all that is needed to read what a run wrote, and to repeat the run; docs/exports.md tells it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from typing import Any

from bertprobe._version import __version__
from bertprobe.backends.protocol import GPU_TOKENS
from bertprobe.checkpoint.folder import Folder
from bertprobe.corpus import Corpus, Shard
from bertprobe.errors import CorruptFile, OutputError, escaped, is_text, printable
from bertprobe.export.places import RunPlace
from bertprobe.export.tensors import digests
from bertprobe.filenames import CONFIGS, TOKENIZER_SETTINGS, VOCABULARIES
from bertprobe.run import Compute, Runner
from bertprobe.sharded.part import Part
from bertprobe.sharded.stamp import Stamp

NAME = "manifest.json"
Manifest = dict[str, Any]

SUMS = ("documents", "tokens", "truncated", "skipped")
"""What is added up over the shards that are done, and `bytes` where shards are files."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a folder holds, by its manifest: its `format`, how a `run` and its `content` are called, what reads it.

    `layout` changes when what reads one would not read the other.
    """

    format: str
    layout: int
    run: str
    content: str
    readers: str
    sums: tuple[str, ...] = SUMS

    def parsed(self, text: str, where: str) -> Manifest:
        """A manifest that was written; raises `CorruptFile` for what is none, `OutputError` for another layout."""
        try:
            found = json.loads(text)
            format, layout = found["format"], found["layout"]
        except (ValueError, TypeError, KeyError, RecursionError):
            format = layout = None
        if format != self.format:
            other = next((kind for kind in (ACTIVATIONS, NEURONS) if kind.format == format), None)
            advice = "choose another folder" if other is None else f"it is that of {other.content}: {other.readers}"
            raise CorruptFile(f"{printable(where)} is not the manifest of {self.content}", advice)
        if layout != self.layout:
            raise OutputError(
                f"{printable(where)} has layout {printable(str(layout))}, this version reads {self.layout}",
                "use the version of bertprobe that wrote it",
            )
        manifest: Manifest = found
        return manifest


ACTIVATIONS = Kind(
    "bertprobe activations",
    1,
    "run",
    "activations",
    "read it with bertprobe.open_activations, put parts together with: bertprobe merge",
    (*SUMS, "bytes"),
)
NEURONS = Kind(
    "bertprobe neurons",
    1,
    "scan",
    "a scan of neurons",
    "look at it with bertprobe neurons list, put scans together with: bertprobe neurons merge",
)


# What may differ between two commands of the same run: where things lie, and what is known only later.
_PLACES = {("model", "ref"), ("tokenizer", "name")}
_DECIDING = ("model", "tokenizer", "corpus", "options", "compute", "made_by", "tensors", "part")


def _computed(runner: Runner, compute: Compute) -> dict[str, Any]:
    """Where and how a run is computed, which decides its bytes as well; the runner that plans it may be elsewhere."""
    backend = runner.backend
    device = backend.device if compute.device == "auto" else compute.device
    suits = backend.batch_tokens if device == backend.device else GPU_TOKENS
    return {
        "backend": runner.engine.name,
        "device": device,
        "dtype": compute.dtype,
        "threads": backend.workers if device == "cpu" else None,
        "batch_tokens": compute.batch_tokens or suits,
    }


def planned(
    kind: Kind,
    run: Mapping[str, Any],
    shards: Sequence[Shard],
    documents: Sequence[int] | None,
    verify: Stamp | None,
) -> Manifest:
    """The manifest of a run that begins: what decides its bytes, and what it is cut into.

    `documents` is how many each shard has, None where nobody counted them.
    """
    counts = [{}] * len(shards) if documents is None else [{"documents": count} for count in documents]
    return {
        "format": kind.format,
        "layout": kind.layout,
        **run,
        "verify": None if verify is None else asdict(verify),
        "complete": not Part.of_manifest(run).chosen(shards),
        **dict.fromkeys(kind.sums, 0),
        "shards": [{**asdict(shard), **count, "done": None} for shard, count in zip(shards, counts, strict=True)],
    }


def shard_of(row: Mapping[str, Any]) -> Shard:
    """A shard from its line in a manifest."""
    return Shard(**{field.name: row[field.name] for field in fields(Shard)})


def deciding(
    corpus: Corpus,
    runner: Runner,
    compute: Compute,
    options: Mapping[str, Any],
    part: Part,
    tensors: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """All that decides a run's bytes: the model, the tokenizer and the corpus by their hashes, and the options."""
    checkpoint, anatomy = runner.checkpoint, runner.anatomy
    return {
        "model": {
            "ref": _text(checkpoint.ref),
            "revision": checkpoint.revision,
            "family": anatomy.family,
            "activation": anatomy.config_spec.activation,
            "files": digests(checkpoint, checkpoint.files),
            "settings": hashes(checkpoint.settings, CONFIGS),
        },
        "tokenizer": {
            "name": _text(runner.tokenizer.name),
            "files": hashes(checkpoint.tokenizer, (*VOCABULARIES, *TOKENIZER_SETTINGS)),
        },
        "corpus": {
            "files": [{**asdict(file), "path": _text(file.path)} for file in corpus.files],
            "field": corpus.field,
            "id_field": corpus.id_field,
            "skip_bad": corpus.skip_bad,
        },
        "options": options,
        "compute": _computed(runner, compute),
        "made_by": {
            "bertprobe": __version__,
            **{name: version(name) for name in ("numpy", "torch", "tokenizers", "pyarrow")},
        },
        "tensors": list(tensors),
        "part": part.told,
    }


def hashes(folder: Folder, names: Sequence[str]) -> dict[str, str]:
    """The sha256 of those of a folder's small files that are there."""
    found = {}
    for name in names:
        if folder.is_file(name):
            source = folder.source(name)
            found[name] = f"sha256 {hashlib.sha256(source.read(0, source.size)).hexdigest()}"
    return found


def _text(text: str) -> str:
    return text if is_text(text) else escaped(text)


def dumped(manifest: Manifest) -> bytes:
    """The manifest as it is written, a line a shard."""
    head = {key: value for key, value in manifest.items() if key != "shards"}
    rows = ",\n".join(f"  {json.dumps(shard)}" for shard in manifest["shards"])
    text = json.dumps(head, indent=1).removesuffix("\n}")
    return f'{text},\n "shards": [\n{rows}\n ]\n}}\n'.encode()


def write(folder: RunPlace, manifest: Manifest) -> None:
    """Writes the manifest of a folder anew."""
    with folder.file(NAME) as file:
        file.put(0, dumped(manifest))


def differences(old: Manifest, new: Mapping[str, Any]) -> list[str]:
    """In what two runs differ, a phrase each: `options.dtype is float16 there, float32 now`."""
    found: list[str] = []
    for key in _DECIDING:
        found += _apart((key,), _plain(old.get(key)), _plain(new[key]))
    return found


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _apart(path: tuple[str, ...], old: Any, new: Any) -> Iterator[str]:
    if path in _PLACES or path[-1] == "path" or old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from _apart((*path, key), old.get(key), new.get(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, pair in enumerate(zip(old, new, strict=True)):
            yield from _apart((*path, str(number)), *pair)
    else:
        yield f"{'.'.join(path)} is {_shown(old)} there, {_shown(new)} now"


def _shown(value: Any) -> str:
    if isinstance(value, list | dict):
        return f"{len(value)} entries"
    text = "nothing" if value is None else str(value)
    return printable(text if len(text) <= 40 else text[:39] + "…")


def finished(manifest: Manifest, number: int, done: Mapping[str, Any] | None) -> None:
    """Notes what a shard came to, None where it is to be done again, and the sums over all that are done."""
    manifest["shards"][number]["done"] = done
    every = [shard["done"] for shard in manifest["shards"] if shard["done"] is not None]
    for key in sums_in(manifest):
        manifest[key] = sum(shard[key] for shard in every)
    manifest["complete"] = len(every) == len(Part.of_manifest(manifest).chosen(manifest["shards"]))


def sums_in(manifest: Manifest) -> list[str]:
    """The keys of a manifest that are sums over its shards."""
    return [key for key in (*SUMS, "bytes") if key in manifest]
