"""Whole files into the local cache, by huggingface_hub's own download, followed from outside so that it ends.

Its requests are seen through the hooks of its session: when one of them brings too little, or waits too long, the
download is left, and its next request refused. What is not seen is not judged: what hf_xet fetches, where that is
installed, and the time for which another process holds the lock of a file.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from math import inf
from pathlib import Path
from threading import get_ident
from typing import Any

from bertprobe._version import __version__
from bertprobe.checkpoint.choose import module_files
from bertprobe.checkpoint.folder import LocalFolder
from bertprobe.checkpoint.hub.client import Client
from bertprobe.checkpoint.hub.endpoint import host_of, reason_of, words_of
from bertprobe.checkpoint.hub.headers import asked_to_wait
from bertprobe.checkpoint.hub.patience import FAREWELL, Dropped, Pace, hang_up, is_done, started
from bertprobe.checkpoint.hub.repository import HubFolder, Repository, snapshot
from bertprobe.errors import BertprobeError, HubError
from bertprobe.filenames import POOLING

_SMALL = (".json", ".txt", ".model", ".codes", ".bpe")
MOST_SETTINGS = 50 * 2**20  # bytes of a file that can be settings or a vocabulary
MOST_SAID = 2**20  # bytes of an error
SLACK = 64 * 1024  # bytes by which what is packed on the way may be longer than the file
LOOK = 0.2  # seconds between two looks at a download


def download(folder: HubFolder, weights: Iterable[str], revision: str, home: HubFolder) -> LocalFolder:
    """Puts whole files into the cache: the weights named, and the settings and the tokenizer beside them.

    Of `home`, which describes the model as a whole, its settings too, and the modules that it lists.

    Raises:
        NotFound, HubError: as for the reading of ranges; what came until then stays in the cache.
    """
    repository = folder.repository
    beside = [name for name in folder.names if folder.is_file(name) and name.endswith(_SMALL)]
    beside += [name for name in (POOLING,) if folder.is_file(name)]
    around = [name for name in home.names if home.is_file(name) and name.endswith(_SMALL)] if home is not folder else []
    paths = [*map(folder.inside, beside), *map(home.inside, around)]
    settings = [path for path in dict.fromkeys(paths) if (repository.sizes[path] or 0) <= MOST_SETTINGS]
    modules = [path for path in map(home.inside, module_files(home)) if path not in settings]
    here, path = Path(), ""
    for path in (*settings, *modules, *map(folder.inside, weights)):
        here = Path(_downloaded(repository, path, repository.commit, folder.address))
    known = snapshot(repository.id, revision)
    if settings and (known is None or known.name != repository.commit):
        # By the name that was typed, so that the cache, and transformers, know what it led to.
        _downloaded(repository, settings[0], revision or "main", folder.address)
    return LocalFolder(here.parents[path.count("/") - folder.inside("").count("/")])


def _downloaded(repository: Repository, path: str, revision: str, what: str) -> str:
    """Where the cache has a file now."""
    from huggingface_hub import hf_hub_download

    client = repository.client

    def call() -> str:
        return hf_hub_download(
            repository.id,
            path,
            revision=revision,
            endpoint=client.endpoint,
            library_name="bertprobe",
            library_version=__version__,
            headers={"authorization": client.authorization} if client.authorization else None,
        )

    watch = _Watch(client, what, repository.sizes.get(path))
    with _translate_errors(client, what), watch.discreetly():
        return watch.follow(call)


class _Watch:
    """One download: what its request is at, and whether that is too slow.

    Only requests of its own thread count: in a larger program others may use the same session.
    """

    def __init__(self, client: Client, what: str, size: int | None) -> None:
        self._client = client
        self._what = what
        self._most = inf if size is None else size + SLACK
        self._session: Any = None
        self._thread = 0
        self._left = False
        self._host, self._asked = "", 0.0
        self._answer: Any = None
        self._pace = Pace()

    def follow(self, call: Callable[[], str]) -> str:
        """What comes of a download; raises `Dropped` or `HubError` for one that would not end."""
        self._hook(self._client.session)
        running = started(lambda: self._run(call))
        try:
            while not is_done(running, LOOK):
                self._check()
            return running.result()
        finally:
            self._leave(running)

    def _run(self, call: Callable[[], str]) -> str:
        self._thread = get_ident()
        return call()

    def _leave(self, running: Future[str]) -> None:
        """Lets a download that goes on clear away what it has begun: its answer ends, its next request is refused."""
        self._left = True
        if not running.done():
            if self._answer is not None:
                hang_up(self._answer)
            is_done(running, FAREWELL)
        self._unhook()

    def _hook(self, session: Any) -> None:
        hooks = session.event_hooks
        session.event_hooks = {
            "request": [*hooks["request"], self._on_request],
            "response": [*hooks["response"], self._on_response],
        }
        self._session = session

    def _unhook(self) -> None:
        own = (self._on_request, self._on_response)
        hooks = self._session.event_hooks
        self._session.event_hooks = {kind: [hook for hook in hooks[kind] if hook not in own] for kind in hooks}

    def _on_request(self, request: Any) -> None:
        if get_ident() == self._thread:
            if self._left:
                raise Dropped("nobody waits for it any more")
            self._host, self._asked, self._answer = host_of(str(request.url)), time.monotonic(), None

    def _on_response(self, response: Any) -> None:
        if get_ident() == self._thread:
            after = asked_to_wait(response.headers, response.status_code) if response.status_code >= 400 else None
            if after is not None:
                self._client.patience.spend(after, f"{self._what}: {self._host} answers {response.status_code}")
            self._answer, self._pace = response, Pace()

    def _check(self) -> None:
        if self._client.session is not self._session:  # it closes the one it has when a connection fails
            self._hook(self._client.session)
            self._asked = 0.0
        answer = self._answer
        if answer is None:
            if self._asked and time.monotonic() - self._asked > self._client.headers_within:
                raise Dropped(f"{self._host} does not answer within {self._client.headers_within:g} seconds")
        elif not answer.is_closed:
            most = self._most if answer.status_code < 400 else MOST_SAID
            if answer.num_bytes_downloaded > most:
                raise Dropped(f"{self._host} sends more than the {most:,} bytes that it may")
            self._pace.check(answer.num_bytes_downloaded, self._host)

    @contextmanager
    def discreetly(self) -> Iterator[None]:
        """What huggingface_hub logs meanwhile, in one line each, without what is secret in an address."""

        def clean(record: logging.LogRecord) -> bool:
            record.msg, record.args = words_of(record.getMessage(), 1000), ()
            return not self._left

        handlers = list(logging.getLogger("huggingface_hub").handlers)
        for handler in handlers:
            handler.addFilter(clean)
        try:
            yield
        finally:
            for handler in handlers:
                handler.removeFilter(clean)


@contextmanager
def _translate_errors(client: Client, what: str) -> Iterator[None]:
    """The errors of the Hub's client as ours."""
    from huggingface_hub import errors

    try:
        with client.translated(client.endpoint):
            try:
                yield
            except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError) as error:
                # What is not in the cache either is the second thing to say.
                cause = error if isinstance(error, errors.HfHubHTTPError) else error.__cause__ or error
                if isinstance(cause, errors.HfHubHTTPError):
                    client.check(cause.response, what)
                raise cause from None
    except BertprobeError:
        raise
    except Dropped as error:
        raise HubError(f"{what} could not be downloaded ({error})", error.hint) from error
    except Exception as error:  # no room on the disk, or whatever an odd answer makes it raise
        raise HubError(
            f"{what} could not be downloaded ({reason_of(error)})", "make room if there is none, else try again"
        ) from error
