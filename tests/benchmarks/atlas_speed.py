"""`bertprobe neurons atlas` at the size of bert-base: how large, how long it takes, how fast it opens and finds.

    python tests/benchmarks/atlas_speed.py [--scan FOLDER --model FOLDER] [--texts 200] [--rounds 3]

Without a scan a checkpoint of that shape is drawn at random, with the vocabulary of all-MiniLM-L6-v2, and scanned over
some paragraphs; its page is smaller than that of a large corpus, where every example stands in a text of its own. In
Chromium: from asking for the page until its lists stand, with the file in the system's cache; a search from a key until
the results are laid out; a card of a layer that was not unpacked yet.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

from text_speed import minilm, paragraphs

import bertprobe
from bertprobe.export.files import Output
from bertprobe.neurons.atlas import atlas_of
from bertprobe.neurons.folder import ScanFolder, open_scan
from bertprobe.render.html.atlas import write_atlas

sys.path.insert(0, str(Path(__file__).parents[1]))

from browser import Browser, executable

QUERIES = ("e", "th", "the", "london", "##ing", "mr knightley", "3.224", "nothing of that kind")


def drawn_at_random(folder: Path) -> Path:
    """A BERT of the shape of bert-base whose words are all-MiniLM-L6-v2's."""
    import shutil

    import torch
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    BertForMaskedLM(BertConfig(initializer_range=0.04)).save_pretrained(folder)
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(minilm() / name, folder / name)
    return folder


def scanned(model: bertprobe.Model, folder: Path, texts: int, books: Path) -> ScanFolder:
    corpus = folder / "texts.txt"
    corpus.write_text("".join(f"{' '.join(text.split())}\n" for text in paragraphs(texts, books)))
    return model.scan(bertprobe.open_corpus(corpus), folder / "scan", truncate=True, embed_text=True)


def opened(browser: Browser, page: Path) -> float:
    """Seconds until the lists stand."""
    browser.send("Page.navigate", url="about:blank")
    browser.open(page)
    return float(browser.value("performance.getEntriesByName('drawn')[0].startTime")) / 1000


def searched(browser: Browser, text: str) -> float:
    """Seconds from a key until the results are laid out."""
    browser.value("location.hash = '#search/'")
    browser.wait_for("document.documentElement.dataset.shown === '#search/'")
    return float(
        browser.value(
            "(() => { const box = document.getElementById('search-box'); const start = performance.now();"
            f"box.value = {json.dumps(text)}; box.dispatchEvent(new Event('input')); document.body.offsetHeight;"
            "return performance.now() - start })()"
        )
        / 1000
    )


def shown(browser: Browser, name: str) -> float:
    """Seconds until a card stands."""
    return float(
        browser.value(
            f"(async () => {{ const start = performance.now(); location.hash = '#{name}';"
            f"while (document.documentElement.dataset.shown !== '#{name}') await new Promise(d => setTimeout(d, 1));"
            "document.body.offsetHeight; return performance.now() - start })()"
        )
        / 1000
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scan", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--page", type=Path, help="A page that is there already.")
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--books", type=Path, default=Path(__file__).parents[2].parent / "shared" / "data" / "books")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        page = chosen.page or Path(place) / "atlas.html"
        if chosen.page is None:
            make(chosen, Path(place), page)
        if (program := executable()) is None:
            print("there is no Chromium to open it in")
            return
        with Browser(program, Path(place) / "profile") as browser:
            measure(browser, page, chosen.rounds)


def make(chosen: argparse.Namespace, place: Path, page: Path) -> None:
    model = bertprobe.open(str(chosen.model or drawn_at_random(place / "model")))
    scan = open_scan(chosen.scan) if chosen.scan else scanned(model, place, chosen.texts, chosen.books)
    start, busy = time.perf_counter(), time.process_time()
    atlas = atlas_of(scan, model.checkpoint, model.anatomy)
    gathered = time.perf_counter()
    size = write_atlas(atlas, Output(page))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{atlas.neurons:,} neurons, {scan.tokens:,} tokens; {size:,} bytes, {size / atlas.neurons:,.0f} a neuron")
    print(
        f"made in {time.perf_counter() - start:.1f} s, {gathered - start:.1f} of them gathering; "
        f"{time.process_time() - busy:.1f} s of the processor; at most {peak:.2f} GB of memory"
    )


def measure(browser: Browser, page: Path, rounds: int) -> None:
    times = [opened(browser, page) for _ in range(rounds)]
    print(f"opens in {statistics.median(times):.3f} s ({min(times):.3f} – {max(times):.3f})")
    for query in QUERIES:
        times = [searched(browser, query) for _ in range(max(rounds, 3))]
        found = browser.value(
            f"(f => [f.strongest.order.length, f.promoted.order.length])(atlas.search({json.dumps(query)}))"
        )
        print(f"search {query!r}: {1000 * statistics.median(times):.1f} ms (max {1000 * max(times):.1f}), {found}")
    layers = browser.value("atlas.about.layers.map(layer => layer.number)")
    times = [shown(browser, f"{layer}.5") for layer in layers]
    again = [shown(browser, f"{layer}.6") for layer in layers]
    print(f"a card: {1000 * statistics.median(times):.0f} ms, of a layer that is unpacked {1000 * max(again):.0f} ms")
    print("console:", browser.messages())


if __name__ == "__main__":
    main()
