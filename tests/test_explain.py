"""`explain`: its numbers are transformers', its source is the installed one, both languages say the same."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from conftest import Run
from hub import Hub
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

import bertprobe
from bertprobe.anatomy.families import FAMILIES, Family
from bertprobe.anatomy.layouts import BERT
from bertprobe.explain import TEXT, gather
from bertprobe.render.wrapping import _NEVER_FIRST, cells, wrap
from bertprobe.report.explanation import ORDER, en, explanation, zh
from bertprobe.report.explanation.claims import CLAIMS
from bertprobe.report.explanation.source import read_library
from bertprobe.report.sections import Checked, Code, Grid, Prose, Verbatim
from bertprobe.report.sections import Diagram as Way
from bertprobe.verdicts import Evidence

POCKET = Path(bertprobe.__file__).parent / "pocket"
TOLERANCE = 1e-5  # absolute, float32 summed in another order; activations of these models are below 10
Save = Callable[..., Path]


@pytest.fixture(scope="module")
def with_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Save:
    """A tiny model of a family, with the vocabulary of the built-in model."""

    def save(family: str, **overrides: Any) -> Path:
        folder = tmp_path_factory.mktemp(family)
        zoo.save(family, folder, vocab_size=8192, **overrides)
        shutil.copy(POCKET / "vocab.txt", folder)
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
        (folder / "tokenizer.json").write_bytes((POCKET / "tokenizer.json").read_bytes())
        return folder

    return save


@pytest.fixture(scope="module")
def odd(with_tokenizer: Save, small_bert: Path, minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Checkpoints of which different things can be said."""
    without = tmp_path_factory.mktemp("no-pooler")
    alone = tmp_path_factory.mktemp("pooler-alone")
    checkpoint = bertprobe.open_checkpoint(str(minilm))
    arrays = dict(bertprobe.read_tensors(checkpoint.headers))
    from safetensors.numpy import save_file

    save_file({k: v for k, v in arrays.items() if "pooler" not in k}, without / "model.safetensors")
    save_file({k: v for k, v in arrays.items() if "pooler" in k}, alone / "model.safetensors")
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(minilm / name, without)
    trained = tmp_path_factory.mktemp("trained")  # the built-in model without its heads
    checkpoint = bertprobe.open_checkpoint("pocket")
    headers = {name: header for name, header in checkpoint.headers.items() if name.startswith("bert.")}
    save_file({name: a.copy() for name, a in bertprobe.read_tensors(headers)}, trained / "model.safetensors")
    for name in ("config.json", "tokenizer.json", "vocab.txt"):
        shutil.copy(POCKET / name, trained)
    families = [with_tokenizer(family) for family in ("roberta", "electra", "albert", "distilbert", "modernbert")]
    acts = [with_tokenizer("bert", hidden_act=act) for act in ("relu", "gelu_new", "silu")]
    return [POCKET, minilm, small_bert, without, alone, *families, *acts, trained]


def explained(path: Path | str, module: str = "both", language: str = "en", text: str | None = None) -> Any:
    checkpoint = bertprobe.open_checkpoint(str(path))
    anatomy = bertprobe.find_parts(checkpoint)
    found = gather(Evidence(checkpoint, anatomy, bertprobe.measure_parts(anatomy.parts)), text or TEXT)
    return explanation(checkpoint, anatomy, found, module, language)


def data_of(run: Run, *argv: Any) -> dict[str, Any]:
    ran = run(["explain", *argv, "--json"])
    assert ran.code == 0, ran.err
    found: dict[str, Any] = json.loads(ran.out)
    return found


# ------------------------------------------------------------------------------------------------ numbers


def theirs(folder: Path, text: str) -> dict[str, Any]:
    """What goes through the two modules of transformers' own model, by hooks."""
    from transformers import AutoTokenizer, BertModel

    model = BertModel.from_pretrained(folder, dtype=torch.float32).eval()
    seen: dict[str, Any] = {"layers": []}
    layer = model.encoder.layer[0]

    def keep(name: str) -> Callable[[Any, Any, Any], None]:
        def hook(module: Any, taken: Any, given: Any) -> None:
            seen[f"{name} in"], seen[name] = taken[0].numpy(), given.numpy()

        return hook

    places = {"dense": layer.intermediate.dense, "activated": layer.intermediate, "output": layer.output}
    places |= {"pooler.dense": model.pooler.dense, "pooler": model.pooler}
    hooks = [module.register_forward_hook(keep(name)) for name, module in places.items()]
    hooks += [
        layer.intermediate.register_forward_hook(
            lambda m, taken, given: seen["layers"].append((m.dense(taken[0]).numpy(), given.numpy()))
        )
        for layer in model.encoder.layer
    ]
    try:
        with torch.no_grad():
            out = model(**AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt"), output_hidden_states=True)
    finally:
        for hook in hooks:
            hook.remove()
    return {**seen, "hidden": out.last_hidden_state.numpy(), "pooled": out.pooler_output.numpy(),
            "hidden_states": out.hidden_states, "model": model}  # fmt: skip


@pytest.mark.parametrize("text", [TEXT, "Why do dogs bark at night, and who knows?"])
@pytest.mark.parametrize("model", ["pocket", "minilm"])
def test_steps_are_those_of_transformers(model: str, text: str, minilm: Path, run: Run) -> None:
    folder = POCKET if model == "pocket" else minilm
    numbers = data_of(run, "both", text, "-m", folder)["numbers"]["run"]
    expected = theirs(folder, text)
    token, unit = numbers["token"], numbers["neuron"]["unit"]
    rows = {"attended": expected["dense in"], "dense": expected["dense"], "activated": expected["activated"],
            "output": expected["output"]}  # fmt: skip
    assert [step["name"] for step in numbers["up_projection"]] == list(rows)
    for step, values in zip(numbers["up_projection"], rows.values(), strict=True):
        assert step["shape"] == list(values.shape)
        assert np.abs(values[0, token, :4] - step["values"]).max() < TOLERANCE
    inner = expected["activated"][0]
    assert inner[token, unit] == inner[1:-1].max()
    neuron = numbers["neuron"]
    assert neuron["product"] + neuron["bias"] == pytest.approx(neuron["before"], abs=TOLERANCE)
    assert neuron["before"] == pytest.approx(expected["dense"][0, token, unit], abs=TOLERANCE)
    assert neuron["after"] == pytest.approx(inner[token, unit], abs=TOLERANCE)
    rows = {"last_hidden_state": expected["hidden"], "first": expected["hidden"][:, 0],
            "dense": expected["pooler.dense"], "pooled": expected["pooled"]}  # fmt: skip
    assert [step["name"] for step in numbers["pooling"]] == list(rows)
    for step, values in zip(numbers["pooling"], rows.values(), strict=True):
        assert step["shape"] == list(values.shape)
        assert np.abs(values.reshape(-1)[:4] - step["values"]).max() < TOLERANCE
    dimension = numbers["dimension"]
    assert dimension["unit"] == np.abs(expected["pooled"]).argmax()
    assert dimension["before"] == pytest.approx(expected["pooler.dense"][0, dimension["unit"]], abs=TOLERANCE)
    assert dimension["after"] == pytest.approx(expected["pooled"][0, dimension["unit"]], abs=TOLERANCE)


@pytest.mark.parametrize("model", ["pocket", "minilm"])
def test_what_claims_rest_on_is_measured_on_transformers_too(model: str, minilm: Path, run: Run) -> None:
    folder = POCKET if model == "pocket" else minilm
    numbers = data_of(run, "both", "-m", folder)["numbers"]
    ran, expected = numbers["run"], theirs(folder, TEXT)
    before, after = (np.concatenate([pair[i] for pair in expected["layers"]]) for i in (0, 1))
    z = torch.from_numpy(before)
    gelu = torch.nn.functional.gelu
    compared = ran["compared"]
    assert compared["relu"] == pytest.approx(np.abs(z.relu().numpy() - after).max(), abs=TOLERANCE)
    assert compared["tanh"] == pytest.approx(np.abs(gelu(z, approximate="tanh").numpy() - after).max(), abs=1e-6)
    assert compared["gelu"] < 1e-6
    assert compared["negative"] == pytest.approx((before < 0).mean(), abs=1e-4)
    hidden, vector = expected["hidden"][0], expected["pooled"][0]
    cosine = lambda a, b: float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))  # noqa: E731
    pooled = ran["pooled"]
    assert pooled["to_first"] == pytest.approx(cosine(vector, hidden[0]), abs=TOLERANCE)
    assert pooled["to_mean"] == pytest.approx(cosine(vector, hidden.mean(0)), abs=TOLERANCE)
    assert pooled["first_to_mean"] == pytest.approx(cosine(hidden[0], hidden.mean(0)), abs=TOLERANCE)
    assert pooled["from_first"] == pytest.approx(np.abs(vector - hidden[0]).max(), abs=TOLERANCE)
    assert pooled["norm"] == pytest.approx(np.linalg.norm(vector), rel=TOLERANCE)
    assert (pooled["lowest"], pooled["highest"]) == pytest.approx((vector.min(), vector.max()), abs=TOLERANCE)
    assert pooled["saturated"] == pytest.approx((np.abs(vector) > 0.99).mean())
    # what is said of hidden_states, and of the output of the one being the input of the other
    assert len(expected["hidden_states"]) == numbers["called"] + 1
    assert {tuple(h.shape) for h in expected["hidden_states"]} == {tuple(ran["hidden"])}
    assert np.array_equal(expected["activated"], expected["output in"])
    assert ran["alone"]


def test_verdicts_and_parameters_are_those_of_inspect(odd: list[Path], run: Run) -> None:
    for path in odd:
        parts = json.loads(run(["inspect", path, "--json"]).out)["parts"]
        numbers = data_of(run, "both", "-m", path)["numbers"]
        for key, roles in (("up_projection", ("intermediate", "gate")), ("pooler", ("pooler",))):
            mine = [part for part in parts if part["role"] in roles]
            if not mine:
                assert numbers[key] is None
                continue
            words = [part["verdict"] for part in mine]
            edges = [part["tensors"][0]["statistics"]["mp_edge_ratio"] for part in mine]
            assert numbers[key]["verdicts"] == {word: words.count(word) for word in words}
            assert numbers[key]["edges"] == pytest.approx([min(edges), max(edges)], rel=1e-6)
            assert numbers[key]["parameters"] == sum(int(np.prod(t["shape"])) for part in mine for t in part["tensors"])


# ------------------------------------------------------------------------------------------------ the source

_MODELS = sorted(FAMILIES)


@pytest.mark.parametrize("family", _MODELS)
def test_the_source_shown_is_the_installed_class(family: str) -> None:
    library = read_library(FAMILIES[family])
    for source in (library.up_projection, library.pooling):
        if source is None:
            continue
        module = importlib.import_module(f"transformers.{source.file.removesuffix('.py').replace('/', '.')}")
        lines, first = inspect.getsourcelines(getattr(module, source.name))
        assert (source.code, source.line) == ("".join(lines), first)
        assert list(source.takes) == list(inspect.signature(getattr(module, source.name).forward).parameters)[1:]


def above(model: torch.nn.Module, names: list[str]) -> set[str]:
    """The classes of the modules that hold these tensors, at any height."""
    paths = {tuple(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 1)}
    return {type(model.get_submodule(".".join(path))).__name__ for path in paths}


@pytest.mark.parametrize("family", sorted(set(zoo.MODELS) & set(_MODELS)))
def test_the_class_shown_is_the_one_the_model_is_made_of(family: str) -> None:
    """Of a real model: the class stands above its up-projection, and above its pooler where it has one."""
    model = zoo.build(family)
    row = FAMILIES[family]
    names = list(model.state_dict())
    library = read_library(FAMILIES[family])
    spelled = [name for name in names for role, pattern in row.layout.patterns if pattern.fullmatch(name)]
    if library.up_projection is not None and spelled:
        assert library.up_projection.name in above(model, spelled)
    poolers = [name for name in names if re.search(r"(^|\.)pooler\.", name)]
    if library.pooling is not None and poolers:
        assert library.pooling.name in above(model, poolers)


@pytest.mark.parametrize("family", ["bert", "roberta", "albert", "ernie"])
def test_classes_said_to_pool_do(family: str) -> None:
    library = read_library(FAMILIES[family])
    module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    config = zoo.build(family).config
    for names, there in ((library.with_pooler, True), (library.without_pooler, False)):
        assert names
        for name in names:
            with torch.device("meta"):
                model = getattr(module, name)(config)
            base = getattr(model, model.base_model_prefix, model)
            assert (base.pooler is not None) is there, name


def test_a_family_is_no_way_out_of_the_folder_of_models() -> None:
    for family in ("../../evil", "bert/../bert", "", "no_such_family", "__init__"):
        assert read_library(Family(family, BERT)).up_projection is None


# ------------------------------------------------------------------------------------------------ languages


def written(block: Any) -> list[str]:
    """The sentences and cells of a block."""
    if isinstance(block, Prose):
        return [block.text]
    if isinstance(block, Checked):
        return [block.said, block.shown]
    if isinstance(block, Grid):
        return [*block.head, *(cell for row in block.rows for cell in row)]
    if isinstance(block, Way):
        return [word for stop in block.stops for word in (stop.name, stop.shape)]
    return [block.caption] if isinstance(block, Code) else list(block.lines)


def digits(block: Any) -> list[str]:
    return sorted(number for text in written(block) for number in re.findall(r"−?\d+(?:,\d{3})*(?:\.\d+)?", text))


def test_both_languages_say_the_same(odd: list[Path]) -> None:
    """The same sections, blocks of the same kinds, claims with the same answers, and every number in both."""
    for path in odd:
        for module in ("intermediate", "pooler", "both") if path == POCKET else ("both",):
            english, chinese = (explained(path, module, language).sections for language in ("en", "zh"))
            assert [s.name for s in english] == [s.name for s in chinese]
            for mine, other in zip(english, chinese, strict=True):
                assert [type(b) for b in mine.blocks] == [type(b) for b in other.blocks]
                for a, b in zip(mine.blocks, other.blocks, strict=True):
                    assert digits(a) == digits(b), (path, a, b)
                    if isinstance(a, Checked):
                        assert (a.name, a.holds) == (b.name, b.holds)


# Names of things, and the English that a Chinese engineer writes, too.
NAMES = set(
    re.findall(
        r"\w+",
        """BERT DeBERTa DPR GELU ReLU MLP FFN NSP SimCSE LayerNorm Bert Roberta Albert token tokens pooler checkpoint
        padding batch dropout attention mask tanh erf gelu gelu_new relu silu dense up gate act hook forward numpy
        transformers sentence id float32 last_hidden_state pooler_output models""",
    )
)


def test_chinese_is_chinese(odd: list[Path]) -> None:
    for path in odd:
        for section in explained(path, "both", "zh").sections:
            assert re.search(r"[\u4e00-\u9fff]", section.title)
            for block in section.blocks:
                if isinstance(block, Verbatim | Code):
                    continue
                for text in written(block):
                    words = re.findall(r"[A-Za-z_]\w+", re.sub(r"`[^`]*`|“[^”]*”", "", text), re.A)
                    mixed = {w for w in words if w not in NAMES and not re.search(r"[a-z][A-Z]|^For|^Model$|Model", w)}
                    assert not mixed, text
                    assert not re.search(r"[\u4e00-\u9fff][,;:?!]|[\u4e00-\u9fff]\.(?!\.)", text), text


def test_languages_answer_every_claim_and_section() -> None:
    names = [claim.name for claim in CLAIMS]
    for language in (en, zh):
        assert list(language.CLAIMS) == names
        assert set(language.SECTIONS) | {"claims"} == set(language.TITLES) == set(ORDER)
    assert set(en.WORDS) == set(zh.WORDS)


@pytest.mark.parametrize(
    ("claim", "answers"),
    [
        ("relu", {"pocket": False, "relu": True, "gelu_new": False}),
        ("tanh-gelu", {"pocket": False, "gelu_new": True}),
        ("four-times", {"pocket": True, "relu": False}),
        ("always-there", {"pocket": True, "no-pooler": False, "electra": False}),
        ("there-so-trained", {"pocket": True, "minilm": False, "small": False, "relu": None}),
        ("by-next-sentence", {"pocket": True, "roberta": False, "trained": None}),
        ("sentence-vector", {"pocket": None, "minilm": False}),
        ("mixes-tokens", {"pocket": False}),
    ],
)
def test_claims_hold_where_they_should(claim: str, answers: dict[str, bool | None], odd: list[Path]) -> None:
    names = ["pocket", "minilm", "small", "no-pooler", "alone", "roberta", "electra", "albert", "distilbert",
             "modernbert", "relu", "gelu_new", "silu", "trained"]  # fmt: skip
    found = {name: explained(path).data["claims"] for name, path in zip(names, odd, strict=True) if name in answers}
    assert {name: claims[claim] for name, claims in found.items()} == answers


# ------------------------------------------------------------------------------------------------ how it looks


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("module", ["intermediate", "pooler", "both"])
def test_goldens(module: str, language: str, run: Run, golden: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source itself, which is transformers', and its version and lines are left out."""
    monkeypatch.setenv("COLUMNS", "80")
    ran = run(["explain", module, "--lang", language])
    assert (ran.code, ran.err) == (0, "")
    out = re.sub(r"(?m)(^\d+(  .*)?\n)+", "…\n", ran.out)
    out = re.sub(r"(transformers) \d+(\.\w+)+", r"\1 VERSION", out)
    out = re.sub(r"line \d+:|第 \d+ 行：", "LINE:", out)
    golden(f"explain-{module}-{language}.txt", out)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_line_is_wider_than_the_terminal(language: str, minilm: Path, run: Run, monkeypatch: Any) -> None:
    long = "An unusually long text, as people write when they think: " + "and then, and then " * 20
    for columns in ("80", "60"):
        monkeypatch.setenv("COLUMNS", columns)
        for text in (TEXT, long):
            out = run(["explain", "both", text, "-m", minilm, "--lang", language]).out
            lines = [line for line in out.splitlines() if not re.match(r"\d{2,}  ", line)]  # the source is as it is
            for line in lines:
                assert cells(line) == cell_len(line)
                if columns == "80":
                    assert cells(line) <= 80, line
            frame = [line for line in lines if line and line[0] in "┌│└"]
            assert len({cells(line) for line in frame}) == 1


def test_source_has_colours_where_there_are_any(tmp_path: Path) -> None:
    import io

    from rich.console import Console

    from bertprobe.render.prose import _highlighted

    code = "def f(x):\n\n    return x  # [red]\n"
    for system in (None, "truecolor"):
        console = Console(file=io.StringIO(), color_system=system, force_terminal=True)  # type: ignore[arg-type]
        lines = _highlighted(console, code.rstrip("\n"))
        assert [line.plain.rstrip() for line in lines] == code.rstrip("\n").split("\n")
        assert any(line.spans for line in lines) == (system is not None)


def test_what_is_foreign_stays_text(run: Run) -> None:
    text = "[red]a[/] `b` \x1b[31m | <script>"
    for format in ("table", "markdown"):
        ran = run(["explain", "both", text, "--format", format])
        assert ran.code == 0
        assert "\x1b" not in ran.out
        assert "[red]a[/] `b` \\x1b[31m | <script>" in ran.out


def test_markdown_and_json(run: Run) -> None:
    ran = run(["explain", "both", "--format", "markdown", "--lang", "zh"])
    assert ran.out.startswith("## 模型与文本\n")
    assert ran.out.count("```python\nclass Bert") == 2
    assert ran.out.count("\n## ") == len(ORDER) - 1
    data = data_of(run, "both", "--lang", "zh")
    assert list(data) == [
        "model",
        "facts",
        "module",
        "language",
        "numbers",
        "claims",
        "sections",
        "findings",
        "version",
    ]
    assert [section["name"] for section in data["sections"]] == list(ORDER)
    kinds = {block["kind"] for section in data["sections"] for block in section["blocks"]}
    assert kinds == {"prose", "verbatim", "diagram", "code", "grid", "checked"}
    assert data["numbers"] == data_of(run, "both")["numbers"]


TEXTS = st.text(st.sampled_from("ab cdef gh，。（）、汉字长短 `-._/"), max_size=80)


@given(TEXTS, st.integers(8, 40))
def test_wrapping_loses_nothing_and_fits(text: str, width: int) -> None:
    lines = wrap(text, width)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(cells(line) <= width for line in lines)
    if not re.search(r"[，。（）、]{3,}|\S{8,}", text):
        assert not any(line[:1] in _NEVER_FIRST for line in lines[1:])


# ------------------------------------------------------------------------------------------------ the command


def test_the_environment_does_not_choose_the_language(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = run(["explain", "pooler"]).out
    for name in ("LANG", "LC_ALL", "LANGUAGE"):
        monkeypatch.setenv(name, "zh_CN.UTF-8")
    assert run(["explain", "pooler"]).out == plain


@pytest.mark.parametrize("argv", [["attention"], [], ["both", "--lang", "de"], ["both", "--format", "csv"]])
def test_usage_errors(argv: list[str], run: Run) -> None:
    assert run(["explain", *argv]).code == 2


def test_a_text_that_does_not_fit(run: Run) -> None:
    long = "ship " * 200
    ran = run(["explain", "both", long])
    assert ran.code == 1
    assert ran.out == ""
    assert "--truncate" in ran.err
    data = data_of(run, "both", long, "--truncate")
    assert len(data["numbers"]["run"]["tokens"]) == 128
    assert data["numbers"]["run"]["truncated"] == 74


def test_a_model_that_cannot_run_a_text_is_told_without_one(small_bert: Path, with_tokenizer: Save, run: Run) -> None:
    """Without a tokenizer, and where a text alone is not enough."""
    for model in (small_bert, with_tokenizer("bros")):
        data = data_of(run, "both", "-m", model)
        assert data["numbers"]["run"] is None
        assert data["numbers"]["refusal"]
        assert [section["name"] for section in data["sections"]] == [name for name in ORDER if name != "steps"]
        assert "(B, S, 64)" in run(["explain", "both", "-m", model]).out


def test_an_intermediate_that_is_not_there_is_an_error(odd: list[Path], run: Run) -> None:
    (alone,) = [path for path in odd if "alone" in path.name]
    ran = run(["explain", "intermediate", "-m", alone])
    assert (ran.code, ran.out) == (1, "")
    assert "no intermediate module" in ran.err
    assert run(["explain", "pooler", "-m", alone]).code == 0


def test_explaining_loads_no_torch(minilm: Path) -> None:
    code = (
        "import sys\nfrom bertprobe.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code\n"
        "sys.stderr.write('\\n'.join({name.split('.')[0] for name in sys.modules}))"
    )
    for argv in (["both"], ["both", "-m", str(minilm), "--lang", "zh"]):
        done = subprocess.run(
            [sys.executable, "-c", code, "explain", *argv], capture_output=True, text=True, check=True
        )
        assert not set(done.stderr.split()) & {"torch", "transformers", "huggingface_hub", "pygments", "safetensors"}


def test_a_model_on_the_hub(hub: Hub, minilm: Path, run: Run) -> None:
    hub.add("owner/mini", {str(path.relative_to(minilm)): path for path in minilm.rglob("*") if path.is_file()})
    data = data_of(run, "pooler", "-m", "owner/mini")
    assert data["model"] == "owner/mini"
    assert data["numbers"]["run"] == data_of(run, "pooler", "-m", minilm)["numbers"]["run"]
