"""The rules that need headers and settings only: what is there, under which names, and what the config promises."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from bertprobe.anatomy import Anatomy, Part, spans
from bertprobe.anatomy.poolers import never_pools, pooling_modes, why_no_pooler
from bertprobe.checkpoint import TensorHeader
from bertprobe.errors import command, copying, printable, quoted, shortened
from bertprobe.filenames import CONFIGS
from bertprobe.storages import storage_called
from bertprobe.verdicts.evidence import MOST_NAMES, MOST_NUMBERS, Evidence
from bertprobe.verdicts.rule import Observation

UNREAD_STORAGE = "not-loaded-by-transformers"


def pooler_absent(evidence: Evidence) -> Iterator[Observation]:
    if evidence.anatomy.pooler is not None:
        return
    reason, saved_by = why_no_pooler(evidence.checkpoint, evidence.anatomy)
    hint = _WITHOUT_POOLER if never_pools(evidence.anatomy) else _INVENTED_POOLER
    if evidence.anatomy.row.pooling == "end token":
        hint = _AT_ITS_END
    yield Observation(
        "pooler",
        f"there is no pooler: {reason}",
        {"architectures": saved_by, "tensors": len(evidence.anatomy.tensors)},
        hint,
    )


_INVENTED_POOLER = (
    "do not use pooler_output of this checkpoint: transformers would invent its weights anew at every load"
)
_WITHOUT_POOLER = "nothing to mend: pool the hidden states, by mean or by the first token, as this family's users do"
_AT_ITS_END = "nothing to mend: its class gives that state as pooler_output, and no weight is in it"


def pooler_unused(evidence: Evidence) -> Iterator[Observation]:
    if evidence.checkpoint.pooling is None or evidence.anatomy.pooler is None:
        return
    modes = pooling_modes(evidence.checkpoint)
    mode = printable(" and ".join(modes).replace("_", " ")) or "its own"
    yield Observation(
        "pooler",
        f"sentence-transformers takes {mode} of the last hidden states here, not the pooler",
        {"pooling": modes},
        "take the vector that bertprobe pool --vector sentence makes, not pooler_output",
    )


def quantised(evidence: Evidence) -> Iterator[Observation]:
    """Weights that are codes, of which no value is read."""
    codes = {name: header for name, header in evidence.anatomy.tensors.items() if header.is_code}
    if codes:
        name, header = next(iter(codes.items()))
        count = len(codes)
        yield Observation(
            None,
            f"{printable(name)} cannot be read: {header.refusal}{f'; nor can {count - 1:,} more' if count > 1 else ''}",
            {"tensors": list(islice(codes, MOST_NAMES)), "count": count},
            "name the checkpoint that it was made from, or one that the library wrote after dequantising",
        )


def file_truncated(evidence: Evidence) -> Iterator[Observation]:
    """Files that end before their data do; only who asks for every tensor opens one."""
    for told in evidence.checkpoint.truncated:
        yield Observation(None, told, {}, "fetch the file again: what is not there is in no number here")


def _shown(ways: list[str]) -> str:
    """The first ways of a quantisation, with semicolons, as there are commas in them."""
    more = f"; {len(ways) - 3} more" if len(ways) > 3 else ""
    return "; ".join(ways[:3]) + more


def dequantised(evidence: Evidence) -> Iterator[Observation]:
    """Weights that a quantisation left, and that are computed from its codes and scales as its maker does."""
    made = {name: h.derived for name, h in evidence.anatomy.tensors.items() if h.derived and h.derived.quantised}
    if made:
        ways = list(dict.fromkeys(derived.quantised for derived in made.values()))
        yield Observation(
            None,
            f"{len(made):,} of {len(evidence.anatomy.tensors):,} tensors are quantised "
            f"({printable(_shown(ways))}): their numbers are dequantised, near the original ones and not those",
            {"tensors": list(islice(made, MOST_NAMES)), "count": len(made), "ways": ways},
            "take the checkpoint that it was made from where digits matter; bertprobe diff tells the error beside it",
        )


def unreadable(evidence: Evidence) -> Iterator[Observation]:
    """Tensors of the parts that the file lists in a way that gives no values."""
    for part in evidence.anatomy.parts:
        for name, header in part.tensors.items():
            if header.refusal is not None and not header.is_code:
                yield Observation(
                    part.label,
                    f"{printable(name)} cannot be read: {printable(header.refusal)}",
                    {"tensor": name, "reason": header.refusal},
                    "load the model and save it again with save_pretrained",
                )


def config_invalid(evidence: Evidence) -> Iterator[Observation]:
    """A setting of a type or size that none can have: transformers aborts, or computes with it."""
    for key, fault in evidence.checkpoint.faults.items():
        yield Observation(
            None,
            f"config.json gives {printable(key)} as {fault}",
            {"key": key},
            "correct config.json: the tensors' shapes give the sizes, the family's own config the rest",
        )


def shape_mismatch(evidence: Evidence) -> Iterator[Observation]:
    anatomy, spec = evidence.anatomy, evidence.anatomy.config_spec
    for part in anatomy.parts:
        weight = part.weight
        if weight is not None and weight.refusal is not None:
            continue  # what cannot be read may be of a shape that is not told
        if weight is not None and part.stack is None and part.index is None and not anatomy.layout.own_widths:
            yield from _part_shape(part, weight, spec.hidden_size, spec.intermediate_size)
        if weight is not None and part.bias is not None and part.bias.count != _neurons(weight):
            shapes: dict[str, Any] = {"weight": list(weight.shape), "bias": list(part.bias.shape)}
            yield Observation(
                part.label,
                f"its weight has {_neurons(weight):,} rows, its bias {part.bias.count:,} entries",
                shapes,
                "the file is damaged or was put together wrongly: fetch it again",
            )
    words = anatomy.tensors.get("embeddings.word_embeddings.weight")
    if words is not None and type(spec.vocab_size) is int and words.shape[:1] != (spec.vocab_size,):
        evidence_ = {"vocab_size": spec.vocab_size, "embeddings": list(words.shape)}
        yield _mismatch(
            None,
            f"config.json says vocab_size {spec.vocab_size}, the embeddings are {'×'.join(map(str, words.shape))}",
            evidence_,
        )
    if (
        type(spec.layers) is int
        and 0 <= spec.layers < len(anatomy.layers)
        and not (anatomy.layout.shared or anatomy.layout.counted_apart)
    ):
        yield _mismatch(
            None,
            f"config.json says {spec.layers} layers, the tensors have {len(anatomy.layers)}: the last are dropped",
            {"config": spec.layers, "tensors": len(anatomy.layers)},
        )


def _neurons(weight: TensorHeader) -> int:
    return weight.shape[0] * weight.shape[1] if len(weight.shape) == 3 and weight.axes else (weight.shape or (0,))[0]


def _part_shape(part: Part, weight: TensorHeader, hidden: Any, inner: Any) -> Iterator[Observation]:
    if len(weight.shape) != 2 or type(hidden) is not int:
        return
    expected = (hidden, hidden) if part.role == "pooler" else (inner, hidden)
    if type(expected[0]) is int and weight.shape != expected:
        yield _mismatch(
            part.label,
            f"config.json asks for {expected[0]}×{expected[1]}, the tensor is {weight.shape[0]}×{weight.shape[1]}",
            {"config": list(expected), "tensor": list(weight.shape)},
        )


def _mismatch(part: str | None, message: str, evidence: Mapping[str, Any]) -> Observation:
    return Observation(part, message, evidence, "correct config.json: the tensors' shapes are right")


def layers_missing(evidence: Evidence) -> Iterator[Observation]:
    anatomy = evidence.anatomy
    spec = anatomy.config_spec.layers
    there = anatomy.layers
    if not anatomy.of("intermediate"):
        yield from _no_layers(evidence)
    if not there or anatomy.layout.shared:
        return
    count = max(spec, there[-1] + 1) if type(spec) is int else there[-1] + 1
    if count > 100_000:
        count = there[-1] + 1 if there[-1] < 100_000 else 0
    missing = sorted(set(range(count)) - set(there))
    if missing:
        yield Observation(
            None,
            f"{len(missing)} of {count} layers have no intermediate: {spans(missing[:MOST_NUMBERS])}"
            + (" and more" if len(missing) > MOST_NUMBERS else ""),
            {
                "missing": missing[:MOST_NUMBERS],
                "there": list(there[:MOST_NUMBERS]),
                "config": spec,
                "count": len(missing),
            },
            "fetch the missing shard; transformers would fill these layers with random numbers",
        )
    yield from _tensors_missing(anatomy)
    if anatomy.layout.canonical:
        yield from _holes(anatomy)


_NUMBERED = r"(?:^|\.)(?:layers?|blocks?|h)\.\d{1,9}\."


def _no_layers(evidence: Evidence) -> Iterator[Observation]:
    """A pooler and no layer that is known, though there are layers or should be; a file of `export` may be so."""
    anatomy, spec = evidence.anatomy, evidence.anatomy.config_spec.layers
    numbered = next((name for name in anatomy.tensors if re.search(_NUMBERED, name)), None)
    expected = type(spec) is int and spec > 0
    if "bertprobe_version" in evidence.checkpoint.metadata or (numbered is None and not expected):
        return
    why = f"config.json says {spec}" if numbered is None else f"there are tensors such as {printable(numbered[:100])}"
    yield Observation(
        None,
        f"no layer has an intermediate module under a known name, though {why}",
        {"missing": [], "count": spec if type(spec) is int else None, "there": [], "config": spec},
        "if its names are of another layout than BERT's, only its pooler can be looked at; else fetch it again",
    )


def _tensors_missing(anatomy: Anatomy) -> Iterator[Observation]:
    """Parts that lack the weight or bias which their like have."""
    with_bias = {part.role for part in anatomy.parts if part.bias is not None} | {"pooler"}
    for part in anatomy.parts:
        lacks = [kind for kind, tensor in (("weight", part.weight), ("bias", part.bias)) if tensor is None]
        if "weight" in lacks or ("bias" in lacks and part.role in with_bias):
            yield Observation(
                part.label,
                f"the {' and '.join(lacks)} is missing",
                {"missing": lacks, "there": list(part.tensors)},
                "fetch the checkpoint again; transformers would fill it with invented numbers",
            )


_AROUND = r"encoder\.layer\.(0|[1-9][0-9]{0,8})\.((?!intermediate\.).+)"


def _holes(anatomy: Anatomy) -> Iterator[Observation]:
    """Layers that lack a tensor, outside the intermediate module, which the other layers have."""
    layers: dict[int, set[str]] = {number: set() for number in anatomy.layers}
    around = re.compile(_AROUND)
    for name in anatomy.tensors:
        match = around.fullmatch(name)
        if match and int(match[1]) in layers:
            layers[int(match[1])].add(match[2])
    everywhere = sorted(set().union(*layers.values()))
    for number, names in layers.items():
        count = len(everywhere) - len(names)
        if count:
            # As far as they are listed: a difference of sets, layer by layer, would be a product of their sizes.
            missing = list(islice((name for name in everywhere if name not in names), MOST_NAMES))
            told = shortened(missing[:3]) + (f" and {count - 3} more" if count > 3 else "")
            yield Observation(
                f"intermediate.{number}",
                f"layer {number} lacks tensors that other layers have: {printable(told)}",
                {"missing": missing, "layer": number, "count": count},
                "fetch the checkpoint again; transformers would fill the gaps with invented numbers",
            )


def names_hidden(evidence: Evidence) -> Iterator[Observation]:
    unknown_prefix, wrapper = evidence.anatomy.unknown_prefix, evidence.checkpoint.wrapper
    anew = command("bertprobe", "export", *evidence.checkpoint.words, "--part", "model", "-o", "NEW/model.safetensors")
    fate = "transformers would load random weights and raise no error"
    if storage_called(evidence.checkpoint.storage).unread:
        return  # it looks at no name in such a file
    if wrapper:
        yield Observation(
            None,
            f"the tensors lie under {quoted(wrapper)} in the pickle, where transformers does not look: {fate}",
            {"wrapper": wrapper, "prefix": evidence.anatomy.prefix, "hiding": unknown_prefix},
            f"rewrite the file with {anew}, and put config.json beside it",
        )
    elif evidence.anatomy.spelling:
        yield Observation(
            None,
            f"tensor names are in {evidence.anatomy.spelling}'s spelling, which transformers does not look for: {fate}",
            {"prefix": evidence.anatomy.prefix, "hiding": unknown_prefix},
            f"rewrite the file with {anew}, and put config.json beside it",
        )
    elif evidence.anatomy.wrapping:
        word = evidence.anatomy.wrapping
        yield Observation(
            None,
            f"tensor names contain {quoted(word)}, left by a training tool: {fate}",
            {"prefix": evidence.anatomy.prefix, "hiding": unknown_prefix, "wrapping": word},
            f"rewrite the file with {anew}, and put config.json beside it",
        )
    elif unknown_prefix:
        pattern = f"^{re.escape(unknown_prefix)}"
        plain = pattern.isprintable() and '"' not in pattern  # else it would be other code than it looks
        mapping = f'key_mapping={{r"{pattern}": ""}}' if plain else f'key_mapping={{{pattern!r}: ""}}'
        everywhere = all(header.name.startswith(unknown_prefix) for header in evidence.anatomy.tensors.values())
        whose = "every name" if everywhere else "every name of the encoder that is read"
        yield Observation(
            None,
            f"{whose} begins with {quoted(unknown_prefix)}: {fate}",
            {"prefix": evidence.anatomy.prefix, "hiding": unknown_prefix},
            f"pass {printable(mapping)} to from_pretrained, or rewrite the file with {anew}",
        )


def unread_storage(evidence: Evidence) -> Iterator[Observation]:
    unread = storage_called(evidence.checkpoint.storage).unread
    if not unread:
        return
    config = evidence.checkpoint.config_file
    copy = "" if config is None else f" && {copying(config, evidence.checkpoint.beside, Path('NEW/config.json'))}"
    if config is None and not {*CONFIGS} & {*evidence.checkpoint.carried}:  # what is carried is written with the model
        copy = "; it needs a config.json beside it, too"
    export = command(
        "bertprobe", "export", *evidence.checkpoint.words, "--part", "model", "-o", "NEW/model.safetensors"
    )
    yield Observation(
        None,
        unread,
        {"storage": evidence.checkpoint.storage, "config": None if config is None else str(config)},
        f"convert it: mkdir NEW && {export}{copy}",
    )


_WIDTH = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_DIGITS = {"F64": (11, 52), "F32": (8, 23), "F16": (5, 10), "BF16": (8, 7)}  # exponent and fraction bits


def dtype_narrowed(evidence: Evidence) -> Iterator[Observation]:
    config = evidence.checkpoint.config or {}
    said = config.get("dtype") or config.get("torch_dtype")
    target = _WIDTH.get(str(said).removeprefix("torch."))
    whole = (h for h in evidence.anatomy.tensors.values() if h.derived is None or not h.derived.quantised)
    stored = sorted({h.dtype for h in whole if h.dtype in _DIGITS})
    narrowed = [
        dtype for dtype in stored if target and any(a > b for a, b in zip(_DIGITS[dtype], _DIGITS[target], strict=True))
    ]
    if narrowed:
        yield Observation(
            None,
            f"the file holds {' and '.join(narrowed)}, config.json says {printable(str(said))}: "
            "from_pretrained casts it down silently",
            {"stored": stored, "config": said},
            "pass dtype=torch.float32 (or what the file holds) to from_pretrained to keep every digit",
        )


def relative_positions(evidence: Evidence) -> Iterator[Observation]:
    kind = evidence.anatomy.settings.get("position_embedding_type")
    distances = [name for name in evidence.anatomy.tensors if name.endswith("distance_embedding.weight")]
    if kind in ("relative_key", "relative_key_query") and evidence.anatomy.layout.canonical:
        yield Observation(
            None,
            f"positions are {kind}, which transformers 5 ignores silently: its activations are wrong",
            {"position_embedding_type": kind, "distance_embeddings": len(distances)},
            "run this model with transformers 4; the weights shown here are read from the file and are right",
        )


def duplicate_tensors(evidence: Evidence) -> Iterator[Observation]:
    for name, stored in evidence.anatomy.duplicates.items():
        claims = (
            " and ".join(stored) if len(stored) <= 3 else shortened(list(stored[:3])) + f" and {len(stored) - 3} more"
        )
        yield Observation(
            None,
            f"{len(stored)} tensors claim to be {printable(name)}: {printable(claims)}",
            {"canonical": name, "stored": list(stored[:MOST_NAMES]), "count": len(stored)},
            f"the first is shown here, transformers may take either: save again without {printable(stored[-1])}",
        )
