"""How much a tokenizer may make of a text: what its file sets, bounded before any text is turned into tokens.

A tokenizer.json of a few kilobytes can have each letter replaced by a thousand, three times over, or every text begin
with millions of special tokens; the library does as it is told until memory ends. Everything else that it does is
linear in the text, or bounded by itself (its regular expressions).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bertprobe.errors import BertprobeError, UnsupportedFile

if TYPE_CHECKING:
    import tokenizers

MOST_CHARACTERS = 2**23  # of a text once it is normalised: the library holds some 100 bytes for each
MOST_SPECIAL = 1_000  # special tokens around a text; BERT has two or three
MOST_STEPS = 100  # components that a text passes one after the other; those in use have up to ten
LONGEST_WORD = 1_000  # characters that WordPiece takes apart, in time that goes by their square; BERT's are 100
LONGEST_AFFIX = 100  # characters put before or behind each piece of a word; BERT's ## are two
BY_UNICODE = 64  # bytes that Unicode's own normal forms may make of a character; longer is an author's own


class Growth(NamedTuple):
    """What normalising makes of a text at most: `added` characters, then all of them times `factor`."""

    factor: int
    added: int

    def check(self, text: str) -> None:
        """Raises `BertprobeError` for a text that could become too long."""
        most = (len(text) + self.added) * self.factor
        if most > max(MOST_CHARACTERS, len(text)):
            raise BertprobeError(
                f"a text of {len(text):,} characters may become {most:,} by this tokenizer's normalizer, "
                f"the most that is run is {MOST_CHARACTERS:,}",
                "split the text, if the tokenizer is the one you trust",
            )


def bounded(backend: tokenizers.Tokenizer, name: str) -> Growth:
    """What a tokenizer makes of a text at most; raises `UnsupportedFile` for one that sets no bound of use."""
    parts = [_state(part) for part in (backend.normalizer, backend.pre_tokenizer, backend.post_processor)]
    normalizer, _, post = parts
    steps = sum(1 for part in parts for _ in _flat(part))
    _check(name, "steps", steps, MOST_STEPS)
    _check(name, "special tokens around a text", _special(post), MOST_SPECIAL)
    model: Any = backend.model
    _check(name, "characters of a word to take apart", getattr(model, "max_input_chars_per_word", 0), LONGEST_WORD)
    for affix in ("continuing_subword_prefix", "end_of_word_suffix"):
        _check(name, f"characters in its {affix}", len(getattr(model, affix, None) or ""), LONGEST_AFFIX)
    return _growth(normalizer)


def _check(name: str, what: str, found: int, most: int) -> None:
    if found > most:
        raise UnsupportedFile(f"{name} has {found:,} {what}, more than {most:,}", "no tokenizer in use does: mend it")


def _state(component: Any) -> Mapping[str, Any]:
    """The settings of a component, as it is pickled; empty where there is none."""
    return {} if component is None else dict(json.loads(component.__getstate__()))


def _flat(state: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A component, or those of a sequence of them, one after the other, however they are nested."""
    inner = next((state[key] for key in ("normalizers", "pretokenizers", "processors") if key in state), None)
    if inner is None:
        yield from [state] if state else []
        return
    for part in inner:
        yield from _flat(part)


def _growth(normalizer: Mapping[str, Any]) -> Growth:
    factor, added = 1, 0
    for step in _flat(normalizer):
        if step["type"] == "Replace":
            factor *= _by_replacing(step["pattern"], step["content"])
        elif step["type"] == "Prepend":
            added += len(step["prepend"])
        elif step["type"] == "Precompiled":
            factor *= _by_table(step["precompiled_charsmap"])
    return Growth(factor, added)


def _by_replacing(pattern: Mapping[str, str], content: str) -> int:
    """A plain pattern is as long as it is; a regular expression may match nothing, before every character."""
    plain = pattern.get("String", "")
    return max(1, -(-len(content) // len(plain))) if plain else 1 + len(content)


def _by_table(table: str | Sequence[int]) -> int:
    """SentencePiece's table: the size of a trie, the trie, and what it leads to, each ended by a zero byte."""
    import base64

    data = base64.b64decode(table) if isinstance(table, str) else bytes(table)
    start = 4 + int.from_bytes(data[:4], "little")
    longest = max(map(len, data[start:].split(b"\0")), default=0)
    return 1 if longest <= BY_UNICODE else longest


def _special(post: Mapping[str, Any]) -> int:
    """The most tokens that a post-processor puts around one text or two."""
    return sum(_of_template(part.get(which, ()), part) for part in _flat(post) for which in ("single", "pair"))


def _of_template(template: Sequence[Mapping[str, Any]], post: Mapping[str, Any]) -> int:
    """Those of one template; a text that stands there again counts as more than any tokenizer may put around it."""
    known = post.get("special_tokens", {})
    names = [piece["SpecialToken"]["id"] for piece in template if "SpecialToken" in piece]
    texts = [piece["Sequence"]["id"] for piece in template if "Sequence" in piece]
    again = MOST_SPECIAL * (len(texts) - len(set(texts)))
    return again + sum(len(known[name]["ids"]) if name in known else 1 for name in names)
