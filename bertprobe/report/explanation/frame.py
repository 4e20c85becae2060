"""What an explanation is made of in every language: drawings, tables of values and sums, with the words passed in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bertprobe.anatomy.poolers import BY_DESIGN
from bertprobe.builtin import POCKET
from bertprobe.errors import command, printable
from bertprobe.report.explanation.facts import Facts, Module, Pooled, Step, Worked
from bertprobe.report.explanation.source import ClassSource
from bertprobe.report.sections import Code, Diagram, DiagramRow, Grid, Verbatim

Words = Mapping[str, str]

LONGEST_TEXT = 200  # characters of the text that are written out, as in a table
MOST_TOKENS = 24
ROUNDING = 1e-5  # of activations in float32
UNKNOWN = ("[UNK]", "<unk>")
FORMULAS = {
    "gelu": "gelu(z) = z/2 · (1 + erf(z/√2))",
    "gelu_python": "gelu(z) = z/2 · (1 + erf(z/√2))",
    "gelu_new": "gelu_new(z) = z/2 · (1 + tanh(√(2/π) · (z + 0.044715·z³)))",
    "gelu_pytorch_tanh": "gelu_pytorch_tanh(z) = z/2 · (1 + tanh(√(2/π) · (z + 0.044715·z³)))",
    "quick_gelu": "quick_gelu(z) = z · σ(1.702·z)",
    "relu": "relu(z) = max(z, 0)",
    "relu2": "relu2(z) = max(z, 0)²",
    "silu": "silu(z) = z · σ(z)",
}


@dataclass(frozen=True, slots=True)
class Shapes:
    """Shapes in writing: the text's own, or letters where none was run."""

    hidden: str
    inner: str
    vector: str

    @classmethod
    def of(cls, facts: Facts) -> Shapes:
        batch, tokens = ("B", "S") if facts.run is None else ("1", str(facts.run.hidden[1]))
        hidden, inner = facts.hidden_size or "H", facts.intermediate_size or "I"
        rows = tokens if facts.run is None else str(facts.run.up_projection[0].shape[1])
        return cls(f"({batch}, {tokens}, {hidden})", f"({batch}, {rows}, {inner})", f"({batch}, {hidden})")


def up_projection_name(facts: Facts) -> str:
    """The class that widens, or that holds what widens; in the plain layout BERT's own where it cannot be looked up."""
    return (
        facts.library.up_projection.name
        if facts.library.up_projection
        else "BertIntermediate"
        if facts.native
        else "FFN"
    )


def pooler_name(facts: Facts) -> str:
    return facts.library.pooling.name if facts.library.pooling else "pooler"


def narrowing_name(facts: Facts) -> str:
    return up_projection_name(facts).replace("Intermediate", "Output")


def layer_name(facts: Facts) -> str:
    return up_projection_name(facts).replace("Intermediate", "Layer")


def act(module: Module | None) -> str:
    return printable(module.activation) if module is not None and module.activation else "act"


def safe(text: str) -> str:
    """Foreign text for a sentence: a backtick of its own would begin code."""
    return printable(text).replace("`", "'")


def shape(numbers: Sequence[int]) -> str:
    return f"({', '.join(map(str, numbers))}{',' if len(numbers) == 1 else ''})"


def pooled(facts: Facts) -> Pooled:
    """What the pooler made of the text; only asked where a claim has found that there is such a thing."""
    if facts.run is None or facts.run.pooled is None:
        raise LookupError("asked of a text that was not pooled")
    return facts.run.pooled


def pools(facts: Facts) -> bool:
    """Whether there is a pooler to explain: in the checkpoint, or in the family's classes."""
    return facts.pooler is not None or (facts.library.pooling is not None and facts.native)


def invented(facts: Facts) -> bool:
    """Whether transformers would fill in a pooler that this checkpoint lacks: its family's models have one."""
    return facts.native and facts.absence is not None and facts.absence[0] not in BY_DESIGN


def real(value: float) -> str:
    """A number in a sentence: four decimals, or three digits where it is small."""
    text = f"{abs(value):.4f}" if abs(value) >= 0.001 or value == 0 else f"{abs(value):#.3g}"
    return f"−{text}" if value < 0 else text


def share(part: float, whole: float = 1) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


# ------------------------------------------------------------------------------------------------ the text


def text_lines(facts: Facts, words: Words) -> Verbatim:
    """The text, and what the tokenizer made of it."""
    run = facts.run
    if run is None:
        return Verbatim((facts.refusal or "",))
    text = run.text if len(run.text) <= LONGEST_TEXT else f"{run.text[: LONGEST_TEXT - 1]}…"
    more = [f"… ({len(run.tokens)})"] if len(run.tokens) > MOST_TOKENS else []
    return Verbatim((f"{words['text']}  {text}", f"{words['tokens']}  {' '.join([*run.tokens[:MOST_TOKENS], *more])}"))


# ------------------------------------------------------------------------------------------------ where they stand


def path(facts: Facts, words: Words, module: str) -> Diagram:
    """The way of the text through the model, the modules in question marked."""
    return Diagram((*_entry(facts, words), *_layer(facts, words, module), *_exit(facts, words, module)))


def _entry(facts: Facts, words: Words) -> Iterator[DiagramRow]:
    sizes = Shapes.of(facts)
    tokens = "(B, S)" if facts.run is None else shape((1, len(facts.run.tokens)))
    yield DiagramRow("data", words["token ids"], tokens)
    yield DiagramRow("down")
    yield DiagramRow("work", words["embeddings"], sizes.hidden)
    yield DiagramRow("down")


def _layer(facts: Facts, words: Words, module: str) -> Iterator[DiagramRow]:
    sizes = Shapes.of(facts)
    name = act(facts.up_projection)
    does = f"{name}(gate) × up" if facts.gated else f"dense + {name}"
    around = words["add & norm"] if facts.native else ""
    yield DiagramRow("open", f"{layer_name(facts) if facts.native else words['layer']} × {facts.called}")
    yield DiagramRow("work", words["attention"] + around, sizes.hidden)
    inside = up_projection_name(facts).endswith("Intermediate")
    title = f"{up_projection_name(facts)}: {does}" if inside else f"{does}  ({up_projection_name(facts)})"
    yield DiagramRow("work", title, sizes.inner, marked=module in ("intermediate", "both"))
    back = f"{narrowing_name(facts)}: dense{around}" if facts.native else words["narrowing"]
    yield DiagramRow("work", back, sizes.hidden)
    yield DiagramRow("close")


def _exit(facts: Facts, words: Words, module: str) -> Iterator[DiagramRow]:
    sizes = Shapes.of(facts)
    yield DiagramRow("data", "last_hidden_state", sizes.hidden)
    if facts.pooler is None:
        return
    yield DiagramRow("down", words["first token"], sizes.vector)
    marked = module in ("pooler", "both")
    yield DiagramRow("work", f"{pooler_name(facts)}: dense + {act(facts.pooler)}", sizes.vector, marked=marked)
    yield DiagramRow("down")
    yield DiagramRow("data", "pooler_output", sizes.vector)


# ------------------------------------------------------------------------------------------------ formulas


def up_projection_formula(facts: Facts) -> Verbatim:
    sizes = Shapes.of(facts)
    module, name = facts.up_projection, act(facts.up_projection)
    bias = " + b" if module is None or module.biased else ""
    rows, columns = facts.intermediate_size or "I", facts.hidden_size or "H"
    first = f"a = {name}(x · Wᵀ{bias})"
    weights = f"W ({rows}, {columns})   " + (f"b ({rows},)   " if bias else "")
    if facts.gated:
        first = f"a = {name}(x · Vᵀ{' + c' if bias else ''}) ⊙ (x · Wᵀ{bias})"
        weights = f"V, W ({rows}, {columns})   " + (f"b, c ({rows},)   " if bias else "")
    formula = [FORMULAS[name]] if name in FORMULAS else []
    return Verbatim((first, *formula, f"x {sizes.hidden}   {weights}a {sizes.inner}"))


def pooler_formula(facts: Facts) -> Verbatim:
    sizes, size = Shapes.of(facts), facts.hidden_size or "H"
    bias = " + b" if facts.pooler is None or facts.pooler.biased else ""
    return Verbatim(
        (
            f"p = {act(facts.pooler) if facts.pooler else 'tanh'}(h₀ · Wᵀ{bias})      h₀ = last_hidden_state[:, 0]",
            f"h₀ {sizes.vector}   W ({size}, {size})   " + (f"b ({size},)   " if bias else "") + f"p {sizes.vector}",
        )
    )


# ------------------------------------------------------------------------------------------------ steps


def steps(rows: Sequence[Step], words: Words, *names: str) -> Grid:
    """Each tensor with its shape and first values; `names` are what the words for it ask for."""
    head = (words["step"], words["shape"], words["values"])
    return Grid(
        head, tuple((words[row.name].format(*names), shape(row.shape), _values(row)) for row in rows), (0, 1, 2)
    )


def _values(row: Step) -> str:
    more = " …" if row.shape[-1] > len(row.values) else ""
    return " ".join(f"{value:8.4f}".replace("-", "−") for value in row.values) + more


def neuron_sum(facts: Facts, worked: Worked) -> Verbatim:
    """One activation worked out: w·x + b, then the activation; of a gated pair the product."""
    name = act(facts.up_projection)
    if facts.gated:
        gate = worked.after / worked.before if worked.before else 0.0
        return Verbatim((f"{name}(gate) × up = {real(gate)} × {real(worked.before)} = {real(worked.after)}",))
    return Verbatim((_sum(worked), _result(name, worked)))


def dimension_sum(facts: Facts, worked: Worked) -> Verbatim:
    return Verbatim((_sum(worked, "h₀"), _result(act(facts.pooler), worked)))


def _sum(worked: Worked, x: str = "x") -> str:
    if worked.product is None:
        return f"w·{x} + b = {real(worked.before)}"
    if worked.bias is None:
        return f"w·{x} = {real(worked.before)}"
    sign, bias = ("−", -worked.bias) if worked.bias < 0 else ("+", worked.bias)
    return f"w·{x} + b = {real(worked.product)} {sign} {real(bias)} = {real(worked.before)}"


def _result(name: str, worked: Worked) -> str:
    return f"{name}({real(worked.before)}) = {real(worked.after)}"


# ------------------------------------------------------------------------------------------------ source


def unknown(facts: Facts) -> int:
    """Tokens of the text that the vocabulary does not have."""
    return 0 if facts.run is None else sum(token in UNKNOWN for token in facts.run.tokens)


def code(facts: Facts, source: ClassSource, words: Words) -> Code:
    caption = words["source"].format(facts.library.version or "?", source.file, source.line)
    return Code(caption, source.code.rstrip("\n"), source.line)


def without(names: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """What the names of classes begin with, and the names without it."""
    shortest = min(names, key=len, default="")
    starts = (shortest[:n] for n in range(len(shortest) - 1, 0, -1))
    start = next((s for s in starts if all(n.startswith(s) and n[len(s)].isupper() for n in names)), "")
    return start, tuple(name[len(start) :] for name in names)


def fixed(facts: Facts, fixed: str, chosen: str) -> str:
    """One of two words: whether the pooler's class settles its activation, or leaves it to the config."""
    source = facts.library.pooling
    return chosen if source is not None and "config.pooler_hidden_act" in source.code else fixed


def sizes(module: Module) -> str:
    """A module's tensors as a product and a sum: `512 × 128 + 512`."""
    if module.inputs is None or module.outputs is None:
        return "–"
    return f"{module.outputs} × {module.inputs}" + (f" + {module.outputs}" if module.biased else "")


def edges(module: Module) -> str:
    """The lowest and highest edge ratio, once where they are one."""
    if module.edges is None:
        return ""
    low, high = (f"{edge:.3f}" for edge in module.edges)
    return low if low == high else f"{low}–{high}"


# ------------------------------------------------------------------------------------------------ commands


def commands(facts: Facts, module: str) -> tuple[str, ...]:
    """What to type next; none that this checkpoint would refuse."""
    model = "" if facts.model == POCKET else f" {command('-m', facts.model)}"
    found = []
    if module in ("intermediate", "both") and facts.up_projection is not None:
        found += [f'bertprobe activations "some text"{model} --layers 0 --tokens'] if facts.run else []
    if module in ("pooler", "both") and facts.pooler is not None:
        found += [f'bertprobe pool "some text" "another"{model}'] if facts.run else []
    return (*found, command("bertprobe", "inspect", facts.model))
