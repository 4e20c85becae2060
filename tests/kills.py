"""Ends a command at every step it takes on the file system, or at random moments, and looks at what is left.

    python tests/kills.py [--kills 100] [COMMAND…]

kills each writing command at random moments, by SIGKILL, SIGTERM and SIGINT in turn, with and without --force, and
prints a line for each: what was there before must be there still, or what the command was to write, whole.
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


def stepwise(argv: Sequence[str], folder: Path, as_report: Callable[[int], None]) -> int:
    """Kills a command before each of its steps below a folder, and has `look` see what is left; gives their number."""
    words = [sys.executable, "-c", _STEPWISE, json.dumps(list(argv)), str(folder), "1"]
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
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help=f"of {', '.join(WRITING)}")
    options = parser.parse_args()
    import bertprobe

    model = Path(bertprobe.__file__).parent / "pocket"
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
