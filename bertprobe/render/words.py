"""Facts, values and findings in words, for the formats that people read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from bertprobe.builtin import POCKET
from bertprobe.errors import printable, shortened
from bertprobe.report import Column

if TYPE_CHECKING:
    from bertprobe.report.nodes import (
        AdapterFacts,
        Facts,
        FileSize,
        Fingerprints,
        ProbeFacts,
        RecipeFacts,
        ScanCounts,
        ScreenCounts,
        Summary,
        Truncated,
    )

Row = TypeVar("Row", bound=Mapping[str, Any])

NOT_GOOD = ("untrained", "probably untrained", "undecided", "cannot tell", "flattened")  # verdicts that stand out
SHADES = " ░▒▓█"
DIGITS = 12  # of a fingerprint
SHORT = 11  # of one among many
BAR = 8  # cells to either side of zero


def fact_lines(model: str, facts: Facts) -> list[tuple[str, str]]:
    """Label and text of each fact worth a line, safe to print."""
    lines = [
        ("model", _model(model, facts)),
        ("family", f"{facts['family']}; recognised by {facts['recognised_by']} (row {facts['layout']})"),
        ("layers", _shape(facts)),
        ("parameters", f"{facts['parameters']:,}, stored as {_dtypes(facts['dtypes'])}"),
        ("files", f"{_files(facts['files'])}; read {_size(facts['bytes_read'])} of {_size(facts['bytes_total'])}"),
        *([("recipe", facts["recipe"])] if "recipe" in facts else []),
        *([("fingerprint", _fingerprint(facts["fingerprint"]))] if "fingerprint" in facts else []),
        *([("run", _run(facts))] if "backend" in facts else []),
        *([("ablated", facts["ablated"])] if "ablated" in facts else []),
        *(
            [("truncated", _truncated(facts["truncated"], "recipe" in facts))]
            if facts.get("truncated", {}).get("texts")
            else []
        ),
        *(("note", note) for note in (*facts["notes"], *facts.get("tokenizer_notes", ()))),
    ]
    return [(label, printable(text)) for label, text in lines]


PAIRS = {"a": "b", "donor": "recipient"}  # under which the data of a report have two models


def report_name(data: Mapping[str, Any]) -> str:
    """The model a report is about, or its two models."""
    pair = next(((one, other) for one, other in PAIRS.items() if one in data), None)
    return str(data["model"]) if pair is None else " and ".join(str(data[key]["model"]) for key in pair)


def report_lines(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The lines above a report's tables: the facts of its model, or of its two models what is alike only once."""
    pair = next(((one, other) for one, other in PAIRS.items() if one in data), None)
    if "steps" in data:
        return _recipe_lines(str(data["model"]), data["facts"])
    if "targets" in data:
        return _adapter_lines(str(data["model"]), data["facts"])
    if "probe" in data:
        return _probe_lines(str(data["model"]), data["probe"])
    if "scan" in data:
        return _scan_lines(str(data["model"]), data["scan"])
    if "screen" in data:
        return [*fact_lines(str(data["model"]), data["facts"]), *_screen_lines(data["screen"])]
    if pair is None:
        return fact_lines(str(data["model"]), data["facts"])
    names = [key.upper() if len(key) == 1 else key for key in pair]
    facts = [data[key]["facts"] for key in pair]
    sides = [dict(fact_lines(str(data[key]["model"]), data[key]["facts"])) for key in pair]
    lines = [
        (name, printable(_model(data[key]["model"], data[key]["facts"], "")))
        for key, name in zip(pair, names, strict=True)
    ]
    for label in ("family", "layers", "parameters", "files"):
        one, other = sides[0][label], sides[1][label]
        lines += [(label, one)] if one == other else [(f"{label} {names[0]}", one), (f"{label} {names[1]}", other)]
    for name, of in zip(names, facts, strict=True):
        lines += [(f"note {name}", printable(note)) for note in of["notes"]]
    if data.get("texts"):
        notes = (*data["texts"]["notes"], *([data["texts"]["unlike"]] if data["texts"]["unlike"] else []))
        lines += [("note", printable(note)) for note in notes]
    return [*lines, *([("compared", _compared(data["summary"]))] if "summary" in data else [])]


def _scan_lines(model: str, scan: ScanCounts) -> list[tuple[str, str]]:
    cut = f", {scan['truncated']:,} cut" if scan["truncated"] else ""
    skipped = f", {scan['skipped']:,} rows left out" if scan["skipped"] else ""
    under_way = "" if scan["complete"] else "; under way"
    counts = f"{scan['documents']:,} texts, {scan['tokens']:,} tokens{cut}{skipped}{under_way}"
    lines = [("model", printable(model)), ("scan", f"{printable(scan['path'])}: {counts}")]
    if "ablated" in scan:
        lines.append(("ablated", printable(scan["ablated"])))
    sizes = scan["bytes_a_neuron"]
    if sizes is not None and sizes["texts"] is not None:
        texts, examples = (_size(round(size)) for size in (sizes["texts"], sizes["examples"]))
        lines.append(("texts", f"{texts} a neuron, beside {examples} of references and values"))
    stamp = scan["verify"]
    if stamp is None:
        return lines
    holds = "within" if stamp["holds"] else "NOT within"
    told = f"{stamp['activation']}; {stamp['texts']} texts {holds} {stamp['limit']:.1e} of transformers"
    return [*lines, ("verified", f"{printable(told)}: {stamp['largest_difference']:.1e}")]


def _screen_lines(screen: ScreenCounts) -> list[tuple[str, str]]:
    passes = "a backward pass" if screen["directions"] == 1 else f"{screen['directions']} backward passes"
    texts = f"{screen['texts']:,} text{'' if screen['texts'] == 1 else 's'}"
    counts = f"{texts}, {screen['tokens']:,} tokens, {passes} each"
    lines = [
        ("screen", f"{screen['neurons']:,} neurons set to {screen['instead']} on {counts}: {screen['seconds']:.2g} s")
    ]
    if screen["seconds_of_one"] is not None:
        again = f"{screen['seconds_of_one']:.2g} s a neuron, {_times(screen['times_faster'])} as long for all"
        lines.append(("one by one", f"{screen['reruns']:,} of them: {again}"))
    if screen["correlation"] is not None:
        parts = {"strongest": screen["correlation_of_strongest"], "drawn": screen["correlation_of_drawn"]}
        told = ", ".join(f"{value:.3f} of those {name}" for name, value in parts.items() if value is not None)
        lines.append(("agreement", f"Spearman's {screen['correlation']:.3f} of estimate and exact ({told})"))
    return lines


def _times(factor: float | None) -> str:
    return "–" if factor is None else f"{factor:,.0f} times"


def _probe_lines(model: str, probe: ProbeFacts) -> list[tuple[str, str]]:
    baseline = [
        f"{whose} most frequent label is right of {100 * share:.1f} %"
        for whose, share in (("the", probe["majority"]), ("the control's", probe["control_majority"]))
        if share is not None
    ]
    lines = [
        ("model", model),
        ("learnt from", _learnt(probe)),
        *([("left out", left)] if (left := _left_out(probe)) else []),
        *([("truncated", f"{probe['truncated']:,} texts")] if probe["truncated"] else []),
        ("values", _values(probe)),
        ("probe", f"least squares to labels, ridge {probe['ridge']:g}, seed {probe['seed']}"),
        *([("baseline", "; ".join(baseline))] if baseline else []),
        *(("note", note) for note in probe["notes"]),
        *([("written", probe["written"])] if probe["written"] else []),
    ]
    return [(label, printable(text)) for label, text in lines]


def _learnt(probe: ProbeFacts) -> str:
    def count(items: int, texts: int) -> str:
        return f"{items:,} words of {texts:,} texts" if probe["of"] == "words" else f"{items:,} texts"

    held = f"; held out {count(probe['held_out_items'], probe['held_out_texts'])}" if probe["held_out_items"] else ""
    return count(probe["items"], probe["texts"]) + held


def _left_out(probe: ProbeFacts) -> str:
    counts = (
        (probe["unlabelled"], f"{probe['of']} without a label"),
        (probe["skipped"], "rows that cannot be read"),
        (probe["cut"], "words of which pieces were cut off"),
        (probe["without_pieces"], "words without a piece"),
    )
    return ", ".join(f"{count:,} {what}" for count, what in counts if count)


def _values(probe: ProbeFacts) -> str:
    whole, part = ("word", "piece") if probe["of"] == "words" else ("text", "token")
    which = f"the mean of a {whole}'s {part}s" if probe["pieces"] == "mean" else f"a {whole}'s {probe['pieces']} {part}"
    return f"{which}, {'before' if probe['before'] else 'after'} the activation"


def _recipe_lines(model: str, facts: RecipeFacts) -> list[tuple[str, str]]:
    lines = [("model", _model(model, facts)), ("recipe", facts["recipe"]), *(("note", note) for note in facts["notes"])]
    return [(label, printable(text)) for label, text in lines]


def _adapter_lines(model: str, facts: AdapterFacts) -> list[tuple[str, str]]:
    base = facts["base_model"] or "a model that nothing names"
    numbers = [
        *([f"rank {', '.join(map(str, facts['ranks']))}"] if facts["ranks"] else []),
        *([f"alpha {facts['alpha']:g}"] if facts["alpha"] is not None else []),
        *([f"scaling {four_digits(facts['scaling'])}"] if facts["scaling"] is not None else []),
        *(["alpha / √rank"] if facts["rslora"] else []),
        *(["DoRA"] if facts["dora"] else []),
    ]
    layers = [words_of_layers(facts["layers"])] if facts["layers"] else []
    lines = [
        ("adapter", _model(model, facts)),
        ("base model", base),
        ("method", ", ".join([facts["method"], *numbers])),
        *([("targets", "; ".join([", ".join(facts["target_modules"]), *layers]))] if facts["target_modules"] else []),
        *([("saved whole", ", ".join(facts["modules_to_save"]))] if facts["modules_to_save"] else []),
        ("parameters", f"{facts['parameters']:,}, stored as {_dtypes(facts['dtypes'])}"),
        ("files", f"{_files(facts['files'])}; read {_size(facts['bytes_read'])} of {_size(facts['bytes_total'])}"),
        *(("note", note) for note in facts["notes"]),
    ]
    return [(label, printable(text)) for label, text in lines]


def words_of_layers(numbers: Sequence[int]) -> str:
    """Numbers of layers, runs drawn together: `layers 0-11`."""
    runs = [label.removeprefix("layer.") for label in spans([f"layer.{number}" for number in numbers])]
    return f"layer{'s' * (len(numbers) > 1)} {', '.join(runs)}"


def _compared(summary: Summary) -> str:
    """How many tensors are in both, how many differ, and how many only one has."""
    if summary["identical"] is None:
        return f"{summary['tensors']:,} tensors by their shapes; none was read"
    differ = summary["tensors"] - summary["identical"]
    words = f"{summary['tensors']:,} tensors: {summary['identical']:,} identical, {differ:,} differ"
    if summary["tolerance"]:
        words += f", {summary['further']:,} of them by more than {summary['tolerance']:g}"
    return words + (f"; {summary['apart']:,} are in one only, or in other shapes" if summary["apart"] else "")


def _model(
    model: str, facts: Facts | RecipeFacts | AdapterFacts, hint: str = "; name another for a full-size one"
) -> str:
    if model == POCKET:
        return f"{POCKET} (the built-in model{hint})"
    commit = f" at commit {facts['revision'][:12]}" if facts["revision"] else ""
    place = facts["resolved"].replace(f"@{facts['revision']}", "") if commit else facts["resolved"]
    if model in (facts["resolved"], place, place.removeprefix("hf://")):
        return f"{place}{commit}"
    return f"{model} → {place}{commit}"


def _run(facts: Facts) -> str:
    return f"{facts['backend']} on {facts['device']} in {facts['dtype']}, tokens by {facts['tokenizer']}"


def _truncated(found: Truncated, by_recipe: bool) -> str:
    texts, tokens = (f"{found[kind]:,} {kind[: -1 if found[kind] == 1 else None]}" for kind in ("texts", "tokens"))
    return f"{texts} to what the {'recipe' if by_recipe else 'model'} takes; {tokens} left out"


def _shape(facts: Facts) -> str:
    hidden, inner = facts["hidden_size"], facts["intermediate_size"]
    words = [
        f"{facts['layers']}",
        f"hidden {hidden:,}" if hidden is not None else "hidden size unknown",
        f"intermediate {inner:,}" if inner is not None else "intermediate size unknown",
        f"activation {facts['activation']}" if facts["activation"] else "activation unknown (no config says)",
    ]
    return ", ".join(words)


def _fingerprint(found: Fingerprints) -> str:
    """The first digits of each: the whole is in JSON."""
    told = [("model", found["model"]), ("encoder", found["encoder"]), ("pooler", found["pooler"])]
    if found["encoder"] is None:
        told.insert(0, ("intermediate", found["intermediate"]))
    return ", ".join(f"{what} {digits[:DIGITS]}" for what, digits in told if digits) or "not all could be read"


def _dtypes(dtypes: Mapping[str, int]) -> str:
    if len(dtypes) == 1:
        return next(iter(dtypes))
    return ", ".join(f"{dtype} ({count} tensor{'s' * (count > 1)})" for dtype, count in dtypes.items())


def _files(files: list[FileSize]) -> str:
    names = shortened([str(file["name"]) for file in files], 3)
    return names if len(files) == 1 else f"{len(files)} files, {names}"


def _size(count: int) -> str:
    """A size in decimal units, as file managers and the Hub have it."""
    for unit, step in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= step:
            return f"{count / step:.3g} {unit}" if count < 1000 * step else f"{count / step:,.0f} {unit}"
    return f"{count} bytes"


def text_of(column: Column, value: Any) -> str:
    """A value as a table shows it: four digits, thousands apart, shapes as 3072×768, a dash for what is not known."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if column.kind == "shape":
        return "×".join(str(n) for n in value) or "scalar"
    if column.kind == "place":
        return printable(str(value)).replace("intermediate.", "")
    if column.kind == "integer":
        return f"{value:,}"
    if column.kind == "real":
        return four_digits(float(value))
    if column.kind == "digest":
        return str(value)[:SHORT]
    if column.kind == "flag":
        return "yes" if value else "no"
    if column.kind == "share":
        return f"{100 * value:.1f} %"
    if column.kind == "bar":
        return _bar(float(value))
    if column.kind == "heat":
        return "".join(_shade(cell) * 2 for cell in value)
    return printable(str(value))


def _shade(cell: float) -> str:
    """A value from 0 to 1 as a shade; a question mark for what is no number."""
    return SHADES[min(int(cell * len(SHADES)), len(SHADES) - 1)] if math.isfinite(cell) else "?"


def _bar(value: float) -> str:
    """A value from −1 to 1 as a bar to the left or right of a line."""
    size = min(round(abs(value) * BAR), BAR)
    left, right = (size, 0) if value < 0 else (0, size)
    return f"{'█' * left:>{BAR}}│{'█' * right:<{BAR}}"


def four_digits(value: float) -> str:
    """A number with four digits, or with an exponent where it is very large or small."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-4:
        return f"{value:.2e}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{3 - math.floor(math.log10(size)) if size >= 1 else 4}f}" if size >= 0.01 else f"{value:#.3g}"


def spans(labels: Sequence[str]) -> list[str]:
    """Labels with runs of layers drawn together: `intermediate.1` … `intermediate.11` as `intermediate.1-11`."""
    runs: list[tuple[str, int, int]] = []
    plain = []
    for label in labels:
        name, _, number = label.rpartition(".")
        if not number.isdigit():
            plain.append(label)
        elif runs and runs[-1][0] == name and runs[-1][2] == int(number) - 1:
            runs[-1] = (name, runs[-1][1], int(number))
        else:
            runs.append((name, int(number), int(number)))
    return [f"{name}.{a}" if a == b else f"{name}.{a}-{b}" for name, a, b in runs] + plain


def alike(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Findings of one rule on several parts are told once, in the place of the first."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        same = row["evidence"].get("verdict") if row["part"] else row["message"]
        key = (row["rule"], row["severity"], row["hint"], same)
        groups.setdefault(key, []).append(row)
    yield from groups.values()
