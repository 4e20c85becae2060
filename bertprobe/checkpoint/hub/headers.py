"""What the headers of an answer say in numbers. Whoever answers may write anything there."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

_NUMBER = "[0-9]{1,15}"  # ASCII, and no more of it than the size of a file or a time can have
_RANGE = re.compile(rf"bytes ({_NUMBER})-({_NUMBER})/({_NUMBER}|\*)")
_LIMIT = re.compile(rf"\br\s*=\s*0\s*;\s*t\s*=\s*({_NUMBER})(?![0-9])")
_LONGEST_DATE = 64


def number(headers: Mapping[str, str], name: str) -> int | None:
    """The whole number that a header is; None where it is none, or not there."""
    return _number(headers.get(name, ""))


def content_range(headers: Mapping[str, str]) -> tuple[int, int, int | None] | None:
    """First and last byte of the one range that an answer has, and the size of the file, None where it is not told."""
    match = _RANGE.fullmatch(headers.get("content-range", ""))
    if match is None:
        return None
    return int(match[1]), int(match[2]), None if match[3] == "*" else int(match[3])


def asked_to_wait(headers: Mapping[str, str], status: int) -> float | None:
    """Seconds, by Retry-After (a number or a date) or by the Hub's own `ratelimit: "api";r=0;t=55`."""
    said = headers.get("retry-after", "").strip()
    if (seconds := _number(said)) is not None:
        return float(seconds)
    if (moment := _date(said)) is not None:
        return max(0.0, moment - time.time())
    limit = _LIMIT.search(headers.get("ratelimit", ""))
    return float(limit[1]) + 1 if limit and status == 429 else None


def _number(said: str) -> int | None:
    return int(said) if re.fullmatch(_NUMBER, said) else None


def _date(said: str) -> float | None:
    if not said or len(said) > _LONGEST_DATE:
        return None
    try:
        return parsedate_to_datetime(said).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError, OSError):  # by what in it is no date
        return None
