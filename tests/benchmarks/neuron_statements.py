"""Whether a statement on a neuron holds: what taking it out does where the statement says, and elsewhere.

    python tests/benchmarks/neuron_statements.py words BOOKS… [--model pocket]
    python tests/benchmarks/neuron_statements.py sentences BOOKS… --model FOLDER --means SCAN

`words` is for a model with a masked-language-model head: in paragraphs of the books a token that a statement is about
is masked, and in the same paragraphs another one, drawn; told is the probability of the right token with the neuron and
without it, and the mean change of its logarithm with its standard error. `sentences` is for the vector that a model's
recipe makes: told is how far it moves, in paragraphs with a word that a statement is about, in paragraphs with words of
the same field and not that one, and in others. The tables in docs/tasks/follow.md are what it prints.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

import bertprobe
from bertprobe.lens import open_vocabulary
from bertprobe.run import HIDDEN, Compute, Runner, ablated, open_runner, run_encoded
from bertprobe.run.ablation import ablation_of
from bertprobe.screen.masked import MaskedOutput, Predictions, log_softmax
from bertprobe.tokens import Encoded

SHORT, LONG = 60, 300  # characters of a paragraph that is taken
MOST = 200  # places of each kind
GROUP = 60  # paragraphs of each kind

SAID = (
    *("cried", "shouted", "asked", "exclaimed", "repeated"),
    *("muttered", "answered", "replied", "whispered", "interposed"),
)
VERBS = (
    *("tell", "speak", "throw", "see", "get", "take", "say", "give", "make", "know"),
    *("go", "be", "have", "do", "think", "find", "hear", "look", "keep"),
)
Where = Callable[[Sequence[str], int], bool]


@dataclass(frozen=True)
class Words:
    """A neuron, where its statement says that it matters, and that in words."""

    neuron: str
    told: str
    where: Where


@dataclass(frozen=True)
class Field:
    """A neuron of a sentence model, the words that it is said to be about, and others of their field."""

    neuron: str
    told: str
    words: str
    near: str


WORDS = (
    Words("3.224", "digits behind digits", lambda t, i: t[i].startswith("##") and t[i][2:].isdigit()),
    Words("3.487", "mr, mrs, dr before a full stop", lambda t, i: t[i] in ("mr", "mrs", "dr") and t[i + 1] == "."),
    Words("3.400", "verbs of speech but said", lambda t, i: t[i] in SAID),
    Words("3.422", "infinitives behind to", lambda t, i: t[i - 1] == "to" and t[i] in VERBS),
    Words("3.255", "she, her", lambda t, i: t[i] in ("she", "her")),
)
FIELDS = (
    Field("0.605", "game", r"\bgames?\b", r"\b(play|cards|hunt|shoot)\w*\b"),
    Field(
        "1.1162", "about a number", r"\babout (a|two|three|five|six|ten|twenty|\d+)\b", r"\b(two|three|five|six|ten)\b"
    ),
    Field("5.256", "size", r"\b(size|bigger|smaller|larger)\b", r"\b(large|little|great|huge|tiny)\b"),
    Field("5.745", "signal", r"\bsignal\w*\b", r"\b(sign|beckoned|whistle|waved)\b"),
    Field("5.93", "price", r"\bprices?\b", r"\b(costs?|cheap|expensive|charged)\b"),
)


def paragraphs(books: Sequence[str]) -> list[str]:
    lines = (line for book in books for line in Path(book).read_text(encoding="utf-8").splitlines())
    found = [line.strip() for line in lines if SHORT < len(line) < LONG]
    random.Random(0).shuffle(found)
    return found


# ------------------------------------------------------------------------------------------------ words


class Predicted:
    """The model as it is and without a neuron, on texts of which one token each is masked."""

    def __init__(self, model: bertprobe.Model) -> None:
        self.anatomy = model.anatomy
        self.runner = open_runner(model.checkpoint, model.anatomy, Compute("torch"), needs=frozenset({HIDDEN}))
        vocabulary = open_vocabulary(model.anatomy, self.runner.backend)
        word = self.runner.tokenizer.mask_token
        encoded = self.runner.tokenizer.encode(word)
        self.mask = int(encoded.ids[encoded.tokens.index(word)])
        self._output = MaskedOutput(vocabulary, vocabulary, self.mask)

    def changes(self, neuron: str, masked: Sequence[tuple[Encoded, int]]) -> tuple[float, float, float, float]:
        """Mean probability of the right tokens with the neuron and without, mean change of the logarithm, its error."""
        right = [token for _, token in masked]
        texts = [text for text, _ in masked]
        with_it = self._logs(self.runner, texts)[np.arange(len(right)), right]
        without = self._logs(ablated(self.runner, ablation_of(neuron, self.anatomy)), texts)[
            np.arange(len(right)), right
        ]
        change = without - with_it
        means = (float(np.exp(logs).mean()) for logs in (with_it, without))
        return *means, float(change.mean()), float(change.std(ddof=1) / len(change) ** 0.5)  # type: ignore[return-value]

    def _logs(self, runner: Runner, texts: Sequence[Encoded]) -> npt.NDArray[np.float64]:
        kept = Predictions(self._output)
        run_encoded(runner, texts, kept)
        return log_softmax(kept.array)

    def masked(self, text: Encoded, place: int) -> tuple[Encoded, int]:
        ids = text.ids.copy()
        ids[place] = self.mask
        return replace(text, ids=ids), int(text.ids[place])


def words(model: bertprobe.Model, texts: Sequence[str]) -> None:
    predicted = Predicted(model)
    for statement in WORDS:
        there, elsewhere = [], []
        for text in predicted.runner.encoded(texts, truncate=True):
            inside = range(1, len(text) - 1)
            places = [i for i in inside if statement.where(text.tokens, i)]
            others = [i for i in inside if i not in places and text.tokens[i] != "[UNK]"]
            if places and others:
                there.append(predicted.masked(text, places[0]))
                elsewhere.append(predicted.masked(text, random.Random(len(there)).choice(others)))
            if len(there) == MOST:
                break
        for told, masked in ((statement.told, there), ("other tokens there", elsewhere)):
            before, after, change, error = predicted.changes(statement.neuron, masked)
            shares = f"{before:6.1%} → {after:6.1%}"
            print(
                f"{statement.neuron:<7} {told:<32} {len(masked):>4}  {shares}  {change:+.3f} ± {error:.3f}", flush=True
            )


# ------------------------------------------------------------------------------------------------ sentences


def sentences(model: bertprobe.Model, texts: Sequence[str], means: str) -> None:
    for field in FIELDS:
        has, near = (re.compile(pattern, re.I).search for pattern in (field.words, field.near))
        without = [text for text in texts if not has(text)]
        groups = {
            field.told: [text for text in texts if has(text)][:GROUP],
            "words of its field": [text for text in without if near(text)][:GROUP],
            "others": [text for text in without if not near(text)][:GROUP],
        }
        ablation = model.ablation(field.neuron, means=means)
        for told, group in groups.items():
            vectors, moved = (
                model.pool(group, vector="sentence", ablate=ablate, truncate=True).astype("f8")
                for ablate in (None, ablation)
            )
            far = np.linalg.norm(moved - vectors, axis=1)
            error = far.std(ddof=1) / len(far) ** 0.5
            print(f"{field.neuron:<7} {told:<20} {len(group):>4}  moves {far.mean():.4f} ± {error:.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("words", "sentences"))
    parser.add_argument("books", nargs="+")
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--means", default="")
    given = parser.parse_args()
    model, texts = bertprobe.open(given.model), paragraphs(given.books)
    if given.kind == "words":
        words(model, texts)
    else:
        sentences(model, texts, given.means)


if __name__ == "__main__":
    main()
