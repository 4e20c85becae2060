"""Measures a pocket model on books that it has not seen, and prints the figures of its card.

    python docs/pocket/evaluate.py BOOKS bertprobe/pocket [--float32 RUN/model]

Masked tokens: sequences of 128 tokens, 15 % of the tokens chosen; of these 80 % are [MASK], 10 % another token, 10 %
as they were, and once more with [MASK] for all. Next sentence: pairs of 128 tokens, half of which follow each other,
half with a B from another held-out book. Neurons that never fire: not positive on any of those tokens. `--float32` is
the same model before it was stored in float16: how far that moves pooled outputs, hidden states and predictions.
`--neurons N` lists, for the N most selective neurons of each layer, the tokens on which they are largest in the mean.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import BertForPreTraining

sys.path.insert(0, str(Path(__file__).parent))
from train import HELD_OUT, Books, masked, watch

LENGTH = 128
ROWS = 32


def share(right: float, count: float) -> str:
    p = right / count
    return f"{p:.4f} ± {math.sqrt(p * (1 - p) / count):.4f} ({count:,.0f})"


def batches(held: Books, count: int) -> Iterator[tuple[np.random.Generator, np.ndarray]]:
    rng = np.random.default_rng(2)
    for _ in range(count):
        yield rng, held.rows(rng, ROWS, LENGTH)


@torch.no_grad()
def of_masks(model: BertForPreTraining, held: Books, count: int, *, all_masks: bool) -> tuple[str, float]:
    right = total = loss = 0.0
    for rng, ids in batches(held, count):
        given, chosen = masked(rng, ids, all_masks=all_masks)
        states = model.bert(torch.from_numpy(given)).last_hidden_state[torch.from_numpy(chosen)]
        scores, wanted = model.cls.predictions(states), torch.from_numpy(ids[chosen])
        right += float((scores.argmax(-1) == wanted).sum())
        loss += float(torch.nn.functional.cross_entropy(scores, wanted, reduction="sum"))
        total += len(wanted)
    return share(right, total), loss / total


@torch.no_grad()
def of_pairs(model: BertForPreTraining, held: Books, count: int) -> tuple[str, str, str]:
    rng = np.random.default_rng(3)
    said, wanted = [], []
    for _ in range(count):
        ids, segments, labels = held.pairs(rng, ROWS, LENGTH, same_book=0.0)
        pooled = model.bert(torch.from_numpy(ids), token_type_ids=torch.from_numpy(segments)).pooler_output
        said.append(model.cls.seq_relationship(pooled).argmax(-1).numpy())
        wanted.append(labels)
    found, labels = np.concatenate(said), np.concatenate(wanted)
    right = found == labels
    return tuple(share(float(r.sum()), len(r)) for r in (right, right[labels == 0], right[labels == 1]))  # type: ignore[return-value]


@torch.no_grad()
def silent(model: BertForPreTraining, held: Books, count: int) -> str:
    size = model.config.intermediate_size
    fired = [torch.zeros(size, dtype=torch.bool) for _ in model.bert.encoder.layer]
    seen = 0
    hooks = watch(model, fired)
    for _, ids in batches(held, count):
        model.bert(torch.from_numpy(ids))
        seen += ids.size
    for hook in hooks:
        hook.remove()
    quiet = int((~torch.cat(fired)).sum())
    return f"{quiet} of {len(fired) * size} ({quiet / len(fired) / size:.1%}) on {seen:,} tokens"


@torch.no_grad()
def of_rounding(narrow: BertForPreTraining, wide: BertForPreTraining, held: Books, count: int) -> str:
    pooled = hidden = changed = total = 0.0
    for rng, ids in batches(held, count):
        given, chosen = masked(rng, ids)
        one, other = (model.bert(torch.from_numpy(given)) for model in (narrow, wide))
        pooled = max(pooled, float((one.pooler_output - other.pooler_output).abs().max()))
        hidden = max(hidden, float((one.last_hidden_state - other.last_hidden_state).abs().max()))
        best = [m.cls.predictions(o.last_hidden_state[chosen]).argmax(-1) for m, o in ((narrow, one), (wide, other))]
        changed += float((best[0] != best[1]).sum())
        total += float(len(best[0]))
    return f"pooled {pooled:.1e}, hidden states {hidden:.1e}, {changed:.0f} of {total:,.0f} predictions"


@torch.no_grad()
def words_of_neurons(model: BertForPreTraining, held: Books, tokenizer: Tokenizer, count: int, most: int) -> None:
    """Of each layer the neurons whose best tokens stand out furthest from all others, in standard deviations."""
    size, layers = model.config.intermediate_size, model.bert.encoder.layer
    sums = [torch.zeros(model.config.vocab_size, size) for _ in layers]
    seen = torch.zeros(model.config.vocab_size)
    now = torch.zeros(0)

    def adding(total: torch.Tensor) -> Callable[..., None]:
        def add(module: torch.nn.Module, given: object, out: torch.Tensor) -> None:
            total.index_add_(0, now, out.flatten(0, 1))

        return add

    hooks = [layer.intermediate.register_forward_hook(adding(s)) for layer, s in zip(layers, sums, strict=True)]
    for _, ids in batches(held, count):
        now = torch.from_numpy(ids).flatten()
        seen += torch.bincount(now, minlength=len(seen))
        model.bert(torch.from_numpy(ids))
    for hook in hooks:
        hook.remove()
    often = torch.nonzero(seen >= 20).flatten()
    for number, total in enumerate(sums):
        means = total[often] / seen[often, None]
        best = means.topk(8, 0)
        selective = (best.values.mean(0) - means.mean(0)) / means.std(0)
        for neuron in selective.topk(most).indices.tolist():
            words = [tokenizer.id_to_token(int(often[i])) for i in best.indices[:, neuron]]
            print(f"layer {number} neuron {neuron}: {' '.join(words)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("books", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--float32", type=Path)
    parser.add_argument("--held-out", default=HELD_OUT)
    parser.add_argument("--neurons", type=int, default=0)
    parser.add_argument("--batches", type=int, default=128, help=f"of {ROWS} sequences")
    options = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(options.model / "tokenizer.json"))
    held = Books.read(tokenizer, [options.books / name for name in options.held_out.split(",")])
    model = BertForPreTraining.from_pretrained(options.model, dtype=torch.float32).eval()
    top, loss = of_masks(model, held, options.batches, all_masks=False)
    pairs, true, other = of_pairs(model, held, options.batches)
    rows = [
        ("masked tokens, 80/10/10, right at the first guess", top),
        ("their cross-entropy", f"{loss:.3f} nats"),
        (
            "masked tokens, all [MASK], right at the first guess",
            of_masks(model, held, options.batches, all_masks=True)[0],
        ),
        ("next sentence or another book's", pairs),
        ("… of true pairs", true),
        ("… of other books", other),
        ("neurons that never fire", silent(model, held, options.batches)),
    ]
    if options.float32:
        wide = BertForPreTraining.from_pretrained(options.float32).eval()
        rows.append(("moved by float16, at most", of_rounding(model, wide, held, options.batches // 4)))
    for label, value in rows:
        print(f"| {label} | {value} |", flush=True)
    if options.neurons:
        words_of_neurons(model, held, tokenizer, options.batches, options.neurons)


if __name__ == "__main__":
    main()
