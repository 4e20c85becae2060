"""Everything an explanation rests on: numbers, names and shapes, in no language. `explain.gather` fills it in.

Letters: S tokens of the text, H hidden size, I intermediate size, L layers. Shapes have a batch of one in front, as in
transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bertprobe.report.explanation.source import Library

SHOWN = 4  # numbers of a vector that are written out


@dataclass(frozen=True, slots=True)
class Module:
    """One of the two modules, as this checkpoint has it.

    `inputs` and `outputs` are None where the weight is not a plain matrix; `parameters` counts all `count` of them, and
    their gates; `verdicts` are how many matrices got which word; `edges` their lowest and highest edge ratio.
    """

    count: int
    inputs: int | None
    outputs: int | None
    activation: str | None
    biased: bool
    parameters: int
    verdicts: Mapping[str, int]
    edges: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Step:
    """A tensor on the way: what it is, its shape, and the first values of the row that is followed."""

    name: str
    shape: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Worked:
    """One output number worked out: `product` is w·x, None where x is not at hand; `before` = product + bias."""

    unit: int
    product: float | None
    bias: float | None
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Compared:
    """The activation in force against ReLU and GELU's tanh approximation, over every layer and token of the text.

    Largest absolute differences, None where there is nothing to compare; `negative` is the share of values below
    zero that go into the activation, `lowest` the lowest that comes out.
    """

    relu: float | None
    tanh: float | None
    gelu: float | None
    negative: float
    lowest: float


@dataclass(frozen=True, slots=True)
class Pooled:
    """What the pooler made of the text, beside the two vectors it is mistaken for."""

    lowest: float
    highest: float
    norm: float
    saturated: float
    to_first: float | None
    to_mean: float | None
    first_to_mean: float | None
    from_first: float


@dataclass(frozen=True, slots=True)
class Run:
    """A text through the model. `token` is the place of the token whose row is followed through the first layer.

    `alone` says whether that row comes out the same without its neighbours, None where it could not be tried.
    """

    text: str
    tokens: tuple[str, ...]
    truncated: int
    backend: str
    rows_are_tokens: bool
    token: int
    up_projection: tuple[Step, ...]
    neuron: Worked
    compared: Compared
    alone: bool | None
    hidden: tuple[int, ...]
    pooling: tuple[Step, ...]
    dimension: Worked | None
    pooled: Pooled | None


@dataclass(frozen=True, slots=True)
class Facts:
    """What is true of this checkpoint and this text.

    `native` says that the model has BERT's layout, and so BERT's attention, residuals and norms around the two
    modules; `gated` that the up-projection is a product of two; `nsp` that its family was pretrained with
    next-sentence prediction. `called` is how often a text passes an up-projection. `absence` says why there is no
    pooler, as a kind and the word that belongs to it; `next_sentence_head` is the tensor of such a head in the same
    file. `refusal` says why no text was run.
    """

    model: str
    family: str
    native: bool
    gated: bool
    nsp: bool
    layers: int
    called: int
    hidden_size: int | None
    intermediate_size: int | None
    parameters: int
    up_projection: Module | None
    pooler: Module | None
    absence: tuple[str, str] | None
    saved_by: tuple[str, ...]
    next_sentence_head: str | None
    pools_by: tuple[str, ...]
    library: Library
    run: Run | None
    refusal: str | None
