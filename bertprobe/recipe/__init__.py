"""Which vector of a text is the model's: what the settings files beside the weights say, put together as one recipe.

The files contradict each other; who wins is decided as sentence-transformers 6.2 with transformers 5.24 does, and what
loses is kept beside it. Nothing but small files is read: no weights, no vocabulary, and no library is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from bertprobe.anatomy.config import HIDDEN, model_type_of
from bertprobe.anatomy.families import FAMILIES
from bertprobe.checkpoint import Checkpoint, open_checkpoint
from bertprobe.checkpoint.folder import Folder
from bertprobe.errors import NotFound
from bertprobe.filenames import MODULES
from bertprobe.recipe import text
from bertprobe.recipe.files import MOST, Fault, Files, Said, Settings, read_files
from bertprobe.recipe.steps import (
    Dense,
    LayerNorm,
    Normalize,
    Pooling,
    Step,
    Unsupported,
    steps_of,
    width_of,
)

__all__ = [
    "Dense",
    "Fault",
    "Files",
    "LayerNorm",
    "Normalize",
    "Pooling",
    "Recipe",
    "Said",
    "Setting",
    "Step",
    "Unsupported",
    "read_recipe",
    "recipe_of",
    "require_settings",
]

T = TypeVar("T")

SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
UNSAID = ("query", "document")  # prompts that sentence-transformers knows in every model: empty, unless a file has them
POSITIONS = 512  # of the config classes of BERT's kin, where config.json does not say


@dataclass(frozen=True, slots=True)
class Setting(Generic[T]):
    """One line of a recipe: its value, the file and key it is from, and what other files said, which lost.

    Where no file says it, `by` is None and `default` says whose default the value is.
    """

    value: T
    by: Said | None = None
    lost: tuple[Said, ...] = ()
    default: str = ""

    @property
    def contradicted(self) -> tuple[Said, ...]:
        """Of what lost, the values that are not this one."""
        return tuple(said for said in self.lost if said.value != self.value)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a text becomes the model's vector, as the settings files of a folder have it.

    `declared` says whether a modules.json lists the steps; else they are what sentence-transformers takes by itself.
    `lower` and `accents` say whether text is lower-cased and keeps its accents no more, None where no file tells;
    `length` is in tokens, special ones counted, None for no limit; `positions` is how many the model has. `prompts` are
    the named texts put before a text, `prompt` the name of the one that is put there unless another is asked for.
    `width` is how many numbers the vector has, `cut` how many are kept of it (Matryoshka).

    `rebuilt` says that transformers makes BERT's normalizer anew from the flags in tokenizer_config.json,
    `only_transformers` that it makes another one of its own, and `lowered_first` that sentence-transformers lower-cases
    before all that.
    """

    files: Files
    declared: bool
    normalizer: Setting[str]
    lower: Setting[bool | None]
    accents: Setting[bool | None]
    special: Setting[tuple[str, ...] | None]
    length: Setting[int | None]
    positions: int | None
    truncation: Setting[str]
    steps: tuple[Step, ...]
    prompts: Setting[Mapping[str, str]]
    prompt: Setting[str | None]
    similarity: Setting[str]
    cut: Setting[int | None]
    width: int | None
    rebuilt: bool
    only_transformers: bool
    lowered_first: bool

    @property
    def pooling(self) -> Pooling | None:
        """The step that makes one vector of all tokens' states."""
        return next((step for step in self.steps if isinstance(step, Pooling)), None)

    @property
    def normalized(self) -> bool:
        """Whether the vector comes out with norm 1; what is cut afterwards has less."""
        return any(isinstance(step, Normalize) for step in self.steps)

    def text_of(self, prompt: str | None) -> str:
        """The text put before each text: by the prompt's name, or as it is where no prompt is called so."""
        if prompt is None:
            prompt = self.prompt.value
        if prompt is None:
            return ""
        return self.prompts.value.get(prompt, "" if prompt in UNSAID else prompt)


def read_recipe(home: Folder, *, tokenizer: Folder | None = None, config: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of a folder, by its settings files alone.

    Args:
        home: the folder with modules.json, or of a model without one.
        tokenizer: the folder with the tokenizer's files, where they lie elsewhere.
        config: what the model's config says, where it is not in a file of that folder.
    """
    files = read_files(home, tokenizer=tokenizer, config=config)
    steps = steps_of(files)
    normalizer, lower, accents, lowered_first = _cleaning(files)
    prompts, prompt = _prompts(files)
    cut = _setting(files.prompts.said("truncate_dim", "whole") if files.modules is not None else None, None, "")
    return Recipe(
        files=files,
        declared=files.modules is not None,
        normalizer=normalizer,
        lower=lower,
        accents=accents,
        special=_special(files),
        length=_length(files),
        positions=positions_of(files),
        truncation=_truncation(files),
        steps=steps,
        prompts=prompts,
        prompt=prompt,
        similarity=_similarity(files),
        cut=cut,
        width=width_of(steps, hidden_of(files), cut.value),
        rebuilt=text.is_rebuilt(files),
        only_transformers=text.only_transformers(files),
        lowered_first=lowered_first,
    )


def recipe_carried(ref: str, subfolder: str) -> Recipe | None:
    """The recipe that a weights file carries by itself, None where there is none."""
    try:
        checkpoint = open_checkpoint(ref, subfolder=subfolder)
    except NotFound:
        return None
    return recipe_of(checkpoint) if checkpoint.carried else None


def has_settings(recipe: Recipe) -> bool:
    """Whether there is any of the files that a recipe is read from."""
    return recipe.files.modules is not None or any(settings.there for settings in _looked_for(recipe))


def _looked_for(recipe: Recipe) -> tuple[Settings, ...]:
    files = recipe.files
    return (files.config, files.tokenizer_config, files.tokenizer, files.transformer, files.prompts)


def require_settings(recipe: Recipe) -> None:
    """Raises `NotFound` for a recipe of a folder that has none of the files it could be read from."""
    files = recipe.files
    if not has_settings(recipe):
        names = ", ".join(settings.file for settings in _looked_for(recipe))
        raise NotFound(f"{files.home.address} holds no settings of a model", f"looked for {MODULES}, {names}")


def recipe_of(checkpoint: Checkpoint) -> Recipe:
    """The recipe of a checkpoint that is open, from the folder that describes it as a whole."""
    tokenizer = checkpoint.tokenizer if checkpoint.has_foreign_tokenizer else None
    return read_recipe(checkpoint.home, tokenizer=tokenizer, config=checkpoint.config)


def _setting(by: Said | None, otherwise: Any, default: str, *lost: Said | None) -> Setting[Any]:
    """The value that a file says, else a default; with what lost against it."""
    others = tuple(said for said in lost if said is not None)
    return Setting(otherwise, None, others, default) if by is None else Setting(by.value, by, others)


# ------------------------------------------------------------------------------------------------ text


_Cleaned = tuple[Setting[str], Setting[bool | None], Setting[bool | None]]  # the normalizer, case and accents


def _cleaning(files: Files) -> tuple[*_Cleaned, bool]:
    """Normaliser, case and accents, and whether sentence-transformers lower-cases before all that."""
    normalizer, lower, accents = _by_tokenizer(files)
    first = files.transformer.said("do_lower_case", "flag") if files.modules is not None else None
    if first is None or not first.value:
        # false is what sentence-transformers always writes: it leaves the case to the tokenizer, and contradicts nobody
        return normalizer, lower, accents, False
    by = lower.by or (None if lower.value is None else Said(lower.value, lower.default, "default"))
    return normalizer, Setting(True, first, (*((by,) if by else ()), *lower.lost)), accents, True


def _by_tokenizer(files: Files) -> _Cleaned:
    """What the tokenizer does: as its class in transformers has it, or as its tokenizer.json."""
    stored, json, by_class = text.stored(files), files.tokenizer.file, text.tokenizer_class(files)
    flag = files.tokenizer_config.said("do_lower_case", "flag")
    in_json = None if stored is None else Said(", ".join(stored.steps) or "none", json, "normalizer")
    its_own = Setting("its own", None, () if in_json is None else (in_json,), by_class)
    if text.never_lowers(files):
        lost = Said(True, json, "normalizer")
        return its_own, Setting(False, None, (lost,), by_class), Setting(False, None, (), by_class)
    if text.is_rebuilt(files):
        return _by_flags(files, stored, in_json)
    if text.only_transformers(files) and by_class not in text.WITHOUT_FLAGS:  # what that makes is not told here
        others = (*(() if flag is None else (flag,)), *((Said(stored.lower, json, "normalizer"),) if stored else ()))
        return its_own, Setting(None, None, others, by_class), Setting(None, None, (), by_class)
    if stored is None or in_json is None:
        nothing: Setting[bool | None] = Setting(None, default="no tokenizer.json")
        return Setting("the tokenizer's own", default="no tokenizer.json"), nothing, nothing
    lower = Setting(stored.lower, Said(stored.lower, json, "normalizer"), () if flag is None else (flag,))
    accents = Setting(stored.accents, Said(stored.accents, json, "normalizer"))
    return Setting(str(in_json.value), in_json), lower, accents


def _by_flags(files: Files, stored: text.Cleaning | None, in_json: Said | None) -> _Cleaned:
    """What BERT's normalizer does that transformers makes anew of flags; what tokenizer.json has is lost."""
    done, config, json = text.rebuilt(files), files.tokenizer_config, files.tokenizer.file
    by_class, own = text.tokenizer_class(files) or "BertTokenizer", config.said("strip_accents", "flag")
    in_case, in_accents = (
        _said(stored, what, json, f"normalizer.{key}")
        for what, key in (("lower", "lowercase"), ("accents", "strip_accents"))
    )
    lower = _setting(config.said("do_lower_case", "flag"), done.lower, by_class, in_case)
    accents = _setting(own, done.accents, "do_lower_case" if own is None else "", in_accents)
    return Setting("BertNormalizer", None, () if in_json is None else (in_json,), by_class), lower, accents


def _said(stored: text.Cleaning | None, what: str, file: str, key: str) -> Said | None:
    value = None if stored is None else getattr(stored, what)
    return None if value is None else Said(value, file, key)


def _special(files: Files) -> Setting[tuple[str, ...] | None]:
    around, named = text.around(files), text.named_tokens(files)
    if text.is_rebuilt(files) and text.tokenizer_class(files) != "MPNetTokenizer":
        by_class = text.tokenizer_class(files) or "BertTokenizer"
        return _setting(named, ("[CLS]", "[SEP]"), by_class, around)
    if around is None:
        return Setting(None if named is None else named.value, named, (), "no tokenizer.json")
    return Setting(around.value, around, () if named is None else (named,))


def _truncation(files: Files) -> Setting[str]:
    side = files.tokenizer_config.said("truncation_side", "text")
    json = files.tokenizer.said("truncation.direction", "text")
    lowered = None if json is None else json._replace(value=str(json.value).lower())
    return _setting(side, "right", "", lowered) if side or not lowered else _setting(lowered, "right", "")


# ------------------------------------------------------------------------------------------------ length


def positions_of(files: Files) -> int | None:
    """How many tokens the model has positions for, None where no table of them ends or what is run is its own code.

    RoBERTa's kin count them from the padding's id on.
    """
    said = files.config.said("max_position_embeddings", "whole")
    row = FAMILIES.get(model_type_of(files.config.values))
    if said is None or row is None or row.endless or "auto_map" in files.config.values:
        return None
    if row.padding is None:
        return int(said.value)
    padding = files.config.said("pad_token_id", "whole", least=0)
    return max(int(said.value) - (row.padding if padding is None else int(padding.value)) - 1, 0)


def hidden_of(files: Files) -> int | None:
    """The width of the model's hidden states, by whichever name its config has for it."""
    said = (files.config.said(key, "whole") for key in HIDDEN)
    return next((int(width.value) for width in said if width is not None), None)


def limit_in(settings: Settings, key: str) -> Said | None:
    """A number of tokens; None where there is none, or one so large that it stands for no limit."""
    said = settings.said(key, "tokens")
    return None if said is None or said.value > MOST else said


def _length(files: Files) -> Setting[int | None]:
    """The limit in force: the transformer's settings, else the smaller of the tokenizer's and the model's positions."""
    of_tokenizer = limit_in(files.tokenizer_config, "model_max_length") or limit_in(files.tokenizer_config, "max_len")
    truncation = limit_in(files.tokenizer, "truncation.max_length")
    table = files.config.said("max_position_embeddings", "whole")
    own = None
    if files.modules is not None:
        keys = (
            "processing_kwargs.text.max_length",
            "tokenizer_args.model_max_length",
            "processor_kwargs.model_max_length",
            "max_seq_length",
        )
        found = [said for key in keys if (said := limit_in(files.transformer, key))]
        own, others = (found[0], found[1:]) if found else (None, [])
        if own is not None:
            return _setting(own, None, "", *others, of_tokenizer, truncation)
    if of_tokenizer is not None and (table is None or of_tokenizer.value <= table.value):
        return _setting(of_tokenizer, None, "", truncation)
    if table is not None:
        return _setting(table, None, "", of_tokenizer, truncation)
    row = FAMILIES.get(model_type_of(files.config.values))
    default = POSITIONS if row is not None and files.config.there and row.native else None
    return _setting(None, default, "config class" if default else "", of_tokenizer, truncation)


# ------------------------------------------------------------------------------------------------ prompts and the rest


def _prompts(files: Files) -> tuple[Setting[Mapping[str, str]], Setting[str | None]]:
    if files.modules is None:  # without it sentence-transformers does not look into that file
        return Setting({}), Setting(None)
    values = files.prompts.values.get("prompts")
    found: dict[str, str] = {}
    if "prompts" in files.prompts.values and not isinstance(values, Mapping):
        files.faults.append(Fault(files.prompts.file, "prompts", "no texts by name: the model does not load"))
    elif values:
        for name, prompt in values.items():
            if isinstance(prompt, str) or prompt is None:
                found[name] = prompt or ""
            else:
                files.faults.append(Fault(files.prompts.file, f"prompts.{name}", "no text"))
    by = Said(found, files.prompts.file, "prompts") if found else None
    named = files.prompts.said("default_prompt_name", "text")
    return _setting(by, {}, ""), _setting(named, None, "")


def _similarity(files: Files) -> Setting[str]:
    said = files.prompts.said("similarity_fn_name", "text") if files.modules is not None else None
    if said is not None and said.value not in SIMILARITIES:
        return Setting("cosine", None, (said,), "sentence-transformers")
    return _setting(said, "cosine", "sentence-transformers")
