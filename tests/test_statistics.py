"""Every statistic against a second way to it, sums that add however a set is split, and the laws in between."""

from __future__ import annotations

import math
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import powerlaw
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bertprobe.checkpoint import open_checkpoint, read_tensors
from bertprobe.errors import UnsupportedFile
from bertprobe.noise import edge_of_rows, in_groups
from bertprobe.stats import robust, spectrum
from bertprobe.stats.numbers import Numbers, measure, summarize
from bertprobe.stats.robust import leading, robust_z
from bertprobe.stats.spectrum import SEED, TOLERANCE, top_sigma
from bertprobe.stats.summary import EMPTY, Summary
from bertprobe.stats.sums import as_matrix, checked, operand
from bertprobe.stats.table import STATISTICS, statistics

Array = npt.NDArray[Any]
EPS = 2.0**-52

# σ₁ is promised to 1e-4; what remains at the tolerance that ships is float32 rounding, well below this.
SIGMA = 1e-5

DTYPES = [
    np.float64,
    np.float32,
    np.float16,
    ml_dtypes.bfloat16,
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e5m2,
    ml_dtypes.float8_e4m3fnuz,
    ml_dtypes.float8_e5m2fnuz,
    ml_dtypes.float8_e8m0fnu,
    np.int8,
    np.uint8,
    np.int16,
    np.int32,
    np.int64,
    np.uint64,
    np.bool_,
    np.dtype(">f4"),
    np.dtype(">f8"),
    np.longdouble,
]


def noise(m: int, k: int, seed: int = 0, std: float = 0.02) -> npt.NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal((m, k)) * std).astype(np.float32)


def close(expected: Any, rel: float) -> Any:
    """Approximately equal, also where the numbers themselves are tiny."""
    return pytest.approx(expected, rel=rel, abs=0)


def largest_singular_value(matrix: Any, *, tolerance: float = TOLERANCE, seed: int = SEED) -> float:
    """σ₁ of a matrix (m, k) by the steps that `measure` takes, with a seed of one's own; NaN where an element is."""
    wide = operand(as_matrix(checked(matrix)))
    if not wide.size:
        return 0.0
    largest = max(abs(float(wide.min())), abs(float(wide.max())))
    return top_sigma(wide, largest, tolerance, seed) if math.isfinite(largest) else math.nan


def norms_of(numbers: Numbers) -> Array:
    assert numbers.row_norms is not None
    return numbers.row_norms


def top(matrix: Array) -> float:
    return float(np.linalg.svd(matrix.astype(np.float64), compute_uv=False)[0])


def assert_summary(summary: Summary, array: Array, scale: float = 1.0) -> None:
    """Against numpy and scipy in float64; `scale` times 1e-12 is allowed, relative to the spread where signs cancel."""
    x = array.astype(np.float64).ravel()
    finite = x[np.isfinite(x)]
    assert summary.count == x.size
    assert summary.nonfinite == x.size - finite.size
    assert summary.zeros == np.count_nonzero(x == 0)
    if not finite.size:
        assert summary.std is summary.l2 is summary.abs_max is summary.skewness is summary.kurtosis is None
        return
    tolerance = scale * 1e-12
    spread = float(finite.std())
    assert (summary.min, summary.max) == (finite.min(), finite.max())
    assert summary.abs_max == np.abs(finite).max()
    assert summary.mean == pytest.approx(exact_sum(finite) / finite.size, rel=4 * EPS, abs=tolerance * spread)
    assert summary.std == pytest.approx(two_pass_std(finite), rel=tolerance, abs=EPS * spread)
    assert summary.l2 == close(math.sqrt(exact_sum(finite * finite)), rel=tolerance)
    if finite.min() == finite.max():
        assert (summary.std, summary.skewness, summary.kurtosis) == (0, None, None)
    elif summary.kurtosis is not None:
        size = 1 + abs(summary.kurtosis)
        assert summary.skewness == pytest.approx(scipy.stats.skew(finite), rel=tolerance, abs=tolerance * size)
        assert summary.kurtosis == pytest.approx(scipy.stats.kurtosis(finite), rel=tolerance, abs=tolerance * size)


def two_pass_std(x: Array) -> float:
    """The standard deviation about a mean that is exact to rounding, which numpy's own is not for long arrays."""
    d = x - exact_sum(x) / x.size
    return math.sqrt(exact_sum(d * d) / x.size - (exact_sum(d) / x.size) ** 2)


def exact_sum(x: Array) -> float:
    return math.fsum(x.tolist())


# ------------------------------------------------------------------------------------------------ sums


@pytest.mark.parametrize(
    "shape",
    [(), (0,), (1,), (7,), (3, 0), (0, 3), (40, 30), (5, 4, 3), (2, 3, 2, 2), (3, 140_000), (140_000, 3), (300_001,)],
)
def test_a_summary_is_what_numpy_and_scipy_say(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(1).gamma(2.0, size=shape)
    assert_summary(summarize(x), x)
    assert_summary(measure(x.astype(np.float32)).summary, x.astype(np.float32))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).str + np.dtype(dtype).name)
def test_every_type_is_measured_by_its_values(dtype: Any) -> None:
    x = np.random.default_rng(2).standard_normal((500, 300)) * (40 if np.dtype(dtype).kind in "iu" else 1)
    x = np.abs(x) if np.dtype(dtype).kind == "u" or "e8m0" in np.dtype(dtype).name else x
    stored = x.astype(dtype)
    stored.setflags(write=False)
    numbers = measure(stored)
    values = stored.astype(np.float64)
    assert_summary(numbers.summary, values)
    assert numbers.sigma == close(top(values), rel=SIGMA)
    np.testing.assert_allclose(norms_of(numbers), np.linalg.norm(values, axis=1), rtol=1e-13)


def test_every_code_of_an_eight_bit_type_is_read() -> None:
    for dtype in (d for d in DTYPES if np.dtype(d).name.startswith("float8")):
        codes = np.arange(256, dtype=np.uint8).view(dtype)
        assert_summary(summarize(codes), codes)


@pytest.mark.parametrize(
    "dtype", [np.complex64, ml_dtypes.complex32, np.dtype("S3"), np.dtype("datetime64[s]"), object]
)
def test_what_is_no_real_number_is_refused(dtype: Any) -> None:
    with pytest.raises(UnsupportedFile, match="real numbers"):
        measure(np.zeros((2, 2), dtype))


def test_wide_integers_are_not_narrowed() -> None:
    x = np.array([2**53 - 1, 2**53 - 3], np.int64)
    assert summarize(x).mean == 2**53 - 2
    assert summarize(np.array([16_777_217, 16_777_217], np.int32)).mean == 16_777_217  # 2²⁴ + 1: not in float32


def views() -> dict[str, Array]:
    base = noise(500, 300)  # more than a block
    shifted = np.frombuffer(b"\0" + base.tobytes(), np.uint8)[1:]
    return {
        "transposed": base.T,
        "column order": np.asfortranarray(base),
        "every second row": base[::2],
        "every second column": base[:, ::2],
        "backwards": base[::-1, ::-1],
        "cut out": base[10:200, 20:100],
        "cut out, transposed": base[10:200, 20:100].T,
        "broadcast": np.broadcast_to(base[0], (50, 300)),
        "overlapping": np.lib.stride_tricks.as_strided(base, (600, 260), (4, 8), writeable=False),
        "unaligned": shifted.view(np.float32).reshape(500, 300),
        "three axes, turned": base.reshape(50, 10, 300).transpose(2, 0, 1),
        "long columns": np.asfortranarray(noise(140_000, 3)),
        "long rows": noise(3, 140_000)[:, 1:],
    }


@pytest.mark.parametrize("name", views())
def test_strides_do_not_matter(name: str) -> None:
    view = views()[name]
    copy = np.ascontiguousarray(view)
    ours, plain = measure(view), measure(copy)
    assert_summary(ours.summary, view)
    assert_summary(summarize(view), view)
    assert ours.shape == plain.shape == (len(view), view[0].size)
    assert ours.sigma == close(top(copy.reshape(plain.shape)), rel=SIGMA)
    np.testing.assert_allclose(norms_of(ours), norms_of(plain), rtol=1e-13)


def split(x: Array, cuts: list[int]) -> Summary:
    total = EMPTY
    for part in np.split(x, sorted(cut % (x.size + 1) for cut in cuts)):
        total += summarize(part)
    return total


NUMBERS = st.floats(-1e6, 1e6, width=32).map(lambda x: 0.0 if abs(x) < 1e-3 else x)
BROKEN = st.sampled_from([math.nan, math.inf, -math.inf])


@settings(max_examples=150, deadline=None)
@given(
    arrays.arrays(np.float32, st.integers(0, 60), elements=NUMBERS | BROKEN),
    st.lists(st.integers(0, 1000), max_size=5),
)
def test_any_split_gives_the_whole(x: Array, cuts: list[int]) -> None:
    # Sums that cancel may be off by rounding against the largest term: near-constant sets with a far mean lose
    # mean² / variance, squared for the fourth power. `measure` itself is held to the tight bound elsewhere.
    whole, parts = summarize(x), split(x, cuts)
    assert (parts.count, parts.nonfinite, parts.zeros) == (whole.count, whole.nonfinite, whole.zeros)
    np.testing.assert_equal((parts.min, parts.max), (whole.min, whole.max))
    if not whole.finite:
        return
    size = whole.abs_max or 1.0
    assert parts.mean == pytest.approx(whole.mean, abs=64 * EPS * size)
    for ours, theirs, power in ((parts.m2, whole.m2, 2), (parts.m3, whole.m3, 3), (parts.m4, whole.m4, 4)):
        assert ours == pytest.approx(theirs, rel=1e-11, abs=256 * EPS * whole.finite * size**power)


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.float32, st.integers(0, 40), elements=NUMBERS | BROKEN))
def test_nothing_added_changes_nothing(x: Array) -> None:
    summary = summarize(x)
    np.testing.assert_equal(fields(summary + EMPTY), fields(summary))
    np.testing.assert_equal(fields(EMPTY + summary), fields(summary))


def fields(summary: Summary) -> tuple[float, ...]:
    return tuple(getattr(summary, name) for name in Summary.__slots__)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 1e-3, 1.0, 30.0, 1e6]), st.lists(st.integers(0, 10**6), max_size=4))
def test_any_split_of_many_numbers_gives_the_standardised_moments(seed: int, offset: float, cuts: list[int]) -> None:
    # The mean is held to one rounding, EPS · offset; a part's distance to the others is known to that, and so is
    # the spread: relative to it, EPS · offset / std, times the power.
    x = np.random.default_rng(seed).gamma(3.0, size=5000) * 1e-3 + offset
    allowed = 1 + 1e12 * 8 * EPS * offset / float(x.std())
    assert_summary(split(x, cuts), x, allowed)


@pytest.mark.parametrize(("mean", "std"), [(1e6, 1e-3), (-1e6, 1.0), (1e4, 1e-2), (0.02, 0.02), (0.03, 0.02)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_far_mean_costs_no_more_than_its_own_rounding(mean: float, std: float, dtype: Any) -> None:
    # In float32 around 1e6 neighbours are 0.06 apart, so what is stored has a std of its own: that one must be right.
    x = np.random.default_rng(3).normal(mean, std, (300, 1000)).astype(dtype)
    x[0, :10] += dtype(std + 0.1)
    allowed = 1 + 1e12 * 8 * EPS * abs(mean) / float(x.astype(np.float64).std())
    numbers = measure(x)
    assert_summary(numbers.summary, x, allowed)
    np.testing.assert_allclose(norms_of(numbers), np.linalg.norm(x.astype(np.float64), axis=1), rtol=1e-12)


def test_a_row_of_zeros_in_a_far_matrix_has_norm_zero() -> None:
    x = noise(50, 40) + np.float32(1e6)
    x[7] = 0
    assert norms_of(measure(x))[7] == 0


def test_equal_values_of_any_size_and_number_have_no_variance() -> None:
    for value in np.random.default_rng(4).standard_normal(300) * 1e3:
        x = np.full(1237, value)
        assert (summarize(x) + summarize(x[:100])).m2 == 0
        assert summarize(x).mean == value


@pytest.mark.parametrize("value", [0.0, -0.0, 0.1, -3.7, 1e6 + 0.1, 1e38])
def test_a_constant_has_no_variance_at_all(value: float) -> None:
    x = np.full((300, 1000), value)
    parts = summarize(x[:7]) + summarize(x[7:])
    for summary in (summarize(x), parts, summarize(x.astype(np.float32))):
        assert (summary.std, summary.skewness, summary.kurtosis) == (0, None, None)
    assert summarize(np.full(70, 1e200)).std == 0
    numbers = measure(x, spectrum=True)
    assert numbers.mp_edge_ratio is None
    assert numbers.spectrum is not None
    assert numbers.spectrum.spikes is None
    assert numbers.sigma == close(abs(value) * math.sqrt(x.size), rel=SIGMA)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_what_is_not_finite_is_counted_and_left_out(bad: float, dtype: Any) -> None:
    x = noise(300, 700, std=1.0).astype(dtype)
    x[5, 7] = x[299, 699] = bad
    x[6] = 0
    numbers = measure(x, spectrum=True)
    assert_summary(numbers.summary, x)
    assert numbers.spectrum is None
    assert numbers.sigma is numbers.mp_edge_ratio is numbers.stable_rank is None
    norms = np.linalg.norm(np.delete(x.astype(np.float64), [5, 299], axis=0), axis=1)
    assert np.flatnonzero(np.isnan(norms_of(numbers))).tolist() == [5, 299]
    assert numbers.row_norm_max == close(norms.max(), rel=1e-13)
    assert numbers.row_norm_median == close(np.median(norms), rel=1e-13)
    assert numbers.row_norm_min == 0
    assert math.isnan(largest_singular_value(x))


def test_nothing_finite_has_counts_only() -> None:
    found = statistics(measure(np.full((140, 1000), np.nan, np.float32), spectrum=True))
    assert {name for name, value in found.items() if value is not None} == {"count", "nonfinite", "zeros"}
    assert (found["count"], found["nonfinite"], found["zeros"]) == (140_000, 140_000, 0)


# ------------------------------------------------------------------------------------------------ range


@pytest.mark.parametrize("exponent", [-149, -140, -100, 0, 60, 120])
def test_float32_neither_overflows_nor_underflows(exponent: int) -> None:
    x = np.ldexp(noise(200, 100, std=8.0), exponent)
    numbers = measure(x, spectrum=True)
    plain = np.ldexp(x.astype(np.float64), -exponent)
    assert numbers.summary.std == close(math.ldexp(plain.std(), exponent), rel=1e-12)
    assert numbers.summary.l2 == close(math.ldexp(float(np.linalg.norm(plain)), exponent), rel=1e-12)
    assert numbers.summary.kurtosis == pytest.approx(scipy.stats.kurtosis(plain, axis=None), abs=1e-11)
    assert numbers.sigma == close(math.ldexp(top(plain), exponent), rel=SIGMA)
    assert largest_singular_value(x) == close(numbers.sigma, rel=SIGMA)


def test_float64_beyond_its_squares_gives_none_in_silence() -> None:
    huge, tiny = noise(200, 100).astype(np.float64) * 1e300, noise(200, 100).astype(np.float64) * 1e-290
    found = statistics(measure(huge, spectrum=True))
    assert found["std"] is found["l2"] is found["kurtosis"] is found["skewness"] is found["mp_edge_ratio"] is None
    assert found["sigma_max"] == close(top(huge * 1e-300) * 1e300, rel=SIGMA)
    assert found["condition_number"] == close(np.linalg.cond(huge * 1e-300), rel=1e-7)
    assert found["alpha"] == close(statistics(measure(huge * 1e-300, spectrum=True))["alpha"], rel=1e-6)
    assert measure(tiny).sigma == close(top(tiny * 1e290) * 1e-290, rel=SIGMA)
    assert statistics(measure(tiny))["kurtosis"] is None
    assert statistics(measure(noise(9, 9).astype(np.float64) * 1e-75))["kurtosis"] is None  # fourth powers vanish


# ------------------------------------------------------------------------------------------------ σ₁


def matrices() -> dict[str, Array]:
    rng = np.random.default_rng(5)
    u, v = np.linalg.qr(rng.standard_normal((300, 80)))[0], np.linalg.qr(rng.standard_normal((80, 80)))[0]
    near = np.linspace(1, 0.1, 80)
    near[:4] = [1, 1 - 1e-6, 1 - 1e-4, 1 - 1e-3]
    return {
        "rank 1": np.outer(rng.standard_normal(500), rng.standard_normal(200)).astype(np.float32),
        "rank 2": noise(500, 2) @ noise(2, 200, 1),
        "nearly equal": ((u * near) @ v).astype(np.float32),
        "all equal": u.astype(np.float32),
        "identity": np.eye(130, dtype=np.float32),
        "one entry": np.eye(1, 900, 17, dtype=np.float32).reshape(30, 30),
        "one column": noise(1000, 1),
        "one row": noise(1, 100_000),
        "one element": np.array([[-3.0]], np.float32),
        "two by two": np.array([[1, 1], [1, 1]], np.float32),
        "spread out": ((u * np.logspace(0, -30, 80)) @ v).astype(np.float64),
        "integers": rng.integers(-(2**30), 2**30, (200, 90)),
        "constant and noise": noise(300, 300) + np.float32(0.5),
    }


@pytest.mark.parametrize("name", matrices())
def test_sigma_is_the_singular_value(name: str) -> None:
    matrix = matrices()[name]
    assert largest_singular_value(matrix) == close(top(matrix), rel=SIGMA)
    assert largest_singular_value(matrix.T) == close(top(matrix), rel=SIGMA)


@pytest.mark.parametrize("seed", range(40))
def test_sigma_of_noise_is_not_the_second(seed: int) -> None:
    m, k = np.random.default_rng(seed).integers(1, 300, 2).tolist()
    matrix = noise(m, k, seed)
    assert largest_singular_value(matrix, seed=seed) == close(top(matrix), rel=SIGMA)


def test_sigma_of_large_noise() -> None:
    matrix = noise(1024, 512)
    assert measure(matrix).sigma == close(top(matrix), rel=SIGMA)


def test_sigma_of_zeros_is_zero() -> None:
    numbers = measure(np.zeros((70, 90), np.float32), spectrum=True)
    assert numbers.sigma == 0
    assert numbers.mp_edge_ratio is numbers.stable_rank is None
    assert numbers.spectrum is not None
    assert numbers.spectrum.numerical_rank == 0
    assert numbers.spectrum.effective_rank is numbers.spectrum.alpha is numbers.spectrum.condition_number is None
    assert largest_singular_value(np.zeros((0, 5))) == 0


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.float32, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=NUMBERS))
def test_sigma_of_any_small_matrix(matrix: Array) -> None:
    assert largest_singular_value(matrix) == close(top(matrix), rel=1e-4)


def test_threads_and_repetition_change_nothing() -> None:
    several = [noise(300, 200, seed) for seed in range(8)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(measure, several * 3))
    assert [statistics(numbers) for numbers in together] == [statistics(measure(matrix)) for matrix in several] * 3


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16, np.int8, np.int32])
def test_memory_stays_within_one_float32_copy(dtype: Any) -> None:
    matrix = noise(3000, 800, std=40).astype(dtype)
    tracemalloc.start()
    measure(matrix)
    measure(matrix.T)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * matrix.size * (matrix.itemsize < 4 or matrix.dtype.kind != "f") + 6 * 2**20


# ------------------------------------------------------------------------------------------------ matrix


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(-30, 30))
def test_edge_and_ranks_do_not_depend_on_scale(seed: int, exponent: int) -> None:
    matrix = noise(90, 70, seed)
    small, large = measure(matrix, spectrum=True), measure(np.ldexp(matrix, exponent), spectrum=True)
    assert small.mp_edge_ratio == close(large.mp_edge_ratio, rel=1e-9)
    assert small.stable_rank == close(large.stable_rank, rel=1e-9)
    for name in ("effective_rank", "numerical_rank", "spikes", "alpha", "alpha_ks", "condition_number", "kurtosis"):
        assert statistics(small)[name] == close(statistics(large)[name], rel=1e-7)


def test_the_edge_ratio_of_a_matrix_is_that_of_its_transpose() -> None:
    matrix = noise(200, 90)
    assert measure(matrix).mp_edge_ratio == close(measure(matrix.T).mp_edge_ratio, rel=1e-6)


def test_the_edge_ratio_is_about_one_for_noise_and_rises_with_structure() -> None:
    matrix = noise(768, 768)
    direction = np.outer(noise(768, 1), noise(768, 1, 1)) * 15
    plain, structured = measure(matrix).mp_edge_ratio, measure(matrix + direction.astype(np.float32)).mp_edge_ratio
    assert plain is not None
    assert structured is not None
    assert 0.97 < plain < 1.03
    assert structured > 2
    expected = top(matrix) / matrix.astype(np.float64).std() / (2 * math.sqrt(768))
    assert plain == close(expected, rel=SIGMA)


def test_stable_rank_counts_equal_directions() -> None:
    assert measure(np.eye(90, dtype=np.float32)).stable_rank == close(90, rel=2 * SIGMA)
    assert measure(np.outer(noise(90, 1), noise(60, 1))).stable_rank == close(1, rel=2 * SIGMA)


def test_a_trained_model_stands_out_and_its_pooler_does_not(minilm: Path) -> None:
    checkpoint = open_checkpoint(str(minilm / "model.safetensors"))
    wanted = ("encoder.layer.0.intermediate.dense.weight", "pooler.dense.weight")
    ratios = {}
    for name, array in read_tensors({name: checkpoint.headers[name] for name in wanted}):
        ratios[name] = measure(array).mp_edge_ratio
        assert measure(array).sigma == close(top(array), rel=SIGMA)
        assert_summary(summarize(array), array)
    assert ratios[wanted[0]] == pytest.approx(2.27, abs=0.7)
    assert ratios[wanted[1]] == pytest.approx(0.986, abs=1e-3)


# ------------------------------------------------------------------------------------------------ spectrum


@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (200, 200), (300, 70)])
def test_the_spectrum_is_what_svd_says(shape: tuple[int, int]) -> None:
    matrix = noise(*shape)
    numbers = measure(matrix, spectrum=True)
    spectrum = numbers.spectrum
    assert spectrum is not None
    sigmas = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    # From the Gram matrix: eps · (σ₁ / σ)², and at most (1e4)² · 2e-16 before svd takes over.
    np.testing.assert_allclose(spectrum.sigmas, sigmas, rtol=1e-7)
    shares = sigmas / sigmas.sum()
    assert spectrum.effective_rank == close(math.exp(scipy.stats.entropy(shares)), rel=1e-9)
    assert spectrum.numerical_rank == np.linalg.matrix_rank(matrix) == min(shape)
    assert spectrum.condition_number == close(np.linalg.cond(matrix.astype(np.float64)), rel=1e-7)
    assert numbers.sigma == close(measure(matrix).sigma, rel=SIGMA)


def test_an_ill_conditioned_matrix_gets_a_real_svd() -> None:
    u, v = np.linalg.qr(noise(90, 50).astype(np.float64))[0], np.linalg.qr(noise(50, 50, 1).astype(np.float64))[0]
    matrix = (u * np.logspace(0, -9, 50)) @ v
    spectrum = measure(matrix, spectrum=True).spectrum
    assert spectrum is not None
    assert spectrum.condition_number == close(1e9, rel=1e-5)  # eps · 1e9: what the product lost


@pytest.mark.parametrize("rank", [1, 2, 30])
def test_a_product_has_the_rank_of_its_factors(rank: int) -> None:
    matrix = noise(200, rank, std=1.0) @ noise(rank, 100, 1, std=1.0)
    spectrum = measure(matrix, spectrum=True).spectrum
    assert spectrum is not None
    assert spectrum.numerical_rank == rank
    assert spectrum.sigmas.shape == (100,)
    assert (np.diff(spectrum.sigmas) <= 0).all()
    deficient = measure(np.diag([1.0] * rank + [0.0] * 5), spectrum=True).spectrum
    assert deficient is not None
    assert deficient.numerical_rank == rank
    assert deficient.condition_number is None
    assert deficient.effective_rank == close(rank, rel=1e-9)


def test_rank_is_judged_by_the_precision_of_what_is_stored() -> None:
    faint = np.diag([1.0, 1e-5, 1e-12])
    ranks = [measure(faint.astype(dtype), spectrum=True).spectrum for dtype in (np.float64, np.float32)]
    assert [spectrum.numerical_rank for spectrum in ranks if spectrum] == [3, 2]


def test_half_precision_does_not_lose_its_rank() -> None:
    # With bfloat16's eps of 2⁻⁷ the bar would lie above σ₁ from 128 rows on, and every matrix would have rank 0.
    for dtype in (ml_dtypes.bfloat16, np.float16, ml_dtypes.float8_e4m3fn):
        spectrum = measure(noise(200, 150, std=1.0).astype(dtype), spectrum=True).spectrum
        assert spectrum is not None
        assert spectrum.numerical_rank == 150


def test_spikes_are_the_directions_that_were_put_in() -> None:
    base = noise(500, 300)
    u, v = np.linalg.qr(noise(500, 3, 1))[0], np.linalg.qr(noise(300, 3, 2))[0]
    spectrum = measure((base + (u * [4.0, 3.0, 2.0]) @ v.T).astype(np.float32), spectrum=True).spectrum
    assert spectrum is not None
    assert spectrum.spikes == 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning:powerlaw")  # it warns of itself
@pytest.mark.parametrize(("seed", "exponent"), [(0, 1.8), (1, 2.2), (2, 2.6), (3, 2.9)])
def test_alpha_is_what_the_powerlaw_package_fits(seed: int, exponent: float) -> None:
    sigmas = np.sort(np.random.default_rng(seed).pareto(exponent - 1, 150) + 1) ** 0.5
    sigmas[:40] *= np.linspace(0.2, 1, 40)  # a bulk that is no power law, so that there is something to cut off
    alpha, distance, xmin = spectrum._power_law(sigmas[::-1])
    fit = powerlaw.Fit(sigmas**2, discrete=False, verbose=0, parameter_ranges={"alpha": [1.01, 20]})
    assert xmin == close(fit.xmin, rel=1e-12)
    # The package searches for the exponent numerically where it leaves (1.5, 3].
    assert alpha == close(fit.power_law.alpha, rel=1e-6)
    assert distance == pytest.approx(fit.power_law.D, abs=1e-6)
    assert exponent - 0.5 < (alpha or 0) < exponent + 0.8


def test_alpha_does_not_see_zeros() -> None:
    matrix = noise(120, 80)
    plain, padded = (statistics(measure(x, spectrum=True)) for x in (matrix, np.pad(matrix, (0, 9))))
    assert padded["alpha"] == close(plain["alpha"], rel=1e-6)
    assert padded["condition_number"] is None


def test_too_few_values_have_no_power_law() -> None:
    for few in ([], [1.0], [2.0, 1.0], [1.0] * 50, [2.0] * 9 + [1.0] * 9):
        assert spectrum._power_law(np.array(few)) == (None, None, None)
    assert None not in spectrum._power_law(np.array([3.0, 2.0, 1.0]))


# ------------------------------------------------------------------------------------------------ robust z


def test_robust_z_is_scipys_modified_score() -> None:
    x = np.random.default_rng(0).standard_normal(501)
    x[7] = 50
    expected = (x - np.median(x)) / scipy.stats.median_abs_deviation(x, scale="normal")
    np.testing.assert_allclose(robust_z(x), expected, rtol=1e-4)  # 1.4826 has five digits
    assert robust_z(x)[7] > 30


def test_robust_z_without_spread() -> None:
    assert robust_z([]).size == 0
    assert robust_z([3.0, 3.0, 3.0]).tolist() == [0, 0, 0]
    lone = robust_z([1.0] * 9 + [2.0])
    assert lone[:9].tolist() == [0] * 9
    assert lone[9] == pytest.approx(10 / 1.2533)
    assert robust_z([1.0] * 9 + [1.0 + 1e-9])[9] == close(10 / 1.2533, rel=1e-4)


def test_robust_z_leaves_out_what_is_not_finite() -> None:
    np.testing.assert_allclose(
        robust_z([1.0, np.nan, 2.0, 3.0, np.inf]),
        robust_z([1.0, 2.0, 3.0])[[0, 0, 1, 2, 2]] + [0, np.nan, 0, 0, np.nan],
    )


FINITE = st.floats(-1e150, 1e150)


@given(st.lists(FINITE | st.integers(-2, 2).map(float), max_size=40))
def test_robust_z_is_what_its_definition_says(values: list[float]) -> None:
    x = np.array(values)
    before = x.copy()
    found = robust_z(x)
    assert (x == before).all()
    if len(x):
        distances = x - np.median(x)
        away = np.abs(distances)
        with np.errstate(over="ignore"):
            expected = distances / (1.4826 * np.median(away) or 1.2533 * np.mean(away) or 1.0)
        np.testing.assert_array_equal(found, expected)


ORDERS: dict[str, Callable[[Any], Any]] = {"least": lambda x: x, "most": lambda x: -x, "farthest": lambda x: -abs(x)}


@pytest.mark.parametrize("key", ORDERS.values(), ids=ORDERS)
@given(
    values=st.lists(st.integers(-3, 3).map(float) | st.sampled_from([np.nan, np.inf]) | FINITE, max_size=40),
    most=st.integers(0, 50),
    block=st.integers(1, 45),
)
def test_leading_values_are_those_of_a_stable_sort(
    key: Callable[[Any], Any], values: list[float], most: int, block: int
) -> None:
    x = np.array(values)
    expected = [place for place in np.argsort(key(x), kind="stable").tolist() if not np.isnan(x[place])][:most]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robust, "BLOCK", block)
        assert leading(x, most, key).tolist() == expected


# ------------------------------------------------------------------------------------------------ the table


def test_every_row_is_produced_and_explained() -> None:
    found = statistics(measure(noise(80, 70), spectrum=True))
    assert list(found) == [row.name for row in STATISTICS]
    assert len(set(found)) == len(STATISTICS)
    for row in STATISTICS:
        value = found[row.name]
        assert value is not None
        assert isinstance(value, int if row.kind == "integer" else float), row.name
        assert 0 < len(row.title) <= 9
        assert row.meaning.endswith(".")
        assert len(row.meaning) > 15


def test_rows_apply_to_what_they_are_of() -> None:
    def names(numbers: Numbers) -> set[str]:
        return {row.of for row in STATISTICS if row.name in statistics(numbers)}

    assert names(measure(noise(9, 1)[:, 0])) == {"summary"}
    assert names(measure(np.array(3.0))) == {"summary"}
    assert names(measure(noise(9, 8))) == {"summary", "matrix"}
    assert names(measure(noise(9, 8), spectrum=True)) == {"summary", "matrix", "spectrum"}


def test_one_title_is_one_statistic() -> None:
    assert len({row.title for row in STATISTICS}) == len(STATISTICS)


def test_what_shapes_need_loads_without_numpy() -> None:
    code = "import sys, bertprobe.stats.table, bertprobe.stats.summary; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ------------------------------------------------------------------------------------------------ noise, scaled


@pytest.mark.parametrize("shape", [(64, 64), (300, 100), (100, 700)])
def test_the_edge_of_rows_is_that_of_marchenko_and_pastur_where_they_are_alike(shape: tuple[int, int]) -> None:
    found = edge_of_rows(np.full(shape[0], 0.04), shape[1])
    assert found == pytest.approx(0.2 * (math.sqrt(shape[0]) + math.sqrt(shape[1])), rel=1e-6)


@pytest.mark.parametrize("turned", [False, True])
def test_the_largest_singular_value_of_scaled_noise_is_foreseen(turned: bool) -> None:
    """To 5 %, by which σ₁ falls short of the law where a few rows stand out."""
    rng = np.random.default_rng(0)
    for shape in ((600, 600), (900, 300), (300, 900)):
        scale = np.exp(0.4 * rng.standard_normal((shape[0], 1)))
        weight = (rng.standard_normal(shape) * scale).astype(np.float32)
        numbers = measure(weight.T if turned else weight)
        assert numbers.noise_ratio == pytest.approx(1, abs=0.05)
        assert (numbers.mp_edge_ratio or 0) > 1.2


def test_a_mean_and_a_single_entry_are_foreseen_too() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((400, 300)).astype(np.float32)
    assert measure(weight + 1).noise_ratio == pytest.approx(1, abs=0.01)
    weight[7, 9] = 90  # its row and its column have norms to match, which is a little more than one entry needs
    assert measure(weight).noise_ratio == pytest.approx(1, abs=0.06)


def test_groups_of_row_norms_give_what_all_of_them_give() -> None:
    variances = np.exp(np.random.default_rng(0).standard_normal(5000))
    whole = edge_of_rows(variances[:500], 700)
    assert whole == pytest.approx(edge_of_rows(np.sort(variances[:500])[::-1], 700), rel=1e-9)
    v, counts = in_groups(variances)
    assert len(v) == len(counts) == 512
    assert counts.sum() == 5000
    assert (v * counts).sum() == pytest.approx(variances.sum())
    assert v.max() == variances.max()


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e-160, 1e-150, 1e-100, 1e100, 1e140, 1e155, 1e290])
@pytest.mark.parametrize("shift", [0, 1, 1e9])
def test_no_scale_of_the_numbers_is_too_much_for_their_noise(scale: float, shift: float) -> None:
    weight = (np.random.default_rng(0).standard_normal((70, 70)) + shift) * scale
    ratio = measure(weight).noise_ratio
    assert ratio is None or ratio == pytest.approx(1, abs=0.1)
    assert ratio is not None or not 1e-140 < scale <= 1e140
