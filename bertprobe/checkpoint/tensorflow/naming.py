"""Which index is meant, told by file names and the few words of the text file `checkpoint`; no index is opened here."""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import replace

from bertprobe.checkpoint.folder import Folder
from bertprobe.checkpoint.reader import Choice, usual_config
from bertprobe.errors import BertprobeError, NotFound, printable, quoted, shortened

SUFFIX = ".index"
STATE = "checkpoint"  # TensorFlow's name for the file that says which checkpoint of a folder is the latest

_DATA = re.compile(r"(?P<stem>.+)\.data-[0-9]{5}-of-[0-9]{5}")
# A path, however long. Spaces alone before it: with line ends, a file of them would be searched from each.
_NAMED = r'(?m)^[ \t]*model_checkpoint_path\s*:\s*"((?:[^"\\]|\\.){0,10000})"'
# Settings of other things that lie in a model's folder.
_OTHER_CONFIGS = re.compile(r"tokenizer|generation|adapter|processor|sentence|quant|train|task|pooling", re.IGNORECASE)


def choose(folder: Folder) -> Choice | None:
    """The index meant by a folder, None where there is no TensorFlow checkpoint in it.

    Raises `NotFound` for several checkpoints and nothing that chooses, and for data shards without their index.
    """
    names = folder.names
    if "saved_model.pb" in names and folder.is_folder("variables"):
        return Choice(
            ("variables.index",), "variables", notes=("the weights lie in variables/, as a SavedModel has it",)
        )
    shards = {match["stem"] for name in names if (match := _DATA.fullmatch(name))}
    found = sorted(name for name in names if name.endswith(SUFFIX) and name != SUFFIX)
    # Other tools call files .index, too: without data shards it is believed only where nothing else is there.
    indexes = [name for name in found if name.removesuffix(SUFFIX) in shards] or found
    named = _named(folder)
    if named is not None and (choice := _by_state(folder, named)) is not None:
        (index,) = choice.files
        others = len(indexes) - (index in indexes)
        chosen = f"{STATE} chooses {index} among {others + 1} checkpoints"
        return replace(choice, notes=choice.notes or ((chosen,) if others else ()))
    if len(indexes) > 1:
        raise NotFound(
            f"{folder.address} holds several TensorFlow checkpoints ({printable(shortened(indexes))})",
            "name the one you mean: `weights=`",
        )
    if indexes:
        astray = f"{STATE} names {quoted(named)}, which is not here: {indexes[0]} is read" if named is not None else ""
        return Choice((indexes[0],), notes=(astray,) if astray else ())
    if shards:
        raise _without_index(folder, min(shards))
    return None


def choose_named(folder: Folder, name: str) -> Choice | None:
    """The index meant by a name in a folder: its own, its prefix, a shard's, its graph's or `checkpoint`; else None.

    Raises `NotFound` for a shard without its index, and for a `checkpoint` that names what is not there.
    """
    if not folder.is_file(name):
        return Choice((name + SUFFIX,)) if folder.is_file(name + SUFFIX) else None
    if name.endswith(SUFFIX):
        return Choice((name,))
    shard = _DATA.fullmatch(name)
    graph = name.endswith(".meta") and folder.is_file(name.removesuffix(".meta") + SUFFIX)
    if shard or graph:
        stem = shard["stem"] if shard else name.removesuffix(".meta")
        if not folder.is_file(stem + SUFFIX):
            raise _without_index(folder, stem)
        what = "holds data alone" if shard else "holds the graph alone"
        return Choice((stem + SUFFIX,), notes=(f"{name} {what}: the checkpoint is that of {stem}{SUFFIX}",))
    named = _named(folder) if name == STATE else None
    if named is None:
        return None
    choice = _by_state(folder, named)
    if choice is None:
        raise NotFound(f"{folder.at(STATE)} names {quoted(named)}, which is not there", "name the checkpoint itself")
    return choice


def config_name(folder: Folder) -> str | None:
    """The file with the model's settings: under a usual name, or the only other one called a config."""
    if usual := usual_config(folder):
        return usual
    others = [
        name for name in folder.names if "config" in name and name.endswith(".json") and not _OTHER_CONFIGS.search(name)
    ]
    return others[0] if len(others) == 1 else None


def shard_name(stem: str, number: int, total: int) -> str:
    """A data shard's name: `NAME.data-00000-of-00002` is the first of two."""
    return f"{stem}.data-{number:05d}-of-{total:05d}"


def shards_of(index: str, names: Set[str]) -> tuple[str, ...]:
    """The data shards of an index among these names."""
    stem = index.removesuffix(SUFFIX)
    return tuple(sorted(name for name in names if (match := _DATA.fullmatch(name)) and match["stem"] == stem))


def _named(folder: Folder) -> str | None:
    """What the file `checkpoint` names; None where there is none, or it is another tool's file of that name."""
    if not folder.is_file(STATE):
        return None
    try:
        found = re.search(_NAMED, folder.text(STATE))
    except (BertprobeError, ValueError):
        return None
    return re.sub(r"\\(.)", r"\1", found[1]) if found else None


def _by_state(folder: Folder, named: str) -> Choice | None:
    """The index of the path in `checkpoint`: of that name in the folder, wherever the path led on its first machine."""
    *above, stem = named.replace("\\", "/").split("/")
    if stem and folder.is_file(stem + SUFFIX):
        note = f"{STATE} names {named}: {stem}{SUFFIX} of this folder is read"
        return Choice((stem + SUFFIX,), notes=(printable(note),) if above and above != ["."] else ())
    below = "/".join(above)
    plain = all(name and name not in (".", "..") for name in above)
    return Choice((stem + SUFFIX,), below) if above and plain and folder.is_file(f"{below}/{stem}{SUFFIX}") else None


def _without_index(folder: Folder, stem: str) -> NotFound:
    return NotFound(
        f"{folder.address} has data shards of {printable(stem)}, but not {printable(stem)}{SUFFIX}, "
        "which says what is in them",
        "fetch the index, and put it beside them",
    )
