"""adapter_config.json, checked by type and range: what it says that cannot be is a fault, and counts as not said."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

V = TypeVar("V")

MOST_NAMES = 10_000
LONGEST = 500  # characters of a name
_PLAIN = re.compile(r"[\w.]+")


@dataclass(frozen=True, slots=True)
class Settings:
    """What adapter_config.json says, as far as it can be; `faults` has what cannot, a sentence by key.

    `method` is peft's word (LORA, IA3); `targets` the endings of adapted modules, None where they are not listed;
    `ranks` and `alphas` are those of single modules, by the end of their path. `plain` is false where a module's own
    rank or alpha is given by a pattern that is not followed here.
    """

    base: str | None = None
    method: str | None = None
    rank: int | None = None
    alpha: float | None = None
    rslora: bool = False
    dora: bool = False
    start: str = ""
    targets: tuple[str, ...] | None = None
    saved: tuple[str, ...] = ()
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    plain: bool = True
    faults: Mapping[str, str] = field(default_factory=dict)


def settings_of(config: Mapping[str, Any]) -> Settings:
    """The settings of a config."""
    faults: dict[str, str] = {}

    def read(key: str, is_sound: Callable[[Any], bool], default: Any = None) -> Any:
        value = config.get(key)
        if value is None or is_sound(value):
            return default if value is None else value
        faults[key] = f"{str(value)[:40]!r}, which cannot be"
        return default

    targets = read("target_modules", lambda value: _are_names(value) or _is_name(value))
    ranks = read("rank_pattern", lambda value: _by_name(value, _is_rank), {})
    alphas = read("alpha_pattern", lambda value: _by_name(value, _is_alpha), {})
    # peft takes the names of patterns for regular expressions, which nobody's file has searched here.
    plain = all(_PLAIN.fullmatch(name) for name in (*ranks, *alphas))
    start = config.get("init_lora_weights")
    return Settings(
        base=read("base_model_name_or_path", _is_name),
        method=read("peft_type", _is_name),
        rank=read("r", _is_rank),
        alpha=read("lora_alpha", _is_alpha),
        rslora=read("use_rslora", _is_flag, False),
        dora=read("use_dora", _is_flag, False),
        start=start if isinstance(start, str) and _is_name(start) else "",
        targets=tuple(targets) if isinstance(targets, list) else None,
        saved=tuple(read("modules_to_save", _are_names, ())),
        ranks=ranks,
        alphas=alphas,
        plain=plain and not faults.keys() & {"alpha_pattern", "use_rslora"},
        faults=faults,
    )


def own(patterns: Mapping[str, V], module: str, usual: V | None) -> V | None:
    """What holds for a module: what is said of it by the end of its path, else what is usual."""
    ending = next((name for name in patterns if module == name or module.endswith(f".{name}")), None)
    return usual if ending is None else patterns[ending]


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= LONGEST


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MOST_NAMES and all(map(_is_name, value))


def _is_rank(value: Any) -> bool:
    return type(value) is int and 0 < value < 2**31


def _is_alpha(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30 and math.isfinite(value)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _by_name(value: Any, is_sound: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and len(value) <= MOST_NAMES and all(map(is_sound, value.values()))
