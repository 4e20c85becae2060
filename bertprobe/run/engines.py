"""What runs a batch: our own encoder, or transformers for the other families; both show what is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from bertprobe.backends import Array, Backend, TorchBackend
from bertprobe.encoder import Encoder, encode, first_tokens, pool
from bertprobe.errors import UnsupportedFile
from bertprobe.run.captured import FIRST, HIDDEN, POOLED, STATES, Captured, Site, Tap

if TYPE_CHECKING:
    from bertprobe.tokens import Packed
    from bertprobe.transformers_model import Reference

Edit = Callable[[str, Array, Array], Array]
"""Called with a part's label and its values before and after the activation: gives those that go on in their place.

The values after the activation are its own: it may change them where they are.
"""

UNBOUNDED = 1_000_000
"""The most tokens of a text to a model whose positions are relative and have no end."""


class Engine(Protocol):
    """What runs packed texts.

    `longest` is the most tokens it takes of a text, `vocabulary` and `segments` are the rows of its tables. `edit`
    changes what parts put out, before it is shown and goes on; None leaves the model as it is.
    """

    backend: Backend
    name: str
    longest: int
    vocabulary: int | None
    segments: int | None
    has_pooler: bool
    rows_are_tokens: bool
    edit: Edit | None

    @property
    def workers(self) -> int:
        """How many batches may run side by side, each on a thread."""
        ...

    def share(self) -> None:
        """Makes ready for several batches at a time."""
        ...

    def run(self, batch: Packed, needs: frozenset[str], tap: Tap) -> None:
        """Runs a batch and shows the values at every site that is needed; nothing is computed that no site needs."""
        ...

    def with_gradients(self) -> Engine:
        """The same model on torch, keeping what gradients need of whatever an `edit` gives back that wants them."""
        ...


class BertEngine:
    """Our own encoder, of BERT's layout."""

    rows_are_tokens = True

    def __init__(self, encoder: Encoder, edit: Edit | None = None) -> None:
        self.edit = edit
        self.encoder, self.backend, self.name = encoder, encoder.backend, encoder.backend.name
        self.longest = encoder.positions
        self.vocabulary: int | None = encoder.vocabulary
        self.segments: int | None = encoder.segments
        self.has_pooler = encoder.has_pooler

    @property
    def workers(self) -> int:
        return self.backend.workers

    def share(self) -> None:
        self.encoder.layers.keep(self.encoder.depth)

    def with_gradients(self) -> BertEngine:
        engine = BertEngine(self.encoder, self.edit)
        engine.backend = _torch_of(self.backend).with_gradients()
        return engine

    def run(self, batch: Packed, needs: frozenset[str], tap: Tap) -> None:
        import numpy as np

        def show(site: str, after: Array, lengths: Any, before: Array | None = None) -> None:
            if site in needs:
                tap(Captured(Site(site), batch, lengths, after, before, self.backend))

        def on_layer(number: int, before: Array, after: Array) -> Array:
            label = f"intermediate.{number}"
            if self.edit is not None:
                own = after * 1 if after is before else after  # an activation may give what it takes
                after = self.edit(label, before, own)
            show(label, after, batch.lengths, before)
            return after

        def on_state(number: int, values: Array) -> None:
            tap(Captured(Site(STATES, number), batch, batch.lengths, values, None, self.backend))

        ones = np.ones(len(batch.lengths), np.int64)
        last = f"intermediate.{self.encoder.depth - 1}"
        # Whatever needs no row of the last layer but the first tokens' has that layer run for these alone.
        only_first = bool(needs & {FIRST, POOLED}) and not needs & {HIDDEN, STATES, last}
        of_states = on_state if STATES in needs else None
        with self.backend.inference():
            hidden = encode(self.encoder, batch, on_layer, first_only=only_first, on_state=of_states)
            show(HIDDEN, hidden, batch.lengths)
            if needs & {FIRST, POOLED}:
                first = hidden if only_first else hidden[first_tokens(batch)]
                show(FIRST, first, ones)
                if POOLED in needs and self.has_pooler:
                    show(POOLED, pool(self.encoder, first), ones)


class TransformersEngine:
    """A model of transformers, one text at a time."""

    name = "transformers"

    def __init__(self, reference: Reference, backend: Backend, edit: Edit | None = None) -> None:
        self.edit = edit
        self.reference, self.backend = reference, backend
        words = reference.anatomy.tensors.get("embeddings.word_embeddings.weight")
        self.vocabulary = words.shape[0] if words is not None else None
        kinds = reference.anatomy.tensors.get("embeddings.token_type_embeddings.weight")
        self.segments = kinds.shape[0] if kinds is not None else None
        self.longest = _longest(reference.model)
        self.has_pooler = reference.anatomy.pooler is not None
        self.rows_are_tokens = reference.rows_are_tokens

    workers = 1  # its hooks belong to one text at a time

    def share(self) -> None:
        pass

    def with_gradients(self) -> TransformersEngine:
        self.reference.model.requires_grad_(False)  # its weights want none
        return TransformersEngine(replace(self.reference, gradients=True), self.backend, self.edit)

    def run(self, batch: Packed, needs: frozenset[str], tap: Tap) -> None:
        for text in batch.singly():
            self._run_one(text, needs, tap)

    def _run_one(self, text: Packed, needs: frozenset[str], tap: Tap) -> None:
        import numpy as np

        def show(site: Site, after: Any, before: Any = None) -> None:
            if site.part in needs:
                tap(Captured(site, text, np.array([len(after)]), after, before, self.backend))

        on_record: Callable[[Any], None] | None = None
        if needs - {HIDDEN, FIRST, POOLED, STATES}:
            on_record = lambda r: show(Site(r.part, r.call), r.after, r.before)  # noqa: E731
        states = STATES in needs
        hidden = self.reference.run(text.ids.tolist(), text.segments.tolist(), on_record, self.edit, states=states)
        for number, values in enumerate(hidden.states):
            show(Site(STATES, number), values)
        show(Site(HIDDEN), hidden.last_hidden_state)
        show(Site(FIRST), hidden.last_hidden_state[:1])
        if hidden.pooled is not None:
            show(Site(POOLED), hidden.pooled[None])


def _torch_of(backend: Backend) -> TorchBackend:
    if not isinstance(backend, TorchBackend):
        raise UnsupportedFile("numpy has no gradients", 'leave out `backend="numpy"`')
    return backend


def _longest(model: Any) -> int:
    """The most tokens a text may have, by a model's own config, defaults of its class included.

    A table of positions that knows a padding id, as RoBERTa's does, is used from the row after it.
    """
    keys = ("max_position_embeddings", "n_positions")
    found = next((n for key in keys if type(n := getattr(model.config, key, None)) is int), 0)
    embeddings = getattr(model, "embeddings", None)
    table = getattr(embeddings, "position_embeddings", None)
    if found <= 0 or (table is None and hasattr(embeddings, "position_embeddings")):  # DeBERTa's may be relative alone
        return UNBOUNDED
    padding = getattr(table, "padding_idx", None)
    return found if padding is None else found - padding - 1
