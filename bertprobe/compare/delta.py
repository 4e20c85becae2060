"""How one array of weights differs from another of the same shape: norms, angle, largest change, rank, neurons.

Sums are in float64, over the elements that are finite in both. Letters: Δ = B − A, σ its singular values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bertprobe.checkpoint.tensors import numpy_dtype
from bertprobe.stats.spectrum import effective_rank
from bertprobe.stats.sums import Array, Floats, widened

BLOCK = 65_536  # elements looked at together, in three float64 buffers that stay in the cache
RUN = 2**20  # bytes that are compared at once
LARGEST_RANKED = 2**24  # elements of Δ beyond which its rank is not looked for: tables of embeddings
MOST_RANK = 64  # the largest rank that is found where a matrix is only sketched
SPARE = 8  # columns of the sketch beyond that (Halko, Martinsson & Tropp, SIAM Review 53(2), 2011, section 4.2)
MOSTLY = 0.5  # of ‖Δ‖² must lie in a low rank; scattered steps of the last digit leave a σ or two above the rest, too
SEED = 0
ROUNDING = 1e-6  # of σ₁: below it lies the rounding of a Gram matrix in float64, the square root of 2^-52 · √k

# Fraction bits of the stored dtypes: 2^-bits is the step from 1 to the next number.
FRACTION = {"F64": 52, "F32": 23, "F16": 10, "BF16": 7, "F8_E4M3": 3, "F8_E5M2": 2}
ROUNDED_TO = ("F32", "F16", "BF16")
NEAR = 2.0**-6  # numbers that round to the same BF16 cannot lie further apart, as a whole, than this share


@dataclass(frozen=True, slots=True)
class Neuron:
    """A row of a matrix and how far it moved: ‖Δ row‖, and that over ‖row of A‖, None where the row was zero."""

    neuron: int
    distance: float
    change: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Delta:
    """What differs between two arrays; None is what is not defined or was not looked for.

    `identical` is bit for bit once both are promoted to the wider dtype, any NaN like another. `changed` elements are
    not equal as numbers, `nonfinite_mismatch` ones are finite in one array only, or infinite otherwise. `change` is
    ‖Δ‖ / ‖A‖; `largest` is the element of Δ of largest magnitude and `place` where it stands. `rounding` is the
    widest dtype to which both round to the same numbers; `rounded` says which of them holds such numbers only: a, b,
    both or neither. Where one is the other quantised, `rounding` is that quantisation, and `steps` the largest element
    of Δ in steps of its grid. `rank` counts the σ above the rounding of the stored numbers, `full_rank` is the most
    there could be and `explained` the share of ‖Δ‖² in those σ.
    """

    count: int
    identical: bool
    changed: int = 0
    nonfinite_mismatch: int = 0
    norm: float | None = None
    distance: float | None = None
    change: float | None = None
    cosine: float | None = None
    largest: float | None = None
    place: tuple[int, ...] | None = None
    rounding: str | None = None
    rounded: str = ""
    steps: float | None = None
    rank: int | None = None
    full_rank: int | None = None
    explained: float | None = None
    effective_rank: float | None = None
    neurons: tuple[Neuron, ...] = ()

    @property
    def is_same(self) -> bool:
        """Whether one array is the other, as it is or rounded to a narrower dtype."""
        return self.identical or (self.rounding is not None and self.rounded not in ("", "neither"))

    def exceeds(self, tolerance: float) -> bool:
        """Whether the change is beyond a share of ‖A‖; what was zero, or is broken, has no share."""
        if self.nonfinite_mismatch or (self.changed and self.change is None):
            return True
        return self.change is not None and self.change > tolerance

    @property
    def is_low_rank(self) -> bool:
        """Whether Δ has a rank far below what it could have, as a merged adapter leaves it, and not mere rounding."""
        if self.rank is None or self.full_rank is None or self.explained is None:
            return False
        return 0 < self.rank <= self.full_rank // 4 and self.explained > MOSTLY


def delta(a: Array, b: Array, dtypes: tuple[str, str], *, neurons: int = 0, spectrum: bool = False) -> Delta:
    """The difference of two arrays of one shape; `dtypes` are the stored ones.

    Args:
        neurons: how many of the rows that changed most are named.
        spectrum: whether all singular values of Δ are computed, for the effective rank, and not only a low rank found.
    """
    if _same_bytes(a, b):
        return _of_equals(_matrix(a))
    left, right = _matrix(a), _matrix(b)
    if {left.dtype.kind, right.dtype.kind} <= set("iub") or "c" in left.dtype.kind + right.dtype.kind:
        return _equal_or_not(left, right, a.shape)
    sums = _Sums(left.shape, dtypes)
    with np.errstate(all="ignore"):
        for rows, columns in _tiles(*left.shape):
            sums.take(rows, columns, left[rows, columns], right[rows, columns])
        found = sums.result(a.shape, neurons if a.ndim > 1 else 0)
        return _ranked(found, left, right, sums, dtypes, spectrum) if a.ndim >= 2 else found


def _same_bytes(a: Array, b: Array) -> bool:
    if a.dtype != b.dtype or a.strides != b.strides or a.size == 0:
        return a.size == 0 and b.size == 0
    if a.flags.f_contiguous and not a.flags.c_contiguous:
        a, b = a.T, b.T
    if not a.flags.c_contiguous:
        return False
    one, other = a.reshape(-1).view(np.uint8), b.reshape(-1).view(np.uint8)
    return all(np.array_equal(one[i : i + RUN], other[i : i + RUN]) for i in range(0, one.size, RUN))


def _of_equals(a: Array) -> Delta:
    """Nothing moved; the norm is what other changes of the same layer are measured against."""
    aa = 0.0
    with np.errstate(all="ignore"):
        for rows, columns in _tiles(*a.shape):
            x = widened(a[rows, columns]).astype(np.float64)
            square = float(np.vdot(x, x))
            aa += square if math.isfinite(square) else float(np.square(x[np.isfinite(x)]).sum())
    return Delta(
        a.size, True, norm=_root(aa), distance=0.0, change=0.0, cosine=1.0 if aa else None, largest=0.0
    )  # fmt: skip


def _matrix(array: Array) -> Array:
    """The array as a matrix, rows following each other: of a turned one that is a copy."""
    shape = (array.shape[0], math.prod(array.shape[1:])) if array.ndim > 1 else (1, array.size)
    return np.ascontiguousarray(array.reshape(shape))


def _equal_or_not(a: Array, b: Array, shape: tuple[int, ...]) -> Delta:
    """Integers are buffers, such as positions, and complex numbers no weights of a BERT: they are equal or not."""
    differ = a != b
    changed = int(np.count_nonzero(differ))
    place = tuple(int(n) for n in np.unravel_index(int(differ.argmax()), shape)) if changed else None
    return Delta(a.size, changed == 0, changed, change=None if changed else 0.0, place=place)


def _tiles(rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    width = max(1, min(columns, BLOCK))
    height = max(1, BLOCK // width)
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            yield slice(top, top + height), slice(left, left + width)


@dataclass(slots=True)
class _Candidate:
    """A dtype to which all numbers seen so far round alike."""

    name: str
    a_holds: bool = True
    b_holds: bool = True


@dataclass(slots=True)
class _Sums:
    """The running sums over blocks of a matrix (m, k)."""

    shape: tuple[int, int]
    dtypes: tuple[str, str]
    aa: float = 0.0
    bb: float = 0.0
    ab: float = 0.0
    dd: float = 0.0
    changed: int = 0
    nonfinite_mismatch: int = 0
    nonfinite: int = 0
    odd_bits: bool = False
    largest: float = 0.0
    place: tuple[int, int] | None = None
    row_aa: Any = None
    row_dd: Any = None
    candidates: list[_Candidate] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.row_aa, self.row_dd = np.zeros(self.shape[0]), np.zeros(self.shape[0])
        widest = max(FRACTION.get(dtype, 0) for dtype in self.dtypes)
        self.candidates = [_Candidate(name) for name in ROUNDED_TO if FRACTION[name] < widest]

    def take(self, rows: slice, columns: slice, a: Array, b: Array) -> None:
        wide_a, wide_b = widened(a), widened(b)
        x, y = wide_a.astype(np.float64), wide_b.astype(np.float64)
        d = y - x
        if not math.isfinite(float(d.sum())):
            self._set_aside(x, y, d)
        squares_x, squares_d = x * x, d * d
        row_aa, row_dd = squares_x.sum(1), squares_d.sum(1)
        self.row_aa[rows] += row_aa
        self.row_dd[rows] += row_dd
        self.aa += float(row_aa.sum())
        dd = float(row_dd.sum())
        self.dd += dd
        self.bb += float(np.vdot(y, y))
        self.ab += float(np.vdot(x, y))
        changed = int(np.count_nonzero(d))
        self.changed += changed
        if changed < d.size:
            self.odd_bits = self.odd_bits or _signs_differ(x, y)
        if changed:
            self._largest(np.abs(d), d, rows.start, columns.start)
            self._round(wide_a, wide_b, dd, float(row_aa.sum()))

    def _set_aside(self, x: Floats, y: Floats, d: Floats) -> None:
        """Elements that are not finite in both count, and are taken out of the sums."""
        finite_x, finite_y = np.isfinite(x), np.isfinite(y)
        odd = ~(finite_x & finite_y)
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        self.nonfinite_mismatch += int(np.count_nonzero(odd & ~same))
        self.nonfinite += int(np.count_nonzero(odd))
        for array in (x, y, d):
            array[odd] = 0
        if (odd & ~same).any():
            self.candidates = []

    def _largest(self, sizes: Floats, d: Floats, top: int, left: int) -> None:
        at = int(sizes.argmax())
        row, column = divmod(at, d.shape[1])
        if sizes[row, column] > abs(self.largest):
            self.largest, self.place = float(d[row, column]), (top + row, left + column)

    def _round(self, a: Array, b: Array, dd: float, aa: float) -> None:
        if self.candidates and dd > NEAR * NEAR * aa:
            self.candidates = []
        for candidate in list(self.candidates):
            dtype = numpy_dtype(candidate.name)
            narrow_a, narrow_b = a.astype(dtype), b.astype(dtype)
            back_a, back_b = narrow_a.astype(np.float64), narrow_b.astype(np.float64)
            same = np.array_equal(back_a, back_b, equal_nan=True)
            if not same or np.isinf(back_a).sum() != np.isinf(a).sum():
                self.candidates.remove(candidate)
                continue
            candidate.a_holds = candidate.a_holds and np.array_equal(back_a, a, equal_nan=True)
            candidate.b_holds = candidate.b_holds and np.array_equal(back_b, b, equal_nan=True)

    def result(self, shape: tuple[int, ...], neurons: int) -> Delta:
        changed = self.changed + self.nonfinite_mismatch
        norm, distance = _root(self.aa), _root(self.dd)
        scale = _root(self.aa * self.bb) if self.aa and self.bb else None
        rounding = self.candidates[0] if self.candidates and changed else None
        return Delta(
            count=self.shape[0] * self.shape[1],
            identical=not changed and not self.odd_bits,
            changed=changed,
            nonfinite_mismatch=self.nonfinite_mismatch,
            norm=norm,
            distance=distance,
            # Of what is broken the finite rest would give a share and an angle that are not the tensor's.
            change=None if self.nonfinite_mismatch else _ratio(distance, norm),
            cosine=max(-1.0, min(1.0, self.ab / scale)) if scale and not self.nonfinite_mismatch else None,
            largest=None if self.nonfinite_mismatch else self.largest,
            place=self._place(shape),
            rounding=None if rounding is None else rounding.name,
            rounded="" if rounding is None else _who(rounding),
            neurons=tuple(self._neurons(neurons)) if changed else (),
        )

    def _place(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        if self.place is None or not shape:
            return None
        flat = self.place[0] * self.shape[1] + self.place[1]
        return tuple(int(n) for n in np.unravel_index(flat, shape))

    def _neurons(self, most: int) -> Iterator[Neuron]:
        """The rows that moved furthest for their size, those that were zero before all others."""
        with np.errstate(all="ignore"):
            shares = np.sqrt(self.row_dd) / np.sqrt(self.row_aa)
        shares[self.row_dd == 0] = -1  # also 0 / 0
        for row in np.argsort(-shares, kind="stable")[:most]:
            if shares[row] >= 0:
                share = float(shares[row])
                yield Neuron(int(row), math.sqrt(self.row_dd[row]), share if math.isfinite(share) else None)


def _signs_differ(x: Floats, y: Floats) -> bool:
    """Whether equal numbers differ in a bit: zeros of different sign."""
    return bool((np.signbit(x) != np.signbit(y))[(x == 0) & (y == 0)].any())


def _root(square: float) -> float | None:
    return math.sqrt(square) if math.isfinite(square) else None


def _ratio(part: float | None, whole: float | None) -> float | None:
    """A share; nothing of nothing is 0."""
    if part is None or whole is None or (part and not whole):
        return None
    return part / whole if whole else 0.0


def _who(candidate: _Candidate) -> str:
    if candidate.a_holds and candidate.b_holds:
        return "both"
    return "a" if candidate.a_holds else "b" if candidate.b_holds else "neither"


# ------------------------------------------------------------------------------------------------ rank


def _ranked(found: Delta, a: Array, b: Array, sums: _Sums, dtypes: tuple[str, str], spectrum: bool) -> Delta:
    """The same with the rank of Δ, where it is low, and with `spectrum` at any rate."""
    m, k = a.shape
    if not 0 < sums.dd < math.inf or sums.nonfinite or a.size > LARGEST_RANKED or min(m, k) < 2:
        return found
    exponent = math.frexp(abs(sums.largest))[1]
    change = np.ldexp(widened(b).astype(np.float64) - widened(a).astype(np.float64), -exponent)
    floor = math.ldexp(_noise(sums, dtypes), -exponent)
    sigmas = _sketched(change, floor)
    if sigmas is None and spectrum:
        tall = change if m >= k else change.T
        sigmas = np.sqrt(np.maximum(np.linalg.eigvalsh(tall.T @ tall)[::-1], 0))
    if sigmas is None:
        return replace(found, full_rank=min(m, k))
    rank = int(np.count_nonzero(sigmas > max(floor * (math.sqrt(m) + math.sqrt(k)), ROUNDING * sigmas[0])))
    squares = np.square(sigmas)
    explained = float(squares[:rank].sum() / np.vdot(change, change))
    return replace(
        found, rank=rank, full_rank=min(m, k), explained=min(explained, 1.0), effective_rank=effective_rank(sigmas)
    )


def _noise(sums: _Sums, dtypes: tuple[str, str]) -> float:
    """What rounding to the coarser of the stored dtypes does to an element: twice the root mean square of its error.

    An error within half a step of 2^-bits · |w| has the root mean square 2^-bits · |w| / √12; singular values of such
    noise end at it times √m + √k.
    """
    bits = min(FRACTION.get(dtype, 23) for dtype in dtypes)
    rms = math.sqrt(max(sums.aa, sums.bb) / (sums.shape[0] * sums.shape[1]))
    return 2 * 2.0**-bits * rms / math.sqrt(12)


def _sketched(change: Floats, floor: float) -> Floats | None:
    """The singular values of a matrix of low rank, None for another: what a random sketch leaves out tells.

    Halko, Martinsson & Tropp, SIAM Review 53(2), 2011, algorithm 4.1.
    """
    m, k = change.shape
    columns = min(MOST_RANK + SPARE, min(m, k) // 2)
    if columns < 1:
        return None
    wide = change if m >= k else change.T
    test = np.random.default_rng(SEED).standard_normal((wide.shape[1], columns))
    basis, _ = np.linalg.qr(wide @ test)
    inside = basis.T @ wide
    total = float(np.vdot(wide, wide))
    # Cancellation leaves 2^-52 of the total; the rest is noise if it is no larger than rounding can be.
    left = max(total - float(np.vdot(inside, inside)), 0.0)
    if left > floor * floor * m * k + 1e-13 * total:
        return None
    return np.asarray(np.linalg.svd(inside, compute_uv=False), np.float64)
