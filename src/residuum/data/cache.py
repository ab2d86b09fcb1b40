"""A cache: the pictures of a set, decoded once, as pixels in one file that is mapped into memory.

A folder of its own, which `--data` takes like the set that it was made of, with the same classes, parts, names and
order of the pictures, so that a seed divides both in the same way:

    pixels.bin            uint8, the pictures end to end, each [H, W, C]; spare bytes behind the last
    index.safetensors     where each begins, its size, its label, its name; what the system says of its file
    residuum-cache.json   what it was made of, and how
    SHA256SUMS            the hash of each file, as `sha256sum -c` reads it

It is written aside and renamed when it is complete (see `cache_writer`). When it is opened, the small files are checked
against their hashes and the large one against its size; `residuum check` reads all of it. A set that is still where it
was must be what it was: files are compared by name, size and time, as rsync does.

Shapes: M pictures of all parts, end to end.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from residuum import pixels
from residuum.data.labels import SEPARATOR, Reading, are_several
from residuum.data.mapped import Blob, MappedSet
from residuum.data.order import spread
from residuum.data.parts import ORDER, Found, PartName
from residuum.data.paths import Paths, displayed
from residuum.data.sets import FileSet, ImageSet
from residuum.errors import DataError
from residuum.imaging import Mode
from residuum.userpath import expanded

FORMAT = 1
"""The number of the layout; one that is not known is refused."""

PIXELS, INDEX, CARD, SUMS = "pixels.bin", "index.safetensors", "residuum-cache.json", "SHA256SUMS"

ASKED_LIMIT = 100_000
"""Of a larger set only ..."""
ASKED_SAMPLE = 10_000
"""... so many files are asked for their size and time, spread evenly; their names are all compared."""

_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9.-]+)")
_FILES = (PIXELS, INDEX, CARD)


@dataclass(frozen=True)
class Card:
    """What a cache says of itself.

    `source` is the set as it was named, `place` where it is if it is on this machine's disk, `root` what the names of
    its pictures begin with; `files` are its shards with size and time, if it has any; `bad` is why a picture could not
    be used, by its place; `notes` and `warnings` are what the set was found with, `labels` how those of a
    table were read.
    """

    source: str
    place: str | None
    root: str
    kind: str
    classes: tuple[str, ...]
    mode: Mode
    px: int
    interpolation: pixels.Interpolation
    parts: dict[PartName, int]
    divided: bool
    bytes: int
    bad: dict[int, str]
    files: dict[str, list[int]]
    notes: dict[str, object]
    warnings: list[str]
    labels: Reading = "auto"


def is_cache(folder: Path) -> bool:
    """Whether `folder` is a cache, be it incomplete."""
    return os.path.isfile(folder / CARD)  # noqa: PTH113 (which refuses nothing: what may not be looked at is none)


def made_of(source: str) -> str:
    """Returns where the set is that the cache `source` was made of; `source` itself where it is no cache."""
    folder = expanded(source)
    if not is_cache(folder):
        return source
    card = read_card(folder)
    return card.place or card.source


def find(folder: Path, find_source: Callable[[str, Reading], Found], labels: Reading = "auto") -> Found:
    """Returns the parts that a cache holds; `find_source` finds the set that it was made of, if that is still there.

    Raises:
        DataError: the cache is incomplete or damaged, the set has changed since, or its labels were read in
            another way than `labels` says.
    """
    card = read_card(folder)
    index = _read_index(folder, card)
    _refuse_other_reading(folder, card, index, labels)
    sizes, starts, paths = index["sizes"], index["starts"], Paths.from_arrays("", index)
    _refuse_changed(folder, card, index, paths, find_source)
    blob = Blob(_mapped(folder, card), starts, sizes, card.mode, paths, card.bad)
    parts: dict[PartName, ImageSet] = {}
    first = 0
    for part, count in card.parts.items():
        rows = np.arange(first, first + count)
        parts[part] = MappedSet(blob, index["labels"][rows], card.classes, card.mode, rows)
        first += count
    made = {"source": card.source, "root": card.root, "px": card.px, "interpolation": card.interpolation}
    return Found("cache", parts, card.divided, {**card.notes, "made_of": made}, card.warnings)


def _refuse_other_reading(folder: Path, card: Card, index: dict[str, NDArray[Any]], labels: Reading) -> None:
    """Raises DataError where | in a label was taken for a letter, and is to be a separator now, or the reverse."""
    letter = card.labels == "one" and any(SEPARATOR in name for name in card.classes)
    if not (letter if labels == "several" else labels == "one" and are_several(index["labels"])):
        return
    were, wanted = (
        ("one class each, with | as a letter", "several") if letter else ("several classes, with | between", "one")
    )
    raise DataError(
        f"The cache {displayed(str(folder))} was made of labels that were read as {were}.",
        expected=f"Expected data.labels = '{'one' if letter else 'several'}' or 'auto' for it.",
        hint=f"Make it again: residuum cache {card.source} --labels {wanted} --out {displayed(str(folder))}",
    )


def verify(folder: Path) -> None:
    """Reads all of a cache; raises DataError where a file is not what its hash says."""
    for name, expected in _sums(folder).items():
        try:
            with (folder / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise _unusable(folder, f"{name} cannot be read ({error.strerror})") from error
        if found != expected:
            raise _unusable(folder, f"the content of {name} is not what {SUMS} says: its SHA-256 is {found}")


def read_card(folder: Path) -> Card:
    """Returns what a cache says of itself; raises DataError where it is incomplete, damaged or of an unknown layout."""
    try:
        told: dict[str, Any] = json.loads(_checked(folder, CARD))
        if told.get("format") != FORMAT:
            raise _unusable(folder, f"its layout is {told.get('format')!r}, and this version reads {FORMAT}")
        del told["format"]
        told["classes"] = tuple(told["classes"])
        told["bad"] = {int(place): reason for place, reason in told["bad"].items()}
        return Card(**told)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _unusable(folder, f"{CARD} is malformed ({error})") from error


def stamps(images: ImageSet) -> NDArray[np.int64] | None:
    """Returns the size and the time of change of each picture's file, int64 [N, 2], -1 where there is none; None where
    the pictures are not in files of their own. Of a large set only a sample is asked for, and the others are 0."""
    if not isinstance(images, FileSet):
        return None
    found = np.zeros((len(images), 2), dtype=np.int64)
    for index in spread(len(images), ASKED_SAMPLE if len(images) > ASKED_LIMIT else len(images)).tolist():
        found[index] = stamp(images.paths[index if images.rows is None else int(images.rows[index])])
    return found


def stamp(path: str) -> tuple[int, int]:
    """Returns the size and the time of change of a file, or -1 twice where there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 (a million times)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def names_of(parts: dict[PartName, ImageSet], root: str) -> Iterator[str]:
    """Yields what the pictures of all parts are called, without the root."""
    for images in (parts[part] for part in ORDER if part in parts):
        yield from (images.name(index).removeprefix(root) for index in range(len(images)))


def _mapped(folder: Path, card: Card) -> NDArray[np.uint8]:
    path = folder / PIXELS
    try:
        size = path.stat().st_size
        if size != card.bytes:
            raise _unusable(folder, f"{PIXELS} has {size:,} bytes and not the {card.bytes:,} that were written")
        return np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
    except OSError as error:
        raise _unusable(folder, f"{PIXELS} cannot be read ({error.strerror})") from error


def _read_index(folder: Path, card: Card) -> dict[str, NDArray[Any]]:
    """Returns the arrays of a cache, of which none leads outside of its pixels."""
    try:
        index = safetensors.numpy.load(_checked(folder, INDEX))
        starts, sizes, labels = index["starts"], index["sizes"], index["labels"]
        channels = 3 if card.mode == "RGB" else 1
        ends = starts + sizes.astype(np.int64).prod(axis=1) * channels
        total = sum(card.parts.values())
        several = (total, len(card.classes)) if are_several(labels) else (total,)
        if not (starts.shape == (total,) and sizes.shape == (total, 2) and len(index["ends"]) == total):
            raise ValueError(f"it has not {total} pictures")
        if labels.shape != several:
            raise ValueError(f"its labels are not those of {total} pictures and {len(card.classes)} classes")
        if total and not (
            starts.min() >= 0
            and sizes.min() >= 0
            and ends.max() <= card.bytes - pixels.SPARE_BYTES
            and 0 <= labels.min(initial=0) <= labels.max(initial=0) < (2 if are_several(labels) else len(card.classes))
        ):
            raise ValueError("it leads outside")
        Paths.from_arrays("", index)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _unusable(folder, f"{INDEX} is malformed ({error})") from error
    return dict(index)


def _checked(folder: Path, name: str) -> bytes:
    """Returns the content of a file, which is what its hash says."""
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise _unusable(folder, f"{name} cannot be read ({error.strerror})") from error
    if (found := hashlib.sha256(content).hexdigest()) != _sums(folder)[name]:
        raise _unusable(folder, f"the content of {name} is not what {SUMS} says: its SHA-256 is {found}")
    return content


def _sums(folder: Path) -> dict[str, str]:
    try:
        lines = (folder / SUMS).read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(folder, f"{SUMS} is missing or cannot be read") from error
    found = {match[2]: match[1] for line in lines if (match := _LINE.fullmatch(line))}
    if len(found) != len(lines) or set(found) != set(_FILES):
        raise _unusable(folder, f"{SUMS} does not list {', '.join(_FILES)}")
    return found


def _refuse_changed(
    folder: Path,
    card: Card,
    index: dict[str, NDArray[Any]],
    paths: Paths,
    find_source: Callable[[str, Reading], Found],
) -> None:
    """Raises DataError where the set that the cache was made of is still there, and is another one now."""
    changed = ""
    if card.files:
        others = [name for name, then in card.files.items() if (now := stamp(name))[0] >= 0 and list(now) != then]
        changed = f"{_these(len(others), 'file')} different, such as {displayed(others[0])}" if others else ""
    elif card.place is not None and "stamps" in index and Path(card.place).exists():
        try:
            found = find_source(card.place, card.labels)
        except DataError:
            return  # what is there now is no set any more: the cache is all that there is
        changed = _difference(card, index, paths, found)
    if changed:
        raise DataError(
            f"The cache {displayed(str(folder))} was made of {card.source}, which has changed since: {changed}.",
            expected="Expected the same files as then, by name, size and time.",
            hint=f"Make it again: residuum cache {card.source} --out {displayed(str(folder))}",
        )


def _difference(card: Card, index: dict[str, NDArray[Any]], paths: Paths, found: Found) -> str:
    """Returns how the set differs from what it was, in words; nothing where it does not."""
    root = next((displayed(part.paths.root) for part in found.parts.values() if isinstance(part, FileSet)), "")
    then = (displayed(paths[place]).removeprefix(card.root) for place in range(len(index["labels"])))
    if sum(map(len, found.parts.values())) != len(index["labels"]) or any(
        one != other for one, other in zip(then, names_of(found.parts, root), strict=True)
    ):
        before = {displayed(paths[place]).removeprefix(card.root) for place in range(len(index["labels"]))}
        now = set(names_of(found.parts, root))
        counts = [(len(now - before), "new"), (len(before - now), "gone")]
        told = [f"{_these(count, 'picture')} {what}" for count, what in counts if count]
        example = min((now - before) or (before - now), default="")
        return f"{', '.join(told)}, such as {example}" if told else "its pictures are in other parts"
    labels = [found.parts[part].labels for part in ORDER if part in found.parts]
    classes = next(iter(found.parts.values())).classes
    if classes != card.classes or not np.array_equal(np.concatenate(labels), index["labels"]):
        return "its classes or labels are others"
    stamped = [stamps(found.parts[part]) for part in ORDER if part in found.parts]
    now_stamped = np.concatenate([part for part in stamped if part is not None])
    others = np.flatnonzero((now_stamped != index["stamps"]).any(axis=1))
    if len(others) == 0:
        return ""
    return f"{_these(len(others), 'picture')} different, such as {displayed(paths[int(others[0])])}"


def _these(count: int, what: str) -> str:
    return f"{count:,} {what} is" if count == 1 else f"{count:,} {what}s are"


def _unusable(folder: Path, reason: str) -> DataError:
    return DataError(
        f"The cache {displayed(str(folder))} cannot be used: {reason}.",
        expected=f"Expected {', '.join((*_FILES, SUMS))} as 'residuum cache' wrote them.",
        hint="Make it again: residuum cache DATA --out DIR",
    )
