"""The source of the installed transformers' own classes, read from its files: importing them would take seconds."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from bertprobe.anatomy.families import Family


@dataclass(frozen=True, slots=True)
class ClassSource:
    """A class as the installed transformers has it: its `file` in the package, its first `line`, its `code`.

    `takes` are the arguments of its `forward`.
    """

    name: str
    file: str
    line: int
    code: str
    takes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Library:
    """What the installed transformers has for a family: its version, the two classes, and which models pool.

    `with_pooler` and `without_pooler` are the family's model classes, by what their source asks of the base model.
    """

    version: str | None
    up_projection: ClassSource | None
    pooling: ClassSource | None
    with_pooler: tuple[str, ...]
    without_pooler: tuple[str, ...]


def read_library(family: Family) -> Library:
    """Reads a family's classes from the files of the installed transformers, which is not imported."""
    path = _modeling_file(family)
    try:
        installed: str | None = version("transformers")
    except PackageNotFoundError:
        installed = None
    if path is None:
        return Library(installed, None, None, (), ())
    text = path.read_text(encoding="utf-8")
    classes = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}
    found = {
        role: _source(path, text, classes.get(_named(classes, named, ending)))
        for role, named, ending in (
            ("up_projection", family.up_projection, "Intermediate"),
            ("pooling", family.pooler, "Pooler"),
        )
    }
    having, lacking = _models(classes)
    return Library(installed, found["up_projection"], found["pooling"], having, lacking)


def _modeling_file(family: Family) -> Path | None:
    """The file of a family's model classes; its name may be foreign text, and only a plain name is looked for."""
    folder, file = family.folder_and_file
    package = find_spec("transformers")  # finds, and runs nothing
    if package is None or package.origin is None or not folder.isidentifier():
        return None
    path = Path(package.origin).parent / "models" / folder / file
    return path if path.is_file() else None


def _named(classes: Mapping[str, ast.ClassDef], name: str | None, ending: str) -> str:
    """The class of that name, else the only one that ends so, else none."""
    if name is not None:
        return name
    found = [candidate for candidate in classes if candidate.endswith(ending)]
    return found[0] if len(found) == 1 else ""


def _source(path: Path, text: str, node: ast.ClassDef | None) -> ClassSource | None:
    if node is None:
        return None
    first = min((line.lineno for line in node.decorator_list), default=node.lineno)
    lines = text.splitlines(keepends=True)[first - 1 : node.end_lineno]
    forward = next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "forward"), None)
    return ClassSource(node.name, "/".join(path.parts[-3:]), first, "".join(lines), _takes(forward))


def _takes(function: ast.FunctionDef | None) -> tuple[str, ...]:
    """The names of a method's arguments, but for the first."""
    if function is None:
        return ()
    given = function.args
    rest = (given.vararg, *given.kwonlyargs, given.kwarg)
    return tuple(argument.arg for argument in (*given.args[1:], *rest) if argument is not None)


def _models(classes: Mapping[str, ast.ClassDef]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The model classes that have their base build a pooler, and those that have it build none."""
    bases = {name: default for name, node in classes.items() if (default := _pools_by_default(node)) is not None}
    having = [name for name, default in bases.items() if default]
    lacking: list[str] = []
    for name, node in classes.items():
        for call in _calls(node, bases):
            asked = next((word.value for word in call.keywords if word.arg == "add_pooling_layer"), None)
            pools = bases[ast.unparse(call.func)] if asked is None else ast.unparse(asked) == "True"
            (having if pools else lacking).append(name)
    return tuple(having), tuple(lacking)


def _pools_by_default(node: ast.ClassDef) -> bool | None:
    """The default of `add_pooling_layer` in a class's `__init__`, None where it takes no such argument."""
    init = next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
    if init is None:
        return None
    given = init.args.args[len(init.args.args) - len(init.args.defaults) :]
    pairs = [
        *zip(given, init.args.defaults, strict=True),
        *zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True),
    ]
    return next((ast.unparse(d) == "True" for a, d in pairs if a.arg == "add_pooling_layer" and d is not None), None)


def _calls(node: ast.ClassDef, bases: Mapping[str, bool]) -> Iterator[ast.Call]:
    """Where a class builds its base model, once."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Call) and ast.unparse(inner.func) in bases:
            yield inner
            return
