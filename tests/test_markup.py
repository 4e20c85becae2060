"""HTML out of elements: whatever is put into one is text, unless it is an element itself."""

from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from bertprobe.errors import printable
from bertprobe.render.markup import element, joined, table


class Seen(HTMLParser):
    """The tags, attributes and texts that a browser would see."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: dict[str, str | None] = {}
        self.words = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= dict(attrs)

    def handle_data(self, data: str) -> None:
        self.words += data


@given(st.text(), st.text())
def test_no_text_becomes_markup(words: str, title: str) -> None:
    seen = Seen(element("p", words, element("b", words), aria_label=title, class_=None))
    assert seen.tags == ["p", "b"]
    assert seen.attributes == {"aria-label": printable(title)}
    assert seen.words == printable(words) * 2


def test_elements_without_content_have_no_end() -> None:
    assert joined(["a & b", element("br"), element("code", "<c>")]) == "a &amp; b<br><code>&lt;c&gt;</code>"


def test_a_table_is_its_head_and_its_rows() -> None:
    cells = [element("td", "1")]
    made = table(element("caption", "<"), [element("th", "n", scope="col")], [cells, cells], style="margin:0")
    assert made.startswith('<table style="margin:0"><caption>&lt;</caption><thead><tr><th scope="col">n</th></tr>')
    assert made.count("<tr><td>1</td></tr>") == 2
