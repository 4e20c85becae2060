"""Probes of a labelled corpus: its labels counted, what is learnt from run once, what is held out once.

Memory does not follow the corpus: a layer of I neurons takes I² numbers of 8 bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bertprobe.anatomy import Anatomy
from bertprobe.checkpoint import Checkpoint
from bertprobe.checkpoint.source import machine_memory
from bertprobe.corpus import Corpus
from bertprobe.corpus.files import STDIN
from bertprobe.errors import BadSetting, BertprobeError, UnsupportedFile, printable
from bertprobe.neurons.folder import numbered
from bertprobe.neurons.opening import labels_in
from bertprobe.neurons.probe.align import Counts, Reader
from bertprobe.neurons.probe.collect import PIECES, Items, Pieces, ProbeAnswers, ProbeSums, Right
from bertprobe.neurons.probe.labels import Labelling, Split, Survey, chosen, survey
from bertprobe.neurons.probe.results import LayerProbe, Probes, Scores, Selection
from bertprobe.neurons.probe.solve import Predictor, differences, predictor, probeless_by_label, ranked, ridge
from bertprobe.neurons.probe.sums import BLOCK, Moments
from bertprobe.neurons.shard import Told
from bertprobe.run import Compute, Runner, Site, open_runner, run_batch, run_encoded
from bertprobe.sharded import decided

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Doubles = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]

Advance = Callable[[int, int], None]
"""Called with the texts and tokens of each batch that is done."""

SIZES = (10, 50, 100)
"""How many neurons probes look at that show what a ranking is worth."""
WAITING = 2 * BLOCK  # rows of float32 of every layer that wait to be multiplied, about
DRAWS = 5  # sets of neurons drawn by chance, of which the mean is told
SOLVING = 4  # matrices (I, I) beside the sums, while one layer is solved
MOST = 0.9  # of the machine's memory


@dataclass(frozen=True, slots=True)
class ProbeOptions:
    """How to probe.

    `pieces` says which of a word's pieces or a text's tokens stand for it: `first`, `last` or their `mean`; None is the
    last of a word's pieces, as NeuroX has it, and the mean of a text's tokens. `before` takes values before the
    activation. `held_out` is the share of texts that are not learnt from, `penalty` what ridge regression adds to the
    diagonal of the correlations; `seed` decides who is held out, the control's labels and what is drawn.
    """

    layers: str | None = None
    pieces: Pieces | None = None
    before: bool = False
    held_out: float = 0.2
    penalty: float = 0.1
    seed: int = 0
    truncate: bool = False
    compute: Compute = field(default_factory=Compute)

    def check(self) -> None:
        """Raises `BadSetting` for what cannot be meant."""
        if not 0 <= self.held_out < 1:
            raise BadSetting(f"a share of {self.held_out:g} cannot be held out", "choose one from 0 to below 1")
        if not 0 <= self.penalty < float("inf"):
            raise BadSetting(
                f"a penalty of {self.penalty:g} cannot be meant", "choose `ridge=0.1`, or a number from 0 on"
            )
        if self.pieces not in (None, *PIECES):
            raise BadSetting(f"{printable(str(self.pieces))} are no pieces", f"choose {', '.join(PIECES)}")


@dataclass(frozen=True)
class ProbeJob:
    """A probe that is planned: the labels are counted, the model is open."""

    corpus: Corpus
    options: ProbeOptions
    survey: Survey
    labelling: Labelling
    runner: Runner
    parts: tuple[str, ...]

    @property
    def guessed_tokens(self) -> int:
        """About how many tokens will be run, four characters each."""
        return sum(self.survey.characters) // 4

    @property
    def pieces(self) -> Pieces:
        return self.options.pieces or ("last" if self.corpus.fields.words else "mean")

    @cached_property
    def memory(self) -> int:
        """Bytes that sums and solutions take at the most, beside model and batch."""
        widths = [
            part.weight.shape[0] for part in self.runner.anatomy.parts if part.label in self.parts and part.weight
        ]
        turns = len(self.runner.anatomy.layers) if len(widths) == 1 and self.runner.anatomy.layout.shared else 1
        products = 8 * (turns * sum(width**2 for width in widths) + SOLVING * max(widths, default=0) ** 2)
        return products + 4 * WAITING * turns * sum(widths)

    def check_memory(self) -> None:
        """Raises `UnsupportedFile` where this machine has not as much."""
        if self.memory > MOST * machine_memory():
            raise UnsupportedFile(
                f"the sums of {len(self.parts)} layers take {self.memory / 1e9:,.3g} GB, this machine has "
                f"{machine_memory() / 1e9:,.3g} GB",
                "probe a few layers at a time: `layers=0-3`",
            )

    def run(self, advance: Advance = lambda texts, tokens: None) -> Probes:
        """Learns from the one side of the split, and answers for the other.

        `advance` is called with the texts and tokens of each batch. Raises `BertprobeError` where an activation is NaN
        or infinite, or nothing can be learnt from.
        """
        learnt, held = Counts(), Counts()
        sums = self._summed(learnt, advance)
        solved = {site: Solved.of(sums.found.pop(site).finished(), self.options) for site in list(sums.found)}
        answers = self._answered(solved, held, advance) if self.survey.characters[1] or any(self.survey.held) else {}
        layers = {
            number: solved[site].result(site, number, answers.get(site)) for number, site in numbered(solved).items()
        }
        moments = next(iter(solved.values())).moments
        right = next(iter(answers.values()), None)
        return Probes(
            labels=self.labelling.names,
            layers=layers,
            facts=self._facts(learnt, held, right),
            held_counts=(0,) * len(self.labelling) if right is None else tuple(right.counts[0].tolist()),
            majority=_majority(moments, right, 0),
            control_majority=_majority(moments, right, 1),
        )

    def _summed(self, counts: Counts, advance: Advance) -> ProbeSums:
        items = Items(self.pieces, before=self.options.before)
        sums = ProbeSums(self.parts, items, len(self.labelling))
        texts = items.passing(self._reader(counts).marked(chosen(self.corpus, self._split, held=False)))
        if self.corpus.fields.words:
            # A row for nearly every token: of batches side by side, too many would wait to be added.
            for batch in self.runner.packed(texts):
                run_batch(self.runner, batch, sums)
                advance(len(batch.lengths), len(batch.ids))
        else:
            run_encoded(self.runner, texts, sums, Told(self.parts[0], advance))
        self._check_finite(sums.is_finite)
        if not sums.found:
            raise BertprobeError("no item with a label is left to learn from", "look at the corpus and its labels")
        return sums

    def _answered(self, solved: Mapping[Site, Solved], counts: Counts, advance: Advance) -> Mapping[Site, Right]:
        items = Items(self.pieces, before=self.options.before)
        answers = ProbeAnswers({site: one.predictors for site, one in solved.items()}, items, len(self.labelling))
        texts = items.passing(self._reader(counts).marked(chosen(self.corpus, self._split, held=True)))
        run_encoded(self.runner, texts, answers, Told(self.parts[0], advance))
        self._check_finite(answers.is_finite)
        return answers.found

    @property
    def _split(self) -> Split:
        return Split(self.options.held_out, self.options.seed)

    def _reader(self, counts: Counts) -> Reader:
        return Reader(self.corpus, self.runner, self.labelling, self.options.truncate, counts)

    def _check_finite(self, is_finite: bool) -> None:
        if not is_finite:
            raise BertprobeError(
                f"{printable(self.runner.checkpoint.ref)} puts out NaN or infinity for a text of the corpus",
                "look at its weights with: bertprobe inspect",
            )

    def _facts(self, learnt: Counts, held: Counts, right: Right | None) -> dict[str, Any]:
        both = (learnt, held)
        return {
            "model": self.runner.checkpoint.ref,
            "files": [file.path for file in self.corpus.files],
            "label_field": self.corpus.fields.label,
            "words_field": self.corpus.fields.text if self.corpus.fields.words else None,
            "of": "words" if self.corpus.fields.words else "texts",
            "pieces": self.pieces,
            "before": self.options.before,
            "texts": learnt.texts,
            "held_out_texts": held.texts,
            "items": learnt.items,
            "held_out_items": held.items,
            "tokens": learnt.tokens + held.tokens,
            "unlabelled": self.survey.unlabelled,
            "unknown": 0 if right is None else right.unknown,
            "without_pieces": sum(counts.without_pieces for counts in both),
            "truncated": sum(counts.truncated for counts in both),
            "cut": sum(counts.cut for counts in both),
            "skipped": self.survey.skipped,
            "held_out": self.options.held_out,
            "ridge": self.options.penalty,
            "seed": self.options.seed,
            "backend": self.runner.engine.name,
            "device": self.runner.backend.device,
            "dtype": self.runner.backend.dtype,
        }


def _majority(moments: Moments, right: Right | None, task: int) -> float | None:
    """The share of held-out items that have the most frequent label of those learnt from."""
    if right is None or not right.items:
        return None
    return float(right.counts[task][moments.counts[task].argmax()] / right.items)


# ------------------------------------------------------------------------------------------------ one layer


@dataclass(frozen=True, slots=True, eq=False)
class Solved:
    """A layer solved: its moments without the correlations, weights of both tasks (2, I, K), and all its predictors.

    `selected` are the sizes of the probes that look at few neurons; for each size the predictors have, behind the two
    of both tasks: the first and the last of each ranking, and drawn sets.
    """

    moments: Moments
    weights: Doubles
    predictors: tuple[Predictor, ...]
    selected: tuple[int, ...]

    @classmethod
    def of(cls, moments: Moments, options: ProbeOptions) -> Solved:
        """The layer of these moments, whose correlations are let go."""
        import numpy as np

        targets = moments.targets()
        neurons, labels = targets.shape[1:]
        both = ridge(moments.correlations, targets.transpose(1, 0, 2).reshape(neurons, -1), options.penalty)
        weights = both.reshape(neurons, 2, labels).transpose(1, 0, 2)
        selected = tuple(size for size in SIZES if size < neurons)

        def of_few(columns: Ints) -> Predictor:
            part = moments.correlations[np.ix_(columns, columns)]
            return predictor(moments, ridge(part, targets[0][columns], options.penalty), columns=columns)

        rankings = [
            ranked(np.abs(weights[0]).sum(1)),
            ranked(np.nan_to_num(probeless_by_label(moments.label_means[0])).sum(0)),
        ]
        draw = np.random.default_rng(options.seed)
        predictors = [predictor(moments, weights[task], is_control=bool(task)) for task in (0, 1)]
        for size in selected:
            for ranking in rankings:
                predictors += [of_few(ranking[:size]), of_few(ranking[-size:])]
            predictors += [of_few(np.sort(draw.permutation(neurons)[:size])) for _ in range(DRAWS)]
        return cls(replace(moments, correlations=np.zeros((0, 0))), weights, tuple(predictors), selected)

    def result(self, site: Site, layer: int, right: Right | None) -> LayerProbe:
        moments, probe = self.moments, self.predictors[0]
        apart = differences(moments)
        elsewhere = moments.elsewhere()
        scores = [
            Scores(
                counts=moments.counts[task],
                means=moments.label_means[task],
                elsewhere=elsewhere[task],
                differences=apart[task],
                probeless=probeless_by_label(moments.label_means[task]),
                weights=self.weights[task].T,
            )
            for task in (0, 1)
        ]
        shares = None if right is None or not right.items else (right.of / right.items).tolist()
        return LayerProbe(
            label=site.label,
            layer=layer,
            mean=moments.means,
            std=moments.deviations,
            label_std=moments.label_deviations,
            scores=scores[0],
            control=scores[1],
            coefficients=probe.weights.T,
            intercepts=probe.offsets,
            accuracy=None if shares is None else shares[0],
            control_accuracy=None if shares is None else shares[1],
            recalls=_recalls(right, len(probe.offsets)),
            selections=() if shares is None else tuple(self._selections(shares[2:])),
        )

    def _selections(self, shares: Sequence[float]) -> Iterator[Selection]:
        each = 4 + DRAWS
        for number, size in enumerate(self.selected):
            found = shares[number * each : (number + 1) * each]
            linear, linear_last, probeless, probeless_last, *random = found
            yield Selection(size, linear, linear_last, probeless, probeless_last, sum(random) / DRAWS)


def _recalls(right: Right | None, labels: int) -> tuple[float | None, ...]:
    """Of each label the share of its held-out items that are taken for it."""
    if right is None:
        return (None,) * labels
    return tuple(
        hits / count if count else None
        for hits, count in zip(right.by_label.tolist(), right.counts[0].tolist(), strict=True)
    )


# ------------------------------------------------------------------------------------------------ planning


def prepare_probe(
    checkpoint: Checkpoint, anatomy: Anatomy, corpus: Corpus, options: ProbeOptions | None = None
) -> ProbeJob:
    """Plans probes of a corpus that was opened with a field of labels: reads its labels, and opens the model.

    Raises:
        BadSetting: the corpus has no labels, is stdin, or a setting cannot be meant.
        PartMissing: there is no such layer.
        UnsupportedFile: the rows of the model are not tokens, or the sums have no room in this machine's memory.
        BertprobeError: there are no two labels, or too many; and as `open_runner` does.
    """
    options = options or ProbeOptions()
    options.check()
    if corpus.fields.label is None:
        raise BadSetting("the corpus was opened without labels", "name their field: `label_field=NAME`")
    if any(file.path == STDIN for file in corpus.files):
        raise BadSetting("stdin can be read once only, a probe reads three times", "write it to a file, and name that")
    parts = tuple(labels_in(anatomy, options.layers))
    found = survey(corpus, Split(options.held_out, options.seed))
    labelling = Labelling.of(found, options.seed)
    runner = open_runner(checkpoint, anatomy, decided(options.compute, anatomy, None), needs=frozenset(parts))
    if not runner.engine.rows_are_tokens:
        raise UnsupportedFile(
            f"the rows that {printable(checkpoint.ref)} computes are not tokens, and labels are of tokens",
            "choose a model that keeps a row for each token",
        )
    job = ProbeJob(corpus, options, found, labelling, runner, parts)
    job.check_memory()
    return job
