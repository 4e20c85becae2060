"""Two checkpoints side by side: which tensors correspond, and how each pair differs.

A and B are brought to one set of names and one orientation first (`anatomy`), so that storages, dtypes, prefixes and
spellings do not matter. Tensors are read a few pairs at a time; memory follows the largest pair.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from bertprobe.anatomy import Anatomy, Part
from bertprobe.anatomy.places import Place, Tensors, tensors_of
from bertprobe.checkpoint import Checkpoint, TensorHeader, read_tensors
from bertprobe.checkpoint.tensors import check_readable
from bertprobe.compare.settings import Differing, differing
from bertprobe.errors import UnsupportedFile
from bertprobe.measurement import Progress, side_by_side
from bertprobe.recipe import recipe_of
from bertprobe.verdicts import Evidence

if TYPE_CHECKING:
    from bertprobe.compare.delta import Delta
    from bertprobe.compare.texts import TextComparison
    from bertprobe.stats.numbers import Numbers

__all__ = ["Comparison", "Pair", "Place", "Side", "compare", "pair_up", "side"]

AT_ONCE = 16 * 2**20  # bytes of each checkpoint that are read together from this disk
AT_ONCE_FAR = 64 * 2**20  # and over a network, where each read costs a round trip
NEURONS = 3


@dataclass(frozen=True)
class Side:
    """One of the two checkpoints: what it is, what it is made of, and its tensors that can be compared."""

    checkpoint: Checkpoint
    anatomy: Anatomy
    tensors: Tensors


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A tensor that both have: its canonical name, its place, both headers, and how they differ.

    `rows` is how many rows were compared where one table has more than the other, None where the shapes are equal;
    `delta` is None where only headers were looked at.
    """

    name: str
    place: Place
    a: TensorHeader
    b: TensorHeader
    rows: int | None = None
    delta: Delta | None = None


@dataclass(frozen=True, eq=False)
class Comparison:
    """What two checkpoints have in common and in what they differ.

    `reshaped` are names with other shapes in B, `only_a` and `only_b` names that the other lacks; `numbers_a` and
    `numbers_b` are of the poolers, for their verdicts; `labels` are the parts it was held to, None for everything;
    `moved` is what became of texts, `settings` are those beside the weights that differ.
    """

    a: Side
    b: Side
    pairs: tuple[Pair, ...]
    reshaped: Mapping[str, tuple[TensorHeader, TensorHeader]]
    only_a: Mapping[str, TensorHeader]
    only_b: Mapping[str, TensorHeader]
    numbers_a: Mapping[str, Numbers] = field(default_factory=dict)
    numbers_b: Mapping[str, Numbers] = field(default_factory=dict)
    labels: frozenset[str] | None = None
    moved: TextComparison | None = None
    settings: tuple[Differing, ...] = ()

    @property
    def compared(self) -> tuple[tuple[Pair, Delta], ...]:
        """The pairs whose numbers were looked at."""
        return tuple((pair, pair.delta) for pair in self.pairs if pair.delta is not None)

    @property
    def fits(self) -> bool:
        """Whether both have the same tensors, in the same shapes."""
        return not (self.reshaped or self.only_a or self.only_b)

    @property
    def identical(self) -> bool:
        """Whether nothing differs, bit for bit."""
        deltas = [pair.delta for pair in self.pairs]
        return bool(deltas) and self.fits and all(found is not None and found.identical for found in deltas)

    def beyond(self, tolerance: float) -> tuple[str, ...]:
        """Names of what differs by more than a share of its norm, and of what only one of them has, or in a shape of
        its own."""
        far = [pair.name for pair, found in self.compared if found.exceeds(tolerance)]
        return tuple(dict.fromkeys([*far, *self.reshaped, *self.only_a, *self.only_b]))

    def evidence(self, which: str) -> Evidence:
        """What the verdict on the pooler of A or B rests on: `a` or `b`."""
        chosen, numbers = (self.a, self.numbers_a) if which == "a" else (self.b, self.numbers_b)
        return Evidence(chosen.checkpoint, chosen.anatomy, numbers)


def side(checkpoint: Checkpoint, anatomy: Anatomy) -> Side:
    """A checkpoint ready to be compared."""
    return Side(checkpoint, anatomy, tensors_of(anatomy))


def pair_up(a: Side, b: Side, parts: Sequence[Part] | None = None) -> Comparison:
    """Which tensors correspond, by headers alone; with `parts` only those of parts with the same labels."""
    labels = None if parts is None else frozenset(part.label for part in parts)
    left, right = _chosen(a, labels), _chosen(b, labels)
    pairs, reshaped = [], {}
    for name in left:
        if name in right:
            one, other = left[name], right[name]
            rows = _common_rows(name, one, other)
            if one.shape == other.shape or rows is not None:
                pairs.append(Pair(name, a.tensors.places[name], one, other, rows))
            if one.shape != other.shape:
                reshaped[name] = (one, other)
    only_a = {name: header for name, header in left.items() if name not in right}
    only_b = {name: header for name, header in right.items() if name not in left}
    # A second name for the same bytes is left out by each side for itself, so the other may have it under that name.
    only_a = {name: header for name, header in only_a.items() if name not in b.anatomy.tensors}
    only_b = {name: header for name, header in only_b.items() if name not in a.anatomy.tensors}
    settings = differing(a.checkpoint, b.checkpoint, recipe_of(a.checkpoint), recipe_of(b.checkpoint))
    return Comparison(a, b, tuple(pairs), reshaped, only_a, only_b, labels=labels, settings=settings)


def _chosen(of: Side, labels: frozenset[str] | None) -> dict[str, TensorHeader]:
    if labels is None:
        return dict(of.tensors.headers)
    names = {name for part in of.anatomy.parts if part.label in labels for name in part.tensors}
    return {name: header for name, header in of.tensors.headers.items() if name in names}


def _common_rows(name: str, a: TensorHeader, b: TensorHeader) -> int | None:
    """How many rows two tables of embeddings share: a vocabulary that grew begins as the old one did."""
    tables = "embeddings" in name and len(a.shape) == len(b.shape) == 2
    if not tables or a.shape == b.shape or a.shape[1] != b.shape[1]:
        return None
    rows = min(a.shape[0], b.shape[0])
    plain = all(h.axes is None and len(h.pieces) == 1 and h.refusal is None and h.derived is None for h in (a, b))
    return rows if rows and plain else None


def compare(
    paired: Comparison, *, neurons: int = NEURONS, progress: Progress | None = None, moved: TextComparison | None = None
) -> Comparison:
    """Reads each pair and says how it differs, a few at a time on as many threads.

    Raises `UnsupportedFile` and `CorruptFile` as `read_tensors` does.
    """
    from bertprobe.compare.delta import delta
    from bertprobe.compare.rounding import rounded_by_quantisation
    from bertprobe.stats.numbers import measure

    for header in (header for both in paired.reshaped.values() for header in both if header.refusal is not None):
        check_readable(header)  # of a shape that nobody knows
    poolers = {name for of in (paired.a, paired.b) for part in of.anatomy.of("pooler") for name in part.tensors}
    numbers_a: dict[str, Numbers] = {}
    numbers_b: dict[str, Numbers] = {}

    def work(pair: Pair, a: Any, b: Any) -> tuple[str, Pair]:
        try:
            if pair.name in poolers:
                numbers_a[pair.name], numbers_b[pair.name] = measure(a), measure(b)
            spectrum = pair.place.piece in ("intermediate", "pooler")
            found = delta(a, b, (pair.a.dtype, pair.b.dtype), neurons=neurons * spectrum, spectrum=spectrum)
            found = rounded_by_quantisation(found, a, b, (pair.a, pair.b))
            return pair.name, replace(pair, delta=found)
        finally:
            if progress is not None:
                progress(pair.a.nbytes + pair.b.nbytes)

    found = dict(side_by_side(_read(paired.pairs), work))
    done = tuple(found[pair.name] for pair in paired.pairs)
    for of, alone, numbers in ((paired.a, paired.only_a, numbers_a), (paired.b, paired.only_b, numbers_b)):
        wanted = {name: h for name, h in alone.items() if name in poolers and name in of.anatomy.tensors}
        numbers.update((name, measure(array)) for name, array in read_tensors(wanted))
    return Comparison(
        paired.a, paired.b, done, paired.reshaped, paired.only_a, paired.only_b, numbers_a, numbers_b,
        paired.labels, moved, paired.settings,
    )  # fmt: skip


def bytes_to_compare(pairs: Iterable[Pair]) -> int:
    """Bytes of all tensors of the pairs: what a progress bar counts to."""
    return sum(pair.a.nbytes + pair.b.nbytes for pair in pairs)


def _read(pairs: Sequence[Pair]) -> Iterator[tuple[Pair, Any, Any]]:
    """The pairs with their arrays, in the order in which A's lie in its files, a few at a time."""
    for some in _together(sorted(pairs, key=_where)):
        left = dict(read_tensors({pair.name: _rows(pair.a, pair.rows) for pair in some}))
        by_name = {pair.name: pair for pair in some}
        for name, other in read_tensors({pair.name: _rows(pair.b, pair.rows) for pair in some}):
            yield by_name[name], left.pop(name), other


def _rows(header: TensorHeader, rows: int | None) -> TensorHeader:
    return header if rows is None or header.shape[0] == rows else header.rows(0, rows)


def _where(pair: Pair) -> tuple[str, int]:
    first = next(iter(pair.a.all_pieces), None)
    return ("", 0) if first is None else (first.source.address, first.start)


def _together(pairs: Sequence[Pair]) -> Iterator[list[Pair]]:
    """Pairs in groups that are read at once."""
    group: list[Pair] = []
    size = 0
    for pair in pairs:
        far = any(piece.source.max_parallel > 1 for header in (pair.a, pair.b) for piece in header.all_pieces)
        most = AT_ONCE_FAR if far else AT_ONCE
        bytes_here = max(pair.a.nbytes, pair.b.nbytes)
        if group and size + bytes_here > most:
            yield group
            group, size = [], 0
        group.append(pair)
        size += bytes_here
    if group:
        yield group


def require_common(comparison: Comparison) -> None:
    """Raises `UnsupportedFile` where not one tensor of A has a counterpart in B."""
    if not comparison.pairs and not comparison.reshaped:
        rows = [of.anatomy.layout.name for of in (comparison.a, comparison.b)]
        why = f"A is of the layout {rows[0]}, B of {rows[1]}" if rows[0] != rows[1] else "they hold different parts"
        raise UnsupportedFile(f"no tensor of A has a counterpart in B: {why}", "compare models of one family")
