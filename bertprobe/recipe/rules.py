"""What is to be said of a recipe: files that contradict each other, and what has to be known to get the same vector."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bertprobe.errors import printable, quoted, shortened
from bertprobe.filenames import MODULES
from bertprobe.recipe import Recipe, Said, Setting, Step, hidden_of
from bertprobe.recipe.files import PROMPTS, WITH_FOLDER, Module
from bertprobe.recipe.steps import Dense, LayerNorm, Pooling, Unsupported, width_key, width_of
from bertprobe.recipe.text import WITHOUT_FLAGS, tokenizer_class
from bertprobe.storages import listed, weights_files
from bertprobe.verdicts import Finding, Observation, Rule, ask

UNDECLARED = "pooling-undeclared"
BEYOND = "length-beyond-positions"
_NEEDS_WEIGHTS = ("Dense", "LayerNorm")


def judge_recipe(recipe: Recipe) -> tuple[Finding, ...]:
    """Every finding on a recipe, the worst first, in the order of `RULES` within a severity."""
    return ask(RULES, recipe)


def beside_weights(recipe: Recipe) -> tuple[Finding, ...]:
    """The findings that belong to a checkpoint as a whole.

    That nothing declares a recipe is true of most, and the length that sentence-transformers then takes by itself is no
    fault of theirs.
    """
    own = () if recipe.declared else (UNDECLARED, BEYOND)
    return tuple(finding for finding in judge_recipe(recipe) if finding.rule not in own)


def said(found: Said) -> str:
    """Where a value stands: `max_seq_length in sentence_bert_config.json`."""
    return f"{printable(found.key)} in {_shown(found.file)}"


def _shown(*names: str) -> str:
    """Names from a file, safe to print and no longer than a line each."""
    return printable(shortened(list(names)))


# ------------------------------------------------------------------------------------------------ what cannot be


def settings_invalid(recipe: Recipe) -> Iterator[Observation]:
    for file, key, found in dict.fromkeys(recipe.files.faults):
        what = f"{_shown(key)} in {_shown(file)} is" if key else f"{_shown(file)} is"
        yield Observation(
            None, f"{what} {printable(found)}", {"file": file, "key": key}, "mend it, or fetch the file again"
        )


def settings_missing(recipe: Recipe) -> Iterator[Observation]:
    """Files that the recipe needs, and the list of modules itself."""
    files = recipe.files
    if files.modules is None:
        kinds = list(files.unlisted)
        if kinds:
            yield Observation(
                None,
                f"there is {_shown(*kinds)} but no {MODULES}: sentence-transformers takes the plain mean, "
                "other tools read the folder",
                {"missing": MODULES, "folders": kinds},
                f"put the model's {MODULES} beside config.json",
                severity="warning",
            )
        return
    for module in files.modules:
        yield from _missing_of(recipe, module)
    if not files.modules or _unsupported(recipe):
        return
    for kind, makes in (("Transformer", "the tokens' states"), ("Pooling", "one vector of the tokens'")):
        if all(module.kind != kind for module in files.modules):
            yield Observation(
                None,
                f"{MODULES} lists no {kind}: nothing makes {makes}",
                {"missing": kind, "modules": [module.type for module in files.modules]},
                f"add it to {MODULES} as the model's author has it, or fetch the file again",
            )


def _missing_of(recipe: Recipe, module: Module) -> Iterator[Observation]:
    lacks = list(_lacks(recipe, module))
    if lacks:
        name = module.path or module.kind
        yield Observation(
            None,
            f"{MODULES} lists {_shown(name)}, which has no {' and no '.join(lacks)}",
            {"missing": name, "lacks": lacks},
            "fetch that folder too: a copy of the files beside config.json alone leaves it out"
            if module.path
            else "fetch it too",
        )


def _lacks(recipe: Recipe, module: Module) -> Iterator[str]:
    """The files that a module needs and has not, and what its settings have to say and do not."""
    files, kind = recipe.files, module.kind
    if kind == "Transformer" and not files.config.there and _first_transformer(recipe) is module:
        yield "config.json"
    if not module.path or kind not in WITH_FOLDER:
        return
    if not module.settings.there:
        yield "config.json"
    elif not any(fault.file == module.settings.file and not fault.key for fault in files.faults):
        for key in _required(module):
            if module.settings.values.get(key) is None:
                yield f"{key} in config.json"
    if kind in _NEEDS_WEIGHTS and not any(files.home.is_file(f"{module.path}/{name}") for name in weights_files()):
        yield f"weights ({listed(weights_files(), 'or')})"


def _required(module: Module) -> tuple[str, ...]:
    if module.kind == "Pooling":
        return (width_key(module.settings.values),)
    return ("in_features", "out_features") if module.kind == "Dense" else ("dimension",)


def _first_transformer(recipe: Recipe) -> Module | None:
    return next((module for module in recipe.files.modules or () if module.kind == "Transformer"), None)


def modules_order(recipe: Recipe) -> Iterator[Observation]:
    """Modules whose order gives no vector, or leaves some of them without effect."""
    kinds = [module.kind for module in recipe.files.modules or () if module.kind != "Dropout"]
    if _unsupported(recipe) or not {"Transformer", "Pooling"} <= {*kinds}:
        return
    if kinds[:2] == ["Transformer", "Pooling"] and not {"Transformer", "Pooling"} & {*kinds[2:]}:
        return
    yield Observation(
        None,
        f"{MODULES} lists {_shown(*kinds)} in this order: a vector needs one Transformer, then one Pooling, then the "
        "others",
        {"modules": kinds},
        "put them in the order that the model's author has",
    )


def _unsupported(recipe: Recipe) -> list[Unsupported]:
    return [step for step in recipe.steps if isinstance(step, Unsupported)]


def module_unsupported(recipe: Recipe) -> Iterator[Observation]:
    for step in _unsupported(recipe):
        yield Observation(
            None,
            f"{_shown(f'{step.path} ({step.type})' if step.path else step.type)} {_shown(step.reason)}",
            {"type": step.type, "path": step.path},
            "take vectors from sentence-transformers itself: the recipe cannot be run here",
        )


def width_contradiction(recipe: Recipe) -> Iterator[Observation]:
    """Each step that expects another width than what comes to it."""
    hidden = hidden_of(recipe.files)
    comes = hidden
    for at, step in enumerate(recipe.steps):
        key, expects = _expects(step)
        if expects is not None and comes is not None and expects != comes:
            yield Observation(
                None,
                f"{key} in {_shown(f'{step.path}/config.json')} is {expects:,}, what comes to it has {comes:,} numbers",
                {"path": step.path, "expects": expects, "width": comes},
                "the folder is put together of two models: fetch all of its files again",
            )
        comes = width_of(recipe.steps[: at + 1], hidden, None)


def _expects(step: Step) -> tuple[str, int | None]:
    if isinstance(step, Pooling):
        return step.width_key, step.width
    if isinstance(step, Dense):
        return "in_features", step.in_features
    return ("dimension", step.dimension) if isinstance(step, LayerNorm) else ("", None)


def prompt_missing(recipe: Recipe) -> Iterator[Observation]:
    name = recipe.prompt.value
    if name is not None and name not in recipe.prompts.value and name not in ("query", "document"):
        yield Observation(
            None,
            f"default_prompt_name in {PROMPTS} is {quoted(name)}, and no prompt is called so: the model does not load",
            {"prompt": name, "prompts": sorted(recipe.prompts.value)},
            f"add it to prompts in {PROMPTS}, or take the name out",
        )


def length_beyond_positions(recipe: Recipe) -> Iterator[Observation]:
    length, positions = recipe.length, recipe.positions
    if length.value is not None and positions is not None and length.value > positions:
        by = said(length.by) if length.by else f"the default of the {length.default}"
        ours = length.by is not None and length.by.file != recipe.files.config.file
        yield Observation(
            None,
            f"{by} is {length.value:,} tokens, the model has positions for {positions:,}: "
            "a longer text ends in an error",
            {"length": length.value, "positions": positions},
            f"set it to {positions}"
            if ours
            else f"set model_max_length in {_shown(recipe.files.tokenizer_config.file)} to {positions}",
        )


# ------------------------------------------------------------------------------------------------ contradictions


def _contradicts(setting: Setting[Any], word: Any) -> str:
    """What is in force by whom, and what else is said: `lower-cased by … , kept by …`."""
    by = said(setting.by) if setting.by else f"default of {setting.default}"
    lost = ", ".join(f"{word(lost.value)} by {said(lost)}" for lost in setting.contradicted)
    return f"{word(setting.value)} by {by}, {lost}"


def _evidence(setting: Setting[Any]) -> dict[str, Any]:
    return {
        "value": setting.value,
        "by": None if setting.by is None else f"{setting.by.file}: {setting.by.key}",
        "others": {f"{lost.file}: {lost.key}": lost.value for lost in setting.contradicted},
    }


def case_contradiction(recipe: Recipe) -> Iterator[Observation]:
    for about, setting, words in (
        ("case", recipe.lower, ("keeps its case", "is lower-cased")),
        ("accents", recipe.accents, ("keeps its accents", "loses its accents")),
    ):
        if setting.contradicted and setting.value is not None:
            idle = _is_idle(recipe, setting)
            yield Observation(
                None,
                f"text {_contradicts(setting, lambda value, words=words: words[bool(value)])}"
                + (", which its tokenizer does not look at" if idle else ""),
                {"about": about, **_evidence(setting)},
                f"take it out of {_shown(setting.contradicted[0].file)}, or leave it: it changes nothing"
                if idle
                else "write the one that the model was trained with into both files: tools take either",
                severity="note" if idle else None,
            )
            return  # accents go with the case


def _is_idle(recipe: Recipe, setting: Setting[Any]) -> bool:
    """Whether what contradicts is a flag for a tokenizer of another class."""
    files = recipe.files
    of_flags = all(lost.file == files.tokenizer_config.file for lost in setting.contradicted)
    return of_flags and tokenizer_class(files) in WITHOUT_FLAGS


def _in_a_row(tokens: tuple[str, ...]) -> str:
    return " … ".join(_shown(token) for token in tokens[:6]) or "nothing"


def special_contradiction(recipe: Recipe) -> Iterator[Observation]:
    if recipe.special.contradicted and recipe.special.value is not None:
        yield Observation(
            None,
            f"around a text stands {_contradicts(recipe.special, _in_a_row)}",
            _evidence(recipe.special),
            "write the tokenizer anew with transformers (save_pretrained), and compare with the model's author",
        )


def dense_ignored(recipe: Recipe) -> Iterator[Observation]:
    """A Dense that nobody applies; or one that some tools leave out."""
    for name in _forgotten(recipe, "Dense"):
        yield Observation(
            None,
            f"{_shown(name)} is there, but {MODULES} does not list it: nobody applies it",
            {"folder": name},
            f"add it to {MODULES}, or take the folder away",
            severity="warning",
        )
    listed = [step.path for step in recipe.steps if isinstance(step, Dense)]
    if listed:
        yield Observation(
            None,
            f"the vector goes through {_shown(*listed)}: tools that leave it out give another one",
            {"folders": listed},
            "bertprobe recipe shows which tools do: take vectors from another",
        )


def _kind_in(name: str) -> str:
    """The kind of module that a folder's name says: Dense of `2_Dense_1024`."""
    return name.partition("_")[2].partition("_")[0]


def _alternatives(recipe: Recipe) -> list[str]:
    """Folders that may stand in the place of one that modules.json lists: `2_Dense_256` beside `2_Dense`."""
    listed = {(module.path.partition("_")[0], module.kind) for module in recipe.files.modules or ()}
    return [name for name in recipe.files.unlisted if (name.partition("_")[0], _kind_in(name)) in listed]


def _forgotten(recipe: Recipe, *kinds: str) -> list[str]:
    """Folders of a module that no modules.json lists and that take no other's place; all kinds, if none is given."""
    if recipe.files.modules is None:
        return []
    left = [name for name in recipe.files.unlisted if name not in _alternatives(recipe)]
    return [name for name in left if not kinds or _kind_in(name) in kinds]


def module_ignored(recipe: Recipe) -> Iterator[Observation]:
    for name in _forgotten(recipe):
        if _kind_in(name) != "Dense":
            yield Observation(
                None,
                f"{_shown(name)} is there, but {MODULES} does not list it: it is left out",
                {"folder": name},
                f"add it to {MODULES}, or take the folder away",
            )
    alternatives = _alternatives(recipe)
    if alternatives:
        yield Observation(
            None,
            f"{_shown(*alternatives)} may stand in the place of a folder that {MODULES} lists",
            {"folders": alternatives},
            f"to take one, write its name into {MODULES} instead",
            severity="note",
        )


def dense_activation(recipe: Recipe) -> Iterator[Observation]:
    for step in recipe.steps:
        if isinstance(step, Dense) and not step.said.startswith("torch."):
            yield Observation(
                None,
                f"activation_function in {_shown(f'{step.path}/config.json')} is {quoted(step.said)}, "
                "which is not loaded: tanh is taken",
                {"path": step.path, "activation": step.said},
                "name a class of torch, such as torch.nn.modules.linear.Identity",
            )


def pooling_contradiction(recipe: Recipe) -> Iterator[Observation]:
    pooling = recipe.pooling
    if pooling is not None and pooling.flags is not None:
        older = ", ".join(pooling.flags) or "none"
        yield Observation(
            None,
            f"pooling_mode in {_shown(f'{pooling.path}/config.json')} is {_shown(*pooling.modes)}, "
            f"the older pooling_mode_* beside it say {older}",
            {"modes": pooling.modes, "flags": pooling.flags},
            "leave one of the two: versions of sentence-transformers before 6 read only the older",
        )


def prompt_expected(recipe: Recipe) -> Iterator[Observation]:
    prompts = {name: prompt for name, prompt in recipe.prompts.value.items() if prompt}
    default = recipe.prompt.value
    if default is not None and prompts.get(default):
        yield Observation(
            None,
            f"the prompt {quoted(prompts[default])} is put before every text ({quoted(default)} is "
            f"{said(recipe.prompt.by) if recipe.prompt.by else 'the default'})",
            {"default": default, "prompts": prompts},
            "tools that do not read it need it in the text; another: bertprobe pool --vector sentence --prompt NAME",
        )
    elif prompts:
        yield Observation(
            None,
            f"the model has prompts ({_shown(*prompts)}), and none is put before a text by itself",
            {"default": None, "prompts": prompts},
            "texts of a kind that has one go with bertprobe pool --vector sentence --prompt NAME, others as they are",
            severity="note",
        )


# ------------------------------------------------------------------------------------------------ worth knowing


def length_contradiction(recipe: Recipe) -> Iterator[Observation]:
    if recipe.length.contradicted and recipe.length.value is not None:
        yield Observation(
            None,
            f"texts are cut at {_contradicts(recipe.length, lambda value: f'{value:,} tokens')}",
            _evidence(recipe.length),
            "longer texts give other vectors in other tools: bertprobe recipe shows in which",
        )


def pooling_several(recipe: Recipe) -> Iterator[Observation]:
    pooling = recipe.pooling
    if pooling is not None and len(pooling.modes) > 1:
        yield Observation(
            None,
            f"{len(pooling.modes)} poolings are put end to end: {_shown(*pooling.modes)}",
            {"modes": pooling.modes},
            "bertprobe recipe shows which tools can do that",
        )


def pooling_undeclared(recipe: Recipe) -> Iterator[Observation]:
    if not recipe.declared and not recipe.files.unlisted and recipe.pooling is not None:
        modes = recipe.pooling.modes
        yield Observation(
            None,
            f"no {MODULES} says how a vector is made: sentence-transformers takes "
            + ("the last token" if modes == ("lasttoken",) else "the mean of all tokens"),
            {"pooling": modes[0], "missing": MODULES},
            "ask the model's author which vector it was trained for, if for any",
        )


def cut_not_normalised(recipe: Recipe) -> Iterator[Observation]:
    whole = width_of(recipe.steps, hidden_of(recipe.files), None)
    if recipe.cut.value is not None and recipe.normalized and (whole is None or recipe.cut.value < whole):
        yield Observation(
            None,
            f"vectors are cut to {recipe.cut.value:,} numbers after they were normalised: their norm is below 1",
            {"truncate_dim": recipe.cut.value},
            "compare them by cosine, or normalise them again",
        )


def similarity_unknown(recipe: Recipe) -> Iterator[Observation]:
    for lost in recipe.similarity.lost:
        yield Observation(
            None,
            f"{said(lost)} is {quoted(str(lost.value))}, which sentence-transformers does not know: cosine is taken",
            {"similarity": lost.value},
            "name cosine, dot, euclidean or manhattan",
        )


RULES: tuple[Rule[Recipe], ...] = (
    Rule("settings-invalid", "error", "A settings file is damaged, or says what cannot be.", settings_invalid),
    Rule("settings-missing", "error", "A file that the recipe needs is not there.", settings_missing),
    Rule("width-contradiction", "error", "A step expects vectors of another width.", width_contradiction),
    Rule("modules-order", "error", "Modules stand in an order that gives no vector.", modules_order),
    Rule("prompt-missing", "error", "The default prompt is none of the prompts.", prompt_missing),
    Rule(BEYOND, "error", "Texts may be longer than the model's positions.", length_beyond_positions),
    Rule("module-unsupported", "warning", "A step of the recipe is not run here.", module_unsupported),
    Rule("case-contradiction", "warning", "Files differ in case or accents.", case_contradiction),
    Rule("special-tokens-contradiction", "warning", "Files differ in the tokens around a text.", special_contradiction),
    Rule("dense-activation", "warning", "A Dense layer's activation is not loaded.", dense_activation),
    Rule("pooling-contradiction", "warning", "The pooling is said twice, differently.", pooling_contradiction),
    Rule("prompt-expected", "warning", "A prompt belongs before every text.", prompt_expected),
    Rule("module-ignored", "warning", "A module's folder is listed nowhere.", module_ignored),
    Rule("dense-ignored", "note", "A Dense layer that some tools, or all, leave out.", dense_ignored),
    Rule("length-contradiction", "note", "Files differ in where a text is cut.", length_contradiction),
    Rule("pooling-several", "note", "Several poolings are put end to end.", pooling_several),
    Rule(UNDECLARED, "note", "Nothing says how a vector is made.", pooling_undeclared),
    Rule("cut-not-normalised", "note", "Vectors are cut after they were normalised.", cut_not_normalised),
    Rule("similarity-unknown", "note", "The similarity function is not known.", similarity_unknown),
)
