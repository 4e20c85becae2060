"""The progress bar: only for a terminal, only after a second, and gone without a trace."""

from __future__ import annotations

import io
from contextlib import redirect_stderr

import pytest

from bertprobe.render.progress import progress, progress_of_texts


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm-256color")
    return Terminal()


def test_what_is_quick_shows_nothing(terminal: Terminal) -> None:
    with redirect_stderr(terminal), progress(100, "reading", after=60) as advance:
        advance(100)
    assert terminal.getvalue() == ""


def test_what_takes_longer_shows_a_bar_and_gives_the_cursor_back(terminal: Terminal) -> None:
    with redirect_stderr(terminal), progress(100, "reading weights", after=0) as advance:
        advance(50)
    shown = terminal.getvalue()
    assert "reading weights" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


def test_an_error_gives_the_cursor_back_too(terminal: Terminal) -> None:
    def interrupted() -> None:
        with redirect_stderr(terminal), progress(100, "reading", after=0) as advance:
            advance(50)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "\x1b[?25h" in terminal.getvalue()


def test_a_pipe_gets_none(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(100, "reading", after=0) as advance:
        advance(50)
    assert capsys.readouterr().err == ""


def test_texts_are_counted_with_their_tokens(terminal: Terminal) -> None:
    with redirect_stderr(terminal), progress_of_texts(100, "extracting", after=0) as advance:
        advance(3, 50)
        advance(1_200, 50)
    assert "1,203 texts" in terminal.getvalue()
    assert "tokens/s" in terminal.getvalue()


def test_quiet_shows_no_bar(terminal: Terminal) -> None:
    with redirect_stderr(terminal), progress_of_texts(None, "extracting", quiet=True, after=0) as advance:
        advance(3, 50)
    assert terminal.getvalue() == ""
