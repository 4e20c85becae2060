"""Some texts of a corpus, drawn evenly from all of it, the same ones whenever they are drawn."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator

from bertprobe.corpus import Corpus, Document


def drawn(corpus: Corpus, count: int, seed: int) -> list[Document]:
    """`count` documents in the order of the corpus, or all where there are no more; each is as likely as any other.

    They are those whose seed, file and row have the smallest hashes: the corpus is read once, and the documents of a
    smaller count are among those of a larger one.
    """
    ranked = heapq.nsmallest(count, ((_hash(document, seed), document.number, document) for document in _all(corpus)))
    return [document for _, _, document in sorted(ranked, key=lambda one: one[1])]


def _all(corpus: Corpus) -> Iterator[Document]:
    return (document for document in corpus.documents() if document.text.strip())


def _hash(document: Document, seed: int) -> int:
    told = f"{seed} {document.file} {document.row}".encode()
    return int.from_bytes(hashlib.blake2b(told, digest_size=8).digest(), "little")
