"""What is to be said of a recipe: files that contradict each other, and what has to be known to get the same vector."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bertprobe.errors import printable, quoted, shortened
from bertprobe.filenames import MODULES
from bertprobe.recipe import Recipe, Said, Setting
from bertprobe.recipe.files import PROMPTS, Module
from bertprobe.recipe.steps import Dense, LayerNorm, Pooling, Unsupported, width_of
from bertprobe.verdicts import Finding, Observation, Rule, ask

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_NEEDS_SETTINGS = ("Pooling", "Dense", "LayerNorm")
_NEEDS_WEIGHTS = ("Dense", "LayerNorm")


def judge_recipe(recipe: Recipe) -> tuple[Finding, ...]:
    """Every finding on a recipe, the worst first, in the order of `RULES` within a severity."""
    return ask(RULES, recipe)


def said(found: Said) -> str:
    """Where a value stands: `max_seq_length in sentence_bert_config.json`."""
    return f"{printable(found.key)} in {printable(found.file)}"


# ------------------------------------------------------------------------------------------------ what cannot be


def settings_invalid(recipe: Recipe) -> Iterator[Observation]:
    for file, key, found in dict.fromkeys(recipe.files.faults):
        what = f"{printable(key)} in {printable(file)} is" if key else f"{printable(file)} is"
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
                f"there is {printable(shortened(kinds))} but no {MODULES}: sentence-transformers takes the plain mean, "
                "other tools read the folder",
                {"missing": MODULES, "folders": kinds},
                f"put the model's {MODULES} beside config.json",
                severity="warning",
            )
        return
    for module in files.modules:
        yield from _missing_of(recipe, module)
    if files.modules and recipe.pooling is None and not _unsupported(recipe):
        yield Observation(
            None,
            f"{MODULES} lists no Pooling: nothing makes one vector of the tokens'",
            {"missing": "Pooling", "modules": [module.type for module in files.modules]},
            f"add the pooling to {MODULES}, as the model's author has it",
        )


def _missing_of(recipe: Recipe, module: Module) -> Iterator[Observation]:
    home, kind = recipe.files.home, module.kind
    if not module.path or kind not in _NEEDS_SETTINGS:
        return
    lacks = [] if module.settings.there else ["config.json"]
    if kind in _NEEDS_WEIGHTS and not any(home.is_file(f"{module.path}/{name}") for name in _WEIGHTS):
        lacks.append("weights (model.safetensors or pytorch_model.bin)")
    if lacks:
        yield Observation(
            None,
            f"{MODULES} lists {printable(module.path)}, which has no {' and no '.join(lacks)}",
            {"missing": module.path, "lacks": lacks},
            "fetch that folder too: a copy of the files beside config.json alone leaves it out",
        )


def _unsupported(recipe: Recipe) -> list[Unsupported]:
    return [step for step in recipe.steps if isinstance(step, Unsupported)]


def module_unsupported(recipe: Recipe) -> Iterator[Observation]:
    for step in _unsupported(recipe):
        yield Observation(
            None,
            f"{printable(step.path or step.type)} ({printable(step.type)}) {printable(step.reason)}",
            {"type": step.type, "path": step.path},
            "take vectors from sentence-transformers itself: the recipe cannot be run here",
        )


def width_contradiction(recipe: Recipe) -> Iterator[Observation]:
    """A step that expects another width than what comes to it."""
    hidden = recipe.files.config.said("hidden_size", "whole")
    width = None if hidden is None else int(hidden.value)
    here = width
    for at, step in enumerate(recipe.steps):
        expects = _expects(step)
        if expects is not None and here is not None and expects[1] != here:
            key, value = expects
            yield Observation(
                None,
                f"{key} in {printable(step.path)}/config.json is {value:,}, what comes to it has {here:,} numbers",
                {"path": step.path, "expects": value, "width": here},
                "the folder is put together of two models: fetch all of its files again",
            )
            return
        here = width_of(recipe.steps[: at + 1], here if at else width, None)


def _expects(step: Any) -> tuple[str, int] | None:
    if isinstance(step, Pooling) and step.width is not None:
        return "word_embedding_dimension", step.width
    if isinstance(step, Dense) and step.in_features is not None:
        return "in_features", step.in_features
    if isinstance(step, LayerNorm) and step.dimension is not None:
        return "dimension", step.dimension
    return None


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
        by = said(length.by) if length.by else length.default
        yield Observation(
            None,
            f"{by} is {length.value:,} tokens, the model has positions for {positions:,}: "
            "a longer text ends in an error",
            {"length": length.value, "positions": positions},
            f"set it to {positions}",
        )


# ------------------------------------------------------------------------------------------------ contradictions


def _contradicts(setting: Setting[Any], word: Any) -> str:
    """What is in force by whom, and what else is said: `lower-cased by … , kept by …`."""
    by = said(setting.by) if setting.by else setting.default
    lost = ", ".join(f"{word(lost.value)} by {said(lost)}" for lost in setting.contradicted)
    return f"{word(setting.value)} by {by}, {lost}"


def _evidence(setting: Setting[Any]) -> dict[str, Any]:
    return {
        "value": setting.value,
        "by": None if setting.by is None else f"{setting.by.file}: {setting.by.key}",
        "others": {f"{lost.file}: {lost.key}": lost.value for lost in setting.contradicted},
    }


def case_contradiction(recipe: Recipe) -> Iterator[Observation]:
    for setting, words in (
        (recipe.lower, ("keeps its case", "is lower-cased")),
        (recipe.accents, ("keeps its accents", "loses its accents")),
    ):
        if setting.contradicted and setting.value is not None:
            yield Observation(
                None,
                f"text {_contradicts(setting, lambda value, words=words: words[bool(value)])}",
                _evidence(setting),
                "write the one that the model was trained with into both files: tools take either",
            )
            return  # accents go with the case


def special_contradiction(recipe: Recipe) -> Iterator[Observation]:
    if recipe.special.contradicted and recipe.special.value is not None:
        yield Observation(
            None,
            f"around a text stands {_contradicts(recipe.special, lambda value: ' … '.join(value) or 'nothing')}",
            _evidence(recipe.special),
            "write the tokenizer anew with transformers (save_pretrained), and compare with the model's author",
        )


def dense_ignored(recipe: Recipe) -> Iterator[Observation]:
    """A Dense that nobody applies; or one that some tools leave out."""
    files = recipe.files
    for name, kind in files.unlisted.items():
        if files.modules is not None and kind == "Dense":
            yield Observation(
                None,
                f"{printable(name)} is there, but {MODULES} does not list it: nobody applies it",
                {"folder": name},
                f"add it to {MODULES}, or take the folder away",
                severity="warning",
            )
    listed = [step for step in recipe.steps if isinstance(step, Dense)]
    if listed:
        yield Observation(
            None,
            f"the vector goes through {printable(shortened([step.path for step in listed]))}: tools that leave it out "
            "give another one",
            {"folders": [step.path for step in listed]},
            "see which tools do in the table of tools, and read vectors from one that does not",
        )


def module_ignored(recipe: Recipe) -> Iterator[Observation]:
    files = recipe.files
    for name, kind in files.unlisted.items():
        if files.modules is not None and kind != "Dense":
            yield Observation(
                None,
                f"{printable(name)} is there, but {MODULES} does not list it: it is left out",
                {"folder": name},
                f"add it to {MODULES}, or take the folder away",
            )


def dense_activation(recipe: Recipe) -> Iterator[Observation]:
    for step in recipe.steps:
        if isinstance(step, Dense) and not step.said.startswith("torch."):
            yield Observation(
                None,
                f"activation_function in {printable(step.path)}/config.json is {quoted(step.said)}, "
                "which is not loaded: tanh is taken",
                {"path": step.path, "activation": step.said},
                "name a class of torch, such as torch.nn.modules.linear.Identity",
            )


def pooling_contradiction(recipe: Recipe) -> Iterator[Observation]:
    pooling = recipe.pooling
    if pooling is not None and pooling.flags is not None:
        older = " and ".join(pooling.flags) or "none"
        yield Observation(
            None,
            f"pooling_mode in {printable(pooling.path)}/config.json is {' and '.join(pooling.modes)}, "
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
            "tools that do not read it need it in the text; name another one by `prompt=`",
        )
    elif prompts:
        yield Observation(
            None,
            f"the model was trained with prompts ({printable(shortened(list(prompts)))}), "
            "and none is put before a text by itself",
            {"default": None, "prompts": prompts},
            "choose one by `prompt=`: without it, vectors are others than the author's",
            severity="note",
        )


# ------------------------------------------------------------------------------------------------ worth knowing


def length_contradiction(recipe: Recipe) -> Iterator[Observation]:
    if recipe.length.contradicted and recipe.length.value is not None:
        yield Observation(
            None,
            f"texts are cut at {_contradicts(recipe.length, lambda value: f'{value:,} tokens')}",
            _evidence(recipe.length),
            "longer texts give other vectors in other tools: see the table of tools",
        )


def pooling_several(recipe: Recipe) -> Iterator[Observation]:
    pooling = recipe.pooling
    if pooling is not None and len(pooling.modes) > 1:
        yield Observation(
            None,
            f"{len(pooling.modes)} poolings are put end to end: {', '.join(pooling.modes)}",
            {"modes": pooling.modes},
            "see in the table of tools which of them can do that",
        )


def pooling_undeclared(recipe: Recipe) -> Iterator[Observation]:
    if not recipe.declared and not recipe.files.unlisted:
        yield Observation(
            None,
            f"no {MODULES} says how a vector is made: sentence-transformers takes the mean of all tokens",
            {"pooling": "mean", "missing": MODULES},
            "ask the model's author which vector it was trained for, if for any",
        )


def cut_not_normalised(recipe: Recipe) -> Iterator[Observation]:
    if recipe.cut.value is not None and recipe.normalized:
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
    Rule("prompt-missing", "error", "The default prompt is none of the prompts.", prompt_missing),
    Rule(
        "length-beyond-positions", "error", "Texts may be longer than the model's positions.", length_beyond_positions
    ),
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
    Rule("pooling-undeclared", "note", "Nothing says how a vector is made.", pooling_undeclared),
    Rule("cut-not-normalised", "note", "Vectors are cut after they were normalised.", cut_not_normalised),
    Rule("similarity-unknown", "note", "The similarity function is not known.", similarity_unknown),
)
