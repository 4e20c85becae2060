"""Trains the pocket model from random weights on a folder of text files, a paragraph a line.

    python docs/pocket/train.py BOOKS RUN --seed 0 --steps 60000

RUN gets the vocabulary, a learning curve (`curve.csv`), a checkpoint every thousand steps (the script goes on from it
when it is started again, with another --steps if there is more or less time) and at the end `model/`, a folder as
`save_pretrained` writes it, and `pocket/`, the same in float16 with its tokenizer: what the package holds. It runs on a
GPU where there is one, else on all processors in bfloat16.

A BertForPreTraining learns two things at once: to fill in masked tokens (15 % of all, of which 80 % become [MASK], 10 %
another token, 10 % stay), and whether text B follows text A. For half of the pairs it does; of the others three in four
come from another book and one from elsewhere in the same one. What is held out (--held-out) is never seen.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertForPreTraining

HELD_OUT = "great-expectations.txt,pride-and-prejudice.txt"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, UNK, CLS, SEP, MASK = range(5)
VOCABULARY = 8192
POSITIONS = 128
BATCH = 2048  # tokens
SHORT = 0.04  # the share of steps that are mostly 32 tokens long: it leaves the plateau sooner
# (length, pairs or not, share of the steps) at the beginning and after it
BEGINNING = ((32, False, 0.85), (64, True, 0.15))
LATER = ((128, False, 0.40), (64, False, 0.15), (32, False, 0.05), (128, True, 0.25), (64, True, 0.15))
SENTENCE = re.compile(r"(?<=[.!?])[\"')]*\s+(?=[\"'(]*[A-Z])")
PLAIN = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "—": "-", "–": "-", "_": " ", "\u00a0": " "})


# ------------------------------------------------------------------------------------------------ text


def sentences(file: Path) -> list[str]:
    """A book's sentences; quotes, dashes and underscores made alike, since books differ in them."""
    lines = file.read_text(encoding="utf-8").translate(PLAIN).replace("--", "-").splitlines()
    return [part for line in lines for part in SENTENCE.split(" ".join(line.split())) if part]


def train_tokenizer(files: list[Path]) -> Tokenizer:
    """BERT's own kind: lower-cased WordPiece."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, show_progress=False, continuing_subword_prefix="##"
    )
    tokenizer.train_from_iterator((s for file in files for s in sentences(file)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    return tokenizer


@dataclass(frozen=True)
class Books:
    """Tokens of all books end to end, (T,); where each sentence starts, (S,); the sentences each book begins with."""

    tokens: np.ndarray
    starts: np.ndarray
    firsts: np.ndarray

    @classmethod
    def read(cls, tokenizer: Tokenizer, files: list[Path]) -> Books:
        rows: list[list[int]] = []
        firsts = [0]
        for file in files:
            encoded = tokenizer.encode_batch(sentences(file), add_special_tokens=False)
            rows += [encoding.ids for encoding in encoded if encoding.ids]
            firsts.append(len(rows))
        lengths = np.array([len(row) for row in rows])
        return cls(np.concatenate(rows).astype(np.int64), np.cumsum(lengths) - lengths, np.array(firsts))

    def book(self, sentence: int) -> int:
        return int(np.searchsorted(self.firsts, sentence, "right")) - 1

    def rows(self, rng: np.random.Generator, count: int, length: int) -> np.ndarray:
        """Pieces of text, half of which begin with a sentence: (count, length)."""
        last = len(self.tokens) - length
        anywhere = rng.integers(0, last, count)
        begun = self.starts[rng.integers(0, np.searchsorted(self.starts, last), count)]
        begin = np.where(rng.random(count) < 0.5, anywhere, begun)
        body = self.tokens[begin[:, None] + np.arange(length - 2)]
        edge = np.ones((count, 1), np.int64)
        return np.concatenate([edge * CLS, body, edge * SEP], 1)

    def pairs(
        self, rng: np.random.Generator, count: int, length: int, same_book: float = 0.25
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Texts A and B, whole sentences at their seam: ids and segments (count, length), 1 where B does not follow.

        Of the B that do not follow, `same_book` come from elsewhere in A's book and the others from another one.
        """
        half = (length - 3) // 2
        ids, segments = np.empty((2, count, length), np.int64)
        labels = (rng.random(count) < 0.5).astype(np.int64)
        for row in range(count):
            while True:
                first = int(rng.integers(len(self.starts) - 1))
                seam = int(np.searchsorted(self.starts, self.starts[first] + half, "right")) - 1
                seam = max(seam, first + 1)
                a = self.tokens[self.starts[first] : self.starts[seam]][-half:]
                other = self.elsewhere(rng, first, same_book) if labels[row] else seam
                room = length - 3 - len(a)
                b = self.tokens[self.starts[other] : self.starts[other] + room]
                if self.book(first) == self.book(seam) and len(b) == room:
                    break
            ids[row] = np.concatenate([[CLS], a, [SEP], b, [SEP]])
            segments[row] = np.arange(length) >= len(a) + 2
        return ids, segments, labels

    def elsewhere(self, rng: np.random.Generator, first: int, same_book: float) -> int:
        same = rng.random() < same_book or len(self.firsts) == 2
        while True:
            other = int(rng.integers(len(self.starts) - POSITIONS))
            if (self.book(other) == self.book(first)) == same and abs(other - first) > 100:
                return other


def masked(rng: np.random.Generator, ids: np.ndarray, *, all_masks: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """BERT's masking: the ids with 15 % of them changed, and which these are."""
    chosen = (rng.random(ids.shape) < 0.15) & (ids >= len(SPECIAL))
    kind = rng.random(ids.shape)
    out = np.where(chosen & ((kind < 0.8) | all_masks), MASK, ids)
    another = rng.integers(len(SPECIAL), VOCABULARY, ids.shape)
    return np.where(chosen & (kind >= 0.9) & (not all_masks), another, out), chosen


# ------------------------------------------------------------------------------------------------ training


def losses(model: BertForPreTraining, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Of masked tokens and of pairs; the vocabulary is scored at masked places only."""
    out = model.bert(input_ids=batch["ids"], token_type_ids=batch["segments"])
    scores = model.cls.predictions(out.last_hidden_state[batch["chosen"]])
    mlm = cross_entropy(scores.float(), batch["wanted"])
    if batch["labels"] is None:
        return mlm, None
    return mlm, cross_entropy(model.cls.seq_relationship(out.pooler_output).float(), batch["labels"])


def draw(books: Books, rng: np.random.Generator, mix: Any, device: str) -> dict[str, Any]:
    length, paired, _ = mix[int(rng.choice(len(mix), p=[share for _, _, share in mix]))]
    count = BATCH // length
    labels = None
    if paired:
        ids, segments, labels = books.pairs(rng, count, length)
    else:
        ids = books.rows(rng, count, length)
        segments = np.zeros_like(ids)
    given, chosen = masked(rng, ids)
    found = {"ids": given, "segments": segments, "chosen": chosen, "wanted": ids[chosen], "labels": labels}
    return {name: None if x is None else torch.from_numpy(x).to(device) for name, x in found.items()}


def rate(step: int, steps: int, peak: float) -> float:
    """300 steps of warm-up, constant, the last 30 % down to zero."""
    return peak * min(1.0, (step + 1) / 300, max(0.0, (steps - step) / (0.3 * steps)))


def build() -> BertForPreTraining:
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=512,
        max_position_embeddings=POSITIONS,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.06,
        attn_implementation="eager",  # faster backwards than sdpa on a processor
    )
    return BertForPreTraining(config)


def optimizer_of(model: torch.nn.Module) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), eps=1e-6, fused=True)


def watch(model: BertForPreTraining, fired: list[torch.Tensor]) -> list[Any]:
    """Hooks that mark in `fired`, (I,) a layer, each neuron that is positive on a token."""

    def marking(marks: torch.Tensor) -> Any:
        def mark(module: Any, given: Any, out: torch.Tensor) -> None:
            marks.logical_or_((out > 0).flatten(0, 1).any(0).cpu())

        return mark

    layers = zip(model.bert.encoder.layer, fired, strict=True)
    return [layer.intermediate.register_forward_hook(marking(marks)) for layer, marks in layers]


@torch.no_grad()
def as_report(model: BertForPreTraining, held: Books, device: str) -> dict[str, float]:
    """A quick look at held-out text: MLM loss and accuracy, NSP accuracy, neurons that never fire."""
    rng = np.random.default_rng(1)
    fired = [torch.zeros(model.config.intermediate_size, dtype=torch.bool) for _ in model.bert.encoder.layer]
    hooks = watch(model, fired)
    total = right = count = 0.0
    pairs = paired = 0
    for _ in range(12):
        batch = draw(held, rng, ((128, False, 1.0),), device)
        states = model.bert(input_ids=batch["ids"], token_type_ids=batch["segments"]).last_hidden_state
        scores = model.cls.predictions(states[batch["chosen"]]).float()
        total += float(cross_entropy(scores, batch["wanted"], reduction="sum"))
        right += float((scores.argmax(-1) == batch["wanted"]).sum())
        count += len(batch["wanted"])
        ids, segments, labels = held.pairs(rng, 16, 128, same_book=0.0)
        given = {"input_ids": torch.from_numpy(ids).to(device), "token_type_ids": torch.from_numpy(segments).to(device)}
        said = model.cls.seq_relationship(model.bert(**given).pooler_output).argmax(-1).cpu().numpy()
        pairs += int((said == labels).sum())
        paired += len(labels)
    for hook in hooks:
        hook.remove()
    silent = 1 - torch.cat(fired).float().mean().item()
    return {"mlm": total / count, "top1": right / count, "nsp": pairs / paired, "silent": silent}


def train(run: Path, books: Books, held: Books, steps: int, seed: int) -> BertForPreTraining:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = build().to(device).train()
    optimizer = optimizer_of(model)
    step, seconds = 0, 0.0
    kept = run / "checkpoint.pt"
    if kept.exists():
        state = torch.load(kept, weights_only=False)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        rng.bit_generator.state = state["rng"]
        step, seconds = state["step"], state["seconds"]
    with (run / "curve.csv").open("a", newline="") as file:
        curve = csv.writer(file)
        if not step:
            curve.writerow(["step", "seconds", "rate", "loss", "held-out mlm", "top-1", "nsp", "silent neurons"])
        started, running = time.perf_counter() - seconds, 0.0
        while step < steps:
            batch = draw(books, rng, BEGINNING if step < SHORT * steps else LATER, device)
            with torch.autocast(device, torch.bfloat16):
                mlm, nsp = losses(model, batch)
            optimizer.zero_grad(set_to_none=True)
            (mlm if nsp is None else mlm + nsp).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = rate(step, steps, 1e-3)
            optimizer.step()
            running = 0.99 * running + 0.01 * float(mlm.detach()) if step else float(mlm.detach())
            step += 1
            if step % 1000 == 0 or step == steps:
                seconds = time.perf_counter() - started
                seen = as_report(model.eval(), held, device)
                model.train()
                curve.writerow([step, round(seconds), optimizer.param_groups[0]["lr"], round(running, 4), *(round(x, 4) for x in seen.values())])  # fmt: skip  # noqa: E501
                file.flush()
                print(f"{step:,} of {steps:,}, {seconds:,.0f} s, loss {running:.3f}, held out {seen}", flush=True)
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
                torch.save({**state, "rng": rng.bit_generator.state, "seconds": seconds}, run / "checkpoint.part")
                (run / "checkpoint.part").replace(kept)
    return model.eval()


def store(model: Path, tokenizer: Tokenizer, folder: Path) -> None:
    """The shipped form: tensors in float16, a config that asks for float32 in memory, tokenizer.json and vocab.txt."""
    folder.mkdir(exist_ok=True)
    tensors = {name: tensor.half() for name, tensor in load_file(model / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((model / "config.json").read_text())
    for name in ("_name_or_path", "hidden_dropout_prob", "attention_probs_dropout_prob"):
        config.pop(name, None)
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=2, sort_keys=True) + "\n")
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    words = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word, _ in words), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("books", type=Path, help="folder of .txt files, a paragraph a line")
    parser.add_argument("run", type=Path, help="folder for what comes of it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=60_000)
    parser.add_argument("--held-out", default=HELD_OUT, help="file names, with commas")
    options = parser.parse_args()
    options.run.mkdir(parents=True, exist_ok=True)
    files = sorted(options.books.glob("*.txt"))
    held = [file for file in files if file.name in options.held_out.split(",")]
    seen = [file for file in files if file not in held]
    path = options.run / "tokenizer.json"
    if not path.exists():
        train_tokenizer(seen).save(str(path))
    tokenizer = Tokenizer.from_file(str(path))
    model = train(options.run, Books.read(tokenizer, seen), Books.read(tokenizer, held), options.steps, options.seed)
    model.save_pretrained(options.run / "model")
    store(options.run / "model", tokenizer, options.run / "pocket")


if __name__ == "__main__":
    main()
