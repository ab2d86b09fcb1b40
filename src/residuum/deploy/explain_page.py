"""Explanations as one self-contained page: every picture beside its map, and what could not be used with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from residuum import html
from residuum.deploy.explain import Explanation
from residuum.html import Html, Section

SHOWN = 200
"""The most pictures on a page: its reader's browser has to hold them all."""

_METHODS = {
    "grad-cam": "Grad-CAM weighs each channel of the network's map by how much the class's answer rises with it.",
    "layer-cam": "LayerCAM weighs each place of each channel of the network's map by how much the class's answer rises "
    "with it.",
    "occlusion": "Occlusion covers one place of the picture after the other, and looks how far the class's probability "
    "falls.",
}


@dataclass
class Page:
    """A page in the making: it takes explanations one by one, and keeps no more of them than it shows.

    `model` and `bundle` say who answers.
    """

    model: str
    bundle: str
    method: str
    stage: int | None
    _shown: list[Html] = field(default_factory=list)
    _errors: dict[str, str] = field(default_factory=dict)
    _explained: int = 0

    def add(self, explanation: Explanation) -> None:
        """Takes an explanation in."""
        if explanation.error is not None:
            self._errors[explanation.file] = explanation.error
            return
        self._explained += 1
        if self._explained <= SHOWN:
            self._shown.append(_figure(explanation))

    def write(self, path: Path) -> None:
        """Writes the page; raises OSError where that is refused."""
        html.write(path, html.page(self._title(), list(self._sections()), lead=self._lead(), foot=_FOOT))

    def _title(self) -> str:
        return f"What {self.model} looks at"

    def _lead(self) -> str:
        where = "" if self.stage is None else f" Read after stage {self.stage}."
        return f"{_METHODS[self.method]}{where}"

    def _sections(self) -> Sequence[Section]:
        said = html.paragraph(
            "The brighter a place, the more it speaks for the class. A line surrounds what has half of the most, or "
            "more; each map has its own scale. What is darker still is cut off before the network sees the picture."
        )
        counted = f"{self._explained:,} pictures, explained with the network in {self.bundle}."
        if self._explained > SHOWN:
            counted += f" The first {SHOWN} are shown; the folder has a file for each."
        sections = [
            Section("Pictures", html.join([said, html.paragraph(counted), html.gallery(self._shown, wide=True)]))
        ]
        if self._errors:
            table = html.table(["File", "Reason"], list(self._errors.items()), caption="No picture to explain.")
            sections.append(Section("Cannot be used", table))
        return sections


_FOOT = "Written by residuum. This file needs no network and no other file."


def _figure(explanation: Explanation) -> Html:
    from residuum.evaluation.heat import side_by_side  # imports Matplotlib
    from residuum.evaluation.pictures import MAX_PX, encode

    assert explanation.pixels is not None and explanation.heat is not None
    asked, said = explanation.asked_in_words, explanation.said_in_words
    shown = encode(side_by_side(explanation.pixels, explanation.heat, explanation.seen), max_px=2 * MAX_PX)
    alt = f"{explanation.file}, and what speaks for {asked}"
    lines = [html.element("strong", said), f"what speaks for {asked}", explanation.file]
    if explanation.peak is None:
        lines[1] = f"nothing speaks for {asked}"
    return html.thumbnail(shown, alt, *lines)
