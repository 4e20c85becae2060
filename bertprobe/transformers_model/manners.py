"""How transformers is called: kept quiet, everything borrowed handed back, its errors made ours."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bertprobe.errors import UnsupportedFile, printable

SEED = 0  # of what a model draws while it runs: Reformer hashes with it
SILENT = 100  # above every level of logging


@contextmanager
def borrowed(device: str, gradients: bool = False) -> Iterator[None]:
    """transformers kept quiet, random numbers from a fixed seed, gradients or none; all handed back as it was."""
    import torch
    from transformers.utils import logging

    cuda = [torch.device(device)] if device.startswith("cuda") else []
    verbosity = logging.get_verbosity()
    no_bar: Any = logging.EmptyTqdm
    bars = logging.set_tqdm_hook(lambda factory, args, options: no_bar(*args, **options))
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=cuda), torch.set_grad_enabled(gradients):
            warnings.simplefilter("ignore")
            logging.set_verbosity(SILENT)
            torch.default_generator.manual_seed(SEED)
            if cuda:
                torch.cuda.manual_seed(SEED)
            yield
    finally:
        logging.set_verbosity(verbosity)
        logging.set_tqdm_hook(bars)


def refused(what: str, error: Exception, places: tuple[str, str] = ("", "")) -> UnsupportedFile:
    """transformers' own words, their first line: what it raises on a foreign config or input has no common class.

    `places` are a folder it was shown and the one that a reader knows it by.
    """
    shown, known = places
    whole = str(error).replace(shown, known) if shown else str(error)
    lines = [line.strip() for line in whole.splitlines() if line.strip()] or [type(error).__name__]
    said = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return UnsupportedFile(f"{what}: {printable(said[:300])}", "look at its config.json and at the input")
