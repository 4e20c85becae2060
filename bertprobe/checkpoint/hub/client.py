"""Requests to the Hub: its client's session and headers, answers checked, failures retried, errors told in one line.

The token goes to the Hub's own origin and nowhere else; what the Hub redirects to, a store of large files, never
sees it. Nor does a message: addresses are told through `host_of` and `shown`, other libraries' words through
`reason_of`.
"""

from __future__ import annotations

import json
import re
import ssl
import time
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import cached_property
from importlib import import_module
from math import inf
from threading import Event
from types import ModuleType
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

from bertprobe.checkpoint.hub.endpoint import host_of, is_address, origin_of, reason_of, shown, words_of
from bertprobe.checkpoint.hub.headers import asked_to_wait
from bertprobe.checkpoint.hub.patience import (
    FAREWELL,
    SELDOM,
    TRIES,
    Dropped,
    Patience,
    Retries,
    hang_up,
    is_done,
    keep_pace,
    started,
)
from bertprobe.checkpoint.hub.settings import TOKEN, Settings, build_headers
from bertprobe.errors import BertprobeError, HubError, NotFound, quoted

REDIRECTS = 10
MOST = 50 * 2**20  # bytes of an answer that is no file
ANSWER_WITHIN = 60.0  # seconds for such an answer, once it has begun
STEPS = 3  # before headers come that may each take as long as the time-out: to connect, to send, to be answered

T = TypeVar("T")


class Expired(Exception):
    """A signed URL that is refused now."""


class Client:
    """The Hub as huggingface_hub is set up to see it."""

    def __init__(self, settings: Settings) -> None:
        self.endpoint = settings.endpoint.url
        self.offline = settings.offline
        self._settings = settings
        self.patience = Patience()

    @property
    def headers_within(self) -> float:
        """Seconds until the headers of an answer must be there, those of redirects before it among them."""
        return STEPS * self._settings.timeout

    @property
    def authorization(self) -> str:
        """The header that logs in to the Hub, empty where there is none."""
        return self._headers.get("authorization", "")

    @cached_property
    def _headers(self) -> dict[str, str]:
        return self._in_time(started(lambda: build_headers(self._settings.endpoint)), self.endpoint, self._deadline())

    def retries(self, what: str, tries: int = TRIES) -> Retries:
        return Retries(what, self.patience, tries)

    def file_url(self, repository: str, path: str, commit: str) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(repository, path, revision=commit, endpoint=self.endpoint)

    def json(self, path: str, what: str, *, tries: int = TRIES) -> Any:
        """The answer of the Hub's API under a path, parsed."""
        retries = self.retries(what, tries)
        while True:
            try:
                with self.get(self.endpoint + path, {}, what) as (response, _):
                    self.check(response, what)
                    body = bytearray()
                    self.read(response, body, MOST, what, within=ANSWER_WITHIN)
                return json.loads(self._unpacked(bytes(body), response, what))
            except Dropped as error:
                retries.wait(error)
            except (ValueError, RecursionError) as error:
                raise HubError(
                    f"{what}: {self.endpoint} does not answer in JSON",
                    "is it a Hub (HF_ENDPOINT), or a login page before one?",
                ) from error

    def _unpacked(self, body: bytes, response: Any, what: str) -> bytes:
        """A body as it was before a proxy packed it, which it was not asked to do."""
        encoding = response.headers.get("content-encoding", "identity")
        if encoding == "identity":
            return body
        if encoding != "gzip":
            raise HubError(
                f"{what}: {self.endpoint} answers with Content-Encoding {quoted(words_of(encoding))}", "is it a Hub?"
            )
        unpacker = zlib.decompressobj(wbits=31)
        try:
            text = unpacker.decompress(body, MOST)
        except zlib.error as error:
            raise HubError(f"{what}: {self.endpoint} answers with broken gzip ({error})", "is it a Hub?") from error
        if unpacker.unconsumed_tail:
            raise self._too_much(what, self.endpoint, MOST)
        return text

    @contextmanager
    def get(self, url: str, headers: Mapping[str, str], what: str) -> Iterator[tuple[Any, list[Any]]]:
        """One request, redirects followed by hand: the last answer, its body not yet read, and those before it.

        Raises:
            Dropped: it failed in a way that may pass.
            HubError: it failed for good.
        """
        before: list[Any] = []
        own, deadline = self._for(url), self._deadline()
        for _ in range(REDIRECTS):
            response = self._sent(url, {**own, **headers}, deadline)
            try:
                if not response.has_redirect_location:
                    yield response, before
                    return
            finally:
                response.close()
            before.append(response)
            url = self._redirected(url, response.headers["location"], what)
            own = self._for(url)
        raise HubError(f"{what}: {self.endpoint} redirects more than {REDIRECTS} times", "try again later")

    def read(self, response: Any, into: bytearray, most: int, what: str, *, within: float = inf) -> None:
        """The body of an answer, put `into` a buffer as it comes, so that what came stays when the rest does not.

        Raises:
            Dropped: the connection broke, or it brings too little.
            HubError: there are more than `most` bytes.
        """
        host, left = host_of(str(response.url)), Event()

        def take() -> None:
            for part in response.iter_raw():
                if left.is_set():
                    return
                if len(part) > most - len(into):
                    raise self._too_much(what, host, most)
                into.extend(part)

        reading = started(take)
        try:
            keep_pace(reading, lambda: len(into), host, within)
            self._result(reading, str(response.url))
        finally:
            if not reading.done():
                left.set()
                hang_up(response)
                is_done(reading, FAREWELL)

    def _too_much(self, what: str, host: str, most: int) -> HubError:
        return HubError(f"{what}: {host} sends more than the {most:,} bytes that it may", "is it a Hub (HF_ENDPOINT)?")

    # ------------------------------------------------------------------------------------------------ one request

    def _sent(self, url: str, headers: Mapping[str, str], deadline: float) -> Any:
        """The answer to one request as soon as its headers are there."""
        session, answer = self.session, None
        request = started(
            lambda: session.send(
                session.build_request("GET", url, headers=headers, timeout=self._settings.timeout),
                stream=True,
                follow_redirects=False,
            )
        )
        try:
            answer = self._in_time(request, url, deadline)
            return answer
        finally:
            if answer is None:
                request.add_done_callback(_close)

    def _deadline(self) -> float:
        return time.monotonic() + self.headers_within

    def _in_time(self, call: Future[T], url: str, deadline: float) -> T:
        """What comes of a call, if it does before the deadline for headers."""
        if not is_done(call, deadline - time.monotonic()):
            raise Dropped(f"{host_of(url)} does not answer within {self.headers_within:g} seconds", tries=SELDOM)
        return self._result(call, url)

    def _result(self, call: Future[T], url: str) -> T:
        """What came of a call that has ended, its errors as ours."""
        with self.translated(url):
            try:
                return call.result()
            except (OSError, ValueError) as error:  # not the HTTP library's own: from below it, for an odd address
                raise _lasting(f"{host_of(url)} cannot be asked ({reason_of(error)})") from error

    @property
    def session(self) -> Any:
        """huggingface_hub's, asked for anew each time: it may have closed the one it had."""
        from huggingface_hub.utils import get_session

        try:
            return get_session()
        except Exception as error:  # whatever a proxy, a certificate or somebody's own factory makes it raise
            raise HubError(
                f"huggingface_hub cannot open a connection ({reason_of(error)})",
                "check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE",
            ) from error

    @cached_property
    def library(self) -> ModuleType:
        """The HTTP library that huggingface_hub's session is of: httpx, or what came after it."""
        session = self.session
        for base in type(session).__mro__:
            module = import_module(base.__module__.partition(".")[0])
            if hasattr(module, "TransportError"):
                return module
        raise HubError(
            f"the session of huggingface_hub is a {type(session).__module__} one, which is not known",
            "install a newer bertprobe, or remove the client factory that was set",
        )

    @contextmanager
    def translated(self, url: str) -> Iterator[None]:
        """The HTTP library's exceptions as ours."""
        library = self.library
        host = host_of(url)
        try:
            yield
        except library.TimeoutException as error:
            raise Dropped(f"{host} does not answer within {self._settings.timeout:g} seconds") from error
        except (library.NetworkError, library.ProxyError) as error:
            if _about_tls(error):
                raise HubError(
                    f"the certificate of {host} cannot be verified ({reason_of(error)})",
                    "let SSL_CERT_FILE name the certificates of your network, if a proxy stands between",
                ) from error
            reason = f"the connection to {host} failed ({reason_of(error)})"
            if isinstance(error, library.ConnectError | library.ProxyError):
                hint = "is there a network? HF_ENDPOINT may name a mirror"
                raise Dropped(reason, tries=SELDOM, hint=hint) from error
            raise Dropped(reason) from error
        except (library.HTTPError, library.InvalidURL) as error:
            if not isinstance(error, library.RemoteProtocolError):
                raise _lasting(f"{host} cannot be asked ({reason_of(error)})") from error
            if not _hung_up(error):
                raise _lasting(f"{host} answers otherwise than HTTP has it ({reason_of(error)})") from error
            raise Dropped(f"the connection to {host} failed ({reason_of(error)})") from error

    def _for(self, url: str) -> dict[str, str]:
        foreign = self._is_foreign(url)
        return {key: value for key, value in self._headers.items() if not (foreign and key.lower() == "authorization")}

    def _is_foreign(self, url: str) -> bool:
        """Whether an address is of another origin than the Hub's: scheme, host and port."""
        return origin_of(url) != origin_of(self.endpoint)

    def _redirected(self, url: str, location: str, what: str) -> str:
        try:
            there = urljoin(url, location)
        except ValueError:
            there = location
        if not is_address(there) or (urlsplit(there).scheme == "http" and urlsplit(url).scheme == "https"):
            raise HubError(
                f"{what}: {host_of(url)} redirects to {shown(there)}, which is no https address", "do not trust it"
            )
        return there

    # ------------------------------------------------------------------------------------------------ answers

    def check(self, response: Any, what: str, *, signed: bool = False) -> None:
        """Raises for an answer that is an error: `Dropped` if it may pass, `Expired` if a signed URL did."""
        status: int = response.status_code
        if status < 400:
            return
        answers = f"{host_of(str(response.url))} answers {_status(response)}"
        if status in (408, 429) or status >= 500:
            after = asked_to_wait(response.headers, status)
            odd = response.headers.get("retry-after", "") if after is None else ""
            raise Dropped(answers + (f" and Retry-After {quoted(words_of(odd))}" if odd else ""), after=after)
        if signed and status in (401, 403, 410) and self._is_foreign(str(response.url)):
            raise Expired(answers)
        raise self._refusal(response, what)

    def _refusal(self, response: Any, what: str) -> BertprobeError:
        """What the Hub's client makes of an error, in one line of ours."""
        from huggingface_hub import errors
        from huggingface_hub.utils import hf_raise_for_status

        login = "" if self.authorization else ", then run: hf auth login"
        try:
            hf_raise_for_status(self._bare(response))
        except errors.GatedRepoError:
            why = "nobody has access without logging in" if login else "your account has not been given access"
            return HubError(f"{what} is gated: {why}", f"accept its terms at {self._page(response)}{login}")
        except errors.DisabledRepoError:
            return HubError(f"{what} is disabled on the Hub", f"see {self._page(response)}")
        except errors.RepositoryNotFoundError:
            return self._no_repository(what)
        except errors.RevisionNotFoundError:
            return NotFound(f"{what}: there is no such revision", "name a branch, a tag or a whole commit")
        except errors.EntryNotFoundError:
            return NotFound(f"{what} is not there any more", "start again: the repository changed just now")
        except errors.HfHubHTTPError:
            pass
        if response.status_code == 401:
            return self._bad_login(what) if self.authorization else self._no_repository(what)
        answers = f"{host_of(str(response.url))} answers {_status(response)}{_said(response)}"
        return HubError(f"{what}: {answers}", "see whether a browser can open it")

    def _bare(self, response: Any) -> Any:
        """An error without its body, in which the Hub's client would look for a message, however long it is.

        And with no more headers than it goes by: what others say, it would print.
        """
        told = [pair for pair in response.headers.raw if pair[0].lower() in (b"x-error-code", b"x-error-message")]
        return self.library.Response(response.status_code, headers=told, request=response.request)

    def _no_repository(self, what: str) -> NotFound:
        """The Hub does not tell a private repository from one that is not there."""
        if self.authorization:
            return NotFound(
                f"there is no model {what} on the Hub, or your account may not see it",
                "check the spelling, or which account it is with: hf auth whoami",
            )
        return NotFound(
            f"there is no model {what} on the Hub, or it is private",
            "check the spelling, or log in with: hf auth login",
        )

    def _bad_login(self, what: str) -> HubError:
        if self._settings.endpoint.authorization:
            return HubError(f"{what}: the Hub does not accept user and password", "mend them in HF_ENDPOINT")
        return HubError(f"{what}: the Hub does not accept your token", TOKEN)

    def _page(self, response: Any) -> str:
        url = str(response.request.url)
        match = re.match(
            rf"{re.escape(self.endpoint)}/(?:api/models/)?(.+?)(?:/(?:resolve|revision|tree)/.*)?(?:\?.*)?$", url
        )
        return f"{self.endpoint}/{words_of(match[1])}" if match else self.endpoint


def _close(call: Future[Any]) -> None:
    """Ends an answer, if there is one, for which nobody waits any more."""
    if call.exception() is None:
        with suppress(Exception):  # nobody is left to hear of it
            call.result().close()


def _lasting(reason: str) -> Dropped:
    """A failure that would be the same the next time, so that once is enough."""
    return Dropped(reason, tries=1, hint="is it a Hub (HF_ENDPOINT), or a proxy before one?")


def _status(response: Any) -> str:
    reason = words_of(response.reason_phrase, 60)
    return f"{response.status_code} ({reason})" if reason else str(response.status_code)


def _said(response: Any) -> str:
    message = words_of(response.headers.get("x-error-message", ""))
    return f": {message}" if message else ""


def _hung_up(error: Exception) -> bool:
    """Whether an answer ended too early, which may pass; the library has no exception of its own for that."""
    return re.match("Server disconnected|peer (unexpectedly )?closed", str(error)) is not None


def _about_tls(error: BaseException) -> bool:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLError) and not isinstance(seen, ssl.SSLEOFError):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
