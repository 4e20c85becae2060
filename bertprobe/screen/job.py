"""A screen from its options to its numbers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bertprobe.anatomy import Anatomy, layer_numbers
from bertprobe.anatomy.poolers import require_pooler
from bertprobe.checkpoint import Checkpoint
from bertprobe.errors import BadSetting, NotFound, PartMissing, quoted
from bertprobe.recipe import recipe_of
from bertprobe.run import HIDDEN, SENTENCE, VECTORS, Compute, Runner, open_runner
from bertprobe.run.sentence import sentence_of
from bertprobe.screen.exact import Neuron, Rerun, effects, rows_of
from bertprobe.stats.ranks import spearman

if TYPE_CHECKING:
    from bertprobe.run.sentence import Sentence
    from bertprobe.screen.gradients import Estimates
    from bertprobe.screen.outputs import Output
    from bertprobe.tokens import Encoded

Doubles = npt.NDArray[np.float64]
Advance = Callable[[int, int], None]

MASKED = "masked"
OUTPUTS = (*VECTORS, SENTENCE, MASKED)
LEAST_NUMBERS = 64  # numbers that are drawn at the least: of few texts, several each
GRADIENT_TOKENS = 512  # of a batch that keeps what gradients need: all that every layer made


@dataclass(frozen=True, slots=True)
class Options:
    """How to screen.

    `output` is pooled, cls, mean, sentence or masked; `exact` says how many of the strongest neurons are taken out one
    by one, and `drawn` how many of the rest; `means` are what neurons are given instead of zero, by layer.
    """

    output: str = "pooled"
    layers: str | None = None
    exact: int = 16
    drawn: int = 16
    seed: int = 0
    truncate: bool = False
    means: Mapping[int, Sequence[float]] | None = None
    compute: Compute = field(default_factory=Compute)


@dataclass(frozen=True, eq=False)
class Screen:
    """What a screen found.

    Attributes:
        output: what was looked at.
        unit: of an effect: `distance`, the root mean square over texts of how far a vector moves, or `nats`, the mean
            Kullback-Leibler divergence of the prediction of a masked token.
        effects: of every neuron by layer (I,), to first order, from one backward pass a text.
        errors: their standard errors (I,), from the spread of what was drawn.
        reruns: neurons that were taken out one by one, strongest first, those drawn from the rest behind them.
        spread: how far the outputs of texts lie from each other, in the unit of an effect.
        texts: how many were run, of so many `tokens`.
        directions: numbers drawn of each text.
        seconds: what the screen took, and one re-run of all texts (NaN without one).
    """

    output: str
    unit: str
    effects: Mapping[int, Doubles]
    errors: Mapping[int, Doubles]
    reruns: tuple[Rerun, ...]
    spread: float
    texts: int
    tokens: int
    directions: int
    seconds: tuple[float, float]

    @property
    def neurons(self) -> int:
        """How many were screened."""
        return sum(map(len, self.effects.values()))

    def strongest(self, count: int) -> list[Neuron]:
        """Layer and number of the neurons of most effect, the strongest first."""
        return strongest(self.effects, count)

    def correlation(self, drawn: bool | None = None) -> float:
        """Spearman's between estimate and exact effect of what was re-run: all, or those drawn, or the strongest."""
        chosen = [one for one in self.reruns if drawn is None or one.drawn == drawn]
        return spearman([self.effects[one.layer][one.neuron] for one in chosen], [one.effect for one in chosen])

    @property
    def times_faster(self) -> float:
        """By how much the screen is faster than to take out every neuron, by the time that one took."""
        return self.neurons * self.seconds[1] / self.seconds[0]


@dataclass(eq=False)
class ScreenJob:
    """A screen that is ready to run."""

    runner: Runner
    output: Output
    texts: Sequence[Encoded]
    layers: tuple[int, ...]
    options: Options

    @property
    def reruns(self) -> int:
        """How many neurons are taken out one by one at the most."""
        return self.options.exact + self.options.drawn

    @property
    def tokens(self) -> int:
        """Of the texts, once."""
        return sum(map(len, self.texts))

    def run(self, advance: Advance = lambda texts, tokens: None) -> Screen:
        """Screens; `advance` is called with texts and tokens as they pass, re-runs included."""
        from bertprobe.screen.gradients import estimated

        options, output = self.options, self.output
        directions = max(output.directions, -(-LEAST_NUMBERS // len(self.texts)))
        start = time.perf_counter()
        gradual = replace(self.runner, compute=_narrow(options.compute))
        found = estimated(
            gradual,
            self.texts,
            output,
            self.layers,
            seed=options.seed,
            directions=directions,
            means=options.means,
            advance=advance,
        )
        took = time.perf_counter() - start
        made = {layer: output.estimate(found.mean_squares(layer)) for layer in self.layers}
        untouched = rows_of(self.runner, self.texts, output)
        start, reruns = time.perf_counter(), []
        for one in effects(self.runner, self.texts, output, untouched, self._chosen(made), self._mean):
            reruns.append(one)
            advance(len(self.texts), self.tokens)
        again = (time.perf_counter() - start) / len(reruns) if reruns else float("nan")
        return Screen(
            output=output.name,
            unit=output.unit,
            effects=made,
            errors={layer: _errors(output, found, layer) for layer in self.layers},
            reruns=tuple(reruns),
            spread=output.spread(untouched),
            texts=found.texts,
            tokens=found.tokens,
            directions=directions,
            seconds=(took, again),
        )

    def _chosen(self, made: Mapping[int, Doubles]) -> list[tuple[Neuron, bool]]:
        """The strongest, then some of the rest, drawn."""
        ranked = strongest(made, sum(map(len, made.values())))
        first, rest = ranked[: self.options.exact], ranked[self.options.exact :]
        draw = np.random.default_rng([self.options.seed, len(ranked)])
        places = np.sort(draw.choice(len(rest), min(self.options.drawn, len(rest)), replace=False))
        return [(one, False) for one in first] + [(rest[place], True) for place in places.tolist()]

    @property
    def _mean(self) -> Callable[[Neuron], float] | None:
        means = self.options.means
        return None if means is None else lambda neuron: float(means[neuron[0]][neuron[1]])


def _errors(output: Output, found: Estimates, layer: int) -> Doubles:
    """Standard errors of the effects of a layer: those of the mean squares, as far as they move the effect."""
    squares, relative = found.mean_squares(layer), found.relative_errors(layer)
    made = output.estimate(squares)
    errors: Doubles = np.abs(output.estimate(squares * (1 + relative)) - made)
    return errors


def strongest(effects: Mapping[int, Doubles], count: int) -> list[Neuron]:
    """Layer and number of the neurons of most effect, the strongest first, equal ones in their order."""
    names = [(layer, neuron) for layer, found in effects.items() for neuron in range(len(found))]
    values = np.concatenate(list(effects.values())) if effects else np.empty(0)
    return [names[place] for place in np.argsort(-values, kind="stable")[:count].tolist()]


def _narrow(compute: Compute) -> Compute:
    return replace(compute, batch_tokens=min(compute.batch_tokens or GRADIENT_TOKENS, GRADIENT_TOKENS))


# ------------------------------------------------------------------------------------------------ made ready


def prepare_screen(checkpoint: Checkpoint, anatomy: Anatomy, texts: Sequence[str], options: Options) -> ScreenJob:
    """A screen of a model over some texts, ready to run.

    Raises:
        NotFound: there is no text.
        PartMissing: there is no such layer, or not what the output needs, such as a pooler.
        UnsupportedFile: numpy was asked for, which has no gradients.
    """
    if not texts:
        raise NotFound("there is no text to run", "name texts, or files with texts")
    if options.output not in OUTPUTS:
        raise BadSetting(f"output is {quoted(options.output)}", f"choose {', '.join(OUTPUTS)}")
    layers = layers_of(anatomy, options.layers)
    chosen = options.compute.backend
    compute = replace(options.compute, backend="torch" if chosen == "auto" else chosen)
    if options.output == MASKED:
        return _masked_job(checkpoint, anatomy, texts, layers, replace(options, compute=compute))
    return _vector_job(checkpoint, anatomy, texts, layers, replace(options, compute=compute))


def _vector_job(
    checkpoint: Checkpoint, anatomy: Anatomy, texts: Sequence[str], layers: tuple[int, ...], options: Options
) -> ScreenJob:
    from bertprobe.screen.outputs import VectorOutput

    sentence = sentence_of(checkpoint) if options.output == SENTENCE else None
    if options.output == "pooled":
        require_pooler(checkpoint, anatomy, "choose another output: sentence, mean or cls")
    output = VectorOutput(options.output, sentence)
    tokenizer = None if sentence is None else sentence.tokenizer
    runner = open_runner(checkpoint, anatomy, options.compute, needs=output.needs, tokenizer=tokenizer)
    return ScreenJob(runner, output, list(_encoded(runner, texts, sentence, options.truncate)), layers, options)


def _masked_job(
    checkpoint: Checkpoint, anatomy: Anatomy, texts: Sequence[str], layers: tuple[int, ...], options: Options
) -> ScreenJob:
    from bertprobe.screen.masked import masked, masked_output

    runner = open_runner(checkpoint, anatomy, options.compute, needs=frozenset({HIDDEN}))
    output = masked_output(runner)
    encoded = list(masked(_encoded(runner, texts, None, options.truncate), runner.tokenizer, output.mask, options.seed))
    if not encoded:
        raise NotFound("no text has a token to be masked", "name texts, or files with texts")
    count = sum(int((text.ids == output.mask).sum()) for text in encoded)
    return ScreenJob(runner, replace(output, per_text=count / len(encoded)), encoded, layers, options)


def output_by_default(checkpoint: Checkpoint, anatomy: Anatomy) -> str:
    """What is looked at where nobody says: the vector of the model's own recipe, else the pooled output, else the mean.

    A model with a recipe of its own is used by it, whatever its pooler puts out.
    """
    if recipe_of(checkpoint).declared:
        return SENTENCE
    return "mean" if anatomy.pooler is None else "pooled"


def _encoded(runner: Runner, texts: Sequence[str], sentence: Sentence | None, truncate: bool) -> Iterator[Encoded]:
    if sentence is None:
        return runner.encoded(texts, truncate=truncate)
    longest, cut = sentence.cut(runner.engine.longest, truncate)
    return runner.encoded(sentence.texts(texts), truncate=cut, longest=longest)


def layers_of(anatomy: Anatomy, layers: str | None) -> tuple[int, ...]:
    """The layers whose neurons are screened; raises `PartMissing` where there is none, or they have no numbers."""
    if not anatomy.of("intermediate"):
        raise PartMissing("there is no intermediate module", "look at what there is with: bertprobe inspect --shapes")
    if not anatomy.layers:  # as Funnel's, in blocks
        raise PartMissing("its layers are not numbered through", "choose a model of another family")
    there = anatomy.layers
    return there if layers is None else tuple(sorted(layer_numbers(layers, there)))
