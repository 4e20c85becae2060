"""What a user may type for a model on the Hub → repository, revision and path in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from bertprobe.errors import NotFound, UnsupportedFile, quoted

COMMIT = re.compile("[0-9a-f]{40}")
_SEGMENT = r"\w[\w.-]*"
_BARE = re.compile(
    rf"(?P<first>{_SEGMENT})(?:/(?P<second>{_SEGMENT})(?P<path>(?:/[^/@]+)*))?(?:@(?P<revision>[^@]+))?", re.ASCII
)
# A revision may have slashes of its own only where the Hub makes it: a pull request, or a conversion to Parquet.
_REVISION = re.compile(r"(?P<revision>refs/(?:pr|convert)/[^/]+|[^/]+)(?:/(?P<path>.*))?")
_PAGES = ("tree", "blob", "resolve", "raw", "commit")
_OTHER_KINDS = ("datasets", "spaces", "buckets", "kernels")
MAX_NAME = 96  # of a repository, on the Hub


@dataclass(frozen=True, slots=True)
class Address:
    """A place on the Hub: the repository, the revision as typed or empty, and the path in it, empty for all of it.

    `explicit` says that it was written as a URL, and so cannot be a path on this disk.
    """

    repository: str
    revision: str
    path: str
    explicit: bool


def parse(ref: str, hosts: tuple[str, ...]) -> Address | None:
    """`owner/name`, with `@revision` and a path behind, an `hf://` URL or a page of one of `hosts`; None for no such.

    Raises:
        NotFound: a URL of another host, or of a page that is no model.
        UnsupportedFile: a dataset or the like.
    """
    if ref.startswith("hf://"):
        return _of_url(ref, ref.removeprefix("hf://").strip("/"))
    if re.match(r"https?://", ref):
        return _of_page(ref, hosts)
    match = _BARE.fullmatch(ref)
    if match is None:
        return None
    revision, path = match["revision"] or "", (match["path"] or "").strip("/")
    if revision and not path:
        revision, path = _split(revision)
    address = Address(_repository(match), revision, path, explicit=False)
    return address if _is_sound(address) else None


def could_be_on_hub(ref: str) -> bool:
    """Whether something that is a path on this disk could as well be the name of a model."""
    match = _BARE.fullmatch(ref)
    return match is not None and not match["path"] and _is_sound(Address(_repository(match), "", "", explicit=False))


def _repository(match: re.Match[str]) -> str:
    return match["first"] + (f"/{match['second']}" if match["second"] else "")


def _of_url(ref: str, rest: str) -> Address:
    """`hf://owner/name@revision/path`, as huggingface_hub's file system has it; two segments are owner and name."""
    rest = rest.removeprefix("models/")
    if rest.split("/")[0] in _OTHER_KINDS:
        raise UnsupportedFile(f"{quoted(ref)} is not a model but one of the Hub's {rest.split('/')[0]}", "name a model")
    name, at, behind = rest.partition("@")
    segments = name.split("/")
    revision, path = _split(behind) if at else ("", "")
    path = "/".join([*segments[2:], *([path] if path else [])])
    return _checked(ref, "/".join(segments[:2]), revision, path)


def _of_page(ref: str, hosts: tuple[str, ...]) -> Address:
    """A page of the Hub: of the model, a folder or a file of it, at a revision."""
    try:
        parts = urlsplit(ref)
    except ValueError:
        raise NotFound(f"{quoted(ref)} is not a URL", "write it as hf://owner/name") from None
    if parts.netloc.rpartition("@")[2] not in hosts:
        raise NotFound(
            f"{quoted(ref)} is not on the Hub ({hosts[0]})", "fetch it yourself and name the file, or name a Hub model"
        )
    segments = [segment for segment in parts.path.split("/") if segment]
    if segments and segments[0] == "models":
        segments.pop(0)
    if segments and segments[0] in _OTHER_KINDS:
        raise UnsupportedFile(f"{quoted(ref)} is not a model but one of the Hub's {segments[0]}", "name a model")
    page = next((place for place in (1, 2) if len(segments) > place and segments[place] in _PAGES), len(segments))
    behind = "/".join(segments[page + 1 :])
    return _checked(ref, "/".join(segments[:page]), *_split(behind))


def _split(text: str) -> tuple[str, str]:
    """A revision and the path behind it; a slash of a revision's own is written %2F, as in URLs."""
    match = _REVISION.fullmatch(text)
    if match is None:
        return unquote(text), ""
    return unquote(match["revision"]), unquote((match["path"] or "").strip("/"))


def _checked(ref: str, repository: str, revision: str, path: str) -> Address:
    address = Address(repository, revision, path, explicit=True)
    if _is_sound(address):
        return address
    raise NotFound(
        f"{quoted(ref)} does not name a model on the Hub",
        "write it as hf://owner/name or hf://owner/name@revision/path",
    )


def _is_sound(address: Address) -> bool:
    """Whether the Hub could have such a place; what climbs out of a folder is none."""
    name, segments = address.repository, [*address.path.split("/"), *address.revision.split("/")]
    named = re.fullmatch(rf"{_SEGMENT}(?:/{_SEGMENT})?", name, re.ASCII) and len(name) <= MAX_NAME
    return bool(named) and "--" not in name and ".." not in name and not {".", ".."} & set(segments)
