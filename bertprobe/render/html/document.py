"""What every page is made of: a head that lets only its own scripts run and asks for nothing, and data in the page."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from bertprobe.render.html.theme import variables
from bertprobe.render.markup import Markup, element

POLICY = "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def document(head: Markup, body: Markup) -> str:
    """The whole page."""
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def head(title: str, scripts: Sequence[str], style: str) -> Markup:
    """A head whose policy allows these scripts alone, by their hashes, and no request."""
    sums = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    policy = Markup(f"default-src 'none'; script-src {sums}; {POLICY}")
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("link", rel="icon", href="data:,"),
        element("style", Markup(variables() + style)),
    )


def resource(name: str) -> str:
    """A style sheet or script that lies beside this module."""
    return (files("bertprobe.render.html") / name).read_text(encoding="utf-8")


def data_script(name: str, value: Any) -> Markup:
    """Data for a script: no character in it can end the element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return element("script", Markup(text), type="application/json", id=name)
