"""A tokenizer that does not lie beside the weights: named by its folder, or by a file of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile
import kin
import numpy as np
import pytest
from conftest import Run
from hub import Hub

import bertprobe
from bertprobe import inputs
from bertprobe.checkpoint import open_checkpoint
from bertprobe.cli import as_options
from bertprobe.compare import side
from bertprobe.compare.texts import compare_texts
from bertprobe.errors import BertprobeError, CorruptFile, NotFound, UnsupportedFile
from bertprobe.filenames import TOKENIZER_SETTINGS, VOCABULARIES
from bertprobe.tokens import open_tokenizer

TEXTS = ("A cat sat on the mat.", "Dogs bark at night.")
FILES = ("tokenizer.json", "vocab.txt")
Places = Callable[[str], Path]


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """The built-in model as training may have left it: weights and config, no tokenizer there or a folder up."""
    folder = tmp_path / "run" / "checkpoint-500"
    folder.mkdir(parents=True)
    for name in ("model.safetensors", "config.json"):
        shutil.copy(kin.POCKET / name, folder)
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder with the tokenizer of the built-in model, and nothing else."""
    folder = tmp_path / "base"
    folder.mkdir()
    for name in FILES:
        shutil.copy(kin.POCKET / name, folder)
    return folder


def beside(bare: Path, *files: Path) -> Path:
    """The same model with tokenizer files beside its weights."""
    folder = bare.parent / "whole"
    shutil.copytree(bare, folder)
    for file in files:
        shutil.copy(file, folder)
    return folder


def reversed_words(path: Path) -> Path:
    """A vocabulary that gives every word another id than the model's has."""
    words = (kin.POCKET / "vocab.txt").read_text().splitlines()
    path.write_text("\n".join([*words[:1000], *reversed(words[1000:])]) + "\n")
    return path


def facts(run: Run, *words: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run([*words, "--json"]).out)["facts"]
    return found


# ------------------------------------------------------------------------------------------------ the same numbers


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("named", ["", *FILES])
def test_vectors_are_those_with_the_tokenizer_beside(
    named: str, backend: str, bare: Path, base: Path, tmp_path: Path, run: Run
) -> None:
    whole = beside(bare, *(base / name for name in ([named] if named else FILES)))
    one, other = tmp_path / "one.npy", tmp_path / "other.npy"
    words = ["pool", *TEXTS, "--backend", backend]
    assert run([*words, "-m", whole, "-o", one]).code == 0
    ran = run([*words, "-m", bare, "--tokenizer", base / named, "-o", other])
    assert (ran.code, ran.err) == (0, "")
    assert one.read_bytes() == other.read_bytes()


def test_a_named_file_goes_before_what_lies_beside_it(bare: Path, base: Path) -> None:
    expected = bertprobe.open(beside(bare, reversed_words(base / "vocab.txt"))).pool(TEXTS)
    plain = bertprobe.open(bare, tokenizer=base).pool(TEXTS)
    assert np.array_equal(bertprobe.open(bare, tokenizer=base / "vocab.txt").pool(TEXTS), expected)
    assert np.array_equal(bertprobe.open(bare, tokenizer=base / "tokenizer.json").pool(TEXTS), plain)
    assert not np.array_equal(plain, expected)


@pytest.mark.parametrize("file", FILES)
def test_a_file_of_another_name_is_taken_by_its_ending(file: str, bare: Path, base: Path) -> None:
    odd = (base / file).rename(base / f"bert-base-{file}")
    reversed_words(base / "vocab.txt")
    model = bertprobe.open(bare, tokenizer=odd)
    assert np.array_equal(model.pool(TEXTS), bertprobe.open().pool(TEXTS))


def test_the_settings_beside_it_count_and_those_beside_the_weights_do_not(bare: Path, base: Path) -> None:
    (base / "tokenizer.json").unlink()
    (base / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    (bare / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    for named in (base, base / "vocab.txt", base / "tokenizer_config.json"):
        found = open_tokenizer(open_checkpoint(str(bare), tokenizer=named))
        assert "[UNK]" in found.encode("A").tokens
    shutil.copy(base / "vocab.txt", bare)
    assert "a" in open_tokenizer(open_checkpoint(str(bare))).encode("A").tokens


def test_it_goes_before_the_tokenizer_beside_the_weights(bare: Path, base: Path) -> None:
    whole = beside(bare, *(base / name for name in FILES))
    reversed_words(base / "vocab.txt")
    plain = bertprobe.open(whole).pool(TEXTS)
    assert not np.array_equal(bertprobe.open(whole, tokenizer=base / "vocab.txt").pool(TEXTS), plain)


def test_the_sentence_vector_is_by_its_settings_too(minilm: Path, tmp_path: Path) -> None:
    bare, base = tmp_path / "bare", tmp_path / "base"
    base.mkdir()
    shutil.copytree(minilm, bare)
    for name in (*VOCABULARIES, *TOKENIZER_SETTINGS):
        if (bare / name).is_file():
            (bare / name).rename(base / name)
    whole, model = bertprobe.open(minilm), bertprobe.open(bare, tokenizer=base)
    assert np.array_equal(model.pool(TEXTS, vector="sentence"), whole.pool(TEXTS, vector="sentence"))
    assert (model.recipe.length, model.recipe.lower.value) == (whole.recipe.length, whole.recipe.lower.value)
    assert model.recipe.files.tokenizer_config.there


@pytest.mark.parametrize("kind", ["PhobertTokenizer", "BertweetTokenizer", "RobertaTokenizer"])  # of two files each
def test_transformers_own_looks_there_too(kind: str, tmp_path: Path) -> None:
    from test_their_tokenizers import folder_of

    from bertprobe.transformers_model import tokenizer

    config, files = hostile.TOKENIZERS[kind]
    settings = {"tokenizer_config": {"tokenizer_class": kind}}
    whole, bare = folder_of(tmp_path / "whole", config, files, **settings), folder_of(tmp_path / "bare", config, {})
    base = folder_of(tmp_path / "base", {}, files, **settings)
    expected = tokenizer(open_checkpoint(str(whole)))
    for named in (base, *(base / name for name in files if name in VOCABULARIES)):
        found = tokenizer(open_checkpoint(str(bare), tokenizer=named))
        assert found.name == f"{expected.name} in {base}"
        assert found.encode("hello he cab").ids.tolist() == expected.encode("hello he cab").ids.tolist()


def test_a_model_on_the_hub_is_run_with_it(hub: Hub, bare: Path, base: Path) -> None:
    hub.add("owner/bare", {path.name: path for path in bare.iterdir()})
    model = bertprobe.open("owner/bare", tokenizer=base)
    assert np.array_equal(model.pool(TEXTS), bertprobe.open().pool(TEXTS))


# ------------------------------------------------------------------------------------------------ every command


COMMANDS = {
    "pool": ["pool", TEXTS[0], "-m"],
    "activations": ["activations", TEXTS[0], "-m"],
    "verify": ["verify", TEXTS[0], "-m"],
    "explain": ["explain", "both", TEXTS[0], "-m"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_say_the_same_with_it(command: str, bare: Path, base: Path, run: Run) -> None:
    whole = beside(bare, *(base / name for name in FILES))
    words = COMMANDS[command]
    expected = run([*words, whole, "--json"])
    found = run([*words, bare, "--tokenizer", base, "--json"])
    assert (expected.code, found.code, found.err) == (0, 0, "")
    plain = found.out.replace(str(base / "tokenizer.json"), "tokenizer.json").replace(bare.name, whole.name)
    assert plain == expected.out


def test_report_runs_texts_with_it(bare: Path, base: Path, tmp_path: Path, run: Run) -> None:
    page = tmp_path / "page.svg"
    words = ["report", bare, TEXTS[0], "--figure", "pooled", "-o", page]
    assert run(words).code == 1
    assert run([*words, "--tokenizer", base]).code == 0
    assert page.is_file()


def test_diff_takes_it_for_both(bare: Path, base: Path, run: Run) -> None:
    words = (kin.POCKET / "vocab.txt").read_text().splitlines()
    (base / "vocab.txt").write_text("\n".join(words[:1000]))  # so few that words come to pieces
    asked = ["diff", "pocket", bare, TEXTS[0], "--json"]
    plain = json.loads(run(asked).out)["texts"]
    found = json.loads(run([*asked, "--tokenizer", base / "vocab.txt"]).out)["texts"]
    assert found["unlike"] is None
    assert found["texts"][0]["tokens"] != plain["texts"][0]["tokens"]
    assert found["notes"] == [f"the tokens of {side} are by {base / 'vocab.txt'}" for side in "AB"]
    other = run(["diff", bare, bare, TEXTS[0]])
    assert (other.code, "--tokenizer" in other.err) == (1, True)


def test_diff_of_two_that_were_opened_may_have_one_each(bare: Path, base: Path) -> None:
    opened = [open_checkpoint(str(bare), tokenizer=base), open_checkpoint(str(bare))]
    sides = [side(checkpoint, bertprobe.find_parts(checkpoint)) for checkpoint in opened]
    notes = compare_texts(sides[0], sides[1], TEXTS).notes
    assert notes[0].startswith("B has no tokenizer")
    assert notes[1] == f"the tokens of A are by {base / 'tokenizer.json'}"


@pytest.mark.parametrize("words", [["report", "pocket"], ["diff", "pocket", "pocket"]])
def test_without_texts_it_is_wrong_usage(words: list[str], base: Path, run: Run) -> None:
    ran = run([*words, "--tokenizer", base])
    assert ran.code == 2
    assert "--tokenizer is for texts" in ran.err


# ------------------------------------------------------------------------------------------------ what is said


def test_the_run_tells_where_its_tokens_are_from(
    bare: Path, base: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert facts(run, "pool", "a", "-m", bare, "--tokenizer", base)["tokenizer"] == str(base / "tokenizer.json")
    assert facts(run, "pool", "a", "-m", "pocket")["tokenizer"] == "tokenizer.json"
    monkeypatch.chdir(base)
    for named in (".", "tokenizer.json"):
        assert facts(run, "pool", "a", "-m", bare, "--tokenizer", named)["tokenizer"] == "./tokenizer.json"
    assert f"tokens by {base}"[:30] in run(["pool", "a", "-m", bare, "--tokenizer", base]).out


def test_a_path_that_cannot_be_printed_is_told_escaped(bare: Path, base: Path, run: Run) -> None:
    odd = base.rename(base.parent / "base\x1b[31m\u202e")
    told = facts(run, "pool", "a", "-m", bare, "--tokenizer", odd)["tokenizer"]
    assert told.isprintable()
    assert told.endswith("/tokenizer.json")


def test_without_a_tokenizer_the_option_is_named(bare: Path, run: Run) -> None:
    ran = run(["pool", "a", "-m", bare])
    assert ran.code == 1
    assert f"{bare} has no tokenizer" in ran.err
    assert ran.err.endswith("put the model's beside its weights, or name its folder or file: --tokenizer\n")


@pytest.mark.parametrize("where", ["up", "tokenizer"])
@pytest.mark.parametrize("typed", ["absolute", "relative", "here"])
def test_a_tokenizer_a_folder_up_is_named_and_not_taken(
    where: str, typed: str, bare: Path, base: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = bare.parent if where == "up" else bare.parent / "tokenizer"
    place.mkdir(exist_ok=True)
    shutil.copy(base / "vocab.txt", place)
    monkeypatch.chdir(bare if typed == "here" else bare.parent)
    ran = run(["pool", "a", "-m", {"absolute": bare, "relative": bare.name, "here": "."}[typed]])
    assert ran.code == 1
    assert ran.err.endswith(f"there is one in {place}; if it is the model's, add --tokenizer {place}\n")
    assert run(["pool", "a", "-m", bare, "--tokenizer", place]).code == 0


def test_an_option_in_a_message_can_be_pasted() -> None:
    assert as_options("add `tokenizer='/a b/c'`") == "add --tokenizer '/a b/c'"
    assert as_options("`vector=cls` or `force=True`") == "--vector cls or --force"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "there is no folder or file ''"),
        ("nonesuch", "not looked for on the Hub"),
        ("google-bert/bert-base-uncased", "not looked for on the Hub"),
        ("model.safetensors", "is no file of a tokenizer"),
        ("empty", "has no tokenizer; looked for tokenizer.json, vocab.txt"),
        ("a\0b", "there is no folder or file"),
    ],
)
def test_what_is_no_tokenizer_is_refused(
    name: str, said: str, bare: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bare)
    (bare / "empty").mkdir()
    shutil.copy(kin.POCKET / "vocab.txt", bare.parent)  # the one that was named is meant, not one nearby
    ran = run(["pool", "a", "-m", ".", "--tokenizer", name])
    assert ran.code == 1
    assert said in ran.err
    assert len(ran.err.splitlines()) == 1
    assert "there is one in" not in ran.err
    kinds = (NotFound, UnsupportedFile)
    with pytest.raises(kinds):
        bertprobe.open(bare, tokenizer=name).pool("a")


def test_the_wrong_tokenizer_is_refused(bare: Path, base: Path, run: Run) -> None:
    with open(base / "vocab.txt", "a") as vocabulary:
        vocabulary.writelines(f"another{i}\n" for i in range(100))
    ran = run(["pool", "a", "-m", bare, "--tokenizer", base / "vocab.txt"])
    assert ran.code == 1
    assert f"the tokenizer ({base / 'vocab.txt'}) has ids up to 8,291, the embedding matrix 8,192 rows" in ran.err
    with pytest.raises(CorruptFile, match="not of one model"):
        bertprobe.open(bare, tokenizer=base / "vocab.txt").pool("a")


# ------------------------------------------------------------------------------------------------ inputs


@pytest.mark.parametrize("named", ["", "tokenizer.json", "vocab.txt"])
@pytest.mark.parametrize("link", ["hard", "soft"])
def test_it_is_never_written_over(named: str, link: str, bare: Path, base: Path, tmp_path: Path, run: Run) -> None:
    read = base / (named or "tokenizer.json")
    before, place = read.read_bytes(), tmp_path / "vectors.csv"
    (os.link if link == "hard" else os.symlink)(read, place)
    ran = run(["pool", *TEXTS, "-m", bare, "--tokenizer", base / named, "-o", place, "--force"])
    assert ran.code == 1
    assert "is being read" in ran.err
    assert read.read_bytes() == before


def test_it_is_an_input_as_long_as_the_model_is_held(bare: Path, base: Path) -> None:
    model = bertprobe.open(bare, tokenizer=base)
    model.pool("a")
    assert inputs.input_at(base / "tokenizer.json") == base / "tokenizer.json"
    del model
    assert inputs.input_at(base / "tokenizer.json") is None


def test_what_is_said_of_a_folder_holds_for_one_file_of_it(base: Path) -> None:
    folder = open_checkpoint("pocket", tokenizer=base / "vocab.txt").tokenizer
    assert folder.names == {"vocab.txt"}
    assert folder.at("vocab.txt") == str(base / "vocab.txt")
    assert not folder.is_file("tokenizer.json")
    assert isinstance(folder.source("vocab.txt").size, int)
    with pytest.raises(BertprobeError):
        folder.text("nonesuch")
