"""The same through transformers: the model, what its feed-forward parts put out, and its tokenizer.

Every family that transformers can run goes this way, and it is what the project's own encoder is held against. The
model is built from tensors that were read here, under the names that its class expects, and is refused where one is
missing: no number comes from a weight that was not in the file. Code that a checkpoint brings along is never run.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

from bertprobe.anatomy import Anatomy, Part, find_parts
from bertprobe.backends import Activation, TorchBackend
from bertprobe.checkpoint import DTYPES, Checkpoint, Piece, TensorHeader, check_readable, read_tensors
from bertprobe.errors import BertprobeError, NotFound, PartMissing, UnsupportedFile, printable, quoted

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from bertprobe.tokens import Encoded, Text

SEED = 0  # of what a model draws while it runs: Reformer hashes with it
SILENT = 100  # above every level of logging
ALL = slice(None)


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
    not stand for the tokens one by one, so that no token's text may be put beside them.
    """

    last_hidden_state: Tensor
    pooled: Tensor | None
    positions_not_tokens: bool


Tap = Callable[[Record], None]


# ------------------------------------------------------------------------------------------------ families

_BERT = (r"inter(?:mediate)?(_query)?\.dense$", r"output\1.dense")

# What an up-projection's module path ends in → what that of its down-projection ends in, by row of FAMILIES.
DOWN: dict[str, tuple[str, str]] = {
    "mobilebert": _BERT,
    "lilt": _BERT,
    "canine": _BERT,
    "lxmert": _BERT,
    "q-former": _BERT,
    "squeezebert": (r"intermediate\.conv1d$", "output.conv1d"),
    "bert, encoder.layers": _BERT,
    "bert": _BERT,
    "distilbert": (r"lin1$", "lin2"),
    "albert": (r"ffn$", "ffn_output"),
    "modernbert": (r"Wi$", "Wo"),
    "gte": (r"up_gate_proj$", "down_proj"),
    "nomic-bert": (r"fc11$", "fc2"),
    "jina-embeddings-v3": (r"fc1$", "fc2"),
    "up_proj and gate_proj": (r"up_proj$", "down_proj"),
    "xlnet": (r"layer_1$", "layer_2"),
    "xlm": (r"lin1$", "lin2"),
    "funnel": (r"linear_1$", "linear_2"),
    "reformer": (r"dense\.dense$", "output.dense"),
    "cpmant": (r"w_in\.w_1$", "w_out"),
    "t5": (r"wi(?:_1)?$", "wo"),
    "clip text": (r"fc1$", "fc2"),
    "bart": (r"fc1$", "fc2"),
}

# Encoders that transformers' table of base models does not lead to; of T5 it is the encoder that reads the text.
_CLASSES = {
    "align_text_model": "align.modeling_align.AlignTextModel",
    "altclip_text_model": "altclip.modeling_altclip.AltRobertaModel",
    "blip_text_model": "blip.modeling_blip_text.BlipTextModel",
    "bridgetower_text_model": "bridgetower.modeling_bridgetower.BridgeTowerTextModel",
    "chinese_clip_text_model": "chinese_clip.modeling_chinese_clip.ChineseCLIPTextModel",
    "clap_text_model": "clap.modeling_clap.ClapTextModel",
    "flava_text_model": "flava.modeling_flava.FlavaTextModel",
    "siglip_text_model": "siglip.modeling_siglip.SiglipTextModel",
    "instructblip_qformer": "instructblip.modeling_instructblip.InstructBlipQFormerModel",
    "t5": "t5.modeling_t5.T5EncoderModel",
    "mt5": "mt5.modeling_mt5.MT5EncoderModel",
    "umt5": "umt5.modeling_umt5.UMT5EncoderModel",
}
_DPR = {
    "question_encoder.bert_model.": "DPRQuestionEncoder",
    "ctx_encoder.bert_model.": "DPRContextEncoder",
    "span_predictor.encoder.bert_model.": "DPRReader",
}
# Rows that one family of transformers has to itself, where files of the code's first authors give another model_type.
_TYPES = {"gte": "gte", "jina-embeddings-v3": "jina_embeddings_v3"}

_MORE_THAN_TEXT = {
    "lxmert": "it reads regions of an image beside the text",
    "blip_2_qformer": "its queries look at an image",
    "instructblip_qformer": "its queries look at an image",
    "bros": "it wants the place of every token on a page",
}
# CANINE and Funnel shorten the row on the way; BART's decoder reads the text one place late.
_POSITIONS = ("canine", "funnel", "bart", "mbart")
_PROMPT_FIRST = ("cpmant",)  # others that run more rows than there are tokens have put padding behind them
_POOLED_BY_CLASSIFIER = ("deberta", "deberta-v2")


def needs_more_than_text(family: str) -> str | None:
    """Why a family cannot be run on text alone, None where it can."""
    return _MORE_THAN_TEXT.get(family)


# ------------------------------------------------------------------------------------------------ the model


@dataclass(frozen=True)
class Dense:
    """Where a part's dense layer is in the model: its module's path, and its features of a fused output."""

    part: str
    path: str
    features: slice


@dataclass(frozen=True)
class Block:
    """A feed-forward block: what widens, the path of what narrows again, and in gated families what is activated."""

    up: Dense
    down: str
    gate: Dense | None = None
    activation: Activation | None = None


@dataclass(frozen=True, eq=False)
class Reference:
    """A model of transformers, in eval mode and complete, and where to listen in it.

    `blocks` are its feed-forward blocks; `inner` is the path of the encoder whose hidden states the model itself keeps
    back, as DPR does, else empty; `pool` is a pooler that is in the checkpoint and not in the model. `invented` names
    the tensors of a pooler that the class insists on and the checkpoint does not hold: they are NaN, and never shown.
    """

    checkpoint: Checkpoint
    anatomy: Anatomy
    model: PreTrainedModel
    device: str
    blocks: tuple[Block, ...]
    inner: str
    invented: tuple[str, ...]
    pool: Callable[[Tensor], Tensor] | None = None

    @property
    def rows_are_tokens(self) -> bool:
        """Whether each row of what comes out stands for a token."""
        return self.anatomy.family not in _POSITIONS

    @property
    def parts(self) -> tuple[str, ...]:
        """The labels of the parts that give records."""
        return tuple(dense.part for block in self.blocks for dense in (block.gate, block.up) if dense is not None)

    def run(self, ids: Sequence[int], segments: Sequence[int] | None = None, tap: Tap | None = None) -> Hidden:
        """One text, unpadded, through the model; `tap` gets the records as they arise.

        Padding that a model adds on its own, and a prompt it puts in front, are cut off the records. Segments are left
        out where the family has none.

        Args:
            ids: (S,) with special tokens.
            segments: (S,) or None for the family's default.

        Raises:
            UnsupportedFile: the family needs more than text, or the model refuses the input.
        """
        import torch

        reason = needs_more_than_text(self.anatomy.family)
        if reason is not None:
            raise UnsupportedFile(f"{self.anatomy.family} cannot be run on text alone: {reason}", "take a text encoder")
        inputs = {"input_ids": torch.tensor(ids, dtype=torch.long)[None]}
        if segments is not None and self._takes_segments:
            inputs["token_type_ids"] = torch.tensor(segments, dtype=torch.long)[None]
        hidden = self.run_inputs(inputs, None if tap is None else lambda record: tap(self._aligned(record, len(ids))))
        pooled = None if hidden.pooled is None else hidden.pooled[0]
        return replace(hidden, last_hidden_state=hidden.last_hidden_state[0], pooled=pooled)

    def run_inputs(self, inputs: Mapping[str, Any], tap: Tap | None = None) -> Hidden:
        """Whatever the model's forward takes, a batch; records have the rows of the whole batch, in the model's order.

        Raises:
            UnsupportedFile: the model refuses the input.
        """
        given = {key: value.to(self.device) if hasattr(value, "to") else value for key, value in inputs.items()}
        taps = _Taps(tap)
        try:
            with _borrowed(self.device), taps.listening(self):
                self._settle()
                output = self.model(**given)
        except Exception as error:
            if error is taps.raised:
                raise
            raise _refused(f"{self.anatomy.family} could not be run on this input", error) from error
        return self._hidden(output, taps.inner)

    @cached_property
    def _takes_segments(self) -> bool:
        parameters = inspect.signature(self.model.forward).parameters
        # TAPAS has seven numbers for each token, all about the table.
        return "token_type_ids" in parameters and self.anatomy.family != "tapas"

    def _settle(self) -> None:
        """BigBird turns to full attention at the first short text and would stay there for the long ones."""
        model: Any = self.model
        if self.anatomy.family == "big_bird":
            model.set_attention_type(model.config.attention_type)

    def _aligned(self, record: Record, count: int) -> Record:
        if len(record.after) <= count:
            return record
        kept = slice(-count, None) if self.anatomy.family in _PROMPT_FIRST else slice(count)
        return replace(record, before=record.before[kept], after=record.after[kept])

    def _hidden(self, output: Any, inner: Any) -> Hidden:
        found = output if inner is None else inner
        last = _first_of(found, "last_hidden_state", "language_output")
        pooled = _first_of(output, "pooler_output", "pooled_output") if not self.invented else None
        if self.pool is not None:
            pooled = self.pool(last[:, 0])
        return Hidden(last, pooled, self.anatomy.family in _POSITIONS)


def _first_of(output: Any, *names: str) -> Any:
    return next((value for name in names if (value := getattr(output, name, None)) is not None), None)


class _Taps:
    """Hooks on the up- and down-projections for one run: a dense layer's output waits until its block's end."""

    def __init__(self, tap: Tap | None) -> None:
        self.inner: Any = None
        self.raised: Exception | None = None
        self._tap = tap
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
            for block in reference.blocks if self._tap is not None else ():
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

    def _ending(self, block: Block) -> Callable[[nn.Module, Any], None]:
        def end(module: nn.Module, taken: Any) -> None:
            call = self._calls[block.down]
            self._calls[block.down] += 1
            up = self._waiting.pop(block.up.path)
            if block.gate is not None and block.activation is not None:
                gate = up if block.gate.path == block.up.path else self._waiting.pop(block.gate.path)
                before = gate[:, block.gate.features]
                self._emit(Record(block.gate.part, call, before, block.activation(before)))
            self._emit(Record(block.up.part, call, up[:, block.up.features], _rows(module, taken)))

        return end

    def _emit(self, record: Record) -> None:
        try:
            if self._tap is not None:
                self._tap(record)
        except Exception as error:
            self.raised = error  # the tap's own, to be told apart from what the model raises
            raise


def _rows(module: nn.Module, values: Any) -> Tensor:
    """What goes in or out of a dense layer as (rows, features), whatever the layer's own way."""
    from torch import nn

    # I-BERT's layers put out (values, scale); a convolution, as in SqueezeBERT, has its features in the middle.
    found: Tensor = values[0] if isinstance(values, tuple) else values
    if isinstance(module, nn.Conv1d):
        found = found.transpose(1, 2)
    return found.reshape(-1, found.shape[-1])


# ------------------------------------------------------------------------------------------------ loading


def load_reference(
    checkpoint: Checkpoint, anatomy: Anatomy, *, device: str = "cpu", dtype: str = "float32"
) -> Reference:
    """The model of a checkpoint as transformers builds it, in `dtype` whatever the config says.

    Raises:
        UnsupportedFile: transformers has no such model, or its config and its tensors do not fit each other.
        PartMissing: a tensor that the model needs is not in the file; nothing is ever filled in.
    """
    backend = TorchBackend("cpu", dtype)
    config = _config(checkpoint, anatomy)
    model_class = _model_class(anatomy, config)
    tensors = _tensors(checkpoint, anatomy, backend)
    pooler = any(part.stack is None for part in anatomy.of("pooler"))
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
        inner=modelled.prefix.rstrip(".") if anatomy.family == "dpr" else "",
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
        with _borrowed("cpu"):
            model, info = model_class.from_pretrained(
                None,
                config=config,
                state_dict=dict(given.tensors),
                dtype=getattr(torch, given.dtype),
                output_loading_info=True,
                **options,
            )
    except Exception as error:
        raise _refused(f"transformers cannot build {printable(checkpoint.ref)}", error) from error
    model.train(False)
    missing = set(info["missing_keys"])
    names = [name for name in model.state_dict() if name in missing]
    # Whoever reads the model itself shall not find plausible numbers where nothing was stored.
    for name in names:
        model.state_dict()[name].fill_(torch.nan)
    return model, names + sorted(missing - set(names))


def _config(checkpoint: Checkpoint, anatomy: Anatomy) -> Any:
    """transformers' config of the text encoder, without the settings that would only get in the way of hooks."""
    from transformers import CONFIG_MAPPING

    settings = _settings(checkpoint, anatomy.family)
    model_type = _TYPES.get(anatomy.row.name, anatomy.family)
    if model_type not in CONFIG_MAPPING:
        raise UnsupportedFile(
            f"transformers has no model for {printable(checkpoint.ref)}, whose family is {quoted(model_type)}",
            "code that a checkpoint brings along is never run here; see inspect for what its tensors say",
        )
    try:
        with _borrowed("cpu"):
            config = CONFIG_MAPPING[model_type].from_dict({**settings, "model_type": model_type})
    except Exception as error:
        raise _refused(f"transformers refuses the config.json of {printable(checkpoint.ref)}", error) from error
    for key, value in _PLAIN.items():
        if hasattr(config, key):
            setattr(config, key, value)
    return config


# Results are the same; chunks would fire a hook several times a layer, and outputs asked for leave hooks behind.
_PLAIN = {
    "chunk_size_feed_forward": 0,
    "output_hidden_states": False,
    "output_attentions": False,
    "return_dict": True,
    "use_cache": False,
}


def _settings(checkpoint: Checkpoint, family: str) -> dict[str, Any]:
    """The settings of the text encoder, which a model of several encoders keeps one level down."""
    config = checkpoint.config or {}
    nested = [value for value in config.values() if isinstance(value, Mapping) and value.get("model_type") == family]
    found = dict(nested[0] if nested and config.get("model_type") != family else config)
    shown = printable(checkpoint.ref)
    if not found:
        raise UnsupportedFile(f"{shown} has no config.json", "put it beside it: tensors alone do not say how they run")
    positions = str(found.get("position_embedding_type", ""))
    if positions.startswith("relative_key"):
        raise UnsupportedFile(
            f"the positions of {shown} are {quoted(positions)}, which transformers leaves out without a word",
            "its numbers would be wrong: take another checkpoint",
        )
    if found.get("quantization_config"):
        raise UnsupportedFile(f"{shown} is quantized", "name the checkpoint it was made from")
    return found


def _model_class(anatomy: Anatomy, config: Any) -> Any:
    """The concrete class of the text encoder."""
    from transformers import MODEL_MAPPING

    module, _, name = _CLASSES.get(anatomy.family, "").rpartition(".")
    if name:
        return getattr(import_module(f"transformers.models.{module}"), name)
    if anatomy.family == "dpr":
        return getattr(import_module("transformers"), _DPR[_dpr_prefix(anatomy)])
    if type(config) not in MODEL_MAPPING:
        raise UnsupportedFile(f"transformers has no base model for {quoted(anatomy.family)}", "take another checkpoint")
    found = MODEL_MAPPING[type(config)]
    if isinstance(found, (tuple, list)):  # Funnel: with a decoder, and without
        return found[0] if any(part.stack == "decoder" for part in anatomy.parts) else found[-1]
    return found


def _dpr_prefix(anatomy: Anatomy) -> str:
    prefix = anatomy.prefix[len(anatomy.hiding) :]
    return prefix if prefix in _DPR else next(iter(_DPR))


def _tensors(checkpoint: Checkpoint, anatomy: Anatomy, backend: TorchBackend) -> dict[str, Tensor]:
    """Every readable tensor under the name that the class expects; what is no float keeps its dtype."""
    prefix = _dpr_prefix(anatomy) if anatomy.family == "dpr" else ""
    names = {}
    for canonical, header in anatomy.tensors.items():
        if header.refusal is None and header.dtype in DTYPES and DTYPES[header.dtype].numpy is not None:
            inside = header.name.startswith(anatomy.prefix)
            names[id(header)] = (prefix if inside else "") + canonical
    found: dict[str, Tensor] = {}
    wanted = [header for header in anatomy.tensors.values() if id(header) in names]
    for header, values in read_tensors(wanted):
        is_float = DTYPES[header.dtype].is_float
        found[names[id(header)]] = backend.array(values) if is_float else backend.stored(values)
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
    config = {**_settings(checkpoint, anatomy.family), "model_type": model.config.model_type}
    return find_parts(replace(checkpoint, headers=headers, config=config))


def _check_parts(
    checkpoint: Checkpoint,
    anatomy: Anatomy,
    modelled: Anatomy,
    model: PreTrainedModel,
    tensors: Mapping[str, Tensor],
) -> None:
    """Each part of the main stack is in the model, and holds there, bit for bit, what was read from the file."""
    import torch

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
            if read is not None and not torch.equal(read, _halved(state[twin.tensors[yours].name], yours)):
                raise UnsupportedFile(
                    f"transformers does not load {part.label} as it is stored", "please report this model"
                )


def _values(name: str, part: Part, tensors: Mapping[str, Tensor], anatomy: Anatomy) -> Tensor | None:
    if not name:
        return None
    prefix = _dpr_prefix(anatomy) if anatomy.family == "dpr" else ""
    return _halved(tensors[prefix + name.partition("[")[0]], name)


def _halved(values: Tensor, name: str) -> Tensor:
    """The rows that a part's name points to: `layers.0.mlp.Wi.weight[0:40]`."""
    return values[_bracket(name)]


def _bracket(name: str) -> slice:
    match = re.search(r"\[(\d+):(\d+)\]$", name)
    return slice(int(match[1]), int(match[2])) if match else ALL


def _blocks(modelled: Anatomy, backend: TorchBackend) -> Iterator[Block]:
    gates = {(part.stack, part.index, part.layer): part for part in modelled.of("gate")}
    ending, instead = DOWN[modelled.row.name]
    for part in modelled.of("intermediate"):
        up = _dense(part)
        block = Block(up, re.sub(ending, instead, up.path))
        gate = gates.get((part.stack, part.index, part.layer))
        if gate is not None:
            block = replace(block, gate=_dense(gate), activation=backend.activation(str(gate.activation)))
        yield block


def _dense(part: Part) -> Dense:
    name = part.weight_name
    return Dense(part.label, part.tensors[name].name.removesuffix(".weight"), _bracket(name))


def _classifiers_pool(
    anatomy: Anatomy, tensors: Mapping[str, Tensor], backend: TorchBackend
) -> Callable[[Tensor], Tensor] | None:
    """DeBERTa's pooler belongs to its classifiers, and the base model does not know it: first token, dense, GELU."""
    poolers = [part for part in anatomy.of("pooler") if part.stack is None]
    if anatomy.family not in _POOLED_BY_CLASSIFIER or not poolers:
        return None
    part = poolers[0]
    activation = backend.activation(str(part.activation))
    weight = backend.array(tensors[part.weight_name])
    bias = backend.array(tensors[part.bias_name]) if part.bias_name else None

    def pool(first: Tensor) -> Tensor:
        pooled: Tensor = activation(backend.dense(first, weight, bias))
        return pooled

    return pool


# ------------------------------------------------------------------------------------------------ manners


@contextmanager
def _borrowed(device: str) -> Iterator[None]:
    """transformers kept quiet, no gradients, random numbers from a fixed seed; all handed back as it was."""
    import torch
    from transformers.utils import logging

    cuda = [torch.device(device)] if device.startswith("cuda") else []
    verbosity = logging.get_verbosity()
    no_bar: Any = logging.EmptyTqdm
    bars = logging.set_tqdm_hook(lambda factory, args, options: no_bar(*args, **options))
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=cuda), torch.no_grad():
            warnings.simplefilter("ignore")
            logging.set_verbosity(SILENT)
            torch.default_generator.manual_seed(SEED)
            if cuda:
                torch.cuda.manual_seed(SEED)
            yield
    finally:
        logging.set_verbosity(verbosity)
        logging.set_tqdm_hook(bars)


def _refused(what: str, error: Exception) -> UnsupportedFile:
    """transformers' own words, their first line: what it raises on a foreign config or input has no common class."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return UnsupportedFile(f"{what}: {printable(said[:300])}", "look at its config.json and at the input")


# ------------------------------------------------------------------------------------------------ the tokenizer


class TransformersTokenizer:
    """transformers' tokenizer as a `tokens.Tokenizer`."""

    def __init__(self, tokenizer: Any) -> None:
        self.name = f"transformers' {type(tokenizer).__name__}"
        self.notes: tuple[str, ...] = ()
        self._tokenizer = tokenizer

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id it can give."""
        try:
            ids = self._tokenizer.get_vocab().values()
        except NotImplementedError:  # CANINE's vocabulary is Unicode
            ids = ()
        return max(ids, default=int(self._tokenizer.vocab_size) - 1) + 1

    def encode(self, text: str, pair: str | None = None, *, longest: int | None = None) -> Encoded:
        """One text, or two as a pair, cut to `longest` tokens if that is given.

        Raises `UnsupportedFile` where the tokenizer takes more than text, `BertprobeError` where `longest` has no room
        for the special tokens.
        """
        import numpy as np

        from bertprobe.tokens import Encoded

        found = self._called(text, pair)
        ids: list[int] = found["input_ids"]
        cut = 0 if longest is None else max(len(ids) - longest, 0)
        if cut:
            found = self._called(text, pair, truncation=True, max_length=longest)
            cut = len(ids) - len(found["input_ids"])
            ids = found["input_ids"]
        if longest is not None and len(ids) > longest:
            raise BertprobeError(f"{longest} tokens have no room for the special tokens", "allow for more tokens")
        segments = found.get("token_type_ids", [0] * len(ids))
        pieces = tuple(str(piece) for piece in self._tokenizer.convert_ids_to_tokens(ids))
        return Encoded(np.array(ids, np.int64), np.array(segments, np.int64), pieces, cut)

    def encode_many(self, texts: Sequence[Text], *, longest: int | None = None) -> list[Encoded]:
        """The same for many texts or pairs."""
        split = (item if isinstance(item, tuple) else (item, None) for item in texts)
        return [self.encode(text, pair, longest=longest) for text, pair in split]

    def _called(self, text: str, pair: str | None, **options: Any) -> Any:
        try:
            with _borrowed("cpu"):
                return self._tokenizer(text, pair, padding=False, **options)
        except Exception as error:
            raise _refused(f"{self.name} cannot turn this text into tokens", error) from error


def tokenizer(checkpoint: Checkpoint) -> TransformersTokenizer:
    """transformers' own tokenizer, from the files beside the weights and from nowhere else.

    Raises:
        NotFound: there are no tokenizer files; transformers would make one up that knows five words.
        UnsupportedFile: transformers cannot read them.
    """
    from transformers import AutoTokenizer

    folder = checkpoint.folder
    try:
        with _borrowed("cpu"):
            found = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise _refused(f"transformers cannot read the tokenizer of {printable(str(folder))}", error) from error
    names = {*found.vocab_files_names.values(), "tokenizer.json"} if found.vocab_files_names else set()
    if names and not any((folder / name).is_file() for name in names):
        raise NotFound(
            f"{printable(str(folder))} has no tokenizer: none of {', '.join(sorted(names))}",
            "put the model's own beside its weights",
        )
    return TransformersTokenizer(found)
