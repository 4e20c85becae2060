"""A recipe in a line, for facts and for what is written into files."""

from __future__ import annotations

from bertprobe.recipe import Dense, LayerNorm, Normalize, Pooling, Recipe, Step


def recipe_line(recipe: Recipe, prompt: str | None = None) -> str:
    """The recipe in a line, with a prompt by name or text: `256 tokens, lower-cased, mean, norm 1`."""
    before = recipe.text_of(prompt)
    parts = [
        tokens(recipe.length.value),
        {True: "lower-cased", False: "case kept", None: ""}[recipe.lower.value],
        f"prompt {before!r}" if before else "",
        *(words_of(step) for step in recipe.steps),
        "" if recipe.cut.value is None else f"cut to {recipe.cut.value:,}",
        "" if recipe.width is None else f"{recipe.width:,} numbers",
    ]
    line = ", ".join(filter(None, parts))
    return line if recipe.declared else f"none declared; sentence-transformers takes {line}"


def tokens(length: int | None) -> str:
    """A limit in words."""
    return "no limit" if length is None else f"{length:,} tokens"


def words_of(step: Step) -> str:
    """A step in a few words."""
    if isinstance(step, Pooling):
        return " + ".join(step.modes) + ("" if step.include_prompt else " without the prompt")
    if isinstance(step, Dense):
        return f"dense{_shape(step)}, {step.activation}{' + x' * step.residual}"
    if isinstance(step, LayerNorm):
        return "layer norm"
    return "norm 1" if isinstance(step, Normalize) else f"{step.type} (not run here)"


def _shape(step: Dense) -> str:
    return "" if step.in_features is None or step.out_features is None else f" {step.in_features}→{step.out_features}"
