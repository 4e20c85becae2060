"""The figures of a report by name: title, how to read one, and what it needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from bertprobe.errors import shortened
from bertprobe.render.words import four_digits
from bertprobe.report.nodes import Page


@dataclass(frozen=True, slots=True)
class Figure:
    """A row of `FIGURES`: its title, a caption that says how to read it and where its scales end, what it needs.

    `absent` says why there may be nothing to draw; `legend` is the colour scale its panels share; `columns` are those
    of the figure as a file.
    """

    name: str
    title: str
    caption: Callable[[Page], str]
    absent: str
    columns: int = 4
    legend: Literal["", "map", "both ways"] = ""
    needs_texts: bool = False


def _of_layer(data: Page) -> str:
    pooler = "the pooler stands once, at the end" if data["layer"]["pooler"] else "a pooler would stand at the end"
    return (
        "From top to bottom, what happens to a text: S is the number of its tokens, shapes are this model's. The "
        f"intermediate module stands {data['layer']['position']}, in every layer; {pooler}."
    )


def _of_weights(data: Page) -> str:
    found = [part["histogram"] for part in data["parts"] if part["histogram"] and part["histogram"]["counts"]]
    if not found:
        return ""
    width = found[0]["width"]
    reach = max(abs(end) for h in found for end in (h["start"], h["start"] + width * len(h["counts"])))
    return (
        "How often each weight occurs, every matrix on the same two axes. Shares go by their logarithm, so that a "
        "single weight far out is seen. Dashed: a normal distribution of the same mean and standard deviation; fresh "
        "weights follow it, training makes the tails heavier. "
        f"The axis ends at ±{four_digits(reach)}, a bin is {four_digits(width)} wide.{_beyond(data)}"
    )


def _beyond(data: Page) -> str:
    """How many weights the axis leaves out, of the first few parts that have such."""
    counts = [(p["label"], p["histogram"]["below"] + p["histogram"]["above"]) for p in data["parts"] if p["histogram"]]
    told = [f"{count:,} of {label}" for label, count in counts if count]
    return f" Weights beyond it: {shortened(told)}." if told else ""


def _of_norms(data: Page) -> str:
    far = next((part["row_norms"]["outlying_beyond"] for part in data["parts"] if part["row_norms"]), math.inf)
    return (
        "Each row of a matrix is a neuron; its norm says how strongly it listens. Shares go by their logarithm, all "
        f"matrices are on the same axes. Diamonds are neurons more than {far:g} robust standard deviations from "
        "the median, the farthest three by number; an arrow: the norm is beyond the axis, which ends no later than at "
        "four times the largest median."
    )


def _of_spectrum(data: Page) -> str:
    return (
        "The singular values of each matrix, from the largest on, in units of the Marchenko–Pastur edge: the line at "
        "1, where those of random numbers of the same size and scale end. Dashed: what such noise looks like. Points "
        "far above the line at the left are what training has written; a matrix that keeps to the dashed curve is "
        "untrained."
    )


def _of_heat(data: Page) -> str:
    return (
        "How strongly each layer's intermediate module responds to each token: root mean square of its activations. "
        "Hover over a cell for its number and its strongest neurons; the tables below have all of them. "
        "Colours go by the square root, on one scale for all texts."
    )


def _of_pooled(data: Page) -> str:
    return (
        "Every number of the pooler's output, in reading order; at the left the first dimension of each row. tanh "
        "keeps them between −1 and 1, where the scale ends."
    )


def _of_similarity(data: Page) -> str:
    return (
        "The cosine of every two texts, by three vectors that people mistake for each other. Which texts are alike "
        "depends on the vector you choose. The scale goes from −1 to 1."
    )


FIGURES: dict[str, Figure] = {
    row.name: row
    for row in (
        Figure("layer", "The two modules in their places", _of_layer, "", 1),
        Figure("weights", "Weights", _of_weights, "no matrix has finite weights"),
        Figure("neurons", "Neurons", _of_norms, "no matrix has finite rows"),
        Figure("spectrum", "Singular values", _of_spectrum, "no matrix has a spectrum"),
        Figure("tokens", "Layers × tokens", _of_heat, "this family's rows are not tokens", 3, "map", True),
        Figure("pooled", "Pooled vectors", _of_pooled, "there is no pooler", 2, "both ways", True),
        Figure("similarity", "How alike the texts are", _of_similarity, "it takes two texts", 3, "both ways", True),
    )
}
