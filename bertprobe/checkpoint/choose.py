"""Which files of a folder are the checkpoint's, and which settings lie beside them.

Nothing is guessed from a file's content here; which files belong together is decided by their names alone, by the same
rules on this disk and on the Hub, and what was decided is said in `notes`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bertprobe.checkpoint import tensorflow
from bertprobe.checkpoint.folder import Folder, read_json
from bertprobe.checkpoint.source import Source
from bertprobe.errors import CorruptFile, NotFound, UnsupportedFile, printable, quoted, shortened

LOOKED_FOR = (
    "model.safetensors, pytorch_model.bin, their .index.json, one other .safetensors, .bin, .pt or .pth file, "
    "or a TensorFlow .index"
)

# Files that training leaves beside the weights, and adapters, which are no model of their own.
_NEVER_WEIGHTS = re.compile(
    r"(optimizer|optim_states|scheduler|scaler|training_args|rng_state|random_states|sampler|adapter_model"
    r"|_embeddings?$|trainer_state|vocab)",
    re.IGNORECASE,
)
_SHARD = re.compile(
    r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<total>[0-9]{5})(?P<suffix>\.safetensors|\.bin|\.pt|\.pth)"
)
OTHER_FORMATS = {
    ".h5": "a Keras file",
    ".msgpack": "a Flax file",
    ".onnx": "an ONNX file",
    ".gguf": "a GGUF file",
    ".ckpt": "a Lightning checkpoint, or one of TensorFlow before 1.0",
    ".meta": "the graph of a TensorFlow checkpoint alone",
    ".ot": "a rust-bert file",
    ".mlmodel": "a Core ML file",
    ".tflite": "a TensorFlow Lite file",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was said beside the name: a folder in the model, a weights file in it, and whether to fetch it whole."""

    subfolder: str = ""
    weights: str = ""
    download: bool = False


@dataclass(frozen=True, slots=True)
class Located:
    """Where a checkpoint lies: `files` in order, the folder with its settings, and what was decided on the way.

    `shards` are the names of files beside them that hold the data, where `files` do not: TensorFlow's. `ref` names it
    again where what was typed should not be repeated, an address with a password in it.
    """

    resolved: str
    folder: Folder
    files: tuple[Source, ...]
    config: Mapping[str, Any] | None
    pooling: Mapping[str, Any] | None
    weight_map: Mapping[str, str] | None = None
    revision: str | None = None
    notes: tuple[str, ...] = field(default=())
    shards: tuple[str, ...] = field(default=())
    ref: str = ""


def locate_in(folder: Folder, wanted: Wanted) -> Located:
    """The checkpoint in a folder, or the one that was asked for in it."""
    if wanted.subfolder:
        folder = _below(folder, wanted.subfolder)
    if wanted.weights:
        return _locate_weights(folder, wanted.weights)
    return _locate_folder(folder)


def _below(folder: Folder, path: str) -> Folder:
    for name in path.strip("/").split("/"):
        if name in ("", ".", "..") or not folder.is_folder(name):
            there = sorted(name for name in folder.names if folder.is_folder(name))
            has = f"it has {printable(shortened(there))}" if there else "it has none"
            raise NotFound(f"{folder.address} has no folder {quoted(name)}", has)
        folder = folder.below(name)
    return folder


def noted(located: Located, note: str) -> Located:
    """The same with a note before the others, if there is one."""
    return replace(located, notes=(note, *located.notes)) if note else located


def _locate_weights(folder: Folder, name: str) -> Located:
    """The weights file that was named, in the folder or below it."""
    above, _, name = name.rpartition("/")
    inner = _below(folder, above) if above else folder
    if not inner.is_file(name) and not inner.is_file(name + tensorflow.SUFFIX):
        there = sorted(found for found in inner.names if inner.is_file(found))
        raise NotFound(
            f"{inner.address} has no file {quoted(name)}", f"it has {printable(shortened(there)) if there else 'none'}"
        )
    return locate_file(inner, name)


def _locate_folder(folder: Folder) -> Located:
    transformer = _transformer_folder(folder)
    if transformer is not None:
        inner = _locate_folder(transformer)
        note = f"the weights lie in {transformer.name}/, as sentence-transformers has it"
        return noted(replace(inner, pooling=_pooling(folder)), note)
    bundle = None if _has_other_weights(folder.names) else tensorflow.choose(folder)
    if bundle is not None:
        return _locate_bundle(folder, bundle, folder.resolved)
    chosen, weight_map, notes = _choose(folder)
    return Located(
        resolved=folder.resolved,
        folder=folder,
        files=tuple(folder.source(name) for name in chosen),
        config=_config(folder),
        pooling=_pooling(folder),
        weight_map=weight_map,
        notes=notes,
    )


def _has_other_weights(names: Set[str]) -> bool:
    """Whether a folder holds safetensors or PyTorch weights, which go before TensorFlow's."""
    endings = (".safetensors", ".bin", ".pt", ".pth", ".index.json")
    return any(name.endswith(endings) and not _NEVER_WEIGHTS.search(Path(name).stem) for name in names)


def _locate_bundle(folder: Folder, bundle: tensorflow.Choice, resolved: str) -> Located:
    """A TensorFlow checkpoint in the folder or below it, with the config beside it or above."""
    inside = folder.below(bundle.folder) if bundle.folder else folder
    named = ((where, tensorflow.config_name(where.names)) for where in (inside, folder))
    where, config = next(((where, name) for where, name in named if name is not None), (folder, None))
    odd = (f"{config} is taken for the config",) if config not in (None, "config.json", "bert_config.json") else ()
    return Located(
        resolved=resolved,
        folder=inside,
        files=(inside.source(bundle.index),),
        config=None if config is None else read_json(where, config),
        pooling=_pooling(folder),
        notes=(*bundle.notes, *odd),
        shards=tensorflow.shards_of(bundle.index, inside.names),
    )


def locate_file(folder: Folder, name: str) -> Located:
    """A weights file, the index of several, or what leads to a TensorFlow checkpoint, that was named."""
    bundle = tensorflow.choose_named(folder, name)
    if bundle is not None:
        inside = "/".join(part for part in (bundle.folder, bundle.index) if part)
        return _locate_bundle(folder, bundle, f"{folder.resolved}/{inside}")
    names: tuple[str, ...] = (name,)
    notes: tuple[str, ...] = ()
    weight_map = None
    if name.endswith(".index.json"):
        weight_map = _weight_map(folder, name)
        names = _shards_of(folder, name, weight_map)
    elif shard := _SHARD.fullmatch(name):
        names, notes = _whole_set(folder, name, shard)
    elif name.startswith("adapter_model."):
        raise _adapter(folder)
    return Located(
        resolved=f"{folder.resolved}/{name}",
        folder=folder,
        files=tuple(folder.source(name) for name in names),
        config=_config(folder),
        pooling=_pooling(folder),
        weight_map=weight_map,
        notes=notes,
    )


def _choose(folder: Folder) -> tuple[tuple[str, ...], Mapping[str, str] | None, tuple[str, ...]]:
    """The weights files of a folder: safetensors before PyTorch, well-known names before what is merely unambiguous."""
    names = folder.names
    for stem, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        beside = _beside(names, suffix)
        if stem + suffix in names:
            return (stem + suffix,), None, beside
        index = f"{stem}{suffix}.index.json"
        if index in names:
            weight_map = _weight_map(folder, index)
            return _shards_of(folder, index, weight_map), weight_map, beside
        chosen = _choose_by_suffix(folder, (suffix,) if suffix == ".safetensors" else (".bin", ".pt", ".pth"))
        if chosen is not None:
            return *chosen, beside
    raise _nothing(folder)


def _choose_by_suffix(
    folder: Folder, suffixes: tuple[str, ...]
) -> tuple[tuple[str, ...], Mapping[str, str] | None] | None:
    """The one index, complete set of shards, or single file with one of these suffixes."""
    names = folder.names
    weights = sorted(name for name in names if name.endswith(suffixes) and not _NEVER_WEIGHTS.search(Path(name).stem))
    indexes = sorted(name for name in names if any(name.endswith(f"{s}.index.json") for s in suffixes))
    if len(indexes) == 1:
        weight_map = _weight_map(folder, indexes[0])
        return _shards_of(folder, indexes[0], weight_map), weight_map
    sets: dict[tuple[str, str, str], list[str]] = {}
    singles = []
    for name in weights:
        shard = _SHARD.fullmatch(name)
        if shard is None:
            singles.append(name)
        elif 1 <= int(shard["number"]) <= int(shard["total"]):
            sets.setdefault((shard["stem"], shard["total"], shard["suffix"]), []).append(name)
    complete = [found for (_, total, _), found in sets.items() if len(found) == int(total)]
    if len(complete) == 1 and not singles:
        return tuple(complete[0]), None
    if len(singles) == 1 and not complete:
        return (singles[0],), None
    if singles or len(complete) > 1:
        raise NotFound(
            f"{folder.address} holds several weights files ({shortened(singles + [found[0] for found in complete])})",
            "name the one you mean with --weights",
        )
    for (stem, total, suffix), found in sets.items():
        raise NotFound(
            f"{folder.address} holds {len(found)} of the {int(total)} shards {stem}-*-of-{total}{suffix}",
            "fetch the missing ones, or name one shard to see what is in it",
        )
    return None


def _beside(names: Set[str], suffix: str) -> tuple[str, ...]:
    others = sorted(
        name
        for name in names
        if (name.endswith((".bin", ".h5", ".msgpack", ".onnx")) and not _NEVER_WEIGHTS.search(Path(name).stem))
    )
    if suffix != ".safetensors" or not others:
        return ()
    return (f"safetensors is read, not {shortened(others)} beside it",)


def _whole_set(folder: Folder, name: str, shard: re.Match[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The complete set a shard belongs to, else the shard alone."""
    total = int(shard["total"])
    names = tuple(
        f"{shard['stem']}-{i:05d}-of-{shard['total']}{shard['suffix']}" for i in range(1, min(total, 10_000) + 1)
    )
    missing = [other for other in names if not folder.is_file(other)]
    if missing or not names:
        return (name,), (f"shard {int(shard['number'])} of {total} alone: {len(missing)} others are not there",)
    return names, (f"{name} is one of {total} shards: all are read",) if total > 1 else ()


def _weight_map(folder: Folder, index: str) -> Mapping[str, str]:
    """The `weight_map` of an index file; a shard must be a plain file name, so that an index cannot reach elsewhere."""
    found = read_json(folder, index).get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise CorruptFile(
            f"{folder.at(index)} has no weight_map from tensor names to file names", "fetch the index again"
        )
    for name in found.values():
        if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise CorruptFile(
                f"{folder.at(index)} names the shard {quoted(name)}, which is not a plain file name",
                "an index may only name files beside it: do not trust this one",
            )
    return found


def _shards_of(folder: Folder, index: str, weight_map: Mapping[str, str]) -> tuple[str, ...]:
    shards = tuple(sorted(set(weight_map.values())))
    missing = [name for name in shards if not folder.is_file(name)]
    if missing:
        raise NotFound(
            f"{folder.at(index)} names {len(shards)} shards, {len(missing)} of them missing: "
            + printable(shortened(missing)),
            "fetch the missing ones",
        )
    return shards


def _nothing(folder: Folder) -> Exception:
    """Why a folder has no weights that can be read, as precisely as its file names tell."""
    names = folder.names
    if any(name.startswith("adapter_model.") for name in names):
        return _adapter(folder)
    for name in sorted(names):
        kind = OTHER_FORMATS.get(Path(name).suffix)
        if kind:
            how = "name the file itself, if torch wrote it" if name.endswith(".ckpt") else f"looked for {LOOKED_FOR}"
            return UnsupportedFile(f"{folder.address} has {printable(name)}, {kind}, which is not read", how)
    there = f"holds no weights, only {printable(shortened(sorted(names)))}" if names else "is empty"
    return NotFound(f"the folder {folder.address} {there}", f"looked for {LOOKED_FOR}")


def _adapter(folder: Folder) -> UnsupportedFile:
    name = "adapter_config.json"
    base = read_json(folder, name).get("base_model_name_or_path") if folder.is_file(name) else None
    named = f"of {printable(str(base))}" if base else "of a model that adapter_config.json does not name"
    return UnsupportedFile(
        f"{folder.address} holds an adapter {named}, not a model",
        "name the base model, or merge the adapter into it first",
    )


def _transformer_folder(folder: Folder) -> Folder | None:
    """The folder of the transformer inside a sentence-transformers model that keeps it apart."""
    path = "0_Transformer"
    if folder.is_file("modules.json"):
        try:
            modules = json.loads(folder.text("modules.json"))
            path = next(str(m["path"]) for m in modules if str(m["type"]).endswith(".Transformer"))
        except (ValueError, RecursionError, TypeError, KeyError, StopIteration):
            pass  # the settings of another tool: without them the well-known name still serves
    plain = path and "/" not in path and path not in (".", "..")
    return folder.below(path) if plain and folder.is_folder(path) else None


def _pooling(folder: Folder) -> Mapping[str, Any] | None:
    name = "1_Pooling/config.json"
    return read_json(folder, name) if folder.is_file(name) else None


def _config(folder: Folder) -> Mapping[str, Any] | None:
    name = next((name for name in ("config.json", "bert_config.json") if folder.is_file(name)), None)
    return None if name is None else read_json(folder, name)
