"""An adapter: what was trained beside a model that stays as it is. It is described, never run or merged.

Letters: k × m the matrix that is adapted, (m, k); r the rank. LoRA adds ΔW = s·B·A to it, A (r, k), B (m, r), with the
scaling s = α/r, or α/√r (rsLoRA). Sources: Hu et al., LoRA, ICLR 2022; peft's save_and_load.py and lora/layer.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from bertprobe.adapters.settings import Settings, own
from bertprobe.checkpoint import Source, TensorHeader


@dataclass(frozen=True, slots=True)
class Target:
    """A matrix that is adapted: its `module`, and the two factors, None for one that the file lacks.

    `adapter` tells several in one file apart, empty mostly; `layer` is the number in the module's path. `others` are
    tensors that change what is added, a magnitude of DoRA or a bias.
    """

    module: str
    adapter: str
    layer: int | None
    a: TensorHeader | None
    b: TensorHeader | None
    others: tuple[TensorHeader, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.module} ({self.adapter})" if self.adapter else self.module

    @property
    def rank(self) -> int | None:
        """r, where both factors are matrices and agree on it."""
        if self.a is None or self.b is None or len(self.a.shape) != 2 or len(self.b.shape) != 2:
            return None
        return self.a.shape[0] if self.a.shape[0] == self.b.shape[1] else None


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter on disk or on the Hub: its targets, the tensors it has `whole`, and all others."""

    ref: str
    resolved: str
    revision: str | None
    storage: str
    files: tuple[Source, ...]
    settings: Settings
    has_settings: bool
    targets: tuple[Target, ...]
    whole: tuple[TensorHeader, ...]
    notes: tuple[str, ...]

    @property
    def method(self) -> str:
        """What the settings call it, else what its tensors say."""
        return self.settings.method or ("LORA" if self.targets else "unknown")

    @property
    def headers(self) -> tuple[TensorHeader, ...]:
        factors = (h for target in self.targets for h in (target.a, target.b, *target.others) if h is not None)
        return (*factors, *self.whole)

    @property
    def is_lora(self) -> bool:
        """Whether what it adds is s·B·A, as far as its settings tell."""
        return self.method.upper() == "LORA"

    def scaling(self, target: Target) -> float | None:
        """s of a target, None where it is not known, or there is none."""
        alpha = own(self.settings.alphas, target.module, self.settings.alpha)
        if alpha is None or not target.rank or not self.settings.plain or not self.is_lora:
            return None
        return alpha / (target.rank**0.5 if self.settings.rslora else target.rank)
