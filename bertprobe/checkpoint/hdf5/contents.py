"""All that a file holds: its groups are walked level by level, and each data set becomes a header under its path.

An object is looked at once, however many links lead to it, so no circle of groups holds anybody up. A data set has as
many names as there are links to it; a group is listed under the first of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise

from bertprobe.checkpoint.folder import small_text
from bertprobe.checkpoint.hdf5 import objects
from bertprobe.checkpoint.hdf5.archive import weights_in
from bertprobe.checkpoint.hdf5.attributes import texts
from bertprobe.checkpoint.hdf5.datasets import dataset
from bertprobe.checkpoint.hdf5.groups import Link, is_group, links
from bertprobe.checkpoint.hdf5.objects import DAMAGED
from bertprobe.checkpoint.hdf5.pages import Pages
from bertprobe.checkpoint.hdf5.settings import as_config
from bertprobe.checkpoint.hdf5.signature import ZIP
from bertprobe.checkpoint.source import Source
from bertprobe.checkpoint.tensors import Index, TensorHeader
from bertprobe.checkpoint.wire import Broken
from bertprobe.errors import BertprobeError, CorruptFile, UnsupportedFile, printable, shortened
from bertprobe.filenames import CONFIGS

MAX_LINKS = 250_000
MAX_NAME = 1_000  # characters of a path
MAX_HOPS = 16  # from one soft link to the next
BLOCK = "/_feedforward_intermediate_dense/"  # in names of Keras 3, of a class of keras-hub
NOTES = ("keras_version", "backend")  # attributes of the root that Keras writes


@dataclass(slots=True)
class _Object:
    """What lies at an address: the links of a group, or the header of a data set, or neither."""

    links: Sequence[Link] = ()
    header: TensorHeader | None = None
    notes: dict[str, str] = field(default_factory=dict)


def index(source: Source) -> Index:
    """The headers of every data set, by path, and what should be known of links that are not followed.

    Raises `CorruptFile` and `UnsupportedFile`.
    """
    start, stop, said = 0, source.size, b""
    if source.read(0, min(len(ZIP), source.size)) == ZIP:
        start, stop, said = weights_in(source)
    try:
        found = _Walk(*objects.opened(source, start, stop)).index()
    except Broken as error:
        raise CorruptFile(f"{source.address} is damaged: {error}", DAMAGED) from error
    return replace(found, settings=_settings(source, said, found))


def _settings(source: Source, said: bytes, found: Index) -> dict[str, str]:
    """The config.json that says what Keras's own does, which is in the zip, or beside weights that Keras 3 wrote."""
    if not said and any(BLOCK in header.name for header in found.headers):
        try:
            beside = small_text(source.sibling(CONFIGS[0]))
        except BertprobeError:  # there is none: nothing is said
            return {}
        # What lies beside goes before what is carried: under its own name it would be hidden.
        config = as_config(beside)
        return {} if config is None else {CONFIGS[1]: config}
    config = as_config(said.decode("utf-8", "replace")) if said else None
    return {} if config is None else {CONFIGS[0]: config}


class _Walk:
    """A file as far as it has been looked at."""

    def __init__(self, pages: Pages, root: int) -> None:
        self._pages = pages
        self._root = root
        self._names: dict[int, list[str]] = {root: [""]}  # the paths that lead to an object
        self._found: dict[int, _Object] = {}
        self._soft: dict[str, str] = {}
        self._outside: list[str] = []
        self._links = 0

    def index(self) -> Index:
        level = [self._root]
        while level:
            jobs: list[Callable[[], _Object]] = [partial(self._look, at, self._names[at][0]) for at in level]
            found = self._pages.together(jobs)
            self._found.update(zip(level, found, strict=True))
            level = [
                new
                for at, here in zip(level, found, strict=True)
                for link in here.links
                if (new := self._follow(self._names[at][0], link)) is not None
            ]
        headers = self._headers()
        remarks = self._remarks(headers)
        _check_apart(self._pages.source, self._found.values())
        return Index(tuple(headers.values()), metadata=self._found[self._root].notes, remarks=remarks)

    def _look(self, at: int, path: str) -> _Object:
        """The object at an address, which a path leads to."""
        try:
            messages = objects.messages(self._pages, at)
            group = is_group(messages)
            header = dataset(self._pages, messages, path)
            if group and header is not None:
                raise Broken("it is a group and a data set")
            notes = texts(self._pages, messages, NOTES) if at == self._root else {}
            return _Object(links(self._pages, messages) if group else (), header, notes)
        except Broken as error:
            what = f"'{printable(path)}' in {self._pages.source.name}" if path else self._pages.source.address
            raise CorruptFile(f"{what} is damaged: {error}", DAMAGED) from error

    def _follow(self, above: str, link: Link) -> int | None:
        """Notes where a link leads; the address, where nobody led there before."""
        path = f"{above}/{link.name}" if above else link.name
        self._links += 1
        if self._links > MAX_LINKS or len(path) > MAX_NAME:
            raise UnsupportedFile(
                f"{self._pages.source.address} holds more than {MAX_LINKS:,} things, or one whose path is longer than "
                f"{MAX_NAME:,} characters",
                "no model has: is it the right file?",
            )
        if link.path is not None:
            self._soft[path] = link.path if link.path.startswith("/") else f"{above}/{link.path}"
        elif link.address is None:
            self._outside.append(path)
        elif link.address in self._names:
            self._names[link.address].append(path)
        else:
            self._names[link.address] = [path]
            return link.address
        return None

    def _headers(self) -> dict[str, TensorHeader]:
        """Every data set under each of its paths, those of soft links among them."""
        found = {
            path: replace(here.header, name=path)
            for at, here in self._found.items()
            if here.header is not None
            for path in self._names[at]
        }
        for path, there in list(self._soft.items()):
            for _ in range(MAX_HOPS):
                there = there.strip("/")
                if there not in self._soft:
                    break
                there = self._soft[there]
            if there in found:
                found[path] = replace(found[there], name=path)
        return found

    def _remarks(self, headers: dict[str, TensorHeader]) -> tuple[str, ...]:
        again = [
            path
            for at, here in self._found.items()
            if here.header is None
            for path in self._names[at][1:]
            if here.links
        ]
        astray = [path for path in self._soft if path not in headers]
        said = []
        if self._outside:
            said.append(f"links that lead to other files are not followed: {_shown(self._outside)}")
        if again:
            said.append(f"links to groups that are listed elsewhere are not followed: {_shown(again)}")
        if astray:
            said.append(f"soft links that lead to no data set are not followed: {_shown(astray)}")
        unwritten = [name for name, header in headers.items() if "never written" in header.stored_as]
        if unwritten:
            said.append(f"never written, so that every element is what the file fills them with: {_shown(unwritten)}")
        return tuple(said)


def _shown(names: list[str]) -> str:
    return printable(shortened(sorted(names), 3))


def _check_apart(source: Source, found: Iterable[_Object]) -> None:
    """Raises `CorruptFile` where two data sets share bytes."""
    spans = sorted(
        (piece.start, piece.stop, here.header.name)
        for here in found
        if here.header is not None
        for piece in here.header.all_pieces
    )
    for (_, stop, one), (start, _, other) in pairwise(spans):
        if start < stop:
            raise CorruptFile(
                f"'{printable(one)}' and '{printable(other)}' in {source.name} lie over each other", DAMAGED
            )
