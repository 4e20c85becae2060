"""The files of an adapter → its targets: which tensors are the factors of which module's change, told by names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bertprobe.adapters import Adapter, Target
from bertprobe.adapters.settings import settings_of
from bertprobe.checkpoint import Checkpoint, Source, TensorHeader, indexed
from bertprobe.checkpoint.folder import Folder, read_json
from bertprobe.errors import IsAdapter
from bertprobe.filenames import ADAPTER_CONFIG

# The words of a factor in a name: peft's, those of its embeddings, loralib's and diffusers'.
A_WORDS = ("lora_A", "lora_embedding_A", "lora_down", "lora_a")
B_WORDS = ("lora_B", "lora_embedding_B", "lora_up", "lora_b")
OTHER_WORDS = ("lora_magnitude_vector", "lora_E", "lora_ranknum", "lora_variant", "lora_bias")
WRAPPER = "base_model.model."  # peft's, around the model that is adapted
_SAVED = ("modules_to_save", "original_module")


def adapter_at(ref: str, found: IsAdapter) -> Adapter:
    """The adapter that was found where a model was looked for; raises as `open_checkpoint` does."""
    folder: Folder = found.folder
    if folder is None or not found.file:
        raise found
    file = folder.source(found.file)
    storage, index = indexed(file)
    config = read_json(folder, ADAPTER_CONFIG) if folder.is_file(ADAPTER_CONFIG) else None
    return _adapter(ref, f"{folder.resolved}/{found.file}", storage, index.headers, config, (file,))


def adapter_in(checkpoint: Checkpoint) -> Adapter | None:
    """The adapter that a file holds under a name of its own; None where its tensors are none."""
    if not any(_place(name) for name in checkpoint.headers):
        return None
    folder = checkpoint.settings
    config = read_json(folder, ADAPTER_CONFIG) if folder.is_file(ADAPTER_CONFIG) else None
    headers = checkpoint.headers.values()
    found = _adapter(checkpoint.ref, checkpoint.resolved, checkpoint.storage, headers, config, checkpoint.files)
    return replace(found, revision=checkpoint.revision, notes=(*checkpoint.notes, *found.notes))


def _adapter(
    ref: str,
    resolved: str,
    storage: str,
    headers: Iterable[TensorHeader],
    config: Mapping[str, Any] | None,
    files: tuple[Source, ...],
) -> Adapter:
    targets, whole = _targets(headers)
    settings = settings_of(config or {})
    notes = [f"{ADAPTER_CONFIG} gives {key} as {fault}" for key, fault in settings.faults.items()]
    if config is None:
        notes.append(f"there is no {ADAPTER_CONFIG}: base model and scaling are not known")
    _, _, commit = resolved.partition("@") if resolved.startswith("hf://") else ("", "", "")
    return Adapter(
        ref=ref,
        resolved=resolved,
        revision=commit.partition("/")[0] or None,
        storage=storage,
        files=files,
        settings=settings,
        has_settings=config is not None,
        targets=targets,
        whole=whole,
        notes=tuple(notes),
    )


@dataclass(slots=True)
class _Factors:
    """What was found of one target."""

    a: TensorHeader | None = None
    b: TensorHeader | None = None
    others: list[TensorHeader] = field(default_factory=list)


def _targets(headers: Iterable[TensorHeader]) -> tuple[tuple[Target, ...], tuple[TensorHeader, ...]]:
    """The targets in the order of the file, layers by number, and the tensors that are no factor."""
    found: dict[tuple[str, str], _Factors] = {}
    whole = []
    for header in headers:
        place = _place(header.name)
        if place is None:
            whole.append(header)
            continue
        module, adapter, word = place
        factors = found.setdefault((module, adapter), _Factors())
        if word in A_WORDS and factors.a is None:
            factors.a = header
        elif word in B_WORDS and factors.b is None:
            factors.b = header
        else:
            factors.others.append(header)
    targets = [
        Target(module, adapter, layer_of(module), factors.a, factors.b, tuple(factors.others))
        for (module, adapter), factors in found.items()
    ]
    return tuple(sorted(targets, key=lambda t: -1 if t.layer is None else t.layer)), tuple(whole)


def _place(name: str) -> tuple[str, str, str] | None:
    """The module of a factor's name, the adapter in it and the word that says which factor it is; None for others."""
    words = name.split(".")
    at = next((n for n, word in enumerate(words) if word in (*A_WORDS, *B_WORDS, *OTHER_WORDS)), None)
    if at is None:
        return None
    behind = [word for word in words[at + 1 :] if word not in ("weight", "bias")]
    word = words[at] if words[-1] != "bias" else "lora_bias"
    adapter = "" if behind in ([], ["default"]) else ".".join(behind)
    return bare(".".join(words[:at])), adapter, word


def bare(name: str) -> str:
    """A name without what peft puts around the model, and around modules that are saved whole."""
    while name.startswith(WRAPPER):
        name = name.removeprefix(WRAPPER)
    words = name.split(".")
    for place, word in enumerate(words):
        if word in _SAVED:
            rest = words[place + 1 :]
            return ".".join([*words[:place], *(rest[1:] if rest[:1] == ["default"] else rest)])
    return name


def layer_of(module: str) -> int | None:
    """The first number in a module's path."""
    number = next((word for word in module.split(".") if word.isascii() and word.isdecimal() and len(word) < 9), None)
    return None if number is None else int(number)
