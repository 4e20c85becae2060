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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from types import ModuleType
from typing import Any
from urllib.parse import urljoin, urlsplit

from bertprobe.checkpoint.hub.endpoint import host_of, is_address, origin_of, reason_of, shown, words_of
from bertprobe.checkpoint.hub.headers import asked_to_wait
from bertprobe.checkpoint.hub.settings import TOKEN, Settings, build_headers
from bertprobe.errors import BertprobeError, HubError, NotFound, quoted

TRIES = 6  # of one request, the first among them
SELDOM = 3  # of one that no server hears, which seldom passes while one waits
FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0  # seconds; doubled each time
PATIENCE = 300  # seconds that the Hub may ask to wait: its windows are of five minutes
REDIRECTS = 10
MOST = 50 * 2**20  # bytes of an answer that is no file


class Dropped(Exception):
    """A request that failed in a way that may pass.

    `after` is how long the server asked to wait, in seconds; `tries` is how often a request is made that fails in this
    way, and `cure` what to do when it was.
    """

    def __init__(
        self, reason: str, *, after: float | None = None, tries: int = TRIES, cure: str = "try again later"
    ) -> None:
        super().__init__(reason)
        self.after = after
        self.tries = tries
        self.cure = cure


class Expired(Exception):
    """A signed URL that is refused now."""


class Retries:
    """How often a request may still fail, and how long to wait before it is made again."""

    def __init__(self, what: str, tries: int = TRIES) -> None:
        self._what = what
        self._tries = tries
        self.restart()

    def restart(self) -> None:
        """After progress: the next failure is the first one again."""
        self._failed, self._wait = 0, FIRST_WAIT

    def wait(self, error: Dropped) -> None:
        """Waits as long as the server asked, else twice as long each time; raises `HubError` when it is enough."""
        if error.after is not None and error.after > PATIENCE:
            raise HubError(
                f"{self._what}: {error}, and asks to wait {error.after:,.0f} seconds",
                "try again then, or log in: hf auth login",
            ) from error
        self._failed += 1
        if self._failed >= min(self._tries, error.tries):
            often = f", {self._failed} times in a row" if self._failed > 1 else ""
            raise Unreachable(f"{self._what}: {error}{often}", error.cure) from error
        time.sleep(self._wait if error.after is None else error.after)
        self._wait = min(2 * self._wait, LONGEST_WAIT)


class Unreachable(HubError):
    """The Hub does not answer, or only with errors of its own: what is in the local cache may still serve."""


class Client:
    """The Hub as huggingface_hub is set up to see it."""

    def __init__(self, settings: Settings) -> None:
        self.endpoint = settings.endpoint.url
        self.offline = settings.offline
        self._settings = settings

    @property
    def authorization(self) -> str:
        """The header that logs in to the Hub, empty where there is none."""
        return self._headers.get("authorization", "")

    @cached_property
    def _headers(self) -> dict[str, str]:
        return build_headers(self._settings.endpoint)

    def file_url(self, repository: str, path: str, commit: str) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(repository, path, revision=commit, endpoint=self.endpoint)

    def json(self, path: str, what: str, *, tries: int = TRIES) -> Any:
        """The answer of the Hub's API under a path, parsed."""
        retries = Retries(what, tries)
        while True:
            try:
                with self.get(self.endpoint + path, {}, what) as (response, _):
                    self.check(response, what)
                    return json.loads(self._body(response, what))
            except Dropped as error:
                retries.wait(error)
            except (ValueError, RecursionError) as error:
                raise HubError(
                    f"{what}: {self.endpoint} does not answer in JSON",
                    "is it a Hub (HF_ENDPOINT), or a login page before one?",
                ) from error

    def _body(self, response: Any, what: str) -> bytes:
        data = bytearray()
        for part in response.iter_bytes():
            data += part
            if len(data) > MOST:
                raise HubError(f"{what}: {self.endpoint} answers with more than {MOST:,} bytes", "is it a Hub?")
        return bytes(data)

    @contextmanager
    def get(self, url: str, headers: Mapping[str, str], what: str) -> Iterator[tuple[Any, list[Any]]]:
        """One request, redirects followed by hand: the last answer, its body not yet read, and those before it.

        Raises:
            Dropped: it failed in a way that may pass.
            HubError: it failed for good.
        """
        before: list[Any] = []
        with self.translated(url):
            for _ in range(REDIRECTS):
                with self.session.stream(
                    "GET", url, headers=self._for(url, headers), timeout=self._settings.timeout, follow_redirects=False
                ) as response:
                    if not response.has_redirect_location:
                        yield response, before
                        return
                    before.append(response)
                    url = self._redirected(url, response.headers["location"], what)
        raise HubError(f"{what}: {self.endpoint} redirects more than {REDIRECTS} times", "try again later")

    def check(self, response: Any, what: str, *, signed: bool = False) -> None:
        """Raises for an answer that is an error: `Dropped` if it may pass, `Expired` if a signed URL did."""
        status: int = response.status_code
        if status < 400:
            return
        answers = f"{_host(response)} answers {_status(response)}"
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
        answers = f"{_host(response)} answers {_status(response)}{_said(response)}"
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

    # ------------------------------------------------------------------------------------------------ one request

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
                cure = "is there a network? HF_ENDPOINT may name a mirror"
                raise Dropped(reason, tries=SELDOM, cure=cure) from error
            raise Dropped(reason) from error
        except (library.HTTPError, library.InvalidURL) as error:
            if not isinstance(error, library.RemoteProtocolError):
                raise _lasting(f"{host} cannot be asked ({reason_of(error)})") from error
            if not _hung_up(error):
                raise _lasting(f"{host} answers otherwise than HTTP has it ({reason_of(error)})") from error
            raise Dropped(f"the connection to {host} failed ({reason_of(error)})") from error

    def _for(self, url: str, headers: Mapping[str, str]) -> dict[str, str]:
        own = {key: value for key, value in self._headers.items() if key.lower() != "authorization"}
        return {**(own if self._is_foreign(url) else self._headers), **headers}

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


def _host(response: Any) -> str:
    return host_of(str(response.url))


def _lasting(reason: str) -> Dropped:
    """A failure that would be the same the next time, so that once is enough."""
    return Dropped(reason, tries=1, cure="is it a Hub (HF_ENDPOINT), or a proxy before one?")


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
