"""A stand-in for the Hugging Face Hub on loopback: the hub itself, and the storage that it sends large files to.

It answers as huggingface_hub 2.4 and transformers 5 ask, with the headers and error codes of the real Hub, keeps what
it was asked in `requests`, and misbehaves on demand (`FAULTS`). The two origins are two ports of 127.0.0.1.
"""

from __future__ import annotations

import gzip as gzip_module
import hashlib
import hmac
import inspect
import json
import re
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Any, Literal, NoReturn
from urllib.parse import parse_qs, quote, unquote, urlencode

Origin = Literal["hub", "storage"]

CHUNK = 1 << 18
# What a new repository's .gitattributes keeps in LFS whatever its size, as far as weights go.
LFS_NAME = re.compile(r"\.(safetensors|bin|pt|pth|h5|ckpt|msgpack|onnx|data-[^/]*)$")
# What follows a repository's id in the API's paths.
API_WORDS = {"revision", "tree", "refs", "commits", "paths-info", "discussions", "auth-check"}
RESOLVE = re.compile(r"/((?:[^/]+/)?[^/]+)/resolve/([^/]+)/(.+)")
RESOLVE_CACHE = re.compile(r"/api/resolve-cache/models/(.+?)/([0-9a-f]{40})/(.+)")
BIRTHDAY = "2024-01-01T00:00:00.000Z"


# ------------------------------------------------------------------------------------------------ facts


@dataclass(frozen=True)
class Request:
    """A request as it came, and what was answered."""

    origin: Origin
    method: str
    path: str  # as sent, still quoted
    query: str
    headers: Mapping[str, str]  # names in lower case
    file: str = ""  # the file's name in its repository; at the storage, every name of that content
    lfs: bool = False
    status: int = 0  # 0: not answered
    sent: int = 0  # bytes of the body


@dataclass(frozen=True)
class Blob:
    """A file's content, in memory or on disk, with its hashes in hex."""

    content: bytes | Path
    size: int
    sha256: str
    git: str

    @classmethod
    def of(cls, content: bytes | Path) -> Blob:
        if isinstance(content, bytes):
            return cls(content, len(content), *_hashes(len(content), iter([content])))
        stat = content.stat()
        return cls(content, stat.st_size, *_hashes_of_file(content, stat.st_mtime_ns, stat.st_size))

    def read(self, start: int, stop: int, chunk: int) -> Iterator[bytes]:
        """The bytes of a range, in chunks; beyond the end there are zeros."""
        if isinstance(self.content, bytes):
            for at in range(start, stop, chunk):
                yield self.content[at : min(at + chunk, stop)].ljust(min(chunk, stop - at), b"\0")
            return
        with self.content.open("rb") as file:
            file.seek(start)
            for at in range(start, stop, chunk):
                yield file.read(min(chunk, stop - at)).ljust(min(chunk, stop - at), b"\0")


def _hashes(size: int, chunks: Iterator[bytes]) -> tuple[str, str]:
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
    for chunk in chunks:
        sha256.update(chunk)
        git.update(chunk)
    return sha256.hexdigest(), git.hexdigest()


@cache
def _hashes_of_file(path: Path, mtime: int, size: int) -> tuple[str, str]:
    with path.open("rb") as file:
        return _hashes(size, iter(lambda: file.read(CHUNK), b""))


@dataclass(frozen=True)
class File:
    """A file of a commit; in LFS, git holds a pointer in its place."""

    path: str
    blob: Blob
    lfs: bool

    @property
    def pointer(self) -> bytes:
        head = "version https://git-lfs.github.com/spec/v1"
        return f"{head}\noid sha256:{self.blob.sha256}\nsize {self.blob.size}\n".encode()

    @property
    def oid(self) -> str:
        return Blob.of(self.pointer).git if self.lfs else self.blob.git

    @property
    def etag(self) -> str:
        return f'"{self.blob.sha256 if self.lfs else self.blob.git}"'


@dataclass
class Repository:
    """A model repository: its branches (tags and refs/pr/1 alike) lead to commits, and a commit to files."""

    id: str
    private: bool = False
    gated: bool = False
    disabled: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, File], branch: str) -> str:
        parent = self.branches.get(branch, "")
        listing = [f"{self.id} {parent}", *(f"{path} {file.oid}" for path, file in sorted(files.items()))]
        commit = hashlib.sha1("\n".join(listing).encode()).hexdigest()
        self.branches[branch], self.commits[commit], self.parents[commit] = commit, files, parent
        return commit

    def resolve(self, revision: str) -> str:
        commit = self.branches.get(revision, revision)
        if commit not in self.commits:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit


@dataclass(frozen=True)
class Answer:
    """What is sent: the bytes from `start` to `stop` of a body. Content-Length always tells that length."""

    status: int
    headers: Mapping[str, str]
    body: Blob
    start: int = 0
    stop: int = 0
    wait: float = 0.0  # seconds before anything is sent
    cut: int | None = None  # bytes of the body after which the connection closes
    chunk: int = CHUNK
    pause: float = 0.0  # seconds after each chunk
    head_pause: float = 0.0  # seconds after each byte of the status line and the headers
    silent: Literal["", "close", "reset"] = ""  # ends the connection instead of answering
    raw: Callable[[bytes], Iterable[bytes]] | None = None  # what is sent instead, piece by piece, before it closes


class Refusal(Exception):
    """An error as the Hub words it: status, X-Error-Code and X-Error-Message."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers

    def answer(self, in_json: bool) -> Answer:
        message = str(self)
        line = " ".join(message.encode("ascii", "replace").decode().split())
        headers = {"X-Error-Code": self.code, "X-Error-Message": line}
        headers |= {name.replace("_", "-"): value for name, value in self.headers.items()}
        if self.status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="Authentication required", charset="UTF-8"'
        headers = {name: value for name, value in headers.items() if value}
        return _json({"error": message}, self.status, headers) if in_json else _text(message, self.status, headers)


def _text(text: str, status: int, headers: Mapping[str, str], kind: str = "text/plain; charset=utf-8") -> Answer:
    body = Blob.of(text.encode())
    return Answer(status, {"Content-Type": kind, **headers}, body, 0, body.size)


def _json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    return _text(json.dumps(value), status, headers or {}, "application/json; charset=utf-8")


def _xml(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return _text(text, status, headers or {}, "application/xml")


def _redirect(status: int, location: str, headers: Mapping[str, str]) -> Answer:
    word = "Found" if status == 302 else "Temporary Redirect"
    return _text(f"{word}. Redirecting to {location}", status, {**headers, "Location": location})


def _content(request: Request, blob: Blob, headers: Mapping[str, str]) -> Answer:
    """The range that is asked for, or the whole file, also for several ranges or nonsense, as at S3."""
    headers = {**headers, "Accept-Ranges": "bytes"}
    whole = Answer(200, headers, blob, 0, blob.size)
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if asked is None or not any(asked.groups()):
        return whole
    if request.headers.get("if-range", headers["ETag"]) != headers["ETag"]:
        return whole
    first, last = asked.groups()
    if first and last and int(last) < int(first):
        return whole
    start = int(first) if first else max(0, blob.size - int(last))
    stop = min(int(last) + 1, blob.size) if first and last else blob.size
    if start >= stop:
        return _xml(
            416, "InvalidRange", "The requested range is not satisfiable", {"Content-Range": f"bytes */{blob.size}"}
        )
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{blob.size}"
    return Answer(206, headers, blob, start, stop)


# ------------------------------------------------------------------------------------------------ faults
#
# Each takes the right answer and the request, and gives the wrong answer, or None where it does not apply. Its keyword
# arguments are the settings that `misbehave` takes.


def _without(headers: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in names}


def _has_content(answer: Answer, request: Request) -> bool:
    return request.method == "GET" and answer.status in (200, 206) and answer.stop > answer.start


def _whole(answer: Answer) -> Answer:
    return replace(
        answer, status=200, headers=_without(answer.headers, "Content-Range"), start=0, stop=answer.body.size
    )


def ignore_range(answer: Answer, request: Request) -> Answer | None:
    return _whole(answer) if answer.status == 206 else None


def cut(answer: Answer, request: Request, *, after: int | None = None) -> Answer | None:
    """Closes the connection after so many bytes of the body; half of it by default."""
    if not _has_content(answer, request):
        return None
    return replace(answer, cut=(answer.stop - answer.start) // 2 if after is None else after)


def short(answer: Answer, request: Request, *, by: int = 1) -> Answer | None:
    """Content-Length and body lack bytes; Content-Range claims them all."""
    return replace(answer, stop=max(answer.start, answer.stop - by)) if _has_content(answer, request) else None


def long(answer: Answer, request: Request, *, by: int = 1) -> Answer | None:
    """Content-Length and body have more bytes; Content-Range does not."""
    return replace(answer, stop=answer.stop + by) if _has_content(answer, request) else None


def wrong_range(answer: Answer, request: Request, *, shift: int = 1) -> Answer | None:
    """Content-Range and body of the range that lies `shift` bytes further on, cut at the end of the file."""
    if answer.status != 206:
        return None
    start, stop = max(0, answer.start + shift), min(answer.stop + shift, answer.body.size)
    content_range = f"bytes {start}-{stop - 1}/{answer.body.size}"
    return replace(answer, headers={**answer.headers, "Content-Range": content_range}, start=start, stop=stop)


def no_content_range(answer: Answer, request: Request) -> Answer | None:
    return replace(answer, headers=_without(answer.headers, "Content-Range")) if answer.status == 206 else None


def wrong_total(answer: Answer, request: Request, *, total: int | str | None = None) -> Answer | None:
    """Content-Range with another size of the file (one more by default, "*" for unknown)."""
    if answer.status != 206:
        return None
    head = answer.headers["Content-Range"].partition("/")[0]
    total = answer.body.size + 1 if total is None else total
    return replace(answer, headers={**answer.headers, "Content-Range": f"{head}/{total}"})


def gzip(answer: Answer, request: Request, *, polite: bool = False) -> Answer | None:
    """A compressed body; `polite`: only for a client that accepts it."""
    if not _has_content(answer, request) or (polite and "gzip" not in request.headers.get("accept-encoding", "")):
        return None
    packed = b"".join(answer.body.read(answer.start, answer.stop, CHUNK))
    body = Blob.of(gzip_module.compress(packed, compresslevel=1, mtime=0))
    return replace(answer, headers={**answer.headers, "Content-Encoding": "gzip"}, body=body, start=0, stop=body.size)


def multipart(answer: Answer, request: Request) -> Answer | None:
    """The range as the one part of a multipart/byteranges body."""
    if answer.status != 206 or not _has_content(answer, request):
        return None
    head = f"--seam\r\nContent-Range: {answer.headers['Content-Range']}\r\n\r\n".encode()
    body = Blob.of(head + b"".join(answer.body.read(answer.start, answer.stop, CHUNK)) + b"\r\n--seam--\r\n")
    headers = _without(answer.headers, "Content-Range", "Content-Type")
    headers["Content-Type"] = "multipart/byteranges; boundary=seam"
    return replace(answer, headers=headers, body=body, start=0, stop=body.size)


def etag(answer: Answer, request: Request, *, value: str = "e" * 64) -> Answer | None:
    """Another ETag, and X-Linked-ETag; an If-Range that does not name it gets the whole file."""
    there = [name for name in ("ETag", "X-Linked-ETag") if name in answer.headers]
    if not there:
        return None
    if answer.status == 206 and request.headers.get("if-range", f'"{value}"') != f'"{value}"':
        answer = _whole(answer)
    return replace(answer, headers={**answer.headers, **dict.fromkeys(there, f'"{value}"')})


def commit(answer: Answer, request: Request, *, value: str = "c" * 40) -> Answer | None:
    """X-Repo-Commit of another commit."""
    if "X-Repo-Commit" not in answer.headers:
        return None
    return replace(answer, headers={**answer.headers, "X-Repo-Commit": value})


def status(
    answer: Answer,
    request: Request,
    *,
    code: int = 503,
    retry_after: float | str | None = None,
    message: str = "The service is out of order.",
    headers: Mapping[str, str] | None = None,
) -> Answer | None:
    """An error; `retry_after` in seconds or as an HTTP date."""
    headers = dict(headers or {})
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    return _json({"error": message}, code, headers)


def expire(answer: Answer, request: Request, *, forever: bool = False, generation: int = 0) -> Answer | None:
    """Signed URLs given out before are refused; `forever`: those given out later, too."""
    if request.origin != "storage" or answer.status == 403:
        return None
    # `generation` is filled in by `misbehave`; each URL carries the one it was signed in.
    signed = int(parse_qs(request.query).get("Generation", ["0"])[0])
    return _xml(403, "AccessDenied", "Request has expired") if forever or signed < generation else None


def trickle(
    answer: Answer, request: Request, *, chunk: int = 1, pause: float = 0.01, errors: bool = False
) -> Answer | None:
    """Sends `chunk` bytes of the body every `pause` seconds; `errors`: also where it is an error."""
    meant = _has_content(answer, request) or (errors and answer.status >= 400)
    return replace(answer, chunk=chunk, pause=pause) if meant else None


def trickle_head(answer: Answer, request: Request, *, pause: float = 0.01) -> Answer | None:
    """Sends a byte of the status line and the headers every `pause` seconds."""
    return replace(answer, head_pause=pause)


def raw(answer: Answer, request: Request, *, instead: Callable[[bytes], Iterable[bytes]]) -> Answer | None:
    """Sends what `instead` makes of the right answer, all its bytes, and closes the connection."""
    return replace(answer, raw=instead)


def hang(answer: Answer, request: Request, *, seconds: float = 60.0) -> Answer | None:
    """Answers only after so many seconds."""
    return replace(answer, wait=seconds)


def reset(answer: Answer, request: Request, *, orderly: bool = False) -> Answer | None:
    """Ends the connection without an answer: by RST, or, `orderly`, by FIN."""
    return replace(answer, silent="close" if orderly else "reset")


def html(answer: Answer, request: Request) -> Answer | None:
    """A page to log in at, as a hotel's network gives for everything."""
    page = "<!DOCTYPE html><html><head><title>Log in</title></head><body><form>Log in</form></body></html>"
    return _text(page, 200, {}, "text/html; charset=utf-8")


def redirect_loop(answer: Answer, request: Request) -> Answer | None:
    return _redirect(302, request.path + (f"?{request.query}" if request.query else ""), {})


def foreign_redirect(answer: Answer, request: Request, *, location: str) -> Answer | None:
    """A redirect to `location`, with the headers that tell of the file as they were."""
    told = {name: value for name, value in answer.headers.items() if name.startswith("X-") or name == "ETag"}
    return _redirect(302, location, told)


def no_sizes(answer: Answer, request: Request) -> Answer | None:
    """Model info as if its files' sizes had not been asked for."""
    if not request.path.startswith("/api/models/") or answer.status != 200:
        return None
    info = json.loads(b"".join(answer.body.read(answer.start, answer.stop, CHUNK)))
    if not isinstance(info, dict) or "siblings" not in info:
        return None
    info["siblings"] = [{"rfilename": file["rfilename"]} for file in info["siblings"]]
    return _json(info, 200, answer.headers)


FAULTS: dict[str, Callable[..., Answer | None]] = {
    function.__name__: function
    for function in (
        ignore_range,
        cut,
        short,
        long,
        wrong_range,
        no_content_range,
        wrong_total,
        gzip,
        multipart,
        etag,
        commit,
        status,
        expire,
        trickle,
        trickle_head,
        raw,
        hang,
        reset,
        html,
        redirect_loop,
        foreign_redirect,
        no_sizes,
    )
}


@dataclass(frozen=True)
class Fault:
    """One of FAULTS, and the requests that meet it: from `skip` on, at most `times`, of those that `match` fits."""

    how: str
    times: int | None = None
    match: str = ""  # part of the path or of the file's name
    origin: Origin | None = None
    skip: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)

    def concerns(self, request: Request) -> bool:
        if self.origin not in (None, request.origin):
            return False
        return self.match in unquote(request.path) or self.match in request.file


# ------------------------------------------------------------------------------------------------ the hub


class Hub:
    """The Hub on loopback; a context manager. What can be set before or while it runs is what `__init__` takes."""

    def __init__(
        self,
        *,
        token: str = "hf_right",
        stranger: str = "hf_stranger",
        latency: float = 0.0,
        relative_redirect: bool = False,
        page_size: int = 1000,
        threshold: int = 10_000,
        lifetime: float = 3600.0,
    ) -> None:
        self.token = token  # gives access to private and gated repositories
        self.stranger = stranger  # is valid, and gives access to neither
        self.latency = latency  # seconds before each answer
        self.relative_redirect = relative_redirect  # small files by way of /api/resolve-cache, as at today's Hub
        self.page_size = page_size  # entries of a page of the tree
        self.threshold = threshold  # bytes from which a file is in LFS, whatever its name
        self.lifetime = lifetime  # seconds for which a signed URL is good
        self.endpoint = ""
        self.storage = ""
        self.requests: list[Request] = []
        self.unknown: list[str] = []  # what was asked for and is not a route here
        self.environment: dict[str, str] = {}  # for a subprocess; the fixture fills it in
        self.bugs: list[BaseException] = []  # raised by the stand-in itself; `stop` raises the first
        self._repositories: dict[str, Repository] = {}
        self._renamed: dict[str, str] = {}
        self._blobs: dict[str, Blob] = {}
        self._names: dict[str, set[str]] = {}
        self._faults: list[tuple[Fault, list[int]]] = []
        self._generation = 0
        self._servers: dict[Origin, _Server] = {}
        self._ports: dict[Origin, int] = {"hub": 0, "storage": 0}
        self._stopping = Event()
        self._lock = Lock()

    def start(self) -> Hub:
        """Opens both ports; after a `stop`, the same as before."""
        self._stopping.clear()
        for origin in self._ports:
            server = self._servers[origin] = _Server(self, origin, self._ports[origin])
            self._ports[origin] = server.server_address[1]
            server.loop.start()
        self.endpoint, self.storage = (f"http://127.0.0.1:{port}" for port in self._ports.values())
        return self

    def stop(self) -> None:
        """Closes ports, connections and threads, also those that hang."""
        self._stopping.set()
        for server in self._servers.values():
            server.end()
        self._servers.clear()
        if self.bugs:
            raise self.bugs.pop(0)

    def __enter__(self) -> Hub:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def add(
        self,
        repo_id: str,
        files: Mapping[str, bytes | Path],
        *,
        branch: str = "main",
        private: bool = False,
        gated: bool = False,
        disabled: bool = False,
    ) -> str:
        """Makes a commit of exactly these files on a branch, a tag or refs/pr/1, and gives its hash."""
        blobs = {path: Blob.of(content) for path, content in files.items()}
        made = {path: File(path, blob, self._is_lfs(path, blob)) for path, blob in blobs.items()}
        with self._lock:
            for path, blob in blobs.items():
                self._blobs[blob.sha256] = blob
                self._names.setdefault(blob.sha256, set()).add(path)
            repository = self._repositories.setdefault(repo_id, Repository(repo_id))
            repository.private, repository.gated, repository.disabled = private, gated, disabled
            return repository.commit(made, branch)

    def rename(self, old: str, new: str) -> None:
        """Sends who asks for the old id to the new one, as bert-base-uncased to google-bert/bert-base-uncased."""
        self._renamed[old] = new

    def weights(self) -> list[Request]:
        """The requests for LFS files, redirects included."""
        return [request for request in list(self.requests) if request.lfs]

    def leaks(self) -> list[Request]:
        """The requests that carried a token to the storage."""
        return [r for r in list(self.requests) if r.origin == "storage" and "authorization" in r.headers]

    def misbehave(
        self,
        how: str | Fault,
        *,
        times: int | None = None,
        match: str = "",
        origin: Origin | None = None,
        skip: int = 0,
        **settings: Any,
    ) -> None:
        """Adds a fault; several are applied in the order they were added. Only requests that it changes count."""
        fault = how if isinstance(how, Fault) else Fault(how, times, match, origin, skip, settings)
        if fault.how == "expire":
            self._generation += 1
            fault = replace(fault, settings={**fault.settings, "generation": self._generation})
        inspect.signature(FAULTS[fault.how]).bind(None, None, **fault.settings)
        with self._lock:
            self._faults.append((fault, [0]))

    def behave(self) -> None:
        """Ends all faults; signed URLs that were made to expire are good again."""
        with self._lock:
            self._faults.clear()

    # -------------------------------------------------------------------------------------------- answers

    def answer(self, request: Request) -> tuple[Request, Answer]:
        """The answer, faults and all, and the request with the file that it is about."""
        request = replace(request, **self._about(request))
        try:
            answer = self._stored(request) if request.origin == "storage" else self._routed(request)
        except Refusal as refusal:
            answer = refusal.answer(request.path.startswith("/api/"))
        for fault, met in list(self._faults):
            wrong = FAULTS[fault.how](answer, request, **fault.settings) if fault.concerns(request) else None
            if wrong is not None and self._meets(fault, met):
                answer = wrong
        return request, answer

    def _meets(self, fault: Fault, met: list[int]) -> bool:
        with self._lock:
            met[0] += 1
            return met[0] > fault.skip and (fault.times is None or met[0] <= fault.skip + fault.times)

    def _is_lfs(self, path: str, blob: Blob) -> bool:
        return blob.size >= self.threshold or LFS_NAME.search(path) is not None

    def _about(self, request: Request) -> dict[str, Any]:
        """The fields `file` and `lfs` of a request, whether or not it will be allowed."""
        if request.origin == "storage":
            names = self._names.get(request.path.removeprefix("/blob/"), set())
            return {"file": ", ".join(sorted(names)), "lfs": True}
        if resolved := RESOLVE.fullmatch(request.path):
            name, revision, path = (unquote(part) for part in resolved.groups())
            repository = self._repositories.get(self._renamed.get(name, name), Repository(""))
            file = repository.commits.get(repository.branches.get(revision, revision), {}).get(path)
            return {"file": path, "lfs": file is not None and file.lfs}
        if request.path.startswith("/api/resolve-cache/"):
            return {"file": unquote(request.path.rpartition("/")[2])}
        return {}

    def _routed(self, request: Request) -> Answer:
        self._check_token(request)
        if request.method != "POST":
            if resolved := RESOLVE.fullmatch(request.path):
                return self._file(request, *(unquote(part) for part in resolved.groups()))
            if cached := RESOLVE_CACHE.fullmatch(request.path):
                return self._file(request, *(unquote(part) for part in cached.groups()), max_parallel=True)
            if request.path.startswith("/api/models/"):
                # Split before unquoting: refs%2Fpr%2F1 is one segment.
                name, *rest = (unquote(segment) for segment in request.path.removeprefix("/api/models/").split("/"))
                if rest and rest[0] not in API_WORDS:
                    name = f"{name}/{rest.pop(0)}"
                return self._api(request, name, rest)
        return self._not_a_route(request)

    def _not_a_route(self, request: Request) -> NoReturn:
        self.unknown.append(f"{request.method} {request.path}")
        raise Refusal(404, "", "Sorry, we can't find the page you are looking for.")

    def _api(self, request: Request, name: str, rest: list[str]) -> Answer:
        if name in self._renamed:
            return self._moved(request, name)
        repository = self._visible(request, name)
        match rest:
            case [] | ["revision", _]:
                return self._info(request, repository, rest[1] if rest else "main")
            case ["tree", revision, *path]:
                return self._tree(request, repository, revision, "/".join(path))
            case ["refs"]:
                return _json(_refs(repository))
            case ["commits", revision]:
                return _json(_commits(repository, repository.resolve(revision)))
            case ["auth-check"]:
                self._check_gate(request, repository)
                return _json({})
        # No discussions: after them, transformers asks a Space on the internet to convert a .bin.
        return self._not_a_route(request)

    def _moved(self, request: Request, name: str) -> Answer:
        location = request.path.replace(name, self._renamed[name], 1)
        return _redirect(307, location + (f"?{request.query}" if request.query else ""), {})

    def _token(self, request: Request) -> str:
        return request.headers.get("authorization", "").removeprefix("Bearer ")

    def _check_token(self, request: Request) -> None:
        if self._token(request) not in ("", self.token, self.stranger):
            raise Refusal(401, "", "Invalid credentials in Authorization header")

    def _visible(self, request: Request, name: str) -> Repository:
        repository = self._repositories.get(name)
        if repository is None or (repository.private and self._token(request) != self.token):
            if self._token(request):
                raise Refusal(404, "RepoNotFound", "Repository not found")
            # The real Hub gives no code with this 401: the client then goes by its https:// address, which is not ours.
            raise Refusal(401, "RepoNotFound", "Invalid username or password.")
        if repository.disabled:
            raise Refusal(403, "", "Access to this resource is disabled.")
        return repository

    def _check_gate(self, request: Request, repository: Repository) -> None:
        if not repository.gated or self._token(request) == self.token:
            return
        head = f"Access to model {repository.id} is restricted"
        if self._token(request):
            ask = f"Visit {self.endpoint}/{repository.id} to ask for access."
            raise Refusal(403, "GatedRepo", f"{head} and you are not in the authorized list. {ask}")
        have = "You must have access to it and be authenticated to access it. Please log in."
        raise Refusal(401, "GatedRepo", f"{head}. {have}")

    def _info(self, request: Request, repository: Repository, revision: str) -> Answer:
        commit = repository.resolve(revision)
        files = [file for _, file in sorted(repository.commits[commit].items())]
        sizes = _flag(request, "blobs")
        return _json(
            {
                "_id": hashlib.sha1(repository.id.encode()).hexdigest()[:24],
                "id": repository.id,
                "modelId": repository.id,
                "author": repository.id.rpartition("/")[0] or None,
                "sha": commit,
                "lastModified": BIRTHDAY,
                "createdAt": BIRTHDAY,
                "private": repository.private,
                "gated": "auto" if repository.gated else False,
                "disabled": repository.disabled,
                "downloads": 0,
                "likes": 0,
                "tags": [],
                "siblings": [_sibling(file, sizes) for file in files],
            }
        )

    def _tree(self, request: Request, repository: Repository, revision: str, folder: str) -> Answer:
        commit = repository.resolve(revision)
        entries = _entries(repository.commits[commit], folder, _flag(request, "recursive"))
        if folder and not entries:
            missing = f'"{folder}" does not exist on "{revision}"'
            raise Refusal(404, "EntryNotFound", missing, X_Repo_Commit=commit)
        if _flag(request, "expand"):
            last = {"id": commit, "title": "upload", "date": BIRTHDAY}
            entries = [{**entry, "lastCommit": last} for entry in entries]
        query = {name: values[0] for name, values in parse_qs(request.query).items()}
        start = int(query.get("cursor", 0))
        stop = start + min(self.page_size, int(query.get("limit", self.page_size)))
        headers = {}
        if stop < len(entries):
            further = urlencode({**query, "cursor": stop})
            headers["Link"] = f'<{self.endpoint}{request.path}?{further}>; rel="next"'
        return _json(entries[start:stop], 200, headers)

    def _file(self, request: Request, name: str, revision: str, path: str, *, max_parallel: bool = False) -> Answer:
        if name in self._renamed:
            return self._moved(request, name)
        repository = self._visible(request, name)
        self._check_gate(request, repository)
        commit = repository.resolve(revision)
        file = repository.commits[commit].get(path)
        if file is None:
            raise Refusal(404, "EntryNotFound", "Entry not found", X_Repo_Commit=commit)
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        linked = {"X-Linked-Size": str(file.blob.size), "X-Linked-ETag": file.etag}
        if file.lfs:
            return _redirect(302, self._sign(file.blob.sha256), {**headers, **linked})
        if self.relative_redirect and not max_parallel:
            origin = quote(request.path, safe="")
            location = f"/api/resolve-cache/models/{name}/{commit}/{quote(path)}?{origin}=&etag={quote(file.etag)}"
            return _redirect(307, location, {**headers, **linked})
        headers["Content-Disposition"] = f"inline; filename*=UTF-8''{quote(path.rpartition('/')[2])};"
        headers |= {"Content-Type": "text/plain; charset=utf-8", "ETag": file.etag}
        return _content(request, file.blob, headers)

    # -------------------------------------------------------------------------------------------- storage

    def _sign(self, sha256: str) -> str:
        expires, generation = str(int(time.time() + self.lifetime)), str(self._generation)
        query = {"Expires": expires, "Generation": generation, "Signature": _signature(sha256, expires, generation)}
        return f"{self.storage}/blob/{sha256}?{urlencode(query)}"

    def _stored(self, request: Request) -> Answer:
        sha256 = request.path.removeprefix("/blob/")
        query = {name: values[0] for name, values in parse_qs(request.query).items()}
        expires, generation = query.get("Expires", ""), query.get("Generation", "")
        if not hmac.compare_digest(
            query.get("Signature", "").encode(), _signature(sha256, expires, generation).encode()
        ):
            return _xml(403, "SignatureDoesNotMatch", "The request signature we calculated does not match")
        if int(expires) <= time.time():
            return _xml(403, "AccessDenied", "Request has expired")
        # The real storage's ETag looks like the file's sha256, and is another hash.
        etag = f'"{hashlib.sha256(sha256.encode()).hexdigest()}"'
        return _content(request, self._blobs[sha256], {"Content-Type": "application/octet-stream", "ETag": etag})


def _signature(*signed: str) -> str:
    return hmac.digest(b"key", "\n".join(signed).encode(), "sha256").hex()


def _flag(request: Request, name: str) -> bool:
    return parse_qs(request.query).get(name, ["false"])[0].lower() in ("true", "1")


def _sibling(file: File, sizes: bool) -> dict[str, Any]:
    if not sizes:
        return {"rfilename": file.path}
    told: dict[str, Any] = {"rfilename": file.path, "blobId": file.oid, "size": file.blob.size}
    if file.lfs:
        told["lfs"] = {"sha256": file.blob.sha256, "size": file.blob.size, "pointerSize": len(file.pointer)}
    return told


def _entries(files: Mapping[str, File], folder: str, recursive: bool) -> list[dict[str, Any]]:
    """What is in a folder of a commit, as the tree route tells it: folders, then files, each by name."""
    inside = f"{folder}/" if folder else ""
    below = {path: file for path, file in sorted(files.items()) if path.startswith(inside)}
    folders = {str(parent) for path in below for parent in Path(path).parents} - {".", folder}
    entries: list[dict[str, Any]] = [
        {"type": "directory", "oid": Blob.of(path.encode()).git, "size": 0, "path": path}
        for path in sorted(folders)
        if path.startswith(inside)
    ]
    for path, file in below.items():
        entry: dict[str, Any] = {"type": "file", "oid": file.oid, "size": file.blob.size, "path": path}
        if file.lfs:
            entry["lfs"] = {"oid": file.blob.sha256, "size": file.blob.size, "pointerSize": len(file.pointer)}
        entries.append(entry)
    return [entry for entry in entries if recursive or "/" not in entry["path"].removeprefix(inside)]


def _refs(repository: Repository) -> dict[str, Any]:
    heads = {name: commit for name, commit in repository.branches.items() if not name.startswith("refs/pr/")}
    pulls = {name: commit for name, commit in repository.branches.items() if name not in heads}
    return {
        "branches": [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in heads.items()],
        "tags": [],
        "converts": [],
        "pullRequests": [{"name": n.rpartition("/")[2], "ref": n, "targetCommit": c} for n, c in pulls.items()],
    }


def _commits(repository: Repository, commit: str) -> list[dict[str, Any]]:
    history = []
    while commit:
        history.append(
            {"id": commit, "title": "upload", "message": "", "authors": [{"user": "someone"}], "date": BIRTHDAY}
        )
        commit = repository.parents[commit]
    return history


# ------------------------------------------------------------------------------------------------ HTTP


class _Server(ThreadingTCPServer):
    """One origin: a thread a connection, all of which `end` ends."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, hub: Hub, origin: Origin, port: int) -> None:
        self.hub = hub
        self.origin = origin
        self.connections: set[socket.socket] = set()
        self.threads: list[Thread] = []
        self.lock = Lock()
        self.loop = Thread(target=self.serve_forever, args=(0.02,), name=f"hub {origin}", daemon=True)
        super().__init__(("127.0.0.1", port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        with self.lock:
            self.connections.add(request)
            self.threads = [one for one in self.threads if one.is_alive()] + [thread]
            thread.start()

    def shutdown_request(self, request: Any) -> None:
        # No shutdown() before close(): it would send FIN where `reset` wants RST.
        with self.lock:
            self.connections.discard(request)
        request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        gone = isinstance(error, ConnectionError) or self.hub._stopping.is_set()
        if error is not None and not gone:
            self.hub.bugs.append(error)

    def end(self) -> None:
        self.shutdown()
        self.server_close()
        with self.lock:
            for connection in self.connections:
                with suppress(OSError):  # the client may be gone already
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in [self.loop, *self.threads]:
            thread.join(timeout=5)


class _Handler(BaseHTTPRequestHandler):
    """One connection, kept alive between requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.request_seen = Request(self.server.origin, self.command, path, query, headers)
        hub = self.server.hub
        hub.requests.append(self.request_seen)
        request, answer = hub.answer(self.request_seen)
        self._note(request)
        self._send(answer)

    do_HEAD = do_POST = do_GET  # noqa: N815

    def _send(self, answer: Answer) -> None:
        if self._sleep(self.server.hub.latency + answer.wait):
            return
        if answer.silent:
            self._leave(answer.silent == "reset")
            return
        self._note(replace(self.request_seen, status=answer.status))
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(answer.stop - answer.start))
        self._send_head(answer)
        if self.command != "HEAD" and answer.raw is None:
            self._send_body(answer)

    def _send_head(self, answer: Answer) -> None:
        if answer.raw is None and not answer.head_pause:
            self.end_headers()
            return
        head = b"".join([*self._headers_buffer, b"\r\n"])  # type: ignore[attr-defined]
        self._headers_buffer = []
        if answer.raw is None:
            self._send_pieces((bytes([byte]) for byte in head), answer.head_pause)
            return
        body = b"" if self.command == "HEAD" else b"".join(answer.body.read(answer.start, answer.stop, CHUNK))
        self._send_pieces(answer.raw(head + body), 0)
        self._leave()

    def _send_pieces(self, pieces: Iterable[bytes], pause: float) -> None:
        for piece in pieces:
            self.wfile.write(piece)
            if self._sleep(pause):
                return

    def _send_body(self, answer: Answer) -> None:
        stop = answer.stop if answer.cut is None else min(answer.stop, answer.start + answer.cut)
        for chunk in answer.body.read(answer.start, stop, answer.chunk):
            # Noted first: a client that has the last byte may look at once.
            self._note(replace(self.request_seen, sent=self.request_seen.sent + len(chunk)))
            self.wfile.write(chunk)
            if self._sleep(answer.pause):
                return
        if stop < answer.stop:
            self._leave()

    def _sleep(self, seconds: float) -> bool:
        """Whether the Hub was stopped meanwhile."""
        if seconds <= 0 or not self.server.hub._stopping.wait(seconds):
            return False
        self._leave()
        return True

    def _leave(self, max_parallel: bool = False) -> None:
        self.close_connection = True
        if max_parallel:  # RST
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _note(self, request: Request) -> None:
        """Puts the request in place of what was noted of it, unless the test has emptied the list."""
        requests = self.server.hub.requests
        with self.server.hub._lock:
            for at in range(len(requests) - 1, -1, -1):
                if requests[at] is self.request_seen:
                    requests[at] = request
                    break
        self.request_seen = request

    def log_message(self, format: str, *args: Any) -> None:
        pass
