"""Flax's spelling: transformers' names but for the last word, and kernels (in, out)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from bertprobe.anatomy.dialects.dialect import Dialect, Rules

# Words that PyTorch's modules never end a name in. TensorFlow's do not, either, but for `kernel`.
_SLASHED = r"(?:^|/)(?:\w*_embeddings|\w*[Ee]mbedding\w*|\w*[Ll]ayer_?[Nn]orm\w*|shared|norm)/(?:embedding|scale)$"
_DOTTED = (
    r"\.(?:dense|query|key|value|q_lin|k_lin|v_lin|lin1|lin2|ffn|wi|fc1)\.kernel$"
    r"|(?:^|\.)(?:\w*_embeddings\.embedding|\w*[Ll]ayer_?[Nn]orm\w*\.scale)$"
)


def _as_they_are(names: Iterable[str]) -> Rules:
    return ()


def _row(name: str, sign: str, separator: str) -> Dialect:
    return Dialect(
        name=name,
        library="Flax",
        sign=re.compile(sign),
        endings=(),
        rules=_as_they_are,
        leaves={"kernel": "weight", "embedding": "weight", "scale": "weight"},
        turned=frozenset({"kernel"}),
        skipped=re.compile(r"(?:^|[/.])(?:opt_state|batch_stats)[/.]"),
        separator=separator,
    )


# With dots, as transformers 4 wrote Flax models to safetensors.
FLAX: tuple[Dialect, ...] = (_row("Flax", _SLASHED, "/"), _row("Flax, with dots", _DOTTED, "."))
