"""A file on the Hub as a source of byte ranges: each answer is checked against what was asked and against the first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any

from bertprobe.checkpoint.hub.client import Client, Expired
from bertprobe.checkpoint.hub.endpoint import host_of, words_of
from bertprobe.checkpoint.hub.headers import content_range, number
from bertprobe.checkpoint.hub.patience import Dropped
from bertprobe.checkpoint.source import Memory, Source
from bertprobe.errors import BertprobeError, CorruptFile, HubError, printable, quoted

HEAD = 32 * 1024  # read first: a 12-layer BERT's header is 20 to 25 kB
AT_ONCE = 8
KEPT_READ = 128 * 1024  # bytes of a read that is kept, being of an index and soon asked for again
PROGRESS = 64 * 1024  # bytes after which a connection that drops has been of use
WHOLE = "add `download=True` to read it whole"
CHANGED = "it changed while it was being read: start again"


class HubFile:
    """One file of a repository at one commit.

    The first read fetches its first 32 KiB; what an index is read from is kept, the tensors are not. The address that
    the Hub redirects to is kept, too, and asked for anew once when it is refused.
    """

    def __init__(
        self,
        client: Client,
        repository: str,
        commit: str,
        path: str,
        size: int | None,
        sibling: Callable[[str], Source],
    ) -> None:
        self.name = path.rpartition("/")[2]
        self.address = f"{repository}/{path}"
        self.max_parallel = AT_ONCE
        self._taken = 0
        self._lock = Lock()
        self._opening = Lock()
        self._failed: BertprobeError | None = None
        self._client = client
        self._commit = commit
        self._url = client.file_url(repository, path, commit)
        self._sibling = sibling
        self._size = size
        self._kept: list[tuple[int, bytes]] = []
        self._location: str | None = None
        self._etags: dict[str, str | None] = {}

    @property
    def bytes_read(self) -> int:
        return self._taken

    @property
    def size(self) -> int:
        if self._size is None:
            self._first()
        return self._size or 0

    def read(self, start: int, stop: int) -> bytes:
        if not 0 <= start <= stop <= self.size:
            raise CorruptFile(
                f"{self.address} has {self.size:,} bytes, bytes {start:,} to {stop:,} are asked for",
                "the file is damaged or was cut short: tell its authors",
            )
        if (start < HEAD and not self._kept and self.size) or self._failed is not None:
            self._first()
        data = bytearray(next((d[start - a : stop - a] for a, d in self._kept if a <= start < a + len(d)), b""))
        here = start + len(data)
        if here < stop:
            rest = self._fetched(here, stop)
            if len(rest) <= KEPT_READ:
                self._kept.append((here, rest))
            data += rest
        return bytes(data)

    def load(self, start: int, stop: int, memory: Memory | None = None) -> memoryview:
        return memoryview(self.read(start, stop))

    def sibling(self, name: str) -> Source:
        return self._sibling(name)

    def check_unchanged(self) -> None:
        """A commit does not change; each answer is held against it."""

    def warm(self) -> bool:
        """Whether the head could be fetched; if not, the error is kept for whoever reads the file first."""
        with self._opening:
            try:
                self._open()
            except BertprobeError as error:
                self._failed = error
            return self._failed is None

    def _first(self) -> None:
        with self._opening:  # who comes second waits for what the first one gets
            failed, self._failed = self._failed, None
            if failed is not None:
                raise failed
            self._open()

    def _open(self) -> None:
        """Fetches the head, if that was not done."""
        if not self._kept and self._size != 0:
            part = self._fetched(0, HEAD if self._size is None else min(HEAD, self._size))
            self._kept.append((0, part))

    # ------------------------------------------------------------------------------------------------ one range

    def _fetched(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop`; after a dropped connection only what is missing is asked for again."""
        data = bytearray()
        retries = self._client.retries(self.address)
        renewed = False
        while True:
            part = bytearray()
            try:
                self._take(part, start + len(data), stop)
                return bytes(data + part if data else part)
            except Dropped as error:
                data += part
                if len(part) >= PROGRESS:
                    retries.restart()
                if start + len(data) >= (stop if self._size is None else min(stop, self._size)):
                    return bytes(data)
                retries.wait(error)
            except Expired as error:
                if renewed:
                    raise HubError(
                        f"{self.address}: the address that the Hub just gave is refused ({error})", "try again later"
                    ) from error
                renewed, self._location = True, None

    def _take(self, part: bytearray, start: int, stop: int) -> None:
        """Puts what one request brings into `part`."""
        asked = self._location or self._url
        headers = {"range": f"bytes={start}-{stop - 1}"}
        with self._client.get(asked, headers, self.address) as (response, before):
            for hop in before:
                self._check_hop(hop)
            self._client.check(response, self.address, signed=bool(before) or asked != self._url)
            if not before and asked == self._url:
                self._check_hop(response)
            end = self._check_range(response, start, stop)
            self._location = str(response.url)
            try:
                self._client.read(response, part, end - start, self.address)
            finally:
                with self._lock:
                    self._taken += len(part)
            if len(part) < end - start:
                raise Dropped(f"{_host(response)} ended its answer {end - start - len(part):,} bytes early")

    def _check_hop(self, response: Any) -> None:
        """The Hub's own answers, redirects mostly, say which commit and which file they are of."""
        commit = response.headers.get("x-repo-commit")
        if commit is not None and commit != self._commit:
            raise HubError(
                f"{self.address}: the Hub answers for commit {printable(commit[:12])}, not {self._commit[:12]}", CHANGED
            )
        linked = response.headers.get("x-linked-etag")
        if linked is not None and self._etags.setdefault("linked", linked) != linked:
            raise HubError(f"{self.address} has another ETag than before", CHANGED)

    def _check_range(self, response: Any, start: int, stop: int) -> int:
        """Where the answer ends, if it is the range that was asked for of the file that was asked for first."""
        host = _host(response)
        if response.headers.get("content-type", "").startswith("text/html"):
            raise HubError(
                f"{self.address}: {host} answers with a web page instead of the file",
                "it may ask to log in: open it in a browser",
            )
        if response.status_code != 206:
            return self._check_whole(response, start, stop)
        encoding = response.headers.get("content-encoding", "identity")
        told = content_range(response.headers)
        if encoding != "identity" or told is None or (told[2] is None and self._size is None):
            raise HubError(f"{self.address}: {host} answers a range with {_oddity(response.headers)}", WHOLE)
        first, last, size = told
        self._check_size(host, size)
        end = min(stop, self._size or 0)
        length = number(response.headers, "content-length")
        sent = end - start if length is None else length
        if (first, last + 1, sent) != (start, end, end - start):
            raise HubError(
                f"{self.address}: {host} answers with {sent:,} bytes, {first:,} to {last + 1:,}, "
                f"when asked for {start:,} to {end:,}",
                WHOLE,
            )
        etag = response.headers.get("etag")
        if self._etags.setdefault(host, etag) != etag:
            raise HubError(f"{self.address} has another ETag than before", CHANGED)
        return end

    def _check_whole(self, response: Any, start: int, stop: int) -> int:
        """Where the answer ends that gives all of the file; fine where that is not more than was asked for."""
        size = number(response.headers, "content-length")
        if response.status_code != 200 or size is None:
            raise HubError(
                f"{self.address}: {_host(response)} answers a range with status {response.status_code}", WHOLE
            )
        plain = response.headers.get("content-encoding", "identity") == "identity"
        if plain and start == 0 and size <= stop:
            self._check_size(_host(response), size)
            return size
        raise HubError(
            f"{self.address}: {_host(response)} ignores the Range header, "
            f"so all {self._size or size:,} bytes would have to be downloaded",
            "add `download=True` to do that",
        )

    def _check_size(self, host: str, size: int | None) -> None:
        if self._size is None:
            self._size = size
        elif size not in (None, self._size):
            raise HubError(f"{self.address} has {size:,} bytes by {host}, {self._size:,} before", CHANGED)


def _host(response: Any) -> str:
    return host_of(str(response.url))


def _oddity(headers: Mapping[str, str]) -> str:
    """What is wrong with the headers of an answer that should be one range as it is."""
    encoding, range_ = headers.get("content-encoding", "identity"), headers.get("content-range")
    if encoding != "identity":
        return f"Content-Encoding {words_of(encoding)}"
    return "no Content-Range of one range" if range_ is None else f"the Content-Range {quoted(words_of(range_))}"
