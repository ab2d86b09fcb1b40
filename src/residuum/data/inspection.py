"""Reads every picture of a set once, completely, and remembers what is odd about its file and how it looks.

Threads decode; of a picture nothing is kept but a row of `similarity.Features` and the remarks about it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from residuum import imaging
from residuum.data.sets import BytesSet, FileSet, ImageSet, StreamedSet
from residuum.data.similarity import Features
from residuum.errors import PictureError
from residuum.imaging import FORMAT_OF_EXTENSION, Facts
from residuum.threads import cores

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the number of pictures that are done, and of all."""

Source: TypeAlias = str | bytes
"""A picture's path or its encoded bytes."""

_CHUNK = 32
"""Pictures that a thread reads at a time."""
_HEAD = 512
"""So many first bytes tell what a file is that is no picture."""

_TURNED: Mapping[int, str] = {
    2: "mirrored",
    3: "turned by 180 degrees",
    4: "mirrored, upside down",
    5: "mirrored, lying on its side",
    6: "lying on its side",
    7: "mirrored, lying on its side",
    8: "lying on its side",
}
"""EXIF orientation -> how the picture is stored."""

_BEGINNINGS: Sequence[tuple[bytes, str]] = (
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive or an office document"),
    (b"8BPS", "a Photoshop file"),
    (b"<svg", "an SVG drawing"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"<?xml", "an XML file"),
    (b"version https://git-lfs", "a pointer of Git LFS and not the file itself"),
)
_BRANDS: Mapping[bytes, str] = {b"avif": "an AVIF picture", b"avis": "an AVIF picture"} | dict.fromkeys(
    (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), "a HEIC photo"
)
"""Major brands of ISO base media files (ISO/IEC 14496-12, section 4.3), as HEIF and AVIF use them."""

_PICTURE_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\x00", b"MM\x00*")


@dataclass(frozen=True)
class Inspection:
    """What was seen of N pictures, the parts one after the other. `remarks` are kind -> row -> what to say of it, the
    rows rising."""

    features: Features
    remarks: dict[str, dict[int, str]]


def inspect(parts: Sequence[ImageSet], *, workers: int = 0, progress: Progress | None = None) -> Inspection:
    """Reads every picture of `parts` with `workers` threads (0: as many as there are processors)."""
    total = sum(len(images) for images in parts)
    features = Features(total)
    remarks: dict[str, dict[int, str]] = {}
    done = 0
    threads = workers or cores()
    with ThreadPoolExecutor(threads, thread_name_prefix="residuum-check") as pool:
        running: deque[Future[list[tuple[int, str, str]]]] = deque()

        def finish() -> None:
            for row, kind, remark in running.popleft().result():
                remarks.setdefault(kind, {})[row] = remark

        for images, indices, first in _chunks(parts):
            running.append(pool.submit(_read, images, indices, first, features))
            # A few ahead and no more, so that memory stays flat and an interruption is heard.
            if len(running) > 4 * threads:
                finish()
                done += _CHUNK
                if progress is not None:
                    progress(min(done, total), total)
        while running:
            finish()
    if progress is not None:
        progress(total, total)
    return Inspection(features, remarks)


def _chunks(parts: Sequence[ImageSet]) -> Iterator[tuple[ImageSet, range, int]]:
    """Yields some pictures of a part by index, and the row at which the part begins."""
    first = 0
    for images in parts:
        for start in range(0, len(images), _CHUNK):
            yield images, range(start, min(start + _CHUNK, len(images))), first
        first += len(images)


def _read(images: ImageSet, indices: range, first: int, features: Features) -> list[tuple[int, str, str]]:
    """Reads some pictures into `features`; returns (row, kind, remark) of what is odd."""
    odd = []
    for index in indices:
        source = _source(images, index)
        try:
            if source is None:
                picture, facts = images.open(index), None
            else:
                picture, facts = imaging.examine(source, name=images.name(index))
        except PictureError as error:
            odd.append((first + index, *_fault(error.reason, source)))
            continue
        features.remember(first + index, picture)
        if facts is not None:
            odd += [(first + index, kind, remark) for kind, remark in _oddities(facts, source)]
    return odd


def _source(images: ImageSet, index: int) -> Source | None:
    """Returns the path or the encoded bytes of a picture; None where there are only pixels, or a row without bytes."""
    if isinstance(images, FileSet):
        return images.paths[index if images.rows is None else int(images.rows[index])]
    return images.source(index) if isinstance(images, BytesSet | StreamedSet) else None


def _oddities(facts: Facts, source: Source | None) -> Iterator[tuple[str, str]]:
    """Yields (kind, remark) for everything about a good picture that its owner may want to know."""
    extension = os.path.splitext(source)[1].lower() if isinstance(source, str) else ""  # noqa: PTH122 (may be a million)
    if FORMAT_OF_EXTENSION.get(extension, facts.format) != facts.format:
        yield "wrong-extension", f"{facts.format} inside"
    if facts.orientation in _TURNED:
        yield "rotated", _TURNED[facts.orientation]
    if facts.bits > 8:
        yield "16-bit", f"{facts.bits} bits a channel"
    if facts.mode == "CMYK":
        yield "cmyk", "CMYK"
    if facts.alpha:
        yield "alpha", facts.mode
    if facts.frames > 1 and facts.format != "JPEG":  # a JPEG's other frames are previews and depth maps
        yield "animated", f"{facts.frames} frames"


def _fault(reason: str, source: Source | None) -> tuple[str, str]:
    """Returns (kind, remark) of a picture that cannot be used; the remark is empty where the kind says it all."""
    if reason == "the file is empty":
        return "empty", ""
    if reason == "there is no such file":
        return "missing", ""
    if reason.startswith("the file is truncated"):
        return "truncated", ""
    if not reason.startswith("it is not an image"):
        return "unreadable", reason
    head = _head(source)
    if head.startswith(_PICTURE_BEGINNINGS):
        return "unreadable", "it begins like a picture, and its header is broken or cut off"
    return "not-an-image", _what_it_is(head)


def _head(source: Source | None) -> bytes:
    if isinstance(source, str):
        try:
            with Path(source).open("rb") as file:
                return file.read(_HEAD)
        except OSError:
            return b""
    return (source or b"")[:_HEAD]


def _what_it_is(head: bytes) -> str:
    """Says what a file is that is not a picture of a known format."""
    if head[4:8] == b"ftyp":
        return f"it is {_BRANDS.get(head[8:12], 'a video')}"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for beginning, what in _BEGINNINGS:
        if start.startswith(beginning.lower()):
            return f"it is {what}"
    text = head.decode("utf-8", "replace").rstrip("\N{REPLACEMENT CHARACTER}")  # the last letter may be cut through
    is_text = all(letter.isprintable() or letter.isspace() for letter in text) and "\ufffd" not in text
    return "it is text" if text and is_text else "it is of no known format"
