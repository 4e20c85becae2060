"""What each settings file of a folder says, read once and checked by type; nothing is decided here.

A file that is damaged, or a value that its key cannot have, is noted as a fault and counts as not said, so that all
else can still be told.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bertprobe.anatomy.config import text_config
from bertprobe.checkpoint.folder import Folder, parse_any, read_json
from bertprobe.checkpoint.source import LocalFile
from bertprobe.errors import BertprobeError, CorruptFile, UnsupportedFile
from bertprobe.filenames import CONFIGS, MODULES

PROMPTS = "config_sentence_transformers.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER = "tokenizer.json"
# sentence-transformers takes the first that is there; the others are names of its first versions.
TRANSFORMER = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
POOLING = "1_Pooling"
MOST_HEAD = 2**22  # where thousands of added tokens stand before them
HEAD = 2**15  # bytes of a tokenizer.json in which its settings stand, before a vocabulary of megabytes
MEMBERS = ("truncation", "normalizer", "pre_tokenizer", "post_processor")
MOST = 10**9  # tokens; transformers writes 10^30 for no limit at all
MOST_MODULES = 1000
OWN = "sentence_transformers."
WITH_FOLDER = ("Pooling", "Dense", "LayerNorm")


class Said(NamedTuple):
    """A value, and the file and key it stands under; keys below others are dotted."""

    value: Any
    file: str
    key: str


class Fault(NamedTuple):
    """What cannot be so: the file, the key or nothing for the whole file, and what was found there."""

    file: str
    key: str
    found: str


@dataclass(frozen=True, slots=True, eq=False)
class Settings:
    """A settings file: its name as it is shown, and what it says; empty where there is no such file."""

    file: str
    values: Mapping[str, Any]
    there: bool
    faults: list[Fault] = field(default_factory=list)

    def said(self, key: str, kind: str, *, least: int = 1) -> Said | None:
        """The value under a dotted key, if it is a `whole` number, a `flag`, `text`; else a fault, and None."""
        value: Any = self.values
        for step in key.split("."):
            value = value.get(step) if isinstance(value, Mapping) else None
        if value is None:
            return None
        whole = kind in ("whole", "tokens")
        if not _KINDS[kind](value) or (whole and value < least):
            self.faults.append(Fault(self.file, key, f"{_short(value)}, not {_WORDS[kind]}"))
            return None
        return Said(int(value) if whole else value, self.file, key)


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _is_whole(value: Any) -> bool:
    return type(value) is int or (type(value) is float and value.is_integer())


_KINDS: Mapping[str, Callable[[Any], bool]] = {
    "whole": lambda value: _is_whole(value) and value <= MOST,
    "tokens": _is_whole,
    "flag": lambda value: isinstance(value, bool),
    "text": lambda value: isinstance(value, str),
    "object": lambda value: isinstance(value, Mapping),
}
_WORDS = {
    "whole": "a whole number from 1 to a thousand million",
    "tokens": "a whole number of 1 or more",
    "flag": "true or false",
    "text": "text",
    "object": "an object",
}


@dataclass(frozen=True, slots=True)
class Module:
    """A row of modules.json: the class it names, its folder, and what config.json there says.

    `has_folder` is true, too, of one that needs none.
    """

    type: str
    path: str
    settings: Settings
    has_folder: bool

    @property
    def kind(self) -> str:
        """The class without where it comes from; empty for what is not sentence-transformers' own."""
        return self.type.rpartition(".")[2] if self.type.startswith(OWN) else ""


@dataclass(frozen=True, slots=True)
class Files:
    """All settings files of a folder: `modules` in order, None without a modules.json, none where it cannot be read.

    `unlisted` are folders with a module's settings that it does not name, each with the kind its own name says.
    `pooling` is what 1_Pooling has, which some tools read whatever modules.json says.
    """

    home: Folder
    modules: tuple[Module, ...] | None
    unlisted: Mapping[str, str]
    pooling: Settings
    prompts: Settings
    transformer: Settings
    tokenizer_config: Settings
    tokenizer: Settings
    config: Settings
    names: frozenset[str]
    faults: list[Fault]


def read_files(home: Folder, *, tokenizer: Folder | None = None, config: Mapping[str, Any] | None = None) -> Files:
    """Reads the settings files of a folder; of the tokenizer's, those in a folder of their own if one is given.

    `config` is what the model's config says where it lies elsewhere, as in a weights file.
    """
    faults: list[Fault] = []
    prepare(home)
    modules, inner = _modules(home, faults)
    below = f"{inner}/" if inner else ""
    of_tokenizer, prefix = (home, below) if tokenizer is None else (tokenizer, "")
    named = next((below + name for name in CONFIGS if home.is_file(below + name)), below + CONFIGS[0])
    said = _settings(home, named, faults) if config is None else Settings(named, config, True, faults)
    return Files(
        home=home,
        modules=modules,
        unlisted={} if modules == () else dict(_unlisted(home, modules or ())),
        pooling=_first_pooling(home, modules or ()),
        prompts=_settings(home, PROMPTS, faults),
        transformer=_first_filled(home, [below + name for name in TRANSFORMER], faults),
        tokenizer_config=_settings(of_tokenizer, prefix + TOKENIZER_CONFIG, faults),
        tokenizer=_tokenizer(of_tokenizer, prefix + TOKENIZER, faults),
        config=Settings(said.file, text_config(said.values), said.there, faults),
        names=_names(of_tokenizer, "" if tokenizer else inner),
        faults=faults,
    )


def _names(folder: Folder, inner: str) -> frozenset[str]:
    if not inner:
        return frozenset(folder.names)
    return frozenset(folder.below(inner).names) if folder.is_folder(inner) else frozenset()


def prepare(home: Folder) -> None:
    """Begins to fetch all small files where they are not at hand: those of every module's folder, too.

    `read_files` does so by itself; whoever has something else to wait for does it before.
    """
    folders = ["", *(f"{name}/" for name in sorted(home.names) if name.partition("_")[0].isdecimal())]
    names = ("config.json", MODULES, PROMPTS, TRANSFORMER[0], TOKENIZER_CONFIG, TOKENIZER)
    home.prepare(path for folder in folders for name in names if home.is_file(path := folder + name))


def _settings(folder: Folder, name: str, faults: list[Fault]) -> Settings:
    if not folder.is_file(name):
        return Settings(name, {}, False, faults)
    try:
        return Settings(name, read_json(folder, name), True, faults)
    except (CorruptFile, UnsupportedFile) as error:
        faults.append(_damaged(folder, name, error))
        return Settings(name, {}, True, faults)


def _first_filled(folder: Folder, names: Sequence[str], faults: list[Fault]) -> Settings:
    """The first of several files that says anything; one with nothing in it counts as not there."""
    there = [_settings(folder, name, faults) for name in names if folder.is_file(name)]
    return next(
        (settings for settings in there if settings.values), there[0] if there else _settings(folder, names[0], faults)
    )


def _damaged(folder: Folder, name: str, error: BertprobeError) -> Fault:
    return Fault(name, "", error.found.removeprefix(f"{folder.at(name)} ").removeprefix("is "))


def _modules(home: Folder, faults: list[Fault]) -> tuple[tuple[Module, ...] | None, str]:
    """The rows of modules.json, and the folder of the transformer among them."""
    if not home.is_file(MODULES):
        return None, "0_Transformer" if home.is_folder("0_Transformer") else ""
    try:
        rows = parse_any(home.text(MODULES), home.at(MODULES))
    except (CorruptFile, UnsupportedFile) as error:
        faults.append(_damaged(home, MODULES, error))
        return (), ""
    if not (isinstance(rows, list) and rows and all(map(_is_row, rows))):
        faults.append(Fault(MODULES, "", "not a list of modules, each with a name, a type and a path"))
        return (), ""
    faults += _twice(rows)
    found = tuple(_module(home, row, faults) for row in rows[:MOST_MODULES])
    return found, next((module.path for module in found if module.kind == "Transformer"), "")


def _is_row(row: Any) -> bool:
    return isinstance(row, Mapping) and all(isinstance(row.get(key), str) for key in ("name", "type", "path"))


def _twice(rows: Sequence[Mapping[str, str]]) -> Iterator[Fault]:
    """Names and folders that two rows claim: of one name sentence-transformers keeps the last row."""
    for key in ("name", "path"):
        counted = Counter(row[key] for row in rows if row[key] or key == "name")
        for value, rows_of in counted.items():
            if rows_of > 1:
                yield Fault(MODULES, key, f"{_short(value)} in {rows_of} rows, and belongs in one")


def _module(home: Folder, row: Mapping[str, str], faults: list[Fault]) -> Module:
    path, kind = row["path"].rstrip("/"), row["type"]
    plain = not any(step in (".", "..", "") for step in path.split("/")) and not {*path} & {*"\\:\0"}
    if row["path"] and not plain:
        faults.append(Fault(MODULES, "path", f"{_short(row['path'])}, which leads elsewhere"))
        path = ""
    elif not path and kind.startswith(OWN) and kind.rpartition(".")[2] in WITH_FOLDER:
        faults.append(Fault(MODULES, "path", f"empty for {_short(kind)}, which needs a folder of its own"))
    name = f"{path}/config.json" if path else ""
    settings = _settings(home, name, faults) if name else Settings(f"{MODULES}: {kind.rpartition('.')[2]}", {}, False)
    return Module(kind, path, settings, not path or home.is_folder(path))


def _first_pooling(home: Folder, modules: Sequence[Module]) -> Settings:
    listed = next((module.settings for module in modules if module.path == POOLING), None)
    return listed or _settings(home, f"{POOLING}/config.json", [])


def _unlisted(home: Folder, modules: Sequence[Module]) -> Iterator[tuple[str, str]]:
    """Folders such as 2_Dense that no row of modules.json leads to."""
    listed = {module.path for module in modules}
    for name in sorted(home.names):
        number, _, kind = name.partition("_")
        if number.isdecimal() and kind and name not in listed and home.is_file(f"{name}/config.json"):
            yield name, kind


def _tokenizer(folder: Folder, name: str, faults: list[Fault]) -> Settings:
    """What a tokenizer.json sets before its vocabulary begins; the whole of it where that order is another."""
    if not folder.is_file(name):
        return Settings(name, {}, False, faults)
    found, ends = None, True
    try:
        source = folder.source(name)
        for head in (HEAD, MOST_HEAD):
            if found is None:
                found = members_of(source.read(0, min(source.size, head)).decode("utf-8", "ignore"))
        if isinstance(source, LocalFile):  # what the Hub sends is held against its size
            ends = source.read(max(source.size - HEAD, 0), source.size).rstrip().endswith(b"}")
    except BertprobeError:
        pass  # whoever reads it whole is told why that cannot be
    if found is not None and not ends:
        faults.append(Fault(name, "", "cut off: its end is missing"))
        return Settings(name, {}, True, faults)
    settings = _settings(folder, name, faults) if found is None else Settings(name, found, True, faults)
    for key in ("truncation", "normalizer", "post_processor"):
        settings.said(key, "object")
    return settings


def members_of(text: str) -> Mapping[str, Any] | None:
    """The members of a tokenizer.json up to `model`, None where not all that are wanted stand before it."""
    decoder = json.JSONDecoder()
    found: dict[str, Any] = {}
    at = _after(text, 0, "{")
    while at is not None:
        try:
            key, at = decoder.raw_decode(text, at)
            if key == "model":
                return found if found.keys() >= set(MEMBERS) else None
            colon = _after(text, at, ":")
            if colon is None:
                return None
            value, at = decoder.raw_decode(text, colon)
        except (ValueError, RecursionError, TypeError):
            return None
        if not isinstance(key, str) or key in found:
            return None
        found[key] = value
        at = _after(text, at, ",")
    return None


def _after(text: str, at: int, sign: str) -> int | None:
    """Where the next value begins behind a sign, None where another one stands there."""
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    if text[at : at + 1] != sign:
        return None
    at += 1
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at
