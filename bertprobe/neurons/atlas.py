"""What an atlas shows: of every neuron of a scan what its card says, as arrays a layer.

The same numbers as `card_of` makes for one neuron at a time, made for a layer's neurons at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from bertprobe.anatomy import Anatomy
from bertprobe.checkpoint import Checkpoint
from bertprobe.errors import BadSetting, NotFound, quoted
from bertprobe.inputs import Input
from bertprobe.lens import Vocabulary
from bertprobe.lens.ranking import entry_name
from bertprobe.neurons.alike import Layers, Neighbours
from bertprobe.neurons.best import NOWHERE, Best, document_of
from bertprobe.neurons.bins import quantiles
from bertprobe.neurons.card import AROUND, RANDOM, SHARES
from bertprobe.neurons.entries import Entries, Moved, WeightsInWords
from bertprobe.neurons.folder import ScanFolder, check_model
from bertprobe.neurons.listing import LayerRow, columns_of, layer_rows
from bertprobe.neurons.ranking import NONE
from bertprobe.neurons.scan import SiteScan
from bertprobe.neurons.texts import files_of, stream_texts
from bertprobe.neurons.whole_words import WholeWords
from bertprobe.neurons.windows import Windows, documents_around, read_windows
from bertprobe.run.captured import Site
from bertprobe.run.runner import tokenizer_of
from bertprobe.tokens import Tokenizer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Doubles = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]

MOST = 40  # entries of a list: a page with more would be a book


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Tokens of I neurons: where in the texts of the layer, NOWHERE where there is none, and values, (I, most) each."""

    at: Ints
    values: Floats


@dataclass(frozen=True, slots=True, eq=False)
class LayerAtlas:
    """What there is to say of the I neurons of a layer.

    `numbers` (I,) are the columns of `neurons list` by name, `over` (thresholds, I) shares above each threshold,
    `deciles` (I, 11) as on a card, `means` (buckets, I) by position. `texts` are the tokens around all examples,
    `files` (stretches,) in which of the corpus's files each stands. `words` (I, most) say which whole words the
    strongest tokens are parts of. `random` are the same tokens for all neurons: places (most,) and values (I, most).
    """

    row: LayerRow
    numbers: Mapping[str, Doubles]
    over: Doubles
    deciles: Doubles
    tokens_by_position: Ints
    means: Doubles
    texts: Windows
    files: Ints
    strongest: Examples
    words: Ints
    negative: Examples
    of_deciles: Examples
    random: Examples
    nearest: Entries | None
    moved: Moved | None
    neighbours: Neighbours


@dataclass(frozen=True, slots=True, eq=False)
class Atlas:
    """All neurons of a scan: its layers, the pieces of the ids in them, and whole words by number.

    `files` are the names of the corpus's files, `vocabulary` is what output columns were read with, None without.
    `inputs` are the scan's files, which a page must not take the place of.
    """

    folder: ScanFolder
    layers: tuple[LayerAtlas, ...]
    pieces: Mapping[int, str]
    words: tuple[str, ...]
    files: tuple[str, ...]
    vocabulary: Vocabulary | None
    inputs: tuple[Input, ...] = ()

    @property
    def neurons(self) -> int:
        """How many there are."""
        return sum(layer.row.neurons for layer in self.layers)


def atlas_of(
    folder: ScanFolder,
    checkpoint: Checkpoint,
    anatomy: Anatomy,
    most: int = 10,
    progress: Callable[[int], None] = lambda neurons: None,
) -> Atlas:
    """All neurons of a scan with what their cards say, `most` entries of a list; `progress` hears how many are done.

    Raises:
        BadSetting: `most` is none or too many.
        NotFound: the model or its tokenizer is not the one that was scanned, or the texts are gone.
        PartMissing: no text ran through the scan.
    """
    if not 1 <= most <= MOST:
        raise BadSetting(f"{most} entries of a list are not what a page can show", f"choose 1 to {MOST}")
    check_model(folder, checkpoint)
    tokenizer = tokenizer_of(checkpoint)
    sites = folder.sites()
    kept = {site: _Kept.of(folder.state.sites[site], most) for site in sites.values()}
    streamed = stream_texts(folder, tokenizer, documents_around(_where(kept.values())))
    texts = read_windows(streamed.passages, _where(kept.values()), AROUND)
    weights, scans = WeightsInWords(anatomy), Layers([folder.state.sites[site] for site in sites.values()])
    rows = {row.layer: row for row in layer_rows(folder)}
    shared = _Shared(texts, WholeWords(texts.ids, streamed.piece), _Files.of(folder, documents_around(texts.where)))
    layers = []
    for place, (number, site) in enumerate(sites.items()):
        neighbours = scans.neighbours(place, most)
        layers.append(_layer(rows[number], folder.state.sites[site], kept[site], shared, weights, site, neighbours))
        progress(layers[-1].row.neurons)
    pieces = _pieces(layers, streamed.piece, tokenizer)
    return Atlas(
        folder, tuple(layers), pieces, shared.words.found, shared.files.names, weights.vocabulary, folder.inputs()
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Shared:
    """What all layers' examples stand in."""

    texts: Windows
    words: WholeWords
    files: _Files


@dataclass(frozen=True, slots=True, eq=False)
class _Files:
    """In which files documents stand: `names` of those files, `at` which of them is each of `documents`, rising."""

    names: tuple[str, ...]
    documents: Ints
    at: Ints

    @classmethod
    def of(cls, folder: ScanFolder, documents: Sequence[int]) -> _Files:
        import numpy as np

        paths = files_of(folder, documents)
        every = list(dict.fromkeys(paths.values()))
        number = {path: i for i, path in enumerate(every)}
        at = np.array([number[paths[document]] for document in documents], np.int64)
        return cls(tuple(PurePath(path).name for path in every), np.array(documents, np.int64), at)

    def of_tokens(self, where: Ints) -> Ints:
        import numpy as np

        found: Ints = self.at[np.searchsorted(self.documents, document_of(where))]
        return found


# ------------------------------------------------------------------------------------------------ a layer


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """Which tokens of a layer are shown, by reference: of `of_deciles` (I, 10) which of those drawn, NONE: none."""

    strongest: Best
    negative: Best
    deciles: Doubles
    of_deciles: Ints
    drawn: Ints

    @classmethod
    def of(cls, scan: SiteScan, most: int) -> _Kept:
        sums = scan.sums
        deciles = quantiles(sums.histogram, sums.lowest, sums.highest, SHARES)
        few = -(-most // 2)
        strongest = Best(scan.strongest.values[:, :most], scan.strongest.where[:, :most])
        negative = Best(-scan.negative.values[:, :few], scan.negative.where[:, :few])
        return cls(strongest, negative, deciles, _of_deciles(scan, deciles), scan.drawn.where)

    @property
    def where(self) -> Ints:
        """All of these tokens."""
        import numpy as np

        drawn = np.append(self.of_deciles[self.of_deciles != NONE], np.arange(min(RANDOM, len(self.drawn))))
        shown = self.drawn[np.unique(drawn)]
        return np.concatenate([self.strongest.where.ravel(), self.negative.where.ravel(), shown])


def _of_deciles(scan: SiteScan, deciles: Doubles) -> Ints:
    """Of each tenth of each neuron's activations the first token drawn that lies in it and in none before, (I, 10)."""
    import numpy as np

    values = scan.drawn.values.T.astype(np.float64)
    is_free = np.ones(values.shape, np.bool_)
    found = np.full((len(values), len(SHARES) - 1), NONE, np.int64)
    if not values.size:
        return found
    for tenth in range(found.shape[1]):
        low, high = deciles[:, tenth, None], deciles[:, tenth + 1, None]
        fits = (low <= values) & (values <= high) & is_free
        first = fits.argmax(1)
        rows = np.flatnonzero(fits.any(1))
        found[rows, tenth] = first[rows]
        is_free[rows, first[rows]] = False
    return found


def _where(kept: Iterable[_Kept]) -> Ints:
    import numpy as np

    every = np.concatenate([np.empty(0, np.int64), *(each.where for each in kept)])
    return np.unique(every[every != NOWHERE])


def _layer(
    row: LayerRow,
    scan: SiteScan,
    kept: _Kept,
    shared: _Shared,
    weights: WeightsInWords,
    site: Site,
    neighbours: Neighbours,
) -> LayerAtlas:
    import numpy as np

    most = neighbours.neurons.shape[1]
    sums, tokens = scan.sums, scan.sums.tokens
    texts = shared.texts.around(kept.where, AROUND)
    first_drawn = kept.drawn[:RANDOM]
    strongest = _examples(texts, kept.strongest)
    tenths = np.where(kept.of_deciles == NONE, NOWHERE, np.append(kept.drawn, NOWHERE)[kept.of_deciles])
    each = np.arange(len(tenths))[:, None]
    seen = np.flatnonzero(sums.positions)
    return LayerAtlas(
        row=row,
        numbers={
            **columns_of(scan),
            "min": sums.lowest.astype(np.float64),
            "max": sums.highest.astype(np.float64),
            "above_zero": sums.above / tokens,
            "before_above_zero": sums.before_above / tokens,
        },
        over=sums.over / tokens,
        deciles=kept.deciles,
        tokens_by_position=sums.positions,
        means=sums.by_position[seen] / sums.positions[seen, None],
        texts=texts,
        files=shared.files.of_tokens(texts.where),
        strongest=strongest,
        words=shared.words.of(texts, strongest.at),
        negative=_examples(texts, kept.negative),
        of_deciles=Examples(texts.at(tenths), scan.drawn.values.T[each, kept.of_deciles]),
        random=Examples(texts.at(first_drawn), scan.drawn.values[:RANDOM].T),
        nearest=weights.nearest(site, most),
        moved=weights.moved(site, most),
        neighbours=neighbours,
    )


def _examples(texts: Windows, best: Best) -> Examples:
    return Examples(texts.at(best.where), best.values)


# ------------------------------------------------------------------------------------------------ pieces


def _pieces(layers: Iterable[LayerAtlas], of_texts: Callable[[int], str], tokenizer: Tokenizer) -> dict[int, str]:
    """The pieces of all ids: those of texts as the scan has them, which must be the model's own."""
    layers = list(layers)
    read = {id: of_texts(id) for id in _used(layer.texts.ids for layer in layers)}
    other = next((id for id, piece in read.items() if tokenizer.piece(id) != piece), None)
    if other is not None:
        raise NotFound(
            f"the model's tokenizer is not the one that was scanned: entry {other} is "
            f"{quoted(tokenizer.piece(other))}, {quoted(read[other])} in the scan",
            "put that one back",
        )
    entries = [each for layer in layers for each in (layer.nearest, *_both(layer.moved)) if each is not None]
    return {**read, **{id: entry_name(tokenizer, id) for id in _used(each.ids for each in entries) if id != NONE}}


def _both(moved: Moved | None) -> tuple[Entries, ...]:
    return () if moved is None else (moved.promoted, moved.suppressed)


def _used(ids: Iterable[npt.NDArray[Any]]) -> list[int]:
    import numpy as np

    found: set[int] = set()
    for each in ids:
        found.update(np.unique(each).tolist())
    return sorted(found)
