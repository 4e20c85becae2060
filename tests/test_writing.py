"""Nothing that is read is ever written over, nothing that was there is lost, nothing is half there."""

from __future__ import annotations

import ast
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kills
import numpy as np
import pytest
from conftest import Run
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import bertprobe
from bertprobe import inputs
from bertprobe.checkpoint import open_checkpoint, read_tensors
from bertprobe.checkpoint.source import LocalFile
from bertprobe.cli import COMMANDS
from bertprobe.errors import CorruptFile, OutputError
from bertprobe.export import renaming
from bertprobe.export.files import Output, atomic_folder, atomic_write, check_folder
from bertprobe.run import Vectors, run_batch

PACKAGE = Path(bertprobe.__file__).parent
POCKET = PACKAGE / "pocket"

# How each command that writes is called: a model, a file of texts, the place.
WRITING: dict[str, Callable[[Path, Path, Path], list[str | Path]]] = {
    "export": lambda model, texts, place: ["export", model, "-o", place],
    "pool": lambda model, texts, place: ["pool", "--file", texts, "-m", model, "-o", place],
    "activations": lambda model, texts, place: ["activations", "--file", texts, "-m", model, "-o", place],
    "graft": lambda model, texts, place: ["graft", model, model, "--part", "intermediate", "-o", place],
    "report": lambda model, texts, place: ["report", model, "a text", "-o", place, *_figure(place)],
}


def _figure(place: Path) -> list[str]:
    return [] if place.suffix == ".html" else ["--figure", "weights"]


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def model(tmp_path: Path, tiny_bert: Path) -> Path:
    """A small model in two shards, with every file that may lie beside one."""
    folder = tmp_path / "model"
    folder.mkdir()
    tensors = load_file(tiny_bert / "model.safetensors")
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[:20], "model-00002-of-00002.safetensors": names[20:]}
    for shard, part in shards.items():
        save_file({name: tensors[name] for name in part}, folder / shard, {"format": "pt"})
    weight_map = {name: shard for shard, part in shards.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    shutil.copy(tiny_bert / "config.json", folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "text", "b"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    (folder / "special_tokens_map.json").write_text('{"cls_token": "[CLS]"}')
    (folder / "added_tokens.json").write_text("{}")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    return folder


# ------------------------------------------------------------------------------------------------ inputs


def test_every_command_that_writes_is_among_these() -> None:
    writing = {command.__name__ for command in COMMANDS if "output" in inspect.signature(command).parameters}
    # What goes on in its folder has no --force: tests/test_extract.py and test_parts.py are about it.
    assert writing == {*WRITING, "extract", "merge"}


@pytest.mark.parametrize("way", ["itself", "another spelling", "a link", "a hard link", "through a linked folder"])
@pytest.mark.parametrize("command", WRITING)
def test_no_command_writes_over_what_it_reads(command: str, way: str, model: Path, tmp_path: Path, run: Run) -> None:
    """Whatever file of the model or of the texts is named as the place, --force or not, and however it is spelled."""
    texts = tmp_path / "texts.csv"
    texts.write_text("a text\nb\n")
    before = {**bytes_in(model), "texts": texts.read_bytes()}
    (tmp_path / "linked").symlink_to(model)
    for target in (*model.iterdir(), texts, model / "1_Pooling" / "config.json"):
        # A link gets a name that the command would write to, or the suffix alone would be what saves the file.
        place = _spelled(target, way, SUFFIX[command], tmp_path)
        if place is None:
            continue
        ran = run([*WRITING[command](model, texts, place), "--force"])
        assert {**bytes_in(model), "texts": texts.read_bytes()} == before, (command, place)
        runs_text = command in ("pool", "activations", "report")
        reads = target.name.startswith("model") or target.name == "config.json" or (runs_text and target != texts)
        if reads or target.is_dir() or (target == texts and command in ("pool", "activations")):
            assert ran.code in (1, 2), (command, place, ran.out)
        assert not [name for name in names_in(model) if name.endswith(".part")]


SUFFIX = {"export": ".safetensors", "pool": ".csv", "activations": ".npz", "graft": "", "report": ".svg"}


def _spelled(target: Path, way: str, suffix: str, elsewhere: Path) -> Path | None:
    """A way to write a file's path; a link to it can have any suffix, the file itself has its own."""
    link = elsewhere / f"link{suffix}"
    link.unlink(missing_ok=True)
    if way == "a link":
        link.symlink_to(target)
        return link
    if way == "a hard link":
        if target.is_dir():
            return None
        os.link(target, link)
        return link
    if way == "itself":
        return target
    if way == "another spelling":
        return target.parent / ".." / target.parent.name / "." / target.name
    return elsewhere / "linked" / target.name if target.parent.name == "model" else None


@pytest.mark.parametrize("command", WRITING)
def test_the_model_in_a_single_file_is_safe_too(command: str, tiny_bert: Path, tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "m"
    shutil.copytree(tiny_bert, folder)
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\ntext\n")
    (tmp_path / "texts").write_text("a text\n")
    before = bytes_in(folder)
    for place in (folder / "model.safetensors", folder):
        ran = run([*WRITING[command](folder, tmp_path / "texts", place), "--force"])
        assert bytes_in(folder) == before
        assert ran.code in (1, 2)


@pytest.mark.skipif(not Path("/dev/stdin").exists(), reason="this system has no /dev/stdin")
def test_texts_that_come_by_redirection_are_not_replaced(tmp_path: Path) -> None:
    texts = tmp_path / "t.csv"
    texts.write_text("a b\nc d\n")
    with open(texts) as redirected:
        done = subprocess.run(
            [sys.executable, "-m", "bertprobe", "pool", "--file", "-", "-o", texts, "--force"],
            stdin=redirected, capture_output=True, text=True,
        )  # fmt: skip
    assert done.returncode == 1
    assert "is being read" in done.stderr
    assert texts.read_text() == "a b\nc d\n"


def test_a_file_counts_as_long_as_it_is_held(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"0123456789")
    file = LocalFile(path)
    assert inputs.input_at(path) == path
    with pytest.raises(OutputError, match="is being read"), atomic_write(Output(path, force=True)):
        pass
    del file
    assert inputs.input_at(path) is None
    with inputs.held():
        LocalFile(path)
        assert inputs.input_at(tmp_path / "." / "x") == path
        assert inputs.input_below(tmp_path) == path
        assert inputs.input_below(tmp_path / "elsewhere") is None
    assert inputs.input_at(path) is None


def test_an_open_checkpoint_holds_all_its_files(model: Path) -> None:
    checkpoint = open_checkpoint(str(model))
    weights = ("model-00001-of-00002.safetensors", "model.safetensors.index.json")
    for name in (*weights, "config.json", "1_Pooling/config.json"):
        assert inputs.input_at(model / name) is not None
    del checkpoint
    assert inputs.input_at(model / "config.json") is None


def calls(tree: ast.AST) -> set[str]:
    """What a module calls that changes the file system, as far as its source tells."""
    names = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name == "open" or name.endswith("os.fdopen"):
            mode = next((word.value for word in [*node.args[1:2], *(k.value for k in node.keywords if k.arg == "mode")]
                         if isinstance(word, ast.Constant)), "r")  # fmt: skip
            if set(str(mode)) & set("wax+"):
                names.add(f"{name}({mode})")
        last = name.rpartition(".")[2]
        changing = {"write_text", "write_bytes", "unlink", "rmdir", "mkdir", "makedirs", "symlink_to", "hardlink_to",
                    "touch", "TemporaryFile", "NamedTemporaryFile", "mkstemp", "mkdtemp", "TemporaryDirectory", "chmod",
                    "truncate"}  # fmt: skip
        if last in changing or name.startswith("shutil."):
            names.add(name)
        if name in {f"os.{word}" for word in ("rename", "replace", "remove", "link", "symlink", "open", "mkfifo")}:
            names.add(name)
    return names


def test_only_one_room_writes() -> None:
    rooms = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        found = calls(ast.parse(path.read_text()))
        if found:
            rooms[str(path.relative_to(PACKAGE))] = found
    assert set(rooms) == {
        "export/files.py", "export/places.py", "cli/__init__.py", "transformers_model/staging.py", "corpus/parquet.py"
    }, rooms  # fmt: skip
    assert rooms["export/places.py"] == {"self._files.makedirs"}, "where fsspec reaches, and not on this disk"
    assert rooms["corpus/parquet.py"] == {"TemporaryFile"}, "without a name, for a .parquet that was compressed"
    assert rooms["cli/__init__.py"] == {"os.open"}, "of os.devnull, for a reader that is gone"
    assert "TemporaryDirectory" in rooms["transformers_model/staging.py"], "a folder of its own, gone afterwards"


# ------------------------------------------------------------------------------------------------ files


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    place = tmp_path / "x.npy"
    with pytest.raises(RuntimeError), atomic_write(Output(place)) as file:  # noqa: PT012
        file.write(b"half")
        raise RuntimeError
    assert names_in(tmp_path) == []
    with atomic_write(Output(place)) as file:
        file.write(b"whole")
        assert not place.exists()
    assert place.read_bytes() == b"whole"
    assert names_in(tmp_path) == ["x.npy"]


@pytest.mark.parametrize("known", [True, False], ids=["renameat2", "links"])
@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_what_came_meanwhile_stays(kind: str, known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not known:
        monkeypatch.setattr(renaming, "_function", lambda: None)
    place = tmp_path / "x.npy"
    with pytest.raises(OutputError, match="is there already"), atomic_write(Output(place)) as file:  # noqa: PT012
        file.write(b"ours")
        if kind == "file":
            place.write_bytes(b"theirs")
        elif kind == "folder":
            place.mkdir()
        else:
            place.symlink_to(tmp_path / "nowhere")
    assert names_in(tmp_path) == ["x.npy"]
    assert kind != "file" or place.read_bytes() == b"theirs"


def test_a_killed_runs_leftovers_never_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([b"\0\0\0\0", b"\0\0\0\0", b"\0\0\0\1"])
    monkeypatch.setattr("bertprobe.export.files.os.urandom", lambda size: next(drawn))
    (tmp_path / ".x.npy.00000000.part").write_bytes(b"left by somebody")
    with atomic_write(Output(tmp_path / "x.npy")) as file:
        file.write(b"ours")
    assert (tmp_path / "x.npy").read_bytes() == b"ours"
    assert (tmp_path / ".x.npy.00000000.part").read_bytes() == b"left by somebody"


def test_what_safetensors_refuses_gets_no_name(tmp_path: Path) -> None:
    place = tmp_path / "x.safetensors"
    with pytest.raises(OutputError, match="does not read what was to be written"), atomic_write(Output(place)) as file:
        file.write(b"\x02\0\0\0\0\0\0\0{")
    assert names_in(tmp_path) == []


def test_a_folder_that_is_not_utf8_can_be_used(tmp_path: Path, tiny_bert: Path, run: Run) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    try:
        shutil.copytree(tiny_bert, folder)
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n")
    out = tmp_path / "o.safetensors"
    for words in (["export", folder], ["pool", "a", "-m", folder], ["activations", "a", "-m", folder]):
        assert run([*words, "-o", out, "--force"]).code == 0
        with safe_open(out, "numpy") as file:
            assert file.metadata()["source"].endswith(r"caf\xe9")
    assert run(["export", folder, "-o", folder / "o.npz"]).code == 0


# ------------------------------------------------------------------------------------------------ folders


def filled(place: Any, *names: str) -> None:
    with atomic_folder(place) as folder:
        for name in names:
            with folder.file(name) as file:
                file.write(b"new")


@pytest.mark.parametrize("known", [True, False], ids=["renameat2", "renames"])
def test_a_folder_replaces_only_what_was_there(known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not known:
        monkeypatch.setattr(renaming, "_function", lambda: None)
    place, names = tmp_path / "out", ("a", "b")
    filled(check_folder(place, names, False), "a")
    with pytest.raises(OutputError, match="files in it"):
        check_folder(place, names, False)
    filled(check_folder(place, names, True), "a", "b")
    assert bytes_in(place) == {"a": b"new", "b": b"new"}
    (place / "c").write_bytes(b"mine")
    with pytest.raises(OutputError, match="other files, such as c"):
        check_folder(place, names, True)
    (place / "c").unlink()
    (place / "a").unlink()
    (place / "a").mkdir()
    with pytest.raises(OutputError, match="other files, such as a"):
        check_folder(place, names, True)
    assert names_in(tmp_path) == ["out"]


@pytest.mark.parametrize("known", [True, False], ids=["renameat2", "renames"])
@pytest.mark.parametrize("earlier", [None, "empty", "full"])
def test_what_came_into_the_place_of_a_folder_stays(
    earlier: str | None, known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that is made, or a file that comes into one, while another is being written."""
    if not known:
        monkeypatch.setattr(renaming, "_function", lambda: None)
    out = tmp_path / "out"
    if earlier is not None:
        out.mkdir()
    if earlier == "full":
        (out / "a").write_bytes(b"old")
    place = check_folder(out, ("a",), earlier == "full")
    with pytest.raises(OutputError, match=r"there already|changed while"), atomic_folder(place) as folder:  # noqa: PT012
        with folder.file("a") as file:
            file.write(b"new")
        out.mkdir(exist_ok=True)
        (out / "precious").write_bytes(b"mine")
    assert (out / "precious").read_bytes() == b"mine"
    assert earlier != "full" or (out / "a").read_bytes() == b"old"
    assert names_in(tmp_path) == ["out"]


@pytest.mark.parametrize("known", [True, False], ids=["renameat2", "renames"])
def test_what_comes_at_the_last_moment_stays(known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the last look at the old folder and its replacement, and between that and its deletion."""
    from bertprobe.export import files

    if not known:
        monkeypatch.setattr(renaming, "_function", lambda: None)
    out = tmp_path / "out"
    real = files._exchanged
    for moment in ("before", "after"):
        out.mkdir()
        (out / "a").write_bytes(b"old")

        def exchanged(new: Path, path: Path, moment: str = moment) -> Path:
            if moment == "before":
                (path / "late").write_bytes(b"mine")
            monkeypatch.setattr(files, "_exchanged", real)
            return real(new, path)

        monkeypatch.setattr(files, "_exchanged", exchanged)
        if moment == "after":
            monkeypatch.setattr(Path, "rmdir", _late)
        with pytest.raises(OutputError):
            filled(check_folder(out, ("a",), True), "a")
        monkeypatch.undo()
        if not known:
            monkeypatch.setattr(renaming, "_function", lambda: None)
        assert [p.read_bytes() for p in tmp_path.rglob("late")] == [b"mine"]
        assert (out / "a").read_bytes() == (b"old" if moment == "before" else b"new")
        for left in tmp_path.iterdir():
            shutil.rmtree(left)


def _late(folder: Path) -> None:
    """Removes a folder into which a file has just come."""
    (folder / "late").write_bytes(b"mine")
    os.rmdir(folder)  # noqa: PTH106  # which stands in for Path's own


def test_of_several_grafts_at_once_exactly_one_wins(tmp_path: Path) -> None:
    words = ["graft", str(POCKET), str(POCKET), "--part", "intermediate", "-o", str(tmp_path / "o")]
    words = [sys.executable, "-m", "bertprobe", *words]
    running = [subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(3)]
    codes = sorted(process.wait() for process in running)
    for process in running:
        if process.stderr is not None:
            process.stderr.close()
    assert codes == [0, 1, 1]
    assert names_in(tmp_path) == ["o"]


# ------------------------------------------------------------------------------------------------ kills


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform != "linux", reason="needs fork and renameat2")
@pytest.mark.parametrize("force", [False, True], ids=["new", "force"])
@pytest.mark.parametrize("command", ["export", "pool", "activations", "graft"])
def test_a_kill_at_any_step_loses_nothing(command: str, force: bool, tmp_path: Path) -> None:
    file, words = kills.WRITING[command]
    model = tmp_path / "model"
    shutil.copytree(POCKET, model)
    place = tmp_path / "out" / file
    place.parent.mkdir()
    argv = words(model, place)
    subprocess.run([sys.executable, "-m", "bertprobe", *argv], check=True, stdout=subprocess.DEVNULL)
    whole, weights = kills.state(place), kills.state(model)
    before = kills.old if force else None
    kills.fresh(place, before)
    earlier, faults = kills.state(place), []

    def look(step: int) -> None:
        fault = kills.wrong(place, whole, earlier, model, weights)
        faults.extend([f"step {step}: {fault}"] if fault else [])
        kills.fresh(place, before)

    steps = kills.stepwise([*argv, *(["--force"] if force else [])], tmp_path, look)
    assert not faults
    assert steps > 5, "the command was watched"
    assert kills.state(place) == whole


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_nothing(number: int, tmp_path: Path) -> None:
    """It comes while the result is written, and ends the process as such a signal does."""
    code = (
        "import os, signal, sys\nfrom bertprobe.cli import main\nimport bertprobe.export.tensors as tensors\n"
        "write = tensors.write_safetensors\n"
        "def slow(*args):\n    write(*args)\n    os.kill(os.getpid(), int(sys.argv[1]))\n"
        "    import time; time.sleep(20)\n"
        "tensors.write_safetensors = slow\n"
        f"main(['export', {str(POCKET)!r}, '-o', {str(tmp_path / 'p.safetensors')!r}])"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, str(int(number))], capture_output=True, text=True, timeout=60)
    assert time.monotonic() - started < 15
    assert done.returncode == (-signal.SIGTERM if number == signal.SIGTERM else 130)
    assert names_in(tmp_path) == []
    assert "Traceback" not in done.stderr


# ------------------------------------------------------------------------------------------------ weights that change


def spoiled(path: Path, how: str) -> None:
    if how == "truncated":
        os.truncate(path, 1000)
    else:
        with open(path, "r+b") as file:
            file.seek(path.stat().st_size // 2)
            file.write(b"\xff" * 5000)
        os.utime(path, ns=(1, path.stat().st_mtime_ns + 10**9))  # a write in the same tick of the clock is not seen


@pytest.mark.parametrize("how", ["truncated", "rewritten"])
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_weights_that_change_while_texts_are_run(how: str, backend: str, tmp_path: Path) -> None:
    """A training run that saves anew over the file: an error in one line, or numbers of the weights as they were."""
    folder = tmp_path / "m"
    shutil.copytree(POCKET, folder)
    texts = ["the ship left the harbour", "he was paid a shilling", "she walked on and on"] * 40
    model = bertprobe.open(str(folder))
    compute = bertprobe.Compute(backend=backend, batch_tokens=64)
    whole = model.pool(texts, compute=compute)
    runner = bertprobe.open_runner(model.checkpoint, model.anatomy, compute)
    vectors = Vectors("pooled")
    with pytest.raises(CorruptFile, match="changed while it was being read") if backend == "numpy" else _either():
        for number, packed in enumerate(runner.batches(texts)):
            run_batch(runner, packed, vectors)
            if number == 0:
                spoiled(folder / "model.safetensors", how)
    for place, row in vectors._rows._items.items():
        # Workers of one thread made the whole: on some processors a product in one thread rounds otherwise.
        assert np.abs(row - whole[place]).max() < 1e-5, "no number may come of the new bytes"


class _either:  # noqa: N801  # a context like pytest.raises
    """Weights that were read whole beforehand serve to the end; a row that was not read yet is an error."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        return kind is None or (issubclass(kind, CorruptFile) and "changed while" in str(error))


@pytest.mark.parametrize("how", ["truncated", "rewritten"])
def test_a_command_over_weights_that_change_writes_nothing(
    how: str, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bertprobe.export.vectors import VectorFile

    folder = tmp_path / "m"
    shutil.copytree(POCKET, folder)
    (tmp_path / "texts").write_text("the ship left the harbour at dawn\n" * 300)
    add = VectorFile.put

    def add_then_spoil(self: VectorFile, places: Any, values: Any) -> None:
        add(self, places, values)
        spoiled(folder / "model.safetensors", how)

    monkeypatch.setattr(VectorFile, "put", add_then_spoil)
    out = tmp_path / "o.npy"
    ran = run(["pool", "--file", tmp_path / "texts", "-m", folder, "-o", out, "--batch-tokens", "64"])
    assert ran.code == 1
    assert "changed while it was being read" in ran.err
    assert len(ran.err.splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize("how", ["truncated", "rewritten"])
def test_reading_a_file_that_changes(how: str, tmp_path: Path) -> None:
    save_file({f"t{i}": np.full((300, 300), i, np.float32) for i in range(80)}, tmp_path / "x.safetensors")
    checkpoint = open_checkpoint(str(tmp_path / "x.safetensors"))
    seen = 0
    with pytest.raises(CorruptFile, match="changed while it was being read"):  # noqa: PT012
        for name, array in read_tensors(checkpoint.headers):
            assert (array == int(name[1:])).all()
            seen += 1
            if seen == 1:
                spoiled(tmp_path / "x.safetensors", how)
    assert 0 < seen < 80
