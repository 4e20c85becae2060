"""The colours, light and dark, by the names that charts, drawing and style sheet share."""

from __future__ import annotations

import re

PALETTES = {
    "light": {
        "paper": "#ffffff",
        "ink": "#191c1f",
        "soft": "#555b63",
        "line": "#868c95",
        "grid": "#e4e7ea",
        "wash": "#f4f6f8",
        "plain": "#0072b2",
        "odd": "#c44e00",
        "mark": "#9c1f6b",
        "tint": "#e3f0f8",
        "tint-odd": "#fcebdf",
    },
    "dark": {
        "paper": "#14171a",
        "ink": "#eceef0",
        "soft": "#aab1b9",
        "line": "#737a83",
        "grid": "#2c3238",
        "wash": "#1c2024",
        "plain": "#56b4e9",
        "odd": "#f09a4a",
        "mark": "#ec9bcb",
        "tint": "#12303f",
        "tint-odd": "#3d2613",
    },
}


def resolved(text: str, palette: str = "light") -> str:
    """A text with the colours of a palette in the place of their names, for files that no style sheet goes with."""
    colours = PALETTES[palette]
    return re.sub(r"var\(--([a-z-]+)\)", lambda match: colours.get(match[1], match[0]), text)


def variables() -> str:
    """The palettes as CSS: light, dark where the reader prefers it, and always light on paper."""
    light, dark = (";".join(f"--{name}:{value}" for name, value in PALETTES[p].items()) for p in ("light", "dark"))
    return (
        f":root{{color-scheme:light dark;{light}}}"
        f"@media (prefers-color-scheme: dark){{:root{{{dark}}}}}"
        f"@media print{{:root{{color-scheme:light;{light}}}}}"
    )
