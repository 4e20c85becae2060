"""What tests of formats hold a checkpoint against: its tensors by canonical name, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bertprobe.anatomy import find_parts
from bertprobe.checkpoint import Checkpoint, read_tensors


def canonical(checkpoint: Checkpoint) -> dict[str, Any]:
    """Every tensor of a checkpoint by its canonical name."""
    return dict(read_tensors(find_parts(checkpoint).tensors))


def same(found: Mapping[str, Any], state: Mapping[str, Any], dtype: Any = np.float32) -> None:
    """Asserts that tensors are those of a state dict with BERT's prefix, in a type of their own."""
    expected = {name.removeprefix("bert."): values.astype(dtype) for name, values in state.items()}
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert (found[name].shape, found[name].dtype) == (values.shape, values.dtype), name
        assert np.ascontiguousarray(found[name]).tobytes() == values.tobytes(), name
