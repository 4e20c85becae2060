"""`bertprobe inspect` against the script a user would write, as whole processes, side by side.

    python tests/benchmarks/inspect_speed.py [--rounds 7] [--shape base] [--shape large]

Makes checkpoints of BERT's shapes in a temporary folder, then runs the contestants in turn, round after round, and
prints medians of times, of ratios round by round, and peak memory. Files are in the page cache and bytecode is compiled
by a round that is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SHAPES = {
    "base": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    "large": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
}

# What people write: from_pretrained, then a loop over the parameters of the two modules.
SCRIPT = """
import sys
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1])
for name, parameter in model.named_parameters():
    if "intermediate.dense" in name or "pooler.dense" in name:
        x = parameter.detach()
        print(name, tuple(x.shape), x.mean().item(), x.std().item(), x.min().item(), x.max().item(), x.norm().item(),
              (x == 0).sum().item())
"""
FLOOR = "import typer, rich.console, rich.table, numpy"


@dataclass(frozen=True)
class Run:
    """One finished process: wall seconds and peak resident memory in MB."""

    seconds: float
    megabytes: float


def timed(command: Sequence[str], environment: Mapping[str, str]) -> Run:
    """Runs a command to its end and asks the operating system what it took."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode}: {' '.join(command)}")
    return Run(time.perf_counter() - start, usage.ru_maxrss / 1024)


# In a process of its own: a child's peak memory counts its parent's until it starts its own program.
MAKE = """
import json, pathlib, sys
import torch
from transformers import BertConfig, BertModel
folder = pathlib.Path(sys.argv[1])
model = BertModel(BertConfig(**json.loads(sys.argv[2])))
model.save_pretrained(folder / "safetensors", max_shard_size="100GB")
(folder / "bin").mkdir()
torch.save(model.state_dict(), folder / "bin" / "pytorch_model.bin")
(folder / "bin" / "config.json").write_text((folder / "safetensors" / "config.json").read_text())
"""


def make(shape: str, folder: Path) -> dict[str, Path]:
    """A checkpoint of a shape as safetensors and as .bin, with random weights (the hard case for σ₁)."""
    command = [sys.executable, "-c", MAKE, str(folder), json.dumps(SHAPES[shape])]
    subprocess.run(command, check=True, capture_output=True)
    return {"safetensors": folder / "safetensors", "bin": folder / "bin"}


def contestants(folders: Mapping[str, Path]) -> dict[str, list[str]]:
    """Name and command of everything that is run in a round."""
    here = [sys.executable, "-m", "bertprobe"]
    safetensors, pickled = str(folders["safetensors"]), str(folders["bin"])
    return {
        "transformers script": [sys.executable, "-c", SCRIPT, safetensors],
        "bertprobe inspect": [*here, "inspect", safetensors],
        "bertprobe inspect, .bin": [*here, "inspect", pickled],
        "bertprobe inspect --shapes": [*here, "inspect", "--shapes", safetensors],
        "bertprobe --help": [*here, "--help"],
        "floor: python, typer, rich, numpy": [sys.executable, "-c", FLOOR],
    }


def compare(shape: str, rounds: int) -> None:
    """Prints a table for one shape."""
    left_out = ("OPENBLAS_", "PYTHONDONTWRITEBYTECODE")  # the first round compiles what the others run
    environment = {k: v for k, v in os.environ.items() if not k.startswith(left_out)}
    environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "COLUMNS": "80"}
    with tempfile.TemporaryDirectory() as folder:
        commands = contestants(make(shape, Path(folder)))
        runs: dict[str, list[Run]] = {name: [] for name in commands}
        for turn in range(rounds + 1):
            for name, command in commands.items():
                run = timed(command, environment)
                if turn:
                    runs[name].append(run)
    script = runs["transformers script"]
    print(f"\nbert-{shape}, {rounds} rounds\n")
    print("| | seconds (min – median – max) | peak MB | script's time ÷ this (median of rounds) |")
    print("|---|---:|---:|---:|")
    for name, mine in runs.items():
        seconds = sorted(run.seconds for run in mine)
        ratio = statistics.median(a.seconds / b.seconds for a, b in zip(script, mine, strict=True))
        spread = f"{seconds[0]:.2f} – {statistics.median(seconds):.2f} – {seconds[-1]:.2f}"
        print(f"| {name} | {spread} | {max(run.megabytes for run in mine):.0f} | {ratio:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shape", action="append", choices=list(SHAPES))
    options = parser.parse_args()
    print(f"{os.cpu_count()} processors, Python {sys.version.split()[0]}")
    for shape in options.shape or list(SHAPES):
        compare(shape, options.rounds)


if __name__ == "__main__":
    main()
