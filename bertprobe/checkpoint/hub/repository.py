"""A repository of the Hub at one commit, as a folder: what is cached is read from there, the rest by byte ranges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bertprobe.checkpoint.choose import others_of, settings_of
from bertprobe.checkpoint.folder import small_text
from bertprobe.checkpoint.hub.address import COMMIT, could_be_on_hub
from bertprobe.checkpoint.hub.client import Client
from bertprobe.checkpoint.hub.endpoint import without_secrets
from bertprobe.checkpoint.hub.file import AT_ONCE, HubFile
from bertprobe.checkpoint.hub.patience import started
from bertprobe.checkpoint.source import LocalFile, Source
from bertprobe.errors import HubError, NotFound, printable, quoted, shortened
from bertprobe.filenames import CONFIGS, MODULES
from bertprobe.storages import usual_files

LONGEST_PATH = 1024  # characters of a file's path in a repository


@dataclass(frozen=True)
class Repository:
    """What the Hub lists of a repository at one commit; `sizes` by path, None where it does not say.

    `renamed` is the name it has now, where that is another than `id`, by which it was asked for.
    """

    client: Client
    id: str
    commit: str
    sizes: Mapping[str, int | None]
    renamed: str = ""
    sources: dict[str, Source] = field(default_factory=dict)

    def cached(self, path: str) -> Path | None:
        """Where the local cache has a file at this commit."""
        return _cached(self.id, path, self.commit)

    def source(self, path: str) -> Source:
        if path not in self.sizes:
            raise NotFound(f"{self.id} has no file {quoted(path)}", "see what it has: bertprobe inspect " + self.id)
        if path not in self.sources:
            local = self.cached(path) if self._is_whole_in_cache(path) else None
            folder = path.rpartition("/")[0]
            self.sources[path] = (
                LocalFile(local)
                if local is not None
                else HubFile(self.client, self.id, self.commit, path, self.sizes[path], HubFolder(self, folder).source)
            )
        return self.sources[path]

    def _is_whole_in_cache(self, path: str) -> bool:
        """Whether what a file needs beside it is in the cache, too: an index reads the data's shards from there."""
        above, _, name = path.rpartition("/")
        folder = HubFolder(self, above)
        return all(self.cached(folder.inside(other)) is not None for other in others_of(name, folder))


def ask(client: Client, id: str, revision: str, *, tries: int) -> Repository:
    """What the Hub has under a repository's id at a revision, pinned to the commit that it names."""
    what = f"{id}@{revision}" if revision else id
    path = f"/api/models/{id}/revision/{quote(revision or 'main', safe='')}?blobs=true"
    told = client.json(path, what, tries=tries)
    try:
        commit = told["sha"]
        sizes = {_path(entry["rfilename"], what): _size(entry.get("size")) for entry in told["siblings"]}
    except (TypeError, KeyError, AttributeError) as error:
        raise HubError(f"{what}: {client.endpoint} answers otherwise than the Hub", "is HF_ENDPOINT right?") from error
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        said = quoted(without_secrets(str(commit)))
        raise HubError(f"{what}: {client.endpoint} tells {said} for the commit", "is HF_ENDPOINT right?")
    named = told.get("id")
    renamed = named if isinstance(named, str) and named != id and could_be_on_hub(named) else ""
    return Repository(client, id, commit, sizes, renamed)


def _path(said: Any, what: str) -> str:
    """A file's path as it is listed; raises for one that no repository can have."""
    path = str(said)
    odd = len(path) > LONGEST_PATH or "\0" in path or not _is_text(path)
    if not isinstance(said, str) or odd or {"", ".", ".."} & set(path.split("/")):
        shown = quoted(without_secrets(path))
        raise HubError(f"{what} lists {shown}, which is no path of a file", "is HF_ENDPOINT right?")
    return path


def _is_text(path: str) -> bool:
    """Whether there is no half of a surrogate pair in it: JSON can have one, an address cannot."""
    return path.isascii() or not any("\ud800" <= char <= "\udfff" for char in path)


def _size(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 2**63 else None


def warm(sources: Iterable[Source]) -> None:
    """Fetches the heads of files that will be asked for, side by side; a failure is raised to who reads that file."""
    files = [source for source in sources if isinstance(source, HubFile)]
    for at in range(0, len(files), AT_ONCE):
        heads = [started(file.warm) for file in files[at : at + AT_ONCE]]
        if not all(head.result() for head in heads):
            return


class HubFolder:
    """A folder of a repository, empty for its root."""

    def __init__(self, repository: Repository, path: str) -> None:
        self.repository = repository
        self.path = path
        self._texts: dict[str, str] = {}

    @property
    def address(self) -> str:
        return f"{self.repository.id}/{self.path}".rstrip("/")

    @property
    def resolved(self) -> str:
        return f"hf://{self.repository.id}@{self.repository.commit}/{self.path}".rstrip("/")

    @property
    def name(self) -> str:
        return (self.path or self.repository.id).rpartition("/")[2]

    @cached_property
    def names(self) -> Set[str]:
        inside = self.inside("")
        return {path[len(inside) :].partition("/")[0] for path in self.repository.sizes if path.startswith(inside)}

    def at(self, name: str) -> str:
        return f"{self.address}/{name}"

    def is_file(self, name: str) -> bool:
        return self.inside(name) in self.repository.sizes

    def is_folder(self, name: str) -> bool:
        inside = self.inside(name) + "/"
        return any(path.startswith(inside) for path in self.repository.sizes)

    def below(self, name: str) -> HubFolder:
        return HubFolder(self.repository, self.inside(name))

    @property
    def above(self) -> HubFolder | None:
        return HubFolder(self.repository, self.path.rpartition("/")[0]) if self.path else None

    def text(self, name: str) -> str:
        if name not in self._texts:
            self._texts[name] = small_text(self.source(name))
        return self._texts[name]

    def source(self, name: str) -> Source:
        return self.repository.source(self.inside(name))

    def warm(self) -> None:
        """Fetches the settings that will be asked for, side by side."""
        warm(map(self.source, settings_of(self)))

    def prepare(self, names: Iterable[str]) -> None:
        for source in map(self.source, names):
            if isinstance(source, HubFile):
                started(source.warm)  # nobody waits: who reads a file waits for it, and is told what failed

    def inside(self, name: str) -> str:
        """The path in the repository of a name in this folder."""
        return f"{self.path}/{name}" if self.path else name


# ------------------------------------------------------------------------------------------------ the cache


def snapshot(id: str, revision: str) -> Path | None:
    """The folder of the local cache with a repository at a revision, as far as it is there."""
    # The client finds a snapshot by a file in it: of these a model has at least one.
    files = (*CONFIGS, *usual_files(), MODULES, "tokenizer.json", "vocab.txt", "README.md")
    return next((path.parent for name in files if (path := _cached(id, name, revision or "main"))), None)


def _cached(id: str, path: str, revision: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(id, path, revision=revision)
    except (HFValidationError, OSError, ValueError):
        return None
    return Path(found) if isinstance(found, str) else None


def what_is_cached(id: str) -> str:
    """What the cache has, to go on after its name: the commits of this repository, else the models."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    commits = _names(cache / f"models--{id.replace('/', '--')}" / "snapshots")
    if commits:
        return f", which has it at {shortened([commit[:12] for commit in commits])}"
    models = [name.removeprefix("models--").replace("--", "/") for name in _names(cache) if name.startswith("models--")]
    return f", which has {shortened(list(map(printable, models)))}" if models else ", which is empty"


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return []
