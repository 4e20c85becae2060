"""What the settings beside two checkpoints make of a text: where that differs, so do its vectors, whatever the weights.

Of a lone weights file, which has none, nothing is compared: they may lie elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bertprobe.checkpoint import Checkpoint, LocalFile
from bertprobe.checkpoint.folder import parse_json
from bertprobe.errors import BertprobeError
from bertprobe.filenames import CONFIGS, TOKENIZER, VOCABULARY
from bertprobe.recipe import Recipe
from bertprobe.recipe.line import recipe_line, tokens, words_of

# Settings of config.json that decide a number, as they are called there; what only one of the two says is not compared.
_NUMBERS = (
    "hidden_act",
    "layer_norm_eps",
    "num_attention_heads",
    "position_embedding_type",
    "pad_token_id",
    "is_decoder",
)


class Differing(NamedTuple):
    """A setting, and what each checkpoint has for it in words; None where one has nothing."""

    setting: str
    a: str | None
    b: str | None


def differing(a: Checkpoint, b: Checkpoint, recipe_a: Recipe, recipe_b: Recipe) -> tuple[Differing, ...]:
    """The settings that differ and decide a vector, in the order in which a text meets them."""
    recipes = (recipe_a, recipe_b)
    rows: list[Differing] = []
    if all(recipe.files.tokenizer.there or recipe.files.tokenizer_config.there for recipe in recipes):
        rows += _rows(*(dict(_of_tokenizer(recipe)) for recipe in recipes))
    if all(recipe.declared or _has_config(of) for of, recipe in zip((a, b), recipes, strict=True)):
        if all(recipe.declared for recipe in recipes):
            rows += _rows(*(dict(_of_modules(recipe)) for recipe in recipes))
        else:
            rows.append(Differing("modules", *(recipe_line(recipe) if recipe.declared else None for recipe in recipes)))
    rows += [*_of_vocabularies(a, b), *_of_configs(a.config or {}, b.config or {})]
    return tuple(row for row in rows if row.a != row.b)


def _has_config(of: Checkpoint) -> bool:
    """Whether a config lies beside the weights: what a file says of itself is no folder that modules are missing in."""
    return any(of.settings.is_file(name) and name not in of.carried for name in CONFIGS)


def _rows(a: Mapping[str, str], b: Mapping[str, str]) -> list[Differing]:
    return [Differing(name, a.get(name), b.get(name)) for name in dict.fromkeys([*a, *b])]


def _of_modules(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What modules.json declares."""
    yield "length", tokens(recipe.length.value)
    if before := recipe.text_of(None):
        yield "prompt", repr(before)
    for number, step in enumerate(recipe.steps, 1):
        yield f"step {number}", words_of(step)
    if recipe.cut.value is not None:
        yield "cut to", f"{recipe.cut.value:,} numbers"
    yield "similarity", recipe.similarity.value


def _of_tokenizer(recipe: Recipe) -> Iterator[tuple[str, str]]:
    if recipe.lower.value is not None:
        yield "case", "lower-cased" if recipe.lower.value else "kept"
    if recipe.accents.value is not None:
        yield "accents", "taken off" if recipe.accents.value else "kept"
    if recipe.special.value is not None:
        yield "around a text", " … ".join(recipe.special.value) or "nothing"


def _of_vocabularies(a: Checkpoint, b: Checkpoint) -> Iterator[Differing]:
    """How many tokens each has, where they are not the same ones with the same ids; only of files on this disk."""
    files = [_vocabulary_file(of) for of in (a, b)]
    if None in files or files[0] == files[1]:  # one text need not be taken apart
        return
    one, other = (None if file is None else _ids(*file) for file in files)
    if one is not None and other is not None and one != other:
        apart = len(one.items() ^ other.items())
        yield Differing("vocabulary", f"{len(one):,} tokens", f"{len(other):,} tokens ({apart:,} stand in one only)")


def _vocabulary_file(of: Checkpoint) -> tuple[str, str] | None:
    """The name and text of the file with the tokens, None where there is none, or it cannot be read."""
    if not isinstance(of.files[0], LocalFile):
        return None
    name = next((name for name in (TOKENIZER, VOCABULARY) if of.tokenizer.is_file(name)), None)
    try:
        return None if name is None else (name, of.tokenizer.text(name))
    except BertprobeError:
        return None  # whoever runs a text is told


def _ids(name: str, text: str) -> dict[str, int] | None:
    """The id of each token, None where they are kept in another way."""
    if name == VOCABULARY:
        return {token: id for id, token in enumerate(text.splitlines())}
    try:
        found = parse_json(text, name)["model"]["vocab"]
        entries = found.items() if isinstance(found, dict) else ((entry[0], id) for id, entry in enumerate(found))
        ids = {token: id for token, id in entries if isinstance(token, str) and type(id) is int}
    except (BertprobeError, LookupError, TypeError):
        return None
    return ids if len(ids) == len(found) else None


def _of_configs(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Differing]:
    for key in _NUMBERS:
        if key in a and key in b:
            yield Differing(key, str(a[key]), str(b[key]))
