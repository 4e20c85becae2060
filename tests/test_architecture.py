"""The architecture: imports go down and in no circle, heavy libraries load where used, one room prints, one exits."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

import bertprobe

PACKAGE = Path(bertprobe.__file__).parent
FLOORS = {
    "cli": 7,
    "model": 6,
    "render": 6,
    "report": 5,
    "verify": 5,
    "export": 5,
    "compare": 5,
    "neurons": 5,
    "lens": 4,
    "run": 4,
    "explain": 5,
    "extract": 5,
    "sharded": 5,
    "screen": 5,
    "encoder": 3,
    "adapters": 3,
    "measurement": 3,
    "fingerprint": 3,
    "recipe": 3,
    "corpus": 3,
    "modules": 3,
    "transformers_model": 3,
    "layers": 2,
    "tokens": 2,
    "verdicts": 2,
    "anatomy": 1,
    "noise": 0,
    "storages": 0,
    "stats": 1,
    "backends": 1,
    "checkpoint": 0,
    "_version": -1,
    "builtin": -1,
    "errors": -1,
    "filenames": -1,
    "inputs": -1,
    "notices": -1,
    "shown": -1,
}
# A value shows itself through the room above it, which is imported when somebody looks.
UPWARD = {("shown.py", "bertprobe.render.notebook"), ("shown.py", "bertprobe.render.terminal")}
DOORKEEPERS = {
    "typer": {
        f"cli/{name}.py"
        for name in (
            "__init__",
            "options",
            "weights",
            "text",
            "lens",
            "explain",
            "extract",
            "compare",
            "report",
            "recipe",
            "neurons",
            "screen",
            "probe",
        )
    },
    "altair": {f"render/html/charts/{name}.py" for name in ("spec", "weights", "texts")},
    "vl_convert": {"render/html/files.py"},
    "rich": {"render/terminal.py", "render/prose.py", "render/progress.py"},
    "huggingface_hub": {
        "transformers_model/door.py",
        *(f"checkpoint/hub/{name}.py" for name in ("settings", "client", "repository", "download")),
    },
    "torch": {
        "backends/torch.py",
        "backends/activations.py",
        "modules.py",
        "neurons/device.py",
        "screen/gradients.py",
        "screen/masked.py",
        "screen/outputs.py",
        *(f"transformers_model/{name}.py" for name in ("__init__", "running", "manners")),
    },
    "transformers": {
        f"transformers_model/{name}.py" for name in ("__init__", "kinds", "settings", "manners", "door", "tokenizing")
    },
    "tokenizers": {"tokens/fast.py", "tokens/files.py", "tokens/special.py"},
    "click": set(),
    "crc32c": {"checkpoint/tensors.py"},
    "cramjam": {"checkpoint/tensorflow/table.py"},
    "pickle": set(),
    "datasets": {"extract/reading.py"},
    "gguf": {"checkpoint/gguf/blocks.py"},
    "fsspec": {"export/places.py"},
    "safetensors": {"export/files.py"},
    "ray": {"sharded/on_ray.py"},
}


def modules() -> list[tuple[str, ast.Module]]:
    """Every module of the package, by its path in it, parsed."""
    return [(str(path.relative_to(PACKAGE)), ast.parse(path.read_text())) for path in sorted(PACKAGE.rglob("*.py"))]


def imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Each module that a tree imports, wherever that stands, and the name it takes of it; types alone do not count."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)


def imported(tree: ast.AST) -> set[str]:
    """Dotted names of what a tree imports, and of the modules that lies in."""
    return {name for module, word in imports(tree) for name in (module, f"{module}.{word}".rstrip("."))}


def room(dotted: str) -> str | None:
    """The room of an imported name of the package."""
    words = dotted.split(".")
    return words[1] if words[0] == "bertprobe" and len(words) > 1 and words[1] in FLOORS else None


@pytest.mark.parametrize(("path", "tree"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_go_down_only(path: str, tree: ast.Module) -> None:
    here = path.split("/")[0].removesuffix(".py")
    if here in ("__init__", "__main__"):
        return
    whole = [node for node in ast.walk(tree) if isinstance(node, ast.Import) and node.names[0].name == "bertprobe"]
    assert not whole, f"{path} looks up to the package"
    assert "bertprobe.__version__" not in imported(tree), f"{path} looks up to the package"
    assert here in FLOORS, f"{path} has no floor"
    upward = {module for importer, module in UPWARD if importer == path}
    for name in imported(tree):
        there = room(name)
        excepted = any(name == module or name.startswith(f"{module}.") for module in upward)
        assert excepted or there is None or there == here or FLOORS[there] <= FLOORS[here], f"{path} imports {name}"
    assert upward <= imported(tree), f"{path} has no need of its exception"


def test_no_module_is_above_itself() -> None:
    """Also inside functions: what two modules need of each other belongs below both."""
    trees = {dotted(path): tree for path, tree in modules()}
    upward = {(dotted(path), module) for path, module in UPWARD}
    below = {
        name: {there for there in used(tree, trees) if (name, there) not in upward} for name, tree in trees.items()
    }
    assert not (circle := in_a_circle(below)), f"these import each other: {', '.join(sorted(circle))}"


def test_a_circle_is_found() -> None:
    assert not in_a_circle({"a": {"b", "c"}, "b": {"c"}, "c": set()})
    assert in_a_circle({"a": {"b"}, "b": {"c"}, "c": {"d", "b"}, "d": set()}) == {"b", "c"}


def in_a_circle(below: dict[str, set[str]]) -> set[str]:
    """What is left once all that needs nothing more is taken away, again and again, and then all that nothing needs."""
    for _ in range(2):
        while ends := {name for name, needed in below.items() if not needed & below.keys()}:
            below = {name: needed for name, needed in below.items() if name not in ends}
        below = {name: {other for other, needed in below.items() if name in needed} for name in below}
    return set(below)


def dotted(path: str) -> str:
    """The name under which a module is imported."""
    return ".".join(("bertprobe", *Path(path).with_suffix("").parts)).removesuffix(".__init__")


def used(tree: ast.AST, known: Collection[str]) -> set[str]:
    """The modules of the package that a tree imports; of `from package import module` that module alone."""
    found = (f"{module}.{word}" if f"{module}.{word}" in known else module for module, word in imports(tree))
    return {name for name in found if name in known}


# What a report is made of is computed before: weights are read and texts are run by those who ask for one.
COMPUTING = {
    f"bertprobe.{name}"
    for name in ("layers", "encoder", "backends", "reference", "measurement", "run.runner", "run.engines", "explain")
} | {f"bertprobe.checkpoint.{where}{name}" for where in ("", "tensors.") for name in ("read_tensors", "read_tensor")}


@pytest.mark.parametrize(("path", "tree"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_report_computes_nothing(path: str, tree: ast.Module) -> None:
    if path.split("/")[0] in ("report", "render"):
        assert not imported(tree) & COMPUTING, f"{path} reads or runs something"


# A command to paste has its options; so do commands that findings are made of, a word at a time.
COMMANDS_IN_WORDS = {"--root", "--part", "--replace", "--shapes"}


@pytest.mark.parametrize(("path", "tree"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_messages_name_no_option_but_in_a_whole_command(path: str, tree: ast.Module) -> None:
    """Errors name settings as Python has them; `cli.main` makes options of them."""
    if path.split("/")[0] in ("cli", "__main__.py"):
        return
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs = {
        id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented) and ast.get_docstring(node)
    }
    whole = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        text = ast.unparse(node) if isinstance(node, ast.JoinedStr) else getattr(node, "value", None)
        if not isinstance(text, str) or isinstance(node, ast.Expr) or id(node) in docs or id(node) in whole:
            continue
        options = re.findall(r"(?<![\w(-])--[a-z]+", text)
        assert not options or "bertprobe " in text or text in COMMANDS_IN_WORDS, f"{path}:{node.lineno} names {options}"


# Where texts stood in the input: `tokens` says it, `run` puts what is kept in order, files of vectors and rows on disk,
# examples of neurons refer to it, and labels of texts on their way are found by it.
KNOWING_PLACES = {
    "tokens/batches.py",
    "tokens/encoded.py",
    "run/captured.py",
    "export/vectors.py",
    "extract/rows.py",
    "neurons/scan.py",
    "screen/gradients.py",  # what is drawn of a text depends on its place alone
    "neurons/probe/collect.py",
}


@pytest.mark.parametrize(("path", "tree"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_the_order_of_the_input_is_restored_in_one_place(path: str, tree: ast.Module) -> None:
    reading = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "places"]
    reading = [line for line in reading if "compare" not in path]  # whose places are those of tensors
    assert path in KNOWING_PLACES or not reading, f"{path} puts texts in order, in line {reading[0]}"


@pytest.mark.parametrize(("path", "tree"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_each_outside_library_has_one_doorkeeper(path: str, tree: ast.Module) -> None:
    for name in imported(tree):
        keepers = DOORKEEPERS.get(name.split(".")[0])
        assert keepers is None or path in keepers, f"{path} imports {name}"


def test_drawing_computes_nothing() -> None:
    """What is drawn stands in the report: whoever draws asks neither the weights nor the rules."""
    for path, tree in modules():
        if path.startswith("render/"):
            rooms = {room(name) for name in imported(tree)}
            assert not rooms & {"stats", "noise", "verdicts", "activations", "encoder", "layers"}, path


@pytest.mark.parametrize(("path", "tree"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_printing_is_for_render_and_ending_for_main(path: str, tree: ast.Module) -> None:
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert path.startswith("render/") or "print" not in calls
    ending = calls & {"sys.exit", "exit", "quit", "os._exit", "SystemExit"}
    assert path in ("cli/__init__.py", "__main__.py") or not ending
    assert not calls & {"eval", "exec", "compile", "__import__", "pickle.load", "pickle.loads"}


@pytest.mark.parametrize(("path", "tree"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_style_laws(path: str, tree: ast.Module) -> None:
    assert ast.get_docstring(tree), f"{path} has no docstring"
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Assert), f"{path}:{node.lineno} asserts"
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"{path}:{node.lineno} catches anything"
        if isinstance(node, ast.FunctionDef) and not path.startswith("cli/"):
            count = sum(arg.arg != "self" for arg in (*node.args.args, *node.args.kwonlyargs))
            assert count <= 8, f"{path}: {node.name} takes {count} parameters"


def loaded(*argv: str) -> set[str]:
    """The top-level modules that a run of the command line loads."""
    code = (
        "import sys\nfrom bertprobe.cli import main\n"
        f"try:\n    main({list(argv)!r})\nexcept SystemExit as end:\n    code = end.code\n"
        "sys.stderr.write('\\n'.join({name.split('.')[0] for name in sys.modules}))\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize("argv", [["--help"], ["inspect", "--help"], ["--version"], ["--version", "--verbose"]])
def test_help_loads_nothing_heavy(argv: list[str]) -> None:
    assert not loaded(*argv) & {"numpy", "torch", "transformers", "tokenizers", "huggingface_hub", "safetensors"}


def test_shapes_load_nothing_heavy(tiny_bert: Path) -> None:
    heavy = {"numpy", "ml_dtypes", "torch", "transformers", "tokenizers", "huggingface_hub"}
    archives = {"zipfile", "pickletools"}  # only a .bin needs these
    assert not loaded("inspect", "--shapes", str(tiny_bert)) & (heavy | archives)
    assert not loaded("diff", "--shapes", str(tiny_bert), str(tiny_bert)) & (heavy | archives)


def test_inspect_and_export_load_no_torch(tiny_bert: Path, tmp_path: Path) -> None:
    heavy = {"torch", "transformers", "tokenizers", "huggingface_hub", "ml_dtypes"}
    assert not loaded("inspect", str(tiny_bert)) & heavy
    assert not loaded("inspect", str(tiny_bert), "--json") & {*heavy, "rich"}
    assert not loaded("export", str(tiny_bert), "-o", str(tmp_path / "pooler.safetensors")) & heavy
    assert not loaded("diff", str(tiny_bert), str(tiny_bert)) & heavy
    assert not loaded("graft", str(tiny_bert), str(tiny_bert), "-o", str(tmp_path / "new"), "--replace") & heavy


def test_a_short_text_loads_no_torch(minilm: Path) -> None:
    heavy = {"torch", "transformers", "huggingface_hub", "ml_dtypes", "safetensors"}
    assert not loaded("pool", "some text", "-m", str(minilm)) & heavy
    assert not loaded("activations", "some text", "-m", str(minilm)) & heavy
