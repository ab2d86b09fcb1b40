"""A folder with one folder for each class, or with such a folder for each part: train/ and val|valid|validation|test/.

Everything below a class's folder belongs to the class. Hidden folders and files are left out, and so are files whose
extension is not a picture's; both are counted, so that nothing disappears without a word. Links to folders are
followed once.

A few GIFs among pictures of other formats are graphics, such as 'image not found', and not photos: where they are
fewer than 5 % of the pictures, they are left out too, with a word about it. Prediction opens any GIF.
"""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from residuum.data.parts import ORDER, PART_NAMES, Found, PartName
from residuum.data.paths import PathsBuilder, displayed, natural_key
from residuum.data.sets import FileSet, ImageSet, subset
from residuum.errors import DataError
from residuum.imaging import EXTENSIONS

GIF_FRACTION = 0.05
"""Below this share of a set's pictures, GIFs are taken for graphics."""

NOT_CLASSES = frozenset(
    {"__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information", "__pycache__"}
)
"""Folders that systems leave behind without hiding them, in lower case."""

_EXAMPLES = 5
"""So many of the files that were left out are named in the record."""

_NO_PICTURE = "not a picture by its extension"
_STRAY = "a picture that lies outside the class folders"
_GRAPHIC = f"a GIF, taken for a graphic and not a photo: fewer than {GIF_FRACTION:.0%} of the pictures are GIFs"


@dataclass
class LeftOut:
    """What was not taken: files by extension, and hidden files and folders. Paths are relative to the set's root."""

    count: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    hidden: list[str] = field(default_factory=list)
    hidden_count: int = 0

    def file(self, extension: str, path: str) -> None:
        """Notes a file that is no picture by its extension."""
        self.count[extension] += 1
        if len(examples := self.examples.setdefault(extension, [])) < _EXAMPLES:
            examples.append(displayed(path))

    def hide(self, path: str) -> None:
        """Notes something hidden."""
        self.hidden_count += 1
        if len(self.hidden) < _EXAMPLES:
            self.hidden.append(displayed(path))

    def notes(self) -> dict[str, object]:
        """What goes into the record."""
        ignored = {
            extension or "(none)": {
                "count": count,
                "reason": _reason(extension),
                "examples": self.examples[extension],
            }
            for extension, count in sorted(self.count.items())
        }
        return {"ignored": ignored, "hidden": {"count": self.hidden_count, "examples": self.hidden}}


@dataclass
class Collected:
    """One part as it was collected: its set, which of its pictures are GIFs, and the classes without a picture."""

    images: FileSet
    gifs: list[int]

    @property
    def empty(self) -> list[str]:
        """The classes whose folders hold no picture."""
        counts = np.bincount(self.images.labels, minlength=len(self.images.classes))
        return [self.images.classes[k] for k in np.flatnonzero(counts == 0)]


def find(root: Path) -> Found:
    """Returns the parts that the folder `root` holds.

    Raises:
        DataError: the folder has no class folders or cannot be read, or its parts differ in their classes.
    """
    left_out = LeftOut()
    layout = folders_of_parts(root, left_out)
    parts: dict[PartName, Collected] = {}
    for part, folder in layout.items():
        prefix = str(folder.relative_to(root)) if folder != root else ""
        classes = class_folders(folder, root, left_out)
        if not classes:
            raise DataError(
                f"{displayed(str(folder))} has no class folders in it.",
                expected="Expected one folder for each class, with its pictures in it.",
                hint="Sort the pictures into such folders, or list them in a CSV file of path,label.",
            )
        walked = ((label, walk(root, _below(prefix, name), left_out)) for label, name in enumerate(classes))
        parts[part] = collect(str(root), classes, walked, left_out)
    _refuse_differing(parts, root)
    divided = list(layout) != ["train"] or layout["train"] != root
    warnings = _ignored(left_out) + (_beside(root, layout) if divided else [])
    warnings += drop_graphics(parts, left_out)
    sets: dict[PartName, ImageSet] = {part: collected.images for part, collected in parts.items()}
    return Found(
        "folder",
        sets,
        divided=divided,
        notes=left_out.notes(),
        warnings=warnings,
    )


def _reason(extension: str) -> str:
    if extension == ".gif":
        return _GRAPHIC
    return _STRAY if extension in EXTENSIONS else _NO_PICTURE


def _ignored(left_out: LeftOut) -> list[str]:
    """Returns a sentence on the files that are no pictures, and one on pictures that belong to no class."""
    stray = sum(count for extension, count in left_out.count.items() if extension in EXTENSIONS)
    others = {extension: count for extension, count in left_out.count.items() if extension not in EXTENSIONS}
    warnings = []
    if others:
        listed = ", ".join(f"{count} {extension or 'without extension'}" for extension, count in others.items())
        warnings.append(f"Files that are no pictures by their extension were ignored: {listed}.")
    if stray:
        warnings.append(f"Pictures that lie outside the class folders were ignored: {stray}.")
    return warnings


def _beside(root: Path, layout: dict[PartName, Path]) -> list[str]:
    """Returns a sentence on the folders beside those of the parts."""
    names = [entry.name for entry in _entries(root) if entry.is_dir() and not is_hidden(entry.name)]
    beside = [displayed(name) for name in names if root / name not in layout.values()]
    return [f"Folders beside {', '.join(layout)} were ignored: {', '.join(beside)}."] if beside else []


def class_folders(folder: Path, root: Path, left_out: LeftOut) -> tuple[str, ...]:
    """Returns the names of the class folders in `folder`, in natural order; notes what is hidden and what is a file."""
    names = []
    for entry in _entries(folder):
        path = os.path.relpath(entry.path, root)
        if is_hidden(entry.name):
            left_out.hide(path)
        elif entry.is_dir():
            names.append(entry.name)
        else:
            left_out.file(_extension(entry.name), path)
    return tuple(sorted(names, key=natural_key))


def walk(root: Path, folder: str, left_out: LeftOut) -> Iterator[tuple[str, list[str]]]:
    """Yields each folder at and below `folder`, relative to `root`, with the names of its files, both sorted.

    Raises:
        DataError: a folder cannot be read.
    """
    waiting = [folder]
    seen: set[tuple[int, int]] = set()  # links may lead round in circles
    while waiting:
        folder = waiting.pop()
        status = (root / folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        names, below = [], []
        for entry in _entries(root / folder):
            if is_hidden(entry.name):
                left_out.hide(_below(folder, entry.name))
            elif entry.is_dir():
                below.append(_below(folder, entry.name))
            else:
                names.append(entry.name)
        waiting += sorted(below, reverse=True)
        yield folder, sorted(names)


def collect(
    root: str,
    classes: tuple[str, ...],
    walked: Iterable[tuple[int, Iterable[tuple[str, list[str]]]]],
    left_out: LeftOut,
) -> Collected:
    """Returns the set of all pictures in `walked`, which gives for each label the folders and their files' names.

    This is where a million files must stay small; `walked` is consumed folder by folder.
    """
    builder = PathsBuilder(root)
    labels = array("q")
    gifs: list[int] = []
    for label, visited in walked:
        for folder, names in visited:
            kept = []
            for name in names:
                extension = _extension(name)
                if extension not in EXTENSIONS:
                    left_out.file(extension, _below(folder, name))
                    continue
                if extension == ".gif":
                    gifs.append(len(labels))
                kept.append(name)
                labels.append(label)
            builder.add(folder, kept)
    numbers = np.frombuffer(labels, dtype=np.int64) if labels else np.empty(0, np.int64)
    return Collected(FileSet(builder.build(), numbers, classes), gifs)


def synthetic(count: int, classes: int = 1000) -> FileSet:
    """Returns a set of `count` files that do not exist, collected as `find` collects a folder; for measuring memory."""
    names = tuple(f"n{number:08d}" for number in range(classes))
    each = -(-count // classes)

    def visited(label: int) -> Iterator[tuple[str, list[str]]]:
        size = min(each, count - each * label)
        yield f"train/{names[label]}", [f"{names[label]}_{number:08d}.JPEG" for number in range(size)]

    return collect("/synthetic", names, ((label, visited(label)) for label in range(classes)), LeftOut()).images


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is never part of an image set."""
    return name.startswith(".") or name.lower() in NOT_CLASSES


def folders_of_parts(root: Path, left_out: LeftOut) -> dict[PartName, Path]:
    """Returns the folder of each part; `root` itself is `train` where its folders are classes."""
    names = [entry.name for entry in _entries(root) if entry.is_dir() and not is_hidden(entry.name)]
    known = {name: PART_NAMES[name.lower()] for name in names if name.lower() in PART_NAMES}
    # A class may be called 'train'. It is a part if all folders are parts, or if it has a companion.
    is_divided = len(known) == len(names) or ("train" in known.values() and len(set(known.values())) > 1)
    if not known or not is_divided:
        return {"train": root}
    layout: dict[PartName, Path] = {}
    for name in sorted(known):
        if known[name] in layout:
            raise DataError(
                f"{displayed(str(root))} has both {layout[known[name]].name}/ and {name}/.",
                expected=f"Expected one folder for the part '{known[name]}'.",
                hint="Join or rename them.",
            )
        layout[known[name]] = root / name
    for entry in _entries(root):
        if entry.name not in known and is_hidden(entry.name):
            left_out.hide(entry.name)
        elif entry.name not in known and not entry.is_dir():
            left_out.file(_extension(entry.name), entry.name)
    return {part: layout[part] for part in ORDER if part in layout}


def _refuse_differing(parts: dict[PartName, Collected], root: Path) -> None:
    """Refuses parts with different class folders, and classes without a training picture where others have some."""
    (first, reference), *others = parts.items()
    for part, collected in others:
        wanted, present = set(reference.images.classes), set(collected.images.classes)
        if wanted != present:
            lacking = [f"{part}/ lacks {name}" for name in sorted(wanted - present, key=natural_key)]
            lacking += [f"{first}/ lacks {name}" for name in sorted(present - wanted, key=natural_key)]
            raise DataError(
                f"The parts of {displayed(str(root))} have different classes: {displayed(', '.join(lacking[:10]))}"
                + (f" and {len(lacking) - 10} more." if len(lacking) > 10 else "."),
                expected="Expected the same class folders in every part.",
                hint="Rename or add the folders; an empty one is enough in val/ and test/.",
            )


def drop_graphics(parts: dict[PartName, Collected], left_out: LeftOut) -> list[str]:
    """Takes GIFs out where they are few; returns the warnings."""
    total = sum(len(collected.images) for collected in parts.values())
    gifs = sum(len(collected.gifs) for collected in parts.values())
    if gifs == 0 or gifs >= GIF_FRACTION * total:
        return []
    named = ""
    for collected in parts.values():
        images = collected.images
        for index in collected.gifs:
            relative = os.path.relpath(images.paths[index], images.paths.root)
            left_out.file(".gif", relative)
            named = named or displayed(relative)
        kept = subset(images, np.setdiff1d(np.arange(len(images)), collected.gifs))
        assert isinstance(kept, FileSet)
        collected.images = kept
    return [
        f"{gifs} of {total:,} pictures {'is a GIF' if gifs == 1 else 'are GIFs'} among photos and "
        f"{'was' if gifs == 1 else 'were'} left out as no photo: {named}{' and others' if gifs > 1 else ''}."
    ]


def _below(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 (a million times)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            f"The folder {displayed(str(folder))} cannot be read: {error.strerror}.",
            expected="Expected a folder that may be listed.",
            hint="Check its permissions.",
        ) from error
