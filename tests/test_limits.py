"""What a tokenizer's file may ask for is bounded before a text is turned into tokens; sound ones do not notice."""

from __future__ import annotations

import base64
import json
import resource
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import zoo
from conftest import Run
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from bertprobe.errors import BertprobeError, UnsupportedFile
from bertprobe.tokens.files import read_vocabulary
from bertprobe.tokens.limits import MOST_CHARACTERS, Growth, bounded

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "##a"]


def made() -> dict[str, Any]:
    """A sound tokenizer.json, parsed."""
    backend = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    found: dict[str, Any] = json.loads(backend.to_str())
    return found


def bound(settings: dict[str, Any]) -> Growth:
    return bounded(Tokenizer.from_str(json.dumps(settings)), "t.json")


def replace(pattern: Any, content: str) -> dict[str, Any]:
    kind = "Regex" if pattern == "regex" else "String"
    return {"type": "Replace", "pattern": {kind: "x*" if pattern == "regex" else pattern}, "content": content}


def sequence(*parts: dict[str, Any], kind: str = "normalizers") -> dict[str, Any]:
    return {"type": "Sequence", kind: list(parts)}


def template(single: list[dict[str, Any]], ids: int) -> dict[str, Any]:
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2] * ids, "tokens": ["[CLS]"] * ids}},
    }


CLS = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}


# ------------------------------------------------------------------------------------------------ what grows


@pytest.mark.parametrize(
    ("normalizer", "factor", "added"),
    [
        (None, 1, 0),
        ({"type": "NFKC"}, 1, 0),
        (replace("a", "bc"), 2, 0),
        (replace("abc", "d"), 1, 0),
        (replace("ab", "cde"), 2, 0),
        (replace("", "cde"), 4, 0),
        (replace("regex", " "), 2, 0),
        ({"type": "Prepend", "prepend": "▁" * 3}, 1, 3),
        (sequence(replace("a", "aa"), {"type": "NFD"}, sequence(replace("a", "aaa")), replace("regex", "")), 6, 0),
    ],
)
def test_growth_is_no_less_than_what_happens(normalizer: Any, factor: int, added: int) -> None:
    growth = bound({**made(), "normalizer": normalizer})
    assert (growth.factor, growth.added) == (factor, added)
    if normalizer is not None:
        backend = Tokenizer.from_str(json.dumps({**made(), "normalizer": normalizer}))
        for text in ("", "a", "ab" * 20, "x" * 9, "abc"):
            assert len(backend.normalizer.normalize_str(text)) <= (len(text) + added) * factor + factor - 1


def test_a_table_of_sentencepiece_counts_by_what_it_leads_to() -> None:
    """The size of its trie, an empty trie, then normal forms, each ended by a zero byte."""

    def table(*forms: bytes) -> str:
        return base64.b64encode((4).to_bytes(4, "little") + b"\0\0\0\0" + b"\0".join(forms) + b"\0").decode()

    from bertprobe.tokens.limits import _by_table

    assert _by_table(table(b"short", "صلى الله عليه وسلم".encode())) == 1
    assert _by_table(table(b"a" * 5000)) == 5000
    assert _by_table(list(base64.b64decode(table(b"a" * 70)))) == 70


def test_a_text_that_would_become_too_long_is_refused() -> None:
    growth = Growth(1000**3, 0)
    with pytest.raises(BertprobeError, match="may become 1,000,000,000"):
        growth.check("a")
    growth.check("")
    Growth(1, 0).check("a" * (MOST_CHARACTERS + 1))
    with pytest.raises(BertprobeError):
        Growth(2, 0).check("a" * (MOST_CHARACTERS // 2 + 1))


# ------------------------------------------------------------------------------------------------ what is refused


BOMBS: dict[str, tuple[dict[str, Any], str]] = {
    "special tokens": ({"post_processor": template([CLS, TEXT], 2_000)}, "special tokens around a text"),
    "special tokens again and again": ({"post_processor": template([*[CLS] * 100, TEXT], 100)}, "special tokens"),
    "the text again and again": ({"post_processor": template([TEXT] * 50, 1)}, "special tokens around a text"),
    "a chain of templates": (
        {"post_processor": sequence(*[template([TEXT, TEXT], 1)] * 30, kind="processors")},
        "special tokens around a text",
    ),
    "steps": ({"normalizer": sequence(*[{"type": "NFC"}] * 200)}, "steps"),
    "splits": ({"pre_tokenizer": sequence(*[{"type": "Whitespace"}] * 200, kind="pretokenizers")}, "steps"),
    "long words": ({"model": {**made()["model"], "max_input_chars_per_word": 10**9}}, "characters of a word"),
    "a long prefix": (
        {"model": {**made()["model"], "continuing_subword_prefix": "#" * 10**5}},
        "characters in its continuing_subword_prefix",
    ),
}


@pytest.mark.parametrize(("changes", "said"), BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_by_name(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UnsupportedFile, match=f"t.json has .* {said}.*, more than"):
        bound({**made(), **changes})


def test_a_few_kilobytes_do_not_take_gigabytes(tmp_path: Path) -> None:
    """Three Replace in a row make 10^9 letters of one: refused, in a process that may have a single gigabyte."""
    zoo.save("bert", tmp_path)
    bomb = sequence(*[replace("a", "a" * 1000)] * 3)
    (tmp_path / "tokenizer.json").write_text(json.dumps({**made(), "normalizer": bomb}))
    assert (tmp_path / "tokenizer.json").stat().st_size < 10_000

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))

    words = [sys.executable, "-m", "bertprobe", "pool", "a", "-m", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, preexec_fn=limited, timeout=60)
    assert done.returncode == 1
    assert "may become 1,000,000,000 by this tokenizer's normalizer" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"post_processor": {**made()["post_processor"], "sep": ["[SEP]", 4_000_000_000]}},
            "gives token 4,000,000,000",
        ),
        (
            {"post_processor": {**template([{"SpecialToken": {"id": "[CLS]", "type_id": 9}}, TEXT], 1)}},
            "gives segment 9, the model has a table of 2 rows",
        ),
    ],
)
def test_what_the_model_has_no_row_for_is_refused(changes: dict[str, Any], said: str, tmp_path: Path, run: Run) -> None:
    zoo.save("bert", tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({**made(), **changes}))
    for words in (["pool", "a"], ["activations", "a"], ["pool", "a", "--backend", "torch"]):
        ran = run([*words, "-m", tmp_path])
        assert ran.code == 1
        assert said in ran.err
        assert len(ran.err.splitlines()) == 1


@pytest.mark.parametrize(
    "files",
    [
        {"added_tokens.json": '{"zz": Infinity}'},
        {"added_tokens.json": '{"zz": 1e999}'},
        {"added_tokens.json": '{"\\ud800": 8}'},
        {"special_tokens_map.json": '{"cls_token": "\\ud800"}'},
        {"special_tokens_map.json": '{"cls_token": {"content": ["x"]}}'},
        {"tokenizer_config.json": '{"cls_token": {"content": "\\udfff"}}'},
        {"tokenizer_config.json": '{"added_tokens_decoder": {"4": {"content": "\\ud800"}}}'},
        {"tokenizer_config.json": '{"extra_special_tokens": ["\\ud800"]}'},
        {"tokenizer_config.json": '{"added_tokens_decoder": {"9' + "9" * 5000 + '": {"content": "x"}}}'},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["tokenizer.json", "vocab.txt"])
def test_odd_settings_beside_a_tokenizer_give_one_line(
    kind: str, files: dict[str, str], tmp_path: Path, run: Run
) -> None:
    zoo.save("bert", tmp_path)
    (tmp_path / kind).write_text(json.dumps(made()) if kind == "tokenizer.json" else "\n".join(WORDS))
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    ran = run(["pool", "a b", "-m", tmp_path])
    assert ran.code == 1, ran.out
    assert len(ran.err.splitlines()) == 1
    assert "; " in ran.err


# ------------------------------------------------------------------------------------------------ sound ones


def test_the_tokenizers_of_real_models_are_far_within(minilm: Path) -> None:
    for text in ((minilm / "tokenizer.json").read_text(), json.dumps(made())):
        growth = bounded(Tokenizer.from_str(text), "t.json")
        assert growth == Growth(1, 0)
    # ALBERT's, XLNet's and mBART's normalizers, as transformers converts them.
    albert = sequence(
        replace("``", '"'), replace("''", '"'), {"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
    )  # fmt: skip
    assert bound({**made(), "normalizer": albert}) == Growth(2, 0)


lines = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@given(st.lists(lines, max_size=12).map("\n".join), st.sampled_from(["", "\n", "\r\n"]))
def test_a_vocabulary_is_read_as_the_library_reads_it(tmp_path_factory: Any, text: str, end: str) -> None:
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_bytes((text + end).encode())
    assert read_vocabulary(text + end) == models.WordPiece.read_file(str(path))


def test_nothing_is_packed_where_a_size_would_not_tell(tmp_path: Path) -> None:
    """A tokenizer.json is read as it lies there: one that is a zip or gzip is no JSON."""
    with zipfile.ZipFile(tmp_path / "tokenizer.json", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", b"\0" * 10**6)
    zoo.save("bert", tmp_path)
    from bertprobe import open_checkpoint
    from bertprobe.tokens import open_tokenizer

    with pytest.raises(BertprobeError):
        open_tokenizer(open_checkpoint(str(tmp_path)))
