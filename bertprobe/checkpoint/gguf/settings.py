"""What the key-value pairs of a GGUF file say of a model, as the files of a model's folder would say it.

llama.cpp's converter keeps what its own graph needs, and the graph knows the rest by the architecture. So the config is
that of the model a file was made from, as far as it can be told; what cannot is left out, or said in a remark. The
converter is conversion/bert.py of llama.cpp: BertModel, RobertaModel, DistilBertModel and NomicBertModel.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bertprobe.checkpoint.gguf.header import Header
from bertprobe.checkpoint.gguf.vocabulary import Carried, Vocabulary
from bertprobe.checkpoint.source import Source
from bertprobe.errors import printable, quoted
from bertprobe.filenames import CONFIGS, MODULES, POOLING

_NOTES = ("general.architecture", "general.name", "general.file_type", "general.quantized_by", "general.license")
_MOST_NOTE = 1_000
_POOLED = {1: "pooling_mode_mean_tokens", 2: "pooling_mode_cls_token", 3: "pooling_mode_lasttoken"}
_SIZES = ("embedding_length", "feed_forward_length", "block_count", "attention.head_count")
_EPS = "attention.layer_norm_epsilon"
_BASE = "rope.freq_base"
_LEAST_POSITIONS = 128  # of a table whose size tells anything
_EVEN = 64  # what tables of positions counted from 0 are multiples of
POSITIONS, WORDS, SEGMENTS = "position_embd.weight", "token_embd.weight", "token_types.weight"

_CONVERTER = "llama.cpp's converter leaves out the pooler and the heads of pretraining, whatever the model has"
_ACTIVATION = (
    "the file does not tell the activation: where no config.json beside it does, gelu is taken, as the models it is "
    "made from have it; llama.cpp computes its tanh approximation"
)
_SPELLING = "the vocabulary is put back into WordPiece's spelling, and text is split as BERT does it"
_CLEANING = (
    f"{_SPELLING}; whether it is lower-cased and loses its accents is not in the file, and told by the vocabulary"
)
_CUT = (
    "its converter cuts the rows before the first position off RoBERTa's table, so positions are counted from 0, "
    "as BERT's are, and model_type is bert"
)
_DISTILLED = "there is no table of segments, as only DistilBERT has none: its layout is taken"


@dataclass(slots=True)
class Told:
    """What a file tells: small files by name, notes, remarks, and whether fused matrices are to be taken apart.

    `refused` are tensors, by name, that would give a wrong number, each with the reason.
    """

    settings: Mapping[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    parted: bool = False
    refused: dict[str, str] = field(default_factory=dict)


def carried(source: Source, header: Header) -> Told:
    """What the pairs of a file come to; of a later part of a file in several, which has none of its own, nothing."""
    values = header.values
    notes = {key: printable(str(values[key]))[:_MOST_NOTE] for key in _NOTES if key in values}
    architecture = values.get("general.architecture")
    if not isinstance(architecture, str) or values.get("split.no", 0):
        return Told(notes=notes)
    told = _Model(source, header, architecture)
    if architecture == "bert":
        texts = told.bert()
    elif architecture == "nomic-bert":
        texts = told.nomic()
    else:  # a name that no family has: it is told in the error that follows
        texts = {"model_type": architecture[:100]}
    files = {} if texts is None else {CONFIGS[0]: json.dumps(texts)}
    known = architecture in ("bert", "nomic-bert")
    if known and texts is not None:
        files |= told.pooling()
    vocabulary = told.vocabulary if known and told.vocabulary.is_there else None
    if known:
        told.remark_tokenizer()
    return Told(Carried(files, vocabulary), notes, tuple(told.remarks), architecture == "bert", told.refused)


class _Model:
    """The pairs of a file with a BERT in it, and what is to be remarked of them."""

    def __init__(self, source: Source, header: Header, architecture: str) -> None:
        self._header, self._values = header, header.values
        self._name = architecture
        self._shapes = {info.name: info.dimensions[::-1] for info in header.tensors}
        self.vocabulary = Vocabulary(source, header)
        self.remarks: list[str] = []
        self.refused: dict[str, str] = {}

    def bert(self) -> dict[str, Any] | None:
        """The config of BERT, or of what its converter makes one of: RoBERTa and its kin, and DistilBERT."""
        sizes = self._sizes()
        if sizes is None:
            return None
        hidden, inner, layers, heads, eps = sizes
        self.remarks += [_ACTIVATION, _CONVERTER]
        whole = not self._values.get("split.count", 0)  # else other tensors lie in other files
        if whole and self._shapes and SEGMENTS not in self._shapes:
            return self._distilbert()
        model_type = self._counted()
        if POSITIONS in self.refused and POSITIONS not in self._shapes:
            self.remarks.append("its settings are not made a config: the table of positions lies in another file")
            return None
        return {
            "model_type": model_type,
            "hidden_size": hidden,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "layer_norm_eps": eps,
            **self._rows("max_position_embeddings", POSITIONS),
            **self._rows("vocab_size", WORDS),
            **self._rows("type_vocab_size", SEGMENTS),
            **self._padding(),
        }

    def _distilbert(self) -> dict[str, Any] | None:
        sizes = self._sizes()
        if sizes is None:
            return None
        hidden, inner, layers, heads, eps = sizes
        if eps != 1e-12:
            self.remarks.append("there is no table of segments, and no family is known that has such a layer norm")
            return None
        self.remarks.append(_DISTILLED)
        return {
            "model_type": "distilbert",
            "dim": hidden,
            "hidden_dim": inner,
            "n_layers": layers,
            "n_heads": heads,
            **self._rows("max_position_embeddings", POSITIONS),
            **self._rows("vocab_size", WORDS),
            **self._padding(),
        }

    def nomic(self) -> dict[str, Any] | None:
        """The config of Nomic's BERT, which turns queries and keys by their positions."""
        sizes = self._sizes(_BASE)
        if sizes is None:
            return None
        hidden, inner, layers, heads, eps = sizes
        self.remarks.append("the file does not tell the activation: silu is taken, as Nomic's BERT has it")
        return {
            "model_type": "nomic_bert",
            "hidden_size": hidden,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "layer_norm_eps": eps,
            "rope_parameters": {"rope_type": "default", "rope_theta": shortest(self._of(_BASE))},
            "max_position_embeddings": self._of("context_length") or 2048,
            **self._rows("vocab_size", WORDS),
            **self._rows("type_vocab_size", SEGMENTS),
            **self._padding(),
        }

    def pooling(self) -> dict[str, str]:
        """The files of sentence-transformers that say how a text's vector is made, where the file says it."""
        kind = self._of("pooling_type")
        mode = _POOLED.get(kind) if type(kind) is int else None
        if mode is None:
            return {}
        self.remarks.append(
            f"the vector of a text is made as the file says ({mode.removeprefix('pooling_mode_').replace('_', ' ')}); "
            "whether it is then normalised, and at how many tokens texts are cut, it does not tell"
        )
        settings = {"word_embedding_dimension": self._of("embedding_length")}
        settings |= {name: name == mode for name in _POOLED.values()}
        kinds = (("", "Transformer"), (POOLING.partition("/")[0], "Pooling"))
        modules = [
            {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for place, (path, kind) in enumerate(kinds)
        ]
        return {POOLING: json.dumps(settings), MODULES: json.dumps(modules)}

    def remark_tokenizer(self) -> None:
        kind = self._values.get("tokenizer.ggml.model")
        if self.vocabulary.is_there:
            self.remarks.append(_SPELLING if self.vocabulary.tells_case else _CLEANING)
        elif kind is not None:
            self.remarks.append(
                f"its tokenizer, of the kind {quoted(str(kind))}, is not rebuilt: the file does not hold all of it"
            )

    def _of(self, key: str) -> Any:
        return self._values.get(f"{self._name}.{key}")

    def _sizes(self, *others: str) -> tuple[int, int, int, int, float] | None:
        """What no config can do without; None, with a remark, where one of them is missing or is none."""
        numbers = [self._of(key) for key in (*_SIZES, _EPS, *others)]
        for key, number in zip((*_SIZES, _EPS, *others), numbers, strict=True):
            wanted = int if key in _SIZES else float
            if type(number) is not wanted or not 0 < number < 2**31:
                self.remarks.append(f"its settings are not made a config: {self._name}.{key} is missing, or no number")
                return None
        hidden, inner, layers, heads, eps = numbers[:5]
        return hidden, inner, layers, heads, shortest(eps)

    def _rows(self, key: str, name: str) -> dict[str, int]:
        shape = self._shapes.get(name)
        return {key: shape[0]} if shape else {}

    def _padding(self) -> dict[str, int]:
        found = self._values.get("tokenizer.ggml.padding_token_id")
        return {"pad_token_id": found} if type(found) is int else {}

    def _counted(self) -> str:
        """The family whose positions are counted as the table's are: BERT's from 0, RoBERTa's from the padding on.

        A converter that knows the padding's id cuts RoBERTa's table; one that takes the model for a BERT does not.
        """
        told = self._of("context_length")
        rows = self._rows("rows", POSITIONS).get("rows", told if type(told) is int else 0)
        whole = _is_power(rows - 2)
        if self._values.get("tokenizer.ggml.model", "bert") == "bert":
            if not whole or not self.vocabulary.is_there or self.vocabulary.special("cls_token") != "<s>":
                return "bert"
        elif not whole and (_is_power(rows) or (rows and rows % _EVEN == 0)):
            self.remarks.append(_CUT)
            return "bert"
        if whole and self._values.get("tokenizer.ggml.padding_token_id", 1) == 1:
            return "roberta"
        self.refused[POSITIONS] = (
            f"it has {rows:,} rows, of which the file does not tell whether the first is the first position"
        )
        return "bert"


def _is_power(rows: int) -> bool:
    return rows >= _LEAST_POSITIONS and rows & (rows - 1) == 0


def shortest(number: float) -> float:
    """The shortest decimal that is this float32: what a config said before it was put into four bytes."""
    bits = struct.pack("<f", number)
    tries = (float(f"{number:.{digits}g}") for digits in range(1, 10))
    return next((found for found in tries if struct.pack("<f", found) == bits), number)
