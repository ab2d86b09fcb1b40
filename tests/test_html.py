"""Pages: whatever a text holds, the page shows it and stays well-formed, without scripts and outside links."""

from __future__ import annotations

import io
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from residuum import html

VOID = {"img", "meta", "br"}


class Reader(HTMLParser):
    """Reads a page as a browser would: its elements, its text, and whether every element is closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text.append(data)


def png(mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (30, 20)).save(file, "PNG")
    return file.getvalue()


def page_of(text: str) -> str:
    """A page with `text` in every place that takes one."""
    body = html.join(
        [
            html.paragraph(text),
            html.note(text),
            html.code(text),
            html.details(text, text),
            html.tiles([(text, text, text)]),
            html.facts({text: text}),
            html.table([text, "n"], [[text, html.bar(50)]], caption=text),
            html.chart(png(), text, text),
            html.gallery([html.thumbnail(png(), text, text, small=True)]),
        ]
    )
    return html.page(text, [html.Section(text, body)], lead=text, top=text, foot=text)


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1))
def test_any_text_is_shown_as_it_is_and_breaks_nothing(text: str) -> None:
    page = page_of(text)
    page.encode("utf-8")
    reader, plain = Reader(page), Reader(page_of("x"))
    assert [tag for tag, _ in reader.elements] == [tag for tag, _ in plain.elements]
    if text.isprintable():
        assert reader.text.count(text) >= 10


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "' onmouseover='alert(1)",
        "</style></table></section><h1>",
        "&lt;b&gt; & <!-- ",
        "caf\udce9 \x00\x1b[31m",
    ],
)
def test_hostile_texts_are_harmless(text: str) -> None:
    page = page_of(text)
    assert page.encode("utf-8")
    reader = Reader(page)
    assert [tag for tag, _ in reader.elements] == [tag for tag, _ in Reader(page_of("x")).elements]
    assert not [name for _, attributes in reader.elements for name in attributes if name.startswith("on")]


def test_a_page_needs_nothing_else_and_runs_nothing() -> None:
    page = page_of("x")
    elements = Reader(page).elements
    assert {"script", "link", "iframe", "object", "base", "form"}.isdisjoint(tag for tag, _ in elements)
    links = [value or "" for _, attributes in elements for name, value in attributes.items() if name in ("src", "href")]
    assert links
    assert all(link.startswith(("data:image/", "#")) for link in links)
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page.replace("&#x27;", "'")
    assert page.startswith("<!doctype html>")


def test_every_link_of_the_contents_leads_to_its_section() -> None:
    titles = ["How it learnt", "The <b> & the", "Überall"]
    elements = Reader(html.page("t", [html.Section(title, html.Html("")) for title in titles])).elements
    anchors = [attributes["href"] for tag, attributes in elements if tag == "a"]
    assert anchors == [f"#{attributes['id']}" for tag, attributes in elements if tag == "section"]
    assert len(set(anchors)) == 3


def test_markup_made_here_is_not_escaped_again() -> None:
    assert html.paragraph(html.element("strong", "a < b")) == "<p><strong>a &lt; b</strong></p>"
    assert html.escape(html.escape("&")) == "&amp;"


def test_numbers_stand_to_the_right_and_texts_do_not() -> None:
    cells = Reader(html.table(["name", "n"], [["a", html.number(1234.5, 1)], ["2", 7]], caption="c")).elements
    assert [attributes.get("class") for tag, attributes in cells if tag in ("th", "td")] == [None, "right"] * 3
    assert "1,234.5" in html.number(1234.5, 1)


def test_a_drawing_is_as_wide_as_it_was_drawn() -> None:
    assert "--width:20px" in html.chart(png(), "a drawing")


def test_writing_replaces_a_page_whole(tmp_path: Path) -> None:
    html.write(tmp_path / "report.html", "one")
    html.write(tmp_path / "report.html", "two")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "two"


def test_neither_torch_nor_matplotlib_come_with_it() -> None:
    script = "import sys, residuum.html; sys.exit(bool({'torch', 'matplotlib', 'numpy'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
