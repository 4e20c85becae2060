"""`TOOLS`: what each tool that makes sentence vectors makes of a folder's settings files, a row and a function each.

The rules are read off the tools' own code; docs/tools.md has each with the file it stands in, and what is not verified.
Where versions differ, the newest that was read is followed, and a note tells of the others.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from bertprobe.anatomy.config import model_type_of
from bertprobe.anatomy.families import FAMILIES
from bertprobe.recipe import POSITIONS, Recipe, limit_in, text
from bertprobe.recipe.files import Files, Module, Settings
from bertprobe.recipe.steps import FLAGS, Dense, LayerNorm, Unsupported

# What becomes of a text that is too long. transformers.js shortens the list of tokens when it is finished.
CUT, CUT_BARE, REFUSED, FAILS = "cut", "cut, end token too", "refused", "fails"
APPLIED, OTHERWISE, LEFT_OUT = "applied", "otherwise", "left out"


@dataclass(frozen=True, slots=True)
class Made:
    """What a tool makes of a folder, if nothing is set by hand.

    `fails` says why it makes nothing at all. `length` is in tokens, None for no limit; `overflow` what becomes of
    longer texts. `lower`, `accents` (taken off) and `special` (tokens around a text) are None where it cannot be told.
    `pooling` is empty where the tool gives a vector a token, and None, like `normalized`, where the caller has to say.
    `dense`, `layer_norm` and `modules` (all others) say what becomes of such steps, empty where the recipe has none.

    `differs` are the aspects in which its vector is not the recipe's, `settable` those of them that a caller can set.
    """

    fails: str = ""
    length: int | None = None
    overflow: str = CUT
    lower: bool | None = None
    accents: bool | None = None
    special: tuple[str, ...] | None = None
    pooling: tuple[str, ...] | None = ()
    dense: str = ""
    layer_norm: str = ""
    modules: str = ""
    normalized: bool | None = None
    prompt: str = ""
    cut: int | None = None
    notes: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()
    settable: tuple[str, ...] = ()


class Tool(NamedTuple):
    """A row of `TOOLS`: its name, the version that was read (empty: no release), what it makes of a recipe.

    `modes` are the poolings that a caller can ask it for.
    """

    name: str
    version: str
    make: Callable[[Recipe], Made]
    modes: tuple[str, ...]


def tools_of(recipe: Recipe) -> Mapping[str, Made]:
    """What each tool makes of a folder, by the tool's name, in the order of `TOOLS`."""
    return {tool.name: _compared(tool, recipe) for tool in TOOLS}


def _compared(tool: Tool, recipe: Recipe) -> Made:
    made = tool.make(recipe)
    if made.fails:
        return Made(fails=made.fails)
    differs = tuple(aspect for aspect, is_other in ASPECTS.items() if is_other(recipe, made))
    return replace(made, differs=differs, settable=tuple(name for name in differs if _can_be_set(name, tool, recipe)))


def _can_be_set(aspect: str, tool: Tool, recipe: Recipe) -> bool:
    pooling = recipe.pooling
    if aspect == "pooling":
        return pooling is not None and len(pooling.modes) == 1 and pooling.modes[0] in tool.modes
    if aspect == "prompt":  # whoever puts it into the text cannot have its tokens left out
        return pooling is None or pooling.include_prompt
    return aspect in ("norm", "cut")


def _unlike(one: Any, other: Any) -> bool:
    """Whether two values are known and differ."""
    return one is not None and other is not None and one != other


ASPECTS: Mapping[str, Callable[[Recipe, Made], bool]] = {
    "length": lambda recipe, made: made.length != recipe.length.value or made.overflow == CUT_BARE,
    "case": lambda recipe, made: _unlike(made.lower, recipe.lower.value),
    "accents": lambda recipe, made: _unlike(made.accents, recipe.accents.value),
    "special tokens": lambda recipe, made: _unlike(made.special, recipe.special.value),
    "pooling": lambda recipe, made: recipe.pooling is not None and made.pooling != recipe.pooling.modes,
    "dense": lambda recipe, made: made.dense in (OTHERWISE, LEFT_OUT),
    "layer norm": lambda recipe, made: made.layer_norm == LEFT_OUT,
    "modules": lambda recipe, made: made.modules == LEFT_OUT,
    "prompt": lambda recipe, made: made.prompt != recipe.text_of(None),
    "norm": lambda recipe, made: made.normalized != recipe.normalized,
    "cut": lambda recipe, made: made.cut != recipe.cut.value,
}


# ------------------------------------------------------------------------------------------------ what several share


def _has(recipe: Recipe, kind: type) -> bool:
    return any(isinstance(step, kind) for step in recipe.steps)


def _behind(recipe: Recipe, becomes: str = LEFT_OUT) -> dict[str, Any]:
    """The fields of a tool that applies none of the steps behind the pooling, or all."""
    kinds = {"dense": Dense, "layer_norm": LayerNorm, "modules": Unsupported}
    return {field: becomes for field, kind in kinds.items() if _has(recipe, kind)}


def _json_text(recipe: Recipe) -> dict[str, Any]:
    """The fields of a tool that takes tokenizer.json as it is."""
    stored, around = text.stored(recipe.files), text.around(recipe.files)
    return {
        "lower": None if stored is None else stored.lower,
        "accents": None if stored is None else stored.accents,
        "special": None if around is None else around.value,
    }


def _their_text(recipe: Recipe, *, lowered_first: bool = False) -> dict[str, Any]:
    """The fields of a tool that has transformers make the tokenizer, and perhaps lower-cases before."""
    files = recipe.files
    done = text.rebuilt(files) if recipe.rebuilt else text.stored(files)
    lower = None if done is None else done.lower and not recipe.only_transformers
    return {
        "lower": True if lowered_first else lower,
        "accents": recipe.accents.value,
        "special": recipe.special.value,
    }


def _flat(recipe: Recipe) -> str:
    """Why a tool that reads config.json at the top finds nothing, where the transformer lies in a folder below."""
    below = recipe.files.transformer.file.rpartition("/")[0]
    return f"config.json lies in {below}" if below else ""


def _no_json(recipe: Recipe) -> str:
    return "" if recipe.files.tokenizer.there else "no tokenizer.json"


def _no_onnx(recipe: Recipe) -> Iterator[str]:
    home = recipe.files.home
    if not home.is_folder("onnx") and not any(name.endswith(".onnx") for name in home.names):
        yield "needs an ONNX file, and there is none"


def _saved_by(files: Files) -> tuple[str, ...]:
    named = files.config.values.get("architectures")
    return tuple(str(name) for name in named) if isinstance(named, list) else ()


def _number(settings: Settings, *keys: str) -> int | None:
    """The first of several keys that has a number of tokens."""
    return next((int(said.value) for key in keys if (said := limit_in(settings, key))), None)


def _table(recipe: Recipe) -> int | None:
    """The rows of the table of positions, as transformers' config class has them where config.json is silent."""
    row = FAMILIES.get(model_type_of(recipe.files.config.values))
    found = _number(recipe.files.config, "max_position_embeddings")
    return POSITIONS if found is None and row is not None and row.native else found


def _beyond(recipe: Recipe, length: int | None, otherwise: str) -> str:
    """What becomes of a long text where the model, and no tokenizer, sets the end."""
    table = recipe.positions
    return FAILS if table is not None and (length is None or length > table) else otherwise


def _modules_of(recipe: Recipe, *types: str) -> list[Module]:
    return [module for module in recipe.files.modules or () if module.type in types]


def _flagged(settings: Settings, modes: tuple[str, ...]) -> str:
    """The first of modes whose older flag is true."""
    flag_of = {mode: flag for flag, mode in FLAGS.items()}
    return next((mode for mode in modes if settings.values.get(flag_of[mode]) is True), "")


def _asked(settings: Settings) -> str:
    """What a pooling's settings ask for, in few words."""
    named = settings.values.get("pooling_mode")
    several = named if isinstance(named, list) else [named] if isinstance(named, str) else []
    flags = [mode for flag, mode in FLAGS.items() if settings.values.get(flag) is True]
    return " + ".join(str(mode)[:30] for mode in several or flags) or "no mode"


# ------------------------------------------------------------------------------------------------ each tool


def _sentence_transformers(recipe: Recipe) -> Made:
    pooling = recipe.pooling
    return Made(
        fails=_unloadable(recipe),
        length=recipe.length.value,
        overflow=_beyond(recipe, recipe.length.value, CUT),
        lower=recipe.lower.value,
        accents=recipe.accents.value,
        special=recipe.special.value,
        pooling=() if pooling is None else pooling.modes,
        normalized=recipe.normalized,
        prompt=recipe.text_of(None),
        cut=recipe.cut.value,
        notes=tuple(_unreached(recipe)),
        **_behind(recipe, APPLIED),
    )


def _unloadable(recipe: Recipe) -> str:
    name = recipe.prompt.value
    if name is not None and name not in recipe.prompts.value and name not in ("query", "document"):
        return "default_prompt_name is none of the prompts"
    wrong = [step for step in recipe.steps if isinstance(step, Unsupported) and "mode" in step.reason]
    return f"{wrong[0].path or 'the pooling'} {wrong[0].reason}" if wrong else ""


def _unreached(recipe: Recipe) -> Iterator[str]:
    prompts = recipe.prompts.value
    if not prompts.get("document") and any(prompts.get(name) for name in ("passage", "corpus")):
        yield "encode_document puts no prompt: none is called document"


_TEI_TYPES = tuple(f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling", "Dense", "Normalize"))
_TEI_LEAST = 16_384  # --max-batch-tokens
_TEI_OFFSET = ("xlm-roberta", "camembert", "roberta")


def _tei(recipe: Recipe) -> Made:
    modes, fails = _tei_pooling(recipe)
    dense, fails_at = _tei_dense(recipe)
    return Made(
        fails=_flat(recipe) or _no_json(recipe) or _tei_refusal(recipe.files) or fails or fails_at,
        length=_tei_length(recipe),
        pooling=modes,
        normalized=True,
        notes=tuple(_tei_notes(recipe)),
        **_json_text(recipe),
        **{**_behind(recipe), **dense},
    )


def _tei_length(recipe: Recipe) -> int | None:
    files = recipe.files
    length = _number(files.transformer, "max_seq_length")
    if length is None:
        length = _number(files.config, "max_position_embeddings", "n_positions")
        if length is not None and files.config.values.get("model_type") in _TEI_OFFSET:
            padding = files.config.said("pad_token_id", "whole", least=0)
            length -= (0 if padding is None else int(padding.value)) + 1
    return None if length is None else min(length, _TEI_LEAST)


def _tei_refusal(files: Files) -> str:
    classes = _saved_by(files)
    if not classes:
        return "config.json names no architectures"
    return "it is taken for a classifier" if any(name.endswith("Classification") for name in classes) else ""


def _tei_pooling(recipe: Recipe) -> tuple[tuple[str, ...], str]:
    """By 1_Pooling whatever modules.json says: the new key, else the first flag; else why it does not start."""
    settings = recipe.files.pooling
    if not settings.there:
        family = str(recipe.files.config.values.get("model_type", ""))
        return (("cls",), "") if "bert" in family.lower() else ((), "no 1_Pooling/config.json")
    named = settings.values.get("pooling_mode")
    if named is not None and not isinstance(named, str):
        return (), "pooling_mode is a list"
    known = {"cls": "cls", "mean": "mean", "lasttoken": "lasttoken", "last_token": "lasttoken"}
    mode = known.get(named or "") or _flagged(settings, ("cls", "mean", "lasttoken"))
    return ((mode,), "") if mode else ((), f"it has no pooling by {_asked(settings)}")


def _tei_dense(recipe: Recipe) -> tuple[dict[str, Any], str]:
    listed = recipe.files.modules or ()
    if not _has(recipe, Dense) or any(module.type not in _TEI_TYPES for module in listed):
        return {}, ""
    exact = True
    for step, name in _activations(recipe):
        kind = "Identity" if name is None else name.rpartition(".")[2]
        if kind not in ("Tanh", "Identity"):
            return {}, f"it has no activation {kind}"
        exact &= name is not None and not step.residual
    return {"dense": APPLIED if exact else OTHERWISE}, ""


def _activations(recipe: Recipe) -> Iterator[tuple[Dense, str | None]]:
    """Each Dense, and the activation that its settings name, None where they name none."""
    values = {module.path: module.settings.values for module in recipe.files.modules or ()}
    for step in recipe.steps:
        if isinstance(step, Dense):
            named = values[step.path].get("activation_function")
            yield step, None if named is None else str(named)


def _tei_notes(recipe: Recipe) -> Iterator[str]:
    files = recipe.files
    yield "1.8.3 and before refuse longer texts"
    if files.transformer.there and _number(files.transformer, "max_seq_length") is None:
        yield "older versions do not start without max_seq_length"
    if (
        files.pooling.there
        and not {"pooling_mode_cls_token", "pooling_mode_mean_tokens"} <= files.pooling.values.keys()
    ):
        yield "older versions do not start without pooling_mode_*"
    if _has(recipe, Dense) and any(
        module.type.startswith("sentence_transformers.base") for module in files.modules or ()
    ):
        yield "whether later versions apply the Dense is not verified"


def _fastembed(recipe: Recipe) -> Made:
    config = recipe.files.tokenizer_config
    limits = [limit for key in ("model_max_length", "max_length") for limit in _usable(config.values.get(key))]
    missing = "" if config.there else "no tokenizer_config.json"
    return Made(
        fails=_no_json(recipe) or missing or ("" if limits else "model_max_length is no limit"),
        length=min(limits, default=None),
        pooling=None,
        notes=("pooling and norm are set for each model in its code", *_no_onnx(recipe)),
        **_json_text(recipe),
        **_behind(recipe),
    )


def _usable(value: Any) -> Iterator[int]:
    """The value, if it is a limit: no float, and nothing so large that it stands for none."""
    if type(value) is int and 0 < value <= sys.maxsize:
        yield value


_VLLM_POOLING = (
    "sentence_transformers.models.Pooling",
    "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
)
_VLLM_DENSE = ("sentence_transformers.models.Dense", "sentence_transformers.base.modules.dense.Dense")
_VLLM_NORMALIZE = (
    "sentence_transformers.models.Normalize",
    "sentence_transformers.base.modules.normalize.Normalize",
    "sentence_transformers.sentence_transformer.modules.normalize.Normalize",
)
_VLLM_ACTIVATIONS = (
    "torch.nn.modules.linear.Identity",
    *(f"torch.nn.modules.activation.{name}" for name in ("GELU", "ReLU", "SiLU", "Tanh", "Sigmoid")),
)
_VLLM_CLASSES = ("BertModel", "RobertaModel", "XLMRobertaModel", "ModernBertModel", "NomicBertModel")
_VLLM_POSITIONS = (
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)


def _vllm(recipe: Recipe) -> Made:
    values = recipe.files.transformer.values
    has_limit = "max_seq_length" in values
    pooling, dense = _modules_of(recipe, *_VLLM_POOLING), _vllm_dense(recipe)
    modes = _vllm_mode(pooling[0].settings) if pooling else ()
    first = bool(has_limit and values.get("do_lower_case"))
    return Made(
        fails=_flat(recipe) or ("max_seq_length is null" if has_limit and values["max_seq_length"] is None else ""),
        length=_vllm_length(recipe),
        overflow=REFUSED,
        pooling=modes or ("cls",),
        normalized=bool(_modules_of(recipe, *_VLLM_NORMALIZE)) or not pooling,
        notes=tuple(_vllm_notes(recipe)),
        **_their_text(recipe, lowered_first=first),
        **{**_behind(recipe), **dense},
    )


def _vllm_length(recipe: Recipe) -> int | None:
    files, config = recipe.files, recipe.files.config
    length = _number(files.transformer, "max_seq_length") or _number(config, "model_max_length")
    if length is not None:
        return length
    found = [_table(recipe), *(_number(config, key) for key in _VLLM_POSITIONS)]
    if config.values.get("position_embedding_type") == "absolute":
        found.append(_number(files.tokenizer_config, "model_max_length"))
    return min((limit for limit in found if limit is not None), default=2_048)


def _vllm_mode(settings: Settings) -> tuple[str, ...]:
    """The last that it knows, in the order of the file; a mean by the square root of the length counts as a mean."""
    found: tuple[str, ...] = ()
    for key, value in settings.values.items():
        if value is not True and not (key == "pooling_mode" and isinstance(value, str)):
            continue
        name = (key if value is True else value).removeprefix("pooling_mode_").partition("_")[0]
        mode = "lasttoken" if "lasttoken" in name else name
        found = (mode,) if mode in ("cls", "mean", "lasttoken") else found
    return found


def _vllm_dense(recipe: Recipe) -> dict[str, Any]:
    """Every Dense, or none where one names an activation that it does not know."""
    steps = list(_activations(recipe))
    if not steps or len(_modules_of(recipe, *_VLLM_DENSE)) < len(steps):
        return {}
    if any(name and name not in _VLLM_ACTIVATIONS for _, name in steps):
        return {}
    exact = all(name is not None and not step.residual for step, name in steps)
    return {"dense": APPLIED if exact else OTHERWISE}


def _vllm_notes(recipe: Recipe) -> Iterator[str]:
    yield "/v2/embed cuts longer texts"
    classes, pooling = _saved_by(recipe.files), _modules_of(recipe, *_VLLM_POOLING)
    if classes and classes[0] not in _VLLM_CLASSES:
        yield f"{classes[0][:22]} is none of its own: not verified"
    if pooling and (pooling[0].type != _VLLM_POOLING[0] or not _flagged(pooling[0].settings, tuple(FLAGS.values()))):
        yield "0.29.0 takes cls: it does not know these settings"


_LLAMA_OFFSET = tuple(
    f"{kind}{head}" for kind in ("Roberta", "XLMRoberta") for head in ("Model", "ForSequenceClassification")
)
_LLAMA_CLASSES = (
    *("BertModel", "BertForMaskedLM", "BertForSequenceClassification", "CamembertModel"),
    *("DistilBertModel", "DistilBertForMaskedLM", "DistilBertForSequenceClassification"),
    *_LLAMA_OFFSET,
    *("NomicBertModel", "NeoBERT", "NeoBERTLMHead", "NeoBERTForSequenceClassification"),
    *("EuroBertModel", "JinaEmbeddingsV5Model", "JinaBertModel", "JinaBertForMaskedLM"),
    *("ModernBertModel", "ModernBertForMaskedLM", "ModernBertForSequenceClassification"),
    *("T5EncoderModel", "T5ForConditionalGeneration"),
)
_LLAMA_MODES = ("mean", "cls", "lasttoken")
_LLAMA_BATCH, _LLAMA_SLOT = 512, 256  # llama-server's --ubatch-size, and what a slot's context is a multiple of


def _llama_cpp(recipe: Recipe) -> Made:
    modes, fails = _llama_pooling(recipe)
    return Made(
        fails=_flat(recipe) or _llama_refusal(recipe.files) or fails,
        length=_llama_length(recipe),
        overflow=REFUSED,
        pooling=modes,
        normalized=True,
        notes=tuple(_llama_notes(recipe)),
        **(_llama_text(recipe) if _is_wordpiece(recipe) else {}),
        **_behind(recipe),
    )


def _llama_refusal(files: Files) -> str:
    classes = _saved_by(files)
    if not classes:
        return "config.json names no architectures"
    is_other = model_type_of(files.config.values) in FAMILIES and classes[0] not in _LLAMA_CLASSES
    return f"it does not convert {classes[0][:40]}" if is_other else ""


def _llama_length(recipe: Recipe) -> int:
    """What llama-server takes: a physical batch, or a slot's context if that is less."""
    config, classes = recipe.files.config, _saved_by(recipe.files)
    keys = ("n_ctx", "n_positions", "max_length", "max_sequence_length", "model_max_length")
    context = _number(config, "max_position_embeddings", *keys)
    if context is None:
        return _LLAMA_BATCH
    padding = config.said("pad_token_id", "whole", least=0)
    if padding is not None and classes and classes[0] in _LLAMA_OFFSET:
        context = max(context - int(padding.value) - 1, 0)
    return min(_LLAMA_BATCH, -(-context // _LLAMA_SLOT) * _LLAMA_SLOT)


def _is_wordpiece(recipe: Recipe) -> bool:
    stored = text.stored(recipe.files)
    return recipe.rebuilt or (stored is not None and "BertNormalizer" in stored.steps)


def _llama_text(recipe: Recipe) -> dict[str, Any]:
    """WordPiece: as tokenizer.json's normalizer says, else lower-cased; its own tokens around the text."""
    named = text.named_tokens(recipe.files)
    lower = accents = None
    for step in text.flat(recipe.files.tokenizer.values.get("normalizer")):
        kind = step.get("type")
        lower = True if kind == "Lowercase" else step.get("lowercase", lower) if kind == "BertNormalizer" else lower
        accents = True if kind == "StripAccents" else accents
        accents = step.get("strip_accents", accents) if kind == "BertNormalizer" else accents
    lower = lower is None or bool(lower)
    around = ("[CLS]", "[SEP]") if named is None else named.value
    return {"lower": lower, "accents": lower if accents is None else bool(accents), "special": around}


def _llama_pooling(recipe: Recipe) -> tuple[tuple[str, ...], str]:
    """By the first Pooling that modules.json lists: the first flag, else the new key; else why it is not converted."""
    listed = next((module for module in recipe.files.modules or () if module.type.endswith("Pooling")), None)
    if listed is None:
        return (), ""
    named = listed.settings.values.get("pooling_mode")
    mode = _flagged(listed.settings, _LLAMA_MODES) or (named if named in _LLAMA_MODES else "")
    return ((mode,), "") if mode else ((), f"it has no pooling by {_asked(listed.settings)}")


def _llama_notes(recipe: Recipe) -> Iterator[str]:
    yield "llama-embedding takes 2,048 tokens"
    if _is_wordpiece(recipe) and not _llama_text(recipe)["lower"]:
        yield "earlier builds lower-case every WordPiece text"
    listed = next((module for module in recipe.files.modules or () if module.type.endswith("Pooling")), None)
    if listed is not None and not _flagged(listed.settings, _LLAMA_MODES):
        yield "earlier builds do not know pooling_mode"


def _transformers_js(recipe: Recipe) -> Made:
    length = _number(recipe.files.tokenizer_config, "model_max_length")
    return Made(
        fails=_flat(recipe) or _no_json(recipe),
        length=length,
        overflow=_beyond(recipe, length, CUT_BARE),
        normalized=False,
        notes=tuple(_no_onnx(recipe)),
        **_json_text(recipe),
        **_behind(recipe),
    )


def _transformers(recipe: Recipe) -> Made:
    length = _number(recipe.files.tokenizer_config, "model_max_length", "max_len")
    return Made(
        fails=_flat(recipe),
        length=length,
        overflow=_beyond(recipe, length, CUT),
        notes=("pooling and norm are those of your own lines",),
        **_their_text(recipe),
        **_behind(recipe),
    )


_ALL = tuple(FLAGS.values())
_THREE = ("cls", "mean", "lasttoken")

TOOLS = (
    Tool("sentence-transformers", "6.2.0", _sentence_transformers, _ALL),
    Tool("text-embeddings-inference", "", _tei, _THREE),
    Tool("fastembed", "0.9.1", _fastembed, _THREE),
    Tool("vLLM", "0.33.0", _vllm, _THREE),
    Tool("llama.cpp", "0c1e57098", _llama_cpp, _THREE),
    Tool("transformers.js", "4.3.1", _transformers_js, _THREE),
    Tool("transformers", "5.24.0", _transformers, _ALL),
)
