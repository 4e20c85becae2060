"""Which index is meant, told by file names and the few words of the text file `checkpoint`; no file is opened here.

Whoever lists the folder, on a disk or on the Hub, hands in the names and a function that reads a small file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from bertprobe.errors import BertprobeError, NotFound, printable, quoted, shortened

SUFFIX = ".index"
STATE = "checkpoint"  # TensorFlow's name for the file that says which checkpoint of a folder is the latest

_DATA = re.compile(r"(?P<stem>.+)\.data-[0-9]{5}-of-[0-9]{5}")
_NAMED = re.compile(r'^\s*model_checkpoint_path\s*:\s*"((?:[^"\\]|\\.)*)"', re.MULTILINE)
# Settings of other things that lie in a model's folder.
_OTHER_CONFIGS = re.compile(r"tokenizer|generation|adapter|processor|sentence|quant|train|task|pooling", re.IGNORECASE)

Text = Callable[[str], str]
"""Reads a small text file of the folder by its name; raises `BertprobeError` or `ValueError` where it cannot."""


@dataclass(frozen=True, slots=True)
class Choice:
    """An index: its file name, the folder it lies in below the one that was looked at, and what was decided."""

    index: str
    folder: str = ""
    notes: tuple[str, ...] = field(default=())


def choose(where: str, names: Collection[str], text: Text) -> Choice | None:
    """The index meant by a folder with these names, None where there is no TensorFlow checkpoint in it.

    Args:
        where: the folder, as messages name it.
        names: of what lies in it; what lies deeper may be there too, as `folder/name`.
        text: reads one of its files.

    Raises:
        NotFound: several checkpoints and nothing that chooses, or data shards without their index.
    """
    if "saved_model.pb" in names and any(name.split("/")[0] == "variables" for name in names):
        return Choice("variables.index", "variables", ("the weights lie in variables/, as a SavedModel has it",))
    shards = {match["stem"] for name in names if "/" not in name and (match := _DATA.fullmatch(name))}
    found = sorted(n for n in names if n.endswith(SUFFIX) and "/" not in n and n != SUFFIX)
    # Other tools call files .index, too: without data shards it is believed only where nothing else is there.
    indexes = [name for name in found if name.removesuffix(SUFFIX) in shards] or found
    named = _named(text) if STATE in names else None
    if named is not None and (choice := _by_state(named, names)) is not None:
        others = len(indexes) - (choice.index in indexes)
        note = (
            (f"{STATE} chooses {choice.index} among {others + 1} checkpoints",) if others and not choice.notes else ()
        )
        return Choice(choice.index, choice.folder, (*choice.notes, *note))
    if len(indexes) > 1:
        raise NotFound(
            f"{where} holds several TensorFlow checkpoints ({printable(shortened(indexes))})", "name the one you mean"
        )
    if indexes:
        astray = f"{STATE} names {quoted(named)}, which is not here: {indexes[0]} is read" if named is not None else ""
        return Choice(indexes[0], notes=(astray,) if astray else ())
    if shards:
        raise _without_index(where, min(shards))
    return None


def choose_typed(where: str, name: str, names: Collection[str], text: Text) -> Choice | None:
    """The index meant by a path in a folder: the index itself, its prefix, a shard, its graph or `checkpoint`.

    Args:
        where: the folder, as messages name it.
        name: the last part of the path, whether there is such a file or not.
        names: what lies in the folder.
        text: reads one of its files.

    Raises:
        NotFound: a shard without its index, or a `checkpoint` that names what is not there.
    """
    if name not in names:
        return Choice(name + SUFFIX) if name + SUFFIX in names else None
    if name.endswith(SUFFIX):
        return Choice(name)
    shard = _DATA.fullmatch(name)
    graph = name.endswith(".meta") and name.removesuffix(".meta") + SUFFIX in names
    if shard or graph:
        stem = shard["stem"] if shard else name.removesuffix(".meta")
        if stem + SUFFIX not in names:
            raise _without_index(where, stem)
        what = "holds data alone" if shard else "holds the graph alone"
        return Choice(stem + SUFFIX, notes=(f"{name} {what}: the checkpoint is that of {stem}{SUFFIX}",))
    named = _named(text) if name == STATE else None
    if named is None:
        return None
    choice = _by_state(named, names)
    if choice is None:
        raise NotFound(f"{where}/{STATE} names {quoted(named)}, which is not there", "name the checkpoint itself")
    return choice


def config_name(names: Collection[str]) -> str | None:
    """The file with the model's settings: config.json, bert_config.json, or the only other one called a config."""
    for name in ("config.json", "bert_config.json"):
        if name in names:
            return name
    others = [
        n for n in names if "config" in n and n.endswith(".json") and "/" not in n and not _OTHER_CONFIGS.search(n)
    ]
    return others[0] if len(others) == 1 else None


def shard_name(stem: str, number: int, total: int) -> str:
    """A data shard's name: `NAME.data-00000-of-00002` is the first of two."""
    return f"{stem}.data-{number:05d}-of-{total:05d}"


def _named(text: Text) -> str | None:
    """What the file `checkpoint` names; None where it is another tool's file of that name."""
    try:
        found = _NAMED.search(text(STATE))
    except (BertprobeError, ValueError):
        return None
    return re.sub(r"\\(.)", r"\1", found[1]) if found else None


def _by_state(named: str, names: Collection[str]) -> Choice | None:
    """The index of the path in `checkpoint`: of that name in the folder, wherever the path led on its first machine."""
    *folders, stem = named.replace("\\", "/").split("/")
    if stem and stem + SUFFIX in names:
        note = f"{STATE} names {named}: {stem}{SUFFIX} of this folder is read"
        return Choice(stem + SUFFIX, notes=(printable(note),) if folders and folders != ["."] else ())
    below = "/".join(folders)
    plain = all(folder and folder not in (".", "..") for folder in folders)
    return Choice(stem + SUFFIX, below) if folders and plain and f"{below}/{stem}{SUFFIX}" in names else None


def _without_index(where: str, stem: str) -> NotFound:
    return NotFound(
        f"{where} has data shards of {printable(stem)}, but not {printable(stem)}{SUFFIX}, which says what is in them",
        "fetch the index, and put it beside them",
    )
