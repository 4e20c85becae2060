"""What the user typed → named tensors as byte ranges. No model is built, and nothing in a file is executed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bertprobe import storages
from bertprobe.checkpoint.bounds import bounded
from bertprobe.checkpoint.choose import Located, OpenOptions, locate_in
from bertprobe.checkpoint.config import checked, contradictions
from bertprobe.checkpoint.folder import Folder, FolderWithin, LocalFolder, parse_json
from bertprobe.checkpoint.locate import locate, locate_tokenizer
from bertprobe.checkpoint.reading import read_tensor, read_tensors
from bertprobe.checkpoint.source import LocalFile, Source
from bertprobe.checkpoint.tensors import DTYPES, Index, Piece, Spelled, TensorHeader, check_readable
from bertprobe.errors import CorruptFile, EndsEarly, NotFound, UnsupportedFile, printable, quoted, shortened
from bertprobe.filenames import (
    CONFIGS,
    MODULE_FOLDER,
    MODULES,
    POOLING,
    SENTENCE_SETTINGS,
    TOKENIZER_SETTINGS,
    VOCABULARIES,
)
from bertprobe.storages import UNREAD_BY_START, UNREAD_BY_SUFFIX, storage_called, storage_of

__all__ = [
    "DTYPES",
    "Checkpoint",
    "LocalFile",
    "Piece",
    "Source",
    "Spelled",
    "TensorHeader",
    "check_readable",
    "headers_in",
    "indexed",
    "open_checkpoint",
    "read_tensor",
    "read_tensors",
]

HEAD = 512  # bytes by which a format is told: of a zip, the name of its first member is among them


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on disk: `headers` by stored name, and what lies beside them.

    `ref` is what was typed, or with a subfolder or a weights file named beside it the place they led to, and
    `resolved` where that led; `config` is what config.json says as far as it can be, None where there is none, and
    `faults` what cannot be, a sentence by key; `settings` is the folder they were read from, `home` the one that
    describes the model as a whole, with sentence-transformers' settings where there are any, and `tokenizer` the one
    with the tokenizer's files, `settings` itself unless another was named; `pooling` the settings of
    sentence-transformers' `1_Pooling` or None; `metadata` the notes in the weights files; `wrapper` the dictionary key
    the tensors lay under in a pickle, and `root` which model was asked for where a file holds several; `revision` a
    commit of the Hub or None; `spelled` is what tensors are by a graph in the file, by stored name;
    `truncated` says of each file that ends too early what is not there.
    """

    ref: str
    resolved: str
    storage: str
    headers: Mapping[str, TensorHeader]
    files: tuple[Source, ...]
    config: Mapping[str, Any] | None
    faults: Mapping[str, str]
    settings: Folder
    home: Folder
    tokenizer: Folder
    pooling: Mapping[str, Any] | None
    metadata: Mapping[str, str]
    wrapper: str
    root: str
    revision: str | None
    notes: tuple[str, ...]
    spelled: Mapping[str, Spelled] = field(default_factory=dict)
    truncated: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """What names it again on a command line."""
        return (self.ref, "--root", self.root) if self.root else (self.ref,)

    @property
    def folder(self) -> Path:
        """The folder on this disk with the weights and what belongs to them; raises `NotFound` if it is elsewhere."""
        first = self.files[0]
        if not isinstance(first, LocalFile):
            raise NotFound(
                f"{printable(self.ref)} is read where it lies, by byte ranges", "open it with download=True to run it"
            )
        return first.path.parent

    @property
    def carried(self) -> tuple[str, ...]:
        """The names of small files, the config among them, that the weights file holds and none lies beside."""
        return self.settings.carried if isinstance(self.settings, FolderWithin) else ()

    @property
    def config_file(self) -> Path | None:
        """The file that `config` was read from, None where there is none on this disk."""
        if self.config is None or {*CONFIGS} & {*self.carried} or not isinstance(self.files[0], LocalFile):
            return None
        find = storage_called(self.storage).reader().config
        for folder in (self.folder, self.folder.parent):  # where weights lie in a folder of their own
            name = find(LocalFolder(folder))
            if name is not None:
                return folder / name
        return None

    @property
    def beside(self) -> tuple[Path, ...]:
        """What lies beside `config_file` and goes with the model: its tokenizer, the modules of its sentence vector."""
        if self.config_file is None:
            return ()
        folder = self.config_file.parent
        found = [folder / name for name in (*VOCABULARIES, *TOKENIZER_SETTINGS) if (folder / name).is_file()]
        if (folder / MODULES).is_file():
            modules = (path for path in sorted(folder.iterdir()) if re.fullmatch(MODULE_FOLDER, path.name))
            found += [path for name in SENTENCE_SETTINGS if (path := folder / name).is_file()]
            found += [path for path in modules if path.is_dir()]
        return tuple(found)

    @property
    def has_foreign_tokenizer(self) -> bool:
        """Whether another place was named for the tokenizer's files than the one beside the weights."""
        return self.tokenizer is not self.settings

    @property
    def bytes_total(self) -> int:
        """Bytes of all weights files."""
        return sum(file.size for file in self.files)

    @property
    def bytes_read(self) -> int:
        """Bytes read of them so far."""
        return sum(file.bytes_read for file in self.files)


def open_checkpoint(
    ref: str,
    *,
    subfolder: str = "",
    weights: str = "",
    root: str = "",
    download: bool = False,
    tokenizer: str | os.PathLike[str] | None = None,
    truncated: bool = False,
) -> Checkpoint:
    """Opens a folder, a weights file, an index file or a model on the Hub, reading headers only.

    Args:
        ref: what the user typed: a path, which goes first, or `owner/name`, `owner/name@revision`, an `hf://` URL or
            the https one of a model's page.
        subfolder: a folder in it.
        weights: the weights file in it, where it has several.
        root: which model of a file that holds several: the dotted keys it lies under in a pickle, or how the names of
            its tensors begin.
        download: whether to put the files of a model on the Hub whole into its local cache, instead of reading byte
            ranges of them where they lie; what is run needs it.
        tokenizer: where the tokenizer lies, if not beside the weights: a folder, or one of its files, which goes before
            the tokenizer.json beside it.
        truncated: whether to open a file, too, that ends before its data do, for the sake of what is left.

    Raises:
        NotFound: nothing is there, or nothing that could be read.
        HubError: the Hub cannot be reached, refuses, or answers otherwise than it must.
        CorruptFile: a file contradicts itself or ends too early.
        UnsupportedFile: a sound file in a form that is not read.
    """
    named = None if tokenizer is None else locate_tokenizer(os.fspath(tokenizer))
    located = locate(ref, OpenOptions(subfolder, weights, download))
    try:
        found = [indexed(file, truncated=truncated) for file in located.files]
    except EndsEarly as error:
        hint = f"{error.hint}; bertprobe inspect --all tells which tensors are there"
        raise EndsEarly(error.found, hint) from error
    indexes = [(name, _rooted(file, index, root)) for file, (name, index) in zip(located.files, found, strict=True)]
    headers: dict[str, TensorHeader] = {}
    for (_, index), file in zip(indexes, located.files, strict=True):
        for header in index.headers:
            if located.weight_map is None or located.weight_map.get(header.name, file.name) == file.name:
                headers.setdefault(header.name, header)
    _check_index(located, headers, root)
    carried: Mapping[str, str] = next((index.settings for _, index in indexes if index.settings), {})
    if root and not headers:
        raise _no_root(located, indexes, root)
    if not headers:
        told = "it has a model's settings and vocabulary alone: name the file that has its weights"
        hint = told if carried else "is it a checkpoint? it may be an empty or another file"
        raise NotFound(f"{located.resolved} holds no tensors", hint)
    # Of several files the first that carries any; a text is made when it is asked for.
    settings = FolderWithin(located.folder, located.files[0], carried) if carried else located.folder
    config = checked(_carried(settings, carried, *CONFIGS) if located.config is None else located.config)
    return Checkpoint(
        # What names the model again, alone: a command that a finding suggests knows of no folder or file beside it.
        ref=located.resolved if subfolder or weights else located.ref or ref,
        resolved=located.resolved,
        storage=indexes[0][0],
        headers=headers,
        files=(*located.files, *(file for _, index in indexes for file in index.others)),
        config=config.sound,
        faults=config.faults,
        settings=settings,
        home=located.home or settings,
        tokenizer=settings if named is None else named,
        pooling=_carried(settings, carried, POOLING) if located.pooling is None else located.pooling,
        metadata={key: value for _, index in indexes for key, value in index.metadata.items()},
        wrapper=indexes[0][1].wrapper,
        root=root,
        revision=located.revision,
        notes=(*located.notes, *_several(indexes, root), *_remarks(indexes), *_differing(located, carried)),
        truncated=tuple(index.truncated for _, index in indexes if index.truncated),
        spelled={name: told for _, index in indexes for name, told in index.spelled.items() if name in headers},
    )


def headers_in(folder: Folder) -> Mapping[str, TensorHeader]:
    """The tensors of a folder with weights of its own, as a module beside the encoder has them, by stored name.

    Raises:
        NotFound: it holds no weights.
        CorruptFile, UnsupportedFile: as `open_checkpoint` does.
    """
    located = locate_in(folder, OpenOptions())
    return {header.name: header for file in located.files for header in indexed(file)[1].headers}


def _carried(folder: Folder, carried: Mapping[str, str], *names: str) -> Mapping[str, Any] | None:
    """The first of these settings that a weights file carries, where none lies beside it."""
    name = next((name for name in names if name in carried), None)
    return None if name is None else parse_json(carried[name], folder.at(name))


def _remarks(indexes: Sequence[tuple[str, Index]]) -> list[str]:
    return [said for _, index in indexes for said in index.remarks]


def _differing(located: Located, carried: Mapping[str, str]) -> list[str]:
    """What the config beside the weights gives otherwise than they do themselves; it goes before."""
    own = None if located.config is None else _carried(located.folder, carried, *CONFIGS)
    return [] if own is None or located.config is None else list(contradictions(located.config, own))


def _rooted(file: Source, index: Index, root: str) -> Index:
    """The index of the model that was chosen, of all that a file holds; an empty one where it does not hold that."""
    if not root or root == index.wrapper:
        return index
    if root in index.models:
        rest = {name: headers for name, headers in index.models.items() if name != root}
        return replace(index, headers=index.models[root], wrapper=root, models={**rest, index.wrapper: index.headers})
    below = tuple(header for header in index.headers if header.name.startswith(f"{root}."))
    return replace(index, headers=below)


def _no_root(located: Located, indexes: Sequence[tuple[str, Index]], root: str) -> NotFound:
    held = [name for _, index in indexes for name in (index.wrapper, *index.models) if name]
    has = f"it has {printable(shortened(held))}" if held else "bertprobe inspect --shapes lists them"
    return NotFound(f"{located.resolved} holds no model under {quoted(root)}", has)


def _several(indexes: Sequence[tuple[str, Index]], root: str) -> list[str]:
    """A note where a file holds several models and nobody said which one is meant."""
    others = [name for _, index in indexes for name in index.models]
    if root or not others:
        return []
    read = indexes[0][1].wrapper
    return [
        f"it holds several models: {printable(read)} is read; others to choose as root: {printable(shortened(others))}"
    ]


def indexed(file: Source, *, truncated: bool = False) -> tuple[str, Index]:
    """The name of the storage that recognises a file by its first bytes, and what that finds in it.

    Of a file that ends before its data do, and is said to be `truncated`, that is what is left. Raises as
    `open_checkpoint` does.
    """
    head = file.read(0, min(HEAD, file.size))
    for storage in storages.STORAGES:
        if storage.reader().recognises(head):
            reader = storage.reader()
            found = (reader.what_is_left if truncated and reader.what_is_left else reader.index)(file)
            return storage.name, bounded(file, found)
    if not head:
        raise CorruptFile(f"{file.address} is empty", "fetch it again")
    starts = (unread for start, unread in UNREAD_BY_START.items() if head.lstrip().startswith(start))
    if unread := next(starts, None) or UNREAD_BY_SUFFIX.get(Path(file.name).suffix):
        raise UnsupportedFile(f"{file.address} is {unread.what}", unread.hint or storages.only_these())
    named = storage_of(file.name)
    if named is not None and named.exclusive:
        return named.name, bounded(file, named.reader().index(file))
    neither = " nor ".join(storage.name for storage in storages.STORAGES)
    raise UnsupportedFile(
        f"{file.address} starts with {printable(repr(head[:8]))}: neither {neither}", f"name {storages.asked_for()}"
    )


def _check_index(located: Located, headers: Mapping[str, TensorHeader], root: str) -> None:
    """Raises `CorruptFile` where shards lack what their index lists; of a model among several, what is its own."""
    if located.weight_map is None:
        return
    below = f"{root}." if root else ""
    missing = [name for name in located.weight_map if name.startswith(below) and name not in headers]
    if missing:
        raise CorruptFile(
            f"{len(missing)} tensors of the index are not in the shards it names: {printable(shortened(missing, 3))}",
            "index and shards are not of one model: fetch both again",
        )
