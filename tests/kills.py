"""Ends a command at every step it takes on the file system, or at random moments, and looks at what is left.

    python tests/kills.py [--kills 100] [COMMAND…]
    python tests/kills.py --kills 50 extract

kills each writing command at random moments, by SIGKILL, SIGTERM and SIGINT in turn, with and without --force, and
prints a line for each: what was there before must be there still, or what the command was to write, whole. A run of
`extract` is gone on with after each kill, and must end with the bytes of one that nobody killed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

WRITING: dict[str, tuple[str, Callable[[Path, Path], list[str]]]] = {
    "export": ("p.safetensors", lambda m, o: ["export", str(m), "-o", str(o)]),
    "export model": ("w.safetensors", lambda m, o: ["export", str(m), "-o", str(o), "--part", "model"]),
    "export npz": ("p.npz", lambda m, o: ["export", str(m), "-o", str(o)]),
    "pool": ("v.npy", lambda m, o: ["pool", "a b", "c", "-m", str(m), "-o", str(o)]),
    "activations": ("a.safetensors", lambda m, o: ["activations", "a b", "-m", str(m), "-o", str(o)]),
    "graft": ("folder", lambda m, o: ["graft", str(m), str(m), "--part", "intermediate", "-o", str(o)]),
    "report": ("r.html", lambda m, o: ["report", str(m), "-o", str(o)]),
}
"""What each command that writes is called with, for a model and a place of that name."""

# Runs a command again and again, each time in a fork that ends at the next step on the file system.
_STEPWISE = """
import json, os, signal, sys
argv, folder, first = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
from importlib import import_module
for name in sys.argv[4:]:
    import_module(name)
import numpy
import bertprobe.cli, bertprobe.export.graft, bertprobe.export.matrices, bertprobe.export.renaming as renaming
import bertprobe.export.vectors, bertprobe.render.terminal, bertprobe.report.text, safetensors.numpy
STEPS = {"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.listdir", "os.scandir"}

def run(last):
    count = 0
    def step():
        nonlocal count
        count += 1
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)
    def look(event, args):
        paths = [os.fsdecode(a) for a in args if isinstance(a, (str, bytes, os.PathLike))]
        if event in STEPS and any(folder in path for path in paths):
            step()
    real, synced = renaming._renameat2, os.fsync
    def renamed(*args):
        step(); real(*args); step()
    def fsync(handle):
        step(); synced(handle)
    renaming._renameat2, os.fsync = renamed, fsync
    sys.addaudithook(look)
    sys.stdout = open(os.devnull, "w")
    bertprobe.cli.main(argv)

sys.stdin.readline()
for last in range(first, 10_000):
    child = os.fork()
    if child == 0:
        try: run(last)
        except SystemExit as end: os._exit(int(end.code or 0))
        except BaseException: os._exit(99)
    _, status = os.waitpid(child, 0)
    print(json.dumps([last, os.WIFSIGNALED(status), os.waitstatus_to_exitcode(status)]), flush=True)
    if not os.WIFSIGNALED(status):
        break
    sys.stdin.readline()
"""


def stepwise(argv: Sequence[str], folder: Path, as_report: Callable[[int], None], preload: Sequence[str] = ()) -> int:
    """Kills a command before each of its steps below a folder, and has `look` see what is left; gives their number."""
    words = [sys.executable, "-c", _STEPWISE, json.dumps(list(argv)), str(folder), "1", *preload]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as runner:
        if runner.stdin is None or runner.stdout is None:
            raise RuntimeError("no pipes")
        while True:
            runner.stdin.write("\n")
            runner.stdin.flush()
            line = runner.stdout.readline()
            if not line:
                raise RuntimeError("the runner ended")
            step, killed, code = json.loads(line)
            if not killed:
                if code != 0:
                    raise RuntimeError(f"exit {code} without a kill")
                return int(step)
            as_report(step)


def state(path: Path) -> Any:
    """What is at a path, comparable: the bytes of a file, of each file in a folder, None for nothing."""
    if path.is_dir():
        return {entry.name: state(entry) for entry in path.iterdir()}
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def fresh(place: Path, before: Callable[[Path], None] | None) -> None:
    """The place as it was before the command: nothing there, or what `before` puts there; what was left is removed."""
    for entry in place.parent.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    if before is not None:
        before(place)


def old(place: Path) -> None:
    """A file or folder that was there before."""
    if place.suffix:
        place.write_bytes(b"what was there before")
    else:
        place.mkdir()
        (place / "config.json").write_text('{"old": true}')
        (place / "vocab.txt").write_text("old\n")


def wrong(place: Path, whole: Any, earlier: Any, model: Path, weights: Any) -> str:
    """What is lost or half there after a kill; empty where all is well."""
    if state(model) != weights:
        return "the model changed"
    found = state(place)
    if found in (whole, earlier):
        return ""
    return "half a result" if found is not None else "what was there is gone"


# ------------------------------------------------------------------------------------------------ gone on with

# Runs a command in a fork for each line, which says after how many seconds it gets which signal; 0 is none.
_AGAIN = """
import json, os, signal, sys, time
argv = json.loads(sys.argv[1])
import torch
import bertprobe.cli, bertprobe.cli.extract, bertprobe.extract, bertprobe.report.extract, bertprobe.render.terminal
import bertprobe.run, bertprobe.run.sentence, pyarrow.parquet, safetensors.numpy, tokenizers
print("ready", flush=True)
for line in sys.stdin:
    after, number = json.loads(line)
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.stdout = sys.stderr = open(os.devnull, "w")
        try: bertprobe.cli.main(argv)
        except SystemExit as end: os._exit(int(end.code or 0))
        except BaseException: os._exit(99)
    if number:
        time.sleep(after)
        os.kill(child, number)
    _, status = os.waitpid(child, 0)
    print(json.dumps([os.waitstatus_to_exitcode(status), time.monotonic() - start]), flush=True)
"""

PRELOADED = ("torch", "bertprobe.cli.extract", "bertprobe.extract", "bertprobe.report.extract", "pyarrow.parquet")


class Again:
    """A command that is run again and again, each time in a fork of a process that has loaded what it needs."""

    def __init__(self, argv: Sequence[str]) -> None:
        words = [sys.executable, "-c", _AGAIN, json.dumps(list(argv))]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Again:
        self._line()
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate()

    def run(self, after: float = 0, number: int = 0) -> tuple[int, float]:
        """Runs it, with a signal after so many seconds; gives the exit code and how long it took."""
        if self._process.stdin is None:
            raise RuntimeError("no pipes")
        print(json.dumps([after, int(number)]), file=self._process.stdin, flush=True)
        code, took = json.loads(self._line())
        return code, took

    def _line(self) -> str:
        if self._process.stdout is None:
            raise RuntimeError("no pipes")
        return self._process.stdout.readline()


def extract_words(corpus: Path, place: Path) -> list[str]:
    """A run of several shards, with rows of tokens and of documents."""
    parts = ["--part", "pooler", "--part", "intermediate", "--neurons", "1:3-40"]
    return ["extract", str(corpus), "-o", str(place), *parts, "--threads", "1", "--shard-text", "4000", "--no-verify"]


SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def continued(argv: Sequence[str], place: Path, kills: int, chance: random.Random) -> list[str]:
    """Runs `extract` or `neurons scan`, killed at random moments, every other time twice; gives what was wrong."""
    faults = []
    with Again(argv) as command:
        code, took = command.run()
        whole = state(place)
        if code != 0 or whole is None:
            return [f"exit {code} without a kill"]
        done = 0
        while done < kills:
            shutil.rmtree(place, ignore_errors=True)
            number = SIGNALS[done % len(SIGNALS)]
            for _ in range(1 + done % 2):
                code, _ = command.run(chance.uniform(0.05, 0.95) * took, number)
                if code == 0:  # it was done before the signal came
                    took *= 0.95
                else:
                    done += 1
            code, _ = command.run()
            if code != 0 or state(place) != whole:
                faults.append(f"{number.name}: exit {code}, {sorted(path.name for path in place.iterdir())}")
    return faults


# ------------------------------------------------------------------------------------------------ by hand


def kill(argv: Sequence[str], after: float, number: int) -> int:
    """Runs a command and sends it a signal after so many seconds; gives its exit code."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bertprobe", *argv],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    time.sleep(after)
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
    return process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="of each command")
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help=f"of {', '.join(WRITING)}, extract")
    options = parser.parse_args()
    import bertprobe

    model = Path(bertprobe.__file__).parent / "pocket"
    if options.commands == ["extract"]:
        with tempfile.TemporaryDirectory(prefix="kills.") as folder:
            corpus, place = Path(folder) / "corpus.txt", Path(folder) / "out"
            corpus.write_text("".join(f"the ship left harbour {i} times and she walked on\n" for i in range(400)))
            argv = extract_words(corpus, place)
            faults = continued(argv, place, options.kills, random.Random(0))
        print(f"extract      {options.kills} kills, each gone on with; other bytes at the end: {faults or 'none'}")
        return
    weights = state(model)
    chance = random.Random(0)
    for name in options.commands or WRITING:
        with tempfile.TemporaryDirectory(prefix="kills.") as folder:
            file, words = WRITING[name]
            place = Path(folder) / "out" / file
            place.parent.mkdir()
            argv = words(model, place)
            start = time.monotonic()
            subprocess.run([sys.executable, "-m", "bertprobe", *argv], check=True, stdout=subprocess.DEVNULL)
            took, whole = time.monotonic() - start, state(place)
            faults, left, kills, ended = [], {signal.SIGKILL: 0, signal.SIGTERM: 0, signal.SIGINT: 0}, 0, 0
            while kills < options.kills:
                number = list(left)[kills % 3]
                force = kills % 2 == 1
                fresh(place, old if force else None)
                earlier = state(place)
                code = kill([*argv, *(["--force"] if force else [])], chance.uniform(0.3, 1) * took, number)
                fault = wrong(place, whole, earlier, model, weights)
                if fault:
                    faults.append(f"{number.name} {fault}")
                if (
                    code == 0
                ):  # it was done before the signal came: as a kill that does not count, and the next is earlier
                    ended += 1
                    took *= 0.97
                    continue
                kills += 1
                took *= 1.01
                left[number] += any(entry != place for entry in place.parent.iterdir())
            kinds = ", ".join(f"{number.name} {count}" for number, count in left.items())
            print(
                f"{name:12s} {kills} kills, {ended} more after its end; lost or half: {faults or 'none'}; "
                f"files left beside the place: {kinds}",
                flush=True,
            )


if __name__ == "__main__":
    main()
