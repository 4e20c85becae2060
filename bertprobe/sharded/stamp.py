"""The stamp of a run: how far its model's numbers are from transformers', on texts of the corpus itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from bertprobe.anatomy import Anatomy
from bertprobe.checkpoint import Checkpoint
from bertprobe.corpus import Corpus
from bertprobe.errors import BertprobeError, UnsupportedFile, printable
from bertprobe.run import Runner
from bertprobe.verify import Agreement, verify

TEXTS = 8
LOOKED_AT = 1000  # texts from the beginning, among which are some of a fitting length
CHARACTERS = 400  # of a text that is worth its tokens
FITTING = range(3, 129)  # tokens


@dataclass(frozen=True, slots=True)
class Stamp:
    """How many texts ran through transformers, too, and the largest difference of any of the `parts` compared.

    `limit` is that of the part with the largest difference; `activation` what is in force.
    """

    texts: int
    parts: int
    activation: str | None
    largest_difference: float
    limit: float
    holds: bool


def stamp_of(
    checkpoint: Checkpoint,
    anatomy: Anatomy,
    corpus: Corpus,
    runner: Runner,
    concerns: Callable[[str], bool] = lambda part: True,
) -> Stamp | None:
    """Runs a few texts of a corpus through transformers, too; None where it has none that fits, or is read once only.

    Neurons that the runner takes out are taken out there as well.

    `concerns` tells which parts of the model are kept. Raises `UnsupportedFile` where one is beyond its limit: what
    would be written were not the model's numbers; or where transformers cannot run the model.
    """
    texts = _sample(corpus, runner)
    if not texts:
        return None
    try:
        found = [
            one for one in verify(checkpoint, anatomy, texts, runner.ablation) if concerns(one.part.partition(" ")[0])
        ]
    except BertprobeError as error:
        raise UnsupportedFile(
            f"its numbers cannot be compared with transformers': {error}", "add `verify=False` to go on without"
        ) from error
    odd = next((agreement for agreement in found if not agreement.holds), None)
    if odd is not None:
        raise UnsupportedFile(
            f"{printable(odd.part)} differs from transformers' by {_largest(odd):.2g}",
            "look at it with: bertprobe verify",
        )
    worst = max(found, key=_largest, default=None)
    activations = sorted({part.activation for part in anatomy.of("intermediate", "gate") if part.activation})
    return Stamp(
        len(texts),
        len(found),
        activations[0] if activations else anatomy.config_spec.activation,
        0.0 if worst is None else float(_largest(worst)),
        0.0 if worst is None else float(worst.limit),
        True,
    )


def _largest(found: Agreement) -> float:
    return max((*found.ours.values(), found.alone or 0.0), default=found.theirs or 0.0)


def _sample(corpus: Corpus, runner: Runner) -> list[str]:
    """The first short texts of the corpus that have more than blanks."""
    if any(not file.sha256 for file in corpus.files):
        return []
    found: list[str] = []
    for document in islice(corpus.documents(), LOOKED_AT):
        text = document.text
        if text.strip() and len(text) <= CHARACTERS and len(runner.tokenizer.encode(text)) in FITTING:
            found.append(text)
            if len(found) == TEXTS:
                break
    return found
