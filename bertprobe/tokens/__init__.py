"""Text → packed tokens: the tokenizer found beside the weights, and batches without padding.

The tokenizer runs on the `tokenizers` library alone. A `tokenizer.json` is taken as it stands, but for padding and
truncation; a `vocab.txt` where BERT's own rules (WordPiece after BERT's cleaning and splitting) are all there is to it.
Any other is `transformers`' affair, and handed in by whoever has it.
"""

from __future__ import annotations

from bertprobe.tokens.batches import batches, beginning, check_length, chunks, encoded, pack, packed
from bertprobe.tokens.encoded import Encoded, Packed, Placed, Text, Tokenizer
from bertprobe.tokens.fast import FastTokenizer
from bertprobe.tokens.files import check_rows, check_vocabulary, open_tokenizer

__all__ = [
    "Encoded",
    "FastTokenizer",
    "Packed",
    "Placed",
    "Text",
    "Tokenizer",
    "batches",
    "beginning",
    "check_length",
    "check_rows",
    "check_vocabulary",
    "chunks",
    "encoded",
    "open_tokenizer",
    "pack",
    "packed",
]
