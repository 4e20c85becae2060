"""A process in which every request and every kernel is noted and refused, and jobs that tests have done there.

`python trapped.py JOB FOLDER` does one job and prints what came of it and what was noted, as JSON. A package `kernels`
that is a trap stands where the real one would be installed (`set_trap`).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TRAP = '''
import sys, types
notes = []

def use_kernel_forward_from_hub(*names, **options): return lambda cls: cls
use_kernelized_func = use_kernel_func_from_hub = use_kernel_forward_from_hub

class Mode:
    """Flags to be put together, as where layers are listed."""
    def __or__(self, other): return self
Mode.INFERENCE = Mode.TRAINING = Mode.TORCH_COMPILE = Mode()

def __getattr__(name):
    if name.startswith("__"): raise AttributeError(name)
    def used(*given, **options):
        notes.append(f"kernels.{name}{given}")
        return types.ModuleType("kernel")
    return used
'''
ASKING = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.sendto")
EVIL = "import os, pathlib\npathlib.Path(os.environ['MARKER']).write_text(__name__)\n"


def set_trap(folder: Path) -> Path:
    """A folder for PYTHONPATH in which `kernels` is installed, in a version that transformers takes."""
    from transformers.utils import import_utils

    version = getattr(import_utils, "KERNELS_MIN_VERSION", "0.10.0")
    info = folder / f"kernels-{version}.dist-info"
    (folder / "kernels").mkdir(parents=True)
    info.mkdir()
    (folder / "kernels" / "__init__.py").write_text(f"__version__ = {version!r}\n{TRAP}")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: kernels\nVersion: {version}\n")
    (info / "top_level.txt").write_text("kernels\n")
    (info / "RECORD").write_text("")
    return folder


def run(job: str, folder: Path, **environment: str) -> dict[str, Any]:
    """A job in a process of its own; its answer, with `notes` of what it tried to reach."""
    paths = [set_trap(folder / "trap"), Path(__file__).parent, Path(__file__).parents[1]]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_OFF"))}
    given = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "MARKER": str(folder / "marker"), "HF_HOME": str(folder)}
    command = [sys.executable, __file__, job, str(folder)]
    done = subprocess.run(command, env={**inherited, **given, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# ------------------------------------------------------------------------------------------------ inside

notes: list[str] = []


def watch() -> None:
    """From here on whatever asks the network is noted and refused, whether our door stops it or it gets further."""
    from bertprobe.transformers_model import door

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if event in ASKING:
            notes.append(f"{event}{given[-1:]}")
            raise OSError("no network here")

    sys.addaudithook(hook)
    came = door.Shut.__init__

    def noted(self: Any, wanted: str) -> None:
        notes.append(f"at the door: {wanted}")
        came(self, wanted)

    door.Shut.__init__ = noted  # type: ignore[method-assign]


def zoo_job(folder: Path) -> dict[str, Any]:
    """Every family on a text, with a tokenizer of whole words; of what needs more than text, its own inputs."""
    import zoo

    ran = []
    for family in zoo.FAMILIES:
        place = folder / "zoo" / family
        zoo.save(family, place)
        ran.append([family, *_on_a_text(family, place, zoo.save_tokenizer(place))])
    return {"ran": ran}


def _on_a_text(family: str, folder: Path, text: str) -> tuple[int, list[str]]:
    """Rows of the last hidden state, and tensors that are not finite."""
    import zoo

    from bertprobe.anatomy import find_parts
    from bertprobe.anatomy.families import FAMILIES
    from bertprobe.checkpoint import open_checkpoint
    from bertprobe.run import AllVectors, Compute, open_runner, run_batch
    from bertprobe.transformers_model import load_reference

    checkpoint = open_checkpoint(str(folder))
    anatomy = find_parts(checkpoint)
    reference = load_reference(checkpoint, anatomy)
    if FAMILIES[family].more_than_text:
        hidden = reference.run_inputs(zoo.inputs(family, reference.model)).last_hidden_state
    else:
        runner = open_runner(checkpoint, anatomy, Compute(backend="torch", device="cpu"))
        packed = next(iter(runner.batches([text])))
        hidden = reference.run(packed.ids.tolist(), packed.segments.tolist()).last_hidden_state
        run_batch(runner, packed, AllVectors())
    return len(hidden), list(reference.nonfinite)


def trap_job(folder: Path) -> dict[str, Any]:
    """The trap itself: what is tried outside the door is noted, so that no note means that nothing was tried."""
    import kernels

    for attempt in (
        lambda: socket.create_connection(("127.0.0.1", 9), 1),
        lambda: socket.getaddrinfo("localhost", 80),
        lambda: kernels.get_kernel("some-org/some-kernel"),
    ):
        try:
            attempt()
        except OSError:
            continue
    return {"ran": []}


def hostile_job(folder: Path) -> dict[str, Any]:
    """Every case of `hostile.CONFIGS` on every family there: the same bits as without it, or what was said."""
    import hostile

    return {"ran": list(_each(hostile.configs(folder)))}


def tokenizers_job(folder: Path) -> dict[str, Any]:
    """The same for the small files beside a tokenizer."""
    import hostile

    return {"ran": list(_each(hostile.tokenizers(folder)))}


def _each(cases: Iterator[tuple[str, str, Callable[[], bool]]]) -> Iterator[list[str]]:
    """Of each case its name, what must come of it, what did, and what was noted meanwhile."""
    from bertprobe.errors import BertprobeError

    for name, outcome, is_same in cases:
        before = len(notes)
        try:
            said = "same" if is_same() else "other numbers"
        except BertprobeError as error:
            said = f"refused: {error}"
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        yield [name, outcome, said, *notes[before:]]


def main(job: str, folder: str) -> None:
    import kernels

    warnings.simplefilter("ignore")
    import torch  # noqa: F401  # what the libraries do when they are imported is theirs
    import transformers.integrations.hub_kernels as hub_kernels

    assert hub_kernels.is_kernels_available(), "the trap must be taken for the real one"
    watch()
    found = globals()[f"{job}_job"](Path(folder))
    print(json.dumps({**found, "notes": notes + kernels.notes}))


if __name__ == "__main__":
    main(*sys.argv[1:])
