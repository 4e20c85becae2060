"""What the user typed → the weights files, the config and the settings beside them.

Nothing is guessed from a file's content here; which files belong together is decided by their names alone, and what was
decided is said in `notes`.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertprobe.checkpoint import tensorflow
from bertprobe.checkpoint.source import LocalFile
from bertprobe.errors import CorruptFile, NotFound, UnsupportedFile, printable, quoted, shortened

LOOKED_FOR = (
    "model.safetensors, pytorch_model.bin, their .index.json, one other .safetensors, .bin, .pt or .pth file, "
    "or a TensorFlow .index"
)
MAX_JSON = 50 * 2**20
POCKET = "pocket"  # the name of the model that ships with the package; a folder called so is ./pocket

# Files that training leaves beside the weights, and adapters, which are no model of their own.
_NEVER_WEIGHTS = re.compile(
    r"(optimizer|optim_states|scheduler|scaler|training_args|rng_state|random_states|sampler|adapter_model"
    r"|_embeddings?$|trainer_state|vocab)",
    re.IGNORECASE,
)
_SHARD = re.compile(
    r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<total>[0-9]{5})(?P<suffix>\.safetensors|\.bin|\.pt|\.pth)"
)
_HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?(@[\w./-]+)?")
_OTHER_FORMATS = {
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
class Located:
    """Where a checkpoint lies: `files` in order, the folder with its settings, and what was decided on the way."""

    ref: str
    resolved: str
    folder: Path
    files: tuple[LocalFile, ...]
    config: Mapping[str, Any] | None
    pooling: Mapping[str, Any] | None
    weight_map: Mapping[str, str] | None = None
    revision: str | None = None
    notes: tuple[str, ...] = field(default=())


def locate(ref: str) -> Located:
    """The built-in model, a folder, a weights file, an index file or the name of a cached Hub repository → its files.

    Raises `NotFound` where there is nothing, `UnsupportedFile` where there is something that is not read, and
    `CorruptFile` for a config or index that contradicts itself.
    """
    if ref == POCKET:
        return _locate_pocket()
    path = _expanded(ref)
    if ref and _exists(path):
        return _locate_path(ref, path, None)
    if ref and _is_folder(path.parent) and (found := _locate_typed_bundle(ref, path, None)) is not None:
        return found  # a prefix, of which there is no file
    if _HUB_ID.fullmatch(ref):
        return _locate_cached(ref)
    raise NotFound(f"there is no '{printable(ref)}'", "name a folder, a weights file or a model in the local Hub cache")


def _locate_pocket() -> Located:
    """The model that ships with the package. Weights are read by byte ranges of a file, so a zip will not do."""
    folder = Path(__file__).parents[1] / POCKET
    if not _is_file(folder / "model.safetensors"):
        raise NotFound(
            f"the built-in model is not in {folder}",
            "install bertprobe as files (pip install bertprobe); from a zip archive its weights cannot be read",
        )
    return _locate_path(POCKET, folder, None)


def _expanded(ref: str) -> Path:
    try:
        return Path(ref).expanduser()
    except RuntimeError:  # ~ and no such user
        return Path(ref)


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except PermissionError as error:
        raise NotFound(f"{path} cannot be read ({error.strerror})", "check its permissions") from error
    except (OSError, ValueError):  # also a name too long, or with a NUL
        return False
    return True


def _is_file(path: Path) -> bool:
    """Whether a regular file is there; what cannot be looked at is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _locate_path(ref: str, path: Path, revision: str | None) -> Located:
    try:
        names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    except OSError as error:
        raise NotFound(f"{path} cannot be read ({error.strerror})", "check its permissions") from error
    if not path.is_dir():
        return _locate_file(ref, path, revision)
    transformer = _transformer_folder(path, names)
    if transformer is not None:
        inner = _locate_path(ref, transformer, revision)
        note = f"the weights lie in {transformer.name}/, as sentence-transformers has it"
        return _with(inner, pooling=_pooling(path), notes=(note, *inner.notes))
    if not _has_other_weights(names):
        choice = tensorflow.choose(str(path), _one_deeper(path, names), lambda name: _text(path / name))
        if choice is not None:
            return _locate_bundle(ref, path, choice, revision, resolved=path)
    chosen, weight_map, notes = _choose(path, names)
    return Located(
        ref=ref,
        resolved=str(path.resolve()),
        folder=path,
        files=tuple(LocalFile(path / name) for name in chosen),
        config=_config(path),
        pooling=_pooling(path),
        weight_map=weight_map,
        revision=revision,
        notes=notes,
    )


def _with(located: Located, **changes: Any) -> Located:
    from dataclasses import replace

    return replace(located, **changes)


def _has_other_weights(names: set[str]) -> bool:
    """Whether a folder holds safetensors or PyTorch weights, which go before TensorFlow's."""
    endings = (".safetensors", ".bin", ".pt", ".pth", ".index.json")
    return any(name.endswith(endings) and not _NEVER_WEIGHTS.search(Path(name).stem) for name in names)


def _one_deeper(folder: Path, names: set[str]) -> set[str]:
    """The names, and those in the folders below where TensorFlow may have put its files."""
    if not {"checkpoint", "saved_model.pb"} & names:
        return names
    below = [folder / name for name in names if _is_folder(folder / name)]
    return names | {f"{inner.name}/{entry.name}" for inner in below[:100] for entry in inner.iterdir()}


def _locate_typed_bundle(ref: str, path: Path, revision: str | None) -> Located | None:
    """The TensorFlow checkpoint that a prefix or one of its files leads to."""
    folder = path.parent
    try:
        names = _one_deeper(folder, {entry.name for entry in folder.iterdir()})
    except OSError:
        return None
    choice = tensorflow.choose_typed(str(folder), path.name, names, lambda name: _text(folder / name))
    if choice is None:
        return None
    return _locate_bundle(ref, folder, choice, revision, resolved=folder / choice.folder / choice.index)


def _locate_bundle(
    ref: str, folder: Path, choice: tensorflow.Choice, revision: str | None, *, resolved: Path
) -> Located:
    inside = folder / choice.folder
    named = ((where, tensorflow.config_name({entry.name for entry in where.iterdir()})) for where in (inside, folder))
    config = next((where / name for where, name in named if name is not None), None)
    odd = config is not None and config.name not in ("config.json", "bert_config.json")
    return Located(
        ref=ref,
        resolved=str(resolved.resolve() if revision is None else resolved),
        folder=inside,
        files=(LocalFile(inside / choice.index),),
        config=None if config is None else _json(config),
        pooling=_pooling(folder),
        revision=revision,
        notes=(*choice.notes, *([f"{config.name} is taken for the config"] if config is not None and odd else [])),
    )


def _locate_file(ref: str, path: Path, revision: str | None) -> Located:
    bundle = _locate_typed_bundle(ref, path, revision)
    if bundle is not None:
        return bundle
    folder, notes = path.parent, tuple[str, ...]()
    names: tuple[str, ...] = (path.name,)
    weight_map = None
    if path.name.endswith(".index.json"):
        weight_map = _weight_map(path)
        names = _shards_of(path, weight_map)
    elif shard := _SHARD.fullmatch(path.name):
        names, notes = _whole_set(folder, path.name, shard)
    elif path.name.startswith("adapter_model."):
        raise _adapter(folder)
    return Located(
        ref=ref,
        resolved=str(path.resolve() if revision is None else path),
        folder=folder,
        files=tuple(LocalFile(folder / name) for name in names),
        config=_config(folder),
        pooling=_pooling(folder),
        weight_map=weight_map,
        revision=revision,
        notes=notes,
    )


def _choose(folder: Path, names: set[str]) -> tuple[tuple[str, ...], Mapping[str, str] | None, tuple[str, ...]]:
    """The weights files of a folder: safetensors before PyTorch, well-known names before what is merely unambiguous."""
    for stem, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        beside = _beside(names, suffix)
        if stem + suffix in names:
            return (stem + suffix,), None, beside
        index = f"{stem}{suffix}.index.json"
        if index in names:
            weight_map = _weight_map(folder / index)
            return _shards_of(folder / index, weight_map), weight_map, beside
        chosen = _choose_by_suffix(folder, names, (suffix,) if suffix == ".safetensors" else (".bin", ".pt", ".pth"))
        if chosen is not None:
            return *chosen, beside
    raise _nothing(folder, names)


def _choose_by_suffix(
    folder: Path, names: set[str], suffixes: tuple[str, ...]
) -> tuple[tuple[str, ...], Mapping[str, str] | None] | None:
    """The one index, complete set of shards, or single file with one of these suffixes."""
    weights = sorted(name for name in names if name.endswith(suffixes) and not _NEVER_WEIGHTS.search(Path(name).stem))
    indexes = sorted(name for name in names if any(name.endswith(f"{s}.index.json") for s in suffixes))
    if len(indexes) == 1:
        weight_map = _weight_map(folder / indexes[0])
        return _shards_of(folder / indexes[0], weight_map), weight_map
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
            f"{folder} holds several weights files ({shortened(singles + [found[0] for found in complete])})",
            "name the one you mean",
        )
    for (stem, total, suffix), found in sets.items():
        raise NotFound(
            f"{folder} holds {len(found)} of the {int(total)} shards {stem}-*-of-{total}{suffix}",
            "fetch the missing ones, or name one shard to see what is in it",
        )
    return None


def _beside(names: set[str], suffix: str) -> tuple[str, ...]:
    others = sorted(
        name
        for name in names
        if (name.endswith((".bin", ".h5", ".msgpack", ".onnx")) and not _NEVER_WEIGHTS.search(Path(name).stem))
    )
    if suffix != ".safetensors" or not others:
        return ()
    return (f"safetensors is read, not {shortened(others)} beside it",)


def _whole_set(folder: Path, name: str, shard: re.Match[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The complete set a shard belongs to, else the shard alone."""
    total = int(shard["total"])
    names = tuple(
        f"{shard['stem']}-{i:05d}-of-{shard['total']}{shard['suffix']}" for i in range(1, min(total, 10_000) + 1)
    )
    missing = [other for other in names if not _is_file(folder / other)]
    if missing or not names:
        return (name,), (f"shard {int(shard['number'])} of {total} alone: {len(missing)} others are not there",)
    return names, (f"{name} is one of {total} shards: all are read",) if total > 1 else ()


def _weight_map(path: Path) -> Mapping[str, str]:
    """The `weight_map` of an index file; a shard must be a plain file name, so that an index cannot reach elsewhere."""
    found = _json(path).get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise CorruptFile(f"{path} has no weight_map from tensor names to file names", "fetch the index again")
    for name in found.values():
        if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise CorruptFile(
                f"{path} names the shard {quoted(name)}, which is not a plain file name",
                "an index may only name files beside it: do not trust this one",
            )
    return found


def _shards_of(index: Path, weight_map: Mapping[str, str]) -> tuple[str, ...]:
    shards = tuple(sorted(set(weight_map.values())))
    missing = [name for name in shards if not _is_file(index.parent / name)]
    if missing:
        raise NotFound(
            f"{index} names {len(shards)} shards, {len(missing)} of them missing: {printable(shortened(missing))}",
            "fetch the missing ones",
        )
    return shards


def _nothing(folder: Path, names: set[str]) -> Exception:
    """Why a folder has no weights that can be read, as precisely as its file names tell."""
    if any(name.startswith("adapter_model.") for name in names):
        return _adapter(folder)
    for name in sorted(names):
        kind = _OTHER_FORMATS.get(Path(name).suffix)
        if kind:
            return UnsupportedFile(
                f"{folder} has {printable(name)}, {kind}, which is not read", f"looked for {LOOKED_FOR}"
            )
    there = f"holds no weights, only {printable(shortened(sorted(names)))}" if names else "is empty"
    return NotFound(f"the folder {folder} {there}", f"looked for {LOOKED_FOR}")


def _adapter(folder: Path) -> UnsupportedFile:
    path = folder / "adapter_config.json"
    settings = _json(path) if _is_file(path) else {}
    base = settings.get("base_model_name_or_path")
    named = f"of {printable(str(base))}" if base else "of a model that adapter_config.json does not name"
    return UnsupportedFile(
        f"{folder} holds an adapter {named}, not a model", "name the base model, or merge the adapter into it first"
    )


def _transformer_folder(folder: Path, names: set[str]) -> Path | None:
    """The folder of the transformer inside a sentence-transformers model that keeps it apart."""
    path = "0_Transformer"
    if "modules.json" in names and _is_file(folder / "modules.json"):
        try:
            modules = json.loads(_text(folder / "modules.json"))
            path = next(str(m["path"]) for m in modules if str(m["type"]).endswith(".Transformer"))
        except (ValueError, RecursionError, TypeError, KeyError, StopIteration):
            pass  # the settings of another tool: without them the well-known name still serves
    plain = path and "/" not in path and path not in (".", "..")
    return folder / path if plain and _is_folder(folder / path) else None


def _pooling(folder: Path) -> Mapping[str, Any] | None:
    path = folder / "1_Pooling" / "config.json"
    return _json(path) if _is_file(path) else None


def _config(folder: Path) -> Mapping[str, Any] | None:
    for name in ("config.json", "bert_config.json"):
        if _is_file(folder / name):
            return _json(folder / name)
    return None


def _text(path: Path) -> str:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnsupportedFile(f"{path} is not a regular file", "name a folder or a weights file")
        if status.st_size > MAX_JSON:
            raise UnsupportedFile(
                f"{path} has {status.st_size:,} bytes, too many for settings", "is it the right file?"
            )
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise NotFound(f"{path} cannot be read ({error.strerror})", "check its permissions") from error


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        reason = "too deeply nested" if isinstance(error, RecursionError) else printable(str(error).partition(";")[0])
        raise CorruptFile(f"{path} is not JSON ({reason})", "fetch it again, or mend it") from error
    if not isinstance(found, dict):
        raise CorruptFile(f"{path} is JSON, but not an object", "fetch it again, or mend it")
    return found


def _locate_cached(ref: str) -> Located:
    """A repository in the local Hugging Face cache, at the commit its revision points to."""
    name, _, revision = ref.partition("@")
    folder = _snapshot(name, revision or "main")
    if folder is None:
        raise NotFound(
            f"there is no path '{printable(ref)}' and no such model in the local Hub cache",
            "check the spelling, or fetch it with: hf download "
            + printable(name + f" --revision {revision}" * bool(revision)),
        )
    located = _locate_path(ref, folder, folder.name)
    return _with(located, notes=("from the local Hub cache", *located.notes))


# Files of which a model has at least one: the client finds a snapshot by a file in it.
_CACHED = (
    "config.json",
    "bert_config.json",
    "model.safetensors",
    "pytorch_model.bin",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
    "modules.json",
    "tokenizer.json",
    "README.md",
)


def _snapshot(name: str, revision: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for file in _CACHED:
        try:
            found = try_to_load_from_cache(name, file, revision=revision)
        except HFValidationError:
            return None
        if isinstance(found, str):
            return Path(found).parent
    return None
