"""The largest of many numbers, row by row, without sorting them all."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Ints = npt.NDArray[np.int64]

GROUP = 64  # columns whose largest is looked at first: a pass over those says from where on candidates are
NONE = -1


class Candidates(NamedTuple):
    """Cells of a matrix by row and column, (n,) each, row by row."""

    rows: Ints
    columns: Ints


def candidates(values: Floats, most: int, slack: float = 0.0) -> Candidates:
    """Cells among which the `most` largest of each row are, ties and all; -inf is never one.

    As many groups of columns have a largest that reaches some height as cells do at least, so that cells below it, and
    by more than `slack` where values are known to that alone, are not among them.
    """
    import numpy as np

    rows, columns = values.shape
    groups = -(-columns // GROUP)
    largest = np.full((rows, groups), -np.inf, np.float32)
    whole = columns // GROUP
    if whole:
        values[:, : whole * GROUP].reshape(rows, whole, GROUP).max(2, out=largest[:, :whole])
    if whole < groups:
        largest[:, whole] = values[:, whole * GROUP :].max(1)
    height = np.full(rows, -np.inf, np.float32)
    if groups > most:
        height = np.partition(largest, groups - most, axis=1)[:, groups - most]
    bar = np.maximum(height - np.float32(slack), np.finfo(np.float32).min)
    found = np.flatnonzero(values >= bar[:, None])
    return Candidates(found // columns, found % columns)


def first_of_each(rows: Ints, count: int, most: int) -> tuple[Ints, Ints]:
    """Of items sorted by row, the first `most` of each row: which they are, and their rank in it, (n,) each."""
    import numpy as np

    rank = np.arange(len(rows)) - np.searchsorted(rows, np.arange(count))[rows]
    kept = np.flatnonzero(rank < most)
    return kept, rank[kept]


def largest(values: Floats, most: int) -> tuple[Ints, Floats]:
    """The columns of the largest values of each row and the values, (rows, most) each; of equals the first column.

    NONE and NaN where a row has fewer.
    """
    import numpy as np

    found = candidates(values, most)
    reached = values[found.rows, found.columns]
    order = np.lexsort((found.columns, -reached, found.rows))
    kept, rank = first_of_each(found.rows[order], len(values), most)
    chosen = order[kept]
    columns = np.full((len(values), most), NONE, np.int64)
    best = np.full((len(values), most), np.nan, np.float32)
    columns[found.rows[chosen], rank], best[found.rows[chosen], rank] = found.columns[chosen], reached[chosen]
    return columns, best
