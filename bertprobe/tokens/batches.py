"""Texts, however many, as batches of tokens end to end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from bertprobe.errors import BertprobeError, quoted
from bertprobe.tokens.encoded import Encoded, Packed, Text, Tokenizer

T = TypeVar("T")

# A window is what is sorted by length before it is cut into batches; a chunk is what is tokenized at once. Both bound
# memory: the library holds some 100 bytes for every character it works on.
WINDOW_TOKENS = 2**19
WINDOW_TEXTS = 4096
CHUNK_TEXTS = 256
CHUNK_CHARACTERS = 2**18


def pack(encoded: Sequence[Encoded], places: Sequence[int] | None = None) -> Packed:
    """Texts end to end, the longest first; `places` says where each stood in the input, by default as given."""
    import numpy as np

    known = range(len(encoded)) if places is None else places
    texts = sorted(zip(known, encoded, strict=True), key=lambda text: -len(text[1]))
    nothing = np.zeros(0, dtype=np.int64)
    lengths = np.array([len(text) for _, text in texts], dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    return Packed(
        ids=np.concatenate([nothing, *(text.ids for _, text in texts)]),
        positions=np.arange(lengths.sum(), dtype=np.int64) - np.repeat(starts, lengths),
        segments=np.concatenate([nothing, *(text.segments for _, text in texts)]),
        lengths=lengths,
        tokens=tuple(text.tokens for _, text in texts),
        places=np.array([place for place, _ in texts], dtype=np.int64),
        truncated=np.array([text.truncated for _, text in texts], dtype=np.int64),
    )


def batches(
    tokenizer: Tokenizer,
    texts: Iterable[str],
    *,
    budget: int,
    longest: int,
    truncate: bool = False,
    pairs: bool = False,
) -> Iterator[Packed]:
    """Texts, however many, as batches of at most `budget` tokens: `packed` of what `encoded` gives.

    Args:
        budget: tokens in a batch.
        longest: tokens that the model takes of one text, special tokens included.
        truncate: cut texts that are longer; they are an error otherwise.
        pairs: take the texts two by two; `places` then count pairs.

    Raises:
        BertprobeError: a text is too long, comes to no tokens, or has no partner.
    """
    return packed(encoded(tokenizer, texts, longest=longest, truncate=truncate, pairs=pairs), budget)


def encoded(
    tokenizer: Tokenizer, texts: Iterable[str], *, longest: int, truncate: bool = False, pairs: bool = False
) -> Iterator[Encoded]:
    """Each text as tokens, in their order; texts are read and tokenized some hundreds at a time, as they are taken."""
    items: Iterable[Text] = _paired(texts) if pairs else texts
    place = 0
    for chunk in chunks(items, _characters):
        for item, text in zip(chunk, tokenizer.encode_many(chunk, longest=longest if truncate else None), strict=True):
            place += 1
            check_length(len(text), longest, partial(_named, item, place))
            yield text


def packed(texts: Iterable[Encoded], budget: int) -> Iterator[Packed]:
    """Texts that are tokens already, however many, as batches of at most `budget` tokens.

    A text that is longer alone is a batch by itself. Texts are taken a window at a time and sorted within it, so memory
    is bounded by the window and its first batch is the worst.
    """
    for window in _windows(texts, max(WINDOW_TOKENS, budget)):
        yield from _batches_of(window, budget)


def _windows(texts: Iterable[Encoded], most: int) -> Iterator[list[tuple[int, Encoded]]]:
    """Texts with their places in the input, some thousands at a time."""
    window: list[tuple[int, Encoded]] = []
    tokens = 0
    for place, text in enumerate(texts):
        window.append((place, text))
        tokens += len(text)
        if tokens >= most or len(window) >= WINDOW_TEXTS:
            yield window
            window, tokens = [], 0
    if window:
        yield window


def _batches_of(window: list[tuple[int, Encoded]], budget: int) -> Iterator[Packed]:
    """A window as batches, the longest text of all first."""
    batch: list[tuple[int, Encoded]] = []
    tokens = 0
    for place, text in sorted(window, key=lambda text: -len(text[1])):
        if batch and tokens + len(text) > budget:
            yield _packed(batch)
            batch, tokens = [], 0
        batch.append((place, text))
        tokens += len(text)
    yield _packed(batch)


def _packed(batch: list[tuple[int, Encoded]]) -> Packed:
    return pack([text for _, text in batch], [place for place, _ in batch])


def chunks(items: Iterable[T], characters: Callable[[T], int]) -> Iterator[list[T]]:
    """Texts, or what has one, as many at a time as are tokenized at once."""
    chunk: list[T] = []
    total = 0
    for item in items:
        chunk.append(item)
        total += characters(item)
        if len(chunk) >= CHUNK_TEXTS or total >= CHUNK_CHARACTERS:
            yield chunk
            chunk, total = [], 0
    if chunk:
        yield chunk


def _characters(item: Text) -> int:
    return sum(map(len, item)) if isinstance(item, tuple) else len(item)


def _paired(texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    source = iter(texts)
    for place, first in enumerate(source):
        second = next(source, None)
        if second is None:
            raise BertprobeError(
                f"text {2 * place + 1:,} ({beginning(first)}) has no partner",
                "`pairs=True` takes the texts two by two",
            )
        yield first, second


def check_length(tokens: int, longest: int, what: Callable[[], str]) -> None:
    """Raises `BertprobeError` for a text of no tokens or of more than a model takes; `what` names it."""
    if 0 < tokens <= longest:
        return
    if tokens == 0:
        raise BertprobeError(f"{what()} comes to no tokens", "leave it out: this tokenizer adds no special tokens")
    raise BertprobeError(
        f"{what()} has {tokens:,} tokens, the model takes {longest:,}", "shorten it, or have it cut: `truncate=True`"
    )


def _named(item: Text, number: int) -> str:
    kind, text = ("pair", item[0]) if isinstance(item, tuple) else ("text", item)
    return f"{kind} {number:,} ({beginning(text)})"


def beginning(text: str, most: int = 30) -> str:
    """How a text begins, in quotes, safe to print."""
    return quoted(text if len(text) <= most else text[: most - 1] + "…")
