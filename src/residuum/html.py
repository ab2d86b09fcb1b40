"""Pages for people: the few pieces that every HTML report is built from, each page one file that needs nothing else.

Text is escaped unless it is `Html`, which only the functions here make. A page has no script and no outside link, and
its content security policy forbids both; it follows the reader's light or dark scheme and the width of the screen.
"""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape as escape_markup
from importlib.resources import files
from pathlib import Path


class Html(str):
    """Text that is HTML already, and is not escaped again."""

    __slots__ = ()


_VOID = {"img", "meta", "br"}
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]")


def escape(text: object) -> Html:
    """Returns `text` as a browser must read it to show it; control characters and lone surrogates are marked."""
    if isinstance(text, Html):
        return text
    encodable = str(text).encode("utf-8", "backslashreplace").decode("utf-8")
    return Html(escape_markup(_UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", encodable)))


def join(parts: Iterable[object]) -> Html:
    """Returns the parts one after the other, each escaped."""
    return Html("".join(escape(part) for part in parts))


def element(tag: str, *children: object, **attributes: object) -> Html:
    """Returns an element; a trailing underscore in an attribute's name is dropped (`class_`), others become hyphens."""
    words = "".join(f' {name.rstrip("_").replace("_", "-")}="{escape(value)}"' for name, value in attributes.items())
    return Html(f"<{tag}{words}>" if tag in _VOID else f"<{tag}{words}>{join(children)}</{tag}>")


def paragraph(*children: object) -> Html:
    """A paragraph."""
    return element("p", *children)


def note(*children: object) -> Html:
    """A remark that must not be overlooked."""
    return element("p", *children, class_="note")


def code(text: str) -> Html:
    """Lines to copy: a command, a file."""
    return element("pre", element("code", text), tabindex="0")


def details(summary: str, *children: object) -> Html:
    """Something to open when wanted."""
    return element("details", element("summary", summary), *children)


def tiles(numbers: Iterable[tuple[str, str, str]]) -> Html:
    """Headline numbers: (what, value, remark) each."""
    return element(
        "dl",
        *(
            element("div", element("dt", what), element("dd", value), element("dd", remark, class_="remark"))
            for what, value, remark in numbers
        ),
        class_="tiles",
    )


def facts(pairs: Mapping[str, object]) -> Html:
    """Name and value, one pair a line."""
    rows = (element("div", element("dt", name), element("dd", value)) for name, value in pairs.items())
    return element("dl", *rows, class_="facts")


def table(head: Sequence[object], rows: Iterable[Sequence[object]], *, caption: str) -> Html:
    """A table; numbers (int, float, and text in `number`) stand to the right. `caption` says what it shows."""
    body = [[(cell, _is_number(cell)) for cell in row] for row in rows]
    right = [bool(body) and all(row[column][1] for row in body) for column in range(len(head))]
    cells = [[element("td", cell, **_right(number)) for cell, number in row] for row in body]
    whole = element(
        "table",
        element("caption", caption),
        element(
            "thead",
            element("tr", *(element("th", h, scope="col", **_right(r)) for h, r in zip(head, right, strict=True))),
        ),
        element("tbody", *(element("tr", *row) for row in cells)),
    )
    return element("div", whole, class_="scroll", role="region", aria_label=caption, tabindex="0")


def number(value: float, decimals: int = 0, unit: str = "") -> Html:
    """A number with thousands separated; in a table it stands to the right."""
    return element("span", f"{value:,.{decimals}f}{unit}", class_="number")


def bar(percent: float) -> Html:
    """A number of percent, and a bar of as much of its length, in a table."""
    width = f"{min(max(percent, 0.0), 100.0):.2f}%"
    return element("span", f"{percent:.1f}", class_="bar", style=f"--part:{width}")


def chart(png: bytes, alt: str, caption: object = "") -> Html:
    """A drawing on white, 1.5 pixels to one of the page's; in the dark scheme its lightness is turned round."""
    width = int.from_bytes(png[16:20], "big") / 1.5  # the first field of a PNG's first chunk
    image = _image(png, alt, style=f"--width:{width:.0f}px")
    return element("figure", element("div", image, class_="scroll"), _caption(caption), class_="chart")


def thumbnail(picture: bytes, alt: str, *lines: object, small: bool = False) -> Html:
    """A picture (PNG or JPEG) of a gallery, with lines of text under it; a `small` one is enlarged in squares."""
    shown = _image(picture, alt, **({"class_": "small"} if small else {}))
    return element("figure", shown, element("figcaption", *(element("div", line) for line in lines)))


def gallery(thumbnails: Iterable[Html], *, wide: bool = False) -> Html:
    """Thumbnails side by side, as many a line as fit; `wide` ones have room for two pictures each."""
    return element("div", *thumbnails, class_="gallery wide" if wide else "gallery")


@dataclass(frozen=True)
class Section:
    """A part of a page, with its heading."""

    title: str
    body: Html

    @property
    def anchor(self) -> str:
        """The name by which the table of contents finds the section."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def page(title: str, sections: Sequence[Section], *, lead: object = "", top: object = "", foot: object = "") -> str:
    """Returns a whole document: the title, what it says in a sentence (`lead`), `top`, the contents, the sections."""
    contents = (element("a", section.title, href=f"#{section.anchor}") for section in sections)
    body = element(
        "main",
        element("header", element("h1", title), element("p", lead, class_="lead")),
        top,
        element("nav", *contents, aria_label="Contents"),
        *(element("section", element("h2", s.title), s.body, id=s.anchor) for s in sections),
        element("footer", foot),
    )
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Html(files("residuum").joinpath("page.css").read_text(encoding="utf-8"))),
    )
    return f"<!doctype html>\n{element('html', head, element('body', body), lang='en')}\n"


def write(path: Path, document: str) -> None:
    """Writes a page aside and renames it, so that a reader finds the older or the newer one whole."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        aside.write_text(document, encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _image(picture: bytes, alt: str, **attributes: object) -> Html:
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    source = f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}"
    return element("img", src=source, alt=alt, **attributes)


def _caption(caption: object) -> Html:
    return element("figcaption", caption) if caption else Html("")


def _is_number(cell: object) -> bool:
    return isinstance(cell, int | float) or (isinstance(cell, Html) and cell.startswith('<span class="number'))


def _right(number: bool) -> dict[str, str]:
    return {"class_": "right"} if number else {}
