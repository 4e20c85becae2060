"""The reports of `neurons scan`, `merge`, `list` and `show`: what a corpus does to neurons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from bertprobe.neurons.ablation import ablated_in
from bertprobe.neurons.beside import MovedRow
from bertprobe.neurons.card import Card, Example
from bertprobe.neurons.embedded import sizes_of
from bertprobe.neurons.folder import ScanFolder
from bertprobe.neurons.listing import ALWAYS, LayerRow, NeuronRow, Wanted
from bertprobe.report import Column, Report, View, report_of
from bertprobe.report.ablation import ablation_node, with_data
from bertprobe.report.lens import neuron_views, vocabulary_nodes

if TYPE_CHECKING:
    from bertprobe.report import nodes

BEFORE = "before 0"
"""The threshold that is zero before the activation, as a key."""
AROUND = 7  # tokens on either side of an example that a table shows; the data have more


def scanned(folder: ScanFolder, layers: Sequence[LayerRow]) -> Report:
    """The report of `neurons scan` and `neurons merge`: what was read, and a line a layer."""
    data = {**beginning(folder), "layers": [_layer(folder, row) for row in layers]}
    return report_of(data, [_layer_view(folder, data["layers"])])


def listing(folder: ScanFolder, layers: Sequence[LayerRow], neurons: Sequence[NeuronRow], title: str) -> Report:
    """The report of `neurons list`."""
    told = [_neuron(folder, row) for row in neurons]
    data = {**beginning(folder), "layers": [_layer(folder, row) for row in layers], "neurons": told}
    return report_of(data, [_layer_view(folder, data["layers"]), _neuron_view(folder, told, title)])


def listing_beside(report: Report, other: ScanFolder, moved: Sequence[MovedRow]) -> Report:
    """The report of `neurons list` with the neurons that differ most from those of another scan of the corpus."""
    rows: list[nodes.MovedScanNeuron] = [
        {
            "name": row.name,
            "layer": row.layer,
            "neuron": row.neuron,
            "mean": row.mean,
            "mean_beside": row.mean_beside,
            "std": row.std,
            "std_beside": row.std_beside,
            "mean_moved": row.mean_moved,
            "std_moved": row.std_moved,
        }
        for row in moved
    ]
    columns = (
        Column("neuron", ("name",), "text"),
        Column("mean", ("mean",), "real"),
        Column("beside", ("mean_beside",), "real"),
        Column("moved", ("mean_moved",), "real"),
        Column("std", ("std",), "real"),
        Column("beside", ("std_beside",), "real"),
        Column("moved", ("std_moved",), "real"),
    )
    title = f"neurons that differ most from {other.path}; moved: in standard deviations of that scan"
    view = View("moved", title, columns, tuple(rows))
    report = with_data(report, {"beside": beginning(other)["scan"], "moved": rows})
    return replace(report, views=(*report.views, view))


def beginning(folder: ScanFolder) -> dict[str, Any]:
    """The model that was scanned and what the scan read, with which each of these reports begins."""
    manifest = folder.manifest
    done, sizes = folder.state.done, sizes_of(manifest, folder.state)
    ablation = ablated_in(manifest)
    counts: nodes.ScanCounts = {
        "path": str(folder.path),
        "complete": manifest["complete"],
        "documents": sum(shard.documents for shard in done),
        "tokens": sum(shard.tokens for shard in done),
        "truncated": sum(shard.truncated for shard in done),
        "skipped": sum(shard.skipped for shard in done),
        "thresholds": list(folder.kept.thresholds),
        "bytes_a_neuron": None if sizes is None else {"examples": sizes.examples, "texts": sizes.texts},
        "verify": manifest["verify"],
    }
    if ablation is not None:
        counts["ablated"] = ablation.told
        counts["ablation"] = ablation_node(ablation)
    return {"model": manifest["model"]["ref"], "scan": counts}


def _layer(folder: ScanFolder, row: LayerRow) -> nodes.ScannedLayer:
    names = [BEFORE, *map(str, folder.kept.thresholds)]
    return {
        "label": row.label,
        "layer": row.layer,
        "neurons": row.neurons,
        "never": dict(zip(names, row.never, strict=True)),
        "always": row.always,
        "mean": row.mean,
        "max": row.max,
    }


def _neuron(folder: ScanFolder, row: NeuronRow) -> nodes.ScannedNeuron:
    return {
        "name": row.name,
        "layer": row.layer,
        "neuron": row.neuron,
        "mean": row.mean,
        "std": row.std,
        "min": row.min,
        "max": row.max,
        "above_zero": row.above_zero,
        "before_above_zero": row.before_above_zero,
        "over": dict(zip(map(str, folder.kept.thresholds), row.over, strict=True)),
        "selectivity": row.selectivity,
    }


def _layer_view(folder: ScanFolder, layers: Sequence[nodes.ScannedLayer]) -> View:
    columns = [
        Column("layer", ("label",), "place"),
        Column("neurons", ("neurons",), "integer", 2),
        Column("never > 0", ("never", BEFORE), "integer"),
        *(Column(f"never > {t:g}", ("never", str(t)), "integer", 1) for t in folder.kept.thresholds),
        Column("on", ("always",), "integer"),
        Column("mean", ("mean",), "real", 1),
        Column("max", ("max",), "real"),
    ]
    title = f"neurons that never are above a threshold, and those above 0 on {ALWAYS:.0%} of the tokens"
    return View("layers", title, tuple(columns), tuple(layers))


def _neuron_view(folder: ScanFolder, neurons: Sequence[nodes.ScannedNeuron], title: str) -> View:
    columns = (
        Column("neuron", ("name",), "text"),
        Column("selective", ("selectivity",), "real"),
        Column("mean", ("mean",), "real"),
        Column("std", ("std",), "real", 2),
        Column("min", ("min",), "real", 3),
        Column("max", ("max",), "real"),
        Column("> 0", ("above_zero",), "share"),
        *(Column(f"> {t:g}", ("over", str(t)), "share", 1) for t in folder.kept.thresholds),
    )
    return View("neurons", title, columns, tuple(neurons))


# ------------------------------------------------------------------------------------------------ a card


def card_report(folder: ScanFolder, card: Card, beside: Sequence[tuple[ScanFolder, Card]] = ()) -> Report:
    """The report of `neurons show`; `beside` are cards of the same neuron in other scans."""
    neuron = _neuron(folder, card.row)
    others = [_beside(card, other, theirs) for other, theirs in beside]
    data = {
        **beginning(folder),
        "neuron": neuron,
        "label": card.label,
        "deciles": list(card.deciles),
        "positions": [asdict(stretch) for stretch in card.stretches],
        "strongest": _examples(card.strongest),
        "negative": _examples(card.negative),
        "of_deciles": [None if one is None else _example(one) for one in card.of_deciles],
        "random": _examples(card.random),
        **vocabulary_nodes(card.lens),
        "together": [asdict(one) for one in card.together],
        "beside": others,
    }
    largest = max(abs(card.row.max), abs(card.row.min)) or 1
    views = [
        _neuron_view(folder, [neuron], f"neuron {card.row.name}"),
        _example_view("strongest", "strongest tokens", data["strongest"], largest),
        *(
            _example_view(f"beside_{i}", _beside_title(other), other["strongest"], largest)
            for i, other in enumerate(others, 1)
        ),
        _decile_view(data["of_deciles"], card.deciles, largest),
        _example_view("random", "tokens drawn at random", data["random"], largest),
        _example_view("negative", "most negative before the activation", data["negative"], 0),
        *neuron_views(card.lens, both=False),
        _together_view(data["together"], len(card.strongest)),
        _position_view(data["positions"]),
    ]
    return report_of(data, [view for view in views if view.rows])


def _beside(card: Card, other: ScanFolder, theirs: Card) -> nodes.NeuronBeside:
    """The strongest tokens of another scan, and which pieces are among the strongest in both."""
    ours, known = ({one.tokens[one.place] for one in found.strongest} for found in (card, theirs))
    return {
        "path": str(other.path),
        "strongest": _examples(theirs.strongest),
        "pieces": sorted(ours & known),
        "share": len(ours & known) / max(len(ours | known), 1),
    }


def _beside_title(other: nodes.NeuronBeside) -> str:
    shared = ", ".join(other["pieces"][:8]) or "none"
    return f"strongest tokens in {other['path']}; pieces in both: {shared} ({other['share']:.0%} of all)"


def _examples(examples: Sequence[Example]) -> list[nodes.NeuronExample]:
    return [_example(one) for one in examples]


def _example(one: Example) -> nodes.NeuronExample:
    return {
        "document": one.document,
        "file": one.file,
        "row": one.row,
        "position": one.position,
        "value": one.value,
        "tokens": list(one.tokens),
        "place": one.place,
    }


def spoken(tokens: Sequence[str], place: int, around: int = AROUND) -> str:
    """Pieces as one reads them, with the one at `place` in brackets: of `ad`, `##air` the second is `ad[air]`."""
    start = max(place - around, 0)
    while start and tokens[start].startswith("##"):
        start -= 1
    text = ""
    for number, token in enumerate(tokens[start : place + around + 1], start):
        joined = token.startswith("##")
        piece = token.removeprefix("##").replace("▁", " ").replace("Ġ", " ")
        piece = f"[{piece.strip()}]" if number == place else piece
        text += piece if joined or (token[:1] in ("▁", "Ġ") and number != place) else f" {piece}"
    return text.strip()


def _example_view(name: str, title: str, examples: Sequence[nodes.NeuronExample], largest: float) -> View:
    rows = tuple(
        {
            **one,
            "bar": one["value"] / largest if largest and one["value"] is not None else None,
            "text": spoken(one["tokens"], one["place"]),
        }
        for one in examples
    )
    columns = [Column("value", ("value",), "real")]
    if largest:
        columns.append(Column("−      0      +", ("bar",), "bar"))
    columns.append(Column("token in its text", ("text",), "text"))
    return View(name, title, tuple(columns), rows)


def _decile_view(examples: Sequence[nodes.NeuronExample | None], deciles: Sequence[float], largest: float) -> View:
    rows = tuple(
        {
            "tenth": number,
            "below": below,
            "value": one and one["value"],
            "text": "" if one is None else spoken(one["tokens"], one["place"], AROUND - 2),
        }
        for number, (one, below) in enumerate(zip(examples, deciles[1:], strict=True), 1)
    )
    columns = (
        Column("tenth", ("tenth",), "integer"),
        Column("up to", ("below",), "real"),
        Column("value", ("value",), "real"),
        Column("a token of it", ("text",), "text"),
    )
    return View("deciles", "a tenth of the activations each, and a token drawn from it", columns, rows)


def _together_view(together: Sequence[nodes.NeuronTogether], most: int) -> View:
    columns = (
        Column("neuron", ("name",), "text"),
        Column("shared", ("shared",), "integer"),
        Column("correlation", ("correlation",), "real"),
    )
    title = "neurons that share its strongest tokens, or go with it over the tokens drawn"
    return View("together", title, columns, tuple(together))


def _position_view(stretches: Sequence[nodes.NeuronStretch]) -> View:
    rows = tuple(
        {**one, "at": str(one["first"]) if one["last"] == one["first"] else f"{one['first']}–{one['last'] or ''}"}
        for one in stretches
    )
    columns = (
        Column("position", ("at",), "text"),
        Column("tokens", ("tokens",), "integer"),
        Column("mean", ("mean",), "real"),
    )
    return View("positions", "its mean by position in the text", columns, rows)


def title_of(wanted: Wanted) -> str:
    """What a list of neurons holds, in words."""
    dead = "is above 0 before the activation" if wanted.dead_at == 0 else f"is above {wanted.dead_at:g}"
    kinds = {
        "selective": "selective neurons: how many deviations their strongest tokens lie above their mean",
        "dead": f"dead neurons: no token of the corpus {dead}",
        "always": f"neurons above 0 on {ALWAYS:.0%} of the tokens or more",
        "all": "neurons",
    }
    return kinds[wanted.kind] + ("" if wanted.sort is None else f", by {wanted.sort}")
