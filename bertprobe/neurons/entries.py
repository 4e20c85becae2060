"""The weights of all neurons of a layer in words: what `bertprobe.lens` says of one, some hundred at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from bertprobe.anatomy import Anatomy, Part
from bertprobe.anatomy.heads import down_projection, word_embeddings
from bertprobe.backends import NumpyBackend
from bertprobe.checkpoint import read_tensor
from bertprobe.errors import BertprobeError
from bertprobe.lens import Vocabulary, open_vocabulary
from bertprobe.neurons.ranking import largest
from bertprobe.run.captured import Site

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Ints = npt.NDArray[np.int64]

BLOCK = 256  # neurons at a time: with 30,000 entries their products are 30 MB


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """Of I neurons the entries of the vocabulary that come first by some value, and the values, (I, most) each."""

    ids: Ints
    values: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Moved:
    """What the neurons' output columns raise most and lower most among the entries of the vocabulary."""

    promoted: Entries
    suppressed: Entries


class WeightsInWords:
    """Word embeddings and head of a checkpoint, read once, beside which neurons are held."""

    def __init__(self, anatomy: Anatomy) -> None:
        self._anatomy = anatomy

    def nearest(self, site: Site, most: int) -> Entries | None:
        """The entries whose word embeddings point most nearly where each neuron's input row does, by cosine.

        None where they are not as wide as it, or numbers of either are NaN or infinite.
        """
        import numpy as np

        part, table = self._part(site), self._directions
        if table is None or part.weight is None or part.weight.shape[1:] != table.shape[1:]:
            return None
        rows = _normalised(read_tensor(part.weight).astype(np.float32))
        if rows is None:
            return None
        found = _first(len(rows), lambda block: rows[block] @ table.T, most)
        return None if found is None else found[0]

    def moved(self, site: Site, most: int) -> Moved | None:
        """What each neuron's output column raises and lowers, as `Vocabulary.raised` has it.

        None where the checkpoint has no vocabulary of a form that is known, or no column of a neuron, or where what
        comes of one is NaN or infinite.
        """
        import numpy as np

        try:
            header = down_projection(self._anatomy, self._part(site))
        except BertprobeError:  # a card says why
            return None
        vocabulary = self.vocabulary
        if vocabulary is None or header.shape[0] != vocabulary.width:
            return None
        columns = np.ascontiguousarray(read_tensor(header).astype(np.float32).T)
        found = _first(len(columns), lambda block: vocabulary.raised(columns[block]), most, both=True)
        return None if found is None else Moved(*found)

    @cached_property
    def vocabulary(self) -> Vocabulary | None:
        """The head of the checkpoint, or its word embeddings alone; None where there is neither that could be read."""
        try:
            return open_vocabulary(self._anatomy, NumpyBackend())
        except BertprobeError:
            return None

    @cached_property
    def _directions(self) -> Floats | None:
        import numpy as np

        header = word_embeddings(self._anatomy)
        return None if header is None else _normalised(read_tensor(header).astype(np.float32))

    def _part(self, site: Site) -> Part:
        return next(part for part in self._anatomy.parts if part.label == site.part)


def _normalised(rows: Floats) -> Floats | None:
    """Rows of length 1, zero where they are zero; None where a number is NaN or infinite, which a card tells."""
    import numpy as np

    if not np.isfinite(rows).all():
        return None
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    found: Floats = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return found


def _first(neurons: int, values: Callable[[slice], Floats], most: int, *, both: bool = False) -> list[Entries] | None:
    """The first entries of each neuron by what a block of neurons has for all entries; with `both` the last, too.

    None where a block has NaN or infinity, which have no order.
    """
    import numpy as np

    found: list[list[tuple[Ints, Floats]]] = [[] for _ in range(1 + both)]
    for start in range(0, neurons, BLOCK):
        block = values(slice(start, start + BLOCK))
        if not np.isfinite(block).all():
            return None
        found[0].append(largest(block, most))
        if both:
            ids, turned = largest(np.negative(block, out=block), most)
            found[1].append((ids, -turned))
    return [Entries(*(np.concatenate(each) for each in zip(*blocks, strict=True))) for blocks in found]
