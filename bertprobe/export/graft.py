"""The parts of one checkpoint put into another: a whole folder, as transformers loads it with nothing missing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bertprobe._version import __version__
from bertprobe.anatomy import Anatomy, Part, select
from bertprobe.anatomy.poolers import never_pools, pooler_reader, require_pooler, why_no_pooler
from bertprobe.checkpoint import DTYPES, Checkpoint, LocalFile, check_readable, read_tensor
from bertprobe.compare import Side
from bertprobe.compare.delta import delta
from bertprobe.compare.rules import UNRELATED_BELOW
from bertprobe.errors import OutputError, PartMissing, UnsupportedFile, printable
from bertprobe.export.files import atomic_folder, check_folder, text_carried
from bertprobe.export.tensors import (
    Item,
    check_name,
    item_arrays,
    provenance,
    utf8_notes,
    write_safetensors,
)
from bertprobe.measurement import MeasureTee, measure_parts
from bertprobe.verdicts import Evidence, Finding, about, judge, verdict

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
# What makes a tokenizer, and the one setting of generation; whatever else lies in a folder is not the model's.
BESIDE = (
    "tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt", "special_tokens_map.json",
    "added_tokens.json", "sentencepiece.bpe.model", "spiece.model", "spm.model", "tokenizer.model", "bpe.codes",
    "vocab.bpe", "generation_config.json",
)  # fmt: skip
_ENCODER = ("embeddings.", "encoder.", "pooler.", "embeddings_project.")


@dataclass(frozen=True, slots=True)
class GraftedTensor:
    """A tensor as it stands in the written file: `source` is donor or recipient, the rest is as it was there."""

    name: str
    source: str
    stored_name: str
    dtype: str
    stored_dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Grafted:
    """What was written: both checkpoints, the folder, its files with their sizes, the tensors, metadata, findings."""

    donor: Side
    recipient: Side
    path: str
    files: Mapping[str, int]
    tensors: tuple[GraftedTensor, ...]
    metadata: Mapping[str, str]
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Graft:
    """What to do: the part, the layers of it, the folder, and whether to take the place of a part or of files."""

    output: Path
    part: str = "pooler"
    layers: str | None = None
    replace: bool = False
    force: bool = False


def graft(donor: Side, recipient: Side, wish: Graft) -> Grafted:
    """Writes the recipient with the donor's part in it: model.safetensors, config.json and the tokenizer's files.

    All other tensors are the recipient's bit for bit, under the names that transformers loads; the donor's are cast to
    the recipient's dtype. The recipient has to be on this disk.

    Raises:
        PartMissing: the donor has no such part, or the recipient no place for it.
        UnsupportedFile: the two do not fit together, or the recipient has no config.
        OutputError: the folder cannot be written there, or a cast would turn a number into infinity.
    """
    check_kin(donor, recipient)
    parts = _parts(donor, recipient, wish)
    beside = _beside(recipient.checkpoint)
    place = check_folder(wish.output, {WEIGHTS, CONFIG, *BESIDE}, wish.force)
    items = _items(donor.anatomy, recipient.anatomy, parts)
    for item in items:
        check_readable(item.header)
        check_name(item.name, Path(WEIGHTS).suffix)
    given = {name for part in parts for name in part.tensors}
    metadata = _metadata(donor.checkpoint, recipient, items, parts, given)
    measured = MeasureTee(parts)

    with atomic_folder(place) as folder:
        with folder.file(WEIGHTS) as file:
            write_safetensors(file, items, item_arrays(items, measured.take), metadata)
        with folder.file(CONFIG) as file:
            file.write(_config(recipient))
        for name, content in beside.items():
            with folder.file(name) as file:
                file.write(content)
        files = folder.sizes
    evidence = Evidence(donor.checkpoint, donor.anatomy, measured.numbers())
    findings = (*about(judge(evidence), parts), *_strangers(donor, recipient))
    tensors = tuple(
        GraftedTensor(
            i.name, "donor" if i.canonical in given else "recipient", i.header.name, i.dtype, i.header.stored_as,
            i.header.shape,
        )
        for i in items
    )  # fmt: skip
    return Grafted(donor, recipient, str(wish.output), files, tensors, metadata, findings)


# ------------------------------------------------------------------------------------------------ what fits


def check_kin(donor: Side, recipient: Side) -> None:
    """Raises `UnsupportedFile` for two models that do not go together, by layout, family or width."""
    for what, of in (("donor", donor), ("recipient", recipient)):
        if not of.anatomy.layout.canonical:
            raise UnsupportedFile(
                f"the {what} {printable(of.checkpoint.ref)} is of the layout {of.anatomy.layout.name}",
                "only checkpoints of BERT's layout (encoder.layer.N.intermediate.dense) can be grafted",
            )
    families = [of.anatomy.family for of in (donor, recipient)]
    if families[0] != families[1] and donor.checkpoint.config is not None:
        raise UnsupportedFile(
            f"the donor is {printable(families[0])}, the recipient {printable(families[1])}",
            "take a donor of the same family",
        )
    widths = [of.anatomy.widths[0] for of in (donor, recipient)]
    if widths[0] != widths[1]:
        raise UnsupportedFile(
            f"the donor is {widths[0]} wide, the recipient {widths[1]}", "take the checkpoint that training began from"
        )


def _parts(donor: Side, recipient: Side, wish: Graft) -> tuple[Part, ...]:
    """The donor's parts that are to be put in, all of which have a place."""
    if wish.part == "pooler":
        if never_pools(recipient.anatomy):
            reason, _ = why_no_pooler(recipient.checkpoint, recipient.anatomy)
            raise PartMissing(f"the recipient has no place for a pooler: {reason}", "transformers would not look at it")
        require_pooler(donor.checkpoint, donor.anatomy)
    parts = tuple(part for part in select(donor.anatomy, [wish.part], wish.layers) if part.stack is None)
    if not parts or not all(part.weight is not None for part in parts):
        raise PartMissing(
            f"the donor has no whole {wish.part} to give", "bertprobe inspect --shapes tells what there is"
        )
    if wish.part == "pooler" and not wish.force:
        _check_worth(donor, recipient)
    there = {part.label: part for part in recipient.anatomy.parts}
    for part in parts:
        own = there.get(part.label)
        if own is None and part.role != "pooler":
            raise PartMissing(f"the recipient has no {part.label}", "choose among its layers: `layers=`")
        if own is not None and part.role == "pooler" and not wish.replace:
            raise OutputError(
                f"the recipient has a pooler of its own ({_word(recipient)})",
                "add `replace=True` to put the donor's there",
            )
        _check_shapes(part, own, recipient.anatomy.widths[0])
    return parts


def _check_worth(donor: Side, recipient: Side) -> None:
    """Raises `OutputError` for a pooler that would be of no use, or that would break a head of the recipient."""
    word = _word(donor)  # which reads the donor's pooler, before anything is written
    if word in ("untrained", "probably untrained"):
        raise OutputError(
            f"the donor's pooler is {word}: what it puts out is as good as random",
            "take mean pooling or the first token, or add `force=True`",
        )
    reader = pooler_reader(recipient.checkpoint, recipient.anatomy)
    if reader is not None:
        raise OutputError(
            f"{printable(reader)} of the recipient reads its pooler and was trained with it: another would break it",
            "leave it, or add `force=True`",
        )


def _word(of: Side) -> str:
    """The verdict on a side's pooler."""
    part = require_pooler(of.checkpoint, of.anatomy)
    for header in part.tensors.values():
        check_readable(header)  # what cannot be read is refused by name, not for want of a verdict
    return verdict(Evidence(of.checkpoint, of.anatomy, measure_parts([part])), part) or "without a verdict"


def _check_shapes(part: Part, own: Part | None, width: int | None) -> None:
    for name, header in part.tensors.items():
        if own is not None and name in own.tensors:
            expected = own.tensors[name].shape
        elif part.role == "pooler" and width is not None:
            expected = (width,) * len(header.shape)
        else:
            raise UnsupportedFile(f"the recipient has no {printable(name)}", "take a donor of the same make")
        if header.shape != expected:
            shapes = ["×".join(map(str, shape)) for shape in (header.shape, expected)]
            raise UnsupportedFile(
                f"the donor's {printable(name)} is {shapes[0]}, the recipient needs {shapes[1]}",
                "take the checkpoint that training began from",
            )


def _strangers(donor: Side, recipient: Side) -> Iterator[Finding]:
    """A pooler serves only the hidden states it was trained on: whether the two have a layer in common tells."""
    pairs = [
        (name, donor.tensors.headers[name], recipient.tensors.headers[name])
        for part in donor.anatomy.of("intermediate")
        if (name := part.weight_name) in recipient.tensors.headers and name in donor.tensors.headers
    ]
    if not pairs:
        return
    name, one, other = pairs[-1]
    if one.shape != other.shape:
        return
    found = delta(read_tensor(one), read_tensor(other), (one.dtype, other.dtype))
    if found.cosine is not None and found.cosine < UNRELATED_BELOW:
        yield Finding(
            "unrelated",
            "warning",
            "pooler",
            f"donor and recipient have nothing in common: {printable(name)} has a cosine of {found.cosine:.3f}",
            {"tensor": name, "cosine": found.cosine, "below": UNRELATED_BELOW},
            "take the pooler of the checkpoint that the recipient was trained from",
        )


# ------------------------------------------------------------------------------------------------ what is written


def _items(donor: Anatomy, recipient: Anatomy, parts: Sequence[Part]) -> list[Item]:
    """Every tensor of the recipient and the donor's in their places, sorted as safetensors sorts."""
    prefix = recipient.prefix.removeprefix(recipient.unknown_prefix)
    given = {name: header for part in parts for name, header in part.tensors.items()}
    dtype = _usual_dtype(recipient)
    items = []
    for name in dict.fromkeys([*recipient.tensors, *given]):
        full = prefix + name if name.startswith(_ENCODER) else name
        if name in given:
            own = recipient.tensors.get(name)
            items.append(Item(full, own.dtype if own is not None else dtype, given[name], name))
        else:
            items.append(Item(full, recipient.tensors[name].dtype, recipient.tensors[name], name))
    return sorted(items, key=lambda item: (-DTYPES[item.dtype].bits if item.dtype in DTYPES else 0, item.name))


def _usual_dtype(anatomy: Anatomy) -> str:
    """The dtype of most matrices of the encoder."""
    counts = Counter(h.dtype for name, h in anatomy.tensors.items() if name.startswith("encoder.") and len(h.shape) > 1)
    floats = [dtype for dtype, _ in counts.most_common() if dtype in DTYPES and DTYPES[dtype].is_float]
    return floats[0] if floats else "F32"


def _metadata(
    donor: Checkpoint, recipient: Side, items: Sequence[Item], parts: Sequence[Part], given: set[str]
) -> dict[str, str]:
    """Where everything comes from; strings all, as safetensors has it."""
    theirs = [item for item in items if item.canonical in given]
    own = [item for item in items if item.canonical not in given]
    found = {
        "format": "pt",
        "bertprobe_version": __version__,
        "source": recipient.checkpoint.ref,
        "source_files": json.dumps(provenance(recipient.checkpoint, own)),
        "source_revision": recipient.checkpoint.revision,
        "donor": donor.ref,
        "donor_files": json.dumps(provenance(donor, theirs)),
        "donor_revision": donor.revision,
        "grafted": " ".join(part.label for part in parts),
        "family": recipient.anatomy.family,
    }
    return utf8_notes({key: value for key, value in found.items() if value is not None})


def _config(recipient: Side) -> bytes:
    """The recipient's settings, with the model_type that from_pretrained asks for where they have none."""
    config = dict(recipient.checkpoint.config or {})
    original = recipient.checkpoint.config_file
    if "model_type" in config and original is not None:
        source = LocalFile(original)
        return source.read(0, source.size)
    return json.dumps({"model_type": recipient.anatomy.family, **config}, indent=2).encode() + b"\n"


def _beside(recipient: Checkpoint) -> dict[str, bytes]:
    """The files that go along, also those that the recipient carries; raises `UnsupportedFile` without a config."""
    if recipient.config is None:
        raise UnsupportedFile(
            f"{printable(recipient.ref)} has no config.json", "put it beside the weights: from_pretrained asks for it"
        )
    config = recipient.config_file
    folder = recipient.folder if config is None else config.parent
    found = {name: text_carried(recipient, name) for name in BESIDE if name in recipient.carried}
    lying = [LocalFile(folder / name) for name in BESIDE if (folder / name).is_file()]
    return {name: text.encode() for name, text in found.items() if text is not None} | {
        file.name: file.read(0, file.size) for file in lying
    }
