"""The stamp of a run: how far its model's numbers are from transformers', on texts of the corpus itself."""

from __future__ import annotations

from itertools import islice
from typing import Any

from bertprobe.anatomy import Anatomy
from bertprobe.checkpoint import Checkpoint
from bertprobe.errors import UnsupportedFile, printable
from bertprobe.extract.shard import Work
from bertprobe.verify import verify

TEXTS = 3
LOOKED_AT = 1000  # texts from the beginning, among which are some of a fitting length
FITTING = range(3, 129)  # tokens


def stamped(checkpoint: Checkpoint, anatomy: Anatomy, work: Work) -> dict[str, Any]:
    """Runs a few texts of the corpus through transformers, too, and gives the largest difference of any part.

    Raises `UnsupportedFile` where one is beyond its limit: what would be written were not the model's numbers.
    """
    found = work.encoded(islice(work.corpus.documents(), LOOKED_AT))
    fitting = (
        document.text
        for chunk, encoded in found
        for document, text in zip(chunk, encoded, strict=True)
        if len(text) in FITTING and not text.truncated
    )
    texts = list(islice(fitting, TEXTS))
    agreements = verify(checkpoint, anatomy, texts or ["a"])
    odd = next((agreement for agreement in agreements if not agreement.holds), None)
    if odd is not None:
        raise UnsupportedFile(
            f"{printable(odd.part)} differs from transformers' by {max(odd.ours.values(), default=odd.batch):.2g}",
            "look at it with: bertprobe verify",
        )
    differences = [difference for one in agreements for difference in (*one.ours.values(), one.alone or 0.0)]
    return {
        "texts": len(texts) or 1,
        "parts": len(agreements),
        "largest_difference": float(max(differences, default=0.0)),
        "largest_limit": float(max((one.limit for one in agreements), default=0.0)),
    }
