"""A CSV or TSV file of path,label and, optionally, split; paths are relative to the file's folder.

The first line names the columns. A file of two columns (path, label) or three (path, label, split) without such a
line is recognised by its first path being a file.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from residuum.data.parts import PART_NAMES, Found, PartName
from residuum.data.paths import PathsBuilder, displayed, natural_key
from residuum.data.sets import FileSet, ImageSet
from residuum.errors import DataError

SUFFIXES = frozenset({".csv", ".tsv"})

_PATH = frozenset({"path", "file", "filename", "filepath", "file_name", "image", "image_path", "img"})
_LABEL = frozenset({"label", "class", "target", "category", "class_name"})
_SPLIT = frozenset({"split", "part", "subset", "set"})
_SHOWN = 5


@dataclass(frozen=True)
class _Columns:
    """Where a line has what; `header` is whether the first line only says so."""

    path: int
    label: int
    split: int | None
    header: bool


def find(table: Path) -> Found:
    """Returns the parts that the file lists.

    Raises:
        DataError: it cannot be read, its columns are not known, or a file that it lists is missing.
    """
    builder = PathsBuilder(str(table.parent))
    numbers: dict[str, int] = {}
    labels: list[int] = []
    parts: list[PartName] = []
    missing: list[str] = []
    missing_count = 0
    columns: _Columns | None = None
    for line, cells in rows_of(table):
        if columns is None:
            columns = columns_of(table, cells)
            if columns.header:
                continue
        path, label, part = cells_of(table, line, cells, columns)
        if not (table.parent / path).is_file():
            missing_count += 1
            if len(missing) < _SHOWN:
                missing.append(f"{displayed(path)} (line {line})")
        folder, name = os.path.split(path)
        builder.add(folder, [name])
        labels.append(numbers.setdefault(label, len(numbers)))
        parts.append(part)
    if missing:
        raise DataError(
            f"{missing_count:,} of {len(labels):,} files listed in {displayed(str(table))} do not exist: "
            f"{', '.join(missing)}{' and others' if missing_count > len(missing) else ''}.",
            expected=f"Expected paths relative to {displayed(str(table.parent))}.",
            hint="Correct the paths, or remove those lines.",
        )
    if not labels:
        _refuse(table, "lists no pictures", "Expected lines of path,label.")
    return found_of(builder, labels, numbers, parts)


def found_of(builder: PathsBuilder, labels: list[int], numbers: dict[str, int], parts: list[PartName]) -> Found:
    classes = tuple(sorted(numbers, key=natural_key))
    place = np.empty(len(classes), dtype=np.int64)
    for number, name in enumerate(classes):
        place[numbers[name]] = number
    ordered: NDArray[np.int64] = place[np.array(labels, dtype=np.int64)]
    paths = builder.build()
    sets: dict[PartName, ImageSet] = {}
    for part in sorted(set(parts)):
        rows = np.flatnonzero(np.array([other == part for other in parts]))
        sets[part] = FileSet(paths, ordered[rows], classes, rows=rows)
    return Found("csv", sets, divided=set(parts) != {"train"})


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
    label = next((place for place, name in enumerate(names) if name in _LABEL), None)
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
    if not path or not label:
        _refuse(table, f"has no {'label' if path else 'path'} in line {line}", "Expected both in every line.")
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
