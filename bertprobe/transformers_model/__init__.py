"""The same through transformers: the model, what its feed-forward parts put out, and its tokenizer.

Every family that transformers can run goes this way, and it is what the project's own encoder is held against. The
model is built from tensors that were read here, under the names that its class expects, and is refused where one is
missing: no number comes from a weight that was not in the file.

Code that a checkpoint brings along is never run, and nothing that it names is fetched: of a config, and of the small
files beside a tokenizer, transformers gets what is on a list (`allowed`, `token_settings`), and it works behind a shut
`door`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from bertprobe.anatomy import Anatomy, Part, find_parts
from bertprobe.anatomy.naming import whole
from bertprobe.checkpoint import DTYPES, Checkpoint, Piece, TensorHeader, check_readable, read_tensors
from bertprobe.errors import BertprobeError, PartMissing, UnsupportedFile, printable
from bertprobe.transformers_model.door import shut
from bertprobe.transformers_model.kinds import class_of, wrapped_prefix
from bertprobe.transformers_model.manners import SEED, borrowed, refused
from bertprobe.transformers_model.running import Block, DenseSite, Hidden, OnRecord, Record, Reference
from bertprobe.transformers_model.settings import config_of, settings_of
from bertprobe.transformers_model.tokenizing import TransformersTokenizer, tokenizer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from bertprobe.backends import TorchBackend

__all__ = [
    "DOWN",
    "SEED",
    "Hidden",
    "OnRecord",
    "Record",
    "Reference",
    "TransformersTokenizer",
    "load_reference",
    "tokenizer",
]

MUCH = 2**28  # numbers: a gigabyte in float32


@shut(models=True)
def load_reference(
    checkpoint: Checkpoint, anatomy: Anatomy, *, device: str = "cpu", dtype: str = "float32"
) -> Reference:
    """The model of a checkpoint as transformers builds it, in `dtype` whatever the config says.

    Raises:
        UnsupportedFile: transformers has no such model, or its config and its tensors do not fit each other.
        PartMissing: a tensor that the model needs is not in the file; nothing is ever filled in.
    """
    from bertprobe.backends import TorchBackend  # loads numpy

    backend = TorchBackend("cpu", dtype)
    config = config_of(checkpoint, anatomy)
    model_class = class_of(anatomy, config)
    tensors = _tensors(checkpoint, anatomy, backend)
    pooler = anatomy.pooler is not None
    model, missing = _build(checkpoint, model_class, config, _Given(tensors, dtype, pooler))
    _check_complete(checkpoint, anatomy, [name for name in missing if pooler or not name.startswith("pooler.")])
    modelled = _anatomy_of(model, checkpoint, anatomy)
    _check_parts(checkpoint, anatomy, modelled, model, tensors)
    model.to(device)  # its weights go on asking for gradients: Longformer rounds otherwise when they do not
    return Reference(
        checkpoint=checkpoint,
        anatomy=anatomy,
        model=model,
        device=device,
        blocks=tuple(_blocks(modelled, TorchBackend(device, dtype))),
        inner=modelled.prefix.rstrip(".") if anatomy.row.wrapped else "",
        invented=tuple(missing),
        pool=_classifiers_pool(anatomy, tensors, TorchBackend(device, dtype)),
    )


@dataclass(frozen=True)
class _Given:
    """What a model is built from."""

    tensors: Mapping[str, Tensor] = field(repr=False)
    dtype: str
    pooler: bool


def _build(checkpoint: Checkpoint, model_class: Any, config: Any, given: _Given) -> tuple[Any, list[str]]:
    """The model, and the names of its tensors that were not given, in the model's order."""
    import torch

    takes = inspect.signature(model_class.__init__).parameters
    options = {"add_pooling_layer": given.pooler} if "add_pooling_layer" in takes else {}
    try:
        with borrowed("cpu"):
            with torch.device("meta"):
                sketch = model_class(deepcopy(config), **options)
            _check_size(checkpoint, sketch, given)
            model, info = model_class.from_pretrained(
                None,
                config=config,
                state_dict=dict(given.tensors),
                dtype=getattr(torch, given.dtype),
                output_loading_info=True,
                **options,
            )
    except BertprobeError:
        raise
    except Exception as error:
        raise refused(f"transformers cannot build {printable(checkpoint.ref)}", error) from error
    model.train(False)
    missing = set(info["missing_keys"])
    names = [name for name in model.state_dict() if name in missing]
    # Whoever reads the model itself shall not find plausible numbers where nothing was stored.
    for name in names:
        model.state_dict()[name].fill_(torch.nan)
    return model, names + sorted(missing - set(names))


def _check_size(checkpoint: Checkpoint, sketch: PreTrainedModel, given: _Given) -> None:
    """Refuses a model far larger than its file before memory is taken for it; a sketch has shapes and no numbers."""
    asked = sum(values.numel() for values in (*sketch.parameters(), *sketch.buffers()))
    there = sum(values.numel() for values in given.tensors.values())
    if asked > max(4 * there, MUCH):
        raise UnsupportedFile(
            f"the config.json of {printable(checkpoint.ref)} asks for a model of {asked:,} numbers, "
            f"and there are {there:,}",
            "they are not of one model: fetch both again",
        )


def _tensors(checkpoint: Checkpoint, anatomy: Anatomy, backend: TorchBackend) -> dict[str, Tensor]:
    """Every readable tensor under the name that the class expects; what is no float keeps its dtype."""
    prefix = wrapped_prefix(anatomy)
    wanted = {}
    for canonical, header in anatomy.tensors.items():
        if header.refusal is None and header.dtype in DTYPES and DTYPES[header.dtype].numpy is not None:
            inside = header.name.startswith(anatomy.prefix)
            wanted[(prefix if inside else "") + canonical] = header
    found: dict[str, Tensor] = {}
    for name, values in read_tensors(wanted):
        is_float = DTYPES[wanted[name].dtype].is_float
        found[name] = backend.array(values) if is_float else backend.stored(values)
    return found


def _check_complete(checkpoint: Checkpoint, anatomy: Anatomy, missing: Sequence[str]) -> None:
    for name in missing:
        if name in anatomy.tensors:
            check_readable(anatomy.tensors[name])  # it is there and cannot be read: say why
        raise PartMissing(f"{printable(checkpoint.ref)} has no {name}", "fetch it again: nothing is filled in")


# ------------------------------------------------------------------------------------------------ where to listen


def _anatomy_of(model: PreTrainedModel, checkpoint: Checkpoint, anatomy: Anatomy) -> Anatomy:
    """The model's own tensor names put through the same rules, so that a part is labelled here as in the file."""
    nowhere = Piece(checkpoint.files[0], 0, 0)  # never read; a fused matrix is cut in two by the place of its bytes
    headers = {
        name: TensorHeader(name, "F32", tuple(value.shape), (nowhere,)) for name, value in model.state_dict().items()
    }
    config = {**settings_of(checkpoint, anatomy), "model_type": model.config.model_type}
    return find_parts(replace(checkpoint, headers=headers, config=config, spelled={}))


def _check_parts(
    checkpoint: Checkpoint,
    anatomy: Anatomy,
    modelled: Anatomy,
    model: PreTrainedModel,
    tensors: Mapping[str, Tensor],
) -> None:
    """Each part of the main stack is in the model, and holds there, bit for bit, what was read from the file."""
    built = {part.label: part for part in modelled.parts}
    state = model.state_dict()
    for part in anatomy.parts:
        twin = built.get(part.label)
        if twin is None:
            if part.stack is None and part.index is None and part.role != "pooler":
                raise UnsupportedFile(
                    f"{printable(checkpoint.ref)} holds {part.label}, which its config.json leaves out",
                    "mend the number of layers in config.json",
                )
            continue
        for mine, yours in ((part.weight_name, twin.weight_name), (part.bias_name, twin.bias_name)):
            read = _values(mine, part, tensors, anatomy)
            if read is None:
                continue
            if not yours:
                raise UnsupportedFile(
                    f"{printable(checkpoint.ref)} holds {printable(mine)}, which its config.json leaves out",
                    "mend what config.json says about biases",
                )
            if not _same_bits(read, state[twin.tensors[yours].name][whole(yours)[1]]):
                raise UnsupportedFile(
                    f"transformers does not load {part.label} as it is stored", "please report this model"
                )


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same bits: NaN is what it is, too."""
    import torch

    if one.shape != other.shape:
        return False
    ones, others = (values.to(other.dtype).reshape(-1).contiguous().view(torch.uint8) for values in (one, other))
    return torch.equal(ones, others)


def _values(name: str, part: Part, tensors: Mapping[str, Tensor], anatomy: Anatomy) -> Tensor | None:
    if not name:
        return None
    prefix = wrapped_prefix(anatomy)
    stored, rows = whole(name)
    return tensors[prefix + stored][rows]


def _blocks(modelled: Anatomy, backend: TorchBackend) -> Iterator[Block]:
    gates = {(part.stack, part.index, part.layer): part for part in modelled.of("gate")}
    if modelled.layout.down is None:
        raise UnsupportedFile(
            f"which layer narrows again in models of the kind {modelled.layout.name!r} is not known",
            "please report this model",
        )
    ending, instead = modelled.layout.down
    for part in modelled.of("intermediate"):
        up = _dense(part)
        block = Block(up, re.sub(ending, instead, up.path))
        gate = gates.get((part.stack, part.index, part.layer))
        if gate is not None:
            block = replace(block, gate=_dense(gate), activation=backend.activation(str(gate.activation)))
        yield block


def _dense(part: Part) -> DenseSite:
    name = part.weight_name
    return DenseSite(part.label, part.tensors[name].name.removesuffix(".weight"), whole(name)[1])


def _classifiers_pool(
    anatomy: Anatomy, tensors: Mapping[str, Tensor], backend: TorchBackend
) -> Callable[[Tensor], Tensor] | None:
    """DeBERTa's pooler belongs to its classifiers, and the base model does not know it: first token, dense, GELU."""
    part = anatomy.pooler
    if anatomy.row.pooling != "classifiers" or part is None:
        return None
    activation = backend.activation(str(part.activation))
    weight = backend.array(tensors[part.weight_name])
    bias = backend.array(tensors[part.bias_name]) if part.bias_name else None

    def pool(first: Tensor) -> Tensor:
        pooled: Tensor = activation(backend.dense(first, weight, bias))
        return pooled

    return pool
