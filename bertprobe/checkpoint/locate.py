"""What the user typed → the weights files, the config and the settings beside them: what is meant by a name.

The same for a tokenizer that does not lie beside them.

A path goes before a model on the Hub. Which files of a folder are read is for `choose` to say.
"""

from __future__ import annotations

from pathlib import Path

from bertprobe import builtin
from bertprobe.builtin import POCKET
from bertprobe.checkpoint.choose import (
    Located,
    OpenOptions,
    locate_file,
    locate_in,
    noted,
    settings_in,
    stands_for_weights,
)
from bertprobe.checkpoint.folder import FolderOf, LocalFolder
from bertprobe.errors import NotFound, UnsupportedFile, printable
from bertprobe.filenames import TOKENIZER, TOKENIZER_SETTINGS, VOCABULARIES, VOCABULARY


def locate(ref: str, wanted: OpenOptions) -> Located:
    """The built-in model, a folder, a weights file, an index file or a model on the Hub → its files.

    Raises `NotFound` where there is nothing, `UnsupportedFile` where there is something that is not read,
    `CorruptFile` for a config or index that contradicts itself, and `HubError` for what the Hub has to do with it.
    """
    if ref == POCKET:
        return _locate_pocket(wanted)
    path = _expanded(ref)
    if ref and _exists(path):
        located = _locate_path(path, wanted)
        return noted(located, _on_disk(ref)) if path.is_dir() else located
    if ref and stands_for_weights(LocalFolder(path.parent), path.name):
        if wanted.settings_only:
            return settings_in(LocalFolder(path.parent))
        return locate_file(LocalFolder(path.parent), path.name)
    if not _begins_here(ref):
        from bertprobe.checkpoint.hub.locate import locate_on_hub

        there = locate_on_hub(ref, wanted) if ref else None
        if there is not None:
            return there
    raise NotFound(f"there is no '{printable(ref)}'", "name a folder, a weights file or a model on the Hub")


def locate_tokenizer(ref: str) -> LocalFolder:
    """The folder that holds a tokenizer, or one of its files → the folder in which it is looked for.

    A file stands for its folder, and goes before the tokenizer.json there; one that is called as none of a tokenizer is
    taken for a vocab.txt or a tokenizer.json, as it ends.

    Raises `NotFound` where there is nothing, `UnsupportedFile` for a file that is none of a tokenizer.
    """
    path = builtin.FOLDER if ref == POCKET else _expanded(ref)
    if not ref or not _exists(path):
        raise NotFound(
            f"there is no folder or file '{printable(ref)}' with a tokenizer",
            "name one on this disk: a tokenizer is not looked for on the Hub",
        )
    if path.is_dir() or path.name in TOKENIZER_SETTINGS:
        return LocalFolder(path if path.is_dir() else path.parent)
    role = path.name if path.name in VOCABULARIES else _ROLES.get(path.suffix)
    if role is None:
        raise UnsupportedFile(
            f"{printable(str(path))} is no file of a tokenizer", f"name its folder, or its {TOKENIZER} or {VOCABULARY}"
        )
    return FolderOf(path, role)


_ROLES = {".json": TOKENIZER, ".txt": VOCABULARY}


def _begins_here(ref: str) -> bool:
    """Whether a name leads into a folder that is here: then a path was meant, and the Hub need not hear of it."""
    first, *rest = ref.split("/")
    return len(rest) > 1 and _exists(Path(first or "/"))


def _on_disk(ref: str) -> str:
    from bertprobe.checkpoint.hub.address import could_be_on_hub

    return f"taken from this disk; hf://{printable(ref)} would be on the Hub" if could_be_on_hub(ref) else ""


def _locate_pocket(wanted: OpenOptions) -> Located:
    """The model that ships with the package. Weights are read by byte ranges of a file, so a zip will not do."""
    folder = LocalFolder(builtin.FOLDER)
    if not folder.is_file(builtin.WEIGHTS):
        raise NotFound(
            f"the built-in model is not in {folder.path}",
            "install bertprobe as files (pip install bertprobe); from a zip archive its weights cannot be read",
        )
    return locate_in(folder, wanted)


def _expanded(ref: str) -> Path:
    try:
        return Path(ref).expanduser()
    except RuntimeError:  # ~ and no such user
        return Path(ref)


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except PermissionError as error:
        raise NotFound(f"{path} cannot be read ({error.strerror})", "check its permissions") from error
    except (OSError, ValueError):  # also a name too long, or with a NUL
        return False
    return True


def _locate_path(path: Path, wanted: OpenOptions) -> Located:
    if path.is_dir():
        return locate_in(LocalFolder(path), wanted)
    if wanted.subfolder or wanted.weights:
        raise NotFound(f"{path} is a file", "leave out `subfolder=` and `weights=`, which choose in a folder")
    if wanted.settings_only:
        return settings_in(LocalFolder(path.parent))
    return locate_file(LocalFolder(path.parent), path.name)
