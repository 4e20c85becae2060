"""One neuron's card: its numbers, the tokens kept of it in their texts, its weights in words, who fires with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from bertprobe.anatomy import Anatomy
from bertprobe.checkpoint import Checkpoint
from bertprobe.lens import NeuronLens, NeuronReader
from bertprobe.neurons.best import NOWHERE, document_of, position_of
from bertprobe.neurons.bins import quantiles
from bertprobe.neurons.folder import ScanFolder, numbered
from bertprobe.neurons.listing import NeuronRow, columns_of, row_of, site_of
from bertprobe.neurons.scan import SiteScan
from bertprobe.neurons.sums import BUCKETS
from bertprobe.neurons.texts import files_of, texts_of
from bertprobe.run.captured import Site
from bertprobe.run.runner import tokenizer_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

AROUND = 12  # tokens before and after an example that are shown
SHARES = tuple(i / 10 for i in range(11))
RANDOM = 10  # of the tokens drawn, how many a card shows
FIRING = 0.3  # a correlation below which two neurons are not said to fire together


@dataclass(frozen=True, slots=True)
class Example:
    """A token on which a neuron was seen: where it stands, its value, and the pieces around it.

    `place` is the token's own among `tokens`.
    """

    document: int
    file: str
    row: int
    position: int
    value: float
    tokens: tuple[str, ...]
    place: int


@dataclass(frozen=True, slots=True)
class Together:
    """Another neuron, how many of the strongest tokens they share, and their correlation over the tokens drawn."""

    name: str
    shared: int
    correlation: float


@dataclass(frozen=True, slots=True)
class Stretch:
    """Positions from `first` to `last`, None where open: tokens seen there and the neuron's mean over them."""

    first: int
    last: int | None
    tokens: int
    mean: float


@dataclass(frozen=True, slots=True)
class Card:
    """All there is to say of one neuron; `lens` is the neuron in the vocabulary, as far as the checkpoint tells."""

    row: NeuronRow
    label: str
    tokens: int
    thresholds: tuple[float, ...]
    deciles: tuple[float, ...]
    stretches: tuple[Stretch, ...]
    strongest: tuple[Example, ...]
    negative: tuple[Example, ...]
    of_deciles: tuple[Example | None, ...]
    random: tuple[Example, ...]
    lens: NeuronLens
    together: tuple[Together, ...]


def card_of(folder: ScanFolder, checkpoint: Checkpoint, anatomy: Anatomy, layer: int, neuron: int, most: int) -> Card:
    """The card of a neuron; texts are looked up in the source or are the scan's own, weights are the checkpoint's.

    `most` is how many entries of a list it shows. Raises `PartMissing` for a neuron that was not scanned and `NotFound`
    where the source is gone and the scan carries no texts.
    """
    site, scan = site_of(folder, layer, neuron)
    tokenizer = tokenizer_of(checkpoint)
    sums = scan.sums
    one = slice(neuron, neuron + 1)
    (deciles,) = quantiles(sums.histogram[one], sums.lowest[one], sums.highest[one], SHARES).tolist()
    kept = {
        "strongest": _kept(scan.strongest.where[neuron], scan.strongest.values[neuron], most),
        "negative": _kept(scan.negative.where[neuron], -scan.negative.values[neuron], most),
        "random": _kept(scan.drawn.where, scan.drawn.values[:, neuron], RANDOM),
    }
    of_deciles = decile_examples(scan, neuron, deciles)
    wanted = [*(item for items in kept.values() for item in items), *(item for item in of_deciles if item)]
    numbers = {document for document, _, _ in wanted}
    texts, files = texts_of(folder, tokenizer, numbers), files_of(folder, numbers)

    def example(item: _Item) -> Example:
        document, position, value = item
        passage = texts.around(document, position, AROUND)
        place = position - passage.first
        return Example(document, files[document], passage.row, position, value, texts.pieces(passage), place)

    part = next(part for part in anatomy.parts if part.label == site.part)
    return Card(
        row=row_of(layer, neuron, columns_of(scan), scan),
        label=site.label,
        tokens=sums.tokens,
        thresholds=folder.kept.thresholds,
        deciles=tuple(deciles),
        stretches=tuple(_stretches(scan, neuron)),
        strongest=tuple(example(item) for item in kept["strongest"]),
        negative=tuple(example(item) for item in kept["negative"]),
        of_deciles=tuple(None if item is None else example(item) for item in of_deciles),
        random=tuple(example(item) for item in kept["random"]),
        lens=NeuronReader(anatomy, tokenizer).read(part, neuron, f"{layer}.{neuron}", most),
        together=tuple(firing_together(folder.state.sites, site, neuron, most)),
    )


_Item = tuple[int, int, float]  # document, position, value


def _kept(where: Any, values: Any, most: int) -> list[_Item]:
    documents, positions = document_of(where).tolist(), position_of(where).tolist()
    there = (where != NOWHERE).tolist()
    rows = zip(documents, positions, values.tolist(), there, strict=True)
    return [(document, position, value) for document, position, value, is_there in rows if is_there][:most]


def decile_examples(scan: SiteScan, neuron: int, deciles: Sequence[float]) -> list[_Item | None]:
    """Of each tenth of a neuron's activations a token: the first drawn that lies in it, None where none was drawn."""
    items = _kept(scan.drawn.where, scan.drawn.values[:, neuron], len(scan.drawn.where))
    found: list[_Item | None] = []
    for low, high in pairwise(deciles):
        found.append(next((item for item in items if low <= item[2] <= high and item not in found), None))
    return found


def _stretches(scan: SiteScan, neuron: int) -> Iterable[Stretch]:
    for bucket in range(BUCKETS):
        count = int(scan.sums.positions[bucket])
        if count:
            first = 0 if bucket == 0 else 2 ** (bucket - 1)
            last = None if bucket == BUCKETS - 1 else 2**bucket - 1
            yield Stretch(first, last, count, float(scan.sums.by_position[bucket, neuron] / count))


# ------------------------------------------------------------------------------------------------ who fires with it


def firing_together(sites: Mapping[Site, SiteScan], site: Site, neuron: int, most: int) -> Iterable[Together]:
    """Other neurons that share its strongest tokens, or whose activations over the drawn tokens go with its.

    Those that share most tokens first, then by correlation, which must be `FIRING` at least where none is shared.
    """
    import numpy as np

    mine = sites[site]
    wanted = mine.strongest.where[neuron]
    wanted = wanted[wanted != NOWHERE]
    values = mine.drawn.values[:, neuron].astype(np.float64)
    found = []
    for number, (other, scan) in zip(numbered(sites), sites.items(), strict=True):
        shared = np.isin(scan.strongest.where, wanted).sum(1)
        same_tokens = np.array_equal(scan.drawn.where, mine.drawn.where)
        correlations = _correlations(scan.drawn.values, values) if same_tokens else np.zeros(len(shared))
        if other == site:
            shared[neuron], correlations[neuron] = 0, 0
        order = np.lexsort((-correlations, -shared))[:most]
        found += [
            Together(f"{number}.{i}", int(shared[i]), float(correlations[i]))
            for i in order.tolist()
            if shared[i] or correlations[i] >= FIRING
        ]
    return sorted(found, key=lambda one: (-one.shared, -one.correlation))[:most]


def _correlations(values: Floats, mine: Any) -> Any:
    """Pearson's correlation of each column with one vector over the same tokens; 0 where either is constant."""
    import numpy as np

    centred = values - values.mean(0, dtype=np.float64)
    own = mine - mine.mean()
    scale = np.linalg.norm(centred, axis=0) * np.linalg.norm(own)
    return np.divide(own @ centred, scale, out=np.zeros(values.shape[1]), where=scale > 0)
