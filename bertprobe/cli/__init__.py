"""The command line: each command parses, calls and renders; `main` turns errors into one line and an exit code."""

from __future__ import annotations

import errno
import io
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Annotated, Any

import typer

from bertprobe._version import __version__
from bertprobe.errors import BadSetting, BertprobeError, printable
from bertprobe.inputs import held
from bertprobe.notices import told

# In the order in which help lists them: the name of a command, which is that of its function, and its module.
_HOMES = {
    **dict.fromkeys(("inspect", "export"), "weights"),
    **dict.fromkeys(("diff", "graft"), "compare"),
    **dict.fromkeys(("pool", "activations", "verify"), "text"),
    "lens": "lens",
    **dict.fromkeys(("extract", "merge"), "extract"),
    "recipe": "recipe",
    "explain": "explain",
    "report": "report",
}
_GROUPS = ("neurons",)  # of commands, each with the name of its module and of the application in it


def __getattr__(name: str) -> Any:
    """`COMMANDS`, the functions, and `app`, the application of all of them: made when somebody asks for them."""
    if name == "COMMANDS":
        return tuple(getattr(import_module(f"{__name__}.{home}"), command) for command, home in _HOMES.items())
    if name == "app":
        return application()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def application(*commands: str) -> typer.Typer:
    """The command line with these commands, all unless said: what is not asked for need not be loaded."""
    app = typer.Typer(
        name="bertprobe",
        help="Shows what is in the intermediate and pooler modules of a BERT checkpoint, and exports them.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        epilog="Exit codes: 0 fine, 1 an error told on stderr, 2 wrong usage, 3 findings under --strict.",
    )
    app.callback()(_general)
    for command in commands or (*_HOMES, *_GROUPS):
        if command in _GROUPS:
            app.add_typer(getattr(import_module(f"{__name__}.{command}"), command), name=command)
        else:
            app.command()(getattr(import_module(f"{__name__}.{_HOMES[command]}"), command))
    return app


def _version(ctx: typer.Context, wanted: bool) -> None:
    """Not eager, so that --verbose, which is, may stand before it or behind."""
    if not wanted or ctx.resilient_parsing:
        return
    if ctx.params.get("verbose"):
        from bertprobe.cli import versions

        typer.echo("\n".join(versions.lines()))
    else:
        typer.echo(f"bertprobe {__version__}")
    raise typer.Exit


def _general(
    version: Annotated[bool, typer.Option("--version", callback=_version, help="Show the version and exit.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", is_eager=True, help="With --version: all versions, for a bug report.")
    ] = False,
) -> None:
    if verbose:
        raise typer.BadParameter("--verbose goes with --version: bertprobe --version --verbose")


# What only stdout can fail with: each file that is read or written has errors of its own.
_STDOUT_FAILS = {errno.EPIPE, errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command and ends the process: 0 fine, 1 an error, 2 wrong usage, 3 findings under --strict."""
    words = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for a terminal or pipe without × and →
    try:
        with _stoppable(), held(), told(lambda message: _tell(f"bertprobe: {message}")):
            try:
                application(*[word for word in words[:1] if word in _HOMES or word in _GROUPS])(args=words)
            finally:
                sys.stdout.flush()  # when Python ends it would be too late to say what went wrong
    except BertprobeError as error:
        _tell(f"bertprobe: {as_options(str(error))}")
        sys.exit(2 if isinstance(error, BadSetting) else 1)
    except MemoryError:
        _tell("bertprobe: there is not enough memory; look at headers with --shapes, or at a few --layers")
        sys.exit(1)
    except _Stopped as stopped:
        os.kill(os.getpid(), stopped.signal)  # now that all is cleaned up; whoever waits for us sees what ended us
    except SystemExit as end:
        if end.code == 2:
            _hint(words)
        raise
    except OSError as error:
        if error.errno not in _STDOUT_FAILS:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries again when it ends
        if error.errno != errno.EPIPE:  # a reader such as `head` that has seen enough is no error
            _tell(f"bertprobe: the result cannot be written to stdout ({error.strerror}); make room or write elsewhere")
        sys.exit(1)


class _Stopped(BaseException):
    """A signal asks the process to end."""

    def __init__(self, signal: int) -> None:
        self.signal = signal


@contextmanager
def _stoppable() -> Iterator[None]:
    """Has a signal that would end the process unwind it first, as Ctrl-C does: what is half written is then removed."""
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    before = {number: signal.signal(number, _stop) for number in numbers if signal.getsignal(number) is signal.SIG_DFL}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: object) -> None:
    raise _Stopped(number)


def _hint(words: Sequence[str]) -> None:
    """Tells how to write a text or path that starts with a dash, if one may have been taken for an option."""
    odd = [word for word in words if _starts_with_a_dash(word)]
    if odd and "--" not in words:
        _tell(f"hint: what starts with '-' is taken for an option; write: bertprobe {words[0]} -- {odd[0]}")


def _starts_with_a_dash(word: str) -> bool:
    """Whether a word looks like a name or text rather than an option: -model, or anything that exists or has blanks."""
    named = word.startswith("-") and len(word) > 2 and not (word.startswith("--") or word[1].isdigit())
    return named or (word.startswith("-") and (" " in word or os.path.lexists(word)))


# Settings that errors name as Python has them, and the options that are called otherwise.
_SETTING = re.compile(
    r"`(force|truncate|prompt|weights|root|subfolder|download|backend|dtype|vector|pairs|layers|replace|names|tokenizer"
    r"|field|id_field|skip_bad|part|neurons|tokens|top|verify|before|shard|order|embed_text|ray|actors"
    r"|gpus_per_actor|batch_tokens|position|word"
    r"|label_field|words_field|held_out|ridge|means)"
    r"=([^`]*)`"
)
_RENAMED = {
    "pairs": "pair",
    "id_field": "id-field",
    "skip_bad": "skip-bad",
    "before": "pre",
    "embed_text": "embed-text",
    "gpus_per_actor": "gpus-per-actor",
    "label_field": "label-field",
    "words_field": "words-field",
    "held_out": "held-out",
    "batch_tokens": "batch-tokens",
}


def as_options(message: str) -> str:
    """A message for the command line: `truncate=True` becomes --truncate, `vector=cls` --vector cls.

    What is on unless it is said, as `verify=False`, becomes --no-verify.
    """

    def option(match: re.Match[str]) -> str:
        value = match[2].strip("\"'")
        if value == "False":
            return f"--no-{match[1]}"
        return f"--{_RENAMED.get(match[1], match[1])}{'' if value in ('', 'True') else ' ' + shlex.quote(value)}"

    return _SETTING.sub(option, message)


def _tell(message: str) -> None:
    sys.stderr.write(printable(message) + "\n")
