"""The parts of an image set: as a source holds them, and how one part is split into two."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from residuum.data.labels import Labels, are_several
from residuum.data.paths import displayed
from residuum.data.sets import ImageSet
from residuum.data.stratify import dealt
from residuum.errors import DataError

PartName = Literal["train", "val", "test"]

ORDER: tuple[PartName, ...] = ("train", "val", "test")

PART_NAMES: Mapping[str, PartName] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""What parts are called in folders, tables and files, in lower case -> our word."""


@dataclass(frozen=True)
class Parts:
    """An image set as training sees it. `record` is JSON: where it came from, how it was split, and what was left
    out."""

    train: ImageSet
    val: ImageSet | None
    test: ImageSet | None
    record: dict[str, object]

    @property
    def by_name(self) -> dict[PartName, ImageSet]:
        """The parts that there are, the training pictures first."""
        parts: dict[PartName, ImageSet | None] = {"train": self.train, "val": self.val, "test": self.test}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def deciding(self) -> PartName:
        """The part that decides how good a network is: test, else val, else train."""
        return next(name for name in reversed(ORDER) if name in self.by_name)

    @property
    def total(self) -> int:
        """The pictures of all parts, and those that were left out when a small set was read."""
        return len(self.skipped) + sum(map(len, self.by_name.values()))

    @property
    def skipped(self) -> dict[str, str]:
        """Why each picture was left out when a small set was read, by name."""
        return _mapping(self.record.get("skipped"))

    @property
    def warnings(self) -> list[str]:
        """Sentences about the set for people."""
        said = self.record.get("warnings")
        return [str(each) for each in said] if isinstance(said, list) else []

    @property
    def ignored(self) -> dict[str, str]:
        """Files that are no pictures of the set, kind by kind -> why."""
        left_out = {}
        for extension, found in self._kinds_ignored.items():
            examples = ", ".join(found["examples"][:3])
            left_out[f"{found['count']} {extension or 'nameless'} ({examples})"] = str(found["reason"])
        return left_out

    def ignored_in_words(self) -> list[str]:
        """Returns a sentence for each kind of file that is no picture of the set, and that no warning names already."""
        told = [
            any(found["examples"][0] in warning for warning in self.warnings) for found in self._kinds_ignored.values()
        ]
        return [
            f"Ignored {name}: {reason}."
            for (name, reason), known in zip(self.ignored.items(), told, strict=True)
            if not known
        ]

    @property
    def _kinds_ignored(self) -> dict[str, Any]:
        return _mapping(self.record.get("ignored"))


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def same_pictures(record: Mapping[str, Any], other: Mapping[str, Any], names: Iterable[str]) -> bool:
    """Whether two records of a set are of the same pictures in each of the parts `names`, as far as they say."""
    ours, theirs = record.get("names", {}), other.get("names", {})
    return not theirs or all(ours.get(name) == theirs.get(name) for name in names)


@dataclass(frozen=True)
class Found:
    """What a source holds, before anything is split. A source without parts is all `train`, and `divided` is False.

    `notes` go into the record (`ignored`, `hidden`, ...), `warnings` are sentences for people.
    """

    kind: str
    parts: dict[PartName, ImageSet]
    divided: bool
    notes: dict[str, object] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def refuse_one_class_each(found: Found, source: str) -> None:
    """Raises DataError where the pictures of `source` have one class each, and are to have any number."""
    if not all(are_several(part.labels) for part in found.parts.values()):
        raise DataError(
            f"{displayed(source)} gives each picture one class, where it is to have any number of them.",
            expected="Expected a table of path,label, with | between the classes of a picture.",
            hint="Write one, for example photos.csv with lines such as: a.jpg,beach|sunset",
        )


def refuse_several(found: Found, source: str) -> None:
    """Raises DataError where a picture of `source` may have several classes, and is to have one."""
    if any(are_several(part.labels) for part in found.parts.values()):
        raise DataError(
            f"{displayed(source)} gives a picture any number of classes, with | between, and the network gives it one.",
            expected="Expected one class for each picture.",
            hint="Evaluate a network that was trained on such labels: residuum train --data TABLE.csv",
        )


def stratified_split(
    labels: Labels, fraction: float, seed: int, stream: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the indices that are kept and those that are held out, both rising.

    round(N * fraction) are held out, from each class its share to within one picture, but never a class's last
    picture. A pure function of its arguments, the same on every machine and with every version of NumPy: only the raw
    output of the counter-based generator Philox is used, which NumPy keeps stable. `stream` tells splits with the
    same seed apart.

    Pictures that may have several classes are split by `stratify.dealt`, with the same promises as far as can be.
    """
    if are_several(labels):
        held_out = int(np.floor(len(labels) * fraction + 0.5))
        place = dealt(labels, (len(labels) - held_out, held_out), seed, stream, learnt=0)
        return np.flatnonzero(place == 0), np.flatnonzero(place == 1)
    drawn = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64)).random_raw(len(labels))
    classes, counts = np.unique(labels, return_counts=True)
    quota = counts * fraction
    take = np.minimum(np.floor(quota).astype(np.int64), counts - 1)
    missing = int(np.floor(len(labels) * fraction + 0.5)) - int(take.sum())
    # What rounding down left over goes to the classes with the largest remainders.
    for at in np.argsort(take - quota, kind="stable")[: max(missing, 0)]:
        take[at] = min(take[at] + 1, counts[at] - 1)
    held = np.zeros(len(labels), dtype=bool)
    for label, count in zip(classes.tolist(), take.tolist(), strict=True):
        members = np.flatnonzero(labels == label)
        held[members[np.argsort(drawn[members], kind="stable")[:count]]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def folds_of(labels: Labels, folds: int, seed: int) -> NDArray[np.int64]:
    """Returns for each picture the fold that it belongs to, int64 [N], from 0 on.

    Each class is dealt out in a random order, and the next goes on with the fold where it ended: so the folds differ by
    one picture at most, and in those of any class by one at most. A pure function, as `stratified_split` is.
    Pictures that may have several classes are dealt out by `stratify.dealt`, as evenly as can be.
    """
    if are_several(labels):
        sizes = [len(labels) // folds + (fold < len(labels) % folds) for fold in range(folds)]
        return dealt(labels, sizes, seed, 2)
    drawn = np.random.Philox(key=np.array([seed, 2], dtype=np.uint64)).random_raw(len(labels))
    order = np.lexsort((drawn, labels))
    place = np.empty(len(labels), dtype=np.int64)
    place[order] = np.arange(len(labels)) % folds
    return place
