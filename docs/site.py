"""What the site has that the folder has not: the built-in model's card, which lies in the package."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
CARD = ROOT / "bertprobe" / "pocket" / "README.md"


def on_files(files: Files, config: Any) -> Files:
    text = re.sub(r"\A---\n.*?\n---\n", "", CARD.read_text(encoding="utf-8"), flags=re.S)  # the Hub's own metadata
    files.append(File.generated(config, "card.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links to the card lead to the page made of it; evidence and hint of a finding begin a line."""
    markdown = re.sub(r"\n(\*(?:Evidence|Cure):\*)", r"<br>\n\1", markdown)
    up = "../" * page.file.src_uri.count("/")
    return re.sub(r"\]\((?:\.\./)+bertprobe/pocket/README\.md", f"]({up}card.md", markdown)
