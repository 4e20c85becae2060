"""A model of transformers that runs, and the hooks that hear what its feed-forward parts put out."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bertprobe.anatomy import Anatomy
from bertprobe.checkpoint import Checkpoint
from bertprobe.errors import UnsupportedFile
from bertprobe.transformers_model.door import opened, shut
from bertprobe.transformers_model.manners import borrowed, refused

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from bertprobe.backends import Activation


@dataclass(frozen=True, eq=False)
class Record:
    """What one part put out in one call.

    `part` is its label in the anatomy; `call` counts the calls of a module that several layers share, as in ALBERT, and
    is 0 elsewhere. `before` is the dense layer's output and `after` what came of it, (rows, I) each. In a gated family
    each layer gives two records: for `gate.N` `after` is act(gate), for `intermediate.N` it is act(gate) · up, the
    input of the down-projection; `before` is the respective dense layer's own output.
    """

    part: str
    call: int
    before: Tensor
    after: Tensor


@dataclass(frozen=True, eq=False)
class Hidden:
    """What the model as a whole put out.

    `last_hidden_state` is (rows, H) and `pooled` (H,), each with the batch in front when it comes from `run_inputs`;
    `pooled` is None where the checkpoint holds no pooler. `positions_not_tokens` says that the rows of some parts do
    not stand for the tokens one by one, so that no token's text may be put beside them. `states` are the hidden states
    of each layer in its form, those of the embeddings first; empty where they were not asked for.
    """

    last_hidden_state: Tensor
    pooled: Tensor | None
    positions_not_tokens: bool
    states: tuple[Tensor, ...] = ()


OnRecord = Callable[[Record], None]

Edit = Callable[[str, "Tensor", "Tensor"], "Tensor"]
"""Called with a part's label and its values before and after the activation: gives those that go on in their place.

The values after the activation are its own: it may change them where they are.
"""


@dataclass(frozen=True)
class DenseSite:
    """Where a part's dense layer is in the model: its module's path, and its features of a fused output."""

    part: str
    path: str
    features: slice


@dataclass(frozen=True)
class Block:
    """A feed-forward block: what widens, the path of what narrows again, and in gated families what is activated."""

    up: DenseSite
    down: str
    gate: DenseSite | None = None
    activation: Activation | None = None


@dataclass(frozen=True, eq=False)
class Reference:
    """A model of transformers, in eval mode and complete, and where to listen in it.

    `blocks` are its feed-forward blocks; `inner` is the path of the encoder whose hidden states the model itself keeps
    back, as DPR does, else empty; `pool` is a pooler that is in the checkpoint and not in the model. `invented` names
    the tensors of a pooler that the class insists on and the checkpoint does not hold: they are NaN, and never shown.
    `gradients` says whether a run keeps what gradients of values that want them need.
    """

    checkpoint: Checkpoint
    anatomy: Anatomy
    model: PreTrainedModel
    device: str
    blocks: tuple[Block, ...]
    inner: str
    invented: tuple[str, ...]
    pool: Callable[[Tensor], Tensor] | None = None
    gradients: bool = False

    @property
    def rows_are_tokens(self) -> bool:
        """Whether each row of what comes out stands for a token."""
        return self.anatomy.row.rows_are_tokens

    @property
    def parts(self) -> tuple[str, ...]:
        """The labels of the parts that give records."""
        return tuple(dense.part for block in self.blocks for dense in (block.gate, block.up) if dense is not None)

    @property
    def nonfinite(self) -> tuple[str, ...]:
        """The tensors with NaN or infinity in them, by their names in the file where it has them so."""
        names = []
        for name, values in self.model.state_dict().items():
            if name not in self.invented and values.is_floating_point() and not values.isfinite().all():
                header = self.anatomy.tensors.get(name)
                names.append(name if header is None else header.name)
        return tuple(names)

    def run(
        self,
        ids: Sequence[int],
        segments: Sequence[int] | None = None,
        on_record: OnRecord | None = None,
        edit: Edit | None = None,
        *,
        states: bool = False,
    ) -> Hidden:
        """One text, unpadded, through the model; `on_record` gets the records as they arise.

        `edit` changes what an intermediate module puts out, before it is recorded and goes on; with `states` the hidden
        states of all layers are kept.

        Padding that a model adds on its own, and a prompt it puts in front, are cut off the records. Segments are left
        out where the family has none.

        Args:
            ids: (S,) with special tokens.
            segments: (S,) or None for the family's default.

        Raises:
            UnsupportedFile: the family needs more than text, or the model refuses the input.
        """
        import torch

        reason = self.anatomy.row.more_than_text
        if reason is not None:
            raise UnsupportedFile(f"{self.anatomy.family} cannot be run on text alone: {reason}", "take a text encoder")
        inputs: dict[str, Any] = {"input_ids": torch.tensor(ids, dtype=torch.long)[None]}
        if states:
            inputs["output_hidden_states"] = True
        if segments is not None and self._takes_segments:
            inputs["token_type_ids"] = torch.tensor(segments, dtype=torch.long)[None]
        aligned = None if on_record is None else lambda record: on_record(self._aligned(record, len(ids)))
        hidden = self.run_inputs(inputs, aligned, edit)
        pooled = None if hidden.pooled is None else hidden.pooled[0]
        kept = tuple(values[0] for values in hidden.states)
        return replace(hidden, last_hidden_state=hidden.last_hidden_state[0], pooled=pooled, states=kept)

    @shut(models=True)
    def run_inputs(
        self, inputs: Mapping[str, Any], on_record: OnRecord | None = None, edit: Edit | None = None
    ) -> Hidden:
        """Whatever the model's forward takes, a batch; records have the rows of the whole batch, in the model's order.

        Raises:
            UnsupportedFile: the model refuses the input.
        """
        given = {key: value.to(self.device) if hasattr(value, "to") else value for key, value in inputs.items()}
        hooks = _Hooks(on_record, edit)
        try:
            with borrowed(self.device, self.gradients), hooks.listening(self):
                self._settle()
                output = self.model(**given)
        except Exception as error:
            if error is hooks.raised:
                raise
            raise refused(f"{self.anatomy.family} could not be run on this input", error) from error
        return self._hidden(output, hooks.inner)

    @cached_property
    def _takes_segments(self) -> bool:
        parameters = inspect.signature(self.model.forward).parameters
        # TAPAS has seven numbers for each token, all about the table.
        return "token_type_ids" in parameters and self.anatomy.row.segments

    def _settle(self) -> None:
        """BigBird turns to full attention at the first short text and would stay there for the long ones."""
        model: Any = self.model
        if hasattr(model, "set_attention_type"):
            model.set_attention_type(model.config.attention_type)

    def _aligned(self, record: Record, count: int) -> Record:
        if len(record.after) <= count:
            return record
        kept = slice(-count, None) if self.anatomy.row.prompt_first else slice(count)
        return replace(record, before=record.before[kept], after=record.after[kept])

    def _hidden(self, output: Any, inner: Any) -> Hidden:
        found = output if inner is None else inner
        last = _first_of(found, "last_hidden_state", "language_output")
        pooled = _first_of(output, "pooler_output", "pooled_output") if not self.invented else None
        if self.pool is not None:
            pooled = self.pool(last[:, 0])
        return Hidden(last, pooled, not self.rows_are_tokens, tuple(getattr(found, "hidden_states", None) or ()))


def _first_of(output: Any, *names: str) -> Any:
    return next((value for name in names if (value := getattr(output, name, None)) is not None), None)


class _Hooks:
    """Hooks on the up- and down-projections for one run: a dense layer's output waits until its block's end."""

    def __init__(self, on_record: OnRecord | None, edit: Edit | None = None) -> None:
        self.inner: Any = None
        self.raised: Exception | None = None
        self._on_record, self._edit = on_record, edit
        self._calls: Counter[str] = Counter()
        self._waiting: dict[str, Tensor] = {}

    @contextmanager
    def listening(self, reference: Reference) -> Iterator[None]:
        """Hooks on, and off again whatever happens."""
        handles = []
        try:
            if reference.inner:
                module = reference.model.get_submodule(reference.inner)
                handles.append(module.register_forward_hook(self._keep_inner))
            for block in reference.blocks if self._on_record or self._edit else ():
                for path in {block.up.path} | ({block.gate.path} if block.gate else set()):
                    module = reference.model.get_submodule(path)
                    handles.append(module.register_forward_hook(self._keeping(path)))
                module = reference.model.get_submodule(block.down)
                handles.append(module.register_forward_pre_hook(self._ending(block)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _keep_inner(self, module: nn.Module, taken: Any, given: Any) -> None:
        self.inner = given

    def _keeping(self, path: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(module: nn.Module, taken: Any, given: Any) -> None:
            self._waiting[path] = _rows(module, given)

        return keep

    def _ending(self, block: Block) -> Callable[[nn.Module, Any], Any]:
        def end(module: nn.Module, taken: Any) -> Any:
            call = self._calls[block.down]
            self._calls[block.down] += 1
            up = self._waiting.pop(block.up.path)
            if block.gate is not None and block.activation is not None:
                gate = up if block.gate.path == block.up.path else self._waiting.pop(block.gate.path)
                before = gate[:, block.gate.features]
                self._emit(Record(block.gate.part, call, before, block.activation(before)))
            before = up[:, block.up.features]
            if self._edit is None:
                self._emit(Record(block.up.part, call, before, _rows(module, taken)))
                return None
            first, *rest = taken
            own = first.clone()  # the model may hold the other one
            with opened():
                edited = self._edit(block.up.part, before, _rows(module, own))
            self._emit(Record(block.up.part, call, before, edited))
            return _as_taken(module, own, edited), *rest

        return end

    def _emit(self, record: Record) -> None:
        try:
            if self._on_record is not None:
                with opened():
                    self._on_record(record)
        except Exception as error:
            self.raised = error  # the caller's own, to be told apart from what the model raises
            raise


def _rows(module: nn.Module, values: Any) -> Tensor:
    """What goes in or out of a dense layer as (rows, features), whatever the layer's own way."""
    from torch import nn

    # I-BERT's layers put out (values, scale); a convolution, as in SqueezeBERT, has its features in the middle.
    found: Tensor = values[0] if isinstance(values, tuple) else values
    if isinstance(module, nn.Conv1d):
        found = found.transpose(1, 2)
    return found.reshape(-1, found.shape[-1])


def _as_taken(module: nn.Module, taken: Tensor, rows: Tensor) -> Tensor:
    """Rows as `_rows` gives them in the form in which a dense layer takes them, made of them: gradients reach them.

    They lie in memory as what it would have taken, for by that its products round.
    """
    from torch import nn

    turned = isinstance(module, nn.Conv1d)
    values = rows.reshape((taken.transpose(1, 2) if turned else taken).shape)
    values = values.transpose(1, 2) if turned else values
    return values.contiguous() if taken.is_contiguous() else values
