"""A model with neurons taken out beside the same model as it is: both run on the same batches, their weights shared.

Letters: T tokens of a batch, I intermediate size.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from bertprobe.errors import BertprobeError
from bertprobe.run.ablation import Ablation
from bertprobe.run.captured import Captured, Collector, Site, Tap
from bertprobe.run.engines import Engine
from bertprobe.run.runner import Runner, ablated

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from bertprobe.tokens import Packed

    Doubles = npt.NDArray[np.float64]

ROWS = 128  # rows compared at a time, which stay in a processor's cache
BATCH_TOKENS = 512  # of a batch where activations are compared: those of all layers are held at once


@dataclass(frozen=True, slots=True, eq=False)
class CapturedBeside(Captured):
    """The values at a site with neurons taken out; `untouched` are those of the model as it is, of the same tokens."""

    untouched: Captured


class BesideEngine:
    """Runs each batch through a model as it is, then with neurons taken out, and shows both sites by site.

    What collectors are shown is a `CapturedBeside`: one that knows nothing of this sees the ablated model.
    """

    def __init__(self, untouched: Engine, ablated: Engine) -> None:
        self._untouched, self._ablated = untouched, ablated
        self.backend, self.name, self.longest = untouched.backend, untouched.name, untouched.longest
        self.vocabulary, self.segments = untouched.vocabulary, untouched.segments
        self.has_pooler, self.rows_are_tokens = untouched.has_pooler, untouched.rows_are_tokens
        self.edit = ablated.edit

    @property
    def workers(self) -> int:
        return self._untouched.workers

    def share(self) -> None:
        self._untouched.share()

    def with_gradients(self) -> BesideEngine:
        return BesideEngine(self._untouched.with_gradients(), self._ablated.with_gradients())

    def run(self, batch: Packed, needs: frozenset[str], tap: Tap) -> None:
        self.share()  # weights for one pass only would be read a second time
        waiting: deque[Captured] = deque()
        self._untouched.run(batch, needs, waiting.append)

        def show(captured: Captured) -> None:
            untouched = waiting.popleft()
            if untouched.site != captured.site or len(untouched.after) != len(captured.after):
                raise BertprobeError(
                    f"with neurons taken out the model gives other rows of {captured.site.label}",
                    "please report this model",
                )
            given = {field.name: getattr(captured, field.name) for field in fields(Captured)}
            tap(CapturedBeside(**given, untouched=untouched))

        self._ablated.run(batch, needs, show)


def beside(runner: Runner, ablation: Ablation) -> Runner:
    """Runs a model as it is and with neurons taken out at once; what collectors are shown has both.

    Raises `PartMissing` for a neuron that it does not have.
    """
    other = ablated(runner, ablation)
    return replace(other, engine=BesideEngine(runner.engine, other.engine))


class Untouched:
    """A collector of the model as it is, in a run of `beside`: has another one see what that puts out."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    @property
    def needs(self) -> frozenset[str]:
        return self._collector.needs

    @property
    def is_finite(self) -> bool:
        return self._collector.is_finite

    def reduce(self, captured: Captured) -> Any:
        return self._collector.reduce(_untouched(captured))

    def add(self, site: Site, batch: Packed, reduced: Any) -> None:
        self._collector.add(site, batch, reduced)


def _untouched(captured: Captured) -> Captured:
    if not isinstance(captured, CapturedBeside):
        raise TypeError("a collector of the untouched model goes with a runner of `beside`")
    return captured.untouched


@dataclass(frozen=True, slots=True, eq=False)
class ChangeSums:
    """Running sums of each neuron of a layer over tokens, (I,) each in float64; two add to one.

    `change` is of the squares of how far each activation moved, the others of the activations and their squares.
    """

    tokens: int
    change: Doubles
    untouched: Doubles
    untouched_squares: Doubles
    ablated: Doubles
    ablated_squares: Doubles

    def __add__(self, other: ChangeSums) -> ChangeSums:
        return ChangeSums(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(ChangeSums)))

    def rms(self, name: str) -> float:
        """The root mean square over tokens and neurons of `change`, `untouched_squares` or `ablated_squares`."""
        squares: Doubles = getattr(self, name)
        return float((squares.sum() / (self.tokens * len(squares))) ** 0.5)


class Changes:
    """How far every neuron of some parts moved in a run of `beside`, over all tokens: `sums` by site."""

    def __init__(self, labels: frozenset[str] | set[str], *, before: bool = False) -> None:
        self.needs = frozenset(labels)
        self.before = before
        self.is_finite = True
        self.sums: dict[Site, ChangeSums] = {}

    def reduce(self, captured: Captured) -> ChangeSums:
        import numpy as np

        one, other = (found.numpy(before=self.before) for found in (_untouched(captured), captured))
        sums = np.zeros((5, one.shape[1]))
        for start in range(0, len(one), ROWS):
            x, y = (values[start : start + ROWS].astype(np.float64) for values in (one, other))
            sums += [np.square(y - x).sum(0), x.sum(0), np.square(x).sum(0), y.sum(0), np.square(y).sum(0)]
        return ChangeSums(len(one), *sums)

    def add(self, site: Site, batch: Packed, reduced: ChangeSums) -> None:
        import numpy as np

        self.is_finite &= bool(np.isfinite(reduced.change).all())
        self.sums[site] = self.sums[site] + reduced if site in self.sums else reduced
