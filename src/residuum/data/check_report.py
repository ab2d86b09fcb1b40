"""The page that `residuum check` leaves: what was found, with thumbnails, copies side by side, classes as bars.

Pictures are opened again for their thumbnails, a few of each finding; the page holds everything in itself.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from residuum import html, imaging
from residuum.data.check import Checked
from residuum.data.findings import Finding, Severity
from residuum.data.paths import displayed
from residuum.errors import PictureError
from residuum.html import Html, Section

THUMBNAIL_PX = 224
SMALL_PX = 96
"""Pictures with a shorter side are stored as they are and shown enlarged."""
SHOWN_PICTURES = 12
SHOWN_GROUPS = 8
SHOWN_IN_GROUP = 4
LISTED_FILES = 12
LISTED_CLASSES = 30
MOST_FILES = 5000
"""So many names a finding gives in the page; --json has them all."""

_TITLES: dict[Severity, str] = {"harm": "Would harm training", "note": "Worth knowing"}
_BY_PATH = frozenset({"graphics", "stray-pictures"})
"""Kinds whose files are pictures that are not part of the set."""

_SPREAD = "display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 0 2.5rem"
_APART = f"{_SPREAD}; border-top: 1px solid var(--line); padding: 0.4rem 0"
_CARD = "background: var(--raised); border-radius: 0.6rem; padding: 0.9rem 0.9rem 0.8rem; margin: 1rem 0"
_SIDE_BY_SIDE = "grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); margin: 0"
_LIST = "margin: 1rem 0; padding: 0; list-style: none; font-size: 0.9rem"
_REMARK = "color: var(--quiet)"


def write_check_report(path: Path, checked: Checked) -> None:
    """Writes the page; raises OSError where it cannot."""
    html.write(path, compose(checked))


def compose(checked: Checked) -> str:
    """Returns the page as a document."""
    return html.page(
        f"Check of {displayed(checked.source)}",
        list(_sections(checked)),
        lead=_lead(checked),
        top=html.join([_tiles(checked), html.element("h3", checked.verdict)]),
        foot="Written by residuum, which changed none of the pictures. This file needs no network and no other file.",
    )


def _lead(checked: Checked) -> str:
    names = list(checked.splits)
    where = f", in {', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else ""
    return f"{checked.images:,} pictures of {len(checked.counts):,} classes{where}, each of them read."


def _tiles(checked: Checked) -> Html:
    harms = [finding for finding in checked.findings if finding.severity == "harm"]
    notes = len(checked.findings) - len(harms)
    splits = ", ".join(f"{count:,} {name}" for name, count in checked.splits.items())
    files = len({name for finding in harms for name in finding.files})
    return html.tiles(
        [
            ("Pictures", f"{checked.images:,}", splits if checked.survey.divided else "not divided into splits"),
            ("Classes", f"{len(checked.counts):,}", _range(checked)),
            ("Would harm training", f"{len(harms)}", f"{files:,} files or classes" if harms else "nothing"),
            ("Worth knowing", f"{notes}", "training goes well with these"),
        ]
    )


def _range(checked: Checked) -> str:
    totals = [sum(parts.values()) for parts in checked.counts.values()]
    if not totals:
        return ""
    return f"{min(totals):,} to {max(totals):,} pictures each" if min(totals) != max(totals) else f"{totals[0]:,} each"


def _sections(checked: Checked) -> Iterator[Section]:
    for severity, title in _TITLES.items():
        findings = [finding for finding in checked.findings if finding.severity == severity]
        if findings:
            yield Section(title, html.join(_finding(checked, finding) for finding in findings))
    if checked.counts:
        yield Section("Classes and splits", _classes(checked))
    yield Section("How it was checked", _method())


def findings(checked: Checked) -> Html:
    """What was found as a part of another page, under two headings."""
    return html.join(
        html.join([html.paragraph(html.element("strong", title)), *(_finding(checked, finding) for finding in found)])
        for severity, title in _TITLES.items()
        if (found := [finding for finding in checked.findings if finding.severity == severity])
    )


def _finding(checked: Checked, finding: Finding) -> Html:
    """What was found and what to do on the left, what it looks like on the right; one above the other if narrow."""
    what = html.element("h3", finding.what, style="margin-top: 0.9rem")
    said = html.element("div", what, html.paragraph(finding.do))
    seen = html.element("div", _groups(checked, finding) if finding.groups else _single(checked, finding))
    return html.element("div", said, seen, style=_APART)


def _single(checked: Checked, finding: Finding) -> Html:
    """The pictures of a finding where they can be shown, and the names of the others."""
    shown = []
    for place, name in enumerate(finding.files[:SHOWN_PICTURES]):
        picture = _picture(checked, finding, place)
        if picture is not None:
            shown.append(_thumbnail(picture, checked, name, finding.remarks.get(name, "")))
    gallery = html.gallery(shown) if shown else Html("")
    listed = [] if len(shown) == len(finding.files) else finding.files
    return html.join([gallery, _names(checked, finding, listed)])


def _groups(checked: Checked, finding: Finding) -> Html:
    """Copies, side by side."""
    cards = []
    rows = iter(finding.row_groups)
    for group in finding.groups[:SHOWN_GROUPS]:
        shown = []
        for name, row in zip(group[:SHOWN_IN_GROUP], next(rows), strict=False):
            picture = _open(checked, row)
            if picture is not None:
                shown.append(_thumbnail(picture, checked, name, finding.remarks.get(name, "")))
        more = len(group) - len(shown)
        pair = html.element("div", *shown, class_="gallery", style=_SIDE_BY_SIDE)
        cards.append(html.element("div", pair, _quiet(f"and {more:,} more") if more else "", style=_CARD))
    listed = finding.files if len(finding.groups) > SHOWN_GROUPS else []
    return html.join([*cards, _names(checked, finding, listed)])


def _names(checked: Checked, finding: Finding, files: Sequence[str]) -> Html:
    """Names as a list, folded away where there are many."""
    if not files:
        return Html("")
    items = []
    for name in files[:MOST_FILES]:
        remark = finding.remarks.get(name, "")
        items.append(html.element("li", _short(checked, name), _quiet(f", {remark}") if remark else ""))
    if len(files) > MOST_FILES:
        items.append(html.element("li", _quiet(f"and {len(files) - MOST_FILES:,} more: --json has them all")))
    listed = html.element("ul", *items, style=_LIST)
    return listed if len(files) <= LISTED_FILES else html.details(f"All {len(files):,}", listed)


def _quiet(text: str) -> Html:
    return html.element("span", text, style=_REMARK)


def _short(checked: Checked, name: str) -> str:
    """Returns a path as it is within the set."""
    root = checked.survey.root
    return name if root is None else name.removeprefix(f"{displayed(str(root))}/")


def _picture(checked: Checked, finding: Finding, place: int) -> Image.Image | None:
    """Returns a picture of a finding, or None where it is none or cannot be opened."""
    if place < len(finding.rows):
        return _open(checked, finding.rows[place])
    if finding.kind not in _BY_PATH:
        return None
    try:
        return imaging.open_picture(finding.files[place], at_least_px=THUMBNAIL_PX)
    except PictureError:
        return None


def _open(checked: Checked, row: int) -> Image.Image | None:
    _, images, index = checked.rows.find(row)
    try:
        return images.open(index, THUMBNAIL_PX)
    except PictureError:
        return None


def _thumbnail(picture: Image.Image, checked: Checked, name: str, remark: str) -> Html:
    """A picture with a remark, its folder and its name under it."""
    short = _short(checked, name)
    folder, slash, file_name = short.rpartition("/")
    lines = [html.element("strong", remark)] if remark else []
    lines += [_quiet(folder + slash)] if folder and folder.replace("/", ", ") != remark else []
    small = min(picture.size) < SMALL_PX and max(picture.size) <= 2 * THUMBNAIL_PX
    file = io.BytesIO()
    if small:
        picture.save(file, "PNG", optimize=True)
    else:
        picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
        picture.save(file, "JPEG", quality=82)
    return html.thumbnail(file.getvalue(), short, *lines, file_name, small=small)


def _classes(checked: Checked) -> Html:
    """How many pictures each class has in each split, as bars beside one another."""
    parts = list(checked.splits)
    most = {part: max((counts[part] for counts in checked.counts.values()), default=0) for part in parts}

    def row(name: str) -> list[object]:
        return [name, *(_bar(checked.counts[name][part], most[part]) for part in parts)]

    head = ["Class", *(part.capitalize() if checked.survey.divided else "Pictures" for part in parts)]
    names = list(checked.counts)
    total = [html.element("strong", "all"), *(_bar(checked.splits[part], 0) for part in parts)]
    said = "Pictures of each class. The longest bar of a column is its largest class."
    if len(names) <= LISTED_CLASSES:
        return html.table(head, [*map(row, names), total], caption=said)
    by_size = sorted(names, key=lambda name: sum(checked.counts[name].values()))
    ends = [*by_size[-LISTED_CLASSES // 2 :][::-1], *by_size[: LISTED_CLASSES // 2][::-1]]
    title = f"The {LISTED_CLASSES // 2} largest and the {LISTED_CLASSES // 2} smallest of {len(names):,} classes."
    return html.join(
        [
            html.table(head, [*map(row, ends), total], caption=title),
            html.details(f"All {len(names):,} classes", html.table(head, map(row, names), caption=said)),
        ]
    )


def _bar(count: int, most: int) -> Html:
    """A count, with a bar beside it where `most` says how much a whole bar is."""
    if not most:
        return html.element("span", f"{count:,}", class_="bar", style="--part: 0%; background: none")
    return html.element("span", f"{count:,}", class_="bar", style=f"--part: {100 * count / most:.1f}%")


def _method() -> Html:
    return html.join(
        [
            html.paragraph(
                "Every picture was decoded completely. Copies to the pixel have the same size and the same colours "
                "everywhere once decoded and turned upright, whatever their files are called or how they are stored."
            ),
            html.paragraph(
                "Pictures look the same where one is the other saved again, in another format or at another quality, "
                "resized, or made a little brighter. Crops, mirrored or turned copies and the next picture of a burst "
                "are not searched for: keep the pictures of one thing, person or place in one split."
            ),
        ]
    )
