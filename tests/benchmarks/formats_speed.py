"""`bertprobe inspect` of one model in every format, as whole processes, side by side.

    python tests/benchmarks/formats_speed.py [--rounds 7] [--only onnx --only gguf]

Makes a checkpoint of BERT-base's shape with random weights as safetensors and rewrites it in a temporary folder, some
440 MB each, then runs the contestants in turn, round after round, and prints medians of times, of ratios to
safetensors round by round, and peak memory. Files are in the page cache and bytecode is compiled by a round that is not
counted. Q8_0 and int8 are dequantised on the way, and are shown beside the others for what that costs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from inspect_speed import Run, timed

TESTS = Path(__file__).resolve().parents[1]

# In a process of its own: a child's peak memory counts its parent's until it starts its own program.
MAKE = """
import contextlib, os, sys, pathlib
sys.path.insert(0, sys.argv[2])
import numpy as np, torch
from transformers import BertConfig, BertModel
root, wanted = pathlib.Path(sys.argv[1]), sys.argv[3:]
def folder(name):
    (root / name).mkdir(exist_ok=True)
    return root / name
model = BertModel(BertConfig()).eval()
with open(os.devnull, "w") as quiet, contextlib.redirect_stderr(quiet):
    model.save_pretrained(folder("safetensors"), max_shard_size="100GB")
state = {name: values.numpy() for name, values in model.state_dict().items() if "position_ids" not in name}
named = {f"bert.{name}": values for name, values in state.items()}
if "onnx" in wanted:
    import graphs
    graphs.LAYERS, graphs.HIDDEN, graphs.HEADS = 12, 768, 12
    graphs.written(graphs.Bert(state).model(12), folder("onnx"), config=False)
if "hdf5" in wanted:
    import h5file
    h5file.save(folder("hdf5") / "tf_model.h5", h5file.tf_model(named))
if "flax" in wanted:
    import flaxfile
    tree = flaxfile.nested(flaxfile.as_flax(state))
    (folder("flax") / "flax_model.msgpack").write_bytes(flaxfile.to_bytes(tree))
if "npz" in wanted:
    np.savez(folder("npz") / "weights.npz", **state)
if "npz-deflated" in wanted:
    np.savez_compressed(folder("npz-deflated") / "weights.npz", **state)
for name, kind in (("gguf", "F32"), ("gguf-q8_0", "Q8_0")):
    if name in wanted:
        import ggufs
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(30517))]
        (root / "safetensors" / "vocab.txt").write_text("\\n".join(words))
        ggufs.converted(root / "safetensors", folder(name) / "model.gguf", kind)
"""
FORMATS = ("onnx", "hdf5", "flax", "gguf", "npz", "npz-deflated", "gguf-q8_0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", action="append", choices=FORMATS)
    options = parser.parse_args()
    left_out = ("OPENBLAS_", "PYTHONDONTWRITEBYTECODE")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(left_out)}
    environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "COLUMNS": "80"}
    print(f"{os.cpu_count()} processors, Python {sys.version.split()[0]}")
    with tempfile.TemporaryDirectory() as folder:
        wanted = options.only or FORMATS
        subprocess.run([sys.executable, "-c", MAKE, folder, str(TESTS), *wanted], check=True)
        names = ["safetensors", *wanted]
        for name in names[1:]:
            if not name.startswith("gguf"):
                shutil.copy(Path(folder, "safetensors", "config.json"), Path(folder, name))
        runs: dict[str, list[Run]] = {name: [] for name in names}
        for turn in range(options.rounds + 1):
            for name in names:
                run = timed([sys.executable, "-m", "bertprobe", "inspect", str(Path(folder, name))], environment)
                if turn:
                    runs[name].append(run)
    print("| | seconds (min – median – max) | peak MB | ÷ safetensors (median of rounds) |")
    print("|---|---:|---:|---:|")
    for name, mine in runs.items():
        seconds = sorted(run.seconds for run in mine)
        ratio = statistics.median(a.seconds / b.seconds for a, b in zip(mine, runs["safetensors"], strict=True))
        spread = f"{seconds[0]:.2f} – {statistics.median(seconds):.2f} – {seconds[-1]:.2f}"
        print(f"| {name} | {spread} | {max(run.megabytes for run in mine):.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
