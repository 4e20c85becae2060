"""The causal screen against taking out every neuron, one by one: how the rankings agree, and how long each takes.

    python tests/benchmarks/screen_speed.py CORPUS [--model pocket] [--texts 128] [--on pooled] [--every 1]

Every neuron of the model is taken out in turn, which for the built-in one takes minutes; `--every 8` takes out each
eighth. The screen and the re-runs are of the same texts, on the same threads, by the same forward pass.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from bertprobe.anatomy import find_parts
from bertprobe.checkpoint import open_checkpoint
from bertprobe.corpus import open_corpus
from bertprobe.run import Compute
from bertprobe.screen import Options, prepare_screen
from bertprobe.screen.exact import effects, rows_of
from bertprobe.screen.texts import drawn
from bertprobe.stats.ranks import spearman


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="+")
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--texts", type=int, default=128)
    parser.add_argument("--on", default="pooled")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    checkpoint = open_checkpoint(given.model)
    texts = [document.text for document in drawn(open_corpus(given.corpus), given.texts, 0)]
    options = Options(given.on, exact=0, drawn=0, truncate=True, compute=Compute("torch", threads=given.threads))
    job = prepare_screen(checkpoint, find_parts(checkpoint), texts, options)
    job.run()  # weights are read, pages are touched
    screen = job.run()
    names = [(layer, n) for layer in screen.effects for n in range(0, len(screen.effects[layer]), given.every)]
    untouched = rows_of(job.runner, job.texts, job.output)
    start = time.perf_counter()
    exact = {
        (one.layer, one.neuron): one.effect
        for one in effects(job.runner, job.texts, job.output, untouched, [(name, False) for name in names])
    }
    seconds = (time.perf_counter() - start) / len(names) * screen.neurons
    estimates = np.array([screen.effects[layer][neuron] for layer, neuron in names])
    print(
        f"{given.model}, {given.on}: {screen.texts} texts, {screen.tokens:,} tokens, {len(names):,} neurons one by one"
    )
    print(f"Spearman's correlation   {spearman(estimates, list(exact.values())):.4f}")
    for layer in screen.effects:
        own = [place for place, name in enumerate(names) if name[0] == layer]
        print(f"  layer {layer:<2}               {spearman(estimates[own], [exact[names[i]] for i in own]):.4f}")
    print(f"screen                   {screen.seconds[0]:.2f} s")
    print(f"all neurons one by one   {seconds:.0f} s, {seconds / screen.seconds[0]:.0f} times as long")


if __name__ == "__main__":
    main()
