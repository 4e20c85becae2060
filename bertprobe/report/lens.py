"""The report of `lens`, and what it and the card of a neuron have in common: lists of the vocabulary beside chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bertprobe.anatomy import Anatomy
from bertprobe.checkpoint import Checkpoint
from bertprobe.lens import (
    Guess,
    LayerLens,
    Lensed,
    NeuronLens,
    Null,
    PositionLens,
    RankOfWord,
    VocabularyEntry,
    WordLists,
)
from bertprobe.report import Column, Report, View, facts, report_of
from bertprobe.report.ablation import ablation_node

if TYPE_CHECKING:
    from bertprobe.report import nodes
    from bertprobe.run.ablation import Ablation

# What a rank of random directions is called in tables: the median of them, and what 95 % lie below.
MEDIAN, HIGH = "random", "95 %"


def lens_report(
    checkpoint: Checkpoint,
    anatomy: Anatomy,
    lensed: Lensed | None,
    neurons: Sequence[NeuronLens],
    null: Null,
    ablation: Ablation | None = None,
) -> Report:
    """The report of `lens`: texts through it, neurons through it, or both."""
    texts = [] if lensed is None else lensed.texts
    told: list[nodes.LensText] = [
        {"text": one.text, "tokens": list(one.tokens), "positions": [_position(place) for place in one.positions]}
        for one in texts
    ]
    of: nodes.LensFacts = {
        "transform": None if lensed is None else lensed.transform,
        "is_head": None if lensed is None else lensed.is_head,
        "directions": null.directions,
        "seed": null.seed,
    }
    data: dict[str, Any] = {
        "model": checkpoint.ref,
        "facts": {**facts(checkpoint, anatomy), **({} if lensed is None else lensed.ran.settings)},
        "lens": of,
        "texts": told,
        "neurons": [_neuron(one) for one in neurons],
        **({} if ablation is None else {"ablation": ablation_node(ablation)}),
    }
    views = [] if lensed is None else _text_views(told, of, ablation)
    for one in neurons:
        views += neuron_views(one, of_several=len(neurons) > 1 or lensed is not None)
    return report_of(data, views)


# ------------------------------------------------------------------------------------------------ texts


def _position(position: PositionLens) -> nodes.LensPosition:
    return {
        "position": position.position,
        "token": position.token,
        "layers": [_layer(layer) for layer in position.layers],
    }


def _layer(layer: LayerLens) -> nodes.LensLayer:
    return {
        "layer": layer.layer,
        "name": layer.name,
        "norm": layer.norm,
        "entropy": layer.entropy,
        "beyond": layer.beyond,
        "entries": [_guess(guess) for guess in layer.guesses],
        "word": None if layer.word is None else _word(layer.word),
        "untouched": layer.first_untouched,
    }


def _guess(guess: Guess) -> nodes.LensGuess:
    return {**entry_node(guess.entry), "logit": guess.logit, "untouched": guess.untouched}


def _word(word: RankOfWord) -> nodes.LensWord:
    return {
        "token": word.token,
        "rank": word.rank,
        "logit": word.logit,
        "probability": word.probability,
        "untouched": word.untouched,
        "untouched_probability": word.untouched_probability,
    }


def _text_views(texts: Sequence[nodes.LensText], of: nodes.LensFacts, ablation: Ablation | None) -> list[View]:
    positions = [(number, text, place) for number, text in enumerate(texts, 1) for place in text["positions"]]
    rows: list[dict[str, Any]] = [
        {"text": number, "position": place["position"], "token": place["token"], **layer}
        for number, _, place in positions
        for layer in place["layers"]
    ]
    where = _where(texts, positions)
    value = Column("probability" if of["is_head"] else "product", ("value",), "share" if of["is_head"] else "real")
    through = f"{of['transform']}" if of["is_head"] else "word embeddings alone, as there is no head"
    of_one = (
        f"{positions[0][2]['token']} (token {positions[0][2]['position']})" if len(positions) == 1 else "each token"
    )
    summary = View(
        "layers",
        f"{of_one} after each layer, through {through}",
        (*where, *_layer_columns(value, rows, ablated=ablation is not None)),
        tuple({**row, "first": row["entries"][0] if row["entries"] else None} for row in rows),
    )
    entries = tuple({**row, "rank": rank, **entry} for row in rows for rank, entry in enumerate(row["entries"], 1))
    return [
        summary,
        View(
            "entries",
            _entries_title(of, ablation),
            (*where, *_entry_columns(value, ablated=ablation is not None)),
            entries,
        ),
    ]


def _where(texts: Sequence[nodes.LensText], positions: Sequence[Any]) -> list[Column]:
    """Which text and token a row is of, where there are several."""
    text = [Column("text", ("text",), "integer")] if len(texts) > 1 else []
    return [*text, *([Column("token", ("position",), "integer")] if len(positions) > len(texts) else [])]


def _layer_columns(value: Column, rows: Sequence[Mapping[str, Any]], *, ablated: bool) -> list[Column]:
    word = next((row["word"]["token"] for row in rows if row["word"] is not None), None)
    columns = [
        Column("layer", ("name",), "text"),
        Column("first entry", ("first", "token"), "text"),
        Column(value.title, ("first", "value"), value.kind),
        Column(f"{HIGH} of random", ("first", "random", "p95"), value.kind, 1),
        Column("entropy", ("entropy",), "real", 2),
    ]
    if ablated:
        columns.append(Column("first untouched", ("untouched",), "text"))
    if word is not None:
        columns.append(Column(f"rank of {word}", ("word", "rank"), "integer"))
        columns.append(Column("its share", ("word", "probability"), "share", 1))
        if ablated:
            columns.append(Column("untouched", ("word", "untouched"), "integer"))
            columns.append(Column("its share untouched", ("word", "untouched_probability"), "share", 1))
    return columns


def _entry_columns(value: Column, *, ablated: bool) -> list[Column]:
    return [
        Column("layer", ("name",), "text"),
        Column("rank", ("rank",), "integer"),
        Column("entry", ("token",), "text"),
        value,
        *([Column("untouched", ("untouched",), value.kind)] if ablated else []),
        Column(MEDIAN, ("random", "median"), value.kind),
        Column(HIGH, ("random", "p95"), value.kind),
        Column("logit", ("logit",), "real", 2),
    ]


def _entries_title(of: nodes.LensFacts, ablation: Ablation | None) -> str:
    taken = "" if ablation is None else f"; ablated: {ablation.told}"
    return (
        f"its first entries, and what {of['directions']} random directions of the same norm come to at that rank: "
        f"half of them, and 95 %, lie below{taken}"
    )


# ------------------------------------------------------------------------------------------------ neurons


def entry_node(entry: VocabularyEntry) -> nodes.VocabularyEntry:
    """An entry with its value, and what random directions come to at its rank."""
    return {
        "token": entry.token,
        "id": entry.id,
        "value": entry.value,
        "random": {"median": entry.median, "p95": entry.high},
    }


def vocabulary_nodes(lens: NeuronLens) -> nodes.NeuronVocabulary:
    """A neuron in the vocabulary, as JSON has it."""
    near = lens.nearest
    return {
        "nearest": None if near is None else [entry_node(entry) for entry in near.entries],
        "nearest_beyond": None if near is None else near.beyond,
        "head": None if lens.head is None else _lists(lens.head),
        "words": None if lens.words is None else _lists(lens.words),
        "notes": list(lens.notes),
    }


def _neuron(lens: NeuronLens) -> nodes.LensNeuron:
    return {"name": lens.name, "label": lens.label, **vocabulary_nodes(lens)}


def _lists(lists: WordLists) -> nodes.NeuronWordLists:
    return {
        "transform": lists.transform,
        "promoted": [entry_node(entry) for entry in lists.promoted],
        "suppressed": [entry_node(entry) for entry in lists.suppressed],
        "promoted_beyond": lists.promoted_beyond,
        "suppressed_beyond": lists.suppressed_beyond,
    }


def neuron_views(lens: NeuronLens, *, of_several: bool = False, both: bool = True) -> list[View]:
    """Tables of a neuron in the vocabulary; not `both`: the column through the embeddings only where there is no head.

    Where a report is `of_several` neurons, the names of tables have theirs.
    """
    whose, behind = (f"{lens.name}: ", f" {lens.name}") if of_several else ("", "")
    views = []
    if lens.nearest is not None:
        title = f"{whose}its input row among the word embeddings, by cosine: not what it fires on"
        columns = (
            Column("entry", ("token",), "text"),
            Column("cosine", ("value",), "real"),
            Column(MEDIAN, ("random", "median"), "real"),
            Column(HIGH, ("random", "p95"), "real"),
        )
        rows = tuple(map(entry_node, lens.nearest.entries))
        title = f"{title}; {lens.nearest.beyond} of {len(rows)} lie beyond 95 % of random directions"
        views.append(View(f"nearest{behind}", title, columns, rows))
    for name, lists in (("head", lens.head), ("words", lens.words if both or lens.head is None else None)):
        if lists is not None:
            views.append(_list_view(f"{name}{behind}", whose, lists))
    if lens.notes:
        title = f"{whose}what is not shown, and why"
        notes = tuple({"note": note} for note in lens.notes)
        views.append(View(f"notes{behind}", title, (Column("note", ("note",), "text"),), notes))
    return views


def _list_view(name: str, whose: str, lists: WordLists) -> View:
    rows = tuple(
        {"promoted": up, "suppressed": down}
        for up, down in zip(map(entry_node, lists.promoted), map(entry_node, lists.suppressed), strict=True)
    )
    columns = tuple(
        column
        for side in ("promoted", "suppressed")
        for column in (
            Column(side, (side, "token"), "text"),
            Column("by", (side, "value"), "real"),
            Column(HIGH, (side, "random", "p95"), "real"),
        )
    )
    beyond = f"{lists.promoted_beyond} promoted and {lists.suppressed_beyond} suppressed"
    title = f"{whose}its output column through {lists.transform}; beyond 95 % of random directions: {beyond}"
    return View(name, title, columns, rows)
