"""The page of a search: pictures like each query, or near-duplicates side by side, with thumbnails.

Pictures are opened again for their thumbnails; one that is not there any more is a grey square with its name. The page
holds everything in itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from residuum import html, imaging
from residuum.data.paths import displayed
from residuum.deploy.search import Answer, Duplicates, Index, Match
from residuum.errors import PictureError
from residuum.evaluation.pictures import encode, is_small
from residuum.html import Html, Section

THUMBNAIL_PX = 224
SHOWN_PAIRS = 200
"""So many pairs are shown with thumbnails; --json has them all."""

_CARD = "background: var(--raised); border-radius: 0.6rem; padding: 0.9rem 0.9rem 0.8rem; margin: 0"
_CARDS = "display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); gap: 1rem"
_TWO = "grid-template-columns: 1fr 1fr; margin: 0"
_QUERY = "max-width: 12rem; margin: 0 0 1.4rem"
_FOOT = "Written by residuum. This file needs no network and no other file."


def write_answers(
    path: Path, index: Index, name: str, pictures: Sequence[str | bytes], answers: Sequence[Answer]
) -> None:
    """Writes the page of queries, `pictures`, and what is like each of them; raises OSError where it cannot."""
    sections = [
        Section(
            f"Like {_last(answer.file)}" if len(answers) == 1 else f"{number}. {_last(answer.file)}",
            _answer(index, picture, answer),
        )
        for number, (picture, answer) in enumerate(zip(pictures, answers, strict=True), start=1)
    ]
    lead = f"The most similar of {len(index):,} pictures, by the cosine of their vectors."
    html.write(path, html.page(f"Search in {displayed(name)}", sections, lead=lead, top=_facts(index), foot=_FOOT))


def write_duplicates(path: Path, index: Index, name: str, found: Duplicates) -> None:
    """Writes the page of near-duplicates; raises OSError where it cannot."""
    shown = found.pairs[:SHOWN_PAIRS]
    cards = html.element("div", *(_pair(index, first, second) for first, second in shown), style=_CARDS)
    more = f" The {len(shown):,} most similar are shown." if found.pairs_found > len(shown) else ""
    words = (
        f"{found.pairs_found:,} pairs of {len(index):,} pictures have a similarity of at least {found.least:g}.{more}"
    )
    sections = [Section("Pairs", cards)] if shown else []
    html.write(
        path, html.page(f"Near-duplicates in {displayed(name)}", sections, lead=words, top=_facts(index), foot=_FOOT)
    )


def _facts(index: Index) -> Html:
    made = index.made
    pooled = "pooled" if made.pooled else "not pooled"
    return html.facts(
        {
            "Network": f"{made.model['name']}, {made.bundle or made.weights}",
            "Vector": f"{made.dim:,} numbers, stage {made.stage}, {pooled}",
            "Search": "exact" if index.is_exact else "approximate: neighbours may be missing",
        }
    )


def _answer(index: Index, picture: str | bytes, answer: Answer) -> Html:
    if answer.error is not None:
        return html.note(f"{answer.file} cannot be used: {answer.error}.")
    asked = _thumbnail(partial(imaging.open_picture, picture, "RGB", name=answer.file), answer.file, "the query")
    found = [_thumbnail(partial(index.picture, match.at), match.file, *_lines(match)) for match in answer.found]
    return html.join([html.element("div", asked, style=_QUERY), html.gallery(found)])


def _pair(index: Index, first: Match, second: Match) -> Html:
    both = [_thumbnail(partial(index.picture, match.at), match.file, *_lines(match)[1:]) for match in (first, second)]
    head = html.paragraph(html.element("strong", f"{first.similarity:.4f}"))
    return html.element("div", head, html.element("div", *both, class_="gallery", style=_TWO), style=_CARD)


def _lines(match: Match) -> list[object]:
    label = [] if match.label is None else [match.label]
    return [html.element("strong", f"{match.similarity:.4f}"), *label]


def _thumbnail(opened: Callable[[], Image.Image], name: str, *lines: object) -> Html:
    """A picture with lines and its name under it."""
    try:
        picture = opened()
        if min(picture.size) > THUMBNAIL_PX:
            picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
        pixels = np.asarray(picture)
    except PictureError as error:
        pixels, lines = np.full((128, 128), 200, np.uint8), (*lines, error.reason)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    return html.thumbnail(encode(pixels), name, *lines, _last(name), small=is_small(pixels))


def _last(name: str) -> str:
    """Returns a path's last part, which is what fits under a thumbnail."""
    return name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
