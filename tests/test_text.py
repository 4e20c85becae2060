"""`pool` and `activations`: their numbers are the model's, in every format, however the texts come."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from safetensors.numpy import load_file

import bertprobe
from bertprobe.backends import BACKENDS
from bertprobe.export import Output
from bertprobe.export.vectors import VectorFile

TEXTS = ["A cat sat on the mat.", "Dogs bark at night, and nobody knows why they do so.", "Why?"]


@pytest.fixture(scope="module")
def model(minilm: Path) -> Any:
    from transformers import BertModel

    return BertModel.from_pretrained(minilm).eval()


@pytest.fixture(scope="module")
def theirs(minilm: Path, model: Any) -> Any:
    """What transformers makes of texts one by one: tokens, hidden states, pooled output, intermediate outputs."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(minilm)

    def run(text: str, pair: str | None = None) -> dict[str, Any]:
        inputs = tokenizer(text, pair, return_tensors="pt", truncation=True, max_length=512)
        seen: list[np.ndarray[Any, Any]] = []
        hooks = [
            layer.intermediate.register_forward_hook(lambda m, i, out: seen.append(out[0].numpy()))
            for layer in model.encoder.layer
        ]
        try:
            with torch.no_grad():
                out = model(**inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return {
            "tokens": tokenizer.convert_ids_to_tokens(inputs["input_ids"][0]),
            "hidden": out.last_hidden_state[0].numpy(),
            "pooled": out.pooler_output[0].numpy(),
            "layers": seen,
        }

    return run


def data_of(run: Any, *argv: Any) -> dict[str, Any]:
    ran = run([*argv, "--json"])
    assert ran.code == 0, ran.err
    found: dict[str, Any] = json.loads(ran.out)
    return found


# ------------------------------------------------------------------------------------------------ pool


@pytest.mark.parametrize("backend", BACKENDS)
def test_pooled_first_and_mean_are_transformers(backend: str, minilm: Path, run: Any, theirs: Any) -> None:
    """1e-5 absolute: float32, other orders of summation."""
    data = data_of(run, "pool", *TEXTS, "-m", minilm, "--backend", backend)
    assert list(data) == ["model", "facts", "texts", "similarity", "findings", "version"]
    assert (data["facts"]["backend"], data["facts"]["device"], data["facts"]["dtype"]) == (backend, "cpu", "float32")
    for text, node in zip(TEXTS, data["texts"], strict=True):
        expected = theirs(text)
        assert node["text"] == text
        assert node["tokens"] == expected["tokens"]
        for kind, values in (
            ("pooled", expected["pooled"]),
            ("cls", expected["hidden"][0]),
            ("mean", expected["hidden"].mean(0)),
        ):
            assert np.abs(np.array(node[kind]["values"]) - values).max() < 1e-5
            found = node[kind]["statistics"]
            assert found["norm"] == pytest.approx(np.linalg.norm(values), rel=1e-4)
            assert found["saturated"] == pytest.approx((np.abs(values) > 0.99).mean())
        order = np.argsort(-np.abs(expected["pooled"]))[:3]
        assert [row["dimension"] for row in node["strongest"]] == list(order)


@pytest.mark.parametrize("kind", ["cls", "mean"])
def test_the_vector_asked_for_is_the_one_told(kind: str, minilm: Path, run: Any, theirs: Any) -> None:
    argv = ["pool", TEXTS[0], "-m", minilm, "--vector", kind]
    (node,) = data_of(run, *argv)["texts"]
    hidden = theirs(TEXTS[0])["hidden"]
    values = hidden[0] if kind == "cls" else hidden.mean(0)
    assert [row["dimension"] for row in node["strongest"]] == list(np.argsort(-np.abs(values))[:3])
    (row,) = csv.DictReader(io.StringIO(run([*argv, "--format", "csv"]).out))
    assert float(row[f"{kind}.norm"]) == pytest.approx(np.linalg.norm(values), rel=1e-5)


def test_similarities_are_cosines(minilm: Path, run: Any) -> None:
    data = data_of(run, "pool", *TEXTS, "-m", minilm)
    for kind in ("pooled", "cls", "mean"):
        rows = np.array([node[kind]["values"] for node in data["texts"]])
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        assert np.allclose(data["similarity"][kind], rows @ rows.T, atol=1e-6)
    assert data_of(run, "pool", TEXTS[0], "-m", minilm)["similarity"] == {}


def test_pairs_are_read_together(minilm: Path, run: Any, theirs: Any) -> None:
    data = data_of(run, "pool", "A man eats.", "Somebody is eating.", "-m", minilm, "--pair")
    (node,) = data["texts"]
    assert (
        np.abs(np.array(node["pooled"]["values"]) - theirs("A man eats.", "Somebody is eating.")["pooled"]).max() < 1e-5
    )
    assert run(["pool", "one", "two", "three", "-m", minilm, "--pair"]).code == 2


def test_the_verdict_on_the_pooler_stands_above_the_numbers(minilm: Path, run: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = run(["pool", "text", "-m", minilm]).out
    assert out.index("pooler-untrained") < out.index("pooled output")
    assert {f["rule"] for f in data_of(run, "pool", "text", "-m", minilm)["findings"]} == {
        "pooler-untrained",
        "pooler-unused",
    }


def test_an_absent_pooler_is_an_error_with_a_way_out(tmp_path: Path, minilm: Path, run: Any) -> None:
    from safetensors.numpy import save_file

    tensors = {k: v for k, v in load_file(minilm / "model.safetensors").items() if "pooler" not in k}
    save_file(tensors, tmp_path / "model.safetensors")
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((minilm / name).read_bytes())
    refused = run(["pool", "text", "-m", tmp_path])
    assert refused.code == 1
    assert "take --vector sentence, --vector mean or --vector cls instead" in refused.err
    data = data_of(run, "pool", "text", "-m", tmp_path, "--vector", "mean")
    assert data["texts"][0]["pooled"] is None
    assert len(data["texts"][0]["mean"]["values"]) == 384


def npz(path: Path) -> dict[str, Any]:
    """Every array of an npz file, which is closed again."""
    with np.load(path) as archive:
        return dict(archive)


READERS: dict[str, Any] = {
    ".safetensors": lambda path, kind: load_file(path)[kind],
    ".npy": lambda path, kind: np.load(path),
    ".npz": lambda path, kind: npz(path)[kind],
    ".jsonl": lambda path, kind: np.array([json.loads(line)[kind] for line in path.read_text().splitlines()]),
    ".csv": lambda path, kind: np.array([row[1:] for row in csv.reader(io.StringIO(path.read_text()))][1:], float),
}


@pytest.mark.parametrize("family", ["bert", "mobilebert", "reformer"])
@pytest.mark.parametrize("kind", ["pooled", "cls", "mean"])
def test_vectors_are_as_wide_as_they_are(family: str, kind: str, tmp_path: Path, run: Any) -> None:
    """Layers may be narrower than hidden states, as MobileBERT's are, or these wider than the model, as Reformer's."""
    zoo.save(family, tmp_path / "m")
    words = zoo.save_tokenizer(tmp_path / "m").split()
    if kind == "pooled" and family == "reformer":
        pytest.skip("it has no pooler")
    texts = [" ".join(words[:n]) for n in (1, 30, 4, 17)]
    argv = ["pool", *texts, "-m", tmp_path / "m", "--vector", kind]
    shown = np.array([text[kind]["values"] for text in data_of(run, *argv)["texts"]])
    for suffix, read in READERS.items():
        file = tmp_path / f"v{suffix}"
        ran = run([*argv, "-o", file])
        assert ran.code == 0, ran.err
        assert np.abs(read(file, kind) - shown).max() < 2e-6  # ours and theirs sum a text alone or in a batch
    assert np.abs(bertprobe.open(tmp_path / "m").pool(texts, vector=kind) - shown).max() < 2e-6
    assert data_of(run, "inspect", tmp_path / "m")["facts"]["hidden_size"] == zoo.HIDDEN


def test_rows_of_two_widths_are_a_fault_of_ours(tmp_path: Path) -> None:
    with VectorFile(Output(tmp_path / "v.npy"), "mean", {}) as file:
        file.put(np.array([0]), np.zeros((1, 4), np.float32))
        with pytest.raises(ValueError, match="among vectors"):
            file.put(np.array([1]), np.zeros((1, 8), np.float32))


@pytest.mark.parametrize("suffix", READERS)
@pytest.mark.parametrize("kind", ["pooled", "mean"])
def test_vectors_read_back_in_the_order_of_the_texts(
    suffix: str, kind: str, minilm: Path, tmp_path: Path, run: Any
) -> None:
    lines = tmp_path / "texts.txt"
    lines.write_text("\n".join(TEXTS * 3) + "\n")
    file = tmp_path / f"vectors{suffix}"
    options = ["--file", lines, "-m", minilm, "-o", file, "--vector", kind, "--batch-tokens", "20"]
    told = data_of(run, "pool", *options)
    assert told["written"]["shape"] == [9, 384]
    assert told["written"]["bytes"] == file.stat().st_size
    shown = data_of(run, "pool", *TEXTS, "-m", minilm)
    expected = np.array([node[kind]["values"] for node in shown["texts"]] * 3)
    assert np.abs(READERS[suffix](file, kind) - expected).max() < 2e-6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["texts.txt", file.name]
    assert run(["pool", *options]).code == 1, "not overwritten unasked"


def test_parquet_needs_its_extra_or_works(minilm: Path, tmp_path: Path, run: Any) -> None:
    ran = run(["pool", "text", "-m", minilm, "-o", tmp_path / "v.parquet"])
    try:
        import pyarrow.parquet
    except ImportError:
        assert ran.code == 1
        assert "bertprobe[parquet]" in ran.err
        assert list(tmp_path.iterdir()) == []
        return
    assert ran.code == 0
    assert pyarrow.parquet.read_table(tmp_path / "v.parquet").num_rows == 1


def test_stdin_is_taken_and_odd_bytes_do_not_stop_it(minilm: Path) -> None:
    command = [sys.executable, "-m", "bertprobe", "pool", "-m", str(minilm), "--json"]
    done = subprocess.run(command, input=b"caf\xe9 noir\nsecond\n", capture_output=True, check=True)
    texts = [node["text"] for node in json.loads(done.stdout)["texts"]]
    assert texts == ["caf\ufffd noir", "second"]


@pytest.mark.parametrize("command", ["pool", "activations"])
def test_ten_megabytes_in_one_text(command: str, minilm: Path, tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_text("word " * 2_000_000)
    argv = [sys.executable, "-m", "bertprobe", command, "--file", str(file), "-m", str(minilm), "--json"]
    refused = subprocess.run(argv, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "2,000,002 tokens" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    done = subprocess.run([*argv, "--truncate"], capture_output=True, text=True, check=True)
    data = json.loads(done.stdout)
    if command == "pool":
        assert data["texts"][0]["truncated"] == 2_000_002 - 512
    else:
        assert data["layers"][0]["statistics"]["count"] == 512 * 1536


def bytes_read_by(process: int) -> int:
    return int(Path(f"/proc/{process}/io").read_text().split()[1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="looks into /proc to see how far it has come")
@pytest.mark.parametrize(("command", "suffix"), [("pool", ".npy"), ("activations", ".safetensors")])
def test_ctrl_c_leaves_nothing_behind(command: str, suffix: str, minilm: Path, tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("A long text that keeps the encoder busy for a while, again and again. " * 20 + "\n")
    file.write_text(file.read_text() * 2000)
    argv = [sys.executable, "-m", "bertprobe", command, "--file", str(file), "-m", str(minilm)]
    argv += ["-o", str(tmp_path / f"out{suffix}"), "--backend", "numpy"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and bytes_read_by(process.pid) < 40_000_000:  # until it has its weights
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert "\x1b" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["texts.txt"]


NASTY = [
    "",
    "x",
    "🙂👩‍👩‍👧",
    "e\u0301\u0327",
    "مرحبا بالعالم",
    "a\0b",
    "[CLS] [MASK] end",
    "\x1b[31mred",
    "[red]x[/red]",
]


@pytest.mark.parametrize("text", NASTY, ids=ascii)
@pytest.mark.parametrize("command", ["pool", "activations"])
def test_nasty_texts_are_texts(command: str, text: str, minilm: Path, run: Any) -> None:
    ran = run([command, "-m", minilm, "--", text])
    assert ran.code == 0, ran.err
    assert "\x1b" not in ran.out
    data_of(run, command, "-m", minilm, text)


def test_what_is_too_long_is_an_error_unless_it_may_be_cut(minilm: Path, run: Any, theirs: Any) -> None:
    text = "word " * 600
    refused = run(["pool", text, "-m", minilm])
    assert refused.code == 1
    assert "--truncate" in refused.err
    (node,) = data_of(run, "pool", text, "-m", minilm, "--truncate")["texts"]
    assert len(node["tokens"]) == 512
    assert node["truncated"] == 602 - 512
    assert np.abs(np.array(node["pooled"]["values"]) - theirs(text)["pooled"]).max() < 1e-5


def test_the_longest_text_there_can_be(minilm: Path, run: Any, theirs: Any) -> None:
    words = ["word"] * 510
    (node,) = data_of(run, "pool", " ".join(words), "-m", minilm)["texts"]
    assert len(node["tokens"]) == 512
    assert np.abs(np.array(node["pooled"]["values"]) - theirs(" ".join(words))["pooled"]).max() < 1e-5
    assert run(["pool", " ".join([*words, "word"]), "-m", minilm]).code == 1


@pytest.mark.parametrize("command", ["pool", "activations"])
def test_what_was_cut_is_said(command: str, minilm: Path, tmp_path: Path, run: Any) -> None:
    argv = [command, "word " * 600, "word", "word " * 511, "-m", minilm, "--truncate"]
    assert data_of(run, *argv)["facts"]["truncated"] == {"texts": 2, "tokens": 91}
    assert "2 texts to what the model takes; 91 tokens left out" in run(argv).out
    suffix = "npy" if command == "pool" else "npz"
    assert data_of(run, *argv, "-o", tmp_path / f"out.{suffix}")["facts"]["truncated"]["texts"] == 2


def test_the_model_may_stand_in_the_environment(minilm: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTPROBE_MODEL", str(minilm))
    assert data_of(run, "pool", "text")["model"] == str(minilm)
    assert data_of(run, "inspect", "--shapes")["model"] == str(minilm)
    assert data_of(run, "pool", "text", "-m", "pocket")["model"] == "pocket"


@pytest.mark.parametrize(
    "argv", [["--backend", "numpy", "--dtype", "bfloat16"], ["--device", "cuda"], ["--file", "no-such-file"]]
)
def test_what_cannot_be_is_one_line(argv: list[str], minilm: Path, run: Any) -> None:
    if "cuda" in argv and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    ran = run(["pool", "text", "-m", minilm, *argv])
    assert ran.code == 1
    assert len(ran.err.splitlines()) == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_close(dtype: str, minilm: Path, run: Any) -> None:
    """bfloat16 has 8 bits of fraction: its cosine with float32 is above 0.999 on these texts; float16's more so."""
    whole = data_of(run, "pool", *TEXTS, "-m", minilm)
    half = data_of(run, "pool", *TEXTS, "-m", minilm, "--dtype", dtype)
    assert half["facts"]["backend"] == "torch"
    for a, b in zip(whole["texts"], half["texts"], strict=True):
        x, y = np.array(a["mean"]["values"]), np.array(b["mean"]["values"])
        assert x @ y / np.linalg.norm(x) / np.linalg.norm(y) > 0.999


# ------------------------------------------------------------------------------------------------ activations


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(TEXTS) + "\n")
    return file


@pytest.mark.parametrize("backend", BACKENDS)
def test_matrices_are_the_outputs_of_the_hooks(
    backend: str, minilm: Path, tmp_path: Path, run: Any, theirs: Any
) -> None:
    for suffix, read in ((".safetensors", load_file), (".npz", npz)):
        file = tmp_path / f"a{suffix}"
        run(["activations", *TEXTS, "-m", minilm, "-o", file, "--backend", backend])
        found = read(file)
        assert list(found["lengths"]) == [len(theirs(text)["tokens"]) for text in TEXTS]
        for layer in range(6):
            expected = np.concatenate([theirs(text)["layers"][layer] for text in TEXTS])
            assert np.abs(found[f"intermediate.{layer}"] - expected).max() < 1e-5 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("backend", BACKENDS)
def test_statistics_are_those_of_the_matrices(backend: str, minilm: Path, run: Any, theirs: Any) -> None:
    data = data_of(run, "activations", *TEXTS, "-m", minilm, "--backend", backend)
    assert list(data) == ["model", "facts", "layers", "tokens", "heat", "findings", "version"]
    for layer in data["layers"]:
        values = np.concatenate([theirs(text)["layers"][layer["layer"]] for text in TEXTS]).astype(np.float64)
        found = layer["statistics"]
        energy = np.sort((values**2).sum(0))[::-1].cumsum()
        expected = {
            "count": values.size, "mean": values.mean(), "std": values.std(), "min": values.min(), "max": values.max(),
            "above_zero": (values > 0).mean(), "near_zero": (np.abs(values) < 0.01).mean(),
        }  # fmt: skip
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, rel=1e-4, abs=2e-5), name
        assert abs(found["energy_neurons"] - (np.searchsorted(energy, 0.9 * energy[-1]) + 1)) <= 1
        assert [row["neuron"] for row in layer["top"]] == list(np.argsort(-(values**2).sum(0))[:3])
    heat = np.array(data["heat"]["rms"])
    assert heat.shape == (6, len(data["heat"]["tokens"]))


def test_batches_add_up_to_the_whole(minilm: Path, lines: Path, run: Any) -> None:
    whole = data_of(run, "activations", "--file", lines, "-m", minilm)
    parts = data_of(run, "activations", "--file", lines, "-m", minilm, "--batch-tokens", "1")
    for a, b in zip(whole["layers"], parts["layers"], strict=True):
        assert a["statistics"] == pytest.approx(b["statistics"], rel=1e-5, abs=1e-6)


def test_few_texts_from_a_file_are_shown_like_typed_ones(minilm: Path, lines: Path, run: Any) -> None:
    typed = data_of(run, "activations", *TEXTS, "-m", minilm, "--tokens")
    assert data_of(run, "activations", "--file", lines, "-m", minilm, "--tokens") == typed


def test_many_texts_stream_and_only_sums_are_kept(minilm: Path, tmp_path: Path, run: Any) -> None:
    from bertprobe.cli.text import KEPT

    file = tmp_path / "many.txt"
    file.write_text("\n".join(TEXTS * (1 + KEPT // sum(map(len, TEXTS)))) + "\n")
    data = data_of(run, "activations", "--file", file, "-m", minilm, "--layers", "0")
    assert data["heat"] is None
    assert data["tokens"] == []
    assert data["layers"][0]["statistics"]["count"] > KEPT
    refused = run(["activations", "--file", file, "-m", minilm, "--tokens"])
    assert refused.code == 2
    assert "-o" in refused.err


def test_embeddings_are_gathered_and_not_read(minilm: Path, run: Any) -> None:
    facts = data_of(run, "pool", "text", "-m", minilm)["facts"]
    assert facts["bytes_read"] < 0.5 * facts["bytes_total"], "the word embeddings are half of the file"


def test_only_the_layers_asked_for_are_read_and_run(minilm: Path, run: Any) -> None:
    data = data_of(run, "activations", "text", "-m", minilm, "--layers", "1")
    assert [layer["layer"] for layer in data["layers"]] == [1]
    whole = data_of(run, "activations", "text", "-m", minilm)
    assert data["facts"]["bytes_read"] < whole["facts"]["bytes_read"]
    assert data["layers"][0]["statistics"] == pytest.approx(whole["layers"][1]["statistics"], rel=1e-5)


def test_pre_shows_what_goes_into_the_activation(minilm: Path, tmp_path: Path, run: Any, theirs: Any) -> None:
    run(["activations", TEXTS[0], "-m", minilm, "--pre", "-o", tmp_path / "pre.safetensors"])
    before = torch.from_numpy(load_file(tmp_path / "pre.safetensors")["intermediate.2"])
    assert np.abs(torch.nn.functional.gelu(before).numpy() - theirs(TEXTS[0])["layers"][2]).max() < 1e-5


def test_tokens_name_their_strongest_neurons(minilm: Path, run: Any, theirs: Any) -> None:
    data = data_of(run, "activations", TEXTS[0], "-m", minilm, "--tokens", "--top", "2")
    expected = theirs(TEXTS[0])
    rows = [row for row in data["tokens"] if row["label"] == "intermediate.3"]
    assert [row["token"] for row in rows] == expected["tokens"]
    for row, values in zip(rows, expected["layers"][3], strict=True):
        assert [item["neuron"] for item in row["strongest"]] == list(np.argsort(-np.abs(values))[:2])


@pytest.mark.parametrize("argv", [["pool", *TEXTS], ["activations", TEXTS[0], "--tokens"]])
@pytest.mark.parametrize("columns", [80, 140])
def test_nothing_is_wider_than_the_terminal(
    argv: list[str], columns: int, minilm: Path, run: Any, monkeypatch: Any
) -> None:
    from rich.cells import cell_len

    monkeypatch.setenv("COLUMNS", str(columns))
    out = run([*argv, "-m", minilm]).out
    assert max(cell_len(line) for line in out.splitlines()) <= columns


# ------------------------------------------------------------------------------------------------ other families

OTHERS = ["albert", "distilbert", "modernbert", "deberta", "mpnet", "squeezebert", "canine"]


@pytest.fixture
def dressed(minilm: Path, tmp_path: Path) -> Any:
    """A tiny model of a family, with MiniLM's vocabulary beside it."""
    import zoo

    def make(family: str) -> Path:
        zoo.save(family, tmp_path, **({} if family == "canine" else {"vocab_size": 30522}))
        if family != "canine":
            for name in ("tokenizer.json", "tokenizer_config.json"):
                (tmp_path / name).write_bytes((minilm / name).read_bytes())
        return tmp_path

    return make


@pytest.mark.parametrize("family", OTHERS)
def test_other_families_run_through_transformers(family: str, dressed: Any, run: Any) -> None:
    import transformers

    folder = dressed(family)
    data = data_of(run, "pool", "A cat sat.", "-m", folder, "--vector", "mean")
    assert data["facts"]["backend"] == "transformers"
    if family != "canine":
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
        model = transformers.AutoModel.from_pretrained(folder).eval()
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([tokenizer("A cat sat.")["input_ids"]])).last_hidden_state[0].numpy()
        assert np.abs(np.array(data["texts"][0]["cls"]["values"]) - hidden[0]).max() < 1e-5
        assert np.abs(np.array(data["texts"][0]["mean"]["values"]) - hidden.mean(0)).max() < 1e-5
    shown = data_of(run, "activations", "A cat sat.", "-m", folder, "--tokens", "--top", "1")
    labels = [layer["label"] for layer in shown["layers"]]
    assert len(labels) == len(set(labels))
    if family == "albert":
        assert labels == ["intermediate.0", "intermediate.0 (call 1)"]
    if family == "modernbert":
        assert labels[:2] == ["gate.0", "intermediate.0"]
    if family == "canine":
        assert shown["heat"] is None
        assert shown["tokens"][0]["token"] == "position 0"


def test_a_family_that_needs_more_than_text_is_refused_by_name(dressed: Any, run: Any) -> None:
    ran = run(["pool", "text", "-m", dressed("bros"), "--vector", "cls"])
    assert ran.code == 1
    assert "bros" in ran.err
    assert "page" in ran.err


def test_numpy_is_not_asked_for_what_it_cannot(dressed: Any, run: Any) -> None:
    ran = run(["pool", "text", "-m", dressed("distilbert"), "--vector", "cls", "--backend", "numpy"])
    assert ran.code == 1
    assert "distilbert" in ran.err
