"""Looks for everything in a set of pictures that would harm training, without touching a file.

`survey` says what there is, `inspection` reads every picture, `similarity` finds copies; here they become findings,
whose kinds, with severity and reason, are the table in `findings`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from residuum.data import similarity
from residuum.data.findings import KINDS, Finding, of_files, of_groups
from residuum.data.inspection import Inspection, Progress, inspect
from residuum.data.labels import are_several, counts, group_numbers, in_words
from residuum.data.paths import displayed
from residuum.data.sets import ImageSet
from residuum.data.similarity import Features
from residuum.data.survey import Survey, survey

SMALL_PX = 32
"""A shorter side below this is very small, unless those of half the set are."""
FEW_PICTURES = 10
IMBALANCE = 10
"""A class with so many times fewer training pictures than the largest is out of balance."""

_OF_PICTURES = (
    "missing", "empty", "truncated", "not-an-image", "unreadable",
    "wrong-extension", "rotated", "16-bit", "cmyk", "alpha", "animated",
)  # fmt: skip
"""The kinds that `inspect` remarks on."""

_UNUSABLE = frozenset({"missing", "empty", "truncated", "not-an-image", "unreadable"})
"""Those of them whose pictures nothing can be done with."""


@dataclass(frozen=True)
class Rows:
    """The pictures of all parts in one row, by number: what they are called, and what they are."""

    survey: Survey

    @property
    def parts(self) -> list[tuple[str, ImageSet]]:
        """The parts with their names, in order."""
        return list(self.survey.parts.items())

    def find(self, row: int) -> tuple[str, ImageSet, int]:
        """Returns the part that holds picture `row`, its name first, and the picture's index there."""
        for name, images in self.parts:
            if row < len(images):
                return name, images, row
            row -= len(images)
        raise IndexError(row)

    def name(self, row: int) -> str:
        """Returns what picture `row` is called."""
        _, images, index = self.find(row)
        return images.name(index)

    def home(self, row: int) -> str:
        """Returns the class of picture `row`, after its part where there are several."""
        part, images, index = self.find(row)
        label = in_words(images.labels[index], images.classes) or "none of the classes"
        return f"{part}, {label}" if self.survey.divided else label

    def labels(self) -> NDArray[np.int64]:
        """Returns a number for each picture, the same for the same class or classes: int64 [N]."""
        return group_numbers(np.concatenate([images.labels for _, images in self.parts] or [np.empty(0, np.int64)]))

    def part_numbers(self) -> NDArray[np.int64]:
        """Returns the number of each picture's part: int64 [N]."""
        return np.repeat(np.arange(len(self.parts)), [len(images) for _, images in self.parts])


@dataclass(frozen=True)
class Checked:
    """What a check says: the counts of each class and part, and the findings, harmful ones first."""

    source: str
    survey: Survey
    counts: dict[str, dict[str, int]]
    findings: tuple[Finding, ...]

    @property
    def images(self) -> int:
        """The number of pictures."""
        return sum(self.splits.values())

    @property
    def splits(self) -> dict[str, int]:
        """The number of pictures in each part."""
        return {name: len(images) for name, images in self.survey.parts.items()}

    @property
    def harmful(self) -> bool:
        """Whether anything would harm training."""
        return any(finding.severity == "harm" for finding in self.findings)

    @property
    def unusable(self) -> frozenset[int]:
        """The rows of the pictures that cannot be used, as far as they were read."""
        return frozenset(row for finding in self.findings if finding.kind in _UNUSABLE for row in finding.rows)

    def with_findings(self, more: Iterable[Finding]) -> Checked:
        """Returns the check with more findings among its own, harmful ones first, then in the order of `KINDS`."""
        order = list(KINDS)
        findings = [*self.findings, *more]
        findings.sort(key=lambda finding: (finding.severity != "harm", order.index(finding.kind)))
        return replace(self, findings=tuple(findings))

    @property
    def verdict(self) -> str:
        """The outcome in a sentence."""
        harms = sum(finding.severity == "harm" for finding in self.findings)
        notes = len(self.findings) - harms
        if harms:
            return f"Not ready to train on: {harms} {'thing' if harms == 1 else 'things'} would harm training."
        also = f"; {notes} {'thing is' if notes == 1 else 'things are'} worth knowing" if notes else ""
        return f"Ready to train on: nothing would harm training{also}."

    @property
    def rows(self) -> Rows:
        """The pictures by number, as findings know them."""
        return Rows(self.survey)

    def as_dict(self) -> dict[str, object]:
        """The check in JSON's types."""
        return {
            "data": self.source,
            "images": self.images,
            "classes": self.counts,
            "splits": self.splits,
            "findings": [finding.as_dict() for finding in self.findings],
            "harmful": self.harmful,
        }


def check(source: str, *, workers: int = 0, progress: Progress | None = None) -> Checked:
    """Reads all that `source` holds, which is what `--data` takes, and returns what was found.

    Raises:
        DataError: nothing is there, or it is not an image set at all.
        NetworkError: it must be downloaded and cannot be.
    """
    return examined(source, survey(source), workers=workers, progress=progress)


def examined(
    source: str, found: Survey, *, read: bool = True, workers: int = 0, progress: Progress | None = None
) -> Checked:
    """Returns what is to be said of what a survey of `source` found. Unless it is to `read` them, no picture is opened:
    nothing is known then of single pictures and of copies."""
    rows = Rows(found)
    findings = [*_of_structure(found), *_of_labels(rows), *_left_out(found)]
    if read:
        seen = inspect(list(found.parts.values()), workers=workers, progress=progress)
        findings += [*_of_pictures(rows, seen), *_of_copies(rows, seen.features)]
    return Checked(source, found, _counts(found), ()).with_findings(findings)


def _counts(found: Survey) -> dict[str, dict[str, int]]:
    """Returns class -> part -> number of pictures."""
    tallies = {part: _tally(found, part) for part in found.parts}
    return {name: {part: int(tallies[part][k]) for part in found.parts} for k, name in enumerate(found.classes)}


def _tally(found: Survey, part: str) -> NDArray[np.int64]:
    """Returns the number of pictures of each class in a part: int64 [K]."""
    images = next((images for name, images in found.parts.items() if name == part), None)
    return counts(np.empty(0, np.int64) if images is None else images.labels, len(found.classes))


def _of_structure(found: Survey) -> Iterator[Finding]:
    """Yields what is wrong with classes and parts."""
    total = sum(len(images) for images in found.parts.values())
    if total == 0:
        yield from of_files("no-pictures", [displayed(str(found.root or found.kind))])
    elif not len(found.parts.get("train", ())):
        yield from of_files("no-training-part", list(found.parts))
    several = any(are_several(images.labels) for images in found.parts.values())
    yield from of_files("one-class", list(found.classes) if len(found.classes) == 1 and not several else [])
    yield from _of_classes(found)
    if total:
        yield from _of_balance(found)


def _of_classes(found: Survey) -> Iterator[Finding]:
    """Yields classes that are empty or not everywhere."""
    train = _tally(found, "train")
    total = sum((_tally(found, part) for part in found.parts), np.zeros(len(found.classes), np.int64))
    differing: dict[str, str] = {}
    empty: list[str] = []
    unscored: dict[str, str] = {}
    held_out = [part for part in found.parts if part != "train" and len(found.parts[part])]
    for k, name in enumerate(found.classes):
        lacking = [part for part in found.parts if name not in found.known[part]]
        if lacking:
            having = [part for part in found.parts if part not in lacking]
            differing[name] = f"in {' and '.join(having)}, not in {' and '.join(lacking)}"
        if train[k] == 0 and name in found.known.get("train", ()):
            if found.root is None and total[k]:  # a table lists what is there: no folder is empty
                differing[name] = "not in train"
            else:
                empty.append(name)
        if train[k] and (without := [part for part in held_out if _tally(found, part)[k] == 0]):
            unscored[name] = f"none in {' and '.join(without)}"
    yield from of_files("classes-differ", list(differing), remarks=differing)
    yield from of_files("empty-classes", empty)
    yield from of_files("unscored-classes", [name for name in unscored if name not in differing], remarks=unscored)


def _of_balance(found: Survey) -> Iterator[Finding]:
    """Yields classes with few training pictures."""
    train = _tally(found, "train")
    said = {name: f"{count:,}" for name, count in zip(found.classes, train.tolist(), strict=True)}
    few = [found.classes[k] for k in np.flatnonzero((train > 0) & (train < FEW_PICTURES))]
    rare = [found.classes[k] for k in np.flatnonzero((train > 0) & (train * IMBALANCE < train.max()))]
    yield from of_files("few-pictures", few, remarks={name: said[name] for name in few})
    largest = found.classes[int(train.argmax())]
    more = f", {largest}, which has {said[largest]}"
    yield from of_files("imbalance", rare, remarks={name: said[name] for name in rare}, more=more)


def _of_pictures(rows: Rows, seen: Inspection) -> Iterator[Finding]:
    """Yields what is odd about single pictures."""
    for kind in _OF_PICTURES:
        said = seen.remarks.get(kind, {})
        names = {row: rows.name(row) for row in sorted(said)}
        remarks = {name: said[row] for row, name in names.items() if said[row]}
        yield from of_files(kind, list(names.values()), remarks=remarks, rows=list(names))
    shorter = seen.features.size.min(axis=1)
    usable = seen.features.usable
    if usable.any() and np.median(shorter[usable]) >= SMALL_PX:
        small = np.flatnonzero(usable & (shorter < SMALL_PX)).tolist()
        names = {row: rows.name(row) for row in small}
        sizes = seen.features.size
        remarks = {name: f"{sizes[row, 0]} x {sizes[row, 1]} pixels" for row, name in names.items()}
        yield from of_files("small", list(names.values()), remarks=remarks, rows=small)


def _of_labels(rows: Rows) -> Iterator[Finding]:
    """Yields that pictures may have several classes, and those that have none."""
    several = [images.labels for _, images in rows.parts if are_several(images.labels)]
    if not several:
        return
    had = np.concatenate([labels.sum(axis=1) for labels in several])
    yield from of_files("several-labels", list(rows.survey.classes), more=f": {had.mean():.2g} on average")
    none = np.flatnonzero(had == 0).tolist()
    yield from of_files("no-class", [rows.name(row) for row in none], rows=none)


def _of_copies(rows: Rows, features: Features) -> Iterator[Finding]:
    """Yields pictures that are the same, by whether they lie in several parts, in several classes, or in neither."""
    part, label = rows.part_numbers(), rows.labels()
    for near, groups in (("", similarity.exact_groups(features)), ("near-", similarity.near_groups(features))):
        kinds: dict[str, list[NDArray[np.int64]]] = {
            f"{near}duplicates-across-splits": [group for group in groups if np.ptp(part[group])],
            f"conflicting-{near}duplicates": [group for group in groups if np.ptp(label[group])],
            f"{near}duplicates": [group for group in groups if not np.ptp(part[group]) and not np.ptp(label[group])],
        }
        for kind, chosen in kinds.items():
            numbers = [group.tolist() for group in chosen]
            names = [[rows.name(row) for row in group] for group in numbers]
            yield from of_groups(kind, names, numbers, _homes(rows, numbers))


def _homes(rows: Rows, groups: Sequence[Sequence[int]]) -> dict[str, str]:
    return {rows.name(row): rows.home(row) for group in groups for row in group}


def _left_out(found: Survey) -> Iterator[Finding]:
    """Yields what is there and not used."""
    counts = ", ".join(f"{len(paths):,} {extension or 'without one'}" for extension, paths in found.ignored.items())
    ignored = [path for paths in found.ignored.values() for path in paths]
    yield from of_files("ignored-extensions", ignored, more=f" ({counts})")
    yield from of_files("stray-pictures", found.stray)
    yield from of_files("graphics", found.graphics)
    yield from of_files("hidden-folders", found.hidden_folders)
    yield from of_files("hidden-files", found.hidden_files)
    yield from of_files("unused-folders", found.unused_folders)
    yield from of_files("unlabelled", found.warnings)
