"""The Hub's address as the environment gives it, and what of any address may be shown.

A user and a password in HF_ENDPOINT are taken out here, and travel as a header from then on: no other room has an
address with them in it. Addresses that come from elsewhere, redirects mostly, are shown through `shown` and `host_of`,
and what other libraries say of them through `without_secrets`.
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from bertprobe.errors import HubError, printable, quoted

_PORTS = {"http": 80, "https": 443}
_ODD = re.compile(r"[\s\x00-\x1f\x7f{}<>|\\^`\"]")  # what an address has percent-encoded


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the Hub is, without user and password, and the `Authorization` header that these make, empty without."""

    url: str
    authorization: str = field(default="", repr=False)


def parse_endpoint(said: str) -> Endpoint:
    """HF_ENDPOINT, checked; raises `HubError` for what is no address of a web server."""
    parts = None if _ODD.search(said) else _split(said)
    if parts is None or parts.query or parts.fragment or "@" in parts.path:
        more = "; in a user or password write %2F for /, %40 for @ and the like" if "@" in said else ""
        raise HubError(
            f"HF_ENDPOINT is {quoted(_hidden(said))}, which is no http:// or https:// address",
            f"unset it, or name a Hub as https://host{more}",
        )
    user, at, host = parts.netloc.rpartition("@")
    named, _, password = user.partition(":")
    secret = f"{unquote(named)}:{unquote(password)}".encode()
    return Endpoint(
        parts._replace(netloc=host).geturl().rstrip("/"), f"Basic {b64encode(secret).decode()}" if at and user else ""
    )


def _hidden(said: str) -> str:
    """What may be shown of an address that cannot be taken apart: nothing before the last @, nothing behind a ?."""
    before, at, behind = said.rpartition("@")
    address, mark, _ = behind.partition("?")
    scheme, colon, _ = before.rpartition("://")
    return (f"{scheme[:10]}{colon}…@" if at else "") + address + (f"{mark}…" if mark else "")


def is_address(url: str) -> bool:
    """Whether this is an address of a web server, all parts of which can be read."""
    return _split(url) is not None


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        sound = parts.scheme in _PORTS and parts.hostname and parts.port != 0
    except ValueError:  # brackets that do not close, a port that is none
        return None
    return parts if sound else None


def origin_of(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port of an address that is one; the token stays where these are the Hub's."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


def host_of(url: str) -> str:
    """Host and port of an address that is one, as they are shown: without user and password."""
    return printable(urlsplit(url).netloc.rpartition("@")[2][:100])


def shown(url: str) -> str:
    """An address for a message, without user, password and the signature behind its question mark."""
    parts = _split(url)
    told = _hidden(url) if parts is None else f"{parts.scheme}://{host_of(url)}{parts.path}"
    return printable(told[:100])


# In the text of another library an address ends at a blank or a quotation mark. What stands before the @ of hf:// is
# a repository.
_USER = re.compile(r"(?<!hf)(://)[^\s/\"'<>]*@")
_QUERY = re.compile(r"(?<=\w)(://[^\s?\"'<>]*)\?[^\s\"'<>]*")
_HEADER = re.compile(r"\b(Bearer|Basic)\s+[^\s\"']+")


def without_user(text: str) -> str:
    """A text without the users and passwords of addresses in it."""
    return _USER.sub(r"\1", text)


def without_secrets(text: str) -> str:
    """The same without tokens and signed queries, too: what another library says."""
    return _HEADER.sub(r"\1 …", _QUERY.sub(r"\1", without_user(text)))


def words_of(text: str, most: int = 200) -> str:
    """What another library or a server says, as a part of one line of ours."""
    return printable(without_secrets(" ".join(text.split()))[:most])


def reason_of(error: BaseException) -> str:
    """What another library's error says, or at least its name."""
    return words_of(str(error)) or type(error).__name__
