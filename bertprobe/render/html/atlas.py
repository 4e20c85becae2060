"""The atlas as a page: all neurons of a scan in one file that asks for nothing, unpacked a layer at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bertprobe._version import __version__
from bertprobe.errors import OutputError, printable
from bertprobe.export.files import Output, atomic_write, check_place
from bertprobe.neurons.ablation import ablated_in
from bertprobe.neurons.atlas import Atlas, Examples, LayerAtlas
from bertprobe.neurons.entries import Entries
from bertprobe.neurons.folder import ScanFolder
from bertprobe.render.data_formats import finite
from bertprobe.render.html.document import data_script, head, resource
from bertprobe.render.html.packing import Chunk, pack, rounded
from bertprobe.render.markup import Markup, element, joined, table
from bertprobe.render.words import four_digits

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

SCRIPTS = ("atlas_data.js", "atlas.js")
BITS = 16  # behind the point of what is on a card: five significant digits
PACKED = "application/octet-stream"


def check_page(output: Output, folder: ScanFolder) -> None:
    """Before anything is read: raises `OutputError` where a page cannot be written, or would replace the scan."""
    if output.path.suffix not in (".html", ".htm"):
        raise OutputError(f"{printable(str(output.path))} is no name of a page", "let it end in .html")
    inputs = folder.inputs()
    check_place(output)
    del inputs  # they count as long as they are held


def write_atlas(atlas: Atlas, output: Output) -> int:
    """Writes the page, whole or not at all; gives the bytes written. Raises `OutputError` as `atomic_write` does."""
    written = 0
    with atomic_write(output) as file:
        for piece in atlas_page(atlas):
            written += file.write(piece.encode())
    return written


def atlas_page(atlas: Atlas) -> Iterator[str]:
    """The page, piece by piece: what it shows at once stands before the layers' data, which it unpacks when asked."""
    scripts = [resource(name) for name in SCRIPTS]
    model = str(atlas.folder.manifest["model"]["ref"])
    tables = _Tables.of(atlas)
    first = {
        "strings": _strings(tables, atlas.words),
        "numbers": pack(_numbers(atlas)),
        "search": pack(_search(atlas, tables)),
    }
    directories: dict[str, Any] = {}
    yield f'<!DOCTYPE html>\n<html lang="en">{head(f"Neurons of {model}", scripts, resource("atlas.css"))}<body>\n'
    yield from map(str, _body(atlas, model))
    for name, chunk in first.items():
        yield _packed(name, chunk, directories)
    yield data_script("atlas", _about(atlas, model, directories))
    yield joined(element("script", Markup(script)) for script in scripts)
    for layer in atlas.layers:
        chunk = pack(_layer(layer, tables))
        yield data_script(f"layer-{layer.row.layer}-arrays", chunk.directory)
        yield element("script", Markup(chunk.text), type=PACKED, id=f"layer-{layer.row.layer}")
    yield "\n</body></html>\n"


def _packed(name: str, chunk: Chunk, directories: dict[str, Any]) -> str:
    directories[name] = chunk.directory
    return element("script", Markup(chunk.text), type=PACKED, id=name)


# ------------------------------------------------------------------------------------------------ what is seen first


def _body(atlas: Atlas, model: str) -> Iterator[Markup]:
    folder = atlas.folder
    counts = f"{folder.documents:,} texts of {folder.tokens:,} tokens"
    layers = f"{len(atlas.layers)} layer{'' if len(atlas.layers) == 1 else 's'}"
    yield element("a", "Skip to the content", class_="skip", href="#main")
    yield element(
        "header",
        element("h1", element("a", f"Neurons of {model}", href="#")),
        element("p", f"{layers}, {atlas.neurons:,} neurons, over {counts}{_ablated(folder)}.", class_="lead"),
        _search_box(),
        _navigation(atlas.layers),
    )
    yield element("p", role="status", aria_live="polite", id="status")
    yield element(
        "main",
        element("noscript", element("p", "Search and cards need JavaScript; the layers stand in this table.")),
        element("section", *_overview(atlas), id="overview"),
        element("section", id="view", hidden=""),
        id="main",
        tabindex="-1",
    )
    yield element("footer", _foot(atlas))


def _ablated(folder: ScanFolder) -> str:
    ablation = ablated_in(folder.manifest)
    return "" if ablation is None else f", while neurons were taken out: {ablation.told}"


def _search_box() -> Markup:
    box = element(
        "input",
        id="search-box",
        type="search",
        role="combobox",
        placeholder="a word, or a neuron such as 3.224",
        autocomplete="off",
        autocapitalize="none",
        spellcheck="false",
        maxlength="200",
        aria_label="Search a word, a piece of one, or a neuron",
        aria_controls="view",
        aria_expanded="false",
        aria_autocomplete="list",
        aria_keyshortcuts="/",
    )
    return element("div", box, element("kbd", "/", aria_hidden="true"), class_="search", role="search")


def _navigation(layers: Sequence[LayerAtlas]) -> Markup:
    items = [element("a", title, href=href) for title, href in (("Overview", "#"), ("All neurons", "#all"))]
    items.append(Markup("Layers" if len(layers) > 1 else "Layer"))
    numbers = [layer.row.layer for layer in layers]
    items += [element("a", str(n), href=f"#layer/{n}", aria_label=f"Layer {n}") for n in numbers]
    return element("nav", element("ul", *(element("li", item) for item in items)), aria_label="Lists of neurons")


def _overview(atlas: Atlas) -> Iterator[Markup]:
    thresholds = [f"{t:g}" for t in atlas.folder.kept.thresholds]
    titles = ("layer", "neurons", "never > 0", *(f"never > {t}" for t in thresholds), "always on", "mean", "max")
    heads = [element("th", title, scope="col", class_="n" if i else None) for i, title in enumerate(titles)]
    rows = [_layer_row(layer) for layer in atlas.layers]
    yield element("h2", "Layers")
    inside = table(element("caption", "How many neurons of each layer never were above a threshold"), heads, rows)
    yield element("div", inside, class_="scroll", role="region", tabindex="0", aria_label="Layers")
    yield element("div", id="selective")
    yield element("h2", "How to read a card")
    yield element("ul", *(element("li", sentence) for sentence in _advice(atlas)), class_="advice")


def _layer_row(layer: LayerAtlas) -> list[Markup]:
    row = layer.row
    name = element("th", element("a", str(row.layer), href=f"#layer/{row.layer}", data_item=""), scope="row")
    counts = [f"{count:,}" for count in (row.neurons, *row.never, row.always)]
    return [
        name,
        *(element("td", words, class_="n") for words in (*counts, four_digits(row.mean), four_digits(row.max))),
    ]


def _advice(atlas: Atlas) -> Iterator[str]:
    drawn = atlas.folder.kept.drawn
    yield (
        "The strongest tokens alone mislead: a description that fits them may fit nothing else. That is why a token of "
        "every tenth of the activations, tokens drawn at random and the most negative ones stand beside them."
    )
    yield (
        "Selectivity is how many standard deviations the mean of a neuron's strongest tokens lies above its mean over "
        "the corpus. Shares are of all its tokens."
    )
    if any(layer.nearest is not None for layer in atlas.layers):
        yield (
            "Nearest words are the word embeddings to which a neuron's input row points, by cosine. From the second "
            "layer on the row never meets word embeddings: it is a hint, and no more."
        )
    if (vocabulary := atlas.vocabulary) is not None:
        reader = "the model's own head" if vocabulary.is_head else "the product with the word embeddings"
        yield (
            f"Promoted words are what {reader} ({vocabulary.transform}) makes of a neuron's output column alone, less "
            "what it makes of zero and the mean of all entries. Only what the last layer writes reaches it so "
            "directly, and any direction promotes some words: neurons show says which lie beyond chance."
        )
    yield (
        f"Neighbours share some of the strongest tokens, or correlate over {drawn} tokens drawn at random: a "
        f"correlation is known to some {1 / max(drawn, 1) ** 0.5:.2f}, and of thousands some are high by chance."
    )


def _reader(atlas: Atlas) -> str:
    """What output columns were read with, as a card says it under the words they promote."""
    if atlas.vocabulary is None:
        return ""
    through = "the model's own head" if atlas.vocabulary.is_head else "the word embeddings alone"
    return f"through {through}; any direction promotes some words"


def _foot(atlas: Atlas) -> Markup:
    keys = "/ searches, arrows or j and k move, Enter opens, ← and → leaf through neurons, Escape goes back."
    made = (
        f"Made by bertprobe {__version__} from {atlas.folder.path}. Numbers in lists are float32; those on a card are "
        "rounded to one part in 130,000. Nothing is fetched."
    )
    return joined([element("p", keys), element("p", made)])


# ------------------------------------------------------------------------------------------------ data


@dataclass(frozen=True, slots=True, eq=False)
class _Tables:
    """Pieces by number, first those most frequent in texts, as small numbers pack well; `numbers` has each id's."""

    pieces: tuple[str, ...]
    numbers: Array

    @classmethod
    def of(cls, atlas: Atlas) -> _Tables:
        import numpy as np

        size = max(atlas.pieces, default=0) + 1
        counts = np.zeros(size, np.int64)
        for layer in atlas.layers:
            counts += np.bincount(layer.texts.ids, minlength=size)
        known = np.array(sorted(atlas.pieces), np.int64)
        ids = known[np.argsort(-counts[known], kind="stable")]
        numbers = np.full(size, -1, np.int64)
        numbers[ids] = np.arange(len(ids))
        return cls(tuple(atlas.pieces[id] for id in ids.tolist()), numbers)

    def of_ids(self, ids: Array) -> Array:
        """The numbers of ids, -1 where there is none."""
        import numpy as np

        return np.where(ids < 0, -1, self.numbers[ids])


def _strings(tables: _Tables, words: Sequence[str]) -> Chunk:
    """Pieces and words, a line each: what could end a line, or hide or reorder what stands beside it, is escaped."""
    import numpy as np

    def lines(texts: Sequence[str]) -> Array:
        return np.frombuffer("\n".join(map(printable, texts)).encode(), np.uint8)

    return pack({"pieces": lines(tables.pieces), "words": lines(words)})


def _numbers(atlas: Atlas) -> dict[str, Array]:
    """What lists are sorted by, of all neurons: float32."""
    import numpy as np

    names = list(atlas.layers[0].numbers) if atlas.layers else []
    found = {name: np.concatenate([layer.numbers[name] for layer in atlas.layers]) for name in names}
    for i in range(len(atlas.folder.kept.thresholds)):
        found[f"over.{i}"] = np.concatenate([layer.over[i] for layer in atlas.layers])
    return found


def _search(atlas: Atlas, tables: _Tables) -> dict[str, Array]:
    """What is looked through for a word: the strongest tokens of all neurons and the words they promote."""
    import numpy as np

    layers = atlas.layers
    found = {
        "words": np.concatenate([layer.words for layer in layers]),
        "pieces": np.concatenate([tables.of_ids(_ids(layer, layer.strongest)) for layer in layers]),
        "values": np.concatenate([_values(layer.strongest) for layer in layers]),
    }
    for name in ("promoted", "suppressed"):
        entries = [None if layer.moved is None else getattr(layer.moved, name) for layer in layers]
        shape = next((each.ids.shape[1] for each in entries if each is not None), 0)
        missing = [
            Entries(np.full((layer.row.neurons, shape), -1), np.zeros((layer.row.neurons, shape), np.float32))
            for layer in layers
        ]
        there = [each or none for each, none in zip(entries, missing, strict=True)]
        found[name] = np.concatenate([tables.of_ids(each.ids) for each in there])
        found[f"{name}.values"] = np.concatenate([rounded(np.nan_to_num(each.values), BITS) for each in there])
    return found


def _layer(layer: LayerAtlas, tables: _Tables) -> dict[str, Array]:
    import numpy as np

    texts, together = layer.texts, layer.neighbours
    found = {
        "ids": tables.of_ids(texts.ids),
        "lengths": np.diff(texts.bounds),
        "rows": np.diff(texts.rows, prepend=0),
        "files": layer.files,
        "strongest": layer.strongest.at,
        "negative": layer.negative.at,
        "negative.values": rounded(_values(layer.negative), BITS),
        "tenths": layer.of_deciles.at,
        "tenths.values": rounded(layer.of_deciles.values, BITS),
        "deciles": rounded(layer.deciles, BITS),
        "random": layer.random.at,
        "random.values": rounded(layer.random.values, BITS),
        "positions": layer.tokens_by_position,
        "means": rounded(layer.means.T, BITS),
        "neighbours": together.neurons,
        "shared": together.shared,
        "correlations": rounded(together.correlations, BITS),
    }
    if layer.nearest is not None:
        found["nearest"] = tables.of_ids(layer.nearest.ids)
        found["nearest.values"] = rounded(np.nan_to_num(layer.nearest.values), BITS)
    return found


def _ids(layer: LayerAtlas, examples: Examples) -> Array:
    """The ids of the tokens themselves, -1 where there is none."""
    import numpy as np

    return np.where(examples.at < 0, -1, np.append(layer.texts.ids, -1)[examples.at])


def _values(examples: Examples) -> Array:
    """Values, zero where there is no token."""
    import numpy as np

    return np.where(examples.at < 0, 0, examples.values).astype(np.float32)


def _about(atlas: Atlas, model: str, directories: Mapping[str, Any]) -> dict[str, Any]:
    """What the script has to know before it unpacks anything."""
    firsts, first = [], 0
    for layer in atlas.layers:
        firsts.append(first)
        first += layer.row.neurons
    layers = [
        {
            "number": layer.row.layer,
            "label": printable(layer.row.label),
            "neurons": layer.row.neurons,
            "first": first,
            "nearest": layer.nearest is not None,
            "promotes": layer.moved is not None,
        }
        for layer, first in zip(atlas.layers, firsts, strict=True)
    ]
    found: dict[str, Any] = finite(
        {
            "model": printable(model),
            "layers": layers,
            "thresholds": list(atlas.folder.kept.thresholds),
            "files": list(map(printable, atlas.files)),
            "reader": _reader(atlas),
            "chunks": directories,
            "version": __version__,
        }
    )
    return found
