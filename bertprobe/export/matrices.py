"""The whole activations of a few texts to a file: a matrix (tokens, neurons) a layer, and the tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bertprobe
from bertprobe.errors import OutputError, printable
from bertprobe.export.files import Output, check_place, whole_or_not_at_all

if TYPE_CHECKING:
    from bertprobe.activations import Runner, Watch


def write_matrices(runner: Runner, seen: Watch, pieces: Sequence[Sequence[str]], path: Path, force: bool) -> None:
    """Writes what was kept, texts in the order of the input: a matrix (rows, I) a part, and `lengths` (N,).

    The tokens stand in the metadata, under `tokens`, as a JSON list for each text. Where a part has other rows than
    tokens, its own lengths stand beside it, as `LABEL.lengths`.
    """
    if path.suffix not in (".safetensors", ".npz"):
        raise OutputError(f"{printable(str(path))} does not say a format", "let its name end in .safetensors or .npz")
    output = Output(path, force=force)
    check_place(output)
    arrays = _arrays(seen, pieces)
    metadata = {
        "format": "pt",
        "bertprobe_version": bertprobe.__version__,
        "source": runner.checkpoint.ref,
        "values": "before the activation" if seen.pre else "after the activation",
        "tokens": json.dumps(list(pieces)),
    }
    with whole_or_not_at_all(output) as file:
        if path.suffix == ".npz":
            import numpy as np

            np.savez(file, **arrays, __metadata__=np.array(json.dumps(metadata)))
        else:
            from safetensors.numpy import save

            file.write(save(arrays, metadata))


def _arrays(seen: Watch, pieces: Sequence[Sequence[str]]) -> dict[str, Any]:
    import numpy as np

    lengths = [len(text) for text in pieces]
    found: dict[str, Any] = {"lengths": np.array(lengths)}
    for label, texts in seen.kept.items():
        found[label] = np.ascontiguousarray(np.concatenate(texts))
        rows = [len(text) for text in texts]
        if rows != lengths:
            found[f"{label}.lengths"] = np.array(rows)
    return found
