"""What huggingface_hub finds in the environment, checked before anything is asked: endpoint, time-out and token."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from bertprobe._version import __version__
from bertprobe.checkpoint.hub.endpoint import Endpoint, parse_endpoint, reason_of
from bertprobe.errors import HubError, quoted, shortened

LONGEST_TIMEOUT = 600.0  # seconds; more would be for ever
TOKEN = "mend or unset HF_TOKEN, or run: hf auth login"


@dataclass(frozen=True, slots=True)
class Settings:
    """The Hub as huggingface_hub is set up to see it: where, for how long a read may take, and whether at all."""

    endpoint: Endpoint
    timeout: float
    offline: bool


def read_settings() -> Settings:
    """Raises `HubError` for a variable that nothing can be made of."""
    said = os.environ.get("HF_ENDPOINT")
    if said is not None:
        parse_endpoint(said)  # first: huggingface_hub cannot be imported with an odd one, and would show it
    try:
        from huggingface_hub import constants
    except (ValueError, OverflowError) as error:
        raise _unreadable(error) from error
    return Settings(
        parse_endpoint(constants.ENDPOINT), _timeout(constants.HF_HUB_DOWNLOAD_TIMEOUT), bool(constants.HF_HUB_OFFLINE)
    )


def _unreadable(error: Exception) -> HubError:
    """A variable that huggingface_hub stumbles over while it is imported, named if its value is in the message."""
    variables = [name for name, value in os.environ.items() if name.startswith("HF_") and repr(value) in str(error)]
    return HubError(
        f"huggingface_hub cannot read the environment ({reason_of(error)})",
        f"mend or unset {shortened(variables)}" if variables else "mend or unset the variables that begin with HF_",
    )


def _timeout(said: Any) -> float:
    if not said > 0:
        raise HubError(f"HF_HUB_DOWNLOAD_TIMEOUT is {quoted(str(said))}", "set it to a number of seconds, or unset it")
    return float(min(said, LONGEST_TIMEOUT))


def build_headers(endpoint: Endpoint) -> dict[str, str]:
    """The headers of requests to the Hub, which only the Hub may see: the token is among them.

    May ask the Hub for what huggingface_hub wants to know once a day.

    Raises:
        HubError: a token that no Hub has given out, or something else that cannot be sent.
    """
    from huggingface_hub.utils import build_hf_headers

    try:
        headers = build_hf_headers(library_name="bertprobe", library_version=__version__)
    except Exception as error:  # a token may come from anywhere: a file, a notebook, a server that signs in
        raise HubError(f"huggingface_hub cannot find out your token ({reason_of(error)})", TOKEN) from error
    if endpoint.authorization:
        headers["authorization"] = endpoint.authorization
    headers["accept-encoding"] = "identity"  # what is counted and cut is the file itself
    for name, value in headers.items():
        _check_header(name, value)
    return headers


def _check_header(name: str, value: str) -> None:
    """Raises for what cannot be sent: the HTTP library would do so, too, and show the token."""
    if name.lower() == "authorization":
        odd = next((char for char in value.partition(" ")[2] if not "!" <= char <= "~"), None)
        if odd is not None:
            raise HubError(f"the token has the character U+{ord(odd):04X} in it, which no token has", TOKEN)
    elif not value.isascii() or not value.isprintable():
        raise HubError(f"the header {name} cannot be sent ({quoted(value)})", "mend or unset HF_HUB_USER_AGENT_ORIGIN")
