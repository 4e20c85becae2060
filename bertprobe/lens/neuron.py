"""Neurons through the lens: the output column in the vocabulary, the input row among the word embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from bertprobe.anatomy import Anatomy, Part
from bertprobe.anatomy.heads import down_projection, part_of, word_embeddings
from bertprobe.backends import NumpyBackend
from bertprobe.checkpoint import TensorHeader, check_readable, read_tensor
from bertprobe.errors import BertprobeError, CorruptFile, UnsupportedFile, printable
from bertprobe.lens.null import Null, chance
from bertprobe.lens.ranking import VocabularyEntry, beyond, entries
from bertprobe.lens.vocabulary import Vocabulary, open_vocabulary, plain_vocabulary
from bertprobe.tokens import Tokenizer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Nearest:
    """The word embeddings that point most nearly where an input row does, by cosine.

    `beyond` of them lie above 95 % of random directions at their rank.
    """

    entries: tuple[VocabularyEntry, ...]
    beyond: int


@dataclass(frozen=True, slots=True)
class WordLists:
    """What an output column does to the entries of the vocabulary: those it raises most, and those it lowers most.

    `transform` names what the column went through; what comes of zero is taken off, and the mean of all entries. Of
    each list so many lie beyond 95 % of random directions at their rank.
    """

    transform: str
    promoted: tuple[VocabularyEntry, ...]
    suppressed: tuple[VocabularyEntry, ...]
    promoted_beyond: int
    suppressed_beyond: int


@dataclass(frozen=True, slots=True)
class NeuronLens:
    """A neuron in the vocabulary: None is what the checkpoint has not the tensors for, and `notes` say why.

    `head` is its output column through the masked-language-model head, None without one; `words` the same column
    through the word embeddings alone.
    """

    name: str
    label: str
    neuron: int
    nearest: Nearest | None
    head: WordLists | None
    words: WordLists | None
    notes: tuple[str, ...]


def lens_of_neurons(
    anatomy: Anatomy, tokenizer: Tokenizer, neurons: Mapping[int, tuple[int, ...]], most: int, null: Null | None = None
) -> tuple[NeuronLens, ...]:
    """Neurons, by layer, in the vocabulary: `most` entries of each list.

    Raises `BertprobeError` for a neuron of which nothing can be said, with the first reason.
    """
    reader = NeuronReader(anatomy, tokenizer, null or Null())
    found = []
    for layer, numbers in neurons.items():
        part = part_of(anatomy, layer)
        for number in numbers:
            one = reader.read(part, number, f"{layer}.{number}", most)
            if one.nearest is None and one.head is None and one.words is None:
                raise reader.errors[0]
            found.append(one)
    return tuple(found)


@dataclass
class NeuronReader:
    """Reads neurons of a checkpoint in its vocabulary; each matrix is read once. `errors` are those of the last one."""

    anatomy: Anatomy
    tokenizer: Tokenizer
    null: Null = field(default_factory=Null)
    errors: list[BertprobeError] = field(default_factory=list)
    _columns: dict[str, Floats] = field(default_factory=dict)
    _rows: dict[str, Floats] = field(default_factory=dict)

    def read(self, part: Part, neuron: int, name: str, most: int) -> NeuronLens:
        """One neuron of a part; what cannot be had is None, and a note says why."""
        self.errors = []
        nearest = self._tried(lambda: self._nearest(part, neuron, most))
        column = self._tried(lambda: self._column(part, neuron))
        head = words = None
        if column is not None:
            vocabulary = self._tried(lambda: self._vocabulary)
            if vocabulary is not None and vocabulary.is_head:
                head = self._tried(lambda: self._lists(vocabulary, column, most))
                plain = self._plain
                words = None if plain is None else self._tried(lambda: self._lists(plain, column, most))
            elif vocabulary is not None:
                words = self._tried(lambda: self._lists(vocabulary, column, most))
        notes = tuple(dict.fromkeys(error.found for error in self.errors))
        return NeuronLens(name, part.label, neuron, nearest, head, words, notes)

    def _tried(self, what: Callable[[], T]) -> T | None:
        """What a list needs, None where the checkpoint has it not: the others are shown without it."""
        try:
            return what()
        except BertprobeError as error:
            self.errors.append(error)
            return None

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return open_vocabulary(self.anatomy, NumpyBackend())

    @cached_property
    def _plain(self) -> Vocabulary | None:
        """The word embeddings alone, None where they are not as wide as a column."""
        words = word_embeddings(self.anatomy)
        fits = words is not None and words.shape[1] == self.anatomy.widths[0]
        return plain_vocabulary(self.anatomy, NumpyBackend()) if fits else None

    @cached_property
    def _directions(self) -> Floats:
        """The word embeddings as directions (V, E), each of norm 1 but for those that are zero."""
        import numpy as np

        words = word_embeddings(self.anatomy)
        if words is None:
            raise UnsupportedFile("its word embeddings have no name that is known", "please report this model")
        table = _finite(words, read_numbers(words))
        norms = np.linalg.norm(table, axis=1, keepdims=True)
        directions: Floats = np.divide(table, norms, out=np.zeros_like(table), where=norms > 0)
        return directions

    def _nearest(self, part: Part, neuron: int, most: int) -> Nearest:
        import numpy as np

        table = self._directions
        if part.weight is None or len(part.weight.shape) != 2:
            raise UnsupportedFile(
                f"no row of {printable(part.weight_name or part.label)} is one neuron's",
                "its layers are grouped or convolutions",
            )
        if part.weight.shape[1] != table.shape[1]:
            raise UnsupportedFile(
                f"the input rows of {part.label} are not as wide as the word embeddings ({table.shape[1]})",
                "they are of two spaces",
            )
        row = _finite(part.weight, self._row(part.weight, neuron))
        norm = float(np.linalg.norm(row))
        cosines = table @ (row / norm if norm else row)
        drawn = self.null.rows(1.0, table.shape[1]) @ table.T
        found = entries(cosines, chance(drawn, most), self.tokenizer, most)
        return Nearest(found, beyond(found))

    def _row(self, header: TensorHeader, neuron: int) -> Floats:
        """A row of a matrix: of one that a file has turned round or in pieces, all of it is read, once."""
        if header.axes is None and len(header.pieces) == 1:
            return read_numbers(header.rows(neuron, neuron + 1)).reshape(-1)
        if header.name not in self._rows:
            self._rows = {header.name: read_numbers(header)}  # neurons come layer by layer
        row: Floats = self._rows[header.name][neuron]
        return row

    def _column(self, part: Part, neuron: int) -> Floats:
        if part.label not in self._columns:
            header = down_projection(self.anatomy, part)
            self._columns = {part.label: read_numbers(header)}  # neurons come layer by layer
        column: Floats = self._columns[part.label][:, neuron]
        return _finite(down_projection(self.anatomy, part), column)

    def _lists(self, vocabulary: Vocabulary, column: Floats, most: int) -> WordLists:
        import numpy as np

        if len(column) != vocabulary.width:
            raise UnsupportedFile(
                f"an output column has {len(column)} numbers, {vocabulary.steps[0]} takes {vocabulary.width}",
                "its layers are narrower than its hidden states",
            )
        (raised,) = vocabulary.raised(column[None])
        if not np.isfinite(raised).all():
            raise CorruptFile(f"{vocabulary.transform} gives NaN or infinite numbers", "bertprobe inspect tells why")
        drawn = vocabulary.raised(self.null.rows(float(np.linalg.norm(column)), len(column)))
        promoted = entries(raised, chance(drawn, most), self.tokenizer, most)
        suppressed = entries(-raised, chance(-drawn, most), self.tokenizer, most, sign=-1)
        return WordLists(vocabulary.transform, promoted, suppressed, beyond(promoted), beyond(suppressed, -1))


def read_numbers(header: TensorHeader) -> Floats:
    """The values of a tensor in float32."""
    import numpy as np

    check_readable(header)
    return np.asarray(read_tensor(header), np.float32)


def _finite(header: TensorHeader, values: Floats) -> Floats:
    """The values; raises `CorruptFile` where one is NaN or infinite: no list made of them would mean anything."""
    import numpy as np

    if not np.isfinite(values).all():
        raise CorruptFile(
            f"{printable(header.name)} holds numbers that are NaN or infinite", "bertprobe inspect tells how many"
        )
    return values
