"""Whether a checkpoint goes through our own encoder: one of BERT's layout with all that its formulas need."""

from __future__ import annotations

from bertprobe.anatomy import Anatomy
from bertprobe.errors import printable

EMBEDDINGS = (
    "embeddings.word_embeddings.weight",
    "embeddings.position_embeddings.weight",
    "embeddings.token_type_embeddings.weight",
    "embeddings.LayerNorm.weight",
    "embeddings.LayerNorm.bias",
)


def why_not_native(anatomy: Anatomy) -> str | None:
    """Why a checkpoint cannot go through our encoder, None where it can."""
    config = anatomy.settings
    if not (anatomy.layout.canonical and anatomy.row.native):
        return f"the family {anatomy.family} is not of BERT's layout"
    if config.get("is_decoder") or config.get("add_cross_attention"):
        return "its config makes it a decoder"
    if config.get("position_embedding_type", "absolute") != "absolute":
        return f"its positions are {printable(str(config['position_embedding_type']))}"
    missing = [name for name in EMBEDDINGS if name not in anatomy.tensors]
    return f"it has no {missing[0]}" if missing else None
