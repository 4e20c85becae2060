"""Headers by their names, as `read_tensors` is asked for them."""

from __future__ import annotations

from collections.abc import Iterable

from bertprobe.checkpoint import TensorHeader


def by_name(headers: Iterable[TensorHeader]) -> dict[str, TensorHeader]:
    return {header.name: header for header in headers}
