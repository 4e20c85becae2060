"""A recipe that runs: the texts as its model wants them, and the vector that its steps make of the hidden states.

Letters: N texts, T tokens of a batch, H hidden size, E numbers of the vector.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bertprobe.backends import ACTIVATIONS
from bertprobe.checkpoint import Checkpoint, TensorHeader, headers_in, read_tensors
from bertprobe.errors import CorruptFile, NotFound, UnsupportedFile, printable, quoted, shortened
from bertprobe.filenames import MODULES
from bertprobe.notices import say
from bertprobe.recipe import Dense, LayerNorm, Pooling, Recipe, Step, Unsupported, recipe_of
from bertprobe.recipe.rules import judge_recipe
from bertprobe.recipe.text import flags, tokenizer_class
from bertprobe.run.captured import FIRST, HIDDEN, Captured, Collector
from bertprobe.run.collect import Vectors
from bertprobe.run.runner import Ran, Runner, run_texts
from bertprobe.tokens import FastTokenizer, Tokenizer, open_tokenizer
from bertprobe.verdicts import Finding

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

LEAST_NORM = 1e-12  # torch.nn.functional.normalize divides by no less
LAYER_NORM_EPS = 1e-5  # torch.nn.LayerNorm, of which sentence-transformers sets only the width


@dataclass(frozen=True, slots=True, eq=False)
class Sentence:
    """What makes the recipe's vector of a text: the `prompt` before it, where it is cut, the steps behind the model.

    `longest` is the recipe's limit in tokens, None where it has none; `left_out` are the tokens of the prompt that the
    pooling leaves out, the first of each text; `tokenizer` does as the recipe says, and `applied` are the steps after
    the pooling.
    """

    recipe: Recipe
    pooling: Pooling
    prompt: str
    longest: int | None
    left_out: int
    tokenizer: Tokenizer
    applied: tuple[Applied, ...]

    @property
    def needs(self) -> frozenset[str]:
        """The first tokens' states alone where nothing else is pooled, else all."""
        return frozenset({FIRST if self.pooling.modes == ("cls",) and not self.left_out else HIDDEN})

    def texts(self, texts: Iterable[str]) -> Iterator[str]:
        """Texts with the prompt before each."""
        return (self.prompt + text for text in texts)

    def cut(self, longest: int, truncate: bool) -> tuple[int | None, bool]:
        """To how many tokens texts are cut, None for what the model takes, and whether they are cut at all.

        Where the recipe's limit lies beyond the `longest` that the model takes, or nowhere, only `truncate` cuts.
        """
        cut = self.longest is not None and self.longest <= longest
        return self.longest if cut else None, truncate or cut

    def vectors(self, captured: Captured) -> Floats:
        """The vector of each text of a batch, (N, E), of what `needs` shows."""
        import numpy as np

        vectors = np.concatenate([self._pooled(captured, mode) for mode in self.pooling.modes], axis=1)
        for step in self.applied:
            vectors = step(vectors)
        return np.ascontiguousarray(vectors[:, : self.recipe.cut.value])

    def _pooled(self, captured: Captured, mode: str) -> Floats:
        if captured.site.part == FIRST:
            return captured.numpy()
        if mode == "mean" and not self.left_out:
            means: Floats = captured.backend.text_means(captured.after, captured.lengths)
            return means
        return pooled(captured.numpy(), captured.lengths, mode, self.left_out)


class SentenceVectors(Vectors):
    """The recipe's vector of each text, (N, E) in the order of the input."""

    def __init__(self, sentence: Sentence) -> None:
        super().__init__("mean")
        self.needs = sentence.needs
        self._sentence = sentence

    def reduce(self, captured: Captured) -> Floats:
        return self._sentence.vectors(captured)


def run_sentences(
    runner: Runner, sentence: Sentence, texts: Iterable[str], *collectors: Collector, truncate: bool = False
) -> Ran:
    """Runs texts as the recipe has them: the prompt before each, and each cut where the recipe says.

    Where that lies beyond what the model takes, or nowhere, a text that is too long is an error unless `truncate`.
    """
    longest, truncate = sentence.cut(runner.engine.longest, truncate)
    return run_texts(runner, sentence.texts(texts), *collectors, truncate=truncate, longest=longest)


def pooled(hidden: Floats, lengths: Any, mode: str, left_out: int = 0) -> Floats:
    """One vector of each text's states, (T, H) → (N, H), without the first `left_out` tokens of each text.

    Where no token is left, `cls` and `lasttoken` take the first and the last of all, and the others nothing: zeros,
    and −infinity for `max`, as sentence-transformers does.
    """
    import numpy as np

    out = np.empty((len(lengths), hidden.shape[1]), np.float32)
    start = 0
    for row, length in enumerate(lengths.tolist()):
        text = hidden[start : start + length]
        out[row] = _of_text(text, text[left_out:], mode, left_out)
        start += length
    return out


def _of_text(text: Floats, kept: Floats, mode: str, left_out: int) -> Any:
    import numpy as np

    if mode == "cls":
        return kept[0] if len(kept) else text[0]
    if mode == "lasttoken":
        return text[-1] if len(kept) else np.zeros_like(text[-1])
    if mode == "max":
        return kept.max(0, initial=-np.inf)
    if mode == "weightedmean":  # by place in the text, from 1; what is left out keeps its places
        weights = np.arange(left_out + 1, left_out + len(kept) + 1, dtype=np.float64)
        return weights @ kept.astype(np.float64) / max(float(weights.sum()), 1e-9)
    divisor = max(len(kept), 1e-9)
    return kept.sum(0, dtype=np.float64) / (divisor if mode == "mean" else divisor**0.5)


# ------------------------------------------------------------------------------------------------ made of a recipe


def sentence_of(checkpoint: Checkpoint, prompt: str | None = None) -> Sentence:
    """A checkpoint's own recipe, ready to run; raises as `open_sentence` does."""
    recipe = recipe_of(checkpoint)
    return open_sentence(checkpoint, recipe, tokenizer_for(checkpoint, recipe), prompt)


def open_sentence(checkpoint: Checkpoint, recipe: Recipe, tokenizer: Tokenizer, prompt: str | None = None) -> Sentence:
    """A recipe ready to run: the weights of its steps are read, and the tokenizer does as the recipe says from now on.

    Args:
        checkpoint: the model, on this disk.
        recipe: its recipe.
        tokenizer: the one that texts will be run with.
        prompt: the name of a prompt, or a text to put before each; None for the recipe's own.

    Raises:
        UnsupportedFile: a step is one that is not run here.
        NotFound: a step's weights are not there.
        CorruptFile: settings are damaged or lacking, or contradict each other or the weights.
    """
    pooling, rest = _steps(checkpoint, recipe, prompt)
    _follow(tokenizer, recipe)
    text = recipe.text_of(prompt)
    named = [name for name, known in recipe.prompts.value.items() if known]
    if prompt and named and prompt == text and text not in recipe.prompts.value.values():
        say(f"{quoted(text)} is put before each text as it is: the model's prompts are called {shortened(named)}")
    return Sentence(
        recipe=recipe,
        pooling=pooling,
        prompt=text,
        longest=recipe.length.value,
        left_out=_tokens_of(tokenizer, text, recipe) if text and not pooling.include_prompt else 0,
        tokenizer=tokenizer,
        applied=tuple(_applied(checkpoint, step) for step in rest),
    )


def _steps(checkpoint: Checkpoint, recipe: Recipe, prompt: str | None) -> tuple[Pooling, list[Step]]:
    """The pooling and what follows it; raises where a step cannot be run, or files cannot be followed."""
    for step in recipe.steps:
        if isinstance(step, Unsupported):
            raise UnsupportedFile(
                f"the recipe of {printable(checkpoint.ref)} goes through {printable(step.path or step.type)}, which "
                f"{printable(step.reason)}",
                "take its vectors from sentence-transformers, or `vector=mean` or `vector=cls` of the model alone",
            )
    for finding in judge_recipe(recipe):
        if _stops(finding, recipe, prompt):
            raise CorruptFile(f"of {printable(checkpoint.ref)} there is no vector: {finding.message}", finding.hint)
    first, *rest = recipe.steps or (None,)
    if not isinstance(first, Pooling) or any(isinstance(step, Pooling) for step in rest):
        raise UnsupportedFile(
            f"the recipe of {printable(checkpoint.ref)} does not begin with one pooling",
            f"look at it with: bertprobe recipe {printable(checkpoint.ref)}",
        )
    return first, rest


def _stops(finding: Finding, recipe: Recipe, prompt: str | None) -> bool:
    """Whether there is no vector by a finding; those on the tokenizer and the model are for whoever reads these."""
    files, evidence = recipe.files, finding.evidence
    if finding.severity != "error":
        return False
    if finding.rule == "settings-invalid":
        of_modules = {module.settings.file for module in files.modules or ()}
        return files.modules is not None and evidence["file"] in of_modules | {
            MODULES,
            files.prompts.file,
            files.transformer.file,
        }
    if finding.rule == "width-contradiction":  # what a pooling expects changes nothing
        return evidence["path"] not in {step.path for step in recipe.steps if isinstance(step, Pooling)}
    if finding.rule == "prompt-missing":
        return prompt is None
    return finding.rule in ("settings-missing", "modules-order")


def tokenizer_for(checkpoint: Checkpoint, recipe: Recipe) -> Tokenizer:
    """The checkpoint's tokenizer; transformers' own where that does not follow the files."""
    from bertprobe.transformers_model import tokenizer

    if recipe.only_transformers:
        return tokenizer(checkpoint)
    found = open_tokenizer(checkpoint, lambda: tokenizer(checkpoint))
    other = recipe.rebuilt and isinstance(found, FastTokenizer) and not found.is_wordpiece
    return tokenizer(checkpoint) if other else found


def _follow(tokenizer: Tokenizer, recipe: Recipe) -> None:
    """Has a tokenizer treat text as transformers and sentence-transformers do by the recipe's files."""
    if recipe.rebuilt and isinstance(tokenizer, FastTokenizer):
        mpnet = tokenizer_class(recipe.files) == "MPNetTokenizer"
        tokenizer.clean_as_bert(flags(recipe.files), ("<s>", "</s>") if mpnet else ("[CLS]", "[SEP]"))
    if recipe.lowered_first:
        tokenizer.lower_first()


def _tokens_of(tokenizer: Tokenizer, prompt: str, recipe: Recipe) -> int:
    """The tokens that a prompt begins a text with; a special token at its own end is not one of them."""
    tokens = tokenizer.encode(prompt, longest=recipe.length.value).tokens
    special = tokenizer.special_tokens | frozenset(recipe.special.value or () if recipe.rebuilt else ())
    return len(tokens) - (bool(tokens) and tokens[-1] in special)


def _applied(checkpoint: Checkpoint, step: Step) -> Applied:
    if isinstance(step, Dense):
        return _dense(checkpoint, step)
    if isinstance(step, LayerNorm):
        return _layer_norm(checkpoint, step)
    return Normalized()


@dataclass(frozen=True, slots=True)
class Normalized:
    """A step that divides each row by its Euclidean norm."""

    def __call__(self, vectors: Floats) -> Floats:
        return normalized(vectors)


@dataclass(frozen=True, slots=True, eq=False)
class DenseStep:
    """A step W x + b through an activation of ACTIVATIONS; with `residual` x is added, through `matrix` if there."""

    weight: Floats
    bias: Floats | None
    matrix: Floats | None
    residual: bool
    activation: str

    def __call__(self, vectors: Floats) -> Floats:
        import numpy as np

        activation = ACTIVATIONS[self.activation][0] or np.asarray
        out: Floats = vectors @ self.weight.T
        out = activation(out if self.bias is None else out + self.bias)
        if self.residual:
            out = out + (vectors if self.matrix is None else vectors @ self.matrix.T)
        return out


@dataclass(frozen=True, slots=True, eq=False)
class NormStep:
    """A layer norm of each row."""

    weight: Floats
    bias: Floats

    def __call__(self, vectors: Floats) -> Floats:
        import numpy as np

        wide = vectors.astype(np.float64)
        centred = wide - wide.mean(1, keepdims=True)
        scaled = centred / np.sqrt(wide.var(1, keepdims=True) + LAYER_NORM_EPS)
        out: Floats = (scaled * self.weight + self.bias).astype(np.float32)
        return out


Applied = Normalized | DenseStep | NormStep


def normalized(vectors: Floats) -> Floats:
    """Each row over its Euclidean norm, (N, E)."""
    import numpy as np

    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    out: Floats = (vectors / np.maximum(norms, LEAST_NORM)).astype(np.float32)
    return out


def _dense(checkpoint: Checkpoint, step: Dense) -> DenseStep:
    outer, inner = step.out_features or 0, step.in_features or 0
    wanted: dict[str, tuple[int, ...]] = {"linear.weight": (outer, inner)}
    if step.bias:
        wanted["linear.bias"] = (outer,)
    if step.residual and outer != inner:
        wanted["residual.weight"] = (outer, inner)
    found = _read(checkpoint, step.path, wanted)
    weight, bias, matrix = found["linear.weight"], found.get("linear.bias"), found.get("residual.weight")
    return DenseStep(weight, bias, matrix, step.residual, step.activation)


def _layer_norm(checkpoint: Checkpoint, step: LayerNorm) -> NormStep:
    width = step.dimension or 0
    found = _read(checkpoint, step.path, {"norm.weight": (width,), "norm.bias": (width,)})
    return NormStep(found["norm.weight"], found["norm.bias"])


def _read(checkpoint: Checkpoint, path: str, wanted: Mapping[str, tuple[int, ...]]) -> dict[str, Floats]:
    """The tensors of a module's folder as float32; raises where they are not those that its settings want."""
    import numpy as np

    headers: Mapping[str, TensorHeader] = headers_in(checkpoint.home.below(path))
    where = printable(checkpoint.home.at(path))
    missing = [name for name in wanted if name not in headers]
    if missing:
        raise NotFound(f"{where} has no {', '.join(missing)}", "fetch that folder of the model again")
    hint = "they are not of one model: fetch that folder again"
    if more := sorted(set(headers) - set(wanted)):
        raise CorruptFile(f"{where} has {shortened(more)}, of which its config.json knows nothing", hint)
    for name, shape in wanted.items():
        if headers[name].shape != shape:
            raise CorruptFile(
                f"{name} in {where} is {_by(headers[name].shape)}, its config.json says {_by(shape)}", hint
            )
    there = {name: headers[name] for name in wanted}
    return {name: np.asarray(values, np.float32) for name, values in read_tensors(there)}


def _by(shape: Iterable[int]) -> str:
    return "×".join(map(str, shape))
