"""Vectors as numbers of the vocabulary's entries: through the masked-language-model head, or the embeddings alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bertprobe.anatomy import Anatomy
from bertprobe.anatomy.heads import WORD_EMBEDDINGS, Head, Norm, final_norm, find_head, word_embeddings
from bertprobe.backends import Activation, Array, Backend
from bertprobe.checkpoint import TensorHeader, check_readable, read_tensors
from bertprobe.errors import UnsupportedFile

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """What reads vectors as entries of the vocabulary, on a backend.

    `steps` name what a vector goes through, in order; `is_head` says whether that is the model's own head, and not the
    word embeddings alone. `width` is what it takes, H, and `size` the number of entries, V.
    """

    backend: Backend
    steps: tuple[str, ...]
    is_head: bool
    width: int
    size: int
    _weights: Mapping[str, Array]
    _activation: Activation | None = None
    _head: Head | None = None
    _final: Norm | None = None

    @property
    def transform(self) -> str:
        """What a vector goes through, in words."""
        return ", ".join(self.steps)

    def logits(self, rows: Array, *, after_last: bool = False) -> Array:
        """A number for every entry: (n, H) → (n, V), on the backend.

        Rows from `after_last` layer have been through the model's final norm, where it has one; others go through it.
        """
        backend, weights = self.backend, self._weights
        with backend.inference():
            x = rows
            if self._final is not None and not after_last:
                x = self._normalised(x, "final", self._final)
            if self._head is not None and self._activation is not None:
                x = self._activation(backend.dense(x, weights["dense.weight"], weights.get("dense.bias")))
                x = self._normalised(x, "norm", self._head.norm)
            return backend.dense(x, weights["decoder.weight"], weights.get("decoder.bias"))

    def numbers(self, rows: Array, *, after_last: bool = False) -> Floats:
        """The same in numpy, float32; rows may be numpy's, too."""
        import numpy as np

        given = self.backend.array(rows) if isinstance(rows, np.ndarray) else rows
        found: Floats = np.asarray(self.backend.numpy(self.logits(given, after_last=after_last)), np.float32)
        return found

    def raised(self, rows: Floats) -> Floats:
        """How far each row raises every entry above the others, (n, H) → (n, V).

        It is what comes of a row less what comes of zero, less the mean of all entries: a number that is added to all
        logits changes no probability.
        """
        import numpy as np

        found = self.numbers(np.concatenate([rows, np.zeros_like(rows[:1])]))
        raised = found[:-1] - found[-1]
        above: Floats = raised - raised.mean(1, keepdims=True, dtype=np.float64).astype(np.float32)
        return above

    def _normalised(self, x: Array, name: str, norm: Norm) -> Array:
        return self.backend.layer_norm(x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"], norm.eps)


def open_vocabulary(anatomy: Anatomy, backend: Backend) -> Vocabulary:
    """The masked-language-model head of a checkpoint; where it has none, its word embeddings alone.

    Raises:
        UnsupportedFile: the head is of a form that is not known, its activation is one the backend has not, or there is
            no head and the word embeddings are not as wide as the hidden states.
        PartMissing: a tensor of the head is not there; nothing is ever filled in.
    """
    head = find_head(anatomy)
    if head is None:
        return plain_vocabulary(anatomy, backend)
    final = final_norm(anatomy)
    wanted = {
        "dense.weight": head.weight,
        "dense.bias": head.dense_bias,
        **_of_norm("norm", head.norm),
        "decoder.weight": head.decoder,
        "decoder.bias": head.bias,
        **({} if final is None else _of_norm("final", final)),
    }
    return Vocabulary(
        backend,
        (*(() if final is None else (final.name,)), *head.steps),
        True,
        head.weight.shape[1],
        head.decoder.shape[0],
        _read(backend, wanted),
        backend.activation(head.activation),
        head,
        final,
    )


def plain_vocabulary(anatomy: Anatomy, backend: Backend) -> Vocabulary:
    """The word embeddings alone: a vector's product with each of them.

    Raises `UnsupportedFile` where they are not as wide as the hidden states, or there is no table of them.
    """
    words, hidden = word_embeddings(anatomy), anatomy.widths[0]
    if words is None:
        raise UnsupportedFile("its word embeddings have no name that is known", "please report this model")
    if words.shape[1] != hidden:
        raise UnsupportedFile(
            f"its word embeddings are {words.shape[1]} wide, its hidden states {hidden}",
            "they are of two spaces: only a head leads from one to the other",
        )
    return Vocabulary(
        backend, (WORD_EMBEDDINGS,), False, words.shape[1], words.shape[0], _read(backend, {"decoder.weight": words})
    )


def _of_norm(name: str, norm: Norm) -> dict[str, TensorHeader | None]:
    return {f"{name}.weight": norm.weight, f"{name}.bias": norm.bias}


def _read(backend: Backend, wanted: Mapping[str, TensorHeader | None]) -> dict[str, Array]:
    """The tensors on the backend; the bias that a norm has not is zero, which adds nothing."""
    import numpy as np

    there: dict[str, TensorHeader] = {name: header for name, header in wanted.items() if header is not None}
    for one in there.values():
        check_readable(one)
    found: dict[str, Any] = {name: backend.array(values) for name, values in read_tensors(there)}
    for name, header in wanted.items():
        if header is None and name in ("norm.bias", "final.bias"):
            found[name] = backend.array(np.zeros(there[f"{name[:-5]}.weight"].shape, np.float32))
    return found
