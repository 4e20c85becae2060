"""Statistics of neurons over a corpus: what numpy makes of all activations, whatever the batches, and they add."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import bertprobe
from bertprobe.backends import NumpyBackend, TorchBackend
from bertprobe.neurons import (
    BINS,
    BUCKETS,
    Kept,
    NeuronScan,
    SiteScan,
    Sums,
    bins_of,
    buckets_of,
    document_of,
    edges,
    position_of,
    quantiles,
)
from bertprobe.neurons.best import Candidates, keys_of, where_of
from bertprobe.neurons.device import bins_of as torch_bins
from bertprobe.run import Captured, Compute, Matrices, Site, open_runner, run_texts
from bertprobe.run.runner import Runner
from bertprobe.tokens import Encoded, Packed, pack

SITE = Site("intermediate.0")
KEPT = Kept(top=4, drawn=9, thresholds=(0.1, 0.5))
WORDS = ["the", "ship", "left", "harbour", "and", "he", "was", "paid", "a", "shilling", "she", "walked", "on"]
Documents = list[tuple[np.ndarray, np.ndarray]]
"""Of each its activations and what they were before, (S, I) each."""


def documents_of(count: int, neurons: int, seed: int, *, grain: float = 0) -> Documents:
    """Made-up activations; with `grain` they are rounded, so that there are ties."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        before = draw.standard_normal((int(draw.integers(1, 60)), neurons)).astype(np.float32) * 2
        before = np.round(before / grain).astype(np.float32) * np.float32(grain) if grain else before
        found.append((np.maximum(before, 0) if grain else (before * 0.5 * (1 + np.tanh(before))), before))
    return found


def batches_of(documents: Documents, sizes: Iterator[int]) -> Iterator[tuple[Packed, np.ndarray, np.ndarray]]:
    places = list(range(len(documents)))
    while places:
        taken, places = places[: (n := next(sizes))], places[n:]
        texts = [
            Encoded(np.zeros(n := len(documents[i][0]), np.int64), np.zeros(n, np.int64), ("x",) * n) for i in taken
        ]
        packed = pack(texts, taken)
        yield packed, *(np.concatenate([documents[i][k] for i in packed.places]) for k in (0, 1))


def scanned(
    documents: Documents, sizes: Iterator[int], kept: Kept = KEPT, late: int = 0, before: Any = None
) -> SiteScan:
    """The scan of documents in batches of such sizes, each reduced before the `late` last ones are added."""
    scan = NeuronScan({SITE.part}, kept, salt=5, before=before)
    waiting: list[Any] = []
    for packed, after, before in batches_of(documents, sizes):
        waiting.append((packed, scan.reduce(Captured(SITE, packed, packed.lengths, after, before, NumpyBackend()))))
        if len(waiting) > late:
            batch, reduced = waiting.pop(0)
            scan.add(SITE, batch, reduced)
    for batch, reduced in waiting:
        scan.add(SITE, batch, reduced)
    return scan.found[SITE]


def by(size: int) -> Iterator[int]:
    while True:
        yield size


def by_chance(seed: int) -> Iterator[int]:
    draw = random.Random(seed)
    while True:
        yield draw.choice([1, 2, 7, 40])


def same(one: SiteScan, other: SiteScan) -> None:
    """Bit for bit, but for sums, which are of float32 within a group."""
    for field in fields(Sums):
        a, b = getattr(one.sums, field.name), getattr(other.sums, field.name)
        if field.name in ("by_position", "squares"):
            assert np.allclose(a, b, rtol=1e-5, atol=1e-4)
        else:
            assert np.array_equal(a, b), field.name
    for kind in ("strongest", "negative", "drawn"):
        for name in ("values", "where"):
            assert np.array_equal(getattr(getattr(one, kind), name), getattr(getattr(other, kind), name)), (kind, name)


def strongest_of(values: np.ndarray, where: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.array([np.lexsort((where, -column))[:most] for column in values.T])
    return np.take_along_axis(values.T, order, 1), where[order]


@pytest.mark.parametrize("grain", [0, 0.25])
@pytest.mark.parametrize("count", [1, 3, 150])
def test_a_scan_is_what_numpy_computes_of_all_activations(count: int, grain: float) -> None:
    documents = documents_of(count, 11, seed=count, grain=grain)
    found = scanned(documents, by(13))
    after, before = (np.concatenate([document[k] for document in documents]) for k in (0, 1))
    lengths = [len(document[0]) for document in documents]
    positions = np.concatenate([np.arange(n) for n in lengths])
    where = where_of(np.repeat(np.arange(count), lengths), positions)
    sums = found.sums
    assert sums.tokens == len(after)
    assert np.allclose(sums.means, after.mean(0, dtype=np.float64), rtol=1e-5, atol=1e-6)
    assert np.allclose(sums.deviations, after.std(0, dtype=np.float64), rtol=1e-4, atol=1e-6)
    for name, values in (("", after), ("before_", before)):
        assert np.array_equal(getattr(sums, f"{name}highest"), values.max(0))
        assert np.array_equal(getattr(sums, f"{name}lowest"), values.min(0))
        assert np.array_equal(getattr(sums, f"{name}above"), (values > 0).sum(0))
    assert np.array_equal(sums.over, [(after > t).sum(0) for t in np.float32(KEPT.thresholds)])
    assert np.array_equal(sums.positions, np.bincount(buckets_of(positions), minlength=BUCKETS))
    for bucket in range(BUCKETS):
        expected = after[buckets_of(positions) == bucket].sum(0, dtype=np.float64)
        assert np.allclose(sums.by_position[bucket], expected, rtol=1e-5, atol=1e-4)
    for neuron, column in enumerate(after.T):
        assert np.array_equal(sums.histogram[neuron], np.bincount(bins_of(column.copy()), minlength=BINS))
    most = min(KEPT.top, len(after))
    for best, values in ((found.strongest, after), (found.negative, -before)):
        expected_values, expected_where = strongest_of(values, where, most)
        assert np.array_equal(best.where[:, :most], expected_where)
        assert np.array_equal(best.values[:, :most], expected_values)
        assert (best.where[:, most:] == -1).all()
    chosen = np.argsort(keys_of(where, 5))[: KEPT.drawn]
    assert np.array_equal(found.drawn.where, where[chosen])
    assert np.array_equal(found.drawn.values, after[chosen])


@pytest.mark.parametrize("grain", [0, 0.25])
@pytest.mark.parametrize("late", [0, 6])
def test_batches_change_nothing(grain: float, late: int) -> None:
    documents = documents_of(120, 7, seed=3, grain=grain)
    whole = scanned(documents, by(len(documents)))
    for sizes in (by(1), by(50), by_chance(1), by_chance(2)):
        same(scanned(documents, sizes, late=late), whole)


@pytest.mark.parametrize("cut", [1, 60, 119])
@pytest.mark.parametrize("grain", [0, 0.25])
def test_two_scans_add_to_the_scan_of_both(cut: int, grain: float) -> None:
    """Which tokens are drawn of two is decided by the keys of each, which come of its own salt."""
    documents = documents_of(120, 7, seed=4, grain=grain)
    one, two = scanned(documents[:cut], by(9)), scanned(documents[cut:], by(9))
    both = one.joined(two.moved(cut), KEPT)
    whole = scanned(documents, by(9))
    drawn = whole.drawn
    for name in ("strongest", "negative"):
        assert np.array_equal(getattr(both, name).where, getattr(whole, name).where)
    same(SiteScan(both.sums, both.strongest, both.negative, drawn), whole)
    assert np.all(np.diff(both.drawn.keys.astype(object)) >= 0)
    ours = {*one.drawn.where.tolist(), *two.drawn.moved(cut).where.tolist()}
    assert len(both.drawn.where) == KEPT.drawn
    assert set(both.drawn.where.tolist()) <= ours


@pytest.mark.parametrize("grain", [0, 0.25])
def test_what_is_known_of_earlier_documents_changes_nothing(grain: float) -> None:
    """Tokens that would not be among the strongest of both are not even kept: there is less to sort."""
    documents = documents_of(120, 7, seed=6, grain=grain)
    one = scanned(documents[:60], by(9))
    apart = scanned(documents[60:], by(9))
    known = scanned(documents[60:], by(9), before={SITE: one})
    same(one.joined(known.moved(60), KEPT), one.joined(apart.moved(60), KEPT))
    assert (known.strongest.where >= 0).sum() < (apart.strongest.where >= 0).sum()


# ------------------------------------------------------------------------------------------------ on the device


def scanned_by_torch(documents: Documents, size: int, dtype: str, on_device: bool, before: Any = None) -> SiteScan:
    """The scan of documents whose activations are torch's in some dtype, looked at by torch or as numpy has them."""
    import torch

    scan = NeuronScan({SITE.part}, KEPT, salt=5, before=before, on_device=on_device)
    for packed, after, inputs in batches_of(documents, by(size)):
        shown = [torch.from_numpy(values).to(getattr(torch, dtype)) for values in (after, inputs)]
        scan.add(SITE, packed, scan.reduce(Captured(SITE, packed, packed.lengths, *shown, TorchBackend())))
    assert scan.is_finite
    return scan.found[SITE]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("grain", [0, 0.25])
@pytest.mark.parametrize(("count", "size"), [(1, 1), (3, 3), (150, 13), (150, 150)])
def test_looked_at_on_the_device_a_scan_is_the_same(count: int, size: int, grain: float, dtype: str) -> None:
    """Bit for bit, ties too, which half precision is full of; sums to 1e-6."""
    documents = documents_of(count, 11, seed=count, grain=grain)
    ours, theirs = (scanned_by_torch(documents, size, dtype, on_device) for on_device in (True, False))
    same(ours, theirs)
    for name in ("by_position", "squares"):
        one, other = getattr(ours.sums, name), getattr(theirs.sums, name)
        assert one.dtype == other.dtype
        assert np.abs(one - other).max() <= 1e-6 * np.abs(other).max()
    assert all(getattr(ours.sums, f.name).dtype == getattr(theirs.sums, f.name).dtype for f in fields(Sums))


@pytest.mark.parametrize("grain", [0, 0.25])
def test_on_the_device_earlier_documents_are_known_too(grain: float) -> None:
    documents = documents_of(120, 7, seed=6, grain=grain)
    one = scanned(documents[:60], by(9))
    ours, theirs = (scanned_by_torch(documents[60:], 9, "float32", way, {SITE: one}) for way in (True, False))
    same(one.joined(ours.moved(60), KEPT), one.joined(theirs.moved(60), KEPT))


def test_a_batch_is_looked_at_on_a_gpu_where_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """No activation is asked for in numpy."""
    import torch

    backend = TorchBackend()
    backend.device = "cuda"
    monkeypatch.setattr(Captured, "numpy", lambda *words, **named: pytest.fail("copied"))
    ((packed, after, before),) = batches_of(documents_of(5, 7, seed=1), by(5))
    shown = Captured(SITE, packed, packed.lengths, torch.from_numpy(after), torch.from_numpy(before), backend)
    scan = NeuronScan({SITE.part}, KEPT)
    scan.add(SITE, packed, scan.reduce(shown))
    assert scan.found[SITE].sums.tokens == len(after)


@given(hnp.arrays(np.float32, st.integers(1, 50), elements=st.floats(width=32)))
def test_torch_finds_the_same_bins(values: np.ndarray) -> None:
    import torch

    assert torch_bins(torch.from_numpy(values)).tolist() == bins_of(values).tolist()


def test_not_finite_on_the_device_is_seen() -> None:
    import torch

    ((packed, after, before),) = batches_of(documents_of(5, 7, seed=1), by(5))
    after[3, 2] = np.nan
    shown = Captured(SITE, packed, packed.lengths, torch.from_numpy(after), torch.from_numpy(before), TorchBackend())
    scan = NeuronScan({SITE.part}, KEPT, on_device=True)
    scan.add(SITE, packed, scan.reduce(shown))
    assert not scan.is_finite


def test_what_is_kept_does_not_follow_the_corpus() -> None:
    kept = Kept()
    sizes = []
    for count in (40, 400):
        found = scanned(documents_of(count, 5, seed=1), by(20), kept)
        arrays = [
            getattr(getattr(found, kind), name) for kind in ("strongest", "negative") for name in ("values", "where")
        ]
        sizes.append([a.nbytes for a in (*arrays, found.drawn.values)])
    assert sizes[0] == sizes[1]
    assert sum(sizes[1]) / 5 <= 2000, "examples of a neuron, in bytes"


@given(st.integers(0, 2**32 - 1), st.integers(0, 60))
def test_candidates_are_ordered_by_neuron_value_and_place(seed: int, count: int) -> None:
    draw = np.random.default_rng(seed)
    values = draw.choice(np.float32([-np.inf, -1e30, -2, -0.0, 0.0, 1e-40, 1.5, np.inf]), count)
    found = Candidates(draw.integers(0, 4, count), values, draw.permutation(count).astype(np.int64))
    assert found.ordered().tolist() == np.lexsort((found.where, -found.values, found.neurons)).tolist()


def test_drawn_tokens_are_as_if_by_lot() -> None:
    """Of 20,000 tokens each tenth has its share, and another salt draws others."""
    where = where_of(np.arange(2000).repeat(10), np.tile(np.arange(10), 2000))
    chosen = np.sort(np.argsort(keys_of(where, 1))[:2000])
    assert np.abs(np.histogram(chosen, 10, (0, 20_000))[0] - 200).max() < 60
    assert np.abs(np.bincount(position_of(where[chosen])) - 200).max() < 60
    other = np.argsort(keys_of(where, 2))[:2000]
    assert len(np.intersect1d(chosen, other)) < 300


# ------------------------------------------------------------------------------------------------ bins


@given(hnp.arrays(np.float32, st.integers(1, 50), elements=st.floats(width=32, allow_nan=False)))
def test_a_value_lies_between_the_edges_of_its_bin(values: np.ndarray) -> None:
    found, bounds = bins_of(values), edges()
    assert np.all((found >= 0) & (found < BINS))
    sizes, signs = np.abs(values.astype(np.float64)), np.signbit(values)
    low, high = np.abs(bounds[found]), np.abs(bounds[found + 1])
    inner, outer = np.where(signs, high, low), np.where(signs, low, high)
    assert np.all(inner <= sizes)
    assert np.all((sizes < outer) | np.isinf(outer))


def test_edges_rise_an_eighth_at_a_time() -> None:
    bounds = edges()
    assert len(bounds) == BINS + 1
    assert np.all(np.diff(bounds) > 0)
    positive = bounds[bounds >= 2**-8][:-1]
    assert (positive[1:] / positive[:-1]).max() <= 1.125
    assert (positive[0], positive[-1]) == (2**-8, 64)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.01, 0.3, 2.0, 30.0]), st.integers(20, 3000))
def test_deciles_are_known_to_an_eighth(seed: int, scale: float, count: int) -> None:
    values = (np.random.default_rng(seed).standard_normal(count) * scale).astype(np.float32)
    shares = [i / 10 for i in range(11)]
    histogram = np.bincount(bins_of(values), minlength=BINS)[None]
    (found,) = quantiles(histogram, values.min()[None], values.max()[None], shares)
    ordered = np.sort(values)
    exact = ordered[np.maximum(np.ceil(np.array(shares) * count).astype(int) - 1, 0)]
    assert np.all(np.abs(found - exact) <= np.maximum(np.abs(exact) / 8, 2**-8) + 1e-6)
    assert np.all(np.diff(found) >= 0)


def test_positions_fall_into_buckets_of_doubling_width() -> None:
    found = buckets_of(np.array([0, 1, 2, 3, 4, 7, 8, 511, 512, 16_383, 16_384, 999_999]))
    assert found.tolist() == [0, 1, 2, 2, 3, 3, 4, 9, 10, 14, 15, 15]


# ------------------------------------------------------------------------------------------------ models


def opened(backend: str, batch_tokens: int) -> Runner:
    model = bertprobe.open("pocket")
    return open_runner(model.checkpoint, model.anatomy, Compute(backend=backend, batch_tokens=batch_tokens))


@pytest.mark.parametrize(("backend", "on_device"), [("numpy", False), ("torch", False), ("torch", True)])
def test_a_scan_of_texts_is_of_the_activations_that_are_shown(
    backend: str, on_device: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bertprobe.run.engines.BertEngine.workers", 3)
    draw = random.Random(1)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(1, 40))) for _ in range(90)]
    labels = {"intermediate.0", "intermediate.3"}
    scan = NeuronScan(labels, KEPT, on_device=on_device)
    after, before = Matrices(labels), Matrices(labels, before=True)
    run_texts(opened(backend, 64), texts, scan, after, before)
    assert list(scan.found) == [Site("intermediate.0"), Site("intermediate.3")]
    for site, found in scan.found.items():
        again = scanned(list(zip(after.kept[site], before.kept[site], strict=True)), by(10))
        same(SiteScan(found.sums, found.strongest, found.negative, again.drawn), again)
        where = found.strongest.where[7]
        for value, document, position in zip(
            found.strongest.values[7], document_of(where), position_of(where), strict=True
        ):
            assert after.kept[site][document][position, 7] == value
    assert scan.is_finite
