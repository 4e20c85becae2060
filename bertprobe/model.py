"""A checkpoint to work with: `bertprobe.open("model")`. What is asked for is read when it is asked for, and kept.

Letters: N texts, S tokens of a text, H hidden size, I intermediate size.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bertprobe.anatomy import Anatomy, Part, find_parts, select
from bertprobe.builtin import POCKET
from bertprobe.checkpoint import Checkpoint, LocalFile, open_checkpoint, read_tensors
from bertprobe.errors import PartMissing, printable
from bertprobe.shown import ReprMixin
from bertprobe.verdicts import Evidence, Finding, judge, worst_first

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from bertprobe.corpus import Corpus
    from bertprobe.lens import NeuronLens, TextLens
    from bertprobe.neurons.folder import ScanFolder
    from bertprobe.neurons.probe import Probes
    from bertprobe.neurons.probe.job import ProbeOptions
    from bertprobe.neurons.scan import Kept
    from bertprobe.recipe import Recipe
    from bertprobe.report import Report
    from bertprobe.run import Ablation, Collector, Compute, Ran
    from bertprobe.run.runner import Reach, Runner
    from bertprobe.screen import Screen
    from bertprobe.stats.numbers import Numbers

    Floats = npt.NDArray[np.float32]

Layers = str | int | Sequence[int] | None
"""Layers as the command line has them (`"0,3-5,-1"`), a number, several numbers, or None for all."""


def open(
    ref: str | os.PathLike[str] = POCKET,
    *,
    subfolder: str = "",
    weights: str = "",
    root: str = "",
    download: bool = False,
    tokenizer: str | os.PathLike[str] | None = None,
) -> Model:
    """Opens a checkpoint to work with, reading headers only: `bertprobe.open("model")`.

    Args:
        ref: a folder, a weights file, a model on the Hub, or `pocket`, the built-in model.
        subfolder: a folder in it.
        weights: the weights file in it, where it has several.
        root: which model of a file that holds several, by the keys it lies under or how the names of its tensors begin.
        download: whether to put a model on the Hub whole into its local cache; what runs texts does so by itself.
        tokenizer: where the tokenizer lies, if not beside the weights: a folder, or one of its files, which goes before
            the tokenizer.json beside it.

    Raises:
        BertprobeError: as `open_checkpoint` and `find_parts` do.
    """
    checkpoint = open_checkpoint(
        os.fspath(ref), subfolder=subfolder, weights=weights, root=root, download=download, tokenizer=tokenizer
    )
    return Model(checkpoint, find_parts(checkpoint))


class Parts(tuple[Part, ...], ReprMixin):
    """Parts of a model, in order; a notebook shows them as a table."""

    __slots__ = ()


class Findings(tuple[Finding, ...], ReprMixin):
    """Findings, the worst first; a notebook shows them with their hints."""

    __slots__ = ()

    @property
    def is_alarming(self) -> bool:
        """Whether one of them is a warning or worse: what `--strict` asks."""
        return any(finding.severity in ("error", "warning") for finding in self)


class Dense(NamedTuple):
    """The numbers of a dense layer as they are stored, neurons as rows; `bias` is None where it has none."""

    weight: npt.NDArray[Any]
    bias: npt.NDArray[Any] | None


@dataclass(frozen=True, slots=True, eq=False)
class Activations:
    """What intermediate modules put out for texts.

    `tokens` holds the tokens of each text; `values` a matrix (S, I) of each text, by the label of the part.
    `found[3]` is short for `found.values["intermediate.3"]`. Where layers share a module, as in ALBERT, its later calls
    stand under labels such as `intermediate.0 (call 1)`; gated families have `gate.3`, too.
    """

    tokens: tuple[tuple[str, ...], ...]
    values: Mapping[str, tuple[Floats, ...]]

    def __getitem__(self, layer: int) -> tuple[Floats, ...]:
        label = f"intermediate.{layer}"
        if label not in self.values:
            raise PartMissing(f"layer {layer} was not recorded", f"there is {printable(', '.join(self.values))}")
        return self.values[label]

    def __repr__(self) -> str:
        return f"<Activations of {_count(len(self.tokens), 'text')}: {printable(', '.join(self.values))}>"


@dataclass(frozen=True, eq=False, repr=False)
class Model(ReprMixin):
    """A checkpoint and what it is made of; made by `bertprobe.open`.

    Weights are read when something needs them, texts are run when some are given: opening costs headers only.
    """

    checkpoint: Checkpoint
    anatomy: Anatomy

    @cached_property
    def parts(self) -> Parts:
        """Its modules: gates and intermediate modules by layer, then the pooler."""
        return Parts(self.anatomy.parts)

    @property
    def layers(self) -> tuple[int, ...]:
        """The numbers of its layers."""
        return self.anatomy.layers

    @cached_property
    def numbers(self) -> Mapping[str, Numbers]:
        """What was measured of every tensor of the parts, by canonical name; reads them once."""
        from bertprobe.measurement import measure_parts

        return measure_parts(self.anatomy.parts)

    @cached_property
    def statistics(self) -> Mapping[str, Mapping[str, Any]]:
        """Statistics of every tensor of the parts: `model.statistics["pooler.dense.weight"]["mp_edge_ratio"]`.

        Names are canonical, those of transformers' base model; docs/statistics.md explains the numbers.
        """
        from bertprobe.stats.table import statistics

        return {name: statistics(numbers) for name, numbers in self.numbers.items()}

    @cached_property
    def findings(self) -> Findings:
        """What there is to know of it and its recipe, the worst first; reads the weights of the parts once."""
        from bertprobe.recipe.rules import beside_weights

        found = judge(Evidence(self.checkpoint, self.anatomy, self.numbers))
        return Findings(worst_first([*found, *beside_weights(self.recipe)]))

    @cached_property
    def pooler(self) -> Dense:
        """The pooler's weight (H, H) and bias (H,), as stored; raises `PartMissing` where there is none."""
        from bertprobe.anatomy.poolers import require_pooler

        return _dense(require_pooler(self.checkpoint, self.anatomy))

    def intermediate(self, layer: int) -> Dense:
        """A layer's up-projection (I, H) and its bias (I,), as stored; -1 is the last layer.

        Raises:
            PartMissing: there is no such layer.
        """
        return _dense(self._one("intermediate", layer))

    def gate(self, layer: int) -> Dense:
        """The gate beside it, in gated families: the half that goes through the activation, (I, H) and (I,).

        Raises:
            PartMissing: there is no such layer, or the family is not gated.
        """
        return _dense(self._one("gate", layer))

    @cached_property
    def recipe(self) -> Recipe:
        """How a text becomes the model's vector, by the settings files beside the weights; nothing else is read."""
        from bertprobe.recipe import recipe_of

        return recipe_of(self.checkpoint)

    @cached_property
    def fingerprint(self) -> str | None:
        """What it is by its numbers, 64 hexadecimal digits, whatever format they lie in; reads every tensor once.

        It is that of `inspect --all`, documented in docs/exports.md; None where a tensor cannot be read.
        """
        from bertprobe.fingerprint import fingerprints
        from bertprobe.measurement import measure_others, others_of

        found = {**self.numbers, **measure_others(others_of(self.anatomy, self.parts))}
        known = {name: numbers.fingerprint for name, numbers in found.items()}
        return fingerprints(self.anatomy, self.parts, known).model

    def pool(
        self,
        texts: str | Iterable[str],
        *,
        vector: str = "pooled",
        prompt: str | None = None,
        pairs: bool = False,
        truncate: bool = False,
        compute: Compute | None = None,
        ablate: str | Ablation | None = None,
    ) -> Floats:
        """One vector for each text, in their order: (N, H) float32; of `sentence` as wide as `recipe.width`.

        Args:
            texts: texts, or a single one, which gives one row; any number of them.
            vector: `pooled`, what the pooler puts out; `cls`, the first token's last hidden state; `mean`, the mean of
                all tokens' last hidden states; `sentence`, the one that the recipe makes, which is that of
                sentence-transformers' `encode`. It cuts longer texts where the recipe says, and does not refuse them.
            prompt: of `sentence`, the name of one of the model's prompts, or a text to put before each text; None for
                the model's own default, `""` for none.
            pairs: whether to take the texts two by two.
            truncate: whether to cut texts that are too long instead of refusing them.
            compute: where and in which precision; None chooses what suits the texts.
            ablate: neurons to take out, such as `"3.1203,7:0-100"`, which sets them to zero, or what `ablation` gave.

        Raises:
            PartMissing: the pooled output of a model without a pooler, or a neuron that is not there.
            UnsupportedFile: a step of the recipe is one that is not run here.
            ValueError: `vector` is none of the four, or `pairs` or `prompt` do not go with it.
        """
        import numpy as np

        from bertprobe.run import SENTENCE, VECTORS, Vectors, require_vector

        if vector not in (*VECTORS, SENTENCE):
            raise ValueError(f"vector is {vector!r}; it may be {', '.join(VECTORS)} or {SENTENCE}")
        if vector == SENTENCE:
            if pairs:
                raise ValueError("a sentence vector is of one text, not of a pair")
            return self._sentences(texts, prompt, truncate, compute, self._ablation(ablate))
        if prompt is not None:
            raise ValueError("a prompt goes with vector='sentence'; put it into the texts")
        require_vector(self.checkpoint, self.anatomy, vector)
        vectors = Vectors(vector)
        self.run(texts, vectors, truncate=truncate, pairs=pairs, compute=compute, ablate=ablate)
        return np.empty((0, self.anatomy.widths[0] or 0), np.float32) if vectors.array is None else vectors.array

    def _sentences(
        self,
        texts: str | Iterable[str],
        prompt: str | None,
        truncate: bool,
        compute: Compute | None,
        ablation: Ablation | None,
    ) -> Floats:
        import numpy as np

        from bertprobe.run import Compute, open_runner
        from bertprobe.run.sentence import SentenceVectors, open_sentence, run_sentences, tokenizer_for

        known = [texts] if isinstance(texts, str) else list(texts)
        here = self._here
        sentence = open_sentence(here, self.recipe, tokenizer_for(here, self.recipe), prompt)
        vectors = SentenceVectors(sentence)
        runner = open_runner(
            here,
            find_parts(here),
            compute or Compute(),
            known,
            needs=vectors.needs,
            tokenizer=sentence.tokenizer,
            ablation=ablation,
        )
        run_sentences(runner, sentence, known, vectors, truncate=truncate)
        return np.empty((0, self.recipe.width or 0), np.float32) if vectors.array is None else vectors.array

    def activations(
        self,
        texts: str | Iterable[str],
        layers: Layers = None,
        *,
        before: bool = False,
        truncate: bool = False,
        compute: Compute | None = None,
        ablate: str | Ablation | None = None,
    ) -> Activations:
        """What the intermediate modules put out for each token of each text.

        Args:
            texts: texts, or a single one; all matrices are kept in memory.
            layers: which layers, None for all.
            before: whether to take the values before the activation.
            truncate: whether to cut texts that are too long instead of refusing them.
            compute: where and in which precision; None chooses what suits the texts.
            ablate: neurons to take out, such as `"3.1203,7:0-100"`, which sets them to zero, or what `ablation` gave.

        Raises:
            PartMissing: there is no such layer or neuron.
            BadSetting: all layers asked for stand before the neurons that are taken out.
        """
        from bertprobe.run import Matrices

        parts = select(self.anatomy, ["intermediate"], _layer_list(layers))
        if not parts:
            raise PartMissing("there is no intermediate module", "look at model.parts")
        matrices = Matrices({part.label for part in parts}, before=before)
        ablation = self._ablation(ablate)
        if ablation is not None:
            ablation.check_seen(self.anatomy, matrices.needs)
        self.run(texts, matrices, truncate=truncate, compute=compute, ablate=ablation)
        return Activations(matrices.tokens, {site.label: found for site, found in matrices.kept.items()})

    def lens(
        self,
        texts: str | Iterable[str],
        layers: Layers = None,
        *,
        top: int = 5,
        word: str | None = None,
        position: int | None = None,
        ablate: str | Ablation | None = None,
        compute: Compute | None = None,
    ) -> tuple[TextLens, ...]:
        """What the masked-language-model head makes of the hidden states of masked tokens after every layer.

        The head is made for the last layer, where it is what the model says; what it says of others is a reading.
        Without a head the word embeddings alone are asked, and no probabilities are told.

        Args:
            texts: texts with a masked token, such as `[MASK]` or `<mask>`, or a single one.
            layers: after which layers, None for all and what the embeddings put out, which is `embeddings` in a list.
            top: entries of each list.
            word: one whose rank is wanted after each layer; it must be one piece of the vocabulary.
            position: the number of the token to look at, instead of the masked ones.
            ablate: neurons to take out, such as `"3.1203,7:0-100"`, which sets them to zero, or what `ablation` gave;
                the untouched model is read beside it.
            compute: where and in which precision; None chooses what suits the texts.

        Raises:
            PartMissing: there is no such layer or neuron.
            UnsupportedFile: the head is of a form that is not known.
            BertprobeError: a text has no masked token, or the word is not one piece.
        """
        from bertprobe.lens import LensWish, lens_of_texts
        from bertprobe.run import STATES, ablated

        known = [texts] if isinstance(texts, str) else list(texts)
        untouched = self._runner(known, compute, frozenset({STATES}))
        ablation = self._ablation(ablate)
        wish = LensWish(_layer_list(layers), top, word, position)
        runner = ablated(untouched, ablation)
        return lens_of_texts(runner, known, wish, None if ablation is None else untouched).texts

    def lens_of_neurons(self, neurons: str, *, top: int = 5) -> tuple[NeuronLens, ...]:
        """Neurons in the vocabulary: what their output columns promote and suppress, and their input rows' neighbours.

        Args:
            neurons: such as `3.1203,7:0-100`.
            top: entries of each list.

        Raises:
            PartMissing: there is no such neuron.
            BertprobeError: nothing can be said of a neuron, with the reason.
        """
        from bertprobe.anatomy.neurons import parse_neurons
        from bertprobe.lens import lens_of_neurons
        from bertprobe.run.runner import tokenizer_of

        here = self._here
        anatomy = find_parts(here)
        return lens_of_neurons(anatomy, tokenizer_of(here), parse_neurons(neurons, anatomy), top)

    def run(
        self,
        texts: str | Iterable[str],
        *collectors: Collector,
        truncate: bool = False,
        pairs: bool = False,
        compute: Compute | None = None,
        ablate: str | Ablation | None = None,
    ) -> Ran:
        """Runs texts and shows collectors what they need, as `run_texts` does; `bertprobe.run` has the collectors.

        With `ablate` neurons are taken out, such as `"3.1203,7:0-100"`.

        Raises:
            BertprobeError: a text is too long, comes to no tokens, or has no partner.
            PartMissing: a neuron is not there.
        """
        from bertprobe.run import ablated, needs_of, run_texts

        known = [texts] if isinstance(texts, str) else list(texts)  # a single text is one text, not its letters
        runner = ablated(self._runner(known, compute, needs_of(collectors)), self._ablation(ablate))
        return run_texts(runner, known, *collectors, truncate=truncate, pairs=pairs)

    def ablation(self, neurons: str, *, means: str | os.PathLike[str] | None = None) -> Ablation:
        """Neurons to take out of this model while it runs: to zero, or to their means over a scan of it.

        Args:
            neurons: `"3.1203,7:0-100"` is neuron 1203 of layer 3 and the first 101 of layer 7; `"7"` all of layer 7.
            means: the folder of a scan of this model; None sets them to zero.

        Raises:
            BadSetting: this is no list of neurons, or the scan is not done or of an ablated model.
            PartMissing: a neuron is not there, or its layer was not scanned.
            NotFound: there is no such scan, or it is of another model.
        """
        from bertprobe.neurons.ablation import ablation_from

        return ablation_from(neurons, self.checkpoint if means is None else self._here, self.anatomy, means)

    def _ablation(self, ablate: str | Ablation | None) -> Ablation | None:
        return self.ablation(ablate) if isinstance(ablate, str) else ablate

    def scan(
        self,
        corpus: Corpus,
        path: str | os.PathLike[str],
        layers: Layers = None,
        *,
        kept: Kept | None = None,
        truncate: bool = False,
        embed_text: bool = False,
        compute: Compute | None = None,
        ablate: str | Ablation | None = None,
    ) -> ScanFolder:
        """What a corpus does to every neuron of the intermediate modules, as `bertprobe neurons scan` writes it.

        Called again with the same words it goes on where it was, or gives what is done.

        Args:
            corpus: from `open_corpus`.
            path: a new folder, or that of a scan to go on with.
            layers: which layers, None for all.
            kept: how much to keep of each neuron, and the thresholds above which tokens are counted.
            truncate: whether to cut texts that are too long instead of refusing them.
            embed_text: whether the folder is to have the texts of its examples, so that it needs no corpus.
            compute: where and in which precision; None chooses torch where it can.
            ablate: neurons to take out, such as `"3.1203,7:0-100"`, which sets them to zero, or what `ablation` gave.

        Raises:
            OutputError: the folder holds something else, or a scan that differs.
            PartMissing: there is no such layer or neuron.
            BertprobeError: a text is too long, or a row of the corpus bad.
        """
        from bertprobe.neurons.folder import open_scan
        from bertprobe.neurons.job import prepare_scan
        from bertprobe.neurons.opening import Options
        from bertprobe.neurons.scan import Kept
        from bertprobe.run import Compute

        options = Options(
            kept or Kept(),
            _layer_list(layers),
            truncate=truncate,
            embed_text=embed_text,
            compute=compute or Compute(),
            ablation=self._ablation(ablate),
        )
        here = self._here
        prepare_scan(here, find_parts(here), corpus, Path(path), options).run()
        return open_scan(path)

    def screen(
        self,
        texts: str | Iterable[str],
        output: str | None = None,
        layers: Layers = None,
        *,
        exact: int = 16,
        drawn: int = 16,
        truncate: bool = False,
        compute: Compute | None = None,
    ) -> Screen:
        """What taking out every neuron would change in an output, from one backward pass a text, on torch.

        Args:
            texts: texts, or a single one; some hundred give a ranking.
            output: `pooled`, `cls`, `mean` or `sentence`; None is `sentence` where the model has a recipe of its own,
                else `pooled`.
            layers: whose neurons, None for all.
            exact: how many of the strongest are taken out one by one, a run of all texts each.
            drawn: how many of the rest, drawn.
            truncate: whether to cut texts that are too long instead of refusing them.
            compute: where and in which precision; `float32` on two threads or more suits.

        Raises:
            PartMissing: there is no such layer, or no pooler for `pooled`.
            UnsupportedFile: a layer has no gradients, or numpy was asked for.
        """
        from bertprobe.run import Compute
        from bertprobe.screen import Options, output_by_default, prepare_screen

        here = self._here
        anatomy = find_parts(here)
        options = Options(
            output or output_by_default(here, anatomy),
            _layer_list(layers),
            exact,
            drawn,
            truncate=truncate,
            compute=compute or Compute(),
        )
        known = [texts] if isinstance(texts, str) else list(texts)
        return prepare_screen(here, anatomy, known, options).run()

    def probe(self, corpus: Corpus, options: ProbeOptions | None = None) -> Probes:
        """Which neurons of the intermediate modules tell the labels of a corpus, as `bertprobe neurons probe` finds it.

        Args:
            corpus: from `open_corpus` with a `label_field`, and with a `words_field` where words have labels.
            options: which layers and pieces, how much to hold out, the ridge, and how to compute.

        Raises:
            BadSetting: the corpus has no labels, or a setting cannot be meant.
            PartMissing: there is no such layer.
            UnsupportedFile: the sums have no room in this machine's memory.
            BertprobeError: there are no two labels, a text is too long, or a row of the corpus bad.
        """
        from bertprobe.neurons.probe.job import prepare_probe

        here = self._here
        return prepare_probe(here, find_parts(here), corpus, options).run()

    def atlas(self, scan: ScanFolder, path: str | os.PathLike[str], most: int = 10, *, force: bool = False) -> int:
        """Writes one page with all neurons of a scan of this model, as `bertprobe neurons atlas` does; gives its bytes.

        Args:
            scan: from `scan`, or from `open_scan` where it is done.
            path: the page, which ends in .html.
            most: how many entries of a list a card shows, 40 at most.
            force: whether a file that is there is replaced.

        Raises:
            OutputError: the file is there already, or cannot be written.
            NotFound: the scan is another model's, or has no texts and its corpus is gone.
            BadSetting: `most` is none or too many.
        """
        from bertprobe.export.files import Output
        from bertprobe.neurons.atlas import atlas_of
        from bertprobe.render.html.atlas import check_page, write_atlas

        here, place = self._here, Output(Path(path), force=force)
        check_page(place, scan)
        return write_atlas(atlas_of(scan, here, find_parts(here), most), place)

    def report(self, *, spectrum: bool = False, neurons: int = 0) -> Report:
        """The report of `bertprobe inspect`: facts, statistics, findings; `data` is the JSON contract.

        Args:
            spectrum: whether to look at all singular values, too.
            neurons: how many rows of extreme norm to name.
        """
        from bertprobe.measurement import measure_parts
        from bertprobe.recipe.line import recipe_line
        from bertprobe.recipe.rules import beside_weights
        from bertprobe.report.inspection import inspection

        numbers = measure_parts(self.anatomy.parts, spectrum=True) if spectrum else self.numbers
        evidence = Evidence(self.checkpoint, self.anatomy, numbers)
        findings = worst_first([*judge(evidence), *beside_weights(self.recipe)])
        line = recipe_line(self.recipe)
        return inspection(evidence, self.anatomy.parts, findings, neurons=neurons, recipe=line)

    def as_report(self) -> Report:
        """What a notebook shows: the report as far as it is known, shapes where nothing was measured yet."""
        from bertprobe.report.inspection import inspection

        evidence = Evidence(self.checkpoint, self.anatomy, self.__dict__.get("numbers", {}))
        report = inspection(evidence, self.anatomy.parts, judge(evidence))
        if evidence.numbers or report.findings:
            return report
        return replace(report, views=tuple(view for view in report.views if view.name != "findings"))

    def __repr__(self) -> str:
        hidden, inner = self.anatomy.widths
        pooler = "with a pooler" if self.anatomy.pooler else "without a pooler"
        layers = _count(len(self.layers), "layer")
        return (
            f"<Model {printable(self.checkpoint.ref)}: {printable(self.anatomy.family)}, {layers}, "
            f"hidden {hidden}, intermediate {inner}, {pooler}>"
        )

    def _one(self, role: str, layer: int) -> Part:
        found = [part for part in select(self.anatomy, ["intermediate"], str(layer)) if part.role == role]
        if not found:
            raise PartMissing(f"layer {layer} has no {role}", "look at model.parts")
        return next((part for part in found if part.stack is None), found[0])

    def _runner(self, texts: Sequence[str], compute: Compute | None, needs: frozenset[str]) -> Runner:
        """The encoder as deep as it is needed; kept for texts that are not longer than those it was chosen by."""
        from bertprobe.run import Compute
        from bertprobe.run.runner import open_runner, reach

        compute = compute or Compute()
        characters = sum(map(len, texts))
        key = (compute, reach(self.anatomy, needs))
        most, runner = self._runners.get(key, (-1, None))
        if runner is None or characters > most:
            here = self._here
            runner = open_runner(here, find_parts(here), compute, texts, needs=needs)
            self._runners[key] = (characters, runner)
        return runner

    @cached_property
    def _runners(self) -> dict[tuple[Compute, Reach], tuple[int, Runner]]:
        return {}

    @cached_property
    def _here(self) -> Checkpoint:
        """The checkpoint on this disk; a model on the Hub is fetched, at the commit that was opened."""
        if isinstance(self.checkpoint.files[0], LocalFile):
            return self.checkpoint
        apart = (
            self.checkpoint.home is not self.checkpoint.settings
        )  # the weights lie a folder below what describes them
        place = self.checkpoint.home.resolved if apart else self.checkpoint.resolved
        here = open_checkpoint(place, root=self.checkpoint.root, download=True)
        tokenizer = self.checkpoint.tokenizer if self.checkpoint.has_foreign_tokenizer else here.tokenizer
        return replace(here, ref=self.checkpoint.ref, tokenizer=tokenizer)


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _layer_list(layers: Layers) -> str | None:
    if layers is None or isinstance(layers, str):
        return layers
    numbers: Iterator[int] = iter((layers,) if isinstance(layers, int) else layers)
    return ",".join(str(number) for number in numbers)


def _dense(part: Part) -> Dense:
    dense = {name: header for name, header in (("weight", part.weight), ("bias", part.bias)) if header is not None}
    if "weight" not in dense:
        raise PartMissing(f"{printable(part.label)} has no weight", "look at model.parts")
    found = dict(read_tensors(dense))
    return Dense(found["weight"], found.get("bias"))
