"""A drawing of the model with the two modules in their places, in SVG of our own, with this model's shapes."""

from __future__ import annotations

from collections import Counter
from html import escape
from typing import Any

from bertprobe.anatomy.families import FAMILIES
from bertprobe.errors import printable
from bertprobe.render.words import NOT_GOOD
from bertprobe.report.nodes import Page

WIDTH, MIDDLE = 400, 200
NARROW, WIDE = 150, 290
HEIGHT = 652


def draw(data: Page, *, alone: bool = False) -> str:
    """The drawing as an `<svg>` element; `alone` as a file of its own, with a background and a font."""
    described = escape(in_words(data), quote=True)
    namespace = ' xmlns="http://www.w3.org/2000/svg"' if alone else ""
    size = f' width="{WIDTH}" height="{HEIGHT}"' if alone else ""
    font = "'Liberation Sans', Arial, sans-serif" if alone else "inherit"
    paper = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="var(--paper)"/>' if alone else ""
    return (
        f'<svg{namespace}{size} viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{described}" '
        f'font-family="{font}" font-size="13" fill="var(--ink)" text-anchor="middle">'
        f"{paper}{_body(data)}</svg>\n"
    )


def in_words(data: Page) -> str:
    """The drawing for those who do not see it."""
    hidden, inner = _n(data["facts"]["hidden_size"]), _n(data["facts"]["intermediate_size"])
    pooler = "then the pooler on the first token" if data["layer"]["pooler"] else "and no pooler after the last layer"
    return (
        f"Drawing of the model from input to output: embeddings of width {hidden}; {data['facts']['layers']} layers, "
        f"each of self-attention, the intermediate module from {hidden} to {inner}, and the output module back to "
        f"{hidden}; {pooler}."
    )


def module_names(data: Page) -> tuple[str, str]:
    """What the two modules are called in this family's code."""
    row = FAMILIES.get(data["facts"]["family"])
    if row is not None and row.up_projection and row.pooler:
        return row.up_projection, row.pooler
    return "intermediate module", "pooler"


def verdicts(data: Page, *roles: str) -> str:
    """`6 trained`, `5 trained, 1 untrained`, `untrained`; empty where nothing was measured."""
    found = Counter(part["verdict"] for part in data["parts"] if part["role"] in roles and part["verdict"])
    if len(found) == 1 and sum(found.values()) == 1:
        return str(next(iter(found)))
    return ", ".join(f"{count} {verdict}" for verdict, count in found.most_common())


def _body(data: Page) -> str:
    facts, layer = data["facts"], data["layer"]
    hidden, inner = _n(facts["hidden_size"]), _n(facts["intermediate_size"])
    act = printable(str(facts["activation"] or "activation unknown"))
    intermediate, _ = module_names(data)
    dense = f"dense {hidden} → {inner}"
    does = f"{act}(gate) × up, each {dense}" if layer["gated"] else f"{dense}, then {act}"
    added = "+ input, layer norm" if layer["as_bert"] else "+ input"  # others norm elsewhere, too
    meeting = FAMILIES[facts["family"]].mixing if facts["family"] in FAMILIES else "self-attention"
    odd = verdicts(data, "intermediate", "gate")
    vocabulary = f"{_n(layer['vocabulary'])} words → {hidden}" if layer["vocabulary"] else f"words → {hidden}"
    return "".join(
        [
            _label(18, "S tokens"),
            _arrow(24, 38),
            _box(40, 44, "embeddings", vocabulary),
            _frame(104, 356, f"× {facts['layers']} layers"),
            _arrow(84, 134),
            _box(136, 44, meeting, f"(S, {hidden}) → (S, {hidden})"),
            _arrow(180, 210),
            _label(199, added, "start", MIDDLE + 12, "soft"),
            _funnel(212, 104, NARROW, WIDE, [intermediate, does, f"(S, {hidden}) → (S, {inner})", odd], _tone(odd)),
            _arrow(316, 334),
            _funnel(336, 58, WIDE, NARROW, ["output", f"dense {inner} → {hidden}"]),
            _arrow(394, 518),
            _label(419, added, "start", MIDDLE + 12, "soft"),
            _label(480, f"last hidden states (S, {hidden})", "start", MIDDLE + 12, "soft"),
            *_pooler(data, hidden),
        ]
    )


def _pooler(data: Page, hidden: str) -> list[str]:
    _, name = module_names(data)
    shape = data["layer"]["pooler"]
    if shape is None:
        return [_box(520, 62, "no pooler here", "pool the hidden states", dashed=True)]
    act = printable(str(data["layer"]["pooler_activation"] or "activation unknown"))
    out = _n(shape[0])
    lines = [name, f"dense {_n(shape[1])} → {out}, then {act}", verdicts(data, "pooler")]
    return [
        _label(508, "first token only", "start", MIDDLE + 12, "soft"),
        _funnel(520, 78, 230, 230, lines, _tone(lines[-1])),
        _arrow(598, 622),
        _label(640, f"pooled output ({out})"),
    ]


def _tone(found: str) -> str:
    """Orange where a word says that training is in doubt."""
    return "odd" if any(word in found for word in NOT_GOOD) else "plain"


def _n(number: Any) -> str:
    return f"{number:,}" if isinstance(number, int) else "?"


def _label(y: float, text: str, anchor: str = "middle", x: float = MIDDLE, tone: str = "ink") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="var(--{tone})">{escape(text)}</text>'


def _arrow(start: float, end: float) -> str:
    head = f"M{MIDDLE - 4},{end - 7} L{MIDDLE},{end} L{MIDDLE + 4},{end - 7}"
    return f'<path d="M{MIDDLE},{start} V{end} {head}" fill="none" stroke="var(--line)" stroke-width="1.5"/>'


def _frame(y: float, height: float, text: str) -> str:
    return (
        f'<rect x="20" y="{y}" width="{WIDTH - 40}" height="{height}" rx="10" fill="var(--wash)" '
        f'stroke="var(--line)" stroke-dasharray="4 3"/>' + _label(y + 20, text, "start", 34, "soft")
    )


def _box(y: float, height: float, title: str, line: str, *, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    return (
        f'<rect x="{MIDDLE - 115}" y="{y}" width="230" height="{height}" rx="6" fill="var(--paper)" '
        f'stroke="var(--line)"{dash}/>' + _lines(y, height, [title, line])
    )


def _funnel(y: float, height: float, above: float, below: float, lines: list[str], tone: str = "line") -> str:
    """A shape as wide above as what goes in and as wide below as what comes out; the text stands on its wide part."""
    ends = (above, below)
    strong = tone != "line"
    shoulder = min(20.0, height / 3)
    first, last = (y + shoulder, y + height) if below > above else (y, y + height - shoulder)
    points = [(-above / 2, y), (above / 2, y)]
    points += [(max(ends) / 2, first), (max(ends) / 2, last)] if above != below else []
    points += [(below / 2, y + height), (-below / 2, y + height)]
    points += [(-max(ends) / 2, last), (-max(ends) / 2, first)] if above != below else []
    path = " ".join(f"{MIDDLE + x:g},{at:g}" for x, at in points)
    fill, width = ("tint-odd" if tone == "odd" else "tint" if strong else "paper", 2 if strong else 1)
    return (
        f'<polygon points="{path}" fill="var(--{fill})" stroke="var(--{tone})" stroke-width="{width}" '
        f'stroke-linejoin="round"/>'
        + _lines(
            y + (4 if below > above else -4 if above > below else 0),
            height,
            [line for line in lines if line],
            strong=strong,
        )
    )


def _lines(y: float, height: float, lines: list[str], *, strong: bool = False) -> str:
    step = 18
    start = y + height / 2 - step * (len(lines) - 1) / 2 + 5
    heavy = 700 if strong else 600
    return "".join(
        f'<text x="{MIDDLE}" y="{start + i * step:g}" font-weight="{400 if i else heavy}">{escape(line)}</text>'
        for i, line in enumerate(lines)
    )
