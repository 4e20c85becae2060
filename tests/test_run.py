"""The driver of texts: what is kept is the same whatever the batches and the workers, and in the order of the input."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo

import bertprobe
from bertprobe.errors import BertprobeError
from bertprobe.run import (
    FIRST,
    HIDDEN,
    POOLED,
    AllVectors,
    Captured,
    Compute,
    InOrder,
    Matrices,
    NeuronStatistics,
    Runner,
    Site,
    Strongest,
    TokenNorms,
    Vectors,
    needs_of,
    open_runner,
    run_batch,
    run_encoded,
    run_texts,
)
from bertprobe.run import runner as runner_room
from bertprobe.run.workers import AHEAD, WORTH_SHARING, in_workers, workers_for
from bertprobe.tokens import Encoded

WORDS = ["the", "ship", "left", "harbour", "and", "he", "was", "paid", "a", "shilling", "she", "walked", "on"]
BACKENDS = ["numpy", "torch"]


def texts_of(count: int, seed: int = 7) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 40))) for _ in range(count)]


def opened(backend: str, batch_tokens: int | None = None, **options: Any) -> Runner:
    model = bertprobe.open("pocket")
    return open_runner(model.checkpoint, model.anatomy, Compute(backend=backend, batch_tokens=batch_tokens), **options)


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Three workers whatever the machine, and how many there were each time that some began."""
    begun: list[int] = []
    real = runner_room.in_workers

    def noted(work: Any, batches: Any, workers: int, begin: Any) -> Any:
        begun.append(workers)
        return real(work, batches, workers, begin)

    monkeypatch.setattr(runner_room, "in_workers", noted)
    monkeypatch.setattr("bertprobe.run.engines.BertEngine.workers", 3)
    return begun


@pytest.mark.parametrize("backend", BACKENDS)
def test_workers_and_batches_change_nothing(backend: str, shared: list[int]) -> None:
    """To 1e-5 of the largest value, as the width of a batch may change the order in which a product is summed."""
    texts = texts_of(90)
    labels = {"intermediate.0", "intermediate.3"}
    found = []
    for batch_tokens in (64, 100_000):
        kept = (AllVectors(), Matrices(labels), NeuronStatistics(labels), TokenNorms(labels), Strongest(labels, 2))
        run_texts(opened(backend, batch_tokens), texts, *kept)
        found.append(kept)
    assert shared == [3], "the many small batches ran in workers, the one large did not"
    (vectors, matrices, sums, norms, strongest), (vectors2, matrices2, sums2, norms2, _) = found
    assert [v.tokens for v in vectors.texts] == [v.tokens for v in vectors2.texts]
    for one, other in zip(vectors.texts, vectors2.texts, strict=True):
        for which in ("pooled", "cls", "mean"):
            assert np.abs(getattr(one, which) - getattr(other, which)).max() < 1e-5
    assert list(matrices.kept) == [Site("intermediate.0"), Site("intermediate.3")]
    assert matrices.tokens == matrices2.tokens == norms.tokens == strongest.tokens
    for site, rows in matrices.kept.items():
        for one, other in zip(rows, matrices2.kept[site], strict=True):
            assert np.abs(one - other).max() < 1e-5
        assert sums.sums[site].tokens == sums2.sums[site].tokens == sum(map(len, rows))
        assert np.allclose(sums.sums[site].total, np.concatenate(rows).sum(0, dtype=np.float64), rtol=1e-5, atol=1e-3)
        assert np.allclose(sums.sums[site].total, sums2.sums[site].total, rtol=1e-5, atol=1e-3)
    for one, other in zip(norms.kept[Site("intermediate.0")], norms2.kept[Site("intermediate.0")], strict=True):
        assert np.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_run_gives_the_same_bits(backend: str, shared: list[int]) -> None:
    """Workers take batches as they come; what is added up is added in the order of the batches."""
    texts = texts_of(60)
    results = []
    for _ in range(3):
        vectors, sums = Vectors("pooled"), NeuronStatistics({"intermediate.1"})
        run_texts(opened(backend, 48), texts, vectors, sums)
        results.append((vectors.array.tobytes(), sums.sums[Site("intermediate.1")].squares.tobytes()))  # type: ignore[union-attr]
    assert len(shared) == 3
    assert results[0] == results[1] == results[2]


def test_threads_are_given_back(shared: list[int]) -> None:
    before = torch.get_num_threads()
    run_texts(opened("torch", 32), texts_of(60), Vectors("mean"))
    assert shared
    assert torch.get_num_threads() == before


def test_an_error_in_a_worker_ends_the_run(shared: list[int]) -> None:
    class Failing(Vectors):
        def reduce(self, captured: Captured) -> Any:
            if 5 in captured.batch.places:
                raise BertprobeError("this one", "is bad")
            return super().reduce(captured)

    with pytest.raises(BertprobeError, match="this one"):
        run_texts(opened("numpy", 32), texts_of(80), Failing("mean"))
    assert shared
    assert not [t for t in threading.enumerate() if t.name.startswith("batch")]


def test_a_text_that_does_not_fit_ends_the_run_of_many(shared: list[int]) -> None:
    texts = [*texts_of(60), "ship " * 500]
    with pytest.raises(BertprobeError, match=r"50\d tokens"):
        run_texts(opened("numpy", 32), texts, Vectors("mean"))


@pytest.mark.parametrize("workers", [2, 5])
def test_in_workers_keeps_the_order_and_runs_ahead_by_no_more_than_it_says(workers: int) -> None:
    taken, most = 0, 0

    def items() -> Iterator[int]:
        nonlocal taken
        for i in range(60):
            taken += 1
            yield i

    def work(i: int) -> int:
        time.sleep(0.002 * (i % 3))
        return i * i

    for place, found in enumerate(in_workers(work, items(), workers, lambda: None)):
        assert found == place * place
        most = max(most, taken - place)
    assert taken == 60
    assert most <= AHEAD * workers + 1


def test_few_batches_are_left_to_all_threads_together() -> None:
    for count, workers in (
        (2 * WORTH_SHARING, 2),
        (2 * WORTH_SHARING + 5, 2),
        (2 * WORTH_SHARING - 1, 1),
        (1, 1),
        (0, 1),
    ):
        found, batches = workers_for(iter(range(count)), lambda: 2)
        assert (found, list(batches)) == (workers, list(range(count)))
    assert workers_for(iter(range(100)), lambda: 1)[0] == 1


def test_of_one_batch_nobody_asks_for_workers() -> None:
    def asked() -> int:
        raise AssertionError

    found, batches = workers_for(iter([7]), asked)
    assert (found, list(batches)) == (1, [7])


def test_what_one_run_truncated_is_not_counted_in_the_next() -> None:
    model = bertprobe.open("pocket")
    for texts, tokens in (["ship " * 200], 74), (["ship " * 200], 74), (["a ship"], 0):
        ran = model.run(texts, Vectors("mean"), truncate=True)
        assert ran.settings["truncated"] == {"texts": int(tokens > 0), "tokens": tokens}


def test_only_what_is_needed_is_read_and_run() -> None:
    runner = opened("numpy", needs=frozenset({"intermediate.1"}))
    assert (runner.engine.encoder.depth, runner.engine.has_pooler) == (2, False)  # type: ignore[attr-defined]
    runner = opened("numpy", needs=Vectors("mean").needs)
    assert not runner.engine.has_pooler
    runner = opened("numpy", needs=needs_of([Vectors("pooled"), Matrices({"intermediate.0"})]))
    assert runner.engine.has_pooler
    assert runner.engine.encoder.depth == 4  # type: ignore[attr-defined]


def test_a_captured_block_knows_its_texts_and_tokens() -> None:
    seen: list[Captured] = []

    class Looking(Matrices):
        def reduce(self, captured: Captured) -> Any:
            seen.append(captured)
            return super().reduce(captured)

    runner = opened("numpy")
    (batch,) = runner.batches(texts_of(5))
    run_batch(runner, batch, Looking({"intermediate.2", HIDDEN, FIRST, POOLED}))
    assert [c.site for c in seen] == [Site("intermediate.2"), Site(HIDDEN), Site(FIRST), Site(POOLED)]
    for captured in seen:
        assert captured.batch is batch
        assert len(captured.after) == captured.lengths.sum()
        assert [len(m) for m in captured.texts()] == captured.lengths.tolist()
    hidden, first = seen[1], seen[2]
    assert np.array_equal(np.stack([rows[0] for rows in hidden.texts()]), first.numpy())
    alone = runner.backend.activation("gelu")(seen[0].numpy(before=True))
    assert np.abs(alone - seen[0].numpy()).max() < 1e-6
    assert Site("intermediate.0", 2).label == "intermediate.0 (call 2)"


@pytest.mark.parametrize("family", ["albert", "modernbert", "distilbert"])
def test_of_transformers_each_text_is_captured_by_itself(family: str, minilm: Path, tmp_path: Path) -> None:
    zoo.save(family, tmp_path, vocab_size=30522)
    (tmp_path / "tokenizer.json").write_bytes((minilm / "tokenizer.json").read_bytes())
    model = bertprobe.open(tmp_path)
    labels = {part.label for part in model.anatomy.of("intermediate")}
    matrices, vectors = Matrices(labels), AllVectors()
    ran = model.run(["a cat", "a cat sat on the mat", "why?"], matrices, vectors)
    assert ran.settings["backend"] == "transformers"
    lengths = [len(tokens) for tokens in matrices.tokens]
    assert lengths == [len(v.tokens) for v in vectors.texts]
    assert lengths[0] < lengths[1] > lengths[2]
    for rows in matrices.kept.values():
        assert [len(m) for m in rows] == lengths
    if family == "albert":
        assert len(matrices.kept) > 1, "its one module is called for every layer"
        assert {site.part for site in matrices.kept} == {"intermediate.0"}


def test_in_order_takes_batches_as_they_come() -> None:
    runner = opened("numpy", 16)
    texts = texts_of(30)
    kept: InOrder[str] = InOrder()
    batches = list(runner.batches(texts))
    assert len(batches) > 3
    for batch in random.Random(1).sample(batches, len(batches)):
        kept.put(batch, [texts[place] for place in batch.places])
    assert list(kept) == texts
    assert [int(one.places[0]) for one in batches[0].singly()] == batches[0].places.tolist()


def test_numbers_that_are_none_are_explained(tmp_path: Path) -> None:
    model = bertprobe.open("pocket")
    ran = model.run(texts_of(2), Vectors("mean"))
    assert ran.is_finite
    assert ran.why_not_finite() == ()
    arrays = {name: array.copy() for name, array in bertprobe.read_tensors(model.checkpoint.headers)}
    name = next(n for n in arrays if n.endswith("layer.1.output.dense.bias"))
    arrays[name][3] = np.nan
    from safetensors.numpy import save_file

    save_file(arrays, tmp_path / "model.safetensors")
    for file in ("config.json", "tokenizer.json"):
        (tmp_path / file).write_bytes((Path(bertprobe.__file__).parent / "pocket" / file).read_bytes())
    ran = bertprobe.open(tmp_path).run(texts_of(2), Vectors("mean"))
    assert [finding.rule for finding in ran.why_not_finite()] == ["not-finite"]
    assert "layer.1.output.dense.bias" in str(ran.why_not_finite()[0])


def test_texts_that_are_tokens_already_run_the_same() -> None:
    """In the same batches, so bit for bit, also without the pieces as text, which nobody needs to compute."""
    texts = texts_of(80)
    runner = opened("torch", 100)
    of_texts, of_tokens = Vectors("mean"), Vectors("mean")
    run_texts(runner, texts, of_texts)
    bare = [Encoded(text.ids, text.segments, (), text.truncated) for text in runner.encoded(texts)]
    ran = run_encoded(runner, iter(bare), of_tokens)
    assert np.array_equal(of_texts.array, of_tokens.array)  # type: ignore[arg-type]
    assert ran.settings["truncated"] == {"texts": 0, "tokens": 0}
    long = runner.encoded(["ship " * 500], truncate=True)
    assert run_encoded(runner, long, Vectors("mean")).settings["truncated"]["texts"] == 1
