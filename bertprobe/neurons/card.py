"""One neuron's card: its numbers, the tokens kept of it in their texts, its weights in words, who fires with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from bertprobe.anatomy import Anatomy
from bertprobe.backends import ACTIVATIONS, NumpyBackend
from bertprobe.checkpoint import Checkpoint, TensorHeader, read_tensor
from bertprobe.neurons.best import NOWHERE, document_of, position_of
from bertprobe.neurons.bins import quantiles
from bertprobe.neurons.folder import ScanFolder, numbered
from bertprobe.neurons.listing import NeuronRow, columns_of, row_of, site_of
from bertprobe.neurons.scan import SiteScan
from bertprobe.neurons.sums import BUCKETS
from bertprobe.neurons.texts import files_of, texts_of
from bertprobe.run.captured import Site
from bertprobe.tokens import Tokenizer, open_tokenizer

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
class Word:
    """An entry of the vocabulary and what it has to do with a neuron."""

    token: str
    value: float


@dataclass(frozen=True, slots=True)
class Head:
    """What the model's masked-language-model head makes of a neuron's output column: most raised, most lowered."""

    transform: str
    promoted: tuple[Word, ...]
    suppressed: tuple[Word, ...]


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
    """All there is to say of one neuron; `head` and `nearest` are None where the checkpoint has not what they need."""

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
    nearest: tuple[Word, ...] | None
    head: Head | None
    together: tuple[Together, ...]


def card_of(folder: ScanFolder, checkpoint: Checkpoint, anatomy: Anatomy, layer: int, neuron: int, most: int) -> Card:
    """The card of a neuron; texts are looked up in the source or are the scan's own, weights are the checkpoint's.

    `most` is how many entries of a list it shows. Raises `PartMissing` for a neuron that was not scanned and `NotFound`
    where the source is gone and the scan carries no texts.
    """
    site, scan = site_of(folder, layer, neuron)
    tokenizer = _tokenizer(checkpoint)
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

    words = anatomy.tensors.get("embeddings.word_embeddings.weight")
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
        nearest=None if words is None else nearest_words(anatomy, words, site, neuron, tokenizer, most),
        head=None if words is None else promoted(anatomy, words, site, neuron, tokenizer, most),
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


def _tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    from bertprobe.transformers_model import tokenizer

    return open_tokenizer(checkpoint, lambda: tokenizer(checkpoint))


# ------------------------------------------------------------------------------------------------ weights in words


def nearest_words(
    anatomy: Anatomy, words: TensorHeader, site: Site, neuron: int, tokenizer: Tokenizer, most: int
) -> tuple[Word, ...] | None:
    """The entries whose word embeddings point most nearly where the neuron's input row does, by cosine.

    None where they are not as wide as it.
    """
    import numpy as np

    part = next(part for part in anatomy.parts if part.label == site.part)
    if part.weight is None or len(part.weight.shape) != 2 or part.weight.shape[1] != words.shape[1]:
        return None
    row = read_tensor(part.weight.rows(neuron, neuron + 1)).astype(np.float32)[0]
    table = read_tensor(words).astype(np.float32)
    norms = np.linalg.norm(table, axis=1) * np.linalg.norm(row)
    cosines = np.divide(table @ row, norms, out=np.zeros(len(table), np.float32), where=norms > 0)
    return _words(cosines, tokenizer, most)


_HEADS = (
    ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.decoder.weight"),
    ("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder.weight"),
)


def promoted(
    anatomy: Anatomy, words: TensorHeader, site: Site, neuron: int, tokenizer: Tokenizer, most: int
) -> Head | None:
    """What the model's own head says of the neuron's output column as if it were a last hidden state.

    It goes through the head's dense layer, activation and layer norm, then the decoder; what the head says of zero is
    taken off. None where the checkpoint has no such head, or layers share a module of another layout.
    """
    import numpy as np

    found = anatomy.tensors
    column = found.get(f"encoder.layer.{site.part.rpartition('.')[2]}.output.dense.weight")
    head = next((names for names in _HEADS if f"{names[0]}.weight" in found), None)
    act = ACTIVATIONS.get(str(anatomy.config_spec.activation), (None, None))[0]
    if head is None or column is None or act is None:
        return None
    dense, norm, decoder = head
    tensors = {
        name: read_tensor(found[name]).astype(np.float32)
        for name in (f"{dense}.weight", f"{dense}.bias", f"{norm}.weight", f"{norm}.bias")
    }
    table = read_tensor(found.get(decoder, words)).astype(np.float32)
    vector = read_tensor(column).astype(np.float32)[:, neuron]
    x = np.stack([vector, np.zeros_like(vector)]) @ tensors[f"{dense}.weight"].T + tensors[f"{dense}.bias"]
    eps = float(anatomy.settings.get("layer_norm_eps", 1e-12))
    x = NumpyBackend().layer_norm(act(x), tensors[f"{norm}.weight"], tensors[f"{norm}.bias"], eps)
    if table.shape[1] != x.shape[1]:
        return None
    raised = (x[0] - x[1]) @ table.T
    transform = (
        f"{dense}, {anatomy.config_spec.activation}, {norm}, {decoder if decoder in found else 'word embeddings'}"
    )
    return Head(transform, _words(raised, tokenizer, most), _words(-raised, tokenizer, most, sign=-1))


def _words(values: Floats, tokenizer: Tokenizer, most: int, sign: int = 1) -> tuple[Word, ...]:
    import numpy as np

    order = np.argsort(-values, kind="stable")[:most]
    return tuple(Word(tokenizer.piece(int(i)), float(sign * values[i])) for i in order)


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
