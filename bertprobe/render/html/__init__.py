"""A report to look at: one self-contained page, or a single figure as PNG, SVG or PDF."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from bertprobe.errors import OutputError, PartMissing
from bertprobe.export.files import Output, atomic_write
from bertprobe.render.html.figures import FIGURES
from bertprobe.report import Report

NEEDED = 100 * 10**9  # bytes of address space, most of them never touched; some 70 GB were found to do
SUFFIXES = (".html", ".png", ".svg", ".pdf")

__all__ = ["FIGURES", "SUFFIXES", "require_libraries", "write"]


def require_libraries() -> None:
    """Raises `OutputError` where the plotting library is not installed."""
    if missing := [name for name in ("altair", "vl_convert") if find_spec(name) is None]:
        raise OutputError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed",
            "pip install 'bertprobe[report]'",
        )
    limit = _address_space()
    if limit is not None and limit < NEEDED:
        raise OutputError(
            f"this process may have {limit:,} bytes of address space, the program that draws needs {NEEDED:,}",
            "lift the limit: ulimit -v unlimited",
        )


def _address_space() -> int | None:
    """What a limit leaves this process, None where there is none: the JavaScript engine would end it without a word."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit


def write(report: Report, output: Output, figure: str | None = None) -> int:
    """Writes the page, or the figure of that name, whole or not at all; gives the bytes written.

    Raises `PartMissing` for a figure that this report has nothing for, `OutputError` for what cannot be written.
    """
    require_libraries()
    content = _page(report) if figure is None else _figure(report, figure, output.path.suffix)
    with atomic_write(output) as file:
        file.write(content)
    return len(content)


def _page(report: Report) -> bytes:
    from bertprobe.render.html.page import page

    return page(report).encode()


def _figure(report: Report, name: str, suffix: str) -> bytes:
    from bertprobe.render.html.files import figure

    content = figure(report, FIGURES[name], suffix)
    if content is None:
        raise PartMissing(f"there is nothing to draw in {name}: {FIGURES[name].absent}", f"choose from {_others(name)}")
    return content


def _others(name: str) -> str:
    names: Sequence[str] = [other for other in FIGURES if other != name]
    return ", ".join(names)
