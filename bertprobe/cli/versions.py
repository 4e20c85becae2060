"""The versions that matter in a bug report, from the metadata of what is installed: none of it is imported."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from importlib import metadata

from bertprobe._version import __version__

PACKAGES = ("numpy", "ml_dtypes", "torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "typer",
            "rich", "threadpoolctl", "pyarrow")  # fmt: skip
_PRODUCTS = ("openblas", "mkl", "accelerate", "blis")


def lines() -> Iterator[str]:
    """A line each: bertprobe, Python, the system, the processor's cores, the packages, the matrix products of numpy."""
    rows = [
        ("bertprobe", __version__),
        ("python", f"{platform.python_version()} ({platform.python_implementation()}, {sys.platform})"),
        ("platform", platform.platform()),
        ("cores", _cores()),
        *((name, _version(name)) for name in PACKAGES),
        ("blas", _blas()),
    ]
    width = max(len(name) for name, _ in rows)
    yield from (f"{name:<{width}}  {text}" for name, text in rows)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cores() -> str:
    from bertprobe.measurement import processors

    there = os.cpu_count() or 1
    ours = processors()
    return f"{there}" if ours == there else f"{ours} of {there}"


def _blas() -> str:
    """The library for matrix products that numpy's wheel carries, by the name of its file."""
    try:
        files = metadata.files("numpy") or ()
    except metadata.PackageNotFoundError:
        return "not installed"
    carried = (file.name for file in files if ".libs" in str(file) or ".dylibs" in str(file))
    return next((name for name in carried if any(word in name for word in _PRODUCTS)), "not carried by numpy's package")
