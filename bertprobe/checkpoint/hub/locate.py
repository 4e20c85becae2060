"""A model's name on the Hub → its files: from the local cache where it has them, else where they lie."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bertprobe.checkpoint.choose import Located, OpenOptions, locate_in
from bertprobe.checkpoint.folder import LocalFolder
from bertprobe.checkpoint.hub.address import COMMIT, Address, parse
from bertprobe.checkpoint.hub.client import Client
from bertprobe.checkpoint.hub.download import download
from bertprobe.checkpoint.hub.endpoint import host_of, without_user
from bertprobe.checkpoint.hub.patience import TRIES, Unreachable
from bertprobe.checkpoint.hub.repository import HubFolder, Repository, ask, snapshot, warm, what_is_cached
from bertprobe.checkpoint.hub.settings import read_settings
from bertprobe.checkpoint.source import LocalFile
from bertprobe.errors import BertprobeError, HubError, NotFound, printable, quoted

PUBLIC = "https://huggingface.co"


def locate_on_hub(ref: str, wanted: OpenOptions) -> Located | None:
    """The checkpoint that a name leads to on the Hub or in the local cache; None if it is no name of a model there.

    A revision is resolved to a commit first, and everything is asked for at that commit. Without a connection the
    cache alone serves, as far as it goes.

    Raises:
        NotFound: there is no such model, revision, folder or file.
        HubError: the Hub cannot be reached, or refuses.
    """
    client = Client(read_settings())
    ref = without_user(ref)  # a page of the Hub may have been copied with HF_ENDPOINT's user and password
    address = parse(ref, _hosts(client))
    return None if address is None else replace(_look_up(client, ref, address, wanted), ref=ref)


def _hosts(client: Client) -> tuple[str, ...]:
    return (host_of(client.endpoint), "huggingface.co", "www.huggingface.co", "hf.co")


def _look_up(client: Client, ref: str, address: Address, wanted: OpenOptions) -> Located:
    cached = snapshot(address.repository, address.revision)
    if client.offline:
        return _offline(ref, address, wanted, cached)
    if cached is not None and COMMIT.fullmatch(address.revision):
        try:
            return _in_cache(address, wanted, cached, "from the local Hub cache")
        except NotFound:
            pass  # the cache has only a part of it
    try:
        repository = ask(client, address.repository, address.revision, tries=TRIES if cached is None else 1)
    except Unreachable as error:
        if cached is None:
            raise _or_a_path(ref, address, error) from error
        try:
            return _in_cache(address, wanted, cached, f"from the local Hub cache, as {error.found}")
        except NotFound as partial:
            raise HubError(f"{error.found}; and of the local Hub cache, {partial.found}", error.hint) from error
    except NotFound as error:
        raise _or_a_path(ref, address, error) from error
    root = HubFolder(repository, "")
    root.warm()
    located = _locate(address, wanted, root)
    if not wanted.download:
        warm(located.files)
    return _note_origin(_fetched(address, wanted, located), repository)


def _locate(address: Address, wanted: OpenOptions, root: HubFolder | LocalFolder) -> Located:
    """What is at a path of the repository: a folder, or a file to be named."""
    above, _, name = address.path.rpartition("/")
    if name and not wanted.weights:
        folder = root.below(above) if above else root
        if folder.is_file(name):
            return locate_in(root, replace(wanted, subfolder="", weights=address.path))
    within = "/".join(part for part in (address.path, wanted.subfolder.strip("/")) if part)
    return locate_in(root, replace(wanted, subfolder=within))


def _fetched(address: Address, wanted: OpenOptions, located: Located) -> Located:
    """The files whole in the cache, if that is wanted and they are not there."""
    folder = located.folder
    if not wanted.download or not isinstance(folder, HubFolder):
        return located
    below = f"{located.within}/" if located.within else ""
    names = [below + name for name in (*(file.name for file in located.files), *located.shards)]
    home = located.home if isinstance(located.home, HubFolder) else folder
    local = download(folder, names, address.revision, home)
    above = len(folder.path.split("/")) - len(home.path.split("/")) + (bool(folder.path) and not home.path)
    return replace(
        located,
        resolved=str(local.path),
        folder=local,
        home=LocalFolder([local.path, *local.path.parents][above]) if home is not folder else None,
        files=tuple(file if isinstance(file, LocalFile) else local.source(below + file.name) for file in located.files),
    )


def _note_origin(located: Located, repository: Repository) -> Located:
    """Where the bytes come from, said in the notes."""
    local = [file.path for file in located.files if isinstance(file, LocalFile)]
    endpoint = repository.client.endpoint
    where = "" if endpoint == PUBLIC else f" ({printable(endpoint)})"
    if not located.files:
        note, resolved = f"settings read from the Hub{where}", located.resolved
    elif len(local) == len(located.files):
        note, resolved = f"from the local Hub cache{where}", str(local[0].parent)
    elif not local:
        note, resolved = f"read from the Hub{where} by byte ranges", located.resolved
    else:
        note, resolved = (
            f"{len(local)} of {len(located.files)} files from the local cache, the rest{where} by byte ranges",
            located.resolved,
        )
    notes = [note, *([f"on the Hub it is {printable(repository.renamed)} now"] if repository.renamed else [])]
    return replace(located, resolved=resolved, revision=repository.commit, notes=(*notes, *located.notes))


def _in_cache(address: Address, wanted: OpenOptions, cached: Path, note: str) -> Located:
    located = _locate(address, wanted, LocalFolder(cached))
    return replace(located, revision=cached.name, notes=(note, *located.notes))


def _offline(ref: str, address: Address, wanted: OpenOptions, cached: Path | None) -> Located:
    if cached is not None:
        return _in_cache(address, wanted, cached, "from the local Hub cache")
    nowhere = "" if address.explicit else f"there is no path {quoted(ref)}, and "
    held = what_is_cached(address.repository)
    raise NotFound(
        f"{nowhere}{printable(address.repository)}{'@' * bool(address.revision)}{printable(address.revision)} "
        f"is not in the local Hub cache{held}",
        "the network is switched off by HF_HUB_OFFLINE: unset it, or run hf download where there is one",
    )


def _or_a_path(ref: str, address: Address, error: BertprobeError) -> BertprobeError:
    """What was typed may as well have been meant for a path."""
    nowhere = f"there is no path {quoted(ref)}, and {error.found}"
    return error if address.explicit else type(error)(nowhere, error.hint)
