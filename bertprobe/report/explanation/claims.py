"""What people say about the two modules, each with the question whether it holds here: `CLAIMS`.

A row answers in facts only; the languages say what was found. None means: it could not be checked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bertprobe.report.explanation.facts import Facts

TANH_GELUS = ("gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_accurate")
ERF_GELUS = ("gelu", "gelu_python")


@dataclass(frozen=True, slots=True)
class Claim:
    """A row of `CLAIMS`: which module it is about, where there is anything to say, and whether it holds."""

    name: str
    module: str
    applies: Callable[[Facts], bool]
    holds: Callable[[Facts], bool | None]


def activation(facts: Facts) -> str | None:
    return facts.up_projection.activation if facts.up_projection else None


def verdict(facts: Facts) -> str | None:
    """The word on the pooler's matrix."""
    return next(iter(facts.pooler.verdicts), None) if facts.pooler else None


def _is_trained(facts: Facts) -> bool | None:
    return {"trained": True, "untrained": False, "probably untrained": False}.get(str(verdict(facts)))


def _by_nsp(facts: Facts) -> bool | None:
    if not facts.nsp:
        return False
    return True if facts.next_sentence_head else None


def _as_sentence(facts: Facts) -> bool | None:
    return False if facts.pools_by else None


def _is_unit(facts: Facts) -> bool:
    return facts.run is not None and facts.run.pooled is not None and abs(facts.run.pooled.norm - 1) < 1e-3


def _has_pooled(facts: Facts) -> bool:
    return facts.run is not None and facts.run.pooled is not None and facts.run.pooled.to_first is not None


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "relu",
        "intermediate",
        lambda f: activation(f) is not None,
        lambda f: activation(f) == "relu",
    ),
    Claim(
        "tanh-gelu",
        "intermediate",
        lambda f: activation(f) in (*TANH_GELUS, *ERF_GELUS) and f.run is not None,
        lambda f: activation(f) in TANH_GELUS,
    ),
    Claim(
        "whole-network",
        "intermediate",
        lambda f: f.native and f.up_projection is not None,
        lambda f: False,
    ),
    Claim(
        "mixes-tokens",
        "intermediate",
        lambda f: f.run is not None and f.run.alone is not None,
        lambda f: not (f.run and f.run.alone),
    ),
    Claim(
        "hidden-states",
        "intermediate",
        lambda f: f.native and f.up_projection is not None and f.run is not None,
        lambda f: False,
    ),
    Claim(
        "four-times",
        "intermediate",
        lambda f: f.hidden_size is not None and f.intermediate_size is not None and f.up_projection is not None,
        lambda f: f.intermediate_size == 4 * (f.hidden_size or 0),
    ),
    Claim("always-there", "pooler", lambda f: True, lambda f: f.pooler is not None),
    Claim("there-so-trained", "pooler", lambda f: verdict(f) is not None, _is_trained),
    Claim(
        "by-next-sentence",
        "pooler",
        lambda f: verdict(f) == "trained" or (f.pooler is not None and not f.nsp),
        _by_nsp,
    ),
    Claim("mean-pooling", "pooler", _has_pooled, lambda f: False),
    Claim("first-hidden-state", "pooler", _has_pooled, lambda f: False),
    Claim("sentence-vector", "pooler", lambda f: f.pooler is not None, _as_sentence),
    Claim(
        "minds-the-mask",
        "pooler",
        lambda f: f.pooler is not None and f.library.pooling is not None,
        lambda f: any("mask" in name for name in (f.library.pooling.takes if f.library.pooling else ())),
    ),
    Claim("unit-length", "pooler", _has_pooled, _is_unit),
)


def applicable(facts: Facts, module: str) -> tuple[Claim, ...]:
    """The claims about a module (or `both`) on which this checkpoint has something to say."""
    return tuple(claim for claim in CLAIMS if module in (claim.module, "both") and claim.applies(facts))
