"""`extract --pre`: the values before the activation are those that the dense layer itself puts out in transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
import zoo
from conftest import Run

import bertprobe
from bertprobe.corpus import open_corpus
from bertprobe.errors import BadSetting, UnsupportedFile
from bertprobe.extract import ActivationFolder, Options, Wish, open_activations, prepare
from bertprobe.extract import rows as extract_rows
from bertprobe.run import Compute

ONE = Compute(backend="torch", threads=1)
TEXTS = ["a cat", "a cat sat on the mat", "", "why did the ship leave the harbour?", "ship"]
BEFORE = Wish(("intermediate",), before=True)


def models(family: str, minilm: Path, folder: Path) -> Path:
    """A tiny model of a family with a real tokenizer, and the corpus beside it."""
    zoo.save(family, folder / "m", vocab_size=30522)
    (folder / "m" / "tokenizer.json").write_bytes((minilm / "tokenizer.json").read_bytes())
    (folder / "c.txt").write_text("\n".join(TEXTS))
    return folder / "m"


def written(model: Path, wish: Wish, name: str = "o") -> ActivationFolder:
    opened = bertprobe.open(model)
    place = model.parent / name
    corpus = open_corpus([str(model.parent / "c.txt")])
    prepare(opened.checkpoint, opened.anatomy, corpus, place, wish, Options(ONE, shard_text=40, verify=False)).run()
    return open_activations(place)


def hooked(model: Path, modules: dict[str, str]) -> dict[str, np.ndarray[Any, Any]]:
    """What modules of transformers' model put out for the texts, end to end, by the names they are given here."""
    theirs = transformers.AutoModel.from_pretrained(model).eval()
    seen: dict[str, list[np.ndarray[Any, Any]]] = {name: [] for name in modules}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, taken, given: seen[name].append(given[0].detach().clone().numpy())

    for name, path in modules.items():
        theirs.get_submodule(path).register_forward_hook(keep(name))
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    with torch.inference_mode():
        for text in TEXTS:
            theirs(input_ids=torch.tensor([tokenizer.encode(text).ids]))
    return {name: np.concatenate(found) for name, found in seen.items()}


def test_they_are_what_the_dense_layer_puts_out_in_transformers(minilm: Path, tmp_path: Path) -> None:
    model = models("bert", minilm, tmp_path)
    names = [f"intermediate.{layer}" for layer in range(2)]
    wanted = hooked(model, {name: f"encoder.layer.{name[-1]}.intermediate.dense" for name in names})
    before, after = written(model, BEFORE), written(model, replace(BEFORE, before=False), "after")
    assert before.names == after.names == tuple(names)
    assert (before.manifest["options"]["before"], after.manifest["options"]["before"]) == (True, False)
    for name in names:
        assert np.abs(before[name][:] - wanted[name]).max() < 1e-5
        assert (before[name][:] < -0.2).any(), "which no GELU puts out"
        activated = torch.nn.functional.gelu(torch.from_numpy(before[name][:].copy())).numpy()
        assert np.abs(activated - after[name][:]).max() < 1e-5


def test_rows_of_texts_and_the_strongest_are_taken_of_them(minilm: Path, tmp_path: Path) -> None:
    model = models("bert", minilm, tmp_path)
    values = hooked(model, {"1": "encoder.layer.1.intermediate.dense"})["1"]
    lengths = [len(document) for document in written(model, BEFORE)]
    starts = np.cumsum(lengths) - lengths
    wanted = {
        "first": values[starts],
        "max": np.maximum.reduceat(values, starts),
        "mean": np.add.reduceat(values, starts) / np.array(lengths)[:, None],
    }
    for tokens, rows in wanted.items():
        found = written(model, replace(BEFORE, layers="1", tokens=tokens), tokens)
        assert np.abs(found["intermediate.1"][:] - rows).max() < 1e-5
    strongest = written(model, replace(BEFORE, layers="1", top=3), "top")
    order = np.argsort(-np.abs(values), axis=1, kind="stable")[:, :3]
    assert np.abs(strongest["intermediate.1.values"][:] - np.take_along_axis(values, order, 1)).max() < 1e-5
    assert (strongest["intermediate.1.neurons"][:] == order).mean() > 0.99, "but for near ties"
    some = written(model, replace(BEFORE, neurons="0:3-5,1:39"), "some")
    assert np.abs(some.neuron(1, 39) - values[:, 39]).max() < 1e-5


def test_of_a_gated_pair_both_halves_are_the_dense_layers_own(minilm: Path, tmp_path: Path) -> None:
    """The gate is what enters the activation, the intermediate what is multiplied with it."""
    model = models("modernbert", minilm, tmp_path)
    wanted = np.split(hooked(model, {"1": "layers.1.mlp.Wi"})["1"], 2, axis=1)
    found = written(model, replace(BEFORE, layers="1"))
    assert set(found.names) == {"gate.1", "intermediate.1"}
    for name, values in zip(("gate.1", "intermediate.1"), wanted, strict=True):
        assert np.abs(found[name][:] - values).max() < 1e-5
    after = written(model, replace(BEFORE, layers="1", before=False), "after")
    product = torch.nn.functional.gelu(torch.from_numpy(wanted[0])).numpy() * wanted[1]
    assert np.abs(after["intermediate.1"][:] - product).max() < 1e-5


def test_where_there_are_none_they_are_refused(
    minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    with pytest.raises(BadSetting, match="`before=` is of intermediate modules"):
        Wish(("pooler",), before=True).checked()
    model = models("bert", minilm, tmp_path)
    ran = run(["extract", tmp_path / "c.txt", "-m", model, "-o", tmp_path / "o", "--pre"])
    assert (ran.code, ran.out) == (2, "")
    assert "--pre is of intermediate modules; add --part intermediate" in ran.err
    real = extract_rows.Keeper.made
    monkeypatch.setattr(
        extract_rows.Keeper, "made", lambda keeper, captured: real(keeper, replace(captured, before=None))
    )
    with pytest.raises(UnsupportedFile, match=r"intermediate\.0 has no values before an activation; leave out `before"):
        written(model, BEFORE)
    assert not (tmp_path / "o").exists()


def test_a_folder_of_the_others_is_not_gone_on_with(minilm: Path, tmp_path: Path, run: Run) -> None:
    model = models("bert", minilm, tmp_path)
    words = ["extract", tmp_path / "c.txt", "-m", model, "-o", tmp_path / "o", "--part", "intermediate"]
    assert run([*words, "--pre"]).code == 0
    assert json.loads((tmp_path / "o" / "manifest.json").read_text())["options"]["before"] is True
    assert "options.before is True there, False now" in run(words).err
