"""`bertprobe diff` of two checkpoints against scripts that people write for it, as whole processes, side by side.

    python tests/benchmarks/diff_speed.py [--rounds 5]

Makes two checkpoints of bert-base's shape in a temporary folder, the second with every tensor moved a little, then runs
the contestants in turn. Neither script looks for a rank in a matrix that it has not the time for: the second takes the
singular values of Δ of the two modules, as `diff` does for their effective rank, and of no other matrix.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from inspect_speed import MAKE, SHAPES, Run, timed

MOVE = """
import sys, torch
from safetensors.torch import load_file, save_file
torch.manual_seed(1)
tensors = load_file(sys.argv[1] + "/model.safetensors")
moved = {name: t + 1e-3 * torch.randn_like(t) for name, t in tensors.items()}
save_file(moved, sys.argv[2] + "/model.safetensors", {"format": "pt"})
"""
SCRIPT = """
import sys, torch
from transformers import AutoModel
a, b = (AutoModel.from_pretrained(ref).state_dict() for ref in sys.argv[1:3])
for name, x in a.items():
    d = b[name] - x
    print(name, torch.equal(x, b[name]), (d.norm() / x.norm()).item(), d.abs().max().item(),
          torch.cosine_similarity(x.flatten(), b[name].flatten(), dim=0).item())
"""
RANKS = (
    SCRIPT
    + """
    if d.dim() == 2 and ("intermediate.dense" in name or "pooler.dense" in name):
        s = torch.linalg.svdvals(d)
        p = s / s.sum()
        print(torch.exp(-(p * p.log()).sum()).item())
"""
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    left_out = ("OPENBLAS_", "PYTHONDONTWRITEBYTECODE")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(left_out)}
    environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "COLUMNS": "80"}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in ("one", "other"):
            command = [sys.executable, "-c", MAKE, str(folder / name), json.dumps(SHAPES["base"])]
            subprocess.run(command, check=True, capture_output=True)
        a, b = (str(folder / name / "safetensors") for name in ("one", "other"))
        subprocess.run([sys.executable, "-c", MOVE, a, b], check=True)
        here = [sys.executable, "-m", "bertprobe", "diff"]
        commands = {
            "script: from_pretrained twice, change, cosine, largest": [sys.executable, "-c", SCRIPT, a, b],
            "the same with singular values of Δ of the modules": [sys.executable, "-c", RANKS, a, b],
            "bertprobe diff": [*here, a, b],
            "bertprobe diff of a checkpoint and itself": [*here, a, a],
            "bertprobe diff --part pooler": [*here, a, b, "--part", "pooler"],
        }
        runs: dict[str, list[Run]] = {name: [] for name in commands}
        for turn in range(rounds + 1):
            for name, command in commands.items():
                run = timed(command, environment)
                if turn:
                    runs[name].append(run)
    script = next(iter(runs.values()))
    print("| | seconds (min – median – max) | peak MB | script's time ÷ this |")
    print("|---|---:|---:|---:|")
    for name, mine in runs.items():
        seconds = sorted(run.seconds for run in mine)
        ratio = statistics.median(one.seconds / other.seconds for one, other in zip(script, mine, strict=True))
        spread = f"{seconds[0]:.2f} – {statistics.median(seconds):.2f} – {seconds[-1]:.2f}"
        print(f"| {name} | {spread} | {max(run.megabytes for run in mine):.0f} | {ratio:.1f} |")


if __name__ == "__main__":
    main()
