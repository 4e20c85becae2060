"""Which arrays of a file are the model's, among what training keeps beside them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from bertprobe.checkpoint.flax.walk import TWICE, Walk
from bertprobe.checkpoint.source import Source
from bertprobe.checkpoint.tensors import Index, TensorHeader
from bertprobe.errors import CorruptFile, quoted

# Where flax's training states keep a model; `params` once more where a module was saved with all its collections.
_MODEL = re.compile(r"((?:(?:state|train_state|model|optimizer)/)?(?:params|target)(?:/params)?)/")
_TRAINING = re.compile(r"opt|state$|batch_stats$|cache$|intermediates$|step$|rng|grads?$")
LEAST_RIVAL, RIVAL_SHARE = 4, 4  # arrays of another model in the file, and the share of the first one's that it has


def contents(source: Source) -> Index:
    """The headers of the model's arrays, and of other models beside it."""
    headers = Walk(source).headers
    _check_names(source, headers)
    roots = (match[1] for header in headers if (match := _MODEL.match(header.name)))
    root = next(roots, "")
    if not root:
        return Index(tuple(headers))
    model = _below(root, headers)
    least = max(LEAST_RIVAL, len(model) // RIVAL_SHARE)
    above = root.rpartition("/")[0]
    tops = {_top(above, header.name): None for header in headers if not header.name.startswith(f"{root}/")}
    others = {top: _below(top, headers) for top in tops if top and not _TRAINING.match(top.rpartition("/")[2])}
    rivals = {_dotted(top): found for top, found in others.items() if len(found) >= least}
    return Index(model, wrapper=_dotted(root), models=rivals)


def _check_names(source: Source, headers: Iterable[TensorHeader]) -> None:
    seen: set[str] = set()
    for header in headers:
        if header.name in seen:
            raise CorruptFile(
                f"{source.address} has two arrays under the name {quoted(header.name)}, made of different names", TWICE
            )
        seen.add(header.name)


def _top(above: str, name: str) -> str:
    """The name of the map beside the model's that an array lies in, empty where it lies elsewhere."""
    rest = name.removeprefix(f"{above}/" if above else "")
    return "/".join(filter(None, (above, rest.partition("/")[0]))) if "/" in rest else ""


def _below(root: str, headers: Iterable[TensorHeader]) -> tuple[TensorHeader, ...]:
    """The headers in a map, under the names they have there."""
    cut = f"{root}/"
    return tuple(replace(h, name=h.name.removeprefix(cut)) for h in headers if h.name.startswith(cut))


def _dotted(root: str) -> str:
    return root.replace("/", ".")
