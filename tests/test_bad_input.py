"""Bad input gets one clear line on stderr, exit code 1, and nothing is lost: no half file, none overwritten unasked."""

from __future__ import annotations

import gzip
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Ran, Run
from safetensors.numpy import save

BERT = tuple(
    f"{module}.dense.{kind}"
    for module in (
        "encoder.layer.0.intermediate",
        "encoder.layer.0.output",
        "encoder.layer.1.intermediate",
        "encoder.layer.1.output",
        "pooler",
    )
    for kind in ("weight", "bias")
)


def refused(ran: Ran, *words: str, code: int = 1) -> None:
    """One line on stderr that says what was found; what to do; and nothing else anywhere."""
    assert ran.code == code, ran
    assert ran.out == ""
    assert ran.err.endswith("\n")
    assert len(ran.err.splitlines()) == 1, ran.err
    assert ran.err.startswith("bertprobe: ")
    assert "Traceback" not in ran.err
    found, _, hint = ran.err.removeprefix("bertprobe: ").partition("; ")
    assert found.strip()
    assert hint.strip()
    for word in words:
        assert word in ran.err, ran.err


def weights(names: Sequence[str]) -> bytes:
    """A safetensors file with 4 × 4 matrices, and vectors where a name ends in bias."""
    return save({name: np.ones(4 if name.endswith("bias") else (4, 4), np.float32) for name in names})


Files = dict[str, bytes | str | dict[str, Any] | list[Any] | None]


def lay(folder: Path, files: Files) -> None:
    """Writes files by their path in the folder: bytes, text, what becomes JSON, or None for a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir()
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


SOUND: Files = {"m/model.safetensors": weights(BERT)}
INDEX = "m/model.safetensors.index.json"


def shards(*present: int, of: int) -> Files:
    return {
        f"m/model-{i:05}-of-{of:05}.safetensors": weights([f"encoder.layer.{i}.output.dense.weight"]) for i in present
    }


def index(**weight_map: Any) -> Files:
    return {**shards(1, 2, of=2), INDEX: {"weight_map": weight_map}}


# name: (files, arguments of inspect, words in the error)
NOT_THERE: dict[str, tuple[Files, str, tuple[str, ...]]] = {
    "no such path": ({}, "no/such/folder/model.bin", ("no path 'no/such/folder/model.bin'", "no/such is")),
    "no such path nor model": ({}, "no-such-model", ("no path 'no-such-model'", "local Hub cache", "hf download")),
    "no such user": ({}, "~no-such-user/model", ("there is no '~no-such-user/model'",)),
    "a name too long": ({}, "x" * 5000, ("there is no",)),
    "nothing": ({}, "", ("there is no ''",)),
    "a path through a file": (SOUND, "m/model.safetensors/x", ("there is no",)),
    "an empty folder": ({"m": None}, "m", ("the folder m is empty", "looked for model.safetensors")),
    "a tokenizer only": (
        {"m/vocab.txt": "[PAD]", "m/config.json": {}},
        "m",
        ("holds no weights, only config.json, vocab.txt", "looked for model.safetensors, pytorch_model.bin"),
    ),
    "Keras": ({"m/tf_model.h5": b"\x89HDF", "m/config.json": {}}, "m", ("tf_model.h5 is no HDF5 file", "fetch")),
    "Flax": ({"m/flax_model.msgpack": b"\x80"}, "m", ("holds no tensors", "is it a checkpoint")),
    "ONNX": ({"m/model.onnx": b"\x08"}, "m", ("model.onnx is damaged, or no ONNX model", "fetch it again")),
    "TensorFlow": (
        {"m/bert_model.ckpt.index": b"", "m/bert_model.ckpt.data-00000-of-00001": b"", "m/bert_config.json": {}},
        "m",
        ("bert_model.ckpt.index is empty", "fetch it again"),
    ),
    "rust": ({"m/rust_model.ot": b"PK"}, "m", ("rust_model.ot, a rust-bert file", "looked for")),
    "what training leaves": (
        {f"m/{name}": b"PK\x03\x04" for name in ("optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state.pth")},
        "m",
        ("holds no weights, only optimizer.pt, rng_state.pth, scheduler.pt, training_args.bin",),
    ),
    "several weights files": (
        {"m/a.safetensors": weights(BERT), "m/b.safetensors": weights(BERT)},
        "m",
        ("several weights files (a.safetensors, b.safetensors)", "name the one you mean"),
    ),
    "two sets of shards": (
        {f"m/{stem}-0000{i}-of-00002.bin": b"PK" for stem in "ab" for i in (1, 2)},
        "m",
        ("several weights files (a-00001-of-00002.bin, b-00001-of-00002.bin)", "name the one you mean"),
    ),
    "an incomplete set": (shards(1, 3, of=3), "m", ("holds 2 of the 3 shards model-*-of-00003.safetensors", "fetch")),
    "a set with a wrong number": (shards(1, 4, of=2), "m", ("holds 1 of the 2 shards",)),
    "an index of missing shards": (
        {INDEX: {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "x.safetensors"}}, **shards(1, of=2)},
        "m",
        ("names 2 shards, 1 of them missing: x.safetensors", "fetch"),
    ),
    "an index that leads up": (index(a="../m/x.safetensors"), "m", ("'../m/x.safetensors'", "not a plain file name")),
    "an index that leads away": (index(a="/etc/passwd"), "m", ("'/etc/passwd'", "not a plain file name")),
    "an index in Windows' way": (index(a="..\\x.safetensors"), "m", ("x.safetensors", "not a plain file name")),
    "an index to the folder": (index(a=".."), "m", ("'..'", "not a plain file name")),
    "an index with a NUL": (index(a="a\0b"), "m", ("a\\x00b", "not a plain file name")),
    "an index with a number": (index(a=1), "m", ("has no weight_map",)),
    "an index of nothing": ({INDEX: {"weight_map": {}}}, "m", ("has no weight_map",)),
    "an index without a map": ({INDEX: {}}, "m", ("has no weight_map",)),
    "an index that is a list": ({INDEX: []}, "m", ("index.json is JSON, but not an object",)),
    "an index that is no JSON": ({INDEX: "weight_map"}, INDEX, ("index.json is not JSON", "fetch it again")),
    "an index to a name too long": (index(a="x" * 300), "m", ("1 of them missing: xxx",)),
    "an index of a tensor in no shard": (
        index(
            **{
                "encoder.layer.1.output.dense.weight": "model-00001-of-00002.safetensors",
                "lost.weight": "model-00002-of-00002.safetensors",
            }
        ),
        "m",
        ("1 tensors of the index", "lost.weight", "fetch both again"),
    ),
    "an index of a tensor in another shard": (
        index(
            **{
                "encoder.layer.1.output.dense.weight": "model-00002-of-00002.safetensors",
                "encoder.layer.2.output.dense.weight": "model-00002-of-00002.safetensors",
            }
        ),
        "m",
        ("1 tensors of the index", "encoder.layer.1.output.dense.weight"),
    ),
    "a table nobody draws": (SOUND, "m --table nonsense", ("no table 'nonsense'", "intermediate, pooler")),
}
NOT_SETTINGS: dict[str, tuple[Files, str, tuple[str, ...]]] = {
    "text": ({"config.json": "hidden_size: 32"}, "", ("config.json is not JSON", "mend it")),
    "nothing": ({"config.json": ""}, "", ("config.json is not JSON",)),
    "bytes": ({"config.json": b"\xff\xfe{"}, "", ("config.json is not text",)),
    "half": ({"config.json": '{"hidden_size": 32'}, "", ("config.json is not JSON",)),
    "a list": ({"config.json": [1]}, "", ("config.json is JSON, but not an object",)),
    "huge nesting": ({"config.json": '{"a":' + "[" * 200_000}, "", ("config.json is not JSON", "nested")),
    "a number of 5000 digits": ({"config.json": '{"a":' + "1" * 5000 + "}"}, "", ("config.json is not JSON", "4300")),
    "50 MB": ({"config.json": " " * (50 * 2**20 + 1)}, "", ("config.json has 52,428,801 bytes",)),
    "an old config": ({"bert_config.json": "{"}, "", ("bert_config.json is not JSON",)),
    "pooling settings": ({"1_Pooling/config.json": "{"}, "", ("config.json is not JSON", "1_Pooling")),
}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 440449768\n"
PICKLE_OF_5 = b"\x80\x02K\x05."
STRANGERS: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "nothing": (b"", ("is empty", "fetch it again")),
    "a Git LFS pointer": (LFS, ("a Git LFS pointer", "git lfs pull")),
    "a web page": (b"\n<!DOCTYPE html>\n<html>" + bytes(100), ("a web page", "fetch it again")),
    "gzip": (gzip.compress(weights(BERT)), ("a gzip archive", "unpack it first")),
    "JSON": (b'{"model_type": "bert", "hidden_size": 32}', ("a JSON file", "name the folder")),
    "another pickle": (PICKLE_OF_5, ("a pickle, but not one that torch.save wrote",)),
}
ENCODERLESS: dict[str, tuple[tuple[str, ...], str]] = {
    "diffusion": (
        ("down_blocks.0.attentions.0.proj_in.weight", "mid_block.resnets.0.conv1.weight"),
        "a diffusion model",
    ),
    "a vision model": (("blocks.0.attn.qkv.weight", "patch_embed.proj.weight"), "a vision model"),
    "a convolutional network": (("layer1.0.conv1.weight", "fc.weight"), "a convolutional network"),
    "a recurrent network": (("lstm.weight_ih_l0", "lstm.weight_hh_l0"), "a recurrent network"),
    "who knows": (("alpha", "omega"), "has tensors such as alpha"),
}
LAYERS = {
    "99": "this checkpoint has layers 0-1",
    "-3": "this checkpoint has layers 0-1",
    "-10": "this checkpoint has layers 0-1",
    "0-99": "this checkpoint has layers 0-1",
    "5-3": "run backwards",
    "1-0": "run backwards",
    "-1-0": "run backwards",
    "x": "0,3-5,-1",
    "": "0,3-5,-1",
    "0,,1": "0,3-5,-1",
    "0;1": "0,3-5,-1",
    "1.0": "0,3-5,-1",
    "9" * 5000: "0,3-5,-1",
}


@pytest.mark.parametrize(("files", "words", "said"), NOT_THERE.values(), ids=NOT_THERE)
def test_what_is_not_there_is_named(files: Files, words: str, said: tuple[str, ...], here: Path, run: Run) -> None:
    lay(here, files)
    refused(run(["inspect", *words.split(" ")]), *said)
    refused(
        run(["export", words.partition(" ")[0], "-o", "out.npz", "--part", "model"]), *said
    ) if files != SOUND else None
    assert not (here / "out.npz").exists()


@pytest.mark.parametrize(("files", "_", "said"), NOT_SETTINGS.values(), ids=NOT_SETTINGS)
def test_settings_that_are_none_are_named(files: Files, _: str, said: tuple[str, ...], here: Path, run: Run) -> None:
    lay(here / "m", files)
    lay(here, SOUND)
    refused(run(["inspect", "m"]), *said)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(("content", "said"), STRANGERS.values(), ids=STRANGERS)
def test_another_kind_of_file_is_called_by_its_kind(
    content: bytes, said: tuple[str, ...], name: str, here: Path, run: Run
) -> None:
    lay(here, {name: content})
    refused(run(["inspect", "."]), *said, name)
    refused(run(["inspect", name]), *said, name)


@pytest.mark.parametrize(("names", "said"), ENCODERLESS.values(), ids=ENCODERLESS)
def test_what_is_no_encoder_is_called_by_its_kind(names: tuple[str, ...], said: str, here: Path, run: Run) -> None:
    lay(here, {"model.safetensors": weights(names)})
    refused(run(["inspect", "."]), said, "expected a BERT-like encoder", "encoder.layer.0.intermediate.dense.weight")


@pytest.mark.parametrize("model_type", [[], {}, 7, True, None, "", "\ud800", "x" * 5000])
def test_a_model_type_that_is_none_is_no_encoder(model_type: Any, here: Path, run: Run) -> None:
    """These names are an encoder's only if the config says so."""
    names = ["model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.gate_proj.weight"]
    lay(here, {"model.safetensors": weights(names), "config.json": {"model_type": model_type}})
    ran = run(["inspect", "."])
    refused(ran, "a Llama-like decoder")
    assert len(ran.err) < 1000


@pytest.mark.parametrize(("model", "said"), [("GPT2", "a GPT-2-like decoder"), ("Llama", "a Llama-like decoder")])
def test_a_decoder_is_called_a_decoder(model: str, said: str, here: Path, run: Run) -> None:
    """Its own file, with its config and without, and a file of PyTorch."""
    import torch
    import transformers

    sizes = {
        "vocab_size": 8,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
    }
    if model == "GPT2":
        sizes = {"vocab_size": 8, "n_embd": 8, "n_layer": 1, "n_head": 1, "n_positions": 4}
    made = getattr(transformers, f"{model}Model")(getattr(transformers, f"{model}Config")(**sizes))
    made.save_pretrained("m")
    torch.save(made.state_dict(), "made.pt")
    refused(run(["inspect", "m"]), said, f"its config says '{model.lower()}'", "expected a BERT-like encoder")
    refused(run(["inspect", "made.pt"]), said)


@pytest.mark.parametrize("layers", LAYERS)
def test_layers_that_are_not_there_are_named(layers: str, here: Path, run: Run) -> None:
    lay(here, SOUND)
    said = LAYERS[layers]
    refused(run(["inspect", "m", "--layers", layers]), "layer", said, code=1 if "this checkpoint" in said else 2)


# ------------------------------------------------------------------------------------------------ what is no file


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"])
@pytest.mark.parametrize("kind", ["folder", "FIFO", "link to nothing", "link to itself"])
def test_what_is_no_file_is_neither_read_nor_waited_for(kind: str, name: str, here: Path, run: Run) -> None:
    path = here / name
    if kind == "folder":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    else:
        path.symlink_to("nothing" if kind == "link to nothing" else name)
    refused(run(["inspect", "."]), name)
    if "link" not in kind:  # a broken link is no path
        refused(run(["inspect", name]), name if kind == "FIFO" else "is empty")


def test_settings_that_are_no_file_are_not_waited_for(here: Path, run: Run) -> None:
    lay(here, SOUND)
    for name in ("config.json", "modules.json"):
        os.mkfifo(here / "m" / name)
    assert run(["inspect", "m"]).code == 0


@contextmanager
def nobody() -> Iterator[None]:
    """Another user's rights, for root, who may read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    ("locked", "mode", "said"),
    [
        ("m", 0o000, "m cannot be read (Permission denied)"),
        ("m", 0o444, "cannot be read (Permission denied)"),
        ("m/model.safetensors", 0o000, "model.safetensors cannot be read (Permission denied)"),
        ("m/config.json", 0o000, "config.json cannot be read (Permission denied)"),
    ],
)
def test_what_may_not_be_read_is_named(locked: str, mode: int, said: str, run: Run) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own lie in a folder of one user
        folder = Path(name)
        folder.chmod(0o755)
        lay(folder, {**SOUND, "m/config.json": {"model_type": "bert"}})
        run(["inspect", folder / "m"])  # what has to be imported lies where only root may look
        (folder / locked).chmod(mode)
        try:
            with nobody():
                ran = run(["inspect", folder / "m"])
                inside = run(["inspect", folder / "m" / "model.safetensors"])
        finally:
            (folder / locked).chmod(0o755)
    refused(ran, said, "permissions")
    refused(inside)


# ------------------------------------------------------------------------------------------------ output


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


OUTPUTS = pytest.mark.parametrize("suffix", [".safetensors", ".npz"])


@OUTPUTS
def test_output_is_overwritten_with_force_alone(suffix: str, here: Path, run: Run) -> None:
    lay(here, {**SOUND, f"out/old{suffix}": b"precious"})
    words = ["export", "m", "--part", "model", "-o", f"out/old{suffix}"]
    refused(run(words), f"out/old{suffix} is there already", "--force")
    assert listing(here / "out") == {f"old{suffix}": b"precious"}
    assert run([*words, "--force"]).code == 0
    assert list(listing(here / "out")) == [f"old{suffix}"]
    assert listing(here / "out") != {f"old{suffix}": b"precious"}


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("no/such/folder/out.npz", "there is no folder no/such/folder"),
        ("m/model.safetensors/out.npz", "there is no folder m/model.safetensors"),
        ("folder.npz", "folder.npz is a folder"),
        ("out.bin", "out.bin does not say a format"),
        ("out", "out does not say a format"),
        ("/proc/out.npz", "/proc cannot be written to"),
        ("link.npz", "link.npz is there already"),
        ("x" * 300 + ".npz", "xxx.npz"),
    ],
)
def test_a_place_where_nothing_can_be_written_is_named(output: str, said: str, here: Path, run: Run) -> None:
    lay(here, {**SOUND, "folder.npz": None})
    (here / "link.npz").symlink_to("nothing")
    before = sorted(here.rglob("*"))
    refused(run(["export", "m", "--part", "model", "-o", output]), said)
    assert sorted(here.rglob("*")) == before


@contextmanager
def smallest_files(most: int) -> Iterator[None]:
    """No file may grow beyond so many bytes; Python ignores the signal, so that a write fails with EFBIG."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@OUTPUTS
@pytest.mark.parametrize("most", [0, 1, 500, 5_000, 40_000])
def test_a_full_disk_leaves_nothing_behind(most: int, suffix: str, tiny_bert: Path, here: Path, run: Run) -> None:
    lay(here, {f"out/old{suffix}": b"precious"})
    words = ["export", tiny_bert, "--part", "model", "-o"]
    with smallest_files(most):
        new = run([*words, f"out/new{suffix}"])
        old = run([*words, f"out/old{suffix}", "--force"])
    refused(new, f"new{suffix} could not be written (File too large)", "nothing was left behind", "make room")
    refused(old, f"old{suffix} could not be written", "make room")
    assert listing(here / "out") == {f"old{suffix}": b"precious"}


@OUTPUTS
def test_a_really_full_disk_leaves_nothing_behind(suffix: str, tiny_bert: Path, here: Path, run: Run) -> None:
    lay(here, {"disk": None})
    mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "bertprobe-test", here / "disk"]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        (here / "disk" / f"old{suffix}").write_bytes(b"precious")
        words = ["export", tiny_bert, "--part", "model", "-o"]
        refused(run([*words, f"disk/new{suffix}"]), "No space left on device", "make room")
        refused(run([*words, f"disk/old{suffix}", "--force"]), "No space left on device", "make room")
        assert listing(here / "disk") == {f"old{suffix}": b"precious"}
    finally:
        subprocess.run(["umount", here / "disk"], check=True)


@OUTPUTS
def test_a_file_that_breaks_off_leaves_nothing_behind(suffix: str, here: Path, run: Run) -> None:
    """The header is sound, one of the tensors is refused only when it is read."""
    import torch

    state = {name: torch.ones(4, 4) for name in BERT}
    torch.save(state, "model.bin")
    content = bytearray(Path("model.bin").read_bytes())
    last = content.index(b"model/data/9") - 30  # its header
    content[last : last + 4] = b"XXXX"
    Path("model.bin").write_bytes(content)
    lay(here, {"out": None})
    refused(run(["export", "model.bin", "--part", "model", "-o", f"out/new{suffix}"]), "model.bin")
    assert listing(here / "out") == {}


# ------------------------------------------------------------------------------------------------ terminals

SETTINGS = ("model_type", "hidden_act", "torch_dtype", "hidden_size", "pooler_hidden_act", "vocab_size")
HOSTILE = "\x1b[31m\x1b]0;owned\x07\u202egnp\u2066\x9b2J\r\n\u2028\x7f\x08[red]hot[/red][link=x]"


def tame(text: str) -> None:
    """Nothing but printable characters and line ends."""
    odd = {char for char in text if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert odd <= {"\n"}, odd


@pytest.mark.parametrize("format", ["table", "json", "csv", "markdown", "github"])
def test_a_name_cannot_repaint_the_terminal(format: str, here: Path, run: Run) -> None:
    """Not the names of tensors, of files, of the model type, nor any other text that a file brings along."""
    evil = HOSTILE.replace("/", "|")
    hidden = [f"{HOSTILE.replace('.', '')}.{name}" for name in BERT]
    lay(
        here,
        {
            "m/model.safetensors": save({name: np.ones((4, 4), np.float32) for name in hidden}, {HOSTILE: HOSTILE}),
            f"m/{evil}.bin": b"",
            "m/config.json": dict.fromkeys(SETTINGS, HOSTILE) | {"architectures": [HOSTILE]},
            "m/1_Pooling/config.json": {f"pooling_mode_{HOSTILE}": True},
        },
    )
    for words in (["inspect", "m"], ["inspect", "m", "--shapes"], ["inspect", "m", "--neurons", "2", "--spectrum"]):
        ran = run([*words, "--format", format])
        assert (ran.code, ran.err) == (0, "")
        tame(ran.out)
        assert "hot" in ran.out
        if format in ("table", "json", "csv"):
            assert "[red]" in ran.out
    ran = run(["export", "m", "--part", "model", "-o", "out.safetensors", "--names", "stored", "--format", format])
    assert (ran.code, ran.err) == (0, "")
    tame(ran.out)


@pytest.mark.parametrize(
    "files",
    [
        {"m/model.safetensors": weights([HOSTILE])},
        {f"m/{HOSTILE.replace('/', '|')}.safetensors": b"x", f"m/{HOSTILE.replace('/', '|')}2.safetensors": b"x"},
        {f"m/{HOSTILE.replace('/', '|')}": b"x"},
        {f"m/{HOSTILE.replace('/', '|')}.h5": b"x"},
        {"m/model.safetensors.index.json": {"weight_map": {HOSTILE: HOSTILE}}},
        {"m/model.safetensors.index.json": {"weight_map": {HOSTILE: HOSTILE.replace("/", "|")}}},
        {"m/adapter_model.bin": b"x", "m/adapter_config.json": {"base_model_name_or_path": HOSTILE}},
        {**SOUND, "m/config.json": HOSTILE},
        {"m/model.safetensors": weights(["alpha"]), "m/config.json": {"model_type": HOSTILE}},
    ],
)
def test_an_error_cannot_repaint_the_terminal(files: Files, here: Path, run: Run) -> None:
    lay(here, files)
    ran = run(["inspect", "m"])
    refused(ran)
    tame(ran.err)


def test_what_was_typed_cannot_repaint_the_terminal(here: Path, run: Run) -> None:
    lay(here, SOUND)
    for words in ([HOSTILE], ["m", "--layers", HOSTILE], ["m", "--table", HOSTILE]):
        ran = run(["inspect", *words])
        refused(ran, code=2 if "--layers" in words else 1)
        tame(ran.err)
    ran = run(["export", "m", "--part", "model", "-o", f"{HOSTILE}/x.npz"])
    refused(ran)
    tame(ran.err)


def test_a_path_that_is_no_text_is_shown_escaped(here: Path, run: Run) -> None:
    shutil.copytree(_laid(here), os.fsdecode(b"caf\xe9"))
    ran = run(["inspect", os.fsdecode(b"caf\xe9")])
    assert ran.code == 0
    assert "caf\\udce9" in ran.out
    refused(run(["inspect", os.fsdecode(b"no\xe9/path")]), "no\\udce9/path")


def _laid(here: Path) -> Path:
    lay(here, SOUND)
    return here / "m"


# ------------------------------------------------------------------------------------------------ usage


def test_a_path_that_starts_with_a_dash_gets_a_hint(here: Path, run: Run) -> None:
    _laid(here).rename(here / "-model")
    ran = run(["inspect", "-model"])
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.splitlines()[-1] == (
        "hint: what starts with '-' is taken for an option; write: bertprobe inspect -- -model"
    )
    assert run(["inspect", "--", "-model"]).code == 0
    assert run(["inspect", "./-model"]).code == 0


def test_a_text_that_starts_with_a_dash_gets_a_hint(here: Path, run: Run) -> None:
    ran = run(["inspect", "- a text"])
    assert (ran.code, ran.out) == (2, "")
    assert "write: bertprobe inspect -- - a text" in ran.err.splitlines()[-1]


@pytest.mark.parametrize("words", [["m", "--layers", "-10", "--nonsense"], ["--" + "x" * 5000], ["m", "--format", "-"]])
def test_an_option_gets_no_hint(words: list[str], here: Path, run: Run) -> None:
    ran = run(["inspect", *words])
    assert (ran.code, ran.out) == (2, "")
    assert "hint" not in ran.err


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "m", "--nonsense"],
        ["inspect", "m", "--format", "xml"],
        ["inspect", "m", "--part", "head"],
        ["inspect", "m", "--neurons", "-1"],
        ["inspect", "m", "--shapes", "--spectrum"],
        ["inspect", "m", "other"],
        ["export", "m"],
        ["export", "m", "-o", "x.npz", "--dtype", "int8"],
        ["export", "m", "-o", "x.npz", "--layers", "0"],
        ["nonsense"],
    ],
)
def test_wrong_usage_exits_with_2(words: list[str], here: Path, run: Run) -> None:
    lay(here, SOUND)
    ran = run(words)
    assert (ran.code, ran.out) == (2, "")
    assert "Usage: " in ran.err
    assert "Traceback" not in ran.err
    assert sorted(path.name for path in here.iterdir()) == ["m"]


# ------------------------------------------------------------------------------------------------ processes


def process(*words: str | Path, encoding: str = "utf-8", **settings: Any) -> subprocess.CompletedProcess[str]:
    """`python -m bertprobe` as a shell runs it: stdout in a buffer, in the terminal's encoding."""
    command = [sys.executable, "-m", "bertprobe", *map(str, words)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    environment["PYTHONIOENCODING"] = encoding
    settings = {"env": environment, "encoding": encoding, "stderr": subprocess.PIPE, "timeout": 60, **settings}
    return subprocess.run(command, check=False, **settings)


def test_a_process_ends_with_the_documented_codes(small_bert: Path, tmp_path: Path) -> None:
    fine = process("inspect", small_bert, "--format", "json", stdout=subprocess.PIPE)
    assert (fine.returncode, fine.stderr) == (0, "")
    check = subprocess.run([sys.executable, "-m", "json.tool"], input=fine.stdout, text=True, capture_output=True)
    assert check.returncode == 0
    wrong = process("inspect", tmp_path / "nothing", stdout=subprocess.PIPE)
    refused(Ran(wrong.returncode, wrong.stdout, wrong.stderr), "nothing")
    usage = process("export", stdout=subprocess.PIPE)
    assert (usage.returncode, usage.stdout) == (2, "")
    strict = process("inspect", small_bert, "--strict", stdout=subprocess.PIPE)
    assert (strict.returncode, strict.stderr) == (3, "")
    assert "untrained" in strict.stdout


COMMANDS = ("--version", "inspect MODEL", "inspect MODEL --json", "inspect MODEL --format csv --table findings")


@pytest.mark.parametrize("words", COMMANDS)
def test_a_reader_that_leaves_early_is_no_error(words: str, tiny_bert: Path) -> None:
    """As `| head -1` does, before anything is written or in the middle of it."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        ran = process(*words.replace("MODEL", str(tiny_bert)).split(), stdout=pipe)
    assert ran.stderr == ""
    assert ran.returncode in (0, 1, 141)


def test_head_gets_its_line(tiny_bert: Path) -> None:
    command = f"'{sys.executable}' -m bertprobe inspect '{tiny_bert}' --format json | head -1"
    ran = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.stdout, ran.stderr) == ("{\n", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("words", COMMANDS)
def test_a_full_disk_behind_stdout_is_one_line(words: str, tiny_bert: Path) -> None:
    with open("/dev/full", "w") as full:
        ran = process(*words.replace("MODEL", str(tiny_bert)).split(), stdout=full)
    refused(Ran(ran.returncode, "", ran.stderr), "No space left on device")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_terminal_of_few_letters_gets_what_it_can_show(encoding: str, tiny_bert: Path) -> None:
    ran = process("inspect", tiny_bert, stdout=subprocess.PIPE, encoding=encoding)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "intermediate" in ran.stdout
