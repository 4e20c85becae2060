"""BertIntermediate and BertPooler as torch modules of their own, for use in other people's models.

They do what transformers' classes of those names do, bit for bit, and load from any checkpoint without the rest of it.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from bertprobe import layers
from bertprobe.anatomy import Part, find_parts, select
from bertprobe.anatomy.poolers import require_pooler
from bertprobe.backends import TorchBackend
from bertprobe.checkpoint import open_checkpoint, read_tensors
from bertprobe.errors import PartMissing, UnsupportedFile, printable

HiddenAct = str | Callable[[Tensor], Tensor]


class Intermediate(nn.Module):
    """BertIntermediate: (…, H) → dense H→I → activation → (…, I).

    Stands in every BertLayer between the attention block and BertOutput, which takes its output back to H. A row of
    `dense.weight` (I, H) is one neuron.

    Args:
        hidden_size: H.
        intermediate_size: I.
        hidden_act: the activation's name as configs have it, or a function of a tensor.

    Source: `BertIntermediate` in transformers; Devlin et al., 2019.
    """

    def __init__(self, hidden_size: int, intermediate_size: int, hidden_act: HiddenAct = "gelu") -> None:
        super().__init__()
        self.hidden_act = hidden_act
        self.dense = nn.Linear(hidden_size, intermediate_size)
        self._backend = TorchBackend()
        self._activation = self._backend.activation(hidden_act) if isinstance(hidden_act, str) else hidden_act

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(…, H) → (…, I)."""
        weights = {"intermediate.dense.weight": self.dense.weight, "intermediate.dense.bias": self.dense.bias}
        _, after = layers.intermediate(self._backend, weights, "", hidden_states, self._activation)
        activated: Tensor = after
        return activated

    @classmethod
    def from_checkpoint(cls, model: str, layer: int, *, hidden_act: HiddenAct | None = None) -> Intermediate:
        """The module of one layer, from a checkpoint or an exported file, in the stored dtype.

        Args:
            model: a folder, a file or the name of a model in the local Hub cache.
            layer: its number; -1 is the last.
            hidden_act: overrides what the checkpoint says, and is needed where it does not say.

        Raises:
            PartMissing: there is no such layer.
            UnsupportedFile: the activation is not known, or the family is gated.
        """
        anatomy = find_parts(open_checkpoint(model))
        if anatomy.of("gate"):
            raise UnsupportedFile(
                f"{printable(model)} is gated", "bertprobe.Intermediate is for one dense layer and an activation"
            )
        found = [part for part in select(anatomy, ["intermediate"], str(layer)) if part.stack is None]
        act = hidden_act or anatomy.config_spec.activation
        if act is None:
            raise UnsupportedFile(f"{printable(model)} does not say its activation", "pass hidden_act")
        weight, bias = _tensors(found[0], model)
        module = cls(weight.shape[1], weight.shape[0], act)
        _fill(module.dense, weight, bias)
        return module


class Pooler(nn.Module):
    """BertPooler: (B, S, H) → first token → dense H→H → tanh → (B, H).

    Stands once, after the last layer. It reads the first token (`[CLS]`) only and knows no mask; it is neither mean
    pooling nor `last_hidden_state[:, 0]`.

    Args:
        hidden_size: H.

    Source: `BertPooler` in transformers; Devlin et al., 2019.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self._backend = TorchBackend()

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, S, H) → (B, H)."""
        weights = {"pooler.dense.weight": self.dense.weight, "pooler.dense.bias": self.dense.bias}
        pooled: Tensor = layers.pool(self._backend, weights, hidden_states[:, 0])
        return pooled

    @classmethod
    def from_checkpoint(cls, model: str) -> Pooler:
        """The pooler of a checkpoint or an exported file, in the stored dtype; raises `PartMissing` if it has none."""
        checkpoint = open_checkpoint(model)
        anatomy = find_parts(checkpoint)
        pooler = require_pooler(checkpoint, anatomy)
        if pooler.activation != "tanh":
            raise UnsupportedFile(
                f"the pooler of {printable(model)} ends in {pooler.activation}", "bertprobe.Pooler is for tanh only"
            )
        weight, bias = _tensors(pooler, model)
        module = cls(weight.shape[1])
        _fill(module.dense, weight, bias)
        return module


def _tensors(part: Part, model: str) -> tuple[Tensor, Tensor]:
    if part.weight is None or part.bias is None or len(part.weight.shape) != 2:
        raise PartMissing(
            f"{part.label} of {printable(model)} is not a dense layer with a bias", "look at it with inspect"
        )
    backend = TorchBackend()
    read = {key: backend.stored(values) for key, values in read_tensors({"weight": part.weight, "bias": part.bias})}
    return read["weight"], read["bias"]


def _fill(dense: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    """Puts stored values in the place of the fresh ones, dtype and all; the module is trainable as any other."""
    dense.weight = nn.Parameter(weight)
    dense.bias = nn.Parameter(bias)
