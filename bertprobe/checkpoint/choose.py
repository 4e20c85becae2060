"""Which files of a folder are the checkpoint's, and which settings lie beside them.

Nothing is guessed from a file's content here; which files belong together is decided by their names alone, by the same
rules on this disk and on the Hub, and what was decided is said in `notes`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from bertprobe import storages
from bertprobe.checkpoint.folder import Folder, read_json
from bertprobe.checkpoint.reader import Choice, usual_config
from bertprobe.checkpoint.source import Source
from bertprobe.errors import CorruptFile, IsAdapter, NotFound, UnsupportedFile, printable, quoted, shortened
from bertprobe.filenames import ADAPTER, ADAPTER_CONFIG, CONFIGS, MODULES, POOLING, VOCABULARIES
from bertprobe.storages import UNREAD_BY_SUFFIX, Storage, storage_of

# Files that training leaves beside the weights, and adapters, which are no model of their own.
_NEVER_WEIGHTS = re.compile(
    r"(optimizer|optim_states|scheduler|scaler|training_args|rng_state|random_states|sampler|adapter_model"
    r"|_embeddings?$|trainer_state|vocab)",
    re.IGNORECASE,
)
SHOWN = 200  # characters of a base model's name that a message shows


@dataclass(frozen=True, slots=True)
class OpenOptions:
    """What was said beside the name: a folder in the model, a weights file in it, and whether to fetch it whole.

    Of `settings_only` the folder alone is wanted: whether there are weights is not looked at.
    """

    subfolder: str = ""
    weights: str = ""
    download: bool = False
    settings_only: bool = False


@dataclass(frozen=True, slots=True)
class Located:
    """Where a checkpoint lies: `files` in order, the folder with its settings, and what was decided on the way.

    `shards` are the names of files beside them that hold the data, where `files` do not. `ref` names it
    again where what was typed should not be repeated, an address with a password in it. `home` is
    the folder that describes the model as a whole, where the weights lie in one below, as in `0_Transformer`. `within`
    is the folder below `folder` that holds weights alone, empty where they lie beside the settings.
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
    home: Folder | None = None
    within: str = ""


def locate_in(folder: Folder, wanted: OpenOptions) -> Located:
    """The checkpoint in a folder, or the one that was asked for in it."""
    if wanted.subfolder:
        folder = _below(folder, wanted.subfolder)
    if wanted.settings_only:
        above = wanted.weights.rpartition("/")[0]
        return settings_in(_below(folder, above) if above else folder)
    if wanted.weights:
        return _locate_weights(folder, wanted.weights)
    return _locate_folder(folder)


def settings_in(folder: Folder) -> Located:
    """A folder for the sake of its settings."""
    return Located(resolved=folder.resolved, folder=folder, files=(), config=None, pooling=None)


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
    if not inner.is_file(name) and not stands_for_weights(inner, name):
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
        return noted(replace(inner, pooling=_pooling(folder), home=folder), note)
    for storage in storages.STORAGES:
        choose = storage.reader().choose
        choice = _by_names(storage, folder) if choose is None else choose(folder)
        if choice is not None:
            return _located(folder, choice, folder.resolved)
    raise _nothing(folder)


def _located(folder: Folder, choice: Choice, resolved: str) -> Located:
    """The chosen files, with the config beside them, or where they lie below the folder in that."""
    inside = folder.below(choice.folder) if choice.folder else folder
    storage = storage_of(choice.files[0])
    reader = storage.reader() if storage else None
    if folder is inside and reader and inside.name in reader.above and (outer := inside.above) is not None:
        folder = outer
    find = reader.config if reader else usual_config
    named = ((where, find(where)) for where in (inside, folder))
    where, config = next(((where, name) for where, name in named if name is not None), (folder, None))
    odd = () if config is None or config in CONFIGS else (f"{config} is taken for the config",)
    settings = _with_settings(inside, folder)
    return Located(
        resolved=resolved,
        folder=settings,
        within="" if settings is inside else inside.name,
        files=tuple(inside.source(name) for name in choice.files),
        config=None if config is None else read_json(where, config),
        pooling=_pooling(folder),
        weight_map=choice.weight_map,
        notes=(*choice.notes, *odd),
        shards=tuple(other for name in choice.files for other in others_of(name, inside)),
    )


def _with_settings(inside: Folder, folder: Folder) -> Folder:
    """The folder with a model's small files: that of the weights, or the one above it where only that has some."""
    own = (*CONFIGS, *VOCABULARIES)
    return folder if any(map(folder.is_file, own)) and not any(map(inside.is_file, own)) else inside


def others_of(name: str, folder: Folder) -> tuple[str, ...]:
    """The files beside a weights file that hold its data, where it does not."""
    storage = storage_of(name)
    others = storage.reader().others if storage else None
    return others(name, folder.names) if others else ()


def stands_for_weights(folder: Folder, name: str) -> bool:
    """Whether a name that no file has leads to weights, as the prefix of several files."""
    return _by_own_rules(folder, name) is not None


def _by_own_rules(folder: Folder, name: str) -> Choice | None:
    """What a name leads to by the rules of a format that has its own."""
    readers = (storage.reader().named for storage in storages.STORAGES)
    return next((choice for named in readers if named and (choice := named(folder, name))), None)


def locate_file(folder: Folder, name: str) -> Located:
    """A weights file, the index of several, or what else leads to a checkpoint, that was named."""
    choice = _by_own_rules(folder, name)
    if choice is not None:
        return _located(folder, choice, "/".join(filter(None, (folder.resolved, choice.folder, choice.files[0]))))
    if name.endswith(storages.shard_indexes()):
        choice = _of_index(folder, name)
    elif shard := _shard().fullmatch(name):
        choice = _whole_set(folder, name, shard)
    elif name.startswith(f"{ADAPTER}."):
        raise _adapter(folder, name)
    return _located(folder, choice or Choice((name,)), f"{folder.resolved}/{name}")


def _by_names(storage: Storage, folder: Folder) -> Choice | None:
    """The weights files of a format in a folder: well-known names before what is merely unambiguous."""
    index = storage.file + storage.shard_index
    if storage.file and storage.file in folder.names:
        choice: Choice | None = Choice((storage.file,))
    elif storage.file and storage.shard_index and index in folder.names:
        choice = _of_index(folder, index)
    else:
        choice = _by_suffix(storage, folder)
    return None if choice is None else replace(choice, notes=_not_read(storage, folder.names))


def _by_suffix(storage: Storage, folder: Folder) -> Choice | None:
    """The one index, complete set of shards, or single file with one of the suffixes."""
    weights = sorted(
        name for name in folder.names if name.endswith(storage.suffixes) and not _NEVER_WEIGHTS.search(Path(name).stem)
    )
    endings = tuple(suffix + storage.shard_index for suffix in storage.suffixes if storage.shard_index)
    indexes = sorted(name for name in folder.names if name.endswith(endings))
    if len(indexes) == 1:
        return _of_index(folder, indexes[0])
    sets: dict[tuple[str, str, str], list[str]] = {}
    singles = []
    for name in weights:
        shard = _shard().fullmatch(name)
        if shard is None:
            singles.append(name)
        elif 1 <= int(shard["number"]) <= int(shard["total"]):
            sets.setdefault((shard["stem"], shard["total"], shard["suffix"]), []).append(name)
    complete = [found for (_, total, _), found in sets.items() if len(found) == int(total)]
    if len(complete) == 1 and not singles:
        return Choice(tuple(complete[0]))
    if len(singles) == 1 and not complete:
        return None if _is_anybodys(storage, singles[0], folder) else Choice((singles[0],))
    if singles or len(complete) > 1:
        raise NotFound(
            f"{folder.address} holds several weights files ({shortened(singles + [found[0] for found in complete])})",
            "name the one you mean: `weights=`",
        )
    for (stem, total, suffix), found in sets.items():
        raise NotFound(
            f"{folder.address} holds {len(found)} of the {int(total)} shards {stem}-*-of-{total}{suffix}",
            "fetch the missing ones, or name one shard to see what is in it",
        )
    return None


def _is_anybodys(storage: Storage, name: str, folder: Folder) -> bool:
    """Whether a lone file of an ending that many tools use lies beside the usual file of another format."""
    usual = (other.file for other in storages.STORAGES if other is not storage and other.file)
    return not storage.exclusive and name.endswith(storage.suffixes[0]) and any(map(folder.is_file, usual))


def _shard() -> re.Pattern[str]:
    """The name of a shard: `model-00001-of-00002.safetensors` is the first of two."""
    return _shard_with(tuple(suffix for storage in storages.STORAGES for suffix in storage.suffixes))


@cache
def _shard_with(suffixes: tuple[str, ...]) -> re.Pattern[str]:
    endings = "|".join(map(re.escape, suffixes))
    return re.compile(rf"(?P<stem>.+)-(?P<number>[0-9]{{5}})-of-(?P<total>[0-9]{{5}})(?P<suffix>{endings})")


def _not_read(storage: Storage, names: Set[str]) -> tuple[str, ...]:
    """A note on what lies beside and goes behind this format."""
    others = sorted(
        name for name in names if name.endswith(storage.instead_of) and not _NEVER_WEIGHTS.search(Path(name).stem)
    )
    return (f"{storage.name} is read, not {shortened(others)} beside it",) if others else ()


def _whole_set(folder: Folder, name: str, shard: re.Match[str]) -> Choice:
    """The complete set a shard belongs to, else the shard alone."""
    total = int(shard["total"])
    names = tuple(
        f"{shard['stem']}-{i:05d}-of-{shard['total']}{shard['suffix']}" for i in range(1, min(total, 10_000) + 1)
    )
    missing = [other for other in names if not folder.is_file(other)]
    if missing or not names:
        note = f"shard {int(shard['number'])} of {total} alone: {len(missing)} others are not there"
        return Choice((name,), notes=(note,))
    return Choice(names, notes=(f"{name} is one of {total} shards: all are read",) if total > 1 else ())


def _of_index(folder: Folder, index: str) -> Choice:
    """The shards that an index lists; raises `NotFound` where some are missing."""
    storage = next((row for row in storages.STORAGES if row.shard_index and _indexes(row, index)), None)
    listed = storage.reader().listed if storage else str
    weight_map = {listed(name): shard for name, shard in _weight_map(folder, index).items()}
    shards = tuple(sorted(set(weight_map.values())))
    missing = [name for name in shards if not folder.is_file(name)]
    if missing:
        raise NotFound(
            f"{folder.at(index)} names {len(shards)} shards, {len(missing)} of them missing: "
            + printable(shortened(missing)),
            "fetch the missing ones",
        )
    return Choice(shards, weight_map=weight_map)


def _indexes(storage: Storage, name: str) -> bool:
    """Whether a name is that of an index of shards of a format."""
    return name.removesuffix(storage.shard_index).endswith(storage.suffixes)


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


def _nothing(folder: Folder) -> Exception:
    """Why a folder has no weights that can be read, as precisely as its file names tell."""
    names = folder.names
    if any(name.startswith(f"{ADAPTER}.") for name in names):
        called = (ADAPTER + suffix for storage in storages.STORAGES for suffix in storage.suffixes)
        return _adapter(folder, next((name for name in called if name in names), ""))
    looked = f"looked for {looked_for()}"
    for name in sorted(names):
        if kind := UNREAD_BY_SUFFIX.get(Path(name).suffix):
            return UnsupportedFile(
                f"{folder.address} has {printable(name)}, {kind.what}, which is not read", kind.hint or looked
            )
    there = f"holds no weights, only {printable(shortened(sorted(names)))}" if names else "is empty"
    return NotFound(f"the folder {folder.address} {there}", looked)


def looked_for() -> str:
    """The files that make a folder a checkpoint: a format's own, one with its suffix, or what its own rules find."""
    own = [storage for storage in storages.STORAGES if storage.reader().choose is not None]
    plain = [storage for storage in storages.STORAGES if storage not in own]
    files = ", ".join(storage.file for storage in plain if storage.file)
    suffixes = storages.listed([suffix for storage in plain for suffix in storage.suffixes], "or")
    others = [storage.called.format(storages.listed(storage.suffixes, "or")) for storage in own]
    looked = [f"{files}, their {' or '.join(storages.shard_indexes())}, one other {suffixes} file", *others]
    return storages.listed(looked, "or", ", ")


def settings_of(folder: Folder) -> tuple[str, ...]:
    """The small files that opening a folder will read."""
    index: tuple[str, ...] = ()
    for storage in storages.STORAGES:
        if storage.file and (folder.is_file(storage.file) or folder.is_file(storage.file + storage.shard_index)):
            index = () if folder.is_file(storage.file) else (storage.file + storage.shard_index,)
            break
    return tuple(name for name in (*CONFIGS, MODULES, POOLING, *index) if folder.is_file(name))


def _adapter(folder: Folder, file: str) -> IsAdapter:
    base = read_json(folder, ADAPTER_CONFIG).get("base_model_name_or_path") if folder.is_file(ADAPTER_CONFIG) else None
    named = f"of {printable(str(base)[:SHOWN])}" if base else f"of a model that {ADAPTER_CONFIG} does not name"
    return IsAdapter(
        f"{folder.address} holds an adapter {named}, not a model",
        "bertprobe inspect describes it; for all else name the base model, or merge the adapter into it first",
        folder,
        file,
    )


def _transformer_folder(folder: Folder) -> Folder | None:
    """The folder of the transformer inside a sentence-transformers model that keeps it apart."""
    paths = (path for kind, path in module_paths(folder) if kind.endswith(".Transformer"))
    path = next(paths, "0_Transformer")  # without settings that can be read, the well-known name still serves
    return folder.below(path) if _is_plain(path) and folder.is_folder(path) else None


def module_paths(folder: Folder) -> list[tuple[str, str]]:
    """The classes and folders that sentence-transformers' modules.json lists; none where it cannot be read."""
    if not folder.is_file(MODULES):
        return []
    try:
        return [(str(row["type"]), str(row["path"])) for row in json.loads(folder.text(MODULES))]
    except (ValueError, RecursionError, TypeError, KeyError):
        return []  # the settings of another tool


def module_files(folder: Folder) -> list[str]:
    """The files of a model's modules beside the encoder: their settings, and the weights of those that have some."""
    found = []
    for kind, path in module_paths(folder):
        if _is_plain(path) and not kind.endswith(".Transformer"):
            weights = [f"{path}/{name}" for name in storages.weights_files()]
            found += [name for name in (f"{path}/config.json",) if folder.is_file(name)]
            found += [name for name in weights if folder.is_file(name)][:1]
    return found


def _is_plain(path: str) -> bool:
    return bool(path) and "/" not in path and path not in (".", "..")


def _pooling(folder: Folder) -> Mapping[str, Any] | None:
    return read_json(folder, POOLING) if folder.is_file(POOLING) else None
