"""manifest.json: all that is needed to read a folder of activations and to repeat the run; docs/exports.md tells it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from bertprobe._version import __version__
from bertprobe.anatomy import Anatomy
from bertprobe.checkpoint import Checkpoint
from bertprobe.checkpoint.folder import Folder
from bertprobe.corpus import Corpus, Shard
from bertprobe.errors import CorruptFile, OutputError, escaped, is_text, printable
from bertprobe.export.tensors import digests
from bertprobe.extract.rows import Tensor
from bertprobe.extract.shard import Done
from bertprobe.filenames import CONFIGS, TOKENIZER_SETTINGS, VOCABULARIES
from bertprobe.run import Runner

NAME = "manifest.json"
FORMAT = "bertprobe activations"
LAYOUT = 1  # of the folder: it changes when what reads one would not read the other
Manifest = dict[str, Any]

# What may differ between two commands of the same run: where things lie, and what is known only later.
_PLACES = {("model", "ref"), ("tokenizer", "name")}
_DECIDING = ("model", "tokenizer", "corpus", "options", "compute", "made_by", "tensors")


def computed(runner: Runner) -> dict[str, Any]:
    """Where and how a run is computed, which decides its bytes as well."""
    backend = runner.backend
    return {
        "backend": runner.engine.name,
        "device": backend.device,
        "dtype": backend.dtype,
        "threads": backend.workers if backend.device == "cpu" else None,
        "batch_tokens": runner.compute.batch_tokens or backend.batch_tokens,
    }


def planned(run: Mapping[str, Any], shards: Sequence[Shard]) -> Manifest:
    """The manifest of a run that begins: what decides its bytes, and what it is cut into."""
    return {
        "format": FORMAT,
        "layout": LAYOUT,
        **run,
        "expected": None,
        "verified": None,
        "complete": False,
        "documents": 0,
        "tokens": 0,
        "truncated": 0,
        "skipped": 0,
        "bytes": 0,
        "shards": [{**asdict(shard), "done": None} for shard in shards],
    }


def deciding(
    checkpoint: Checkpoint,
    anatomy: Anatomy,
    corpus: Corpus,
    tokenizer: str,
    tensors: Sequence[Tensor],
    **options: Mapping[str, Any],
) -> dict[str, Any]:
    """All that decides a run's bytes: the model, the tokenizer and the corpus by their hashes, and the options."""
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
            "name": _text(tokenizer),
            "files": hashes(checkpoint.tokenizer, (*VOCABULARIES, *TOKENIZER_SETTINGS)),
        },
        "corpus": {
            "files": [{**asdict(file), "path": _text(file.path)} for file in corpus.files],
            "field": corpus.field,
            "id_field": corpus.id_field,
            "skip_bad": corpus.skip_bad,
        },
        **options,
        "made_by": {
            "bertprobe": __version__,
            **{name: version(name) for name in ("numpy", "torch", "tokenizers", "pyarrow")},
        },
        "tensors": [asdict(tensor) for tensor in tensors],
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


def parsed(text: str, where: str) -> Manifest:
    """A manifest that was written; raises `CorruptFile` for what is none, `OutputError` for one of another layout."""
    try:
        found = json.loads(text)
        ours = found["format"] == FORMAT
    except (ValueError, TypeError, KeyError, RecursionError):
        ours = False
    if not ours:
        raise CorruptFile(f"{printable(where)} is not the manifest of activations", "choose another folder")
    if found["layout"] != LAYOUT:
        raise OutputError(
            f"{printable(where)} has layout {printable(str(found['layout']))}, this version reads {LAYOUT}",
            "use the version of bertprobe that wrote it",
        )
    manifest: Manifest = found
    return manifest


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


def finished(manifest: Manifest, number: int, done: Done) -> None:
    """Notes what a shard came to, and the sums over all that are done."""
    manifest["shards"][number]["done"] = {
        "documents": done.documents,
        "tokens": done.tokens,
        "truncated": done.truncated,
        "skipped": done.skipped,
        "finite": done.finite,
        "files": {name: {"bytes": file.bytes, "sha256": file.sha256} for name, file in done.files.items()},
    }
    sum_up(manifest)


def sum_up(manifest: Manifest) -> None:
    """The sums over the shards that are done."""
    done = [shard["done"] for shard in manifest["shards"] if shard["done"] is not None]
    for key in ("documents", "tokens", "truncated", "skipped"):
        manifest[key] = sum(shard[key] for shard in done)
    manifest["bytes"] = sum(file["bytes"] for shard in done for file in shard["files"].values())
    manifest["complete"] = len(done) == len(manifest["shards"])
