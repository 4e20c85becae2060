"""What a comparison allows one to say: a table of rules, each finding with its numbers and a hint."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from statistics import median
from typing import TYPE_CHECKING, Literal

from bertprobe.anatomy import spans
from bertprobe.anatomy.poolers import never_pools, pooler_reader, why_no_pooler
from bertprobe.compare import Comparison, Pair
from bertprobe.errors import command, printable, shortened
from bertprobe.storages import listed
from bertprobe.verdicts import Finding, Observation, Rule, ask, verdict

if TYPE_CHECKING:
    from bertprobe.compare.delta import Delta

UNRELATED_BELOW = 0.1  # cosine of matrices that have nothing to do with each other; of independent noise it is 1/√(m·k)
LEAST_COUNT = 1024  # elements from which a cosine says that much
SOME_MATRICES = 3


def judge(comparison: Comparison) -> tuple[Finding, ...]:
    """Every finding on a comparison, the worst first, in the order of `RULES` within a severity."""
    return ask(RULES, comparison)


# ------------------------------------------------------------------------------------------------ the whole


def identical(comparison: Comparison) -> Iterator[Observation]:
    deltas = [found for _, found in comparison.compared]
    if deltas and not comparison.reshaped and all(found.identical for found in deltas):
        yield Observation(
            None,
            f"{_same_model(comparison)}{_all(comparison)} are {_equal(comparison)}{_apart(comparison)}",
            {"tensors": len(comparison.pairs), "only_a": len(comparison.only_a), "only_b": len(comparison.only_b)},
            "nothing to do: keep either"
            if comparison.fits
            else "nothing to do, unless you miss what only one of them has",
        )


def _same_model(comparison: Comparison, how: str = "") -> str:
    """Where all of both was looked at, and nothing differs, they are one model, in whatever files."""
    if not comparison.fits or comparison.labels is not None:
        return ""
    storages = [of.checkpoint.storage for of in (comparison.a, comparison.b)]
    files = "" if storages[0] == storages[1] else f", {' and '.join(storages)}"
    return f"the same model{how}{files}: "


def settings_differ(comparison: Comparison) -> Iterator[Observation]:
    """Settings that make another vector of one text, whatever the weights."""
    rows = comparison.settings
    if rows:
        told = "; ".join(f"{row.setting}: {row.a or 'none'} in A, {row.b or 'none'} in B" for row in rows)
        yield Observation(
            None,
            f"the settings beside the weights differ, and so do the vectors of a text: {printable(told)}",
            {"settings": [row._asdict() for row in rows]},
            "bertprobe recipe tells of each which file says so",
        )


def _equal(comparison: Comparison) -> str:
    """Equal bits, or equal numbers in other types."""
    types = {(pair.a.stored_as, pair.b.stored_as) for pair in comparison.pairs if pair.a.dtype != pair.b.dtype}
    stored = sorted(types)
    if not stored:
        return "the same, bit for bit"
    return "equal in value, stored as " + ", ".join(f"{a} in A and {b} in B" for a, b in stored)


MUCH = 0.1  # of ‖Δ‖/‖A‖: eight bits for rows of one size, and four bits in small blocks, stay below it


def _rounding_hint(deltas: Iterable[Delta]) -> str:
    if any(found.steps is not None for found in deltas):
        return "they are one model as far as can be told; what changed by less than that rounding is not seen"
    return "they are one model; a tolerance of 0.01 tells such rounding from training"


def same_up_to_rounding(comparison: Comparison) -> Iterator[Observation]:
    deltas = [found for _, found in comparison.compared if not found.identical]
    if not deltas or comparison.reshaped or any(found.rounding is None for found in deltas):
        return
    dtypes = sorted({str(found.rounding) for found in deltas})
    holders = {found.rounded for found in deltas} - {"both"}
    to = listed(dtypes, "and")
    said = {
        frozenset("b"): f"B is A rounded to {to}",
        frozenset("a"): f"A is B rounded to {to}",
    }.get(frozenset(holders), f"A and B differ, but round to the same {to} numbers")
    changes = [(found.change, pair.name) for pair, found in comparison.compared if found.change is not None]
    largest, where = max(changes, default=(None, ""))
    much = (
        f", most of all {printable(where)}, by {100 * largest:.0f} %" if largest is not None and largest > MUCH else ""
    )
    yield Observation(
        None,
        f"{_same_model(comparison, ' up to rounding')}{said}: {len(deltas):,} of {len(comparison.pairs):,} tensors "
        f"differ, by no more than that{much}"
        f"{_apart(comparison)}",
        {
            "dtypes": dtypes,
            "tensors": len(deltas),
            "of": len(comparison.pairs),
            "largest_change": largest,
            "largest_steps": max((found.steps for found in deltas if found.steps is not None), default=None),
        },
        _rounding_hint(deltas),
    )


def shapes_differ(comparison: Comparison) -> Iterator[Observation]:
    a, b = comparison.a.anatomy, comparison.b.anatomy
    differing = []
    for what, one, other in (
        ("layers", len(a.layers), len(b.layers)),
        ("hidden size", a.widths[0], b.widths[0]),
        ("intermediate size", a.widths[1], b.widths[1]),
    ):
        if one != other:
            differing.append(f"{what} {one} in A, {other} in B")
    if not differing and not comparison.reshaped:
        return
    rows = [pair for pair in comparison.pairs if pair.rows is not None]
    parts = [*differing, *([_reshaped(comparison)] if comparison.reshaped else [])]
    can = f"{len(comparison.pairs):,} tensors can be compared" if comparison.pairs else "none can be compared"
    if rows:
        can += f", of {printable(shortened([pair.name for pair in rows], 2))} the rows that both have"
    yield Observation(
        None,
        f"{'; '.join(parts)}: {can}",
        {
            "reshaped": {name: [list(x.shape), list(y.shape)] for name, (x, y) in comparison.reshaped.items()},
            "compared": len(comparison.pairs),
            "layers": [len(a.layers), len(b.layers)],
        },
        "the table 'not in both' lists them; equal names mean equal places, not equal origin",
    )


def _reshaped(comparison: Comparison) -> str:
    name, (a, b) = next(iter(comparison.reshaped.items()))
    shapes = " in A, ".join("×".join(map(str, header.shape)) or "scalar" for header in (a, b))
    more = len(comparison.reshaped) - 1
    return f"{printable(name)} is {shapes} in B" + (f", and {more} more have other shapes" if more else "")


def unrelated(comparison: Comparison) -> Iterator[Observation]:
    cosines = [found.cosine for _, found in _matrices(comparison) if found.cosine is not None]
    if len(cosines) >= SOME_MATRICES and (middle := median(cosines)) < UNRELATED_BELOW:
        yield Observation(
            None,
            f"A and B are unrelated: the median cosine of {len(cosines)} matrices is {middle:.3f}, as of any two",
            {"median_cosine": middle, "matrices": len(cosines), "below": UNRELATED_BELOW},
            "compare with the checkpoint that training began from",
        )


def became_not_finite(comparison: Comparison) -> Iterator[Observation]:
    for pair, found in comparison.compared:
        if found.nonfinite_mismatch:
            yield Observation(
                pair.place.label,
                f"{printable(pair.name)} has {found.nonfinite_mismatch:,} of {found.count:,} entries that are NaN or "
                "infinite in one of the two only",
                {"tensor": pair.name, "nonfinite_mismatch": found.nonfinite_mismatch, "count": found.count},
                "the training run diverged or a cast overflowed: go back to an earlier checkpoint",
            )


# ------------------------------------------------------------------------------------------------ the pooler


def pooler_lost(comparison: Comparison) -> Iterator[Observation]:
    here, there = (of.anatomy.pooler is not None for of in (comparison.a, comparison.b))
    if not here or there or _left_out(comparison, "pooler") or never_pools(comparison.b.anatomy):
        return
    reason, saved_by = why_no_pooler(comparison.b.checkpoint, comparison.b.anatomy)
    a, b = (of.checkpoint.ref for of in (comparison.a, comparison.b))
    yield Observation(
        "pooler",
        f"A has a pooler, B has none: {reason}",
        {"architectures": saved_by, "verdict_a": _verdict(comparison, "a")},
        f"put A's back if you need pooler_output: {command('bertprobe', 'graft', a, b, '-o', 'DIR')}"
        if not _is_untrained(comparison, "a")
        else f"do not use pooler_output: A's is {_verdict(comparison, 'a')}, too; take mean pooling or the first token",
    )


def pooler_reinitialised(comparison: Comparison) -> Iterator[Observation]:
    a, b = (of.checkpoint.ref for of in (comparison.a, comparison.b))
    for found in _poolers(comparison):
        words = [_verdict(comparison, which) for which in ("a", "b")]
        others = [d.cosine for p, d in _matrices(comparison) if p.place.piece != "pooler" and d.cosine is not None]
        kept = bool(others) and median(others) > 0.5
        apart = found.cosine is not None and abs(found.cosine) < UNRELATED_BELOW and found.count >= LEAST_COUNT
        lost = words[0] == "trained" and words[1] in ("untrained", "probably untrained")
        if found.identical or not (lost or (apart and kept)):
            continue
        then = "and trained since" if words[1] == "trained" else "and is as good as random"
        yield Observation(
            "pooler",
            f"B's pooler is not A's: it was initialised anew, {then} (cosine {_number(found.cosine)}; A "
            f"{words[0] or 'not told'}, B {words[1] or 'not told'})",
            {"cosine": found.cosine, "verdict_a": words[0], "verdict_b": words[1], "change": found.change},
            _whether_to_graft(comparison, command("bertprobe", "graft", a, b, "-o", "DIR", "--replace")),
        )
        break


def _is_untrained(comparison: Comparison, which: Literal["a", "b"]) -> bool:
    return _verdict(comparison, which) in ("untrained", "probably untrained")


def _whether_to_graft(comparison: Comparison, how: str) -> str:
    """A graft is of use where A's pooler is trained and nothing in B was trained to read B's."""
    reader = pooler_reader(comparison.b.checkpoint, comparison.b.anatomy)
    if reader is not None:
        return f"leave it: {printable(reader)} of B reads B's pooler and was trained with it; another would break it"
    if _is_untrained(comparison, "a"):
        return f"do not put A's back, which is {_verdict(comparison, 'a')}: take mean pooling or the first token"
    return f"{_BACK} {how}"


_BACK = "if that was not meant, a class without a pooler saved the model on the way: put A's back with"


def pooler_unchanged(comparison: Comparison) -> Iterator[Observation]:
    found = [d for pair, d in comparison.compared if pair.place.piece == "pooler"]
    rest = [d for pair, d in comparison.compared if pair.place.piece != "pooler"]
    if found and all(d.is_same for d in found) and any(not d.is_same for d in rest):
        yield Observation(
            "pooler",
            f"the pooler is A's, {_bits(found)}, though {sum(not d.is_same for d in rest):,} other tensors changed",
            {"tensors": len(found), "others_changed": sum(not d.is_same for d in rest)},
            "fine if the task did not use it; if it was meant to be trained, its loss did not reach it",
        )


# ------------------------------------------------------------------------------------------------ layers


def layers_frozen(comparison: Comparison) -> Iterator[Observation]:
    places: dict[str, list[Delta]] = {}
    for pair, found in comparison.compared:
        places.setdefault(pair.place.label, []).append(found)
    same = [where for where, deltas in places.items() if all(found.is_same for found in deltas)]
    layers = sorted(int(where.removeprefix("layer ")) for where in same if where.startswith("layer "))
    embeddings = "embeddings" in same
    changed = [where for where in places if where not in same]
    if not changed or not (layers or embeddings):
        return
    plural = "layer" if len(layers) == 1 else "layers"
    named = [*(["the embeddings"] if embeddings else []), *([f"{plural} {spans(layers)}"] if layers else [])]
    what = " and ".join(named)
    one = len(named) == 1 and len(layers) == 1
    yield Observation(
        None,
        f"{what} {'is' if one else 'are'} the same in both, "
        f"{_bits([found for where in same for found in places[where]])}",
        {"layers": layers, "embeddings": embeddings, "changed": changed},
        "expected if they were frozen in training; otherwise they received no gradients",
    )


def low_rank_change(comparison: Comparison) -> Iterator[Observation]:
    ranked = [(p, d) for p, d in comparison.compared if d.full_rank is not None and not d.is_same]
    # A few rows or columns alone are of low rank, too, and no adapter's work.
    low = [(p, d) for p, d in ranked if d.is_low_rank and d.changed > (d.rank or 0) * max(p.a.shape)]
    if not low:
        return
    ranks = sorted({found.rank for _, found in low if found.rank is not None})
    shown = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
    kinds = sorted({re.sub(r"^.*?\.\d+\.", "", pair.name.removesuffix(".weight")) for pair, _ in low})
    of = "all" if len(low) == len(ranked) else f"{len(low):,} of"
    yield Observation(
        None,
        f"the change of {of} {len(ranked):,} changed matrices has a low rank, {shown}: "
        f"{printable(shortened(kinds, 4))}",
        {"tensors": [{"name": p.name, "rank": d.rank, "of": d.full_rank} for p, d in low], "changed": len(ranked)},
        "a merged adapter such as LoRA leaves that, or training on very few tokens; the adapter alone is smaller",
    )


RULES: tuple[Rule[Comparison], ...] = (
    Rule("became-not-finite", "error", "Entries are NaN or infinite in one of the two only.", became_not_finite),
    Rule("pooler-lost", "warning", "A has a pooler, B has none.", pooler_lost),
    Rule("pooler-reinitialised", "warning", "B's pooler was initialised anew.", pooler_reinitialised),
    Rule("shapes-differ", "warning", "Shapes or the number of layers differ.", shapes_differ),
    Rule("settings-differ", "warning", "Other settings make other vectors of one text.", settings_differ),
    Rule("unrelated", "warning", "Neither checkpoint comes of the other.", unrelated),
    Rule("identical", "note", "Nothing differs, bit for bit.", identical),
    Rule("same-up-to-rounding", "note", "One is the other, rounded to fewer digits.", same_up_to_rounding),
    Rule("pooler-unchanged", "note", "The pooler stayed as it was while others changed.", pooler_unchanged),
    Rule("layers-frozen", "note", "Layers, or the embeddings, stayed as they were.", layers_frozen),
    Rule("low-rank-change", "note", "Matrices changed by a matrix of low rank.", low_rank_change),
)


# ------------------------------------------------------------------------------------------------ words


def _matrices(comparison: Comparison) -> Iterator[tuple[Pair, Delta]]:
    """The matrices of modules: a norm's weights are near 1 and biases near 0 in any model."""
    for pair, found in comparison.compared:
        if len(pair.a.shape) == 2 and found.count >= LEAST_COUNT and pair.place.piece != "embeddings":
            yield pair, found


def _poolers(comparison: Comparison) -> Iterator[Delta]:
    for pair, found in comparison.compared:
        if pair.place.piece == "pooler" and len(pair.a.shape) == 2:
            yield found


def _verdict(comparison: Comparison, which: str) -> str | None:
    evidence = comparison.evidence(which)
    return None if evidence.anatomy.pooler is None else verdict(evidence, evidence.anatomy.pooler)


def _left_out(comparison: Comparison, label: str) -> bool:
    return comparison.labels is not None and label not in comparison.labels


def _all(comparison: Comparison) -> str:
    count = len(comparison.pairs)
    if comparison.labels is not None:
        return f"the {count:,} tensors looked at"
    return f"all {count:,} tensors" if comparison.fits else f"the {count:,} tensors that both have"


def _apart(comparison: Comparison) -> str:
    """Where one has what the other lacks, as much in words."""
    sides = (("A", comparison.only_a), ("B", comparison.only_b))
    some = [f"{len(only):,} {'is' if len(only) == 1 else 'are'} in {which} only" for which, only in sides if only]
    return f"; {' and '.join(some)}" if some else ""


def _bits(deltas: Iterable[Delta]) -> str:
    return "bit for bit" if all(found.identical for found in deltas) else "but for rounding"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
