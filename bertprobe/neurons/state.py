"""What a scan came to as a file of tensors, and back: neurons.safetensors, told in docs/exports.md."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from mmap import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertprobe.errors import CorruptFile, NotFound, printable
from bertprobe.export.files import FileInPlace
from bertprobe.export.tensors import safetensors_header
from bertprobe.neurons.best import NOWHERE, Best, Drawn, document_of, position_of, where_of
from bertprobe.neurons.scan import Kept, SiteScan
from bertprobe.neurons.sums import Sums
from bertprobe.run.captured import Site

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Ints = npt.NDArray[np.int64]

NAME = "neurons.safetensors"
_NAMES = {"float64": "F64", "float32": "F32", "int64": "I64", "int32": "I32", "uint64": "U64"}
TYPES = {"U16": "uint16", "U8": "uint8", **{name: kind for kind, name in _NAMES.items()}}


@dataclass(frozen=True, slots=True)
class Done:
    """What a shard came to: texts, tokens, texts that were cut, rows that were left out."""

    documents: int
    tokens: int
    truncated: int
    skipped: int


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What the shards that are done came to together, in their order, and what each came to."""

    sites: Mapping[Site, SiteScan]
    done: tuple[Done, ...] = ()

    @property
    def documents(self) -> int:
        return sum(shard.documents for shard in self.done)

    def joined(self, sites: Mapping[Site, SiteScan], done: Sequence[Done], kept: Kept) -> State:
        """With the sites of further shards, whose documents count from 0."""
        moved = {site: found.moved(self.documents) for site, found in sites.items()}
        both = {site: found.joined(moved[site], kept) for site, found in self.sites.items() if site in moved}
        return State({**self.sites, **moved, **both}, (*self.done, *done))


def put(state: State, file: FileInPlace) -> None:
    """Writes a state; the same one always as the same bytes."""
    tensors = sorted(_tensors(state), key=lambda named: (-named[1].itemsize, named[0]))
    header, starts = safetensors_header(
        ((name, _NAMES[array.dtype.name], array.shape, array.nbytes) for name, array in tensors),
        {
            "sites": json.dumps([asdict(site) for site in state.sites]),
            "done": json.dumps([asdict(shard) for shard in state.done]),
        },
    )
    file.put(0, header)
    for (_, array), start in zip(tensors, starts, strict=False):
        if array.nbytes:
            file.put(start, array.reshape(-1).view("u1"))


def _tensors(state: State) -> Iterator[tuple[str, Array]]:
    import numpy as np

    for site, found in state.sites.items():
        named: dict[str, Array] = {field.name: getattr(found.sums, field.name) for field in fields(Sums)}
        for name, best, sign in (("strongest", found.strongest, 1), ("negative", found.negative, -1)):
            there = best.where != NOWHERE
            named[f"{name}.values"] = np.where(there, best.values * np.float32(sign), np.float32(np.nan))
            named |= _places(name, best.where)
        named |= {"drawn.keys": found.drawn.keys, "drawn.values": found.drawn.values}
        named |= _places("drawn", found.drawn.where)
        yield from ((f"{site.label}.{name}", np.ascontiguousarray(array)) for name, array in named.items())


def _places(name: str, where: Ints) -> dict[str, Array]:
    import numpy as np

    there = where != NOWHERE
    return {
        f"{name}.documents": np.where(there, document_of(where), NOWHERE),
        f"{name}.positions": np.where(there, position_of(where), NOWHERE).astype(np.int32),
    }


def load(path: Path) -> State:
    """Reads what `put` wrote."""
    try:
        data = path.read_bytes()
        notes, arrays = parsed(data)
        sites = [Site(**site) for site in json.loads(notes["sites"])]
        return State(
            {site: _site(site.label, arrays) for site in sites},
            tuple(Done(**shard) for shard in json.loads(notes["done"])),
        )
    except FileNotFoundError as error:
        raise NotFound(f"there is no {printable(str(path))}", "scan a corpus first: bertprobe neurons scan") from error
    except OSError as error:
        raise NotFound(f"{printable(str(path))} cannot be read ({error.strerror})", "check the path") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptFile(
            f"{printable(str(path))} is no scan of neurons, or damaged", "scan the corpus again"
        ) from error


def parsed(data: bytes | mmap) -> tuple[dict[str, str], dict[str, Array]]:
    """The metadata and the tensors of a safetensors file, which lie in its bytes."""
    import numpy as np

    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    notes = header.pop("__metadata__")
    arrays = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        found = np.frombuffer(memoryview(data)[start + first : start + last], TYPES[entry["dtype"]])
        arrays[name] = found.reshape(entry["shape"])
    return notes, arrays


def _site(label: str, arrays: Mapping[str, Array]) -> SiteScan:
    import numpy as np

    def found(name: str) -> Array:
        return arrays[f"{label}.{name}"]

    def where(name: str) -> Ints:
        documents = found(f"{name}.documents")
        return np.where(documents == NOWHERE, NOWHERE, where_of(documents, found(f"{name}.positions")))

    def best(name: str, sign: int) -> Best:
        places = where(name)
        values = np.where(places == NOWHERE, np.float32(-np.inf), found(f"{name}.values") * np.float32(sign))
        return Best(values.astype(np.float32), places)

    sums = Sums(**{field.name: found(field.name) for field in fields(Sums)})
    return SiteScan(
        sums,
        best("strongest", 1),
        best("negative", -1),
        Drawn(found("drawn.keys"), where("drawn"), found("drawn.values")),
    )
