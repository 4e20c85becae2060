"""The explanation in English: what the facts come to, in sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from bertprobe.anatomy.poolers import BY_DESIGN
from bertprobe.report.explanation import frame
from bertprobe.report.explanation.claims import activation, verdict
from bertprobe.report.explanation.facts import Facts, Module, Run
from bertprobe.report.explanation.frame import act, narrowing_name, pooler_name, real, safe, share, up_projection_name
from bertprobe.report.sections import Block, Grid, Prose, Verbatim

WORDS = {
    "text": "text  ",
    "tokens": "tokens",
    "token ids": "token ids",
    "embeddings": "embeddings",
    "layer": "layer",
    "attention": "self-attention",
    "add & norm": " + residual + LayerNorm",
    "narrowing": "dense, back to H",
    "first token": "the first token alone: [:, 0]",
    "step": "step",
    "shape": "shape",
    "values": "first values",
    "attended": "x, out of attention",
    "dense": "after dense",
    "activated": "after the activation",
    "output": "after {0}",
    "up": "up, after dense",
    "product": "act(gate) × up",
    "last_hidden_state": "last_hidden_state",
    "first": "[:, 0]",
    "pooled": "after the activation",
    "source": "transformers {}, {}, line {}:",
    "wrong": "false here",
    "right": "true here",
    "open": "cannot be told here",
}

TITLES = {
    "model": "The model and the text",
    "place": "Where it stands",
    "formula": "The formula",
    "steps": "Step by step",
    "source": "The source",
    "comparison": "Alike and unlike",
    "claims": "What people say, checked here",
    "next": "Go on from here",
}


def plural(count: int, word: str) -> str:
    return f"{count:,} {word}{'s' * (count != 1)}"


def listed(names: tuple[str, ...], word: str = "and") -> str:
    """Names of code as a list: `A`, `B` and `C`."""
    ticked = [f"`{safe(name)}`" for name in names]
    return ticked[0] if len(ticked) == 1 else f"{', '.join(ticked[:-1])} {word} {ticked[-1]}"


# ------------------------------------------------------------------------------------------------ sections


def model(facts: Facts, module: str) -> Iterator[Block]:
    hidden, inner = (f"{n:,}" if n is not None else "unknown" for n in (facts.hidden_size, facts.intermediate_size))
    yield Prose(
        f"`{safe(facts.model)}` is of the family `{safe(facts.family)}`: {plural(facts.layers, 'layer')}, hidden size "
        f"`H = {hidden}`, intermediate size `I = {inner}`, {facts.parameters:,} parameters."
    )
    run = facts.run
    if run is None:
        yield Prose("No text could be run, so that shapes stand in letters: B texts of S tokens. The reason:")
    else:
        cut = f" ({plural(run.truncated, 'token')} cut off)" if run.truncated else ""
        yield Prose(
            f"All numbers below are this model's own, from one text of `S = {len(run.tokens)}` tokens{cut}, computed "
            f"by {run.backend} in float32. Every shape begins with the batch, here 1."
        )
    yield frame.text_lines(facts, WORDS)
    if unknown := frame.unknown(facts):
        yield Prose(f"{plural(unknown, 'token')} of the text {'is' if unknown == 1 else 'are'} not in the vocabulary.")


def place(facts: Facts, module: str) -> Iterator[Block]:
    yield frame.path(facts, WORDS, module)
    if module in ("intermediate", "both") and facts.up_projection is not None:
        yield Prose(_up_projection_place(facts))
    if module in ("pooler", "both"):
        yield Prose(_pooler_place(facts) if facts.pooler else no_pooler(facts))


def _up_projection_place(facts: Facts) -> str:
    name = up_projection_name(facts)
    if not facts.native:
        return (
            f"The up-projection stands in every layer, after attention: a text passes it {plural(facts.called, 'time')}"
            f"{', each time through the same weights' if facts.called > facts.layers else ''}. In this family it "
            f"lives in the class `{name}`, and what stands around it is not quite as in BERT."
        )
    return (
        f"`{name}` stands in every layer, so a text passes it {plural(facts.called, 'time')}. Before it, attention has "
        f"mixed information between tokens. `{name}` then spreads each token's H numbers out to I, and "
        f"`{narrowing_name(facts)}` after it brings them back to H, adds what had come in (the residual) and "
        "normalises."
    )


def _pooler_place(facts: Facts) -> str:
    return (
        f"{_the_pooler(facts)} stands once, behind the last layer. It takes the first token's vector, and what it "
        "makes of it, `pooler_output`, is not read by the encoder again: it is there for a classifier on top."
    )


def _the_pooler(facts: Facts) -> str:
    return f"`{pooler_name(facts)}`" if facts.library.pooling else "The pooler"


def no_pooler(facts: Facts) -> str:
    kind, what = facts.absence or ("unnamed", "")
    reason = {
        **{design: f"{sentence.format(safe(what))}." for design, sentence in BY_DESIGN.items()},
        "family": f"the family `{safe(what)}` has none.",
        "class": f"`{safe(what)}`, which saved it, builds none.",
        "lost": f"`{safe(what)}`, which its config names, builds one, but it is not among the tensors.",
        "head": "the head beside the encoder belongs to a class that builds none.",
        "other": f"`{safe(what)}` is not this encoder's.",
        "unnamed": "no tensor is named `pooler.dense`.",
    }[kind]
    return f"There is no pooler in this checkpoint: {reason}"


def formula(facts: Facts, module: str) -> Iterator[Block]:
    if module in ("intermediate", "both") and facts.up_projection is not None:
        yield Prose(f"`{up_projection_name(facts)}`, for each token by itself:")
        yield frame.up_projection_formula(facts)
        yield Prose(_about_the_up_projection(facts))
    if module in ("pooler", "both") and frame.pools(facts):
        there = "" if facts.pooler else ", if there were one here"
        yield Prose(f"{_the_pooler(facts)}{there}:")
        yield frame.pooler_formula(facts)
        first = f"The first token is `{safe(facts.run.tokens[0])}` here. " if facts.run else ""
        yield Prose(f"{first}tanh bends every number into `(−1, 1)`.")


def _about_the_up_projection(facts: Facts) -> str:
    name = activation(facts)
    known = (
        f"The activation is a setting, here `{safe(name)}`."
        if name
        else "No config says which activation it is: `act` stands in its place."
    )
    rows = "Each row of W is a neuron: it looks for one pattern in x."
    if facts.gated:
        return f"{known} Two dense layers side by side: the first, the gate, decides how much of the second passes."
    return f"{known} {rows}"


def steps(facts: Facts, module: str) -> Iterator[Block]:
    run = facts.run
    if run is None:
        return
    if module in ("intermediate", "both"):
        yield Prose(f"`{up_projection_name(facts)}` of layer 0; the values are those of {_token(run)}:")
        yield frame.steps(run.up_projection, WORDS, narrowing_name(facts))
        yield Prose(f"The neuron that answers loudest to it is {run.neuron.unit}:")
        yield frame.neuron_sum(facts, run.neuron)
    if module in ("pooler", "both") and run.pooled is not None:
        yield Prose(f"{_the_pooler(facts)}:")
        yield frame.steps(run.pooling, WORDS)
        if run.dimension is not None:
            yield Prose(f"The entry of largest magnitude is {run.dimension.unit}:")
            yield frame.dimension_sum(facts, run.dimension)


def _token(run: Run) -> str:
    if not run.rows_are_tokens:
        return f"row {run.token}"
    return f'token {run.token}, "{safe(run.tokens[run.token])}", counted from 0'


def source(facts: Facts, module: str) -> Iterator[Block]:
    library = facts.library
    if module in ("intermediate", "both"):
        if library.up_projection is None:
            yield Prose("The installed transformers has no class of this family's own for the up-projection.")
        else:
            yield frame.code(facts, library.up_projection, WORDS)
            if not library.up_projection.name.endswith("Intermediate"):
                yield Prose("This class holds more than the up-projection: the way back to H is in it, too.")
    if module in ("pooler", "both"):
        if library.pooling is not None:
            yield frame.code(facts, library.pooling, WORDS)
        elif facts.pooler is not None:
            yield Prose("Its pooler has no class of its own: the model holds a bare dense layer and its activation.")
        else:
            yield Prose(f"transformers has no pooler class for `{safe(facts.family)}`.")


def comparison(facts: Facts, module: str) -> Iterator[Block]:
    if facts.up_projection is None or not frame.pools(facts):
        return
    yield Prose(
        "Alike: each is one dense layer and one activation, has no dropout, residual or LayerNorm of its own, and "
        "knows no attention mask."
        if facts.native
        else "Alike: each is dense layers and an activation, and knows no attention mask."
    )
    head = ("", up_projection_name(facts), pooler_name(facts))
    yield Grid(head, tuple(_rows(facts, facts.up_projection, facts.pooler)))


def _rows(facts: Facts, wide: Module, pooler: Module | None) -> Iterator[tuple[str, str, str]]:
    sizes = frame.Shapes.of(facts)
    yield "place", "in every layer, after attention", "once, behind the last layer"
    yield "in this model", f"{wide.count:,}", f"{pooler.count if pooler else 0:,}"
    yield "reads", "every token, each by itself", "the first token, no other"
    yield "shape", f"{sizes.hidden} → {sizes.inner}", f"{sizes.hidden} → {sizes.vector}"
    yield (
        "activation",
        f"{act(wide)}, by the config",
        f"{act(pooler) if pooler else 'tanh'}, {frame.fixed(facts, 'fixed in the class', 'by the config')}",
    )
    if facts.run is not None and not facts.gated:
        yield "range", f"{real(facts.run.compared.lowest)} and up, here", "between −1 and 1"
    yield "weight + bias", frame.sizes(wide), frame.sizes(pooler) if pooler else "–"
    of_all = [f"{m.parameters:,} ({share(m.parameters, facts.parameters)})" if m else "0" for m in (wide, pooler)]
    yield "parameters", of_all[0], of_all[1]
    yield "these weights", _words(wide), _words(pooler) if pooler else "absent"
    yield "trained by", "any objective", "a loss on pooler_output; in BERT next-sentence prediction"
    yield "good for", "features that the next layer builds on", "one vector a text, for a classifier"
    if facts.library.with_pooler and facts.native:
        yield from _classes(facts)


def _classes(facts: Facts) -> Iterator[tuple[str, str, str]]:
    """The model classes that have it and those that do not, by the installed source."""
    having, lacking = facts.library.with_pooler, facts.library.without_pooler
    start, names = frame.without((*having, *lacking))
    yield f"in {start}…", "all", ", ".join(names[: len(having)])
    if lacking:
        yield f"not in {start}…", "none", ", ".join(names[len(having) :])


def _words(module: Module) -> str:
    counts = [word if module.count == 1 else f"{count} {word}" for word, count in module.verdicts.items()]
    return f"{', '.join(counts)} (edge ratio {frame.edges(module)})" if counts else "not measured"


def go_on(facts: Facts, module: str) -> Iterator[Block]:
    yield Verbatim(frame.commands(facts, module), "sh")


SECTIONS: Mapping[str, Callable[[Facts, str], Iterator[Block]]] = {
    "model": model,
    "place": place,
    "formula": formula,
    "steps": steps,
    "source": source,
    "comparison": comparison,
    "next": go_on,
}


# ------------------------------------------------------------------------------------------------ claims


def relu(facts: Facts) -> tuple[str, str]:
    run, name, said = facts.run, str(activation(facts)), f"{_subject(facts)} uses ReLU"
    if name == "relu":
        return said, "The config says `relu`. Original BERTs have GELU."
    shown = f"The config says `{safe(name)}`."
    if run is not None and run.compared.relu is not None:
        shown += (
            f" On this text ReLU would differ from it by up to {real(run.compared.relu)}: "
            f"{share(run.compared.negative)} of what goes in is below zero, and ReLU would make each of them 0."
        )
    return said, shown


def _subject(facts: Facts) -> str:
    name = up_projection_name(facts)
    return f"`{name}`" if name.endswith("Intermediate") else "The up-projection"


def tanh_gelu(facts: Facts) -> tuple[str, str]:
    said, name = "Its GELU is the tanh formula", safe(str(activation(facts)))
    compared = facts.run.compared if facts.run else None
    if compared is None or compared.tanh is None or compared.gelu is None:
        return said, f"The config says `{name}`."
    if compared.tanh < compared.gelu:
        return (
            said,
            f"`{name}` is that one. The exact GELU, by erf, differs by up to {real(compared.gelu)} on this text.",
        )
    far = compared.tanh > frame.ROUNDING
    seen = "little, but far more than rounding" if far else "too small here to tell the two apart"
    return said, (
        f"`{name}` is the exact one, by erf. The formula with tanh is an approximation (`gelu_new`, "
        f"`gelu_pytorch_tanh`); on this text it would be off by up to {real(compared.tanh)}: {seen}."
    )


def whole_network(facts: Facts) -> tuple[str, str]:
    return f"{_subject(facts)} is the feed-forward network", (
        f"It is its first half, H → I. The second, I → H, is `{narrowing_name(facts)}`, which also adds the residual "
        f"and normalises. What `{up_projection_name(facts)}` puts out is bit for bit what `output.dense` takes in."
    )


def mixes_tokens(facts: Facts) -> tuple[str, str]:
    return "It lets tokens exchange information", (
        "Only attention does. One token's vector, sent through it without the others, came out the same (within 1e-5 "
        "of the largest value)."
        if facts.run and facts.run.alone
        else "But one token's vector, sent through it without the others, came out otherwise: look into this."
    )


def hidden_states(facts: Facts) -> tuple[str, str]:
    sizes = frame.Shapes.of(facts)
    return "`output_hidden_states=True` returns its output", (
        f"`hidden_states` are {facts.called + 1} tensors of shape {sizes.hidden}: the embeddings and what each layer "
        f"puts out. The widened {sizes.inner} never leaves its layer; a forward hook sees it, or `bertprobe "
        "activations`."
    )


def four_times(facts: Facts) -> tuple[str, str]:
    hidden, inner = facts.hidden_size or 1, facts.intermediate_size or 0
    return "`I` is always `4H`", (
        f"{inner:,} / {hidden:,} = {inner / hidden:.4g}. It is a setting, `intermediate_size`, not a law."
    )


def always_there(facts: Facts) -> tuple[str, str]:
    said, library = "Every checkpoint has a pooler", facts.library
    if facts.pooler is not None:
        shown = "This one does."
        if library.without_pooler and facts.native:
            shown += (
                f" Loaded and saved as {listed(library.without_pooler, 'or')} it would be gone, with no more than a "
                "line in the log."
            )
        return said, shown
    shown = no_pooler(facts)
    if library.with_pooler and frame.invented(facts):
        shown += (
            f" Loaded as {listed(library.with_pooler[:1])} it gets one of random numbers, different ones at every "
            "load, and only a line in the log says so."
        )
    return said, shown + " Pool the hidden states instead."


def there_so_trained(facts: Facts) -> tuple[str, str]:
    said, pooler = "If a pooler is there, it was trained", facts.pooler
    edge = frame.edges(pooler) if pooler else ""
    scale = f"Its largest singular value is {edge} times that of random numbers of the same size and scale"
    word = verdict(facts)
    shown = {
        "trained": f"{scale}: this one shows training. It says nothing about how good it is.",
        "untrained": f"{scale}, and its bias is all zero: no trace of training. Its output is a random mixture of the "
        "first token's numbers.",
        "probably untrained": f"{scale}: nothing but its bias speaks for training.",
        "cannot tell": f"{scale}, as of random numbers whose rows, columns or mean are scaled alike: no telling.",
        "flattened": f"{scale}: flatter than random numbers, as of an orthogonal matrix, which tells nothing.",
        "undecided": f"{scale}: between noise and training, too close to say.",
        "too small to tell": f"{scale}, but a matrix with a side below 64 is too small to tell.",
    }
    return said, shown.get(str(word), scale + ".")


def by_next_sentence(facts: Facts) -> tuple[str, str]:
    said, saved = "A trained pooler was trained by next-sentence prediction", facts.saved_by
    if not facts.nsp:
        return said, f"`{safe(facts.family)}` was pretrained without it: if anything trained this one, it came later."
    if head := facts.next_sentence_head:
        return said, f"A strong sign: the head of that task lies in the same file, on top of this pooler, as `{head}`."
    by = f" The config names {listed(saved)}." if saved else ""
    return said, (
        f"No head of that task lies in the file, and weights do not say what trained them.{by} Fine-tuning a "
        "classifier trains the pooler, too, and SimCSE keeps an MLP of its own under this name."
    )


def mean_pooling(facts: Facts) -> tuple[str, str]:
    pooled, others = frame.pooled(facts), (facts.run.hidden[1] if facts.run else 1) - 1
    return "The pooler averages the tokens", (
        f"It reads the first token's vector alone; of the other {others:,} it knows what attention has brought there. "
        f"On this text the cosine of pooled output and mean vector is {real(pooled.to_mean or 0)}; that of first "
        f"token and mean vector is {real(pooled.first_to_mean or 0)}."
    )


def first_hidden_state(facts: Facts) -> tuple[str, str]:
    pooled = frame.pooled(facts)
    return "`pooler_output` is `last_hidden_state[:, 0]`", (
        f"That is the pooler's input. Dense and {act(facts.pooler)} lie between: here entries differ by up to "
        f"{real(pooled.from_first)}, and the cosine of the two is {real(pooled.to_first or 0)}."
    )


def sentence_vector(facts: Facts) -> tuple[str, str]:
    said = "`pooler_output` is the model's sentence embedding"
    if facts.pools_by:
        return said, f"The settings of sentence-transformers beside this model say {listed(facts.pools_by)} instead."
    return said, (
        "No settings of sentence-transformers lie beside it. BERT's own pooler learned which sentence follows which, "
        "not which are alike: compare with the mean before you rely on it."
    )


def minds_the_mask(facts: Facts) -> tuple[str, str]:
    takes = facts.library.pooling.takes if facts.library.pooling else ()
    return "The pooler leaves out padding", (
        f"It knows of none: its `forward` takes {listed(takes)} and nothing else. The mask works earlier, in "
        "attention; without it padding changes the first token's vector, and so the pooled output. And with padding "
        "on the left, the first token is a padding token."
    )


def unit_length(facts: Facts) -> tuple[str, str]:
    pooled = frame.pooled(facts)
    return "The pooled output has length 1", (
        f"tanh bounds each entry, not the length: {real(pooled.norm)} here, with entries from {real(pooled.lowest)} to "
        f"{real(pooled.highest)}; {share(pooled.saturated)} of them lie beyond ±0.99. Normalise it for dot products."
    )


CLAIMS: Mapping[str, Callable[[Facts], tuple[str, str]]] = {
    "relu": relu,
    "tanh-gelu": tanh_gelu,
    "whole-network": whole_network,
    "mixes-tokens": mixes_tokens,
    "hidden-states": hidden_states,
    "four-times": four_times,
    "always-there": always_there,
    "there-so-trained": there_so_trained,
    "by-next-sentence": by_next_sentence,
    "mean-pooling": mean_pooling,
    "first-hidden-state": first_hidden_state,
    "sentence-vector": sentence_vector,
    "minds-the-mask": minds_the_mask,
    "unit-length": unit_length,
}
