"""A CSV or TSV file of path,label and, optionally, split; paths are relative to the file's folder.

The first line names the columns. A file of two columns (path, label) or three (path, label, split) without such a
line is recognised by its first path being a file.

Where any label holds `|`, pictures may have several classes: `beach|sunset`, or an empty label for none of them. The
recipe key `data.labels` decides otherwise: with "one", `|` is a letter of a name; "several" needs no `|` to be there.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from residuum.data.labels import SEPARATOR, Labels, Reading, named
from residuum.data.parts import PART_NAMES, Found, PartName
from residuum.data.paths import PathsBuilder, displayed, natural_key
from residuum.data.sets import FileSet, ImageSet
from residuum.errors import DataError

SUFFIXES = frozenset({".csv", ".tsv"})

_PATH = frozenset({"path", "file", "filename", "filepath", "file_name", "image", "image_path", "img"})
_LABEL = frozenset({"label", "class", "target", "category", "class_name"})
_LABELS = frozenset({"labels", "tags"})
_SPLIT = frozenset({"split", "part", "subset", "set"})
_SHOWN = 5


@dataclass(frozen=True)
class _Columns:
    """Where a line has what; `header` is whether the first line only says so."""

    path: int
    label: int
    split: int | None
    header: bool


class Listing:
    """The lines of the file `table` as they come: pictures, labels and parts."""

    def __init__(self, table: Path) -> None:
        self._table = table
        self._paths = PathsBuilder(str(table.parent))
        self._texts: dict[str, int] = {}
        self._labels: list[int] = []
        self._parts: list[PartName] = []
        self._without_label: int | None = None

    def __len__(self) -> int:
        return len(self._labels)

    def add(self, line: int, path: str, label: str, part: PartName) -> None:
        """Takes in one line."""
        folder, name = os.path.split(path)
        self._paths.add(folder, [name])
        self._labels.append(self._texts.setdefault(label, len(self._texts)))
        self._parts.append(part)
        if not label and self._without_label is None:
            self._without_label = line

    def found(self, reading: Reading) -> Found:
        """Returns the parts, with labels read as `reading` says.

        Raises:
            DataError: a picture has no label, and is to have one class.
        """
        if not self._labels:
            _refuse(self._table, "lists no pictures", "Expected lines of path,label.")
        several = reading == "several" or (reading == "auto" and any(SEPARATOR in text for text in self._texts))
        if self._without_label is not None and not several:
            unless = "unless pictures may have several classes, or none: --set data.labels=several"
            _refuse(self._table, f"has no label in line {self._without_label}", f"Expected one in every line, {unless}")
        classes, labels = self._several() if several else self._one()
        paths = self._paths.build()
        sets: dict[PartName, ImageSet] = {}
        for part in sorted(set(self._parts)):
            rows = np.flatnonzero(np.array([other == part for other in self._parts]))
            sets[part] = FileSet(paths, labels[rows], classes, rows=rows)
        return Found("csv", sets, set(self._parts) != {"train"}, {"labels": "several"} if several else {})

    def _one(self) -> tuple[tuple[str, ...], Labels]:
        classes = tuple(sorted(self._texts, key=natural_key))
        place = np.empty(len(classes), dtype=np.int64)
        for number, name in enumerate(classes):
            place[self._texts[name]] = number
        return classes, place[np.array(self._labels, dtype=np.int64)]

    def _several(self) -> tuple[tuple[str, ...], Labels]:
        classes, which = named(list(self._texts))
        return classes, which[np.array(self._labels, dtype=np.int64)]


def find(table: Path, reading: Reading = "auto") -> Found:
    """Returns the parts that the file lists.

    Raises:
        DataError: it cannot be read, its columns are not known, or a file that it lists is missing.
    """
    listing = Listing(table)
    missing: list[str] = []
    missing_count = 0
    for line, path, label, part in lines_of(table):
        if not (table.parent / path).is_file():
            missing_count += 1
            if len(missing) < _SHOWN:
                missing.append(f"{displayed(path)} (line {line})")
        listing.add(line, path, label, part)
    if missing:
        raise DataError(
            f"{missing_count:,} of {len(listing):,} files listed in {displayed(str(table))} do not exist: "
            f"{', '.join(missing)}{' and others' if missing_count > len(missing) else ''}.",
            expected=f"Expected paths relative to {displayed(str(table.parent))}.",
            hint="Correct the paths, or remove those lines.",
        )
    return listing.found(reading)


def lines_of(table: Path) -> Iterator[tuple[int, str, str, PartName]]:
    """Yields the number, the path, the label and the part of each line that lists a picture.

    Raises:
        DataError: the file cannot be read, or its columns are not known.
    """
    columns: _Columns | None = None
    for line, cells in rows_of(table):
        if columns is None:
            columns = columns_of(table, cells)
            if columns.header:
                continue
        yield (line, *cells_of(table, line, cells, columns))


def rows_of(table: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields the number and the cells of each line that is not empty."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=first.count)
            reader = csv.reader(file, delimiter=delimiter)
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, [cell.strip() for cell in cells]
    except UnicodeDecodeError:
        _refuse(table, "is not a text in UTF-8", "Expected a CSV file in UTF-8.")
    except csv.Error as error:
        _refuse(table, f"is not CSV ({error})", "Expected lines of path,label.")
    except OSError as error:
        _refuse(table, f"cannot be read ({error.strerror})", "Expected a file that may be read.")


def columns_of(table: Path, cells: list[str]) -> _Columns:
    """Tells from the first line what the columns are."""
    names = [cell.lower() for cell in cells]
    path = next((place for place, name in enumerate(names) if name in _PATH), None)
    of_label = (place for known in (_LABEL, _LABELS) for place, name in enumerate(names) if name in known)
    label = next(of_label, None)
    if path is not None and label is not None:
        return _Columns(path, label, next((place for place, name in enumerate(names) if name in _SPLIT), None), True)
    if len(cells) in (2, 3) and (table.parent / cells[0]).is_file():
        return _Columns(0, 1, 2 if len(cells) == 3 else None, False)
    return _refuse(
        table, f"has the columns {', '.join(cells[:8])}", "Expected a first line of path,label or path,label,split."
    )


def cells_of(table: Path, line: int, cells: list[str], columns: _Columns) -> tuple[str, str, PartName]:
    """Returns the path, the label and the part of one line."""
    wanted = max(columns.path, columns.label, columns.split or 0) + 1
    if len(cells) < wanted:
        _refuse(table, f"has {len(cells)} cells in line {line}", f"Expected {wanted}.")
    path, label = cells[columns.path], cells[columns.label]
    if not path:
        _refuse(table, f"has no path in line {line}", "Expected one in every line.")
    if columns.split is None:
        return path, label, "train"
    word = cells[columns.split]
    if word.lower() not in PART_NAMES:
        _refuse(table, f"has the split {word!r} in line {line}", "Expected train, val or test.")
    return path, label, PART_NAMES[word.lower()]


def _refuse(table: Path, what: str, expected: str) -> NoReturn:
    raise DataError(
        f"The table {displayed(str(table))} {what}.",
        expected=expected,
        hint="For example, below a line 'path,label': cats/1.jpg,cat",
    )
